"""Any function as a model: the `System`, and what is derived from it."""

from widescape.curvature.density import SpectralDensity, slq_density
from widescape.curvature.krylov import TopEigs, Tridiagonal, lanczos, top_eigs
from widescape.curvature.plan import TangentPlan
from widescape.curvature.segment import as_system, losses_on_plane, losses_on_segment
from widescape.curvature.spectrum import (
    Certified,
    DenseSpectrum,
    KernelSpectrum,
    KrylovSpectrum,
    SpectrumStatus,
    certify_lambda_min,
    kernel_spectrum,
    tangent_kernel,
)
from widescape.curvature.system import System
from widescape.curvature.tangent import tangent_vector_product
from widescape.curvature.traces import TraceEstimate, trace

__all__ = [
    "Certified",
    "DenseSpectrum",
    "KernelSpectrum",
    "KrylovSpectrum",
    "SpectralDensity",
    "SpectrumStatus",
    "System",
    "TangentPlan",
    "TopEigs",
    "TraceEstimate",
    "Tridiagonal",
    "as_system",
    "certify_lambda_min",
    "kernel_spectrum",
    "lanczos",
    "losses_on_plane",
    "losses_on_segment",
    "slq_density",
    "tangent_kernel",
    "tangent_vector_product",
    "top_eigs",
    "trace",
]
