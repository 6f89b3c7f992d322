"""How flat the gradient is: closed forms at the quartic, a dense reference, and what an exact inverse hides."""

import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import NonDifferentiableWarning, NonFiniteError, PrecisionError, ShapeError
from widescape.landscape.minima import gradient_flat
from widescape.landscape.minima.gradient_flat import flatness
from widescape.landscape.problems import quartic

ROOT = 2**0.5


def bowl(w):
    """A function with Hessian diag(2, 6 w_1, 0) and gradient (2 w_0, 3 w_1^2, 1)."""
    return w[0] ** 2 + w[1] ** 3 + w[2]


def dense_reference(hessian, gradient, step):
    left = hessian @ step + gradient
    size = np.linalg.norm(hessian)
    r = np.linalg.norm(left) / (size * np.linalg.norm(step) + np.linalg.norm(gradient))
    return r, np.linalg.norm(hessian @ left) / (size * np.linalg.norm(left))


@pytest.mark.parametrize("step", [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [-0.7, 0.1, 3.0]])
def test_both_numbers_are_those_of_the_definition(step):
    hessian, gradient = np.diag([2.0, 3.0, 0.0]), np.array([1.4, 0.75, 1.0])
    found = flatness(bowl, np.array([0.7, 0.5, 0.3]), np.array(step))
    np.testing.assert_allclose(found, dense_reference(hessian, gradient, np.array(step)), rtol=1e-14)


def test_without_a_step_it_is_the_truncated_newton_step():
    hessian, gradient = np.diag([2.0, 3.0, 0.0]), np.array([1.4, 0.75, 1.0])
    step = -np.linalg.pinv(hessian, rcond=1e-4) @ gradient
    found = flatness(bowl, np.array([0.7, 0.5, 0.3]))
    np.testing.assert_allclose(found, dense_reference(hessian, gradient, step), atol=1e-15)


def test_at_the_flat_points_of_the_quartic_the_gradient_is_not_zero_and_r_is_one(rng):
    problem = quartic()
    for name in ("flat_right", "flat_left"):
        system = problem.system(name)
        np.testing.assert_allclose(np.sum(system.grad() ** 2), problem.facts(name)["gradient_square"], rtol=1e-14)
        for step in (None, np.zeros(2)):
            r, r_h = flatness(system, None, step)
            assert r == 1.0
            assert r_h < 1e-15
    np.testing.assert_allclose(problem.facts("flat_right")["gradient_square"], 11.176624, atol=5e-7)
    np.testing.assert_allclose(problem.facts("flat_right")["loss"], 47.7279, atol=5e-5)


def test_where_the_gradient_or_what_is_left_of_it_is_zero_nothing_is_flat():
    assert flatness(quartic().system("minimum"), None) == (0.0, 0.0)
    assert flatness(lambda w: jnp.sum(w**2), np.array([1.0, 2.0])) == (0.0, 0.0)


@pytest.mark.claim("frye2019critical/P7")
def test_an_exact_pseudo_inverse_hides_flatness_and_an_inexact_step_shows_it(measured):
    near = np.array([ROOT + 1e-7, 0.0])
    system = quartic().system(near)
    hessian = np.diag([3 * near[0] ** 2 - 6, 10.0])
    exact = -np.linalg.pinv(hessian) @ system.grad()
    hidden, seen = flatness(system, None, exact), flatness(system, None)
    assert hidden[0] < 1e-6
    assert np.linalg.norm(exact) > 1e6
    assert seen[0] > 1 - 1e-12
    assert seen[1] < 1e-6
    measured(
        f"1e-7 from the flat point: exact step of length {np.linalg.norm(exact):.1e} with r = {hidden[0]:.0e}; "
        f"inexact step with r = {seen[0]:.3f}, r_H = {seen[1]:.0e}"
    )


def test_by_products_the_numbers_agree_within_the_error_of_the_estimated_norm(rng, monkeypatch):
    monkeypatch.setattr(gradient_flat, "DENSE_UP_TO", 0)
    curvatures = rng.normal(size=60)
    curvatures[:20] = 0.0
    point, step = rng.normal(size=60), rng.normal(size=60)
    pull = rng.normal(size=60)
    hessian, gradient = np.diag(curvatures), curvatures * point + pull
    expected = dense_reference(hessian, gradient, step)
    found = flatness(lambda w: jnp.sum(curvatures * w**2) / 2 + jnp.sum(pull * w), point, step)
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # squared signs are 1: exact where H is diagonal
    turned = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    matrix, other = turned @ hessian @ turned.T, rng.normal(size=60)

    def loss(w):
        return w @ matrix @ w / 2 + jnp.sum(pull * w)

    found = flatness(loss, other, step)
    expected = dense_reference(matrix, matrix @ other + pull, step)
    share = (2 / 30) ** 0.5
    np.testing.assert_allclose(found, expected, rtol=3 * share)
    own = flatness(loss, other)
    best = -np.linalg.pinv(matrix, rcond=1e-9) @ (matrix @ other + pull)
    np.testing.assert_allclose(own[0], dense_reference(matrix, matrix @ other + pull, best)[0], rtol=3 * share)
    assert own[1] < 5e-4 * (1 + 3 * share)


def test_beside_a_kink_flatness_is_warned_of_and_away_from_it_not():
    def tent(w):
        return -jnp.sum(jnp.abs(w))

    for near in (np.zeros(2), np.array([1.0, 1e-10])):
        with pytest.warns(NonDifferentiableWarning, match="within 1e-09 of a kink"):
            flatness(tent, near)
    assert flatness(tent, np.array([1.0, 1e-8]))[0] == 1.0


def test_parameters_and_step_may_be_trees():
    def loss(params):
        return params["a"] ** 2 + params["b"][0] ** 3 + params["b"][1]

    params = {"a": np.array(0.7), "b": np.array([0.5, 0.3])}
    step = {"a": np.array(1.0), "b": np.array([-2.0, 0.5])}
    flat = flatness(bowl, np.array([0.7, 0.5, 0.3]), np.array([1.0, -2.0, 0.5]))
    np.testing.assert_allclose(flatness(loss, params, step), flat, rtol=1e-14)


def test_what_does_not_fit_is_refused():
    with pytest.raises(PrecisionError, match="flatness works in float64"):
        flatness(bowl, np.ones(3, np.float32))
    assert flatness(bowl, np.ones(3, np.float32), allow_float32=True) == flatness(bowl, np.ones(3))
    with pytest.raises(ShapeError, match="`step`"):
        flatness(bowl, np.ones(3), np.ones(2))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        flatness(lambda w: jnp.sum(jnp.sqrt(w)), np.zeros(2))
