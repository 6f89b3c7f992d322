"""The precision policy, and the one place that enters JAX's double-precision scope.

Kernels and certificates are computed in float64 whatever the process-wide flag says. Eager entry
points call `call_in_float64`, which opens the scope, runs, and hands back NumPy arrays, so nothing
of double precision leaks into code that did not ask for it. Values that are being traced (inside
`jax.jit`, `jax.grad`, ...) belong to somebody else's scope: they must be float64 already, which
`require_traced_float64` checks.

The scope is thread-local in JAX: enter it again in each thread, and never yield while inside.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import numpy as np

from widescape.core.errors import PrecisionError

T = TypeVar("T")


def is_traced(*trees: Any) -> bool:
    """Whether any leaf of `trees` is an abstract value of a JAX transformation."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def call_in_float64(function: Callable[..., T], *args: Any) -> T:
    """Run ``function(*args)`` with double precision enabled; arrays of the outcome become NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*args))


def double_scope(double: bool) -> AbstractContextManager[Any]:
    """A scope with double precision enabled, or the one we are in."""
    return jax.enable_x64(True) if double else nullcontext()


def has_float64(*trees: Any) -> bool:
    """Whether any leaf of `trees` is an array of doubles, so that the caller asked for float64."""
    return any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(trees))


def require_traced_float64(value: Any, name: str) -> None:
    """Refuse a traced array of less than double precision.

    Raises:
        PrecisionError: with the scope to open.
    """
    if isinstance(value, jax.core.Tracer) and value.dtype != np.float64:
        raise PrecisionError(
            f"`{name}` is traced as {value.dtype}, but kernels are computed in float64. Take the derivative, or "
            "jit, inside `with jax.enable_x64(True):` and pass float64 arrays."
        )
