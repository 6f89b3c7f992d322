"""Charts, surfaces and heat maps drawn with matplotlib, readable on white and on black, in color and in grey print.

Nothing here changes matplotlib's global settings, and none of the reader's own settings leak in:
the same chart gives the same figure everywhere. Text is drawn as it is, never as TeX.
"""

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from widescape.core.chart import Chart, Drawable, HeatMap, Series, Surface
from widescape.report import contours, heatmaps
from widescape.report.inline import INK, inline
from widescape.report.labels import place_labels
from widescape.report.style import (
    AXES,
    COLORS,
    DASHES,
    MAP,
    SHAPES,
    SIZE,
    entry,
    finish_axis,
    furnish,
    house_style,
    letters,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROWD = 200
"""Series with more points get smaller ones."""

MANY = 2000
"""Series with more points are stored as pixels in an SVG."""


def draw(chart: Drawable, *, titled: bool = True, size: tuple[float, float] = SIZE) -> "Figure":
    """The chart, the heat map, or the surface as a map of its heights, as a matplotlib figure.

    Points that are not finite leave a gap, and the legend counts them. On a logarithmic axis an
    interval that reaches zero is drawn down to the edge of the figure, and the legend says so.

    Args:
        chart: what to draw.
        titled: whether the title stands in the figure.
        size: width and height in inches; long labels go on over several lines, and many lines add
            to the height.

    Raises:
        ValueError: there is nothing to draw, an interval is upside down, or a logarithmic axis
            meets a value that is not positive.
    """
    from matplotlib.figure import Figure

    if isinstance(chart, Chart):
        _check(chart)
    with house_style():
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        axes = figure.subplots()
        if isinstance(chart, Surface):
            contours.draw_on(axes, chart, letters(size))
        elif isinstance(chart, HeatMap):
            heatmaps.draw_on(axes, chart, letters(size))
        else:
            _draw_on(axes, chart, letters(size))
        share = AXES if isinstance(chart, Chart) else MAP
        furnish(figure, axes, chart, titled=titled, size=size, share=share)
        figure.draw_without_rendering()
        if isinstance(chart, Chart):
            place_labels(axes, chart)
        elif isinstance(chart, HeatMap):
            heatmaps.write_values(axes, chart)
        figure.set_layout_engine("none")
    return figure


def png(chart: Drawable, dpi: float = 160) -> bytes:
    """The chart as a PNG on white, with its title. Raises as `draw` does."""
    buffer = io.BytesIO()
    figure = draw(chart)
    with house_style():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(chart: Drawable, *, titled: bool = True, prefix: str | None = None, size: tuple[float, float] = SIZE) -> str:
    """The chart as one `<svg>` element, transparent, fit for a file or the inside of an HTML page.

    Letters, axes and grid take the color of the surrounding text. Text stays text. Drawing the same
    chart twice gives the same string. Raises as `draw` does.

    Args:
        chart: what to draw.
        titled: whether the title stands in the figure.
        prefix: begins every id in the element, so that several fit in one page; the chart's name
            unless given.
        size: width and height in inches.
    """
    buffer = io.StringIO()
    figure = draw(chart, titled=titled, size=size)
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with house_style():
        figure.savefig(buffer, format="svg", dpi=160, facecolor="none", metadata=unsaid)
    return inline(buffer.getvalue(), prefix=chart.name if prefix is None else prefix, label=describe(chart))


def describe(chart: Drawable) -> str:
    """The chart in words, for readers who do not see it."""
    axes = f"Horizontal axis: {chart.x_label}. Vertical axis: {chart.y_label}."
    if isinstance(chart, Surface):
        return f"{chart.title}. {axes} {contours.describe(chart)}"
    if isinstance(chart, HeatMap):
        return f"{chart.title}. {axes} {heatmaps.describe(chart)}"
    names = "; ".join(series.label for series in chart.series)
    return f"{chart.title}. {axes} Shown: {names}."


def _draw_on(axes: "Axes", chart: Chart, width: int) -> None:
    axes.set_xscale(chart.x_scale)
    axes.set_yscale(chart.y_scale)
    for index, series in enumerate(chart.series):
        _draw_series(axes, chart, series, index, width)
    _draw_markers(axes, chart)
    finish_axis(axes.xaxis, chart.x_scale)
    finish_axis(axes.yaxis, chart.y_scale)


def _check(chart: Chart) -> None:
    if not any(_finite(series).any() for series in chart.series):
        raise ValueError(f"chart {chart.name!r} has no finite point to draw; give it a series that has one.")
    for series in chart.series:
        where = f"chart {chart.name!r}, series {series.label!r}"
        if chart.x_scale == "log":
            _require_positive(series.x, f"{where}: `x`")
        if chart.y_scale == "log":
            _require_positive(series.y, f"{where}: `y`")
        if series.low is None or series.high is None:
            continue
        if chart.y_scale == "log":
            _require_positive(series.high, f"{where}: `high`")
        if (upside_down := np.flatnonzero(series.low > series.high)).size:
            raise ValueError(f"{where}: `low` exceeds `high` at index {upside_down[0]}; exchange the two.")
    for marker in chart.markers:
        where = f"chart {chart.name!r}, marker {marker.label!r}"
        if not math.isfinite(marker.value):
            raise ValueError(f"{where}: its value is {marker.value}; leave it out, or give a finite one.")
        if (chart.x_scale if marker.axis == "x" else chart.y_scale) == "log":
            _require_positive(np.array([marker.value]), f"{where}: its value")


def _require_positive(values: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(values <= 0)
    if bad.size:
        raise ValueError(
            f"{where} is {values[bad[0]]:g} at index {bad[0]}, but its axis is logarithmic; "
            "use a linear axis, or leave out what is not positive."
        )


def _finite(series: Series) -> np.ndarray:
    finite: np.ndarray = np.isfinite(series.x) & np.isfinite(series.y)
    return finite


def _draw_series(axes: "Axes", chart: Chart, series: Series, index: int, width: int) -> None:
    color = COLORS[index % len(COLORS)]
    keep = _finite(series)
    x, y = np.where(keep, series.x, np.nan), np.where(keep, series.y, np.nan)
    lines = sum(s.style != "points" for s in chart.series)
    shown: list[int] | slice = slice(None)
    if series.style == "line":
        shown = _alone(keep) if lines <= len(DASHES) else _some(keep, index)
    axes.plot(
        x,
        y,
        color=color,
        linestyle="none" if series.style == "points" else DASHES[index % len(DASHES)],
        marker="none" if shown == [] else SHAPES[index % len(SHAPES)],
        markersize=4.5 if series.x.size <= CROWD else 2.5,
        markevery=shown,
        label=_entry(chart, series, width),
        rasterized=series.x.size > MANY,
        zorder=3 if series.style == "points" else 2.5,
    )
    _draw_interval(axes, chart, series, color)


def _alone(keep: np.ndarray) -> list[int]:
    """Points without a neighbor to join by a line."""
    padded = np.concatenate([[False], keep, [False]])
    return [int(i) for i in np.flatnonzero(keep & ~padded[:-2] & ~padded[2:])]


def _some(keep: np.ndarray, index: int) -> list[int]:
    """About eight points of a line that take a marker, at other places for other lines."""
    present = np.flatnonzero(keep)
    step = max(1, present.size // 8)
    return [int(i) for i in present[index % step :: step]]


def _entry(chart: Chart, series: Series, width: int) -> str:
    return entry(series.label + _remarks(chart, series), width)


def _remarks(chart: Chart, series: Series) -> str:
    """What the drawing cannot show as it is."""
    remarks = []
    missing = int(np.sum(~_finite(series)))
    if missing:
        remarks.append(f"{missing} of {series.x.size} points not finite")
    if series.low is not None and series.high is not None:
        open_ended = int(np.sum(_finite(series) & ~(np.isfinite(series.low) & np.isfinite(series.high))))
        if open_ended:
            remarks.append(f"{open_ended} intervals not finite")
        if chart.y_scale == "log" and np.any(series.low <= 0):
            remarks.append("intervals that reach zero end at the edge")
    return f" ({'; '.join(remarks)})" if remarks else ""


def _draw_interval(axes: "Axes", chart: Chart, series: Series, color: str) -> None:
    """A light band along a line, a bar through each point and through what a line cannot join."""
    if series.low is None or series.high is None:
        return
    keep = _finite(series) & np.isfinite(series.low) & np.isfinite(series.high)
    x, low, high = series.x, series.low, series.high
    if chart.y_scale == "log":
        low = np.where(low <= 0, _floor(chart), low)
    if series.style == "line":
        axes.fill_between(x, low, high, where=keep.tolist(), color=color, alpha=0.2, linewidth=0, zorder=2)
        keep = np.isin(np.arange(x.size), _alone(keep))
    axes.vlines(x[keep], low[keep], high[keep], color=color, linewidth=1.1, zorder=2.2)
    for end in (low, high):
        axes.plot(x[keep], end[keep], color=color, linestyle="none", marker="_", markersize=5, label="_end")


def _floor(chart: Chart) -> float:
    """Where a logarithmic axis ends below when an interval reaches zero: half of what is positive."""
    shown = [m.value for m in chart.markers if m.axis == "y"]
    for series in chart.series:
        ends = [end for end in (series.low, series.high) if end is not None]
        shown += [float(v) for part in (series.y, *ends) for v in part if v > 0 and math.isfinite(v)]
    return min(shown) / 2


def _draw_markers(axes: "Axes", chart: Chart) -> None:
    for marker in chart.markers:
        straight = axes.axvline if marker.axis == "x" else axes.axhline
        straight(
            marker.value,
            color=INK,
            linewidth=1,
            linestyle=(0, (3, 2)),
            alpha=0.75,
            label="_marker",
            zorder=1.5,
        )
    reaching = (s.low is not None and np.any(s.low <= 0) for s in chart.series)
    if chart.y_scale == "log" and any(reaching):
        axes.set_ylim(bottom=_floor(chart))
