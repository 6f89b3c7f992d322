"""How curvature, gradients and kernels scale with the width of a network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, estimate, sampled
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.spectrum import kernel_function
from widescape.landscape.certificate import certify_pl_star
from widescape.landscape.descent import DescentStatus, gradient_descent
from widescape.landscape.second_derivative import hessian_norm

Metric = Literal["hessian_norm", "gradient_norm", "bilinear_norm", "kernel_change", "trained_kernel_change", "h"]
_OVER_SEEDS = "least squares through logarithms of the medians; its error from the scatter of all draws, as if normal"


class WidthReport(Result):
    """Medians over random networks of several measures against the width, and the powers with which they scale."""

    source = "liu2020loss"
    widths: np.ndarray = quantity(EXACT, "widths (W,)")
    metrics: tuple[str, ...] = quantity(EXACT, "what was measured (M,)")
    values: np.ndarray = quantity(
        sampled("norms are found by a search from below, h as its certificate says; gradients and kernels are exact"),
        "each draw (M, W, S)",
    )
    medians: np.ndarray = quantity(EXACT, "medians over draws (M, W)")
    slopes: np.ndarray = quantity(
        estimate("slopes_stderr", _OVER_SEEDS), "power of the width of the medians; NaN if a draw is 0 or infinite (M,)"
    )
    slopes_stderr: np.ndarray = quantity(EXACT, "standard error of the powers (M,)")

    def slope(self, metric: str) -> tuple[float, float]:
        """The power of the width of one measure, and its standard error."""
        i = self.metrics.index(metric)
        return float(self.slopes[i]), float(self.slopes_stderr[i])

    def median(self, metric: str) -> np.ndarray:
        """The medians (W,) of one measure."""
        return self.medians[self.metrics.index(metric)]

    def charts(self) -> tuple[Chart, ...]:
        """Each measure against the width."""
        series = [
            Series(
                self.widths,
                row,
                f"{name.replace('_', ' ')}: width^{slope:.2f}",
                draws.min(axis=1),
                draws.max(axis=1),
                style="both",
            )
            for name, row, draws, slope in zip(self.metrics, self.medians, self.values, self.slopes, strict=True)
            if _has_power(draws)
        ]
        return (
            Chart(
                name="width-scaling",
                title="Curvature, gradients and kernels against the width",
                x_label="width",
                y_label="value",
                series=tuple(series),
                x_scale="log",
                y_scale="log",
                caption=f"Medians of {self.values.shape[2]} draws; intervals from the least to the largest.",
            ),
        )


def width_scaling(
    make: Callable[[int, jax.Array], System],
    widths: Sequence[int],
    *,
    seeds: int = 5,
    metrics: Sequence[Metric] = ("hessian_norm", "gradient_norm", "kernel_change"),
    radius: float = 1.0,
    train: tuple[float, int] | None = None,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> WidthReport:
    """How measures of random networks scale with their width: medians over draws and a power law.

    ``"hessian_norm"`` is |H_f|_2 of the first output by Lanczos, ``"gradient_norm"`` |grad f| of the same output,
    ``"bilinear_norm"`` the norm of the second derivative of all outputs, ``"kernel_change"`` |K(w) - K(w_0)| / |K(w_0)|
    (Frobenius) at a random point of the sphere of radius `radius`, ``"trained_kernel_change"`` the same after
    training, ``"h"`` that of `certify_pl_star`. Powers of the width depend on the parameterization: with a variance of
    1/fan-in on the weights the raw norms do not fall, and h is what to compare.

    Args:
        make: maps (width, key) to a system.
        widths: at least two.
        seeds: draws for each width.
        metrics: what to measure.
        radius: of the sphere of ``"kernel_change"``.
        train: learning rate and steps of gradient descent, for ``"trained_kernel_change"``.
        key: of the draws; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        TypeError, ValueError: unknown measures, fewer than two widths, a radius that is not positive, training that was
            not described.
        NonFiniteError: training diverged.

    Cost: for each draw that of its measures, and a compilation for each width.

    Example:
        >>> make = lambda m, key: System(lambda w, x: w.sum()[None] / m, np.ones(m), np.zeros(1), np.zeros(1))
        >>> round(width_scaling(make, [4, 16], seeds=1, metrics=["gradient_norm"]).slope("gradient_norm")[0], 9)
        -0.5
    """
    checks.count(seeds, "seeds", "width_scaling")
    for width in widths:
        checks.count(width, "widths", "width_scaling")
    sizes = [int(width) for width in widths]
    if len(set(sizes)) < 2:
        raise ValueError(f"`widths` is {widths!r}; give at least two different widths.")
    for name in metrics:
        checks.choice(name, "metrics", get_args(Metric))
    length = checks.number(radius, "radius", "width_scaling")
    checks.positive(length, "radius", "width_scaling")
    if "trained_kernel_change" in metrics and train is None:
        raise ValueError("'trained_kernel_change' needs `train`: a learning rate and a number of steps.")
    root = named_key(jax.random.key(0) if key is None else key, "width scaling")
    places = [(i, j) for i in range(len(sizes)) for j in range(seeds)]
    values = np.empty((len(metrics), len(sizes), seeds))
    for i, j in track(places, "networks", show=progress):
        own = named_key(root, sizes[i], j)
        system = make(sizes[i], named_key(own, "network"))
        for k, name in enumerate(metrics):
            values[k, i, j] = _measured(system, name, length, train, named_key(own, name))
    medians = np.median(values, axis=2)
    fits = [_power(sizes, row, draws) for row, draws in zip(medians, values, strict=True)]
    return WidthReport(
        widths=np.array(sizes),
        metrics=tuple(metrics),
        values=values,
        medians=medians,
        slopes=np.array([slope for slope, _ in fits]),
        slopes_stderr=np.array([error for _, error in fits]),
    )


def _measured(system: System, metric: Metric, radius: float, train: tuple[float, int] | None, key: Any) -> float:
    double = system.as_float64()
    if metric == "hessian_norm":
        return float(hessian_norm(double, kind="max_output", outputs=[0], key=key))
    if metric == "bilinear_norm":
        return float(hessian_norm(double, key=key))
    if metric == "gradient_norm":
        first = np.eye(1, double.num_residuals)[0]
        return double.weight**0.5 * float(np.linalg.norm(double.vjp(first)))
    if metric == "h":
        return certify_pl_star(double, key=key).h
    kernel = kernel_function(double)
    start = kernel(None)
    if metric == "kernel_change" or train is None:
        step = named_generator(key, "point").standard_normal(double.num_params)
        moved = double.flat + radius * step / np.linalg.norm(step)
    else:
        moved = _trained(double, *train)
    return float(np.linalg.norm(kernel(moved) - start) / np.linalg.norm(start))


def _trained(system: System, lr: float, steps: int) -> np.ndarray:
    run = gradient_descent(system, lr, steps, progress=False)
    if run.status is not DescentStatus.OK:
        raise NonFiniteError(f"training with {system.num_params:,} parameters diverged; lower the learning rate {lr}.")
    return run.w


def _has_power(draws: np.ndarray) -> bool:
    return bool((np.isfinite(draws) & (draws > 0)).all())


def _power(widths: list[int], medians: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """The least-squares power through the medians, and its standard error from the scatter of all draws."""
    if not _has_power(draws):
        return float("nan"), float("inf")
    x = np.log(widths) - np.mean(np.log(widths))
    slope = float(x @ np.log(medians) / (x @ x))
    logs = np.log(draws)
    residual = logs - logs.mean() - slope * x[:, None]
    scatter = (residual**2).sum() / max(residual.size - 2, 1)
    of_median = scatter * np.pi / (2 * draws.shape[1] - 2 + np.pi)  # variance of the median of normal draws
    return slope, float(np.sqrt(of_median / (x @ x)))
