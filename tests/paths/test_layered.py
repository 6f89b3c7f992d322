"""Chains of layers: their forward pass against NumPy, their places in PyTrees, and what has no place in a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from path_networks import ACTIVATIONS, IMAGE_SHAPE, Plain, images, random_chain, random_layers
from widescape import arch, train
from widescape.core.errors import DtypeError, ShapeError
from widescape.curvature import System
from widescape.paths.condition import feature_condition
from widescape.paths.layered import ChainLayer, Layered, as_layered, columns, resized, restrict


def leaves_equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(u, v) and np.asarray(u).dtype == np.asarray(v).dtype
        for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# The function


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_computes_its_definition(activation, bias, rng):
    net, plain = random_chain(rng, (3, 5, 4, 2), activation=activation, bias=bias)
    x = rng.normal(size=(6, 3))
    with jax.enable_x64(True):
        np.testing.assert_allclose(net(x), plain.features(net.layers, x), rtol=1e-11, atol=1e-13)
        for layer in range(4):
            found = net.features(x, layer)
            np.testing.assert_allclose(found, plain.features(net.layers, x, 0, layer), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(net.features(net.features(x, 1), 3, 1), net(x), rtol=1e-13)
    np.testing.assert_allclose(jax.jit(net)(x.astype(np.float32)), plain.features(net.layers, x), rtol=2e-4, atol=1e-5)


def test_a_chain_of_convolutions_pooling_and_a_flatten_computes_its_definition(rng):
    net, plain = images(rng, activation="gelu")
    x = rng.normal(size=(3, *IMAGE_SHAPE))
    with jax.enable_x64(True):
        for layer in range(1, 5):
            found = net.features(x, layer)
            np.testing.assert_allclose(found, plain.features(net.layers, x, 0, layer), rtol=1e-11, atol=1e-13)
    assert net.widths == (2, 6, 5, 7, 3)
    assert net.num_layers == 4


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolutions_have_strides_and_padding(strides, padding, rng):
    shapes = [(3, 2, 1, 4), (1, 3, 4, 2)]
    layers = [(rng.normal(size=s), rng.normal(size=s[-1])) for s in shapes]
    x = rng.normal(size=(2, 8, 9, 1))
    plain = Plain((np.tanh,), {0: (strides, padding), 1: ((1, 1), "SAME")})
    net = Layered(layers, jnp.tanh, [ChainLayer(strides=strides, padding=padding), ChainLayer()])
    with jax.enable_x64(True):
        np.testing.assert_allclose(net(x), plain.features(layers, x), rtol=1e-11, atol=1e-12)


def test_rows_of_a_flatten_belong_to_the_channel_at_their_position(rng):
    """Columns of a weight are (positions, units in, units out), and restriction keeps channels at every position."""
    w = rng.normal(size=(3 * 4, 5))
    how = ChainLayer(block=3)
    cut = columns(w, how)
    for position in range(3):
        for channel in range(4):
            np.testing.assert_array_equal(cut[position, channel], w[position * 4 + channel])
    rows, kept = np.array([2, 0]), np.array([4, 1, 3])
    small = restrict(w, how, rows, kept)
    assert small.shape == (6, 3)
    np.testing.assert_array_equal(small[2 * 1 + 0], w[4 * 1 + 2][kept])
    np.testing.assert_array_equal(restrict(w, how, None, None), w)
    np.testing.assert_array_equal(resized(columns(w, how), w, how), w)
    kernel = rng.normal(size=(3, 2, 4, 5))
    np.testing.assert_array_equal(restrict(kernel, ChainLayer(), rows, kept), kernel[:, :, rows][..., kept])


def test_an_activation_of_the_architectures_is_taken(rng):
    layers = random_layers(rng, (3, 5, 2))
    x = rng.normal(size=(4, 3))
    net = Layered(layers, arch.Erf())
    again = Layered(layers, jax.lax.erf)
    np.testing.assert_allclose(net(x), again(x), rtol=1e-6)
    assert Layered(layers, arch.Erf()).activations == net.activations


# A PyTree


def test_a_chain_is_a_pytree_of_its_weights_and_biases(rng):
    net, _ = random_chain(rng, (3, 5, 2))
    leaves, structure = jax.tree.flatten(net)
    assert [leaf.shape for leaf in leaves] == [(3, 5), (5,), (5, 2), (2,)]
    assert leaves_equal(jax.tree.unflatten(structure, leaves), net)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, net)
    np.testing.assert_array_equal(doubled.layers[1][0], 2 * net.layers[1][0])
    assert doubled.widths == net.widths
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(net)[0]]
    assert len(set(names)) == 4
    other, _ = random_chain(rng, (3, 5, 2))
    assert jax.tree.structure(other) == structure
    assert jax.tree.structure(Layered(net.layers, jnp.sin)) != structure
    gradient = jax.grad(lambda n: n(np.ones((2, 3), np.float32)).sum())(jax.tree.map(np.float32, net))
    assert isinstance(gradient, Layered)


def test_precision_is_that_of_the_weights_and_can_be_doubled(rng):
    net, _ = random_chain(rng, (3, 5, 2), dtype=np.float32)
    assert net.dtype == np.float32
    wide = net.as_float64()
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide.layers[0][0], net.layers[0][0])
    assert net.dtype == np.float32


def test_a_chain_can_be_trained_as_it_is(rng):
    x, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(2, size=20)
    net, _ = random_chain(rng, (3, 8, 2), dtype=np.float32)
    system = System(lambda n, x: n(x), net, x, y, loss="cross_entropy", reduction="mean")
    run = train.fit(system, optax.adam(0.03), steps=60)
    assert system.value(system.vector(run.params)) < 0.7 * system.value()
    report = feature_condition(run.params, x, y, "cross_entropy", draws=1, steps=0)
    assert report.net_loss == pytest.approx(float(system.value(system.vector(run.params))), rel=1e-5)


# From and to the parameters of a network

NETWORKS = {
    "ntk": {"param": "ntk"},
    "standard": {"param": "standard"},
    "improved standard": {"param": "standard", "base_width": 3},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("b_std", [None, 0.4])
@pytest.mark.parametrize("double", [False, True])
def test_a_network_of_the_architectures_is_a_chain(name, b_std, double, rng):
    network = arch.fc(depth=2, width=7, n_out=2, activation=arch.Gelu(), w_std=1.3, b_std=b_std, **NETWORKS[name])
    params = network.init(jax.random.key(1), (5,), dtype="float64" if double else "float32")
    chain = Layered.from_params(params, network)
    x = rng.normal(size=(6, 5)).astype(np.float64 if double else np.float32)
    assert chain.widths == (5, 7, 7, 2)
    assert chain.dtype == x.dtype
    assert all((b is None) == (b_std is None) for _, b in chain.layers)
    with jax.enable_x64(double):
        np.testing.assert_allclose(chain(x), network.apply(params, x), rtol=1e-12 if double else 3e-5, atol=1e-6)
    back = chain.to_params()
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for given, found in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        assert found.dtype == given.dtype
        np.testing.assert_allclose(found, given, rtol=4 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("name", NETWORKS)
def test_unequal_widths_keep_their_own_factors(name, rng):
    base = NETWORKS[name].get("base_width")
    param = NETWORKS[name]["param"]

    def dense(width, base):
        return arch.Dense(width, 1.2, 0.3, param, base)

    network = arch.Sequential(
        dense(4, base), arch.Tanh(), arch.Identity(), dense(9, base and 2), arch.Sin(), dense(2, base and 2)
    )
    params = network.init(jax.random.key(0), (5,), dtype="float64")
    x = rng.normal(size=(6, 5))
    with jax.enable_x64(True):
        found = Layered.from_params(params, network)(x)
        np.testing.assert_allclose(found, network.apply(params, x), rtol=1e-12)


def test_images_are_flattened_and_linear_models_are_chains(rng):
    network = arch.Sequential(arch.Flatten(), arch.Dense(3, 1.0, 0.5))
    params = network.init(jax.random.key(0), (2, 2, 3))
    x = rng.normal(size=(4, 2, 2, 3)).astype(np.float32)
    chain = Layered.from_params(params, network)
    assert chain.widths == (12, 3)
    np.testing.assert_allclose(chain(x), network.apply(params, x), rtol=1e-5, atol=1e-6)
    single = arch.Dense(3, 1.0, 0.5)
    held = single.init(jax.random.key(0), (12,))
    np.testing.assert_allclose(
        Layered.from_params(held, single)(x.reshape(4, 12)), single.apply(held, x.reshape(4, 12)), rtol=1e-5, atol=1e-6
    )


def test_a_bias_of_scale_zero_leaves_no_way_back_and_says_so():
    network = arch.fc(depth=1, width=4, n_out=2, activation=arch.Relu(), b_std=0.0)
    with pytest.raises(ValueError, match="b_std"):
        Layered.from_params(network.init(jax.random.key(0), (3,)), network).to_params()


def test_leaves_of_a_users_pytree_are_named(rng):
    params = {
        "out": {"kernel": rng.normal(size=(6, 2))},
        "in": {"bias": rng.normal(size=5), "kernel": rng.normal(size=(3, 5))},
        "mid": [rng.normal(size=(5, 6)), rng.normal(size=6)],
    }
    spec = [("in/kernel", "in/bias"), ("mid/0", "mid/1"), ("out/kernel", None)]
    chain = Layered.from_params(params, spec, jnp.tanh)
    x = rng.normal(size=(4, 3))
    h = np.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    h = np.tanh(h @ params["mid"][0] + params["mid"][1])
    np.testing.assert_allclose(chain(x), h @ params["out"]["kernel"], rtol=1e-4, atol=1e-5)
    assert leaves_equal(chain.to_params(), params)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, chain).to_params()
    np.testing.assert_array_equal(doubled["mid"][1], 2 * params["mid"][1])


def test_a_chain_from_nowhere_has_no_pytree_to_go_back_to(rng):
    net, _ = random_chain(rng, (3, 4, 2))
    with pytest.raises(ValueError, match="PyTree"):
        net.to_params()


def test_a_system_of_a_chain_or_of_an_architecture_is_a_chain(rng):
    net, _ = random_chain(rng, (3, 4, 2), dtype=np.float32)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    assert leaves_equal(as_layered(System(lambda n, x: n(x), net, x)), net)
    network = arch.fc(depth=1, width=4, n_out=2, activation=arch.Relu())
    params = network.init(jax.random.key(0), (3,))
    found = as_layered(System(network.apply, params, x))
    assert leaves_equal(found.layers, Layered.from_params(params, network).layers)
    assert as_layered(net) is net


def test_a_system_that_wraps_its_chain_in_more_is_refused(rng):
    """f is not the chain itself, so the chain alone says nothing of its outputs."""
    net, _ = random_chain(rng, (3, 4, 2), dtype=np.float32)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    with pytest.raises((NotImplementedError, ValueError)):
        as_layered(System(lambda n, x: n(x) ** 2, net, x))


# What has no place in a chain


class TestRefusals:
    """Claim R1."""

    pytestmark = pytest.mark.claim("nguyen2021connectivity/R1")

    @pytest.mark.parametrize(
        "mixing",
        [
            lambda h: jax.nn.softmax(h, axis=-1),
            lambda h: h - h.mean(axis=-1, keepdims=True),
            lambda h: h[..., ::-1],
            lambda h: jnp.concatenate([h[..., :1] + h[..., -1:], h[..., 1:]], -1),
            lambda h: jnp.concatenate([h[..., :-1], h[..., :1] + h[..., -1:]], -1),
            lambda h: h * jnp.arange(h.shape[-1], dtype=h.dtype).reshape((1,) * (h.ndim - 1) + (-1,)),
            lambda h: h[..., :1],
        ],
        ids=["softmax", "layer norm", "reversal", "last into first", "first into last", "by index", "fewer"],
    )
    def test_an_activation_that_mixes_units(self, mixing, rng):
        with pytest.raises(NotImplementedError, match="hidden layer 1"):
            Layered(random_layers(rng, (3, 4, 2)), mixing)

    @pytest.mark.parametrize(
        "mixing", [lambda h: h - h.mean(axis=0, keepdims=True), lambda h: h[::-1]], ids=["batch norm", "reversal"]
    )
    def test_an_activation_that_mixes_examples(self, mixing, rng):
        with pytest.raises(NotImplementedError, match="hidden layer 1"):
            Layered(random_layers(rng, (3, 4, 2)), mixing)

    @pytest.mark.parametrize(
        "mixing",
        [
            lambda h: h[..., ::-1],
            lambda h: h - h.mean(axis=-1, keepdims=True),
            lambda h: jnp.concatenate([h[..., :1], h[..., 1:2] + h[..., :1], h[..., 2:]], -1),
            lambda h: jnp.concatenate([h[..., :-1], h[..., -1:] + h[..., :1]], -1),
            lambda h: h - h.mean(axis=0, keepdims=True),
        ],
        ids=["reversal", "layer norm", "first into second", "first into last", "batch norm"],
    )
    def test_something_after_a_layer_that_mixes_channels_or_examples(self, mixing, rng):
        layers = random_layers(rng, (3, 4, 2), dtype=np.float32)
        x, y = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
        net = Layered(layers, jnp.tanh, {0: ChainLayer(after=mixing)})
        with pytest.raises(NotImplementedError, match="after layer 1"):
            feature_condition(net, x, y, "square", draws=1, steps=0)

    def test_a_mixing_function_inside_a_system(self, rng):
        layers = random_layers(rng, (3, 4, 2), dtype=np.float32)
        x, y = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
        net = Layered(layers, jnp.tanh, {0: ChainLayer(after=lambda h: h[..., ::-1])})
        with pytest.raises(NotImplementedError, match="after layer 1"):
            feature_condition(System(lambda n, x: n(x), net, x, y), draws=1, steps=0)

    @pytest.mark.parametrize(
        "network",
        [
            arch.Sequential(arch.Dense(4), arch.Dense(2)),
            arch.Sequential(arch.Dense(4), arch.Relu()),
            arch.Sequential(arch.Relu(), arch.Dense(2)),
            arch.Sequential(arch.Dense(4), arch.Relu(), arch.Tanh(), arch.Dense(2)),
            arch.Sequential(arch.Dense(4), arch.Softmax(), arch.Dense(2)),
            arch.Sequential(arch.Frozen(arch.Dense(4)), arch.Relu(), arch.Dense(2)),
        ],
        ids=["two affine", "no read-out", "activation first", "two activations", "softmax", "frozen"],
    )
    def test_an_architecture_that_is_no_chain(self, network):
        params = network.init(jax.random.key(0), (3,))
        with pytest.raises(NotImplementedError):
            Layered.from_params(params, network)

    def test_a_system_of_a_plain_function(self):
        with pytest.raises(NotImplementedError, match="fit_curve"):
            as_layered(System(lambda w, x: x @ w, np.ones(3), np.eye(3)))

    @pytest.mark.parametrize(
        ("shapes", "how", "words"),
        [
            ([(3, 4), (5, 2)], None, "layer 2 has 5 input rows .* 4 units"),
            ([(3, 4), (9, 2)], {1: ChainLayer(block=2)}, "layer 2 has 9 input rows in blocks of 2"),
            ([(3, 3, 2, 4), (3, 3, 5, 2)], None, "layer 2 has 5 input rows"),
            ([(3, 4), (4, 2)], {1: ChainLayer(after=abs)}, "layer 2 is the last"),
            ([(3, 3, 2, 4), (3, 3, 4, 2)], {1: ChainLayer(block=2)}, "layer 2 is a convolution"),
            ([(3, 4), (4, 2)], {2: ChainLayer()}, r"layers \[2\]"),
            ([(3, 4), (4, 2)], [ChainLayer()], "1 entries"),
            ([(3, 0), (0, 2)], None, "layer 1 has shape"),
        ],
    )
    def test_layers_that_do_not_follow_on_each_other(self, shapes, how, words):
        with pytest.raises(ShapeError, match=words):
            Layered([(np.ones(s), None) for s in shapes], jnp.tanh, how)

    def test_other_layers_that_do_not_fit(self, rng):
        w = [(rng.normal(size=(3, 4)), None), (rng.normal(size=(4, 2)), None)]
        with pytest.raises(ShapeError, match="layer 1 has a bias"):
            Layered([(w[0][0], np.zeros(3)), w[1]], jnp.tanh)
        with pytest.raises(ShapeError, match="2 entries"):
            Layered(w, [jnp.tanh, jnp.tanh])
        with pytest.raises(ShapeError, match="empty"):
            Layered([], jnp.tanh)
        with pytest.raises(DtypeError, match="layer 1 holds int64"):
            Layered([(np.ones((3, 4), np.int64), None), w[1]], jnp.tanh)
        with pytest.raises(DtypeError, match="complex"):
            Layered([(w[0][0] * 1j, None), w[1]], jnp.tanh)
        with pytest.raises(ValueError, match="layer 2"):
            Layered([w[0], (np.full((4, 2), np.nan), None)], jnp.tanh)
        with pytest.raises(TypeError, match="layer 1"):
            Layered([w[0][0], w[1]], jnp.tanh)
        with pytest.raises(TypeError, match="relu"):
            Layered(w, ["relu"])

    def test_names_that_do_not_fit_the_leaves(self, rng):
        params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(4, 2)), "c": rng.normal(size=2)}
        with pytest.raises(ValueError, match="no leaf 'd'"):
            Layered.from_params(params, [("a", None), ("b", "d")], jnp.tanh)
        with pytest.raises(ValueError, match=r"leaves out \['c'\]"):
            Layered.from_params(params, [("a", None), ("b", None)], jnp.tanh)
        with pytest.raises(ValueError, match="exactly one place"):
            Layered.from_params({"a": np.eye(3)}, [("a", None), ("a", None)], jnp.tanh)

    def test_features_of_another_shape(self, rng):
        net, _ = random_chain(rng, (3, 4, 2))
        with pytest.raises(ShapeError, match="3 input rows"):
            net(np.ones((5, 4)))
        pictures, _ = images(rng)
        with pytest.raises(ShapeError, match="convolution"):
            pictures(np.ones((5, 4)))
        with pytest.raises(ShapeError, match="`block` 4"):
            pictures(np.ones((2, 9, 9, 2)))

    def test_a_last_layer_that_is_a_convolution_has_no_outputs_of_examples(self, rng):
        """Its outputs are (n, h, w, c), which no loss of (n, c) takes."""
        x, y = rng.normal(size=(2, 4, 4, 1)), rng.normal(size=(2, 3))
        net = Layered([(rng.normal(size=(2, 2, 1, 4)), None), (rng.normal(size=(2, 2, 4, 3)), None)], jnp.tanh)
        with pytest.raises(ShapeError, match="outputs"):
            feature_condition(net, x, y, "square", draws=1, steps=0)

    @pytest.mark.parametrize(
        "arguments", [{"padding": "REFLECT"}, {"block": 0}, {"block": 1.5}, {"after": 3}, {"padding": None}]
    )
    def test_layers_that_act_in_no_known_way(self, arguments):
        with pytest.raises((ValueError, TypeError)):
            ChainLayer(**arguments)


@pytest.mark.parametrize(
    "phi",
    [
        lambda h: jnp.tanh(h) * (1 + jax.random.bernoulli(jax.random.key(0), 0.5, h.shape)),
        lambda h: jnp.where(jnp.abs(h) < 1e4, h, h.mean(axis=-1, keepdims=True)),
        lambda h: h + jnp.arange(h.shape[-1], dtype=h.dtype)[None],
        lambda h: jnp.cumsum(h, axis=-1),
        lambda h: h * h.shape[-1],
        lambda h: jnp.sort(h, axis=0),
        jax.nn.softmax,
    ],
    ids=["fixed noise", "far away", "place", "sum", "width", "sorted", "softmax"],
)
def test_what_depends_on_other_entries_or_on_the_place_is_no_activation(phi):
    layers = [(np.ones((2, 3)), None), (np.ones((3, 1)), None)]
    with pytest.raises(NotImplementedError, match="hidden layer 1 mixes"):
        Layered(layers, phi)


@pytest.mark.parametrize(
    "phi",
    [
        jax.nn.relu6,
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.elu,
        jnp.sqrt,
        lambda h: jnp.where(h > 0, h, 0.01 * h) ** 3,
        lambda h: jnp.clip(h, -1, 1),
        jax.jit(lambda h: jnp.sin(h) + h**2),
        arch.Relu(),
        arch.Gelu(),
        arch.Erf(),
        arch.Sign(),
        arch.RectifiedPower(2),
        arch.Hermite(3),
        arch.Polynomial((0.0, 1.0, 0.5)),
        arch.Tanh(),
        arch.Softplus(),
        arch.Rbf(),
        arch.ABRelu(-0.5, 1.0),
        arch.Gaussian(),
        arch.Cos(),
    ],
    ids=lambda phi: getattr(phi, "__name__", type(phi).__name__),
)
def test_elementwise_functions_of_every_kind_are_activations(phi):
    assert Layered([(np.ones((2, 3)), None), (np.ones((3, 1)), None)], phi).widths == (2, 3, 1)
