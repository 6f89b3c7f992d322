"""Random keys by name: a key for each purpose, the same in every process and on every platform."""

import hashlib
import json

import jax


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
