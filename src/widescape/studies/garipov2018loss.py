"""Garipov et al. (2018): curves of low loss between two solutions; and Draxler et al. (2018), who found them by bands.

The paper's networks are convolutional, on CIFAR; here fully connected ones with two hidden layers of 64 units fit the
digits of scikit-learn. A valley in the plane has its best curves in closed form.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import optax

from widescape import arch, data
from widescape.core.evidence import sampled
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.curvature.operators import losses_of
from widescape.paths.bands import NEBResult, auto_neb
from widescape.paths.curves import Curve, CurveKind, fit_curve
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train import fit

NAME = "garipov2018loss"
FACTOR, ROOM = 1.2, 0.02
"""A path is as low as its ends if its loss is at most `FACTOR` times the larger of theirs, plus `ROOM`."""
FAR = 0.5
"""By how much the loss on the straight line must be above that of the ends to count as far above."""

_NETWORK = arch.fc(2, 64, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
_BATCH, _PAIRS = 100, 4
_HELD_OUT = 360  # of the 1,797 digits
_EPOCHS, _CURVE_EPOCHS = 40, 60
_BAND = ((20, 0.1), (20, 0.1), (20, 0.01))  # epochs and learning rate of each cycle
_KINDS: tuple[CurveKind, ...] = ("bezier", "polychain")
_PATHS = {
    "bezier": "a Bezier curve with one trained point",
    "polychain": "a chain of two segments with one trained point",
    "band": "a chain moved by the automated nudged elastic band",
}
_BEST = {"bezier": np.array([0.0, 2.0]), "polychain": np.array([0.0, 1.25])}
_LOSSES = {"bezier": 0.0, "polychain": 0.0125}


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: the best curves in a bent valley, and paths of low loss between two networks.

    Args:
        seed: every random draw derives from it.
        quick: one pair of networks instead of four.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold the curves and the band between each pair of networks.

    Cost: about half a minute on two cores.
    """
    key = named_key(jax.random.key(seed), NAME)
    say("curves in a valley")
    valley = {kind: _in_valley(kind, key, progress) for kind in _KINDS}
    pairs, rows = 1 if quick else _PAIRS, _training_rows(seed)
    found: dict[str, list[Curve | NEBResult]] = {name: [] for name in _PATHS}
    for i in range(pairs):
        say(f"paths between networks on the digits, pair {i + 1} of {pairs}")
        for name, own in _between(rows, named_key(key, "pair", i), progress).items():
            found[name].append(own)
    results: dict[str, Result] = {f"valley_{kind}": own for kind, own in valley.items()}
    results |= {f"digits_{name}_{i}": own for name, paths in found.items() for i, own in enumerate(paths)}
    return Study(
        name=NAME,
        title="Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
        citation="Garipov, Izmailov, Podoprikhin, Vetrov, Wilson. Advances in Neural Information Processing Systems "
        "31, 2018.",
        claims=(
            *(part for own in valley.values() for part in _valley_claims(own)),
            _valley_line(valley["bezier"]),
            _line_claim(found["bezier"]),
            *(_as_low(name, paths) for name, paths in found.items()),
        ),
        results=results,
        figures=(*(f"valley_{kind}" for kind in _KINDS), *(f"digits_{name}_0" for name in _PATHS)),
        seed=seed,
        quick=quick,
    )


# The valley V = (y - (1 - x^2))^2.


def _valley(w: Any) -> jax.Array:
    return (w[1] - (1 - w[0] ** 2)) ** 2


def _in_valley(kind: CurveKind, key: jax.Array, progress: bool | None) -> Curve:
    """The best curve from (-1, 0) to (1, 0), by stratified positions and the paper's schedule."""
    return fit_curve(
        _valley,
        np.array([-1.0, 0.0]),
        np.array([1.0, 0.0]),
        kind=kind,
        steps=2000,
        lr=0.1,
        stratified=True,
        num=1001,
        key=named_key(key, "valley", kind),
        progress=progress,
    )


def _valley_claims(curve: Curve) -> tuple[StudyClaim, StudyClaim]:
    kind, place = curve.kind, curve.control[1]
    best, loss = _BEST[kind], _LOSSES[kind]
    return (
        claim(
            f"valley_{kind}_point",
            f"In the valley (y - 1 + x^2)^2 the {kind}'s inner point is within 0.005 of ({best[0]:g}, {best[1]:g}).",
            value=float(np.linalg.norm(place - best)),
            high=0.005,
            measured=f"({place[0]:.4f}, {place[1]:.4f})",
        ),
        claim(
            f"valley_{kind}_loss",
            f"Its mean loss over t is {loss:g}, to 0.0005.",
            value=float(np.trapezoid(curve.loss, curve.t)),
            low=loss - 5e-4,
            high=loss + 5e-4,
            evidence=sampled("trapezoid rule at 1001 positions"),
        ),
    )


def _valley_line(curve: Curve) -> StudyClaim:
    top = float(curve.line_loss.max())
    return claim(
        "valley_line",
        "On the straight line the valley's loss rises to 1.",
        value=top,
        low=1 - 1e-12,
        high=1 + 1e-12,
        measured=f"{top:.12g}",
    )


# The digits.


def _training_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All digits but 360 drawn at random: flat inputs, and labels."""
    own = data.load("digits")
    x, y = np.concatenate([own.x_train, own.x_test]), np.concatenate([own.y_train, own.y_test])
    train, _ = data.split(y, _HELD_OUT / len(y), seed=seed)
    return x[train].reshape(len(train), -1).astype(np.float32), y[train]


@cache
def _adam(rate: float) -> optax.GradientTransformation:
    """One object for each rate, so that runs share their compiled program."""
    return optax.adam(rate)


def _trained(rows: tuple[np.ndarray, np.ndarray], key: jax.Array, progress: bool | None) -> tuple[System, Any]:
    """A network's loss, and its parameters after training."""
    x, y = rows
    params = _NETWORK.init(named_key(key, "network"), x.shape[1:], dtype="float32")
    system = System(_NETWORK.apply, params, x, y, loss="cross_entropy", reduction="mean")
    steps = _EPOCHS * (len(y) // _BATCH)
    return system, fit(system, _adam(1e-3), steps, _BATCH, key=named_key(key, "batches"), progress=progress).params


def _batch_loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, y = batch
    return losses_of("cross_entropy", _NETWORK.apply(params, x), y).mean()


def _batches(
    rows: tuple[np.ndarray, np.ndarray], generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of the data, each epoch in another order, without end."""
    x, y = rows
    while True:
        order = generator.permutation(len(y))
        for first in range(0, len(y) - _BATCH + 1, _BATCH):
            chosen = order[first : first + _BATCH]
            yield x[chosen], y[chosen]


def _between(
    rows: tuple[np.ndarray, np.ndarray], key: jax.Array, progress: bool | None
) -> dict[str, Curve | NEBResult]:
    """Curves and an elastic band between two networks that differ in start and order of batches."""
    nets = [_trained(rows, named_key(key, i), progress) for i in range(2)]
    system, (start, end) = nets[0][0], (params for _, params in nets)
    per_epoch = len(rows[1]) // _BATCH
    found: dict[str, Curve | NEBResult] = {
        kind: fit_curve(
            _batch_loss,
            start,
            end,
            batches=_batches(rows, named_generator(key, kind)),
            kind=kind,
            steps=_CURVE_EPOCHS * per_epoch,
            optimizer=_adam(3e-3),
            report=system,
            key=named_key(key, kind),
            progress=progress,
        )
        for kind in _KINDS
    }
    found["band"] = auto_neb(
        _batch_loss,
        start,
        end,
        cycles=tuple((epochs * per_epoch, rate) for epochs, rate in _BAND),
        batches=_batches(rows, named_generator(key, "band")),
        report=system,
        progress=progress,
    )
    return found


def _top_and_end(found: Curve | NEBResult) -> tuple[float, float]:
    """The largest loss on a path, and the larger one of its ends."""
    top, losses = (found.max, found.loss) if isinstance(found, Curve) else (found.saddle, found.dense)
    return top, float(max(losses[0], losses[-1]))


def _line_claim(curves: Sequence[Curve | NEBResult]) -> StudyClaim:
    lines = [own.line_loss if isinstance(own, Curve) else own.line for own in curves]
    rises = [float(line.max() - max(line[0], line[-1])) for line in lines]
    return _counted(
        "digits_line",
        f"Digits: on the straight line between two networks the loss rises by {FAR:g} or more above the ends.",
        [rise >= FAR for rise in rises],
        f"rises {_each(rises)}",
    )


def _as_low(name: str, paths: Sequence[Curve | NEBResult]) -> StudyClaim:
    pairs = [_top_and_end(own) for own in paths]
    return _counted(
        f"digits_{name}",
        f"Digits: on {_PATHS[name]} the training loss is at most {FACTOR:g} times that of its ends plus {ROOM:g}.",
        [top <= FACTOR * end + ROOM for top, end in pairs],
        f"at most {_each([top for top, _ in pairs])}, the ends {_each([end for _, end in pairs])}",
    )


def _counted(name: str, statement: str, held: Sequence[bool], words: str) -> StudyClaim:
    count = sum(held)
    return claim_of_count(
        name, statement, held=count, trials=len(held), needed=len(held), measured=f"{count} of {len(held)}; {words}"
    )


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
