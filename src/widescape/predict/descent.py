"""Gradient descent in function space: step by step for the square loss in closed form, and for any other loss."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import integrate

from widescape.core import checks
from widescape.core.errors import NonFiniteError
from widescape.predict.gradient_flow import per_eigenvalue
from widescape.predict.modes import Modes, RegScale, cross_kernel, initial, targets

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def discrete_gd(
    K: Any,  # noqa: N803
    y: Any,
    lr: float,
    steps: Any,
    *,
    momentum: float = 0.0,
    reg: float = 0.0,
    reg_scale: RegScale = "mean_trace",
    K_test: Any = None,  # noqa: N803
    f0_train: Any = 0.0,
    f0_test: Any = 0.0,
) -> np.ndarray:
    """Outputs of a linear model after steps of gradient descent on the squared loss, exactly.

    With L = 1/(2 n) sum (f - y)^2 over n = m C entries, the residual after k steps is (I - lr K/n)^k r_0: what to
    compare a finite run with, instead of the flow. With momentum, w_{k+1} = w_k - lr grad + momentum (w_k - w_{k-1}).

    Args:
        K: kernel of the training points (m, m).
        y: targets (m,) or (m, C).
        lr: the learning rate; a loss that sums over outputs needs ``lr=C * lr``.
        steps: how many, or a vector (T,) of numbers of steps.
        momentum: of the heavy ball, in [0, 1).
        reg: pull to the initial parameters, as in `GradientFlow`.
        reg_scale: as there.
        K_test: kernel between test and training points (M, m); None for the outputs on the training points.
        f0_train: outputs on the training points before training, shaped like y or a number.
        f0_test: the same on the test points.

    Returns:
        outputs shaped like y, or (M,) or (M, C) with `K_test`; with a leading axis for several numbers of steps.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        NonFiniteError: descent diverges beyond the largest double; `lr` is above `max_learning_rate`.

    Cost: about 9 m^3 flops for the eigendecomposition; each number of steps takes 2 m^2 C more, however many they are.

    Example:
        >>> K, y = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([1.0, 1.0])
        >>> discrete_gd(K, y, 1.0, 1).tolist()  # n = 2: residuals are multiplied by 1 - 2/2 and 1 - 1/2
        [1.0, 0.5]
    """
    modes = Modes(K, y, reg, reg_scale, "discrete_gd")
    rate, beta = _checked_rate(lr, momentum)
    start = initial(f0_train, modes.y.shape, "f0_train")
    residual = modes.y - start
    if K_test is not None:
        cross = modes.cross(K_test)
        start = initial(f0_test, (len(cross), *modes.y.shape[1:]), "f0_test")

    def outputs(count: int) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _summed_steps(modes.values, rate / modes.num_entries, beta, count)
            if K_test is None:
                result = start + modes.apply(modes.own * weights, residual)
            else:
                result = start + cross @ modes.apply(weights, residual)
        if not np.isfinite(result).all():
            raise NonFiniteError(
                f"descent with lr={lr} diverges beyond the largest double within {count} steps; stay below "
                "`max_learning_rate`."
            )
        return result

    counts = np.asarray(steps)
    if counts.dtype.kind not in "iu" or counts.ndim > 1 or (counts < 0).any():
        raise ValueError(f"`steps` is {steps!r}; give an integer that is not negative, or a vector of them.")
    return outputs(int(counts)) if counts.ndim == 0 else np.stack([outputs(int(k)) for k in counts])


def _summed_steps(values: np.ndarray, rate: float, beta: float, count: int) -> np.ndarray:
    """(1 - p_k(w))/w for each eigenvalue w, where p_k multiplies its residual after k steps."""
    a = rate * values
    if beta == 0:
        small = a < 0.5  # there 1 - (1 - a)^k cancels
        power = -np.expm1(count * np.log1p(-np.where(small, a, 0.0)))
        moved = np.where(small, power, 1 - (1 - np.where(small, 0.0, a)) ** count)
        return per_eigenvalue(moved, values, rate * count)
    # s_{k+1} = s_k + rate (1 - w s_k) + beta (s_k - s_{k-1}), an affine recursion in (s_k, s_{k-1}).
    step = np.zeros((len(values), 3, 3))
    step[:, 0, 0], step[:, 0, 1], step[:, 0, 2] = 1 + beta - a, -beta, rate
    step[:, 1, 0] = step[:, 2, 2] = 1.0
    return np.asarray(np.linalg.matrix_power(step, count)[:, 0, 2])


def flow(
    loss: Loss,
    K: Any,  # noqa: N803
    y: Any,
    t: Any,
    *,
    lr: float = 1.0,
    momentum: float | None = None,
    K_test: Any = None,  # noqa: N803
    f0_train: Any = 0.0,
    f0_test: Any = 0.0,
    rtol: float = 1e-8,
) -> np.ndarray:
    """Outputs of a linear model under gradient flow on any loss, by an adaptive solver.

    df/dt = -lr K dL/df, where L = ``loss(f, y)`` is one number; averaging is up to the loss.
    With momentum b, f'' + (1 - b) f' = -lr K dL/df: the heavy ball, time counted in steps, for small steps.

    Args:
        loss: maps outputs (m, C), or (m,), and `y` to a number, differentiable by JAX.
        K: kernel of the training points (m, m).
        y: what the loss takes, with m points first.
        t: a time, or a rising vector (T,) of times.
        lr: the learning rate.
        momentum: of the heavy ball, in [0, 1); None for plain flow.
        K_test: kernel between test and training points (M, m); None for the outputs on the training points.
        f0_train: outputs on the training points before training; gives their shape if it is an array, else they
            are shaped like y.
        f0_test: the same on the test points.
        rtol: relative tolerance of the solver (LSODA, which turns implicit where the problem is stiff).

    Returns:
        outputs (m, ...), or (M, ...) with `K_test`; with a leading axis for several times.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        NonFiniteError: the solver fails; the message is its own.

    Cost: a few hundred evaluations of the gradient, 2 m^2 C flops each.

    Example:
        >>> import jax.numpy as jnp
        >>> K, y = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0])
        >>> flow(lambda f, y: jnp.sum((f - y) ** 2) / 4, K, y, 2.0).round(6).tolist()
        [0.791167, 0.159046]
    """
    kernel = checks.square_matrix(K, "K")
    rate, _ = _checked_rate(lr, momentum or 0.0)
    given = np.asarray(f0_train, np.float64)
    goal = np.asarray(y) if given.ndim else targets(y, len(kernel))
    start = initial(f0_train, given.shape if given.ndim else goal.shape, "f0_train")
    rows = [kernel]
    starts = [start]
    if K_test is not None:
        rows.append(cross_kernel(K_test, len(kernel)))
        starts.append(initial(f0_test, (len(rows[1]), *start.shape[1:]), "f0_test"))
    times = np.atleast_1d(np.asarray(t, np.float64))
    if (
        times.ndim != 1
        or not np.isfinite(times).all()
        or times.size == 0
        or times[0] < 0
        or (np.diff(times) <= 0).any()
    ):
        raise ValueError(f"`t` is {t!r}; give a finite time that is not negative, or a rising vector of times.")
    with jax.enable_x64(True):
        path = _integrated(jax.jit(jax.grad(loss)), np.concatenate(rows), starts, goal, times, rate, momentum, rtol)
    first = len(kernel) if K_test is not None else 0
    outputs = path[:, first : None if K_test is not None else len(kernel)]
    return outputs if np.ndim(t) else outputs[0]


def _integrated(
    gradient: Any,
    rows: np.ndarray,
    starts: list[np.ndarray],
    goal: np.ndarray,
    times: np.ndarray,
    rate: float,
    momentum: float | None,
    rtol: float,
) -> np.ndarray:
    """Outputs on all rows at each time."""
    begin = np.concatenate(starts)
    shape, m = begin.shape, len(starts[0])

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        outputs = state[: begin.size].reshape(shape)
        force = -rate * (rows @ np.asarray(gradient(outputs[:m], goal)))
        if momentum is None:
            return force.reshape(-1)
        speed = state[begin.size :]
        return np.concatenate([speed, force.reshape(-1) - (1 - momentum) * speed])

    state = begin.reshape(-1) if momentum is None else np.concatenate([begin.reshape(-1), np.zeros(begin.size)])
    if times[-1] == 0:
        return np.broadcast_to(begin, (len(times), *shape))
    done = integrate.solve_ivp(
        velocity, (0.0, float(times[-1])), state, method="LSODA", t_eval=times, rtol=rtol, atol=rtol * 1e-2
    )
    if not done.success or not np.isfinite(done.y).all():
        raise NonFiniteError(f"the solver stopped: {done.message} Lower `lr` or check the loss.")
    return np.asarray(done.y[: begin.size].T.reshape(len(times), *shape))


def _checked_rate(lr: Any, momentum: Any) -> tuple[float, float]:
    rate, beta = checks.number(lr, "lr", "descent"), checks.number(momentum, "momentum", "descent")
    checks.positive(rate, "lr", "descent")
    if not 0 <= beta < 1:
        raise ValueError(f"`momentum` is {momentum}; it must lie in [0, 1).")
    return rate, beta
