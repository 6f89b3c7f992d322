"""The command `study`: the claims of a paper, measured."""

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from widescape.cli.common import Flag, note, prepare_output, show
from widescape.core.errors import DataError

if TYPE_CHECKING:
    from widescape.core.table import Table
    from widescape.studies.study import Study
    from widescape.survey.chapter import SurveyReport

_WIDEST = 110
_NARROWEST = 60


def study(
    name: Positional[str | None] = None,
    out: Path | None = None,
    seed: int = 0,
    quick: Flag = False,
    full: Flag = False,
    json: Flag = False,
) -> int:
    """Measure the claims of a paper and say which are reproduced, or list the papers.

    The exit status is 0 whatever the verdicts are: a claim that is not reproduced is a finding, not a failure.

    Args:
        name: bib key of the paper; without it, or with the word list, the papers are listed.
        out: folder for study.json, study.zip (the result, which Python loads bit for bit) and the page survey.html.
        seed: every random draw derives from it.
        quick: smaller sizes and fewer draws, about a minute.
        full: the sizes of the paper's own experiments, for studies that cut them down; this may take hours.
        json: print a JSON document.
    """
    from widescape.studies import catalog

    if name is None or name == "list":
        known = {own: catalog.summary(own) for own in catalog.names()}
        wide = max(map(len, known))
        return show(
            {"studies": [{"name": own, "summary": line} for own, line in known.items()]},
            [f"{own:{wide}}  {line}" for own, line in known.items()],
            as_json=json,
        )
    catalog.summary(name)  # an unknown name is refused before a folder is made
    if seed < 0:
        raise DataError(f"--seed is {seed}; it must not be negative.")
    if quick and full:
        raise DataError("--quick and --full exclude each other; choose one.")
    if out is not None:
        prepare_output(out / "study.json")
    note(f"{name}: {catalog.summary(name)}")
    study = catalog.run(name, seed=seed, quick=quick, full=full, say=note)
    document = {"study": name, "verdict": study.verdict, "claims": study.table(), **study.to_dict()}
    lines = _lines(study)
    if out is not None:
        lines += ["", f"The page: {_write(study, document, out)}"]
    return show(document, lines, as_json=json)


def _write(study: "Study", document: dict[str, Any], out: Path) -> Path:
    """Leave the study in the folder; the path of its page."""
    import json

    from widescape.core.files import plain, replacing
    from widescape.report import page

    study.save(out / "study.zip")
    with replacing(out / "study.json") as temporary:
        text = json.dumps(plain(document), allow_nan=False, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return page.write(_report(study), out).page


def _report(study: "Study") -> "SurveyReport":
    """The study as a page of one chapter."""
    from widescape.survey import Chapter, SurveyReport

    seconds = study.seconds or 0.0
    chapter = Chapter(
        name=study.name,
        title="Claims",
        question="Which claims of the paper do measurements reproduce?",
        verdict=study.verdict,
        sentences=tuple(f"{own.name}, {own.verdict.words}: {own.statement}" for own in study.claims),
        sizing=_size(study),
        results=study.results,
        charts=study.charts(),
        tables=(_table(study),),
        seconds=seconds,
        budget=None,
    )
    return SurveyReport(
        title=study.title,
        subject=study.citation,
        chapters=(chapter,),
        provenance={**study.provenance, "command": _command(study)},
        seconds=seconds,
    )


def _table(study: "Study") -> "Table":
    from widescape.core.table import Table

    columns = ("name", "statement", "published", "accepted", "measured", "verdict")
    return Table(
        name="claims",
        title="The claims, what is accepted, and what was measured",
        columns=("claim", *columns[1:]),
        rows=tuple(tuple(row[column] or None for column in columns) for row in study.table()),
        caption="The verdict follows from the numbers: what lies within two standard errors of an estimate must lie in "
        "the accepted range for a claim to be reproduced, and outside of it not to be; otherwise it is inconclusive.",
    )


def _size(study: "Study") -> str:
    if study.quick:
        return "Smaller sizes and fewer draws than the full study."
    return "The sizes of the paper's own experiments." if _of_paper(study) else "The full study."


def _of_paper(study: "Study") -> bool:
    from widescape.studies.catalog import PAPER_SIZE

    return study.provenance.get("size") == PAPER_SIZE


def _command(study: "Study") -> str:
    """The command that repeats a study."""
    return f"widescape study {study.name} --seed {study.seed}" + (
        " --quick" if study.quick else " --full" if _of_paper(study) else ""
    )


def _lines(study: "Study") -> list[str]:
    """The table of claims for a terminal: a block for each claim, the verdicts in one column."""
    width = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((_WIDEST, 24)).columns))
    rows = study.table()
    first, second = (max(len(row[column]) for row in rows) for column in ("name", "verdict"))
    indent = " " * (first + second + 4)
    lines = [*textwrap.wrap(f"{study.title} ({study.name})", width), *textwrap.wrap(study.citation, width)]
    for row in rows:
        head = f"{row['name']:<{first}}  {row['verdict']:<{second}}  "
        lines += ["", *textwrap.wrap(row["statement"], width, initial_indent=head, subsequent_indent=indent)]
        for column in ("published", "accepted", "measured"):
            if row[column]:
                start, further = f"{indent}{column + ':':<11}", f"{indent}{'':11}"
                lines += textwrap.wrap(row[column], width, initial_indent=start, subsequent_indent=further)
    took = "" if study.seconds is None else f" {study.seconds:.0f} s, seed {study.seed}."
    return [*lines, "", *textwrap.wrap(f"{study.verdict}{took} {_size(study)}", width)]
