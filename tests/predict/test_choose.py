"""Leave-one-out: the chosen regularizer, the shortcut at finite times, and explained variance."""

import numpy as np
import pytest

from widescape import predict
from widescape.core.errors import ShapeError


def problem(rng, m=40, noise=0.3, outputs=2):
    x = np.sort(rng.uniform(-2, 2, m))
    K = np.exp(-((x[:, None] - x) ** 2)) * 1.7
    y = np.stack([np.sin(2 * x), x**2], axis=1)[:, :outputs] + noise * rng.normal(size=(m, outputs))
    return K, y


def brute_loo(K, y, predictor):
    """Leave each point out and train on the others."""
    out = np.empty_like(y)
    for i in range(len(y)):
        keep = np.delete(np.arange(len(y)), i)
        out[i] = predictor(K[np.ix_(keep, keep)], y[keep], K[i, keep])
    return out


def test_no_regularizer_on_a_fine_grid_beats_the_chosen_one(rng):
    K, y = problem(rng)
    chosen = predict.loo_regularizer(K, y)
    losses = [predict.GP(K, y, reg=reg).loo().mse for reg in np.logspace(-4, 1, 200)]
    assert chosen.mse <= min(losses) * (1 + 1e-6)
    assert np.isclose(chosen.mse, predict.GP(K, y, reg=chosen.reg).loo().mse, rtol=1e-9)
    assert not chosen.at_bound


def test_the_curve_of_the_search_is_that_of_leaving_points_out_one_by_one(rng):
    K, y = problem(rng, m=15)
    chosen = predict.loo_regularizer(K, y, bounds=(1e-3, 1.0))
    for reg, mse in zip(chosen.regs, chosen.mses, strict=True):
        noise = reg * np.trace(K) / 15  # the regularizer of all data

        def ridge(own, targets, cross, noise=noise):
            return cross @ np.linalg.solve(own + noise * np.eye(14), targets)

        assert np.isclose(mse, np.mean((brute_loo(K, y, ridge) - y) ** 2), rtol=1e-8)


def test_targets_without_noise_want_no_regularizer_and_pure_noise_wants_all(rng):
    K, y = problem(rng, noise=0.0)
    low = predict.loo_regularizer(K, y, bounds=(1e-6, 10.0))
    assert low.reg < 1e-5
    high = predict.loo_regularizer(K, np.random.default_rng(3).normal(size=40), bounds=(1e-6, 10.0))
    assert high.reg > 0.3
    assert (low.at_bound, high.regs.shape) == (True, (29,))


def test_bounds_that_are_no_range_are_refused(rng):
    K, y = problem(rng)
    for bounds in ((0.0, 1.0), (1.0, 0.1), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="bounds"):
            predict.loo_regularizer(K, y, bounds=bounds)


# Gradient flow.


@pytest.mark.parametrize("t", [None, 3.0, 200.0])
def test_the_kernel_times_the_weights_are_the_outputs_at_any_time(rng, t):
    K, y = problem(rng)
    flow = predict.GradientFlow(K, y, reg=0.1)
    cross = K[:5]
    assert np.allclose(cross @ flow.weights(t), flow.test(t, cross), rtol=0, atol=1e-12)


def test_leave_one_out_of_the_flow_is_exact_at_the_end(rng):
    K, y = problem(rng)
    exact = predict.GP(K, y, reg=0.1).loo().mean
    flow = predict.GradientFlow(K, y, reg=0.1)
    assert np.allclose(flow.loo(None), exact, rtol=0, atol=1e-12)
    assert np.allclose(flow.loo(1e9), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("t", "share"), [(3.0, 0.25), (30.0, 0.5), (3000.0, 0.01)])
def test_leave_one_out_of_the_flow_is_close_to_training_without_the_point(rng, t, share):
    K, y = problem(rng, m=30, outputs=1)
    noise = 0.02 * np.trace(K) / 30

    def trained(own, targets, cross):
        values, vectors = np.linalg.eigh(own + noise * np.eye(29))
        rates = -np.expm1(-values * t / 30) / values  # the same speed: n counts all points
        return cross @ vectors @ (rates[:, None] * (vectors.T @ targets))

    exact = brute_loo(K, y, trained)
    flow = predict.GradientFlow(K, y, reg=0.02)
    shortcut = flow.loo(t)
    within = flow.train(t)
    # It is an approximation, worst at middling times; training outputs in place of left-out ones are worse.
    assert np.linalg.norm(shortcut - exact) < share * np.linalg.norm(within - exact)


def test_leave_one_out_before_training_and_odd_times_are_refused(rng):
    K, y = problem(rng)
    flow = predict.GradientFlow(K, y)
    for t in (0.0, -1.0, np.array([1.0, 2.0]), float("nan")):
        with pytest.raises(ValueError, match="`t`"):
            flow.loo(t)


# Explained variance.


def test_explained_variance_is_scikit_learns_and_its_error_is_the_jackknifes(rng):
    from sklearn.metrics import r2_score

    y = rng.normal(size=30)
    f = y + 0.5 * rng.normal(size=30)
    score = predict.regression_score(f, y)
    assert np.isclose(score.r2, r2_score(y, f), rtol=1e-12)
    assert np.isclose(score.mse, np.mean((f - y) ** 2))
    left_out = np.array([r2_score(np.delete(y, i), np.delete(f, i)) for i in range(30)])
    assert np.isclose(score.r2_stderr, np.sqrt(29 / 30 * np.sum((left_out - left_out.mean()) ** 2)), rtol=1e-10)
    assert np.isclose(score.mse_stderr, np.std((f - y) ** 2, ddof=1) / 30**0.5)


def test_scores_of_shapes_that_do_not_fit_and_of_constant_targets_are_refused(rng):
    y = rng.normal(size=(5, 2))
    with pytest.raises(ShapeError, match="`outputs` has shape"):
        predict.regression_score(y[:4], y)
    with pytest.raises(ShapeError, match="at least 3"):
        predict.regression_score(y[:2], y[:2])
    with pytest.raises(ValueError, match="constant"):
        predict.regression_score(y, np.ones((5, 2)))


def test_several_outputs_count_alike_whatever_their_units(rng):
    from sklearn.metrics import r2_score

    y = rng.normal(size=(30, 3)) * [1.0, 100.0, 1e-3]
    f = y + 0.5 * rng.normal(size=(30, 3)) * [1.0, 30.0, 2e-3]
    score = predict.regression_score(f, y)
    assert np.isclose(score.r2, r2_score(y, f), rtol=1e-12)
    left_out = np.array([r2_score(np.delete(y, i, 0), np.delete(f, i, 0)) for i in range(30)])
    assert np.isclose(score.r2_stderr, np.sqrt(29 / 30 * np.sum((left_out - left_out.mean()) ** 2)), rtol=1e-10)


def test_where_one_point_has_all_the_variance_the_standard_error_is_infinite():
    score = predict.regression_score(np.array([0.1, 0.0, 0.0, 0.5]), np.array([0.0, 0.0, 0.0, 1.0]))
    assert np.isinf(score.r2_stderr)


# Probabilities.


def test_log_loss_is_scikit_learns(rng):
    from sklearn.metrics import log_loss

    probabilities = rng.dirichlet(np.ones(4), 50)
    labels = rng.integers(0, 4, 50)
    score = predict.probability_score(probabilities, labels)
    assert np.isclose(score.log_loss, log_loss(labels, probabilities, labels=range(4)))
    losses = -np.log(probabilities[np.arange(50), labels])
    assert np.isclose(score.log_loss_stderr, losses.std(ddof=1) / 50**0.5)
    assert score.accuracy == np.mean(probabilities.argmax(axis=1) == labels)


def test_a_class_without_probability_makes_the_log_loss_infinite():
    for labels in ([0, -1], [0, 0]):
        score = predict.probability_score(np.array([[1.0, 0.0], [0.0, 1.0]]), labels)
        assert (score.accuracy, score.log_loss, score.log_loss_stderr) == (0.5, np.inf, np.inf)


def test_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="sum to one"):
        predict.probability_score(np.ones((2, 2)), [0, 1])
    with pytest.raises(ShapeError, match="`probabilities` has shape"):
        predict.probability_score(np.eye(2), [0, 1, 1])
