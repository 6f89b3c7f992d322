"""Gradient flow of a linear model in closed form: one network, and ensembles of them."""

from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.predict.covariances import Covariances
from widescape.predict.gp import GP, Posterior
from widescape.predict.modes import Modes, RegScale, initial


class GradientFlow:
    """Gradient flow on the squared loss, from initial outputs, to any time.

    The loss is L = 1/(2 n) sum over points and outputs of (f - y)^2 with n = m C entries, so outputs move by
    df/dt = -lr K (f - y) / n, the same K for every output. That is the training of a linear model, of a linearized
    network (K its empirical tangent kernel), and of an infinitely wide one (K the NTK; or the NNGP kernel, if only the
    read-out trains). A loss that is a mean over examples and a sum over outputs runs C times faster:
    give ``lr=C * lr``.

    With a regularizer the penalty noise/(2 n) |w - w_0|^2 pulls parameters w to where they began, and G = K + noise I
    takes the place of K in the rates. With eigenpairs (w_i, u_i) of G, the transfer matrix is
    P_t = K_* U diag((1 - exp(-w lr t/n))/w) U^T, and f_t(*) = f_0(*) + P_t (y - f_0(X)).

    Args:
        K: kernel of the training points (m, m), symmetric.
        y: targets (m,) or (m, C).
        reg: the regularizer, not negative.
        reg_scale: in units of the mean of the diagonal of `K`, or absolutely.
        lr: learning rate, the factor between time and the gradient.

    Attributes:
        clipped: eigenvalues of `K` that rounding had pushed below zero and that count as zero.

    Raises:
        ShapeError, DtypeError, ValueError: `K` is no finite symmetric matrix, or `y` does not fit.
        IllConditionedError: `K` has an eigenvalue below zero by more than rounding; at the end of time, G is not
            positive definite.

    Cost: about 9 m^3 flops for the eigendecomposition, at the first finite time; then 2 m^2 C per time, and
    2 M m^2 for the covariance of M test points. The end of time takes a Cholesky factorization instead, m^3/3.

    Example:
        >>> flow = GradientFlow(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0]))
        >>> flow.train(2.0).round(6).tolist()
        [0.791167, 0.159046]
        >>> bool(abs(flow.test(None, np.array([[1.0, 0.5]]))[0] - 0.5) < 1e-12)
        True
    """

    def __init__(
        self,
        K: Any,  # noqa: N803
        y: Any,
        reg: float = 0.0,
        lr: float = 1.0,
        *,
        reg_scale: RegScale = "mean_trace",
    ) -> None:
        self._modes = Modes(K, y, reg, reg_scale, "GradientFlow")
        self.lr = checks.number(lr, "lr", "GradientFlow")
        checks.positive(self.lr, "lr", "GradientFlow")
        self.reg, self.reg_scale = reg, reg_scale
        self._end: GP | None = None

    @property
    def clipped(self) -> int:
        """Eigenvalues that count as zero."""
        return self._modes.clipped

    @property
    def noise(self) -> float:
        """What the regularizer adds to the diagonal."""
        return self._modes.noise

    def train(self, t: Any, f0: Any = 0.0) -> np.ndarray:
        """Outputs on the training points.

        Args:
            t: a time, an array of times (T,), or None (or infinity) for the end of training.
            f0: outputs before training, shaped like y, or a number.

        Returns:
            shaped like y; with a leading axis of T for an array of times.
        """
        modes, start = self._modes, initial(f0, self._modes.y.shape, "f0")
        return self._over(t, lambda time: start + self._moved(time, modes.y - start))

    def test(self, t: Any, K_test: Any, f0_train: Any = 0.0, f0_test: Any = 0.0) -> np.ndarray:  # noqa: N803
        """Outputs on test points.

        Args:
            t: as for `train`.
            K_test: kernel between test and training points, (M, m).
            f0_train: outputs on the training points before training.
            f0_test: outputs on the test points before training.

        Returns:
            (M,) or (M, C); with a leading axis for an array of times.
        """
        cross = self._modes.cross(K_test)
        residual = self._modes.y - initial(f0_train, self._modes.y.shape, "f0_train")
        start = initial(f0_test, (len(cross), *residual.shape[1:]), "f0_test")
        return self._over(t, lambda time: start + cross @ self._weights(time, residual))

    def weights(self, t: float | None) -> np.ndarray:
        """What a kernel between test and training points is multiplied by, from zero initial outputs.

        Args:
            t: one time, or None for the end of training.

        Returns:
            shaped like y: ``K_test @ weights`` are the outputs of `test`.
        """
        return self._weights(_one_time(t), self._modes.y)

    def loo(self, t: float | None) -> np.ndarray:
        """What the model says about each training point when that point is left out, from zero initial outputs.

        y_i - (y_i - f_i)/(1 - S_ii) with f = S y. At the end of training that is exact, as in `GP.loo`. Before, it is
        an approximation: a model trained without the point would see other eigenvectors (craven1978smoothing). At
        middling times its squared loss was up to 28% off in trials with a Gaussian kernel.

        Args:
            t: one time, positive, or None for the end of training.

        Returns:
            predictions shaped like y.

        Cost: 2 m^2 C flops after the eigendecomposition.
        """
        time = _one_time(t)
        if time == 0:
            raise ValueError("`t` is 0: before training there is nothing to leave out; give a positive time.")
        if not np.isinf(time):
            modes = self._modes
            decay = np.exp(-modes.values * self.lr * time / modes.num_entries)
            left = per_eigenvalue(modes.noise + modes.own * decay, modes.values, 1.0)  # 1 - S, mode by mode
            share = np.square(modes.vectors) @ left
            if (share > np.finfo(np.float64).tiny / np.finfo(np.float64).eps).all():
                residual = modes.apply(left, modes.y)
                return modes.y - residual / (share if modes.y.ndim == 1 else share[:, None])
        self._solve(self._modes.y)
        assert self._end is not None
        return self._end.loo().mean

    def ensemble(self, t: Any, K_test: Any, prior: Covariances | None = None) -> Posterior:  # noqa: N803
        """Mean and covariance over networks with random initial outputs, each trained for a time t.

        Mean P_t y, covariance K_** + P_t K P_t^T - P_t K_X* - (its transpose) with the blocks of `prior`. If `K` is
        itself the NNGP kernel (only the read-out trains) and there is no regularizer, that is
        K_** - K_* U diag((1 - exp(-2 w lr t/n))/w) U^T K_*^T,
        and the Gaussian-process posterior in the end. With a regularizer it is not: the pull to the initial parameters
        keeps part of the initial spread, and the posterior of `GP` counts the regularizer as noise.

        Args:
            t: as for `train`.
            K_test: kernel between test and training points, (M, m).
            prior: covariance of the outputs before training; None for centered networks f - f_0, which
                all start at zero and have no spread.

        Returns:
            a `Posterior`; its covariance (M, M) is that of one output, the same for all.
        """
        cross = self._modes.cross(K_test)
        if prior is not None:
            prior.check_sizes(*cross.shape)

        def spread(time: float) -> np.ndarray:
            if prior is None:
                return np.zeros((len(cross), len(cross)))
            return prior.after(self._transfer(time, cross))

        return Posterior(
            mean=self._over(t, lambda time: cross @ self._weights(time, self._modes.y)), cov=self._over(t, spread)
        )

    def _over(self, t: Any, function: Any) -> np.ndarray:
        """`function` of each time."""
        if t is None:
            return np.asarray(function(np.inf))
        times = np.asarray(t, np.float64)
        if times.ndim > 1 or times.size == 0 or np.isnan(times).any() or (times < 0).any():
            raise ValueError(f"`t` is {t!r}; give a time that is not negative, a vector of times, or None for the end.")
        if times.ndim == 0:
            return np.asarray(function(float(times)))
        return np.stack([function(float(time)) for time in times])

    def _rates(self, time: float) -> np.ndarray:
        """(1 - exp(-w lr t/n))/w for each eigenvalue w of G, with its limit lr t/n at zero."""
        tau = self.lr * time / self._modes.num_entries
        return per_eigenvalue(-np.expm1(-self._modes.values * tau), self._modes.values, tau)

    def _weights(self, time: float, residual: np.ndarray) -> np.ndarray:
        """What K_* is applied to."""
        return self._solve(residual) if np.isinf(time) else self._modes.apply(self._rates(time), residual)

    def _moved(self, time: float, residual: np.ndarray) -> np.ndarray:
        """How far the training outputs have moved: K applied to the weights."""
        if np.isinf(time):
            return residual - self._modes.noise * self._solve(residual)
        return self._modes.apply(self._modes.own * self._rates(time), residual)

    def _transfer(self, time: float, cross: np.ndarray) -> np.ndarray:
        if np.isinf(time):
            return self._solve(cross.T).T
        return self._modes.apply(self._rates(time), cross.T).T

    def _solve(self, right: np.ndarray) -> np.ndarray:
        """G^-1 right, by Cholesky."""
        if self._end is None:
            self._end = GP(self._modes.kernel, self._modes.y, reg=self._modes.noise, reg_scale="absolute")
        return self._end.solve(right)


def _one_time(t: Any) -> float:
    """A single time; None is the end."""
    if t is None:
        return float("inf")
    if np.ndim(t) != 0 or np.isnan(t) or t < 0:
        raise ValueError(f"`t` is {t!r}; give one time that is not negative, or None for the end.")
    return float(t)


def per_eigenvalue(numerator: np.ndarray, values: np.ndarray, limit: Any) -> np.ndarray:
    """Numerator / values, and `limit` where an eigenvalue is zero."""
    zero = values == 0
    return np.where(zero, limit, numerator / np.where(zero, 1.0, values))


def reg_path(
    K: Any,  # noqa: N803
    y: Any,
    K_test: Any,  # noqa: N803
    regs: Any,
    *,
    reg_scale: RegScale = "mean_trace",
) -> np.ndarray:
    """Ridge regression at many regularizers from one eigendecomposition.

    Args:
        K: kernel of the training points (m, m).
        y: targets (m,) or (m, C).
        K_test: kernel between test and training points (M, m).
        regs: regularizers (R,), positive.
        reg_scale: as for `GP`.

    Returns:
        predictions (R, M) or (R, M, C): K_* (K + noise I)^-1 y at each.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        IllConditionedError: `K` has an eigenvalue below zero by more than rounding.

    Cost: about 9 m^3 flops once, then 2 m^2 C + 2 M m C per regularizer. `GP` is the faster for up to ten of them.

    Example:
        >>> K, y = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0])
        >>> (reg_path(K, y, K, [1e-9, 1.0], reg_scale="absolute").round(3) + 0.0).tolist()
        [[1.0, 0.0], [0.625, 0.125]]
    """
    modes = Modes(K, y, 0.0, reg_scale, "reg_path")
    cross = modes.cross(K_test)
    values = np.asarray(regs, np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"`regs` is {regs!r}; give a vector of positive numbers.")
    noise = values * (modes.own.mean() if reg_scale == "mean_trace" else 1.0)
    with threads_for(len(modes.y)):
        inner = modes.vectors.T @ modes.y
        spread = cross @ modes.vectors
    scale = 1 / (modes.own + noise[:, None])
    scaled = scale * inner if inner.ndim == 1 else scale[..., None] * inner
    predictions: np.ndarray = scaled @ spread.T if inner.ndim == 1 else spread @ scaled
    return predictions


def max_learning_rate(ntk: Any, n_outputs: int, momentum: float = 0.0) -> float:
    """The learning rate above which gradient descent on the linear model diverges.

    2 n (1 + momentum) / lambda_max(Theta), for the loss 1/(2 n) sum (f - y)^2 with n = m `n_outputs` entries. For a
    loss that is a mean over examples and a sum over outputs (`System` with ``reduction="mean"``) give ``n_outputs=1``.

    Args:
        ntk: tangent kernel of the training points (m, m), trace or per output.
        n_outputs: outputs C over which the loss averages.
        momentum: of the heavy ball, in [0, 1).

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: one eigenvalue by LAPACK, 4/3 m^3 flops.

    Example:
        >>> round(max_learning_rate(np.array([[2.0, 1.0], [1.0, 2.0]]), 1), 6)
        1.333333
    """
    kernel = checks.square_matrix(ntk, "ntk")
    checks.count(n_outputs, "n_outputs", "max_learning_rate")
    beta = checks.number(momentum, "momentum", "max_learning_rate")
    if not 0 <= beta < 1:
        raise ValueError(f"`momentum` is {momentum}; it must lie in [0, 1).")
    n = len(kernel)
    with threads_for(n):
        largest = float(linalg.eigvalsh(kernel, subset_by_index=[n - 1, n - 1], check_finite=False)[0])
    if largest <= 0:
        raise ValueError(f"the largest eigenvalue of `ntk` is {largest:.3g}; a kernel matrix has a positive one.")
    return 2 * n * n_outputs * (1 + beta) / largest
