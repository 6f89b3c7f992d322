"""Gram matrices of infinite networks, tile by tile under a memory budget."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np

from widescape.arch.base import Layer
from widescape.arch.layouts import LayoutChoice
from widescape.arch.limit import (
    Dtype,
    Get,
    Kernel,
    Limit,
    bucket,
    precision_name,
    same_features,
    with_error,
)
from widescape.arch.plan import flops_per_pair
from widescape.core import checks
from widescape.core.blas import serial_blas
from widescape.core.errors import MemoryBudgetError
from widescape.core.evidence import EXACT, bound
from widescape.core.memory import GIB, available_bytes, human_bytes
from widescape.core.progress import track
from widescape.core.result import Result, quantity

_FUSED_TILE = 64
LARGEST_TILE = 512  # shares one program with smaller blocks; larger tiles are not faster per pair
_RUNTIME_BYTES = 192 * 2**20  # compiling and running a program for the first time, measured


class GramPlan(Result):
    """What a Gram matrix will cost, before anything is computed."""

    source = "lee2020finite"
    rows: int = quantity(EXACT, "examples along the first axis")
    columns: int = quantity(EXACT, "examples along the second axis")
    symmetric: bool = quantity(EXACT, "whether only one half is computed and mirrored")
    tile: int = quantity(EXACT, "rows and columns of a tile, at most")
    num_tiles: int = quantity(EXACT, "tiles to compute")
    workers: int = quantity(EXACT, "threads that compute tiles")
    pairs: int = quantity(EXACT, "pairs of examples to compute")
    flops: float = quantity(EXACT, "floating-point operations, by a count of the formulas")
    output_bytes: int = quantity(EXACT, "size of what is returned", unit="B")
    peak_bytes: int = quantity(bound("upper", "a model of the temporaries, not a measurement"), "memory", unit="B")
    budget_bytes: int = quantity(EXACT, "memory it may take", unit="B")


@dataclass(frozen=True)
class _Job:
    """A checked request for a Gram matrix."""

    limit: Limit
    x1: np.ndarray
    x2: np.ndarray | None
    copied_bytes: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x1), len(self.x1 if self.x2 is None else self.x2)

    @property
    def held_bytes(self) -> int:
        """What the fused path over positions holds of the examples."""
        route = self.limit.route
        batches = [] if route is None else [self.x1] if self.x2 is None else [self.x1, self.x2]
        return sum(route.held_bytes(x, self.limit.dtype) for x in batches if route is not None)


@overload
def gram(net: Layer, x1: Any, x2: Any = None, *, get: Get = "ntk", tile: int | Literal["auto"] = "auto",
         budget_gb: float | None = None, dtype: Dtype = "float64", layout: LayoutChoice = "auto",
         progress: bool | None = None, plan: Literal[False] = False) -> np.ndarray: ...  # fmt: skip
@overload
def gram(net: Layer, x1: Any, x2: Any = None, *, get: Iterable[Get], tile: int | Literal["auto"] = "auto",
         budget_gb: float | None = None, dtype: Dtype = "float64", layout: LayoutChoice = "auto",
         progress: bool | None = None, plan: Literal[False] = False) -> Kernel: ...  # fmt: skip
@overload
def gram(net: Layer, x1: Any, x2: Any = None, *, get: Get | Iterable[Get] = "ntk",
         tile: int | Literal["auto"] = "auto", budget_gb: float | None = None, dtype: Dtype = "float64",
         layout: LayoutChoice = "auto", progress: bool | None = None, plan: Literal[True]) -> GramPlan: ...  # fmt: skip
def gram(
    net: Layer,
    x1: Any,
    x2: Any = None,
    *,
    get: Get | Iterable[Get] = "ntk",
    tile: int | Literal["auto"] = "auto",
    budget_gb: float | None = None,
    dtype: Dtype = "float64",
    layout: LayoutChoice = "auto",
    progress: bool | None = None,
    plan: bool = False,
) -> np.ndarray | Kernel | GramPlan:
    """The Gram matrix of an infinitely wide network, tile by tile.

    Entries are those of `Layer.kernel`. With `x2` None only the tiles on and above the diagonal are
    computed and mirrored, and the diagonal is exact. The result does not depend on the tile size
    (to 1e-12 relative in float64).

    Args:
        net: an architecture with a limit.
        x1: examples (n1, *shape), floating point.
        x2: examples (n2, *shape); None stands for `x1`.
        get: ``"nngp"`` or ``"ntk"`` for one array; several names for a `Kernel` that holds them.
        tile: rows of a tile; ``"auto"`` takes the largest that the budget allows, at most 512, and fewer where each
            pair of examples holds many pairs of positions.
        budget_gb: memory for everything beyond the inputs, the output included, in units of 2^30 bytes; None
            for half of what is free.
        dtype: ``"float64"``, or ``"float32"`` for comparisons of precision and half the memory.
        layout: how pairs of positions are held, as for `Layer.kernel`.
        progress: whether to show a progress bar; None shows it on a terminal.
        plan: return the `GramPlan` without computing.

    Returns:
        an array (n1, n2), a `Kernel`, or a `GramPlan`.

    Raises:
        MemoryBudgetError: not even a tile of one row fits; says how much is needed.
        and whatever `Layer.kernel` raises.

    Cost: 2 d flops and about 60 per layer for each of n (n + 1)/2 pairs; for convolutions, about 100 per layer for
    every pair of positions that `Layer.describe` names. ``plan=True`` counts it.

    Example:
        >>> import numpy as np
        >>> from widescape import arch
        >>> net = arch.fc(depth=2, width=64, n_out=1, activation=arch.Relu(), w_std=2**0.5)
        >>> K = gram(net, np.eye(3), get="nngp", tile=2)
        >>> K.shape, bool(np.allclose(np.diag(K), 1 / 3 * 2))
        ((3, 3), True)
    """
    job = _check(net, x1, x2, get, dtype, layout)
    checked_plan = _plan(job, tile, budget_gb)
    if plan:
        return checked_plan
    kernel, outputs = _fill(job, checked_plan, progress)
    return outputs[get] if isinstance(get, str) else kernel


def _check(net: Layer, x1: Any, x2: Any, get: Any, dtype: Any, layout: Any) -> _Job:
    dtype = precision_name(dtype)
    first = checks.batch(x1, "x1", dtype=dtype)
    second = None if x2 is None else checks.batch(x2, "x2", dtype=dtype)
    for array, name in ((first, "x1"), (second, "x2")):
        if array is not None and not isinstance(array, np.ndarray):
            raise TypeError(f"`{name}` is traced by JAX; use `net.kernel` inside of transformations, `gram` outside.")
    if second is not None:
        same_features(first, second)
    copied = sum(
        a.nbytes for a, original in ((first, x1), (second, x2)) if a is not None and not np.shares_memory(a, original)
    )
    return _Job(Limit.of(net, first.shape[1:], get, dtype, layout), first, second, copied)


def _plan(job: _Job, tile: Any, budget_gb: float | None) -> GramPlan:
    rows, columns = job.shape
    symmetric = job.x2 is None
    itemsize = np.dtype(job.limit.dtype).itemsize
    output = rows * columns * itemsize * len(job.limit.get)
    fixed = output + job.copied_bytes + job.held_bytes + _RUNTIME_BYTES
    if budget_gb is not None and not (checks.is_concrete_number(budget_gb) and budget_gb > 0):
        raise ValueError(f"`budget_gb` is {budget_gb!r}; it must be a positive number.")
    budget = available_bytes() // 2 if budget_gb is None else int(budget_gb * GIB)
    if tile != "auto":
        checks.count(tile, "tile", "gram")

    def tile_bytes(side: int) -> int:
        return job.limit.pair_bytes * bucket(side) ** 2 + job.limit.example_bytes * side

    side, workers = _size(rows, columns, symmetric, tile, _most_rows(job), budget - fixed, tile_bytes)
    needed = fixed + workers * tile_bytes(side)
    if needed > budget:
        raise MemoryBudgetError(
            f"a Gram matrix of {rows} by {columns} needs {human_bytes(needed)}, {human_bytes(output)} of it for the "
            f"result, but the budget is {human_bytes(budget)}. Raise `budget_gb`, lower `tile`, use fewer examples, or "
            "ask for one kernel or for dtype='float32'."
        )
    pairs = rows * (rows + 1) // 2 if symmetric else rows * columns
    flops = pairs * flops_per_pair(job.limit.layer, job.limit.signal, job.limit.layout)
    return GramPlan(
        rows=rows,
        columns=columns,
        symmetric=symmetric,
        tile=side,
        num_tiles=_count_tiles(rows, columns, side, symmetric),
        workers=workers,
        pairs=pairs,
        flops=flops,
        output_bytes=output,
        peak_bytes=needed,
        budget_bytes=budget,
        provenance={"architecture": repr(job.limit.layer), "dtype": job.limit.dtype},
    )


def _most_rows(job: _Job) -> int:
    """Rows up to which a tile gets faster per pair."""
    if job.limit.route is not None:  # tiles for every thread; each of them reads its examples once
        return min(_FUSED_TILE, -(-max(job.shape) // 3))
    return max(1, int(LARGEST_TILE / job.limit.entries**0.5))


def _size(
    rows: int,
    columns: int,
    symmetric: bool,
    tile: int | str,
    most: int,
    room: float,
    tile_bytes: Callable[[int], int],
) -> tuple[int, int]:
    """Rows of a tile and threads, so that tiles in flight take at most `room` bytes if that is possible."""
    largest = max(rows, columns)
    threads = os.cpu_count() or 1
    side = min(most if tile == "auto" else int(tile), largest)
    while tile == "auto" and side > 1 and tile_bytes(side) > room:
        side = bucket(side) // 2
    num_tiles = _count_tiles(rows, columns, side, symmetric)
    return side, max(1, min(threads, num_tiles, int(room // tile_bytes(side))))


def _count_tiles(rows: int, columns: int, side: int, symmetric: bool) -> int:
    down, across = -(-rows // side), -(-columns // side)
    return down * (down + 1) // 2 if symmetric else down * across


def _ranges(n: int, side: int) -> list[tuple[int, int]]:
    """The fewest ranges of at most `side`, all of nearly the same length, so that they share a program."""
    parts = -(-n // side)
    edges = [n * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))


def _tiles(rows: int, columns: int, side: int, symmetric: bool) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    row_ranges = _ranges(rows, side)
    for i, own in enumerate(row_ranges):
        for other in row_ranges[i:] if symmetric else _ranges(columns, side):
            yield own, other


def _fill(job: _Job, plan: GramPlan, progress: bool | None) -> tuple[Kernel, dict[str, np.ndarray]]:
    """Compute all tiles; the second part holds the same matrices, writable."""
    rows, columns = job.shape
    one = job.limit.examples(job.x1)
    two = one if job.x2 is None else job.limit.examples(job.x2)
    outputs: dict[str, np.ndarray] = {name: np.empty((rows, columns), job.limit.dtype) for name in job.limit.get}
    out1, out2 = np.empty(rows, job.limit.dtype), np.empty(columns, job.limit.dtype)
    tiles = list(_tiles(rows, columns, plan.tile, plan.symmetric))
    pad = (max(bucket(b - a) for (a, b), _ in tiles), max(bucket(d - c) for _, (c, d) in tiles))

    errors: list[float | None] = []

    def compute(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
        (a, b), (c, d) = tile
        diagonal = plan.symmetric and a == c
        block = job.limit.block(one.part(a, b), None if diagonal else two.part(c, d), pad)
        out1[a:b], out2[c:d] = block.var1, block.var2
        errors.append(block.quadrature_error)
        for name, output in outputs.items():
            part = getattr(block, name)
            output[a:b, c:d] = part
            if plan.symmetric and not diagonal:
                output[c:d, a:b] = part.T

    with serial_blas(when=plan.workers > 1), ThreadPoolExecutor(plan.workers) as pool:
        futures = [pool.submit(compute, tile) for tile in tiles]
        try:
            for done in track(as_completed(futures), "Gram matrix", total=len(tiles), show=progress):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    kernel = Kernel(nngp=outputs.get("nngp"), ntk=outputs.get("ntk"), var1=out1, var2=out2)
    return with_error(kernel, max((e for e in errors if e is not None), default=None)), outputs
