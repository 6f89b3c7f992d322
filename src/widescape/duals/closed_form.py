"""Activations whose Gaussian integrals have closed forms (cho2009kernel, williams1996computing, lee2020finite).

Each function takes a `Pair` and the activation's scalars and returns a `Dual`. Scalars may be traced,
so derivatives with respect to them exist.
"""

import jax
import jax.numpy as jnp

from widescape.duals.angle import angle_and_lune, repeated_arc
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


def rectified_power(pair: Pair, degree: int) -> Dual:
    """phi(x) = max(x, 0)^n for n = 1, 2, 3, and the step 1{x >= 0} for n = 0: the arc-cosine kernels of cho2009kernel.

    With theta the angle of the pair in [0, pi], P = sqrt(q11 q22) and J_n as in their equations 4 to 7:
    T_n = P^n J_n(theta) / (2 pi), where J_0 = pi - theta, J_1 = sin(theta) + (pi - theta) cos(theta), ..., and
    Tdot_n = n^2 T_(n-1). Beyond a right angle J_n(theta) = R_n, a function of the acute angle pi - theta that vanishes
    as its power 2 n + 1; below it J_n(theta) = pi p_n(cos theta) - (-1)^n R_n with p_n = 1, c, 1 + 2 c^2,
    9 c + 6 c^3. `repeated_arc` has R_n without cancellation. The step is 1 at 0, and of a constant variable.
    """
    if degree == 1:
        return abrelu(pair, 0.0, 1.0)
    if degree == 0:
        return _step(pair)
    rest, double = _arc_part(pair, degree), degree == 2
    product, q12, minus = pair.product, pair.q12, pair.minus
    squared = pair.q11 * pair.q22
    # pi p_n(cos theta) P^n / (2 pi), and by how much it is below its value at theta = 0
    main = (squared + 2 * q12**2) / 2 if double else q12 * (9 * squared + 6 * q12**2) / 2
    fall = pair.determinant if double else minus * (15 * squared + 6 * q12 * product + 6 * q12**2) / 2
    sign = 1 if double else -1
    obtuse = q12 < 0
    top = 1.5 * squared if double else 7.5 * squared * product
    t = jnp.where(obtuse, rest, main - sign * rest)
    return Dual(t, degree**2 * rectified_power(pair, degree - 1).t, jnp.where(obtuse, top - rest, fall + sign * rest))


def _arc_part(pair: Pair, degree: int) -> jax.Array:
    """P^n R_n / (2 pi) at the acute angle between the lines of u and v."""
    return pair.product**degree * repeated_arc(pair.relative_complement, degree) / (2 * jnp.pi)


def _step(pair: Pair) -> Dual:
    """The step: (pi - theta) / (2 pi), and where variances vanish the half or whole that the value 1 at 0 gives."""
    arc = pair.acute_angle / (2 * jnp.pi)
    zeros = (pair.q11 == 0).astype(arc.dtype) + (pair.q22 == 0)
    t = jnp.where(zeros > 0, zeros / 2, jnp.where(pair.q12 < 0, arc, 0.5 - arc))
    one_zero = 0.5**0.5 - 0.5
    complement = jnp.where(zeros > 0, jnp.where(zeros > 1, 0, one_zero), jnp.where(pair.q12 < 0, 0.5 - arc, arc))
    return Dual(t, jnp.zeros_like(t), complement)
