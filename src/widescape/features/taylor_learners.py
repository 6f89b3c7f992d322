"""The four models of chen2020hierarchical as learners: linear and quadratic, on inputs and on neural features."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from widescape import predict
from widescape.core.errors import AssumptionWarning, RankWarning
from widescape.features.lam_selection import select_lam
from widescape.features.learners import Learner, Predict
from widescape.features.linear_taylor import linear_taylor_kernel, taylor_weights
from widescape.features.neural_representations import neural_representation
from widescape.features.quadratic_objective import quadratic_outputs
from widescape.features.second_moments import Mode, unlabeled_samples

Represent = Callable[[Any], Any]

RIDGES = (1e-4, 1e-2, 0.1, 1.0, 10.0)
LAMS = (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class NeuralInputs:
    """A whitened random layer, drawn and whitened anew for each seed, on unlabeled inputs of their own.

    Attributes:
        n_features: features, D.
        activation: as for `random_features`.
        whiten: as for `neural_representation`.
        rank_tol: as there.
        samples: unlabeled inputs; None for those of `unlabeled_samples`.
    """

    n_features: int = 192
    activation: Any = "square"
    whiten: Mode = "pca"
    rank_tol: float = 1e-6
    samples: int | None = None

    def fitted(self, unlabeled: Callable[[int], np.ndarray], seed: int) -> tuple[Represent, int]:
        """The representation, and how many directions it keeps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)  # the rank is among what is selected
            found = neural_representation(
                unlabeled(self.samples or unlabeled_samples(self.n_features)),
                self.n_features,
                activation=self.activation,
                whiten=self.whiten,
                rank_tol=self.rank_tol,
                seed=seed,
            )
        return found, self.n_features if found.whitened is None else found.whitened.rank


@dataclass(frozen=True)
class LinearTaylorLearner:
    """Ridge regression on the tangent features of a two-layer network, its regularizer chosen on the validation set.

    Attributes:
        represent: what the network takes; None for the inputs themselves.
        width: neurons, even.
        activation: as for `fit_linear_taylor`.
        ridges: regularizers to choose from, in units of the mean of the kernel's diagonal.
    """

    represent: NeuralInputs | None = None
    width: int = 1000
    activation: Any = "relu"
    ridges: tuple[float, ...] = RIDGES

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        unlabeled: Callable[[int], np.ndarray],
        seed: int,
    ) -> Predict:
        """Learn from examples."""
        h, held, represent, selected = _represented(self.represent, x, validation[0], unlabeled, seed)
        w0, _ = taylor_weights(self.width, h.shape[1], mean_square=_mean_square(h), seed=seed)
        kernel = linear_taylor_kernel(h, h, w0, self.activation)
        cross = linear_taylor_kernel(held, h, w0, self.activation)
        weights = [predict.GP(kernel, y, reg=ridge, kind="ntk").weights for ridge in self.ridges]
        best = int(np.argmin([np.mean(np.square(cross @ own - validation[1])) for own in weights]))
        chosen = {"ridge": self.ridges[best], "at_edge": _at_edge(self.ridges, self.ridges[best])}
        return _Fitted(
            lambda new: linear_taylor_kernel(represent(new), h, w0, self.activation) @ weights[best],
            {**selected, **chosen},
        )


@dataclass(frozen=True)
class QuadraticTaylorLearner:
    """The quadratic Taylor model by `select_lam`, its regularizer chosen on the validation set.

    Attributes:
        represent: what the network takes; None for the inputs themselves.
        width: neurons, even.
        activation: as for `fit_quadratic_taylor`.
        lams: weights of the regularizer to choose from.
        max_iter: iterations of L-BFGS for each.
        init_scale: size of the random start.
    """

    represent: NeuralInputs | None = None
    width: int = 64
    activation: Any = "relu3"
    lams: tuple[float, ...] = LAMS
    max_iter: int = 150
    init_scale: float = 0.3

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        unlabeled: Callable[[int], np.ndarray],
        seed: int,
    ) -> Predict:
        """Learn from examples."""
        h, held, represent, selected = _represented(self.represent, x, validation[0], unlabeled, seed)
        w0, a = taylor_weights(self.width, h.shape[1], mean_square=_mean_square(h), seed=seed)
        with warnings.catch_warnings():
            # few rows, and the end of the grid, are part of the experiment, and said by `selected`
            warnings.simplefilter("ignore", AssumptionWarning)
            warnings.filterwarnings("ignore", "the chosen `lam`", UserWarning)
            found = select_lam(
                h, y, held, validation[1], self.lams, W0=w0, a=a, activation=self.activation, max_iter=self.max_iter,
                init_scale=self.init_scale, seed=seed, progress=False,
            )  # fmt: skip
        chosen = {"lam": found.lam, "at_edge": found.at_edge, "iterations": found.fit.iterations}
        return _Fitted(
            lambda new: quadratic_outputs(represent(new), found.fit.W, w0, a, activation=self.activation),
            {**selected, **chosen},
        )


def four_learners(
    *,
    n_features: int = 192,
    features: Any = "square",
    linear_width: int = 1000,
    raw_width: int = 256,
    neural_width: int = 16,
    ridges: tuple[float, ...] = RIDGES,
    lams: tuple[float, ...] = LAMS,
    max_iter: int = 150,
) -> dict[str, Learner]:
    """The four models whose sample complexity chen2020hierarchical compares, for `sample_complexity_curve`.

    ``"NTK-Raw"`` and ``"NTK-Neural"`` are the linear Taylor model with phi = ReLU, on inputs and on whitened features.
    ``"Quad-Raw"`` is the quadratic Taylor model with phi(t) = max(t, 0)^3/6 on the inputs, where phi(t) = t^2/2 could
    only express degree 2. ``"Quad-Neural"`` is the quadratic Taylor model with phi(t) = t^2/2 on whitened features.

    Each seed draws a representation of its own and whitens it on 20 unlabeled inputs for each feature. Regularizers are
    chosen on the validation set. What a fit selected says which, whether it is an end of those offered (`at_edge`), and
    how many directions the representation keeps (`rank`); warnings about these are not given again for each fit.

    Args:
        n_features: random features, D.
        features: their activation, as for `random_features`; ``"square"`` spans degree 2 exactly, ``"step"`` is the
            one of the paper's analysis.
        linear_width: neurons of the linear models.
        raw_width: neurons of Quad-Raw.
        neural_width: neurons of Quad-Neural.
        ridges: regularizers of the linear models, in units of the mean of the kernel's diagonal.
        lams: regularizers of the quadratic models.
        max_iter: iterations of L-BFGS.

    Returns:
        learners by name.

    Raises (by the learners):
        TypeError, ValueError: numbers that do not fit.

    Cost: with n examples and T test inputs about n (n + T) times the widths for the linear models, and n k m flops for
    each of some 600 iterations of the quadratic ones.

    Source: chen2020hierarchical; widths, grids and iterations are this library's.

    Example:
        >>> from widescape.features import LowRankPolynomial, sample_complexity_curve
        >>> models = four_learners(n_features=20, linear_width=40, raw_width=8, neural_width=8)
        >>> problem = LowRankPolynomial(3, 2, kind="harmonic")
        >>> curve = sample_complexity_curve(models, problem, [60], 1, n_val=50, n_test=100)
        >>> bool(curve.median("Quad-Neural")[0] < 0.01)
        True
    """
    neural = NeuralInputs(n_features, features)
    return {
        "NTK-Raw": LinearTaylorLearner(None, linear_width, ridges=ridges),
        "NTK-Neural": LinearTaylorLearner(neural, linear_width, ridges=ridges),
        "Quad-Raw": QuadraticTaylorLearner(None, raw_width, "relu3", lams, max_iter),
        "Quad-Neural": QuadraticTaylorLearner(neural, neural_width, "square", lams, max_iter),
    }


@dataclass(frozen=True)
class _Fitted:
    """A function of inputs, and what was chosen for it."""

    predict: Predict
    selected: Mapping[str, Any]

    def __call__(self, x: np.ndarray) -> Any:
        return self.predict(x)


def _represented(
    neural: NeuralInputs | None, x: np.ndarray, held: np.ndarray, unlabeled: Callable[[int], np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray, Represent, dict[str, Any]]:
    """Both sets as the network takes them, the map, and what there is to say of it."""
    if neural is None:
        return x, held, lambda new: new, {}
    represent, rank = neural.fitted(unlabeled, seed)
    return represent(x), represent(held), represent, {"rank": rank}


def _mean_square(h: np.ndarray) -> float:
    """E|h|^2, by which pre-activations have unit variance."""
    return float(np.mean(np.square(h).sum(axis=1)))


def _at_edge(values: tuple[float, ...], chosen: float) -> bool:
    return len(values) > 1 and chosen in (min(values), max(values))
