"""A data set in memory, its parts, and its splits."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import DataError, ShapeError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs with targets, split into training and test examples.

    Attributes:
        name: as `load` knows it, or the name of the file it came from.
        x_train, x_test: images (N, H, W, C), float64 in [0, 1], or tables (N, features), float64.
        y_train, y_test: labels (N,), integers from 0; or, where `num_classes` is None, numbers (N,) or (N, outputs).
        num_classes: how many labels there are; None for a regression.
        source: where it came from, for people.
        class_names: what the labels stand for, if known.
        feature_names: the columns of a table, if they have names.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int | None
    source: str
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if y.shape[:1] != (len(x),) or len(x) == 0 or (self.num_classes is not None and y.ndim != 1):
                raise ShapeError(f"data set {self.name!r}: {len(x)} {part} examples and targets of shape {y.shape}.")
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise ShapeError(
                f"data set {self.name!r}: training examples {self.x_train.shape[1:]} with targets "
                f"{self.y_train.shape[1:]} beside test examples {self.x_test.shape[1:]} with {self.y_test.shape[1:]}."
            )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x_train, y_train, x_test, y_test)."""
        return self.x_train, self.y_train, self.x_test, self.y_test

    def subset(self, n_train: int, n_test: int, *, seed: int | None = None, balanced: bool = False) -> "Dataset":
        """The first examples of both parts, or, with a seed, a random draw without replacement.

        Args:
            n_train: how many training examples.
            n_test: how many test examples.
            seed: of the draw; None keeps the order of the data.
            balanced: as many of each class as there can be, class by class in turn.

        Raises:
            ValueError: the data set has fewer examples.
            DataError: `balanced` is asked of a regression.
        """
        if balanced:
            _ = self.class_count  # refuses a regression
        parts: list[np.ndarray] = []
        for stream, (n, part) in enumerate(((n_train, "train"), (n_test, "test"))):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            keep = _drawn(n, y, f"`n_{part}` of {self.name!r}", None if seed is None else (seed, stream), balanced)
            parts += [x[keep], y[keep]]
        x_train, y_train, x_test, y_test = parts
        return replace(self, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    @property
    def class_count(self) -> int:
        """The number of classes.

        Raises:
            DataError: the targets are numbers and not labels.
        """
        if self.num_classes is None:
            raise DataError(f"data set {self.name!r} is a regression; classes are needed here.")
        return self.num_classes

    @property
    def fingerprint(self) -> str:
        """The first 12 digits of the SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in self.arrays():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


def _drawn(n: int, y: np.ndarray, what: str, stream: tuple[int, int] | None, balanced: bool) -> np.ndarray:
    """Places of `n` examples."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{what} is {n!r}; it must be an integer.")
    if not 1 <= n <= len(y):
        raise ValueError(f"{what} is {n}; choose between 1 and {len(y)} examples.")
    if stream is not None:
        checks.count(stream[0], "seed", "subset", minimum=0)
    order = np.arange(len(y)) if stream is None else np.random.default_rng(stream).permutation(len(y))
    return order[in_turn(y[order])[:n]] if balanced else order[:n]


def in_turn(labels: np.ndarray) -> np.ndarray:
    """An order of examples that takes one of each class in turn: the first of each, then the second, ...

    Example:
        >>> in_turn(np.array([1, 1, 0, 1, 0])).tolist()
        [2, 0, 4, 1, 3]
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.lexsort((labels, rank))


def split(y: Any, fraction: float = 0.2, *, seed: int = 0, balanced: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Places of training and test examples, drawn at random without replacement.

    Args:
        y: targets (N,) or (N, outputs); with `balanced`, labels (N,).
        fraction: of the examples that are held out, rounded, at least one and not all.
        seed: of the draw.
        balanced: hold out the same share of every class, up to rounding, instead of a share of all examples.

    Returns:
        two vectors of integers, each in rising order.

    Raises:
        ValueError: there are fewer than two examples, or `fraction` does not lie in (0, 1).

    Example:
        >>> train, test = split(np.array([0] * 8 + [1] * 4), 0.25, balanced=True)
        >>> len(train), np.array([0] * 8 + [1] * 4)[test].tolist()
        (9, [0, 0, 1])
    """
    y = np.asarray(y)
    checks.count(seed, "seed", "split", minimum=0)
    if not 0 < checks.number(fraction, "fraction", "split") < 1:
        raise ValueError(f"`fraction` is {fraction}; it must lie strictly between 0 and 1.")
    n = len(y)
    if n < 2:
        raise ValueError(f"`y` has {n} examples; a split needs at least two.")
    count = min(max(1, round(fraction * n)), n - 1)
    order = np.random.default_rng((seed, 0)).permutation(n)
    if balanced:
        if y.ndim != 1:
            raise ShapeError(f"`y` has shape {y.shape}; a balanced split needs labels of shape (N,).")
        order = order[_proportional(y[order])]
    return np.sort(order[count:]), np.sort(order[:count])


def _proportional(labels: np.ndarray) -> np.ndarray:
    """An order of which every prefix has nearly the same share of each class."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels))
    place[by_class] = (np.arange(len(labels)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    return np.argsort(place, kind="stable")


def require_classes(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Refuse labels outside of 0 ... num_classes - 1.

    Raises:
        DataError: names the label.
    """
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise DataError(f"{what} has labels from {labels.min()} to {labels.max()}; expected 0 ... {num_classes - 1}.")
