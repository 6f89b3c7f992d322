"""Callables with kinks, by quadrature in polar coordinates.

With u = sqrt(q11) r cos(psi) and v = sqrt(q22) r cos(psi - theta), theta the angle of the pair, T is an
integral over the angle psi and over the radius r with weight r exp(-r^2/2) / (2 pi). The circle of each
radius is split where it meets a line u = kink or v = kink, the radius where such a line is first met
(there with a square-root change of variable) and where two of them cross, and each piece gets a
Gauss-Legendre rule.
"""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from widescape.duals.angle import cosine, safe_sqrt
from widescape.duals.pair import Dual, Pair

ORDER = 20
_CHUNK = 64  # pairs integrated at once
_PANELS = (2.0, 4.5)  # radii at which every radial integral is split
_RADIUS = 9.5  # exp(-r^2/2) is 3e-20 there
Elementwise = Callable[[jax.Array], jax.Array]


def polar(pair: Pair, phi: Elementwise, kinks: tuple[float, ...], order: int = ORDER) -> Dual:
    """The dual of an elementwise function that is smooth except at `kinks`.

    Cost: `polar_flops` per pair, thousands of evaluations of phi and of its derivative.
    `error` is the largest relative change of T on one column of pairs when the order is doubled.
    """
    t, tdot = _in_chunks(pair, phi, kinks, order)
    column = Pair(*(part[..., :1] if part.ndim else part for part in pair))
    finer, _ = _in_chunks(column, phi, kinks, 2 * order)
    size = jnp.max(jnp.abs(finer))
    error = jnp.max(jnp.abs(t[..., :1] - finer)) / jnp.where(size > 0, size, 1)
    return Dual(t, tdot, error=error)


def _in_chunks(pair: Pair, phi: Elementwise, kinks: tuple[float, ...], order: int) -> tuple[jax.Array, jax.Array]:
    """Integrals pair by pair, a few at a time: the many temporaries of a pair then stay in the cache."""
    shape = jnp.broadcast_shapes(*(part.shape for part in pair))
    count = prod(shape)
    chunks = -(-count // _CHUNK)
    padded = [
        jnp.pad(jnp.broadcast_to(part, shape).reshape(-1), (0, chunks * _CHUNK - count), mode="edge") for part in pair
    ]
    rows = Pair(*(part.reshape(chunks, _CHUNK) for part in padded))
    t, tdot = jax.lax.map(lambda chunk: _integrate(chunk, phi, kinks, order), rows)
    return t.reshape(-1)[:count].reshape(shape), tdot.reshape(-1)[:count].reshape(shape)


def polar_flops(kinks: tuple[float, ...], order: int = ORDER) -> int:
    """Floating-point operations per pair, at about 30 for an evaluation of phi and its derivative."""
    moving = sum(k != 0 for k in kinks)
    panels = 3 + 2 * moving + len(kinks) ** 2 - (len(kinks) - moving) ** 2
    arcs = 4 * len(kinks) + 1
    return panels * arcs * order**2 * 2 * 30


def _integrate(pair: Pair, phi: Elementwise, kinks: tuple[float, ...], order: int) -> tuple[jax.Array, jax.Array]:
    scale1, scale2, theta = safe_sqrt(pair.q11), safe_sqrt(pair.q22), pair.angle
    shape = jnp.broadcast_shapes(scale1.shape, scale2.shape, theta.shape)
    scale1, scale2, theta = (jnp.broadcast_to(a, shape) for a in (scale1, scale2, theta))
    nodes, weights = (jnp.asarray(a, theta.dtype) for a in _unit_rule(order))
    edges = _radial_edges(scale1, scale2, theta, kinks)

    def along_radius(
        sums: tuple[jax.Array, jax.Array], rule: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        node, weight = rule
        width = edges[1:] - edges[:-1]
        radius = edges[:-1] + width * node**2
        jacobian = 2 * node * weight * width * radius * jnp.exp(-(radius**2) / 2) / (2 * jnp.pi)
        ring = _around(phi, radius, scale1[None], scale2[None], theta[None], kinks, nodes, weights)
        return (
            sums[0] + jnp.sum(jacobian * ring[0], axis=0),
            sums[1] + jnp.sum(jacobian * ring[1], axis=0),
        ), None

    zero = jnp.zeros(shape, theta.dtype)
    sums, _ = jax.lax.scan(along_radius, (zero, zero), (nodes, weights))
    return sums


def _around(
    phi: Elementwise,
    radius: jax.Array,
    scale1: jax.Array,
    scale2: jax.Array,
    theta: jax.Array,
    kinks: tuple[float, ...],
    nodes: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Integrals over the circle of phi(u) phi(v) and of phi'(u) phi'(v)."""
    cuts = [jnp.zeros_like(radius), jnp.full_like(radius, 2 * jnp.pi)]
    for kink in kinks:
        for scale, offset in ((scale1, jnp.zeros_like(theta)), (scale2, theta)):
            half = _half_chord(kink, scale * radius)
            cuts += [jnp.mod(offset + half, 2 * jnp.pi), jnp.mod(offset - half, 2 * jnp.pi)]
    edges = jnp.sort(jnp.stack(cuts), axis=0)

    def along_arc(
        sums: tuple[jax.Array, jax.Array], rule: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        node, weight = rule
        width = edges[1:] - edges[:-1]
        psi = edges[:-1] + width * node
        reach1, reach2 = (scale1 * radius)[None], (scale2 * radius)[None]
        u, du = jax.jvp(phi, (reach1 * cosine(psi),), (jnp.ones_like(psi),))
        v, dv = jax.jvp(phi, (reach2 * cosine(psi - theta[None]),), (jnp.ones_like(psi),))
        return (
            sums[0] + jnp.sum(weight * width * u * v, axis=0),
            sums[1] + jnp.sum(weight * width * du * dv, axis=0),
        ), None

    zero = jnp.zeros_like(radius)
    sums, _ = jax.lax.scan(along_arc, (zero, zero), (nodes, weights))
    return sums


def _half_chord(kink: float, reach: jax.Array) -> jax.Array:
    """Half the angle over which `reach` cos(psi) exceeds `kink`; 0 where the circle does not meet the line."""
    meets = reach > abs(kink)
    return jnp.where(meets, jnp.arccos(kink / jnp.where(meets, reach, 2 * abs(kink) + 1)), 0)


def _radial_edges(scale1: jax.Array, scale2: jax.Array, theta: jax.Array, kinks: tuple[float, ...]) -> jax.Array:
    """Where the radial integrand is not smooth: lines first met, lines crossing; sorted, with both ends."""
    ends = (0.0, *_PANELS, _RADIUS)
    edges = [jnp.full_like(scale1, r) for r in ends]
    sine = jnp.sin(theta)
    for kink in (k for k in kinks if k != 0):
        edges += [_quotient(abs(kink), scale1), _quotient(abs(kink), scale2)]
    for kink1, kink2 in ((k, m) for k in kinks for m in kinks if k != 0 or m != 0):
        x, y = _quotient(kink1, scale1), _quotient(kink2, scale2)
        edges.append(_quotient(safe_sqrt(x**2 + y**2 - 2 * x * y * jnp.cos(theta)), sine))
    return jnp.sort(jnp.clip(jnp.stack(edges), 0, _RADIUS), axis=0)


def _quotient(numerator: jax.Array | float, denominator: jax.Array) -> jax.Array:
    """Numerator / denominator; far outside of the disk where the denominator vanishes."""
    live = denominator > 0
    return jnp.where(live, numerator / jnp.where(live, denominator, 1), 2 * _RADIUS)


def _unit_rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2
