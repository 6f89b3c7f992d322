"""What kind of point a loss has somewhere: by its gradient, its Hessian, its gradient basis and its group residuals."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.krylov import top_eigs
from widescape.landscape.minima.bases import size_at_zero
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.fibers import as_moves
from widescape.landscape.minima.gradient_flat import (
    DENSE_UP_TO,
    FLAT_R,
    FLAT_R_H,
    RCOND,
    flatness,
    flatness_of,
    truncated_steps,
)
from widescape.landscape.minima.in_float64 import features_in_float64, loss_in_float64
from widescape.landscape.minima.pgb import PGBReport, PGBVerdict, certificate_at, warn_of_kinks

_CRITICAL = 1e-10  # squared norm of the gradient up to which a point is stationary
_NEGATIVE = -1e-5  # eigenvalues below count as negative
_SAME = 1e-8  # relative difference of L(params) and Q(phi(params)) up to which they are the same
_SAME_IN_SINGLE = 1e-4
_CLOSER = 10.0  # how much shorter the directions are that confirm a degenerate saddle
_COMPUTED = Evidence("exact", note="of the Hessian as computed, up to eps times its norm")
_COUNTED = Evidence("exact", note="counted among all eigenvalues as computed")
_RITZ = bound("upper", "a Ritz value of Lanczos' method is at least the smallest eigenvalue")
_GAP = bound("lower", "of the gap over all directions on the fiber, if the numerical rank is right")
_EVALUATED = Evidence("exact", note="evaluated there in float64")


class PointKind(Status):
    """What a point of a loss is."""

    NOT_STATIONARY = "The gradient is not zero."
    GRADIENT_FLAT = "The gradient is not zero but lies in the kernel of the Hessian, where second-order searches end."
    STALLED = (
        "The gradient is not zero, and the given step of a search leads no further; the point is not gradient-flat."
    )
    STRICT_SADDLE = "A critical point with negative curvature."
    DEGENERATE_SADDLE = (
        "A critical point without negative curvature, yet with lower values near: a witness within 3 eps shows one, "
        "and the gap stays for directions a tenth as long."
    )
    GLOBAL_MINIMUM = "A global minimum, by convexity in the outputs (assumed of the loss), up to the tolerances."
    LOCAL_MIN_CANDIDATE = "A critical point against which nothing was found; that does not prove a minimum."

    @property
    def ok(self) -> bool:
        """Whether the point is critical."""
        return self not in (PointKind.NOT_STATIONARY, PointKind.GRADIENT_FLAT, PointKind.STALLED)


class PointReport(Result):
    """A point of a loss, and the evidence for its kind."""

    source = "kawaguchi2019elimination"
    kind: PointKind = quantity(EXACT, "what the point is")
    value: float = quantity(EXACT, "L there")
    grad_norm: float = quantity(EXACT, "norm of the gradient")
    lambda_min: float | None = quantity(
        _COMPUTED, "smallest eigenvalue of the Hessian; None where it is large and the gradient not 0: not sought"
    )
    index: int | None = quantity(_COUNTED, "eigenvalues below -1e-5; None for a large Hessian", default=None)
    eigs: np.ndarray | None = quantity(_COMPUTED, "all eigenvalues, rising; None for a large Hessian", default=None)
    r: float | None = quantity(EXACT, "part of the gradient that a Newton step leaves, if it is not zero", default=None)
    r_H: float | None = quantity(  # noqa: N815
        EXACT, "how much the Hessian does to that part, relative to its Frobenius norm", default=None
    )
    gap: float | None = quantity(_GAP, "PGB gap; NaN if its span condition fails, None if not asked for", default=None)
    witness_value: float | None = quantity(_EVALUATED, "a lower value of L, None if none was found", default=None)
    witness_distance: float | None = quantity(EXACT, "how far from the point it is taken", default=None)
    residual: float | None = quantity(EXACT, "largest norm of a group residual, if they were given", default=None)
    pgb: PGBReport | None = quantity(EXACT, "the whole report on the gradient basis", default=None)

    def charts(self) -> tuple[Chart, ...]:
        """The eigenvalues of the Hessian, where all were computed."""
        if self.eigs is None:
            return ()
        return (
            Chart(
                name="hessian",
                title="Eigenvalues of the Hessian",
                x_label="index",
                y_label="eigenvalue",
                series=(Series(np.arange(1.0, len(self.eigs) + 1), self.eigs, "Hessian", style="points"),),
                markers=(Marker(0.0, "zero"),),
                caption=f"Norm of the gradient {self.grad_norm:.3g}. {self.kind}",
            ),
        )


def classify_point(
    L: System | Callable[[Any], Any],  # noqa: N803
    params: Any,
    *,
    phi: Callable[[Any], Any] | None = None,
    Q: Callable[[Any], Any] | None = None,  # noqa: N803
    group_residual: Any = None,
    tol_r: float = 1e-8,
    tol_gap: float = 1e-8,
    step: Any = None,
    eps: float = 1e-2,
    n_dirs: int = 32,
    moves: Sequence[Any] = (),
    key: jax.Array | None = None,
    allow_float32: bool = False,
) -> PointReport:
    """What kind of point a loss L has at `params`: the first of these that applies.

    1. Not stationary, |grad L|^2 > 1e-10: ``gradient_flat`` where r > 0.9 and r_H < 5e-4 (see `flatness`); else
       ``stalled`` if the last `step` of a search is given, and ``not_stationary``. Beyond 2000 parameters flatness is
       looked at only for a given `step`.
    2. ``strict_saddle``: the smallest eigenvalue of the Hessian is below -1e-5.
    3. ``degenerate_saddle``: a gap above `tol_gap` times the `scale` of `pgb_certificate`, which is about |L| here or
       with outputs 0; a witness within 3 `eps` on the same smooth piece; and such a gap for directions of `eps` / 10.
    4. ``global_minimum``: group residuals of norm at most `tol_r`, or a full gradient basis; and neither a gap above
       1e-8 |L| and rounding nor a lower value anywhere. That Q is convex is looked at in a few points only, where the
       basis is what decides; group residuals decide by the convexity of the loss, which is yours to know.
    5. ``local_min_candidate``.

    Args:
        L: the loss: a `System`, or a function of the parameters alone.
        params: the point, a PyTree.
        phi: inner part of the loss in canonical form, L = Q(phi(params)), from `model_basis` or `augmented_basis`;
            None, for both, leaves the gradient basis out.
        Q: its outer part.
        group_residual: as `group_residual` returns it, at this point; sums over equal inputs, divided by nothing.
        tol_r: largest norm of its rows that counts as zero. It is absolute: for a loss in small units take less.
        tol_gap: a relative gap above it makes a degenerate saddle.
        step: with which a search ended here, like the parameters or flat.
        eps: length of the certificate's directions.
        n_dirs: how many of them.
        moves: further displacements along which phi does not change. Those longer than 3/10 `eps` do not confirm.
        key: of the directions.
        allow_float32: accept parameters, or operations, of less than double precision.

    Returns:
        a `PointReport`. The gap and the witness are there only for a stationary point without negative curvature.
        A witness may be far, or across a kink: then it shows a lower value at its distance, and about the kind only
        that the point is no global minimum. Beyond 2000 parameters only the smallest eigenvalue of the Hessian is
        sought, by Lanczos' method, and only at stationary points.

    Raises:
        PrecisionError: less than double precision.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or only one of `phi` and `Q`; they do
            not compose to L, to 1e-8 of it (1e-4 with `allow_float32`); Q is not convex.
        NonFiniteError, MemoryBudgetError: as for `pgb_certificate`.

    Warns:
        NonDifferentiableWarning: a kink within 1e-9 of the point, of phi or, without it, of L.

    Cost: the Hessian and its eigenvalues, or at stationary points up to 3000 products; and a `pgb_certificate`, two
    where the first speaks for a degenerate saddle.

    Example:
        >>> report = classify_point(lambda w: w[0] ** 2 - w[1] ** 2, np.zeros(2))
        >>> report.kind.name, report.index, report.lambda_min
        ('STRICT_SADDLE', 1, -2.0)
    """
    if (phi is None) != (Q is None):
        raise ValueError("one of `phi` and `Q` is None; give both, or neither to leave the gradient basis out.")
    for value, name in ((tol_r, "tol_r"), (tol_gap, "tol_gap")):
        checks.not_negative(checks.number(value, name, "classify_point"), name, "classify_point")
    checks.positive(checks.number(eps, "eps", "classify_point"), "eps", "classify_point")
    checks.count(n_dirs, "n_dirs", "classify_point", minimum=0)
    residual = None if group_residual is None else _largest_row(group_residual)
    system = loss_in_float64(L, params, "classify_point", allow_float32=allow_float32)
    given = None if step is None else _step(system, step)
    parts = None if phi is None or Q is None else _parts(system, phi, Q, allow_float32)
    warn_of_kinks(system if parts is None else parts[0], "L" if parts is None else "phi")
    slope = system.grad()
    here: dict[str, Any] = {"value": system.value(), "grad_norm": float(np.linalg.norm(slope)), "residual": residual}
    hessian = _hessian(system) if system.num_params <= DENSE_UP_TO else None
    if hessian is not None:
        here.update(_spectrum(hessian))
    if here["grad_norm"] ** 2 > _CRITICAL:
        return PointReport(**{"lambda_min": None, **here, **_slanted(system, slope, hessian, given)})
    if hessian is None:
        here.update(_smallest(system, key))
    if here["lambda_min"] < _NEGATIVE:
        return PointReport(kind=PointKind.STRICT_SADDLE, **here)
    if parts is None:
        found = residual is not None and residual <= tol_r
        return PointReport(kind=PointKind.GLOBAL_MINIMUM if found else PointKind.LOCAL_MIN_CANDIDATE, **here)
    return PointReport(**here, **_by_basis(*parts, (eps, n_dirs, moves, key), residual, tol_r, tol_gap))


def _parts(system: System, phi: Any, Q: Any, allow_float32: bool) -> tuple[System, System]:  # noqa: N803
    """Both parts of the loss, phi and Q, as systems at the point.

    Raises:
        ValueError: Q(phi(params)) is not L(params).
    """
    inner = features_in_float64(phi, system.params, "classify_point", allow_float32=allow_float32)
    level = inner.F()
    outer = loss_in_float64(Q, level, "classify_point", allow_float32=allow_float32)
    whole, composed = system.value(), outer.value(level)
    rounding = max(size_at_zero(outer), float(np.linalg.norm(level) * np.linalg.norm(outer.grad(level))))
    same = (_SAME_IN_SINGLE if allow_float32 else _SAME) * max(abs(whole), abs(composed))
    if abs(whole - composed) > max(same, 1e-12 * rounding):
        raise ValueError(
            f"`Q(phi(params))` is {composed:.10g}, but L(params) is {whole:.10g}; give the parts of this loss. Usually "
            "one of the two is a sum over examples and the other their mean: see `reduction` of the System."
        )
    return inner, outer


def _slanted(system: System, slope: np.ndarray, hessian: np.ndarray | None, step: np.ndarray | None) -> dict[str, Any]:
    """The kind of a point that is not stationary, and its flatness."""
    if hessian is None and step is None:
        return {"kind": PointKind.NOT_STATIONARY}
    if hessian is None:
        r, r_h = flatness(system, None, step)
    else:
        with threads_for(len(hessian)):
            move = truncated_steps(hessian[None], slope[None], RCOND) if step is None else step[None]
            r, r_h = (float(part[0]) for part in flatness_of(hessian[None], slope[None], move))
    return {"kind": _not_critical(r, r_h, step), "r": r, "r_H": r_h}


def _not_critical(r: float, r_h: float, step: Any) -> PointKind:
    if r > FLAT_R and r_h < FLAT_R_H:
        return PointKind.GRADIENT_FLAT
    return PointKind.NOT_STATIONARY if step is None else PointKind.STALLED


def _by_basis(
    inner: System,
    outer: System,
    directions: tuple[float, int, Sequence[Any], jax.Array | None],
    residual: float | None,
    tol_r: float,
    tol_gap: float,
) -> dict[str, Any]:
    """The kind of a critical point without negative curvature, and its certificate."""
    eps, n_dirs, moves, key = directions
    given = as_moves(moves, inner)
    pgb = certificate_at(inner, outer, given, eps, n_dirs, key=key)
    settled = residual is not None and residual <= tol_r and pgb.witness_value is None
    kind = PointKind.LOCAL_MIN_CANDIDATE
    if pgb.verdict is PGBVerdict.NOT_A_MINIMUM and pgb.gap > tol_gap * pgb.scale:
        closer = eps / _CLOSER
        short = given[np.linalg.norm(given, axis=1) <= 3 * closer]
        confirmed = certificate_at(inner, outer, short, closer, n_dirs, key=key)
        if confirmed.gap > tol_gap * confirmed.scale:
            kind = PointKind.DEGENERATE_SADDLE
    elif pgb.verdict is PGBVerdict.GLOBAL_MINIMUM or (settled and not pgb.gap > pgb.largest_closed):
        kind = PointKind.GLOBAL_MINIMUM
    return {
        "kind": kind,
        "gap": pgb.gap,
        "witness_value": pgb.witness_value,
        "witness_distance": pgb.witness_distance,
        "pgb": pgb,
    }


def _hessian(system: System) -> np.ndarray:
    hessian = Derivatives(system).hessians(system.flat[None])[0]
    if not np.isfinite(hessian).all():
        raise NonFiniteError("a second derivative of the loss is NaN or infinite; scale the parameters or data.")
    return np.asarray(hessian)


def _spectrum(hessian: np.ndarray) -> dict[str, Any]:
    with threads_for(len(hessian)):
        eigs = np.linalg.eigvalsh(hessian)
    return {"lambda_min": float(eigs[0]), "eigs": eigs, "index": int(np.sum(eigs < _NEGATIVE))}


def _smallest(system: System, key: jax.Array | None) -> dict[str, Any]:
    """The smallest eigenvalue of a large Hessian, with its evidence."""
    found = top_eigs(system.hvp, system.num_params, which="SA", key=key, vectors=False)
    return {"lambda_min": float(found.eigs[0]), "stands": {"lambda_min": _RITZ}}


def _step(system: System, step: Any) -> np.ndarray:
    try:
        return system.vector(step)
    except ShapeError as error:
        raise ShapeError(f"`step`, like `params`, is a vector of the parameters: {error}") from error


def _largest_row(group_residual: Any) -> float:
    rows = checks.real_array(group_residual, "group_residual")
    checks.all_finite(rows, "group_residual")
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"`group_residual` has shape {rows.shape}; give one row for each group, (groups, outputs).")
    return float(np.linalg.norm(rows, axis=1).max())
