"""Standardizing inputs with the statistics of the training set."""

from typing import Literal

import numpy as np

from widescape.core import checks
from widescape.core.errors import DataError, NonFiniteError

_ROUNDING = 16 * np.finfo(np.float64).eps

Per = Literal["all", "channel", "feature", "auto"]


def scaling(train: np.ndarray, per: Per = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of `train`, in a shape that broadcasts over one example.

    Args:
        train: examples (N, ...), floating point.
        per: one number for ``"all"`` entries, one for each ``"channel"`` (the last axis) or each ``"feature"`` (every
            entry of an example); ``"auto"`` is ``"feature"`` for tables (N, features) and ``"all"`` for images.

    Raises:
        DataError: everything is constant. A single channel or feature that is constant gets the scale 1.
        NonFiniteError: entries differ by more than float64 holds.
    """
    checks.choice(per, "per", Per)
    if per == "auto":
        per = "feature" if train.ndim == 2 else "all"
    axes = {"all": tuple(range(train.ndim)), "channel": tuple(range(train.ndim - 1)), "feature": (0,)}[per]
    mean, std, constant = moments(train, axes)
    if constant.all():
        raise DataError(f"`train` is constant ({np.ravel(mean)[0]:.3g}); it cannot be standardized.")
    return mean, std


def moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation over `axes`, and where all entries agree to rounding; the deviation is 1 there.

    Raises:
        NonFiniteError: entries differ by more than float64 holds.
    """
    largest = float(np.abs(x).max())
    unit = largest if largest > 0 and not 1e-100 < largest < 1e100 else 1.0  # squares would not fit
    scaled = x if unit == 1.0 else x / unit
    with np.errstate(over="ignore", under="ignore"):
        mean, std = scaled.mean(axis=axes) * unit, scaled.std(axis=axes) * unit
        spread = np.ptp(scaled, axis=axes)
    constant = (spread <= _ROUNDING * np.abs(scaled).max(axis=axes)) | (std == 0)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise NonFiniteError(f"entries up to {largest:.3g} have no mean and deviation in float64; scale them.")
    return np.asarray(mean), np.where(constant, 1.0, std), np.asarray(constant)


def standardize(train: np.ndarray, *others: np.ndarray, per: Per = "all") -> tuple[np.ndarray, ...]:
    """All arrays minus the mean of `train`, over its standard deviation.

    Args:
        train: examples (N, ...), floating point.
        *others: examples of the same shape, transformed alike.
        per: one mean and one deviation over all entries, or one each, as for `scaling`.

    Raises:
        DataError: `train` is constant.
        ValueError: an array is not finite.
    """
    for array in (train, *others):
        checks.all_finite(np.asarray(array), "train and others")
    mean, std = scaling(train, per)
    return tuple((array - mean) / std for array in (train, *others))
