"""The loss of gradient descent, predicted from the kernel where it starts, beside the measured one."""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT, Evidence, certified, sampled
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.krylov import lanczos
from widescape.curvature.spectrum import tangent_kernel
from widescape.landscape.certificate import Certificate, certify_pl_star
from widescape.landscape.descent import gradient_descent
from widescape.landscape.first_step import kept_bound, require_point

Mode = Literal["eig", "lanczos", "bound"]
_QUADRATURE = sampled("exact up to `exact_until`, and Gaussian quadrature of the linearization beyond")
_LINEAR = Evidence("exact", note="of descent on the linearization; of the network as far as its kernel stays")


class GDPrediction(Result):
    """The loss of gradient descent at every step, without taking one."""

    source = "liu2020loss"
    loss: np.ndarray = quantity(_LINEAR, "predicted loss before the first step and after each, (steps + 1,)")
    mode: str = quantity(EXACT, "eig, lanczos or bound")
    exact_until: int = quantity(EXACT, "the last step up to which the curve is that of the linearization")
    stable: bool | None = quantity(
        EXACT, "whether lr is below 2/lambda_max of the linearization; None where that was not seen", default=None
    )

    def charts(self) -> tuple[Chart, ...]:
        """Predicted loss against steps."""
        return (_chart({f"predicted ({self.mode})": self.loss}, "predicted-loss", "Predicted loss of descent"),)


class RateStatus(Status):
    """What the comparison found."""

    OK = "Measured and predicted rates were fitted in the window."
    NO_WINDOW = "The loss did not pass through the window, so no rate was fitted; take more steps, or widen the window."
    DIVERGED = "Descent diverged; lower the learning rate."


class RateReport(Result):
    """The measured loss of gradient descent beside its linearization and its bound. Rates are factors per step."""

    source = "liu2020loss"
    status: RateStatus = quantity(EXACT, "what was found")
    measured: float | None = quantity(EXACT, "least-squares factor of the measured loss in the window")
    linearized: float | None = quantity(EXACT, "the same fit to the linearized curve")
    predicted: float = quantity(EXACT, "(1 - lr lambda_min)^2, the factor in the end if lambda_min governs")
    bound: float | None = quantity(
        certified("of the certificate"), "promised factor, 1 - lr mu (2 - lr smoothness); None where none is certified"
    )
    bound_ok: bool | None = quantity(EXACT, "whether the measured loss never exceeds L_0 bound^t, but by rounding")
    curve_error: float | None = quantity(EXACT, "largest relative error of the linearized curve down to its floor")
    loss: np.ndarray = quantity(EXACT, "measured loss (steps + 1,)")
    linearized_loss: np.ndarray = quantity(_LINEAR, "linearized loss (steps + 1,)")
    bound_loss: np.ndarray | None = quantity(certified("of the certificate"), "promised loss (steps + 1,)")
    window: tuple[float, float] = quantity(EXACT, "losses over the first in which rates are fitted")

    def charts(self) -> tuple[Chart, ...]:
        """Measured, linearized and promised loss."""
        lines = {"measured": self.loss, "linearized": self.linearized_loss}
        if self.bound_loss is not None:
            lines["promised at most"] = self.bound_loss
        return (_chart(lines, "rates", "Loss of descent: measured, linearized, promised"),)


class SGDStep(NamedTuple):
    """A step size and the factor by which the expected loss shrinks with it."""

    lr: float
    rate: float


def predict_gd(
    system: System,
    lr: float,
    steps: int,
    *,
    mode: Mode = "eig",
    k: int = 32,
    params: Any = None,
    certificate: Certificate | None = None,
) -> GDPrediction:
    """The loss of gradient descent on the square loss, from what is known where it starts.

    ``"eig"``
        L_t = 1/2 sum_i (u_i . r_0)^2 (1 - lr lambda_i)^{2t} with the eigenpairs of the tangent kernel: descent on the
        linearization, at every step.
    ``"lanczos"``
        The same from k products with the kernel: Gaussian quadrature with start r_0, exact up to step k - 1.
    ``"bound"``
        L_0 rate^t of a certificate: what the loss of the function itself cannot exceed.

    Args:
        system: a function with square loss.
        lr: learning rate.
        steps: how many.
        mode: which of the three.
        k: Lanczos steps.
        params: where descent starts, as a PyTree or flat; None for the system's own parameters.
        certificate: for ``"bound"``, of the same point and with this `lr`; made here if None.

    Raises:
        ValueError: another loss; for ``"bound"``, nothing is certified at this learning rate.
        ShapeError, DtypeError: arguments that do not fit.

    Cost: a tangent kernel and its eigenvectors (9 N^3); k products with the kernel; a certificate.

    Example:
        >>> A, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones(2)
        >>> linear = System(lambda w, x: x @ w, np.zeros(2), A, y)
        >>> predict_gd(linear, 0.25, 2).loss.round(9).tolist()
        [1.0, 0.28125, 0.158203125]
    """
    checks.choice(mode, "mode", Mode)
    rate = checks.number(lr, "lr", "predict_gd")
    checks.positive(rate, "lr", "predict_gd")
    checks.count(steps, "steps", "predict_gd", minimum=0)
    double = system.as_float64()
    point = double.vector(params)
    residual = double.residual(point)
    if mode == "bound":
        return _promised(double, point, rate, steps, certificate)
    length = float(np.linalg.norm(residual))
    if mode == "eig":
        values, weights = _modes(tangent_kernel(double, point, progress=False), residual)
        exact = steps
    else:
        checks.count(k, "k", "predict_gd")
        if length == 0:
            return GDPrediction(loss=np.zeros(steps + 1), mode=mode, exact_until=steps)
        run = lanczos(lambda z: double.kernel_mv(z, point), len(residual), min(k, len(residual)), start=residual)
        values, weights = run.ritz, run.weights * length**2
        exact = steps if run.steps < min(k, len(residual)) or run.steps == len(residual) else min(steps, run.steps - 1)
    below: bool | None = bool(rate * values.max() < 2)
    return GDPrediction(
        loss=_decayed(values, weights, rate, steps),
        mode=mode,
        exact_until=exact,
        stable=below if mode == "eig" or not below else None,  # Ritz values see lambda_max from below
        stands={"loss": _QUADRATURE} if exact < steps else {},
    )


def compare_gd_rate(
    system: System,
    lr: float,
    steps: int,
    *,
    params: Any = None,
    window: tuple[float, float] = (1e-16, 1e-6),
    certificate: Certificate | None = None,
    progress: bool | None = None,
) -> RateReport:
    """Gradient descent on the square loss, measured, beside its linearization and its certificate.

    Rates are least-squares slopes of log L against steps while L/L_0 lies in `window`, which keeps clear of the
    first steps and of rounding (below some 1e-25 in float64 the rate reads 1). Runs in float64.

    Args:
        system: a function with square loss.
        lr: learning rate.
        steps: how many to take.
        params: where descent starts, as a PyTree or flat; None for the system's own parameters.
        window: lower and upper end of L/L_0.
        certificate: of the same point, covering `lr`; None for no bound.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: a tangent kernel and its eigenvectors, three forward passes a step.

    Example:
        >>> A, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones(2)
        >>> linear = System(lambda w, x: x @ w, np.zeros(2), A, y)
        >>> report = compare_gd_rate(linear, 0.25, 100)
        >>> round(report.measured, 9), report.predicted
        (0.5625, 0.5625)
    """
    low, high = window
    if not 0 < low < high <= 1:
        raise ValueError(
            f"`window` is {window}; give a lower and an upper share of the first loss, 0 < low < high <= 1."
        )
    double = system.as_float64()
    point = double.vector(params)
    rate = checks.number(lr, "lr", "compare_gd_rate")
    checks.positive(rate, "lr", "compare_gd_rate")
    checks.count(steps, "steps", "compare_gd_rate", minimum=0)
    values, weights = _modes(tangent_kernel(double, point, progress=progress), double.residual(point))
    linearized, smallest = _decayed(values, weights, rate, steps), float(values[0])
    run = gradient_descent(double, lr, steps, params=point, progress=progress)
    promised = None if certificate is None else _promised(double, point, float(lr), steps, certificate).loss
    length = min(len(run.loss), steps + 1)
    measured, linear = (_fitted(loss[:length], low, high) for loss in (run.loss, linearized))
    diverged = not run.status.ok or bool(run.loss[-1] > run.loss[0])
    status = RateStatus.DIVERGED if diverged else RateStatus.OK
    if not diverged and (measured is None or linear is None):
        status = RateStatus.NO_WINDOW
    return RateReport(
        status=status,
        measured=measured,
        linearized=linear,
        predicted=(1 - float(lr) * smallest) ** 2,
        bound=None if promised is None or certificate is None else _rate_of(certificate, float(lr)),
        bound_ok=None if promised is None else kept_bound(run.loss, promised),
        curve_error=_error(run.loss[:length], linearized[:length], low),
        loss=run.loss,
        linearized_loss=linearized,
        bound_loss=promised,
        window=(float(low), float(high)),
        stands={} if certificate is None else dict.fromkeys(("bound", "bound_loss"), certificate.evidence("rate")),
    )


def sgd_step_size(n: int, beta: float, lam: float, mu: float, s: int) -> SGDStep:
    """The step size of mini-batch descent under PL*, and the factor of the expected loss per step.

    For L = sum of n losses, each not negative and `beta`-smooth, L `lam`-smooth and `mu`-PL*, and the update
    -lr (sum of the gradients of a batch of `s`, drawn with replacement): lr = n mu / (lam (n beta + mu (s - 1))) gives
    E L_{t+1} <= (1 - mu s lr / n) E L_t.

    Args:
        n: examples.
        beta: smoothness of the loss of one example.
        lam: smoothness of their sum.
        mu: PL* constant of their sum.
        s: examples of a batch.

    Raises:
        TypeError, ValueError: counts below one or constants that are not positive, or mu above lam.

    Example:
        >>> sgd_step_size(10, 1.0, 10.0, 2.0, 1)
        SGDStep(lr=0.2, rate=0.96)
    """
    checks.count(n, "n", "sgd_step_size")
    checks.count(s, "s", "sgd_step_size")
    for name, value in (("beta", beta), ("lam", lam), ("mu", mu)):
        checks.positive(checks.number(value, name, "sgd_step_size"), name, "sgd_step_size")
    if mu > lam:
        raise ValueError(f"`mu` is {mu} and `lam` {lam}; a {lam}-smooth loss is at most {lam}-PL*.")
    lr = n * mu / (lam * (n * beta + mu * (s - 1)))
    return SGDStep(lr, 1 - mu * s * lr / n)


def _modes(kernel: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and the squared components of the residual."""
    with threads_for(len(kernel)):
        values, vectors = linalg.eigh(kernel, check_finite=False)
    return values, (vectors.T @ residual) ** 2


def _decayed(values: np.ndarray, weights: np.ndarray, lr: float, steps: int) -> np.ndarray:
    """1/2 sum of weights (1 - lr values)^{2t} for t up to `steps`; infinite where it overflows."""
    factors = (1 - lr * values[weights > 0]) ** 2
    parts, loss = weights[weights > 0] / 2, np.empty(steps + 1)
    with np.errstate(over="ignore", under="ignore"):
        for t in range(steps + 1):
            loss[t] = parts.sum()
            parts = parts * factors
    return loss


def _promised(
    system: System, point: np.ndarray, lr: float, steps: int, certificate: Certificate | None
) -> GDPrediction:
    found = certify_pl_star(system, point, lr=lr) if certificate is None else certificate
    if not found.certified:
        raise ValueError(f"no bound: {found.reason}")
    require_point(found, system, point)
    loss = system.value(point) * _rate_of(found, lr) ** np.arange(steps + 1)
    return GDPrediction(loss=loss, mode="bound", exact_until=0, stands={"loss": found.evidence("rate")})


def _rate_of(certificate: Certificate, lr: float) -> float:
    """What a certificate promises at a learning rate that it covers."""
    if certificate.flow:
        raise ValueError("the certificate is of gradient flow and says nothing of descent; make one with flow=False.")
    covered = certificate.lr_max if certificate.lr is None else certificate.lr
    if lr > covered * (1 + 1e-9):
        raise ValueError(
            f"the certificate covers learning rates up to {covered:.4g}, and `lr` is {lr:.4g}; lower it, or make the "
            "certificate with `lr`."
        )
    return 1 - lr * certificate.mu * (2 - lr * certificate.smoothness)


def _fitted(loss: np.ndarray, low: float, high: float) -> float | None:
    """The factor per step of a least-squares line through log L in the window; None for fewer than three points."""
    share = loss / loss[0] if loss[0] > 0 else np.zeros_like(loss)
    inside = np.flatnonzero((share >= low) & (share <= high))
    if len(inside) < 3:
        return None
    return float(np.exp(np.polyfit(inside, np.log(loss[inside]), 1)[0]))


def _error(measured: np.ndarray, linear: np.ndarray, low: float) -> float | None:
    above = (measured > 0) & (measured >= low * measured[0]) & np.isfinite(linear)
    return float(np.max(np.abs(linear[above] / measured[above] - 1))) if above.any() else None


def _chart(lines: dict[str, np.ndarray], name: str, title: str) -> Chart:
    series = []
    for label, values in lines.items():
        steps = np.unique(np.linspace(0, len(values) - 1, min(len(values), 400)).astype(int))
        steps = steps[np.isfinite(values[steps]) & (values[steps] > 0)]
        series.append(Series(steps, values[steps], label))
    return Chart(name=name, title=title, x_label="step", y_label="loss", series=tuple(series), y_scale="log")
