"""Loss, gradient and Hessian at many points at once, by programs that all searches for critical points share."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import MemoryBudgetError
from widescape.core.memory import available_bytes, human_bytes
from widescape.core.precision import double_scope
from widescape.curvature import System
from widescape.curvature.operators import Operators, evaluate
from widescape.curvature.program import equations

_AT_ONCE = 2**29  # bytes of what the derivatives in different directions hold at the same time, at most
_COPIES = 6  # of Hessians: as computed, symmetrized, eigenvectors and work


class Derivatives:
    """What a loss is at points w (n, p), in float64; NaN and infinity come back as they are.

    Hessians are assembled by so many points and columns at once as fit into half a gibibyte, whatever is free, so that
    programs and their rounding do not depend on the machine.

    Example:
        >>> from widescape.curvature.segment import as_system
        >>> at = Derivatives(as_system(lambda w: (w**3).sum(), np.array([1.0])))
        >>> at.gradients(np.array([[1.0], [2.0]])).tolist(), at.hessians(np.array([[2.0]])).tolist()
        ([[3.0], [12.0]], [[[12.0]]])
    """

    def __init__(self, system: System) -> None:
        system.require_targets()
        self.system = system
        with double_scope(system.double):
            shapes = jax.tree.map(jax.typeof, (system.flat, *system.arrays))
        leaves, structure = jax.tree.flatten(shapes)
        self.directions_at_once = max(1, _AT_ONCE // _bytes_of_gradient(system.operators, structure, tuple(leaves)))

    def require_memory(self, count: int, owner: str) -> None:
        """Refuse to assemble and decompose the Hessians of `count` points where they do not fit into memory.

        Raises:
            MemoryBudgetError: says how much they need.
        """
        size, budget = self.system.num_params, available_bytes() // 2
        needed = _COPIES * 8 * count * size**2
        if needed > budget:
            raise MemoryBudgetError(
                f"{owner} needs {human_bytes(needed)} to decompose Hessians of {size} parameters at {count} points, "
                f"more than the budget of {human_bytes(budget)}. Pass `dense=False`, which takes products only."
            )

    def values(self, w: np.ndarray) -> np.ndarray:
        """The loss (n,)."""
        return self._run(_values, w)

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """Its gradients (n, p)."""
        return self._run(_gradients, w)

    def hessians(self, w: np.ndarray) -> np.ndarray:
        """Its Hessians (n, p, p), symmetrized."""
        points = min(max(1, self.directions_at_once // w.shape[1]), len(w))
        columns = min(self.directions_at_once, w.shape[1])
        found = self._run(partial(_hessians, points, columns), w)
        return (found + np.swapaxes(found, 1, 2)) / 2

    def product(self, w: np.ndarray, vector: Any) -> np.ndarray:
        """The Hessian at one point (p,) times a vector (p,)."""
        with double_scope(self.system.double):
            return np.asarray(evaluate(self.system.operators, "hvp", w, *self.system.arrays, vector))

    def _run(self, program: Any, w: np.ndarray) -> np.ndarray:
        with double_scope(self.system.double):
            return np.asarray(program(self.system.operators, w, *self.system.arrays))


@partial(jax.jit, static_argnums=0)
def _values(operators: Operators, points: Any, x: Any, y: Any) -> jax.Array:
    return jax.vmap(lambda w: operators.value(w, x, y))(points)


@partial(jax.jit, static_argnums=0)
def _gradients(operators: Operators, points: Any, x: Any, y: Any) -> jax.Array:
    return jax.vmap(lambda w: operators.grad(w, x, y))(points)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _hessians(at_once: int, columns: int, operators: Operators, points: Any, x: Any, y: Any) -> jax.Array:
    """Hessians of so many points at once, and of one point by so many columns."""

    def whole(w: Any) -> jax.Array:
        return jax.jacfwd(lambda v: operators.grad(v, x, y))(w)

    def by_columns(w: Any) -> jax.Array:
        push = jax.linearize(lambda v: operators.grad(v, x, y), w)[1]
        return jax.lax.map(push, jnp.eye(w.size, dtype=w.dtype), batch_size=columns)

    if at_once >= len(points) and columns == points.shape[1]:
        return jax.vmap(whole)(points)
    return jax.lax.map(whole if columns == points.shape[1] else by_columns, points, batch_size=at_once)


@lru_cache(maxsize=128)
def _bytes_of_gradient(operators: Operators, structure: Any, leaves: tuple[Any, ...]) -> int:
    """Bytes of everything that a gradient computes on its way: about what a direction of its derivative holds."""
    w, x, y = jax.tree.unflatten(structure, leaves)
    with double_scope(w.dtype == np.float64):
        program = jax.make_jaxpr(operators.grad)(w, x, y)
    outs = [out.aval for equation in equations(program.jaxpr) for out in equation.outvars]
    return max(1, sum(out.size * out.dtype.itemsize for out in outs if hasattr(out, "size")))
