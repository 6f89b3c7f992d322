"""One contract for every layer: data, finite network, limit, and that the last two agree."""

import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch
from widescape.arch.layouts import walk
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
    "step": arch.RectifiedPower(0),
    "rectified square": arch.RectifiedPower(2),
    "rectified cube": arch.RectifiedPower(3),
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
WIDTH = 16  # of networks on images with one hidden layer, whose mean does not depend on it
WIDE = 64  # of those with several
SCALES = {"w_std": 1.2, "b_std": 0.3}


def conv(*arguments, width=WIDTH, **options) -> arch.Conv:
    return arch.Conv(width, *arguments, **{**SCALES, **options})


def wide(*arguments, **options) -> arch.Conv:
    return conv(*arguments, width=WIDE, **options)


def local(width=WIDTH, **options) -> arch.LocalConv:
    return arch.LocalConv(width, (2, 3), **SCALES, **options)


def ending(*layers, pool=None, readout=None) -> arch.Sequential:
    """These layers, then a flattened image or a pool, then one output."""
    return arch.Sequential(*layers, pool or arch.Flatten(), readout or arch.Dense(1, 0.9, 0.2))


RELU, GAP = arch.Relu(), arch.GlobalAvgPool()
BASED = {"param": "standard", "base_width": 4}
IMAGE_NETWORKS = {
    "conv": ending(conv(), RELU),
    "conv without bias": ending(arch.Conv(WIDTH, (2, 3)), RELU, pool=GAP, readout=arch.Dense(1)),
    "conv valid": ending(conv(padding="VALID"), RELU, pool=GAP),
    "conv circular": ending(conv((3, 2), padding="CIRCULAR"), RELU, pool=GAP),
    "conv same strided": ending(conv((3, 3), (2, 2)), RELU, pool=GAP),
    "conv circular strided": ending(conv((3, 3), (2, 3), "CIRCULAR"), RELU),
    "conv valid strided": ending(conv((2, 3), (3, 1), "VALID"), RELU, pool=arch.GlobalSumPool()),
    "conv naive standard": ending(conv(param="standard"), RELU, readout=arch.Dense(1, 0.9, 0.2, "standard")),
    "conv improved standard": ending(conv(**BASED), RELU, readout=arch.Dense(1, 0.9, 0.2, "standard", 1)),
    "conv improved, pooled": ending(conv(**BASED), RELU, pool=GAP, readout=arch.Dense(1, 0.9, 0.2, "standard", 1)),
    "local conv": ending(local(), RELU),
    "local conv, pooled": ending(local(strides=(2, 1)), RELU, pool=GAP),
    "local conv improved": ending(local(**BASED), RELU, readout=arch.Dense(1, 0.9, None, "standard", 1)),
    "average pool": ending(conv(), RELU, arch.AvgPool((2, 2))),
    "average pool with edges": ending(conv(), RELU, arch.AvgPool((2, 3), (2, 2), "SAME", True)),
    "average pool circular": ending(conv(), RELU, arch.AvgPool((3, 2), (1, 1), "CIRCULAR")),
    "sum pool": ending(conv(), RELU, arch.SumPool((2, 2), (2, 1), "SAME")),
    "global sum pool": ending(conv(), arch.Erf(), pool=arch.GlobalSumPool(), readout=arch.Dense(1, 0.2)),
    "layer norm": ending(wide(), arch.LayerNorm(), RELU),
    "layer norm of examples": ending(wide(), arch.LayerNorm("example"), RELU, pool=GAP),
    "residual of input": ending(arch.Residual(arch.Sequential(conv(), RELU, conv(width=2))), conv()),
    "residual": ending(wide(), arch.Residual(arch.Sequential(RELU, wide())), RELU, pool=GAP),
    "residual with shortcut": ending(
        arch.Residual(arch.Sequential(wide(), RELU, wide((3, 3), (2, 2))), wide((1, 1), (2, 2))), RELU
    ),
    "sum": ending(arch.Sum(conv(), local(), conv((1, 1), padding="VALID")), arch.Erf()),
    "parallel sum": ending(arch.Parallel(conv(), arch.Sequential(conv((1, 1)), RELU)), arch.Sum(), pool=GAP),
    "product": ending(arch.Prod(conv(), arch.Sequential(conv((1, 1)), RELU))),
    "parallel product": ending(arch.Parallel(conv(), arch.Sequential(conv(), RELU)), arch.Prod(), pool=GAP),
    "concat": ending(arch.Concat(arch.Sequential(conv(), RELU), arch.Sequential(conv(width=24), arch.Erf())), pool=GAP),
    "repeat": ending(wide(), arch.Repeat(arch.Sequential(RELU, wide()), 2), RELU),
    "frozen conv": ending(arch.Frozen(arch.Sequential(wide(), RELU)), wide(), RELU, pool=GAP),
    "conv 1-D": ending(conv((3,), (2,)), RELU, pool=GAP),
    "conv 3-D": ending(conv((2, 1, 3)), RELU, pool=GAP),
}
NETWORKS |= IMAGE_NETWORKS
NAIVE = ("naive standard", "conv naive standard")
# Hidden layers behind others: the mean over finite networks then differs from the limit by a term of order 1/width.
BIASED = (
    *("deep", "frozen", "layer norm", "layer norm of examples", "residual", "residual with shortcut", "repeat"),
    "frozen conv",
)
X = np.array([[0.3, -1.2, 0.8, 0.1], [1.0, 0.4, -0.2, 0.9], [-0.5, 0.2, 0.7, -1.1]])
IMAGES = np.random.default_rng(4).normal(size=(3, 5, 4, 2))


def batch(name: str) -> np.ndarray:
    if name in IMAGE_NETWORKS:
        shapes = {"conv 1-D": (3, 10, 4), "conv 3-D": (3, 5, 2, 2, 2)}
        return IMAGES.reshape(shapes.get(name, IMAGES.shape))
    return X.reshape(3, 2, 1, 2) if name == "flatten" else X


def kinds(name: str) -> tuple[str, ...]:
    return ("nngp",) if name in NAIVE else ("nngp", "ntk")


@cache
def limit_of(name: str) -> arch.Kernel:
    return quiet_kernel(NETWORKS[name], batch(name), get=kinds(name))


LIMITS = [pytest.param(name, marks=[pytest.mark.slow] if name in IMAGE_NETWORKS else []) for name in NETWORKS]


def quiet_kernel(net, x, **options):
    """Kernel without the warnings of Sign and the step about their derivatives."""
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
    if "callable" not in name:
        assert arch.from_text(repr(net)) == net


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_outputs_keep_their_dtype(name, dtype, key):
    net, x = NETWORKS[name], batch(name)
    params = jax.eval_shape(lambda: net.init(key, x.shape[1:], dtype=dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    out = jax.eval_shape(lambda p: net.apply(p, x.astype(dtype)), params)
    assert out.shape == (3, 1)
    assert out.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_jit_changes_nothing_but_rounding(name, key, rng):
    net, x = NETWORKS[name], batch(name).astype("float32")
    shapes = jax.eval_shape(lambda: net.init(key, x.shape[1:]))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    plain, jitted = net.apply(params, x), jax.jit(net.apply)(params, x)
    np.testing.assert_allclose(plain, jitted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_positive_semidefinite_with_its_variances_on_the_diagonal(name):
    kernel = limit_of(name)
    np.testing.assert_allclose(np.diag(kernel.nngp), kernel.var1, rtol=1e-12)
    for matrix in (m for m in (kernel.nngp, kernel.ntk) if m is not None):
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(matrix, matrix.T)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_limit_on_images_equals_loops_over_all_pairs_of_positions(name):
    nngp, ntk = oracles_positions.kernels(NETWORKS[name], batch(name))
    np.testing.assert_allclose(limit_of(name).nngp, nngp, rtol=1e-10)
    if name not in NAIVE:
        np.testing.assert_allclose(limit_of(name).ntk, ntk, rtol=1e-10)


def empirical(net, params, x):
    """Products of outputs, and the tangent kernel by explicit Jacobians, of one random network."""
    outputs = net.apply(params, x)[:, 0]
    jacobian = jax.jacobian(lambda p: net.apply(p, x)[:, 0])(params)
    rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
    return outputs[:, None] * outputs[None, :], rows @ rows.T


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I9L")
@pytest.mark.claim("lee2020finite/P3")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_over_finite_networks_meets_the_limit_within_its_standard_error(name, key):
    """One hidden layer has no bias of the width; with more of them 4.5 standard errors plus a term of order 1/width."""
    net, x = NETWORKS[name], batch(name)
    x32 = jnp.asarray(x, jnp.float32)
    draws = 600 if name in BIASED else 2000
    sample = jax.jit(
        jax.vmap(lambda k: empirical(net, net.parameters(k, arch.Signal.of_input(x.shape[1:]), jnp.float32), x32))
    )
    parts = [sample(keys) for keys in jax.random.split(key, (20, draws // 20))]
    finite_width = 4 / (WIDE if name in IMAGE_NETWORKS else 256) if name in BIASED else 0
    for index, kind in enumerate(kinds(name)):
        matrix = getattr(limit_of(name), kind)
        values = np.concatenate([np.asarray(p[index], np.float64) for p in parts])
        mean, stderr = values.mean(axis=0), values.std(axis=0, ddof=1) / draws**0.5
        assert (np.abs(mean - matrix) <= 4.5 * stderr + finite_width * np.abs(matrix) + 1e-5).all(), (mean, matrix)


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
