"""Spectra, tail fits and rounding noise against constructed matrices."""

import numpy as np
import pytest

from widescape import arch, kernels
from widescape.core.errors import ShapeError


def with_spectrum(eigenvalues, rng) -> np.ndarray:
    basis = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    matrix = basis * eigenvalues @ basis.T
    return (matrix + matrix.T) / 2


def test_eigenvalues_condition_and_effective_rank_of_a_known_matrix(rng):
    found = kernels.spectrum(with_spectrum(np.array([8.0, 4.0, 2.0, 1.0]), rng))
    np.testing.assert_allclose(found.eigenvalues, [8, 4, 2, 1], rtol=1e-13)
    assert found.condition_number == pytest.approx(8.0, rel=1e-13)
    assert found.effective_rank == pytest.approx(15**2 / 85, rel=1e-13)
    assert found.tail_status.name == "TOO_FEW"
    assert found.tail_exponent is None


def test_an_exact_power_law_is_recovered(rng):
    n = 200
    found = kernels.spectrum(with_spectrum(0.3 * n * np.arange(1, n + 1.0) ** -1.4, rng))
    assert found.tail_exponent == pytest.approx(1.4, abs=1e-9)
    assert found.tail_constant == pytest.approx(0.3, rel=1e-8)
    assert found.tail_status.ok


def test_the_standard_error_of_the_tail_covers_independent_noise(rng):
    n, inside = 200, 0
    for _ in range(60):
        values = n * np.arange(1, n + 1.0) ** -1.4 * np.exp(0.002 * rng.normal(size=n))
        found = kernels.spectrum(np.diag(values))
        inside += abs(found.tail_exponent - 1.4) < 2 * found.tail_exponent_stderr
    assert inside >= 48  # 57 expected, standard deviation 1.7


def test_a_singular_matrix_has_an_infinite_condition_number():
    found = kernels.spectrum(np.diag([1.0, 0.0]))
    assert found.condition_number == np.inf
    (chart,) = found.charts()
    assert chart.series[0].y.tolist() == [1.0]


def test_noise_is_measured_against_the_smallest_eigenvalue(rng):
    matrix = with_spectrum(np.linspace(1, 2, 50), rng)
    noise = 1e-3 * rng.normal(size=(50, 50))
    noise = (noise + noise.T) / 2
    report = kernels.precision_report(matrix, "float32", lower=matrix + noise)
    assert report.noise_norm == pytest.approx(np.linalg.norm(noise, 2), rel=1e-9)
    assert report.noise_ratio == pytest.approx(report.noise_norm / 1.0, rel=1e-9)
    assert report.random_noise_norm == pytest.approx(report.noise_norm, rel=0.15)
    assert report.sufficient
    assert report.suggested_reg == 0.0
    assert report.evidence("noise_norm").kind == "exact"


def test_the_suggested_regularizer_makes_the_precision_sufficient(rng):
    matrix = with_spectrum(np.geomspace(1, 1e-6, 40), rng)
    noise = np.diag(np.full(40, 1e-4))
    report = kernels.precision_report(matrix, "float32", lower=matrix + noise)
    assert not report.sufficient
    lifted = matrix + report.suggested_reg * np.trace(matrix) / 40 * np.eye(40)
    assert kernels.precision_report(lifted, "float32", lower=lifted + noise).noise_ratio == pytest.approx(0.1, rel=1e-6)


def test_without_a_lower_matrix_the_noise_is_a_lower_bound_from_rounding(rng):
    matrix = with_spectrum(np.geomspace(1, 0.1, 40), rng)
    for dtype, unit in (("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        report = kernels.precision_report(matrix, dtype)
        assert report.evidence("noise_norm").side == "lower"
        assert 0.02 * unit < report.noise_std < unit


def test_the_critical_size_solves_its_equation(rng):
    n = 300
    matrix = with_spectrum(n * np.arange(1, n + 1.0) ** -1.5, rng)
    noise = 1e-4 * rng.normal(size=(n, n))
    report = kernels.precision_report(matrix, "float32", lower=matrix + (noise + noise.T) / 2)
    c, a, m = report.spectrum.tail_constant, report.spectrum.tail_exponent, report.critical_size
    assert c * m ** (1 - a) == pytest.approx(2 * report.noise_std * m**0.5, rel=1e-9)


def test_bad_matrices_are_refused():
    with pytest.raises(ShapeError, match="square"):
        kernels.spectrum(np.ones((2, 3)))
    with pytest.raises(ValueError, match="not symmetric"):
        kernels.spectrum(np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ShapeError, match="same matrix"):
        kernels.precision_report(np.eye(3), lower=np.eye(2))
    with pytest.raises(ValueError, match="float32"):
        kernels.precision_report(np.eye(3), "float8")


def test_float32_kernels_of_a_real_network_are_noisier_than_rounding_alone(rng):
    x = rng.normal(size=(60, 10))
    net = arch.fc(depth=3, width=8, n_out=1, activation=arch.Relu(), w_std=2**0.5)
    exact, low = kernels.gram(net, x), kernels.gram(net, x, dtype="float32")
    measured = kernels.precision_report(exact, lower=low).noise_std
    assert kernels.precision_report(exact).noise_std < measured < 1e-5 * np.abs(exact).max()
