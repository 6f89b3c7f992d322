"""Training in function space, mode by mode: the eigendecomposition that closed forms of gradient descent share."""

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import IllConditionedError, ShapeError

RegScale = Literal["mean_trace", "absolute"]


class Modes:
    """A kernel matrix K (m, m), targets, and the eigenpairs of G = K + noise I.

    Attributes:
        kernel: K in float64.
        y: targets (m,) or (m, C).
        num_entries: n = m C, by which the loss 1/(2 n) sum (f - y)^2 divides.
        noise: what the regularizer adds to the diagonal.
        clipped: eigenvalues of K below zero, by no more than rounding, that count as zero.
    """

    def __init__(self, kernel: Any, y: Any, reg: float, reg_scale: RegScale, owner: str) -> None:
        self.kernel = checks.square_matrix(kernel, "K")
        item = np.asarray(kernel).dtype.itemsize
        self._epsilon = float(np.finfo(np.float64 if item >= 8 else np.float32).eps)  # of what K came in
        self.y = targets(y, len(self.kernel))
        self.num_entries = self.y.size
        self.noise = noise_of(self.kernel, reg, reg_scale, owner)

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray, int]:
        with threads_for(len(self.kernel)):
            values, vectors = linalg.eigh(self.kernel, driver="evd", check_finite=False)
        rounding = len(values) * self._epsilon * float(np.abs(values).max())
        if values[0] < -rounding:
            raise IllConditionedError(
                f"`K` has the eigenvalue {values[0]:.3g}, below zero by more than rounding ({rounding:.1g}): it is no "
                "kernel matrix. Compute it in higher precision; `reg` does not help here.",
                lambda_min=float(values[0]),
                suggested_reg=float(-10 * values[0] / max(values.mean(), np.finfo(float).tiny)),
            )
        clipped = values < 0
        return np.where(clipped, 0.0, values), vectors, int(clipped.sum())

    @property
    def own(self) -> np.ndarray:
        """Eigenvalues of K, rising, none below zero (m,)."""
        return self._spectrum[0]

    @property
    def values(self) -> np.ndarray:
        """Eigenvalues of G = K + noise I, rising (m,)."""
        return self.own + self.noise

    @property
    def vectors(self) -> np.ndarray:
        """Eigenvectors, in columns (m, m)."""
        return self._spectrum[1]

    @property
    def clipped(self) -> int:
        """Eigenvalues that rounding had pushed below zero and that count as zero."""
        return self._spectrum[2]

    def apply(self, factors: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """U diag(factors) U^T residual, for factors (..., m): (..., m) or (..., m, C)."""
        vectors = self.vectors
        inner = vectors.T @ residual
        scaled = factors * inner if residual.ndim == 1 else factors[..., None] * inner
        return vectors @ scaled if residual.ndim == 2 else scaled @ vectors.T

    def residual(self, outputs: Any) -> np.ndarray:
        """Y minus initial outputs, which are a number or shaped like y."""
        return self.y - initial(outputs, self.y.shape, "f0")

    def cross(self, kernel: Any) -> np.ndarray:
        """A checked kernel between test and training points (M, m)."""
        return cross_kernel(kernel, len(self.y))


def noise_of(kernel: np.ndarray, reg: Any, reg_scale: Any, owner: str) -> float:
    """What a regularizer adds to the diagonal.

    Raises:
        ValueError: it is negative, or the diagonal's mean is not positive.
    """
    value = checks.number(reg, "reg", owner)
    checks.not_negative(value, "reg", owner)
    checks.choice(reg_scale, "reg_scale", get_args(RegScale))
    mean = float(np.trace(kernel)) / len(kernel)
    if mean <= 0:
        raise ValueError(f"the mean of the diagonal of `K` is {mean:.3g}; a kernel matrix has a positive one.")
    return float(value) * (mean if reg_scale == "mean_trace" else 1.0)


def targets(y: Any, m: int) -> np.ndarray:
    """Checked targets in float64, (m,) or (m, C)."""
    array = checks.real_array(y, "y")
    if array.ndim not in (1, 2) or len(array) != m or array.size == 0:
        raise ShapeError(f"`y` has shape {array.shape}, but `K` has {m} training points; give ({m},) or ({m}, C).")
    checks.all_finite(array, "y")
    return np.array(array, np.float64)


def cross_kernel(kernel: Any, m: int) -> np.ndarray:
    """A checked kernel between test and training points in float64, (M, m)."""
    cross = checks.real_array(kernel, "K_test")
    if cross.ndim != 2 or cross.shape[1] != m:
        raise ShapeError(f"`K_test` has shape {cross.shape}; it must be (M, {m}), test points by training points.")
    checks.all_finite(cross, "K_test")
    return np.asarray(cross, np.float64)


def initial(outputs: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Outputs before training, broadcast from a number where one is given."""
    array = np.asarray(outputs, np.float64)
    if array.shape not in ((), shape):
        raise ShapeError(f"`{name}` has shape {array.shape}; give outputs of shape {shape}, or one number.")
    checks.all_finite(array, name)
    return np.broadcast_to(array, shape)
