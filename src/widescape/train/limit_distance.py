"""How far trained finite networks are from their linearization and from their infinite-width limit."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from widescape.arch.base import Layer
from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, estimate
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.kernels import empirical_ntk, gram
from widescape.kernels.monte_carlo import initializer_of
from widescape.predict import discrete_gd, max_learning_rate, root_mean_square
from widescape.train.linear_distance import stable_rate
from widescape.train.members import EnsembleRun, ensemble

_OVER = "over members, drawn independently"


class LimitDistance(Result):
    """Trained networks of several widths against their linearization and their infinite-width limit.

    Distances are root mean squares over test points and outputs, of one network, after the same number of steps. The
    limit is the exact descent under the limit's tangent kernel from the network's own initial outputs, so that all
    distances vanish as the width grows.
    """

    source = "lee2020finite; lee2019wide"
    widths: np.ndarray = quantity(EXACT, "hidden widths (W,)")
    num_members: int = quantity(EXACT, "networks of each width")
    num_steps: int = quantity(EXACT, "steps of gradient descent")
    rate: float = quantity(EXACT, "learning rate, for a loss that sums over outputs")
    scale: float = quantity(EXACT, "root mean square of the limit's mean prediction, the unit to compare with")
    finite_to_linear: np.ndarray = quantity(estimate("finite_to_linear_stderr", _OVER), "network to linearization (W,)")
    finite_to_linear_stderr: np.ndarray = quantity(EXACT, "its standard error (W,)")
    linear_to_limit: np.ndarray = quantity(estimate("linear_to_limit_stderr", _OVER), "linearization to limit (W,)")
    linear_to_limit_stderr: np.ndarray = quantity(EXACT, "its standard error (W,)")
    finite_to_limit: np.ndarray = quantity(estimate("finite_to_limit_stderr", _OVER), "network to limit (W,)")
    finite_to_limit_stderr: np.ndarray = quantity(EXACT, "its standard error (W,)")
    drift: np.ndarray = quantity(estimate("drift_stderr", _OVER), "relative change of the tangent kernel (W,)")
    drift_stderr: np.ndarray = quantity(EXACT, "its standard error (W,)")
    kernel_error: np.ndarray = quantity(
        estimate("kernel_error_stderr", _OVER), "relative distance of the initial tangent kernel to its limit (W,)"
    )
    kernel_error_stderr: np.ndarray = quantity(EXACT, "its standard error (W,)")
    tolerance: float = quantity(EXACT, "share of `scale` at which network and limit count as met")
    exponent: float = quantity(
        estimate("exponent_stderr", "weighted fit on logarithmic axes"), "power of the width in `finite_to_limit`"
    )
    exponent_stderr: float = quantity(EXACT, "its standard error")
    meeting_width: float = quantity(
        estimate("meeting_width_stderr", "from the power law, often an extrapolation"),
        "width at which `finite_to_limit` is `tolerance` times `scale`; inf if it does not fall",
    )
    meeting_width_stderr: float = quantity(EXACT, "its standard error, by propagation from the fit")
    finite: EnsembleRun | None = quantity(EXACT, "the networks of the largest width, if kept", default=None)
    linearized: EnsembleRun | None = quantity(EXACT, "their linearizations, if kept", default=None)

    def charts(self) -> tuple[Chart, ...]:
        """Distances between predictions, and between kernels, against the width."""
        pairs = (
            ("finite_to_limit", "network to limit"),
            ("finite_to_linear", "network to its linearization"),
            ("linear_to_limit", "linearization to limit"),
        )
        kernels = (("kernel_error", "before training, to the limit"), ("drift", "moved by training"))
        caption = (
            f"Means over {self.num_members} networks, after {self.num_steps} steps; intervals are one standard error."
        )
        met = Marker(self.tolerance * self.scale, f"{100 * self.tolerance:.0f}% of the prediction")
        return (
            self._chart("distances", "Distance between predictions", "distance", pairs, (met,), caption),
            self._chart("kernels", "Distance between tangent kernels", "relative distance", kernels, (), caption),
        )

    def _chart(self, name: str, title: str, label: str, parts: Any, markers: tuple[Marker, ...], caption: str) -> Chart:
        series = []
        for field, text in parts:
            mean, error = getattr(self, field), getattr(self, f"{field}_stderr")
            low, high = (None, None) if not np.isfinite(error).all() else (np.maximum(mean - error, 0), mean + error)
            series.append(Series(self.widths, mean, text, low, high, style="both"))
        return Chart(
            name=name,
            title=title,
            x_label="hidden width",
            y_label=label,
            series=tuple(series),
            x_scale="log",
            y_scale="log",
            markers=markers,
            caption=caption,
        )


def limit_distance(
    net: Layer,
    key: jax.Array,
    x: Any,
    y: Any,
    x_test: Any,
    *,
    widths: Sequence[int],
    num_members: int = 4,
    steps: int = 200,
    rate: float | None = None,
    center: bool = False,
    drift_examples: int = 64,
    tolerance: float = 0.1,
    dtype: Any = "float32",
    seconds: float | None = None,
    keep_runs: bool = False,
    progress: bool | None = None,
) -> LimitDistance:
    """Train networks of several widths, and their linearizations, and compare both with the infinite-width limit.

    Full-batch gradient descent on the squared loss, a mean over examples and a sum over outputs.

    Args:
        net: an architecture with a limit.
        key: member i of every width derives its start from it.
        x: training inputs (n, ...).
        y: targets (n, c).
        x_test: test inputs (M, ...).
        widths: hidden widths, rising; at least three.
        num_members: networks of each width.
        steps: steps of gradient descent.
        rate: learning rate; None for half of the largest that is stable in the limit and for the linearization of
            every network of the smallest width, whose kernels tend to have the largest eigenvalues.
        center: train each network less its outputs where it starts, which takes away their spread.
        drift_examples: training examples on which tangent kernels are compared.
        tolerance: share of the prediction's size at which network and limit count as met.
        dtype: of the networks and of training; kernels of the limit are in float64.
        seconds: after this time no further width is begun, once there are three; None for no limit.
        keep_runs: whether the result holds the networks' outputs at the largest width.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `LimitDistance`.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        NotTractableError, NonGaussianInputError: the architecture has no limit.

    Cost: per width and member about nine forward and backward passes of all examples per step.
    """
    sizes = [int(w) for w in widths]
    if len(sizes) < 3 or sorted(set(sizes)) != sizes:
        raise ValueError(f"`widths` is {list(widths)}; give at least three, rising.")
    checks.count(drift_examples, "drift_examples", "limit_distance")
    begun = time.monotonic()
    train_kernel, cross = gram(net, x, get="ntk", progress=False), gram(net, x_test, x, get="ntk", progress=False)
    goal = np.asarray(checks.real_array(y, "y"), np.float64)
    goal = goal[:, None] if goal.ndim == 1 else goal
    few = np.asarray(x)[:drift_examples]
    if rate is None:
        speed = 0.5 * min(
            max_learning_rate(train_kernel, 1), _narrow_rate(net, key, num_members, x, goal, sizes[0], dtype)
        )
    else:
        speed = checks.number(rate, "rate", "limit_distance")
    rows: list[dict[str, np.ndarray]] = []
    finite = linear = None
    for width in track(sizes, "widths", show=progress):
        if seconds is not None and len(rows) >= 3 and time.monotonic() - begun > seconds:
            break
        own = {"x_test": x_test, "width": width, "dtype": dtype, "center": center, "progress": False}
        targets = goal.astype(dtype)
        finite = ensemble(net, key, num_members, x, targets, speed, steps, drift_examples=len(few), **own)
        linear = ensemble(net, key, num_members, x, targets, speed, steps, linearize=True, **own)
        rows.append(_row(net, key, few, train_kernel, cross, goal, speed, steps, width, dtype, finite, linear))
    limit_mean = discrete_gd(train_kernel, goal, speed * goal.shape[1], steps, K_test=cross)
    scale = root_mean_square(limit_mean)
    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = np.stack([row[name] for row in rows])
        columns[name] = values.mean(axis=1)
        spread = values.std(axis=1, ddof=1) if num_members > 1 else np.full(len(rows), np.inf)
        columns[f"{name}_stderr"] = spread / num_members**0.5
    used = np.asarray(sizes[: len(rows)])
    return LimitDistance(
        widths=used,
        num_members=num_members,
        num_steps=steps,
        rate=float(speed),
        scale=scale,
        tolerance=tolerance,
        finite=finite if keep_runs else None,
        linearized=linear if keep_runs else None,
        **_meeting(used, columns["finite_to_limit"], columns["finite_to_limit_stderr"], tolerance * scale),
        **columns,
    )


def _narrow_rate(net: Layer, key: jax.Array, count: int, x: Any, goal: np.ndarray, width: int, dtype: Any) -> float:
    """The largest rate that is stable for the linearization of each network of one width."""
    draw, apply = initializer_of(net, x, width, dtype)
    inputs, targets = np.asarray(x, dtype), goal.astype(dtype)
    starts = [draw(named_key(key, "member", i)) for i in range(count)]
    return min(stable_rate(System(apply, params, inputs, targets, reduction="mean")) for params in starts)


def _row(
    net: Layer,
    key: jax.Array,
    few: np.ndarray,
    train_kernel: np.ndarray,
    cross: np.ndarray,
    goal: np.ndarray,
    rate: float,
    steps: int,
    width: int,
    dtype: Any,
    finite: EnsembleRun,
    linear: EnsembleRun,
) -> dict[str, np.ndarray]:
    """The distances of each member of one width."""
    draw, apply = initializer_of(net, few, width, dtype)
    limit = train_kernel[: len(few), : len(few)]
    distances: dict[str, list[float]] = {
        name: [] for name in ("finite_to_linear", "linear_to_limit", "finite_to_limit", "drift", "kernel_error")
    }
    members = len(finite.outputs)
    limits = discrete_gd(  # members side by side as further outputs: one eigendecomposition for all
        train_kernel,
        np.tile(goal, members),
        rate * goal.shape[1] * members,
        steps,
        K_test=cross,
        f0_train=np.concatenate(finite.initial_train_outputs, axis=1),
        f0_test=np.concatenate(finite.initial_outputs, axis=1),
    )
    for i, ends in enumerate(np.split(limits, members, axis=1)):
        kernel = empirical_ntk(apply, draw(named_key(key, "member", i)), few.astype(dtype), progress=False)
        distances["finite_to_linear"].append(root_mean_square(finite.outputs[i] - linear.outputs[i]))
        distances["linear_to_limit"].append(root_mean_square(linear.outputs[i] - ends))
        distances["finite_to_limit"].append(root_mean_square(finite.outputs[i] - ends))
        distances["drift"].append(float(finite.drift[i]))
        distances["kernel_error"].append(float(np.linalg.norm(kernel - limit) / np.linalg.norm(limit)))
    return {name: np.asarray(values) for name, values in distances.items()}


def _meeting(widths: np.ndarray, distance: np.ndarray, stderr: np.ndarray, goal: float) -> dict[str, Any]:
    """The power law of the distance, and the width at which it reaches `goal`."""
    nothing: dict[str, Any] = {
        "exponent": np.nan,
        "exponent_stderr": np.inf,
        "meeting_width": np.inf,
        "meeting_width_stderr": np.inf,
    }
    if not (np.isfinite(distance).all() and (distance > 0).all()):
        return nothing
    at, value = np.log(widths), np.log(distance)
    known = bool(np.isfinite(stderr).all() and (stderr > 0).all())
    relative = stderr / distance if known else np.ones_like(distance)
    design = np.stack([np.ones_like(at), at], axis=1) / relative[:, None]
    covariance = np.linalg.inv(design.T @ design)
    intercept, slope = covariance @ design.T @ (value / relative)
    residual = design @ [intercept, slope] - value / relative
    scatter = float(residual @ residual) / max(len(at) - 2, 1)
    covariance = covariance * (max(1.0, scatter) if known else scatter)  # what the errors do not explain counts too
    found = {**nothing, "exponent": float(slope), "exponent_stderr": float(covariance[1, 1] ** 0.5)}
    if slope >= 0:
        return found
    place = (np.log(goal) - intercept) / slope
    gradient = np.array([-1 / slope, -place / slope])
    error = float(np.sqrt(gradient @ covariance @ gradient))
    width = float(np.exp(min(place, 600.0)))
    return {**found, "meeting_width": width, "meeting_width_stderr": width * error}
