"""Checks of the oracles against facts that need no library."""

import math

import mpmath
import numpy as np
import pytest
from scipy import special

import oracles
from oracles import ACTIVATIONS, fc_kernel, gaussian_mean, gaussian_pair_mean, relu_angle_kernel_mp

PRINTED = 6e-13  # half a unit of the twelfth decimal, and a little

# Case C1 of the specification: name -> (T, derivative), at (1, 0.5, 1).
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
# Case C2, at (2, -0.7, 0.5).
C2 = {
    "relu": (0.025045204627, 0.126591655553),
    "erf": (-0.291972055482, 0.449036965408),
    "gelu": (-0.058056737626, 0.126969734472),
    "sin_scaled": (-0.210296924892, 0.666734107447),
    "gaussian": (0.352672807929, -0.122821375896),
}
# Case C3, ReLU at a right angle: hidden layers -> (K12, Theta12).
C3 = {
    1: (1 / math.pi, 1 / math.pi),
    2: (0.493731090200, 0.685708636283),
    3: (0.604825720113, 1.060388106803),
    10: (0.871535516022, 3.479376712021),
}
JUMPING = ("sign", "step")  # functions whose derivative as a distribution is not the almost-everywhere one
X4 = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0]])


def test_gaussian_mean_matches_known_integrals():
    assert gaussian_mean(lambda z: z**4, 1.0) == pytest.approx(3, rel=1e-13)
    assert gaussian_mean(lambda z: z**6, 2.0) == pytest.approx(120, rel=1e-13)
    assert gaussian_mean(np.exp, 4.0) == pytest.approx(math.exp(2), rel=1e-13)
    assert gaussian_mean(np.abs, 3.0, kinks=(0.0,)) == pytest.approx(math.sqrt(6 / math.pi), rel=1e-13)
    h = 0.7
    hinge = gaussian_mean(lambda z: np.maximum(z - h, 0), 1.0, kinks=(h,))
    expected = math.exp(-(h**2) / 2) / math.sqrt(2 * math.pi) - h * special.ndtr(-h)
    assert hinge == pytest.approx(expected, rel=1e-13)
    assert gaussian_mean(np.cos, 0.0) == 1.0


@pytest.mark.parametrize(
    ("name", "q", "expected"),
    [(name, (1.0, 0.5, 1.0), value) for name, value in C1.items()]
    + [(name, (2.0, -0.7, 0.5), value) for name, value in C2.items()],
)
def test_pair_mean_matches_table_values(name, q, expected):
    phi, dphi, kinks = ACTIVATIONS[name]
    assert gaussian_pair_mean(phi, phi, *q, kinks) == pytest.approx(expected[0], rel=0, abs=PRINTED)
    assert gaussian_pair_mean(dphi, dphi, *q, kinks) == pytest.approx(expected[1], rel=0, abs=PRINTED)


@pytest.mark.parametrize("q", [(1.0, 0.5, 1.0), (2.0, -0.7, 0.5), (16.0, 15.9, 16.1)])
def test_pair_mean_is_symmetric_under_a_swap(q):
    q11, q12, q22 = q
    for left, right in [("relu", "tanh"), ("sign", "gelu"), ("abrelu", "exp_scaled")]:
        f, g = ACTIVATIONS[left][0], ACTIVATIONS[right][0]
        forward = gaussian_pair_mean(f, g, q11, q12, q22, (0.0,))
        backward = gaussian_pair_mean(g, f, q22, q12, q11, (0.0,))
        assert forward == pytest.approx(backward, rel=1e-12)


@pytest.mark.parametrize(("q11", "q22"), [(1.5, 1.5), (1.3, 0.7)])
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8, 1e-11, 1e-14, 2.3e-16])
@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_coincident_pairs_match_the_exact_angle(gap, sign, q11, q22):
    q12 = sign * math.sqrt(q11 * q22) * (1 - gap)
    with mpmath.workdps(50):  # from the float64 numbers, taken as exact
        # pi minus the angle; tiny for opposite pairs, and the relative accuracy holds there too
        norm = mpmath.sqrt(mpmath.mpf(q11) * q22)
        supplement = mpmath.acos(-q12 / norm)
        expected_sign = float(2 * supplement / mpmath.pi - 1)
        expected_step = float(supplement / (2 * mpmath.pi))
        expected_relu = float(norm * (mpmath.sin(supplement) - supplement * mpmath.cos(supplement)) / (2 * mpmath.pi))
    sign_function, (relu, step, kinks) = ACTIVATIONS["sign"][0], ACTIVATIONS["relu"]
    for f, expected in [(sign_function, expected_sign), (step, expected_step), (relu, expected_relu)]:
        assert gaussian_pair_mean(f, f, q11, q12, q22, kinks) == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("correlation", [-0.999999, -0.5, 0.0, 0.5, 0.99, 1 - 1e-8, 1 - 1e-12])
def test_kink_away_from_zero_matches_owens_t(correlation):
    h = 0.7
    # P(u > h, v > h) for correlated standard normals.
    expected = special.ndtr(-h) - 2 * special.owens_t(h, math.sqrt((1 - correlation) / (1 + correlation)))
    actual = gaussian_pair_mean(lambda u: 1.0 * (u > h), lambda v: 1.0 * (v > h), 1.0, correlation, 1.0, (h,))
    assert actual == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_coincident_pairs_reduce_to_one_variable_and_are_the_limit(name):
    phi, _, kinks = ACTIVATIONS[name]
    square = gaussian_mean(lambda u: phi(u) ** 2, 1.7, kinks)
    mirrored = gaussian_mean(lambda u: phi(u) * phi(-u), 1.7, kinks)
    scale = max(abs(square), abs(mirrored))
    assert gaussian_pair_mean(phi, phi, 1.7, 1.7, 1.7, kinks) == pytest.approx(square, rel=1e-13)
    assert gaussian_pair_mean(phi, phi, 1.7, -1.7, 1.7, kinks) == pytest.approx(mirrored, abs=1e-13 * scale)
    near = 1.7 * (1 - 1e-15)  # the general path; sign, the roughest, moves by 3e-8
    assert gaussian_pair_mean(phi, phi, 1.7, near, 1.7, kinks) == pytest.approx(square, rel=1e-7)
    # Different variances: v = sqrt(1.5) u, and the reverse.
    stretched = gaussian_mean(lambda u: phi(u) * phi(math.sqrt(1.5) * u), 2.0, kinks)
    for q11, q22 in [(2.0, 3.0), (3.0, 2.0)]:
        pair = gaussian_pair_mean(phi, phi, q11, math.sqrt(q11 * q22), q22, kinks)
        assert pair == pytest.approx(stretched, rel=1e-12, abs=1e-13 * scale)


def test_coincident_pair_with_a_kink_away_from_zero():
    h = 0.7
    for q11, q22 in [(1.0, 4.0), (4.0, 1.0)]:  # u > h and v > h: the narrower variable decides
        actual = gaussian_pair_mean(lambda u: 1.0 * (u > h), lambda v: 1.0 * (v > h), q11, 2.0, q22, (h,))
        assert actual == pytest.approx(special.ndtr(-h), rel=1e-13)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "silu", "gelu", "erf_scaled", "cos", "polynomial"])
@pytest.mark.parametrize("q", [(1.0, 1.0), (16.0, 2.0), (0.1, 60.0)])
def test_pair_mean_matches_the_hermite_series(name, q):
    phi, _, _ = ACTIVATIONS[name]
    correlation = -0.4
    z = np.linspace(-16, 16, 6401)  # the trapezoidal rule is spectrally accurate here
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    values = [weight * phi(math.sqrt(variance) * z) for variance in q]
    previous, hermite, expected = np.zeros_like(z), np.ones_like(z), 0.0
    for degree in range(45):
        expected += correlation**degree * np.sum(values[0] * hermite) * np.sum(values[1] * hermite)
        previous, hermite = hermite, (z * hermite - math.sqrt(degree) * previous) / math.sqrt(degree + 1)
    actual = gaussian_pair_mean(phi, phi, q[0], correlation * math.sqrt(q[0] * q[1]), q[1])
    scale = math.sqrt(gaussian_mean(lambda u: phi(u) ** 2, q[0]) * gaussian_mean(lambda u: phi(u) ** 2, q[1]))
    assert actual == pytest.approx(expected, rel=1e-12, abs=1e-13 * scale)


def test_hermite_polynomials_are_orthonormal():
    for d in range(1, 5):
        for e in range(1, 5):
            f, g = ACTIVATIONS[f"hermite_{d}"][0], ACTIVATIONS[f"hermite_{e}"][0]
            expected = 0.3**d if d == e else 0.0
            assert gaussian_pair_mean(f, g, 1.0, 0.3, 1.0) == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_match_finite_differences(name):
    phi, dphi, kinks = ACTIVATIONS[name]
    x = np.array([-2.3, -1.1, -0.4, 0.2, 0.9, 1.7])
    h = 1e-3
    slope = (8 * (phi(x + h) - phi(x - h)) - (phi(x + 2 * h) - phi(x - 2 * h))) / (12 * h)
    np.testing.assert_allclose(dphi(x), slope, rtol=1e-9, atol=1e-9)
    if kinks and name not in (*JUMPING, "relu_2", "relu_3"):  # the midpoint where the derivative jumps
        at_zero = (phi(np.array([h])) - phi(np.array([-h]))) / (2 * h)
        np.testing.assert_allclose(dphi(np.zeros(1)), at_zero, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in JUMPING])
def test_mean_of_derivatives_is_the_derivative_of_the_mean(name):
    phi, dphi, kinks = ACTIVATIONS[name]
    h = 1e-2

    def mean(q12):
        return gaussian_pair_mean(phi, phi, 1.2, q12, 0.8, kinks)

    slope = (8 * (mean(0.3 + h) - mean(0.3 - h)) - (mean(0.3 + 2 * h) - mean(0.3 - 2 * h))) / (12 * h)
    assert gaussian_pair_mean(dphi, dphi, 1.2, 0.3, 0.8, kinks) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_zero_variance():
    phi, dphi, kinks = ACTIVATIONS["relu"]
    assert gaussian_pair_mean(phi, phi, 0.0, 0.0, 2.0, kinks) == 0.0
    assert gaussian_pair_mean(dphi, dphi, 0.0, 0.0, 2.0, kinks) == pytest.approx(0.25, rel=1e-13)
    assert gaussian_pair_mean(dphi, dphi, 0.0, 0.0, 0.0, kinks) == 0.25
    tiny = gaussian_pair_mean(phi, phi, 1e-200, 0.0, 1e-200, kinks)
    assert tiny == pytest.approx(1e-200 / (2 * math.pi), rel=1e-12, abs=0)
    assert gaussian_pair_mean(np.cos, np.cos, 2.0, 0.0, 0.0) == pytest.approx(math.exp(-1), rel=1e-13)


def test_impossible_covariances_are_refused():
    with pytest.raises(ValueError, match="not a covariance"):
        gaussian_pair_mean(np.cos, np.cos, 1.0, 1.1, 1.0)
    with pytest.raises(ValueError, match="negative variance"):
        gaussian_mean(np.cos, -1.0)


@pytest.mark.parametrize("hidden", C3)
def test_relu_net_at_a_right_angle(hidden):
    phi, dphi, kinks = ACTIVATIONS["relu"]
    w_vars, b_vars = [2.0] * (hidden + 1), [None] * (hidden + 1)
    x = np.eye(2)
    nngp, ntk = fc_kernel(x[:1], x, phi, dphi, w_vars, b_vars, kinks)
    np.testing.assert_allclose(nngp, [[1.0, C3[hidden][0]]], rtol=0, atol=PRINTED)
    np.testing.assert_allclose(ntk, [[hidden + 1.0, C3[hidden][1]]], rtol=0, atol=PRINTED)
    exact = relu_angle_kernel_mp(x[0], x[1], w_vars, b_vars)
    assert exact == pytest.approx(C3[hidden], rel=0, abs=PRINTED)
    np.testing.assert_allclose((nngp[0, 1], ntk[0, 1]), exact, rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "expected_nngp", "expected_ntk"),
    [
        ("relu", (4.04, 1.963726482300, 3.54), (16.1, 2.671231829378, 14.1)),
        ("erf", (None, -0.399148903305, None), (None, -1.801632642650, None)),
        ("gelu", (None, 1.392228914974, None), (None, 1.803150251499, None)),
    ],
)
def test_net_with_biases_matches_table_values(name, expected_nngp, expected_ntk):
    phi, dphi, kinks = ACTIVATIONS[name]
    nngp, ntk = fc_kernel(X4, X4, phi, dphi, [2.0] * 4, [0.01] * 4, kinks)
    for actual, expected in [(nngp, expected_nngp), (ntk, expected_ntk)]:
        for (i, j), value in zip([(0, 0), (0, 1), (1, 1)], expected, strict=True):
            if value is not None:
                assert actual[i, j] == pytest.approx(value, rel=0, abs=PRINTED)
        np.testing.assert_allclose(actual, actual.T, rtol=1e-12)
    if name == "relu":
        exact = relu_angle_kernel_mp(X4[0], X4[1], [2.0] * 4, [0.01] * 4)
        np.testing.assert_allclose((nngp[0, 1], ntk[0, 1]), exact, rtol=1e-12)


def test_layers_use_their_own_variances():
    # The identity activation: every layer is linear, and the kernels follow by hand.
    nngp, ntk = fc_kernel([[3.0]], [[5.0]], lambda x: x, np.ones_like, [2.0, 3.0, 7.0], [0.5, None, 0.25])
    assert nngp[0, 0] == pytest.approx(7 * 3 * (2 * 15 + 0.5) + 0.25, rel=1e-12)
    first = 2 * 15 + 0.5
    assert ntk[0, 0] == pytest.approx(7 * 3 * first + 0.25 + 7 * (3 * first + 3 * first), rel=1e-12)


def test_improved_standard_parameterization():
    phi, dphi, kinks = ACTIVATIONS["relu"]
    shared = {"kinks": kinks, "parameterization": "standard", "base_widths": [64, 32]}
    _, ntk = fc_kernel(X4, X4, phi, dphi, [2.0] * 3, [0.1] * 3, **shared)
    assert ntk[0, 0] == pytest.approx(207.4, rel=1e-12)  # 32 * 2.1 + 1 + 64 * 2.05 + 1 + 3 * 2 + 1, by hand
    assert ntk[0, 1] == pytest.approx(30.133, rel=0, abs=5e-4)
    # A bias of variance zero still trains: it adds 1 per layer, halved by ReLU and doubled by the weights.
    _, without = fc_kernel(X4, X4, phi, dphi, [2.0] * 3, [None] * 3, **shared)
    _, with_zero = fc_kernel(X4, X4, phi, dphi, [2.0] * 3, [0.0] * 3, **shared)
    np.testing.assert_allclose(np.diag(with_zero - without), 3.0, rtol=1e-10)
    with pytest.raises(ValueError, match="base width"):
        fc_kernel(X4, X4, phi, dphi, [2.0] * 3, [0.1] * 3, kinks, "standard")


@pytest.mark.parametrize("exponent", [4, 6, 9])
def test_many_digit_relu_kernel_at_small_angles(exponent):
    with mpmath.workdps(50):
        angle = mpmath.mpf(10) ** -exponent
        x1, x2 = [mpmath.mpf(1), mpmath.mpf(0)], [mpmath.cos(angle), mpmath.sin(angle)]
    nngp, ntk = relu_angle_kernel_mp(x1, x2, [2.0, 2.0], [None, None])
    small = 10.0**-exponent
    # Series of (sin t + (pi - t) cos t) / pi and of that plus cos(t) (pi - t) / pi.
    assert nngp == pytest.approx(1 - small**2 / 2 + small**3 / (3 * math.pi), rel=0, abs=1e-15)
    assert ntk == pytest.approx(2 - small / math.pi - small**2 + 5 * small**3 / (6 * math.pi), rel=0, abs=1e-15)


def test_many_digit_relu_kernel_at_special_pairs():
    # Coincident: 1 and layers. Opposite: 0 after one hidden layer, a right angle from there on.
    same, opposite = [0.6, 0.8], [-0.6, -0.8]
    norm = (0.6**2 + 0.8**2) / 2
    assert relu_angle_kernel_mp(same, same, [2.0] * 4, [None] * 4) == pytest.approx((2 * norm, 8 * norm), rel=1e-14)
    assert relu_angle_kernel_mp(same, opposite, [2.0] * 2, [None] * 2) == pytest.approx((0, 0), abs=1e-15)
    expected = (2 * norm / math.pi,) * 2
    assert relu_angle_kernel_mp(same, opposite, [2.0] * 3, [None] * 3) == pytest.approx(expected, rel=1e-14)
    assert relu_angle_kernel_mp(same, [0.0, 0.0], [2.0] * 3, [None] * 3) == (0.0, 0.0)


def test_both_relu_oracles_agree_at_a_near_duplicate():
    phi, dphi, kinks = ACTIVATIONS["relu"]
    x1, x2 = np.array([1.0, 0.0]), np.array([1.0, 1e-4])
    nngp, ntk = fc_kernel(x1[None], x2[None], phi, dphi, [2.0, 1.5, 2.0], [0.1, 0.2, None], kinks)
    exact = relu_angle_kernel_mp(x1, x2, [2.0, 1.5, 2.0], [0.1, 0.2, None])
    # Rounding the covariances to float64 moves the angle of 1e-4 by about 1e-12.
    np.testing.assert_allclose((nngp[0, 0], ntk[0, 0]), exact, rtol=1e-11)


def test_oracles_do_not_use_the_library():
    with open(oracles.__file__) as file:
        imports = [line for line in file if line.startswith(("import ", "from "))]
    assert not any("jax" in line or "widescape" in line for line in imports)
