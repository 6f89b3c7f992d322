"""The reference of the public interface: pages from `__all__`, docstrings made fit for Sphinx, and a check of both."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)
PACKAGE = "widescape"


@dataclass(frozen=True)
class Entry:
    """One public name.

    Attributes:
        address: where it is documented.
        name: its last part.
        value: what it stands for.
        home: the address under which it is described, if that is in another room.
    """

    address: str
    name: str
    value: Any
    home: str | None = None

    @property
    def kind(self) -> str:
        """Which directive of autodoc describes it."""
        if inspect.isclass(self.value):
            return "exception" if issubclass(self.value, Exception) else "class"
        return "function" if inspect.isroutine(self.value) else "data"


def sections(app: Sphinx, room: str) -> list[tuple[str, list[Entry]]]:
    """Modules of a room's page with their public names: the room itself, or those that the configuration names.

    Raises:
        ExtensionError: the room has neither.
    """
    module = importlib.import_module(f"{PACKAGE}.{room}")
    if hasattr(module, "__all__"):
        entries = [Entry(f"{module.__name__}.{n}", n, getattr(module, n)) for n in module.__all__]
        return [(module.__name__, [_at_home(app, room, entry) for entry in entries])]
    if room not in app.config.api_modules:
        raise ExtensionError(f"{PACKAGE}.{room} has no `__all__`; name its public modules in `api_modules`.")
    return [_own(importlib.import_module(f"{PACKAGE}.{room}.{name}")) for name in app.config.api_modules[room]]


def _at_home(app: Sphinx, room: str, entry: Entry) -> Entry:
    """The entry, with its address elsewhere if another room defines and exports it."""
    defined = getattr(entry.value, "__module__", "") if entry.kind != "data" else ""
    for other in app.config.api_rooms:
        if other != room and defined.startswith(f"{PACKAGE}.{other}."):
            names = getattr(importlib.import_module(f"{PACKAGE}.{other}"), "__all__", ())
            if entry.name in names:
                return Entry(entry.address, entry.name, entry.value, f"{PACKAGE}.{other}.{entry.name}")
    return entry


def _own(module: Any) -> tuple[str, list[Entry]]:
    """The public names that a module defines itself, in the order of its source; constants only with a docstring."""
    found = [Entry(f"{module.__name__}.{name}", name, getattr(module, name)) for name in _assigned(module)]
    return module.__name__, [e for e in found if e.kind != "data" or _constant_doc(e)]


def _assigned(module: Any) -> Iterator[str]:
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            name = getattr(target, "id", "_")
            if not name.startswith("_") and type(getattr(module, name)).__name__ != "TypeVar":
                yield name


def all_entries(app: Sphinx) -> list[Entry]:
    """Every public name of every room that is described there."""
    return [e for room in app.config.api_rooms for _, es in sections(app, room) for e in es if e.home is None]


def _page(app: Sphinx, room: str) -> str:
    parts = [f".. This page is generated.\n\n{room}\n{'=' * len(room)}\n"]
    listed = sections(app, room)
    if len(listed) > 1:
        parts.append(f".. automodule:: {PACKAGE}.{room}\n   :no-index:\n")
    for module, entries in listed:
        if len(listed) > 1:
            short = module.rpartition(".")[2]
            parts.append(f"{short}\n{'-' * len(short)}\n")
        parts.append(f".. automodule:: {module}\n\n.. currentmodule:: {module}\n")
        here = [e for e in entries if e.home is None]
        groups = [g for g in ("class", "exception", "function", "data") if any(e.kind == g for e in here)]
        rows = "".join(f"   {e.name}\n" for g in groups for e in here if e.kind == g and e.kind != "data")
        if rows and len(here) > 1:
            parts.append(f".. autosummary::\n   :nosignatures:\n\n{rows}")
        parts += [f"``{e.name}`` is :py:obj:`{e.home}`.\n" for e in entries if e.home is not None]
        for group in groups:
            parts += [_described(e) for e in here if e.kind == group]
    return "\n".join(parts)


def _described(entry: Entry) -> str:
    if entry.kind == "data":
        return _constant(entry)
    options = "   :members:\n" if entry.kind in ("class", "exception") else ""
    if options and entry.value.__bases__ != (object,):
        options += "   :show-inheritance:\n"
        if any(_is_private(base) for base in entry.value.__mro__):
            stop = dict.fromkeys(base.__name__ for base in entry.value.__mro__[1:] if not _is_private(base))
            options += f"   :inherited-members: {', '.join(stop)}\n"
    return f".. auto{entry.kind}:: {entry.address}\n{options}"


def _is_private(base: type) -> bool:
    """Whether a class is a base of ours without an entry of its own: its members are shown where it is used."""
    return base.__name__.startswith("_") and base.__module__.startswith(PACKAGE)


def _constant(entry: Entry) -> str:
    value = entry.value
    if isinstance(value, tuple) and value and all(callable(v) for v in value):
        shown = "(" + ", ".join(f"{v.__module__.rpartition('.')[2]}.{v.__name__}" for v in value) + ")"
    else:
        shown = repr(value)
    shown = shown if len(shown) <= 90 else f"{shown[:87]}..."
    lines = [f".. py:data:: {entry.name}", f"   :value: {shown}", ""]
    lines += [f"   {line}" for line in escaped(_constant_doc(entry)).splitlines()]
    return "\n".join(lines) + "\n"


@cache
def _trees() -> list[ast.Module]:
    root = Path(importlib.import_module(PACKAGE).__path__[0])
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))]


def _constant_doc(entry: Entry) -> str:
    """The string below the assignment of a constant, if there is one."""
    for tree in _trees():
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if entry.name in [getattr(t, "id", None) for t in targets] and isinstance(after, ast.Expr):
                return str(getattr(after.value, "value", ""))
    return ""


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    pages = {room: _page(app, room) for room in app.config.api_rooms}
    tree = "".join(f"   {room}\n" for room in pages)
    rows = []
    for room in pages:
        doc = (importlib.import_module(f"{PACKAGE}.{room}").__doc__ or "").split("\n\n")[0]
        rows.append(f":doc:`{room}`\n    {' '.join(doc.split())}\n")
    pages["index"] = (
        ".. This page is generated.\n\nReference\n=========\n\n"
        "One page for each room of the library, from bottom to top: a room imports from those above it in this list.\n"
        "Every name that a room exports is here.\n\n" + "\n".join(rows) + f"\n.. toctree::\n   :hidden:\n\n{tree}"
    )
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()


# Docstrings.

CODE = re.compile(r"(``.+?``|`[^`]+?`(?:__?)?)", re.DOTALL)


def escaped(text: str) -> str:
    """Text of a formula as it is: asterisks, bars and final underscores mean nothing outside of code."""
    parts = CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    return "".join(parts)


def _blocks(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Runs of lines, and whether each is prose; doctests and literal blocks are not."""
    run: list[str] = []
    prose, literal_below = True, -1
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= literal_below:
            literal_below = -1
        starts = line.lstrip().startswith(">>>")
        ends = not line.strip() and literal_below < 0
        now = False if starts or literal_below >= 0 else True if ends else prose
        if now != prose:
            yield prose, run
            run, prose = [], now
        run.append(line)
        if prose and line.rstrip().endswith("::"):
            literal_below = indent
    yield prose, run


def _process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Make a docstring's formulas and citations fit for reStructuredText, before napoleon reads it."""
    del name, options
    lines[:] = _items_mended(list(lines))
    if what in ("attribute", "property") and lines:
        lines.insert(0, "\\ ")  # napoleon would take what stands before a colon in the first line for a type
    keys = sorted(getattr(app.env, "bibliography_entries", {}), key=len, reverse=True)
    cited = re.compile(rf"(?<![`\w])({'|'.join(keys)})(?![`\w])") if keys else None
    made: list[str] = []
    for prose, run in _blocks(list(lines)):
        text = "\n".join(run)
        if prose and run:
            text = escaped(text)
            text = cited.sub(r":citekey:`\1`", text) if cited else text
            text = re.sub(r"^(\s*)Cost: ", r"\1**Cost:** ", text, flags=re.MULTILINE)
        made += text.split("\n")
    lines[:] = made
    if what in ("class", "exception"):
        lines += _fields_of(value)


def _items_mended(lines: list[str]) -> list[str]:
    """One entry for each attribute of a line that lists several, and no entry for a sentence among exceptions."""
    made: list[str] = []
    section = ""
    for i, line in enumerate(lines):
        if re.fullmatch(r"[A-Z]\w+:", line):
            section = line
        elif line and not line.startswith(" "):
            section = ""
        several = re.fullmatch(r"    (\w+(?:, \w+)+): (.*)", line)
        if section == "Attributes:" and several:
            rest = list(_continuation(lines[i + 1 :]))
            *firsts, last = several[1].split(", ")
            for attribute in firsts:
                made += [f"    {attribute}: {several[2]}", *rest]
            made.append(f"    {last}: {several[2]}")
        elif section == "Raises:" and re.match(r"    [a-z]", line):
            made.append(f"    {line}")
        else:
            made.append(line)
    return made


def _continuation(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("     "):
            return
        yield line


def _signature(app: Sphinx, what: str, name: str, value: Any, options: Any, args: str, result: str) -> Any:
    """Results are not made by hand: their fields are in the table, so the signature would only repeat them."""
    del app, name, options, args
    from widescape.core.result import Result

    return ("", result) if what == "class" and issubclass(value, Result) else None


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that scikit-learn generates."""
    del app, what, value, skip, options
    return True if re.fullmatch(r"set_\w+_request", name) else None


def _fields_of(cls: Any) -> list[str]:
    """The fields of a result with what stands behind them, and the members of a status."""
    from widescape.core.result import Result
    from widescape.core.status import Status

    if not inspect.isclass(cls):
        return []
    if issubclass(cls, Result) and cls is not Result:
        rows = []
        for f in cls._quantities():
            unit = f" [{f.metadata['unit']}]" if f.metadata["unit"] else ""
            rows.append((f"``{f.name}``", str(f.metadata["stands"]), escaped(f.metadata["doc"]) + unit))
        return _table(("field", "stands on", "meaning"), rows)
    if issubclass(cls, Status) and cls is not Status:
        return _table(("outcome", "meaning"), [(f"``{m.name}``", escaped(str(m.value))) for m in cls])
    return []


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["", ".. list-table::", "   :header-rows: 1", "   :class: fields", ""]
    for row in (head, *rows):
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]


# Names in single backticks.


def _name_role(name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Code, with a link if it is a public name."""
    del name, line, options, content
    literal = nodes.literal(raw, text, classes=["xref", "py"])
    if not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
        return [nodes.literal(raw, text)], []
    env = inliner.document.settings.env
    context = {"py:module": env.ref_context.get("py:module"), "py:class": env.ref_context.get("py:class")}
    node = addnodes.pending_xref(
        raw, literal, refdomain="py", reftype="obj", reftarget=text.removesuffix("()"), refexplicit=False,
        refwarn=False, refdoc=env.docname, lenient=True, **context,
    )  # fmt: skip
    return [node], []


def _short_names(app: Sphinx) -> dict[str, str]:
    """Full addresses of names that can stand alone: those that occur once."""
    if not hasattr(app, "_short_names"):
        found: dict[str, list[str]] = {}
        for entry in all_entries(app):
            found.setdefault(entry.name, []).append(entry.address)
        app._short_names = {k: v[0] for k, v in found.items() if len(v) == 1}  # type: ignore[attr-defined]
    return app._short_names  # type: ignore[attr-defined, no-any-return]


def _resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """A name without its room, by the list of all public names; code that is no public name stays code."""
    if node.get("refdomain") != "py":
        return None
    lenient = node.get("lenient", False)
    first, dot, rest = node["reftarget"].rpartition(".")[2] if not lenient else node["reftarget"], "", ""
    first, dot, rest = first.partition(".")
    telling = first[:1].isupper() or "_" in first  # other words are also names of arguments
    address = _short_names(app).get(first) if telling or not lenient else None
    if address is not None:
        domain = env.get_domain("py")
        made = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{address}{dot}{rest}", node, contnode)
        if made is not None:
            return made
    return contnode if lenient else None


# The check.


def _check_docstrings(app: Sphinx) -> None:
    """Warn of each public class or function without a docstring of its own."""
    for entry in all_entries(app):
        if entry.kind == "data":
            continue
        doc = entry.value.__dict__.get("__doc__") if inspect.isclass(entry.value) else entry.value.__doc__
        if not doc or doc.startswith(f"{entry.name}("):
            logger.warning("%s has no docstring", entry.address)


def _check_complete(app: Sphinx, env: Any) -> None:
    """Warn of each public name that the reference lacks."""
    described = set(env.get_domain("py").objects)
    for entry in all_entries(app):
        if entry.address not in described:
            logger.warning("%s is public, but the reference lacks it", entry.address)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register pages, docstring processing, the default role and the check."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.add_config_value("api_rooms", (), "env")
    app.add_config_value("api_modules", {}, "env")
    app.add_role("name", _name_role)
    app.connect("builder-inited", _check_docstrings)
    app.connect("builder-inited", _write_pages, priority=200)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("missing-reference", _resolve)
    app.connect("env-check-consistency", _check_complete)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
