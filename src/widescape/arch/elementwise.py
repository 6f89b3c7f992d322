"""What every nonlinearity shares: how its Gaussian integral moves the state of the limit."""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.fused_program import Apply, Step
from widescape.arch.spec import Signal
from widescape.core.errors import NonGaussianInputError
from widescape.duals import Dual, Pair
from widescape.duals.angle import safe_sqrt
from widescape.duals.pair import clamp

_SMOOTH_NEAR, _KINKED_NEAR = 1e-8, 1e-11  # relative gaps below which first order beats a subtraction


class Elementwise(Layer):
    """Base of the nonlinearities. A subclass gives the function `phi` and its dual."""

    ends_stage = True
    pair_flops = 60
    kinked: bool = False
    """Whether `phi` has points without a derivative."""
    positive: bool = False
    """Whether E[phi(u) phi(v)] is never negative."""
    odd: bool | None = False
    """Whether phi(-x) = -phi(x); None where a traced scale decides it."""

    @abstractmethod
    def phi(self, x: jax.Array) -> jax.Array:
        """The function, entry by entry."""

    @abstractmethod
    def dual_of(self, pair: Pair) -> Dual:
        """E[phi(u) phi(v)] and its slope."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return self.phi(h)

    def fused(self) -> Apply | None:
        """The function for the fused path over positions; None if that path does not know it."""
        return None

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        step = self.fused()
        return None if step is None else (step,)

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return ("any",) * (len(signal.shape) - 1)

    def limit(self, cov: Covariance) -> Covariance:
        if not cov.gaussian:
            raise NonGaussianInputError(
                "a nonlinearity needs Gaussian input, but raw inputs, the output of another nonlinearity, or features "
                "of several positions or branches reach it. Put a Dense or Conv layer before it, compose two functions "
                "into one Activation, or apply it before Flatten() or Concat()."
            )
        dual = self.dual_of(cov.pair)
        var1, var2 = self.dual_of(Pair.equal(cov.var1)).t, self.dual_of(Pair.equal(cov.var2)).t
        after = cov.replace(
            nngp=dual.t,
            complement=self._complement(cov, dual, var1, var2) if dual.complement is None else dual.complement,
            var1=var1,
            var2=var2,
            ntk=None if cov.ntk is None else cov.ntk * dual.tdot,
            errors=cov.errors if dual.error is None else (*cov.errors, dual.error),
            sources=cov.sources if dual.error is None else (*cov.sources, self.label),
            gaussian=False,
            mean_zero=cov.mean_zero if self.odd else self.odd,
            positive=self.positive,
        )
        return after if cov.layout.kind == "flat" else jax.lax.optimization_barrier(after)

    def _complement(self, cov: Covariance, dual: Dual, var1: jax.Array, var2: jax.Array) -> jax.Array:
        """sqrt(var1 var2) - |T| without a formula of its own: by subtraction, and to first order where that rounds.

        The first-order form is half of E[(phi(u) - phi(v))^2] = E[phi'^2] (angular part of the gap) +
        E[Z^2 phi'(sqrt(q) Z)^2] (radial part of the gap), less the radial part that comes out. Its relative error
        is of the order of the gap for a smooth phi.
        """
        pair = cov.pair
        root1, root2 = cov.first(safe_sqrt(var1)), cov.second(safe_sqrt(var2))
        subtracted = clamp(root1 * root2 - jnp.abs(dual.t))
        radial_slope = (cov.first(self._radial_slope(cov.var1)) + cov.second(self._radial_slope(cov.var2))) / 2
        radial = pair.radial_gap
        first_order = clamp(dual.tdot * pair.minus + (radial_slope * radial - (root1 - root2) ** 2) / 2)
        near = pair.gap < (_KINKED_NEAR if self.kinked else _SMOOTH_NEAR) * (pair.q11 + pair.q22)
        return jnp.where(near, first_order, subtracted)

    def _radial_slope(self, q: jax.Array) -> jax.Array:
        """E[Z^2 phi'(sqrt(q) Z)^2], by Gauss-Hermite quadrature: it only weighs gaps near rounding."""
        nodes, weights = special.roots_hermitenorm(48)
        z = jnp.asarray(nodes, q.dtype).reshape((1,) * q.ndim + (-1,))
        x = safe_sqrt(q)[..., None] * z
        slope = jax.jvp(self.phi, (x,), (jnp.ones_like(x),))[1]
        return (z * slope) ** 2 @ jnp.asarray(weights / np.sqrt(2 * np.pi), q.dtype)
