"""The command study lists the papers, measures the claims of one, and leaves a page, a document and the result."""

import dataclasses
import json
import math
import sys
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest

from commands import refuse_constant, run
from widescape.cli.main import main
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.studies import catalog
from widescape.studies.study import Study, claim, claim_of_count

NAME = "nobody1900asked"
STATEMENT = "The norm of the second derivative falls as the inverse of the square root of the width of the network " * 2


class Curve(Result):
    """A measurement with a chart."""

    source = "nobody1900"
    norms: np.ndarray = quantity(EXACT, "norms (T,)")

    def charts(self):
        return (Chart("norm", "Norm against width", "width", "norm", (Series([1, 2], self.norms, "norm"),)),)


@pytest.fixture
def asked(monkeypatch):
    """The seeds and sizes that a study in the catalog was run with."""
    calls = []

    def measure(*, seed, quick, say, progress, full=False):
        calls.append((seed, "full" if full else quick))
        say("width 10")
        return Study(
            name=NAME,
            title="On asking for studies",
            citation="Nobody. Proceedings of nothing, 1900.",
            claims=(
                claim("E1", STATEMENT + "(E1).", value=-0.5, stderr=0.02, low=-0.6, high=-0.4, published="slope -1/2"),
                claim("E20", "It stays < 1 & more.", value=math.inf, high=1.0),
                claim_of_count("E3", "Most runs end.", held=1, trials=5, needed=3, undecided=3),
            ),
            results={"linear": Curve(norms=np.array([1 / 3, 0.1])), "other": Curve(norms=np.array([1.0, 2.0]))},
            figures=("linear",),
            seed=seed,
            quick=quick,
        )

    monkeypatch.setitem(catalog.SUMMARIES, NAME, "how studies are asked for")
    monkeypatch.setitem(sys.modules, f"widescape.studies.{NAME}", SimpleNamespace(run=measure))
    return calls


def test_the_size_of_the_paper_is_asked_for_by_full_and_not_together_with_quick(capsys, asked, tmp_path):
    code, _, _ = run(capsys, "study", NAME, "--full", "--out", str(tmp_path))
    assert (code, asked) == (0, [(0, "full")])
    page = (tmp_path / "survey.html").read_text(encoding="utf-8")
    assert "The sizes of the paper&#39;s own experiments." in page
    assert f"widescape study {NAME} --seed 0 --full" in page
    code, _, err = run(capsys, "study", NAME, "--full", "--quick")
    assert code != 0
    assert "exclude each other" in err
    assert len(asked) == 1


@pytest.mark.parametrize("arguments", [["study"], ["study", "list"]], ids=" ".join)
def test_without_a_name_the_studies_are_listed_with_a_line_each(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert [tuple(line.split(maxsplit=1)) for line in out.splitlines()] == list(catalog.SUMMARIES.items())
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert {own["name"]: own["summary"] for own in json.loads(out)["studies"]} == catalog.SUMMARIES


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["study", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("--out", "--seed", "--quick", "--json", "exit status is 0"))


def test_a_study_prints_a_block_per_claim_with_the_verdicts_in_one_column(capsys, monkeypatch, asked):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(capsys, "study", NAME, "--seed", "5", "--quick")
    assert code == 0
    assert asked == [(5, True)]
    assert err == f"... {NAME}: how studies are asked for\n... width 10\n"
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [f"On asking for studies ({NAME})", "Nobody. Proceedings of nothing, 1900."]
    heads = [line for line in lines if line.startswith("E")]
    assert [line[5:19].strip() for line in heads] == ["reproduced", "not reproduced", "inconclusive"]
    assert [line[:3].strip() for line in heads] == ["E1", "E20", "E3"]
    first = lines[lines.index(heads[0]) : lines.index(heads[1]) - 1]
    statement = [line[21:] for line in first[:-3]]
    assert " ".join(statement) == STATEMENT + "(E1)."
    assert all(line[:21].isspace() for line in first[1:])
    assert [line[21:] for line in first[-3:]] == [
        "published: slope -1/2",
        "accepted:  -0.6 to -0.4",
        "measured:  -0.5 ± 0.02",
    ]
    assert " ".join(lines[-2:]) == (
        "1 of 3 claims reproduced; not reproduced: E20; inconclusive: E3. 0 s, seed 5. "
        "Smaller sizes and fewer draws than the full study."
    )


@pytest.mark.parametrize(("columns", "widest"), [("20", 60), ("400", 110)])
def test_lines_stay_readable_on_every_terminal(capsys, monkeypatch, asked, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = run(capsys, "study", NAME)
    assert widest - 20 < max(map(len, out.splitlines())) <= widest


def test_a_claim_that_is_not_reproduced_is_no_failure(capsys, asked):
    code, out, _ = run(capsys, "study", NAME)
    assert code == 0
    assert asked == [(0, False)]
    assert "not reproduced" in out
    assert "The full study." in out


def test_json_is_one_strict_document_with_claims_results_and_provenance(capsys, asked):
    code, out, err = run(capsys, "study", NAME, "--seed", "2", "--json")
    assert code == 0
    document = json.loads(out, parse_constant=refuse_constant)
    assert document["study"] == NAME
    assert document["verdict"].startswith("1 of 3 claims reproduced")
    assert [own["verdict"] for own in document["claims"]] == ["reproduced", "not reproduced", "inconclusive"]
    assert document["claims"][0]["stderr"] == 0.02
    assert document["claims"][1]["value"] == "inf"
    assert document["fields"]["results"]["value"]["linear"]["fields"]["norms"]["value"] == [1 / 3, 0.1]
    assert document["provenance"]["seed"] == "2"
    assert "width 10" in err


def test_the_folder_holds_the_document_the_result_and_a_page_with_every_claim(capsys, tmp_path, asked):
    out = tmp_path / "deep" / "folder"
    code, printed, _ = run(capsys, "study", NAME, "--out", out, "--json")
    assert code == 0
    assert json.loads((out / "study.json").read_text(encoding="utf-8")) == json.loads(printed)
    loaded = Study.load(out / "study.zip")
    assert json.loads(printed)["fields"]["seconds"]["value"] == loaded.seconds
    again = catalog.run(NAME)
    assert dataclasses.replace(again, seconds=None) == dataclasses.replace(loaded, seconds=None)
    page = unescape((out / "survey.html").read_text(encoding="utf-8"))
    for row in loaded.table():
        assert row["statement"] in page
        assert row["accepted"] in page
        assert row["verdict"] in page
    for text in (loaded.title, loaded.citation, loaded.verdict, f"widescape study {NAME} --seed 0", "slope -1/2"):
        assert text in page
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        f"{NAME}-linear-norm.png",
        f"{NAME}-linear-norm.svg",
    ]
    (chapter,) = json.loads((out / "survey.json").read_text(encoding="utf-8"))["chapters"]
    assert set(chapter["results"]) == {"linear", "other"}


def test_the_page_is_named_in_the_end_and_nothing_is_written_without_a_folder(capsys, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    _, without, _ = run(capsys, "study", NAME)
    assert list(tmp_path.iterdir()) == []
    _, out, _ = run(capsys, "study", NAME, "--out", "here", "--quick")
    assert out.splitlines()[-1].startswith("The page: here")
    assert "The page" not in without
    assert f"widescape study {NAME} --seed 0 --quick" in (tmp_path / "here" / "survey.html").read_text("utf-8")


def test_an_unknown_study_is_refused_with_the_known_ones_and_makes_no_folder(capsys, tmp_path):
    message = f"there is no study 'liu'; choose one of {', '.join(catalog.names())}."
    code, out, err = run(capsys, "study", "liu", "--out", tmp_path / "out")
    assert (code, out, err) == (1, "", f"widescape: {message}\n")
    code, out, _ = run(capsys, "study", "liu", "--json")
    assert code == 1
    assert json.loads(out) == {"error": "DataError", "message": message}
    assert not (tmp_path / "out").exists()


def test_a_bad_seed_or_folder_is_refused_before_the_work(capsys, tmp_path, asked):
    code, _, err = run(capsys, "study", NAME, "--seed", "-1", "--out", tmp_path / "out")
    assert (code, err) == (1, "widescape: --seed is -1; it must not be negative.\n")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("taken")
    code, _, err = run(capsys, "study", NAME, "--out", tmp_path / "file")
    assert code == 1
    assert "file" in err
    assert asked == []
