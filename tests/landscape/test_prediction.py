"""Predicted losses against the iteration of (I - lr K), exact quadrature, simulated batches, and descent itself."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specimens import doubled
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.landscape.certificate import certify_pl_star, two_layer_hessian_bound
from widescape.landscape.prediction import RateStatus, compare_gd_rate, predict_gd, sgd_step_size

SEEDS = st.integers(0, 10**6)


def line(w, x):
    return x @ w


def bent_network(w, x):
    return jnp.tanh(x @ w["in"]) @ w["out"]


def linear(seed=0, n=6, m=9):
    draws = np.random.default_rng(seed)
    return System(line, draws.normal(size=m), draws.normal(size=(n, m)) / m**0.5, draws.normal(size=n))


def network(seed=0, n=5, m=7):
    draws = np.random.default_rng(seed)
    params = {"in": draws.normal(size=(3, m)), "out": draws.normal(size=m) / m**0.5}
    return System(bent_network, params, draws.normal(size=(n, 3)), draws.normal(size=n))


def iterated(system, lr, steps, params=None):
    """Loss under r <- (I - lr K) r, with K from the dense Jacobian."""
    J, r = system.jacobian(params), system.residual(params)
    K, losses = J @ J.T, [r @ r / 2]
    for _ in range(steps):
        r = r - lr * K @ r
        losses.append(r @ r / 2)
    return np.array(losses)


def top(system):
    return np.linalg.eigvalsh(system.jacobian() @ system.jacobian().T)[-1]


@pytest.mark.parametrize("make", [linear, network])
@pytest.mark.parametrize("share", [0.1, 1.0, 1.9, 2.5])
def test_the_predicted_curve_is_the_iteration_of_the_frozen_kernel(make, share):
    system = make()
    lr = share / top(system)
    found = predict_gd(system, lr, 60)
    np.testing.assert_allclose(found.loss, iterated(system, lr, 60), rtol=1e-9)
    assert (found.mode, found.exact_until, found.stable) == ("eig", 60, share < 2)
    elsewhere = 0.3 * system.flat
    np.testing.assert_allclose(
        predict_gd(system, lr, 60, params=elsewhere).loss, iterated(system, lr, 60, elsewhere), rtol=1e-9
    )


def test_for_the_mean_over_examples_rates_are_slower_by_their_number():
    system = linear()
    mean = System(line, system.params, system.x, system.y, reduction="mean")
    lr = 0.5 / top(system)
    np.testing.assert_allclose(predict_gd(mean, 6 * lr, 30).loss * 6, predict_gd(system, lr, 30).loss, rtol=1e-10)


@pytest.mark.claim("liu2020loss/C10")
@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 6), share=st.floats(0.2, 1.8))
def test_the_curve_from_k_lanczos_steps_is_exact_up_to_step_k_less_one(seed, k, share):
    system = linear(seed)
    lr, exact = share / top(system), None
    found, exact = predict_gd(system, lr, 40, mode="lanczos", k=k), iterated(system, lr, 40)
    until = 40 if k == 6 else k - 1
    assert found.exact_until == until
    np.testing.assert_allclose(found.loss[: until + 1], exact[: until + 1], rtol=1e-9)


@pytest.mark.claim("liu2020loss/C10")
def test_beyond_step_k_less_one_the_curve_of_lanczos_is_another(measured):
    system = linear(1)
    lr = 1.0 / top(system)
    exact, off = iterated(system, lr, 40), []
    for k in (1, 2, 3, 4, 5):
        error = np.abs(predict_gd(system, lr, 40, mode="lanczos", k=k).loss / exact - 1)
        assert error[:k].max() <= 1e-9
        assert error[k:].max() > 1e-6
        off.append(error[:k].max())
    measured(f"largest relative error up to step k - 1 over k = 1 to 5: {max(off):.1e}")


def test_a_lanczos_space_that_closes_early_is_exact_at_every_step():
    system = System(line, np.zeros(4), np.diag([1.0, 1.0, 2.0, 2.0]), np.ones(4))
    found = predict_gd(system, 0.2, 30, mode="lanczos", k=3)
    assert found.exact_until == 30
    np.testing.assert_allclose(found.loss, iterated(system, 0.2, 30), rtol=1e-9)


@pytest.mark.parametrize("mode", ["eig", "lanczos"])
def test_at_a_solution_the_predicted_loss_is_zero(mode):
    system = System(line, np.ones(2), np.eye(2), np.ones(2))
    assert predict_gd(system, 0.5, 3, mode=mode).loss.tolist() == [0.0] * 4


def test_the_bound_is_the_power_of_the_promised_rate():
    system = linear(n=3)
    whole = certify_pl_star(system, hessian_bound=0.0)
    low, high = np.linalg.eigvalsh(system.jacobian() @ system.jacobian().T)[[0, -1]]
    for lr in (0.3 / high, 1 / high):
        found = predict_gd(system, lr, 50, mode="bound", certificate=whole)
        rate = 1 - lr * low * (2 - lr * high)
        np.testing.assert_allclose(found.loss, system.value() * rate ** np.arange(51), rtol=1e-9)
        assert (iterated(system, lr, 50) <= found.loss * (1 + 1e-12)).all()
        assert found.evidence("loss").kind == "certified"
    asked = certify_pl_star(system, hessian_bound=0.0, lr=1.6 / high)
    fast = predict_gd(system, 1.6 / high, 50, mode="bound", certificate=asked)
    np.testing.assert_allclose(fast.loss, system.value() * (1 - 0.64 * low / high) ** np.arange(51), rtol=1e-9)


def test_the_bound_refuses_what_its_certificate_does_not_cover():
    system = linear(n=3)
    whole, flow = certify_pl_star(system, hessian_bound=0.0), certify_pl_star(system, hessian_bound=0.0, flow=True)
    with pytest.raises(ValueError, match="covers learning rates up to"):
        predict_gd(system, 1.01 * whole.lr_max, 5, mode="bound", certificate=whole)
    with pytest.raises(ValueError, match="flow"):
        predict_gd(system, 0.5 * whole.lr_max, 5, mode="bound", certificate=flow)
    with pytest.raises(ValueError, match="flow"):
        compare_gd_rate(system, 0.5 * whole.lr_max, 5, certificate=flow)
    with pytest.raises(ValueError, match="no bound: h is"):
        predict_gd(system, 1e-3, 5, mode="bound", certificate=certify_pl_star(system, hessian_bound=1e3))


def test_a_bound_without_a_proof_says_so():
    system = linear(n=3)
    found = predict_gd(system, 0.5 / top(system), 5, mode="bound")  # the curvature is searched, and is none
    assert found.evidence("loss").kind == "sampled"
    assert found.loss[1] < found.loss[0]


@pytest.mark.parametrize("mode", ["eig", "lanczos", "bound"])
def test_another_loss_has_no_prediction(mode):
    labels = System(line, np.ones((2, 2)), np.eye(2), np.array([0, 1]), loss="cross_entropy")
    with pytest.raises(ValueError, match="square"):
        predict_gd(labels, 0.1, 5, mode=mode)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((0.0, 5), {}, ValueError, "lr"),
        (("fast", 5), {}, TypeError, "lr"),
        ((0.1, -1), {}, ValueError, "steps"),
        ((0.1, 5), {"mode": "guess"}, ValueError, "mode"),
        ((0.1, 5), {"mode": "lanczos", "k": 0}, ValueError, "k"),
        ((0.1, 5), {"params": np.zeros(3)}, ShapeError, "params"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, options, error, match):
    with pytest.raises(error, match=match):
        predict_gd(linear(), *arguments, **options)


def test_measured_and_linearized_descent_agree_for_a_linear_function():
    system = linear()
    low, high = np.linalg.eigvalsh(system.jacobian() @ system.jacobian().T)[[0, -1]]
    lr, certificate = 1 / high, certify_pl_star(system, hessian_bound=0.0)
    steps = int(np.log(1e-13) / np.log(1 - lr * low))
    report = compare_gd_rate(system, lr, steps, certificate=certificate)
    assert report.status is RateStatus.OK
    assert report.predicted == pytest.approx((1 - lr * low) ** 2, rel=1e-9)
    np.testing.assert_allclose(report.loss[:50], iterated(system, lr, 49), rtol=1e-9)
    assert report.curve_error <= 1e-6
    inside = [t for t, loss in enumerate(report.loss) if 1e-16 <= loss / report.loss[0] <= 1e-6]
    slope = np.polyfit(inside, [np.log(report.loss[t]) for t in inside], 1)[0]
    assert report.measured == pytest.approx(np.exp(slope), rel=1e-9)
    assert report.linearized == pytest.approx(report.measured, rel=1e-6)
    assert report.bound == pytest.approx(1 - low / high, rel=1e-9)
    assert report.measured <= report.bound
    assert report.bound_ok is True
    np.testing.assert_allclose(report.bound_loss, report.loss[0] * report.bound ** np.arange(steps + 1), rtol=1e-9)
    without = compare_gd_rate(system, lr, 5)
    assert (without.bound, without.bound_ok, without.bound_loss) == (None, None, None)


def test_rates_are_those_of_where_descent_starts():
    system = network()
    point, lr = 0.3 * system.flat, 0.1 / top(system)
    report = compare_gd_rate(system, lr, 5, params=point)
    moved = System(bent_network, system.unravel(point), system.x, system.y)
    np.testing.assert_allclose(report.loss, compare_gd_rate(moved, lr, 5).loss, rtol=1e-12)
    np.testing.assert_allclose(report.linearized_loss, iterated(system, lr, 5, point), rtol=1e-9)
    kernel = system.jacobian(point) @ system.jacobian(point).T
    assert report.predicted == pytest.approx((1 - lr * np.linalg.eigvalsh(kernel)[0]) ** 2, rel=1e-12)
    assert report.loss[0] == pytest.approx(system.value(point), rel=1e-12)


def test_the_bound_stands_however_long_descent_goes_on_in_rounding():
    system = System(line, np.zeros(3), np.array([[0.3, 0.1, 0.7], [1.9, 0.3, -0.2]]), np.array([0.7, 1.3]))
    certificate = certify_pl_star(system, hessian_bound=0.0)
    report = compare_gd_rate(system, certificate.lr_max, 3000, certificate=certificate)
    assert report.bound_loss[-1] < 1e-40
    assert report.bound_ok is True


def test_a_bound_that_does_not_hold_is_seen():
    system = linear(n=3)
    good = certify_pl_star(system, hessian_bound=0.0)
    wrong = replace(good, mu=1 / good.lr_max)
    report = compare_gd_rate(system, good.lr_max, 20, certificate=wrong)
    assert report.bound_ok is False


def test_descent_that_does_not_reach_the_window_is_not_fitted():
    report = compare_gd_rate(linear(), 0.1 / top(linear()), 3)
    assert (report.status, report.measured, report.linearized) == (RateStatus.NO_WINDOW, None, None)
    nothing = compare_gd_rate(linear(), 0.1, 0)
    assert nothing.status is RateStatus.NO_WINDOW
    done = compare_gd_rate(System(line, np.ones(2), np.eye(2), np.ones(2)), 0.5, 5)
    assert (done.status, done.measured) == (RateStatus.NO_WINDOW, None)


@pytest.mark.parametrize(("share", "steps"), [(2.2, 40), (50.0, 400)])
def test_descent_that_diverges_is_reported(share, steps):
    system = linear()
    report = compare_gd_rate(system, share / top(system), steps)
    assert report.status is RateStatus.DIVERGED
    assert np.isfinite(report.loss).all()
    assert report.loss[-1] > report.loss[0]
    assert len(report.linearized_loss) == steps + 1


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.5, 0.1), (0.1, 1.5)])
def test_a_window_is_two_rising_shares(window):
    with pytest.raises(ValueError, match="window"):
        compare_gd_rate(linear(), 0.1, 5, window=window)


def test_charts_show_the_curves():
    system = linear(n=3)
    certificate = certify_pl_star(system, hessian_bound=0.0)
    (chart,) = compare_gd_rate(system, certificate.lr_max, 30, certificate=certificate).charts()
    assert [series.label for series in chart.series] == ["measured", "linearized", "promised at most"]
    (single,) = predict_gd(system, 0.1, 30).charts()
    np.testing.assert_allclose(single.series[0].y, iterated(system, 0.1, 30), rtol=1e-9)


# E3: the network of E1, at m = 20,000.


def wide(seed, m=20_000, n=4, d=20):
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(n, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    half = draws.normal(size=(d, m // 2))
    system = System(doubled, np.stack([half, half]), x, draws.choice([-1.0, 1.0], size=n))
    return system, two_layer_hessian_bound(x, np.ones(m), 4 / (3 * np.sqrt(3)), m)


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E3")
def test_the_linearized_curve_predicts_descent_of_a_wide_network_within_five_percent(measured):
    errors, short = [], {2: [], 3: []}
    for seed in range(4):
        system, bound = wide(seed)
        certificate = certify_pl_star(system, hessian_bound=bound)
        if not certificate.certified:
            continue
        lr, steps = certificate.lr_max, 120
        report = compare_gd_rate(system, lr, steps, window=(1e-10, 1e-3), certificate=certificate)
        above = report.loss >= 1e-10 * report.loss[0]
        error = np.abs(report.linearized_loss / report.loss - 1)[above].max()
        assert error == pytest.approx(report.curve_error, rel=1e-9)
        np.testing.assert_allclose(report.linearized_loss, iterated(system, lr, steps), rtol=1e-7, atol=1e-25)
        assert error <= 0.05
        assert (report.loss <= report.bound_loss)[above].all()
        errors.append(error)
        for k in (2, 3, 4):
            curve = predict_gd(system, lr, steps, mode="lanczos", k=k)
            gap = np.abs(curve.loss / report.linearized_loss - 1)
            assert gap[:k].max() <= 1e-9
            if k == 4:
                assert curve.exact_until == steps
                assert gap[above].max() <= 1e-6
            else:
                short[k].append(gap[above].max())
    assert len(errors) >= 3
    measured(
        f"largest relative error of the linearized curve down to 1e-10 over {len(errors)} draws: {max(errors):.2%}; of "
        f"Lanczos at k = 2, 3, 4 against it: {np.median(short[2]):.0%}, {np.median(short[3]):.0%}, 0"
    )


# Mini-batches.


def test_the_step_of_batches_is_the_formula():
    assert sgd_step_size(10, 1.0, 10.0, 2.0, 1) == pytest.approx((0.2, 0.96))
    n, beta, lam, mu, s = 7, 3.0, 11.0, 0.5, 4
    found = sgd_step_size(n, beta, lam, mu, s)
    assert found.lr == pytest.approx(7 * 0.5 / (11 * (21 + 1.5)), rel=1e-14)
    assert found.rate == pytest.approx(1 - 0.5 * 4 * found.lr / 7, rel=1e-14)
    many = sgd_step_size(n, beta, lam, mu, 10**9)  # a batch without end is descent at 1/lam
    assert many.lr * 1e9 / n == pytest.approx(1 / lam, rel=1e-6)
    assert many.rate == pytest.approx(1 - mu / lam, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 1.0, 2.0, 1.0, 1), ValueError, "n"),
        ((3, 1.0, 2.0, 1.0, 0), ValueError, "s"),
        ((3, 1.0, 2.0, 1.0, 1.5), TypeError, "s"),
        ((3, -1.0, 2.0, 1.0, 1), ValueError, "beta"),
        ((3, 1.0, float("inf"), 1.0, 1), ValueError, "lam"),
        ((3, 1.0, 2.0, 2.5, 1), ValueError, "mu"),
    ],
)
def test_constants_of_batches_that_cannot_be_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        sgd_step_size(*arguments)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_expected_loss_of_batches_shrinks_by_the_promised_factor(batch):
    draws = np.random.default_rng(4)
    A = draws.normal(size=(4, 10))
    y = A @ draws.normal(size=10)
    values = np.linalg.eigvalsh(A @ A.T)
    step = sgd_step_size(4, float((A**2).sum(axis=1).max()), values[-1], values[0], batch)
    w, expected = np.zeros((20_000, 10)), [float(y @ y / 2)]
    for _ in range(6):
        picked = draws.integers(0, 4, size=(len(w), batch))
        r = w @ A.T - y[None]
        counts = (picked[:, :, None] == np.arange(4)[None, None]).sum(axis=1)
        w = w - step.lr * (counts * r) @ A
        losses = ((w @ A.T - y[None]) ** 2).sum(axis=1) / 2
        expected.append(losses.mean())
        assert losses.mean() - 4 * losses.std() / len(w) ** 0.5 <= expected[0] * step.rate ** (len(expected) - 1)
    assert expected[-1] < expected[0]


def test_the_factor_of_batches_is_attained_by_equal_examples_and_the_step_is_the_best_of_its_bound():
    # n equal losses c w^2/2: every batch of one is -lr c w, so E L+ = (1 - lr c)^2 L, lam = mu = n c, beta = c.
    n, c = 5, 0.7
    step = sgd_step_size(n, c, n * c, n * c, 1)
    assert step.lr * c == pytest.approx(1.0)
    assert step.rate == pytest.approx(0.0, abs=1e-12)


def test_a_quadrature_says_where_it_is_exact_and_not_that_a_rate_is_stable():
    found = predict_gd(random_linear(), 0.01, 9, mode="lanczos", k=2)
    assert found.exact_until == 1
    assert found.evidence("loss").kind == "sampled"
    assert found.stable is None
    assert predict_gd(random_linear(), 1e3, 1, mode="lanczos", k=2).stable is False
    assert predict_gd(random_linear(), 0.01, 9).evidence("loss").kind == "exact"


def test_a_certificate_of_another_point_bounds_nothing():
    system = random_linear()
    certificate = certify_pl_star(system, hessian_bound=0.0)
    with pytest.raises(ValueError, match="give that point"):
        predict_gd(system, certificate.lr_max, 3, mode="bound", params=system.flat + 1.0, certificate=certificate)


def random_linear():
    draws = np.random.default_rng(3)
    return System(lambda w, x: x @ w, np.zeros(6), draws.normal(size=(5, 6)), draws.normal(size=5))
