"""Pools: finite ones against JAX's windows, limits against all pairs of positions, and what has no limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch, kernels
from widescape.arch.covariance import difference
from widescape.core.errors import NotTractableError, ShapeError

CASES = [((2, 2), None), ((3, 2), (1, 1)), ((2, 3), (3, 2)), ((3, 3), (2, 2))]


@pytest.fixture
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 6, 3)), jnp.float32)


def reduced(x, start, operation, window, strides, padding):
    return jax.lax.reduce_window(x, start, operation, (1, *window, 1), (1, *(strides or window), 1), padding)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "strides"), CASES)
def test_finite_pools_are_those_of_xla(window, strides, padding, x):
    found = {kind: kind(window, strides, padding).apply((), x) for kind in (arch.MaxPool, arch.SumPool, arch.AvgPool)}
    sums = reduced(x, 0.0, jax.lax.add, window, strides, padding)
    counts = reduced(jnp.ones_like(x), 0.0, jax.lax.add, window, strides, padding)
    np.testing.assert_array_equal(found[arch.MaxPool], reduced(x, -jnp.inf, jax.lax.max, window, strides, padding))
    np.testing.assert_allclose(found[arch.SumPool], sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[arch.AvgPool], sums / np.prod(window), rtol=1e-5, atol=1e-5)
    normalized = arch.AvgPool(window, strides, padding, normalize_edges=True).apply((), x)
    np.testing.assert_allclose(normalized, sums / counts, rtol=1e-5, atol=1e-5)
    assert found[arch.MaxPool].shape == (
        2,
        *arch.MaxPool(window, strides, padding).out(arch.Signal((7, 6, 3), 3)).shape,
    )


@pytest.mark.parametrize("kind", [arch.MaxPool, arch.SumPool, arch.AvgPool])
def test_circular_pools_of_stride_one_follow_a_rolled_image(kind, x):
    pool = kind((3, 2), (1, 1), "CIRCULAR")
    rolled = pool.apply((), jnp.roll(x, (2, 5), (1, 2)))
    np.testing.assert_allclose(rolled, jnp.roll(pool.apply((), x), (2, 5), (1, 2)), rtol=1e-5, atol=1e-6)


def test_global_pools_are_means_and_sums(x):
    np.testing.assert_allclose(arch.GlobalAvgPool().apply((), x), x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arch.GlobalSumPool().apply((), x), x.sum((1, 2)), rtol=1e-5, atol=1e-5)


def with_pool_between(pool: arch.Layer) -> arch.Sequential:
    conv = arch.Conv(8, (3, 2), w_std=1.3, b_std=0.2)
    return arch.Sequential(
        conv, arch.Relu(), pool, conv, arch.Relu(), arch.GlobalAvgPool(), arch.Dense(1), arch.Relu(), arch.Dense(1)
    )


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/P9")
@pytest.mark.parametrize(
    "pool",
    [arch.AvgPool((2, 2)), arch.AvgPool((2, 3), (2, 1), "SAME", True), arch.SumPool((2, 2), (1, 2), "CIRCULAR")],
    ids=["average", "edges", "circular sum"],
)
def test_nonlinearities_behind_pools_take_variances_from_all_pairs_of_positions(pool, rng):
    x1, x2 = rng.normal(size=(2, 2, 5, 4, 2))
    net = with_pool_between(pool)
    nngp, ntk = oracles_positions.kernels(net, x1, x2)
    across = net.kernel(x1, x2)
    np.testing.assert_allclose(across.nngp, nngp, rtol=1e-10)
    np.testing.assert_allclose(across.ntk, ntk, rtol=1e-10)
    for own, variances in ((x1, across.var1), (x2, across.var2)):
        diagonal = oracles_positions.kernels(net, own)[0].diagonal()
        np.testing.assert_allclose(variances, diagonal, rtol=1e-12)


@pytest.mark.parametrize("end", ["VEC", "GAP"])
def test_output_variances_of_both_batches_are_the_diagonals_of_their_own_kernels(end, rng):
    x1, x2 = rng.normal(size=(2, 3, 5, 4, 2))
    net = (arch.cnn_vec if end == "VEC" else arch.cnn_gap)(2, 8, 1, padding="CIRCULAR")
    across = net.kernel(x1, x2)
    for own, variances in ((x1, across.var1), (x2, across.var2)):
        np.testing.assert_allclose(variances, net.kernel(own).nngp.diagonal(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_complement_by_subtraction_is_zero_below_rounding(dtype):
    eps = np.finfo(dtype).eps
    product = np.array([3.0, 3.0, 3.0, 3.0, 3.0], dtype)
    nngp = product * np.array([1.0, -1.0, 1 + 4 * eps, -1 + 4 * eps, -0.75], dtype)
    with jax.enable_x64(True):
        for found in (difference(product, nngp), difference(jnp.asarray(product), jnp.asarray(nngp))):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, [0, 0, 0, 0, 0.75])


def test_traced_kernels_behind_a_pool_equal_eager_ones(rng):
    net = arch.Sequential(arch.Conv(8), arch.Relu(), arch.AvgPool(), arch.Flatten(), arch.Dense(1))
    x = rng.normal(size=(2, 4, 4, 1))
    with jax.enable_x64(True):
        traced = jax.jit(lambda images: net.kernel(images).ntk)(jnp.asarray(x))
    np.testing.assert_allclose(traced, net.kernel(x).ntk, rtol=1e-12)


def test_the_maximum_has_no_limit_but_can_be_sampled(rng):
    net = arch.Sequential(arch.Conv(16), arch.Relu(), arch.MaxPool(), arch.Flatten(), arch.Dense(1))
    x = rng.normal(size=(2, 4, 4, 1))
    with pytest.raises(NotTractableError, match=r"layer 2, MaxPool.*kernels\.monte_carlo"):
        net.kernel(x)
    sampled = kernels.monte_carlo(net, jax.random.key(0), 20, x)
    assert np.isfinite(sampled.mean.ntk).all()
    assert (sampled.mean.ntk.diagonal() > 5 * sampled.stderr.ntk.diagonal()).all()


def test_pools_say_what_does_not_fit():
    x = np.ones((2, 5, 4, 2))
    for kind in (arch.AvgPool, arch.SumPool, arch.MaxPool):
        with pytest.raises(TypeError, match=r"`window` is 2.*\(2, 2\)"):
            kind(2)
        with pytest.raises(ValueError, match="1 strides for a window of 2"):
            kind((2, 2), (1,))
        with pytest.raises(ValueError, match="at least 1"):
            kind((2, 0))
    with pytest.raises(ShapeError, match=r"layer 1, AvgPool.*6 positions along axis 0, but only 5"):
        arch.Sequential(arch.Conv(8), arch.AvgPool((6, 1)), arch.Flatten(), arch.Dense(1)).kernel(x)
    with pytest.raises(ShapeError, match=r"layer 0, GlobalAvgPool.*needs positions"):
        arch.Sequential(arch.GlobalAvgPool(), arch.Dense(1)).kernel(np.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"layer 2, Dense.*Flatten\(\) or GlobalAvgPool\(\)"):
        arch.Sequential(arch.Conv(8), arch.Relu(), arch.Dense(1)).kernel(x)
