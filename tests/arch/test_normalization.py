"""Layer normalization and stored batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch, kernels
from widescape.core.errors import NonGaussianInputError, NotTractableError, ShapeError


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(3, 4, 3, 6)).astype(np.float32)


@pytest.mark.parametrize(("over", "axes"), [("channels", -1), ("example", (1, 2, 3))])
def test_normalized_signals_have_mean_zero_and_variance_one(over, axes, x):
    layer = arch.LayerNorm(over)
    out = np.asarray(layer.apply((), 5 * x + 3))
    np.testing.assert_allclose(out.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(axes), 1, rtol=1e-5)
    assert layer.init(jax.random.key(0), x.shape[1:]) == ()


def test_epsilon_is_added_to_the_variance(x):
    out = arch.LayerNorm(epsilon=4.0).apply((), x)
    centered = x - x.mean(-1, keepdims=True)
    np.testing.assert_allclose(out, centered / np.sqrt(x.var(-1, keepdims=True) + 4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("over", ["channels", "example"])
def test_limits_of_layer_norm_equal_loops_over_positions(over):
    x = np.random.default_rng(3).normal(size=(3, 5, 4, 2))
    x[1, :2] = 0  # black
    net = arch.Sequential(
        arch.Conv(8, (3, 3), w_std=1.3, b_std=0.2),
        arch.LayerNorm(over, 0.3),
        arch.Relu(),
        arch.Flatten(),
        arch.Dense(1),
    )
    nngp, ntk = oracles_positions.kernels(net, x)
    kernel = net.kernel(x)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-12)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-12)


def test_normalized_vectors_have_variance_one_whatever_their_scale():
    x = np.random.default_rng(3).normal(size=(3, 5))
    net = arch.Sequential(arch.Dense(8), arch.LayerNorm(), arch.Relu(), arch.Dense(1))
    one, large = net.kernel(x), net.kernel(1000 * x)
    np.testing.assert_allclose(one.var1, 0.5, rtol=1e-11)
    np.testing.assert_allclose(large.ntk, one.ntk, rtol=1e-9)


@pytest.mark.parametrize(
    "layers",
    [
        (arch.LayerNorm(), arch.Dense(4)),
        (arch.Dense(4), arch.Relu(), arch.LayerNorm(), arch.Dense(1)),
        (arch.Residual(arch.Sequential(arch.Dense(4))), arch.LayerNorm(), arch.Dense(1)),
    ],
)
def test_layer_norm_of_what_is_not_gaussian_is_refused(layers):
    with pytest.raises(NonGaussianInputError, match=r"LayerNorm.*Dense or Conv"):
        arch.Sequential(*layers).kernel(np.ones((2, 4)))


def test_whether_layer_norm_meets_a_mean_may_depend_on_scales(x):
    def net(c):
        return arch.Sequential(arch.Conv(8), arch.Erf(1.0, 1.0, c), arch.LayerNorm(), arch.Flatten(), arch.Dense(1))

    assert np.isfinite(net(0.0).kernel(x, get="nngp").nngp).all()
    with pytest.raises(NonGaussianInputError, match=r"layer 2, LayerNorm.*mean zero"):
        net(0.5).kernel(x, get="nngp")


def test_bad_normalizations_are_refused():
    with pytest.raises(ValueError, match="'channels', 'example'"):
        arch.LayerNorm("positions")
    with pytest.raises(ValueError, match="epsilon"):
        arch.LayerNorm(epsilon=-1.0)
    with pytest.raises(ValueError, match="epsilon"):
        arch.BatchNorm(-1.0)


def test_batch_norm_applies_its_stored_statistics_and_passes_no_gradient_to_them(x):
    layer = arch.BatchNorm(0.1)
    params = layer.init(jax.random.key(0), x.shape[1:])
    np.testing.assert_allclose(layer.apply(params, x), x / 1.1**0.5, rtol=1e-6)
    values = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    params = dict(zip(("mean", "variance", "scale", "offset"), map(jnp.asarray, np.abs(values)), strict=True))
    mean, variance, scale, offset = np.abs(values)
    expected = (x - mean) / np.sqrt(variance + 0.1) * scale + offset
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda p: (layer.apply(p, jnp.asarray(x)) ** 2).sum())(params)
    assert not gradient["mean"].any()
    assert not gradient["variance"].any()
    assert gradient["scale"].all()
    assert gradient["offset"].all()
    with pytest.raises(ShapeError, match="6 channels"):
        layer.apply(params, x[..., :4])


def test_batch_norm_has_no_limit_but_can_be_sampled():
    net = arch.Sequential(arch.Conv(16), arch.BatchNorm(), arch.Relu(), arch.Flatten(), arch.Dense(1))
    x = np.random.default_rng(3).normal(size=(2, 4, 3, 1))
    with pytest.raises(NotTractableError, match=r"layer 1, BatchNorm.*LayerNorm.*kernels\.monte_carlo"):
        net.kernel(x)
    sampled = kernels.monte_carlo(net, jax.random.key(0), 20, x, get="nngp")
    assert (sampled.mean.diagonal() > 0).all()
