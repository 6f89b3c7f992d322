"""Arguments of training with added variables, checked: parameters, data, and the weight of the penalty."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError
from widescape.curvature import System


def positive_weight(lam: Any, owner: str) -> float:
    """The weight of the penalty as a float.

    Raises:
        TypeError, ValueError: no number, or not above zero.
    """
    weight: float = checks.number(lam, "lam", owner)
    checks.positive(weight, "lam", owner)
    return weight


def data_pair(data: Any) -> tuple[Any, Any]:
    """Inputs and targets of a pair, or of a `System`.

    Raises:
        TypeError, ValueError: neither of the two, or a system without targets.
    """
    if isinstance(data, System):
        data.require_targets()
        return data.x, data.y
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"`data` is a {type(data).__name__}; give a pair (x, y), or a System with targets.")
    return data[0], data[1]


def doubled(tree: Any, name: str) -> Any:
    """NumPy arrays of a PyTree, in float64 where they hold real numbers, and finite.

    Raises:
        ValueError: entries that are NaN or infinite.
    """

    def convert(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        checks.all_finite(array, name)
        return array.astype(np.float64)

    return jax.tree.map(convert, tree)


def real_parameters(tree: Any, name: str) -> Any:
    """NumPy arrays of a PyTree of parameters in float64, finite; integers are numbers.

    Raises:
        DtypeError: entries that are no real numbers.
        ValueError: entries that are NaN or infinite.
    """

    def convert(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if array.dtype.kind not in "iu" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise DtypeError(f"`{name}` holds {array.dtype}; give parameters that are real numbers.")
        return array.astype(np.float64)

    return doubled(jax.tree.map(convert, tree), name)


def require_array(x: Any) -> None:
    """Refuse inputs that the added neurons cannot flatten.

    Raises:
        TypeError: no array.
    """
    if not hasattr(x, "shape"):
        raise TypeError(
            f"`x` is a {type(x).__name__}, which added neurons cannot flatten; give an array, or make the model with a "
            "`feature_map` that takes it to features (m, dx)."
        )
