"""Descent on a product of two vectors follows two numbers, through its regimes."""

import numpy as np
import pytest

from widescape.core.errors import NonFiniteError, ShapeError
from widescape.landscape.catapult import CatapultRun, CatapultStatus, catapult_uv

M = 64
FLOOR = 1e-20  # of the loss, below which it is rounding


def draws(count):
    """Gaussian vectors with |f(0)| < 1: from larger ones the loss at 2.5 may peak below three times its start."""
    found = []
    for seed in range(100):
        u, v = np.random.default_rng(seed).normal(size=(2, M))
        if abs(u @ v) / M**0.5 < 1:
            found.append((u, v, (u @ u + v @ v) / M))
    return found[:count]


def falls(loss):
    """Non-increasing while above the floor."""
    above = loss[1:] > FLOOR
    return bool((np.diff(loss)[above] <= 0).all())


@pytest.mark.claim("liu2020loss/C8")
def test_four_draws_follow_the_recursion_and_show_the_four_regimes(measured):
    worst, peaks, ends = 0.0, [], []
    for u, v, lam in draws(4):
        for rate in (1.0, 2.5, 3.5):
            run = catapult_uv(u, v, rate / lam, 200)
            assert run.status is CatapultStatus.OK
            assert len(run.loss) == 201
            for one, two in ((run.f, run.recursion_f), (run.lam, run.recursion_lam)):
                worst = max(worst, float(np.max(np.abs(one - two)[:51]) / np.max(np.abs(one[:51]))))
            if rate == 1:
                assert run.regime == "lazy"
                assert falls(run.loss)
                continue
            assert run.regime == "catapult"
            peaks.append(run.loss.max() / run.loss[0])
            ends.append(run.lr * run.lam[-1])
            assert falls(run.loss[-101:])
            assert run.loss[-1] < 1e-12 or (rate == 3.5 and ends[-1] <= 0.1)
        wild = catapult_uv(u, v, 4.5 / lam, 200)
        assert wild.regime == "divergent"
        assert wild.status is CatapultStatus.DIVERGED
        assert len(wild.loss) <= 21
    assert worst < 1e-10
    assert min(peaks) >= 3
    assert max(ends) < 1.6
    measured(
        f"relative deviation from the recursion {worst:.1e}; peaks at least {min(peaks):.2g} times the start, "
        f"lr lam ends at most at {max(ends):.2f}, for 4 draws with m = 64"
    )


def test_the_simulation_is_descent_on_all_weights():
    u, v = np.random.default_rng(0).normal(size=(2, 5))
    run = catapult_uv(u, v, 0.3, 4)
    for t in range(5):
        np.testing.assert_allclose(run.f[t], u @ v / 5**0.5, rtol=1e-13)
        np.testing.assert_allclose(run.lam[t], (np.sum(u**2) + np.sum(v**2)) / 5, rtol=1e-13)
        gradient_u, gradient_v = (u @ v) / 5 * v, (u @ v) / 5 * u
        u, v = u - 0.3 * gradient_u, v - 0.3 * gradient_v
    np.testing.assert_array_equal(run.loss, run.f**2 / 2)
    np.testing.assert_array_equal(run.recursion_loss, run.recursion_f**2 / 2)


def test_one_step_of_one_weight_each_by_hand():
    run = catapult_uv(np.array([2.0]), np.array([1.0]), 0.5, 1)
    np.testing.assert_allclose(run.f, [2.0, 1.0 * -1.0], rtol=1e-15)  # u' = 2 - .5*2*1 = 1, v' = 1 - .5*2*2 = -1
    np.testing.assert_allclose(run.lam, [5.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(run.recursion_f, run.f, rtol=1e-15)
    np.testing.assert_allclose(run.recursion_lam, run.lam, rtol=1e-15)


@pytest.mark.parametrize(
    ("start", "regime"), [(2.0, "lazy"), (2.001, "catapult"), (3.999, "catapult"), (4.0, "divergent")]
)
def test_the_regimes_meet_at_two_and_four(start, regime):
    u, v = np.array([1.0, 0.0]), np.array([0.0, 1.0])  # lam = 1
    assert catapult_uv(u, v, start, 3).regime == regime


def test_below_four_the_curvature_never_rises_and_nothing_diverges():
    for seed in range(20):
        u, v = np.random.default_rng(seed).normal(size=(2, 8))
        for start in (0.5, 2.1, 3.99):
            run = catapult_uv(u, v, start * 8 / (u @ u + v @ v), 300)
            assert run.status is CatapultStatus.OK
            assert (np.diff(run.lam) <= 1e-14 * run.lam[0]).all()


def test_a_catapult_from_a_small_loss_may_grow_by_any_factor():
    run = catapult_uv(np.array([1.0, 0.0]), np.array([1e-6, 1.0]), 3.0, 200)
    assert run.status is CatapultStatus.OK
    assert run.loss.max() > 1e9 * run.loss[0]
    assert run.lr * run.lam[-1] < 2


def test_just_above_four_the_run_is_flagged():
    u, v = np.random.default_rng(3).normal(size=(2, M))
    run = catapult_uv(u, v, 4.001 * M / (u @ u + v @ v), 500)
    assert run.status is CatapultStatus.DIVERGED
    assert not run.status.ok
    assert run.lr * run.lam[-1] > 4
    assert run.loss[-1] > 1e6 * run.loss[0] >= run.loss[-2]


def test_a_solution_stays_where_it_is_however_large_the_step():
    run = catapult_uv(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 100.0, 5)
    assert run.status.ok
    assert not run.f.any()
    assert (run.lam == 1).all()
    assert run.charts()[0].y_scale == "linear"
    assert len(run.charts()[0].series[0].x) == 6


def test_a_step_that_overflows_is_left_out():
    run = catapult_uv(np.array([1.0]), np.array([1.0]), 1e200, 5)
    assert run.status is CatapultStatus.DIVERGED
    assert len(run.f) == 1
    assert np.isfinite(run.loss).all()


def test_what_it_says_survives_saving(tmp_path):
    u, v, lam = draws(1)[0]
    run = catapult_uv(u, v, 2.5 / lam, 10)
    assert CatapultRun.load(run.save(tmp_path / "run.zip")) == run
    assert len(str(run).splitlines()) < 20
    assert [chart.name for chart in run.charts()] == ["loss", "curvature"]


def test_vectors_and_rates_that_do_not_fit_are_refused():
    ones = np.ones(3)
    with pytest.raises(ShapeError, match="`u` has 3 entries and `v` 2"):
        catapult_uv(ones, np.ones(2), 0.1, 1)
    with pytest.raises(ShapeError, match="`u` has shape"):
        catapult_uv(ones[None], ones, 0.1, 1)
    with pytest.raises(ShapeError, match="`v` has shape"):
        catapult_uv(ones, np.ones(0), 0.1, 1)
    with pytest.raises(TypeError, match="`u` has dtype int64"):
        catapult_uv(np.ones(3, int), ones, 0.1, 1)
    with pytest.raises(ValueError, match="NaN"):
        catapult_uv(ones, np.array([1.0, np.nan, 0.0]), 0.1, 1)
    with pytest.raises(ValueError, match="`lr` is 0"):
        catapult_uv(ones, ones, 0.0, 1)
    with pytest.raises(TypeError, match=r"`steps` is 1\.5"):
        catapult_uv(ones, ones, 0.1, 1.5)
    with pytest.raises(NonFiniteError, match="overflows at the start"):
        catapult_uv(1e200 * ones, ones * 1e200, 0.1, 1)
