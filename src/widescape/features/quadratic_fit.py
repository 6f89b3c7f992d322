"""Fitting the quadratic Taylor model on given representations."""

import warnings
from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import AssumptionWarning
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.features.balanced_factors import balanced_rows, required_curvature
from widescape.features.convex_quadratic import ConvexStatus, solve_convex_quadratic
from widescape.features.output_losses import Loss
from widescape.features.quadratic_objective import Precision, QuadraticProblem, Regularizer, weights_like
from widescape.features.quadratic_search import Found, QuadraticStatus, search_adam, search_lbfgs
from widescape.features.second_order import SecondOrderCertificate, lowest_curvature, second_order_certificate

Solver = Literal["lbfgs", "adam", "convex", "auto"]

LBFGS_UP_TO = 5e9
"""Product n k m up to which "auto" takes L-BFGS over all rows."""

_LONGEST_ESCAPE = 1.0
_SHORTEST_ESCAPE = 1e-4
_ROWS_PER_FEATURE = 5


class QuadraticFit(Result):
    """A fitted quadratic Taylor model."""

    source = "chen2020hierarchical, Algorithm 1"
    status: QuadraticStatus = quantity(EXACT, "how the fit ended")
    W: np.ndarray = quantity(EXACT, "displacement of the hidden weights (m, k)")
    objective: float = quantity(EXACT, "mean loss plus regularizer at W")
    loss: float = quantity(EXACT, "mean loss at W")
    lam: float = quantity(EXACT, "weight of the regularizer")
    solver: str = quantity(EXACT, "lbfgs, adam or convex")
    grad_norm: float = quantity(EXACT, "Euclidean norm of the gradient of the objective at W")
    iterations: int = quantity(EXACT, "iterations; epochs for adam")
    history: np.ndarray = quantity(
        Evidence("exact", note="in the precision `dtype` of the search"),
        "objective at the start and after each iteration; the last one for convex",
    )
    escapes: int = quantity(EXACT, "steps along directions of negative curvature")
    gap: float | None = quantity(
        bound("upper", "duality gap in float64, up to rounding"),
        "excess of the objective over the minimum, of the convex solver",
    )
    certificate: SecondOrderCertificate | None = quantity(EXACT, "gradient and smallest Hessian eigenvalue, if asked")

    def charts(self) -> tuple[Chart, ...]:
        """The objective along the fit; none for the convex solver."""
        if len(self.history) < 2:
            return ()
        series = Series(np.arange(len(self.history)), self.history, self.solver)
        return (
            Chart("quadratic-fit", "Objective of the quadratic Taylor model", "iteration", "mean loss plus regularizer",
                  (series,), y_scale="log" if (self.history > 0).all() else "linear"),
        )  # fmt: skip


def fit_quadratic_taylor(
    H: Any,
    y: Any,
    W0: Any,
    a: Any,
    *,
    lam: float,
    activation: Any = "relu3",
    reg: Regularizer = "l24",
    loss: Loss = "squared",
    solver: Solver = "lbfgs",
    max_iter: int = 150,
    tol: float = 1e-5,
    init_scale: float = 0.3,
    start: Any = None,
    seed: int = 0,
    dtype: Precision = "float32",
    escape_saddles: bool = False,
    certify: bool = False,
    progress: bool | None = None,
) -> QuadraticFit:
    """Minimize the regularized risk of f^Q_W(h) = sum_r a_r phi''(w0_r . h) (w_r . h)^2 / (2 sqrt m) over W.

    The objective is that of `QuadraticProblem`: mean loss plus lam sum_r |w_r|^4, or lam m^(-1/2) sum_r |w_r|^2. It is
    not convex, but with enough neurons every point of zero gradient without negative curvature is near optimal.

    Args:
        H: representations, (n, k).
        y: targets of one output, (n,); labels -1 and +1 for ``loss="logistic"``.
        W0: hidden weights at which the network is expanded, (m, k).
        a: output weights, +1 or -1, (m,).
        lam: weight of the regularizer, at least 0.
        activation: ``"relu3"``, max(t, 0)^3/6 with second derivative max(t, 0); ``"square"``, t^2/2 with second
            derivative 1; a nonlinearity of `widescape.arch`, or an elementwise function of JAX.
        reg: "l24" or "nuclear".
        loss: "squared", "huber", "logistic" or a function l(yhat, y) of JAX, convex in yhat.
        solver: "lbfgs", over all rows; "adam", over minibatches of 256 rows, `max_iter` epochs at a rate that falls
            from 1e-2 to 0; "convex", `solve_convex_quadratic` and `balanced_rows`, for constant phi'' and
            both signs; "auto" for "lbfgs" if n k m <= 5e9, else "adam".
        max_iter: most iterations, or epochs. The convex solver takes up to 5000.
        tol: norm of the gradient at which to stop; for "convex" the relative duality gap.
        init_scale: the start is normal with variance init_scale^2 / k; never zero, which is a saddle.
        start: W to begin at in place of that, (m, k), for example the solution at another `lam`.
        seed: of the start, the minibatches.
        dtype: precision of the products with H during the search, and of all of Adam; vectors of L-BFGS are float64.
            Below a gradient of about 1e-4 of the scale, "float32" ends with status PRECISION. What is returned of the
            last point is computed in float64, and its status is judged by that.
        escape_saddles: where the gradient is within `tol` and the Hessian has an eigenvalue below -sqrt(tol), step
            along its eigenvector and go on. An eigenvalue costs as in `second_order_certificate`.
        certify: add the `SecondOrderCertificate` of the outcome.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `QuadraticFit`, of the same bits for the same arguments on one machine.

    Raises:
        ValueError: `lam` is negative; phi'' vanishes almost everywhere (ReLU, leaky ReLU, step), or varies while the
            solver is "convex"; a row of `start` is zero, where it would stay; the convex optimum has a higher rank than
            neurons of a sign.
        ShapeError, DtypeError, TypeError: arguments that do not fit.
        NonFiniteError: the objective at the start leaves the range of numbers.

    Warns:
        UserWarning: `y` is constant, for which a bias suffices.
        AssumptionWarning: fewer than 5 k rows, where interpolating noise costs no more norm than the signal.

    Cost: 4 n k m multiply-adds per iteration, n (k + 2 m) numbers.

    Source: chen2020hierarchical. The start's scale and 150 iterations of L-BFGS are the values that its
    sample-complexity experiment takes here.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> H, W0, a = rng.normal(size=(200, 3)), rng.normal(size=(8, 3)), np.repeat([1.0, -1.0], 4)
        >>> fit = fit_quadratic_taylor(H, H[:, 0] * H[:, 1], W0, a, activation="square", lam=1e-5)
        >>> fit.loss < 1e-4
        True
    """
    problem = QuadraticProblem(H, y, W0, a, activation=activation, reg=reg, lam=lam, loss=loss, dtype=dtype)
    warn_if_constant(problem.y, stacklevel=3)
    warn_if_few(problem.H, stacklevel=3)
    checks.choice(solver, "solver", Solver)
    return fit_problem(
        problem,
        start_of(problem.shape, start, init_scale, seed),
        solver=solver,
        max_iter=max_iter,
        tol=tol,
        seed=seed,
        escape_saddles=escape_saddles,
        certify=certify,
        progress=progress,
    )


def fit_problem(
    problem: QuadraticProblem,
    start: np.ndarray,
    *,
    solver: Solver,
    max_iter: int,
    tol: float,
    seed: int,
    escape_saddles: bool,
    certify: bool,
    progress: bool | None,
) -> QuadraticFit:
    """`fit_quadratic_taylor` of a checked problem and start."""
    checks.count(max_iter, "max_iter", "fit_quadratic_taylor", minimum=0)
    tol = checks.number(tol, "tol", "fit_quadratic_taylor")
    checks.positive(tol, "tol", "fit_quadratic_taylor")
    if solver == "auto":
        solver = "lbfgs" if float(len(problem.H)) * start.size <= LBFGS_UP_TO else "adam"
    gap, escapes = None, 0
    if solver == "convex":
        problem = problem.at(dtype="float64")
        found, gap = _convex(problem, tol, progress)
    elif solver == "adam":
        generator = named_generator(jax.random.key(seed), "quadratic minibatches")
        found = search_adam(problem, start, max_iter, tol, generator, progress)
    else:
        found = search_lbfgs(problem, start, max_iter, tol, progress)
    if escape_saddles and solver != "convex":
        found, escapes = _escaped(problem, found, max_iter, tol, progress)
    mean_loss, gradient = problem.at(dtype="float64").loss_and_gradient(found.W)
    grad_norm = float(np.linalg.norm(gradient))
    return QuadraticFit(
        status=found.status if solver == "convex" else _judged(found.status, grad_norm, tol),
        W=found.W,
        objective=mean_loss + problem.penalty(found.W),
        loss=mean_loss,
        lam=problem.lam,
        solver=solver,
        grad_norm=grad_norm,
        iterations=found.iterations,
        history=np.array(found.history),
        escapes=escapes,
        gap=gap,
        certificate=second_order_certificate(problem, found.W) if certify else None,
    )


def _judged(status: QuadraticStatus, grad_norm: float, tol: float) -> QuadraticStatus:
    """The status by the gradient in float64, where the search had another."""
    if status is QuadraticStatus.OK and grad_norm > tol:
        return QuadraticStatus.PRECISION
    if status in (QuadraticStatus.PRECISION, QuadraticStatus.OUT_OF_STEPS) and grad_norm <= tol:
        return QuadraticStatus.OK
    return status


def start_of(shape: tuple[int, ...], start: Any, init_scale: float, seed: int) -> np.ndarray:
    """The given start, or a random one.

    Raises:
        ValueError: a row is zero, or `init_scale` is not positive.
    """
    checks.count(seed, "seed", "fit_quadratic_taylor", minimum=0)
    if start is None:
        scale = checks.number(init_scale, "init_scale", "fit_quadratic_taylor")
        if scale <= 0:
            raise ValueError(
                f"`init_scale` is {scale}; W = 0 is an exact saddle of the quadratic model, which no gradient leaves. "
                "Give a positive number."
            )
        generator = named_generator(jax.random.key(seed), "quadratic start")
        return generator.normal(size=shape) * (scale / shape[1] ** 0.5)
    weights = weights_like(start, shape, "start")
    zero = np.flatnonzero(~weights.any(axis=1))
    if len(zero):
        raise ValueError(
            f"row {zero[0]} of `start` is zero, and so is its gradient, exactly: it would never move. W = 0 is a "
            "saddle of the quadratic model; fill zero rows with small random numbers."
        )
    return weights


def warn_if_constant(y: np.ndarray, *, stacklevel: int) -> None:
    """Warn of targets that a constant predicts."""
    if (y == y[0]).all():
        warnings.warn(
            f"all targets are {y[0]:g}; a constant predicts them, which the quadratic model does not contain.",
            UserWarning,
            stacklevel=stacklevel,
        )


def warn_if_few(H: np.ndarray, *, stacklevel: int) -> None:
    """Warn of fewer than five rows for each feature."""
    n, k = H.shape
    if n < _ROWS_PER_FEATURE * k:
        warnings.warn(
            f"{n} rows for {k} features are fewer than {_ROWS_PER_FEATURE} to one: a quadratic form interpolates noise "
            "as cheaply as the signal, and `lam` decides little. Take more rows or fewer features.",
            AssumptionWarning,
            stacklevel=stacklevel,
        )


def _convex(problem: QuadraticProblem, tol: float, progress: bool | None) -> tuple[Found, float | None]:
    """The global optimum through quadratic forms, and its duality gap.

    A constant phi'' = c is put into the representations, sqrt|c| h, and into the signs.
    """
    second = required_curvature(problem.activation, 'solver="convex"')
    if len(np.unique(problem.a)) == 1:
        raise ValueError(
            f'all entries of `a` are {problem.a[0]:+.0f}; solver="convex" needs both signs, as many neurons of each as '
            'the form has eigenvalues of that sign. Give both, or take solver="lbfgs".'
        )
    signs = problem.a * np.sign(second)
    solved = solve_convex_quadratic(
        np.sqrt(abs(second)) * problem.H,
        problem.y,
        lam=problem.lam,
        reg=problem.reg,
        loss=problem.loss,
        positive_share=float(np.mean(signs > 0)),
        tol=tol,
        progress=progress,
    )
    weights = balanced_rows(solved.M, signs)
    status = {
        ConvexStatus.OK: QuadraticStatus.OK,
        ConvexStatus.NO_GAP: QuadraticStatus.NO_GAP,
        ConvexStatus.OUT_OF_STEPS: QuadraticStatus.OUT_OF_STEPS,
    }[solved.status]
    value, gradient = problem.value_and_gradient(weights)
    return Found(weights, [value], float(np.linalg.norm(gradient)), solved.iterations, status), solved.gap


def _escaped(
    problem: QuadraticProblem, found: Found, max_iter: int, tol: float, progress: bool | None
) -> tuple[Found, int]:
    """Follow negative curvature from points of small gradient, as long as iterations are left."""
    double, escapes = problem.at(dtype="float64"), 0
    while found.status is QuadraticStatus.OK:
        eigenvalue, _, direction = lowest_curvature(double, found.W)
        if eigenvalue >= -(tol**0.5):
            break
        left = max_iter - found.iterations
        lower = _stepped(double, found.W, direction)
        if left <= 0 or lower is None:
            found = Found(found.W, found.history, found.grad_norm, found.iterations, QuadraticStatus.SADDLE)
            break
        after = search_lbfgs(problem, lower, left, tol, progress)
        history = [*found.history, *after.history]
        found = Found(after.W, history, after.grad_norm, len(history) - 1, after.status)
        escapes += 1
    return found, escapes


def _stepped(problem: QuadraticProblem, W: np.ndarray, direction: np.ndarray) -> np.ndarray | None:
    """The lowest of the points at +-1, +-1/2, +-1/4, ... along a direction; None if none is lower."""
    lengths = _LONGEST_ESCAPE * 0.5 ** np.arange(np.log2(_LONGEST_ESCAPE / _SHORTEST_ESCAPE))
    points = [W + sign * length * direction for length in lengths for sign in (1, -1)]
    values = [problem.value(point) for point in points]
    best = int(np.argmin(values))
    return points[best] if values[best] < problem.value(W) else None
