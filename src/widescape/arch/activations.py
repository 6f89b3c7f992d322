"""Elementwise nonlinearities: the finite function and its Gaussian integral side by side."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from widescape import duals
from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.spec import Signal, scale
from widescape.core import checks
from widescape.core.errors import NonGaussianInputError, NotTractableError
from widescape.duals import Dual, Pair
from widescape.duals.angle import safe_sqrt
from widescape.duals.pair import clamp

_SMOOTH_NEAR, _KINKED_NEAR = 1e-8, 1e-11


class Elementwise(Layer):
    """Base of the nonlinearities. A subclass gives the function `fn` and its `dual`."""

    ends_stage = True
    pair_flops = 60
    kinked: bool = False
    """Whether `fn` has points without a derivative."""

    @abstractmethod
    def fn(self, x: jax.Array) -> jax.Array:
        """The function, entry by entry."""

    @abstractmethod
    def dual(self, pair: Pair) -> Dual:
        """E[phi(u) phi(v)] and its slope."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return self.fn(h)

    def limit(self, cov: Covariance) -> Covariance:
        if not cov.gaussian:
            raise NonGaussianInputError(
                "a nonlinearity needs Gaussian input, but raw inputs or the output of another nonlinearity reach it. "
                "Put a Dense layer before it, or compose the two functions into one Activation."
            )
        dual = self.dual(cov.pair)
        var1, var2 = self.dual(Pair.equal(cov.var1)).t, self.dual(Pair.equal(cov.var2)).t
        return cov.replace(
            nngp=dual.t,
            complement=self._complement(cov, dual, var1, var2) if dual.complement is None else dual.complement,
            var1=var1,
            var2=var2,
            ntk=None if cov.ntk is None else cov.ntk * dual.tdot,
            errors=cov.errors if dual.error is None else (*cov.errors, dual.error),
            gaussian=False,
        )

    def _complement(self, cov: Covariance, dual: Dual, var1: jax.Array, var2: jax.Array) -> jax.Array:
        """sqrt(var1 var2) - |T| without a formula of its own: by subtraction, and to first order where that rounds.

        The first-order form is half of E[(phi(u) - phi(v))^2] = E[phi'^2] (angular part of the gap) +
        E[Z^2 phi'(sqrt(q) Z)^2] (radial part of the gap), less the radial part that comes out. Its relative error
        is of the order of the gap for a smooth phi.
        """
        pair = cov.pair
        root1, root2 = safe_sqrt(var1)[:, None], safe_sqrt(var2)[None, :]
        subtracted = clamp(root1 * root2 - jnp.abs(dual.t))
        radial_slope = (self._radial_slope(cov.var1)[:, None] + self._radial_slope(cov.var2)[None, :]) / 2
        radial = pair.radial_gap
        first_order = clamp(dual.tdot * pair.minus + (radial_slope * radial - (root1 - root2) ** 2) / 2)
        near = pair.gap < (_KINKED_NEAR if self.kinked else _SMOOTH_NEAR) * (pair.q11 + pair.q22)
        return jnp.where(near, first_order, subtracted)

    def _radial_slope(self, q: jax.Array) -> jax.Array:
        """E[Z^2 phi'(sqrt(q) Z)^2], by Gauss-Hermite quadrature: it only weighs gaps near rounding."""
        nodes, weights = special.roots_hermitenorm(48)
        z = jnp.asarray(nodes, q.dtype)[None]
        x = safe_sqrt(q)[:, None] * z
        slope = jax.jvp(self.fn, (x,), (jnp.ones_like(x),))[1]
        return (z * slope) ** 2 @ jnp.asarray(weights / np.sqrt(2 * np.pi), q.dtype)


@dataclass(frozen=True)
class Relu(Elementwise):
    """max(x, 0)."""

    kinked = True

    def fn(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    def dual(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, 0.0, 1.0)


@dataclass(frozen=True)
class ABRelu(Elementwise):
    """a min(x, 0) + b max(x, 0)."""

    a: float = scale()
    b: float = scale()
    kinked = True

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.minimum(x, 0) + self.b * jnp.maximum(x, 0)

    def dual(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, self.a, self.b)


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """x for x > 0 and slope x otherwise."""

    slope: float = scale(0.01)
    kinked = True

    def fn(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.slope * x)

    def dual(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, self.slope, 1.0)


@dataclass(frozen=True)
class Abs(Elementwise):
    """|x|."""

    kinked = True

    def fn(self, x: jax.Array) -> jax.Array:
        return jnp.abs(x)

    def dual(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, -1.0, 1.0)


@dataclass(frozen=True)
class Erf(Elementwise):
    """a erf(b x) + c."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jax.scipy.special.erf(self.b * x) + self.c

    def dual(self, pair: Pair) -> Dual:
        return duals.erf(pair, self.a, self.b, self.c)


@dataclass(frozen=True)
class Gelu(Elementwise):
    """x Phi(x), the exact form with the normal distribution function (not the tanh approximation)."""

    def fn(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)

    def dual(self, pair: Pair) -> Dual:
        return duals.gelu(pair)


@dataclass(frozen=True)
class Sin(Elementwise):
    """a sin(b x + c)."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.sin(self.b * x + self.c)

    def dual(self, pair: Pair) -> Dual:
        return duals.sine(pair, self.a, self.b, self.c)


@dataclass(frozen=True)
class Cos(Elementwise):
    """a cos(b x + c)."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.cos(self.b * x + self.c)

    def dual(self, pair: Pair) -> Dual:
        return duals.sine(pair, self.a, self.b, self.c + jnp.pi / 2)


@dataclass(frozen=True)
class Rbf(Elementwise):
    """sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose NNGP kernel is the RBF kernel exp(-gamma |u - v|^2)."""

    gamma: float = scale(1.0)

    def __post_init__(self) -> None:
        checks.scale(self.gamma, "gamma", "Rbf", positive=True)

    def fn(self, x: jax.Array) -> jax.Array:
        return 2**0.5 * jnp.sin((2 * self.gamma) ** 0.5 * x + jnp.pi / 4)

    def dual(self, pair: Pair) -> Dual:
        return duals.rbf(pair, self.gamma)


@dataclass(frozen=True)
class Exp(Elementwise):
    """a exp(b x). Its variance grows fast with the input's; deep networks of it overflow, with an error."""

    a: float = scale(1.0)
    b: float = scale(1.0)

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.exp(self.b * x)

    def dual(self, pair: Pair) -> Dual:
        return duals.exponential(pair, self.a, self.b)


@dataclass(frozen=True)
class Gaussian(Elementwise):
    """a exp(b x^2) with b < 0."""

    a: float = scale(1.0)
    b: float = scale(-1.0)

    def __post_init__(self) -> None:
        if checks.is_concrete_number(self.b) and not self.b < 0:
            raise ValueError(f"Gaussian: `b` is {self.b}; it must be negative, or the second moment is infinite.")

    def fn(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.exp(self.b * x**2)

    def dual(self, pair: Pair) -> Dual:
        return duals.gaussian(pair, self.a, self.b)


@dataclass(frozen=True)
class Sign(Elementwise):
    """sign(x). No gradient passes it: the tangent kernel of what lies below is lost, with a warning."""

    kinked = True
    ntk_caution = "its derivative is 0 almost everywhere: the tangent kernel counts the layers above it only"

    def fn(self, x: jax.Array) -> jax.Array:
        return jnp.sign(x)

    def dual(self, pair: Pair) -> Dual:
        return duals.sign(pair)


@dataclass(frozen=True)
class Polynomial(Elementwise):
    """sum_j coefficients[j] x^j, lowest power first."""

    coefficients: tuple[float, ...] = scale()

    def __post_init__(self) -> None:
        if not isinstance(self.coefficients, tuple):
            object.__setattr__(self, "coefficients", tuple(self.coefficients))
        if not self.coefficients:
            raise ValueError("Polynomial: `coefficients` is empty; give at least the constant term.")

    def fn(self, x: jax.Array) -> jax.Array:
        value = jnp.zeros_like(x)
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return value

    def dual(self, pair: Pair) -> Dual:
        return duals.polynomial(pair, self.coefficients)


@dataclass(frozen=True)
class Hermite(Elementwise):
    """He_degree(x) / sqrt(degree!), the orthonormal Hermite polynomial; T = q12^degree at unit variances."""

    degree: int

    def __post_init__(self) -> None:
        checks.count(self.degree, "degree", "Hermite", minimum=0)
        if self.degree > 30:
            raise ValueError(f"Hermite: `degree` is {self.degree}; choose 0 <= degree <= 30.")

    @property
    def _polynomial(self) -> Polynomial:
        monomials = np.polynomial.hermite_e.herme2poly([0] * self.degree + [1])
        return Polynomial(tuple(float(c) / factorial(self.degree) ** 0.5 for c in monomials))

    def fn(self, x: jax.Array) -> jax.Array:
        return self._polynomial.fn(x)

    def dual(self, pair: Pair) -> Dual:
        return self._polynomial.dual(pair)


@dataclass(frozen=True)
class Activation(Elementwise):
    """Any elementwise function of JAX, with its Gaussian integrals by quadrature or by a formula of the user.

    A smooth `function` is expanded in `deg` Hermite polynomials: fast, and always a positive semidefinite
    kernel. A function with `kinks` (points where it or its derivative jumps) goes through polar quadrature,
    which is exact to many digits and costs thousands of evaluations per pair. In both cases an error above
    1e-6 is refused.

    Args:
        function: elementwise, made of JAX operations. Define it at module level if the network is to be pickled.
        dual_function: T(q11, q12, q22) = E[phi(u) phi(v)] in JAX operations, if known; its slope in q12 comes from
            automatic differentiation.
        deg: terms of the Hermite series, at most 300.
        kinks: where the function or its derivative jumps.
    """

    function: Callable[[jax.Array], jax.Array]
    dual_function: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    deg: int = 128
    kinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Activation: `function` is {self.function!r}; it must be callable.")
        checks.count(self.deg, "deg", "Activation", minimum=2)
        if self.deg > duals.MAX_TERMS:
            raise ValueError(f"Activation: `deg` is {self.deg}; choose at most {duals.MAX_TERMS}.")
        object.__setattr__(self, "kinks", tuple(float(k) for k in self.kinks))

    @property
    def numerical(self) -> bool:  # type: ignore[override]
        """True without a formula of the user."""
        return self.dual_function is None

    @property
    def kinked(self) -> bool:  # type: ignore[override]
        """Whether kinks were named."""
        return bool(self.kinks)

    @property
    def pair_flops(self) -> int:  # type: ignore[override]
        """Of the series, or of the polar rule; a user's formula counts like a closed form."""
        if self.dual_function is not None:
            return Elementwise.pair_flops
        return duals.polar_flops(self.kinks) if self.kinks else 4 * self.deg

    @property
    def pair_arrays(self) -> int:  # type: ignore[override]
        """Of the series, or of the polar rule."""
        if self.dual_function is not None:
            return 0
        return duals.polar_arrays(self.kinks) if self.kinks else 6

    def fn(self, x: jax.Array) -> jax.Array:
        return self.function(x)

    def dual(self, pair: Pair) -> Dual:
        if self.dual_function is not None:
            return _user_dual(pair, self.dual_function)
        if self.kinks:
            return duals.polar(pair, self.function, self.kinks)
        return duals.hermite_series(pair, self.function, self.deg)


def _user_dual(pair: Pair, function: Callable[..., jax.Array]) -> Dual:
    def t(q12: jax.Array) -> jax.Array:
        return jnp.broadcast_to(function(pair.q11, q12, pair.q22), q12.shape)

    value, slope = jax.jvp(t, (pair.q12,), (jnp.ones_like(pair.q12),))
    return Dual(value, slope)


class _Smooth(Elementwise):
    """Smooth functions without a closed form, by Hermite series."""

    numerical = True
    pair_arrays = 6
    deg: int

    @property
    def pair_flops(self) -> int:  # type: ignore[override]
        """Two Horner schemes."""
        return 4 * self.deg

    def __post_init__(self) -> None:
        checks.count(self.deg, "deg", type(self).__name__, minimum=2)
        if self.deg > duals.MAX_TERMS:
            raise ValueError(f"{type(self).__name__}: `deg` is {self.deg}; choose at most {duals.MAX_TERMS}.")

    def dual(self, pair: Pair) -> Dual:
        return duals.hermite_series(pair, self.fn, self.deg)


@dataclass(frozen=True)
class Tanh(_Smooth):
    """tanh(x); `deg` terms of a Hermite series."""

    deg: int = 128

    def fn(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x)


@dataclass(frozen=True)
class Sigmoid(_Smooth):
    """1 / (1 + exp(-x)); `deg` terms of a Hermite series."""

    deg: int = 64

    def fn(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)


@dataclass(frozen=True)
class Softplus(_Smooth):
    """log(1 + exp(x)); `deg` terms of a Hermite series."""

    deg: int = 64

    def fn(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(x)


@dataclass(frozen=True)
class Silu(_Smooth):
    """x / (1 + exp(-x)); `deg` terms of a Hermite series."""

    deg: int = 64

    def fn(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)


@dataclass(frozen=True)
class Softmax(Layer):
    """Softmax over the last axis, for finite networks; it mixes channels, so no kernel limit exists."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Any, h: jax.Array, signal: Signal) -> jax.Array:
        return jax.nn.softmax(h, axis=-1)

    def limit(self, cov: Covariance) -> Covariance:
        raise NotTractableError(
            "softmax mixes the channels, so its output is not Gaussian and has no closed-form limit. Take the "
            "kernel of the network without it, or sample kernels of finite networks."
        )
