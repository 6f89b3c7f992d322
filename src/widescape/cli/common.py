"""What the commands share: the user's data and network, and what is printed."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from widescape.core.errors import DataError, WidescapeError

if TYPE_CHECKING:
    from widescape.arch.base import Layer
    from widescape.data import Dataset

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Task = Literal["auto", "classes", "numbers"]
Which = Literal["nngp", "ntk"]


def open_data(source: str, target: str | None, task: Task) -> "Dataset":
    """A data set by name or by file."""
    from widescape import data

    if source in data.names():
        if target is not None or task != "auto":
            raise DataError(f"--target and --task are for files of your own; {source!r} knows its own.")
        return data.load(source)
    if not Path(source).exists():
        return data.load(source)  # refuses, and says what there is
    return data.read(source, target=target, task=task)


def open_network(text: str | None, n_out: int) -> "Layer":
    """The network that a text describes, or the default one."""
    from widescape import arch

    if text is None:
        return arch.default_network(n_out)
    try:
        return arch.from_text(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"--net: {error}") from error


def cut(dataset: "Dataset", n: int | None, seed: int) -> "Dataset":
    """At most `n` training examples, drawn at random, with as many of each class as can be."""
    if seed < 0:
        raise DataError(f"--seed is {seed}; it must not be negative.")
    if n is not None and n < 2:
        raise DataError(f"--n is {n}; give at least 2 examples.")
    if n is None or n >= len(dataset.x_train):
        return dataset
    if dataset.num_classes is not None and n < dataset.num_classes:
        raise DataError(f"--n is {n}, but there are {dataset.num_classes} classes; give at least as many.")
    return dataset.subset(n, len(dataset.x_test), seed=seed, balanced=dataset.num_classes is not None)


def prepare_output(path: Path) -> None:
    """Refuse a file that cannot be written, before the work.

    Raises:
        DataError: it is a folder.
        OSError: its folder cannot be made or written to.
    """
    if path.is_dir():
        raise DataError(f"--out is {str(path)!r}, which is a folder; name a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


@contextmanager
def on_users_data() -> Iterator[None]:
    """Errors about values that came from the user are refusals, not faults of ours."""
    try:
        yield
    except WidescapeError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from error


def shape_of(x: Any) -> str:
    """The shape of one example, in words."""
    return " x ".join(map(str, x.shape[1:])) + (" features" if x.ndim == 2 else "")


def note(line: str) -> None:
    """A line of progress, on standard error."""
    print(f"... {line}", file=sys.stderr)


def show(document: dict[str, Any], lines: list[str], *, as_json: bool) -> int:
    """Print a document, or what it says in words; the exit status of success."""
    from widescape.core.files import plain

    if as_json:
        print(json.dumps(plain(document), allow_nan=False, ensure_ascii=False, indent=1))
    else:
        print("\n".join(lines))
    return 0
