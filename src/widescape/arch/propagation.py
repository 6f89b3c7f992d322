"""A limit from the input to the output: the stages of a network as compiled programs, over vectors and positions."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.covariance import Covariance, InputBlock, Layout
from widescape.arch.images import all_shifts, image_block
from widescape.arch.layouts import lengths_at, pool_of
from widescape.arch.spec import Signal, merge, split

if TYPE_CHECKING:
    from widescape.arch.base import Layer

_ENTRIES = 2**17
"""Entries of an array of pairs up to which shifts, or examples beside themselves, are computed at once."""


@dataclasses.dataclass(frozen=True)
class Propagation:
    """How the states of blocks of examples pass through a network; run in double precision.

    Attributes:
        layer: the architecture.
        signal: its input.
        layout: which pairs of positions are carried, from the input on.
        dtype: of the scales.
        ntk: whether tangent kernels are carried.
    """

    layer: "Layer"
    signal: Signal
    layout: Layout
    dtype: str
    ntk: bool

    def of_block(self, inputs: InputBlock) -> Covariance:
        """The end of the network, from moments of inputs."""
        return self.through(self.layer.stages(), Covariance.of_input(inputs, self.signal, ntk=self.ntk))

    def through(self, stages: Sequence["Layer"], cov: Any) -> Any:
        """The state behind some stages."""
        for stage in stages:
            structure, scales = split(stage)
            if isinstance(cov, Covariance):
                cov = cov.renumbered()
            cov = _run_stage([jnp.asarray(s, self.dtype) for s in scales], cov, structure=structure)
        return cov

    def of_examples(
        self, x1: Any, x2: Any, facts1: Sequence[Any], facts2: Sequence[Any], *, whole: bool = False
    ) -> Covariance:
        """The end of the network, from examples with positions and their variances after each pooling (n, ...)."""
        known = tuple((_positions_first(a), _positions_first(b)) for a, b in zip(facts1, facts2, strict=True))
        return self._over_positions(x1, x2, known, whole)

    def own_variances(self, x: Any, *, whole: bool = False) -> tuple[Any, ...]:
        """Variances after each pooling (n, ...), from the pairs of each example with itself.

        Args:
            x: examples.
            whole: at once, as traced examples need it.
        """
        alone = dataclasses.replace(self, layout=self.layout._replace(each=True), ntk=False)
        entries = prod(self.signal.shape[:-1]) ** (2 if self.layout.kind == "full" else 1)
        step = len(x) if whole else min(len(x), max(1, _ENTRIES // entries))
        found = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            rows = part if whole else lengthened(part, step)
            known = alone._over_positions(rows, rows, (), whole).known
            found.append([_examples_first(own)[: len(part)] for own in known])
        return tuple(jnp.concatenate(parts) for parts in zip(*found, strict=True))

    def _over_positions(self, x1: Any, x2: Any, known: tuple[Any, ...], whole: bool) -> Covariance:
        layout, stages = self.layout, self.layer.stages()
        start = partial(_start, signal=self.signal, layout=layout, ntk=self.ntk)
        if layout.kind != "planes":
            return _flattened(self.through(stages, start(x1, x2, (), known)))
        at = next(i for i, stage in enumerate(stages) if pool_of(stage) is not None)
        pool = pool_of(stages[at])
        lengths = lengths_at(stages[:at], self.signal)
        shifts = all_shifts(lengths, layout.linear)
        entries = prod(self.signal.shape[:-1]) * len(x1) * (1 if layout.each else len(x2))
        chunks = 1 if whole else min(len(shifts), max(1, -(-len(shifts) * entries // _ENTRIES)))
        size = -(-len(shifts) // chunks)
        weights = np.arange(size * chunks) < len(shifts)
        shifts = lengthened(shifts, size * chunks)
        sums: Any = None
        errors: list[tuple[jax.Array, ...]] = []
        for i in range(0, len(shifts), size):
            columns = tuple(jnp.asarray(column) for column in shifts[i : i + size].T)
            cov = self.through(stages[:at], start(x1, x2, columns, known))
            part = _plane_sums(cov, jnp.asarray(weights[i : i + size], self.dtype), pool=pool)
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
            errors.append(cov.errors)
        cov = cov.replace(errors=tuple(jnp.max(jnp.stack(parts)) for parts in zip(*errors, strict=True)))
        return self.through(stages[at + 1 :], _pool_end(cov, sums, pool=pool))


def lengthened(a: Any, size: int) -> Any:
    """The last row repeated, up to this many rows."""
    rows = size - len(a)
    return a if rows == 0 else np.pad(np.asarray(a), [(0, rows)] + [(0, 0)] * (a.ndim - 1), mode="edge")


@partial(jax.jit, static_argnames=("structure",))
def _run_stage(scales: list[Any], cov: Covariance, *, structure: Any) -> Covariance:
    result: Covariance = merge(structure, scales).limit(cov)
    return result


@partial(jax.jit, static_argnames=("signal", "layout", "ntk"))
def _start(
    x1: jax.Array,
    x2: jax.Array,
    shifts: tuple[jax.Array, ...],
    known: tuple[Any, ...],
    *,
    signal: Signal,
    layout: Layout,
    ntk: bool,
) -> Covariance:
    block = image_block(x1, x2, shifts, layout, signal)
    return Covariance.of_input(block._replace(known=known), signal, ntk=ntk, layout=layout)


@partial(jax.jit, static_argnames=("pool",))
def _plane_sums(cov: Covariance, weights: jax.Array, *, pool: Any) -> Any:
    return pool.sums(cov, weights)


@partial(jax.jit, static_argnames=("pool",))
def _pool_end(cov: Covariance, sums: Any, *, pool: Any) -> Covariance:
    end: Covariance = pool.from_sums(cov, *sums)
    return end


@jax.jit
def _flattened(cov: Covariance) -> Covariance:
    return cov if cov.layout.kind == "flat" else cov.flattened()


def _positions_first(a: Any) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(a), 0, -1)


def _examples_first(a: Any) -> jax.Array:
    return jnp.moveaxis(a, -1, 0)
