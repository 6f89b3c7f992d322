"""What a chapter of the survey receives, and what it returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from widescape.arch.base import Layer
from widescape.core.chart import Drawable
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.curvature import System
from widescape.data import Dataset


class LeftOutError(Exception):
    """A chapter does not apply to this subject; the message says what it needs and does not find."""


@dataclass(frozen=True)
class Context:
    """What a chapter works on: an architecture on a data set, or a user's system, or one that is both.

    Attributes:
        net: the architecture; None for a function whose layers are not known.
        data: arrays of inputs with labels or numbers, standardized by the chapters where there is no system; None for a
            system of another kind.
        system: the user's function with parameters and data; None for the default architecture.
        held_out: inputs and targets on which the user's system is tested; None without a system.
        seed: every random draw of the chapter derives from it.
        budget: the seconds the chapter may take on two cores; None lifts the limit (``--full``).
        say: called with one line of progress at a time.
        made: what a chapter made and the next ones may take, as trained networks.
    """

    net: Layer | None
    data: Dataset | None
    system: System | None
    held_out: tuple[Any, Any] | None
    seed: int
    budget: float | None
    say: Callable[[str], None] = lambda line: None
    made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Chapter:
    """What a chapter found.

    Attributes:
        name: a short identifier.
        title: its heading.
        question: what a reader wants to know from it, in one sentence.
        verdict: the answer in one sentence.
        sentences: what was found and what stands behind it, one finding each.
        sizing: how the work was sized to the budget, in one sentence.
        results: the measurements, by name.
        charts, tables: what to show.
        seconds: how long it took.
        budget: the seconds it was given, None for no limit.
    """

    name: str
    title: str
    question: str
    verdict: str
    sentences: tuple[str, ...]
    sizing: str
    results: Mapping[str, Result]
    charts: tuple[Drawable, ...]
    tables: tuple[Table, ...]
    seconds: float
    budget: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything the chapter says, as JSON-ready values."""
        return {
            "name": self.name,
            "title": self.title,
            "question": self.question,
            "verdict": self.verdict,
            "sentences": list(self.sentences),
            "sizing": self.sizing,
            "seconds": self.seconds,
            "budget_seconds": self.budget,
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "charts": [chart.to_dict() for chart in self.charts],
            "tables": [table.to_dict() for table in self.tables],
        }


@dataclass(frozen=True)
class SurveyReport:
    """All chapters of one survey, with what made them.

    Attributes:
        title: the heading of the page.
        subject: the network and the data, in one sentence.
        chapters: what was found.
        left_out: chapters that do not apply, by title, with the reason.
        provenance: data, seed, versions, machine and command, for people.
        seconds: the whole time.
    """

    title: str
    subject: str
    chapters: tuple[Chapter, ...]
    provenance: Mapping[str, str]
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The whole survey as JSON-ready values."""
        return {
            "title": self.title,
            "subject": self.subject,
            "provenance": dict(self.provenance),
            "seconds": self.seconds,
            "left_out": dict(self.left_out),
            "chapters": [chapter.to_dict() for chapter in self.chapters],
        }


def adam_rate(w: np.ndarray) -> float:
    """A learning rate of Adam for flat parameters: a hundredth of their root mean square."""
    return 0.01 * (float(np.sqrt(np.mean(np.square(w, dtype=np.float64)))) or 1.0)


def pairs_of_positions(net: Layer, data: Dataset) -> int:
    """How many pairs of positions the limit of a network carries at most for a pair of examples; 1 without images."""
    return int(net.describe(data.x_train.shape[1:]).entries.max())


def network_and_data(context: Context) -> tuple[Layer, Dataset]:
    """The architecture and its data.

    Raises:
        LeftOutError: one of them is missing; says which.
    """
    if context.net is None:
        raise LeftOutError(
            "it needs the layers of the network, and the function is a plain one. Give the `apply` of a "
            "`widescape.arch` network as the function."
        )
    if context.data is None:
        raise LeftOutError(
            "it needs arrays of inputs with class labels (or one-hot targets), or numbers under square loss."
        )
    return context.net, context.data


@dataclass
class Stopwatch:
    """Seconds since it was made."""

    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Elapsed wall time in seconds."""
        return time.perf_counter() - self.start
