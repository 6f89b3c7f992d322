"""Annexes: small networks that read some frozen features of a chain; a stack of them at once.

A stack is the layers of an annex with one more axis in front, the draws. All of them run in one compiled program for
each layer of the chain; the draws never meet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import tree
from widescape.core.precision import call_in_float64, double_scope
from widescape.core.progress import track
from widescape.paths.layered import ChainLayer, Function, Layered, Pairs, columns, restrict
from widescape.paths.objective import Objective, best_scales, outputs_of

_ROWS = 4096  # examples that are judged at a time
_NUMBERS = 2**24  # outputs that are held at a time
_LOOKS = 5  # times that all data are seen while training, to keep the best
_READOUT_STEPS = 200


@dataclass(frozen=True)
class Shape:
    """What is static of an annex after layer `start` of a chain."""

    start: int
    activations: tuple[Function, ...]
    how: tuple[ChainLayer, ...]

    @classmethod
    def of(cls, net: Layered, start: int) -> "Shape":
        return cls(start, net.activations[start:], net.how[start:])

    def chain(self, layers: Pairs) -> Layered:
        """The annex with these weights."""
        return Layered.tree_unflatten((self.activations, self.how, None), (layers,))


@dataclass(frozen=True)
class Judged:
    """What a stack of annexes reaches on all data, in float64.

    Attributes:
        losses: (K,).
        errors: shares of wrong answers (K,), None where targets are no labels.
        scales: factors of the outputs at which the losses were taken (K,).
    """

    losses: np.ndarray
    errors: np.ndarray | None
    scales: np.ndarray


def he_uniform(net: Layered, start: int, sizes: Sequence[int], draws: int, generator: np.random.Generator) -> Pairs:
    """Random annexes: weights uniform within sqrt(6 / fan-in), biases 0.

    Args:
        net: the chain.
        start: the layer whose features are read.
        sizes: units of the annex's input and hidden layers, L - start of them.
        draws: how many.
        generator: of the random numbers.
    """
    layers = []
    for i, (w, b) in enumerate(net.layers[start:]):
        how, units = net.how[start + i], w.shape[-1] if start + i == net.num_layers - 1 else sizes[i + 1]
        rows = columns(w, how).shape[0] * sizes[i]
        shape = (rows, units) if w.ndim == 2 else (*w.shape[:-2], sizes[i], units)
        weight = generator.uniform(-1, 1, (draws, *shape)) * (6 / rows) ** 0.5
        layers.append((weight.astype(w.dtype), None if b is None else np.zeros((draws, units), b.dtype)))
    return tuple(layers)


def restricted(net: Layered, start: int, kept: Sequence[np.ndarray | None], draws: int) -> Pairs:
    """The chain's own layers between kept units: for each layer from `start` to L - 1 indices (K, m), None for all."""
    layers = []
    for i, (w, b) in enumerate(net.layers[start:]):
        last = start + i == net.num_layers - 1
        weights, biases = [], []
        for k in range(draws):
            rows, own = (None if part is None else part[k] for part in (kept[i], None if last else kept[i + 1]))
            weights.append(restrict(w, net.how[start + i], rows, own))
            biases.append(b if b is None or own is None else b[own])
        layers.append((np.stack(weights), None if b is None else np.stack(biases)))
    return tuple(layers)


def scaled(stack: Pairs, scales: np.ndarray) -> Pairs:
    """The annexes with their outputs multiplied, each by its own factor."""
    *inner, (w, b) = stack
    factors = scales.astype(w.dtype)
    weight = w * factors.reshape(-1, *(1,) * (w.ndim - 1))
    return (*inner, (weight, None if b is None else b * factors[:, None]))


def member(stack: Pairs, index: int) -> Pairs:
    """One annex of a stack."""
    return tuple((w[index], None if b is None else b[index]) for w, b in stack)


def stacked(annexes: Sequence[Pairs]) -> Pairs:
    """A stack of annexes of equal shapes."""
    return tuple(
        (np.stack([a[i][0] for a in annexes]), None if b is None else np.stack([a[i][1] for a in annexes]))
        for i, (_, b) in enumerate(annexes[0])
    )


def judged(
    net: Layered, start: int, stack: Pairs, subsets: np.ndarray | None, objective: Objective, *, rescale: bool = False
) -> Judged:
    """Losses and errors of annexes on all data, each at its best output scale if asked."""
    draws = len(stack[0][0])
    outputs = net.widths[-1]
    group = max(1, min(draws, _NUMBERS // (objective.num_examples * outputs)))
    losses, errors, scales = [], [], []
    for first in range(0, draws, group):
        # the last group is filled up, so that all of them share one program
        chosen = np.minimum(np.arange(first, first + group), draws - 1)
        part: Pairs = tuple((w[chosen], None if b is None else b[chosen]) for w, b in stack)
        z = _stack_outputs(net, start, part, None if subsets is None else subsets[chosen], objective.x)
        r = best_scales(z, objective) if rescale else np.ones(group)
        z = z * r[:, None, None]
        count = min(group, draws - first)
        losses.append(objective.values(z)[:count])
        scales.append(r[:count])
        if objective.labels:
            errors.append([objective.wrong(one).mean() for one in z[:count]])
    return Judged(np.concatenate(losses), np.concatenate(errors) if objective.labels else None, np.concatenate(scales))


def trained(
    net: Layered,
    start: int,
    stack: Pairs,
    subsets: np.ndarray | None,
    objective: Objective,
    *,
    steps: int,
    lr: float,
    batch: int,
    generator: np.random.Generator,
    progress: bool | None,
) -> tuple[Pairs, Judged]:
    """The annexes after training, each at the best of the points at which all data were seen, and what they reach.

    The last layer alone is a convex problem: least squares in closed form for square loss, else L-BFGS in float64.
    Deeper annexes take `steps` of Adam on mini-batches that all draws share.
    """
    best = judged(net, start, stack, subsets, objective)
    if steps == 0:
        return stack, best
    if start == net.num_layers - 1:
        solved = _readouts(net, start, stack, subsets, objective, min(steps, _READOUT_STEPS))
        return _better(stack, best, solved, judged(net, start, solved, subsets, objective))
    double = net.dtype == np.float64
    dtype = np.float64 if double else np.float32
    features = outputs_of(net, objective.x, start).astype(dtype)
    shape, kept = Shape.of(net, start), stack
    y = objective.y if objective.y.dtype.kind in "iub" else objective.y.astype(dtype)
    piece = -(-steps // _LOOKS)
    with double_scope(double):
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), stack)
        state = optax.scale_by_adam().init(own)
        rows = _batches(objective.num_examples, batch, generator)
        for first in track(range(0, steps, piece), f"annexes of layer {start}", show=progress):
            chosen = np.stack([next(rows) for _ in range(piece)])
            count = min(piece, steps - first)
            own, state = _descend(shape, objective.loss, own, state, features, y, subsets, chosen, count, lr)
            now = jax.tree.map(lambda leaf, like: np.asarray(leaf).astype(like.dtype), own, stack)
            kept, best = _better(kept, best, now, judged(net, start, now, subsets, objective))
    return kept, best


def passthrough(
    net: Layered, start: int, rows: np.ndarray | None, widths: Sequence[int], objective: Objective, steps: int
) -> Pairs:
    """An annex that fits the outputs linearly and hands them on through c units a layer, unchanged on the data.

    With Z the linear fit of the features and s >= -min Z, every entry of Z + s is nonnegative, so an activation that is
    the identity there leaves it as it is; the read-out subtracts s.

    Args:
        net: the chain.
        start: the layer whose features are read.
        rows: the units that are read; None for all inputs.
        widths: hidden widths of the annex, each at least c.
        objective: data and loss.
        steps: of L-BFGS, where the loss is not the square loss; at most 200.
    """
    last = net.num_layers - 1
    w, how = net.layers[start][0], net.how[start]
    inputs, outputs = (
        columns(w, how).shape[0] * (columns(w, how).shape[1] if rows is None else len(rows)),
        net.widths[-1],
    )
    features = outputs_of(net, objective.x, start)
    chosen = (features if rows is None else features[..., rows]).reshape(len(features), -1)
    fit_w, fit_b = linear_readout(chosen, objective, outputs, steps)
    if start == last:
        return ((fit_w.astype(w.dtype), fit_b.astype(w.dtype)),)
    logits = chosen @ fit_w + fit_b
    shift = max(0.0, -float(logits.min())) * (1 + 1e-6)
    layers = []
    for i in range(start, last + 1):
        weight, bias = net.layers[i]
        units_in = inputs if i == start else widths[i - start - 1]
        units = outputs if i == last else widths[i - start]
        matrix, offset = np.zeros((units_in, units), weight.dtype), np.zeros(units, bias.dtype)
        if i == start:
            matrix[:, :outputs], offset[:outputs] = fit_w, fit_b + shift
        else:
            matrix[np.arange(outputs), np.arange(outputs)] = 1
        if i == last:
            offset[:] = -shift
        layers.append((matrix, offset))
    return tuple(layers)


def linear_readout(
    features: np.ndarray, objective: Objective, outputs: int, steps: int = _READOUT_STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, c) and biases (c,) of least loss on features (n, d), in float64, from zero.

    In closed form for square loss, else after at most `steps` of L-BFGS, and never more than 200.
    """
    linear = Layered([(np.zeros((features.shape[1], outputs)), np.zeros(outputs))], ())
    start: Pairs = ((np.zeros((1, features.shape[1], outputs)), np.zeros((1, outputs))),)
    ((weight, bias),) = _readouts(linear, 0, start, None, replace(objective, x=features), min(steps, _READOUT_STEPS))
    return weight[0], bias[0]


def _stack_outputs(net: Layered, start: int, stack: Pairs, subsets: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """Outputs of a stack in float64, (K, n, c)."""
    wide, doubled = net.as_float64(), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), stack)
    parts = []
    for i in range(0, len(x), _ROWS):
        h = np.asarray(x[i : i + _ROWS], np.float64)
        parts.append(call_in_float64(_annex_outputs, Shape.of(net, start), wide, doubled, subsets, h))
    return np.concatenate(parts, axis=1)


@partial(jax.jit, static_argnums=(0,))
def _annex_outputs(shape: Shape, net: Layered, stack: Any, subsets: Any, x: Any) -> jax.Array:
    h = net.features(x, shape.start)

    def one(part: tuple[Any, Any]) -> jax.Array:
        layers, rows = part
        return shape.chain(layers)(h if rows is None else h[..., rows])

    return jax.lax.map(one, (stack, subsets))


@partial(jax.jit, static_argnums=(0, 1))
def _descend(
    shape: Shape,
    loss: Callable[[Any, Any], Any],
    stack: Any,
    state: Any,
    features: Any,
    y: Any,
    subsets: Any,
    rows: Any,
    count: Any,
    lr: Any,
) -> tuple[Any, Any]:
    """`count` steps of Adam for every draw at once; the batches (steps, B) are shared."""
    adam = optax.scale_by_adam()

    def total(stack: Any, batch: jax.Array) -> jax.Array:
        h, targets = features[batch], y[batch]

        def one(layers: Any, own: Any) -> jax.Array:
            return loss(shape.chain(layers)(h if own is None else h[..., own]), targets)

        return jax.vmap(one)(stack, subsets).sum()

    def step(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        stack, state = carry
        updates, state = adam.update(jax.grad(total)(stack, rows[i]), state)
        return jax.tree.map(lambda p, u: p - lr * u, stack, updates), state

    carried: tuple[Any, Any] = jax.lax.fori_loop(0, count, step, (stack, state))
    return carried


def _readouts(
    net: Layered, start: int, stack: Pairs, subsets: np.ndarray | None, objective: Objective, steps: int
) -> Pairs:
    """The last layer of each draw at the minimum of the loss, or after as many steps of L-BFGS."""
    features = outputs_of(net, objective.x, start)
    doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), stack)
    if objective.square:
        solved: Pairs = _least_squares(net, start, doubled, subsets, features, objective.y)
    else:
        solved = call_in_float64(
            _minimize, Shape.of(net, start), objective.loss, doubled, subsets, features, objective.y, steps
        )
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), solved, stack)


def _least_squares(
    net: Layered, start: int, stack: Pairs, subsets: np.ndarray | None, features: np.ndarray, y: np.ndarray
) -> Pairs:
    ((weights, biases),) = stack
    targets = np.asarray(y, np.float64).reshape(len(y), -1)
    solved_weights, solved_biases = [], []
    for k in range(len(weights)):
        h = (features if subsets is None else features[..., subsets[k]]).reshape(len(features), -1)
        design = h if biases is None else np.column_stack([h, np.ones(len(h))])
        found = np.linalg.lstsq(design, targets, rcond=None)[0]
        solved_weights.append(found[: h.shape[1]])
        solved_biases.append(found[-1])
    return ((np.stack(solved_weights), None if biases is None else np.stack(solved_biases)),)


@partial(jax.jit, static_argnums=(0, 1))
def _minimize(
    shape: Shape,
    loss: Callable[[Any, Any], Any],
    stack: Any,
    subsets: Any,
    features: Any,
    y: Any,
    steps: Any,
) -> Any:
    """L-BFGS for each draw, the best point on the way; it ends where the gradient vanishes."""
    optimizer = optax.lbfgs()

    def solve(part: tuple[Any, Any]) -> Any:
        layers, rows = part
        h = features if rows is None else features[..., rows]

        def value_of(layers: Any) -> jax.Array:
            return loss(shape.chain(layers)(h), y)

        value_and_gradient = optax.value_and_grad_from_state(value_of)

        def going(carry: Any) -> jax.Array:
            count, _, _, _, _, slope = carry
            return (count < steps) & (slope > 1e-12)

        def step(carry: Any) -> Any:
            count, layers, state, best, least, _ = carry
            value, gradient = value_and_gradient(layers, state=state)
            better = value < least
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), layers, best)
            updates, state = optimizer.update(gradient, state, layers, value=value, grad=gradient, value_fn=value_of)
            slope = tree.norm(gradient)
            moved = jax.tree.map(lambda p, u: p + jnp.where(jnp.isfinite(u), u, 0), layers, updates)
            return count + 1, moved, state, best, jnp.minimum(value, least), slope

        start = (0, layers, optimizer.init(layers), layers, jnp.asarray(jnp.inf), jnp.asarray(jnp.inf))
        _, layers, _, best, least, _ = jax.lax.while_loop(going, step, start)
        better = value_of(layers) < least
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), layers, best)

    return jax.lax.map(solve, (stack, subsets))


def _better(old: Pairs, old_judged: Judged, new: Pairs, new_judged: Judged) -> tuple[Pairs, Judged]:
    """Of each draw the one with the smaller loss."""
    wins = new_judged.losses < old_judged.losses  # never for a loss that is NaN

    def pick(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(wins.reshape(-1, *(1,) * (np.ndim(a) - 1)), b, a)

    errors = None if old_judged.errors is None else pick(old_judged.errors, np.asarray(new_judged.errors))
    return jax.tree.map(pick, old, new), Judged(
        pick(old_judged.losses, new_judged.losses), errors, pick(old_judged.scales, new_judged.scales)
    )


def _batches(count: int, size: int, generator: np.random.Generator) -> Any:
    """Rows of mini-batches without end, without replacement in each epoch."""
    size = min(size, count)
    while True:
        order = generator.permutation(count)
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]
