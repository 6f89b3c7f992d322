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
