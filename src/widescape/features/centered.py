"""Activations of one layer, checked once, with what several measures share."""

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import ShapeError

T = TypeVar("T")

SLACK = 1e-12
"""What a cumulative share may lack, by rounding, of the share that is asked for."""


class Representation:
    """Activations X (n, p) of n samples in float64, up to a factor, and what is computed from them once.

    The factor is a power of two, so that no product of activations overflows; no measure of this room depends on it.

    Attributes:
        raw: X up to the factor, columns not centered.
        x: columns centered, up to another power of two; columns that do not vary are exactly zero.
        exponent: X with columns centered is `x` times two to this power.
        epsilon: the rounding unit of the numbers that came in, float32 as a rule for activations of networks.
        n: samples.
        name: what errors call it.
        varies: whether samples differ.

    Args:
        x: activations.
        name: what errors call them.
        constant: whether samples may all be equal.
    """

    def __init__(self, x: Any, name: str, *, constant: bool = False) -> None:
        array = matrix(x, name)
        self.epsilon = float(jnp.finfo(array.dtype).eps)
        self.name, self.n = name, len(array)
        if self.n < 2:
            raise ShapeError(f"`{name}` has a single sample; similarities compare how samples differ. Give more.")
        self.raw, self._raw_exponent = scaled(np.asarray(array, np.float64))
        self.x, more = scaled(center_columns(self.raw))
        self.exponent = self._raw_exponent + more
        self.varies = bool(self.x.any())
        if not self.varies and not constant:
            raise ValueError(
                f"`{name}` is constant: all {self.n} samples have the same activations, so there is nothing to "
                "compare. Leave the layer out, or give other samples."
            )
        self._kept: dict[Hashable, Any] = {}

    @property
    def given(self) -> np.ndarray:
        """X as it came, in float64."""
        original: np.ndarray = np.ldexp(self.raw, self._raw_exponent)
        return original

    @property
    def is_narrow(self) -> bool:
        """Whether products of features are smaller than products of samples: p < n."""
        return self.x.shape[1] < self.n

    @cached_property
    def gram(self) -> np.ndarray:
        """X X^T of the centered columns (n, n). Cost: 2 n^2 p flops."""
        return self.x @ self.x.T

    @cached_property
    def compact(self) -> np.ndarray:
        """A factor F (n, min(n, p)) with F F^T = X X^T, so that no condition number is squared."""
        if self.x.shape[1] <= self.n:
            return self.x
        with threads_for(self.n):
            factor: np.ndarray = linalg.qr(self.x.T, mode="r", check_finite=False)[0][: self.n].T
        return factor

    @cached_property
    def left(self) -> tuple[np.ndarray, np.ndarray]:
        """Left singular vectors in columns (n, r) and singular values (r,), falling, with r = min(n, p)."""
        with threads_for(min(self.x.shape)):
            vectors, values, _ = linalg.svd(self.compact, full_matrices=False, check_finite=False)
        return vectors, values

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed the first time that `key` is asked for."""
        if key not in self._kept:
            self._kept[key] = compute()
        kept: T = self._kept[key]
        return kept


def pair(x: Any, y: Any, *, constant: bool = False) -> tuple[Representation, Representation]:
    """Two representations of the same samples, refused where they are constant unless that may be."""
    a, b = Representation(x, "x", constant=constant), Representation(y, "y", constant=constant)
    if a.n != b.n:
        raise ShapeError(
            f"`x` has {a.n} samples and `y` {b.n}; give activations on the same samples, in the same order, as (n, p) "
            "and (n, q)."
        )
    return a, b


def matrix(x: Any, name: str) -> np.ndarray:
    """A finite real matrix as it came, floating point.

    Raises:
        DtypeError: integers, booleans, complex numbers or objects.
        ShapeError: not two axes, or one of them empty.
        ValueError: NaN or infinite entries.
    """
    array = checks.real_array(x, name)
    if array.ndim != 2 or array.size == 0:
        raise ShapeError(
            f"`{name}` has shape {array.shape}; give a matrix of samples by features (n, p). Activations of images "
            "become one by `layer_activations(..., positions=...)`, or by a reshape."
        )
    checks.all_finite(array, name)
    return array


def scaled(x: np.ndarray) -> tuple[np.ndarray, int]:
    """The matrix over a power of two, with its largest entry between 1/2 and 1, and the power; exact but for underflow.

    A matrix of zeros stays as it is.
    """
    exponent = int(np.frexp(np.abs(x).max())[1])
    return np.ldexp(x, -exponent), exponent


def center_columns(x: np.ndarray) -> np.ndarray:
    """Columns less their means; exactly zero where a column does not vary."""
    away: np.ndarray = x - x.mean(axis=0)
    away[:, x.min(axis=0) == x.max(axis=0)] = 0.0
    return away


def leading(shares: np.ndarray, share: float) -> int:
    """How many of the falling nonnegative numbers it takes for `share` of their sum, rounding allowed for."""
    cumulative = np.cumsum(shares)
    return int(np.argmax(cumulative >= (share - SLACK) * cumulative[-1])) + 1
