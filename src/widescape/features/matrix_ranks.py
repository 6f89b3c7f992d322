"""How many directions a matrix of features uses, by five measures."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.errors import DegenerateWarning
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.features.centered import center_columns, leading, matrix, scaled


class RankReport(Result):
    """Ranks of a matrix of features, as it is and with its columns centered.

    All of them depend on how many samples there are. Features that are not negative, as after ReLU, have a large
    common mean, which alone can hold most of the sum of singular values; centered ranks leave it out.
    """

    source = "kumar2021implicit; roy2007effective"
    srank: int = quantity(EXACT, "fewest singular values with a share 1 - delta of their sum")
    srank_centered: int = quantity(EXACT, "the same, columns centered")
    effective_rank: float = quantity(EXACT, "exp of the entropy of sigma / sum sigma")
    effective_rank_centered: float = quantity(EXACT, "the same, columns centered")
    stable_rank: float = quantity(EXACT, "sum sigma^2 / max sigma^2")
    stable_rank_centered: float = quantity(EXACT, "the same, columns centered")
    participation_ratio: float = quantity(EXACT, "(sum sigma^2)^2 / sum sigma^4")
    participation_ratio_centered: float = quantity(EXACT, "the same, columns centered")
    numerical_rank: int = quantity(EXACT, "singular values above rounding")
    numerical_rank_centered: int = quantity(EXACT, "the same, columns centered")
    delta: float = quantity(EXACT, "share that srank leaves out")
    shape: tuple[int, int] = quantity(EXACT, "samples and features")
    singular_values: np.ndarray = quantity(EXACT, "sigma, falling, not centered, (min(n, p),)")
    singular_values_centered: np.ndarray = quantity(EXACT, "sigma, falling, columns centered, (min(n, p),)")

    def charts(self) -> tuple[Chart, ...]:
        """Cumulative shares of the singular values."""
        series = []
        for values, label in ((self.singular_values, "not centered"), (self.singular_values_centered, "centered")):
            if values.any():
                share = np.cumsum(values) / values.sum()
                series.append(Series(np.arange(1, len(values) + 1), share, label, style="both"))
        if not series:
            return ()
        return (
            Chart(
                name="singular-values",
                title="Cumulative share of the singular values of features",
                x_label="number of singular values",
                y_label="share of their sum",
                series=tuple(series),
                caption=f"srank at delta = {self.delta:g}: {self.srank} not centered, {self.srank_centered} centered, "
                f"for {self.shape[0]} samples of {self.shape[1]} features.",
            ),
        )


def stable_rank(a: Any) -> float:
    """The stable rank |A|_F^2 / |A|_2^2 of a matrix, from 1 to its rank.

    Args:
        a: a matrix (n, p), floating point.

    Returns:
        the rank; 0, with a warning, for a matrix of zeros, centered of equal rows. The same for c A and for Q A R with
        orthogonal Q and R.

    Raises:
        ShapeError, DtypeError, ValueError: no finite real matrix.

    Warns:
        DegenerateWarning: the matrix is zero, or is so once centered.

    Cost: singular values, about 2 n p min(n, p) flops (as of all ranks here).

    Example:
        >>> round(stable_rank(np.diag([3.0, 1.0])), 4)
        1.1111
    """
    return _stable(_warned(_Spectrum(a, "a")).values)


def effective_rank(a: Any) -> float:
    """The effective rank exp(-sum_i p_i log p_i), p = sigma / sum sigma, of a matrix, from 1 to its rank.

    Args:
        a: a matrix (n, p), floating point.

    Returns, raises, warns and costs as `stable_rank`.

    Source: roy2007effective. The cumulative rank that kumar2021implicit calls by this name is `srank`.

    Example:
        >>> round(effective_rank(np.diag([3.0, 1.0])), 4)
        1.7548
    """
    return _entropic(_warned(_Spectrum(a, "a")).values)


def participation_ratio(a: Any) -> float:
    """The participation ratio (sum sigma^2)^2 / sum sigma^4 of a matrix, from 1 to its rank.

    Args:
        a: a matrix (n, p), floating point; of samples with centered columns, for that of their covariance.

    Returns, raises, warns and costs as `stable_rank`.

    Example:
        >>> round(participation_ratio(np.diag([3.0, 1.0])), 4)
        1.2195
    """
    return _participation(_warned(_Spectrum(a, "a")).values)


def srank(phi: Any, delta: float = 0.01, *, center: bool = False) -> int:
    """The fewest singular values with a share 1 - delta of their sum: min {k: sum_{i <= k} sigma_i >= (1 - delta) sum}.

    A share that falls short by 1e-12, by rounding, counts. Depends on how many samples there are.

    Args:
        phi: features (n, p), floating point, one row per sample.
        delta: the share that may be left out, in (0, 1); 0.01 as in kumar2021implicit.
        center: whether to center the columns; features that are not negative have a large common mean.

    Returns, warns and costs as `stable_rank`.

    Raises:
        ShapeError, DtypeError, ValueError: no finite real matrix, or `delta` out of its range.

    Source: kumar2021implicit.

    Example:
        >>> srank(np.eye(10)), srank(np.eye(10), 0.1), srank(np.diag([1.0, 0.0, 0.0]))
        (10, 9, 1)
    """
    share = share_left_out(delta, "srank")
    return _cumulative(_warned(_Spectrum(phi, "phi", center)).values, share)


def numerical_rank(a: Any, *, rtol: float | None = None) -> int:
    """The number of singular values above `rtol` times the largest.

    Args:
        a: a matrix (n, p), floating point.
        rtol: None for max(n, p) times the rounding unit of the numbers that came in, 1.2e-7 for float32.

    Returns, warns and costs as `stable_rank`.

    Raises:
        ShapeError, DtypeError, ValueError: no finite real matrix, or `rtol` outside [0, 1).

    Example:
        >>> numerical_rank(np.ones((3, 2)))
        1
    """
    tolerance = rtol if rtol is None else checks.number(rtol, "rtol", "numerical_rank")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"`rtol` is {rtol}; it must be at least 0 and below 1.")
    return _warned(_Spectrum(a, "a")).rank(tolerance)


def rank_report(phi: Any, delta: float = 0.01) -> RankReport:
    """All five ranks of features, as they are and with columns centered.

    Args:
        phi: features (n, p), floating point, one row per sample.
        delta: for `srank`.

    Returns:
        a `RankReport`; ranks are 0, with a warning, where the matrix is zero, centered as of equal rows.

    Raises:
        ShapeError, DtypeError, ValueError: no finite real matrix, or `delta` out of its range.

    Warns:
        DegenerateWarning: features are zero, or constant.

    Cost: two times that of `stable_rank`.

    Example:
        >>> report = rank_report(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]]))
        >>> report.numerical_rank, report.numerical_rank_centered
        (2, 1)
    """
    share = share_left_out(delta, "rank_report")
    spectra = {suffix: _Spectrum(phi, "phi", bool(suffix)) for suffix in ("", "_centered")}
    if not spectra["_centered"].values.any():
        _warn_zero(spectra["_centered"], 3)
    fields: dict[str, Any] = {}
    for suffix, own in spectra.items():
        fields[f"srank{suffix}"] = _cumulative(own.values, share)
        fields[f"effective_rank{suffix}"] = _entropic(own.values)
        fields[f"stable_rank{suffix}"] = _stable(own.values)
        fields[f"participation_ratio{suffix}"] = _participation(own.values)
        fields[f"numerical_rank{suffix}"] = own.rank(None)
        fields[f"singular_values{suffix}"] = np.ldexp(own.values, own.exponent)
    return RankReport(**fields, delta=share, shape=spectra[""].shape)


def share_left_out(delta: Any, owner: str) -> float:
    """A checked share in (0, 1)."""
    share = float(checks.number(delta, "delta", owner))
    if not 0 < share < 1:
        raise ValueError(f"`delta` is {delta}; it is the share of the singular values left out, between 0 and 1.")
    return share


def cumulative_rank(values: np.ndarray, delta: float) -> int:
    """`srank` of singular values in any order; 0 if all are zero."""
    return _cumulative(np.sort(values)[::-1], delta)


class _Spectrum:
    """Singular values of a checked matrix over a power of two, falling."""

    def __init__(self, a: Any, name: str, center: bool = False) -> None:
        given = matrix(a, name)
        x, self.exponent = scaled(np.asarray(given, np.float64))
        self.trouble = f"`{name}` is zero"
        if center and x.any():
            self.trouble = f"`{name}` is constant, all its rows equal, and zero once its columns are centered"
        if center:
            x, more = scaled(center_columns(x))
            self.exponent += more
        with threads_for(min(x.shape)):
            self.values: np.ndarray = linalg.svdvals(x, check_finite=False)
        self.shape = x.shape
        self._rtol = max(x.shape) * float(jnp.finfo(given.dtype).eps)

    def rank(self, rtol: float | None) -> int:
        """The number of singular values above a tolerance."""
        return int(np.sum(self.values > (self._rtol if rtol is None else rtol) * self.values[0]))


def _warned(spectrum: _Spectrum) -> _Spectrum:
    if not spectrum.values.any():
        _warn_zero(spectrum, 4)
    return spectrum


def _warn_zero(spectrum: _Spectrum, stacklevel: int) -> None:
    warnings.warn(f"{spectrum.trouble}, so its rank is 0 by any measure.", DegenerateWarning, stacklevel=stacklevel)


def _stable(values: np.ndarray) -> float:
    return float(np.sum((values / values[0]) ** 2)) if values[0] > 0 else 0.0


def _entropic(values: np.ndarray) -> float:
    if not values[0] > 0:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _participation(values: np.ndarray) -> float:
    if not values[0] > 0:
        return 0.0
    squares = (values / values[0]) ** 2
    return float(squares.sum() ** 2 / np.sum(squares**2))


def _cumulative(values: np.ndarray, delta: float) -> int:
    return leading(values, 1 - delta) if values[0] > 0 else 0
