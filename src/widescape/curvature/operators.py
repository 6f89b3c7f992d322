"""What is computed from a function, data and a loss: pure functions of flat vectors, shared by all systems alike.

`Operators` is static to JAX: two systems with the same function, loss and shapes share their compiled programs.
Data are arguments and not constants of the programs, so they are held once and never embedded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

PerExampleLoss = Callable[[jax.Array, jax.Array], jax.Array]
Loss = Literal["square", "cross_entropy"] | PerExampleLoss
Piece = Callable[[Any], Any]


@dataclass(frozen=True)
class Operators:
    """A function with its loss, as operators on flat parameters w (p,) and data (x, y).

    Attributes:
        f: maps (params, x) to outputs (n,) or (n, c).
        loss: of one example.
        weight: of an example in the loss: 1, or 1/n for a mean.
        structure, shapes, dtypes: of the parameters.
        chunk: examples that are worked on at a time; None for all.
    """

    f: Callable[[Any, Any], Any]
    loss: Loss
    weight: float
    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    chunk: int | None = None

    def unravel(self, w: Any) -> Any:
        """The PyTree of parameters that the flat vector stands for."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + math.prod(shape)
            leaves.append(w[start:stop].reshape(shape).astype(dtype))
            start = stop
        return jax.tree.unflatten(self.structure, leaves)

    def outputs(self, w: Any, x: Any, y: Any) -> jax.Array:
        return self._stacked(lambda part: self._of(w, part), x)

    def residual(self, w: Any, x: Any, y: Any) -> jax.Array:
        return ((self.outputs(w, x, y) - y) * self.weight**0.5).reshape(-1)

    def value(self, w: Any, x: Any, y: Any) -> jax.Array:
        return self._summed(lambda part: self._part_loss(w, *part), (x, y))

    def losses(self, w: Any, x: Any, y: Any) -> jax.Array:
        """The unweighted loss of each example (n,)."""
        return self._stacked(lambda part: losses_of(self.loss, self._of(w, part[0]), part[1]), (x, y))

    def grad(self, w: Any, x: Any, y: Any) -> jax.Array:
        return self._summed(lambda part: jax.grad(self._part_loss)(w, *part), (x, y))

    def value_and_grad(self, w: Any, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
        return self._summed(lambda part: jax.value_and_grad(self._part_loss)(w, *part), (x, y))

    def output_curvature(self, w: Any, x: Any, y: Any) -> jax.Array:
        def one(output: jax.Array, target: Any) -> jax.Array:
            def own(entries: jax.Array) -> jax.Array:
                return losses_of(self.loss, entries.reshape(1, *output.shape), jnp.asarray(target)[None])[0]

            return jnp.linalg.eigvalsh(jax.hessian(own)(output.reshape(-1)))[-1]

        return jax.vmap(one)(self.outputs(w, x, y), y)

    def jvp(self, w: Any, x: Any, y: Any, v: Any) -> jax.Array:
        return self._stacked(lambda part: jax.jvp(partial(self._of, x=part), (w,), (v,))[1], x)

    def vjp(self, w: Any, x: Any, y: Any, z: Any) -> jax.Array:
        def pulled(part: Any) -> jax.Array:
            outputs, pull = jax.vjp(partial(self._of, x=part[0]), w)
            return pull(part[1].reshape(outputs.shape).astype(outputs.dtype))[0]

        return self._summed(pulled, (x, z.reshape(_length(x), -1)))

    def jacobian(self, w: Any, x: Any, y: Any) -> jax.Array:
        """The derivative of the outputs in w, (n, p) or (n, c, p), one example at a time."""

        def rows(example: Any) -> jax.Array:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            return jax.jacrev(lambda p: self._of(p, alone)[0])(w)

        return self._stacked(jax.vmap(rows), x)

    def batch_jacobian(self, w: Any, x: Any, y: Any) -> jax.Array:
        """The same for a function that mixes examples."""
        return jax.jacrev(self._of)(w, x)

    def kernel_mv(self, w: Any, x: Any, y: Any, z: Any) -> jax.Array:
        return self.weight * self.jvp(w, x, y, self.vjp(w, x, y, z)).reshape(-1)

    def hvp(self, w: Any, x: Any, y: Any, v: Any) -> jax.Array:
        def product(part: Any) -> jax.Array:
            return jax.jvp(lambda p: jax.grad(self._part_loss)(p, *part), (w,), (v,))[1]

        return self._summed(product, (x, y))

    def ggn_mv(self, w: Any, x: Any, y: Any, v: Any) -> jax.Array:
        def product(part: Any) -> jax.Array:
            outputs, push = jax.linearize(partial(self._of, x=part[0]), w)
            pull = jax.linear_transpose(push, w)
            slope = jax.grad(lambda out: self.weight * jnp.sum(losses_of(self.loss, out, part[1])))
            curved = jax.jvp(slope, (outputs,), (push(v),))[1]
            return pull(curved)[0]

        return self._summed(product, (x, y))

    def second_derivative(self, w: Any, x: Any, y: Any, u: Any, v: Any) -> jax.Array:
        def curved(part: Any) -> jax.Array:
            def along(p: Any) -> jax.Array:
                return jax.jvp(partial(self._of, x=part), (p,), (u,))[1]

            return jax.jvp(along, (w,), (v,))[1]

        return self._stacked(curved, x)

    def second_adjoint(self, w: Any, x: Any, y: Any, z: Any, u: Any) -> jax.Array:
        def product(part: Any) -> jax.Array:
            def pulled(p: Any) -> jax.Array:
                outputs, pull = jax.vjp(partial(self._of, x=part[0]), p)
                return pull(part[1].reshape(outputs.shape).astype(outputs.dtype))[0]

            return jax.jvp(pulled, (w,), (u,))[1]

        return self._summed(product, (x, z.reshape(_length(x), -1)))

    def _of(self, w: Any, x: Any) -> jax.Array:
        return self.f(self.unravel(w), x)

    def _part_loss(self, w: Any, x: Any, y: Any) -> jax.Array:
        return self.weight * jnp.sum(losses_of(self.loss, self._of(w, x), y))

    def _summed(self, piece: Piece, data: Any) -> Any:
        """The sum of `piece` over chunks of the examples."""
        whole, rest = self._cut(data)
        if whole is None:
            return piece(rest)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, piece(part)), None

        shape = jax.eval_shape(piece, jax.tree.map(lambda leaf: leaf[0], whole))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        total = jax.lax.scan(add, zero, whole)[0]
        return total if rest is None else jax.tree.map(jnp.add, total, piece(rest))

    def _stacked(self, piece: Piece, data: Any) -> jax.Array:
        """What `piece` says of each example, in their order."""
        whole, rest = self._cut(data)
        if whole is None:
            return piece(rest)
        stacked = jax.lax.map(piece, whole)
        stacked = stacked.reshape(-1, *stacked.shape[2:])
        return stacked if rest is None else jnp.concatenate([stacked, piece(rest)])

    def _cut(self, data: Any) -> tuple[Any, Any]:
        """Chunks of equal length, stacked, and the examples that remain; either may be None."""
        n = _length(data)
        if self.chunk is None or self.chunk >= n:
            return None, data
        count = n // self.chunk
        end = count * self.chunk
        whole = jax.tree.map(lambda leaf: leaf[:end].reshape(count, self.chunk, *leaf.shape[1:]), data)
        return whole, None if end == n else jax.tree.map(lambda leaf: leaf[end:], data)


@partial(jax.jit, static_argnums=(0, 1))
def evaluate(operators: Operators, name: str, w: Any, x: Any, y: Any, *args: Any) -> Any:
    """One operator by name, compiled once for all systems that share it."""
    return getattr(operators, name)(w, x, y, *args)


def losses_of(loss: Loss, outputs: jax.Array, y: Any) -> jax.Array:
    """The loss of each example (n,): half the squared distance to its target, cross entropy, or a function's."""
    if loss == "square":
        return jnp.sum((outputs - y).reshape(len(outputs), -1) ** 2, axis=1) / 2
    per_example: Any = _cross_entropy if loss == "cross_entropy" else loss
    losses: jax.Array = jax.vmap(per_example)(outputs, y)
    return losses


def _cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits) - logits[label]


def _length(data: Any) -> int:
    return int(jax.tree.leaves(data)[0].shape[0])
