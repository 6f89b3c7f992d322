"""The quadratic Taylor model with constant phi'': its convex problem, its factors, and the landscape of the factors."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from widescape.core.errors import DtypeError, ShapeError
from widescape.features import (
    ConvexQuadratic,
    balanced_rows,
    fit_quadratic_taylor,
    quadratic_form,
    quadratic_outputs,
    solve_convex_quadratic,
)
from widescape.features.convex_quadratic import SpectralPenalty
from widescape.features.output_losses import loss_of

LAM = 0.02
TIGHT = {"activation": "square", "dtype": "float64", "max_iter": 5000}


@pytest.fixture(scope="module")
def toy():
    """n = 60, D = 6, m = 24: y = (u.h)^2 - (v.h)^2 / 2 and noise of 0.1."""
    rng = np.random.default_rng(7)
    H = rng.normal(size=(60, 6))
    u, v = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    y = (H @ u) ** 2 - (H @ v) ** 2 / 2 + 0.1 * rng.normal(size=60)
    return H, y, rng.normal(size=(24, 6)), np.repeat([1.0, -1.0], 12)


@pytest.fixture(scope="module")
def toy_fits(toy):
    """From several seeds, to a gradient of 1e-8."""
    return [fit_quadratic_taylor(*toy, lam=LAM, **TIGHT, tol=1e-8, seed=s, certify=True) for s in range(4)]


@pytest.mark.claim("chen2020hierarchical/I7")
@pytest.mark.claim("chen2020hierarchical/L1")
def test_every_second_order_point_of_the_toy_problem_is_the_convex_optimum(toy, toy_fits, measured):
    H, y, W0, a = toy
    convex = fit_quadratic_taylor(H, y, W0, a, lam=LAM, **TIGHT, solver="convex", tol=1e-10)
    assert convex.status == "ok"
    assert 0 <= convex.gap <= 1e-10 * convex.objective
    for fit in toy_fits:
        assert fit.status == "ok"
        assert fit.certificate.grad_norm <= 1e-8
        assert fit.certificate.min_hess_eig >= -1e-6
        assert fit.objective == pytest.approx(toy_fits[0].objective, rel=1e-8)
        assert fit.objective == pytest.approx(convex.objective, rel=1e-6)
        assert fit.objective >= convex.objective - convex.gap - 1e-15
    away = max(abs(fit.objective / convex.objective - 1) for fit in toy_fits)
    measured(f"objectives from four seeds within {away:.1g} of the convex optimum, relative")


@pytest.mark.claim("chen2020hierarchical/I4")
def test_rows_of_one_sign_are_equally_long_at_the_optimum_and_the_regularizer_is_that_of_traces(toy, toy_fits):
    _, _, _, a = toy
    for fit in toy_fits:
        for sign in (1, -1):
            lengths = np.linalg.norm(fit.W[a == sign], axis=1)
            assert lengths.std() / lengths.mean() < 1e-3
        eigenvalues = np.linalg.eigvalsh(quadratic_form(fit.W, a))
        plus, minus = eigenvalues[eigenvalues > 0].sum(), -eigenvalues[eigenvalues < 0].sum()
        assert LAM * np.sum(fit.W**2, axis=1) @ np.sum(fit.W**2, axis=1) == pytest.approx(
            8 * LAM * (plus**2 + minus**2), rel=1e-5
        )


@pytest.mark.claim("chen2020hierarchical/R1")
def test_with_the_nuclear_regularizer_the_optimum_pays_twice_the_nuclear_norm(toy):
    H, y, _, a = toy
    fit = fit_quadratic_taylor(*toy, lam=LAM, reg="nuclear", **TIGHT, tol=1e-8)
    solved = solve_convex_quadratic(H, y, lam=LAM, reg="nuclear", tol=1e-10)
    assert fit.status == "ok"
    assert solved.status == "ok"
    assert fit.objective == pytest.approx(solved.objective, rel=1e-8)
    nuclear = np.abs(np.linalg.eigvalsh(quadratic_form(fit.W, a))).sum()
    assert LAM / 24**0.5 * np.sum(fit.W**2) == pytest.approx(2 * LAM * nuclear, rel=1e-8)
    assert solved.objective - solved.loss == pytest.approx(2 * LAM * (solved.T_plus + solved.T_minus), rel=1e-12)
    assert solved.T_plus + solved.T_minus == pytest.approx(np.abs(np.linalg.eigvalsh(solved.M)).sum(), rel=1e-12)


@pytest.mark.parametrize("reg", ["l24", "nuclear"])
@pytest.mark.parametrize("loss", ["huber", "logistic"])
def test_for_other_losses_the_gap_closes_at_the_optimum_of_the_factors(toy, loss, reg):
    H, y, W0, a = toy
    y = np.sign(y) if loss == "logistic" else 3 * y
    solved = solve_convex_quadratic(H, y, lam=LAM, loss=loss, reg=reg, tol=1e-9)
    assert solved.status == "ok"
    assert solved.lower <= solved.objective == pytest.approx(solved.lower + solved.gap, rel=1e-12)
    fit = fit_quadratic_taylor(H, y, W0, a, lam=LAM, loss=loss, reg=reg, **TIGHT, tol=1e-7)
    assert fit.status == "ok"
    assert fit.objective == pytest.approx(solved.objective, rel=1e-8)


def test_a_function_as_loss_ends_without_a_gap_at_the_same_point(toy):
    H, y, _, _ = toy
    named = solve_convex_quadratic(H, y, lam=LAM, tol=1e-10)
    own = solve_convex_quadratic(H, y, lam=LAM, loss=lambda p, t: (p - t) ** 2, tol=1e-10)
    assert own.status == "no_gap"
    assert own.gap is None
    assert own.objective == pytest.approx(named.objective, rel=1e-10)


def test_the_gap_certifies_a_solution_found_otherwise_and_exposes_a_wrong_one(toy, toy_fits):
    H, y, _, a = toy
    best = solve_convex_quadratic(H, y, lam=LAM, tol=1e-11)
    given = solve_convex_quadratic(H, y, lam=LAM, start=quadratic_form(toy_fits[0].W, a), max_iter=0, tol=1e-6)
    assert (given.status.name, given.iterations) == ("OK", 0)
    wrong = solve_convex_quadratic(H, y, lam=LAM, start=1.1 * best.M, max_iter=0)
    assert wrong.status == "out_of_steps"
    assert wrong.gap >= wrong.objective - best.objective > 1e-4
    assert wrong.lower <= best.objective


def test_with_restarts_the_gap_closes_at_a_linear_rate(toy):
    H, y, _, _ = toy
    eight, twelve = (solve_convex_quadratic(H, y, lam=1e-3, tol=tol) for tol in (1e-8, 1e-12))
    assert twelve.status == "ok"
    assert twelve.iterations < 500  # without restarts 1800
    assert twelve.iterations < 2 * eight.iterations


@pytest.mark.parametrize("reg", ["l24", "nuclear"])
def test_shrinking_eigenvalues_minimizes_the_proximal_objective(rng, reg):
    penalty = SpectralPenalty.of(reg, 0.2, 0.25)
    given = np.array([3.0, 1.0, 0.4, 0.05, -0.1, -0.7, -2.0])

    def objective(parts):
        plus, minus = parts[:7], parts[7:]
        return np.sum((plus - minus - given) ** 2) / 2 + 0.3 * (
            penalty.plus * plus.sum() ** 2 + penalty.minus * minus.sum() ** 2
            if reg == "l24"
            else penalty.plus * plus.sum() + penalty.minus * minus.sum()
        )

    found = penalty.shrunk(given, 0.3)
    own = objective(np.concatenate([np.maximum(found, 0), np.maximum(-found, 0)]))
    for _ in range(3):
        best = optimize.minimize(objective, rng.uniform(size=14), bounds=[(0, None)] * 14, options={"ftol": 1e-15})
        assert own == pytest.approx(best.fun, rel=1e-7)
        assert own <= best.fun + 1e-12
    assert own == pytest.approx(np.sum((found - given) ** 2) / 2 + 0.3 * penalty.value(found), rel=1e-14)


def test_the_dual_of_the_regularizer_is_its_least_together_with_a_linear_term(rng):
    S = rng.normal(size=(4, 4))
    S = (S + S.T) / 2
    values, vectors = np.linalg.eigh(S)
    (low, high), (v, w) = values[[0, -1]], vectors.T[[0, -1]]
    assert low < 0 < high
    penalty = SpectralPenalty.of("l24", 0.3, 0.5)
    assert penalty.plus == penalty.minus == pytest.approx(8 * 0.3)
    factor, least = penalty.dual(low, high)
    assert (factor, least) == (1.0, pytest.approx(-(low**2 + high**2) / (32 * 0.3)))

    def value(matrix):
        return np.vdot(S, matrix) + penalty.value(np.linalg.eigvalsh(matrix))

    attained = (-low * np.outer(v, v) - high * np.outer(w, w)) / (16 * 0.3)
    assert value(attained) == pytest.approx(least, rel=1e-12)
    for size in (0.03, 0.3, 1.0):
        for _ in range(50):
            other = rng.normal(size=(4, 4))
            assert min(value(size * (other + other.T)), value(attained + size * (other + other.T))) > least
    factor, least = SpectralPenalty.of("nuclear", 0.3, 0.5).dual(low, high)
    assert least == 0
    assert factor * max(-low, high) <= 0.6 * (1 + 1e-15)
    assert SpectralPenalty.of("nuclear", 1e3, 0.5).dual(low, high)[0] == 1


@pytest.mark.parametrize("name", ["squared", "huber", "logistic"])
def test_conjugates_are_suprema_over_outputs(name):
    loss = loss_of(name)
    outputs = np.linspace(-60, 60, 1_200_001)
    for y in (1.0, -1.0):
        for v in np.array([0.05, 0.3, 0.9]) * (-y if name == "logistic" else 1):
            supremum = np.max(v * outputs - np.asarray(loss.value(jnp.asarray(outputs), y), dtype=np.float64))
            assert loss.conjugate(np.array(v), np.array(y)) == pytest.approx(supremum, abs=2e-5)


@pytest.mark.parametrize(("plus", "minus", "ranks"), [(4, 4, (3, 2)), (3, 5, (3, 1)), (7, 2, (1, 0))])
def test_balanced_rows_have_the_form_and_equal_norms_for_each_sign(rng, plus, minus, ranks):
    a = rng.permutation(np.repeat([1.0, -1.0], [plus, minus]))
    m, basis = len(a), np.linalg.qr(rng.normal(size=(6, 6)))[0]
    values = np.zeros(6)
    values[: ranks[0]], values[6 - ranks[1] :] = rng.uniform(0.1, 3, ranks[0]), -rng.uniform(0.1, 3, ranks[1])
    M = (basis * values) @ basis.T
    W = balanced_rows(M, a)
    np.testing.assert_allclose(quadratic_form(W, a), M, atol=1e-13)
    fourth = 0.0
    for sign, count in ((1, plus), (-1, minus)):
        squares = np.sum(W[a == sign] ** 2, axis=1)
        trace = np.sum(np.maximum(sign * values, 0))
        np.testing.assert_allclose(squares, 2 * m**0.5 * trace / count, rtol=1e-12, atol=1e-15)
        fourth += 4 * m * trace**2 / count
    assert np.sum(np.sum(W**2, axis=1) ** 2) == pytest.approx(fourth, rel=1e-12)
    H = rng.normal(size=(5, 6))
    outputs = quadratic_outputs(H, W, rng.normal(size=(m, 6)), a, activation="square")
    np.testing.assert_allclose(outputs, np.einsum("ij,jk,ik->i", H, M, H), atol=1e-12)


def test_rows_of_thousands_of_neurons_are_balanced(rng):
    """Also where one long row feeds all, and where rows are equal already."""
    for values in (np.array([5.0, 0.0]), np.array([1e-6, 3.0]), np.ones(2)):
        W = balanced_rows(np.diag(values), np.ones(3000))
        squares = np.sum(W**2, axis=1)
        np.testing.assert_allclose(squares, squares.mean(), atol=1e-13 * squares.sum())
        np.testing.assert_allclose(quadratic_form(W, np.ones(3000)), np.diag(values), atol=1e-12)


@pytest.mark.parametrize("reg", ["l24", "nuclear"])
def test_the_solution_scales_with_the_representations_and_the_regularizer(toy, reg):
    H, y, _, _ = toy
    once = solve_convex_quadratic(H, y, lam=LAM, reg=reg, tol=1e-10)
    for s in (1e-28, 1e28):
        lam = LAM * s ** (4 if reg == "l24" else 2)
        scaled = solve_convex_quadratic(s * H, y, lam=lam, reg=reg, tol=1e-10)
        assert scaled.status == "ok"
        assert scaled.objective == pytest.approx(once.objective, rel=1e-9)
        np.testing.assert_allclose(scaled.M * s**2, once.M, atol=1e-4)


def test_another_constant_curvature_and_unequal_numbers_of_signs_reach_the_same_optimum(toy):
    H, y, W0, _ = toy
    a = np.repeat([1.0, -1.0], [7, 17])

    def cup(t):
        return t - 3 * t**2

    shared = {**TIGHT, "activation": cup}
    convex = fit_quadratic_taylor(H, y, W0, a, lam=LAM, **shared, solver="convex", tol=1e-10)
    fit = fit_quadratic_taylor(H, y, W0, a, lam=LAM, **shared, tol=1e-8)
    assert fit.status == "ok"
    assert fit.objective == pytest.approx(convex.objective, rel=1e-9)
    M = quadratic_form(fit.W, a, cup)
    np.testing.assert_allclose(M, quadratic_form(convex.W, a, cup), atol=1e-5)
    np.testing.assert_allclose(quadratic_form(balanced_rows(M, a, activation=cup), a, cup), M, atol=1e-13)


@pytest.mark.claim("chen2020hierarchical/P9")
def test_what_needs_a_constant_second_derivative_refuses_another(toy):
    H, y, W0, a = toy
    with pytest.raises(ValueError, match=r'solver="convex" needs an activation with constant second derivative'):
        fit_quadratic_taylor(H, y, W0, a, lam=LAM, activation="relu3", solver="convex")
    with pytest.raises(ValueError, match="quadratic_form needs an activation with constant"):
        quadratic_form(W0, a, "relu3")


def test_forms_of_too_high_a_rank_and_arguments_that_do_not_fit_are_refused(toy):
    H, y, W0, _ = toy
    with pytest.raises(ValueError, match=r"has 3 positive eigenvalues, but only 2 entries of `a` are \+1"):
        balanced_rows(np.eye(3), [1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match=r"`lam` is 0.0; the dual bound needs a positive number"):
        solve_convex_quadratic(H, y, lam=0)
    for sign in (1.0, -1.0):
        with pytest.raises(ValueError, match=rf"all entries of `a` are \{sign:+.0f}; .* needs both signs"):
            fit_quadratic_taylor(H, y, W0, sign * np.ones(24), lam=LAM, **TIGHT, solver="convex")
    with pytest.raises(ValueError, match=r"`positive_share` is 1.0; .* both signs"):
        solve_convex_quadratic(H, y, lam=LAM, positive_share=1.0)
    with pytest.raises(ShapeError, match=r"`start` has shape \(2, 2\)"):
        solve_convex_quadratic(H, y, lam=LAM, start=np.eye(2))
    with pytest.raises(DtypeError, match="`y` has dtype complex128"):
        solve_convex_quadratic(H, y * 1j, lam=LAM)
    for scale in (1e-100, 1e100, 0.0):
        with pytest.raises(ValueError, match="`H` is"):
            solve_convex_quadratic(scale * H, y, lam=LAM)
    short = solve_convex_quadratic(H, y, lam=1e-6, max_iter=3)
    assert (short.status.name, short.iterations) == ("OUT_OF_STEPS", 3)
    assert short.gap > 0


def test_the_solution_prints_saves_and_loads(toy, tmp_path):
    H, y, _, _ = toy
    solved = solve_convex_quadratic(H, y, lam=LAM)
    assert len(str(solved).splitlines()) < 20
    assert ConvexQuadratic.load(solved.save(tmp_path / "result")) == solved
