"""Kawaguchi, Huang, Kaelbling (2019): what each layer contributes at a critical point, and what depth and width do.

Tanh networks and the square loss |f - y|^2 / 2. The paper's synthetic data and numbers were not recovered, and its
MNIST, CIFAR-10 and SVHN are not run: a function of one variable and pooled digits of scikit-learn take their place. Its
bounds for Gaussian inputs and for units that pass inputs on linearly are not measured.
"""

from collections.abc import Callable, Sequence
from itertools import permutations

import jax
import numpy as np
from scipy.optimize import least_squares

from widescape import arch, data
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.landscape import (
    DepthWidthSweep,
    LayerContributions,
    depth_width_sweep,
    find_critical_points,
    layer_contributions,
    problems,
)
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "kawaguchi2018depth"
CONVERGED = 1e-10
"""Gradient norm below which a search has converged."""
NEARLY = 1e-5
"""Gradient norm below which a run of the sweep is taken for converged."""

_POINTS, _WIDTHS = 30, (1, 2, 3, 4, 5, 6)
_NETWORKS = ((1, 1), (1, 2), (2, 2))  # hidden layers, and units of each
_IMAGES, _IMAGE_WIDTHS, _IMAGE_STARTS, _IMAGE_STEPS = 100, (1, 2, 4, 8), 10, 1000
_DEEPER_FROM = 3  # units from which a second layer is held to be no worse
_IDENTITY = "an identity at differentiable critical points; form recalled, not checked"
_TREND = "values improve with depth and width (abstract); no number printed there"

_Data = tuple[np.ndarray, np.ndarray]
_Orders = list[LayerContributions]


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: contributions of layers at converged points, and sweeps over depth and width.

    Args:
        seed: every random draw derives from it.
        quick: 3 starts instead of 10 in the sweep, 4 instead of 12 for contributions; digits are left out.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold both sweeps, and the contributions at the first converged point of each network.

    Cost: about two minutes of two cores, of `quick` about 15 seconds.
    """
    key = named_key(jax.random.key(seed), NAME)
    rows = _function(named_generator(key, "points"))
    each, starts = (4, 3) if quick else (12, 10)
    points: dict[str, list[_Orders]] = {}
    for depth, width in _NETWORKS:
        say(f"contributions of layers: depth {depth}, width {width}, {each} starts")
        points[f"depth_{depth}_width_{width}"] = _contributions(rows, (depth, width), each, key, progress)
    say(f"sweep over depths 1 and 2 and widths 1 to {_WIDTHS[-1]}, {starts} starts")
    seeds = _seeds(key, "sweep", starts)
    sweep = depth_width_sweep((1, 2), _WIDTHS, seeds, rows, progress=progress)
    digits = None if quick else _digits(key, say, progress)
    trap = _trap()
    converged = [orders for found in points.values() for orders in found]
    results: dict[str, Result] = {"trap": trap}
    results |= {name: found[0][0] for name, found in points.items() if found}
    results |= {"sweep": sweep} | ({} if digits is None else {"digits": digits})
    return Study(
        name=NAME,
        title="Effect of Depth and Width on Local Minima in Deep Learning",
        citation="Kawaguchi, Huang, Kaelbling. Neural Computation 31, 2019.",
        claims=(
            *_trap_claims(trap),
            _identity(converged, each * len(_NETWORKS)),
            *_order_claims(converged),
            _identity_in(sweep),
            *_sweep_claims(sweep),
            *_digits_claims(digits),
        ),
        results=results,
        figures=tuple(name for name in results if name != "trap"),
        seed=seed,
        quick=quick,
    )


# Data and points.


def _function(generator: np.random.Generator) -> _Data:
    x = generator.uniform(-3.0, 3.0, _POINTS)
    return x[:, None], (np.sin(2 * x) + np.sin(5 * x) / 2)[:, None]


def _images(generator: np.random.Generator) -> _Data:
    """Digits drawn at random, pooled to 4 by 4, and their labels as unit vectors."""
    own = data.load("digits")
    chosen = generator.choice(len(own.x_train), _IMAGES, replace=False)
    images = np.asarray(own.x_train, np.float64)[chosen].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    return images.reshape(-1, 16), np.eye(10)[np.asarray(own.y_train)[chosen]]


def _seeds(key: jax.Array, name: str, count: int) -> list[int]:
    drawn: list[int] = named_generator(key, name).integers(2**31, size=count).tolist()
    return drawn


def _digits(key: jax.Array, say: Callable[[str], None], progress: bool | None) -> DepthWidthSweep:
    say(f"digits: {_IMAGES} images, depths 1 and 2, widths up to {_IMAGE_WIDTHS[-1]}, {_IMAGE_STARTS} starts")
    rows, seeds = _images(named_generator(key, "images")), _seeds(key, "digits", _IMAGE_STARTS)
    return depth_width_sweep((1, 2), _IMAGE_WIDTHS, seeds, rows, max_steps=_IMAGE_STEPS, progress=progress)


def _trap() -> LayerContributions:
    problem = problems.affine_trap()
    return layer_contributions(problem.f, problem.params("trap"), problem.X, problem.y, order=("w", "beta", "v", "c"))


def _contributions(
    rows: _Data, sizes: tuple[int, int], starts: int, key: jax.Array, progress: bool | None
) -> list[_Orders]:
    """For each start that converges, the contributions of the layers in every order; from input to output first."""
    depth, width = sizes
    net = arch.fc(depth, width, 1, activation=arch.Tanh(), b_std=1.0, param="standard")
    first = [
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), net.init(named_key(key, depth, width, i), (1,)))
        for i in range(starts)
    ]
    system = System(net.apply, first[0], *rows)
    ends = [_least_squares(system, start) for start in track(first, f"depth {depth}, width {width}", show=progress)]
    names = [*(f"layer {k}" for k in range(1, depth + 1)), "output"]
    blocks = {name: str(2 * k + 1) for k, name in enumerate(names)}
    polished = find_critical_points(system, ends, rcond=1e-13, max_steps=20, progress=False)
    at = [system.starting_at(own.w) for own in polished if own.g2 < CONVERGED**2]
    return [[layer_contributions(own, blocks=blocks, order=order) for order in permutations(names)] for own in at]


def _least_squares(system: System, start: object) -> np.ndarray:
    found = least_squares(
        system.residual, system.vector(start), system.jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=500
    )
    return np.asarray(found.x)


# Claims.


def _trap_claims(trap: LayerContributions) -> tuple[StudyClaim, ...]:
    return (
        claim(
            "trap",
            "At the bad minimum of two ReLU units on three points contributions leave 0.75 of 2.5, the loss there.",
            value=trap.predicted,
            low=0.75 - 1e-12,
            high=0.75 + 1e-12,
            published="no number printed",
            measured=f"{trap.predicted:.12g} of {trap.running[0]:.12g}, loss {trap.actual:.12g}",
        ),
        claim("trap_rank", "The Jacobian has rank 2 there.", value=trap.rank, low=2, high=2),
    )


def _identity(converged: Sequence[_Orders], starts: int) -> StudyClaim:
    defects = np.array([orders[0].defect for orders in converged])
    words = f"median {np.median(defects):.1e}, largest {defects.max():.1e}; " if defects.size else ""
    return claim(
        "identity",
        "At points where |grad| < 1e-10 the loss is |(I - P_J) y|^2 / 2; median defect at most 1e-10.",
        value=float(np.median(defects)) if defects.size else None,
        high=1e-10,
        published=_IDENTITY,
        measured=f"{words}{defects.size} of {starts} searches converged",
    )


def _order_claims(converged: Sequence[_Orders]) -> tuple[StudyClaim, ...]:
    """Signs, sums and terms over all orders of the layers, in units of |y|^2 / 2."""
    known = bool(converged)
    signs = [own.values.min() for orders in converged for own in orders]
    sums = [np.ptp([own.values.sum() for own in orders]) / orders[0].running[0] for orders in converged]
    terms = [_spread(orders) for orders in converged]
    later = [_after_output(orders) for orders in converged]
    return (
        claim(
            "nonnegative",
            "Contributions are not negative, in any order of the layers.",
            value=float(min(signs)) if known else None,
            low=0.0,
            published="each layer's term is not negative; form recalled, not checked",
            measured=f"at least {min(signs):.2g} in {len(signs)} decompositions" if known else "no point",
        ),
        claim(
            "order_sum",
            "Their sum does not depend on the order, to 1e-10 of |y|^2 / 2.",
            value=float(max(sums)) if known else None,
            high=1e-10,
            published="no number printed",
            measured=f"at most {max(sums):.1e} over {len(sums)} points" if known else "no point",
        ),
        claim(
            "order_terms",
            "The terms themselves may: at some point a layer's changes with the order by 0.001 of |y|^2 / 2 or more.",
            value=float(max(terms)) if known else None,
            low=1e-3,
            published="no number printed",
            measured=f"up to {max(terms):.2g}, by 0.001 at {sum(own >= 1e-3 for own in terms)} of {len(terms)} points"
            if known
            else "no point",
        ),
        claim(
            "output_first",
            "With the output layer first nothing is left to the others, to 1e-10 of |y|^2 / 2 in the median.",
            value=float(np.median(later)) if known else None,
            high=1e-10,
            published="no number printed; the paper orders from the input layer (recalled, not checked)",
            measured=f"median {np.median(later):.1e}, largest {max(later):.1e}" if known else "no point",
        ),
    )


def _spread(orders: _Orders) -> float:
    """The largest change of one layer's contribution with the order, in units of |y|^2 / 2."""
    of_layer = [[own.values[own.names.index(name)] for own in orders] for name in orders[0].names]
    return float(np.ptp(of_layer, axis=1).max() / orders[0].running[0])


def _after_output(orders: _Orders) -> float:
    """The largest sum of contributions after the output layer's, where that comes first, in units of |y|^2 / 2."""
    return float(max(own.values[1:].sum() / own.running[0] for own in orders if own.names[0] == "output"))


def _identity_in(sweep: DepthWidthSweep) -> StudyClaim:
    close = sweep.grad_norms[0] < NEARLY
    defects = sweep.defects[0][close]
    words = f"median {np.median(defects):.1e}, largest {defects.max():.1e}; " if defects.size else ""
    return claim(
        "identity_sweep",
        "Sweep, depth 1: where |grad| < 1e-5 the median defect of the identity is at most 1e-8.",
        value=float(np.median(defects)) if defects.size else None,
        high=1e-8,
        published=_IDENTITY,
        measured=f"{words}{defects.size} of {close.size} runs; ill-conditioned ones may be far off",
    )


def _sweep_claims(sweep: DepthWidthSweep) -> tuple[StudyClaim, ...]:
    words = f"{_POINTS} points of sin 2x + sin(5x)/2"
    falls = [
        claim(
            f"fall_{depth}",
            f"Depth {depth}: the median at width {_WIDTHS[-1]} is at most 0.1 of that at width 1.",
            value=float(medians[-1] / medians[0]),
            high=0.1,
            published=_TREND,
            measured=f"{medians[-1] / medians[0]:.2g}, {medians[0]:.3g} to {medians[-1]:.3g}",
        )
        for depth, medians in zip(sweep.depths.tolist(), sweep.median, strict=True)
    ]
    return (*_widths("width", words, sweep), *falls, _deeper("depth", words, sweep))


def _digits_claims(sweep: DepthWidthSweep | None) -> tuple[StudyClaim, ...]:
    words = f"{_IMAGES} digits pooled to 4 by 4, at most {_IMAGE_STEPS:,} steps"
    return (*_widths("digits_width", words, sweep), _deeper("digits_depth", words, sweep))


def _widths(name: str, words: str, sweep: DepthWidthSweep | None) -> list[StudyClaim]:
    """For depths 1 and 2, how often the median rises from one width to the next."""
    claims = []
    for i, depth in enumerate((1, 2)):
        medians = None if sweep is None else sweep.median[i]
        claims.append(
            claim(
                f"{name}_{depth}",
                f"{words}, depth {depth}: medians of the values reached do not rise with width, but for one step.",
                value=None if medians is None else int(np.sum(np.diff(medians) > 0)),
                high=1,
                published=_TREND,
                measured=_shown(sweep, i),
            )
        )
    return claims


def _deeper(name: str, words: str, sweep: DepthWidthSweep | None) -> StudyClaim:
    held, shown = [], _shown(sweep, 1)
    if sweep is not None:
        held = (sweep.median[1] <= sweep.median[0])[sweep.widths >= _DEEPER_FROM].tolist()
        ended = int(np.sum(sweep.grad_norms < NEARLY))
        shown = f"depth 1 {_shown(sweep, 0)}; depth 2 {shown}; {ended} of {sweep.values.size} runs converged"
    statement = f"{words}: from width {_DEEPER_FROM} on the median at depth 2 is at most that at depth 1."
    return _counted(name, statement, held, shown, published=_TREND)


def _shown(sweep: DepthWidthSweep | None, i: int) -> str:
    if sweep is None:
        return "left out of the quick study"
    return f"medians {', '.join(f'{value:.3g}' for value in sweep.median[i])} of {len(sweep.seeds)} starts"


def _counted(
    name: str, statement: str, held: Sequence[bool], words: str, *, published: str = "no number printed"
) -> StudyClaim:
    """A claim that something holds in all trials; open where there was none."""
    trials = max(len(held), 1)
    return claim_of_count(
        name,
        statement,
        held=sum(held),
        trials=trials,
        needed=trials,
        undecided=0 if held else 1,
        published=published,
        measured=f"{sum(held)} of {len(held)}; {words}" if held else words,
    )
