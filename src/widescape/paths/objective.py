"""What a chain is judged by: a convex loss of all outputs at once, and the share of wrong answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64
from widescape.curvature import System
from widescape.curvature.operators import Loss, losses_of
from widescape.curvature.request import hashable
from widescape.paths.layered import Layered, as_layered

TotalLoss = Literal["square", "cross_entropy"] | Callable[[Any, Any], Any]
_ROWS = 4096  # examples that are worked on at a time


@dataclass(frozen=True)
class _OfExamples:
    """The sum or mean of a loss of single examples."""

    loss: Loss
    mean: bool

    def __call__(self, outputs: jax.Array, y: Any) -> jax.Array:
        each = losses_of(self.loss, outputs, y)
        return jnp.mean(each) if self.mean else jnp.sum(each)


@dataclass(frozen=True)
class _Scalar:
    """A user's loss, held to return one number."""

    loss: Callable[[Any, Any], Any]

    def __call__(self, outputs: jax.Array, y: Any) -> jax.Array:
        value = self.loss(outputs, y)
        if jnp.size(value) != 1:
            raise ShapeError(
                f"`loss` returns an array of shape {jnp.shape(value)}; it takes all outputs (n, c) and targets, and "
                "returns one number."
            )
        return jnp.reshape(value, ())


@dataclass(frozen=True)
class Objective:
    """Inputs, targets, and the loss of all outputs.

    Attributes:
        x, y: inputs and targets on the host, in their own precision.
        loss: maps (outputs (n, c), y) to one number; convex in the outputs. Static to JAX.
        square: the loss is proportional to the sum of squared distances, so that least squares minimizes it.
        labels: the targets are integer labels, so that answers can be wrong.
    """

    x: np.ndarray
    y: np.ndarray
    loss: Callable[[Any, Any], Any]
    square: bool
    labels: bool

    @property
    def convex(self) -> bool:
        """Whether the loss is known to be convex in the outputs: one of ours, and not a function."""
        return isinstance(self.loss, _OfExamples) and isinstance(self.loss.loss, str)

    @property
    def num_examples(self) -> int:
        return len(self.y)

    def value(self, outputs: Any) -> float:
        """The loss of outputs (n, c), in float64."""
        return float(self.values(np.asarray(outputs)[None])[0])

    def values(self, stack: Any) -> np.ndarray:
        """The loss of each of a stack of outputs (k, n, c), in float64: (k,)."""
        found: np.ndarray = call_in_float64(_losses, self.loss, np.asarray(stack, np.float64), self.y)
        return found

    def wrong(self, outputs: Any) -> np.ndarray:
        """Whether each answer is not the label (n,); a tie counts as wrong, and so does NaN.

        Raises:
            ValueError: the targets are no labels.
        """
        if not self.labels:
            raise ValueError("targets that are not labels have no errors.")
        z, rows = np.asarray(outputs, np.float64), np.arange(len(self.y))
        if z.shape[1] == 1:
            return ~np.where(self.y > 0, z[:, 0] > 0, z[:, 0] < 0)
        own = z[rows, self.y]
        others = z.copy()
        others[rows, self.y] = -np.inf
        return ~(own > others.max(axis=1))

    def error(self, outputs: Any) -> float | None:
        """The share of wrong answers; None where targets are no labels."""
        return float(self.wrong(outputs).mean()) if self.labels else None


def as_objective(net: Any, x: Any, y: Any, loss: TotalLoss | None) -> tuple[Layered, Objective]:
    """A chain with its data and loss; a system of a chain brings them along.

    Args:
        net: a `Layered`; or a `System`, whose data and loss are taken where `x`, `y` and `loss` are None.
        x: inputs, examples first.
        y: targets: integer labels (n,), or numbers.
        loss: maps (outputs (n, c), y) to one number, convex in the outputs; ``"cross_entropy"`` and ``"square"`` are
            means over examples, the latter of half the squared distance.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.
    """
    chain = as_layered(net)
    if isinstance(net, System):
        net.require_targets()
        x, y = (net.x if x is None else x), (net.y if y is None else y)
        loss = net.loss if loss is None else loss
        if loss is net.loss:
            whole = _OfExamples(net.operators.loss, net.reduction == "mean")
            return _checked(chain, _made(chain, x, y, whole, net.loss == "square"))
    if x is None or y is None or loss is None:
        raise TypeError("give `X`, `y` and `loss`, or a System, which has them.")
    if callable(loss):
        return _checked(chain, _made(chain, x, y, _Scalar(hashable(loss)), square=False))
    checks.choice(loss, "loss", ("square", "cross_entropy"))
    targets = _fitting(y, loss, chain.widths[-1])
    return _checked(chain, _made(chain, x, targets, _OfExamples(loss, mean=True), loss == "square"))


def _checked(chain: Layered, objective: Objective) -> tuple[Layered, Objective]:
    if np.ndim(chain.layers[-1][0]) > 2:
        raise ShapeError(
            f"layer {chain.num_layers} is the last one and a convolution, but outputs are (n, c); end with a fully "
            "connected layer whose `block` flattens."
        )
    _require_per_channel(chain, objective.x[:2])
    return chain, objective


def _fitting(y: Any, loss: str, outputs: int) -> np.ndarray:
    """Targets as one of our losses takes them: labels (n,) from 0 to c - 1, or numbers (n, c)."""
    targets = np.asarray(y)
    if loss == "square":
        numbers = checks.real_array(targets, "y").astype(np.float64)
        if numbers.ndim not in (1, 2) or numbers.size != len(numbers) * outputs:
            raise ShapeError(f"`y` has shape {targets.shape}; loss='square' takes numbers of shape (n, {outputs}).")
        return numbers.reshape(len(numbers), outputs)
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or outputs < 2:
        raise ShapeError(
            f"`y` holds {targets.dtype} of shape {targets.shape}, and there are {outputs} outputs; "
            "loss='cross_entropy' takes integer labels (n,) and at least two outputs."
        )
    if targets.size and (targets.min() < 0 or targets.max() >= outputs):
        raise ValueError(f"`y` holds labels from {targets.min()} to {targets.max()}, but there are {outputs} outputs.")
    return targets


def _require_per_channel(net: Layered, x: np.ndarray) -> None:
    """Refuse a fixed function between layers that mixes channels.

    Raises:
        NotImplementedError: it does.
    """
    for i, how in enumerate(net.how):
        if how.after is None:
            continue
        plain = net.tail(0, net.layers)
        plain.how = (*net.how[:i], replace(how, after=None), *net.how[i + 1 :])
        shape = call_in_float64(_features, plain.as_float64(), np.asarray(x, np.float64), i + 1).shape
        before = np.random.default_rng(0).standard_normal((3, *shape[1:]))
        whole = np.asarray(call_in_float64(how.after, before))
        single = np.moveaxis(before, -1, 1).reshape(-1, *shape[1:-1], 1)  # every channel as an example
        try:
            alone = np.asarray(call_in_float64(how.after, single)).reshape(-1)
        except (TypeError, ValueError):  # it holds a number for each channel
            alone = np.zeros(0)
        together = np.moveaxis(whole, -1, 1).reshape(-1)
        fits = whole.shape[:: whole.ndim - 1] == (3, shape[-1]) and together.shape == alone.shape
        if not fits or not np.allclose(together, alone, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise NotImplementedError(
                f"what acts after layer {i + 1} mixes channels or examples; a chain takes functions of single "
                "channels, as pooling."
            )


def _made(chain: Layered, x: Any, y: Any, loss: Callable[[Any, Any], Any], square: bool) -> Objective:
    inputs, targets = checks.real_array(x, "X"), np.asarray(y)
    if inputs.ndim < 2 or targets.ndim < 1 or len(inputs) != len(targets) or not len(inputs):
        raise ShapeError(f"`X` has shape {inputs.shape} and `y` {targets.shape}; give (n, ...) and n targets.")
    checks.all_finite(inputs, "X")
    labels = targets.ndim == 1 and targets.dtype.kind in "iub"
    labels = labels and targets.min() >= 0 and targets.max() < max(2, chain.widths[-1])
    if not labels and targets.dtype.kind not in "iub":
        checks.all_finite(checks.real_array(targets, "y"), "y")
    return Objective(inputs, targets.astype(np.int64) if labels else targets, loss, square, labels)


def outputs_of(net: Layered, x: np.ndarray, layer: int | None = None) -> np.ndarray:
    """The features F_layer of inputs in float64; the outputs (n, c) where `layer` is None.

    Raises:
        NonFiniteError: one of them is not finite.
    """
    depth = net.num_layers if layer is None else layer
    wide = net.as_float64()
    parts = [
        call_in_float64(_features, wide, np.asarray(x[i : i + _ROWS], np.float64), depth)
        for i in range(0, len(x), _ROWS)
    ]
    features: np.ndarray = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise NonFiniteError(f"features of layer {depth} are NaN or infinite; scale the network or the inputs.")
    return features


def best_scales(stack: np.ndarray, objective: Objective) -> np.ndarray:
    """The r >= 0 at which the loss of r times the outputs is least, for each of a stack (k, n, c): (k,).

    A scan over powers of two from 2^-12 to 2^12, with 0, and golden sections between the neighbors of its best.
    """
    found: np.ndarray = call_in_float64(_best_scales, objective.loss, np.asarray(stack, np.float64), objective.y)
    return found


@partial(jax.jit, static_argnums=(2,))
def _features(net: Layered, x: Any, depth: int) -> jax.Array:
    return net.features(x, depth)


@partial(jax.jit, static_argnums=(0,))
def _losses(loss: Callable[[Any, Any], Any], stack: Any, y: Any) -> jax.Array:
    return jax.lax.map(lambda outputs: loss(outputs, y), stack)


@partial(jax.jit, static_argnums=(0,))
def _best_scales(loss: Callable[[Any, Any], Any], stack: Any, y: Any) -> jax.Array:
    grid = jnp.concatenate([jnp.zeros(1), 2.0 ** jnp.arange(-12, 13)])
    golden = (5**0.5 - 1) / 2

    def best(outputs: jax.Array) -> jax.Array:
        def at(r: Any) -> jax.Array:
            return loss(r * outputs, y)

        values = jax.lax.map(at, grid)
        i = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
        low, high = grid[jnp.maximum(i - 1, 0)], grid[jnp.minimum(i + 1, len(grid) - 1)]

        def section(_: int, state: tuple[Any, ...]) -> tuple[Any, ...]:
            low, high, left, right, at_left, at_right = state
            keep_low = at_left <= at_right
            low, high = jnp.where(keep_low, low, left), jnp.where(keep_low, right, high)
            fresh = jnp.where(keep_low, high - golden * (high - low), low + golden * (high - low))
            value = at(fresh)
            return (
                low,
                high,
                jnp.where(keep_low, fresh, right),
                jnp.where(keep_low, left, fresh),
                jnp.where(keep_low, value, at_right),
                jnp.where(keep_low, at_left, value),
            )

        left, right = high - golden * (high - low), low + golden * (high - low)
        state = jax.lax.fori_loop(0, 60, section, (low, high, left, right, at(left), at(right)))
        ends = jnp.stack([grid[i], state[2], state[3]])
        return ends[jnp.argmin(jnp.stack([values[i], state[4], state[5]]))]

    return jax.lax.map(best, stack)
