"""One small instance of every result of `curvature`, `landscape` and `studies`, for the contract of results."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from widescape import curvature, landscape, studies
from widescape.curvature import System


def product(params: Any, x: Any) -> Any:
    """w1 w2 + w3 w4, whose minima form a manifold."""
    return (params[0] * params[1] + params[2] * params[3])[None]


@cache
def saddle() -> System:
    return System(product, np.array([1.1, 1.0, 0.1, 0.2]), np.zeros(1), np.array([1.0]))


@cache
def tanh() -> System:
    x = np.random.default_rng(0).normal(size=(3, 2))
    w = np.random.default_rng(1).normal(size=(2, 6))
    return System(lambda w, x: jnp.tanh(x @ w).sum(axis=1) / 6**0.5, w, x, np.array([0.1, -0.2, 0.3]))


@cache
def run() -> landscape.Descent:
    return landscape.gradient_descent(saddle(), 0.1, 12, keep_every=4)


def diagonal(v: np.ndarray) -> np.ndarray:
    return np.arange(1.0, 8.0) * v


def direction(*entries: float) -> np.ndarray:
    return np.array(entries, dtype=float)


def network_of_width(m: int, key: Any) -> System:
    return System(lambda w, x: jnp.tanh(w).sum()[None] / m, np.linspace(0.1, 1, m), np.zeros(1), np.ones(1))


def certificate() -> landscape.Certificate:
    return landscape.certify_pl_star(saddle(), hessian_bound=1.0)


def study() -> studies.Study:
    return studies.Study(
        name="liu2020loss",
        title="A study",
        citation="Somebody, 1900",
        claims=(study_claim(), studies.claim_of_count("E2", "A count.", held=3, trials=4, needed=2)),
        results={"run": run()},
        figures=("run",),
        seed=0,
        quick=True,
    )


def study_claim() -> studies.StudyClaim:
    return studies.claim("E1", "A statement.", value=0.5, stderr=0.01, low=0.4, high=0.6)


RESULTS: dict[str, Callable[[], Any]] = {
    "dense tangent spectrum": lambda: curvature.kernel_spectrum(tanh()),
    "tangent spectrum by Lanczos": lambda: curvature.kernel_spectrum(tanh(), method="lanczos"),
    "certified matrix": lambda: curvature.certify_lambda_min(np.eye(3), 0.5),
    "tridiagonal matrix": lambda: curvature.lanczos(diagonal, 7, 4),
    "top eigenvalues": lambda: curvature.top_eigs(diagonal, 7, 2, which="SA"),
    "trace": lambda: curvature.trace(diagonal, 7, budget=6),
    "spectral density": lambda: curvature.slq_density(diagonal, 7, 4, probes=3),
    "spectral density of one probe": lambda: curvature.slq_density(diagonal, 7, 4, probes=1),
    "PL along a run": lambda: landscape.pl_trajectory(saddle(), run(), eps=1e-3),
    "PL without spectrum": lambda: landscape.pl_trajectory(saddle(), run(), spectrum=False),
    "PL at the floor": lambda: landscape.pl_trajectory(saddle(), direction(1, 1, 0, 0)[None]),
    "ball": lambda: landscape.pl_on_ball(saddle(), 0.1, n_samples=2, adversarial=2),
    "norm of the second derivative": lambda: landscape.hessian_norm(tanh(), iters=3),
    "norm of single outputs": lambda: landscape.hessian_norm(tanh(), kind="max_output"),
    "certificate": certificate,
    "certificate of nothing": lambda: landscape.certify_pl_star(saddle(), hessian_bound=9.0),
    "certificate by search": lambda: landscape.certify_pl_star(tanh()),
    "singular certificate": lambda: landscape.certify_pl_star(saddle(), np.zeros(4), hessian_bound=1.0),
    "first certified step": lambda: landscape.first_certified_step(saddle(), run(), hessian_bound=1.0),
    "no certified step": lambda: landscape.first_certified_step(saddle(), run(), hessian_bound=99.0),
    "checked certificate": lambda: landscape.check_certificate(saddle(), certificate(), 5, looks=2),
    "descent": run,
    "diverged descent": lambda: landscape.gradient_descent(saddle(), 1e3, 50),
    "predicted loss": lambda: landscape.predict_gd(tanh(), 0.1, 4),
    "predicted loss by Lanczos": lambda: landscape.predict_gd(tanh(), 0.1, 4, mode="lanczos", k=2),
    "rates": lambda: landscape.compare_gd_rate(tanh(), 0.3, 40, window=(1e-6, 0.5)),
    "rates outside of the window": lambda: landscape.compare_gd_rate(tanh(), 0.1, 3),
    "linearity gap": lambda: landscape.linearity_gap(tanh(), 0.1, n_samples=2),
    "path": lambda: landscape.path_diagnostics(saddle(), run(), hessian_bound=1.0),
    "path without certificates": lambda: landscape.path_diagnostics(saddle(), run(), certify=False),
    "nonconvexity": lambda: landscape.nonconvexity_probe(saddle(), n_directions=1),
    "width scaling": lambda: landscape.width_scaling(network_of_width, [3, 6], seeds=2),
    "sharpness along a run": lambda: landscape.track_sharpness(saddle(), 0.1, 6, 2),
    "catapult": lambda: landscape.catapult_uv(np.array([0.5, 0.1]), np.array([0.2, 0.4]), 0.5, 5),
    "profile": lambda: landscape.surface_1d(saddle(), None, direction(1, 0, 0, 0), np.linspace(-1, 1, 5)),
    "surface": lambda: landscape.surface_2d(
        saddle(),
        None,
        direction(1, 0, 0, 0),
        direction(0, 1, 0, 0),
        np.linspace(-1, 1, 4),
        np.linspace(-1, 1, 3),
        trajectory=run(),
    ),
    "directions of a run": lambda: landscape.trajectory_directions(run()),
    "directions of the Hessian": lambda: landscape.hessian_directions(saddle()),
    "projected run": lambda: landscape.project_trajectory(run(), direction(1, 0, 0, 0), direction(0, 1, 0, 0)),
    "sharpness": lambda: landscape.sharpness(saddle()),
    "sharpness of SAM": lambda: landscape.sharpness(saddle(), kind="sam"),
    "interpolation": lambda: landscape.mli_report(np.linspace(0, 1, 5), np.array([3.0, 2.0, 2.5, 1.0, 1.2])),
    "Gauss length": lambda: landscape.gauss_length(
        lambda w, x: jnp.tanh(x @ w), np.zeros((2, 2)), np.eye(2), np.ones((3, 2)), n=8
    ),
    "two-layer network": lambda: landscape.train_two_layer(np.eye(3), np.ones(3), 8, steps=4),
    "claim of a study": study_claim,
    "study": study,
}
