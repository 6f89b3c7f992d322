"""A chart is numbers and words, checked when made and ready for JSON."""

import json
import math

import numpy as np
import pytest

from widescape.core.chart import Chart, Drawable, HeatMap, Marker, Series, Spot, Surface, Trace


def chart(*series, **changes):
    parts = {"name": "c", "title": "A chart", "x_label": "x", "y_label": "y", "series": series}
    return Chart(**(parts | changes))


def test_coordinates_become_float64_arrays():
    series = Series([1, 2], (True, False), "s", np.zeros(2, np.float32), [1, 1])
    for values in (series.x, series.y, series.low, series.high):
        assert values.dtype == np.float64
    assert series.y.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2], [1]), ([[1, 2]], [[1, 2]]), (1.0, 2.0), ([1], [])],
    ids=["lengths", "matrix", "scalar", "empty"],
)
def test_coordinates_of_unequal_length_or_more_axes_are_refused(x, y):
    with pytest.raises(ValueError, match=r"'s'.*shape"):
        Series(x, y, "s")


@pytest.mark.parametrize("ends", [{"low": [0.0]}, {"high": [0.0]}, {"low": [0.0, 1.0], "high": [1.0, 2.0]}])
def test_an_interval_has_two_ends_as_long_as_the_series(ends):
    with pytest.raises(ValueError, match="'s'"):
        Series([1.0], [1.0], "s", **ends)


def test_a_chart_gives_back_every_number_and_word():
    drawn = chart(
        Series([1, 2], [3, 4], "s", [2, 3], [4, 5], "both"),
        Series([], [], "empty", style="points"),
        x_scale="log",
        caption="how to read it",
        markers=(Marker(0.5, "half", "x"), Marker(2, "two")),
    )
    document = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
    assert document == {
        "name": "c",
        "title": "A chart",
        "x": {"label": "x", "scale": "log"},
        "y": {"label": "y", "scale": "linear"},
        "caption": "how to read it",
        "series": [
            {"label": "s", "style": "both", "x": [1, 2], "y": [3, 4], "low": [2, 3], "high": [4, 5]},
            {"label": "empty", "style": "points", "x": [], "y": [], "low": None, "high": None},
        ],
        "markers": [{"axis": "x", "value": 0.5, "label": "half"}, {"axis": "y", "value": 2, "label": "two"}],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_of_a_chart_that_are_not_finite_are_json_by_name_as_in_a_result(value):
    drawn = chart(Series([1.0], [value], "s", [-math.inf], [value]), markers=(Marker(value, "m"),))
    document = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
    assert document["series"][0]["y"] == [str(value)]
    assert document["markers"][0]["value"] == str(value)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(2), np.array(0.5)], ids=["float32", "int64", "array"])
def test_markers_at_numpy_numbers_are_json(value):
    document = json.loads(json.dumps(chart(markers=(Marker(value, "m"),)).to_dict()))
    assert document["markers"][0]["value"] == float(value)


def surface(**changes):
    parts = {"name": "s", "title": "A surface", "x_label": "x", "y_label": "y", "z_label": "z"}
    return Surface(**(parts | {"x": [1, 2], "y": [0, 1, 3], "z": [[1, 2, 3], [4, 5, 6]]} | changes))


def test_a_surface_gives_back_every_number_and_word():
    drawn = surface(
        z_scale="log",
        path=Trace([1, 1.5], [0, 2], "walk", [7, 8]),
        points=(Spot(1, 2, "center"), Spot(np.float32(0.5), 2, "end", 0.25)),
        caption="how to read it",
    )
    document = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
    assert document == {
        "name": "s",
        "title": "A surface",
        "x": {"label": "x", "values": [1, 2]},
        "y": {"label": "y", "values": [0, 1, 3]},
        "z": {"label": "z", "scale": "log", "values": [[1, 2, 3], [4, 5, 6]]},
        "caption": "how to read it",
        "path": {"label": "walk", "x": [1, 1.5], "y": [0, 2], "z": [7, 8]},
        "points": [
            {"label": "center", "x": 1, "y": 2, "z": None},
            {"label": "end", "x": 0.5, "y": 2, "z": 0.25},
        ],
    }
    bare = surface(z=[[1, math.inf, 3], [4, 5, 6]], path=Trace([1], [1], "on it")).to_dict()
    assert bare["z"]["values"][0] == [1, "inf", 3]
    assert bare["path"]["z"] is None
    assert surface().to_dict()["path"] is None


def test_a_surface_and_its_path_are_float64():
    drawn = surface(path=Trace((1, 2), [1, 2], "walk", np.ones(2, np.float32)))
    for values in (drawn.x, drawn.y, drawn.z, drawn.path.x, drawn.path.y, drawn.path.z):
        assert values.dtype == np.float64


def heat_map(**changes):
    parts = {"name": "h", "title": "A heat map", "x_label": "x", "y_label": "y", "value_label": "v"}
    return HeatMap(**(parts | {"rows": ("a", "b"), "columns": ["c"], "values": [[1], [2]]} | changes))


def test_a_heat_map_gives_back_every_number_and_word():
    drawn = heat_map(values=[[1], [math.nan]], undefined="no layer", limits=(0, 3), caption="how to read it")
    assert drawn.values.dtype == np.float64
    assert drawn.columns == ("c",)
    assert json.loads(json.dumps(drawn.to_dict(), allow_nan=False)) == {
        "name": "h",
        "title": "A heat map",
        "x": {"label": "x", "names": ["c"]},
        "y": {"label": "y", "names": ["a", "b"]},
        "value": {"label": "v", "limits": [0, 3], "values": [[1], ["nan"]]},
        "undefined": "no layer",
        "caption": "how to read it",
    }
    assert heat_map().to_dict()["value"]["limits"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": [[1, 2]]}, r"'h': `values` has shape \(1, 2\), but there are 2 rows and 1 columns; .*\(2, 1\)"),
        ({"values": [1, 2]}, r"`values` has shape \(2,\)"),
        ({"values": [[1], [-math.inf]]}, r"'h': `values` is infinite at index \(1, 0\); give a number, or NaN"),
        ({"values": [[math.nan], [math.nan]]}, "'h' has no value to draw"),
        ({"values": np.ones((0, 1)), "rows": ()}, "'h' has no value to draw"),
        ({"limits": (1, 1)}, "'h': `limits` are 1 and 1; give two finite numbers in their order"),
        ({"limits": (0, math.inf)}, "`limits` are 0 and inf"),
    ],
)
def test_a_heat_map_that_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        heat_map(**changes)


def test_charts_surfaces_and_heat_maps_can_be_drawn():
    for drawn in (chart(), surface(), heat_map()):
        assert isinstance(drawn, Drawable)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"z": [[1, 2], [3, 4], [5, 6]]}, r"'s': `z` has shape \(3, 2\), but `x` has 2 and `y` 3 entries.*\(2, 3\)"),
        ({"z": [1, 2, 3]}, r"`z` has shape \(3,\)"),
        ({"x": [1]}, r"'s': `x` has shape \(1,\); give at least two"),
        ({"y": [[0, 1, 3]]}, r"'s': `y` has shape \(1, 3\)"),
        ({"x": [2, 1]}, r"'s': `x` does not increase: 2 at index 0, then 1"),
        ({"y": [0, 1, 1]}, r"'s': `y` does not increase: 1 at index 1, then 1"),
        ({"y": [0, math.inf, math.nan]}, r"'s': `y` is inf at index 1"),
        ({"z": [[1, 2, 3], [4, math.nan, 6]]}, r"'s': `z` is nan at index \(1, 1\)"),
        ({"z": np.full((2, 3), math.inf)}, "'s' has no finite height"),
        ({"z": [[1, 0, 3], [4, 5, 6]], "z_scale": "log"}, "'s': `z` is 0, but its axis is logarithmic"),
        ({"path": Trace([1], [1], "w", [-1.0]), "z_scale": "log"}, "'s': `z` of its path is -1, but its axis"),
        ({"points": (Spot(1, 1, "p", -2.0),), "z_scale": "log"}, "'s': `z` of spot 'p' is -2, but its axis"),
    ],
)
def test_a_surface_that_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        surface(**changes)


def test_on_a_linear_axis_heights_may_be_negative():
    assert surface(z=-np.ones((2, 3)), path=Trace([1], [1], "w", [-1.0])).z.max() == -1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (([1, 2], [1], "w"), r"trace 'w': `x` has shape \(2,\) and `y` \(1,\)"),
        (([[1]], [[1]], "w"), r"trace 'w': `x` has shape \(1, 1\)"),
        (([1, 2], [1, 2], "w", [1]), r"trace 'w': `z` has shape \(1,\); it must be as long as `x`, 2"),
        (([1, math.nan], [1, 2], "w"), "trace 'w': `x` is nan at index 1"),
        (([1, 2], [1, 2], "w", [math.inf, 2]), "trace 'w': `z` is inf at index 0"),
    ],
)
def test_a_path_that_does_not_fit_together_is_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        Trace(*parts)


@pytest.mark.parametrize("name", ["x", "y", "z"])
def test_a_spot_is_somewhere(name):
    with pytest.raises(ValueError, match=f"spot 'p': `{name}` is nan; leave the point out"):
        Spot(**({"x": 1.0, "y": 1.0, "label": "p", "z": 1.0} | {name: math.nan}))
