"""Elastic bands: a chain of parameters between two solutions, moved down until its maximum is a saddle of the loss."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any, Literal

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, bound, sampled
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.request import hashable
from widescape.curvature.segment import as_system, losses_on_segment
from widescape.paths.band_steps import OfBatch, Whole, advance, respaced_alone
from widescape.paths.polyline import PiecewiseLinearPath

Insertion = Literal["adaptive", "double"]
Loss = System | Callable[..., Any]

PUBLISHED_CYCLES = ((1000, 0.1),) * 4 + ((2000, 0.1),) * 2 + ((1000, 0.01),) * 4 + ((1000, 0.001),) * 4
"""Steps and learning rate of each cycle in the paper's experiments."""

_PARTS = 10  # of a gap in the dense evaluation: nine points between two pivots
_FIRST = (0.25, 0.5, 0.75)  # where the first cycle inserts into a gap
_EXCESS = 0.1  # of the range of dense losses, above which a gap gets pivots
_MOST = 2  # pivots that a later cycle inserts into one gap
_PIECE = 50  # steps of one call of the compiled program


class BandStatus(Status):
    """How the motion of a chain ended."""

    OK = "All cycles were run."
    DIVERGED = "A step led to an infinite or NaN loss; the best chain before it was kept. Lower the learning rate."


class NEBResult(Result):
    """A chain of pivots between two parameters, of the least dense maximum among the start and the ends of cycles.

    Positions are those of `PiecewiseLinearPath`: from 0 to 1, of which each gap takes an equal part.
    """

    source = "draxler2018essentially"
    status: BandStatus = quantity(EXACT, "how it ended")
    saddle: float = quantity(
        bound("lower", "of the chain's maximum, which is itself at least the least maximum over all paths"),
        "maximum of the dense losses",
    )
    t_saddle: float = quantity(sampled("first dense point of largest loss"), "its position, 0 to 1 by gaps")
    pivots: np.ndarray = quantity(sampled("found by descent"), "flat parameters, both ends included, (P, p)")
    pivot_losses: np.ndarray = quantity(EXACT, "loss at the pivots (P,)")
    positions: np.ndarray = quantity(EXACT, "positions of the pivots and of nine points in each gap, (D,)")
    dense: np.ndarray = quantity(EXACT, "loss of the chain at the positions (D,)")
    line: np.ndarray = quantity(EXACT, "loss of the straight line at the same positions (D,)")
    cycle: int = quantity(EXACT, "the cycle whose chain this is; 0 is where it started")
    history: np.ndarray = quantity(
        EXACT, "number, pivots and dense maximum (inf if not finite) of each cycle, 0 is the start, (C + 1, 3)"
    )

    @property
    def line_saddle(self) -> float:
        """The largest loss on the straight line, at as many points."""
        return float(self.line.max())

    @property
    def path(self) -> PiecewiseLinearPath:
        """The chain as a path of parameters.

        Raises:
            ValueError: the result was loaded from a file; ``system.unravel`` gives the parameters of each pivot.
        """
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError("this result was loaded or copied; make the path of `system.unravel(w) for w in pivots`.")
        return PiecewiseLinearPath([unravel(w) for w in self.pivots])

    def charts(self) -> tuple[Chart, ...]:
        """The loss along the chain and along the straight line, and the maximum after each cycle."""
        positive = bool((self.dense > 0).all() and (self.line > 0).all())
        tops = np.isfinite(self.history[:, 2])
        return (
            Chart(
                name="elastic_band",
                title="Loss along the chain and along the straight line",
                x_label="position",
                y_label="loss",
                series=(
                    Series(self.positions, self.dense, "chain"),
                    Series(self.positions[::_PARTS], self.pivot_losses, "pivots", style="points"),
                    Series(self.positions, self.line, "straight line"),
                ),
                y_scale="log" if positive else "linear",
                caption="Each gap between pivots has an equal part of the axis. The largest of "
                f"{len(self.dense)} losses is {self.saddle:.3g} on the chain and {self.line_saddle:.3g} on the line.",
            ),
            Chart(
                name="elastic_band_cycles",
                title="Largest loss on the chain after each cycle",
                x_label="cycle",
                y_label="loss",
                series=(Series(self.history[tops, 0], self.history[tops, 2], "chain", style="both"),),
                caption="Cycle 0 is where it started.",
            ),
        )


def neb(
    loss: Loss,
    a: Any,
    b: Any,
    *,
    num_pivots: int | None = None,
    steps: int = 1000,
    lr: float = 0.1,
    spring: float = float("inf"),
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    pivots: Any = None,
    batches: Iterable[Any] | None = None,
    report: Loss | None = None,
    progress: bool | None = None,
) -> NEBResult:
    """The nudged elastic band: pivots x_0 = a, ..., x_P = b descend the loss across their chain, not along it.

    At each inner pivot g = grad L(x) + weight_decay x loses its component along the tangent tau: g - (g . tau) tau.
    tau points along the gap to the higher neighbor. Where a pivot's loss is above, or below, that of both neighbors,
    tau is the normalized sum of the units along both gaps, of which the one to the higher neighbor is weighted by the
    larger of the two differences of losses, and the other one by the smaller. Then
    v' = momentum v + g and x' = x - lr v'.

    Each gap aims at the share of the chain's length that it has at the start. With an infinite spring the pivots are
    put there along the chain before each step and after the last one. A finite spring k instead adds
    k ((d_prev - t_prev) - (d_next - t_next)) tau to g, with d the length of a gap and t its share of the length.

    Args:
        loss: a `System`, or a function of the parameters that returns one number; with `batches` a function of
            (params, batch).
        a: where the chain starts: a PyTree, or for a system also a flat vector.
        b: where it ends, likewise.
        num_pivots: pivots, both ends included, equally spaced on the line; None for 10, or as many as `pivots`.
        steps: steps to take.
        lr: learning rate.
        spring: stiffness that keeps the spacing.
        momentum: in [0, 1).
        weight_decay: of the pivots, in the direction of descent alone; it is no part of the losses reported.
        pivots: a chain to start from instead of the line: PyTrees or flat vectors, its ends equal to `a` and `b`.
        batches: PyTrees of arrays, one for each step and the same for all pivots. A list or tuple starts over when it
            ends; an iterator must last for all steps.
        report: with `batches`, and only then: a `System` or a function of the parameters, the loss that is reported.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `NEBResult`: the chain where it started or where it ended, whichever has the lower dense maximum.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or too few batches.
        NonFiniteError: the loss is NaN or infinite at an end, on the line, or on the chain given.

    Cost: for each step about three forward passes for each inner pivot, one pivot at a time, so that the memory is that
    of one gradient and of about eight chains; ten forward passes for each gap in the end. One compiled program for each
    number of pivots.

    Example:
        >>> ring = neb(
        ...     lambda w: 4 * ((w**2).sum() - 1) ** 2,
        ...     np.array([-1.0, 0.0]),
        ...     np.array([1.0, 0.0]),
        ...     pivots=np.array([[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0]]),
        ...     steps=200,
        ...     lr=0.01,
        ... )
        >>> round(ring.saddle, 3), ring.line_saddle, ring.path.points[1].round(3).tolist()
        (1.0, 4.0, [0.0, 1.0])
    """
    band = _checked(
        "neb", loss, a, b, batches, report, spring=spring, momentum=momentum, weight_decay=weight_decay,
        progress=progress,
    )  # fmt: skip
    schedule = (_checked_cycle((steps, lr), "neb"),)
    if pivots is None:
        number = 10 if num_pivots is None else num_pivots
        checks.count(number, "num_pivots", "neb", minimum=3)
        inner = np.linspace(0, 1, number, dtype=band.start.dtype)[1:-1, None]
        chain = np.concatenate([band.start[None], band.start + inner * (band.end - band.start), band.end[None]])
    else:
        chain = _checked_pivots(band, pivots, num_pivots)
    return _moved(band, chain, schedule, None)


def auto_neb(
    loss: Loss,
    a: Any,
    b: Any,
    *,
    cycles: Sequence[tuple[int, float]] = PUBLISHED_CYCLES,
    insertion: Insertion = "adaptive",
    spring: float = float("inf"),
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batches: Iterable[Any] | None = None,
    report: Loss | None = None,
    progress: bool | None = None,
) -> NEBResult:
    """The automated nudged elastic band: cycles of `neb` from the straight line, with pivots added before each.

    The first cycle inserts three equally spaced pivots. Before each later one ``"adaptive"`` inserts at most two into a
    gap: at the highest peaks of the dense loss above the straight interpolation of the pivots' losses, where it
    exceeds a tenth of the range of all dense losses. ``"double"`` inserts the middle of each gap, so that the pivots
    double with every cycle: give few. Inserted pivots set the spacing of their cycle; momentum starts from rest.

    Args:
        loss: a `System`, or a function of the parameters that returns one number; with `batches` a function of
            (params, batch).
        a: where the chain starts: a PyTree, or for a system also a flat vector.
        b: where it ends, likewise.
        cycles: steps and learning rate of each; the default is that of the paper's experiments, for batches of 512
            and a weight decay of 1e-4. A curvature across the chain above 2 (1 + momentum) / lr makes it diverge.
        insertion: where pivots are added.
        spring: stiffness that keeps the spacing, as for `neb`.
        momentum: in [0, 1).
        weight_decay: of the pivots, in the direction of descent alone.
        batches: PyTrees of arrays, one for each step of all cycles, as for `neb`.
        report: with `batches`, and only then: a `System` or a function of the parameters, the loss that is reported.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `NEBResult`: of the straight line and the chain at the end of each cycle, the one with the lowest dense
        maximum. A run that diverges ends there.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or too few batches.
        NonFiniteError: the loss is NaN or infinite at an end, or on the line.

    Cost: that of `neb` for each cycle, and a compiled program for each number of pivots.

    Example:
        >>> ring = auto_neb(
        ...     lambda w: 4 * ((w**2).sum() - 1) ** 2 + w[1],
        ...     np.array([-1.0, 0.0]),
        ...     np.array([1.0, 0.0]),
        ...     cycles=((200, 0.01),) * 2,
        ... )
        >>> bool(ring.saddle < ring.line_saddle), ring.history[:, 1].astype(int).tolist()[:2]
        (True, [2, 5])
    """
    band = _checked(
        "auto_neb", loss, a, b, batches, report, spring=spring, momentum=momentum, weight_decay=weight_decay,
        progress=progress,
    )  # fmt: skip
    checks.choice(insertion, "insertion", Insertion)
    schedule = tuple(_checked_cycle(pair, "auto_neb") for pair in cycles)
    if not schedule:
        raise ValueError("`cycles` is empty; give at least one pair of steps and learning rate.")
    return _moved(band, np.stack([band.start, band.end]), schedule, insertion)


# The cycles.


@dataclass(frozen=True)
class _Chain:
    """Pivots (P, p) and the dense losses of their chain ((P - 1) parts + 1,)."""

    pivots: np.ndarray
    dense: np.ndarray

    @property
    def saddle(self) -> float:
        return float(self.dense.max())


@dataclass(frozen=True)
class _Band:
    """A checked request: what is common to all cycles."""

    system: System
    start: np.ndarray
    end: np.ndarray
    loss: Whole | OfBatch
    batches: Iterator[Any] | None
    spring: float
    momentum: float
    weight_decay: float
    progress: bool | None

    def measured(self, pivots: np.ndarray) -> _Chain:
        """Raises NonFiniteError if the loss is not finite everywhere."""
        grid = np.arange(_PARTS) / _PARTS
        if not np.isfinite(np.diff(pivots, axis=0)).all():
            raise NonFiniteError("a pivot is infinite or NaN.")
        gaps = pairwise(pivots)
        parts = [losses_on_segment(self.system, x, y, grid, progress=False) for x, y in gaps]
        return _Chain(pivots, np.concatenate([*parts, [self.system.value(pivots[-1])]]))

    def descended(self, pivots: np.ndarray, steps: int, lr: float, title: str) -> tuple[np.ndarray, bool]:
        """The chain after the steps and whether all was finite; else the last chain with finite losses."""
        rigid, kind = np.isinf(self.spring), pivots.dtype.type
        numbers = tuple(kind(v) for v in (lr, self.momentum, self.weight_decay, 0 if rigid else self.spring))
        lengths = np.linalg.norm(np.diff(pivots, axis=0), axis=1)
        whole = lengths.sum()
        shares = lengths / whole if whole > 0 else np.full_like(lengths, 1 / len(lengths))
        state = (pivots, np.zeros_like(pivots[1:-1]), pivots, np.True_)
        total = steps if self.batches is not None else -(-steps // _PIECE)
        for count, data in track(self._pieces(steps), title, total=total, show=self.progress):
            with double_scope(self.system.double):
                state = advance(self.loss, bool(rigid), state, count, shares, numbers, data)
                if not state[3]:
                    return np.asarray(state[2]), False
        with double_scope(self.system.double):
            return np.asarray(respaced_alone(state[0], shares) if rigid else state[0]), True

    def _pieces(self, steps: int) -> Iterator[tuple[int, Any]]:
        """How many steps to take next, and on which data."""
        if self.batches is None:
            for first in range(0, steps, _PIECE):
                yield min(_PIECE, steps - first), self.system.arrays
            return
        for step in range(steps):
            try:
                batch = next(self.batches)
            except StopIteration:
                raise ValueError(f"`batches` ended before step {step + 1} of {steps}; give one for each.") from None
            yield 1, batch


def _moved(
    band: _Band, start: np.ndarray, cycles: tuple[tuple[int, float], ...], insertion: Insertion | None
) -> NEBResult:
    """Run the cycles, and keep the best chain."""
    chain = best = band.measured(start)
    rows = [(0, len(start), chain.saddle)]
    kept, fine = 0, True
    for number, (steps, lr) in enumerate(cycles, 1):
        begin = chain.pivots if insertion is None else _inserted(chain, insertion, first=number == 1)
        pivots, fine = band.descended(begin, steps, lr, f"cycle {number} of {len(cycles)}, {len(begin)} pivots")
        try:
            chain = band.measured(pivots)
        except NonFiniteError:
            fine = False
            rows.append((number, len(pivots), float("inf")))
            break
        rows.append((number, len(pivots), chain.saddle))
        if chain.saddle < best.saddle:
            best, kept = chain, number
        if not fine:
            break
    return _result(band, best, kept, np.asarray(rows), BandStatus.OK if fine else BandStatus.DIVERGED)


def _result(band: _Band, chain: _Chain, number: int, history: np.ndarray, status: BandStatus) -> NEBResult:
    positions = np.arange(len(chain.dense)) / (len(chain.dense) - 1)
    result = NEBResult(
        status=status,
        saddle=chain.saddle,
        t_saddle=float(positions[chain.dense.argmax()]),
        pivots=chain.pivots,
        pivot_losses=chain.dense[::_PARTS],
        positions=positions,
        dense=chain.dense,
        line=losses_on_segment(band.system, band.start, band.end, positions, progress=False),
        cycle=number,
        history=history,
    )
    object.__setattr__(result, "_unravel", band.system.unravel)
    return result


def _inserted(chain: _Chain, insertion: Insertion, *, first: bool) -> np.ndarray:
    """The pivots with those that the next cycle adds."""
    rows = []
    places: tuple[float, ...]
    for i, (x, y) in enumerate(pairwise(chain.pivots)):
        if first:
            places = _FIRST
        elif insertion == "double":
            places = (0.5,)
        else:
            places = _peaks(chain.dense[i * _PARTS : (i + 1) * _PARTS + 1], _EXCESS * float(np.ptp(chain.dense)))
        rows += [x, *(x + x.dtype.type(t) * (y - x) for t in places)]
    return np.stack([*rows, chain.pivots[-1]])


def _peaks(losses: np.ndarray, limit: float) -> tuple[float, ...]:
    """The highest peaks of the losses in a gap above the line between its ends, where they exceed the limit."""
    grid = np.arange(_PARTS + 1) / _PARTS
    excess = losses - ((1 - grid) * losses[0] + grid * losses[-1])
    inner = excess[1:-1]
    tops = np.flatnonzero((inner > limit) & (inner >= excess[:-2]) & (inner > excess[2:]))
    highest = tops[np.argsort(-inner[tops], kind="stable")][:_MOST]
    return tuple(grid[np.sort(highest) + 1].tolist())


# The arguments.


def _checked(
    owner: str,
    loss: Any,
    a: Any,
    b: Any,
    batches: Iterable[Any] | None,
    report: Any,
    *,
    spring: Any,
    momentum: Any,
    weight_decay: Any,
    progress: bool | None,
) -> _Band:
    if batches is None and report is not None:
        raise TypeError(f"{owner}: `report` belongs to `batches`; without them `loss` is the full loss.")
    if batches is not None and report is None:
        raise TypeError(
            f"{owner}: with `batches`, `report` is needed: the loss of parameters alone whose maximum is told."
        )
    if batches is not None and (isinstance(loss, System) or not callable(loss)):
        raise TypeError(f"{owner}: `loss` is {loss!r}; with `batches` it must be a function of (params, batch).")
    system = as_system(loss if batches is None else report, a)
    if has_float64(a, b):
        system = system.as_float64()
    system.require_targets()
    ends = {"a": system.vector(a), "b": system.vector(b)}
    for name, w in ends.items():
        try:
            system.value(w)
        except NonFiniteError as error:
            raise NonFiniteError(f"the loss is NaN or infinite at `{name}`; a chain needs finite ends.") from error
    stiffness = spring if spring == float("inf") else checks.number(spring, "spring", owner)
    checks.positive(stiffness, "spring", owner)
    beta, decay = checks.number(momentum, "momentum", owner), checks.number(weight_decay, "weight_decay", owner)
    if not 0 <= beta < 1:
        raise ValueError(f"{owner}: `momentum` is {momentum}; it must lie in [0, 1).")
    checks.not_negative(decay, "weight_decay", owner)
    whole = Whole(system.operators)
    feed = None if batches is None else cycle(batches) if isinstance(batches, list | tuple) else iter(batches)
    return _Band(
        system=system,
        start=ends["a"],
        end=ends["b"],
        loss=whole if batches is None else OfBatch(hashable(loss), system.operators),
        batches=feed,
        spring=stiffness,
        momentum=beta,
        weight_decay=decay,
        progress=progress,
    )


def _checked_cycle(pair: Any, owner: str) -> tuple[int, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ShapeError(f"{owner}: `cycles` has the entry {pair!r}; give pairs of steps and learning rate.")
    steps, lr = pair
    checks.count(steps, "steps", owner)
    rate = checks.number(lr, "lr", owner)
    checks.positive(rate, "lr", owner)
    return int(steps), rate


def _checked_pivots(band: _Band, pivots: Any, num_pivots: int | None) -> np.ndarray:
    chain = np.stack([band.system.vector(w) for w in pivots]) if len(pivots) else np.zeros((0, 0))
    if len(chain) < 3 or num_pivots not in (None, len(chain)):
        wanted = "at least 3" if num_pivots is None else f"{num_pivots}, as in `num_pivots`"
        raise ShapeError(f"`pivots` has {len(chain)} entries; give {wanted}, both ends included.")
    if not (np.array_equal(chain[0], band.start) and np.array_equal(chain[-1], band.end)):
        raise ValueError("`pivots` does not start at `a` and end at `b`; put the two first and last.")
    return chain
