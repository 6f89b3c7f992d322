"""Branches: their finite sums and products, their limits, and what cannot be brought together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_positions
from widescape import arch
from widescape.arch.limit import Limit
from widescape.core.errors import NonGaussianInputError, NotTractableError, ShapeError

Dense, Relu, Sequential = arch.Dense, arch.Relu, arch.Sequential
X = np.random.default_rng(5).normal(size=(3, 4))


def block(width=4, b=0.2) -> arch.Sequential:
    return Sequential(Dense(8, 1.3, 0.1), Relu(), Dense(width, 1.1, b))


def values(net, x):
    params = net.init(jax.random.key(0), x.shape[1:])
    return params, np.asarray(net.apply(params, jnp.asarray(x, jnp.float32)))


def test_finite_branches_are_added_multiplied_and_put_side_by_side(key):
    one, two = block(), Dense(4)
    x = jnp.asarray(X, jnp.float32)
    for kind, expected in (
        (arch.Sum, lambda a, b: a + b),
        (arch.Prod, lambda a, b: a * b),
        (arch.Concat, lambda a, b: jnp.concatenate([a, b], axis=-1)),
    ):
        inside, behind = kind(one, two), Sequential(arch.Parallel(one, two), kind())
        params = inside.init(key, (4,))
        outs = one.apply(params[0], x), two.apply(params[1], x)
        np.testing.assert_allclose(inside.apply(params, x), expected(*outs), rtol=1e-6)
        np.testing.assert_allclose(behind.apply((params, ()), x), expected(*outs), rtol=1e-6)
    residual = arch.Residual(one)
    params = residual.init(key, (4,))
    np.testing.assert_allclose(residual.apply(params, x), one.apply(params[0], x) + x, rtol=1e-6)


def test_branches_behind_parallel_branches_take_one_each():
    net = Sequential(arch.Parallel(Dense(8), Dense(6)), arch.Parallel(Relu(), arch.Erf()), arch.Concat(), Dense(1))
    params, out = values(net, X)
    x = jnp.asarray(X, jnp.float32)
    left = jax.nn.relu(Dense(8).apply(params[0][0], x))
    right = jax.scipy.special.erf(Dense(6).apply(params[0][1], x))
    expected = Dense(1).apply(params[3], jnp.concatenate([left, right], -1))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    nngp, ntk = oracles_positions.kernels(net, X)
    np.testing.assert_allclose(net.kernel(X).nngp, nngp, rtol=1e-12)
    np.testing.assert_allclose(net.kernel(X).ntk, ntk, rtol=1e-12)


LIMITS = {
    "sum": Sequential(arch.Sum(block(), Dense(4, 0.7), block()), Relu(), Dense(1)),
    "residual of input": Sequential(arch.Residual(block()), Dense(8, 1.1), Relu(), Dense(1)),
    "two residuals": Sequential(
        Dense(8, 1.1), *[arch.Residual(Sequential(arch.Erf(), Dense(8, 0.9, 0.3)))] * 2, Relu(), Dense(1)
    ),
    "biased branch": Sequential(arch.Sum(Dense(8), Sequential(Dense(8), Relu())), Dense(8), Relu(), Dense(1)),
    "product": Sequential(arch.Prod(block(), Dense(4, 0.7, 0.2), block()), Dense(8), Relu(), Dense(1)),
    "concat": Sequential(arch.Concat(block(4), Sequential(Dense(12), Relu())), Dense(8), Relu(), Dense(1)),
    "improved concat": Sequential(
        arch.Concat(
            Sequential(Dense(4, 1.2, None, "standard", 2), Relu()),
            Sequential(Dense(8, 1.2, 0.1, "standard", 4), arch.Erf()),
        ),
        Dense(1, 1.0, None, "standard", 1),
    ),
    "repeat": Sequential(Dense(8), arch.Repeat(Sequential(Relu(), Dense(8, 1.2, 0.1)), 3), Relu(), Dense(1)),
    "repeated residual": Sequential(
        Dense(8), arch.Repeat(arch.Residual(Sequential(Relu(), Dense(8, 1.2, 0.1))), 2), Relu(), Dense(1)
    ),
    "frozen branch": Sequential(arch.Sum(arch.Frozen(block()), Dense(4)), Relu(), Dense(1)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_branches_equal_the_recursion_over_pairs(name):
    net = LIMITS[name]
    nngp, ntk = oracles_positions.kernels(net, X)
    kernel = net.kernel(X)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-10)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-10)
    assert arch.from_text(repr(net)) == net


@pytest.mark.parametrize("name", ["residual of input", "two residuals", "product", "concat"])
def test_complements_behind_branches_keep_the_accuracy_of_near_duplicates(name):
    """Against 40 digits: the angle between examples that differ by 1e-7 survives sums, products and concatenation."""
    x = np.array([[1.0, 0.5, -0.3, 0.2], [1.0 + 3e-7, 0.5 - 2e-7, -0.3, 0.2], [0.1, -0.2, 1.0, 0.4]])
    nngp, ntk = oracles_positions.kernels(LIMITS[name], x, digits=40)
    kernel = LIMITS[name].kernel(x)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-13)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-12)


@pytest.mark.slow
def test_an_identity_skip_from_a_raw_image_of_many_channels_meets_finite_networks(key):
    """Behind a convolution, a nonlinearity: channels of the image are as many as hidden ones."""
    x = np.random.default_rng(6).normal(size=(2, 3, 3, 64))
    x[1] += x[0]
    conv = arch.Conv(64, (2, 2), w_std=1.3, b_std=0.2)
    net = Sequential(
        arch.Residual(Sequential(conv, Relu(), conv)), conv, Relu(), arch.GlobalAvgPool(), Dense(1, 1.2, 0.1)
    )
    limit = net.kernel(x)
    np.testing.assert_allclose(limit.ntk, oracles_positions.kernels(net, x)[1], rtol=1e-12)
    x32 = jnp.asarray(x, jnp.float32)

    def finite(k):
        params = net.parameters(k, arch.Signal.of_input(x.shape[1:]), jnp.float32)
        out = net.apply(params, x32)[:, 0]
        gradients = [jax.grad(lambda p, i=i: net.apply(p, x32)[i, 0])(params) for i in range(2)]
        rows = [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(g)]) for g in gradients]
        return out[:, None] * out[None, :], jnp.stack(rows) @ jnp.stack(rows).T

    draws = 200
    parts = [jax.jit(jax.vmap(finite))(keys) for keys in jax.random.split(key, (20, draws // 20))]
    for index, matrix in enumerate((limit.nngp, limit.ntk)):
        found = np.concatenate([np.asarray(part[index], np.float64) for part in parts])
        stderr = found.std(axis=0, ddof=1) / draws**0.5
        assert (np.abs(found.mean(axis=0) - matrix) <= 4.5 * stderr + 2 / 64 * matrix).all()


def test_parameters_of_a_repeated_layer_are_stacked_and_drawn_anew(key):
    net = Sequential(Dense(8), arch.Repeat(Sequential(Relu(), Dense(8, 1.1, 0.1)), 3), Dense(1))
    params, out = values(net, X)
    stacked = params[1][1]["w"]
    assert stacked.shape == (3, 8, 8)
    assert not np.allclose(stacked[0], stacked[1])
    h = Dense(8).apply(params[0], X.astype(np.float32))
    for i in range(3):
        h = Dense(8, 1.1, 0.1).apply(jax.tree.map(lambda a, i=i: a[i], params[1][1]), jax.nn.relu(h))
    np.testing.assert_allclose(out, Dense(1).apply(params[2], h), rtol=1e-5)
    wide = net.init(key, (4,), width=16)
    assert wide[1][1]["w"].shape == (3, 16, 16)
    assert net.initial_variances((4,))[1][1] == {"w": 1.0, "b": 1.0}


def test_hidden_widths_inside_branches_are_replaced_and_outputs_kept(key):
    net = Sequential(arch.Sum(block(3), Dense(3)), Relu(), arch.Residual(Dense(3)), Dense(2))
    shapes = [leaf.shape for leaf in jax.tree.leaves(net.init(key, (4,), width=16)) if leaf.ndim == 2]
    assert shapes == [(4, 16), (16, 16), (4, 16), (16, 16), (16, 2)]
    assert net.with_hidden_width(16).apply(net.init(key, (4,), width=16), X.astype("float32")).shape == (3, 2)


CONV, IMAGES = arch.Conv(8), np.ones((2, 5, 4, 2))


@pytest.mark.parametrize(
    ("net", "x", "error", "words"),
    [
        (
            Sequential(Dense(4), arch.Sum(arch.Identity(), Relu())),
            X,
            NotTractableError,
            "branches 0 and 1.*same random",
        ),
        (Sequential(Dense(4), arch.Residual(Relu())), X, NotTractableError, "of Residual depend on the same random"),
        (Sequential(Dense(4), arch.Prod(arch.Identity(), Relu())), X, NotTractableError, "of Prod depend"),
        (
            Sequential(arch.Parallel(Sequential(Dense(4), Relu()), Sequential(Dense(4), Relu())), arch.Sum()),
            X,
            NotTractableError,
            "branches 0 and 1 of a sum both have a mean",
        ),
        (Sequential(arch.Residual(block()), Relu(), Dense(1)), X, NonGaussianInputError, "layer 1, Relu"),
        (
            Sequential(arch.Sum(Sequential(Dense(4), Relu()), Dense(4)), Relu()),
            X,
            NonGaussianInputError,
            "layer 1, Relu",
        ),
        (Sequential(arch.Prod(Dense(4), Dense(4)), Relu()), X, NonGaussianInputError, "layer 1, Relu"),
        (Sequential(arch.Concat(Dense(4), Dense(4)), Relu()), X, NonGaussianInputError, "layer 1, Relu"),
        (arch.Residual(Dense(3)), X, ShapeError, r"\(3,\), \(4,\)"),
        (
            Sequential(CONV, arch.Residual(arch.Conv(8, (3, 3), (2, 2)))),
            IMAGES,
            ShapeError,
            r"layer 1, Residual.*shapes",
        ),
        (arch.Residual(arch.Conv(2, (3, 3), None, "VALID")), IMAGES, ShapeError, r"\(3, 2, 2\), \(5, 4, 2\)"),
        (arch.Sum(Dense(3), Dense(4)), X, ShapeError, r"Sum.*\(3,\), \(4,\)"),
        (arch.Concat(CONV, arch.Conv(8, (3, 3), (2, 2))), IMAGES, ShapeError, "Concat meets branches with positions"),
        (Sequential(Dense(3), arch.Repeat(Dense(4), 2)), X, ShapeError, r"layer 1, Repeat.*\(3,\) becomes \(4,\)"),
        (Sequential(CONV, arch.Repeat(arch.AvgPool(), 1)), IMAGES, ShapeError, "layer 1, Repeat.*keeps the shape"),
        (arch.Parallel(Dense(3), Dense(3)), X, ShapeError, "ends in several branches"),
        (Sequential(Dense(2), arch.Parallel(Dense(3), Dense(3))), X, ShapeError, "ends in several branches"),
        (Sequential(arch.Parallel(Dense(3), Dense(3)), Relu()), X, ShapeError, r"layer 1, Relu.*several branches"),
        (Sequential(Dense(3), arch.Sum()), X, ShapeError, "layer 1, Sum.*not behind a Parallel"),
        (
            Sequential(arch.Parallel(Dense(3), Dense(3)), arch.Sum(Relu(), Relu(), Relu())),
            X,
            ShapeError,
            "2 branches reach Sum, which holds 3",
        ),
        (arch.Sum(Dense(3), Sequential(CONV, Dense(3))), X, ShapeError, "branch 1, Sequential: layer 0, Conv"),
    ],
)
def test_branches_that_do_not_combine_are_refused_by_name(net, x, error, words):
    with pytest.raises(error, match=words):
        net.kernel(x)


def test_the_mean_of_a_nonlinearity_may_depend_on_its_scales():
    odd = arch.Erf(1.0, 1.0, 0.0)
    net = Sequential(arch.Sum(Sequential(Dense(4), odd), Sequential(Dense(4), odd)), Dense(1))
    assert np.isfinite(net.kernel(X).ntk).all()
    shifted = arch.Erf(1.0, 1.0, 0.5)
    net = Sequential(arch.Sum(Sequential(Dense(4), shifted), Sequential(Dense(4), shifted)), Dense(1))
    with pytest.raises(NotTractableError, match="both have a mean"):
        net.kernel(X)


def test_bad_branches_are_refused():
    for make, words in (
        (lambda: arch.Parallel(Dense(3)), "at least two"),
        (lambda: arch.Sum(Dense(3)), "at least two, or none"),
        (lambda: arch.Concat(Dense(3)), "at least two, or none"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    for make, words in (
        (lambda: arch.Residual(Relu), "with parentheses"),
        (lambda: arch.Sum(Dense(3), jnp.tanh), "Activation"),
        (lambda: arch.Repeat(Relu, 2), "with parentheses"),
        (lambda: arch.Repeat(Relu(), 2.5), "integer"),
    ):
        with pytest.raises(TypeError, match=words):
            make()
    with pytest.raises(ValueError, match="at least 1"):
        arch.Repeat(Relu(), 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: arch.Repeat(Relu(), 10**9),
        lambda: arch.from_text("Sequential(Dense(4), Repeat(Relu(), 10**9))"),
        lambda: arch.Repeat(arch.Repeat(Relu(), 100_000), 10**9),
        lambda: arch.Repeat(Sequential(*[arch.Repeat(Relu(), 30_000)] * 100), 10**9),
    ],
)
def test_more_repetitions_than_can_be_visited_are_refused_with_the_limit(make):
    with pytest.raises(ValueError, match=r"`n` is 1000000000.*more than 100,000 layers"):
        make()


def test_layers_inside_count_towards_the_limit_of_repetitions():
    inner = Sequential(Relu(), Dense(4))  # three layers, itself included
    assert len(arch.Repeat(inner, 33_333).children()) == 33_333
    with pytest.raises(ValueError, match="more than 100,000"):
        arch.Repeat(inner, 33_334)
    assert arch.Repeat(arch.Repeat(Relu(), 99), 1_000).n == 1_000
    with pytest.raises(ValueError, match="more than 100,000"):
        arch.Repeat(arch.Repeat(Relu(), 100), 1_000)


@dataclass(frozen=True)
class Counted(arch.Identity):
    """An identity that counts how often its limit is taken."""

    calls = 0

    def limit(self, cov):
        Counted.calls += 1
        return cov


def test_whether_a_limit_exists_is_read_from_two_repetitions():
    net = Sequential(Dense(4), arch.Repeat(Counted(), 20_000), Dense(1))
    assert Limit.of(net, (3,), "nngp").layer == net
    assert Counted.calls == 2
    with pytest.raises(NonGaussianInputError, match=r"layer 1, Repeat.*another nonlinearity"):
        Limit.of(Sequential(Dense(4), arch.Repeat(Relu(), 20_000)), (3,), "nngp")
    two = arch.Sum(arch.Identity(), Sequential(Dense(4), Relu()))
    Limit.of(Sequential(Dense(4), arch.Repeat(two, 1)), (3,), "nngp")
    with pytest.raises(NotTractableError, match=r"layer 1, Repeat.*both have a mean"):
        Limit.of(Sequential(Dense(4), arch.Repeat(two, 20_000)), (3,), "nngp")


def test_frozen_branches_are_branches():
    pair = arch.Parallel(Dense(4), Dense(4))
    net = Sequential(arch.Frozen(pair), arch.Sum(), Dense(1))
    x = np.eye(3)
    np.testing.assert_allclose(net.kernel(x).nngp, Sequential(pair, arch.Sum(), Dense(1)).kernel(x).nngp)
    np.testing.assert_allclose(net.kernel(x).ntk, net.kernel(x).nngp)  # the read-out alone is trained
    assert Sequential(pair, arch.Frozen(arch.Sum()), Dense(1)).out(arch.Signal((3,), None)).shape == (1,)


def test_a_branch_that_ends_in_branches_is_refused():
    inner = arch.Parallel(Dense(4), Dense(4))
    for merge in (arch.Sum(), arch.Concat()):
        with pytest.raises(ShapeError, match=r"layer 1.*ends in several branches itself"):
            Sequential(arch.Parallel(inner, Dense(4)), merge).out(arch.Signal((3,), None))


def test_plans_of_branches_inside_of_branches_count_all_of_them():
    block = arch.Residual(Sequential(Relu(), arch.Parallel(arch.Conv(4), arch.Conv(4)), arch.Sum()))
    net = Sequential(arch.Conv(4), block, arch.GlobalAvgPool(), Dense(1))
    plan = net.describe((4, 4, 1))
    assert plan.flops[1] == (Relu.pair_flops + 2 * arch.Conv.pair_flops + 4) * 256  # and the identity skip
    with pytest.raises(ShapeError, match="ends in several branches"):
        arch.Parallel(Dense(1), Dense(1)).describe((3,))


def test_another_width_of_a_network_that_ends_in_a_residual_block_is_refused_with_the_reason(key):
    net = Sequential(Dense(64), arch.Residual(Sequential(Relu(), Dense(64))))
    with pytest.raises(ShapeError, match="every hidden width 32; the outputs need a last layer of their own"):
        net.init(key, (3,), width=32)


def test_parameters_and_inputs_of_two_precisions_promote(key):
    block = arch.Repeat(Sequential(Dense(4), Relu()), 2)
    x = jnp.ones((2, 4), jnp.float32)
    assert block.apply(block.init(key, (4,), dtype="float64"), x).dtype == np.float64
    conv = arch.Conv(2)
    large = jnp.ones((900, 32, 32, 3), jnp.float32)
    assert conv.apply(conv.init(key, (32, 32, 3), dtype="float64"), large).dtype == np.float64


def test_shares_of_a_concatenation_are_printed():
    layer = arch.Concat(Dense(2), Dense(2), shares=(0.3, 0.7))
    assert arch.from_text(repr(layer)) == layer
