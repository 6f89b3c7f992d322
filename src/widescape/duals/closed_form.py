"""Activations whose Gaussian integrals have closed forms (cho2009kernel, williams1996computing, lee2020finite).

Each function takes a `Pair` and the activation's scalars and returns a `Dual`. Scalars may be traced,
so derivatives with respect to them exist.
"""

import jax
import jax.numpy as jnp

from widescape.duals.angle import angle_and_lune
from widescape.duals.pair import Dual, Pair


def abrelu(pair: Pair, a: jax.Array | float, b: jax.Array | float) -> Dual:
    """phi(x) = a min(x, 0) + b max(x, 0): ReLU (0, 1), leaky ReLU (slope, 1), absolute value (-1, 1).

    phi is (b - a)/2 |x| + (a + b)/2 x, an even and an odd part that do not mix. With theta the acute angle
    between the lines of u and v and P = sqrt(q11 q22), the even part has the complement
    P - E[|u||v|] = (P - |q12|) - (2/pi) P (sin(theta) - theta cos(theta)), which is free of cancellation, and
    T = ((b-a)/2)^2 E[|u||v|] + ((a+b)/2)^2 q12.
    """
    even, odd = ((b - a) / 2) ** 2, ((a + b) / 2) ** 2
    theta, lune = angle_and_lune(pair.relative_complement)
    product = pair.product
    even_complement = pair.complement - (2 / jnp.pi) * product * lune
    folded = product - even_complement
    slope = jnp.where(pair.q12 < 0, -1, 1) * (1 - (2 / jnp.pi) * theta)
    t = even * folded + odd * pair.q12
    minus = even * even_complement + odd * pair.minus
    plus = even * (product + folded) + odd * pair.plus
    return Dual(t, even * slope + odd, jnp.where(t < 0, plus, minus))


def erf(pair: Pair, a: jax.Array | float, b: jax.Array | float, c: jax.Array | float) -> Dual:
    """An error function with scales a, b and shift c.

    With q scaled by b^2 and D^2 = (1 + 2 q11)(1 + 2 q22) - 4 q12^2:
    T = a^2 (2/pi) atan2(2 q12, D) + c^2 and Tdot = 4 a^2 b^2 / (pi D).
    """
    b2 = b**2
    d = jnp.sqrt(1 + 2 * b2 * (pair.q11 + pair.q22) + 4 * b2**2 * pair.determinant)
    t = a**2 * (2 / jnp.pi) * jnp.arctan2(2 * b2 * pair.q12, d) + c**2
    return Dual(t, 4 * a**2 * b2 / (jnp.pi * d))


def gelu(pair: Pair) -> Dual:
    """phi(x) = x Phi(x) with Phi the standard normal distribution function.

    With A = (1 + q11)(1 + q22), D^2 = A - q12^2, tau = atan2(q12, D):
    T = q12/4 + ((q12^2 + q11 q22 D^2)/(A D) + q12 tau) / (2 pi).
    """
    q11, q12, q22, _ = pair
    a = (1 + q11) * (1 + q22)
    d2 = 1 + q11 + q22 + pair.determinant
    d = jnp.sqrt(d2)
    tau = jnp.arctan2(q12, d)
    product = q11 * q22
    t = q12 / 4 + ((q12**2 + product * d2) / (a * d) + q12 * tau) / (2 * jnp.pi)
    tdot = 1 / 4 + (tau + (q12 / d) * (1 / d2 + (1 - product) / a + 1)) / (2 * jnp.pi)
    return Dual(t, tdot)


def sine(pair: Pair, a: jax.Array | float, b: jax.Array | float, c: jax.Array | float) -> Dual:
    """phi(x) = a sin(b x + c).

    T = (a^2/2) (exp(-b^2 E[(u-v)^2]/2) - cos(2c) exp(-b^2 E[(u+v)^2]/2)).
    """
    near, far = jnp.exp(-(b**2) * pair.gap / 2), jnp.exp(-(b**2) * pair.opposite_gap / 2)
    exponent = 2 * b**2 * pair.q12  # near = far exp(exponent); their difference cancels where it is small
    small = jnp.abs(exponent) < 1
    difference = jnp.where(small, far * jnp.expm1(jnp.where(small, exponent, 0)), near - far)
    half, phase = a**2 / 2, jnp.asarray(c)
    t = half * (difference + 2 * jnp.sin(phase) ** 2 * far)
    return Dual(t, half * b**2 * (near + jnp.cos(2 * phase) * far))


def rbf(pair: Pair, gamma: jax.Array | float) -> Dual:
    """phi(x) = sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose dual is the RBF kernel exp(-gamma E[(u-v)^2])."""
    t = jnp.exp(-gamma * pair.gap)
    return Dual(t, 2 * gamma * t, -jnp.expm1(-gamma * pair.gap))


def exponential(pair: Pair, a: jax.Array | float, b: jax.Array | float) -> Dual:
    """phi(x) = a exp(b x): T = a^2 exp(b^2 ((q11 + q22)/2 + q12)) and Tdot = b^2 T."""
    t = a**2 * jnp.exp(b**2 * ((pair.q11 + pair.q22) / 2 + pair.q12))
    return Dual(t, b**2 * t)


def gaussian(pair: Pair, a: jax.Array | float, b: jax.Array | float) -> Dual:
    """A Gaussian bump, phi(x) = a exp(b x^2) with b < 0.

    With D^2 = (1 - 2 b q11)(1 - 2 b q22) - 4 b^2 q12^2:
    T = a^2 / D and Tdot = 4 a^2 b^2 q12 / D^3.
    """
    d = jnp.sqrt(1 - 2 * b * (pair.q11 + pair.q22) + 4 * b**2 * pair.determinant)
    return Dual(a**2 / d, 4 * a**2 * b**2 * pair.q12 / d**3)


def sign(pair: Pair) -> Dual:
    """The sign: T = 1 - 2 theta / pi with theta the angle of the pair; the derivative is 0 almost everywhere."""
    theta = pair.acute_angle
    live = (pair.q11 > 0) & (pair.q22 > 0)
    size = jnp.where(live, 1 - (2 / jnp.pi) * theta, 0)
    t = jnp.where(pair.q12 < 0, -size, size)
    return Dual(t, jnp.zeros_like(t), jnp.where(live, (2 / jnp.pi) * theta, 0))
