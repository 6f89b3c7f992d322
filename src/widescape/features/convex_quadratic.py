"""The quadratic Taylor model with constant phi'' as a convex problem over quadratic forms, solved to a duality gap."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, bound
from widescape.core.precision import call_in_float64
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.features.output_losses import Loss, OutputLoss, loss_of
from widescape.features.quadratic_objective import Regularizer, loss_slopes, mean_of_loss, targets_of
from widescape.features.random_layers import as_matrix

_LOOK = 10  # iterations from one evaluation of the gap to the next
_POWER_STEPS = 20
_SMALLEST, _LARGEST = 1e-30, 1e30  # entries of H, whose eighth powers occur
_SLACK = 1e-9  # of rounding, where the curvature along a step is compared with what the step allowed for
_GAP = bound("upper", "weak duality in float64: the objective exceeds the minimum by at most this, up to rounding")
_LOWER = bound("lower", "value of the dual problem at a feasible point, up to rounding")


class ConvexStatus(Status):
    """How the convex solver ended."""

    OK = "The duality gap is within `tol` of the objective."
    NO_GAP = (
        "Steps are within `tol`; the loss is a function without a conjugate, so no gap says how near the minimum is."
    )
    OUT_OF_STEPS = "The steps ran out before the gap was within `tol`; raise `max_iter` or `tol`."


class ConvexQuadratic(Result):
    """The best regularized quadratic form h^T M h, with a bound on how far its objective is from the minimum."""

    source = "chen2020hierarchical"
    status: ConvexStatus = quantity(EXACT, "how the solver ended")
    objective: float = quantity(EXACT, "mean loss plus regularizer at M")
    gap: float | None = quantity(_GAP, "objective less the value of the dual; None without a conjugate")
    lower: float | None = quantity(_LOWER, "a value that no quadratic form falls below; None without a conjugate")
    loss: float = quantity(EXACT, "mean loss at M")
    M: np.ndarray = quantity(EXACT, "the quadratic form, symmetric (k, k)")
    T_plus: float = quantity(EXACT, "trace of its positive part, the sum of positive eigenvalues")
    T_minus: float = quantity(EXACT, "trace of its negative part, less the sum of negative eigenvalues")
    rank_plus: int = quantity(EXACT, "positive eigenvalues")
    rank_minus: int = quantity(EXACT, "negative eigenvalues")
    iterations: int = quantity(EXACT, "proximal steps taken")


@dataclass(frozen=True)
class SpectralPenalty:
    """The regularizer of W at its least, given the quadratic form: c+ T+^2 + c- T-^2, or c (T+ + T-).

    With m+ and m- neurons of either sign (as many as the rank of each part, or more) the least of sum_r |w_r|^4 over
    all W with (2 sqrt m)^-1 W^T diag(a) W = M is 4 m (T+^2 / m+ + T-^2 / m-), which is 8 (T+^2 + T-^2) for m+ = m-. The
    least of m^(-1/2) sum_r |w_r|^2 is 2 (T+ + T-), twice the nuclear norm.
    """

    reg: Regularizer
    plus: float
    minus: float

    @classmethod
    def of(cls, reg: Regularizer, lam: float, positive_share: float) -> "SpectralPenalty":
        if reg == "nuclear":
            return cls(reg, 2 * lam, 2 * lam)
        return cls(reg, 4 * lam / positive_share, 4 * lam / (1 - positive_share))

    def value(self, eigenvalues: np.ndarray) -> float:
        plus, minus = traces(eigenvalues)
        if self.reg == "nuclear":
            return self.plus * plus + self.minus * minus
        return self.plus * plus**2 + self.minus * minus**2

    def shrunk(self, eigenvalues: np.ndarray, step: float) -> np.ndarray:
        """The minimizer of |mu - eigenvalues|^2 / 2 + step value(mu)."""
        parts = [self._shrunk_part(sign * eigenvalues, step * c) for sign, c in ((1, self.plus), (-1, self.minus))]
        return parts[0] - parts[1]

    def _shrunk_part(self, values: np.ndarray, weight: float) -> np.ndarray:
        """Of the positive entries; others become zero."""
        if self.reg == "nuclear":
            return np.maximum(values - weight, 0)
        falling = np.sort(np.maximum(values, 0))[::-1]
        thresholds = 2 * weight * np.cumsum(falling) / (1 + 2 * weight * np.arange(1, len(falling) + 1))
        kept = int(np.sum(falling > thresholds))  # a prefix: the thresholds are the least where they cross
        return np.maximum(values - thresholds[kept - 1], 0) if kept else np.zeros_like(values)

    def dual(self, lowest: float, highest: float) -> tuple[float, float]:
        """A factor for the dual point, and the least of <S, M> + penalty over M, for S with these extreme eigenvalues.

        For "l24" the factor is 1 and the least -(max(-lowest, 0)^2 / c+ + max(highest, 0)^2 / c-) / 4; for "nuclear" it
        is 0 once the factor makes the spectral norm of S at most c.
        """
        down, up = max(-lowest, 0.0), max(highest, 0.0)
        if self.reg == "nuclear":
            return min(1.0, self.plus / max(down, up, 1e-300)), 0.0
        return 1.0, -(down**2 / self.plus + up**2 / self.minus) / 4


def solve_convex_quadratic(
    H: Any,
    y: Any,
    *,
    lam: float,
    reg: Regularizer = "l24",
    loss: Loss = "squared",
    positive_share: float = 0.5,
    tol: float = 1e-8,
    max_iter: int = 5000,
    start: Any = None,
    progress: bool | None = None,
) -> ConvexQuadratic:
    """Minimize (1/n) sum_i l(h_i^T M h_i, y_i) + lam g(M) over symmetric M, where phi'' = 1 makes the fit convex.

    g(M) = 8 (T+^2 + T-^2) for ``reg="l24"``, with T+ and T- the traces of the positive and of the negative part, is the
    least sum_r |w_r|^4 of a network with m/2 neurons of each sign, whatever m, once m/2 is at least the rank of each
    part; g(M) = 2 |M|_* for ``reg="nuclear"``. Accelerated proximal gradient steps with restarts; a step shrinks
    eigenvalues. It ends when the duality gap is small: with u_i = l'(yhat_i) / n and S = sum_i u_i h_i h_i^T the
    minimum is at least -L*(u) - R*(-S), where L*(u) = (1/n) sum_i l*(n u_i) and, for "l24", R*(-S) =
    (max(lambda_max(-S), 0)^2 + max(lambda_max(S), 0)^2) / (32 lam); for "nuclear" u is scaled until |S| <= 2 lam,
    and R* = 0.

    Args:
        H: representations, (n, k).
        y: targets, (n,).
        lam: weight of the regularizer, positive.
        reg: "l24" or "nuclear".
        loss: as for `QuadraticProblem`; a function must be convex in its first argument.
        positive_share: share m+ / m of neurons of positive sign; with another than 1/2 "l24" is
            4 (T+^2 / share + T-^2 / (1 - share)).
        tol: largest gap relative to the objective, at which to stop. For a loss given as a function: largest step
            relative to M.
        max_iter: most steps.
        start: a symmetric matrix (k, k) to begin at; None for zero. With a solution found otherwise, and
            ``max_iter=0``, the gap certifies it.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `ConvexQuadratic`, in float64.

    Raises:
        ValueError: `lam` is not positive, or `positive_share` is not inside of 0 and 1; the largest entry of `H` is
            beyond 1e-30 and 1e30.
        ShapeError, DtypeError: arrays that do not fit.
        NonFiniteError: the loss leaves the range of numbers.

    Cost: per step 4 n k^2 + 10 k^3 flops; some hundred to some thousand steps, the more the fewer rows there are per
    k^2 (3000 steps and 20 s for n = 2000, k = 152 and a gap of 1e-6). Practical up to k of some 500. Memory n k + a
    few k^2.

    Source: derived for chen2020hierarchical; the method is beck2009fast with the restarts of odonoghue2015adaptive.

    Example:
        >>> solved = solve_convex_quadratic(np.ones((1, 1)), np.ones(1), lam=0.125)  # (M - 1)^2 + M^2
        >>> round(solved.objective, 6), solved.gap < 1e-8
        (0.5, True)
    """
    inputs = as_matrix(H, "H")
    targets = targets_of(y, len(inputs))
    function = loss_of(loss)
    function.check(targets)
    checks.choice(reg, "reg", Regularizer)
    weight = checks.number(lam, "lam", "solve_convex_quadratic")
    if weight <= 0:
        raise ValueError(f"solve_convex_quadratic: `lam` is {weight}; the dual bound needs a positive number.")
    share = checks.number(positive_share, "positive_share", "solve_convex_quadratic")
    if not 0 < share < 1:
        raise ValueError(f"`positive_share` is {share}; give a number inside of 0 and 1: both signs are needed.")
    _check_scale(inputs)
    tolerance = checks.number(tol, "tol", "solve_convex_quadratic")
    checks.not_negative(tolerance, "tol", "solve_convex_quadratic")
    checks.count(max_iter, "max_iter", "solve_convex_quadratic", minimum=0)
    k = inputs.shape[1]
    first = np.zeros((k, k)) if start is None else checks.square_matrix(start, "start")
    if first.shape != (k, k):
        raise ShapeError(f"`start` has shape {first.shape}; rows of `H` have {k} features, so give ({k}, {k}).")
    with threads_for(k):
        solver = _Solver(inputs, targets, function, SpectralPenalty.of(reg, weight, share))
        return solver.run(first, tolerance, max_iter, progress)


def _check_scale(H: np.ndarray) -> None:
    """Refuse representations whose powers leave the range of numbers."""
    size = float(np.abs(H).max())
    if size == 0:
        raise ValueError("`H` is zero everywhere, so every quadratic form of it is; give other representations.")
    if not _SMALLEST <= size <= _LARGEST:
        raise ValueError(
            f"the largest entry of `H` is {size:.3g} in absolute value; its eighth power leaves the range of float64. "
            'Divide `H` by some s, and `lam` by s^4 (s^2 for reg="nuclear"); M is then to be divided by s^2.'
        )


class _Solver:
    """Proximal steps on one problem, with the bound from below that they have found so far."""

    def __init__(self, H: np.ndarray, y: np.ndarray, loss: OutputLoss, penalty: SpectralPenalty) -> None:
        self.H, self.y, self.loss, self.penalty = H, y, loss, penalty
        self.lower: float | None = None

    def run(self, start: np.ndarray, tol: float, max_iter: int, show: bool | None) -> ConvexQuadratic:
        matrix, outputs, values = start, self._outputs(start), linalg.eigvalsh(start, check_finite=False)
        ahead, outputs_ahead, momentum, steepness = matrix, outputs, 1.0, self._steepness(outputs)
        count, small = 0, False
        for _ in track(range(max_iter), "solving the convex problem", show=show):
            if count % _LOOK == 0 and self._ended(outputs, values, tol, small=small):
                break
            count += 1
            new, outputs_new, values, steepness = self._step(ahead, outputs_ahead, steepness)
            moved = new - matrix
            if np.vdot(ahead - new, moved) > 0:  # the momentum points uphill
                momentum = 1.0
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            share, momentum = (momentum - 1) / following, following
            small = bool(np.linalg.norm(new - ahead) <= tol * np.linalg.norm(new))
            ahead, outputs_ahead = new + share * moved, outputs_new + share * (outputs_new - outputs)
            matrix, outputs = new, outputs_new
        status = self._ended(outputs, values, tol, small=small) or ConvexStatus.OUT_OF_STEPS
        return self._result(matrix, outputs, values, status, count)

    def _outputs(self, matrix: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", self.H @ matrix, self.H)

    def _adjoint(self, u: np.ndarray) -> np.ndarray:
        """S = sum_i u_i h_i h_i^T."""
        total: np.ndarray = (self.H * u[:, None]).T @ self.H
        return (total + total.T) / 2

    def _slope(self, outputs: np.ndarray) -> np.ndarray:
        """The derivative of the mean loss in the outputs, u (n,)."""
        slope: np.ndarray = call_in_float64(loss_slopes, self.loss, outputs, self.y)[0]
        return slope / len(outputs)

    def _steepness(self, outputs: np.ndarray) -> float:
        """About the largest curvature of the mean loss in M, by power iteration."""
        most = self.loss.steepest
        if most is None:
            most = max(float(np.max(call_in_float64(loss_slopes, self.loss, outputs, self.y)[1])), 1e-3)
        matrix, size = np.eye(self.H.shape[1]), 1.0
        for _ in range(_POWER_STEPS):
            matrix = self._adjoint(self._outputs(matrix / np.linalg.norm(matrix)))
            size = float(np.linalg.norm(matrix))
        return 1.02 * most * size / len(self.H)

    def _step(
        self, ahead: np.ndarray, outputs: np.ndarray, steepness: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """A proximal step: M, its outputs and eigenvalues, and the curvature that the step allowed for."""
        u = self._slope(outputs)
        downhill = self._adjoint(u)
        while True:
            values, vectors = linalg.eigh(ahead - downhill / steepness, check_finite=False, driver="evd")
            values = self.penalty.shrunk(values, 1 / steepness)
            kept = values != 0
            new = (vectors[:, kept] * values[kept]) @ vectors[:, kept].T
            outputs_new = self._outputs(new)
            bent = float((self._slope(outputs_new) - u) @ (outputs_new - outputs))
            if not np.isfinite(bent):
                raise NonFiniteError("the loss left the range of numbers; scale `H` and `y`, or check `loss`.")
            if bent <= steepness * float(np.sum((new - ahead) ** 2)) * (1 + _SLACK):
                return new, outputs_new, values, steepness
            steepness *= 1.5

    def _objective(self, outputs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
        """Mean loss, and with the regularizer."""
        loss = float(call_in_float64(mean_of_loss, self.loss, outputs, self.y))
        return loss, loss + self.penalty.value(values)

    def _ended(self, outputs: np.ndarray, values: np.ndarray, tol: float, *, small: bool) -> ConvexStatus | None:
        """Whether the gap is closed; without a conjugate, whether the step was small."""
        u = self._slope(outputs)
        extremes = linalg.eigvalsh(self._adjoint(u), check_finite=False)
        factor, least = self.penalty.dual(float(extremes[0]), float(extremes[-1]))
        conjugates = self.loss.conjugate(factor * u * len(u), self.y)
        if conjugates is None:
            return ConvexStatus.NO_GAP if small else None
        bound = least - float(np.mean(conjugates))
        self.lower = bound if self.lower is None else max(self.lower, bound)
        objective = self._objective(outputs, values)[1]
        return ConvexStatus.OK if objective - self.lower <= tol * abs(objective) else None

    def _result(
        self, matrix: np.ndarray, outputs: np.ndarray, values: np.ndarray, status: ConvexStatus, count: int
    ) -> ConvexQuadratic:
        loss, objective = self._objective(outputs, values)
        plus, minus = traces(values)
        return ConvexQuadratic(
            status=status,
            objective=objective,
            gap=None if self.lower is None else max(objective - self.lower, 0.0),
            lower=self.lower,
            loss=loss,
            M=(matrix + matrix.T) / 2,
            T_plus=plus,
            T_minus=minus,
            rank_plus=int(np.sum(values > 0)),
            rank_minus=int(np.sum(values < 0)),
            iterations=count,
        )


def traces(eigenvalues: np.ndarray) -> tuple[float, float]:
    """The sums of the positive eigenvalues, and of the negative ones less their sign."""
    return float(eigenvalues[eigenvalues > 0].sum()), float(-eigenvalues[eigenvalues < 0].sum())
