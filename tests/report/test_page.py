"""The page says everything, needs nothing, and cannot be broken by what it is given."""

import base64
import dataclasses
import hashlib
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from report.samples import chapter, chart, large, surface, survey
from widescape.core.chart import Marker, Series, Spot, Trace
from widescape.core.evidence import MEANING
from widescape.core.table import Table
from widescape.report import page, surfaces

HOSTILE = '</title></style></svg><script>alert(1)</script><img src=x onerror="alert(2)">\' {{ 7 * 7 }}'
BLOCKS = {"td", "th", "dt", "dd", "p", "li", "span"}
BESIDE = {"survey.json", *(f"figures/{c}-decay.{kind}" for c in ("kernel", "training") for kind in ("svg", "png"))}
"""The files beside the page of `survey()`; links to them fetch nothing until they are followed."""
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Reader(HTMLParser):
    """Reads a page: its elements, its text, and whether its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.words = []
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.words.append(" " if tag in BLOCKS else "")
        assert len(attrs) == len(dict(attrs)), f"<{tag}> repeats an attribute"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, *names):
        """The values of the attributes `names` of all elements."""
        return [attrs[name] for _, attrs in self.elements for name in names if name in attrs]


@pytest.fixture(scope="module")
def html():
    return page.render(survey())


def test_the_page_says_everything(html):
    text = Reader(html).text
    for part in survey().chapters:
        said = [part.title, part.question, part.verdict, part.sizing, *part.sentences]
        assert [words for words in said if words not in text] == []
        assert text.count(part.verdict) >= 2
    for words in ("A survey", "A network on digits.", "4 min 12 s", "seed 7", "command widescape survey"):
        assert words in text
    assert "Took 12.3 s of the 1 min it was given." in text
    assert "Took 12.3 s, without a limit." in text


def test_figures_have_captions_and_a_description_for_those_who_do_not_see_them(html):
    reader = Reader(html)
    assert "The distance falls with the width. Bands: two standard errors." in reader.text
    drawings = [attrs for tag, attrs in reader.elements if tag == "svg"]
    assert len(drawings) == 4, "each of the two charts once for wide and once for narrow screens"
    for attrs in drawings:
        assert attrs["role"] == "img"
        assert "Horizontal axis: width." in attrs["aria-label"]


def test_every_number_comes_with_unit_evidence_meaning_and_note(html):
    text = Reader(html).text
    for words in (
        ["0.500 ± 0.010 1/step", "estimate", "relative distance", "20 draws"],
        ["0.1", "lower bound", "a floor"],
        ["certified", "smallest eigenvalue", "margin 1e-14"],
        ["array of 2, from 0.25 to 0.25, 1 not finite, see survey.json", "all eigenvalues"],
        ["Defined in lee2019wide, section 2."],
    ):
        assert [word for word in words if word not in text] == []
    for kind, meaning in MEANING.items():
        assert f"{kind} {meaning}" in text


def test_numbers_in_tables_stand_to_the_right_and_so_do_their_gaps(html):
    reader = Reader(html.split('id="table-kernel-widths"')[1].split("<tbody>")[1].split("</tbody>")[0])
    classes = [attrs.get("class") for tag, attrs in reader.elements if tag == "td"]
    assert classes == ["number", "number", None] * 2
    assert reader.text == "64 0.1235 far 512 \N{EN DASH} near"


def test_a_caption_is_the_first_or_the_last_part_of_its_figure(html):
    assert html.startswith("<!doctype html>")
    for part in html.split("<figure")[1:]:
        inside = part.split("</figure>")[0].partition(">")[2].strip()
        assert inside.startswith("<figcaption>") or inside.endswith("</figcaption>")


def test_each_figure_has_its_numbers_below_it(html):
    folded = html.split('<details class="points">')[1].split("</details>")[0]
    text = Reader(folded).text
    assert text.startswith("The numbers of this figure width distance from to mean 3 points 1 0.1 0.01 0.31 2 0.2")
    assert "Lines across the figure: tolerance at 0.125 (vertical axis)." in text
    assert "Rounded; all digits are in survey.json." in text
    long = Series(np.arange(100), np.arange(100), "long")
    text = Reader(page.render(survey(chapter(charts=(chart(series=(long,), markers=()),))))).text
    assert "of 100 points" in text
    assert "Some of the points, rounded; all points with all digits are in survey.json." in text
    assert "Lines across" not in text


@pytest.mark.slow
def test_every_link_to_a_file_leads_to_one_that_is_written_beside_the_page(tmp_path):
    paths = page.write(large(), tmp_path)
    reader = Reader(paths.page.read_text(encoding="utf-8"))
    linked = {value for value in reader.values("href") if not value.startswith("#")}
    assert linked == {path.relative_to(tmp_path).as_posix() for path in (paths.data, *paths.figures)}


def test_an_estimate_in_a_table_stays_on_one_line():
    table = Table("t", "t", ("a",), (("0.5 ± 0.1",),))
    assert "0.5\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.1" in page.render(survey(chapter(tables=(table,))))


def test_ids_are_unique_and_every_anchor_resolves(html):
    reader = Reader(html)
    names = reader.values("id")
    assert len(names) == len(set(names)) > 0
    anchors = [value for value in reader.values("href", "xlink:href") if value.startswith("#")]
    labels = [name for value in reader.values("aria-labelledby") for name in value.split()]
    assert {"#chapter-kernel", "#chapter-training", "#evidence-bound"} <= set(anchors)
    assert {anchor[1:] for anchor in anchors} | set(labels) <= set(names)


def test_the_page_needs_no_network_and_runs_no_script(html):
    reader = Reader(html)
    for value in reader.values("href", "xlink:href", "src", "srcset", "action", "data", "poster"):
        assert value.startswith(("#", "data:")) or value in BESIDE
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "img", "form"}
    assert not [name for _, attrs in reader.elements for name in attrs if name.startswith("on")]
    assert "@import" not in html
    assert "url(http" not in html
    addresses = {word.split('"')[0] for word in html.split('"http')[1:]}
    assert addresses == {"://www.w3.org/2000/svg", "://www.w3.org/1999/xlink"}


def test_hostile_text_stays_text():
    series = Series([1, 2], [1, 2], HOSTILE)
    drawn = chart(title=HOSTILE, caption=HOSTILE, x_label=HOSTILE, series=(series,), markers=(Marker(1.5, HOSTILE),))
    table = Table("t", HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE)
    gap = chapter().results["gap"]
    part = chapter(
        title=HOSTILE,
        question=HOSTILE,
        verdict=HOSTILE,
        sentences=(HOSTILE,),
        sizing=HOSTILE,
        results={HOSTILE: gap},
        charts=(drawn,),
        tables=(table,),
    )
    reader = Reader(page.render(survey(part, title=HOSTILE, subject=HOSTILE, provenance={HOSTILE: HOSTILE})))
    tags = [tag for tag, _ in reader.elements]
    assert not set(tags) & {"script", "img"}
    assert (tags.count("svg"), tags.count("title"), tags.count("style")) == (2, 1, 1)
    assert not [name for _, attrs in reader.elements for name in attrs if name.startswith("on")]
    assert reader.text.count(HOSTILE) >= 14


@pytest.mark.parametrize("name", ["../up", "a b", "", "a/b", "a--b", 'x"y', "é"])
@pytest.mark.parametrize("kind", ["chapter", "chart", "table"])
def test_names_that_are_not_fit_for_files_are_refused(name, kind):
    parts = {
        "chapter": {"name": name},
        "chart": {"charts": (chart(name=name),)},
        "table": {"tables": (Table(name, "t", ("a",), ()),)},
    }
    with pytest.raises(ValueError, match="names a chapter, a chart or a table"):
        page.render(survey(chapter(**parts[kind])))


def test_two_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two chapters of the survey are called 'kernel'"):
        page.render(survey(chapter(), chapter()))
    with pytest.raises(ValueError, match="two charts of the survey are called 'kernel-decay'"):
        page.render(survey(chapter(charts=(chart(), chart()))))
    parts = chapter(name="a", charts=(chart(name="b-c"),)), chapter(name="a-b", charts=(chart(name="c"),))
    with pytest.raises(ValueError, match="two charts of the survey are called 'a-b-c'"):
        page.render(survey(*parts))


def test_a_chapter_with_words_only_is_fine():
    bare = page.render(survey(chapter(sentences=(), results={}, charts=(), tables=())))
    assert "It is close." in Reader(bare).text
    assert not {"svg", "details"} & {tag for tag, _ in Reader(bare).elements}


def test_the_same_survey_gives_the_same_page(html):
    assert page.render(survey()) == html


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_every_number_of_a_chart_is_in_the_json(tmp_path):
    paths = page.write(survey(), tmp_path)
    loaded = json.loads(paths.data.read_text(encoding="utf-8"), parse_constant=refuse)
    (drawn,) = loaded["chapters"][0]["charts"]
    (series,) = chart().series
    for name in ("x", "y", "low", "high"):
        assert drawn["series"][0][name] == getattr(series, name).tolist()
    assert drawn["markers"][0]["value"] == 0.125
    assert loaded["chapters"][0]["tables"][0]["rows"] == [[64, 0.123456, "far"], [512, None, "near"]]


def test_numbers_that_are_not_finite_become_words_in_the_json(tmp_path):
    part = chapter(
        charts=(chart(series=(Series([1, 2, np.nan], [np.inf, 1, 2], "s"),)),),
        tables=(Table("t", "t", ("a", "b"), ((np.float64(-np.inf), np.int64(3)),)),),
    )
    paths = page.write(survey(part), tmp_path)
    loaded = json.loads(paths.data.read_text(encoding="utf-8"), parse_constant=refuse)["chapters"][0]
    assert loaded["charts"][0]["series"][0]["x"] == [1, 2, "nan"]
    assert loaded["charts"][0]["series"][0]["y"] == ["inf", 1, 2]
    assert loaded["tables"][0]["rows"] == [["-inf", 3]]
    assert "\N{MINUS SIGN}∞" in Reader(paths.page.read_text(encoding="utf-8")).text


def test_write_leaves_the_page_the_data_and_every_figure(tmp_path, html):
    folder = tmp_path / "new" / "survey"
    paths = page.write(survey(), folder)
    assert paths.page == folder / "survey.html"
    assert paths.page.read_text(encoding="utf-8") == html
    stems = ("kernel-decay", "training-decay")
    assert paths.figures == tuple(folder / "figures" / f"{s}.{kind}" for s in stems for kind in ("png", "svg"))
    left = {path for path in folder.rglob("*") if path.is_file()}
    assert left == {paths.page, paths.data, *paths.figures}
    for path in paths.figures:
        if path.suffix == ".png":
            assert len(set(Image.open(path).convert("L").tobytes())) > 10
        else:
            assert "The distance falls with the width" in path.read_text(encoding="utf-8")
    with pytest.raises(dataclasses.FrozenInstanceError):
        paths.page = folder


def test_a_failed_write_leaves_the_old_page_and_no_debris(tmp_path, monkeypatch):
    paths = page.write(survey(), tmp_path)
    before = paths.page.read_bytes()

    replace = os.replace

    def fail(source, target):
        if target == paths.page:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        page.write(survey(title="Another"), tmp_path)
    assert paths.page.read_bytes() == before
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {
        paths.page,
        paths.data,
        *paths.figures,
    }


def test_a_survey_that_cannot_be_drawn_writes_nothing(tmp_path):
    empty = chapter(charts=(chart(series=()),))
    with pytest.raises(ValueError, match="chart 'decay'"):
        page.write(survey(chapter(name="first"), empty), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SCRIPTS = re.compile(r"<script( [^>]*)?>(.*?)</script>", flags=re.DOTALL)


def test_of_all_surfaces_there_are_the_data_and_one_script_whose_hash_the_policy_allows():
    html = page.render(survey(chapter(charts=(surface(), chart())), chapter(name="more", charts=(surface(),))))
    *data, (kind, script) = SCRIPTS.findall(html)
    assert [json.loads(text) for _, text in data] == [surfaces.view(surface())] * 2
    assert {attribute for attribute, _ in data} == {' type="application/json"'}
    assert kind == ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'\"" in html
    assert not re.search("http|import|fetch|eval|innerHTML|src=", script)


def test_without_a_surface_the_policy_allows_no_script(html):
    assert "script" not in html


def test_a_surface_is_seen_without_scripts_and_turned_with_them():
    html = page.render(survey(chapter(charts=(surface(),))))
    inside = html.split("<figure")[1].split("</figure>")[0]
    reader = Reader(f"<figure{inside}</figure>")
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("svg") == 2
    (box,) = [attrs for tag, attrs in reader.elements if attrs.get("class") == "turn"]
    assert "hidden" in box
    (canvas,) = [attrs for tag, attrs in reader.elements if tag == "canvas"]
    assert canvas["role"] == "img"
    assert canvas["tabindex"] == "0"
    for words in ("The loss has two valleys", "Horizontal axis: first direction", "Lowest", "trained"):
        assert words in canvas["aria-label"]
    assert canvas["aria-describedby"] in reader.values("id")
    assert "arrow keys" in reader.text
    (button,) = [attrs for tag, attrs in reader.elements if tag == "button"]
    assert button["type"] == "button"
    assert "The loss has two valleys" in button["aria-label"]
    assert "The loss has two valleys. A plane through three minima." in reader.text


def test_a_surface_has_its_numbers_below_it_and_its_files_beside_the_page(tmp_path):
    paths = page.write(survey(chapter(charts=(surface(),))), tmp_path)
    assert [path.name for path in paths.figures] == ["kernel-valleys.png", "kernel-valleys.svg"]
    assert "The loss has two valleys" in paths.figures[1].read_text(encoding="utf-8")
    text = Reader(paths.page.read_text(encoding="utf-8")).text
    assert "first direction second direction loss lowest point of the grid 1 point" in text
    assert "Some of the points, rounded; all points with all digits are in survey.json." in text
    (drawn,) = json.loads(paths.data.read_text(encoding="utf-8"))["chapters"][0]["charts"]
    assert drawn["z"]["values"] == surface().z.tolist()


def test_hostile_words_of_a_surface_stay_words():
    said = dict.fromkeys(("title", "x_label", "y_label", "z_label", "caption"), HOSTILE)
    drawn = surface(**said, path=Trace([0, 1], [0, 1], HOSTILE), points=(Spot(0, 0, HOSTILE),))
    html = page.render(survey(chapter(charts=(drawn,))))
    tags = [tag for tag, _ in Reader(html).elements]
    assert (tags.count("script"), tags.count("img"), tags.count("svg"), tags.count("style")) == (2, 0, 2, 1)
    data = json.loads(SCRIPTS.findall(html)[0][1])
    assert data["labels"] == [HOSTILE] * 3
    assert data["points"][0]["label"] == HOSTILE
