"""One similarity of two representations, by the name of its measure or by a function."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, SupportsFloat, get_args

import numpy as np

from widescape.core import checks
from widescape.core.errors import DegenerateWarning
from widescape.features.canonical_correlations import CanonicalCorrelations, correlate, saturation_message
from widescape.features.centered import Representation, pair
from widescape.features.kernel_alignment import alignment
from widescape.features.procrustes_distance import overlap
from widescape.features.representational import rank_similarity

SimilarityName = Literal["cka", "cka_rbf", "cka_debiased", "cca", "cca_squared", "svcca", "pwcca", "procrustes", "rsa"]
Metric = SimilarityName | Callable[[np.ndarray, np.ndarray], SupportsFloat]


class Index(NamedTuple):
    """A similarity, and whether it has this value whatever the data."""

    value: float
    saturated: bool = False


def similarity(x: Any, y: Any, metric: Metric = "cka") -> float:
    """How alike two representations of the same samples are, 1 for a representation and itself.

    ========================  =============================================================================
    ``"cka"``                 linear centered kernel alignment, `cka`
    ``"cka_rbf"``             the same with a Gaussian kernel of bandwidth 0.5
    ``"cka_debiased"``        the same with the linear kernel, debiased
    ``"cca"``                 mean canonical correlation, `cca`
    ``"cca_squared"``         mean squared canonical correlation
    ``"svcca"``               mean canonical correlation after truncation to 99 % of the variance, `svcca`
    ``"pwcca"``               weighted by the projections of the units of `x`, `pwcca`; not symmetric
    ``"procrustes"``          1 - d^2 / 2 = |X^T Y|_* of centered matrices of norm 1, with d^2 of `procrustes`
    ``"rsa"``                 rank correlation of correlation distances, columns not centered, `rsa`
    ========================  =============================================================================

    Args:
        x: activations (n, p), floating point, on the same samples in the same order as `y`.
        y: activations (n, q).
        metric: one of these names; or a function of the two matrices in float64 that returns a number, or a result
            that ``float`` turns into one, as `svcca` does. Other settings:
            ``lambda x, y: cka(x, y, kernel="rbf", bandwidth=1.0)``.

    Returns:
        the similarity. Of the names all lie in [0, 1], but for ``"cka_debiased"`` and ``"rsa"``, in [-1, 1].

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.

    Warns:
        DegenerateWarning: canonical correlations are 1 whatever the data; or the debiased index, or what a function
            returned, is NaN.

    Cost: that of the measure.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> [round(similarity(x, -2 * x, name), 12) for name in ("cka", "cca", "procrustes")]
        [1.0, 1.0, 1.0]
    """
    found = index_of(metric)(*pair(x, y))
    if found.saturated:
        warnings.warn(saturation_message("every canonical correlation is"), DegenerateWarning, stacklevel=2)
    if math.isnan(found.value):
        warnings.warn(
            "the similarity is NaN: "
            + (
                "that is what the function returned. Look into it, or use a measure by its name."
                if callable(metric)
                else "the debiased norm of a representation is zero up to rounding. Give more samples, or use another "
                "measure."
            ),
            DegenerateWarning,
            stacklevel=2,
        )
    return found.value


def index_of(metric: Metric) -> Callable[[Representation, Representation], Index]:
    """The measure as a function of checked representations, without warnings."""
    if callable(metric):
        return lambda a, b: _of(metric(a.given, b.given))
    checks.choice(metric, "metric", get_args(SimilarityName))
    return _INDICES[metric]


def _of(found: Any) -> Index:
    """What a function of two matrices returned, a number or a result that is one by `float`."""
    if not hasattr(found, "__float__") or getattr(found, "ndim", 0) > 0:
        raise TypeError(f"similarity: `metric` returned {type(found).__name__}; it must return a real number.")
    value = float(found)
    checked = value if math.isnan(value) else checks.number(value, "metric", "similarity")
    return Index(checked, isinstance(found, CanonicalCorrelations) and found.saturated)


def _canonical(field: str, **settings: Any) -> Callable[[Representation, Representation], Index]:
    def index(a: Representation, b: Representation) -> Index:
        found = correlate(a, b, **settings)
        return Index(getattr(found, field), found.saturated)

    return index


_INDICES: dict[str, Callable[[Representation, Representation], Index]] = {
    "cka": lambda a, b: Index(alignment(a, b)),
    "cka_rbf": lambda a, b: Index(alignment(a, b, kernel="rbf")),
    "cka_debiased": lambda a, b: Index(alignment(a, b, debiased=True)),
    "cca": _canonical("mean"),
    "cca_squared": _canonical("mean_squared"),
    "svcca": _canonical("mean", variance=0.99),
    "pwcca": _canonical("weighted", weights="x"),
    "procrustes": lambda a, b: Index(overlap(a, b)),
    "rsa": lambda a, b: Index(rank_similarity(a, b)),
}
