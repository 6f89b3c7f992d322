"""Running the chapters one after the other."""

import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from widescape import data as _data
from widescape.core import checks
from widescape.core.errors import DataError
from widescape.survey import infinite_limit
from widescape.survey.chapter import Chapter, Context, Stopwatch, SurveyReport

CHAPTERS: tuple[Callable[[Context], Chapter], ...] = (infinite_limit.chapter,)
SECONDS_PER_CHAPTER = 15.0


def survey(
    data: str | _data.Dataset = "digits",
    *,
    seed: int = 0,
    full: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> SurveyReport:
    """Measure the default network on a data set, chapter by chapter.

    Args:
        data: a name that `widescape.data.load` knows, or a `Dataset`.
        seed: every random draw derives from it.
        full: lift the budget of 15 seconds per chapter.
        say: called with lines of progress.

    Returns:
        a `SurveyReport`; `widescape.report.page.write` makes a page of it.

    Raises:
        DataError: the data set is unknown or absent.

    Cost: about 15 seconds per chapter on two cores, or as long as all the data take with `full`.
    """
    watch = Stopwatch()
    checks.count(seed, "seed", "survey", minimum=0)
    if not isinstance(data, (str, _data.Dataset)):
        raise DataError(f"`data` is {data!r}; give a name or a widescape.data.Dataset.")
    dataset = _data.load(data) if isinstance(data, str) else data
    context = Context(data=dataset, seed=seed, budget=None if full else SECONDS_PER_CHAPTER, say=say)
    chapters = tuple(chapter(context) for chapter in CHAPTERS)
    return SurveyReport(
        title=f"Survey of a network on {dataset.name}",
        subject=f"{infinite_limit.DESCRIPTION}, on {dataset.name}.",
        chapters=chapters,
        provenance=_provenance(dataset, seed, full),
        seconds=watch.seconds,
    )


def _provenance(dataset: _data.Dataset, seed: int, full: bool) -> dict[str, str]:
    packages = {}
    for name in ("widescape", "jax", "jaxlib", "numpy", "scipy", "scikit-learn", "matplotlib"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "network": repr(infinite_limit.network(dataset.num_classes)),
        "data": f"{dataset.name}: {dataset.source}",
        "data fingerprint": f"SHA-256 {dataset.fingerprint}...",
        "seed": str(seed),
        "budget": "none (--full)" if full else f"{SECONDS_PER_CHAPTER:.0f} s per chapter",
        "command": f"widescape survey --data {dataset.name} --seed {seed}" + (" --full" if full else ""),
        "python": f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}",
        **packages,
    }
