"""Running the chapters one after the other."""

import shlex
from collections.abc import Callable
from typing import Any

from widescape import data as _data
from widescape.arch.base import Layer
from widescape.core import checks
from widescape.core.errors import DataError, NonGaussianInputError, NotTractableError
from widescape.core.provenance import environment
from widescape.curvature import System
from widescape.survey import (
    end_point,
    finite_networks,
    infinite_limit,
    layer_features,
    loss_landscape,
    solution_paths,
)
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch, SurveyReport
from widescape.survey.subject import of_dataset, of_system

CHAPTERS: tuple[Callable[[Context], Chapter], ...] = (
    infinite_limit.chapter,
    finite_networks.chapter,
    loss_landscape.chapter,
    solution_paths.chapter,
    end_point.chapter,
    layer_features.chapter,
)
TITLES: dict[Any, str] = {
    infinite_limit.chapter: infinite_limit.TITLE,
    finite_networks.chapter: finite_networks.TITLE,
    loss_landscape.chapter: loss_landscape.TITLE,
    solution_paths.chapter: solution_paths.TITLE,
    end_point.chapter: end_point.TITLE,
    layer_features.chapter: layer_features.TITLE,
}
SECONDS_PER_CHAPTER = 25.0


def survey(
    data: str | _data.Dataset | System = "digits",
    *,
    arch: str | Layer | None = None,
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
    full: bool = False,
    name: str = "your model",
    say: Callable[[str], None] = lambda line: None,
    command: str | None = None,
) -> SurveyReport:
    """Measure a network, chapter by chapter: the default one on a data set, or your own.

    Your own model is a `System`: a function, its parameters, data with targets, and a loss. Chapters that need more
    than that (the layers of the network, class labels) say so and are left out; with the `apply` of a `widescape.arch`
    network as the function, none is.

    Args:
        data: a name that `widescape.data.load` knows, a `Dataset`, or a `System`.
        arch: the network on a data set: an architecture; a word (fc, cnn_vec, cnn_gap, myrtle, resnet) for one with
            GELU units; or a text such as ``"cnn_gap(2, 64, 10)"``. None for the default network. A system brings its
            own.
        test: held-out (x, y) of a system; None holds out a fifth of its examples.
        seed: every random draw derives from it.
        full: lift the budget of 25 seconds per chapter.
        name: how the page calls a system.
        say: called with lines of progress.
        command: the command that the page names; None for the one that repeats it.

    Returns:
        a `SurveyReport`; `widescape.report.page.write` makes a page of it.

    Raises:
        DataError: the data set is unknown or absent, the network does not fit it, or the system has no targets.

    Cost: about 25 seconds per chapter on two cores, or as long as all the data take with `full`.
    """
    watch = Stopwatch()
    checks.count(seed, "seed", "survey", minimum=0)
    if isinstance(data, System):
        if arch is not None:
            raise DataError("a system brings its own network; leave out `arch`.")
        subject = of_system(data, test, seed, name)
        options = ("" if test is None else ", test=...") + f", seed={seed}" + (", full=True" if full else "")
        repeat = f"widescape.survey(system{options})"
    elif isinstance(data, (str, _data.Dataset)):
        dataset = _data.load(data) if isinstance(data, str) else data
        subject = of_dataset(dataset, seed, arch)
        chosen = "" if arch is None else f" --arch {shlex.quote(arch if isinstance(arch, str) else repr(arch))}"
        repeat = f"widescape survey --data {dataset.name}{chosen} --seed {seed}" + (" --full" if full else "")
    else:
        raise DataError(f"`data` is {data!r}; give a name, a widescape.data.Dataset or a widescape.curvature.System.")
    context = Context(
        net=subject.net,
        data=subject.data,
        system=subject.system,
        held_out=subject.held_out,
        seed=seed,
        budget=None if full else SECONDS_PER_CHAPTER,
        say=say,
    )
    chapters, left_out = [], {}
    for chapter in CHAPTERS:
        try:
            chapters.append(chapter(context))
        except LeftOutError as reason:
            left_out[TITLES.get(chapter, "A chapter")] = str(reason)
        except (NotTractableError, NonGaussianInputError) as error:
            left_out[TITLES.get(chapter, "A chapter")] = f"it needs an infinite-width limit: {error}"
    return SurveyReport(
        title=subject.title,
        subject=subject.sentence,
        chapters=tuple(chapters),
        left_out=left_out,
        provenance={**subject.facts, **_provenance(seed, full, command or repeat)},
        seconds=watch.seconds,
    )


def _provenance(seed: int, full: bool, command: str) -> dict[str, str]:
    packages = ("widescape", "jax", "jaxlib", "numpy", "scipy", "optax", "scikit-learn", "matplotlib")
    return {
        "seed": str(seed),
        "budget": "none (--full)" if full else f"{SECONDS_PER_CHAPTER:.0f} s per chapter",
        "command": command,
        **environment(*packages),
    }
