"""Classifiers with the NNGP kernel and the tangent kernel."""

from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin

from widescape.estimators.base import KernelEstimator, classes_of, inputs_like_those_of_fit
from widescape.predict import one_hot

_LOG_SCALES = (-5.0, 8.0)  # natural logarithms between which the scale of the outputs is sought


class _KernelClassifier(ClassifierMixin, KernelEstimator):
    """Regression on centered one-hot targets; the largest output wins."""

    def fit(self, X: Any, y: Any) -> "_KernelClassifier":  # noqa: N803
        """Fit to inputs and labels.

        Args:
            X: (n, features) or (n, height, width, channels).
            y: labels (n,) of at least two classes, numbers or text.

        Raises:
            ValueError: parameters or data that do not fit, with what is accepted.
            IllConditionedError: the regularizer is too small for this kernel; names one that works.
            MemoryBudgetError: too many examples for this machine; says how many fit.
        """
        X, y = self._checked(X, y)  # noqa: N806
        self.classes_, labels = classes_of(self, y)
        left_out, _ = self._fit(X, one_hot(labels, len(self.classes_)), labels)
        labels = labels[self.train_indices_]
        self.loo_accuracy_ = float(np.mean(left_out.argmax(axis=1) == labels))
        self.loo_mse_ = float(np.mean((left_out - self.y_fit_) ** 2))
        self.scale_ = calibrated_scale(left_out, labels)
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Outputs (M, classes), trained towards 1 - 1/C and -1/C; for two classes their difference (M,)."""
        outputs = self._outputs(inputs_like_those_of_fit(self, X))
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The class with the largest output (M,)."""
        best = self._outputs(inputs_like_those_of_fit(self, X)).argmax(axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities (M, classes): the softmax of `scale_` times the outputs.

        The one number `scale_` maximizes the likelihood of the training labels under leave-one-out predictions
        (temperature scaling, guo2017calibration, without held-out data; `calibrated_scale` has the details).
        """
        outputs = self._outputs(inputs_like_those_of_fit(self, X))
        probabilities: np.ndarray = softmax(self.scale_ * outputs, axis=1)
        return probabilities


def calibrated_scale(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The factor b, between e^-5 and e^8, for which softmax(b outputs) gives the labels the largest likelihood.

    A label counts as right with probability 1 - 1/(n + 2), and as any other with the rest in equal parts: that none of
    n was wrong does not mean that none will be, and b stays finite (platt1999probabilistic). The loss is convex in b.

    Args:
        outputs: held-out predictions (n, C).
        labels: integers (n,).
    """
    n, classes = outputs.shape
    doubt = 1 / (n + 2)

    def loss(log_scale: float) -> float:
        logs = log_softmax(np.exp(log_scale) * outputs, axis=1)
        own = logs[np.arange(n), labels]
        others = (logs.sum(axis=1) - own) / (classes - 1)
        return -float(np.mean((1 - doubt) * own + doubt * others))

    found = optimize.minimize_scalar(loss, bounds=_LOG_SCALES, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


class NNGPClassifier(_KernelClassifier):
    """Classification with the NNGP kernel: Bayesian regression on one-hot targets with an infinitely wide network.

    Inputs are taken as they are: put a scaler before it in a pipeline (`InputScaler`, or scikit-learn's).

    Args:
        net: an architecture of `widescape.arch`, of which only the limit matters; None for
            `widescape.arch.default_network`.
        reg: the regularizer, in units of the mean of the kernel's diagonal; ``"loo"`` takes the one with the least
            leave-one-out loss, which needs no validation set.
        t: training time of the read-out under gradient flow on the loss 1/(2 n C) sum of squares, as a regularizer;
            None trains to the end.
        n_train_max: the most training examples; more are cut to a random subset with as many of each class as can be.
        random_state: seed of that draw.

    Attributes:
        classes_: the labels (C,), sorted.
        reg_, t_: the regularizer and the time that were used.
        loo_accuracy_, loo_mse_: leave-one-out accuracy, and squared loss on one-hot targets; exact at the end of
            training, approximations for a finite `t`.
        scale_: what `predict_proba` multiplies outputs by.
        X_fit_, y_fit_, weights_: training inputs (m, ...), their one-hot targets (m, C), and what the kernel between
            test and training inputs is multiplied by (m, C).
        train_indices_: which examples of `fit` they are.
        net_, input_shape_, n_features_in_: the architecture and the shape of an example.

    Cost: n (n + 1)/2 pairs of kernels and 2 n^3/3 flops; n M pairs for M predictions.

    Source: lee2020finite.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> NNGPClassifier(reg="loo").fit(x, y).loo_accuracy_ > 0.95
        True
    """

    _get = "nngp"


class NTKClassifier(_KernelClassifier):
    """Classification with the tangent kernel: the mean of infinitely wide networks trained by gradient descent.

    The parameters and attributes are those of `NNGPClassifier`; `t` is the training time of all layers.

    Source: jacot2018neural, lee2020finite.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> NTKClassifier(reg=1e-2).fit(x, y).predict(x[:2]).tolist()
        [0, 0]
    """

    _get = "ntk"
