"""Chapter: two solutions, and what lies between them: the straight line, aligned units, a trained curve, a proof."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax
import optax

from widescape import arch, paths
from widescape.core.chart import Drawable
from widescape.core.errors import NonFiniteError, NonSmoothWarning, ShapeError
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.curvature import System
from widescape.paths.figures import path_chart
from widescape.paths.layered import as_layered
from widescape.survey.chapter import (
    Chapter,
    Context,
    LeftOutError,
    Stopwatch,
    adam_rate,
    network_and_data,
    pairs_of_positions,
)
from widescape.survey.solutions import BATCH, two_solutions

TITLE = "Paths between two solutions"


@dataclass(frozen=True)
class _Size:
    """How much is trained: examples, hidden width where no parameters were given, and steps."""

    examples: int
    width: int | None
    steps: int
    curve: int
    annexes: int
    masks: int


_QUICK = _Size(500, 128, 500, 120, 300, 40)
_SMALLEST = _Size(60, 16, 30, 5, 10, 4)
_FULL = _Size(2000, None, 6000, 1500, 3000, 200)


@dataclass(frozen=True)
class _Ends:
    """Two solutions of one system, and how they came about."""

    system: System
    net: arch.Layer | None
    a: Any
    b: Any
    size: _Size
    origin: str
    sizing: str


@dataclass(frozen=True)
class _Constructed:
    """The constructive path, and what it goes by."""

    conditions: tuple[paths.ConditionReport, paths.ConditionReport]
    dropout: tuple[paths.DropoutReport, paths.DropoutReport]
    bound: paths.PathBound
    profile: paths.PathProfile


@dataclass(frozen=True)
class _Work:
    """The ends and what was found between them."""

    ends: _Ends
    line: paths.Barrier
    merged: paths.Merge | None
    curve: paths.Curve
    constructed: _Constructed | None
    refusal: str


def chapter(context: Context) -> Chapter:
    """Two solutions and four ways from one to the other."""
    watch = Stopwatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonSmoothWarning)
        try:
            work = _measured(context, _solutions(context))
        except NonFiniteError as error:
            raise LeftOutError(f"it needs two solutions with a finite loss between them: {error}") from error
    return Chapter(
        name="solution-paths",
        title=TITLE,
        question="Are two solutions of this network connected by a path of low loss, and what proves it?",
        verdict=_verdict(work),
        sentences=_sentences(work),
        sizing=work.ends.sizing,
        results=_results(work),
        charts=_charts(work),
        tables=(_table(work),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _solutions(context: Context) -> _Ends:
    """Two solutions: of the given parameters and another start, or of two random ones."""
    size = _FULL if context.budget is None else (_QUICK if context.budget >= 5 else _SMALLEST)
    if context.system is None and context.budget is not None and pairs_of_positions(*network_and_data(context)) > 1:
        size = _SMALLEST  # every position of an image costs as much as an example
    found = two_solutions(context, size.examples, size.width, size.steps, more=size.curve)
    curve = size.curve if found.share == 1 else max(10, round(found.share * size.curve))
    size = replace(size, steps=found.steps, curve=curve)
    return _Ends(found.system, found.net, found.a, found.b, size, found.origin, found.sizing)


def _measured(context: Context, ends: _Ends) -> _Work:
    context.say("the straight line and a trained curve")
    merged = _merged(context, ends)
    line = paths.barrier(ends.system, ends.a, ends.b, progress=False) if merged is None else merged.naive
    rate = adam_rate(ends.system.vector(ends.a))
    curve = paths.fit_curve(
        ends.system,
        ends.a,
        ends.b,
        steps=ends.size.curve,
        optimizer=optax.adam(rate),
        key=jax.random.key(context.seed),
        num=31,
        progress=False,
    )
    context.say("the constructive path")
    constructed, refusal = _constructed(context, ends)
    return _Work(ends, line, merged, curve, constructed, refusal)


def _merged(context: Context, ends: _Ends) -> paths.Merge | None:
    """Both ends with their units aligned by weights; None where the units are not known."""
    if ends.net is None:
        return None
    try:
        spec = paths.permutation_spec(ends.net, ends.a)
    except NotImplementedError:
        return None
    return paths.merge(ends.system, ends.a, ends.b, spec, key=jax.random.key(context.seed), progress=False)


def _constructed(context: Context, ends: _Ends) -> tuple[_Constructed | None, str]:
    """The path by way of annexes; or why there is none."""
    if callable(ends.system.loss):
        return None, "the loss is a function of its own, and nothing shows that it is convex in the outputs."
    try:
        chains = tuple(as_layered(ends.system.starting_at(end)) for end in (ends.a, ends.b))
    except NotImplementedError as reason:
        return None, str(reason)
    system = ends.system
    first, second = (
        System(paths.Layered.__call__, chain, system.x, system.y, loss=system.loss, reduction=system.reduction)
        for chain in chains
    )
    key = jax.random.key(context.seed)
    try:
        condition0, condition1 = (
            paths.feature_condition(
                one, draws=2, steps=ends.size.annexes, batch=BATCH, lr=2e-3, key=key, progress=False
            )
            for one in (first, second)
        )
        dropout0, dropout1 = (
            paths.dropout_stability(one, draws=ends.size.masks, key=key, progress=False) for one in (first, second)
        )
        path = paths.connect(first, second, condition0, condition1)
    except ShapeError as reason:  # hidden layers of one unit leave no room
        return None, str(reason)
    bound = paths.path_bound(path, first, second, condition0, condition1, progress=False)
    exact = path.map(paths.Layered.as_float64)  # in single precision the loss at a point may differ from the bound's
    profile = paths.evaluate_path(first.as_float64(), exact, 5, progress=False)
    return _Constructed((condition0, condition1), (dropout0, dropout1), bound, profile), ""


def _verdict(work: _Work) -> str:
    rise = f"the loss rises by {work.line.value:.3g} on the straight line between two solutions"
    found = work.constructed
    if found is None:
        return f"On a trained curve the loss stays below {work.curve.max:.3g} as sampled, while {rise}."
    return f"A path is proved to stay within a loss of {found.bound.value:.3g}, while {rise}."


def _sentences(work: _Work) -> tuple[str, ...]:
    line, merged, curve, found = work.line, work.merged, work.curve, work.constructed
    lines = [
        f"{work.ends.origin} Their losses are {line.loss[0]:.3g} and {line.loss[-1]:.3g}.",
        f"Straight line: a barrier of {line.value:.3g} above the mean of the ends, at {line.t_max:.2f} of the way; "
        "found by looking, so a lower bound.",
    ]
    if merged is not None:
        change = "falls" if merged.aligned.value < merged.naive.value else "does not fall"
        lines.append(
            f"Aligned units (permuted to match weights, which changes no output): the barrier {change} to "
            f"{merged.aligned.value:.3g}; the average of the two networks has a loss of {merged.aligned_loss:.3g} with "
            f"it, and {merged.naive_loss:.3g} without."
        )
    lines.append(
        f"Trained curve (quadratic Bezier): the largest loss seen on it is {curve.max:.3g}, against "
        f"{float(curve.line_loss.max()):.3g} on the line."
    )
    if found is None:
        return (*lines, f"Constructive path: none, since {work.refusal}")
    annexes = max(float(one.losses.max()) for one in found.conditions)
    dropout = max(one.bound for one in found.dropout)
    lines += [
        f"Constructive path: {len(found.bound.kinds)} straight segments, on each of which the outputs are affine, as "
        f"the weights show; so its greatest loss is that of one of its points, {found.bound.value:.3g}."
        + ("" if found.bound.error is None else f" At most {100 * found.bound.error:.1f}% of answers go wrong on it."),
        f"It goes by way of half-size networks on half of the frozen features, whose losses are at most {annexes:.3g}. "
        f"Dropping half of the units instead leaves a loss of {dropout:.3g}: that condition explains "
        + ("less." if dropout > annexes else "as much."),
    ]
    return tuple(lines)


def _results(work: _Work) -> dict[str, Result]:
    results: dict[str, Result] = {"straight line": work.line, "trained curve": work.curve}
    if work.merged is not None:
        results["merge"] = work.merged
    if work.constructed is not None:
        found = work.constructed
        for i, name in enumerate(("first", "second")):
            results[f"feature condition of the {name} solution"] = found.conditions[i]
            results[f"dropout stability of the {name} solution"] = found.dropout[i]
        results["bound of the constructive path"] = found.bound
        results["loss along the constructive path"] = found.profile
    return results


def _charts(work: _Work) -> tuple[Drawable, ...]:
    lines = {"straight line": (work.line.t, work.line.loss)}
    if work.merged is not None:
        lines["aligned units"] = (work.merged.aligned.t, work.merged.aligned.loss)
    lines["trained curve"] = (work.curve.t, work.curve.loss)
    found = work.constructed
    if found is None:
        return (path_chart(lines, {}),)
    lines["constructive path"] = (found.profile.s, found.profile.loss)
    levels = {"dropout": max(one.bound for one in found.dropout)}
    layers = paths.LayerLosses(condition=found.conditions[0], dropout=found.dropout[0])
    return path_chart(lines, levels), *layers.charts()


def _table(work: _Work) -> Table:
    ends = max(float(work.line.loss[0]), float(work.line.loss[-1]))
    rows: list[tuple[Any, ...]] = [("the ends", ends, "exact"), ("straight line", _top(work.line), "sampled")]
    if work.merged is not None:
        rows.append(("aligned units", _top(work.merged.aligned), "sampled"))
    rows.append(("trained curve", work.curve.max, "sampled"))
    if work.constructed is not None:
        rows.append(("constructive path", work.constructed.bound.value, "proved"))
        rows.append(("dropout", max(one.bound for one in work.constructed.dropout), "exact, of the masks drawn"))
    return Table(
        name="largest-losses",
        title="The largest loss on each way",
        columns=("way", "largest loss", "stands"),
        rows=tuple(rows),
        caption="Sampled maxima are lower bounds.",
    )


def _top(line: paths.Barrier) -> float:
    """The largest loss that was seen on a line, at its refined peak too."""
    return max(float(line.loss.max()), line.value + float(line.loss[0] + line.loss[-1]) / 2)
