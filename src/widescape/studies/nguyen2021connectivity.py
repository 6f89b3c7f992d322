"""Nguyen, Brechet, Mondelli (2021): when are solutions connected in deep networks?

The paper's experiment on MNIST, ten hidden layers of 245 units, about the square root of the 60,000 images, runs with
`full`; else with smaller networks on fewer images. Annexes take Adam, and networks as many steps as they are given,
where the paper stops once nothing is wrong. The digits are an experiment of our own in the same spirit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
import optax

from widescape import arch, data
from widescape.core.errors import DataError
from widescape.core.evidence import EXACT, bound
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.paths.barriers import barrier
from widescape.paths.condition import feature_condition
from widescape.paths.connection import connect
from widescape.paths.dropout import dropout_stability
from widescape.paths.layered import Layered
from widescape.paths.path_proof import PathBound, path_bound
from widescape.paths.profiles import evaluate_path
from widescape.paths.side_by_side import LayerLosses, PathLosses
from widescape.paths.tradeoff import FeatureTradeoff, feature_tradeoff
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train import fit

NAME = "nguyen2021connectivity"
NEAR, SMALL = 2.0, 0.02
"""A loss stays near those of networks if it is at most `NEAR` times the largest of them, or at most `SMALL`."""
FAR = 10.0
"""A loss is far above another one if it is at least `FAR` times that."""

_BATCH = 100
_HELD_OUT = 360  # of the 1,797 digits
_PER_SEGMENT = 5
_LINE = "on the straight line the loss rises above the mean of the ends"


@dataclass(frozen=True)
class _Scale:
    """The size of an experiment.

    Attributes:
        images: training examples; None for all.
        depth, width: hidden layers, and units of each.
        seeds: networks that are trained.
        rate: of the optimizer of the networks.
        epochs: of training a network.
        annex_epochs: of training each annex.
        draws: subsets of each layer that are tried.
        masks: dropout masks of each layer.
        widths: units of further networks, of two hidden layers, for the trade-off.
        seen: training examples on which the trade-off is measured; None for all.
        probes: widths of the networks that memorize them.
    """

    images: int | None
    depth: int
    width: int
    seeds: int
    rate: float
    epochs: int
    annex_epochs: int
    draws: int
    masks: int
    widths: tuple[int, ...] = ()
    seen: int | None = None
    probes: tuple[int, ...] = ()


_DIGITS = _Scale(None, 4, 64, seeds=2, rate=1e-3, epochs=100, annex_epochs=300, draws=2, masks=60)
_QUICK = _Scale(
    2000, 4, 64, seeds=2, rate=3e-3, epochs=100, annex_epochs=400, draws=4, masks=40, widths=(32, 64), seen=500,
    probes=(16, 256),
)  # fmt: skip
_DEFAULT = _Scale(
    10_000, 10, 100, seeds=2, rate=2e-3, epochs=80, annex_epochs=100, draws=4, masks=40, widths=(50, 100, 200),
    seen=5000, probes=(8, 32, 128, 512),
)  # fmt: skip
_PAPER = _Scale(
    None, 10, 245, seeds=10, rate=1e-3, epochs=200, annex_epochs=400, draws=20, masks=200, widths=(50, 100, 200, 300),
    probes=(8, 32, 128, 512, 2048),
)  # fmt: skip


@dataclass(frozen=True)
class _Examples:
    """Flat inputs in single precision and labels, for training and for testing."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True)
class _Trained:
    """A network after training: as a function with data, and as a chain of layers."""

    system: System
    chain: Layered


@dataclass(frozen=True)
class _Experiment:
    """What was measured of some networks, and of the path between the first two."""

    layers: tuple[LayerLosses, ...]
    path: PathBound
    test: PathBound
    losses: PathLosses

    @property
    def ends(self) -> float:
        """The larger loss of the two connected networks."""
        return max(own.condition.net_loss for own in self.layers[:2])

    def results(self, name: str) -> dict[str, Result]:
        """The measurements by name."""
        found: dict[str, Result] = {f"{name}_layers_{i}": own for i, own in enumerate(self.layers)}
        return found | {f"{name}_path": self.path, f"{name}_test_path": self.test, f"{name}_losses": self.losses}


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: annexes against dropout at every layer, the path between two networks, and the trade-off.

    Args:
        seed: every random draw derives from it.
        quick: 2,000 images of MNIST and four hidden layers of 64 units, instead of 10,000 and ten of 100.
        full: the paper's size: 60,000 images, ten hidden layers of 245 units, ten networks, 200 epochs, 20 draws of
            subsets and 200 of masks. For an accelerator, or days.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`. Where MNIST is absent and cannot be fetched, the claims about it are inconclusive.

    Raises:
        ValueError: both `quick` and `full`.

    Cost: about ten minutes on two cores, of `quick` about a minute.
    """
    if quick and full:
        raise ValueError("`quick` and `full` exclude each other; choose one of them.")
    scale = _QUICK if quick else _PAPER if full else _DEFAULT
    key = named_key(jax.random.key(seed), NAME)
    say(_words("digits", _DIGITS))
    digits, _ = _experiment(_digits(seed), _DIGITS, optax.adam, named_key(key, "digits"), progress)
    results, claims = digits.results("digits"), _digits_claims(digits)
    try:
        examples = _mnist(seed, scale)
    except DataError as error:
        claims += (*_mnist_claims(None, scale, str(error)), *_tradeoff_claims(None, scale, str(error)))
    else:
        say(_words("MNIST", scale))
        own = named_key(key, "mnist")
        mnist, deep = _experiment(examples, scale, _nesterov, own, progress)
        say(f"trade-off over {len(scale.widths)} widths and two depths")
        tradeoff = _tradeoff(examples, scale, deep, own, progress)
        results |= {**mnist.results("mnist"), "tradeoff": tradeoff}
        claims += (*_mnist_claims(mnist, scale), *_tradeoff_claims(tradeoff, scale))
    shown = ("mnist_layers_0", "mnist_losses", "digits_layers_0", "digits_losses", "tradeoff")
    return Study(
        name=NAME,
        title="When Are Solutions Connected in Deep Networks?",
        citation="Nguyen, Brechet, Mondelli. Advances in Neural Information Processing Systems 34, 2021.",
        claims=claims,
        results=results,
        figures=tuple(name for name in shown if name in results),
        seed=seed,
        quick=quick,
    )


def _words(name: str, scale: _Scale) -> str:
    return f"{name}: {scale.seeds} networks of {scale.depth} hidden layers of {scale.width} units"


# Data and networks.


def _digits(seed: int) -> _Examples:
    """All digits, 360 drawn at random held out."""
    own = data.load("digits")
    x, y = np.concatenate([own.x_train, own.x_test]), np.concatenate([own.y_train, own.y_test])
    train, test = data.split(y, _HELD_OUT / len(y), seed=seed)
    return _flat(x[train], y[train], x[test], y[test])


def _mnist(seed: int, scale: _Scale) -> _Examples:
    """Images scaled to [-1, 1].

    Raises:
        DataError: the files are absent.
    """
    own = data.load("mnist")
    if scale.images is not None:
        own = own.subset(scale.images, min(scale.images, len(own.y_test)), seed=seed)
    return _flat(2 * own.x_train - 1, own.y_train, 2 * own.x_test - 1, own.y_test)


def _flat(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> _Examples:
    flat = (part.reshape(len(part), -1).astype(np.float32) for part in (x, test_x))
    return _Examples(next(flat), y, next(flat), test_y)


@cache
def _nesterov(rate: float) -> optax.GradientTransformation:
    """The paper's optimizer for fully connected networks."""
    return optax.sgd(rate, momentum=0.95, nesterov=True)


def _trained(
    examples: _Examples,
    scale: _Scale,
    sizes: tuple[int, int],
    optimizer: Callable[[float], optax.GradientTransformation],
    key: jax.Array,
    progress: bool | None,
) -> _Trained:
    """A ReLU network of (depth, width) with weights N(0, 2 / fan-in) and biases from 0, after training."""
    network = arch.fc(*sizes, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    params = network.init(named_key(key, "network"), examples.x.shape[1:], dtype="float32")
    system = System(network.apply, params, examples.x, examples.y, loss="cross_entropy", reduction="mean")
    steps = scale.epochs * (len(examples.y) // _BATCH)
    end = fit(system, optimizer(scale.rate), steps, _BATCH, key=named_key(key, "batches"), progress=progress)
    return _Trained(system, Layered.from_params(end.params, network))


# Measurements.


def _experiment(
    examples: _Examples,
    scale: _Scale,
    optimizer: Callable[[float], optax.GradientTransformation],
    key: jax.Array,
    progress: bool | None,
) -> tuple[_Experiment, _Trained]:
    """Networks with their annexes and masks, and the path between the first two; and the first network."""
    sizes, rule = (scale.depth, scale.width), cache(optimizer)
    nets = [_trained(examples, scale, sizes, rule, named_key(key, i), progress) for i in range(scale.seeds)]
    layers = tuple(
        _layer_losses(net.chain, examples, scale, named_key(key, i), progress)
        for i, net in enumerate(track(nets, "networks", show=progress))
    )
    (first, last), conditions = nets[:2], [own.condition for own in layers[:2]]
    path = connect(first.chain, last.chain, *conditions)
    bound_on = partial(path_bound, path, first.chain, last.chain, loss="cross_entropy", progress=progress)
    ends = [net.chain.to_params() for net in (first, last)]
    chains = System(
        Layered.__call__, first.chain, examples.x, examples.y, loss="cross_entropy", reduction="mean"
    ).as_float64()  # as the bound is computed
    losses = PathLosses(
        profile=evaluate_path(chains, path.map(Layered.as_float64), _PER_SEGMENT, progress=progress),
        line=barrier(first.system, *ends, progress=progress),
        levels={f"dropout, network {i}": own.dropout.bound for i, own in enumerate(layers[:2], 1)},
    )
    whole = bound_on(report0=conditions[0], report1=conditions[1], X=examples.x, y=examples.y)
    return _Experiment(layers, whole, bound_on(X=examples.test_x, y=examples.test_y), losses), first


def _layer_losses(
    chain: Layered, examples: _Examples, scale: _Scale, key: jax.Array, progress: bool | None
) -> LayerLosses:
    condition = feature_condition(
        chain,
        examples.x,
        examples.y,
        "cross_entropy",
        draws=scale.draws,
        steps=scale.annex_epochs * (len(examples.y) // _BATCH),
        batch=_BATCH,
        key=named_key(key, "annexes"),
        progress=progress,
    )
    dropout = dropout_stability(
        chain,
        examples.x,
        examples.y,
        "cross_entropy",
        draws=scale.masks,
        key=named_key(key, "masks"),
        progress=progress,
    )
    return LayerLosses(condition=condition, dropout=dropout)


def _tradeoff(
    examples: _Examples, scale: _Scale, deep: _Trained, key: jax.Array, progress: bool | None
) -> FeatureTradeoff:
    """Networks of two hidden layers of several widths, and a deep one."""
    nets = {
        f"2 x {width}": _trained(
            examples, scale, (2, width), _nesterov, named_key(key, "tradeoff", width), progress
        ).chain
        for width in scale.widths
    }
    nets[f"{scale.depth} x {scale.width}"] = deep.chain
    seen = slice(scale.seen)
    return feature_tradeoff(nets, examples.x[seen], examples.y[seen], widths=scale.probes, key=key, progress=progress)


# Claims.


def _digits_claims(own: _Experiment) -> tuple[StudyClaim, ...]:
    least = min(each.dropout.bound for each in own.layers)
    masks = len(own.layers[0].dropout.draw_losses[0])
    return (
        claim(
            "digits_path",
            "Digits: on the constructed path between two networks the loss is at most 0.02.",
            value=own.path.value,
            high=0.02,
            measured=_of_path(own),
            evidence=own.path.evidence("value"),
        ),
        claim(
            "digits_path_error",
            "Nowhere on it are more than 0.2% of the training examples wrong.",
            value=own.path.error,
            high=0.002,
            evidence=own.path.evidence("error"),
        ),
        _is_proved_value("digits_theorem", own),
        claim(
            "digits_line",
            f"Digits: {_LINE} by 0.8 or more.",
            value=own.losses.line.value,
            low=0.8,
            evidence=own.losses.line.evidence("value"),
        ),
        claim(
            "digits_dropout",
            f"Digits: with half of the units dropped the best of {masks} masks loses 0.4 or more at the worst layer.",
            value=least,
            low=0.4,
            measured=_each([each.dropout.bound for each in own.layers]),
            evidence=EXACT,
        ),
        claim(
            "digits_ratio",
            "That is at least 50 times the largest loss on the path.",
            value=least / own.path.value,
            low=50,
            evidence=EXACT,
        ),
    )


def _mnist_claims(own: _Experiment | None, scale: _Scale, reason: str = "") -> tuple[StudyClaim, ...]:
    near, far = (
        (None, None) if own is None else ([_near(each) for each in own.layers], [_far(each) for each in own.layers])
    )
    words = None if own is None else (_annexes_of(own), _each([each.dropout.bound for each in own.layers]))
    return (
        _counted(
            "mnist_annexes",
            f"MNIST: at every layer annexes on half of the features lose at most {NEAR:g} times what the network "
            f"does, or {SMALL:g}.",
            near,
            scale.seeds,
            words[0] if words else reason,
        ),
        _counted(
            "mnist_dropout",
            f"MNIST: the best dropout masks lose at least {FAR:g} times what the annexes do, each at its worst layer.",
            far,
            scale.seeds,
            words[1] if words else reason,
        ),
        *_mnist_path_claims(own, scale, reason),
    )


def _mnist_path_claims(own: _Experiment | None, scale: _Scale, reason: str) -> tuple[StudyClaim, ...]:
    most = 6 * (scale.depth + 1) - 1
    nothing = f"nothing: {reason}"
    return (
        claim(
            "mnist_path",
            f"MNIST: on the constructed path the loss is at most {NEAR:g} times that of its ends, or {SMALL:g}.",
            value=None if own is None else own.path.value,
            high=SMALL if own is None else max(NEAR * own.ends, SMALL),
            measured=nothing if own is None else _of_path(own),
            evidence=None if own is None else own.path.evidence("value"),
        ),
        _is_proved_value("mnist_theorem", own, reason),
        claim(
            "mnist_segments",
            "The path has at most 6 L - 1 segments, with L layers.",
            value=None if own is None else len(own.path.kinds),
            high=most,
            measured=nothing if own is None else None,
            evidence=EXACT,
        ),
        claim(
            "mnist_line",
            f"MNIST: {_LINE} by at least {FAR:g} times the largest loss on the path.",
            value=None if own is None else own.losses.line.value / own.path.value,
            low=FAR,
            measured=nothing
            if own is None
            else f"barrier {own.losses.line.value:.3g}, {own.path.value:.3g} on the path",
            evidence=bound("lower"),
        ),
    )


def _tradeoff_claims(own: FeatureTradeoff | None, scale: _Scale, reason: str = "") -> tuple[StudyClaim, ...]:
    """Whether features get better with the layer and with the width."""
    trials = len(scale.widths) + 1
    if own is None:
        errors, needed = [], []
    else:
        errors = [part[1:] for part in own.linear_errors]
        needed = [part[1:] for part in own.needed if np.isfinite(part[1:]).any()]
    last = [part[-1] for part in errors[: len(scale.widths)]]
    return (
        _counted(
            "readout_deeper",
            "A linear read-out of half of the last hidden layer gets no more wrong than one of the first.",
            [part[-1] <= part[0] for part in errors],
            trials,
            "; ".join(f"{part[0]:.2%} to {part[-1]:.2%}" for part in errors) or reason,
        ),
        _counted(
            "width_deeper",
            "To memorize from half of the last hidden layer takes no more width than from the first.",
            [part[-1] <= part[0] for part in needed],
            trials,
            "; ".join(f"{part[0]:g} to {part[-1]:g} units" for part in needed) or reason,
        ),
        _counted(
            "readout_wider",
            "With two hidden layers, the wider the network, the less a linear read-out of half of the last one gets "
            "wrong, or as little.",
            list(np.diff(last) <= 0),
            len(scale.widths) - 1,
            ", ".join(f"{share:.2%} at {width}" for share, width in zip(last, scale.widths, strict=False)) or reason,
        ),
    )


def _counted(name: str, statement: str, held: Sequence[bool] | None, trials: int, words: str) -> StudyClaim:
    """A claim that something holds in all trials, of which those that were not run are undecided."""
    outcomes = [] if held is None else [bool(own) for own in held]
    counts = f"{sum(outcomes)} of {len(outcomes)}; {words}" if outcomes else f"nothing: {words}"
    return claim_of_count(
        name,
        statement,
        held=sum(outcomes),
        trials=trials,
        needed=trials,
        undecided=trials - len(outcomes),
        measured=counts,
    )


def _near(own: LayerLosses) -> bool:
    return bool((own.condition.losses <= max(NEAR * own.condition.net_loss, SMALL)).all())


def _far(own: LayerLosses) -> bool:
    return bool(own.dropout.bound >= FAR * own.condition.losses.max())


def _annexes_of(own: _Experiment) -> str:
    found = [each.condition for each in own.layers]
    return "; ".join(f"at most {one.losses.max():.2g}, the network {one.net_loss:.2g}" for one in found)


def _is_proved_value(name: str, own: _Experiment | None, reason: str = "") -> StudyClaim:
    named = None if own is None else own.path.reports_value
    return claim(
        name,
        "The maximum over the path is the largest loss of the two networks and of their annexes, to 1e-6 of it.",
        value=None if own is None or named is None else abs(own.path.value / named - 1),
        high=1e-6,
        measured=f"nothing: {reason}" if own is None else None,
        evidence=EXACT,
    )


def _of_path(own: _Experiment) -> str:
    test = own.test.per_waypoint_error
    tested = "" if test is None else f"; test error {max(test[0], test[-1]):.1%} at the ends, at most {test.max():.1%}"
    return f"{own.path.value:.2g} in {len(own.path.kinds)} segments, ends {own.ends:.2g}{tested} at the points"


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
