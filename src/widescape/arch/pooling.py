"""Layers that bring positions together: averages and sums over windows or over all positions, and the maximum."""

from abc import abstractmethod
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance, Level
from widescape.arch.fused_program import Pool, Step
from widescape.arch.layouts import no_positions
from widescape.arch.spec import Signal
from widescape.arch.windows import AxisWindows, Padding, Windowed, two_axes
from widescape.core.errors import NotTractableError, ShapeError


@dataclass(frozen=True)
class Flatten(Layer):
    """Makes one vector of each example: (n, *S, c) to (n, features).

    In the limit the mean over equal positions: the weights that follow are independent between positions.
    """

    pair_flops = 8
    ends_program = "diagonal"

    def out(self, signal: Signal) -> Signal:
        positions = signal.size // signal.shape[-1]
        return Signal((signal.size,), None if signal.base is None else signal.base * positions)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return h.reshape(h.shape[0], -1)

    def carried(self, after: Level, signal: Signal) -> Level:
        return Level.FLAT

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return () if no_positions(signal) else None

    def limit(self, cov: Covariance) -> Covariance:
        # Features of several positions have several covariances: a nonlinearity needs them one by one, before.
        gaussian = cov.gaussian and prod(cov.signal.shape[:-1]) == 1
        return cov.flattened().replace(signal=self.out(cov.signal), gaussian=gaussian)


class _GlobalPool(Layer):
    """Base of the pools over all positions."""

    alone = True
    mixes_positions = True
    pair_flops = 2

    @abstractmethod
    def _scale(self, count: int) -> float:
        """The factor before the sum over `count` positions."""

    def out(self, signal: Signal) -> Signal:
        if no_positions(signal):
            raise ShapeError(f"{type(self).__name__} needs positions, but vectors of {signal.size} features reach it.")
        return Signal((signal.shape[-1],), signal.base)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return h.sum(axis=tuple(range(1, h.ndim - 1))) * self._scale(prod(h.shape[1:-1]))

    def carried(self, after: Level, signal: Signal) -> Level:
        return Level.FULL

    def limit(self, cov: Covariance) -> Covariance:
        nngp, ntk = self.sums(cov)
        return self.from_sums(cov, nngp, ntk)

    def sums(self, cov: Covariance, weights: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Sums of both kernels over the pairs of positions held; `weights` (D,) count planes."""
        kind, axes, linear, _ = cov.layout
        over = tuple(range(2 * axes if kind == "full" else axes + 1))
        counted: jax.Array | None = None
        if kind == "planes":
            counted = _counted(cov, linear, weights)

        def total(a: jax.Array) -> jax.Array:
            return jnp.sum(a if counted is None else jnp.where(counted > 0, a * counted, 0), axis=over)

        return total(cov.nngp), None if cov.ntk is None else total(cov.ntk)

    def from_sums(self, cov: Covariance, nngp: jax.Array, ntk: jax.Array | None) -> Covariance:
        """The state after the pool, from these sums over all pairs of positions."""
        scale2 = self._scale(prod(cov.signal.shape[:-1])) ** 2
        signal = self.out(cov.signal)
        return cov.pooled(scale2 * nngp, None if ntk is None else scale2 * ntk, signal, "flat")


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean over all positions: (n, *S, c) to (n, c)."""

    ends_program = "mean"

    def _scale(self, count: int) -> float:
        return 1 / count


@dataclass(frozen=True)
class GlobalSumPool(_GlobalPool):
    """The sum over all positions: (n, *S, c) to (n, c)."""

    def _scale(self, count: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _Pool(Windowed, Layer):
    """Base of the pools over windows."""

    sized_by = "window"
    apart = True

    window: tuple[int, ...] = (2, 2)
    strides: tuple[int, ...] | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_windows()

    def out(self, signal: Signal) -> Signal:
        return Signal((*self.positions_after(signal), signal.shape[-1]), signal.base)


class _LinearPool(_Pool):
    """Base of sums over windows with fixed weights."""

    mixes_positions = True
    pair_flops = 12

    @abstractmethod
    def _weights(self, own: AxisWindows) -> np.ndarray:
        """The factor of each window along an axis."""

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        for axis, own in enumerate(self.windows(signal)):
            h = _along(own.total(h, axis + 1), self._weights(own), axis + 1)
        return h

    def carried(self, after: Level, signal: Signal) -> Level:
        return Level.FULL

    def limit(self, cov: Covariance) -> Covariance:
        axes, windows = cov.layout.axes, self.windows(cov.signal)

        def pool(a: jax.Array) -> jax.Array:
            for axis, own in enumerate(windows):
                for at in (axis, axis + axes):
                    a = _along(own.total(a, at), self._weights(own), at)
                    a = jax.lax.optimization_barrier(a)
            return a

        ntk = None if cov.ntk is None else pool(cov.ntk)
        return cov.pooled(pool(cov.nngp), ntk, self.out(cov.signal), "full")

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        apart = self.steps_along == self.window and self.padding == "VALID"
        divides = all(n % k == 0 for n, k in zip(signal.shape[:-1], self.window, strict=True))
        if len(self.window) > 2 or not (apart and divides):
            return None
        scale = 1.0
        for own in self.windows(signal):
            scale *= float(self._weights(own)[0]) * own.size
        return (Pool(two_axes(self.window), scale**2),)


@dataclass(frozen=True)
class AvgPool(_LinearPool):
    """Means over windows of positions: (n, *S, c) to (n, *S', c).

    Args:
        window: positions of a window along each axis.
        strides: steps of the window; None for its own size, so that windows do not overlap.
        padding: ``"VALID"``, ``"SAME"`` or ``"CIRCULAR"``, as for `Conv`.
        normalize_edges: with SAME, divide by the positions that a window has inside of the image, instead of by the
            size of the window.
    """

    normalize_edges: bool = False

    def _weights(self, own: AxisWindows) -> np.ndarray:
        return 1 / (own.covered if self.normalize_edges else np.full(own.num_windows, own.size))


@dataclass(frozen=True)
class SumPool(_LinearPool):
    """Sums over windows of positions, with the arguments of `AvgPool`."""

    def _weights(self, own: AxisWindows) -> np.ndarray:
        return np.ones(own.num_windows)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Maxima over windows of positions, with the arguments of `AvgPool`; for finite networks only.

    The maximum of Gaussian variables is not Gaussian and has no closed form over images.
    """

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        for axis, own in enumerate(self.windows(signal)):
            lowest = -jnp.inf
            edges = [(0, 0)] * h.ndim
            edges[axis + 1] = (own.low, own.high)
            padded = jnp.pad(h, edges, mode="wrap") if own.wrap else jnp.pad(h, edges, constant_values=lowest)
            whole = own._replace(low=0, high=0)
            taps = whole.taps(padded, axis + 1)
            h = taps[0]
            for tap in taps[1:]:
                h = jnp.maximum(h, tap)
        return h

    def limit(self, cov: Covariance) -> Covariance:
        raise NotTractableError(
            "the maximum over positions has no closed-form limit. Take AvgPool, or sample the kernel of finite "
            "networks of this description with widescape.kernels.monte_carlo."
        )


def _counted(cov: Covariance, linear: tuple[bool, ...], weights: jax.Array | None) -> jax.Array:
    """How often each entry of the planes counts (*S, D, 1...): not at all where the shifted position does not exist."""
    axes = cov.layout.axes
    shape = cov.nngp.shape[: axes + 1]
    counted = jnp.ones(shape[-1], cov.nngp.dtype) if weights is None else weights
    counted = jnp.broadcast_to(counted.reshape((1,) * axes + (-1,)), shape)
    for axis in range(axes):
        if linear[axis]:
            length = shape[axis]
            there = jnp.arange(length)[:, None] + cov.shifts[axis][None, :]
            inside = (there >= 0) & (there < length)
            view = [1] * (axes + 1)
            view[axis], view[-1] = inside.shape
            counted = jnp.where(inside.reshape(view), counted, 0)
    return counted.reshape(shape + (1,) * (cov.nngp.ndim - axes - 1))


def _along(a: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    shape = [1] * a.ndim
    shape[axis] = -1
    return a * jnp.asarray(weights.reshape(shape), a.dtype)
