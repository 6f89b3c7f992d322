"""Cohen, Kaur, Li, Kolter, Talwalkar (2021): gradient descent typically occurs at the edge of stability.

The networks and the target are the paper's small ones: tanh, two hidden layers of 50 units, fitted to the Chebyshev
polynomial of degree 4 at 20 points by 20,000 steps of full-batch descent in float64. Momentum is looked at on
quadratics only: with momentum 0.9 and a threshold of 20, 40 or 80 most of these networks either diverge early or end
with their sharpness below the threshold.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from widescape import arch
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.curvature.segment import as_system
from widescape.landscape.descent import Descent, Momentum, gradient_descent
from widescape.landscape.edge import SharpnessTrace, stability_threshold, track_sharpness
from widescape.studies.study import Study, StudyClaim, claim_of_count

THRESHOLDS = (20, 40, 80)
_STEPS = 20_000
_BETA = 0.9
_OPTIMIZERS: tuple[Momentum, ...] = ("gd", "polyak", "nesterov")


def run(
    *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = lambda line: None, progress: bool | None = None
) -> Study:
    """Measure the claims: thresholds on quadratics, progressive sharpening, and the edge, at three learning rates.

    Args:
        seed: the networks derive from it.
        quick: five networks instead of twelve.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold one `SharpnessTrace` per network and learning rate.

    Cost: 20,000 steps and 201 sharpnesses a run, about two seconds each: 15 runs if `quick`, else 36.
    """
    networks = 5 if quick else 12
    say("quadratics on either side of the threshold")
    quadratics = _quadratics()
    traces: dict[str, SharpnessTrace] = {}
    for threshold in THRESHOLDS:
        say(f"descent with 2 / lr = {threshold}, {networks} networks")
        for index in track(range(networks), f"2 / lr = {threshold}", show=progress):
            traces[f"gd_{threshold}_{index}"] = _trace(seed, index, threshold)
    results: dict[str, Result] = {**quadratics, **traces}
    return Study(
        name="cohen2021edge",
        title="Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
        citation="Cohen, Kaur, Li, Kolter, Talwalkar. International Conference on Learning Representations, 2021.",
        claims=(
            _thresholds(quadratics),
            _sharpening(traces),
            *_edges(traces),
            _settles(traces),
        ),
        results=results,
        figures=tuple(f"gd_{threshold}_0" for threshold in THRESHOLDS),
        seed=seed,
        quick=quick,
    )


def _trace(seed: int, index: int, threshold: int) -> SharpnessTrace:
    """One run of descent with 2 / lr = threshold."""
    return track_sharpness(_system(seed, index), 2 / threshold, _STEPS, every=100, progress=False)


def _system(seed: int, index: int) -> System:
    """A network with weights N(0, 1 / fan-in) and zero biases, and half the mean square as its loss."""
    x = np.linspace(-1, 1, 20)[:, None]
    net = arch.fc(2, 50, 1, activation=arch.Tanh(), b_std=0.0, param="standard")
    with jax.enable_x64(True):
        params = net.init(named_key(jax.random.key(seed), "cohen2021edge", index), (1,), dtype="float64")
    return System(net.apply, params, x, chebyshev.chebval(x, [0, 0, 0, 0, 1]), reduction="mean")


def _half_square(w: Any) -> jax.Array:
    return jnp.sum(w**2) / 2


def _quadratics() -> dict[str, Descent]:
    """Descent on curvature 1, with rates that make it 0.98 and 1.02 of the threshold."""
    system, found = as_system(_half_square, np.array([1.0])), {}
    for optimizer in _OPTIMIZERS:
        for name, share in (("below", 0.98), ("above", 1.02)):
            lr = share * stability_threshold(1.0, optimizer, _BETA)
            found[f"quadratic_{optimizer}_{name}"] = gradient_descent(
                system, lr, 1000, optimizer=optimizer, momentum=_BETA, progress=False
            )
    return found


def _thresholds(quadratics: dict[str, Descent]) -> StudyClaim:
    held = [
        run.loss[-1] < 1e-6 * run.loss[0] if name.endswith("below") else run.loss[-1] > 1e6 * run.loss[0]
        for name, run in quadratics.items()
    ]
    return claim_of_count(
        "thresholds",
        "On a quadratic, descent, heavy ball and Nesterov converge at 0.98 of the threshold and diverge at 1.02.",
        held=sum(held),
        trials=len(held),
        needed=len(held),
        published="2/lr, (2 + 2b)/lr and (2 + 2b)/(lr (1 + 2b)) with momentum b",
    )


def _sharpening(traces: dict[str, SharpnessTrace]) -> StudyClaim:
    below = [run for run in traces.values() if run.ratio[0] < 1]
    held = sum(run.spearman > 0.5 for run in below)
    return claim_of_count(
        "sharpening",
        "While the sharpness is below 2/lr it rises: its rank correlation with the step is above 0.5 in most runs.",
        held=held,
        trials=len(traces),
        needed=len(traces) // 2 + 1,
        undecided=len(traces) - len(below),
        published="sharpness rises as long as it is below 2/lr",
        measured=f"{held} of {len(below)} that start below; correlations {_range([run.spearman for run in below])}",
    )


def _edges(traces: dict[str, SharpnessTrace]) -> tuple[StudyClaim, ...]:
    at_20, at_40 = _at(traces, 20), _at(traces, 40)
    return (
        _counted(
            "edge_20",
            "At 2/lr = 20 every network ends at the edge: mean ratio over the last half within 0.97 and 1.03, loss "
            "above the record before at 5% of the records or more.",
            [_hovers(run) and run.loss_rises >= 0.05 for run in at_20],
            len(at_20),
            f"ratios {_range([_late(run) for run in at_20])}, rises {_range([run.loss_rises for run in at_20])}",
        ),
        _counted(
            "edge_40",
            "At 2/lr = 40 most networks end at the edge: that ratio within 0.97 and 1.03, loss not monotone.",
            [_hovers(run) and run.rises > 0 for run in at_40],
            len(at_40) // 2 + 1,
            f"ratios {_range([_late(run) for run in at_40])}",
        ),
    )


def _settles(traces: dict[str, SharpnessTrace]) -> StudyClaim:
    at_80 = _at(traces, 80)
    return _counted(
        "below_80",
        "At 2/lr = 80 most networks stay below the edge: that ratio below 0.9, and the loss falls at every step.",
        [_late(run) < 0.9 and run.rises == 0 for run in at_80],
        len(at_80) // 2 + 1,
        f"ratios {_range([_late(run) for run in at_80])}",
    )


def _counted(name: str, statement: str, held: list[bool], needed: int, numbers: str) -> StudyClaim:
    return claim_of_count(
        name,
        statement,
        held=sum(held),
        trials=len(held),
        needed=needed,
        published="sharpness hovers just above 2/lr once it is reached",
        measured=f"{sum(held)} of {len(held)} networks; {numbers}",
    )


def _at(traces: dict[str, SharpnessTrace], threshold: int) -> list[SharpnessTrace]:
    return [run for name, run in traces.items() if name.startswith(f"gd_{threshold}_")]


def _late(run: SharpnessTrace) -> float:
    """The mean of sharpness over threshold in the last half of the records."""
    return float(np.mean(run.ratio[len(run.ratio) // 2 :]))


def _hovers(run: SharpnessTrace) -> bool:
    return 0.97 <= _late(run) <= 1.03


def _range(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}" if values else "none"
