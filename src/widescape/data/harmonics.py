"""Spherical harmonics that depend on one direction, and how many harmonics there are of a degree."""

from math import comb

import numpy as np

from widescape.core import checks


def harmonic_dim(d: int, k: int) -> int:
    """The dimension N(d, k) = C(d + k - 1, k) - C(d + k - 3, k - 2) of the spherical harmonics of degree k.

    Args:
        d: dimension of the space; the sphere has d - 1.
        k: degree, at least 0.

    Returns:
        the number, exact.

    Raises:
        TypeError, ValueError: numbers that are no counts.

    Source: muller1966spherical; the non-linear targets of chen2020hierarchical live in these spaces.

    Example:
        >>> harmonic_dim(5, 2), harmonic_dim(16, 4)
        (14, 3740)
    """
    checks.count(d, "d", "harmonic_dim")
    checks.count(k, "k", "harmonic_dim", minimum=0)
    return comb(d + k - 1, k) - (comb(d + k - 3, k - 2) if k > 1 else 0)


def zonal_harmonic(t: np.ndarray, dim: int, degree: int) -> np.ndarray:
    """The zonal harmonic of a degree, of unit second moment under the uniform measure on the sphere.

    Args:
        t: inner products of unit vectors, in [-1, 1].
        dim: dimension d of the space, at least 3.
        degree: k.

    Returns:
        shaped like `t`: sqrt(N) C_k(t)/C_k(1) for the Gegenbauer polynomial C_k of index d/2 - 1, where N is the
        dimension of the space of harmonics of degree k.

    Example:
        >>> zonal_harmonic(np.array([1.0]), 3, 2).round(12).tolist() == [round(5**0.5, 12)]
        True
    """
    from scipy.special import eval_gegenbauer

    checks.count(dim, "dim", "zonal_harmonic", minimum=3)
    checks.count(degree, "degree", "zonal_harmonic", minimum=0)
    index = dim / 2 - 1
    values: np.ndarray = (
        float(harmonic_dim(dim, degree)) ** 0.5
        * eval_gegenbauer(degree, index, t)
        / eval_gegenbauer(degree, index, 1.0)
    )
    return values
