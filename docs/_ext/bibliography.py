"""The page of references from a BibTeX file, and a role that cites them."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
ENTRY = re.compile(r"@(\w+)\{([^,\s]+),\s*\n(.*?)\n\}", re.DOTALL)
FIELD = re.compile(r"(\w+)\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
ACCENTS = {"'e": "é", "'a": "á", '"o': "ö", '"u': "ü", '"a': "ä", "`e": "è"}


def read(path: str) -> dict[str, dict[str, str]]:
    """Entries by key, each with its fields as plain text."""
    entries = {}
    for _, key, body in ENTRY.findall(Path(path).read_text(encoding="utf-8")):
        entries[key] = {name.lower(): _plain(value) for name, value in FIELD.findall(body)}
    return entries


def _plain(text: str) -> str:
    text = re.sub(r"\{?\\([`'\"])\{?(\w)\}?\}?", lambda m: ACCENTS.get(m[1] + m[2], m[2]), text)
    return " ".join(re.sub(r"[{}]", "", text).split())


def _surnames(entry: dict[str, str]) -> list[str]:
    return [name.split(",")[0].strip() for name in entry["author"].split(" and ")]


def label(entry: dict[str, str], style: str) -> str:
    """How a citation reads: surnames and the year, the year in parentheses if it is part of a sentence."""
    names = _surnames(entry)
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return f"{who} ({entry['year']})" if style == "citet" else f"{who} {entry['year']}"


def _reference(key: str, entry: dict[str, str]) -> str:
    where = entry.get("booktitle") or entry.get("journal") or entry.get("publisher") or ""
    arxiv = entry.get("eprint") or "".join(re.findall(r"arXiv:\s*([\d.]+)", entry.get("note", "")))
    if arxiv and "arXiv" not in where:
        where = f"{where}, arXiv:{arxiv}" if where else f"arXiv:{arxiv}"
    authors = ", ".join(_surnames(entry))
    return f".. _ref-{key}:\n\n``{key}``\n    {authors}. *{entry['title']}*. {where}, {entry['year']}.\n"


def _write(app: Sphinx) -> None:
    entries = read(app.config.bibliography_file)
    app.env.bibliography_entries = entries  # type: ignore[attr-defined]
    parts = [_reference(key, entry) for key, entry in sorted(entries.items())]
    text = ".. This page is generated.\n\nReferences\n==========\n\nBy key, as docstrings and results cite them.\n\n"
    page = Path(app.srcdir) / "references.rst"
    text += "\n".join(parts)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def _cite(name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """The roles: ``cite`` in parentheses, ``citet`` as part of a sentence, ``citekey`` bare; commas between keys."""
    del options, content
    env = inliner.document.settings.env
    made: list[nodes.Node] = []
    for key in (part.strip() for part in text.split(",")):
        entry = env.bibliography_entries.get(key)
        if entry is None:
            logger.warning("there is no reference %r", key, location=(env.docname, line))
            continue
        if made:
            made.append(nodes.Text("; "))
        shown = nodes.inline("", label(entry, name), classes=["citation-key"])
        made.append(
            pending_xref(
                raw, shown, refdomain="std", reftype="ref", reftarget=f"ref-{key}", refexplicit=True, refwarn=True,
                refdoc=env.docname,
            )
        )  # fmt: skip
    if name == "cite":
        made = [nodes.Text("("), *made, nodes.Text(")")]
    return made, []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the page."""
    app.add_config_value("bibliography_file", "references.bib", "env")
    for role in ("cite", "citet", "citekey"):
        app.add_role(role, _cite)
    app.connect("builder-inited", _write, priority=100)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
