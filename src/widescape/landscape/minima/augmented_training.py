"""Training with added variables: an augmented model, or a scaled loss, watched all the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT
from widescape.core.precision import call_in_float64
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.landscape.minima.assumptions import constant_level
from widescape.landscape.minima.augmentation import AugmentedLoss, AugModel, augmented_loss
from widescape.landscape.minima.losses import ExampleLoss
from widescape.landscape.minima.monitor import EscapeMonitor, measure
from widescape.landscape.minima.pieces import Finished, checked_run, refuse_decay, run
from widescape.landscape.minima.scaled_loss import ScaledLoss, scale_out_minima
from widescape.landscape.minima.variables import data_pair, real_parameters
from widescape.landscape.minima.verdicts import Measured, MonitorRow, MonitorStatus, Rules, ScaledRules


class TrainReport(Result):
    """A run with added variables: where it ended, the best parameters of the model alone, and what it did."""

    source = "kawaguchi2019elimination"
    status: MonitorStatus = quantity(EXACT, "what the run was doing at its end")
    variables: np.ndarray = quantity(EXACT, "all variables at the end, flat; `q` unravels them")
    best: np.ndarray = quantity(EXACT, "theta of the least L(theta) of all steps, flat; `theta_best` unravels it")
    best_loss: float = quantity(EXACT, "the least L(theta) of all steps, the mean loss of the model alone")
    num_steps: int = quantity(EXACT, "steps that were asked for")
    assumptions: bool = quantity(EXACT, "whether no assumption was found to fail under which a run may vanish")
    steps: np.ndarray = quantity(EXACT, "recorded steps (T,)")
    statuses: tuple[MonitorStatus, ...] = quantity(EXACT, "the status at each of them")
    modified_loss: np.ndarray = quantity(EXACT, "the objective, with added term and penalty (T,)")
    loss: np.ndarray = quantity(EXACT, "L(theta), of the model alone (T,)")
    contribution: np.ndarray = quantity(EXACT, "G, the largest |g_k(x_i)| of the added term, or |a e^b| (T,)")
    a: np.ndarray = quantity(EXACT, "amplitudes, in raw coordinates (T, dy)")
    b: np.ndarray = quantity(EXACT, "offsets (T, dy)")
    gradient_norm: np.ndarray = quantity(EXACT, "norm of the gradient of the objective (T,)")
    identity_defect: np.ndarray = quantity(EXACT, "largest |a_k d/da_k - d/db_k - 2 lam a_k^2| (T,)")
    w_norms: np.ndarray | None = quantity(EXACT, "|w_k| (T, dy); None for a scaled loss", default=None)
    residual: np.ndarray | None = quantity(
        EXACT, "rho, the largest norm of a group residual over m (T,); None for a scaled loss", default=None
    )

    @property
    def q(self) -> Any:
        """The variables at the end, in float64.

        Raises:
            ValueError: the report was loaded from a file.
        """
        return self._unraveled("_unravel", self.variables)

    @property
    def theta_best(self) -> Any:
        """The parameters of the least L(theta), in float64. Never chosen by the objective, which hides loss.

        Raises:
            ValueError: the report was loaded from a file.
        """
        return self._unraveled("_unravel_theta", self.best)

    @property
    def rows(self) -> tuple[MonitorRow, ...]:
        """The history as rows of a monitor."""
        history = Measured(*(getattr(self, name) for name in Measured._fields))
        numbered = enumerate(zip(self.steps.tolist(), self.statuses, strict=True))
        return tuple(history.row(t).as_row(step, status) for t, (step, status) in numbered)

    def charts(self) -> tuple[Chart, ...]:
        """(a) loss and objective, (b) amplitudes, added term and offsets, against steps; none without history."""
        if not len(self.steps):
            return ()
        positive = bool((self.loss > 0).all() and (self.modified_loss > 0).all())
        lines = {
            "max |a|": np.abs(self.a).max(axis=1),
            "G, the added term": self.contribution,
            "max b": self.b.max(axis=1),
        }
        return (
            Chart(
                name="hidden_loss",
                title="Loss of the model alone, and the objective with the added term",
                x_label="step",
                y_label="loss",
                series=(
                    Series(self.steps, self.loss, "L, model alone"),
                    Series(self.steps, self.modified_loss, "objective"),
                ),
                y_scale="log" if positive else "linear",
                caption=str(self.status),
            ),
            Chart(
                name="added_term",
                title="Amplitudes, added term and offsets",
                x_label="step",
                y_label="value",
                series=tuple(Series(self.steps, values, label) for label, values in lines.items()),
                caption="Amplitudes go to zero on success and on failure; the added term on success only.",
            ),
        )

    def _unraveled(self, name: str, flat: np.ndarray) -> Any:
        unravel: Callable[[Any], Any] | None = getattr(self, name, None)
        if unravel is None:
            raise ValueError("this report was loaded or copied; its flat vectors are in `variables` and `best`.")
        return unravel(flat)


def train_augmented(
    model: AugModel,
    loss: ExampleLoss,
    q0: Any,
    data: Any,
    *,
    lam: float = 1e-2,
    opt: optax.GradientTransformation | float,
    steps: int,
    monitor: EscapeMonitor | None = None,
    every: int | None = None,
    progress: bool | None = None,
) -> TrainReport:
    """Train an augmented model on all data, and say whether the added term vanished or escaped to infinity.

    Minimizes L~ = mean_i loss(f~(x_i), y_i) + lam |a|^2 in float64.

    Args:
        model: made by `augment_exp`.
        loss: of one example, convex and differentiable in its outputs.
        q0: variables to start from, as ``model.init`` makes them.
        data: a pair (x, y), or a `System` with targets.
        lam: weight of the penalty, positive.
        opt: an optax transformation, or a learning rate for descent. Weight decay on theta alone is allowed.
        steps: how many to take, at least one.
        monitor: one with the same model, loss and weight, for other thresholds; None makes one. It gets no rows: the
            history is in the report.
        every: steps between records; None for about 200 records.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `TrainReport`, whose status is that of the monitor at the last step. A run in which a number becomes infinite
        or NaN ends with status OVERFLOWED, with the last variables at which objective and gradient are finite and the
        records before; scaled coordinates avoid it.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit; an optimizer that moves a, b or W in 64 updates
            at zero gradient, as weight decay or noise does (what a schedule brings later is not seen); a monitor of
            another objective.

    Warns:
        AssumptionWarning: equal inputs have different targets, the loss of an example has no minimum or is not convex,
            or something is computed in float32. Then no point is called vanished.

    Cost: about three forward passes a step, and three more for a record; copies of all variables twice.

    Example:
        >>> model = AugModel(lambda theta, x: x @ theta, 1, 1)
        >>> x, y = np.array([[-1.0], [1.0]]), np.array([[-2.0], [2.0]])
        >>> report = train_augmented(model, "square", model.init(None, np.zeros((1, 1))), (x, y), opt=0.5, steps=3000)
        >>> report.status.name, report.theta_best.round(6).tolist()
        ('VANISHED', [[2.0]])
    """
    objective = augmented_loss(model, loss, lam)
    own = EscapeMonitor(model, loss, lam) if monitor is None else monitor
    if own.objective != objective:
        raise ValueError("`monitor` belongs to another objective; make it with the same `model`, `loss` and `lam`.")
    optimizer, steps, every = checked_run(opt, steps, every, "train_augmented")
    start = real_parameters(model.checked(q0), "q0")
    prepared = own.prepared(start, *data_pair(data))
    refuse_decay(optimizer, start, (model.amplitude_name, "b", "W"))
    done = run(AugmentedObjective(objective), optimizer, start, prepared, steps=steps, every=every, progress=progress)
    return _report(done, own.rules, steps)


def train_scaled(
    L: Any,  # noqa: N803
    theta0: Any,
    *,
    lam: float = 1e-2,
    opt: optax.GradientTransformation | float,
    steps: int,
    tol: float | None = None,
    every: int | None = None,
    progress: bool | None = None,
) -> TrainReport:
    """Train a loss with its scale as two more variables, and say whether it was solved or escaped to infinity.

    Minimizes L(theta) (1 + (a e^b - 1)^2) + lam a^2 from a = b = 0 in float64; see `scale_out_minima`. The run is
    vanished where L(theta) <= 1e-8 v and |a e^b| <= 1e-6, a global minimum up to these tolerances, escaping where
    L(theta) > `tol` and |a e^b - 1| < 0.1 while b grew over the longer of 200 steps and the second half of the run, and
    running otherwise. The level v is the loss of a system at the mean target where targets are real numbers, and else
    the smaller of 1 and L at `theta0`; with `tol`, 1e-8 v is at most 1e-5 `tol`.

    Args:
        L: a function of the parameters that returns one number, or a `System` with targets; not negative, with global
            minimum 0.
        theta0: parameters to start from; None for those of a system.
        lam: weight of the penalty, positive.
        opt: an optax transformation, or a learning rate for descent. Weight decay on theta alone is allowed.
        steps: how many to take, at least one.
        tol: the loss above which the problem is not solved; None for 1e-3 v.
        every: steps between records; None for about 200 records.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `TrainReport`, of which `w_norms` and `residual` are None and `contribution` is |a e^b|. A run in which a
        number becomes infinite or NaN ends with status OVERFLOWED and what came before.

    Raises:
        TypeError, ValueError: arguments that do not fit; a loss that is not one number, or negative at the start; an
            optimizer that moves a or b in 64 updates at zero gradient.
        NonFiniteError: a loss that is NaN or infinite at the start.

    Warns:
        AssumptionWarning: the loss fell below zero, and nothing is called vanished.

    Cost: about three evaluations of L a step.

    Source: sohldickstein2019eliminating.

    Example:
        >>> report = train_scaled(lambda theta: (theta - 1.0) ** 2, np.array(0.0), opt=0.1, steps=10000)
        >>> report.status.name, report.theta_best.round(6).tolist()
        ('VANISHED', 1.0)
    """
    objective = ScaledObjective(scale_out_minima(L, lam))
    optimizer, steps, every = checked_run(opt, steps, every, "train_scaled")
    theta = L.params if theta0 is None and isinstance(L, System) else theta0
    if theta is None:
        raise TypeError("`theta0` is None, but `L` is a function; give the parameters to start from.")
    start = {"theta": real_parameters(theta, "theta0"), "a": np.zeros(()), "b": np.zeros(())}
    level = _level(L, objective.scaled(start) / 2)  # at a = 0 twice L; refuses what is no loss
    refuse_decay(optimizer, start, ("a", "b"))
    rules = ScaledRules.of(level, tol, "train_scaled")
    done = run(objective, optimizer, start, (), steps=steps, every=every, progress=progress)
    return _report(done, rules.for_least(done.best_loss), steps)


@dataclass(frozen=True)
class AugmentedObjective:
    """The objective of an augmented model on (x, y, groups)."""

    augmented: AugmentedLoss

    def both(self, q: Any, x: Any, y: Any, groups: Any) -> tuple[jax.Array, jax.Array]:
        return self.augmented.both(q, x, y)

    def measured(self, q: Any, x: Any, y: Any, groups: Any) -> Measured:
        return measure(self.augmented, q, x, y, groups)


@dataclass(frozen=True)
class ScaledObjective:
    """A scaled loss, which has its data inside."""

    scaled: ScaledLoss

    def both(self, q: Any) -> tuple[jax.Array, jax.Array]:
        return self.scaled.both(q)

    def measured(self, q: Any) -> Measured:
        return measured_scaled(self.scaled.both, q, self.scaled.lam)


def measured_scaled(both: Callable[[Any], tuple[jax.Array, jax.Array]], q: Any, lam: float) -> Measured:
    """The numbers of a row of a scaled loss; traceable."""
    (modified, loss), gradient = jax.value_and_grad(both, has_aux=True)(q)
    a, b = q["a"], q["b"]
    return Measured(
        modified_loss=modified,
        loss=loss,
        contribution=jnp.abs(a * jnp.exp(b)),
        a=a[None],
        b=b[None],
        w_norms=None,
        residual=None,
        gradient_norm=jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))),
        identity_defect=jnp.abs(a * gradient["a"] - gradient["b"] - 2 * lam * a**2),
    )


def _report(done: Finished, rules: Rules | ScaledRules, steps: int) -> TrainReport:
    statuses = rules.statuses(done.steps, done.history)
    with jax.enable_x64(True):
        (variables, unravel), (best, unravel_theta) = ravel_pytree(done.q), ravel_pytree(done.best)
    report = TrainReport(
        status=MonitorStatus.OVERFLOWED if done.overflowed else statuses[-1],
        variables=np.asarray(variables),
        best=np.asarray(best),
        best_loss=done.best_loss,
        num_steps=steps,
        assumptions=rules.certifies,
        steps=done.steps,
        statuses=statuses,
        **done.history._asdict(),
    )
    object.__setattr__(report, "_unravel", lambda flat: call_in_float64(unravel, np.asarray(flat)))
    object.__setattr__(report, "_unravel_theta", lambda flat: call_in_float64(unravel_theta, np.asarray(flat)))
    return report


def _level(L: Any, at_start: float) -> float:  # noqa: N803
    """The level of a loss: that of a system at the mean target, else the smaller of 1 and the loss at the start."""
    if isinstance(L, System):
        targets = np.asarray(L.y)
        found = constant_level(L.loss, targets, L.num_outputs)
        if found is not None:
            return found * (len(targets) if L.reduction == "sum" else 1)
    return min(1.0, max(at_start, 0.0))
