"""The barrier between two solutions: how far the loss rises on the straight line between them."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, bound, sampled
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.paths.profiles import LOSS, Evaluator, Loss, Metrics, Refresh, evaluator

BarrierKind = Literal["mean", "chord", "max"]
_REFINED = 9  # positions strictly inside of an interval, for one round of refinement
_WIDTH = 2e-6  # of the line, down to which the place of the maximum is sought, so that it is known to half of that


class Barrier(Result):
    """How far the loss rises on the straight line between two parameters, above what its ends explain."""

    source = "frankle2020linear"
    value: float = quantity(
        bound("lower", "the largest height that was seen, after refinement if it was asked for"),
        "barrier: largest height of the loss on the line above the reference of `kind`",
    )
    grid_value: float = quantity(bound("lower", "on the grid alone"), "largest height among the positions `t`")
    t_max: float = quantity(sampled("the highest position that was seen"), "where the height is `value`")
    kind: str = quantity(EXACT, "reference: mean of the ends, the chord between them, or the larger end")
    t: np.ndarray = quantity(EXACT, "positions from 0 to 1, (num,)")
    loss: np.ndarray = quantity(EXACT, "loss at (1 - t) a + t b, (num,)")
    metrics: Mapping[str, np.ndarray] = quantity(EXACT, "further numbers by name, at the positions (num,)")

    def __float__(self) -> float:
        return self.value

    def charts(self) -> tuple[Chart, ...]:
        """The loss on the line, the reference, and where the barrier is."""
        reference = _reference(self.kind, self.t, self.loss[0], self.loss[-1])
        peak = _reference(self.kind, np.array([self.t_max]), self.loss[0], self.loss[-1]) + self.value
        return (
            Chart(
                name="barrier",
                title="Loss on the straight line between two parameters",
                x_label="position t",
                y_label="loss",
                series=(
                    Series(self.t, self.loss, "loss"),
                    Series(self.t, reference, f"reference: {self.kind}"),
                    Series(np.array([self.t_max]), peak, "highest", style="points"),
                ),
                markers=(Marker(self.t_max, "barrier", axis="x"),),
                caption=f"Barrier {self.value:.4g}; on the {len(self.t)} positions of the line alone "
                f"{self.grid_value:.4g}.",
            ),
        )


def barrier(
    loss: Loss,
    a: Any,
    b: Any,
    *,
    num: int = 25,
    kind: BarrierKind = "mean",
    metrics: Metrics = None,
    refine: bool = True,
    refresh: Refresh = None,
    progress: bool | None = None,
) -> Barrier:
    """The barrier max_t [L((1 - t) a + t b) - R(t)] between two parameters, t from 0 to 1.

    The reference R is (L(a) + L(b)) / 2 for ``"mean"``, (1 - t) L(a) + t L(b) for ``"chord"``, and max(L(a), L(b)) for
    ``"max"``. The ends count, so with the last two the barrier is at least 0, and with the first at least
    |L(a) - L(b)| / 2.

    Args:
        loss: a `System`, or a function of the parameters that returns one number; the error, for the barrier of the
            error.
        a: where the line starts: a PyTree, or for a system also a flat vector.
        b: where it ends, likewise.
        num: equally spaced positions, both ends included; the default is that of the code of Git Re-Basin.
        kind: the reference.
        metrics: further systems or functions of the parameters, each of which returns one number, by name; taken on
            the grid.
        refine: search between the neighbors of the grid's highest position, down to 1e-6 of the line, with about
            60 evaluations. A peak that the grid does not point to is not found.
        refresh: maps the parameters at a position, as a PyTree, to those at which everything is taken there; for
            statistics of batch normalization, which are estimated anew at each position.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `Barrier`, of which ``float`` is the value; in float64 if one of the ends holds doubles.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the loss or a metric is NaN or infinite at a position.

    Cost: num forward passes for the loss and each metric, and about 60 for the refinement.

    Example:
        >>> valleys = lambda w: (w[0] ** 2 - 1) ** 2
        >>> found = barrier(valleys, np.array([-1.0]), np.array([1.0]), num=4)
        >>> round(found.value, 9), round(found.grid_value, 9)
        (1.0, 0.790123457)
    """
    checks.count(num, "num", "barrier", minimum=2)
    checks.choice(kind, "kind", BarrierKind)
    taker = evaluator(loss, (a, b), metrics, refresh)
    control = np.stack([taker.loss.vector(a), taker.loss.vector(b)])
    ts = np.linspace(0.0, 1.0, num)
    values = taker(control, _weights(ts), progress=progress)
    losses = values.pop(LOSS)
    heights = losses - _reference(kind, ts, losses[0], losses[-1])
    best = int(heights.argmax())
    place, height = float(ts[best]), float(heights[best])
    if refine:
        interval = (float(ts[max(best - 1, 0)]), float(ts[min(best + 1, num - 1)]))
        place, height = _refined(taker, control, kind, losses, interval, (place, height), progress)
    return Barrier(
        value=height,
        grid_value=float(heights[best]),
        t_max=place,
        kind=kind,
        t=ts,
        loss=losses,
        metrics=values,
    )


def _weights(ts: np.ndarray) -> np.ndarray:
    """What the two ends count at each position (T, 2)."""
    return np.column_stack([1 - ts, ts])


def _reference(kind: str, ts: np.ndarray, first: float, last: float) -> np.ndarray:
    """What the ends explain at each position."""
    if kind == "chord":
        return np.where(ts <= 0.5, first + ts * (last - first), last - (1 - ts) * (last - first))
    return np.full(len(ts), max(first, last) if kind == "max" else (first + last) / 2)


def _refined(
    taker: Evaluator,
    control: np.ndarray,
    kind: BarrierKind,
    losses: np.ndarray,
    interval: tuple[float, float],
    best: tuple[float, float],
    progress: bool | None,
) -> tuple[float, float]:
    """The highest position in an interval and its height, by nested grids; never lower than `best`."""
    alone = Evaluator(taker.loss, {}, taker.refresh)
    (low, high), (place, height) = interval, best
    base = control[0] if place <= 0.5 else control[-1]
    rounds = int(np.ceil(np.log((high - low) / _WIDTH) / np.log((_REFINED + 1) / 2)))
    for _ in track(range(rounds), "refinement", show=progress):
        step = (high - low) / (_REFINED + 1)
        ts = low + step * np.arange(1, _REFINED + 1)
        found = alone.seen_from(base, control, _weights(ts), progress=False)[LOSS]
        heights = found - _reference(kind, ts, losses[0], losses[-1])
        if heights.max() > height:
            place, height = float(ts[heights.argmax()]), float(heights.max())
        low, high = max(low, place - step), min(high, place + step)
    return place, height
