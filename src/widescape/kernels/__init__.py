"""Kernels of architectures and of functions: Gram matrices of limits, empirical and Monte Carlo kernels, spectra."""

from widescape.curvature import TangentPlan
from widescape.kernels.empirical import empirical_nngp, empirical_ntk, ntk_vector_product
from widescape.kernels.gram import GramPlan, gram
from widescape.kernels.monte_carlo import MonteCarloKernel, SampledKernels, monte_carlo
from widescape.kernels.precision import PrecisionReport, precision_report
from widescape.kernels.spectrum import GramSpectrum, spectrum

__all__ = [
    "GramPlan",
    "GramSpectrum",
    "MonteCarloKernel",
    "PrecisionReport",
    "SampledKernels",
    "TangentPlan",
    "empirical_nngp",
    "empirical_ntk",
    "gram",
    "monte_carlo",
    "ntk_vector_product",
    "precision_report",
    "spectrum",
]
