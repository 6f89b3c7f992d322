"""One small instance of every result about representations, for the contract of results."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

from widescape import arch, features

H = np.random.default_rng(0).normal(size=(40, 3))
OTHER = np.tanh(H @ np.random.default_rng(1).normal(size=(3, 2)))
Y = H[:, 0] * H[:, 1]
W0, A = features.taylor_weights(6, 3)
LABELS = (Y > 0).astype(int)


def _mean_of_targets(x: Any, y: Any, *, validation: Any, unlabeled: Any, seed: int) -> Callable[[Any], np.ndarray]:
    del x, validation, unlabeled, seed
    return lambda new: np.full(len(new), float(np.mean(y)))


@cache
def curve(d: int = 3) -> features.SampleComplexity:
    problem = features.LowRankPolynomial(d, 2, kind="harmonic")
    return features.sample_complexity_curve(
        {"mean": _mean_of_targets}, problem, (4, 8, 16), (0, 1), n_val=4, n_test=20, progress=False
    )


@cache
def layers() -> features.LayerSimilarity:
    net = arch.Sequential(arch.Dense(4), arch.Relu(), arch.Dense(2))
    one, two = (features.layer_activations(net, net.init(jax.random.key(s), (3,)), H) for s in (0, 1))
    return features.layer_similarity(one, two)


@cache
def quadratic() -> features.QuadraticFit:
    return features.fit_quadratic_taylor(H, Y, W0, A, lam=1e-2, activation="square", max_iter=5, certify=True)


RESULTS: dict[str, Callable[[], Any]] = {
    "bootstrap ranks": lambda: features.bootstrap_rank_theory(np.diag([0.9, 0.1]), (1, 5), 0.1),
    "canonical correlations": lambda: features.pwcca(H, OTHER),
    "convex quadratic": lambda: features.solve_convex_quadratic(H, Y, lam=1e-2, tol=1e-4),
    "degree energies": lambda: features.degree_energies(4),
    "layer similarity": layers,
    "lam selection": lambda: features.select_lam(
        H[:30], Y[:30], H[30:], Y[30:], (1e-2,), W0=W0, a=A, activation="square", max_iter=5
    ),
    "linear read-out": lambda: features.linear_readout(H[:30], LABELS[:30], H[30:], LABELS[30:]),
    "linear taylor fit": lambda: features.fit_linear_taylor(H, Y, W0, A),
    "neighbors read-out": lambda: features.nearest_neighbors_readout(H[:30], LABELS[:30], H[30:], LABELS[30:]),
    "quadratic fit": quadratic,
    "rademacher bound": lambda: features.quad_rademacher_bound(H, 1.0),
    "rank report": lambda: features.rank_report(H),
    "rank trace": lambda: features.rank_trace(lambda scale, x: x * scale, [1.0, 2.0], H),
    "sample complexity": curve,
    "sample exponent": lambda: features.fit_exponent({4: curve(4), 5: curve(5)}, "mean", level=1.2),
    "second moment": lambda: features.second_moment(H),
    "second-order certificate": lambda: quadratic().certificate,
    "sign-randomized fit": lambda: features.fit_sign_randomized(H, Y, W0, A, lam=1e-2, steps=5),
    "whitening": lambda: features.whitening(features.second_moment(H)),
}
