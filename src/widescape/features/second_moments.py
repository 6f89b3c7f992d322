"""Whitening of features by their second moments over unlabeled inputs."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import NonFiniteError, RankWarning, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.features.random_layers import CHUNK, as_matrix, refuse_misfit

Mode = Literal["zca", "pca", "cholesky"]
_SAMPLES_PER_FEATURE = 20


def unlabeled_samples(n_features: int) -> int:
    """How many unlabeled inputs a whitening should see: 20 for each feature.

    Fewer than one for each leave the second moments singular. Rows that carry the labels of the model on top should
    not be among them: whitened by themselves they become orthonormal, and nothing generalizes (chen2020hierarchical).
    """
    checks.count(n_features, "n_features", "unlabeled_samples")
    return _SAMPLES_PER_FEATURE * n_features


class SecondMoment(Result):
    """The second moments of features over unlabeled inputs, and features that say nothing about them."""

    source = "chen2020hierarchical"
    matrix: np.ndarray = quantity(EXACT, "mean of h h^T, or of (h - mean)(h - mean)^T where centered, (D, D)")
    mean: np.ndarray = quantity(EXACT, "mean of h, (D,)")
    centered: bool = quantity(EXACT, "whether the mean was taken off")
    samples: int = quantity(EXACT, "how many inputs, n0")
    dead: int = quantity(EXACT, "features that were zero for every input")
    constant: int = quantity(EXACT, "features that had one other value for every input")


def second_moment(chunks: Any, features: Callable[[Any], Any] | None = None, *, center: bool = False) -> SecondMoment:
    """Second moments of features in one pass over unlabeled inputs, in float64.

    Args:
        chunks: inputs (n0, d), an array, a table or a list of rows; or an iterable of such matrices, which need not fit
            into memory together.
        features: maps inputs (n, d) to features (n, D); None where `chunks` are features already.
        center: whether to take the mean off.

    Raises:
        ShapeError, DtypeError, ValueError: no inputs, or inputs that are no finite matrices of one width.
        NonFiniteError: features are NaN or infinite, or their squares overflow.

    Cost: n0 D^2 flops beside those of `features`; memory for a chunk of 2,048 rows and two matrices (D, D).

    Example:
        >>> second_moment(np.array([[1.0, 0.0], [1.0, 2.0]])).matrix.tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """
    total: _Moments | None = None
    for chunk in _pieces(chunks):
        h = chunk if features is None else _values(features, chunk)
        total = _Moments(h[0] if center else np.zeros(h.shape[1])) if total is None else total
        total.add(h)
    if total is None:
        raise ShapeError("`chunks` holds no inputs; give at least one.")
    return total.result(center)


def _values(features: Callable[[Any], Any], chunk: np.ndarray) -> np.ndarray:
    """Features (rows, D) in float64."""
    h = np.asarray(features(chunk), dtype=np.float64)
    if h.ndim != 2 or len(h) != len(chunk):
        raise ShapeError(f"`features` turns inputs {chunk.shape} into {h.shape}; it must give {len(chunk)} rows.")
    if not np.isfinite(h).all():
        kind = "NaN" if np.isnan(h).any() else "infinite"
        raise NonFiniteError(f"`features` gives entries that are {kind}; it must be finite at all inputs.")
    return h


class _Moments:
    """Sums over rows h - shift, and the range of each column."""

    def __init__(self, shift: np.ndarray) -> None:
        width = len(shift)
        self.shift, self.n = shift, 0
        self.outer, self.sum = np.zeros((width, width)), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, h: np.ndarray) -> None:
        if h.shape[1] != len(self.shift):
            raise ShapeError(f"a chunk has {h.shape[1]} features, but those before have {len(self.shift)}.")
        moved = h - self.shift
        with threads_for(len(self.shift)), np.errstate(over="ignore", invalid="ignore"):
            self.outer += moved.T @ moved
        self.sum += moved.sum(axis=0)
        self.low, self.high = np.minimum(self.low, h.min(axis=0)), np.maximum(self.high, h.max(axis=0))
        self.n += len(h)

    def result(self, center: bool) -> SecondMoment:
        off = self.sum / self.n
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = self.outer / self.n - (np.outer(off, off) if center else 0.0)
        if not np.isfinite(matrix).all():
            raise NonFiniteError("the second moments overflow; scale the features down.")
        still = self.low == self.high
        return SecondMoment(
            matrix=(matrix + matrix.T) / 2,
            mean=self.shift + off,
            centered=center,
            samples=self.n,
            dead=int(np.sum(still & (self.low == 0))),
            constant=int(np.sum(still & (self.low != 0))),
        )


class Whitening(Result):
    """A linear map of features whose outputs have the identity as second moments, on the directions that are kept."""

    source = "chen2020hierarchical"
    matrix: np.ndarray = quantity(EXACT, "T: the whitened features are (h - mean) T, (D, k), or (D, D) for zca")
    mean: np.ndarray | None = quantity(EXACT, "what is taken off first, (D,), or nothing")
    eigenvalues: np.ndarray = quantity(EXACT, "of the second moments, falling, (D,)")
    rank: int = quantity(EXACT, "k, the directions that are kept")

    def __call__(self, h: Any) -> Any:
        """Whitened features (n, k), or (n, D) for zca, of features (n, D); NumPy or JAX as they come.

        Raises:
            ShapeError, DtypeError, ValueError: features that are no finite matrix (of JAX: no floating-point matrix),
                or of another width.
        """
        if isinstance(h, jax.Array):
            refuse_misfit(h, "h", len(self.matrix))
            shifted = h if self.mean is None else h - jnp.asarray(self.mean, h.dtype)[None]
            return shifted @ jnp.asarray(self.matrix, h.dtype)
        h = as_matrix(h, "h")
        if h.shape[1] != len(self.matrix):
            raise ShapeError(f"`h` has {h.shape[1]} features, but the whitening takes {len(self.matrix)}.")
        return (h if self.mean is None else h - self.mean) @ self.matrix


def whitening(moment: SecondMoment, *, mode: Mode = "zca", rank_tol: float = 1e-6, shrinkage: float = 0.0) -> Whitening:
    """Whiten features by their second moments, leaving out directions that the inputs do not reach.

    With eigenvalues mu and eigenvectors U of the second moments, directions with mu > rank_tol max(mu) are kept and
    multiplied by (mu + shrinkage mean(mu))^(-1/2).

    Args:
        moment: of `second_moment`.
        mode: ``"pca"`` gives k coordinates along eigenvectors; ``"zca"`` rotates them back to D, the symmetric root of
            the paper; ``"cholesky"`` multiplies by the inverse factor, leaves nothing out, and needs full rank or
            a positive `shrinkage`.
        rank_tol: the least eigenvalue that counts, over the largest.
        shrinkage: added to all eigenvalues, in units of their mean.

    Raises:
        ValueError: fewer samples than features without shrinkage; Cholesky of second moments without full rank, or
            with a `shrinkage` that rounding hides; arguments outside of their range; features that are all zero (or
            constant, where centered), or whose squares underflow.

    Warns:
        RankWarning: directions were left out, with how many, and how many features are dead or constant.

    Cost: about 9 D^3 flops.

    Source: chen2020hierarchical; the rank rule is this library's, since sphere data and polynomial
    activations lose rank by their structure, and rounding would otherwise be inflated to unit variance.

    Example:
        >>> h = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1.0, 2.0, 3.0])
        >>> white = whitening(second_moment(h))(h)
        >>> bool(np.allclose(white.T @ white / 50, np.eye(3)))
        True
    """
    owner = "whitening"
    checks.choice(mode, "mode", Mode)
    checks.not_negative(checks.number(shrinkage, "shrinkage", owner), "shrinkage", owner)
    if not 0 <= checks.number(rank_tol, "rank_tol", owner) < 1:
        raise ValueError(f"{owner}: `rank_tol` is {rank_tol}; it is a share of the largest eigenvalue, in [0, 1).")
    D = len(moment.matrix)
    if moment.samples < D and shrinkage == 0:
        raise ValueError(
            f"{owner}: {moment.samples} samples have singular second moments of {D} features; give at least {D} "
            f"(better {unlabeled_samples(D)}), fewer features, or a positive `shrinkage`."
        )
    with threads_for(D):
        values, vectors = linalg.eigh(moment.matrix, driver="evd", check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    rounding = D * np.finfo(np.float64).eps
    _refuse_nothing(float(values[0]), moment)
    kept = values > max(rank_tol, rounding) * values[0]
    rank = int(kept.sum())
    ridge = shrinkage * float(values.clip(min=0).mean())
    if mode == "cholesky" and values[-1] + ridge > rounding * (values[0] + ridge) and ridge > 0:
        rank = D  # the shrunk moments have it
    _tell_rank(rank, D, mode, moment)
    if mode == "cholesky":
        factor = linalg.cholesky(moment.matrix + ridge * np.eye(D), lower=True, check_finite=False)
        matrix = linalg.solve_triangular(factor, np.eye(D), lower=True, check_finite=False).T
    else:
        U = vectors[:, kept]
        matrix = U / np.sqrt(values[kept] + ridge)
        if mode == "zca":
            matrix = matrix @ U.T
    mean = moment.mean if moment.centered else None
    return Whitening(matrix=matrix, mean=mean, eigenvalues=values, rank=rank)


def _refuse_nothing(largest: float, moment: SecondMoment) -> None:
    """Refuse second moments that hold no direction, by what makes them so."""
    width = len(moment.matrix)
    if moment.dead == width:
        raise ValueError("whitening: all features are zero; there is nothing to whiten.")
    if moment.centered and moment.dead + moment.constant == width:
        raise ValueError("whitening: all features are constant; with `center` there is nothing to whiten.")
    if not largest > np.finfo(np.float64).tiny / np.finfo(np.float64).eps:
        raise ValueError(
            f"whitening: the features are too small; their second moments, up to {largest:.3g}, underflow. Scale the "
            "features up."
        )


def _tell_rank(rank: int, width: int, mode: Mode, moment: SecondMoment) -> None:
    """Say, or refuse, that directions are lost."""
    if rank == width:
        return
    found = (
        f"{rank} of {width} directions of the features are reached by the {moment.samples} unlabeled inputs "
        f"({moment.dead} features are always zero, {moment.constant} constant)"
    )
    if mode == "cholesky":
        raise ValueError(
            f"{found}; a Cholesky factor needs all. Choose mode='pca' or 'zca', which leave the rest out, or a "
            "larger `shrinkage`."
        )
    warnings.warn(f"{found}; the others are left out.", RankWarning, stacklevel=3)


def _pieces(chunks: Any) -> Iterable[np.ndarray]:
    """Matrices of at most `CHUNK` rows, from a matrix or an iterable of them."""
    rows = isinstance(chunks, list | tuple) and len(chunks) > 0 and np.ndim(chunks[0]) < 2
    whole = rows or hasattr(chunks, "__array__")
    for chunk in (chunks,) if whole else chunks:
        x = as_matrix(chunk, "chunks")
        for start in range(0, len(x), CHUNK):
            yield x[start : start + CHUNK]
