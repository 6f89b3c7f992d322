"""Gaussian integrals of activations on flat arrays, compiled: the same mathematics as ``duals.closed_form``.

A pair of Gaussian variables is known by the roots r and s of its variances and by minus = r s - k, where k is its
covariance; where k may be negative, plus = r s + k is kept as well. Both are free of cancellation. Each function
replaces minus (and plus) by that of E[phi(u) phi(v)], and multiplies theta by E[phi'(u) phi'(v)].

This module needs numba.
"""

from collections.abc import Callable
from math import pi

import numba
import numpy as np
from numba.extending import overload

from widescape.arch.fused_program import ABRELU, ERF, GELU, RBF, SINE
from widescape.duals.angle import angle_series, lune_series

compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})

_PIECE = 6  # terms of a polynomial that the compiler unrolls in one loop


def _table(series: tuple[float, ...], scalar: type) -> tuple:
    """Coefficients, highest first, in three pieces."""
    table = tuple(scalar(c) for c in series)
    return table[:_PIECE], table[_PIECE : 2 * _PIECE], table[2 * _PIECE :]


_ANGLE64, _LUNE64 = _table(angle_series(17), np.float64), _table(lune_series(16), np.float64)
_ANGLE32, _LUNE32 = _table(angle_series(7), np.float32), _table(lune_series(6), np.float32)  # to relative rounding


@compiled
def _two_pieces(high: tuple, low: tuple, s: float) -> float:
    value = high[0]
    for c in high[1:]:
        value = value * s + c
    for c in low:
        value = value * s + c
    return value


@compiled
def _three_pieces(high: tuple, middle: tuple, low: tuple, s: float) -> float:
    value = _two_pieces(high, middle, s)
    for c in low:
        value = value * s + c
    return value


def _polynomial(wide: tuple, narrow: tuple) -> Callable:
    """What numba inlines for a polynomial, by the precision of its argument."""
    high, middle, low = wide
    top, bottom, _ = narrow

    def choose(s):  # type: ignore[no-untyped-def]
        if s == numba.float32:
            return lambda s: _two_pieces(top, bottom, s)
        return lambda s: _three_pieces(high, middle, low, s)

    return choose


def _angle(s: float) -> float:
    """The angle over sqrt(2 t) at s = 2 t - 1, as in ``duals.angle``."""
    raise NotImplementedError  # compiled code takes the overload


def _lune(s: float) -> float:
    """The lune over sqrt(2 t)^3 at s = 2 t - 1."""
    raise NotImplementedError  # compiled code takes the overload


overload(_angle)(_polynomial(_ANGLE64, _ANGLE32))
overload(_lune)(_polynomial(_LUNE64, _LUNE32))


@compiled
def _abrelu(work, x, y, at, plus, theta, even, odd):  # type: ignore[no-untyped-def]
    """The dual of a min(x, 0) + b max(x, 0).

    `plus` is None where no covariance is negative, and `theta` where no tangent kernel is wanted: then the code that
    is compiled has no trace of them.
    """
    n, minus, r, g, s, h = at
    zero, one, two = work.dtype.type(0), work.dtype.type(1), work.dtype.type(2)
    turn = work.dtype.type(2 / pi)
    for i in range(n):
        product, low = x[r + i] * y[s + i], work[minus + i]
        complement = low
        if plus is not None:
            high = work[plus + i]
            complement = min(low, high)
        t = complement * (x[g + i] * y[h + i])
        t = t if product > zero else one
        d = two * t
        root = np.sqrt(d)
        if theta is not None:
            slope = one - turn * (root * _angle(d - one))
            if plus is not None:
                slope = slope if low <= high else -slope
            work[theta + i] *= even * slope + odd
        folded = complement - turn * product * (d * root * _lune(d - one))
        work[minus + i] = even * folded + odd * low
        if plus is not None:
            work[plus + i] = even * (two * product - folded) + odd * high


@compiled
def _smooth_out(t, slope, old, roots, slopes, near):  # type: ignore[no-untyped-def]
    """The minus of a smooth activation: by subtraction, and to first order where that rounds.

    `old` is (minus, radial gap, r r + s s), `roots` those of the new variances, `slopes` E[Z^2 phi'(r Z)^2] of both.
    """
    minus, radial, size = old
    root, other = roots
    half = 0.5 * (slopes[0] + slopes[1])
    first = slope * minus + 0.5 * (half * radial - (root - other) ** 2)
    result = first if radial + 2 * minus < near * size else root * other - t
    return max(result, 0.0)


@compiled
def _moments(kind, a, b, c, k, minus, plus, r, s):  # type: ignore[no-untyped-def]
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of a smooth activation, in double precision."""
    total, determinant, radial = r * r + s * s, minus * plus, (r - s) ** 2
    if kind == ERF:
        d = np.sqrt(1 + 2 * b * b * total + 4 * b**4 * determinant)
        return a * a * (2 / pi) * np.arctan2(2 * b * b * k, d) + c * c, 4 * a * a * b * b / (pi * d)
    if kind == GELU:
        area, d2, product = (1 + r * r) * (1 + s * s), 1 + total + determinant, (r * s) ** 2
        d = np.sqrt(d2)
        tau = np.arctan2(k, d)
        t = k / 4 + ((k * k + product * d2) / (area * d) + k * tau) / (2 * pi)
        return t, 0.25 + (tau + (k / d) * (1 / d2 + (1 - product) / area + 1)) / (2 * pi)
    if kind == SINE:
        near, far = np.exp(-b * b * (radial + 2 * minus) / 2), np.exp(-b * b * (radial + 2 * plus) / 2)
        exponent = 2 * b * b * k
        difference = far * np.expm1(exponent) if abs(exponent) < 1 else near - far
        half = a * a / 2
        t = half * (difference + 2 * np.sin(c) ** 2 * far)
        return t, half * b * b * (near + np.cos(2 * c) * far)
    t = np.exp(-a * (radial + 2 * minus))
    return t, 2 * a * t


@compiled
def _smooth(kind, signed, work, x, y, at, scalars):  # type: ignore[no-untyped-def]
    """The dual of erf, gelu, sine or rbf, in double precision."""
    n, minus, plus, theta, p, _, q, _, new, other, slope1, slope2 = at
    a, b, c, near = scalars[0], scalars[1], scalars[2], scalars[3]
    for i in range(n):
        r, s, low = np.float64(x[p + i]), np.float64(y[q + i]), np.float64(work[minus + i])
        high = np.float64(work[plus + i]) if signed else 2 * r * s - low
        k = 0.5 * (high - low) if signed else r * s - low
        t, slope = _moments(kind, a, b, c, k, low, high, r, s)
        radial = (r - s) ** 2
        roots = (np.float64(x[new + i]), np.float64(y[other + i]))
        if kind == RBF:
            work[minus + i] = -np.expm1(-a * (radial + 2 * low))
        else:
            slopes = (np.float64(x[slope1 + i]), np.float64(y[slope2 + i]))
            work[minus + i] = _smooth_out(t, slope, (low, radial, r * r + s * s), roots, slopes, near)
        work[plus + i] = max(roots[0] * roots[1] + t, 0.0)
        work[theta + i] *= slope


@compiled
def apply_dual(kind, signed, ntk, work, x, y, at, scalars):  # type: ignore[no-untyped-def]
    """Any of the duals on one block of a plane.

    `at` holds the block's length, the offsets of minus, plus and theta in `work`, those of the root and its inverse in
    the tracks of x and of y, of the root of the new variance in both, and of the radial slope in both.
    """
    if kind == ABRELU:
        cast = work.dtype.type
        even, odd = cast(((scalars[1] - scalars[0]) / 2) ** 2), cast(((scalars[0] + scalars[1]) / 2) ** 2)
        own, plus, theta = (at[0], at[1], *at[4:8]), at[2], at[3]
        if signed and ntk:
            _abrelu(work, x, y, own, plus, theta, even, odd)
        elif signed:
            _abrelu(work, x, y, own, plus, None, even, odd)
        elif ntk:
            _abrelu(work, x, y, own, None, theta, even, odd)
        else:
            _abrelu(work, x, y, own, None, None, even, odd)
    else:
        scalars64 = (np.float64(scalars[0]), np.float64(scalars[1]), np.float64(scalars[2]), np.float64(scalars[3]))
        _smooth(kind, signed, work, x, y, at, scalars64)


@compiled
def _radial_slope(kind, a, b, c, q):  # type: ignore[no-untyped-def]
    """E[Z^2 phi'(sqrt(q) Z)^2] of erf, gelu or sine: the second derivative of E[phi(r Z) phi(s Z)] by r and s."""
    if kind == ERF:
        return 4 * a * a * b * b / (pi * (1 + 4 * b * b * q) ** 1.5)
    if kind == GELU:
        d2, v = 1 + 2 * q, 1 / (1 + q)
        d = np.sqrt(d2)
        return 0.25 + (np.arctan2(q, d) + q * (2 * v * (1 + 2 * v + 1 / d2) + 3 / d2**2) / d) / (2 * pi)
    return a * a * b * b / 2 * (1 + np.cos(2 * c) * (1 - 4 * b * b * q) * np.exp(-2 * b * b * q))


@compiled
def own_moments(kind, a, b, c, q, variance, slope):  # type: ignore[no-untyped-def]
    """Set E[phi(u)^2] for Gaussian u of variances q, and where phi is smooth E[Z^2 phi'(sqrt(q) Z)^2]."""
    for i in range(q.size):
        if kind == ABRELU:
            variance[i] = (a * a + b * b) / 2 * q[i]
        elif kind == RBF:
            variance[i] = 1
        else:
            root = np.sqrt(q[i])
            variance[i] = _moments(kind, a, b, c, q[i], 0.0, 2 * q[i], root, root)[0]
            slope[i] = _radial_slope(kind, a, b, c, q[i])
