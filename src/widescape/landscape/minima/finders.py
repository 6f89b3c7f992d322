"""Critical points of a loss: searches that go on to their end, and what is found there."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonDifferentiableWarning
from widescape.core.evidence import EXACT, Evidence, bound, sampled
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.inspection import kinks
from widescape.curvature.krylov import top_eigs
from widescape.curvature.margins import kink_margin
from widescape.landscape.minima.damped_newton import walk_damped_newton
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.gradient_flat import (
    DENSE_UP_TO,
    FLAT_R,
    FLAT_R_H,
    KINK,
    RCOND,
    flatness_by_products,
    flatness_of,
    inexact_step,
    truncated_steps,
)
from widescape.landscape.minima.gradient_norm import walk_gradient_norm
from widescape.landscape.minima.newton_mr import walk_newton_mr
from widescape.landscape.minima.starts import started
from widescape.landscape.minima.walks import Walks

FinderMethod = Literal["newton_mr", "damped_newton", "gnm"]

_NEGATIVE = -1e-5  # eigenvalues below count in the index
_MAX_STEPS = {"newton_mr": 500, "damped_newton": 500, "gnm": 25_000}
_TOGETHER = 128  # parameters up to which many points share each call of a program
_MOST_TOGETHER = 256  # such points
_SOME_EIGS = 10
_LANCZOS_STEPS = 500  # eigenvalues near 0 would take many more to a relative tolerance, and are bounds before
_ROUNDED = Evidence("exact", note="of the Hessian as computed, up to eps times its norm")
_COUNTED = Evidence("exact", note="counted among all eigenvalues as computed")
_BEYOND_DENSE = {
    "index": bound("lower", "of the smallest eigenvalues that Lanczos' method found; there may be more"),
    "fraction": bound("lower", "of the smallest eigenvalues that Lanczos' method found; there may be more"),
    "eigs": bound("upper", "Ritz values: the i-th is at least the i-th smallest eigenvalue"),
    "r": sampled("|H|_F is estimated from 30 products with random signs, within about a quarter"),
    "r_H": sampled("|H|_F is estimated from 30 products with random signs, within about a quarter"),
}


class PointStatus(Status):
    """What a search for a critical point ended at."""

    CRITICAL = "A critical point: the squared norm of the gradient is below the tolerance."
    DIVERGING = (
        "The gradient is small, but steps did not shrink and the parameters grew: it may vanish at infinity only."
    )
    GRADIENT_FLAT = "A gradient-flat point and not a critical one: the gradient lies in the kernel of the Hessian."
    STALLED = "The search stopped where the gradient is not small, at a point that is not gradient-flat either."
    LIMIT = "The steps ran out before the search ended, at a point that is not gradient-flat; raise `max_steps`."

    @property
    def ok(self) -> bool:
        """Whether a critical point was found."""
        return self is PointStatus.CRITICAL


class CPReport(Result):
    """Where a search for a critical point ended."""

    source = "frye2019critical"
    status: PointStatus = quantity(EXACT, "what it ended at")
    w: np.ndarray = quantity(EXACT, "flat parameters of the last point (p,)")
    loss: float = quantity(EXACT, "L there")
    g2: float = quantity(EXACT, "squared norm of the gradient there")
    index: int = quantity(_COUNTED, "eigenvalues of the Hessian below -1e-5")
    fraction: float = quantity(_COUNTED, "index over p")
    eigs: np.ndarray = quantity(_ROUNDED, "eigenvalues of the Hessian, rising: all, or the smallest of a large one")
    r: float = quantity(EXACT, "|H p + g| / (|H|_F |p| + |g|) of an inexact step p of least length")
    r_H: float = quantity(EXACT, "|H (H p + g)| / (|H|_F |H p + g|)")  # noqa: N815
    trace: np.ndarray = quantity(EXACT, "squared norm of the gradient at the start and after each step (T + 1,)")
    num_steps: int = quantity(EXACT, "steps taken, T")
    method: str = quantity(EXACT, "newton_mr, damped_newton or gnm")

    @property
    def theta(self) -> Any:
        """The last point as a PyTree like the starts.

        Raises:
            ValueError: the report was loaded from a file; ``system.unravel(report.w)`` gives it.
        """
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError("this report was loaded or copied; `system.unravel(report.w)` gives its parameters.")
        return unravel(self.w)

    def charts(self) -> tuple[Chart, ...]:
        """The squared norm of the gradient against steps."""
        shown = np.flatnonzero(self.trace > 0)
        return (
            Chart(
                name="gradient",
                title="Squared norm of the gradient during a search for a critical point",
                x_label="step",
                y_label="squared norm of the gradient",
                series=(Series(shown, self.trace[shown], self.method),),
                y_scale="log" if shown.size else "linear",
                caption=f"{self.status} r = {self.r:.3g}, r_H = {self.r_H:.3g}.",
            ),
        )


def find_critical_points(
    L: System | Callable[[Any], Any],  # noqa: N803
    starts: Sequence[Any],
    method: FinderMethod = "newton_mr",
    *,
    dense: bool | None = None,
    rcond: float | None = None,
    max_steps: int | None = None,
    tol: float = 1e-10,
    progress: bool | None = None,
    key: jax.Array | None = None,
    allow_float32: bool = False,
) -> list[CPReport]:
    """Search for points where the gradient g of a loss vanishes, one from each start, in float64.

    All three methods lower |g|, and so does a point where g lies in the kernel of the Hessian H attract all three. A
    search therefore goes on until it cannot move, and is judged only then: |g|^2 < tol is a critical point; else
    r > 0.9 and r_H < 5e-4 (see `flatness`) is a gradient-flat one; anything else is neither. A loss whose gradient
    vanishes at infinity only, as exp(-w), has a small one far out too: where |g|^2 < tol, but |w| grew by more than a
    hundredth in the last half of at least four steps and the last of these is no shorter than a quarter of their mean,
    the search is called diverging.

    ``"newton_mr"`` takes steps -H^+ g of least length with a line search on |g|. ``"damped_newton"`` takes the best of
    six dampings. ``"gnm"`` descends on |g|^2 / 2, which needs no linear solver and the most steps.

    Args:
        L: the loss: a `System`, or a function of the parameters alone.
        starts: parameters like those of L, each a PyTree or flat, in a list; or all stacked, as `Problem.starts` makes
            them: a matrix with a start in each row, or a PyTree whose leaves have starts along their first axis. Of a
            function, only a dictionary can be such a PyTree; of a `System`, whatever has its structure.
        method: which of the three.
        dense: whether Hessians are assembled and decomposed for steps, rather than solved with by MINRES-QLP; None for
            up to 2000 parameters. Decomposed and truncated ones are faster on small problems and succeed less often on
            some larger ones: of searches on a linear autoencoder 16-4-16, 3 of 10 did, and 17 of 20 with False.
        rcond: eigenvalues of H of at most this times the largest in size count as zero in steps of Newton-MR and in
            r and r_H, where Hessians are decomposed. None for 1e-4, which keeps r_H below it. Far below, r hides
            gradient-flat points. Beyond 2000 parameters it needs ``dense=True``.
        max_steps: most steps; None for 500, or 25 000 of ``"gnm"``.
        tol: on |g|^2. From 1e-8 on, points that are not critical distort the map of losses and indices.
        progress: show a progress bar; None shows it on a terminal.
        key: of the Lanczos searches for eigenvalues of large Hessians; None for ``jax.random.key(0)``.
        allow_float32: start from parameters of single precision, and from functions that compute in it.

    Returns:
        a `CPReport` for each start, in order. Up to 2000 parameters, or with ``dense=True``, it has all eigenvalues and
        the index; beyond, `eigs` are the 10 smallest Ritz values and `index` is a lower bound.

    Raises:
        PrecisionError: single precision, unless it is allowed.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: a derivative at a start is NaN or infinite.
        MemoryBudgetError: Hessians that are to be decomposed do not fit; says how much they need.

    Warns:
        NonDifferentiableWarning: a search ended within 1e-9 of a kink.

    Cost: a step takes p products with the Hessian and 10 p^3 flops where it is assembled, and at most p products
    elsewhere; and where a search ends, those of the Hessian up to 2000 parameters. Up to 128 parameters the points
    share each call.

    Example:
        >>> found = find_critical_points(lambda w: w[0] ** 3 / 3 - w[0] + w[1] ** 2, [np.array([-3.0, 1.0])])
        >>> found[0].theta.round(9).tolist(), found[0].index, found[0].status.name
        ([-1.0, 0.0], 1, 'CRITICAL')
    """
    checks.choice(method, "method", FinderMethod)
    steps = _MAX_STEPS[method] if max_steps is None else max_steps
    checks.count(steps, "max_steps", "find_critical_points")
    checks.positive(checks.number(tol, "tol", "find_critical_points"), "tol", "find_critical_points")
    system, points = started(L, starts, allow_float32)
    own_rcond = _rcond(dense, rcond, points.shape[1])
    reports, at = [], Derivatives(system)
    size = min(len(points), _MOST_TOGETHER, at.directions_at_once) if points.shape[1] <= _TOGETHER else 1
    if own_rcond is not None:
        at.require_memory(size, "find_critical_points")
    with threads_for(points.shape[1]):
        for first in range(0, len(points), size):
            part = points[first : first + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            walks = _walk(at, padded, method, own_rcond, steps, progress)
            reports += _reports(walks, method, own_rcond, float(tol), key)[: len(part)]
    _warn_of_kinks(system, reports)
    for report in reports:
        object.__setattr__(report, "_unravel", system.unravel)
    return reports


def index_chart(reports: Sequence[CPReport]) -> Chart:
    """The map of critical points: the loss against the share of negative eigenvalues of the Hessian.

    Points at which searches ended elsewhere are drawn too, under their own labels.

    Args:
        reports: of `find_critical_points`.

    Raises:
        ValueError: there are none.

    Example:
        >>> found = find_critical_points(lambda w: (w**2).sum(), [np.array([1.0])])
        >>> [(s.label, s.x.tolist()) for s in index_chart(found).series]
        [('critical', [0.0])]
    """
    if not reports:
        raise ValueError("`reports` is empty; give what `find_critical_points` returned.")
    series = []
    for status in PointStatus:
        own = [report for report in reports if report.status is status]
        if own:
            label = status.name.lower().replace("_", "-")
            losses, shares = [report.loss for report in own], [report.fraction for report in own]
            series.append(Series(np.array(shares), np.array(losses), label, style="points"))
    found = sum(report.status.ok for report in reports)
    return Chart(
        name="index",
        title="Loss and index of critical points",
        x_label="share of negative eigenvalues of the Hessian",
        y_label="loss",
        series=tuple(series),
        caption=f"{found} of {len(reports)} searches ended at a critical point.",
    )


def _rcond(dense: bool | None, rcond: float | None, num_params: int) -> float | None:
    """The rank tolerance of decomposed Hessians; None where they are not assembled."""
    decomposed = num_params <= DENSE_UP_TO if dense is None else dense
    if rcond is None:
        return RCOND if decomposed else None
    if dense is False:
        raise ValueError("`rcond` belongs to decomposed Hessians; leave it out, or `dense=False`.")
    if not decomposed:
        raise ValueError(
            f"`rcond` belongs to decomposed Hessians, and there are {num_params} parameters: beyond {DENSE_UP_TO} they "
            "are decomposed with `dense=True` only; pass it as well, or leave `rcond` out."
        )
    value = checks.number(rcond, "rcond", "find_critical_points")
    if not 0 <= value < 1:
        raise ValueError(f"`rcond` is {rcond}; it must lie in [0, 1).")
    return float(value)


def _walk(
    at: Derivatives, w: np.ndarray, method: FinderMethod, rcond: float | None, steps: int, progress: bool | None
) -> Walks:
    if method == "newton_mr":
        return walk_newton_mr(at, w, rcond, steps, progress=progress)
    if method == "damped_newton":
        return walk_damped_newton(at, w, steps, dense=rcond is not None, progress=progress)
    return walk_gradient_norm(at, w, steps, progress=progress)


def _reports(walks: Walks, method: str, rcond: float | None, tol: float, key: jax.Array | None) -> list[CPReport]:
    """What the points are at which searches ended."""
    at, w, gradients = walks.at, walks.w, walks.gradients
    losses = at.values(w)
    assembled = rcond is not None or w.shape[1] <= DENSE_UP_TO
    hessians = at.hessians(w) if assembled else np.empty(0)
    if rcond is not None:
        moves = truncated_steps(hessians, gradients, rcond)
    else:
        moves = np.stack([inexact_step(at, point, g).x for point, g in zip(w, gradients, strict=True)])
    if assembled:
        eigs = list(np.linalg.eigvalsh(hessians))
        pairs = list(zip(*flatness_of(hessians, gradients, moves), strict=True))
    else:
        eigs = [_smallest(at, point, key) for point in w]
        pairs = [flatness_by_products(at, *own) for own in zip(w, gradients, moves, strict=True)]
    reports = []
    for i, (r, r_h) in enumerate(pairs):
        index = int(np.sum(eigs[i] < _NEGATIVE))
        g2 = float(walks.g2[i])
        reports.append(
            CPReport(
                status=_judged(walks, i, (float(r), float(r_h)), tol),
                w=w[i].copy(),
                loss=float(losses[i]),
                g2=g2,
                index=index,
                fraction=index / w.shape[1],
                eigs=eigs[i],
                r=float(r),
                r_H=float(r_h),
                trace=np.array(walks.traces[i]),
                num_steps=len(walks.traces[i]) - 1,
                method=method,
                stands={} if assembled else _BEYOND_DENSE,
            )
        )
    return reports


def _judged(walks: Walks, row: int, flat: tuple[float, float], tol: float) -> PointStatus:
    if walks.g2[row] < tol:
        return PointStatus.DIVERGING if walks.diverges(row) else PointStatus.CRITICAL
    if flat[0] > FLAT_R and flat[1] < FLAT_R_H:
        return PointStatus.GRADIENT_FLAT
    return PointStatus.LIMIT if walks.active[row] else PointStatus.STALLED


def _smallest(at: Derivatives, w: np.ndarray, key: jax.Array | None) -> np.ndarray:
    """Ritz values of the smallest eigenvalues, rising."""
    count = min(_SOME_EIGS, w.size)
    found = top_eigs(lambda v: at.product(w, v), w.size, count, "SA", max_steps=_LANCZOS_STEPS, key=key, vectors=False)
    return np.sort(found.eigs)


def _warn_of_kinks(system: System, reports: list[CPReport]) -> None:
    if not kinks(system):
        return
    near = [i for i, report in enumerate(reports) if kink_margin(system, report.w) < KINK]
    if near:
        warnings.warn(
            f"{len(near)} of {len(reports)} searches ended within {KINK:.0e} of a kink of the function (first: start "
            f"{near[0]}), where gradient and Hessian are those of one side; shift the kinks off the data.",
            NonDifferentiableWarning,
            stacklevel=3,
        )
