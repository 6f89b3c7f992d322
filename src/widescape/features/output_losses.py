"""Losses of one real output: value, derivatives in the output, and convex conjugates."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.curvature.request import hashable

LossName = Literal["squared", "huber", "logistic"]


class OutputLoss(ABC):
    """A loss l(yhat, y), entry by entry. Instances hash by what they compute, to key compiled programs."""

    steepest: float | None = None
    """The largest second derivative in yhat, where it is known."""

    @abstractmethod
    def value(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        """l(yhat, y), entry by entry."""

    def slope(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        """dl/dyhat."""
        return jax.jvp(lambda p: self.value(p, y), (outputs,), (jnp.ones_like(outputs),))[1]

    def curvature(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        """d^2 l/dyhat^2; of a loss with kinks in its slope the value on one side."""
        return jax.jvp(lambda p: self.slope(p, y), (outputs,), (jnp.ones_like(outputs),))[1]

    def conjugate(self, v: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Sup over p of v p - l(p, y), entry by entry, at slopes v of the loss or shorter ones; None if not known."""
        del v, y
        return None

    def check(self, y: np.ndarray) -> None:
        """Refuse targets that the loss does not take."""
        del y


Loss = LossName | Callable[[Any, Any], Any] | OutputLoss


@dataclass(frozen=True)
class _Squared(OutputLoss):
    steepest = 2.0

    def value(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        return (outputs - y) ** 2

    def conjugate(self, v: np.ndarray, y: np.ndarray) -> np.ndarray:
        return v * y + v**2 / 4


@dataclass(frozen=True)
class _Huber(OutputLoss):
    steepest = 1.0

    def value(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        away = jnp.abs(outputs - y)
        near = jnp.minimum(away, 1)
        return near * (away - near / 2)

    def slope(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.clip(outputs - y, -1, 1)

    def curvature(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        return (jnp.abs(outputs - y) < 1).astype(outputs.dtype)

    def conjugate(self, v: np.ndarray, y: np.ndarray) -> np.ndarray:
        return v * y + v**2 / 2


@dataclass(frozen=True)
class _Logistic(OutputLoss):
    steepest = 0.25

    def value(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        return jax.nn.softplus(-y * outputs)

    def conjugate(self, v: np.ndarray, y: np.ndarray) -> np.ndarray:
        share = np.clip(-v * y, 0, 1)  # outside by rounding at most
        return np.asarray(special.xlogy(share, share) + special.xlog1py(1 - share, -share))

    def check(self, y: np.ndarray) -> None:
        if not np.isin(y, (-1.0, 1.0)).all():
            raise ValueError('`y` of loss="logistic" holds labels -1 and +1; other numbers arrived. Map the labels.')


@dataclass(frozen=True)
class _Custom(OutputLoss):
    function: Callable[[Any, Any], Any]

    def value(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
        found = jnp.asarray(self.function(outputs, y))
        if found.shape != outputs.shape:
            raise ShapeError(
                f"`loss` returned shape {found.shape} for outputs {outputs.shape}; it acts entry by entry, "
                "as `lambda yhat, y: (yhat - y) ** 2`, and is averaged afterwards."
            )
        return found


_NAMED: dict[str, OutputLoss] = {"squared": _Squared(), "huber": _Huber(), "logistic": _Logistic()}


def loss_of(loss: Loss) -> OutputLoss:
    """The loss of a name, or of a function l(yhat, y) of JAX that acts entry by entry.

    "squared" is (yhat - y)^2 without a factor 1/2; "huber" is r^2/2 up to |r| = 1 and |r| - 1/2 beyond; "logistic" is
    log(1 + exp(-y yhat)) for labels -1 and +1. A function is differentiated; whether it is convex is not tested.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function.
    """
    if isinstance(loss, str):
        checks.choice(loss, "loss", LossName)
        return _NAMED[loss]
    if isinstance(loss, OutputLoss):
        return loss
    if not callable(loss):
        raise TypeError(f"`loss` is {loss!r}; give 'squared', 'huber', 'logistic' or a function l(yhat, y) of JAX.")
    return _Custom(hashable(loss))
