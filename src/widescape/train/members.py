"""Many networks trained from independent starts, at once."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.arch.base import Layer
from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, estimate
from widescape.core.memory import available_bytes
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.operators import Loss
from widescape.curvature.request import checked, hashable
from widescape.curvature.system import Reduction
from widescape.curvature.tangent import prepare
from widescape.kernels.monte_carlo import Pair, initializer_of
from widescape.train.interventions import Penalty
from widescape.train.loop import (
    Program,
    State,
    as_optimizer,
    pull_of,
    record_steps,
    relative_distance,
    steps_between,
)


class EnsembleRun(Result):
    """Networks trained from independent random starts on the same data.

    Histories have one row for each recorded step and one column for each member.
    """

    source = "lee2020finite"
    mean: np.ndarray = quantity(
        estimate("stderr", "over members, drawn independently"), "mean outputs on the test points, (M, c)"
    )
    stderr: np.ndarray = quantity(EXACT, "standard error of the mean; infinite for one member, (M, c)")
    outputs: np.ndarray = quantity(EXACT, "outputs of each member on the test points, (E, M, c)")
    train_outputs: np.ndarray = quantity(EXACT, "outputs of each member on the training points, (E, n, c)")
    initial_outputs: np.ndarray = quantity(EXACT, "outputs on the test points before training, (E, M, c)")
    initial_train_outputs: np.ndarray = quantity(EXACT, "outputs on the training points before training, (E, n, c)")
    steps: np.ndarray = quantity(EXACT, "recorded steps (T,)")
    loss: np.ndarray = quantity(EXACT, "training loss without penalty (T, E)")
    distance: np.ndarray = quantity(EXACT, "|w - w_0| / |w_0| (T, E)")
    drift: np.ndarray = quantity(
        EXACT, "|Theta_end - Theta_0|_F / |Theta_0|_F of the tangent kernel (E,), NaN if not asked"
    )
    diverged: np.ndarray = quantity(EXACT, "whether the loss of a member became infinite or NaN (E,)")


def ensemble(
    net: Layer | Pair,
    key: jax.Array,
    num_members: int,
    x: Any,
    y: Any,
    optimizer: optax.GradientTransformation | float,
    steps: int,
    *,
    x_test: Any = None,
    loss: Loss = "square",
    reduction: Reduction = "mean",
    batch_size: int | None = None,
    width: int | None = None,
    linearize: bool = False,
    center: bool = False,
    penalty: Penalty | None = None,
    drift_examples: int = 0,
    dtype: Any = "float64",
    members_at_once: int | None = None,
    progress: bool | None = None,
) -> EnsembleRun:
    """Train networks from independent starts, several at once in one compiled program.

    Member i starts, and draws its batches, from a key of its own; it does not depend on how many others there are.

    Args:
        net: an architecture, or a pair (init, apply) as for `widescape.kernels.monte_carlo`.
        key: the members' keys derive from it.
        num_members: how many networks.
        x: training inputs (n, ...).
        y: targets, as for `System`.
        optimizer: an optax transformation, or a learning rate for gradient descent.
        steps: how many to take.
        x_test: test inputs (M, ...); None for the training inputs.
        loss: of one example, as for `System`.
        reduction: sum or mean over examples.
        batch_size: examples per step; None for all.
        width: replaces every hidden width of an architecture.
        linearize: train the linearization of each member where it starts.
        center: train each member less its outputs where it starts.
        penalty: weight decay.
        drift_examples: training examples on which the change of the tangent kernel is measured; 0 for none.
        dtype: of an architecture's parameters and of training.
        members_at_once: members in one program; None takes what fits a quarter of the free memory.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `EnsembleRun`. Members that diverge are kept, with infinite or NaN outputs.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: `num_members` times about three forward passes of a batch per step, and about nine numbers per parameter and
    member of memory with Adam.

    Example:
        >>> from widescape import arch
        >>> run = ensemble(
        ...     arch.fc(1, 16, 1, activation=arch.Erf()), jax.random.key(0), 3, np.eye(2), np.ones((2, 1)), 1.0, 9
        ... )
        >>> run.outputs.shape, bool((run.loss[-1] < run.loss[0]).all())
        ((3, 2, 1), True)
    """
    checks.count(num_members, "num_members", "ensemble")
    checks.count(steps, "steps", "ensemble", minimum=0)
    draw, apply = initializer_of(net, x, width, dtype)
    double = np.dtype(dtype) == np.float64 if isinstance(net, Layer) else None
    x, x_test = _cast(x, double), _cast(x_test, double)
    first = System(apply, draw(named_key(key, "member", 0)), x, y, loss=loss, reduction=reduction)
    if batch_size is not None and not 1 <= batch_size <= first.num_examples:
        raise ValueError(f"`batch_size` is {batch_size}, but there are {first.num_examples} examples.")
    checks.count(drift_examples, "drift_examples", "ensemble", minimum=0)
    test = first.x if x_test is None else System(apply, first.params, x_test).x
    program = Program(
        hashable(apply), hashable(loss), reduction, as_optimizer(optimizer), batch_size, linearize, center
    )
    if members_at_once is not None:
        checks.count(members_at_once, "members_at_once", "ensemble")
    at_once = members_at_once or _members_that_fit(first, num_members, batch_size)
    groups = [range(i, min(i + at_once, num_members)) for i in range(0, num_members, at_once)]
    parts: list[dict[str, np.ndarray]] = []

    def work() -> Iterator[None]:
        for members in groups:
            keys = [named_key(key, "member", i) for i in members]
            starts = [System(apply, draw(k), first.x).params for k in keys]  # drawn as they come, cast like the data
            group = _Group(program, starts, keys, first, test, penalty, first.double)
            yield from group.train(steps)
            parts.append(group.outcome(drift_examples))

    for _ in track(work(), "ensemble", total=len(groups) * len(record_steps(steps)), show=progress):
        pass
    joined = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in ("loss", "distance")}
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in joined}
    outputs = rows["outputs"]
    with np.errstate(over="ignore", invalid="ignore"):  # members that diverged are kept
        mean = outputs.mean(axis=0)
        spread = outputs.std(axis=0, ddof=1) if num_members > 1 else np.full(outputs.shape[1:], np.inf)
    return EnsembleRun(
        mean=mean,
        stderr=spread / num_members**0.5,
        steps=np.asarray(record_steps(steps)),
        diverged=~np.isfinite(joined["loss"]).all(axis=0),
        **joined,  # type: ignore[arg-type]
        **rows,  # type: ignore[arg-type]
    )


class _Group:
    """Some members, trained side by side."""

    def __init__(
        self,
        program: Program,
        starts: list[Any],
        keys: list[jax.Array],
        system: System,
        test: Any,
        penalty: Penalty | None,
        double: bool,
    ) -> None:
        self.program, self.starts, self.system, self.double = program, starts, system, double
        self.recorded: list[list[np.ndarray]] = []
        with double_scope(double):
            self.start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
            pulls = [pull_of(penalty, params) for params in starts]
            self.pull = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pulls)
            self.key = jnp.stack(keys)
            self.state = State(self.start, jax.vmap(program.optimizer.init)(self.start))
            self.both = jax.tree.map(lambda *leaves: np.concatenate(leaves), system.x, test)
            self.before = np.asarray(_predict(program, self.start, self.start, self.both))

    def train(self, steps: int) -> Iterator[None]:
        """Take the steps, yielding at each recorded one."""
        x, y, step = self.system.x, self.system.y, 0
        for goal in record_steps(steps):
            self._advance_to(step, goal, x, y)
            step = goal
            yield

    def _advance_to(self, step: int, goal: int, x: Any, y: Any) -> None:
        with double_scope(self.double):
            if goal > step:
                self.state = _advance(self.program, self.state, self.start, self.pull, self.key, x, y, step, goal)
            row = _measure(self.program, self.state.params, self.start, x, y)
            self.recorded.append([np.asarray(v) for v in row])

    def outcome(self, drift_examples: int) -> dict[str, np.ndarray]:
        """Outputs before and after, and the history."""
        n, cut = len(self.starts), self.system.num_examples
        with double_scope(self.double):
            after = np.asarray(_predict(self.program, self.state.params, self.start, self.both))
            drift = np.full(n, np.nan)
            if drift_examples:
                drift = _drifts(self.program, self.starts, self.state.params, self.system, drift_examples)
        return {
            "outputs": after[:, cut:],
            "train_outputs": after[:, :cut],
            "initial_outputs": self.before[:, cut:],
            "initial_train_outputs": self.before[:, :cut],
            "drift": drift,
            "loss": np.stack([loss for loss, _ in self.recorded]),
            "distance": np.stack([distance for _, distance in self.recorded]),
        }


@partial(jax.jit, static_argnums=(0,))
def _advance(
    program: Program, state: State, start: Any, pull: Any, key: Any, x: Any, y: Any, first: Any, last: Any
) -> State:
    def one(state: State, start: Any, pull: Any, key: Any) -> State:
        return steps_between(program, state, start, pull, key, x, y, first, last)

    return jax.vmap(one)(state, start, pull, key)


@partial(jax.jit, static_argnums=(0,))
def _predict(program: Program, params: Any, start: Any, x: Any) -> jax.Array:
    outputs = jax.vmap(lambda p, s: program.outputs(p, s, x))(params, start)
    return outputs.reshape(*outputs.shape[:2], -1)


@partial(jax.jit, static_argnums=(0,))
def _measure(program: Program, params: Any, start: Any, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Loss and distance of each member."""
    return jax.vmap(lambda p, s: (program.value(p, s, x, y), relative_distance(p, s)))(params, start)


def _drifts(program: Program, starts: list[Any], ends: Any, system: System, count: int) -> np.ndarray:
    """The relative change of each member's tangent kernel."""
    if program.linearized:
        return np.zeros(len(starts))
    few = jax.tree.map(lambda leaf: leaf[:count], system.x)
    kernel = prepare(program.f, starts[0], few)
    changes = []
    for i, start in enumerate(starts):
        end = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), ends)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end)):
            changes.append(np.nan)
            continue
        first = kernel.at(start)
        changes.append(float(np.linalg.norm(kernel.at(end) - first) / np.linalg.norm(first)))
    return np.asarray(changes)


def _cast(x: Any, double: bool | None) -> Any:
    """Inputs in the precision of an architecture's parameters."""
    if x is None or double is None:
        return x
    array = checks.batch(x, "x", dtype="float64" if double else "float32")
    if array.ndim < 2:
        raise ShapeError(f"`x` has shape {array.shape}; give a batch, examples first.")
    return array


def _members_that_fit(system: System, num_members: int, batch_size: int | None) -> int:
    """Members whose parameters, optimizer state and activations fit a quarter of the free memory."""
    item = 8 if system.double else 4
    examples = system.num_examples if batch_size is None else batch_size
    uses = checked(system.f, system.params, system.x, None, "trace", None, mixes=False).uses
    activations = uses.width * examples
    each = item * (9 * system.num_params + 3 * activations)
    return int(max(1, min(num_members, available_bytes() // 4 // each)))
