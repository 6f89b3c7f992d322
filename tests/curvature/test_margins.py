"""The margin is the smallest distance of what a function compares, wherever in its program that happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from widescape.arch import Erf, Relu, fc
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.curvature.margins import kink_margin, on_same_piece

X = np.random.default_rng(0).normal(size=(5, 3))
W = np.random.default_rng(1).normal(size=(3, 4))
Z = X @ W
SMALLEST = np.abs(Z).min()


@jax.custom_jvp
def own_relu(z):
    return jnp.maximum(z, 0)


own_relu.defjvp(lambda z, t: (own_relu(z[0]), (z[0] > 0) * t[0]))


@jax.custom_vjp
def reverse_relu(z):
    return jnp.maximum(z, 0)


reverse_relu.defvjp(lambda z: (reverse_relu(z), z), lambda z, g: ((z > 0) * g,))


def margin(activation):
    return kink_margin(System(lambda w, x: activation(x @ w), W, X))


def guarded(z):
    return jnp.where(z > 0, z, jnp.expm1(jnp.where(z > 0, 0.0, z)))


@pytest.mark.parametrize(
    "activation",
    [
        jax.nn.relu,
        jax.nn.leaky_relu,
        jax.nn.elu,
        jax.nn.relu6,
        jnp.abs,
        guarded,
        own_relu,
        reverse_relu,
        lambda z: z * jnp.sign(z),
        lambda z: jnp.where(z <= 0, 0.0, z),
        jax.jit(jax.jit(jax.nn.relu)),
        jax.vmap(jax.vmap(jax.nn.relu)),
        jax.vmap(own_relu),
        jax.checkpoint(jax.nn.relu),
        lambda z: lax.scan(lambda h, _: (jax.nn.relu(h), None), z, None, length=1)[0],
        lambda z: lax.scan(lambda i, row: (i + 1, jax.nn.relu(row)), 0, z)[1],
        lambda z: lax.map(jax.nn.relu, z),
        lambda z: lax.fori_loop(0, 3, lambda i, h: jnp.where(z > 0, h, 0.0), z),
        lambda z: lax.cond(jnp.sum(z) > 1e6, jnp.sin, jax.nn.relu, z),
    ],
)
def test_of_a_rectifier_it_is_the_smallest_size_of_what_comes_in(activation):
    np.testing.assert_allclose(margin(activation), SMALLEST, rtol=1e-12)


@pytest.mark.parametrize(
    "activation",
    [
        jnp.tanh,
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.softplus,
        jax.nn.softmax,
        jax.nn.log_softmax,
        lambda z: jax.nn.logsumexp(z, axis=1),
        lambda z: jnp.where(jnp.arange(4)[None] > 2, z, 0.0),
        lambda z: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h), z),
    ],
)
def test_of_a_smooth_function_it_is_infinite(activation):
    assert margin(activation) == np.inf


def test_what_only_data_decide_is_no_kink():
    assert kink_margin(System(lambda w, x: jax.nn.relu(x) @ w, W, X)) == np.inf


def test_the_branch_that_is_not_taken_does_not_count():
    def f(w, x):
        return lax.cond(jnp.sum(x) < 1e6, lambda z: jnp.maximum(z, 5.0), jax.nn.relu, x @ w)

    far = np.abs(Z - 5).min()
    assert far > SMALLEST
    np.testing.assert_allclose(kink_margin(System(f, W, X)), far, rtol=1e-12)


def test_the_turn_of_a_loop_that_comes_nearest_counts():
    def f(w, x):
        return lax.scan(lambda h, _: (jax.nn.relu(h - 0.3), None), x @ w + 2, None, length=3)[0]

    h, least = Z + 2, np.inf
    for _ in range(3):
        least, h = min(least, np.abs(h - 0.3).min()), np.maximum(h - 0.3, 0)
    np.testing.assert_allclose(kink_margin(System(f, W, X)), least, rtol=1e-12)


def test_of_two_numbers_it_is_their_distance():
    np.testing.assert_allclose(margin(lambda z: jnp.maximum(z[:, :2], z[:, 2:])), np.abs(Z[:, :2] - Z[:, 2:]).min())
    np.testing.assert_allclose(margin(lambda z: lax.clamp(-0.4, z, 99.0)), np.abs(Z + 0.4).min())
    np.testing.assert_allclose(margin(lambda z: lax.clamp(-99.0, z, 0.5)), np.abs(Z - 0.5).min())
    np.testing.assert_allclose(margin(lambda z: jnp.where(z > 0.5, z, 0.5)), np.abs(Z - 0.5).min())


def test_a_dense_network_is_as_far_as_its_nearest_preactivation():
    net = fc(2, 6, 1, activation=Relu())
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), net.init(jax.random.key(0), (3,)))
    system = System(net.apply, params, X)
    assert 0 < kink_margin(system) < np.inf
    assert kink_margin(system, np.zeros(system.num_params)) == 0
    smooth = fc(2, 6, 1, activation=Erf())
    assert kink_margin(System(smooth.apply, params, X)) == np.inf


def test_a_convolution_is_as_far_as_its_nearest_preactivation():
    rng = np.random.default_rng(2)
    images, kernel = rng.normal(size=(2, 5, 5, 1)), rng.normal(size=(3, 3, 1, 2))

    def convolved(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    patches = np.lib.stride_tricks.sliding_window_view(images[..., 0], (3, 3), axis=(1, 2))
    expected = np.abs(np.einsum("nijkl,klo->nijo", patches, kernel[:, :, 0])).min()
    system = System(lambda w, x: jax.nn.relu(convolved(w, x)).reshape(len(x), -1), kernel, images)
    np.testing.assert_allclose(kink_margin(system), expected, rtol=1e-10)


def test_it_is_taken_at_the_point_that_is_asked_for_in_the_systems_precision():
    system = System(lambda w, x: jax.nn.relu(x @ w), W, X)
    np.testing.assert_allclose(kink_margin(system, 3 * W), 3 * SMALLEST, rtol=1e-12)
    single = System(lambda w, x: jax.nn.relu(x @ w), W.astype(np.float32), X.astype(np.float32))
    np.testing.assert_allclose(kink_margin(single), SMALLEST, rtol=1e-3)
    with pytest.raises(ShapeError, match="flat vector of 12"):
        kink_margin(system, np.zeros(5))


@pytest.mark.parametrize(
    "activation",
    [
        lambda z: lax.scan(lambda c, row: (jnp.maximum(c, row), jnp.abs(row)), jnp.zeros(4), z)[1],
        lambda z: jnp.maximum(z, 0),
        own_relu,
        lambda z: lax.cond(z[0, 0] > 0, jnp.tanh, jnp.sin, z),
        lambda z: jnp.clip(z, -0.5, 0.5),
    ],
)
def test_a_piece_ends_where_the_outcome_of_a_comparison_changes(activation):
    system = System(lambda w, x: activation(x @ w), W, X)
    near = 1e-6 * np.random.default_rng(2).normal(size=(3, W.size))
    assert on_same_piece(system, system.flat + near).all()
    assert not on_same_piece(system, -system.flat[None]).any()


def test_signs_of_preactivations_decide_the_piece_of_a_relu_layer():
    points = W.ravel() + 0.3 * np.random.default_rng(3).normal(size=(40, W.size))
    expected = [((X @ w.reshape(W.shape) > 0) == (Z > 0)).all() for w in points]
    assert 0 < sum(expected) < 40
    found = on_same_piece(System(lambda w, x: jax.nn.relu(x @ w), W, X), points)
    np.testing.assert_array_equal(found, expected)
    assert on_same_piece(System(lambda w, x: jnp.tanh(x @ w), W, X), points).all()


def test_a_comparison_with_nan_is_refused_and_not_taken_for_a_distance():
    undefined = System(lambda w, x: jnp.maximum(jnp.log(w) * x, 0.0), np.array(-1.0), np.ones(2))
    with pytest.raises(NonFiniteError, match="compares NaN"):
        kink_margin(undefined)
