"""Gaussian integrals against tables, independent quadrature, and identities."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from widescape import duals
from widescape.duals import Dual, Pair

# Name in the oracle module -> our dual of it.
CLOSED = {
    "relu": lambda p: duals.abrelu(p, 0.0, 1.0),
    "leaky_relu": lambda p: duals.abrelu(p, 0.1, 1.0),
    "abrelu": lambda p: duals.abrelu(p, -0.3, 1.2),
    "abs": lambda p: duals.abrelu(p, -1.0, 1.0),
    "erf": lambda p: duals.erf(p, 1.0, 1.0, 0.0),
    "erf_scaled": lambda p: duals.erf(p, 1.3, 0.7, 0.2),
    "gelu": duals.gelu,
    "sin": lambda p: duals.sine(p, 1.0, 1.0, 0.0),
    "sin_scaled": lambda p: duals.sine(p, 2.0, 0.5, 0.3),
    "cos": lambda p: duals.sine(p, 1.0, 1.0, jnp.pi / 2),
    "rbf_1": lambda p: duals.rbf(p, 1.0),
    "rbf_0.4": lambda p: duals.rbf(p, 0.4),
    "exp": lambda p: duals.exponential(p, 1.0, 1.0),
    "exp_scaled": lambda p: duals.exponential(p, 0.5, 0.3),
    "gaussian": lambda p: duals.gaussian(p, 1.0, -1.0),
    "gaussian_scaled": lambda p: duals.gaussian(p, 0.7, -0.4),
    "sign": duals.sign,
    "step": lambda p: duals.rectified_power(p, 0),
    "relu_2": lambda p: duals.rectified_power(p, 2),
    "relu_3": lambda p: duals.rectified_power(p, 3),
    "polynomial": lambda p: duals.polynomial(p, (0.3, -1.0, 0.5, 0.2)),
}
SERIES = {
    "tanh": lambda p: duals.hermite_series(p, jnp.tanh, 256),
    "sigmoid": lambda p: duals.hermite_series(p, jax.nn.sigmoid, 128),
    "softplus": lambda p: duals.hermite_series(p, jax.nn.softplus, 128),
    "silu": lambda p: duals.hermite_series(p, jax.nn.silu, 128),
}
POLAR = {
    "relu": lambda p: duals.polar(p, jax.nn.relu, (0.0,)),
    "abrelu": lambda p: duals.polar(p, lambda x: -0.3 * jnp.minimum(x, 0) + 1.2 * jnp.maximum(x, 0), (0.0,)),
    "erf": lambda p: duals.polar(p, jax.scipy.special.erf, (0.4,)),
}
PAIRS = [(1.0, 0.5, 1.0), (2.0, -0.7, 0.5), (0.3, 0.0, 1.7), (1.2, 1.1, 1.3), (4.0, -3.5, 3.3)]
FLAT = ("sign", "step")  # with a derivative of 0 almost everywhere, which the jump's share of T is not in
SMOOTH = [n for n in CLOSED if n not in ("relu", "leaky_relu", "abrelu", "abs", *FLAT)]


def evaluate(dual, q11, q12, q22) -> Dual:
    with jax.enable_x64(True):
        pair = Pair.of(*(jnp.asarray(v, jnp.float64)[..., None] for v in (q11, q12, q22)))
        return jax.tree.map(lambda a: np.asarray(a)[..., 0] if np.ndim(a) else np.asarray(a), dual(pair))


POWERS = {"step": 0, "relu_2": 2, "relu_3": 3}


def arc_cosine(degree, theta):
    """E[phi(u) phi(v)] of unit variances at an angle; equations 4 to 7 of cho2009kernel over 2 pi."""
    s, c, rest = mp.sin(theta), mp.cos(theta), mp.pi - theta
    forms = (
        rest,
        s + rest * c,
        3 * s * c + rest * (1 + 2 * c**2),
        rest * (9 * c + 6 * c**3) + 4 * s + 11 * s * c**2,
    )
    return forms[degree] / (2 * mp.pi)


C1 = {
    "relu": (0.304498890522, 1 / 3),
    "leaky_relu": (0.296644101323, 0.37),
    "abs": (0.717995562088, 1 / 3),
    "erf": (0.216346895939, 0.450158158079),
    "gelu": (0.227294915022, 0.342267242459),
    "sin": (0.191700249782, 0.414830409931),
    "rbf_1": (0.367879441171, 0.735758882343),
    "exp": (4.481689070338, 4.481689070338),
    "gaussian": (0.353553390593, 0.088388347648),
    "sign": (1 / 3, 0.0),
}
C2 = {
    "relu": (0.025045204627, 0.126591655553),
    "erf": (-0.291972055482, 0.449036965408),
    "gelu": (-0.058056737626, 0.126969734472),
    "sin_scaled": (-0.210296924892, 0.666734107447),
    "gaussian": (0.352672807929, -0.122821375896),
}


@pytest.mark.claim("lee2020finite/C1")
@pytest.mark.parametrize("name", C1)
def test_duals_at_unit_variance_match_the_table(name, measured):
    dual = evaluate(CLOSED[name], 1.0, 0.5, 1.0)
    np.testing.assert_allclose((dual.t, dual.tdot), C1[name], rtol=1e-10, atol=1e-12)
    measured("agree to the 12 digits of the table")


@pytest.mark.claim("lee2020finite/C2")
@pytest.mark.parametrize("name", C2)
def test_duals_at_unequal_variances_match_the_table(name, measured):
    dual = evaluate(CLOSED[name], 2.0, -0.7, 0.5)
    np.testing.assert_allclose((dual.t, dual.tdot), C2[name], rtol=5e-11)
    measured("agree to the 12 digits of the table")


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_the_integrals_that_independent_quadrature_finds(name, pair):
    phi, slope, kinks = oracles.ACTIVATIONS[name]
    dual = evaluate(CLOSED[name], *pair)
    assert dual.t == pytest.approx(oracles.gaussian_pair_mean(phi, phi, *pair, kinks), rel=1e-9, abs=1e-12)
    expected = oracles.gaussian_pair_mean(slope, slope, *pair, kinks)
    assert dual.tdot == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("name", "rule"), [*SERIES.items(), *(("polar " + n, r) for n, r in POLAR.items())])
def test_numerical_duals_agree_with_independent_quadrature_within_their_error(name, rule, pair):
    phi, slope, kinks = oracles.ACTIVATIONS[name.removeprefix("polar ")]
    dual = evaluate(rule, *pair)
    expected = oracles.gaussian_pair_mean(phi, phi, *pair, kinks)
    scale = (oracles.gaussian_mean(lambda x: phi(x) ** 2, pair[0], kinks) * oracles.gaussian_mean(
        lambda x: phi(x) ** 2, pair[2], kinks)) ** 0.5  # fmt: skip
    assert abs(dual.t - expected) <= (float(dual.error) + 1e-11) * scale
    assert dual.tdot == pytest.approx(oracles.gaussian_pair_mean(slope, slope, *pair, kinks), rel=1e-6, abs=1e-8)


@pytest.mark.slow
def test_polar_quadrature_handles_jumps_of_the_derivative_away_from_zero():
    phi = lambda x: np.maximum(x - 0.5, 0) + 0.3 * x  # noqa: E731
    slope = lambda x: (x > 0.5) + 0.3  # noqa: E731
    for pair in PAIRS:
        dual = evaluate(lambda p: duals.polar(p, lambda x: jax.nn.relu(x - 0.5) + 0.3 * x, (0.5,)), *pair)
        assert dual.t == pytest.approx(oracles.gaussian_pair_mean(phi, phi, *pair, (0.5,)), rel=1e-10)
        assert dual.tdot == pytest.approx(oracles.gaussian_pair_mean(slope, slope, *pair, (0.5,)), rel=1e-10)


@pytest.mark.claim("lee2020finite/I7")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", [n for n in CLOSED if n not in FLAT])
def test_tdot_is_the_derivative_of_t_in_q12(name, pair, measured):
    step = 1e-5
    q11, q12, q22 = pair
    above = evaluate(CLOSED[name], q11, q12 + step, q22).t
    below = evaluate(CLOSED[name], q11, q12 - step, q22).t
    slope = evaluate(CLOSED[name], *pair).tdot
    assert (above - below) / (2 * step) == pytest.approx(slope, rel=2e-8, abs=2e-9)
    measured("central differences agree to 2e-8 relative")


@pytest.mark.parametrize("name", [n for n in CLOSED if n not in FLAT])
def test_automatic_derivatives_in_q12_equal_tdot(name):
    with jax.enable_x64(True):
        for pair in PAIRS:
            q11, q12, q22 = (jnp.float64(v) for v in pair)
            slope = jax.grad(lambda c, a=q11, b=q22: CLOSED[name](Pair.of(a, c, b)).t)(q12)
            assert float(slope) == pytest.approx(float(evaluate(CLOSED[name], *pair).tdot), rel=1e-10, abs=1e-12)


@pytest.mark.claim("lee2020finite/I8")
@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 3.7])
@pytest.mark.parametrize("name", CLOSED)
def test_t_at_coincidence_is_the_one_dimensional_integral(name, q, measured):
    phi, slope, kinks = oracles.ACTIVATIONS[name]
    with jax.enable_x64(True):
        dual = CLOSED[name](Pair.equal(jnp.asarray([q], jnp.float64)))
    expected = oracles.gaussian_mean(lambda x: phi(x) ** 2, q, kinks)
    assert float(dual.t[0]) == pytest.approx(expected, rel=1e-10, abs=1e-14)
    if q > 0:
        slope_mean = oracles.gaussian_mean(lambda x: slope(x) ** 2, q, kinks)
        assert float(dual.tdot[0]) == pytest.approx(slope_mean, rel=1e-10, abs=1e-14)
    measured("closed forms at q = 0, 0.1, 1, 3.7 agree with quadrature to 1e-10")


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abrelu", "abs", "rbf_1", "sign", *POWERS])
@settings(deadline=None, max_examples=30)
@given(exponent=st.floats(-9, 0), stretch=st.floats(0.5, 2))
def test_complements_with_a_formula_keep_their_relative_accuracy_at_small_angles(name, opposite, exponent, stretch):
    """Against 60-digit arithmetic on the angle of two plane vectors of norms 1 and s."""
    mp.mp.dps = 60
    angle, s = mp.mpf(10) ** mp.mpf(exponent), mp.mpf(stretch)
    side = -1 if opposite else 1
    with jax.enable_x64(True):
        parts = (1, side * s * mp.cos(angle), s**2, s * (1 - mp.cos(angle)))
        dual = CLOSED[name](Pair(*(jnp.asarray([float(v)], jnp.float64) for v in parts)))
    theta = mp.pi - angle if opposite else angle
    a, b = {"relu": (0, 1), "leaky_relu": (mp.mpf(1) / 10, 1), "abrelu": (-mp.mpf(3) / 10, mp.mpf(12) / 10),
            "abs": (-1, 1)}.get(name, (0, 0))  # fmt: skip
    if name == "rbf_1":
        expected = 1 - mp.exp(-(1 + s**2 - 2 * s * mp.cos(theta)))
    elif name == "sign":
        expected = 2 * angle / mp.pi
    elif name in POWERS:
        degree = POWERS[name]
        expected = s**degree * (arc_cosine(degree, 0) - arc_cosine(degree, theta))
    else:
        jump, mean = mp.mpf(a - b) ** 2 / (2 * mp.pi), (mp.mpf(a) ** 2 + mp.mpf(b) ** 2) / 2
        t = jump * mp.sin(theta) + (mean - jump * theta) * mp.cos(theta)
        expected = s * (mean - abs(t))
    # T itself is rounded at 2e-16; the complement's error is that of an angle known to 4e-16.
    assert float(dual.complement[0]) == pytest.approx(float(expected), rel=1e-14 + 4e-16 / float(angle), abs=1e-300)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rectified_powers_are_arc_cosine_kernels_at_every_angle(degree):
    """To 1e-13 of T_n(0), and to 1e-12 of themselves where they vanish, beyond a right angle."""
    mp.mp.dps = 120  # the closed forms lose seven digits for each digit of the angle
    small = [mp.mpf(10) ** -k for k in range(1, 9)]
    angles = [*small, *(mp.pi * k / 40 for k in range(1, 40)), *(mp.pi - a for a in small)]
    for s in (mp.mpf("0.3"), mp.mpf(2)):
        parts = [(1, s * mp.cos(a), s**2, 2 * s * mp.sin(min(a, mp.pi - a) / 2) ** 2) for a in angles]
        with jax.enable_x64(True):
            dual = duals.rectified_power(
                Pair(*(jnp.asarray(np.array(c, float)) for c in zip(*parts, strict=True))), degree
            )
        exact = np.array([float(s**degree * arc_cosine(degree, a)) for a in angles])
        top = float(s**degree * arc_cosine(degree, 0))
        np.testing.assert_allclose(dual.t, exact, rtol=0, atol=1e-13 * top)
        if degree != 1:  # `abrelu` subtracts
            np.testing.assert_allclose(dual.t[-len(small) :], exact[-len(small) :], rtol=1e-12)
        if degree > 0:
            slopes = [float(degree**2 * s ** (degree - 1) * arc_cosine(degree - 1, a)) for a in angles]
            np.testing.assert_allclose(dual.tdot, slopes, rtol=0, atol=1e-13 * slopes[0])


def test_the_rectified_power_of_degree_one_is_the_relu():
    with jax.enable_x64(True):
        pair = Pair.of(*(jnp.asarray(column, jnp.float64) for column in zip(*PAIRS, (0.0, 0.0, 1.0), strict=True)))
        for ours, relu in zip(duals.rectified_power(pair, 1), duals.abrelu(pair, 0.0, 1.0), strict=True):
            np.testing.assert_array_equal(ours, relu)


def test_the_step_is_one_at_zero():
    with jax.enable_x64(True):
        dual = duals.rectified_power(Pair.of(jnp.zeros(2), jnp.zeros(2), jnp.array([0.0, 3.0])), 0)
    np.testing.assert_allclose(dual.t, [1.0, 0.5], rtol=1e-15)
    np.testing.assert_allclose(dual.complement, [0.0, 0.5**0.5 - 0.5], rtol=1e-15)


@pytest.mark.parametrize(("w2", "b2"), [(1.7, 0.0), (1.7, 0.3), (0.2, 2.0)])
def test_affine_maps_keep_the_complement_accurate(w2, b2):
    mp.mp.dps = 60
    for angle in (1e-8, 1e-3, 1.0):
        for s in (1.0, 1.5):
            for side in (1, -1):
                parts = (1, side * s * mp.cos(angle), mp.mpf(s) ** 2, s * (1 - mp.cos(angle)))
                with jax.enable_x64(True):
                    pair = Pair(*(jnp.asarray([float(v)], jnp.float64) for v in parts)).affine(w2, b2)
                q11, q12, q22 = (mp.mpf(w2) * v + mp.mpf(b2) for v in parts[:3])
                assert float(pair.q12[0]) == pytest.approx(float(q12), rel=1e-14, abs=1e-15)
                assert float(pair.complement[0]) == pytest.approx(float(mp.sqrt(q11 * q22) - abs(q12)), rel=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_duals_are_positive_semidefinite_kernels(name, rng):
    x = rng.normal(size=(30, 4))
    k = x @ x.T / 4
    q = np.diag(k)
    t = evaluate(CLOSED[name], np.broadcast_to(q[:, None], k.shape), k, np.broadcast_to(q[None, :], k.shape)).t
    eigenvalues = np.linalg.eigvalsh(t)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


def test_the_error_of_a_series_bounds_its_truncation():
    for terms in (8, 16, 32):
        dual = evaluate(lambda p, k=terms: duals.hermite_series(p, jnp.tanh, k), 2.0, 2.0, 2.0)
        exact = oracles.gaussian_mean(lambda x: np.tanh(x) ** 2, 2.0)
        assert 0 < exact - dual.t <= float(dual.error) * exact * (1 + 1e-9)


def test_zero_variance_is_an_angle_of_half_pi_by_convention():
    with jax.enable_x64(True):
        zero, one = jnp.zeros(1), jnp.ones(1)
        pair = Pair.of(zero, zero, one)
        assert float(pair.angle[0]) == pytest.approx(np.pi / 2)
        assert float(duals.abrelu(pair, 0.0, 1.0).tdot[0]) == pytest.approx(0.25)
        assert float(duals.sign(pair).t[0]) == 0.0


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("pair", [(1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1.0, -1.0, 1.0)])
def test_derivatives_are_finite_at_coincident_opposite_and_zero_pairs(name, pair):
    with jax.enable_x64(True):

        def total(q):
            dual = CLOSED[name](Pair.of(*q))
            return dual.t + dual.tdot

        gradient = jax.grad(total)(tuple(jnp.float64(v) for v in pair))
        assert all(np.isfinite(g) for g in gradient)
