"""How far networks are from their linearization and their limit, against what defines these distances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch, kernels, predict, train
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.train.limit_distance import _meeting

NET = arch.fc(1, 16, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.2)


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, ...]:
    r = np.random.default_rng(0)
    return r.normal(size=(10, 3)), r.normal(size=(10, 2)), r.normal(size=(6, 3))


@pytest.fixture(scope="module")
def study(sets: Any) -> train.LimitDistance:
    x, y, x_test = sets
    return train.limit_distance(
        NET,
        jax.random.key(0),
        x,
        y,
        x_test,
        widths=(8, 64, 512),
        num_members=6,
        steps=25,
        dtype="float64",
        keep_runs=True,
    )


@pytest.mark.slow
def test_distances_are_those_of_the_networks_that_were_trained(study: Any, sets: Any) -> None:
    x, y, x_test = sets
    limit, cross = NET.kernel(x, get="ntk").ntk, NET.kernel(x_test, x, get="ntk").ntk
    narrow = []
    for i in range(6):
        params = NET.init(named_key(jax.random.key(0), "member", i), (3,), width=8, dtype="float64")
        full = kernels.empirical_ntk(NET.with_hidden_width(8).apply, params, x, outputs="full")
        narrow.append(2 * 10 / np.linalg.eigvalsh(full.transpose(0, 2, 1, 3).reshape(20, 20))[-1])
    assert study.rate == pytest.approx(min(predict.max_learning_rate(limit, 1), *narrow) / 2, rel=1e-5)
    rows = []
    for i in range(6):
        params = NET.init(named_key(jax.random.key(0), "member", i), (3,), width=512, dtype="float64")
        net = NET.with_hidden_width(512)
        system = System(net.apply, params, x, y, reduction="mean")
        start, start_test = system.F(), System(net.apply, params, x_test).F()
        ends = predict.discrete_gd(limit, y, 2 * study.rate, 25, K_test=cross, f0_train=start, f0_test=start_test)
        run, line = train.fit(system, study.rate, 25), train.fit(system, study.rate, 25, linearize=True)
        finite = System(net.apply, run.params, x_test).F()
        linear = System(train.linearize(net.apply, params), line.params, x_test).F()
        kernel, after = (kernels.empirical_ntk(net.apply, p, x) for p in (params, run.params))
        rows.append(
            [
                np.sqrt(np.mean((finite - ends) ** 2)),
                np.sqrt(np.mean((finite - linear) ** 2)),
                np.sqrt(np.mean((linear - ends) ** 2)),
                np.linalg.norm(after - kernel) / np.linalg.norm(kernel),
                np.linalg.norm(kernel - limit) / np.linalg.norm(limit),
            ]
        )
        if i == 0:
            np.testing.assert_allclose(study.finite.outputs[0], finite, rtol=1e-8)
            np.testing.assert_allclose(study.linearized.outputs[0], linear, rtol=1e-8)
    for j, name in enumerate(("finite_to_limit", "finite_to_linear", "linear_to_limit", "drift", "kernel_error")):
        column = np.array(rows)[:, j]
        assert getattr(study, name)[-1] == pytest.approx(column.mean(), rel=1e-6)
        assert getattr(study, f"{name}_stderr")[-1] == pytest.approx(column.std(ddof=1) / 6**0.5, rel=1e-5)


def test_all_distances_fall_with_the_width(study: train.LimitDistance) -> None:
    for name in ("finite_to_limit", "finite_to_linear", "linear_to_limit", "drift", "kernel_error"):
        assert (np.diff(getattr(study, name)) < 0).all(), name
    assert -0.8 < study.exponent < -0.2
    law = study.scale * study.tolerance / study.finite_to_limit[-1]
    assert study.meeting_width == pytest.approx(512 * law ** (1 / study.exponent), rel=0.3)
    assert [chart.name for chart in study.charts()] == ["distances", "kernels"]


def test_the_meeting_width_solves_the_power_law() -> None:
    widths = np.array([10, 100, 1000])
    law = 3.0 * widths**-0.5
    found = _meeting(widths, law, 0.01 * law, 0.03)
    assert found["exponent"] == pytest.approx(-0.5)
    assert found["meeting_width"] == pytest.approx(1e4)
    # Its error is that of a thousand noisy copies.
    r = np.random.default_rng(0)
    draws = [_meeting(widths, law * np.exp(0.01 * r.normal(size=3)), 0.01 * law, 0.03) for _ in range(1000)]
    calm = [d for d in draws if d["exponent_stderr"] < 1]
    spread = np.std([d["meeting_width"] for d in calm])
    assert found["meeting_width_stderr"] == pytest.approx(spread, rel=0.15)
    unknown = _meeting(widths, law, np.full(3, np.inf), 0.03)  # one member: only the scatter around the law counts
    assert unknown["exponent_stderr"] < 1e-12
    assert np.isinf(_meeting(widths, law[::-1], law, 0.03)["meeting_width"])
    assert np.isnan(_meeting(widths, np.array([1.0, np.nan, 1.0]), law, 0.03)["exponent"])


@pytest.mark.slow
def test_time_stops_after_three_widths_and_centering_takes_the_start_away(sets: Any) -> None:
    x, y, x_test = sets
    study = train.limit_distance(
        NET, jax.random.key(0), x, y, x_test, widths=(4, 8, 16, 32), num_members=2, steps=3, seconds=0.0, center=True,
        keep_runs=True,
    )  # fmt: skip
    assert study.widths.tolist() == [4, 8, 16]
    assert (study.finite.initial_outputs == 0).all()
    with pytest.raises(ValueError, match="at least three"):
        train.limit_distance(NET, jax.random.key(0), x, y, x_test, widths=(4, 8))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_stable_rate_is_the_largest_for_the_square_loss(reduction: Any, sets: Any) -> None:
    x, y, _ = sets
    system = System(lambda w, x: x @ w, np.zeros((3, 2)), x, y, reduction=reduction)
    largest = np.linalg.eigvalsh(x.T @ x)[-1]
    rate = train.stable_rate(system)
    assert rate == pytest.approx(2 / largest * (10 if reduction == "mean" else 1), rel=1e-5)
    assert np.isfinite(train.fit(system, 0.99 * rate, 3000).loss).all()
    assert train.fit(system, 1.05 * rate, 3000).loss[-1] > 1e3


def test_the_stable_rate_of_cross_entropy_counts_the_curvature_of_the_loss() -> None:
    r = np.random.default_rng(1)
    x, labels = r.normal(size=(9, 3)), r.integers(0, 4, 9)
    system = System(lambda w, x: x @ w, np.zeros((3, 4)), x, labels, loss="cross_entropy")
    # At equal logits the Hessian of cross entropy is (I - 1/c)/c, whose largest eigenvalue is 1/c.
    np.testing.assert_allclose(system.output_curvature(), np.full(9, 0.25), rtol=1e-12)
    largest = np.linalg.eigvalsh(x.T @ x)[-1]
    assert train.stable_rate(system) == pytest.approx(2 * 4 / largest, rel=1e-5)
    single = System(lambda w, x: x * w, np.ones(1), np.array([[2.0]])[:, 0], np.array([1.0]))
    assert train.stable_rate(single) == pytest.approx(0.5)
    dead = System(lambda w, x: x + 0 * w[0], np.ones(1), np.ones(4), np.ones(4))
    assert np.isinf(train.stable_rate(dead))
    concave = System(
        lambda w, x: x * w[0], np.ones(1), np.ones(4), np.ones(4), loss=lambda f, y: -jnp.sum((f - y) ** 2)
    )
    with pytest.raises(ValueError, match="curved upwards"):
        train.stable_rate(concave)


def test_a_linear_model_stays_on_its_linearization(sets: Any) -> None:
    x, y, x_test = sets
    system = System(lambda w, x: x @ w, np.ones((3, 2)), x, y, reduction="mean")
    found = train.linearization_distance(system, 30, held_out=x_test)
    assert found.relative < 1e-12
    assert np.abs(found.drift).max() < 1e-12
    np.testing.assert_allclose(found.loss, found.linear_loss, rtol=1e-10)


def test_function_and_linearization_are_those_that_fit_trains(sets: Any) -> None:
    x, y, x_test = sets
    params = NET.init(jax.random.key(2), (3,), dtype="float64")
    system = System(NET.apply, params, x, y, reduction="mean")
    found = train.linearization_distance(system, 40, held_out=x_test)
    assert found.rate == pytest.approx(train.stable_rate(system) / 2)
    run, line = train.fit(system, found.rate, 40), train.fit(system, found.rate, 40, linearize=True)
    a = System(NET.apply, run.params, x_test).F()
    b = System(train.linearize(NET.apply, params), line.params, x_test).F()
    start = System(NET.apply, params, x_test).F()
    assert found.apart == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert found.moved == pytest.approx(np.sqrt(np.mean((a - start) ** 2)))
    assert 0 < found.relative < 1
    assert [chart.name for chart in found.charts()] == ["training", "drift"]
