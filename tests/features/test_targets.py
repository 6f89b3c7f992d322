"""Polynomial problems: the functions they claim to be, their standard deviations, and how they draw."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widescape import features
from widescape.core.errors import ShapeError
from widescape.features import LowRankPolynomial

KINDS, DISTS = ("monomial", "harmonic"), ("sphere", "gaussian", "cube")


def standard_errors(sample, mean):
    return abs(sample.mean() - mean) / (sample.std() / len(sample) ** 0.5)


@pytest.mark.parametrize(("kind", "dist"), list(itertools.product(KINDS, DISTS)))
@pytest.mark.parametrize(("d", "p", "r"), [(3, 1, 1), (6, 2, 2), (5, 3, 1), (6, 4, 3)])
def test_targets_have_unit_standard_deviation(kind, dist, d, p, r):
    problem = LowRankPolynomial(d, p, r, kind, dist)
    f = problem.target(3)
    values = f(problem.unlabeled(40_000, seed=3))
    centered = values - values.mean()
    assert standard_errors(centered**2, 1) < 4.5
    if dist != "cube":
        assert f.std == problem.std


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "p", "r"), [(5, 3, 2), (7, 4, 1), (6, 2, 3), (4, 6, 2)])
def test_on_the_cube_the_standard_deviation_is_that_of_all_its_corners(kind, d, p, r):
    f = LowRankPolynomial(d, p, r, kind, "cube").target(1)
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=d)))
    assert f(corners).std() == pytest.approx(1, rel=1e-11)


@pytest.mark.parametrize(("p", "variance"), [(1, 1), (2, 2), (3, 15), (4, 96), (5, 945)])
def test_the_variance_of_gaussian_monomials_is_the_closed_form(p, variance):
    for r in (1, 3):
        assert LowRankPolynomial(4, p, r, "monomial", "gaussian").std ** 2 == pytest.approx(r * variance, rel=1e-13)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_the_variance_of_quadratic_monomials_on_the_sphere_is_that_of_the_form(r):
    """Var x^T A x = 2 d/(d + 2) (|A|_F^2 - (tr A)^2/d) for x uniform on the sphere of radius sqrt(d)."""
    d = 5
    signs = np.array([1, -1, 1])[:r]
    expected = 2 * d / (d + 2) * (r - signs.sum() ** 2 / d)
    for kind in KINDS:
        assert LowRankPolynomial(d, 2, r, kind).std ** 2 == pytest.approx(expected, rel=1e-12)


def test_the_target_is_the_sum_of_its_terms_with_signs_in_turn():
    problem = LowRankPolynomial(6, 3, 4, "harmonic")
    f = problem.target(2)
    np.testing.assert_allclose(f.beta.T @ f.beta, np.eye(4), atol=1e-14)
    np.testing.assert_array_equal(f.alpha, [1, -1, 1, -1])
    x = problem.unlabeled(20, seed=0)
    harmonic = features.zonal_harmonic(6, 3)
    terms = [sign * harmonic(x @ beta) for sign, beta in zip(f.alpha, f.beta.T, strict=True)]
    np.testing.assert_allclose(f(x), sum(terms) / problem.std, rtol=1e-12, atol=1e-13)


def test_a_harmonic_target_of_one_direction_is_orthogonal_to_lower_degrees():
    problem = LowRankPolynomial(4, 3, kind="harmonic")
    x, y = problem.sample(40_000, seed=1)
    assert standard_errors(y, 0) < 4.5
    for i, j in itertools.combinations_with_replacement(range(4), 2):
        assert standard_errors(y * x[:, i], 0) < 4.5
        assert standard_errors(y * x[:, i] * x[:, j], 0) < 4.5


@pytest.mark.claim("chen2020hierarchical/P10")
def test_three_quarters_of_the_variance_of_gaussian_fourth_powers_are_quadratic(measured):
    problem = LowRankPolynomial(3, 4, 1, "monomial", "gaussian")
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights /= weights.sum()
    f = problem.target(0)
    values = f(nodes[:, None] * f.beta[:, 0])
    share = (weights @ (values * (nodes**2 - 1))) ** 2 / 2  # He_2 has second moment 2
    assert share == pytest.approx(0.75, rel=1e-12)
    assert abs(weights @ (values - weights @ values) ** 2 - 1) < 1e-12
    measured("75 %")


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 40),
    more=st.integers(0, 400),
    seed=st.integers(0, 2**32 - 1),
    problem=st.sampled_from(
        [
            LowRankPolynomial(5, 3, 2, dist="sphere", noise=0.3),
            LowRankPolynomial(16, 4, 1, "harmonic"),
            LowRankPolynomial(3, 2, 1, dist="gaussian"),
            LowRankPolynomial(7, 2, 3, dist="cube", noise=1.0),
        ]
    ),
)
def test_the_first_rows_of_a_larger_draw_are_the_smaller_draw(n, more, seed, problem):
    x, y = problem.sample(n, seed=seed)
    larger_x, larger_y = problem.sample(n + more, seed=seed)
    np.testing.assert_array_equal(larger_x[:n], x)
    np.testing.assert_array_equal(larger_y[:n], y)
    np.testing.assert_array_equal(problem.unlabeled(n + more, seed=seed)[:n], problem.unlabeled(n, seed=seed))


def test_parts_share_the_target_and_are_otherwise_independent():
    problem = LowRankPolynomial(4, 2, 1, noise=0.5)
    f = problem.target(7)
    parts = {name: problem.sample(20_000, seed=7, part=name) for name in ("train", "validation", "test")}
    inputs = {**{name: x for name, (x, _) in parts.items()}, "unlabeled": problem.unlabeled(20_000, seed=7)}
    for first, second in itertools.combinations(inputs.values(), 2):
        for i, j in itertools.product(range(4), repeat=2):
            assert standard_errors(first[:, i] * second[:, j], 0) < 4.5
    noises = [y - f(x) for x, y in parts.values()]
    for noise in noises:
        assert standard_errors(noise, 0) < 4.5
        assert standard_errors(noise**2, 0.25) < 4.5
    for first, second in itertools.combinations(noises, 2):
        assert standard_errors(first * second, 0) < 4.5
    for noise in noises:
        assert standard_errors(noise * parts["train"][0].ravel()[:20_000], 0) < 4.5  # not the inputs' own numbers
    other = problem.target(8).beta
    assert np.abs(other.T @ f.beta).max() < 0.999


def test_problems_of_different_dimensions_share_no_random_numbers():
    first, second = (LowRankPolynomial(d, 2, dist="gaussian").unlabeled(3, seed=0).ravel() for d in (4, 5))
    assert not set(first) & set(second)


def test_inputs_are_those_of_the_distribution():
    sphere, gaussian, cube = (LowRankPolynomial(3, 1, dist=dist).unlabeled(20_000, seed=0) for dist in DISTS)
    np.testing.assert_allclose(np.linalg.norm(sphere, axis=1), 3**0.5, rtol=1e-14)
    assert set(np.unique(cube)) == {-1.0, 1.0}
    assert standard_errors(gaussian.ravel() ** 4, 3) < 4.5
    for x in (sphere, gaussian, cube):
        assert x.dtype == np.float64
        assert standard_errors(x.ravel(), 0) < 4.5


def test_problems_are_specifications():
    problem = LowRankPolynomial(5, 2, noise=1)
    assert pickle.loads(pickle.dumps(problem)) == problem == LowRankPolynomial(5, 2, noise=1.0)
    assert len({problem, LowRankPolynomial(5, 2, noise=1.0)}) == 1
    assert repr(problem) == "LowRankPolynomial(d=5, p=2, r=1, kind='monomial', dist='sphere', noise=1.0)"


def test_one_call_draws_the_same_as_the_problem():
    x, y, info = features.make_low_rank_polynomial(30, 5, 3, 2, kind="harmonic", noise=0.1, seed=4)
    problem = LowRankPolynomial(5, 3, 2, "harmonic", noise=0.1)
    expected = problem.sample(30, seed=4)
    np.testing.assert_array_equal(x, expected[0])
    np.testing.assert_array_equal(y, expected[1])
    assert info["beta"].shape == (5, 2)
    assert info["std"] == problem.std
    np.testing.assert_array_equal(info["f"](x), problem.target(4)(x))


def test_only_one_harmonic_on_the_sphere_has_a_floor():
    problem = LowRankPolynomial(16, 4, kind="harmonic")
    assert problem.risk_floor(935) == 0.75
    np.testing.assert_allclose(problem.risk_floor(np.array([0, 374])), [1.0, 0.9])
    for other in (
        LowRankPolynomial(16, 4),
        LowRankPolynomial(16, 4, 2, "harmonic"),
        LowRankPolynomial(16, 4, 1, "harmonic", "gaussian"),
    ):
        assert other.risk_floor(10) is None


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((3, 2, 4), ValueError, "`r` is 4"),
        ((0, 2), ValueError, "`d` is 0"),
        ((3, 0), ValueError, "`p` is 0"),
        ((3, 2.0), TypeError, "`p` is 2.0"),
        ((3, 2, 1, "hermite"), ValueError, "`kind` is 'hermite'"),
        ((3, 2, 1, "monomial", "ball"), ValueError, "`dist` is 'ball'"),
        ((3, 2, 1, "monomial", "sphere", -0.1), ValueError, "`noise` is -0.1"),
        ((2, 2, 1, "harmonic"), ValueError, "`d` is 2; zonal harmonics"),
        ((1, 2), ValueError, "constant"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(arguments, error, match):
    with pytest.raises(error, match=match):
        LowRankPolynomial(*arguments)


def test_draws_refuse_what_they_cannot_do():
    problem = LowRankPolynomial(4, 2)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"`seed` is {seed}"):
            problem.sample(3, seed=seed)
    with pytest.raises(ValueError, match="`n` is 0"):
        problem.unlabeled(0, seed=0)
    with pytest.raises(ShapeError, match=r"\(n, 4\)"):
        problem.target(0)(np.zeros((2, 3)))
    cube = LowRankPolynomial(4, 2, dist="cube")
    with pytest.raises(ValueError, match=r"target\(seed\)\.std"):
        _ = cube.std
    with pytest.raises(ValueError, match="constant"):
        LowRankPolynomial(1, 2, dist="cube").target(0)
