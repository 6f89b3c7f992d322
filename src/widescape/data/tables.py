"""A user's arrays and tables: npz, csv and Parquet files."""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from widescape.core import checks
from widescape.core.errors import DataError
from widescape.data.dataset import Dataset, split

Task = Literal["auto", "classes", "numbers"]

_PAIRS = (("x", "y"), ("X", "y"), ("data", "target"), ("images", "labels"), ("inputs", "targets"))
PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".txt")
_TARGETS = ("target", "label", "labels", "class", "y")


@dataclass(frozen=True)
class Options:
    """How a file becomes a data set.

    Attributes:
        target: the column that is predicted; None for one of the usual names, else the last.
        task: classes or numbers; ``"auto"`` decides by what the targets look like.
        fraction: of the examples that are held out where the file has no test set.
        seed: of that draw.
    """

    target: str | None
    task: Task
    fraction: float
    seed: int


def read_npz(path: Path, name: str, options: Options) -> Dataset:
    """Arrays ``x_train, y_train, x_test, y_test``, or a pair such as ``x, y``.

    Images of bytes become float64 in [0, 1].
    """
    arrays = arrays_of(path)
    four = ("x_train", "y_train", "x_test", "y_test")
    if all(key in arrays for key in four):
        x_train, y_train, x_test, y_test = (arrays[key] for key in four)
        train, test = as_inputs(x_train, "x_train", path), as_inputs(x_test, "x_test", path)
        cut = len(train)
        if y_train.shape[:1] != (cut,) or y_test.shape[:1] != (len(test),) or y_train.shape[1:] != y_test.shape[1:]:
            raise DataError(
                f"{path} holds {cut} training and {len(test)} test inputs, and targets of shapes {y_train.shape} and "
                f"{y_test.shape}."
            )
        y, classes = _targets(np.concatenate([y_train, y_test]), options, str(path))
        return _made(path, name, (train, y[:cut], test, y[cut:]), classes)
    pair = next((own for own in _PAIRS if all(key in arrays for key in own)), None)
    if pair is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; give x_train, y_train, x_test, y_test, or x and y."
        )
    x = as_inputs(arrays[pair[0]], pair[0], path)
    y, classes = _targets(arrays[pair[1]], options, str(path))
    if len(x) != len(y):
        raise DataError(f"{path} holds {len(x)} inputs and {len(y)} targets.")
    return _held_out(path, name, x, y, classes, options)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name."""
    damage = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array without a name")
            with archive:
                return {key: archive[key] for key in archive.files}
    except damage as error:
        raise DataError(f"{path} is not an npz file of plain arrays: {error}") from error


def read_table(path: Path, name: str, options: Options) -> Dataset:
    """A csv or Parquet table with one column to predict.

    Raises:
        DataError: names the line and column of what is missing or no number.
    """
    return _table(path, name, columns_of(path), options)


def columns_of(path: Path) -> dict[str, np.ndarray]:
    """The columns of a csv or Parquet file, by name."""
    return _parquet_columns(path) if path.suffix.lower() in PARQUET else _csv_columns(path)


def numeric(columns: dict[str, np.ndarray], names: Sequence[str], path: Path) -> np.ndarray:
    """Columns of numbers (N, features) in the order of `names`.

    Raises:
        DataError: a column is missing, or a cell is no finite number.
    """
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; there are {', '.join(columns)}.")
    return np.stack([_numbers(columns[name], name, path) for name in names], axis=1)


def _csv_columns(path: Path) -> dict[str, np.ndarray]:
    """Rows between commas, semicolons or tabs; a header may name the columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    first = next((line for line in text.split("\n") if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty; a table has at least one row and may have a header.")
    separator = max(",;\t", key=re.sub('"[^"]*"', "", first).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        numbered = [(reader.line_num, row) for row in reader if len(row) > 1 or any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} cannot be read: {error}. Is a quote left open?") from error
    rows = [row for _, row in numbered]
    if not rows:
        raise DataError(f"{path} is empty; a table has at least one row and may have a header.")
    width = len(rows[0])
    for number, row in numbered:
        if len(row) != width:
            raise DataError(f"line {number} of {path} has {len(row)} cells, the first has {width}.")
    headed = not any(_is_number(cell) for cell in rows[0])
    header = [cell.strip() for cell in rows[0]] if headed else [f"column {i}" for i in range(1, width + 1)]
    body = rows[1:] if headed else rows
    if not body:
        raise DataError(f"{path} has a header and no rows.")
    columns = {title: np.array([row[i].strip() for row in body]) for i, title in enumerate(header)}
    if len(columns) < width:
        raise DataError(f"{path} names two columns alike: {', '.join(header)}.")
    return columns


def _parquet_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        import pandas
    except ImportError as error:
        raise DataError("reading Parquet needs pandas: pip install pandas pyarrow.") from error
    try:
        frame = pandas.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    return {str(title): frame[title].to_numpy() for title in frame.columns}


def _table(path: Path, name: str, columns: dict[str, np.ndarray], options: Options) -> Dataset:
    """Features and target of a table."""
    target = options.target
    if target is None:
        target = next((own for own in columns if own.lower() in _TARGETS), list(columns)[-1])
    if target not in columns:
        raise DataError(f"{path} has no column {target!r}; there are {', '.join(columns)}.")
    if len(columns[target]) < 2:
        raise DataError(f"{path} has one row; a data set needs at least two.")
    features = [title for title in columns if title != target]
    if not features:
        raise DataError(f"{path} has only the column {target!r}; a table needs at least one feature.")
    x = numeric(columns, features, path)
    y, classes = _targets(columns[target], options, f"column {target!r} of {path}")
    return replace(_held_out(path, name, x, y, classes, options), feature_names=tuple(features))


def _numbers(cells: np.ndarray, title: str, path: Path) -> np.ndarray:
    """A column as float64; every cell must be a finite number."""
    try:
        if cells.dtype.kind in "mMc":  # times would become numbers in some unit
            raise TypeError(f"{cells.dtype} is no real number")
        values = cells.astype(np.float64)
    except (TypeError, ValueError) as error:
        first = next((i for i, cell in enumerate(cells) if not _is_number(cell)), 0)
        raise DataError(
            f"column {title!r} of {path} has {str(cells[first])!r} in row {first + 1}, which is no number; replace "
            "text by numbers (one column for each value), and fill in what is missing."
        ) from error
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(f"column {title!r} of {path} has {cells[bad[0]]} in row {bad[0] + 1}; fill in what is missing.")
    return values


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def as_inputs(x: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Inputs (N, ...) in float64; images of bytes in [0, 1]."""
    if x.dtype.kind not in "iufb" or x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{key} in {path} is {x.dtype} of shape {x.shape}; give numbers of shape (N, ...).")
    if x.dtype == np.uint8 and x.ndim == 3:  # gray images
        x = x[..., None]
    values = x / 255.0 if x.dtype == np.uint8 and x.ndim == 4 else x.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{key} in {path} has entries that are not finite; fill in what is missing.")
    return values


def _targets(y: np.ndarray, options: Options, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels with the names of their classes, or numbers without."""
    checks.choice(options.task, "task", Task)
    if y.ndim not in (1, 2) or 0 in y.shape or y.dtype.kind in "mMcV":
        raise DataError(f"{what} has targets of {y.dtype} and shape {y.shape}; give (N,) or (N, outputs).")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    empty = [i for i, cell in enumerate(y) if _is_missing(cell)] if y.dtype.kind in "UO" else []
    if empty:
        raise DataError(f"{what} has no target in row {empty[0] + 1}; fill in what is missing.")
    numbers = _as_numbers(y)
    if numbers is not None and not np.isfinite(numbers).all():
        raise DataError(f"{what} has targets that are not finite; fill in what is missing.")
    if options.task == "auto" and numbers is None and 2 * sum(map(_is_number, y.flat)) > y.size:
        odd = next(own for own in y.flat if not _is_number(own))
        raise DataError(
            f"{what} has numbers and also {str(odd)!r}; mend that, or give task='classes' if all of them are names."
        )
    if options.task == "classes" or (options.task == "auto" and _look_like_classes(y, numbers)):
        if y.ndim != 1:
            raise DataError(f"{what} has targets of shape {y.shape}; labels have shape (N,).")
        if numbers is not None and y.dtype.kind not in "iu" and _whole(numbers):
            y = numbers.astype(np.int64)
        names, labels = np.unique(y, return_inverse=True)
        if len(names) < 2:
            raise DataError(f"{what} has one class only, {str(names[0])!r}; a classification needs at least two.")
        return labels.astype(np.int64), tuple(str(own) for own in names)
    if numbers is None:
        raise DataError(f"{what} holds text and not numbers; use task='classes'.")
    if np.ptp(numbers) == 0:
        raise DataError(f"{what} is constant, {numbers.flat[0]:g}; there is nothing to predict.")
    return numbers, ()


def _is_missing(cell: Any) -> bool:
    """Whether a cell of a target is blank, or one of the values that stand for nothing in tables."""
    return not cell.strip() if isinstance(cell, str) else str(cell) in ("None", "nan", "<NA>", "NaT")


def _whole(numbers: np.ndarray) -> bool:
    return bool((np.abs(numbers) < 2**53).all() and (numbers == np.rint(numbers)).all())


def _as_numbers(y: np.ndarray) -> np.ndarray | None:
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError):
        return None


def _look_like_classes(y: np.ndarray, numbers: np.ndarray | None) -> bool:
    """Text, truth values, and whole numbers of which few are distinct."""
    if numbers is None or y.dtype.kind == "b":
        return True
    if y.ndim != 1 or (numbers != np.rint(numbers)).any():
        return False
    return len(np.unique(numbers)) <= max(2.0, min(1000.0, len(y) ** 0.5))


def _held_out(path: Path, name: str, x: np.ndarray, y: np.ndarray, classes: Sequence[str], options: Options) -> Dataset:
    train, test = split(y, options.fraction, seed=options.seed, balanced=bool(classes))
    made = _made(path, name, (x[train], y[train], x[test], y[test]), tuple(classes))
    return replace(made, source=f"{made.source}, {100 * options.fraction:g}% held out at random")


def _made(path: Path, name: str, arrays: tuple[np.ndarray, ...], classes: tuple[str, ...]) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    kind = f"labels of {len(classes)} classes" if classes else "numbers as targets"
    try:
        return Dataset(name, x_train, y_train, x_test, y_test, len(classes) or None, f"{path.name}, {kind}", classes)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
