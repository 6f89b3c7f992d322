"""How far a function moves from its linearization while it trains."""

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from widescape.core import checks
from widescape.core.chart import Chart
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.curvature import System, tangent_vector_product
from widescape.predict import root_mean_square
from widescape.train.expansion import linearize
from widescape.train.run import TrainingRun, TrainingStatus, fit, trace


class LinearizationDistance(Result):
    """A function and its linearization, trained side by side from the same parameters."""

    source = "lee2019wide; liu2020loss"
    status: TrainingStatus = quantity(EXACT, "how training of the function ended")
    linear_status: TrainingStatus = quantity(EXACT, "how training of the linearization ended")
    rate: float = quantity(EXACT, "learning rate, of the system's own loss")
    num_steps: int = quantity(EXACT, "steps of gradient descent that were asked for")
    steps: np.ndarray = quantity(EXACT, "recorded steps of the function (T,)")
    loss: np.ndarray = quantity(EXACT, "loss of the function (T,)")
    linear_steps: np.ndarray = quantity(EXACT, "recorded steps of the linearization (T,)")
    linear_loss: np.ndarray = quantity(EXACT, "loss of the linearization (T,)")
    drift: np.ndarray = quantity(EXACT, "relative change of the tangent kernel (T,)")
    parameter_distance: np.ndarray = quantity(EXACT, "|w - w_0| / |w_0| of the function (T,)")
    moved: float = quantity(EXACT, "root mean square change of the function's outputs on the held-out points")
    apart: float = quantity(EXACT, "root mean square distance between function and linearization there, in the end")
    outputs: np.ndarray = quantity(EXACT, "outputs of the function on the held-out points, in the end, (M, c)")
    linear_outputs: np.ndarray = quantity(EXACT, "outputs of the linearization there (M, c)")

    @property
    def relative(self) -> float:
        """How far apart they end, in units of how far the function moved; inf if it did not move."""
        return self.apart / self.moved if self.moved > 0 else float("inf")

    def charts(self) -> tuple[Chart, ...]:
        """Loss against steps, of both."""
        both = (
            trace(self.steps, self.loss, "function"),
            trace(self.linear_steps, self.linear_loss, "linearization"),
        )
        positive = all((s.y > 0).all() for s in both)
        return (
            Chart(
                name="training",
                title="Training loss of the function and of its linearization",
                x_label="step",
                y_label="loss",
                series=both,
                x_scale="log",
                y_scale="log" if positive else "linear",
                caption="The same gradient descent from the same parameters. Step 0 is drawn at 0.5.",
            ),
            Chart(
                name="drift",
                title="How far training moved the tangent kernel and the parameters",
                x_label="step",
                y_label="relative change",
                series=(
                    trace(self.steps, self.drift, "tangent kernel"),
                    trace(self.steps, self.parameter_distance, "parameters"),
                ),
                x_scale="log",
                caption="Relative to where training started. Step 0 is drawn at 0.5.",
            ),
        )


def stable_rate(system: System) -> float:
    """A learning rate up to which gradient descent on the linearization cannot diverge.

    2 / (h lambda_max(J J^T)), times n for a mean over examples, with h the largest curvature of an example's loss in
    its outputs, at the present outputs: 1 for the square loss, where the bound is sharp.

    Args:
        system: with targets and a loss.

    Returns:
        the rate; inf if no output depends on the parameters.

    Raises:
        ValueError: there are no targets, or the loss has no upward curvature.

    Cost: some tens of NTK-vector products (Lanczos' method), to 1e-6 relative.

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(2), np.diag([1.0, 2.0]), np.ones(2))
        >>> round(stable_rate(system), 6)
        0.5
    """
    curvature = float(system.output_curvature().max())
    if curvature <= 0:
        raise ValueError("the loss is not curved upwards at these outputs; its gradient descent has no stable rate.")
    product = tangent_vector_product(system.f, system.params, system.x)
    shape = system.F().shape
    size = int(np.prod(shape))
    if size < 3:
        dense = np.stack([product(row.reshape(shape)).reshape(-1) for row in np.eye(size)])
        largest = float(np.linalg.eigvalsh(dense)[-1])
    else:
        dtype = np.float64 if system.double else np.float32
        operator = LinearOperator(
            (size, size), matvec=lambda v: product(v.reshape(shape)).reshape(-1).astype(dtype), dtype=dtype
        )
        start = np.random.default_rng(0).normal(size=size).astype(dtype)
        if not np.any(operator.matvec(start)):
            return float("inf")
        largest = float(eigsh(operator, k=1, which="LA", tol=1e-6, v0=start, return_eigenvectors=False)[0])
    share = system.num_examples if system.reduction == "mean" else 1
    return 2 * share / (curvature * largest) if largest > 0 else float("inf")


def linearization_distance(
    system: System,
    steps: int,
    *,
    rate: float | None = None,
    held_out: Any = None,
    drift_examples: int = 32,
    progress: bool | None = None,
) -> LinearizationDistance:
    """Train a function and its linearization by the same gradient descent, and compare them.

    Args:
        system: the function, where it starts, data with targets, and the loss.
        steps: steps of gradient descent on all examples.
        rate: learning rate; None for half of `stable_rate`.
        held_out: inputs on which outputs are compared; None for the training inputs.
        drift_examples: examples on which the change of the tangent kernel is recorded.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `LinearizationDistance`.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: about nine forward passes of all examples per step.
    """
    speed = 0.5 * stable_rate(system) if rate is None else checks.number(rate, "rate", "linearization_distance")
    if not np.isfinite(speed):
        raise ValueError("the outputs do not depend on the parameters; there is nothing to train.")
    run: TrainingRun = fit(system, speed, steps, drift_examples=drift_examples, progress=progress)
    line = fit(system, speed, steps, linearize=True, progress=progress)
    points = system.x if held_out is None else held_out
    before, after = (_outputs(system.f, w, points) for w in (system.params, run.params))
    linear = _outputs(linearize(system.f, system.params), line.params, points)
    return LinearizationDistance(
        status=run.status,
        linear_status=line.status,
        rate=float(speed),
        num_steps=steps,
        steps=run.steps,
        loss=run.loss,
        linear_steps=line.steps,
        linear_loss=line.loss,
        drift=run.drift,
        parameter_distance=run.distance,
        moved=root_mean_square(after - before),
        apart=root_mean_square(after - linear),
        outputs=after,
        linear_outputs=linear,
    )


def _outputs(f: Any, params: Any, x: Any) -> np.ndarray:
    values = System(f, params, x).F()
    return values.reshape(len(values), -1).astype(np.float64)
