"""Extreme eigenvalues of a symmetric operator that is known by its products with vectors only."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.evidence import EXACT, Evidence, bound, proved
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.product import Product, check_size, checked_start, norm_of, unit

Which = Literal["LA", "LM", "SA"]

_EPS = float(np.finfo(np.float64).eps)
_DENSE_UP_TO = 32
_ASYMMETRY = 1e-2  # of the scale; products in half precision stay below it
_FRESH = 1e-3  # share of a random direction in a given start
_ROUNDED = Evidence("exact", note="of the orthogonal projection of the operator, up to eps times its norm")
_DENSE = Evidence("exact", note="of the assembled matrix, off by at most about eps times its norm")
_STANDS = {
    "LA": bound("lower", "interlacing: the i-th is at most the i-th largest; an eigenvalue lies within resid"),
    "SA": bound("upper", "interlacing: the i-th is at least the i-th smallest; an eigenvalue lies within resid"),
    "LM": proved("an eigenvalue lies within resid; by interlacing the i-th magnitude is not overestimated"),
}


class LanczosStatus(Status):
    """How a Lanczos recursion ended."""

    OK = "all steps were taken"
    INVARIANT = "the start spans an invariant subspace of fewer dimensions; its quadrature is exact"


class Tridiagonal(Result):
    """Lanczos recursion of H from a unit vector v: V H V^T is tridiagonal, with rows of V orthonormal, the first v."""

    source = "lanczos1950iteration"
    status: LanczosStatus = quantity(EXACT, "how the recursion ended")
    steps: int = quantity(EXACT, "steps taken, j")
    alpha: np.ndarray = quantity(_ROUNDED, "diagonal of V H V^T (j,)")
    beta: np.ndarray = quantity(_ROUNDED, "its off-diagonal, and last the norm of what the recursion left, (j,)")
    vectors: np.ndarray = quantity(EXACT, "V, orthonormal rows (j, dim)")

    @property
    def ritz(self) -> np.ndarray:
        """Eigenvalues of V H V^T, ascending (j,): the nodes of the quadrature."""
        return self.eigh()[0]

    @property
    def weights(self) -> np.ndarray:
        """Squared first components of its eigenvectors (j,), which sum to 1.

        sum_i weights_i ritz_i^q = v^T H^q v for q = 0 ... 2 j - 1, and for every q if the subspace is invariant.
        """
        return self.eigh()[1][0] ** 2

    @property
    def resid(self) -> np.ndarray:
        """Norms |H u - ritz u| of its Ritz vectors u (j,): |beta_j| times the last components of its eigenvectors.

        Of use where the recursion did not restart; an eigenvalue of H lies within each of its Ritz value.
        """
        return self.beta[-1] * np.abs(self.eigh()[1][-1])

    def eigh(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (j,), ascending, and eigenvectors in columns (j, j) of V H V^T."""
        values, vectors = linalg.eigh_tridiagonal(self.alpha, self.beta[:-1], lapack_driver="stev")
        return values, vectors


def lanczos(
    mv: Callable[[Any], Any],
    dim: int,
    k: int,
    start: Any = None,
    *,
    restart: bool = False,
    key: jax.Array | None = None,
) -> Tridiagonal:
    """The Lanczos recursion of a symmetric operator H, with full orthogonalization.

    beta_j v_{j+1} = H v_j - alpha_j v_j - beta_{j-1} v_{j-1}, orthogonalized twice per step against all earlier
    vectors, so that no eigenvalue is found twice by rounding.

    Args:
        mv: H, a function from (dim,) to (dim,), of NumPy or JAX arrays.
        dim: dimension of H.
        k: most steps, one product each.
        start: the first vector, scaled to unit length; None for a random direction.
        restart: where the subspace is invariant, go on with a random direction orthogonal to it (that beta is then 0).
            Finds eigenvalues as often as they occur, but `weights` and `resid` then say less.
        key: of the random directions; None for ``jax.random.key(0)``.

    Returns:
        a `Tridiagonal`. It ends early, with status INVARIANT, where beta_j is at most
        eps sqrt(dim) max(|alpha|, beta), unless `restart` is set.

    Raises:
        ValueError: k exceeds dim, `start` is zero, or H is far from symmetric (by over 1% of its scale).
        ShapeError, DtypeError, NonFiniteError: of `start` or of a product.

    Cost: k products, 8 k^2 dim flops, k dim numbers.

    Example:
        >>> lanczos(lambda v: np.array([1.0, 3.0]) * v, 2, 2, start=np.ones(2)).ritz.round(12).tolist()
        [1.0, 3.0]
    """
    product = Product(mv, dim, "lanczos")
    check_size(k, dim, "lanczos")
    generator = named_generator(key, "lanczos")
    vector = unit(generator.normal(size=dim)) if start is None else checked_start(start, dim)
    return recursion(product, vector, k, generator if restart else None)


def recursion(product: Product, start: np.ndarray, k: int, restarts: np.random.Generator | None) -> Tridiagonal:
    """`lanczos` of checked arguments; `restarts` draws directions where the recursion ends, None lets it end."""
    basis, alpha, beta = np.empty((k, product.dim)), np.zeros(k), np.zeros(k)
    vector, status, scale = start, LanczosStatus.OK, 0.0
    for j in range(k):
        coefficients, rest, norm = _step(product, basis, j, vector)
        alpha[j] = coefficients[j]
        scale = max(scale, abs(alpha[j]), norm)
        if j:
            coefficients[j - 1] -= beta[j - 1]  # what symmetry makes of it; the others vanish
            _require_symmetric(float(np.max(np.abs(coefficients[:j]))), scale)
        if not _negligible(norm, scale, product.dim):
            beta[j], vector = norm, rest / norm
        elif j + 1 < k:
            status = LanczosStatus.INVARIANT
            if restarts is None:
                k = j + 1
                break
            vector = _direction(basis[: j + 1], restarts)
    return Tridiagonal(status=status, steps=k, alpha=alpha[:k], beta=beta[:k], vectors=basis[:k])


class TopEigsStatus(Status):
    """How a search for extreme eigenvalues ended."""

    OK = "every residual is within the tolerance"
    NOT_CONVERGED = "the steps ran out before every residual was within the tolerance; raise `max_steps` or `tol`"
    INEXACT = "the iteration converged but measured residuals exceed the tolerance: products are inexact or asymmetric"


class TopEigs(Result):
    """Extreme eigenvalues of a symmetric operator, with measured residuals."""

    source = "wu2000thick"
    status: TopEigsStatus = quantity(EXACT, "how the search ended")
    which: str = quantity(EXACT, "LA: largest, SA: smallest, LM: largest in magnitude")
    eigs: np.ndarray = quantity(_STANDS["LA"], "Ritz values, signed, in the order of `which` (k,)")
    resid: np.ndarray = quantity(EXACT, "|H v - theta v| of each pair, measured with a product (k,)")
    num_products: int = quantity(EXACT, "products with the operator")
    vectors: np.ndarray | None = quantity(EXACT, "orthonormal Ritz vectors in rows (k, dim), if asked for")


def top_eigs(
    mv: Callable[[Any], Any],
    dim: int,
    k: int = 1,
    which: Which = "LA",
    *,
    start: Any = None,
    tol: float = 1e-8,
    max_steps: int | None = None,
    key: jax.Array | None = None,
    vectors: bool = True,
) -> TopEigs:
    """The k largest eigenvalues of a symmetric operator H, or the smallest, or the largest in magnitude.

    Lanczos with thick restarts in 2 k + 18 vectors, until |H v - theta v| <= tol |theta| (never asking for less than
    32 eps sqrt(dim) |H|). One Krylov sequence sees an eigenvalue once, however often it occurs; so for k > 1 the space
    found is then tried against random directions, a cycle each, until nothing changes. A copy that is hardly apart
    from a dense bulk can still be missed. If dim is at most 32 or 3 k + 20, H is assembled and decomposed.

    Args:
        mv: H, a function from (dim,) to (dim,), of NumPy or JAX arrays.
        dim: dimension of H.
        k: how many.
        which: "LA" for the algebraically largest, descending; "SA" for the smallest, ascending; "LM" for the largest
            in magnitude, descending in magnitude. A Hessian with a large negative eigenvalue tells LA from LM.
        start: a vector near the wanted eigenvectors, for instance of a nearby H. A thousandth of a random direction
            is added, lest an eigenvector orthogonal to it stay hidden. None for a random direction.
        tol: largest residual relative to |theta|. An isolated eigenvalue is off by the squared residual over its gap.
        max_steps: most Lanczos steps, one product each; None for max(3000, 30 (2 k + 18)).
        key: of the random directions; None for ``jax.random.key(0)``.
        vectors: whether to return the eigenvectors.

    Returns:
        a `TopEigs`. What did not converge is returned with its residual and a status that says so.

    Raises:
        ValueError: k exceeds dim, `start` is zero, or H is assembled and far from symmetric.
        ShapeError, DtypeError, NonFiniteError: of `start` or of a product.

    Cost: the steps and k more products, about 10 (2 k + 18) dim flops per step, (2 k + 18) dim numbers;
    or dim products.

    Example:
        >>> diagonal = np.array([-5.0, 1.0, 3.0])
        >>> [top_eigs(lambda v: diagonal * v, 3, which=w).eigs.tolist() for w in ("LA", "SA", "LM")]
        [[3.0], [-5.0], [-5.0]]
    """
    product = Product(mv, dim, "top_eigs")
    check_size(k, dim, "top_eigs")
    checks.choice(which, "which", Which)
    tolerance = checks.number(tol, "tol", "top_eigs")
    checks.positive(tolerance, "tol", "top_eigs")
    steps = max(3000, 30 * _cycle(k)) if max_steps is None else max_steps
    checks.count(steps, "max_steps", "top_eigs", minimum=k)
    given = None if start is None else checked_start(start, dim)
    dense = dim <= max(_DENSE_UP_TO, 3 * k + 20)
    if dense:
        values, rows, resid, norm = _assembled(product, k, which)
        converged = True
    else:
        generator = named_generator(key, "top_eigs")
        first = unit(generator.normal(size=dim))
        if given is not None:
            first = unit(given + _FRESH * first)
        rows, norm, converged = _thick_restart(product, first, k, which, tolerance, steps, generator)
        values, rows, resid = _rayleigh_ritz(product, rows, which)
    good = bool((resid <= _allowed(values, norm, tolerance, dim)).all())
    failed = TopEigsStatus.INEXACT if converged else TopEigsStatus.NOT_CONVERGED
    return TopEigs(
        status=TopEigsStatus.OK if good else failed,
        which=which,
        eigs=values,
        resid=resid,
        num_products=product.count,
        vectors=rows if vectors else None,
        stands={"eigs": _DENSE if dense else _STANDS[which]},
    )


def _assembled(product: Product, k: int, which: Which) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Wanted eigenvalues, eigenvectors in rows, residuals, and the largest magnitude, from all columns of H."""
    matrix = np.stack([product(column) for column in np.eye(product.dim)], axis=1)
    _require_symmetric(float(np.max(np.abs(matrix - matrix.T))), float(np.max(np.abs(matrix))))
    values, vectors = np.linalg.eigh(matrix / 2 + matrix.T / 2)
    norm, wanted = float(np.max(np.abs(values))), _order(values, which)[:k]
    values, vectors = values[wanted], vectors[:, wanted]
    return values, vectors.T, _residuals(matrix @ vectors, values, vectors), norm


def _thick_restart(
    product: Product,
    vector: np.ndarray,
    k: int,
    which: Which,
    tol: float,
    max_steps: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, float, bool]:
    """Wanted Ritz vectors in rows, the largest Ritz magnitude seen, and whether the estimated residuals are small."""
    dim, size = product.dim, _cycle(k)
    basis, projected = np.empty((size, dim)), np.zeros((size, size))
    kept, norm = 0, 0.0
    before: np.ndarray | None = None  # what had converged when a random direction was put to the test
    while True:
        stop = min(size, kept + max_steps)
        max_steps -= stop - kept
        vector, beta = _extend(product, basis, projected, vector, kept, stop, generator)
        values, vectors = np.linalg.eigh(projected[:stop, :stop])
        order = _order(values, which)
        values, vectors = values[order], vectors[:, order]
        norm = max(norm, float(np.max(np.abs(values))))
        allowed = _allowed(values[:k], norm, tol, dim)
        converged = bool((2 * beta * np.abs(vectors[-1, :k]) <= allowed).all())
        settled = k == 1 or (before is not None and bool((np.abs(values[:k] - before) <= allowed).all()))
        if max_steps == 0 or (converged and settled):
            return vectors[:, :k].T @ basis[:stop], norm, converged
        kept = k if converged else (k + size) // 2
        basis[:kept] = vectors[:, :kept].T @ basis[:stop]
        projected[:kept, :kept] = np.diag(values[:kept])
        before = values[:k] if converged else None
        if converged:
            vector = _direction(basis[:kept], generator)


def _extend(
    product: Product,
    basis: np.ndarray,
    projected: np.ndarray,
    vector: np.ndarray,
    first: int,
    stop: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Fill rows `first` to `stop` of the basis and of the projected operator; the next vector and its coupling."""
    norm = 0.0
    for j in range(first, stop):
        coefficients, rest, norm = _step(product, basis, j, vector)
        projected[j, : j + 1] = projected[: j + 1, j] = coefficients
        scale = max(float(np.max(np.abs(projected[: j + 1, : j + 1]))), norm)
        if _negligible(norm, scale, product.dim):
            vector, norm = _direction(basis[: j + 1], generator), 0.0
        else:
            vector = rest / norm
    return vector, norm


def _rayleigh_ritz(product: Product, rows: np.ndarray, which: Which) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values in the span of `rows`, vectors in rows, and measured residuals; one product per row."""
    basis = np.linalg.qr(rows.T)[0]
    images = np.stack([product(column) for column in basis.T], axis=1)
    projected = basis.T @ images
    values, rotation = np.linalg.eigh(projected / 2 + projected.T / 2)
    order = _order(values, which)
    values, rotation = values[order], rotation[:, order]
    return values, (basis @ rotation).T, _residuals(images @ rotation, values, basis @ rotation)


def _residuals(images: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.array([norm_of(column) for column in (images - vectors * values).T])


def _step(product: Product, basis: np.ndarray, j: int, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Put `vector` into row j; its image in terms of the rows so far, what is left of it, and the norm of that."""
    basis[j] = vector
    coefficients, rest = _split(product(vector), basis[: j + 1])
    return coefficients, rest, norm_of(rest)


def _split(vector: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients in the orthonormal rows of `basis`, and the rest, by two passes of Gram and Schmidt."""
    first = basis @ vector
    rest = vector - first @ basis
    second = basis @ rest
    return first + second, rest - second @ basis


def _direction(basis: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random unit vector orthogonal to the rows of `basis`, which do not span the space."""
    rest = _split(generator.normal(size=(basis.shape[1],)), basis)[1]
    return unit(_split(unit(rest), basis)[1])


def _negligible(norm: float, scale: float, dim: int) -> bool:
    return norm <= _EPS * scale * dim**0.5


def _allowed(values: np.ndarray, norm: float, tol: float, dim: int) -> np.ndarray:
    """The largest residual of each Ritz value that counts as converged."""
    return np.maximum(tol * np.abs(values), 32 * _EPS * dim**0.5 * norm)


def _order(values: np.ndarray, which: Which) -> np.ndarray:
    return np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")


def _cycle(k: int) -> int:
    """Vectors in memory: 20 for one eigenvalue, as is usual."""
    return 2 * k + 18


def _require_symmetric(worst: float, scale: float) -> None:
    if worst > _ASYMMETRY * scale:
        raise ValueError(
            f"`mv` is not symmetric: u.H v and v.H u differ by {worst:.3g} where H is of the size of {scale:.3g}; "
            "apply it to H, or to (H + H^T)/2."
        )
