"""Arithmetic on PyTrees of arrays, leaf by leaf."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp


def add(a: Any, b: Any) -> Any:
    """A + b."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: Any, b: Any) -> Any:
    """A - b."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(factor: Any, tree: Any) -> Any:
    """Factor * tree."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def dot(a: Any, b: Any) -> jax.Array:
    """The inner product: the sum over leaves and entries of a * b."""
    products = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))
    return reduce(jnp.add, products) if products else jnp.zeros(())


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all entries together."""
    return jnp.sqrt(dot(tree, tree))


def size(tree: Any) -> int:
    """The number of entries of all leaves."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
