"""Chapter: finite networks beside their linearization and limit, or a user's function beside its linearization."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from widescape import arch, kernels, predict, train
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.core.table import Table
from widescape.curvature import System
from widescape.data import Dataset, standardize
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch, pairs_of_positions
from widescape.survey.subject import class_labels

TITLE = "Finite networks beside their limit"
_FEW = 300  # examples of a user's system that are trained on, and whose tangent kernel is taken
_MOST_HELD_OUT = 500
_REG = 1e-4  # of kernel regression, in units of the mean diagonal; enough for float64 at these sizes


@dataclass(frozen=True)
class _Size:
    """How much is trained."""

    n_train: int
    n_test: int
    widths: tuple[int, ...]
    members: int
    steps: int


_QUICK = _Size(200, 500, (32, 64, 128, 256), 3, 100)
_SMALLEST = _Size(60, 100, (16, 32, 64), 2, 20)
_PAIRS = 2e5  # of positions, for each training example of a network on images
_FULL = _Size(1000, 2000, (64, 128, 256, 512, 1024), 5, 500)


class PredictionDistances(Result):
    """Root mean square distances between the predictions of several models on the same test points."""

    source = "lee2020finite"
    names: tuple[str, ...] = quantity(EXACT, "the models (k,)")
    distances: np.ndarray = quantity(EXACT, "root mean square over points and outputs, (k, k)")


def chapter(context: Context) -> Chapter:
    """A user's function against its linearization; else networks of several widths against their limit."""
    if context.system is not None:
        return _of_system(context, context.system)
    if context.net is None or context.data is None:
        raise LeftOutError("it needs an architecture with labeled data, or a system.")
    return _of_architecture(context, context.net, context.data)


# An architecture on labeled data.


def _of_architecture(context: Context, net: arch.Layer, data: Dataset) -> Chapter:
    watch = Stopwatch()
    size = _chosen(context, net, data)
    part = data.subset(size.n_train, size.n_test, seed=context.seed)
    x, x_test = standardize(part.x_train, part.x_test, per="auto")
    targets = predict.one_hot(part.y_train, data.class_count)
    key = named_key(jax.random.key(context.seed), "finite networks")
    context.say(f"training {size.members} networks of each width, and their linearizations")
    study = train.limit_distance(
        net,
        key,
        x,
        targets,
        x_test,
        widths=size.widths,
        num_members=size.members,
        steps=size.steps,
        center=True,
        seconds=None if context.budget is None else 0.8 * context.budget,
        keep_runs=True,
        progress=False,
    )
    context.say("predictions of the limit")
    gram = kernels.gram(net, x, get=("nngp", "ntk"), progress=False)
    cross = kernels.gram(net, x_test, x, get=("nngp", "ntk"), progress=False)
    outputs = _predictions(study, gram, cross, targets)
    scores = {name: predict.classification_score(values, part.y_test) for name, values in outputs.items()}
    distances = _distances(outputs)
    results: dict[str, Result] = {
        "distance to the limit": dataclasses.replace(study, finite=None, linearized=None),
        "distances between predictions": distances,
        **{f"score of {name}": score for name, score in scores.items()},
    }
    return Chapter(
        name="finite-networks",
        title=TITLE,
        question="How far are finite networks from their linearization and from their infinite-width limit?",
        verdict=_verdict(study, scores),
        sentences=_sentences(study, scores, distances),
        sizing=_sizing(size, study, data, context),
        results=results,
        charts=(*study.charts(), _loss_chart(study, gram.ntk, targets)),
        tables=(_score_table(scores), _distance_table(distances)),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _chosen(context: Context, net: arch.Layer, data: Dataset) -> _Size:
    size = _FULL if context.budget is None else (_QUICK if context.budget >= 5 else _SMALLEST)
    entries = pairs_of_positions(net, data)
    if entries > 1 and context.budget is not None:
        size = _Size(int(np.clip(_PAIRS / entries, 20, 50)), int(np.clip(2 * _PAIRS / entries, 30, 100)),
                     (4, 8, 16), 2, min(size.steps, 30))  # fmt: skip
    return dataclasses.replace(
        size, n_train=min(size.n_train, len(data.x_train)), n_test=min(size.n_test, len(data.x_test))
    )


def _predictions(
    study: train.LimitDistance, gram: arch.Kernel, cross: arch.Kernel, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Test outputs of each model, by name."""
    if study.finite is None or study.linearized is None:  # they were asked for
        raise ValueError("the study kept no runs.")
    width = int(study.widths[-1])
    rate = study.rate * targets.shape[1]  # closed forms average over outputs too
    return {
        f"one network of width {width:,}": study.finite.outputs[0].astype(np.float64),
        f"mean of {study.num_members} networks": study.finite.mean.astype(np.float64),
        "mean of their linearizations": study.linearized.mean.astype(np.float64),
        f"NTK after {study.num_steps:,} steps": predict.discrete_gd(
            gram.ntk, targets, rate, study.num_steps, K_test=cross.ntk
        ),
        "NTK, trained to the end": _regressed(gram.ntk, targets, cross.ntk),
        "NNGP": _regressed(gram.nngp, targets, cross.nngp),
    }


def _regressed(gram: np.ndarray, targets: np.ndarray, cross: np.ndarray) -> np.ndarray:
    return predict.GP(gram, targets, reg=_REG).mean(cross)


def _distances(outputs: Mapping[str, np.ndarray]) -> PredictionDistances:
    values = list(outputs.values())
    table = [[predict.root_mean_square(a - b) for b in values] for a in values]
    return PredictionDistances(names=tuple(outputs), distances=np.asarray(table))


def _percent(score: predict.ClassificationScore) -> str:
    return f"{100 * score.accuracy:.1f} ± {100 * score.accuracy_stderr:.1f}%"


def _verdict(study: train.LimitDistance, scores: Mapping[str, predict.ClassificationScore]) -> str:
    width = int(study.widths[-1])
    share = 100 * study.finite_to_limit[-1] / study.scale
    names = list(scores)
    return (
        f"At width {width:,} a trained network's predictions are {share:.0f}% of their size away from the infinite "
        f"network's; it classifies {_percent(scores[names[0]])} of the test examples, the mean of {study.num_members} "
        f"such networks {_percent(scores[names[1]])}, the infinite network after the same steps "
        f"{_percent(scores[names[3]])}."
    )


def _sentences(
    study: train.LimitDistance, scores: Mapping[str, predict.ClassificationScore], distances: PredictionDistances
) -> tuple[str, ...]:
    first, last = (int(study.widths[i]) for i in (0, -1))
    names = list(scores)
    return (
        "The networks are centered (each less its outputs before training) and take full-batch steps on the squared "
        f"loss, {study.num_steps:,} at a learning rate of {study.rate:.3g}, half of the largest that is stable in the "
        "limit and for every linearization. The limit's predictions are exact for that many steps. Distances are "
        f"estimates over {study.num_members} networks of each width; ± is one standard error.",
        f"From width {first:,} to {last:,} the distance between a network and its limit falls from "
        f"{_of(study, 'finite_to_limit', 0)} to {_of(study, 'finite_to_limit')}; the predictions' own size is "
        f"{study.scale:.3g}.",
        f"Of that, training away from the linearization makes {_of(study, 'finite_to_linear')} at width {last:,}, and "
        f"the random kernel that the network starts with makes {_of(study, 'linear_to_limit')}: the larger part is "
        + (
            "the kernel at the start"
            if study.linear_to_limit[-1] > study.finite_to_linear[-1]
            else "what training does beyond the linear model"
        )
        + f". The mean of the {study.num_members} networks is {distances.distances[1, 3]:.3g} from the limit.",
        f"Training moves the tangent kernel by {_of(study, 'drift', 0, percent=True)} at width {first:,} and by "
        f"{_of(study, 'drift', percent=True)} at width {last:,}; before training it is "
        f"{_of(study, 'kernel_error', percent=True)} from its limit at width {last:,}.",
        _meeting(study),
        f"On the same examples the infinite network trained to the end classifies {_percent(scores[names[4]])} (NTK) "
        f"and {_percent(scores[names[5]])} (NNGP), both at a regularizer of {_REG:.0e} of the mean diagonal.",
    )


def _meeting(study: train.LimitDistance) -> str:
    """Where the power law says that network and limit meet."""
    law = f"The distance falls as width to the power {_pm(study.exponent, study.exponent_stderr)}"
    theory = "theory says -1/2 for wide networks"
    goal = f"{100 * study.tolerance:.0f}% of the predictions' size"
    if not np.isfinite(study.meeting_width):
        return f"The distance does not fall over these widths; {theory}."
    width, error = study.meeting_width, study.meeting_width_stderr
    if width <= study.widths[-1]:
        return f"{law} ({theory}); it is within {goal} from width {width:,.0f} on."
    doubt = "an extrapolation" if width < 100 * study.widths[-1] else "an extrapolation too far to be relied on"
    return f"{law} ({theory}); it would be within {goal} at width {width:,.0f} ± {error:,.0f}, {doubt}."


def _pm(value: float, error: float) -> str:
    """A value with as many digits as its error has meaning."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.3g}"
    digits = max(0, -int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _of(study: train.LimitDistance, name: str, place: int = -1, *, percent: bool = False) -> str:
    """One entry of a study with its standard error."""
    value, error = float(getattr(study, name)[place]), float(getattr(study, f"{name}_stderr")[place])
    if not percent:
        return _pm(value, error)
    return f"{100 * value:.1f}%" if not np.isfinite(error) else f"{100 * value:.1f} ± {100 * error:.1f}%"


def _sizing(size: _Size, study: train.LimitDistance, data: Dataset, context: Context) -> str:
    text = (
        f"{size.n_train:,} of {len(data.x_train):,} training examples, {size.n_test:,} of {len(data.x_test):,} test "
        f"examples, {study.num_members} networks of each of {len(study.widths)} widths."
    )
    if len(study.widths) < len(size.widths):
        text += f" Time ran out before width {size.widths[len(study.widths)]:,}."
    return text + (" --full uses more of each." if context.budget is not None else "")


def _loss_chart(study: train.LimitDistance, ntk: np.ndarray, targets: np.ndarray) -> Chart:
    """Training loss against steps: networks, linearizations, limit."""
    if study.finite is None or study.linearized is None:
        raise ValueError("the study kept no runs.")
    steps = study.finite.steps
    limit = predict.discrete_gd(ntk, targets, study.rate * targets.shape[1], steps)
    loss = np.sum((limit - targets) ** 2, axis=2).mean(axis=1) / 2
    shown = np.maximum(steps, 0.5)
    series = [Series(shown, loss, "infinite width")]
    for name, run in (("networks", study.finite), ("their linearizations", study.linearized)):
        low, high = run.loss.min(axis=1), run.loss.max(axis=1)
        series.append(Series(shown, run.loss.mean(axis=1), name, low, high))
    return Chart(
        name="loss",
        title=f"Training loss at width {int(study.widths[-1]):,} and in the limit",
        x_label="step",
        y_label="squared loss",
        series=tuple(series),
        x_scale="log",
        y_scale="log",
        caption="Mean over networks; bands reach from the least to the greatest. Step 0 is drawn at 0.5.",
    )


def _score_table(scores: Mapping[str, predict.ClassificationScore]) -> Table:
    return Table(
        name="scores",
        title="The same split, six predictors",
        columns=("predictor", "accuracy", "squared loss"),
        rows=tuple((name, _percent(s), f"{s.mse:.4f} ± {s.mse_stderr:.4f}") for name, s in scores.items()),
        caption="± is one standard error over test examples.",
    )


def _distance_table(distances: PredictionDistances) -> Table:
    short = [chr(ord("A") + i) for i in range(len(distances.names))]
    rows = [_row(s, name, row) for s, name, row in zip(short, distances.names, distances.distances, strict=True)]
    return Table(
        name="distances",
        title="Root mean square distances between predictions",
        columns=("predictor", *short),
        rows=tuple(rows),
        caption="Over test examples and outputs.",
    )


def _row(letter: str, name: str, values: np.ndarray) -> tuple[str | float | int | None, ...]:
    return (f"{letter}: {name}", *map(float, values))


# A user's system.


def _of_system(context: Context, system: System) -> Chapter:
    watch = Stopwatch()
    own, points, sizing = _cut(context, system)
    context.say("the tangent kernel")
    method = kernels.empirical_ntk(own, plan=True)
    kernel = kernels.empirical_ntk(own, progress=False)
    spectrum = kernels.spectrum(kernel)
    try:
        rate = 0.5 * train.stable_rate(own)
    except ValueError as error:
        raise LeftOutError(f"it trains by gradient descent, and {error}") from error
    if not np.isfinite(rate):
        raise LeftOutError("it trains by gradient descent, and the outputs do not depend on the parameters.")
    steps = _affordable(context, own, rate, watch)
    context.say(f"{steps:,} steps of the function and of its linearization")
    distance = train.linearization_distance(own, steps, rate=rate, held_out=points[0], progress=False)
    results: dict[str, Result] = {
        "distance to the linearization": distance,
        "spectrum of the tangent kernel": spectrum,
        "plan of the tangent kernel": method,
    }
    labels = class_labels(own.loss, points[1])
    if labels is not None:
        for name, values in (("the function", distance.outputs), ("its linearization", distance.linear_outputs)):
            results[f"score of {name}"] = predict.classification_score(values, labels)
    return Chapter(
        name="finite-networks",
        title="The function beside its linearization",
        question="Does this function train like a linear model with its own tangent kernel?",
        verdict=_system_verdict(distance),
        sentences=_system_sentences(own, distance, spectrum, method, results),
        sizing=sizing,
        results=results,
        charts=(*distance.charts(), _spectrum_chart(spectrum)),
        tables=(),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _cut(context: Context, system: System) -> tuple[System, tuple[object, object], str]:
    """The system on a few of its examples, and its held-out points."""
    if context.held_out is None:
        raise LeftOutError("it needs held-out examples.")
    n, x_test, y_test = system.num_examples, *context.held_out
    count = n if context.budget is None else min(n, _FEW)
    held = len(jax.tree.leaves(x_test)[0])
    tested = held if context.budget is None else min(held, _MOST_HELD_OUT)
    order = np.sort(np.random.default_rng((context.seed, 1)).permutation(n)[:count])
    x, y = jax.tree.map(lambda leaf: leaf[order], system.x), np.asarray(system.y)[order]
    own = system.on(x, y)
    points = (jax.tree.map(lambda leaf: leaf[:tested], x_test), np.asarray(y_test)[:tested])
    text = f"Trained on {count:,} of {n:,} examples, compared on {tested:,} of {held:,} held-out ones"
    return own, points, text + ("; --full uses all." if context.budget is not None else ".")


def _affordable(context: Context, system: System, rate: float, watch: Stopwatch) -> int:
    """Steps that fit the rest of the budget, a power of ten or a half of one."""
    if context.budget is None:
        return 1000
    for count in (2, 2):  # the first compiles
        start = watch.seconds
        train.fit(system, rate, count, linearize=True, progress=False)
        seconds = (watch.seconds - start) / (2 * count)
    room = max(0.6 * (context.budget - watch.seconds), 0.0) / max(3 * seconds, 1e-9)
    fitting = [n for n in (10, 20, 50, 100, 200) if n <= room]
    return fitting[-1] if fitting else 10


def _system_verdict(distance: train.LinearizationDistance) -> str:
    if not distance.status.ok:
        return f"Training did not end well: {distance.status}"
    share = distance.relative
    judged = (
        "it trains much like a linear model"
        if share < 0.1
        else "it leaves its linear model visibly"
        if share < 0.5
        else "it is no linear model"
    )
    return (
        f"After {distance.num_steps:,} steps the function and its linearization differ by {100 * share:.0f}% of how "
        f"far the function's outputs moved, and its tangent kernel changed by {100 * distance.drift[-1]:.0f}%: "
        f"{judged}."
    )


def _system_sentences(
    system: System,
    distance: train.LinearizationDistance,
    spectrum: kernels.GramSpectrum,
    method: kernels.TangentPlan,
    results: Mapping[str, Result],
) -> tuple[str, ...]:
    scores = [(name, r) for name, r in results.items() if isinstance(r, predict.ClassificationScore)]
    structured = 100 * method.structured_params / method.num_params
    linear = (
        f"its linearization to {distance.linear_loss[-1]:.4g}"
        if distance.linear_status.ok
        else "its linearization diverges"
    )
    sentences = (
        f"The rate of {distance.rate:.3g} is half of the largest at which gradient descent on the linearization is "
        "sure to be stable, from the largest eigenvalue of the full tangent kernel and the curvature of the loss.",
        f"Training loss goes from {distance.loss[0]:.4g} to {distance.loss[-1]:.4g}; {linear}.",
        f"Parameters moved by {100 * distance.parameter_distance[-1]:.2g}% of their norm.",
        f"The tangent kernel of {system.num_examples:,} examples (mean over {system.num_outputs} outputs) has "
        f"condition number {spectrum.condition_number:.1e}. It was computed by the method {method.method!r}; "
        f"{structured:.0f}% of the parameters meet the example in one product and were contracted through factors.",
    )
    return sentences + tuple(
        f"Held-out accuracy of {name.removeprefix('score of ')}: {_percent(score)}." for name, score in scores
    )


def _spectrum_chart(spectrum: kernels.GramSpectrum) -> Chart:
    positive = spectrum.eigenvalues > 0
    return Chart(
        name="spectrum",
        title="Eigenvalues of the tangent kernel before training",
        x_label="rank",
        y_label="eigenvalue",
        series=(Series(np.flatnonzero(positive) + 1, spectrum.eigenvalues[positive], "tangent kernel"),),
        x_scale="log",
        y_scale="log",
        caption="Of the kernel's trace over outputs, on the training examples.",
    )
