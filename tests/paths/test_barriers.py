"""Barriers on straight lines, against polynomials, symmetries, and peaks between positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.paths.barriers import Barrier, barrier

KINDS = ["mean", "chord", "max"]
TILT = 0.02


def peaked(center, width):
    """Along the first coordinate from 0 to 1: a tilted line and a narrow peak of height one."""

    def loss(w):
        return TILT * w[0] + 1 / (1 + ((w[0] - center) / width) ** 2)

    return loss


def network(rng, dtype=np.float64):
    x, y = rng.normal(size=(8, 3)).astype(dtype), rng.normal(size=8).astype(dtype)

    def f(p, x):
        return jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]

    def drawn():
        return {
            "in": rng.normal(size=(3, 5)).astype(dtype),
            "bias": rng.normal(size=5).astype(dtype),
            "out": rng.normal(size=5).astype(dtype),
        }

    a, b = drawn(), drawn()
    return System(f, a, x, y, reduction="mean"), a, b


@pytest.mark.claim("nguyen2021connectivity/C2")
def test_the_barrier_of_a_product_of_two_weights_is_the_second_moment_of_its_input(rng, measured):
    x = rng.normal(size=50)

    def loss(w):
        return jnp.mean((w[1] * w[0] * x - x) ** 2)

    found = barrier(loss, np.ones(2), -np.ones(2))
    np.testing.assert_allclose(found.loss, np.mean(x**2) * (1 - (1 - 2 * found.t) ** 2) ** 2, rtol=1e-12, atol=1e-15)
    assert float(found) == pytest.approx(np.mean(x**2), rel=1e-14)
    assert found.t_max == 0.5
    measured(f"{found.value:.6f} for E[x^2] = {np.mean(x**2):.6f}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_largest_height_above_its_reference(kind):
    """A cubic, whose heights are maximized independently."""

    def loss(w):
        return 1 + 2 * w[0] + 9 * w[0] * (1 - w[0]) * (2 - w[0])

    def height(t):
        reference = {"mean": 2.0, "chord": 1 + 2 * t, "max": 3.0}[kind]
        return float(loss([t])) - reference

    found = barrier(loss, np.array([0.0]), np.array([1.0]), kind=kind, num=7)
    best = minimize_scalar(lambda t: -height(t), bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
    assert found.value == pytest.approx(-best.fun, rel=1e-11)
    assert found.t_max == pytest.approx(best.x, abs=2e-6)
    assert found.grid_value == pytest.approx(max(map(height, np.arange(7) / 6)), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_rise_chord_and_largest_end_give_zero_and_the_mean_half_the_difference(kind):
    found = barrier(lambda w: jnp.sum(w**2), np.array([2.0]), np.array([0.0]), kind=kind)
    assert found.value == (2.0 if kind == "mean" else 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_ends_have_no_barrier_at_all(rng, kind, dtype):
    system, a, _ = network(rng, dtype)
    found = barrier(system, a, a, kind=kind)
    assert found.value == found.grid_value == 0
    assert np.ptp(found.loss) == 0


@pytest.mark.claim("frankle2020linear/I9")
@pytest.mark.parametrize("kind", KINDS)
def test_the_barrier_is_symmetric_in_its_ends(rng, kind, measured):
    worst = 0.0
    for _ in range(5):
        system, a, b = network(rng)
        there, back = barrier(system, a, b, kind=kind), barrier(system, b, a, kind=kind)
        np.testing.assert_allclose(there.loss, back.loss[::-1], rtol=1e-13)
        assert there.value == pytest.approx(back.value, rel=1e-9)
        if there.value > 0:
            assert there.t_max == pytest.approx(1 - back.t_max, abs=1e-5)
        worst = max(worst, abs(there.value - back.value) / max(there.value, 1e-300))
    measured(f"{kind}: relative difference up to {worst:.1e}")


@pytest.mark.claim("frankle2020linear/P8")
@pytest.mark.parametrize("kind", KINDS)
def test_refinement_finds_a_narrow_peak_between_positions(kind, measured):
    center, width = 0.5208, 0.004  # halfway between two of 25 positions, a tenth of their distance wide
    loss, a, b = peaked(center, width), np.zeros(1), np.ones(1)
    found, coarse = barrier(loss, a, b, kind=kind), barrier(loss, a, b, kind=kind, refine=False)
    dense = np.linspace(0, 1, 1_000_001)
    values = TILT * dense + 1 / (1 + ((dense - center) / width) ** 2)
    ends = values[0], values[-1]
    reference = {"mean": sum(ends) / 2, "chord": ends[0] + dense * (ends[1] - ends[0]), "max": max(ends)}[kind]
    truth = (values - reference).max()
    assert found.value == pytest.approx(truth, rel=1e-6)
    assert found.t_max == pytest.approx(center, abs=1e-4)
    assert coarse.value == coarse.grid_value == found.grid_value < 0.1 < truth
    assert str(found.evidence("value")) == str(found.evidence("grid_value")) == "lower bound"
    measured(f"{kind}: grid {found.grid_value:.4f}, refined {found.value:.6f}, true {truth:.6f}")


@pytest.mark.parametrize("num", [2, 3, 4, 25])
def test_refinement_never_lowers_the_barrier(rng, num):
    for _ in range(3):
        system, a, b = network(rng, np.float32)
        found = barrier(system, a, b, num=num)
        assert found.value >= found.grid_value
        assert 0 <= found.t_max <= 1


def test_refinement_takes_few_evaluations():
    calls = []

    def refresh(w):
        calls.append(w)
        return w

    barrier(peaked(0.37, 0.05), np.zeros(1), np.ones(1), refresh=refresh)
    assert len(calls) <= 26 + 65


def test_ends_are_taken_without_rounding():
    found = barrier(jnp.sum, np.array([1e16]), np.array([1.0]))
    assert (found.loss[0], found.loss[-1]) == (1e16, 1.0)


def test_trees_flat_vectors_and_functions_have_the_same_barrier(rng):
    system, a, b = network(rng)

    def loss_on(x, y):
        return lambda p: jnp.mean((jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"] - y) ** 2) / 2

    one = barrier(system, a, b)
    np.testing.assert_array_equal(barrier(system, system.vector(a), system.vector(b)).loss, one.loss)
    np.testing.assert_allclose(barrier(loss_on(system.x, system.y), a, b).loss, one.loss, rtol=1e-12)
    single = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), end) for end in (a, b)]
    found = barrier(loss_on(system.x.astype(np.float32), system.y.astype(np.float32)), *single)
    assert found.value == pytest.approx(one.value, rel=1e-5)


def test_metrics_are_taken_on_the_grid_and_refreshed_with_the_loss():
    def refresh(p):
        return {"w": p["w"], "double": 2 * p["w"]}

    ends = [{"w": np.array(w), "double": np.array(0.0)} for w in (0.0, 1.0)]
    found = barrier(
        lambda p: p["w"] * (1 - p["w"]), *ends, num=5, metrics={"double": lambda p: p["double"]}, refresh=refresh
    )
    np.testing.assert_allclose(found.metrics["double"], 2 * np.arange(5) / 4, rtol=1e-15)
    assert found.value == 0.25
    bare = barrier(lambda p: p["w"] * (1 - p["w"]), *ends, num=5, metrics={"double": lambda p: p["double"]})
    np.testing.assert_array_equal(bare.metrics["double"], 0)


def test_a_second_barrier_compiles_nothing(rng):
    from widescape.curvature import segment

    system, a, b = network(rng)
    barrier(system, a, b)
    before = segment._on_plane._cache_size()
    barrier(system, b, jax.tree.map(lambda leaf: leaf / 2, a), kind="chord")
    assert segment._on_plane._cache_size() == before


def test_a_barrier_prints_draws_and_loads_bit_for_bit(tmp_path):
    found = barrier(peaked(0.4, 0.1), np.zeros(1), np.ones(1), kind="chord", metrics={"w": jnp.sum})
    assert len(str(found).splitlines()) < 20
    assert Barrier.load(found.save(tmp_path / "barrier")) == found
    (chart,) = found.charts()
    loss, reference, highest = chart.series
    assert highest.y[0] >= loss.y.max()
    np.testing.assert_allclose(reference.y, np.linspace(found.loss[0], found.loss[-1], 25), rtol=1e-14)


def test_arguments_of_a_barrier_that_do_not_fit_are_refused():
    one = np.ones(1)
    with pytest.raises(ValueError, match="`num` is 1"):
        barrier(jnp.sum, one, one, num=1)
    with pytest.raises(ValueError, match="choose one of 'mean', 'chord', 'max'"):
        barrier(jnp.sum, one, one, kind="least")
    with pytest.raises(ShapeError, match="shape"):
        barrier(jnp.sum, one, np.ones(2))
    with pytest.raises(ShapeError, match="structure"):
        barrier(jnp.sum, one, {"w": one})
    with pytest.raises(DtypeError, match="int"):
        barrier(jnp.sum, np.ones(1, int), np.ones(1, int))
    with pytest.raises(DtypeError, match="int"):
        barrier(jnp.sum, one, np.ones(1, int))
    with pytest.raises(ValueError, match="needs targets"):
        barrier(System(lambda w, x: x @ w, one, np.ones((1, 1))), one, one)


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_without_a_finite_loss_is_refused(kind):
    with pytest.raises(FloatingPointError, match="first end"):
        barrier(lambda w: jnp.log(jnp.sum(w)), np.zeros(1), np.ones(1), kind=kind)
    with pytest.raises(NonFiniteError, match="last end"):
        barrier(lambda w: jnp.log(jnp.sum(w)), np.ones(1), -np.ones(1), kind=kind)
