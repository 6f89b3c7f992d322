"""What is done to finite networks: weight decay in its forms, and learning rates per parameter."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from widescape.core import checks
from widescape.core.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Penalty:
    """Weight decay: strength/2 times the weighted sum over leaves of |w - c|^2, added to the loss.

    Attributes:
        strength: the factor lambda, not negative.
        weights: a PyTree like the parameters, one number for each leaf; None for 1. `layerwise_weights` makes
            those under which standard-parameterized networks decay like NTK-parameterized ones.
        to_start: whether c is where training starts, instead of zero.
    """

    strength: float
    weights: Any = None
    to_start: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", checks.number(self.strength, "strength", "Penalty"))
        checks.not_negative(self.strength, "strength", "Penalty")

    def factors(self, params: Any) -> Any:
        """The factor of each leaf: strength times its weight."""
        if self.weights is None:
            return jax.tree.map(lambda _: self.strength, params)
        try:
            return jax.tree.map(lambda _, weight: self.strength * float(weight), params, self.weights)
        except (ValueError, TypeError) as error:
            raise ShapeError(f"`weights` must be a PyTree like the parameters, one number a leaf: {error}") from error


def penalized(factors: Any, params: Any, towards: Any) -> jax.Array:
    """Half the sum over leaves of factor |w - c|^2."""
    parts = jax.tree.map(lambda k, w, c: k * jnp.sum((w - c) ** 2), factors, params, towards)
    return jnp.asarray(sum(jax.tree.leaves(parts))) / 2


def layerwise_weights(variances: Any) -> Any:
    """Weights of a `Penalty` from the variances of parameters: their inverses, and 0 where a parameter starts at zero.

    A standard-parameterized network with this decay trains like the NTK-parameterized one with plain decay:
    sum over layers of (n/w_std^2) |W|^2 + |b|^2/b_std^2 (lee2020finite).

    Args:
        variances: of `Layer.initial_variances`.

    Example:
        >>> layerwise_weights({"w": 0.25, "b": 0.0})
        {'b': 0.0, 'w': 4.0}
    """
    return jax.tree.map(lambda v: 1 / v if v > 0 else 0.0, variances)


def scale_updates(factors: Any) -> optax.GradientTransformation:
    """An optax transformation that multiplies the update of each leaf by a number.

    With the variances of `Layer.initial_variances`, a rate in the standard parameterization moves outputs as that rate
    does in the NTK parameterization: ``optax.chain(optax.sgd(rate), scale_updates(variances))``.

    Args:
        factors: a PyTree like the parameters, one number for each leaf.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u, k: u * jnp.asarray(k, u.dtype), updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
