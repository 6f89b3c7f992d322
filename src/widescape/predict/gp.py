"""Gaussian-process regression with a given kernel matrix; equally, kernel ridge regression."""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import ConditioningWarning, IllConditionedError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.predict.covariances import Covariances
from widescape.predict.modes import RegScale, cross_kernel, noise_of, targets

Kind = Literal["nngp", "ntk", "ntkgp"]
_CONDITION_LIMIT = {"float64": 1e12, "float32": 1e6}


class Posterior(Result):
    """Mean and covariance of the posterior at test points. Unpacks as ``mean, cov = ...``."""

    source = "rasmussen2006gaussian, equations 2.25 and 2.26; lee2020finite"
    mean: np.ndarray = quantity(EXACT, "posterior mean, (M,) or (M, C)")
    cov: np.ndarray = quantity(EXACT, "posterior covariance of one output, (M, M), or variances (M,)")

    def __iter__(self) -> Iterator[np.ndarray]:
        yield self.mean
        yield self.cov


class LeaveOneOut(Result):
    """What the model says about each training point when that point is left out."""

    source = "rasmussen2006gaussian, equations 5.10 to 5.12"
    mean: np.ndarray = quantity(EXACT, "prediction from the other points, shaped like y")
    residual: np.ndarray = quantity(EXACT, "y minus that prediction, shaped like y")
    variance: np.ndarray = quantity(EXACT, "predictive variance with the regularizer as noise, (m,)")
    mse: float = quantity(EXACT, "mean square of the residuals")
    log_predictive_density: float = quantity(EXACT, "sum over points and outputs of log p(y_i | the others)")


class GP:
    """Gaussian-process regression on training targets, from a kernel matrix.

    With G = K + reg mean(diag K) I (``"mean_trace"``) or G = K + reg I (``"absolute"``): mean K_* G^-1 y, covariance
    K_** - K_* G^-1 K_*^T. With an NTK as `K` the mean is that of kernel ridge regression, which is gradient flow
    with an L2 pull to the initial parameters, started at the zero function and run to its end. What the covariance
    is then depends on `kind`.

    One Cholesky factorization in float64 (LAPACK) serves every output and every method.

    Args:
        K: kernel matrix of the training points (m, m), symmetric.
        y: targets (m,) or (m, C).
        reg: the regularizer, not negative.
        reg_scale: whether `reg` counts in units of the mean of the diagonal of `K`, or absolutely.
        kind: what `K` is, and so what covariances mean: ``"nngp"``, the covariance of the prior (a Bayesian network);
            ``"ntkgp"``, the same with an NTK in this role; ``"ntk"``, the tangent kernel of an ensemble of trained
            networks, whose initial covariance `mean_cov` takes as `prior`.

    Attributes:
        noise: what was added to the diagonal.
        condition: the larger of LAPACK's estimate of the condition number of G in the 1-norm and the squared ratio of
            its largest to its smallest Cholesky pivot, a lower bound in the 2-norm.

    Raises:
        ShapeError, DtypeError, ValueError: `K` is no finite symmetric matrix, or `y` does not fit it.
        IllConditionedError: G is not positive definite to working precision; names its smallest eigenvalue and a
            regularizer that works. Nothing is ever added silently.

    Warns:
        ConditioningWarning: the condition number is above 1e12 (1e6 if `K` came as float32).

    Cost: m^3/3 flops once, holding up to two matrices of the size of `K` and keeping one; then 2 m^2 C for the
    weights, m C per test mean, m^2 per test variance.

    Example:
        >>> gp = GP(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0]))
        >>> bool(np.isclose(gp.mean(np.array([[1.0, 0.5]]))[0], 0.5))
        True
    """

    def __init__(
        self,
        K: Any,  # noqa: N803
        y: Any,
        *,
        reg: float = 0.0,
        reg_scale: RegScale = "mean_trace",
        kind: Kind = "nngp",
    ) -> None:
        checks.choice(kind, "kind", Kind)
        kernel = checks.square_matrix(K, "K")
        self.y = targets(y, len(kernel))
        self.noise = noise_of(kernel, reg, reg_scale, "GP")
        self.reg, self.reg_scale, self.kind = float(reg), reg_scale, kind
        mean_diagonal = float(np.trace(kernel)) / len(kernel)
        with threads_for(len(kernel)):
            self._factor, self.condition = _factorize(kernel, self.noise, mean_diagonal)
        limit = _CONDITION_LIMIT["float32" if np.asarray(K).dtype.itemsize <= 4 else "float64"]
        if self.condition > limit:
            warnings.warn(
                f"the regularized kernel matrix has a condition number of about {self.condition:.1e}: about "
                f"{np.log10(self.condition):.0f} digits of the answer are lost to rounding. Raise `reg`.",
                ConditioningWarning,
                stacklevel=2,
            )

    @cached_property
    def weights(self) -> np.ndarray:
        """G^-1 y, shaped like y."""
        return self.solve(self.y)

    def solve(self, right: Any) -> np.ndarray:
        """G^-1 `right`, for (m,) or (m, k). Cost: 2 m^2 k flops."""
        with threads_for(len(self.y)):
            solution: np.ndarray = linalg.cho_solve((self._factor, True), right, check_finite=False)
        return solution

    def mean(self, K_test: Any) -> np.ndarray:  # noqa: N803
        """The posterior mean at test points.

        Args:
            K_test: kernel between test and training points, (M, m).

        Returns:
            (M,) or (M, C), as `y`.
        """
        product: np.ndarray = self._cross(K_test) @ self.weights
        return product

    def mean_cov(
        self,
        K_test: Any,  # noqa: N803
        K_test_test: Any = None,  # noqa: N803
        *,
        prior: Covariances | None = None,
    ) -> Posterior:
        """The posterior mean and covariance at test points.

        Args:
            K_test: kernel between test and training points, (M, m).
            K_test_test: kernel of the test points (M, M) for the covariance, or its diagonal (M,) for variances
                alone, which costs M times less memory. For the kinds ``"nngp"`` and ``"ntkgp"``.
            prior: NNGP blocks, the covariance before training; for the kind ``"ntk"``. The covariance is then that of
                an ensemble trained to the end, K_** + P K P^T - P K_X* - (its transpose) with P = K_* G^-1
                (lee2019wide).

        Returns:
            a `Posterior`; ``mean, cov = gp.mean_cov(...)`` works. The covariance is that of the noiseless function
            and the same for every output.

        Raises:
            ValueError: the kind needs the other one of `K_test_test` and `prior`.
            ShapeError: blocks that do not fit.
        """
        cross = self._cross(K_test)
        if (self.kind == "ntk") != (prior is not None) or (prior is None) == (K_test_test is None):
            needed = "`prior`, the NNGP blocks, and no `K_test_test`" if self.kind == "ntk" else "`K_test_test` alone"
            raise ValueError(f"for kind={self.kind!r} give {needed}.")
        if prior is not None:
            prior.check_sizes(*cross.shape)
            return Posterior(mean=cross @ self.weights, cov=prior.after(self.solve(cross.T).T))
        return self._conditioned(cross, K_test_test)

    def _conditioned(self, cross: np.ndarray, K_test_test: Any) -> Posterior:  # noqa: N803
        prior = checks.real_array(K_test_test, "K_test_test")
        if prior.shape not in ((len(cross),), (len(cross), len(cross))):
            raise ShapeError(
                f"`K_test_test` has shape {prior.shape}, but `K_test` has {len(cross)} test points; give their kernel "
                f"({len(cross)}, {len(cross)}) or its diagonal ({len(cross)},)."
            )
        checks.all_finite(prior, "K_test_test")
        with threads_for(len(self.y)):
            half = linalg.solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        explained = np.square(half).sum(axis=0) if prior.ndim == 1 else half.T @ half
        return Posterior(mean=cross @ self.weights, cov=np.asarray(prior, np.float64) - explained)

    def loo(self) -> LeaveOneOut:
        """Predictions for each training point from all others, from the one factorization.

        residual_i = (G^-1 y)_i / (G^-1)_ii and variance_i = 1 / (G^-1)_ii. The regularizer stays that of all data.

        Cost: m^3/3 flops for the diagonal of the inverse, and one more matrix of its size.
        """
        with threads_for(len(self.y)):
            inverse, info = linalg.lapack.dtrtri(self._factor, lower=1)
        if info != 0:  # the factor has a positive diagonal, so LAPACK cannot refuse it
            raise np.linalg.LinAlgError(f"dtrtri returned {info}")
        variance = 1 / np.einsum("ij,ij->j", inverse, inverse)  # the upper triangle is zero
        scale = variance if self.y.ndim == 1 else variance[:, None]
        residual = self.weights * scale
        density = -0.5 * (residual**2 / scale + np.log(2 * np.pi * scale))
        return LeaveOneOut(
            mean=self.y - residual,
            residual=residual,
            variance=variance,
            mse=float(np.mean(residual**2)),
            log_predictive_density=float(density.sum()),
        )

    def log_marginal_likelihood(self) -> float:
        """Log p(y) = -1/2 y^T G^-1 y - 1/2 log det G - m/2 log(2 pi), summed over outputs."""
        outputs = 1 if self.y.ndim == 1 else self.y.shape[1]
        fit = float(np.sum(self.y * self.weights))
        log_det = 2 * float(np.log(np.diag(self._factor)).sum())
        return -0.5 * (fit + outputs * (log_det + len(self.y) * np.log(2 * np.pi)))

    def _cross(self, kernel: Any) -> np.ndarray:
        return cross_kernel(kernel, len(self.y))


def _factorize(kernel: np.ndarray, noise: float, mean_diagonal: float) -> tuple[np.ndarray, float]:
    """The lower Cholesky factor of K + noise I, and an estimate of the condition number."""
    matrix = np.array(kernel, order="F")
    matrix[np.diag_indices_from(matrix)] += noise
    norm = float(np.abs(matrix).sum(axis=0).max())
    try:
        factor = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        raise _ill_conditioned(kernel, noise, mean_diagonal) from None
    reciprocal, info = linalg.lapack.dpocon(factor, norm, uplo="L")
    pivots = np.diag(factor)
    # The estimator can miss a single bad direction; the squared ratio of pivots is a lower bound that does not.
    condition = max(1 / max(reciprocal, np.finfo(np.float64).tiny), float(pivots.max() / pivots.min()) ** 2)
    if info != 0 or condition > 8 / np.finfo(np.float64).eps:
        raise _ill_conditioned(kernel, noise, mean_diagonal)
    return factor, condition


def _ill_conditioned(kernel: np.ndarray, noise: float, mean_diagonal: float) -> IllConditionedError:
    smallest, largest = (float(v) for v in linalg.eigvalsh(kernel)[[0, -1]])
    rounding = len(kernel) * np.finfo(np.float64).eps * largest
    suggested = 10 * (max(-smallest, 0.0) + rounding) / mean_diagonal
    return IllConditionedError(
        f"`K` plus {noise:.3g} on its diagonal is not positive definite to working precision: the smallest "
        f"eigenvalue of `K` is {smallest:.3g}, the largest {largest:.3g}. Give `reg` of at least {suggested:.1e} "
        "(reg_scale='mean_trace'), or remove duplicate examples.",
        lambda_min=smallest + noise,
        suggested_reg=suggested,
    )
