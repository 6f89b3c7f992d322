"""Labels are separable by an affine map of the features, or nonnegative multipliers of the constraints cancel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from widescape.core.errors import DtypeError, ShapeError
from widescape.paths import separability
from widescape.paths.separability import Separability, SeparabilityStatus, linear_separability

SQUARE = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
LINE = np.arange(3.0)[:, None]

grids = st.sampled_from([(4, 1), (6, 2), (9, 3), (12, 2)]).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)),
        hnp.arrays(np.int64, shape[0], elements=st.integers(0, 2)),
    )
)


def dense(F, y, num_classes):
    """All constraints (e_y - e_k) (x, 1) as one matrix."""
    rows = []
    for x, label in zip(np.c_[F, np.ones(len(F))], y, strict=True):
        for k in set(range(num_classes)) - {int(label)}:
            a = np.zeros((num_classes, len(x)))
            a[label], a[k] = x, -x
            rows.append(a.ravel())
    return np.array(rows)


def separable_by_one_program(F, y, num_classes):
    """Whether z_iy - z_ik >= 1 has a solution, by one linear program without bounds."""
    a = dense(F, y, num_classes)
    if len(a) == 0:
        return True
    done = optimize.linprog(np.zeros(a.shape[1]), A_ub=-a, b_ub=-np.ones(len(a)), bounds=(None, None))
    assert done.status in (0, 2)
    return done.status == 0


def smallest_difference(F, y, result):
    z = F @ result.weights + result.bias
    own = z[np.arange(len(y)), y]
    z[np.arange(len(y)), y] = -np.inf
    return (own - z.max(axis=1)).min()


def combination(F, y, result):
    """sum lambda_ik (e_y - e_k) (x_i, 1), from its definition."""
    total = np.zeros((F.shape[1] + 1, result.num_classes))
    for weight, i, k in zip(result.multipliers, result.conflict_rows, result.conflict_classes, strict=True):
        total[:, y[i]] += weight * np.append(F[i], 1)
        total[:, k] -= weight * np.append(F[i], 1)
    return total


def check(F, y, result):
    """Whatever the verdict, its proof holds."""
    assert result.status is SeparabilityStatus.OK
    if result.separable:
        assert result.error == 0
        assert result.multipliers is None
        assert result.num_classes == 1 or smallest_difference(F, y, result) == pytest.approx(1, rel=1e-6)
        return
    assert result.error > 0
    assert result.margin is None
    assert (result.multipliers > 0).all()
    assert result.multipliers.sum() == pytest.approx(1, rel=1e-12)
    assert (y[result.conflict_rows] != result.conflict_classes).all()
    np.testing.assert_allclose(combination(F, y, result), 0, atol=1e-10 * max(1, np.abs(F).max()))


# Closed forms.


def test_xor_is_not_separable_and_its_four_points_conflict_equally():
    y = np.array([0, 1, 1, 0])
    result = linear_separability(SQUARE, y)
    check(SQUARE, y, result)
    assert result.separable is False
    assert sorted(result.conflict_rows.tolist()) == [0, 1, 2, 3]
    np.testing.assert_allclose(result.multipliers, 0.25, rtol=1e-12)
    assert result.error in (0.25, 0.5)
    assert result.evidence("separable").kind == "certified"


def test_the_middle_of_three_points_is_a_class_of_its_own_by_argmax_but_not_against_the_rest():
    several, rest = (linear_separability(LINE, np.array(y)) for y in ([0, 1, 2], [0, 1, 0]))
    check(LINE, np.arange(3), several)
    assert several.separable
    assert rest.separable is False
    np.testing.assert_allclose(rest.multipliers[np.argsort(rest.conflict_rows)], [0.25, 0.5, 0.25], rtol=1e-12)


def test_the_margin_is_at_most_the_largest_possible_one_and_that_of_the_rows():
    F, y = np.array([[-1.0], [2.0]]), np.array([0, 1])
    result = linear_separability(F, y)
    # W = (-v, v) / sqrt(2) has norm |v| and moves z_1 - z_0 by sqrt(2) v per unit; half of the gap 3 is on each side.
    assert result.margin <= 1.5 * np.sqrt(2) * (1 + 1e-12)
    assert result.margin == pytest.approx(result.margins.min(), rel=1e-12)
    assert smallest_difference(F, y, result) == pytest.approx(1, rel=1e-9)
    assert result.margin == pytest.approx(1 / np.linalg.norm(result.weights), rel=1e-9)


def test_equal_rows_with_different_labels_conflict_exactly():
    F = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, -0.0], [1.0, 0.0]])
    y = np.array([2, 0, 1, 2])
    result = linear_separability(F, y)
    assert result.separable is False
    assert result.residual == 0.0
    assert result.evidence("separable").kind == "exact"
    assert result.conflict_rows.tolist() == [0, 2]
    assert result.conflict_classes.tolist() == [1, 2]
    assert result.error == 0.25
    assert not combination(F, y, result).any()


def test_equal_rows_with_equal_labels_do_not_conflict():
    assert linear_separability(np.repeat(SQUARE, 3, axis=0), np.repeat([0, 1, 1, 1], 3)).separable


def test_one_label_is_separated_by_a_bias_alone():
    for y in (np.zeros(4, int), np.full(4, 2)):
        result = linear_separability(SQUARE, y)
        assert (result.separable, result.margin, result.error) == (True, np.inf, 0.0)
        assert not result.weights.any()
        assert result.charts() == ()
    assert result.weights.shape == (2, 3)


def test_classes_that_do_not_occur_stay_below_the_labels():
    F, y = SQUARE + [[3.0, 0.0]] * np.array([[1], [0], [0], [1]]), np.array([4, 1, 1, 4])
    result = linear_separability(F, y)
    assert result.separable
    assert smallest_difference(F, y, result) == pytest.approx(1, rel=1e-9)
    assert (result.weights.shape, result.num_classes) == ((2, 5), 5)


def test_no_more_rows_than_features_and_a_constant_are_separable_for_any_labels_without_a_search(rng, monkeypatch):
    monkeypatch.setattr(separability, "_logistic", None)
    F = rng.normal(size=(21, 20))
    for _ in range(5):
        y = rng.integers(0, 4, 21)
        result = linear_separability(F, y)
        check(F, y, result)
        assert result.separable
        assert result.rank == 21


def test_the_rank_counts_independent_columns_and_the_constant(rng):
    F = rng.normal(size=(40, 3))
    dependent = np.c_[F, F @ rng.normal(size=(3, 2)) + 1 / 3, np.full(40, 5.0)]
    assert linear_separability(dependent, np.arange(40) % 2).rank == 4


def test_many_rows_with_random_labels_conflict_in_no_more_constraints_than_dimensions_and_one(rng):
    F, y = rng.normal(size=(300, 10)), rng.integers(0, 3, 300)
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable is False
    assert len(result.multipliers) <= 11 * 2 + 1
    assert result.evidence("separable").kind == "certified"


def test_points_of_a_line_in_space_conflict_by_multipliers_in_rational_arithmetic():
    F = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 2.0], [3.0, 3.0, 6.0], [5.0, 7.0, 1.0]])
    result = linear_separability(F, np.array([0, 1, 0, 1]))
    check(F, np.array([0, 1, 0, 1]), result)
    assert result.separable is False
    assert result.evidence("separable").kind == "proved"
    order = np.argsort(result.conflict_rows)
    np.testing.assert_allclose(result.multipliers[order], [1 / 3, 1 / 2, 1 / 6], rtol=1e-12)


# An independent linear program.


@settings(max_examples=60, deadline=None)
@given(grids)
def test_the_verdict_is_that_of_one_linear_program_over_all_constraints(problem):
    F, y = problem
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable == separable_by_one_program(F, y, int(y.max()) + 1)


@pytest.mark.parametrize("seed", range(12))
def test_the_verdict_on_normal_features_near_the_capacity_is_that_of_one_linear_program(seed):
    draw = np.random.default_rng(seed)
    F, y = draw.normal(size=(34, 12)), draw.integers(0, 2 + seed % 2, 34)
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable == separable_by_one_program(F, y, int(y.max()) + 1)


def test_the_linear_programs_find_what_regression_gives_up(monkeypatch, rng):
    monkeypatch.setattr(separability, "_PENALTIES", ())
    monkeypatch.setattr(separability, "_CUTS_PER_ROUND", 5)
    F = rng.normal(size=(200, 4))
    y = (F @ rng.normal(size=(4, 3))).argmax(axis=1)
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable
    y[0] = (y[0] + 1) % 3
    y[1:40] = rng.integers(0, 3, 39)
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable is False


# Invariance.


@settings(max_examples=25, deadline=None)
@given(grids, st.sampled_from([1e-200, 1e-3, 1.0, 64.0, 1e200]), st.integers(0, 5))
def test_separability_is_invariant_under_invertible_integer_maps_scales_and_renamed_classes(problem, scale, seed):
    F, y = problem
    draw = np.random.default_rng(seed)
    d = F.shape[1]
    mix = np.tril(draw.integers(-2, 3, (d, d)), -1) + np.diag(draw.choice([-1, 1], d))
    moved = (F @ mix + draw.integers(-4, 5, d)) * scale  # collinear points stay so, up to the rounding of the scale
    before = linear_separability(F, y).separable
    after = linear_separability(moved, (np.array([1, 2, 0]))[y])
    assert after.separable == before or (after.separable is None and scale not in (1.0, 64.0))


def test_a_verdict_does_not_depend_on_the_order_of_the_rows(rng):
    F, y = rng.normal(size=(60, 8)), rng.integers(0, 3, 60)
    order = rng.permutation(60)
    assert linear_separability(F, y).separable is linear_separability(F[order], y[order]).separable is False


def test_one_hot_labels_float32_features_and_images_are_the_same_problem(rng):
    F, y = rng.normal(size=(30, 2, 3)).astype(np.float32), rng.integers(0, 3, 30)
    flat = linear_separability(F.reshape(30, 6).astype(np.float64), y)
    assert linear_separability(F, np.eye(3)[y]) == flat
    assert flat.dim == 6


def test_constant_columns_and_a_far_origin_change_nothing(rng):
    F, y = rng.normal(size=(25, 3)), rng.integers(0, 2, 25)
    y_simple = (F[:, 0] > 0).astype(int)
    far = np.c_[F, np.full(25, 7.0)] + 2.0**20
    for labels, verdict in ((y, False), (y_simple, True)):
        assert linear_separability(F, labels).separable is verdict
        assert linear_separability(far, labels).separable is verdict


# What cannot be decided, and digits.


def test_a_gap_of_a_few_rounding_errors_is_not_decided_but_one_of_1e_9_is():
    y = np.array([0, 0, 1, 1])
    wide = linear_separability(np.array([[0.0], [1.0], [1 + 1e-9], [2.0]]), y)
    assert wide.separable
    assert 0 < wide.margin <= 0.5 * np.sqrt(2) * 1.0001e-9
    narrow = linear_separability(np.array([[0.0], [1.0], [1 + 2**-52], [2.0]]), y)
    assert (narrow.separable, narrow.status, narrow.margin) == (None, SeparabilityStatus.PRECISION, None)
    assert narrow.evidence("separable").kind == "sampled"


def independent(F):
    """Whether the rows (x, 1) of multiples of 2^-44 are linearly independent, by elimination modulo a prime."""
    prime = 2**31 - 1
    rows = [[int(v * 2**44) % prime for v in np.append(x, 1.0)] for x in F]
    assert all(float(int(v * 2**44)) == v * 2**44 for v in F.ravel())
    left = np.array(rows, np.int64)
    for _ in range(len(left)):
        column = np.flatnonzero(left[0])
        if not len(column):
            return False
        scale = pow(int(left[0, column[0]]), -1, prime)
        pivot = left[0] * scale % prime
        left = (left[1:] - left[1:, column[:1]] * pivot[None]) % prime
    return True


def test_multipliers_that_cancel_up_to_rounding_alone_are_no_verdict_and_bound_the_margin():
    draw = np.random.default_rng(0)
    codes, directions = draw.integers(-1, 2, (40, 38)), draw.integers(-1, 2, (38, 200))
    dependent = (codes @ directions).astype(float)
    y = (np.linalg.svd(np.c_[codes, np.ones(40)].T)[2][-1] > 0).astype(int)  # by the only affine relation of the rows
    F = dependent.copy()
    F[0] += 2.0**-44 * draw.integers(-1, 2, 200)
    assert independent(F)  # so that every labeling is separable
    assert not independent(dependent)  # and this one is not
    for rows in (F, dependent):
        result = linear_separability(rows, y)
        assert (result.separable, result.status, result.margin) == (None, SeparabilityStatus.PRECISION, None)
        assert result.evidence("separable").kind == "sampled"
        assert 0 < result.residual < 1e-11
        assert (result.multipliers > 0).all()
        assert result.multipliers.sum() == pytest.approx(1, rel=1e-12)
        assert sorted(result.conflict_rows.tolist()) == list(range(40))
        np.testing.assert_allclose(combination(rows, y, result), 0, atol=1e-10)


@pytest.mark.slow
def test_random_labels_of_ten_classes_at_the_size_of_digits_are_refuted_with_certainty():
    draw = np.random.default_rng(1)
    F, y = draw.normal(size=(1437, 64)), draw.integers(0, 10, 1437)
    result = linear_separability(F, y)
    check(F, y, result)
    assert result.separable is False
    assert "exact multipliers" in result.evidence("separable").note


def test_limits_leave_the_question_open_with_the_best_map_found(rng):
    F, y = rng.normal(size=(300, 10)), rng.integers(0, 3, 300)
    small = linear_separability(F, y, max_constraints=10)
    assert (small.separable, small.status) == (None, SeparabilityStatus.SIZE)
    late = linear_separability(F, y, time_limit=1e-9)
    assert (late.separable, late.status) == (None, SeparabilityStatus.TIME)
    assert 0.2 < small.error < 2 / 3
    z = F @ small.weights + small.bias
    assert small.error == (z.argmax(axis=1) != y).mean()


@pytest.mark.slow
def test_raw_pixels_of_digits_are_separable():
    datasets = pytest.importorskip("sklearn.datasets")
    F, y = datasets.load_digits(return_X_y=True)
    kept = np.random.default_rng(0).permutation(len(F))[:1437]
    result = linear_separability(F[kept], y[kept])
    check(F[kept], y[kept], result)
    assert result.separable
    assert result.rank == 62  # three of 64 pixels are blank


def test_the_result_prints_charts_saves_and_loads(tmp_path, rng):
    F = rng.normal(size=(30, 3))
    for y, verdict in (((F[:, 0] > 0).astype(int), True), (((F[:, 0] > 0) ^ (np.arange(30) == 3)).astype(int), False)):
        result = linear_separability(F, y)
        assert result.separable is verdict
        assert Separability.load(result.save(tmp_path / "separability")) == result
        (chart,) = result.charts()
        assert (np.diff(chart.series[0].y) >= 0).all()
        assert len(str(result).splitlines()) < 20


# Refusals.


@pytest.mark.parametrize(
    ("F", "y", "error", "message"),
    [
        (SQUARE, np.zeros(3, int), ShapeError, "4 rows"),
        (SQUARE, np.zeros((4, 1, 1), int), ShapeError, "one-hot"),
        (SQUARE, np.zeros(4), DtypeError, "integers"),
        (SQUARE, np.array([0, 1, -1, 1]), ValueError, "label -1"),
        (SQUARE, np.ones((4, 2)), ValueError, "one-hot"),
        (SQUARE[:, :0], np.zeros(4, int), ShapeError, "empty"),
        (SQUARE[:0], np.zeros(0, int), ShapeError, "empty"),
        (SQUARE[0], np.zeros(2, int), ShapeError, "2 axes"),
        (SQUARE.astype(int), np.zeros(4, int), DtypeError, "dtype"),
        (np.where(SQUARE > 0, np.nan, SQUARE), np.zeros(4, int), ValueError, "NaN"),
    ],
)
def test_features_and_labels_that_do_not_fit_are_refused(F, y, error, message):
    with pytest.raises(error, match=message):
        linear_separability(F, y)


@pytest.mark.parametrize(("name", "value"), [("time_limit", 0.0), ("time_limit", np.nan), ("max_constraints", 0)])
def test_limits_that_are_not_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        linear_separability(SQUARE, np.zeros(4, int), **{name: value})
