"""A table as data: the report lays it out."""

from dataclasses import dataclass
from typing import Any

from widescape.core.files import plain


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        name: a short identifier.
        title: what the table shows.
        columns: the headings, with units.
        rows: one tuple of text, numbers or None per row, as long as `columns`.
        caption: how to read it, what stands behind the numbers.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name!r}: a row has {len(row)} cells for {len(self.columns)} columns.")

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        return {
            "name": self.name,
            "title": self.title,
            "columns": list(self.columns),
            "rows": plain(self.rows),
            "caption": self.caption,
        }
