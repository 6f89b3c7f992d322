"""Compiled windows on the storage of covariance planes that ``fused_planes`` describes.

This module needs numba.
"""

from typing import NamedTuple

import numpy as np

from widescape.arch.fused_duals import compiled


class Sides(NamedTuple):
    """The tracks of the two images at the plane's shift of columns, and the plane's two blocks of rows.

    Each row of `blocks` is (number of rows, where they start in a plane, in a track of x, in a track of y).
    """

    x: np.ndarray
    y: np.ndarray
    blocks: np.ndarray
    cut: int


@compiled
def roll(stored, out, where, tracks, shift, second):  # type: ignore[no-untyped-def]
    """Tracks as the planes of a column shift hold them: the columns before the cut, then those behind it."""
    first = where.width - shift
    starts = (shift, 0) if second else (0, first)
    rows = where.height + where.low0 + where.high0
    for k in range(tracks):
        for i in range(rows):
            row = k * where.track + where.margin + i * where.stride
            split = row + first + where.margin
            out[row:split] = stored[row + starts[0] : row + starts[0] + first + where.margin]
            out[split : split + shift + where.margin] = stored[row + starts[1] : row + starts[1] + shift + where.margin]


@compiled
def set_blocks(blocks, where, shift):  # type: ignore[no-untyped-def]
    """Where the rows before and behind the cut lie, for a shift of rows."""
    first = where.height - shift
    gap = where.high0 + where.low0
    blocks[0, 0], blocks[1, 0] = first, shift
    blocks[0, 1] = where.margin + where.low0 * where.stride
    blocks[1, 1] = blocks[0, 1] + (first + gap) * where.stride
    blocks[0, 2] = blocks[0, 1]
    blocks[1, 2] = blocks[0, 1] + first * where.stride
    blocks[0, 3] = blocks[0, 1] + shift * where.stride
    blocks[1, 3] = blocks[0, 1]


@compiled
def fill_columns(work, base, where, sides, wrap):  # type: ignore[no-untyped-def]
    """Set the border columns of the live rows: zero, or the neighbors around the torus."""
    low, high, width = where.low1, where.high1, where.width
    first = width - sides.cut
    for e in range(low):
        _fill_column(work, base, where, sides.blocks, e, _around(e - low, where, first), wrap)
    for e in range(-low, high):  # the first block's high border, then the second's low one
        place = low + first + (e if e >= 0 else high + low + e)
        _fill_column(work, base, where, sides.blocks, place, _around(first + e, where, first), wrap)
    for e in range(high):
        _fill_column(work, base, where, sides.blocks, 2 * low + high + width + e, _around(e, where, first), wrap)


@compiled
def _fill_column(work, base, where, blocks, place, source, wrap):  # type: ignore[no-untyped-def]
    """Set one border column of the live rows: zero, or the column `source`."""
    stride, back = np.uint64(where.stride), np.uint64(source)
    zero = work.dtype.type(0)
    for b in range(2):
        start, rows = np.uint64(base + blocks[b, 1]), np.uint64(blocks[b, 0])
        to = start + np.uint64(place)
        if wrap:
            for i in range(rows):
                work[to + i * stride] = work[start + back + i * stride]
        else:
            for i in range(rows):
                work[to + i * stride] = zero


@compiled
def _around(j, where, first):  # type: ignore[no-untyped-def]
    """Where column j of the circle lies in a row."""
    j %= where.width
    return where.low1 + j + (0 if j < first else where.high1 + where.low1)


@compiled
def fill_rows(work, base, where, sides, wrap):  # type: ignore[no-untyped-def]
    """Set the border rows of both blocks: zero, or the neighbors around the torus."""
    low, high, height, stride = where.low0, where.high0, where.height, where.stride
    blocks = sides.blocks
    for b in range(2):
        live, begin = blocks[b, 0], 0 if b == 0 else blocks[0, 0]
        for e in range(-low, live + high):
            if 0 <= e < live:
                continue
            target = base + blocks[b, 1] + e * stride
            if wrap:
                i = (begin + e) % height
                block = 0 if i < blocks[0, 0] else 1
                source = base + blocks[block, 1] + (i - block * blocks[0, 0]) * stride
                work[target : target + stride] = work[source : source + stride]
            else:
                work[target : target + stride] = 0


@compiled
def _mix3(work, x, y, at, scale, bias, extra):  # type: ignore[no-untyped-def]
    """The minus of a sum of three independent terms and a bias: scaled sum, and what the unequal roots add.

    Offsets are unsigned, for then the compiler need not think of indices that count from the end.
    """
    n, o, a, d, u, v, r, g, s, h = at
    half, one = work.dtype.type(0.5), work.dtype.type(1)
    a1, a2, u1, u2, v1, v2 = a + d, a + d + d, u + d, u + d + d, v + d, v + d + d
    for i in range(n):
        ratio = x[r + i] * y[h + i]
        d0, d1 = x[u + i] - ratio * y[v + i], x[u1 + i] - ratio * y[v1 + i]
        d2, d3 = x[u2 + i] - ratio * y[v2 + i], one - ratio
        bend = scale * (d0 * d0 + d1 * d1 + d2 * d2) + bias * d3 * d3
        total = work[a + i] + work[a1 + i] + work[a2 + i]
        work[o + i] = scale * total + half * (x[g + i] * y[s + i]) * bend + extra


@compiled
def mix_start(work, x, y, at, bias, extra):  # type: ignore[no-untyped-def]
    """The bias's part of `_mix3`."""
    n, o, _, _, _, _, r, g, s, h = at
    half, one = work.dtype.type(0.5), work.dtype.type(1)
    for i in range(n):
        d = one - x[r + i] * y[h + i]
        work[o + i] = half * (x[g + i] * y[s + i]) * (bias * d * d) + extra


@compiled
def mix_one(work, x, y, at, scale):  # type: ignore[no-untyped-def]
    """Add one term of a sum of independent terms."""
    n, o, a, _, u, v, r, g, s, h = at
    half = work.dtype.type(0.5)
    for i in range(n):
        d = x[u + i] - x[r + i] * y[h + i] * y[v + i]
        work[o + i] += scale * (work[a + i] + half * (x[g + i] * y[s + i]) * (d * d))


@compiled
def _sum3(work, n, o, a, d, scale):  # type: ignore[no-untyped-def]
    b, c = a + d, a + d + d
    for i in range(n):
        work[o + i] = scale * (work[a + i] + work[b + i] + work[c + i])


@compiled
def add_scaled(work, n, o, a, scale):  # type: ignore[no-untyped-def]
    """Add a scaled plane to a plane."""
    for i in range(n):
        work[o + i] += scale * work[a + i]


@compiled
def add_covariance(work, signed, x, y, n, minus, plus, theta, p, q, gain, shift):  # type: ignore[no-untyped-def]
    """Add gain k + shift to theta."""
    half = work.dtype.type(0.5)
    if signed:
        for i in range(n):
            work[theta + i] += gain * (half * (work[plus + i] - work[minus + i])) + shift
    else:
        for i in range(n):
            work[theta + i] += gain * (x[p + i] * y[q + i] - work[minus + i]) + shift


@compiled
def offsets(where, sides, k, out, source, tracks):  # type: ignore[no-untyped-def]
    """For block k: its length, and where it begins in two planes, a step, and where in three tracks of x and y."""
    size, blocks = np.uint64(where.track), sides.blocks
    n = np.uint64(blocks[k, 0]) * np.uint64(where.stride)
    o, p, q = np.uint64(blocks[k, 1]), np.uint64(blocks[k, 2]), np.uint64(blocks[k, 3])
    u, r, g = size * np.uint64(tracks[0]), size * np.uint64(tracks[1]), size * np.uint64(tracks[2])
    return n, np.uint64(out) + o, np.uint64(source) + o, np.uint64(1), u + p, u + q, r + p, g + p, r + q, g + q


@compiled
def _moved(at, back, step):  # type: ignore[no-untyped-def]
    """The offsets with the terms `back` entries earlier, `step` entries apart."""
    n, o, a, _, u, v, r, g, s, h = at
    back, step = np.uint64(back), np.uint64(step)
    return n, o, a - back, step, u - back, v - back, r, g, s, h


@compiled
def filter_minus(work, source, out, taps, low, step, where, sides, tracks, scale, bias, extra):  # type: ignore[no-untyped-def]
    """A window along one axis on minus or plus.

    `tracks` are those of the roots of the terms, of the root of the sum and of its inverse.
    """
    for k in range(2):
        at = offsets(where, sides, k, out, source, tracks)
        if taps == 3:
            _mix3(work, sides.x, sides.y, _moved(at, low * step, step), scale, bias, extra)
            continue
        mix_start(work, sides.x, sides.y, at, bias, extra)
        for t in range(taps):
            mix_one(work, sides.x, sides.y, _moved(at, (low - t) * step, step), scale)


@compiled
def filter_theta(work, source, out, taps, low, step, where, sides, scale):  # type: ignore[no-untyped-def]
    """A window along one axis on theta."""
    for k in range(2):
        at = offsets(where, sides, k, out, source, (0, 0, 0))
        if taps == 3:
            moved = _moved(at, low * step, step)
            _sum3(work, at[0], at[1], moved[2], moved[3], scale)
            continue
        work[at[1] : at[1] + at[0]] = 0
        for t in range(taps):
            add_scaled(work, at[0], at[1], _moved(at, (low - t) * step, step)[2], scale)
