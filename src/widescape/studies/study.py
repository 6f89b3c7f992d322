"""A study: the claims of one paper, each with what was measured and a verdict that follows from the numbers."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Drawable
from widescape.core.evidence import EXACT, Evidence, estimate, published, sampled
from widescape.core.result import MAX_LINES, Result, quantity
from widescape.core.status import Status

STANDARD_ERRORS = 2.0
"""Standard errors on either side of an estimate within which its true value is taken to lie."""

_NO_ERROR = sampled("the measured number as it is; no standard error was estimated")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_LINE = 110


class Verdict(Status):
    """Whether a measurement agrees with a claim."""

    REPRODUCED = "The measurement agrees with the statement within the tolerance."
    NOT_REPRODUCED = "The measurement does not agree with the statement within the tolerance."
    INCONCLUSIVE = "The measurement does not decide: its error is too large for the tolerance, or too little was run."

    @property
    def ok(self) -> bool:
        """Whether the claim is reproduced."""
        return self is Verdict.REPRODUCED

    @property
    def words(self) -> str:
        """The name of the verdict as words."""
        return self.name.lower().replace("_", " ")


class StudyClaim(Result):
    """One claim of a paper, and what a measurement says about it. Made by `claim` and `claim_of_count`.

    The verdict follows from the other fields. What stands behind `value` says where the true value is taken to lie:

    - an estimate: from value - 2 stderr to value + 2 stderr;
    - an upper bound: anywhere up to value; a lower bound: anywhere from it;
    - a count with undecided trials: from value to value + undecided;
    - everything else: at value.

    Where that range lies wholly in the accepted interval [low, high], ends included, the claim is reproduced; where it
    lies wholly outside, it is not; where it lies across an end of the interval, the measurement is inconclusive, as it
    is when nothing was measured (None, NaN, or a standard error that is not finite). So for normal errors a true value
    outside of the interval is called reproduced, or one inside not reproduced, at most once in 40 times.

    Raises:
        ValueError: the verdict is another one than the fields give.
    """

    source = "the paper of its study"
    name: str = quantity(EXACT, "short identifier of the claim")
    statement: str = quantity(EXACT, "what is claimed, in one sentence")
    published: str = quantity(published("the paper of the study"), "what the paper reports; empty if it has no number")
    measured: str = quantity(EXACT, "what was measured, in words")
    value: float | None = quantity(estimate("stderr"), "measured value; None if nothing was measured")
    stderr: float | None = quantity(EXACT, "standard error of the value; None if it is no estimate")
    low: float | None = quantity(EXACT, "lowest accepted value; None for no limit")
    high: float | None = quantity(EXACT, "highest accepted value; None for no limit")
    trials: int | None = quantity(EXACT, "trials of a count; None for other values", default=None)
    undecided: int = quantity(EXACT, "trials of a count that were not run or have no outcome", default=0)
    verdict: Verdict = quantity(EXACT, "whether the measurement agrees with the statement")

    def __post_init__(self) -> None:
        super().__post_init__()
        due = _verdict(self.low, self.high, *_range(self.value, self.stderr, self.undecided, self.evidence("value")))
        if self.verdict is not due:
            raise ValueError(
                f"claim {self.name!r}: `verdict` is {self.verdict!r}, but its numbers give {due.name}; "
                "leave it to `claim` or `claim_of_count`."
            )

    @property
    def accepted(self) -> str:
        """The accepted interval in words."""
        if self.trials is not None:
            return f"at least {self.low:.0f} of {self.trials}"
        if self.low is None:
            return f"at most {self.high:.6g}"
        if self.high is None:
            return f"at least {self.low:.6g}"
        return f"exactly {self.low:.6g}" if self.low == self.high else f"{self.low:.6g} to {self.high:.6g}"


def claim(
    name: str,
    statement: str,
    *,
    value: Any,
    stderr: Any = None,
    low: float | None = None,
    high: float | None = None,
    published: str = "",
    measured: str | None = None,
    evidence: Evidence | None = None,
) -> StudyClaim:
    """A claim that a quantity lies in [low, high], with the verdict that the measured value gives.

    Args:
        name: a short identifier, like "E1".
        statement: what is claimed, in one sentence.
        value: the measured number; None or NaN if the measurement gave none, which is inconclusive.
        stderr: its standard error, which makes it an estimate. Leave it out only where the interval is one for the
            measured number as it is, scatter included.
        low: lowest accepted value; None for no limit.
        high: highest accepted value; None for no limit.
        published: the value that the paper reports, in words; empty if none is known.
        measured: what was measured, in words; None for the value and its standard error.
        evidence: what stands behind a value without a standard error; None for a sampled one. A bound (on the quantity
            that the statement is about) reproduces only what follows from it.

    Returns:
        a `StudyClaim`; its docstring has the rule.

    Raises:
        TypeError: a number is none.
        ValueError: no interval, an empty one, a negative standard error, or one beside evidence of another kind.

    Example:
        >>> slope = claim("E2", "The norm falls as m^-1/2.", value=-0.47, stderr=0.02, low=-0.6, high=-0.4)
        >>> slope.measured, slope.accepted, slope.verdict.name
        ('-0.47 ± 0.02', '-0.6 to -0.4', 'REPRODUCED')
        >>> claim("E2", "The norm falls as m^-1/2.", value=-0.47, stderr=0.05, low=-0.6, high=-0.4).verdict.name
        'INCONCLUSIVE'
    """
    low = None if low is None else checks.number(low, "low", "claim")
    high = None if high is None else checks.number(high, "high", "claim")
    if low is None and high is None:
        raise ValueError(f"claim {name!r} has no tolerance; give `low`, `high` or both.")
    if low is not None and high is not None and low > high:
        raise ValueError(f"claim {name!r}: `low` is {low} and `high` {high}; the accepted interval is empty.")
    value, stderr = _real(value, "value"), _real(stderr, "stderr")
    if stderr is not None and stderr < 0:
        raise ValueError(f"claim {name!r}: `stderr` is {stderr}; it must not be negative.")
    if evidence is not None and (stderr is not None or evidence.kind == "estimate"):
        raise ValueError(
            f"claim {name!r}: `evidence` is of kind {evidence.kind!r} and `stderr` {stderr}; "
            "an estimate has a standard error and needs no `evidence`, everything else has none."
        )
    stands = estimate("stderr") if stderr is not None else evidence or _NO_ERROR
    return StudyClaim(
        name=name,
        statement=statement,
        published=published,
        measured=_words(value, stderr, stands) if measured is None else measured,
        value=value,
        stderr=stderr,
        low=low,
        high=high,
        verdict=_verdict(low, high, *_range(value, stderr, 0, stands)),
        stands={"value": stands},
    )


def claim_of_count(
    name: str,
    statement: str,
    *,
    held: int,
    trials: int,
    needed: int,
    undecided: int = 0,
    published: str = "",
    measured: str | None = None,
) -> StudyClaim:
    """A claim that something holds in at least `needed` of `trials` runs, with the verdict that the count gives.

    Args:
        name: a short identifier, like "E4".
        statement: what is claimed, in one sentence.
        held: runs in which it held.
        trials: runs that the claim is about.
        needed: runs in which it must hold.
        undecided: those of the trials that were not run, or ended without an outcome. They may go either way.
        published: what the paper reports, in words; empty if no number is known.
        measured: what was measured, in words; None for the counts.

    Returns:
        a `StudyClaim`: reproduced if held >= needed, not reproduced if held + undecided < needed, else inconclusive.

    Raises:
        TypeError: a count is no integer.
        ValueError: counts that do not fit into each other.

    Example:
        >>> runs = claim_of_count("E4", "Most runs stay at the edge.", held=5, trials=12, needed=7, undecided=4)
        >>> runs.measured, runs.accepted, runs.verdict.name
        ('5 of 12, 4 undecided', 'at least 7 of 12', 'INCONCLUSIVE')
    """
    for which, number in (("held", held), ("undecided", undecided)):
        checks.count(number, which, "claim_of_count", minimum=0)
    for which, number in (("trials", trials), ("needed", needed)):
        checks.count(number, which, "claim_of_count")
    if held + undecided > trials:
        raise ValueError(f"claim {name!r}: `held` is {held} and `undecided` {undecided}, of {trials} `trials`.")
    if needed > trials:
        raise ValueError(f"claim {name!r}: `needed` is {needed}, of {trials} `trials`; choose needed <= trials.")
    low = float(needed)
    counts = f"{held} of {trials}" + (f", {undecided} undecided" if undecided else "")
    return StudyClaim(
        name=name,
        statement=statement,
        published=published,
        measured=counts if measured is None else measured,
        value=float(held),
        stderr=None,
        low=low,
        high=None,
        trials=int(trials),
        undecided=int(undecided),
        verdict=_verdict(low, None, *_range(float(held), None, undecided, EXACT)),
        stands={"value": EXACT},
    )


class Study(Result):
    """The claims of one paper with their verdicts, and the measurements behind them.

    Names of results become names of figures: letters, digits and underscores.

    Raises:
        ValueError: no claims, two of one name, a name that is not fit for a figure, or a figure of no result.
    """

    source = "the paper that `name` names"
    name: str = quantity(EXACT, "bib key of the paper")
    title: str = quantity(EXACT, "title of the paper")
    citation: str = quantity(EXACT, "authors, place and year, in one line")
    claims: tuple[StudyClaim, ...] = quantity(EXACT, "the claims, in the order of the paper")
    results: Mapping[str, Result] = quantity(EXACT, "the measurements behind the claims, by name")
    figures: tuple[str, ...] = quantity(EXACT, "names of the results whose charts are shown", default=())
    seed: int = quantity(EXACT, "every random draw derives from it")
    quick: bool = quantity(EXACT, "whether sizes and numbers of draws were cut to about a minute")
    seconds: float | None = quantity(EXACT, "how long it took", unit="s", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.claims:
            raise ValueError(f"study {self.name!r} has no claims; give at least one.")
        twice = [name for name, many in Counter(own.name for own in self.claims).items() if many > 1]
        if twice:
            raise ValueError(f"study {self.name!r} has two claims {twice[0]!r}; rename one of them.")
        for name in (self.name, *self.results):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} names a study or a result; use letters, digits and underscores.")
        unknown = [name for name in self.figures if name not in self.results]
        if unknown:
            known = ", ".join(self.results) or "no results"
            raise ValueError(f"study {self.name!r}: `figures` names {unknown[0]!r}, but there are {known}.")

    @property
    def verdict(self) -> str:
        """How many claims were reproduced, and which were not, in one sentence."""
        count = Counter(own.verdict for own in self.claims)[Verdict.REPRODUCED]
        parts = [f"{count} of {len(self.claims)} claim{'s' if len(self.claims) > 1 else ''} reproduced"]
        for verdict in (Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE):
            names = [own.name for own in self.claims if own.verdict is verdict]
            parts += [f"{verdict.words}: {', '.join(names)}"] if names else []
        return "; ".join(parts) + "."

    def charts(self) -> tuple[Drawable, ...]:
        """The charts of the results that `figures` names, each with the name of its result in front."""
        return tuple(
            dataclasses.replace(chart, name=f"{name}-{chart.name}", title=f"{name}: {chart.title}")
            for name in self.figures
            for chart in self.results[name].charts()
        )

    def table(self) -> list[dict[str, Any]]:
        """One row per claim: the statement, the published value, what is accepted and was measured, the verdict."""
        return [
            {
                "name": own.name,
                "statement": own.statement,
                "published": own.published,
                "accepted": own.accepted,
                "measured": own.measured,
                "verdict": own.verdict.words,
                "value": own.value,
                "stderr": own.stderr,
                "low": own.low,
                "high": own.high,
                "stands": str(own.evidence("value")),
            }
            for own in self.claims
        ]

    def __str__(self) -> str:
        shown = self.claims if len(self.claims) <= MAX_LINES - 2 else self.claims[: MAX_LINES - 3]
        hidden = len(self.claims) - len(shown)
        wide = max(len(own.name) for own in shown)
        lines = [
            _cut(f"{type(self).__name__} {self.name}: {self.title}"),
            _cut(f"{self.verdict} Seed {self.seed}{', quick' if self.quick else ''}."),
        ]
        lines += [
            _cut(f"  {own.name:<{wide}}  {own.verdict.words:<14}  {own.measured}: {own.statement}") for own in shown
        ]
        return "\n".join([*lines, *([f"  ... and {hidden} more claims; see .table()"] if hidden else [])])

    __repr__ = __str__


def _real(value: Any, name: str) -> float | None:
    """A real number, finite or not, as a Python float."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iuf":
        raise TypeError(
            f"claim: `{name}` is {value!r}; it must be a real number or None. "
            "What holds or does not hold is a `claim_of_count`."
        )
    return float(array)


def _range(value: float | None, stderr: float | None, undecided: int, evidence: Evidence) -> tuple[float, float]:
    """Where the true value is taken to lie; NaN where nothing was measured."""
    value = math.nan if value is None else value
    if evidence.kind == "bound":
        return (-math.inf, value) if evidence.side == "upper" else (value, math.inf)
    spread = 0.0 if stderr is None else STANDARD_ERRORS * stderr
    return value - spread, value + spread + undecided


def _verdict(low: float | None, high: float | None, least: float, most: float) -> Verdict:
    """What follows about the interval from low to high for a value between least and most; from NaN, nothing."""
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if low <= least and most <= high:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if most < low or high < least else Verdict.INCONCLUSIVE


def _words(value: float | None, stderr: float | None, evidence: Evidence) -> str:
    if value is None:
        return "nothing"
    if math.isnan(value):
        return "not a number"
    if stderr is not None:
        return f"{value:.4g} ± {stderr:.2g}"
    side = {None: "", "upper": "at most ", "lower": "at least "}[evidence.side]
    return f"{side}{value:.4g}"


def _cut(text: str) -> str:
    """The text on one line, which may not hold all of it."""
    text = text.replace("\n", " ")
    return text if len(text) <= _LINE else text[: _LINE - 3] + "..."
