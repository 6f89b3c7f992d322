"""The compiled training loop, for one network and, mapped over members, for many."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import checks, tree
from widescape.curvature.operators import Loss, losses_of
from widescape.curvature.system import Reduction
from widescape.train.expansion import center, linearize
from widescape.train.interventions import penalized


@dataclass(frozen=True)
class Program:
    """What is trained and how; static to JAX.

    Attributes:
        f: maps (params, x) to outputs.
        loss: of one example.
        reduction: sum or mean over examples.
        optimizer: an optax transformation.
        batch_size: examples per step; None for all.
        linearized: whether `f` is replaced by its linearization where training starts.
        centered: whether its outputs where training starts are subtracted.
    """

    f: Callable[[Any, Any], Any]
    loss: Loss
    reduction: Reduction
    optimizer: optax.GradientTransformation
    batch_size: int | None = None
    linearized: bool = False
    centered: bool = False

    def outputs(self, params: Any, start: Any, x: Any) -> jax.Array:
        """What is trained: `f`, or what was made of it."""
        f = linearize(self.f, start) if self.linearized else self.f
        result: jax.Array = (center(f, start) if self.centered else f)(params, x)
        return result

    def value(self, params: Any, start: Any, x: Any, y: Any) -> jax.Array:
        """The loss on all given examples."""
        return self.batch_value(params, start, x, y, jax.tree.leaves(x)[0].shape[0])

    def batch_value(self, params: Any, start: Any, x: Any, y: Any, total: int) -> jax.Array:
        """The loss on a batch, scaled to estimate that on `total` examples."""
        losses = losses_of(self.loss, self.outputs(params, start, x), y)
        return jnp.mean(losses) * (total if self.reduction == "sum" else 1)


class Pull(NamedTuple):
    """A quadratic penalty: the factor of each leaf and the point it pulls to. Empty trees for none."""

    factors: Any
    towards: Any


class State(NamedTuple):
    """Where training stands after some steps."""

    params: Any
    optimizer: Any


def step_gradient(program: Program, pull: Pull, params: Any, start: Any, x: Any, y: Any, total: int) -> Any:
    """The gradient of the penalized loss of a batch, scaled to estimate that of all examples."""

    def objective(p: Any) -> jax.Array:
        value = program.batch_value(p, start, x, y, total)
        return value if not jax.tree.leaves(pull.factors) else value + penalized(pull.factors, p, pull.towards)

    return jax.grad(objective)(params)


def steps_between(
    program: Program, state: State, start: Any, pull: Pull, key: jax.Array, x: Any, y: Any, first: Any, last: Any
) -> State:
    """Take the steps `first` to `last`. Where a run is cut into such pieces does not change its outcome."""
    total = jax.tree.leaves(x)[0].shape[0]
    size = total if program.batch_size is None else program.batch_size
    per_epoch = total // size

    def order(step: Any) -> jax.Array:
        return jax.random.permutation(jax.random.fold_in(key, step // per_epoch), total)

    def take(step: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, places = carry
        if size == total:
            batch_x, batch_y = x, y
        else:
            places = jax.lax.cond(step % per_epoch == 0, order, lambda _: places, step)
            own = jax.lax.dynamic_slice(places, [step % per_epoch * size], [size])
            batch_x, batch_y = jax.tree.map(lambda leaf: leaf[own], x), y[own]
        gradient = step_gradient(program, pull, state.params, start, batch_x, batch_y, total)
        updates, optimizer = program.optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer), places

    places = jnp.zeros(0, jnp.int32) if size == total else order(first)
    return jax.lax.fori_loop(first, last, take, (state, places))[0]


advance = jax.jit(steps_between, static_argnums=(0,))


class Measured(NamedTuple):
    """What is recorded of one network, as numbers."""

    loss: Any
    gradient_norm: Any
    distance: Any
    validation_loss: Any


def measured(program: Program, params: Any, start: Any, x: Any, y: Any, held_out: Any) -> Measured:
    """The loss without penalty, its gradient's norm, how far parameters moved, and the loss on held-out examples."""
    value, gradient = jax.value_and_grad(program.value)(params, start, x, y)
    validation = jnp.nan if held_out is None else program.value(params, start, *held_out)
    return Measured(value, tree.norm(gradient), relative_distance(params, start), validation)


def relative_distance(params: Any, start: Any) -> jax.Array:
    """|w - w_0| / |w_0|, or |w| where all parameters start at zero."""
    length = tree.norm(start)
    return tree.norm(tree.subtract(params, start)) / jnp.where(length > 0, length, 1.0)


measure = jax.jit(measured, static_argnums=(0,))


def pull_of(penalty: Any, params: Any) -> Pull:
    """The penalty's factors and target for these parameters; empty without a penalty."""
    if penalty is None or penalty.strength == 0:
        return Pull((), ())
    factors = jax.tree.map(lambda k, w: jnp.asarray(k, jnp.result_type(w)), penalty.factors(params), params)
    return Pull(factors, params if penalty.to_start else jax.tree.map(jnp.zeros_like, params))


def as_optimizer(optimizer: Any) -> optax.GradientTransformation:
    """An optax transformation; a number becomes gradient descent at that rate."""
    if np.ndim(optimizer) == 0 and isinstance(optimizer, int | float | np.number | np.ndarray | jax.Array):
        rate = checks.number(optimizer, "optimizer", "training")
        checks.not_negative(rate, "optimizer", "training")
        return _descent(rate)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"`optimizer` is {optimizer!r}; give an optax transformation, or a learning rate.")
    return optimizer


@lru_cache(maxsize=64)
def _descent(rate: float) -> optax.GradientTransformation:
    """Gradient descent: one object for each rate, so that runs share their compiled program."""
    return optax.sgd(rate)


def record_grid(steps: int, per_decade: int = 8) -> list[int]:
    """Steps up to `steps` at which history is recorded, whatever the last one is: 0, and a few per factor of ten."""
    grid = {0}
    k = 0
    while (step := round(10 ** (k / per_decade))) <= steps:
        grid.add(step)
        k += 1
    return sorted(grid)


def record_steps(steps: int) -> list[int]:
    """The grid and the last step."""
    return sorted({*record_grid(steps), steps})
