"""Spectra of tangent kernels: four methods against NumPy, what each may certify, and how spectra move with the data."""

import warnings
from fractions import Fraction
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from widescape.core.errors import (
    ConditioningWarning,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    UnderparameterizedWarning,
)
from widescape.curvature import (
    DenseSpectrum,
    KrylovSpectrum,
    System,
    certify_lambda_min,
    kernel_spectrum,
    tangent_kernel,
)
from widescape.curvature.spectrum import SpectrumStatus

EPS = np.finfo(np.float64).eps
DENSE = ("svd", "dense")
KRYLOV = ("lanczos", "lobpcg")


def linear(w, x):
    return x @ w


def network(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def of_jacobian(rows, **options):
    """A system whose Jacobian is the given one."""
    return System(linear, np.zeros(rows.shape[1], rows.dtype), rows, **options)


def gaussian(order, size, seed=0):
    return np.random.default_rng(seed).normal(size=(order, size))


def mixed(values, size=None, seed=0):
    """A square Jacobian, or a wider one, with the given singular values and no structure to see them by."""
    r = np.random.default_rng(seed)
    left = np.linalg.qr(r.normal(size=(len(values), len(values))))[0]
    right = np.linalg.qr(r.normal(size=(size or len(values), len(values))))[0]
    return left @ np.diag(values) @ right.T


def classes(n=4, hidden=5, c=3, seed=0, **options):
    """A network with several outputs, and its dense Jacobian (n c, p)."""
    r = np.random.default_rng(seed)
    params = {"v": r.normal(size=(hidden, c)), "w": r.normal(size=(2, hidden))}
    x = r.normal(size=(n, 2))
    with jax.enable_x64(True):
        parts = jax.jit(jax.jacobian(network))(params, x)
    rows = [np.asarray(parts[name]).reshape(n * c, -1) for name in ("v", "w")]
    return System(network, params, x, **options), np.concatenate(rows, axis=1)


def eigenvalues(matrix):
    return np.linalg.eigvalsh(matrix)[::-1]


# Against NumPy.


@pytest.mark.parametrize("method", DENSE)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_all_eigenvalues_are_those_of_the_dense_kernel(method, reduction):
    system, J = classes(reduction=reduction)
    spectrum = kernel_spectrum(system, method=method)
    expected = eigenvalues(J @ J.T) / (4 if reduction == "mean" else 1)
    assert isinstance(spectrum, DenseSpectrum)
    np.testing.assert_allclose(spectrum.eigs, expected, rtol=0, atol=1e-13 * expected[0])
    assert (spectrum.lam_max, spectrum.lam_min) == (spectrum.eigs[0], spectrum.eigs[-1])
    assert spectrum.kappa == spectrum.lam_max / spectrum.lam_min
    assert (spectrum.order, spectrum.num_params, spectrum.method, spectrum.n_matvecs) == (12, 25, method, 0)
    assert spectrum.status is SpectrumStatus.OK
    assert spectrum.certified


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_kernel_of_the_mean_is_divided_by_the_number_of_examples_not_of_residuals(reduction):
    system, J = classes(reduction=reduction)
    np.testing.assert_allclose(
        tangent_kernel(system), J @ J.T / (4 if reduction == "mean" else 1), rtol=0, atol=1e-13 * np.trace(J @ J.T)
    )


@pytest.mark.parametrize("method", ["auto", "jacobian", "ntvp", "structured"])
def test_every_way_to_the_kernel_gives_the_jacobian_times_its_transpose(method):
    system, J = classes()
    np.testing.assert_allclose(tangent_kernel(system, method=method), J @ J.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", DENSE)
def test_the_spectrum_is_taken_where_one_asks_for_it(method):
    system, J = classes(seed=3)
    other = System(network, classes(seed=4)[0].params, system.x)
    there = kernel_spectrum(other, system.params, method=method)
    np.testing.assert_allclose(there.eigs, eigenvalues(J @ J.T), rtol=0, atol=1e-12)
    assert np.array_equal(kernel_spectrum(other, system.flat, method=method).eigs, there.eigs)
    assert not np.allclose(kernel_spectrum(other, method=method).eigs, there.eigs)


def test_lanczos_with_all_steps_finds_every_eigenvalue():
    J = gaussian(30, 45)
    spectrum = kernel_spectrum(of_jacobian(J), method="lanczos", k=30)
    np.testing.assert_allclose(spectrum.ritz, eigenvalues(J @ J.T), rtol=0, atol=1e-10)
    assert np.all(spectrum.resid < 1e-8)
    assert spectrum.n_matvecs == 30
    assert len(kernel_spectrum(of_jacobian(J), method="lanczos").ritz) == 30


@pytest.mark.parametrize("k", [1, 3, 5])
def test_lobpcg_converges_to_the_smallest_eigenvalues(k):
    J = gaussian(30, 60, seed=k)
    exact = eigenvalues(J @ J.T)
    spectrum = kernel_spectrum(of_jacobian(J), method="lobpcg", k=k)
    assert spectrum.ritz.shape == spectrum.resid.shape == (k + 1,)
    np.testing.assert_allclose(spectrum.ritz[1:], exact[-k:], rtol=1e-6)
    assert spectrum.lam_min == pytest.approx(exact[-1], rel=1e-6)
    assert spectrum.lam_max == pytest.approx(exact[0], rel=1e-6)
    assert kernel_spectrum(of_jacobian(J), method="lobpcg").ritz.shape == (5,)


@pytest.mark.parametrize("method", KRYLOV)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_krylov_methods_see_several_outputs_and_the_reduction(method, reduction):
    system, J = classes(n=8, hidden=12, reduction=reduction)
    exact = eigenvalues(J @ J.T) / (8 if reduction == "mean" else 1)
    spectrum = kernel_spectrum(system, method=method, k=24 if method == "lanczos" else 4)
    assert spectrum.lam_max == pytest.approx(exact[0], rel=1e-6)
    assert spectrum.lam_min == pytest.approx(exact[-1], rel=1e-4, abs=1e-10 * exact[0])


def test_an_eigenvalue_lies_within_the_residual_of_every_ritz_value():
    J = gaussian(40, 60)
    exact = eigenvalues(J @ J.T)
    for method, k in (("lanczos", 6), ("lanczos", 15), ("lobpcg", 4)):
        spectrum = kernel_spectrum(of_jacobian(J), method=method, k=k)
        distance = np.abs(spectrum.ritz[:, None] - exact[None]).min(axis=1)
        assert np.all(distance <= spectrum.resid + 1e-10), method


def test_the_random_start_of_a_krylov_method_is_that_of_its_key():
    system = of_jacobian(gaussian(40, 60))
    for method, k in (("lanczos", 5), ("lobpcg", 2)):
        first, again, other = (kernel_spectrum(system, method=method, k=k, key=jax.random.key(s)) for s in (0, 0, 1))
        assert first == again, method
        assert not np.array_equal(first.ritz, other.ritz), method
        assert kernel_spectrum(system, method=method, k=k) == first, method


def test_singular_values_resolve_small_eigenvalues_where_the_dense_kernel_cannot():
    singular = np.logspace(0, -10, 6)
    system = of_jacobian(mixed(singular))
    by_svd, by_kernel = (kernel_spectrum(system, method=method) for method in DENSE)
    np.testing.assert_allclose(by_svd.eigs, singular**2, rtol=1e-4)
    assert by_svd.status is SpectrumStatus.OK
    assert 0 < by_svd.lam_min_lower <= 1e-20
    assert abs(by_kernel.lam_min - 1e-20) > 1e-19
    assert by_kernel.status is SpectrumStatus.SINGULAR
    assert by_kernel.lam_min_lower == 0


def test_the_dense_bound_is_positive_as_soon_as_rounding_lets_it():
    for smallest, seen in ((1e-5, True), (1e-9, False)):
        spectrum = kernel_spectrum(of_jacobian(mixed([1.0, 1.0, smallest])), method="dense")
        assert (spectrum.lam_min_lower > 0) is seen
        assert (spectrum.status is SpectrumStatus.OK) is seen


@given(hnp.arrays(np.float64, (4,), elements=st.floats(-9, 1)), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_the_certified_bound_is_below_the_smallest_eigenvalue(exponents, seed):
    singular = 10**exponents
    J = mixed(singular, 6, seed)
    truth = min(singular) - 8 * EPS * max(singular)  # making J rounds it
    for method in DENSE:
        spectrum = kernel_spectrum(of_jacobian(J), method=method)
        assert 0 <= spectrum.lam_min_lower <= min(singular) ** 2
        slack = 8 * len(J) * EPS * np.sum(singular**2)
        expected = (max(truth, 0) - 16 * EPS * max(singular)) ** 2 if method == "svd" else min(singular) ** 2
        assert spectrum.lam_min_lower >= expected - 2 * slack


def test_the_method_is_chosen_by_size(monkeypatch):
    system = of_jacobian(gaussian(6, 8))
    assert kernel_spectrum(system).method == "svd"
    monkeypatch.setattr("widescape.curvature.spectrum.SVD_ENTRIES", 47)
    assert kernel_spectrum(system).method == "dense"
    monkeypatch.setattr("widescape.curvature.spectrum._DENSE_ORDER", 5)
    assert kernel_spectrum(system).method == "lanczos"


@pytest.mark.parametrize("method", DENSE)
def test_functions_that_mix_examples_have_the_spectrum_of_the_whole_batch(method):
    def f(w, x):
        h = x @ w
        return jnp.tanh((h - h.mean(axis=0, keepdims=True)) / jnp.sqrt(h.var(axis=0, keepdims=True) + 1))

    w, x = gaussian(3, 2), gaussian(5, 3, seed=1)
    with jax.enable_x64(True):
        J = np.asarray(jax.jit(jax.jacobian(f))(w, x)).reshape(10, 6)
    with pytest.warns(UnderparameterizedWarning):
        spectrum = kernel_spectrum(System(f, w, x, mixes_examples=True), method=method)
    np.testing.assert_allclose(spectrum.eigs, eigenvalues(J @ J.T), rtol=0, atol=1e-13)


# Identities.


@pytest.mark.claim("liu2020loss/I2")
@pytest.mark.parametrize(("n", "hidden"), [(3, 6), (6, 2), (4, 4)])
def test_the_kernel_is_symmetric_and_positive_and_shares_its_nonzero_spectrum_with_gauss_newton(n, hidden):
    system, J = classes(n=n, hidden=hidden)
    kernel = tangent_kernel(system)
    assert np.array_equal(kernel, kernel.T)
    ours, theirs = eigenvalues(kernel), eigenvalues(J.T @ J)
    assert ours[-1] >= -len(kernel) * EPS * ours[0]
    shared = min(J.shape)
    np.testing.assert_allclose(ours[:shared], theirs[:shared], rtol=0, atol=1e-13 * ours[0])
    np.testing.assert_allclose([*ours[shared:], *theirs[shared:]], 0, atol=1e-13 * ours[0])


@pytest.mark.parametrize("a", [-3.0, 0.5, 100.0])
def test_scaling_the_outputs_scales_the_kernel_by_the_square(a):
    system, J = classes()
    scaled = System(lambda params, x: a * network(params, x), system.params, system.x)
    np.testing.assert_allclose(tangent_kernel(scaled), a**2 * J @ J.T, rtol=0, atol=1e-12 * a**2)
    spectrum = kernel_spectrum(scaled)
    assert spectrum.lam_min == pytest.approx(a**2 * eigenvalues(J @ J.T)[-1], rel=1e-8)


@pytest.mark.claim("liu2020loss/I5")
def test_orthogonal_mixing_of_outputs_leaves_the_spectrum():
    system, J = classes()
    rotation = np.linalg.qr(gaussian(3, 3, seed=8))[0]
    turned = System(lambda params, x: network(params, x) @ jnp.asarray(rotation), system.params, system.x)
    assert np.abs(tangent_kernel(turned) - tangent_kernel(system)).max() > 0.1
    for method in DENSE:
        np.testing.assert_allclose(
            kernel_spectrum(turned, method=method).eigs, eigenvalues(J @ J.T), rtol=0, atol=1e-12
        )


@pytest.mark.claim("liu2020loss/I6")
@pytest.mark.parametrize("seed", range(3))
def test_one_more_data_point_cannot_raise_the_smallest_eigenvalue_nor_lower_the_largest(seed):
    system, _ = classes(n=5, hidden=9, seed=seed)
    spectra = [kernel_spectrum(System(network, system.params, system.x[:n])) for n in range(1, 6)]
    for less, more in pairwise(spectra):
        assert more.lam_min <= less.lam_min
        assert more.lam_max >= less.lam_max
    assert spectra[-1].lam_min < spectra[0].lam_min


@pytest.mark.claim("liu2020loss/I6")
@pytest.mark.parametrize("method", DENSE)
def test_a_duplicated_data_point_makes_the_kernel_singular(method):
    system, J = classes(n=3, hidden=9)
    once = kernel_spectrum(system, method=method)
    twice = kernel_spectrum(System(network, system.params, system.x[[0, 1, 2, 1]]), method=method)
    assert once.lam_min_lower > 0
    assert abs(twice.lam_min) <= 1e-14 * twice.lam_max
    assert np.sum(twice.eigs > 1e-10) == len(J)
    assert twice.status is SpectrumStatus.SINGULAR
    assert twice.lam_min_lower == 0


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/C13")
@pytest.mark.parametrize(("size", "published", "tolerance"), [(40, 3.16, 0.15), (200, 1.19, 0.06)])
def test_the_condition_number_of_gaussian_jacobians_is_as_published_and_below_its_bound(
    size, published, tolerance, measured
):
    order, draws = 20, 300
    rng = np.random.default_rng(size)
    logs = [np.log(kernel_spectrum(of_jacobian(rng.normal(size=(order, size)))).kappa) for _ in range(draws)]
    mean, error = np.mean(logs), np.std(logs) / draws**0.5
    measured(f"(20, {size}): {mean:.3f} +- {error:.3f}")
    assert abs(mean - published) <= tolerance
    assert mean + 5 * error < 2 * np.log(size / (size - order + 1)) + 5


# What may be certified.


@pytest.mark.parametrize("method", DENSE)
def test_fewer_parameters_than_residuals_make_the_smallest_eigenvalue_zero_and_warn(method):
    with pytest.warns(UnderparameterizedWarning, match="3 parameters for 5 residuals"):
        spectrum = kernel_spectrum(of_jacobian(gaussian(5, 3)), method=method)
    assert (spectrum.lam_min, spectrum.lam_min_lower, spectrum.kappa) == (0, 0, np.inf)
    assert spectrum.status is SpectrumStatus.RANK
    assert len(spectrum.eigs) == 5
    exact = eigenvalues(gaussian(5, 3).T @ gaussian(5, 3))
    np.testing.assert_allclose(spectrum.eigs, [*exact, 0, 0], rtol=0, atol=1e-13)


def test_fewer_parameters_than_residuals_warn_in_krylov_methods():
    with pytest.warns(UnderparameterizedWarning):
        spectrum = kernel_spectrum(of_jacobian(gaussian(5, 3)), method="lanczos")
    assert spectrum.status is SpectrumStatus.RANK
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_spectrum(of_jacobian(gaussian(5, 5)))


def casting(dtype, back="float64"):
    return lambda w, x: (x.astype(dtype) @ w.astype(dtype)).astype(back)


@pytest.mark.claim("liu2020loss/P2")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", DENSE)
def test_a_function_that_cannot_resolve_its_smallest_eigenvalue_is_flagged_and_nothing_certified(dtype, method):
    critical = 0.1 / (2 * float(jnp.finfo(dtype).eps))  # of the condition number, for two residuals
    for kappa, lost in ((critical * 1.2, True), (critical / 1.2, False)):
        rows = np.diag([1.0, kappa**-0.5])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spectrum = kernel_spectrum(System(casting(dtype), np.zeros(2), rows), method=method)
        assert [w.category for w in caught] == [ConditioningWarning] * lost
        assert spectrum.kappa == pytest.approx(kappa, rel=0.02)
        assert not spectrum.certified
        assert spectrum.lam_min_lower is None
        assert {spectrum.evidence(name).kind for name in ("lam_min", "lam_max", "kappa", "eigs")} == {"exact"}
        if lost:
            assert dtype in str(caught[0].message)
            assert caught[0].filename == __file__


@pytest.mark.claim("liu2020loss/P2")
@pytest.mark.parametrize("method", ["svd", "dense", "lanczos"])
def test_a_function_with_outputs_in_single_precision_is_flagged_by_every_method(method):
    rows = np.diag([1.0, 2.0**-12])
    with pytest.warns(ConditioningWarning, match="float32"):
        spectrum = kernel_spectrum(System(casting("float32", "float32"), np.zeros(2), rows), method=method)
    assert not spectrum.certified
    assert spectrum.kappa > 1e6


@pytest.mark.claim("liu2020loss/P2")
def test_the_same_function_in_doubles_is_certified_even_where_parameters_come_in_singles():
    rows = np.diag([1.0, 2.0**-14])
    for dtype in (np.float32, np.float64):
        system = System(linear, np.zeros(2, dtype), rows.astype(dtype))
        spectrum = kernel_spectrum(system)
        assert spectrum.certified
        assert spectrum.lam_min == pytest.approx(2.0**-28, rel=1e-10)
        assert 0 < spectrum.lam_min_lower <= 2.0**-28
        assert tangent_kernel(system).dtype == np.float64


def test_krylov_methods_warn_too_where_a_function_computes_in_single_precision():
    rows = mixed(np.logspace(0, -4, 12))
    with pytest.warns(ConditioningWarning, match="float32"):
        kernel_spectrum(System(casting("float32"), np.zeros(12), rows), method="lanczos")


@pytest.mark.claim("liu2020loss/P5")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("method", "k"), [("lanczos", 1), ("lanczos", 4), ("lanczos", 20), ("lobpcg", 4)])
def test_krylov_methods_see_the_smallest_eigenvalue_from_above_and_the_largest_from_below(method, k, seed):
    J = mixed(np.logspace(0, -3, 40), 50, seed)
    exact = eigenvalues(J @ J.T)
    spectrum = kernel_spectrum(of_jacobian(J), method=method, k=k, key=jax.random.key(seed))
    rounding = 40 * EPS * exact[0]
    assert isinstance(spectrum, KrylovSpectrum)
    assert not isinstance(spectrum, DenseSpectrum)
    assert not hasattr(spectrum, "eigs")
    assert spectrum.lam_min >= exact[-1] - rounding
    assert spectrum.lam_max <= exact[0] + rounding
    assert spectrum.kappa <= exact[0] / exact[-1] * (1 + rounding / exact[-1])
    assert (spectrum.certified, spectrum.lam_min_lower) == (False, None)
    assert spectrum.status is SpectrumStatus.ONE_SIDED
    assert spectrum.n_matvecs >= k
    stands = {name: spectrum.evidence(name) for name in ("lam_min", "lam_max", "kappa")}
    assert {name: (e.kind, e.side) for name, e in stands.items()} == {
        "lam_min": ("bound", "upper"),
        "lam_max": ("bound", "lower"),
        "kappa": ("bound", "lower"),
    }


@pytest.mark.claim("liu2020loss/P5")
def test_a_few_krylov_steps_are_far_above_the_smallest_eigenvalue_and_more_come_down():
    J = mixed(np.logspace(0, -3, 40))
    values = [kernel_spectrum(of_jacobian(J), method="lanczos", k=k).lam_min for k in (2, 5, 10, 20, 40)]
    assert values[0] > 1e-3
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[-1] == pytest.approx(1e-6, rel=1e-6)


def test_dense_spectra_stand_as_certified_to_rounding():
    spectrum = kernel_spectrum(of_jacobian(gaussian(4, 6)))
    for name in ("lam_min", "lam_max", "eigs", "lam_min_lower"):
        assert spectrum.evidence(name).kind == "certified"
    assert spectrum.evidence("kappa").kind == "exact"
    assert spectrum.source == "liu2020loss"
    assert len(str(spectrum).splitlines()) < 20


def test_the_figure_lists_positive_eigenvalues_by_rank_on_a_logarithmic_scale():
    spectrum = kernel_spectrum(of_jacobian(np.diag([3.0, 1.0, 0.0])))
    (chart,) = spectrum.charts()
    (series,) = chart.series
    assert chart.y_scale == "log"
    assert np.array_equal(series.x, [1, 2])
    np.testing.assert_allclose(series.y, [9, 1])
    assert "1." in chart.caption


# Cholesky.


def test_the_margin_is_four_times_order_times_rounding_times_trace():
    assert certify_lambda_min(np.diag([1.0, 2.0]), 0.5).margin == 4 * 2 * EPS * 3
    assert certify_lambda_min(np.diag([1.0, 2.0, 5.0]), 0.5).margin == 4 * 3 * EPS * 8
    result = certify_lambda_min(np.array([[4.0]]), 1)
    assert (result.margin, result.mu, result.holds) == (16 * EPS, 1, True)


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_a_diagonal_matrix_is_certified_up_to_the_margin_and_not_at_it(order):
    diagonal = np.arange(order) + 1.0
    margin = 4 * order * EPS * diagonal.sum()
    for permuted in (diagonal, diagonal[::-1]):
        assert certify_lambda_min(np.diag(permuted), 1 - margin - EPS).holds
        assert not certify_lambda_min(np.diag(permuted), 1 - margin).holds
        assert not certify_lambda_min(np.diag(permuted), 1.0).holds


def is_positive_definite(matrix, level):
    """Whether the matrix exceeds the level, in exact arithmetic on the entries as they are."""
    rows = [
        [Fraction(float(a)) - (i == j) * Fraction(level) for j, a in enumerate(row)] for i, row in enumerate(matrix)
    ]
    for i in range(len(rows)):
        if rows[i][i] <= 0:
            return False
        for j in range(i + 1, len(rows)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return True


ENTRIES = st.floats(-3, 3, width=32).filter(lambda a: a == 0 or abs(a) > 1e-6)


@given(hnp.arrays(np.float64, (3, 4), elements=ENTRIES), st.floats(-40, 40))
@settings(deadline=None, max_examples=200)
def test_what_is_certified_is_true_in_exact_arithmetic(J, steps):
    kernel = J @ J.T
    level = float(np.linalg.eigvalsh(kernel)[0] + steps * EPS * np.trace(kernel))
    result = certify_lambda_min(kernel, level)
    assert not result.holds or is_positive_definite(kernel, level)
    if steps < -30:  # beyond twice the margin and the rounding of the eigenvalue
        assert result.holds or np.trace(kernel) == 0


@given(hnp.arrays(np.float64, 6, elements=ENTRIES), st.floats(-40, 40), st.booleans())
@settings(deadline=None, max_examples=200)
def test_what_is_certified_of_an_indefinite_matrix_is_true_in_exact_arithmetic(entries, steps, hollow):
    matrix = np.zeros((3, 3))
    matrix[np.tril_indices(3)] = entries
    matrix = np.tril(matrix, -1) + np.tril(matrix, -1).T + (0 if hollow else np.diag(np.diag(matrix)))
    level = float(np.linalg.eigvalsh(matrix)[0] + steps * EPS * np.abs(matrix).max())
    assert not certify_lambda_min(matrix, level).holds or is_positive_definite(matrix, level)


def test_a_negative_level_of_a_matrix_without_diagonal_is_not_certified_by_rounding():
    for lower in np.random.default_rng(0).uniform(1, 4, 500):
        above = np.nextafter(lower, 9)  # the eigenvalues are this and its negative
        assert not certify_lambda_min(np.array([[0, above], [above, 0]]), -lower).holds
    assert certify_lambda_min(np.array([[0, 1.0], [1.0, 0]]), -1.1).holds


def test_matrices_that_are_not_symmetric_or_levels_that_are_no_numbers_are_refused():
    with pytest.raises(ShapeError, match="`K`"):
        certify_lambda_min(np.ones((2, 3)), 0.5)
    with pytest.raises(ValueError, match="`K` is not symmetric"):
        certify_lambda_min(np.array([[1.0, 0.5], [0.0, 1.0]]), 0.5)
    with pytest.raises(ValueError, match="`K` has 1 entries"):
        certify_lambda_min(np.diag([1.0, np.nan]), 0.5)
    with pytest.raises(ValueError, match="`mu` is nan"):
        certify_lambda_min(np.eye(2), np.nan)
    with pytest.raises(TypeError, match="`mu`"):
        certify_lambda_min(np.eye(2), "0.5")


def test_the_matrix_to_be_certified_is_left_as_it_is():
    kernel = gaussian(3, 5) @ gaussian(3, 5).T
    before = kernel.copy()
    certify_lambda_min(kernel, 0.1)
    assert np.array_equal(kernel, before)


# Refusals.


@pytest.mark.parametrize("method", ["auto", "dense", "svd", "lanczos"])
def test_a_kernel_that_overflows_is_an_error(method):
    with pytest.raises(NonFiniteError, match="scale"):
        kernel_spectrum(of_jacobian(1e200 * np.eye(3)), method=method)


def test_a_kernel_beyond_its_memory_budget_is_refused_before_it_is_computed():
    system = of_jacobian(gaussian(50, 60))
    for function in (tangent_kernel, lambda s, budget_gb: kernel_spectrum(s, method="dense", budget_gb=budget_gb)):
        with pytest.raises(MemoryBudgetError):
            function(system, budget_gb=1e-6)
        function(system, budget_gb=1.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "eigh"}, "'eigh'; choose one of 'auto', 'svd', 'dense', 'lanczos', 'lobpcg'"),
        ({"method": "lanczos", "k": 41}, "`k` is 41, but there are 40 residuals"),
        ({"method": "lanczos", "k": 0}, "`k` is 0"),
        ({"method": "lobpcg", "k": 8}, "more than 5 k residuals; there are 40 for k = 8"),
    ],
    ids=lambda o: str(o.get("method")) + str(o.get("k")) if isinstance(o, dict) else "",
)
def test_methods_and_numbers_of_steps_that_do_not_exist_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        kernel_spectrum(of_jacobian(gaussian(40, 50)), **options)


def test_the_kernel_of_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'svd'; choose one of"):
        tangent_kernel(of_jacobian(gaussian(3, 4)), method="svd")
