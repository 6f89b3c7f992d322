"""Checks of arguments, made once at the public boundary."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import DtypeError, ShapeError
from widescape.core.precision import require_traced_float64


def is_concrete_number(value: Any) -> bool:
    """Whether `value` is a plain number, not a traced or symbolic one."""
    return isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)


def number(value: Any, name: str, owner: str) -> Any:
    """A finite real number as a Python float; traced values pass as they are.

    Raises:
        TypeError: `value` is no real number.
        ValueError: it is not finite.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if not is_concrete_number(value):
        raise TypeError(f"{owner}: `{name}` is {value!r}; it must be a real number.")
    if not np.isfinite(value):
        raise ValueError(f"{owner}: `{name}` is {value}; it must be a finite number.")
    return float(value)


def positive(value: Any, name: str, owner: str) -> None:
    """Refuse a concrete number that is not above zero."""
    if is_concrete_number(value) and value <= 0:
        raise ValueError(f"{owner}: `{name}` is {value}; it must be a positive number.")


def not_negative(value: Any, name: str, owner: str) -> None:
    """Refuse a concrete number below zero."""
    if is_concrete_number(value) and value < 0:
        raise ValueError(f"{owner}: `{name}` is {value}; it must be a number that is not negative.")


def count(value: Any, name: str, owner: str, *, minimum: int = 1) -> None:
    """Refuse anything but an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{owner}: `{name}` is {value!r}; it must be an integer.")
    if value < minimum:
        raise ValueError(f"{owner}: `{name}` is {value}; it must be at least {minimum}.")


def seed(value: Any, owner: str) -> None:
    """Refuse anything but an integer from 0 to 2^32 - 1; larger ones would repeat the keys of smaller ones."""
    count(value, "seed", owner, minimum=0)
    if value >= 2**32:
        raise ValueError(f"{owner}: `seed` is {value}; choose 0 <= seed < 2^32.")


def choice(value: Any, name: str, accepted: Any) -> None:
    """Refuse a value outside of a ``Literal`` type or a tuple of choices."""
    options = accepted if isinstance(accepted, tuple) else get_args(accepted)
    if value not in options:
        raise ValueError(f"`{name}` is {value!r}; choose one of {', '.join(map(repr, options))}.")


def batch(x: Any, name: str, *, dtype: str = "float64", min_ndim: int = 2, finite: bool = True) -> Any:
    """A batch of examples as a floating-point array with examples along the first axis.

    Concrete input becomes a NumPy array of `dtype`; traced input must be float64 and is returned
    as it is.

    Raises:
        DtypeError: integers, booleans, complex numbers or objects.
        ShapeError: too few axes, or no examples or features.
        ValueError: NaN or infinite entries.
        PrecisionError: traced input of less than double precision.
    """
    if isinstance(x, jax.core.Tracer):
        require_traced_float64(x, name)
        array: Any = x
    else:
        array = real_array(x, name)
    if array.ndim < min_ndim:
        raise ShapeError(
            f"`{name}` has shape {array.shape}; it must have at least {min_ndim} axes, examples first. "
            "A single example x goes in as x[None]."
        )
    if 0 in array.shape:
        raise ShapeError(f"`{name}` has shape {array.shape}: it is empty; give at least one example and one feature.")
    if isinstance(array, jax.core.Tracer):
        return array
    if finite:
        all_finite(array, name)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype=dtype)
    if finite and not np.isfinite(converted).all():
        raise ValueError(
            f"`{name}` has entries up to {np.abs(array).max():.3g}, which do not fit into {dtype}; scale it."
        )
    return converted


def real_array(x: Any, name: str) -> np.ndarray:
    """A concrete array of real floating-point numbers, as NumPy sees it.

    Raises:
        DtypeError: integers, booleans, complex numbers or objects.
    """
    array = np.asarray(x)
    if array.dtype.kind in "iub":
        raise DtypeError(
            f"`{name}` has dtype {array.dtype}; real numbers are needed. Convert and scale it, "
            f"for instance `{name}.astype(float) / 255` for images of bytes."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DtypeError(f"`{name}` has dtype {array.dtype}; it must be an array of real floating-point numbers.")
    return array


def all_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and infinite entries, naming the first.

    Raises:
        ValueError: with the number of bad entries and the place of the first.
    """
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` has {int(bad.sum())} entries that are NaN or infinite, the first at {first}; "
            "remove or impute them."
        )


def square_matrix(matrix: Any, name: str, *, rtol: float | None = None) -> np.ndarray:
    """A finite symmetric matrix in float64.

    Raises:
        ShapeError: not square, or empty.
        ValueError: not finite, or asymmetric by more than `rtol` of its largest entry; by default 1e-8, and 1e-4 for
            a matrix of less than double precision.
    """
    array = real_array(matrix, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise ShapeError(f"`{name}` has shape {array.shape}; it must be a square matrix.")
    all_finite(array, name)
    if rtol is None:
        rtol = 1e-8 if array.dtype.itemsize >= 8 else 1e-4
    array = np.asarray(array, dtype=np.float64)
    asymmetry = float(np.max(np.abs(array - array.T)))
    if asymmetry > rtol * float(np.max(np.abs(array))):
        raise ValueError(
            f"`{name}` is not symmetric: entries differ from their mirror image by up to {asymmetry:.3g}; "
            "symmetrize it, or check that rows and columns list the same examples."
        )
    return array
