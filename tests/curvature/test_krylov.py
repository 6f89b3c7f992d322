"""Lanczos recursions and extreme eigenvalues: against dense algebra, closed forms and ARPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature.krylov import LanczosStatus, TopEigs, TopEigsStatus, Tridiagonal, lanczos, top_eigs


def symmetric(rng, n, eigenvalues=None):
    """A dense symmetric matrix with given eigenvalues in a random basis."""
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = rng.normal(size=n) if eigenvalues is None else np.asarray(eigenvalues, float)
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def product_with(matrix):
    return lambda v: matrix @ v


def tridiagonal(run):
    return np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)


# The recursion.


def test_the_projected_operator_is_tridiagonal_and_the_recursion_closes(rng):
    H, v = symmetric(rng, 60), rng.normal(size=60)
    run = lanczos(product_with(H), 60, 12, start=v)
    V = run.vectors
    assert run.status is LanczosStatus.OK
    assert run.steps == 12
    np.testing.assert_allclose(V[0], v / np.linalg.norm(v), atol=1e-15)
    np.testing.assert_allclose(V @ H @ V.T, tridiagonal(run), atol=1e-13)
    left = H @ V.T - V.T @ tridiagonal(run)
    np.testing.assert_allclose(left[:, :-1], 0, atol=1e-13)
    assert np.linalg.norm(left[:, -1]) == pytest.approx(run.beta[-1], rel=1e-12)


def test_the_vectors_span_the_powers_of_the_operator(rng):
    H, v = symmetric(rng, 30), rng.normal(size=30)
    V = lanczos(product_with(H), 30, 4, start=v).vectors
    powers = np.stack([np.linalg.matrix_power(H, q) @ v for q in range(4)])
    np.testing.assert_allclose(powers, powers @ V.T @ V, atol=1e-11)


def test_the_vectors_are_orthonormal_among_clusters_of_eigenvalues(rng):
    values = np.concatenate([1 + 1e-9 * np.arange(100), 5 + 1e-7 * np.arange(60), 1e-3 * rng.uniform(size=40), [1e4]])
    run = lanczos(product_with(symmetric(rng, 201, values)), 201, 60, restart=True)
    np.testing.assert_allclose(run.vectors @ run.vectors.T, np.eye(60), atol=1e-12)


def test_outliers_have_no_ghost_copies():
    d = np.concatenate([np.linspace(0, 1, 498), [50.0, 100.0]])
    run = lanczos(lambda v: d * v, 500, 120)
    assert np.sum(run.ritz > 10) == 2
    np.testing.assert_allclose(run.ritz[-2:], [50, 100], rtol=1e-13)


def test_all_steps_give_all_eigenvalues(rng):
    H = symmetric(rng, 40)
    np.testing.assert_allclose(lanczos(product_with(H), 40, 40).ritz, np.linalg.eigvalsh(H), atol=1e-12)


@pytest.mark.parametrize("q", range(12))
def test_weights_and_nodes_integrate_powers_up_to_2k_minus_1(rng, q):
    H, v = symmetric(rng, 25), rng.normal(size=25)
    v /= np.linalg.norm(v)
    run = lanczos(product_with(H), 25, 6, start=v)
    np.testing.assert_allclose(run.weights @ run.ritz**q, v @ np.linalg.matrix_power(H, q) @ v, rtol=1e-10, atol=1e-10)


def test_residuals_are_those_of_the_ritz_vectors(rng):
    H = symmetric(rng, 50)
    run = lanczos(product_with(H), 50, 15)
    vectors = run.vectors.T @ run.eigh()[1]
    np.testing.assert_allclose(np.linalg.norm(H @ vectors - vectors * run.ritz, axis=0), run.resid, atol=1e-13)


def test_three_distinct_eigenvalues_end_the_recursion_after_three_steps(rng):
    d, v = np.repeat([-2.0, 1.0, 4.0], [20, 25, 5]), rng.normal(size=50)
    run = lanczos(lambda u: d * u, 50, 10, start=v)
    assert run.status is LanczosStatus.INVARIANT
    assert run.steps == len(run.alpha) == len(run.beta) == len(run.vectors) == 3
    np.testing.assert_allclose(run.ritz, [-2, 1, 4], rtol=1e-13)
    tenth = np.sum(d**10 * v**2) / (v @ v)
    assert run.weights @ run.ritz**10 == pytest.approx(tenth, rel=1e-11)


def test_restarts_find_eigenvalues_as_often_as_they_occur():
    d = np.array([1.0, 1.0, 1.0, 2.0, 2.0])
    run = lanczos(lambda v: d * v, 5, 5, restart=True)
    assert run.status is LanczosStatus.INVARIANT
    assert np.sum(run.beta == 0) == 3  # after 2, 4 and 5 steps
    np.testing.assert_allclose(run.ritz, d, rtol=1e-14)


def test_the_zero_operator_ends_at_once():
    run = lanczos(np.zeros_like, 7, 4)
    assert (run.steps, run.ritz.tolist(), run.weights.tolist()) == (1, [0.0], [1.0])
    again = lanczos(np.zeros_like, 7, 4, restart=True)
    assert (again.steps, again.ritz.tolist()) == (4, [0.0] * 4)


def test_one_dimension():
    run = lanczos(lambda v: -3 * v, 1, 1)
    assert (run.status, run.ritz.tolist(), run.weights.tolist()) == (LanczosStatus.OK, [-3.0], [1.0])


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e200])
def test_ritz_values_scale_with_the_operator_and_weights_do_not(rng, scale):
    H, v = symmetric(rng, 40), rng.normal(size=40)
    plain = lanczos(product_with(H), 40, 10, start=v)
    scaled = lanczos(product_with(scale * H), 40, 10, start=scale * v)
    np.testing.assert_allclose(scaled.ritz / scale, plain.ritz, rtol=1e-12)
    np.testing.assert_allclose(scaled.weights, plain.weights, rtol=1e-11)


def test_a_key_decides_the_start():
    runs = [lanczos(lambda v: np.arange(9.0) * v, 9, 4, key=jax.random.key(seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert lanczos(lambda v: v, 9, 1) == lanczos(lambda v: v, 9, 1, key=jax.random.key(0))


@pytest.mark.parametrize("dim", [6, 60])
def test_an_operator_may_overwrite_its_argument_and_reuse_its_memory(dim):
    d, memory = np.arange(1.0, dim + 1), np.empty(dim)

    def careless(v):
        np.multiply(d, v, out=memory)
        v *= np.nan
        return memory

    np.testing.assert_allclose(lanczos(careless, dim, dim).ritz, d, rtol=1e-12)
    found = top_eigs(careless, dim, 2)
    assert found.status is TopEigsStatus.OK
    np.testing.assert_allclose(found.eigs, [dim, dim - 1], rtol=1e-12)


def test_operators_of_jax_are_taken_as_they_are(rng):
    H = symmetric(rng, 20)
    with jax.enable_x64(True):
        matrix = jnp.asarray(H)

        def mv(v):
            with jax.enable_x64(True):
                return matrix @ jnp.asarray(v)

    np.testing.assert_allclose(lanczos(mv, 20, 20).ritz, np.linalg.eigvalsh(H), atol=1e-13)


def test_a_recursion_prints_and_loads_bit_for_bit(tmp_path):
    run = lanczos(lambda v: np.arange(9.0) * v, 9, 4)
    assert Tridiagonal.load(run.save(tmp_path / "run.zip")) == run
    assert len(str(run).splitlines()) < 20


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"k": 5}, ValueError, "`k` is 5, but the operator has dimension 4; choose 1 <= k <= 4"),
        ({"k": 0}, ValueError, "at least 1"),
        ({"k": 2.0}, TypeError, "integer"),
        ({"dim": 0}, ValueError, "`dim` is 0"),
        ({"mv": np.eye(4)}, TypeError, "must be a function"),
        ({"mv": lambda v: v[:3]}, ShapeError, r"returned shape \(3,\) for a vector of length 4"),
        ({"mv": lambda v: v[:, None]}, ShapeError, r"returned shape \(4, 1\)"),
        ({"mv": lambda v: v * np.nan}, NonFiniteError, "NaN or infinite"),
        ({"mv": lambda v: v * 1j}, DtypeError, "complex"),
        ({"start": np.ones(3)}, ShapeError, r"`start` has shape \(3,\)"),
        ({"start": np.zeros(4)}, ValueError, "`start` is zero"),
        ({"start": np.array([1, np.inf, 0, 0])}, ValueError, "`start` has 1 entries"),
        ({"mv": lambda v: np.roll(v, 1) - v[0]}, ValueError, "not symmetric"),
    ],
)
def test_the_recursion_refuses(arguments, error, words):
    given = {"mv": lambda v: v, "dim": 4, "k": 3} | arguments
    with pytest.raises(error, match=words):
        lanczos(**given)


# Extreme eigenvalues.


def sought(values, which):
    return np.array(sorted(values, key={"LA": lambda x: -x, "SA": lambda x: x, "LM": lambda x: -abs(x)}[which]))


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 6), (40, 1), (40, 10), (90, 1), (90, 4), (300, 7)])
def test_extreme_eigenpairs_are_those_of_the_dense_matrix(rng, n, k, which):
    H = symmetric(rng, n)
    found = top_eigs(product_with(H), n, k, which=which)
    assert found.status is TopEigsStatus.OK
    np.testing.assert_allclose(found.eigs, sought(np.linalg.eigvalsh(H), which)[:k], rtol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e-13)
    residuals = np.linalg.norm(H @ found.vectors.T - found.vectors.T * found.eigs, axis=0)
    np.testing.assert_allclose(found.resid, residuals, atol=1e-13 * np.abs(found.eigs).max())


@pytest.mark.parametrize("n", [20, 200])
def test_a_large_negative_eigenvalue_is_largest_in_magnitude_only(n):
    d = np.concatenate([[-9.0], np.linspace(0, 2, n - 1)])
    eigs = {which: top_eigs(lambda v: d * v, n, 2, which=which).eigs for which in ("LA", "SA", "LM")}
    np.testing.assert_allclose(eigs["LA"], d[:-3:-1], rtol=1e-13)
    np.testing.assert_allclose(eigs["SA"], [-9, 0], atol=1e-13)
    np.testing.assert_allclose(eigs["LM"], [-9, 2], rtol=1e-13)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_arpack_finds_the_same(rng, which):
    H = symmetric(rng, 250)
    operator = LinearOperator(H.shape, matvec=product_with(H), dtype=float)
    theirs = eigsh(operator, 5, which=which, v0=np.ones(250), return_eigenvectors=False)
    np.testing.assert_allclose(top_eigs(product_with(H), 250, 5, which=which).eigs, sought(theirs, which), rtol=1e-11)


@pytest.mark.parametrize("copies", [2, 3, 6])
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(rng, copies):
    d = rng.uniform(0, 1, 300)
    d[:copies], d[copies] = 1.5, 2.0
    found = top_eigs(lambda v: d * v, 300, copies + 1)
    np.testing.assert_allclose(found.eigs, [2.0] + [1.5] * copies, rtol=1e-12)


def test_the_null_space_is_the_bottom_of_a_semidefinite_operator(rng):
    d = rng.uniform(0, 1, 400)
    d[:40] = 0
    found = top_eigs(lambda v: d * v, 400, 3, which="SA")  # ARPACK misses it: it moves its start into the range
    assert found.status is TopEigsStatus.OK
    np.testing.assert_allclose(found.eigs, 0, atol=1e-14)


def test_a_rank_deficient_operator_ends_in_zeros(rng):
    H = symmetric(rng, 100, [5.0, 3.0] + [0.0] * 98)
    found = top_eigs(product_with(H), 100, 4, which="LM")
    np.testing.assert_allclose(found.eigs, [5, 3, 0, 0], atol=1e-13)


def test_the_zero_operator_has_zero_eigenvalues():
    for dim in (5, 100):
        found = top_eigs(np.zeros_like, dim, 3)
        assert found.status is TopEigsStatus.OK
        assert found.eigs.tolist() == found.resid.tolist() == [0.0] * 3


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e200])
@pytest.mark.parametrize("n", [10, 200])
def test_extreme_eigenvalues_scale_with_the_operator(rng, scale, n):
    H = symmetric(rng, n)
    plain, scaled = (top_eigs(product_with(s * H), n, 3) for s in (1.0, scale))
    assert scaled.status is TopEigsStatus.OK
    np.testing.assert_allclose(scaled.eigs / scale, plain.eigs, rtol=1e-12)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_ritz_values_stay_inside_and_an_eigenvalue_is_within_each_residual(rng, which):
    d = sought(rng.normal(size=300), which)
    found = top_eigs(lambda v: d * v, 300, 4, which=which, max_steps=15)
    assert found.status is TopEigsStatus.NOT_CONVERGED
    assert found.num_products == 19
    assert (found.resid > 1e-6).all()
    inside = {"LA": d[:4] - found.eigs, "SA": found.eigs - d[:4], "LM": np.abs(d[:4]) - np.abs(found.eigs)}[which]
    assert (inside > 0).all()
    assert (np.abs(d[:, None] - found.eigs[None]).min(axis=0) <= found.resid).all()


def test_evidence_names_the_side_of_each_end(rng):
    d = rng.normal(size=100)
    kinds = {which: str(top_eigs(lambda v: d * v, 100, which=which).evidence("eigs")) for which in ("LA", "SA", "LM")}
    assert kinds == {"LA": "lower bound", "SA": "upper bound", "LM": "proved"}
    assert str(top_eigs(lambda v: d[:5] * v, 5).evidence("eigs")) == "exact"


def test_a_start_orthogonal_to_the_top_does_not_hide_it(rng):
    d = np.sort(rng.uniform(0, 1, 300))
    for seen in (slice(-2, -1), slice(0, 150)):  # an eigenvector, and a sum of many
        start = np.zeros(300)
        start[seen] = 1.0
        assert top_eigs(lambda v: d * v, 300, start=start).eigs[0] == pytest.approx(d[-1], rel=1e-12)


def test_a_start_near_the_answer_saves_products(rng):
    d = np.sort(rng.uniform(0, 1, 2000))
    d[-1] += 0.01
    cold = top_eigs(lambda v: d * v, 2000)
    warm = top_eigs(lambda v: d * v, 2000, start=cold.vectors[0])
    assert warm.num_products < cold.num_products
    assert warm.eigs[0] == pytest.approx(d[-1], rel=1e-12)


def test_single_precision_is_told_from_failure_to_converge(rng):
    H = symmetric(rng, 100).astype(np.float32)
    mv = lambda v: H @ v.astype(np.float32)  # noqa: E731
    assert top_eigs(mv, 100).status is TopEigsStatus.INEXACT
    assert top_eigs(mv, 100, tol=1e-5).status is TopEigsStatus.OK


def test_an_asymmetric_operator_is_refused_or_flagged(rng):
    A = rng.normal(size=(100, 100))
    with pytest.raises(ValueError, match="not symmetric"):
        top_eigs(product_with(A[:10, :10]), 10)
    assert not top_eigs(product_with(A), 100, max_steps=300).status.ok


def test_a_key_decides_all_and_vectors_can_be_left_out():
    d = np.sqrt(np.arange(80.0))
    found = [top_eigs(lambda v: d * v, 80, 2, key=jax.random.key(seed)) for seed in (3, 3, 4)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert top_eigs(lambda v: d * v, 80, vectors=False).vectors is None


def test_extreme_eigenvalues_print_and_load_bit_for_bit(tmp_path):
    found = top_eigs(lambda v: np.arange(80.0) * v, 80, 2)
    assert TopEigs.load(found.save(tmp_path / "found.zip")) == found
    assert "lower bound" in str(found)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"k": 51}, ValueError, "`k` is 51, but the operator has dimension 50"),
        ({"which": "BE"}, ValueError, "`which` is 'BE'"),
        ({"tol": 0.0}, ValueError, "`tol` is 0.0"),
        ({"max_steps": 1, "k": 2}, ValueError, "`max_steps` is 1; it must be at least 2"),
        ({"start": np.ones((1, 50))}, ShapeError, r"`start` has shape \(1, 50\)"),
        ({"mv": lambda v: v / 0.0}, NonFiniteError, "NaN or infinite"),
    ],
)
def test_the_search_refuses(arguments, error, words):
    given = {"mv": lambda v: v, "dim": 50, "k": 1} | arguments
    with pytest.raises(error, match=words), np.errstate(all="ignore"):
        top_eigs(**given)
