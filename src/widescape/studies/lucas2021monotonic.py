"""Lucas et al. 2021: the loss on the straight line from initialization to solution, when it falls monotonically."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
import optax
from scipy import stats

from widescape import arch
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.landscape.interpolation import (
    RIGHT_ANGLE,
    GaussLength,
    MLIReport,
    gauss_length,
    interpolate,
    mli_report,
    weight_distance,
)
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train import fit

NAME = "lucas2021monotonic"
SEEDS = 10
"""Networks that each optimizer trains."""
FLAT = 1e-3
"""Height, relative to the loss at initialization, up to which a line counts as monotone."""
HIGH = 3e-3
"""Relative height from which it counts as clearly not monotone."""

_QUICK_SEEDS = 3
_POINTS = 60
_NETWORK = arch.fc(3, 64, 1, activation=arch.Relu(), b_std=0.0, param="standard")


@cache
def _adam(rate: float) -> optax.GradientTransformation:
    """One object for each rate, so that runs share their compiled program."""
    return optax.adam(rate)


@dataclass(frozen=True)
class _Recipe:
    """One way of training."""

    words: str
    rate: float
    steps: int
    adaptive: bool

    def train(self, system: System) -> Any:
        """The parameters after training."""
        optimizer = _adam(self.rate) if self.adaptive else self.rate
        return fit(system, optimizer, self.steps, progress=False).params


_RECIPES = {
    "gradient_descent": _Recipe("gradient descent at 0.05", 0.05, 3000, adaptive=False),
    "adam_slow": _Recipe("Adam at 0.01", 0.01, 2000, adaptive=True),
    "adam_fast": _Recipe("Adam at 0.05", 0.05, 2000, adaptive=True),
}


@dataclass(frozen=True)
class _Run:
    """One trained network and its line."""

    system: System
    end: Any
    report: MLIReport
    move: float
    turning: GaussLength


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Train 30 small networks on a regression and measure the loss on the line from start to end.

    60 points of two standard normal coordinates, targets sin(2 x_1) cos(x_2), ReLU networks 2-64-64-64-1 with weights
    N(0, 1/n) and biases from 0, half the mean squared error, full batches, in float64; 10 networks, each on points of
    its own, for each of three optimizers. The paper's image and language models are larger, and train on batches.

    Args:
        seed: every random draw derives from it.
        quick: 3 networks for each optimizer; the counts are then undecided unless they fail.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Cost: about half a minute on two cores.
    """
    key = named_key(jax.random.key(seed), NAME)
    count = _QUICK_SEEDS if quick else SEEDS
    runs = {}
    for name, recipe in _RECIPES.items():
        say(f"{recipe.words}, {count} networks")
        runs[name] = [_trained(recipe, key, i) for i in track(range(count), recipe.words, show=progress)]
    say("lines from unrelated initializations")
    claims = (
        _flat_lines("E1_gradient_descent", runs["gradient_descent"], "Gradient descent moves little"),
        _flat_lines("E1_adam_slow", runs["adam_slow"], "Adam with a small rate moves farther"),
        _high_lines(runs["adam_fast"]),
        _correlation(runs),
        *(_unrelated(name, runs[name]) for name in ("gradient_descent", "adam_slow")),
        _sufficient(runs),
    )
    results: dict[str, Any] = {f"{name}_{i}": own.report for name in runs for i, own in enumerate(runs[name])}
    results |= {f"turning_{name}": runs[name][0].turning for name in runs}
    return Study(
        name=NAME,
        title="Analyzing monotonic linear interpolation in neural network loss landscapes",
        citation="Lucas, Bae, Zhang, Fort, Zemel, Grosse. ICML 2021, arXiv 2104.11044.",
        claims=claims,
        results=results,
        figures=(*(f"{name}_0" for name in runs), *(f"turning_{name}" for name in runs)),
        seed=seed,
        quick=quick,
    )


def _started(key: jax.Array, i: int) -> System:
    """The network of number `i` where it starts, with its data."""
    with jax.enable_x64(True):
        x = np.asarray(jax.random.normal(named_key(key, "points", i), (_POINTS, 2), "float64"))
    y = np.sin(2 * x[:, :1]) * np.cos(x[:, 1:])
    params = _NETWORK.init(named_key(key, "network", i), (2,), dtype="float64")
    return System(_NETWORK.apply, params, x, y, reduction="mean")


def _trained(recipe: _Recipe, key: jax.Array, i: int) -> _Run:
    system = _started(key, i)
    end = recipe.train(system)
    report = mli_report(*interpolate(system, system.params, end, progress=False))
    move = weight_distance(system.params, end)
    made = {"training": recipe.words, "steps": str(recipe.steps), "relative move": repr(move)}
    return _Run(system, end, replace(report, provenance=made), move, gauss_length(system, system.params, end))


def _flat_lines(name: str, runs: list[_Run], words: str) -> StudyClaim:
    flat = sum(own.report.rel_delta <= FLAT for own in runs)
    return claim_of_count(
        name,
        f"{words}, and the loss falls monotonically on the line from start to end, up to {FLAT:g} of its first value.",
        held=flat,
        trials=SEEDS,
        needed=SEEDS,
        undecided=SEEDS - len(runs),
        published="monotone lines are common; no number for this problem",
        measured=_counted(flat, runs),
    )


def _high_lines(runs: list[_Run]) -> StudyClaim:
    high = sum(own.report.rel_delta > HIGH for own in runs)
    return claim_of_count(
        "E1_adam_fast",
        f"Adam with a large rate moves far and breaks monotonicity by more than {HIGH:g} of the first loss.",
        held=high,
        trials=SEEDS,
        needed=SEEDS - 1,
        undecided=SEEDS - len(runs),
        published="adaptive optimizers, large rates and large moves break it; no number for this problem",
        measured=_counted(high, runs),
    )


def _counted(held: int, runs: list[_Run]) -> str:
    heights = np.asarray([own.report.rel_delta for own in runs])
    move = np.mean([own.move for own in runs])
    return (
        f"{held} of {len(runs)}; heights {heights.min():.2g} to {heights.max():.2g} of the first loss, "
        f"mean relative move {move:.2g}"
    )


def _correlation(runs: dict[str, list[_Run]]) -> StudyClaim:
    every = [own for some in runs.values() for own in some]
    moves, heights = [own.move for own in every], [own.report.rel_delta for own in every]
    value = float(stats.spearmanr(moves, heights).statistic) if np.ptp(heights) > 0 else None
    return claim(
        "E1_moves",
        "Over the runs of all three optimizers, the loss on the line rises higher the farther parameters move.",
        value=value,
        low=0.5,
        published="large moves of the weights break monotonicity",
        measured="no line rises"
        if value is None
        else f"rank correlation {value:.2f} of relative move and relative height over {len(every)} runs",
    )


def _unrelated(name: str, runs: list[_Run]) -> StudyClaim:
    """Lines to each solution from the initializations of all other networks."""
    starts = [own.system.params for own in runs]
    heights = np.asarray(
        [
            [
                mli_report(*interpolate(own.system, start, own.end, progress=False)).rel_delta
                for start in _but(starts, i)
            ]
            for i, own in enumerate(runs)
        ]
    )
    shares = (heights <= FLAT).mean(axis=1)
    share, error = float(shares.mean()), float(stats.sem(shares))
    return claim(
        f"unrelated_{name}",
        f"After {_RECIPES[name].words}, most lines from an unrelated initialization to the solution are monotone.",
        value=share,
        stderr=error,
        low=0.5,
        published="they still tend to be monotone; no number for this problem",
        measured=f"share {share:.2f} ± {error:.2f} of {heights.size} lines, error over the {len(runs)} solutions; "
        f"median height {np.median(heights):.2g} of the first loss",
    )


def _but(items: list[Any], i: int) -> list[Any]:
    """All but one."""
    return items[:i] + items[i + 1 :]


def _sufficient(runs: dict[str, list[_Run]]) -> StudyClaim:
    """Each output that turns by less than a right angle, towards its own value at the end of the line."""
    rises, total = [0.0], 0
    for own in (own for some in runs.values() for own in some):
        straight = np.maximum(own.turning.length, own.turning.turning) < RIGHT_ANGLE
        alphas, errors = own.report.alphas, _squared_errors(own)
        rises += [mli_report(alphas, column).delta for column in errors.T[straight]]
        total += len(straight)
    return claim(
        "sufficient",
        "The squared distance to the end of the line falls monotonically for outputs that turn by less than a right "
        "angle.",
        value=max(rises),
        high=1e-12,
        published="proved: Gauss length below pi/2 suffices if the loss ends at 0",
        measured=f"highest rise {max(rises):.1g}, over the {len(rises) - 1} of {total} outputs that turn by less",
    )


def _squared_errors(own: _Run) -> np.ndarray:
    """Squared distances of the outputs on the line to those at its end, (positions, examples)."""
    start, end = own.system.flat, own.system.vector(own.end)
    path = np.stack([own.system.F((1 - alpha) * start + alpha * end)[:, 0] for alpha in own.report.alphas])
    return (path - path[-1:]) ** 2
