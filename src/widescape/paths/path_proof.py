"""The exact maximum of a loss on a path between chains: every segment is shown to move the outputs straight ahead."""

from itertools import pairwise
from typing import Any

import numpy as np

from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError, NotCertifiable
from widescape.core.evidence import EXACT, bound, proved
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.paths.condition import ConditionReport
from widescape.paths.layered import Layered, as_layered, columns
from widescape.paths.objective import Objective, TotalLoss, as_objective, outputs_of
from widescape.paths.polyline import PiecewiseLinearPath

_IF_CONVEX = bound("lower", "the exact maximum if the loss is convex in the outputs, which no midpoint contradicted")
_AFFINE = proved("outputs are affine on every segment, as its weights show, and the loss is convex in them")


class PathBound(Result):
    """The greatest loss on a path, known from its points alone."""

    source = "nguyen2021connectivity"
    value: float = quantity(_AFFINE, "max of the loss over the whole path, in float64")
    per_waypoint: np.ndarray = quantity(EXACT, "loss at each point of the path (S + 1,)")
    error: float | None = quantity(
        bound("upper", "an answer that is right at both ends of a segment is right on all of it"),
        "greatest share of examples that are wrong somewhere on a segment; None where targets are no labels",
    )
    per_waypoint_error: np.ndarray | None = quantity(EXACT, "share of wrong answers at each point (S + 1,)")
    reports_value: float | None = quantity(
        EXACT,
        "max of the two networks' and their annexes' losses as reported, which the theorem names; None without reports "
        "or where they are of other data",
    )
    kinds: tuple[str, ...] = quantity(EXACT, "kind of each segment (S,)")

    def charts(self) -> tuple[Chart, ...]:
        """The loss at the points of the path."""
        positive = bool((self.per_waypoint > 0).all())
        return (
            Chart(
                name="path-bound",
                title="Loss along the constructed path",
                x_label="point of the path",
                y_label="loss",
                series=(Series(np.arange(len(self.per_waypoint)), self.per_waypoint, "loss", style="both"),),
                y_scale="log" if positive else "linear",
                caption=f"Between two points the loss is below the greater of them; its maximum is {self.value:.3g}.",
            ),
        )


def path_bound(
    path: PiecewiseLinearPath,
    net0: Any,
    net1: Any,
    report0: ConditionReport | None = None,
    report1: ConditionReport | None = None,
    X: Any = None,  # noqa: N803  the data matrix of the theorem
    y: Any = None,
    loss: TotalLoss | None = None,
    *,
    progress: bool | None = None,
) -> PathBound:
    """The exact maximum of a convex loss on a path of `connect`, from its points alone.

    Every segment is checked from its weights, bit for bit: that it moves only what the outputs do not read, or hands
    the reading of a unit over to an equal one, or moves the last layer alone. Then the outputs are affine in the
    position on it, and a convex loss is greatest at an end. What stands is proved for the numbers in the weights, up to
    the rounding of the loss at the points in float64, for activations that are finite on all numbers, and for square
    loss and cross entropy. Another loss is only tried at the middle of every segment, and the result says so.

    Args:
        path: of `Layered` points; any path will do whose segments pass the check.
        net0: where it must start.
        net1: where it must end.
        report0: the condition of `net0`, whose losses are reported beside; None without.
        report1: that of `net1`.
        X: inputs (n, ...), also some on which nothing was trained; None takes those of the system `net0`.
        y: labels (n,) or numbers, likewise.
        loss: as for `feature_condition`, likewise.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `PathBound`.

    Raises:
        ValueError: the path does not start and end at the networks.
        NonFiniteError: the loss is NaN or infinite at a point. It is a FloatingPointError.
        widescape.core.errors.NotCertifiable: a segment whose outputs need not be affine, named with its layer; or a
            loss that was seen not to be convex.
        TypeError, ValueError: other arguments that do not fit.

    Cost: a forward pass over all data for each point, in float64.
    """
    first, objective = as_objective(net0, X, y, loss)
    ends = (first, as_layered(net1))
    for end, point, name in zip(ends, (path.points[0], path.points[-1]), ("net0", "net1"), strict=True):
        if not isinstance(point, Layered) or not _same(end, point):
            raise ValueError(f"the path does not {'start' if name == 'net0' else 'end'} at `{name}`.")
    for i in range(path.num_segments):
        require_affine(path.points[i], path.points[i + 1], f"segment {i} ({path.kinds[i]})")
    losses, wrong, before = [], [], None
    for point in track(path.points, "points of the path", show=progress):
        outputs = outputs_of(point, objective.x)
        losses.append(objective.value(outputs))
        if not np.isfinite(losses[-1]):
            raise NonFiniteError(
                f"the loss is {losses[-1]} at point {len(losses) - 1} of the path; scale the annexes or the data."
            )
        if before is not None:
            _require_convex(objective, before, outputs, losses[-2], losses[-1])
        if objective.labels:
            wrong.append(objective.wrong(outputs))
        before = outputs
    reports = [
        report
        for report, own in ((report0, losses[0]), (report1, losses[-1]))
        if report is not None and abs(report.net_loss - own) <= 1e-9 * abs(own)
    ]
    shares = np.array([part.mean() for part in wrong])
    return PathBound(
        value=float(np.max(losses)),
        per_waypoint=np.array(losses),
        error=max(float((a | b).mean()) for a, b in pairwise(wrong)) if wrong else None,
        per_waypoint_error=shares if wrong else None,
        reports_value=max(report.bound for report in reports) if len(reports) == 2 else None,
        kinds=path.kinds,
        stands={} if objective.convex else {"value": _IF_CONVEX},
    )


def require_affine(a: Layered, b: Layered, name: str) -> bool:
    """Check that the outputs are affine in t on the segment between two chains; whether they are even constant.

    With everything from the last layer back: a unit is read if a weight from it to a unit that is read is not zero, at
    one of the ends. Outputs are affine if no weight that enters a unit that is read changes, except in the last layer;
    and constant if a layer changes only by handing weights over between units that compute the same.

    Raises:
        NotCertifiable: neither can be seen from the weights.
    """
    depth, read = a.num_layers, np.ones(a.widths[-1], bool)
    constant = True
    for layer in range(depth, 0, -1):
        (w0, b0), (w1, b1) = a.layers[layer - 1], b.layers[layer - 1]
        start, end = (columns(w, a.how[layer - 1])[:, :, read] for w in (w0, w1))
        still = w0 is w1 or start.tobytes() == end.tobytes()
        steady = b0 is b1 or (b0 is not None and b1 is not None and b0[read].tobytes() == b1[read].tobytes())
        if not (still and steady):
            handed_over = steady and layer > 1 and _handed_over(a, b, layer, start, end)
            if not handed_over and layer < depth:
                raise NotCertifiable(
                    f"{name} changes weights that enter units of layer {layer} which are read, so its outputs need not "
                    "be affine. Check where the path comes from: every segment of `connect` passes."
                )
            constant = constant and handed_over
        read = ((start != 0) | (end != 0)).any(axis=(0, 2))
    return constant


def _handed_over(a: Layered, b: Layered, layer: int, start: np.ndarray, end: np.ndarray) -> bool:
    """Whether the weights from units that compute the same only change places, one unit of them being read at a time.

    Then a t-dependent share of one and the rest of the other are read, which adds up to the same.
    """
    twins: dict[bytes, list[int]] = {}
    enters = [_incoming(net, layer - 1) for net in (a, b)]
    for unit in range(start.shape[1]):
        if enters[0][unit] != enters[1][unit]:
            if (start[:, unit] != 0).any() or (end[:, unit] != 0).any():
                return False
            continue
        twins.setdefault(enters[0][unit], []).append(unit)
    for units in twins.values():
        before, after = start[:, units], end[:, units]
        if (before == after).all():
            continue
        if ((before != 0).sum(axis=1) > 1).any() or ((after != 0).sum(axis=1) > 1).any():
            return False
        if (before.sum(axis=1) != after.sum(axis=1)).any():
            return False
    return True


def _incoming(net: Layered, layer: int) -> list[bytes]:
    """What enters each unit of a layer, as bytes; units with equal ones compute the same."""
    (w, b), how = net.layers[layer - 1], net.how[layer - 1]
    cut = columns(w, how)
    return [cut[:, :, k].tobytes() + (b"" if b is None else b[k].tobytes()) for k in range(cut.shape[2])]


def _require_convex(objective: Objective, before: np.ndarray, after: np.ndarray, low: float, high: float) -> None:
    """Refuse a loss that is above its chord in the middle of a segment."""
    middle = objective.value((before + after) / 2)
    chord = (low + high) / 2
    if middle > chord + 1e-9 * max(abs(low), abs(high)):
        raise NotCertifiable(
            f"the loss is {middle:.6g} halfway between outputs where it is {low:.6g} and {high:.6g}, so it is not "
            "convex in the outputs, and its maximum may lie inside of a segment. evaluate_path samples it."
        )


def _same(a: Layered, b: Layered) -> bool:
    """Whether two chains act alike and have the same weights, bit for bit."""
    if a.activations != b.activations or a.how != b.how:
        return False
    leaves = [[leaf for pair in net.layers for leaf in pair] for net in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(
        x is y or (x is not None and y is not None and x.shape == y.shape and x.tobytes() == y.tobytes())
        for x, y in zip(*leaves, strict=True)
    )
