"""How the energy of random features on the sphere divides among degrees of polynomials."""

import numpy as np

from widescape.arch.elementwise import Elementwise
from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.evidence import Evidence
from widescape.core.result import Result, quantity
from widescape.data.harmonics import harmonic_dim, zonal_harmonic
from widescape.features.feature_kernels import random_feature_kernel

_NODES = 400
_LARGEST = 300
_LAST = 100
_MOST_HARMONICS = 1e13  # the root of their number times a rounding is then below 1e-9
_QUADRATURE = Evidence("exact", note="up to rounding, by Gauss quadrature over the angle of two inputs")


class DegreeEnergies(Result):
    """Parts of E h(x)^2 of a random feature by the degree of spherical harmonics, and their shares of the variance."""

    source = "chen2020hierarchical, the representation"
    energies: np.ndarray = quantity(_QUADRATURE, "part of each degree 0, 1, ..., (max_degree + 1,)")
    total: float = quantity(_QUADRATURE, "E h(x)^2, the sum over all degrees")
    rest: float = quantity(_QUADRATURE, "part of the degrees above max_degree")
    d: int = quantity(Evidence("exact"), "dimension of the inputs")

    @property
    def shares(self) -> np.ndarray:
        """Shares of the variance total - energies[0] by degree, from degree 1 on, (max_degree,)."""
        shares: np.ndarray = self.energies[1:] / (self.total - self.energies[0])
        return shares

    def charts(self) -> tuple[Chart, ...]:
        """The shares of the variance by degree."""
        degrees = np.arange(1, len(self.energies))
        return (
            Chart(
                name="degree-energies",
                title="Variance of random features by degree",
                x_label="degree",
                y_label="share of the variance",
                series=(Series(degrees, self.shares, f"d = {self.d}", style="both"),),
                caption=f"Higher degrees hold {self.rest / (self.total - self.energies[0]):.1%}.",
            ),
        )


def degree_energies(d: int, activation: str | Elementwise = "step", *, max_degree: int = 4) -> DegreeEnergies:
    """The energy of random features phi(v . x + b) on the sphere of radius sqrt(d), by degree.

    The kernel k(rho) of `random_feature_kernel` is a sum of e_k P_k(rho) over degrees k, with P_k the Gegenbauer
    polynomial of index d/2 - 1 and P_k(1) = 1; e_k, which is not negative, is the second moment of the part of a
    feature that is a harmonic of degree k. A quadratic Taylor model with constant phi'' on features of which degrees 1
    and 2 hold most learns polynomials of degree 4; whitening raises the others to the same size, and what they hold
    becomes noise.

    Args:
        d: dimension of the inputs, 3 to 300.
        activation: as for `random_feature_kernel`; rows of weights are Gaussian.
        max_degree: the last degree told apart, at most 100, and less in high dimensions: there are at most 10^13
            harmonics of it. Errors are some 1e-9 of the total at most.

    Returns:
        a `DegreeEnergies`.

    Raises:
        TypeError, ValueError: numbers out of range, or an unknown activation.

    Cost: the kernel at 400 angles.

    Example:
        >>> degree_energies(16, "square").energies[:3].round(6).tolist()  # of 6 + 4 rho + 2 rho^2
        [6.125, 4.0, 1.875]
    """
    owner = "degree_energies"
    checks.count(d, "d", owner, minimum=3)
    checks.count(max_degree, "max_degree", owner)
    if d > _LARGEST:
        raise ValueError(
            f"{owner}: `d` is {d}; the quadrature is made for d up to {_LARGEST}, where the limit is near."
        )
    if max_degree > _LAST or harmonic_dim(d, max_degree) > _MOST_HARMONICS:
        possible = next(k for k in range(_LAST, -1, -1) if harmonic_dim(d, k) <= _MOST_HARMONICS)
        raise ValueError(
            f"{owner}: `max_degree` is {max_degree}; with d = {d} rounding hides the energies above degree {possible}. "
            "Give that at most."
        )
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    angles = np.pi / 2 * (nodes + 1)  # in the angle, kernels of kinked activations have no singularity inside
    density = weights * np.sin(angles) ** (d - 2)
    rho = np.cos(angles)
    kernel = random_feature_kernel(rho, activation)
    mean = density / density.sum()
    energies = np.array(
        [harmonic_dim(d, k) ** 0.5 * float(mean @ (kernel * zonal_harmonic(rho, d, k))) for k in range(max_degree + 1)]
    )
    total = float(random_feature_kernel(1.0, activation))
    return DegreeEnergies(energies=energies, total=total, rest=total - float(energies.sum()), d=int(d))
