"""Gaussian-process regression agrees with its formulas written out, and refuses what it cannot solve."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import multivariate_normal, norm

from widescape import predict
from widescape.core.errors import ConditioningWarning, DtypeError, IllConditionedError, ShapeError
from widescape.predict import GP

EPS = np.finfo(np.float64).eps
VALUES = st.floats(-3, 3)


def problem(m=6, tests=3, outputs=None, seed=0):
    """A well-conditioned kernel on m + tests points, cut into its blocks, and targets."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(m + tests, 2))
    squares = np.sum((points[:, None] - points[None]) ** 2, axis=2)
    kernel = 2 * np.exp(-squares / 2)
    y = rng.normal(size=m if outputs is None else (m, outputs))
    return kernel[:m, :m], kernel[m:, :m], kernel[m:, m:], y


sizes = pytest.mark.parametrize("m", [1, 2, 6])
outputs_of = pytest.mark.parametrize("outputs", [None, 1, 3])


# Against the formulas.


@sizes
@outputs_of
@pytest.mark.claim("lee2020finite/A5")
@pytest.mark.parametrize("scale", ["mean_trace", "absolute"])
def test_the_posterior_is_that_of_the_explicit_inverse(m, outputs, scale):
    K, K_test, K_test_test, y = problem(m, outputs=outputs)
    noise = 0.3 * (np.mean(np.diag(K)) if scale == "mean_trace" else 1)
    inverse = np.linalg.inv(K + noise * np.eye(m))
    gp = GP(K, y, reg=0.3, reg_scale=scale)
    assert gp.noise == pytest.approx(noise, rel=1e-15)
    assert np.allclose(gp.weights, inverse @ y, rtol=0, atol=1e-12)
    mean, cov = gp.mean_cov(K_test, K_test_test)
    assert mean.shape == (3, *y.shape[1:])
    assert np.allclose(mean, K_test @ inverse @ y, rtol=0, atol=1e-12)
    assert np.allclose(cov, K_test_test - K_test @ inverse @ K_test.T, rtol=0, atol=1e-12)
    assert np.array_equal(gp.mean(K_test), mean)


@outputs_of
def test_variances_are_the_diagonal_of_the_covariance(outputs):
    K, K_test, K_test_test, y = problem(outputs=outputs)
    gp = GP(K, y, reg=0.1)
    whole, diagonal = gp.mean_cov(K_test, K_test_test), gp.mean_cov(K_test, np.diag(K_test_test))
    assert diagonal.cov.shape == (3,)
    assert np.allclose(diagonal.cov, np.diag(whole.cov), rtol=0, atol=1e-14)
    assert np.array_equal(diagonal.mean, whole.mean)


def test_a_posterior_unpacks_into_mean_and_covariance():
    K, K_test, K_test_test, y = problem()
    posterior = GP(K, y).mean_cov(K_test, K_test_test)
    mean, cov = posterior
    assert mean is posterior.mean
    assert cov is posterior.cov


def test_one_test_point_has_a_covariance_of_one_entry_or_one_variance():
    K, K_test, K_test_test, y = problem(tests=1)
    gp = GP(K, y, reg=0.1)
    assert gp.mean_cov(K_test, K_test_test).cov.shape == (1, 1)
    assert gp.mean_cov(K_test, np.diag(K_test_test)).cov.shape == (1,)


@given(hnp.arrays(np.float64, (4, 4), elements=VALUES), hnp.arrays(np.float64, (4, 2), elements=VALUES))
@settings(deadline=None, max_examples=40)
def test_outputs_do_not_see_each_other_and_the_mean_is_linear_in_the_targets(a, y):
    K = a @ a.T + np.eye(4)
    both, first, second, mixed = (GP(K, t, reg=0.1).mean(K) for t in (y, y[:, 0], y[:, 1], y[:, 0] - 2 * y[:, 1]))
    assert np.allclose(both, np.stack([first, second], axis=1), rtol=0, atol=1e-12)
    assert np.allclose(mixed, first - 2 * second, rtol=0, atol=1e-11)


def test_without_regularizer_the_posterior_goes_through_the_targets_without_variance():
    K, _, _, y = problem()
    mean, cov = GP(K, y).mean_cov(K, K)
    assert np.allclose(mean, y, rtol=0, atol=1e-11)
    assert np.allclose(cov, 0, rtol=0, atol=1e-11)


@pytest.mark.claim("lee2020finite/P8")
def test_a_relative_regularizer_is_an_absolute_one_in_units_of_the_mean_diagonal():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(5, 5))
    K, y = a @ a.T, rng.normal(size=5)
    relative = GP(K, y, reg=0.2)
    absolute = GP(K, y, reg=0.2 * np.trace(K) / 5, reg_scale="absolute")
    assert relative.noise == pytest.approx(absolute.noise, rel=1e-14)
    assert np.allclose(relative.weights, absolute.weights, rtol=1e-12)
    assert np.allclose(GP(7 * K, y, reg=0.2).mean(7 * K), relative.mean(K), rtol=0, atol=1e-12)
    assert not np.allclose(GP(K, y, reg=0.2, reg_scale="absolute").weights, relative.weights, rtol=1e-2)


# Leaving one out.


@pytest.mark.claim("lee2020finite/A5")
@pytest.mark.parametrize("m", [2, 6])
@outputs_of
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_leaving_one_out_is_fitting_without_that_point(m, outputs, reg):
    K, _, _, y = problem(m, outputs=outputs)
    gp = GP(K, y, reg=reg)
    loo = gp.loo()
    density = 0.0
    for i in range(m):
        rest = np.delete(np.arange(m), i)
        inverse = np.linalg.inv(K[np.ix_(rest, rest)] + gp.noise * np.eye(m - 1))
        mean = K[i, rest] @ inverse @ y[rest]
        variance = K[i, i] + gp.noise - K[i, rest] @ inverse @ K[rest, i]
        assert np.allclose(loo.mean[i], mean, rtol=0, atol=1e-10)
        assert np.isclose(loo.variance[i], variance, rtol=1e-10)
        density += np.sum(norm.logpdf(y[i], mean, math.sqrt(variance)))
    assert loo.mean.shape == loo.residual.shape == y.shape
    assert loo.variance.shape == (m,)
    assert np.allclose(loo.residual, y - loo.mean, rtol=0, atol=1e-14)
    assert loo.mse == pytest.approx(np.mean((y - loo.mean) ** 2), rel=1e-12)
    assert loo.log_predictive_density == pytest.approx(density, rel=1e-9, abs=1e-9)


def test_leaving_the_only_point_out_leaves_the_prior():
    gp = GP(np.array([[2.0]]), np.array([3.0]), reg=0.25)
    loo = gp.loo()
    assert loo.mean.tolist() == [0.0]
    assert loo.variance == pytest.approx([2.5])
    assert loo.mse == pytest.approx(9.0)
    assert loo.log_predictive_density == pytest.approx(norm.logpdf(3, 0, math.sqrt(2.5)))


@sizes
@outputs_of
def test_the_marginal_likelihood_is_that_of_a_multivariate_normal(m, outputs):
    K, _, _, y = problem(m, outputs=outputs)
    gp = GP(K, y, reg=0.2)
    normal = multivariate_normal(mean=np.zeros(m), cov=K + gp.noise * np.eye(m))
    expected = sum(normal.logpdf(column) for column in y.reshape(m, -1).T)
    assert gp.log_marginal_likelihood() == pytest.approx(expected, rel=1e-11)


# Conditioning.


@given(
    hnp.arrays(np.float64, st.sampled_from([(4, 1), (6, 2), (9, 3)]), elements=VALUES),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(deadline=None, max_examples=60)
def test_the_regularizer_that_a_refusal_suggests_works(a, size):
    K = size * (a @ a.T)  # singular: its rank is less than its size
    m = len(K)
    assume(np.trace(K) > 1e-9 * size)
    refusal = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        try:
            GP(K, np.ones(m))
        except IllConditionedError as error:
            refusal = error
        assume(refusal is not None)  # rounding may have made it definite
        gp = GP(K, np.ones(m), reg=refusal.suggested_reg)
    assert np.isfinite(gp.mean(K)).all()
    eigenvalues = np.linalg.eigvalsh(K)
    assert abs(refusal.lambda_min - eigenvalues[0]) <= 10 * m * EPS * eigenvalues[-1]
    assert 0 < refusal.suggested_reg < 1e-10
    assert f"{refusal.suggested_reg:.1e}" in str(refusal)


@given(hnp.arrays(np.float64, (5, 5), elements=VALUES), st.floats(0.01, 5), st.sampled_from([0.0, 1e-3]))
@settings(deadline=None, max_examples=60)
def test_an_indefinite_matrix_is_refused_with_its_eigenvalue_and_a_regularizer_that_works(a, negative, reg):
    symmetric = a + a.T
    K = symmetric + (negative + abs(np.linalg.eigvalsh(symmetric)[0])) * np.eye(5)
    K -= (np.linalg.eigvalsh(K)[0] + negative) * np.eye(5)  # smallest eigenvalue: -negative
    mean = np.trace(K) / 5
    assume(mean > 2 * negative)
    with pytest.raises(IllConditionedError) as refusal:
        GP(K, np.ones(5), reg=reg * negative / mean)
    assert refusal.value.lambda_min == pytest.approx(-negative * (1 - reg), rel=1e-6)
    assert isinstance(refusal.value, np.linalg.LinAlgError)
    assert GP(K, np.ones(5), reg=refusal.value.suggested_reg).condition < 1e6


@pytest.mark.claim("lee2020finite/P6")
def test_nothing_is_added_silently_to_a_matrix_with_a_repeated_point():
    K = np.ones((2, 2))
    with pytest.raises(IllConditionedError, match="smallest eigenvalue") as refusal:
        GP(K, np.ones(2))
    assert abs(refusal.value.lambda_min) < 1e-15
    assert GP(K, np.ones(2), reg=1e-3).mean(K) == pytest.approx([2 / 2.001] * 2, rel=1e-9)


@pytest.mark.parametrize(
    ("dtype", "smallest", "warned"),
    [(np.float64, 1e-11, False), (np.float64, 1e-13, True), (np.float32, 1e-5, False), (np.float32, 1e-7, True)],
)
def test_a_condition_number_above_the_limit_of_the_precision_warns(dtype, smallest, warned):
    K = np.diag([1.0, smallest]).astype(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gp = GP(K, np.ones(2))
    assert [w.category for w in caught] == [ConditioningWarning] * warned
    assert all(w.filename == __file__ for w in caught)
    assert gp.condition == pytest.approx(1 / smallest, rel=1e-6)


@given(hnp.arrays(np.float64, (5, 5), elements=VALUES))
@settings(deadline=None, max_examples=40)
def test_the_estimated_condition_number_is_at_most_the_true_one(a):
    K = a @ a.T + 0.1 * np.eye(5)
    assert 1 <= GP(K, np.ones(5)).condition <= 1.001 * np.linalg.cond(K, 1)


def test_a_repeated_point_does_not_hide_from_the_estimated_condition_number():
    rng = np.random.default_rng(0)
    for _ in range(200):
        m = int(rng.integers(30, 60))
        points = rng.normal(size=(m, 8))
        first, second = rng.choice(m, 2, replace=False)
        points[first] = points[second]
        K = np.exp(-np.sum((points[:, None] - points[None]) ** 2, axis=2) / 8)
        noise = 10 ** rng.uniform(-10, -6)
        true = np.linalg.cond(K + noise * np.eye(m), 1)
        assert true < 4 * m * GP(K, np.ones(m), reg=noise).condition


# What comes in.


def test_arguments_are_left_as_they_were():
    arguments = problem(outputs=2)
    copies = [a.copy() for a in arguments]
    K, K_test, K_test_test, y = arguments
    gp = GP(K, y, reg=0.1)
    gp.mean_cov(K_test, K_test_test)
    gp.mean_cov(K_test, K_test_test.diagonal())
    gp.loo()
    gp.log_marginal_likelihood()
    with pytest.raises(IllConditionedError):
        GP(K - 5 * np.eye(len(K)) + 4 * np.ones_like(K), y)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize("which", ["K", "y"])
def test_changing_an_argument_afterwards_changes_nothing(which):
    K, K_test, _, y = problem()
    expected = GP(K, y, reg=0.1).mean(K_test)
    gp = GP(K, y, reg=0.1)
    (K if which == "K" else y)[...] = 0
    assert np.array_equal(gp.mean(K_test), expected)


@pytest.mark.parametrize(
    "convert", [np.float32, jnp.float32, np.asfortranarray, np.ndarray.tolist], ids=lambda f: f.__name__
)
def test_matrices_of_float32_of_jax_and_lists_are_accepted_and_computed_in_float64(convert):
    K, K_test, K_test_test, y = problem()
    gp = GP(convert(K), convert(y), reg=0.1)
    posterior = gp.mean_cov(convert(K_test), convert(K_test_test))
    exact = GP(np.float64(convert(K)), np.float64(convert(y)), reg=0.1)
    assert posterior.mean.dtype == posterior.cov.dtype == gp.weights.dtype == np.float64
    assert np.allclose(posterior.mean, exact.mean(np.float64(convert(K_test))), rtol=1e-14)


def test_a_float32_matrix_that_is_symmetric_up_to_its_own_rounding_is_accepted():
    K = np.array(problem()[0], np.float32)
    K[0, 1] = np.nextafter(K[0, 1], np.float32(0))
    assert np.isfinite(GP(K, np.ones(6), reg=0.1).weights).all()


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (0, 0), (2, 2, 2)])
def test_a_kernel_that_is_not_square_is_refused(shape):
    with pytest.raises(ShapeError, match="`K`"):
        GP(np.ones(shape), np.ones(3))


@pytest.mark.parametrize("shape", [(), (5,), (7,), (5, 2), (2, 6), (6, 2, 1), (6, 0)])
def test_targets_that_do_not_fit_the_kernel_are_refused(shape):
    with pytest.raises(ShapeError, match=r"`y` has shape .* 6 training points"):
        GP(problem()[0], np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_entries_that_are_not_finite_are_refused_by_name(bad):
    K, K_test, K_test_test, y = problem()
    gp = GP(K, y)

    def broken(a):
        a = a.copy()
        a.flat[1] = bad
        return a

    for name, call in {
        "K": lambda: GP(broken(K), y),
        "y": lambda: GP(K, broken(y)),
        "K_test": lambda: gp.mean(broken(K_test)),
        "K_test_test": lambda: gp.mean_cov(K_test, broken(K_test_test)),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` has 1 entries"):
            call()


def test_integers_are_refused_by_name():
    K, K_test, K_test_test, y = problem()
    gp = GP(K, y)
    for name, call in {
        "K": lambda: GP(np.eye(6, dtype=int), y),
        "y": lambda: GP(K, np.arange(6)),
        "K_test": lambda: gp.mean(np.ones_like(K_test, int)),
        "K_test_test": lambda: gp.mean_cov(K_test, np.ones_like(K_test_test, int)),
    }.items():
        with pytest.raises(DtypeError, match=f"`{name}` has dtype int"):
            call()


def test_an_asymmetric_kernel_is_refused_with_how_far_it_is_off():
    K = problem()[0].copy()
    K[0, 1] += 1e-3
    with pytest.raises(ValueError, match=r"`K` is not symmetric: .* 0\.001"):
        GP(K, np.ones(6))


@pytest.mark.parametrize("reg", [-1e-9, np.nan, np.inf])
def test_a_regularizer_is_finite_and_not_negative(reg):
    with pytest.raises(ValueError, match="`reg`"):
        GP(np.eye(2), np.ones(2), reg=reg)


@pytest.mark.parametrize("reg", [None, "0.1", True, [0.1]])
def test_a_regularizer_is_a_number(reg):
    with pytest.raises(TypeError, match="`reg`"):
        GP(np.eye(2), np.ones(2), reg=reg)


def test_an_unknown_scale_of_the_regularizer_is_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="`reg_scale` is 'trace'; choose one of 'mean_trace', 'absolute'"):
        GP(np.eye(2), np.ones(2), reg_scale="trace")


@pytest.mark.parametrize("K", [np.zeros((2, 2)), -np.eye(2)], ids=["zero", "negative"])
def test_a_kernel_without_positive_diagonal_is_refused(K):
    with pytest.raises(ValueError, match="diagonal"):
        GP(K, np.ones(2), reg=0.1)


@pytest.mark.parametrize("shape", [(), (6,), (3, 5), (6, 3), (1, 3, 6)])
def test_test_kernels_that_do_not_fit_the_training_points_are_refused(shape):
    K, _, K_test_test, y = problem()
    gp = GP(K, y)
    for call in (gp.mean, lambda k: gp.mean_cov(k, K_test_test)):
        with pytest.raises(ShapeError, match=r"`K_test` has shape .*\(M, 6\)"):
            call(np.ones(shape))


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1), (3, 6), (2, 2), (1, 3)])
def test_priors_that_do_not_fit_the_test_points_are_refused(shape):
    K, K_test, _, y = problem()
    with pytest.raises(ShapeError, match=r"`K_test_test` has shape .* 3 test points"):
        GP(K, y).mean_cov(K_test, np.ones(shape))


def test_no_test_points_have_no_predictions():
    K, K_test, K_test_test, y = problem(outputs=2)
    gp = GP(K, y)
    assert gp.mean(K_test[:0]).shape == (0, 2)
    assert gp.mean_cov(K_test[:0], K_test_test[:0, :0]).cov.shape == (0, 0)


def test_the_posterior_is_a_result_with_a_source():
    assert "rasmussen2006gaussian" in predict.Posterior.source
