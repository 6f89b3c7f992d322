"""The tangent kernel of any function: planned under a memory budget, by the cheapest of three methods."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.curvature import factors as _factors
from widescape.curvature.factors import Model, Outputs
from widescape.curvature.plan import (
    Layout,
    Method,
    TangentPlan,
    budget_bytes,
    choose,
    count_costs,
    describe,
    lay_out,
)
from widescape.curvature.request import (
    Job,
    Trainable,
    check_outputs,
    checked,
    count_examples,
    hashable,
    length,
    on_host,
    selected,
)


def prepare(
    f: Callable[[Any, Any], Any],
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    method: Method = "auto",
    outputs: Outputs = "trace",
    trainable: Trainable = None,
    mixes_examples: bool = False,
    budget_gb: float | None = None,
) -> "PreparedKernel":
    """A tangent kernel that is checked and planned, for evaluation at many parameters."""
    checks.choice(method, "method", Method)
    checks.choice(outputs, "outputs", Outputs)
    job = checked(f, params, x1, x2, outputs, trainable, mixes_examples)
    costs = count_costs(job)
    chosen = choose(job, method, costs)
    budget = budget_bytes(budget_gb)
    layout = lay_out(job, chosen, budget)
    return PreparedKernel(job, layout, describe(job, chosen, costs, layout, budget))


@dataclass(frozen=True)
class PreparedKernel:
    """A tangent kernel of one function on fixed examples, ready to be evaluated.

    Attributes:
        plan: what it costs.
    """

    _job: "Job"
    _layout: "Layout"
    plan: TangentPlan

    def at(self, params: Any, *, progress: bool | None = False) -> np.ndarray:
        """The kernel at other parameters, of the same shapes; only their finiteness is checked again."""
        return replace(self, _job=replace(self._job, params=on_host(params, self._job.double, "params"))).run(progress)

    def run(self, progress: bool | None = None) -> np.ndarray:
        """The kernel at the parameters that it was prepared with."""
        job, layout, method = self._job, self._layout, self.plan.method
        with double_scope(job.double):
            result = _contracted(job, method, layout, progress) if method != "ntvp" else _pushed(job, layout, progress)
        if not np.isfinite(result).all():
            raise NonFiniteError("the tangent kernel has NaN or infinite entries; scale the parameters or the data.")
        return result


def tangent_vector_product(
    f: Callable[[Any, Any], Any], params: Any, x1: Any, x2: Any = None, *, trainable: Trainable = None
) -> Callable[[Any], np.ndarray]:
    """The product of the tangent kernel with a vector; see `widescape.kernels.ntk_vector_product`."""
    job = checked(f, params, x1, x2, "trace", trainable, mixes=True)
    if job.uses.reverse_only:
        raise ValueError(f"`f` holds a {job.uses.reverse_only}, which has no forward derivative; products need one.")
    columns = job.x1 if job.x2 is None else job.x2
    with double_scope(job.double):
        shape = jax.eval_shape(f, job.params, columns).shape
        like = jax.eval_shape(f, job.params, job.x1).shape

    def product(v: Any) -> np.ndarray:
        vector = checks.real_array(v, "v")
        if vector.shape != shape:
            raise ShapeError(f"`v` has shape {vector.shape}; it must be shaped like the outputs at `x2`, {shape}.")
        checks.all_finite(vector, "v")
        with double_scope(job.double):
            result = _vector_program(job.model, job.params, job.x1, columns, vector.astype(job.dtype))
        return np.asarray(result).reshape(like)

    return product


def evaluate(f: Callable[[Any, Any], Any], params: Any, x: Any) -> np.ndarray:
    """The outputs as (n, c), in the precision in which their tangent kernel is computed.

    Raises:
        ShapeError, DtypeError: arguments that do not fit.
        NonFiniteError: outputs are not finite.
    """
    double = has_float64(params, x)
    params, x = on_host(params, double, "params"), on_host(x, double, "x")
    n = count_examples(x, "x")
    with double_scope(double):
        values = np.asarray(_forward_program(hashable(f), params, x))
    check_outputs(values, n)
    if not np.isfinite(values).all():
        raise NonFiniteError("`f` returns NaN or infinite outputs; scale the parameters or the data.")
    return values.reshape(n, -1)


def traced_kernel(
    f: Any, params: Any, x1: Any, x2: Any, method: Method, outputs: Outputs, trainable: Trainable, mixes: bool
) -> Any:
    """The kernel as JAX operations, in one piece, for use inside transformations."""
    model = Model(f, selected(params, trainable), mixes)
    second = x1 if x2 is None else x2
    check_outputs(jax.eval_shape(f, params, x1), length(x1))
    shapes = jax.eval_shape(model.outputs, params, x1)
    c = shapes.shape[1]
    has_sites = not mixes and bool(model.uses(params, x1).sites)
    if method == "structured" and not has_sites:
        raise ValueError("method='structured' finds no structure in `f`; use 'jacobian', 'ntvp' or 'auto'.")
    if method == "ntvp":
        directions = jnp.eye(c * (length(second) if mixes else 1), dtype=shapes.dtype)
        return _factors.products(model, params, x1, second, directions, outputs=outputs)
    structured = method != "jacobian" and has_sites
    own = [
        _factors.jacobian_factors(
            model,
            params,
            x,
            jnp.eye(c * (length(x) if mixes else 1), dtype=shapes.dtype),
            structured=structured,
            outputs=outputs,
        )
        for x in ((x1,) if x2 is None else (x1, x2))
    ]
    return _factors.contract(own[0], own[-1], outputs, c)


_factor_program = jax.jit(
    _factors.jacobian_factors, static_argnums=(0,), static_argnames=("structured", "outputs", "group")
)
_forward_program = jax.jit(lambda f, params, x: f(params, x), static_argnums=(0,))
_contract_program = jax.jit(_factors.contract, static_argnums=(2, 3))
_products_program = jax.jit(_factors.products, static_argnums=(0,), static_argnames=("outputs",))


@partial(jax.jit, static_argnums=(0,))
def _vector_program(model: Model, params: Any, x1: Any, x2: Any, v: Any) -> jax.Array:
    chosen, merge = model.split(params)
    outputs, pull = jax.vjp(lambda part: model.outputs(merge(part), x2), chosen)
    (tangent,) = pull(v.reshape(outputs.shape))
    return jax.jvp(lambda part: model.outputs(merge(part), x1), (chosen,), (tangent,))[1]


def _contracted(job: Job, method: str, layout: Layout, progress: bool | None) -> np.ndarray:
    """The kernel from Jacobian factors: each panel of chunks against all chunks from there on."""
    result = np.zeros(job.output_shape, job.dtype)
    columns = job.x1 if job.x2 is None else job.x2
    rows, others = _Chunks(job.x1, layout.chunk, job.model), _Chunks(columns, layout.chunk, job.model)
    passes = list(layout.passes(job.num_outputs))
    total = len(passes) * _count_tiles(rows, others, symmetric=job.x2 is None)

    def tiles() -> Iterator[None]:
        for group, start, stop in passes:

            def factors(chunks: _Chunks, i: int, group: Any = group, start: int = start, stop: int = stop) -> Any:
                return _factor_program(
                    job.model,
                    job.params,
                    chunks[i],
                    _directions(job, chunks.size, start, stop),
                    structured=method == "structured",
                    outputs=job.outputs,
                    group=group,
                )

            for first in range(0, len(rows), layout.panel):
                panel = {i: factors(rows, i) for i in range(first, min(first + layout.panel, len(rows)))}
                for j in range(first if job.x2 is None else 0, len(others)):
                    own = panel[j] if job.x2 is None and j in panel else factors(others, j)
                    for i, held in panel.items():
                        if job.x2 is None and i > j:
                            continue
                        tile = _contract_program(held, own, job.outputs, job.num_outputs)
                        _add(result, np.asarray(tile), rows.range(i), others.range(j), job, start, stop)
                        yield

    for _ in track(tiles(), "tangent kernel", total=total, show=progress):
        pass
    return result


def _pushed(job: Job, layout: Layout, progress: bool | None) -> np.ndarray:
    """The kernel by NTK-vector products, tile by tile."""
    result = np.zeros(job.output_shape, job.dtype)
    columns = job.x1 if job.x2 is None else job.x2
    rows, others = _Chunks(job.x1, layout.chunk, job.model), _Chunks(columns, layout.chunk, job.model)
    places = [(i, j) for j in range(len(others)) for i in range(len(rows)) if job.x2 is not None or i <= j]
    for i, j in track(places, "tangent kernel", show=progress):
        directions = _directions(job, others.size, 0, job.num_outputs)
        tile = _products_program(job.model, job.params, rows[i], others[j], directions, outputs=job.outputs)
        _add(result, np.asarray(tile), rows.range(i), others.range(j), job, 0, job.num_outputs)
    return result


class _Chunks:
    """A batch in chunks of one size; the last is filled up with copies of its last example."""

    def __init__(self, x: Any, size: int, model: Model) -> None:
        self.x, self.n = x, length(x)
        self.size = self.n if model.mixes else min(size, -(-self.n // 8) * 8 if self.n > 8 else self.n)

    def __len__(self) -> int:
        return (self.n + self.size - 1) // self.size

    def range(self, i: int) -> tuple[int, int]:
        return i * self.size, min((i + 1) * self.size, self.n)

    def __getitem__(self, i: int) -> Any:
        start, stop = self.range(i)

        def cut(leaf: np.ndarray) -> np.ndarray:
            part, missing = leaf[start:stop], self.size - (stop - start)
            return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part

        return jax.tree.map(cut, self.x)


def _count_tiles(rows: _Chunks, columns: _Chunks, *, symmetric: bool) -> int:
    return len(rows) * (len(rows) + 1) // 2 if symmetric else len(rows) * len(columns)


def _directions(job: Job, units: int, start: int, stop: int) -> np.ndarray:
    """Unit vectors of the outputs `start` to `stop`, of every example if they are mixed."""
    c = job.num_outputs
    if not job.model.mixes:
        return np.eye(c, dtype=job.dtype)[start:stop]
    return np.eye(units * c, dtype=job.dtype).reshape(units, c, -1)[:, start:stop].reshape(-1, units * c)


def _add(
    result: np.ndarray, tile: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], job: Job, *outs: int
) -> None:
    """Add a tile at its place, and its mirror image if only one half is computed."""
    (a, b), (c, d) = rows, columns
    tile = tile[: b - a, : d - c]
    place: tuple[Any, ...] = (slice(*outs),) if job.outputs == "diag" else ()
    symmetric = job.x2 is None
    if symmetric and a == c:
        tile = (tile + _mirror(tile)) / 2
    result[(slice(a, b), slice(c, d), *place)] += tile
    if symmetric and a != c:
        result[(slice(c, d), slice(a, b), *place)] += _mirror(tile)


def _mirror(tile: np.ndarray) -> np.ndarray:
    return tile.transpose(1, 0, 3, 2) if tile.ndim == 4 else np.swapaxes(tile, 0, 1)
