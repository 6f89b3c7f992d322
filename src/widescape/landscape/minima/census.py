"""A census of training with and without added variables, from many starting points at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.landscape.minima.augmentation import AugModel, Coordinates, augment_exp
from widescape.landscape.minima.augmented_training import AugmentedObjective, measured_scaled
from widescape.landscape.minima.losses import ExampleLoss, as_columns, as_loss, mean_loss
from widescape.landscape.minima.monitor import EscapeMonitor
from widescape.landscape.minima.pieces import Objective, checked_run, marks, refuse_decay, run_many
from widescape.landscape.minima.scaled_loss import scaled_value
from widescape.landscape.minima.variables import doubled, positive_weight, real_parameters, require_array
from widescape.landscape.minima.verdicts import Measured, MonitorStatus, Rules, ScaledRules

_RATE = 2e-2
_RECORDS = 100
_LARGE = 0.1  # the added term above which it has not vanished, and the amplitude below which it seems to have


class CensusStatus(Status):
    """How a census ended."""

    OK = "All runs of all arms took all steps."
    OVERFLOWED = "Some runs reached infinite or NaN numbers; they count with the last finite ones."


class EliminationCensus(Result):
    """Runs from S starting points in three arms: the model alone, with added neurons, and with a scaled loss."""

    source = "kawaguchi2019elimination"
    status: CensusStatus = quantity(EXACT, "whether all runs took all steps")
    plain_loss: np.ndarray = quantity(EXACT, "final L(theta), trained alone (S,)")
    augmented_loss: np.ndarray = quantity(EXACT, "final L(theta), trained with added neurons (S,)")
    augmented_modified: np.ndarray = quantity(EXACT, "final objective with added neurons (S,)")
    contribution: np.ndarray = quantity(EXACT, "final G, the largest |g_k(x_i)| of the added term (S,)")
    max_a: np.ndarray = quantity(EXACT, "final max |a_k| (S,)")
    scaled_loss: np.ndarray = quantity(EXACT, "final L(theta), trained with a scaled loss (S,)")
    scaled_modified: np.ndarray = quantity(EXACT, "final scaled loss (S,)")
    scaled_hidden: np.ndarray = quantity(EXACT, "final a e^b of the scaled loss (S,)")
    augmented_status: tuple[MonitorStatus, ...] = quantity(EXACT, "verdict on each run with added neurons")
    scaled_status: tuple[MonitorStatus, ...] = quantity(EXACT, "verdict on each run with a scaled loss")
    steps: np.ndarray = quantity(EXACT, "recorded steps (T,)")
    history_loss: np.ndarray = quantity(EXACT, "L(theta) with added neurons (T, S)")
    history_modified: np.ndarray = quantity(EXACT, "objective with added neurons (T, S)")
    history_a: np.ndarray = quantity(EXACT, "max |a_k| (T, S)")
    history_contribution: np.ndarray = quantity(EXACT, "G (T, S)")
    history_b: np.ndarray = quantity(EXACT, "max b_k (T, S)")
    lam: float = quantity(EXACT, "weight of the penalty")

    @property
    def plain_median(self) -> float:
        """Median of the final L(theta) of the model alone."""
        return float(np.median(self.plain_loss))

    @property
    def augmented_median(self) -> float:
        """Median of the final L(theta) with added neurons."""
        return float(np.median(self.augmented_loss))

    @property
    def augmented_modified_median(self) -> float:
        """Median of the final objective with added neurons."""
        return float(np.median(self.augmented_modified))

    @property
    def scaled_ratio_median(self) -> float:
        """Median of the final scaled loss over L(theta)."""
        return float(np.median(self.scaled_modified / np.maximum(self.scaled_loss, np.finfo(np.float64).tiny)))

    @property
    def scaled_hidden_median(self) -> float:
        """Median of the final a e^b of the scaled loss."""
        return float(np.median(self.scaled_hidden))

    @property
    def contribution_share(self) -> float:
        """Share of runs with added neurons whose added term is above 0.1 at the end."""
        return float(np.mean(self.contribution > _LARGE))

    @property
    def deceptive_share(self) -> float:
        """Share of runs whose amplitudes are below 0.1 at the end although the added term is above it."""
        return float(np.mean((self.contribution > _LARGE) & (self.max_a < _LARGE)))

    def share(self, status: str) -> float:
        """Share of runs with added neurons that have a status, for instance ``"escaping"``."""
        checks.choice(status, "status", tuple(member.name.lower() for member in MonitorStatus))
        return float(np.mean([own == status for own in self.augmented_status]))

    def charts(self) -> tuple[Chart, ...]:
        """(a) median loss and objective, (b) median amplitude, added term and offset, (c) final losses in order."""
        panels = {
            "L, model alone": self.history_loss,
            "objective": self.history_modified,
        }
        terms = {"max |a|": self.history_a, "G, the added term": self.history_contribution, "max b": self.history_b}
        order = np.arange(1, len(self.plain_loss) + 1)
        finals = {
            "alone": self.plain_loss,
            "with added neurons": self.augmented_loss,
            "with a scaled loss": self.scaled_loss,
        }
        positive = all((values > 0).all() for values in finals.values())
        return (
            Chart(
                name="hidden_loss",
                title="Loss of the model alone, and the objective with added neurons",
                x_label="step",
                y_label="loss",
                series=tuple(self._median(values, label) for label, values in panels.items()),
                y_scale="log" if all((values > 0).all() for values in panels.values()) else "linear",
                caption=f"Medians and quartiles of {order.size} runs.",
            ),
            Chart(
                name="added_term",
                title="Amplitudes, added term and offsets",
                x_label="step",
                y_label="value",
                series=tuple(self._median(values, label) for label, values in terms.items()),
                caption=f"Medians and quartiles of {order.size} runs. Amplitudes fall, and the added term does not.",
            ),
            Chart(
                name="final_loss",
                title="Final loss of the model, trained alone and with added variables",
                x_label="run, in order of its loss",
                y_label="L(theta)",
                series=tuple(Series(order, np.sort(v), label, style="both") for label, v in finals.items()),
                y_scale="log" if positive else "linear",
                markers=(Marker(self.augmented_modified_median, "median objective with added neurons"),)
                if not positive or self.augmented_modified_median > 0
                else (),
                caption=f"{self.share('escaping'):.0%} of the runs with added neurons escape, "
                f"{self.share('vanished'):.0%} vanish.",
            ),
        )

    def _median(self, values: np.ndarray, label: str) -> Series:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        return Series(self.steps, middle, label, low, high)


def elimination_census(
    f: Callable[[Any, Any], Any] | System,
    loss: ExampleLoss | None,
    starts: Any,
    X: Any = None,  # noqa: N803
    y: Any = None,
    *,
    lam: float = 1e-2,
    opt: optax.GradientTransformation | float | None = None,
    steps: int = 6000,
    every: int | None = None,
    coords: Coordinates = "raw",
    w_scale: float = 0.1,
    tol: float | None = None,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> EliminationCensus:
    """Final losses from many starting points, trained alone, with added neurons, and with a scaled loss.

    The three arms minimize L(theta) = mean_i loss(f(x_i), y_i), the objective of `augmented_loss` and that of
    `scale_out_minima`, from the same parameters with the same optimizer in float64. Runs are judged by the rules of
    `EscapeMonitor` and `train_scaled`.

    Args:
        f: takes (theta, X) to outputs (m, dy), or (m,); or a `System` with targets, which brings the loss of an
            example and the data.
        loss: of one example, convex and differentiable in its outputs, not negative; None for that of a system.
        starts: a PyTree of parameters of f with the S starting points along the first axis of its leaves.
        X: inputs (m, ...), whose flattened entries the added neurons see; None for those of a system.
        y: targets; None for those of a system.
        lam: weight of the penalty, positive.
        opt: an optax transformation, or a learning rate for descent; None for Adam from 0.02 with a cosine to 0.
        steps: how many each run takes.
        every: steps between records; None for about 100 records.
        coords: coordinates of the added neurons.
        w_scale: standard deviation of W at the start.
        tol: the loss above which a run with a scaled loss is not solved; None for 1e-3 times the loss at constant
            outputs, see `EscapeMonitor`.
        key: of the draws of W, one for each start; None for ``jax.random.key(0)``.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        an `EliminationCensus`. Runs that overflow stop at their last finite numbers, with that status.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit, as in `train_augmented`.

    Warns:
        AssumptionWarning: as in `train_augmented`; the loss fell below zero, and no run with a scaled loss is called
            vanished.

    Cost: nine forward passes for each start and step; one compiled program for each arm.

    Example:
        >>> X, y = np.array([[-1.0], [1.0]]), np.array([[-2.0], [2.0]])
        >>> census = elimination_census(lambda w, x: x @ w, "square", np.zeros((3, 1, 1)), X, y, opt=0.5, steps=3000)
        >>> census.share("vanished"), census.status.name
        (1.0, 'OK')
    """
    weight = positive_weight(lam, "elimination_census")
    f, loss, X, y = _parts(f, loss, X, y)  # noqa: N806
    checks.count(steps, "steps", "elimination_census")
    rule = _cosine_adam(steps) if opt is None else opt
    every = max(1, steps // _RECORDS) if every is None else every
    optimizer, steps, every = checked_run(rule, steps, every, "elimination_census")
    thetas, count = _checked_starts(starts)
    model = _model(f, thetas, X, coords, w_scale)
    root = jax.random.key(0) if key is None else key
    qs = [model.init(named_key(root, i), jax.tree.map(itemgetter(i), thetas)) for i in range(count)]
    monitor = EscapeMonitor(model, loss, weight)
    data = monitor.prepared(qs[0], X, y)
    scaled = ScaledRules.of(monitor.rules.level, tol, "elimination_census")
    refuse_decay(optimizer, qs[0], (model.amplitude_name, "b", "W"))
    own, zeros = as_loss(loss), np.zeros(count)
    objectives: tuple[tuple[Objective, Any], ...] = (
        (_Plain(model.f, own), {"theta": thetas}),
        (AugmentedObjective(monitor.objective), jax.tree.map(lambda *leaves: np.stack(leaves), *qs)),
        (_Scaled(model.f, own, weight), {"theta": thetas, "a": zeros, "b": zeros}),
    )
    options: Any = {"steps": steps, "every": every, "progress": progress}
    arms = tuple(_Arm(*run_many(o, optimizer, start, data, **options)) for o, start in objectives)
    scaled = scaled.for_least(float(arms[2].rows.loss.min()))
    return _census(arms, np.asarray(marks(steps, every)), (monitor.rules, scaled), weight)


@dataclass(frozen=True)
class _Plain:
    """The loss of the model alone on (x, y, groups)."""

    f: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any], Any]

    def both(self, q: Any, x: Any, y: Any, groups: Any) -> tuple[jax.Array, jax.Array]:
        value = mean_loss(self.loss, as_columns(self.f(q["theta"], x)), y)
        return value, value

    def measured(self, q: Any, x: Any, y: Any, groups: Any) -> Measured:
        value, none, nothing = self.both(q, x, y, groups)[0], jnp.zeros(()), jnp.zeros(1)
        return Measured(value, value, none, nothing, nothing, None, None, none, none)


@dataclass(frozen=True)
class _Scaled:
    """The scaled loss of the model on (x, y, groups)."""

    f: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any], Any]
    lam: float

    def both(self, q: Any, x: Any, y: Any, groups: Any) -> tuple[jax.Array, jax.Array]:
        value = _Plain(self.f, self.loss).both(q, x, y, groups)[0]
        return scaled_value(value, q["a"], q["b"], self.lam), value

    def measured(self, q: Any, x: Any, y: Any, groups: Any) -> Measured:
        return measured_scaled(lambda own: self.both(own, x, y, groups), q, self.lam)


@dataclass(frozen=True)
class _Arm:
    """The records (T, S, ...) of an arm, and which runs overflowed (S,)."""

    rows: Measured
    overflowed: np.ndarray

    def statuses(self, rules: Rules | ScaledRules, steps: np.ndarray) -> tuple[MonitorStatus, ...]:
        """The verdict on each run."""
        return tuple(
            MonitorStatus.OVERFLOWED if bad else rules.verdict(steps, self.rows.row((slice(None), s)))
            for s, bad in enumerate(self.overflowed)
        )


def _census(
    arms: tuple[_Arm, ...], steps: np.ndarray, rules: tuple[Rules, ScaledRules], lam: float
) -> EliminationCensus:
    _, augmented, scaled = arms
    ends = [arm.rows.row(-1) for arm in arms]
    bad = any(arm.overflowed.any() for arm in arms)
    return EliminationCensus(
        status=CensusStatus.OVERFLOWED if bad else CensusStatus.OK,
        plain_loss=ends[0].loss,
        augmented_loss=ends[1].loss,
        augmented_modified=ends[1].modified_loss,
        contribution=ends[1].contribution,
        max_a=np.abs(ends[1].a).max(axis=1),
        scaled_loss=ends[2].loss,
        scaled_modified=ends[2].modified_loss,
        scaled_hidden=ends[2].a[:, 0] * np.exp(ends[2].b[:, 0]),
        augmented_status=augmented.statuses(rules[0], steps),
        scaled_status=scaled.statuses(rules[1], steps),
        steps=steps,
        history_loss=augmented.rows.loss,
        history_modified=augmented.rows.modified_loss,
        history_a=np.abs(augmented.rows.a).max(axis=2),
        history_contribution=augmented.rows.contribution,
        history_b=augmented.rows.b.max(axis=2),
        lam=lam,
    )


@lru_cache(maxsize=16)
def _cosine_adam(steps: int) -> optax.GradientTransformation:
    """One object for each number of steps, so that censuses share their compiled programs."""
    return optax.adam(optax.cosine_decay_schedule(_RATE, steps))


def _parts(f: Any, loss: Any, X: Any, y: Any) -> tuple[Any, Any, Any, Any]:  # noqa: N803
    """Model, loss, inputs and targets, of a system where there is one.

    Raises:
        TypeError, ValueError: a system and more, or without targets; a function without loss or data.
    """
    own = {"loss": loss, "X": X, "y": y}
    given = [name for name, part in own.items() if part is not None]
    if not isinstance(f, System):
        if len(given) < len(own):
            raise TypeError(f"{', '.join(sorted(own.keys() - given))} are None; give them, or a System with targets.")
        return f, loss, X, y
    if given:
        raise TypeError(f"`f` is a System, which brings {', '.join(given)}; leave them None.")
    f.require_targets()
    return f.operators.f, f.loss, f.x, f.y


def _checked_starts(starts: Any) -> tuple[Any, int]:
    thetas = real_parameters(starts, "starts")
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(thetas)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ShapeError(
            f"the leaves of `starts` have {sorted(sizes)} entries along their first axis; give parameters with the "
            "same positive number of starting points along the first axis of each leaf."
        )
    return thetas, int(sizes.pop()[0])


def _model(f: Any, thetas: Any, X: Any, coords: Coordinates, w_scale: float) -> AugModel:  # noqa: N803
    """The augmented model of the first start's shapes."""
    inputs = doubled(X, "X")
    require_array(X)
    if np.ndim(inputs) < 1 or 0 in np.shape(inputs):
        raise ShapeError(f"`X` has shape {np.shape(inputs)}; give inputs (m, ...), examples first, at least one.")
    if not callable(f):
        raise TypeError(f"`f` is {f!r}; give a function of (theta, X).")
    with jax.enable_x64(True):
        out = jax.eval_shape(lambda t, x: as_columns(f(t, x)), jax.tree.map(lambda leaf: leaf[0], thetas), inputs)
    return augment_exp(f, dx=inputs[0].size, dy=out.shape[1], coords=coords, w_scale=w_scale)
