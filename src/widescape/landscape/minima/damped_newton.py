"""Newton's method on the gradient with a damped Hessian, the damping chosen anew in each step."""

import numpy as np

from widescape.core.progress import track
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.gradient_flat import inexact_step, spectral_steps
from widescape.landscape.minima.walks import Walks

_DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_EPS = float(np.finfo(np.float64).eps)


def walk_damped_newton(
    at: Derivatives, w: np.ndarray, max_steps: int, *, dense: bool, progress: bool | None = None
) -> Walks:
    """Steps w' = w - (H + c)^+ g with the c among 1e-1, ..., 1e-6 that leaves the smallest |g(w')|.

    The step is full and may raise |g|, which carries it away from where |g| has a minimum that is not 0. It ends where
    the step vanishes, where the gradient is one of rounding, |g| <= eps |H|_F (1 + |w|), or where all six lead to
    derivatives that are not finite.

    Args:
        at: derivatives of the loss.
        w: starts (n, p).
        max_steps: most steps.
        dense: decompose the Hessian, rather than use MINRES-QLP.
        progress: show a progress bar; None shows it on a terminal.

    Cost: a step takes a Hessian and its eigenvalues, or the products of six runs of MINRES-QLP; and six gradients.
    """
    walks = Walks.starting(at, w)
    for _ in track(range(max_steps), "damped Newton", show=progress):
        rows = np.flatnonzero(walks.active)
        if not rows.size:
            break
        steps, sizes = _dense_steps(walks, rows) if dense else _steps_by_products(walks, rows)
        rounding = _EPS * sizes * (1 + np.linalg.norm(walks.w[rows], axis=1))
        done = walks.g2[rows] <= rounding**2
        walks.active[rows[done]] = False
        _take_best(walks, rows[~done], steps[:, ~done])
    return walks


def _dense_steps(walks: Walks, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step for each damping (6, n, p), and |H|_F (n,)."""
    eigenvalues, vectors = np.linalg.eigh(walks.at.hessians(walks.w)[rows])
    rcond = eigenvalues.shape[1] * _EPS
    found = [spectral_steps(eigenvalues + c, vectors, walks.gradients[rows], rcond) for c in _DAMPINGS]
    return np.stack(found), np.linalg.norm(eigenvalues, axis=1)


def _steps_by_products(walks: Walks, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, with the largest column that MINRES-QLP saw for |H|_F."""
    pairs = list(zip(walks.w[rows], walks.gradients[rows], strict=True))
    found = [[inexact_step(walks.at, w, g, c) for w, g in pairs] for c in _DAMPINGS]
    return np.stack([[one.x for one in own] for own in found]), np.array([one.norm for one in found[-1]])


def _take_best(walks: Walks, rows: np.ndarray, steps: np.ndarray) -> None:
    """Move each point by the step that leaves the smallest gradient, or stop it where there is none."""
    if not rows.size:
        return
    least = np.full(len(rows), np.inf)
    best, gradients = np.zeros_like(walks.w[rows]), walks.gradients[rows]
    for step in steps:
        trial, g2 = walks.gradients_at(rows, walks.w[rows] + step)
        better = g2 < least
        least = np.where(better, g2, least)
        best[better], gradients[better] = step[better], trial[better]
    stopped = np.isinf(least) | walks.vanished(rows, best)
    walks.active[rows[stopped]] = False
    moved = ~stopped
    walks.move(rows[moved], walks.w[rows[moved]] + best[moved], gradients[moved])
