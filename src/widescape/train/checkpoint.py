"""Checkpoints of training: arrays in a safetensors file, written whole or not at all."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from widescape.core.errors import CheckpointError
from widescape.core.files import replacing

FORMAT = "1"


def save(path: Path, arrays: dict[str, np.ndarray], fingerprint: str, facts: dict[str, Any]) -> None:
    """Write arrays with the fingerprint of their run and small facts, atomically."""
    metadata = {"format": FORMAT, "fingerprint": fingerprint, "facts": json.dumps(facts)}
    with replacing(path) as temporary:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary, metadata)


def load(path: Path, fingerprint: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: the file is damaged, or its fingerprint is another one.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no iterator of its own
        facts = json.loads(metadata.get("facts", "null"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}. Remove it to start anew.") from error
    if metadata.get("format") != FORMAT or facts is None:
        raise CheckpointError(f"{path} was not written by this version of widescape. Remove it to start anew.")
    if metadata["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} belongs to another run: its function, parameters, data, optimizer, batches or JAX version differ. "
            "Give another path, or remove it to start anew."
        )
    return arrays, facts


def as_numbers(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; random keys by their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def from_numbers(numbers: np.ndarray, like: Any) -> jax.Array:
    """The inverse of `as_numbers`, for a leaf of the same kind."""
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(numbers), impl=jax.random.key_impl(like))
    return jnp.asarray(numbers)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def fingerprint(program_text: str, *trees: Any) -> str:
    """SHA-256 of a program and of arrays: runs that share it take the same steps."""
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", program_text).encode())
    digest.update(jax.__version__.encode())
    for leaf in jax.tree.leaves(trees):
        array = as_numbers(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
