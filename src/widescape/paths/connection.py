"""The constructive path between two networks by way of their annexes: nothing is trained, nothing is sampled."""

from typing import Any

import numpy as np

from widescape.core.errors import ShapeError
from widescape.paths.condition import ConditionReport, as_annexes, checked_subsets, require_room
from widescape.paths.layered import Layered, Pairs, as_layered, columns
from widescape.paths.polyline import PiecewiseLinearPath

Active = tuple[np.ndarray, ...]


def connect(
    net0: Any, net1: Any, report0: ConditionReport, report1: ConditionReport, *, dedupe: bool = True
) -> PiecewiseLinearPath:
    """A piecewise linear path between two networks, on which the loss stays below their annexes' and their own.

    Its segments are of four kinds. ``"readout"`` moves the last layer alone, so the outputs are affine in the
    position; ``"free"``, ``"copy"`` and ``"shift"`` do not change the outputs: they write weights of units that nothing
    reads, copy a unit, and hand the reading of a unit over to its copy. So every loss that is convex in the outputs is
    greatest at a point of the path, and `path_bound` finds its maximum without sampling.

    Each network descends to its annex on the input: layer by layer from the last, the annex is written into units that
    nothing reads, and read instead of the units above. One of the two annexes moves to units that the other does not
    use, both stand side by side, and the outputs go over from one to the other.

    Args:
        net0: a `Layered`, or a system of one; where the path starts.
        net1: a network of the same shape; where it ends.
        report0: the subsets and annexes of `net0`, as `feature_condition` or `dropout_stability(...).as_condition()`
            give them.
        report1: those of `net1`. The sizes may differ.
        dedupe: leave out segments of length zero.

    Returns:
        a path with at most 6 L - 1 segments, whose ends are bit for bit the two networks. With one layer it is the
        straight segment. Arrays that do not change from point to point are shared.

    Raises:
        ShapeError: networks of different shapes, or sizes that leave no room: m0 + m1 > n in a layer. It is a
            ValueError.
        NotImplementedError: a system of a plain function.

    Cost: no pass through the network; memory of the arrays that change, at most (6 L - 1) |params|.

    Example:
        >>> import jax.numpy as jnp
        >>> from widescape.paths.condition import feature_condition
        >>> data = np.eye(2), np.array([1.0, 2.0]), "square"
        >>> nets = [Layered([(s * np.eye(2, 4), None), (s * np.ones((4, 1)), None)], jnp.tanh) for s in (1.0, -2.0)]
        >>> reports = [feature_condition(net, *data, draws=1, steps=0) for net in nets]
        >>> path = connect(*nets, *reports)
        >>> path.num_segments <= 11, path.points[0] is nets[0], path.points[-1] is nets[1]
        (True, True, True)
    """
    first, last = as_layered(net0), as_layered(net1)
    _require_alike(first, last)
    if first.num_layers == 1:
        return PiecewiseLinearPath((first, last), ("readout",))
    for report, name in ((report0, "report0"), (report1, "report1")):
        if len(report.widths) != first.num_layers - 1:
            raise ShapeError(
                f"`{name}` is of a network with {len(report.widths) + 1} layers; the networks have {first.num_layers}."
            )
    for layer, (m0, m1) in enumerate(zip(report0.widths, report1.widths, strict=True), 1):
        if m0 + m1 > first.widths[layer]:
            raise ShapeError(
                f"layer {layer} has {first.widths[layer]} units, but annexes need {m0} and {m1}; take narrower ones."
            )
    down, active0 = _descend(first, report0)
    up, active1 = _descend(last, report1)
    slots = tuple(_slots(n, a0, a1) for n, a0, a1 in zip(first.widths[1:-1], active0, active1, strict=True))
    moved = _relocate(up[-1][0], active1, slots)
    joined = _join(down[-1][0], moved[-1][0], slots)
    forward = [*down, *joined]
    backward = [*up, *moved[1:]]
    points = [net for net, _ in forward] + [net for net, _ in reversed(backward[:-1])]
    kinds = [kind for _, kind in forward[1:]] + [kind for _, kind in reversed(backward[1:])]
    return PiecewiseLinearPath(*_without_repeats(points, kinds)) if dedupe else PiecewiseLinearPath(points, kinds)


class _Point:
    """A chain that changes: its weights as (positions, units in, units out), copied when they are first written."""

    def __init__(self, net: Layered) -> None:
        self.net = net
        self.weights = [columns(w, how) for (w, _), how in zip(net.layers, net.how, strict=True)]
        self.biases = [b for _, b in net.layers]
        self._own_weights: set[int] = set()

    def weight(self, layer: int) -> np.ndarray:
        """The weight that enters `layer` (1 ... L), to be written to."""
        if layer not in self._own_weights:
            self._own_weights.add(layer)
            self.weights[layer - 1] = self.weights[layer - 1].copy()
        return self.weights[layer - 1]

    def set_bias(self, layer: int, units: np.ndarray | slice, values: np.ndarray | None) -> None:
        old = self.biases[layer - 1]
        if old is not None and values is not None:
            new = old.copy()
            new[units] = values
            self.biases[layer - 1] = new

    def taken(self) -> Layered:
        """The chain as it is now; what did not change since it was made is shared with it."""
        pairs = zip(self.net.layers, self.weights, self.biases, strict=True)
        changed = {i - 1 for i in self._own_weights}
        layers = tuple((w.reshape(old.shape) if i in changed else old, b) for i, ((old, _), w, b) in enumerate(pairs))
        self.net = self.net.with_layers(layers)
        self._own_weights.clear()
        return self.net


def _descend(net: Layered, report: ConditionReport) -> tuple[list[tuple[Layered, str]], Active]:
    """Points from a network to its annex on the input, with the kind of the segment before each; that annex's units."""
    depth = net.num_layers
    subsets = checked_subsets(net, report.subsets)
    require_room(net, subsets, report.widths)
    annexes = as_annexes(net, report.annexes, subsets)
    point, trail = _Point(net), [(net, "")]
    _read_out(point, annexes[-1][-1], subsets[-1])
    trail.append((point.taken(), "readout"))
    active = [np.zeros(0, int)] * (depth + 1)
    active[depth - 1] = subsets[-1]
    for start in range(depth - 2, -1, -1):
        blocks = {
            p: np.setdiff1d(np.arange(net.widths[p]), active[p])[: report.widths[p - 1]]
            for p in range(start + 1, depth)
        }
        rows = subsets[start - 1] if start else np.arange(net.widths[0])
        _write(point, annexes[start][:-1], rows, blocks)
        trail.append((point.taken(), "free"))
        _read_out(point, annexes[start][-1], blocks[depth - 1])
        trail.append((point.taken(), "readout"))
        active = [blocks.get(p, one) for p, one in enumerate(active)]
        if start:
            active[start] = rows
    return trail, tuple(active[1:depth])


def _write(point: _Point, pairs: Pairs, rows: np.ndarray, blocks: dict[int, np.ndarray]) -> None:
    """Write a network into the units of `blocks`, which read `rows` and each other and nothing else."""
    for (p, units), (w, b) in zip(sorted(blocks.items()), pairs, strict=True):
        weight, how = point.weight(p), point.net.how[p - 1]
        weight[:, :, units] = 0
        weight[np.ix_(np.arange(len(weight)), rows, units)] = columns(np.asarray(w), how)
        point.set_bias(p, units, b)
        rows = units


def _read_out(point: _Point, pair: tuple[Any, Any], rows: np.ndarray) -> None:
    """Let the outputs read these units and nothing else."""
    depth = point.net.num_layers
    weight = point.weight(depth)
    weight[:] = 0
    weight[:, rows] = columns(np.asarray(pair[0]), point.net.how[-1])
    point.set_bias(depth, slice(None), pair[1])


def _slots(units: int, active0: np.ndarray, active1: np.ndarray) -> np.ndarray:
    """Where the units of `active1` go: their own place where `active0` leaves it free, else one that neither uses."""
    unused = iter(np.setdiff1d(np.arange(units), np.union1d(active0, active1)))
    taken = set(active0.tolist())
    return np.array([next(unused) if unit in taken else unit for unit in active1.tolist()], dtype=np.int64)


def _relocate(net: Layered, active: Active, slots: Active) -> list[tuple[Layered, str]]:
    """Points on which the units of `active` move to their slots, one layer after the other."""
    point, trail = _Point(net), [(net, "")]
    for p in range(1, net.num_layers):
        moves = active[p - 1] != slots[p - 1]
        old, new = active[p - 1][moves], slots[p - 1][moves]
        if not old.size:
            continue
        weight = point.weight(p)
        weight[:, :, new] = weight[:, :, old]
        bias = point.biases[p - 1]
        point.set_bias(p, new, None if bias is None else bias[old])
        trail.append((point.taken(), "copy"))
        readers = np.arange(net.widths[-1]) if p == net.num_layers - 1 else active[p]
        weight = point.weight(p + 1)
        every = np.arange(len(weight))
        weight[np.ix_(every, new, readers)] = weight[np.ix_(every, old, readers)]
        weight[np.ix_(every, old, readers)] = 0
        trail.append((point.taken(), "shift"))
    return trail


def _join(net: Layered, goal: Layered, slots: Active) -> list[tuple[Layered, str]]:
    """Points from a sparse network to another one that uses other units, `slots`."""
    point, trail, depth = _Point(net), [], net.num_layers
    rows = np.arange(net.widths[0])
    for p in range(1, depth):
        units, (w, b), how = slots[p - 1], goal.layers[p - 1], goal.how[p - 1]
        weight = point.weight(p)
        weight[:, :, units] = 0
        block = np.ix_(np.arange(len(weight)), rows, units)
        weight[block] = columns(w, how)[block]
        point.set_bias(p, units, None if b is None else b[units])
        rows = units
    trail.append((point.taken(), "free"))
    trail.append((_with_readout(point, goal), "readout"))
    trail.append((goal, "free"))
    return trail


def _with_readout(point: _Point, goal: Layered) -> Layered:
    """The chain of a point with the last layer of another one."""
    layers = (*point.net.layers[:-1], goal.layers[-1])
    return point.net.with_layers(layers)


def _without_repeats(points: list[Layered], kinds: list[str]) -> tuple[list[Layered], list[str]]:
    """The same path without segments of length zero; at least one segment is left, and the ends are as given."""
    kept, words = [points[0]], []
    for point, kind in zip(points[1:], kinds, strict=True):
        if _equal(kept[-1], point):
            continue
        kept.append(point)
        words.append(kind)
    if len(kept) == 1:
        return [points[0], points[-1]], ["free"]
    if kept[-1] is not points[-1]:
        kept[-1] = points[-1]
    return kept, words


def _equal(a: Layered, b: Layered) -> bool:
    """Whether two chains are the same, bit for bit."""
    return all(
        x is y or (x is not None and y is not None and x.tobytes() == y.tobytes())
        for own, other in zip(a.layers, b.layers, strict=True)
        for x, y in zip(own, other, strict=True)
    )


def _require_alike(a: Layered, b: Layered) -> None:
    if a.num_layers != b.num_layers:
        raise ShapeError(f"`net0` has {a.num_layers} layers and `net1` {b.num_layers}; both ends need the same shape.")
    for i, ((w0, b0), (w1, b1)) in enumerate(zip(a.layers, b.layers, strict=True), 1):
        if w0.shape != w1.shape or (b0 is None) != (b1 is None):
            raise ShapeError(
                f"layer {i} has a weight of {w0.shape} in `net0` and {w1.shape} in `net1`, or one bias only."
            )
        if w0.dtype != w1.dtype:
            raise ShapeError(f"layer {i} holds {w0.dtype} in `net0` and {w1.dtype} in `net1`; convert one of them.")
    if a.origin != b.origin:
        raise ShapeError(
            "`net0` and `net1` were not made from the same kind of PyTree; make both by from_params, or none of them."
        )
    if a.activations != b.activations or a.how != b.how:
        raise ShapeError("`net0` and `net1` have different activations or ways of acting; they are different networks.")
