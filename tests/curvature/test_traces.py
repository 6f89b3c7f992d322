"""Traces from products: exact where they must be, unbiased, and with honest standard errors."""

import jax
import numpy as np
import pytest

from specimens import symmetric
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature.traces import TraceEstimate, trace

METHODS = ("hutch++", "hutchinson")


def many(matrix, method, budget, count):
    """Estimates, and their errors in units of their standard errors, over many keys."""
    found = [
        trace(lambda v: matrix @ v, len(matrix), method, budget=budget, key=jax.random.key(seed))
        for seed in range(count)
    ]
    values, errors = np.array([f.value for f in found]), np.array([f.stderr for f in found])
    return values, errors, (values - np.trace(matrix)) / errors


@pytest.mark.claim("liu2020loss/C9")
def test_hutch_plus_plus_is_exact_on_rank_five(rng, measured):
    factor = rng.normal(size=(200, 5))
    H = factor @ factor.T
    found = trace(lambda v: H @ v, 200, budget=18)
    error = abs(found.value / np.trace(H) - 1)
    measured(f"Hutch++ on rank 5 with 18 products: relative error {error:.0e}")
    assert error < 1e-8
    assert found.stderr < 1e-8 * np.trace(H)
    assert (found.num_products, found.method) == (18, "hutch++")


@pytest.mark.parametrize("rank", [6, 7])
def test_hutch_plus_plus_is_exact_up_to_a_third_of_the_budget_and_not_beyond(rng, rank):
    H = symmetric(rng, 100, [1.0] * rank + [0.0] * (100 - rank))
    found = trace(lambda v: H @ v, 100, budget=20)
    assert (abs(found.value - rank) < 1e-12) == (rank == 6)
    assert (found.stderr < 1e-12) == (rank == 6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 5, 60])
def test_a_budget_of_the_dimension_sums_the_diagonal(rng, method, dim):
    H = symmetric(rng, dim)
    found = trace(lambda v: H @ v, dim, method)
    assert found.value == pytest.approx(np.trace(H), abs=1e-13)
    assert (found.stderr, found.num_products, found.method) == (0.0, dim, "exact")
    assert found.evidence("value").kind == "exact"
    assert trace(lambda v: v, 61, method).evidence("value").kind == "estimate"


def test_signs_see_a_diagonal_operator_exactly(rng):
    d = rng.normal(size=100)
    found = trace(lambda v: d * v, 100, "hutchinson", budget=10)
    assert found.value == pytest.approx(d.sum(), rel=1e-13)
    assert found.stderr < 1e-14


@pytest.mark.parametrize(("method", "freedom"), [("hutch++", 19), ("hutchinson", 59)])
def test_errors_are_of_the_size_of_the_standard_error(rng, method, freedom):
    H = symmetric(rng, 150)
    *_, scores = many(H, method, 60, 400)
    assert abs(scores.mean()) < 4 * scores.std() / 20
    squares = scores**2  # of Student's distribution
    assert abs(squares.mean() - freedom / (freedom - 2)) < 4 * squares.std() / 20


def test_the_variance_of_hutchinson_is_twice_the_squared_off_diagonal(rng):
    H = symmetric(rng, 80)
    values, errors, _ = many(H, "hutchinson", 20, 300)
    variance = 2 * (np.sum(H**2) - np.sum(np.diag(H) ** 2)) / 20
    for samples in (errors**2, (values - np.trace(H)) ** 2):
        assert abs(samples.mean() - variance) < 4 * samples.std() / 300**0.5


def test_hutch_plus_plus_is_better_where_the_spectrum_decays(rng):
    H = symmetric(rng, 300, 1.0 / np.arange(1, 301) ** 2)
    spread = [np.std(many(H, method, 60, 40)[0] - np.trace(H)) for method in METHODS]
    assert spread[0] < 0.1 * spread[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_zero_operator_has_trace_zero(method):
    found = trace(np.zeros_like, 100, method)
    assert (found.value, found.stderr) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-170, 1e-150, 1e150, 1e170])
def test_value_and_error_scale_with_the_operator(rng, method, scale):
    H = symmetric(rng, 100)
    plain, scaled = (trace(lambda v, s=s: s * (H @ v), 100, method, budget=30) for s in (1.0, scale))
    assert scaled.value / scale == pytest.approx(plain.value, rel=1e-11)
    assert scaled.stderr / scale == pytest.approx(plain.stderr, rel=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [6, 7, 8, 31])
def test_the_budget_is_spent_and_no_more(method, budget):
    calls = []
    found = trace(lambda v: calls.append(0) or v, 50, method, budget=budget)
    assert len(calls) == found.num_products == budget


@pytest.mark.parametrize("method", METHODS)
def test_an_operator_may_overwrite_its_argument_and_reuse_its_memory(rng, method):
    H, memory = symmetric(rng, 80), np.empty(80)

    def careless(v):
        memory[:] = H @ v
        v *= np.nan
        return memory

    assert trace(careless, 80, method) == trace(lambda v: H @ v, 80, method)


def test_a_key_decides_the_signs(rng):
    H = symmetric(rng, 80)
    found = [trace(lambda v: H @ v, 80, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] == trace(lambda v: H @ v, 80)
    assert found[0] != found[2]


def test_an_estimate_prints_its_error_and_loads_bit_for_bit(rng, tmp_path):
    H = symmetric(rng, 80)
    found = trace(lambda v: H @ v, 80)
    assert TraceEstimate.load(found.save(tmp_path / "trace.zip")) == found
    assert "±" in str(found)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"budget": 5}, ValueError, "`budget` is 5; it must be at least 6"),
        ({"method": "xtrace"}, ValueError, "`method` is 'xtrace'; choose one of 'hutch\\+\\+', 'hutchinson'"),
        ({"dim": -1}, ValueError, "`dim` is -1"),
        ({"mv": lambda v: v[0]}, ShapeError, r"returned shape \(\)"),
        ({"mv": lambda v: v + np.inf}, NonFiniteError, "NaN or infinite"),
    ],
)
def test_the_trace_refuses(arguments, error, words):
    given = {"mv": lambda v: v, "dim": 100} | arguments
    with pytest.raises(error, match=words):
        trace(**given)
