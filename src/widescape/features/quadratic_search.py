"""Searches for a stationary point of the quadratic Taylor model's risk: L-BFGS over all rows, Adam over minibatches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize

from widescape.core.blas import serial_blas
from widescape.core.errors import NonFiniteError
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.status import Status
from widescape.features.output_losses import OutputLoss
from widescape.features.quadratic_objective import QuadraticProblem, loss_and_gradient

_MEMORY = 8  # pairs of vectors that L-BFGS keeps
_BATCH = 256
_RATE = 1e-2  # of Adam at the start; it falls to 0 as a cosine


class QuadraticStatus(Status):
    """How a fit of the quadratic Taylor model ended."""

    OK = "The norm of the gradient, or of the convex solver the relative duality gap, is within `tol`."
    OUT_OF_STEPS = "The steps ran out before `tol` was reached; raise `max_iter` or `tol`."
    PRECISION = 'Rounding lets the objective fall no further above `tol`; raise `tol`, or `dtype` if it is "float32".'
    SADDLE = "The gradient is within `tol`, but steps ran out while a direction of negative curvature was left."
    NO_GAP = "The convex solver's steps became small; the loss is a function without a conjugate, so there is no gap."
    DIVERGED = "The objective left the range of numbers; what is returned is the last finite point."


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended, with the objective at the start and after each iteration."""

    W: np.ndarray
    history: list[float]
    grad_norm: float
    iterations: int
    status: QuadraticStatus


class _Evaluations:
    """The objective for SciPy, with the last gradient kept."""

    def __init__(self, problem: QuadraticProblem) -> None:
        self.problem = problem
        self.point, self.value, self.slope = np.empty(0), np.nan, np.empty(0)

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        if not np.array_equal(flat, self.point):
            with np.errstate(over="ignore", invalid="ignore"):
                value, gradient = self.problem.value_and_gradient(flat.reshape(self.problem.shape))
            self.point, self.value, self.slope = flat.copy(), value, gradient.ravel()
        return self.value, self.slope


def search_lbfgs(
    problem: QuadraticProblem, start: np.ndarray, max_iter: int, tol: float, show: bool | None = None
) -> Found:
    """L-BFGS over all rows, until the Euclidean norm of the gradient is at most `tol`.

    Vectors are float64, the products with H of the problem's precision.
    """
    evaluate = _Evaluations(problem)
    value, slope = evaluate(start.ravel())
    if not (np.isfinite(value) and np.isfinite(slope).all()):
        raise NonFiniteError("the objective at the start is beyond the range of numbers; scale `H`, `y` or `start`.")
    history = [value]
    if np.linalg.norm(slope) <= tol or max_iter == 0:
        return _found(problem, start, history, float(np.linalg.norm(slope)), tol, out_of_steps=True)
    bar = iter(track(range(max_iter), "fitting the quadratic model", show=show))

    def accepted(intermediate_result: Any) -> None:
        next(bar, None)
        value, slope = evaluate(intermediate_result.x)
        history.append(value)
        if np.linalg.norm(slope) <= tol:
            raise StopIteration

    options = {"maxcor": _MEMORY, "maxiter": max_iter, "maxfun": 100 * max_iter, "ftol": 0.0, "gtol": 0.0}
    with serial_blas():  # sums over vectors, which threads would slow down
        done = optimize.minimize(
            evaluate, start.ravel(), jac=True, method="L-BFGS-B", callback=accepted, options=options
        )
    _finish(bar)
    norm = float(np.linalg.norm(evaluate(done.x)[1]))
    return _found(problem, done.x, history, norm, tol, out_of_steps=len(history) > max_iter)


def _found(
    problem: QuadraticProblem, flat: np.ndarray, history: list[float], norm: float, tol: float, *, out_of_steps: bool
) -> Found:
    status = QuadraticStatus.PRECISION
    if norm <= tol:
        status = QuadraticStatus.OK
    elif out_of_steps:
        status = QuadraticStatus.OUT_OF_STEPS
    return Found(flat.reshape(problem.shape), history, norm, len(history) - 1, status)


def _finish(bar: Iterator[Any]) -> None:
    """Let a progress bar end."""
    for _ in bar:
        pass


def search_adam(
    problem: QuadraticProblem,
    start: np.ndarray,
    max_iter: int,
    tol: float,
    generator: np.random.Generator,
    show: bool | None = None,
) -> Found:
    """Adam over minibatches of 256 rows, `max_iter` epochs, with a rate that falls from 1e-2 to 0.

    All is of the problem's precision. Rows that fill no batch are left out of an epoch, others in each.
    """
    with double_scope(problem.dtype == "float64"):
        return _search_adam(problem, start, max_iter, tol, generator, show)


def _search_adam(
    problem: QuadraticProblem,
    start: np.ndarray,
    max_iter: int,
    tol: float,
    generator: np.random.Generator,
    show: bool | None,
) -> Found:
    n, dtype = len(problem.H), problem.dtype
    size = min(_BATCH, n)
    batches = n // size
    weights = jnp.asarray(np.asarray(start, dtype))
    state = optax.scale_by_adam().init(weights)
    history = [problem.value(start)]
    if not np.isfinite(history[0]):
        raise NonFiniteError("the objective at the start is beyond the range of numbers; scale `H`, `y` or `start`.")
    status, best = QuadraticStatus.OUT_OF_STEPS, start
    for epoch in track(range(max_iter), "fitting the quadratic model", show=show):
        rows = generator.permutation(n)[: batches * size].reshape(batches, size)
        steps = epoch * batches + np.arange(batches)
        rates = (_RATE / 2 * (1 + np.cos(np.pi * steps / (max_iter * batches)))).astype(dtype)
        weights, state = _epoch(
            problem.loss, problem.reg, weights, state, rows, rates, np.asarray(problem.lam, dtype), problem.on_device
        )
        point = np.asarray(weights, dtype=np.float64)
        value = problem.value(point)
        if not np.isfinite(value):
            status = QuadraticStatus.DIVERGED
            break
        best = point
        history.append(value)
    norm = float(np.linalg.norm(problem.gradient(best)))
    if norm <= tol:
        status = QuadraticStatus.OK
    return Found(best, history, norm, len(history) - 1, status)


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    loss: OutputLoss, reg: str, weights: Any, state: Any, rows: Any, rates: Any, lam: Any, data: Any
) -> tuple[Any, Any]:
    """One pass over minibatches (batches, rows)."""
    inputs, targets, scales = data
    adam = optax.scale_by_adam()

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        W, state = carry
        taken, rate = batch
        gradient = loss_and_gradient(loss, W, inputs[taken], targets[taken], scales[taken])[1]
        if reg == "l24":
            gradient += 4 * lam * jnp.sum(W**2, axis=1, keepdims=True) * W
        else:
            gradient += 2 * lam / len(W) ** 0.5 * W
        update, state = adam.update(gradient, state)
        return (W - rate * update, state), None

    return jax.lax.scan(step, (weights, state), (rows, rates))[0]
