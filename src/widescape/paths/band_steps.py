"""One step of an elastic band: the tangents of a chain, the gradients across it, and the spacing of its pivots."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from widescape.curvature.operators import Operators


@dataclass(frozen=True)
class Whole:
    """The loss of a system on all its data."""

    operators: Operators

    def value(self, w: Any, data: Any) -> jax.Array:
        return self.operators.value(w, *data)

    def value_and_grad(self, w: Any, data: Any) -> tuple[jax.Array, jax.Array]:
        return self.operators.value_and_grad(w, *data)


@dataclass(frozen=True)
class OfBatch:
    """The loss of a batch, as a function of flat parameters."""

    loss: Callable[[Any, Any], Any]
    operators: Operators

    def value(self, w: Any, batch: Any) -> jax.Array:
        value = self.loss(self.operators.unravel(w), batch)
        if getattr(value, "size", None) != 1:
            raise TypeError(
                f"`loss` returns {value!r} for a batch; it must return one real number, as an array of JAX."
            )
        return jnp.reshape(value, ()).astype(w.dtype)

    def value_and_grad(self, w: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(self.value)(w, batch)


@partial(jax.jit, static_argnums=(0, 1))
def advance(loss: Whole | OfBatch, rigid: bool, state: Any, count: Any, shares: Any, numbers: Any, data: Any) -> Any:
    """At most `count` steps from (chain, velocity, last chain of finite losses, whether all is finite)."""

    def step(carry: Any) -> Any:
        t, (chain, velocity, known, _) = carry
        lr, momentum, decay, spring = numbers
        chain = respaced(chain, shares) if rigid else chain
        inner, gradients = jax.lax.map(lambda w: loss.value_and_grad(w, data), chain[1:-1])
        ends = jax.lax.map(lambda w: loss.value(w, data), chain[jnp.array([0, -1])])
        losses = jnp.concatenate([ends[:1], inner, ends[1:]])
        push = across(chain, losses, gradients + decay * chain[1:-1], shares, None if rigid else spring)
        velocity = momentum * velocity + push
        ahead = chain.at[1:-1].add(-lr * velocity)
        finite = jnp.isfinite(losses).all()
        return t + 1, (ahead, velocity, jnp.where(finite, chain, known), finite & jnp.isfinite(ahead).all())

    return jax.lax.while_loop(lambda carry: (carry[0] < count) & carry[1][3], step, (0, state))[1]


def respaced(chain: Any, shares: Any) -> jax.Array:
    """As many points of the same chain, with gaps of the given shares of its length; the ends stay."""
    gaps = _norms(chain[1:] - chain[:-1])
    reached = jnp.concatenate([jnp.zeros(1, chain.dtype), jnp.cumsum(gaps)])
    goals = jnp.cumsum(shares)[:-1] * reached[-1]
    at = jnp.clip(jnp.searchsorted(reached, goals, side="right") - 1, 0, len(gaps) - 1)
    part = jnp.clip((goals - reached[at]) / _nonzero(gaps[at]), 0, 1)[:, None]
    return jnp.concatenate([chain[:1], chain[at] + part * (chain[at + 1] - chain[at]), chain[-1:]])


respaced_alone = jax.jit(respaced)


def across(chain: Any, losses: Any, gradients: Any, shares: Any, spring: Any) -> jax.Array:
    """The gradients at the inner pivots without their part along the tangents, plus the force of the springs."""
    gaps = chain[1:] - chain[:-1]
    lengths = _norms(gaps)
    tangents = tangents_of(gaps / _nonzero(lengths)[:, None], losses)
    push = gradients - jnp.sum(gradients * tangents, axis=1, keepdims=True) * tangents
    if spring is None:
        return push
    stretch = lengths - shares * jnp.sum(lengths)
    return push + spring * (stretch[:-1] - stretch[1:])[:, None] * tangents


def tangents_of(units: Any, losses: Any) -> jax.Array:
    """The unit tangent at each inner pivot, from the units along the gaps and the losses of all pivots."""
    before, here, after = losses[:-2], losses[1:-1], losses[2:]
    down, up = jnp.abs(before - here), jnp.abs(after - here)
    large, small = jnp.maximum(down, up), jnp.minimum(down, up)
    flat = large == 0
    large, small = jnp.where(flat, 1.0, large), jnp.where(flat, 1.0, small)
    turns = (after - here) * (here - before) <= 0
    other = jnp.where(turns, small, 0.0)
    forward = jnp.where(after > before, large, other)
    backward = jnp.where(after > before, other, large)
    tangents = forward[:, None] * units[1:] + backward[:, None] * units[:-1]
    return tangents / _nonzero(_norms(tangents))[:, None]


def _norms(rows: Any) -> jax.Array:
    return jnp.sqrt(jnp.sum(rows**2, axis=1))


def _nonzero(sizes: Any) -> jax.Array:
    return jnp.where(sizes > 0, sizes, 1)
