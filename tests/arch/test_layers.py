"""One contract for every layer: data, finite network, limit, and that the last two agree."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch
from widescape.arch.limit import walk
from widescape.core.errors import NonSmoothWarning


def smooth(x):
    return jnp.tanh(x)


def clipped(x):
    return jnp.clip(x, 0, 6)


ACTIVATIONS = {
    "relu": arch.Relu(),
    "abrelu": arch.ABRelu(-0.3, 1.2),
    "leaky": arch.LeakyRelu(0.1),
    "abs": arch.Abs(),
    "erf": arch.Erf(1.3, 0.7, 0.2),
    "gelu": arch.Gelu(),
    "sin": arch.Sin(2.0, 0.5, 0.3),
    "cos": arch.Cos(1.0, 0.8, 0.1),
    "rbf": arch.Rbf(0.4),
    "exp": arch.Exp(0.5, 0.3),
    "gaussian": arch.Gaussian(0.7, -0.4),
    "sign": arch.Sign(),
    "hermite": arch.Hermite(2),
    "polynomial": arch.Polynomial((0.3, -1.0, 0.5)),
    "tanh": arch.Tanh(),
    "sigmoid": arch.Sigmoid(),
    "softplus": arch.Softplus(),
    "silu": arch.Silu(),
    "callable": arch.Activation(smooth),
    "kinked callable": arch.Activation(clipped, kinks=(0.0, 6.0)),
}
NETWORKS = {
    **{
        name: arch.Sequential(arch.Dense(256, 1.2, 0.3), layer, arch.Dense(1, 0.9, 0.2))
        for name, layer in ACTIVATIONS.items()
    },
    "no bias": arch.Sequential(arch.Dense(256, 1.2), arch.Relu(), arch.Dense(1, 0.9)),
    "naive standard": arch.Sequential(
        arch.Dense(256, 1.2, 0.3, "standard"), arch.Relu(), arch.Dense(1, 0.9, 0.2, "standard")
    ),
    "improved standard": arch.Sequential(
        arch.Dense(256, 1.2, 0.3, "standard", 16), arch.Relu(), arch.Dense(1, 0.9, 0.2, "standard", 1)
    ),
    "flatten": arch.Sequential(arch.Flatten(), arch.Dense(256, 1.2, 0.3), arch.Relu(), arch.Dense(1)),
    "identity": arch.Sequential(arch.Dense(256), arch.Identity(), arch.Relu(), arch.Dense(1)),
    "frozen": arch.Sequential(
        arch.Frozen(arch.Sequential(arch.Dense(256, 1.2), arch.Relu())), arch.Dense(256), arch.Relu(), arch.Dense(1)
    ),
    "deep": arch.fc(depth=3, width=256, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1),
}
X = np.array([[0.3, -1.2, 0.8, 0.1], [1.0, 0.4, -0.2, 0.9], [-0.5, 0.2, 0.7, -1.1]])


def batch(net: arch.Layer) -> np.ndarray:
    return X.reshape(3, 2, 1, 2) if isinstance(net.layers[0], arch.Flatten) and len(net.layers) == 4 else X


def quiet_kernel(net, x, **options):
    """Kernel without Sign's warning about its derivative."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonSmoothWarning)
        return net.kernel(x, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_compares_hashes_prints_and_pickles(name):
    net = NETWORKS[name]
    copy = pickle.loads(pickle.dumps(net))
    assert copy == net
    assert hash(copy) == hash(net)
    assert type(net).__name__ in str(net)
    assert net != arch.Sequential(net, arch.Identity())
    assert jax.tree.leaves(net) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_outputs_keep_their_dtype(name, dtype, key):
    net = NETWORKS[name]
    x = batch(net)
    params = net.init(key, x.shape[1:], dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    out = net.apply(params, x.astype(dtype))
    assert out.shape == (3, 1)
    assert out.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_jit_changes_nothing_but_rounding(name, key):
    net = NETWORKS[name]
    x = batch(net)
    params = net.init(key, x.shape[1:])
    plain, jitted = net.apply(params, x.astype("float32")), jax.jit(net.apply)(params, x.astype("float32"))
    np.testing.assert_allclose(plain, jitted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_limit_is_positive_semidefinite_with_its_variances_on_the_diagonal(name):
    net = NETWORKS[name]
    kernel = quiet_kernel(net, batch(net), get=("nngp",) if name == "naive standard" else ("nngp", "ntk"))
    np.testing.assert_allclose(np.diag(kernel.nngp), kernel.var1, rtol=1e-12)
    for matrix in (m for m in (kernel.nngp, kernel.ntk) if m is not None):
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(matrix, matrix.T)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


def empirical(net, params, x):
    """Products of outputs, and the tangent kernel by explicit Jacobians, of one random network."""
    outputs = net.apply(params, x)[:, 0]
    jacobian = jax.jacobian(lambda p: net.apply(p, x)[:, 0])(params)
    rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
    return outputs[:, None] * outputs[None, :], rows @ rows.T


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_over_finite_networks_meets_the_limit_within_its_standard_error(name, key):
    """Two-layer networks have no width bias beyond 1/width; 4.5 standard errors plus that."""
    net = NETWORKS[name]
    x = batch(net)
    with_ntk = name not in ("naive standard",)
    limit = quiet_kernel(net, x, get=("nngp", "ntk") if with_ntk else ("nngp",))
    draws = 4000
    sample = jax.jit(
        jax.vmap(lambda k: empirical(net, net.parameters(k, arch.Signal.of_input(x.shape[1:]), jnp.float32), x32))
    )
    x32 = jnp.asarray(x, jnp.float32)
    parts = [sample(keys) for keys in jax.random.split(key, (40, draws // 40))]
    for index, matrix in enumerate((limit.nngp, limit.ntk) if with_ntk else (limit.nngp,)):
        values = np.concatenate([np.asarray(p[index], np.float64) for p in parts])
        mean, stderr = values.mean(axis=0), values.std(axis=0, ddof=1) / draws**0.5
        finite_width = 4 / 256 * np.abs(matrix) + 1e-5 if name in ("deep", "frozen") else 1e-5
        assert (np.abs(mean - matrix) <= 4.5 * stderr + finite_width).all(), (mean, matrix, stderr)


def test_sequential_is_flat_and_keeps_the_order():
    inner = arch.Sequential(arch.Dense(8), arch.Relu())
    assert arch.Sequential(inner, arch.Dense(1)).layers == (arch.Dense(8), arch.Relu(), arch.Dense(1))
    assert [type(layer).__name__ for layer in walk(arch.Frozen(inner))] == ["Frozen", "Sequential", "Dense", "Relu"]


def test_init_replaces_every_hidden_width_but_not_the_output(key):
    net = arch.fc(depth=2, width=8, n_out=3, activation=arch.Relu(), param="standard", base_width=8)
    params = net.init(key, (4,), width=32)
    assert [p["w"].shape for p in params if p != ()] == [(4, 32), (32, 32), (32, 3)]
    assert net.apply(params, X.astype("float32")).shape == (3, 3)


def test_hidden_widths_inside_frozen_parts_are_replaced_too(key):
    dense = arch.Dense
    for net, expected in (
        (arch.Sequential(dense(3), arch.Relu(), arch.Frozen(dense(1))), [(5, 7), (7, 1)]),
        (
            arch.Sequential(
                arch.Frozen(arch.Sequential(dense(3), arch.Relu(), dense(4))), arch.Identity(), arch.Relu(), dense(1)
            ),
            [(5, 7), (7, 7), (7, 1)],
        ),
    ):
        params = net.init(key, (5,), width=7)
        assert [leaf.shape for leaf in jax.tree.leaves(params)] == expected


def test_named_keys_make_the_parameters_of_a_layer_independent_of_what_follows(key):
    short = arch.Sequential(arch.Dense(8), arch.Relu(), arch.Dense(1)).init(key, (4,))
    long = arch.Sequential(arch.Dense(8), arch.Relu(), arch.Dense(5), arch.Relu(), arch.Dense(1)).init(key, (4,))
    np.testing.assert_array_equal(short[0]["w"], long[0]["w"])


def test_frozen_parameters_get_no_gradient(key):
    net = NETWORKS["frozen"]
    params = net.init(key, (4,))
    gradient = jax.grad(lambda p: net.apply(p, X.astype("float32")).sum())(params)
    assert not np.any(gradient[0][0]["w"])
    assert np.any(gradient[1]["w"])


def test_parameter_scales_follow_the_table_of_parameterizations(key):
    for net, expected in (
        (arch.Dense(4000, 1.5, 0.5), (1.0, 1.0)),
        (arch.Dense(4000, 1.5, 0.5, "standard"), (1.5 / 3, 0.5)),
        (arch.Dense(4000, 1.5, 0.5, "standard", 100), (1.5 / 3, 0.5)),
    ):
        params = net.init(key, (9,))
        assert np.std(params["w"]) == pytest.approx(expected[0], rel=0.02)
        assert np.std(params["b"]) == pytest.approx(expected[1], rel=0.05)
