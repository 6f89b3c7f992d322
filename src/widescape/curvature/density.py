"""The spectral density of a symmetric operator by stochastic Lanczos quadrature."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, Evidence, estimate, sampled
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.curvature.krylov import recursion
from widescape.curvature.product import Product, check_size, unit
from widescape.curvature.traces import random_signs, standard_error

_ROUNDED = Evidence("exact", note="quadrature of each probe's own spectral measure, up to rounding")
_GIVEN = sampled("mean over the given probes; speaks for the spectrum only if they are isotropic")
_SHARE = 0.01
_MARGIN = 5.0
_FLOOR = 1e-10


class SpectralDensity(Result):
    """Spectral density of a symmetric operator H: where its eigenvalues lie, each with weight 1/dim.

    The probe v_p has the measure sum_i (v_p.u_i)^2 delta(x - lambda_i) over the eigenpairs of H, replaced by nodes and
    weights that are exact for polynomials of degree 2 k - 1; the density is the mean over probes of
    sum_j weights_pj N(x; nodes_pj, width^2).
    """

    source = "ghorbani2019investigation"
    nodes: np.ndarray = quantity(_ROUNDED, "nodes theta of each probe, ascending (P, k); the last repeated as padding")
    weights: np.ndarray = quantity(_ROUNDED, "their weights, which sum to 1 for each probe (P, k); 0 on padding")
    steps: np.ndarray = quantity(EXACT, "Lanczos steps of each probe (P,); below k where its subspace was invariant")
    grid: np.ndarray = quantity(EXACT, "where the density is evaluated (G,)")
    density: np.ndarray = quantity(
        estimate("density_stderr", "of the smoothed k-node density; k and width smooth besides"),
        "density, smoothed by `width` (G,); integrates to 1",
    )
    density_stderr: np.ndarray = quantity(EXACT, "standard error over probes (G,); infinite for one probe")
    width: float = quantity(EXACT, "standard deviation of the smoothing Gaussian")
    num_products: int = quantity(EXACT, "products with the operator")

    def moment(self, q: int) -> tuple[float, float]:
        """The mean of theta^q, an estimate of tr H^q / dim, and its standard error over the probes (inf for one).

        Exact for each probe v, as v.H^q v, if q <= 2 k - 1.

        Raises:
            TypeError, ValueError: q is no integer of at least 0.
            NonFiniteError: the power overflows.
        """
        checks.count(q, "q", "moment", minimum=0)
        with np.errstate(over="ignore", invalid="ignore"):
            samples = np.sum(self.weights * self.nodes**q, axis=1)
        if not np.isfinite(samples).all():
            raise NonFiniteError(f"the moment of order {q} exceeds the largest double; scale the operator down.")
        return float(samples.mean()), float(standard_error(samples))

    def charts(self) -> tuple[Chart, ...]:
        """The density, with an interval of one standard error to each side."""
        lowest = _FLOOR * float(np.max(self.density)) or 1.0
        several = len(self.nodes) > 1
        error = self.density_stderr if several else np.zeros_like(self.density)
        low, high = (np.maximum(self.density + sign * error, lowest) for sign in (-1, 1))
        series = Series(
            self.grid,
            np.maximum(self.density, lowest),
            f"density, smoothed by {self.width:.3g}",
            low=low if several else None,
            high=high if several else None,
        )
        interval = "Interval: one standard error to each side. " if several else ""
        return (
            Chart(
                name="spectral_density",
                title="Spectral density of the operator",
                x_label="eigenvalue",
                y_label="density",
                series=(series,),
                y_scale="log",
                caption=f"Mean over {len(self.nodes)} probes of {self.nodes.shape[1]} Lanczos steps. {interval}"
                f"Values below {_FLOOR:.0e} of the peak are drawn there.",
            ),
        )


def slq_density(
    mv: Callable[[Any], Any],
    dim: int,
    k: int = 80,
    probes: int = 8,
    *,
    start: Any = None,
    width: float | None = None,
    grid: Any = None,
    num_grid: int = 1000,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> SpectralDensity:
    """The spectral density of a symmetric operator H by stochastic Lanczos quadrature.

    Probes have independent entries +-1/sqrt(dim), so that the mean over them of v.g(H) v is tr g(H) / dim without bias.

    Args:
        mv: H, a function from (dim,) to (dim,), of NumPy or JAX arrays.
        dim: dimension of H.
        k: Lanczos steps per probe; fewer smooth more.
        probes: how many random probes.
        start: probes (P, dim) to use instead, scaled to unit length each; `probes` and `key` then play no part.
        width: standard deviation of the Gaussian around each node, in units of the eigenvalues; None for 1% of the
            range of all nodes (at least 1e-8 of the largest magnitude, should they coincide; 0.01 if all are 0).
        grid: where to evaluate the density (G,); None for `num_grid` points from 5 widths below the lowest node to
            5 widths above the highest, over which the density integrates to 1 - 6e-7 or more.
        num_grid: points of that grid.
        key: of the random probes; None for ``jax.random.key(0)``.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `SpectralDensity`. Its standard error is over probes, and knows nothing of the smoothing.

    Raises:
        ValueError: k exceeds dim, a probe is zero, the grid is too coarse for `width`, or H is far from symmetric.
        ShapeError, DtypeError, NonFiniteError: of `start`, `grid` or a product.

    Cost: P k products, 8 P k^2 dim flops and P k G exponentials; k dim numbers.

    Example:
        >>> density = slq_density(lambda v: np.array([1.0, 3.0]) * v, 2, k=2, progress=False)
        >>> density.nodes[0].round(12).tolist(), density.weights[0].round(12).tolist()
        ([1.0, 3.0], [0.5, 0.5])
    """
    product = Product(mv, dim, "slq_density")
    check_size(k, dim, "slq_density")
    checks.count(probes, "probes", "slq_density")
    checks.count(num_grid, "num_grid", "slq_density", minimum=2)
    starts = random_signs(named_generator(key, "density"), probes, dim) if start is None else _given(start, dim)
    points = None if grid is None else _checked_grid(grid)
    if width is not None:
        width = checks.number(width, "width", "slq_density")
        checks.positive(width, "width", "slq_density")
    nodes, weights, steps = _quadratures(product, starts, k, progress)
    smoothing = _default_width(nodes) if width is None else width
    if points is None:
        points = _default_grid(nodes, smoothing, num_grid)
    curves = np.stack([_smoothed(points, *rule, smoothing) for rule in zip(nodes, weights, strict=True)])
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        steps=steps,
        grid=points,
        density=curves.mean(axis=0),
        density_stderr=standard_error(curves),
        width=smoothing,
        num_products=product.count,
        stands=_stands(given=start is not None, probes=len(curves)),
    )


def _stands(*, given: bool, probes: int) -> dict[str, Evidence]:
    """What stands behind a density, where it is no mean over random probes."""
    if given:
        return {"density": _GIVEN}
    return {"density": sampled("a single random probe, without an error")} if probes == 1 else {}


def _quadratures(
    product: Product, starts: np.ndarray, k: int, progress: bool | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights of each probe, padded to k, and the steps that each took."""
    nodes, weights, steps = [], [], []
    for start in track(starts, "spectral density", show=progress):
        done = recursion(product, unit(start), k, None)
        values, vectors = done.eigh()
        nodes.append(np.pad(values, (0, k - done.steps), mode="edge"))
        weights.append(np.pad(vectors[0] ** 2, (0, k - done.steps)))
        steps.append(done.steps)
    return np.stack(nodes), np.stack(weights), np.array(steps)


def _smoothed(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """The Gaussian mixture of one probe, one node after the other to spare memory."""
    density = np.zeros(len(grid))
    with np.errstate(over="ignore", under="ignore"):
        for node, weight in zip(nodes, weights, strict=True):
            density += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
    return density / (width * (2 * np.pi) ** 0.5)


def _default_width(nodes: np.ndarray) -> float:
    largest = float(np.max(np.abs(nodes)))
    return max(_SHARE * float(np.ptp(nodes)), 1e-8 * largest) if largest > 0 else _SHARE


def _default_grid(nodes: np.ndarray, width: float, num_grid: int) -> np.ndarray:
    low, high = float(nodes.min()) - _MARGIN * width, float(nodes.max()) + _MARGIN * width
    needed = int(np.ceil((high - low) / width)) + 1
    if num_grid < needed:
        raise ValueError(
            f"`num_grid` is {num_grid}, but nodes from {nodes.min():.3g} to {nodes.max():.3g} smoothed by {width:.3g} "
            f"need points no further apart than that; choose num_grid >= {needed}, a larger `width`, or a `grid`."
        )
    return np.linspace(low, high, num_grid)


def _given(start: Any, dim: int) -> np.ndarray:
    starts = checks.real_array(start, "start").astype(np.float64)
    if starts.ndim != 2 or starts.shape[1] != dim or len(starts) == 0:
        raise ShapeError(f"`start` has shape {starts.shape}; give probes (P, {dim}) in rows, a single v as v[None].")
    checks.all_finite(starts, "start")
    zero = np.flatnonzero(~starts.any(axis=1))
    if len(zero):
        raise ValueError(f"`start` has a zero probe in row {zero[0]}; each must be a direction.")
    return starts


def _checked_grid(grid: Any) -> np.ndarray:
    points = checks.real_array(grid, "grid").astype(np.float64)
    if points.ndim != 1 or len(points) == 0:
        raise ShapeError(f"`grid` has shape {points.shape}; it must be a vector of points.")
    checks.all_finite(points, "grid")
    return points
