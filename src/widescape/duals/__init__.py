"""Gaussian integrals of activations: E[phi(u) phi(v)], the derivative, and the distance between images.

For (u, v) jointly Gaussian with mean zero and covariance [[q11, q12], [q12, q22]], the dual of an
activation phi is T = E[phi(u) phi(v)] and its slope is Tdot = E[phi'(u) phi'(v)] = dT/dq12. Closed
forms are in `closed_form`, polynomials and smooth callables in `hermite`, callables with kinks in
`polar`. This room knows nothing of layers.
"""

from widescape.duals.closed_form import (
    abrelu,
    erf,
    exponential,
    gaussian,
    gelu,
    rbf,
    rectified_power,
    sign,
    sine,
)
from widescape.duals.hermite import MAX_TERMS, hermite_coefficients, hermite_series, polynomial
from widescape.duals.pair import Dual, Pair
from widescape.duals.polar import polar, polar_flops

__all__ = [
    "MAX_TERMS",
    "Dual",
    "Pair",
    "abrelu",
    "erf",
    "exponential",
    "gaussian",
    "gelu",
    "hermite_coefficients",
    "hermite_series",
    "polar",
    "polar_flops",
    "polynomial",
    "rbf",
    "rectified_power",
    "sign",
    "sine",
]
