"""Descent on the norm of the gradient, whose derivative is a product with the Hessian."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.curvature.operators import Operators
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.walks import VANISHED, Walks

_PIECE = 256  # steps of one call of the compiled program
_SHRINK, _DECREASE = 0.5, 1e-4


def walk_gradient_norm(at: Derivatives, w: np.ndarray, max_steps: int, *, progress: bool | None = None) -> Walks:
    """Descent on |g|^2 / 2: steps w' = w - a H g, with lengths a by backtracking.

    A length is enough where |g(w')|^2 <= |g|^2 - 2e-4 a |H g|^2, and less than |g|^2 in floating point too. Each step
    tries twice the last length first, and half as much until it is enough. It ends where the step is shorter than
    1e-12 (1 + |w|).

    Args:
        at: derivatives of the loss.
        w: starts (n, p).
        max_steps: most steps.
        progress: show a progress bar; None shows it on a terminal.

    Cost: a step takes a product with the Hessian, and a gradient for each length.
    """
    walks = Walks.starting(at, w)
    state = (walks.w, walks.gradients, np.ones(len(w)), walks.active)
    system = at.system
    for first in track(range(0, max_steps, _PIECE), "gradient norm", show=progress):
        count = min(_PIECE, max_steps - first)
        with double_scope(system.double):
            state, found = _descend(system.operators, state, count, *system.arrays)
        *parts, moved = (np.asarray(part) for part in found)
        for row in range(len(w)):
            for own, part in zip((walks.traces, walks.norms, walks.lengths), parts, strict=True):
                own[row].extend(part[moved[:, row], row].tolist())
        if not np.asarray(state[3]).any():
            break
    walks.w, walks.gradients, _, walks.active = (np.array(part) for part in state)
    walks.g2 = np.array([trace[-1] for trace in walks.traces])
    return walks


@partial(jax.jit, static_argnums=0)
def _descend(operators: Operators, states: Any, count: Any, x: Any, y: Any) -> Any:
    """At most `_PIECE` steps of all points; and by step |g|^2, |w|, lengths, and which points moved."""

    def one(state: Any, allowed: Any) -> Any:
        w, gradient, length, active = state
        slope = operators.hvp(w, x, y, gradient)
        fall, shortest = jnp.sum(slope**2), VANISHED * (1 + jnp.linalg.norm(w))
        g2, going = jnp.sum(gradient**2), active & allowed

        def trial(size: Any) -> Any:
            own = operators.grad(w - size * slope, x, y)
            left = jnp.sum(own**2)
            return size, own, (left <= g2 - 2 * _DECREASE * size * fall) & (left < g2)

        def goes_on(carry: Any) -> Any:
            size, _, enough = carry
            return going & ~enough & (size * jnp.sqrt(fall) > shortest)

        size, own, enough = jax.lax.while_loop(goes_on, lambda carry: trial(_SHRINK * carry[0]), trial(length))
        moves = going & enough & (size * jnp.sqrt(fall) > shortest)
        after = (
            jnp.where(moves, w - size * slope, w),
            jnp.where(moves, own, gradient),
            jnp.where(moves, size / _SHRINK, length),
            active & (moves | ~allowed),
        )
        return after, (jnp.sum(after[1] ** 2), jnp.linalg.norm(after[0]), size * jnp.sqrt(fall), moves)

    def step(states: Any, t: Any) -> Any:
        return jax.vmap(one, in_axes=(0, None))(states, t < count)

    return jax.lax.scan(step, states, jnp.arange(_PIECE))
