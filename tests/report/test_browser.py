"""A browser shows the whole page, on a phone and on a desk, in light and in dark, and on paper."""

import html as markup
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.samples import chapter, large, surface, survey
from widescape.report import page

WIDTHS = (320, 360, 390, 768, 1280)
SCHEMES = {"dark": 0, "light": 1}
NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=5000",
)
SCRIPTS = {name: (Path(__file__).parent / f"{name}.js").read_text(encoding="utf-8") for name in ("measure", "turn")}
OUTER = """<!doctype html><meta charset="utf-8"><style>:root {{ color-scheme: light dark }}</style><pre id="out"></pre>
<script>
{script}
const frames = {widths}.map((width) => {{
  const frame = document.createElement("iframe");
  frame.style = `width: ${{width}}px; height: 900px; border: 0; display: block`;
  frame.srcdoc = {text};
  document.body.append(frame);
  return frame;
}});
addEventListener("load", async () => {{
  document.getElementById("out").textContent = JSON.stringify(await Promise.all(frames.map({name})));
}});
</script>
"""

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the browser on a page with more flags, or skips where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    profile = tmp_path_factory.mktemp("profile")

    def run(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [program, *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)

    return run


def measure(
    browser: Run, folder: Path, text: str, scheme: str, widths: tuple[int, ...], *, name: str = "measure"
) -> list[dict[str, Any]]:
    """What `measure.js`, or another script, finds in the page `text` at each of the widths."""
    quoted = json.dumps(text).replace("</", "<\\/").replace("<!--", "<\\!--")
    outer = folder / "outer.html"
    document = OUTER.format(script=SCRIPTS[name], name=name, widths=list(widths), text=quoted)
    outer.write_text(document, encoding="utf-8")
    dumped = browser(outer, f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--dump-dom").stdout
    found = re.search(r'<pre id="out">(.+?)</pre>', dumped, flags=re.DOTALL)
    assert found, dumped[-2000:]
    measured: list[dict[str, Any]] = json.loads(markup.unescape(found[1]))
    return measured


def faults(measured: list[dict[str, Any]], kind: str) -> dict[int, list[str]]:
    """The faults of one kind, by the width of the screen."""
    return {part["width"]: part["faults"][kind] for part in measured if part["faults"][kind]}


def console(browser: Run, path: Path, text: str) -> list[str]:
    """What the browser says of the page `text` on its console."""
    path.write_text(text, encoding="utf-8")
    said = browser(path, "--enable-logging=stderr", "--log-level=0", "--dump-dom").stderr
    return [line for line in said.splitlines() if "CONSOLE" in line]


def pages(browser: Run, path: Path, text: str) -> int:
    """How many sheets of paper the page `text` takes."""
    path.write_text(text, encoding="utf-8")
    printed = path.with_suffix(".pdf")
    browser(path, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    return len(re.findall(rb"/Type\s*/Page\b", content))


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(large())


@pytest.fixture(scope="module", params=SCHEMES)
def measured(
    request: pytest.FixtureRequest, browser: Run, html: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The page of a large survey at every width, in dark and in light."""
    found = measure(browser, tmp_path_factory.mktemp("measured"), html, request.param, WIDTHS)
    assert [part["width"] for part in found] == list(WIDTHS)
    assert {part["dark"] for part in found} == {request.param == "dark"}
    return found


def test_headings_figures_and_contents_are_shown(measured: list[dict[str, Any]]) -> None:
    report = large()
    for part in measured:
        assert part["headings"][0] == report.title
        assert {chapter.title for chapter in report.chapters} < set(part["headings"])
        assert part["contents"] == [f"#chapter-{chapter.name}" for chapter in report.chapters]
        assert part["figures"] == sum(len(chapter.charts) for chapter in report.chapters)
        assert part["details"] > part["figures"]


@pytest.mark.parametrize(
    "kind",
    [
        "repeated ids",
        "dead anchors",
        "details that do not open",
        "fetched",
        "overflow",
        "overlaps",
        "text outside its figure",
        "faint text",
        "faint shapes",
    ],
)
def test_at_every_width_and_in_both_schemes_there_are_no(measured: list[dict[str, Any]], kind: str) -> None:
    assert faults(measured, kind) == {}
    assert all(part["texts"] > 500 and len(part["colors"]) > 7 for part in measured)


def test_the_letters_of_a_figure_are_legible_at_every_width(measured: list[dict[str, Any]]) -> None:
    assert {part["width"]: part["smallest"] for part in measured if part["smallest"] < 9} == {}


FAULTY = """<!doctype html><html><head><style>
body { margin: 8px; background: #fff; color: #222; }
@media (prefers-color-scheme: dark) { body { background: #222; color: #ddd; } }
svg { display: block; overflow: visible; }
</style></head><body>
<p id="twice">A paragraph that is as it should be.</p><p id="twice"><a href="#nowhere">A dead link</a></p>
<pre id="wide">PLANTED</pre>
<div style="overflow-x: auto"><pre>INSIDE OF A SCROLLING CONTAINER</pre></div>
<p style="color: #777; background: #888">faint words</p>
<img alt="" src="https://planted.invalid/image.png">
<details><summary>empty</summary></details>
<svg width="200" height="100" viewBox="0 0 200 100">
<text x="10" y="50">first label</text><text x="30" y="54">second label</text>
<text x="150" y="20">leaves its figure</text>
<path d="M0 90H100" style="stroke: #777; stroke-opacity: 0.6"/>
<path d="M0 95H100" style="stroke: #808080; fill: none"/>
<path d="M0 99H100" style="stroke: #ffe; stroke-opacity: 0.15; fill: none"/>
</svg></body></html>
""".replace("PLANTED", "x" * 500).replace("INSIDE", "y" * 500)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_planted_faults_are_found(browser: Run, tmp_path: Path, scheme: str) -> None:
    (found,) = measure(browser, tmp_path, FAULTY, scheme, (390,))
    planted = found["faults"]
    assert planted["repeated ids"] == ["twice"]
    assert planted["dead anchors"] == ["nowhere"]
    assert [fault.split(">")[0] for fault in planted["details that do not open"]] == ["<details"]
    assert any("planted.invalid" in fault for fault in planted["fetched"])
    assert any(fault.startswith("text xxx") for fault in planted["overflow"])
    assert any("the document is" in fault for fault in planted["overflow"])
    assert not any("yyy" in fault for fault in planted["overflow"])
    assert planted["overlaps"] == ["first label | second label"]
    assert planted["text outside its figure"] == ["leaves its figure"]
    assert any("faint words" in fault for fault in planted["faint text"])
    assert not any("as it should be" in fault for fault in planted["faint text"])
    assert not any("#ffe" in fault for fault in planted["faint shapes"])
    assert planted["faint shapes"]


def test_the_browser_has_nothing_to_say_on_its_console(browser: Run, html: str, tmp_path: Path) -> None:
    assert console(browser, tmp_path / "page.html", html) == []


def test_an_error_on_the_console_and_what_the_policy_blocks_are_found(browser: Run, tmp_path: Path) -> None:
    text = page.render(survey())
    script = text.replace("</main>", "</main><script>console.error('planted')</script>")
    (blocked,) = console(browser, tmp_path / "blocked.html", script)
    assert "Content Security Policy" in blocked
    (error,) = console(browser, tmp_path / "error.html", re.sub("<meta http-equiv=[^>]*>", "", script))
    assert "planted" in error
    image = text.replace("</main>", '</main><img alt="" src="https://planted.invalid/image.png">')
    assert any("planted.invalid" in line for line in console(browser, tmp_path / "image.html", image))


def test_on_paper_the_closed_numbers_of_the_chapters_are_there(browser: Run, html: str, tmp_path: Path) -> None:
    closed = pages(browser, tmp_path / "closed.html", html)
    bare = re.sub(r'<details class="every">.*?</details>', "", html, flags=re.DOTALL)
    opened = html.replace('<details class="every">', '<details class="every" open>')
    assert opened.count(" open>") == 2
    assert 1 < pages(browser, tmp_path / "bare.html", bare) < closed
    assert pages(browser, tmp_path / "opened.html", opened) == closed


@pytest.fixture(scope="module")
def surfaces() -> str:
    """A page with two surfaces, one of them with every line and point."""
    bare = surface(name="bare", path=None, points=())
    return page.render(survey(chapter(charts=(surface(), bare), tables=(), results={})))


@pytest.fixture(scope="module", params=SCHEMES)
def turned(
    request: pytest.FixtureRequest, browser: Run, surfaces: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What becomes of a surface that is turned, on a phone and on a desk, in dark and in light."""
    folder = tmp_path_factory.mktemp("turned")
    found = measure(browser, folder, surfaces, request.param, (390, 1280), name="turn")
    assert [part["width"] for part in found] == [390, 1280]
    return found


def test_a_surface_is_drawn_sharply_in_its_colors_and_the_ink_of_the_page(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        assert part["shown"]
        assert part["fits"]
        assert part["colors"] > 200
        assert 0.08 < part["colored"] < 0.6
        assert part["ink"]
        across, down, dots = part["sharp"]
        assert across == pytest.approx(dots, rel=0.01)
        assert down == pytest.approx(dots, rel=0.01)


def test_arrow_keys_turn_a_surface_and_back_and_do_not_scroll_the_page(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        assert len({part["start"], part["left"]["picture"], part["down"]["picture"]}) == 3
        assert part["back"]["picture"] == part["start"] == part["reset"]
        assert not any(part[name]["scrolls"] for name in ("left", "back", "down"))
        assert part["focused"]


def test_other_keys_leave_a_surface_and_the_page_alone(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        for name in ("other", "chord"):
            assert part[name] == {"picture": part["start"], "scrolls": True}


def test_a_drag_turns_a_surface_until_the_pointer_is_lifted_as_the_keys_do(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        assert part["drag"]["during"] != part["start"]
        assert part["drag"]["after"] == part["drag"]["during"]
        assert part["again"] == part["start"]
        assert part["pulled"]["during"] != part["start"]
        assert part["undone"]["picture"] == part["start"]


def test_a_surface_turns_around_and_stops_when_it_is_seen_from_above(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        assert part["round"] == part["start"]
        assert part["top"] == part["above"] != part["start"]


def test_a_surface_follows_the_width_of_the_page(turned: list[dict[str, Any]]) -> None:
    for part in turned:
        assert part["narrower"] != part["start"]
        drawn, shown = part["narrowed"]
        assert drawn == pytest.approx(shown, abs=1)
        assert shown < 300


def test_the_browser_runs_the_script_of_the_surfaces_without_a_word(
    browser: Run, surfaces: str, tmp_path: Path
) -> None:
    assert console(browser, tmp_path / "page.html", surfaces) == []
    (blocked,) = console(browser, tmp_path / "other.html", surfaces.replace('"use strict";', '"use strict"; ;'))
    assert "Content Security Policy" in blocked


def test_on_paper_there_is_the_map_and_not_what_can_be_turned(browser: Run, surfaces: str, tmp_path: Path) -> None:
    def images(text: str) -> int:
        pages(browser, tmp_path / "print.html", text)
        return len(re.findall(rb"/Subtype\s*/Image\b", (tmp_path / "print.pdf").read_bytes()))

    assert surfaces.count(", .turn { display: none; }") == 1
    assert images(surfaces) == images(surfaces.replace('<div class="turn"', '<div class="turn" style="display: none"'))
    assert images(surfaces) < images(surfaces.replace(", .turn { display: none; }", " { display: none; }"))
