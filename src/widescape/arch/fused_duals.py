"""Gaussian integrals of activations on flat arrays, compiled: the same mathematics as ``duals.closed_form``.

A pair of Gaussian variables is known by the roots r and s of its variances and by minus = r s - k, where k is its
covariance; where k may be negative, plus = r s + k is kept as well. Both are free of cancellation. Each function
replaces minus (and plus) by that of E[phi(u) phi(v)], and multiplies theta by E[phi'(u) phi'(v)].

This module needs numba.
"""

from collections.abc import Callable
from math import factorial, pi

import numba
import numpy as np
from numba.extending import overload

from widescape.arch.fused_program import ABRELU, ERF, GELU, RBF, SINE

compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})

_TERMS = 14  # of the power series of the lune, beyond rounding at a right angle
_PIECE = 6  # terms of a polynomial that the compiler unrolls in one loop


def _table(degree: int, scalar: type, *, lune: bool) -> tuple:
    """Coefficients in 2 t - 1, highest first, of angle / sqrt(2 t) or of lune / sqrt(2 t)^3, in three pieces.

    Here cos(angle) = 1 - t for t in [0, 1], and the lune is sin(angle) - angle cos(angle).
    """
    nodes = np.polynomial.chebyshev.chebpts1(degree + 1)
    half = np.sqrt((nodes + 1) / 4)
    values = angle = 2 * np.arcsin(half)
    if lune:
        powers = [(-1) ** (k + 1) * 2 * k / factorial(2 * k + 1) * angle ** (2 * k + 1) for k in range(1, _TERMS)]
        values = np.sum(powers[::-1], axis=0)
    series = np.polynomial.chebyshev.chebfit(nodes, values / (2 * half) ** (3 if lune else 1), degree)
    table = tuple(scalar(c) for c in np.polynomial.chebyshev.cheb2poly(series)[::-1])
    return table[:_PIECE], table[_PIECE : 2 * _PIECE], table[2 * _PIECE :]


_ANGLE64, _LUNE64 = _table(17, np.float64, lune=False), _table(16, np.float64, lune=True)
_ANGLE32, _LUNE32 = _table(7, np.float32, lune=False), _table(6, np.float32, lune=True)  # relative errors of rounding


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
    """The angle over sqrt(2 t) at s = 2 t - 1."""
    raise NotImplementedError  # compiled code takes the overload


def _lune(s: float) -> float:
    """The lune over sqrt(2 t)^3 at s = 2 t - 1."""
    raise NotImplementedError  # compiled code takes the overload


overload(_angle)(_polynomial(_ANGLE64, _ANGLE32))
overload(_lune)(_polynomial(_LUNE64, _LUNE32))


@compiled
def _abrelu_positive(work, x, y, at, even, odd):  # type: ignore[no-untyped-def]
    """The dual of a min(x, 0) + b max(x, 0) at covariances that are not negative."""
    n, minus, _, theta, r, g, s, h = at
    zero, one, two = work.dtype.type(0), work.dtype.type(1), work.dtype.type(2)
    turn = work.dtype.type(2 / pi)
    for i in range(n):
        product, low = x[r + i] * y[s + i], work[minus + i]
        t = low * (x[g + i] * y[h + i])
        t = t if product > zero else one
        d = two * t
        root = np.sqrt(d)
        angle = root * _angle(d - one)
        folded = low - turn * product * (d * root * _lune(d - one))
        work[theta + i] *= even * (one - turn * angle) + odd
        work[minus + i] = even * folded + odd * low


@compiled
def _abrelu_signed(work, x, y, at, even, odd):  # type: ignore[no-untyped-def]
    """The dual of a min(x, 0) + b max(x, 0) at any covariance."""
    n, minus, plus, theta, r, g, s, h = at
    zero, one, two = work.dtype.type(0), work.dtype.type(1), work.dtype.type(2)
    turn = work.dtype.type(2 / pi)
    for i in range(n):
        product, low, high = x[r + i] * y[s + i], work[minus + i], work[plus + i]
        complement = min(low, high)
        t = complement * (x[g + i] * y[h + i])
        t = t if product > zero else one
        d = two * t
        root = np.sqrt(d)
        slope = one - turn * root * _angle(d - one)
        slope = slope if low <= high else -slope
        folded = complement - turn * product * (d * root * _lune(d - one))
        work[theta + i] *= even * slope + odd
        work[minus + i] = even * folded + odd * low
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
def apply_dual(kind, signed, work, x, y, at, scalars):  # type: ignore[no-untyped-def]
    """Any of the duals on one block of a plane.

    `at` holds the block's length, the offsets of minus, plus and theta in `work`, those of the root and its inverse in
    the tracks of x and of y, of the root of the new variance in both, and of the radial slope in both.
    """
    if kind == ABRELU:
        cast = work.dtype.type
        even, odd = cast(((scalars[1] - scalars[0]) / 2) ** 2), cast(((scalars[0] + scalars[1]) / 2) ** 2)
        if signed:
            _abrelu_signed(work, x, y, at[:8], even, odd)
        else:
            _abrelu_positive(work, x, y, at[:8], even, odd)
    else:
        scalars64 = (np.float64(scalars[0]), np.float64(scalars[1]), np.float64(scalars[2]), np.float64(scalars[3]))
        _smooth(kind, signed, work, x, y, at, scalars64)
