"""Whether a loss is convex around a solution: negative curvature a little beside it."""

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
from widescape.curvature.krylov import top_eigs

_DENSE = 2000  # parameters up to which Hessians of single outputs are formed


class NonconvexityProbe(Result):
    """The smallest eigenvalue of the Hessian of the loss at points beside one point.

    A negative one proves that the loss is not convex near there; none proves nothing.
    """

    source = "liu2020loss"
    smallest: float = quantity(
        bound("upper", "of the least over all points; Ritz values lie above eigenvalues"), "least eigenvalue found"
    )
    nonconvex: bool = quantity(EXACT, "whether it is below -tol")
    tol: float = quantity(EXACT, "what counts as negative")
    ts: np.ndarray = quantity(EXACT, "distances from the point (T,)")
    eigenvalues: np.ndarray = quantity(
        EXACT, "smallest eigenvalue per direction, then per its opposite, and distance (2 D, T)"
    )
    ranks: np.ndarray | None = quantity(
        EXACT, "numerical rank of the Hessian of each output that was looked at; None beyond 2,000 parameters"
    )
    needed_rank: int = quantity(EXACT, "2 N: a higher rank at a zero of the loss proves it nonconvex around (J not 0)")

    def charts(self) -> tuple[Chart, ...]:
        """The smallest eigenvalue against the distance."""
        lowest = self.eigenvalues.min(axis=0)
        return (
            Chart(
                name="nonconvexity",
                title="Smallest eigenvalue of the Hessian beside the point",
                x_label="distance",
                y_label="smallest eigenvalue over directions",
                series=(Series(self.ts, lowest, "smallest eigenvalue", style="both"),),
            ),
        )


def nonconvexity_probe(
    system: System,
    params: Any = None,
    *,
    n_directions: int = 4,
    ts: Any = (1e-3, 1e-2, 1e-1),
    tol: float | None = None,
    outputs: int = 8,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> NonconvexityProbe:
    """The smallest Hessian eigenvalue of the loss at w + t d for random unit directions d.

    If the loss is zero at w, the Jacobian is not, and the Hessian of one output has rank above 2 N, then the loss is
    not convex in any neighborhood of w (liu2020loss). The ranks are those at w.

    Args:
        system: the function, its data and its loss.
        params: w, as a PyTree or flat; None for the system's own parameters.
        n_directions: random directions, each taken both ways.
        ts: distances, positive.
        tol: what counts as negative; 1e-8 of the largest absolute eigenvalue if None.
        outputs: how many single outputs to take the rank of.
        key: of the directions; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: for each point some tens of Hessian products; p of them for each output's rank.

    Example:
        >>> f = lambda w, x: (w[0] * w[1] + w[2] * w[3])[None]
        >>> system = System(f, np.array([1.0, 1.0, 0.0, 0.0]), np.zeros(1), np.array([1.0]))
        >>> found = nonconvexity_probe(system)
        >>> found.nonconvex, found.ranks.tolist(), found.needed_rank
        (True, [4], 2)
    """
    checks.count(n_directions, "n_directions", "nonconvexity_probe")
    checks.count(outputs, "outputs", "nonconvexity_probe", minimum=0)
    given = None if tol is None else checks.number(tol, "tol", "nonconvexity_probe")
    checks.not_negative(given, "tol", "nonconvexity_probe")
    places = np.atleast_1d(checks.real_array(np.asarray(ts, np.float64), "ts"))
    if places.ndim != 1 or places.size == 0 or not (places > 0).all():
        raise ValueError(f"`ts` is {ts!r}; give positive distances.")
    double = system.as_float64()
    double.require_targets()
    center = double.vector(params)
    generator = named_generator(key, "nonconvexity")
    draws = generator.standard_normal((n_directions, center.size))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    found, largest = [], 0.0
    for direction in track([*draws, *-draws], "directions", show=progress):
        row = []
        for t in places:
            at = center + t * direction
            row.append(_extreme(double, at, "SA"))
            largest = max(largest, abs(row[-1]))
        found.append(row)
    largest = max(largest, abs(_extreme(double, center, "LM")))
    level = 1e-8 * largest if given is None else given
    eigenvalues = np.array(found)
    return NonconvexityProbe(
        smallest=float(eigenvalues.min()),
        nonconvex=bool(eigenvalues.min() < -level),
        tol=float(level),
        ts=places,
        eigenvalues=eigenvalues,
        ranks=_ranks(double, center, outputs) if center.size <= _DENSE and outputs else None,
        needed_rank=2 * double.num_residuals,
    )


def _extreme(system: System, point: np.ndarray, which: Any) -> float:
    found = top_eigs(lambda v: system.hvp(v, point), system.num_params, 1, which=which, tol=1e-6)
    return float(found.eigs[0])


def _ranks(system: System, point: np.ndarray, count: int) -> np.ndarray:
    """Numerical ranks of the Hessians of the first outputs."""
    ranks = []
    for i in range(min(count, system.num_residuals)):
        chosen = np.zeros(system.num_residuals)
        chosen[i] = 1.0
        hessian = np.stack([system.second_adjoint(chosen, v, point) for v in np.eye(system.num_params)])
        ranks.append(int(np.linalg.matrix_rank((hessian + hessian.T) / 2, hermitian=True)))
    return np.array(ranks)
