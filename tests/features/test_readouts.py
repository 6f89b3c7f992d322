"""Read-outs of representations: dense ridge regression, brute-force neighbors, and their errors."""

import numpy as np
import pytest

from widescape import features, predict
from widescape.core.errors import DtypeError, IllConditionedError, ShapeError
from widescape.core.result import Result


def classes(rng, n=60, p=5, spread=0.4):
    y = rng.integers(0, 3, n)
    return np.eye(3, p)[y] + spread * rng.normal(size=(n, p)) + 4, y


def numbers(rng, n=60, p=5):
    x = rng.normal(size=(n, p))
    return x, x[:, :2] @ np.array([[1.0, -1.0], [2.0, 0.5]]) + 0.1 * rng.normal(size=(n, 2)) + 3


def ridge(x, y, reg):
    """Augmented least squares with a free intercept."""
    away = x - x.mean(axis=0)
    noise = reg * np.mean(np.sum(away**2, axis=1))
    rows = np.r_[np.c_[x, np.ones(len(x))], np.c_[np.sqrt(noise) * np.eye(x.shape[1]), np.zeros(x.shape[1])]]
    solution = np.linalg.lstsq(rows, np.r_[y, np.zeros((x.shape[1], y.shape[1]))], rcond=None)[0]
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("p", [5, 90])
def test_the_linear_map_is_that_of_ridge_regression_with_a_free_intercept(rng, p):
    x, y = numbers(rng, p=p)
    found = features.linear_readout(x, y, x, y, reg=0.03)
    weights, bias = ridge(x, y, 0.03)
    np.testing.assert_allclose(found.weights, weights, atol=1e-10)
    np.testing.assert_allclose(found.bias, bias, atol=1e-10)
    outputs = x @ weights + bias
    expected = 1 - np.mean(np.sum((y - outputs) ** 2, axis=0) / np.sum((y - y.mean(axis=0)) ** 2, axis=0))
    assert float(found) == found.r2 == pytest.approx(expected, rel=1e-10)
    assert (found.accuracy, found.reg_at_bound, found.num_train) == (None, None, 60)


def test_labels_are_read_by_the_largest_output_with_a_binomial_error(rng):
    x, y = classes(rng)
    test, y_test = classes(rng, n=200)
    found = features.linear_readout(x, y, test, y_test, reg=0.01)
    weights, bias = ridge(x, np.eye(3)[y], 0.01)
    share = np.mean((test @ weights + bias).argmax(axis=1) == y_test)
    assert float(found) == found.accuracy == share
    smoothed = (share * 200 + 1) / 202
    assert found.accuracy_stderr == pytest.approx(np.sqrt(smoothed * (1 - smoothed) / 200))
    assert 0.6 < share < 1
    assert found.r2 is None


def test_the_regularizer_is_the_best_by_leaving_one_out(rng):
    x, y = numbers(rng, n=30, p=20)
    found = features.linear_readout(x, y, x, y)
    away = x - x.mean(axis=0)
    chosen = predict.loo_regularizer(away @ away.T, y - y.mean(axis=0))
    assert (found.reg, found.reg_at_bound) == (chosen.reg, chosen.at_bound)
    np.testing.assert_allclose(found.weights, ridge(x, y, chosen.reg)[0], atol=1e-9)


def test_offsets_and_scale_of_features_change_no_output(rng):
    x, y = numbers(rng)
    one = features.linear_readout(x, y, x, y, reg=0.1)
    other = features.linear_readout(1000 * x + 5, y, 1000 * x + 5, y, reg=0.1)
    assert other.r2 == pytest.approx(one.r2, rel=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 4, 60])
def test_neighbors_are_those_of_all_distances(rng, monkeypatch, metric, k):
    monkeypatch.setattr("widescape.features.readouts._BLOCK", 60 * 7)  # several blocks of test points
    (x, y), (test, y_test) = classes(rng), classes(rng, n=40)
    found = features.nearest_neighbors_readout(x, y, test, y_test, k=k, metric=metric)
    right = 0
    for row, label in zip(test, y_test, strict=True):
        if metric == "cosine":
            distance = 1 - x @ row / np.linalg.norm(x, axis=1) / np.linalg.norm(row)
        else:
            distance = np.linalg.norm(x - row, axis=1)
        votes = y[np.argsort(distance)[:k]].tolist()
        most = max(votes.count(c) for c in votes)
        right += next(c for c in votes if votes.count(c) == most) == label
    assert found.accuracy == right / 40
    assert (found.k, found.metric, found.num_test) == (k, metric, 40)


def test_numbers_are_read_by_the_mean_of_the_neighbors(rng):
    (x, y), (test, y_test) = numbers(rng), numbers(rng, n=20)
    found = features.nearest_neighbors_readout(x, y, test, y_test, k=3, metric="euclidean")
    nearest = np.argsort(np.linalg.norm(test[:, None] - x, axis=2), axis=1)[:, :3]
    assert found.r2 == pytest.approx(predict.regression_score(y[nearest].mean(axis=1), y_test).r2, rel=1e-12)
    one = features.nearest_neighbors_readout(x, y[:, 0], x, y[:, 0], k=1, metric="euclidean")
    assert float(one) == 1.0


def test_the_nearest_of_tied_classes_wins():
    x = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = features.nearest_neighbors_readout(x, [2, 0, 0, 2], x[:1], [2], k=4, metric="euclidean")
    assert found.accuracy == 1


def test_a_class_that_was_not_trained_on_is_read_wrongly(rng):
    x, y = classes(rng)
    for read in (features.linear_readout, features.nearest_neighbors_readout):
        assert read(x, y, x, np.full(60, 5)).accuracy == 0


def test_what_cannot_be_read_is_refused(rng):
    x, y = classes(rng)
    linear, nearest = features.linear_readout, features.nearest_neighbors_readout
    for call, error, words in (
        (lambda: linear(x, y, x[:, :2], y), ShapeError, "5 features and `test` 2"),
        (lambda: linear(x, y[:3], x, y), ShapeError, "`y_train` has shape"),
        (lambda: linear(x, y, x, y.astype(float)), ShapeError, "both be"),
        (lambda: linear(x, y - 1, x, y), ValueError, "label -1"),
        (lambda: linear(x, y[:, None], x, y), DtypeError, "matrix"),
        (lambda: linear(np.full((60, 5), 0.1), y, x, y), ValueError, "`train` is constant"),
        (lambda: linear(x, y, x, y, reg=-1.0), ValueError, "reg"),
        (lambda: linear(x, y, x, y, reg="cv"), ValueError, "reg"),
        (lambda: linear(np.c_[x, x], y, x[:, [0, 1, 2, 3, 4] * 2], y, reg=0.0), IllConditionedError, "reg"),
        (lambda: linear(x, x, x, np.ones((60, 5))), ValueError, "constant"),
        (lambda: nearest(x, y, x, y, k=61), ValueError, "60 training points"),
        (lambda: nearest(x, y, x, y, k=0), ValueError, "at least 1"),
        (lambda: nearest(x, y, x, y, metric="manhattan"), ValueError, "metric"),
        (lambda: nearest(x, y, np.zeros((60, 5)), y), ValueError, "`test` has a row of zeros, 0"),
        (lambda: nearest(np.ones(5), y, x, y), ShapeError, "shape"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_results_print_and_come_back_from_their_files(rng, tmp_path):
    for x, y in (classes(rng), numbers(rng)):
        for read in (features.linear_readout, features.nearest_neighbors_readout):
            found = read(x, y, x, y)
            assert type(found).__name__ in str(found)
            assert Result.load(found.save(tmp_path / "result.zip")) == found
