"""What a program is in numbers, and what each image contributes to its planes: tracks of variances at every layer.

A track holds, at each position of one image, the root of a variance, or what else the planes need of one image only, in
the storage that ``fused_planes`` describes. Its entries lie behind those of the tracks before, so an image is one row.

This module needs numba.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from widescape.arch.fused_duals import own_moments
from widescape.arch.fused_planes import run_pairs, run_stage
from widescape.arch.fused_program import (
    ABRELU,
    ADD,
    APPLY,
    CONVOLVE,
    KINDS,
    PUSH,
    RBF,
    SWAP,
    Apply,
    Branch,
    Convolve,
    Program,
    Shape,
    Step,
    shape_of,
    shifts_of,
    split,
)
from widescape.core.errors import NonFiniteError

NEAR = {"float64": 1e-8, "float32": 3e-4}
"""Relative gaps below which first order beats a subtraction, by precision."""
_TOGETHER = 2**14  # positions of the images whose tracks are made at once: their variances fit in a cache


@dataclass
class State:
    """The variances of the examples at one point of a stage, and the tracks made of them so far."""

    variance: np.ndarray
    signed: bool
    root: int = -1
    inverse: int = -1


class Stage:
    """The layers between two poolings as the compiled planes read them, while they are noted one by one.

    Attributes:
        steps, scalars: rows of integers and of scalars, one for each step.
        tracks: how many there are.
        depth: how many branches are open at most.
    """

    def __init__(self, shape: Shape, near: float, rows: np.ndarray | None = None) -> None:
        """`rows` (n, entries), zero at first, takes the tracks of n images; None if only the steps are wanted."""
        self.shape, self.near, self.rows = shape, near, rows
        self.steps: list[list[int]] = []
        self.scalars: list[list[float]] = []
        self.tracks = self.depth = 0

    def pixels(self, x: np.ndarray) -> State:
        """Note the pixels (n, height, width, channels)."""
        squares = x**2
        state = State(squares.mean(3), signed=True)
        self.root(state)
        scale = _inverse_root(squares.sum(3))
        for c in range(x.shape[3]):
            self.track(x[..., c] * scale)
        return state

    def pooled(self, variance: np.ndarray, *, signed: bool) -> State:
        """Note the variances behind a pooling."""
        state = State(variance, signed)
        self.root(state)
        return state

    def track(self, values: np.ndarray, *, wrap: tuple[bool, bool] = (False, False)) -> int:
        """Store images of shape (n, height, width) with zeros around them, or their neighbors on a circle."""
        if self.rows is not None:
            shape, begin = self.shape, self.tracks * self.shape.track + self.shape.margin
            stored = self.rows[:, begin : begin + shape.track - 2 * shape.margin]
            stored = stored.reshape(len(values), -1, shape.stride)
            low, high = (shape.low0, shape.low1), (shape.high0, shape.high1)
            around = [(low[k], high[k]) if wrap[k] else (0, 0) for k in range(2)]
            first = [0 if wrap[k] else low[k] for k in range(2)]
            if any(wrap):
                values = np.pad(values, [(0, 0), *around], mode="wrap")
            ends = [first[k] + values.shape[k + 1] for k in range(2)]
            stored[:, first[0] : ends[0], first[1] : ends[1]] = values
        self.tracks += 1
        return self.tracks - 1

    def root(self, state: State) -> int:
        """The track of the roots of the variances."""
        if state.root < 0:
            state.root = self.track(np.sqrt(state.variance))
        return state.root

    def inverse(self, state: State) -> int:
        """The track of one over the roots, 0 where they vanish."""
        if state.inverse < 0:
            state.inverse = self.track(_inverse_root(state.variance))
        return state.inverse

    def add(self, numbers: list[int], scalars: list[float]) -> None:
        """Note a step."""
        self.steps.append(numbers + [0] * (14 - len(numbers)))
        self.scalars.append(scalars + [0.0] * (4 - len(scalars)))

    def convolve(self, state: State, step: Convolve) -> State:
        """Note a convolution."""
        scale = step.weight / (step.window[0] * step.window[1])
        lows = [(k - 1) // 2 for k in step.window]
        inner = _box(state.variance, 2, step.window[1], wrap=step.wrap[1])
        middle = State(inner, state.signed)
        out = State(scale * _box(inner, 1, step.window[0], wrap=step.wrap[0]) + step.bias, state.signed)
        terms = self.track(np.sqrt(state.variance), wrap=(False, step.wrap[1])) if step.window[1] > 1 else 0
        sums = self.track(np.sqrt(inner), wrap=(step.wrap[0], False))
        inverse = self.inverse(middle) if step.window[1] > 1 else 0
        numbers = [CONVOLVE, int(state.signed), 0, terms, sums, inverse, self.root(out), self.inverse(out)]
        for k in range(2):
            numbers += [step.window[k], lows[k]]
        gain = step.gain / step.weight
        self.add(numbers + [int(w) for w in step.wrap], [scale, step.bias, gain, step.constant - gain * step.bias])
        return out

    def apply(self, state: State, step: Apply) -> State:
        """Note an activation."""
        kind = KINDS[step.kind]
        positive = kind == RBF or (kind == ABRELU and step.a * step.b <= 0)
        variance, slope = np.empty_like(state.variance), np.empty_like(state.variance)
        own_moments(
            kind, float(step.a), float(step.b), float(step.c), state.variance.ravel(), variance.ravel(), slope.ravel()
        )
        out = State(variance, state.signed and not positive)
        numbers = [APPLY, int(state.signed), kind, self.root(state), self.inverse(state)]
        if kind != ABRELU:
            numbers += [self.root(out), 0 if kind == RBF else self.track(slope)]
        self.add(numbers, [step.a, step.b, step.c, self.near])
        return out

    def join(self, state: State, other: State) -> State:
        """Note a sum of two branches."""
        out = State(state.variance + other.variance, state.signed or other.signed)
        numbers = [ADD, int(out.signed), int(state.signed), self.root(state), self.root(other)]
        self.add([*numbers, self.root(out), self.inverse(out), int(other.signed)], [])
        return out

    def take(self, state: State, steps: tuple[Step, ...]) -> State:
        """Note all steps; what the last one leaves."""
        stack: list[State] = []
        for step in steps:
            if isinstance(step, Convolve):
                state = self.convolve(state, step)
            elif isinstance(step, Apply):
                state = self.apply(state, step)
            elif isinstance(step, Branch) and step.kind == "push":
                self.add([PUSH], [])
                stack.append(State(state.variance, state.signed, state.root, state.inverse))
                self.depth = max(self.depth, len(stack))
            elif isinstance(step, Branch) and step.kind == "swap":
                self.add([SWAP], [])
                state, stack[-1] = stack[-1], state
            else:
                state = self.join(state, stack.pop())
        self.root(state)
        return state


class Tables:
    """What compiled code reads of a program on images of one size and precision, apart from the images.

    Attributes:
        entries: those of all tracks of an image.
    """

    def __init__(self, program: Program, size: tuple[int, int], channels: int, dtype: np.dtype) -> None:
        self.dtype, self.size, self.parts = dtype, size, tuple(split(program))
        self.shifts, self.shapes, self.tables, self.signed = shifts_of(program, size), [], [], [True]
        stages, steps, scalars = [], [], []
        at, depth = np.zeros(5, int), 0  # where tracks, steps, shifts, pooled planes and tables of a stage begin
        for g, (layers, pool) in enumerate(self.parts):
            self.shapes.append(shape_of(layers, size))
            stage, end = self.noted(g, np.zeros((0, *size, channels) if g == 0 else (0, *size)))
            window, count = (0, 0) if pool is None else pool.window, len(self.shifts[g])
            numbers = [*stage.shape, stage.tracks, channels if g == 0 else 0, end.root, int(end.signed), *window]
            planes = count * size[0] * size[1] if g > 0 else 0  # none come into the first stage
            table = np.full((1, 1), -1, np.int64)
            if pool is not None:
                size = (size[0] // window[0], size[1] // window[1])
                table = np.full(size, -1, np.int64)
                table[tuple(self.shifts[g + 1].T)] = np.arange(len(self.shifts[g + 1]))
            sizes = [stage.tracks * stage.shape.track, len(stage.steps), count, planes, table.size]
            after = at + sizes
            ranges = np.stack([at, after], 1)[:3].ravel()
            stages.append([*numbers, *ranges, at[3], at[4], *table.shape, after[3]])
            at, depth = after, max(depth, stage.depth)
            self.tables.append(table)
            self.signed.append(end.signed)
            steps += stage.steps
            scalars += stage.scalars
        self.entries, self.planes = int(at[0]), int(at[3])
        self.stages, self.steps = np.array(stages, np.int64), np.array(steps, np.int64).reshape(-1, 14)
        self.scalars = np.array(scalars, dtype).reshape(-1, 4)
        self.scales = np.array([0 if p is None else p.scale / np.prod(p.window) ** 2 for _, p in self.parts], dtype)
        self.room = (2 + depth) * 3 * max(shape.plane for shape in self.shapes)
        positions = size[0] * size[1]
        self.divisor = float(positions**2 if program.end == "mean" else positions)

    def noted(self, g: int, start: np.ndarray, rows: np.ndarray | None = None) -> tuple[Stage, State]:
        """Stage `g` of some images, from their pixels (g = 0) or pooled variances, and what it leaves."""
        stage = Stage(self.shapes[g], NEAR[self.dtype.name], rows)
        state = stage.pixels(start) if g == 0 else stage.pooled(start, signed=self.signed[g])
        return stage, stage.take(state, self.parts[g][0])

    def work(self) -> tuple[np.ndarray, np.ndarray]:
        """Room for the planes (state, spare and stack, three arrays each), and for tracks at a shift."""
        tracks = int((self.stages[:, 8] * self.stages[:, 10]).max())
        return np.zeros(self.room, self.dtype), np.zeros((2, tracks), self.dtype)

    def run(self, one: np.ndarray, two: np.ndarray, pairs: np.ndarray, *, ntk: bool) -> np.ndarray:
        """K and Theta of pairs of images from their tracks, of shape (2, pairs)."""
        results = np.empty((2, len(pairs)))
        shifts, tables = np.concatenate(self.shifts), np.concatenate([t.ravel() for t in self.tables])
        planes = np.zeros((2, self.planes), self.dtype)
        given = (self.stages, self.steps, self.scalars, shifts, tables, self.scales)
        run_pairs(one, two, pairs, *given, *self.work(), planes, ntk, results)
        return _finite(results / self.divisor)

    def fill(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """Set the tracks (n, entries), zero or set before, of images; their variances, if found on the way."""
        start = np.asarray(x, np.float64)
        with np.errstate(over="ignore"):  # found in the result
            if len(self.parts) > 1:
                return np.array([self._fill_one(start[i : i + 1], rows[i : i + 1]) for i in range(len(x))])
            step = max(1, _TOGETHER // (self.size[0] * self.size[1]))
            for i in range(0, len(x), step):
                self.noted(0, start[i : i + step], rows[i : i + step])
        return None

    def _fill_one(self, start: np.ndarray, rows: np.ndarray) -> float:
        """Set the tracks of one image, stage by stage, for the planes of a stage give the variances that are pooled."""
        work, sums = self.work(), (0.0, 0.0)
        came = left = np.zeros((2, 0), self.dtype)
        for g, numbers in enumerate(self.stages):
            a, b, c, d = numbers[16:20]
            self.noted(g, start, rows[:, a:b])
            track, table, last = rows[0, a:b], self.tables[g], g + 1 == len(self.parts)
            if not last:
                shape = self.shapes[g + 1]
                left = np.zeros((2, len(self.shifts[g + 1]) * shape.height * shape.width), self.dtype)
            given = (self.steps[c:d], self.scalars[c:d], self.shifts[g], table, self.scales[g])
            sums = run_stage(track, track, numbers, *given, (came[0], came[1]), (left[0], left[1]), *work, False)
            if not last:
                planes = left[0].reshape(-1, shape.height, shape.width)
                start, came = planes[table[0, 0]][None].astype(np.float64), left
        return float(_finite(np.array(sums[0] / self.divisor)))


@lru_cache(maxsize=32)
def tables_of(program: Program, size: tuple[int, int], channels: int, dtype: np.dtype) -> Tables:
    """The tables of a program, made once."""
    return Tables(program, size, channels, dtype)


def tracks_of(tables: Tables, x: np.ndarray) -> np.ndarray:
    """The tracks of images, of shape (n, entries)."""
    rows = np.zeros((len(x), tables.entries), tables.dtype)
    tables.fill(x, rows)
    return rows


def own(tables: Tables, x: np.ndarray, *, held: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The NNGP variances of images (n,), and their tracks (n, entries) if these are to be held."""
    step = len(x) if held else max(1, _TOGETHER // (tables.size[0] * tables.size[1]))
    rows = np.zeros((min(step, len(x)), tables.entries), tables.dtype)
    found = []
    for i in range(0, len(x), step):
        part = x[i : i + step]
        variances = tables.fill(part, rows[: len(part)])
        if variances is None:
            variances = tables.run(rows, rows, np.repeat(np.arange(len(part))[:, None], 2, 1), ntk=False)[0]
        found.append(variances)
    return np.concatenate(found), rows if held else None


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NonFiniteError("The kernels overflow; scale the images, or the weights of the program, down.")
    return values


def _inverse_root(variance: np.ndarray) -> np.ndarray:
    """1/sqrt(variance), 0 where it vanishes."""
    positive = variance > 0
    return np.where(positive, 1 / np.sqrt(np.where(positive, variance, 1)), 0)


def _box(values: np.ndarray, axis: int, size: int, *, wrap: bool) -> np.ndarray:
    """The sums over a window along one axis, zero outside or around a circle."""
    total, length = np.zeros_like(values), values.shape[axis]
    for offset in range(-((size - 1) // 2), size // 2 + 1):
        if wrap:
            total += np.roll(values, -offset, axis)
        elif abs(offset) < length:
            to, source = [slice(None)] * values.ndim, [slice(None)] * values.ndim
            to[axis] = slice(max(0, -offset), length - max(0, offset))
            source[axis] = slice(max(0, offset), length - max(0, -offset))
            total[tuple(to)] += values[tuple(source)]
    return total
