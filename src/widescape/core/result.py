"""The typed result of a measurement: frozen, printable, saved bit-exactly, explicit about its evidence."""

import dataclasses
import importlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np

from widescape.core.chart import Drawable
from widescape.core.errors import ResultFormatError
from widescape.core.evidence import Evidence
from widescape.core.files import plain, replacing
from widescape.core.status import Status

FORMAT = 1
MAX_LINES = 19


def quantity(stands: Evidence, doc: str, *, unit: str = "", default: Any = dataclasses.MISSING) -> Any:
    """Declare a field of a result.

    Args:
        stands: what stands behind the field, unless an instance says otherwise.
        doc: the quantity in a few words, with its normalization.
        unit: its unit, empty for pure numbers.
        default: its default; without one the field is required.
    """
    meta = {"stands": stands, "doc": doc, "unit": unit}
    return dataclasses.field(default=default, metadata=meta)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(quantity,))
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Base of all results. A subclass lists its fields with `quantity`; it becomes a frozen dataclass.

    Arrays become read-only NumPy arrays. Two results are equal when every field is, bit for bit
    (so NaN equals NaN).

    Attributes:
        source: where the quantity is defined: bib key and section, equation or theorem.
        stands: evidence of this instance, by field name, where it differs from the class's.
        provenance: what made the result (architecture, data, seed, versions), for people.

    Example:
        >>> from widescape.core.evidence import EXACT
        >>> class Area(Result):
        ...     source = "euclid, book I"
        ...     value: float = quantity(EXACT, "area of the square", unit="m^2")
        >>> Area(value=4.0).evidence("value").kind
        'exact'
    """

    source: ClassVar[str] = ""
    stands: Mapping[str, Evidence] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)
        names = {f.name for f in cls._quantities()}
        for f in cls._quantities():
            if "stands" not in f.metadata:
                raise TypeError(f"{cls.__name__}.{f.name} must be declared with `quantity(...)`.")
            stderr = f.metadata["stands"].stderr
            if stderr is not None and stderr not in names:
                raise TypeError(f"{cls.__name__}.{f.name} names {stderr!r} as its standard error; no such field.")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _freeze(getattr(self, f.name)))
        named = {*self.stands, *(e.stderr for e in self.stands.values() if e.stderr is not None)}
        unknown = named - {f.name for f in self._quantities()}
        if unknown:
            raise ValueError(f"`stands` names fields that {type(self).__name__} lacks: {sorted(unknown)}.")

    @classmethod
    def _quantities(cls) -> tuple[dataclasses.Field[Any], ...]:
        fields = dataclasses.fields(cls)
        return tuple(f for f in fields if f.name not in ("stands", "provenance"))

    def evidence(self, name: str) -> Evidence:
        """What stands behind the field `name` of this instance."""
        if name in self.stands:
            return self.stands[name]
        for f in self._quantities():
            if f.name == name:
                evidence: Evidence = f.metadata["stands"]
                return evidence
        raise KeyError(f"{type(self).__name__} has no field {name!r}.")

    def charts(self) -> tuple[Drawable, ...]:
        """The figures of this result, as data; none by default."""
        return ()

    def table(self) -> list[dict[str, Any]]:
        """One row per field: name, value, unit, evidence, meaning. Ready for ``pandas.DataFrame``."""
        return [
            {
                "name": f.name,
                "value": getattr(self, f.name),
                "unit": f.metadata["unit"],
                "stands": str(self.evidence(f.name)),
                "meaning": f.metadata["doc"],
            }
            for f in self._quantities()
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: arrays as nested lists, non-finite numbers as their names."""
        fields = {}
        for f in self._quantities():
            evidence = self.evidence(f.name)
            fields[f.name] = {
                "value": plain(getattr(self, f.name)),
                "unit": f.metadata["unit"],
                "stands": str(evidence),
                "stderr_field": evidence.stderr,
                "note": evidence.note,
                "meaning": f.metadata["doc"],
            }
        return {
            "result": type(self).__name__,
            "source": self.source,
            "fields": fields,
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to one file, atomically. `load` gives it back bit for bit.

        The file is a zip archive: the structure as JSON, floats in hexadecimal, arrays as ``.npy``.
        Nothing in it is executable.
        """
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps({"format": FORMAT, "root": _encode(self, arrays)})
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("result.json", text)
            for name, array in arrays.items():
                with archive.open(name, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote.

        Raises:
            ResultFormatError: the file is damaged, of another format, or holds another class.
        """
        with open(path, "rb") as file:  # an absent file is the caller's error, not a damaged result
            try:
                with zipfile.ZipFile(file) as archive:
                    document = json.loads(archive.read("result.json"))
                    if document.get("format") != FORMAT:
                        raise ResultFormatError(
                            f"{path} has format {document.get('format')!r}; this version reads {FORMAT}."
                        )
                    result = _decode(document["root"], archive)
            except ResultFormatError:
                raise
            except Exception as error:  # whatever a damaged archive or document provokes
                raise ResultFormatError(f"{path} is not a readable result file: {error!r}") from error
        if not isinstance(result, cls):
            raise ResultFormatError(f"{path} holds a {type(result).__name__}, not a {cls.__name__}.")
        return result

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        head = f"{type(self).__name__}" + (f"  [{self.source}]" if self.source else "")
        rows = [(f.name, self._value(f), f) for f in self._quantities() if getattr(self, f.name) is not None]
        wide = max((len(name) for name, _, _ in rows), default=0)
        lines = [f"  {name:<{wide}}  {value}  ({self.evidence(name)}: {f.metadata['doc']})" for name, value, f in rows]
        if len(lines) > MAX_LINES - 1:
            hidden = len(lines) - (MAX_LINES - 2)
            lines = [*lines[: MAX_LINES - 2], f"  ... and {hidden} more fields; see .table()"]
        return "\n".join([head, *lines])

    def _value(self, field: dataclasses.Field[Any]) -> str:
        """One value in a few words, with its standard error and unit."""
        text = _brief(getattr(self, field.name))
        stderr = self.evidence(field.name).stderr
        if stderr is not None and isinstance(getattr(self, stderr), float):
            text += f" ± {getattr(self, stderr):.2g}"
        return f"{text} {field.metadata['unit']}".rstrip()

    __repr__ = __str__


class _FrozenDict(dict[Any, Any]):
    """A dictionary that stays as it is."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a result does not change; make a new one, for instance with dataclasses.replace.")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def _freeze(value: Any) -> Any:
    """NumPy arrays, read-only; containers likewise; tracers and plain values as they are."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, Mapping):
        return _FrozenDict({_freeze(k): _freeze(v) for k, v in value.items()})
    if hasattr(value, "__array__") and hasattr(value, "shape") and hasattr(value, "dtype"):
        if _is_tracer(value):
            return value
        view = np.asarray(value).view()
        view.flags.writeable = False
        return view
    return value


def _is_tracer(value: Any) -> bool:
    import jax

    return isinstance(value, jax.core.Tracer)


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        shape = "x".join(str(n) for n in value.shape) or "scalar"
        numeric = value.size and value.dtype.kind in "iuf"
        extent = f", {np.min(value):.4g} to {np.max(value):.4g}" if numeric else ""
        return f"array {shape} {value.dtype}{extent}"
    if isinstance(value, Result):
        return type(value).__name__
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, Result):
        cls = type(value)
        fields = {f.name: _encode(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"kind": "result", "class": f"{cls.__module__}:{cls.__qualname__}", "fields": fields}
    if isinstance(value, Evidence):
        return {"kind": "evidence", "fields": dataclasses.asdict(value)}
    if isinstance(value, Status):
        cls_ = type(value)
        return {"kind": "status", "class": f"{cls_.__module__}:{cls_.__qualname__}", "name": value.name}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("a result with an array of Python objects cannot be saved; use numeric or string arrays.")
        name = f"array{len(arrays)}.npy"
        extension = value.dtype.kind == "V" and value.dtype.names is None  # bfloat16 and its kin, unknown to .npy
        arrays[name] = value.view(f"u{value.dtype.itemsize}") if extension else value
        return {"kind": "array", "name": name, "extension": value.dtype.name if extension else None}
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return {"kind": "float", "hex": value.hex()}
    if isinstance(value, tuple):
        return {"kind": "tuple", "items": [_encode(v, arrays) for v in value]}
    if isinstance(value, Mapping):
        return {"kind": "dict", "items": [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]}
    raise TypeError(f"a result cannot save a {type(value).__name__}; use numbers, text, arrays or results.")


def _decode(node: Any, archive: zipfile.ZipFile) -> Any:
    if not isinstance(node, dict):
        return node
    kind = node["kind"]
    if kind == "float":
        return float.fromhex(node["hex"])
    if kind == "array":
        with archive.open(node["name"]) as member:
            array = np.lib.format.read_array(io.BytesIO(member.read()), allow_pickle=False)
        return array if node["extension"] is None else array.view(_extension_dtype(node["extension"]))
    if kind == "tuple":
        return tuple(_decode(v, archive) for v in node["items"])
    if kind == "dict":
        return {_decode(k, archive): _decode(v, archive) for k, v in node["items"]}
    if kind == "evidence":
        return Evidence(**node["fields"])
    if kind == "status":
        return _find(node["class"], Status)[node["name"]]
    if kind == "result":
        fields = {k: _decode(v, archive) for k, v in node["fields"].items()}
        try:
            return _find(node["class"], Result)(**fields)
        except TypeError as error:
            raise ResultFormatError(f"{node['class']} has other fields in this version: {error}") from error
    raise ResultFormatError(f"unknown part {kind!r} in a result file.")


def _extension_dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # a dependency of JAX

    return np.dtype(getattr(ml_dtypes, name))


def _find(address: str, base: type) -> Any:
    """The class at ``module:name``. Only subclasses of `base` that are loaded, or in widescape."""
    known = {f"{c.__module__}:{c.__qualname__}": c for c in _descendants(base)}
    module = address.partition(":")[0]
    if address not in known and module.startswith("widescape.") and "__main__" not in module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ResultFormatError(f"{address} does not exist in this version.") from error
        known = {f"{c.__module__}:{c.__qualname__}": c for c in _descendants(base)}
    if address not in known:
        raise ResultFormatError(f"{address} is not known; import its module before loading.")
    return known[address]


def _descendants(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [c for child in children for c in (child, *_descendants(child))]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)
