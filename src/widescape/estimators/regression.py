"""Regressors with the NNGP kernel and the tangent kernel."""

from typing import Any, Literal, overload

import numpy as np

from widescape.data.standardization import moments
from widescape.estimators.base import KernelEstimator, ManyTargets, inputs_like_those_of_fit


class _KernelRegressor(ManyTargets, KernelEstimator):
    """Targets are standardized with the training set's mean and deviation; predictions are in their own units."""

    def fit(self, X: Any, y: Any) -> "_KernelRegressor":  # noqa: N803
        """Fit to inputs and real targets.

        Args:
            X: (n, features) or (n, height, width, channels).
            y: (n,) or (n, outputs).

        Raises:
            ValueError: parameters or data that do not fit, with what is accepted.
            IllConditionedError: the regularizer is too small for this kernel; names one that works.
            MemoryBudgetError: too many examples for this machine; says how many fit.
        """
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)  # noqa: N806
        y = np.asarray(y, np.float64)
        self._vector = y.ndim == 1
        targets = y[:, None] if self._vector else y
        self.y_mean_, self.y_scale_, constant = moments(targets, (0,))
        scaled = (targets - self.y_mean_) / self.y_scale_
        left_out, variance = self._fit(X, scaled, None)
        with np.errstate(over="ignore"):  # infinite where squares of the targets are
            self.loo_mse_ = float(np.mean(((self.y_fit_ - left_out) * self.y_scale_) ** 2))
        self.spread_ = (
            np.ones(targets.shape[1])
            if variance is None
            else np.where(constant, 1.0, np.sqrt(np.mean((self.y_fit_ - left_out) ** 2 / variance[:, None], axis=0)))
        )
        return self

    @overload
    def predict(self, X: Any, return_std: Literal[False] = False) -> np.ndarray: ...  # noqa: N803
    @overload
    def predict(self, X: Any, return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...  # noqa: N803
    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """Predicted targets, and how uncertain they are if asked for.

        Args:
            X: inputs as those of `fit`.
            return_std: whether to return standard deviations too; the class says which. Costs m^2 per test point.

        Returns:
            (M,) or (M, outputs); with `return_std` a pair of such arrays.
        """
        X = inputs_like_those_of_fit(self, X)  # noqa: N806
        mean = self._outputs(X) * self.y_scale_ + self.y_mean_
        if not return_std:
            return mean[:, 0] if self._vector else mean
        std = self._deviation(X)[:, None] * (self.spread_ * self.y_scale_)
        return (mean[:, 0], std[:, 0]) if self._vector else (mean, std)

    def _deviation(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(self._solver.variances(x))


class NNGPRegressor(_KernelRegressor):
    """Bayesian regression with an infinitely wide network: Gaussian-process regression with the NNGP kernel.

    Inputs are taken as they are: put a scaler before it in a pipeline (`InputScaler`, or scikit-learn's). Targets are
    standardized inside.

    Args:
        net: an architecture of `widescape.arch`, of which only the limit matters; None for
            `widescape.arch.default_network`.
        reg: the regularizer, in units of the mean of the kernel's diagonal; ``"loo"`` takes the one with the least
            leave-one-out loss, which needs no validation set.
        t: training time of the read-out under gradient flow on the loss 1/(2 n C) sum of squares, as a regularizer;
            None trains to the end.
        n_train_max: the most training examples; more are cut to a random subset.
        random_state: seed of that draw.

    Attributes:
        reg_, t_: the regularizer and the time that were used.
        loo_mse_: leave-one-out squared error, mean over outputs, in the squared units of `y`; for the mean, deviation
            and regularizer of all data exact at the end of training, an approximation for a finite `t`.
        spread_: by which factor deviations were scaled, one for each output, so that standardized leave-one-out
            residuals have unit mean square.
        X_fit_, y_fit_, weights_: training inputs (m, ...), their standardized targets (m, C), and what the kernel
            between test and training inputs is multiplied by (m, C).
        train_indices_: which examples of `fit` they are.
        net_, input_shape_, n_features_in_: the architecture and the shape of an example.

    Standard deviations are those of a new observation: of the posterior and the regularizer as noise together,
    scaled by `spread_`. For a finite `t` they are the spread over trained networks, not scaled.

    Cost: n (n + 1)/2 pairs of kernels and 2 n^3/3 flops; n M pairs for M predictions.

    Source: lee2020finite; leave-one-out formulas of rasmussen2006gaussian.

    Example:
        >>> x = np.linspace(-2, 2, 30)[:, None]
        >>> model = NNGPRegressor(reg="loo").fit(x, np.sin(2 * x[:, 0]))
        >>> mean, std = model.predict(np.array([[0.5]]), return_std=True)
        >>> bool(abs(mean[0] - np.sin(1.0)) < 0.01), std.shape
        (True, (1,))
    """

    _get = "nngp"

    def _deviation(self, x: np.ndarray) -> np.ndarray:
        noise = self._solver.noise if self.t_ is None else 0.0
        return np.sqrt(self._solver.variances(x) + noise)


class NTKRegressor(_KernelRegressor):
    """Regression with infinitely wide networks trained by gradient descent: the mean of an ensemble of them.

    The parameters are those of `NNGPRegressor`; `t` is the training time of all layers.

    Attributes:
        reg_, t_, loo_mse_, X_fit_, y_fit_, weights_, train_indices_, net_, input_shape_: as those of `NNGPRegressor`.

    Standard deviations are the spread over randomly initialized networks after training on the standardized targets
    (lee2019wide), in the units of `y`, without observation noise and not scaled: how far one such network is from the
    mean.

    Cost: as `NNGPRegressor`; standard deviations need the NNGP kernel too.

    Source: jacot2018neural, lee2019wide, lee2020finite.

    Example:
        >>> x = np.linspace(-2, 2, 30)[:, None]
        >>> model = NTKRegressor(reg=1e-4).fit(x, np.sin(2 * x[:, 0]))
        >>> bool(abs(model.predict(np.array([[0.5]]))[0] - np.sin(1.0)) < 0.01)
        True
    """

    _get = "ntk"
