"""Random keys by name: a key for each purpose, the same in every process and on every platform."""

import hashlib
import json

import jax
import numpy as np


def named_key(key: jax.Array, *names: str | int) -> jax.Array:
    """The key that belongs to ``names`` under `key`.

    Names are hashed with SHA-256, so the outcome depends neither on the order in which keys are
    asked for nor on the process (unlike `hash`).

    Example:
        >>> root = jax.random.key(0)
        >>> a, b = named_key(root, "weights", 0), named_key(root, "weights", 1)
        >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
        False
    """
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "big"))
    return key


def named_generator(key: jax.Array | None, *names: str | int) -> np.random.Generator:
    """Random numbers on the host for ``names`` under `key`, the same on every platform; None is ``jax.random.key(0)``.

    For vectors that a program draws one by one in NumPy: nothing is compiled, and double precision needs no scope.

    Example:
        >>> one, other = named_generator(None, "start"), named_generator(jax.random.key(0), "start")
        >>> int(one.integers(100)) == int(other.integers(100))
        True
    """
    root = jax.random.key(0) if key is None else key
    return np.random.default_rng(np.asarray(jax.random.key_data(named_key(root, *names))))
