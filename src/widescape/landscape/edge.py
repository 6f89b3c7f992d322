"""The edge of stability: the sharpness along gradient descent against the largest one at which descent is stable."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from scipy import stats

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, bound
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.krylov import TopEigs, top_eigs
from widescape.curvature.segment import as_system
from widescape.landscape.descent import Descent, DescentStatus, Momentum, gradient_descent

_LOWER = bound("lower", "a Ritz value is at most the largest eigenvalue; an eigenvalue lies within resid")
_TOL = {True: 1e-6, False: 1e-3}  # largest residual over sharpness, in double and in single precision
_BAND = (0.9, 1.1)
_CORRELATED = 0.5
_FLAT = 1e-3  # relative change of the sharpness below which it counts as constant


class Stability(Status):
    """What a run of descent did, in view of its sharpness; `stability` has the rules."""

    SHARPENING = "The sharpness rises towards the threshold and has not settled there; more steps would show where."
    EDGE = "The sharpness stays at the threshold, and the loss goes up and down."
    STABLE = "The sharpness ends below the threshold, where descent is stable."
    CATAPULT = "The sharpness exceeded the threshold and the loss rose; then both fell for good."
    DIVERGENT = "The loss became infinite or NaN, or ends above twice its start and grows."
    UNDECIDED = "None of the five descriptions fits; look at the sharpness and the loss, and take more steps."

    @property
    def ok(self) -> bool:
        """Whether descent did not diverge and the run could be described."""
        return self not in (Stability.DIVERGENT, Stability.UNDECIDED)

    @property
    def verdict(self) -> str:
        """The name in lower case."""
        return self.name.lower()


class SharpnessTrace(Result):
    """Sharpness and loss along a run of gradient descent."""

    source = "cohen2021edge"
    status: Stability = quantity(EXACT, "what the run did, in a sentence")
    verdict: str = quantity(EXACT, "the same in a word: sharpening, edge, stable, catapult, divergent or undecided")
    steps: np.ndarray = quantity(EXACT, "recorded steps, from 0 (T,)")
    sharpness: np.ndarray = quantity(_LOWER, "largest algebraic eigenvalue of the Hessian of the loss (T,)")
    resid: np.ndarray = quantity(EXACT, "|H v - sharpness v| for the unit Ritz vector v (T,)")
    converged: np.ndarray = quantity(EXACT, "whether that residual is within the tolerance (T,)")
    loss: np.ndarray = quantity(EXACT, "loss at the recorded steps (T,)")
    ratio: np.ndarray = quantity(_LOWER, "sharpness over threshold (T,)")
    threshold: float = quantity(EXACT, "largest curvature at which descent on a quadratic is stable")
    late_ratio: float = quantity(_LOWER, "median of the ratio over the last third of the records")
    spearman: float = quantity(EXACT, "rank correlation of sharpness and step before the threshold is crossed")
    loss_rises: float = quantity(EXACT, "share of records, after the first, at which the loss is above the one before")
    rises: float = quantity(EXACT, "share of all steps that raise the loss")
    lr: float = quantity(EXACT, "learning rate")
    optimizer: str = quantity(EXACT, "gd, polyak or nesterov")
    momentum: float = quantity(EXACT, "momentum, 0 for gd")
    num_products: int = quantity(EXACT, "products with the Hessian")

    def charts(self) -> tuple[Chart, ...]:
        """Sharpness with its threshold, and the loss, against steps."""
        log: Literal["linear", "log"] = "log" if (self.loss > 0).all() else "linear"
        return (
            Chart(
                name="sharpness",
                title="Sharpness along descent, and where descent on a quadratic becomes unstable",
                x_label="step",
                y_label="largest eigenvalue of the Hessian",
                series=(Series(self.steps, self.sharpness, "sharpness"),),
                markers=(Marker(self.threshold, "threshold"),),
                caption=f"{self.optimizer} with learning rate {self.lr:.4g}. {self.status}",
            ),
            Chart(
                name="loss",
                title="Loss along descent",
                x_label="step",
                y_label="loss",
                series=(Series(self.steps, self.loss, "loss"),),
                y_scale=log,
                caption=f"The loss rose at {self.rises:.1%} of all steps.",
            ),
        )


def stability_threshold(lr: float, optimizer: Momentum = "gd", momentum: float = 0.9) -> float:
    """The curvature up to which descent on a quadratic is stable.

    On h w^2 / 2 the steps of `gradient_descent` converge from every start if and only if 0 < h < threshold, which is
    2 / lr for plain descent, (2 + 2 b) / lr for the heavy ball and (2 + 2 b) / (lr (1 + 2 b)) for Nesterov's method
    with momentum b: where a root of the characteristic polynomial of the recursion reaches -1.

    Args:
        lr: learning rate.
        optimizer: which of the three.
        momentum: b, in [0, 1); not used by ``"gd"``.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    Cost: nothing.

    Example:
        >>> stability_threshold(0.5), stability_threshold(0.5, "polyak", 0.5), stability_threshold(0.5, "nesterov", 0.5)
        (4.0, 6.0, 3.0)
    """
    rate = checks.number(lr, "lr", "stability_threshold")
    checks.positive(rate, "lr", "stability_threshold")
    checks.choice(optimizer, "optimizer", Momentum)
    if optimizer == "gd":
        return float(2 / rate)
    beta = checks.number(momentum, "momentum", "stability_threshold")
    if not 0 <= beta < 1:
        raise ValueError(f"`momentum` is {momentum}; it must lie in [0, 1).")
    return float((2 + 2 * beta) / (rate * (1 + 2 * beta if optimizer == "nesterov" else 1)))


def track_sharpness(
    system: System | Callable[[Any], Any],
    lr: float,
    steps: int,
    every: int = 100,
    optimizer: Momentum = "gd",
    *,
    momentum: float = 0.9,
    params: Any = None,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> SharpnessTrace:
    """Sharpness along full-batch descent, in the system's own precision.

    The sharpness is the largest eigenvalue of the Hessian of the loss, not the largest in magnitude: early in training
    the Hessian has large negative ones, which do not make descent oscillate. It is found by Lanczos' method from the
    eigenvector of the record before, up to a residual of 1e-6 of it (1e-3 in float32).

    Args:
        system: the function, its data and its loss; or a loss that is a function of parameters alone.
        lr: learning rate.
        steps: how many to take, at least one.
        every: steps between records; the start and the last step are always recorded.
        optimizer: ``"gd"``, ``"polyak"`` (heavy ball) or ``"nesterov"``.
        momentum: in [0, 1); not used by ``"gd"``.
        params: where it starts, as a PyTree or flat; None for the system's own parameters.
        key: of the random directions that the search starts from; None for ``jax.random.key(0)``.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `SharpnessTrace`, with the verdict of `stability`. Where the loss overflows, the records before are kept. An
        eigenvalue that did not converge is a lower bound all the same, and marked in `converged`.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the loss or its Hessian is NaN or infinite at the start, or the Hessian where the loss is not.

    Cost: about three forward passes a step, about 21 products with the Hessian (six passes each) a record, and the
    parameters of all records in memory.

    Example:
        >>> run = track_sharpness(lambda w: w @ w, 0.25, 6, every=2, params=np.array([1.0, 2.0]))
        >>> run.steps.tolist(), run.sharpness.tolist(), run.threshold, run.verdict
        ([0, 2, 4, 6], [2.0, 2.0, 2.0, 2.0], 8.0, 'stable')
    """
    owner = as_system(system, params)
    checks.count(steps, "steps", "track_sharpness")
    checks.count(every, "every", "track_sharpness")
    threshold = stability_threshold(lr, optimizer, momentum)
    run = gradient_descent(
        owner, lr, steps, params=params, optimizer=optimizer, momentum=momentum, keep_every=every, progress=progress
    )
    found = _sharpness(owner, run, key, progress)
    at = run.snapshot_steps[: len(found)]
    values = np.array([top.eigs[0] for top in found])
    overflowed, eps = run.status is DescentStatus.DIVERGED, float(np.finfo(owner.flat.dtype).eps)
    status = stability(at, values / threshold, run.loss, eps=eps, overflowed=overflowed)
    return SharpnessTrace(
        status=status,
        verdict=status.verdict,
        steps=at,
        sharpness=values,
        resid=np.array([top.resid[0] for top in found]),
        converged=np.array([top.status.ok for top in found]),
        loss=run.loss[at],
        ratio=values / threshold,
        threshold=threshold,
        late_ratio=float(np.median(_late(values / threshold))),
        spearman=_spearman(values / threshold),
        loss_rises=_share(rising(run.loss[at], eps)),
        rises=_share(rising(run.loss, eps)),
        lr=run.lr,
        optimizer=optimizer,
        momentum=run.momentum,
        num_products=sum(top.num_products for top in found),
        stands={name: found[0].evidence("eigs") for name in ("sharpness", "ratio", "late_ratio")},
    )


def stability(
    steps: np.ndarray, ratio: np.ndarray, loss: np.ndarray, *, eps: float = 2.0**-52, overflowed: bool = False
) -> Stability:
    """What a run of descent did, by the first of these rules that applies.

    1. divergent: the loss overflowed; or throughout the last third it is above twice its start, and grows there.
    2. edge: the median ratio over the last third lies in [0.9, 1.1], and some step there raises the loss; or some step
       since the ratio reached 1 does, and the ratio still reaches 1 in the last third.
    3. catapult: the ratio reached 1 (or began there), the loss then exceeded what it was at the record before, and
       throughout the last third the ratio is below 1 and the loss below that value.
    4. sharpening: the ratio has not reached 1 before the last third, its median there is at most 1.1, its rank
       correlation with the step before it reaches 1 is above 0.5, and it is higher in the end than where the last
       third begins.
    5. stable: the median ratio over the last third is below 0.9; or all of it is below 1 and no step there raises the
       loss.
    6. undecided: for instance a ratio above 1 without any rise of the loss.

    The last third is that of the records, and of the steps from its first record on. A change of the ratio by less
    than a thousandth counts as none, and so does a rise of the loss that rounding explains (`rising`). The loss of
    methods with momentum may rise below the threshold too.

    Args:
        steps: recorded steps, rising from 0 (T,).
        ratio: sharpness over threshold there (T,).
        loss: loss before the first step and after each.
        eps: machine epsilon of the precision in which the loss was computed.
        overflowed: whether the loss became infinite or NaN after those given.

    Example:
        >>> steps = np.arange(6)
        >>> stability(steps, np.full(6, 0.5), 0.25**steps).name
        'STABLE'
        >>> stability(steps, np.full(6, 1.05), np.array([5.0, 4.0, 3.0, 2.0, 2.5, 2.0])).name
        'EDGE'
    """
    late = _late(ratio)
    first = len(ratio) - len(late)
    late_loss = loss[steps[first] :]
    median, falls = float(np.median(late)), not rising(late_loss, eps).any()
    crossing = _crossing(ratio)
    start = steps[max(min(crossing, len(ratio) - 1) - 1, 0)]  # the record before the crossing
    settled = (late < 1).all()
    if overflowed or (late_loss.min() > loss[0] + abs(loss[0]) and late_loss[-1] > late_loss[0]):
        return Stability.DIVERGENT
    if _BAND[0] <= median <= _BAND[1] and not (falls and (settled or not rising(loss[start:], eps).any())):
        return Stability.EDGE
    rose = rising(np.array([loss[start], loss[start:].max()]), eps).any()
    if crossing < len(ratio) and rose and settled and (late_loss < loss[start]).all():
        return Stability.CATAPULT
    climbing = late[-1] > late[0] * (1 + _FLAT) and _spearman(ratio) > _CORRELATED
    if crossing >= first and climbing and median <= _BAND[1]:
        return Stability.SHARPENING
    if median < _BAND[0] or (falls and settled):
        return Stability.STABLE
    return Stability.UNDECIDED


def rising(loss: np.ndarray, eps: float) -> np.ndarray:
    """Where a sequence of losses rises by more than rounding: (T - 1,) booleans.

    That is by over 64 eps of itself, and to more than 1e4 eps^2 of the first: a loss is a sum of squares, or is taken
    to be one, so that rounding of outputs by eps leaves about eps^2 of it.

    Example:
        >>> rising(np.array([1.0, 0.5, 0.7, 1e-30, 2e-30]), 2.0**-52).tolist()
        [False, True, False, False]
    """
    more = np.diff(loss) > 64 * eps * np.abs(loss[:-1])
    return np.asarray(more & (np.abs(loss[1:]) > 1e4 * eps**2 * abs(loss[0])))


def _sharpness(system: System, run: Descent, key: jax.Array | None, progress: bool | None) -> list[TopEigs]:
    """The largest eigenvalue at each snapshot; of a run that overflows, up to where the Hessian does."""
    found: list[TopEigs] = []
    for w in track(run.snapshots, "sharpness", show=progress):
        start = None
        if found and found[-1].vectors is not None:
            start = found[-1].vectors[0]
        try:
            found.append(_top(system, w, start, key))
        except NonFiniteError:
            if run.status is DescentStatus.OK or not found:
                raise
            break
    return found


def _top(system: System, w: np.ndarray, start: np.ndarray | None, key: jax.Array | None) -> TopEigs:
    return top_eigs(lambda v: system.hvp(v, w), system.num_params, start=start, tol=_TOL[system.double], key=key)


def _late(records: np.ndarray) -> np.ndarray:
    """The last third, never empty."""
    return records[2 * len(records) // 3 :]


def _crossing(ratio: np.ndarray) -> int:
    """The first record at which the ratio is at least 1; their number if there is none."""
    above = np.flatnonzero(ratio >= 1)
    return int(above[0]) if above.size else len(ratio)


def _spearman(ratio: np.ndarray) -> float:
    """Rank correlation with time before the crossing; 0 for fewer than three records or a constant ratio."""
    before = ratio[: _crossing(ratio)]
    if len(before) < 3 or np.ptp(before) <= _FLAT * np.max(np.abs(before)):
        return 0.0
    return float(stats.spearmanr(np.arange(len(before)), before).statistic)


def _share(flags: np.ndarray) -> float:
    return float(np.mean(flags)) if flags.size else 0.0
