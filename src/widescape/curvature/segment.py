"""A loss along lines and planes of parameters: the one place where it is evaluated there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.curvature.operators import Operators
from widescape.curvature.request import hashable
from widescape.curvature.system import System

_POINTS = 32  # evaluated by one call of the compiled program


@dataclass(frozen=True)
class _OfParameters:
    """A loss of parameters alone, as the single output of a system."""

    loss: Callable[[Any], Any]

    def __call__(self, params: Any, x: Any) -> jax.Array:
        value = self.loss(params)
        dtype = getattr(value, "dtype", None)
        if getattr(value, "size", None) != 1 or dtype is None or jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"`loss` returns {value!r}; it must return one real number, as an array of JAX.")
        return jnp.reshape(value, (1,)).astype(x.dtype)


def _itself(output: jax.Array, y: jax.Array) -> jax.Array:
    return output


def as_system(loss: System | Callable[[Any], Any], params: Any = None) -> System:
    """A system whose loss is a function of parameters alone; a system stays what it is.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        params: where a function takes its parameters from.

    Raises:
        TypeError: neither of the two, or no parameters.

    Example:
        >>> as_system(lambda w: (w**2).sum(), np.array([3.0, 4.0])).grad().tolist()
        [6.0, 8.0]
    """
    if isinstance(loss, System):
        return loss
    if not callable(loss):
        raise TypeError(f"`loss` is {loss!r}; give a System, or a function of the parameters that returns one number.")
    if params is None:
        raise TypeError("`loss` is a function of parameters, so `params` are needed.")
    none = np.zeros(1, np.float64 if has_float64(params) else np.float32)
    return System(_OfParameters(hashable(loss)), params, none, none, loss=_itself)


def losses_on_plane(
    system: System, start: Any, directions: Any, coefficients: Any, *, progress: bool | None = None
) -> np.ndarray:
    """The loss at start + sum_k coefficients[t, k] directions[k] for each t.

    Args:
        system: the function, its data and its loss.
        start: parameters, as a flat vector (p,) or a PyTree.
        directions: vectors (k, p).
        coefficients: points (T, k).
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        losses (T,), in the order of the points.

    Raises:
        ShapeError: directions and coefficients that do not fit.
        NonFiniteError: the loss at a point is NaN or infinite; names the first.

    Cost: a forward pass for each point, in one compiled program.

    Example:
        >>> line = as_system(lambda w: (w**2).sum(), np.array([1.0, 1.0]))
        >>> losses_on_plane(line, line.flat, np.array([[1.0, 0.0]]), np.array([[0.0], [1.0]])).tolist()
        [2.0, 5.0]
    """
    system.require_targets()
    origin = system.vector(start)
    plane, points = checks.real_array(directions, "directions"), checks.real_array(coefficients, "coefficients")
    if plane.ndim != 2 or plane.shape[1] != system.num_params or points.ndim != 2 or points.shape[1] != len(plane):
        raise ShapeError(
            f"`directions` has shape {plane.shape} and `coefficients` {points.shape}; give (k, {system.num_params}) "
            "and (T, k)."
        )
    with np.errstate(over="ignore"):
        plane, points = plane.astype(origin.dtype), points.astype(origin.dtype)
    checks.all_finite(plane, "directions")
    checks.all_finite(points, "coefficients")
    parts = []
    for first in track(range(0, len(points), _POINTS), "losses", show=progress):
        part = points[first : first + _POINTS]
        padded = np.concatenate([part, np.repeat(part[-1:], min(_POINTS, len(points)) - len(part), axis=0)])
        with double_scope(system.double):
            found = np.asarray(_on_plane(system.operators, origin, plane, padded, *system.arrays))
        parts.append(found[: len(part)])
    losses = np.concatenate(parts) if parts else np.zeros(0)
    bad = ~np.isfinite(losses)
    if bad.any():
        place = points[int(bad.argmax())].tolist()
        raise NonFiniteError(
            f"the loss is NaN or infinite at {int(bad.sum())} points, first at {place}; look closer by."
        )
    return losses.astype(np.float64)


def losses_on_segment(system: System, start: Any, end: Any, ts: Any, *, progress: bool | None = None) -> np.ndarray:
    """The loss at (1 - t) start + t end for each t of `ts` (T,); see `losses_on_plane`."""
    origin, goal = system.vector(start), system.vector(end)
    places = checks.real_array(ts, "ts")
    if places.ndim != 1:
        raise ShapeError(f"`ts` has shape {places.shape}; give a vector of positions.")
    return losses_on_plane(system, origin, (goal - origin)[None], places[:, None], progress=progress)


@partial(jax.jit, static_argnums=(0,))
def _on_plane(operators: Operators, origin: Any, plane: Any, points: Any, x: Any, y: Any) -> jax.Array:
    def at(c: Any) -> jax.Array:
        return operators.value(origin + jnp.matmul(c, plane, precision="highest"), x, y)

    return jax.lax.map(at, points)
