"""Surfaces in the unit box, as the page draws them: heights, ticks, and lines that lie on a surface."""

import math
from typing import Any

import numpy as np

from widescape.core.chart import Scale, Spot, Surface, Trace
from widescape.report.numbers import MINUS
from widescape.report.style import CASING, LINE, STEPS, log_locator, tick_text

Ticks = list[tuple[float, str]]

MOST = 61
"""Grid lines of either direction that the page turns; a finer surface keeps some, the outer ones among them."""

PIECES = 1500
"""Points of a line in the page."""

DARKEST = 0.06
"""Where in the color map the lowest height is: the colors below are lost on a dark page."""

STOPS = 17
"""Colors of the map in the page; those between are mixed."""


def heights(surface: Surface) -> np.ndarray:
    """How high the surface is drawn: its values or their decimal logarithms, NaN where not finite."""
    z = np.where(np.isfinite(surface.z), surface.z, np.nan)
    return lifted(z, surface.z_scale)


def lifted(z: np.ndarray, scale: Scale) -> np.ndarray:
    """Values as they are drawn on an axis of this scale."""
    return np.log10(z) if scale == "log" else z


def extent(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest of `values`, kept apart where they are equal."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    room = 0.05 * max(abs(low), 1.0)
    return low - room, high + room


def ticks(low: float, high: float, scale: Scale) -> Ticks:
    """Places between the heights `low` and `high` with the values there in words."""
    from matplotlib.ticker import MaxNLocator

    if scale == "log":
        first, last = 10.0**low, 10.0**high
        text = tick_text(first, last)
        values = log_locator(first, last, many=3).tick_values(first, last)
        places = [(math.log10(value), text(value, None)) for value in values if value > 0]
    else:
        values = MaxNLocator(nbins=6, steps=STEPS).tick_values(low, high)
        text = tick_text(float(np.max(np.abs(values))) / 10, float(np.max(np.abs(values))))
        places = [(float(value), _signed(value, text)) for value in values]
    room = 1e-9 * (high - low)
    return [(place, words) for place, words in places if low - room <= place <= high + room]


def inside(surface: Surface, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which of the points stand over the grid."""
    across = (surface.x[0] <= x) & (x <= surface.x[-1])
    within: np.ndarray = across & (surface.y[0] <= y) & (y <= surface.y[-1])
    return within


def view(surface: Surface) -> dict[str, Any]:
    """The surface in a box from 0 to 1 in each direction, rounded to what a screen shows.

    Holds the grid with the heights, the ticks and labels of the three axes, the colors from low to
    high with the heights between which they run, the path in pieces shorter than a cell (None where
    it is not over the grid), and the points.
    """
    thin = _thinned(surface)
    grid = heights(thin)
    path = [] if surface.path is None else [_climb(thin, grid, surface.path)]
    spots = [_climb(thin, grid, _alone(spot)) for spot in surface.points]
    colored = extent(heights(surface))
    low, high = extent(np.concatenate([colored, *(part[2] for part in (*path, *spots))]))
    ends = ((thin.x[0], thin.x[-1]), (thin.y[0], thin.y[-1]), (low, high))
    scales: tuple[Scale, Scale, Scale] = ("linear", "linear", surface.z_scale)
    return {
        "labels": [surface.x_label, surface.y_label, surface.z_label],
        "ticks": [
            [[_share(place, end), words] for place, words in ticks(*end, scale)]
            for end, scale in zip(ends, scales, strict=True)
        ],
        "x": _share(thin.x, ends[0]),
        "y": _share(thin.y, ends[1]),
        "z": _share(grid, ends[2]),
        "colored": [_share(end, ends[2]) for end in colored],
        "colors": colors(),
        "line": LINE,
        "casing": CASING,
        "path": [place for line in path for place in _places(line, ends)],
        "points": [
            {"label": spot.label, "place": place}
            for spot, line in zip(surface.points, spots, strict=True)
            for place in _places(line, ends)
            if place is not None
        ],
    }


def colors(count: int = STOPS) -> list[str]:
    """Colors from low to high: viridis, which is even to the eye and safe for color-blind readers."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(DARKEST, 1, count)]


def _signed(value: float, text: Any) -> str:
    return "0" if value == 0 else (MINUS if value < 0 else "") + text(abs(value), None)


def _thinned(surface: Surface) -> Surface:
    """The surface on at most `MOST` by `MOST` of its grid points."""
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, MOST)).astype(int)) for n in surface.z.shape)
    return Surface(
        surface.name,
        surface.title,
        surface.x_label,
        surface.y_label,
        surface.z_label,
        surface.x[rows],
        surface.y[columns],
        surface.z[np.ix_(rows, columns)],
        z_scale=surface.z_scale,
    )


def _alone(spot: Spot) -> Trace:
    """A line of one point."""
    z = None if spot.z is None else np.array([spot.z])
    return Trace(np.array([spot.x]), np.array([spot.y]), spot.label, z)


def _climb(surface: Surface, grid: np.ndarray, line: Trace) -> np.ndarray:
    """A line with its heights in pieces shorter than a cell, of shape (3, pieces); NaN beside the grid."""
    places = _divided(surface, line)
    x, y = (np.interp(places, np.arange(line.x.size), values) for values in (line.x, line.y))
    if line.z is None:
        z = _on_surface(surface, grid, x, y)
    else:
        z = np.interp(places, np.arange(line.x.size), lifted(line.z, surface.z_scale))
    climbed = np.stack([x, y, z])
    climbed[:, ~inside(surface, x, y) | ~np.isfinite(z)] = np.nan
    return climbed


def _divided(surface: Surface, line: Trace) -> np.ndarray:
    """Where along a line of T points, from 0 to T-1, its pieces end: each crosses at most half a cell."""
    if line.x.size < 2:
        return np.arange(line.x.size, dtype=np.float64)
    cells = [
        np.abs(np.diff(values)) / np.diff(axis).min() for values, axis in ((line.x, surface.x), (line.y, surface.y))
    ]
    pieces = np.maximum(1, np.ceil(2 * np.maximum(*cells)))
    ends = np.concatenate([[0.0], np.cumsum(pieces)])
    count = int(min(ends[-1], PIECES)) + 1
    return np.interp(np.linspace(0, ends[-1], count), ends, np.arange(line.x.size))


def _on_surface(surface: Surface, grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear between the four corners of the cell around each point."""
    i = np.clip(np.searchsorted(surface.x, x, side="right") - 1, 0, surface.x.size - 2)
    j = np.clip(np.searchsorted(surface.y, y, side="right") - 1, 0, surface.y.size - 2)
    s = (x - surface.x[i]) / (surface.x[i + 1] - surface.x[i])
    t = (y - surface.y[j]) / (surface.y[j + 1] - surface.y[j])
    near = (1 - t) * grid[i, j] + t * grid[i, j + 1]
    far = (1 - t) * grid[i + 1, j] + t * grid[i + 1, j + 1]
    height: np.ndarray = (1 - s) * near + s * far
    return height


def _share(values: Any, ends: tuple[float, float]) -> Any:
    """Where between `ends` the values are, four decimals, None for NaN."""
    shares = np.round((np.asarray(values) - ends[0]) / (ends[1] - ends[0]), 4)
    return np.where(np.isnan(shares), np.array(None), shares).tolist()


def _places(line: np.ndarray, ends: Any) -> list[list[float] | None]:
    """The points of a line in the box; None where it is interrupted."""
    shares = np.array([_share(values, end) for values, end in zip(line, ends, strict=True)], dtype=object)
    return [None if None in place else place for place in shares.T.tolist()]
