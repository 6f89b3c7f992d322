"""What goes wrong with Taylor models on representations, each on the smallest example that shows it."""

import numpy as np
import pytest

from widescape import features
from widescape.features import LowRankPolynomial, solve_convex_quadratic, zonal_harmonic


def sphere_rule(degree):
    """Points of the sphere of radius sqrt(3) and weights with which polynomials up to a degree are averaged exactly."""
    z, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    angles = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    flat = (1 - z**2) ** 0.5
    x = np.stack([np.outer(flat, np.cos(angles)), np.outer(flat, np.sin(angles)), np.outer(z, np.ones(degree + 1))])
    return 3**0.5 * x.reshape(3, -1).T, np.repeat(w, degree + 1) / (2 * (degree + 1))


@pytest.mark.claim("chen2020hierarchical/P12")
def test_with_constant_curvature_on_raw_inputs_targets_of_degree_four_have_no_correlation_with_any_model(rng, measured):
    """E P_4(beta . x) x x^T vanishes, which is the product of the target with every model h^T M h."""
    x, w = sphere_rule(8)
    assert w @ x[:, 0] ** 8 == pytest.approx(3**4 / 9, rel=1e-12)
    beta = np.array([2.0, -1.0, 2.0]) / 3
    target = zonal_harmonic(3, 4)(x @ beta)
    size = float(w @ target**2) ** 0.5
    assert size == pytest.approx(zonal_harmonic(3, 4).std, rel=1e-12)
    np.testing.assert_allclose(np.einsum("i,i,ij,ik->jk", w, target, x, x), 0, atol=1e-13 * size)
    W0, a = rng.normal(size=(6, 3)), np.repeat([1.0, -1.0], 3)
    best = {"square": 0.0, "relu3": 0.0}
    for W in rng.normal(size=(20, 6, 3)):
        for activation, before in best.items():
            f = features.quadratic_outputs(x, W, W0, a, activation=activation)
            correlation = abs(w @ (f * target)) / (size * (w @ f**2) ** 0.5)
            best[activation] = max(before, float(correlation))
    assert best["square"] < 1e-13
    assert best["relu3"] > 0.02
    measured(f"correlations up to {best['square']:.0e}; with max(t, 0)^3/6 up to {best['relu3']:.2f}")


@pytest.mark.claim("chen2020hierarchical/P13")
def test_whitening_by_as_many_labeled_rows_as_directions_destroys_generalization(measured):
    """The whitened rows are orthonormal up to a factor, so that to a kernel no two of them have anything in common."""
    k, regs = 105, 10.0 ** np.arange(-4, 3)  # products x_i x_j in 14 dimensions span 105 directions
    problem = LowRankPolynomial(14, 2, kind="harmonic")
    best: dict[str, list[float]] = {"labeled": [], "unlabeled": []}
    for seed in range(5):
        x, y = problem.sample(k, seed=seed)
        test, answers = problem.sample(1000, seed=seed, part="test")
        for name, rows in (("labeled", x), ("unlabeled", problem.unlabeled(20 * k, seed=seed))):
            represent = features.neural_representation(rows, k, activation="square", rank_tol=1e-12, seed=seed)
            h, new = represent(x), represent(test)
            gram = h @ h.T / k
            assert (np.abs(gram - np.eye(k)).max() < 1e-9) == (name == "labeled")
            outputs = [new @ h.T / k @ np.linalg.solve(gram + reg * np.eye(k), y) for reg in regs]
            best[name].append(min(np.mean((f - answers) ** 2) / np.mean(answers**2) for f in outputs))
    labeled, unlabeled = np.median(best["labeled"]), np.median(best["unlabeled"])
    assert labeled > 0.95
    assert unlabeled < 0.5
    measured(f"relative errors of ridge regression at its best: {labeled:.2f}, and {unlabeled:.2f} by unlabeled rows")


@pytest.mark.claim("chen2020hierarchical/P14")
def test_the_huber_loss_finds_a_form_that_a_heavy_tail_hides_from_the_squared_one(measured):
    """Student's noise with 1.5 degrees of freedom, whose variance is infinite; each loss with its best regularizer."""
    truth = np.diag([1.0, -1.0, 0.0, 0.0])
    misses: dict[str, list[float]] = {"squared": [], "huber": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        H = rng.normal(size=(200, 4))
        y = np.einsum("ij,jk,ik->i", H, truth, H) + rng.standard_t(1.5, size=200)
        for loss, found in misses.items():
            forms = [solve_convex_quadratic(H, y, lam=lam, loss=loss, tol=1e-6).M for lam in (1e-3, 1e-2, 1e-1)]
            found.append(min(float(np.linalg.norm(M - truth)) for M in forms))
    squared, huber = np.array(misses["squared"]), np.array(misses["huber"])
    assert (huber < squared).all()
    assert np.median(huber) < 0.6 * np.median(squared)
    measured(f"median distance {np.median(huber):.2f} against {np.median(squared):.2f}")


@pytest.mark.claim("chen2020hierarchical/P15")
def test_linear_taylor_models_are_solved_in_float64_whatever_the_precision_of_the_inputs(rng, measured):
    """Rows that nearly repeat: the kernel with a regularizer of 1e-9 has a Cholesky factor in float64 alone."""
    H = np.repeat(rng.normal(size=(100, 4)), 2, axis=0) + 1e-3 * rng.normal(size=(200, 4))
    H, y = H.astype(np.float32), np.sin(H[:, 0]).astype(np.float32)
    W0, a = features.taylor_weights(100, 4, seed=0)
    settings = {"reg": 1e-9, "solver": "dual"}
    single = features.fit_linear_taylor(H, y, W0.astype(np.float32), a.astype(np.float32), **settings)
    wide = (part.astype(np.float32).astype(np.float64) for part in (H, y, W0, a))
    double = features.fit_linear_taylor(*wide, **settings)
    assert single.W.dtype == np.float64
    np.testing.assert_array_equal(single.W, double.W)
    K = features.linear_taylor_kernel(H, H, W0, "relu")
    assert K.dtype == np.float64
    ridged = K + 1e-9 * np.trace(K) / 200 * np.eye(200)
    np.linalg.cholesky(ridged)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(ridged.astype(np.float32))
    measured("the same weights bit for bit")
