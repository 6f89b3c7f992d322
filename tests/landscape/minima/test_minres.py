"""The minimum-length solver against pseudo-inverses, and each way in which it stops."""

import numpy as np
import pytest
from scipy.sparse import linalg as sparse

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.landscape.minima.minres import MinresStatus, minres_qlp

SIZES = [(1, 1), (5, 5), (5, 3), (12, 7), (40, 40), (40, 20), (100, 60)]


def symmetric(rng, dim, rank):
    """A matrix of the given rank with eigenvalues of both signs between 0.5 and 3 in size."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    eigenvalues = np.zeros(dim)
    eigenvalues[:rank] = rng.choice([-1, 1], rank) * rng.uniform(0.5, 3, rank)
    return (basis * eigenvalues) @ basis.T


def by(matrix):
    return lambda v: matrix @ v


@pytest.mark.parametrize(("dim", "rank"), SIZES)
@pytest.mark.parametrize("consistent", [True, False])
def test_the_solution_is_the_pseudo_inverse_of_a_singular_indefinite_matrix_times_the_right_side(
    rng, dim, rank, consistent
):
    matrix, b = symmetric(rng, dim, rank), rng.normal(size=dim)
    b = matrix @ b if consistent else b
    expected = np.linalg.pinv(matrix, rcond=1e-10) @ b
    found = minres_qlp(by(matrix), b, rtol=1e-9, maxit=2 * dim)
    assert np.linalg.norm(found.x - expected) <= 1e-6 * np.linalg.norm(expected)
    if consistent or rank == dim:
        assert found.status == "ok"
    else:  # of a singular matrix either is a way to find out
        assert found.status in (MinresStatus.LEAST_SQUARES, MinresStatus.ILL_CONDITIONED)


def test_it_agrees_with_scipy_on_consistent_systems(rng):
    for dim, rank in SIZES[1:]:
        matrix = symmetric(rng, dim, rank)
        b = matrix @ rng.normal(size=dim)
        expected, failed = sparse.minres(matrix, b, rtol=1e-12)
        assert not failed
        np.testing.assert_allclose(minres_qlp(by(matrix), b, rtol=1e-11).x, expected, atol=1e-7)


def test_with_the_default_tolerance_least_squares_solutions_are_as_good_and_as_short_as_it_says(rng):
    for _ in range(200):
        dim = int(rng.integers(3, 50))
        rank = int(rng.integers(1, dim))
        basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        eigenvalues = np.zeros(dim)
        eigenvalues[:rank] = rng.choice([-1, 1], rank) * 10 ** rng.uniform(-2, 0, rank)
        matrix = (basis * eigenvalues) @ basis.T
        found = minres_qlp(by(matrix), rng.normal(size=dim), maxit=5 * dim)
        if found.status == "least_squares":
            assert found.normal_residual <= 5e-4 * np.linalg.norm(matrix, 2) * found.residual
            assert np.linalg.norm(basis[:, rank:].T @ found.x) <= 1e-3 * np.linalg.norm(found.x)
        else:
            assert found.status.ok
            assert found.residual <= 5e-4 * (np.linalg.norm(matrix, 2) * np.linalg.norm(found.x) + 2 * dim**0.5)


def test_with_the_default_tolerance_consistent_systems_are_solved_in_fewer_steps_than_dimensions(rng):
    for dim, rank in SIZES[3:]:
        matrix = symmetric(rng, dim, rank)
        b = matrix @ rng.normal(size=dim)
        found = minres_qlp(by(matrix), b)
        size = np.linalg.norm(matrix, 2)
        assert found.status == "ok"
        assert found.residual <= 5e-4 * (size * np.linalg.norm(found.x) + np.linalg.norm(b)) * (1 + 1e-9)
        assert found.num_steps < dim


def test_residuals_are_measured_and_the_norm_is_a_lower_bound(rng):
    matrix, b = symmetric(rng, 30, 12), rng.normal(size=30)
    found = minres_qlp(by(matrix), b)
    left = b - matrix @ found.x
    np.testing.assert_allclose(found.residual, np.linalg.norm(left), rtol=1e-12)
    np.testing.assert_allclose(found.normal_residual, np.linalg.norm(matrix @ left), rtol=1e-12)
    assert 0.5 * np.linalg.norm(matrix, 2) < found.norm <= (1 + 1e-12) * np.linalg.norm(matrix, 2)


def test_of_all_least_squares_solutions_it_is_the_shortest(rng):
    matrix, b = symmetric(rng, 20, 11), rng.normal(size=20)
    found = minres_qlp(by(matrix), b, rtol=1e-12)
    values, vectors = np.linalg.eigh(matrix)
    kernel = vectors[:, np.abs(values) < 1e-10]
    assert np.linalg.norm(kernel.T @ found.x) < 1e-8 * np.linalg.norm(found.x)


def test_a_zero_right_side_and_one_in_the_kernel_have_the_solution_zero():
    matrix = np.diag([3.0, -1.0, 0.0])
    for b, status in ((np.zeros(3), "ok"), (np.array([0.0, 0.0, 2.0]), "least_squares")):
        found = minres_qlp(by(matrix), b)
        assert not found.x.any()
        assert found.status == status
        assert found.residual == np.linalg.norm(b)


def test_an_eigenvector_is_solved_in_one_step():
    found = minres_qlp(by(np.diag([3.0, -2.0, 0.0])), np.array([0.0, 4.0, 0.0]))
    np.testing.assert_allclose(found.x, [0.0, -2.0, 0.0], atol=1e-15)
    assert found.num_steps == 1


def test_a_condition_above_the_limit_leaves_the_last_direction_out():
    eigenvalues, b = np.array([1.0, 2.0, -3.0, 1e-5]), np.array([1.0, 1.0, 1.0, 1e-3])
    whole = minres_qlp(by(np.diag(eigenvalues)), b, rtol=1e-12, maxxnorm=1e9)
    np.testing.assert_allclose(whole.x, b / eigenvalues, rtol=1e-6)
    cut = minres_qlp(by(np.diag(eigenvalues)), b, rtol=1e-12, maxxnorm=1e9, acondlim=1e4)
    assert cut.status == "ill_conditioned"
    assert not cut.status.ok
    np.testing.assert_allclose(cut.x[:3], (b / eigenvalues)[:3], rtol=1e-2)
    assert abs(cut.x[3]) < 1.0  # 100 in the whole solution


def test_a_solution_above_the_longest_length_is_not_returned():
    eigenvalues, b = np.array([1.0, 2.0, -3.0, 1e-5]), np.array([1.0, 1.0, 1.0, 1.0])
    found = minres_qlp(by(np.diag(eigenvalues)), b, rtol=1e-12)
    assert found.status is MinresStatus.LONG
    assert np.linalg.norm(found.x) <= 1e4
    assert np.linalg.norm(b / eigenvalues) > 1e4


def test_the_steps_run_out(rng):
    matrix = symmetric(rng, 40, 40)
    found = minres_qlp(by(matrix), rng.normal(size=40), rtol=1e-12, maxit=5)
    assert found.status == "limit"
    assert found.num_steps == 5
    assert found.residual > 0.01


def test_scales_of_matrix_and_right_side_do_not_matter(rng):
    matrix, b = symmetric(rng, 12, 7), rng.normal(size=12)
    one = minres_qlp(by(matrix), b)
    for factor in (1e-150, 1e150):
        other = minres_qlp(by(factor * matrix), factor * b)
        np.testing.assert_allclose(other.x, one.x, rtol=1e-9)
        assert other.status is one.status


def test_what_does_not_fit_is_refused():
    identity = by(np.eye(2))
    for b, error in ((np.ones((2, 1)), ShapeError), (np.zeros(0), ShapeError), (np.arange(2), DtypeError)):
        with pytest.raises(error, match="`b`"):
            minres_qlp(identity, b)
    with pytest.raises(ValueError, match="`b` has 1 entries that are NaN"):
        minres_qlp(identity, np.array([1.0, np.nan]))
    for name in ("rtol", "acondlim", "maxxnorm"):
        with pytest.raises(ValueError, match=name):
            minres_qlp(identity, np.ones(2), **{name: 0.0})
    with pytest.raises(ValueError, match="maxit"):
        minres_qlp(identity, np.ones(2), maxit=0)
    with pytest.raises(TypeError, match="`mv`"):
        minres_qlp(np.eye(2), np.ones(2))
    with pytest.raises(ShapeError, match="returned shape"):
        minres_qlp(lambda v: v[:1], np.ones(2))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        minres_qlp(lambda v: v * np.inf, np.ones(2))
