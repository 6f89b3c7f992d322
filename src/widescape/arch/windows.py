"""Windows that slide over the positions of an image: their sizes, their edges, and sums over them.

Strides and edges follow XLA: SAME gives ceil(n / stride) windows and pads the lower end with half of what is missing,
rounded down; CIRCULAR does the same and wraps around instead of padding; VALID keeps whole windows only.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.spec import Signal
from widescape.core import checks
from widescape.core.errors import ShapeError

Padding = Literal["SAME", "VALID", "CIRCULAR"]


class AxisWindows(NamedTuple):
    """The windows along one axis of positions.

    Attributes:
        length: positions before.
        num_windows: windows, the positions after.
        size: positions in a window.
        stride: step from a window to the next.
        low, high: positions that are missing at the ends, to be filled by zeros or by wrapping around.
        wrap: whether positions wrap around.
    """

    length: int
    num_windows: int
    size: int
    stride: int
    low: int
    high: int
    wrap: bool

    @classmethod
    def of(cls, length: int, size: int, stride: int, padding: Padding) -> "AxisWindows":
        """The windows of XLA's rule."""
        if padding == "VALID":
            count = (length - size) // stride + 1
            return cls(length, count, size, stride, 0, 0, False)
        count = -(-length // stride)
        missing = max((count - 1) * stride + size - length, 0)
        return cls(length, count, size, stride, missing // 2, missing - missing // 2, padding == "CIRCULAR")

    def taps(self, a: jax.Array, *axes: int, wrap: bool | None = None) -> list[jax.Array]:
        """The array seen from each place of the windows; along several axes at once, from the same place of each."""
        width = [(0, 0)] * a.ndim
        for axis in axes:
            width[axis] = (self.low, self.high)
        if self.low or self.high:
            a = jnp.pad(a, width, mode="wrap" if (self.wrap if wrap is None else wrap) else "constant")
        last = (self.num_windows - 1) * self.stride + 1
        found = []
        for place in range(self.size):
            part = a
            for axis in axes:
                part = jax.lax.slice_in_dim(part, place, place + last, self.stride, axis=axis)
            found.append(part)
        return found

    @property
    def covered(self) -> np.ndarray:
        """How many positions each window has inside of the image (num_windows,)."""
        starts = np.arange(self.num_windows) * self.stride - self.low
        if self.wrap:
            return np.full(self.num_windows, self.size)
        return np.minimum(starts + self.size, self.length) - np.maximum(starts, 0)

    def total(self, a: jax.Array, *axes: int) -> jax.Array:
        """Sums over the windows along one axis; along several axes, over equal places."""
        return add_up(self.taps(a, *axes))

    def inside(self, positions: jax.Array) -> list[jax.Array]:
        """For each place of the windows, which of these positions have a neighbor there without wrapping around."""
        neighbors = [positions + place - self.low for place in range(self.size)]
        return [(at >= 0) & (at < self.length) for at in neighbors]


class Windowed:
    """What layers with windows over the positions of examples (*S, c) share.

    A subclass holds the positions of a window along each axis in the field that `sized_by` names.
    """

    sized_by: str
    apart: bool = False
    """Whether windows without strides lie side by side; else they are one step apart."""
    strides: tuple[int, ...] | None
    padding: Padding

    @property
    def sides(self) -> tuple[int, ...]:
        """Positions of a window along each axis."""
        found: tuple[int, ...] = getattr(self, self.sized_by)
        return found

    @property
    def steps_along(self) -> tuple[int, ...]:
        """The stride along each axis."""
        if self.strides is not None:
            return self.strides
        return self.sides if self.apart else (1,) * len(self.sides)

    def check_windows(self) -> None:
        """Turn sizes and strides into plain tuples; refuse those that describe no windows."""
        name = type(self).__name__
        object.__setattr__(self, self.sized_by, sizes(self.sides, self.sized_by, name))
        if self.strides is not None:
            object.__setattr__(self, "strides", sizes(self.strides, "strides", name))
            if len(self.strides) != len(self.sides):
                raise ValueError(
                    f"{name}: {len(self.strides)} strides for a {self.sized_by} of {len(self.sides)} axes."
                )
        checks.choice(self.padding, "padding", Padding)

    def windows(self, signal: Signal) -> tuple[AxisWindows, ...]:
        """The windows along each axis of this signal."""
        return windows_of(signal.shape[:-1], self.sides, self.steps_along, self.padding, type(self).__name__)

    def positions_after(self, signal: Signal) -> tuple[int, ...]:
        """The positions along each axis behind the layer: one for each window."""
        return tuple(own.num_windows for own in self.windows(signal))


def windows_of(
    spatial: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Padding, owner: str
) -> tuple[AxisWindows, ...]:
    """The windows along each axis of an image of this size.

    Raises:
        ShapeError: the image has another number of axes, or is smaller than a window.
    """
    if len(spatial) != len(window):
        raise ShapeError(
            f"{owner} has a window of {len(window)} axes of positions, but examples with {len(spatial)} of them reach "
            "it. Channels come last: images are (n, height, width, channels), gray ones x[..., None]."
        )
    found = tuple(AxisWindows.of(*parts, padding) for parts in zip(spatial, window, strides, strict=True))
    for axis, own in enumerate(found):
        if own.num_windows < 1:
            raise ShapeError(
                f"{owner} has a window of {own.size} positions along axis {axis}, but only {own.length} reach it; "
                "take padding='SAME' or a smaller window."
            )
        if own.wrap and own.low + own.high > 0 and max(own.low, own.high) > own.length:
            raise ShapeError(f"{owner} wraps around more than once: window {own.size}, {own.length} positions.")
    return found


def common_axes(kinds: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """What layers ask of planes along each axis, one after the other; None if they cannot agree.

    Shifts either wrap around or do not, and where positions were lost, edges are no longer where shifts look for them.
    """
    if not kinds or None in kinds:
        return None
    found = []
    for words in zip(*(kind for kind in kinds if kind is not None), strict=True):
        along = [word for kind in words for word in kind.split("-")]
        if "linear" in along:
            if "circular" in along or "same" in along[along.index("linear") :]:
                return None
            found.append("same-linear" if "same" in along else "linear")
        else:
            found.append(next((kind for kind in ("circular", "same") if kind in along), "any"))
    return tuple(found)


def two_axes(along: Sequence[int]) -> tuple[int, int]:
    """Numbers along one or two axes of positions, as of two: 1 along one that is missing."""
    return along[0], along[1] if len(along) > 1 else 1


def add_up(parts: Sequence[jax.Array]) -> jax.Array:
    """The sum of arrays, from the first to the last."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def sizes(value: Any, name: str, owner: str) -> tuple[int, ...]:
    """Positive whole numbers, one for each spatial axis."""
    try:
        found = tuple(value)
    except TypeError as error:
        raise TypeError(
            f"{owner}: `{name}` is {value!r}; give one number for each axis of positions: ({value}, {value}) for "
            f"images, ({value},) for sequences."
        ) from error
    if not 1 <= len(found) <= 3:
        raise ValueError(f"{owner}: `{name}` is {found}; give one, two or three numbers, one for each spatial axis.")
    for n in found:
        checks.count(n, name, owner)
    return tuple(int(n) for n in found)
