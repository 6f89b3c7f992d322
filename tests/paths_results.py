"""One small instance of every result of `paths`, for the contract of results."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape import paths
from widescape.core.result import Result
from widescape.curvature import System
from widescape.paths import Layered

X = np.random.default_rng(0).normal(size=(6, 2))
Y = np.array([0, 1, 0, 1, 1, 0])
SPEC = paths.mlp_spec(1)


def net(seed: int) -> Layered:
    rng = np.random.default_rng(seed)
    sizes = ((2, 4), (4, 2))
    return Layered([(rng.normal(size=size), rng.normal(size=size[1])) for size in sizes], jnp.tanh)


@cache
def system(seed: int) -> System:
    return System(Layered.__call__, net(seed), X, Y, loss="cross_entropy", reduction="mean")


@cache
def condition(seed: int) -> paths.ConditionReport:
    return paths.feature_condition(system(seed), draws=2, steps=5)


@cache
def path() -> paths.PiecewiseLinearPath:
    return paths.connect(system(0), system(1), condition(0), condition(1))


def wells(w: Any) -> Any:
    return (w[0] ** 2 - 1) ** 2 + w[1] ** 2


LEFT, RIGHT = np.array([-1.0, 0.0]), np.array([1.0, 0.0])


def further(params: Any, key: Any, start: int, stop: int) -> Any:
    return params + (stop - start) * 0.01 * np.asarray(jax.random.normal(key, (2,), "float32"), np.float64)


RESULTS: dict[str, Callable[[], Result]] = {
    "barrier": lambda: paths.barrier(wells, LEFT, RIGHT),
    "path profile": lambda: paths.evaluate_path(system(0), path(), 3),
    "curve": lambda: paths.fit_curve(wells, LEFT, RIGHT, steps=3, num=5),
    "elastic band": lambda: paths.neb(wells, LEFT, RIGHT, num_pivots=3, steps=3, lr=0.01),
    "connectivity tree": lambda: paths.connectivity_tree(np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])),
    "instability": lambda: paths.instability(further, wells, LEFT, (0, 2), jax.random.key(0), stop=4),
    "alignment": lambda: paths.weight_matching(SPEC, net(0), net(1)),
    "alignment of activations": lambda: paths.activation_matching(
        *(np.asarray(net(seed).as_float64().features(X, 1)) for seed in (0, 1))
    ),
    "merge": lambda: paths.merge(system(0), net(0), net(1), SPEC),
    "separability": lambda: paths.linear_separability(X, Y),
    "memorization probe": lambda: paths.memorization_probe(X, Y, (2, 4), steps=5),
    "feature tradeoff": lambda: paths.feature_tradeoff({"small": net(0)}, X, Y, widths=(2,), steps=5),
    "feature condition": lambda: condition(0),
    "dropout stability": lambda: paths.dropout_stability(system(0), draws=3),
    "losses of layers": lambda: paths.LayerLosses(
        condition=condition(0), dropout=paths.dropout_stability(system(0), draws=3)
    ),
    "losses of paths": lambda: paths.PathLosses(
        profile=paths.evaluate_path(system(0), path(), 3),
        line=paths.barrier(system(0), net(0), net(1)),
        levels={"dropout": 0.5},
    ),
    "path bound": lambda: paths.path_bound(path(), system(0), system(1), condition(0), condition(1)),
}
