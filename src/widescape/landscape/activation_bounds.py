"""How steep and how curved the nonlinearities of `arch` are at most: the constants behind every curvature bound."""

from collections.abc import Callable
from math import erfc, exp, pi, sqrt
from typing import Any

from widescape.arch import (
    Cos,
    Elementwise,
    Erf,
    Exp,
    Gaussian,
    Gelu,
    Hermite,
    Layer,
    Polynomial,
    Rbf,
    Sigmoid,
    Silu,
    Sin,
    Softplus,
    Tanh,
)
from widescape.core.errors import NotCertifiable

_GELU_SLOPE = 1 - erfc(1) / 2 + exp(-1) / sqrt(pi)  # at sqrt(2): Phi(sqrt 2) = 1 - erfc(1)/2
_SILU_BEND_AT = 2.3993572805154677  # x tanh(x/2) = 2, where the second derivative changes sign; the slope is 1/2 + x/4
_ERF_BEND = 2 * sqrt(2 / pi) * exp(-0.5)  # at 1/sqrt(2)

_BOUNDS: dict[type[Layer], Callable[[Any], tuple[float, float]]] = {
    Tanh: lambda phi: (1.0, 4 / (3 * sqrt(3))),
    Erf: lambda phi: (abs(phi.a * phi.b) * 2 / sqrt(pi), abs(phi.a) * phi.b**2 * _ERF_BEND),
    Gelu: lambda phi: (_GELU_SLOPE, sqrt(2 / pi)),
    Sigmoid: lambda phi: (0.25, 1 / (6 * sqrt(3))),
    Softplus: lambda phi: (1.0, 0.25),
    Silu: lambda phi: (0.5 + _SILU_BEND_AT / 4, 0.5),
    Sin: lambda phi: (abs(phi.a * phi.b), abs(phi.a) * phi.b**2),
    Cos: lambda phi: (abs(phi.a * phi.b), abs(phi.a) * phi.b**2),
    Rbf: lambda phi: (2 * sqrt(phi.gamma), 2 * sqrt(2) * phi.gamma),
    Gaussian: lambda phi: (abs(phi.a) * sqrt(-2 * phi.b) * exp(-0.5), -2 * abs(phi.a) * phi.b),
}
_KNOWN = ", ".join(sorted(kind.__name__ for kind in _BOUNDS))


def derivative_bounds(layer: Elementwise) -> tuple[float, float]:
    """The suprema of |phi'| and |phi''| over the real line, in closed form.

    Args:
        layer: a smooth nonlinearity of `arch` with bounded derivatives.

    Returns:
        (sup |phi'|, sup |phi''|), rounded to float64.

    Raises:
        NotCertifiable: phi has a kink, a derivative without a bound, or none that is known here.

    Example:
        >>> from widescape import arch
        >>> [round(bound, 6) for bound in derivative_bounds(arch.Gelu())]
        [1.128904, 0.797885]
    """
    found = _BOUNDS.get(type(layer))
    if found is not None:
        return found(layer)
    if layer.kinked:
        reason = "it has a kink, where its derivative jumps, so that no second derivative bounds the curvature"
    elif isinstance(layer, Exp | Polynomial | Hermite):
        reason = "the derivatives of polynomials and exponentials have no bound on the real line"
    else:
        reason = "the suprema of its first two derivatives are not known here"
    raise NotCertifiable(f"{layer.label}: {reason}. Take one of {_KNOWN}.")
