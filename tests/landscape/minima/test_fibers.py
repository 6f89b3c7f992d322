"""Fibers: displacements along which a function does not change, found with Jacobians and without."""

import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import ShapeError
from widescape.core.random import named_generator
from widescape.landscape import problems
from widescape.landscape.minima import fibers
from widescape.landscape.minima.bases import model_basis
from widescape.landscape.minima.fibers import as_moves, dense_fiber, matrix_free_fiber
from widescape.landscape.minima.in_float64 import features_in_float64

EPS = 1e-2
TRAP = problems.affine_trap()
PHI, _ = model_basis(TRAP.system())
X = TRAP.X[:, 0]


def relu_outputs(w):
    """The two ReLU units in NumPy; flat parameters are beta, c, v, w."""
    beta, c, v, slope = w[:2], w[2], w[3:5], w[5:]
    return np.maximum(np.outer(X, slope) + beta, 0.0) @ v + c


def relu_jacobian(w):
    beta, v, slope = w[:2], w[3:5], w[5:]
    hidden = np.outer(X, slope) + beta
    on = (hidden > 0).astype(float)
    return np.concatenate([on * v, np.ones((3, 1)), np.maximum(hidden, 0), on * v * X[:, None]], axis=1)


def chain():
    return features_in_float64(lambda w: jnp.prod(w)[None], np.zeros(3), "test")


def drawn(system, build=dense_fiber, n_dirs=32, eps=EPS, moves=None):
    given = np.empty((0, system.num_params)) if moves is None else as_moves(moves, system)
    return build(system, given, eps=eps, n_dirs=n_dirs, generator=named_generator(None, "test"))


@pytest.mark.parametrize("build", [dense_fiber, matrix_free_fiber])
def test_on_the_fiber_the_outputs_are_the_same_at_accepted_lengths(build):
    fiber = drawn(features_in_float64(PHI, TRAP.params("trap"), "test"), build)
    lengths = np.linalg.norm(fiber.displacements, axis=1)
    assert len(lengths) >= 24
    assert fiber.drawn == 32
    assert lengths.min() >= 0.1 * EPS
    assert lengths.max() <= 3 * EPS
    np.testing.assert_allclose(fiber.level, relu_outputs(fiber.point), rtol=0, atol=1e-15)
    for v in fiber.displacements:
        assert np.linalg.norm(relu_outputs(fiber.point + v) - fiber.level) <= 2e-11


def test_the_jacobians_on_the_fiber_are_those_written_out():
    fiber = drawn(features_in_float64(PHI, TRAP.params("trap"), "test"))
    points = fiber.point + np.concatenate([np.zeros((1, 7)), fiber.displacements])
    assert len(points) == len(fiber.jacobians)
    for w, jacobian in zip(points, fiber.jacobians, strict=True):
        np.testing.assert_allclose(jacobian, relu_jacobian(w), rtol=0, atol=1e-14)


@pytest.mark.parametrize("build", [dense_fiber, matrix_free_fiber])
def test_where_the_jacobian_vanishes_the_zero_set_of_a_product_is_found(build):
    fiber = drawn(chain(), build)
    assert len(fiber.displacements) >= 24
    assert np.abs(fiber.displacements.prod(axis=1)).max() <= 1e-11
    assert np.linalg.norm(fiber.displacements, axis=1).min() >= 0.1 * EPS


def test_random_directions_move_few_coordinates_as_well_as_all():
    free = features_in_float64(lambda w: w[:1] * 0.0, np.zeros(40), "test")
    moved = (drawn(free).displacements != 0).sum(axis=1)
    assert (moved[::2] == 40).all()
    assert moved[1::2].min() < 12
    assert len(set(moved[1::2].tolist())) > 8


@pytest.mark.parametrize("build", [dense_fiber, matrix_free_fiber])
def test_an_isolated_point_has_no_fiber_and_an_injective_function_neither(build):
    cubic = problems.scalar_cubic()
    critical = drawn(features_in_float64(model_basis(cubic.system())[0], cubic.params("minimum"), "test"), build)
    injective = drawn(features_in_float64(lambda w: 2.0 * w, np.ones(1), "test"), build)
    assert len(critical.displacements) == len(injective.displacements) == 0
    assert critical.drawn == 32


def test_exact_moves_join_the_fiber_whatever_their_length():
    dead = problems.dead_region()
    system = features_in_float64(model_basis(dead.system())[0], dead.params("dead"), "test")
    outgoing = {"beta": np.zeros(2), "c": np.array(0.0), "v": np.array([5.0, -7.0]), "w": np.zeros(2)}
    flat = np.array([-1.0, 0, 0, 0, 0, 0, 0])
    fiber = drawn(system, n_dirs=2, moves=[outgoing, flat])
    assert fiber.drawn == 4
    np.testing.assert_array_equal(fiber.displacements[-2], [0, 0, 0, 5.0, -7.0, 0, 0])
    np.testing.assert_array_equal(fiber.displacements[-1], flat)
    assert len(fiber.jacobians) == len(fiber.displacements) + 1


def test_moves_that_leave_the_fiber_are_zero_or_do_not_fit_are_refused():
    system = chain()
    ones = features_in_float64(lambda w: jnp.prod(w)[None], np.ones(3), "test")
    with pytest.raises(ValueError, match=r"`moves\[0\]` changes `phi` by 1"):
        drawn(ones, moves=[np.array([1.0, 0.0, 0.0])])
    with pytest.raises(ValueError, match=r"`moves\[1\]` is zero"):
        as_moves([np.ones(3), np.zeros(3)], system)
    with pytest.raises(ShapeError):
        as_moves([np.ones(4)], system)


def test_the_same_key_draws_the_same_fiber():
    system = chain()
    np.testing.assert_array_equal(drawn(system).displacements, drawn(system).displacements)


@pytest.mark.parametrize("build", [dense_fiber, matrix_free_fiber])
def test_displacements_that_cross_a_kink_are_dropped_and_counted(build):
    """Both units rescaled by s = 0.003: their inputs on the data run from 0.003 to 0.009, less than eps."""
    own = TRAP.params("trap")
    small = {**own, "w": 0.003 * own["w"], "beta": 0.003 * own["beta"], "v": own["v"] / 0.003}
    fiber = drawn(features_in_float64(PHI, small, "test"), build)
    assert fiber.crossed >= 8
    assert len(fiber.displacements) >= 8
    assert len(fiber.displacements) + fiber.crossed <= fiber.drawn
    for w in fiber.point + fiber.displacements:
        assert (np.outer(X, w[5:]) + w[:2] > 0).all()
    assert drawn(features_in_float64(PHI, TRAP.params("trap"), "test"), build).crossed == 0


def test_displacements_that_have_returned_are_not_evaluated_again(monkeypatch, capsys):
    sizes, evaluated = [], fibers._at

    def counted(system, points, block):
        sizes.append(len(points))
        return evaluated(system, points, block)

    monkeypatch.setattr(fibers, "_at", counted)
    dense_fiber(chain(), np.empty((0, 3)), eps=EPS, n_dirs=32, generator=named_generator(None, "test"), progress=True)
    first, *later = sizes
    assert first == 32
    assert later == sorted(later, reverse=True)
    assert later[-1] < 8
    assert "returning to the fiber: 32 of 32" in capsys.readouterr().err
