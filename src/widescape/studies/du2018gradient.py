"""Du, Zhai, Poczos, Singh (2019): gradient descent provably optimizes over-parameterized neural networks.

Two-layer ReLU networks whose first layer trains. The paper's experiment, 1,000 points in 1,000 dimensions at several
widths, is run on 200 points in 200 dimensions; its widths and step were not recovered.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.landscape import TwoLayerReLU, TwoLayerRun, empirical_relu_gram, relu_gram, train_two_layer
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "du2018gradient"
WIDTHS = (250, 1000, 4000, 16_000)
"""Neurons of the networks on 40 points."""

_POINTS, _STEPS, _EPOCHS = 40, 200, 100
_FLOOR = 1e-28  # of the first loss; what is below is close to rounding
_ROUNDING = 1e-9
_NO_NUMBER = "proved for widths of order n^6; no number printed"

_Runs = list[dict[int, TwoLayerRun]]


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: Gram matrices at initialization, decay, activation flips, moves, and the paper's experiment.

    Args:
        seed: every random draw derives from it.
        quick: 3 draws of data instead of 10, and the paper's experiment on 100 points instead of 200.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results and figures hold the runs of the first draw of each experiment.

    Cost: about one minute of one core, of `quick` half of it.
    """
    key = named_key(jax.random.key(seed), NAME)
    draws = 3 if quick else 10
    say(f"Gram matrices of {_POINTS} points")
    grams = _gram_claim(key, 20)
    say(f"descent on {_POINTS} points at {len(WIDTHS)} widths, {draws} draws")
    runs = [_descents(key, "points", i, _POINTS, WIDTHS, _STEPS) for i in track(range(draws), "draws", show=progress)]
    points, trials = (100, 3) if quick else (200, 5)
    widths = (points, 4 * points, 16 * points)
    say(f"the paper's experiment on {points} points, {trials} draws")
    own = [
        _descents(key, "experiment", i, points, widths, _EPOCHS) for i in track(range(trials), "draws", show=progress)
    ]
    results: dict[str, Result] = {f"width_{m}": found for m, found in runs[0].items()}
    results |= {f"experiment_{m}": found for m, found in own[0].items()}
    return Study(
        name=NAME,
        title="Gradient descent provably optimizes over-parameterized neural networks",
        citation="Du, Zhai, Poczos, Singh. International Conference on Learning Representations, 2019.",
        claims=(
            grams,
            *_eigenvalues(runs),
            *_decays(runs),
            _power("flips", "The share of changed activations falls as m^-1/2.", runs),
            _power("max_move", "The longest move of a neuron falls as m^-1/2.", runs),
            _rate(runs),
            *_ordered(own, points),
        ),
        results=results,
        figures=(f"width_{WIDTHS[0]}", f"width_{WIDTHS[-1]}", f"experiment_{widths[-1]}"),
        seed=seed,
        quick=quick,
    )


def _inputs(key: jax.Array, kind: str, i: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, n), uniform on the unit sphere, with standard normal labels."""
    generator = named_generator(key, kind, i)
    x = generator.standard_normal((n, n))
    return x / np.linalg.norm(x, axis=1, keepdims=True), generator.standard_normal(n)


def _descents(key: jax.Array, kind: str, i: int, n: int, widths: Sequence[int], steps: int) -> dict[int, TwoLayerRun]:
    """Descent on the same data and at the same rate, 1 over the largest eigenvalue of the limit, for each width."""
    x, y = _inputs(key, kind, i, n)
    return {
        m: train_two_layer(
            x, y, m, steps=steps, key=named_key(key, kind, i, m), record_every=max(steps // 10, 10), progress=False
        )
        for m in widths
    }


def _gram_claim(key: jax.Array, draws: int) -> StudyClaim:
    x, _ = _inputs(key, "points", 0, _POINTS)
    limit, distances = relu_gram(x), []
    for m in WIDTHS:
        weights = [TwoLayerReLU().init(named_key(key, "gram", m, j), _POINTS, m)["w"] for j in range(draws)]
        distances.append(np.mean([np.linalg.norm(empirical_relu_gram(w, x) - limit, 2) for w in weights]))
    fit = stats.linregress(np.log(WIDTHS), np.log(distances))
    return claim(
        "gram",
        "At initialization the Gram matrix comes to its limit as m^-1/2, in the spectral norm.",
        value=float(fit.slope),
        low=-0.62,
        high=-0.38,
        published="concentration at rate m^-1/2 (lemma 3.1); no number printed",
        measured=f"power {fit.slope:.3f} ± {fit.stderr:.3f} of mean distances, {draws} draws at each width",
    )


def _counted(name: str, statement: str, held: Any, words: str, *, published: str) -> StudyClaim:
    """A claim that something holds in all trials."""
    number, trials = int(np.sum(held)), int(np.size(held))
    return claim_of_count(
        name,
        statement,
        held=number,
        trials=trials,
        needed=trials,
        published=published,
        measured=f"{number} of {trials}; {words}",
    )


def _eigenvalues(runs: _Runs) -> tuple[StudyClaim, ...]:
    starts, least = (
        np.array([[of(own.lam_min) / own.lam_min_limit for own in some.values()] for some in runs])
        for of in (lambda path: path[0], np.min)
    )
    of_width = [
        claim(
            f"lam_min_{m}",
            f"At initialization the smallest eigenvalue is 0.95 to 1.03 of that of the limit in the mean, m = {m:,}.",
            value=float(own.mean()),
            stderr=float(stats.sem(own)),
            low=0.95,
            high=1.03,
            published="at least 3/4 of it (lemma 3.1)",
            measured=f"{own.mean():.3f} ± {stats.sem(own):.3f}, {own.min():.3f} or more in {len(own)} draws",
        )
        for m, own in zip(WIDTHS, starts.T, strict=True)
    ]
    path = _counted(
        "lam_min_path",
        "It is at least 3/4 of that of the limit at initialization, and at least 1/2 of it all along descent.",
        (starts >= 0.75) & (least >= 0.5),
        f"{starts.min():.3f} or more at initialization, {least.min():.3f} or more later",
        published=f"lemmas 3.1 and 3.2; {_NO_NUMBER}",
    )
    return (*of_width, path)


def _decays(runs: _Runs) -> tuple[StudyClaim, ...]:
    every = [(m, own) for some in runs for m, own in some.items()]
    shares = np.array([own.max_move.max() / _move_bound(own, m) for m, own in every])
    return (
        _counted(
            "decay",
            "The squared error is at most (1 - lr lam_0 / 2)^k of the first after every step k, at every width.",
            [_decays_as_proved(own) for _, own in every],
            "runs at lr = 1 / lam_max",
            published=f"theorem 4.1, for lr of order lam_0 / n^2; {_NO_NUMBER}",
        ),
        _counted(
            "move_bound",
            "No neuron moves farther than sqrt(n) |y - u(0)| / (sqrt(m) lam_0).",
            shares <= 1,
            f"at most {shares.max():.2f} of the bound",
            published=f"lemma 3.3, for gradient flow; {_NO_NUMBER}",
        ),
    )


def _decays_as_proved(own: TwoLayerRun) -> bool:
    promised = own.loss[0] * (1 - own.lr * own.lam_min_limit / 2) ** np.arange(len(own.loss))
    return bool((own.loss <= promised * (1 + _ROUNDING)).all())


def _move_bound(own: TwoLayerRun, m: int) -> float:
    return float((_POINTS * 2 * own.loss[0] / m) ** 0.5 / own.lam_min_limit)


def _power(field: str, statement: str, runs: _Runs) -> StudyClaim:
    values = np.array([[getattr(own, field)[-1] for own in some.values()] for some in runs])
    powers = [float(stats.linregress(np.log(WIDTHS), np.log(row)).slope) for row in values]
    middle = np.median(values, axis=0)
    return claim(
        field,
        statement,
        value=float(np.mean(powers)),
        stderr=float(stats.sem(powers)),
        low=-0.6,
        high=-0.4,
        published="falls with the width; no number recovered",
        measured=f"power {np.mean(powers):.3f} ± {stats.sem(powers):.3f} over {len(runs)} draws; medians "
        f"{middle[0]:.2g} at {WIDTHS[0]} to {middle[-1]:.2g} at {WIDTHS[-1]}",
    )


def _rate(runs: _Runs) -> StudyClaim:
    factors = np.array([_factors(some[WIDTHS[-1]]) for some in runs])
    worst = float(np.abs(factors[:, 0] - factors[:, 1]).max())
    return claim(
        "rate",
        "At width 16,000 the loss falls per step by (1 - lr lam_0)^2, to 0.03, at steps 100 to 150.",
        value=worst,
        high=0.03,
        published="bounded by (1 - lr lam_0 / 2); no number printed",
        measured=f"off by {worst:.3f} at most; {factors[0, 0]:.3f} against {factors[0, 1]:.3f} in the first draw",
    )


def _factors(own: TwoLayerRun) -> tuple[float, float]:
    """The factor per step over 50 steps to step 150, or to where the loss comes to rounding, and the predicted one."""
    end = min(150, int(np.flatnonzero(own.loss > _FLOOR * own.loss[0])[-1]))
    return float((own.loss[end] / own.loss[end - 50]) ** (1 / 50)), (1 - own.lr * own.lam_min_limit) ** 2


def _ordered(runs: _Runs, points: int) -> tuple[StudyClaim, ...]:
    words: dict[str, tuple[str, Callable[[TwoLayerRun], Any]]] = {
        "wider_faster": ("a smaller share of the loss is left", lambda own: own.loss[-1] / own.loss[0]),
        "wider_fewer_flips": ("fewer activations have changed", lambda own: own.flips[-1]),
        "wider_shorter_moves": ("the longest move of a neuron is shorter", lambda own: own.max_move[-1]),
    }
    claims = []
    for name, (statement, of) in words.items():
        values = np.array([[of(own) for own in some.values()] for some in runs])
        held, middle = np.diff(values, axis=1) < 0, np.median(values, axis=0)
        shown = ", ".join(f"{share:.2g} at {m}" for share, m in zip(middle, runs[0], strict=True))
        claims.append(
            _counted(
                name,
                f"After {_EPOCHS} steps on {points} points in as many dimensions {statement} in the wider network.",
                held,
                f"pairs of widths; medians {shown}",
                published="figure 1, with 1,000 points: it is; no number recovered",
            )
        )
    return tuple(claims)
