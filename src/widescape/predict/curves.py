"""Accuracy and loss of kernel regression against its regularizer, and against the number of samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import IllConditionedError, ShapeError
from widescape.core.evidence import EXACT, estimate
from widescape.core.result import Result, quantity
from widescape.predict.gp import GP
from widescape.predict.score import ClassificationScore, classification_score, one_hot

DEFAULT_REGS: tuple[float, ...] = tuple(10.0**power for power in range(-7, 2))
_OVER_TEST = "over test points, drawn independently"


class RegularizerCurve(Result):
    """Kernel regression on one-hot targets for a range of relative regularizers."""

    source = "lee2020finite"
    reg: np.ndarray = quantity(EXACT, "relative regularizers, rising, (R,)")
    accuracy: np.ndarray = quantity(estimate("accuracy_stderr", _OVER_TEST), "test accuracy, (R,)")
    accuracy_stderr: np.ndarray = quantity(EXACT, "standard error of the accuracy, (R,)")
    mse: np.ndarray = quantity(estimate("mse_stderr", _OVER_TEST), "test squared loss, mean over outputs, (R,)")
    mse_stderr: np.ndarray = quantity(EXACT, "standard error of the squared loss, (R,)")
    loo_mse: np.ndarray = quantity(EXACT, "leave-one-out squared loss on the training points, (R,)")
    chosen: int = quantity(EXACT, "place of the regularizer with the least leave-one-out loss")
    dropped: tuple[float, ...] = quantity(EXACT, "regularizers at which the matrix was not positive definite")

    @property
    def best(self) -> tuple[float, float, float]:
        """Regularizer, accuracy and its standard error at the place that leave-one-out chose."""
        i = self.chosen
        return float(self.reg[i]), float(self.accuracy[i]), float(self.accuracy_stderr[i])

    def charts(self) -> tuple[Chart, ...]:
        """Accuracy and loss against the regularizer."""
        return regularizer_charts({"kernel": self})


class LearningCurve(Result):
    """Test accuracy and loss of kernel regression against the number of training samples."""

    source = "lee2020finite"
    sizes: np.ndarray = quantity(EXACT, "training samples, rising, (S,)")
    accuracy: np.ndarray = quantity(
        estimate("accuracy_stderr", "test points and training subsets"), "test accuracy, (S,)"
    )
    accuracy_stderr: np.ndarray = quantity(EXACT, "standard error, from test points and subsets together, (S,)")
    mse: np.ndarray = quantity(estimate("mse_stderr", "test points and training subsets"), "test squared loss, (S,)")
    mse_stderr: np.ndarray = quantity(EXACT, "standard error, from test points and subsets together, (S,)")
    num_subsets: np.ndarray = quantity(EXACT, "random training subsets behind each size, (S,)")

    def charts(self) -> tuple[Chart, ...]:
        """Accuracy and loss against the number of samples."""
        return learning_charts({"kernel": self})


def regularizer_curve(
    K: Any,  # noqa: N803
    labels: Any,
    K_test: Any,  # noqa: N803
    *,
    test_labels: Any,
    regs: Sequence[float] = DEFAULT_REGS,
) -> RegularizerCurve:
    """Fit at each relative regularizer, score on the test set and by leave-one-out.

    Regularizers at which the matrix is not positive definite to working precision are dropped and listed.

    Args:
        K: kernel of the training points, (m, m).
        labels: their labels, integers (m,).
        K_test: kernel of test by training points, (M, m).
        test_labels: labels of the test points, (M,).
        regs: relative regularizers (``reg_scale="mean_trace"``).

    Raises:
        IllConditionedError: no regularizer works.

    Cost: 2 m^3/3 flops per regularizer.
    """
    targets = one_hot(labels, _num_classes(labels, test_labels))
    rows: list[tuple[float, ClassificationScore, float]] = []
    dropped: list[float] = []
    failure: IllConditionedError | None = None
    for reg in sorted(regs):
        try:
            gp = GP(K, targets, reg=reg)
        except IllConditionedError as error:
            failure = error
            dropped.append(float(reg))
            continue
        rows.append((float(reg), classification_score(gp.mean(K_test), test_labels), gp.loo().mse))
    if not rows:
        raise failure if failure is not None else ValueError("`regs` is empty; give at least one regularizer.")
    scores = [score for _, score, _ in rows]
    loo = np.array([row[2] for row in rows])
    return RegularizerCurve(
        reg=np.array([row[0] for row in rows]),
        accuracy=np.array([s.accuracy for s in scores]),
        accuracy_stderr=np.array([s.accuracy_stderr for s in scores]),
        mse=np.array([s.mse for s in scores]),
        mse_stderr=np.array([s.mse_stderr for s in scores]),
        loo_mse=loo,
        chosen=int(loo.argmin()),
        dropped=tuple(dropped),
    )


def learning_curve(
    K: Any,  # noqa: N803
    labels: Any,
    K_test: Any,  # noqa: N803
    *,
    test_labels: Any,
    sizes: Sequence[int],
    reg: float,
    num_subsets: int = 3,
    seed: int = 0,
) -> LearningCurve:
    """Score regression on random subsets of the training points, cut from one kernel matrix.

    Subsets are nested (prefixes of one permutation per draw). The standard error joins the sampling of test points
    with the variance over subsets; a size with a single subset, as the full set, counts test points only.

    Args:
        K: kernel of the training points, (m, m).
        labels: their labels, integers (m,).
        K_test: kernel of test by training points, (M, m).
        test_labels: labels of the test points, (M,).
        sizes: training samples, each between 1 and m.
        reg: relative regularizer.
        num_subsets: draws per size.
        seed: of the permutations.

    Cost: num_subsets times sizes^3/3 flops.
    """
    kernel, cross, labels = checks.square_matrix(K, "K"), checks.real_array(K_test, "K_test"), np.asarray(labels)
    if labels.shape != (len(kernel),) or cross.ndim != 2 or cross.shape[1] != len(kernel):
        raise ShapeError(
            f"`K` has {len(kernel)} training points, `labels` shape {labels.shape} and `K_test` {cross.shape}; give "
            f"({len(kernel)},) and (M, {len(kernel)})."
        )
    if len(sizes) == 0:
        raise ValueError("`sizes` is empty; give at least one number of training samples.")
    checks.count(num_subsets, "num_subsets", "learning_curve")
    for size in sizes:
        checks.count(size, "sizes", "learning_curve")
        if size > len(labels):
            raise ValueError(f"`sizes` has {size}, but there are {len(labels)} training points.")
    targets = one_hot(labels, _num_classes(labels, test_labels))
    orders = [np.random.default_rng((seed, draw)).permutation(len(labels)) for draw in range(num_subsets)]
    rows = []
    for size in sorted(sizes):
        draws = orders if size < len(labels) else orders[:1]
        scores = []
        for order in draws:
            keep = order[:size]
            gp = GP(kernel[np.ix_(keep, keep)], targets[keep], reg=reg)
            scores.append(classification_score(gp.mean(cross[:, keep]), test_labels))
        rows.append((size, len(draws), *_pooled(scores, "accuracy"), *_pooled(scores, "mse")))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return LearningCurve(
        sizes=columns[0],
        num_subsets=columns[1],
        accuracy=columns[2],
        accuracy_stderr=columns[3],
        mse=columns[4],
        mse_stderr=columns[5],
    )


def regularizer_charts(curves: dict[str, RegularizerCurve]) -> tuple[Chart, ...]:
    """Accuracy and loss of several kernels against the regularizer."""
    accuracy = tuple(
        Series(c.reg, c.accuracy, name, c.accuracy - c.accuracy_stderr, c.accuracy + c.accuracy_stderr, "both")
        for name, c in curves.items()
    )
    loss = tuple(
        Series(c.reg, c.mse, f"{name}, test", c.mse - c.mse_stderr, c.mse + c.mse_stderr, "both")
        for name, c in curves.items()
    ) + tuple(Series(c.reg, c.loo_mse, f"{name}, leave-one-out", style="line") for name, c in curves.items())
    interval = "Intervals: one standard error over test points."
    axis = "regularizer / mean of the kernel's diagonal"
    return (
        Chart("accuracy-regularizer", "Test accuracy against the regularizer", axis, "test accuracy", accuracy,
              x_scale="log", caption=interval),
        Chart("loss-regularizer", "Squared loss against the regularizer", axis, "mean squared error", loss,
              x_scale="log", y_scale="log",
              caption=f"{interval} Leave-one-out needs no test data and is exact."),
    )  # fmt: skip


def learning_charts(curves: dict[str, LearningCurve], chance: float | None = None) -> tuple[Chart, ...]:
    """Accuracy and loss of several kernels against the number of samples."""
    interval = "Intervals: one standard error, from test points and random training subsets together."
    marker = () if chance is None else (Marker(chance, "chance"),)
    charts = []
    for field, title, label, scale in (
        ("accuracy", "Test accuracy against the number of samples", "test accuracy", "linear"),
        ("mse", "Squared loss against the number of samples", "mean squared error", "log"),
    ):
        series = []
        for name, curve in curves.items():
            y, error = getattr(curve, field), getattr(curve, f"{field}_stderr")
            series.append(Series(curve.sizes, y, name, y - error, y + error, "both"))
        charts.append(
            Chart(f"{label.split()[-1]}-samples", title, "training samples", label, tuple(series), x_scale="log",
                  y_scale="log" if scale == "log" else "linear", markers=marker if field == "accuracy" else (),
                  caption=interval)
        )  # fmt: skip
    return tuple(charts)


def _pooled(scores: list[ClassificationScore], field: str) -> tuple[float, float]:
    """Mean over subsets, and its standard error from test points (shared by the subsets) and subsets."""
    values = np.array([getattr(s, field) for s in scores])
    over_test = float(np.mean([getattr(s, f"{field}_stderr") ** 2 for s in scores]))
    over_subsets = float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), (over_test + over_subsets) ** 0.5


def _num_classes(*labels: Any) -> int:
    for part in labels:
        if np.size(part) == 0:
            raise ShapeError("`labels` or `test_labels` is empty; give at least one training and one test point.")
    return int(max(np.max(part) for part in labels)) + 1
