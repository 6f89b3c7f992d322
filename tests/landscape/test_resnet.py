import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from widescape.core.errors import AssumptionWarning, PrecisionError, ShapeError
from widescape.core.result import Result
from widescape.curvature import System
from widescape.landscape.convex_fit import _hessian, _solved
from widescape.landscape.problems import degenerate_resnet
from widescape.landscape.resnet import ResidualModel, resnet_certificate


def tanh_features(u, x):
    return jnp.tanh(x @ u)


MODEL = ResidualModel(tanh_features, dx=2, dz=3, dy=1)


def degenerate():
    problem = degenerate_resnet()
    params = problem.params()
    return params["W"], params["R"], np.tanh(problem.X @ params["U"].T), problem.X, problem.y


def mean_square(W, R, z, X, Y):
    return np.mean(np.sum(((X + z @ R.T) @ W.T - Y) ** 2, axis=1))


def best_mean_square(design, Y):
    return np.mean(np.sum((design @ np.linalg.lstsq(design, Y, rcond=None)[0] - Y) ** 2, axis=1))


@pytest.mark.claim("kawaguchi2018resnets/R1")
def test_the_degenerate_critical_point_is_escaped_with_strict_decrease(measured):
    W, R, z, X, Y = degenerate()
    report = resnet_certificate(W, R, z, X, Y, degenerate_resnet().loss)
    assert report.rank == 0
    assert pytest.approx(1.7083333, abs=5e-8) == report.L
    assert report.L_linear == pytest.approx(1.1231231, abs=5e-8)
    assert report.L_joint == pytest.approx(0.1857689, abs=5e-8)
    assert report.grad_norm < 1e-14
    assert report.verdict == "escapable"
    assert report.status == "ok"
    weights, residual = report.escape_direction
    np.testing.assert_allclose((X + z @ (R + residual).T) @ W.T, (X + z @ R.T) @ W.T, atol=1e-15)
    after = mean_square(W + weights, R + residual, z, X, Y)
    assert after == pytest.approx(report.escape_value, abs=1e-14)
    assert after < report.L - 1e-5
    measured(f"L {report.L:.7f}, linear {report.L_linear:.7f}, joint {report.L_joint:.7f}, after {after:.7f}")


def test_small_targets_change_no_verdict():
    W, R, z, X, Y = degenerate()
    for scale in (1e-3, 1e3, 1e-8):
        report = resnet_certificate(W, scale * R, z, X, scale * Y)
        assert report.verdict == "escapable"
        assert report.escape_value < report.L


def test_where_an_escape_was_found_the_verdict_is_not_the_joint_optimum_however_large_the_tolerance():
    assert resnet_certificate(*degenerate(), tol=10.0).verdict == "escapable"


def test_singular_values_four_orders_apart_make_full_rank(rng):
    W = np.diag([1.0, 1e-4]) @ np.eye(2, 3)
    z, X, Y = rng.standard_normal((15, 4)), rng.standard_normal((15, 3)), rng.standard_normal((15, 2))
    assert resnet_certificate(W, np.zeros((3, 4)), z, X, Y).rank == 2
    W[1] *= 1e-6
    assert resnet_certificate(W, np.zeros((3, 4)), z, X, Y).rank == 1


def test_half_the_square_gives_half_of_every_value():
    point = degenerate()
    half, whole = resnet_certificate(*point), resnet_certificate(*point, degenerate_resnet().loss)
    for name in ("L", "L_linear", "L_joint", "gap_joint", "gap_linear", "feature_residual", "input_residual"):
        assert 2 * getattr(half, name) == pytest.approx(getattr(whole, name), abs=1e-12)


def test_values_are_those_of_least_squares(rng):
    W, R = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    z, X, Y = rng.standard_normal((15, 4)), rng.standard_normal((15, 3)), rng.standard_normal((15, 2))
    report = resnet_certificate(W, R, z, X, Y, degenerate_resnet().loss)
    assert pytest.approx(mean_square(W, R, z, X, Y), rel=1e-13) == report.L
    assert report.L_linear == pytest.approx(best_mean_square(X, Y), rel=1e-12)
    assert report.L_joint == pytest.approx(best_mean_square(np.hstack([X, z]), Y), rel=1e-12)
    assert report.rank == 2
    assert report.verdict == "not_stationary"
    assert not report.verdict.ok
    assert report.escape_direction is None
    system = System(lambda p, x: (x[:, :3] + x[:, 3:] @ p[1].T) @ p[0].T, [W, R], np.hstack([X, z]), Y)
    assert 2 * np.linalg.norm(system.grad()) / 15 == pytest.approx(report.grad_norm, rel=1e-12)


def test_a_critical_point_of_full_rank_is_the_joint_optimum(rng):
    z, X, Y = rng.standard_normal((15, 4)), rng.standard_normal((15, 3)), rng.standard_normal((15, 2))
    joint = np.linalg.lstsq(np.hstack([X, z]), Y, rcond=None)[0].T
    W, R = joint[:, :3], np.linalg.pinv(joint[:, :3]) @ joint[:, 3:]
    report = resnet_certificate(W, R, z, X, Y)
    assert report.grad_norm < 1e-13
    assert abs(report.gap_joint) < 1e-13
    assert report.gap_linear < 0
    assert report.verdict == "joint_optimum"
    assert report.verdict.ok


def test_rank_one_of_two_outputs_is_escaped_too(rng):
    z, X, Y = rng.standard_normal((15, 4)), rng.standard_normal((15, 3)), rng.standard_normal((15, 2))
    W, R = np.outer([1.0, 2.0], rng.standard_normal(3)), rng.standard_normal((3, 4))
    report = resnet_certificate(W, R, z, X, Y)
    weights, residual = report.escape_direction
    assert report.rank == 1
    np.testing.assert_allclose(W @ residual, 0.0, atol=1e-14)
    assert mean_square(W + weights, R + residual, z, X, Y) / 2 < report.L


def value_and_gradient(flat, X, Y):
    """The mean square error of the network with tanh features, and its gradient, by the chain rule."""
    W, R, u = flat[:2].reshape(1, 2), flat[2:8].reshape(2, 3), flat[8:].reshape(2, 3)
    z = np.tanh(X @ u)
    hidden = X + z @ R.T
    errors = hidden @ W.T - Y
    back = 2 * errors @ W / len(X)
    within = X.T @ (back @ R * (1 - z**2))
    parts = 2 * errors.T @ hidden / len(X), back.T @ z, within
    return np.mean(errors**2), np.concatenate([part.ravel() for part in parts])


@pytest.mark.claim("kawaguchi2018resnets/R2")
def test_ten_converged_starts_reach_the_joint_optimum(measured):
    rng = np.random.default_rng(3)
    X, noise = rng.standard_normal((20, 2)), rng.standard_normal((20, 1))
    teacher = 2 * np.tanh(X @ (2 * rng.standard_normal((2, 3)))) @ rng.standard_normal((3, 1))
    Y = X @ rng.standard_normal((2, 1)) + teacher + noise
    Y /= Y.std()
    linear, gaps, reached, seed = best_mean_square(X, Y), [], [], 0
    while len(gaps) < 10:  # most other starts follow a valley to infinity, along which the gradient does not vanish
        start = np.random.default_rng(seed).standard_normal(14) * np.repeat([1.0, 1.5], [8, 6])
        seed += 1
        assert seed <= 40
        found = minimize(value_and_gradient, start, (X, Y), "BFGS", jac=True, options={"gtol": 1e-7, "maxiter": 600})
        if np.linalg.norm(found.jac) >= 1e-6:
            continue
        W, R, u = found.x[:2].reshape(1, 2), found.x[2:8].reshape(2, 3), found.x[8:].reshape(2, 3)
        z = np.tanh(X @ u)
        report = resnet_certificate(W, R, z, X, Y, degenerate_resnet().loss)
        assert pytest.approx(found.fun, rel=1e-12) == report.L
        assert linear >= report.L
        assert report.verdict == "joint_optimum"
        gaps.append(max(abs(report.L - best_mean_square(np.hstack([X, z]), Y)), abs(report.gap_joint)))
        reached.append(report.L)
    assert max(gaps) <= 1e-6
    low, high = min(reached), max(reached)
    measured(f"linear {linear:.4f}, reached {low:.4f} to {high:.4f}, gap at most {max(gaps):.1e}, ten of {seed} starts")


@pytest.mark.claim("kawaguchi2018resnets/R3")
@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_an_invertible_change_of_features_changes_no_value(loss, rng):
    z, X = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    W, R = rng.standard_normal((2, 2)), rng.standard_normal((2, 3))
    Y = rng.standard_normal((20, 2)) if loss == "square" else rng.integers(0, 2, 20)
    T = rng.standard_normal((3, 3))
    one = resnet_certificate(W, R, z, X, Y, loss)
    other = resnet_certificate(W, R @ np.linalg.inv(T), z @ T.T, X, Y, loss)
    for name in ("L", "L_linear", "L_joint"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)
    assert one.rank == other.rank


def cross_entropy(design, Y, flat):
    logits = design @ flat.reshape(design.shape[1], -1)
    return np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(Y)), Y])


def test_cross_entropy_on_overlapping_classes_has_its_two_optima(rng):
    z, X, Y = rng.standard_normal((20, 2)), rng.standard_normal((20, 2)), rng.integers(0, 2, 20)
    W, R = rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    report = resnet_certificate(W, R, z, X, Y, "cross_entropy")
    assert report.status == "ok"
    for design, value in ((X, report.L_linear), (np.hstack([X, z]), report.L_joint)):
        best = minimize(lambda a: cross_entropy(design, Y, a), np.zeros(2 * design.shape[1]), tol=1e-10)  # noqa: B023
        assert value == pytest.approx(best.fun, abs=1e-9)
        assert value <= best.fun + 1e-12
    assert pytest.approx(cross_entropy(X + z @ R.T, Y, W.T), abs=1e-12) == report.L


@pytest.mark.claim("kawaguchi2018resnets/R4")
def test_cross_entropy_on_separable_classes_is_compared_under_a_norm_cap(rng, measured):
    X = rng.standard_normal((20, 2))
    Y = (X[:, 0] > 0).astype(int)
    z = rng.standard_normal((20, 2))
    W, R = np.zeros((2, 2)), np.zeros((2, 2))
    report = resnet_certificate(W, R, z, X, Y, "cross_entropy", max_norm=2.0)
    assert report.status == "capped"
    assert not report.status.ok
    assert report.cap == 2.0
    assert pytest.approx(np.log(2), abs=1e-14) == report.L
    for design, value in ((X, report.L_linear), (np.hstack([X, z]), report.L_joint)):
        best = minimize(
            lambda a: cross_entropy(design, Y, a),  # noqa: B023
            0.01 * np.ones(2 * design.shape[1]),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda a: 4.0 - np.sum((design @ a.reshape(-1, 2)) ** 2) / 20},  # noqa: B023
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert value == pytest.approx(best.fun, abs=1e-7)
    wide = resnet_certificate(W, R, z, X, Y, "cross_entropy")
    assert wide.status == "capped"
    assert wide.L_joint <= wide.L_linear < report.L_linear
    measured(
        f"under a cap of 2 the optima are {report.L_linear:.4f} and {report.L_joint:.4f}, of 20 {wide.L_linear:.1e}"
    )


def test_a_network_of_the_cap_is_no_joint_optimum_where_larger_weights_do_better(rng):
    X = rng.standard_normal((20, 2))
    Y = (X[:, 0] > 0).astype(int)
    W, R, z = np.array([[-9.0, 0.0], [9.0, 0.0]]), np.zeros((2, 2)), np.zeros((20, 2))
    report = resnet_certificate(W, R, z, X, Y, "cross_entropy", max_norm=1.0, tol=1.0)
    assert report.rank == 1
    assert report.status == "capped"
    assert report.verdict == "unattained"
    assert not report.verdict.ok
    assert resnet_certificate(2 * W, R, z, X, Y, "cross_entropy", max_norm=1.0).L < report.L


def test_newton_steps_solve_the_ridged_system_and_its_hessian_is_the_mean_of_products(rng):
    basis, roots = rng.standard_normal((9, 3)), rng.standard_normal((9, 2, 2))
    curved = roots @ roots.transpose(0, 2, 1)
    hessian = _hessian(basis, curved)
    naive = sum(np.kron(np.outer(b, b), c) for b, c in zip(basis, curved, strict=True)) / 9
    np.testing.assert_allclose(hessian, naive, rtol=1e-13, atol=1e-14)
    slope = rng.standard_normal(6)
    expected = np.linalg.solve(naive + 0.1 * np.eye(6), slope)
    np.testing.assert_allclose(_solved(hessian.copy(), slope, 0.1), expected, rtol=1e-12)
    flat = np.diag([1.0, 0.0])
    assert _solved(flat, np.array([1.0, 1e-17]), 1e-20).tolist() == [1.0, 0.0]  # the least length, not 1e3


def test_the_cap_is_raised_to_the_norm_of_the_network(rng):
    X = rng.standard_normal((20, 2))
    Y = (X[:, 0] > 0).astype(int)
    W, R = np.array([[-30.0, 0.0], [30.0, 0.0]]), np.zeros((2, 2))
    report = resnet_certificate(W, R, rng.standard_normal((20, 2)), X, Y, "cross_entropy", max_norm=1.0)
    assert report.cap == pytest.approx(np.sqrt(np.sum((X @ W.T) ** 2) / 20), rel=1e-14)
    assert report.gap_linear >= -1e-9


def test_the_model_is_its_formula_and_a_system(rng):
    params = MODEL.init(jax.random.key(1), rng.standard_normal((2, 3)))
    x = rng.standard_normal((7, 2))
    system = System(MODEL.apply, params, x)
    by_hand = (x + np.tanh(x @ params["u"]) @ params["R"].T) @ params["W"].T
    np.testing.assert_allclose(system.F(), by_hand, atol=1e-14)
    assert hash(MODEL) == hash(ResidualModel(tanh_features, dx=2, dz=3, dy=1))


def test_the_certificate_of_a_model_computes_its_features_in_double_precision(rng):
    params = MODEL.init(jax.random.key(1), rng.standard_normal((2, 3)))
    X, Y = rng.standard_normal((7, 2)), rng.standard_normal((7, 1))
    z = np.tanh(X @ params["u"])
    report = MODEL.certificate(params, X, Y, tol=1e-3)
    by_hand = resnet_certificate(params["W"], params["R"], z, X, Y, tol=1e-3)
    for name in ("L", "L_linear", "L_joint", "grad_norm"):
        assert getattr(report, name) == pytest.approx(getattr(by_hand, name), rel=1e-14)
    low = {**params, "u": params["u"].astype(np.float32)}
    with pytest.raises(PrecisionError, match="a parameter of the features is float32"):
        MODEL.certificate(low, X, Y)
    assert pytest.approx(report.L, rel=1e-5) == MODEL.certificate(low, X, Y, allow_float32=True).L
    labels = MODEL.certificate(params, np.arange(14).reshape(7, 2), Y)
    floats = MODEL.certificate(params, np.arange(14.0).reshape(7, 2), Y)
    assert labels == floats


def test_a_report_saves_loads_and_draws(tmp_path):
    report = resnet_certificate(*degenerate())
    assert Result.load(report.save(tmp_path / "report.zip")) == report
    (chart,) = report.charts()
    assert chart.series[0].y.tolist() == [report.L_linear, report.L_joint]
    assert len(str(report).splitlines()) < 20


def test_refusals_and_warnings(rng):
    W, R, z, X, Y = degenerate()
    with pytest.raises(ValueError, match="dy <= dx"):
        resnet_certificate(np.zeros((3, 2)), R, z, X, np.zeros((6, 3)))
    with pytest.raises(ValueError, match="dy <= dx"):
        ResidualModel(tanh_features, dx=2, dz=3, dy=3)
    with pytest.warns(AssumptionWarning, match="dy <= dz"):
        resnet_certificate(np.zeros((2, 2)), np.zeros((2, 1)), z[:, :1], X, np.zeros((6, 2)))
    with pytest.raises(PrecisionError, match="`z` is float32"):
        resnet_certificate(W, R, z.astype(np.float32), X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resnet_certificate(W, R, z.astype(np.float32), X, Y, allow_float32=True).rank == 0
    with pytest.raises(ShapeError, match="they must be"):
        resnet_certificate(W, R.T, z, X, Y)
    with pytest.raises(ShapeError, match="must be a matrix"):
        resnet_certificate(W[0], R, z, X, Y)
    with pytest.raises(ValueError, match="`tol` is -1"):
        resnet_certificate(W, R, z, X, Y, tol=-1.0)
    with pytest.raises(ValueError, match="NaN"):
        resnet_certificate(W, R, np.where(z > 0.5, np.nan, z), X, Y)
