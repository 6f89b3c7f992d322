"""Limits over pairs of positions: layouts agree, coincident patches keep their accuracy, derivatives, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch, kernels
from widescape.core.errors import MemoryBudgetError, NonGaussianInputError

SLOW = pytest.mark.slow


def pooled(paddings, activation=None, scale=1.3):
    activation = activation or arch.Relu()
    layers = [layer for padding in paddings for layer in (arch.Conv(8, (3, 2), None, padding, scale, 0.2), activation)]
    return arch.Sequential(*layers, arch.GlobalAvgPool(), arch.Dense(1, 1.1, 0.1))


def patchy() -> np.ndarray:
    """Images with black, constant and equal patches, a duplicate, a multiple, and a black image."""
    x = np.random.default_rng(8).normal(size=(6, 5, 4, 1))
    x[0, :3] = 0.0
    x[1, :, :3] = 0.7
    x[2, 1:, 1:] = -0.35
    x[3] = x[0]
    x[4] = 3 * x[1]
    x[5] = 0.0
    return x


PLANES = {
    "same": pooled(["SAME"] * 2),
    "same deep": pooled(["SAME"] * 3),
    "circular erf": pooled(["CIRCULAR"] * 2, arch.Erf()),
    "valid gelu": pooled(["VALID"] * 2, arch.Gelu()),
    "same and valid": pooled(["SAME", "VALID"]),
    "residual": arch.Sequential(
        arch.Conv(8, (3, 3), b_std=0.1),
        arch.Residual(arch.Sequential(arch.Relu(), arch.Conv(8, (3, 3), w_std=1.2))),
        arch.LayerNorm(),
        arch.Relu(),
        arch.GlobalSumPool(),
        arch.Dense(1),
    ),
    "local": arch.Sequential(
        arch.LocalConv(8, (2, 3)), arch.Relu(), arch.Conv(8, (3, 3)), arch.Relu(), arch.GlobalAvgPool(), arch.Dense(1)
    ),
}


@pytest.mark.claim("lee2020finite/A3")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "same" else SLOW) for n in PLANES])
def test_shift_by_shift_and_all_at_once_give_the_same_kernels(name):
    net, x = PLANES[name], patchy()
    planes, full = (net.kernel(x[:4], x[2:], layout=layout) for layout in ("planes", "full"))
    for kind in ("nngp", "ntk", "var1", "var2"):
        one, two = getattr(planes, kind), getattr(full, kind)
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-13 * np.abs(two).max())


@pytest.mark.parametrize("layout", ["planes", pytest.param("full", marks=SLOW)])
def test_black_constant_and_equal_patches_keep_their_accuracy(layout):
    """Against 40 digits: angles between patches that coincide, or are multiples of each other, are exactly zero."""
    x = patchy()
    net = pooled(["SAME"] * 2)
    nngp, ntk = oracles_positions.kernels(net, x, digits=40)
    kernel = net.kernel(x, layout=layout)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-13)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-13)


@pytest.mark.parametrize("end", ["VEC", "GAP"])
def test_pairs_of_equal_examples_have_the_kernel_of_the_diagonal(end):
    x = patchy()
    net = (arch.cnn_vec if end == "VEC" else arch.cnn_gap)(2, 8, 1, filter=(3, 2))
    own, across = net.kernel(x), net.kernel(x, x.copy())
    for kind in ("nngp", "ntk"):
        np.testing.assert_allclose(getattr(across, kind).diagonal(), getattr(own, kind).diagonal(), rtol=1e-12)
        assert getattr(own, kind)[0, 3] == pytest.approx(getattr(own, kind)[0, 0], rel=1e-12)


@SLOW
def test_equal_examples_stay_equal_behind_pools_between_layers():
    """After a pool the angle is a difference of covariances; rounding must not become an angle of 1e-8."""
    x = patchy()
    conv = arch.Conv(8, (3, 2), w_std=1.3, b_std=0.2)
    net = arch.Sequential(
        conv, arch.Relu(), arch.AvgPool((2, 2)), conv, arch.Relu(), arch.GlobalAvgPool(), arch.Dense(8), arch.Relu(),
        arch.Dense(1),
    )  # fmt: skip
    own, across = net.kernel(x), net.kernel(x, x.copy())
    nngp, ntk = oracles_positions.kernels(net, x, digits=40)
    for kind, exact in (("nngp", nngp), ("ntk", ntk)):
        np.testing.assert_allclose(getattr(across, kind).diagonal(), exact.diagonal(), rtol=1e-12)
        np.testing.assert_allclose(getattr(own, kind).diagonal(), exact.diagonal(), rtol=1e-12)
        np.testing.assert_allclose(getattr(own, kind), exact, rtol=1e-9)


@pytest.mark.parametrize("end", ["VEC", pytest.param("GAP", marks=SLOW)])
def test_float32_diagonals_of_images_are_accurate_to_float32(end):
    x = patchy()
    net = (arch.cnn_vec if end == "VEC" else arch.cnn_gap)(3, 8, 1, filter=(3, 2))
    exact, low = net.kernel(x), net.kernel(x, dtype="float32")
    for kind in ("nngp", "ntk"):
        one, two = getattr(low, kind), getattr(exact, kind)
        assert one.dtype == np.float32
        np.testing.assert_allclose(one.diagonal(), two.diagonal(), rtol=1e-5 if end == "VEC" else 1e-4)
        np.testing.assert_allclose(one, two, rtol=1e-3)


@SLOW
def test_gradients_in_images_and_scales_match_finite_differences():
    x, other = np.random.default_rng(0).normal(size=(2, 2, 4, 3, 1))
    step = 1e-6

    def total(x, w_std, b_std):
        conv = arch.Conv(8, (3, 2), None, "SAME", w_std, b_std)
        return arch.Sequential(conv, arch.Relu(), arch.GlobalAvgPool(), arch.Dense(1)).kernel(x, other).ntk.sum()

    with jax.enable_x64(True):
        gx, gw, gb = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(jnp.asarray(x), 1.3, 0.2)
    shift = np.zeros_like(x)
    shift[1, 2, 1] = step
    by_image = (total(x + shift, 1.3, 0.2) - total(x - shift, 1.3, 0.2)) / (2 * step)
    assert by_image == pytest.approx(float(gx[1, 2, 1, 0]), rel=1e-6)
    by_weights = (total(x, 1.3 + step, 0.2) - total(x, 1.3 - step, 0.2)) / (2 * step)
    assert by_weights == pytest.approx(float(gw), rel=1e-7)
    by_bias = (total(x, 1.3, 0.2 + step) - total(x, 1.3, 0.2 - step)) / (2 * step)
    assert by_bias == pytest.approx(float(gb), rel=1e-6)


@SLOW
def test_gradients_in_images_are_finite_where_patches_coincide_or_vanish():
    """Through a convolution without biases, normalization and a pool."""
    conv = arch.Conv(8, (2, 2), w_std=1.3)
    layers = (conv, arch.LayerNorm(epsilon=0.1), arch.Relu(), arch.AvgPool((2, 2)), arch.Flatten(), arch.Dense(1))
    x = patchy()[[0, 3, 1, 5], :4]

    def totals(a):
        kernel = arch.Sequential(*layers).kernel(a)
        return kernel.nngp.sum() + kernel.ntk.sum()

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(totals))(jnp.asarray(x))
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    assert value == pytest.approx(totals(x), rel=1e-10)


@SLOW
@pytest.mark.parametrize("end", ["VEC", "GAP"])
def test_tiles_change_no_gram_matrix_of_images(end):
    x = np.random.default_rng(9).normal(size=(7, 5, 4, 2))
    net = (arch.cnn_vec if end == "VEC" else arch.cnn_gap)(2, 8, 1, filter=(3, 2))
    whole = net.kernel(x)
    both = kernels.gram(net, x, get=("nngp", "ntk"), tile=3)
    for kind in ("nngp", "ntk"):
        tiled = getattr(both, kind)
        np.testing.assert_array_equal(tiled, tiled.T)
        np.testing.assert_allclose(tiled, getattr(whole, kind), rtol=1e-12)
        np.testing.assert_allclose(kernels.gram(net, x, get=kind), getattr(whole, kind), rtol=1e-12)
        across = kernels.gram(net, x, x[2:], get=kind, tile=4)
        np.testing.assert_allclose(across, getattr(whole, kind)[:, 2:], rtol=1e-12)


def test_get_selects_what_is_computed_on_images():
    x = patchy()
    net = arch.cnn_vec(1, 8, 1)
    assert net.kernel(x, get="nngp").ntk is None
    np.testing.assert_allclose(net.kernel(x, get="ntk").ntk, net.kernel(x).ntk, rtol=1e-14)


STRIDED = arch.Sequential(arch.Conv(8, (3, 3), (2, 2)), arch.Relu(), arch.GlobalAvgPool(), arch.Dense(1))


@pytest.mark.parametrize(
    "net",
    [
        STRIDED,
        pooled(["CIRCULAR", "VALID"]),
        arch.Sequential(arch.Conv(8), arch.Relu(), arch.AvgPool(), arch.GlobalAvgPool(), arch.Dense(1)),
        arch.cnn_vec(1, 8, 1),
    ],
    ids=["strides", "circular and valid", "pool between", "no pool"],
)
def test_shifts_one_after_the_other_are_refused_where_they_mix(net):
    with pytest.raises(ValueError, match=r"layout='planes' is for networks of stride 1.*layout='auto'"):
        net.kernel(np.ones((2, 5, 4, 1)), layout="planes")


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'auto', 'planes', 'full'"):
        arch.cnn_gap(1, 8, 1).kernel(np.ones((2, 5, 4, 1)), layout="diag")


def test_same_after_valid_holds_all_pairs_of_positions_and_refuses_planes():
    """Once positions are lost, shifted edges are no longer where shifts that wrap around look for them."""
    x = np.random.default_rng(8).normal(size=(2, 6, 1))
    net = arch.Sequential(
        *(part for p in ("VALID", "SAME") for part in (arch.Conv(8, (3,), None, p, 1.3, 0.2), arch.Relu())),
        arch.GlobalAvgPool(),
        arch.Dense(1),
    )
    nngp, ntk = oracles_positions.kernels(net, x)
    kernel = net.kernel(x)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-11)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-11)
    with pytest.raises(ValueError, match="layout='planes' is for networks"):
        net.kernel(x, layout="planes")


@pytest.mark.claim("lee2020finite/A1")
@pytest.mark.parametrize(
    ("net", "kind", "entries"),
    [
        (arch.cnn_vec(2, 8, 1), "equal positions", [64, 64, 64, 64, 1, 1]),
        (arch.cnn_gap(2, 8, 1), "all pairs of positions, shift by shift", [4096, 4096, 4096, 4096, 1, 1]),
        (
            arch.Sequential(*pooled(["SAME"]).layers[:2], arch.AvgPool(), *arch.cnn_vec(1, 8, 1).layers),
            "all pairs of positions",
            [4096, 4096, 256, 256, 256, 1, 1],
        ),
    ],
    ids=["flattened", "pooled at the end", "pooled between layers"],
)
def test_the_graph_decides_which_pairs_of_positions_are_carried(net, kind, entries):
    plan = net.describe((8, 8, 1))
    assert plan.carried[0] == kind
    assert plan.entries.tolist() == entries
    assert plan.total_flops == pytest.approx(plan.flops.sum())
    assert plan.shapes[-1] == (1,)
    assert str(plan).splitlines()[1].split() == [
        "layer",
        "shape",
        "carried",
        "entries",
        "per",
        "pair",
        "flops",
        "per",
        "pair",
    ]
    assert "per pair of examples" in str(plan).splitlines()[-1]


def test_a_plan_of_a_deep_network_leaves_out_layers_in_the_middle():
    lines = str(arch.cnn_gap(20, 8, 1).describe((8, 8, 1))).splitlines()
    assert len(lines) < 20
    assert lines[9] == "... and 28 more layers; see .layer_table()"
    assert len(arch.cnn_gap(20, 8, 1).describe((8, 8, 1)).layer_table().rows) == 42


def test_a_plan_without_a_shape_takes_the_usual_one_of_the_network():
    assert arch.myrtle(5).describe().input_shape == (32, 32, 3)
    assert arch.fc(1, 8, 1, activation=arch.Relu()).describe().input_shape == (1000,)
    assert arch.cnn_vec(1, 8, 1, filter=(3,)).describe().input_shape == (64, 3)
    assert max(arch.resnet(8).describe().flops) == arch.resnet(8).describe().flops[1]


def test_more_memory_than_there_is_is_refused_with_the_number_needed():
    with pytest.raises(MemoryBudgetError, match=r"needs [\d.]+ GiB at once, but only [\d.]+ GiB"):
        arch.resnet(8).kernel(np.ones((200, 32, 32, 3)))
    with pytest.raises(MemoryBudgetError, match="Gram matrix"):
        kernels.gram(arch.resnet(8), np.ones((2, 32, 32, 3)), budget_gb=0.25)


@pytest.mark.claim("lee2020finite/A2")
@pytest.mark.parametrize("layout", ["planes", "full"])
def test_filters_of_a_limit_are_sums_of_shifted_arrays(layout):
    net = arch.cnn_gap(1, 8, 1)
    with jax.enable_x64(True):
        program = str(jax.make_jaxpr(lambda x: net.kernel(x, layout=layout).ntk)(jnp.asarray(patchy()[:2])))
    assert "conv_general_dilated" not in program
    assert "reduce_window" not in program


def conv(size=(3, 3), padding="SAME"):
    return arch.Conv(8, size, None, padding, 1.3, 0.3)


@SLOW
def test_a_filter_with_edges_after_lost_positions_is_seen_wherever_it_stands():
    x = np.random.default_rng(9).normal(size=(2, 5, 4, 1))
    first = (conv((2, 2), "VALID"), arch.Relu())
    in_one_stage = arch.Sequential(*first, conv(), conv((2, 2), "VALID"), arch.Relu(), arch.GlobalAvgPool())
    np.testing.assert_allclose(in_one_stage.kernel(x).ntk, oracles_positions.kernels(in_one_stage, x)[1], rtol=1e-11)
    branch = arch.Residual(arch.Sequential(conv(), conv((2, 2), "VALID")), conv((2, 2), "VALID"))
    for net in (in_one_stage, arch.Sequential(*first, branch, arch.Relu(), arch.GlobalAvgPool())):
        with pytest.raises(ValueError, match="layout='planes' is for"):
            net.kernel(x, layout="planes")


@SLOW
@pytest.mark.parametrize("behind", [arch.Relu(), arch.LayerNorm()])
def test_layers_behind_a_pool_of_gaussian_positions_are_the_same_on_every_path(behind):
    x = np.random.default_rng(9).normal(size=(3, 4, 3, 1))
    net = arch.Sequential(conv(), arch.Relu(), conv(), arch.GlobalAvgPool(), behind, arch.Dense(1))
    auto, full = net.kernel(x), net.kernel(x, layout="full")
    np.testing.assert_allclose(auto.ntk, full.ntk, rtol=1e-12)
    np.testing.assert_allclose(auto.nngp, full.nngp, rtol=1e-12)


def test_a_nonlinearity_behind_features_of_several_positions_is_refused():
    net = arch.Sequential(conv(), arch.Flatten(), arch.Relu(), arch.Dense(1))
    with pytest.raises(NonGaussianInputError, match=r"layer 2, Relu.*apply it before Flatten"):
        net.kernel(np.ones((2, 4, 3, 1)))
    normed = arch.Sequential(conv(), arch.Flatten(), arch.LayerNorm(), arch.Dense(1))
    x = patchy()[:3]
    np.testing.assert_allclose(normed.kernel(x).nngp.diagonal(), 1.0, rtol=1e-9)
