"""The infinite-width limit on images, slow and obvious: covariances of all pairs of positions, by explicit loops.

Independent of the library: a network is read as a description (names and fields of its layers) and nothing of it is
called. Both batches are one here, so variances are read from the diagonal and nothing is tracked beside the
covariance. With `digits`, the arithmetic is that of mpmath, for images whose patches coincide.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np

Array = Any
Window = list[int | None]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Covariance and tangent kernel per channel of all examples at all positions.

    Attributes:
        k: (n, n, S, S), positions numbered row by row.
        theta: the same for the tangent kernel.
        shape: positions along each axis; () for vectors.
        channels: of the finite network.
        base: channels at base width, for the improved standard parameterization; None without.
        lib: `math`, or mpmath's context.
    """

    k: Array
    theta: Array
    shape: tuple[int, ...]
    channels: int
    base: int | None
    lib: Any

    def also(self, **changes: Any) -> "Moments":
        return dataclasses.replace(self, **changes)


def kernels(net: Any, x1: Array, x2: Array | None = None, digits: int | None = None) -> tuple[Array, Array]:
    """NNGP and tangent kernel of a network that ends in vectors or in positions, whose mean is then taken."""
    with mpmath.workdps(digits or 15):
        end = flatten(limit(net, start(x1 if x2 is None else np.concatenate([x1, x2]), digits)))
        n1 = len(x1)
        rows, columns = slice(n1), slice(n1) if x2 is None else slice(n1, None)
        return tuple(np.array(m[rows, columns, 0, 0], dtype=np.float64) for m in (end.k, end.theta))


def start(x: Array, digits: int | None = None) -> Moments:
    """Products of pixels, summed over channels and divided by their number."""
    n, *shape, channels = np.shape(x)
    flat = np.asarray(x, dtype=np.float64).reshape(n, -1, channels)
    if digits is not None:
        flat = np.frompyfunc(mpmath.mpf, 1, 1)(flat)
    k = 0 * np.multiply.outer(flat[:, :, 0], flat[:, :, 0]).transpose(0, 2, 1, 3)
    for c in range(channels):
        k = k + flat[:, None, :, None, c] * flat[None, :, None, :, c]
    return Moments(k / channels, 0 * k, tuple(shape), channels, channels, math if digits is None else mpmath.mp)


def limit(layer: Any, m: Any, trains: bool = True) -> Any:
    """What a layer does to moments, or to a list of those of branches."""
    name = type(layer).__name__
    if name in ("Sequential",):
        for inner in layer.layers:
            m = limit(inner, m, trains)
        return m
    if name == "Repeat":
        for _ in range(layer.n):
            m = limit(layer.layer, m, trains)
        return m
    if name == "Frozen":
        return limit(layer.layer, m, trains=False)
    if name in ("Parallel", "Sum", "Residual", "Prod", "Concat"):
        return branches(layer, m, trains)
    if name in ("Conv", "LocalConv", "Dense"):
        return affine(layer, m, trains)
    if name in ("AvgPool", "SumPool", "GlobalAvgPool", "GlobalSumPool"):
        return pool(layer, m)
    rest = {"Flatten": flatten, "Identity": lambda own: own, "Relu": relu}
    if name in rest:
        return rest[name](m)
    if name == "Erf":
        return erf(m, layer.a, layer.b, layer.c)
    if name == "LayerNorm":
        return layer_norm(m, layer.over, layer.epsilon)
    raise NotImplementedError(name)


# Windows.


def along_one_axis(length: int, size: int, stride: int, padding: str) -> list[Window]:
    """The positions in each window; None beyond the edges."""
    if padding == "VALID":
        return [[o * stride + b for b in range(size)] for o in range((length - size) // stride + 1)]
    count = math.ceil(length / stride)
    low = max((count - 1) * stride + size - length, 0) // 2
    windows: list[Window] = []
    for o in range(count):
        places = [o * stride + b - low for b in range(size)]
        wraps = padding == "CIRCULAR"
        windows.append([i % length if wraps else i if 0 <= i < length else None for i in places])
    return windows


def windows_of(
    shape: Sequence[int], size: Sequence[int], strides: Sequence[int] | None, padding: str
) -> tuple[tuple[int, ...], list[Window]]:
    """Positions of windows, and the numbers of the positions in each of them, offset by offset."""
    steps = strides or (1,) * len(size)
    axes = [along_one_axis(n, f, s, padding) for n, f, s in zip(shape, size, steps, strict=True)]
    found = []
    for chosen in itertools.product(*axes):
        window: Window = []
        for place in itertools.product(*chosen):
            number: int | None = 0
            for n, i in zip(shape, place, strict=True):
                number = None if i is None or number is None else number * n + i
            window.append(number)
        found.append(window)
    return tuple(len(own) for own in axes), found


# Layers.


def affine(layer: Any, m: Moments, trains: bool) -> Moments:
    name = type(layer).__name__
    if name == "Dense":
        assert m.shape == ()
        shape, windows, size = (), [[0]], 1
    else:
        shape, windows = windows_of(m.shape, layer.filter, layer.strides, layer.padding)
        size = math.prod(layer.filter)

    def averaged(a: Array) -> Array:
        total = np.zeros((*a.shape[:2], len(windows), len(windows)), dtype=a.dtype) + 0 * a[0, 0, 0, 0]
        for p, q in itertools.product(range(len(windows)), repeat=2):
            for i, j in zip(windows[p], windows[q], strict=True):
                if i is not None and j is not None:
                    total[:, :, p, q] = total[:, :, p, q] + a[:, :, i, j]
        return total / size

    together = np.ones((len(windows), len(windows)))
    apart = np.eye(len(windows)) if name == "LocalConv" else together
    mean, theta = averaged(m.k), averaged(m.theta)
    k = (layer.w_std**2 * mean + (layer.b_std or 0.0) ** 2) * apart
    own = k
    if layer.param == "standard":
        own = 0 * k
        if layer.base_width is not None:
            own = (m.base * size * mean + (layer.b_std is not None)) * apart
    theta = layer.w_std**2 * theta * apart + (own if trains else 0 * own)
    return m.also(k=k, theta=theta, shape=shape, channels=layer.width, base=layer.base_width)


def elementwise(m: Moments, dual: Callable[[Any, Any, Any, bool], tuple[Any, Any]]) -> Moments:
    """Applies E[f(u) f(v)] and E[f'(u) f'(v)] as functions of two variances and a covariance, pair by pair."""
    k, theta = np.empty_like(m.k), np.empty_like(m.theta)
    for at in np.ndindex(m.k.shape):
        n, other, s, t = at
        same = (n, s) == (other, t)
        k[at], slope = dual(m.k[n, n, s, s], m.k[at], m.k[other, other, t, t], same)
        theta[at] = m.theta[at] * slope
    return m.also(k=k, theta=theta)


def relu(m: Moments) -> Moments:
    lib = m.lib

    def dual(q11: Any, q12: Any, q22: Any, same: bool) -> tuple[Any, Any]:
        size = lib.sqrt(q11 * q22)
        cosine = q12 / size if size else 0  # what is zero is at a right angle to everything
        angle = 0 if same and size else lib.acos(max(-1, min(1, cosine)))
        slope = (lib.pi - angle) / (2 * lib.pi)
        return size * lib.sin(angle) / (2 * lib.pi) + slope * q12, slope

    return elementwise(m, dual)


def erf(m: Moments, a: float, b: float, c: float) -> Moments:
    lib = m.lib

    def dual(q11: Any, q12: Any, q22: Any, same: bool) -> tuple[Any, Any]:
        one, both, two = (1 + 2 * b**2 * q11), 2 * b**2 * q12, (1 + 2 * b**2 * q22)
        slope = a**2 * b**2 * 4 / (lib.pi * lib.sqrt(one * two - both**2))
        return a**2 * 2 / lib.pi * lib.asin(both / lib.sqrt(one * two)) + c**2, slope

    return elementwise(m, dual)


def flatten(m: Moments) -> Moments:
    positions = m.k.shape[-1]
    k, theta = (sum(a[:, :, s, s] for s in range(positions))[:, :, None, None] / positions for a in (m.k, m.theta))
    base = None if m.base is None else m.base * positions
    return m.also(k=k, theta=theta, shape=(), channels=m.channels * positions, base=base)


def pool(layer: Any, m: Moments) -> Moments:
    name = type(layer).__name__
    if name.startswith("Global"):
        shape, windows = (), [list(range(m.k.shape[-1]))]
    else:
        strides = layer.window if layer.strides is None else layer.strides
        shape, windows = windows_of(m.shape, layer.window, strides, layer.padding)
    weights = []
    for window in windows:
        count = len(window)
        if getattr(layer, "normalize_edges", False):
            count = sum(i is not None for i in window)
        weights.append(1.0 if "Sum" in name else 1.0 / count)

    def pooled(a: Array) -> Array:
        total = np.zeros((*a.shape[:2], len(windows), len(windows)), dtype=a.dtype) + 0 * a[0, 0, 0, 0]
        for p, q in itertools.product(range(len(windows)), repeat=2):
            for i, j in itertools.product(windows[p], windows[q]):
                if i is not None and j is not None:
                    total[:, :, p, q] = total[:, :, p, q] + a[:, :, i, j] * weights[p] * weights[q]
        return total

    return m.also(k=pooled(m.k), theta=pooled(m.theta), shape=shape)


def layer_norm(m: Moments, over: str, epsilon: float) -> Moments:
    n, positions = m.k.shape[0], m.k.shape[-1]
    k, theta = np.empty_like(m.k), np.empty_like(m.theta)

    def size(example: int, s: int) -> Any:
        if over == "channels":
            return m.k[example, example, s, s] + epsilon
        return sum(m.k[example, example, t, t] for t in range(positions)) / positions + epsilon

    sizes = [[size(example, s) for s in range(positions)] for example in range(n)]
    for at in np.ndindex(m.k.shape):
        factor = 1 / m.lib.sqrt(sizes[at[0]][at[2]] * sizes[at[1]][at[3]])
        k[at], theta[at] = m.k[at] * factor, m.theta[at] * factor
    return m.also(k=k, theta=theta)


def branches(layer: Any, m: Any, trains: bool) -> Any:
    name = type(layer).__name__
    parts = m
    if layer.branches:
        inputs = m if isinstance(m, list) else [m] * len(layer.branches)
        parts = [limit(own, given, trains) for own, given in zip(layer.branches, inputs, strict=True)]
    if name == "Parallel":
        return parts
    first = parts[0]
    if name in ("Sum", "Residual"):
        bases = {part.base for part in parts}
        base = bases.pop() if len(bases) == 1 else None
        return first.also(k=sum(p.k for p in parts), theta=sum(p.theta for p in parts), base=base)
    if name == "Prod":
        k, theta = first.k, first.theta
        for part in parts[1:]:
            k, theta = k * part.k, theta * part.k + k * part.theta
        return first.also(k=k, theta=theta)
    channels = sum(p.channels for p in parts)
    k = sum(p.k * p.channels for p in parts) / channels
    theta = sum(p.theta * p.channels for p in parts) / channels
    bases = [p.base for p in parts]
    return first.also(k=k, theta=theta, channels=channels, base=None if None in bases else sum(bases))
