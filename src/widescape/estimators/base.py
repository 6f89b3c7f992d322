"""What all kernel estimators share: parameters, checks, the choice of examples, predictions."""

from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.arch.presets import default_network
from widescape.data.dataset import in_turn
from widescape.estimators.cache import kernel_cache
from widescape.estimators.solver import Solver

_BLOCK = 2048  # test examples whose kernel is held at a time


class KernelEstimator(BaseEstimator):
    """Regression with the kernel of an infinitely wide network; see the classes that derive from it."""

    _get: ClassVar[Get]
    input_shape_: tuple[int, ...]

    def __init__(
        self,
        net: Layer | None = None,
        reg: float | Literal["loo"] = 1e-3,
        t: float | None = None,
        n_train_max: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.net = net
        self.reg = reg
        self.t = t
        self.n_train_max = n_train_max
        self.random_state = random_state

    def _checked(self, x: Any, y: Any, **options: Any) -> tuple[np.ndarray, Any]:
        """Parameters and data, refused by name where they are wrong."""
        owner = type(self).__name__
        if self.net is not None and not isinstance(self.net, Layer):
            raise TypeError(f"{owner}: `net` is {self.net!r}; give a network of widescape.arch, or None.")
        if isinstance(self.reg, str) and self.reg != "loo":
            raise ValueError(f"{owner}: `reg` is {self.reg!r}; give a number that is not negative, or 'loo'.")
        if not isinstance(self.reg, str) and not (_is_number(self.reg) and self.reg >= 0):
            raise ValueError(f"{owner}: `reg` is {self.reg!r}; give a number that is not negative, or 'loo'.")
        if self.t is not None and not (_is_number(self.t) and self.t > 0):
            raise ValueError(f"{owner}: `t` is {self.t!r}; give a positive time, or None for the end of training.")
        if self.t is not None and isinstance(self.reg, str):
            raise ValueError(f"{owner}: reg='loo' chooses for the end of training; with `t`, give `reg` as a number.")
        if self.n_train_max is not None and not (isinstance(self.n_train_max, Integral) and self.n_train_max >= 2):
            raise ValueError(f"{owner}: `n_train_max` is {self.n_train_max!r}; give at least 2, or None for all.")
        if not isinstance(self.random_state, Integral) or self.random_state < 0:
            raise ValueError(f"{owner}: `random_state` is {self.random_state!r}; give an integer that is not negative.")
        x, y = validate_data(self, x, y, dtype=np.float64, allow_nd=True, ensure_min_samples=2, **options)
        self.input_shape_ = x.shape[1:]
        return x, y

    def _fit(self, x: np.ndarray, y: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Fit targets (m, C); returns what `Solver.loo` does. With labels, subsets are balanced."""
        self.train_indices_ = self._chosen(len(x), labels)
        self.X_fit_, self.y_fit_ = x[self.train_indices_], y[self.train_indices_]  # copies: the caller may go on
        self.net_ = default_network(y.shape[1]) if self.net is None else self.net
        self.t_ = self.t
        self._solver = Solver(self.net_, self._get, self.X_fit_, self.y_fit_, self.reg, self.t_)
        self.reg_ = self._solver.reg
        self.weights_ = self._solver.weights()
        return self._solver.loo()

    def restore(self) -> None:
        """Make again what a file does not hold."""
        self._solver = Solver(self.net_, self._get, self.X_fit_, self.y_fit_, self.reg_, self.t_)

    def _chosen(self, n: int, labels: np.ndarray | None) -> np.ndarray:
        """Which examples train."""
        if self.n_train_max is None or n <= self.n_train_max:
            return np.arange(n)
        if labels is not None and self.n_train_max < (classes := len(np.unique(labels))):
            raise ValueError(
                f"{type(self).__name__}: `n_train_max` is {self.n_train_max}, but there are {classes} classes; give at "
                "least as many."
            )
        order = np.random.default_rng((self.random_state, 0)).permutation(n)
        if labels is not None:
            order = order[in_turn(labels[order])]
        return np.sort(order[: self.n_train_max])

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """Outputs of the fitted model (M, C), block by block."""
        blocks = [
            kernel_cache.cross(self.net_, x[start : start + _BLOCK], self.X_fit_, self._get) @ self.weights_
            for start in range(0, len(x), _BLOCK)
        ]
        return np.concatenate(blocks)


class ManyTargets(RegressorMixin):
    """A regressor that takes several targets at once."""

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def inputs_like_those_of_fit(estimator: Any, x: Any) -> np.ndarray:
    """Checked inputs for a fitted estimator that has an `input_shape_`.

    Raises:
        NotFittedError: it is not fitted.
        ValueError: examples of another shape, or not finite.
    """
    check_is_fitted(estimator)
    x = validate_data(estimator, x, dtype=np.float64, allow_nd=True, reset=False)
    if x.shape[1:] != estimator.input_shape_:
        raise ValueError(f"X has examples of shape {x.shape[1:]}, but those of `fit` have {estimator.input_shape_}.")
    return x


def classes_of(estimator: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels, sorted, and the index of each example's.

    Raises:
        ValueError: numbers that are no labels, or one class only.
    """
    check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__}: `y` has one class only, {classes[0]!r}; a classifier needs at least two."
        )
    return classes, labels


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))
