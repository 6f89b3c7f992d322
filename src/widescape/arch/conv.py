"""Convolutions, with weights that are shared between positions or not."""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from widescape.arch.affine import Affine, Parameterization
from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance, Level, gap_of_sum
from widescape.arch.fused_program import Convolve, Step
from widescape.arch.spec import Signal, finite_only, rebuild, scale
from widescape.arch.windows import AxisWindows, Padding, Windowed, add_up, two_axes
from widescape.core.errors import ShapeError
from widescape.duals.angle import safe_sqrt

_PATCH_BYTES = 2**26
"""Size of all windows of a batch up to which a convolution is one matrix product on the CPU."""
_DIMENSIONS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


@dataclass(frozen=True)
class _Convolution(Windowed, Affine):
    """What both convolutions share: their fields, and the limit of sums over windows."""

    sized_by = "filter"
    pair_flops = 40

    width: int = finite_only()
    filter: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] | None = None
    padding: Padding = "SAME"
    w_std: float = scale(1.0)
    b_std: float | None = scale(None)
    param: Parameterization = "ntk"
    base_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_windows()

    @property
    def window_size(self) -> int:
        """Positions that meet a weight: those of the filter, also at the edges."""
        return prod(self.filter)

    @property
    def label(self) -> str:
        """With the filter, and what is not usual."""
        size = "x".join(map(str, self.filter))
        steps = "" if max(self.steps_along) == 1 else f", strides {'x'.join(map(str, self.steps_along))}"
        return f"{type(self).__name__} {size}{steps}, {self.padding}"

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        wide: Layer = self if is_last else rebuild(self, {"width": width})
        return wide

    def out(self, signal: Signal) -> Signal:
        self.check_base(signal)
        return Signal((*self.positions_after(signal), self.width), self.base_width)

    def carried(self, after: Level, signal: Signal) -> Level:
        return max(after, Level.POSITIONS)

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        kinds = []
        for own in self.windows(signal):
            if own.stride > 1:
                return None
            shrinks = own.num_windows < own.length
            kinds.append("linear" if shrinks else "any" if own.size == 1 else "circular" if own.wrap else "same")
        return tuple(kinds)

    def limit(self, cov: Covariance) -> Covariance:
        after = Signal((*self.positions_after(cov.signal), 1), self.base_width)
        for axis, own in enumerate(self.windows(cov.signal)):
            cov = filtered(cov, axis, own)
        mean = cov.scaled(lambda moment: moment / self.window_size)
        return self.weighted(mean).replace(signal=after)

    def check_filter(self, h: jax.Array, in_channels: int) -> None:
        """Refuse examples that do not fit the weights."""
        if h.ndim != len(self.filter) + 2 or h.shape[-1] != in_channels:
            raise ShapeError(
                f"{type(self).__name__} holds weights for {len(self.filter)} axes of positions and {in_channels} "
                f"channels, but examples of shape {h.shape[1:]} reach it."
            )


@dataclass(frozen=True)
class Conv(_Convolution):
    """A convolution with a bias or none, in one, two or three dimensions: examples (*S, c), channels last.

    The parameterizations are those of `Dense`, with n and N the channels times the positions of the filter. Positions
    beyond the edges count as zeros, so variances are smaller there with ``padding="SAME"``.

    Args:
        width: output channels; of the finite network only.
        filter: positions of the filter along each axis.
        strides: steps of the filter; None for 1 along each axis.
        padding: ``"SAME"`` and ``"VALID"`` as in XLA; ``"CIRCULAR"`` wraps around where SAME pads.
        w_std: standard deviation of the weights, positive.
        b_std: standard deviation of the bias; None for no bias.
        param: the parameterization.
        base_width: as for `Dense`.

    Source: novak2019bayesian, arora2019exact.
    """

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        if len(self.filter) > 2 or max(self.steps_along) > 1 or (self.padding == "VALID" and self.window_size > 1):
            return None
        w2, b2 = self.w_std**2, 0.0 if self.b_std is None else self.b_std**2
        gain, constant = self.own_gain(signal)
        wrap = self.padding == "CIRCULAR"
        return (Convolve(two_axes(self.filter), (wrap, wrap), w2, b2, *((0.0, 0.0) if frozen else (gain, constant))),)

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        shape = (*self.filter, signal.shape[-1], self.width)
        return self.drawn_weights(key, signal, shape, (self.width,), dtype)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        dtype = jnp.promote_types(h.dtype, params["w"].dtype)
        h, w = h.astype(dtype), params["w"].astype(dtype)
        self.check_filter(h, w.shape[-2])
        windows, positions = self.windows(signal), self.positions_after(signal)
        if jax.default_backend() == "cpu" and h.size * self.window_size * h.dtype.itemsize <= _PATCH_BYTES:
            # The CPU compiler is slow with convolutions in loops and with weights that differ between members.
            z = _patches(h, windows).reshape(h.shape[0], *positions, -1)
            return self.scaled(z @ w.reshape(-1, w.shape[-1]), params, w.shape[-2], signal)
        padded, edges = _padded(h, windows)
        z = jax.lax.conv_general_dilated(
            padded, w, self.steps_along, edges, dimension_numbers=_DIMENSIONS[len(self.filter)]
        )
        return self.scaled(z, params, w.shape[-2], signal)


@dataclass(frozen=True)
class LocalConv(_Convolution):
    """A convolution whose weights and biases are drawn for each position anew: locally connected.

    Positions of its output are independent; elsewhere it is like `Conv`, with the same arguments.

    Source: novak2019bayesian.
    """

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        positions = self.positions_after(signal)
        shape = (*positions, *self.filter, signal.shape[-1], self.width)
        return self.drawn_weights(key, signal, shape, (*positions, self.width), dtype)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        w, axes = params["w"], len(self.filter)
        self.check_filter(h, w.shape[-2])
        if w.shape[:axes] != self.positions_after(signal):
            raise ShapeError(f"LocalConv holds weights for {w.shape[:axes]} positions; examples give another number.")
        patches = _patches(h, self.windows(signal))
        flat = w.reshape(*w.shape[:axes], -1, *w.shape[-2:])
        space = "xyz"[:axes]
        return self.scaled(jnp.einsum(f"n{space}fc,{space}fco->n{space}o", patches, flat), params, w.shape[-2], signal)

    def limit(self, cov: Covariance) -> Covariance:
        return _without_neighbors(super().limit(cov))


def filtered(cov: Covariance, axis: int, windows: AxisWindows) -> Covariance:
    """The state of sums over the windows along one axis; the terms of a sum are independent."""
    if windows.size == 1 and windows.stride == 1:
        return cov
    kind, axes, linear, _ = cov.layout
    examples = 1 if cov.layout.each else 2
    masks: list[jax.Array | None] = [None] * windows.size
    masks2 = masks
    if kind == "planes" and not windows.wrap and windows.num_windows == windows.length:  # SAME
        here = jnp.arange(windows.length)[:, None]
        there = here + cov.shifts[axis][None, :]
        partner = there if linear[axis] else there % windows.length
        masks2 = list(windows.inside(partner))
        masks = [a & b for a, b in zip(windows.inside(here), windows.inside(partner), strict=True)]
    wrap = True if kind == "planes" else None
    along = (axis, axis + axes) if kind == "full" else (axis,)

    def pairs(a: jax.Array) -> jax.Array:
        taps = windows.taps(a, *along, wrap=wrap)
        return add_up([_kept(tap, mask, axis, axes, examples) for tap, mask in zip(taps, masks, strict=True)])

    first = windows.taps(cov.var1, axis)
    second = windows.taps(cov.var2, axis, wrap=wrap)
    second = [_kept(tap, mask, axis, axes, 1) for tap, mask in zip(second, masks2, strict=True)]
    nngp = pairs(cov.nngp)
    moved = cov.replace(
        nngp=nngp,
        ntk=None if cov.ntk is None else pairs(cov.ntk),
        var1=add_up(first),
        var2=add_up(second),
    )
    moved = moved.replace(complement=gap_of_sum(nngp, pairs, cov) + moved.bend(first, second))
    return jax.lax.optimization_barrier(moved)  # fused with what follows, every term would be computed several times


def _kept(tap: jax.Array, mask: jax.Array | None, axis: int, axes: int, examples: int) -> jax.Array:
    """Zero where a neighbor lies beyond the edges; `mask` (length, D) or (length, 1) for positions and shifts."""
    if mask is None:
        return tap
    shape = [1] * axes + [mask.shape[1]] + [1] * examples
    shape[axis] = mask.shape[0]
    return jnp.where(mask.reshape(shape), tap, 0)


def _without_neighbors(cov: Covariance) -> Covariance:
    """The state with different positions independent of each other."""
    kind, axes, _, _ = cov.layout
    if kind not in ("planes", "full"):
        return cov
    if kind == "planes":
        equal = jnp.ones(cov.shifts[0].shape, bool)
        for shift in cov.shifts:
            equal &= shift == 0
        equal = equal.reshape((1,) * axes + equal.shape + (1,) * (cov.nngp.ndim - axes - 1))
    else:
        equal = jnp.ones((1,) * cov.nngp.ndim, bool)
        for axis in range(axes):
            length = cov.nngp.shape[axis]
            shape = [length if i in (axis, axis + axes) else 1 for i in range(cov.nngp.ndim)]
            equal &= jnp.eye(length, dtype=bool).reshape(shape)
    product = cov.first(safe_sqrt(cov.var1)) * cov.second(safe_sqrt(cov.var2))
    return cov.replace(
        nngp=jnp.where(equal, cov.nngp, 0),
        complement=jnp.where(equal, cov.complement, product),
        ntk=None if cov.ntk is None else jnp.where(equal, cov.ntk, 0),
    )


def _patches(h: jax.Array, windows: tuple[AxisWindows, ...]) -> jax.Array:
    """What each window sees, (n, *S, filter, c)."""
    parts = [h]
    for axis, own in enumerate(windows):
        parts = [view for part in parts for view in own.taps(part, axis + 1)]
    return jnp.stack(parts, axis=-2)


def _padded(h: jax.Array, windows: tuple[AxisWindows, ...]) -> tuple[jax.Array, list[tuple[int, int]]]:
    """The batch with what wraps around, and the zeros that XLA is to add."""
    edges = [(own.low, own.high) for own in windows]
    if not any(own.wrap for own in windows):
        return h, edges
    return jnp.pad(h, [(0, 0), *edges, (0, 0)], mode="wrap"), [(0, 0)] * len(windows)
