"""Heat maps: a colored cell for each entry of a matrix, with its value where there is room."""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from widescape.core.chart import HeatMap
from widescape.report.contours import FEW, ON_MAP, draw_bar
from widescape.report.numbers import MINUS, number
from widescape.report.style import CASING, COLORS, entry
from widescape.report.surfaces import colors, extent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHADES = 48
"""Colors of the map. With more of them the color bar would be stored as pixels."""

MOST_WRITTEN = 8
"""Rows and columns up to which the values are written into their cells."""

MANY = 1000
"""Cells beyond which they are stored as pixels in an SVG."""

UNDEFINED = COLORS[6]
"""The color of a cell without a value, which is struck through as well."""

DARK = "#000000"
"""The color of values in bright cells. On any color, black or white has a contrast of at least 4.5."""

DOWN, ACROSS = 17, 12
"""Lines of names that have room beside and below the map; below a narrow one three fourths."""


def draw_on(axes: "Axes", heat: HeatMap, width: int) -> None:
    """Draw the cells of `heat` with the names of rows and columns and a color bar; the figure is `width` letters."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _draw_cells(axes, heat, width)
    _draw_undefined(axes, heat, width)
    _name_rows(axes, heat, width)
    _name_columns(axes, heat, width)
    axes.set_xlim(0, len(heat.columns))
    axes.set_ylim(len(heat.rows), 0)


def write_values(axes: "Axes", heat: HeatMap) -> None:
    """Write each value into its cell, if the cells are few and all values have room.

    Call it last, when the layout of the figure is settled.
    """
    rows, columns = heat.values.shape
    if max(rows, columns) > MOST_WRITTEN:
        return
    frame = axes.get_window_extent()
    across, down = frame.width / columns, frame.height / rows
    words, inks, texts = written(heat.values), _inks(heat), []
    for i, j in np.argwhere(~np.isnan(heat.values)):
        text = axes.text(j + 0.5, i + 0.5, words[i, j], ha="center", va="center", fontsize=8, color=inks[i, j])
        text.set_gid(f"{ON_MAP}-value-{i}-{j}")
        text.set_in_layout(False)
        texts.append(text)
    boxes = [text.get_window_extent() for text in texts]
    if any(box.width > 0.95 * across or box.height > 0.95 * down for box in boxes):
        for text in texts:
            text.remove()


def written(values: np.ndarray) -> np.ndarray:
    """The values as short texts with equally many decimals, two where the largest is about 1."""
    largest = float(np.nanmax(np.abs(values)))
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    form = f".{4 if power == -2 else max(0, 2 - max(power, 0))}f" if -2 <= power <= 4 else ".1e"
    texts = [format(value, form) for value in values.flat]
    return np.array([text.replace("-", MINUS) for text in texts]).reshape(values.shape)


def describe(heat: HeatMap) -> str:
    """What the heat map shows, in words."""
    ends = []
    for name, at in (("Lowest", np.nanargmin(heat.values)), ("Highest", np.nanargmax(heat.values))):
        i, j = np.unravel_index(at, heat.values.shape)
        ends.append(f"{name} {number(heat.values[i, j])} in row {heat.rows[i]}, column {heat.columns[j]}.")
    missing = int(np.isnan(heat.values).sum())
    return f"Color: {heat.value_label}. {' '.join(ends)}" + (f" {missing} {heat.undefined}." if missing else "")


def ends_of(heat: HeatMap) -> tuple[float, float]:
    """The values at the ends of the color scale."""
    return extent(heat.values) if heat.limits is None else heat.limits


def _draw_cells(axes: "Axes", heat: HeatMap, width: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    rows, columns = heat.values.shape
    cells = axes.pcolormesh(
        np.arange(columns + 1),
        np.arange(rows + 1),
        np.ma.masked_invalid(heat.values),
        cmap=LinearSegmentedColormap.from_list("values", colors(), N=SHADES),
        norm=Normalize(*ends_of(heat)),
        edgecolors="face",
        linewidth=0.3,
        rasterized=heat.values.size > MANY,
        zorder=1,
    )
    cells.set_gid(f"{ON_MAP}-cells")
    draw_bar(axes, cells, heat.value_label, ends_of(heat), "linear", width)


def _draw_undefined(axes: "Axes", heat: HeatMap, width: int) -> None:
    """Gray cells that are struck through, and their number in the legend."""
    from matplotlib.collections import LineCollection, PolyCollection

    places = np.argwhere(np.isnan(heat.values))
    if not places.size:
        return
    squares = [[(j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1)] for i, j in places]
    for name, part in (
        ("undefined", PolyCollection(squares, facecolors=UNDEFINED, edgecolors="none", zorder=1)),
        ("strokes", LineCollection([[s[3], s[1]] for s in squares], colors=CASING, linewidths=1, zorder=1.5)),
    ):
        part.set_gid(f"{ON_MAP}-{name}")
        part.set_rasterized(heat.values.size > MANY)
        axes.add_collection(part)
    words = f"{heat.undefined} ({len(places)} of {heat.values.size:,})"
    axes.plot([], [], "s", color=UNDEFINED, markersize=7, label=entry(words, width))


def _inks(heat: HeatMap) -> np.ndarray:
    """Black or white for each cell, whichever stands out more from its color."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    shades = LinearSegmentedColormap.from_list("values", colors(), N=SHADES)
    rgb = shades(np.clip(Normalize(*ends_of(heat))(np.nan_to_num(heat.values)), 0, 1))[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where((luminance + 0.05) ** 2 > 0.05 * 1.05, DARK, CASING)


def _name_rows(axes: "Axes", heat: HeatMap, width: int) -> None:
    names = _shown(heat.rows, 13 if width < FEW else 16, DOWN)
    axes.set_yticks([place + 0.5 for place, _ in names], labels=[name for _, name in names])


def _name_columns(axes: "Axes", heat: HeatMap, width: int) -> None:
    """Names below the map, upright where all have room, else turned."""
    room = (27 if width < FEW else 35) // len(heat.columns)
    lines = [textwrap.wrap(name, room, break_long_words=False) for name in heat.columns] if room else []
    upright = bool(lines) and all(len(own) <= 3 and max(map(len, own), default=0) <= room for own in lines)
    names = (
        [(place, "\n".join(own)) for place, own in enumerate(lines)]
        if upright
        else _shown(heat.columns, 18, ACROSS * 3 // 4 if width < FEW else ACROSS)
    )
    axes.set_xticks([place + 0.5 for place, _ in names], labels=[name for _, name in names])
    axes.tick_params(axis="x", labelrotation=0 if upright else 90)


def _shown(names: tuple[str, ...], letters: int, room: int) -> list[tuple[int, str]]:
    """Places and names in lines of so many letters, of which some have room; of too many names every second, ..."""
    lines = max(1, room // len(names))
    return [(k, _cut(names[k], letters, lines)) for k in range(0, len(names), math.ceil(len(names) / room))]


def _cut(name: str, letters: int, lines: int) -> str:
    found = textwrap.wrap(name, letters)
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: letters - 1] + "…"]
    return "\n".join(found)
