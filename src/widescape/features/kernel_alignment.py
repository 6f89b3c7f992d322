"""Centered kernel alignment of two representations, whole or over batches, and of a kernel with targets."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from scipy.spatial.distance import pdist, squareform

from widescape.core import checks
from widescape.core.errors import DegenerateWarning, DtypeError, ShapeError
from widescape.features.centered import Representation, center_columns, pair, scaled

Kernel = Literal["linear", "rbf"]
_NO_EXPONENT = -(2**20)  # below that of all numbers


def cka(x: Any, y: Any, *, kernel: Kernel = "linear", bandwidth: float = 0.5, debiased: bool = False) -> float:
    """Centered kernel alignment <K, L> / (|K| |L|) of the centered Gram matrices K and L of two representations.

    - ``"linear"``: K = X X^T with centered columns, so that the index is |X^T Y|^2 / (|X^T X| |Y^T Y|) in Frobenius
      norms; taken from the features where both have fewer than samples, from Gram matrices otherwise.
    - ``"rbf"``: K_ij = exp(-|x_i - x_j|^2 / (2 bandwidth^2 median)), with the median of all n^2 squared distances, the
      n zeros of the diagonal among them, as in the demonstration of kornblith2019similarity.

    Without `debiased` it lies in [0, 1] and has a large bias upwards where features are many: independent Gaussian
    features have about p / (p + n - 1). With `debiased` each product of Gram matrices becomes Song's unbiased estimate
    of n (n - 3) times their independence criterion: the diagonals are set to zero, and rows and columns are centered
    without them (song2012feature; nguyen2021wide). It may then be negative. Its ratio is consistent, not unbiased.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        kernel: linear, or Gaussian.
        bandwidth: standard deviation of the Gaussian, in units of the root of the median; positive.
        debiased: whether to debias, for which n must be at least 4.

    Returns:
        the index; NaN, with a warning, where the debiased norm of a representation is zero up to rounding, as with
        samples that are all equally far apart.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit, or are constant; more than half of all distances
            are zero, for the Gaussian.

    Warns:
        DegenerateWarning: the index is NaN.

    Cost: 2 n p q + 2 n p^2 + 2 n q^2 flops if p, q < n; 2 n^2 (p + q) and two (n, n) matrices otherwise. Distances for
    the Gaussian come from differences of samples, 3/2 n^2 (p + q) flops that are not matrix products.

    Source: kornblith2019similarity. Invariant to orthogonal maps and isotropic scaling of either side.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(cka(x, 3 * x @ np.array([[0.6, 0.8], [-0.8, 0.6]])), 12), round(cka(x, x[:, :1]) ** 2, 12)
        (1.0, 0.5)
    """
    value = alignment(*pair(x, y), kernel=kernel, bandwidth=bandwidth, debiased=debiased)
    if math.isnan(value):
        _warn_undefined()
    return value


def alignment(
    a: Representation, b: Representation, *, kernel: Kernel = "linear", bandwidth: float = 0.5, debiased: bool = False
) -> float:
    """`cka` of checked representations, which keep what pairs share; NaN without a warning."""
    checks.choice(kernel, "kernel", get_args(Kernel))
    width = checks.number(bandwidth, "bandwidth", "cka")
    checks.positive(width, "bandwidth", "cka")
    setting = _Setting(kernel, width, debiased)
    if debiased:
        enough(a)
    return ratio(setting.product(a, b), setting.square(a), setting.square(b))


class MinibatchCKA:
    """Linear or Gaussian CKA of representations that come in batches, from unbiased terms.

    With h(K, L) Song's unbiased estimate of the independence criterion on one batch: mean h(K, L) / sqrt(mean h(K, K)
    mean h(L, L)), each mean over batches and taken before dividing. For the linear kernel numerator and both terms of
    the denominator then estimate those of all samples without a bias, whatever the size of the batches, if the batches
    are drawn at random. One batch gives ``cka(..., debiased=True)``. (For the Gaussian kernel each batch has a
    bandwidth of its own.)

    The scale of activations must be the same in all batches; each batch counts once, whatever its size.

    Args:
        kernel: linear, or Gaussian, as for `cka`.
        bandwidth: for the Gaussian.

    Cost: as for `cka` on each batch; nothing of a batch is kept.

    Source: nguyen2021wide; song2012feature.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 3))
        >>> running = MinibatchCKA()
        >>> for batch in np.split(x, 3):
        ...     running = running.update(batch, 2 * batch)
        >>> round(running.compute(), 12)
        1.0
    """

    def __init__(self, *, kernel: Kernel = "linear", bandwidth: float = 0.5) -> None:
        checks.choice(kernel, "kernel", get_args(Kernel))
        width = checks.number(bandwidth, "bandwidth", "MinibatchCKA")
        checks.positive(width, "bandwidth", "MinibatchCKA")
        self._setting = _Setting(kernel, width, True)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._terms: list[list[float]] = []
        self._exponents: list[list[int]] = []

    @property
    def num_batches(self) -> int:
        """How many batches were given."""
        return len(self._terms)

    def update(self, x: Any, y: Any) -> Self:
        """Take in the next batch: activations (n, p) and (n, q) with n of at least 4, the same p and q each time.

        A representation that is constant on the batch, as of units that are dead there, adds zeros.

        Returns:
            this object.

        Raises:
            ShapeError, DtypeError, ValueError: arguments that do not fit.
        """
        a, b = pair(x, y, constant=True)
        enough(a)
        own, weight = self._setting, a.n * (a.n - 3)
        both = own.product(a, b) if a.varies and b.varies else 0.0
        self._terms.append([value / weight for value in (both, *(own.square(s) if s.varies else 0.0 for s in (a, b)))])
        exponents = [s.exponent if s.varies else _NO_EXPONENT for s in (a, b)]
        self._exponents.append(exponents if own.kernel == "linear" else [0, 0])
        return self

    def compute(self) -> float:
        """The index of all batches so far; NaN, with a warning, where a mean in the denominator is zero to rounding.

        Raises:
            ValueError: there was no batch.
        """
        if not self._terms:
            raise ValueError("MinibatchCKA has no batch; call `update` first.")
        exponents = np.array(self._exponents)
        exponents -= exponents.max(axis=0)  # a common scale for all batches, on which nothing overflows
        powers = 2 * exponents @ np.array([[1, 2, 0], [1, 0, 2]])
        value = ratio(*np.ldexp(np.array(self._terms), powers).mean(axis=0).tolist())
        if math.isnan(value):
            _warn_undefined()
        return value


def kta(K: Any, y: Any, *, centered: bool = False) -> float:
    """Kernel-target alignment <K, y y^T> / (|K| |y y^T|) in Frobenius products, or with Y Y^T for several outputs.

    Args:
        K: kernel matrix (n, n), symmetric.
        y: targets (n,), as labels -1 and 1 or numbers; or (n, C), as one-hot rows.
        centered: whether rows and columns of both matrices are centered before (cortes2012algorithms).

    Returns:
        the alignment, in [-1, 1]; not negative for a positive semidefinite `K`.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit; integer labels other than -1 and 1, which are no
            numbers; `K` or `y` is zero, or constant if centered.

    Cost: 2 n^2 C flops.

    Source: cristianini2001kernel.

    Example:
        >>> K = np.kron(np.eye(2), np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> round(kta(K, [1, 1, -1, -1]), 6), round(kta(K, [1, 1, -1, -1], centered=True), 6)
        (0.67082, 0.904534)
    """
    kernel, _ = scaled(checks.square_matrix(K, "K"))
    outputs, _ = scaled(_targets(y, len(kernel)))
    if centered:
        outputs = center_columns(outputs)
        kernel = center_columns(center_columns(kernel).T)
    for name, array in (("K", kernel), ("y", outputs)):
        if not array.any():
            raise ValueError(f"`{name}` is zero{' after centering' if centered else ''}, so it has no direction.")
    inner = float(np.vdot(outputs, kernel @ outputs))
    cosine = inner / (float(np.linalg.norm(kernel)) * float(np.linalg.norm(outputs.T @ outputs)))
    return min(max(cosine, -1.0), 1.0)  # but for rounding it lies there


@dataclass(frozen=True)
class _Setting:
    """Which Gram matrices are compared, and how they are centered."""

    kernel: Kernel
    bandwidth: float
    debiased: bool

    def product(self, a: Representation, b: Representation) -> float:
        """<K, L>, with diagonals left out and centering without them if debiased."""
        if self.kernel == "linear" and a.is_narrow and b.is_narrow:
            return self._of_features(a, b)
        return float(np.vdot(self._centered(a), self._centered(b)))

    def square(self, a: Representation) -> float:
        """<K, K>; exactly zero where it is so up to rounding."""
        return a.once((self, "square"), lambda: self._square(a))

    def _of_features(self, a: Representation, b: Representation) -> float:
        inner = float(np.sum(np.square(a.x.T @ b.x)))
        if not self.debiased:
            return inner
        own, other = _lengths(a), _lengths(b)
        n = a.n
        return float(inner - n / (n - 2) * (own @ other) + own.sum() * other.sum() / ((n - 1) * (n - 2)))

    def _square(self, a: Representation) -> float:
        value = self.product(a, a)
        if not self.debiased:
            return value
        rounding = a.n * float(np.finfo(np.float64).eps)
        if self.kernel == "linear" and a.is_narrow:  # a difference of sums; otherwise a sum of squares
            floor = rounding * float(np.sum(np.square(a.x.T @ a.x)))
        else:
            floor = (rounding * float(np.linalg.norm(self._gram(a)))) ** 2
        return value if value > floor else 0.0

    def _centered(self, a: Representation) -> np.ndarray:
        center = _without_diagonal if self.debiased else lambda gram: center_columns(center_columns(gram).T)
        if self.kernel == "linear" and not self.debiased:
            return a.gram
        return a.once((self, "gram"), lambda: center(self._gram(a)))

    def _gram(self, a: Representation) -> np.ndarray:
        return a.gram if self.kernel == "linear" else _gaussian(a, self.bandwidth)


def ratio(product: float, square: float, other: float) -> float:
    """The cosine; rounding above one is cut. NaN where one of the squares is not positive."""
    return min(product / math.sqrt(square * other), 1.0) if square > 0 and other > 0 else math.nan


def enough(a: Representation) -> None:
    """Refuse fewer samples than debiasing needs."""
    if a.n < 4:
        raise ShapeError(f"`{a.name}` has {a.n} samples; the debiased index needs at least 4. Give more samples.")


def squared_distances(a: Representation) -> np.ndarray:
    """|x_i - x_j|^2 (n, n), from differences, so that each has only a rounding of its own size."""
    distances: np.ndarray = squareform(pdist(a.raw, "sqeuclidean"))
    return distances


def _gaussian(a: Representation, bandwidth: float) -> np.ndarray:
    distances = squared_distances(a)
    median = float(np.median(distances))
    rounding = (8 + a.raw.shape[1]) * np.finfo(np.float64).eps
    if median <= rounding**2 * float(np.median(np.square(a.raw).sum(axis=1))):
        raise ValueError(
            f"`{a.name}`: the median of all squared distances between samples is zero, so the Gaussian kernel has no "
            "width. Remove repeated samples, or use the linear kernel."
        )
    gram: np.ndarray = np.exp(distances / (-2 * bandwidth**2 * median))
    return gram


def _without_diagonal(gram: np.ndarray) -> np.ndarray:
    """The matrix with a diagonal of zeros, and rows and columns centered so that all means without it are zero."""
    n = len(gram)
    matrix = gram.copy()
    np.fill_diagonal(matrix, 0.0)
    means = matrix.sum(axis=0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    matrix -= means[:, None]
    matrix -= means
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _lengths(a: Representation) -> np.ndarray:
    """|x_i|^2 of the centered samples (n,)."""
    return a.once("lengths", lambda: np.einsum("ij,ij->i", a.x, a.x))


def _targets(y: Any, n: int) -> np.ndarray:
    array = np.asarray(y)
    if array.dtype.kind in "iu" and array.ndim == 1 and not np.isin(array, (-1, 1)).all():
        raise DtypeError(
            "`y` holds integers other than -1 and 1; labels of several classes have no order. Give one-hot rows, or "
            "floating-point numbers."
        )
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    array = checks.real_array(array, "y")
    if array.ndim not in (1, 2) or len(array) != n or array.size == 0:
        raise ShapeError(f"`y` has shape {array.shape}, but `K` has {n} samples; give ({n},) or ({n}, C).")
    checks.all_finite(array, "y")
    return np.asarray(array, np.float64).reshape(n, -1)


def _warn_undefined() -> None:
    warnings.warn(
        "the debiased CKA is NaN: the debiased norm of a representation is zero up to rounding, as where all samples "
        "are equally far apart. Give more samples, or use the index without debiasing.",
        DegenerateWarning,
        stacklevel=3,
    )
