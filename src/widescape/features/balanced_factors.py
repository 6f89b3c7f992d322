"""Quadratic forms as two-layer networks with constant phi'', and back: rows of equal norm for each sign."""

from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import ShapeError
from widescape.features.quadratic_objective import constant_curvature, signs_of, weights_like

_ZERO = 1e-13  # of the largest eigenvalue: smaller ones are rounding


def required_curvature(activation: Any, owner: str) -> float:
    """The constant phi'' of an activation.

    Raises:
        ValueError: phi'' is not constant.
    """
    second = constant_curvature(activation)
    if second is None:
        raise ValueError(
            f"{owner} needs an activation with constant second derivative, for only then is the model a quadratic form "
            f'h^T M h; that of {activation!r} varies. Take activation="square".'
        )
    return second


def quadratic_form(W: Any, a: Any, activation: Any = "square") -> np.ndarray:
    """The matrix M = phi'' W^T diag(a) W / (2 sqrt m) with f^Q_W(h) = h^T M h, where phi'' is constant.

    Args:
        W: displacement of the hidden weights, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: as for `gates`, with constant second derivative.

    Returns:
        (k, k), symmetric.

    Raises:
        ValueError: phi'' is not constant, so the model is no quadratic form.
        ShapeError: shapes that do not fit.

    Example:
        >>> quadratic_form(np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 4.0]]), [1, 1, -1, -1]).tolist()
        [[1.0, 0.0], [0.0, -4.0]]
    """
    second = required_curvature(activation, "quadratic_form")
    signs = signs_of(a)
    weights = np.asarray(W, dtype=np.float64)
    if weights.ndim != 2 or len(weights) != len(signs):
        raise ShapeError(f"`W` has shape {weights.shape} and `a` {signs.shape}; give one row for each sign, (m, k).")
    weights = weights_like(weights, weights.shape, "W")
    form: np.ndarray = second / (2 * np.sqrt(len(signs))) * (weights * signs[:, None]).T @ weights
    return (form + form.T) / 2


def balanced_rows(M: Any, a: Any, *, activation: Any = "square") -> np.ndarray:
    """Hidden weights W with a given quadratic form M whose rows are equally long for each sign: the least l24 norm.

    A sum of squares with given eigenvalues has factors with equal row norms (Schur and Horn); they are found by one
    plane rotation for each row.

    Args:
        M: symmetric (k, k), with at most as many positive eigenvalues as `a` has entries +1, and negative as -1.
        a: output weights, +1 or -1, (m,).
        activation: as for `gates`, with constant second derivative.

    Returns:
        W (m, k) with ``quadratic_form(W, a, activation)`` equal to M. Rows of a sign that M lacks are zero.

    Raises:
        ValueError: a part of M has a higher rank than there are neurons of its sign; phi'' is not constant.
        ShapeError, DtypeError: `M` is no symmetric matrix.

    Cost: an eigendecomposition, and m k flops.

    Source: horn1954doubly.

    Example:
        >>> W = balanced_rows(np.diag([3.0, 1.0, -2.0]), [1.0, 1.0, 1.0, -1.0])
        >>> (
        ...     (W**2).sum(axis=1).round(12).tolist(),
        ...     quadratic_form(W, [1.0, 1.0, 1.0, -1.0]).diagonal().round(12).tolist(),
        ... )
        ([5.333333333333, 5.333333333333, 5.333333333333, 8.0], [3.0, 1.0, -2.0])
    """
    second = required_curvature(activation, "balanced_rows")
    signs = signs_of(a)
    matrix = checks.square_matrix(M, "M")
    with threads_for(len(matrix)):
        values, vectors = linalg.eigh(2 * np.sqrt(len(signs)) / second * matrix)
    weights = np.zeros((len(signs), len(matrix)))
    for sign, word in ((1.0, "positive"), (-1.0, "negative")):
        kept = sign * values > _ZERO * float(np.abs(values).max())
        rows = np.flatnonzero(signs == sign)
        if kept.sum() > len(rows):
            raise ValueError(
                f"M, over phi'', has {kept.sum()} {word} eigenvalues, but only {len(rows)} entries of `a` are "
                f"{sign:+.0f}; take more neurons, or a larger `lam` for a lower rank."
            )
        weights[rows[: kept.sum()]] = np.sqrt(sign * values[kept])[:, None] * vectors[:, kept].T
        if kept.any():
            weights[rows] = _equalized(weights[rows])
    return weights


def _equalized(rows: np.ndarray) -> np.ndarray:
    """Orthogonal rows turned among each other until all are equally long.

    Rows that are not yet done stay orthogonal, so that a rotation of a longer with a shorter one reaches every squared
    length between theirs. Each rotation gives a row below the mean the mean, at the cost of one above.
    """
    squares = np.sum(rows**2, axis=1)
    mean = float(squares.mean())
    below, above = list(np.flatnonzero(squares < mean)), list(np.flatnonzero(squares > mean))
    while below and above:
        short, long = below.pop(), above.pop()
        share = (mean - squares[short]) / (squares[long] - squares[short])  # of the long row in the new short one
        c, s = (1 - share) ** 0.5, share**0.5
        rows[short], rows[long] = c * rows[short] + s * rows[long], c * rows[long] - s * rows[short]
        squares[long] += squares[short] - mean
        squares[short] = mean
        (above if squares[long] > mean else below).append(long)
    return rows
