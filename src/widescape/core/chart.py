"""Charts as plain data: numerical code describes a figure, the report draws it.

A chart holds numbers and words, no colors and no drawing library. Every number of a figure is
therefore in the JSON file beside it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from widescape.core.files import plain

Scale = Literal["linear", "log"]
Style = Literal["line", "points", "both"]


@dataclass(frozen=True, eq=False)
class Series:
    """One labeled sequence of points.

    Attributes:
        x, y: coordinates, one-dimensional and of the same length.
        label: what the legend says.
        low, high: the ends of an interval around `y`, or both None. The chart's caption says what
            the interval means.
        style: a line, points, or both.
    """

    x: np.ndarray
    y: np.ndarray
    label: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: Style = "line"

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype=np.float64))
        if self.x.ndim != 1 or self.x.shape != self.y.shape:
            raise ValueError(
                f"series {self.label!r}: `x` has shape {self.x.shape} and `y` {self.y.shape}; "
                "they must be one-dimensional and equally long."
            )
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.label!r}: give both `low` and `high`, or neither.")
        for end in (self.low, self.high):
            if end is not None and end.shape != self.y.shape:
                raise ValueError(f"series {self.label!r}: interval ends must be as long as `y`.")


@dataclass(frozen=True)
class Marker:
    """A labeled straight line across a chart, at one value of one axis."""

    value: float
    label: str
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with two axes.

    Attributes:
        name: a short identifier, used as the file name.
        title: what the figure shows, as a sentence without a full stop.
        x_label, y_label: the axes, with their units.
        series: what is drawn.
        x_scale, y_scale: linear or logarithmic axes.
        markers: labeled lines across the chart.
        caption: how to read it: what the intervals mean, how many points stand behind it.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    markers: tuple[Marker, ...] = field(default=())
    caption: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything the chart shows, as JSON-ready values."""
        series = [
            {"label": s.label, "style": s.style, "x": s.x, "y": s.y, "low": s.low, "high": s.high} for s in self.series
        ]
        markers = [{"axis": m.axis, "value": m.value, "label": m.label} for m in self.markers]
        document: dict[str, Any] = plain(
            {
                "name": self.name,
                "title": self.title,
                "x": {"label": self.x_label, "scale": self.x_scale},
                "y": {"label": self.y_label, "scale": self.y_scale},
                "caption": self.caption,
                "series": series,
                "markers": markers,
            }
        )
        return document


@dataclass(frozen=True, eq=False)
class Trace:
    """A labeled line over a surface, as the steps of a training run projected onto its plane.

    Attributes:
        x, y: coordinates in the order of the line, one-dimensional and of the same length, finite.
        label: what the legend says.
        z: the heights of its points, or None for a line that lies on the surface.
    """

    x: np.ndarray
    y: np.ndarray
    label: str
    z: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = f"trace {self.label!r}"
        for name in ("x", "y", "z"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype=np.float64))
                _require_finite(getattr(self, name), f"{where}: `{name}`")
        if self.x.ndim != 1 or self.x.shape != self.y.shape:
            raise ValueError(
                f"{where}: `x` has shape {self.x.shape} and `y` {self.y.shape}; "
                "they must be one-dimensional and equally long."
            )
        if self.z is not None and self.z.shape != self.x.shape:
            raise ValueError(f"{where}: `z` has shape {self.z.shape}; it must be as long as `x`, {self.x.size}.")


@dataclass(frozen=True)
class Spot:
    """A labeled point over a surface; without `z` it lies on the surface."""

    x: float
    y: float
    label: str
    z: float | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y", "z"):
            value = getattr(self, name)
            if value is not None:
                _require_finite(np.asarray(value, dtype=np.float64), f"spot {self.label!r}: `{name}`")


@dataclass(frozen=True, eq=False)
class Surface:
    """A figure of a function of two variables, given on a grid.

    Attributes:
        name: a short identifier, used as the file name.
        title: what the figure shows, as a sentence without a full stop.
        x_label, y_label, z_label: the axes, with their units; `z` is the height.
        x, y: the X and Y coordinates of the grid, each at least two and increasing.
        z: heights of shape (X, Y), ``z[i, j]`` at ``(x[i], y[j])``. Infinite ones leave a gap; there
            is no NaN.
        z_scale: a linear axis of heights, or a logarithmic one, whose heights are positive.
        path: a line over the surface, or None.
        points: labeled points over the surface.
        caption: how to read it: which plane is shown, what the line is.

    Raises:
        ValueError: the shapes do not fit, a coordinate is not increasing, or a height cannot be shown.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    z_label: str
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    z_scale: Scale = "linear"
    path: Trace | None = None
    points: tuple[Spot, ...] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        for name in ("x", "y", "z"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        where = f"surface {self.name!r}"
        for name in ("x", "y"):
            _require_increasing(getattr(self, name), f"{where}: `{name}`")
        shape = (self.x.size, self.y.size)
        if self.z.shape != shape:
            raise ValueError(
                f"{where}: `z` has shape {self.z.shape}, but `x` has {shape[0]} and `y` {shape[1]} entries; "
                f"give z[i, j] at (x[i], y[j]), of shape {shape}."
            )
        if np.isnan(self.z).any():
            i, j = np.argwhere(np.isnan(self.z))[0]
            raise ValueError(f"{where}: `z` is nan at index ({i}, {j}); give a number, or inf for a gap.")
        if not np.isfinite(self.z).any():
            raise ValueError(f"{where} has no finite height to draw; give a `z` that has one.")
        if self.z_scale == "log":
            self._require_positive(where)

    def _require_positive(self, where: str) -> None:
        heights = [("`z`", self.z)]
        if self.path is not None and self.path.z is not None:
            heights.append(("`z` of its path", self.path.z))
        heights += [(f"`z` of spot {s.label!r}", np.asarray(s.z)) for s in self.points if s.z is not None]
        for name, values in heights:
            if np.any(values <= 0):
                raise ValueError(
                    f"{where}: {name} is {np.min(values):g}, but its axis is logarithmic; use a linear axis, or "
                    "add an offset that the label names."
                )

    def to_dict(self) -> dict[str, Any]:
        """Everything the surface shows, as JSON-ready values."""
        path = self.path
        document: dict[str, Any] = plain(
            {
                "name": self.name,
                "title": self.title,
                "x": {"label": self.x_label, "values": self.x},
                "y": {"label": self.y_label, "values": self.y},
                "z": {"label": self.z_label, "scale": self.z_scale, "values": self.z},
                "caption": self.caption,
                "path": None if path is None else {"label": path.label, "x": path.x, "y": path.y, "z": path.z},
                "points": [{"label": s.label, "x": s.x, "y": s.y, "z": s.z} for s in self.points],
            }
        )
        return document


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A figure of a matrix: a colored cell for each entry.

    Attributes:
        name: a short identifier, used as the file name.
        title: what the figure shows, as a sentence without a full stop.
        x_label, y_label: what columns and rows are.
        value_label: what the values are, with their unit.
        rows, columns: names of the R rows, the first on top, and of the C columns.
        values: entries of shape (R, C). NaN marks an entry that has no value; infinite ones are refused.
        undefined: what the legend says of entries without a value.
        limits: the values at the ends of the color scale; those beyond have the color of the end. None for the
            smallest and the largest value.
        caption: how to read it: what was compared, how many samples stand behind it.

    Raises:
        ValueError: the shapes do not fit, a value is infinite, none is a number, or the limits are not two in order.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    value_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    undefined: str = "undefined"
    limits: tuple[float, float] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        for name in ("rows", "columns"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        where, shape = f"heat map {self.name!r}", (len(self.rows), len(self.columns))
        if self.values.shape != shape:
            raise ValueError(
                f"{where}: `values` has shape {self.values.shape}, but there are {shape[0]} rows and {shape[1]} "
                f"columns; give values[i, j] for rows[i] and columns[j], of shape {shape}."
            )
        if np.isinf(self.values).any():
            i, j = np.argwhere(np.isinf(self.values))[0]
            raise ValueError(f"{where}: `values` is infinite at index ({i}, {j}); give a number, or NaN for no value.")
        if not np.isfinite(self.values).any():
            raise ValueError(f"{where} has no value to draw; give `values` of which one is a number.")
        if self.limits is not None:
            low, high = (float(end) for end in self.limits)
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(f"{where}: `limits` are {low:g} and {high:g}; give two finite numbers in their order.")
            object.__setattr__(self, "limits", (low, high))

    def to_dict(self) -> dict[str, Any]:
        """Everything the heat map shows, as JSON-ready values."""
        document: dict[str, Any] = plain(
            {
                "name": self.name,
                "title": self.title,
                "x": {"label": self.x_label, "names": self.columns},
                "y": {"label": self.y_label, "names": self.rows},
                "value": {"label": self.value_label, "limits": self.limits, "values": self.values},
                "undefined": self.undefined,
                "caption": self.caption,
            }
        )
        return document


Drawable = Chart | Surface | HeatMap
"""What a result's `charts` may hold, and what a report draws."""


def _require_finite(values: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        place = f" at index {bad[0]}" if values.ndim else ""
        raise ValueError(f"{where} is {values.ravel()[bad[0]]:g}{place}; leave the point out, or give a finite one.")


def _require_increasing(values: np.ndarray, where: str) -> None:
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"{where} has shape {values.shape}; give at least two coordinates in one dimension.")
    _require_finite(values, where)
    bad = np.flatnonzero(np.diff(values) <= 0)
    if bad.size:
        raise ValueError(
            f"{where} does not increase: {values[bad[0]]:g} at index {bad[0]}, then {values[bad[0] + 1]:g}; "
            "sort the grid, and give each coordinate once."
        )
