"""Kumar, Agarwal, Ghosh, Levine (2021): ranks of features in deep reinforcement learning.

What is exact is measured exactly: the rank that the paper defines, its penalty, and the ranks of repeated regression on
own targets in the kernel setting. The paper's networks, trained by bootstrapping on Atari and Gym, are not run, and
that features of networks lose rank is not claimed: in the small problems that were tried, ranks moved little, and as
much without bootstrapping. In their place stands one supervised network on the digits of scikit-learn, with and without
the penalty, reported as it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widescape import arch, data, features
from widescape.core.evidence import EXACT
from widescape.core.random import named_generator, named_key
from widescape.curvature import System
from widescape.features import BootstrapRanks, RankTrace
from widescape.studies.study import Study, StudyClaim, claim
from widescape.train import fit

NAME = "kumar2021implicit"
ROUNDS = (1, 2, 5, 10, 50, 200, 1000, 5000)
POWER_LAW = (27, 27, 27, 26, 23, 15, 8, 8)
"""Ranks after these rounds for S with the spectrum 0.995 i^(-3/2), i = 1 to 30, and delta = 0.1."""
DIAGONAL_ROUNDS, DIAGONAL = (1, 2, 5, 20, 100, 1000), (9, 9, 9, 8, 4, 1)
"""Rounds and ranks for S = diag(0.99, 0.1, ..., 0.1) of order 10, and delta = 0.1."""
WEIGHT = 1e-3
"""Weight of the penalty, the paper's."""

_DELTA = 0.1
_TRIALS = 20
_NO_NUMBER = "no number printed"
_STEPS, _EXAMPLES, _BATCH = 600, 1000, 64
_NET = arch.fc(2, 32, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
_BODY, _HEAD = arch.Sequential(*_NET.layers[:-1]), arch.Sequential(_NET.layers[-1])


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: tables of ranks, invariances, the penalty's gradient, and ranks in training.

    Args:
        seed: every random draw derives from it; the tables do not depend on it.
        quick: a third of the training steps.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold both tables as `BootstrapRanks`, and a `RankTrace` with and without the penalty.

    Cost: about ten seconds.
    """
    key = named_key(jax.random.key(seed), NAME)
    say("ranks after rounds of regression on own targets")
    power = _power_law(named_generator(key, "rotation"))
    diagonal = features.bootstrap_rank_theory(np.diag([0.99] + 9 * [0.1]), DIAGONAL_ROUNDS, _DELTA)
    steps = _STEPS // 3 if quick else _STEPS
    traces = {}
    for name in ("plain", "penalized"):
        say(f"training on digits, {name}, {steps} steps")
        traces[name] = _trained(name == "penalized", steps, key, progress)
    return Study(
        name=NAME,
        title="Implicit Under-Parameterization Inhibits Data-Efficient Deep Reinforcement Learning",
        citation="Kumar, Agarwal, Ghosh, Levine. ICLR 2021, arXiv 2010.14498.",
        claims=(
            _table("power_law", "S of order 30 with spectrum 0.995 i^(-3/2)", power, POWER_LAW),
            _table("diagonal", "S = diag(0.99, 0.1 nine times)", diagonal, DIAGONAL),
            _never_rises(named_generator(key, "monotone")),
            _invariant(named_generator(key, "invariant")),
            *_penalty(named_generator(key, "penalty")),
            *_in_training(traces),
        ),
        results={"power_law": power, "diagonal": diagonal, **traces},
        figures=("power_law", *traces),
        seed=seed,
        quick=quick,
    )


# The kernel setting.


def _rotation(generator: np.random.Generator, n: int) -> np.ndarray:
    return np.asarray(np.linalg.qr(generator.normal(size=(n, n)))[0])


def _power_law(generator: np.random.Generator) -> BootstrapRanks:
    turn = _rotation(generator, 30)
    s = turn * (0.995 * np.arange(1, 31) ** -1.5) @ turn.T
    return features.bootstrap_rank_theory((s + s.T) / 2, ROUNDS, _DELTA)


def _table(name: str, words: str, found: BootstrapRanks, expected: tuple[int, ...]) -> StudyClaim:
    return claim(
        name,
        f"{words}, delta = {_DELTA:g}: srank of sum_(j<k) S^j is {_listed(expected)} at k = {_listed(found.rounds)}.",
        value=int(np.abs(found.srank - expected).max()),
        low=0,
        high=0,
        evidence=EXACT,
        published="that ranks fall over the rounds; the numbers are this library's",
        measured=f"{_listed(found.srank)}; largest difference {np.abs(found.srank - expected).max()}",
    )


def _listed(numbers: Any) -> str:
    return ", ".join(f"{int(n)}" for n in numbers)


def _never_rises(generator: np.random.Generator) -> StudyClaim:
    rises, rounds = 0, range(1, 61)
    for _ in range(_TRIALS):
        root = generator.normal(size=(8, 8)) * generator.uniform(0, 1, 8) ** 3
        s = root @ root.T
        found = features.bootstrap_rank_theory(s * generator.uniform(0.5, 1.1) / np.linalg.norm(s, 2), rounds, _DELTA)
        rises += int(np.sum(np.diff(found.srank) > 0))
    return claim(
        "monotone",
        "For symmetric positive semidefinite S the rank never rises with the rounds.",
        value=rises,
        low=0,
        high=0,
        evidence=EXACT,
        published="proved",
        measured=f"{rises} rises in {_TRIALS} random S over {len(rounds)} rounds",
    )


# The rank and the penalty.


def _invariant(generator: np.random.Generator) -> StudyClaim:
    changes = 0
    for _ in range(_TRIALS):
        phi = generator.normal(size=(30, 12)) * generator.uniform(0, 1, 12) ** 2
        turned = 10.0 ** generator.uniform(-3, 3) * _rotation(generator, 30) @ phi @ _rotation(generator, 12)
        changes += int(features.srank(phi, _DELTA) != features.srank(turned, _DELTA))
    return claim(
        "invariant",
        "srank does not change under scale, nor under orthogonal maps on either side.",
        value=changes,
        low=0,
        high=0,
        evidence=EXACT,
        published=_NO_NUMBER,
        measured=f"{changes} changes in {_TRIALS} random matrices",
    )


def _penalty(generator: np.random.Generator) -> tuple[StudyClaim, StudyClaim]:
    with jax.enable_x64(True):
        worst, values = 0.0, []
        for _ in range(_TRIALS):
            phi = generator.normal(size=(9, 5))
            u, sigma, v = np.linalg.svd(phi, full_matrices=False)
            expected = 2 * sigma[0] * np.outer(u[:, 0], v[0]) - 2 * sigma[-1] * np.outer(u[:, -1], v[-1])
            found = np.asarray(jax.grad(features.rank_penalty)(jnp.asarray(phi)))
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
            values.append(float(features.rank_penalty(phi)))
    return (
        claim(
            "gradient",
            "The gradient of sigma_max^2 - sigma_min^2 is 2 sigma u v^T of the largest less that of the smallest, to "
            "1e-10.",
            value=worst,
            high=1e-10,
            published="the penalty; no number",
            measured=f"at most {worst:.1e} apart, {_TRIALS} random matrices",
        ),
        claim(
            "penalty",
            "The penalty is not negative.",
            value=min(values),
            low=0,
            published=_NO_NUMBER,
            measured=f"at least {min(values):.3g}",
        ),
    )


# In training.


def _features(params: Any, x: Any) -> jax.Array:
    """What the last layer reads."""
    h: jax.Array = _BODY.apply(params[:-1], x)
    return h


def _with_penalty(params: Any, x: Any) -> jax.Array:
    """Outputs, and the penalty of the batch as one more of each example."""
    h = _features(params, x)
    outputs = _HEAD.apply(params[-1:], h)
    return jnp.concatenate([outputs, jnp.full((len(outputs), 1), features.rank_penalty(h))], axis=1)


def _penalized_entropy(weight: float, outputs: jax.Array, label: jax.Array) -> jax.Array:
    logits = outputs[:-1]
    return jax.nn.logsumexp(logits) - logits[label] + weight * outputs[-1]


def _trained(penalized: bool, steps: int, key: jax.Array, progress: bool | None) -> RankTrace:
    """Ranks of held-out examples' features while a network trains."""
    part = data.load("digits")
    x, held = (own.reshape(len(own), -1).astype(np.float32) for own in (part.x_train[:_EXAMPLES], part.x_test))
    start = _NET.init(named_key(key, "network"), x.shape[1:], dtype="float32")
    system = System(
        _with_penalty if penalized else _NET.apply,
        start,
        x,
        part.y_train[:_EXAMPLES],
        loss=partial(_penalized_entropy, WEIGHT) if penalized else "cross_entropy",
        reduction="mean",
    )
    run = fit(
        system, optax.adam(1e-3), steps, _BATCH, key=named_key(key, "order"), keep_every=steps // 6, progress=progress
    )
    if run.snapshots is None or run.snapshot_steps is None:  # asked for above
        raise AssertionError
    kept = {int(step): system.unravel(w) for step, w in zip(run.snapshot_steps, run.snapshots, strict=True)}
    return features.rank_trace(_features, kept, held, progress=False)


def _in_training(traces: dict[str, RankTrace]) -> tuple[StudyClaim, StudyClaim]:
    plain, penalized = traces["plain"], traces["penalized"]
    shares = {name: float(own.srank[-1] / own.srank[0]) for name, own in traces.items()}
    words = "; ".join(
        f"{name} srank {own.srank[0]} to {own.srank[-1]}, centered {own.srank_centered[0]} to {own.srank_centered[-1]}"
        for name, own in traces.items()
    )
    ratio = float(penalized.penalty[-1] / plain.penalty[-1])
    return (
        claim(
            "no_collapse",
            "A supervised network on digits keeps its rank: srank of the features before the last layer ends at half "
            "of its first value or more.",
            value=shares["plain"],
            low=0.5,
            published="loss of rank by regression on own targets (Atari, Gym); not run, and no collapse claimed, here",
            measured=f"{words}; {plain.shape[0]} held-out examples, {plain.steps[-1]} steps",
        ),
        claim(
            "penalty_in_training",
            f"With the weight {WEIGHT:g} the penalty ends at half or less of what it is without.",
            value=ratio,
            high=0.5,
            published=_NO_NUMBER,
            measured=f"{penalized.penalty[-1]:.4g} against {plain.penalty[-1]:.4g}; entropy ranks "
            f"{penalized.effective_rank[-1]:.3g} and {plain.effective_rank[-1]:.3g}",
        ),
    )
