"""Points on their way to a critical point: where each is, its gradient, and whether it still moves."""

from dataclasses import dataclass

import numpy as np

from widescape.core.errors import NonFiniteError
from widescape.landscape.minima.derivatives import Derivatives

VANISHED = 1e-12  # of 1 + |w|: the length at which a step is none
_FEWEST = 4  # steps before which nothing is said of how they shrink
_GROWN = 0.01  # of 1 + |w|: growth of |w| in the last half of the steps that counts
_SAME = 0.25  # of the mean step in the last half: the last one is then not shorter to speak of
_FAST = 1e-4  # the factor on |g|^2 of a step below which it has converged


@dataclass
class Walks:
    """Some points that are moved together.

    Attributes:
        at: derivatives of the loss.
        w, gradients: points and gradients (n, p).
        g2: squared norms of the gradients (n,).
        active: which still move (n,).
        traces: `g2` at the start and after each step, one list each.
        norms: |w| at the start and after each step, one list each.
        lengths: of the steps, one list each.
    """

    at: Derivatives
    w: np.ndarray
    gradients: np.ndarray
    g2: np.ndarray
    active: np.ndarray
    traces: list[list[float]]
    norms: list[list[float]]
    lengths: list[list[float]]

    @classmethod
    def starting(cls, at: Derivatives, w: np.ndarray) -> "Walks":
        gradients = np.array(at.gradients(w))
        bad = np.flatnonzero(~np.isfinite(gradients).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"the gradient is NaN or infinite at {bad.size} of {len(w)} starts, first {w[bad[0]].tolist()[:4]}...; "
                "choose other `starts`."
            )
        g2 = squares(gradients)
        norms = [[value] for value in np.linalg.norm(w, axis=1).tolist()]
        traces = [[value] for value in g2.tolist()]
        return cls(at, w.copy(), gradients, g2, np.full(len(w), True), traces, norms, [[] for _ in w])

    def gradients_at(self, rows: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients where some of the points would be, and their squared norms: infinite where not finite."""
        moved = self.w.copy()
        moved[rows] = points
        gradients = self.at.gradients(moved)[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            norms = squares(gradients)
        return gradients, np.where(np.isfinite(norms), norms, np.inf)

    def move(self, rows: np.ndarray, points: np.ndarray, gradients: np.ndarray) -> None:
        """Take a step with some of the points."""
        lengths = np.linalg.norm(points - self.w[rows], axis=1)
        self.w[rows], self.gradients[rows] = points, gradients
        self.g2[rows] = squares(gradients)
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            self.traces[row].append(float(self.g2[row]))
            self.norms[row].append(float(np.linalg.norm(self.w[row])))
            self.lengths[row].append(length)

    def vanished(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Which of these steps are too short to count."""
        return np.linalg.norm(steps, axis=1) <= VANISHED * (1 + np.linalg.norm(self.w[rows], axis=1))

    def diverges(self, row: int) -> bool:
        """Whether steps did not shrink in the end while |w| grew.

        Of the last half of at least four steps: |w| grew by more than a hundredth of 1 + |w|, the last step is no
        shorter than a quarter of their mean, and it did not lower |g|^2 by a factor of 1e4 or more.
        """
        trace, norms, lengths = self.traces[row], self.norms[row], self.lengths[row]
        if len(lengths) < _FEWEST:
            return False
        half = len(lengths) // 2
        grown = norms[-1] - norms[half] > _GROWN * (1 + norms[-1])
        return grown and lengths[-1] >= _SAME * float(np.mean(lengths[half:])) and trace[-1] >= _FAST * trace[-2]


def squares(vectors: np.ndarray) -> np.ndarray:
    """The squared lengths of rows."""
    return np.einsum("np,np->n", vectors, vectors)
