"""What a tangent kernel costs by each method, and how the work is cut to fit a memory budget."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from widescape.core import checks
from widescape.core.errors import MemoryBudgetError
from widescape.core.evidence import EXACT, bound
from widescape.core.memory import GIB, available_bytes, human_bytes
from widescape.core.result import Result, quantity
from widescape.curvature import factors as _factors
from widescape.curvature.program import Uses
from widescape.curvature.request import Job, length

Method = Literal["auto", "jacobian", "ntvp", "structured"]
Group = tuple[int, ...] | None
LARGEST_CHUNK = 128
_SMALL_CHUNK = 16
_RUNTIME_BYTES = 128 * 2**20  # compiling and running for the first time, measured
_LARGEST_FACTORS = 2**30  # bytes of the factors of one chunk beyond which larger chunks are not faster, measured
# Flops of a matrix product that take as long as writing one number, measured (benchmarks/tangent.py): of a Jacobian's
# row, which XLA computes as outer products one by one; and of anything else. And by how much a product of rows with few
# rows on either side, as for a trace, is slower per flop.
_ROW_ENTRY, _WRITE, _THIN = 450.0, 40.0, 6.0


class TangentPlan(Result):
    """What a tangent kernel will cost, before anything is computed."""

    source = "novak2022fast"
    method: str = quantity(EXACT, "the method that will run")
    rows: int = quantity(EXACT, "examples along the first axis")
    columns: int = quantity(EXACT, "examples along the second axis")
    num_outputs: int = quantity(EXACT, "outputs of one example")
    num_params: int = quantity(EXACT, "differentiated parameters")
    structured_params: int = quantity(EXACT, "of these, held in factors by the structured method")
    chunk: int = quantity(EXACT, "examples whose Jacobian is held at a time")
    panel: int = quantity(EXACT, "chunks that are kept while others pass by")
    passes: int = quantity(EXACT, "passes over blocks of parameters and of outputs")
    cost_jacobian: float = quantity(EXACT, "flops and writes of the Jacobian contraction, by a count", unit="flop")
    cost_ntvp: float = quantity(EXACT, "the same of NTK-vector products", unit="flop")
    cost_structured: float = quantity(EXACT, "the same of structured derivatives; inf where nothing has structure")
    output_bytes: int = quantity(EXACT, "size of what is returned", unit="B")
    peak_bytes: int = quantity(bound("upper", "a model of the temporaries, not a measurement"), "memory", unit="B")
    budget_bytes: int = quantity(EXACT, "memory it may take", unit="B")


@dataclass(frozen=True)
class Layout:
    """How the work is cut."""

    chunk: int
    panel: int
    groups: tuple[Group, ...]
    directions: int
    peak: float

    def passes(self, num_outputs: int) -> Iterator[tuple[Group, int, int]]:
        for group in self.groups:
            for start in range(0, num_outputs, self.directions):
                yield group, start, min(start + self.directions, num_outputs)


def count_costs(job: Job) -> dict[str, float]:
    """Flops of each method, with writes of numbers counted as flops."""
    n1, n2 = job.shape
    c, params = job.num_outputs, sum(job.sizes)
    rows = n1 if job.x2 is None else n1 + n2
    squares = c * c if job.outputs == "full" else c
    per_entry = 2.0 * squares * (1.0 if job.outputs == "full" else _THIN)
    forward = job.uses.flops / (n1 if job.model.mixes else 1)
    width = job.uses.width / (n1 if job.model.mixes else 1)
    back = rows * (forward + c * (2 * forward + _ROW_ENTRY * params + _WRITE * width))
    costs = {
        "jacobian": back + job.pairs * per_entry * params,
        "ntvp": back + n1 * n2 * c * (2 * forward + _WRITE * width),
        "structured": float("inf"),
    }
    if job.uses.sites and not job.model.mixes:
        direct = sum(job.sizes[i] for i in job.uses.direct)
        cost = rows * (forward + c * (forward + _ROW_ENTRY * direct + _WRITE * width)) + job.pairs * per_entry * direct
        for site in job.uses.sites.values():
            if _factors.keeps_factors(site, job.outputs, c):
                pair = site.positions**2 * (2 * site.inputs + 2 * squares * site.outputs + _WRITE * squares)
                cost += job.pairs * pair
            else:
                entries = site.inputs * site.outputs
                cost += rows * c * entries * (2 * site.positions + _ROW_ENTRY) + job.pairs * per_entry * entries
        costs["structured"] = cost
    return costs


def choose(job: Job, method: Method, costs: dict[str, float]) -> str:
    """The method that runs: the cheapest one for ``"auto"``.

    Raises:
        ValueError: structured derivatives of a function that has no structure.
    """
    if method == "structured" and not job.uses.sites:
        raise ValueError(
            "method='structured' needs weights that meet the example in a matrix product or a convolution, once each; "
            "no differentiated parameter of `f` does. Use 'jacobian', 'ntvp' or 'auto'."
        )
    if method == "structured" and job.model.mixes:
        raise ValueError(
            "method='structured' needs each output to depend on its own example; a function that mixes examples takes "
            "'jacobian', 'ntvp' or 'auto'."
        )
    if method == "ntvp" and job.uses.reverse_only:
        raise ValueError(
            f"method='ntvp' needs forward derivatives, and `f` holds a {job.uses.reverse_only}, which has none; use "
            "'jacobian', 'structured' or 'auto'."
        )
    if job.uses.reverse_only:
        costs = {name: cost for name, cost in costs.items() if name != "ntvp"}
    return min(costs, key=lambda name: costs[name]) if method == "auto" else method


def budget_bytes(budget_gb: float | None) -> int:
    """Bytes for everything beyond the inputs."""
    if budget_gb is None:
        return max(available_bytes() // 2, 1)
    checks.positive(checks.number(budget_gb, "budget_gb", "tangent_kernel"), "budget_gb", "tangent_kernel")
    return int(budget_gb * GIB)


def lay_out(job: Job, method: str, budget: int) -> Layout:
    """The largest chunks that fit; then fewer output directions at a time, then one leaf at a time."""
    smallest = float("inf")
    for chunk, directions, groups in _candidates(job, method):
        held, peak = _bytes(job, method, chunk, directions, groups)
        room = budget - peak
        smallest = min(smallest, peak)
        slow = chunk > _SMALL_CHUNK and chunk * held > _LARGEST_FACTORS and not job.model.mixes
        if room >= 0 and not slow:
            chunks = -(-job.shape[0] // chunk)
            panel = max(1, min(chunks, 1 + int(room // max(chunk * held, 1))))
            return Layout(chunk, panel, groups, directions, peak + (panel - 1) * chunk * held)
    raise MemoryBudgetError(
        f"the tangent kernel needs at least {human_bytes(smallest)} with method={method!r}, more than the budget of "
        f"{human_bytes(budget)}. Raise `budget_gb`, ask for outputs='trace', or split `x1`."
    )


def _candidates(job: Job, method: str) -> Iterator[tuple[int, int, tuple[Group, ...]]]:
    n, c = max(job.shape), job.num_outputs
    everything: tuple[Group, ...] = (None,)
    used = {*job.uses.direct, *(site.leaf for site in job.uses.sites.values())}
    leaves: tuple[Group, ...] = tuple((i,) for i in range(len(job.sizes)) if i in used or method == "jacobian")
    chunks = [n] if job.model.mixes else _chunk_sizes(n)
    fewer = [c]
    while fewer[-1] > 1 and job.outputs != "full" and method != "ntvp":
        fewer.append(-(-fewer[-1] // 2))
    small = min(chunks, key=lambda b: abs(b - _SMALL_CHUNK))
    yield from ((b, c, everything) for b in chunks if b >= small)
    if method == "ntvp":
        yield from ((b, c, everything) for b in chunks if b < small)
        return
    yield from ((small, o, everything) for o in fewer[1:])
    yield from ((small, o, leaves) for o in fewer)
    yield from ((b, fewer[-1], leaves) for b in chunks if b < small)


def _chunk_sizes(n: int) -> list[int]:
    """Chunks of nearly equal length, a multiple of eight where they are longer than that, falling."""
    sizes = []
    largest = LARGEST_CHUNK
    while largest >= 1:
        parts = -(-n // largest)
        even = -(-n // parts)
        sizes.append(-(-even // 8) * 8 if even > 8 else even)
        largest //= 2
    return sorted(set(sizes), reverse=True)


def _bytes(job: Job, method: str, chunk: int, directions: int, groups: tuple[Group, ...]) -> tuple[float, float]:
    """Bytes that one example's factors take, and the peak with two chunks held."""
    item, c, n = np.dtype(job.dtype).itemsize, job.num_outputs, length(job.x1)
    width = job.uses.width / (n if job.model.mixes else 1)
    share = directions / c
    if method == "ntvp":
        held, tile = float(c * sum(job.sizes)), c * (width + c)
    else:
        held, tile = 0.0, 1.0
        for group in groups:
            sizes = [s if group is None or i in group else 0 for i, s in enumerate(job.sizes)]
            own, pair = _factors.numbers_per_example(
                _restricted(job.uses, group),
                sizes,
                structured=method == "structured",
                outputs=job.outputs,
                num_outputs=c,
            )
            held, tile = max(held, own * share), max(tile, pair)
    temporary = held + 2 * directions * width
    if job.model.mixes:  # every direction of every example runs through the whole batch
        temporary = held + n * directions * (2 * width + c)
    output = float(np.prod(job.output_shape)) * item
    peak = output + _RUNTIME_BYTES + item * (chunk * (2 * held + temporary) + 2 * chunk**2 * tile)
    return held * item, peak


def _restricted(uses: Uses, group: Group) -> Uses:
    if group is None:
        return uses
    sites = {number: site for number, site in uses.sites.items() if site.leaf in group}
    return replace(uses, sites=sites, direct=tuple(i for i in uses.direct if i in group))


def describe(job: Job, method: str, costs: dict[str, float], layout: Layout, budget: int) -> TangentPlan:
    """The plan as a result."""
    n1, n2 = job.shape
    return TangentPlan(
        method=method,
        rows=n1,
        columns=n2,
        num_outputs=job.num_outputs,
        num_params=sum(job.sizes),
        structured_params=_factors.structured_size(job.uses),
        chunk=layout.chunk,
        panel=layout.panel,
        passes=len(list(layout.passes(job.num_outputs))),
        cost_jacobian=costs["jacobian"],
        cost_ntvp=costs["ntvp"],
        cost_structured=costs["structured"],
        output_bytes=int(np.prod(job.output_shape)) * np.dtype(job.dtype).itemsize,
        peak_bytes=int(layout.peak),
        budget_bytes=budget,
    )
