"""Polynomials of few directions as regression problems that draw any number of examples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import comb, factorial
from typing import Any, Literal

import jax
import numpy as np
from scipy import special

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.random import named_generator
from widescape.data.teachers import Inputs, directions, double_factorial, draw_inputs
from widescape.features.harmonics import invariant_kernel_risk_floor, zonal_harmonic

Kind = Literal["monomial", "harmonic"]


@dataclass(frozen=True, eq=False)
class PolynomialTarget:
    """The function f(x) = sum_s alpha_s g(beta_s . x) / std of inputs (n, d).

    Attributes:
        beta: orthonormal directions, (d, r).
        alpha: signs of the terms, +1 and -1 in turn, (r,).
        g: the function of one number.
        std: the standard deviation of the sum over the population of inputs.
    """

    beta: np.ndarray
    alpha: np.ndarray
    g: Callable[[np.ndarray], np.ndarray]
    std: float

    def __call__(self, x: Any) -> np.ndarray:
        """Values (n,) at inputs (n, d), float64; of a row they do not depend on the other rows.

        Raises:
            ShapeError, DtypeError, ValueError: no finite matrix, or another dimension.
        """
        x = checks.batch(x, "x")
        if x.ndim != 2 or x.shape[1] != len(self.beta):
            raise ShapeError(f"`x` has shape {x.shape}; it must be (n, {len(self.beta)}).")
        projections = np.einsum("nd,dr->nr", x, self.beta)  # to the last bit each row by itself, unlike x @ beta
        values: np.ndarray = np.einsum("nr,r->n", self.g(projections), self.alpha) / self.std
        return values


@dataclass(frozen=True)
class LowRankPolynomial:
    """Regression problems y = f(x) + noise with f(x) = sum_s alpha_s g(beta_s . x) / std, for few directions beta_s.

    g(t) is t^p, or the zonal harmonic of degree p, monic in t. The directions are orthonormal and random, the signs
    alpha_s are +1 and -1 in turn, and f has unit standard deviation over the population of inputs; the mean of
    monomials of even degree is not zero. A problem is a specification: it compares, hashes and prints, and draws
    examples by an integer seed, which chooses the directions, too. Parts of one seed share the directions and are
    otherwise independent, and the first n rows of a larger draw are the draw of n.

    Attributes:
        d: dimension of the inputs.
        p: degree.
        r: number of directions, at most d.
        kind: ``"monomial"``, or ``"harmonic"``, which is orthogonal to all of lower degree on the sphere (only there).
        dist: inputs uniform on the ``"sphere"`` of radius sqrt(d), ``"gaussian"``, or uniform signs (``"cube"``).
        noise: standard deviation of Gaussian noise on the targets, in units of that of f.

    Raises:
        TypeError, ValueError: numbers out of range; a harmonic in fewer than 3 dimensions; a target that is constant.

    Source: the target class of chen2020hierarchical.

    Example:
        >>> problem = LowRankPolynomial(d=16, p=4, kind="harmonic")
        >>> x, y = problem.sample(5, seed=0)
        >>> bool(np.allclose(problem.target(0)(x), y)), round(problem.std**2, 5)
        (True, 8.79192)
    """

    d: int
    p: int
    r: int = 1
    kind: Kind = "monomial"
    dist: Inputs = "sphere"
    noise: float = 0.0

    def __post_init__(self) -> None:
        owner = "LowRankPolynomial"
        for name in ("d", "p", "r"):
            checks.count(getattr(self, name), name, owner)
        checks.choice(self.kind, "kind", Kind)
        checks.choice(self.dist, "dist", Inputs)
        object.__setattr__(self, "noise", checks.number(self.noise, "noise", owner))
        checks.not_negative(self.noise, "noise", owner)
        if self.r > self.d:
            raise ValueError(f"{owner}: `r` is {self.r}, but there are {self.d} dimensions; choose 1 <= r <= {self.d}.")
        if self.kind == "harmonic" and self.d < 3:
            raise ValueError(f"{owner}: `d` is {self.d}; zonal harmonics need d >= 3, or take kind='monomial'.")
        if self.dist != "cube":
            _refuse_constant(self._variance)

    @property
    def std(self) -> float:
        """The standard deviation of sum_s alpha_s g(beta_s . x) over the population of inputs, before the division.

        On the sphere and for Gaussian inputs it is the same for all directions: closed forms for monomials and
        for harmonics on the sphere, for harmonics of Gaussian inputs an exact Gauss-Hermite rule.

        Raises:
            ValueError: for inputs on the cube, where it depends on the directions; ``target(seed).std`` has it.
        """
        if self.dist == "cube":
            raise ValueError("`std` depends on the directions for inputs on the cube; take `target(seed).std`.")
        return self._variance**0.5

    def target(self, seed: int) -> PolynomialTarget:
        """The function f that a seed chooses."""
        beta = directions(self._generator(seed, "directions"), self.r, self.d)
        variance = self._variance_on_cube(beta) if self.dist == "cube" else self._variance
        _refuse_constant(variance)
        return PolynomialTarget(beta, self._alpha, self._g, variance**0.5)

    def sample(self, n: int, *, seed: int, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Draw examples.

        Args:
            n: how many.
            seed: of everything; below 2^32.
            part: any name; parts of one seed have the same target and are otherwise independent.

        Returns:
            inputs (n, d) and targets (n,), float64.
        """
        x = self._inputs(n, seed, part)
        noise = self.noise * self._generator(seed, "noise", part).standard_normal(n)
        return x, self.target(seed)(x) + noise

    def unlabeled(self, n: int, *, seed: int) -> np.ndarray:
        """Draw inputs (n, d) without targets, independent of every other part."""
        return self._inputs(n, seed, "without labels")

    def risk_floor(self, n: Any) -> Any:
        """`invariant_kernel_risk_floor` at `n` for one harmonic on the sphere; None for other problems.

        Noise on test targets leaves it a bound: it adds the same to the squared error and to the second moment.
        """
        if (self.kind, self.dist, self.r) != ("harmonic", "sphere", 1):
            return None
        return invariant_kernel_risk_floor(n, self.d, self.p)

    def _generator(self, seed: int, *names: str) -> np.random.Generator:
        checks.seed(seed, "LowRankPolynomial")
        return named_generator(jax.random.key(int(seed)), "low-rank polynomial", self.d, *names)

    def _inputs(self, n: int, seed: int, part: str) -> np.ndarray:
        checks.count(n, "n", "LowRankPolynomial")
        return draw_inputs(self._generator(seed, "inputs", part), n, self.d, self.dist)

    @property
    def _alpha(self) -> np.ndarray:
        return np.where(np.arange(self.r) % 2 == 0, 1.0, -1.0)

    @property
    def _g(self) -> Callable[[np.ndarray], np.ndarray]:
        return zonal_harmonic(self.d, self.p) if self.kind == "harmonic" else _Power(self.p)

    @cached_property
    def _variance(self) -> float:
        """Of the sum, for inputs on the sphere and Gaussian ones."""
        own, cross = self._moments_of_terms()
        pairs = self.r % 2 - self.r  # sum over s != t of alpha_s alpha_t
        return self.r * own + pairs * cross

    def _moments_of_terms(self) -> tuple[float, float]:
        """Variance of one term, and covariance of two terms of different directions."""
        if self.kind == "harmonic" and self.dist == "sphere":
            harmonic = zonal_harmonic(self.d, self.p)
            correlation = harmonic(0.0) / harmonic(self.d**0.5)
            return harmonic.std**2, float(harmonic.std**2 * correlation)
        if self.kind == "harmonic":
            nodes, weights = special.roots_hermitenorm(self.p + 1)
            values = self._g(nodes)
            weights = weights / weights.sum()
            return float(weights @ (values - weights @ values) ** 2), 0.0
        mean = 0.0 if self.p % 2 else double_factorial(self.p - 1) * self._thinning(self.p)
        joint = 0.0 if self.p % 2 else double_factorial(self.p - 1) ** 2 * self._thinning(2 * self.p)
        return double_factorial(2 * self.p - 1) * self._thinning(2 * self.p) - mean**2, joint - mean**2

    def _thinning(self, degree: int) -> float:
        """A moment of even degree on the sphere over the same moment of Gaussian inputs; 1 for those."""
        steps = np.arange(degree // 2) if self.dist == "sphere" else np.zeros(0)
        return float(np.prod(self.d / (self.d + 2 * steps)))

    def _variance_on_cube(self, beta: np.ndarray) -> float:
        """Of the sum, from the joint moments of pairs of projections, which are finite sums."""
        powers = np.zeros(self.p + 1)  # coefficients of g, lowest first
        powers[self.p] = 1.0
        if self.kind == "harmonic":
            monic = special.gegenbauer(self.p, self.d / 2 - 1, monic=True).coef[::-1]
            powers = monic * self.d ** (np.arange(self.p, -1, -1) / 2)
        second = mean = 0.0
        for s in range(self.r):
            for t in range(self.r):
                moments = _cube_moments(beta[:, s], beta[:, t], self.p)
                second += self._alpha[s] * self._alpha[t] * float(powers @ moments @ powers)
                mean += self._alpha[s] * float(moments[:, 0] @ powers) / self.r
        return second - mean**2


@dataclass(frozen=True)
class _Power:
    """t^p."""

    p: int

    def __call__(self, t: np.ndarray) -> np.ndarray:
        return t**self.p


def make_low_rank_polynomial(
    n: int,
    d: int,
    p: int,
    r: int = 1,
    *,
    kind: Kind = "monomial",
    dist: Inputs = "sphere",
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draw examples of a polynomial of few directions, normalized to unit standard deviation.

    One draw of a `LowRankPolynomial`, which explains the arguments.

    Args:
        n: number of examples.
        d: dimension of the inputs.
        p: degree.
        r: number of directions.
        kind: ``"monomial"`` or ``"harmonic"``.
        dist: ``"sphere"`` of radius sqrt(d), ``"gaussian"`` or ``"cube"``.
        noise: standard deviation of Gaussian noise on the targets.
        seed: of everything.

    Returns:
        inputs (n, d), targets (n,), and `beta` (d, r), the function `f` and its `std` before normalization.

    Raises:
        TypeError, ValueError: as `LowRankPolynomial`.

    Source: the target class of chen2020hierarchical.

    Example:
        >>> x, y, info = make_low_rank_polynomial(4, 3, 2)
        >>> bool(np.allclose(y, (x @ info["beta"])[:, 0] ** 2 / info["std"]))
        True
    """
    problem = LowRankPolynomial(d, p, r, kind, dist, noise)
    x, y = problem.sample(n, seed=seed)
    f = problem.target(seed)
    return x, y, {"beta": f.beta, "f": f, "std": f.std}


def _refuse_constant(variance: float) -> None:
    if variance < 1e-12:
        raise ValueError("the target is constant over its inputs; raise `d`, lower `r`, or choose another degree.")


def _cube_moments(first: np.ndarray, second: np.ndarray, degree: int) -> np.ndarray:
    """E[u^a v^b], a, b <= degree, of u = first . x and v = second . x for uniform signs x.

    The generating function is the product over coordinates of cosh(first_i s + second_i t).
    """
    inverse = np.array([1 / factorial(a) for a in range(degree + 1)])
    moments = np.zeros((degree + 1, degree + 1))  # over a! b!
    moments[0, 0] = 1.0
    for x, y in zip(first, second, strict=True):
        total = np.zeros_like(moments)
        for i in range(degree + 1):
            for j in range(i % 2, degree + 1, 2):
                term = comb(i + j, i) / factorial(i + j) * x**i * y**j
                total[i:, j:] += term * moments[: degree + 1 - i, : degree + 1 - j]
        moments = total
    return moments / np.outer(inverse, inverse)
