"""Regularized ZCA whitening."""

import warnings
from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import ShapeError, WhiteningWarning
from widescape.data.standardization import moments


class ZCA:
    """Regularized ZCA whitening: inputs with nearly uncorrelated entries that still look like images.

    Steps, all with training statistics: standardize each channel; flatten to d entries; with `image_norm`, subtract
    each image's own mean and divide it by its Euclidean norm; with Sigma = X^T X / m = U diag(s) U^T, multiply by
    W = U (diag(s) + reg tr(Sigma)/d)^(-1/2) U^T. With fewer images than entries, directions that no training image
    reaches keep the factor 1. With `rescale`, everything is divided by one number, so that the mean square of the
    whitened training entries is 1 and ||x||^2/d compares with the variance of a bias.

    Args:
        reg: the regularizer, positive, in units of the mean eigenvalue tr(Sigma)/d.
        image_norm: whether each image is centered and normalized before.
        rescale: whether the result has unit mean square on the training set.

    Attributes (after `fit`):
        mean, std: of each channel.
        eigenvalues: of Sigma, rising, min(m, d) of them.
        vectors: their eigenvectors, in columns, (d, min(m, d)).
        multipliers: of each eigenvector.
        outside: the factor of directions that no training image reaches.

    Cost: 2 m d min(m, d) flops for Sigma (or for X X^T if m < d), about 9 min(m, d)^3 for its eigenvectors; then
    4 d min(m, d) for each image that is transformed.

    Source: lee2020finite (regularized ZCA); steps as in public code of its authors.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 4, 4, 1))
        >>> white = ZCA(reg=1e-6, image_norm=False).fit(x).transform(x).reshape(500, 16)
        >>> bool(np.allclose(white.T @ white / 500, np.eye(16), atol=1e-5))
        True
    """

    def __init__(self, reg: float = 0.1, image_norm: bool = True, rescale: bool = True) -> None:
        checks.positive(checks.number(reg, "reg", "ZCA"), "reg", "ZCA")
        self.reg, self.image_norm, self.rescale = float(reg), bool(image_norm), bool(rescale)
        self._shape: tuple[int, ...] | None = None

    def fit(self, x: Any) -> "ZCA":
        """Learn the transformation from training inputs.

        Args:
            x: (m, ..., channels), floating point; tables (m, d) have one channel per feature.

        Raises:
            DtypeError, ShapeError, ValueError: not a batch of finite numbers, or all of it constant.

        Warns:
            WhiteningWarning: fewer images than entries: whitening then makes the training images nearly orthogonal
                and usually harms kernels.
        """
        x = checks.batch(x, "x")
        self._shape = None  # until everything fits together
        flat_axes = tuple(range(x.ndim - 1))
        self.mean, self.std, constant = moments(x, flat_axes)
        rows = self._rows(x)
        m, d = rows.shape
        total = float(np.square(rows).sum()) / m
        if constant.all() or total == 0:
            raise ValueError("`x` is constant; there is nothing to whiten.")
        if m < d:
            warnings.warn(
                f"whitening {d} entries with {m} examples makes the training examples nearly orthogonal and usually "
                "harms kernels; use more examples than entries, or a larger `reg`, and tune it on held-out data.",
                WhiteningWarning,
                stacklevel=2,
            )
        self.eigenvalues, self.vectors = _principal(rows)
        noise = self.reg * total / d
        self.multipliers = (self.eigenvalues + noise) ** -0.5
        self.outside = 1.0
        if self.rescale:
            scale = (float((self.eigenvalues * self.multipliers**2).sum()) / d) ** 0.5
            self.multipliers, self.outside = self.multipliers / scale, 1 / scale
        self._shape = x.shape[1:]
        return self

    def transform(self, x: Any) -> np.ndarray:
        """Whitened inputs, shaped like `x`, in float64.

        Raises:
            ShapeError: examples of another shape than those of `fit`, or `fit` did not run.
        """
        if self._shape is None:
            raise ShapeError("ZCA: call `fit` before `transform`.")
        x = checks.batch(x, "x")
        if x.shape[1:] != self._shape:
            raise ShapeError(f"`x` has examples of shape {x.shape[1:]}, but those of `fit` have {self._shape}.")
        rows = self._rows(x)
        with threads_for(len(self.vectors)):
            parts = rows @ self.vectors
            if len(self.multipliers) == rows.shape[1]:
                white = (parts * self.multipliers) @ self.vectors.T
            else:
                white = self.outside * rows + (parts * (self.multipliers - self.outside)) @ self.vectors.T
        return white.reshape(x.shape)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """Standardized and flat, (m, d)."""
        rows = ((x - self.mean) / self.std).reshape(len(x), -1)
        if self.image_norm:
            means = rows.mean(axis=1, keepdims=True)
            rows = rows - means
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rounding = 8 * rows.shape[1] * np.finfo(np.float64).eps * np.abs(means)
            rows = np.where(norms > rounding, rows / np.where(norms > 0, norms, 1.0), 0.0)
        return rows


def _principal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of X^T X / m where they are not zero, from the smaller of the two Gram matrices."""
    m, d = rows.shape
    with threads_for(min(m, d)):
        gram = rows.T @ rows if m >= d else rows @ rows.T
        values, vectors = linalg.eigh(gram / m, driver="evd", check_finite=False)
        values = np.maximum(values, 0.0)
        if m >= d:
            return values, vectors
        reached = values > m * np.finfo(np.float64).eps * values[-1]
        return values[reached], (rows.T @ vectors[:, reached]) / np.sqrt(m * values[reached])
