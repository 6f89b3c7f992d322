"""Maps of surfaces: bands of equal height with the lines between them, the path and the points on top."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from widescape.core.chart import Scale, Surface
from widescape.report.numbers import number
from widescape.report.style import BESIDE, CASING, HIGH, LINE, SHAPES, STEPS, entry, finish_axis
from widescape.report.surfaces import colors, extent, heights, inside, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.patheffects import AbstractPathEffect

BANDS = 14
"""At most so many bands of equal height."""

FEW = 50
"""Letters of a legend entry below which a map is narrow."""

ON_MAP = "on-map"
"""Begins the ids of what is seen against the colors of the map, not against the page."""


def draw_on(axes: "Axes", surface: Surface, width: int) -> None:
    """Draw the map of `surface` with its color bar, path and points; legend entries are `width` letters long."""
    axes.grid(visible=False)
    _draw_bands(axes, surface, width)
    _draw_path(axes, surface, width)
    for index in range(len(surface.points)):
        _draw_spot(axes, surface, index, width)
    axes.set_xlim(surface.x[0], surface.x[-1])
    axes.set_ylim(surface.y[0], surface.y[-1])
    finish_axis(axes.xaxis, "linear")
    finish_axis(axes.yaxis, "linear")


def describe(surface: Surface) -> str:
    """What the map shows, in words."""
    finite = np.where(np.isfinite(surface.z), surface.z, np.nan)
    ends = []
    for name, at in (("Lowest", np.nanargmin(finite)), ("Highest", np.nanargmax(finite))):
        i, j = np.unravel_index(at, finite.shape)
        ends.append(f"{name} {number(finite[i, j])} at ({number(surface.x[i])}, {number(surface.y[j])}).")
    lines = [] if surface.path is None else [surface.path.label]
    names = [*lines, *(spot.label for spot in surface.points)]
    shown = f" Shown: {'; '.join(names)}." if names else ""
    return f"Color: {surface.z_label}. {' '.join(ends)}{shown}"


def _draw_bands(axes: "Axes", surface: Surface, width: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    height = heights(surface)
    low, high = extent(height)
    levels = np.asarray(MaxNLocator(nbins=BANDS, steps=STEPS).tick_values(low, high))
    filled = axes.contourf(
        surface.x,
        surface.y,
        np.ma.masked_invalid(height.T),
        levels=levels,
        cmap=LinearSegmentedColormap.from_list("heights", colors()),
        norm=Normalize(low, high),
        zorder=1,
    )
    filled.set_gid(f"{ON_MAP}-bands")
    _draw_lines(axes, surface, height, levels)
    draw_bar(axes, filled, surface.z_label + _gaps(surface), (low, high), surface.z_scale, width)


def draw_bar(
    axes: "Axes", drawn: "ScalarMappable", label: str, ends: tuple[float, float], scale: Scale, width: int
) -> None:
    """The color bar of what is `drawn`, from one of the `ends` to the other, beside the map or above a narrow one."""
    above = width < FEW
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.03, aspect=24, location="top" if above else "right")
    (bar.ax.set_xlim if above else bar.ax.set_ylim)(*ends)
    places = ticks(*ends, scale)
    bar.set_ticks([place for place, _ in places], labels=[words for _, words in places])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_gid(f"{ON_MAP}-bar")
    bar.set_label(textwrap.fill(label, width - BESIDE if above else HIGH))


def _draw_lines(axes: "Axes", surface: Surface, height: np.ndarray, levels: np.ndarray) -> None:
    within = levels[(levels > np.nanmin(height)) & (levels < np.nanmax(height))]
    if within.size:
        lines = axes.contour(
            surface.x,
            surface.y,
            np.ma.masked_invalid(height.T),
            levels=within,
            colors=CASING,
            linewidths=0.6,
            linestyles="solid",
            alpha=0.45,
            zorder=1.5,
        )
        lines.set_gid(f"{ON_MAP}-lines")


def _draw_path(axes: "Axes", surface: Surface, width: int) -> None:
    path = surface.path
    if path is None:
        return
    (line,) = axes.plot(path.x, path.y, color=LINE, linewidth=1.8, path_effects=_cased(), zorder=3)
    line.set_gid(f"{ON_MAP}-path")
    ends = {"start": (path.x[:1], path.y[:1], CASING), "end": (path.x[-1:], path.y[-1:], LINE)}
    for name, (x, y, fill) in ends.items():
        if not inside(surface, x, y).all():
            continue
        (dot,) = axes.plot(x, y, "o", color=LINE, markersize=5, markerfacecolor=fill, path_effects=_cased(), zorder=3.5)
        dot.set_gid(f"{ON_MAP}-{name}")
    outside = int(np.sum(~inside(surface, path.x, path.y)))
    left = f", {outside} of {path.x.size} points outside" if outside else ""
    axes.plot([], [], color=LINE, linewidth=1.8, label=entry(f"{path.label} (from ○ to ●{left})", width))


def _draw_spot(axes: "Axes", surface: Surface, index: int, width: int) -> None:
    spot = surface.points[index]
    shape = SHAPES[(index + 1) % len(SHAPES)]
    if shown := inside(surface, np.array(spot.x), np.array(spot.y)).all():
        (dot,) = axes.plot(spot.x, spot.y, shape, color=LINE, markersize=6, path_effects=_cased(), zorder=4)
        dot.set_gid(f"{ON_MAP}-spot-{index}")
    words = spot.label if shown else f"{spot.label} (outside)"
    axes.plot([], [], shape, color=LINE, markersize=6, label=entry(words, width))


def _cased() -> "list[AbstractPathEffect]":
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=3.6, foreground=CASING), Normal()]


def _gaps(surface: Surface) -> str:
    """How many heights the drawing cannot show."""
    missing = int(np.sum(~np.isfinite(surface.z)))
    return f" ({missing} of {surface.z.size:,} not finite)" if missing else ""
