"""Kernels of random finite networks against their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch, kernels
from widescape.core.errors import DtypeError

NET = arch.fc(2, 64, 3, activation=arch.Gelu(), w_std=1.3, b_std=0.2)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(4, 5))


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/A7")
def test_the_mean_over_wide_networks_is_the_limit(x: np.ndarray, measured) -> None:
    limit = NET.kernel(x)
    sampled = kernels.monte_carlo(NET, jax.random.key(0), 120, x, width=768)
    assert sampled.count == 120
    worst = 0.0
    for name in ("nngp", "ntk"):
        deviation = np.abs(sampled.mean[name] - getattr(limit, name)) / sampled.stderr[name]
        worst = max(worst, deviation.max())
        assert deviation.max() < 4.5
        assert (sampled.stderr[name] < 0.05 * np.abs(limit.ntk).max()).all()
    measured(f"largest deviation {worst:.1f} standard errors")


@pytest.mark.slow
def test_the_standard_error_is_that_of_independent_draws(x: np.ndarray) -> None:
    key = jax.random.key(1)
    sampled = kernels.monte_carlo(NET, key, 6, x, get="ntk", width=16)
    single = [kernels.monte_carlo(NET, key, n, x, get="ntk", width=16) for n in (1, 2, 3, 4, 5)]
    draws = [single[0].mean]
    for before, after in zip(single, [*single[1:], sampled], strict=True):
        draws.append(after.mean * after.count - before.mean * before.count)
    np.testing.assert_allclose(sampled.mean, np.mean(draws, axis=0), rtol=1e-12)
    np.testing.assert_allclose(sampled.stderr, np.std(draws, axis=0, ddof=1) / 6**0.5, rtol=1e-9)
    assert np.isinf(single[0].stderr).all()


def test_continuing_gives_what_one_call_gives_bit_for_bit(x: np.ndarray) -> None:
    key = jax.random.key(2)
    once = kernels.monte_carlo(NET, key, 5, x, x[:2], width=16)
    assert once == kernels.monte_carlo(NET, key, 2, x, x[:2], width=16).more(3)
    assert once.mean.ntk.shape == (4, 2)


def test_a_saved_result_loads_but_cannot_continue(x: np.ndarray, tmp_path) -> None:
    result = kernels.monte_carlo(NET, jax.random.key(3), 2, x, width=8)
    loaded = kernels.MonteCarloKernel.load(result.save(tmp_path / "k.zip"))
    assert loaded == result
    with pytest.raises(ValueError, match="without its network"):
        loaded.more(1)


@pytest.mark.parametrize("arguments", [1, 2])
def test_a_pair_of_functions_is_sampled_too(arguments: int, x: np.ndarray) -> None:
    def of_shape(key, shape):
        with jax.enable_x64(True):
            return jax.random.normal(key, (shape[0], 2), jnp.float64)

    def of_key(key):
        return of_shape(key, (5,))

    pair = (of_key if arguments == 1 else of_shape, lambda w, x: x @ w)
    sampled = kernels.monte_carlo(pair, jax.random.key(4), 300, x)
    np.testing.assert_allclose(sampled.mean.ntk, x @ x.T, rtol=1e-12)
    assert (np.abs(sampled.mean.nngp - x @ x.T) < 5 * sampled.stderr.nngp).all()
    with pytest.raises(ValueError, match="own widths"):
        kernels.monte_carlo(pair, jax.random.key(4), 3, x, width=3)


def test_an_option_of_an_initializer_is_not_taken_for_the_shape(x: np.ndarray) -> None:
    def init(key, scale=1.0):
        return scale * jax.random.normal(key, (5, 2))

    def plain(key):
        return jax.random.normal(key, (5, 2))

    first, second = (kernels.monte_carlo((i, lambda w, x: x @ w), jax.random.key(0), 2, x) for i in (init, plain))
    np.testing.assert_array_equal(first.mean.nngp, second.mean.nngp)


def test_bad_arguments_are_refused(x: np.ndarray) -> None:
    key = jax.random.key(5)
    with pytest.raises(TypeError, match="pair"):
        kernels.monte_carlo(3, key, 1, x)
    with pytest.raises(ValueError, match="n_samples"):
        kernels.monte_carlo(NET, key, 0, x)
    with pytest.raises(ValueError, match="get"):
        kernels.monte_carlo(NET, key, 1, x, get="both")
    with pytest.raises(DtypeError):
        kernels.monte_carlo(NET, key, 1, np.ones((2, 3), int))
    with pytest.raises(KeyError):
        kernels.monte_carlo(NET, key, 1, x).mean["trace"]


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I9")
def test_the_empirical_kernel_approaches_its_limit_as_the_root_of_the_width(measured) -> None:
    net = arch.fc(2, 64, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    x = np.random.default_rng(8).normal(size=(8, 6))
    limit = net.kernel(x, get="ntk").ntk
    widths, errors = [128, 362, 1024, 4096], []
    for width in widths:
        own = net.with_hidden_width(width)
        distances = []
        for seed in range(20):
            params = own.init(jax.random.key(1000 * width + seed), (6,), dtype="float64")
            kernel = kernels.empirical_ntk(own.apply, params, x)
            distances.append(np.linalg.norm(kernel - limit) / np.linalg.norm(limit))
        errors.append(np.mean(distances))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    measured(f"slope {slope:.3f}")
    assert -0.75 < slope < -0.25
    assert np.all(np.diff(errors) < 0)
