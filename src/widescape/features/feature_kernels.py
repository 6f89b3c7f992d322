"""Kernels of infinitely wide random layers, and of linear Taylor models on them, against the angle of two inputs."""

import warnings
from typing import Any

import numpy as np

from widescape import arch
from widescape.arch.elementwise import Elementwise
from widescape.core.errors import NonSmoothWarning
from widescape.features.linear_taylor import infinite_linear_taylor

_LAYERS: dict[str, Elementwise] = {
    "step": arch.RectifiedPower(0),
    "relu": arch.Relu(),
    "square": arch.Polynomial((0.0, 0.0, 1.0)),
}


def random_feature_kernel(rho: Any, activation: str | Elementwise = "step") -> Any:
    """E[phi(v . x + b) phi(v . x' + b)] for v ~ N(0, I/d), b ~ N(0, 1) and inputs of norm sqrt(d).

    The second moment of the features of a random layer of infinite width, exact for Gaussian rows; rows on the unit
    sphere differ from it by O(1/d). The step has 1/4 + arcsin((1 + rho)/2)/(2 pi), the square 4 + 2 (1 + rho)^2.

    Args:
        rho: cosines x . x'/d of the angle of two inputs, in [-1, 1], a number or an array.
        activation: ``"step"`` for 1{t >= 0}, ``"relu"``, ``"square"`` for t^2, or a nonlinearity of `widescape.arch`.

    Returns:
        a float, or an array like `rho`; float64.

    Raises:
        TypeError, ValueError: an unknown activation, or no cosines.

    Source: chen2020hierarchical, the representation; cho2009kernel for the step and the ReLU.

    Example:
        >>> round(random_feature_kernel(0.0), 12) == round(1 / 3, 12)
        True
    """
    return _against_angle(rho, _features(activation), "nngp")


def ntk_neural_kernel(rho: Any, *, activation: str | Elementwise = "step", model: str | Elementwise = "relu") -> Any:
    """The limit of the tangent kernel of a linear Taylor model on the unwhitened features of a wide random layer.

    k(rho) E[phi'(u) phi'(u')] with k of `random_feature_kernel` and (u, u') Gaussian with second moments k(1) and
    k(rho): for the step and the ReLU, k (1/4 + arcsin(k/k(1))/(2 pi)). A function of the angle alone, so that
    `invariant_kernel_risk_floor` holds for it.

    Args:
        rho: cosines x . x'/d of the angle of two inputs, in [-1, 1], a number or an array.
        activation: of the features, as for `random_feature_kernel`.
        model: of the trained layer: ``"relu"``, ``"relu3"``, ``"square"`` or a nonlinearity of `widescape.arch`, as for
            `infinite_linear_taylor`.

    Returns:
        a float, or an array like `rho`; float64.

    Raises:
        TypeError, ValueError: an unknown activation, or no cosines.

    Source: chen2020hierarchical, NTK-Neural.

    Example:
        >>> round(ntk_neural_kernel(1.0), 12)
        0.25
    """
    net = arch.Sequential(arch.Frozen(_features(activation)), infinite_linear_taylor(model))
    with warnings.catch_warnings():
        if not getattr(model, "ntk_caution", ""):  # features are frozen: that no gradient passes them loses nothing
            warnings.simplefilter("ignore", NonSmoothWarning)
        return _against_angle(rho, net, "ntk")


def _features(activation: Any) -> arch.Sequential:
    if isinstance(activation, str) and activation in _LAYERS:
        activation = _LAYERS[activation]
    if not isinstance(activation, Elementwise):
        known = ", ".join(map(repr, _LAYERS))
        error = ValueError if isinstance(activation, str) else TypeError
        raise error(f"`activation` is {activation!r}; choose one of {known}, or give a nonlinearity of widescape.arch.")
    return arch.Sequential(arch.Dense(512, w_std=1.0, b_std=1.0), activation)


def _against_angle(rho: Any, net: arch.Layer, kind: Any) -> Any:
    """The kernel of (sqrt 2, 0) and sqrt 2 (rho, sqrt(1 - rho^2)): in two dimensions the norm is sqrt(d)."""
    cosines = np.asarray(rho, dtype=np.float64)
    if not (np.abs(cosines) <= 1).all():
        raise ValueError(f"`rho` is {rho!r}; it must be a cosine, from -1 to 1.")
    flat = cosines.ravel()
    other = np.stack([flat, np.sqrt((1 - flat) * (1 + flat))], axis=1)
    values = getattr(net.kernel(2**0.5 * np.eye(1, 2), 2**0.5 * other, get=kind), kind)
    return float(values[0, 0]) if cosines.ndim == 0 else values[0].reshape(cosines.shape)
