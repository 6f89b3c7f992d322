"""How linear a function is in its parameters: on a sphere around a point, and along a run."""

from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT, bound
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.spectrum import kernel_function
from widescape.landscape.certificate import Certificate, HessianBound, certify_pl_star
from widescape.landscape.first_step import require_bound_of_each_point
from widescape.landscape.sequence import points_of


class LinearityGap(Result):
    """How far the residuals are from their linearization on a sphere, against the squared radius."""

    source = "liu2020loss"
    value: float = quantity(
        bound("lower", "of its supremum, and of half the Lipschitz constant of the Jacobian on the ball"),
        "max |F(w) - F(w_0) - J_0 (w - w_0)| / radius^2 over the points",
    )
    gaps: np.ndarray = quantity(EXACT, "the same for each point (S,)")
    radius: float = quantity(EXACT, "radius of the sphere")

    def __float__(self) -> float:
        return self.value


class PathDiagnostics(Result):
    """How the tangent kernel and the parameters moved along a run."""

    source = "liu2020loss"
    steps: np.ndarray = quantity(EXACT, "steps of the points (S,)")
    cosine: np.ndarray = quantity(EXACT, "<K_t, K_0> / (|K_t| |K_0|), Frobenius (S,)")
    alignment: np.ndarray = quantity(EXACT, "the same of the centered kernels: CKA (S,)")
    change: np.ndarray = quantity(EXACT, "|K_t - K_0| / |K_0|, Frobenius; infinite where only K_0 vanishes (S,)")
    distance: np.ndarray = quantity(EXACT, "|w_t - w_0| (S,)")
    path_length: np.ndarray = quantity(
        bound("lower", "of the path through all steps"), "sum of |w_{t+1} - w_t| up to each point (S,)"
    )
    straightness: float = quantity(EXACT, "last distance over last path length; 1 for a straight path or none")
    h: np.ndarray | None = quantity(
        EXACT, "h of the certificate at each point, infinite where K is singular; None if not asked (S,)"
    )
    first_certified: int | None = quantity(EXACT, "step of the first certified point, None if there is none")
    radius: float | None = quantity(EXACT, "radius of the certified ball there")

    def charts(self) -> tuple[Chart, ...]:
        """Kernel change and distance against steps."""
        return (
            Chart(
                name="kernel-path",
                title="How the tangent kernel moves along the run",
                x_label="step",
                y_label="share",
                series=(
                    Series(self.steps, self.change, "change of the kernel", style="both"),
                    Series(self.steps, self.alignment, "alignment with the start (CKA)", style="both"),
                ),
            ),
            Chart(
                name="path-length",
                title="How far the parameters move",
                x_label="step",
                y_label="length",
                series=(
                    Series(self.steps, self.path_length, "path through the points", style="both"),
                    Series(self.steps, self.distance, "distance from the start", style="both"),
                ),
            ),
        )


def linearity_gap(
    system: System,
    radius: float,
    *,
    n_samples: int = 16,
    params: Any = None,
    key: jax.Array | None = None,
) -> LinearityGap:
    """The largest |F(w) - F(w_0) - J_0 (w - w_0)| / R^2 over random points of the sphere of radius R.

    F are the residuals (divided by sqrt(n) for the mean). At most half of the Lipschitz constant beta_F(R) of the
    Jacobian, up to rounding of eps |F| / R^2: do not take R too small.

    Args:
        system: the function and its data.
        radius: R, in the Euclidean norm of all parameters.
        n_samples: random points.
        params: w_0, as a PyTree or flat; None for the system's own parameters.
        key: of the points; `jax.random.key(0)` if None.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: three forward passes a point.

    Example:
        >>> system = System(lambda w, x: w[:1] ** 2, np.array([1.0]), np.zeros(1))
        >>> round(float(linearity_gap(system, 0.5)), 9)
        1.0
    """
    length = checks.number(radius, "radius", "linearity_gap")
    checks.positive(length, "radius", "linearity_gap")
    checks.count(n_samples, "n_samples", "linearity_gap")
    double = system.as_float64()
    center = double.vector(params)
    start = double.F(center)
    generator = named_generator(key, "linearity gap")
    gaps = []
    for _ in range(n_samples):
        step = generator.standard_normal(center.size)
        step *= length / np.linalg.norm(step)
        gap = double.F(center + step) - start - double.jvp(step, center)
        gaps.append(double.weight**0.5 * float(np.linalg.norm(gap)) / length**2)
    return LinearityGap(value=max(gaps), gaps=np.array(gaps), radius=length)


def path_diagnostics(
    system: System,
    params_seq: Any,
    *,
    certify: bool = True,
    hessian_bound: HessianBound | None = None,
    progress: bool | None = None,
) -> PathDiagnostics:
    """How the tangent kernel turned and the parameters moved along a run, and where it became certified.

    Args:
        system: the function and its data; with `certify` its loss must be the square.
        params_seq: points (S, p), a list of parameters, or a run that kept snapshots.
        certify: whether to make a certificate at every point.
        hessian_bound: as for `certify_pl_star`; None needs a network that has a proved bound, or searches.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        NotCertifiable: with `certify`, where no certificate can exist.
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: a tangent kernel a point, and with `certify` a certificate.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([3.0, 4.0]), np.zeros(1), np.array([11.0]))
        >>> moved = path_diagnostics(system, np.array([[3.0, 4.0], [3.0, 3.0]]), hessian_bound=1.0)
        >>> moved.change.tolist(), moved.first_certified
        ([0.0, 0.28], 0)
    """
    points, steps = points_of(system, params_seq)
    require_bound_of_each_point(hessian_bound, per_point=False)
    kernel = kernel_function(system)
    start = kernel(points[0])
    middle = _centered(start)
    rows = []
    for point in track(points, "tangent kernels", show=progress):
        own = kernel(point)
        rows.append((_cosine(own, start), _cosine(_centered(own), middle), _change(own, start)))
    cosine, alignment, change = (np.array(column) for column in zip(*rows, strict=True))
    found: list[Certificate] = []
    if certify:
        found = [
            certify_pl_star(system, point, hessian_bound=hessian_bound)
            for point in track(points, "certificates", show=progress)
        ]
    moves = np.linalg.norm(np.diff(points, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(moves)])
    distance = np.linalg.norm(points - points[:1], axis=1)
    first = next((i for i, one in enumerate(found) if one.certified), None)
    return PathDiagnostics(
        steps=steps,
        cosine=cosine,
        alignment=alignment,
        change=change,
        distance=distance,
        path_length=length,
        straightness=float(distance[-1] / length[-1]) if length[-1] > 0 else 1.0,
        h=np.array([one.h for one in found]) if found else None,
        first_certified=None if first is None else int(steps[first]),
        radius=None if first is None else found[first].radius,
        stands={name: one.evidence("h") for one in found[-1:] for name in ("h", "first_certified", "radius")},
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two matrices; 1 where both vanish, 0 where one does."""
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(sizes) == 0:
        return 1.0 if max(sizes) == 0 else 0.0
    return float((a * b).sum() / (sizes[0] * sizes[1]))


def _change(kernel: np.ndarray, start: np.ndarray) -> float:
    """|kernel - start| / |start|; infinite if only `start` vanishes."""
    size, moved = float(np.linalg.norm(start)), float(np.linalg.norm(kernel - start))
    return moved / size if size > 0 else float("inf") if moved > 0 else 0.0


def _centered(kernel: np.ndarray) -> np.ndarray:
    rows = kernel - kernel.mean(axis=0, keepdims=True)
    centered: np.ndarray = rows - rows.mean(axis=1, keepdims=True)
    return centered
