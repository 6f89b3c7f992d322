"""The mathematics of one fit: weights, leave-one-out predictions, spreads. Knows nothing of scikit-learn."""

import warnings
from typing import Any, Literal

import numpy as np

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.core.errors import ConditioningWarning, MemoryBudgetError
from widescape.core.memory import available_bytes, human_bytes
from widescape.estimators.cache import kernel_cache
from widescape.predict import GP, Covariances, GradientFlow, loo_regularizer

MATRICES = {"fit": 4, "spectral fit": 6}
"""How many matrices of the size of the kernel are held at most: by a Cholesky factorization with its inverse, and by an
eigendecomposition (a finite time, or the choice of a regularizer). The remembered kernel is one of them."""

_CHUNK = 512  # test points whose covariances are held at a time
_ROUNDING = 1e-9  # of a prior variance, below which a negative posterior one is rounding


class Solver:
    """Kernel regression of targets of an infinitely wide network, to a time or to the end.

    Args:
        net: the architecture.
        get: which kernel trains: ``"ntk"``, all layers; ``"nngp"``, the read-out alone (or Bayesian inference).
        x: training inputs (m, ...).
        y: targets (m, C).
        reg: relative regularizer; ``"loo"`` is replaced by the number that leave-one-out chooses.
        t: training time, or None for the end.
    """

    def __init__(
        self, net: Layer, get: Get, x: np.ndarray, y: np.ndarray, reg: float | Literal["loo"], t: float | None
    ) -> None:
        self.net, self.get, self.x, self.y, self.t = net, get, x, y, t
        self._model: GP | GradientFlow | None = None
        if isinstance(reg, str):
            kernel = self._kernel("spectral fit")
            self.reg = loo_regularizer(kernel, y).reg
            self._model = self._fitted(kernel)
        else:
            self.reg = float(reg)

    @property
    def model(self) -> GP | GradientFlow:
        """The fitted model, made when first needed; pickling leaves it out."""
        if self._model is None:
            self._model = self._fitted(self._kernel("fit" if self.t is None else "spectral fit"))
        return self._model

    def _fitted(self, kernel: np.ndarray) -> GP | GradientFlow:
        if self.t is None:
            return GP(kernel, self.y, reg=self.reg, kind=self.get)
        return GradientFlow(kernel, self.y, reg=self.reg)

    def _kernel(self, purpose: str) -> np.ndarray:
        """The kernel of the training inputs, if what follows fits into memory."""
        require_memory(len(self.x), MATRICES[purpose])
        return kernel_cache.train(self.net, self.x, self.get)

    def weights(self) -> np.ndarray:
        """What a kernel between test and training points is multiplied by, (m, C)."""
        return self.model.weights if isinstance(self.model, GP) else self.model.weights(self.t)

    def loo(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Leave-one-out predictions (m, C), and the variance of a left-out target (m,) where there is one.

        Predictions are exact at the end of training, an approximation before. The variance is that of the Gaussian
        process, with the regularizer as noise: at the end of training with the NNGP kernel.
        """
        if not isinstance(self.model, GP):
            return self.model.loo(self.t), None
        left_out = self.model.loo()
        return left_out.mean, left_out.variance if self.get == "nngp" else None

    @property
    def noise(self) -> float:
        """What the regularizer adds to the diagonal."""
        return float(self.model.noise)

    def variances(self, x_test: np.ndarray) -> np.ndarray:
        """Variance of the outputs at test points (M,).

        At the end of training with the NNGP kernel: the posterior's. Otherwise: over randomly initialized networks
        after training.
        """
        posterior = isinstance(self.model, GP) and self.get == "nngp"
        prior = None if posterior else kernel_cache.train(self.net, self.x, "nngp")
        starts = range(0, len(x_test), _CHUNK)
        return np.concatenate([self._chunk(x_test[start : start + _CHUNK], prior) for start in starts])

    def _chunk(self, x_test: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
        """The variances of some test points; `prior` is the NNGP kernel of the training points, where it is needed."""
        cross = kernel_cache.cross(self.net, x_test, self.x, self.get)
        model = self.model
        own = np.asarray(self.net.kernel(x_test, get="nngp").nngp)
        blocks = None if prior is None else Covariances(prior, self._nngp_cross(x_test), own)
        if not isinstance(model, GP):
            spread = np.diag(model.ensemble(self.t, cross, blocks).cov)
        elif blocks is None:
            spread = model.mean_cov(cross, np.diag(own).copy()).cov
        else:
            spread = np.diag(model.mean_cov(cross, prior=blocks).cov)
        if spread.min() < -_ROUNDING * float(own.max()):
            warnings.warn(
                f"rounding has left a variance of {spread.min():.2g}, which counts as zero: the kernel matrix is too "
                "ill-conditioned for standard deviations. Raise `reg`.",
                ConditioningWarning,
                stacklevel=4,
            )
        return np.maximum(spread, 0.0)

    def _nngp_cross(self, x_test: np.ndarray) -> np.ndarray:
        return kernel_cache.cross(self.net, x_test, self.x, "nngp")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}


def require_memory(m: int, matrices: int) -> None:
    """Refuse a fit whose matrices do not fit.

    Raises:
        MemoryBudgetError: says how many examples would.
    """
    free = available_bytes()
    needed = 8 * m * m * matrices
    if needed > free:
        most = int((free / (8 * matrices)) ** 0.5)
        raise MemoryBudgetError(
            f"a fit of {m:,} examples needs about {human_bytes(needed)}, but {human_bytes(free)} are free. Give "
            f"`n_train_max={most}` or less."
        )
