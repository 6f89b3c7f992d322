"""Polynomials and smooth callables, through their Hermite coefficients.

With h_k the orthonormal Hermite polynomials of the standard normal distribution and
r_k(q) = E[phi(sqrt(q) Z) h_k(Z)], Mehler's formula gives T = sum_k r_k(q11) r_k(q22) c^k with c the
cosine of the pair. The coefficients cost one one-dimensional integral per example; a pair costs one
multiply-add per term; and a truncated sum is still a positive semidefinite kernel. The weight that
the missing terms would carry, E[phi^2] - sum_k r_k^2, bounds the error of T at every pair.
"""

from collections.abc import Callable
from functools import lru_cache
from math import factorial, sqrt

import jax
import jax.numpy as jnp
import numpy as np

from widescape.duals.angle import safe_sqrt
from widescape.duals.pair import Dual, Pair

_REACH = 14.0  # exp(-z^2/4) is below rounding beyond
_STEP = 0.05  # the trapezoidal rule converges geometrically for analytic functions; this step resolves 300 terms
MAX_TERMS = 300
Elementwise = Callable[[jax.Array], jax.Array]


def hermite_coefficients(phi: Elementwise, q: jax.Array, terms: int) -> tuple[jax.Array, jax.Array]:
    """r_k(q) = E[phi(sqrt(q) Z) h_k(Z)] for k < `terms`, and E[phi(sqrt(q) Z)^2].

    Args:
        phi: an elementwise function, smooth on the scale 0.05 sqrt(q).
        q: variances, any shape.
        terms: how many coefficients, at most 300.

    Returns:
        coefficients of shape (terms, *q.shape), and second moments of the shape of `q`.
    """
    nodes, weighted = _hermite_functions(terms)
    points = jnp.asarray(nodes, q.dtype).reshape((1,) * q.ndim + (-1,))
    values = phi(safe_sqrt(q)[..., None] * points)
    coefficients = jnp.matmul(values, weighted.astype(q.dtype).T, precision="highest")
    density = jnp.asarray(_density(nodes), q.dtype)
    return jnp.moveaxis(coefficients, -1, 0), jnp.matmul(values**2, density, precision="highest")


def hermite_series(pair: Pair, phi: Elementwise, terms: int) -> Dual:
    """The dual of a smooth elementwise function, by a Hermite series of `terms` terms.

    Cost: 1,122 evaluations of phi and of phi' per example, 2 `terms` multiply-adds per pair. `error` is the larger of
    the weight of the missing terms relative to the second moment, an upper bound of the truncation error, and of
    what changes in the second moment when the nodes shift by half a step; for phi and for phi'.
    """
    slope = _derivative(phi)
    cosine = pair.cosine
    t, error_t = _mehler(phi, pair, cosine, terms)
    tdot, error_tdot = _mehler(slope, pair, cosine, terms)
    return Dual(t, tdot, error=jnp.maximum(error_t, error_tdot))


def polynomial(pair: Pair, coefficients: tuple[jax.Array | float, ...]) -> Dual:
    """phi(x) = sum_j coefficients[j] x^j, exactly: T = sum_l p_l(q11) p_l(q22) q12^l.

    p_l(q) q^(l/2) is the l-th Hermite coefficient of phi(sqrt(q) .); p_l is a polynomial in q, so
    nothing is divided and zero variances need no care.
    """
    degree = len(coefficients) - 1
    t = tdot = jnp.zeros_like(pair.q12)
    for order in range(degree, -1, -1):
        product = _hermite_part(coefficients, order, pair.q11) * _hermite_part(coefficients, order, pair.q22)
        tdot = tdot * pair.q12 + t
        t = t * pair.q12 + product
    return Dual(t, tdot)


def _hermite_part(coefficients: tuple[jax.Array | float, ...], order: int, q: jax.Array) -> jax.Array:
    total = jnp.zeros_like(q)
    for power in range(order, len(coefficients), 2):
        half = (power - order) // 2
        moment = factorial(power) / (2**half * factorial(half) * sqrt(factorial(order)))
        total = total + coefficients[power] * moment * q**half
    return total


def _mehler(phi: Elementwise, pair: Pair, cosine: jax.Array, terms: int) -> tuple[jax.Array, jax.Array]:
    r1, total1 = hermite_coefficients(phi, pair.q11, terms)
    r2, total2 = hermite_coefficients(phi, pair.q22, terms)

    def horner(value: jax.Array, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return value * cosine + rows[0] * rows[1], None

    start = jnp.zeros(jnp.broadcast_shapes(cosine.shape, r1.shape[1:], r2.shape[1:]), cosine.dtype)
    value, _ = jax.lax.scan(horner, start, (r1, r2), reverse=True, unroll=min(16, terms))
    errors = [_missing(r, total) for r, total in ((r1, total1), (r2, total2))]
    errors += [_aliased(phi, q, total) for q, total in ((pair.q11, total1), (pair.q22, total2))]
    return value, jnp.max(jnp.stack(errors))


def _aliased(phi: Elementwise, q: jax.Array, total: jax.Array) -> jax.Array:
    """The largest relative change of E[phi^2] when the nodes shift by half a step."""
    nodes = _hermite_functions(2)[0][:-1] + _STEP / 2
    points = jnp.asarray(nodes, q.dtype).reshape((1,) * q.ndim + (-1,))
    values = phi(safe_sqrt(q)[..., None] * points)
    shifted = jnp.matmul(values**2, jnp.asarray(_density(nodes), q.dtype), precision="highest")
    return jnp.max(jnp.where(total > 0, jnp.abs(shifted - total) / jnp.where(total > 0, total, 1), 0))


def _missing(coefficients: jax.Array, total: jax.Array) -> jax.Array:
    """The largest share of E[phi^2] that the coefficients leave out."""
    rest = total - jnp.sum(coefficients**2, axis=0)
    return jnp.max(jnp.where(total > 0, rest / jnp.where(total > 0, total, 1), 0))


def _derivative(phi: Elementwise) -> Elementwise:
    def slope(x: jax.Array) -> jax.Array:
        return jax.jvp(phi, (x,), (jnp.ones_like(x),))[1]

    return slope


def _density(nodes: np.ndarray) -> np.ndarray:
    return np.exp(-(nodes**2) / 2) * (_STEP / np.sqrt(2 * np.pi))


@lru_cache(maxsize=8)
def _hermite_functions(terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoidal nodes, and h_k times the normal weight of each node, for k < `terms`."""
    half = round(_REACH / _STEP)
    nodes = np.arange(-half, half + 1) * _STEP
    root = np.sqrt(_density(nodes))
    functions = np.empty((terms, nodes.size))
    previous, current = np.zeros_like(nodes), root
    for k in range(terms):  # sqrt(k+1) h_{k+1} = z h_k - sqrt(k) h_{k-1}, on the square root of the weight
        functions[k] = current
        previous, current = current, (nodes * current - np.sqrt(k) * previous) / np.sqrt(k + 1)
    return nodes, functions * root
