"""The neural representation of chen2020hierarchical: a frozen random layer, whitened on unlabeled inputs."""

from dataclasses import dataclass
from typing import Any

from widescape.features.random_layers import RandomFeatures, Rows, as_matrix, input_scale, random_features
from widescape.features.second_moments import Mode, SecondMoment, Whitening, second_moment, whitening


@dataclass(frozen=True, eq=False)
class NeuralFeatures:
    """Whitened random features: a function of inputs (n, d) with values (n, k), or (n, D) for zca.

    Attributes:
        features: the frozen random layer.
        moment: its second moments over the unlabeled inputs.
        whitened: the linear map on top; None leaves the features as they are.
    """

    features: RandomFeatures
    moment: SecondMoment
    whitened: Whitening | None

    def __call__(self, x: Any) -> Any:
        """The representation of inputs; NumPy or JAX as they come."""
        h = self.features(x)
        return h if self.whitened is None else self.whitened(h)


def neural_representation(
    unlabeled: Any,
    n_features: int,
    *,
    activation: Any = "relu",
    weight_dist: Rows = "sphere",
    bias_scale: float = 1.0,
    rescale_input: bool = True,
    whiten: Mode | None = "zca",
    center: bool = False,
    rank_tol: float = 1e-6,
    shrinkage: float = 0.0,
    seed: int = 0,
) -> NeuralFeatures:
    """Draw a frozen random layer and whiten it on unlabeled inputs.

    Args:
        unlabeled: inputs (n0, d); `unlabeled_samples` says how many. Not those that carry labels later.
        n_features: how many features, D.
        activation: as in `random_features`.
        weight_dist: as there.
        bias_scale: as there.
        rescale_input: whether inputs are scaled to a mean squared norm of d, as over `unlabeled`.
        whiten: the mode of `whitening`, or None.
        center: whether the mean of the features is taken off.
        rank_tol: the least eigenvalue of the second moments that counts, over the largest.
        shrinkage: added to all eigenvalues, in units of their mean.
        seed: an integer from 0 to 2^32 - 1.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: as these functions.

    Warns:
        RankWarning: directions of the features were left out.

    Cost: n0 D (2 d + D) + 9 D^3 flops; memory for a chunk of features and a few matrices (D, D).

    Source: chen2020hierarchical.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(400, 3))
        >>> h = neural_representation(x, 8)(x)
        >>> bool(np.allclose(h.T @ h / 400, np.eye(8), atol=1e-8))
        True
    """
    inputs = as_matrix(unlabeled, "unlabeled")
    scale = input_scale(inputs) if rescale_input else 1.0
    layer = random_features(
        inputs.shape[1],
        n_features,
        activation=activation,
        weight_dist=weight_dist,
        bias_scale=bias_scale,
        input_scale=scale,
        seed=seed,
    )
    moment = second_moment(inputs, layer, center=center)
    white = None if whiten is None else whitening(moment, mode=whiten, rank_tol=rank_tol, shrinkage=shrinkage)
    return NeuralFeatures(layer, moment, white)
