"""Ensembles against single runs, and finite networks against their linearization and limit."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from widescape import arch, data, kernels, predict, train
from widescape.core.random import named_key
from widescape.curvature import System

NET = arch.fc(2, 24, 1, activation=arch.Gelu(), w_std=1.4, b_std=0.2)


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    return r.normal(size=(12, 4)), r.normal(size=(12, 1)), r.normal(size=(5, 4))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"linearize": True}, {"center": True}, {"batch_size": 5}])
def test_a_member_is_the_run_of_its_own_key(options: dict[str, Any], sets: Any) -> None:
    x, y, x_test = sets
    key = jax.random.key(3)
    run = train.ensemble(NET, key, 3, x, y, optax.adam(0.02), 20, x_test=x_test, drift_examples=4, **options)
    for i in range(3):
        own = named_key(key, "member", i)
        params = NET.init(own, (4,), dtype="float64")
        system = System(NET.apply, params, x, y, reduction="mean")
        single = train.fit(system, optax.adam(0.02), 20, key=own, drift_examples=4, **options)
        np.testing.assert_allclose(run.loss[:, i], single.loss, rtol=1e-9)
        np.testing.assert_allclose(run.distance[:, i], single.distance, rtol=1e-9)
        if "linearize" not in options:
            outputs = System(NET.apply, params, x_test).F(single.w)
            start = System(NET.apply, params, x_test).F()
            centered = "center" in options
            np.testing.assert_allclose(run.outputs[i], outputs - start if centered else outputs, rtol=1e-8)
            np.testing.assert_allclose(run.initial_outputs[i], 0 * start if centered else start, rtol=1e-12)
            np.testing.assert_allclose(run.drift[i], single.drift[-1], rtol=1e-7)
        else:
            assert run.drift[i] == 0
    np.testing.assert_array_equal(run.steps, single.steps)
    np.testing.assert_allclose(run.mean, run.outputs.mean(0))
    np.testing.assert_allclose(run.stderr, run.outputs.std(0, ddof=1) / 3**0.5)


@pytest.mark.slow
def test_groups_do_not_change_the_members(sets: Any) -> None:
    x, y, x_test = sets
    options = {"x_test": x_test, "drift_examples": 3, "penalty": train.Penalty(0.01, to_start=True)}
    one = train.ensemble(NET, jax.random.key(1), 5, x, y, 0.1, 12, members_at_once=5, **options)
    two = train.ensemble(NET, jax.random.key(1), 5, x, y, 0.1, 12, members_at_once=2, **options)
    np.testing.assert_allclose(one.outputs, two.outputs, rtol=1e-9)
    np.testing.assert_allclose(one.drift, two.drift, rtol=1e-7)


def test_linearized_members_end_at_their_kernels_predictions(sets: Any) -> None:
    x, y, x_test = sets
    key = jax.random.key(2)
    run = train.ensemble(NET, key, 2, x, y, 0.2, 50, x_test=x_test, linearize=True)
    for i in range(2):
        params = NET.init(named_key(key, "member", i), (4,), dtype="float64")
        K, cross = (kernels.empirical_ntk(NET.apply, params, a, b) for a, b in ((x, None), (x_test, x)))
        starts = {"f0_train": run.initial_train_outputs[i], "f0_test": run.initial_outputs[i]}
        np.testing.assert_allclose(
            run.outputs[i], predict.discrete_gd(K, y, 0.2, 50, K_test=cross, **starts), rtol=1e-9
        )


def test_a_pair_of_functions_and_divergence(sets: Any) -> None:
    x, y, _ = sets
    pair = (lambda key: jax.random.normal(key, (4, 1), np.float32), lambda w, x: x @ w)
    run = train.ensemble(pair, jax.random.key(4), 2, x.astype(np.float32), y.astype(np.float32), 100.0, 100)
    assert run.diverged.all()
    wild = train.ensemble(pair, jax.random.key(4), 2, x, y, 100.0, 100)  # float64 data: finite, and beyond squaring
    assert np.abs(wild.mean).max() > 1e160
    calm = train.ensemble(pair, jax.random.key(4), 1, x.astype(np.float32), y.astype(np.float32), 0.1, 10)
    assert not calm.diverged.any()
    assert np.isinf(calm.stderr).all()
    assert calm.outputs.dtype == np.float32


def test_members_of_a_pair_are_drawn_as_the_pair_draws_them(sets: Any) -> None:
    x, y, _ = sets
    key = jax.random.key(5)

    def init(own: Any) -> Any:
        return jax.random.normal(own, (4, 1))

    run = train.ensemble((init, lambda w, x: x @ w), key, 2, x, y, 0.0, 0)
    for i in range(2):
        w = np.asarray(init(named_key(key, "member", i)), np.float64)
        np.testing.assert_allclose(run.outputs[i], x @ w, rtol=1e-12)


def test_large_training_sets_need_no_kernel(sets: Any) -> None:
    x = np.random.default_rng(0).normal(size=(150_000, 3)).astype(np.float32)
    pair = (lambda key: jax.random.normal(key, (3,)), lambda w, x: x @ w)
    run = train.ensemble(pair, jax.random.key(0), 2, x, np.ones(len(x), np.float32), 0.01, 2)
    assert not run.diverged.any()


def test_bad_arguments_are_refused(sets: Any) -> None:
    x, y, _ = sets
    with pytest.raises(ValueError, match="num_members"):
        train.ensemble(NET, jax.random.key(0), 0, x, y, 0.1, 1)
    with pytest.raises(ValueError, match="batch_size"):
        train.ensemble(NET, jax.random.key(0), 1, x, y, 0.1, 1, batch_size=13)
    with pytest.raises(TypeError, match="pair"):
        train.ensemble(3, jax.random.key(0), 1, x, y, 0.1, 1)


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E7")
def test_finite_networks_approach_their_linearization_with_width(measured: Any) -> None:
    digits = data.load("digits")
    images = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 64)
    labels = np.concatenate([digits.y_train, digits.y_test])
    two = labels < 2
    x, y = images[two].astype(np.float64), np.where(labels[two] == 1, 1.0, -1.0)[:, None]
    x = (x - x[:40].mean()) / x[:40].std()
    x_train, y_train, x_test = x[:40], y[:40], x[40:80]
    net = arch.fc(2, 64, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    limit = net.kernel(x_train, get="ntk").ntk
    rate = 0.5 * predict.max_learning_rate(limit, 1)
    key, distances, drifts, errors = jax.random.key(0), [], [], []
    for width in (64, 256, 1024):
        run = train.ensemble(
            net, key, 5, x_train, y_train, rate, 1000, x_test=x_test, width=width, dtype="float32", drift_examples=40
        )
        own = net.with_hidden_width(width)
        rmse, initial = [], []
        for i in range(5):
            params = own.init(named_key(key, "member", i), (64,), dtype="float32")
            K, cross = (kernels.empirical_ntk(own.apply, params, a, b) for a, b in ((x_train, None), (x_test, x_train)))
            starts = {"f0_train": run.initial_train_outputs[i], "f0_test": run.initial_outputs[i]}
            linear = predict.discrete_gd(K, y_train, rate, 1000, K_test=cross, **starts)
            rmse.append(np.sqrt(np.mean((run.outputs[i] - linear) ** 2)))
            initial.append(np.linalg.norm(K - limit) / np.linalg.norm(limit))
        distances.append(np.median(rmse))
        drifts.append(np.median(run.drift))
        errors.append(np.median(initial))
    measured(
        "widths 64, 256, 1024: RMSE to the linearization "
        + ", ".join(f"{v:.3f}" for v in distances)
        + "; kernel change "
        + ", ".join(f"{v:.3f}" for v in drifts)
        + "; initial kernel error "
        + ", ".join(f"{v:.3f}" for v in errors)
    )
    assert (np.diff(distances) < 0).all()
    assert (np.diff(drifts) < 0).all()
    assert distances[0] >= 1.8 * distances[2]
    assert drifts[0] >= 4 * drifts[2]
    assert errors[2] <= 0.7 * errors[0]
