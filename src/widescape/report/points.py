"""The points of a chart as rows of a table, for readers who want the numbers behind a figure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from widescape.core.chart import Drawable, HeatMap, Scale, Series, Surface, Trace

MAX_ROWS = 80
"""Rows of a table, as long as each series keeps `LEAST`."""

MOST = 20
"""Rows of one series."""

LEAST = 4
"""Rows that a series keeps in a chart of very many."""

SIDE = 7
"""Coordinates of either direction at which the heights of a surface, or the entries of a heat map, are listed."""


@dataclass(frozen=True)
class Rows:
    """Some points of one series, or all.

    Attributes:
        label: what the legend says.
        rows: abscissa and ordinate of each point, and the ends of its interval if it has one; names of what has no
            coordinate.
        total: how many points the series has.
    """

    label: str
    rows: tuple[tuple[str | float | None, ...], ...]
    total: int

    @property
    def span(self) -> str:
        """How many of the points are there, in words."""
        if len(self.rows) < self.total:
            return f"{len(self.rows)} of {self.total:,} points"
        return "1 point" if self.total == 1 else f"{self.total} points"


@dataclass(frozen=True)
class Points:
    """A table of the points of a chart.

    Attributes:
        columns: the headings.
        series: the rows, series by series.
    """

    columns: tuple[str, ...]
    series: tuple[Rows, ...]

    @property
    def complete(self) -> bool:
        """Whether every point of every series is there."""
        return all(len(part.rows) == part.total for part in self.series)


def points(chart: Drawable) -> Points:
    """The points of `chart` to at most a readable number of rows.

    A series with too many points keeps some, the first and the last among them: half of these are
    evenly spaced in the order of the series, half along the horizontal axis as it is drawn. Of a
    surface there are its lowest and its highest point, some on an even part of the grid, the corners
    among them, and the points of its path. A heat map is there row by row; of a large one there are its
    lowest and its highest entry, and some rows and columns.
    """
    if isinstance(chart, Surface):
        return _of_surface(chart)
    if isinstance(chart, HeatMap):
        return _of_heat_map(chart)
    intervals = any(series.low is not None for series in chart.series)
    most = min(MOST, max(LEAST, MAX_ROWS // max(1, len(chart.series))))
    return Points(
        columns=(chart.x_label, chart.y_label, *(("from", "to") if intervals else ())),
        series=tuple(
            Rows(series.label, tuple(_rows(series, chart.x_scale, most, intervals)), series.x.size)
            for series in chart.series
        ),
    )


def _of_surface(surface: Surface) -> Points:
    heights = np.where(np.isfinite(surface.z), surface.z, np.nan)
    ends = {"lowest": np.nanargmin(heights), "highest": np.nanargmax(heights)}
    found = {name: np.unravel_index(place, heights.shape) for name, place in ends.items()}
    parts = [Rows(f"{name} point of the grid", (_height(surface, *place),), 1) for name, place in found.items()]
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, SIDE)).astype(int)) for n in heights.shape)
    grid = tuple(_height(surface, i, j) for i in rows for j in columns)
    parts.append(Rows("grid", grid, heights.size))
    if surface.path is not None:
        parts.append(_of_path(surface.path))
    parts += [Rows(spot.label, ((spot.x, spot.y, spot.z),), 1) for spot in surface.points]
    return Points((surface.x_label, surface.y_label, surface.z_label), tuple(parts))


def _of_heat_map(heat: HeatMap) -> Points:
    rows, columns = (np.arange(n) for n in heat.values.shape)
    parts = []
    if heat.values.size > MAX_ROWS:
        ends = {"lowest": np.nanargmin(heat.values), "highest": np.nanargmax(heat.values)}
        for name, place in ends.items():
            i, j = np.unravel_index(place, heat.values.shape)
            parts.append(Rows(f"{name} value, in {heat.rows[i]}", (_entry(heat, i, j),), 1))
        rows, columns = (np.unique(np.linspace(0, n - 1, min(n, SIDE)).astype(int)) for n in heat.values.shape)
    parts += [Rows(heat.rows[i], tuple(_entry(heat, i, j) for j in columns), len(heat.columns)) for i in rows]
    return Points((heat.x_label, heat.value_label), tuple(parts))


def _entry(heat: HeatMap, i: np.integer, j: np.integer) -> tuple[str, float | None]:
    """The name of a column and the value there, None where it is undefined."""
    value = float(heat.values[i, j])
    return heat.columns[j], None if np.isnan(value) else value


def _height(surface: Surface, i: np.integer, j: np.integer) -> tuple[float, float, float]:
    return float(surface.x[i]), float(surface.y[j]), float(surface.z[i, j])


def _of_path(path: Trace) -> Rows:
    """Some points of a path, evenly spaced in its order; it has no height of its own where it lies on the surface."""
    chosen = np.unique(np.linspace(0, path.x.size - 1, min(path.x.size, MOST)).astype(int))
    rows = ((float(path.x[k]), float(path.y[k]), None if path.z is None else float(path.z[k])) for k in chosen)
    return Rows(path.label, tuple(rows), path.x.size)


def _rows(series: Series, scale: Scale, most: int, intervals: bool) -> Iterator[tuple[float | None, ...]]:
    for index in _chosen(series.x, scale, most):
        row = (float(series.x[index]), float(series.y[index]))
        if not intervals:
            yield row
        elif series.low is None or series.high is None:
            yield (*row, None, None)
        else:
            yield (*row, float(series.low[index]), float(series.high[index]))


def _chosen(x: np.ndarray, scale: Scale, most: int) -> list[int]:
    """Places of at most `most` points: half even in the order of the series, half even along the axis."""
    if x.size <= most:
        return list(range(x.size))
    places = {int(place) for place in np.linspace(0, x.size - 1, most // 2)}
    finite = np.flatnonzero(np.isfinite(x) & ((x > 0) | (scale == "linear")))
    if finite.size:
        along = np.log(x[finite]) if scale == "log" else x[finite]
        targets = np.linspace(along.min(), along.max(), most - most // 2)
        places |= {int(finite[np.argmin(np.abs(along - target))]) for target in targets}
    return sorted(places)
