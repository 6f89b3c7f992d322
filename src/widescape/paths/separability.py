"""Whether an affine map separates labeled features, with weights that do or multipliers that rule it out."""

import time
from typing import Any

import numpy as np
from scipy import linalg, optimize, sparse

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import DtypeError, ShapeError
from widescape.core.evidence import EXACT, bound, certified, proved, sampled
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.paths.farkas import (
    ROUNDOFF,
    Conflict,
    Map,
    Problem,
    conflict_of,
    differences_of,
    rational,
)

_PENALTIES = (1e-3, 1e-5, 1e-7, 1e-9)
_STEPS_PER_PENALTY = 300
_CUTS_PER_ROUND = 500

_BY_MARGIN = certified("every z_iy - z_ik exceeds the rounding error of its evaluation")
_BY_RATIONAL_MULTIPLIERS = proved("Farkas' lemma, with multipliers found in rational arithmetic beside these")


class SeparabilityStatus(Status):
    """How the search for a separating affine map ended."""

    OK = "decided, with a proof"
    TIME = "the time limit ended the search"
    SIZE = "the linear program reached its largest size"
    PRECISION = "the margin, if there is one, is too small for double precision to decide"


class Separability(Result):
    """Whether the largest output of some affine map z = x W + b is the label, strictly and on every row.

    A constraint belongs to a row i and a wrong class k: z_iy > z_ik for the label y of i. If there are multipliers
    lambda_ik >= 0 with sum 1 and sum lambda_ik (e_y - e_k) (x_i, 1) = 0, no map meets all constraints, and by Farkas'
    lemma there are some whenever no map does.
    """

    source = "nguyen2021connectivity"
    separable: bool | None = quantity(_BY_MARGIN, "whether an affine map separates the labels; None if undecided")
    status: SeparabilityStatus = quantity(EXACT, "how the search ended")
    error: float = quantity(
        bound("upper", "of the least error of any affine map"),
        "share of rows on which the label is not the strict argmax of the map found",
    )
    margin: float | None = quantity(
        bound("lower", "of the largest margin of any affine map, rounding counted"),
        "min over i and k != y_i of z_iy - z_ik, divided by the Frobenius norm of W; None unless separable",
        unit="units of the features",
    )
    weights: np.ndarray = quantity(EXACT, "W of the map found (d, c); where separable, the smallest z_iy - z_ik is 1")
    bias: np.ndarray = quantity(EXACT, "b of the map found (c,)")
    margins: np.ndarray = quantity(
        EXACT,
        "min over k != y_i of z_iy - z_ik, divided by the Frobenius norm of W, (N,)",
        unit="units of the features",
    )
    multipliers: np.ndarray | None = quantity(
        EXACT,
        "of the constraints in conflict, positive, with sum 1, (s,); also where they cancel up to rounding and nothing "
        "is decided; None if there are none",
    )
    conflict_rows: np.ndarray | None = quantity(EXACT, "row i of each constraint with a multiplier (s,)")
    conflict_classes: np.ndarray | None = quantity(EXACT, "wrong class k of each constraint there (s,)")
    residual: float | None = quantity(
        bound("upper", "rounding counted"),
        "Frobenius norm of sum lambda_ik (e_y - e_k) (x_i, 1), columns of x standardized: an upper bound on the "
        "smallest z_iy - z_ik over all maps of these with |(W, b)|_F = 1, whether or not it is decided that exact "
        "multipliers exist",
    )
    rank: int = quantity(EXACT, "numerical rank of the features with a column of ones")
    num_examples: int = quantity(EXACT, "rows N")
    dim: int = quantity(EXACT, "features d")
    num_classes: int = quantity(EXACT, "classes c")

    def charts(self) -> tuple[Chart, ...]:
        """The margins of the rows, in rising order."""
        if not np.isfinite(self.margins).all():
            return ()
        share = np.arange(1, self.num_examples + 1) / self.num_examples
        return (
            Chart(
                name="margins",
                title="Margins of an affine map of the features",
                x_label="share of examples",
                y_label="margin",
                series=(Series(share, np.sort(self.margins), "examples, sorted", style="both"),),
                markers=(Marker(0.0, "misclassified below"),),
                caption=f"Output of the label less the largest other output, per Frobenius norm of the weights; "
                f"{self.error:.3g} of the examples are not above 0.",
            ),
        )


def linear_separability(
    F: Any,  # noqa: N803
    y: Any,
    *,
    time_limit: float = 60.0,
    max_constraints: int = 20_000,
    progress: bool | None = None,
) -> Separability:
    """Whether some affine map z = x W + b has its strict largest output at the label, for every row x of F.

    Yes comes with W and b, checked on all rows against the rounding error of the check: z_iy - z_ik > 0 for all i and
    all k != y_i. No comes with the rows in conflict: multipliers >= 0 of constraints (i, k) under which
    sum lambda_ik (z_iy - z_ik) = 0 for every W and b, so that not all of them can be positive. That exact multipliers
    exist is shown by rational arithmetic, or by constraints that span all maps with room for the residual; a residual
    that is only small is no verdict.

    In this order: equal rows with different labels; rank N of (F, 1), where any labels are separable, by least
    squares; logistic regression under a falling penalty; a linear program for the largest margin with |W|, |b| <= 1,
    to which violated constraints are added in rounds, and whose dual holds the multipliers.

    Args:
        F: features (N, d), or (N, ...) with the axes of an example flattened.
        y: labels 0, ..., c - 1 as integers (N,), where c is one more than the largest, or one-hot rows (N, c).
        time_limit: after how many seconds the search ends undecided; checked between steps, and by the solver.
        max_constraints: the same for the number of constraints in the linear program.
        progress: show the rounds of the linear program; None shows them on a terminal.

    Returns:
        a `Separability`; `separable` is None, and `status` says why, where a limit is reached or where the answer
        hangs on rounding. Then there may be multipliers all the same, found in floating point and too many for rational
        arithmetic or refuted by it: no proof of anything, but by `residual` no map separates by more than a little. A
        `margin` is infinite where a bias alone separates (one label). Repeated rows count once as constraints. The map
        found is not the one of largest margin.

    Raises:
        ShapeError: features without rows or columns, or labels of another shape.
        DtypeError: features that are not floating point, or labels that are neither integers nor one-hot.
        ValueError: NaN or infinite features, negative labels, rows that are not one-hot, or limits that do not fit.

    Cost: N d^2 flops for the rank, about 1,200 passes over the features for the regression, and linear programs
    with (d + 1) c variables.

    Example:
        >>> F = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> linear_separability(F, np.array([0, 1, 1, 1])).separable
        True
        >>> xor = linear_separability(F, np.array([0, 1, 1, 0]))
        >>> xor.separable, sorted(xor.conflict_rows.tolist()), xor.multipliers.round(9).tolist()
        (False, [0, 1, 2, 3], [0.25, 0.25, 0.25, 0.25])
    """
    limit = checks.number(time_limit, "time_limit", "linear_separability")
    checks.positive(limit, "time_limit", "linear_separability")
    checks.count(max_constraints, "max_constraints", "linear_separability")
    features = np.asarray(checks.batch(F, "F")).reshape(len(F), -1) + 0.0  # no -0.0, so that equal rows are equal bits
    labels, num_classes = _labels(y, len(features))
    search = _Search(features, labels, num_classes, time.monotonic() + limit)
    status, conflict = search.run(max_constraints, progress)
    return search.report(status, conflict)


class _Search:
    """The best map found so far, and the steps that look for a better one or for a conflict."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int, deadline: float) -> None:
        self.features, self.labels, self.num_classes, self.deadline = features, labels, num_classes, deadline
        distinct, self.clash = _distinct_rows(features, labels)
        self.problem = _standardize(features, labels, distinct)
        self.rank = _rank(self.problem.extended)
        self.best = Map(np.zeros((features.shape[1], num_classes)), np.eye(num_classes)[labels[0]])
        self.errors, self.lower = self._check(self.best)
        self.unproved: Conflict | None = None

    def run(self, max_constraints: int, progress: bool | None) -> tuple[SeparabilityStatus, Conflict | None]:
        """Decide, or say why not."""
        problem = self.problem
        if self.lower > 0:
            return SeparabilityStatus.OK, None
        if self.clash is None and self.rank == len(problem.x):
            solution = np.linalg.lstsq(problem.extended, np.eye(len(problem.classes))[problem.labels], rcond=None)[0]
            if self.offer(Map(solution[:-1], solution[-1])):
                return SeparabilityStatus.OK, None
        found = Map(np.zeros((problem.x.shape[1], len(problem.classes))), np.zeros(len(problem.classes)))
        for penalty in _PENALTIES:
            found = _logistic(problem, found, penalty, self.deadline)
            if self.offer(found):
                return SeparabilityStatus.OK, None
        if self.clash is not None:
            return SeparabilityStatus.OK, self.clash
        return self._cut(found, max_constraints, progress)

    def offer(self, found: Map) -> bool:
        """Keep a map of the standardized features if it is better; whether it separates for certain."""
        candidate = self._mapped_back(found)
        errors, lower = self._check(candidate)
        if lower > 0 or errors < self.errors:
            self.best, self.errors, self.lower = candidate, errors, lower
        return lower > 0

    def _cut(
        self, found: Map, max_constraints: int, progress: bool | None
    ) -> tuple[SeparabilityStatus, Conflict | None]:
        """Maximize the margin under a growing set of constraints, until it is met by all or is zero."""
        chosen = _smallest(self.problem.differences(found), np.inf)
        for _ in track(iter(range(max_constraints)), "constraints on a separating map", show=progress):
            left = self.deadline - time.monotonic()
            if left <= 0:
                return SeparabilityStatus.TIME, None
            if len(chosen) > max_constraints:
                return SeparabilityStatus.SIZE, None
            solution, failure = _largest_margin(self.problem, chosen, left)
            if solution is None:
                return failure, None
            found, margin, multipliers = solution
            if self.offer(found):
                return SeparabilityStatus.OK, None
            conflict = self._confirmed(conflict_of(self.problem, chosen, multipliers))
            if conflict is not None:
                return SeparabilityStatus.OK, conflict
            added = np.setdiff1d(_smallest(self.problem.differences(found), margin / 2), chosen)
            if added.size == 0:
                return SeparabilityStatus.PRECISION, None
            chosen = np.concatenate([chosen, added])
        return SeparabilityStatus.SIZE, None

    def _confirmed(self, conflict: Conflict | None) -> Conflict | None:
        """A conflict that is proved; one that only seems to hold is remembered for the report."""
        if conflict is None or conflict.evidence is not None:
            return conflict
        if rational(self.features, conflict, self.labels):
            return conflict._replace(evidence=_BY_RATIONAL_MULTIPLIERS)
        self.unproved = conflict
        return None

    def report(self, status: SeparabilityStatus, conflict: Conflict | None) -> Separability:
        """The result, with what proves it."""
        separable = None if not status.ok else conflict is None
        proof = conflict.evidence if conflict else None
        stands = {} if separable else {"separable": proof or sampled("the search gave up")}
        shown = conflict if status.ok else self.unproved
        norm = _norm(self.best.weights)
        differences = differences_of(self.features @ self.best.weights + self.best.bias, self.labels).min(axis=1)
        return Separability(
            separable=separable,
            status=status,
            error=self.errors / len(self.labels),
            margin=float(self.lower) if separable else None,
            weights=self.best.weights,
            bias=self.best.bias,
            margins=differences / norm if norm > 0 else np.where(differences > 0, np.inf, -np.inf),
            multipliers=shown.multipliers if shown else None,
            conflict_rows=shown.rows if shown else None,
            conflict_classes=shown.classes if shown else None,
            residual=shown.residual if shown else None,
            rank=self.rank,
            num_examples=len(self.labels),
            dim=self.features.shape[1],
            num_classes=self.num_classes,
            stands=stands,
        )

    def _mapped_back(self, found: Map) -> Map:
        """The same map of the given features, for all classes; those that do not occur stay below the labels."""
        problem = self.problem
        inner = np.ldexp(found.weights - found.weights.mean(axis=1, keepdims=True), -problem.second[:, None])
        bias = found.bias - problem.center @ inner
        smallest = differences_of(problem.x @ found.weights + found.bias, problem.labels).min()
        scale = 1 / smallest if smallest > 0 else 1.0
        weights = np.zeros((self.features.shape[1], self.num_classes))
        weights[np.ix_(problem.columns, problem.classes)] = np.ldexp(inner * scale, -problem.first[:, None])
        offsets = np.zeros(self.num_classes)
        offsets[problem.classes] = bias * scale
        outputs = (self.features @ weights + offsets)[np.arange(len(self.labels)), self.labels]
        absent = np.setdiff1d(np.arange(self.num_classes), problem.classes)
        offsets[absent] = outputs.min() - 1
        return Map(weights, offsets)

    def _check(self, found: Map) -> tuple[int, float]:
        """Rows misclassified, and a lower bound on the margin on all rows, rounding counted."""
        gamma = 1.01 * (self.features.shape[1] + 4) * ROUNDOFF
        outputs = self.features @ found.weights + found.bias
        slack = gamma * (np.abs(self.features) @ np.abs(found.weights) + np.abs(found.bias)) + np.finfo(float).tiny
        slack += slack[np.arange(len(self.labels)), self.labels, None]
        differences = differences_of(outputs, self.labels)
        least = float((differences - slack).min())
        norm = _norm(found.weights)
        lower = least / norm * (1 - gamma) if norm > 0 else np.copysign(np.inf, least)
        return int((differences.min(axis=1) <= 0).sum()), float(lower)


def _norm(weights: np.ndarray) -> float:
    """The Frobenius norm, whatever the size of the entries."""
    largest = float(np.abs(weights).max())
    return largest * float(np.linalg.norm(weights / largest)) if largest > 0 else 0.0


def _labels(y: Any, num_rows: int) -> tuple[np.ndarray, int]:
    """Integer labels and the number of classes."""
    given = np.asarray(y)
    if given.ndim not in (1, 2) or len(given) != num_rows or 0 in given.shape:
        raise ShapeError(
            f"`y` has shape {given.shape}, but there are {num_rows} rows; give integer labels ({num_rows},) or one-hot "
            f"rows ({num_rows}, c)."
        )
    if given.ndim == 2:
        if not (((given == 0) | (given == 1)).all() and (given.sum(axis=1) == 1).all()):
            raise ValueError("`y` has two axes, but not every row is one-hot; give a single 1 and zeros in each row.")
        return given.argmax(axis=1), given.shape[1]
    if given.dtype.kind not in "iub":
        raise DtypeError(f"`y` has dtype {given.dtype}; give labels 0, ..., c - 1 as integers, or one-hot rows.")
    if given.min() < 0:
        raise ValueError(f"`y` holds the label {given.min()}; give labels 0, ..., c - 1.")
    return given.astype(np.int64), int(given.max()) + 1


def _distinct_rows(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Conflict | None]:
    """First occurrences of the rows, and two equal rows with different labels if there are any."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(features):
        j = first.setdefault(row.tobytes(), i)
        if labels[i] != labels[j]:
            half = np.full(2, 0.5)
            clash = Conflict(half, np.array([j, i]), np.array([labels[i], labels[j]]), 0.0, EXACT)
            return np.arange(len(labels)), clash
    return np.fromiter(first.values(), np.int64), None


def _standardize(features: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Problem:
    """Columns centered and scaled by powers of two, without the constant ones."""
    kept = features[rows]
    columns = np.flatnonzero(kept.min(axis=0) < kept.max(axis=0))
    x = kept[:, columns]
    first = np.frexp(np.abs(x).max(axis=0))[1]
    x = np.ldexp(x, -first)
    center = x.mean(axis=0)
    x -= center
    second = np.frexp(np.sqrt((x**2).mean(axis=0)))[1]
    classes, inner = np.unique(labels[rows], return_inverse=True)
    return Problem(np.ldexp(x, -second), inner, classes, rows, columns, first, second, center)


def _rank(matrix: np.ndarray) -> int:
    """Numerical rank: singular values above the usual rounding threshold."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    values = linalg.svdvals(np.linalg.qr(tall, mode="r"))
    return int((values > values[0] * len(tall) * 2 * ROUNDOFF).sum())


def _logistic(problem: Problem, start: Map, penalty: float, deadline: float) -> Map:
    """Minimize mean_i log sum_k exp(z_ik - z_iy) + penalty |W|^2 / 2 from a map."""
    extended, labels = problem.extended, problem.labels
    shape = (extended.shape[1], len(problem.classes))
    goal = np.eye(shape[1])[labels]

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        z = extended @ w
        z -= z.max(axis=1, keepdims=True)
        shares = np.exp(z)
        total = shares.sum(axis=1, keepdims=True)
        loss = np.log(total).mean() - (z * goal).sum() / len(labels) + penalty * (w[:-1] ** 2).sum() / 2
        gradient = extended.T @ (shares / total - goal) / len(labels)
        gradient[:-1] += penalty * w[:-1]
        return float(loss), gradient.ravel()

    def stop_late(_: np.ndarray) -> None:
        if time.monotonic() > deadline:
            raise StopIteration

    begin = np.concatenate([start.weights, start.bias[None]]).ravel()
    options = {"maxiter": _STEPS_PER_PENALTY, "ftol": 1e-15, "gtol": 1e-10}
    done = optimize.minimize(
        value_and_gradient, begin, jac=True, method="L-BFGS-B", callback=stop_late, options=options
    )
    w = done.x.reshape(shape)
    return Map(w[:-1], w[-1])


def _smallest(differences: np.ndarray, below: float) -> np.ndarray:
    """Flat indices (i, k) of the smallest differences, at most so many, below a threshold."""
    flat = differences.ravel()
    near = np.flatnonzero(flat < below)
    return near[np.argsort(flat[near], kind="stable")[:_CUTS_PER_ROUND]]


def _largest_margin(
    problem: Problem, chosen: np.ndarray, seconds: float
) -> tuple[tuple[Map, float, np.ndarray] | None, SeparabilityStatus]:
    """Maximize t subject to z_iy - z_ik >= t on the chosen constraints and |W|, |b| <= 1; the duals are multipliers."""
    extended, num_classes = problem.extended, len(problem.classes)
    width = extended.shape[1]
    rows, wrong = np.divmod(chosen, num_classes)
    values = np.concatenate([-extended[rows], extended[rows], np.ones((len(rows), 1))], axis=1)
    place = np.arange(width)[None]
    own, other = problem.labels[rows][:, None] * width + place, wrong[:, None] * width + place
    columns = np.concatenate([own, other, np.full((len(rows), 1), num_classes * width)], axis=1)
    starts = np.arange(len(rows) + 1) * values.shape[1]
    matrix = sparse.csr_array((values.ravel(), columns.ravel(), starts), shape=(len(rows), num_classes * width + 1))
    cost = np.zeros(num_classes * width + 1)
    cost[-1] = -1.0
    limits = [(-1.0, 1.0)] * (num_classes * width) + [(None, None)]
    options = {"time_limit": seconds, "primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
    done = optimize.linprog(cost, A_ub=matrix, b_ub=np.zeros(len(rows)), bounds=limits, method="highs", options=options)
    if done.x is None or done.status != 0:
        return None, SeparabilityStatus.TIME if done.status == 1 else SeparabilityStatus.PRECISION
    w = done.x[:-1].reshape(num_classes, width).T
    return (Map(w[:-1], w[-1]), float(done.x[-1]), -done.ineqlin.marginals), SeparabilityStatus.OK
