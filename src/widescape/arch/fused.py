"""Infinite-width kernels of convolutional networks, a pair of images at a time in the cache of one core.

The covariance of two images at all pairs of positions is stored as one plane for every shift between the positions.
A convolution of stride 1 and an activation act on each plane alone, so a plane goes through all layers before the next
one starts, and memory traffic does not grow with depth. Programs are interpreted by code that numba compiles once.
"""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from widescape.arch.fused_program import (
    Apply,
    Branch,
    Convolve,
    Pool,
    Program,
    Stage,
    State,
    Step,
    inverse_root,
    shape_of,
    shifts_of,
    split,
)
from widescape.core.checks import all_finite, real_array
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError

__all__ = [
    "Apply",
    "Branch",
    "Convolve",
    "Pool",
    "Program",
    "Step",
    "available",
    "flops_per_pair",
    "kernels",
    "own",
    "supports",
]

_NEAR = {"float64": 1e-8, "float32": 3e-4}  # relative gaps below which first order beats a subtraction
_ACTIVATION_FLOPS = {"abrelu": 85, "erf": 80, "gelu": 100, "sine": 120, "rbf": 60}


def available() -> bool:
    """Whether numba, which this path needs, is installed."""
    return find_spec("numba") is not None


def supports(program: Program, size: tuple[int, int]) -> bool:
    """Whether `kernels` can run the program on images of this size.

    It cannot where the windows of a pooling do not divide the image that reaches it, where a branch is open across a
    pooling or at the end, or where a convolution has no positive weight.

    >>> supports(Program((Pool((2, 2)),), "mean"), (4, 6)), supports(Program((Pool((2, 2)),), "mean"), (5, 6))
    (True, False)
    """
    return _obstacle(program, size) is None


def flops_per_pair(program: Program, size: tuple[int, int]) -> float:
    """The floating-point operations for one pair of images, with the tangent kernel; a rough count.

    >>> flops_per_pair(Program((Apply("abrelu", 0.0, 1.0),), "diagonal"), (4, 4))
    1360.0
    """
    total, (height, width) = 0.0, size
    for (steps, pool), shifts in zip(split(program), shifts_of(program, size), strict=True):
        work = sum(_flops(step) for step in steps)
        total += work * len(shifts) * height * width
        if pool is not None:
            height, width = height // pool.window[0], width // pool.window[1]
    return float(total)


def kernels(
    program: Program,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    ntk: bool,
    pooled1: list[np.ndarray] | None = None,
    pooled2: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """NNGP and tangent kernels of a program, K_ij and Theta_ij averaged over positions as the program ends.

    K starts as <x_s, x'_s'> / C for pixels of C channels, Theta as 0.

    Args:
        program: the steps.
        x1: images of shape (n1, height, width, channels), in float64 or float32; the computation is in this precision.
        x2: the other images; None means x1, and then only i <= j is computed.
        ntk: whether Theta is wanted.
        pooled1: the variances that `own` returned for x1; computed where it is None and the program pools.
        pooled2: the same for x2.

    Returns:
        K and Theta (or None) of shape (n1, n2) in float64.

    Raises:
        NotImplementedError: the program or the size is outside of what `supports` admits; the message names the step.
        ShapeError, DtypeError, ValueError: the images do not fit, or are not finite.
        NonFiniteError: the kernels overflow.

    Cost: `flops_per_pair`, on one core. Threads may call it at the same time on blocks of pairs.

    >>> x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    >>> program = Program((Convolve((3, 1), (False, False), 2.0, 0.1, 2.0, 0.1), Apply("abrelu", 0.0, 1.0)), "mean")
    >>> y = np.array([0.0, 1.0, 0.0, -1.0]).reshape(1, 4, 1, 1)
    >>> k, theta = kernels(program, x, y, ntk=True)  # with numba
    >>> round(k.item(), 12), round((theta + k).item(), 12)
    (0.676824571104, 0.930074063755)
    """
    first = _images(x1, "x1")
    second = None if x2 is None else _images(x2, "x2")
    if second is not None and (second.shape[1:] != first.shape[1:] or second.dtype != first.dtype):
        raise ShapeError(
            f"`x2` has images of shape {second.shape[1:]} in {second.dtype}, but those of `x1` have {first.shape[1:]} "
            f"in {first.dtype}; give both the same."
        )
    _require(program, _size(first))
    if first.shape[2] == 1 < first.shape[1]:  # rows are what the processor's vectors run along
        turned = None if second is None else second.swapaxes(1, 2)
        maps = [None if p is None else [m.swapaxes(1, 2) for m in p] for p in (pooled1, pooled2)]
        given = (_turned(program), first.swapaxes(1, 2), turned)
        return kernels(*given, ntk=ntk, pooled1=maps[0], pooled2=maps[1])
    one = _Tracks(program, first, own(program, first)[1] if pooled1 is None and _pools(program) else pooled1)
    two = one
    if second is not None:
        two = _Tracks(program, second, own(program, second)[1] if pooled2 is None and _pools(program) else pooled2)
    n, m = len(first), two.count
    rows, columns = np.triu_indices(n) if second is None else (a.ravel() for a in np.indices((n, m)))
    result = np.empty((2, n, m))
    result[:, rows, columns] = values = one.run(two, np.stack([rows, columns], 1).astype(np.int64), ntk=ntk)
    if second is None:
        result[:, columns, rows] = values
    return result[0], result[1] if ntk else None


def own(program: Program, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The NNGP variance of each image, and the variances of its positions after each pooling.

    Args:
        program: the steps.
        x: images of shape (n, height, width, channels).

    Returns:
        The output variances of shape (n,), and an array of shape (n, height', width') for each `Pool`, in float64.

    Raises:
        NotImplementedError, ShapeError, DtypeError, ValueError, NonFiniteError: as for `kernels`.

    >>> x = np.full((1, 2, 2, 1), 3.0)
    >>> round(own(Program((Apply("abrelu", 0.0, 1.0), Pool((2, 2))), "mean"), x)[0].item(), 12)  # with numba
    4.5
    """
    images = _images(x, "x")
    _require(program, _size(images))
    if images.shape[2] == 1 < images.shape[1]:
        variances, maps = own(_turned(program), images.swapaxes(1, 2))
        return variances, [m.swapaxes(1, 2) for m in maps]
    if not _pools(program):
        tracks = _Tracks(program, images, None)
        diagonal = np.repeat(np.arange(len(images))[:, None], 2, 1)
        return tracks.run(tracks, diagonal, ntk=False)[0], []
    results = [_own_of_one(program, images[i : i + 1]) for i in range(len(images))]
    maps = [np.concatenate(each) for each in zip(*(m for _, m in results), strict=True)]
    return np.array([variance for variance, _ in results]), maps


class _Tables:
    """What compiled code reads of a program on images of one size, apart from the examples."""

    def __init__(self, program: Program, size: tuple[int, int]) -> None:
        self.shifts = shifts_of(program, size)
        self.parts = list(split(program))
        self.shapes, self.tables = [], []
        for g, (steps, pool) in enumerate(self.parts):
            self.shapes.append(shape_of(steps, size))
            table = np.full((1, 1), -1, np.int64)
            if pool is not None:
                size = (size[0] // pool.window[0], size[1] // pool.window[1])
                table = np.full(size, -1, np.int64)
                table[tuple(self.shifts[g + 1].T)] = np.arange(len(self.shifts[g + 1]))
            self.tables.append(table)
        positions = size[0] * size[1]
        self.divisor = float(positions**2 if program.end == "mean" else positions)

    def scale(self, g: int) -> float:
        """What each entry of a plane counts in the pooling behind stage `g`."""
        pool = self.parts[g][1]
        return 0.0 if pool is None else pool.scale / (pool.window[0] * pool.window[1]) ** 2

    def planes(self, g: int) -> int:
        """The entries of all planes that come into stage `g`; none come into the first."""
        return len(self.shifts[g]) * self.shapes[g].height * self.shapes[g].width if 0 < g < len(self.parts) else 0

    def numbers(self, g: int, stage: Stage, end: State) -> list[int]:
        """The first fifteen numbers that describe a stage."""
        shape, pool = self.shapes[g], self.parts[g][1]
        window = (0, 0) if pool is None else pool.window
        described = [*shape, shape.stride, shape.margin, shape.track, len(stage.tracks), stage.channels]
        return [*described, stage.root(end), int(end.signed), *window]


def _stage_of(tables: _Tables, g: int, start: np.ndarray, *, signed: bool, near: float) -> tuple[Stage, State]:
    """Stage `g` with the tracks of some examples, from their pixels (g = 0) or pooled variances."""
    stage = Stage(tables.shapes[g], near)
    state = State(start, signed)
    if g == 0:
        stage.channels = start.shape[3]
        state = State((start**2).mean(3), signed=True)
        stage.root(state)
        scale = inverse_root((start**2).sum(3))
        for c in range(stage.channels):
            stage.track(start[..., c] * scale)
    else:
        stage.root(state)
    return stage, stage.take(state, tables.parts[g][0])


class _Tracks:
    """The tracks of some examples through a program, beside the program as tables of numbers."""

    def __init__(self, program: Program, x: np.ndarray, pooled: list[np.ndarray] | None) -> None:
        self.count, self.dtype = len(x), x.dtype
        self.tables = tables = _Tables(program, _size(x))
        starts = [np.asarray(x, np.float64), *(np.asarray(p, np.float64) for p in pooled or [])]
        described, self.depth, buffers = [], 0, []
        steps, scalars = [], []
        signed, at = True, np.zeros(5, int)
        for g, start in enumerate(starts):
            stage, end = _stage_of(tables, g, start, signed=signed, near=_NEAR[x.dtype.name])
            signed = end.signed
            numbers, table = tables.numbers(g, stage, end), tables.tables[g]
            buffers += stage.tracks
            steps += stage.steps
            scalars += stage.scalars
            self.depth = max(self.depth, stage.depth)
            sizes = [len(stage.tracks) * stage.shape.track, len(stage.steps), len(tables.shifts[g])]
            after = np.add(at, [*sizes, tables.planes(g), table.size])
            ranges = [int(v) for k in range(3) for v in (at[k], after[k])]
            described.append([*numbers, *ranges, int(at[3]), int(at[4]), *table.shape, int(after[3])])
            at = after
        with np.errstate(over="ignore"):  # found in the result
            self.buffer = np.concatenate(buffers, axis=1).astype(x.dtype)
        self.stages = np.array(described, np.int64)
        self.steps, self.scalars = _step_arrays(steps, scalars, x.dtype)
        self.entries = int(at[3])

    def run(self, other: "_Tracks", pairs: np.ndarray, *, ntk: bool) -> np.ndarray:
        """K and Theta of pairs of examples, of shape (2, pairs)."""
        from widescape.arch.fused_planes import run_pairs

        tables, dtype = self.tables, self.dtype
        scales = np.array([tables.scale(g) for g in range(len(tables.parts))], dtype)
        results = np.empty((2, len(pairs)))
        run_pairs(
            self.buffer,
            other.buffer,
            pairs,
            self.stages,
            self.steps,
            self.scalars,
            np.concatenate(tables.shifts),
            np.concatenate([t.ravel() for t in tables.tables]),
            scales,
            *_work(tables, self.stages, self.depth, dtype),
            np.zeros((2, self.entries), dtype),
            ntk,
            results,
        )
        results /= tables.divisor
        if not np.isfinite(results).all():
            raise NonFiniteError("The kernels overflow; scale the images, or the weights of the program, down.")
        return results


def _own_of_one(program: Program, x: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The variance of one image, and its maps of variances after each pooling."""
    from widescape.arch.fused_planes import run_stage

    tables, dtype = _Tables(program, _size(x)), x.dtype
    start, signed, maps = np.asarray(x, np.float64), True, []
    pooled = np.zeros((2, 0), dtype)
    sums = (0.0, 0.0)
    for g in range(len(tables.parts)):
        stage, end = _stage_of(tables, g, start, signed=signed, near=_NEAR[dtype.name])
        signed = end.signed
        described = np.array([tables.numbers(g, stage, end)], np.int64)
        track = np.concatenate(stage.tracks, axis=1)[0].astype(dtype)
        out = np.zeros((2, tables.planes(g + 1)), dtype)
        scale = dtype.type(tables.scale(g))
        arrays = _step_arrays(stage.steps, stage.scalars, dtype)
        given = (tables.shifts[g], tables.tables[g], scale, (pooled[0], pooled[1]), (out[0], out[1]))
        sums = run_stage(
            track, track, described[0], *arrays, *given, *_work(tables, described, stage.depth, dtype), False
        )
        if tables.parts[g][1] is not None:
            shape = tables.shapes[g + 1]
            zero = int(tables.tables[g][0, 0])
            planes = out[0].reshape(-1, shape.height, shape.width)
            start = planes[zero][None].astype(np.float64)
            maps.append(start)
            pooled = out
    return sums[0] / tables.divisor, maps


def _step_arrays(steps: list[list[int]], scalars: list[list[float]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    return np.array(steps, np.int64).reshape(-1, 14), np.array(scalars, dtype).reshape(-1, 4)


def _work(tables: _Tables, stages: np.ndarray, depth: int, dtype: np.dtype) -> tuple[np.ndarray, int, np.ndarray]:
    """Room for the planes (state, spare and stack, three arrays each), its unit, and room for tracks at a shift."""
    plane = max(shape.plane for shape in tables.shapes)
    tracks = int((stages[:, 8] * stages[:, 9]).max())
    return np.zeros((2 + depth) * 3 * plane, dtype), plane, np.zeros((2, tracks), dtype)


def _images(x: np.ndarray, name: str) -> np.ndarray:
    array = real_array(x, name)
    if array.dtype.name not in _NEAR:
        raise DtypeError(f"`{name}` has dtype {array.dtype}; it must be float64 or float32.")
    if array.ndim != 4 or 0 in array.shape:
        raise ShapeError(
            f"`{name}` has shape {array.shape}; it must be (examples, height, width, channels), none of them 0."
        )
    all_finite(array, name)
    return array


def _size(x: np.ndarray) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _pools(program: Program) -> bool:
    return any(isinstance(step, Pool) for step in program.steps)


def _turned(program: Program) -> Program:
    """The program for images whose two axes are exchanged."""
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Convolve):
            steps.append(replace(step, window=step.window[::-1], wrap=step.wrap[::-1]))
        else:
            steps.append(replace(step, window=step.window[::-1]) if isinstance(step, Pool) else step)
    return Program(tuple(steps), program.end)


def _flops(step: Step) -> float:
    """A rough count for one position of a plane, with the tangent kernel."""
    if isinstance(step, Convolve):
        return 5.0 * sum(step.window) + 20
    if isinstance(step, Apply):
        return float(_ACTIVATION_FLOPS[step.kind])
    return 12.0 if step.kind == "add" else 3.0  # type: ignore[union-attr]


def _obstacle(program: Program, size: tuple[int, int]) -> str | None:
    """Why the program cannot run on images of this size, or None."""
    open_branches = 0
    for k, step in enumerate(program.steps):
        name = f"step {k}, {step}"
        if isinstance(step, Pool):
            if any(p < 1 or s % p for s, p in zip(size, step.window, strict=True)):
                return f"{name}: its window does not divide the image of {size[0]} x {size[1]} that reaches it"
            if open_branches:
                return f"{name}: a branch is open there"
            size = (size[0] // step.window[0], size[1] // step.window[1])
        elif isinstance(step, Convolve):
            if step.weight <= 0 or step.bias < 0 or min(step.window) < 1:
                return f"{name}: it needs a positive weight, a bias that is not negative, and a window of at least 1"
        elif isinstance(step, Branch):
            if step.kind != "push" and not open_branches:
                return f"{name}: no branch is open there"
            open_branches += {"push": 1, "swap": 0, "add": -1}[step.kind]
    return f"{open_branches} branches are open at the end" if open_branches else None


def _require(program: Program, size: tuple[int, int]) -> None:
    obstacle = _obstacle(program, size)
    if obstacle is not None:
        raise NotImplementedError(f"The fused planes cannot run this program. {obstacle[0].upper()}{obstacle[1:]}.")
