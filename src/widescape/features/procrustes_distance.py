"""The distance of two representations after the best rotation of one onto the other."""

from typing import Any

import numpy as np
from scipy import linalg

from widescape.core.blas import threads_for
from widescape.features.centered import Representation, pair


def procrustes(x: Any, y: Any) -> float:
    """Squared orthogonal Procrustes distance d^2 = min_Q |X - Y Q|^2 = 2 - 2 |X^T Y|_*, X and Y centered and of norm 1.

    The norms are Frobenius's, |.|_* is the sum of singular values, and Q runs over all orthogonal maps between the
    spaces of features, the smaller one filled up with zeros.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).

    Returns:
        d^2 in [0, 2], with an absolute error of some 1e-15; rounding below 0 is cut.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit, or are constant.

    Cost: 2 n p q flops and the singular values of X^T Y; with p above n, p counts as n after a factorization of
    2 p n^2 flops, and the same for q.

    Source: ding2021grounding. Invariant to orthogonal maps and isotropic scaling of either side.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(procrustes(x, x[:, ::-1]), 12), round(procrustes(x, x[:, :1]), 6)
        (0.0, 0.585786)
    """
    return max(0.0, 2 - 2 * overlap(*pair(x, y)))


def overlap(a: Representation, b: Representation) -> float:
    """|X^T Y|_* of centered matrices of norm 1, which is 1 - d^2 / 2; at most 1."""
    product = a.compact.T @ b.compact
    with threads_for(max(product.shape)):
        nuclear = float(linalg.svdvals(product, check_finite=False).sum())
    return min(nuclear / (_norm(a) * _norm(b)), 1.0)


def _norm(a: Representation) -> float:
    return a.once("norm", lambda: float(np.linalg.norm(a.x)))
