"""The start of a limit over positions: moments of all pairs of pixels that a layout asks for."""

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.covariance import Covariance, InputBlock, Layout
from widescape.arch.spec import Signal
from widescape.duals.angle import safe_sqrt

_UNROLLED = 8  # channels up to which loops over them are written out


def image_block(
    x1: jax.Array, x2: jax.Array, shifts: tuple[jax.Array, ...], layout: Layout, signal: Signal
) -> InputBlock:
    """Moments <x_s, x'_s'> / c of pixels, their complements from differences of the normalized pixels.

    Args:
        x1: examples (n1, *S, c).
        x2: examples (n2, *S, c); those of `x1` once more for pairs of each with itself.
        shifts: for planes, the shift of each plane along each axis.
        layout: which pairs.
        signal: of the input.
    """
    first, second = (jnp.moveaxis(x, 0, layout.axes) for x in (x1, x2))
    if layout.kind == "planes":
        second = shifted(second, shifts)
    channels = signal.shape[-1]
    var1, var2 = (jnp.sum(x**2, axis=-1) / channels for x in (first, second))
    empty = Covariance.of_input(InputBlock(jnp.zeros(()), jnp.zeros(()), var1, var2), signal, ntk=False, layout=layout)
    unit1, unit2 = _unit(first, var1), _unit(second, var2)

    def factors(channel: jax.Array | int, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        one, two = (jax.lax.dynamic_index_in_dim(x, channel, -1, keepdims=False) for x in (a, b))
        return empty.first(one), empty.second(two)

    nngp = _over_channels(channels, lambda channel: jnp.multiply(*factors(channel, first, second))) / channels
    sign = jnp.where(nngp < 0, -1.0, 1.0).astype(nngp.dtype)

    def difference(channel: jax.Array | int) -> jax.Array:
        u, v = factors(channel, unit1, unit2)
        return (u - sign * v) ** 2

    size = empty.first(safe_sqrt(var1)) * empty.second(safe_sqrt(var2))
    complement = size * _over_channels(channels, difference) / 2
    return InputBlock(nngp, complement, var1, var2, shifts=shifts)


def shifted(x: jax.Array, shifts: tuple[jax.Array, ...]) -> jax.Array:
    """Positions (*S, ...) shifted by each of D shifts, wrapping around: (*S, D, ...)."""
    indices = []
    for axis, shift in enumerate(shifts):
        at = jnp.arange(x.shape[axis])[:, None] + shift[None, :]
        indices.append(jnp.expand_dims(at % x.shape[axis], tuple(i for i in range(len(shifts)) if i != axis)))
    return x[tuple(indices)]


def all_shifts(lengths: tuple[int, ...], linear: tuple[bool, ...]) -> np.ndarray:
    """All shifts between positions of an image of this size (D, axes): modulo its size, or with a sign."""
    ranges = [range(1 - n, n) if signed else range(n) for n, signed in zip(lengths, linear, strict=True)]
    return np.array(list(product(*ranges)), np.int32)


def _over_channels(channels: int, term: Callable[[jax.Array | int], jax.Array]) -> jax.Array:
    total = term(0)
    if channels <= _UNROLLED:
        for channel in range(1, channels):
            total = total + term(channel)
        return total
    summed: jax.Array = jax.lax.fori_loop(1, channels, lambda channel, so_far: so_far + term(channel), total)
    return summed


def _unit(x: jax.Array, var: jax.Array) -> jax.Array:
    norm = safe_sqrt(var * x.shape[-1])
    return x / jnp.where(norm > 0, norm, 1)[..., None]
