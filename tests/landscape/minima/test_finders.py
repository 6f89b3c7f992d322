"""Searches for critical points: the quartic with its traps, the map of a linear autoencoder, and how searches move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import (
    MemoryBudgetError,
    NonDifferentiableWarning,
    NonFiniteError,
    PrecisionError,
    ShapeError,
)
from widescape.core.result import Result
from widescape.curvature import System
from widescape.curvature.segment import as_system
from widescape.landscape.minima import derivatives, finders, gradient_flat
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.finders import CPReport, PointStatus, find_critical_points, index_chart
from widescape.landscape.minima.newton_mr import _search, walk_newton_mr
from widescape.landscape.minima.starts import loss_uniform_starts
from widescape.landscape.minima.walks import Walks
from widescape.landscape.problems import linear_autoencoder, quartic

ROOT = 2**0.5
TO_MINIMUM = [np.array(start) for start in ([-4.0, 1.0], [-2.0, 0.5], [0.0, 1.0])]
TO_FLAT = [np.array(start) for start in ([2.0, 0.5], [3.0, 1.0], [1.0, 0.2])]
METHODS = ("newton_mr", "damped_newton", "gnm")
MINIMUM = np.array([-3.0, 0.0])


def quartic_gradient(w):
    return np.array([w[0] ** 3 - 6 * w[0] + 9, 3.6 * w[1] ** 3 + 10 * w[1]])


def quartic_hessian(w):
    return np.diag([3 * w[0] ** 2 - 6, 10.8 * w[1] ** 2 + 10])


# The quartic.


@pytest.mark.claim("frye2019critical/C10")
def test_three_starts_reach_the_minimum_of_the_quartic_and_three_end_at_its_gradient_flat_point(measured):
    reports = find_critical_points(quartic().system(), TO_MINIMUM + TO_FLAT, rcond=1e-4)
    for report in reports[:3]:
        assert report.status is PointStatus.CRITICAL
        assert report.g2 < 1e-20
        assert report.num_steps <= 12
        np.testing.assert_allclose(report.theta, MINIMUM, atol=1e-12)
        np.testing.assert_allclose(report.loss, 6.25, rtol=1e-14)
        np.testing.assert_allclose(report.eigs, [10.0, 21.0], rtol=1e-12)
        assert report.index == 0
    for report in reports[3:]:
        assert report.status == "gradient_flat"
        assert np.linalg.norm(report.theta - [ROOT, 0.0]) < 5e-3
        assert 11.1 < report.g2 < 11.3
        assert report.r > 0.99
        assert report.r_H < 1e-4
    exact = find_critical_points(quartic().system(), TO_FLAT, rcond=1e-10)
    for report in exact:
        assert report.status is PointStatus.STALLED
        assert report.g2 > 11
        assert report.r < 1e-6
    loose = find_critical_points(quartic().system(), TO_FLAT, rcond=1e-3)
    assert all(4e-4 < report.r_H < 1e-3 for report in loose)
    measured(
        f"minimum in at most {max(r.num_steps for r in reports[:3])} steps, "
        f"|g|^2 {max(r.g2 for r in reports[:3]):.0e}; "
        f"flat point within {max(np.linalg.norm(r.theta - [ROOT, 0.0]) for r in reports[3:]):.0e}, "
        f"|g|^2 {reports[3].g2:.4f}; exact inverse stalls at {min(r.g2 for r in exact):.2f} or more, "
        f"r at most {max(r.r for r in exact):.0e}"
    )


@pytest.mark.claim("frye2019critical/F3")
def test_a_strictly_gradient_flat_point_is_never_called_critical(rng, measured):
    starts = [np.array([side * ROOT, 0.0]) for side in (1, -1)]
    starts += [start + 10.0**-k * rng.normal(size=2) for start in starts for k in (2, 5)]
    counts = {}
    for method in METHODS:
        for rcond in (1e-4, 1e-10):
            for report in find_critical_points(quartic().system(), starts, method, rcond=rcond, max_steps=300):
                counts[report.status.name] = counts.get(report.status.name, 0) + 1
                if report.status.ok:
                    np.testing.assert_allclose(report.theta, MINIMUM, atol=1e-6)
                else:
                    assert report.g2 > 1.0
    assert counts["GRADIENT_FLAT"] > 10
    assert counts["CRITICAL"] > 5
    measured(f"of {sum(counts.values())} searches from flat points and near: {counts}; each critical one the minimum")


def test_without_assembled_hessians_the_same_points_are_found():
    reports = find_critical_points(quartic().system(), TO_MINIMUM + TO_FLAT, dense=False)
    assert [report.status.name for report in reports] == ["CRITICAL"] * 3 + ["GRADIENT_FLAT"] * 3
    for report in reports[:3]:
        np.testing.assert_allclose(report.theta, MINIMUM, atol=1e-9)
        assert report.index == 0
        assert report.evidence("index").kind == "exact"
        np.testing.assert_allclose(report.eigs, [10.0, 21.0], rtol=1e-12)
    damped = find_critical_points(quartic().system(), TO_MINIMUM, "damped_newton", dense=False)
    assert all(report.status.ok for report in damped)


def test_descent_on_the_gradient_norm_ends_at_critical_or_flat_points_and_never_raises_it():
    reports = find_critical_points(quartic().system(), TO_MINIMUM + TO_FLAT, "gnm")
    for report in reports:
        assert report.status in (PointStatus.CRITICAL, PointStatus.GRADIENT_FLAT)
        assert (np.diff(report.trace) < 0).all()
        assert report.num_steps < 500
    assert {report.status.name for report in reports} == {"CRITICAL", "GRADIENT_FLAT"}


def test_descent_on_the_gradient_norm_takes_as_many_steps_as_allowed_across_calls():
    def valley(w):
        return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2

    reports = [find_critical_points(valley, [np.array([-1.2, 1.0])], "gnm", max_steps=n)[0] for n in (255, 300)]
    assert [report.num_steps for report in reports] == [255, 300]
    np.testing.assert_array_equal(reports[1].trace[:256], reports[0].trace)


# How searches move.


def recorded_lengths(monkeypatch, w, steps):
    """The lengths that Newton-MR tries in each step, of a function of one parameter."""
    tried = []

    def watched(self, rows, points):
        gradient, hessian = self.gradients[0, 0], self.at.hessians(self.w)[0, 0, 0]
        tried[-1].append(float((points[0, 0] - self.w[0, 0]) / (-gradient / hessian)))
        return original(self, rows, points)

    def taken(self, rows, points, gradients):
        tried.append([])
        return move(self, rows, points, gradients)

    original, move = Walks.gradients_at, Walks.move
    tried.append([])
    monkeypatch.setattr(Walks, "gradients_at", watched)
    monkeypatch.setattr(Walks, "move", lambda self, rows, *rest: taken(self, rows, *rest) if rows.size else None)
    system = gradient_flat.loss_in_float64(arctangent_integral, np.array([w]), "test")
    walks = walk_newton_mr(Derivatives(system), np.array([[w]]), 1e-10, steps)
    return tried[: len(walks.traces[0]) - 1]


def arctangent_integral(w):
    """A loss whose gradient is the arctangent, for which Newton's full steps diverge from far away."""
    return jnp.sum(w * jnp.arctan(w) - jnp.log1p(w**2) / 2)


@pytest.mark.claim("frye2019critical/F1")
def test_after_success_the_length_is_at_most_doubled_up_to_one(monkeypatch, measured):
    tried = recorded_lengths(monkeypatch, 20.0, 4)
    assert tried[0][0] == pytest.approx(1.0)
    accepted = tried[0][-1]
    assert accepted < 0.2
    for lengths in tried[1:]:
        assert lengths[0] == pytest.approx(1.0)
        if len(lengths) > 1:
            assert lengths[1] == pytest.approx(min(1.0, 2 * accepted))
        accepted = lengths[-1]
    shown = "; ".join(", ".join(f"{length:.3g}" for length in lengths) for lengths in tried)
    measured(f"lengths tried in the first steps: {shown}")


def test_a_full_step_that_lowers_the_gradient_a_little_yields_to_the_length_that_is_due():
    at = Derivatives(as_system(arctangent_integral, np.array([1.2])))
    walks = Walks.starting(at, np.array([[1.2]]))
    slope, curvature = np.arctan(1.2), 1 / (1 + 1.2**2)
    step = -slope / curvature
    assert abs(np.arctan(1.2 + step)) < 0.9 * slope  # the full step is no failure: the share of its slope decides
    lengths = np.array([0.25])
    _search(walks, np.array([0]), np.array([[step]]), np.array([-(slope**2)]), lengths)
    np.testing.assert_allclose(walks.w[0, 0], 1.2 + 0.25 * step, rtol=1e-14)
    assert lengths.tolist() == [0.5]


@pytest.mark.claim("frye2019critical/F1")
def test_a_failed_line_search_returns_the_current_point(measured):
    def kinked(w):
        return jnp.sum(jnp.abs(w - 0.3) + w**2 / 2)

    start = np.nextafter(0.3, 0.0)  # the gradient is 0.3 - 1 here, and 0.3 + 1 one step further
    with pytest.warns(NonDifferentiableWarning, match="within 1e-09 of a kink"):
        report = find_critical_points(kinked, [np.array([start])])[0]
    assert report.theta.tolist() == [start]
    assert report.num_steps == 0
    assert report.status is PointStatus.STALLED
    np.testing.assert_allclose(report.g2, 0.49, rtol=1e-12)
    measured(f"a start beside the kink at 0.3, where no length is enough, ends at {report.theta[0]:.6f}")


@pytest.mark.claim("frye2019critical/F2")
def test_damped_newton_keeps_the_best_step_over_its_dampings(measured):
    start = np.array([1.4997, 0.3])
    dampings = 10.0 ** -np.arange(1, 7)
    ends = [start - np.linalg.solve(quartic_hessian(start) + c * np.eye(2), quartic_gradient(start)) for c in dampings]
    norms = [float(np.sum(quartic_gradient(end) ** 2)) for end in ends]
    best = int(np.argmin(norms))
    assert 0 < best < 5
    report = find_critical_points(quartic().system(), [start], "damped_newton", max_steps=1)[0]
    np.testing.assert_allclose(report.theta, ends[best], rtol=1e-12)
    np.testing.assert_allclose(report.trace[1], norms[best], rtol=1e-8)
    measured(f"|g|^2 by damping 1e-1 to 1e-6: {', '.join(f'{n:.3g}' for n in norms)}; kept {report.trace[1]:.3g}")


def test_one_newton_step_solves_a_quadratic_saddle_and_leaves_its_flat_directions_alone():
    curvatures = np.array([3.0, -1.0, 0.0])
    report = find_critical_points(lambda w: jnp.sum(curvatures * w**2) / 2, [np.array([1.0, 2.0, 5.0])])[0]
    np.testing.assert_allclose(report.theta, [0.0, 0.0, 5.0], atol=1e-15)
    np.testing.assert_allclose(report.eigs, [-1.0, 0.0, 3.0], atol=1e-15)
    assert report.index == 1
    assert report.fraction == 1 / 3
    assert report.num_steps <= 2


def test_the_steps_run_out():
    for method in METHODS:
        report = find_critical_points(quartic().system(), [np.array([-9.0, 4.0])], method, max_steps=1)[0]
        assert report.status is PointStatus.LIMIT
        assert report.trace.shape == (2,)


@pytest.mark.parametrize(("method", "reached"), [("newton_mr", 60), ("damped_newton", 17), ("gnm", 20)])
def test_a_gradient_that_vanishes_at_infinity_only_is_no_critical_point(method, reached):
    report = find_critical_points(falls_forever, [np.array([0.5])], method, max_steps=60)[0]
    assert report.g2 < 1e-15
    assert report.theta[0] > reached
    assert report.status == "diverging"
    assert not report.status.ok


def test_searches_that_come_slowly_to_a_critical_point_from_within_do_not_diverge():
    starts = [np.array([0.0]), np.array([4.9])]
    for method in METHODS:
        for report in find_critical_points(lambda w: jnp.sum((w - 5) ** 4), starts, method):
            assert report.num_steps > 10
            assert abs(report.theta[0]) > 4.99
            assert report.status is PointStatus.CRITICAL


def falls_forever(w):
    return jnp.sum(jnp.exp(-w))


# Memory.


def wide(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def test_hessians_in_blocks_of_points_and_columns_are_those_of_jax(rng):
    params = {"a": rng.normal(size=(2, 5)), "b": rng.normal(size=(5, 1))}
    system = System(wide, params, rng.normal(size=(40, 2)), rng.normal(size=(40, 1)))
    points = rng.normal(size=(3, 15))
    at = Derivatives(system)
    assert at.directions_at_once > 45
    whole = at.hessians(points)
    np.testing.assert_allclose(whole[1] @ points[0], system.hvp(points[0], points[1]), rtol=1e-11)
    for at_once in (4, 30):
        at.directions_at_once = at_once
        np.testing.assert_allclose(at.hessians(points), whole, rtol=1e-12, atol=1e-12)


def test_the_memory_of_hessians_is_bounded_however_many_points_there_are(rng):
    params = {"a": rng.normal(size=(2, 5)), "b": rng.normal(size=(5, 1))}
    system = System(wide, params, rng.normal(size=(20_000, 2)), rng.normal(size=(20_000, 1)))
    at = Derivatives(system)
    assert 64 * at.directions_at_once < 2**31  # a direction holds five units and their derivatives for each example
    points = min(max(1, at.directions_at_once // 15), 64)
    with jax.enable_x64(True):
        compiled = derivatives._hessians.lower(
            points, min(15, at.directions_at_once), system.operators, np.zeros((64, 15)), *system.arrays
        ).compile()
    assert points < 64
    assert compiled.memory_analysis().temp_size_in_bytes < derivatives._AT_ONCE


def test_hessians_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(derivatives, "available_bytes", lambda: 100)
    with pytest.raises(MemoryBudgetError, match="Hessians of 2 parameters at 3 points"):
        find_critical_points(quartic().system(), TO_FLAT, dense=True)
    assert find_critical_points(quartic().system(), TO_MINIMUM[:1], dense=False)[0].status.ok


# The index.


def test_eigenvalues_above_the_threshold_do_not_count():
    curvatures = np.array([-1.0, -2e-5, -0.5e-5, 1.0])
    report = find_critical_points(lambda w: jnp.sum(curvatures * w**2) / 2, [np.zeros(4)])[0]
    assert report.index == 2


@pytest.mark.claim("kawaguchi2019elimination/I8")
def test_the_index_does_not_change_under_orthogonal_reparameterization(rng):
    problem = linear_autoencoder()
    system = problem.system()
    points = np.stack([system.vector(params) for params, _ in problem.points.values()])
    turned = np.linalg.qr(rng.normal(size=(24, 24)))[0]

    def loss(v):
        w = turned @ v
        return problem.objective({"W1": w[:12].reshape(2, 6), "W2": w[12:].reshape(6, 2)})

    reports = find_critical_points(loss, list(points @ turned), max_steps=1)
    assert [report.index for report in reports] == [facts["index"] for _, facts in problem.points.values()]
    assert all(report.status.ok for report in reports)


def test_beyond_dense_the_index_is_a_lower_bound_and_the_smallest_eigenvalues_are_those_of_numpy(rng, monkeypatch):
    curvatures = np.concatenate([-np.linspace(0.5, 2.0, 14), np.linspace(0.1, 3.0, 126)])

    def loss(w):
        return jnp.sum(curvatures * w**2) / 2 + jnp.sum(w**4) / 4

    starts = [0.01 * rng.normal(size=140) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(finders, "DENSE_UP_TO", 139)
        reports = find_critical_points(loss, starts)
        with pytest.raises(ValueError, match="there are 140 parameters: beyond 139"):
            find_critical_points(loss, starts, rcond=1e-4)
    for report in reports:
        assert report.evidence("index").side == "lower"
        assert report.status is PointStatus.CRITICAL
        assert np.abs(report.theta).max() < 1e-8
        np.testing.assert_allclose(report.eigs, np.sort(curvatures)[:10], rtol=1e-6)
        assert report.index == 10 <= np.sum(curvatures < 0)
    for dense in (None, False):
        whole = find_critical_points(loss, [reports[0].theta], dense=dense)[0]
        assert whole.index == 14
        assert whole.evidence("index").kind == "exact"
        np.testing.assert_allclose(whole.eigs, np.sort(curvatures), rtol=1e-12)


# The map of a linear autoencoder.


@pytest.mark.slow
@pytest.mark.claim("frye2019critical/X2")
def test_most_searches_on_a_linear_autoencoder_succeed_and_all_of_these_end_at_analytic_points(measured):
    problem = linear_autoencoder()
    rng = np.random.default_rng(1)
    starts = []
    for k in range(10):
        params = {"W1": 0.3 * rng.normal(size=(2, 6)), "W2": 0.3 * rng.normal(size=(6, 2))}
        starts += loss_uniform_starts(problem.system(params), num=6, lr=0.05, steps=1000, key=jax.random.key(k))
    reports = find_critical_points(problem.system(), starts)
    known = {round(facts["loss"], 9): facts["index"] for _, facts in problem.points.values()}
    found = [report for report in reports if report.status.ok]
    nearest = [min(known, key=lambda loss, own=report.loss: abs(loss - own)) for report in found]
    assert len(reports) == 60
    assert len(found) >= 30
    off = max(abs(report.loss - loss) for report, loss in zip(found, nearest, strict=True))
    assert off < 1e-6
    assert [report.index for report in found] == [known[loss] for loss in nearest]
    assert len(set(nearest)) >= 6
    flat = sum(report.status is PointStatus.GRADIENT_FLAT for report in reports)
    measured(
        f"{len(found)} of 60 succeed, {flat} end gradient-flat; losses off by at most {off:.0e}, every index right, "
        f"{len(set(nearest))} of {len(known)} distinct values"
    )
    chart = index_chart(reports)
    assert [series.label for series in chart.series][:2] == ["critical", "gradient-flat"]
    np.testing.assert_array_equal(chart.series[0].y, [report.loss for report in found])
    np.testing.assert_array_equal(chart.series[0].x, [report.index / 24 for report in found])
    assert chart.caption.startswith(f"{len(found)} of 60")


# What goes in and comes out.


def test_many_starts_are_cut_into_groups_and_end_where_each_does_alone():
    starts = [np.array([-3.0 + 0.005 * i, 0.3]) for i in range(-150, 150)]
    reports = find_critical_points(quartic().system(), starts)
    assert len(reports) == 300
    for i in (0, 255, 256, 299):
        alone = find_critical_points(quartic().system(), [starts[i]])[0]
        np.testing.assert_allclose(reports[i].theta, alone.theta, atol=1e-12)
        assert reports[i].num_steps == alone.num_steps


def test_other_starts_of_the_same_number_compile_nothing():
    traces = []

    def loss(w):
        traces.append(None)
        return jnp.sum(jnp.cos(w)) + w[0] ** 2

    for method in METHODS:
        find_critical_points(loss, [np.array([0.5, 1.0]), np.array([0.1, 2.0])], method, max_steps=20)
    before = len(traces)
    checks_only = []
    for method in METHODS:
        find_critical_points(loss, [np.array([0.4, 3.0]), np.array([0.2, 1.0])], method, max_steps=20)
        checks_only.append(len(traces) - before)
        before = len(traces)
    assert max(checks_only) <= 4  # of shapes, precision and kinks of a new system, in place of about twelve


def test_reports_hold_parameters_like_the_starts_and_survive_a_file(tmp_path):
    problem = linear_autoencoder()
    params, facts = problem.points["{5,6}"]
    report = find_critical_points(problem.system(), [params])[0]
    assert sorted(report.theta) == ["W1", "W2"]
    np.testing.assert_array_equal(report.theta["W1"], params["W1"])
    assert report.index == facts["index"] == 0
    assert isinstance(report.loss, float)
    loaded = Result.load(report.save(tmp_path / "point"))
    assert loaded == report
    assert isinstance(loaded, CPReport)
    with pytest.raises(ValueError, match="was loaded or copied"):
        _ = loaded.theta


def test_the_chart_of_a_report_is_its_gradient_by_step():
    report = find_critical_points(quartic().system(), TO_FLAT[:1])[0]
    (chart,) = report.charts()
    np.testing.assert_array_equal(chart.series[0].y, report.trace)
    assert chart.y_scale == "log"
    at_minimum = find_critical_points(quartic().system(), [MINIMUM])[0]
    assert at_minimum.charts()[0].y_scale == "linear"  # nothing positive to show


def test_starts_may_be_stacked_as_a_problem_makes_them():
    for problem in (linear_autoencoder(), quartic()):
        stacked = problem.starts(3)
        apart = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(3)]
        for loss in (problem.system(), problem.objective):
            together = find_critical_points(loss, stacked, max_steps=3)
            for one, other in zip(together, find_critical_points(loss, apart, max_steps=3), strict=True):
                np.testing.assert_array_equal(one.w, other.w)
    drawn = loss_uniform_starts(quartic().system(), num=3, lr=0.01, steps=10)
    assert len(find_critical_points(quartic().system(), drawn, max_steps=3)) == 3


def test_one_start_is_not_taken_for_many():
    for one in (np.ones(3), jnp.ones(3), np.ones(()), {"a": np.ones(3), "b": np.ones(3)}):
        with pytest.raises(ValueError, match="give a list of at least one start"):
            find_critical_points(quartic_of_any, one)
    with pytest.raises(ValueError, match="give a list of at least one start") as error:
        find_critical_points(linear_autoencoder().system(), {"W1": np.ones((2, 6)), "W2": np.full((6, 2), 0.125)})
    assert "0.125" not in str(error.value)


def quartic_of_any(w):
    return sum(jnp.sum(leaf**4) for leaf in jax.tree.leaves(w))


def test_a_start_that_does_not_fit_is_named():
    for starts in ([np.array([np.nan, 0.0]), TO_FLAT[0]], [TO_FLAT[0], np.array([0.0, np.nan])]):
        place = int(np.isnan(starts[1]).any())
        with pytest.raises(ValueError, match=f"start {place} does not fit: .*NaN"):
            find_critical_points(quartic().system(), starts)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_low_precision_is_refused_in_every_start_of_functions_and_systems(dtype):
    low = np.array([-4.0, 1.0]).astype(dtype)
    for loss in (quartic().objective, quartic().system()):
        for starts in ([low, TO_FLAT[0]], [TO_FLAT[0], low]):
            with pytest.raises(PrecisionError, match=f"start {int(starts[1] is low)} holds {np.dtype(dtype).name}"):
                find_critical_points(loss, starts)
            reports = find_critical_points(loss, starts, max_steps=20, allow_float32=True)
            assert {report.status.name for report in reports} == {"CRITICAL", "GRADIENT_FLAT"}


def test_single_precision_is_refused_unless_allowed():
    low = [start.astype(np.float32) for start in TO_MINIMUM]
    loss = quartic().objective
    with pytest.raises(PrecisionError, match="find_critical_points works in float64"):
        find_critical_points(loss, low)
    with pytest.raises(PrecisionError, match="find_critical_points works in float64"):
        find_critical_points(loss, [TO_MINIMUM[0], low[1]])
    report = find_critical_points(loss, low, allow_float32=True)[0]
    assert report.g2 < 1e-20
    assert report.theta.dtype == np.float64


def test_what_does_not_fit_is_refused():
    system = quartic().system()
    for starts in ([], {"w": np.ones(2)}, 3.0):
        with pytest.raises(ValueError, match="`starts` is"):
            find_critical_points(system, starts)
    with pytest.raises(ShapeError, match="flat vector of 2 entries"):
        find_critical_points(system, [np.ones(2), np.ones(3)])
    for wrong in ({"method": "newton"}, {"max_steps": 0}, {"tol": 0.0}, {"rcond": 1.0}, {"rcond": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            find_critical_points(system, TO_FLAT, **wrong)
    with pytest.raises(ValueError, match="`rcond` belongs to decomposed Hessians"):
        find_critical_points(system, TO_FLAT, rcond=1e-4, dense=False)
    with pytest.raises(NonFiniteError, match=r"at 1 of 2 starts, first \[0.0\]"):
        find_critical_points(lambda w: jnp.sum(jnp.sqrt(w)), [np.ones(1), np.zeros(1)])
    with pytest.raises(ValueError, match="`reports` is empty"):
        index_chart([])
