"""A pair of Gaussian variables, with the complement of their cosine kept beside their covariance.

The angle between nearly parallel inputs cannot be found from their covariance: the cosine is 1 minus
something below rounding, and an error u in the cosine becomes an error sqrt(u) in the angle. So a pair
carries complement = sqrt(q11 q22) - |q12| as a number of its own, exact for parallel and antiparallel
inputs and accurate for nearly parallel ones, and every formula that needs it takes it from there.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from widescape.duals.angle import angle_and_lune, safe_sqrt


class Pair(NamedTuple):
    """Second moments of (u, v). Arrays that broadcast against each other.

    Attributes:
        q11, q22: the variances.
        q12: the covariance.
        complement: sqrt(q11 q22) - |q12|, accurate where it is small.
    """

    q11: jax.Array
    q12: jax.Array
    q22: jax.Array
    complement: jax.Array

    @classmethod
    def of(cls, q11: jax.Array, q12: jax.Array, q22: jax.Array) -> Self:
        """The pair with these moments; its complement has the rounding error of a subtraction."""
        q11, q12, q22 = map(jnp.asarray, (q11, q12, q22))
        return cls(q11, q12, q22, clamp(safe_sqrt(q11) * safe_sqrt(q22) - jnp.abs(q12)))

    @classmethod
    def equal(cls, q: jax.Array) -> Self:
        """The pair (u, u) with variance `q`."""
        return cls(q, q, q, jnp.zeros_like(q))

    @property
    def product(self) -> jax.Array:
        """sqrt(q11 q22)."""
        return safe_sqrt(self.q11) * safe_sqrt(self.q22)

    @property
    def minus(self) -> jax.Array:
        """sqrt(q11 q22) - q12, without cancellation."""
        return jnp.where(self.q12 < 0, 2 * self.product - self.complement, self.complement)

    @property
    def plus(self) -> jax.Array:
        """sqrt(q11 q22) + q12, without cancellation."""
        return jnp.where(self.q12 < 0, self.complement, 2 * self.product - self.complement)

    @property
    def radial_gap(self) -> jax.Array:
        """(sqrt(q11) - sqrt(q22))^2: the part of the gap that is due to different variances."""
        return (safe_sqrt(self.q11) - safe_sqrt(self.q22)) ** 2

    @property
    def gap(self) -> jax.Array:
        """E[(u - v)^2] = q11 + q22 - 2 q12, without cancellation."""
        return self.radial_gap + 2 * self.minus

    @property
    def opposite_gap(self) -> jax.Array:
        """E[(u + v)^2] = q11 + q22 + 2 q12, without cancellation."""
        return self.radial_gap + 2 * self.plus

    @property
    def determinant(self) -> jax.Array:
        """q11 q22 - q12^2, without cancellation."""
        return self.complement * (2 * self.product - self.complement)

    @property
    def acute_angle(self) -> jax.Array:
        """The angle in [0, pi/2] between the lines of u and v; pi/2 where a variance vanishes."""
        return angle_and_lune(self.relative_complement)[0]

    @property
    def relative_complement(self) -> jax.Array:
        """1 - |cosine|; 1 where a variance vanishes."""
        product = self.product
        return jnp.where(product > 0, self.complement / jnp.where(product > 0, product, 1), 1)

    @property
    def angle(self) -> jax.Array:
        """The angle between u and v in [0, pi]; pi/2 where a variance vanishes."""
        acute = self.acute_angle
        return jnp.where(self.q12 < 0, jnp.pi - acute, acute)

    @property
    def cosine(self) -> jax.Array:
        """q12 / sqrt(q11 q22); 0 where a variance vanishes."""
        product = self.product
        return jnp.where(product > 0, self.q12 / jnp.where(product > 0, product, 1), 0)

    def affine(self, w2: jax.Array | float, b2: jax.Array | float) -> "Pair":
        """The moments w2 q + b2 of sqrt(w2) u and sqrt(w2) v plus a common independent variable of variance b2."""
        q11, q12, q22 = w2 * self.q11 + b2, w2 * self.q12 + b2, w2 * self.q22 + b2
        product = safe_sqrt(q11) * safe_sqrt(q22)
        # product - (w2 old product + b2), rationalized: what the bias adds because the variances differ
        total = product + w2 * self.product + b2
        bend = w2 * b2 * self.radial_gap / jnp.where(total > 0, total, 1)
        turned = jnp.where(q12 < 0, w2 * self.complement + 2 * b2, w2 * (self.product + jnp.abs(self.q12)))
        return Pair(q11, q12, q22, bend + jnp.where(self.q12 < 0, turned, w2 * self.complement))


class Dual(NamedTuple):
    """What an activation does to a pair.

    Attributes:
        t: T = E[phi(u) phi(v)].
        tdot: Tdot = E[phi'(u) phi'(v)], with the derivative taken almost everywhere.
        complement: sqrt(E[phi(u)^2] E[phi(v)^2]) - |T| where a formula without cancellation exists, else None.
        error: for numerical integrals, an upper estimate of the relative error of `t`; None for
            closed forms.
    """

    t: jax.Array
    tdot: jax.Array
    complement: jax.Array | None = None
    error: jax.Array | None = None


def clamp(x: jax.Array) -> jax.Array:
    """max(x, 0) with derivative 1 at 0, for quantities that are negative by rounding only."""
    return jnp.where(x < 0, 0, x)
