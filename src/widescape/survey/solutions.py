"""Two solutions of a network, for the chapters that compare two of them."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from widescape import arch, train
from widescape.core.random import named_generator, named_key
from widescape.curvature import System
from widescape.data import standardize
from widescape.survey.chapter import Context, LeftOutError, Stopwatch, adam_rate, network_and_data, pairs_of_positions

BATCH = 50
_WORSE = 2.0  # times the loss of the second solution, from which the given parameters count as no solution


@dataclass(frozen=True)
class Solutions:
    """Two solutions of one system, and how they came about.

    Attributes:
        system: on the examples that were trained on, at the start of the first or the given parameters.
        net: its layers; None where they are not known.
        rows: which of the training examples these are.
        start: random parameters, from which one of the two was trained.
        a, b: the solutions.
        share: of the work that was asked for, what the budget allowed.
        steps: of Adam, each.
        origin: where the two come from, in words.
        sizing: how much was trained, in one sentence.
    """

    system: System
    net: arch.Layer | None
    rows: np.ndarray
    start: Any
    a: Any
    b: Any
    share: float
    steps: int
    origin: str
    sizing: str


def two_solutions(context: Context, examples: int, width: int | None, steps: int, *, more: int = 0) -> Solutions:
    """Train two networks from two starts, or one beside the given parameters if these are a solution.

    Chapters of one survey that ask for the same examples, width and steps get the same two networks, trained once.

    Args:
        context: what the chapter received.
        examples: training examples at most.
        width: of the hidden layers of an architecture without given parameters; None for its own.
        steps: of Adam on batches of 50, for each; fewer where they would take more than half of the budget.
        more: gradients of the loss on all these examples that are to follow, and share that half.

    Raises:
        LeftOutError: there is no system and no network with data, or training diverges.
    """
    key = ("two solutions", examples, width, steps)
    if key not in context.made:
        context.say("training two solutions")
        context.made[key] = _made(context, examples, width, steps, more)
    found: Solutions = context.made[key]
    return found


def _made(context: Context, examples: int, width: int | None, steps: int, more: int) -> Solutions:
    if context.system is not None:
        whole, net = context.system, arch.network_of(context.system.f)
    else:
        whole, net = _of_architecture(context, width)
    count = min(whole.num_examples, examples)
    order = np.sort(named_generator(jax.random.key(context.seed), "paths").permutation(whole.num_examples)[:count])
    system = whole.on(jax.tree.map(lambda leaf: leaf[order], whole.x), np.asarray(whole.y)[order])
    timed = context.system is not None or pairs_of_positions(*network_and_data(context)) > 1
    share = affordable(system, steps, more, context.budget) if timed and context.budget is not None else 1.0
    steps = max(20, round(share * steps)) if share < 1 else steps
    other = other_start(system, net, named_key(jax.random.key(context.seed), "second solution"))
    b, loss_b = trained(system, other, steps, context.seed + 1)
    a, loss_a = system.params, system.value()
    start = other
    origin = "The given parameters are the first solution; the second was trained from another start."
    if context.system is None or loss_a > _WORSE * loss_b:
        start = system.params
        a, loss_a = trained(system, start, steps, context.seed)
        origin = (
            "Both were trained, from two random starts."
            if context.system is None
            else "The given parameters are no solution yet, so training went on from them; the second was trained from "
            "another start."
        )
    if net is None:
        origin += " Its start has the first one's numbers, shuffled within every array."
    narrowed = "" if width is None or context.system is not None else f", hidden width {width}"
    sizing = f"Measured on {count:,} of {whole.num_examples:,} examples{narrowed}, {steps:,} steps of Adam each" + (
        "; --full takes more of everything." if context.budget is not None else "."
    )
    return Solutions(system, net, order, start, a, b, share, steps, origin, sizing)


def affordable(system: System, steps: int, more: int, budget: float) -> float:
    """The share of the steps of two runs, and of gradients on all examples, that takes half of the budget at most."""
    rows = slice(0, min(BATCH, system.num_examples))
    batch = system.on(jax.tree.map(lambda leaf: leaf[rows], system.x), np.asarray(system.y)[rows])
    seconds = []
    for part in (batch, system):
        part.grad()  # compiles
        watch = Stopwatch()
        part.grad()
        seconds.append(watch.seconds)
    return min(1.0, 0.5 * budget / max(2 * steps * seconds[0] + more * seconds[1], 1e-9))


def other_start(system: System, net: arch.Layer | None, key: jax.Array) -> Any:
    """Random parameters of a known network; those of another function shuffled within every array."""
    if net is not None:
        dtype = "float64" if system.double else "float32"
        return jax.tree.map(np.asarray, net.init(key, np.shape(system.x)[1:], dtype=dtype))
    generator = named_generator(key, "shuffle")
    return jax.tree.map(lambda leaf: generator.permutation(np.ravel(leaf)).reshape(np.shape(leaf)), system.params)


def trained(system: System, start: Any, steps: int, seed: int) -> tuple[Any, float]:
    """Parameters after Adam, at a rate in units of the size of the weights; and their loss."""
    rate = adam_rate(system.vector(start))
    own, batch = system.starting_at(start), min(BATCH, system.num_examples)
    run = train.fit(own, optax.adam(rate), steps, batch, key=jax.random.key(seed), progress=False)
    if not run.status.ok:
        raise LeftOutError(f"it trains solutions by Adam at a rate of {rate:.2g}, and the loss became infinite.")
    return own.unravel(run.w), float(run.loss[-1])


def _of_architecture(context: Context, width: int | None) -> tuple[System, arch.Layer]:
    """The network with narrower hidden layers, at random parameters, under cross entropy."""
    net, data = network_and_data(context)
    if width is not None:
        net = net.with_hidden_width(width)
    x, _ = standardize(data.x_train, data.x_test, per="auto")
    params = net.init(named_key(jax.random.key(context.seed), "first solution"), x.shape[1:], dtype="float32")
    inputs = np.asarray(x, np.float32)
    return System(net.apply, params, inputs, data.y_train, loss="cross_entropy", reduction="mean"), net
