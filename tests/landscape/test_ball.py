"""Oracles: closed-form kernels whose smallest eigenvalue on a ball is known, and dense grids over a disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specimens import product
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.landscape.ball import BallEstimate, pl_on_ball


def squares(w, x):
    """With inputs (I, b) the Jacobian is diag(w) + b 1^T."""
    return jnp.matmul(x[:, :-1], w**2) / 2 + x[:, -1] * jnp.sum(w)


def two_waves(w, x):
    """With inputs I the outputs are sin(w_1) + w_2^2/2 and tanh(w_1 - 2 w_2)."""
    return x[:, 0] * (jnp.sin(w[0]) + w[1] ** 2 / 2) + x[:, 1] * jnp.tanh(w[0] - 2 * w[1])


def with_offsets(offsets):
    return np.column_stack([np.eye(len(offsets)), offsets])


def lowest_of_waves(a, b):
    """The smallest eigenvalue of K of `two_waves` at (a, b), from its Jacobian by hand; of a 2 by 2 matrix."""
    slope = 1 - np.tanh(a - 2 * b) ** 2
    first, second, mixed = np.cos(a) ** 2 + b**2, 5 * slope**2, slope * (np.cos(a) - 2 * b)
    return (first + second) / 2 - np.sqrt((first - second) ** 2 / 4 + mixed**2)


def ball(f, w, radius, x=None, **options):
    return pl_on_ball(System(f, np.array(w), np.zeros(1) if x is None else x), radius, **options)


@pytest.mark.parametrize("radius", [0.5, 1.0, 4.9])
def test_of_w1_w2_the_exact_minimum_on_a_ball_without_the_origin_is_found_on_its_edge(radius):
    found = ball(product, [3.0, 4.0], radius, n_samples=8)
    assert found.mu == pytest.approx((5 - radius) ** 2, rel=1e-6)
    assert found.mu >= (5 - radius) ** 2 * (1 - 1e-12)
    assert found.center == pytest.approx(25, rel=1e-14)
    np.testing.assert_allclose(found.w, np.array([3.0, 4.0]) * (1 - radius / 5), rtol=1e-2, atol=1e-3)
    assert found.radius == radius


def test_of_w1_w2_the_singular_origin_inside_the_ball_is_found():
    found = ball(product, [0.3, 0.4], 1.0, n_samples=8, adversarial=40)
    assert 0 <= found.mu < 1e-9
    assert np.linalg.norm(found.w) < 1e-4


def test_the_search_descends_far_below_random_points_in_many_dimensions(rng):
    w = np.concatenate([[2.0], rng.uniform(2.8, 3, size=19)])
    found = ball(squares, w, 1.0, with_offsets(np.zeros(20)), n_samples=8, adversarial=30)
    # the kernel is diag(w^2), least at w_1 = 1
    assert 1 - 1e-12 <= found.mu <= 1.001
    assert found.sampled > 1.5


@pytest.mark.parametrize("seed", range(4))
def test_what_is_found_is_attained_in_the_ball_and_not_below_a_dense_grid_of_the_disk(seed):
    r = np.random.default_rng(seed)
    w, radius = r.normal(size=2), float(r.uniform(0.3, 0.8))
    found = ball(two_waves, w, radius, np.eye(2), key=jax.random.key(seed))
    assert np.linalg.norm(found.w - w) <= radius * (1 + 1e-12)
    assert lowest_of_waves(*found.w) == pytest.approx(found.mu, rel=1e-9)
    assert lowest_of_waves(*w) == pytest.approx(found.center, rel=1e-9)

    shares, angles = np.meshgrid(np.linspace(0, radius, 400), np.linspace(0, 2 * np.pi, 1600), indexing="ij")
    grid = lowest_of_waves(w[0] + shares * np.cos(angles), w[1] + shares * np.sin(angles)).min()
    assert found.mu == pytest.approx(grid, rel=1e-3, abs=1e-9)  # one valley each: the descent ends where the grid does
    assert found.mu <= found.sampled


@pytest.mark.parametrize("adversarial", [0, 1, 20])
def test_the_estimate_is_the_least_of_all_that_was_seen_and_never_above_the_center(adversarial):
    for w in ([0.3, 0.4], [0.0, 0.0], [-2.0, 1.0]):
        found = ball(product, w, 0.7, n_samples=5, adversarial=adversarial)
        assert found.mu == min([found.center, *found.lam_min, *found.refined])
        assert found.mu <= found.center
        assert found.sampled == found.lam_min.min()
        assert found.lam_min.shape == (10,)
        assert found.refined.shape == (adversarial,)
        assert float(found.w @ found.w) == pytest.approx(found.mu, rel=1e-12, abs=1e-300)
    assert ball(product, [0.0, 0.0], 0.7, n_samples=5, adversarial=adversarial).mu == 0


def test_a_step_that_does_not_help_is_halved():
    found = ball(product, [0.3, 0.0], 4.0, n_samples=3, adversarial=30)
    gains = np.minimum.accumulate([found.sampled, *found.refined])
    assert (np.diff(gains) < 0).sum() > 5
    assert (found.refined[1:] > gains[1:-1]).any()
    assert found.mu < 1e-6


def test_a_constant_kernel_has_nothing_to_search():
    rows = np.array([[1.0, 0.0], [0.0, 2.0]])
    found = pl_on_ball(System(lambda w, x: jnp.matmul(x, w), np.zeros(2), rows), 3.0, n_samples=2)
    assert found.mu == found.center == found.sampled == 1.0
    np.testing.assert_array_equal(found.refined, 1.0)


def test_random_points_are_uniform_on_the_sphere_and_in_the_ball():
    found = ball(product, [0.0, 0.0], 2.0, n_samples=400, adversarial=0)
    np.testing.assert_allclose(found.lam_min[0::2], 4.0, rtol=1e-12)
    areas = np.sort(found.lam_min[1::2]) / 4  # share of the disk's area that is nearer to the center
    ranks = np.arange(400) / 400
    assert max(np.abs(areas - ranks).max(), np.abs(areas - ranks - 1 / 400).max()) < 1.63 / 20  # Kolmogorov, 1%

    # a direction's first coordinate has mean 0 and mean square 1/2
    tilted = pl_on_ball(
        System(lambda w, x: jnp.exp(w[:1]), np.zeros(2), np.zeros(1)), 1.0, n_samples=400, adversarial=0
    )
    first = np.log(tilted.lam_min[0::2]) / 2
    assert abs(first.mean()) < 4 * np.sqrt(0.5 / 400)
    assert abs((first**2).mean() - 0.5) < 4 * np.sqrt(0.125 / 400)


def test_the_center_may_be_given_and_the_mean_divides_the_kernel_by_n(rng):
    offsets, w = rng.normal(size=3), rng.uniform(1, 2, size=3)
    x = with_offsets(offsets)
    options = {"n_samples": 4, "adversarial": 5}
    system = System(squares, w, x)
    found = pl_on_ball(system, 0.4, **options)
    rows = np.diag(w) + offsets[:, None]
    assert found.center == pytest.approx(np.linalg.eigvalsh(rows @ rows.T)[0], rel=1e-10)
    elsewhere = System(squares, w + 1, x)
    assert pl_on_ball(elsewhere, 0.4, params=w, **options) == found
    mean = pl_on_ball(System(squares, w, x, reduction="mean"), 0.4, **options)
    assert mean.mu == pytest.approx(found.mu / 3, rel=1e-9)
    np.testing.assert_allclose(mean.lam_min, found.lam_min / 3, rtol=1e-10)


def test_keys_choose_the_directions():
    here = [
        ball(product, [3.0, 4.0], 1.0, n_samples=3, key=key) for key in (None, jax.random.key(0), jax.random.key(1))
    ]
    assert here[0] == here[1]
    assert (here[0].lam_min[1::2] != here[2].lam_min[1::2]).all()


def test_single_precision_parameters_are_searched_in_double_precision():
    narrow = ball(product, np.array([3.0, 4.0], np.float32), 1.0, n_samples=4)
    assert narrow == ball(product, [3.0, 4.0], 1.0, n_samples=4)


def test_balls_without_a_radius_and_searches_without_points_are_refused():
    for radius, word in ((0.0, "positive"), (-1.0, "positive"), (float("nan"), "finite"), (float("inf"), "finite")):
        with pytest.raises(ValueError, match=f"`radius` is .*{word}"):
            ball(product, [1.0, 1.0], radius)
    with pytest.raises(ValueError, match="`n_samples` is 0"):
        ball(product, [1.0, 1.0], 1.0, n_samples=0)
    with pytest.raises(ValueError, match="`adversarial` is -1"):
        ball(product, [1.0, 1.0], 1.0, adversarial=-1)
    with pytest.raises(ShapeError, match="params"):
        ball(product, [1.0, 1.0], 1.0, params=np.ones(3))


def test_an_estimate_is_a_bound_from_above_prints_and_saves(tmp_path):
    found = ball(product, [3.0, 4.0], 1.0, n_samples=2)
    assert found.evidence("mu").side == "upper"
    assert BallEstimate.load(found.save(tmp_path / "ball.zip")) == found
    assert len(str(found).splitlines()) < 20
