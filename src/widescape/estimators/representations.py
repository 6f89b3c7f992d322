"""Frozen representations as transformers: random, whitened, polynomial, or a layer of a trained model."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.validation import check_is_fitted, validate_data

from widescape.arch import Sequential
from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.features import (
    Whitening,
    input_scale,
    neural_representation,
    random_features,
    second_moment,
    whitening,
)
from widescape.features.random_layers import Rows
from widescape.features.second_moments import Mode

Representation = Callable[[Any], Any]


class _Representation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Maps a table (n, d) to features (n, k) by a function that `fit` finds; JAX arrays come back as JAX arrays."""

    _n_features_out: int
    _map: Representation

    def fit(self, X: Any, y: Any = None) -> "_Representation":  # noqa: N803
        """Learn the representation from inputs (n, d), for which no labels are needed."""
        del y
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=self._least_samples())
        self._map = self._found(x)
        self._n_features_out = int(np.shape(self._map(x[:1]))[1])
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Features (n, k) of inputs (n, d)."""
        check_is_fitted(self)
        if isinstance(X, jax.Array):
            if X.ndim != 2 or X.shape[1] != self.n_features_in_:
                raise ShapeError(f"X has shape {X.shape}, but `fit` saw {self.n_features_in_} features.")
            return self._map(X if jnp.issubdtype(X.dtype, jnp.floating) else X.astype(float))
        return self._map(validate_data(self, X, dtype=np.float64, reset=False))

    @abstractmethod
    def _found(self, x: np.ndarray) -> Representation:
        """The function that represents inputs, learned from `x`."""

    def _least_samples(self) -> int:
        return 1

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_map")


class RandomFeatureMap(_Representation):
    """A frozen random layer: phi(V (s x) + b), its rows of V on the unit sphere, b normal.

    Args:
        n_features: how many features.
        activation: ``"relu"``, ``"step"`` for 1{t >= 0}, ``"square"`` for t^2 (in a Taylor model it means t^2/2), a
            nonlinearity of `widescape.arch`, or an elementwise function of JAX.
        weight_dist: ``"sphere"``, or ``"gaussian"`` rows with covariance I/d.
        bias_scale: standard deviation of the biases.
        rescale_input: whether `fit` finds the factor s that gives inputs a mean squared norm of d; otherwise it is 1.
        random_state: an integer seed.

    Attributes:
        features_: the drawn layer, a `widescape.features.RandomFeatures`.
        n_features_in_: d.

    Cost: 2 n d D flops.

    Source: rahimi2007random, chen2020hierarchical.

    Example:
        >>> RandomFeatureMap(5, activation="step").fit_transform(np.eye(3)).shape
        (3, 5)
    """

    def __init__(
        self,
        n_features: int = 256,
        activation: Any = "relu",
        weight_dist: Rows = "sphere",
        bias_scale: float = 1.0,
        rescale_input: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_features = n_features
        self.activation = activation
        self.weight_dist = weight_dist
        self.bias_scale = bias_scale
        self.rescale_input = rescale_input
        self.random_state = random_state

    def _found(self, x: np.ndarray) -> Representation:
        self.features_ = random_features(
            x.shape[1],
            self.n_features,
            activation=self.activation,
            weight_dist=self.weight_dist,
            bias_scale=self.bias_scale,
            input_scale=input_scale(x) if self.rescale_input else 1.0,
            seed=seed_of(self.random_state, type(self).__name__),
        )
        return self.features_


class _Whitened(_Representation):
    """What transformers that whiten have in common."""

    whitening_: Whitening | None

    @property
    def second_moment_eigs_(self) -> np.ndarray:
        """Eigenvalues of the second moments, falling (D,)."""
        return self._fitted_whitening().eigenvalues

    @property
    def n_components_(self) -> int:
        """How many directions are kept."""
        return self._fitted_whitening().rank

    def _fitted_whitening(self) -> Whitening:
        if getattr(self, "whitening_", None) is None:
            raise AttributeError(f"{type(self).__name__} has not whitened anything: not fitted, or fitted without it.")
        assert self.whitening_ is not None
        return self.whitening_


class Whitener(_Whitened):
    """Gives features the identity as second moments, on the directions that the inputs of `fit` reach.

    For standardized and regularized whitening of images as kernels want it, see `ZCAWhitener`.

    Args:
        mode: ``"zca"``, the symmetric root; ``"pca"``, coordinates along eigenvectors; ``"cholesky"``.
        center: whether the mean is taken off first.
        rank_tol: the least eigenvalue that counts, over the largest.
        shrinkage: added to all eigenvalues, in units of their mean.

    Attributes:
        whitening_: a `widescape.features.Whitening`.
        second_moment_eigs_, n_components_: eigenvalues (D,) and how many directions are kept.

    Raises (by `fit`):
        ValueError: fewer samples than features without `shrinkage`; Cholesky without full rank.

    Warns:
        RankWarning: directions were left out.

    Cost: 2 n D^2 + 9 D^3 flops.

    Source: chen2020hierarchical.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 2)) @ np.array([[1.0, 1.0], [0.0, 2.0]])
        >>> h = Whitener().fit_transform(x)
        >>> bool(np.allclose(h.T @ h / 50, np.eye(2)))
        True
    """

    def __init__(
        self, mode: Mode = "zca", center: bool = False, rank_tol: float = 1e-6, shrinkage: float = 0.0
    ) -> None:
        self.mode = mode
        self.center = center
        self.rank_tol = rank_tol
        self.shrinkage = shrinkage

    def _found(self, x: np.ndarray) -> Representation:
        self.whitening_ = whitening(
            second_moment(x, center=self.center), mode=self.mode, rank_tol=self.rank_tol, shrinkage=self.shrinkage
        )
        return self.whitening_


class NeuralRepresentation(_Whitened):
    """A frozen random layer, whitened on the inputs of `fit`, which should be unlabeled ones.

    Inside of a pipeline `fit` sees the labeled training inputs, and whitening by those makes them nearly orthonormal
    when there are few: fit it on unlabeled inputs first, 20 for each feature, and put
    ``sklearn.frozen.FrozenEstimator(representation)`` into the pipeline.

    Args:
        n_features: how many features, D.
        activation: as for `RandomFeatureMap`.
        weight_dist: as there.
        bias_scale: as there.
        rescale_input: as there.
        whiten: ``"zca"``, ``"pca"``, ``"cholesky"``, or None.
        center: as for `Whitener`.
        rank_tol: as there.
        shrinkage: as there.
        random_state: an integer seed.

    Attributes:
        representation_: a `widescape.features.NeuralFeatures`; counts dead and constant features in its ``moment``.
        second_moment_eigs_, n_components_: eigenvalues (D,) and how many directions are kept.

    Raises (by `fit`):
        ValueError: fewer samples than features without `shrinkage`.

    Warns:
        RankWarning: directions were left out.

    Cost: n D (2 d + 2 D) + 9 D^3 flops.

    Source: chen2020hierarchical.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(400, 3))
        >>> NeuralRepresentation(8).fit(x).transform(x[:2]).shape
        (2, 8)
    """

    def __init__(
        self,
        n_features: int = 256,
        activation: Any = "relu",
        weight_dist: Rows = "sphere",
        bias_scale: float = 1.0,
        rescale_input: bool = True,
        whiten: Mode | None = "zca",
        center: bool = False,
        rank_tol: float = 1e-6,
        shrinkage: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.n_features = n_features
        self.activation = activation
        self.weight_dist = weight_dist
        self.bias_scale = bias_scale
        self.rescale_input = rescale_input
        self.whiten = whiten
        self.center = center
        self.rank_tol = rank_tol
        self.shrinkage = shrinkage
        self.random_state = random_state

    def _found(self, x: np.ndarray) -> Representation:
        self.representation_ = neural_representation(
            x,
            self.n_features,
            activation=self.activation,
            weight_dist=self.weight_dist,
            bias_scale=self.bias_scale,
            rescale_input=self.rescale_input,
            whiten=self.whiten,
            center=self.center,
            rank_tol=self.rank_tol,
            shrinkage=self.shrinkage,
            seed=seed_of(self.random_state, type(self).__name__),
        )
        self.whitening_ = self.representation_.whitened
        return self.representation_


class PolynomialRepresentation(_Whitened):
    """All monomials of the inputs up to a degree, whitened if asked for.

    Args:
        degree: the largest.
        whiten: ``"zca"``, ``"pca"``, ``"cholesky"``, or None.
        center: as for `Whitener`.
        rank_tol: as there.
        shrinkage: as there.

    Attributes:
        polynomial_: scikit-learn's `PolynomialFeatures`.
        second_moment_eigs_, n_components_: eigenvalues (D,) and how many directions are kept, if whitened.

    Cost: there are (d + degree)! / (d! degree!) monomials.

    Example:
        >>> PolynomialRepresentation(2, whiten=None).fit_transform([[2.0, 3.0]]).tolist()
        [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
    """

    def __init__(
        self,
        degree: int = 2,
        whiten: Mode | None = "zca",
        center: bool = False,
        rank_tol: float = 1e-6,
        shrinkage: float = 0.0,
    ) -> None:
        self.degree = degree
        self.whiten = whiten
        self.center = center
        self.rank_tol = rank_tol
        self.shrinkage = shrinkage

    def _found(self, x: np.ndarray) -> Representation:
        checks.count(self.degree, "degree", type(self).__name__)
        self.polynomial_ = PolynomialFeatures(self.degree).fit(x)
        self.whitening_ = None
        if self.whiten is not None:
            self.whitening_ = whitening(
                second_moment(x, self.polynomial_.transform, center=self.center),
                mode=self.whiten,
                rank_tol=self.rank_tol,
                shrinkage=self.shrinkage,
            )
        return self._monomials

    def _monomials(self, x: Any) -> Any:
        own = self.polynomial_
        h = (x[:, None, :] ** own.powers_[None]).prod(axis=2) if isinstance(x, jax.Array) else own.transform(x)
        return h if self.whitening_ is None else self.whitening_(h)


class IdentityRepresentation(OneToOneFeatureMixin, _Representation):
    """The inputs themselves: the raw representation, for comparison.

    Example:
        >>> IdentityRepresentation().fit_transform([[1.0, 2.0]]).tolist()
        [[1.0, 2.0]]
    """

    def _found(self, x: np.ndarray) -> Representation:
        self.n_components_ = x.shape[1]
        return _same


def _same(x: Any) -> Any:
    return x


class LayerRepresentation(_Whitened):
    """What a layer of a trained model makes of the inputs.

    Args:
        net: an `arch.Sequential`, or any function f(params, x) with values (n, ...) of JAX, such as the body of a
            model without its read-out.
        params: the trained parameters.
        layer: for an `arch.Sequential`, the index of the layer whose outputs are taken, -2 for the last but one.
        input_shape: the shape of an example that the model takes, for instance (28, 28, 1); None for the columns of
            the table. Tables hold examples flat, as scikit-learn wants them.
        batch: how many examples are passed through the model at a time.
        whiten: ``"zca"``, ``"pca"``, ``"cholesky"``, or None.
        rank_tol: as for `Whitener`.
        shrinkage: as for `Whitener`.

    Attributes:
        second_moment_eigs_, n_components_: eigenvalues (D,) and how many directions are kept, if whitened.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(depth=2, width=8, n_out=1, activation=arch.Relu())
        >>> body = LayerRepresentation(net, net.init(jax.random.key(0), (3,)))
        >>> body.fit_transform(np.ones((4, 3))).shape
        (4, 8)
    """

    def __init__(
        self,
        net: Any = None,
        params: Any = None,
        layer: int = -2,
        input_shape: tuple[int, ...] | None = None,
        batch: int = 512,
        whiten: Mode | None = None,
        rank_tol: float = 1e-6,
        shrinkage: float = 0.0,
    ) -> None:
        self.net = net
        self.params = params
        self.layer = layer
        self.input_shape = input_shape
        self.batch = batch
        self.whiten = whiten
        self.rank_tol = rank_tol
        self.shrinkage = shrinkage

    def _found(self, x: np.ndarray) -> Representation:
        owner = type(self).__name__
        checks.count(self.batch, "batch", owner)
        if not callable(self.net) and not isinstance(self.net, Sequential):
            raise TypeError(f"{owner}: `net` is {self.net!r}; give an arch.Sequential or a function of (params, x).")
        if self.input_shape is not None and int(np.prod(self.input_shape)) != x.shape[1]:
            raise ShapeError(f"{owner}: `input_shape` is {self.input_shape}, but the table has {x.shape[1]} columns.")
        self.whitening_ = None
        if self.whiten is not None:
            self.whitening_ = whitening(
                second_moment(x, self._activations), mode=self.whiten, rank_tol=self.rank_tol, shrinkage=self.shrinkage
            )
        return self._represented

    def _represented(self, x: Any) -> Any:
        h = self._activations(x)
        return h if self.whitening_ is None else self.whitening_(h)

    def _activations(self, x: Any) -> Any:
        """Outputs of the layer, flat (n, D)."""
        shaped = x if self.input_shape is None else x.reshape(len(x), *self.input_shape)
        if isinstance(x, jax.Array):
            return self._of(shaped).reshape(len(x), -1)
        pieces = [np.asarray(self._of(shaped[i : i + self.batch])) for i in range(0, len(x), self.batch)]
        return np.concatenate(pieces).reshape(len(x), -1).astype(np.float64)

    def _of(self, x: Any) -> Any:
        if not isinstance(self.net, Sequential):
            return self.net(self.params, x)
        layers = self.net.layers
        if not -len(layers) <= self.layer < len(layers):
            raise ValueError(f"`layer` is {self.layer}, but the network has {len(layers)} layers.")
        taken = range(len(layers))[self.layer] + 1
        return Sequential(*layers[:taken]).apply(self.params[:taken], x)


def seed_of(random_state: Any, owner: str) -> int:
    """An integer seed, so that a model is the same wherever it is fitted.

    Raises:
        ValueError: anything but an integer that is not negative.
    """
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise ValueError(f"{owner}: `random_state` is {random_state!r}; give an integer that is not negative.")
    return int(random_state)
