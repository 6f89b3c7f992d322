"""The catapult: descent on a product of two vectors, and the two numbers that it follows exactly."""

from typing import Any, Literal

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.core.status import Status

Regime = Literal["lazy", "catapult", "divergent"]

_GROWTH = 1e6  # of the loss, at which a run that cannot turn back ends


class CatapultStatus(Status):
    """How a run ended."""

    OK = "All steps were taken."
    DIVERGED = "The curvature is above 4 / lr, where it never falls, and the loss grew a millionfold: the run ends."


class CatapultRun(Result):
    """Descent on f = u.v / sqrt(m), simulated, beside its recursion in two numbers."""

    source = "lewkowycz2020large"
    status: CatapultStatus = quantity(EXACT, "how the simulation ended")
    regime: str = quantity(EXACT, "lazy, catapult or divergent, by lr lam at the start")
    f: np.ndarray = quantity(EXACT, "u.v / sqrt(m) before the first step and after each, (T + 1,)")
    lam: np.ndarray = quantity(EXACT, "tangent kernel (|u|^2 + |v|^2) / m (T + 1,)")
    loss: np.ndarray = quantity(EXACT, "f^2 / 2 (T + 1,)")
    recursion_f: np.ndarray = quantity(EXACT, "f by the recursion (T + 1,)")
    recursion_lam: np.ndarray = quantity(EXACT, "lam by the recursion (T + 1,)")
    recursion_loss: np.ndarray = quantity(EXACT, "f^2 / 2 by the recursion (T + 1,)")
    lr: float = quantity(EXACT, "learning rate")
    num_steps: int = quantity(EXACT, "steps that were asked for; T where the run did not diverge")
    width: int = quantity(EXACT, "m, entries of each vector")

    def charts(self) -> tuple[Chart, ...]:
        """Loss and lr lam against steps."""
        steps = np.arange(len(self.f))
        positive = (self.loss > 0) & (self.recursion_loss > 0)
        seen = positive if positive.any() else np.full(len(steps), True)
        return (
            Chart(
                name="loss",
                title="Loss along descent on a product of two vectors",
                x_label="step",
                y_label="loss",
                series=(
                    Series(steps[seen], self.loss[seen], "simulation"),
                    Series(steps[seen], self.recursion_loss[seen], "recursion", style="points"),
                ),
                y_scale="log" if positive.any() else "linear",
                caption=f"lr lam is {self.lr * self.lam[0]:.4g} at the start: {self.regime}. {self.status}",
            ),
            Chart(
                name="curvature",
                title="Curvature along descent on a product of two vectors",
                x_label="step",
                y_label="lr lam",
                series=(
                    Series(steps, self.lr * self.lam, "simulation"),
                    Series(steps, self.lr * self.recursion_lam, "recursion", style="points"),
                ),
                markers=(Marker(2.0, "edge of stability"), Marker(4.0, "divergence")),
            ),
        )


def catapult_uv(u: Any, v: Any, lr: float, steps: int) -> CatapultRun:
    """Descent on L = f^2 / 2 with f = u.v / sqrt(m), the linear network of width m on one datum x = 1, y = 0.

    u' = u - lr f v / sqrt(m) and v' = v - lr f u / sqrt(m), which moves f and lam = (|u|^2 + |v|^2) / m by exactly

        f' = f (1 - lr lam + lr^2 f^2 / m),    lam' = lam + (lr f^2 / m) (lr lam - 4).

    By lr lam at the start the regime is ``"lazy"`` up to 2: the loss falls. It is ``"catapult"`` between 2 and 4: the
    loss grows while lr lam > 2 + lr^2 f^2 / m, but lam falls wherever f is not 0, and below 2 the loss falls. It is
    ``"divergent"`` from 4 on, where lam never falls: the loss grows without bound, except at exactly 4 (where it does
    not vanish either) or if f hits 0.

    Args:
        u: the first vector (m,).
        v: the second (m,).
        lr: learning rate.
        steps: how many to take.

    Returns:
        a `CatapultRun`, of both the simulation and the recursion, in float64. It ends early, with status DIVERGED,
        where lr lam is above 4 and the loss above 1e6 times its start, or before the step at which it overflows.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: f^2 or lam overflows at the start.

    Cost: 8 m flops a step.

    Example:
        >>> run = catapult_uv(np.array([1.0, 1.0]), np.array([1.0, 0.0]), 1.0, 1)
        >>> run.lam.tolist(), run.regime
        ([1.5, 0.875], 'lazy')
    """
    first, second = _vector(u, "u"), _vector(v, "v")
    if first.shape != second.shape:
        raise ShapeError(f"`u` has {first.size} entries and `v` {second.size}; give two vectors of the same length.")
    rate = checks.number(lr, "lr", "catapult_uv")
    checks.positive(rate, "lr", "catapult_uv")
    checks.count(steps, "steps", "catapult_uv", minimum=0)
    f, lam, diverged = _simulated(first, second, rate, steps)
    own_f, own_lam = _recursion(f[0], lam[0], rate, len(f) - 1, first.size)
    return CatapultRun(
        status=CatapultStatus.DIVERGED if diverged else CatapultStatus.OK,
        regime=_regime(rate * lam[0]),
        f=f,
        lam=lam,
        loss=f**2 / 2,
        recursion_f=own_f,
        recursion_lam=own_lam,
        recursion_loss=own_f**2 / 2,
        lr=rate,
        num_steps=int(steps),
        width=first.size,
    )


def _simulated(u: np.ndarray, v: np.ndarray, lr: float, steps: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Both numbers at each step, and whether the run diverged and ended early."""
    m, path = u.size, [_numbers(u, v)]
    if not np.isfinite(path[0]).all():
        raise NonFiniteError("f^2 or lam overflows at the start; scale `u` and `v` down.")
    diverged = False
    while len(path) <= steps and not diverged:
        with np.errstate(over="ignore", invalid="ignore"):
            slope = lr * path[-1][0] / m**0.5
            u, v = u - slope * v, v - slope * u
        f, lam, square = _numbers(u, v)
        if not np.isfinite([f, lam, square]).all():
            diverged = True
        else:
            path.append((f, lam, square))
            diverged = lr * lam > 4 and square > _GROWTH * path[0][2]
    fs, lams, _ = np.array(path).T
    return fs, lams, diverged


def _numbers(u: np.ndarray, v: np.ndarray) -> tuple[float, float, float]:
    """The numbers f, lam and f^2."""
    with np.errstate(over="ignore", invalid="ignore"):
        f = float(u @ v) / u.size**0.5
        return f, float(u @ u + v @ v) / u.size, f * f


def _recursion(f: float, lam: float, lr: float, steps: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Both numbers at each step, by their recursion."""
    path = [(f, lam)]
    for _ in range(steps):
        f, lam = f * (1 - lr * lam + (lr * f) * (lr * f) / m), lam + lr * f * f / m * (lr * lam - 4)
        path.append((f, lam))
    fs, lams = np.array(path).T
    return fs, lams


def _regime(start: float) -> Regime:
    if start <= 2:
        return "lazy"
    return "catapult" if start < 4 else "divergent"


def _vector(vector: Any, name: str) -> np.ndarray:
    array = checks.real_array(vector, name)
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(f"`{name}` has shape {array.shape}; it must be a vector of at least one entry.")
    checks.all_finite(array, name)
    return array.astype(np.float64)
