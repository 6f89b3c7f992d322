"""A point at which something is certified: parameters in double precision, and functions of them as systems."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import PrecisionError
from widescape.curvature import System
from widescape.curvature.inspection import lower_floats
from widescape.curvature.request import hashable
from widescape.curvature.segment import as_system


def loss_in_float64(loss: Any, params: Any, owner: str, *, allow_float32: bool = False) -> System:
    """A loss (a `System`, or a function of the parameters that returns one number) as a system in float64 at `params`.

    Raises:
        PrecisionError: parameters or operations of less than double precision, unless they are allowed.
        TypeError: neither of the two, or a value that is not one number.
    """
    if isinstance(loss, System):
        system = loss if params is None else loss.starting_at(params)
        _require_double(() if system.double else system.operators.dtypes, owner, allow_float32)
        return _inspected(system.as_float64(), owner, allow_float32)
    return _inspected(as_system(loss, _doubles(params, owner, allow_float32)), owner, allow_float32)


def features_in_float64(phi: Any, params: Any, owner: str, *, allow_float32: bool = False) -> System:
    """A function of the parameters that returns an array as a system in float64, whose outputs (M,) are its entries.

    Raises:
        PrecisionError: parameters or operations of less than double precision, unless they are allowed.
        TypeError: no function.
    """
    if not callable(phi):
        raise TypeError(f"`phi` is {phi!r}; give a function of the parameters that returns an array.")
    own = _doubles(params, owner, allow_float32)
    with jax.enable_x64(True):
        size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(jax.eval_shape(phi, own)))
    system = System(Flattened(hashable(phi)), own, np.zeros(max(size, 1)), mixes_examples=True)
    return _inspected(system, owner, allow_float32)


class Flattened:
    """A function of the parameters as a function of (params, x) that returns all entries of its output, (M,)."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, params: Any, x: Any) -> jax.Array:
        parts = [jnp.reshape(jnp.asarray(leaf), -1) for leaf in jax.tree.leaves(self.function(params))]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flattened) and self.function == other.function

    def __hash__(self) -> int:
        return hash((Flattened, self.function))


def _doubles(params: Any, owner: str, allow_float32: bool) -> Any:
    _require_double([np.asarray(leaf).dtype for leaf in jax.tree.leaves(params)], owner, allow_float32)
    return jax.tree.map(lambda leaf: _double(np.asarray(leaf)), params)


def _double(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _require_double(dtypes: Sequence[Any], owner: str, allow_float32: bool) -> None:
    low = sorted({str(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 8})
    if low and not allow_float32:
        raise PrecisionError(
            f"{owner} works in float64, but the parameters are {' and '.join(low)}; convert them with "
            "jax.tree.map(lambda a: np.asarray(a, np.float64), params), or pass `allow_float32=True` to start from "
            "these rounded values."
        )


def _inspected(system: System, owner: str, allow_float32: bool) -> System:
    found = () if allow_float32 else lower_floats(system)
    if found:
        raise PrecisionError(
            f"{owner} works in float64, but the function computes in less inside ({', '.join(found[:3])}); pass double "
            "arrays where it captures some, or `allow_float32=True` to accept the rounding."
        )
    return system
