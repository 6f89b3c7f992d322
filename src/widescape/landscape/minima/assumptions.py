"""What theorems about added neurons assume of loss, data and model; and sizes of data that make numbers unitless."""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import AssumptionWarning
from widescape.core.precision import call_in_float64
from widescape.curvature.program import equations
from widescape.landscape.minima.augmentation import AugmentedLoss
from widescape.landscape.minima.losses import ExampleLoss, as_columns, as_loss, attained

_NAMED = (as_loss("square"), as_loss("cross_entropy"), as_loss("poly_hinge"))
_EQUAL = 1e-12  # of their size, up to which targets count as equal
_EXAMPLES, _POINTS, _ENTRIES = 64, 256, 10**6  # of second derivatives of a loss: examples, at least so many, at most
_SIZES = (0.1, 0.3, 1.0, 3.0)  # of random outputs, times the size of the targets
_CONCAVE = 1e-8  # of the largest second derivative, below which a negative one is rounding


class Scales(NamedTuple):
    """Sizes that make thresholds independent of units.

    Attributes:
        outputs: of the outputs: standard deviation of targets that are dy numbers each, their root mean square where
            that is 0, and 1 for other targets and for cross entropy.
        derivative: of the derivative of the loss of an example in its outputs: root mean square at constant outputs.
        level: of the loss: its mean there.

    Constant outputs are the mean target, or 0 where targets are no numbers, or all equal.
    """

    outputs: float
    derivative: float
    level: float


def scales_of(loss: ExampleLoss, y: np.ndarray, num_outputs: int) -> Scales:
    """The sizes of outputs, loss and its derivative that belong to targets."""
    mean, size = _moments(loss, y, num_outputs)
    first = np.zeros(num_outputs)
    first[0] = size
    found = []
    for reference in (mean, np.zeros(num_outputs), first):
        if reference is not None:
            outputs = np.broadcast_to(reference, (len(y), num_outputs))
            values, derivatives = call_in_float64(_at, as_loss(loss), outputs, y)
            found.append((abs(float(np.mean(values))), float(np.sqrt(np.mean(np.sum(derivatives**2, axis=1))))))
    level, derivative = (next((v for v in part if 0 < v < np.inf), 1.0) for part in zip(*found, strict=True))
    return Scales(size, derivative, level)


def constant_level(loss: ExampleLoss, y: np.ndarray, num_outputs: int) -> float | None:
    """The mean loss where all outputs are the mean target; None where targets are no numbers, or all equal."""
    if _moments(loss, y, num_outputs)[0] is None:
        return None
    return scales_of(loss, y, num_outputs).level


def assumptions_hold(objective: AugmentedLoss, q: Any, x: Any, y: np.ndarray, groups: np.ndarray) -> bool:
    """Whether no assumption of the theorem on data, loss and model was found to fail.

    Warns:
        AssumptionWarning: for each that fails.
    """
    own, size = objective.loss, scales_of(objective.loss, y, objective.model.dy).outputs
    rows = y.reshape(len(y), -1)
    first = np.unique(groups, return_index=True)[1]
    differing = int((rows != rows[first][groups]).any(axis=1).sum())
    low = _lower_floats(objective, q, x, y)
    found = []
    if differing:
        found.append(
            f"{differing} examples have the input of another one and a different target, so that no function of x fits "
            "all of them; a minimum of the loss fits each group of equal inputs only"
        )
    if low:
        found.append(
            f"model or loss compute in less than double precision inside ({', '.join(low[:3])}), so that residuals are "
            "rounding below 1e-8; compute in the precision of the parameters"
        )
    if own not in _NAMED and not _convex(objective, q, x, y, size):
        found.append(
            "the loss of an example has a negative second derivative in its outputs, at those of the model or at "
            "random ones, but the theorem is about convex losses"
        )
    else:
        missing = int((~attained("square" if own == as_loss("square") else own, y, objective.model.dy)).sum())
        if missing:
            found.append(
                f"the loss of {missing} examples has no minimum in the outputs, only an infimum at infinity, so that "
                "the objective with added neurons has no local minimum; soft targets have one"
            )
    for message in found:
        warnings.warn(f"{message}. Nothing is called vanished.", AssumptionWarning, stacklevel=4)
    return not found


def _moments(loss: ExampleLoss, y: np.ndarray, num_outputs: int) -> tuple[np.ndarray | None, float]:
    """The mean of targets that are numbers and differ, and their size."""
    own = np.asarray(y).reshape(len(y), -1)
    if own.shape[1] != num_outputs or loss in ("cross_entropy", as_loss("cross_entropy")):
        return None, 1.0
    own = own.astype(np.float64)
    mean = own.mean(axis=0)
    around, size = (float(np.sqrt(np.mean(z**2))) for z in (own - mean, own))
    return (mean, around) if around > _EQUAL * size else (None, size or 1.0)


def _lower_floats(objective: AugmentedLoss, q: Any, x: Any, y: Any) -> tuple[str, ...]:
    """Operations of the objective that return floats of less than double precision, as "primitive to dtype"."""
    with jax.enable_x64(True):
        program = jax.make_jaxpr(objective.both)(jax.tree.map(np.asarray, q), x, y)
    found = []
    for equation in equations(program.jaxpr):
        for out in equation.outvars:
            dtype = getattr(out.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize < 8:
                found.append(f"{equation.primitive.name} to {np.dtype(dtype).name}")
    return tuple(dict.fromkeys(found))


def _convex(objective: AugmentedLoss, q: Any, x: Any, y: np.ndarray, size: float) -> bool:
    """Whether no second derivative of the loss in the outputs is negative, at the model's and some random ones."""
    outputs: np.ndarray = call_in_float64(_outputs, objective.model.f, q["theta"], x)
    c = outputs.shape[1]
    count = max(1, min(len(y), _EXAMPLES, _ENTRIES // (9 * c * c)))
    chosen = np.linspace(0, len(y) - 1, count).astype(int)
    draws = max(1, min(_POINTS, _ENTRIES // (c * c)) // (8 * count))
    rng = np.random.default_rng(0)
    points = [outputs[chosen]]
    for center in (outputs[chosen], np.zeros((count, c))):
        points += [center + scale * size * rng.standard_normal((count, c)) for scale in _SIZES * draws]
    second: np.ndarray = call_in_float64(_second, objective.loss, np.stack(points), y[chosen])
    finite = second[np.isfinite(second).all(axis=(2, 3))]
    if not finite.size:
        return True
    eigenvalues = np.linalg.eigvalsh(finite)
    return bool(eigenvalues.min() >= -_CONCAVE * np.abs(eigenvalues).max())


@partial(jax.jit, static_argnums=0)
def _at(loss: Any, outputs: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """The loss of each example, and its derivative in the outputs."""
    return jax.vmap(jax.value_and_grad(lambda q, t: jnp.sum(loss(q, t))))(outputs, y)


@partial(jax.jit, static_argnums=0)
def _outputs(f: Any, theta: Any, x: Any) -> jax.Array:
    return jnp.asarray(as_columns(f(theta, x)))


@partial(jax.jit, static_argnums=0)
def _second(loss: Any, points: Any, y: Any) -> jax.Array:
    """Second derivatives of each example's loss at several outputs (k, n, c)."""
    each = jax.vmap(jax.jacrev(jax.grad(lambda q, t: jnp.sum(loss(q, t)))))
    return jax.vmap(lambda q: each(q, y))(points)
