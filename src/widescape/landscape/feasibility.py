"""Whether a ball traps gradient descent: the inequality between residual, kernel and curvature, solved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Radius = Literal["tight", "paper"]
_POINTS = 200
_INTEGRAL_POINTS = 600
_SLACK = 1 + 1e-10  # by which an inequality must hold beyond the rounding of its terms


@dataclass(frozen=True)
class Problem:
    """What a certificate is made of.

    Attributes:
        residual: |r_0|.
        lam_min: a lower bound of the smallest kernel eigenvalue at the center.
        lam_max: the largest one.
        curvature: a number beta, or a non-decreasing function beta(R) that bounds the second derivative on the ball.
        flow: gradient flow; else gradient descent.
        lr: the learning rate of descent; None for 1/smoothness.
        radius: the sharper radius, or that of the paper.
    """

    residual: float
    lam_min: float
    lam_max: float
    curvature: float | Callable[[float], float]
    flow: bool = False
    lr: float | None = None
    radius: Radius = "tight"

    def beta(self, radius: float) -> float:
        """The bound on one ball.

        Raises:
            ValueError: a function of the caller's returned a negative number, or NaN.
        """
        if not callable(self.curvature):
            return float(self.curvature)
        value = float(self.curvature(radius))
        if not value >= 0:  # infinite is a bound too, of balls that reach too far
            raise ValueError(f"`hessian_bound` returned {value} at radius {radius:.4g}; it must be a number >= 0.")
        return value

    def smoothness(self, lost: float, beta: float) -> float:
        """Bound of the loss's Hessian where sigma_max(J) has grown by `lost` and the residual by nothing."""
        return (self.lam_max**0.5 + lost) ** 2 + beta * self.residual

    def factor(self, smoothness: float) -> float:
        """c: how much longer the path of descent is than |r_0| / sqrt(mu); infinite where descent may diverge."""
        if self.flow:
            return 1.0
        if self.lr is None:
            return 2.0
        left = 2 - self.lr * smoothness
        return 2 / left if left > 0 else float("inf")

    @property
    def constant_h(self) -> float | None:
        """4 c beta |r_0| / lam_min for a constant beta."""
        if callable(self.curvature):
            return None
        return 4 * self.nominal * float(self.curvature) * self.residual / self.lam_min

    @property
    def nominal(self) -> float:
        """C at the largest learning rate that is covered without asking."""
        return 1.0 if self.flow else 2.0

    @property
    def least(self) -> float:
        """A radius below which no ball traps: that without curvature, with the smallest c there can be."""
        return (self.nominal if self.lr is None else 1.0) * self.residual / self.lam_min**0.5


@dataclass(frozen=True)
class Solution:
    """The smallest ball that traps descent, or how far all balls are from it.

    Attributes:
        h: c |r_0| over the most that any ball allows; at most 1 where one traps.
        radius, mu, smoothness, beta: of the smallest ball that traps; None where none does.
    """

    h: float
    radius: float | None = None
    mu: float = 0.0
    smoothness: float = 0.0
    beta: float = 0.0


def solve(problem: Problem) -> Solution:
    """The smallest R with c |r_0| <= R (sqrt(lam_min) - R beta(R)); see `widescape.landscape.certify_pl_star`."""
    root, least = problem.lam_min**0.5, problem.least
    if least == 0:
        smoothness = problem.smoothness(0.0, problem.beta(0.0))
        stays = problem.factor(smoothness) < float("inf")
        return Solution(0.0, 0.0 if stays else None, problem.lam_min, smoothness, problem.beta(0.0))
    last = _last_radius(problem, root, least)
    h, best = problem.constant_h, root / (2 * problem.beta(0.0)) if problem.beta(0.0) > 0 else last
    if h is None:
        best, most = _most(lambda r: r * (root - r * problem.beta(r)), last)
        h = problem.nominal * problem.residual / most
    if h > 1 and problem.lr is None:
        return Solution(h)
    at = _closed_form(problem, root, 1.0)
    if at is None:
        at = _smallest(lambda r: _traps(problem, root, r), least, last, best)
    if at is None:
        return Solution(h)
    beta = problem.beta(at)
    kept = root - at * beta
    return Solution(h, at, kept**2, problem.smoothness(at * beta, beta), beta)


def solve_integrated(problem: Problem) -> Solution:
    """The shortest path S with int_0^S (sqrt(lam_min) - B(s)) ds >= c |r_0|, B(s) the integral of beta up to s.

    Right-endpoint sums of the monotone beta keep both integrals on the safe side.
    """
    root, least = problem.lam_min**0.5, problem.least
    if least == 0:
        return solve(problem)
    last = 2 * _last_radius(problem, root, least)
    path = np.unique(np.concatenate([np.linspace(0, min(4 * least, last), _INTEGRAL_POINTS), _grid(0, last)]))
    widths = np.diff(path)
    betas = np.array([problem.beta(s) for s in path[1:]])
    lost = np.cumsum(betas * widths)
    gained = np.cumsum((root - lost) * widths)
    most = float(gained.max())
    h = problem.nominal * problem.residual / most if most > 0 else float("inf")
    if problem.constant_h is not None:
        h = problem.constant_h / 2
        at = _closed_form(problem, root, 0.5) if h < 1 else None
        if at is not None:
            beta = problem.beta(0.0)
            return Solution(h, at, (root - at * beta) ** 2, problem.smoothness(at * beta, beta), beta)
    for i in range(len(widths)):
        if lost[i] >= root:
            break
        smoothness = problem.smoothness(float(lost[i]), float(betas[i]))
        if gained[i] >= _SLACK * problem.factor(smoothness) * problem.residual:
            return Solution(h, float(path[i + 1]), float(root - lost[i]) ** 2, smoothness, float(betas[i]))
    return Solution(h)


def _closed_form(problem: Problem, root: float, share: float) -> float | None:
    """The smaller solution R of c |r_0| = R (root - share R beta) for a constant beta and the sharper radius."""
    if callable(problem.curvature) or problem.lr is not None or problem.radius == "paper":
        return None
    length = problem.nominal * problem.residual
    spread = max(root**2 - 4 * share * problem.beta(0.0) * length, 0.0)
    return 2 * length / (root + spread**0.5)


def _traps(problem: Problem, root: float, radius: float) -> bool:
    beta = problem.beta(radius)
    kept = root - radius * beta
    if kept <= 0:
        return False
    smoothness = problem.smoothness(radius * beta, beta)
    needed = problem.factor(smoothness) * problem.residual / kept
    if problem.radius == "paper":
        needed = max(needed, 2 * smoothness**0.5 * problem.residual / kept**2)
    return radius >= needed


def _smallest(traps: Callable[[float], bool], least: float, last: float, best: float) -> float | None:
    """The smallest radius that traps: the first of a grid and of `best`, refined downwards."""
    before = least / _SLACK
    for radius in np.union1d(_grid(least * _SLACK, max(last, least * _SLACK * (1 + 1e-9))), best):
        if traps(radius):
            good = float(radius)
            for _ in range(60):
                middle = (before * good) ** 0.5
                before, good = (before, middle) if traps(middle) else (middle, good)
            return good
        before = float(radius)
    return None


def _most(value: Callable[[float], float], last: float) -> tuple[float, float]:
    """Where on (0, last) a function is largest, and how large: on a grid, refined between its neighbors."""
    grid = _grid(last * 1e-4, last)
    values = [value(r) for r in grid]
    best = int(np.argmax(values))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    at, most = float(grid[best]), values[best]
    ratio = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        at_left, at_right = value(left), value(right)
        at, most = max((at, most), (left, at_left), (right, at_right), key=lambda pair: pair[1])
        low, high = (low, right) if at_left > at_right else (left, high)
    return at, most


def _last_radius(problem: Problem, root: float, least: float) -> float:
    """A radius beyond which the curvature has used up sqrt(lam_min); far out where it never does."""
    start = problem.beta(0.0)
    if start > 0 and not callable(problem.curvature):
        return root / start
    radius = root / start if start > 0 else least
    while radius * problem.beta(radius) > root:  # the curvature grows: come back to where it is used up
        if radius * problem.beta(radius) <= 2 * root:
            return radius
        radius /= 2
    far = 1e9 * least
    while radius < far and radius * problem.beta(radius) < root:
        radius *= 2
    return radius


def _grid(first: float, last: float) -> np.ndarray:
    if first <= 0:
        return np.linspace(0, last, _POINTS)
    return np.geomspace(first, last, _POINTS)
