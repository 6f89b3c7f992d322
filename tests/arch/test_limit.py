"""Infinite-width kernels: closed forms, invariances, precision, derivatives, compilation, refusals."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import oracles
from widescape import arch, duals
from widescape.core.errors import (
    DtypeError,
    NonFiniteError,
    NonGaussianInputError,
    NonSmoothWarning,
    NotTractableError,
    PrecisionError,
    QuadratureError,
    ShapeError,
)


def fc(activation=None, depth=3, **scales):
    scales = {"w_std": 2**0.5, "b_std": 0.1, **scales}
    return arch.fc(depth=depth, width=8, n_out=1, activation=activation or arch.Relu(), **scales)


C3 = {
    1: (1 / np.pi, 1 / np.pi, 2.0),
    2: (0.493731090200, 0.685708636283, 3.0),
    3: (0.604825720113, 1.060388106803, 4.0),
    10: (0.871535516022, 3.479376712021, 11.0),
}


@pytest.mark.claim("lee2020finite/C3")
@pytest.mark.parametrize("depth", C3)
def test_relu_kernels_of_orthogonal_inputs_at_every_depth(depth, measured):
    kernel = fc(depth=depth, b_std=None).kernel(np.eye(2))
    assert kernel.nngp[0, 0] == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose((kernel.nngp[0, 1], kernel.ntk[0, 1], kernel.ntk[0, 0]), C3[depth], rtol=1e-10)
    measured("12 digits agree")


@pytest.mark.claim("lee2020finite/C4")
def test_three_layer_kernels_with_biases(measured):
    x = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0]])
    relu = fc().kernel(x)
    upper = np.triu_indices(2)
    np.testing.assert_allclose(relu.nngp[upper], (4.04, 1.963726482300, 3.54), rtol=1e-10)
    np.testing.assert_allclose(relu.ntk[upper], (16.1, 2.671231829378, 14.1), rtol=1e-10)
    erf = fc(arch.Erf()).kernel(x)
    np.testing.assert_allclose((erf.nngp[0, 1], erf.ntk[0, 1]), (-0.399148903305, -1.801632642650), rtol=1e-10)
    gelu = fc(arch.Gelu()).kernel(x)
    np.testing.assert_allclose((gelu.nngp[0, 1], gelu.ntk[0, 1]), (1.392228914974, 1.803150251499), rtol=1e-10)
    measured("12 digits agree")


@pytest.mark.parametrize("name", ["relu", "abs", "gelu", "erf", "tanh"])
def test_kernels_agree_with_a_dense_recursion_by_independent_quadrature(name, rng):
    layers = {"relu": arch.Relu(), "abs": arch.Abs(), "gelu": arch.Gelu(), "erf": arch.Erf(), "tanh": arch.Tanh()}
    phi, slope, kinks = oracles.ACTIVATIONS[name]
    x1, x2 = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    kernel = fc(layers[name], depth=2, w_std=1.1, b_std=0.3).kernel(x1, x2)
    nngp, ntk = oracles.fc_kernel(x1, x2, phi, slope, [1.1**2] * 3, [0.09] * 3, kinks)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-8)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-8)


def improved(width_scale: int) -> arch.Sequential:
    scales = {"w_std": 2**0.5, "b_std": 0.1**0.5, "param": "standard"}
    return arch.Sequential(
        arch.Dense(64 * width_scale, base_width=64, **scales),
        arch.Relu(),
        arch.Dense(32 * width_scale, base_width=32, **scales),
        arch.Relu(),
        arch.Dense(1, base_width=1, **scales),
    )


@pytest.mark.claim("sohl2020infinite/standard")
def test_the_improved_standard_tangent_kernel_of_the_worked_example(key, measured):
    x = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0]])
    kernel = improved(1).kernel(x)
    np.testing.assert_allclose(kernel.ntk[0], (207.4, 30.132634903563), rtol=1e-10)
    nngp, ntk = oracles.fc_kernel(
        x, x, *oracles.ACTIVATIONS["relu"][:2], [2.0] * 3, [0.1] * 3, (0.0,), "standard", [64, 32]
    )
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-9)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-9)

    wide = improved(8)
    x32 = jnp.asarray(x, jnp.float32)

    @jax.jit
    def finite(k):
        params = wide.parameters(k, arch.Signal.of_input((3,)), jnp.float32)
        jacobian = jax.jacobian(lambda p: wide.apply(p, x32)[:, 0])(params)
        rows = jnp.concatenate([leaf.reshape(2, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
        return rows @ rows.T

    values = np.stack([np.asarray(finite(k), np.float64) for k in jax.random.split(key, 300)])
    stderr = values.std(axis=0, ddof=1) / 300**0.5
    assert (np.abs(values.mean(axis=0) - kernel.ntk) <= 4.5 * stderr).all()
    measured(f"theory {kernel.ntk[0, 0]:.1f}, {kernel.ntk[0, 1]:.3f}; finite mean within 4.5 standard errors")


@pytest.mark.claim("lee2020finite/P4")
def test_a_missing_bias_differs_from_a_zero_bias_in_the_standard_parameterization():
    def of(b):
        return arch.Sequential(arch.Dense(9, 1.0, b, "standard", 9), arch.Relu(), arch.Dense(1, 1.0, b, "standard", 1))

    x = np.array([[1.0, 2.0]])
    none, zero = of(None).kernel(x), of(0.0).kernel(x)
    np.testing.assert_allclose(none.nngp, zero.nngp, rtol=1e-14)
    np.testing.assert_allclose(zero.ntk - none.ntk, 0.5 + 1, rtol=1e-12)


SHAPES = st.sampled_from([(2, 3), (5, 3), (9, 3)])
ENTRIES = st.floats(-3, 3, allow_subnormal=False)
NETS = [
    fc(),
    fc(arch.Erf()),
    fc(arch.Gelu()),
    fc(arch.LeakyRelu(0.2), b_std=None),
    fc(arch.Rbf(0.5)),
    fc(arch.Tanh(300), w_std=0.7),
]


@pytest.mark.claim("lee2020finite/I1")
@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n.layers[2]).__name__)
@settings(deadline=None, max_examples=15)
@given(x=SHAPES.flatmap(lambda s: hnp.arrays(float, s, elements=ENTRIES)))
def test_gram_matrices_are_symmetric_and_positive_semidefinite(net, x):
    kernel = net.kernel(x)
    for matrix in (kernel.nngp, kernel.ntk):
        np.testing.assert_array_equal(matrix, matrix.T)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@pytest.mark.claim("lee2020finite/I2")
@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n.layers[2]).__name__)
@settings(deadline=None, max_examples=15)
@given(x=SHAPES.flatmap(lambda s: hnp.arrays(float, s, elements=ENTRIES)))
def test_the_tangent_kernel_exceeds_the_nngp_kernel(net, x):
    kernel = net.kernel(x)
    eigenvalues = np.linalg.eigvalsh(kernel.ntk - kernel.nngp)
    assert eigenvalues[0] >= -1e-12 * np.linalg.eigvalsh(kernel.ntk)[-1]


@pytest.mark.claim("lee2020finite/I3")
@settings(deadline=None, max_examples=15)
@given(alpha=st.floats(0.01, 100), beta=st.floats(0.01, 100))
def test_bias_free_abrelu_kernels_are_homogeneous(alpha, beta):
    net = fc(arch.ABRelu(-0.3, 1.1), b_std=None)
    x = np.random.default_rng(3).normal(size=(4, 3))
    plain, scaled = net.kernel(x, x[::-1]), net.kernel(alpha * x, beta * x[::-1])
    np.testing.assert_allclose(scaled.nngp, alpha * beta * plain.nngp, rtol=1e-11)
    np.testing.assert_allclose(scaled.ntk, alpha * beta * plain.ntk, rtol=1e-11)


@pytest.mark.claim("lee2020finite/I4")
@pytest.mark.parametrize("net", NETS, ids=lambda n: type(n.layers[2]).__name__)
def test_kernels_are_invariant_under_rotations(net, rng, measured):
    x = rng.normal(size=(7, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    plain, turned = net.kernel(x), net.kernel(x @ rotation)
    np.testing.assert_allclose(turned.nngp, plain.nngp, rtol=1e-11)
    np.testing.assert_allclose(turned.ntk, plain.ntk, rtol=1e-11)
    measured("1e-11 relative")


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/I18")
@pytest.mark.claim("lee2020finite/P2")
@pytest.mark.parametrize("activation", [arch.Relu(), arch.Erf(), arch.Gelu(), arch.Abs(), arch.Rbf(), arch.Tanh()])
def test_gradients_in_inputs_are_finite_at_coincident_opposite_and_zero_inputs(activation):
    x = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [-1.0, -2.0], [2.0, 4.0]])

    def totals(a):
        kernels = fc(activation, depth=2, b_std=None).kernel(a), fc(activation, depth=2).kernel(a, x)
        return jnp.stack([part.sum() for k in kernels for part in (k.nngp, k.ntk)])

    with jax.enable_x64(True):
        assert np.isfinite(jax.jit(jax.jacobian(totals))(jnp.asarray(x))).all()


@pytest.mark.slow
def test_gradients_in_inputs_and_scales_match_finite_differences():
    x, other = np.random.default_rng(0).normal(size=(2, 3, 4))
    step = 1e-6

    def total(x, w_std, b_std):
        return fc(arch.Relu(), depth=2, w_std=w_std, b_std=b_std).kernel(x, other).ntk.sum()

    with jax.enable_x64(True):
        gx, gw, gb = jax.grad(total, argnums=(0, 1, 2))(jnp.asarray(x), 1.3, 0.2)
    shift = np.zeros_like(x)
    shift[1, 2] = step
    assert (total(x + shift, 1.3, 0.2) - total(x - shift, 1.3, 0.2)) / (2 * step) == pytest.approx(
        float(gx[1, 2]), rel=1e-7
    )
    assert (total(x, 1.3 + step, 0.2) - total(x, 1.3 - step, 0.2)) / (2 * step) == pytest.approx(float(gw), rel=1e-7)
    assert (total(x, 1.3, 0.2 + step) - total(x, 1.3, 0.2 - step)) / (2 * step) == pytest.approx(float(gb), rel=1e-6)


def test_traced_kernels_equal_eager_ones():
    x = np.random.default_rng(0).normal(size=(3, 4))
    eager = fc().kernel(x)
    with jax.enable_x64(True):
        traced = jax.jit(fc().kernel)(jnp.asarray(x))
    np.testing.assert_allclose(traced.ntk, eager.ntk, rtol=1e-13)


def near_pair(angle: float, stretch: float = 1.0) -> np.ndarray:
    return np.array([[1.0, 0.0, 0.0], [stretch * np.cos(angle), stretch * np.sin(angle), 0.0]])


@pytest.mark.claim("speed/near-duplicates")
@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 0.0])
@pytest.mark.parametrize("stretch", [1.0, 1.05])
@pytest.mark.parametrize("b_std", [None, 0.1])
def test_near_duplicates_keep_their_accuracy(angle, stretch, b_std, measured):
    x = near_pair(angle, stretch)
    kernel = fc(b_std=b_std).kernel(x)
    b = None if b_std is None else mp.mpf("0.1") ** 2
    nngp, ntk = oracles.relu_angle_kernel_mp(x[0].tolist(), x[1].tolist(), [2] * 4, [b] * 4)
    assert abs(kernel.nngp[0, 1] / nngp - 1) < 2e-15
    assert abs(kernel.ntk[0, 1] / ntk - 1) < 1e-14
    across = fc(b_std=b_std).kernel(x[:1], x[1:])
    assert abs(across.ntk[0, 0] / ntk - 1) < 1e-14
    measured("NTK to 1e-14 relative at every angle")


def test_opposite_inputs_keep_their_accuracy():
    for angle in (1e-3, 1e-6, 0.0):
        x = near_pair(angle) * [[1.0], [-1.0]]
        kernel = fc(b_std=None).kernel(x)
        nngp, ntk = oracles.relu_angle_kernel_mp(x[0].tolist(), x[1].tolist(), [2] * 4, [None] * 4)
        assert kernel.nngp[0, 1] == pytest.approx(nngp, rel=1e-14)
        assert kernel.ntk[0, 1] == pytest.approx(ntk, rel=1e-13)


def test_near_duplicates_keep_their_accuracy_when_smooth_and_kinked_layers_alternate():
    """Against the angle of 50-digit arithmetic: GELU then ReLU, so the second layer sees a gap that the first made."""
    mp.mp.dps = 40
    net = arch.Sequential(arch.Dense(1), arch.Erf(), arch.Dense(1), arch.Relu(), arch.Dense(1))
    for angle in (1e-3, 1e-5, 1e-7):
        for stretch in (1.0, 1 + 3 * angle):
            x = near_pair(angle, stretch)
            q11, q12, q22 = (mp.fsum(mp.mpf(a) * mp.mpf(b) for a, b in zip(*p, strict=True)) / 3
                             for p in ((x[0], x[0]), (x[0], x[1]), (x[1], x[1])))  # fmt: skip
            erf = [2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * a) * (1 + 2 * b)))
                   for a, c, b in ((q11, q11, q11), (q11, q12, q22), (q22, q22, q22))]  # fmt: skip
            theta = mp.acos(erf[1] / mp.sqrt(erf[0] * erf[2]))
            slope = (mp.pi - theta) / (2 * mp.pi)
            determinant = (1 + 2 * q11) * (1 + 2 * q22) - 4 * q12**2
            first = q12 * 4 / (mp.pi * mp.sqrt(determinant)) + erf[1]
            t = mp.sqrt(erf[0] * erf[2]) * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi)
            expected = first * slope + t
            assert abs(net.kernel(x).ntk[0, 1] / float(expected) - 1) < 2e-12


@pytest.mark.claim("lee2020finite/P1")
def test_float32_diagonals_are_accurate_to_float32():
    x = np.random.default_rng(0).normal(size=(50, 20))
    exact, low = fc().kernel(x), fc().kernel(x, dtype="float32")
    assert low.ntk.dtype == np.float32
    np.testing.assert_allclose(np.diag(low.ntk), np.diag(exact.ntk), rtol=2e-6)
    np.testing.assert_allclose(low.ntk, exact.ntk, rtol=2e-5, atol=1e-5)


@pytest.mark.claim("speed/recompilation")
def test_other_scales_widths_and_batches_of_the_same_size_compile_nothing(caplog):
    x = np.random.default_rng(0).normal(size=(300, 6))
    fc(w_std=1.0, b_std=0.2).kernel(x)

    def compilations(net, x):
        caplog.clear()
        with caplog.at_level(logging.WARNING), jax.log_compiles(True):
            net.kernel(x)
        return [
            r.getMessage() for r in caplog.records if "_run_stage" in r.getMessage() and "Compiling" in r.getMessage()
        ]

    assert compilations(fc(w_std=1.7, b_std=0.3), x) == []
    assert compilations(arch.fc(depth=3, width=99, n_out=4, activation=arch.Relu(), w_std=1.7, b_std=0.3), x) == []
    assert compilations(fc(w_std=1.7, b_std=0.3), x[:280]) == []
    assert compilations(fc(depth=12), x) == []
    assert compilations(fc(arch.LeakyRelu(0.1)), x) != []


@pytest.mark.claim("lee2020finite/P12")
def test_kernels_have_float64_whatever_the_input_and_the_flag():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for given_x in (x, jnp.asarray(x), x.tolist(), x.astype(np.float16)):
        assert fc().kernel(given_x).ntk.dtype == np.float64


def test_get_selects_what_is_computed():
    x = np.eye(2)
    assert fc().kernel(x, get="nngp").ntk is None
    assert fc().kernel(x, get=("ntk",)).nngp is None
    np.testing.assert_array_equal(fc().kernel(x, get="ntk").ntk, fc().kernel(x).ntk)


def test_frozen_layers_leave_the_tangent_kernel_but_pass_it_on():
    x = np.random.default_rng(1).normal(size=(3, 4))
    bottom, top = arch.Sequential(arch.Dense(9, 1.2, 0.1), arch.Relu()), arch.Dense(1, 0.8, 0.3)
    frozen = arch.Sequential(arch.Frozen(bottom), top).kernel(x)
    whole = arch.Sequential(bottom, top).kernel(x)
    np.testing.assert_allclose(frozen.nngp, whole.nngp, rtol=1e-14)
    np.testing.assert_allclose(frozen.ntk, whole.nngp, rtol=1e-14)  # only the read-out trains
    on_top = arch.Sequential(bottom, arch.Frozen(top)).kernel(x)
    np.testing.assert_allclose(on_top.ntk, whole.ntk - whole.nngp, rtol=1e-12)


# Refusals: which argument, what arrived, what to do.

X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones((2, 3), int), DtypeError, "astype"),
        (np.ones((2, 3), bool), DtypeError, "bool"),
        (np.ones((2, 3), complex), DtypeError, "complex128"),
        (np.array([["a"]]), DtypeError, "dtype"),
        (np.full((2, 3), np.nan), ValueError, "6 entries that are NaN"),
        (np.array([[1.0, np.inf]]), ValueError, r"the first at \(0, 1\)"),
        (np.ones(3), ShapeError, r"x\[None\]"),
        (np.ones((0, 3)), ShapeError, "empty"),
        (np.ones((3, 0)), ShapeError, "empty"),
        (np.ones((2, 2, 3)), None, ""),
    ],
)
def test_bad_inputs_are_refused_with_what_to_do(x, error, words):
    if error is None:
        assert fc().kernel(x).ntk.shape == (2, 2)
        return
    with pytest.raises(error, match=words):
        fc().kernel(x)


def test_mismatched_batches_are_refused():
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4,\)"):
        fc().kernel(X, np.ones((2, 4)))


def test_images_without_flatten_are_refused_by_the_layer_that_needs_vectors():
    with pytest.raises(ShapeError, match=r"layer 0, Dense.*Flatten"):
        arch.Sequential(arch.Dense(3), arch.Relu()).kernel(np.ones((2, 4, 4, 1)))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_weight_scales_must_be_positive(value):
    with pytest.raises(ValueError, match=r"`w_std` is .*(positive|finite)"):
        arch.Dense(3, w_std=value)


def test_scales_of_any_real_type_are_plain_floats_and_hash():
    for value in (np.float32(1.5), np.array(1.5), jnp.asarray(1.5), 1.5):
        layer = arch.Dense(3, value)
        assert type(layer.w_std) is float
        assert hash(layer) == hash(arch.Dense(3, 1.5))
    assert arch.Dense(3, 2) == arch.Dense(3, 2.0)


def test_bad_specifications_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        arch.Dense(3, b_std=-0.1)
    with pytest.raises(TypeError, match="real number"):
        arch.Dense(3, w_std="2")
    with pytest.raises(TypeError, match="integer"):
        arch.Dense(3.5)
    with pytest.raises(ValueError, match="at least 1"):
        arch.Dense(0)
    with pytest.raises(ValueError, match="'ntk', 'standard'"):
        arch.Dense(3, param="mup")
    with pytest.raises(ValueError, match="base_width"):
        arch.Dense(3, base_width=4)
    with pytest.raises(ValueError, match="negative"):
        arch.Gaussian(1.0, 0.5)
    with pytest.raises(ValueError, match="positive"):
        arch.Rbf(-1.0)
    with pytest.raises(ValueError, match="0 <= degree <= 30"):
        arch.Hermite(31)
    with pytest.raises(ValueError, match="at most 300"):
        arch.Tanh(301)
    with pytest.raises(ValueError, match="no layers"):
        arch.Sequential()
    with pytest.raises(TypeError, match=r"Relu\(\) with parentheses"):
        arch.Sequential(arch.Dense(3), arch.Relu)
    with pytest.raises(TypeError, match="Activation"):
        arch.Sequential(arch.Dense(3), jnp.tanh)
    with pytest.raises(TypeError, match="callable"):
        arch.Activation("tanh")
    with pytest.raises(ValueError, match="empty"):
        arch.Polynomial(())


def test_layers_without_a_limit_are_refused_by_name():
    with pytest.raises(NotTractableError, match=r"layer 1, Softmax.*mixes the channels"):
        arch.Sequential(arch.Dense(3), arch.Softmax()).kernel(X)
    with pytest.raises(NotTractableError, match=r"layer 0, Dense.*base_width"):
        arch.Sequential(arch.Dense(3, param="standard"), arch.Relu(), arch.Dense(1)).kernel(X)
    with pytest.raises(ShapeError, match=r"layer 2, Dense.*layer below has none"):
        arch.Sequential(arch.Dense(3), arch.Relu(), arch.Dense(1, param="standard", base_width=1)).kernel(X)
    naive = arch.Sequential(arch.Dense(3, 1.2, param="standard"), arch.Relu(), arch.Dense(1, 1.2, param="standard"))
    ntk = arch.Sequential(arch.Dense(3, 1.2), arch.Relu(), arch.Dense(1, 1.2))
    np.testing.assert_array_equal(naive.kernel(X, get="nngp").nngp, ntk.kernel(X).nngp)


def test_nonlinearities_on_input_that_is_not_gaussian_are_refused():
    with pytest.raises(NonGaussianInputError, match="layer 0, Relu"):
        arch.Sequential(arch.Relu(), arch.Dense(1)).kernel(X)
    with pytest.raises(NonGaussianInputError, match="layer 2, Erf"):
        arch.Sequential(arch.Dense(1), arch.Relu(), arch.Erf(), arch.Dense(1)).kernel(X)


def test_a_series_that_is_too_short_is_refused_with_what_to_do():
    rough = arch.Sequential(arch.Dense(1, 3.0), arch.Activation(jnp.tanh, deg=8), arch.Dense(1))
    with pytest.raises(QuadratureError, match=r"Activation.*Raise `deg`"):
        rough.kernel(X)
    kinked = arch.Sequential(arch.Dense(1), arch.Activation(jax.nn.relu), arch.Dense(1))
    with pytest.raises(QuadratureError, match="kinks"):
        kinked.kernel(X)


def test_a_series_over_a_function_that_is_not_smooth_enough_is_refused():
    for rough in (lambda z: jax.nn.relu(z) ** 2, lambda z: jnp.sin(126 * z)):
        with pytest.raises(QuadratureError, match="Activation"):
            fc(arch.Activation(rough, deg=300), depth=1).kernel(X)


def test_numerical_kernels_say_how_accurate_they_are():
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert fc().kernel(x).quadrature_error is None
    kernel = fc(arch.Tanh(), depth=1, w_std=1.0).kernel(x)
    assert 0 <= kernel.quadrature_error < 1e-6
    assert "quadrature" in kernel.evidence("ntk").note
    with jax.enable_x64(True):
        traced = jax.jit(fc(arch.Tanh(), w_std=30.0).kernel)(jnp.asarray(x))
    assert traced.quadrature_error > 1e-3


def test_a_second_gradient_compiles_nothing(caplog):
    net = fc(depth=1)
    x = np.random.default_rng(0).normal(size=(3, 4))
    with jax.enable_x64(True):
        gradient = jax.grad(lambda a: net.kernel(a).ntk.sum())
        gradient(jnp.asarray(x))
        with caplog.at_level(logging.WARNING), jax.log_compiles(True):
            gradient(jnp.asarray(x + 1))
    assert [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()] == []


def test_frozen_networks_are_compiled_in_stages_like_others():
    inner = arch.fc(depth=3, width=4, n_out=1, activation=arch.Gelu())
    assert len(arch.Frozen(inner).stages()) == len(inner.stages()) == 4
    assert len(arch.Sequential(arch.Frozen(inner), arch.Identity()).stages()) >= 4
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(arch.Frozen(inner).kernel(x).nngp, inner.kernel(x).nngp, rtol=1e-14)
    assert not arch.Frozen(inner).kernel(x).ntk.any()


def test_precisions_may_be_given_as_dtypes():
    assert fc().kernel(X, dtype=np.float64).ntk.dtype == np.float64
    assert fc().kernel(X, dtype=jnp.float32).ntk.dtype == np.float32


def test_a_users_formula_replaces_quadrature_and_gets_its_slope_by_differentiation():
    x = np.random.default_rng(0).normal(size=(3, 4))
    by_formula = arch.Activation(lambda z: z**2, dual=lambda q11, q12, q22: q11 * q22 + 2 * q12**2)
    expected = fc(arch.Polynomial((0.0, 0.0, 1.0)), depth=1).kernel(x)
    found = fc(by_formula, depth=1).kernel(x)
    np.testing.assert_allclose(found.ntk, expected.ntk, rtol=1e-12)
    np.testing.assert_allclose(found.nngp, expected.nngp, rtol=1e-12)


def test_overflow_is_an_error_and_not_a_nan():
    with pytest.raises(NonFiniteError, match="overflow"):
        fc(arch.Exp(), depth=3).kernel(20 * X)


@pytest.mark.parametrize("size", [1e160, 1e90])
def test_inputs_whose_variances_would_overflow_are_refused(size):
    with pytest.raises(NonFiniteError, match="overflow"):
        fc(arch.Erf()).kernel(size * X)


def test_small_inputs_keep_their_relative_accuracy():
    for activation in (arch.Relu(), arch.Erf(), arch.Sin(), arch.Gelu()):
        x = np.array([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]])
        net = fc(activation, depth=1, b_std=None)
        tiny = net.kernel(1e-7 * x).nngp / 1e-14
        np.testing.assert_allclose(tiny, net.kernel(1e-6 * x).nngp / 1e-12, rtol=1e-9)


def test_sign_warns_that_it_blocks_the_tangent_kernel():
    with pytest.warns(NonSmoothWarning, match="derivative is 0"):
        fc(arch.Sign(), depth=1).kernel(X + np.eye(2, 3))


@pytest.mark.claim("lee2020finite/P12")
def test_tracing_in_single_precision_is_refused_with_the_scope_to_open():
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="enable_x64"):
        jax.grad(lambda x: fc().kernel(x).ntk.sum())(jnp.ones((2, 3), jnp.float32))
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="scale"):
        jax.grad(lambda w: fc(w_std=w).kernel(X).ntk.sum())(1.0)


def test_wrong_selections_are_refused():
    with pytest.raises(ValueError, match="'nngp', 'ntk'"):
        fc().kernel(X, get="both")
    with pytest.raises(ValueError, match="empty"):
        fc().kernel(X, get=())
    with pytest.raises(ValueError, match="'float64', 'float32'"):
        fc().kernel(X, dtype="float16")


def test_finite_networks_refuse_what_does_not_fit(key):
    net = fc()
    params = net.init(key, (3,))
    with pytest.raises(DtypeError, match="astype"):
        net.apply(params, np.ones((2, 3), int))
    with pytest.raises(DtypeError):
        net.apply(params, jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ShapeError, match=r"layer 1, Dense: .*holds weights for 3 features"):
        net.apply(params, np.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"x\[None\]"):
        net.apply(params, np.ones(3))
    with pytest.raises(ShapeError, match="entries for"):
        net.apply(params[:-1], X)
    with pytest.raises(TypeError, match=r"\(3,\)"):
        net.init(key, 3)
    with pytest.raises(ShapeError, match="empty"):
        net.init(key, ())


def test_parameters_in_float64_give_a_network_in_float64_whatever_the_flag(key):
    net = fc()
    params = net.init(key, (3,), dtype="float64")
    assert net.apply(params, X).dtype == jnp.float64


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"ABRelu: `a` is None"):
        arch.ABRelu(None, 1.0)


@dataclasses.dataclass(frozen=True)
class Cube(arch.Elementwise):
    """A user's own nonlinearity, by a series of too few terms for a kink and enough for a cube."""

    terms: int = 8

    def phi(self, x):
        return x**3

    def dual_of(self, pair):
        return duals.hermite_series(pair, self.phi, self.terms)


def test_a_users_own_layer_needs_a_function_and_a_dual():
    x = np.random.default_rng(0).normal(size=(3, 4))
    expected = fc(arch.Polynomial((0.0, 0.0, 0.0, 1.0)), depth=1).kernel(x)
    np.testing.assert_allclose(fc(Cube(), depth=1).kernel(x).ntk, expected.ntk, rtol=1e-10)
    with pytest.raises(QuadratureError, match="Cube"):
        fc(Cube(2), depth=1).kernel(x)


def test_a_users_layer_that_is_no_dataclass_is_refused():
    class Bare(arch.Layer):
        def out(self, signal):
            return signal

        def forward(self, params, h, signal):
            return h

        def limit(self, cov):
            return cov

    with pytest.raises(TypeError, match=r"Bare must be decorated with @dataclass\(frozen=True\)"):
        arch.Sequential(arch.Dense(3), Bare())


def test_layers_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        arch.Dense(3).width = 4
