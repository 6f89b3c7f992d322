"""Charts drawn with matplotlib, readable on white and on black, in color and in grey print.

Nothing here changes matplotlib's global settings, and none of the reader's own settings leak in:
the same chart gives the same figure everywhere. Text is drawn as it is, never as TeX.
"""

import contextlib
import io
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from widescape.core.chart import Chart, Scale, Series
from widescape.report.inline import INK, inline
from widescape.report.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8699a", "#a87900", "#3a8fbf", "#808080")
"""The Okabe-Ito colors for color-blind readers, the light ones darkened to stand out on white too."""

DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
SHAPES = ("o", "s", "^", "D", "v", "P", "X")

SIZE = (5.2, 3.5)
"""Width and height in inches; a long legend or title adds to the height."""

NARROW = (3.4, 3.3)
"""The same for a phone, where the letters of a wider figure would be scaled down too far."""

LETTERS = 66 / SIZE[0]
"""Letters per inch of the title or a legend entry."""

BESIDE = 10
"""Letters of these that stand beside the axes, so that the label of the x axis must do without."""

AXES = 0.55
"""The part of the height that the axes keep; where labels and legend leave them less, the figure grows."""

TALL = 20.0
"""Inches in which any labels and legend have room, for measuring them."""

HIGH = 30
"""Letters of the label of the y axis on one line."""

CROWD = 200
"""Series with more points get smaller ones."""

MANY = 2000
"""Series with more points are stored as pixels in an SVG."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "axes.ymargin": 0.07,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "widescape",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


def draw(chart: Chart, *, titled: bool = True, size: tuple[float, float] = SIZE) -> "Figure":
    """The chart as a matplotlib figure.

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

    _check(chart)
    letters = int(LETTERS * size[0])
    with _house_style():
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.set_xscale(chart.x_scale)
        axes.set_yscale(chart.y_scale)
        for index, series in enumerate(chart.series):
            _draw_series(axes, chart, series, index, letters)
        _draw_markers(axes, chart)
        _finish_axis(axes.xaxis, chart.x_scale)
        _finish_axis(axes.yaxis, chart.y_scale)
        axes.set_xlabel(textwrap.fill(chart.x_label, letters - BESIDE))
        axes.set_ylabel(textwrap.fill(chart.y_label, HIGH))
        _draw_legend(figure, axes, letters)
        if titled:
            figure.suptitle(textwrap.fill(chart.title, letters), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        _make_room(figure, axes, size[1])
        place_labels(figure, axes, chart)
        figure.set_layout_engine("none")
    return figure


def png(chart: Chart, dpi: float = 160) -> bytes:
    """The chart as a PNG on white, with its title. Raises as `draw` does."""
    buffer = io.BytesIO()
    figure = draw(chart)
    with _house_style():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(chart: Chart, *, titled: bool = True, prefix: str | None = None, size: tuple[float, float] = SIZE) -> str:
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
    with _house_style():
        figure.savefig(buffer, format="svg", dpi=160, facecolor="none", metadata=unsaid)
    return inline(buffer.getvalue(), prefix=chart.name if prefix is None else prefix, label=describe(chart))


def describe(chart: Chart) -> str:
    """The chart in words, for readers who do not see it."""
    names = "; ".join(series.label for series in chart.series)
    axes = f"Horizontal axis: {chart.x_label}. Vertical axis: {chart.y_label}."
    return f"{chart.title}. {axes} Shown: {names}."


@contextlib.contextmanager
def _house_style() -> Iterator[None]:
    """The defaults of matplotlib and ours, whatever the reader has set, and only inside the block."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


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


def _draw_series(axes: "Axes", chart: Chart, series: Series, index: int, letters: int) -> None:
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
        label=_entry(chart, series, letters),
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


def _entry(chart: Chart, series: Series, letters: int) -> str:
    """What the legend says. matplotlib would hide an entry that begins with an underscore."""
    text = textwrap.fill(series.label + _remarks(chart, series), letters)
    return f" {text}" if text.startswith("_") else text


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


def _finish_axis(axis: "Axis", scale: Scale) -> None:
    """Ticks that a reader can read: decades in full where short, else powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if scale == "linear":
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        return
    low, high = (float(end) for end in axis.get_view_interval())
    decades = math.log10(high / low)
    if decades < 0.6:
        axis.set_major_locator(MaxNLocator(nbins=5))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(_tick_text(low, high)))
    axis.set_minor_formatter(NullFormatter())


def _tick_text(low: float, high: float) -> Callable[[float, int | None], str]:
    """How to write the ticks of a logarithmic axis that shows `low` to `high`."""
    in_full = low >= 1e-4 and high < 1e6
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def text(value: float, position: int | None = None) -> str:
        del position
        if in_full or value <= 0:
            return np.format_float_positional(value, precision=6, trim="-", unique=True)
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        power = "10" + str(int(exponent)).translate(raised)
        leading = mantissa.rstrip("0").rstrip(".")
        return power if leading == "1" else f"{leading}·{power}"

    return text


def _draw_legend(figure: "Figure", axes: "Axes", letters: int) -> None:
    """Below the axes, where it hides nothing, in as many columns as fit."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = min(len(labels), max(1, letters // (longest + 7)), 3)
    columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, columnspacing=1.5, borderpad=0.2)


def _make_room(figure: "Figure", axes: "Axes", height: float) -> None:
    """Give the figure `height` inches, or as many as leave the axes theirs beside labels and legend."""
    figure.set_figheight(TALL)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    around = TALL - axes.get_window_extent().height / figure.dpi
    figure.set_figheight(max(height, around + AXES * height))
