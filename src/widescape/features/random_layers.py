"""Frozen random layers."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64
from widescape.core.random import named_generator
from widescape.curvature.request import hashable
from widescape.features.expansions import Phi, activation_of, derivatives, relu

Rows = Literal["sphere", "gaussian"]
CHUNK = 2048
"""Rows of features that are held at a time."""


def _step(t: jax.Array) -> jax.Array:
    return (t >= 0).astype(t.dtype)


FEATURE_ACTIVATIONS: dict[str, Phi] = {"relu": relu, "step": _step, "square": jnp.square}
"""By name: max(t, 0), the indicator 1{t >= 0} of the paper, and t^2 (not t^2/2 as in a Taylor model)."""


def input_scale(x: Any) -> float:
    """The factor that gives inputs (n, d) a mean squared norm of d.

    Raises:
        ShapeError, DtypeError, ValueError: no finite matrix, or all of it zero.

    Example:
        >>> input_scale(np.array([[3.0, 4.0], [0.0, 5.0]])) == (2 / 25) ** 0.5
        True
    """
    x = as_matrix(x, "x")
    largest = float(np.abs(x).max())
    if largest == 0:
        raise ValueError("`x` is zero; no factor gives it a norm.")
    mean = float(np.mean(np.square(x / largest).sum(axis=1)))
    return (x.shape[1] / mean) ** 0.5 / largest


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """The frozen random layer h(x) = phi(V (s x) + b), a function of inputs (n, d).

    Attributes:
        weights: V, (D, d).
        bias: b, (D,).
        activation: phi, a name of `FEATURE_ACTIVATIONS`, a nonlinearity of `widescape.arch` or a function of JAX.
        input_scale: s.

    Cost: 2 n d D flops a call. NumPy inputs give NumPy features in float64, in chunks of rows; JAX inputs give JAX
    features in their own precision, and derivatives pass.
    """

    weights: np.ndarray
    bias: np.ndarray
    activation: Any = "relu"
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        feature_activation(self.activation)

    def __call__(self, x: Any) -> Any:
        """Features (n, D) of inputs (n, d).

        Raises:
            ShapeError, DtypeError, ValueError: inputs that are no finite matrix, or have another number of features.
            NonFiniteError: features overflow, or are NaN where the activation has no value.
        """
        phi = feature_activation(self.activation)
        if isinstance(x, jax.Array):
            refuse_misfit(x, "x", self.weights.shape[1])
            weights, bias = (jnp.asarray(part, x.dtype) for part in (self.weights, self.bias))
            return phi(self.input_scale * x @ weights.T + bias[None])
        x = as_matrix(x, "x")
        if x.shape[1] != self.weights.shape[1]:
            raise ShapeError(f"`x` has {x.shape[1]} features, but these random features take {self.weights.shape[1]}.")
        out = np.empty((len(x), len(self.weights)))
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            with np.errstate(over="ignore", invalid="ignore"):
                z = (self.input_scale * x[rows]) @ self.weights.T + self.bias
            if not np.isfinite(z).all():
                raise NonFiniteError("the pre-activations of the features overflow; scale the inputs down.")
            out[rows] = elementwise(phi, z)
        if np.isnan(out).any():
            raise NonFiniteError(
                "features are NaN: `activation` has no value at some pre-activations. Give one that is defined for all "
                "real numbers."
            )
        if np.isinf(out).any():
            raise NonFiniteError("the features overflow, or `activation` has a pole; scale the inputs down.")
        return out


def random_features(
    d: int,
    n_features: int,
    *,
    activation: Any = "relu",
    weight_dist: Rows = "sphere",
    bias_scale: float = 1.0,
    input_scale: float = 1.0,
    seed: int = 0,
) -> RandomFeatures:
    """Draw a frozen random layer.

    Args:
        d: dimension of the inputs.
        n_features: how many features, D.
        activation: ``"relu"``, ``"step"`` for 1{t >= 0}, ``"square"`` for t^2, a nonlinearity of `widescape.arch`, or
            an elementwise function of JAX.
        weight_dist: rows of V uniform on the unit ``"sphere"``, or ``"gaussian"`` with covariance I/d, of unit
            expected squared norm.
        bias_scale: standard deviation of the biases.
        input_scale: the factor s on inputs; `input_scale` finds the one for a mean squared norm of d.
        seed: an integer from 0 to 2^32 - 1.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    Source: chen2020hierarchical.

    Example:
        >>> random_features(3, 5, activation="step")(np.ones((2, 3))).shape
        (2, 5)
    """
    owner = "random_features"
    checks.count(d, "d", owner)
    checks.count(n_features, "n_features", owner)
    checks.seed(seed, owner)
    checks.choice(weight_dist, "weight_dist", Rows)
    checks.not_negative(checks.number(bias_scale, "bias_scale", owner), "bias_scale", owner)
    checks.positive(checks.number(input_scale, "input_scale", owner), "input_scale", owner)
    rows = named_generator(jax.random.key(seed), owner, "weights").standard_normal((n_features, d))
    if weight_dist == "sphere":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    else:
        rows /= d**0.5
    bias = bias_scale * named_generator(jax.random.key(seed), owner, "bias").standard_normal(n_features)
    return RandomFeatures(rows, bias, activation, float(input_scale))


def feature_activation(activation: Any) -> Phi:
    """The function that a feature map's `activation` names; errors as of `activation_of`."""
    return activation_of(activation, "a feature map", FEATURE_ACTIVATIONS)


def elementwise(phi: Phi, z: np.ndarray, order: int = 0) -> np.ndarray:
    """phi(z), or its derivative of an order, in float64; padded to a power of two, so that few programs compile."""
    padded = np.zeros(max(4096, 1 << (z.size - 1).bit_length()))
    padded[: z.size] = z.ravel()
    return call_in_float64(partial(_compiled, hashable(phi), order), padded)[: z.size].reshape(z.shape)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(phi: Phi, order: int, z: jax.Array) -> jax.Array:
    return derivatives(phi, z, order)[order]


def as_matrix(x: Any, name: str) -> np.ndarray:
    """A finite matrix in float64.

    Raises:
        ShapeError, DtypeError, ValueError: it is none.
    """
    array = x if isinstance(x, jax.core.Tracer) else np.asarray(x)
    _refuse_integers(array, name)
    matrix: np.ndarray = checks.batch(array, name)
    if matrix.ndim != 2:
        raise ShapeError(f"`{name}` has shape {matrix.shape}; it must be a matrix, examples first. Flatten images.")
    return matrix


def refuse_misfit(x: jax.Array, name: str, width: int) -> None:
    """Refuse an array of JAX that is no floating-point matrix of this width.

    Raises:
        ShapeError, DtypeError: the same.
    """
    _refuse_integers(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DtypeError(f"`{name}` has dtype {x.dtype}; it must be an array of real floating-point numbers.")
    if x.ndim != 2 or x.shape[1] != width:
        raise ShapeError(f"`{name}` has shape {x.shape}; it must be (n, {width}).")


def _refuse_integers(x: Any, name: str) -> None:
    if x.dtype.kind in "iub":
        raise DtypeError(f"`{name}` has dtype {x.dtype}; real numbers are needed. Convert it: `{name}.astype(float)`.")
