"""Least-squares solutions of least length of a symmetric system that is known by its products with vectors only."""

from collections.abc import Callable
from math import hypot
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, bound
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.product import Product, norm_of, unit

_EPS = float(np.finfo(np.float64).eps)


class MinresStatus(Status):
    """Why the iteration stopped."""

    OK = "The system is solved: the residual is within the tolerance."
    LEAST_SQUARES = "A least-squares solution: the operator takes the residual to zero, within the tolerance."
    ILL_CONDITIONED = "The operator is singular, or its condition exceeds `acondlim`; the last direction was left out."
    LONG = "The solution grew longer than `maxxnorm`; the last direction was left out."
    LIMIT = "The steps ran out; raise `maxit`."

    @property
    def ok(self) -> bool:
        """Whether a solution, of the system or of least squares, was found within the tolerance."""
        return self in (MinresStatus.OK, MinresStatus.LEAST_SQUARES)


class MinimumLength(Result):
    """The vector x of least length among those that minimize |H x - b|, or how far the search for it got."""

    source = "choi2011minres"
    status: MinresStatus = quantity(EXACT, "why it stopped")
    x: np.ndarray = quantity(EXACT, "the solution (dim,)")
    residual: float = quantity(EXACT, "|b - H x|, measured with a product")
    normal_residual: float = quantity(EXACT, "|H (b - H x)|, measured with another")
    norm: float = quantity(bound("lower", "the longest column of a projection of H"), "largest |eigenvalue| of H")
    num_steps: int = quantity(EXACT, "steps, a product each")


def minres_qlp(
    mv: Callable[[Any], Any],
    b: Any,
    *,
    rtol: float = 5e-4,
    maxit: int | None = None,
    acondlim: float = 1e7,
    maxxnorm: float = 1e4,
) -> MinimumLength:
    """The minimum-length least-squares solution x = H^+ b of a symmetric H, which may be indefinite and singular.

    Lanczos' recursion H V_k = V_{k+1} T_k, with T_k tridiagonal, makes it the small problem of least |T_k u - b_1|,
    which reflections from both sides, Q T_k P = L_k lower triangular, solve in a fixed number of vectors:
    x = V_k P u with L_k u = Q b_1. As V_k P is orthonormal, |x| = |u|, and a pivot of L_k that is negligible leaves
    its direction out. It stops where

        |b - H x| <= rtol (|H| |x| + |b|),    or    |H (b - H x)| <= rtol |H| |b - H x|,

    |H| being estimated from below. In the second case the residual is a direction of the kernel, the only one that b
    reaches; x is returned without its part along it, once that too meets the tolerance. The lower triangular form is
    used from the first step, where other codes begin with an upper one and change over at a condition of 1e4, to save
    three additions of vectors a step.

    Args:
        mv: H, a function from (dim,) to (dim,), of NumPy or JAX arrays.
        b: the right side (dim,).
        rtol: relative tolerance. This default and the next ones are those of Frye's dissertation.
        maxit: most steps; None for dim.
        acondlim: largest condition number; a direction that raises it further is left out, and the iteration ends.
        maxxnorm: longest x; likewise.

    Returns:
        a `MinimumLength`, of x = 0 for b = 0 and for H b = 0.

    Raises:
        ShapeError, DtypeError, NonFiniteError, TypeError, ValueError: arguments or products that do not fit.

    Cost: a product a step, two more at the end and three more for each trial of the second case; nine vectors.

    Example:
        >>> H = np.diag([2.0, -1.0, 0.0])
        >>> found = minres_qlp(lambda v: H @ v, np.array([2.0, 3.0, 1.0]), rtol=1e-12)
        >>> found.x.round(12).tolist(), found.status.name
        ([1.0, -3.0, 0.0], 'LEAST_SQUARES')
    """
    right = checks.real_array(b, "b").astype(np.float64)
    if right.ndim != 1 or right.size == 0:
        raise ShapeError(f"`b` has shape {right.shape}; give a vector.")
    checks.all_finite(right, "b")
    limits = {"rtol": rtol, "acondlim": acondlim, "maxxnorm": maxxnorm}
    for name, value in limits.items():
        checks.positive(checks.number(value, name, "minres_qlp"), name, "minres_qlp")
    steps = right.size if maxit is None else maxit
    checks.count(steps, "maxit", "minres_qlp")
    product = Product(mv, right.size, "minres_qlp")
    recurrence = _Recurrence(product, right)
    status = recurrence.run(right, float(rtol), int(steps), float(acondlim), float(maxxnorm))
    left = right - product(recurrence.x)
    return MinimumLength(
        status=status,
        x=recurrence.x,
        residual=norm_of(left),
        normal_residual=norm_of(product(left)),
        norm=recurrence.norm,
        num_steps=recurrence.num_steps,
    )


class _Recurrence:
    """The iteration: in step k, `u` are the last entries of the solution of L_k, and `w` the last columns of V_k P.

    Row k of L_k holds `eta`, `theta` and the pivot, in the columns k - 2, k - 1 and k; of each the values of the rows
    k - 2, k - 1 and k are kept, in this order.
    """

    def __init__(self, product: Product, b: np.ndarray) -> None:
        self.product, self.norm, self.phi = product, 0.0, norm_of(b)
        self.num_steps = 0
        self.x = self.base = np.zeros(b.size)  # `base` is x without the last two directions
        self.size, self.base_size = 0.0, 0.0
        self.v_before, self.v = np.zeros(b.size), b / self.phi if self.phi else b
        self.w_before, self.w = np.zeros(b.size), np.zeros(b.size)
        self.left = (-1.0, 0.0)
        self.beta = self.delta = self.epsilon = self.next_epsilon = 0.0
        self.pivot, self.theta, self.eta = [0.0] * 3, [0.0] * 3, [0.0] * 3
        self.tau, self.u = [0.0] * 3, [0.0] * 5

    def run(self, b: np.ndarray, rtol: float, maxit: int, acondlim: float, maxxnorm: float) -> MinresStatus:
        start = self.phi
        if start == 0:
            return MinresStatus.OK
        tolerance = max(rtol, _EPS)
        for _ in range(maxit):
            self._lanczos()
            if hypot(self.gamma, self.next_delta) <= tolerance * self.norm:
                shortened = self._shortened(b, tolerance)
                if shortened is not None:
                    self.x = shortened
                    return MinresStatus.LEAST_SQUARES
            self._reflect()
            status = self._extend(abs(self.pivot[-1]) * acondlim > self.norm, maxxnorm)
            if status is not None:
                return status
            if self.phi <= tolerance * (self.norm * self.size + start):
                return MinresStatus.OK
        return MinresStatus.LIMIT

    def _shortened(self, b: np.ndarray, tolerance: float) -> np.ndarray | None:
        """A solution of least squares without its part in the kernel, of which b reaches one direction: the residual's.

        None where that leaves too much, as the residual is in the kernel up to the tolerance only.
        """
        direction = unit(b - self.product(self.x))
        x = self.x - (direction @ self.x) * direction
        left = b - self.product(x)
        enough = norm_of(self.product(left)) <= tolerance * self.norm * norm_of(left)
        return x if enough else None

    def _lanczos(self) -> None:
        """The next column of T, and what the earlier reflections from the left make of it."""
        self.num_steps += 1
        image = self.product(self.v) - self.beta * self.v_before
        alpha = float(self.v @ image)
        image -= alpha * self.v
        following = norm_of(image)
        self.norm = max(self.norm, hypot(self.beta, alpha, following))
        if following <= _EPS * self.norm:
            following = 0.0
        self.v_before, self.v = self.v, image / following if following else np.zeros(image.size)
        cosine, sine = self.left
        self.above = cosine * self.delta + sine * alpha
        self.gamma = sine * self.delta - cosine * alpha
        self.epsilon, self.next_epsilon = self.next_epsilon, sine * following
        self.next_delta = -cosine * following
        self.beta = following

    def _reflect(self) -> None:
        """One reflection from the left, and two from the right with the vectors that they turn."""
        cosine, sine, diagonal = _reflection(self.gamma, self.beta)
        self.left, self.delta = (cosine, sine), self.next_delta
        self.tau = [*self.tau[1:], cosine * self.phi]
        self.phi *= sine
        pivot, theta = [*self.pivot[1:], 0.0], [*self.theta[1:], 0.0]
        cosine, sine, pivot[0] = _reflection(pivot[0], self.epsilon)
        theta[1], above = cosine * theta[1] + sine * self.above, sine * theta[1] - cosine * self.above
        self.eta = [*self.eta[1:], sine * diagonal]
        diagonal *= -cosine
        vector = self.v_before
        self.w_final, vector = cosine * self.w_before + sine * vector, sine * self.w_before - cosine * vector
        cosine, sine, pivot[1] = _reflection(pivot[1], above)
        theta[2], pivot[2] = sine * diagonal, -cosine * diagonal
        self.w_before, self.w = cosine * self.w + sine * vector, sine * self.w - cosine * vector
        self.pivot, self.theta = pivot, theta

    def _extend(self, kept: bool, maxxnorm: float) -> MinresStatus | None:
        """The solution in the larger space, without its last direction where that is to be left out."""
        u = [*self.u[1:], 0.0]
        for i in range(3):
            if i < 2 or kept:
                rest = self.tau[i] - self.eta[i] * u[i] - self.theta[i] * u[i + 1]
                u[i + 2] = rest / self.pivot[i] if self.pivot[i] else 0.0
        self.base = self.base + u[2] * self.w_final
        self.base_size = hypot(self.base_size, u[2])
        size = hypot(self.base_size, u[3], u[4])
        long = kept and size > maxxnorm
        if long:
            u[4], size = 0.0, hypot(self.base_size, u[3])
        self.u, self.size = u, size
        self.x = self.base + u[3] * self.w_before + u[4] * self.w
        if long:
            return MinresStatus.LONG
        return None if kept else MinresStatus.ILL_CONDITIONED


def _reflection(a: float, b: float) -> tuple[float, float, float]:
    """The reflection (c, s; s, -c) that takes (a, b) to (r, 0)."""
    r = hypot(a, b)
    return (a / r, b / r, r) if r else (-1.0, 0.0, 0.0)
