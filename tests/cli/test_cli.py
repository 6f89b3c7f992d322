"""The command line answers at once, refuses with an exit code and a sentence, and prints what it wrote."""

import json
import subprocess
import sys
from html import unescape
from types import SimpleNamespace

import pytest

import widescape
from commands import refuse_constant
from widescape import arch
from widescape.cli.main import main
from widescape.survey import run as survey_run

NAMES = (
    "digits, iris, wine, breast_cancer, diabetes, linnerud, mnist, fashion_mnist, cifar10, cifar100, single_index, "
    "low_rank_polynomial, sparse_parity, spherical_harmonic, spirals"
)
HEAVY = ("jax", "jaxlib", "scipy", "sklearn", "matplotlib", "jinja2", "rich.progress")


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "widescape", *arguments], capture_output=True, text=True, check=False)


def failing_in_process(capsys, *arguments):
    """Exit code, standard output and standard error of a command that a refusal ends."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(files, folder):
    from widescape.core.errors import DataError

    raise DataError("no mirror answers; set WIDESCAPE_DATA")


# Without a survey.


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["survey", "--help"], ["fit", "--help"], ["data", "--help"]], ids=" ".join
)
def test_help_and_version_import_nothing_heavy_and_succeed(arguments):
    code = (
        "import sys\nfrom widescape.cli.main import main\n"
        f"try:\n    code = main({arguments!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'exit code {code}, loaded {loaded}' if code or loaded else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout


def test_importing_the_package_imports_no_jax():
    code = "import sys, widescape; assert 'jax' not in sys.modules; assert 'survey' in dir(widescape)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"widescape {widescape.__version__}\n"


def test_help_names_the_command_and_every_option():
    run = command("survey", "--help")
    assert run.returncode == 0
    for word in ("--data", "--out", "--seed", "--full", "--json", "digits", "--target"):
        assert word in run.stdout
    assert "survey" in command("--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["dance"], ["survey", "--sead", "1"], ["survey", "--seed", "one"], ["survey", "digits"], ["--version", "now"]],
    ids=lambda a: " ".join(a) or "nothing",
)
def test_wrong_usage_has_exit_code_2_and_says_so_on_standard_error(arguments):
    run = command(*arguments)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_usage_in_process_returns_or_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(["survey", "--seed", "one"]))
    assert stop.value.code == 2


def test_an_unknown_data_set_has_exit_code_1_and_the_known_ones_on_standard_error(capsys, tmp_path):
    code, out, err = failing_in_process(capsys, "survey", "--data", "cifar99", "--out", str(tmp_path / "out"))
    assert (code, out) == (1, "")
    assert err == f"widescape: there is no data set 'cifar99'; choose one of {NAMES}, or give a file that exists.\n"
    assert not (tmp_path / "out").exists()


def test_a_refusal_with_json_is_json_on_standard_output(capsys):
    code, out, err = failing_in_process(capsys, "survey", "--data", "cifar99", "--json")
    assert code == 1
    assert json.loads(out) == {
        "error": "DataError",
        "message": f"there is no data set 'cifar99'; choose one of {NAMES}, or give a file that exists.",
    }
    assert err.startswith("widescape: ")


def test_a_missing_folder_of_data_has_exit_code_1_and_says_what_to_set(capsys, monkeypatch):
    monkeypatch.delenv("WIDESCAPE_DATA", raising=False)
    monkeypatch.setattr("widescape.data.catalog.fetch", refused)
    code, out, err = failing_in_process(capsys, "survey", "--data", "mnist")
    assert (code, out) == (1, "")
    assert "WIDESCAPE_DATA" in err


def test_an_unknown_data_set_has_exit_code_1_as_a_process():
    run = command("survey", "--data", "cifar99")
    assert (run.returncode, run.stdout) == (1, "")
    assert "Traceback" not in run.stderr


def test_an_interruption_has_exit_code_130(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("widescape.survey.survey", interrupt)
    assert failing_in_process(capsys, "survey") == (130, "", "interrupted\n")


def test_an_error_of_our_own_is_not_hidden(monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("widescape.survey.survey", broken)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        main(["survey"])


@pytest.fixture
def chapters_worked(monkeypatch):
    """The seeds of the chapters that began to work; a chapter that begins fails."""
    seeds = []

    def work(context):
        seeds.append(context.seed)
        raise OSError("a chapter began to work")

    monkeypatch.setattr(survey_run, "CHAPTERS", (work,))
    return seeds


def test_the_seed_of_the_command_is_that_of_every_chapter(capsys, tmp_path, chapters_worked):
    assert main(["survey", "--seed", "17", "--out", str(tmp_path / "out")]) == 1
    assert chapters_worked == [17]
    assert "a chapter began to work" in capsys.readouterr().err


def test_a_negative_seed_is_refused_before_any_work(capsys, tmp_path, chapters_worked):
    try:
        code = main(["survey", "--seed", "-1", "--out", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert chapters_worked == []
    assert code in (1, 2)
    assert "seed" in capsys.readouterr().err


def test_a_model_and_a_data_set_together_are_wrong_usage(capsys, tmp_path, chapters_worked):
    code, out, err = failing_in_process(capsys, "survey", "--model", "m.py:make", "--data", "mnist")
    assert (code, out) == (2, "")
    assert "--data" in err
    assert chapters_worked == []


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(capsys, tmp_path, chapters_worked):
    (tmp_path / "taken").write_text("a file")
    code, out, err = failing_in_process(capsys, "survey", "--out", str(tmp_path / "taken" / "inside"))
    assert chapters_worked == []
    assert (code, out) == (1, "")
    assert "taken" in err


# A survey on digits, cut to the smallest size so that its size does not depend on the machine.


@pytest.fixture(scope="session")
def surveys(tmp_path_factory):
    """What the command printed and wrote with seed 3, and the same from the function with this seed and another."""
    folder, written = tmp_path_factory.mktemp("survey"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_run, "SECONDS_PER_CHAPTER", 1e-3)
        patch.setattr(arch, "default_network", lambda n_out: arch.fc(1, 8, n_out, activation=arch.Gelu(), b_std=0.1))
        patch.setattr("sys.stdout", SimpleNamespace(write=written.append, flush=lambda: None, isatty=lambda: False))
        code = main(["survey", "--data", "digits", "--out", str(folder), "--seed", "3", "--json"])
        again, other = (as_json(survey_run.survey("digits", seed=seed).to_dict()) for seed in (3, 4))
    return SimpleNamespace(code=code, out="".join(written), folder=folder, again=again, other=other)


def as_json(document):
    """The document as it is after a file; numbers that are not finite by name, as in `survey.json`."""
    names = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    return json.loads(json.dumps(document), parse_constant=names.get)


def without_times(value):
    """The document without what may differ between runs of one seed."""
    if isinstance(value, dict):
        return {
            key: without_times(part) for key, part in value.items() if key not in ("seconds", "sizing", "budget_bytes")
        }
    return [without_times(part) for part in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_survey_prints_the_numbers_that_it_wrote_as_strict_json(surveys):
    assert surveys.code == 0
    printed = json.loads(surveys.out, parse_constant=refuse_constant)
    assert printed == json.loads(
        (surveys.folder / "survey.json").read_text(encoding="utf-8"), parse_constant=refuse_constant
    )
    assert len(printed["chapters"]) == len(survey_run.CHAPTERS)
    assert printed["provenance"]["seed"] == "3"
    assert "--seed 3" in printed["provenance"]["command"]


@pytest.mark.slow
def test_the_page_names_every_chapter_and_every_sentence_and_each_chart_has_its_files(surveys):
    html = (surveys.folder / "survey.html").read_text(encoding="utf-8")
    document = json.loads(surveys.out)
    for chapter in document["chapters"]:
        assert chapter["title"] in html
        assert chapter["verdict"] in unescape(html)
        assert chapter["sentences"]
        assert all(sentence in unescape(html) for sentence in chapter["sentences"])
        for chart in chapter["charts"]:
            for suffix in ("png", "svg"):
                assert (surveys.folder / "figures" / f"{chapter['name']}-{chart['name']}.{suffix}").stat().st_size > 0
    assert {p.name for p in surveys.folder.iterdir()} == {"survey.html", "survey.json", "figures"}


@pytest.mark.slow
def test_a_seed_gives_the_same_survey_again_and_another_seed_another(surveys):
    first, again, other = map(without_times, (json.loads(surveys.out), surveys.again, surveys.other))
    assert first == again
    for chapter, different in zip(first["chapters"], other["chapters"], strict=True):
        same = {name for name, result in chapter["results"].items() if result == different["results"][name]}
        assert same <= {"NNGP minus NTK"}  # a difference of two shares of 500 may come out the same by chance


@pytest.mark.slow
def test_every_number_of_a_survey_says_what_stands_behind_it_and_every_estimate_has_its_error(surveys):
    for chapter in json.loads(surveys.out)["chapters"]:
        assert chapter["results"]
        for result in chapter["results"].values():
            assert result["source"]
            for entry in result["fields"].values():
                assert entry["stands"]
                assert entry["meaning"]
                if entry["stands"] == "estimate":
                    error = result["fields"][entry["stderr_field"]]["value"]
                    assert (error is None) == (entry["value"] is None)
