"""The commands. Nothing heavy is imported before a command runs, so help and version answer at once."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

import widescape
from widescape.cli.common import Flag, Task, note, open_data
from widescape.cli.datasets import data
from widescape.cli.models import fit, kernel, predict
from widescape.cli.studies import study

DESCRIPTION = (
    "Point it at a network: how far is it from its infinite-width limit, "
    "and what is proved, bounded or only sampled about it?"
)


def survey(
    data: str | None = None,
    target: str | None = None,
    task: Task = "auto",
    model: str | None = None,
    arch: str | None = None,
    out: Path = Path("survey"),
    seed: int = 0,
    full: Flag = False,
    json: Flag = False,
) -> int:
    """Measure the default network on a data set, or your own model; write a page, a JSON file and the figures.

    Args:
        data: name of a data set (see: widescape data list), or the path of your own: an npz, csv or Parquet file, or a
            folder or zip with a folder of images for each class. Without it, digits.
        target: for a table, the column that is predicted.
        task: for a file, whether targets are classes or numbers; auto decides by what they look like.
        model: your own model instead, as file.py:make_system; the function returns a widescape.curvature.System, or a
            pair of one and a test set (x, y). The file is run.
        arch: the network on a data set: fc, cnn_vec, cnn_gap, myrtle or resnet (small ones with GELU units), or one of
            your own such as "cnn_gap(2, 64, 10, activation=Erf())". Without it, a fully connected one.
        out: folder for survey.html, survey.json and figures/.
        seed: every random draw derives from it.
        full: lift the limit of 25 seconds per chapter.
        json: print the JSON document on standard output instead of sentences.
    """
    from widescape.report import page
    from widescape.survey import load_model
    from widescape.survey import survey as run

    if seed < 0:
        return _misused(f"--seed is {seed}; it must not be negative.", as_json=json)
    if model is not None and data is not None:
        return _misused("--model brings its own data; leave out --data.", as_json=json)
    if model is not None and arch is not None:
        return _misused("--model brings its own network; leave out --arch.", as_json=json)
    data = "digits" if data is None else data
    system, test = (None, None) if model is None else load_model(model)
    subject = open_data(data, target, task) if system is None else system
    out.mkdir(parents=True, exist_ok=True)  # refused now rather than after the work
    report = run(
        subject,
        arch=arch,
        test=test,
        seed=seed,
        full=full,
        name="your model" if model is None else model,
        say=note,
        command=_command(data, target, task, model, arch, seed, full=full),
    )
    paths = page.write(report, out)
    if json:
        sys.stdout.write(paths.data.read_text(encoding="utf-8"))
    else:
        for chapter in report.chapters:
            print(f"\n{chapter.title}\n{chapter.verdict}\n{chapter.sizing}")
            for sentence in chapter.sentences:
                print(f"- {sentence}")
        for title, reason in report.left_out.items():
            print(f"\nLeft out: {title}, because {reason}")
        print(f"\nThe page: {paths.page}   ({report.seconds:.0f} s)")
    return 0


def _misused(message: str, *, as_json: bool) -> int:
    """Say what is wrong with the options; the exit status of wrong usage."""
    if as_json:
        print(_error("UsageError", message))
    print(f"widescape: {message}", file=sys.stderr)
    return 2


def _error(kind: str, message: str) -> str:
    return json.dumps({"error": kind, "message": message})


def _command(
    data: str, target: str | None, task: str, model: str | None, arch: str | None, seed: int, *, full: bool
) -> str:
    """The command that repeats a survey."""
    subject = f"--data {shlex.quote(data)}" if model is None else f"--model {shlex.quote(model)}"
    subject += "" if target is None else f" --target {shlex.quote(target)}"
    subject += "" if arch is None else f" --arch {shlex.quote(arch)}"
    subject += "" if task == "auto" else f" --task {task}"
    return f"widescape survey {subject} --seed {seed}" + (" --full" if full else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 for success, 1 for a refusal and 2 for wrong usage (which may exit instead)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if args == ["--version"]:
        print(f"widescape {widescape.__version__}")
        return 0
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {"survey": survey, "fit": fit, "predict": predict, "kernel": kernel, "study": study, "data": data},
            prog="widescape",
            description=DESCRIPTION,
            args=args,
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from widescape.core.errors import WidescapeError

        if not isinstance(error, WidescapeError | OSError):
            raise
        if "--json" in args:
            print(_error(type(error).__name__, str(error)))
        print(f"widescape: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
