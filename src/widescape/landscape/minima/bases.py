"""Objectives in canonical form, Q(phi(params)) with a convex Q, and the minimum of Q over a subspace."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import double_scope
from widescape.core.random import named_generator
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.operators import Operators, losses_of
from widescape.landscape.minima.losses import ExampleLoss, as_columns, as_loss, mean_loss

Inner = Callable[[Any], jax.Array]
Outer = Callable[[jax.Array], jax.Array]

_NEWTON_STEPS = 200
_DECREMENT = 1e-14  # relative decrease that a Newton step promises, below which the search ends
_NEAR = 1e-5  # relative length of that step, above which the minimum is not near
_INDEFINITE = 1e-6  # of the largest curvature seen: more negative is not rounding
_FLAT = 1e-10  # of it: less is no curvature
_FAR = 1e10
_UNRESOLVED = 1e-10  # relative decrease that a search may fail to show
_RISEN = 1e-6  # relative rise of Q that is none of rounding
_AHEAD = (1.0, 10.0, 100.0)  # how far a direction without curvature is followed, relative to the point
_LOOKS = (0.0, 0.25, 0.5, 1.0, 2.0)  # how far out convexity is looked at
_EPS = float(np.finfo(np.float64).eps)


class ConvexStatus(Status):
    """How the minimization of Q over the basis ended."""

    OK = "The minimum of the convex problem was found."
    AT_INFINITY = (
        "The convex problem has no minimum within reach: its value is where the search stopped, and the gap is larger."
    )
    NOT_CONVERGED = "Newton's method did not converge: the value is above the minimum, and the gap is larger."
    NOT_POSED = "The convex problem was not posed: its assumptions fail, or it was not asked for."


class Augmented(Protocol):
    """A model with an added neuron, whose amplitudes alone are penalized."""

    def apply(self, q: Any, x: Any) -> Any:
        """Outputs (m, c), of the model and the neuron together."""

    def amplitudes(self, q: Any) -> Any:
        """The amplitudes a of the neuron (c,)."""


def model_basis(system: System) -> tuple[Inner, Outer]:
    """A system's loss as Q(phi(params)): phi are all outputs, stacked to (n c,), and Q is the loss as their function.

    The loss of one example must be convex in its outputs. Outputs must not depend on which examples are in a batch, and
    the system must hold all of them: a random batch has no fiber.

    Args:
        system: the function, its data with targets, and its loss, summed or averaged.

    Returns:
        phi and Q, for `pgb_certificate` and `classify_point`. They hold the data in float64. Those of one system are
        equal however often they are made, and share compiled programs.

    Raises:
        ValueError: the system has no targets.

    Cost: nothing.

    Example:
        >>> from widescape.core.precision import call_in_float64
        >>> line = System(lambda w, x: w * x, np.array([2.0]), np.array([1.0, 3.0]), np.zeros(2), reduction="mean")
        >>> phi, outer = model_basis(line)
        >>> call_in_float64(phi, line.params).tolist(), float(call_in_float64(outer, np.array([2.0, 6.0])))
        ([2.0, 6.0], 10.0)
    """
    system.require_targets()
    own = system.as_float64()
    with double_scope(True):
        shape = jax.eval_shape(own.operators.outputs, own.flat, own.arrays[0], None).shape
    return _Outputs(system, own), _LossOfOutputs(system, own, shape)


def augmented_basis(model: Augmented, loss: ExampleLoss, lam: float, X: Any, y: Any) -> tuple[Inner, Outer]:  # noqa: N803
    """The modified loss as Q(phi(q)): phi are all outputs and the amplitudes, and Q(z, a) = mean loss + lam |a|^2.

    Args:
        model: with an added neuron, from `augment_exp`: its ``apply(q, x)`` are outputs (m, c), and its
            ``amplitudes(q)`` are a (c,).
        loss: of one example, convex in its outputs.
        lam: weight of the penalty, positive.
        X: all inputs (m, ...).
        y: a target for each.

    Returns:
        phi and Q of m c + c entries, for `pgb_certificate` and `classify_point`. They hash by identity: make them once
        for many points.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: nothing.
    """
    weight = checks.number(lam, "lam", "augmented_basis")
    checks.positive(weight, "lam", "augmented_basis")
    inputs, targets = _in_double(X, "X"), _in_double(y, "y")
    if len(inputs) == 0 or targets.shape[:1] != inputs.shape[:1]:
        raise ShapeError(
            f"`X` has shape {inputs.shape} and `y` {targets.shape}; give at least one example, and a target for each."
        )
    return _AugmentedOutputs(model, inputs), _PenalizedLoss(as_loss(loss), targets, float(weight))


def minimum_over(outer: System, basis: np.ndarray, start: np.ndarray) -> tuple[float, ConvexStatus]:
    """The minimum of Q over the span of the basis, by damped Newton steps from the point itself.

    Decreases below 1e-14 of the largest of |Q| here, at the start and at 0 count as none.

    Raises:
        ValueError: Q is not convex where it was looked at.
        NonFiniteError: it, or a derivative, is NaN or infinite.
    """
    at, scale = start, 0.0
    if at.size == 0:
        return _model(outer, basis, at)[0], ConvexStatus.OK
    limit = _FAR * (1 + float(np.linalg.norm(start)))
    unit = size_at_zero(outer)
    for _ in range(_NEWTON_STEPS):
        value, slope, curved = _model(outer, basis, at)
        scale, unit = max(scale, float(np.abs(curved).max())), max(unit, abs(value))
        spectrum = _spectrum(curved, scale, unit)
        step = _newton_step(slope, *spectrum, scale)
        decrease, length = -float(slope @ step), float(np.linalg.norm(step))
        reach = 1 + float(np.linalg.norm(at))
        if decrease <= _DECREMENT * unit:
            near = length <= _NEAR * reach and not _recedes(outer, basis, at, _flat_part(slope, *spectrum, scale), unit)
            return value, ConvexStatus.OK if near else ConvexStatus.AT_INFINITY
        if reach > limit:
            return value, ConvexStatus.AT_INFINITY
        cut = min(1.0, 10 * reach / length)  # where the quadratic model is believed
        found = _searched(outer, basis, at, cut * step, value, cut * decrease)
        if found is None:
            small = decrease <= _UNRESOLVED * unit
            if small and _recedes(outer, basis, at, _flat_part(slope, *spectrum, scale), unit):
                return value, ConvexStatus.AT_INFINITY
            return value, ConvexStatus.OK if small else ConvexStatus.NOT_CONVERGED
        at = found
    return _model(outer, basis, at)[0], ConvexStatus.NOT_CONVERGED


def size_at_zero(outer: System) -> float:
    """|Q(0)|, which says how large a value of Q is; 0 where it is not finite."""
    try:
        return abs(outer.value(np.zeros(outer.num_params)))
    except NonFiniteError:
        return 0.0


def require_convex(outer: System, basis: np.ndarray, start: np.ndarray) -> None:
    """Look at the curvature of Q over the span of the basis at 0 and at random points up to twice as far as `start`.

    That proves no convexity; it finds where it fails widely.

    Raises:
        ValueError: Q has negative curvature at one of them.
    """
    generator = named_generator(None, "convexity")
    size = (float(np.linalg.norm(start)) or 1.0) / max(start.size, 1) ** 0.5
    unit = size_at_zero(outer)
    for far in _LOOKS:
        at = far * size * generator.normal(size=start.size)
        try:
            value, _, curved = _model(outer, basis, at)
        except NonFiniteError:
            continue
        if curved.size:
            _spectrum(curved, float(np.abs(curved).max()), max(unit, abs(value)))


def _flat_part(slope: np.ndarray, eigenvalues: np.ndarray, vectors: np.ndarray, scale: float) -> np.ndarray | None:
    """The unit vector down the part of the slope along which Q has no curvature; None if it is 0, up to rounding."""
    flat = vectors[:, eigenvalues < _floor(scale)]
    part = -flat @ (slope @ flat)
    length = float(np.linalg.norm(part))
    if length <= _EPS * slope.size * float(np.linalg.norm(slope)):
        return None
    return np.asarray(part / length)


def _recedes(outer: System, basis: np.ndarray, at: np.ndarray, flat: np.ndarray | None, unit: float) -> bool:
    """Whether Q falls along a direction without coming to an end: far back it is higher, and far ahead it is not.

    It is constant both ways where the direction does not matter, as for logits that all grow alike.
    """
    if flat is None:
        return False

    def risen(t: float) -> bool:
        try:
            return outer.value(basis @ (at + t * flat)) > value + _RISEN * unit
        except NonFiniteError:
            return True

    value = outer.value(basis @ at)
    reach = 1 + float(np.linalg.norm(at))
    return any(risen(-t * reach) and not risen(t * reach) for t in _AHEAD)


def _searched(
    outer: System, basis: np.ndarray, at: np.ndarray, step: np.ndarray, value: float, decrease: float
) -> np.ndarray | None:
    """The first point at + t step, t = 1, 1/2, ..., with a tenth of the decrease that the slope promises."""
    for halvings in range(40):
        t = 0.5**halvings
        try:
            lower = outer.value(basis @ (at + t * step))
        except NonFiniteError:
            continue
        if lower < value and lower <= value - 0.1 * t * decrease:
            return np.asarray(at + t * step)
    return None


def _spectrum(curved: np.ndarray, scale: float, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a Hessian of Q.

    Raises:
        ValueError: it is indefinite beyond rounding, 1e-6 of the largest curvature seen and 1e-12 of the size of Q.
    """
    eigenvalues, vectors = np.linalg.eigh(curved)
    if eigenvalues[0] < -max(_INDEFINITE * scale, 1e-12 * unit):
        raise ValueError(
            f"`Q` is not convex: its Hessian has the eigenvalue {eigenvalues[0]:.3g}; give a loss that is convex in "
            "the outputs."
        )
    return eigenvalues, vectors


def _newton_step(slope: np.ndarray, eigenvalues: np.ndarray, vectors: np.ndarray, scale: float) -> np.ndarray:
    """-H^-1 g, where eigenvalues of H below 1e-10 of its scale are raised to it."""
    return np.asarray(-vectors @ ((slope @ vectors) / np.maximum(eigenvalues, _floor(scale))))


def _floor(scale: float) -> float:
    return _FLAT * (scale if scale > 0 else 1.0)


def _model(outer: System, basis: np.ndarray, at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    with double_scope(True):
        found = _second_order(outer.operators, basis, at, *outer.arrays)
    value, slope, curved = (np.asarray(part) for part in found)
    if not all(np.isfinite(part).all() for part in (value, slope, curved)):
        raise NonFiniteError("`Q` or a derivative of it is NaN or infinite on the basis; scale the outputs or targets.")
    return float(value), slope, curved


@partial(jax.jit, static_argnums=0)
def _second_order(operators: Operators, basis: Any, at: Any, x: Any, y: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    def objective(coefficients: Any) -> jax.Array:
        return operators.value(basis @ coefficients, x, y)

    return objective(at), jax.grad(objective)(at), jax.hessian(objective)(at)


@dataclass(frozen=True)
class _Outputs:
    source: System  # equal by identity
    system: System = field(compare=False)

    def __call__(self, params: Any) -> jax.Array:
        return jnp.reshape(self.system.operators.f(params, self.system.arrays[0]), -1)


@dataclass(frozen=True)
class _LossOfOutputs:
    source: System
    system: System = field(compare=False)
    shape: tuple[int, ...]

    def __call__(self, outputs: Any) -> jax.Array:
        operators, (_, y) = self.system.operators, self.system.arrays
        return operators.weight * jnp.sum(losses_of(operators.loss, jnp.reshape(outputs, self.shape), y))


@dataclass(frozen=True, eq=False)
class _AugmentedOutputs:
    model: Augmented
    inputs: np.ndarray

    def __call__(self, q: Any) -> jax.Array:
        outputs = as_columns(jnp.asarray(self.model.apply(q, self.inputs)))
        return jnp.concatenate([jnp.reshape(outputs, -1), jnp.reshape(self.model.amplitudes(q), -1)])


@dataclass(frozen=True, eq=False)
class _PenalizedLoss:
    loss: Callable[[Any, Any], jax.Array]
    targets: np.ndarray
    weight: float

    def __call__(self, entries: Any) -> jax.Array:
        num = len(self.targets)
        num_outputs = entries.size // (num + 1)
        outputs, amplitudes = entries[: num * num_outputs], entries[num * num_outputs :]
        targets = jnp.asarray(self.targets)
        fit = mean_loss(self.loss, jnp.reshape(outputs, (num, num_outputs)), targets)
        return fit + self.weight * jnp.sum(amplitudes**2)


def _in_double(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 0:
        raise ShapeError(f"`{name}` is one number; give an array, examples first.")
    if array.dtype.kind == "f":
        checks.all_finite(array, name)
        return array.astype(np.float64)
    return array
