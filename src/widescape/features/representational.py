"""Representational similarity analysis: do two representations find the same samples alike?"""

from typing import Any, Literal, get_args

import numpy as np
from scipy.spatial.distance import pdist

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.features.centered import Representation, pair

Distance = Literal["correlation", "euclidean"]

_TIE = 1e-12  # of two distances: what is closer than this share of them is equal up to rounding, and shares its rank
_ROUNDING = 1e-14  # of distances between unit vectors, whose entries have errors of their own


def rsa(x: Any, y: Any, *, distance: Distance = "correlation", center: bool = False) -> float:
    """Spearman correlation of the dissimilarities of all pairs of samples in two representations.

    The dissimilarity of samples i and j is one minus the Pearson correlation of their rows, over features, or the
    Euclidean distance of them. Euclidean distances come from differences of rows, so that a sample far off costs the
    others no digits; they share a rank where they differ by less than 1e-12 of themselves, so that ties survive
    rounding. One minus the correlation is half a squared distance of normalized rows; those distances also share a rank
    where they differ by less than 1e-14.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        distance: which dissimilarity; kriegeskorte2008representational takes correlations.
        center: whether columns are centered before rows are correlated; without effect on Euclidean distances.

    Returns:
        the rank correlation, in [-1, 1].

    Raises:
        ShapeError, DtypeError: arguments that do not fit, fewer than 3 samples, or a single feature to correlate over.
        ValueError: the same; a sample whose features are all equal, so that it has no correlation; or dissimilarities
            that are all equal.

    Cost: 3/2 n^2 (p + q) flops, not by matrix products, and two sorts of n (n - 1) / 2 numbers.

    Source: kriegeskorte2008representational. With Euclidean distances invariant to orthogonal maps and isotropic
    scaling of either side; with correlations to scaling, and to other scales and offsets of each sample.

    Example:
        >>> x = np.array([[0.0], [1.0], [3.0], [7.0]])
        >>> round(rsa(x, -2 * x, distance="euclidean"), 12), round(rsa(x, np.abs(x - 1), distance="euclidean"), 6)
        (1.0, 0.840668)
    """
    return rank_similarity(*pair(x, y), distance=distance, center=center)


def rank_similarity(
    a: Representation, b: Representation, *, distance: Distance = "correlation", center: bool = False
) -> float:
    """`rsa` of checked representations, which keep their ranks."""
    checks.choice(distance, "distance", get_args(Distance))
    own, other = (_ranks(side, distance, center) for side in (a, b))
    return min(max(float(own @ other), -1.0), 1.0)  # but for rounding it lies there


def _ranks(a: Representation, distance: Distance, center: bool) -> np.ndarray:
    return a.once(("ranks", distance, center), lambda: _ranked(a, distance, center))


def _ranked(a: Representation, distance: Distance, center: bool) -> np.ndarray:
    """Centered ranks of the dissimilarities of all pairs, with norm 1, (n (n - 1) / 2,)."""
    if a.n < 3:
        raise ShapeError(f"`{a.name}` has {a.n} samples; ranks of dissimilarities need at least 3. Give more samples.")
    correlated = distance == "correlation"
    rows = _normalized(a, a.x if center else a.raw) if correlated else a.raw
    values = pdist(rows)  # for normalized rows the root of two dissimilarities, in the same order
    ranks = _shared_ranks(values, _ROUNDING if correlated else 0.0) - (len(values) + 1) / 2
    norm = float(np.linalg.norm(ranks))
    if norm == 0:
        raise ValueError(
            f"`{a.name}`: all dissimilarities are equal, so they have no order. Give other samples, or use cka."
        )
    return ranks / norm


def _normalized(a: Representation, rows: np.ndarray) -> np.ndarray:
    """Rows less their means, with norm 1 (n, p)."""
    if rows.shape[1] < 2:
        raise ShapeError(f"`{a.name}` has a single feature; rows have no correlation. Use distance='euclidean'.")
    flat = np.flatnonzero(rows.min(axis=1) == rows.max(axis=1))
    if len(flat):
        raise ValueError(
            f"`{a.name}`: all features of sample {flat[0]} are equal, as they are for {len(flat)} in all, so it has no "
            "correlation with another. Leave such samples out, or use distance='euclidean'."
        )
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _shared_ranks(values: np.ndarray, atol: float) -> np.ndarray:
    """Ranks from 1, each the mean over the values that are within rounding of a neighbor in their order."""
    order = np.argsort(values, kind="stable")
    rising = values[order]
    group = np.cumsum(np.diff(rising, prepend=-np.inf) > _TIE * rising + atol) - 1
    counts = np.bincount(group)
    means = np.cumsum(counts) - (counts - 1) / 2
    ranks = np.empty(len(values))
    ranks[order] = means[group]
    return ranks
