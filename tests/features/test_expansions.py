"""Taylor terms of functions and of two-layer networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch
from widescape.core.errors import ShapeError
from widescape.features.expansions import activation_of, derivatives, two_layer_terms
from widescape.train import taylor, taylor_terms


def _network(activation, a):
    def f(w, h):
        return activation(h @ w.T) @ a / len(a) ** 0.5

    return f


def _draw(m=6, k=4, n=5, dtype=np.float64):
    rng = np.random.default_rng(0)
    w0, w, h = (rng.normal(size=shape).astype(dtype) for shape in ((m, k), (m, k), (n, k)))
    return w0, np.repeat([1.0, -1.0], m // 2).astype(dtype), w, h


@pytest.mark.claim("chen2020hierarchical/C1")
def test_the_terms_of_two_cubic_neurons_are_known_and_sum_to_the_network():
    w0, a, w, h = [[1.0], [2.0]], [1.0, -1.0], [[1.0], [1.0]], [[1.0]]
    f0, f1, f2, f3 = (float(term[0]) for term in two_layer_terms(w0, a, w, h, "relu3", order=3))
    assert [f0, f1, f2] == pytest.approx([-0.824958, -1.060660, -0.353553], abs=5e-7)
    assert f3 == 0
    assert f0 + f1 + f2 == pytest.approx((2**3 - 3**3) / 6 / 2**0.5, abs=1e-14)  # -2.239171


@pytest.mark.claim("chen2020hierarchical/C7")
@pytest.mark.parametrize(("double", "tol"), [(True, 1e-10), (False, 1e-5)])
def test_terms_of_any_function_agree_with_those_of_a_two_layer_network(double, tol):
    with jax.enable_x64(double):
        w0, a, w, h = (jnp.asarray(v) for v in _draw(dtype=np.float64 if double else np.float32))
        known = two_layer_terms(w0, a, w, h, jax.nn.softplus, order=3)
        general = taylor_terms(_network(jax.nn.softplus, a), w0, w, h, order=3)
        for one, other in zip(known, general, strict=True):
            np.testing.assert_allclose(one, other, rtol=tol, atol=tol)


@pytest.mark.claim("chen2020hierarchical/C7")
def test_what_the_second_order_leaves_falls_with_the_third_power():
    w0, a, w, h = _draw()
    scales = np.array([1e-2, 3e-3, 1e-3])
    with jax.enable_x64(True):
        f = _network(jax.nn.softplus, a)
        left = [np.linalg.norm(f(w0 + t * w, h) - sum(taylor_terms(f, w0, t * w, h))) for t in scales]
    slope = np.polyfit(np.log(scales), np.log(left), 1)[0]
    assert slope == pytest.approx(3, abs=0.1)


def test_the_taylor_polynomial_is_the_sum_of_the_terms():
    w0, a, w, h = _draw()
    with jax.enable_x64(True):
        f = _network(jnp.tanh, a)
        np.testing.assert_allclose(taylor(f, w0, 2)(w0 + w, h), sum(taylor_terms(f, w0, w, h)), rtol=1e-12)


def test_terms_of_a_function_with_several_outputs_keep_its_structure():
    value, slope = taylor_terms(lambda w: {"square": w**2, "cube": w**3}, jnp.array(2.0), jnp.array(1.0), order=1)
    assert {name: float(v) for name, v in value.items()} == {"square": 4.0, "cube": 8.0}
    assert {name: float(v) for name, v in slope.items()} == {"square": 4.0, "cube": 12.0}


@pytest.mark.claim("chen2020hierarchical/C9")
def test_random_signs_cancel_the_linear_term_and_keep_the_quadratic_one():
    w0, a, w, h = _draw(m=6)
    patterns = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1)
    terms = [two_layer_terms(w0, a, s[:, None] * w, h, "relu3")[1:] for s in patterns]
    linear, quadratic = (np.mean([pair[i] for pair in terms], axis=0) for i in (0, 1))
    assert np.abs(linear).max() < 1e-12
    np.testing.assert_allclose(quadratic, two_layer_terms(w0, a, w, h, "relu3")[2], rtol=1e-12)


def test_derivatives_of_a_polynomial_are_its_derivatives():
    z = jnp.array([-1.0, 0.5, 2.0])
    value, first, second, third = derivatives(lambda t: t**3, z, 3)
    np.testing.assert_allclose([value, first, second, third], [z**3, 3 * z**2, 6 * z, 6 + 0 * z], rtol=1e-6)


def test_activations_go_by_name_by_layer_or_by_function():
    z = jnp.array([-2.0, 3.0])
    assert activation_of("square", "test")(z).tolist() == [2.0, 4.5]
    assert activation_of("relu3", "test")(z).tolist() == [0.0, 4.5]
    assert activation_of(arch.Relu(), "test")(z).tolist() == [0.0, 3.0]
    assert activation_of(partial(jnp.multiply, 2.0), "test")(z).tolist() == [-4.0, 6.0]
    with pytest.raises(ValueError, match="'cube'; choose one of 'relu', 'relu3', 'square'"):
        activation_of("cube", "test")
    with pytest.raises(TypeError, match="`activation` is 3"):
        activation_of(3, "test")


def test_shapes_that_do_not_fit_are_refused():
    w0, a, w, h = _draw()
    with pytest.raises(ShapeError, match="do not fit"):
        two_layer_terms(w0, a[:3], w, h)
    with pytest.raises(ValueError, match="`order`"):
        two_layer_terms(w0, a, w, h, order=-1)
