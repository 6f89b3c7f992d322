"""Nonlinearities with closed-form Gaussian integrals: the function and its dual side by side."""

from dataclasses import dataclass
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np

from widescape import duals
from widescape.arch.elementwise import Elementwise
from widescape.arch.fused_program import Apply
from widescape.arch.spec import scale
from widescape.core import checks
from widescape.duals import Dual, Pair


@dataclass(frozen=True)
class Relu(Elementwise):
    """max(x, 0)."""

    kinked = True
    positive = True

    def phi(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    def fused(self) -> Apply:
        return Apply("abrelu", 0.0, 1.0)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, 0.0, 1.0)


@dataclass(frozen=True)
class ABRelu(Elementwise):
    """a min(x, 0) + b max(x, 0)."""

    a: float = scale()
    b: float = scale()
    kinked = True

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.minimum(x, 0) + self.b * jnp.maximum(x, 0)

    def fused(self) -> Apply:
        return Apply("abrelu", self.a, self.b)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, self.a, self.b)


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """x for x > 0 and slope x otherwise."""

    slope: float = scale(0.01)
    kinked = True

    def phi(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.slope * x)

    def fused(self) -> Apply:
        return Apply("abrelu", self.slope, 1.0)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, self.slope, 1.0)


@dataclass(frozen=True)
class Abs(Elementwise):
    """|x|."""

    kinked = True
    positive = True

    def phi(self, x: jax.Array) -> jax.Array:
        return jnp.abs(x)

    def fused(self) -> Apply:
        return Apply("abrelu", -1.0, 1.0)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.abrelu(pair, -1.0, 1.0)


@dataclass(frozen=True)
class Erf(Elementwise):
    """a erf(b x) + c."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    @property
    def odd(self) -> bool | None:  # type: ignore[override]
        """Without a shift."""
        return _is_zero(self.c)

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jax.scipy.special.erf(self.b * x) + self.c

    def fused(self) -> Apply:
        return Apply("erf", self.a, self.b, self.c)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.erf(pair, self.a, self.b, self.c)


@dataclass(frozen=True)
class Gelu(Elementwise):
    """x Phi(x), the exact form with the normal distribution function (not the tanh approximation)."""

    def phi(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)

    def fused(self) -> Apply:
        return Apply("gelu")

    def dual_of(self, pair: Pair) -> Dual:
        return duals.gelu(pair)


@dataclass(frozen=True)
class Sin(Elementwise):
    """a sin(b x + c)."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    @property
    def odd(self) -> bool | None:  # type: ignore[override]
        """Without a shift."""
        return _is_zero(self.c)

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.sin(self.b * x + self.c)

    def fused(self) -> Apply:
        return Apply("sine", self.a, self.b, self.c)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.sine(pair, self.a, self.b, self.c)


@dataclass(frozen=True)
class Cos(Elementwise):
    """a cos(b x + c)."""

    a: float = scale(1.0)
    b: float = scale(1.0)
    c: float = scale(0.0)

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.cos(self.b * x + self.c)

    def fused(self) -> Apply:
        return Apply("sine", self.a, self.b, self.c + float(np.pi / 2))

    def dual_of(self, pair: Pair) -> Dual:
        return duals.sine(pair, self.a, self.b, self.c + jnp.pi / 2)


@dataclass(frozen=True)
class Rbf(Elementwise):
    """sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose NNGP kernel is the RBF kernel exp(-gamma |u - v|^2)."""

    gamma: float = scale(1.0)

    positive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(self.gamma, "gamma", "Rbf")

    def phi(self, x: jax.Array) -> jax.Array:
        return 2**0.5 * jnp.sin((2 * self.gamma) ** 0.5 * x + jnp.pi / 4)

    def fused(self) -> Apply:
        return Apply("rbf", self.gamma)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.rbf(pair, self.gamma)


@dataclass(frozen=True)
class Exp(Elementwise):
    """a exp(b x). Its variance grows fast with the input's; deep networks of it overflow, with an error."""

    a: float = scale(1.0)
    b: float = scale(1.0)

    positive = True

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.exp(self.b * x)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.exponential(pair, self.a, self.b)


@dataclass(frozen=True)
class Gaussian(Elementwise):
    """a exp(b x^2) with b < 0."""

    a: float = scale(1.0)
    b: float = scale(-1.0)

    positive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if checks.is_concrete_number(self.b) and not self.b < 0:
            raise ValueError(f"Gaussian: `b` is {self.b}; it must be negative, or the second moment is infinite.")

    def phi(self, x: jax.Array) -> jax.Array:
        return self.a * jnp.exp(self.b * x**2)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.gaussian(pair, self.a, self.b)


@dataclass(frozen=True)
class Sign(Elementwise):
    """sign(x). No gradient passes it: the tangent kernel of what lies below is lost, with a warning."""

    odd = True
    kinked = True
    ntk_caution = "its derivative is 0 almost everywhere: the tangent kernel counts the layers above it only"

    def phi(self, x: jax.Array) -> jax.Array:
        return jnp.sign(x)

    def dual_of(self, pair: Pair) -> Dual:
        return duals.sign(pair)


@dataclass(frozen=True)
class RectifiedPower(Elementwise):
    """max(x, 0)^degree for degrees 1, 2, 3, and for degree 0 the step 1{x >= 0}: the arc-cosine kernels.

    Degree 1 is `Relu`. No gradient passes the step: the tangent kernel of what lies below is lost, with a warning.

    Source: cho2009kernel; the step is the feature map of chen2020hierarchical.
    """

    degree: int

    positive = True

    def __post_init__(self) -> None:
        checks.count(self.degree, "degree", "RectifiedPower", minimum=0)
        if self.degree > 3:
            raise ValueError(f"RectifiedPower: `degree` is {self.degree}; choose 0 <= degree <= 3.")

    @property
    def kinked(self) -> bool:  # type: ignore[override]
        """The step and the ReLU; higher powers have a derivative at 0."""
        return self.degree < 2

    @property
    def ntk_caution(self) -> str:  # type: ignore[override]
        """The step's derivative vanishes."""
        return Sign.ntk_caution if self.degree == 0 else ""

    def phi(self, x: jax.Array) -> jax.Array:
        if self.degree == 0:
            return jnp.where(x >= 0, jnp.ones_like(x), jnp.zeros_like(x))
        return jax.nn.relu(x) ** self.degree

    def dual_of(self, pair: Pair) -> Dual:
        return duals.rectified_power(pair, self.degree)


@dataclass(frozen=True)
class Polynomial(Elementwise):
    """sum_j coefficients[j] x^j, lowest power first."""

    coefficients: tuple[float, ...] = scale()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.coefficients:
            raise ValueError("Polynomial: `coefficients` is empty; give at least the constant term.")

    @property
    def odd(self) -> bool | None:  # type: ignore[override]
        """Odd powers only."""
        even = [_is_zero(c) for c in self.coefficients[::2]]
        return False if False in even else None if None in even else True

    def phi(self, x: jax.Array) -> jax.Array:
        value = jnp.zeros_like(x)
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return value

    def dual_of(self, pair: Pair) -> Dual:
        return duals.polynomial(pair, self.coefficients)


@dataclass(frozen=True)
class Hermite(Elementwise):
    """He_degree(x) / sqrt(degree!), the orthonormal Hermite polynomial; T = q12^degree at unit variances."""

    degree: int

    def __post_init__(self) -> None:
        checks.count(self.degree, "degree", "Hermite", minimum=0)
        if self.degree > 30:
            raise ValueError(f"Hermite: `degree` is {self.degree}; choose 0 <= degree <= 30.")

    @property
    def _polynomial(self) -> Polynomial:
        monomials = np.polynomial.hermite_e.herme2poly([0] * self.degree + [1])
        return Polynomial(tuple(float(c) / factorial(self.degree) ** 0.5 for c in monomials))

    @property
    def odd(self) -> bool | None:  # type: ignore[override]
        """Of odd degree."""
        return self.degree % 2 == 1

    def phi(self, x: jax.Array) -> jax.Array:
        return self._polynomial.phi(x)

    def dual_of(self, pair: Pair) -> Dual:
        return self._polynomial.dual_of(pair)


def _is_zero(value: float) -> bool | None:
    return value == 0 if checks.is_concrete_number(value) else None
