"""A loss that is scaled by two more variables: its formula, its profile, its identity, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from specimens import bowl
from widescape.core.errors import NonFiniteError
from widescape.core.precision import call_in_float64
from widescape.curvature import System
from widescape.landscape.minima.augmentation import augment_exp, augmented_loss
from widescape.landscape.minima.scaled_loss import scale_out_minima


def itself(theta):
    return jnp.asarray(theta)


@pytest.mark.claim("kawaguchi2019elimination/C9")
@pytest.mark.parametrize(
    ("b", "best", "value"),
    [(0.0, -1.32013201, 0.01760176), (2.0, -0.18041400, 3.2555173e-4), (5.0, -0.00898393, 8.0710950e-7)],
)
def test_the_profile_over_a_for_one_sample_has_the_published_minimum(b, best, value, measured):
    model = augment_exp(lambda theta, x: theta + 0 * x, dx=1, dy=1)
    objective = augmented_loss(model, lambda q, y: jnp.sum((q - y) ** 2), 0.01)
    x, y = np.zeros((1, 1)), np.zeros((1, 1))

    def profile(a):
        q = {"theta": np.array(4 / 3), "a": np.array([a]), "b": np.array([b]), "W": np.zeros((1, 1))}
        return objective(q, x, y)

    found = minimize_scalar(profile, bracket=(2 * best, best / 2), tol=1e-9)
    assert found.x == pytest.approx(best, rel=1e-6)
    assert profile(best) == pytest.approx(value, rel=1e-6)
    r, size = 4 / 3, np.exp(b)
    assert best == pytest.approx(-r * size / (size**2 + 0.01), abs=5e-9)
    assert profile(-r * size / (size**2 + 0.01)) == pytest.approx(0.01 * r**2 / (0.01 + size**2), rel=1e-9)
    measured(f"b = {b:g}: a* = {found.x:.8f}, value {found.fun:.7e}")


@pytest.mark.claim("kawaguchi2019elimination/C9")
def test_the_profile_of_the_scaled_loss_has_the_published_minimum_and_falls_to_the_loss(measured):
    scaled = scale_out_minima(itself, 0.5)
    found = minimize_scalar(
        lambda a: scaled({"theta": np.array(2.0), "a": np.array(a), "b": np.array(1.0)}), bracket=(0.1, 0.5), tol=1e-9
    )
    assert found.x == pytest.approx(0.35584001, rel=1e-6)
    assert found.fun == pytest.approx(2.06545311, abs=5e-9)
    for b in (0.0, 3.0, 8.0):
        best = 2 * np.exp(b) / (2 * np.exp(2 * b) + 0.5)
        value = scaled({"theta": np.array(2.0), "a": np.array(best), "b": np.array(b)})
        assert value == pytest.approx(2 + 0.5 * 2 / (2 * np.exp(2 * b) + 0.5), rel=1e-13)
        assert value - 2 == pytest.approx(0.5 * np.exp(-2 * b), rel=0.25 * np.exp(-2 * b) + 1e-6)
    measured(f"a* = {found.x:.8f}, value {found.fun:.8f}")


@pytest.mark.claim("kawaguchi2019elimination/I1")
@pytest.mark.claim("kawaguchi2019elimination/T1")
def test_the_gradient_of_the_scaled_loss_obeys_the_identity_and_its_bound(rng):
    scaled = scale_out_minima(bowl, 0.03)
    slope = jax.jit(jax.grad(scaled))
    for size in (1e-3, 0.1, 1.0, 3.0):
        for _ in range(5):
            q = {
                "theta": rng.standard_normal(4),
                "a": np.array(size * rng.standard_normal()),
                "b": np.array(rng.standard_normal()),
            }
            g = call_in_float64(slope, q)
            defect = q["a"] * g["a"] - g["b"] - 0.06 * q["a"] ** 2
            assert abs(defect) <= 1e-12 * (abs(q["a"] * g["a"]) + abs(g["b"]))
            norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(g)))
            assert norm >= 0.06 * q["a"] ** 2 / np.sqrt(1 + q["a"] ** 2)


def test_a_system_is_taken_with_its_own_reduction(rng):
    x, y, theta = rng.standard_normal((5, 3)), rng.standard_normal(5), rng.standard_normal(3)
    q = {"theta": theta, "a": np.array(0.4), "b": np.array(-0.2)}
    factor = 1 + (0.4 * np.exp(-0.2) - 1) ** 2
    for reduction, count in (("sum", 1), ("mean", 5)):
        system = System(lambda w, x: x @ w, theta, x, y, reduction=reduction)
        value = np.sum((x @ theta - y) ** 2) / 2 / count
        assert scale_out_minima(system, 0.1)(q) == pytest.approx(value * factor + 0.1 * 0.16, rel=1e-13)


def test_arguments_that_do_not_fit_are_refused(rng):
    q = {"theta": np.ones(2), "a": np.zeros(()), "b": np.zeros(())}
    with pytest.raises(ValueError, match="`lam`"):
        scale_out_minima(bowl, 0.0)
    with pytest.raises(TypeError, match="`L`"):
        scale_out_minima(3.0)
    with pytest.raises(TypeError, match="one real number"):
        scale_out_minima(itself)(q)
    with pytest.raises(ValueError, match="lower bound"):
        scale_out_minima(lambda theta: -bowl(theta))(q)
    with pytest.raises(ValueError, match="lower bound"):
        scale_out_minima(lambda theta: -1e-4 * bowl(theta))(q)
    assert scale_out_minima(lambda theta: -1e-14 * bowl(theta))(q) == pytest.approx(-4e-14)
    with pytest.raises(NonFiniteError, match="`L` is inf"):
        scale_out_minima(lambda theta: bowl(theta) / 0)(q)
    with pytest.raises(NonFiniteError, match="e\\^1000"):
        scale_out_minima(bowl)(q | {"a": np.ones(()), "b": np.array(1000.0)})
    with pytest.raises(TypeError, match="`q`"):
        scale_out_minima(bowl)({"theta": np.ones(2), "a": np.zeros(1), "b": np.zeros(())})
    with pytest.raises(TypeError, match="`q`"):
        scale_out_minima(bowl)({"theta": np.ones(2)})
    with pytest.raises(ValueError, match="`q`"):
        scale_out_minima(bowl)(q | {"b": np.array(np.nan)})
    with pytest.raises(ValueError, match="targets"):
        scale_out_minima(System(lambda w, x: x @ w, np.ones(3), rng.standard_normal((5, 3))))
