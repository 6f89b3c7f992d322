"""Newton-MR: steps of least length in the range of the Hessian, which lower the norm of the gradient."""

import numpy as np

from widescape.core.progress import track
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.gradient_flat import inexact_step, truncated_steps
from widescape.landscape.minima.walks import Walks

_SHRINK = 0.5
_DECREASE = {"full step": 0.5, "shortened": 1e-4}  # of the slope, that counts as enough
_SHORTEST = float(np.finfo(np.float64).eps)


def walk_newton_mr(
    at: Derivatives, w: np.ndarray, rcond: float | None, max_steps: int, *, progress: bool | None = None
) -> Walks:
    """Steps w' = w + a p with p = -H^+ g, until the step or its length vanishes (roosta2018newton).

    A length a is enough where |g(w + a p)|^2 <= |g|^2 + 2 rho a p.H g. First a = 1 is tried with rho = 1/2, then
    shorter and shorter ones with rho = 1e-4, from twice the last that was taken (but 1 at most). Where none is enough,
    the point stays where it is.

    Args:
        at: derivatives of the loss.
        w: starts (n, p).
        rcond: eigenvalues of H of at most this times the largest in size count as zero; None for MINRES-QLP.
        max_steps: most steps.
        progress: show a progress bar; None shows it on a terminal.

    Cost: a step takes a Hessian and its eigenvalues, or the products of MINRES-QLP, and a gradient for each length.
    """
    walks = Walks.starting(at, w)
    lengths = np.ones(len(w))
    for _ in track(range(max_steps), "Newton-MR", show=progress):
        rows = np.flatnonzero(walks.active)
        if not rows.size:
            break
        steps, slopes = _steps(walks, rows, rcond)
        short = walks.vanished(rows, steps)
        walks.active[rows[short]] = False
        _search(walks, rows[~short], steps[~short], slopes[~short], lengths)
    return walks


def _steps(walks: Walks, rows: np.ndarray, rcond: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Steps p (n, p), and the slopes p.H g of half the squared norm of the gradient along them (n,)."""
    gradients = walks.gradients[rows]
    if rcond is not None:
        hessians = walks.at.hessians(walks.w)[rows]
        steps = truncated_steps(hessians, gradients, rcond)
        return steps, np.einsum("ni,nij,nj->n", steps, hessians, gradients)
    points = walks.w[rows]
    steps = np.stack([inexact_step(walks.at, w, g).x for w, g in zip(points, gradients, strict=True)])
    images = [walks.at.product(w, g) for w, g in zip(points, gradients, strict=True)]
    return steps, np.einsum("ni,ni->n", steps, np.stack(images))


def _search(walks: Walks, rows: np.ndarray, steps: np.ndarray, slopes: np.ndarray, lengths: np.ndarray) -> None:
    """Move each point by a length that is enough, or stop it where it is."""
    pending = np.full(len(rows), True)

    def attempt(sizes: np.ndarray, share: float) -> None:
        chosen = np.flatnonzero(pending)
        if not chosen.size:
            return
        own, size = rows[chosen], sizes[chosen]
        points = walks.w[own] + size[:, None] * steps[chosen]
        gradients, g2 = walks.gradients_at(own, points)
        enough = g2 <= walks.g2[own] + 2 * share * size * slopes[chosen]
        walks.move(own[enough], points[enough], gradients[enough])
        lengths[own[enough]] = np.minimum(1.0, size[enough] / _SHRINK)
        pending[chosen[enough]] = False

    attempt(np.ones(len(rows)), _DECREASE["full step"])
    trial = lengths[rows]
    while pending.any():
        attempt(trial, _DECREASE["shortened"])
        trial = trial * _SHRINK
        failed = pending & (trial < _SHORTEST)
        walks.active[rows[failed]] = False
        pending &= ~failed
