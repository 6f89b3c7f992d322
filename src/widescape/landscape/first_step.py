"""The first certified step of a run, and whether descent keeps what a certificate promises."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, certified
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.spectrum import extreme_eigenvalues, kernel_function
from widescape.landscape.certificate import Certificate, HessianBound, certify_pl_star
from widescape.landscape.descent import gradient_descent
from widescape.landscape.sequence import points_of

_ROUNDING = 1e-9  # relative, by which a measured loss, distance or eigenvalue may miss its bound
_EPS = float(np.finfo(np.float64).eps)
_FLOOR = 1e-18  # share of the first loss below which a loss is rounding


class FirstStepStatus(Status):
    """What the search for a certified step found."""

    OK = "A step of the run is certified, and the later points inside the ball keep to the certificate."
    UNCHECKED = "A step of the run is certified; no later point lies inside the ball, so nothing was held against it."
    NEVER = "No point of the run is certified; the last one says how far it is."
    BROKEN = (
        "A step is certified, but a later point inside the ball broke a promise: a bug, or a wrong curvature bound."
    )


class FirstCertifiedStep(Result):
    """The first point of a run from which gradient descent is guaranteed to converge.

    The residual shrinks as training goes, so a run that is uncertified where it starts becomes certified once the rest
    of the way is short enough for the curvature. What is certified is the last leg, from that step on. The rest
    of the run is held against it: at later points inside the ball, however they were reached, the smallest
    eigenvalue must be above mu. `check_certificate` takes descent itself on from there.
    """

    source = "liu2020loss"
    status: FirstStepStatus = quantity(EXACT, "what was found")
    step: int | None = quantity(EXACT, "the first certified step among those looked at; None if there is none")
    certificate: Certificate = quantity(EXACT, "of that step, or of the last one")
    steps: np.ndarray = quantity(EXACT, "steps that were looked at (S,)")
    h: np.ndarray = quantity(
        certified("as the certificate of each point"), "h at each: certified up to 1, or 2 at a small given lr (S,)"
    )
    loss: np.ndarray = quantity(EXACT, "loss at each (S,)")
    loss_share: float | None = quantity(EXACT, "loss at the certified step over the loss at the first point")
    num_later: int = quantity(EXACT, "later points that were held against the certificate")
    num_inside: int = quantity(EXACT, "of these, inside the ball")
    max_distance: float | None = quantity(EXACT, "largest distance of a later point from the certified one")
    min_eigenvalue: float | None = quantity(EXACT, "smallest kernel eigenvalue at later points inside the ball")

    def charts(self) -> tuple[Chart, ...]:
        """How far each step is from being certified; none where no h is finite and positive."""
        shown = np.isfinite(self.h) & (self.h > 0)
        if not shown.any():
            return ()
        markers = [Marker(1.0, "certified below")] if self.certificate.lr is None else []
        if self.step is not None:
            markers.append(Marker(float(self.step), f"step {self.step:,}", axis="x"))
        return (
            Chart(
                name="first-certified-step",
                title="How far each step is from a certificate of convergence",
                x_label="step",
                y_label="h = residual times curvature / kernel",
                series=(Series(self.steps[shown], self.h[shown], "h", style="both"),),
                y_scale="log",
                markers=tuple(markers),
                caption="At h <= 1 gradient descent from there is guaranteed to reach zero loss"
                + ("." if self.certificate.rigorous else ", if the sampled curvature is the true one."),
            ),
        )


class CertificateCheck(Result):
    """Gradient descent from a certified point, held against what the certificate promises."""

    source = "liu2020loss"
    holds: bool = quantity(EXACT, "whether loss, distance and eigenvalue kept to their bounds at every look")
    lr: float = quantity(EXACT, "learning rate of the descent")
    num_steps: int = quantity(EXACT, "steps taken")
    steps: np.ndarray = quantity(EXACT, "steps at which distance and eigenvalue were taken (S,)")
    loss: np.ndarray = quantity(EXACT, "loss before the first step and after each (steps + 1,)")
    bound: np.ndarray = quantity(EXACT, "promised loss L_0 rate^t (steps + 1,)")
    max_distance: float = quantity(EXACT, "largest distance from the start")
    radius: float = quantity(EXACT, "promised: the distance stays below")
    min_eigenvalue: float = quantity(EXACT, "smallest eigenvalue of the tangent kernel on the way")
    mu: float = quantity(EXACT, "promised: the eigenvalue stays above")
    measured_rate: float = quantity(EXACT, "measured factor of the loss per step over the second half")
    rate: float = quantity(EXACT, "promised: the factor is at most")

    def charts(self) -> tuple[Chart, ...]:
        """Loss beside the promised loss."""
        steps = np.unique(np.linspace(0, len(self.loss) - 1, min(len(self.loss), 400)).astype(int))
        series = [Series(steps, values[steps], label) for values, label in
                  ((self.loss, "measured"), (self.bound, "promised at most"))]  # fmt: skip
        return (
            Chart(
                name="certificate-check",
                title="Loss of descent from the certified point",
                x_label="step after the certificate",
                y_label="loss",
                series=tuple(series),
                y_scale="log",
            ),
        )


def first_certified_step(
    system: System,
    params_seq: Any,
    *,
    steps: Any = None,
    hessian_bound: HessianBound | Callable[[Any], HessianBound] | None = None,
    per_point: bool = False,
    flow: bool = False,
    lr: float | None = None,
    integrated: bool = False,
    assume_smooth: bool = False,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> FirstCertifiedStep:
    """The first point of a training run from which gradient descent on the square loss provably converges.

    Every point gets its own certificate (`certify_pl_star`), with curvature bounds anchored there, until one is
    certified; the rest of the run is held against it.

    Args:
        system: a function with square loss; for a rigorous answer without further ado, the `apply` of a fully connected
            `widescape.arch` network with smooth activations.
        params_seq: points (S, p), a list of parameters, or a run that kept snapshots (`gradient_descent`,
            `widescape.train.fit` with `keep_every`).
        steps: the steps of the points (S,); None for those of a run, or 0, 1, 2, ...
        hessian_bound: a number that holds around every point, or with `per_point` a function of the flat parameters
            that returns the bound around them: ``lambda w: network_bound(net, system.unravel(w), x,
            anchor_jacobians=True)`` sharpens the bounds of deeper networks.
        per_point: see `hessian_bound`.
        flow: as for `certify_pl_star`.
        lr: likewise.
        integrated: likewise.
        assume_smooth: likewise.
        key: likewise.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        NotCertifiable, ShapeError, TypeError, ValueError: as for `certify_pl_star`.

    Cost: a certificate for each point up to the first that is certified, a tangent kernel for each after it.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([1.0, 3.0]), np.zeros(1), np.array([1.0]))
        >>> run = np.array([[1.0, 3.0], [0.5, 2.5], [0.41, 2.43]])
        >>> found = first_certified_step(system, run, hessian_bound=1.0)
        >>> found.step, found.h.round(2).tolist()
        (1, [1.6, 0.31])
    """
    double = system.as_float64()
    points, places = points_of(double, params_seq, steps)
    require_bound_of_each_point(hessian_bound, per_point=per_point)
    certificates: list[Certificate] = []
    for point in track(points, "certificates", show=progress):
        bound: Any = hessian_bound(point) if per_point and callable(hessian_bound) else hessian_bound
        certificates.append(
            certify_pl_star(
                double,
                point,
                hessian_bound=bound,
                flow=flow,
                lr=lr,
                integrated=integrated,
                assume_smooth=assume_smooth,
                key=key,
            )
        )
        if certificates[-1].certified:
            break
    last = certificates[-1]
    found = len(certificates) - 1 if last.certified else None
    later = _later(double, points[found:], last, progress) if found is not None else {}
    losses = np.array([c.residual**2 / 2 for c in certificates])
    return FirstCertifiedStep(
        status=FirstStepStatus.NEVER if found is None else later.pop("status"),
        step=None if found is None else int(places[found]),
        certificate=last,
        steps=places[: len(certificates)],
        h=np.array([c.h for c in certificates]),
        loss=losses,
        loss_share=None if found is None or losses[0] == 0 else float(losses[-1] / losses[0]),
        stands={} if last.rigorous else {"h": last.evidence("h"), "step": last.evidence("certified")},
        **(later or {"num_later": 0, "num_inside": 0, "max_distance": None, "min_eigenvalue": None}),
    )


def check_certificate(
    system: System,
    certificate: Certificate,
    steps: int,
    *,
    params: Any = None,
    looks: int = 20,
    progress: bool | None = None,
) -> CertificateCheck:
    """Gradient descent from a certified point at the certified rate, held against loss, ball and eigenvalue.

    Args:
        system: the system of the certificate.
        certificate: of `params`, certified.
        steps: how many to take, at the certificate's `lr`, or its `lr_max`.
        params: the certified point, as a PyTree or flat; None for the system's own parameters.
        looks: points on the way at which distance and eigenvalues are taken.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit, or a certificate that certifies nothing, or
            gradient flow, or another point.

    Cost: three forward passes a step, a tangent kernel a look.

    Example:
        >>> A, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones(2)
        >>> linear = System(lambda w, x: x @ w, np.zeros(2), A, y)
        >>> check_certificate(linear, certify_pl_star(linear, hessian_bound=0.0), 50).holds
        True
    """
    if not certificate.certified:
        raise ValueError(f"the certificate certifies nothing ({certificate.reason}); there is nothing to check.")
    if certificate.flow:
        raise ValueError("this certificate is of gradient flow and says nothing of descent; make one with flow=False.")
    checks.count(steps, "steps", "check_certificate")
    checks.count(looks, "looks", "check_certificate")
    double = system.as_float64()
    require_point(certificate, double, double.vector(params))
    rate = certificate.lr_max if certificate.lr is None else certificate.lr
    run = gradient_descent(
        double, rate, steps, params=double.vector(params), keep_every=max(1, steps // looks), progress=progress
    )
    promised = certificate.residual**2 / 2 * certificate.rate ** np.arange(steps + 1)
    kernel = kernel_function(double)
    looked = track(run.snapshots, "kernels on the way", show=progress)
    smallest = min(extreme_eigenvalues(kernel(point))[0] for point in looked)
    distance = float(np.linalg.norm(run.snapshots - run.snapshots[:1], axis=1).max())
    inside = distance <= certificate.radius * (1 + _ROUNDING) + _EPS * float(np.linalg.norm(run.snapshots[0]))
    floor = _EPS**2 * double.weight * float(np.sum(np.square(np.asarray(double.y))))  # a loss of rounding alone
    holds = run.status.ok and kept_bound(run.loss, promised + floor) and inside
    return CertificateCheck(
        holds=holds and smallest >= certificate.mu * (1 - _ROUNDING),
        lr=rate,
        num_steps=len(run.loss) - 1,
        steps=run.snapshot_steps,
        loss=run.loss,
        bound=promised,
        max_distance=distance,
        radius=certificate.radius,
        min_eigenvalue=smallest,
        mu=certificate.mu,
        measured_rate=_late_rate(run.loss),
        rate=certificate.rate,
    )


def require_bound_of_each_point(hessian_bound: Any, *, per_point: bool) -> None:
    """Refuse a bound on balls around one point for a whole run.

    Raises:
        ValueError: `hessian_bound` is a function of the radius alone.
    """
    if callable(hessian_bound) and not per_point:
        raise ValueError(
            "`hessian_bound` is a function, and one of the radius alone holds around one point only. Give a number "
            "that holds everywhere, or with per_point=True a function of the flat parameters that returns the bound "
            "around them."
        )


def require_point(certificate: Certificate, system: System, point: np.ndarray) -> None:
    """Refuse a certificate at another point than its own.

    Raises:
        ValueError: the residual there is not that of the certificate.
    """
    residual = float(np.linalg.norm(system.residual(point)))
    if not np.isclose(residual, certificate.residual, rtol=1e-6, atol=0):
        raise ValueError(
            f"the residual here is {residual:.6g}, and the certificate is of a point where it is "
            f"{certificate.residual:.6g}; give that point as `params`."
        )


def _later(system: System, points: np.ndarray, certificate: Certificate, progress: bool | None) -> dict[str, Any]:
    """The certified point and those after it, against the certificate."""
    distances = np.linalg.norm(points - points[:1], axis=1)
    inside = distances <= certificate.radius
    kernel = kernel_function(system)
    looked = track(points[inside], "kernels of the rest", show=progress)
    smallest = min(extreme_eigenvalues(kernel(point))[0] for point in looked)
    good = smallest >= certificate.mu * (1 - _ROUNDING)
    status = FirstStepStatus.OK if inside[1:].any() else FirstStepStatus.UNCHECKED
    return {
        "status": status if good else FirstStepStatus.BROKEN,
        "num_later": len(points) - 1,
        "num_inside": int(inside[1:].sum()),
        "max_distance": float(distances.max()),
        "min_eigenvalue": smallest,
    }


def kept_bound(loss: np.ndarray, promised: np.ndarray) -> bool:
    """Whether a loss, step by step, never exceeds what was promised by more than rounding."""
    return bool((loss <= promised[: len(loss)] * (1 + _ROUNDING) + _FLOOR * loss[0]).all())


def _late_rate(loss: np.ndarray) -> float:
    """The mean factor per step over the second half of the steps above rounding."""
    above = loss[loss > _FLOOR * loss[0]]
    if len(above) < 2:
        return 0.0
    half = (len(above) - 1) // 2
    return float((above[-1] / above[half]) ** (1 / (len(above) - 1 - half)))
