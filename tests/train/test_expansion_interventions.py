"""Functions made from functions, and parameterizations that train alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widescape import arch, kernels, train
from widescape.curvature import System

NET = arch.fc(2, 16, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2)


@pytest.fixture
def params() -> Any:
    return NET.init(jax.random.key(0), (3,), dtype="float64")


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(7, 3))


def moved(params: Any, size: float, seed: int = 2) -> Any:
    r = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + size * r.normal(size=leaf.shape), params)


@pytest.mark.claim("lee2020finite/I10")
@pytest.mark.parametrize("method", ["jacobian", "ntvp", "structured"])
def test_the_tangent_kernel_of_a_linearized_network_is_constant(
    method: Any, params: Any, x: Any, measured: Any
) -> None:
    line = train.linearize(NET.apply, params)
    start = kernels.empirical_ntk(NET.apply, params, x, outputs="full")
    worst = 0.0
    for size in (0.0, 0.1, 3.0):
        kernel = kernels.empirical_ntk(line, moved(params, size), x, method=method, outputs="full")
        worst = max(worst, np.abs(kernel - start).max() / np.abs(start).max())
    assert worst < 1e-12
    measured(f"{method}: {worst:.0e}")


@pytest.mark.slow
def test_the_expansion_is_tangent_to_the_network_at_each_order(params: Any, x: np.ndarray) -> None:
    with jax.enable_x64(True):
        errors = []
        for order in (0, 1, 2, 3):
            f = train.taylor(NET.apply, params, order)
            np.testing.assert_allclose(f(params, x), NET.apply(params, x), rtol=1e-14)
            sizes = (0.04, 0.02)
            gaps = [np.abs(f(moved(params, s), x) - NET.apply(moved(params, s), x)).max() for s in sizes]
            assert np.log2(gaps[0] / gaps[1]) == pytest.approx(order + 1, abs=0.35)
            errors.append(gaps[1])
        assert (np.diff(errors) < 0).all()
        step = jax.tree.map(np.subtract, moved(params, 0.3), params)
        tangent = jax.jvp(lambda p: NET.apply(p, x), (params,), (jax.tree.map(jnp.asarray, step),))[1]
        line = train.linearize(NET.apply, params)(moved(params, 0.3), x)
        np.testing.assert_allclose(line, NET.apply(params, x) + tangent, rtol=1e-11)


def test_a_centered_network_starts_at_zero_with_the_same_gradient(params: Any, x: np.ndarray) -> None:
    centered = train.center(NET.apply, params)
    with jax.enable_x64(True):
        assert (np.asarray(centered(params, x)) == 0).all()
    np.testing.assert_allclose(
        kernels.empirical_ntk(centered, params, x), kernels.empirical_ntk(NET.apply, params, x), rtol=1e-12
    )


def test_order_is_checked(params: Any) -> None:
    with pytest.raises(ValueError, match="order"):
        train.taylor(NET.apply, params, -1)


STANDARD = {
    "naive": arch.fc(2, 16, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2, param="standard"),
    "improved": arch.fc(2, 16, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2, param="standard", base_width=4),
}


@pytest.mark.parametrize("name", STANDARD)
def test_variances_are_those_of_the_draws(name: str) -> None:
    net = STANDARD[name]
    variances = net.initial_variances((50,), width=400)
    draws = net.init(jax.random.key(3), (50,), width=400, dtype="float64")
    for variance, leaf in zip(jax.tree.leaves(variances), jax.tree.leaves(draws), strict=True):
        if leaf.size > 300:
            assert np.mean(np.square(leaf, dtype=np.float64)) == pytest.approx(
                variance, rel=4.5 * (2 / leaf.size) ** 0.5
            )
    assert jax.tree.structure(variances) == jax.tree.structure(draws)
    assert set(jax.tree.leaves(NET.initial_variances((50,)))) == {1.0}


@pytest.mark.claim("lee2020finite/I13")
@pytest.mark.claim("lee2020finite/I14")
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("name", STANDARD)
def test_ntk_and_standard_parameterization_train_alike_with_mapped_rates(
    name: str, decay: float, x: np.ndarray, measured: Any
) -> None:
    standard = STANDARD[name]
    variances = standard.initial_variances((3,))
    omega = NET.init(jax.random.key(4), (3,), dtype="float64")
    weights = jax.tree.map(lambda leaf, v: np.asarray(leaf) * v**0.5, omega, variances)
    y = np.random.default_rng(5).normal(size=(7, 2))
    ntk = System(NET.apply, omega, x, y, reduction="mean")
    other = System(standard.apply, weights, x, y, reduction="mean")
    np.testing.assert_allclose(ntk.F(), other.F(), rtol=1e-12)
    mapped = optax.chain(optax.sgd(0.3), train.scale_updates(variances))
    plain = train.Penalty(decay)
    layerwise = train.Penalty(decay, train.layerwise_weights(variances))
    worst = 0.0
    for steps in (1, 2, 40):
        first = train.fit(ntk, 0.3, steps, penalty=plain)
        second = train.fit(other, mapped, steps, penalty=layerwise)
        a, b = ntk.F(first.w), other.F(second.w)
        worst = max(worst, np.abs(a - b).max() / np.abs(a).max())
    assert worst < 1e-10
    assert np.abs(a - ntk.F()).max() > 0.1
    measured(f"{name}, decay {decay}: {worst:.0e}")


def test_a_bias_that_starts_at_zero_does_not_decay() -> None:
    net = arch.Sequential(arch.Dense(4, 1.0, 0.0, "standard"), arch.Relu(), arch.Dense(1, 1.0, None, "standard"))
    weights = train.layerwise_weights(net.initial_variances((3,)))
    assert weights[0] == {"w": pytest.approx(3.0), "b": 0.0}
    assert weights[2] == {"w": pytest.approx(4.0)}


def test_decay_to_the_start_is_the_regularized_flow_of_the_linear_model(x: np.ndarray) -> None:
    from widescape import predict

    w0, y = np.array([0.3, -0.2, 0.5]), np.random.default_rng(6).normal(size=7)
    system = System(lambda w, x: x @ w, w0, x, y, reduction="mean")
    run = train.fit(system, 0.2, 30, penalty=train.Penalty(0.4 / 7, to_start=True))
    expected = predict.discrete_gd(x @ x.T, y, 0.2, 30, reg=0.4, reg_scale="absolute", f0_train=x @ w0)
    np.testing.assert_allclose(system.F(run.w), expected, rtol=1e-11)
