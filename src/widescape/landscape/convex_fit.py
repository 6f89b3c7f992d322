"""The best linear function of given features under a convex loss, where it exists, and under a norm cap where not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from widescape.core.blas import threads_for
from widescape.core.errors import NonFiniteError
from widescape.core.precision import call_in_float64
from widescape.landscape.minima.losses import ExampleLoss, as_loss, attained, mean_loss

_RANK = 1e-10  # singular values of the design below this share of the largest count as zero
_RIDGES = 10.0 ** -np.arange(0, 15)
_LARGEST = 1e12  # a ridge at which the coefficients are next to 0
_NEWTON_STEPS = 100
_SMALL = 1e-12  # a Newton step below this share of the coefficients ends the method
_BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class ConvexFit:
    """The outputs of a best linear function, its mean loss, and whether that is a minimum.

    Attributes:
        value: mean loss.
        outputs: (m, c).
        norm: root mean square of the outputs, sqrt(sum_i |q_i|^2 / m).
        capped: no minimum was found within the norm cap: the value is the smallest one under it.
    """

    value: float
    outputs: np.ndarray
    norm: float
    capped: bool


def best_linear_fit(design: np.ndarray, y: np.ndarray, loss: ExampleLoss, num_outputs: int, cap: float) -> ConvexFit:
    """The smallest mean loss of outputs D A over all A (k, c), for a design D (m, k).

    Least squares for ``"square"``. For other losses damped Newton steps in an orthonormal basis of the range of D, with
    a ridge that goes down to 1e-14. The cap, on the root mean square of the outputs, applies only where the loss of
    some example attains no minimum; where it is reached, the smallest value at the cap is found by bisection.

    Cost: a singular value decomposition, and up to some hundred linear systems of r c unknowns, r the rank.
    """
    with threads_for(min(design.shape)):
        left, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, sizes > _RANK * max(float(sizes[0]), 1e-300)]
    if isinstance(loss, str) and loss == "square":
        return _fitted(basis @ (basis.T @ y), y, loss, False)
    scaled = np.sqrt(len(design)) * basis
    bounded = bool(attained(loss, y, num_outputs).all())
    coefficients, capped = _minimized(scaled, y, loss, num_outputs, np.inf if bounded else cap)
    return _fitted(scaled @ coefficients, y, loss, capped)


def value_of(outputs: np.ndarray, y: np.ndarray, loss: ExampleLoss) -> float:
    """The mean loss of outputs, in float64."""
    return float(call_in_float64(_value, as_loss(loss), outputs, y))


def expanded(outputs: np.ndarray, y: np.ndarray, loss: ExampleLoss) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivatives of each example's loss in its outputs, (m, c) and (m, c, c), in float64.

    Raises:
        NonFiniteError: a derivative is NaN or infinite.
    """
    gradients, curved = call_in_float64(_expanded, as_loss(loss), outputs, y)
    if not (np.isfinite(gradients).all() and np.isfinite(curved).all()):
        raise NonFiniteError("a derivative of `loss` in the outputs is NaN or infinite; scale the outputs or targets.")
    return gradients, curved


def _fitted(outputs: np.ndarray, y: np.ndarray, loss: ExampleLoss, capped: bool) -> ConvexFit:
    norm = float(np.sqrt(np.sum(outputs**2) / len(outputs)))
    return ConvexFit(value_of(outputs, y, loss), outputs, norm, capped)


def _minimized(basis: np.ndarray, y: np.ndarray, loss: ExampleLoss, c: int, cap: float) -> tuple[np.ndarray, bool]:
    """Coefficients (r, c), whose norm is the root mean square of the outputs, and whether the cap was reached."""
    found = np.zeros((basis.shape[1], c))
    previous = found
    for i, ridge in enumerate(_RIDGES):
        previous, found = found, _newton(basis, y, loss, found, ridge)
        if np.linalg.norm(found) > cap:
            above = float(_RIDGES[i - 1]) if i else _LARGEST
            return _at_cap(basis, y, loss, previous, (float(ridge), above), cap), True
    return found, False


def _at_cap(
    basis: np.ndarray, y: np.ndarray, loss: ExampleLoss, start: np.ndarray, ends: tuple[float, float], cap: float
) -> np.ndarray:
    """The minimizer of norm at most the cap: that of the ridge between `ends` at which the norm is the cap."""
    low, high = ends
    best = start
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        found = _newton(basis, y, loss, best, middle)
        if np.linalg.norm(found) > cap:
            low = middle
        else:
            best, high = found, middle
        if high / low < 1 + 1e-9:
            break
    return best


def _newton(basis: np.ndarray, y: np.ndarray, loss: ExampleLoss, start: np.ndarray, ridge: float) -> np.ndarray:
    """The minimizer of the mean loss plus ridge/2 times the square of the coefficients, by damped Newton steps."""
    coefficients, m = start, len(basis)

    def objective(b: np.ndarray) -> float:
        return value_of(basis @ b, y, loss) + ridge / 2 * float(np.sum(b**2))

    value = objective(coefficients)
    for _ in range(_NEWTON_STEPS):
        outputs = basis @ coefficients
        gradients, curved = expanded(outputs, y, loss)
        slope = basis.T @ gradients / m + ridge * coefficients
        step = -_solved(_hessian(basis, curved), slope.ravel(), ridge).reshape(slope.shape)
        if np.linalg.norm(step) <= _SMALL * (1 + np.linalg.norm(coefficients)):
            break
        length, new = 1.0, objective(coefficients + step)
        while not new < value and length > 1e-10:
            length /= 2
            new = objective(coefficients + length * step)
        if not new < value:
            break
        coefficients, value = coefficients + length * step, new
    return coefficients


def _hessian(basis: np.ndarray, curved: np.ndarray) -> np.ndarray:
    """The mean over examples of the second derivatives in the coefficients (r c, r c): a product for each pair."""
    (m, r), c = basis.shape, curved.shape[1]
    hessian = np.empty((r, c, r, c))
    for k in range(c):
        for j in range(k + 1):
            block = basis.T @ (curved[:, k, j, None] * basis) / m
            hessian[:, k, :, j] = hessian[:, j, :, k] = block
    return hessian.reshape(r * c, r * c)


def _solved(hessian: np.ndarray, slope: np.ndarray, ridge: float) -> np.ndarray:
    """The solution of (H + ridge) x = slope; of least length where the ridge is lost in rounding."""
    n = len(slope)
    rounding = n * float(np.finfo(np.float64).eps) * float(np.trace(hessian))
    hessian[np.diag_indices(n)] += ridge
    with threads_for(n):
        if ridge > rounding:
            return np.asarray(cho_solve(cho_factor(hessian), slope))
        return np.asarray(np.linalg.lstsq(hessian, slope, rcond=None)[0])


@partial(jax.jit, static_argnums=0)
def _value(loss: Callable[[Any, Any], jax.Array], outputs: Any, y: Any) -> jax.Array:
    return mean_loss(loss, outputs, y)


@partial(jax.jit, static_argnums=0)
def _expanded(loss: Callable[[Any, Any], jax.Array], outputs: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    def one(output: jax.Array, target: Any) -> tuple[jax.Array, jax.Array]:
        slope = jax.grad(lambda q: jnp.sum(loss(q, target)))
        return slope(output), jax.jacfwd(slope)(output)

    return jax.vmap(one)(outputs, y)
