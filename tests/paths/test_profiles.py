"""The loss along a path, against closed forms on lines and networks evaluated by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from specimens import bowl
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.paths.polyline import PiecewiseLinearPath
from widescape.paths.profiles import PathProfile, evaluate_path


def height(w):
    return jnp.sum(w)


@pytest.fixture
def bent():
    return PiecewiseLinearPath([np.array([0.0, 0.0]), np.array([3.0, 4.0]), np.array([3.0, 3.0])], ("out", "down"))


def test_positions_lengths_and_losses_of_a_quadratic_are_the_closed_form(bent):
    profile = evaluate_path(bowl, bent, 5)
    np.testing.assert_allclose(profile.s, np.arange(9) / 8, rtol=1e-15)
    np.testing.assert_allclose(profile.arc, [0, 1.25, 2.5, 3.75, 5, 5.25, 5.5, 5.75, 6], rtol=1e-15)
    on_second = 9 + (4 - np.arange(1, 5) / 4) ** 2
    np.testing.assert_allclose(profile.loss, [*(25 * (np.arange(5) / 4) ** 2), *on_second], rtol=1e-14)
    assert (profile.min, profile.max, profile.s_max) == (0.0, 25.0, 0.5)
    assert profile.mean == pytest.approx(profile.loss.mean(), rel=1e-15)
    assert profile.kinds == ("out", "down")
    np.testing.assert_array_equal(profile.waypoints, [0, 0.5, 1])


def test_the_integral_weighs_with_lengths_and_the_mean_does_not(bent):
    """A linear loss: the trapezoid rule is exact on it."""
    profile = evaluate_path(height, bent, 3)
    assert profile.integral == pytest.approx((5 * 3.5 + 1 * 6.5) / 6, rel=1e-14)
    assert profile.mean == pytest.approx((0 + 3.5 + 7 + 6.5 + 6) / 5, rel=1e-14)


def test_by_default_a_segment_has_eleven_positions(bent):
    assert len(evaluate_path(bowl, bent).s) == 21


def test_points_of_a_path_are_taken_without_rounding():
    points = [np.array([value]) for value in (1e16, 1.0, 3e16, 0.1, 1e16)]
    for per_segment in (2, 3, 4):
        profile = evaluate_path(height, PiecewiseLinearPath(points), per_segment)
        assert profile.loss[np.isin(profile.s, profile.waypoints)].tolist() == [1e16, 1.0, 3e16, 0.1, 1e16]


def test_a_path_of_length_zero_has_the_loss_of_its_point():
    point = np.array([0.1, 0.7])
    profile = evaluate_path(bowl, PiecewiseLinearPath([point, point, point]), 4)
    assert np.ptp(profile.loss) == 0
    assert profile.integral == profile.loss[0] == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_system_with_flat_points_has_the_losses_of_its_function(rng, dtype):
    x, y = rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=5).astype(dtype)
    trees = [{"w": rng.normal(size=3).astype(dtype)} for _ in range(3)]
    system = System(lambda p, x: jnp.tanh(x @ p["w"]), trees[0], x, y)
    flat = evaluate_path(system, PiecewiseLinearPath([tree["w"] for tree in trees]), 4)
    as_trees = evaluate_path(system, PiecewiseLinearPath(trees), 4)
    by_hand = [
        ((np.tanh(x @ ((1 - t) * a["w"] + t * b["w"])) - y) ** 2).sum() / 2
        for a, b in itertools.pairwise(trees)
        for t in np.arange(4) / 3
    ]
    del by_hand[4]
    np.testing.assert_allclose(flat.loss, by_hand, rtol=1e-13 if dtype == np.float64 else 1e-5)
    np.testing.assert_array_equal(as_trees.loss, flat.loss)


def test_one_point_in_float64_asks_for_float64():
    points = [np.array([0.0], np.float32), np.array([1 / 3])]
    assert evaluate_path(bowl, PiecewiseLinearPath(points), 2).loss[1] == pytest.approx(1 / 9, rel=1e-15)


def test_metrics_are_taken_where_the_loss_is(bent):
    profile = evaluate_path(bowl, bent, 4, metrics={"height": height, "largest": lambda w: jnp.max(jnp.abs(w))})
    assert set(profile.metrics) == {"height", "largest"}
    ts = np.arange(4) / 3
    np.testing.assert_allclose(profile.metrics["height"], [*(7 * ts), *(7 - ts[1:])], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(profile.metrics["largest"], [*(4 * ts), *(4 - ts[1:])], rtol=1e-14, atol=1e-15)


def test_refreshed_parameters_are_those_of_the_loss_and_of_metrics():
    """A stored square of the weight, which interpolation leaves stale."""

    def stale(p):
        return (p["square"] - p["w"] ** 2) ** 2

    ends = [{"w": np.array(w), "square": np.array(w * w)} for w in (-1.0, 2.0)]
    path = PiecewiseLinearPath(ends)

    def refresh(p):
        return {"w": p["w"], "square": p["w"] ** 2}

    assert evaluate_path(stale, path, 5).max > 1
    fresh = evaluate_path(stale, path, 5, metrics={"square": lambda p: p["square"]}, refresh=refresh)
    np.testing.assert_allclose(fresh.loss, 0, atol=1e-14)
    np.testing.assert_allclose(fresh.metrics["square"], (-1 + 3 * np.arange(5) / 4) ** 2, rtol=1e-13)


def test_a_profile_prints_draws_and_loads_bit_for_bit(bent, tmp_path):
    profile = evaluate_path(bowl, bent, metrics={"height": height})
    assert len(str(profile).splitlines()) < 20
    assert PathProfile.load(profile.save(tmp_path / "profile")) == profile
    (chart,) = profile.charts()
    np.testing.assert_array_equal(chart.series[0].y, profile.loss)
    np.testing.assert_allclose(chart.series[1].y, [0, 25, 18], rtol=1e-14)
    assert chart.caption == "Segments in order: out, down."
    assert str(profile.evidence("max")) == "lower bound"


def test_arguments_of_a_profile_that_do_not_fit_are_refused(bent):
    with pytest.raises(ValueError, match="`per_segment` is 1"):
        evaluate_path(bowl, bent, 1)
    with pytest.raises(TypeError, match="give a PiecewiseLinearPath"):
        evaluate_path(bowl, bent.points)
    with pytest.raises(TypeError, match="give a System, or a function"):
        evaluate_path(1.0, bent)
    with pytest.raises(ValueError, match="empty name"):
        evaluate_path(bowl, bent, metrics={"": bowl})
    with pytest.raises((ShapeError, DtypeError)):
        evaluate_path(System(lambda w, x: x @ w, np.ones(3), np.eye(3), np.ones(3)), bent)


def test_a_loss_that_is_not_finite_is_refused_with_its_place():
    path = PiecewiseLinearPath([np.array([1.0]), np.array([-1.0])])
    with pytest.raises(FloatingPointError, match="at the last end"):
        evaluate_path(lambda w: jnp.log(w[0] + 1), path, 4)
    with pytest.raises(NonFiniteError, match="at the first end"):
        evaluate_path(lambda w: jnp.log(1 - w[0]), path, 4)
    with pytest.raises(NonFiniteError, match="between the ends"):
        evaluate_path(lambda w: 1 / w[0] ** 2, path, 5)
