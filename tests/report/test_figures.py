"""A chart's figure shows exactly its numbers, in any theme, and refuses what it cannot show."""

import io
import os
import re
import subprocess
import sys
from importlib import resources
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from widescape.core.chart import Chart, Marker, Series, Spot, Surface, Trace
from widescape.report import figures, style, surfaces
from widescape.report.inline import INK

WIDTHS = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])


def decay(**changes):
    """A chart with a line in a band, points with bars, and two markers."""
    parts = {
        "name": "decay",
        "title": "The distance falls with the width",
        "x_label": "width",
        "y_label": "distance",
        "x_scale": "log",
        "y_scale": "log",
        "series": (
            Series(WIDTHS, 2 / WIDTHS, "theory", 1 / WIDTHS, 4 / WIDTHS),
            Series(WIDTHS, 3 / WIDTHS, "measured", 2 / WIDTHS, 5 / WIDTHS, "points"),
            Series(WIDTHS, 9 / WIDTHS, "trained", style="both"),
        ),
        "markers": (Marker(0.01, "tolerance"), Marker(300.0, "inputs", "x")),
    }
    return Chart(**(parts | changes))


def plain(*series, **changes):
    """A chart with linear axes and nothing but `series`."""
    return decay(**({"series": series, "x_scale": "linear", "y_scale": "linear", "markers": ()} | changes))


def curves(figure):
    """The drawn series by what the legend says."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def ids(svg):
    return re.findall(r'\bid="([^"]*)"', svg)


def texts(svg):
    """The words in a figure, one string for each run of text."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def test_the_drawn_points_are_the_points_of_the_chart():
    drawn = curves(figures.draw(decay()))
    for series in decay().series:
        np.testing.assert_array_equal(drawn[series.label].get_xdata(), series.x)
        np.testing.assert_array_equal(drawn[series.label].get_ydata(), series.y)


def test_the_axes_have_the_scales_and_labels_of_the_chart():
    axes = figures.draw(decay(y_scale="linear")).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("width", "distance")


def test_the_bars_and_the_band_end_where_the_intervals_end():
    axes = figures.draw(decay()).axes[0]
    bars = next(c for c in axes.collections if type(c).__name__ == "LineCollection" and c.get_segments())
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.column_stack([2 / WIDTHS, 5 / WIDTHS]))
    band = next(c for c in axes.collections if type(c).__name__.endswith("PolyCollection"))
    assert set(band.get_paths()[0].vertices[:, 1]) == set(1 / WIDTHS) | set(4 / WIDTHS)


def test_drawing_twice_gives_the_same_svg():
    assert figures.svg(decay()) == figures.svg(decay())
    assert figures.png(decay()) == figures.png(decay())


def test_the_svg_does_not_depend_on_the_process():
    code = (
        "from widescape.core.chart import Chart, Series\n"
        "from widescape.report import figures\n"
        "print(figures.svg(Chart('c', 't', 'x', 'y', (Series([1, 2], [3, 4], 'a', [2, 3], [4, 5]),))))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert b"<svg" in outputs.pop()


def test_ids_begin_with_the_prefix_and_every_reference_resolves():
    svg = figures.svg(decay(), prefix="left")
    assert len(ids(svg)) == len(set(ids(svg))) > 0
    assert all(name.startswith("left-") for name in ids(svg))
    references = re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
    assert references
    assert set(references) <= set(ids(svg))
    assert "DejaVu" not in svg


def test_two_charts_share_no_id():
    assert not set(ids(figures.svg(decay()))) & set(ids(figures.svg(decay(name="other"))))


def test_an_svg_takes_the_color_of_the_text_around_it():
    svg = figures.svg(decay())
    assert INK not in svg
    assert "stroke: currentColor" in svg
    texts = re.findall(r"<text [^>]*>", svg)
    assert texts
    assert all("fill: currentColor" in text for text in texts)


def test_an_svg_is_one_transparent_element_that_styles_nothing_else():
    svg = figures.svg(decay())
    root = ElementTree.fromstring(svg)
    assert svg.startswith("<svg")
    assert root.get("role") == "img"
    assert not [e for e in root.iter() if e.tag.endswith(("style", "metadata", "script"))]
    assert "#ffffff" not in svg


def test_text_stays_text_and_is_not_taken_for_tex():
    chart = decay(title="cost in $ and <b> $x_1$", x_label="a $ b $ c")
    assert {"cost in $ and <b> $x_1$", "a $ b $ c", "tolerance", "measured"} <= set(texts(figures.svg(chart)))


def test_the_title_can_be_left_to_the_page():
    assert decay().title in texts(figures.svg(decay()))
    assert decay().title not in texts(figures.svg(decay(), titled=False))


def test_the_description_names_axes_and_series():
    label = ElementTree.fromstring(figures.svg(decay())).get("aria-label")
    for words in (decay().title, "width", "distance", "theory", "measured"):
        assert words in label


def test_a_png_shows_every_series_on_white():
    image = Image.open(io.BytesIO(figures.png(decay(), dpi=80))).convert("RGB")
    assert image.size == (416, 280)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    pixels = np.asarray(image).reshape(-1, 3)
    for color in style.COLORS[:3]:
        assert np.any(np.abs(pixels - np.array(ImageColor.getrgb(color))).max(axis=1) < 8), color
    assert not np.any(np.abs(pixels - np.array(ImageColor.getrgb(style.COLORS[4]))).max(axis=1) < 8)


def test_series_differ_in_more_than_color():
    lines = [Series(WIDTHS, WIDTHS + i, f"line {i}") for i in range(8)]
    points = [Series(WIDTHS, WIDTHS + i, f"points {i}", style="points") for i in range(7)]
    four = curves(figures.draw(plain(*lines[:4]))).values()
    assert len({str(curve._unscaled_dash_pattern) for curve in four}) == 4
    assert {curve.get_marker() for curve in four} == {"none"}
    looks = [(str(c._unscaled_dash_pattern), c.get_marker()) for c in curves(figures.draw(plain(*lines))).values()]
    assert len(set(looks)) == 8
    assert len({c.get_marker() for c in curves(figures.draw(plain(*points))).values()}) == 7


LONG = "the distance between the predictions of the trained network and those of its limit"


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
@pytest.mark.parametrize("count", [1, 12, 40])
def test_long_labels_add_to_the_height_and_leave_the_axes_their_place(size, count):
    series = [Series(WIDTHS, WIDTHS + i, f"{LONG}, {i}") for i in range(count)]
    figure = figures.draw(plain(*series, title=LONG, x_label=LONG, y_label=LONG), size=size)
    assert figure.get_figwidth() == size[0]
    assert figure.axes[0].get_window_extent().height / figure.dpi >= 0.54 * size[1]
    whole = figure.bbox
    labels = [figure.axes[0].xaxis.label, figure.axes[0].yaxis.label, *figure.texts, *figure.legends]
    for text in labels:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_short_labels_leave_a_figure_its_size():
    for size in (style.SIZE, style.NARROW):
        short = plain(Series(WIDTHS, WIDTHS, "a"), Series(WIDTHS, WIDTHS + 1, "b"))
        assert tuple(figures.draw(short, size=size).get_size_inches()) == size


def luminance(color):
    values = np.array(ImageColor.getrgb(color)) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_every_color_stands_out_on_the_light_and_on_the_dark_page():
    css = (resources.files("widescape.report") / "templates" / "survey.css").read_text()
    papers = re.findall(r"--paper: (#\w{6})", css)
    assert len(papers) == 2
    for paper in papers:
        for color in style.COLORS:
            low, high = sorted([luminance(paper), luminance(color)])
            assert (high + 0.05) / (low + 0.05) >= 3, (paper, color)


def test_a_chart_without_series_is_refused():
    with pytest.raises(ValueError, match="chart 'decay' has no finite point"):
        figures.draw(decay(series=()))


@pytest.mark.parametrize("series", [Series([], [], "none"), Series([1.0, 2.0], [np.nan, np.inf], "none")])
def test_a_chart_without_a_finite_point_is_refused(series):
    with pytest.raises(ValueError, match="chart 'decay' has no finite point"):
        figures.draw(plain(series))


def test_series_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="series 'odd'"):
        Series([1.0, 2.0], [1.0], "odd")


@pytest.mark.parametrize("value", [0.0, -2.0])
@pytest.mark.parametrize(("axis", "scale"), [("x", "x_scale"), ("y", "y_scale")])
def test_a_logarithmic_axis_refuses_what_is_not_positive(axis, scale, value):
    points = {"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}
    points[axis][1] = value
    series = Series(points["x"], points["y"], "bad")
    figures.draw(plain(series))
    with pytest.raises(ValueError, match=rf"chart 'decay', series 'bad': `{axis}` is {value:g} at index 1"):
        figures.draw(plain(series, **{scale: "log"}))
    marked = plain(Series([1, 2], [1, 2], "good"), markers=(Marker(value, "m", axis),), **{scale: "log"})
    with pytest.raises(ValueError, match=r"chart 'decay', marker 'm'"):
        figures.draw(marked)


def test_a_marker_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="chart 'decay', marker 'm': its value is nan"):
        figures.draw(decay(markers=(Marker(float("nan"), "m"),)))


def test_an_interval_upside_down_is_refused():
    with pytest.raises(ValueError, match=r"series 'flip': `low` exceeds `high` at index 1"):
        figures.draw(plain(Series([1, 2], [1, 1], "flip", [0, 3], [2, 2])))


def test_on_a_logarithmic_axis_an_interval_that_reaches_zero_ends_at_the_edge_and_says_so():
    chart = plain(Series([1, 2], [1, 2], "error", [-1, 1], [3, 3], "points"), y_scale="log")
    figure = figures.draw(chart)
    (label,) = curves(figure)
    assert label == "error (intervals that reach zero end at the edge)"
    bars = next(c for c in figure.axes[0].collections if c.get_segments())
    assert bars.get_segments()[0][0, 1] == figure.axes[0].get_ylim()[0] == 0.5


def test_points_that_are_not_finite_leave_a_gap_and_are_counted():
    series = Series([1, 2, 3, 4], [1, np.nan, np.inf, 4], "loss", [0, 0, 0, 0], [5, 5, 5, np.inf])
    ((label, curve),) = curves(figures.draw(plain(series))).items()
    assert label == "loss (2 of 4 points not finite; 1 intervals not finite)"
    np.testing.assert_array_equal(curve.get_ydata(), [1, np.nan, np.nan, 4])


def test_a_point_without_neighbors_in_a_line_is_still_seen():
    curve = curves(figures.draw(plain(Series([1, 2, 3, 4], [1, np.nan, 3, 4], "loss"))))
    (curve,) = curve.values()
    assert curve.get_marker() == "o"
    assert curve.get_markevery() == [0]


def test_a_label_that_begins_with_an_underscore_stays_in_the_legend():
    assert "_hidden" in "".join(texts(figures.svg(plain(Series([1, 2], [1, 2], "_hidden")))))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([64.0, 2048.0], {"100", "200", "500", "1000"}),
        ([3e-9, 2.0], {"10⁻⁶", "10⁻³"}),
        ([0.5, 0.7], {"0.5", "0.6", "0.7"}),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_readable(values, ticks):
    svg = figures.svg(plain(Series(values, [1, 2], "s"), x_scale="log"))
    assert ticks <= set(texts(svg))


def test_a_long_series_is_stored_as_pixels():
    few, many = (Series(np.arange(n), np.arange(n), "s", style="points") for n in (2000, 2001))
    assert "data:image/png" not in figures.svg(plain(few))
    assert "data:image/png" in figures.svg(plain(many))


def test_settings_of_matplotlib_neither_change_nor_matter():
    expected = figures.svg(decay())
    with matplotlib.rc_context({"axes.labelsize": 30, "xtick.direction": "in", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert figures.svg(decay()) == expected
        assert dict(matplotlib.rcParams) == before


def test_importing_the_room_does_not_import_matplotlib():
    code = "import sys, widescape.report.figures, widescape.report.page\nsys.exit('matplotlib' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def bowl(**changes):
    """z = 1 + x^2 + 3 y on a grid of 5 by 4, with a path and points on and beside it."""
    x, y = np.linspace(-1, 1, 5), np.linspace(0, 3, 4)
    parts = {"name": "bowl", "title": "A bowl", "x_label": "first", "y_label": "second", "z_label": "loss"}
    extra = {
        "path": Trace([-1, 0, 5], [0, 1, 1], "walk"),
        "points": (Spot(0, 0, "center"), Spot(0, 9, "far")),
        "x": x,
        "y": y,
        "z": 1 + x[:, None] ** 2 + 3 * y[None],
    }
    return Surface(**(parts | extra | changes))


def by_gid(figure, gid):
    """The drawn things of a map by the end of their gid."""
    return [artist for artist in figure.findobj() if artist.get_gid() == f"on-map-{gid}"]


def test_each_contour_line_of_a_map_runs_where_the_surface_has_its_height():
    x = y = np.linspace(0, 1, 3)
    (lines,) = by_gid(figures.draw(bowl(x=x, y=y, z=np.add.outer(x, 2 * y), path=None, points=())), "lines")
    assert len(lines.levels) > 5
    for level, line in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(line.vertices @ [1, 2], level, atol=1e-12)


def test_the_bands_of_a_map_cover_the_heights_in_the_colors_of_the_surface():
    for scale in ("linear", "log"):
        (bands,) = by_gid(figures.draw(bowl(z_scale=scale)), "bands")
        low, high = (1, 11) if scale == "linear" else (0, np.log10(11))
        assert bands.levels[0] <= low < high <= bands.levels[-1]
        assert 6 <= len(bands.levels) <= 15
        assert bands.get_clim() == pytest.approx((low, high))
        colors = matplotlib.colors.LinearSegmentedColormap.from_list("heights", surfaces.colors())
        np.testing.assert_allclose(bands.cmap([0.0, 0.3, 1.0]), colors([0.0, 0.3, 1.0]))


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
def test_the_color_bar_names_the_heights_beside_the_map_and_above_a_narrow_one(size):
    figure = figures.draw(bowl(z_scale="log"), size=size)
    axes, bar = figure.axes
    axis = bar.yaxis if size == style.SIZE else bar.xaxis
    places = axis.get_majorticklocs()
    words = [tick.get_text() for tick in axis.get_majorticklabels()]
    assert words == ["1", "2", "5", "10"]
    np.testing.assert_allclose(places, np.log10([1, 2, 5, 10]))
    assert axis.get_label_text() == "loss"
    assert axis.get_view_interval() == pytest.approx([0, np.log10(11)])
    whole, part = axes.get_window_extent(), bar.get_window_extent()
    assert part.x0 > whole.x1 if size == style.SIZE else part.y0 > whole.y1


def test_the_axes_of_a_map_end_where_the_grid_ends():
    axes = figures.draw(bowl()).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-1, 1), (0, 3))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")


def test_a_map_shows_its_path_and_points_and_the_legend_says_what_is_outside():
    figure = figures.draw(bowl())
    (line,) = by_gid(figure, "path")
    np.testing.assert_array_equal(line.get_xydata(), [[-1, 0], [0, 1], [5, 1]])
    (start,) = by_gid(figure, "start")
    np.testing.assert_array_equal(start.get_xydata(), [[-1, 0]])
    (dot,) = by_gid(figure, "spot-0")
    np.testing.assert_array_equal(dot.get_xydata(), [[0, 0]])
    assert by_gid(figure, "end") == by_gid(figure, "spot-1") == []
    assert list(curves(figure)) == ["walk (from ○ to ●, 1 of 3 points outside)", "center", "far (outside)"]
    assert len({curve.get_marker() for curve in curves(figure).values()}) == 3


def test_a_map_counts_the_heights_that_are_not_finite_and_leaves_a_hole():
    z = bowl().z.copy()
    z[2, 1:3] = np.inf
    figure = figures.draw(bowl(z=z, path=None, points=()))
    assert figure.axes[1].get_ylabel().replace("\n", " ") == "loss (2 of 20 not finite)"
    full, holed = (by_gid(f, "bands")[0].get_paths() for f in (figures.draw(bowl()), figure))
    contains = [any(band.contains_point((0.0, 1.5)) for band in bands) for bands in (full, holed)]
    assert contains == [True, False]


@pytest.mark.parametrize("z", [np.zeros((5, 4)), np.full((5, 4), 1e-300), np.full((5, 4), -1e9)])
def test_a_level_surface_is_a_map_of_one_color(z):
    figure = figures.draw(bowl(z=z))
    assert by_gid(figure, "lines") == []
    assert len(by_gid(figure, "bands")) == 1


def test_the_description_of_a_map_names_its_axes_and_where_it_is_lowest_and_highest():
    label = ElementTree.fromstring(figures.svg(bowl())).get("aria-label")
    assert label.startswith("A bowl. Horizontal axis: first. Vertical axis: second. Color: loss.")
    assert "Lowest 1 at (0, 0). Highest 11 at (\N{MINUS SIGN}1, 3). Shown: walk; center; far." in label


def test_a_map_is_an_svg_and_a_png_as_a_chart_is():
    svg = figures.svg(bowl(), prefix="left")
    assert svg == figures.svg(bowl(), prefix="left")
    assert len(ids(svg)) == len(set(ids(svg))) > 0
    assert all(name.startswith("left-") for name in ids(svg))
    assert {"A bowl", "first", "second", "loss", "center"} <= set(texts(svg))
    assert INK not in svg
    assert "A bowl" not in texts(figures.svg(bowl(), titled=False))
    image = Image.open(io.BytesIO(figures.png(bowl(), dpi=80))).convert("RGB")
    pixels = np.asarray(image).reshape(-1, 3)
    (bands,) = by_gid(figures.draw(bowl()), "bands")
    for color in (style.LINE, *map(matplotlib.colors.to_hex, bands.get_facecolor())):
        assert np.any(np.abs(pixels - np.array(ImageColor.getrgb(color))).max(axis=1) < 12), color


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
def test_long_labels_of_a_map_add_to_the_height_and_leave_it_its_place(size):
    long = bowl(title=LONG, x_label=LONG, y_label=LONG, z_label=LONG, path=Trace([0, 1], [0, 1], LONG))
    figure = figures.draw(long, size=size)
    assert figure.axes[0].get_window_extent().height / figure.dpi >= 0.79 * size[1]
    for text in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label, *figure.texts, *figure.legends):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
