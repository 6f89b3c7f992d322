"""The search for exponential neurons that lower a loss most: amplitudes by Newton's method, and directions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.precision import call_in_float64
from widescape.landscape.minima.losses import mean_loss

_REFINED = 8  # starts of each family that are refined for some steps
_FINALISTS = 8  # of them, that are refined to the end
_NEWTON_STEPS, _FIRST_STEPS, _REFINING_STEPS = 60, 20, 80
_SHORTENED = np.array([0.3, 0.1, 1e-2, 1e-3, 1e-5, 1e-8])
_DAMPINGS = np.array([1e-12, 1e-6, 1e-3, 1e-1, 1.0, 10.0, 100.0])  # of the curvature's largest eigenvalue
_LONGEST = 30.0  # step in w, for inputs of unit standard deviation
_BATCH, _AT_ONCE = 64, 16  # points, for evaluations and for second derivatives

Loss = Callable[[Any, Any], jax.Array]
_Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # losses (n,), amplitudes (n, q) and directions (n, q, d)


class Data(NamedTuple):
    """Inputs (m, d) centered and of unit standard deviation, targets, and a drop that is rounding."""

    X: Any
    y: Any
    noise: Any


def least(
    loss: Loss, base: np.ndarray, members: np.ndarray, data: Data, families: list[np.ndarray]
) -> tuple[float, np.ndarray, np.ndarray]:
    """The least loss over the neurons of outputs `members`: it, their amplitudes (q,) and directions (q, d).

    The best of each family of starts (n, d) or (n, q, d) are refined by some steps, and the best of these to the end.
    """
    task = _Task(loss, base, members, data)
    pool = np.concatenate([family.reshape(len(family), len(members), -1) for family in families])
    values, c = _profile(task, pool, np.zeros(pool.shape[:2]))
    parts = np.split(np.arange(len(pool)), np.cumsum([len(family) for family in families])[:-1])
    best = np.concatenate([part[np.argsort(values[part], kind="stable")[:_REFINED]] for part in parts])
    some = _refined(task, (values[best], c[best], pool[best]), _FIRST_STEPS)
    distinct = np.unique(np.round(some[0] / (1e5 * data.noise + 1e-300)), return_index=True)[1][:_FINALISTS]
    final = _refined(task, (some[0][distinct], some[1][distinct], some[2][distinct]), _REFINING_STEPS)
    values, c, w = (np.concatenate(parts) for parts in zip(final, some, strict=True))
    i, before = int(np.argmin(values)), float(call_in_float64(mean_loss, loss, base, data.y))
    if not values[i] < before - data.noise:
        return before, np.zeros_like(c[i]), np.zeros_like(w[i])
    return float(values[i]), c[i], w[i]


class _Task(NamedTuple):
    """A search over the neurons of the outputs `members` (q,), added to `base` (m, c); n stands for points at once."""

    loss: Loss
    base: np.ndarray
    members: np.ndarray
    data: Data

    def exponentials(self, w: np.ndarray) -> np.ndarray:
        """exp(w . x) over its largest value, (n, m, q)."""
        exponents = np.moveaxis(w @ self.data.X.T, 1, 2)
        return np.exp(exponents - exponents.max(axis=1, keepdims=True))

    def values(self, added: np.ndarray) -> np.ndarray:
        """Mean losses (n,) where `added` (n, m, q) comes to the outputs; inf where they are not numbers."""
        (found,) = self._in_batches(_values, added)
        return np.where(np.isnan(found), np.inf, found)

    def derivatives(self, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First (n, m, q) and second (n, m, q, q) derivatives of each example's loss in these outputs."""
        first, second = self._in_batches(_derivatives, added)
        return first, second

    def _in_batches(self, program: Any, added: np.ndarray) -> list[np.ndarray]:
        """Always the same number of points at once: one program for any number."""
        n, found = len(added), []
        for first in range(0, n, _BATCH):
            part = added[np.minimum(np.arange(first, first + _BATCH), n - 1)]
            found.append(call_in_float64(program, self.loss, self.base, self.members, self.data.y, part))
        return [np.concatenate(parts)[:n] for parts in zip(*found, strict=True)]


@partial(jax.jit, static_argnums=0)
def _values(loss: Loss, base: Any, members: Any, y: Any, added: Any) -> tuple[jax.Array]:
    return (jax.vmap(lambda extra: mean_loss(loss, base.at[:, members].add(extra), y))(added),)


@partial(jax.jit, static_argnums=0)
def _derivatives(loss: Loss, base: Any, members: Any, y: Any, added: Any) -> tuple[jax.Array, jax.Array]:
    def both(own: Any, target: Any, extra: Any) -> tuple[jax.Array, jax.Array]:
        def slope(v: Any) -> jax.Array:
            return jax.grad(lambda u: jnp.sum(loss(own.at[members].add(u), target)))(v)

        return slope(extra), jax.jacfwd(slope)(extra)

    return jax.vmap(lambda extra: jax.vmap(both)(base, y, extra))(added)


def _profile(task: _Task, w: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least losses (n,) over amplitudes at directions w (n, q, d), by Newton steps from `start`, and where."""
    e, c = task.exponentials(w), start.copy()
    value = task.values(c[:, None] * e)
    largest, going = 10 * (1 + np.abs(task.base).max()), np.arange(len(w))
    for _ in range(_NEWTON_STEPS):
        own = e[going]
        slopes, curved = task.derivatives(c[going, None] * own)
        slope = (slopes * own).mean(axis=1)
        curvature = (curved * own[..., None] * own[:, :, None]).mean(axis=1)
        move = _solved(curvature, slope[..., None])[..., 0]
        limit = largest + np.abs(c[going]).max(axis=1, keepdims=True)
        move *= limit / np.maximum(np.abs(move).max(axis=1, keepdims=True), limit)
        ahead, values = _shortened(task, own, c[going], move, value[going])
        missed = np.abs(value[going] - values - (slope * move).sum(axis=1) / 2)  # by the quadratic model
        better = values < value[going]
        c[going[better]], value[going[better]] = ahead[better], values[better]
        going = going[better & (missed > task.data.noise / 100)]
        if len(going) == 0:
            break
    return value, c


def _shortened(
    task: _Task, e: np.ndarray, c: np.ndarray, move: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first of c - t move, t = 1, 0.3, ..., that lowers the loss, and the loss there."""
    ahead = c - move
    values = task.values(ahead[:, None] * e)
    for length in _SHORTENED:
        worse = np.flatnonzero(~(values < before))
        if len(worse) == 0:
            break
        trial = c[worse] - length * move[worse]
        found = task.values(trial[:, None] * e[worse])
        lower = found < values[worse]
        ahead[worse[lower]], values[worse[lower]] = trial[lower], found[lower]
    return ahead, values


def _refined(task: _Task, points: _Points, steps: int) -> _Points:
    """The losses (n,), amplitudes and directions that damped Newton steps in w reach from such points."""
    value, c, w = (part.copy() for part in points)
    going = np.arange(len(value))
    for _ in range(steps):
        parts = np.split(going, range(_AT_ONCE, len(going), _AT_ONCE))
        moves = np.concatenate([_moves(task, w[part], c[part]) for part in parts])
        trials = (w[going, None] + moves).reshape(-1, *w.shape[1:])
        values, amplitudes = _profile(task, trials, np.repeat(c[going], len(_DAMPINGS), axis=0))
        best = values.reshape(len(going), -1).argmin(axis=1) + np.arange(0, len(values), len(_DAMPINGS))
        won = value[going] - values[best]
        better = won > 0
        places, best = going[better], best[better]
        value[places], c[places], w[places] = values[best], amplitudes[best], trials[best]
        going = going[won > task.data.noise]
        if len(going) == 0:
            break
    return value, c, w


def _moves(task: _Task, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Newton steps (n, T, q, d) in w of the profile over c, with the curvature's absolute values and T dampings."""
    X, (n, q, d) = task.data.X, w.shape  # noqa: N806
    e, own = task.exponentials(w), np.eye(q)
    ce = c[:, None] * e
    slopes, curved = task.derivatives(ce)
    by_c = curved * e[..., None] * e[:, :, None]
    mixed = by_c * c[:, None, None] + own * (slopes * e)[..., None]
    outer = curved * ce[..., None] * ce[:, :, None] + own * (slopes * ce)[..., None]
    gradient = (np.moveaxis(slopes * ce, 1, 2) @ X).reshape(n, q * d) / len(X)
    by_cw = (np.moveaxis(mixed, 1, 3) @ X).reshape(n, q, q * d) / len(X)
    blocks = (np.moveaxis(outer, 1, 3)[..., None, :] * X.T) @ X / len(X)
    by_w = np.swapaxes(blocks, 2, 3).reshape(n, q * d, q * d)
    schur = by_w - np.swapaxes(by_cw, 1, 2) @ _solved(by_c.mean(axis=1), by_cw)
    sizes, vectors = np.linalg.eigh((schur + np.swapaxes(schur, 1, 2)) / 2)
    sizes = np.abs(sizes)[:, None]
    damped = sizes + _DAMPINGS[:, None] * sizes.max(axis=2, keepdims=True) + 1e-300
    steps = -(gradient[:, None] @ vectors) / damped
    steps *= _LONGEST / np.maximum(np.abs(steps).max(axis=2, keepdims=True), _LONGEST)
    return (steps @ np.swapaxes(vectors, 1, 2)).reshape(n, -1, q, d)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of a positive semidefinite system (n, q, q), whose eigenvalues are lifted above rounding."""
    if matrix.shape[-1] == 1:
        return right / np.maximum(matrix, 1e-200)
    sizes, vectors = np.linalg.eigh(matrix)
    sizes = np.maximum(sizes, 1e-10 * np.abs(sizes).max(axis=1, keepdims=True) + 1e-200)[..., None]
    return vectors @ ((np.swapaxes(vectors, 1, 2) @ right) / sizes)
