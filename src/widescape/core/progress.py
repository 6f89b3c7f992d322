"""A progress bar for long work: on a terminal, on standard error, and nowhere else unless asked."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, *, total: int | None = None, show: bool | None = None) -> Iterator[T]:
    """Yield `items`, showing how far along the loop is and how long it will still take.

    Args:
        items: what to loop over.
        description: what is being done, in a few words.
        total: how many items there will be; None for their length, where they have one.
        show: True or False; None shows the bar when standard error is a terminal.
    """
    visible = sys.stderr.isatty() if show is None else show
    if not visible:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        yield from _in_lines(items, description, total)
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total=total, console=Console(stderr=True), transient=True)


def _in_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """For logs: a line at each tenth, or at each power of two where the length is unknown."""
    for i, item in enumerate(items, 1):
        yield item
        milestone = i & (i - 1) == 0 if total is None else i * 10 // total != (i - 1) * 10 // total
        if milestone:
            print(f"{description}: {i}" + ("" if total is None else f" of {total}"), file=sys.stderr)
