"""Starts of searches for critical points: iterates of descent, drawn uniformly in the loss and not in time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, NonFiniteError, PrecisionError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.operators import Operators
from widescape.landscape.descent import DescentStatus, gradient_descent
from widescape.landscape.minima.in_float64 import loss_in_float64


class StartsStatus(Status):
    """How the descent that supplied the starts ended."""

    OK = "All steps were taken."
    DIVERGED = "Descent diverged; the starts are iterates of at most the initial loss. Lower `lr`."


class LossUniformStarts(Result):
    """Iterates of gradient descent, drawn uniformly in the loss, half of them moved by noise.

    Iterating over it gives each as a PyTree; its length is their number.
    """

    source = "frye2019critical"
    status: StartsStatus = quantity(EXACT, "how descent ended")
    w: np.ndarray = quantity(EXACT, "the starts as flat parameters (num, p)")
    loss: np.ndarray = quantity(EXACT, "loss of the iterates, before noise (num,)")
    steps: np.ndarray = quantity(EXACT, "steps of descent that led to each (num,)")
    noisy: np.ndarray = quantity(EXACT, "whether noise was added to it (num,)")

    def __len__(self) -> int:
        return len(self.w)

    def __iter__(self) -> Iterator[Any]:
        unravel: Callable[[Any], Any] = getattr(self, "_unravel", np.asarray)
        return (unravel(row) for row in self.w)


def loss_uniform_starts(
    L: System | Callable[[Any], Any],  # noqa: N803
    params: Any = None,
    *,
    num: int,
    lr: float,
    steps: int,
    noise: float = 0.01,
    key: jax.Array | None = None,
    progress: bool | None = None,
    allow_float32: bool = False,
) -> LossUniformStarts:
    """Starts for `find_critical_points` at all heights: iterates of gradient descent, uniform in their loss.

    Each is the iterate whose loss is nearest to a number drawn uniformly between the least and the greatest loss on
    the way; where descent diverges, among the iterates whose loss is at most the initial one. Uniformly in time nearly
    all would lie where descent ended, near critical points of low index. Every other one is moved by independent
    Gaussians of standard deviation `noise`, which leaves what descent preserves.

    Args:
        L: the loss: a `System`, or a function of the parameters alone.
        params: where descent starts; None for a system's own parameters.
        num: how many.
        lr: learning rate.
        steps: of descent.
        noise: standard deviation of the noise, in every parameter; 0 for none.
        key: of losses and noise; None for ``jax.random.key(0)``.
        progress: show a progress bar; None shows it on a terminal.
        allow_float32: start from parameters of single precision, and from functions that compute in it.

    Returns:
        a `LossUniformStarts`, in the order of the draws. An iterate may be among them more than once.

    Raises:
        PrecisionError: single precision, unless it is allowed.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the loss is NaN or infinite at the start.

    Cost: twice `steps` gradients, for iterates are made again rather than kept.

    Example:
        >>> found = loss_uniform_starts(lambda w: (w**2).sum(), np.array([1.0]), num=3, lr=0.1, steps=50, noise=0.0)
        >>> len(found), bool(np.allclose(found.w[:, 0], 0.8**found.steps)), found.noisy.tolist()
        (3, True, [False, True, False])
    """
    checks.count(num, "num", "loss_uniform_starts")
    checks.count(steps, "steps", "loss_uniform_starts")
    spread = checks.number(noise, "noise", "loss_uniform_starts")
    checks.not_negative(spread, "noise", "loss_uniform_starts")
    system = loss_in_float64(L, params, "loss_uniform_starts", allow_float32=allow_float32)
    run = gradient_descent(system, lr, steps, progress=progress)
    generator = named_generator(key, "loss_uniform_starts")
    diverged = run.status is DescentStatus.DIVERGED
    usable = np.flatnonzero(run.loss <= run.loss[0]) if diverged else np.arange(len(run.loss))
    losses = run.loss[usable]
    wanted = generator.uniform(losses.min(), losses.max(), num)
    chosen = usable[np.abs(losses[None] - wanted[:, None]).argmin(axis=1)]
    w = _iterates(system, run.lr, chosen)
    noisy = np.arange(num) % 2 == 1
    w[noisy] += spread * generator.normal(size=(int(noisy.sum()), w.shape[1]))
    starts = LossUniformStarts(
        status=StartsStatus.DIVERGED if diverged else StartsStatus.OK,
        w=w,
        loss=run.loss[chosen],
        steps=chosen,
        noisy=noisy,
    )
    object.__setattr__(starts, "_unravel", system.unravel)
    return starts


def started(L: Any, starts: Sequence[Any], allow_float32: bool) -> tuple[System, np.ndarray]:  # noqa: N803
    """The loss as a system in float64, and all starts as rows."""
    own = [_doubles(start, i, allow_float32) for i, start in enumerate(_listed(L, starts))]
    rows: list[np.ndarray] = []
    for i, start in enumerate(own):
        try:
            if i == 0:
                system = loss_in_float64(L, start, "find_critical_points", allow_float32=allow_float32)
            rows.append(system.vector(start))
        except (ShapeError, DtypeError, ValueError) as error:
            kind = next(kind for kind in (ShapeError, DtypeError, ValueError) if isinstance(error, kind))
            raise kind(f"start {i} does not fit: {error}") from error
    return system, np.stack(rows)


def _listed(L: Any, starts: Any) -> list[Any]:  # noqa: N803
    """The starts one by one, those in a stacked PyTree too."""
    leaves, structure = jax.tree.flatten(starts)
    sizes = {np.shape(leaf)[:1] for leaf in leaves}
    stacked = len(sizes) == 1 and sizes.isdisjoint({(), (0,)})
    if isinstance(L, System):
        rest = tuple(np.shape(leaf)[1:] for leaf in leaves)
        stacked = stacked and structure == L.operators.structure and rest == L.operators.shapes
    else:
        stacked = stacked and isinstance(starts, dict) and any(np.ndim(leaf) > 1 for leaf in leaves)
    if stacked:
        return [jax.tree.unflatten(structure, [leaf[i] for leaf in leaves]) for i in range(sizes.pop()[0])]
    one = isinstance(starts, dict | str) or (hasattr(starts, "dtype") and np.ndim(starts) < 2)
    if one or not hasattr(starts, "__len__") or len(starts) == 0:
        shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves[:3])
        raise ValueError(
            f"`starts` is one {type(starts).__name__} of {len(leaves)} leaves{f', of shapes {shapes}' * bool(leaves)}"
            f"{', ...' * (len(leaves) > 3)}; give a list of at least one start, each like the parameters, or all of "
            "them stacked along a first axis."
        )
    return list(starts)


def _doubles(start: Any, place: int, allow_float32: bool) -> Any:
    """A start in float64, if its precision is double or need not be."""

    def low(leaf: Any) -> bool:
        dtype = getattr(leaf, "dtype", None)
        return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating)) and np.dtype(dtype).itemsize < 8

    found = [leaf.dtype for leaf in jax.tree.leaves(start) if low(leaf)]
    if found and not allow_float32:
        raise PrecisionError(
            f"find_critical_points works in float64, but start {place} holds {found[0]}; convert it with "
            "jax.tree.map(lambda a: np.asarray(a, np.float64), start), or pass `allow_float32=True` to search from "
            "these rounded values."
        )
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64) if low(leaf) else leaf, start)


def _iterates(system: System, lr: float, chosen: np.ndarray) -> np.ndarray:
    """The iterates of descent after these numbers of steps (num, p)."""
    w, step = system.flat, 0
    found = np.empty((len(chosen), w.size))
    for place in np.argsort(chosen, kind="stable").tolist():
        count = int(chosen[place]) - step
        if count:
            with double_scope(system.double):
                w = np.asarray(_advanced(system.operators, w, count, lr, *system.arrays))
            step += count
        found[place] = w
    if not np.isfinite(found).all():
        raise NonFiniteError("descent overflowed on the way to an iterate; lower `lr`.")
    return found


@partial(jax.jit, static_argnums=0)
def _advanced(operators: Operators, w: Any, count: Any, lr: Any, x: Any, y: Any) -> jax.Array:
    return jax.lax.fori_loop(0, count, lambda _, v: v - lr * operators.grad(v, x, y), w)
