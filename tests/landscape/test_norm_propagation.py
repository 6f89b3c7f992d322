"""Oracles: closed forms, a search for the largest second derivative in the ball, Jacobians by autodiff, grids."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from widescape.arch import (
    ABRelu,
    Activation,
    Cos,
    Dense,
    Erf,
    Exp,
    Flatten,
    Frozen,
    Gaussian,
    Gelu,
    Identity,
    Polynomial,
    Rbf,
    Relu,
    Sequential,
    Sigmoid,
    Silu,
    Sin,
    Softmax,
    Softplus,
    Tanh,
    fc,
)
from widescape.core.errors import NonFiniteError, NotCertifiable, ShapeError
from widescape.landscape.activation_bounds import derivative_bounds
from widescape.landscape.norm_propagation import layerwise_kernel, network_bound

TANH_BEND = 4 / (3 * np.sqrt(3))
ONE = np.ones((1, 1))


def plain(*layers):
    """Weights act as they are: no scale by the fan-in, no bias."""
    return Sequential(*(replace(layer, param="standard") if isinstance(layer, Dense) else layer for layer in layers))


def weights(*matrices):
    return {"w": np.array(matrices, float)}


def unit_inputs(n, d, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def network(depth=1, width=8, n_out=1, *, act=None, d=3, seed=0, **scales):
    net = fc(depth, width, n_out, activation=act or Tanh(), **({"w_std": 1.2, "b_std": 0.3} | scales))
    return drawn(net, d, seed)


def drawn(net, d, seed=0):
    return net, jax.tree.map(np.asarray, net.init(jax.random.key(seed), (d,), dtype="float64"))


def outputs_of_moves(net, params, x, moves=None):
    """F as a function of the change of the parameters, those with `moves` 0 standing still; and their number."""
    w0, unravel = ravel_pytree(params)
    mask = jnp.ones_like(w0) if moves is None else ravel_pytree(moves)[0]
    return (lambda v: net.apply(unravel(w0 + mask * v), x).reshape(-1)), len(w0)


def searched(net, params, x, radii, *, order=2, moves=None, starts=2, steps=20):
    """The largest derivative of F of this order in unit directions that a search of each ball finds.

    Directions by alternation, points by ascent with shrinking steps. What is found is attained, so no upper bound can
    be below it.
    """
    with jax.enable_x64(True):
        F, size = outputs_of_moves(net, params, jnp.asarray(x), moves)
        climb = jax.jit(lambda key, radius: climbed(F, size, key, radius, order, steps))
        return [max(float(climb(jax.random.key(s), radius)) for s in range(starts)) for radius in radii]


def climbed(F, size, key, radius, order, steps):
    def alternate(_, state):
        w, directions = state
        z = unit(derivative(F, directions)(w))
        for k in range(order):
            others = directions[:k] + directions[k + 1 :]
            turned = unit(jax.grad(lambda a, others=others: z @ derivative(F, others)(a))(w))
            directions = (*directions[:k], turned, *directions[k + 1 :])
        return w, directions

    def uphill(i, state):
        w, directions, top = state
        z = unit(derivative(F, directions)(w))
        w = w + 0.5 * (1 - i / steps) * radius * unit(jax.grad(lambda a: z @ derivative(F, directions)(a))(w))
        w = w * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(w), 1e-300))
        w, directions = jax.lax.fori_loop(0, 3, alternate, (w, directions))
        return w, directions, jnp.maximum(top, jnp.linalg.norm(derivative(F, directions)(w)))

    start = tuple(unit(jax.random.normal(k, (size,), jnp.float64)) for k in jax.random.split(key, order))
    w, directions = jax.lax.fori_loop(0, 30, alternate, (jnp.zeros(size, jnp.float64), start))
    state = (w, directions, jnp.linalg.norm(derivative(F, directions)(w)))
    return jax.lax.fori_loop(0, steps, uphill, state)[2]


def derivative(F, directions):
    for direction in directions:
        F = partial(one_derivative, F, direction)
    return F


def one_derivative(F, direction, w):
    return jax.jvp(F, (w,), (direction,))[1]


def unit(a):
    return a / jnp.maximum(jnp.linalg.norm(a), 1e-300)


def jacobian(net, params, x, moves=None):
    with jax.enable_x64(True):
        F, size = outputs_of_moves(net, params, jnp.asarray(x), moves)
        return np.asarray(jax.jit(jax.jacrev(F))(jnp.zeros(size)))


def moving(params, trainable):
    """Ones where a parameter is trained, zeros elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full_like(leaf, trainable(jax.tree_util.keystr(path))), params
    )


# Closed forms


@pytest.mark.claim("norm_propagation/X1")
def test_three_linear_layers_of_one_neuron_have_the_bound_two_plus_two_radii_which_is_the_truth_at_the_center():
    bound = network_bound(plain(Dense(1), Dense(1), Dense(1)), (weights([1]),) * 3, ONE)
    for radius in (0.0, 0.5, 1.0, 7.0):
        np.testing.assert_allclose(bound(radius), 2 * (1 + radius), rtol=1e-9)
    hessian = jax.hessian(lambda w: w[0] * w[1] * w[2])(np.ones(3, np.float32))
    np.testing.assert_allclose(np.linalg.norm(hessian, 2), 2, rtol=1e-6)
    np.testing.assert_allclose(bound.lipschitz(1.0), 6.517064980, rtol=1e-9)


@pytest.mark.claim("norm_propagation/X1")
def test_two_linear_layers_with_biases_have_the_bound_root_two_everywhere():
    net = plain(Dense(1, b_std=1.0), Dense(1, b_std=1.0))
    bound = network_bound(net, ({"w": ONE, "b": np.zeros(1)},) * 2, ONE)
    np.testing.assert_allclose([bound(r) for r in (0.0, 1.0, 30.0)], np.sqrt(2), rtol=1e-9)


@pytest.mark.claim("norm_propagation/X2")
def test_one_tanh_neuron_has_the_bound_of_a_two_by_two_matrix():
    net, params = plain(Dense(1), Tanh(), Dense(1)), (weights([0]), (), weights([1]))
    frozen = network_bound(net, params, ONE, trainable=lambda path: path.startswith("[0]"))
    np.testing.assert_allclose([frozen(r) for r in (0.0, 1.0, 9.0)], 0.7698003589, rtol=1e-9)
    trained = network_bound(net, params, ONE)
    np.testing.assert_allclose([trained(0), trained(1)], [1.4564169307, 2.0317799913], rtol=1e-9)
    for radius in (0.0, 0.3, 2.0):
        q = TANH_BEND * (1 + radius)
        np.testing.assert_allclose(trained(radius), (q + np.sqrt(q**2 + 4)) / 2, rtol=1e-12)


@pytest.mark.claim("norm_propagation/X2")
def test_two_outputs_enter_by_the_largest_row_of_weights_that_leave_a_neuron():
    net = plain(Dense(2), Tanh(), Dense(2))
    bound = network_bound(net, (weights([0, 0]), (), weights([3, 4], [0, 1])), ONE)
    np.testing.assert_allclose([bound(0), bound(1)], [4.0933032635, 4.8260125552], rtol=1e-9)


@pytest.mark.claim("norm_propagation/X3")
def test_two_tanh_neurons_in_a_chain_have_these_blocks():
    net = plain(Dense(1), Tanh(), Dense(1), Tanh(), Dense(1))
    bound = network_bound(net, (weights([0]), (), weights([0]), (), weights([1])), ONE)
    np.testing.assert_allclose(bound(0), 1, rtol=1e-9)
    x, y = 3.6717940283, 4.3094010768
    np.testing.assert_allclose(bound.blocks(1), [[x, y, 1], [y, 1.5396007178, 1], [1, 1, 0]], rtol=1e-9)
    np.testing.assert_allclose(bound(1), 7.3145548839, rtol=1e-9)


@pytest.mark.claim("norm_propagation/X4")
@pytest.mark.parametrize("width", [1, 30, 200])
def test_with_a_frozen_output_the_bound_is_the_one_of_two_layer_networks(rng, width):
    X, a = rng.normal(size=(7, 4)), rng.normal(size=(width, 1))
    params = (weights(*rng.normal(size=(4, width))), (), {"w": a})
    net = Sequential(Dense(width, w_std=2.0), Tanh(), Frozen(Dense(1)))  # w_std 2 at fan-in 4: no scale at all
    gram_norm = np.sqrt(np.linalg.eigvalsh(X @ X.T)[-1])
    expected = TANH_BEND * np.abs(a).max() * np.linalg.norm(X, axis=1).max() * gram_norm / np.sqrt(width)
    for radius in (0.0, 1.0, 20.0):
        np.testing.assert_allclose(network_bound(net, params, X)(radius), expected, rtol=1e-9)


@pytest.mark.claim("norm_propagation/X4")
def test_with_all_hidden_layers_frozen_the_network_is_linear_and_the_bound_zero():
    net, params = network(2, 8, 2)
    by_name = network_bound(net, params, unit_inputs(5, 3), trainable=lambda path: path.startswith("[5]"))
    wrapped = Sequential(Frozen(Sequential(*net.layers[:5])), net.layers[5])
    by_layer = network_bound(wrapped, (params[:5], params[5]), unit_inputs(5, 3))
    for bound in (by_name, by_layer):
        assert [bound(r) for r in (0.0, 1.0, 5.0)] == [0, 0, 0]
        assert bound.lipschitz(1.0) > 0


def test_linear_layers_that_annihilate_each_other_are_anchored_at_zero():
    net = plain(Dense(2), Dense(2), Dense(2), Dense(1))
    params = (weights([1, 1]), weights([1, 0], [0, 0]), weights([0, 0], [0, 1]), weights([1], [1]))
    bound = network_bound(net, params, ONE, anchor_jacobians=True)
    for radius in (0.0, 0.1, 0.7):
        from_first_to_third = radius * (2 + radius)  # |(W3 + d3)(W2 + d2)| with W3 W2 = 0 and both of norm 1
        assert bound.blocks(radius)[0, 3] == pytest.approx(from_first_to_third, rel=1e-12, abs=1e-15)
        unanchored = network_bound(net, params, ONE).blocks(radius)[0, 3]
        np.testing.assert_allclose(unanchored, (1 + radius) ** 2, rtol=1e-12)


@pytest.mark.parametrize("outgoing", [[2.0], [3.0, 4.0]])
def test_an_anchored_jacobian_of_tanh_neurons_grows_by_their_bend_and_by_the_weights_that_leave_them(outgoing):
    count = len(outgoing)
    net = plain(Dense(count), Tanh(), Dense(count), Tanh(), Dense(1))
    middle = np.zeros((count, count))
    middle[0] = outgoing
    params = (weights([1] * count), (), {"w": middle}, (), weights(*[[1]] * count))
    bound = network_bound(net, params, ONE, anchor_jacobians=True)
    slope, norm = 1 / np.cosh(1.0) ** 2, np.linalg.norm(outgoing)
    for radius in (0.0, 0.05, 0.1):
        anchored = norm * slope + (norm + radius) * TANH_BEND * radius + radius * slope
        assert anchored < norm + radius
        np.testing.assert_allclose(bound.blocks(radius)[0, 2], anchored, rtol=1e-12)


def test_a_nonlinearity_at_the_output_adds_its_bend():
    bound = network_bound(plain(Dense(1), Tanh()), (weights([0.4]), ()), 3 * ONE)
    composed = network_bound(plain(Dense(1), Tanh(), Sin(1.0, 2.0)), (weights([0.4]), (), ()), 3 * ONE)
    for radius in (0.0, 2.0):
        np.testing.assert_allclose(bound(radius), 9 * TANH_BEND, rtol=1e-12)
        np.testing.assert_allclose(composed(radius), 9 * (4 + 2 * TANH_BEND), rtol=1e-12)


# The search in the ball

CASES = {
    "one hidden layer": (network(1, 8, 1), {}),
    "two outputs, two hidden layers": (network(2, 8, 2, act=Erf()), {}),
    "three hidden layers, anchored": (network(3, 6, 1, act=Gelu()), {"anchor_jacobians": True}),
    "biases alone": (network(2, 8, 2), {"trainable": lambda path: "b" in path}),
    "first and last layer": (network(2, 8, 1, act=Sin(1.5, 2.0)), {"trainable": lambda path: "[3]" not in path}),
    "standard parameterization": (network(2, 8, 2, param="standard", base_width=4), {}),
    "no biases, for the mean": (network(2, 8, 1, act=Silu(), b_std=None), {"reduction": "mean"}),
}
CASES["nonlinear output, two nonlinearities in a row"] = (
    drawn(Sequential(Dense(6, 1.2, 0.3), Sin(), Tanh(), Dense(2, 1.2, 0.3), Sigmoid()), 3),
    {},
)


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/I1")
@pytest.mark.parametrize("case", CASES)
def test_no_derivative_found_in_the_ball_exceeds_its_bound(case):
    (net, params), options = CASES[case]
    x = 1.5 * unit_inputs(5, 3)
    moves = moving(params, options["trainable"]) if "trainable" in options else None
    share = 1 / np.sqrt(len(x)) if options.get("reduction") == "mean" else 1
    bound = network_bound(net, params, x, **options)
    radii = (0.0, 0.5, 3.0)
    for radius, bent in zip(radii, searched(net, params, x, radii, moves=moves), strict=True):
        assert 0.001 * bound(radius) < share * bent <= bound(radius)
    for radius, steep in zip(radii, searched(net, params, x, radii, order=1, moves=moves), strict=True):
        assert 0.001 * bound.lipschitz(radius) < share * steep <= bound.lipschitz(radius)


def test_at_the_center_every_block_of_second_derivatives_is_bounded_by_its_entry():
    net, params = network(2, 3, 2, seed=3)
    x = unit_inputs(4, 3)
    with jax.enable_x64(True):
        F, size = outputs_of_moves(net, params, jnp.asarray(x))
        second = np.asarray(jax.jit(jax.jacfwd(jax.jacrev(F)))(jnp.zeros(size)))
    ends = np.cumsum([0, 12, 12, 8])
    bound = network_bound(net, params, x).blocks(0)
    np.testing.assert_array_equal(bound, bound.T)
    for j in range(3):
        for k in range(3):
            part = second[:, ends[j] : ends[j + 1], ends[k] : ends[k + 1]]
            assert trilinear_norm(part) <= bound[j, k] * (1 + 1e-12)
            assert (np.abs(part).max() < 1e-15) == (bound[j, k] == 0)


def trilinear_norm(tensor):
    """A lower bound of the norm of (z, u, v) -> T(z, u, v), by alternation."""
    best = 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        u, v = rng.normal(size=tensor.shape[1]), rng.normal(size=tensor.shape[2])
        for _ in range(50):
            z = tensor @ (v / np.linalg.norm(v)) @ (u / np.linalg.norm(u))
            u = np.einsum("nuv,n,v", tensor, z, v)
            v = np.einsum("nuv,n,u", tensor, z, u)
            if not np.linalg.norm(u) * np.linalg.norm(v):
                return best
        best = max(best, float(np.linalg.norm(tensor @ (v / np.linalg.norm(v)) @ (u / np.linalg.norm(u)))))
    return best


def test_outputs_move_no_further_than_the_displacement(rng):
    x = unit_inputs(5, 3)
    for depth, act in ((1, Tanh()), (2, Gelu())):
        net, params = network(depth, 8, 2, act=act)
        bound = network_bound(net, params, x)
        for radius in (0.1, 2.0):
            there = [np.asarray(net.apply(randomly_moved(params, radius, rng), x)) for _ in range(3)]
            moved = [np.linalg.norm(outputs - np.asarray(net.apply(params, x))) for outputs in there]
            assert 0.01 * bound.displacement(radius) < max(moved) <= bound.displacement(radius)
    linear = network_bound(plain(Dense(1)), (weights([2]),), 3 * ONE)
    assert linear.displacement(0.7) == pytest.approx(2.1, rel=1e-12)


def randomly_moved(params, radius, rng):
    steps = jax.tree.map(lambda w: rng.normal(size=w.shape), params)
    length = np.sqrt(sum(np.square(s).sum() for s in jax.tree.leaves(steps)))
    return jax.tree.map(lambda w, s: w + radius / length * s, params, steps)


def test_at_the_center_the_derivative_bound_of_a_linear_model_is_the_norm_of_its_inputs(rng):
    x = rng.normal(size=(6, 4))
    bound = network_bound(plain(Dense(1)), (weights(*rng.normal(size=(4, 1))),), x)
    assert bound(3.0) == 0
    np.testing.assert_allclose(bound.lipschitz(3.0), np.linalg.norm(x, 2), rtol=1e-12)


# Invariants


@pytest.mark.claim("norm_propagation/I2")
@given(
    depth=st.sampled_from([1, 2, 3]),
    anchored=st.booleans(),
    radii=st.lists(st.floats(0, 50), min_size=2, max_size=2),
    seed=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_bounds_do_not_decrease_with_the_radius(depth, anchored, radii, seed):
    net, params = network(depth, 6, 2, seed=seed)
    bound = network_bound(net, params, unit_inputs(4, 3), anchor_jacobians=anchored)
    low, high = sorted(radii)
    assert np.all(bound.blocks(low) <= bound.blocks(high) * (1 + 1e-14))
    for quantity in (bound, bound.lipschitz, bound.displacement):
        assert quantity(low) <= quantity(high) * (1 + 1e-14)


@pytest.mark.claim("norm_propagation/I2")
@pytest.mark.parametrize("anchored", [False, True])
def test_duplicated_data_scale_the_bound_by_root_two_and_leave_it_for_the_mean(anchored):
    net, params = network(2, 8, 2)
    x = unit_inputs(5, 3)
    twice = np.concatenate([x, x])

    def bound(x, reduction, radius):
        return network_bound(net, params, x, reduction=reduction, anchor_jacobians=anchored).blocks(radius)

    np.testing.assert_allclose(bound(twice, "sum", 0.0), np.sqrt(2) * bound(x, "sum", 0.0), rtol=1e-11)
    np.testing.assert_allclose(bound(twice, "sum", 2.0), np.sqrt(2) * bound(x, "sum", 2.0), rtol=1e-11)
    np.testing.assert_allclose(bound(twice, "mean", 2.0), bound(x, "mean", 2.0), rtol=1e-11)
    np.testing.assert_allclose(bound(x, "mean", 2.0), bound(x, "sum", 2.0) / np.sqrt(5), rtol=1e-14)


@pytest.mark.claim("norm_propagation/I2")
def test_a_factor_on_the_outputs_is_a_factor_on_every_bound():
    net, params = network(2, 8, 2)
    louder = Sequential(*net.layers[:-1], Dense(2, 3 * 1.2, 3 * 0.3))
    x = unit_inputs(5, 3)
    one, three = network_bound(net, params, x), network_bound(louder, params, x)
    for radius in (0.0, 1.0, 4.0):
        np.testing.assert_allclose(three.blocks(radius), 3 * one.blocks(radius), rtol=1e-12)
        np.testing.assert_allclose(three.lipschitz(radius), 3 * one.lipschitz(radius), rtol=1e-12)
        np.testing.assert_allclose(three.displacement(radius), 3 * one.displacement(radius), rtol=1e-12)


@pytest.mark.claim("norm_propagation/I3")
@pytest.mark.parametrize("anchored", [False, True])
def test_the_bound_does_not_know_the_order_of_neurons_nor_the_axes_of_the_input(rng, anchored):
    net, params = network(2, 8, 2, act=Erf())
    x = unit_inputs(5, 3)
    first, second, third = (dict(params[i]) for i in (1, 3, 5))
    p, q = rng.permutation(8), rng.permutation(8)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = {
        1: {"w": rotation.T @ np.asarray(first["w"])[:, p], "b": first["b"][p]},
        3: {"w": second["w"][p][:, q], "b": second["b"][q]},
        5: {"w": third["w"][q], "b": third["b"]},
    }
    other = tuple(turned.get(i, part) for i, part in enumerate(params))
    np.testing.assert_allclose(net.apply(other, x @ rotation), net.apply(params, x), rtol=1e-10, atol=1e-12)
    here = network_bound(net, params, x, anchor_jacobians=anchored)
    there = network_bound(net, other, x @ rotation, anchor_jacobians=anchored)
    for radius in (0.0, 0.2, 2.0):
        np.testing.assert_allclose(there.blocks(radius), here.blocks(radius), rtol=1e-11)
        np.testing.assert_allclose(there.lipschitz(radius), here.lipschitz(radius), rtol=1e-11)


@pytest.mark.claim("norm_propagation/I4")
def test_freezing_never_increases_a_bound():
    net, params = network(2, 8, 2)
    x = unit_inputs(5, 3)
    leaves = [f"[{i}]['{name}']" for i in (1, 3, 5) for name in "wb"]
    for anchored in (False, True):
        everything = network_bound(net, params, x, anchor_jacobians=anchored)
        for subset in range(1, 63):
            trained = {leaf for k, leaf in enumerate(leaves) if subset >> k & 1}
            part = network_bound(net, params, x, trainable=trained.__contains__, anchor_jacobians=anchored)
            for radius in (0.0, 1.5):
                assert np.all(part.blocks(radius) <= everything.blocks(radius) * (1 + 1e-13))
                assert part.lipschitz(radius) <= everything.lipschitz(radius) * (1 + 1e-13)


@pytest.mark.claim("norm_propagation/I4")
def test_anchoring_jacobians_never_increases_a_bound_and_tightens_it_at_the_center(measured):
    gains = {}
    for depth in (1, 2, 3):
        net, params = network(depth, 32)
        x = unit_inputs(6, 3)
        plain_bound = network_bound(net, params, x)
        anchored = network_bound(net, params, x, anchor_jacobians=True)
        for radius in (0.0, 0.01, 0.1, 1.0, 10.0):
            assert np.all(anchored.blocks(radius) <= plain_bound.blocks(radius) * (1 + 1e-13))
            assert anchored.lipschitz(radius) <= plain_bound.lipschitz(radius) * (1 + 1e-13)
        gains[depth] = plain_bound(0) / anchored(0)
    assert gains[1] == pytest.approx(1, rel=1e-12)
    assert gains[2] > 1.2
    assert gains[3] > 1.5
    measured(f"anchoring shrinks beta(0) by {gains[2]:.2f} (2 hidden layers of 32), {gains[3]:.2f} (3)")


def test_anchored_jacobians_start_from_the_ones_of_automatic_differentiation():
    net, params = network(3, 5, 2, d=3)
    x = unit_inputs(4, 3)
    held = network_bound(net, params, x, anchor_jacobians=True).transfers
    for low, high in ((0, 1), (1, 2), (0, 2)):
        tail = Sequential(*net.layers[2 + 2 * low : 2 + 2 * high])
        with jax.enable_x64(True):
            before = Sequential(*net.layers[: 2 + 2 * low]).apply(params[: 2 + 2 * low], x)
            own = params[2 + 2 * low : 2 + 2 * high]
            through = jax.jacrev(lambda z, own=own, tail=tail: tail.apply(own, z[None])[0])
            jacobians = jax.jit(jax.vmap(through))(before)
            after = Sequential(*net.layers[: 2 + 2 * high]).apply(params[: 2 + 2 * high], x)
            slopes = 1 - np.tanh(np.asarray(after)) ** 2
        norms = [np.linalg.norm(np.asarray(j), 2) for j in jacobians]
        np.testing.assert_allclose(held.reached[high][low], max(norms), rtol=1e-12)
        if high == 1:
            passed = [np.linalg.norm(s[:, None] * np.asarray(j), 2) for s, j in zip(slopes, jacobians, strict=True)]
            np.testing.assert_allclose(held.passed[high][low], max(passed), rtol=1e-12)


# The layer-wise kernel


@pytest.mark.claim("norm_propagation/I5")
@pytest.mark.parametrize("case", CASES)
def test_the_layerwise_kernel_is_the_jacobian_times_its_transpose(case):
    (net, params), options = CASES[case]
    options = {name: value for name, value in options.items() if name != "anchor_jacobians"}
    x = unit_inputs(5, 3)
    moves = moving(params, options["trainable"]) if "trainable" in options else None
    J = jacobian(net, params, x, moves)
    expected = J @ J.T / (5 if options.get("reduction") == "mean" else 1)
    np.testing.assert_allclose(layerwise_kernel(net, params, x, **options), expected, rtol=1e-10, atol=1e-13)


# Ways of writing the same network


def test_parameterizations_that_scale_alike_have_the_same_bound():
    net, params = network(2, 8, 2, param="standard")
    same = Sequential(
        Flatten(),
        *(Dense(8, 3**0.5, 1.0), Tanh(), Dense(8, 8**0.5, 1.0), Tanh(), Dense(2, 8**0.5, 1.0)),
    )
    x = unit_inputs(5, 3)
    for radius in (0.0, 1.0):
        np.testing.assert_allclose(
            network_bound(net, params, x).blocks(radius), network_bound(same, params, x).blocks(radius), rtol=1e-12
        )


def test_grouping_flattening_and_freezing_by_layer_or_by_name_do_not_matter():
    net, params = network(2, 8, 2, d=12)
    images = unit_inputs(5, 12).reshape(5, 2, 2, 3)
    bound = network_bound(net, params, images.reshape(5, 12), trainable=lambda path: "[3]" not in path)
    layers = net.layers
    grouped = Sequential(Flatten(), layers[1], Frozen(Sequential(layers[2], layers[3])), Identity(), *layers[4:])
    held = (params[0], params[1], (params[2], params[3]), (), *params[4:])
    other = network_bound(grouped, held, images)
    np.testing.assert_allclose(other.blocks(1.0), bound.blocks(1.0), rtol=1e-13)


def test_a_nonlinearity_before_the_first_dense_layer_is_part_of_the_data():
    net = Sequential(Relu(), Dense(8), Tanh(), Dense(1))
    params = net.init(jax.random.key(0), (3,), dtype="float64")
    x = unit_inputs(5, 3)
    direct = network_bound(Sequential(*net.layers[1:]), params[1:], np.maximum(x, 0))
    assert network_bound(net, params, x)(1.0) == pytest.approx(direct(1.0), rel=1e-13)


def test_widths_are_those_of_the_parameters():
    net = fc(1, 8, 1, activation=Tanh())
    params = net.init(jax.random.key(0), (3,), width=20, dtype="float64")
    wide = fc(1, 20, 1, activation=Tanh())
    x = unit_inputs(5, 3)
    assert network_bound(net, params, x)(1.0) == network_bound(wide, params, x)(1.0)


# Constants of the nonlinearities

NONLINEARITIES = [
    Tanh(),
    Erf(),
    Erf(-1.5, 0.7, 2.0),
    Gelu(),
    Sigmoid(),
    Softplus(),
    Silu(),
    Sin(-2.0, 1.5, 0.3),
    Cos(0.7, -3.0, 0.1),
    Rbf(0.6),
    Gaussian(-1.3, -0.8),
]


@pytest.mark.parametrize("act", NONLINEARITIES, ids=repr)
def test_derivative_bounds_are_the_largest_values_on_a_fine_grid(act):
    with jax.enable_x64(True):
        grid = jnp.linspace(-40.0, 40.0, 800_001, dtype=jnp.float64)
        slope = jax.vmap(jax.grad(act.phi))(grid)
        bend = jax.vmap(jax.grad(jax.grad(act.phi)))(grid)
        largest = [float(jnp.abs(values).max()) for values in (slope, bend)]
    for bound, reached in zip(derivative_bounds(act), largest, strict=True):
        assert reached * (1 - 1e-14) <= bound <= reached * (1 + 1e-6)


# Refusals


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Relu(), "layer 1, Relu: it has a kink"),
        (ABRelu(0.1, 1.0), "layer 1, ABRelu: it has a kink"),
        (Exp(), "layer 1, Exp: the derivatives of polynomials and exponentials"),
        (Polynomial((0.0, 1.0, 0.5)), "layer 1, Polynomial: the derivatives of polynomials"),
        (Activation(jnp.tanh), r"layer 1, Activation\(tanh\): the suprema .* are not known here"),
        (Softmax(), "layer 1, Softmax: norm propagation covers chains"),
        (Frozen(Relu()), "layer 1, Relu: it has a kink"),
    ],
)
@pytest.mark.parametrize("measurement", [network_bound, layerwise_kernel])
def test_layers_without_bounds_are_refused_by_name(measurement, layer, reason):
    net = Sequential(Dense(4), layer, Dense(1))
    with pytest.raises(NotCertifiable, match=reason):
        measurement(net, net.init(jax.random.key(0), (3,)), unit_inputs(5, 3))


def test_arguments_that_do_not_fit_are_refused():
    net, params = network()
    x = unit_inputs(5, 3)
    with pytest.raises(TypeError, match=r"`net` is .*give a network of widescape.arch"):
        network_bound(np.tanh, params, x)
    with pytest.raises(ValueError, match="`reduction` is 'max'"):
        network_bound(net, params, x, reduction="max")
    with pytest.raises(ShapeError, match="weights for 3 features"):
        network_bound(net, params, unit_inputs(5, 4))
    with pytest.raises(ShapeError, match="at least 2 axes"):
        network_bound(net, params, x[0])
    with pytest.raises(ValueError, match="selects no parameter"):
        network_bound(net, params, x, trainable=lambda path: False)
    with pytest.raises(ValueError, match="NaN or infinite"):
        network_bound(net, jax.tree.map(lambda w: w * np.nan, params), x)
    with pytest.raises(NonFiniteError, match="the network overflows"):
        network_bound(net, jax.tree.map(lambda w: w * 1e300, params), 1e20 * x)


@pytest.mark.parametrize("name", ["__call__", "blocks", "lipschitz", "displacement"])
def test_radii_that_are_no_radii_are_refused(name):
    net, params = network(2)
    measure = getattr(network_bound(net, params, unit_inputs(5, 3)), name)
    for radius in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="`radius` is"):
            measure(radius)
    with pytest.raises(TypeError, match="`radius` is '1'"):
        measure("1")
    with pytest.raises(NonFiniteError, match="the bound overflows"):
        measure(1e200)


# How tight it is

TABLE = {1: (2.6, 1.8, 1.6), 2: (11.0, 15.0, 36.0)}
ANCHORED = 7.6


def tightness(depth, width, act, n_out):
    net, params = network(depth, width, n_out, act=act, seed=width + depth)
    x = unit_inputs(6, 3, seed=5)
    anchored = network_bound(net, params, x, anchor_jacobians=True)
    found = searched(net, params, x, (0.0, 1.0, 4.0), starts=6, steps=40)
    bound = network_bound(net, params, x)
    return [bound(radius) / best for radius, best in zip((0.0, 1.0, 4.0), found, strict=True)], anchored(0) / found[0]


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/table")
@pytest.mark.parametrize("depth", TABLE)
def test_the_bound_is_as_close_to_what_a_search_finds_as_the_table_says(depth, measured):
    cases = [(w, act, c) for w in (8, 64) for act, c in ((Tanh(), 1), (Tanh(), 2), (Erf(), 1), (Gelu(), 1))]
    ratios, anchored = zip(*(tightness(depth, *case) for case in cases), strict=True)
    low, high = np.min(ratios, axis=0), np.max(ratios, axis=0)
    spans = ", ".join(f"{a:.2f}-{b:.2f} at R={r}" for a, b, r in zip(low, high, (0, 1, 4), strict=True))
    measured(f"{depth} hidden: {spans}; anchored {min(anchored):.2f}-{max(anchored):.2f} at 0")
    assert np.all(low >= 1)
    assert np.all(high <= TABLE[depth])
    assert min(anchored) >= 1
    assert max(anchored) <= ANCHORED


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/slope")
@pytest.mark.parametrize(("depth", "expected"), [(1, -0.44), (2, -0.41)])
def test_the_bound_at_radius_one_falls_with_the_width(depth, expected, measured):
    x = unit_inputs(6, 3, seed=5)
    widths = np.array([128, 256, 512, 1024])
    values = [[network_bound(*network(depth, int(m), seed=s), x)(1.0) for m in widths] for s in range(3)]
    slope = np.polyfit(np.log(widths), np.log(values).mean(axis=0), 1)[0]
    measured(f"{depth} hidden: slope {slope:.3f}, widths 128 to 1024")
    assert abs(slope - expected) <= 0.05
