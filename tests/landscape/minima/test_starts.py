"""Starts at all heights: they lie on the path of descent, uniformly in the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from widescape.core.errors import NonFiniteError, PrecisionError
from widescape.curvature import System
from widescape.landscape.minima.starts import loss_uniform_starts

CURVATURES = np.array([1.0, 0.3, -0.1])
START = np.array([1.0, -2.0, 0.1])


def saddle(w):
    return jnp.sum(CURVATURES * w**2) / 2


def path(steps, lr=0.01):
    """Descent in closed form."""
    return START * (1 - lr * CURVATURES) ** np.asarray(steps)[:, None]


def loss_of(w):
    return np.sum(CURVATURES * w**2, axis=1) / 2


def test_without_noise_each_is_the_iterate_that_its_step_names_with_its_loss():
    found = loss_uniform_starts(saddle, START, num=40, lr=0.01, steps=300, noise=0.0)
    np.testing.assert_allclose(found.w, path(found.steps), rtol=1e-12)
    np.testing.assert_allclose(found.loss, loss_of(found.w), rtol=1e-12)
    assert found.status.ok


def test_they_are_uniform_in_the_loss_and_not_in_time():
    found = loss_uniform_starts(saddle, START, num=400, lr=0.01, steps=1000, noise=0.0)
    losses = loss_of(path(np.arange(1001)))
    share = (found.loss - losses.min()) / (losses.max() - losses.min())
    assert stats.kstest(share, "uniform").pvalue > 0.01
    assert stats.kstest(found.steps / 1000, "uniform").pvalue < 1e-10


def test_half_are_moved_by_noise_of_the_given_standard_deviation():
    found = loss_uniform_starts(saddle, START, num=600, lr=0.01, steps=300, noise=0.02)
    moved = found.w - path(found.steps)
    assert found.noisy.sum() == 300
    np.testing.assert_allclose(moved[~found.noisy], 0.0, atol=1e-13)
    entries = moved[found.noisy].ravel()
    stderr = 0.02 / np.sqrt(2 * entries.size)
    assert abs(entries.std() - 0.02) < 4 * stderr
    assert abs(entries.mean()) < 4 * 0.02 / np.sqrt(entries.size)


def test_the_default_noise_is_a_hundredth():
    found = loss_uniform_starts(saddle, START, num=600, lr=0.01, steps=300)
    entries = (found.w - path(found.steps))[found.noisy].ravel()
    assert abs(entries.std() - 0.01) < 4 * 0.01 / np.sqrt(2 * entries.size)


def test_the_same_key_gives_the_same_starts_and_another_other_ones():
    one, same, other = (
        loss_uniform_starts(saddle, START, num=5, lr=0.01, steps=300, key=jax.random.key(k)) for k in (0, 0, 1)
    )
    assert one == same
    assert not np.array_equal(one.w, other.w)


def test_they_come_as_trees_like_the_parameters_of_a_system():
    system = System(lambda p, x: x @ p["w"] + p["b"], {"w": np.ones(2), "b": np.zeros(())}, np.eye(2), np.zeros(2))
    found = loss_uniform_starts(system, num=3, lr=0.1, steps=20)
    assert len(found) == 3
    trees = list(found)
    assert [sorted(tree) for tree in trees] == [["b", "w"]] * 3
    np.testing.assert_array_equal(system.vector(trees[2]), found.w[2])


def test_a_descent_that_diverges_says_so_and_gives_finite_starts():
    found = loss_uniform_starts(lambda w: jnp.sum(w**4), np.array([3.0]), num=5, lr=1.0, steps=50)
    assert found.status == "diverged"
    assert np.isfinite(found.w).all()
    assert found.steps.tolist() == [0] * 5


def test_of_a_descent_that_diverges_no_start_lies_above_the_initial_loss():
    def narrow(w):
        return jnp.sum(jnp.array([1.0, 0.01]) * w**2) / 2

    found = loss_uniform_starts(narrow, np.array([1e-3, 5.0]), num=40, lr=2.5, steps=1200, noise=0.0)
    assert found.status == "diverged"
    assert found.loss.max() <= (1e-6 + 0.25) / 2
    assert len(set(found.steps.tolist())) > 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(PrecisionError, match="loss_uniform_starts works in float64"):
        loss_uniform_starts(saddle, START.astype(np.float32), num=2, lr=0.1, steps=5)
    for wrong in ({"num": 0}, {"steps": 0}, {"lr": 0.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            loss_uniform_starts(saddle, START, **{"num": 2, "lr": 0.1, "steps": 5, **wrong})
    with pytest.raises(NonFiniteError, match="where descent starts"):
        loss_uniform_starts(lambda w: jnp.sum(jnp.log(w)), np.zeros(1), num=2, lr=0.1, steps=5)
