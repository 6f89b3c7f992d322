"""One small instance of every result about minima, for the contract of results."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape import landscape
from widescape.landscape import problems


@cache
def neuron() -> tuple[landscape.AugModel, Any]:
    trap = problems.affine_trap()
    model = landscape.augment_exp(trap.f, dx=1, dy=1, coords="scaled")
    return model, model.init(jax.random.key(0), trap.params("trap"))


def trained() -> landscape.TrainReport:
    trap, (model, start) = problems.affine_trap(), neuron()
    return landscape.train_augmented(model, trap.loss, start, (trap.X, trap.y), opt=0.01, steps=4, progress=False)


def row() -> landscape.MonitorRow:
    trap, (model, start) = problems.affine_trap(), neuron()
    return landscape.EscapeMonitor(model, trap.loss, 1e-2).update(start, trap.X, trap.y)


def census() -> landscape.EliminationCensus:
    trap = problems.affine_trap()
    starts = trap.starts(2)
    return landscape.elimination_census(trap.f, trap.loss, starts, trap.X, trap.y, opt=0.01, steps=4, progress=False)


def escape() -> landscape.EscapeReport:
    return landscape.escape_value([1.0, 1.0, 1.0], [[-1.0], [0.0], [1.0]], [1.0, 0.0, 2.0], "square", restarts=4)


def chain_certificate() -> landscape.PGBReport:
    chain = problems.linear_chain()
    return landscape.pgb_certificate(
        *landscape.model_basis(chain.system("origin")), chain.params("origin"), n_dirs=4, progress=False
    )


def chain_point(name: str) -> landscape.PointReport:
    chain = problems.linear_chain()
    phi, outer = landscape.model_basis(chain.system(name))
    return landscape.classify_point(chain.objective, chain.params(name), phi=phi, Q=outer, n_dirs=4)


@cache
def found() -> landscape.CPReport:
    quartic = problems.quartic()
    (report,) = landscape.find_critical_points(quartic.objective, [quartic.params("minimum")], progress=False)
    return report


def resnet() -> landscape.ResNetReport:
    problem = problems.degenerate_resnet()
    params = problem.params("degenerate")
    z = np.tanh(problem.X @ np.asarray(params["U"]).T)
    return landscape.resnet_certificate(params["W"], params["R"], z, problem.X, problem.y)


def contributions() -> landscape.LayerContributions:
    x = np.array([[0.0], [1.0], [2.0]])
    return landscape.layer_contributions(lambda w, x: x @ w, np.array([[1.0]]), x, x)


RESULTS: dict[str, Callable[[], Any]] = {
    "training with an added neuron": trained,
    "row of a monitor": row,
    "census of an added neuron": census,
    "training a scaled loss": lambda: landscape.train_scaled(
        lambda w: jnp.sum(w**2), np.ones(2), opt=0.01, steps=4, progress=False
    ),
    "escape value": escape,
    "gradient basis": chain_certificate,
    "degenerate saddle": lambda: chain_point("origin"),
    "minimum of a chain": lambda: chain_point("optimum"),
    "critical point": found,
    "least squares of least length": lambda: landscape.minres_qlp(lambda v: np.array([1.0, 0.0]) * v, np.ones(2)),
    "starts by loss": lambda: landscape.loss_uniform_starts(
        problems.quartic().objective, np.array([1.0, 1.0]), num=2, lr=0.01, steps=5, progress=False
    ),
    "contributions of layers": contributions,
    "depth and width": lambda: landscape.depth_width_sweep(
        (1,), (1, 2), 1, (np.linspace(-1, 1, 4)[:, None], np.linspace(0, 1, 4)), max_steps=5, progress=False
    ),
    "residual model": resnet,
    "searches beside known points": lambda: landscape.CriticalPointSearches(
        points=(found(),), losses=np.array([6.25]), indices=np.zeros(1, int)
    ),
    "searches of residual models": lambda: landscape.ResidualSearches(
        reports=(resnet(),), grad_norms=np.zeros(1), sizes=np.ones(1), lambda_min=None
    ),
}
