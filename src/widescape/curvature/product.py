"""A symmetric operator as products with vectors: checked, counted, in float64 on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError


class Product:
    """Checked and counted products of a symmetric operator with vectors, in float64 on the host.

    Attributes:
        mv: the operator, (dim,) to (dim,).
        dim: its dimension.
        count: products so far.

    Example:
        >>> product = Product(lambda v: 2 * v, 3, "example")
        >>> product(np.ones(3)).tolist(), product.count
        ([2.0, 2.0, 2.0], 1)
    """

    def __init__(self, mv: Callable[[Any], Any], dim: int, owner: str) -> None:
        if not callable(mv):
            raise TypeError(f"{owner}: `mv` is {mv!r}; it must be a function of a vector, such as `lambda v: H @ v`.")
        checks.count(dim, "dim", owner)
        self.mv, self.dim, self.count = mv, int(dim), 0

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The product with one vector, as an array of its own.

        Raises:
            ShapeError, DtypeError, NonFiniteError: what `mv` returns is no finite real vector of length dim.
        """
        self.count += 1
        image = checks.real_array(self.mv(vector.copy()), "mv(vector)")
        if image.shape != (self.dim,):
            raise ShapeError(f"`mv` returned shape {image.shape} for a vector of length {self.dim}; return the same.")
        if not np.isfinite(image).all():
            raise NonFiniteError(
                "`mv` returned NaN or infinite entries for a finite vector; check the operator, or scale it down."
            )
        return np.array(image, dtype=np.float64)


def check_size(k: int, dim: int, owner: str) -> None:
    """Refuse more Lanczos steps or eigenvalues than there are dimensions."""
    checks.count(k, "k", owner)
    if k > dim:
        raise ValueError(f"{owner}: `k` is {k}, but the operator has dimension {dim}; choose 1 <= k <= {dim}.")


def checked_start(start: Any, dim: int) -> np.ndarray:
    """A given start as a unit vector."""
    vector = checks.real_array(start, "start").astype(np.float64)
    if vector.shape != (dim,):
        raise ShapeError(f"`start` has shape {vector.shape}; it must be a vector of length {dim}.")
    checks.all_finite(vector, "start")
    if not vector.any():
        raise ValueError("`start` is zero; give a direction, or None for a random one.")
    return unit(vector)


def norm_of(vector: np.ndarray) -> float:
    """The Euclidean norm, without overflow or underflow of squares."""
    scale = float(np.max(np.abs(vector)))
    return scale * float(np.linalg.norm(vector / scale)) if scale > 0 else 0.0


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector that is not zero, scaled to unit length."""
    scaled = vector / np.max(np.abs(vector))
    return scaled / np.linalg.norm(scaled)
