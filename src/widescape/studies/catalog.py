"""The studies by the bib key of their paper, imported when they run."""

import dataclasses
import importlib
import inspect
import time
from collections.abc import Callable

from widescape.core import checks
from widescape.core.errors import DataError
from widescape.core.provenance import environment
from widescape.studies.study import Study

SUMMARIES: dict[str, str] = {
    "liu2020loss": "loss landscapes of over-parameterized systems: PL* certificates, transition to linearity, rates",
    "du2018gradient": "gradient descent on two-layer ReLU networks: Gram matrices, activation flips, moves, rate",
    "lucas2021monotonic": "loss on the straight line from initialization to solution: when it falls monotonically",
    "cohen2021edge": "gradient descent at the edge of stability: sharpness rises to 2 / learning rate and stays",
    "nguyen2021connectivity": "when solutions are connected: half-size networks on half of the features, proved paths",
    "garipov2018loss": "curves of low loss between two solutions: Bezier curves, chains, elastic bands",
    "ainsworth2022rebasin": "barriers between networks whose units are aligned, by weights or by activations",
    "frankle2020linear": "stability to the noise of training: barriers between siblings that share their first steps",
    "kawaguchi2019elimination": "removing bad minima with an added neuron: what is proved, and how it fails",
    "kawaguchi2018depth": "what layers contribute at a critical point; values reached against depth and width",
    "kawaguchi2018resnets": "residual models at local minima, held against the best linear predictor",
    "frye2019critical": "finding critical points: how often methods succeed, and gradient-flat points",
    "chen2020hierarchical": "what a frozen random layer buys: examples for polynomials by four Taylor models",
    "kumar2021implicit": "ranks of features: repeated regression on own targets, a penalty, ranks in training",
    "kornblith2019similarity": "similarity of layers: indices on known data, on noise, and between two seeds",
}
"""One line about each study, which is the module of that name in this room."""


PAPER_SIZE = "that of the paper"
"""What the provenance says of the size of a study that was run with `full`."""


def names() -> tuple[str, ...]:
    """The bib keys of all papers that have a study.

    Example:
        >>> "liu2020loss" in names()
        True
    """
    return tuple(SUMMARIES)


def summary(name: str) -> str:
    """One line about a study.

    Raises:
        DataError: there is none of this name.
    """
    if name not in SUMMARIES:
        raise DataError(f"there is no study {name!r}; choose one of {', '.join(SUMMARIES)}.")
    return SUMMARIES[name]


def run(
    name: str,
    *,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims of a paper.

    Args:
        name: bib key of the paper, one of `names`.
        seed: every random draw derives from it.
        quick: cut sizes and numbers of draws to about a minute on two cores; claims that need more are inconclusive.
        full: take the sizes of the paper's own experiments, which may take hours.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`, with the time it took, and with seed, versions and machine in its provenance.

    Raises:
        DataError: there is no such study, or it has no sizes beyond its usual ones.
        TypeError, ValueError: the seed is no integer, or negative; or both `quick` and `full`.

    Cost: of `quick`, about a minute; otherwise what the study's own docstring says.
    """
    summary(name)
    checks.count(seed, "seed", "studies.run", minimum=0)
    if quick and full:
        raise ValueError("`quick` and `full` exclude each other; choose one.")
    module = importlib.import_module(f"widescape.studies.{name}")
    options = {"full": True} if full else {}
    if full and "full" not in inspect.signature(module.run).parameters:
        raise DataError(f"the study {name} has no sizes beyond its usual ones; leave out `full`.")
    start = time.perf_counter()
    study: Study = module.run(seed=seed, quick=quick, say=say, progress=progress, **options)
    seconds = time.perf_counter() - start
    size = "quick" if quick else PAPER_SIZE if full else "usual"
    return dataclasses.replace(study, seconds=seconds, provenance={**_provenance(study, size), **study.provenance})


def _provenance(study: Study, size: str) -> dict[str, str]:
    return {
        "seed": str(study.seed),
        "size": size,
        **environment("widescape", "jax", "jaxlib", "numpy", "scipy", "optax"),
    }
