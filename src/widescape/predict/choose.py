"""Choosing a regularizer without a validation set."""

from typing import Any

import numpy as np
from scipy import optimize

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.predict.modes import Modes

_PER_DECADE = 4


class LooRegularizer(Result):
    """The relative regularizer with the least leave-one-out loss."""

    source = "rasmussen2006gaussian, equations 5.10 to 5.12"
    reg: float = quantity(EXACT, "regularizer, in units of the mean of the kernel's diagonal")
    mse: float = quantity(EXACT, "leave-one-out squared loss there, mean over points and outputs")
    at_bound: bool = quantity(EXACT, "whether the best one lies at an end of the range that was searched")
    regs: np.ndarray = quantity(EXACT, "regularizers of the search, rising, (R,)")
    mses: np.ndarray = quantity(EXACT, "leave-one-out squared loss at each, (R,)")

    def charts(self) -> tuple[Chart, ...]:
        """The loss against the regularizer."""
        series = Series(self.regs, self.mses, "leave-one-out")
        return (
            Chart("loo-regularizer", "Leave-one-out loss against the regularizer",
                  "regularizer / mean of the kernel's diagonal", "mean squared error", (series,), x_scale="log",
                  y_scale="log", markers=(Marker(self.reg, "chosen", "x"),), caption="Exact; no validation data."),
        )  # fmt: skip


def loo_regularizer(
    K: Any,  # noqa: N803
    y: Any,
    *,
    bounds: tuple[float, float] = (1e-8, 10.0),
) -> LooRegularizer:
    """Search for the regularizer of kernel regression with the least leave-one-out squared loss.

    The loss at a regularizer is that of `GP.loo`. One eigendecomposition makes each evaluation cheap: four to a
    decade are tried, and the best is refined by Brent's method between its neighbors.

    Args:
        K: kernel matrix of the training points (m, m), symmetric.
        y: targets (m,) or (m, C).
        bounds: the least and the largest relative regularizer, positive.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        IllConditionedError: `K` has an eigenvalue below zero by more than rounding.

    Cost: about 9 m^3 flops once, then 2 m^2 (C + 1) for each of about 60 evaluations.

    Example:
        >>> x = np.linspace(-1, 1, 40)
        >>> K = np.exp(-8 * (x[:, None] - x) ** 2)
        >>> noisy = np.sin(3 * x) + 0.1 * np.random.default_rng(0).normal(size=40)
        >>> 1e-3 < loo_regularizer(K, noisy).reg < 1
        True
    """
    low, high = (checks.number(bound, "bounds", "loo_regularizer") for bound in bounds)
    if not 0 < low < high:
        raise ValueError(f"`bounds` are {bounds}; give two positive numbers, the smaller first.")
    modes = Modes(K, y, 0.0, "mean_trace", "loo_regularizer")
    y = modes.y if modes.y.ndim == 2 else modes.y[:, None]
    inner, squared = modes.vectors.T @ y, np.square(modes.vectors)
    mean = float(modes.own.mean())

    def loss(log_reg: float) -> float:
        inverse = 1 / (modes.own + 10.0**log_reg * mean)
        residual = (modes.vectors @ (inverse[:, None] * inner)) / (squared @ inverse)[:, None]
        return float(np.mean(residual**2))

    first, last = float(np.log10(low)), float(np.log10(high))
    grid = np.linspace(first, last, max(3, round(_PER_DECADE * (last - first)) + 1))
    losses = np.array([loss(value) for value in grid])
    best = int(losses.argmin())
    around = grid[[max(best - 1, 0), min(best + 1, len(grid) - 1)]]
    refined = optimize.minimize_scalar(loss, bounds=tuple(around), method="bounded", options={"xatol": 1e-3})
    chosen, value = (refined.x, refined.fun) if refined.fun < losses[best] else (grid[best], losses[best])
    return LooRegularizer(
        reg=float(10.0**chosen),
        mse=float(value),
        at_bound=best in (0, len(grid) - 1),
        regs=10.0**grid,
        mses=losses,
    )
