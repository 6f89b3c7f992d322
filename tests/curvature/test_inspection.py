"""Kinks of a function are found where its parameters reach the outputs through them, and lower floats wherever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from widescape.curvature import System
from widescape.curvature.inspection import kinks, lower_floats

N, D = 4, 3
X = np.random.default_rng(0).normal(size=(N, D))
W = np.random.default_rng(1).normal(size=(D, D))


def layer(activation):
    return lambda w, x: activation(x @ w)


def found(f, params=W):
    return kinks(System(f, params, X))


def scanned(activation):
    def f(w, x):
        return lax.scan(lambda h, _: (activation(h @ w), None), x, None, length=2)[0]

    return f


def mapped(activation):
    return lambda w, x: lax.scan(lambda i, row: (i + 1, activation(row @ w)), 0, x)[1]


def delayed(activation):
    """The second carry meets the activation two turns before it is returned."""

    def f(w, x):
        def turn(carry, _):
            h, z, out = carry
            return (activation(out @ w), h, z), None

        return lax.scan(turn, (x, x, x), None, length=6)[0][2]

    return f


def looped(activation):
    def f(w, x):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, activation(c[1] @ w)), (0, x))[1]

    return f


def delayed_loop(activation):
    def f(w, x):
        def turn(carry):
            i, h, z = carry
            return i + 1, activation(z @ w), h

        return lax.while_loop(lambda c: c[0] < 4, turn, (0, x, x))[2]

    return f


def branched(activation):
    return lambda w, x: lax.cond(jnp.sum(x) > 0, jnp.sin, activation, x @ w)


def branched_first(activation):
    return lambda w, x: lax.cond(jnp.sum(x) > 0, activation, jnp.sin, x @ w)


def rematerialized(activation):
    return lambda w, x: jax.checkpoint(lambda w: activation(x @ w))(w)


def compiled(activation):
    return jax.jit(lambda w, x: jax.jit(activation)(x @ w))


def batched(activation):
    return lambda w, x: jax.vmap(lambda row: activation(row @ w))(x)


def pulled(activation):
    @jax.custom_vjp
    def f(h):
        return activation(h)

    f.defvjp(lambda h: (activation(h), None), lambda _, g: (g,))
    return lambda w, x: f(x @ w)


HOLDERS = [
    scanned,
    mapped,
    delayed,
    looped,
    delayed_loop,
    branched,
    branched_first,
    rematerialized,
    compiled,
    batched,
    pulled,
]
holders = pytest.mark.parametrize("holder", HOLDERS, ids=lambda h: h.__name__)

KINKED = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "hard_tanh": jax.nn.hard_tanh,
    "abs": jnp.abs,
    "modulus of complex numbers": lambda h: jnp.abs(h + 1j),
    "sign": jnp.sign,
    "clip": lambda h: jnp.clip(h, -1, 1),
    "choice by >": lambda h: jnp.where(h > 0, h, 0.0),
    "choice by <=": lambda h: jnp.where(h <= 0, 0.0, h),
    "product with a step": lambda h: h * (h > 0),
    "maximum": lambda h: jnp.maximum(h, 0.1 * h),
    "greatest": lambda h: jnp.max(h, axis=1),
    "least": lambda h: jnp.min(h, axis=1),
    "sort": lambda h: jnp.sort(h, axis=1),
    "median": lambda h: jnp.median(h, axis=1),
    "top": lambda h: lax.top_k(h, 2)[0],
    "approximate top": lambda h: lax.approx_max_k(h, 2)[0],
    "place of the greatest": lambda h: h[:, 0] * jnp.argmax(h, axis=1),
    "running maximum": lambda h: lax.cummax(h, axis=1),
    "maxpool": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID"),
    "segment maximum": lambda h: jax.ops.segment_max(h, jnp.arange(N), num_segments=N),
    "round": jnp.round,
    "floor": jnp.floor,
    "whole part": lambda h: h.astype(int).astype(h.dtype),
    "remainder": lambda h: h % 1.0,
    "quotient": lambda h: h // 1.0,
    "branch by a parameter": lambda h: lax.cond(jnp.sum(h) > 0, jnp.tanh, jnp.sin, h),
    "loop until large": lambda h: lax.while_loop(lambda h: jnp.sum(h**2) < 9, lambda h: 2 * h, h),
    "log of absolute value and one": lambda h: jnp.log(jnp.abs(h) + 1),
}

SMOOTH = {
    "tanh": jnp.tanh,
    "sine": jnp.sin,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda h: jax.nn.gelu(h, approximate=False),
    "gelu by tanh": lambda h: jax.nn.gelu(h, approximate=True),
    "softplus": jax.nn.softplus,
    "log sigmoid": jax.nn.log_sigmoid,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "logaddexp": lambda h: jnp.logaddexp(h, 2 * h),
    "logsumexp": lambda h: jax.nn.logsumexp(h, axis=1),
    "softmax": lambda h: jax.nn.softmax(h, axis=1),
    "log softmax": lambda h: jax.nn.log_softmax(h, axis=1),
    "variance": lambda h: (h - h.mean()) / jnp.sqrt(h.var() + 0.1),
    "square": jnp.square,
    "sinc": jnp.sinc,
    "log of absolute value": lambda h: jnp.log(jnp.abs(h)),
    "choice by equality": lambda h: jnp.where(jnp.abs(h) == 0, 1.0, h),
    "choice by finiteness": lambda h: jnp.where(jnp.isfinite(jnp.abs(h)), h, 0.0),
    "stopped maximum": lambda h: h - lax.stop_gradient(jnp.max(h)),
    "stopped step": lambda h: h * lax.stop_gradient(h > 0),
    "counted loop": lambda h: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h), h),
}


@pytest.mark.parametrize("activation", KINKED)
def test_a_kink_between_parameters_and_outputs_is_found(activation):
    assert found(layer(KINKED[activation]))


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_functions_have_no_kinks(activation):
    assert found(layer(SMOOTH[activation])) == ()


@holders
def test_kinks_are_found_inside_of_loops_branches_and_compiled_parts(holder):
    assert found(holder(jax.nn.relu)) == ("max",)
    assert found(holder(lambda h: jnp.where(h > 0, h, 0))) == ("a choice by order",)


@holders
def test_loops_branches_and_compiled_parts_without_kinks_have_none(holder):
    assert found(holder(jnp.tanh)) == ()
    assert found(holder(jax.nn.softplus)) == ()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kinks_are_named_and_do_not_depend_on_the_precision(dtype):
    def f(w, x):
        return jnp.abs(jnp.maximum(x @ w, 0)) + jnp.where(x @ w > 1, 1, 0)

    assert kinks(System(f, W.astype(dtype), X.astype(dtype))) == ("a choice by order", "abs", "max")


def test_a_kink_of_the_data_alone_is_none():
    assert found(lambda w, x: jax.nn.relu(x) @ w) == ()
    assert found(lambda w, x: jnp.where(x > 0, x @ w, jnp.sin(x @ w))) == ()
    assert found(lambda w, x: jnp.sort(x, axis=0) @ w) == ()
    assert found(lambda w, x: jnp.where(x > 0, w[0][None], 0.0)) == ()


def test_a_kink_of_the_data_inside_of_a_part_that_also_sees_parameters_is_none():
    @jax.jit
    def both(w, x):
        return x @ w, jax.nn.relu(x)

    def product(w, x):
        a, b = both(w, x)
        return a * b

    assert found(product) == ()
    assert found(lambda w, x: lax.cond(x[0, 0] > 0, lambda w, x: jax.nn.relu(x) @ w, lambda w, x: x @ w, w, x)) == ()
    assert found(lambda w, x: lax.scan(lambda c, row: (c, jnp.abs(row) @ w), 0, x)[1]) == ()


def test_a_kink_that_does_not_reach_the_outputs_is_none():
    def f(w, x):
        jnp.abs(x @ w)
        return jnp.tanh(x @ w)

    assert found(f) == ()


def test_a_kink_of_one_parameter_among_several_is_found():
    params = {"a": W, "b": [W[:, 0]]}
    assert found(lambda p, x: jnp.tanh(x @ p["a"]) @ jnp.abs(p["b"][0]), params) == ("abs",)
    assert found(lambda p, x: jax.nn.relu(x) @ p["a"] @ p["b"][0], params) == ()


# Floats of less than double precision.


def test_a_function_that_keeps_doubles_has_no_lower_floats():
    for f in (layer(jnp.tanh), lambda w, x: x @ w * np.float32(2), scanned(jax.nn.softplus), compiled(jax.nn.gelu)):
        assert lower_floats(System(f, W, X)) == ()


def test_a_system_of_single_precision_is_read_in_double():
    assert lower_floats(System(layer(jnp.tanh), np.float32(W), np.float32(X))) == ()


def to_single(h):
    return jnp.tanh(h.astype(jnp.float32)).astype(h.dtype)


@holders
def test_lower_floats_are_found_inside_of_loops_branches_and_compiled_parts(holder):
    assert lower_floats(System(holder(to_single), W, X)) == ("convert_element_type to float32", "tanh to float32")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_lower_floats_are_named_with_their_type(dtype):
    names = lower_floats(System(lambda w, x: (x.astype(dtype) @ w.astype(dtype)).astype(w.dtype), W, X))
    assert names == (f"convert_element_type to {dtype}", f"dot_general to {dtype}")


def test_each_operation_with_lower_floats_is_named_once():
    def f(w, x):
        return to_single(to_single(x @ w) @ w)

    assert len(lower_floats(System(f, W, X))) == 2


def test_lower_floats_are_found_under_either_flag():
    for flag in (False, True):
        with jax.enable_x64(flag):
            assert lower_floats(System(layer(to_single), W, X))
            assert lower_floats(System(layer(jnp.tanh), W, X)) == ()
