"""Scores and curves are the formulas they name, and their standard errors are those of repeated sampling."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from widescape import predict
from widescape.core.errors import DtypeError, IllConditionedError, ShapeError
from widescape.predict import GP, classification_score, learning_curve, one_hot, regularizer_curve

M, TESTS, CLASSES = 24, 10, 3


def problem(seed=0, m=M, tests=TESTS):
    """Three noisy clusters with a Gaussian kernel on them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(m + tests) % CLASSES
    points = 1.5 * np.eye(CLASSES)[labels] + rng.normal(size=(m + tests, CLASSES))
    kernel = np.exp(-np.sum((points[:, None] - points[None]) ** 2, axis=2) / 4)
    return kernel[:m, :m], labels[:m], kernel[m:, :m], labels[m:]


def curve(function=regularizer_curve, *, sample=0, **changes):
    K, labels, K_test, test_labels = problem(sample)
    arguments = {"K": K, "labels": labels, "K_test": K_test, "test_labels": test_labels} | changes
    return function(arguments.pop("K"), arguments.pop("labels"), arguments.pop("K_test"), **arguments)


def learn(**changes):
    return curve(learning_curve, **({"sizes": (6, 12, M), "reg": 0.1} | changes))


# Targets.


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.sampled_from([5, 7]))
@settings(deadline=None, max_examples=40)
def test_one_hot_targets_are_centered_and_tell_the_label(labels, num_classes):
    targets = one_hot(np.array(labels), num_classes)
    assert targets.shape == (len(labels), num_classes)
    assert targets.dtype == np.float64
    assert np.allclose(targets.sum(axis=1), 0, rtol=0, atol=1e-15)
    assert np.allclose(targets + 1 / num_classes, np.eye(num_classes)[labels], rtol=0, atol=1e-15)
    assert targets.argmax(axis=1).tolist() == labels


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(ValueError, match=r"must lie in 0 \.\.\. 2"):
        one_hot(np.array(labels), 3)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], [[0, 1]], ["a"], 1], ids=repr)
def test_labels_are_a_vector_of_integers(labels):
    with pytest.raises(TypeError, match="vector of integers"):
        one_hot(labels, 3)


@pytest.mark.parametrize(("num_classes", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_the_number_of_classes_is_a_positive_integer(num_classes, error):
    with pytest.raises(error, match="num_classes"):
        one_hot(np.array([0]), num_classes)


# Scores.


@given(
    hnp.arrays(np.float64, (7, 3), elements=st.floats(-2, 2)),
    hnp.arrays(np.int64, (7,), elements=st.integers(0, 2)),
)
@settings(deadline=None, max_examples=50)
def test_scores_are_means_over_test_points(outputs, labels):
    score = classification_score(outputs, labels)
    losses = [sum((outputs[i, c] - ((c == labels[i]) - 1 / 3)) ** 2 for c in range(3)) / 3 for i in range(7)]
    correct = sum(int(np.argmax(outputs[i])) == labels[i] for i in range(7))
    p = (correct + 1) / 9
    assert score.accuracy == correct / 7
    assert score.accuracy_stderr == pytest.approx((p * (1 - p) / 7) ** 0.5, rel=1e-14)
    assert score.mse == pytest.approx(np.mean(losses), rel=1e-12, abs=1e-15)
    assert score.mse_stderr == pytest.approx(np.std(losses, ddof=1) / 7**0.5, rel=1e-9, abs=1e-12)
    assert score.num_points == 7


def test_a_perfect_score_still_has_an_error():
    score = classification_score(one_hot(np.arange(3), 3), np.arange(3))
    assert (score.accuracy, score.mse, score.mse_stderr) == (1.0, 0.0, 0.0)
    assert 0 < score.accuracy_stderr < 0.3


def test_one_test_point_says_nothing_about_the_spread_of_the_loss():
    score = classification_score(np.array([[1.0, 0.0]]), np.array([0]))
    assert score.mse_stderr == np.inf
    json.dumps(score.to_dict(), allow_nan=False)


def test_standard_errors_cover_the_truth_as_often_as_they_should():
    rng = np.random.default_rng(12)
    repeats, n, truth = 400, 200, 0.8
    covered_accuracy = covered_mse = 0
    for _ in range(repeats):
        labels = rng.integers(0, 2, n)
        right = rng.random(n) < truth
        outputs = one_hot(np.where(right, labels, 1 - labels), 2)
        noise = rng.normal(size=(n, 2)) * 0.1
        score = classification_score(outputs + noise, labels)
        expected = 0.2 * 1.0 + 0.01  # a wrong answer costs 1, the noise its variance
        covered_accuracy += abs(score.accuracy - truth) < 2 * score.accuracy_stderr
        covered_mse += abs(score.mse - expected) < 2 * score.mse_stderr
    for covered in (covered_accuracy, covered_mse):  # 95.4%, with a binomial error of 1 point and discreteness
        assert 0.92 < covered / repeats < 0.98


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3), (3, 3, 1)])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape):
    with pytest.raises(ShapeError, match="`outputs` has shape"):
        classification_score(np.ones(shape), np.zeros(3 if shape != (0, 3) else 0, int))


def test_outputs_of_integers_and_labels_without_an_output_are_refused():
    with pytest.raises(DtypeError, match="`outputs`"):
        classification_score(np.ones((2, 2), int), np.zeros(2, int))
    with pytest.raises(ValueError, match="labels"):
        classification_score(np.ones((2, 2)), np.array([0, 2]))
    with pytest.raises(TypeError, match="labels"):
        classification_score(np.ones((2, 2)), np.array([0.0, 1.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="`outputs`"):
        classification_score(np.array([[0.0, bad], [1.0, 0.0]]), np.array([0, 1]))


# Against the regularizer.


def test_each_point_of_the_regularizer_curve_is_a_fit():
    K, labels, K_test, test_labels = problem()
    regs = (1.0, 0.01, 0.1)
    result = curve(regs=regs)
    assert result.reg.tolist() == sorted(regs)
    assert result.dropped == ()
    for i, reg in enumerate(sorted(regs)):
        gp = GP(K, one_hot(labels, CLASSES), reg=reg)
        score = classification_score(gp.mean(K_test), test_labels)
        found = (result.accuracy[i], result.accuracy_stderr[i], result.mse[i], result.mse_stderr[i], result.loo_mse[i])
        assert found == (score.accuracy, score.accuracy_stderr, score.mse, score.mse_stderr, gp.loo().mse)
    assert result.chosen == int(np.argmin(result.loo_mse))
    assert result.best == (
        result.reg[result.chosen],
        result.accuracy[result.chosen],
        result.accuracy_stderr[result.chosen],
    )


def test_the_choice_does_not_look_at_the_test_set():
    chosen = {curve(regs=(1e-3, 0.1, 10.0), test_labels=np.roll(problem()[3], shift)).chosen for shift in range(3)}
    assert len(chosen) == 1


def test_regularizers_at_which_the_matrix_is_singular_are_dropped_and_listed():
    K, labels, K_test, test_labels = problem()
    twice = np.r_[0:M, 0:2]  # two points that occur twice
    arguments = (K[np.ix_(twice, twice)], labels[twice], K_test[:, twice])
    result = regularizer_curve(*arguments, test_labels=test_labels, regs=(0.1, 0.0, 1.0, 1e-20))
    assert result.dropped == (0.0, 1e-20)
    assert result.reg.tolist() == [0.1, 1.0]
    assert len(result.accuracy) == len(result.loo_mse) == 2
    with pytest.raises(IllConditionedError):
        regularizer_curve(*arguments, test_labels=test_labels, regs=(0.0, 1e-20))


@pytest.mark.parametrize("regs", [(), [], iter(())])
def test_no_regularizers_are_refused(regs):
    with pytest.raises(ValueError, match="`regs` is empty"):
        curve(regs=regs)


def test_a_class_that_only_the_test_set_has_gets_an_output_of_its_own():
    test_labels = np.where(np.arange(TESTS) == 0, CLASSES, problem()[3])
    result = curve(test_labels=test_labels, regs=(0.1,))
    K, labels, K_test, _ = problem()
    outputs = GP(K, one_hot(labels, CLASSES + 1), reg=0.1).mean(K_test)
    assert result.accuracy[0] == np.mean(outputs.argmax(axis=1) == test_labels)


BAD = {
    "negative reg": ({"regs": (-0.1,)}, ValueError),
    "labels too short": ({"labels": np.zeros(M - 1, int)}, ShapeError),
    "labels too long": ({"labels": np.zeros(M + 1, int)}, ShapeError),
    "labels as reals": ({"labels": np.zeros(M)}, TypeError),
    "negative labels": ({"labels": np.arange(M) - 1}, ValueError),
    "test labels too short": ({"test_labels": np.zeros(TESTS - 1, int)}, ShapeError),
    "no labels": ({"labels": np.zeros(0, int)}, ValueError),
    "kernel of integers": ({"K": np.eye(M, dtype=int)}, DtypeError),
    "kernel not square": ({"K": np.ones((M, M + 1))}, ShapeError),
    "test kernel transposed": ({"K_test": np.ones((M, TESTS))}, ShapeError),
    "test kernel too wide": ({"K_test": np.ones((TESTS, M + 1))}, ShapeError),
}


@pytest.mark.parametrize("name", BAD)
def test_a_regularizer_curve_refuses_what_does_not_fit(name):
    changes, error = BAD[name]
    with pytest.raises(error, match="`"):  # an argument is named
        curve(**changes)


# Against the number of samples.


def test_each_point_of_the_learning_curve_is_the_mean_of_fits_on_subsets():
    K, labels, K_test, test_labels = problem()
    result = learn(sizes=(12, 6, M), num_subsets=4, seed=5)
    assert result.sizes.tolist() == [6, 12, M]
    assert result.num_subsets.tolist() == [4, 4, 1]
    targets = one_hot(labels, CLASSES)
    orders = [np.random.default_rng((5, draw)).permutation(M) for draw in range(4)]
    for i, size in enumerate((6, 12, M)):
        scores = []
        for order in orders[: result.num_subsets[i]]:
            keep = order[:size]
            gp = GP(K[np.ix_(keep, keep)], targets[keep], reg=0.1)
            scores.append(classification_score(gp.mean(K_test[:, keep]), test_labels))
        for field in ("accuracy", "mse"):
            values = np.array([getattr(s, field) for s in scores])
            errors = np.array([getattr(s, f"{field}_stderr") for s in scores])
            variance = np.mean(errors**2) + (np.var(values, ddof=1) / 4 if len(values) > 1 else 0)
            assert getattr(result, field)[i] == pytest.approx(values.mean(), rel=1e-12)
            assert getattr(result, f"{field}_stderr")[i] == pytest.approx(variance**0.5, rel=1e-9)


def test_the_full_set_gives_the_fit_on_everything_whatever_the_seed():
    K, labels, K_test, test_labels = problem()
    score = classification_score(GP(K, one_hot(labels, CLASSES), reg=0.1).mean(K_test), test_labels)
    for seed in range(3):
        result = learn(sizes=(M,), seed=seed)
        assert result.accuracy[0] == score.accuracy
        assert result.mse[0] == pytest.approx(score.mse, rel=1e-10)
        assert result.mse_stderr[0] == pytest.approx(score.mse_stderr, rel=1e-10)


def test_the_same_seed_gives_the_same_curve_and_another_another():
    assert learn(seed=1) == learn(seed=1)
    assert learn(seed=1) != learn(seed=2)


def test_subsets_are_nested_so_that_other_sizes_change_no_point():
    alone, among = learn(sizes=(12,)), learn(sizes=(3, 12, 20))
    assert alone.mse[0] == among.mse[1]
    assert alone.mse_stderr[0] == among.mse_stderr[1]


@pytest.mark.parametrize(
    ("sizes", "error"), [((M + 1,), ValueError), ((0,), ValueError), ((2.0,), TypeError), ((), ValueError)], ids=repr
)
def test_sizes_are_integers_between_one_and_all(sizes, error):
    with pytest.raises(error, match="sizes"):
        learn(sizes=sizes)


@pytest.mark.parametrize(("num_subsets", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_the_number_of_subsets_is_a_positive_integer(num_subsets, error):
    with pytest.raises(error, match="num_subsets"):
        learn(num_subsets=num_subsets)


@pytest.mark.parametrize("name", [name for name in BAD if name != "negative reg"])
@pytest.mark.parametrize("sizes", [(6,), (6, M - 1)], ids=["small", "nearly all"])
def test_a_learning_curve_refuses_what_does_not_fit_even_if_the_subsets_would(name, sizes):
    changes, error = BAD[name]
    with pytest.raises(error, match="`"):  # an argument is named
        learn(sizes=sizes, **changes)


def test_a_learning_curve_takes_lists():
    K, labels, K_test, test_labels = problem()
    as_lists = learning_curve(
        K.tolist(), list(labels), K_test.tolist(), test_labels=list(test_labels), sizes=[6], reg=0.1
    )
    assert as_lists == learn(sizes=(6,))


# Charts.


def test_curves_become_charts_of_their_numbers_with_bands_of_one_standard_error():
    paths = {"NNGP": curve(regs=(0.01, 0.1)), "NTK": curve(regs=(0.1, 1.0), sample=1)}
    learned = {"NNGP": learn(), "NTK": learn(sample=1)}
    charts = (*predict.regularizer_charts(paths), *predict.learning_charts(learned, chance=1 / 3))
    assert len({chart.name for chart in charts}) == 4
    for chart, curves, field in zip(charts, (paths, paths, learned, learned), ("accuracy", "mse") * 2, strict=True):
        for series, (name, result) in zip(chart.series, curves.items(), strict=False):
            value, error = getattr(result, field), getattr(result, f"{field}_stderr")
            assert name in series.label
            assert np.array_equal(series.y, value)
            assert np.allclose(series.high - series.low, 2 * error, rtol=1e-12)
        assert "one standard error" in chart.caption
        json.dumps(chart.to_dict(), allow_nan=False)
    markers = [[m.value for m in chart.markers] for chart in charts]
    assert markers == [[], [], [1 / 3], []]
