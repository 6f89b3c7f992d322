"""Training one network: full batches or mini-batches, history, early stopping, checkpoints, exact resumption."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.tangent import PreparedKernel, prepare
from widescape.train import checkpoint as _checkpoint
from widescape.train.interventions import Penalty
from widescape.train.loop import (
    Measured,
    Program,
    State,
    advance,
    as_optimizer,
    measure,
    pull_of,
    record_steps,
    step_gradient,
)

_COLUMNS = ("loss", "gradient_norm", "distance", "validation_loss", "drift")
_SECONDS_PER_PIECE = 0.5  # how often a run comes back from compiled code, for progress, checkpoints and Ctrl-C
_SECONDS_PER_CHECKPOINT = 20.0


def trace(steps: np.ndarray, values: np.ndarray, label: str) -> Series:
    """Finite values against steps, with step 0 at 0.5 for a logarithmic axis."""
    shown = np.isfinite(values)
    return Series(np.maximum(steps, 0.5)[shown], values[shown], label)


class TrainingStatus(Status):
    """How training ended."""

    OK = "All steps were taken."
    STOPPED_EARLY = "The loss on held-out examples stopped falling, and the best parameters were kept."
    DIVERGED = "The loss became infinite or NaN; the last finite parameters were kept. Lower the learning rate."


class TrainingRun(Result):
    """One network after training, and how it got there.

    The history has one entry for each recorded step: 0, about eight per factor of ten, and the last.
    """

    source = "lee2020finite"
    status: TrainingStatus = quantity(EXACT, "how training ended")
    w: np.ndarray = quantity(EXACT, "flattened parameters, of the best recorded step if there is held-out data, (p,)")
    num_steps: int = quantity(EXACT, "steps taken")
    best_step: int = quantity(EXACT, "the step whose parameters were kept")
    steps: np.ndarray = quantity(EXACT, "recorded steps (T,)")
    loss: np.ndarray = quantity(EXACT, "loss on all training examples, without penalty, (T,)")
    gradient_norm: np.ndarray = quantity(EXACT, "norm of its gradient (T,)")
    distance: np.ndarray = quantity(EXACT, "|w - w_0| / |w_0|, how far parameters moved, (T,)")
    validation_loss: np.ndarray = quantity(EXACT, "loss on held-out examples (T,), NaN without")
    drift: np.ndarray = quantity(
        EXACT, "|Theta_t - Theta_0|_F / |Theta_0|_F of the tangent kernel (T,), NaN if not asked"
    )

    @property
    def params(self) -> Any:
        """The trained parameters as the PyTree in which the system had them.

        Raises:
            ValueError: the run was loaded from a file; ``system.unravel(run.w)`` gives them.
        """
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError("this run was loaded or copied; `system.unravel(run.w)` gives its parameters.")
        return unravel(self.w)

    def charts(self) -> tuple[Chart, ...]:
        """Loss against steps."""
        lines = {"training": self.loss, "held out": self.validation_loss}
        series = [trace(self.steps, y, name) for name, y in lines.items() if np.isfinite(y).any()]
        return (
            Chart(
                name="training",
                title="Loss while training",
                x_label="step",
                y_label="loss",
                series=tuple(series),
                x_scale="log",
                y_scale="log" if all((s.y > 0).all() for s in series) else "linear",
                markers=(Marker(float(max(self.best_step, 0.5)), "kept", axis="x"),),
                caption="Step 0 is drawn at 0.5.",
            ),
        )


def fit(
    system: System,
    optimizer: optax.GradientTransformation | float,
    steps: int,
    batch_size: int | None = None,
    *,
    key: jax.Array | None = None,
    validation: tuple[Any, Any] | None = None,
    patience: int | None = None,
    penalty: Penalty | None = None,
    linearize: bool = False,
    center: bool = False,
    drift_examples: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> TrainingRun:
    """Train a system from its parameters.

    Runs in the precision of the system, in compiled pieces. How a run is cut into pieces, interrupted or resumed
    does not change a bit of its outcome.

    Args:
        system: the function, where it starts, data with targets, and the loss.
        optimizer: an optax transformation, or a learning rate for gradient descent. The gradient is that of the
            system's loss: a sum or a mean over examples, sums over outputs.
        steps: how many to take.
        batch_size: examples per step, drawn without replacement in each epoch; a rest of n mod `batch_size` examples
            waits for the next epoch. None for all.
        key: draws the batches; `jax.random.key(0)` if None.
        validation: held-out (x, y); the parameters with the least recorded loss on it are kept.
        patience: recorded steps without a new least held-out loss after which training stops; None never stops.
        penalty: weight decay.
        linearize: train the linearization of the function where it starts.
        center: train the function less its outputs where it starts.
        drift_examples: examples on which the change of the tangent kernel is recorded; 0 for none.
        checkpoint: a safetensors file that is written as training goes, and from which it resumes if it is
            there. More `steps` than before continue a finished run.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `TrainingRun`. A run whose loss becomes infinite ends with status DIVERGED.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.
        CheckpointError: the checkpoint is damaged or belongs to another run.

    Cost: about three forward passes of a batch per step; a pass over all data per recorded step.

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(2), np.eye(2), np.array([1.0, 2.0]))
        >>> run = fit(system, 0.5, 50)
        >>> run.w.round(6).tolist(), run.status.name
        ([1.0, 2.0], 'OK')
    """
    job = _checked(
        system, optimizer, steps, batch_size, key, validation, patience, penalty, drift_examples, linearize, center
    )
    path = None if checkpoint is None else Path(checkpoint)
    with double_scope(job.double):
        mark = job.fingerprint() if path is not None else ""
        progressing = (
            _Run(job) if path is None or not path.exists() else _Run.resumed(job, *_checkpoint.load(path, mark))
        )
        saved = time.monotonic()
        try:
            for _ in track(progressing.pieces(), "training", total=steps, show=progress):
                if path is not None and time.monotonic() - saved > _SECONDS_PER_CHECKPOINT:
                    _checkpoint.save(path, *progressing.packed(mark))
                    saved = time.monotonic()
        finally:
            if path is not None:
                _checkpoint.save(path, *progressing.packed(mark))
        return progressing.result(system)


@dataclass(frozen=True)
class _Job:
    """A checked request."""

    program: Program
    params: Any
    x: Any
    y: Any
    key: jax.Array
    steps: int
    held_out: Any
    patience: int | None
    penalty: Penalty | None
    kernel: PreparedKernel | None
    double: bool

    def fingerprint(self) -> str:
        """What two runs must share to take the same steps."""
        pull = pull_of(self.penalty, self.params)

        def step(state: State, x: Any, y: Any) -> Any:
            total = len(jax.tree.leaves(x)[0])
            gradient = step_gradient(self.program, pull, state.params, self.params, x, y, total)
            return self.program.optimizer.update(gradient, state.optimizer, state.params)

        state = State(self.params, self.program.optimizer.init(self.params))
        text = f"{jax.make_jaxpr(step)(state, self.x, self.y)} {self.program.batch_size} {self.patience}"
        return _checkpoint.fingerprint(
            text, self.params, pull, self.x, self.y, jax.random.key_data(self.key), self.held_out or ()
        )


@dataclass
class _Run:
    """Training in progress."""

    job: _Job
    step: int = 0
    state: State | None = None
    best: Any = None
    best_step: int = 0
    status: TrainingStatus = TrainingStatus.OK
    recorded: list[int] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    first_kernel: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.state is None:
            start = jax.tree.map(jnp.asarray, self.job.params)
            self.state = State(start, self.job.program.optimizer.init(start))
            self.best = start
        if self.job.kernel is not None:
            self.first_kernel = self.job.kernel.at(self.job.params)

    def pieces(self) -> Iterator[None]:
        """Take the steps, yielding once for each."""
        job = self.job
        pull = pull_of(job.penalty, job.params)
        yield from (None for _ in range(self.step))
        per_second = 1.0
        if not self.recorded:
            self._record()
        for goal in record_steps(job.steps):
            while self.step < goal and self.status is TrainingStatus.OK:
                stop = min(goal, self.step + max(1, int(per_second * _SECONDS_PER_PIECE)))
                start, begun = self.step, time.monotonic()
                self.state = jax.block_until_ready(
                    advance(job.program, self.state, job.params, pull, job.key, job.x, job.y, start, stop)
                )
                per_second = (stop - start) / max(time.monotonic() - begun, 1e-6)
                self.step = stop
                yield from (None for _ in range(start, stop))
            if self.status is TrainingStatus.OK and self.step == goal and self.recorded[-1] != goal:
                self._record()
        yield from (None for _ in range(self.step, job.steps))

    def _record(self) -> None:
        """Measure the present parameters; keep them if they are the best, and judge whether to go on."""
        job, params = self.job, self.state.params  # type: ignore[union-attr]
        measured: Measured = measure(job.program, params, job.params, job.x, job.y, job.held_out)
        row = {name: float(value) for name, value in measured._asdict().items()}
        finite = np.isfinite(row["loss"]) and np.isfinite(row["distance"])
        row["drift"] = self._drift(params) if finite else float("nan")
        self.recorded.append(self.step)
        for name, value in row.items():
            self.history[name].append(value)
        if not finite:
            self.status = TrainingStatus.DIVERGED
            return
        losses = self.history["validation_loss"]
        if job.held_out is None or row["validation_loss"] <= np.nanmin(losses):
            self.best, self.best_step = params, self.step
        elif job.patience is not None:
            since = len(self.recorded) - 1 - self.recorded.index(self.best_step)
            if since >= job.patience:
                self.status = TrainingStatus.STOPPED_EARLY

    def _drift(self, params: Any) -> float:
        if self.job.kernel is None or self.first_kernel is None:
            return float("nan")
        change = self.job.kernel.at(params) - self.first_kernel
        return float(np.linalg.norm(change) / np.linalg.norm(self.first_kernel))

    def packed(self, mark: str) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
        """Everything that a checkpoint holds."""
        arrays = {f"state.{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.state))}
        arrays.update({f"best.{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.best))})
        arrays.update({f"history.{name}": np.asarray(column) for name, column in self.history.items()})
        facts = {
            "step": self.step,
            "best_step": self.best_step,
            "status": self.status.name,
            "recorded": self.recorded,
        }
        return arrays, mark, facts

    @classmethod
    def resumed(cls, job: _Job, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> "_Run":
        """A run as a checkpoint left it."""
        run = cls(job)
        run.state = _refilled(run.state, arrays, "state")
        run.best = _refilled(run.best, arrays, "best")
        run.step, run.best_step, run.recorded = facts["step"], facts["best_step"], facts["recorded"]
        run.status = TrainingStatus[facts["status"]]
        run.history = {name: arrays[f"history.{name}"].tolist() for name in _COLUMNS}
        return run

    def result(self, system: System) -> TrainingRun:
        """The run as a result."""
        flat, _ = ravel_pytree(self.best)
        columns = {name: np.asarray(column) for name, column in self.history.items()}
        run = TrainingRun(
            status=self.status,
            w=np.asarray(flat),
            num_steps=self.step,
            best_step=self.best_step,
            steps=np.asarray(self.recorded),
            **columns,  # type: ignore[arg-type]
        )
        object.__setattr__(run, "_unravel", system.unravel)
        return run


def _refilled(like: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[f"{name}.{i}"]) for i in range(len(leaves))])


def _checked(
    system: System,
    optimizer: Any,
    steps: int,
    batch_size: int | None,
    key: jax.Array | None,
    validation: Any,
    patience: int | None,
    penalty: Penalty | None,
    drift_examples: int,
    linearize: bool,
    center: bool,
) -> _Job:
    if not isinstance(system, System):
        raise TypeError(f"`system` is {system!r}; give a System(f, params, x, y).")
    if system.y is None:
        raise ValueError("training needs targets: make the System with `y`.")
    checks.count(steps, "steps", "fit", minimum=0)
    n = system.num_examples
    if batch_size is not None:
        checks.count(batch_size, "batch_size", "fit")
        if batch_size > n:
            raise ValueError(f"`batch_size` is {batch_size}, but there are {n} examples.")
    if patience is not None:
        checks.count(patience, "patience", "fit")
        if validation is None:
            raise ValueError("`patience` needs held-out data: give `validation`.")
    checks.count(drift_examples, "drift_examples", "fit", minimum=0)
    held_out = None
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise ShapeError("`validation` must be a pair (x, y).")
        other = System(system.f, system.params, *validation, loss=system.loss, reduction=system.reduction)
        held_out = (other.x, other.y)
    kernel = None
    if drift_examples:
        few = jax.tree.map(lambda leaf: leaf[: min(drift_examples, n)], system.x)
        kernel = prepare(system.f, system.params, few)
    return _Job(
        program=Program(
            system.f, system.loss, system.reduction, as_optimizer(optimizer), batch_size, linearize, center
        ),
        params=system.params,
        x=system.x,
        y=system.y,
        key=jax.random.key(0) if key is None else key,
        steps=int(steps),
        held_out=held_out,
        patience=patience,
        penalty=penalty,
        kernel=kernel,
        double=system.double,
    )
