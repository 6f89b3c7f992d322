"""How the loss at points that training reaches falls with depth and width, and how well its identity holds there."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import MemoryBudgetError, NonFiniteError, ShapeError
from widescape.core.evidence import sampled
from widescape.core.memory import available_bytes, human_bytes
from widescape.core.precision import call_in_float64
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.landscape.layerwise import range_of_blocks

_TRAINED = sampled("reached by a quasi-Newton method from Gaussian parameters")
_STOP = 1e-11  # the gradient norm at which a run ends
_HALVINGS = 40  # of an interval of step lengths, before the search along a direction gives up
_MATRICES = 6  # of p by p in a step of a run: the inverse Hessian before, after and in between
_DECREASE, _SLOPE = 1e-4, 0.9  # of the two conditions of Wolfe


class DepthWidthSweep(Result):
    """Values of the square loss that tanh networks reach, by depth and width."""

    source = "kawaguchi2018depth"
    depths: np.ndarray = quantity(_TRAINED, "hidden layers (D,)")
    widths: np.ndarray = quantity(_TRAINED, "units of each hidden layer (W,)")
    seeds: np.ndarray = quantity(_TRAINED, "of the starts (S,)")
    values: np.ndarray = quantity(_TRAINED, "|f - y|^2 / 2 where each run ends (D, W, S)")
    median: np.ndarray = quantity(_TRAINED, "median of the values over seeds (D, W)")
    grad_norms: np.ndarray = quantity(_TRAINED, "|grad| where each run ends (D, W, S)")
    predicted: np.ndarray = quantity(_TRAINED, "|y - P_J y|^2 / 2 there, the loss of a critical point (D, W, S)")
    defects: np.ndarray = quantity(_TRAINED, "|value - predicted| (D, W, S)")
    steps: np.ndarray = quantity(_TRAINED, "steps that were taken (D, W, S)")

    def charts(self) -> tuple[Chart, ...]:
        """The value that is reached against width, one line for each depth."""
        low, high = np.quantile(self.values, 0.25, axis=2), np.quantile(self.values, 0.75, axis=2)
        series = tuple(
            Series(self.widths, self.median[i], f"depth {depth}", low[i], high[i], style="both")
            for i, depth in enumerate(self.depths.tolist())
        )
        return (
            Chart(
                name="depth_width",
                title="Loss that training reaches, by width and depth",
                x_label="units of each hidden layer",
                y_label="sum of squares / 2",
                series=series,
                y_scale="log" if (low > 0).all() else "linear",
                caption=f"Median of {len(self.seeds)} starts; the interval holds the middle half of them.",
            ),
        )


def depth_width_sweep(
    depths: Sequence[int],
    widths: Sequence[int],
    seeds: Sequence[int],
    data: tuple[Any, Any],
    *,
    max_steps: int = 1500,
    progress: bool | None = None,
) -> DepthWidthSweep:
    """The square loss |f - y|^2 / 2 that tanh networks of each depth and width reach.

    A network has biases, `depth` hidden layers of `width` units each, and a linear output layer. Starts have Gaussian
    weights of variance 1/fan-in and Gaussian biases of variance 1. Training is by the BFGS method with a line search
    for the weak conditions of Wolfe; it ends where |grad| < 1e-11, where the search finds no step, or after
    `max_steps`. At a critical point the value is |y - P_J y|^2 / 2, which is reported beside it.

    Args:
        depths: numbers of hidden layers.
        widths: numbers of units in each.
        seeds: of the starts, not negative.
        data: inputs (m, d) and targets (m,) or (m, c).
        max_steps: at most, for each run.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `DepthWidthSweep`. How far a run came is in `grad_norms`; on ill-conditioned runs `defects` may be large.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: a run ended with values that are not finite.
        MemoryBudgetError: the runs of all seeds do not fit together; says how much they need.

    Cost: for each depth one compiled program, in which all seeds run together at the largest width, where smaller
    networks have units that stay zero; O(p^2) for each step of a run, with p the parameters at that width.

    Example:
        >>> sweep = depth_width_sweep([1], [1], [0, 1], (np.array([[-1.0], [0.0], [1.0]]), np.zeros(3)))
        >>> bool(sweep.median.max() < 1e-12)
        True
    """
    inputs, targets = _checked(data)
    sizes = [_numbers(depths, "depths", 1), _numbers(widths, "widths", 1), _numbers(seeds, "seeds", 0)]
    checks.count(max_steps, "max_steps", "depth_width_sweep")
    _require_memory(sizes, inputs, targets)
    shape = tuple(len(numbers) for numbers in sizes)
    found = {name: np.zeros(shape) for name in ("values", "grad_norms", "predicted", "steps")}
    pairs = list(product(enumerate(sizes[0]), enumerate(sizes[1])))
    for (i, depth), (j, width) in track(pairs, "depths and widths", show=progress):
        layers = (inputs.shape[1], *[max(sizes[1])] * depth, targets.shape[1])
        starts = np.stack([_start(layers, width, seed) for seed in sizes[2]])
        points, steps = call_in_float64(_trained, layers, max_steps, starts, inputs, targets)
        errors, jacobians = call_in_float64(_linearized, layers, points, inputs, targets)
        if not (np.isfinite(errors).all() and np.isfinite(jacobians).all()):
            raise NonFiniteError(f"a run at depth {depth} and width {width} is not finite in the end; scale the data.")
        found["values"][i, j] = np.sum(errors**2, axis=1) / 2
        found["grad_norms"][i, j] = np.linalg.norm(np.einsum("snp,sn->sp", jacobians, errors), axis=1)
        found["predicted"][i, j] = [_predicted(jacobian, targets.ravel()) for jacobian in jacobians]
        found["steps"][i, j] = steps
    return DepthWidthSweep(
        depths=np.array(sizes[0]),
        widths=np.array(sizes[1]),
        seeds=np.array(sizes[2]),
        values=found["values"],
        median=np.median(found["values"], axis=2),
        grad_norms=found["grad_norms"],
        predicted=found["predicted"],
        defects=np.abs(found["values"] - found["predicted"]),
        steps=found["steps"].astype(int),
    )


def _require_memory(sizes: list[tuple[int, ...]], inputs: np.ndarray, targets: np.ndarray) -> None:
    """Refuse networks whose runs and Jacobians do not fit into half of the free memory."""
    layers = (inputs.shape[1], *[max(sizes[1])] * max(sizes[0]), targets.shape[1])
    p = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(layers))
    needed, budget = 8 * len(sizes[2]) * p * (_MATRICES * p + 3 * targets.size), available_bytes() // 2
    if needed > budget:
        raise MemoryBudgetError(
            f"depth_width_sweep needs {human_bytes(needed)} for {len(sizes[2])} runs of networks of {p} parameters at "
            f"once, more than the budget of {human_bytes(budget)}. Give fewer `seeds`, or smaller `widths` or `depths`."
        )


def _predicted(jacobian: np.ndarray, targets: np.ndarray) -> float:
    basis, _ = range_of_blocks([jacobian])
    return float(np.sum((targets - basis @ (basis.T @ targets)) ** 2) / 2)


def _start(layers: tuple[int, ...], width: int, seed: int) -> np.ndarray:
    """Flat parameters, layer after layer, each with its weights first; zero for units beyond `width`.

    Units whose weights on both sides and bias are zero have no gradient: they stay so, and count for nothing.
    """
    rng = named_generator(None, "depth and width", seed, width, len(layers))
    parts = []
    for layer, (fan_in, fan_out) in enumerate(pairwise(layers)):
        rows = fan_in if layer == 0 else width
        columns = fan_out if layer == len(layers) - 2 else width
        weights, biases = np.zeros((fan_in, fan_out)), np.zeros(fan_out)
        weights[:rows, :columns] = rng.standard_normal((rows, columns)) / rows**0.5
        biases[:columns] = rng.standard_normal(columns)
        parts += [weights.ravel(), biases]
    return np.concatenate(parts)


def _network(layers: tuple[int, ...], w: jax.Array, x: jax.Array) -> jax.Array:
    """Outputs (m, c) for flat parameters."""
    start, hidden = 0, x
    for layer, (fan_in, fan_out) in enumerate(pairwise(layers)):
        stop = start + fan_in * fan_out
        weights, biases = w[start:stop].reshape(fan_in, fan_out), w[stop : stop + fan_out]
        hidden = hidden @ weights + biases[None]
        hidden = jnp.tanh(hidden) if layer < len(layers) - 2 else hidden
        start = stop + fan_out
    return hidden


@partial(jax.jit, static_argnums=0)
def _linearized(layers: tuple[int, ...], points: jax.Array, x: jax.Array, y: jax.Array) -> Any:
    """Errors f - y (S, N) and Jacobians (S, N, p)."""

    def errors(w: jax.Array) -> jax.Array:
        return (_network(layers, w, x) - y).ravel()

    return jax.vmap(errors)(points), jax.vmap(jax.jacrev(errors))(points)


@partial(jax.jit, static_argnums=0)
def _trained(layers: tuple[int, ...], max_steps: Any, starts: jax.Array, x: jax.Array, y: jax.Array) -> Any:
    """Where runs from all starts end, and after how many steps."""

    def objective(w: jax.Array) -> jax.Array:
        return jnp.sum((_network(layers, w, x) - y) ** 2) / 2

    both = jax.value_and_grad(objective)

    def step(state: Any) -> Any:
        w, value, slope, inverse, count, _ = state
        direction = -inverse @ slope
        steep = direction @ slope >= 0
        direction, inverse = jnp.where(steep, -slope, direction), jnp.where(steep, jnp.eye(w.size), inverse)
        length, moved, new_slope = _searched(both, w, direction, value, slope)
        s, change = length * direction, new_slope - slope
        usable = s @ change > 0
        first = jnp.where((count == 0) & usable, (s @ change) / jnp.maximum(change @ change, 1e-300), 1.0)
        updated = _updated(inverse * first, s, change)
        inverse = jnp.where(usable, updated, inverse)
        return w + s, moved, new_slope, inverse, count + 1, length > 0

    def runs(state: Any) -> Any:
        _, _, slope, _, count, moved = state
        return (count < max_steps) & (jnp.linalg.norm(slope) > _STOP) & moved

    def one(w: jax.Array) -> Any:
        value, slope = both(w)
        state = (w, value, slope, jnp.eye(w.size), 0, jnp.array(True))
        final = jax.lax.while_loop(runs, step, state)
        return final[0], final[4]

    return jax.vmap(one)(starts)


def _updated(inverse: jax.Array, s: jax.Array, change: jax.Array) -> jax.Array:
    """The approximate inverse Hessian after a step `s` that changed the gradient by `change`."""
    scale = s @ change
    image = inverse @ change
    cross = jnp.outer(image, s)
    return inverse - (cross + cross.T) / scale + (1 + change @ image / scale) * jnp.outer(s, s) / scale


def _searched(both: Any, w: jax.Array, direction: jax.Array, value: jax.Array, slope: jax.Array) -> Any:
    """A length that meets the weak conditions of Wolfe, by doubling and halving, and value and gradient there.

    Where none is found the length is 0.
    """
    fall = slope @ direction

    def unmet(state: Any) -> Any:
        return ~state[5] & (state[4] < _HALVINGS)

    def tried(state: Any) -> Any:
        low, high, length, _, count, _ = state
        new, new_slope = both(w + length * direction)
        high_now = ~(new <= value + _DECREASE * length * fall)
        low_now = ~high_now & (new_slope @ direction < _SLOPE * fall)
        high, low = jnp.where(high_now, length, high), jnp.where(low_now, length, low)
        done = ~(high_now | low_now)
        following = jnp.where(jnp.isinf(high), 2 * length, (low + high) / 2)
        return low, high, jnp.where(done, length, following), (new, new_slope), count + 1, done

    start = (jnp.zeros(()), jnp.array(jnp.inf), jnp.ones(()), (value, slope), 0, jnp.array(False))
    _, _, length, (new, new_slope), _, done = jax.lax.while_loop(unmet, tried, start)
    return jnp.where(done, length, 0.0), jnp.where(done, new, value), jnp.where(done, new_slope, slope)


def _checked(data: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("`data` must be a pair of inputs (m, d) and targets (m,) or (m, c).")
    inputs = checks.batch(data[0], "data[0]")
    targets = checks.batch(data[1], "data[1]", min_ndim=1)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
        raise ShapeError(
            f"`data` holds inputs of shape {inputs.shape} and targets of shape {targets.shape}; give (m, d) and (m, c)."
        )
    return inputs, targets


def _numbers(values: Any, name: str, minimum: int) -> tuple[int, ...]:
    numbers = tuple(np.asarray(values).ravel().tolist())
    if not numbers:
        raise ValueError(f"`{name}` is empty; give at least one number.")
    for number in numbers:
        checks.count(number, name, "depth_width_sweep", minimum=minimum)
    return numbers
