"""A survey as one HTML page that needs nothing else, with its data and figures beside it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from widescape.core.chart import Drawable, Surface
from widescape.core.evidence import MEANING
from widescape.core.files import plain, replacing
from widescape.core.table import Table
from widescape.report import figures, numbers, style, surfaces
from widescape.report.points import points

if TYPE_CHECKING:
    from widescape.survey.chapter import Chapter, SurveyReport


@dataclass(frozen=True)
class Paths:
    """What `write` left in the folder.

    Attributes:
        page: the HTML page.
        data: every number of the survey, as JSON.
        figures: each chart as PNG and as SVG.
    """

    page: Path
    data: Path
    figures: tuple[Path, ...]


def render(report: "SurveyReport") -> str:
    """The survey as one HTML page: no network, figures and style inside.

    Each figure is there twice, the second one narrow for phones. A surface is there once more, to be
    turned by hand, by the one script of the page; without surfaces there is none, and a reader who
    runs no scripts sees the map of the surface. The page links to the files that `write` puts beside
    it.

    Raises:
        ValueError: a name is not fit for a file and a link, two are the same, or a chart cannot be
            drawn.
    """
    _check_names(report)
    drawn = {
        (chapter.name, chart.name): _inside(_stem(chapter, chart), chart)
        for chapter in report.chapters
        for chart in chapter.charts
    }
    views = {
        (chapter.name, chart.name): surfaces.view(chart)
        for chapter in report.chapters
        for chart in chapter.charts
        if isinstance(chart, Surface)
    }
    script = (resources.files("widescape.report") / "templates" / "surface.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("survey.html.j2")
        .render(
            report=report,
            drawn=drawn,
            views=views,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            meanings=MEANING,
        )
    )


def write(report: "SurveyReport", folder: Path) -> Paths:
    """Write the page, the data and the figures of a survey into `folder`, which is made if absent.

    ``survey.html`` is the page, ``survey.json`` holds every number (those that are not finite as the
    words ``nan``, ``inf`` and ``-inf``), ``figures/`` each chart as PNG and SVG. Each file appears
    complete or not at all, the page last. Files of an earlier survey are replaced or stay.

    Raises:
        ValueError: as `render`. Nothing is written then.
    """
    page = render(report)
    data = json.dumps(plain(report.to_dict()), allow_nan=False, ensure_ascii=False, indent=1)
    drawings = dict(_drawings(report))
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in drawings.items():
        _put(folder / "figures" / name, content)
    _put(folder / "survey.json", data.encode())
    _put(folder / "survey.html", page.encode())
    return Paths(
        page=folder / "survey.html",
        data=folder / "survey.json",
        figures=tuple(folder / "figures" / name for name in drawings),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("widescape", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=numbers.number,
        duration=numbers.duration,
        rows=numbers.rows,
        unbroken=numbers.unbroken,
        points=points,
        described=figures.describe,
    )
    environment.tests["numeric_column"] = numbers.is_numeric_column
    return environment


def _drawings(report: "SurveyReport") -> Iterator[tuple[str, bytes]]:
    """Each chart twice, under its file name."""
    for chapter in report.chapters:
        for chart in chapter.charts:
            stem = _stem(chapter, chart)
            yield f"{stem}.png", figures.png(chart)
            yield f"{stem}.svg", _standalone(chart)


def _stem(chapter: "Chapter", chart: Drawable) -> str:
    """The name of the files of a chart, without the kind."""
    return f"{chapter.name}-{chart.name}"


def _inside(stem: str, chart: Drawable) -> dict[str, Markup]:
    """A chart for wide and for narrow screens; the caption says its title."""
    sizes = {"wide": style.SIZE, "narrow": style.NARROW}
    return {
        name: Markup(figures.svg(chart, titled=False, prefix=f"svg-{name}-{stem}", size=size))
        for name, size in sizes.items()
    }


def _standalone(chart: Drawable) -> bytes:
    return f'<?xml version="1.0" encoding="utf-8"?>\n{figures.svg(chart)}\n'.encode()


def _check_names(report: "SurveyReport") -> None:
    """Names become files and links: plain letters, and each only once."""
    chapters = report.chapters
    _require_distinct("chapters", (chapter.name for chapter in chapters))
    _require_distinct("charts", (f"{c.name}-{chart.name}" for c in chapters for chart in c.charts))
    _require_distinct("tables", (f"{c.name}-{table.name}" for c in chapters for table in c.tables))
    parts = [name for c in chapters for name in (c.name, *_names(c.charts), *_names(c.tables))]
    for name in parts:
        if not re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*", name):
            raise ValueError(
                f"{name!r} names a chapter, a chart or a table; "
                "use letters, digits and underscores, joined by single hyphens."
            )


def _names(parts: Iterable[Drawable | Table]) -> list[str]:
    return [part.name for part in parts]


def _require_distinct(what: str, names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what} of the survey are called {name!r}; rename one of them.")
        seen.add(name)


def _put(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
