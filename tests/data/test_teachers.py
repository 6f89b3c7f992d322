"""Synthetic targets are the functions they claim to be, normalized and orthogonal as promised."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from widescape import data
from widescape.data.teachers import LINKS

MAKERS = {
    "single_index": data.single_index,
    "low_rank_polynomial": data.low_rank_polynomial,
    "sparse_parity": data.sparse_parity,
    "spherical_harmonic": data.spherical_harmonic,
    "spirals": data.spirals,
}
REGRESSIONS = ("single_index", "low_rank_polynomial", "spherical_harmonic")


def everything(part):
    return np.concatenate([part.x_train, part.x_test]), np.concatenate([part.y_train, part.y_test])


def sphere_rule(dim, nodes=40):
    """Quadrature of the law of one coordinate t of a uniform point on the unit sphere: density (1 - t^2)^((d-3)/2)."""
    t, w = special.roots_jacobi(nodes, (dim - 3) / 2, (dim - 3) / 2)
    return t, w / w.sum()


def normal_rule(nodes=60):
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    return t, w / w.sum()


def standard_errors(sample, mean):
    """How many standard errors the mean of a sample is from where it should be."""
    return abs(sample.mean() - mean) / (sample.std() / len(sample) ** 0.5)


# All of them.


@pytest.mark.parametrize("name", MAKERS)
def test_shapes_names_and_kinds_of_targets(name):
    part = MAKERS[name](7, 5) if name == "spirals" else MAKERS[name](7, 5, 9)
    dim = 2 if name == "spirals" else 9
    assert (part.x_train.shape, part.x_test.shape) == ((7, dim), (5, dim))
    assert (part.y_train.shape, part.y_test.shape) == ((7,), (5,))
    assert part.x_train.dtype == part.x_test.dtype == np.float64
    assert part.name == name
    assert part.source.startswith("synthetic: ")
    if name in REGRESSIONS:
        assert part.num_classes is None
        assert part.y_train.dtype == np.float64
    else:
        assert part.num_classes == len(part.class_names) == 2
        assert part.y_train.dtype.kind == "i"


@pytest.mark.parametrize("name", MAKERS)
def test_the_seed_determines_everything_and_the_default_is_what_load_gives(name):
    make = MAKERS[name]
    assert make(seed=3).fingerprint == make(seed=3).fingerprint
    assert len({make(50, 50, seed=seed).fingerprint for seed in range(8)}) == 8
    assert data.load(name).fingerprint == make().fingerprint
    assert data.load(name).x_train.shape[0] == 1000


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_train": 0}, ValueError, "`n_train` is 0"),
        ({"n_test": 0}, ValueError, "`n_test` is 0"),
        ({"n_test": 2.5}, TypeError, "`n_test` is 2.5"),
        ({"n_train": True}, TypeError, "`n_train`"),
        ({"seed": -1}, ValueError, "`seed` is -1"),
        ({"seed": None}, TypeError, "`seed`"),
    ],
)
def test_sizes_and_seeds_that_make_no_sense_are_refused_by_name(name, options, error, match):
    with pytest.raises(error, match=match):
        MAKERS[name](**options)


@pytest.mark.parametrize("name", [*REGRESSIONS, "spirals"])
@pytest.mark.parametrize("noise", [-0.1, np.nan, np.inf])
def test_noise_that_is_no_deviation_is_refused(name, noise):
    with pytest.raises(ValueError, match="`noise`"):
        MAKERS[name](noise=noise)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_noise_adds_independent_gaussian_numbers_of_its_deviation_to_all_targets(name):
    clean, noisy = (MAKERS[name](20_000, 20_000, 8, noise=noise, seed=1) for noise in (0.0, 0.3))
    assert np.array_equal(clean.x_train, noisy.x_train)
    for part in ("y_train", "y_test"):
        added = getattr(noisy, part) - getattr(clean, part)
        assert standard_errors(added, 0) < 4.5
        assert standard_errors(added**2, 0.09) < 4.5
        assert standard_errors(added**4, 3 * 0.3**4) < 4.5
        assert standard_errors(added * getattr(clean, part), 0) < 4.5


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (data.single_index, {"link": "sigmoid"}),
        (data.low_rank_polynomial, {"inputs": "ball"}),
        (data.low_rank_polynomial, {"degree": 0}),
        (data.low_rank_polynomial, {"rank": 0}),
        (data.low_rank_polynomial, {"rank": 17}),
        (data.sparse_parity, {"sparsity": 0}),
        (data.sparse_parity, {"sparsity": 13}),
        (data.sparse_parity, {"flip": 1.1}),
        (data.sparse_parity, {"flip": -0.1}),
        (data.spherical_harmonic, {"dim": 2}),
        (data.spherical_harmonic, {"degree": 0}),
        (data.spirals, {"turns": 0}),
        (data.spirals, {"num_classes": 1}),
        (data.single_index, {"dim": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_settings_outside_of_their_range_are_refused_by_name(make, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` is {next(iter(options.values()))!r}"):
        make(**options)


# One direction.


def test_the_third_hermite_function_has_unit_second_moment_and_is_orthogonal_to_lower_degrees():
    u, w = normal_rule()
    y = LINKS["hermite3"](u)
    assert abs(w @ y**2 - 1) < 1e-12
    for degree in range(3):
        assert abs(w @ (y * u**degree)) < 1e-12
    assert w @ (y * u**3) > 1


@pytest.mark.parametrize("link", LINKS)
def test_a_single_index_target_is_its_link_of_one_unit_direction(link):
    part = data.single_index(400, 300, 6, link=link, seed=2)
    x, y = everything(part)
    inverse = {"tanh": np.arctanh, "relu": lambda v: np.where(v > 0, v, np.nan)}
    formulas = {"sin": np.sin, "square": lambda u: u**2, "hermite3": lambda u: (u**3 - 3 * u) / math.sqrt(6)}
    if link in inverse:
        u = inverse[link](y)
        known = np.isfinite(u)
        beta, *_ = np.linalg.lstsq(x[known], u[known])
    else:  # the direction is where the second moments of y-weighted inputs stand out, or the mean does
        weights = y if link == "sin" else None
        if weights is not None:
            start = x.T @ weights
        elif link == "square":
            start = np.linalg.eigh(x.T @ (x * y[:, None]))[1][:, -1]
        else:
            start = np.einsum("n,ni,nj,nj->i", y, x, x, x) - 8 * (x.T @ y)
        beta = _refined(x, y, formulas[link], start / np.linalg.norm(start))
    assert abs(np.linalg.norm(beta) - 1) < 1e-8
    expected = {"tanh": np.tanh, "relu": lambda u: np.maximum(u, 0), **formulas}[link](x @ beta)
    assert np.allclose(y, expected, rtol=0, atol=1e-6)


def _refined(x, y, function, start):
    from scipy.optimize import least_squares

    rng = np.random.default_rng(0)
    starts = [start, -start, *rng.standard_normal((20, len(start)))]
    results = (
        least_squares(lambda b: function(x @ b) - y, s / np.linalg.norm(s), xtol=1e-15, ftol=1e-15, gtol=1e-15)
        for s in starts
    )
    return next(result.x for result in results if result.cost < 1e-12)


def test_inputs_of_a_single_index_are_standard_normal():
    x, _ = everything(data.single_index(20_000, 20_000, 4, seed=5))
    for i, j in itertools.combinations_with_replacement(range(4), 2):
        assert standard_errors(x[:, i] * x[:, j], float(i == j)) < 4.5
    assert standard_errors(x.ravel() ** 4, 3) < 4.5


# Polynomials.


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_each_term_of_the_polynomial_has_unit_second_moment_for_normal_inputs(degree):
    """y = +-(beta . x)^k/c is fitted from samples of known inputs, and E[(u^k/c)^2] is a quadrature."""
    x, y = everything(data.low_rank_polynomial(60, 60, 1, degree=degree, rank=1, seed=1))
    factor = np.abs(y / x[:, 0] ** degree)  # in one dimension beta is a sign
    assert np.ptp(factor) < 1e-12 * factor.max()
    u, w = normal_rule()
    assert abs(w @ (factor[0] * u**degree) ** 2 - 1) < 1e-10


def test_the_polynomial_of_degree_two_has_rank_many_eigenvalues_of_one_size():
    for seed, rank in enumerate((1, 2, 4, 6)):
        x, y = everything(data.low_rank_polynomial(300, 300, 6, degree=2, rank=rank, seed=seed))
        i, j = np.triu_indices(6)
        features = x[:, i] * x[:, j]
        coefficients, *_ = np.linalg.lstsq(features, y)
        assert np.allclose(features @ coefficients, y, rtol=0, atol=1e-9)
        form = np.zeros((6, 6))
        form[i, j] += coefficients / 2
        form[j, i] += coefficients / 2
        sizes = np.sort(np.abs(np.linalg.eigvalsh(form)))
        expected = np.sort([1 / math.sqrt(3)] * rank + [0.0] * (6 - rank))
        assert np.allclose(sizes, expected, rtol=0, atol=1e-9)


def test_both_signs_of_terms_occur():
    means = {
        round(float(np.sign(data.low_rank_polynomial(9, 1, 3, rank=1, seed=seed).y_train[0]))) for seed in range(9)
    }
    assert means == {-1, 1}


@pytest.mark.parametrize("dim", [3, 16])
def test_inputs_are_normal_or_on_the_sphere_or_signs(dim):
    kinds = ("gaussian", "sphere", "cube")
    gaussian, sphere, cube = (everything(data.low_rank_polynomial(9000, 9000, dim, inputs=kind))[0] for kind in kinds)
    assert np.allclose(np.linalg.norm(sphere, axis=1), dim**0.5, rtol=1e-12)
    assert set(np.unique(cube)) == {-1.0, 1.0}
    assert np.ptp(np.linalg.norm(gaussian, axis=1)) > 1
    for x in (gaussian, sphere, cube):
        assert standard_errors(x[:, 0], 0) < 4.5
        assert standard_errors(x[:, 0] * x[:, 1], 0) < 4.5
    for x in (gaussian, sphere):
        fourth = 3.0 if x is gaussian else 3 * dim / (dim + 2)
        assert standard_errors(x[:, 0] ** 2, 1) < 4.5
        assert standard_errors(x[:, 0] ** 4, fourth) < 4.5


# Parities.


@given(st.integers(1, 7), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_a_parity_changes_with_exactly_its_coordinates(sparsity, seed):
    """All 2^7 inputs occur, so that flipping a coordinate leads from one known label to another."""
    x, y = everything(data.sparse_parity(3000, 500, 7, sparsity=sparsity, seed=seed))
    codes = ((x > 0) @ (1 << np.arange(7))).astype(int)
    label = np.full(128, -1)
    label[codes] = y
    assert (label >= 0).all()
    assert np.array_equal(label[codes], y)  # a function of x
    changed = [label != label[np.arange(128) ^ (1 << i)] for i in range(7)]
    relevant = [bool(own.all()) for own in changed]
    assert all(own.all() or not own.any() for own in changed)
    assert sum(relevant) == sparsity
    assert label[127] == 1  # the product of ones is positive
    product = x[:, relevant].prod(axis=1)
    assert np.array_equal(y, (product > 0).astype(int))


def test_labels_are_exchanged_with_the_probability_asked_for():
    for flip in (0.0, 0.1, 1.0):
        clean, noisy = (data.sparse_parity(20_000, 1, flip=p, seed=4) for p in (0.0, flip))
        assert np.array_equal(clean.x_train, noisy.x_train)
        changed = (clean.y_train != noisy.y_train).astype(float)
        if flip in (0.0, 1.0):
            assert (changed == flip).all()
        else:
            assert standard_errors(changed, flip) < 4.5


def test_coordinates_of_parities_differ_between_seeds():
    assert len({data.sparse_parity(1, 1, seed=seed).source for seed in range(10)}) > 5


# Harmonics.


@pytest.mark.parametrize("dim", [3, 4, 10, 16, 57])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7])
def test_a_zonal_harmonic_has_unit_second_moment_and_is_orthogonal_to_lower_degrees(dim, degree):
    t, w = sphere_rule(dim)
    y = data.zonal_harmonic(t, dim, degree)
    assert abs(w @ y**2 - 1) < 1e-10
    for lower in range(degree):
        power = t**lower / math.sqrt(w @ t ** (2 * lower))
        assert abs(w @ (y * power)) < 1e-10
    assert data.zonal_harmonic(np.array([1.0]), dim, degree)[0] > 0


CLOSED_FORMS = {
    2: lambda s, d: s**2 - 1,
    3: lambda s, d: s**3 - 3 * d / (d + 2) * s,
    4: lambda s, d: s**4 - 6 * d / (d + 4) * s**2 + 3 * d**2 / ((d + 2) * (d + 4)),
}


@pytest.mark.parametrize("dim", [3, 10, 16])
@pytest.mark.parametrize("degree", CLOSED_FORMS)
def test_a_zonal_harmonic_on_the_sphere_of_radius_root_d_is_its_closed_form(dim, degree):
    t, w = sphere_rule(dim)
    closed = CLOSED_FORMS[degree]
    variance = w @ closed(math.sqrt(dim) * t, dim) ** 2
    grid = np.linspace(-1, 1, 41)
    expected = closed(math.sqrt(dim) * grid, dim) / math.sqrt(variance)
    assert np.allclose(data.zonal_harmonic(grid, dim, degree), expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_the_variance_of_the_form_of_degree_four_in_sixteen_dimensions_is_8_79192():
    t, w = sphere_rule(16)
    assert abs(w @ CLOSED_FORMS[4](4 * t, 16) ** 2 - 8.79192) < 5e-6
    factor = CLOSED_FORMS[4](4 * t, 16) / data.zonal_harmonic(t, 16, 4)
    assert np.allclose(factor**2, 8.79192, rtol=1e-6)


def test_in_three_dimensions_zonal_harmonics_are_legendre_polynomials():
    t = np.linspace(-1, 1, 31)
    for degree in range(1, 9):
        expected = math.sqrt(2 * degree + 1) * special.eval_legendre(degree, t)
        assert np.allclose(data.zonal_harmonic(t, 3, degree), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dim", "degree"), [(10, 3), (4, 2), (3, 4)])
def test_targets_are_a_zonal_harmonic_of_one_direction_on_the_sphere(dim, degree):
    part = data.spherical_harmonic(20_000, 20_000, dim, degree=degree, seed=3)
    x, y = everything(part)
    assert np.allclose(np.linalg.norm(x, axis=1), dim**0.5, rtol=1e-12)
    assert standard_errors(y**2, 1) < 4.5
    assert standard_errors(y, 0) < 4.5
    for i, j in itertools.combinations_with_replacement(range(dim), 2):
        assert standard_errors(y * x[:, i], 0) < 4.5
        if degree > 2:
            assert standard_errors(y * x[:, i] * x[:, j], 0) < 4.5
    maximum = data.zonal_harmonic(np.array([1.0]), dim, degree)[0]
    assert np.abs(y).max() <= maximum * (1 + 1e-12)


def test_the_target_of_degree_one_is_linear_with_a_unit_direction():
    x, y = everything(data.spherical_harmonic(50, 50, 5, degree=1))
    beta, *_ = np.linalg.lstsq(x, y)
    assert np.allclose(x @ beta, y, rtol=0, atol=1e-12)
    assert abs(np.linalg.norm(beta) - 1) < 1e-12


def test_the_target_of_degree_two_is_its_quadratic_form():
    """y = c (d (beta . x)^2/d - 1): a form with one large eigenvalue that fits exactly."""
    dim = 5
    x, y = everything(data.spherical_harmonic(100, 100, dim, degree=2))
    i, j = np.triu_indices(dim)
    coefficients, *_ = np.linalg.lstsq(x[:, i] * x[:, j], y)
    form = np.zeros((dim, dim))
    form[i, j] += coefficients / 2
    form[j, i] += coefficients / 2
    values, vectors = np.linalg.eigh(form)
    beta = vectors[:, -1]
    t, w = sphere_rule(dim)
    norm = math.sqrt(w @ (dim * t**2 - 1) ** 2)
    assert np.allclose(((x @ beta) ** 2 - 1) / norm, y, rtol=0, atol=1e-10)
    assert np.ptp(values[:-1]) < 1e-10


@pytest.mark.parametrize(("dim", "degree", "match"), [(2, 3, "`dim` is 2"), (5, -1, "`degree` is -1")])
def test_there_are_no_zonal_harmonics_in_the_plane_or_of_negative_degree(dim, degree, match):
    with pytest.raises(ValueError, match=match):
        data.zonal_harmonic(np.zeros(1), dim, degree)


# Spirals.


@given(st.integers(2, 6), st.floats(0.2, 4), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_without_noise_points_lie_on_the_spiral_of_their_class(num_classes, turns, seed):
    part = data.spirals(150, 50, turns=turns, noise=0.0, num_classes=num_classes, seed=seed)
    x, y = everything(part)
    radius = np.hypot(x[:, 0], x[:, 1])
    assert (radius <= 1).all()
    turned = np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) - turns * radius - y / num_classes
    assert np.abs(turned - np.rint(turned)).max() < 1e-9
    assert set(np.unique(y)) <= set(range(num_classes))
    assert part.num_classes == len(part.class_names) == num_classes


def test_classes_of_spirals_are_equally_likely_and_noise_has_its_deviation():
    clean, noisy = (data.spirals(30_000, 1, noise=noise, num_classes=3, seed=2) for noise in (0.0, 0.2))
    assert np.array_equal(clean.y_train, noisy.y_train)
    for own in range(3):
        assert standard_errors((clean.y_train == own).astype(float), 1 / 3) < 4.5
    added = noisy.x_train - clean.x_train
    for axis in range(2):
        assert standard_errors(added[:, axis], 0) < 4.5
        assert standard_errors(added[:, axis] ** 2, 0.04) < 4.5
    assert standard_errors(added[:, 0] * added[:, 1], 0) < 4.5
