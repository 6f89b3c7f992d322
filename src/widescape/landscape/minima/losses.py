"""Losses of one example, convex in its outputs, and what data make of them: groups of equal inputs, attained minima."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from widescape.core import checks
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64
from widescape.curvature.request import hashable

NamedLoss = Literal["square", "cross_entropy", "poly_hinge"]
ExampleLoss = NamedLoss | Callable[[Any, Any], Any]

_RIDGES = (1e-4, 1e-8, 1e-12)  # of the loss's curvature at zero outputs
_GROWTH = 0.7  # of the second move of the regularized minimizer over the first, from which no minimum is attained
_STILL = 1e-6  # of the minimizer, below which it does not move
_NEWTON_STEPS = 200


def as_loss(loss: ExampleLoss) -> Callable[[Any, Any], jax.Array]:
    """The loss of one example as a function of its outputs (c,) and its target.

    ``"square"`` is half the squared distance; ``"cross_entropy"`` takes an integer label or a distribution (c,);
    ``"poly_hinge"`` is max(0, 1 - y q)^3 for a target y of -1 or 1 (liang2018adding).

    Raises:
        TypeError, ValueError: no function, or no such name.
    """
    if callable(loss):
        return hashable(loss)
    if not isinstance(loss, str):
        raise TypeError(f"`loss` is {loss!r}; give a function of one output and its target, or one of its names.")
    checks.choice(loss, "loss", get_args(NamedLoss))
    return {"square": _square, "cross_entropy": _cross_entropy, "poly_hinge": _poly_hinge}[loss]


def mean_loss(loss: ExampleLoss, outputs: Any, y: Any) -> jax.Array:
    """The mean over examples of the loss of `outputs` (m, c), or (m,) which is (m, 1); traceable.

    Raises:
        TypeError: the loss of an example is not one number.
    """
    own = as_loss(loss)
    values = jax.vmap(own)(as_columns(outputs), y)
    if values.size != len(values):
        raise TypeError(
            f"`loss` returns an array of shape {values.shape[1:]} for one example, whose outputs have shape "
            f"{as_columns(outputs).shape[1:]}; it must return one number."
        )
    return jnp.mean(values)


def as_columns(outputs: Any) -> Any:
    """Outputs (m,) as (m, 1)."""
    return outputs[:, None] if outputs.ndim == 1 else outputs


def numbers(values: Any, name: str) -> np.ndarray:
    """An array of finite numbers in float64; integers are numbers.

    Raises:
        DtypeError, ValueError: it holds something else, or is not finite.
    """
    array = np.asarray(values)
    array = array.astype(np.float64) if array.dtype.kind in "iu" else checks.real_array(array, name).astype(np.float64)
    checks.all_finite(array, name)
    return array


def outputs_of(F: Any) -> np.ndarray:  # noqa: N803
    """Outputs (m, c) in float64, of outputs (m, c) or (m,).

    Raises:
        ShapeError, DtypeError, ValueError: they are no such array, or not finite.
    """
    outputs = numbers(F, "F")
    if outputs.ndim not in (1, 2):
        raise ShapeError(f"`F` has shape {outputs.shape}; give outputs (m, c), or (m,) for one output.")
    return as_columns(outputs)


def targets_like(y: Any, outputs: np.ndarray, loss: ExampleLoss) -> np.ndarray:
    """Targets of as many examples as `outputs` (m, c) has, finite; for the square loss shaped like them.

    Raises:
        ShapeError, NonFiniteError, ValueError: another number of targets, or numbers that are not finite.
    """
    targets = np.asarray(y)
    if targets.dtype.kind not in "biuf":
        raise DtypeError(f"`y` holds {targets.dtype}; give real numbers or integer labels.")
    if len(outputs) == 0:
        raise ValueError("there are no examples; give at least one.")
    if targets.shape[:1] != (len(outputs),):
        raise ShapeError(f"`y` has shape {targets.shape}; give one target for each of {len(outputs)} examples.")
    if targets.dtype.kind == "f":
        checks.all_finite(targets, "y")
        targets = targets.astype(np.float64)
    if loss == "cross_entropy":
        _require_classes(targets, outputs.shape)
    if loss == "poly_hinge" and not np.isin(targets, (-1, 1)).all():
        raise ValueError(f"`y` runs from {targets.min()} to {targets.max()}; the polynomial hinge takes -1 and 1.")
    if loss == "square":
        targets = targets.astype(np.float64).reshape(len(targets), -1)
        if targets.shape != outputs.shape:
            raise ShapeError(f"`y` has shape {np.shape(y)}, but the outputs have shape {outputs.shape}.")
    return targets


def _require_classes(targets: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse targets of the cross entropy that are neither labels (m,) nor distributions (m, c)."""
    if targets.ndim == 1:
        if targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= shape[1]:
            raise ValueError(
                f"`y` has dtype {targets.dtype}, from {targets.min()} to {targets.max()}; labels are integers in "
                f"0 ... {shape[1] - 1}."
            )
    elif targets.shape != shape or (targets < 0).any() or not np.allclose(targets.sum(axis=1), 1.0):
        raise ValueError(
            f"`y` has shape {targets.shape}; distributions have shape {shape}, entries from 0, and sums 1."
        )


def groups_of(X: Any, x_tol: float = 0.0) -> np.ndarray:  # noqa: N803
    """The group of each input, (m,): equal inputs share one, numbered by first appearance.

    Args:
        X: inputs (m, ...).
        x_tol: inputs at most this far apart, directly or through others, share a group.
    """
    inputs = numbers(X, "X")
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(f"`X` has shape {inputs.shape}; give an array with one row for each of at least one example.")
    tolerance = checks.number(x_tol, "x_tol", "groups_of")
    checks.not_negative(tolerance, "x_tol", "groups_of")
    rows = inputs.reshape(len(inputs), -1)
    labels = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    if tolerance > 0:
        pairs = cKDTree(rows).query_pairs(tolerance, output_type="ndarray")
        near = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(rows),) * 2)
        labels = connected_components(near, directed=False)[1]
    first = {label: i for i, label in reversed(list(enumerate(labels.tolist())))}
    order = {label: i for i, label in enumerate(sorted(first, key=first.__getitem__))}
    return np.array([order[label] for label in labels.tolist()])


def group_residual(F: Any, X: Any, y: Any, loss: ExampleLoss, x_tol: float = 0.0) -> np.ndarray:  # noqa: N803
    """The group residuals R = sum over examples of equal input of the loss's derivative in their outputs, (groups, c).

    All are zero exactly where the outputs minimize the mean loss over all functions of x. They are sums, and are
    divided by the number of examples nowhere.

    Args:
        F: outputs (m, c), or (m,) for one output.
        X: inputs (m, ...).
        y: targets, one for each example.
        loss: of one example, convex in its outputs: a function of (outputs (c,), target), or a name.
        x_tol: inputs at most this far apart count as equal.

    Returns:
        one row for each distinct input, in the order of first appearance.

    Raises:
        ShapeError, DtypeError, ValueError, TypeError: arguments that do not fit, or are not finite.
        NonFiniteError: a derivative is NaN or infinite.

    Cost: m derivatives of the loss, and a sort of the inputs.

    Example:
        >>> group_residual([0.0, 0.0, 1.0], [[1.0], [1.0], [2.0]], [1.0, 2.0, 1.0], "square").tolist()
        [[-3.0], [0.0]]
    """
    outputs, labels = outputs_of(F), groups_of(X, x_tol)
    if len(outputs) != len(labels):
        raise ShapeError(f"`F` holds {len(outputs)} examples and `X` {len(labels)}; give as many of both.")
    derivatives = output_gradients(loss, outputs, targets_like(y, outputs, loss))
    sums = np.zeros((labels.max() + 1, outputs.shape[1]))
    np.add.at(sums, labels, derivatives)
    return sums


def output_gradients(loss: ExampleLoss, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The derivative of each example's loss in its outputs, (m, c), in float64.

    Raises:
        TypeError: the loss of an example is not one number.
        NonFiniteError: a derivative is NaN or infinite.
    """
    found: np.ndarray = call_in_float64(_output_gradients, as_loss(loss), outputs, y)
    if not np.isfinite(found).all():
        raise NonFiniteError("the derivative of `loss` in the outputs is NaN or infinite; scale outputs or targets.")
    return found


def attained(loss: ExampleLoss, y: Any, num_outputs: int) -> np.ndarray:
    """Whether each example's loss has a minimum in its outputs, rather than an infimum at infinity, (m,) of bool.

    A convex loss that attains its minimum has regularized minimizers argmin l(q) + r |q|^2 / 2 that converge as r goes
    to 0, and one that does not has minimizers that move on. They are compared at r = 1e-4, 1e-8 and 1e-12 of the loss's
    curvature at q = 0: a test and not a proof, by which a target with probabilities below 1e-10 counts as a hard one.

    Cost: up to 600 Newton steps for each distinct target.
    """
    targets = np.asarray(y)
    if loss == "square":
        return np.ones(len(targets), bool)
    distinct, index = np.unique(targets, axis=0, return_inverse=True)
    ends = [call_in_float64(_regularized, as_loss(loss), distinct, num_outputs, ridge) for ridge in _RIDGES]
    first, second = (np.linalg.norm(after - before, axis=1) for before, after in pairwise(ends))
    still = second <= _STILL * np.linalg.norm(ends[-1], axis=1)
    return np.asarray(still | (second <= _GROWTH * first))[index.reshape(-1)]


def _square(output: jax.Array, target: Any) -> jax.Array:
    return jnp.sum((output - target) ** 2) / 2


def _cross_entropy(logits: jax.Array, target: Any) -> jax.Array:
    logs = jax.nn.log_softmax(logits)
    if jnp.ndim(target) == 0:
        return -logs[target]
    return -jnp.sum(target * logs)


def _poly_hinge(output: jax.Array, target: Any) -> jax.Array:
    margin = jnp.sum(output * target)
    return jnp.maximum(0.0, 1.0 - margin) ** 3


@partial(jax.jit, static_argnums=0)
def _output_gradients(loss: Callable[[Any, Any], jax.Array], outputs: Any, y: Any) -> jax.Array:
    return jax.grad(lambda f: mean_loss(loss, f, y) * len(f))(outputs)


@partial(jax.jit, static_argnums=(0, 2))
def _regularized(loss: Callable[[Any, Any], jax.Array], y: Any, num_outputs: int, ridge: Any) -> jax.Array:
    """The minimizer of each loss, in units of its curvature at 0, plus ridge/2 |q|^2; by damped Newton steps from 0."""

    def one(target: Any) -> jax.Array:
        def own(q: jax.Array) -> jax.Array:
            return jnp.sum(loss(q, target))

        start = jnp.zeros(num_outputs)
        unit = jnp.maximum(jnp.linalg.norm(jax.hessian(own)(start)), jnp.linalg.norm(jax.grad(own)(start)))
        unit = jnp.where(unit > 0, unit, 1.0)

        def objective(q: jax.Array) -> jax.Array:
            return own(q) / unit + ridge / 2 * jnp.sum(q**2)

        def step(_: Any, q: jax.Array) -> jax.Array:
            slope, curved = jax.grad(objective)(q), jax.hessian(objective)(q)
            move = jnp.linalg.solve(curved, slope)
            move = move / jnp.maximum(1.0, jnp.linalg.norm(move) / (1 + jnp.linalg.norm(q)))  # at most to twice |q| + 1
            lengths = 0.5 ** jnp.arange(20.0)
            trials = q[None] - lengths[:, None] * move[None]
            values = jax.vmap(objective)(trials)
            best = jnp.argmin(values)
            return jnp.where(values[best] < objective(q), trials[best], q)

        return jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)

    return jax.vmap(one)(y)
