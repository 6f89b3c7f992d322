"""Convolutions: finite ones against loops, limits against closed forms and against covariances of all positions."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch

ROOT2 = 2**0.5
ONE = np.array([[1.0, 2.0, 3.0, 4.0]])[..., None]
OTHER = np.array([[0.0, 1.0, 0.0, -1.0]])[..., None]
C5 = {
    ("SAME", "VEC", 1): (0.553124942337, 0.681683280687),
    ("SAME", "GAP", 1): (0.676824571104, 0.930074063755),
    ("CIRCULAR", "VEC", 1): (0.482066851703, 0.393819637266),
    ("CIRCULAR", "GAP", 1): (0.715479861970, 0.854308174873),
    ("VALID", "VEC", 1): (0.701701481205, 0.813966699901),
    ("VALID", "GAP", 1): (0.736563207409, 0.911714055191),
    ("SAME", "GAP", 2): (0.798793112101, 1.302470494631),
    ("CIRCULAR", "VEC", 2): (0.967127028382, 1.228068899396),
}


def along_a_line(padding: str, end: str, depth: int) -> arch.Sequential:
    conv = arch.Conv(8, (3,), padding=padding, w_std=ROOT2, b_std=0.1**0.5)
    pool = arch.Flatten() if end == "VEC" else arch.GlobalAvgPool()
    return arch.Sequential(*[conv, arch.Relu()] * depth, pool, arch.Dense(1))


@pytest.mark.claim("lee2020finite/C5")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id="-".join(map(str, case)), marks=[] if case[1] == "VEC" else pytest.mark.slow)
        for case in C5
    ],
)
def test_kernels_of_convolutions_along_a_line(case, measured):
    net = along_a_line(*case)
    kernel = net.kernel(ONE, OTHER)
    assert kernel.nngp[0, 0] == pytest.approx(C5[case][0], rel=1e-10)
    assert kernel.ntk[0, 0] == pytest.approx(C5[case][1], rel=1e-10)
    nngp, ntk = oracles_positions.kernels(net, ONE, OTHER, digits=40)
    assert kernel.nngp[0, 0] == pytest.approx(nngp[0, 0], rel=1e-14)
    assert kernel.ntk[0, 0] == pytest.approx(ntk[0, 0], rel=1e-14)
    measured("12 digits agree")


FINITE = [
    ((8,), (3,), (2,)),
    ((7,), (2,), (2,)),
    ((7, 8), (3, 2), (2, 3)),
    ((6, 5), (2, 3), (1, 1)),
    ((3, 4, 5), (2, 3, 2), (1, 2, 2)),
]


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("kind", [arch.Conv, arch.LocalConv])
@pytest.mark.parametrize(("shape", "size", "strides"), FINITE)
def test_a_finite_convolution_sums_over_its_windows(shape, size, strides, kind, padding, key):
    layer = kind(3, size, strides, padding, 1.3, 0.4)
    params = layer.init(key, (*shape, 2))
    x = np.random.default_rng(0).normal(size=(2, *shape, 2)).astype(np.float32)
    found = np.asarray(jax.jit(layer.apply)(params, x))
    positions, windows = oracles_positions.windows_of(shape, size, strides, padding)
    w, b = (np.asarray(params[name], np.float64) for name in ("w", "b"))
    expected = np.zeros((2, len(windows), 3))
    for p, window in enumerate(windows):
        at = np.unravel_index(p, positions)
        own_w, own_b = (w, b) if kind is arch.Conv else (w[at], b[at])
        for offset, i in enumerate(window):
            if i is not None:
                expected[:, p] += x.reshape(2, -1, 2)[:, i] @ own_w.reshape(-1, 2, 3)[offset]
        expected[:, p] = 1.3 * expected[:, p] / (2 * np.prod(size)) ** 0.5 + 0.4 * own_b
    assert found.shape == (2, *positions, 3)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5)


STRIDED = [
    pytest.param(padding, size, steps, marks=[] if padding == "SAME" else pytest.mark.slow)
    for padding, (size, steps) in itertools.product(("SAME", "VALID", "CIRCULAR"), (((3, 2), (2, 3)), ((2, 3), (3, 2))))
]


@pytest.mark.claim("lee2020finite/P3")
@pytest.mark.parametrize(("padding", "size", "steps"), STRIDED)
def test_strided_limits_on_even_and_odd_sizes_equal_loops_over_positions(padding, size, steps, rng):
    x = rng.normal(size=(3, 7, 8, 2))
    conv = arch.Conv(8, size, steps, padding, 1.3, 0.4)
    net = arch.Sequential(conv, arch.Relu(), conv, arch.Erf(), arch.Flatten(), arch.Dense(1))
    nngp, ntk = oracles_positions.kernels(net, x)
    kernel = net.kernel(x)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-10)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9,), (2, 3, 4)], ids=["1-D", "3-D"])
def test_pooled_limits_in_every_dimension_equal_loops_over_positions(shape, rng):
    axes = len(shape)
    x1, x2 = rng.normal(size=(2, *shape, 2)), rng.normal(size=(2, *shape, 2))
    net = arch.Sequential(
        arch.Conv(8, (3, 2, 1)[:axes], padding="SAME", w_std=1.3, b_std=0.4),
        arch.Relu(),
        arch.Conv(8, (2,) * axes, padding="VALID", w_std=1.1),
        arch.Relu(),
        arch.GlobalAvgPool(),
        arch.Dense(1, 1.2, 0.1),
    )
    nngp, ntk = oracles_positions.kernels(net, x1, x2)
    for layout in ("planes", "full"):
        kernel = net.kernel(x1, x2, layout=layout)
        np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-10)
        np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-10)


@pytest.mark.claim("lee2020finite/I5")
@pytest.mark.parametrize("end", ["VEC", "GAP"])
def test_circular_kernels_do_not_change_when_both_inputs_are_rolled(end, rng, measured):
    x1, x2 = rng.normal(size=(2, 3, 5, 4, 2))
    net = (arch.cnn_vec if end == "VEC" else arch.cnn_gap)(2, 8, 1, padding="CIRCULAR")
    plain = net.kernel(x1, x2)
    for shift in ((1, 0), (2, 3)):
        rolled = net.kernel(np.roll(x1, shift, (1, 2)), np.roll(x2, shift, (1, 2)))
        np.testing.assert_allclose(rolled.nngp, plain.nngp, rtol=1e-12)
        np.testing.assert_allclose(rolled.ntk, plain.ntk, rtol=1e-12)
    alone = net.kernel(np.roll(x1, (2, 3), (1, 2)), x2)
    assert np.allclose(alone.ntk, plain.ntk, rtol=1e-12) == (end == "GAP")  # pooling forgets where everything is
    measured("1e-12 relative")


@pytest.mark.claim("lee2020finite/I6")
@pytest.mark.parametrize("activation", [arch.Relu(), arch.Erf()], ids=["relu", "erf"])
def test_weights_of_each_position_alone_change_nothing_without_pooling(activation, rng, measured):
    x1, x2 = rng.normal(size=(2, 2, 5, 4, 1))
    scales = {"w_std": 1.3, "b_std": 0.2}
    shared, alone = (
        arch.Sequential(*[kind(8, (3, 3), **scales), activation] * 2, arch.Flatten(), arch.Dense(1))
        for kind in (arch.Conv, arch.LocalConv)
    )
    one, two = shared.kernel(x1, x2), alone.kernel(x1, x2)
    np.testing.assert_allclose(two.nngp, one.nngp, rtol=1e-13)
    np.testing.assert_allclose(two.ntk, one.ntk, rtol=1e-13)
    measured("1e-13 relative")


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I6")
def test_pooling_positions_with_weights_of_their_own_divides_by_their_number_for_odd_activations_only(rng):
    x1, x2 = rng.normal(size=(2, 2, 5, 4, 1))

    def nngp(kind, activation, pool):
        layers = [kind(8, (3, 3), w_std=1.3, b_std=0.2), activation]
        return arch.Sequential(*layers, pool, arch.Dense(1)).kernel(x1, x2, get="nngp").nngp

    vec, gap = arch.Flatten(), arch.GlobalAvgPool()
    odd = nngp(arch.Conv, arch.Erf(), vec)
    np.testing.assert_allclose(nngp(arch.LocalConv, arch.Erf(), gap), odd / 20, rtol=1e-12)
    positive = nngp(arch.Conv, arch.Relu(), vec)
    assert (nngp(arch.LocalConv, arch.Relu(), gap) > 2 * positive / 20).all()


@pytest.mark.slow
def test_improved_standard_networks_approach_their_limit_as_they_grow(key, rng):
    scales = {"w_std": ROOT2, "b_std": 0.3, "param": "standard"}
    x = rng.normal(size=(2, 4, 3, 2))
    x32 = jnp.asarray(x, jnp.float32)

    def net(s):
        conv = arch.Conv(4 * s, (3, 2), base_width=4, **scales)
        return arch.Sequential(
            *[conv, arch.Relu()] * 2, arch.GlobalAvgPool(), arch.Dense(1, base_width=1, **{**scales, "b_std": None})
        )

    limit = net(1).kernel(x).ntk
    np.testing.assert_allclose(limit, oracles_positions.kernels(net(1), x)[1], rtol=1e-12)
    errors = []
    for s, draws in ((1, 1000), (16, 250)):
        own = net(s)

        def finite(k, own=own):
            params = own.parameters(k, arch.Signal.of_input(x.shape[1:]), jnp.float32)
            jacobian = jax.jacobian(lambda p: own.apply(p, x32)[:, 0])(params)
            rows = jnp.concatenate([leaf.reshape(2, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
            return rows @ rows.T

        values = np.concatenate(
            [np.asarray(jax.jit(jax.vmap(finite))(k), np.float64) for k in jax.random.split(key, (5, draws // 5))]
        )
        stderr = values.std(axis=0, ddof=1) / draws**0.5
        assert (np.abs(values.mean(axis=0) - limit) <= 4.5 * stderr + 2 / (4 * s) * limit).all()
        errors.append((np.linalg.norm(values - limit, axis=(1, 2)) / np.linalg.norm(limit)).mean())
    assert errors[1] < 0.5 * errors[0]


def test_a_missing_bias_of_a_convolution_differs_from_a_zero_bias_in_the_standard_parameterization(rng):
    x = rng.normal(size=(2, 5, 4, 2))

    def ntk(b):
        conv = arch.Conv(8, (3, 3), None, "VALID", 1.0, b, "standard", 4)
        return arch.Sequential(conv, arch.Flatten(), arch.Dense(1, 1.0, None, "standard", 1)).kernel(x).ntk

    np.testing.assert_allclose(ntk(0.0) - ntk(None), 1.0, rtol=1e-9)


def test_both_convolutions_hold_the_same_fields_and_are_not_equal():
    shared, local = arch.Conv(8, (3,), (2,), "VALID", 1.3), arch.LocalConv(8, (3,), (2,), "VALID", 1.3)
    assert shared != local
    assert repr(local) == "Local" + repr(shared)
    for layer in (shared, local):
        copy = pickle.loads(pickle.dumps(layer))
        assert copy == layer == arch.from_text(repr(layer))
        assert hash(copy) == hash(layer)


def test_convolutions_say_what_does_not_fit():
    x = np.ones((2, 5, 4, 2))
    with pytest.raises(TypeError, match=r"`filter` is 3.*\(3, 3\)"):
        arch.Conv(8, 3)
    with pytest.raises(TypeError, match="`strides` is 2"):
        arch.LocalConv(8, (3, 3), 2)
    with pytest.raises(ValueError, match="2 strides for a filter of 1 axes"):
        arch.Conv(8, (3,), (1, 1))
    with pytest.raises(ValueError, match="'SAME', 'VALID', 'CIRCULAR'"):
        arch.Conv(8, (3, 3), padding="same")
    with pytest.raises(ValueError, match="one, two or three"):
        arch.Conv(8, (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"layer 0, Conv.*6 positions along axis 0, but only 5"):
        arch.Sequential(arch.Conv(8, (6, 2), padding="VALID"), arch.Flatten(), arch.Dense(1)).kernel(x)
    with pytest.raises(ValueError, match="wraps around more than once"):
        arch.Conv(8, (3, 16), padding="CIRCULAR").kernel(x)
    with pytest.raises(ValueError, match=r"layer 0, Conv.*window of 1 axes.*Channels come last"):
        arch.Sequential(arch.Conv(8, (3,)), arch.Flatten(), arch.Dense(1)).kernel(x)
    with pytest.raises(ValueError, match="1 axes of positions"):
        arch.Conv(8, (3,)).apply(arch.Conv(8, (3,)).init(jax.random.key(0), (5, 2)), x.astype(np.float32))
    with pytest.raises(ValueError, match="base_width"):
        arch.Sequential(arch.Conv(8, param="standard"), arch.Flatten(), arch.Dense(1)).kernel(x)


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I9")
def test_the_tangent_kernel_of_a_convolutional_network_approaches_its_limit_as_the_root_of_the_width(measured):
    net = arch.cnn_gap(1, 64, 1)
    x = np.random.default_rng(8).normal(size=(3, 4, 4, 2))
    limit = net.kernel(x, get="ntk").ntk
    x32 = jnp.asarray(x, jnp.float32)
    widths, errors = [64, 256, 1024, 4096], []
    for width in widths:
        own = net.with_hidden_width(width)

        @jax.jit
        def finite(k, own=own):
            params = own.parameters(k, arch.Signal.of_input(x.shape[1:]), jnp.float32)
            jacobian = jax.jacobian(lambda p: own.apply(p, x32)[:, 0])(params)
            rows = jnp.concatenate([leaf.reshape(3, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
            return rows @ rows.T

        values = np.stack([np.asarray(finite(k)) for k in jax.random.split(jax.random.key(width), 40)])
        errors.append((np.linalg.norm(values - limit, axis=(1, 2)) / np.linalg.norm(limit)).mean())
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    measured(f"one convolution and a mean: slope {slope:.3f}")
    assert -0.75 < slope < -0.25
    assert np.all(np.diff(errors) < 0)
