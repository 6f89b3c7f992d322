"""The table of a figure holds the figure's points, and says how many it leaves out."""

import numpy as np
import pytest

from report.samples import chart, heat_map, surface
from widescape.core.chart import Series, Spot, Trace
from widescape.report.points import LEAST, MAX_ROWS, MOST, SIDE, points


def test_a_short_series_is_there_point_by_point_with_its_interval():
    table = points(chart())
    assert table.columns == ("width", "distance", "from", "to")
    (part,) = table.series
    assert (part.label, part.span) == ("mean", "3 points")
    assert part.rows == ((1, 0.1, 0.01, 0.31), (2, 0.2, 0.11, 0.41), (3.25, 0.3, 0.21, 0.51))
    assert table.complete


def test_without_intervals_there_are_no_columns_for_them():
    table = points(chart(series=(Series([1.0], [2.0], "one"),)))
    assert table.columns == ("width", "distance")
    assert table.series[0].rows == ((1.0, 2.0),)
    assert table.series[0].span == "1 point"


def test_a_series_without_intervals_beside_one_that_has_them_leaves_their_cells_empty():
    table = points(chart(series=(*chart().series, Series([1.0], [2.0], "one"))))
    assert table.series[1].rows == ((1.0, 2.0, None, None),)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_of_a_long_series_the_first_the_last_and_some_between_are_there(scale):
    ranks = np.arange(1.0, 1298.0)
    table = points(chart(series=(Series(ranks, -ranks, "spectrum"),), x_scale=scale))
    (part,) = table.series
    assert MOST // 2 <= len(part.rows) <= MOST
    assert (part.rows[0], part.rows[-1]) == ((1, -1), (1297, -1297))
    assert all(y == -x for x, y in part.rows)
    assert [x for x, _ in part.rows] == sorted({x for x, _ in part.rows})
    halves = [sum(x < middle for x, _ in part.rows) for middle in (36, 649)]
    assert halves[0] >= 5 if scale == "log" else abs(2 * halves[1] - len(part.rows)) <= 1
    assert part.span == f"{len(part.rows)} of 1,297 points"
    assert not table.complete


def test_many_series_share_the_rows_and_each_keeps_some():
    x = np.arange(50.0)
    eight = points(chart(series=tuple(Series(x, x, f"s{i}") for i in range(8)))).series
    assert {len(part.rows) for part in eight} <= set(range(2, MAX_ROWS // 8 + 1))
    hundred = points(chart(series=tuple(Series(x, x, f"s{i}") for i in range(100)))).series
    assert len(hundred) == 100
    assert {2 <= len(part.rows) <= LEAST for part in hundred} == {True}


def test_points_that_are_not_finite_are_no_hindrance():
    x = np.full(40, np.nan)
    (part,) = points(chart(series=(Series(x, x, "nothing"),))).series
    assert 0 < len(part.rows) <= MOST
    mixed = np.where(np.arange(40) % 2, np.inf, np.arange(40.0))
    (part,) = points(chart(series=(Series(mixed, mixed, "half"),), x_scale="log")).series
    assert 0 < len(part.rows) <= MOST


def test_of_a_surface_the_lowest_and_the_highest_point_and_an_even_part_of_the_grid_are_there():
    drawn = surface()
    table = points(drawn)
    assert table.columns == ("first direction", "second direction", "loss")
    lowest, highest, grid, path, *spots = table.series
    assert (lowest.label, lowest.span) == ("lowest point of the grid", "1 point")
    assert lowest.rows[0][2] == drawn.z.min()
    assert highest.rows[0][2] == drawn.z.max()
    assert grid.span == f"{SIDE**2} of 1,271 points"
    for x, y, z in (*grid.rows, *lowest.rows, *highest.rows):
        assert z == drawn.z[np.flatnonzero(drawn.x == x)[0], np.flatnonzero(drawn.y == y)[0]]
    assert {(x, y) for x in (-1, 1) for y in (-1.5, 1.5)} <= {row[:2] for row in grid.rows}
    assert (path.label, path.span) == ("training", f"{MOST} of 40 points")
    assert path.rows[0] == (drawn.path.x[0], drawn.path.y[0], None)
    assert [spot.rows for spot in spots] == [((0.5, 0.5, None),), ((0.0, 0.0, 0.27),)]
    assert sum(len(part.rows) for part in table.series) <= MAX_ROWS
    assert not table.complete


def test_a_small_surface_is_there_point_by_point():
    z = [[1.0, np.inf], [3.0, 2.0]]
    table = points(surface(x=[0, 1], y=[5, 6], z=z, path=Trace([0], [5], "p", [9]), points=(Spot(0, 5, "s"),)))
    assert table.complete
    assert table.series[0].rows == ((0, 5, 1),)
    assert table.series[1].rows == ((1, 5, 3),)
    assert table.series[2].rows == ((0, 5, 1), (0, 6, np.inf), (1, 5, 3), (1, 6, 2))
    assert table.series[3].rows == ((0, 5, 9),)
    assert table.series[4].rows == ((0, 5, None),)


def test_a_small_heat_map_is_there_row_by_row_by_its_names():
    table = points(heat_map())
    assert table.columns == ("layer of the second network", "similarity")
    assert [part.label for part in table.series] == list(heat_map().rows)
    assert table.series[2].rows == (("1 Dense + Gelu", 0.4), ("2 Dense + Gelu", None), ("3 Dense", 0.6))
    assert table.complete


def test_of_a_large_heat_map_the_lowest_and_the_highest_entry_and_an_even_part_are_there():
    values = np.arange(1.0, 301.0).reshape(20, 15)
    values[0, 1], values[7, 3] = np.nan, 999
    names = tuple(map(str, range(20)))
    table = points(heat_map(rows=names, columns=names[:15], values=values))
    lowest, highest, *rows = table.series
    assert (lowest.label, lowest.rows) == ("lowest value, in 0", (("0", 1.0),))
    assert (highest.label, highest.rows) == ("highest value, in 7", (("3", 999.0),))
    assert [part.span for part in rows] == [f"{SIDE} of 15 points"] * SIDE
    assert (rows[0].label, rows[-1].label) == ("0", "19")
    assert rows[-1].rows[-1] == ("14", 300.0)
    assert not table.complete
    assert sum(len(part.rows) for part in table.series) <= MAX_ROWS
