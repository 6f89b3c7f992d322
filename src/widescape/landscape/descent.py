"""Plain gradient descent, heavy ball and Nesterov, with the loss of every step and snapshots of the parameters."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.operators import Operators

Momentum = Literal["gd", "polyak", "nesterov"]
_PIECE = 512  # steps of one call of the compiled program
_SHOWN = 2000  # points of a chart


class DescentStatus(Status):
    """How descent ended."""

    OK = "All steps were taken."
    DIVERGED = "The loss became infinite or NaN; what came before is kept."


class Descent(Result):
    """A run of gradient descent: the loss of every step, and parameters at some."""

    source = "liu2020loss"
    status: DescentStatus = quantity(EXACT, "how it ended")
    loss: np.ndarray = quantity(
        EXACT, "loss before the first step and after each, (steps + 1,); to its last finite one"
    )
    snapshots: np.ndarray = quantity(EXACT, "flat parameters at the snapshot steps, (S, p)")
    snapshot_steps: np.ndarray = quantity(EXACT, "their steps, rising, from 0; the last step is among them, (S,)")
    lr: float = quantity(EXACT, "learning rate")
    optimizer: str = quantity(EXACT, "gd, polyak or nesterov")
    momentum: float = quantity(EXACT, "momentum, 0 for gd")

    @property
    def w(self) -> np.ndarray:
        """Flat parameters (p,) at the end; of a run that diverged, at its last snapshot."""
        return self.snapshots[-1]

    def charts(self) -> tuple[Chart, ...]:
        """Loss against steps."""
        steps = np.unique(np.linspace(0, len(self.loss) - 1, min(len(self.loss), _SHOWN)).astype(int))
        scale: Literal["linear", "log"] = "log" if (self.loss[steps] > 0).all() else "linear"
        return (
            Chart(
                name="descent",
                title="Loss during descent",
                x_label="step",
                y_label="loss",
                series=(Series(steps, self.loss[steps], self.optimizer),),
                y_scale=scale,
            ),
        )


def gradient_descent(
    system: System,
    lr: float,
    steps: int,
    *,
    params: Any = None,
    optimizer: Momentum = "gd",
    momentum: float = 0.9,
    keep_every: int | None = None,
    progress: bool | None = None,
) -> Descent:
    """Full-batch descent on the loss of a system, in its own precision.

    Steps w' = w - lr grad L(w); with ``"polyak"`` plus momentum (w - w_before); with ``"nesterov"`` from
    v = w + momentum (w - w_before), w' = v - lr grad L(v).

    Args:
        system: the function, its data and its loss.
        lr: learning rate.
        steps: how many to take.
        params: where it starts, as a PyTree or flat; None for the system's own parameters.
        optimizer: which of the three.
        momentum: in [0, 1); not used by ``"gd"``.
        keep_every: steps between snapshots; None keeps the two ends.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the loss is NaN or infinite at the start.

    Cost: about three forward passes a step (four with ``"nesterov"``), and the snapshots in memory.

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(1), np.array([[1.0]]), np.array([1.0]))
        >>> gradient_descent(system, 0.5, 2).loss.tolist()
        [0.5, 0.125, 0.03125]
    """
    system.require_targets()
    rate = checks.number(lr, "lr", "gradient_descent")
    checks.positive(rate, "lr", "gradient_descent")
    checks.count(steps, "steps", "gradient_descent", minimum=0)
    checks.choice(optimizer, "optimizer", Momentum)
    beta = 0.0 if optimizer == "gd" else checks.number(momentum, "momentum", "gradient_descent")
    if not 0 <= beta < 1:
        raise ValueError(f"`momentum` is {momentum}; it must lie in [0, 1).")
    if keep_every is not None:
        checks.count(keep_every, "keep_every", "gradient_descent")
    w = system.vector(params)
    losses, kept, at = [], [w], [0]
    pieces = _pieces(system, w, rate, beta, steps, keep_every, nesterov=optimizer == "nesterov")
    for last, piece, point in track(pieces, "descent", total=-(-steps // (keep_every or _PIECE)), show=progress):
        losses.append(piece)
        if not np.isfinite(piece).all() or not np.isfinite(point).all():
            break
        if keep_every is not None or last == steps:
            kept.append(point)
            at.append(last)
    values = np.concatenate([*losses, [_value(system, kept[-1])]]) if at[-1] == steps else np.concatenate(losses)
    finite = np.isfinite(values)
    if not finite[0]:
        raise NonFiniteError("the loss is NaN or infinite where descent starts; scale the parameters or data.")
    known = len(values) if finite.all() else int(finite.argmin())
    whole = [i for i, step in enumerate(at) if step < known]  # a snapshot may be one step ahead of the last loss
    return Descent(
        status=DescentStatus.OK if at[-1] == steps and finite.all() else DescentStatus.DIVERGED,
        loss=values[:known].astype(np.float64),
        snapshots=np.stack([kept[i] for i in whole]),
        snapshot_steps=np.asarray([at[i] for i in whole]),
        lr=rate,
        optimizer=optimizer,
        momentum=beta,
    )


def _value(system: System, w: np.ndarray) -> float:
    try:
        return system.value(w)
    except NonFiniteError:  # a step too far; the run says so
        return float("inf")


def _pieces(
    system: System, w: np.ndarray, lr: float, beta: float, steps: int, keep_every: int | None, *, nesterov: bool
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The step after each piece, the loss before each step of it, and the parameters after it."""
    length = _PIECE if keep_every is None else keep_every
    state = (w, w)
    for first in range(0, steps, length):
        count = min(length, steps - first)
        with double_scope(system.double):
            state, losses = _descend(
                system.operators, nesterov, min(length, steps), state, count, w.dtype.type(lr), w.dtype.type(beta),
                *system.arrays,
            )  # fmt: skip
            piece, point = np.asarray(losses)[:count], np.asarray(state[0])
        yield first + count, piece, point


@partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    operators: Operators, nesterov: bool, room: int, state: Any, count: Any, lr: Any, beta: Any, x: Any, y: Any
) -> Any:
    def step(t: Any, carry: Any) -> Any:
        (w, before), losses = carry
        ahead = w + beta * (w - before)
        if nesterov:
            value, gradient = operators.value(w, x, y), operators.grad(ahead, x, y)
        else:
            value, gradient = operators.value_and_grad(w, x, y)
        return (ahead - lr * gradient, w), losses.at[t].set(value)

    return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(room, state[0].dtype)))
