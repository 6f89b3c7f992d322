"""Kernels of architectures: Gram matrices in tiles under a memory budget, their spectra and their precision."""

from widescape.kernels.gram import GramPlan, gram
from widescape.kernels.precision import PrecisionReport, precision_report
from widescape.kernels.spectrum import GramSpectrum, spectrum

__all__ = ["GramPlan", "GramSpectrum", "PrecisionReport", "gram", "precision_report", "spectrum"]
