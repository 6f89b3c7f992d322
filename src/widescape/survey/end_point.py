"""Chapter: where training ended: a minimum, a saddle, or neither; and what an added neuron did there."""

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from widescape import landscape, predict, train
from widescape.core.errors import AssumptionWarning, NonDifferentiableWarning, NonFiniteError, NonSmoothWarning
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.curvature import System
from widescape.data import standardize
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch, adam_rate, network_and_data

TITLE = "The end of training"
_LAM = 1e-2
_SAID = (AssumptionWarning, NonDifferentiableWarning, NonSmoothWarning)  # warnings that become sentences
_KINDS = {
    "NOT_STATIONARY": "not stationary",
    "GRADIENT_FLAT": "gradient-flat and not stationary",
    "STALLED": "not stationary",
    "STRICT_SADDLE": "a strict saddle",
    "DEGENERATE_SADDLE": "a degenerate saddle",
    "GLOBAL_MINIMUM": "a global minimum on these examples",
    "LOCAL_MIN_CANDIDATE": "a possible local minimum",
}
_STEPS_PER_LOOK = 4  # of Newton's method, in the time in which a point is classified
_TRIED = 20  # steps of training, for their time
_CRITICAL = 1e-10  # squared gradient, up to which given parameters are an end already
_SMALL = 2000  # parameters up to which Hessians are decomposed, and critical points are searched for


@dataclass(frozen=True)
class _Size:
    """How much is done: outputs, hidden width where no parameters were given, steps of Adam and of Newton's method."""

    outputs: int
    width: int | None
    steps: int
    searches: int
    restarts: int


_QUICK = _Size(200, 8, 2000, 25, 20)
_SMALLEST = _Size(60, 4, 60, 3, 4)
_FULL = _Size(1000, 16, 20_000, 200, 200)


@dataclass(frozen=True)
class _Work:
    """The end of training, where a search leads from there, and the same training with an added neuron."""

    system: System
    given: bool
    steps: int
    before: float
    after: float
    point: landscape.PointReport
    search: landscape.CPReport | None
    augmented: landscape.TrainReport
    escape: landscape.EscapeReport
    residual: float
    unmet: str
    sizing: str


def chapter(context: Context) -> Chapter:
    """What the end point of training is, its certificate, and what one more neuron for each output did."""
    watch = Stopwatch()
    size = _FULL if context.budget is None else (_QUICK if context.budget >= 5 else _SMALLEST)
    system, sizing = _subject(context, size)
    with warnings.catch_warnings(record=True) as caught:
        for kind in _SAID:
            warnings.simplefilter("always", kind)
        try:
            work = _measured(context, system, size, sizing, watch)
        except NonFiniteError as error:
            raise LeftOutError(f"it follows training to its end: {error}") from error
    for other in (w for w in caught if not issubclass(w.category, _SAID)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    notes = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, _SAID)))
    results: dict[str, Result] = {"end of training": work.point, "added neuron": work.augmented}
    results["escape value"] = work.escape
    if work.search is not None:
        results["search for a critical point"] = work.search
    return Chapter(
        name="end-of-training",
        title=TITLE,
        question="Where did training end: at a minimum, a saddle, or neither; and would an added neuron have helped?",
        verdict=_verdict(work),
        sentences=(*_sentences(work), *notes),
        sizing=work.sizing,
        results=results,
        charts=(*work.augmented.charts(), *work.point.charts()),
        tables=(_table(work),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _subject(context: Context, size: _Size) -> tuple[System, str]:
    """The user's system at its parameters, or a narrow network at random ones, on few examples, in float64."""
    narrowed = ""
    if context.system is not None:
        whole = context.system
        if whole.mixes_examples:
            raise LeftOutError("its certificates need outputs that belong to one example each.")
    else:
        net, data = network_and_data(context)
        if size.width is not None:
            net = net.with_hidden_width(size.width)
            narrowed = f", hidden width {size.width}"
        x, _ = standardize(data.x_train, data.x_test, per="auto")
        key = named_key(jax.random.key(context.seed), "network of the end point")
        params = net.init(key, x.shape[1:], dtype="float64")
        targets = predict.one_hot(data.y_train, data.class_count)
        whole = System(net.apply, params, x, targets, reduction="mean")
    count = min(whole.num_examples, max(2, size.outputs // whole.num_outputs))
    order = np.sort(named_generator(jax.random.key(context.seed), "end point").permutation(whole.num_examples)[:count])
    part = whole.on(jax.tree.map(lambda leaf: leaf[order], whole.x), np.asarray(whole.y)[order])
    mean = System(part.f, part.params, part.x, part.y, loss=part.loss, reduction="mean").as_float64()
    return mean, f"Measured on {count:,} of {whole.num_examples:,} examples{narrowed}"


def _measured(context: Context, system: System, size: _Size, sizing: str, watch: Stopwatch) -> _Work:
    rate = adam_rate(system.flat)
    steps = _affordable(context, system, size, rate, watch)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))
    context.say(f"{steps:,} steps of training, without and with an added neuron")
    end = system.params if np.sum(system.grad() ** 2) <= _CRITICAL else _trained(system, adam, steps, rate)
    model = landscape.augment_exp(system, coords="scaled", center=system.x)
    start = model.init(named_key(jax.random.key(context.seed), "added neuron"), system.params)
    augmented = landscape.train_augmented(
        model, system.loss, start, system, lam=_LAM, opt=adam, steps=steps, progress=False
    )
    context.say("what the end point is")
    at_end = system.starting_at(end)
    outputs, inputs = at_end.F(), _rows(system.x)
    groups = landscape.group_residual(outputs, inputs, system.y, system.loss)
    phi, outer = landscape.model_basis(at_end)
    small = system.num_params <= _SMALL
    begin = watch.seconds
    point = landscape.classify_point(
        at_end, end, phi=phi if small else None, Q=outer if small else None, group_residual=groups
    )
    search = None
    if small and size.searches:
        context.say("where a second-order search leads from there")
        room = np.inf if context.budget is None else context.budget / 4 / (watch.seconds - begin)
        most = int(min(size.searches, max(3, _STEPS_PER_LOOK * room)))
        (search,) = landscape.find_critical_points(at_end, [end], max_steps=most, progress=False)
    escape = landscape.escape_value(outputs, inputs, system.y, system.loss, restarts=size.restarts)
    more = "" if context.budget is None else "; --full takes more of everything"
    return _Work(
        system=system,
        given=context.system is not None,
        steps=steps,
        before=system.value(),
        after=at_end.value(),
        point=point,
        search=search,
        augmented=augmented,
        escape=escape,
        residual=float(np.linalg.norm(groups, axis=1).max()) / system.num_examples,
        unmet="" if small else f"With {system.num_params:,} parameters the Hessian was not decomposed.",
        sizing=f"{sizing}, {steps:,} steps of Adam on all of them{more}.",
    )


def _trained(system: System, adam: optax.GradientTransformation, steps: int, rate: float) -> Any:
    run = train.fit(system, adam, steps, progress=False)
    if not run.status.ok:
        raise LeftOutError(f"it trains by Adam at a rate of {rate:.2g}, and the loss became infinite.")
    return system.unravel(run.w)


def _rows(x: Any) -> np.ndarray:
    """The inputs as vectors (n, d), those of a PyTree joined."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
    return np.concatenate(leaves, axis=1)


def _affordable(context: Context, system: System, size: _Size, rate: float, watch: Stopwatch) -> int:
    """Steps of which those of plain training take a sixth of the budget."""
    if context.budget is None:
        return size.steps
    adam = optax.adam(rate)
    for _ in range(2):  # the first compiles
        begin = watch.seconds
        train.fit(system, adam, _TRIED, progress=False)
        seconds = (watch.seconds - begin) / _TRIED
    return int(np.clip(context.budget / 6 / seconds, _TRIED, size.steps))


def _verdict(work: _Work) -> str:
    alone, beside = work.after, float(work.augmented.loss[-1])
    kind = f"Training ended at a point that is {_KINDS[work.point.kind.name]}."
    helped = "The neuron did not help" if beside >= alone else "The neuron helped here"
    return f"{kind} {helped}: with it the network alone ends at a loss of {beside:.3g} instead of {alone:.3g}."


def _way(work: _Work) -> str:
    if work.before == work.after:
        return f"The given parameters, of loss {work.after:.3g}, are a critical point already"
    start = "the given parameters" if work.given else "random parameters"
    return f"From {start} training brought the loss from {work.before:.3g} to {work.after:.3g}"


def _sentences(work: _Work) -> tuple[str, ...]:
    point, run, escape = work.point, work.augmented, work.escape
    least = point.lambda_min
    curved = "" if least is None else f", and the smallest eigenvalue of the Hessian {least:.3g}"
    lines = [
        f"{_way(work)}; the gradient's norm is {point.grad_norm:.2g} there{curved}. {point.kind}",
    ]
    if work.unmet:
        lines.append(work.unmet)
    if point.witness_value is not None:
        far = point.witness_distance or 0.0
        lines.append(
            f"A point at distance {far:.2g} has a loss that is lower by {point.value - point.witness_value:.2g}."
        )
    if work.search is not None:
        lines.append(
            f"A second-order search (Newton-MR) went on from there to a loss of {work.search.loss:.3g} and a squared "
            f"gradient of {work.search.g2:.1e} in {work.search.num_steps} steps. {work.search.status}"
        )
    lines += [
        f"The largest group residual, over the number of examples, is {work.residual:.2g}: it is zero exactly where no "
        "function of the inputs does better on them.",
        f"With one exponential neuron added to each output, trained from the same start, the objective ended at "
        f"{run.modified_loss[-1]:.3g}, and the loss of the network alone at {run.loss[-1]:.3g} "
        f"({work.after:.3g} without the neuron). {run.status}",
        f"For the outputs at the end of plain training such neurons alone could bring the objective from "
        f"{escape.loss:.3g} to {escape.value:.3g} or less"
        + (", by weights that grow without bound." if escape.at_infinity else ".")
        + " That is no gain: nothing of it is in the network.",
    ]
    return tuple(lines)


def _table(work: _Work) -> Table:
    run = work.augmented
    rows = (
        ("trained alone", work.after, work.after, None),
        ("with an added neuron", float(run.modified_loss[-1]), float(run.loss[-1]), float(run.contribution[-1])),
    )
    return Table(
        name="added-neuron",
        title="Training with and without an added neuron",
        columns=("training", "objective", "loss of the network", "largest contribution of the neuron"),
        rows=rows,
        caption="Losses are means over the examples. The second objective has the neuron and its penalty in it.",
    )
