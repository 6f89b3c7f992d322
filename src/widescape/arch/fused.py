"""Infinite-width kernels of convolutional networks, a pair of images at a time in the cache of one core.

The covariance of two images at all pairs of positions is stored as one plane for every shift between the positions.
A convolution of stride 1 and an activation act on each plane alone, so a plane goes through all layers before the next
one starts, and memory traffic does not grow with depth. Programs are interpreted by code that numba compiles once.
"""

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from widescape.arch.fused_program import Apply, Branch, Convolve, Pool, Program, Step, shifts_of, split
from widescape.core.checks import all_finite, real_array
from widescape.core.errors import DtypeError, ShapeError

if TYPE_CHECKING:
    from widescape.arch import fused_tracks

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

_HELD_BYTES = 2**27  # of tracks of a batch; larger ones are made anew for every block, at a third of its time or less
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
    tracks1: list[np.ndarray] | None = None,
    tracks2: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """NNGP and tangent kernels of a program, K_ij and Theta_ij averaged over positions as the program ends.

    K starts as <x_s, x'_s'> / C for pixels of C channels, Theta as 0.

    Args:
        program: the steps.
        x1: images of shape (n1, height, width, channels), in float64 or float32; the computation is in this precision.
        x2: the other images; None means x1, and then only i <= j is computed.
        ntk: whether Theta is wanted.
        tracks1: the tracks that `own` returned for x1; made anew where it is None or empty.
        tracks2: the same for x2.

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
    tables, one = _prepared(program, first, tracks1)
    two = one if second is None else _prepared(program, second, tracks2)[1]
    n, m = len(one), len(two)
    rows, columns = np.triu_indices(n) if second is None else (a.ravel() for a in np.indices((n, m)))
    result = np.empty((2, n, m))
    result[:, rows, columns] = values = tables.run(one, two, np.stack([rows, columns], 1).astype(np.int64), ntk=ntk)
    if second is None:
        result[:, columns, rows] = values
    return result[0], result[1] if ntk else None


def own(program: Program, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The NNGP variance of each image, and its tracks, so that `kernels` need not make them for every block.

    Args:
        program: the steps.
        x: images of shape (n, height, width, channels).

    Returns:
        The output variances of shape (n,) in float64, and a list of the tracks of shape (n, entries) in the precision
        of x: what `kernels` reads of an image, made of the variances of its positions behind each step. The list is
        empty where they take more than 128 MiB.

    Raises:
        NotImplementedError, ShapeError, DtypeError, ValueError, NonFiniteError: as for `kernels`.

    >>> x = np.full((1, 2, 2, 1), 3.0)
    >>> round(own(Program((Apply("abrelu", 0.0, 1.0), Pool((2, 2))), "mean"), x)[0].item(), 12)  # with numba
    4.5
    """
    from widescape.arch import fused_tracks

    images = _images(x, "x")
    _require(program, _size(images))
    tables, images = _tables(program, images)
    held = _track_bytes(tables, len(images)) <= _HELD_BYTES
    variances, tracks = fused_tracks.own(tables, images, held=held)
    return variances, [] if tracks is None else [tracks]


def held_bytes(program: Program, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """What the tracks that `own` returns take for images of a shape (n, height, width, channels)."""
    tables, _ = _tables(program, np.broadcast_to(np.zeros((), dtype), shape))
    needed = _track_bytes(tables, shape[0])
    return needed if needed <= _HELD_BYTES else 0


def _track_bytes(tables: "fused_tracks.Tables", n: int) -> int:
    return n * tables.entries * tables.dtype.itemsize


def _prepared(
    program: Program, x: np.ndarray, held: list[np.ndarray] | None
) -> tuple["fused_tracks.Tables", np.ndarray]:
    """A program in numbers, and the tracks of some images."""
    from widescape.arch import fused_tracks

    tables, images = _tables(program, x)
    return tables, held[0] if held else fused_tracks.tracks_of(tables, images)


def _tables(program: Program, x: np.ndarray) -> tuple["fused_tracks.Tables", np.ndarray]:
    """A program in numbers, and the images as it takes them: turned where the rows have one position only."""
    from widescape.arch import fused_tracks

    if x.shape[2] == 1 < x.shape[1]:  # rows are what the processor's vectors run along
        program, x = _turned(program), x.swapaxes(1, 2)
    return fused_tracks.tables_of(program, _size(x), x.shape[3], x.dtype), x


def _images(x: np.ndarray, name: str) -> np.ndarray:
    array = real_array(x, name)
    if array.dtype.name not in ("float64", "float32"):
        raise DtypeError(f"`{name}` has dtype {array.dtype}; it must be float64 or float32.")
    if array.ndim != 4 or 0 in array.shape:
        raise ShapeError(
            f"`{name}` has shape {array.shape}; it must be (examples, height, width, channels), none of them 0."
        )
    all_finite(array, name)
    return array


def _size(x: np.ndarray) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


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
