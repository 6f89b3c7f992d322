"""The trace of a symmetric operator that is known by its products with vectors only."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.evidence import EXACT, Evidence, estimate
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.curvature.product import Product

Method = Literal["hutch++", "hutchinson"]

_FEWEST = 6
_SUMMED = Evidence("exact", note="the sum of all diagonal entries, as the budget reaches the dimension")


class TraceEstimate(Result):
    """The trace of a symmetric operator, unbiased, with its standard error."""

    source = "meyer2021hutch"
    value: float = quantity(estimate("stderr", "mean over independent probes"), "tr H, the sum of the eigenvalues")
    stderr: float = quantity(EXACT, "standard error over the probes; 0 where the trace is exact")
    num_products: int = quantity(EXACT, "products with the operator")
    method: str = quantity(EXACT, "hutch++, hutchinson, or exact")


def trace(
    mv: Callable[[Any], Any],
    dim: int,
    method: Method = "hutch++",
    budget: int = 60,
    *,
    key: jax.Array | None = None,
) -> TraceEstimate:
    """The trace of a symmetric operator H from `budget` products.

    Hutchinson: the mean of g.H g over probes g with independent entries +-1. Hutch++: with Q an orthonormal basis of
    H S, where S has signs in budget/3 columns, tr Q^T H Q plus Hutchinson's estimate for (1 - Q Q^T) H (1 - Q Q^T).
    It is exact up to rounding if the rank of H is at most a third of the budget, and pays where eigenvalues
    decay; where they do not, Hutchinson with all probes can have the smaller error. If dim <= budget the diagonal
    is summed, by either name.

    Args:
        mv: H, a function from (dim,) to (dim,), of NumPy or JAX arrays.
        dim: dimension of H.
        method: how to estimate.
        budget: products with H, at least 6.
        key: of the random signs; None for ``jax.random.key(0)``.

    Returns:
        a `TraceEstimate`: unbiased; its standard error is that of the mean over the probes (for Hutch++ those of the
        last third), and itself uncertain by a share of about 1/sqrt(2 probes).

    Raises:
        ValueError: too small a budget, or an unknown method.
        ShapeError, DtypeError, NonFiniteError: of a product.

    Cost: `budget` products, or dim if that is less; Hutch++ holds 2/3 budget vectors and takes about
    (budget^2) dim flops more.

    Example:
        >>> trace(lambda v: np.array([1.0, 2.0, 4.0]) * v, 3).value
        7.0
    """
    product = Product(mv, dim, "trace")
    checks.choice(method, "method", Method)
    checks.count(budget, "budget", "trace", minimum=_FEWEST)
    generator = named_generator(key, "trace")
    if dim <= budget:
        value = float(sum(product(row)[i] for i, row in enumerate(np.eye(dim))))
        return TraceEstimate(
            value=value, stderr=0.0, num_products=product.count, method="exact", stands={"value": _SUMMED}
        )
    known, count, basis = 0.0, budget, np.zeros((0, dim))
    if method == "hutch++":
        third = budget // 3
        sketch = np.stack([product(random_signs(generator, 1, dim)[0]) for _ in range(third)], axis=1)
        basis = np.linalg.qr(sketch)[0].T
        known = float(sum(row @ product(row) for row in basis))
        count = budget - 2 * third
    samples = np.empty(count)
    for i in range(count):  # one probe at a time: with a million parameters all of them would be large
        probe = random_signs(generator, 1, dim)[0]
        probe -= (basis @ probe) @ basis
        samples[i] = probe @ product(probe)
    return TraceEstimate(
        value=known + float(samples.mean()),
        stderr=standard_error(samples),
        num_products=product.count,
        method=method,
    )


def standard_error(samples: np.ndarray) -> Any:
    """Standard error of the mean over the first axis, without overflow or underflow of squares; inf for one sample."""
    if len(samples) == 1:
        return np.full(samples.shape[1:], np.inf)[()]
    scale = float(np.max(np.abs(samples)))
    if scale == 0:
        return np.zeros(samples.shape[1:])[()]
    return scale * np.std(samples / scale, axis=0, ddof=1) / len(samples) ** 0.5


def random_signs(generator: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Independent +-1 with equal odds, (count, dim)."""
    return 2.0 * generator.integers(0, 2, size=(count, dim)) - 1.0
