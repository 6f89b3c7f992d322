"""Architectures in one call: each is initialized, applied, differentiated, printed, and taken to its limit."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch, kernels

PRESETS = {
    "cnn_vec": arch.cnn_vec(2, 8, 3),
    "cnn_gap": arch.cnn_gap(2, 8, 3, activation=arch.Erf(), padding="CIRCULAR"),
    "cnn_gap improved": arch.cnn_gap(1, 8, 3, param="standard", base_width=4, filter=(2, 2)),
    "myrtle": arch.myrtle(5, 8, 3),
    "resnet": arch.resnet(8, 4, 3),
    "wide_resnet": arch.wide_resnet(10, 1, 3),
}
X = np.random.default_rng(7).normal(size=(2, 8, 8, 2))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prints_compares_hashes_and_pickles(name):
    net = PRESETS[name]
    copy = pickle.loads(pickle.dumps(net))
    assert copy == net
    assert hash(copy) == hash(net)
    assert arch.from_text(repr(net)) == net
    assert arch.from_text(str(net)) == net
    assert net != arch.Sequential(net, arch.Identity())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_widened_with_its_outputs_kept(name, key):
    net = PRESETS[name]
    params = jax.eval_shape(lambda: net.init(key, X.shape[1:], width=5))
    assert jax.eval_shape(net.apply, params, jnp.asarray(X, jnp.float32)).shape == (2, 3)
    widths = {leaf.shape[-1] for leaf in jax.tree.leaves(params)}
    assert widths == {3, 5}
    assert jax.tree.structure(net.initial_variances(X.shape[1:])) == jax.tree.structure(params)


def test_a_read_out_has_its_outputs_as_base_width_and_else_what_its_hidden_layers_have():
    hidden = {"w_std": 1.2, "b_std": 0.3, "param": "standard"}
    for preset in (arch.cnn_vec, arch.cnn_gap):
        assert preset(1, 8, 3, **hidden).layers[-1] == arch.Dense(3, **hidden)
        assert preset(1, 8, 3, **hidden, base_width=4).layers[-1] == arch.Dense(3, **hidden, base_width=3)
    net = arch.fc(1, 8, 3, activation=arch.Relu(), **hidden, base_width=4)
    assert net.layers[-1] == arch.Dense(3, **hidden, base_width=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_initialized_applied_and_differentiated_in_its_parameters(name, key):
    net = PRESETS[name]
    params = net.init(key, X.shape[1:])

    def half_square(p):
        out = net.apply(p, X.astype(np.float32))
        return (out**2).sum() / 2, out

    (_, out), gradient = jax.jit(jax.value_and_grad(half_square, has_aux=True))(params)
    assert out.shape == (2, 3)
    assert np.isfinite(out).all()
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert leaf.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_vec", "cnn_gap", "myrtle"])
def test_a_preset_has_the_limit_of_loops_over_positions(name):
    """With 6 by 6 pixels, since loops visit all pairs of them."""
    net, x = PRESETS[name], X[:, :6, :6]
    kernel = net.kernel(x)
    nngp, ntk = oracles_positions.kernels(net, x)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-9)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_vec"])
def test_wide_presets_meet_their_limit(name):
    net, x = PRESETS[name], X[:, :4, :4]
    limit = net.kernel(x)
    sampled = kernels.monte_carlo(net, jax.random.key(0), 60, x, width=128)
    for kind in ("nngp", "ntk"):
        matrix = getattr(limit, kind)
        finite_width = 10 / 128 * np.abs(matrix).max()
        assert (np.abs(sampled.mean[kind] - matrix) <= 4.5 * sampled.stderr[kind] + finite_width).all()


def test_presets_have_the_layers_that_their_papers_count():
    def convolutions(net):
        inner = [own for layer in net.layers for own in (layer, *getattr(layer, "branches", ()))]
        flat = [own for layer in inner for own in getattr(layer, "layers", (layer,))]
        return [own for own in flat if isinstance(own, arch.Conv)]

    for depth in (5, 7, 10):
        net = arch.myrtle(depth, 16)
        assert len(convolutions(net)) + 1 == depth
        assert sum(isinstance(layer, arch.AvgPool) for layer in net.layers) == 2
    for depth in (8, 14, 20):
        assert sum(conv.filter == (3, 3) for conv in convolutions(arch.resnet(depth, 4))) + 1 == depth
        assert [conv.width for conv in convolutions(arch.resnet(depth, 4)) if conv.filter == (1, 1)] == [8, 16]
    wide = convolutions(arch.wide_resnet(16, 2))
    assert len(wide) == 16  # 6 n + 4 counts three shortcuts by convolution, and not the read-out
    assert [conv.width for conv in wide if conv.filter == (1, 1)] == [32, 64, 128]
    assert wide[0].width == 16
    net = arch.cnn_vec()
    assert len(net.layers) == 18
    assert net.layers[0] == arch.Conv(512, (3, 3), w_std=2**0.5, b_std=0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: arch.resnet(9), r"`depth` is 9; choose 6 n \+ 2"),
        (lambda: arch.resnet(2), "8, 14, 20"),
        (lambda: arch.resnet(8, 0), "width"),
        (lambda: arch.wide_resnet(28 + 2), r"`depth` is 30; choose 6 n \+ 4"),
        (lambda: arch.wide_resnet(4), "10, 16, 22"),
        (lambda: arch.wide_resnet(10, 0), "factor"),
        (lambda: arch.myrtle(6), "depth"),
        (lambda: arch.cnn_vec(0), "depth"),
        (lambda: arch.cnn_gap(0), "depth"),
    ],
)
def test_depths_that_a_preset_does_not_have_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide_resnet"])
def test_a_residual_preset_has_the_covariance_of_loops_over_positions(name):
    net, x = PRESETS[name], X[:, :4, :4]
    np.testing.assert_allclose(net.kernel(x, get="nngp").nngp, oracles_positions.kernels(net, x)[0], rtol=1e-9)
