"""Canonical correlations of two representations: plain, after truncation, and weighted by projection."""

import warnings
from typing import Any, Literal, get_args

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.errors import DegenerateWarning
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.features.centered import Representation, leading, pair

Side = Literal["x", "y", "fewer"]


class CanonicalCorrelations(Result):
    """Canonical correlations; as a float their mean, or their weighted mean where there are weights."""

    source = "kornblith2019similarity; raghu2017svcca; morcos2018insights"
    rho: np.ndarray = quantity(EXACT, "canonical correlations, falling, (k,), k the smaller number of kept dimensions")
    mean: float = quantity(EXACT, "mean of rho")
    mean_squared: float = quantity(EXACT, "mean of rho^2")
    weighted: float | None = quantity(EXACT, "mean of rho with the weights of PWCCA", default=None)
    weights: np.ndarray | None = quantity(EXACT, "weights of PWCCA, with sum 1, (k,)", default=None)
    weighted_by: str | None = quantity(EXACT, "the side whose units weigh: x or y", default=None)
    kept_x: int = quantity(EXACT, "dimensions of x that are compared")
    kept_y: int = quantity(EXACT, "dimensions of y that are compared")
    num_samples: int = quantity(EXACT, "samples n")
    num_forced: int = quantity(EXACT, "correlations that are 1 whatever the data: kept_x + kept_y - (n - 1), or 0")
    saturated: bool = quantity(EXACT, "whether all are 1 whatever the data: a side has n - 1 dimensions")

    def __float__(self) -> float:
        return self.mean if self.weighted is None else self.weighted

    def charts(self) -> tuple[Chart, ...]:
        """The correlations in falling order."""
        place = np.arange(1, len(self.rho) + 1)
        return (
            Chart(
                name="canonical-correlations",
                title="Canonical correlations of two representations",
                x_label="index",
                y_label="correlation",
                series=(Series(place, self.rho, "rho", style="both"),),
                caption=f"{self.kept_x} and {self.kept_y} dimensions over {self.num_samples} samples; "
                f"{self.num_forced} of the correlations are 1 whatever the data.",
            ),
        )


def cca(x: Any, y: Any, *, rtol: float | None = None) -> CanonicalCorrelations:
    """Canonical correlations of two representations: the singular values rho of U_x^T U_y.

    The columns of U_x and U_y are orthonormal bases of the centered columns of X and Y, from singular value
    decompositions; directions with singular values up to `rtol` times the largest are left out, so that repeated or
    dead units change nothing.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        rtol: relative tolerance of the rank; None for max(n, p) times the rounding unit of the numbers that came in,
            1.2e-7 for float32.

    Returns:
        `CanonicalCorrelations`, between 0 and 1 (rounding above 1 is cut); ``float`` is the mean of rho.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit, or are constant.

    Warns:
        DegenerateWarning: a side fills all n - 1 dimensions of centered samples, so that every correlation is 1
            whatever the data. Take more samples than features, truncate (`svcca`), or use `cka`.

    Cost: about 6 n min(n, p)^2 flops for each side's basis, 2 n p q for their products.

    Source: kornblith2019similarity; the mean of rho^2 is what it calls R^2_CCA, the mean of rho its rho-bar.
    Invariant to invertible linear maps of either side.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
        >>> cca(x, y).rho.round(12).tolist()
        [1.0]
    """
    found = correlate(*pair(x, y), rtol=rtol)
    return _with_warning(found)


def svcca(x: Any, y: Any, *, variance: float = 0.99, rtol: float | None = None) -> CanonicalCorrelations:
    """Canonical correlations after each side is cut to its leading principal components.

    Each side keeps the fewest components whose squared singular values make up `variance` of their sum. Then as `cca`.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        variance: the share of the variance to keep, in (0, 1]; 0.99 as in raghu2017svcca.
        rtol: relative tolerance of the rank, as for `cca`.

    Returns, raises, warns and costs as `cca`. Invariant to orthogonal maps and isotropic scaling of either side, not to
    invertible ones.

    Source: raghu2017svcca.

    Example:
        >>> x = np.array([[9.0, 0.1], [-9.0, 0.1], [9.0, -0.1], [-9.0, -0.1]])
        >>> found = svcca(x, x[:, :1])
        >>> found.kept_x, round(float(found), 12)
        (1, 1.0)
    """
    share = checks.number(variance, "variance", "svcca")
    if not 0 < share <= 1:
        raise ValueError(f"`variance` is {variance}; it is a share of the variance, above 0 and at most 1.")
    return _with_warning(correlate(*pair(x, y), rtol=rtol, variance=share))


def pwcca(x: Any, y: Any, *, weights: Side = "x", rtol: float | None = None) -> CanonicalCorrelations:
    """Projection-weighted canonical correlations: sum_i alpha_i rho_i / sum_i alpha_i.

    alpha_i = sum_j |<h_i, x_j>| over the centered units x_j of one side, h_i being its canonical variates.

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        weights: the side whose units weigh; ``"fewer"`` for the one with fewer kept dimensions (x if they are equal),
            as in the code of morcos2018insights, which however adds the means of the units back before weighing.
        rtol: relative tolerance of the rank, as for `cca`.

    Returns:
        `CanonicalCorrelations` of which ``float`` is the weighted mean. It is not symmetric, since one side weighs.
        Where correlations repeat, the variates are not unique, and the weights depend on which of them came out.

    Raises, warns and costs as `cca`.

    Source: morcos2018insights.

    Example:
        >>> x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> y = np.array([[1.0], [-1.0], [0.0], [0.0]])
        >>> round(float(pwcca(x, y)), 12)
        1.0
    """
    checks.choice(weights, "weights", get_args(Side))
    return _with_warning(correlate(*pair(x, y), rtol=rtol, weights=weights))


def correlate(
    a: Representation,
    b: Representation,
    *,
    rtol: float | None = None,
    variance: float | None = None,
    weights: Side | None = None,
) -> CanonicalCorrelations:
    """The correlations of checked representations, which keep what pairs share; without a warning."""
    own, other = (_basis(side, rtol, variance) for side in (a, b))
    with threads_for(max(own.shape[1], other.shape[1])):
        if weights is None:
            rho = linalg.svdvals(own.T @ other, check_finite=False)
        else:
            left, rho, right = linalg.svd(own.T @ other, full_matrices=False, check_finite=False)
    rho = np.minimum(rho, 1.0)  # but for rounding it is at most 1
    shares, side = None, None
    if weights is not None:
        side = weights if weights != "fewer" else "x" if own.shape[1] <= other.shape[1] else "y"
        variates, units = (own @ left, a.x) if side == "x" else (other @ right.T, b.x)
        shares = np.abs(variates.T @ units).sum(axis=1)
        shares /= shares.sum()
    kept_x, kept_y, full = own.shape[1], other.shape[1], a.n - 1
    return CanonicalCorrelations(
        rho=rho,
        mean=float(rho.mean()),
        mean_squared=float(np.mean(rho**2)),
        weighted=None if shares is None else float(shares @ rho),
        weights=shares,
        weighted_by=side,
        kept_x=kept_x,
        kept_y=kept_y,
        num_samples=a.n,
        num_forced=max(0, kept_x + kept_y - full),
        saturated=max(kept_x, kept_y) >= full,
    )


def saturation_message(which: str) -> str:
    """What to say of correlations that are 1 whatever the data."""
    return (
        f"{which} 1 whatever the data, since a side has as many dimensions as there are centered samples, n - 1. Take "
        "more samples than features, keep fewer dimensions (svcca with a lower `variance`), or use cka."
    )


def _basis(a: Representation, rtol: float | None, variance: float | None) -> np.ndarray:
    """Orthonormal columns that span the kept directions of the centered columns (n, r)."""
    tolerance = max(a.x.shape) * a.epsilon if rtol is None else checks.number(rtol, "rtol", "cca")
    if not 0 <= tolerance < 1:
        if rtol is None:
            raise ValueError(
                f"`{a.name}` came with a rounding unit of {a.epsilon:.1g} and {max(a.x.shape)} rows or columns, so no "
                "singular value stands out from rounding; give float32 or float64 activations, or `rtol`."
            )
        raise ValueError(f"`rtol` is {rtol}; it must be at least 0 and below 1.")
    vectors, values = a.left
    rank = int(np.sum(values > tolerance * values[0]))
    kept = rank if variance is None else min(rank, leading(values**2, variance))
    return vectors[:, :kept]


def _with_warning(found: CanonicalCorrelations) -> CanonicalCorrelations:
    if found.saturated:
        warnings.warn(saturation_message("every canonical correlation is"), DegenerateWarning, stacklevel=3)
    return found
