"""Zonal harmonics as functions of t = beta . x for inputs of norm sqrt(d), and what kernels cannot learn of them."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from widescape import data
from widescape.core import checks
from widescape.data import harmonic_dim

__all__ = ["ZonalHarmonic", "harmonic_dim", "invariant_kernel_risk_floor", "zonal_harmonic"]


@dataclass(frozen=True)
class ZonalHarmonic:
    """The monic polynomial of degree k in t = beta . x, |beta| = 1, that is a harmonic on the sphere of radius sqrt(d).

    A function of t, arrays of any shape; float64.

    Attributes:
        d: dimension of the space, at least 3.
        k: degree.
    """

    d: int
    k: int

    def __post_init__(self) -> None:
        checks.count(self.d, "d", "zonal_harmonic", minimum=3)
        checks.count(self.k, "k", "zonal_harmonic", minimum=0)

    def __call__(self, t: Any) -> np.ndarray:
        """Its values at t = beta . x."""
        unit = np.asarray(t, dtype=np.float64) / self.d**0.5
        return self.std * data.zonal_harmonic(unit, self.d, self.k)

    @property
    def std(self) -> float:
        """The square root of its second moment over the sphere, 1 over the leading coefficient at unit size."""
        index = self.d / 2 - 1
        # C_k(s)/C_k(1) of the Gegenbauer polynomial begins with the product of 2 (index + j)/(2 index + j)
        leading = prod(2 * (index + j) / ((2 * index + j) * self.d**0.5) for j in range(self.k))
        return 1 / (harmonic_dim(self.d, self.k) ** 0.5 * leading)


def zonal_harmonic(d: int, k: int) -> ZonalHarmonic:
    """The zonal harmonic of degree k as a monic polynomial in t = beta . x, for inputs of norm sqrt(d).

    t^2 - 1; t^3 - 3 d/(d + 2) t; t^4 - 6 d/(d + 4) t^2 + 3 d^2/((d + 2)(d + 4)); ... On the sphere it is orthogonal
    to every polynomial of lower degree in x.

    Args:
        d: dimension of the space, at least 3.
        k: degree.

    Returns:
        a function of t; its `std` is the square root of its second moment.

    Raises:
        TypeError, ValueError: numbers that are no counts, or d below 3.

    Source: muller1966spherical; the targets that chen2020hierarchical bounds from below.

    Example:
        >>> cubic = zonal_harmonic(16, 3)
        >>> bool(np.isclose(cubic(2.0), 8 - 3 * 16 / 18 * 2))
        True
    """
    return ZonalHarmonic(d, k)


def invariant_kernel_risk_floor(n: Any, d: int, k: int) -> Any:
    """The lower bound max(0, 1 - n/N(d, k)) on the relative risk of rotation-invariant kernels at harmonics.

    The risk is E (f_beta - g)^2 / E f_beta^2 over the sphere, on average over a uniformly random direction beta of the
    zonal harmonic f_beta of degree k, for any g in the span of K(., x_1), ..., K(., x_n): ridge regression with any
    regularizer, also one that knows the target. It holds at every n, for every choice of the n points and every
    kernel K(x, x') = kappa(x . x') on the sphere.

    Proof: the part of K(., x_i) of degree k is a multiple of the zonal harmonic of x_i (Funk and Hecke), so the parts
    of degree k of all g lie in a space of at most n dimensions, and the other parts only add to the risk. A random
    unit vector f_beta of the N(d, k) dimensions has, by rotation invariance, an expected squared length of at most
    n/N(d, k) in that space.

    Args:
        n: training points, a number or an array of numbers.
        d: dimension of the space.
        k: degree of the harmonic.

    Returns:
        a float, or an array like `n`.

    Raises:
        TypeError, ValueError: numbers that are no counts.

    Source: the lower bound of chen2020hierarchical for the infinite-width kernels, here without its asymptotics.

    Example:
        >>> invariant_kernel_risk_floor(935, 16, 4)
        0.75
    """
    size = harmonic_dim(d, k)
    if np.ndim(n) == 0:
        checks.count(n, "n", "invariant_kernel_risk_floor", minimum=0)
        return max(0.0, 1 - int(n) / size)
    for own in np.ravel(n):
        checks.count(own, "n", "invariant_kernel_risk_floor", minimum=0)
    return np.maximum(0.0, 1 - np.asarray(n) / size)
