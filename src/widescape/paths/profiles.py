"""The loss along a piecewise linear path, and the one way in which a loss is taken on lines and curves between ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, bound, sampled
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.curvature.segment import as_system, losses_on_plane
from widescape.curvature.system import System
from widescape.paths.polyline import PiecewiseLinearPath, require_alike

Loss = System | Callable[[Any], Any]
Metrics = Mapping[str, Loss] | None
Refresh = Callable[[Any], Any] | None


class PathProfile(Result):
    """Losses along a piecewise linear path: at its points, and at equally spaced positions on its segments."""

    source = "garipov2018loss; nguyen2021connectivity"
    s: np.ndarray = quantity(EXACT, "positions from 0 to 1, of which each segment takes an equal part, (n,)")
    arc: np.ndarray = quantity(EXACT, "Euclidean length of the path up to each position (n,)")
    loss: np.ndarray = quantity(EXACT, "loss at the positions (n,)")
    min: float = quantity(bound("upper", "of the least loss on the path"), "least loss at the positions")
    max: float = quantity(bound("lower", "of the largest loss on the path"), "largest loss at the positions")
    mean: float = quantity(sampled("equally spaced positions"), "mean of the losses over positions")
    integral: float = quantity(
        sampled("trapezoid rule at the positions"), "mean of the loss over the length: int L ds / int ds"
    )
    s_max: float = quantity(sampled("among the positions"), "position of the largest loss")
    kinds: tuple[str, ...] = quantity(EXACT, "what each segment is, in one word")
    waypoints: np.ndarray = quantity(EXACT, "positions of the path's points (segments + 1,)")
    metrics: Mapping[str, np.ndarray] = quantity(EXACT, "further numbers by name, at the positions (n,)")

    def charts(self) -> tuple[Chart, ...]:
        """The loss against the position, and that of the path's points."""
        at_points = np.isin(self.s, self.waypoints)
        return (
            Chart(
                name="profile",
                title="Loss along a path",
                x_label="position s, an equal part for each segment",
                y_label="loss",
                series=(
                    Series(self.s, self.loss, "path"),
                    Series(self.s[at_points], self.loss[at_points], "points of the path", style="points"),
                ),
                y_scale="log" if (self.loss > 0).all() else "linear",
                caption="Segments in order: " + ", ".join(self.kinds) + ".",
            ),
        )


def evaluate_path(
    loss: Loss,
    path: PiecewiseLinearPath,
    per_segment: int = 11,
    *,
    metrics: Metrics = None,
    refresh: Refresh = None,
    progress: bool | None = None,
) -> PathProfile:
    """The loss at equally spaced positions on each segment of a path, ends of segments included.

    At the path's points the loss is taken at what was given there, without rounding. The integral is
    sum_i (s_{i+1} - s_i) (L_i + L_{i+1}) / 2 over the length of the path, s the length up to a position.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        path: through PyTrees of parameters, or for a system also flat vectors.
        per_segment: positions on a segment, both ends included; an end that two segments share counts once.
        metrics: further systems or functions of the parameters, each of which returns one number, by name.
        refresh: maps the parameters at a position, as a PyTree, to those at which everything is taken there; for
            statistics of batch normalization, which are estimated anew at each position.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `PathProfile`. The integral over a path of length zero is the loss there.

    Raises:
        TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the loss or a metric is NaN or infinite at a position.

    Cost: segments (per_segment + 1) forward passes at most, for the loss and each metric.

    Example:
        >>> path = PiecewiseLinearPath([np.array([2.0]), np.array([0.0]), np.array([1.0])])
        >>> profile = evaluate_path(lambda w: (w**2).sum(), path, 3)
        >>> profile.s.tolist(), profile.loss.tolist(), profile.integral
        ([0.0, 0.25, 0.5, 0.75, 1.0], [4.0, 1.0, 0.0, 0.25, 1.0], 1.125)
    """
    if not isinstance(path, PiecewiseLinearPath):
        raise TypeError(f"`path` is {path!r}; give a PiecewiseLinearPath.")
    checks.count(per_segment, "per_segment", "evaluate_path", minimum=2)
    taker = evaluator(loss, path.points, metrics, refresh)
    ts = np.linspace(0.0, 1.0, per_segment)
    weights = np.column_stack([1 - ts, ts])
    parts, ends = [], zip(path.points[:-1], path.points[1:], strict=True)
    for i, pair in enumerate(track(ends, "segments", total=path.num_segments, show=progress)):
        control = np.stack([taker.loss.vector(end) for end in pair])
        rows = slice(0 if i == 0 else 1, None)
        found = taker(control, weights, progress=False)
        parts.append({name: values[rows] for name, values in found.items()})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    losses = values.pop(LOSS)
    positions = np.concatenate([[0.0], *((i + ts[1:]) / path.num_segments for i in range(path.num_segments))])
    lengths, before = path.lengths, np.concatenate([[0.0], np.cumsum(path.lengths)])
    arc = np.concatenate([[0.0], *(before[i] + lengths[i] * ts[1:] for i in range(path.num_segments))])
    return PathProfile(
        s=positions,
        arc=arc,
        loss=losses,
        min=float(losses.min()),
        max=float(losses.max()),
        mean=float(losses.mean()),
        integral=mean_over_length(losses, arc),
        s_max=float(positions[losses.argmax()]),
        kinds=path.kinds,
        waypoints=positions[:: per_segment - 1],
        metrics=values,
    )


LOSS = ""
"""The name of the loss among the numbers that an `Evaluator` returns."""


@dataclass(frozen=True)
class Evaluator:
    """A loss, and further numbers, at affine combinations of points.

    Attributes:
        loss: what is flattened and restored, too.
        metrics: further numbers by name.
        refresh: changes parameters before anything is taken at them.
    """

    loss: System
    metrics: Mapping[str, System]
    refresh: Refresh

    def __call__(self, control: np.ndarray, weights: np.ndarray, *, progress: bool | None) -> dict[str, np.ndarray]:
        """Each number (T,) at weights (T, K) times control points (K, p); `LOSS` is the name of the loss.

        Rows of weights sum to one. Each combination is taken relative to that end of the control points which has the
        larger weight, so that at an end it is exactly what was given there, and equal points stay equal.

        Raises:
            NonFiniteError: a number is NaN or infinite.
        """
        values = {name: np.empty(len(weights)) for name in (LOSS, *self.metrics)}
        late, early = weights[:, -1] >= weights[:, 0], weights[:, -1] <= weights[:, 0]
        for rows, base in ((late, control[-1]), (early, control[0])):  # both hold the middle: programs of one size
            try:
                found = self.seen_from(base, control, weights[rows], progress=progress)
            except NonFiniteError as error:
                raise NonFiniteError(self._complaint(control)) from error
            for name, part in found.items():
                values[name][rows] = part
        return values

    def _complaint(self, control: np.ndarray) -> str:
        """Where a number is not finite: at an end, or between."""
        for end, name in ((control[0], "first"), (control[-1], "last")):
            try:
                self.seen_from(end, np.stack([end, end]), np.zeros((1, 2)), progress=False)
            except NonFiniteError:
                return f"the loss or a metric is NaN or infinite at the {name} end; give parameters where it is finite."
        return "the loss or a metric is NaN or infinite between the ends; give ends that lie closer by."

    def seen_from(
        self, base: np.ndarray, control: np.ndarray, weights: np.ndarray, *, progress: bool | None
    ) -> dict[str, np.ndarray]:
        """The same at base + weights (control - base), for any one point as the base."""
        directions = control - base
        systems = {LOSS: self.loss, **self.metrics}
        if self.refresh is None:
            return {
                name: losses_on_plane(system, base, directions, weights, progress=progress)
                for name, system in systems.items()
            }
        rows: dict[str, list[float]] = {name: [] for name in systems}
        for row in track(weights.astype(base.dtype), "losses", show=progress):
            with double_scope(self.loss.double):
                renewed = self.refresh(self.loss.unravel(base + row @ directions))
            point = self.loss.vector(renewed)
            for name, system in systems.items():
                rows[name].append(system.value(point))
        return {name: np.asarray(column) for name, column in rows.items()}


def evaluator(loss: Loss, points: tuple[Any, ...], metrics: Metrics = None, refresh: Refresh = None) -> Evaluator:
    """What takes a loss and metrics between `points`; in float64 if one of them holds doubles.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: points that are not alike, or anything else that does not fit.
    """
    system = as_system(loss, points[0])
    if not isinstance(loss, System):
        for i, point in enumerate(points[1:], 1):
            require_alike(points[0], point, "the first end", "the last one" if i == len(points) - 1 else f"point {i}")
    system.require_targets()
    if has_float64(*points):
        system = system.as_float64()
    others = (
        {} if metrics is None else {str(name): as_system(metric, system.params) for name, metric in metrics.items()}
    )
    if LOSS in others:
        raise ValueError("`metrics` has an empty name; give each a word.")
    if system.double:
        others = {name: metric.as_float64() for name, metric in others.items()}
    return Evaluator(system, others, refresh)


def mean_over_length(losses: np.ndarray, arc: np.ndarray) -> float:
    """The mean of losses (n,) over the arc length (n,), by the trapezoid rule; of a path without length, its loss."""
    return float(np.trapezoid(losses, arc) / arc[-1]) if arc[-1] > 0 else float(losses[0])
