"""Training a full two-layer network with fresh random signs at each step, which leaves its even part."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, sampled
from widescape.core.precision import call_in_float64, double_scope
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.request import hashable
from widescape.features.expansions import Phi, activation_of
from widescape.features.output_losses import Loss, OutputLoss, loss_of
from widescape.features.quadratic_fit import start_of, warn_if_constant
from widescape.features.quadratic_objective import (
    Precision,
    Regularizer,
    mean_of_loss,
    signs_of,
    targets_of,
    weights_like,
)
from widescape.features.random_layers import as_matrix

_AT_ONCE = 100  # steps of one compiled call


class SignRandomizedStatus(Status):
    """How training with random signs ended."""

    OK = "All steps were taken."
    DIVERGED = "The objective left the range of numbers; what is returned is the last finite point. Lower `rate`."


class SignRandomizedFit(Result):
    """A two-layer network trained with random signs of its displacements."""

    source = "chen2020hierarchical, randomization of the network"
    status: SignRandomizedStatus = quantity(EXACT, "how training ended")
    W: np.ndarray = quantity(EXACT, "displacement of the hidden weights, up to the signs of its rows (m, k)")
    loss: float = quantity(EXACT, "mean loss of the mean prediction over all signs, at W")
    objective: float = quantity(EXACT, "that loss plus the regularizer")
    steps: int = quantity(EXACT, "steps taken")
    history: np.ndarray = quantity(
        sampled("one draw of signs a step"), "mean loss plus regularizer before each step, at its signs (steps,)"
    )

    def charts(self) -> tuple[Chart, ...]:
        """The objective at the drawn signs."""
        series = Series(np.arange(len(self.history)), self.history, "at the signs of the step")
        return (Chart("sign-randomized-fit", "Training with random signs", "step", "objective", (series,)),)


def sign_mean(H: Any, W: Any, W0: Any, a: Any, *, activation: Any) -> np.ndarray:
    """The mean over all signs s of the network with weights W0 + diag(s) W: its part that is even in W.

    It equals m^(-1/2) sum_r a_r (phi((w0_r + w_r) . h) + phi((w0_r - w_r) . h)) / 2, without sampling, and to second
    order in W the value at W0 plus the quadratic Taylor model.

    Args:
        H: representations, (n, k).
        W: displacement of the hidden weights, (m, k).
        W0: hidden weights at the start, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: a name, a nonlinearity of `widescape.arch` or an elementwise function of JAX; it may have kinks.

    Returns:
        (n,) in float64.

    Cost: 4 n m k flops.

    Source: chen2020hierarchical.

    Example:
        >>> one = np.ones((1, 1))
        >>> sign_mean(one, 2 * one, one, np.ones(1), activation="square").tolist()  # (3^2 + 1^2) / 4
        [2.5]
    """
    inputs, start, signs = as_matrix(H, "H"), as_matrix(W0, "W0"), signs_of(a)
    weights = weights_like(W, start.shape, "W")
    phi = hashable(activation_of(activation, "sign_mean"))
    outputs: np.ndarray = call_in_float64(_sign_mean, phi, weights, inputs, start, signs)
    return outputs


def fit_sign_randomized(
    H: Any,
    y: Any,
    W0: Any,
    a: Any,
    *,
    lam: float,
    activation: Any = "relu",
    reg: Regularizer = "l24",
    loss: Loss = "squared",
    steps: int = 1000,
    rate: float = 1e-2,
    init_scale: float = 0.3,
    start: Any = None,
    seed: int = 0,
    dtype: Precision = "float32",
    progress: bool | None = None,
) -> SignRandomizedFit:
    """Train the hidden layer of a two-layer network, each step with fresh signs of the displacements of its neurons.

    A step draws s_r = +1 or -1 with equal chance and follows the gradient in W of the mean loss of
    f(h) = m^(-1/2) sum_r a_r phi((w0_r + s_r w_r) . h) plus the regularizer. Odd terms of f in W vanish in the mean
    over s, the quadratic one stays. What is minimized is the mean over s of the risk, which for the squared loss is the
    risk of `sign_mean` plus the variance of f over s. Adam over all rows, its rate falling to 0 as a cosine.

    Args:
        H: representations, (n, k).
        y: targets of one output, (n,).
        W0: hidden weights at the start, (m, k). The network's value there is part of f; it is zero for rows that come
            in pairs of opposite signs of `a`.
        a: output weights, +1 or -1, (m,).
        lam: weight of the regularizer, at least 0.
        activation: a name, a nonlinearity of `widescape.arch` or an elementwise function of JAX; it may have kinks.
        reg: "l24" or "nuclear", as for `fit_quadratic_taylor`.
        loss: as for `fit_quadratic_taylor`.
        steps: steps of Adam.
        rate: its rate at the start.
        init_scale: the start is normal with variance init_scale^2 / k.
        start: W to begin at in its place, (m, k).
        seed: of the start and of the signs.
        dtype: precision of the steps.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `SignRandomizedFit`; predictions are `sign_mean` at its W.

    Raises:
        ValueError, ShapeError, DtypeError: as `fit_quadratic_taylor`.
        NonFiniteError: the objective at the start leaves the range of numbers.

    Cost: 6 n m k flops per step.

    Source: chen2020hierarchical; Adam and its rate are choices of this library.
    """
    inputs, w0, signs = as_matrix(H, "H"), as_matrix(W0, "W0"), signs_of(a)
    targets = targets_of(y, len(inputs))
    warn_if_constant(targets, stacklevel=3)
    weight = checks.number(lam, "lam", "fit_sign_randomized")
    checks.not_negative(weight, "lam", "fit_sign_randomized")
    speed = checks.number(rate, "rate", "fit_sign_randomized")
    checks.positive(speed, "rate", "fit_sign_randomized")
    checks.count(steps, "steps", "fit_sign_randomized")
    checks.choice(reg, "reg", Regularizer)
    checks.choice(dtype, "dtype", Precision)
    function = loss_of(loss)
    function.check(targets)
    phi = hashable(activation_of(activation, "fit_sign_randomized"))
    begin = start_of(w0.shape, start, init_scale, seed)
    with double_scope(dtype == "float64"):
        data = tuple(jnp.asarray(part.astype(dtype)) for part in (inputs, w0, signs, targets))
        rates = (speed / 2 * (1 + np.cos(np.pi * np.arange(steps) / steps))).astype(dtype)
        key = named_key(jax.random.key(seed), "signs")
        W = jnp.asarray(begin.astype(dtype))
        carry = W, optax.scale_by_adam().init(W)
        kept, history, status = begin, [np.empty(0)], SignRandomizedStatus.OK
        for first in track(range(0, steps, _AT_ONCE), "training with random signs", show=progress):
            now = np.arange(first, min(first + _AT_ONCE, steps), dtype=np.uint32)
            run = _steps(function, phi, reg, carry, key, now, rates[now], np.asarray(weight, dtype), data)
            carry, values = run[0], np.asarray(run[1], dtype=np.float64)
            after = np.asarray(carry[0], dtype=np.float64)
            if not (np.isfinite(values).all() and np.isfinite(after).all()):
                if not first and not np.isfinite(values[0]):
                    raise NonFiniteError("the objective at the start is beyond the range of numbers; scale `H` or `y`.")
                status = SignRandomizedStatus.DIVERGED
                break
            kept = after
            history.append(values)
    taken = np.concatenate(history)
    outputs = call_in_float64(_sign_mean, phi, kept, inputs, w0, signs)
    mean_loss = float(call_in_float64(mean_of_loss, function, outputs, targets))
    return SignRandomizedFit(
        status=status,
        W=kept,
        loss=mean_loss,
        objective=mean_loss + weight * float(_penalty(reg, kept)),
        steps=len(taken),
        history=taken,
    )


def _penalty(reg: str, W: Any) -> Any:
    squared = (W**2).sum(axis=1)
    return (squared**2).sum() if reg == "l24" else squared.sum() / len(W) ** 0.5


@partial(jax.jit, static_argnums=0)
def _sign_mean(phi: Phi, W: Any, H: Any, W0: Any, a: Any) -> jax.Array:
    """The even part of the network in W."""
    resting, moved = (jnp.matmul(H, part.T, precision="highest") for part in (W0, W))
    return jnp.matmul(phi(resting + moved) + phi(resting - moved), a, precision="highest") / (2 * len(W) ** 0.5)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _steps(
    loss: OutputLoss, phi: Phi, reg: str, carry: Any, key: Any, now: Any, rates: Any, lam: Any, data: Any
) -> tuple[Any, jax.Array]:
    """Steps of Adam, each with signs of its own; the objective before each at its signs."""
    H, W0, a, y = data
    resting = jnp.matmul(H, W0.T, precision="highest")
    adam = optax.scale_by_adam()

    def objective(W: jax.Array, signs: jax.Array) -> jax.Array:
        moved = resting + jnp.matmul(H, W.T, precision="highest") * signs[None]
        outputs = jnp.matmul(phi(moved), a, precision="highest") / len(W) ** 0.5
        return jnp.mean(loss.value(outputs, y)) + lam * _penalty(reg, W)

    def step(carry: Any, at: Any) -> tuple[Any, jax.Array]:
        W, state = carry
        index, rate = at
        signs = jax.random.rademacher(jax.random.fold_in(key, index), (len(W),), dtype=W.dtype)
        value, gradient = jax.value_and_grad(objective)(W, signs)
        update, state = adam.update(gradient, state)
        return (W - rate * update, state), value

    return jax.lax.scan(step, carry, (now, rates))
