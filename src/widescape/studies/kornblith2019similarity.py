"""Kornblith et al. 2019: similarity of representations, and whether it finds the corresponding layer of another net."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import combinations
from typing import Any

import jax
import numpy as np
import optax
from scipy import linalg

from widescape import arch, data, features
from widescape.core.evidence import EXACT
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.features import LayerSimilarity
from widescape.features.similarity_index import SimilarityName
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train import fit

NAME = "kornblith2019similarity"
NETWORKS = 5
"""Networks of each depth, of which every pair is compared."""
DEPTH, DEEP = 3, 5
"""Hidden layers."""
WIDTH = 256
WIDTHS = (16, 64, WIDTH)
MEASURES: tuple[SimilarityName, ...] = ("cka", "cca", "svcca", "pwcca")

_QUICK_NETWORKS = 2
_AT_EACH_WIDTH = 3
_STEPS, _BATCH, _RATE = 600, 50, 1e-3
_DRAWS, _SAMPLES, _FEATURES = 50, 50, 100  # of independent Gaussians
_FOUND = 0.8  # share of layers from which nearly all are found

Acts = Mapping[str, np.ndarray]


@cache
def _adam() -> optax.GradientTransformation:
    """One object, so that runs share their compiled program."""
    return optax.adam(_RATE)


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Compare similarity indices on known data, on noise, and on networks trained on digits from several seeds.

    Networks: ReLU, fully connected, 3 or 5 hidden layers of 256 units, weights N(0, 2/n), no biases; 600 steps of Adam
    at 1e-3 on batches of 50 of 1,297 digits under cross entropy, to a test accuracy of about 0.95. Layers are compared
    on all 1,797 digits. The paper's are convolutional networks of ten layers on CIFAR-10.

    Args:
        seed: every random draw derives from it.
        quick: two networks of depth 3 and no deeper ones; the counts are then undecided unless they fail.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Cost: about two minutes on two cores.
    """
    key = named_key(jax.random.key(seed), NAME)
    say("known data, noise, and what the indices ignore")
    claims = [*_known(), *_noise(key), *_ignored(key)]
    count = _QUICK_NETWORKS if quick else NETWORKS
    say(f"{count} networks of {DEPTH} hidden layers")
    digits = data.load("digits")
    nets = [_activations(digits, DEPTH, WIDTH, key, i) for i in track(range(count), "networks", show=progress)]
    found = {name: _pairs(nets, name) for name in MEASURES}
    claims += [_finds(found["cka"], DEPTH), *(_misses(name, found[name]) for name in MEASURES[1:])]
    deep: dict[str, LayerSimilarity] = {}
    if not quick:
        say(f"{count} networks of {DEEP} hidden layers")
        own = [_activations(digits, DEEP, WIDTH, key, i) for i in track(range(count), "deeper networks", show=progress)]
        deep = _pairs(own, "cka")
    claims.append(_finds(deep, DEEP))
    say("narrower networks")
    some = nets[:_AT_EACH_WIDTH]
    widths = {
        width: _pairs(
            some if width == WIDTH else [_activations(digits, DEPTH, width, key, i) for i in range(len(some))],
            "cka_debiased",
        )
        for width in WIDTHS
    }
    claims.append(_grows(widths))
    results: dict[str, Result] = {f"{name}_{pair}": own for name in found for pair, own in found[name].items()}
    results |= {f"deep_{pair}": own for pair, own in deep.items()}
    results |= {f"width_{width}_{pair}": own for width in widths for pair, own in widths[width].items()}
    return Study(
        name=NAME,
        title="Similarity of Neural Network Representations Revisited",
        citation="Kornblith, Norouzi, Lee, Hinton. ICML 2019, arXiv 1905.00414.",
        claims=tuple(claims),
        results=results,
        figures=tuple(f"{name}_0_1" for name in MEASURES),
        seed=seed,
        quick=quick,
    )


# Known data.


def demonstration() -> tuple[np.ndarray, np.ndarray]:
    """The data of the notebook that came with the paper, by NumPy's old generator."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    return x, rng.randn(100, 10) + x


def _known() -> tuple[StudyClaim, ...]:
    x, y = demonstration()
    canonical, running = features.cca(x, y), features.MinibatchCKA()
    for batch in zip(np.split(x, 10), np.split(y, 10), strict=True):
        running.update(*batch)
    ranks = features.rank_report(np.diag([3.0, 1.0]))
    blocks, signs = np.kron(np.eye(2), np.array([[2.0, 1.0], [1.0, 2.0]])), [1, 1, -1, -1]
    return (
        _meets(
            "demonstration",
            "CKA of the demonstration's data: linear, debiased, Gaussian with bandwidth 0.5.",
            (features.cka(x, y), features.cka(x, y, debiased=True), features.cka(x, y, kernel="rbf", bandwidth=0.5)),
            (0.55761, 0.51346, 0.65483),
            5,
            published="0.55761, 0.51346, 0.65483",
        ),
        _meets(
            "other_indices",
            "On the same data mean rho^2, mean rho, PWCCA, Procrustes d^2, RSA, RSA of centered columns and CKA in ten "
            "batches have the values of separate code.",
            (
                canonical.mean_squared,
                canonical.mean,
                float(features.pwcca(x, y)),
                features.procrustes(x, y),
                features.rsa(x, y),
                features.rsa(x - x.mean(axis=0), y - y.mean(axis=0)),
                running.compute(),
            ),
            (0.545396, 0.731014, 0.734668, 0.527489, 0.472440, 0.477870, 0.543731),
            6,
        ),
        _meets(
            "ranks",
            "Singular values (3, 1) have stable rank 1.1111, effective rank 1.7548, participation ratio 1.2195.",
            (ranks.stable_rank, ranks.effective_rank, ranks.participation_ratio),
            (1.1111, 1.7548, 1.2195),
            4,
        ),
        _meets(
            "alignment",
            "The alignment of two blocks with their labels is 0.67082, and 0.90453 centered.",
            (features.kta(blocks, signs), features.kta(blocks, signs, centered=True)),
            (0.67082, 0.90453),
            5,
        ),
    )


def _meets(
    name: str, statement: str, values: tuple[float, ...], known: tuple[float, ...], places: int, *, published: str = ""
) -> StudyClaim:
    """That values are the known ones, which are rounded to so many places."""
    return claim(
        name,
        statement,
        value=float(np.max(np.abs(np.subtract(values, known)))),
        high=0.5 * 10.0**-places * (1 + 1e-9),
        published=published,
        measured=", ".join(f"{value:.{places}f}" for value in values),
        evidence=EXACT,
    )


# Noise.


def _noise(key: jax.Array) -> tuple[StudyClaim, StudyClaim]:
    """Independent Gaussian representations, of which nothing is alike."""
    plain, debiased = [], []
    for i in range(_DRAWS):
        rng = named_generator(key, "independent", i)
        x, y = rng.normal(size=(2, _SAMPLES, _FEATURES))
        plain.append(features.cka(x, y))
        debiased.append(features.cka(x, y, debiased=True))
    expected = _FEATURES / (_FEATURES + _SAMPLES - 1)
    where = f"{_SAMPLES} samples of {_FEATURES} independent Gaussian features"
    return (
        claim(
            "bias",
            f"Of {where} linear CKA is about p / (p + n - 1) = {expected:.3f} and not 0.",
            value=np.mean(plain),
            stderr=np.std(plain, ddof=1) / math.sqrt(_DRAWS),
            low=expected - 0.02,
            high=expected + 0.02,
        ),
        claim(
            "debiased",
            f"Of {where} debiased CKA is about 0.",
            value=np.mean(debiased),
            stderr=np.std(debiased, ddof=1) / math.sqrt(_DRAWS),
            low=-0.015,
            high=0.015,
        ),
    )


# What the indices ignore.


def _ignored(key: jax.Array) -> tuple[StudyClaim, ...]:
    rng = named_generator(key, "maps")
    x, y = demonstration()
    turned = 3.0 * x @ linalg.qr(rng.normal(size=(10, 10)))[0] - 7.0
    mapped = x @ (rng.normal(size=(10, 10)) + 3.0 * np.eye(10))
    wide = [np.pad(part, ((0, 0), (0, 120))) for part in (x, y)]
    euclidean = partial(features.rsa, distance="euclidean")
    names: tuple[SimilarityName, ...] = ("cka", "cka_rbf", "cka_debiased", "procrustes")
    indices: list[Callable[[np.ndarray, np.ndarray], float]] = [
        *(partial(features.similarity, metric=name) for name in names),
        euclidean,
    ]
    everything = (*names, *MEASURES[1:], "rsa")
    return (
        _unchanged(
            "orthogonal_maps",
            "CKA, Procrustes and RSA of Euclidean distances ignore rotations, isotropic scale and shifts.",
            [index(turned, y) - index(x, y) for index in indices],
        ),
        _unchanged(
            "invertible_maps",
            "Canonical correlations ignore every invertible linear map.",
            features.cca(mapped, y).rho - features.cca(x, y).rho,
        ),
        claim(
            "not_invertible_maps",
            "CKA does not ignore invertible linear maps.",
            value=abs(features.cka(mapped, y) - features.cka(x, y)),
            low=0.01,
            evidence=EXACT,
        ),
        _unchanged(
            "itself",
            "The similarity of a representation and itself is 1 by every index.",
            [features.similarity(x, x.copy(), name) - 1 for name in everything],
        ),
        _unchanged(
            "two_routes",
            "From Gram matrices and from features CKA is the same.",
            [
                features.cka(*wide, debiased=debiased) - features.cka(x, y, debiased=debiased)
                for debiased in (False, True)
            ],
        ),
    )


def _unchanged(name: str, statement: str, differences: Any) -> StudyClaim:
    return claim(name, statement, value=float(np.max(np.abs(differences))), high=1e-10, evidence=EXACT)


# Trained networks.


def _activations(digits: data.Dataset, depth: int, width: int, key: jax.Array, i: int) -> Acts:
    """The hidden layers of a trained network on all digits, after their nonlinearity."""
    x, held_out = (part.astype("float32") for part in data.standardize(digits.x_train, digits.x_test, per="auto"))
    net = arch.fc(depth, width, 10, activation=arch.Relu(), w_std=2**0.5, b_std=None, param="standard")
    params = net.init(named_key(key, "network", depth, width, i), x.shape[1:], dtype="float32")
    system = System(net.apply, params, x, digits.y_train, loss="cross_entropy", reduction="mean")
    order = named_key(key, "batches", depth, width, i)
    trained = fit(system, _adam(), _STEPS, _BATCH, key=order, progress=False).params
    every = features.layer_activations(net, trained, np.concatenate([x, held_out]))
    return {name: h for name, h in every.items() if name.endswith("Relu")}


def _pairs(nets: list[Acts], measure: SimilarityName) -> dict[str, LayerSimilarity]:
    """The layers of each pair of networks."""
    return {
        f"{i}_{j}": features.layer_similarity(nets[i], nets[j], measure) for i, j in combinations(range(len(nets)), 2)
    }


def _hits(pairs: Mapping[str, LayerSimilarity]) -> tuple[int, int]:
    """How often the most similar layer is the corresponding one, of how many."""
    held = sum(own == other for pair in pairs.values() for own, other in pair.best.items())
    return held, sum(len(pair.layers1) for pair in pairs.values())


def _finds(pairs: Mapping[str, LayerSimilarity], depth: int) -> StudyClaim:
    held, many = _hits(pairs)
    trials = depth * math.comb(NETWORKS, 2)
    deep = depth == DEEP
    return claim_of_count(
        "corresponding_deep" if deep else "corresponding_cka",
        f"Of networks with {depth} hidden layers, the layer that is most similar by CKA is nearly always the "
        "corresponding one.",
        held=held,
        trials=trials,
        needed=math.ceil(_FOUND * trials),
        undecided=trials - many,
        published="nearly always, for convolutional networks of ten layers",
        measured=_counted(held, many, depth),
    )


def _misses(name: str, pairs: Mapping[str, LayerSimilarity]) -> StudyClaim:
    held, many = _hits(pairs)
    trials = DEPTH * math.comb(NETWORKS, 2)
    return claim_of_count(
        f"corresponding_{name}",
        f"The layer that is most similar by {name.upper()} is mostly another one than the corresponding layer.",
        held=many - held,
        trials=trials,
        needed=trials // 2 + 1,
        undecided=trials - many,
        published="mostly another one",
        measured=_counted(held, many, DEPTH),
    )


def _counted(held: int, many: int, depth: int) -> str:
    return f"{held} of {many} layers find their counterpart; by chance 1 of {depth}" if many else "not run at this size"


def _grows(widths: Mapping[int, Mapping[str, LayerSimilarity]]) -> StudyClaim:
    means = [float(np.mean([np.diag(pair.matrix) for pair in widths[width].values()])) for width in WIDTHS]
    return claim_of_count(
        "width",
        "Wider networks from two seeds are more alike, layer by layer.",
        held=int(np.sum(np.diff(means) > 0)),
        trials=len(WIDTHS) - 1,
        needed=len(WIDTHS) - 1,
        published="similarity grows with width; no number for these networks",
        measured="debiased CKA of corresponding layers, mean over layers and pairs: "
        + ", ".join(f"{mean:.2f} at width {width}" for width, mean in zip(WIDTHS, means, strict=True)),
    )
