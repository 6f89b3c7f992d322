"""How good predictions are, with standard errors."""

from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, estimate
from widescape.core.result import Result, quantity

_SAMPLING = "over test points, drawn independently"


class ClassificationScore(Result):
    """Accuracy and squared loss of regression on one-hot targets, on a test set."""

    source = "lee2020finite"
    accuracy: float = quantity(
        estimate("accuracy_stderr", _SAMPLING), "share of test points whose largest output is right"
    )
    accuracy_stderr: float = quantity(EXACT, "standard error of the accuracy, (correct + 1)/(n + 2) smoothed")
    mse: float = quantity(estimate("mse_stderr", _SAMPLING), "mean over points and outputs of (prediction - target)^2")
    mse_stderr: float = quantity(EXACT, "standard error of the squared loss")
    num_points: int = quantity(EXACT, "test points")


class ProbabilityScore(Result):
    """Accuracy and log loss of predicted probabilities, on a test set."""

    source = "standard definitions"
    accuracy: float = quantity(
        estimate("accuracy_stderr", _SAMPLING), "share of test points whose likeliest class is right"
    )
    accuracy_stderr: float = quantity(EXACT, "standard error of the accuracy, (correct + 1)/(n + 2) smoothed")
    log_loss: float = quantity(
        estimate("log_loss_stderr", _SAMPLING), "mean of minus the logarithm of the right class's probability"
    )
    log_loss_stderr: float = quantity(EXACT, "standard error of the log loss")
    num_points: int = quantity(EXACT, "test points")


class RegressionScore(Result):
    """Squared loss and explained variance of predicted numbers, on a test set."""

    source = "standard definitions"
    mse: float = quantity(estimate("mse_stderr", _SAMPLING), "mean over points and outputs of (prediction - target)^2")
    mse_stderr: float = quantity(EXACT, "standard error of the squared loss")
    r2: float = quantity(
        estimate("r2_stderr", _SAMPLING),
        "one minus squared loss over the variance of the test targets, mean over outputs",
    )
    r2_stderr: float = quantity(EXACT, "standard error of the explained share, by the jackknife over points")
    num_points: int = quantity(EXACT, "test points")


class PairedDifference(Result):
    """Difference in accuracy of two predictors on the same test points."""

    source = "paired comparison of proportions"
    difference: float = quantity(estimate("difference_stderr", f"{_SAMPLING}, paired"), "first accuracy minus second")
    difference_stderr: float = quantity(EXACT, "standard error, with one disagreement added in each direction")
    num_points: int = quantity(EXACT, "test points")


def paired_difference(first: Any, second: Any) -> PairedDifference:
    """How much more often the first predictor is right than the second.

    Args:
        first: whether the first predictor is right at each test point, booleans (n,).
        second: the same for the second predictor.

    Raises:
        ShapeError: they are not two vectors of the same length.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ShapeError(f"`first` has shape {first.shape} and `second` {second.shape}; they must both be (n,).")
    n = len(first)
    change = first.astype(float) - second
    variance = (np.sum(change**2) + 2) / (n + 2) - change.mean() ** 2  # added: none seen does not mean none
    return PairedDifference(
        difference=float(change.mean()), difference_stderr=float(np.sqrt(variance / n)), num_points=n
    )


def regression_score(outputs: Any, targets: Any) -> RegressionScore:
    """Squared loss and explained variance of predictions.

    Args:
        outputs: predictions (n,) or (n, C).
        targets: what was to be predicted, of the same shape.

    Raises:
        ShapeError: shapes do not fit, or there are fewer than three points.
        ValueError: an output's targets are constant.

    Example:
        >>> regression_score(np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0])).r2
        0.8
    """
    outputs, targets = checks.real_array(outputs, "outputs"), checks.real_array(targets, "targets")
    if outputs.shape != targets.shape or outputs.ndim not in (1, 2) or len(outputs) < 3:
        raise ShapeError(
            f"`outputs` has shape {outputs.shape} and `targets` {targets.shape}; give the same, of at least 3 points."
        )
    checks.all_finite(outputs, "outputs")
    checks.all_finite(targets, "targets")
    n = len(outputs)
    outputs, targets = outputs.reshape(n, -1).astype(np.float64), targets.reshape(n, -1).astype(np.float64)
    losses = (outputs - targets) ** 2
    spread = (targets - targets.mean(axis=0)) ** 2
    if (np.ptp(targets, axis=0) == 0).any():
        raise ValueError("`targets` are constant in an output; there is no variance to explain.")
    # Without point i, the sum of squares around the new mean is the old one less n/(n-1) times the point's own.
    remaining = spread.sum(axis=0) - n / (n - 1) * spread
    single = (remaining <= n * np.finfo(np.float64).eps * spread.sum(axis=0)).any()  # one point has all the variance
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = 1 - np.mean((losses.sum(axis=0) - losses) / remaining, axis=1)
    return RegressionScore(
        mse=float(losses.mean()),
        mse_stderr=float(losses.mean(axis=1).std(ddof=1) / np.sqrt(n)),
        r2=float(1 - np.mean(losses.sum(axis=0) / spread.sum(axis=0))),
        r2_stderr=float("inf") if single else float(np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))),
        num_points=n,
    )


def root_mean_square(values: Any) -> float:
    """The root of the mean of the squares of all entries, in float64.

    Example:
        >>> round(root_mean_square(np.array([3.0, 4.0])) ** 2, 9)
        12.5
    """
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def one_hot(labels: Any, num_classes: int) -> np.ndarray:
    """Centered one-hot targets: 1 - 1/C at the label and -1/C elsewhere, (n, C) in float64.

    Example:
        >>> one_hot(np.array([1]), 2).tolist()
        [[-0.5, 0.5]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TypeError(f"`labels` must be a vector of integers, but is {labels.dtype} of shape {labels.shape}.")
    checks.count(num_classes, "num_classes", "one_hot")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"`labels` run from {labels.min()} to {labels.max()}; they must lie in 0 ... {num_classes - 1}."
        )
    return (labels[:, None] == np.arange(num_classes)) - 1 / num_classes


def probability_score(probabilities: Any, labels: Any) -> ProbabilityScore:
    """Accuracy and log loss of predicted probabilities.

    Args:
        probabilities: (n, C), rows that sum to one.
        labels: integers in 0 ... C-1, (n,); any other counts as a class of probability zero, and makes the log loss
            infinite.

    Raises:
        ShapeError: shapes do not fit.
        ValueError: rows do not sum to one.

    Example:
        >>> probability_score(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])).accuracy
        0.5
    """
    probabilities, labels = checks.real_array(probabilities, "probabilities"), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),) or len(labels) == 0:
        raise ShapeError(
            f"`probabilities` has shape {probabilities.shape} and `labels` {labels.shape}; give (n, C) and (n,)."
        )
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-6) or (probabilities < 0).any():
        raise ValueError("`probabilities` must not be negative, and each row must sum to one.")
    n = len(labels)
    correct = int(np.sum(probabilities.argmax(axis=1) == labels))
    own = np.where(labels[:, None] == np.arange(probabilities.shape[1]), probabilities, 0.0).sum(axis=1)
    certain = bool((own > 0).all())
    losses = -np.log(own) if certain else np.full(n, np.inf)
    return ProbabilityScore(
        accuracy=correct / n,
        accuracy_stderr=_share_stderr(correct, n),
        log_loss=float(losses.mean()),
        log_loss_stderr=float(losses.std(ddof=1) / np.sqrt(n)) if certain and n > 1 else float("inf"),
        num_points=n,
    )


def _share_stderr(correct: int, n: int) -> float:
    """The standard error of a share, smoothed so that none seen does not mean none."""
    smoothed = (correct + 1) / (n + 2)
    return float(np.sqrt(smoothed * (1 - smoothed) / n))


def classification_score(outputs: Any, labels: Any) -> ClassificationScore:
    """Accuracy and squared loss of outputs that were trained on `one_hot` targets.

    Args:
        outputs: predictions (n, C).
        labels: integers in 0 ... C-1, (n,).

    Raises:
        ShapeError: shapes do not fit.
    """
    outputs = checks.real_array(outputs, "outputs")
    labels = np.asarray(labels)
    if outputs.ndim != 2 or labels.shape != (len(outputs),) or len(labels) == 0:
        raise ShapeError(
            f"`outputs` has shape {outputs.shape} and `labels` {labels.shape}; they must be (n, C) and (n,)."
        )
    checks.all_finite(outputs, "outputs")
    n = len(labels)
    correct = int(np.sum(outputs.argmax(axis=1) == labels))
    losses = np.mean((outputs - one_hot(labels, outputs.shape[1])) ** 2, axis=1)
    return ClassificationScore(
        accuracy=correct / n,
        accuracy_stderr=_share_stderr(correct, n),
        mse=float(losses.mean()),
        mse_stderr=float(losses.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf"),
        num_points=n,
    )
