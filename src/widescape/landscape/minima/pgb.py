"""The perturbable gradient basis: a necessary condition for a local minimum that sees degenerate saddles."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import MemoryBudgetError, NonDifferentiableWarning, NonFiniteError
from widescape.core.evidence import EXACT, Evidence, bound, sampled
from widescape.core.memory import GIB, available_bytes, human_bytes
from widescape.core.precision import double_scope
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.margins import kink_margin, on_same_piece
from widescape.curvature.operators import Operators
from widescape.landscape.minima.bases import ConvexStatus, minimum_over, require_convex, size_at_zero
from widescape.landscape.minima.fibers import Fiber, as_moves, dense_fiber, matrix_free_fiber
from widescape.landscape.minima.in_float64 import features_in_float64, loss_in_float64

Mode = Literal["full", "vjp"]

_KINK = 1e-9
_SPAN = 1e-6  # residual of the span condition above which there is no gap
_LOWER = 1e-14  # relative decrease that counts as one: above the rounding of one value
_GAP = 1e-8  # relative gap that counts as one
_NEAR = 3.0  # of eps: how far a witness may be to speak about the point
_DESCENT = tuple(10.0**-k for k in range(5, -1, -1))  # steps down the gradient, over the size of Q
_SHORT = (0.01, 0.1, 1.0)  # and such that are not longer than this part of eps

_EVALUATED = Evidence("exact", note="evaluated there in float64; a function value proves what it shows")
_UPPER = bound("upper", "of the infimum over all directions on the fiber; this is a finite basis, of numerical rank")
_GAP_SIDE = bound(
    "lower",
    "of the gap over all directions on the fiber, if the numerical rank is right and eps within the minimum's radius",
)
_SAMPLED = sampled("over random directions on the fiber, at a finite distance")


class PGBVerdict(Status):
    """What the perturbable gradient basis says about a point."""

    GLOBAL_MINIMUM = (
        "The basis spans all values and there is no gap: a global minimum if Q is convex, which was looked at in a few "
        "points."
    )
    NOT_A_MINIMUM = (
        "A lower value was found within 3 eps on the same smooth piece, at the witness: not a minimum of any ball that "
        "reaches it."
    )
    FAR_WITNESS = (
        "A lower value was found, but farther than 3 eps or across a kink: not a minimum of any ball that reaches the "
        "witness, and nothing is shown about smaller ones."
    )
    SUSPECTED = "There is a gap, so no local minimum unless eps exceeds its radius; but no lower value was found."
    INCONCLUSIVE = "Nothing speaks against a local minimum, which proves none."
    SPAN_FAILED = (
        "Numerically, at rtol, the values lie outside of the basis, so there is no gap (NaN); only stat_max and the "
        "witness count."
    )

    @property
    def ok(self) -> bool:
        """Whether the question is decided."""
        return self in (PGBVerdict.GLOBAL_MINIMUM, PGBVerdict.NOT_A_MINIMUM)


class PGBReport(Result):
    """A point tested by its perturbable gradient basis."""

    source = "kawaguchi2019every"
    verdict: PGBVerdict = quantity(EXACT, "what follows")
    value: float = quantity(EXACT, "Q(phi(w)), the objective at the point")
    pgb_value: float = quantity(_UPPER, "minimum of Q over the span of the basis; NaN where it was not posed")
    gap: float = quantity(_GAP_SIDE, "value - pgb_value; NaN where the span condition fails or in mode vjp")
    convex_status: ConvexStatus = quantity(EXACT, "how that minimization ended")
    span_residual: float = quantity(EXACT, "part of phi(w) outside of the basis, relative; NaN in mode vjp")
    rank: int | None = quantity(EXACT, "numerical rank of the basis, relative to all of it; None in mode vjp")
    M: int = quantity(EXACT, "entries of phi")
    n_accepted: int = quantity(EXACT, "directions that returned to the fiber, on the smooth piece of phi")
    n_drawn: int = quantity(EXACT, "directions that were tried")
    n_crossed: int = quantity(EXACT, "directions on the fiber that were dropped because they crossed a kink of phi")
    scale: float = quantity(EXACT, "max(|value|, |pgb_value|, |Q(0)|), which gaps are relative to")
    largest_closed: float = quantity(EXACT, "largest gap that is none for a global minimum: 1e-8 |value|, or rounding")
    stat_max: float = quantity(_SAMPLED, "largest |Dphi(w + v)^T grad Q(phi(w))| over v = 0 and the directions")
    witness_value: float | None = quantity(_EVALUATED, "a lower objective, None if none was found", default=None)
    witness_w: np.ndarray | None = quantity(EXACT, "flat parameters where it is taken (P,)", default=None)
    witness_distance: float | None = quantity(EXACT, "how far from the point", default=None)
    eps: float = quantity(EXACT, "length of the directions")
    singular_values: np.ndarray = quantity(EXACT, "of the basis, descending; empty in mode vjp")
    stationarity: np.ndarray = quantity(_SAMPLED, "|Dphi(w + v)^T grad Q| at v = 0 and each direction (S + 1,)")

    @property
    def witness_params(self) -> Any:
        """The witness as the PyTree in which the parameters came; None if there is none.

        Raises:
            ValueError: the report was loaded or copied.
        """
        if self.witness_w is None:
            return None
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError("this report was loaded or copied; unravel its `witness_w` like the parameters.")
        return unravel(self.witness_w)

    def charts(self) -> tuple[Chart, ...]:
        """Singular values of the basis, where it was formed."""
        shown = self.singular_values[self.singular_values > 0]
        if shown.size == 0:
            return ()
        return (
            Chart(
                name="gradient_basis",
                title="Singular values of the perturbable gradient basis",
                x_label="index",
                y_label="singular value",
                series=(Series(np.arange(1.0, shown.size + 1), shown, "basis", style="points"),),
                y_scale="log",
                markers=(Marker(float(self.rank or 0), "numerical rank", axis="x"),),
                caption=f"{self.n_accepted} of {self.n_drawn} directions on the fiber, {self.n_crossed} more were "
                f"dropped at kinks. {self.verdict}",
            ),
        )


def pgb_certificate(
    phi: Callable[[Any], Any],
    Q: Callable[[Any], Any],  # noqa: N803
    params: Any,
    *,
    eps: float = 1e-2,
    n_dirs: int = 32,
    rtol: float = 1e-7,
    mode: Mode = "full",
    moves: Sequence[Any] = (),
    key: jax.Array | None = None,
    allow_float32: bool = False,
    budget_gb: float | None = None,
    progress: bool | None = None,
) -> PGBReport:
    """The gap of a point w: its objective Q(phi(w)) less the minimum of Q over its perturbable gradient basis.

        gap = Q(phi(w)) - min_a Q(sum_v Dphi(w + v) a_v),    v in a finite set with phi(w + v) = phi(w).

    At a differentiable local minimum, for all v short enough, Dphi(w + v)^T grad Q(phi(w)) = 0; and if phi(w) lies in
    the span of the basis (with a linear output layer it does) the gap is 0. So a gap above 0 speaks against a local
    minimum, and gap 0 decides nothing, unless the basis spans all of R^M: then w is a global minimum. Strict saddles
    can have gap 0, and degenerate saddles with a positive semidefinite Hessian have a gap: it complements the Hessian.

    Three things are not proved: that `eps` is below the radius of the minimum, the numerical rank, and that Q is
    convex, which is looked at only where its minimum is sought and, before a global minimum is claimed, at 0 and four
    random points of the span. Directions at whose end a comparison in phi (as of a ReLU) comes out otherwise are
    dropped and counted: they have left the smooth piece on which w lies. The witness needs none of this: from each
    point on the fiber steps are taken down the gradient. The lowest value found within 3 eps of w on its smooth piece
    is kept, or else the lowest of all, if it is below the objective by more than rounding: 1e-14 of |Q| there and at 0,
    and of |phi| |grad Q|. It also exposes points that are only nearly stationary. A witness farther away, or across a
    kink, shows that balls that reach it have lower values, and nothing about smaller ones: verdict ``far_witness``.

    A gap counts from 1e-8 `scale`. A global minimum asks for less: no gap above 1e-8 |Q|, or above rounding.

    Args:
        phi: maps parameters to an array or PyTree of M entries, on all data: a random batch has no fiber, and batch
            normalization must be frozen.
        Q: maps these entries, flat (M,), to one number; convex and differentiable. `model_basis` and `augmented_basis`
            make both.
        params: the point, a PyTree.
        eps: length of the perturbations v; accepted between 0.1 and 3 times it.
        n_dirs: random ones. The first, third, ... are Gaussian, the others Gaussian on random coordinates.
        rtol: singular values of the basis below this part of the largest count as zero; so do those below 1e-12 of the
            Jacobian at distance eps, over eps. New directions appear at size eps, or eps^2.
        mode: ``"full"`` forms the Jacobians and the gap; ``"vjp"`` takes only vector products, for large models, and
            has the witness and `stat_max` alone.
        moves: further displacements, flat or PyTrees, along which phi does not change, of any length. For instance new
            weights into units whose outgoing weights are zero.
        key: of the directions; None for ``jax.random.key(0)``.
        allow_float32: accept parameters, or operations, of less than double precision.
        budget_gb: memory for Jacobians, in units of 2^30 bytes; None for half of what is free.
        progress: show how many directions have returned to the fiber; None shows it on a terminal.

    Returns:
        a `PGBReport`. Without a minimum of the convex problem, as for cross entropy on separable data, its
        `convex_status` says so and the gap is a lower bound.

    Raises:
        PrecisionError: less than double precision.
        MemoryBudgetError: the Jacobians do not fit; says how much they need.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, a move that changes phi, or a Q that
            is not convex.
        NonFiniteError: phi, Q or a derivative is NaN or infinite.

    Warns:
        NonDifferentiableWarning: phi has a kink within 1e-9 of the point.

    Cost: up to 50 (n_dirs) Jacobians with a least-squares problem each, about M^2 P flops, less those of directions
    that have returned earlier, and a QR decomposition of M^2 P flops for each; for M up to 2000 and P up to 20 000.
    2 (n_dirs + 1) M P doubles, beside what phi needs itself. In mode ``"vjp"`` a gradient for each direction, and up to
    50 times 400 products to return to the fiber.

    Example:
        >>> import jax.numpy as jnp
        >>> product = pgb_certificate(lambda w: jnp.prod(w)[None], lambda z: (z[0] - 1.0) ** 2, np.zeros(3))
        >>> round(product.gap, 12), product.verdict.name
        (1.0, 'NOT_A_MINIMUM')
    """
    scale = checks.number(eps, "eps", "pgb_certificate")
    checks.positive(scale, "eps", "pgb_certificate")
    checks.count(n_dirs, "n_dirs", "pgb_certificate", minimum=0)
    threshold = checks.number(rtol, "rtol", "pgb_certificate")
    checks.positive(threshold, "rtol", "pgb_certificate")
    checks.choice(mode, "mode", Mode)
    inner = features_in_float64(phi, params, "pgb_certificate", allow_float32=allow_float32)
    level = inner.F()
    outer = loss_in_float64(Q, level, "pgb_certificate", allow_float32=allow_float32)
    warn_of_kinks(inner, "phi")
    given = as_moves(moves, inner)
    return certificate_at(
        inner, outer, given, scale, n_dirs, rtol=threshold, mode=mode, key=key, budget_gb=budget_gb, progress=progress
    )


def certificate_at(
    inner: System,
    outer: System,
    moves: np.ndarray,
    eps: float,
    n_dirs: int,
    *,
    rtol: float = 1e-7,
    mode: Mode = "full",
    key: jax.Array | None = None,
    budget_gb: float | None = None,
    progress: bool | None = None,
) -> PGBReport:
    """The certificate at the parameters of phi as a system, with Q as a system at its values. Nothing is checked."""
    generator = named_generator(key, "pgb_certificate")
    with threads_for(min(inner.num_residuals, inner.num_params)):
        if mode == "full":
            _require_memory(inner, n_dirs + len(moves) + 1, budget_gb)
            fiber = dense_fiber(inner, moves, eps=eps, n_dirs=n_dirs, generator=generator, progress=progress)
        else:
            fiber = matrix_free_fiber(inner, moves, eps=eps, n_dirs=n_dirs, generator=generator, progress=progress)
        return _report(inner, outer, fiber, eps, rtol)


def _report(inner: System, outer: System, fiber: Fiber, eps: float, rtol: float) -> PGBReport:
    value, outward = outer.value(fiber.level), outer.grad(fiber.level)
    slopes = _slopes(inner, outward, fiber)
    stationarity = np.linalg.norm(slopes, axis=1)
    fields, basis = (_unposed(), None) if fiber.jacobians is None else _gap_of(outer, fiber, value, rtol, eps)
    unit = max(abs(value), size_at_zero(outer))
    size = float(np.nanmax([unit, abs(fields["pgb_value"])]))
    rounding = _LOWER * max(unit, float(np.linalg.norm(fiber.level) * np.linalg.norm(outward)))
    trials = _trials(fiber, slopes, unit, eps)
    near, witness = _witness(inner, outer, trials, value, rounding=rounding, reach=_NEAR * eps)
    closed = max(_GAP * abs(value), rounding)
    verdict = _verdict(fields, near if witness else None, max(_GAP * size, rounding), closed, fiber.level.size)
    if verdict is PGBVerdict.GLOBAL_MINIMUM and basis is not None:
        require_convex(outer, basis, basis.T @ fiber.level)
    report = PGBReport(
        verdict=verdict,
        value=value,
        M=fiber.level.size,
        n_accepted=len(fiber.displacements),
        n_drawn=fiber.drawn,
        n_crossed=fiber.crossed,
        scale=size,
        largest_closed=closed,
        stat_max=float(stationarity.max()),
        stationarity=stationarity,
        eps=eps,
        **fields,
        **witness,
    )
    object.__setattr__(report, "_unravel", inner.unravel)
    return report


def _verdict(fields: dict[str, Any], near: bool | None, open_from: float, closed_to: float, full: int) -> PGBVerdict:
    """What follows from the fields of the gap, and from a witness, near or not, if there is one."""
    if near is not None:
        return PGBVerdict.NOT_A_MINIMUM if near else PGBVerdict.FAR_WITNESS
    if fields["span_residual"] > _SPAN:
        return PGBVerdict.SPAN_FAILED
    if fields["gap"] > open_from:
        return PGBVerdict.SUSPECTED
    if fields["gap"] <= closed_to and fields["rank"] == full and fields["convex_status"] is ConvexStatus.OK:
        return PGBVerdict.GLOBAL_MINIMUM
    return PGBVerdict.INCONCLUSIVE


def _unposed() -> dict[str, Any]:
    nothing = float("nan")
    return {
        "pgb_value": nothing,
        "gap": nothing,
        "span_residual": nothing,
        "rank": None,
        "convex_status": ConvexStatus.NOT_POSED,
        "singular_values": np.empty(0),
    }


def _gap_of(
    outer: System, fiber: Fiber, value: float, rtol: float, eps: float
) -> tuple[dict[str, Any], np.ndarray | None]:
    """What the stacked basis says, and the basis where the problem on it was posed."""
    basis, sizes = _basis(fiber, rtol, eps)
    level = fiber.level
    length = float(np.linalg.norm(level))
    span = float(np.linalg.norm(basis @ (basis.T @ level) - level)) / length if length > 0 else 0.0
    own = {"span_residual": span, "rank": basis.shape[1], "singular_values": sizes}
    if span > _SPAN:
        return {**_unposed(), **own}, None
    lowest, status = minimum_over(outer, basis, basis.T @ level)
    return {**own, "pgb_value": lowest, "gap": value - lowest, "convex_status": status}, basis


def _basis(fiber: Fiber, rtol: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns that span [J_0, (J_s - J_0) / |v_s| ...] numerically, and all its singular values."""
    assert fiber.jacobians is not None
    first = fiber.jacobians[0]
    triangle = np.linalg.qr(first.T, mode="r")
    for delta, jacobian in zip(fiber.displacements, fiber.jacobians[1:], strict=True):
        change = (jacobian - first) / np.linalg.norm(delta)
        triangle = np.linalg.qr(np.concatenate([triangle, change.T]), mode="r")
    columns, sizes, _ = np.linalg.svd(np.asarray(triangle).T, full_matrices=False)
    return columns[:, sizes > max(rtol * sizes[0], fiber.noise / eps)], sizes


def _slopes(inner: System, outward: np.ndarray, fiber: Fiber) -> np.ndarray:
    """Dphi(w + v)^T grad Q(phi(w)) at v = 0 and on the fiber (S + 1, P): the gradients of the objective there."""
    if fiber.jacobians is not None:
        return np.stack([jacobian.T @ outward for jacobian in fiber.jacobians])
    points = fiber.point + fiber.displacements
    return np.stack([inner.vjp(outward, w) for w in (fiber.point, *points)])


def _trials(fiber: Fiber, slopes: np.ndarray, size: float, eps: float) -> np.ndarray:
    """Points that steps down the gradient reach from the fiber (n, P); Q is about `size` large."""
    points = fiber.point + np.concatenate([np.zeros((1, fiber.point.size)), fiber.displacements])
    unit = 1 / size if size > 0 else 1.0
    lengths = np.linalg.norm(slopes, axis=1)
    short = [np.minimum(unit, part * eps / np.where(lengths > 0, lengths, np.inf)) for part in _SHORT]
    steps = np.stack([*(np.full(len(slopes), unit * part) for part in _DESCENT), *short])
    return np.asarray((points[None] - steps[:, :, None] * slopes[None]).reshape(-1, fiber.point.size))


@partial(jax.jit, static_argnums=(0, 1))
def _objective(inner: Operators, outer: Operators, points: Any, x: Any, none: Any, y: Any) -> jax.Array:
    return jax.lax.map(lambda w: outer.value(inner.outputs(w, x, None), none, y), points)


def _witness(
    inner: System, outer: System, trials: np.ndarray, value: float, *, rounding: float, reach: float
) -> tuple[bool, dict[str, Any]]:
    """The lowest trial near the point on its smooth piece, or else anywhere: whether it is near, and its fields."""
    with double_scope(True):
        found = np.asarray(_objective(inner.operators, outer.operators, trials, inner.arrays[0], *outer.arrays))
    lower = np.where(np.isfinite(found) & (found < value - rounding), found, np.inf)
    distances = np.linalg.norm(trials - inner.flat, axis=1)
    close = np.isfinite(lower) & (distances <= reach)
    if close.any() and np.isfinite(kink_margin(inner)):
        close &= on_same_piece(inner, trials)
    for near, allowed in ((True, close), (False, np.isfinite(lower))):
        if not allowed.any():
            continue
        i = int(np.argmin(np.where(allowed, lower, np.inf)))
        try:  # as the first was evaluated
            again = outer.value(inner.F(trials[i]))
        except (NonFiniteError, ValueError):
            continue
        if again < value - rounding:
            return near, {"witness_value": again, "witness_w": trials[i], "witness_distance": float(distances[i])}
    return False, {}


def _require_memory(inner: System, count: int, budget_gb: float | None) -> None:
    if budget_gb is not None:
        checks.positive(checks.number(budget_gb, "budget_gb", "pgb_certificate"), "budget_gb", "pgb_certificate")
    budget = available_bytes() // 2 if budget_gb is None else int(budget_gb * GIB)
    needed = 2 * 8 * count * inner.num_residuals * inner.num_params
    if needed > budget:
        raise MemoryBudgetError(
            f"pgb_certificate needs {human_bytes(needed)} for {count} Jacobians of {inner.num_residuals} by "
            f"{inner.num_params} entries, more than the budget of {human_bytes(budget)}. Lower `n_dirs`, raise "
            '`budget_gb`, or use mode="vjp", which forms none.'
        )


def warn_of_kinks(system: System, name: str) -> None:
    """Warn the caller's caller where the function, the argument `name`, has a kink within 1e-9 of the point."""
    margin = kink_margin(system)
    if margin < _KINK:
        warnings.warn(
            f"`{name}` compares numbers that differ by {margin:.2g} at this point: it has a kink there, where "
            "derivatives, and the gradient basis made of them, say nothing. Move the kink off the data.",
            NonDifferentiableWarning,
            stacklevel=3,
        )
