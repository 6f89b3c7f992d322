"""A chart is numbers and words, checked when made and ready for JSON."""

import json
import math

import numpy as np
import pytest

from widescape.core.chart import Chart, Marker, Series


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
