"""A loss with two more variables that scale it, whose local minima are global ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import NonFiniteError
from widescape.core.precision import call_in_float64, is_traced
from widescape.curvature import System
from widescape.curvature.request import hashable
from widescape.landscape.minima.variables import doubled, positive_weight

ROUNDING = 1e-12  # below zero by which a loss may be, relative to its size


@dataclass(frozen=True)
class ScaledLoss:
    """A loss scaled by two more variables, a function of ``{"theta", "a", "b"}``; made by `scale_out_minima`."""

    loss: Callable[[Any], Any]
    lam: float

    def __call__(self, q: Any) -> Any:
        """The modified loss; a float where nothing is traced.

        Raises:
            TypeError: other variables, or a loss that is not one number.
            ValueError: variables that are not finite, or a loss below zero.
            NonFiniteError: the loss, or the modified one, is NaN or infinite.
        """
        own = q if is_traced(q) else doubled(checked_variables(q), "q")
        if is_traced(q):
            return self.both(own)[0]
        modified, loss = call_in_float64(_compiled, self, own)
        if not (np.isfinite(modified) and np.isfinite(loss)):
            raise NonFiniteError(
                f"the scaled loss is {float(modified):.6g} at `q`, where `L` is {float(loss):.6g} and a e^b is "
                f"{float(own['a']):.6g} e^{float(own['b']):.6g}; give variables at which both are finite."
            )
        require_not_negative(float(loss))
        return float(modified)

    def both(self, q: Any) -> tuple[jax.Array, jax.Array]:
        """The modified loss, and L(theta); traceable."""
        own = checked_variables(q)
        value = one_number(self.loss(own["theta"]))
        return scaled_value(value, own["a"], own["b"], self.lam), value


def scale_out_minima(L: Any, lam: float = 1e-2) -> ScaledLoss:  # noqa: N803
    """The loss with two more variables: L(theta) (1 + (a exp(b) - 1)^2) + lam a^2.

    L must not be negative, and 0 must be its global minimum. At every point a d/da - d/db = 2 lam a^2, so every
    critical point has a = 0 and L(theta) = 0. Bad minima of L become minima at infinity: minimized over a, which is
    a* = L e^b / (L e^(2b) + lam), it is L + lam L / (L e^(2b) + lam), and falls to L(theta) as b grows, a* e^b to 1.

    Args:
        L: a function of the parameters that returns one number, or a `System` with targets.
        lam: positive.

    Returns:
        a function of ``{"theta": parameters, "a": (), "b": ()}``, traceable and hashable. Called with arrays it
        checks them and returns a float.

    Raises:
        TypeError, ValueError: arguments that do not fit. The function raises TypeError for a loss that is not one
            number, ValueError for one below zero by more than 1e-12, and NonFiniteError where it overflows.

    Cost: one evaluation of L.

    Source: sohldickstein2019eliminating.

    Example:
        >>> scaled = scale_out_minima(lambda theta: theta**2, 0.5)
        >>> scaled({"theta": np.array(3.0), "a": np.array(1.0), "b": np.array(0.0)})
        9.5
    """
    weight = positive_weight(lam, "scale_out_minima")
    return ScaledLoss(as_function(L), weight)


def as_function(L: Any) -> Callable[[Any], Any]:  # noqa: N803
    """A loss of parameters as a hashable, traceable function: a function, or a `System` with targets.

    Raises:
        TypeError, ValueError: neither, or a system without targets.
    """
    if isinstance(L, System):
        L.require_targets()
        return _OfSystem(L.as_float64())
    if not callable(L):
        raise TypeError(f"`L` is {L!r}; give a System, or a function of the parameters that returns one number.")
    return hashable(L)


def scaled_value(loss: Any, a: Any, b: Any, lam: float) -> Any:
    """The modified loss where L(theta) is `loss`."""
    return loss * (1 + (a * jnp.exp(b) - 1) ** 2) + lam * a**2


def checked_variables(q: Any) -> Any:
    """The variables, if they are those of a scaled loss.

    Raises:
        TypeError: other names, or a or b not one number.
    """
    if not isinstance(q, dict) or set(q) != {"theta", "a", "b"} or np.shape(q["a"]) or np.shape(q["b"]):
        found = {k: np.shape(q[k]) for k in q if k != "theta"} if isinstance(q, dict) else type(q).__name__
        raise TypeError(f"`q` holds {found}; give a dictionary of `theta` and the numbers `a` and `b`, of shape ().")
    return q


def one_number(value: Any) -> jax.Array:
    """A loss as an array of shape ().

    Raises:
        TypeError: it is not one real number.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or np.size(value) != 1 or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`L` returns {value!r}; it must return one real number, as an array.")
    return jnp.reshape(value, ())


def require_not_negative(loss: float) -> None:
    """Refuse a loss below zero, up to rounding."""
    if loss < -ROUNDING:
        raise ValueError(
            f"`L` is {loss:.6g} here, but the theorem needs a loss whose global minimum is 0; add a lower bound to it."
        )


@partial(jax.jit, static_argnums=0)
def _compiled(scaled: ScaledLoss, q: Any) -> tuple[jax.Array, jax.Array]:
    return scaled.both(q)


@dataclass(frozen=True)
class _OfSystem:
    """The loss of a system as a function of its parameters as a PyTree."""

    system: System

    def __call__(self, theta: Any) -> jax.Array:
        flat = jnp.concatenate([jnp.reshape(leaf, -1) for leaf in jax.tree.leaves(theta)])
        return self.system.operators.value(flat, *self.system.arrays)
