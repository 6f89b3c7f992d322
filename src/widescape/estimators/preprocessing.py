"""Transformers of inputs: scaling and whitening."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from widescape.data import ZCA, scaling
from widescape.data.standardization import Per
from widescape.estimators.base import inputs_like_those_of_fit


class _InputTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Keeps the shape of inputs, tables or images."""

    input_shape_: tuple[int, ...]

    def _to_fit(self, x: Any, min_features: int = 1) -> np.ndarray:
        x = validate_data(
            self, x, dtype=np.float64, allow_nd=True, ensure_min_samples=2, ensure_min_features=min_features
        )
        self.input_shape_ = x.shape[1:]
        return x

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of a table; images have none.

        Raises:
            ValueError: the transformer was fitted to images.
        """
        check_is_fitted(self)
        if len(self.input_shape_) > 1:
            raise ValueError(f"{type(self).__name__} was fitted to examples of shape {self.input_shape_}: no columns.")
        names: np.ndarray = super().get_feature_names_out(input_features)
        return names


class InputScaler(_InputTransformer):
    """Standardizes inputs: one mean and deviation for all entries of images, one each for the features of a table.

    Args:
        per: ``"auto"`` as said; ``"all"``, ``"channel"`` or ``"feature"`` as in `widescape.data.scaling`.

    Attributes:
        mean_, scale_: in a shape that broadcasts over one example.
        input_shape_: the shape of an example.

    Example:
        >>> InputScaler().fit_transform(np.array([[1.0, 10.0], [3.0, 30.0]])).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """

    def __init__(self, per: Per = "auto") -> None:
        self.per = per

    def fit(self, X: Any, y: Any = None) -> "InputScaler":  # noqa: N803
        """Learn mean and deviation from training inputs (n, ...)."""
        del y
        x = self._to_fit(X)
        self.mean_, self.scale_ = scaling(x, self.per)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Scaled inputs, shaped like `X`."""
        return (inputs_like_those_of_fit(self, X) - self.mean_) / self.scale_


class ZCAWhitener(_InputTransformer):
    """Regularized ZCA whitening of tables or images, as `widescape.data.ZCA` does it.

    Args:
        reg: the regularizer, positive, in units of the mean eigenvalue of the second moments.
        image_norm: whether each example is centered and normalized before.
        rescale: whether the result has unit mean square on the training set.

    Attributes:
        zca_: the fitted `widescape.data.ZCA`.
        input_shape_: the shape of an example.

    Warns:
        WhiteningWarning: `fit` gets fewer examples than they have entries.

    Source: lee2020finite.
    """

    def __init__(self, reg: float = 0.1, image_norm: bool = True, rescale: bool = True) -> None:
        self.reg = reg
        self.image_norm = image_norm
        self.rescale = rescale

    def fit(self, X: Any, y: Any = None) -> "ZCAWhitener":  # noqa: N803
        """Learn the transformation from training inputs (n, ...)."""
        del y
        x = self._to_fit(X, 2 if self.image_norm else 1)  # one entry less its own mean is zero
        self.zca_ = ZCA(self.reg, self.image_norm, self.rescale).fit(x)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Whitened inputs, shaped like `X`."""
        return self.zca_.transform(inputs_like_those_of_fit(self, X))
