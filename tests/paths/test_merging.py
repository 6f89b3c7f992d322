"""Averaging works after units are aligned: exactly for a planted permutation, and measurably on digits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widescape import arch, data, train
from widescape.core.chart import Chart
from widescape.core.errors import DtypeError, ShapeError
from widescape.curvature import System
from widescape.paths.barriers import barrier
from widescape.paths.matching import activation_matching, hidden_activations, weight_matching
from widescape.paths.merging import Merge, merge
from widescape.paths.permutations import apply_permutation, mlp_spec, permutation_spec


def outputs(params, x):
    (w, b), (v, c) = params["layers"]
    return jnp.tanh(x @ w + b[None]) @ v + c[None]


def network(rng, dtype=np.float64):
    shapes = [(3, 6), (6,), (6, 2), (2,)]
    w, b, v, c = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return {"layers": [(w, b), (v, c)]}


def fitted(rng, dtype=np.float64):
    """A system that a network fits exactly, and the network."""
    params, x = network(rng, dtype), rng.normal(size=(15, 3)).astype(dtype)
    return System(outputs, params, x, System(outputs, params, x).F(), reduction="mean"), params


def test_networks_that_differ_by_a_permutation_merge_into_one_of_them(rng):
    system, a = fitted(rng)
    b = apply_permutation(mlp_spec(1), {"P1": rng.permutation(6)}, a)
    merged = merge(system, a, b, mlp_spec(1))
    np.testing.assert_allclose(merged.w, system.vector(a), rtol=1e-15)
    assert merged.aligned.value < 1e-25
    assert merged.aligned_loss < 1e-25
    assert max(merged.loss_a, merged.loss_b) < 1e-25
    assert merged.naive.value > 0.1
    assert merged.naive_loss > 0.1


def test_the_merged_parameters_lie_on_the_aligned_line_and_its_losses_are_those_of_the_barrier(rng):
    system, a = fitted(rng)
    b, spec = network(rng), mlp_spec(1)
    merged = merge(system, a, b, spec, t=0.25, num=5)
    moved = apply_permutation(spec, weight_matching(spec, a, b), b)
    by_hand = jax.tree.map(lambda x, y: 0.75 * x + 0.25 * y, a, moved)
    np.testing.assert_allclose(merged.w, system.vector(by_hand), rtol=1e-14)
    for left, right in zip(jax.tree.leaves(merged.params), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-14)
    assert merged.aligned_loss == pytest.approx(merged.aligned.loss[1], rel=1e-12)
    assert merged.naive_loss == pytest.approx(merged.naive.loss[1], rel=1e-12)
    assert merged.naive == barrier(system, a, b, num=5)
    assert merged.aligned == barrier(system, a, moved, num=5)
    assert (merged.loss_a, merged.loss_b) == (merged.naive.loss[0], merged.naive.loss[-1])


@pytest.mark.parametrize("t", [0, 1])
def test_at_its_ends_a_merge_is_a_or_the_permuted_b_bit_for_bit(rng, t):
    system, a = fitted(rng)
    b, spec = network(rng), mlp_spec(1)
    merged = merge(system, a, b, spec, t=t, num=2)
    np.testing.assert_array_equal(merged.w, system.vector(apply_permutation(spec, merged.alignment, b) if t else a))


def test_a_given_alignment_is_taken(rng):
    system, a = fitted(rng)
    b, spec = network(rng), mlp_spec(1)
    acts = (jnp.tanh(system.x @ p["layers"][0][0] + p["layers"][0][1][None]) for p in (a, b))
    alignment = activation_matching(*map(np.asarray, acts))
    merged = merge(system, a, b, spec, alignment=alignment, num=3)
    assert merged.alignment == alignment
    assert merged.aligned == barrier(system, a, apply_permutation(spec, alignment, b), num=3)


def test_a_function_and_flat_vectors_of_a_system_merge_alike(rng):
    system, a = fitted(rng)
    b, spec = network(rng), mlp_spec(1)
    x, y = system.x, system.y

    def loss(params):
        return jnp.mean(jnp.sum((outputs(params, x) - y) ** 2, axis=1)) / 2

    of_trees = merge(system, a, b, spec, num=3)
    of_vectors = merge(system, system.vector(a), system.vector(b), spec, num=3)
    assert of_trees == of_vectors
    np.testing.assert_allclose(merge(loss, a, b, spec, num=3).aligned.loss, of_trees.aligned.loss, rtol=1e-12)


def test_one_end_in_float64_asks_for_float64(rng):
    system, a = fitted(rng, np.float32)
    b = network(rng)
    merged = merge(system, a, b, mlp_spec(1), num=2)
    assert merged.w.dtype == np.float64
    assert merge(system, a, jax.tree.map(np.float32, b), mlp_spec(1), num=2).w.dtype == np.float32


def test_a_specification_that_is_no_symmetry_is_refused(rng):
    system, a = fitted(rng)
    b = apply_permutation(mlp_spec(1), {"P1": np.roll(np.arange(6), 1)}, a)
    with pytest.raises(ValueError, match="no symmetry of the network"):
        merge(system, a, b, mlp_spec(1, biases=False), num=3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t": 1.5}, ValueError, "from 0 to 1"),
        ({"t": "half"}, TypeError, "real number"),
        ({"num": 1}, ValueError, "at least 2"),
        ({"b": {"w": np.ones(3)}}, ShapeError, "shape"),
        ({"b": {"w": np.arange(2)}}, DtypeError, "int64"),
        ({"spec": {"P": [("v", 0)]}}, ValueError, "group 'P'"),
        ({"loss": lambda p: jnp.log(p["w"].sum() - 3)}, FloatingPointError, "NaN or infinite"),
    ],
)
def test_what_cannot_be_merged_is_refused(change, error, message):
    given = {
        "loss": lambda p: p["w"].prod() ** 2,
        "b": {"w": np.ones(2)},
        "spec": {"P": [("w", 0)]},
        "t": 0.5,
        "num": 3,
    }
    given |= change
    with pytest.raises(error, match=message):
        merge(given["loss"], {"w": np.ones(2)}, given["b"], given["spec"], t=given["t"], num=given["num"])


def test_a_merge_prints_charts_saves_and_loads(rng, tmp_path):
    system, a = fitted(rng)
    merged = merge(system, a, network(rng), mlp_spec(1), num=5)
    (chart,) = merged.charts()
    assert isinstance(chart, Chart)
    assert [series.label for series in chart.series] == ["as they are", "aligned"]
    np.testing.assert_array_equal(chart.series[1].y, merged.aligned.loss)
    assert len(str(merged).splitlines()) < 20
    loaded = Merge.load(merged.save(tmp_path / "merge.zip"))
    assert loaded == merged
    with pytest.raises(ValueError, match="loaded or copied"):
        _ = loaded.params


WIDTHS = (16, 64, 256)


@pytest.fixture(scope="module")
def digits():
    """1437 of the digits, of a fixed permutation."""
    bundled = data.load("digits")
    x = np.concatenate([bundled.x_train, bundled.x_test]).reshape(-1, 64).astype(np.float32)
    y = np.concatenate([bundled.y_train, bundled.y_test])
    kept = np.random.default_rng(0).permutation(len(x))[:1437]
    return x[kept], y[kept]


def barriers_at(width, x, y):
    """Barriers of two trained networks: as they are, after weight and after activation matching."""
    net = arch.fc(2, width, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    adam, solutions = optax.adam(1e-3), []
    for seed in (0, 1):
        start = net.init(jax.random.key(seed), (64,))
        system = System(net.apply, start, x, y, loss="cross_entropy", reduction="mean")
        run = train.fit(system, adam, 40 * (len(x) // 100), batch_size=100, key=jax.random.key(100 + seed))
        assert run.loss[-1] < 0.3
        solutions.append(run.params)
    a, b = solutions
    spec = permutation_spec(net, a)
    by_activations = activation_matching(*(hidden_activations(net, params, x) for params in solutions))
    weights = merge(system, a, b, spec)
    activations = merge(system, a, b, spec, alignment=by_activations)
    return weights.naive.value, weights.aligned.value, activations.aligned.value


@pytest.mark.slow
@pytest.mark.claim("ainsworth2022rebasin/E2")
def test_on_digits_alignment_lowers_the_barrier_and_more_so_in_wider_networks(digits, measured):
    naive, weights, activations = np.transpose([barriers_at(width, *digits) for width in WIDTHS])
    assert (weights <= 0.6 * naive).all()
    assert (activations[1:] <= 0.35 * naive[1:]).all()
    assert (np.diff(weights) < 0).all()
    assert (np.diff(activations) < 0).all()
    rows = zip(WIDTHS, naive, weights, activations, strict=True)
    measured(
        "barrier as they are / by weights / by activations: "
        + ", ".join(f"width {width}: {n:.2f}/{w:.2f}/{a:.2f}" for width, n, w, a in rows)
    )
