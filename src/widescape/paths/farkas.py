"""The conflicts that rule out a separating map: multipliers by Farkas' lemma, and what stands behind them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy import linalg

from widescape.core.evidence import Evidence, certified

TOLERANCE = 1e-12
"""Largest residual of the multipliers, per unit of the largest standardized feature vector."""

ROUNDOFF = np.finfo(np.float64).eps / 2
BY_EXACT_MULTIPLIERS = certified("the residual is small enough for exact multipliers to exist beside these")
_LARGEST_DENSE = 20_000_000  # entries of a matrix whose singular values are computed
_LARGEST_RATIONAL = 300_000  # products in an elimination in rational arithmetic


class Map(NamedTuple):
    """Weights and biases, for the given or for the standardized features."""

    weights: np.ndarray
    bias: np.ndarray


class Conflict(NamedTuple):
    """Multipliers of constraints, and what proves that exact ones exist; None if nothing does."""

    multipliers: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    residual: float
    evidence: Evidence | None


@dataclass(frozen=True)
class Problem:
    """Distinct rows in standardized coordinates and the classes that occur.

    x = (features 2^-first - center) 2^-second, exact but for the rounding of one subtraction; constant columns, which
    a bias does as well, are left out.
    """

    x: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    original: np.ndarray
    columns: np.ndarray
    first: np.ndarray
    second: np.ndarray
    center: np.ndarray

    @property
    def extended(self) -> np.ndarray:
        """The rows with a last column of ones."""
        return np.concatenate([self.x, np.ones((len(self.x), 1))], axis=1)

    def differences(self, found: Map) -> np.ndarray:
        """z_iy - z_ik (N, c), infinite at k = y_i."""
        return differences_of(self.x @ found.weights + found.bias, self.labels)


def conflict_of(problem: Problem, chosen: np.ndarray, multipliers: np.ndarray) -> Conflict | None:
    """The constraints with a positive multiplier, if they contradict each other up to the tolerance."""
    active = multipliers > 1e-9
    if not active.any():
        return None
    rows, wrong = np.divmod(chosen[active], len(problem.classes))
    extended = problem.extended[rows]
    matrix = _constraints(extended, problem.labels[rows], wrong)
    weights = _polished(matrix.reshape(len(rows), -1), multipliers[active] / multipliers[active].sum())
    largest = float(np.linalg.norm(extended, axis=1).max())
    rounding = 1.01 * (len(rows) + 3) * ROUNDOFF * 2 * largest
    residual = float(np.linalg.norm(np.tensordot(weights, matrix, 1)))
    if residual > TOLERANCE * largest + rounding:
        return None
    exact = _spanned(matrix[:, 1:].reshape(len(rows), -1), weights, residual + rounding)
    evidence = BY_EXACT_MULTIPLIERS if exact else None
    return Conflict(weights, problem.original[rows], problem.classes[wrong], residual + rounding, evidence)


def rational(features: np.ndarray, conflict: Conflict, labels: np.ndarray) -> bool | None:
    """Whether the constraints in conflict have multipliers >= 0 without residual; None if too many to tell.

    Elimination of the rows (e_y - e_k) (x, 1) one after the other, each with the combination that it stands for: the
    first that vanishes gives the multipliers, the only ones if the conflict is minimal.
    """
    own, size = labels[conflict.rows], len(conflict.rows)
    involved = len(np.union1d(own, conflict.classes))
    if size**2 * (involved - 1) * (features.shape[1] + 1) > _LARGEST_RATIONAL:
        return None
    extended = np.array([[*map(Fraction, features[i]), Fraction(1)] for i in conflict.rows.tolist()], dtype=object)
    matrix = _constraints(extended, own, conflict.classes)[:, 1:].reshape(size, -1)
    table = np.concatenate([matrix, np.eye(size, dtype=int).astype(object)], axis=1)
    pivots: list[tuple[int, np.ndarray]] = []
    for row in table:
        left = row
        for column, pivot in pivots:
            left = left - left[column] * pivot
        leading = next((j for j in range(matrix.shape[1]) if left[j] != 0), None)
        if leading is None:
            combination = left[matrix.shape[1] :]
            return bool((combination >= 0).all() or (combination <= 0).all())
        pivots.append((leading, left / left[leading]))
    return False


def _constraints(extended: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(e_y - e_k) (x, 1) for each constraint, over the classes that occur in any of them (s, classes, d + 1)."""
    involved, place = np.unique(np.concatenate([labels, wrong]), return_inverse=True)
    matrix = np.zeros((len(extended), len(involved), extended.shape[1]), extended.dtype)
    each = np.arange(len(extended))
    matrix[each, place[: len(each)]] = extended
    matrix[each, place[len(each) :]] -= extended
    return matrix


def _polished(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multipliers nearby, relative to their size, with the least residual; the given ones where it needs a sign."""
    if matrix.size > _LARGEST_DENSE:
        return weights
    for _ in range(2):
        root = np.sqrt(weights)
        correction = np.linalg.lstsq((root[:, None] * matrix).T, weights @ matrix, rcond=None)[0]
        moved = weights - root * correction
        if (moved <= 0).any():
            return weights
        weights = moved / moved.sum()
    return weights


def _spanned(matrix: np.ndarray, weights: np.ndarray, residual: float) -> bool:
    """Whether multipliers weights (1 - a_s H^-1 r) >= 0 without residual exist, H = sum weights a_s a_s^T.

    One class is left out of the rows a_s, whose entries sum to zero over classes. The singular values are lowered by
    more than rounding of the features and of their computation can shift them.
    """
    if matrix.shape[0] < matrix.shape[1] or matrix.size > _LARGEST_DENSE:
        return False
    scaled = np.sqrt(weights)[:, None] * matrix
    least = linalg.svdvals(scaled)[-1] - 1e-12 * np.linalg.norm(scaled)
    return bool(least > 0 and np.linalg.norm(matrix, axis=1).max() * residual < least**2 / 2)


def differences_of(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """z_iy - z_ik (N, c), infinite at k = y_i."""
    rows = np.arange(len(labels))
    result = outputs[rows, labels][:, None] - outputs
    result[rows, labels] = np.inf
    return result
