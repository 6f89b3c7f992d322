"""Fibers of a function: other parameters near a point at which it takes the same values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from widescape.core.errors import NonFiniteError
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.curvature import System
from widescape.curvature.margins import kink_margin, on_same_piece
from widescape.curvature.operators import Operators

_KERNEL = 1e-10  # singular values below this part of the largest count as zero
_RETURN = 1e-11  # largest distance from the fiber, relative to max(1, |phi|)
_STEPS = 50
_NEAR, _FAR = 0.1, 3.0  # of eps: accepted lengths of a displacement
_BLOCK = 2**22  # entries of Jacobians that one program makes at a time
_NOISE = 1e-12
_PRODUCTS = (1e-8, 200)  # tolerance and most steps of a least-squares solution

Projection = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Fiber:
    """Displacements from a point w along the fiber {v: phi(w + v) = phi(w)}.

    Attributes:
        point: w, (P,).
        level: phi(w), (M,).
        displacements: one in each row (S, P); none is zero.
        jacobians: of phi, at w and at each w + displacement, S + 1 matrices (M, P); None where they were not formed.
        noise: singular values of a Jacobian up to this are rounding: 1e-12 of the largest Jacobian at distance eps.
        drawn: how many displacements were tried, those given by the caller included.
        crossed: how many of them were dropped because a comparison inside phi came out otherwise there than at w: they
            had left the smooth piece on which w lies.
    """

    point: np.ndarray
    level: np.ndarray
    displacements: np.ndarray
    jacobians: tuple[np.ndarray, ...] | None
    noise: float
    drawn: int
    crossed: int


def dense_fiber(
    system: System,
    moves: np.ndarray,
    *,
    eps: float,
    n_dirs: int,
    generator: np.random.Generator,
    progress: bool | None = None,
) -> Fiber:
    """Displacements of length about `eps` with all Jacobians, by Newton steps of least length."""
    entries = system.num_params * system.num_residuals
    block = max(2, min(n_dirs, _BLOCK // max(entries, 1)))
    probes = eps * _unit_rows(generator.normal(size=(block - 1, system.num_params)))
    values, jacobians = _at(system, system.flat + np.concatenate([np.zeros((1, system.num_params)), probes]), block)
    level, first = values[0], jacobians[0].copy()
    noise = _NOISE * float(np.linalg.norm(jacobians, axis=(1, 2)).max())
    rows = _row_space(first, noise)

    def projected(v: np.ndarray) -> np.ndarray:
        rest = v - (v @ rows.T) @ rows
        return np.asarray(rest - (rest @ rows.T) @ rows)

    starts = eps * _directions(projected, n_dirs, system.num_params, generator)
    deltas, good, found = _returned(system, starts, level, eps, block, progress)
    exact = _checked_moves(system, moves, level)
    extra = _at(system, system.flat + exact, block)[1] if len(exact) else ()
    kept, crossed = _smooth(system, np.concatenate([deltas, exact]), np.append(good, np.ones(len(exact), bool)))
    every = (*found, *extra)
    return Fiber(
        system.flat,
        level,
        np.concatenate([deltas, exact])[kept],
        (first, *(every[i] for i in np.flatnonzero(kept))),
        noise,
        n_dirs + len(exact),
        crossed,
    )


def matrix_free_fiber(
    system: System,
    moves: np.ndarray,
    *,
    eps: float,
    n_dirs: int,
    generator: np.random.Generator,
    progress: bool | None = None,
) -> Fiber:
    """Displacements of length about `eps` without a Jacobian, by products in place of pseudo-inverses."""
    level = system.F()

    def projected(vectors: np.ndarray) -> np.ndarray:
        rows = [v - _least_change(system, system.flat, system.jvp(v)) for v in vectors]
        return np.stack(rows) if rows else vectors

    starts = eps * _directions(projected, n_dirs, system.num_params, generator)
    deltas, distances = np.empty_like(starts), np.empty(n_dirs)
    for i, start in enumerate(track(starts, "returning to the fiber", show=progress)):
        deltas[i], distances[i] = _led_back(system, start, level)
    exact = _checked_moves(system, moves, level)
    good = np.append(_accepted(deltas, distances, level, eps), np.ones(len(exact), bool))
    every = np.concatenate([deltas, exact])
    kept, crossed = _smooth(system, every, good)
    return Fiber(system.flat, level, every[kept], None, 0.0, len(every), crossed)


def _smooth(system: System, deltas: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, int]:
    """The good displacements that stay on the smooth piece of phi, and how many did not."""
    if not good.any() or np.isinf(kink_margin(system)):
        return good, 0
    kept = good & on_same_piece(system, system.flat + np.where(good[:, None], deltas, 0.0))
    return kept, int(good.sum() - kept.sum())


def as_moves(moves: Any, system: System) -> np.ndarray:
    """Displacements (k, P) from a sequence of flat vectors, or of PyTrees like the parameters.

    Raises:
        ShapeError, DtypeError, ValueError: one that does not fit, is not finite, or is zero.
    """
    rows = [system.vector(move) for move in moves]
    for i, row in enumerate(rows):
        if not row.any():
            raise ValueError(f"`moves[{i}]` is zero; give displacements that change the parameters.")
    return np.stack(rows) if rows else np.empty((0, system.num_params))


def _directions(projected: Projection, count: int, dim: int, generator: np.random.Generator) -> np.ndarray:
    """Unit vectors in the kernel of J, (count, dim): from dense Gaussians, and from Gaussians on random coordinates.

    Rows are zero where the kernel is.
    """
    dense = generator.normal(size=(count, dim))
    sizes = generator.integers(1, dim + 1, size=count)
    ranks = np.argsort(generator.random((count, dim)), axis=1)
    sparse = np.where(ranks < sizes[:, None], dense, 0.0)
    odd = np.arange(count)[:, None] % 2 == 0  # the first, third, ... are dense
    draws = np.where(odd, dense, sparse)
    kept, others = projected(draws), projected(dense)
    lost = np.linalg.norm(kept, axis=1) <= 1e-6 * np.linalg.norm(draws, axis=1)
    kept = np.where(lost[:, None], others, kept)
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    nothing = lengths <= 1e-8 * np.linalg.norm(dense, axis=1, keepdims=True)
    return np.asarray(np.where(nothing, 0.0, kept / np.where(nothing, 1.0, lengths)))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _row_space(jacobian: np.ndarray, noise: float) -> np.ndarray:
    """Orthonormal rows that span the rows of J numerically."""
    _, sizes, rows = np.linalg.svd(jacobian, full_matrices=False)
    return np.asarray(rows[sizes > max(_KERNEL * sizes[0], noise)])


def _returned(
    system: System, starts: np.ndarray, level: np.ndarray, eps: float, block: int, progress: bool | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Displacements after Newton steps to the fiber, which of them are accepted, and the Jacobians there."""
    deltas = starts.copy()
    values = np.repeat(level[None], len(deltas), axis=0)
    jacobians = np.zeros((*values.shape, system.num_params))
    moving = np.flatnonzero(deltas.any(axis=1))
    ended = _newton(system, deltas, values, jacobians, moving, level=level, reach=10 * _FAR * eps, block=block)
    for _ in track(ended, "returning to the fiber", total=len(moving), show=progress):
        pass
    return deltas, _accepted(deltas, np.linalg.norm(values - level, axis=1), level, eps), jacobians


def _newton(
    system: System,
    deltas: np.ndarray,
    values: np.ndarray,
    jacobians: np.ndarray,
    moving: np.ndarray,
    *,
    level: np.ndarray,
    reach: float,
    block: int,
) -> Iterator[int]:
    """Lead the displacements `moving` to the fiber in place, with values and Jacobians; yields each that has ended."""
    polished = np.zeros(len(deltas), bool)
    for i in range(_STEPS + 1):
        values[moving], jacobians[moving] = _at(system, system.flat + deltas[moving], block)
        distances = np.linalg.norm(values[moving] - level, axis=1)
        ended = ~np.isfinite(distances) | ~np.isfinite(jacobians[moving]).all(axis=(1, 2)) | polished[moving]
        ended |= (np.linalg.norm(deltas[moving], axis=1) > reach) | (i == _STEPS)
        yield from moving[ended]
        polished[moving] = distances <= _tolerance(level)  # then one more step, as deep as rounding allows
        moving = moving[~ended]
        if len(moving) == 0:
            return
        for j in moving:
            deltas[j] -= np.linalg.lstsq(jacobians[j], values[j] - level, rcond=_KERNEL)[0]


def _accepted(deltas: np.ndarray, distances: np.ndarray, level: np.ndarray, eps: float) -> np.ndarray:
    lengths = np.linalg.norm(deltas, axis=1)
    near = (lengths >= _NEAR * eps) & (lengths <= _FAR * eps)
    return np.asarray(near & (distances <= _tolerance(level)))


def _tolerance(level: np.ndarray) -> float:
    return _RETURN * max(1.0, float(np.linalg.norm(level)))


def _checked_moves(system: System, moves: np.ndarray, level: np.ndarray) -> np.ndarray:
    for i, move in enumerate(moves):
        distance = float(np.linalg.norm(system.F(system.flat + move) - level))
        if distance > _tolerance(level):
            raise ValueError(
                f"`moves[{i}]` changes `phi` by {distance:.3g}; give displacements along which it stays the same."
            )
    return moves


def _at(system: System, points: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (S, M) and Jacobians (S, M, P) at points (S, P), by one program for blocks of that many."""
    values = np.empty((len(points), system.num_residuals))
    jacobians = np.empty((*values.shape, system.num_params))
    for first in range(0, len(points), block):
        part = points[first : first + block]
        padded = np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
        with double_scope(system.double):
            found = _values_and_jacobians(system.operators, padded, system.arrays[0])
        for whole, own in zip((values, jacobians), found, strict=True):
            whole[first : first + len(part)] = np.asarray(own)[: len(part)]
    return values, jacobians


@partial(jax.jit, static_argnums=0)
def _values_and_jacobians(operators: Operators, points: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    def one(w: Any) -> tuple[jax.Array, jax.Array]:
        values = operators.outputs(w, x, None)
        derivative = jax.jacrev if values.size <= w.size else jax.jacfwd
        return values, derivative(operators.outputs)(w, x, None)

    return jax.vmap(one)(points)


def _led_back(system: System, start: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, float]:
    """A displacement after Newton steps to the fiber, and its distance from it; infinite where phi is not finite."""
    delta = start.copy()
    try:
        rest = system.F(system.flat + delta) - level
        for _ in range(_STEPS):
            if np.linalg.norm(rest) <= _tolerance(level):
                break
            delta -= _least_change(system, system.flat + delta, rest)
            rest = system.F(system.flat + delta) - level
    except NonFiniteError:
        return delta, float("inf")
    return delta, float(np.linalg.norm(rest))


def _least_change(system: System, w: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The shortest v with J(w) v = `change`, nearly and as far as it can be reached, by products with J."""
    jacobian = LinearOperator(
        (system.num_residuals, system.num_params),
        matvec=lambda v: system.jvp(v, w),
        rmatvec=lambda z: system.vjp(z, w),
        dtype=np.float64,
    )
    tolerance, steps = _PRODUCTS
    return np.asarray(lsmr(jacobian, change, atol=tolerance, btol=tolerance, conlim=1 / _KERNEL, maxiter=steps)[0])
