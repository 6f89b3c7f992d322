"""Labels of the straight lines across a chart, put where they hide the least."""

from typing import TYPE_CHECKING, Any

import numpy as np

from widescape.core.chart import Chart, Marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

GAP = 3.0
"""Points between a line and its label."""

DENSE = 60
"""Places at which the straight piece between two neighboring points is looked at."""

PAD = 3.0
"""Pixels around a label that shall stay free."""


def place_labels(axes: "Axes", chart: Chart) -> None:
    """Write the label of each marker beside its line, at the place that covers the fewest data.

    Call it last, when the layout of the figure is settled.
    """
    busy = _inked(axes, chart)
    taken: list[Bbox] = []
    for marker in chart.markers:
        label = _best(axes, marker, busy, taken)
        taken.append(label.get_window_extent())


def _best(axes: "Axes", marker: Marker, busy: np.ndarray, taken: "list[Bbox]") -> "Annotation":
    """Of all places for the label of `marker`, the first of the cheapest."""
    tried: list[tuple[float, int, Annotation]] = []
    for order, place in enumerate(_places(marker)):
        label = axes.annotate(marker.label, textcoords="offset points", fontsize=8, **place)
        label.set_in_layout(False)
        tried.append((_cost(axes, label, busy, taken), order, label))
    tried.sort(key=lambda entry: entry[:2])
    for _, _, label in tried[1:]:
        label.remove()
    return tried[0][2]


def _places(marker: Marker) -> list[dict[str, Any]]:
    """Beside the line, on either side, along its length."""
    along = (0.99, 0.01, 0.75, 0.5, 0.25)
    if marker.axis == "x":
        sides = (("left", GAP), ("right", -GAP))
        heights = {0.99: "top", 0.01: "bottom"}
        return [
            {"xy": (marker.value, at), "xycoords": ("data", "axes fraction"), "xytext": (shift, 0),
             "ha": side, "va": heights.get(at, "center")}
            for at in along
            for side, shift in sides
        ]  # fmt: skip
    sides = (("bottom", GAP), ("top", -GAP))
    ends = {0.99: "right", 0.01: "left"}
    return [
        {"xy": (at, marker.value), "xycoords": ("axes fraction", "data"), "xytext": (0, shift),
         "ha": ends.get(at, "center"), "va": side}
        for at in along
        for side, shift in sides
    ]  # fmt: skip


def _cost(axes: "Axes", label: "Annotation", busy: np.ndarray, taken: "list[Bbox]") -> float:
    """How many inked places the label covers; far more if it covers a label or leaves the axes."""
    box = label.get_window_extent().padded(PAD)
    frame = axes.get_window_extent()
    covered = (busy[:, 0] > box.x0) & (busy[:, 0] < box.x1) & (busy[:, 1] > box.y0) & (busy[:, 1] < box.y1)
    outside = max(frame.x0 - box.x0, 0) + max(box.x1 - frame.x1, 0)
    outside += max(frame.y0 - box.y0, 0) + max(box.y1 - frame.y1, 0)
    collisions = sum(bool(box.overlaps(other)) for other in taken)
    return float(np.sum(covered)) + 1e4 * collisions + (1e3 * outside if outside > 2 * PAD else 0)


def _inked(axes: "Axes", chart: Chart) -> np.ndarray:
    """Places in pixels where series and markers leave ink, dense along lines and intervals."""
    pieces = [np.empty((0, 2))]
    for series in chart.series:
        with np.errstate(all="ignore"):
            points = axes.transData.transform(np.column_stack([series.x, series.y]))
        pieces.append(points)
        if series.style != "points":
            pieces.append(_between(points[:-1], points[1:]))
        if series.low is not None and series.high is not None:
            low = np.maximum(series.low, axes.get_ylim()[0])
            ends = [axes.transData.transform(np.column_stack([series.x, end])) for end in (low, series.high)]
            pieces += [*ends, _between(ends[0], ends[1])]
    for marker in chart.markers:
        if marker.axis == "x":
            start, end = axes.get_xaxis_transform().transform(np.array([[marker.value, 0], [marker.value, 1]]))
        else:
            start, end = axes.get_yaxis_transform().transform(np.array([[0, marker.value], [1, marker.value]]))
        pieces.append(_between(start[None], end[None]))
    places = np.concatenate(pieces)
    return places[np.isfinite(places).all(axis=1)]


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Places along the straight pieces from `start` to `end`."""
    joined = np.isfinite(start).all(axis=1) & np.isfinite(end).all(axis=1)
    part = np.linspace(0, 1, DENSE)[:, None, None]
    places: np.ndarray = start[joined] + part * (end[joined] - start[joined])
    return places.reshape(-1, 2)
