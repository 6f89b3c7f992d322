"""Similarities of representations: published values, dense definitions, what they ignore, where they say nothing."""

import warnings
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial.distance import pdist, squareform

from widescape import arch, features
from widescape.core.errors import DegenerateWarning, DtypeError, ShapeError
from widescape.core.result import Result
from widescape.features import kernel_alignment, representational
from widescape.features.centered import pair

NAMES = ("cka", "cka_rbf", "cka_debiased", "cca", "cca_squared", "svcca", "pwcca", "procrustes", "rsa")


def demonstration():
    """The data of the notebook that came with kornblith2019similarity."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    return x, rng.randn(100, 10) + x


X, Y = demonstration()


def rotation(rng, p):
    return linalg.qr(rng.normal(size=(p, p)))[0]


def hsic(K, L):
    """Song's unbiased estimate, from its definition: a mean over ordered quadruples of distinct samples."""
    n = len(K)
    terms = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(n), 4)]
    return np.mean(terms)


def gaussian(x):
    distances = squareform(pdist(x, "sqeuclidean"))
    return np.exp(-distances / (0.5 * np.median(distances))) if distances.any() else np.ones_like(distances)


def fast_hsic(K, L):
    """The same in closed form (song2012feature, equation 5)."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    product = np.sum(K * L) + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * np.sum(K @ L)
    return product / (n * (n - 3))


def dense_cka(K, L):
    H = np.eye(len(K)) - 1 / len(K)
    K, L = H @ K @ H, H @ L @ H
    return np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))


# Published values, and those of the demonstration data by separate code.


@pytest.mark.claim("kornblith2019similarity/C1")
def test_alignment_of_the_demonstration_data_has_its_published_values(measured):
    found = (features.cka(X, Y), features.cka(X, Y, debiased=True), features.cka(X, Y, kernel="rbf", bandwidth=0.5))
    assert np.round(found, 5).tolist() == [0.55761, 0.51346, 0.65483]
    measured(", ".join(f"{value:.7f}" for value in found))


@pytest.mark.claim("kornblith2019similarity/C2")
def test_canonical_correlations_of_the_demonstration_data():
    found = features.cca(X, Y)
    assert (round(found.mean_squared, 6), round(float(found), 6)) == (0.545396, 0.731014)
    assert round(float(features.pwcca(X, Y)), 6) == 0.734668


@pytest.mark.claim("kornblith2019similarity/C3")
def test_procrustes_distance_and_rank_correlation_of_the_demonstration_data():
    assert round(features.procrustes(X, Y), 6) == 0.527489
    assert round(features.rsa(X, Y), 6) == 0.472440
    assert round(features.rsa(X, Y, center=True), 6) == 0.477870


@pytest.mark.claim("kornblith2019similarity/C4")
def test_alignment_of_the_demonstration_data_in_ten_batches():
    running = features.MinibatchCKA()
    for x, y in zip(np.split(X, 10), np.split(Y, 10), strict=True):
        running.update(x, y)
    assert running.num_batches == 10
    assert round(running.compute(), 6) == 0.543731
    running.reset()
    with pytest.raises(ValueError, match="update"):
        running.compute()


@pytest.mark.claim("kornblith2019similarity/C6")
def test_the_alignment_of_two_blocks_with_their_labels():
    K, y = np.kron(np.eye(2), [[2.0, 1.0], [1.0, 2.0]]), [1, 1, -1, -1]
    assert features.kta(K, y) == pytest.approx(12 / (4 * 20**0.5), rel=1e-14)
    assert round(features.kta(K, y), 5) == 0.67082
    assert round(features.kta(K, y, centered=True), 5) == 0.90453
    assert features.kta(K, np.eye(2)[[0, 0, 1, 1]]) == pytest.approx(12 / (20 * 8) ** 0.5, rel=1e-14)


# Dense definitions and independent code.


@pytest.mark.parametrize("p", [3, 40])
def test_alignment_is_the_cosine_of_centered_gram_matrices(rng, p):
    x, y = rng.normal(size=(20, p)) + 5, rng.normal(size=(20, 4)) ** 2
    assert features.cka(x, y) == pytest.approx(dense_cka(x @ x.T, y @ y.T), rel=1e-11)
    grams = [np.exp(-d / (2 * 0.7**2 * np.median(d))) for d in (squareform(pdist(a)) ** 2 for a in (x, y))]
    assert features.cka(x, y, kernel="rbf", bandwidth=0.7) == pytest.approx(dense_cka(*grams), rel=1e-11)


@pytest.mark.claim("kornblith2019similarity/P1")
@pytest.mark.parametrize("p", [3, 12])
def test_debiased_alignment_is_that_of_means_over_distinct_quadruples(rng, p):
    x, y = rng.normal(size=(7, p)) + 1, rng.normal(size=(7, 2))
    K, L = x @ x.T, y @ y.T
    assert features.cka(x, y, debiased=True) == pytest.approx(hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)), rel=1e-11)


@pytest.mark.claim("kornblith2019similarity/P2")
@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
def test_the_mean_over_all_batches_of_four_is_the_debiased_alignment_of_all_samples(rng, scale):
    x, y = rng.normal(size=(7, 3)) * scale, rng.normal(size=(7, 2))
    running = features.MinibatchCKA()
    for batch in combinations(range(7), 4):
        running.update(x[list(batch)], y[list(batch)])
    assert running.compute() == pytest.approx(features.cka(x, y, debiased=True), rel=1e-11)


def test_batches_of_any_size_count_once(rng):
    x, y = rng.normal(size=(11, 3)), rng.normal(size=(11, 2)) + 4
    running, terms = features.MinibatchCKA(), []
    for start, stop in ((0, 5), (5, 11)):
        running.update(x[start:stop], y[start:stop])
        K, L = (a[start:stop] @ a[start:stop].T for a in (x, y))
        terms.append([hsic(K, L), hsic(K, K), hsic(L, L)])
    product, square, other = np.mean(terms, axis=0)
    assert running.compute() == pytest.approx(product / np.sqrt(square * other), rel=1e-11)


def test_squared_canonical_correlations_are_eigenvalues_of_products_of_covariances(rng):
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 5))
    y[:, :2] += x[:, :2]
    C = np.cov(np.c_[x, y].T)
    product = np.linalg.solve(C[:3, :3], C[:3, 3:]) @ np.linalg.solve(C[3:, 3:], C[3:, :3])
    expected = np.sort(np.linalg.eigvals(product).real)[::-1]
    np.testing.assert_allclose(features.cca(x, y).rho ** 2, expected, rtol=1e-10)


def test_svcca_is_cca_of_leading_principal_components(rng):
    x, y = rng.normal(size=(60, 6)) * [9.0, 5.0, 2.0, 0.1, 0.1, 0.1], rng.normal(size=(60, 4))
    y[:, 0] += x[:, 1]
    found = features.svcca(x, y)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    share = np.cumsum(values[::-1]) / values.sum()
    kept = int(np.sum(share < 0.99)) + 1
    assert (found.kept_x, found.kept_y) == (kept, 4)
    expected = features.cca(x @ vectors[:, ::-1][:, :kept], y)
    np.testing.assert_allclose(found.rho, expected.rho, rtol=1e-10)
    assert features.svcca(x, y, variance=1.0).kept_x == 6


def test_projection_weights_are_sums_over_units_of_inner_products_with_variates(rng):
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 4))
    y[:, 0] += 2 * x[:, 0]
    own, other = (a - a.mean(axis=0) for a in (x, y))
    values, vectors = linalg.eigh(own.T @ other @ np.linalg.solve(other.T @ other, other.T @ own), own.T @ own)
    variates = own @ vectors  # normalized, in the order of rising correlation
    alpha = np.abs(variates.T @ own).sum(axis=1)
    found = features.pwcca(x, y)
    assert float(found) == pytest.approx(float(alpha @ np.sqrt(values) / alpha.sum()), rel=1e-10)
    np.testing.assert_allclose(found.weights[::-1], alpha / alpha.sum(), rtol=1e-9)
    assert features.pwcca(x, y, weights="fewer") == found
    assert float(features.pwcca(y, x, weights="y")) == pytest.approx(float(found), rel=1e-12)
    assert features.pwcca(y, x, weights="fewer").weighted_by == "y"


@pytest.mark.parametrize("p", [4, 60])
def test_procrustes_distance_is_what_the_best_rotation_leaves(rng, p):
    x, y = rng.normal(size=(30, p)), rng.normal(size=(30, p))
    x, y = (a / np.linalg.norm(a) for a in (x - x.mean(axis=0), y - y.mean(axis=0)))
    left = np.linalg.norm(y @ linalg.orthogonal_procrustes(y, x)[0] - x) ** 2
    assert features.procrustes(x, y) == pytest.approx(left, rel=1e-11)
    assert features.similarity(x, y, "procrustes") == pytest.approx(1 - left / 2, rel=1e-11)


def test_rank_correlation_agrees_with_scipy(rng):
    x, y = rng.normal(size=(25, 6)), rng.normal(size=(25, 3))
    y[:, 0] += x[:, 0]
    for distance in ("correlation", "euclidean"):
        expected = stats.spearmanr(pdist(x, distance), pdist(y, distance)).statistic
        assert features.rsa(x, y, distance=distance) == pytest.approx(expected, rel=1e-11)


def test_equal_distances_share_a_rank_and_still_do_after_a_rotation(rng):
    x, y = rng.integers(0, 3, (20, 4)).astype(float), rng.integers(0, 2, (20, 5)).astype(float)
    exact = stats.spearmanr(pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean")).statistic  # of integers: ties are exact
    assert features.rsa(x, y, distance="euclidean") == pytest.approx(exact, rel=1e-12)
    assert features.rsa(x @ rotation(rng, 4), y, distance="euclidean") == pytest.approx(exact, rel=1e-12)


def test_a_sample_far_off_costs_the_distances_of_the_others_no_digits(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    far = x.copy()
    far[0] = 1e9
    expected = stats.spearmanr(pdist(far), pdist(y)).statistic
    assert features.rsa(far, y, distance="euclidean") == pytest.approx(expected, rel=1e-12)
    outer = np.repeat(x, 2, axis=0) + 1e-3 * rng.normal(size=(24, 3))
    outer[0] = 1e9
    grams = []
    for side in (outer, np.repeat(y, 2, axis=0)):
        distances = squareform(pdist(side, "sqeuclidean"))
        grams.append(np.exp(distances / (-2 * 0.01**2 * np.median(distances))))
    found = features.cka(outer, np.repeat(y, 2, axis=0), kernel="rbf", bandwidth=0.01)
    assert found == pytest.approx(dense_cka(*grams), rel=1e-11)


def test_close_and_repeated_directions_of_samples_keep_their_order(rng):
    x, y = rng.normal(size=(10, 6)), rng.normal(size=(10, 4))
    step = np.array([1.0, -1.0, 2.0, 0.5, -2.0, 1.5])
    x[1:5] = x[0] + np.outer([1e-7, 3e-7, 7e-7, 1.5e-6], step)  # one minus the correlation is some 1e-14
    rows = x - x.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = stats.spearmanr(pdist(rows), pdist(y, "correlation")).statistic
    assert features.rsa(x, y) == pytest.approx(expected, rel=1e-12)
    x[1:5] = np.outer([3.0, 0.7, 1e5, 0.1], x[0]) + 0.3  # correlations of 1 are equal up to rounding, and share a rank
    dissimilarities = np.round(pdist(x, "correlation"), 12)
    expected = stats.spearmanr(dissimilarities, pdist(y, "correlation")).statistic
    assert features.rsa(x, y) == pytest.approx(expected, rel=1e-12)


def test_each_name_stands_for_its_function():
    expected = {
        "cka": features.cka(X, Y),
        "cka_rbf": features.cka(X, Y, kernel="rbf"),
        "cka_debiased": features.cka(X, Y, debiased=True),
        "cca": features.cca(X, Y).mean,
        "cca_squared": features.cca(X, Y).mean_squared,
        "svcca": features.svcca(X, Y).mean,
        "pwcca": features.pwcca(X, Y, weights="x").weighted,
        "procrustes": 1 - features.procrustes(X, Y) / 2,
        "rsa": features.rsa(X, Y),
    }
    assert {name: features.similarity(X, Y, name) for name in NAMES} == pytest.approx(expected, rel=1e-14)


# What they ignore.


@pytest.mark.claim("kornblith2019similarity/I1")
@pytest.mark.parametrize("scale", [3.0, 1e200, 1e-200])
def test_orthogonal_maps_and_isotropic_scale_change_nothing(rng, scale):
    x, y = rng.normal(size=(15, 5)), rng.normal(size=(15, 30))
    moved = scale * (x @ rotation(rng, 5)) + 2 * scale
    for measure in ("cka", "cka_rbf", "cka_debiased", "procrustes"):
        assert features.similarity(moved, y, measure) == pytest.approx(features.similarity(x, y, measure), rel=1e-10)
    assert features.rsa(moved, y, distance="euclidean") == pytest.approx(features.rsa(x, y, distance="euclidean"))


@pytest.mark.claim("kornblith2019similarity/I2")
def test_invertible_maps_change_no_canonical_correlation(rng):
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    moved = x @ (rng.normal(size=(4, 4)) + 3 * np.eye(4)) - 7
    np.testing.assert_allclose(features.cca(moved, y).rho, features.cca(x, y).rho, rtol=1e-10)
    assert abs(features.cka(moved, y) - features.cka(x, y)) > 0.01


@pytest.mark.claim("kornblith2019similarity/I3")
def test_all_but_the_projection_weighted_one_are_symmetric():
    for name in NAMES:
        one, other = features.similarity(X, Y, name), features.similarity(Y, X, name)
        assert (one == pytest.approx(other, rel=1e-12)) == (name != "pwcca"), name


@pytest.mark.claim("kornblith2019similarity/I4")
@pytest.mark.parametrize("name", NAMES)
def test_the_similarity_of_a_representation_and_itself_is_one(name):
    assert features.similarity(X, X.copy(), name) == pytest.approx(1, abs=1e-14)
    assert features.similarity(X, X.copy(), name) <= 1
    assert features.procrustes(X, X.copy()) < 1e-14


@pytest.mark.claim("kornblith2019similarity/I5")
def test_units_that_do_nothing_change_the_route_and_not_the_value():
    wide = [np.pad(a, ((0, 0), (0, 120))) for a in (X, Y)]  # 130 features of 100 samples: Gram matrices
    for name in NAMES:
        if name == "rsa":  # of correlations over features: units that do nothing change them
            continue
        expected = features.similarity(X, Y, name)
        for x, y in ((wide[0], wide[1]), (wide[0], Y), (X, wide[1])):
            assert features.similarity(x, y, name) == pytest.approx(expected, abs=1e-10), name


@pytest.mark.claim("kornblith2019similarity/I6")
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_one_batch_gives_the_debiased_alignment(kernel):
    running = features.MinibatchCKA(kernel=kernel)
    running.update(X, Y)
    assert running.compute() == pytest.approx(features.cka(X, Y, kernel=kernel, debiased=True), rel=1e-14)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize(("constant", "scale"), [(0.0, 1.0), (0.1, 1.0), (1e300, 1.0), (0.0, 1e-200)])
def test_a_batch_on_which_one_side_is_constant_adds_zeros(kernel, constant, scale):
    running, terms = features.MinibatchCKA(kernel=kernel), []
    for i, (x, y) in enumerate(zip(np.split(X, 5), np.split(Y, 5), strict=True)):
        own = np.full_like(x, constant) if i == 2 else scale * x
        running.update(own, y)
        K, L = (a @ a.T if kernel == "linear" else gaussian(a) for a in (x, y))
        terms.append([0.0, 0.0, fast_hsic(L, L)] if i == 2 else [fast_hsic(K, L), fast_hsic(K, K), fast_hsic(L, L)])
    product, square, other = np.mean(terms, axis=0)
    assert running.compute() == pytest.approx(product / np.sqrt(square * other), rel=1e-10)


def test_updates_can_be_chained_and_batches_without_any_variation_have_no_index():
    assert features.MinibatchCKA().update(X, Y).compute() == pytest.approx(features.cka(X, Y, debiased=True))
    with pytest.warns(DegenerateWarning, match="NaN"):
        assert np.isnan(features.MinibatchCKA().update(np.ones((5, 2)), Y[:5]).compute())


@pytest.mark.claim("kornblith2019similarity/P3")
def test_the_scale_of_one_side_changes_nothing_in_batches_either():
    plain, uneven = features.MinibatchCKA(), features.MinibatchCKA()
    for x, y in zip(np.split(X, 5), np.split(Y, 5), strict=True):
        plain.update(x, y)
        uneven.update(1000 * x, y)
    assert uneven.compute() == pytest.approx(plain.compute(), rel=1e-12)
    assert features.cka(1000 * X, Y, debiased=True) == pytest.approx(features.cka(X, Y, debiased=True), rel=1e-12)


@pytest.mark.claim("kornblith2019similarity/E1")
def test_independent_gaussians_are_alike_by_the_biased_index_alone(measured):
    plain, debiased = [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(50, 100)), rng.normal(size=(50, 100))
        plain.append(features.cka(x, y))
        debiased.append(features.cka(x, y, debiased=True))
    assert abs(np.mean(plain) - 0.669) < 0.02
    assert abs(np.mean(debiased)) < 0.015
    measured(f"{np.mean(plain):.4f} and {np.mean(debiased):.4f}")


# Where they say nothing, or are refused.


@pytest.mark.claim("kornblith2019similarity/P4")
def test_canonical_correlations_of_too_few_samples_are_flagged(rng):
    x, y = rng.normal(size=(12, 11)), rng.normal(size=(12, 2))
    with pytest.warns(DegenerateWarning, match="n - 1"):
        found = features.cca(x, y)
    np.testing.assert_allclose(found.rho, 1, atol=1e-12)
    assert (found.saturated, found.num_forced) == (True, 2)
    with pytest.warns(DegenerateWarning, match="n - 1"):
        assert features.similarity(x, y, "cca_squared") == pytest.approx(1)
    some = features.cca(x[:, :10], y)  # one dimension is free
    assert (some.saturated, some.num_forced) == (False, 1)
    assert some.rho[0] == pytest.approx(1, abs=1e-12)
    assert some.rho[1] < 0.9999
    assert not features.svcca(x, y, variance=0.8).saturated


@pytest.mark.claim("kornblith2019similarity/P5")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_repeated_and_dead_units_change_no_canonical_correlation(rng, dtype):
    x, y = (rng.normal(size=(60, p)).astype(dtype) for p in (4, 3))
    redundant = np.c_[x[:, 0] + 3 * x[:, 1], np.full(60, 0.1), x, x[:, ::-1], np.zeros(60)].astype(dtype)
    found, expected = features.cca(redundant, y), features.cca(x, y)
    assert (found.kept_x, found.kept_y) == (4, 3)
    np.testing.assert_allclose(found.rho, expected.rho, rtol=1e-5 if dtype == "float32" else 1e-11)
    assert features.cca(x, y, rtol=0.9).kept_x < 4


@pytest.mark.claim("kornblith2019similarity/P6")
@pytest.mark.parametrize("p", [8, 7])  # by Gram matrices, and by features
def test_samples_that_are_equally_far_apart_have_no_debiased_alignment(rng, p):
    simplex, y = np.linalg.svd(np.eye(8) - 1 / 8)[0][:, :p], rng.normal(size=(8, 3))
    np.testing.assert_allclose(pdist(simplex), 2**0.5)
    running = features.MinibatchCKA()
    running.update(simplex, y)
    for call in (
        lambda: features.cka(simplex, y, debiased=True),
        lambda: features.cka(y, simplex, debiased=True),
        lambda: features.similarity(simplex, y, "cka_debiased"),
        running.compute,
    ):
        with pytest.warns(DegenerateWarning, match="NaN"):
            assert np.isnan(call())


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones(6), ShapeError, r"`x` has shape \(6,\)"),
        (np.ones((6, 2, 2)), ShapeError, "positions"),
        (np.ones((6, 0)), ShapeError, "shape"),
        (np.eye(6, dtype=int), DtypeError, "`x` has dtype"),
        (np.eye(5), ShapeError, "`x` has 5 samples and `y` 6"),
        (np.full((6, 2), np.nan), ValueError, "`x` has 12 entries"),
        (np.full((6, 2), 0.1), ValueError, "`x` is constant"),
        (np.zeros((6, 2)), ValueError, "`x` is constant"),
        (np.ones((1, 2)), ShapeError, "single sample"),
    ],
)
def test_what_is_no_representation_is_refused_by_name(x, error, words):
    y = np.eye(6)[:, :2]
    for function in (features.cka, features.cca, features.procrustes, features.rsa, features.similarity):
        with pytest.raises(error, match=words):
            function(x, y)


def test_settings_that_do_not_fit_are_refused(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    for call, words in (
        (lambda: features.similarity(x, y, "ckka"), "choose one of 'cka'"),
        (lambda: features.cka(x, y, kernel="cubic"), "kernel"),
        (lambda: features.cka(x, y, kernel="rbf", bandwidth=0.0), "bandwidth"),
        (lambda: features.cka(x[:3], y[:3], debiased=True), "at least 4"),
        (lambda: features.MinibatchCKA().update(x[:3], y[:3]), "at least 4"),
        (lambda: features.cka(np.repeat(x[:2], [5, 1], axis=0), y, kernel="rbf"), "median"),
        (lambda: features.svcca(x, y, variance=0.0), "variance"),
        (lambda: features.pwcca(x, y, weights="both"), "weights"),
        (lambda: features.cca(x, y, rtol=1.0), "rtol"),
        (lambda: features.rsa(x, y, distance="cosine"), "distance"),
        (lambda: features.rsa(x[:2], y[:2]), "at least 3"),
        (lambda: features.rsa(x, y[:, :1]), "single feature"),
        (lambda: features.rsa(np.maximum(x - 9, 0) + np.eye(6, 3), y), "sample 3 are equal"),
        (lambda: features.rsa(np.eye(6), y, distance="euclidean"), "all dissimilarities are equal"),
        (lambda: features.kta(np.eye(3), [0, 1, 2]), "-1 and 1"),
        (lambda: features.kta(np.eye(3), [1.0, 1.0]), "3 samples"),
        (lambda: features.kta(np.eye(3), np.ones(3), centered=True), "`y` is zero after centering"),
        (lambda: features.kta(np.ones((3, 3)), [1, -1, 1], centered=True), "`K` is zero after centering"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            call()


def test_arrays_of_jax_and_lists_are_taken_and_float32_is_computed_in_float64():
    single = X.astype(np.float32), Y.astype(np.float32)
    double = [a.astype(np.float64) for a in single]
    for name in ("cka", "cka_debiased", "procrustes", "rsa"):
        expected = features.similarity(*double, name)
        assert features.similarity(jnp.asarray(single[0]), single[1].tolist(), name) == expected


def test_a_function_of_two_matrices_is_a_measure_and_sees_what_was_given():
    def gap(x, y):
        np.testing.assert_array_equal(x, X)
        return -float(np.mean((x - y) ** 2))

    assert features.similarity(X, Y, gap) == -np.mean((X - Y) ** 2)
    with pytest.raises(TypeError, match="metric"):
        features.similarity(X, Y, lambda x, y: x)
    with pytest.raises(ValueError, match="metric"):
        features.similarity(X, Y, lambda x, y: np.inf)
    with pytest.warns(DegenerateWarning, match="what the function returned"):
        assert np.isnan(features.similarity(X, Y, lambda x, y: float("nan")))
    with pytest.warns(DegenerateWarning, match="the function returned it"):
        assert features.layer_similarity({"x": X}, {"y": Y}, lambda x, y: float("nan")).undefined.all()


def test_a_function_may_return_a_result_that_is_a_number(rng):
    for function in (features.cca, features.svcca, features.pwcca):
        assert features.similarity(X, Y, function) == float(function(X, Y))
        assert features.layer_similarity({"x": X}, {"y": Y}, function).matrix[0, 0] == float(function(X, Y))
    with pytest.warns(DegenerateWarning, match="n - 1"):
        found = features.layer_similarity({"x": rng.normal(size=(5, 4))}, {"y": rng.normal(size=(5, 2))}, features.cca)
    assert found.saturated.all()


# Layers.


@pytest.fixture(scope="module")
def images():
    net = arch.Sequential(arch.Conv(3, (2, 2)), arch.Relu(), arch.Flatten(), arch.Dense(2))
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 1))
    params = net.init(jax.random.key(0), (4, 4, 1), dtype="float64")
    return net, params, x


def test_activations_end_with_the_output_of_the_network(images):
    net, params, x = images
    found = features.layer_activations(net, params, x)
    assert list(found) == ["1 Conv", "2 Relu", "3 Flatten", "4 Dense"]
    np.testing.assert_allclose(found["4 Dense"], net.apply(params, x), rtol=1e-12)
    np.testing.assert_array_equal(found["2 Relu"], np.maximum(found["1 Conv"], 0))
    assert {h.dtype.name for h in found.values()} == {"float64"}


def test_positions_become_features_samples_or_a_mean(images):
    net, params, x = images
    first = [features.layer_activations(net, params, x, positions=p)["1 Conv"] for p in ("features", "samples", "mean")]
    whole = first[0].reshape(6, 4, 4, 3)
    np.testing.assert_array_equal(first[1], whole.reshape(96, 3))
    np.testing.assert_allclose(first[2], whole.mean(axis=(1, 2)), rtol=1e-12)


def test_branches_are_layers_of_their_own_and_other_networks_are_refused(images):
    net = arch.Sequential(arch.Dense(3), arch.Parallel(arch.Identity(), arch.Relu()), arch.Sum())
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    found = features.layer_activations(net, net.init(jax.random.key(0), (2,)), x)
    assert list(found) == ["1 Dense", "2 Parallel, branch 1", "2 Parallel, branch 2", "3 Sum"]
    np.testing.assert_allclose(found["3 Sum"], found["2 Parallel, branch 1"] + found["2 Parallel, branch 2"])
    with pytest.raises(TypeError, match="Sequential"):
        features.layer_activations(arch.Dense(3), (), x)
    with pytest.raises(ShapeError, match="params"):
        features.layer_activations(images[0], (), x)


@pytest.mark.parametrize("name", [*NAMES, features.cka])
def test_the_matrix_of_layers_has_the_similarity_of_each_pair(rng, name):
    one = {"a": rng.normal(size=(20, 3)), "wide": rng.normal(size=(20, 17))}
    two = {"b": rng.normal(size=(20, 2)), "a": one["a"] ** 2, "c": rng.normal(size=(20, 60))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        found = features.layer_similarity(one, two, name)
        expected = [[features.similarity(x, y, name) for y in two.values()] for x in one.values()]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert (found.layers1, found.layers2, found.num_samples) == (("a", "wide"), ("b", "a", "c"), 20)
    assert found.best.keys() == {"a", "wide"}
    canonical = name in ("cca", "cca_squared", "svcca", "pwcca")
    assert found.saturated.tolist() == [[False, False, canonical]] * 2


@pytest.mark.parametrize(
    ("name", "owner", "part"),
    [("cca", linalg, "svd"), ("rsa", representational, "_ranked"), ("cka_rbf", kernel_alignment, "_gaussian")],
)
def test_the_part_of_a_layer_that_all_pairs_share_is_computed_once(rng, monkeypatch, name, owner, part):
    calls, original = [], getattr(owner, part)
    monkeypatch.setattr(owner, part, lambda *args, **kwargs: calls.append(0) or original(*args, **kwargs))
    layers = {str(i): rng.normal(size=(20, 3)) for i in range(5)}
    features.layer_similarity(layers, layers, name)
    assert len(calls) == 5


def test_gram_matrices_are_formed_only_where_a_side_has_as_many_features_as_samples(rng):
    for shapes, formed in ((((20, 19), (20, 3)), False), (((20, 20), (20, 3)), True)):
        a, b = pair(*(rng.normal(size=shape) for shape in shapes))
        kernel_alignment.alignment(a, b)
        assert ("gram" in vars(a), "gram" in vars(b)) == (formed, formed)


def test_flagged_pairs_of_layers_are_counted_in_one_warning(rng):
    layers = {"narrow": rng.normal(size=(8, 2)), "simplex": np.eye(8)}
    with pytest.warns(DegenerateWarning, match="in 3 of 4 pairs") as seen:
        found = features.layer_similarity(layers, layers, "cca")
    assert len(seen) == 1
    assert found.saturated.tolist() == [[False, True], [True, True]]
    with pytest.warns(DegenerateWarning, match="3 of 4 similarities are NaN"):
        found = features.layer_similarity(layers, layers, "cka_debiased")
    assert found.undefined.tolist() == [[False, True], [True, True]]
    assert found.best == {"narrow": "narrow"}
    (chart,) = found.charts()
    np.testing.assert_array_equal(chart.values, found.matrix)
    assert np.isnan(chart.values).tolist() == [[False, True], [True, True]]
    with pytest.warns(DegenerateWarning):
        assert features.layer_similarity({"a": np.eye(8)}, {"a": np.eye(8)}, "cka_debiased").charts() == ()


def test_a_constant_layer_is_named_and_costs_its_own_row_alone(rng):
    layers = {"a": rng.normal(size=(8, 2)), "dead": np.zeros((8, 3)), "b": rng.normal(size=(8, 3))}
    for name in NAMES:
        with pytest.warns(DegenerateWarning, match=r"`acts1\['dead'\]` is constant over all 8 samples") as seen:
            found = features.layer_similarity(layers, layers, name)
        assert len(seen) == 1
        assert found.undefined.tolist() == [[False, True, False], [True] * 3, [False, True, False]]
        expected = features.similarity(layers["a"], layers["b"], name)
        assert found.matrix[0, 2] == pytest.approx(expected, rel=1e-13)
        assert found.best.keys() == {"a", "b"}
    with pytest.warns(DegenerateWarning, match=r"`acts1\['dead'\]`, `acts2\['b'\]` are constant"):
        assert features.layer_similarity(layers, {"b": np.ones((8, 2))}).undefined.all()


def test_the_chart_of_similar_layers_names_them_and_says_which_value_is_1_whatever_the_data(rng):
    layers = {"narrow": rng.normal(size=(8, 2)), "simplex": np.eye(8)}
    with pytest.warns(DegenerateWarning):
        (chart,) = features.layer_similarity(layers, {"other": layers["narrow"]}, "cca").charts()
    assert (chart.rows, chart.columns) == (("narrow", "simplex"), ("other",))
    assert chart.caption == "8 samples. 1 of the 2 similarities are 1 whatever the data."


def test_samples_that_are_others_or_in_another_order_are_refused(rng):
    layers = {"a": rng.normal(size=(4, 2))}
    assert features.layer_similarity(layers, layers, ids=(np.arange(4), [0, 1, 2, 3])).matrix.shape == (1, 1)
    for ids, words in (
        (([0, 1, 2, 3], [0, 1, 3, 2]), "another order: at 2 they are 2 and 3"),
        ((["u", "v", "w", "x"], ["u", "v", "w", "y"]), "of the first are not among the other's, for instance 'x'"),
        (([0, 1, 2], [0, 1, 2, 3]), "of the second are not among"),
        (([0, 1, 1], [0, 1]), "repeated"),
        (([0, 1, 2], [0, 1, 2]), "3 entries for 4 samples"),
        (([0, 1, 2, 3],), "two sequences"),
    ):
        with pytest.raises(ValueError, match=words):
            features.layer_similarity(layers, layers, ids=ids)
    with pytest.raises(ShapeError, match=r"`acts2\['b'\]` has 5 samples"):
        features.layer_similarity(layers, {"b": rng.normal(size=(5, 2))})
    with pytest.raises(ValueError, match="several layers whose name as text is '1'"):
        features.layer_similarity({1: layers["a"], "1": layers["a"]}, layers)
    with pytest.raises(TypeError, match="acts1"):
        features.layer_similarity({}, layers)


def test_results_print_and_come_back_from_their_files(rng, tmp_path):
    for found in (features.pwcca(X, Y), features.layer_similarity({"x": X}, {"y": Y, "z": X})):
        assert type(found).__name__ in str(found)
        assert Result.load(found.save(tmp_path / "result.zip")) == found
        assert len(found.charts()) == 1
