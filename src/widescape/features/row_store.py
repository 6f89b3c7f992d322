"""Finished rows of an experiment in a file of JSON lines that survives an interruption."""

import functools
import hashlib
import inspect
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import jax
import numpy as np

from widescape.core.errors import CheckpointError
from widescape.core.files import plain

FORMAT = 1


class RowStore:
    """Rows by model, size and seed; each new one is appended to the file at once.

    The first line of the file describes the experiment and holds its fingerprint. A last line without an end, which an
    interruption leaves, is cut off.

    Args:
        path: of the file, which is made if it is absent; None keeps nothing.
        experiment: what all rows share, by name.
        models: a fingerprint for each model by name.

    Raises:
        CheckpointError: the file is damaged, of another experiment, or has rows of another model of the same name.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, experiment: Mapping[str, str], models: Mapping[str, str]
    ) -> None:
        self.path = None if path is None else Path(path)
        self.models = dict(models)
        self.rows: dict[tuple[str, int, int], dict[str, Any]] = {}
        self._header = {"format": FORMAT, "fingerprint": digest(sorted(experiment.items())), **experiment}
        if self.path is not None:
            self._open(self.path)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row with `model`, `n`, `seed` and what else JSON can hold."""
        line = json.dumps({**plain(row), "model_fingerprint": self.models[row["model"]]})
        self._keep(json.loads(line))
        if self.path is not None:
            _append(self.path, line)

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows.setdefault((row["model"], row["n"], row["seed"]), row)

    def _open(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole, end, torn = content.rpartition(b"\n")
        header = json.dumps(self._header)
        if not end and not header.encode().startswith(torn):
            raise CheckpointError(f"{path} is no file of such an experiment; give another path.")
        if torn:
            os.truncate(path, len(whole) + len(end))
        if not end:
            _append(path, header)
            return
        first, *lines = whole.split(b"\n")
        self._check_header(path, _parsed(path, first, 1))
        for number, line in enumerate(lines, 2):
            row = _parsed(path, line, number)
            if not {"model", "n", "seed", "model_fingerprint"} <= row.keys():
                raise CheckpointError(f"{path}, line {number}, is no row of such an experiment. Remove it.")
            if self.models.get(row["model"], row["model_fingerprint"]) != row["model_fingerprint"]:
                raise CheckpointError(
                    f"{path} has rows of another model of the name {row['model']!r}; give the model another name, or "
                    "another path."
                )
            self._keep(row)

    def _check_header(self, path: Path, found: dict[str, Any]) -> None:
        if found.get("format") != FORMAT or "fingerprint" not in found:
            raise CheckpointError(f"{path} is no file of such an experiment; give another path.")
        if found["fingerprint"] != self._header["fingerprint"]:
            other = [name for name, value in self._header.items() if name != "fingerprint" and found.get(name) != value]
            raise CheckpointError(
                f"{path} belongs to another experiment, whose {', '.join(other) or 'description'} differ; give another "
                "path, or remove it to start anew."
            )


def digest(value: Any) -> str:
    """SHA-256 of what a value says of itself: numbers, arrays, containers, functions by their code and closure.

    Objects count by their attributes, or by what pickle keeps of them. Those with `get_params` count without what they
    learned, which a fit replaces (attributes that begin or end with an underscore), save inside of scikit-learn's
    `FrozenEstimator`, which keeps it. What a function calls is not looked into. Equal in every process of one version
    of Python.
    """
    return hashlib.sha256(_told(value, ()).encode()).hexdigest()


def _told(value: Any, above: tuple[int, ...], frozen: bool = False) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if id(value) in above:
        return "..."
    inner = functools.partial(_told, above=(*above, id(value)), frozen=frozen)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.ascontiguousarray(value)
        return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{inner(k)}: {inner(v)}' for k, v in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(inner, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(inner, value)))}}}"
    if isinstance(value, CodeType):
        return f"code {value.co_code.hex()} {inner(value.co_consts)} {value.co_names}"
    if isinstance(value, functools.partial):
        return f"partial {inner((value.func, value.args, value.keywords))}"
    if isinstance(value, MethodType):
        return f"method {inner((value.__func__, value.__self__))}"
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return f"{_name(value)} {inner((value.__code__, value.__defaults__, value.__kwdefaults__, cells))}"
    if isinstance(value, type) or inspect.isbuiltin(value):
        return _name(value)
    return f"{_name(type(value))} {_of_object(value, inner, frozen)}"


def _of_object(value: Any, inner: Any, frozen: bool) -> str:
    if hasattr(value, "__wrapped__"):  # a compiled function
        return inner(value.__wrapped__)
    if is_dataclass(value):
        return inner([(f.name, getattr(value, f.name)) for f in fields(value) if f.name != "provenance"])
    if hasattr(value, "get_params"):
        return _of_model(value, inner, frozen)
    if getattr(value, "__dict__", None):
        return inner(vars(value))
    try:
        kept = value.__reduce_ex__(2)
    except (TypeError, AttributeError, ValueError, RuntimeError, pickle.PickleError):
        kept = ()
    if isinstance(kept, tuple) and len(kept) > 1:  # arguments and state, then iterators over entries
        return inner([*kept[1:3], *(list(entries) for entries in kept[3:5] if entries is not None)])
    return without_address(value)


def _of_model(value: Any, inner: Any, frozen: bool) -> str:
    """Parameters and attributes; what was learned only where no fit replaces it."""
    frozen = frozen or type(value).__name__ == "FrozenEstimator"
    own = {k: v for k, v in vars(value).items() if frozen or not (k.startswith("_") or k.endswith("_"))}
    return functools.partial(inner, frozen=frozen)({**own, **value.get_params(deep=False)})


def without_address(value: Any) -> str:
    """How a value prints itself, less the places in memory, which are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _parsed(path: Path, line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CheckpointError(f"{path}, line {number}, is damaged: {error}. Remove the line, or the file.") from error
    if not isinstance(row, dict):
        raise CheckpointError(f"{path}, line {number}, is no row of such an experiment. Remove it.")
    return row


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
