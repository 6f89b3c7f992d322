"""The PL ratio: how much the squared gradient is worth against the loss, at a point and along a run."""

from functools import partial
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.krylov import top_eigs
from widescape.curvature.spectrum import extreme_eigenvalues, kernel_function
from widescape.landscape.sequence import points_of

_FLOOR = {8: 1e-28, 4: 1e-10, 2: 1e-4}  # of the loss against max(1, |y|^2) (over n for the mean), by bytes of a float
_NAN_AT_FLOOR = Evidence("exact", note="NaN where the loss is rounding")


class PLTrajectory(Result):
    """The PL ratio and what bounds it at the points of a run.

    The ratio lies between the extreme eigenvalues of the tangent kernel for the square loss. Its least value over the
    points is an upper bound of the PL* constant on any set that holds them.
    """

    source = "liu2020loss"
    steps: np.ndarray = quantity(EXACT, "steps of the points (S,)")
    loss: np.ndarray = quantity(EXACT, "L(w) (S,)")
    half_squared_gradient: np.ndarray = quantity(EXACT, "|grad L|^2 / 2 (S,)")
    ratio: np.ndarray = quantity(_NAN_AT_FLOOR, "|grad L|^2 / (2 L) (S,)")
    lam_min: np.ndarray | None = quantity(EXACT, "smallest eigenvalue of the tangent kernel (S,)")
    lam_max: np.ndarray | None = quantity(EXACT, "largest eigenvalue of the tangent kernel (S,)")
    sharpness: np.ndarray | None = quantity(
        bound("lower", "largest Ritz value"), "largest eigenvalue of the Hessian of the loss (S,)"
    )
    distance: np.ndarray = quantity(EXACT, "|w - w_0|, w_0 the first point (S,)")
    mu_traj: float | None = quantity(
        bound("upper", "of the PL* constant on a set with these points"), "least ratio above the floor"
    )
    mu_eps: float | None = quantity(
        bound("upper", "of the PL*_eps constant"), "least ratio where the loss is at least eps"
    )
    eps: float | None = quantity(EXACT, "the level eps")
    skipped: int = quantity(EXACT, "points whose loss is at the floor of rounding")

    def charts(self) -> tuple[Chart, ...]:
        """The ratio between the extreme eigenvalues, against steps."""
        shown = self.ratio > 0
        series = [Series(self.steps[shown], self.ratio[shown], "PL ratio", style="both")]
        for label, values in (("smallest eigenvalue", self.lam_min), ("largest eigenvalue", self.lam_max)):
            if values is not None and (values > 0).any():
                series.append(Series(self.steps[values > 0], values[values > 0], label))
        markers = (Marker(self.mu_traj, "least ratio"),) if self.mu_traj else ()
        return (
            Chart(
                name="pl-ratio",
                title="The PL ratio between the extreme eigenvalues of the tangent kernel",
                x_label="step",
                y_label="squared gradient / 2 loss",
                series=tuple(series),
                y_scale="log",
                markers=markers,
                caption="Descent at a step of 1/smoothness shrinks the loss at least by the ratio over the smoothness.",
            ),
        )


def pl_ratio(system: System, params: Any = None) -> float:
    """The PL ratio |grad L(w)|^2 / (2 L(w)).

    A function is mu-PL* on a set if this is at least mu there. For the square loss it is the Rayleigh quotient
    r^T K r / r^T r of the tangent kernel, and so lies between its extreme eigenvalues. Other losses have a
    ratio too, without that meaning.

    Args:
        system: the function, its data and its loss.
        params: where, as a PyTree or flat; None for the system's own parameters.

    Raises:
        ShapeError, DtypeError: parameters that do not fit.
        ValueError: no targets; or the loss is zero up to rounding, where there is no ratio.

    Cost: about three forward passes.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([1.0, 2.0]), np.zeros(1), np.array([1.0]))
        >>> pl_ratio(system)
        5.0
    """
    system.require_targets()
    point = system.vector(params)
    loss, half = system.value(point), _half_squared(system, point)
    if loss <= _floor(system):
        raise ValueError(f"the loss is {loss:.2g}, which is rounding; the ratio has no value there.")
    return half / loss


def pl_trajectory(
    system: System,
    params_seq: Any,
    *,
    steps: Any = None,
    eps: float | None = None,
    spectrum: bool = True,
    progress: bool | None = None,
) -> PLTrajectory:
    """The PL ratio, the kernel's extreme eigenvalues and the sharpness at the points of a run.

    Args:
        system: the function, its data and its loss.
        params_seq: points (S, p), a list of parameters, or a run that kept snapshots.
        steps: the steps of the points (S,); None for those of a run, or 0, 1, 2, ...
        eps: a loss down to which `mu_eps` is taken; None for none.
        spectrum: whether to compute eigenvalues of the kernel (N by N) and of the Hessian.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: three forward passes a point; with `spectrum` a tangent kernel, 4/3 N^3 flops and some twenty Hessian
    products more.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([1.0, 2.0]), np.zeros(1), np.array([1.0]))
        >>> run = pl_trajectory(system, np.array([[1.0, 2.0], [1.0, 1.5]]))
        >>> run.ratio.tolist(), run.mu_traj
        ([5.0, 3.25], 3.25)
    """
    system.require_targets()
    points, places = points_of(system, params_seq, steps)
    level = None if eps is None else checks.number(eps, "eps", "pl_trajectory")
    checks.not_negative(level, "eps", "pl_trajectory")
    kernel = kernel_function(system) if spectrum else None
    tolerance = 1e-6 if system.double else 1e-4
    rows, extremes, sharp, start = [], [], [], None
    for point in track(points, "PL ratio", show=progress):
        rows.append((system.value(point), _half_squared(system, point)))
        if kernel is not None:
            extremes.append(extreme_eigenvalues(kernel(point)))
            top = top_eigs(partial(system.hvp, w=point), system.num_params, 1, start=start, tol=tolerance)
            start = None if top.vectors is None else top.vectors[0]
            sharp.append(float(top.eigs[0]))
    loss, half = (np.array(column) for column in zip(*rows, strict=True))
    above = loss > _floor(system)
    ratio = np.where(above, half / np.where(above, loss, 1.0), np.nan)
    ends = np.array(extremes) if extremes else None
    high = above & (loss >= (level or 0.0))
    return PLTrajectory(
        steps=places,
        loss=loss,
        half_squared_gradient=half,
        ratio=ratio,
        lam_min=None if ends is None else ends[:, 0],
        lam_max=None if ends is None else ends[:, 1],
        sharpness=np.array(sharp) if sharp else None,
        distance=np.linalg.norm(points - points[:1], axis=1),
        mu_traj=float(ratio[above].min()) if above.any() else None,
        mu_eps=float(ratio[high].min()) if level is not None and high.any() else None,
        eps=level,
        skipped=int((~above).sum()),
    )


def _half_squared(system: System, point: np.ndarray) -> float:
    gradient = system.grad(point).astype(np.float64)
    return float(gradient @ gradient) / 2


def _floor(system: System) -> float:
    """The loss below which its ratio is rounding."""
    size = _FLOOR[min(system.flat.dtype.itemsize, 8)]
    targets = np.asarray(system.y)
    if targets.dtype.kind != "f":
        return size
    return size * max(1.0, system.weight * float(np.sum(np.square(targets, dtype=np.float64))))
