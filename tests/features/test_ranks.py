"""Ranks of features: closed forms, what they ignore, their penalty, and their fall over rounds of regression."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg

from widescape import features
from widescape.core.errors import DegenerateWarning, DtypeError, NonFiniteError, ShapeError
from widescape.core.result import Result
from widescape.features.rank_collapse import _geometric_sum

RANKS = (features.stable_rank, features.effective_rank, features.participation_ratio, features.srank)
ROUNDS = (1, 2, 5, 10, 50, 200, 1000, 5000)

matrices = st.sampled_from([(1, 1), (4, 3), (3, 6), (8, 8)]).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))
).filter(np.any)  # fmt: skip


def rotation(rng, n):
    return linalg.qr(rng.normal(size=(n, n)))[0]


# Closed forms.


@pytest.mark.claim("kornblith2019similarity/C5")
def test_three_ranks_of_the_singular_values_3_and_1(rng):
    a = rotation(rng, 2) @ np.diag([3.0, 1.0]) @ rotation(rng, 5)[:2]
    assert features.stable_rank(a) == pytest.approx(10 / 9, rel=1e-13)
    assert features.effective_rank(a) == pytest.approx(4 / 3**0.75, rel=1e-13)  # exp(log 4 - 3/4 log 3)
    assert features.participation_ratio(a) == pytest.approx(100 / 82, rel=1e-13)
    assert [round(rank(a), 4) for rank in RANKS[:3]] == [1.1111, 1.7548, 1.2195]


@pytest.mark.claim("kumar2021implicit/C1")
def test_srank_of_the_identity_and_of_one_direction():
    assert (features.srank(np.eye(10)), features.srank(np.eye(10), 0.1)) == (10, 9)
    assert features.srank(np.diag([1.0, 0.0, 0.0])) == 1
    assert features.srank(np.diag([0.5, 0.3, 0.2]), 0.2) == 2  # the share is met with equality


@pytest.mark.parametrize("n", [1, 7, 300])
def test_all_ranks_of_an_orthogonal_matrix_are_its_order(rng, n):
    q = rotation(rng, n)
    assert [rank(q) for rank in (*RANKS[:3], features.numerical_rank)] == pytest.approx([n] * 4, rel=1e-12)


# What they ignore, and how they compare.


@pytest.mark.claim("kumar2021implicit/I1")
@pytest.mark.parametrize("scale", [7.0, 1e250, 1e-250])
def test_scale_and_orthogonal_maps_on_either_side_change_no_rank(rng, scale):
    a = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 7)) + 0.01 * rng.normal(size=(12, 7))
    moved = scale * (rotation(rng, 12) @ a @ rotation(rng, 7))
    for rank in (*RANKS, features.numerical_rank):
        assert rank(moved) == pytest.approx(rank(a), rel=1e-11)


@pytest.mark.claim("kumar2021implicit/I2")
@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0.001, 0.9))
def test_ranks_lie_between_one_and_the_numerical_rank(a, delta):
    top = features.numerical_rank(a)
    assert top == np.linalg.matrix_rank(a)
    assert 1 <= features.srank(a, delta) <= top
    smooth = [rank(a) for rank in RANKS[:3]]
    assert min(smooth) >= 1 - 1e-12
    assert max(smooth) <= top + 1e-9


@pytest.mark.claim("kumar2021implicit/I3")
@settings(max_examples=30, deadline=None)
@given(matrices)
def test_srank_does_not_increase_with_the_share_left_out(a):
    found = [features.srank(a, delta) for delta in (1e-6, 0.01, 0.05, 0.1, 0.3, 0.5, 0.99)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 1


@pytest.mark.claim("kumar2021implicit/P3")
def test_ranks_are_reported_centered_and_not_and_depend_on_the_number_of_samples(rng):
    phi = np.maximum(rng.normal(size=(400, 30)) + 3, 0)
    report = features.rank_report(phi, 0.1)
    away = phi - phi.mean(axis=0)
    assert report.srank == features.srank(phi, 0.1) < report.srank_centered == features.srank(away, 0.1)
    assert report.srank_centered == features.srank(phi, 0.1, center=True)
    assert report.stable_rank == features.stable_rank(phi) < 2 < report.stable_rank_centered
    assert report.effective_rank_centered == pytest.approx(features.effective_rank(away), rel=1e-10)
    assert report.participation_ratio_centered == pytest.approx(features.participation_ratio(away), rel=1e-10)
    assert (report.numerical_rank, report.numerical_rank_centered) == (30, 30)
    np.testing.assert_allclose(report.singular_values, linalg.svdvals(phi), rtol=1e-11)
    few = features.rank_report(phi[:20], 0.1)
    assert few.srank_centered < report.srank_centered
    assert (few.numerical_rank, few.numerical_rank_centered) == (20, 19)


def test_the_numerical_rank_knows_the_precision_that_features_came_in(rng):
    a = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, 20))).astype("float32")
    assert features.numerical_rank(a) == 3
    assert features.numerical_rank(a.astype("float64")) > 3  # the rounding errors of single precision count
    assert features.numerical_rank(a.astype("float64"), rtol=1e-5) == 3
    assert features.rank_report(jnp.asarray(a)).numerical_rank == 3


def test_a_matrix_of_zeros_has_rank_zero_with_a_warning():
    for rank in (*RANKS, features.numerical_rank):
        with pytest.warns(DegenerateWarning, match="is zero"):
            assert rank(np.zeros((4, 3))) == 0
    with pytest.warns(DegenerateWarning, match="`phi` is constant"):
        assert features.srank(np.full((4, 3), 0.1), center=True) == 0
    with pytest.warns(DegenerateWarning, match="`phi` is constant"):
        report = features.rank_report(np.full((4, 3), 0.1))
    assert (report.srank, report.numerical_rank) == (1, 1)
    assert (report.srank_centered, report.stable_rank_centered, report.numerical_rank_centered) == (0, 0, 0)
    with pytest.warns(DegenerateWarning, match="`phi` is zero"):
        assert features.rank_report(np.zeros((4, 3))).charts() == ()


def test_what_has_no_rank_is_refused():
    for rank in (*RANKS, features.numerical_rank, features.rank_report, features.rank_penalty):
        with pytest.raises(ShapeError, match="shape"):
            rank(np.ones(3))
        with pytest.raises(ValueError, match="NaN"):
            rank(np.full((2, 2), np.nan))
        with pytest.raises(DtypeError, match="dtype"):
            rank(np.eye(2, dtype=int))
    for delta in (0.0, 1.0, -0.1):
        for call in (features.srank, features.rank_report):
            with pytest.raises(ValueError, match="delta"):
                call(np.eye(2), delta)
    with pytest.raises(ValueError, match="rtol"):
        features.numerical_rank(np.eye(2), rtol=1.0)


# The penalty.


def penalty_and_gradient(phi):
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(features.rank_penalty)(jnp.asarray(phi))
        return float(value), np.asarray(gradient)


@pytest.mark.claim("kumar2021implicit/I5")
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_the_penalty_is_not_negative_and_its_gradient_is_by_the_extremes(rng, shape):
    phi = rng.normal(size=shape)
    u, s, v = np.linalg.svd(phi, full_matrices=False)
    value, gradient = penalty_and_gradient(phi)
    assert value == pytest.approx(s[0] ** 2 - s[-1] ** 2, rel=1e-12)
    expected = 2 * s[0] * np.outer(u[:, 0], v[0]) - 2 * s[-1] * np.outer(u[:, -1], v[-1])
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    step = rng.normal(size=shape) * 1e-6
    ends = [float(features.rank_penalty(phi + sign * step)) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float(np.sum(gradient * step)), rel=1e-6)
    assert penalty_and_gradient(rotation(rng, 4))[0] == pytest.approx(0, abs=1e-14)


@pytest.mark.claim("kumar2021implicit/P1")
def test_interior_singular_values_that_repeat_leave_the_gradient_exact(rng):
    left, right = rotation(rng, 7), rotation(rng, 5)
    s = np.array([3.0, 2.0, 2.0, 2.0, 0.5])
    _, gradient = penalty_and_gradient(left[:, :5] * s @ right)
    expected = 6 * np.outer(left[:, 0], right[0]) - np.outer(left[:, 4], right[4])
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


@pytest.mark.claim("kumar2021implicit/P2")
def test_the_penalty_falls_with_the_scale_of_features_down_to_zero(rng):
    phi = rng.normal(size=(6, 3))
    value, gradient = penalty_and_gradient(phi)
    assert float(np.sum(gradient * phi)) == pytest.approx(2 * value, rel=1e-12)  # Euler: of degree two
    assert float(features.rank_penalty(0.1 * phi)) == pytest.approx(0.01 * value, rel=1e-12)
    value, gradient = penalty_and_gradient(np.zeros((6, 3)))
    assert value == 0
    assert not gradient.any()


def test_the_penalty_keeps_its_precision_and_can_be_traced(rng):
    phi = rng.normal(size=(4, 3)).astype("float32")
    found = jax.jit(features.rank_penalty)(phi)
    assert found.dtype == np.float32
    assert float(found) == pytest.approx(float(features.rank_penalty(phi.astype("float64"))), rel=1e-5)
    with pytest.raises(DtypeError, match="dtype"):
        jax.jit(features.rank_penalty)(np.eye(3, dtype="int32"))


# Ranks in training.


def test_a_trace_of_ranks_is_the_report_at_each_step(rng):
    x = rng.normal(size=(30, 6)) + 2
    weights = {0: rng.normal(size=(6, 5)), 10: rng.normal(size=(6, 1)) @ rng.normal(size=(1, 5)), 40: np.eye(6, 5)}
    found = features.rank_trace(lambda w, x: jnp.maximum(x @ w, 0), weights, x, delta=0.4)
    with jax.enable_x64(jax.config.jax_enable_x64):
        reports = [features.rank_report(jnp.maximum(x @ w, 0), 0.4) for w in weights.values()]
    assert found.steps.tolist() == [0, 10, 40]
    for name in ("srank", "srank_centered", "effective_rank", "stable_rank_centered", "numerical_rank"):
        assert getattr(found, name).tolist() == [getattr(r, name) for r in reports]
    assert found.srank[1] <= 2
    assert found.srank.tolist() != [features.srank(np.maximum(x @ w, 0)) for w in weights.values()]
    expected = [r.singular_values[0] ** 2 - r.singular_values[-1] ** 2 for r in reports]
    np.testing.assert_allclose(found.penalty, expected)
    assert features.rank_trace(lambda w, x: x @ w, list(weights.values()), x).steps.tolist() == [0, 1, 2]


def test_checkpoints_that_do_not_fit_are_refused(rng):
    x = rng.normal(size=(4, 2))
    for checkpoints, words in (
        ([], "empty"),
        ({"w": np.eye(2)}, "key 'w'"),
        ({3: np.eye(2), 1: np.eye(2)}, "do not rise"),
        ([np.eye(2), np.full((2, 2), np.inf)], "features at step 1"),
        ([np.eye(2), np.eye(2, 1)], "at step 1 have shape"),
        ([np.ones(2)], "features at step 0"),
    ):
        with pytest.raises((ValueError, TypeError), match=words), np.errstate(invalid="ignore"):
            features.rank_trace(lambda w, x: x @ w, checkpoints, x)


# Rounds of regression on own targets.


@pytest.mark.claim("kumar2021implicit/C2")
def test_ranks_after_rounds_with_one_slow_direction():
    found = features.bootstrap_rank_theory(np.diag([0.99] + 9 * [0.1]), (1, 2, 5, 20, 100, 1000), 0.1)
    assert found.srank.tolist() == [9, 9, 9, 8, 4, 1]
    assert found.is_psd
    assert found.spectral_radius == pytest.approx(0.99)


@pytest.mark.claim("kumar2021implicit/E1")
def test_ranks_after_rounds_with_a_power_law_spectrum(rng, measured):
    q = rotation(rng, 30)
    s = q * (0.995 * np.arange(1, 31) ** -1.5) @ q.T
    found = features.bootstrap_rank_theory((s + s.T) / 2, ROUNDS, 0.1).srank.tolist()
    assert found == [27, 27, 27, 26, 23, 15, 8, 8]
    measured(", ".join(map(str, found)))


@pytest.mark.claim("kumar2021implicit/I4")
@pytest.mark.parametrize("delta", [0.01, 0.1, 0.5])
def test_for_positive_semidefinite_matrices_ranks_never_rise(rng, delta):
    for _ in range(20):
        a = rng.normal(size=(8, 8)) * rng.uniform(0, 1, 8) ** 3
        s = a @ a.T
        s *= rng.uniform(0.5, 1.1) / linalg.norm(s, 2)
        found = features.bootstrap_rank_theory(s, range(1, 60), delta)
        assert found.is_psd
        assert (np.diff(found.srank) <= 0).all()


def test_a_symmetric_matrix_with_negative_eigenvalues_may_gain_rank():
    found = features.bootstrap_rank_theory(np.diag([0.5, -0.9]), (1, 2, 3), 0.2)
    assert not found.is_psd
    assert found.srank.tolist() == [2, 1, 2]  # M_k = diag(1, 1.5, 1.75) and diag(1, 0.1, 0.91)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 40])
def test_ranks_are_those_of_the_sum_of_powers(rng, k):
    a = rng.normal(size=(6, 6))
    normal = {
        "symmetric": (a + a.T) / 8,
        "antisymmetric": (a - a.T) / 4,
        "rotation": 0.97 * rotation(rng, 6),
        "zero": np.zeros((6, 6)),
    }
    for name, s in normal.items():
        total = sum(np.linalg.matrix_power(s, j) for j in range(k))
        found = features.bootstrap_rank_theory(s, [k], 0.1)
        values = linalg.svdvals(total)
        np.testing.assert_allclose(found.singular_values[0], values / values[0], atol=1e-11, err_msg=name)
        assert found.srank.tolist() == [features.srank(total, 0.1)]
        assert found.is_psd == (name == "zero")


@pytest.mark.parametrize("s", [1 - 1e-14, 1 - 1e-9, 1 + 1e-9, 0.7, 0.4, 1.0, 1 - 1e-9 + 1e-8j, 0.9 + 0.3j, 0.0, -0.99])
def test_geometric_sums_lose_no_digits_near_one(s):
    with mpmath.workdps(60):
        for k in (1, 2, 5000):
            exact = k if s == 1 else complex((1 - mpmath.mpmathify(s) ** k) / (1 - mpmath.mpmathify(s)))
            assert complex(_geometric_sum(np.array([s + 0j]), k)[0]) == pytest.approx(exact, rel=3e-13)


def test_matrices_without_singular_values_by_eigenvalues_are_refused():
    for s, rounds, error, words in (
        (np.array([[0.5, 1.0], [0.0, 0.5]]), [2], ValueError, "not normal"),
        (np.ones((2, 3)), [2], ShapeError, "square"),
        (np.eye(2), [], ValueError, "empty"),
        (np.eye(2), [0], ValueError, "at least 1"),
        (np.eye(2), [1.5], TypeError, "integer"),
        (3 * np.eye(2), [10, 5000], NonFiniteError, "k = 5000"),
    ):
        with pytest.raises(error, match=words):
            features.bootstrap_rank_theory(s, rounds)


def test_results_print_and_come_back_from_their_files(rng, tmp_path):
    for found in (
        features.rank_report(rng.normal(size=(5, 3))),
        features.rank_trace(lambda w, x: x @ w, [np.eye(3)], rng.normal(size=(5, 3))),
        features.bootstrap_rank_theory(np.eye(3) / 2, [1, 2]),
    ):
        assert type(found).__name__ in str(found)
        assert Result.load(found.save(tmp_path / "result.zip")) == found
        assert found.charts()[0].series
