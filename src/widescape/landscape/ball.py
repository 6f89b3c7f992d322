"""The smallest kernel eigenvalue on a ball, searched by sampling and by descent to worse points."""

from typing import Any

import jax
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.evidence import EXACT, bound
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.spectrum import kernel_function


class BallEstimate(Result):
    """The least of the smallest kernel eigenvalue over points of a ball, found by a search.

    An upper bound of the infimum over the ball, and no certificate: worse points may exist.
    """

    source = "liu2020loss"
    mu: float = quantity(bound("upper", "of the infimum over the ball"), "least smallest eigenvalue of K found")
    center: float = quantity(EXACT, "smallest eigenvalue of K at the center")
    sampled: float = quantity(bound("upper", "of the infimum"), "least over the random points")
    radius: float = quantity(EXACT, "radius of the ball")
    lam_min: np.ndarray = quantity(EXACT, "smallest eigenvalue at each random point, (2 n_samples,)")
    refined: np.ndarray = quantity(EXACT, "smallest eigenvalue at each step of the search from the worst of them")
    w: np.ndarray = quantity(EXACT, "flat parameters of the worst point found, (p,)")


def pl_on_ball(
    system: System,
    radius: float,
    *,
    n_samples: int = 32,
    adversarial: int = 20,
    params: Any = None,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> BallEstimate:
    """The smallest eigenvalue of the tangent kernel on a ball of parameters, from above.

    Each of `n_samples` random directions gives a point on the sphere and one inside, uniform in the ball. From the
    worst of them the search descends on lambda_min along its gradient 2 grad_w |J^T z|^2 / 2 (z the eigenvector),
    in steps of half the radius, projected to the ball, and halved where they do not help.

    Args:
        system: the function and its data.
        radius: of the ball, in the Euclidean norm of all parameters.
        n_samples: random directions.
        adversarial: steps of the search.
        params: the center, as a PyTree or flat; None for the system's own parameters.
        key: of the random directions; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: 1 + 2 `n_samples` + `adversarial` tangent kernels and their eigenvalues.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([3.0, 4.0]), np.zeros(1))
        >>> round(pl_on_ball(system, 1.0, n_samples=4).mu, 6)
        16.0
    """
    length = checks.number(radius, "radius", "pl_on_ball")
    checks.positive(length, "radius", "pl_on_ball")
    checks.count(n_samples, "n_samples", "pl_on_ball")
    checks.count(adversarial, "adversarial", "pl_on_ball", minimum=0)
    double = system.as_float64()
    center = double.vector(params)
    search = _Search(double, center, length)
    first = search.see(center)
    sampled = _sampled(search, n_samples, named_generator(key, "ball"), progress)
    refined = _refined(search, adversarial, progress)
    return BallEstimate(
        mu=search.lowest,
        center=first,
        sampled=min(sampled),
        radius=length,
        lam_min=np.array(sampled),
        refined=np.array(refined),
        w=search.worst,
    )


class _Search:
    """The worst point of a ball so far."""

    def __init__(self, system: System, center: np.ndarray, radius: float) -> None:
        self.system, self.center, self.radius = system, center, radius
        self.kernel = kernel_function(system)
        self.lowest, self.worst, self.bottom = float("inf"), center, np.zeros(0)

    def see(self, point: np.ndarray) -> float:
        """The smallest eigenvalue at a point; the worst point is kept with its eigenvector."""
        value, z = _bottom(self.kernel(point))
        if value < self.lowest:
            self.lowest, self.worst, self.bottom = value, point, z
        return value


def _sampled(search: _Search, count: int, generator: np.random.Generator, progress: bool | None) -> list[float]:
    """Values on the sphere and inside, along random directions."""
    values = []
    for _ in track(range(count), "points of the ball", show=progress):
        direction = generator.standard_normal(search.center.size)
        direction *= search.radius / np.linalg.norm(direction)
        inside = generator.uniform() ** (1 / search.center.size)
        values += [search.see(search.center + share * direction) for share in (1.0, inside)]
    return values


def _refined(search: _Search, count: int, progress: bool | None) -> list[float]:
    """Values along a descent from the worst point; a step that does not lower the value is taken back and halved."""
    values: list[float] = []
    step, origin, downhill = search.radius / 2, None, np.zeros(0)
    for _ in track(range(count), "worse points", show=progress):
        if origin is not search.worst:
            origin, downhill = search.worst, _downhill(search.system, search.worst, search.bottom)
        values.append(search.see(_projected(origin + step * downhill, search.center, search.radius)))
        if origin is search.worst:
            step /= 2
    return values


def _bottom(kernel: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest eigenvalue and its eigenvector."""
    with threads_for(len(kernel)):
        values, vectors = linalg.eigh(kernel, subset_by_index=[0, 0], check_finite=False)
    return float(values[0]), vectors[:, 0]


def _downhill(system: System, point: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The unit direction in which the smallest eigenvalue falls fastest; zero where it does not change."""
    gradient = system.second_adjoint(z, system.vjp(z, point), point)
    size = float(np.linalg.norm(gradient))
    return -gradient / size if size > 0 else np.zeros_like(gradient)


def _projected(point: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    away = point - center
    size = float(np.linalg.norm(away))
    return point if size <= radius else center + away * (radius / size)
