"""What the page turns is the surface: its heights, its ticks, and lines that lie on it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from report.samples import large, surface
from widescape.core.chart import Spot, Surface, Trace
from widescape.report import style, surfaces
from widescape.report.numbers import MINUS
from widescape.report.surfaces import MOST, PIECES, extent, heights, ticks, view


def plane(**changes):
    """z = 1 + x + 2 y on an uneven grid over (0, 2) x (0, 4)."""
    x, y = np.array([0.0, 0.5, 2.0]), np.array([0.0, 1.0, 1.5, 4.0])
    parts = {"name": "p", "title": "t", "x_label": "x", "y_label": "y", "z_label": "z", "x": x, "y": y}
    return Surface(**(parts | {"z": 1 + x[:, None] + 2 * y[None]} | changes))


def path(data):
    return np.array([place for place in data["path"] if place is not None])


def test_the_grid_and_the_heights_fill_the_unit_box():
    data = view(plane())
    assert data["x"] == [0, 0.25, 1]
    assert data["y"] == [0, 0.25, 0.375, 1]
    np.testing.assert_allclose(data["z"], (plane().z - 1) / 10, atol=5e-5)
    assert data["colored"] == [0, 1]
    assert data["labels"] == ["x", "y", "z"]
    assert data["path"] == data["points"] == []


def test_on_a_logarithmic_axis_the_height_is_the_decimal_logarithm():
    logarithmic = plane(z_scale="log")
    np.testing.assert_array_equal(heights(logarithmic), np.log10(plane().z))
    np.testing.assert_allclose(view(logarithmic)["z"], np.log10(plane().z) / np.log10(11), atol=5e-5)


def test_ticks_stand_at_the_values_they_name():
    places = [(-1.0, f"{MINUS}1"), (-0.5, f"{MINUS}0.5"), (0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    assert ticks(-1.0, 1.0, "linear") == places
    assert ticks(-2.0, 0.5, "log") == [
        (pytest.approx(np.log10(float(words))), words)
        for words in ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2")
    ]
    assert [words for _, words in ticks(-9.0, -1.0, "log")] == [f"10⁻{power}" for power in "⁹⁸⁷⁶⁵⁴³²¹"]
    assert [words for _, words in ticks(0.0, 4e-7, "linear")] == ["0", "10⁻⁷", "2·10⁻⁷", "3·10⁻⁷", "4·10⁻⁷"]
    data = view(plane(z_scale="log"))
    for at, words in data["ticks"][2]:
        assert at == pytest.approx(np.log10(float(words)) / np.log10(11), abs=1e-4)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_every_axis_of_every_sample_has_ticks_inside_of_the_box(scale):
    for part in (plane(z_scale=scale), *(c for c in large().chapters[0].charts if isinstance(c, Surface))):
        for axis in view(part)["ticks"]:
            assert 3 <= len(axis) <= 10
            assert all(0 <= at <= 1 for at, _ in axis)


def test_a_path_without_heights_lies_on_the_surface():
    line = view(plane(path=Trace([0.1, 1.9, 1.0], [0.2, 3.0, 0.1], "line")))
    x, y, z = path(line).T
    np.testing.assert_allclose(z, (2 * x + 8 * y) / 10, atol=2e-4)
    np.testing.assert_allclose(path(line)[[0, -1], 0], [0.05, 0.5], atol=1e-4)


def test_between_the_corners_of_a_cell_the_surface_is_bilinear():
    x = y = np.array([0.0, 1.0])
    saddle = plane(x=x, y=y, z=np.outer(x, y), points=(Spot(0.5, 0.25, "a"), Spot(1.0, 1.0, "corner")))
    assert [dot["place"] for dot in view(saddle)["points"]] == [[0.5, 0.25, 0.125], [1, 1, 1]]


def test_a_path_with_heights_keeps_them_and_widens_the_box():
    data = view(plane(path=Trace([0, 1], [0, 2], "line", [0, 21]), points=(Spot(2, 4, "over", 1.0),)))
    np.testing.assert_allclose(path(data)[[0, -1], 2], [0, 1])
    np.testing.assert_allclose(data["colored"], [1 / 21, 11 / 21], atol=1e-4)
    np.testing.assert_allclose(data["points"][0]["place"], [1, 1, 1 / 21], atol=1e-4)


def test_the_pieces_of_a_path_are_shorter_than_a_cell_and_meet_its_points():
    line = Trace([0, 2, 2, 0], [0, 4, 0, 4], "line")
    data = view(plane(path=line))
    x, y = path(data)[:, 0], path(data)[:, 1]
    cells = [np.interp(values, data[name], np.arange(len(data[name]))) for name, values in (("x", x), ("y", y))]
    assert max(np.abs(np.diff(part)).max() for part in cells) <= 0.5 + 1e-9
    for corner in ([0, 0], [1, 1], [1, 0], [0, 1]):
        assert corner in path(data)[:, :2].tolist()


def test_a_long_path_is_thinned_from_its_first_to_its_last_point():
    turns = np.linspace(0, 300, 9000)
    data = view(plane(path=Trace(1 + np.cos(turns), 2 + 2 * np.sin(turns), "line")))
    assert len(data["path"]) == PIECES + 1
    np.testing.assert_allclose(data["path"][0][:2], [1, 0.5], atol=1e-4)
    np.testing.assert_allclose(data["path"][-1][:2], [(1 + np.cos(300)) / 2, (1 + np.sin(300)) / 2], atol=1e-4)


def test_beside_the_grid_a_path_is_interrupted_and_points_are_left_out():
    spots = (Spot(0, 0, "in"), Spot(-1, 0, "beside"), Spot(9, 9, "out"))
    data = view(plane(path=Trace([-1, 1, 1], [1, 1, 9], "line", [1e9, 3, 1e9]), points=spots))
    assert data["path"][0] is None
    assert data["path"][-1] is None
    assert len(path(data)) > 2
    assert [dot["label"] for dot in data["points"]] == ["in"]


def test_heights_that_are_not_finite_leave_a_gap_in_the_grid_and_in_what_lies_on_it():
    z = plane().z.copy()
    z[0, 0] = np.inf
    data = view(plane(z=z, points=(Spot(0.1, 0.1, "gap"), Spot(2, 4, "beside"))))
    assert data["z"][0][0] is None
    assert None not in data["z"][1]
    assert [dot["label"] for dot in data["points"]] == ["beside"]


def test_a_level_surface_lies_in_the_middle_of_its_box():
    for scale in ("linear", "log"):
        assert np.unique(view(plane(z=np.full((3, 4), 7.0), z_scale=scale))["z"]).tolist() == [0.5]
    assert extent(np.zeros(3)) == (-0.05, 0.05)
    assert extent(np.array([1.0, np.nan, 3.0])) == (1.0, 3.0)


def test_a_fine_grid_is_thinned_to_its_outer_lines_and_some_between():
    x, y = np.linspace(0, 1, 301), np.linspace(0, 1, 5)
    data = view(plane(x=x, y=y, z=np.add.outer(x, y)))
    assert np.shape(data["z"]) == (MOST, 5)
    assert (data["x"][0], data["x"][-1]) == (0, 1)
    np.testing.assert_allclose(np.array(data["z"])[:, 0], np.array(data["x"]) / 2, atol=1e-4)


def test_the_data_of_the_page_are_strict_json_and_small():
    for part in (surface(), *(c for c in large().chapters[0].charts if isinstance(c, Surface))):
        text = json.dumps(view(part), allow_nan=False)
        assert len(text) < 60_000
        assert json.loads(text)["labels"] == [part.x_label, part.y_label, part.z_label]


def luminance(color):
    values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_higher_is_lighter_also_for_those_who_see_no_colors():
    shades = [luminance(color) for color in surfaces.colors()]
    assert np.all(np.diff(shades) > 0)
    assert shades[-1] > 10 * shades[0]


def test_the_path_stands_out_against_its_casing_which_parts_it_from_the_colors_of_the_surface():
    assert contrast(style.LINE, style.CASING) >= 3


def test_importing_the_files_of_surfaces_does_not_import_matplotlib():
    code = "import sys, widescape.report.contours, widescape.report.surfaces\nsys.exit('matplotlib' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
