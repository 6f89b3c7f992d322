"""What can be read off a representation: by a linear map, or from the nearest neighbors."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, ShapeError
from widescape.core.evidence import EXACT, estimate
from widescape.core.result import Result, quantity
from widescape.features.centered import matrix
from widescape.predict import GP, classification_score, loo_regularizer, one_hot, regression_score

NeighborMetric = Literal["cosine", "euclidean"]

_SAMPLING = "over test points, drawn independently"
_BLOCK = 1 << 22  # distances that are held at once


class Readout(Result):
    """How well labels or numbers are read off a representation, on a test set; as a float accuracy or R^2."""

    source = "standard definitions"
    accuracy: float | None = quantity(
        estimate("accuracy_stderr", _SAMPLING), "share of test points whose class is right; None for numbers",
        default=None,
    )  # fmt: skip
    accuracy_stderr: float | None = quantity(
        EXACT, "binomial standard error of the accuracy, (correct + 1)/(n + 2) smoothed", default=None
    )
    r2: float | None = quantity(
        estimate("r2_stderr", _SAMPLING),
        "one minus squared loss over the variance of the test targets, mean over outputs; None for labels",
        default=None,
    )
    r2_stderr: float | None = quantity(EXACT, "standard error of R^2, by the jackknife over points", default=None)
    num_train: int = quantity(EXACT, "training points")
    num_test: int = quantity(EXACT, "test points")

    def __float__(self) -> float:
        value = self.r2 if self.accuracy is None else self.accuracy
        return float("nan") if value is None else value


class LinearReadout(Readout):
    """What ridge regression reads off a representation; outputs are ``x @ weights + bias``."""

    reg: float = quantity(EXACT, "regularizer, in units of the mean squared length of centered training rows")
    reg_at_bound: bool | None = quantity(
        EXACT, "whether the best regularizer lay at an end of the search; None if it was given", default=None
    )
    weights: np.ndarray = quantity(EXACT, "of the linear map (p, C)")
    bias: np.ndarray = quantity(EXACT, "of the linear map (C,)")


class NeighborsReadout(Readout):
    """What a vote, or the mean, of the nearest neighbors reads off a representation."""

    k: int = quantity(EXACT, "neighbors")
    metric: str = quantity(EXACT, "distance: cosine or euclidean")


def linear_readout(
    train: Any, y_train: Any, test: Any, y_test: Any, *, reg: Literal["loo"] | float = "loo"
) -> LinearReadout:
    """Accuracy or R^2 of ridge regression from features to labels or numbers.

    Minimizes sum_i |W^T (x_i - m) - (y_i - u)|^2 + reg s |W|^2 over W (p, C), with m and u the means over the training
    points and s the mean of |x_i - m|^2. Labels become one-hot rows, and the largest output is the class.

    Args:
        train: features of the training points (n, p), floating point.
        y_train: labels 0, ..., C - 1 as integers (n,); or numbers, floating point, (n,) or (n, C).
        test: features of the test points (M, p).
        y_test: their labels or numbers.
        reg: relative regularizer, not negative; ``"loo"`` for the one of least leave-one-out loss on the training
            points (`loo_regularizer`; the means stay those of all points).

    Returns:
        a `LinearReadout`.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; training features or test numbers that
            are constant.
        IllConditionedError: the regularizer is too small for features that depend on each other.

    Cost: for ``"loo"`` the eigenvectors of an (n, n) matrix, about 9 n^3 flops, so that n is some thousand at most; for
    a number 2 n q min(n, q) with q = min(n, p), and q^3 / 3.

    Source: alain2016understanding for linear maps from layers; ridge regression and its leave-one-out loss as in
    `widescape.predict`.

    Example:
        >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
        >>> found = linear_readout(x, [0, 0, 1, 1], x, [0, 0, 1, 1], reg=0.0)
        >>> found.accuracy, found.weights.round(6).tolist()
        (1.0, [[-0.3, 0.3]])
    """
    given = _Problem.of(train, y_train, test, y_test)
    mean = given.train.mean(axis=0)
    away = given.train - mean
    away[:, given.train.min(axis=0) == given.train.max(axis=0)] = 0.0
    if not away.any():
        raise ValueError("`train` is constant: all training points have the same features. Leave the layer out.")
    targets = given.y_train if given.classes is None else one_hot(given.y_train, given.classes)
    center = targets.mean(axis=0)
    targets = targets - center
    at_bound: bool | None = None
    if isinstance(reg, str):
        checks.choice(reg, "reg", ("loo",))
        chosen = loo_regularizer(away @ away.T, targets)
        value, at_bound = chosen.reg, chosen.at_bound
    else:
        value = float(checks.number(reg, "reg", "linear_readout"))
        checks.not_negative(value, "reg", "linear_readout")
    weights = _ridge(away, targets, value)
    bias = center - mean @ weights
    return LinearReadout(
        **_score(given, given.test @ weights + bias),
        num_train=len(away),
        num_test=len(given.test),
        reg=value,
        reg_at_bound=at_bound,
        weights=weights,
        bias=bias,
    )


def nearest_neighbors_readout(
    train: Any, y_train: Any, test: Any, y_test: Any, *, k: int = 5, metric: NeighborMetric = "cosine"
) -> NeighborsReadout:
    """Accuracy of a vote of the `k` nearest training points, or R^2 of their mean.

    Of classes with equally many votes, the one whose nearest member is nearest wins; of equally near neighbors the
    earlier comes first. Of points that are equally near at the `k`-th place, any may be the neighbor.

    Args:
        train: features of the training points (n, p), floating point.
        y_train: labels 0, ..., C - 1 as integers (n,); or numbers, floating point, (n,) or (n, C).
        test: features of the test points (M, p).
        y_test: their labels or numbers.
        k: neighbors, from 1 to n.
        metric: one minus the cosine of two rows, not centered; or their Euclidean distance.

    Returns:
        a `NeighborsReadout`.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; a row of zeros, which has no cosine;
            test numbers that are constant.

    Cost: 2 M n p flops; at most 4 million distances at once.

    Example:
        >>> x = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
        >>> nearest_neighbors_readout(x, [0, 0, 1, 1], 3 * x, [0, 0, 1, 1], k=2).accuracy
        1.0
    """
    checks.choice(metric, "metric", get_args(NeighborMetric))
    given = _Problem.of(train, y_train, test, y_test)
    checks.count(k, "k", "nearest_neighbors_readout")
    if k > len(given.train):
        raise ValueError(f"`k` is {k}, but there are {len(given.train)} training points; choose at most as many.")
    nearest = np.concatenate(list(_nearest(given.train, given.test, k, metric)))
    if given.classes is None:
        outputs = given.y_train[nearest].mean(axis=1)
    else:
        votes = given.y_train[nearest]  # (M, k)
        counts = np.zeros((len(votes), given.classes), np.int64)
        np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
        support = np.take_along_axis(counts, votes, axis=1)
        winner = votes[np.arange(len(votes)), support.argmax(axis=1)]  # the first, and so nearest, of the largest
        outputs = one_hot(winner, given.classes)
    return NeighborsReadout(
        **_score(given, outputs), num_train=len(given.train), num_test=len(given.test), k=int(k), metric=metric
    )


class _Problem(NamedTuple):
    """Checked features and targets of both sets; the number of classes, or None for numbers (n, C)."""

    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray
    classes: int | None

    @classmethod
    def of(cls, train: Any, y_train: Any, test: Any, y_test: Any) -> "_Problem":
        own, other = (np.asarray(matrix(x, name), np.float64) for x, name in ((train, "train"), (test, "test")))
        if own.shape[1] != other.shape[1]:
            raise ShapeError(f"`train` has {own.shape[1]} features and `test` {other.shape[1]}; give the same.")
        first, second = _targets(y_train, len(own), "y_train"), _targets(y_test, len(other), "y_test")
        if first.shape[1:] != second.shape[1:]:
            raise ShapeError(
                "`y_train` and `y_test` must both be integer labels, or both be numbers of as many outputs; they have "
                f"dtypes {np.asarray(y_train).dtype} and {np.asarray(y_test).dtype}."
            )
        labels = first.ndim == 1
        return cls(own, first, other, second, int(max(first.max(), second.max())) + 1 if labels else None)


def _targets(y: Any, n: int, name: str) -> np.ndarray:
    """Labels (n,), or numbers (n, C) in float64."""
    array = np.asarray(y)
    if array.ndim not in (1, 2) or len(array) != n or array.size == 0:
        raise ShapeError(f"`{name}` has shape {array.shape} for {n} points; give ({n},), or ({n}, C) for numbers.")
    if array.dtype.kind in "iub":
        if array.ndim == 2:
            raise DtypeError(f"`{name}` is a matrix of {array.dtype}; give labels ({n},), or floating-point numbers.")
        if array.min() < 0:
            raise ValueError(f"`{name}` holds the label {array.min()}; labels are 0, ..., C - 1.")
        return array.astype(np.int64)
    array = checks.real_array(array, name)
    checks.all_finite(array, name)
    return np.asarray(array, np.float64).reshape(n, -1)


def _ridge(x: np.ndarray, y: np.ndarray, reg: float) -> np.ndarray:
    """Weights (p, C) of ridge regression on centered rows, from the smaller of the two Gram matrices."""
    if x.shape[1] >= len(x):
        return x.T @ GP(x @ x.T, y, reg=reg).weights
    noise = reg * float(np.mean(np.einsum("ij,ij->i", x, x)))
    return GP(x.T @ x, x.T @ y, reg=noise, reg_scale="absolute").weights


def _nearest(train: np.ndarray, test: np.ndarray, k: int, metric: NeighborMetric) -> Iterator[np.ndarray]:
    """Indices of the nearest training points, nearest first, for blocks of test points (m, k)."""
    if metric == "cosine":
        train, test = _directions(train, "train"), _directions(test, "test")
    else:
        mean = train.mean(axis=0)  # distances stay, rounding shrinks
        train, test = train - mean, test - mean
    half = np.einsum("ij,ij->i", train, train) / 2
    rows = max(1, _BLOCK // len(train))
    for start in range(0, len(test), rows):
        distances = half - test[start : start + rows] @ train.T  # half the squared distance, but for the test point's
        near = np.sort(np.argpartition(distances, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(np.take_along_axis(distances, near, axis=1), axis=1, kind="stable")
        yield np.take_along_axis(near, order, axis=1)


def _directions(x: np.ndarray, name: str) -> np.ndarray:
    largest = np.abs(x).max(axis=1, keepdims=True)
    if not largest.all():
        i = int(np.argmin(largest))
        raise ValueError(f"`{name}` has a row of zeros, {i}, which has no cosine; use metric='euclidean'.")
    unit = x / largest
    directions: np.ndarray = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return directions


def _score(given: _Problem, outputs: np.ndarray) -> dict[str, Any]:
    """The fields that outputs (M, C) earn."""
    if given.classes is None:
        score = regression_score(outputs, given.y_test)
        return {"r2": score.r2, "r2_stderr": score.r2_stderr}
    found = classification_score(outputs, given.y_test)
    return {"accuracy": found.accuracy, "accuracy_stderr": found.accuracy_stderr}
