"""Oracles: closed forms of F = w1 w2 and of linear maps, and tangent kernels of a tanh network written in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specimens import linear, product, tanh_net
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.curvature.spectrum import SpectrumStatus, kernel_spectrum
from widescape.landscape.certificate import CertificateStatus, certify_pl_star
from widescape.landscape.descent import gradient_descent
from widescape.landscape.pl import PLTrajectory, pl_ratio, pl_trajectory
from widescape.landscape.second_derivative import hessian_norm
from widescape.landscape.sequence import points_of
from widescape.train import fit


def jacobian_by_hand(params, x):
    """Of `net`, with columns in the order b (h,), w (d, h)."""
    hidden = np.tanh(x @ params["w"])
    slopes = (1 - hidden**2) * params["b"]
    return np.concatenate([hidden, (x[:, :, None] * slopes[:, None, :]).reshape(len(x), -1)], axis=1)


def random_net(seed, *, n=4, d=2, h=3, reduction="sum", dtype=np.float64, scale=1.0):
    r = np.random.default_rng(seed)
    params = {"b": scale * r.normal(size=h).astype(dtype), "w": scale * r.normal(size=(d, h)).astype(dtype)}
    x, y = r.normal(size=(n, d)).astype(dtype), r.normal(size=n).astype(dtype)
    return System(tanh_net, params, x, y, reduction=reduction)


def hessian_of_loss(system):
    """Column after column by central differences of the gradient."""
    step = 1e-5
    moves = step * np.eye(system.num_params)
    rows = [(system.grad(system.flat + e) - system.grad(system.flat - e)) / (2 * step) for e in moves]
    return np.stack(rows)


@pytest.mark.claim("liu2020loss/C2")
def test_of_w1_w2_the_ratio_is_the_kernel_the_hessian_norm_is_1_and_the_origin_is_singular(rng, measured):
    worst = 0.0
    for w in rng.normal(size=(8, 2)):
        system = System(product, w, np.zeros(1), np.ones(1))
        square = float(w @ w)
        found = [pl_ratio(system), kernel_spectrum(system).lam_min]
        found += [square * float(hessian_norm(system, kind=kind)) for kind in ("bilinear", "max_output")]
        worst = max(worst, *(abs(value / square - 1) for value in found))
    measured(f"relative error {worst:.1g} at 8 points")
    assert worst < 1e-12
    origin = System(product, np.zeros(2), np.zeros(1), np.ones(1))
    assert pl_ratio(origin) == 0
    assert kernel_spectrum(origin).status is SpectrumStatus.SINGULAR
    for given_bound in (1.0, None):
        certificate = certify_pl_star(origin, hessian_bound=given_bound)
        assert certificate.status is CertificateStatus.SINGULAR
        assert not certificate.certified
        assert certificate.mu == 0


@pytest.mark.claim("liu2020loss/I1")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.sampled_from([(4, 2, 3), (1, 1, 1), (6, 2, 2)]),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    reduction=st.sampled_from(["sum", "mean"]),
)
def test_the_ratio_lies_between_the_extreme_eigenvalues_of_the_kernel(seed, sizes, scale, reduction):
    n, d, h = sizes
    system = random_net(seed, n=n, d=d, h=h, scale=scale, reduction=reduction)
    rows = jacobian_by_hand(system.params, system.x)
    kernel = rows @ rows.T * (1 / n if reduction == "mean" else 1)
    values = np.linalg.eigvalsh(kernel)
    r = system.F() - system.y
    slack = 1e-11 * values[-1]

    ratio = pl_ratio(system)
    assert values[0] - slack <= ratio <= values[-1] + slack
    assert ratio == pytest.approx(r @ kernel @ r / (r @ r), rel=1e-10, abs=slack)

    found = pl_trajectory(system, system.flat[None], spectrum=True)
    assert found.lam_min[0] - slack <= found.ratio[0] <= found.lam_max[0] + slack
    np.testing.assert_allclose([found.lam_min[0], found.lam_max[0]], values[[0, -1]], rtol=1e-10, atol=slack)


def test_the_ratio_of_a_random_residual_reaches_both_ends_of_the_spectrum():
    rows = np.diag([0.5, 3.0])
    for r, end in (((1.0, 0.0), 0.25), ((0.0, 1.0), 9.0)):
        system = System(linear, np.zeros(2), rows, -np.array(r))
        assert pl_ratio(system) == pytest.approx(end, rel=1e-14)


@pytest.mark.claim("liu2020loss/C7")
def test_above_the_level_1_the_worked_example_has_the_constant_one_half_attained_and_never_undercut(rng, measured):
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    system = System(linear, np.zeros(2), rows, np.array([1.0, 2.0, 1.0]))
    angle = rng.uniform(0, 2 * np.pi, 200)
    level_set = np.stack([1 + (1 + 1e-9) * np.cos(angle), 1 + (1 + 1e-9) * np.sin(angle) / 2], axis=1)
    anywhere = np.concatenate([rng.normal(size=(400, 2)) * 3, rng.uniform(0, 2, size=(200, 2)), level_set])
    drawn = pl_trajectory(system, anywhere, eps=1.0, spectrum=False)
    assert 200 < (drawn.loss >= 1).sum() < 800
    np.testing.assert_allclose(drawn.ratio[600:], (np.cos(angle) ** 2 + 4 * np.sin(angle) ** 2) / 2, rtol=1e-7)
    measured(f"least of {(drawn.loss >= 1).sum()} random points {drawn.mu_eps:.6f}")
    assert drawn.mu_eps >= 0.5 - 1e-9
    assert drawn.mu_eps == drawn.ratio[drawn.loss >= 1].min()
    assert drawn.mu_traj == drawn.ratio.min() < 0.3

    attained = pl_trajectory(system, np.array([[0.0, 1.0]]), eps=1.0, spectrum=False)
    assert attained.loss[0] == 1.0
    assert attained.mu_eps == 0.5
    assert attained.eps == 1.0
    assert attained.evidence("mu_eps").side == "upper"


def test_no_point_above_the_level_leaves_no_constant():
    system = System(linear, np.zeros(2), np.eye(2), np.ones(2))
    found = pl_trajectory(system, np.zeros((1, 2)), eps=1.0 + 1e-12, spectrum=False)
    assert found.mu_eps is None
    assert found.mu_traj == 1.0
    assert pl_trajectory(system, np.zeros((1, 2)), spectrum=False).mu_eps is None


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_trajectory_is_its_formulas_at_every_point(rng, reduction):
    system = random_net(3, reduction=reduction)
    weight = 0.25 if reduction == "mean" else 1.0
    points = system.flat + 0.5 * rng.normal(size=(5, system.num_params))
    found = pl_trajectory(system, points)
    for i, point in enumerate(points):
        params = system.unravel(point)
        rows = jacobian_by_hand(params, system.x)
        r = np.tanh(system.x @ params["w"]) @ params["b"] - system.y
        loss, gradient = weight * r @ r / 2, weight * rows.T @ r
        assert found.loss[i] == pytest.approx(loss, rel=1e-12)
        assert found.half_squared_gradient[i] == pytest.approx(gradient @ gradient / 2, rel=1e-12)
        assert found.ratio[i] == pytest.approx(gradient @ gradient / 2 / loss, rel=1e-12)
        assert pl_ratio(system, params) == pytest.approx(found.ratio[i], rel=1e-14)
        values = np.linalg.eigvalsh(weight * rows @ rows.T)
        assert found.lam_min[i] == pytest.approx(values[0], rel=1e-9)
        assert found.lam_max[i] == pytest.approx(values[-1], rel=1e-12)
        assert found.distance[i] == pytest.approx(np.linalg.norm(point - points[0]), rel=1e-13, abs=0)
    assert found.mu_traj == found.ratio.min()
    assert found.skipped == 0


@pytest.mark.parametrize(("h", "p"), [(3, 9), (15, 45)])
def test_the_sharpness_is_the_largest_eigenvalue_of_the_hessian_of_the_loss(h, p):
    system = random_net(8, h=h)
    assert system.num_params == p
    elsewhere = System(tanh_net, system.unravel(system.flat + 0.1), system.x, system.y)
    found = pl_trajectory(system, [system.flat, elsewhere.flat, system.flat])
    here, there = (np.linalg.eigvalsh(hessian_of_loss(s))[-1] for s in (system, elsewhere))
    np.testing.assert_allclose(found.sharpness, [here, there, here], rtol=1e-7)


def test_the_sharpness_is_not_the_largest_magnitude():
    def bent(w, x):
        return (5 * w[0] ** 2 - w[1] ** 2)[None]

    found = pl_trajectory(System(bent, np.zeros(2), np.zeros(1), np.ones(1)), np.zeros((1, 2)))
    assert found.sharpness[0] == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(("dtype", "floor"), [("float64", 1e-28), ("float32", 1e-10)])
def test_below_the_floor_of_its_precision_a_loss_has_no_ratio(dtype, floor):
    system = System(linear, np.zeros(1, dtype), np.ones((1, 1), dtype), np.zeros(1, dtype))
    places = np.sqrt(2 * floor * np.array([1.3, 0.7, 4.0]))[:, None].astype(dtype)
    found = pl_trajectory(system, places, eps=0)
    assert np.isnan(found.ratio).tolist() == [False, True, False]
    np.testing.assert_allclose(found.ratio[[0, 2]], 1.0, rtol=1e-6)
    assert (found.skipped, found.mu_traj, found.mu_eps) == (1, pytest.approx(1, rel=1e-6), pytest.approx(1, rel=1e-6))
    assert pl_ratio(system, places[0]) == pytest.approx(1, rel=1e-6)
    with pytest.raises(ValueError, match="is rounding; the ratio has no value"):
        pl_ratio(system, places[1])
    nothing = pl_trajectory(system, places[1:2])
    assert (nothing.mu_traj, nothing.skipped) == (None, 1)
    assert nothing.charts()[0].series[0].y.size == 0


@pytest.mark.parametrize(("reduction", "weight", "size"), [("sum", 1.0, 1e4), ("mean", 0.01, 1e2)])
def test_the_floor_grows_with_the_squared_targets_as_the_reduction_counts_them(reduction, weight, size):
    y = np.full(100, 10.0)
    for factor, skipped in ((1.5, 0), (0.5, 1)):
        x = np.zeros((100, 1))
        x[0] = np.sqrt(2 * 1e-28 * size * factor / weight)
        system = System(lambda w, x: 10 + jnp.matmul(x, w), np.ones(1), x, y, reduction=reduction)
        assert system.value() == pytest.approx(1e-28 * size * factor, rel=1e-2)
        assert pl_trajectory(system, system.flat[None], spectrum=False).skipped == skipped


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_cross_entropy_has_a_ratio_without_a_residual(rng, reduction):
    x, labels, w = rng.normal(size=(5, 2)), np.array([0, 2, 1, 1, 0]), rng.normal(size=(2, 3))
    system = System(linear, w, x, labels, loss="cross_entropy", reduction=reduction)
    weight = 0.2 if reduction == "mean" else 1.0
    shares = np.exp(x @ w) / np.exp(x @ w).sum(axis=1, keepdims=True)
    loss = -weight * np.log(shares[np.arange(5), labels]).sum()
    gradient = weight * x.T @ (shares - np.eye(3)[labels])
    ratio = (gradient**2).sum() / 2 / loss
    assert pl_ratio(system) == pytest.approx(ratio, rel=1e-12)
    found = pl_trajectory(system, [w, 2 * w])
    assert found.ratio[0] == pytest.approx(ratio, rel=1e-12)
    assert found.mu_traj == found.ratio.min()
    kernel = weight * np.kron(x @ x.T, np.eye(3))
    assert found.lam_max[0] == pytest.approx(np.linalg.eigvalsh(kernel)[-1], rel=1e-12)
    # far from the targets the loss grows like |w| and its gradient stays bounded: no PL* constant on the whole space
    away = system.flat - 1e3 * system.grad()
    assert pl_ratio(system, away) < 0.01 * ratio


def test_single_precision_systems_agree_with_double_to_their_own_rounding():
    narrow, wide = random_net(4, dtype=np.float32, h=15), random_net(4, h=15)
    points = wide.flat + np.linspace(0, 0.2, 3)[:, None]
    ours = pl_trajectory(narrow, points.astype(np.float32))
    theirs = pl_trajectory(wide, points.astype(np.float32).astype(float))
    for name in ("loss", "ratio", "lam_max", "sharpness"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=2e-5)
    assert ours.distance.dtype == np.float64


def test_points_may_come_as_an_array_as_flat_vectors_as_pytrees_or_as_a_run():
    system = random_net(5)
    points = system.flat + np.arange(3.0)[:, None]
    for given_points in (points, list(points), tuple(points), [system.unravel(w) for w in points], jnp.asarray(points)):
        found, steps = points_of(system, given_points)
        np.testing.assert_allclose(found, points, rtol=1e-6 if isinstance(given_points, jnp.ndarray) else 0)
        assert (found.dtype, steps.tolist()) == (np.float64, [0, 1, 2])
    run = gradient_descent(system, 0.01, 7, keep_every=3)
    found, steps = points_of(system, run)
    np.testing.assert_array_equal(found, run.snapshots)
    assert steps.tolist() == [0, 3, 6, 7]
    assert pl_trajectory(system, run).loss.tolist() == pytest.approx(run.loss[[0, 3, 6, 7]].tolist(), rel=1e-13)
    assert points_of(system, gradient_descent(system, 0.01, 5))[1].tolist() == [0, 5]


def test_a_training_run_gives_the_points_that_it_kept_and_none_without():
    system = random_net(6)
    run = fit(system, optax.adam(0.01), 10, keep_every=4)
    found = pl_trajectory(system, run, spectrum=False)
    assert found.steps.tolist() == [0, 4, 8, 10]
    assert found.loss[-1] == pytest.approx(system.value(run.w), rel=1e-12)
    assert found.loss[0] == pytest.approx(system.value(), rel=1e-12)
    with pytest.raises(ShapeError, match="kept no snapshots; train it with `keep_every`"):
        pl_trajectory(system, fit(system, optax.adam(0.01), 2))


def test_what_holds_no_points_is_refused():
    system = random_net(7)
    for empty in ([], np.zeros((0, 9))):
        with pytest.raises(ShapeError, match="give flat parameters"):
            points_of(system, empty)
    for wrong in (np.zeros(9), np.zeros((2, 8)), np.zeros((1, 2, 9)), np.array(1.0)):
        with pytest.raises(ShapeError, match="give flat parameters"):
            points_of(system, wrong)
    with pytest.raises(ShapeError, match="flat vector of 9"):
        points_of(system, [system.flat, np.zeros(8)])
    with pytest.raises(TypeError, match="dtype int"):
        points_of(system, np.zeros((2, 9), int))
    with pytest.raises(ValueError, match="NaN or infinite"):
        points_of(system, np.full((2, 9), np.nan))
    for wrong in (3.0, "run", (w for w in np.zeros((2, 9)))):
        with pytest.raises(TypeError, match=r"`params_seq` is a (float|str|generator);"):
            points_of(system, wrong)


def test_arguments_that_make_no_sense_are_refused():
    system = random_net(1)
    with pytest.raises(ValueError, match="`eps` is -1"):
        pl_trajectory(system, [system.flat], eps=-1.0)
    with pytest.raises(ValueError, match="finite"):
        pl_trajectory(system, [system.flat], eps=float("nan"))
    with pytest.raises(ShapeError, match="params"):
        pl_ratio(system, np.ones(3))
    bare = System(tanh_net, system.params, system.x)
    for call in (pl_ratio, lambda s: pl_trajectory(s, [s.flat])):
        with pytest.raises(ValueError, match="targets"):
            call(bare)


def test_a_trajectory_prints_charts_and_saves(tmp_path):
    system = System(product, np.array([1.0, 2.0]), np.zeros(1), np.ones(1))
    found = pl_trajectory(system, np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), eps=1)
    assert found.skipped == 1
    (chart,) = found.charts()
    ratio, lowest, highest = chart.series
    assert (ratio.x.tolist(), ratio.y.tolist()) == ([0.0], [5.0])  # a ratio of 0 and one of nothing have no logarithm
    np.testing.assert_allclose([lowest.y, highest.y], [[5, 2], [5, 2]])
    assert lowest.x.tolist() == [0, 2]
    assert chart.markers == ()
    assert PLTrajectory.load(found.save(tmp_path / "trajectory.zip")) == found
    assert len(str(found).splitlines()) < 20
    bare = pl_trajectory(system, np.array([[1.0, 2.0]]), spectrum=False)
    assert (bare.lam_min, bare.lam_max, bare.sharpness) == (None, None, None)
    assert [m.value for m in bare.charts()[0].markers] == [5.0]
