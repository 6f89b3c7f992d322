"""The spectrum of a Gram matrix: its condition and how its eigenvalues fall off."""

from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT, Evidence, estimate
from widescape.core.result import Result, quantity
from widescape.core.status import Status

TAIL = (0.05, 0.5)
"""Ranks, as shares of n, between which the fall-off is fitted: past the first, before the end of the sample."""
_FEWEST = 8

_ROUNDED = Evidence("exact", note="float64 eigenvalues, off by at most about eps lambda_max")


class TailFit(Status):
    """How the fit of the spectral tail ended."""

    OK = "the tail was fitted"
    TOO_FEW = "too few positive eigenvalues in the tail for a fit"


class GramSpectrum(Result):
    """Eigenvalues of a symmetric positive semidefinite matrix, and a power law for their tail."""

    source = "lee2020finite"
    eigenvalues: np.ndarray = quantity(_ROUNDED, "eigenvalues, largest first, (n,)")
    lambda_max: float = quantity(_ROUNDED, "largest eigenvalue")
    lambda_min: float = quantity(_ROUNDED, "smallest eigenvalue; can be negative by rounding")
    condition_number: float = quantity(_ROUNDED, "lambda_max / lambda_min; infinite if lambda_min <= 0")
    effective_rank: float = quantity(_ROUNDED, "(sum of eigenvalues)^2 / sum of their squares")
    tail_exponent: float | None = quantity(
        estimate("tail_exponent_stderr", "least squares in logarithms"), "a in eigenvalue_i = c n i^-a"
    )
    tail_exponent_stderr: float | None = quantity(EXACT, "standard error of the tail exponent")
    tail_constant: float | None = quantity(estimate("tail_constant_stderr", "same fit"), "c in eigenvalue_i = c n i^-a")
    tail_constant_stderr: float | None = quantity(EXACT, "standard error of the tail constant")
    tail_correlation: float | None = quantity(EXACT, "correlation of the errors of log c and a in the fit")
    tail_status: TailFit = quantity(EXACT, "how the fit ended")

    def charts(self) -> tuple[Chart, ...]:
        """Eigenvalues by rank, with the fitted power law."""
        positive = self.eigenvalues > 0
        ranks = np.arange(1, len(self.eigenvalues) + 1)
        series = [Series(ranks[positive], self.eigenvalues[positive], "eigenvalues", style="line")]
        if self.tail_exponent is not None and self.tail_constant is not None:
            fitted = _tail_ranks(len(ranks))
            law = self.tail_constant * len(ranks) * fitted**-self.tail_exponent
            series.append(Series(fitted, law, f"fit: rank^-{self.tail_exponent:.2f}", style="line"))
        return (
            Chart(
                name="spectrum",
                title="Eigenvalues of the Gram matrix",
                x_label="rank",
                y_label="eigenvalue",
                series=tuple(series),
                x_scale="log",
                y_scale="log",
                caption=f"Non-positive eigenvalues (by rounding) are left out: {int((~positive).sum())}.",
            ),
        )


def spectrum(gram_matrix: Any) -> GramSpectrum:
    """Eigenvalues, condition number and spectral tail of a Gram matrix.

    The tail eigenvalue_i = c n i^-a is fitted by least squares in logarithms over ranks 0.05 n to 0.5 n.
    Its standard error takes deviations as independent, which neighboring eigenvalues are not: read it as
    a lower limit of the uncertainty.

    Args:
        gram_matrix: symmetric (n, n), floating point.

    Raises:
        ShapeError, ValueError, DtypeError: not a finite symmetric matrix of real numbers.

    Cost: about 4/3 n^3 flops; two copies of the matrix.

    Example:
        >>> spectrum(np.diag([4.0, 1.0])).condition_number
        4.0
    """
    matrix = checks.square_matrix(gram_matrix, "gram_matrix")
    with threads_for(len(matrix)):
        values = linalg.eigvalsh(matrix)[::-1].copy()
    total, squares = float(values.sum()), float((values**2).sum())
    smallest, largest = float(values[-1]), float(values[0])
    return GramSpectrum(
        eigenvalues=values,
        lambda_max=largest,
        lambda_min=smallest,
        condition_number=largest / smallest if smallest > 0 else float("inf"),
        effective_rank=total**2 / squares if squares > 0 else 0.0,
        **_fit_tail(values),
    )


def _tail_ranks(n: int) -> np.ndarray:
    return np.arange(max(1, int(TAIL[0] * n)), int(TAIL[1] * n) + 1)


def _fit_tail(values: np.ndarray) -> dict[str, Any]:
    n = len(values)
    ranks = _tail_ranks(n)
    tail = values[ranks - 1]
    if len(ranks) < _FEWEST or tail.min() <= 0:
        empty = dict.fromkeys(
            ("tail_exponent", "tail_exponent_stderr", "tail_constant", "tail_constant_stderr", "tail_correlation")
        )
        return {**empty, "tail_status": TailFit.TOO_FEW}
    design = np.stack([np.ones(len(ranks)), -np.log(ranks)], axis=1)
    target = np.log(tail / n)
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    residual = target - design @ coefficients
    covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / (len(ranks) - 2)
    errors = np.sqrt(np.diag(covariance))
    constant = float(np.exp(coefficients[0]))
    return {
        "tail_exponent": float(coefficients[1]),
        "tail_exponent_stderr": float(errors[1]),
        "tail_constant": constant,
        "tail_constant_stderr": constant * float(errors[0]),
        "tail_correlation": float(covariance[0, 1] / max(errors[0] * errors[1], np.finfo(float).tiny)),
        "tail_status": TailFit.OK,
    }
