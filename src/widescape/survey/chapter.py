"""What a chapter of the survey receives, and what it returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from widescape.core.chart import Chart
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.data import Dataset


@dataclass(frozen=True)
class Context:
    """What a chapter works on.

    Attributes:
        data: the data set.
        seed: every random draw of the chapter derives from it.
        budget: the seconds the chapter may take on two cores; None lifts the limit (``--full``).
        say: called with one line of progress at a time.
    """

    data: Dataset
    seed: int
    budget: float | None
    say: Callable[[str], None] = lambda line: None


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
    charts: tuple[Chart, ...]
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
        provenance: data, seed, versions, machine and command, for people.
        seconds: the whole time.
    """

    title: str
    subject: str
    chapters: tuple[Chapter, ...]
    provenance: Mapping[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The whole survey as JSON-ready values."""
        return {
            "title": self.title,
            "subject": self.subject,
            "provenance": dict(self.provenance),
            "seconds": self.seconds,
            "chapters": [chapter.to_dict() for chapter in self.chapters],
        }


@dataclass
class Stopwatch:
    """Seconds since it was made."""

    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Elapsed wall time in seconds."""
        return time.perf_counter() - self.start
