"""Verdicts on training with added variables: what a row holds, thresholds, and what the rows before say."""

import warnings
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from widescape.core import checks
from widescape.core.errors import AssumptionWarning
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.landscape.minima.scaled_loss import ROUNDING

_UNSOLVED = 1e-3  # of the level of the loss: above it a problem is not solved
_SOLVED = 1e-8  # of the level of the loss
_SOLVED_OF_TOL = 1e-5  # of the loss that the caller calls not solved
_GONE = 1e-6
_WINDOW = 200
_HIDDEN = 0.5
_GROWTH = 1e-3
_KEPT = 0.99  # of G over the span: a run that succeeds also lowers `a` while b grows, but its G falls faster
_MOSTLY = 0.8  # of G over the span, where most of the loss is hidden: slow success may be taken for escape till G falls
_HELD = 0.25  # of G when an escape was found, below which it is over: an optimizer makes G jump meanwhile
SMALL_GRADIENT = 1e-5  # of the loss at constant outputs, below which a gradient counts as zero
_LITTLE = 1e-3  # of the group residual, above which a gradient or added term explains it: a run that still converges
_TINY = float(np.finfo(np.float64).tiny)


class MonitorStatus(Status):
    """What training with added variables is doing."""

    VANISHED = "The added term is gone and, up to the tolerances, no smaller loss exists: a global minimum."
    ESCAPING = "The added term hides most of the loss, or some while it grows without bound, and does not go away."
    STUCK = "The gradient is small and the added term is gone, but a smaller loss exists: a saddle point."
    RUNNING = "None of the others: train on."
    OVERFLOWED = "A number became infinite or NaN; the run ended, and what came before was kept."

    @property
    def ok(self) -> bool:
        """Whether the run succeeded."""
        return self is MonitorStatus.VANISHED


class MonitorRow(Result):
    """What is looked at, at one point of training with added variables."""

    source = "kawaguchi2019elimination"
    status: MonitorStatus = quantity(EXACT, "what training is doing, in view of the rows before")
    step: int = quantity(EXACT, "steps of training before")
    modified_loss: float = quantity(EXACT, "the objective, with the added term and its penalty")
    loss: float = quantity(EXACT, "L(theta), the mean loss of the model without added term")
    hidden: float = quantity(EXACT, "(loss - modified loss) / loss, the share that the added term hides")
    contribution: float = quantity(EXACT, "G, the largest |g_k(x_i)| of the added term; |a e^b| of a scaled loss")
    a: np.ndarray = quantity(EXACT, "amplitudes, in raw coordinates (dy,)")
    b: np.ndarray = quantity(EXACT, "offsets (dy,)")
    w_norms: np.ndarray | None = quantity(EXACT, "|w_k| (dy,); None for a scaled loss", default=None)
    residual: float | None = quantity(
        EXACT, "rho, the largest norm of a group residual of the model over m; None for a scaled loss", default=None
    )
    gradient_norm: float = quantity(EXACT, "norm of the gradient of the objective, in the model's coordinates")
    identity_defect: float = quantity(EXACT, "largest |a_k d/da_k - d/db_k - 2 lam a_k^2|, zero up to rounding")


class Measured(NamedTuple):
    """The numbers of a row, or of many along the first axis; `w_norms` and `residual` are None for a scaled loss."""

    modified_loss: Any
    loss: Any
    contribution: Any
    a: Any
    b: Any
    w_norms: Any
    residual: Any
    gradient_norm: Any
    identity_defect: Any

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        return all(bool(np.isfinite(values).all()) for values in self if values is not None)

    @property
    def hidden(self) -> Any:
        """The share of the loss that the added term hides."""
        return (self.loss - self.modified_loss) / np.maximum(self.loss, _TINY)

    def row(self, index: Any) -> "Measured":
        """Entries of arrays of many rows."""
        return Measured(*(None if values is None else values[index] for values in self))

    @classmethod
    def stacked(cls, rows: list["Measured"]) -> "Measured":
        """Many rows as arrays."""
        return cls(*(None if part[0] is None else np.stack(part) for part in zip(*rows, strict=True)))

    def as_row(self, step: int, status: MonitorStatus) -> MonitorRow:
        """The row as a result."""
        values = {name: _plain(value) for name, value in self._asdict().items()}
        return MonitorRow(status=status, step=step, hidden=float(self.hidden), **values)


@dataclass(frozen=True)
class Rules:
    """Thresholds of a verdict.

    Attributes:
        contribution: largest G that counts as gone.
        residual: largest rho at which the model counts as optimal.
        floor: smallest difference between loss and objective that counts as hidden loss.
        window: least steps over which G, amplitudes and offsets are compared.
        certifies: whether the assumptions hold under which a run may be called vanished.
        still: largest norm of a gradient that counts as zero.
        ratio: size of outputs over that of derivatives of the loss.
        level: the loss at constant outputs.
    """

    contribution: float
    residual: float
    floor: float
    window: int
    certifies: bool
    still: float = SMALL_GRADIENT
    ratio: float = 1.0
    level: float = 1.0

    def verdict(self, steps: np.ndarray, rows: Measured) -> MonitorStatus:
        """The status at the last of several rows."""
        return self.statuses(steps, rows)[-1]

    def statuses(self, steps: np.ndarray, rows: Measured) -> tuple[MonitorStatus, ...]:
        """The status at each row, in view of those before."""
        judge = Judge(self)
        return tuple(judge.next(int(step), rows.row(t)) for t, step in enumerate(steps))

    def gone(self, now: Measured) -> bool:
        """Whether there is no added term any more."""
        return bool(now.contribution <= self.contribution)

    def stuck(self, now: Measured) -> bool:
        """Whether neither gradient nor added term explain the group residual."""
        little = _LITTLE * now.residual
        return bool(now.gradient_norm <= min(self.still, little) and now.contribution <= little * self.ratio)


class Glance(NamedTuple):
    """What is remembered of a row: its step, G, max |a|, and the largest of b_k and |w_k|."""

    step: int
    contribution: float
    amplitude: float
    size: float


class Judge:
    """Verdicts on the rows of one run, one after the other."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._begun: int | None = None
        self._seen: list[Glance] = []
        self._held: float | None = None  # G when an escape was found

    def next(self, step: int, now: Measured) -> MonitorStatus:
        """The status at the next row; a row that is not finite is forgotten."""
        if not now.finite:
            return MonitorStatus.OVERFLOWED
        size = max(np.max(now.b), np.max(now.w_norms))
        glance = Glance(step, float(now.contribution), float(np.abs(now.a).max()), float(size))
        escaping = self._escapes(now, self._compared(glance))
        rules = self.rules
        if rules.gone(now) and now.residual <= rules.residual:
            return MonitorStatus.VANISHED if rules.certifies else MonitorStatus.RUNNING
        if escaping:
            return MonitorStatus.ESCAPING
        return MonitorStatus.STUCK if rules.gone(now) and rules.stuck(now) else MonitorStatus.RUNNING

    def _compared(self, glance: Glance) -> list[Glance]:
        """The last rows that are a window and half of the run before, and half of that, and now; or now alone."""
        self._begun = glance.step if self._begun is None else self._begun
        self._seen.append(glance)
        span = max(self.rules.window, (glance.step - self._begun) / 2)
        first, middle = (bisect_right(self._seen, glance.step - s, key=_step_of) - 1 for s in (span, span / 2))
        if first < 0:
            return [glance]
        rows = [self._seen[first], self._seen[middle], glance]
        del self._seen[:first]
        return rows

    def _escapes(self, now: Measured, rows: list[Glance]) -> bool:
        """Whether loss is hidden for good: found once, it holds as long as a part of the added term stays."""
        glance, earlier = rows[-1], rows[0]
        hides = bool(now.loss - now.modified_loss > self.rules.floor)
        if self._held is not None and glance.contribution < _HELD * self._held:
            self._held = None
        if self._held is None and hides and len(rows) > 1:
            kept = glance.contribution / max(*(row.contribution for row in rows[:-1]), _TINY)
            grows = glance.amplitude <= earlier.amplitude and glance.size - earlier.size > _GROWTH
            if (now.hidden > _HIDDEN and kept > _MOSTLY) or (grows and kept > _KEPT):
                self._held = glance.contribution
        return hides and self._held is not None


@dataclass(frozen=True)
class ScaledRules:
    """Thresholds of a verdict on a scaled loss.

    Attributes:
        floor: the loss above which a problem is not solved.
        solved: the loss up to which it is.
        level: of the loss, to which rounding is relative.
        certifies: whether a run may be called vanished.
    """

    floor: float
    solved: float = _SOLVED
    level: float = 1.0
    certifies: bool = True

    @classmethod
    def of(cls, level: float, tol: Any, owner: str) -> "ScaledRules":
        """Those of a loss of some level, with the `tol` of a caller."""
        if tol is None:
            return cls(_UNSOLVED * level, _SOLVED * level, level)
        floor: float = checks.number(tol, "tol", owner)
        checks.positive(floor, "tol", owner)
        return cls(floor, min(_SOLVED * level, _SOLVED_OF_TOL * floor), level)

    def for_least(self, loss: float) -> "ScaledRules":
        """Those where a loss was seen: below zero, nothing is certified.

        Warns:
            AssumptionWarning: it is below zero; points at the caller of the caller.
        """
        if loss >= -ROUNDING * self.level:
            return self
        warnings.warn(
            f"the loss fell to {loss:.6g}, but the theorem is about losses whose global minimum is 0; nothing is "
            "called vanished. Add a lower bound to it.",
            AssumptionWarning,
            stacklevel=3,
        )
        return replace(self, certifies=False)

    def statuses(self, steps: np.ndarray, rows: Measured) -> tuple[MonitorStatus, ...]:
        """The status at each row."""
        return tuple(self.verdict(steps[: t + 1], rows.row(slice(t + 1))) for t in range(len(steps)))

    def verdict(self, steps: np.ndarray, rows: Measured) -> MonitorStatus:
        """The status at the last of several rows."""
        now = rows.row(-1)
        hidden = now.a[0] * np.exp(now.b[0])
        if now.loss <= self.solved and abs(hidden) <= _GONE:
            return MonitorStatus.VANISHED if self.certifies else MonitorStatus.RUNNING
        before = np.flatnonzero(steps <= steps[-1] - max(_WINDOW, (steps[-1] - steps[0]) / 2))
        grew = before.size > 0 and now.b[0] > rows.b[before[-1], 0]
        if now.loss > self.floor and abs(hidden - 1) < 0.1 and grew:
            return MonitorStatus.ESCAPING
        return MonitorStatus.RUNNING


def _step_of(glance: Glance) -> int:
    return glance.step


def _plain(value: Any) -> Any:
    return float(value) if value is not None and np.ndim(value) == 0 else value
