"""How complex the quadratic Taylor model is: a bound on its Rademacher complexity with its constants."""

from typing import Any

import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.evidence import EXACT, bound
from widescape.core.result import Result, quantity
from widescape.features.random_layers import as_matrix

_BOUND = bound("upper", "if |W|_(2,4) <= B_w, |phi''| <= gate_bound and there are at most `width` gate patterns")


class RademacherBound(Result):
    """A bound on the empirical Rademacher complexity of quadratic Taylor models of bounded weights; a float, too."""

    source = "chen2020hierarchical, the generalization of the quadratic model; tropp2015introduction, theorem 4.6.1"
    value: float = quantity(_BOUND, "bound on E sup (1/n) sum_i eps_i f_W(h_i) over |W|_(2,4) <= B_w")
    operator_norm: float = quantity(EXACT, "largest eigenvalue of (1/n) sum_i h_i h_i^T")
    largest_norm: float = quantity(EXACT, "max_i |h_i|")
    uniform: float = quantity(
        _BOUND, "the same with |h_i| replaced by the largest: what these two and n give; at least `value`"
    )
    n: int = quantity(EXACT, "examples")
    B_w: float = quantity(EXACT, "the bound on |W|_(2,4) that is assumed")
    width: int = quantity(EXACT, "the number of gate patterns that is assumed")
    gate_bound: float = quantity(EXACT, "the bound on |phi''| that is assumed")

    def __float__(self) -> float:
        return self.value


def quad_rademacher_bound(H: Any, B_w: float, *, width: int = 1, gate_bound: float = 1.0) -> RademacherBound:
    """Bound the Rademacher complexity of f_W(h) = 1/(2 sqrt m) sum_r a_r g_r(h) (w_r . h)^2 over |W|_(2,4) <= B_w.

    |W|_(2,4)^4 is the sum of |w_r|^4, a_r = +-1 and g_r(h) = phi''(w0_r . h). With
    S_r = (1/n) sum_i eps_i g_r(h_i) h_i h_i^T for independent signs eps_i,

        sup (1/n) sum_i eps_i f_W(h_i) <= max_r |S_r|_op sum_r |w_r|^2 / (2 sqrt m) <= B_w^2 max_r |S_r|_op / 2,

    for the sum of |w_r|^2 is at most sqrt(m) |W|_(2,4)^2. The S_r of all gates and their negatives are the blocks of
    one matrix Rademacher series, the mean of whose largest eigenvalue is at most sqrt(2 v log(2 k' width)):

        R_n <= B_w^2 gate_bound / 2 |(1/n) sum_i |h_i|^2 h_i h_i^T|_op^(1/2) sqrt(2 log(2 k' width) / n),

    k' = min(n, k). So the operator norm of the second moment counts, not its trace, and the number of neurons does not.

    Args:
        H: representations of the examples, (n, k).
        B_w: bound on |W|_(2,4), not negative.
        width: number of different gate patterns g_r. The default of 1 is for a constant phi'', as of t^2/2; where phi''
            varies, the number of neurons.
        gate_bound: bound on |phi''|. The default of 1 is for t^2/2, whose phi'' is 1; for max(t, 0)^3/6 the largest
            pre-activation.

    Returns:
        a `RademacherBound`; ``float`` gives its value. The complexity is without an absolute value and given H.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.

    Cost: 2 n k min(n, k) flops and one eigenvalue of order min(n, k).

    Example:
        >>> H = np.random.default_rng(0).normal(size=(400, 5))
        >>> 0 < float(quad_rademacher_bound(H, 1.0)) < 0.2
        True
    """
    owner = "quad_rademacher_bound"
    h = as_matrix(H, "H")
    checks.count(width, "width", owner)
    for value, name in ((B_w, "B_w"), (gate_bound, "gate_bound")):
        checks.not_negative(checks.number(value, name, owner), name, owner)
    n, smaller = len(h), min(h.shape)
    norms = np.linalg.norm(h, axis=1)
    plain, weighted = _largest_eigenvalue(h) / n, _largest_eigenvalue(norms[:, None] * h) / n
    factor = float(B_w) ** 2 * float(gate_bound) / 2 * (2 * np.log(2 * smaller * width) / n) ** 0.5
    largest = float(norms.max())
    return RademacherBound(
        value=float(factor * weighted**0.5),
        operator_norm=plain,
        largest_norm=largest,
        uniform=float(factor * largest * plain**0.5),
        n=n,
        B_w=float(B_w),
        width=int(width),
        gate_bound=float(gate_bound),
    )


def _largest_eigenvalue(h: np.ndarray) -> float:
    """Of h^T h."""
    n, k = h.shape
    with threads_for(min(n, k)):
        gram = h.T @ h if k <= n else h @ h.T
        return float(linalg.eigvalsh(gram, subset_by_index=(len(gram) - 1, len(gram) - 1))[0])
