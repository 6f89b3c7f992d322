"""Harmonics, kernels of random layers, and bounds: closed forms, quadrature, and Monte Carlo in standard errors."""

import numpy as np
import pytest
from scipy import integrate, linalg, special

from widescape import arch, features
from widescape.core.errors import NonSmoothWarning, ShapeError

RHO = np.array([-1.0, 0.0, 0.5, 1.0])


def sphere_rule(dim, nodes=40):
    """Quadrature of t = beta . x for x uniform on the sphere of radius sqrt(dim)."""
    t, w = special.roots_jacobi(nodes, (dim - 3) / 2, (dim - 3) / 2)
    return t * dim**0.5, w / w.sum()


def sphere(rng, n, dim):
    x = rng.standard_normal((n, dim))
    return x * dim**0.5 / np.linalg.norm(x, axis=1, keepdims=True)


# Harmonics.


@pytest.mark.claim("chen2020hierarchical/C4")
def test_the_dimension_of_the_harmonics_is_the_count(measured):
    assert features.harmonic_dim(16, 4) == 3740
    assert features.harmonic_dim(5, 2) == 14
    assert [features.harmonic_dim(3, k) for k in range(9)] == [2 * k + 1 for k in range(9)]
    assert [features.harmonic_dim(2, k) for k in range(4)] == [1, 2, 2, 2]
    measured("equal")


@pytest.mark.parametrize(("dim", "degree"), [(3, 6), (4, 5), (7, 4)])
def test_harmonics_fill_what_homogeneous_polynomials_leave(dim, degree):
    """Polynomials of degree k on the sphere are the sum of harmonics of degrees k, k - 2, ...."""
    total = sum(features.harmonic_dim(dim, k) for k in range(degree, -1, -2))
    assert total == special.comb(dim + degree - 1, degree, exact=True)


MONIC = {
    0: lambda t, d: np.ones_like(t),
    1: lambda t, d: t,
    2: lambda t, d: t**2 - 1,
    3: lambda t, d: t**3 - 3 * d / (d + 2) * t,
    4: lambda t, d: t**4 - 6 * d / (d + 4) * t**2 + 3 * d**2 / ((d + 2) * (d + 4)),
}


@pytest.mark.claim("chen2020hierarchical/K5")
@pytest.mark.parametrize("d", [3, 4, 16, 200])
@pytest.mark.parametrize("k", MONIC)
def test_zonal_harmonics_are_monic_polynomials_in_closed_form(d, k, measured):
    t = np.linspace(-(d**0.5), d**0.5, 61)
    expected = MONIC[k](t, d)
    np.testing.assert_allclose(features.zonal_harmonic(d, k)(t), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    measured("degrees 0 to 4 in 3, 4, 16 and 200 dimensions, to 1e-12 of the largest value")


@pytest.mark.claim("chen2020hierarchical/C5")
def test_the_harmonic_of_degree_four_in_sixteen_dimensions_has_variance_8_79192(measured, rng):
    harmonic = features.zonal_harmonic(16, 4)
    t, w = sphere_rule(16)
    assert harmonic.std**2 == pytest.approx(8.79192, abs=5e-6)
    assert w @ harmonic(t) ** 2 == pytest.approx(harmonic.std**2, rel=1e-12)
    for power in (0, 2):
        assert abs(w @ (harmonic(t) * t**power)) < 1e-12
    u = 4 * (2 * rng.beta(7.5, 7.5, 10**6) - 1)  # the law of a coordinate
    values = harmonic(u)
    assert values.var() == pytest.approx(8.79192, rel=0.04)
    for other in (values, values * u**2):
        assert abs(other.mean()) <= 4.5 * other.std() / len(u) ** 0.5
    assert abs(np.corrcoef(values, u**2)[0, 1]) < 0.02
    measured("8.79192 by quadrature; within 4 % and 0.02 by 1e6 points")


@pytest.mark.parametrize(("d", "k"), [(3, 1), (3, 9), (10, 6), (64, 5)])
def test_harmonics_of_every_degree_have_their_standard_deviation_and_are_orthogonal_to_lower_degrees(d, k):
    harmonic = features.zonal_harmonic(d, k)
    t, w = sphere_rule(d)
    assert (w @ harmonic(t) ** 2) ** 0.5 == pytest.approx(harmonic.std, rel=1e-10)
    for lower in range(k):
        size = (w @ t ** (2 * lower)) ** 0.5
        assert abs(w @ (harmonic(t) * t**lower)) < 1e-9 * harmonic.std * size
    assert w @ (harmonic(t) * t**k) == pytest.approx(harmonic.std**2, rel=1e-9)  # monic


def test_harmonics_compare_hash_and_refuse_what_is_no_degree():
    assert features.zonal_harmonic(5, 2) == features.ZonalHarmonic(5, 2)
    assert len({features.zonal_harmonic(5, 2), features.ZonalHarmonic(5, 2)}) == 1
    with pytest.raises(ValueError, match="`d` is 2"):
        features.zonal_harmonic(2, 3)
    with pytest.raises(ValueError, match="`k` is -1"):
        features.zonal_harmonic(5, -1)
    with pytest.raises(TypeError, match=r"`k` is 2\.5"):
        features.harmonic_dim(5, 2.5)


# Kernels of random layers.

FORMS = {
    "step": lambda c: 0.25 + np.arcsin(c) / (2 * np.pi),
    "relu": lambda c: (np.sqrt(1 - c**2) + (np.pi - np.arccos(c)) * c) / np.pi,
    "square": lambda c: 4 * (1 + 2 * c**2),
}
VALUES = {"step": (0.25, 1 / 3, 0.5), "relu": (0.318310, 0.608998, 1.0), "square": (4.0, 6.0, 12.0)}


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(name, marks=pytest.mark.claim(f"chen2020hierarchical/{claim}"))
        for name, claim in (("step", "K1"), ("relu", "K2"), ("square", "K3"))
    ],
)
def test_random_layers_have_their_kernel_in_closed_form(activation, measured):
    rho = np.concatenate([np.linspace(-1, 1, 101), 1 - np.logspace(-12, -3, 10)])
    found = features.random_feature_kernel(rho, activation)
    np.testing.assert_allclose(found, FORMS[activation]((1 + rho) / 2), rtol=1e-7)
    np.testing.assert_allclose(found[:101], FORMS[activation]((1 + rho[:101]) / 2), rtol=1e-12)
    np.testing.assert_allclose(features.random_feature_kernel([-1, 0, 1], activation), VALUES[activation], rtol=1e-6)
    measured("to 1e-12 at 101 angles")


@pytest.mark.claim("chen2020hierarchical/K4")
def test_the_tangent_kernel_on_step_features_is_its_closed_form(measured):
    rho = np.linspace(-1, 1, 101)
    k = FORMS["step"]((1 + rho) / 2)
    np.testing.assert_allclose(
        features.ntk_neural_kernel(rho), k * (0.25 + np.arcsin(np.minimum(2 * k, 1)) / (2 * np.pi)), rtol=1e-12
    )
    np.testing.assert_allclose(features.ntk_neural_kernel([1, 0, -1]), [0.25, 0.122047, 0.083333], atol=5e-7)
    measured("to 1e-12 at 101 angles")


@pytest.mark.claim("chen2020hierarchical/K6")
def test_nine_percent_of_the_variance_of_step_features_is_quadratic(measured):
    """The parts of k(rho) - k(0) by powers of rho, from an interpolant around 0."""
    series = np.polynomial.chebyshev.Chebyshev.interpolate(features.random_feature_kernel, 24, [-0.4, 0.4])
    parts = series.convert(kind=np.polynomial.Polynomial).coef
    total = features.random_feature_kernel(1.0) - features.random_feature_kernel(0.0)
    assert total == pytest.approx(1 / 6, rel=1e-12)
    np.testing.assert_allclose(parts[1:3], [0.091888, 0.015315], atol=5e-7)
    assert total - parts[1] - parts[2] == pytest.approx(0.059464, abs=1e-6)
    assert parts[2] / total == pytest.approx(0.09, abs=0.005)
    measured("0.091888, 0.015315, 0.059464")


@pytest.mark.claim("chen2020hierarchical/C3")
@pytest.mark.parametrize(("activation", "rtol", "atol"), [("step", 0, 3e-3), ("relu", 0.015, 0), ("square", 0.03, 0)])
def test_a_million_gaussian_features_meet_the_kernel(activation, rtol, atol, measured):
    x = 2**0.5 * np.stack([RHO, np.sqrt(1 - RHO**2)], axis=1)
    h = features.random_features(2, 10**6, activation=activation, weight_dist="gaussian", seed=1)(x)
    products = h * h[-1]
    expected = features.random_feature_kernel(RHO, activation)
    np.testing.assert_allclose(products.mean(axis=1), expected, rtol=rtol, atol=atol)
    errors = (products.mean(axis=1) - expected) / (products.std(axis=1) / 1e3)
    assert (np.abs(errors) < 4.5).all()
    measured("within 4.5 standard errors of 1e6 features")


@pytest.mark.claim("chen2020hierarchical/C3")
def test_rows_on_the_unit_sphere_differ_by_one_over_d(measured):
    """5 + d/(d + 2) at a right angle and 9 + 3 d/(d + 2) at coincidence, and not the 6 and 12 of Gaussian rows."""
    d = 16
    x = d**0.5 * np.eye(2, d)
    layer = features.random_features(d, 400_000, activation="square", seed=2)
    h = layer(x)
    for values, expected in ((h[0] * h[1], 5 + d / (d + 2)), (h[0] ** 2, 9 + 3 * d / (d + 2))):
        assert abs(values.mean() - expected) < 4.5 * values.std() / 400_000**0.5
    assert 5 + d / (d + 2) == pytest.approx(5.889, abs=5e-4)
    assert 9 + 3 * d / (d + 2) == pytest.approx(11.667, abs=5e-4)
    assert abs((h[0] ** 2).mean() - 12) > 4.5 * (h[0] ** 2).std() / 400_000**0.5
    measured("5.889 and 11.667 at d = 16, within 4.5 standard errors of 4e5 features")


def test_kernels_of_random_layers_take_layers_and_keep_shapes():
    assert isinstance(features.random_feature_kernel(0.3, arch.Relu()), float)
    grid = np.array([[0.2, 0.5, 1.0]])
    k = features.random_feature_kernel(grid, "square")
    assert k.shape == grid.shape
    found = features.ntk_neural_kernel(grid, activation=arch.Polynomial((0.0, 0.0, 1.0)), model="square")
    np.testing.assert_allclose(found, k**2, rtol=1e-12)  # phi' is the identity


def test_kernels_of_random_layers_refuse_what_is_no_cosine_and_no_activation():
    for bad in (1.01, [0.0, -2.0], np.nan):
        with pytest.raises(ValueError, match="it must be a cosine"):
            features.random_feature_kernel(bad)
    with pytest.raises(ValueError, match="'step', 'relu', 'square'"):
        features.random_feature_kernel(0.0, "relu3")
    with pytest.raises(TypeError, match=r"widescape\.arch"):
        features.ntk_neural_kernel(0.0, activation=np.tanh)
    with pytest.warns(NonSmoothWarning, match="derivative is 0"):
        features.ntk_neural_kernel(0.0, model=arch.RectifiedPower(0))


@pytest.mark.claim("chen2020hierarchical/P11")
def test_a_tangent_kernel_of_relus_without_biases_has_no_odd_part_beyond_the_linear_one(measured):
    rho = np.linspace(0, 1, 21)
    x = np.stack([rho, np.sqrt(1 - rho**2)], axis=1)
    net = arch.fc(depth=1, width=8, n_out=1, activation=arch.Relu())
    forward, backward = (net.kernel(np.eye(1, 2), side * x, get="ntk").ntk[0] for side in (1, -1))
    odd = (forward - backward) / 2
    np.testing.assert_allclose(odd, odd[-1] * rho, atol=1e-13)
    measured("odd part proportional to rho, to 1e-13")


# What invariant kernels cannot learn.


def test_the_floor_is_one_minus_n_over_the_dimension():
    assert features.invariant_kernel_risk_floor(0, 16, 4) == 1.0
    assert features.invariant_kernel_risk_floor(3740, 16, 4) == 0.0
    np.testing.assert_allclose(
        features.invariant_kernel_risk_floor(np.array([374, 1870, 9999]), 16, 4), [0.9, 0.5, 0.0]
    )
    with pytest.raises(ValueError, match="`n` is -1"):
        features.invariant_kernel_risk_floor(-1, 16, 4)
    with pytest.raises(TypeError, match="`n`"):
        features.invariant_kernel_risk_floor([0.5], 16, 4)


def relu_neural_tangents(rho):
    """The infinite NTK-Neural on ReLU features, k (1/4 + arcsin(k)/(2 pi))."""
    k = FORMS["relu"]((1 + rho) / 2)
    return k * (0.25 + np.arcsin(np.minimum(k, 1)) / (2 * np.pi))


@pytest.mark.claim("chen2020hierarchical/F1")
@pytest.mark.parametrize("invariant", [np.exp, relu_neural_tangents])
@pytest.mark.parametrize(("d", "k", "n"), [(5, 3, 15), (4, 4, 10), (6, 2, 10)])
def test_no_kernel_ridge_beats_the_floor_on_average_over_directions(d, k, n, invariant, rng, measured):
    """Oracle regularizers for each direction; risks on the sphere by a fixed test set of 1,500 points."""
    x, t = sphere(rng, n, d), sphere(rng, 1500, d)
    harmonic = features.zonal_harmonic(d, k)
    beta = sphere(rng, 300, d) / d**0.5
    y, target = harmonic(x @ beta.T) / harmonic.std, harmonic(t @ beta.T) / harmonic.std
    kernel, cross = (invariant(np.clip(a @ x.T / d, -1, 1)) for a in (x, t))
    values, vectors = linalg.eigh(kernel)
    risks = np.array(
        [
            ((cross @ (vectors / (values + reg)) @ (vectors.T @ y) - target) ** 2).mean(axis=0)
            for reg in values[-1] * np.logspace(-9, 3, 13)
        ]
    ).min(axis=0) / (target**2).mean(axis=0)
    floor = features.invariant_kernel_risk_floor(n, d, k)
    assert risks.mean() >= floor - 4.5 * risks.std() / 300**0.5
    measured("ridge with the best of 13 regularizers for each of 300 directions, in 4, 5 and 6 dimensions")


@pytest.mark.claim("chen2020hierarchical/F1")
@pytest.mark.parametrize(("d", "k", "n"), [(5, 3, 15), (4, 4, 10), (16, 2, 40)])
def test_the_best_predictor_of_the_kernel_of_one_degree_is_at_the_floor(d, k, n, rng, measured):
    """Its risk is 1 - z^T G^+ z / Z(1) with z_i = Z(beta . x_i), since zonal harmonics reproduce themselves."""
    x = sphere(rng, n, d)
    harmonic = features.zonal_harmonic(d, k)
    gram = harmonic(np.clip(x @ x.T / d**0.5, -(d**0.5), d**0.5))
    beta = sphere(rng, 4000, d) / d**0.5
    z = harmonic(x @ beta.T)
    risks = 1 - np.einsum("nb,nb->b", z, linalg.pinvh(gram) @ z) / harmonic(d**0.5)
    floor = features.invariant_kernel_risk_floor(n, d, k)
    assert abs(risks.mean() - floor) < 4.5 * risks.std() / 4000**0.5
    assert risks.std() / 4000**0.5 < 0.01
    measured("equal to it within 4.5 standard errors of 4,000 directions")


# Rademacher complexity.


def largest(h, signs, bound):
    """The supremum for phi'' = 1 and signs a_r half of them +1: rows along the extreme eigenvectors."""
    values = np.linalg.eigvalsh((h * signs[:, None]).T @ h / len(h))
    up, down = max(values[-1], 0), max(-values[0], 0)
    return bound**2 / 2 * ((up**2 + down**2) / 2) ** 0.5


def test_the_supremum_over_weights_is_reached_and_never_passed(rng):
    h, signs, m = rng.standard_normal((40, 5)), rng.choice([-1.0, 1.0], 40), 6
    a = np.repeat([1.0, -1.0], 3)

    def mean_of(w):
        outputs = np.einsum("r,nr->n", a, (h @ w.T) ** 2) / (2 * m**0.5)
        return signs @ outputs / 40

    top = largest(h, signs, 1.3)
    for _ in range(200):
        w = rng.standard_normal((m, 5))
        assert mean_of(w * 1.3 / features.l24_norm(w)) <= top
    values, vectors = np.linalg.eigh((h * signs[:, None]).T @ h / 40)
    sizes = np.repeat([values[-1], -values[0]], 3)  # squared norms of the rows, up to a factor
    w = np.sqrt(sizes)[:, None] * np.repeat(vectors[:, [-1, 0]].T, 3, axis=0)
    assert mean_of(w * 1.3 / features.l24_norm(w)) == pytest.approx(top, rel=1e-12)


@pytest.mark.claim("chen2020hierarchical/B1")
@pytest.mark.parametrize(("n", "k", "decay"), [(400, 20, 0.0), (100, 3, 0.0), (300, 30, 1.0), (20, 60, 0.0)])
def test_the_rademacher_bound_holds_and_is_within_its_constants(n, k, decay, rng, measured):
    h = rng.standard_normal((n, k)) * np.arange(1, k + 1) ** -decay
    found = features.quad_rademacher_bound(h, 1.3)
    exact = np.array([largest(h, rng.choice([-1.0, 1.0], n), 1.3) for _ in range(300)])
    assert exact.mean() + 4.5 * exact.std() / 300**0.5 <= float(found)
    assert float(found) <= 2 * (2 * np.log(2 * min(n, k))) ** 0.5 * exact.mean()
    assert found.value <= found.uniform * (1 + 1e-12)
    measured("above the supremum over weights, averaged over 300 signs, by less than 2 sqrt(2 log 2k)")


@pytest.mark.claim("chen2020hierarchical/B1")
def test_the_rademacher_bound_holds_for_gates_that_differ(rng, measured):
    h, m = rng.standard_normal((200, 6)), 8
    gates = np.maximum(h @ rng.standard_normal((6, m)), 0) / 6
    found = features.quad_rademacher_bound(h, 1.0, width=m, gate_bound=gates.max())
    means = []
    for _ in range(300):
        signs = rng.choice([-1.0, 1.0], 200)
        norms = [np.linalg.norm((h * (signs * g)[:, None]).T @ h / 200, 2) for g in gates.T]
        means.append(max(norms) / 2)
    assert np.mean(means) + 4.5 * np.std(means) / 300**0.5 <= float(found)
    measured("with 8 gates above 1/2 E max_r |S_r|")


def test_the_rademacher_bound_is_its_formula_and_grows_with_the_operator_norm_alone(rng):
    h = rng.standard_normal((50, 4))
    found = features.quad_rademacher_bound(h, 2.0, width=3, gate_bound=0.5)
    assert (found.B_w, found.width, found.gate_bound) == (2.0, 3, 0.5)
    for name in ("value", "uniform"):
        assert "|phi''| <= gate_bound" in found.evidence(name).note
    second = sum(np.outer(row, row) * (row @ row) for row in h) / 50
    assert found.value == pytest.approx(
        2.0**2 * 0.5 / 2 * np.linalg.norm(second, 2) ** 0.5 * (2 * np.log(2 * 4 * 3) / 50) ** 0.5, rel=1e-12
    )
    assert found.operator_norm == pytest.approx(np.linalg.norm(h.T @ h / 50, 2), rel=1e-12)
    assert found.uniform == pytest.approx(
        found.value * found.largest_norm * (found.operator_norm / np.linalg.norm(second, 2)) ** 0.5, rel=1e-12
    )
    wide = features.quad_rademacher_bound(rng.standard_normal((5, 40)), 1.0)
    assert wide.n == 5
    assert found.evidence("value").side == "upper"
    with pytest.raises(ValueError, match="`B_w` is -1"):
        features.quad_rademacher_bound(h, -1.0)
    with pytest.raises(ValueError, match="`width` is 0"):
        features.quad_rademacher_bound(h, 1.0, width=0)
    with pytest.raises(ShapeError):
        features.quad_rademacher_bound(h[0], 1.0)


# Exponents.


def test_powers_of_the_dimension_are_those_of_the_table():
    models = ("NTK-Raw", "NTK-Neural", "Quad-Raw", "Quad-Neural")
    table = {2: (2, 2, 1, 1), 3: (3, 3, 2, 2), 4: (4, 4, 3, 2), 5: (5, 5, 4, 3), 8: (8, 8, 7, 4)}
    for p, expected in table.items():
        assert tuple(features.sample_complexity_exponent(model, p) for model in models) == expected
    with pytest.raises(ValueError, match="`model` is 'NTK'"):
        features.sample_complexity_exponent("NTK", 3)
    with pytest.raises(ValueError, match="`p` is 1"):
        features.sample_complexity_exponent("Quad-Raw", 1)


def test_the_dimension_of_the_harmonics_is_the_inverse_mean_square_of_one():
    """Of the zonal harmonic that is 1 at its pole, over the sphere: the addition theorem."""
    d, k = 7, 3
    harmonic = features.zonal_harmonic(d, k)
    density = lambda t: (1 - t**2 / d) ** ((d - 3) / 2)  # noqa: E731
    edge = d**0.5
    size = integrate.quad(density, -edge, edge)[0]
    mean = integrate.quad(lambda t: (harmonic(t) / harmonic(edge)) ** 2 * density(t), -edge, edge)[0] / size
    assert 1 / mean == pytest.approx(features.harmonic_dim(d, k), rel=1e-10)
