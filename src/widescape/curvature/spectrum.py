"""The spectrum of a tangent kernel: by singular values, densely, or by Krylov methods, and its certified lower end."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg
from scipy.sparse import linalg as sparse

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.errors import ConditioningWarning, NonFiniteError, UnderparameterizedWarning
from widescape.core.evidence import EXACT, Evidence, bound, certified
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.inspection import lower_floats
from widescape.curvature.krylov import lanczos
from widescape.curvature.plan import Method
from widescape.curvature.system import System
from widescape.curvature.tangent import prepare

SpectrumMethod = Literal["auto", "svd", "dense", "lanczos", "lobpcg"]
_EPS = float(np.finfo(np.float64).eps)
SVD_ENTRIES = 2e7  # of the Jacobian, up to which its singular values take seconds
_DENSE_ORDER = 10_000  # up to which the kernel's eigenvalues take minutes and 1.6 GB
_STEPS = 100

_ROUNDED = certified("of the kernel as computed in float64, off by at most 4 N eps trace(K)")
_LOWER = certified(
    "of the kernel or Jacobian as computed in float64: less 4 N eps trace(K), or as a singular value less 4 N eps |J|"
)
_QUOTIENT = Evidence("exact", note="quotient of eigenvalues that are rounded; infinite where the smallest is not > 0")
_UNCERTIFIED = Evidence("exact", note="of the Jacobian as the function computes it, in lower precision")
_FROM_ABOVE = bound("upper", "smallest Ritz value of a Krylov space")
_FROM_BELOW = bound("lower", "largest Ritz value of a Krylov space")


class SpectrumStatus(Status):
    """What the smallest eigenvalue says."""

    OK = "The smallest eigenvalue is positive beyond rounding."
    SINGULAR = "The smallest eigenvalue is zero up to rounding: outputs cannot move in every direction."
    RANK = "There are fewer parameters than residuals, so the smallest eigenvalue is zero."
    ONE_SIDED = "A Krylov method saw the smallest eigenvalue from above only; nothing is certified."


class KernelSpectrum(Result):
    """Extreme eigenvalues of the tangent kernel K = J J^T of the residuals (F - y, or (F - y)/sqrt(n) for the mean)."""

    source = "liu2020loss"
    lam_min: float = quantity(_ROUNDED, "smallest eigenvalue of K")
    lam_max: float = quantity(_ROUNDED, "largest eigenvalue of K")
    kappa: float = quantity(_QUOTIENT, "lam_max / lam_min; infinite if lam_min <= 0")
    certified: bool = quantity(EXACT, "whether lam_min_lower is certified")
    lam_min_lower: float | None = quantity(_LOWER, "lower bound of the smallest eigenvalue", default=None)
    order: int = quantity(EXACT, "N, residuals")
    num_params: int = quantity(EXACT, "p, parameters")
    method: str = quantity(EXACT, "how it was computed")
    n_matvecs: int = quantity(EXACT, "products with K; 0 where K or J was formed")
    status: SpectrumStatus = quantity(EXACT, "what the smallest eigenvalue says")


class DenseSpectrum(KernelSpectrum):
    """All eigenvalues, each to rounding."""

    eigs: np.ndarray = quantity(_ROUNDED, "eigenvalues of K, largest first, (N,)")

    def charts(self) -> tuple[Chart, ...]:
        """Eigenvalues by rank."""
        positive = self.eigs > 0
        ranks = np.arange(1, len(self.eigs) + 1)
        return (
            Chart(
                name="tangent-spectrum",
                title="Eigenvalues of the tangent kernel",
                x_label="rank",
                y_label="eigenvalue",
                series=(Series(ranks[positive], self.eigs[positive], "eigenvalues", style="both"),),
                y_scale="log",
                caption=f"Non-positive eigenvalues (by rounding) are left out: {int((~positive).sum())}.",
            ),
        )


class KrylovSpectrum(KernelSpectrum):
    """Ritz values: the largest eigenvalue from below, the smallest from above, and neither certified."""

    lam_min: float = quantity(_FROM_ABOVE, "smallest Ritz value of K")
    lam_max: float = quantity(_FROM_BELOW, "largest Ritz value of K")
    kappa: float = quantity(
        bound("lower", "both Ritz values lie inside the spectrum"), "lam_max / lam_min, lam_min at least N eps lam_max"
    )
    ritz: np.ndarray = quantity(Evidence("exact", note="of the Krylov space"), "Ritz values, largest first, (k,)")
    resid: np.ndarray = quantity(EXACT, "norm of K v - theta v of each; an eigenvalue lies that close, (k,)")


class Certified(Result):
    """Whether a matrix is certainly at least mu in the order of symmetric matrices."""

    source = "liu2020loss"
    holds: bool = quantity(
        certified("Cholesky factorization of K less mu and margin"), "whether every eigenvalue is at least mu"
    )
    margin: float = quantity(EXACT, "4 N eps (trace |K| + N max(-mu, 0)), what rounding can do")
    mu: float = quantity(EXACT, "the level")


def tangent_kernel(
    system: System,
    params: Any = None,
    *,
    method: Method = "auto",
    budget_gb: float | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """The tangent kernel K(w) = J J^T of a system's residuals, in float64.

    J is the derivative of the residuals F - y, N = n c of them in the order of examples, then outputs; with
    ``reduction="mean"`` they are divided by sqrt(n), and K by n. The Jacobian is never held whole: K is accumulated
    over chunks of examples and, where memory asks for it, over blocks of parameters.

    Args:
        system: the function and its data; targets are not needed.
        params: where, as a PyTree or flat; None for the system's own parameters.
        method: as for `widescape.kernels.empirical_ntk`.
        budget_gb: memory, in units of 2^30 bytes; None for half of what is free.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        (N, N), symmetric.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        MemoryBudgetError: not even the smallest chunk fits.
        NonFiniteError: the kernel overflows.

    Cost: that of `widescape.kernels.empirical_ntk` with ``outputs="full"``.

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(2), np.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> tangent_kernel(system).tolist()
        [[1.0, 0.0], [0.0, 4.0]]
    """
    return kernel_function(system, method=method, budget_gb=budget_gb, progress=progress)(params)


def kernel_function(
    system: System, *, method: Method = "auto", budget_gb: float | None = None, progress: bool | None = False
) -> Callable[[Any], np.ndarray]:
    """The tangent kernel as a function of the parameters, planned and compiled once; see `tangent_kernel`."""
    double = system.as_float64()
    order = double.num_residuals
    prepared = prepare(
        double.f,
        double.params,
        double.x,
        method=method,
        outputs="full",
        mixes_examples=double.mixes_examples,
        budget_gb=budget_gb,
    )

    def kernel(params: Any) -> np.ndarray:
        blocks = prepared.at(double.unravel(double.vector(params)), progress=progress)
        own: np.ndarray = double.weight * blocks.transpose(0, 2, 1, 3).reshape(order, order)
        return own

    return kernel


def kernel_spectrum(
    system: System,
    params: Any = None,
    *,
    method: SpectrumMethod = "auto",
    k: int | None = None,
    key: jax.Array | None = None,
    budget_gb: float | None = None,
    progress: bool | None = None,
) -> DenseSpectrum | KrylovSpectrum:
    """Eigenvalues of the tangent kernel K = J J^T of a system's residuals, in float64.

    ``"svd"``
        Squares of the singular values of J: resolves small eigenvalues down to eps^2 lambda_max. Holds J.
    ``"dense"``
        Eigenvalues of K, accumulated over examples and parameters: never holds J.
    ``"lanczos"``, ``"lobpcg"``
        Ritz values from products with K alone, for more residuals than a matrix can hold. They see the smallest
        eigenvalue from above, so nothing is certified, and the result is of another type. ``"lobpcg"`` converges to
        the smallest ones, ``"lanczos"`` to both ends.

    ``"auto"`` takes singular values up to 2e7 entries of J, then dense eigenvalues up to N = 10,000, then Lanczos.

    Args:
        system: the function and its data.
        params: where, as a PyTree or flat; None for the system's own parameters.
        method: how.
        k: Krylov steps (``"lanczos"``; 100 or N by default) or eigenvalues sought (``"lobpcg"``; 4).
        key: of the random start of a Krylov method; `jax.random.key(0)` if None.
        budget_gb: memory for ``"dense"``.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `DenseSpectrum` with `eigs`, or a `KrylovSpectrum` with `ritz` and `resid`.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        MemoryBudgetError, NonFiniteError: as for `tangent_kernel`.

    Warns:
        UnderparameterizedWarning: fewer parameters than residuals.
        ConditioningWarning: the function computes in float32 and its smallest eigenvalue is lost in that.

    Cost: about 4 N^2 p flops and N p numbers (``"svd"``), a tangent kernel and 4/3 N^3 (``"dense"``), five forward
    passes a step (Krylov).

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(2), np.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> spectrum = kernel_spectrum(system)
        >>> spectrum.eigs.tolist(), spectrum.kappa, spectrum.certified
        ([4.0, 1.0], 4.0, True)
    """
    checks.choice(method, "method", SpectrumMethod)
    double = system.as_float64()
    point = double.vector(params)
    order, num_params = double.num_residuals, double.num_params
    if method == "auto":
        method = "svd" if order * num_params <= SVD_ENTRIES else "dense" if order <= _DENSE_ORDER else "lanczos"
    if num_params < order:
        warnings.warn(
            f"there are {num_params:,} parameters for {order:,} residuals, so the smallest eigenvalue is 0.",
            UnderparameterizedWarning,
            stacklevel=2,
        )
    if method in ("lanczos", "lobpcg"):
        return _krylov(double, point, method, k, key)
    if method == "svd":
        values, lower = _by_singular_values(double, point)
    else:
        values, lower = _by_eigenvalues(tangent_kernel(double, point, budget_gb=budget_gb, progress=progress))
    return _dense_result(double, values, lower, method)


def extreme_eigenvalues(kernel: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of a symmetric matrix, in float64."""
    with threads_for(len(kernel)):
        values = linalg.eigvalsh(kernel, check_finite=False)
    return float(values[0]), float(values[-1])


def certify_lambda_min(K: Any, mu: float) -> Certified:  # noqa: N803
    """Whether every eigenvalue of a symmetric matrix is at least `mu`, beyond rounding.

    A Cholesky factorization of K - (mu + 4 N eps trace(K)) I in float64 that succeeds proves it (the classical bound of
    its backward error is smaller). One that fails proves nothing: the smallest eigenvalue may lie within the margin.
    For an indefinite K the trace is that of magnitudes, and a negative `mu` adds 4 N^2 eps |mu|.

    Args:
        K: symmetric (N, N).
        mu: the level.

    Raises:
        ShapeError, DtypeError, ValueError: not a finite symmetric matrix, or not a number.

    Cost: N^3/3 flops and a copy of the matrix.

    Example:
        >>> certify_lambda_min(np.diag([1.0, 2.0]), 0.999).holds, certify_lambda_min(np.diag([1.0, 2.0]), 1.0).holds
        (True, False)
    """
    matrix = checks.square_matrix(K, "K")
    level = checks.number(mu, "mu", "certify_lambda_min")
    size = float(np.abs(np.diag(matrix)).sum()) + len(matrix) * max(-level, 0.0)
    margin = 4 * len(matrix) * _EPS * size
    shifted = matrix - (level + margin) * np.eye(len(matrix))
    try:
        with threads_for(len(matrix)):
            linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return Certified(holds=False, margin=margin, mu=level)
    return Certified(holds=True, margin=margin, mu=level)


def _by_singular_values(system: System, point: np.ndarray) -> tuple[np.ndarray, float]:
    """Eigenvalues, largest first, one for each residual, and a lower bound of the smallest."""
    rows = system.jacobian(point) * system.weight**0.5
    with threads_for(min(rows.shape)):
        values = linalg.svd(rows, compute_uv=False, check_finite=False)
    values = np.concatenate([values, np.zeros(max(0, len(rows) - len(values)))])
    if values[0] >= np.finfo(np.float64).max ** 0.5:
        raise NonFiniteError("the tangent kernel overflows; scale the parameters or the data.")
    lower = max(float(values[-1] - 4 * len(rows) * _EPS * values[0]), 0.0)
    return values**2, lower**2


def _by_eigenvalues(kernel: np.ndarray) -> tuple[np.ndarray, float]:
    """The same of a kernel."""
    with threads_for(len(kernel)):
        values = linalg.eigvalsh(kernel, check_finite=False)[::-1].copy()
    return values, max(float(values[-1] - 4 * len(kernel) * _EPS * np.trace(kernel)), 0.0)


def _dense_result(system: System, values: np.ndarray, lower: float, method: str) -> DenseSpectrum:
    smallest, largest = float(values[-1]), float(values[0])
    status = SpectrumStatus.OK if lower > 0 else SpectrumStatus.SINGULAR
    if system.num_params < system.num_residuals:
        status, lower, smallest = SpectrumStatus.RANK, 0.0, 0.0
    kappa = largest / smallest if smallest > 0 else float("inf")
    lost = _lost_to_lower_floats(system, kappa)
    return DenseSpectrum(
        lam_min=smallest,
        lam_max=largest,
        kappa=kappa,
        certified=not lost,
        lam_min_lower=None if lost else lower,
        order=len(values),
        num_params=system.num_params,
        method=method,
        n_matvecs=0,
        status=status,
        eigs=values,
        stands=dict.fromkeys(("lam_min", "lam_max", "kappa", "eigs"), _UNCERTIFIED) if lost else {},
    )


def _lost_to_lower_floats(system: System, kappa: float) -> bool:
    """Whether the function itself computes in lower precision, so that nothing is certified; warns if it matters."""
    found = lower_floats(system)
    if not found:
        return False
    eps = max(float(np.finfo(np.float32).eps), *(_eps_of(name) for name in found))
    if kappa * eps * system.num_residuals > 0.1:
        warnings.warn(
            f"the function itself computes in lower precision ({found[0]}), which cannot resolve a condition number of "
            f"{kappa:.2g} at {system.num_residuals} residuals; compute in float64 inside it.",
            ConditioningWarning,
            stacklevel=4,
        )
    return True


def _eps_of(found: str) -> float:
    return float(jnp.finfo(found.rpartition(" ")[2]).eps)


def _krylov(system: System, point: np.ndarray, method: str, k: int | None, key: jax.Array | None) -> KrylovSpectrum:
    order = system.num_residuals
    steps = min(order, _STEPS if method == "lanczos" else 4) if k is None else k
    checks.count(steps, "k", "kernel_spectrum")
    if steps > order:
        raise ValueError(f"`k` is {k}, but there are {order} residuals; choose 1 <= k <= {order}.")
    products = 0

    def product(z: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return system.kernel_mv(z, point)

    root = named_key(jax.random.key(0) if key is None else key, "kernel spectrum")
    ritz, resid = (_by_lanczos if method == "lanczos" else _by_lobpcg)(product, order, steps, root)
    smallest, largest = float(ritz[-1]), float(ritz[0])
    if not np.isfinite(ritz).all():
        raise NonFiniteError("products with the kernel overflow; scale the parameters or the data.")
    kappa = largest / max(smallest, order * _EPS * largest) if largest > 0 else 1.0
    _lost_to_lower_floats(system, kappa)  # for its warning: nothing is certified here anyway
    return KrylovSpectrum(
        lam_min=smallest,
        lam_max=largest,
        kappa=kappa,
        certified=False,
        order=order,
        num_params=system.num_params,
        method=method,
        n_matvecs=products,
        status=SpectrumStatus.RANK if system.num_params < order else SpectrumStatus.ONE_SIDED,
        ritz=ritz,
        resid=resid,
    )


def _by_lanczos(
    product: Callable[[np.ndarray], np.ndarray], order: int, steps: int, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    run = lanczos(product, order, steps, key=key)
    return run.ritz[::-1].copy(), run.resid[::-1].copy()


def _by_lobpcg(
    product: Callable[[np.ndarray], np.ndarray], order: int, count: int, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest eigenvalues of a block, and the largest by a few Lanczos steps."""
    if order < 5 * count + 1:
        raise ValueError(f"method='lobpcg' needs more than 5 k residuals; there are {order} for k = {count}.")
    top = lanczos(product, order, min(order, 30), key=key)
    start = named_generator(key, "block").standard_normal((order, count))
    operator = sparse.LinearOperator(
        (order, order),
        matvec=lambda z: product(z.reshape(-1)),
        matmat=lambda block: np.stack([product(z) for z in block.T], 1),
        dtype=float,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # residuals are returned beside the values
        values, vectors = sparse.lobpcg(operator, start, largest=False, tol=1e-10 * top.ritz[-1], maxiter=200)
    resid = np.linalg.norm(np.stack([product(v) for v in vectors.T], 1) - vectors * values[None], axis=0)
    ritz = np.concatenate([top.ritz[-1:], np.sort(values)[::-1]])
    return ritz, np.concatenate([top.resid[-1:], resid[np.argsort(values)[::-1]]])
