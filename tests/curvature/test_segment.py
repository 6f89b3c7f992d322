"""A loss along lines and planes of parameters is the loss at each of their points."""

import jax.numpy as jnp
import numpy as np
import pytest

from specimens import bowl
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.curvature.segment import as_system, losses_on_plane, losses_on_segment


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def draw(rng, dtype=np.float64):
    return {"first": rng.normal(size=(3, 4)).astype(dtype), "second": rng.normal(size=(4, 2)).astype(dtype)}


@pytest.fixture
def system(rng):
    return System(network, draw(rng), rng.normal(size=(7, 3)), rng.normal(size=(7, 2)), reduction="mean")


def by_hand(system, w):
    first, second = w[:12].reshape(3, 4), w[12:].reshape(4, 2)
    return ((np.tanh(system.x @ first) @ second - system.y) ** 2).sum() / (2 * len(system.x))


# The loss as a system.


def test_a_loss_of_parameters_has_the_value_gradient_and_hessian_of_the_function(rng):
    matrix, w, v = rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5)
    system = as_system(lambda p: p @ jnp.asarray(matrix) @ p, w)
    assert system.value() == pytest.approx(w @ matrix @ w, rel=1e-13)
    np.testing.assert_allclose(system.grad(), (matrix + matrix.T) @ w, rtol=1e-12)
    np.testing.assert_allclose(system.hvp(v), (matrix + matrix.T) @ v, rtol=1e-12)


def test_a_loss_of_a_tree_takes_trees_and_flat_vectors(rng):
    params = draw(rng)
    system = as_system(lambda p: jnp.sum(p["first"] ** 2) - jnp.sum(p["second"]), params)
    assert system.value() == pytest.approx((params["first"] ** 2).sum() - params["second"].sum(), rel=1e-13)
    assert system.value(system.vector(params)) == system.value()


def test_a_system_stays_what_it_is(system):
    assert as_system(system) is system


def test_a_loss_without_a_hash_may_be_given():
    class Unhashable:
        __hash__ = None

        def __call__(self, w):
            return bowl(w)

    assert as_system(Unhashable(), np.array([1.0, 2.0])).value() == 5.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_is_computed_in_the_precision_of_its_parameters(dtype):
    third = np.array([1.0 / 3.0], dtype)
    system = as_system(bowl, third)
    assert system.double == (dtype == np.float64)
    assert system.value() == float(third[0] ** 2)


def test_an_integer_valued_loss_is_allowed_for_its_values():
    assert as_system(lambda w: jnp.sum(w > 0), np.array([1.0, -1.0, 2.0])).value() == 2.0


@pytest.mark.parametrize(
    ("loss", "params", "reason"),
    [
        (3.0, np.ones(2), "`loss` is 3.0"),
        (bowl, None, "`params` are needed"),
        (lambda w: w, np.ones(2), "must return one real number"),
        (lambda w: (bowl(w), w), np.ones(2), "must return one real number"),
        (lambda w: bowl(w) * (1 + 1j), np.ones(2), "must return one real number"),
        (bowl, np.ones(2, int), "dtype int"),
    ],
)
def test_what_is_no_loss_is_refused(loss, params, reason):
    with pytest.raises(TypeError, match=reason):
        as_system(loss, params)


# The loss on planes and segments.


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_losses_on_a_plane_are_those_of_a_loop_over_its_points(system, rng, count):
    directions, coefficients = rng.normal(size=(2, system.num_params)), rng.normal(size=(count, 2))
    found = losses_on_plane(system, system.flat, directions, coefficients)
    expected = [by_hand(system, system.flat + c @ directions) for c in coefficients]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_quadratic_on_a_segment_is_the_closed_form_with_both_ends():
    ts = np.linspace(-0.5, 1.5, 41)
    start, end = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    system = as_system(bowl, start)
    np.testing.assert_allclose(losses_on_segment(system, start, end, ts), (1 - ts) ** 2 + ts**2, rtol=1e-14)


def test_a_segment_goes_between_trees_and_flat_vectors_alike(system, rng):
    end, ts = draw(rng), np.array([0.0, 0.3, 1.0])
    flat = losses_on_segment(system, system.flat, system.vector(end), ts)
    assert np.array_equal(losses_on_segment(system, system.params, end, ts), flat)
    assert flat[0] == pytest.approx(system.value(), rel=1e-13)
    assert flat[2] == pytest.approx(by_hand(system, system.vector(end)), rel=1e-13)


def test_no_points_have_no_losses(system):
    assert losses_on_segment(system, system.flat, system.flat, np.zeros(0)).shape == (0,)


def test_losses_come_as_float64_from_a_system_of_float32(rng):
    params = draw(rng, np.float32)
    x = rng.normal(size=(7, 3)).astype(np.float32)
    system = System(network, params, x, np.zeros((7, 2), np.float32))
    found = losses_on_segment(system, params, draw(rng, np.float32), np.array([0.0, 1.0]))
    assert found.dtype == np.float64
    assert found[0] == pytest.approx(system.value(), rel=1e-6)


def test_chunks_of_examples_do_not_change_the_losses(system, rng):
    pieces = System(network, system.params, system.x, system.y, reduction="mean", chunk=2)
    end, ts = draw(rng), np.linspace(0, 1, 5)
    np.testing.assert_allclose(
        losses_on_segment(pieces, system.flat, end, ts), losses_on_segment(system, system.flat, end, ts), rtol=1e-13
    )


def test_the_first_point_of_infinite_loss_is_named():
    system = as_system(lambda w: 1 / jnp.sum(w), np.array([1.0]))
    with pytest.raises(NonFiniteError, match=r"infinite at 1 points, first at \[0.5\]"):
        losses_on_segment(system, np.array([1.0]), np.array([-1.0]), np.array([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    ("directions", "coefficients", "kind", "reason"),
    [
        (np.ones((1, 3)), np.ones((4, 1)), ShapeError, r"give \(k, 2\) and \(T, k\)"),
        (np.ones((1, 2)), np.ones((4, 2)), ShapeError, r"`coefficients` \(4, 2\)"),
        (np.ones(2), np.ones((4, 1)), ShapeError, r"`directions` has shape \(2,\)"),
        (np.ones((1, 2)), np.ones(4), ShapeError, r"`coefficients` \(4,\)"),
        (np.ones((1, 2), int), np.ones((4, 1)), DtypeError, "`directions` has dtype int64"),
        (np.full((1, 2), np.nan), np.ones((4, 1)), ValueError, "`directions` has 2 entries"),
        (np.ones((1, 2)), np.full((1, 1), np.inf), ValueError, "`coefficients` has 1 entries"),
        (np.full((1, 2), 1e300), np.ones((4, 1)), ValueError, "`directions` has 2 entries"),
    ],
)
def test_a_plane_that_does_not_fit_is_refused(directions, coefficients, kind, reason):
    system = as_system(bowl, np.ones(2, np.float32))
    with pytest.raises(kind, match=reason):
        losses_on_plane(system, system.flat, directions, coefficients)


def test_a_segment_that_does_not_fit_is_refused(system):
    with pytest.raises(ShapeError, match="give a vector of positions"):
        losses_on_segment(system, system.flat, system.flat, np.ones((2, 1)))
    with pytest.raises(ShapeError, match="`params` holds arrays of shapes"):
        losses_on_segment(system, system.flat, {"first": np.ones((3, 4))}, np.ones(2))
    with pytest.raises(ValueError, match="needs targets"):
        losses_on_segment(System(network, system.params, system.x), system.flat, system.flat, np.ones(2))
