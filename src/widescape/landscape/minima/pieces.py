"""Descent on a modified objective in compiled pieces, one run or many: steps, records, and how it ends on overflow."""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import checks
from widescape.core.precision import call_in_float64
from widescape.core.progress import track
from widescape.landscape.minima.verdicts import Measured
from widescape.train.loop import as_optimizer

_RECORDS = 200  # about as many rows as a run has by default
_PROBES = 64  # updates at zero gradient that show a decay, also after a warm-up from zero or where steps are gathered


class Objective(Protocol):
    """What is minimized over variables of which one is ``theta``; hashable."""

    def both(self, q: Any, *data: Any) -> tuple[jax.Array, jax.Array]:
        """The objective, and L(theta)."""

    def measured(self, q: Any, *data: Any) -> Measured:
        """The numbers of a record."""


class State(NamedTuple):
    """A run in progress.

    Attributes:
        q: variables.
        optimizer: the optimizer's state.
        good: the last variables at which objective and gradient were finite.
        best: theta of the least L(theta) so far, and that loss.
        alive: whether all numbers were finite so far; a run that is not alive stays where it is.
    """

    q: Any
    optimizer: Any
    good: Any
    best: Any
    best_loss: Any
    alive: Any


class Finished(NamedTuple):
    """A run that ended: its last finite variables, the best parameters, and the records."""

    q: Any
    best: Any
    best_loss: float
    steps: np.ndarray
    history: Measured
    overflowed: bool


def run(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    start: Any,
    data: tuple[Any, ...],
    *,
    steps: int,
    every: int,
    progress: bool | None,
) -> Finished:
    """Take the steps, with a record before the first, every so many, and after the last."""
    state: State = call_in_float64(partial(_begun, optimizer), start)
    rows: list[tuple[int, Measured]] = []
    overflowed = False
    for at in track(marks(steps, every), "training with added variables", show=progress):
        taken = at - rows[-1][0] if rows else 0
        state = call_in_float64(_advance, objective, optimizer, state, data, taken)
        row: Measured = call_in_float64(_measured, objective, state.q, data)
        overflowed = not (bool(state.alive) and row.finite)
        if not overflowed:
            rows.append((at, row))
        elif rows:
            break
        else:  # the start itself: one step finds L(theta), which may be finite
            state = call_in_float64(_advance, objective, optimizer, state, data, 1)
            rows.append((at, row))
            break
    if not overflowed and rows[-1][1].loss < state.best_loss:
        state = state._replace(best=state.q["theta"], best_loss=rows[-1][1].loss)
    kept = Measured.stacked([row for _, row in rows])
    seen = slice(0, 0) if overflowed and not kept.row(0).finite else slice(None)
    return Finished(
        q=state.good if overflowed else state.q,
        best=state.best,
        best_loss=float(state.best_loss),
        steps=np.asarray([at for at, _ in rows])[seen],
        history=kept.row(seen),
        overflowed=overflowed,
    )


def run_many(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    starts: Any,
    data: tuple[Any, ...],
    *,
    steps: int,
    every: int,
    progress: bool | None,
) -> tuple[Measured, np.ndarray]:
    """Records (T, S, ...) of S runs, and which overflowed (S,): these stay at their last finite record.

    Raises:
        ValueError: a start at which the objective is NaN or infinite.
    """
    states: State = call_in_float64(_begun_many, optimizer, starts)
    rows: list[Measured] = []
    overflowed, before = np.zeros(len(states.alive), bool), 0
    for at in track(marks(steps, every), "many runs of training", show=progress):
        states = call_in_float64(_advance_many, objective, optimizer, states, data, at - before)
        row: Measured = call_in_float64(_measure_many, objective, states.q, data)
        overflowed = overflowed | ~states.alive | ~_finite(row)
        if overflowed.any() and not rows:
            raise ValueError(
                f"the loss at start {int(overflowed.argmax())} is NaN or infinite; leave that start out, or scale it."
            )
        rows.append(_replaced(row, rows[-1], overflowed) if overflowed.any() else row)
        before = at
    return Measured.stacked(rows), overflowed


def marks(steps: int, every: int) -> list[int]:
    """The steps at which there is a record."""
    return [*range(0, steps, every), steps]


def _step(objective: Objective, optimizer: optax.GradientTransformation, state: State, data: tuple[Any, ...]) -> State:
    """One step; traceable."""
    (value, loss), gradient = jax.value_and_grad(objective.both, has_aux=True)(state.q, *data)
    leaves = jax.tree.leaves(gradient)
    alive = state.alive & jnp.isfinite(value) & jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
    better = state.alive & (loss < state.best_loss)

    def objective_of(q: Any) -> jax.Array:
        return objective.both(q, *data)[0]

    updates, own = optax.with_extra_args_support(optimizer).update(
        gradient, state.optimizer, state.q, value=value, grad=gradient, value_fn=objective_of
    )
    moved = optax.apply_updates(state.q, updates)
    return State(
        q=_chosen(alive, moved, state.q),
        optimizer=_chosen(alive, own, state.optimizer),
        good=_chosen(alive, state.q, state.good),
        best=_chosen(better, state.q["theta"], state.best),
        best_loss=jnp.where(better, loss, state.best_loss),
        alive=alive,
    )


@partial(jax.jit, static_argnums=(0, 1))
def _advance(objective: Objective, optimizer: Any, state: State, data: tuple[Any, ...], count: Any) -> State:
    """So many steps, in one program for any number of them."""
    return jax.lax.fori_loop(0, count, lambda _, s: _step(objective, optimizer, s, data), state)


@partial(jax.jit, static_argnums=(0, 1))
def _advance_many(objective: Objective, optimizer: Any, states: State, data: tuple[Any, ...], count: Any) -> State:
    """So many steps of each of several runs, whose states lie along the first axis."""

    def each(_: Any, now: State) -> State:
        return jax.vmap(lambda s: _step(objective, optimizer, s, data))(now)

    return jax.lax.fori_loop(0, count, each, states)


@partial(jax.jit, static_argnums=0)
def _begun_many(optimizer: Any, starts: Any) -> State:
    """The states of several runs, whose variables lie along the first axis."""
    return jax.vmap(partial(_begun, optimizer))(starts)


@partial(jax.jit, static_argnums=0)
def _measure_many(objective: Objective, qs: Any, data: tuple[Any, ...]) -> Measured:
    """The records of several runs, along the first axis."""
    return jax.vmap(lambda q: objective.measured(q, *data))(qs)


def checked_run(opt: Any, steps: Any, every: Any, owner: str) -> tuple[optax.GradientTransformation, int, int]:
    """Optimizer, steps, and steps between records.

    Raises:
        TypeError, ValueError: arguments that do not fit.
    """
    checks.count(steps, "steps", owner)
    if every is None:
        every = max(1, int(steps) // _RECORDS)
    checks.count(every, "every", owner)
    return as_optimizer(opt), int(steps), int(every)


def refuse_decay(optimizer: optax.GradientTransformation, start: Any, names: tuple[str, ...]) -> None:
    """Refuse an optimizer that moves added variables within 64 updates at zero gradient.

    What a schedule brings after them is not seen.

    Raises:
        ValueError: it does, as with weight decay or noise, or its updates there are NaN or infinite.
    """
    updates = call_in_float64(_probed, optimizer, start, names)
    if not all(np.isfinite(updates[name]).all() for name in names):
        raise ValueError(
            "`opt` cannot be probed for weight decay: its updates at zero gradient are NaN or infinite; take an "
            "optimizer that leaves variables where they are there."
        )
    moved = [name for name in names if not (np.asarray(updates[name]) == 0).all()]
    if moved:
        raise ValueError(
            f"`opt` moves {', '.join(moved)} at zero gradient, as weight decay or noise does: then bad local minima "
            "come back. Decay theta alone, for instance with optax.masked, or nothing."
        )


@partial(jax.jit, static_argnums=(0, 2))
def _probed(optimizer: Any, start: Any, names: tuple[str, ...]) -> Any:
    """The sum of the sizes of several updates at zero gradient, where no added variable is zero."""
    q = {name: jnp.ones_like(leaf) if name in names else leaf for name, leaf in start.items()}
    zeros = jax.tree.map(jnp.zeros_like, q)
    own = optax.with_extra_args_support(optimizer)

    def update(_: Any, now: tuple[Any, Any]) -> tuple[Any, Any]:
        updates, after = own.update(zeros, now[0], q, value=jnp.zeros(()), grad=zeros, value_fn=_nothing)
        return after, jax.tree.map(lambda t, u: t + jnp.abs(u), now[1], updates)

    total = jax.lax.fori_loop(0, _PROBES, update, (own.init(q), zeros))[1]
    return {name: total[name] for name in names}


def _nothing(q: Any) -> jax.Array:
    return 0.0 * optax.tree.sum(q)


@partial(jax.jit, static_argnums=0)
def _measured(objective: Objective, q: Any, data: tuple[Any, ...]) -> Measured:
    return objective.measured(q, *data)


def _begun(optimizer: optax.GradientTransformation, start: Any) -> State:
    q = jax.tree.map(jnp.asarray, start)
    return State(q, optimizer.init(q), q, q["theta"], jnp.asarray(jnp.inf), jnp.asarray(True))


def _chosen(condition: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _finite(row: Measured) -> np.ndarray:
    parts = [np.isfinite(values).reshape(len(values), -1).all(axis=1) for values in row if values is not None]
    return np.asarray(np.all(parts, axis=0))


def _replaced(row: Measured, last: Measured, bad: np.ndarray) -> Measured:
    """A record with the entries of some runs taken from the one before."""
    chosen = [
        None if new is None else np.where(bad.reshape(-1, *[1] * (np.ndim(new) - 1)), old, new)
        for new, old in zip(row, last, strict=True)
    ]
    return Measured(*chosen)
