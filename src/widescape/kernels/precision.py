"""How far rounding eats into a Gram matrix, and the data-set size at which it takes over."""

from typing import Any, Literal

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, Evidence, bound, estimate
from widescape.core.result import Result, quantity
from widescape.kernels.spectrum import GramSpectrum, spectrum

_SAFE = 0.1  # noise over smallest eigenvalue up to which a precision is called sufficient


class PrecisionReport(Result):
    """Rounding noise of a Gram matrix in a lower precision, against its smallest eigenvalue."""

    source = "lee2020finite"
    dtype: str = quantity(EXACT, "the lower precision")
    noise_std: float = quantity(EXACT, "standard deviation of the rounding noise of an entry")
    noise_norm: float = quantity(EXACT, "spectral norm of the rounding noise")
    random_noise_norm: float = quantity(
        EXACT, "2 noise_std sqrt(n): the norm if the noise of the entries were independent; systematic noise exceeds it"
    )
    lambda_min: float = quantity(EXACT, "smallest eigenvalue in float64")
    noise_ratio: float = quantity(EXACT, "noise norm / smallest eigenvalue; infinite if that is not positive")
    critical_size: float | None = quantity(
        estimate("critical_size_stderr", "power law of the spectrum, extrapolated; random-matrix noise"),
        "number of examples at which noise and smallest eigenvalue meet",
    )
    critical_size_stderr: float | None = quantity(EXACT, "standard error from the fit of the tail alone")
    sufficient: bool = quantity(EXACT, "whether the noise is below a tenth of the smallest eigenvalue")
    suggested_reg: float = quantity(
        EXACT,
        "regularizer, in units of the mean diagonal, that lifts the smallest eigenvalue to ten times the noise norm",
    )
    spectrum: GramSpectrum = quantity(EXACT, "the spectrum in float64")


def precision_report(
    gram_matrix: Any,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    *,
    lower: Any = None,
) -> PrecisionReport:
    """How much of a Gram matrix survives in a lower precision.

    The noise is measured if `lower`, the same matrix computed in that precision, is given. Otherwise it is
    the rounding of the entries alone, which is the least that any computation leaves: a lower bound.
    The critical size solves c m^(1-a) = 2 s m^(1/2) for the fitted tail eigenvalue_i = c m i^-a and noise of standard
    deviation s per entry: m = (c / (2 s))^(1/(a - 1/2)); None without a fit or with a <= 1/2. It takes the noise of
    the entries as independent. Where `noise_norm` is far above `random_noise_norm` it is not, and the noise ratio,
    which assumes the worst, is the safer guide.

    Args:
        gram_matrix: the (n, n) matrix in float64.
        dtype: the lower precision.
        lower: the matrix as computed in the lower precision, or None.

    Raises:
        ShapeError, ValueError, DtypeError: not finite symmetric matrices of the same shape.

    Cost: two symmetric eigenvalue problems, about 8/3 n^3 flops.
    """
    matrix = checks.square_matrix(gram_matrix, "gram_matrix")
    checks.choice(dtype, "dtype", ("float32", "float16", "bfloat16"))
    noise = _noise(matrix, dtype, lower)
    spectral = spectrum(matrix)
    with threads_for(len(matrix)):
        noise_norm = float(np.abs(linalg.eigvalsh((noise + noise.T) / 2)).max())
    smallest = spectral.lambda_min
    mean = float(np.trace(matrix)) / len(matrix)
    missing = max(noise_norm / _SAFE - smallest, 0.0)
    noise_std = float(noise.std())
    noise_evidence = (
        Evidence("exact", note="measured") if lower is not None else bound("lower", "rounding of entries only")
    )
    size, size_stderr = _critical_size(spectral, noise_std)
    names = ("noise_std", "noise_norm", "random_noise_norm", "noise_ratio")
    return PrecisionReport(
        dtype=dtype,
        noise_std=noise_std,
        noise_norm=noise_norm,
        random_noise_norm=2 * noise_std * len(matrix) ** 0.5,
        lambda_min=smallest,
        noise_ratio=noise_norm / smallest if smallest > 0 else float("inf"),
        critical_size=size,
        critical_size_stderr=size_stderr,
        sufficient=missing == 0.0,
        suggested_reg=missing / mean if mean > 0 else 0.0,
        spectrum=spectral,
        stands=dict.fromkeys(names, noise_evidence),
    )


def _noise(matrix: np.ndarray, dtype: str, lower: Any) -> np.ndarray:
    if lower is None:
        import ml_dtypes  # a dependency of JAX; registers bfloat16 with NumPy

        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        with np.errstate(over="ignore"):
            rounded = matrix.astype(kind).astype(np.float64)
        if not np.isfinite(rounded).all():
            raise ValueError(f"`gram_matrix` has entries up to {np.abs(matrix).max():.3g}, which overflow in {dtype}.")
        return rounded - matrix
    other = checks.square_matrix(lower, "lower", rtol=1e-3)
    if other.shape != matrix.shape:
        raise ShapeError(
            f"`lower` has shape {other.shape}, but `gram_matrix` has {matrix.shape}; they must be the same matrix."
        )
    return other - matrix


def _critical_size(spectral: GramSpectrum, noise_std: float) -> tuple[float | None, float | None]:
    """m* and its standard error by the delta method on (log c, a)."""
    a, c = spectral.tail_exponent, spectral.tail_constant
    da, dc, rho = spectral.tail_exponent_stderr, spectral.tail_constant_stderr, spectral.tail_correlation
    if a is None or c is None or da is None or dc is None or rho is None or a <= 1 / 2 or noise_std == 0:
        return None, None
    log_size = np.log(c / (2 * noise_std)) / (a - 1 / 2)
    slopes = np.array([1 / (a - 1 / 2), -log_size / (a - 1 / 2)])
    errors = np.array([dc / c, da])
    covariance = np.outer(errors, errors) * np.array([[1, rho], [rho, 1]])
    with np.errstate(over="ignore"):
        size = float(np.exp(log_size))
    return (size, size * float(np.sqrt(slopes @ covariance @ slopes))) if np.isfinite(size) else (None, None)
