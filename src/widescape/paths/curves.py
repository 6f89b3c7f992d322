"""Curves between two solutions that are trained to have a low loss: Bezier curves and polygonal chains."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, bound, sampled
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.operators import Operators
from widescape.curvature.system import System
from widescape.paths.curve_batches import Batches, Still
from widescape.paths.polyline import PiecewiseLinearPath
from widescape.paths.profiles import LOSS, Evaluator, Loss, Refresh, evaluator, mean_over_length
from widescape.train.loop import as_optimizer

CurveKind = Literal["bezier", "polychain"]
_STRATA = 16  # positions per step of a stratified draw
_SHOWN = 2000  # points of a chart


class CurveStatus(Status):
    """How the training of a curve ended."""

    OK = "All steps were taken."
    DIVERGED = "The loss or the points became infinite or NaN; the last finite curve was kept. Lower the rate."


class Curve(Result):
    """A curve between two parameters whose inner control points were trained for a low mean loss."""

    source = "garipov2018loss"
    status: CurveStatus = quantity(EXACT, "how training ended")
    kind: str = quantity(EXACT, "bezier or polychain")
    control: np.ndarray = quantity(
        sampled("inner points by stochastic descent; the first and last are given"), "flat control points (K, p)"
    )
    t: np.ndarray = quantity(EXACT, "positions from 0 to 1, (num,)")
    loss: np.ndarray = quantity(EXACT, "loss on the curve at the positions, without penalty, (num,)")
    line_loss: np.ndarray = quantity(EXACT, "loss on the straight line between the ends, there, (num,)")
    min: float = quantity(bound("upper", "of the least loss on the curve"), "least loss at the positions")
    max: float = quantity(bound("lower", "of the largest loss on the curve"), "largest loss at the positions")
    mean: float = quantity(sampled("equally spaced positions"), "mean of the loss over the positions")
    integral: float = quantity(
        sampled("trapezoid rule on the chords between positions"), "mean of the loss over the length of the curve"
    )
    history: np.ndarray = quantity(EXACT, "loss at the random position of each step, before it, (steps taken,)")

    def __call__(self, t: float) -> Any:
        """The PyTree of parameters at position `t` from 0 to 1; exactly the ends at 0 and 1."""
        place = checks.number(t, "t", "Curve")
        if not 0 <= place <= 1:
            raise ValueError(f"`t` is {place}; positions on a curve are from 0 to 1.")
        return self._restored(self.at(place))

    def at(self, t: float) -> np.ndarray:
        """The same as a flat vector (p,)."""
        weights = coefficients(self.kind, np.asarray(t, np.float64), len(self.control)).astype(self.control.dtype)
        base = self.control[0] if weights[0] >= weights[-1] else self.control[-1]
        return base + weights @ (self.control - base)

    @property
    def points(self) -> tuple[Any, ...]:
        """The control points as PyTrees like the ends."""
        return tuple(self._restored(point) for point in self.control)

    def path(self, num: int = 61) -> PiecewiseLinearPath:
        """The piecewise linear path through `num` equally spaced positions."""
        checks.count(num, "num", "path", minimum=2)
        return PiecewiseLinearPath([self(t) for t in np.linspace(0.0, 1.0, num)], (self.kind,) * (num - 1))

    def _restored(self, w: np.ndarray) -> Any:
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError(
                "this curve was loaded or copied, so it has flat vectors only: `control` and `at(t)`. For a System, "
                "`system.unravel` gives their PyTrees."
            )
        return unravel(w)

    def charts(self) -> tuple[Chart, ...]:
        """The loss along the curve beside that on the straight line, and the losses of training."""
        shown = np.unique(np.linspace(0, len(self.history) - 1, min(len(self.history), _SHOWN)).astype(int))
        both = (Series(self.t, self.loss, self.kind), Series(self.t, self.line_loss, "straight line"))
        losses = Chart(
            name="curve",
            title="Loss on a trained curve and on the straight line",
            x_label="position t",
            y_label="loss",
            series=both,
            y_scale="log" if all((s.y > 0).all() for s in both) else "linear",
            caption=f"On the curve from {self.min:.4g} to {self.max:.4g}.",
        )
        if not len(self.history):
            return (losses,)
        series = Series(shown, self.history[shown], "at random positions")
        scale: Literal["linear", "log"] = "log" if (series.y > 0).all() else "linear"
        training = Chart("curve_training", "Loss while a curve was trained", "step", "loss", (series,), y_scale=scale)
        return losses, training


def fit_curve(
    loss: System | Callable[..., Any],
    a: Any,
    b: Any,
    *,
    batches: Iterable[Any] | None = None,
    kind: CurveKind = "bezier",
    n_inner: int = 1,
    steps: int = 1000,
    optimizer: optax.GradientTransformation | float | None = None,
    lr: float = 0.015,
    key: jax.Array | None = None,
    init_noise: float = 0.0,
    stratified: bool = False,
    weight_decay: float = 0.0,
    report: Loss | None = None,
    refresh: Refresh = None,
    num: int = 61,
    progress: bool | None = None,
) -> Curve:
    """A curve phi from a to b with a low mean loss E L(phi(t)), t uniform on [0, 1]; its inner points are trained.

    With K = n_inner + 2 control points w_j, phi(t) = sum_j c_j(t) w_j. A Bezier curve has
    c_j = C(K - 1, j) (1 - t)^(K - 1 - j) t^j, a polygonal chain max(0, 1 - |t (K - 1) - j|). Each step draws one t and
    descends on L(phi(t)) + weight_decay |phi(t)|^2 / 2 in the inner points, which start equally spaced on the line.

    Args:
        loss: a `System`, or a function of the parameters that returns one number; with `batches`, a function of the
            parameters and a batch.
        a: where the curve starts: a PyTree, or for a system also a flat vector.
        b: where it ends, likewise.
        batches: PyTrees of arrays, one for each step. Lists and the like start over when they end; an iterator must
            last for all steps. None for a loss of the parameters alone.
        kind: the family of curves.
        n_inner: control points that are trained.
        steps: how many to take.
        optimizer: an optax transformation, or a rate of gradient descent. None for that of the paper: momentum 0.9,
            the rate constant for half of the steps, then falling linearly to 1% at 90% of them. The compiled program
            belongs to the object: for several curves give the same one, since a new one is compiled anew each time
            even if it is alike; or give a rate, which is compiled once.
        lr: the constant rate of the paper's schedule; the default is that of its VGG16. Not used with an `optimizer`.
        key: draws positions and noise; `jax.random.key(0)` if None.
        init_noise: standard deviation of Gaussian noise on the inner points where they start, in units of
            |b - a| / sqrt(p), the root mean square difference of the ends' entries. Where a symmetry of the loss makes
            the straight line a saddle, descent needs it to leave.
        stratified: draw 16 positions for each step, one in each sixteenth of [0, 1], and descend on their mean.
        weight_decay: the penalty, on the parameters on the curve.
        report: a `System` or a function of the parameters: what the losses along the curve are. None for `loss`; with
            `batches` for its mean over them all if they are a list or tuple, else over the last 32 that were used.
        refresh: maps the parameters at a position, as a PyTree, to those at which the reported loss is taken there;
            for statistics of batch normalization.
        num: equally spaced positions at which the loss is taken in the end; the default is the paper's.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `Curve`, whose ends are exactly the given ones; in float64 if an end, or a batch, holds doubles. If training
        diverges, `status` says so, and the curve is the last one with finite losses, or the one at the start.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or too few batches.
        NonFiniteError: the loss is NaN or infinite at an end, or on the line between them.

    Cost: about three forward passes a step, 16 times that if stratified; 2 num of them in the end.

    Example:
        >>> valley = lambda w: (w[1] - (1 - w[0] ** 2)) ** 2
        >>> ends = np.array([-1.0, 0.0]), np.array([1.0, 0.0])
        >>> curve = fit_curve(valley, *ends, lr=0.3, steps=400, stratified=True)
        >>> curve.points[1].round(2).tolist(), round(float(curve.line_loss.max()), 6)
        ([0.0, 2.0], 1.0)
    """
    _check(kind, n_inner, steps, num, init_noise, weight_decay)
    chosen = _paper_schedule(_positive_rate(lr), int(steps)) if optimizer is None else as_optimizer(optimizer)
    root = jax.random.key(0) if key is None else key
    feed = Still(evaluator(loss, (a, b)).loss) if batches is None else Batches(loss, a, b, batches)
    measure = partial(_reported, feed, report, (a, b), refresh)
    ts = np.linspace(0.0, 1.0, num)
    ends, line = np.stack([feed.system.vector(a), feed.system.vector(b)]), np.column_stack([1 - ts, ts])
    taker = measure() if feed.known or report is not None else None
    line_loss = None if taker is None else taker(ends, line, progress=False)[LOSS]  # refused now, not after the work
    inner = _inner(ends[0], ends[1], n_inner, float(init_noise), root)
    program = _Program(feed.system.operators, chosen, kind, _STRATA if stratified else 1)
    start = np.concatenate([ends[:1], inner, ends[1:]])
    found = _train(program, feed, start, steps, float(weight_decay), root, progress)
    taker = measure() if taker is None else taker
    line_loss = taker(ends, line, progress=False)[LOSS] if line_loss is None else line_loss
    curve = _result(taker, program, found, start, ts, line_loss, progress)
    object.__setattr__(curve, "_unravel", feed.system.unravel)
    return curve


def coefficients(kind: str, t: Any, num: int) -> Any:
    """What each of `num` control points counts at positions `t`: an array of the shape of `t` and one more axis."""
    places, degree = t[..., None], num - 1
    order = np.arange(num)
    if kind == "polychain":
        return (1 - abs(places * degree - order.astype(t.dtype))).clip(0)
    binomials = np.array([math.comb(degree, j) for j in range(num)], t.dtype)
    return binomials * (1 - places) ** (degree - order) * places**order


def _reported(feed: Still | Batches, report: Loss | None, ends: tuple[Any, Any], refresh: Refresh) -> Evaluator:
    """What takes the losses along the curve."""
    return evaluator(feed.reported() if report is None else report, ends, refresh=refresh)


@dataclass(frozen=True)
class _Program:
    """What is static to JAX."""

    operators: Operators
    optimizer: optax.GradientTransformation
    kind: CurveKind
    draws: int


class _Found(NamedTuple):
    """Control points after training (K, p), the loss of each step, and whether all went well."""

    control: np.ndarray
    history: np.ndarray
    fine: bool


def _train(
    program: _Program,
    feed: Still | Batches,
    start: np.ndarray,
    steps: int,
    decay: float,
    key: jax.Array,
    progress: bool | None,
) -> _Found:
    """Take the steps, one piece of them after the other; a batch is a piece of its own."""
    room = max(1, min(feed.room, steps))
    draws, dtype, history, fine = named_key(key, "positions"), start.dtype.type, [np.zeros(0)], True
    with double_scope(feed.system.double):
        inner = jnp.asarray(start[1:-1])
        state = (inner, program.optimizer.init(inner))
        for first in track(range(0, steps, room), "curve", show=progress):
            stop = min(first + room, steps)
            data = feed.take(first), feed.system.arrays[1]
            state, losses, taken, good = _advance(
                program, room, state, start[[0, -1]], draws, first, stop, dtype(decay), *data
            )
            history.append(np.asarray(losses, np.float64)[: int(taken) - first])
            fine = bool(good)
            if not fine:
                break
        control = np.concatenate([start[:1], np.asarray(state[0]), start[-1:]])
    return _Found(control, np.concatenate(history), fine)


@partial(jax.jit, static_argnums=(0, 1))
def _advance(
    program: _Program, room: int, state: Any, ends: Any, key: Any, first: Any, stop: Any, decay: Any, x: Any, y: Any
) -> Any:
    """Steps from `first` to `stop`, until one is not finite, which is not taken."""

    def going(carry: Any) -> Any:
        step, _, _, fine = carry
        return fine & (step < stop)

    def move(carry: Any) -> Any:
        step, (inner, memory), losses, _ = carry
        value, slope = _slope(program, inner, ends, _positions(program, key, step, inner.dtype), decay, x, y)
        updates, renewed = program.optimizer.update(slope, memory, inner)
        moved = optax.apply_updates(inner, updates)
        fine = jnp.isfinite(value) & jnp.isfinite(moved).all()
        kept = jax.tree.map(lambda new, old: jnp.where(fine, new, old), (moved, renewed), (inner, memory))
        return step + fine, kept, losses.at[step - first].set(value), fine

    begin = (jnp.asarray(first, jnp.int32), state, jnp.zeros(room, state[0].dtype), jnp.asarray(True))
    step, state, losses, fine = jax.lax.while_loop(going, move, begin)
    return state, losses, step, fine


def _positions(program: _Program, key: Any, step: Any, dtype: Any) -> jax.Array:
    """One position for each equal part of [0, 1]."""
    uniform = jax.random.uniform(jax.random.fold_in(key, step), (program.draws,), dtype)
    return (jnp.arange(program.draws, dtype=dtype) + uniform) / program.draws


def _slope(program: _Program, inner: Any, ends: Any, ts: Any, decay: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The mean loss at positions, and the derivative of it and the penalty in the inner points."""
    control = jnp.concatenate([ends[:1], inner, ends[1:]])

    def add(total: Any, t: Any) -> Any:
        weights = coefficients(program.kind, t, len(control))
        w = jnp.matmul(weights, control, precision="highest")
        value, gradient = program.operators.value_and_grad(w, x, y)
        one = value.astype(w.dtype), weights[1:-1, None] * (gradient + decay * w)[None]
        return jax.tree.map(jnp.add, total, one), None

    nothing = jnp.zeros((), inner.dtype), jnp.zeros_like(inner)
    total, _ = jax.lax.scan(add, nothing, ts)
    return total[0] / program.draws, total[1] / program.draws


def _result(
    taker: Evaluator,
    program: _Program,
    found: _Found,
    start: np.ndarray,
    ts: np.ndarray,
    line_loss: np.ndarray,
    progress: bool | None,
) -> Curve:
    """The trained curve measured, or the one at the start if that one has infinite losses."""
    weights, control, fine = coefficients(program.kind, ts, len(start)), found.control, found.fine
    try:
        losses = taker(control, weights, progress=progress)[LOSS]
    except NonFiniteError:
        control, fine = start, False
        losses = taker(control, weights, progress=progress)[LOSS]
    arc = np.concatenate([[0.0], np.cumsum(_chords(control, weights))])
    return Curve(
        status=CurveStatus.OK if fine else CurveStatus.DIVERGED,
        kind=program.kind,
        control=control,
        t=ts,
        loss=losses,
        line_loss=line_loss,
        min=float(losses.min()),
        max=float(losses.max()),
        mean=float(losses.mean()),
        integral=mean_over_length(losses, arc),
        history=found.history,
    )


def _chords(control: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distances of neighbors on the curve, by the inner products of its control points: no position is ever formed."""
    apart = control[1:].astype(np.float64) - control[0]
    steps = np.diff(weights[:, 1:], axis=0)
    squares: np.ndarray = np.einsum("ti,ij,tj->t", steps, apart @ apart.T, steps)
    return np.sqrt(np.maximum(squares, 0.0))


def _inner(first: np.ndarray, last: np.ndarray, count: int, noise: float, key: jax.Array) -> np.ndarray:
    """Inner points where they start: equally spaced on the line, with noise in units of the ends' distance."""
    ts = np.arange(1, count + 1) / (count + 1)
    points = first.astype(np.float64) + ts[:, None] * (last - first).astype(np.float64)[None]
    scale = float(np.linalg.norm((last - first).astype(np.float64))) / math.sqrt(first.size)
    normal = named_generator(key, "noise").normal(size=points.shape)
    return (points + noise * scale * normal).astype(first.dtype)


@lru_cache(maxsize=64)
def _paper_schedule(lr: float, steps: int) -> optax.GradientTransformation:
    """Momentum with the paper's rates: one object for each rate, so that runs share their compiled program."""

    def rate(step: Any) -> Any:
        return lr * jnp.clip(1 - 0.99 * (step / steps - 0.5) / 0.4, 0.01, 1.0)

    return optax.sgd(rate, momentum=0.9)


def _positive_rate(lr: Any) -> float:
    rate = checks.number(lr, "lr", "fit_curve")
    checks.positive(rate, "lr", "fit_curve")
    return float(rate)


def _check(kind: Any, n_inner: Any, steps: Any, num: Any, init_noise: Any, weight_decay: Any) -> None:
    checks.choice(kind, "kind", CurveKind)
    checks.count(n_inner, "n_inner", "fit_curve")
    checks.count(steps, "steps", "fit_curve", minimum=0)
    checks.count(num, "num", "fit_curve", minimum=2)
    for value, name in ((init_noise, "init_noise"), (weight_decay, "weight_decay")):
        checks.not_negative(checks.number(value, name, "fit_curve"), name, "fit_curve")
