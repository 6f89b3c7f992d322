import numpy as np
import pytest
from scipy.optimize import least_squares

from widescape.core.errors import DtypeError, MemoryBudgetError, ShapeError
from widescape.core.result import Result
from widescape.landscape import depth_width
from widescape.landscape.depth_width import depth_width_sweep

X = np.linspace(-1.0, 1.0, 8)[:, None]
Y = np.tanh(2 * X[:, 0] - 0.5) + 0.1 * (-1.0) ** np.arange(8)


@pytest.fixture(scope="module")
def small():
    return depth_width_sweep([1], [1, 2], [0, 1, 2], (X, Y))


def test_the_best_of_several_runs_is_the_least_squares_fit_of_one_unit(small):
    def errors(p):
        return p[2] * np.tanh(p[0] * X[:, 0] + p[1]) + p[3] - Y

    best = least_squares(errors, [2.0, -0.5, 1.0, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-15).cost
    assert small.values.shape == (1, 2, 3)
    assert small.values[0, 0].min() == pytest.approx(best, rel=1e-10)
    assert small.median[0].tolist() == np.median(small.values[0], axis=1).tolist()
    assert (small.steps > 5).all()


def test_at_the_points_that_are_reached_the_loss_is_what_the_jacobian_leaves(small):
    critical = small.grad_norms < 1e-8
    assert critical.any()
    assert small.defects[critical].max() < 1e-10
    np.testing.assert_array_equal(small.defects, np.abs(small.values - small.predicted))


@pytest.mark.slow
def test_units_that_are_zero_beyond_the_width_change_nothing(small):
    alone = depth_width_sweep([1], [1], [0, 1, 2], (X, Y), max_steps=3)
    beside = depth_width_sweep([1], [1, 2], [0, 1, 2], (X, Y), max_steps=3)
    np.testing.assert_allclose(alone.values[:, 0], beside.values[:, 0], rtol=1e-10)
    np.testing.assert_allclose(alone.grad_norms[:, 0], beside.grad_norms[:, 0], rtol=1e-8)
    np.testing.assert_allclose(alone.predicted[:, 0], beside.predicted[:, 0], rtol=1e-8, atol=1e-12)
    assert beside.steps.max() == 3
    assert (beside.values > small.values).any()


def test_a_sweep_saves_loads_and_draws(small, tmp_path):
    assert Result.load(small.save(tmp_path / "sweep.zip")) == small
    (chart,) = small.charts()
    assert chart.series[0].label == "depth 1"
    assert chart.series[0].y.tolist() == small.median[0].tolist()


def test_runs_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(depth_width, "available_bytes", lambda: 10_000)
    with pytest.raises(MemoryBudgetError, match="3 runs of networks of 22 parameters"):
        depth_width_sweep([1, 2], [1, 3], [0, 1, 2], (X, Y[:, None]))


def test_refusals():
    with pytest.raises(TypeError, match="pair"):
        depth_width_sweep([1], [1], [0], X)
    with pytest.raises(ShapeError, match=r"give \(m, d\)"):
        depth_width_sweep([1], [1], [0], (X, Y[:3]))
    with pytest.raises(DtypeError, match="int64"):
        depth_width_sweep([1], [1], [0], (X, np.zeros(8, int)))
    with pytest.raises(ValueError, match="`widths` is 0"):
        depth_width_sweep([1], [0], [0], (X, Y))
    with pytest.raises(ValueError, match="`seeds` is empty"):
        depth_width_sweep([1], [1], [], (X, Y))
    with pytest.raises(TypeError, match="`depths` is"):
        depth_width_sweep([0.5], [1], [0], (X, Y))
    with pytest.raises(ValueError, match="`max_steps` is 0"):
        depth_width_sweep([1], [1], [0], (X, Y), max_steps=0)


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2018depth/D5")
def test_values_at_points_that_are_reached_fall_with_width_and_depth(measured):
    x = np.random.default_rng(0).uniform(-3.0, 3.0, 30)
    data = x[:, None], np.sin(2 * x) + 0.5 * np.sin(5 * x)
    sweep = depth_width_sweep([1, 2], range(1, 7), range(10), data)
    for medians in sweep.median:
        assert np.sum(np.diff(medians) > 0) <= 1
        assert medians[-1] <= 0.1 * medians[0]
    assert (sweep.median[1, 2:] <= sweep.median[0, 2:]).all()
    critical = sweep.grad_norms[0] < 1e-5
    defects = sweep.defects[0][critical]
    assert critical.sum() >= 10
    assert np.median(defects) <= 1e-8
    rows = [", ".join(f"{value:.4g}" for value in medians) for medians in sweep.median]
    measured(
        f"medians at depth 1: {rows[0]}; depth 2: {rows[1]}; identity on {critical.sum()} runs: median defect "
        f"{np.median(defects):.1e}, largest {defects.max():.1e}"
    )
