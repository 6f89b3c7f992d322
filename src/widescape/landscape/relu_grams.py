"""Gram matrices of two-layer ReLU networks: of both layers in the limit, of the first at finite width."""

from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError


def relu_gram(X: Any, *, normalize: bool = False) -> np.ndarray:  # noqa: N803
    """The Gram matrix H-infinity of the first layer of an infinitely wide two-layer ReLU network.

    H_ij = x_i.x_j (pi - theta_ij) / (2 pi) = x_i.x_j E[1{w.x_i > 0} 1{w.x_j > 0}] for w ~ N(0, I), with theta_ij the
    angle between x_i and x_j. It is the limit of `empirical_relu_gram` (du2018gradient, section 3), and positive
    definite if no two rows are parallel (theorem 3.1). Rows that coincide in direction make it singular; its
    smallest eigenvalue says so.

    Args:
        X: inputs (n, d), floating point, rows of any length but 0.
        normalize: scale rows to unit length first, as the theorems assume.

    Returns:
        (n, n) in float64, symmetric; entries are off by a few eps |x_i| |x_j| also where theta is close to 0 or pi.

    Raises:
        ShapeError, DtypeError, ValueError: not a finite matrix of real numbers, or a row is zero.
        NonFiniteError: squared lengths leave the range of doubles.

    Cost: 2 n^2 d flops, and 3 d more for each pair within 60 degrees of parallel or antiparallel.

    Example:
        >>> relu_gram(np.array([[1.0, 0.0], [2.0, 2.0]])).round(6).tolist()
        [[0.5, 0.75], [0.75, 4.0]]
    """
    scale, cosine, _, complement = _pairs(X, normalize)
    product: np.ndarray = scale * cosine * complement / (2 * np.pi)
    return product


def relu_gram_output(X: Any, *, normalize: bool = False) -> np.ndarray:  # noqa: N803
    """The Gram matrix of the output layer of an infinitely wide two-layer ReLU network.

    G_ij = |x_i| |x_j| (sin t + (pi - t) cos t) / (2 pi) = E[relu(w.x_i) relu(w.x_j)] for w ~ N(0, I), with t the
    angle between x_i and x_j. With both layers trained the kernel is H-infinity + G (du2018gradient, theorem 3.3).

    Args:
        X: as for `relu_gram`.
        normalize: likewise.

    Returns:
        (n, n) in float64, symmetric; entries are off by a few eps |x_i| |x_j|.

    Raises:
        ShapeError, DtypeError, ValueError: as for `relu_gram`.

    Cost: that of `relu_gram`.

    Example:
        >>> (2 * np.pi * relu_gram_output(np.eye(2))).round(6).tolist()
        [[3.141593, 1.0], [1.0, 3.141593]]
    """
    scale, cosine, sine, complement = _pairs(X, normalize)
    product: np.ndarray = scale * (sine + complement * cosine) / (2 * np.pi)
    return product


def empirical_relu_gram(W: Any, X: Any) -> np.ndarray:  # noqa: N803
    """The Gram matrix of the first layer of a finite two-layer ReLU network, its tangent kernel in w.

    H_ij = (x_i.x_j / m) sum_r 1{w_r.x_i > 0} 1{w_r.x_j > 0}, for f(x) = m^-1/2 sum_r a_r relu(w_r.x) with a_r = +-1.
    du2018gradient counts w_r.x_i = 0 as active; here, as in the derivative of `jax.nn.relu`, it is not, so that the
    matrix is the tangent kernel exactly.

    Args:
        W: weights of the first layer (m, d), floating point.
        X: inputs (n, d), floating point, no row 0.

    Returns:
        (n, n) in float64, symmetric and positive semidefinite.

    Raises:
        ShapeError, DtypeError, ValueError: matrices that do not fit, or are not finite; a row of `X` is zero.
        NonFiniteError: squared lengths leave the range of doubles.

    Cost: 2 n m d + 2 n^2 m flops.

    Example:
        >>> empirical_relu_gram(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, -1.0]])).tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    weights, inputs = checks.batch(W, "W"), inputs_of(X)
    if weights.ndim != 2 or weights.shape[1] != inputs.shape[1]:
        raise ShapeError(
            f"`W` has shape {weights.shape}, but inputs have {inputs.shape[1]} features; it must be "
            f"(neurons, {inputs.shape[1]})."
        )
    return gram_of_pattern(active_units(weights, inputs), inputs)


def du_width_bound(n: int, lam0: float, delta: float) -> float:
    """The order of the width that suffices for gradient flow to reach zero loss: n^6 lam0^-4 delta^-3.

    du2018gradient, theorem 3.2, with every constant set to 1: an order of magnitude, far above what networks need,
    and nothing in the library enforces it.

    Args:
        n: examples.
        lam0: smallest eigenvalue of H-infinity, of unit inputs.
        delta: probability of failure, in (0, 1).

    Raises:
        TypeError, ValueError: a number outside of its range.
        NonFiniteError: the width exceeds the largest double.

    Example:
        >>> du_width_bound(10, 0.5, 0.5)
        128000000.0
    """
    checks.count(n, "n", "du_width_bound")
    smallest, failure = (checks.number(v, k, "du_width_bound") for v, k in ((lam0, "lam0"), (delta, "delta")))
    checks.positive(smallest, "lam0", "du_width_bound")
    if not 0 < failure < 1:
        raise ValueError(f"du_width_bound: `delta` is {delta}; it is a probability, in (0, 1).")
    with np.errstate(over="ignore", divide="ignore"):
        width = np.float64(n) ** 6 / (np.float64(smallest) ** 4 * np.float64(failure) ** 3)
    if not np.isfinite(width):
        raise NonFiniteError(f"the width for n={n}, lam0={lam0}, delta={delta} is beyond the largest double.")
    return float(width)


def inputs_of(X: Any) -> np.ndarray:  # noqa: N803
    """Inputs as a matrix of doubles without zero rows."""
    inputs: np.ndarray = checks.batch(X, "X")
    if inputs.ndim != 2:
        raise ShapeError(f"`X` has shape {inputs.shape}; it must be a matrix (n, d). Flatten the examples.")
    zero = ~inputs.any(axis=1)
    if zero.any():
        raise ValueError(
            f"`X` has {int(zero.sum())} rows that are zero, the first at {int(np.argmax(zero))}; a zero input has no "
            "direction. Remove it, or append a constant feature as a bias."
        )
    with np.errstate(over="ignore"):
        squares = np.sum(inputs**2, axis=1)
    if not (np.isfinite(squares) & (squares >= np.finfo(float).tiny)).all():
        raise NonFiniteError("squared lengths of rows of `X` leave the range of doubles; scale `X`.")
    return inputs


def _pairs(X: Any, normalize: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # noqa: N803
    """Products of lengths, cosine and sine of the angle theta, and pi - theta, for all pairs of rows.

    theta = 2 atan2(|u - v|, |u + v|) for unit u, v; the arc cosine loses half of the digits near 0 and pi.
    """
    inputs = inputs_of(X)
    lengths = np.linalg.norm(inputs, axis=1)
    unit = inputs / lengths[:, None]
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 1.0)
    apart, together = _chord(unit, cosine, -1.0), _chord(unit, cosine, 1.0)
    scale = np.ones_like(cosine) if normalize else lengths[:, None] * lengths
    return scale, cosine, apart * together / 2, 2 * np.arctan2(together, apart)


def _chord(unit: np.ndarray, cosine: np.ndarray, sign: float) -> np.ndarray:
    """|u + sign v| for all pairs of unit rows; from the vectors themselves where the cosine would cancel."""
    squares = 2 + 2 * sign * cosine
    for i, row in enumerate(unit):
        close = i + 1 + np.flatnonzero(squares[i, i + 1 :] < 1)
        squares[i, close] = squares[close, i] = np.sum((row + sign * unit[close]) ** 2, axis=1)
    chord: np.ndarray = np.sqrt(squares)
    return chord


def active_units(weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Which neurons each input turns on, (n, m); a neuron exactly at its kink is off."""
    pattern: np.ndarray = inputs @ weights.T > 0
    return pattern


def gram_of_pattern(active: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The empirical Gram matrix of a pattern of active units."""
    pattern = active.astype(np.float64)
    product: np.ndarray = (inputs @ inputs.T) * (pattern @ pattern.T / active.shape[1])
    return product
