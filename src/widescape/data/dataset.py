"""A data set in memory."""

import hashlib
from dataclasses import dataclass

import numpy as np

from widescape.core import checks
from widescape.core.errors import DataError, ShapeError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with integer labels, split into training and test examples.

    Attributes:
        name: as `load` knows it.
        x_train, x_test: images (N, H, W, C), float64 in [0, 1].
        y_train, y_test: labels (N,), integers from 0.
        num_classes: how many labels there are.
        source: where it came from, for people.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if y.shape != (len(x),) or len(x) == 0:
                raise ShapeError(f"data set {self.name!r}: {len(x)} {part} images and labels of shape {y.shape}.")

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x_train, y_train, x_test, y_test)."""
        return self.x_train, self.y_train, self.x_test, self.y_test

    def subset(self, n_train: int, n_test: int, *, seed: int | None = None) -> "Dataset":
        """The first examples of both parts, or, with a seed, a random draw without replacement.

        Raises:
            ValueError: the data set has fewer examples.
        """
        train = _drawn(n_train, self.x_train, self.y_train, f"`n_train` of {self.name!r}", seed, 0)
        test = _drawn(n_test, self.x_test, self.y_test, f"`n_test` of {self.name!r}", seed, 1)
        return Dataset(self.name, *train, *test, self.num_classes, self.source)

    @property
    def fingerprint(self) -> str:
        """The first 12 digits of the SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in self.arrays():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


def _drawn(
    n: int, x: np.ndarray, y: np.ndarray, what: str, seed: int | None, stream: int
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{what} is {n!r}; it must be an integer.")
    if not 1 <= n <= len(x):
        raise ValueError(f"{what} is {n}; choose between 1 and {len(x)} examples.")
    if seed is not None:
        checks.count(seed, "seed", "subset", minimum=0)
    order = np.arange(n) if seed is None else np.random.default_rng((seed, stream)).permutation(len(x))[:n]
    return x[order], y[order]


def standardize(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """All arrays minus the mean of `train`, over its standard deviation: one number each, over all entries.

    Raises:
        DataError: `train` is constant.
    """
    for array in (train, *others):
        checks.all_finite(np.asarray(array), "train and others")
    mean, std = float(train.mean()), float(train.std())
    if std <= np.finfo(np.float64).eps * len(train) * abs(mean):
        raise DataError(f"`train` is constant ({mean:.3g}); it cannot be standardized.")
    return tuple((array - mean) / std for array in (train, *others))
