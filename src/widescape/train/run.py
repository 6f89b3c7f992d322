"""Training one network: full batches or mini-batches, history, early stopping, checkpoints, exact resumption."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import CheckpointError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature import program as _program
from widescape.curvature.request import hashable
from widescape.curvature.tangent import PreparedKernel, prepare
from widescape.train import checkpoint as _checkpoint
from widescape.train.checkpoint import as_numbers
from widescape.train.interventions import Penalty
from widescape.train.loop import (
    Measured,
    Program,
    State,
    advance,
    as_optimizer,
    measure,
    pull_of,
    record_grid,
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
    snapshots: np.ndarray | None = quantity(EXACT, "flat parameters that were kept on the way (S, p)", default=None)
    snapshot_steps: np.ndarray | None = quantity(
        EXACT, "their steps: every `keep_every`, and the last (S,)", default=None
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
    keep_every: int | None = None,
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
        keep_every: steps between parameters that the run keeps as `snapshots`, beside the first and the last; None
            keeps none. `widescape.landscape` reads them. With `linearize` or `center` they are those of another
            function than the system's.
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
        system,
        optimizer,
        steps,
        batch_size,
        key,
        validation,
        patience,
        penalty,
        drift_examples,
        linearize,
        center,
        keep_every,
    )
    path = None if checkpoint is None else Path(checkpoint)
    with double_scope(job.double):
        running, mark = _Run(job), ""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)  # refused now rather than after the work
            mark = job.fingerprint()
            if path.exists():
                running.resume(*_checkpoint.load(path, mark))
        saved = time.monotonic()
        try:
            for _ in track(running.pieces(), "training", total=steps, show=progress):
                if path is not None and time.monotonic() - saved > _SECONDS_PER_CHECKPOINT:
                    _checkpoint.save(path, *running.packed(mark))
                    saved = time.monotonic()
        finally:
            if path is not None:
                _checkpoint.save(path, *running.packed(mark))
        return running.result(system)


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
    drift_examples: int
    keep_every: int | None
    double: bool

    def fingerprint(self) -> str:
        """What two runs must share to take the same steps."""
        pull = pull_of(self.penalty, self.params)

        def step(state: State, x: Any, y: Any) -> Any:
            total = len(jax.tree.leaves(x)[0])
            gradient = step_gradient(self.program, pull, state.params, self.params, x, y, total)
            return self.program.optimizer.update(gradient, state.optimizer, state.params)

        state = State(self.params, self.program.optimizer.init(self.params))
        program, own = jax.make_jaxpr(step)(state, self.x, self.y), self.program
        text = f"{program} {own.batch_size} {own.linearized} {own.centered} {self.patience} {self.drift_examples}"
        text += "" if self.keep_every is None else f" {self.keep_every}"
        held = list(_program.constants(program))
        return _checkpoint.fingerprint(text, state, pull, self.x, self.y, self.key, self.held_out or (), held)


@dataclass(frozen=True)
class _Progress:
    """Where a run stands. Replaced as a whole, so that an interruption never finds half of a change."""

    step: int
    state: State
    best: Any
    best_step: int
    status: TrainingStatus = TrainingStatus.OK
    recorded: tuple[int, ...] = ()
    history: tuple[tuple[float, ...], ...] = ()
    kept: tuple[np.ndarray, ...] = ()

    def column(self, name: str) -> np.ndarray:
        """One column of the history."""
        return np.asarray([row[_COLUMNS.index(name)] for row in self.history])


class _Run:
    """Training in progress."""

    def __init__(self, job: _Job) -> None:
        start = jax.tree.map(jnp.asarray, job.params)
        self.job = job
        self.at = _Progress(0, State(start, job.program.optimizer.init(start)), start, 0)
        self.first_kernel = None if job.kernel is None else job.kernel.at(job.params)

    def pieces(self) -> Iterator[None]:
        """Take the steps, yielding once for each."""
        job = self.job
        pull = pull_of(job.penalty, job.params)
        yield from (None for _ in range(self.at.step))
        per_second = 1.0
        for goal in sorted({*record_steps(job.steps), *self._kept_steps()}):
            while self.at.step < goal and self.at.status is TrainingStatus.OK:
                first = self.at.step
                last, begun = min(goal, first + max(1, int(per_second * _SECONDS_PER_PIECE))), time.monotonic()
                state = jax.block_until_ready(
                    advance(job.program, self.at.state, job.params, pull, job.key, job.x, job.y, first, last)
                )
                self.at = replace(self.at, step=last, state=state)
                per_second = (last - first) / max(time.monotonic() - begun, 1e-6)
                yield from (None for _ in range(first, last))
            due = self.at.step == goal and (not self.at.recorded or self.at.recorded[-1] < goal)
            if due and self.at.status is TrainingStatus.OK and goal in record_grid(job.steps):
                self.at = self._recorded()
            if self.at.step == goal and self.at.status is TrainingStatus.OK and goal in self._kept_steps():
                self.at = self._with_snapshot()
        yield from (None for _ in range(self.at.step, job.steps))

    def _kept_steps(self) -> range:
        """The steps whose parameters are kept, whatever the last one is."""
        return range(0) if self.job.keep_every is None else range(0, self.job.steps + 1, self.job.keep_every)

    def _with_snapshot(self) -> _Progress:
        """The present parameters kept, unless they are."""
        at = self.at
        if len(at.kept) > self._kept_steps().index(at.step):
            return at
        return replace(at, kept=(*at.kept, self._flat()))

    def _snapshots(self) -> dict[str, Any]:
        """What the result holds of them, with the last step."""
        if self.job.keep_every is None:
            return {}
        kept, steps = list(self.at.kept), list(self._kept_steps()[: len(self.at.kept)])
        if steps[-1] < self.at.step and self.at.status is not TrainingStatus.DIVERGED:
            kept.append(self._flat())
            steps.append(self.at.step)
        return {"snapshots": np.stack(kept), "snapshot_steps": np.asarray(steps)}

    def _recorded(self) -> _Progress:
        """The present state measured; its parameters kept if they are the best, and a judgment whether to go on."""
        job, at = self.job, self.at
        params = at.state.params
        measured: Measured = measure(job.program, params, job.params, job.x, job.y, job.held_out)
        row = {name: float(value) for name, value in measured._asdict().items()}
        finite = np.isfinite(row["loss"]) and np.isfinite(row["distance"])
        row["drift"] = self._drift(params) if finite else float("nan")
        history = (*at.history, tuple(row[name] for name in _COLUMNS))
        at = replace(at, recorded=(*at.recorded, at.step), history=history)
        if not finite:
            return replace(at, status=TrainingStatus.DIVERGED)
        if job.held_out is None or row["validation_loss"] <= np.nanmin(at.column("validation_loss")):
            return replace(at, best=params, best_step=at.step)
        since = len(at.recorded) - 1 - at.recorded.index(at.best_step)
        if job.patience is not None and since >= job.patience:
            return replace(at, status=TrainingStatus.STOPPED_EARLY)
        return at

    def _drift(self, params: Any) -> float:
        if self.job.kernel is None or self.first_kernel is None:
            return float("nan")
        if self.job.program.linearized:
            return 0.0
        change = self.job.kernel.at(params) - self.first_kernel
        return float(np.linalg.norm(change) / np.linalg.norm(self.first_kernel))

    def packed(self, mark: str) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
        """Everything that a checkpoint holds."""
        at = self.at
        arrays = {f"state.{i}": as_numbers(leaf) for i, leaf in enumerate(jax.tree.leaves(at.state))}
        arrays.update({f"best.{i}": as_numbers(leaf) for i, leaf in enumerate(jax.tree.leaves(at.best))})
        arrays["history"] = np.asarray(at.history, np.float64).reshape(-1, len(_COLUMNS))
        if at.kept:
            arrays["kept"] = as_numbers(np.stack(at.kept))
        facts = {"step": at.step, "best_step": at.best_step, "status": at.status.name, "recorded": list(at.recorded)}
        return arrays, mark, facts

    def resume(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Take a run up where a checkpoint left it.

        Raises:
            CheckpointError: it has taken more steps than are asked for.
        """
        if facts["step"] > self.job.steps:
            raise CheckpointError(
                f"the checkpoint has taken {facts['step']:,} steps, more than the {self.job.steps:,} that are asked "
                "for. Give at least as many, or another path."
            )
        self.at = _Progress(
            step=facts["step"],
            state=_refilled(self.at.state, arrays, "state"),
            best=_refilled(self.at.best, arrays, "best"),
            best_step=facts["best_step"],
            status=TrainingStatus[facts["status"]],
            recorded=tuple(facts["recorded"]),
            history=tuple(map(tuple, arrays["history"].tolist())),
            kept=tuple(_checkpoint.from_numbers(arrays["kept"], self._flat())) if "kept" in arrays else (),
        )

    def _flat(self) -> np.ndarray:
        return np.asarray(ravel_pytree(self.at.state.params)[0])

    def result(self, system: System) -> TrainingRun:
        """The run as a result, with its last step measured; a checkpoint keeps only the grid, to be continued."""
        at = self.at
        if at.status is TrainingStatus.OK and at.recorded[-1] < at.step:
            at = self._recorded()
        flat, _ = ravel_pytree(at.best)
        run = TrainingRun(
            status=at.status,
            w=np.asarray(flat),
            num_steps=at.step,
            best_step=at.best_step,
            steps=np.asarray(at.recorded),
            **{name: at.column(name) for name in _COLUMNS},  # type: ignore[arg-type]
            **self._snapshots(),
        )
        object.__setattr__(run, "_unravel", system.unravel)
        return run


def _refilled(like: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    leaves, structure = jax.tree.flatten(like)
    read = [_checkpoint.from_numbers(arrays[f"{name}.{i}"], leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, read)


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
    keep_every: int | None,
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
    if keep_every is not None:
        checks.count(keep_every, "keep_every", "fit")
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
            hashable(system.f),
            hashable(system.loss),
            system.reduction,
            as_optimizer(optimizer),
            batch_size,
            linearize,
            center,
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
        drift_examples=drift_examples,
        keep_every=keep_every,
        double=system.double,
    )
