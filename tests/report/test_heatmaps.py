"""Each cell of a heat map has the color and the text of its value, in its place, at every size."""

import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image, ImageColor

from report.samples import LONG, UNBROKEN, chapter, heat_map, large, survey
from widescape.core.chart import HeatMap
from widescape.report import figures, heatmaps, page, style, surfaces
from widescape.report.inline import INK

MINUS = "\N{MINUS SIGN}"


def by_gid(figure, gid):
    """The drawn things of a map by the end of their gid."""
    return [artist for artist in figure.findobj() if artist.get_gid() == f"on-map-{gid}"]


def values_of(figure):
    """The texts in cells, by their place."""
    found = {}
    for text in figure.axes[0].texts:
        place = re.fullmatch(r"on-map-value-(\d+)-(\d+)", text.get_gid())
        found[int(place[1]), int(place[2])] = text
    return found


def contrast(first, second):
    luminances = []
    for color in (first, second):
        rgb = np.array(matplotlib.colors.to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminances.append(linear @ [0.2126, 0.7152, 0.0722])
    low, high = sorted(luminances)
    return (high + 0.05) / (low + 0.05)


def test_each_cell_has_the_color_of_its_value_and_the_first_row_is_on_top():
    figure = figures.draw(heat_map(limits=(0, 1)))
    (cells,) = by_gid(figure, "cells")
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("values", surfaces.colors(), N=heatmaps.SHADES)
    expected = shades(np.where(np.isnan(heat_map().values), 0, heat_map().values))
    drawn = cells.to_rgba(cells.get_array())
    defined = ~np.isnan(heat_map().values)
    np.testing.assert_allclose(drawn.reshape(4, 3, 4)[defined], expected[defined])
    axes = figure.axes[0]
    assert axes.get_xlim() == (0, 3)
    assert axes.get_ylim() == (4, 0)
    np.testing.assert_array_equal(cells.get_coordinates()[1, 2], [2, 1])


def test_values_beyond_the_limits_have_the_colors_of_the_ends():
    (cells,) = by_gid(figures.draw(heat_map(limits=(0.4, 0.6))), "cells")
    drawn = cells.to_rgba(cells.get_array()).reshape(4, 3, 4)
    ends = [matplotlib.colors.to_rgba(surfaces.colors()[end]) for end in (0, -1)]
    np.testing.assert_allclose(drawn[3, 0], ends[0])
    np.testing.assert_allclose(drawn[0, 0], ends[1])


def test_a_map_of_equal_values_has_one_color():
    (cells,) = by_gid(figures.draw(heat_map(values=np.full((4, 3), 0.25))), "cells")
    assert len(np.unique(cells.to_rgba(cells.get_array()).reshape(-1, 4), axis=0)) == 1


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
def test_each_value_stands_in_its_cell(size):
    heat = heat_map()
    figure = figures.draw(heat, size=size)
    found = values_of(figure)
    assert {place: text.get_text() for place, text in found.items()} == {
        (i, j): f"{heat.values[i, j]:.2f}" for i, j in np.ndindex(4, 3) if (i, j) != (2, 1)
    }
    axes = figure.axes[0]
    for (i, j), text in found.items():
        box = text.get_window_extent().transformed(axes.transData.inverted())
        assert j < box.x0 < box.x1 < j + 1
        assert i < min(box.y0, box.y1) < max(box.y0, box.y1) < i + 1
        assert (box.x0 + box.x1) / 2 == pytest.approx(j + 0.5, abs=0.02)
        assert (box.y0 + box.y1) / 2 == pytest.approx(i + 0.5, abs=0.02)


def test_every_value_stands_out_from_its_cell():
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    names = tuple(map(str, range(8)))
    figure = figures.draw(heat_map(rows=names, columns=names, values=ramp))
    (cells,) = by_gid(figure, "cells")
    colors = cells.to_rgba(cells.get_array()).reshape(8, 8, 4)
    found = values_of(figure)
    assert len(found) == 64
    assert {text.get_color() for text in found.values()} == {heatmaps.DARK, style.CASING}
    assert min(contrast(text.get_color(), colors[place][:3]) for place, text in found.items()) >= 4.5


def test_many_values_or_wide_ones_are_not_written():
    names = tuple(map(str, range(9)))
    assert values_of(figures.draw(heat_map(rows=names, columns=names[:1], values=np.ones((9, 1))))) == {}
    wide = heat_map(rows=names[:8], columns=names[:8], values=np.full((8, 8), -1e-9))
    assert len(values_of(figures.draw(wide, size=(9, 3.5)))) == 64
    assert values_of(figures.draw(wide, size=style.NARROW)) == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, 0.5, -1.0], ["0.00", "0.50", f"{MINUS}1.00"]),
        ([12.34, 1.0], ["12.3", "1.0"]),
        ([123.4, 99999], ["123", "99999"]),
        ([1e5, 1], ["1.0e+05", "1.0e+00"]),
        ([0.0123, 0.05], ["0.0123", "0.0500"]),
        ([0.001, 2e-5], [f"1.0e{MINUS}03", f"2.0e{MINUS}05"]),
        ([0.0, 0.0], ["0.00", "0.00"]),
    ],
)
def test_values_have_equally_many_decimals(values, words):
    assert heatmaps.written(np.array([values])).tolist() == [words]


def test_a_cell_without_a_value_is_gray_and_struck_through_and_the_legend_counts_it():
    figure = figures.draw(heat_map(undefined="no such layer"))
    (cells,) = by_gid(figure, "undefined")
    np.testing.assert_array_equal(cells.get_paths()[0].vertices[:4], [[1, 2], [2, 2], [2, 3], [1, 3]])
    np.testing.assert_allclose(cells.get_facecolor()[0], matplotlib.colors.to_rgba(heatmaps.UNDEFINED))
    (strokes,) = by_gid(figure, "strokes")
    np.testing.assert_array_equal(strokes.get_segments(), [[[1, 3], [2, 2]]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no such layer (1 of 12)"]
    assert figures.draw(heat_map(values=np.eye(4, 3))).legends == []


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
def test_rows_and_columns_are_named_and_of_many_names_some_are_left_out(size):
    axes = figures.draw(heat_map(), size=size).axes[0]
    assert [" ".join(label.get_text().split()) for label in axes.get_yticklabels()] == list(heat_map().rows)
    assert [" ".join(label.get_text().split()) for label in axes.get_xticklabels()] == list(heat_map().columns)
    names = tuple(f"layer {i}" for i in range(40))
    axes = figures.draw(heat_map(rows=names, columns=names, values=np.eye(40)), size=size).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(names[::3])
    np.testing.assert_array_equal(axes.get_xticks(), np.arange(0, 40, 4 if size == style.SIZE else 5) + 0.5)
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90.0}


@pytest.mark.parametrize("size", [style.SIZE, style.NARROW])
@pytest.mark.parametrize("name", ["long", "many", "full"])
def test_names_do_not_meet_and_stay_in_the_figure_and_the_map_keeps_its_height(size, name):
    (heat,) = (part for part in large().chapters[0].charts if isinstance(part, HeatMap) and part.name == name)
    figure = figures.draw(heat, size=size)
    axes = figure.axes[0]
    assert axes.get_window_extent().height / figure.dpi >= 0.78 * size[1]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        for box in (*boxes, axes.xaxis.label.get_window_extent(), axes.yaxis.label.get_window_extent()):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(first.overlaps(second) for first, second in pairwise(boxes))


def test_names_that_do_not_fit_end_in_dots():
    axes = figures.draw(heat_map(rows=(LONG, UNBROKEN, "short", ""))).axes[0]
    first, second, *others = (label.get_text() for label in axes.get_yticklabels())
    assert first.startswith("the distance")
    assert first.endswith("…")
    assert second.startswith("a_name_without")
    assert second.endswith("…")
    assert others == ["short", ""]
    assert all(len(line) <= 16 for text in (first, second) for line in text.splitlines())


def test_the_description_names_the_ends_and_the_gaps():
    label = ElementTree.fromstring(figures.svg(heat_map())).get("aria-label")
    assert label == (
        "Layers are like their counterparts. Horizontal axis: layer of the second network. Vertical axis: layer of the "
        "first network. Color: similarity. Lowest 0.02 in row 4 Dense, column 1 Dense + Gelu. Highest 0.97 in row "
        "1 Conv + Relu, column 1 Dense + Gelu. 1 undefined."
    )


def test_a_heat_map_is_an_svg_and_a_png_and_its_ink_is_that_of_the_page():
    svg = figures.svg(heat_map(), prefix="left")
    assert svg == figures.svg(heat_map(), prefix="left")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) > 12
    assert all(name.startswith("left-") for name in ids)
    assert INK not in svg
    assert "data:image" not in svg
    many = heat_map(rows=("a",) * 40, columns=("b",) * 40, values=np.eye(40))
    assert "data:image/png" in figures.svg(many)
    image = Image.open(io.BytesIO(figures.png(heat_map(), dpi=80))).convert("RGB")
    pixels = np.asarray(image).reshape(-1, 3)
    for color in (surfaces.colors()[0], surfaces.colors()[-1], heatmaps.UNDEFINED):
        assert np.any(np.abs(pixels - np.array(ImageColor.getrgb(color))).max(axis=1) < 12), color


def test_a_page_shows_a_heat_map_with_its_numbers_and_runs_no_script():
    html = page.render(survey(chapter(charts=(heat_map(),))))
    assert "<script" not in html
    table = html.split('<details class="points">')[1].split("</details>")[0]
    assert re.search(r'<td class="number">2 Dense \+ Gelu</td>\s*<td class="number">\N{EN DASH}</td>', table)
    assert re.search(r'<td class="number">3 Dense</td>\s*<td class="number">0.125</td>', table)
    assert html.count("svg-wide-kernel-layers-on-map-cells") >= 1
    assert html.count("svg-narrow-kernel-layers-on-map-cells") >= 1
