"""Chapter: what the layers of trained networks represent: how alike two networks are, ranks, and read-outs."""

import warnings
from dataclasses import dataclass

import numpy as np

from widescape import arch, features
from widescape.core.errors import DegenerateWarning
from widescape.core.table import Table
from widescape.data import Dataset, standardize
from widescape.features.layers import Positions
from widescape.survey.activations import NEIGHBORS, LayerFeatures, activations, layer_features, layer_names
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch, network_and_data, pairs_of_positions
from widescape.survey.solutions import Solutions, two_solutions

TITLE = "What the layers represent"
INPUTS = "inputs"
_FEWEST = 4  # held-out examples, which a debiased similarity needs
_MOST_NUMBERS = 2e7  # activations of one network, beyond which images are averaged over positions


@dataclass(frozen=True)
class _Size:
    """How much is done: training and held-out examples, hidden width where no parameters were given, and steps."""

    examples: int
    held_out: int
    width: int | None
    steps: int


_QUICK = _Size(500, 500, 128, 500)
_SMALLEST = _Size(60, 60, 16, 30)
_FULL = _Size(2000, 2000, None, 6000)


@dataclass(frozen=True)
class _Work:
    """Two networks, and what was found in their layers."""

    found: Solutions
    similarity: features.LayerSimilarity
    layers: LayerFeatures
    silent: tuple[str, ...]
    averaged: bool
    regression: bool
    sizing: str


def chapter(context: Context) -> Chapter:
    """How alike the layers of two networks are, how many directions they use, and what can be read off them."""
    watch = Stopwatch()
    net, data = network_and_data(context)
    if not isinstance(net, arch.Sequential):
        raise LeftOutError("it needs layers one after another: a network that is an `arch.Sequential`.")
    size = _FULL if context.budget is None else (_QUICK if context.budget >= 5 else _SMALLEST)
    if context.system is None and context.budget is not None and pairs_of_positions(net, data) > 1:
        size = _SMALLEST  # every position of an image costs as much as an example
    x_test, y_test = _held_out(context, data, size)
    found = two_solutions(context, size.examples, size.width, size.steps)
    work = _measured(context, data, found, x_test, y_test)
    return Chapter(
        name="layer-features",
        title=TITLE,
        question="Do two networks learn the same layers, how many directions does a layer use, and what can be read "
        "off it?",
        verdict=_verdict(work),
        sentences=_sentences(work),
        sizing=work.sizing,
        results={"similarity of layers": work.similarity, "features of layers": work.layers},
        charts=(*work.similarity.charts(), *work.layers.charts()),
        tables=(_table(work.layers),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _held_out(context: Context, data: Dataset, size: _Size) -> tuple[np.ndarray, np.ndarray]:
    """Held-out inputs, standardized as those of training, and their labels or numbers."""
    count = min(len(data.x_test), size.held_out)
    rows = np.sort(np.random.default_rng((context.seed, 2)).permutation(len(data.x_test))[:count])
    y = data.y_test[rows]
    if count < _FEWEST or (np.ptp(y, axis=0) == 0).any():
        raise LeftOutError(f"it needs at least {_FEWEST} held-out examples whose targets differ.")
    x = data.x_test if context.system is not None else standardize(data.x_train, data.x_test, per="auto")[1]
    return x[rows], y


def _measured(context: Context, data: Dataset, found: Solutions, x_test: np.ndarray, y_test: np.ndarray) -> _Work:
    context.say("activations of the layers")
    net = found.net
    if not isinstance(net, arch.Sequential):  # it was asked before
        raise LeftOutError("it needs layers one after another.")
    x, y = np.asarray(found.system.x), data.y_train[found.rows]
    x_test = np.asarray(x_test, x.dtype)
    names = layer_names(net)
    numbers = sum(h.size for h in activations(net, found.a, x[:1], "features", names).values())
    averaged = numbers * (len(x) + len(x_test)) > _MOST_NUMBERS
    way: Positions = "mean" if averaged else "features"
    train, test, other, start = (
        activations(net, params, inputs, way, names)
        for params, inputs in ((found.a, x), (found.a, x_test), (found.b, x_test), (found.start, x_test))
    )
    every = (train, test, other, start)
    alive = [name for name in test if all(np.ptp(own[name], axis=0).any() for own in every)]
    silent = tuple(name for name in test if name not in alive)
    if not alive:
        raise LeftOutError("the activations of every layer are the same for all examples.")
    train, test, other, start = ({name: own[name] for name in alive} for own in every)
    context.say("similarity, ranks and read-outs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)  # what is undefined is said
        similarity = features.layer_similarity(test, other, "cka_debiased")
    outputs = np.asarray(net.apply(found.a, x_test), np.float64)
    layers = layer_features(train, y, test, y_test, start, (x, x_test, outputs), data.num_classes)
    sizing = f"{found.sizing} Held out: {len(x_test):,} of {len(data.x_test):,} examples."
    if averaged:
        sizing += " Activations of images are means over positions."
    return _Work(found, similarity, layers, silent, averaged, data.num_classes is None, sizing)


def _matches(similarity: features.LayerSimilarity) -> tuple[int, int, list[str]]:
    """How many layers are most like the corresponding one, of how many with a similarity, and what the others are."""
    best = similarity.best
    return (
        sum(own == other for own, other in best.items()),
        len(best),
        [f"{own} is most like {other}" for own, other in best.items() if own != other],
    )


def _share(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}%"


def _verdict(work: _Work) -> str:
    own = work.layers
    held, many, _ = _matches(work.similarity)
    what = "of the variance of held-out targets" if work.regression else "of the held-out labels"
    reads = "explains" if work.regression else "reads"
    alike = (
        f"{held} of {many} layers {'is' if held == 1 else 'are'} most like the corresponding layer of a network from "
        "another start"
        if many
        else "How alike the layers of two networks are is undefined on so few examples"
    )
    inputs, network = _share(own.linear[0], own.linear_stderr[0]), _share(own.network, own.network_stderr)
    place, called = _last(work)
    if called == "the outputs":
        return f"{alike}. A linear map of the raw inputs {reads} {inputs} {what}, the network itself {network}."
    last = _share(own.linear[place + 1], own.linear_stderr[place + 1])
    return (
        f"{alike}. A linear map of {called} {reads} {last} {what}, one of the raw inputs {inputs}, the network itself "
        f"{network}."
    )


def _last(work: _Work) -> tuple[int, str]:
    """The place of the last hidden layer, and what it is called; the outputs where there is none."""
    layers = work.layers.layers
    if work.silent:
        return len(layers) - 1, f"layer {layers[-1]}"
    return (len(layers) - 2, "the last hidden layer") if len(layers) > 1 else (0, "the outputs")


def _sentences(work: _Work) -> tuple[str, ...]:
    own, similarity = work.layers, work.similarity
    _, many, others = _matches(similarity)
    lines = [
        f"{work.found.origin} Everything here is of the first of the two, on held-out examples; a "
        "nonlinearity and what it is applied to count as one layer.",
    ]
    if many:
        diagonal = np.diag(similarity.matrix)
        lines.append(
            "Similarity (linear centered kernel alignment, debiased: about 0 for unrelated activations, 1 for the "
            f"same up to rotation and scale): corresponding layers have {_range(diagonal)}. "
            + (f"{'; '.join(others)}." if others else "None is more like another layer than like its own counterpart.")
        )
    if similarity.undefined.any():
        lines.append(f"{int(similarity.undefined.sum())} of {similarity.matrix.size} similarities are undefined.")
    if work.silent:
        lines.append(f"Left out, since their activations are the same for all examples: {', '.join(work.silent)}.")
    first, last = (float(own.effective_rank_centered[i]) for i in (0, -1))
    lines += [
        f"Ranks: the effective rank of the centered activations goes from {first:.3g} in the first layer to {last:.3g} "
        f"in the last, of at most {min(own.num_samples - 1, int(own.num_features[0])):,} and "
        f"{min(own.num_samples - 1, int(own.num_features[-1])):,}; with the mean left in it is "
        f"{own.effective_rank[0]:.3g} and {own.effective_rank[-1]:.3g}. All ranks depend on the number of examples.",
        _alignment_sentence(work),
        f"Read-outs are fitted on the network's {work.found.system.num_examples:,} training examples (ridge "
        f"regression, its regularizer by leave-one-out; the {NEIGHBORS} nearest by distance) and scored on the "
        "held-out ones: "
        f"linear from {_share(own.linear.min(), own.linear_stderr[own.linear.argmin()])} to "
        f"{_share(own.linear.max(), own.linear_stderr[own.linear.argmax()])}, by neighbors from "
        f"{_share(own.neighbors.min(), own.neighbors_stderr[own.neighbors.argmin()])} to "
        f"{_share(own.neighbors.max(), own.neighbors_stderr[own.neighbors.argmax()])}; ± is one standard error over "
        "held-out examples.",
    ]
    return tuple(lines)


def _range(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    if not known.size:
        return "none"
    return f"{known.min():.2f} to {known.max():.2f}" if known.size > 1 else f"{known[0]:.2f}"


def _alignment_sentence(work: _Work) -> str:
    place, called = _last(work)
    before, after = work.layers.alignment_before[place], work.layers.alignment[place]
    return (
        "Alignment of a layer's kernel with the targets (centered; 1 if all it tells apart is the target): "
        f"in {called} it is {before:.2f} at random parameters and {after:.2f} after training."
    )


def _table(own: LayerFeatures) -> Table:
    gap = (None,) * 9
    scores = [
        (_share(*pair[:2]), _share(*pair[2:]))
        for pair in zip(own.linear, own.linear_stderr, own.neighbors, own.neighbors_stderr, strict=True)
    ]
    columns = (
        own.num_features,
        own.srank,
        own.srank_centered,
        own.effective_rank,
        own.effective_rank_centered,
        own.stable_rank,
        own.stable_rank_centered,
        own.alignment_before,
        own.alignment,
    )
    rows = [(INPUTS, *gap, *scores[0])]
    rows += [(name, *(column[i].item() for column in columns), *scores[i + 1]) for i, name in enumerate(own.layers)]
    return Table(
        name="layers",
        title="Each layer of the first network",
        columns=(
            "layer",
            "features",
            "srank",
            "srank, centered",
            "effective rank",
            "effective rank, centered",
            "stable rank",
            "stable rank, centered",
            "alignment at random parameters",
            "alignment after training",
            f"linear read-out, {own.score}",
            f"nearest neighbors, {own.score}",
        ),
        rows=tuple(rows),
        caption=f"On {own.num_samples:,} held-out examples; ± is one standard error.",
    )
