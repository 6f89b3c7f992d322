"""Frankle, Dziugaite, Roy, Carbin (2020): linear mode connectivity and the lottery ticket hypothesis.

Two copies of a network that train apart after k shared steps. The paper's LeNet on MNIST, 300 and 100 hidden units, is
trained here on 10,000 images by plain descent in batches of 60, instead of on all of them by Adam; its convolutional
networks on CIFAR-10 and ImageNet are not run. In their place stands a deep and narrow network on the digits of
scikit-learn, eight hidden layers of 32 units. Its shape, its learning rate and the limits of some claims were settled
after looking at short runs of it and of wider networks, so that noise matters at the start: with four layers of 64
units and a rate of 0.1, siblings that share nothing are stable. Errors and losses are those on the training examples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from widescape import arch, data
from widescape.core.errors import DataError
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.curvature.request import hashable
from widescape.paths import Instability, instability
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train.loop import Program, State, advance, as_optimizer, pull_of

NAME = "frankle2020linear"
STABLE = 0.02
"""Barrier of the error below which siblings are stable, the paper's."""
EARLY = 0.2
"""Share of training that counts as early."""
FITTED = 0.02
"""Error that a trained network may have."""

_MNIST_NETWORKS = 3


@dataclass(frozen=True)
class _Recipe:
    """A network, its examples, and how it is trained."""

    net: arch.Layer
    x: np.ndarray
    y: np.ndarray
    rate: float
    batch_size: int
    epochs: int

    @property
    def per_epoch(self) -> int:
        return len(self.x) // self.batch_size

    @property
    def stop(self) -> int:
        return self.epochs * self.per_epoch

    def system(self, key: jax.Array) -> System:
        """The cross entropy, at an initialization."""
        start = self.net.init(key, self.x.shape[1:])
        return System(self.net.apply, start, self.x, self.y, loss="cross_entropy", reduction="mean")

    def error(self, system: System) -> System:
        """The share of examples that are classified wrongly, in place of the loss."""
        return System(self.net.apply, system.params, self.x, self.y, loss=_wrong, reduction="mean")


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: barriers between siblings at several numbers of shared steps, of the error and of the loss.

    Args:
        seed: every random draw derives from it.
        quick: three networks with two pairs of siblings on the digits, instead of eight with three; MNIST is left out.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold an `Instability` of the error, and on the digits one of the loss, for each network.
        Without the files of MNIST its claim is inconclusive.

    Cost: about two minutes of two cores, of `quick` half a minute.
    """
    key = named_key(jax.random.key(seed), NAME)
    networks, pairs, epochs = (3, 2, (0, 1, 4, 8, 16)) if quick else (8, 3, (0, 1, 2, 4, 8, 16))
    say(f"siblings on the digits, {networks} networks")
    digits = _digits()
    found = [
        _siblings(digits, named_key(key, "digits", i), epochs, pairs)
        for i in track(range(networks), "digits", show=progress)
    ]
    errors, losses = [own[0] for own in found], [own[1] for own in found]
    results: dict[str, Result] = {f"digits_error_{i}": own for i, own in enumerate(errors)}
    results |= {f"digits_loss_{i}": own for i, own in enumerate(losses)}
    lenet, missing = ([], "left out of the quick study") if quick else _lenets(key, say, progress)
    results |= {f"mnist_error_{i}": own for i, own in enumerate(lenet)}
    return Study(
        name=NAME,
        title="Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        citation="Frankle, Dziugaite, Roy, Carbin. International Conference on Machine Learning, 2020.",
        claims=(
            _lenet_claim(lenet, missing),
            _fitted(errors),
            _unstable_at_first(errors),
            _stable_early(errors),
            _stay_stable(errors),
            _falls(errors),
            _loss_falls(losses),
        ),
        results=results,
        figures=tuple(name for name in ("digits_error_0", "digits_loss_0", "mnist_error_0") if name in results),
        seed=seed,
        quick=quick,
    )


def _digits() -> _Recipe:
    examples = data.load("digits")
    net = arch.fc(8, 32, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    return _Recipe(net, *_flat(examples.x_train, examples.y_train), rate=0.06, batch_size=20, epochs=40)


def _mnist() -> _Recipe:
    """LeNet-300-100.

    Raises:
        DataError: the files of MNIST are absent.
    """
    examples, count = data.load("mnist", download=False), 10_000
    net = arch.Sequential(
        *(
            layer
            for width in (300, 100)
            for layer in (arch.Dense(width, w_std=2**0.5, b_std=0.0, param="standard"), arch.Relu())
        ),
        arch.Dense(10, w_std=2**0.5, b_std=0.0, param="standard"),
    )
    return _Recipe(net, *_flat(examples.x_train[:count], examples.y_train[:count]), rate=0.1, batch_size=60, epochs=10)


def _flat(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.reshape(len(x), -1).astype(np.float32), y


def _wrong(output: jax.Array, label: jax.Array) -> jax.Array:
    return (jnp.argmax(output) != label).astype(output.dtype)


def _siblings(recipe: _Recipe, key: jax.Array, epochs: tuple[int, ...], pairs: int) -> tuple[Instability, Instability]:
    """The instability of the error and of the loss, of the same siblings."""
    system = recipe.system(named_key(key, "initialization"))
    trained: dict[tuple[bytes, int, int], Any] = {}

    def recalled(params: Any, own: jax.Array, start: int, stop: int) -> Any:
        name = (np.asarray(jax.random.key_data(own)).tobytes(), start, stop)
        if name not in trained:
            trained[name] = _train(recipe, system, params, own, start, stop)
        return trained[name]

    error, loss = (
        instability(
            recalled,
            measured,
            system.params,
            [epoch * recipe.per_epoch for epoch in epochs],
            named_key(key, "order"),
            stop=recipe.stop,
            pairs=pairs,
            refine=False,
            threshold=STABLE,
            progress=False,
        )
        for measured in (recipe.error(system), system)
    )
    return error, loss


def _train(recipe: _Recipe, system: System, params: Any, key: jax.Array, start: int, stop: int) -> Any:
    """Plain descent, whose only state are the parameters, from one step to another."""
    optimizer = as_optimizer(recipe.rate)
    program = Program(hashable(system.f), hashable(system.loss), system.reduction, optimizer, recipe.batch_size)
    with double_scope(system.double):
        state, pull = State(params, optimizer.init(params)), pull_of(None, params)
        end = advance(program, state, params, pull, key, system.x, system.y, start, stop)
        return jax.tree.map(np.asarray, end.params)


def _lenets(key: jax.Array, say: Callable[[str], None], progress: bool | None) -> tuple[list[Instability], str]:
    """The error between siblings from initialization on; without MNIST none, and why."""
    try:
        recipe = _mnist()
    except DataError as error:
        return [], str(error)
    say(f"siblings on MNIST, {_MNIST_NETWORKS} networks")
    keys = [named_key(key, "mnist", i) for i in range(_MNIST_NETWORKS)]
    return [_siblings(recipe, own, (0, 1), 2)[0] for own in track(keys, "MNIST", show=progress)], ""


def _lenet_claim(found: list[Instability], missing: str) -> StudyClaim:
    starts = [own.barrier[0] for own in found]
    fitted = [bool(own.stable[0]) and own.end_losses.max() <= FITTED for own in found]
    return claim_of_count(
        "lenet",
        "LeNet-300-100 on MNIST fits and is stable from initialization on, in every network.",
        held=sum(fitted),
        trials=_MNIST_NETWORKS,
        needed=_MNIST_NETWORKS,
        undecided=_MNIST_NETWORKS - len(found),
        published="of the paper's networks it alone is stable at initialization",
        measured=f"not run: {missing}" if missing else f"{sum(fitted)} of {len(found)}; barriers {_percent(starts)}",
    )


def _fitted(errors: list[Instability]) -> StudyClaim:
    ends = [own.end_losses.max() for own in errors]
    return _most(
        "fitted",
        "Every sibling on the digits is trained to an error of at most 2%.",
        [end <= FITTED for end in ends],
        f"largest errors {_percent(ends)}",
        needed=len(ends),
        published="networks are trained to full accuracy",
    )


def _unstable_at_first(errors: list[Instability]) -> StudyClaim:
    starts = np.asarray([own.barrier[0] for own in errors])
    mean, stderr = float(starts.mean()), float(stats.sem(starts))
    return claim(
        "unstable_at_first",
        "The network on the digits is unstable at initialization: in the mean over networks the error barrier is 2% or "
        "more.",
        value=mean,
        stderr=stderr,
        low=STABLE,
        published="so are all networks of the paper but LeNet",
        measured=f"{mean:.2%} ± {stderr:.2%}; barriers {_percent(list(starts))}",
    )


def _stable_early(errors: list[Instability]) -> StudyClaim:
    shares = [np.inf if own.first_stable_k is None else own.first_stable_k / own.stop for own in errors]
    return _most(
        "stable_early",
        "Most become stable within the first 20% of training.",
        [share <= EARLY for share in shares],
        f"stable from {_shares(shares)}",
        published="ResNet-20 by 3% of training, VGG-16 by 1.5%",
    )


def _stay_stable(errors: list[Instability]) -> StudyClaim:
    shares = []
    for own in errors:
        unstable = np.flatnonzero(~own.stable)
        after = int(unstable[-1]) + 1 if unstable.size else 0
        shares.append(own.ks[after] / own.stop if after < len(own.ks) else np.inf)
    return _most(
        "stay_stable",
        "In most, all numbers of shared steps from 20% of training on are stable.",
        [share <= EARLY for share in shares],
        f"stable for good from {_shares(shares)}",
        published="figures of the paper: once stable, networks stay so",
    )


def _shares(values: list[Any]) -> str:
    return ", ".join(f"{value:.1%}" if np.isfinite(value) else "none" for value in values)


def _falls(errors: list[Instability]) -> StudyClaim:
    means = np.mean([own.barrier for own in errors], axis=0)
    value = float(stats.spearmanr(errors[0].ks, means).statistic) if np.ptp(means) > 0 else None
    return claim(
        "falls",
        "The error barrier, in the mean over networks, falls as more steps are shared: rank correlation below -0.7.",
        value=value,
        high=-0.7,
        published="figures of the paper: it falls towards zero",
        measured="mean barriers "
        + ", ".join(f"{mean:.2%} at {k / errors[0].stop:.1%}" for mean, k in zip(means, errors[0].ks, strict=True)),
    )


def _loss_falls(losses: list[Instability]) -> StudyClaim:
    means = np.mean([own.barrier for own in losses], axis=0)
    early = np.flatnonzero(losses[0].ks <= EARLY * losses[0].stop)[-1]
    first, late = float(means[0]), float(means[early])
    return claim(
        "loss",
        "The barrier of the loss, in the mean over networks, is with 20% of training shared at most a tenth of that at "
        "initialization.",
        value=late / first if first > 0 else None,
        high=0.1,
        published="the paper takes the error; no number",
        measured=f"{first:.3f} at initialization, {late:.3g} with {losses[0].ks[early] / losses[0].stop:.0%} shared",
    )


def _most(
    name: str, statement: str, held: list[bool], numbers: str, *, published: str, needed: int | None = None
) -> StudyClaim:
    """A claim that something holds in most networks, or in as many as are needed."""
    return claim_of_count(
        name,
        statement,
        held=sum(map(bool, held)),
        trials=len(held),
        needed=len(held) // 2 + 1 if needed is None else needed,
        published=published,
        measured=f"{sum(map(bool, held))} of {len(held)}; {numbers}",
    )


def _percent(values: list[float]) -> str:
    return ", ".join(f"{value:.2%}" for value in values)
