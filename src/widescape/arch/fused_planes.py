"""Compiled covariance planes: every step of a network on one shift of a pair of images, in the first-level cache.

A plane holds, at position s of the first image, the covariance with position s' = s + d of the second, where the
shift d counts circularly; all positions of a plane go through convolutions and nonlinearities together, and planes
meet only in poolings. Where s' wraps, a plane has a cut, which zero-padded windows may not cross. So a plane is stored
as two blocks of rows and two of columns, each with a border of the windows' reach: zeros, or neighbors where a window
wraps. Filters and integrals then run over whole blocks of rows without a mask.

What depends on one image only (roots of variances) are tracks: images with the same borders, in the same storage.

This module needs numba.
"""

import numba
import numpy as np

from widescape.arch.fused_duals import apply_dual, compiled
from widescape.arch.fused_filters import (
    Sides,
    add_covariance,
    add_scaled,
    fill_columns,
    fill_rows,
    filter_minus,
    filter_theta,
    mix_one,
    mix_start,
    offsets,
    roll,
    set_blocks,
)
from widescape.arch.fused_program import ADD, APPLY, CONVOLVE, PUSH, SWAP, Shape

_summing = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})


@compiled
def _convolve(work, old, new, where, sides, step, scalars, ntk):  # type: ignore[no-untyped-def]
    """The columns' window from `old` to `new`, then the rows', with weight and bias, back.

    `old` and `new` say where minus, plus and theta begin. Returns whether `old` holds the result; `new` does where the
    window has one column.
    """
    zero, one = work.dtype.type(0), work.dtype.type(1)
    signed, root, twice = step[1], step[6], step[10] > 1
    for k in range(3):
        if (k == 1 and not signed) or (k == 2 and not ntk):
            continue
        source, out = old + k * where.plane, new + k * where.plane
        for axis in range(1 if twice else 0, -1, -1):
            taps, low = step[8 + 2 * axis], step[9 + 2 * axis]
            scale, bias, stretch = (one, zero, 1) if axis else (scalars[0], scalars[1], where.stride)
            if taps > 1 and axis:
                fill_columns(work, source, where, sides, step[13])
            elif taps > 1:
                fill_rows(work, source, where, sides, step[12])
            extra = bias + bias if k == 1 else zero
            if k == 2:
                filter_theta(work, source, out, taps, low, stretch, where, sides, scale)
            else:
                tracks = (step[3], step[4], step[5]) if axis else (step[4], root, step[7])
                filter_minus(work, source, out, taps, low, stretch, where, sides, tracks, scale, bias, extra)
            source, out = out, source
    if ntk:
        _tangent(work, old if twice else new, where, sides, root, signed, scalars[2], scalars[3])
    return twice


@compiled
def _tangent(work, base, where, sides, root, signed, gain, shift):  # type: ignore[no-untyped-def]
    plane = np.uint64(where.plane)
    for k in range(2):
        n, o, _, _, p, q, _, _, _, _ = offsets(where, sides, k, base, 0, (root, 0, 0))
        add_covariance(work, signed, sides.x, sides.y, n, o, o + plane, o + plane + plane, p, q, gain, shift)


@compiled
def _apply(work, base, where, sides, step, scalars, ntk):  # type: ignore[no-untyped-def]
    plane = np.uint64(where.plane)
    for k in range(2):
        n, o, _, _, p, q, r, g, s, h = offsets(where, sides, k, base, 0, (step[5], step[3], step[4]))
        _, _, _, _, u, v, _, _, _, _ = offsets(where, sides, k, base, 0, (step[6], 0, 0))
        at = (n, o, o + plane, o + plane + plane, r, g, s, h, p, q, u, v)
        apply_dual(step[2], step[1], ntk, work, sides.x, sides.y, at, scalars)


@compiled
def _fill_plus(work, base, where, sides, root):  # type: ignore[no-untyped-def]
    """Set plus = 2 r s - minus, where it was not carried."""
    for k in range(2):
        n, plus, minus, _, p, q, _, _, _, _ = offsets(where, sides, k, base + where.plane, base, (root, 0, 0))
        for i in range(n):
            work[plus + i] = 2 * sides.x[p + i] * sides.y[q + i] - work[minus + i]


@compiled
def _add(work, state, other, spare, where, sides, step):  # type: ignore[no-untyped-def]
    """The sum of two independent branches into the first."""
    signed, plane = step[1], where.plane
    if signed and not step[2]:
        _fill_plus(work, state, where, sides, step[3])
    if signed and not step[7]:
        _fill_plus(work, other, where, sides, step[4])
    zero, one = work.dtype.type(0), work.dtype.type(1)
    for f in range(2 if signed else 1):
        at = f * plane
        work[spare + at : spare + at + plane] = work[state + at : state + at + plane]
        for k in range(2):
            first = offsets(where, sides, k, state + at, spare + at, (step[3], step[5], step[6]))
            mix_start(work, sides.x, sides.y, first, zero, zero)
            mix_one(work, sides.x, sides.y, first, one)
            second = offsets(where, sides, k, state + at, other + at, (step[4], step[5], step[6]))
            mix_one(work, sides.x, sides.y, second, one)
    for k in range(2):
        n, o, a, _, _, _, _, _, _, _ = offsets(where, sides, k, state + 2 * plane, other + 2 * plane, (0, 0, 0))
        add_scaled(work, n, o, a, one)


@compiled
def run_steps(work, slots, where, sides, steps, scalars, ntk):  # type: ignore[no-untyped-def]
    """Take the plane through all steps; `slots` says where in `work` the state, the spare and the stack begin."""
    depth, size = 0, 3 * where.plane
    for k in range(steps.shape[0]):
        op = steps[k, 0]
        if op == CONVOLVE:
            if not _convolve(work, slots[0], slots[1], where, sides, steps[k], scalars[k], ntk):
                slots[0], slots[1] = slots[1], slots[0]
        elif op == APPLY:
            _apply(work, slots[0], where, sides, steps[k], scalars[k], ntk)
        elif op == PUSH:
            depth += 1
            work[slots[1 + depth] : slots[1 + depth] + size] = work[slots[0] : slots[0] + size]
        elif op == SWAP:
            slots[0], slots[1 + depth] = slots[1 + depth], slots[0]
        elif op == ADD:
            _add(work, slots[0], slots[1 + depth], slots[1], where, sides, steps[k])
            depth -= 1


@compiled
def load_pixels(work, base, where, sides, channels):  # type: ignore[no-untyped-def]
    """Minus and plus of the pixels, by differences and sums of normalized pixels; theta is 0."""
    half = work.dtype.type(0.5)
    x, y = sides.x, sides.y
    work[base : base + 3 * where.plane] = 0
    for k in range(2):
        for c in range(1, channels + 1):
            n, plus, minus, _, p, q, r, _, s, _ = offsets(where, sides, k, base + where.plane, base, (c, 0, 0))
            for i in range(n):
                low, high = x[p + i] - y[q + i], x[p + i] + y[q + i]
                work[minus + i] += low * low
                work[plus + i] += high * high
        for i in range(n):
            product = half * (x[r + i] * y[s + i])
            work[minus + i] *= product
            work[plus + i] *= product


@compiled
def load_pooled(work, base, where, sides, nngp, ntk):  # type: ignore[no-untyped-def]
    """Minus and plus by subtraction from pooled covariances; exactly 0 within rounding, so that equal stays equal."""
    small = 8 * np.finfo(work.dtype).eps
    first, gap = where.width - sides.cut, where.low1 + where.high1
    work[base : base + 3 * where.plane] = 0
    at = 0
    for b in range(2):
        for i in range(sides.blocks[b, 0]):
            for j in range(where.width):
                e = i * where.stride + where.low1 + j + (0 if j < first else gap)
                product = sides.x[sides.blocks[b, 2] + e] * sides.y[sides.blocks[b, 3] + e]
                k = nngp[at]
                complement = product - abs(k)
                if complement < small * product:
                    complement = work.dtype.type(0)
                o = base + sides.blocks[b, 1] + e
                work[o] = complement if k >= 0 else 2 * product - complement
                work[o + where.plane] = complement if k < 0 else 2 * product - complement
                work[o + 2 * where.plane] = ntk[at]
                at += 1


@compiled
def _unfold(work, base, where, sides, root, signed):  # type: ignore[no-untyped-def]
    """The covariance, in the place of minus."""
    half = work.dtype.type(0.5)
    x, y = sides.x, sides.y
    for k in range(2):
        n, plus, minus, _, p, q, _, _, _, _ = offsets(where, sides, k, base + where.plane, base, (root, 0, 0))
        if signed:
            for i in range(n):
                work[minus + i] = half * (work[plus + i] - work[minus + i])
        else:
            for i in range(n):
                work[minus + i] = x[p + i] * y[q + i] - work[minus + i]


@_summing
def _sum(work, base, where, sides):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(2):
        n, o, _, _, _, _, _, _, _, _ = offsets(where, sides, k, base, 0, (0, 0, 0))
        for i in range(n):
            total += np.float64(work[o + i])
    return total


@compiled
def totals(work, base, where, sides):  # type: ignore[no-untyped-def]
    """The sums of covariance and theta over all positions of the plane."""
    theta = base + 2 * where.plane
    fill_columns(work, base, where, sides, False)
    fill_columns(work, theta, where, sides, False)
    return _sum(work, base, where, sides), _sum(work, theta, where, sides)


@compiled
def scatter(work, base, where, sides, shift, pool, table, scale, nngp, ntk):  # type: ignore[no-untyped-def]
    """Add the plane to the pooled planes that it belongs to; `table` says where the plane of a pooled shift lies."""
    rows, columns = where.height // pool[0], where.width // pool[1]
    first, gap, jump = where.width - sides.cut, where.low1 + where.high1, np.uint64(pool[1])
    theta = np.uint64(2 * where.plane)
    for i in range(where.height):
        b = 0 if i < sides.blocks[0, 0] else 1
        start = base + sides.blocks[b, 1] + (i - b * sides.blocks[0, 0]) * where.stride + where.low1
        row = ((i % pool[0] + shift[0]) // pool[0]) % rows
        for c in range(pool[1]):
            index = table[row, ((c + shift[1]) // pool[1]) % columns]
            if index < 0:
                continue
            before = min(columns, max(0, -((c - first) // pool[1])))  # columns of the pooled image before the cut
            to = (index * rows + i // pool[0]) * columns
            for side in range(2):
                low, high = (0, before) if side == 0 else (before, columns)
                source, target = np.uint64(start + c + low * pool[1] + side * gap), np.uint64(to + low)
                for j in range(np.uint64(high - low)):
                    nngp[target + j] += scale * work[source + j * jump]
                    ntk[target + j] += scale * work[source + theta + j * jump]


@compiled
def _shape(stage):  # type: ignore[no-untyped-def]
    return Shape(
        stage[0], stage[1], stage[2], stage[3], stage[4], stage[5], stage[6], stage[7], stage[8], stage[9]
    )  # fmt: skip


@compiled
def run_stage(x, y, stage, steps, scalars, shifts, table, scale, pooled, out, work, rolled, ntk):  # type: ignore[no-untyped-def]
    """All planes of a pair between two poolings.

    `pooled` and `out` are (nngp, ntk) of the planes that come in and, before a pooling, go out. Returns the sums over
    all positions of the planes where no pooling follows.
    """
    where = _shape(stage)
    tracks, channels, root, signed, pool = stage[10], stage[11], stage[12], stage[13], (stage[14], stage[15])
    blocks, slots = np.zeros((2, 4), np.int64), np.arange(0, work.size, 3 * where.plane)
    nngp, theta, positions, cut = 0.0, 0.0, where.height * where.width, 0
    first, second = x, y
    for k in range(shifts.shape[0]):
        if shifts[k, 1] != cut:
            cut = shifts[k, 1]
            roll(x, rolled[0], where, tracks, cut, False)
            roll(y, rolled[1], where, tracks, cut, True)
        if cut > 0:
            first, second = rolled[0], rolled[1]
        set_blocks(blocks, where, shifts[k, 0])
        sides = Sides(first, second, blocks, cut)
        if channels > 0:
            load_pixels(work, slots[0], where, sides, channels)
        else:
            a, b = k * positions, (k + 1) * positions
            load_pooled(work, slots[0], where, sides, pooled[0][a:b], pooled[1][a:b])
        run_steps(work, slots, where, sides, steps, scalars, ntk)
        _unfold(work, slots[0], where, sides, root, signed)
        if pool[0] > 0:
            scatter(work, slots[0], where, sides, shifts[k], pool, table, scale, out[0], out[1])
        else:
            sums = totals(work, slots[0], where, sides)
            nngp += sums[0]
            theta += sums[1]
    return nngp, theta


@compiled
def run_pairs(x, y, pairs, stages, steps, scalars, shifts, tables, scales, work, rolled, pooled, ntk, results):  # type: ignore[no-untyped-def]
    """The sums over positions for each pair of examples, through all stages.

    The last columns of `stages` say where the stage's tracks, steps, shifts and pooled planes begin and end.
    """
    for p in range(pairs.shape[0]):
        pooled[:] = 0
        for g in range(stages.shape[0]):
            stage = stages[g]
            a, b = stage[16], stage[17]
            c, d = stage[18], stage[19]
            e, f = stage[20], stage[21]
            begin, end = stage[22], stage[26]
            after = pooled[:, end:]
            table = tables[stage[23] : stage[23] + stage[24] * stage[25]].reshape((stage[24], stage[25]))
            sums = run_stage(
                x[pairs[p, 0], a:b], y[pairs[p, 1], a:b], stage, steps[c:d], scalars[c:d], shifts[e:f], table,
                scales[g], (pooled[0, begin:end], pooled[1, begin:end]), (after[0], after[1]), work, rolled, ntk,
            )  # fmt: skip
            results[0, p], results[1, p] = sums[0], sums[1]
