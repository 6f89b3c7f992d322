"""Certificates of second-order stationary points of the quadratic Taylor model."""

from typing import Any

import numpy as np

from widescape.core.blas import threads_for
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.result import Result, quantity
from widescape.curvature.krylov import top_eigs
from widescape.features.quadratic_objective import QuadraticProblem, l24_norm, weights_like

DENSE_UP_TO = 1500
"""Entries of W up to which the Hessian is assembled and decomposed."""

_PRODUCTS = 300  # Hessian products of a Lanczos search, at most
_DENSE = Evidence("exact", note="of the assembled Hessian, off by at most about eps times its norm")
_LANCZOS = bound("upper", "Ritz value of a Lanczos search: the smallest eigenvalue is at most this")


class SecondOrderCertificate(Result):
    """How near a point is to a second-order stationary one: zero gradient, no negative curvature."""

    source = "chen2020hierarchical, the landscape theorem"
    grad_norm: float = quantity(EXACT, "Euclidean norm of the gradient of the objective")
    min_hess_eig: float = quantity(_DENSE, "smallest eigenvalue of the Hessian of the objective")
    min_hess_resid: float = quantity(EXACT, "residual of that eigenvalue: some eigenvalue lies within")
    loss: float = quantity(EXACT, "mean loss over the examples, without the regularizer")
    l24: float = quantity(EXACT, "(sum_r |w_r|^4)^(1/4)")
    objective: float = quantity(EXACT, "mean loss plus regularizer")


def second_order_certificate(problem: QuadraticProblem, W: Any) -> SecondOrderCertificate:
    """Gradient and smallest Hessian eigenvalue of the regularized risk at W, in float64.

    Every (eps-)second-order stationary point is near the best that the norm of W allows once m is large enough; so
    what a learner has to show is a small gradient and no eigenvalue below about -sqrt(eps). Where neurons of equal
    gates can be turned among each other at equal norms, a minimum has the eigenvalue 0 up to rounding.

    Args:
        problem: the objective; it is evaluated in float64, whatever its precision.
        W: a point, (m, k).

    Returns:
        a `SecondOrderCertificate`. The smallest eigenvalue is exact up to m k = 1500; beyond it is an upper bound from
        a Lanczos search of some 300 products, whose residual comes with it.

    Raises:
        ShapeError: W does not fit.

    Cost: 2 n (m k)^2 + 10 (m k)^3 flops up to m k = 1500; beyond some 350 Hessian products of 8 n m k flops.

    Source: chen2020hierarchical, Algorithm 1 returns such points.

    Example:
        >>> one = np.ones((1, 1))
        >>> problem = QuadraticProblem(one, one[0], one, np.ones(1), activation="square", lam=0.0)
        >>> round(second_order_certificate(problem, np.array([[2**0.5]])).min_hess_eig, 6)  # (w^2 / 2 - 1)^2
        4.0
    """
    double = problem.at(dtype="float64")
    weights = weights_like(W, double.shape, "W")
    value, gradient = double.value_and_gradient(weights)
    eigenvalue, residual, _ = lowest_curvature(double, weights)
    exact = weights.size <= DENSE_UP_TO
    return SecondOrderCertificate(
        grad_norm=float(np.linalg.norm(gradient)),
        min_hess_eig=eigenvalue,
        min_hess_resid=residual,
        loss=double.mean_loss(weights),
        l24=l24_norm(weights),
        objective=value,
        stands={} if exact else {"min_hess_eig": _LANCZOS},
    )


def lowest_curvature(problem: QuadraticProblem, W: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The smallest Hessian eigenvalue, its residual, and its unit eigenvector as (m, k)."""
    if W.size <= DENSE_UP_TO:
        hessian = problem.hessian(W)
        with threads_for(len(hessian)):
            values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        direction = vectors[:, 0]
        residual = float(np.linalg.norm(hessian @ direction - values[0] * direction))
        return float(values[0]), residual, direction.reshape(W.shape)

    def product(vector: np.ndarray) -> np.ndarray:
        return problem.product(W, vector.reshape(W.shape)).ravel()

    largest = float(top_eigs(product, W.size, which="LM", tol=1e-2, max_steps=40, vectors=False).eigs[0])
    shift = 2 * abs(largest)  # so that residuals are relative to the norm, and not to an eigenvalue near 0
    found = top_eigs(lambda v: product(v) - shift * v, W.size, which="SA", tol=1e-7, max_steps=_PRODUCTS)
    if found.vectors is None:  # asked for above
        raise AssertionError
    return float(found.eigs[0]) + shift, float(found.resid[0]), found.vectors[0].reshape(W.shape)
