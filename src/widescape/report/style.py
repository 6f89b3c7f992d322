"""The look of every figure: colors, letters, sizes, ticks and legends, and room for them."""

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from widescape.core.chart import Drawable, Scale
from widescape.report.inline import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8699a", "#a87900", "#3a8fbf", "#808080")
"""The Okabe-Ito colors for color-blind readers, the light ones darkened to stand out on white too."""

LINE = COLORS[1]
"""The color of a line over the colors of a map; a casing parts it from those that are like it."""

CASING = "#ffffff"

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

MAP = 0.8
"""The same for the map of a surface."""

TALL = 20.0
"""Inches in which any labels and legend have room, for measuring them."""

HIGH = 30
"""Letters of the label of the y axis on one line."""

STEPS = [1, 2, 2.5, 5, 10]
"""Distances of the ticks of a linear axis, up to a power of ten."""

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


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """The defaults of matplotlib and ours, whatever the reader has set, and only inside the block."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def finish_axis(axis: "Axis", scale: Scale) -> None:
    """Ticks that a reader can read: decades in full where short, else powers of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    if scale == "linear":
        axis.set_major_locator(MaxNLocator(nbins=6, steps=STEPS))
        return
    low, high = (float(end) for end in axis.get_view_interval())
    axis.set_major_locator(log_locator(low, high))
    axis.set_major_formatter(FuncFormatter(tick_text(low, high)))
    axis.set_minor_formatter(NullFormatter())


def log_locator(low: float, high: float, *, many: float = 2) -> "Locator":
    """Where a logarithmic axis from `low` to `high` has its ticks; from `many` decades on powers of ten only."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    decades = math.log10(high / low)
    if decades < 0.6:
        return MaxNLocator(nbins=5)
    return LogLocator(subs=(1.0, 2.0, 5.0) if decades < many else (1.0,))


def tick_text(low: float, high: float) -> Callable[[float, int | None], str]:
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


def letters(size: tuple[float, float]) -> int:
    """Letters of a title or a legend entry in a figure of this size."""
    return int(LETTERS * size[0])


def entry(text: str, width: int) -> str:
    """What the legend says. matplotlib would hide an entry that begins with an underscore."""
    text = textwrap.fill(text, width)
    return f" {text}" if text.startswith("_") else text


def furnish(
    figure: "Figure", axes: "Axes", chart: Drawable, *, titled: bool, size: tuple[float, float], share: float
) -> None:
    """Labels, legend and title around what is drawn, which keeps at least `share` of the height of `size`."""
    width = letters(size)
    axes.set_xlabel(textwrap.fill(chart.x_label, width - BESIDE))
    axes.set_ylabel(textwrap.fill(chart.y_label, HIGH))
    _draw_legend(figure, axes, width)
    if titled:
        figure.suptitle(textwrap.fill(chart.title, width), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    _make_room(figure, axes, size[1], share)


def _draw_legend(figure: "Figure", axes: "Axes", width: int) -> None:
    """Below the axes, where it hides nothing, in as many columns as fit."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = min(len(labels), max(1, width // (longest + 7)), 3)
    columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, columnspacing=1.5, borderpad=0.2)


def _make_room(figure: "Figure", axes: "Axes", height: float, share: float) -> None:
    """Give the figure `height` inches, or as many as leave the axes theirs beside labels and legend."""
    figure.set_figheight(TALL)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    around = TALL - axes.get_window_extent().height / figure.dpi
    figure.set_figheight(max(height, around + share * height))
