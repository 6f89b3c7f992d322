"""How many threads LAPACK gets."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock
from typing import Any

SERIAL_UP_TO = 1500
"""Order up to which factorizations run on one thread: more gain little there, and lose a hundredfold on busy cores."""


_LOCK = Lock()
_SCOPES: list[Any] = []  # open limits; the number of threads is a property of the process, not of a thread


@contextmanager
def serial_blas(*, when: bool = True) -> Iterator[None]:
    """Inside, BLAS and LAPACK run on one thread (`when` true): for callers with threads of their own.

    Scopes may overlap between threads: the first to open sets the limit, the last to close lifts it.
    """
    if not when:
        yield
        return
    with _LOCK:
        _SCOPES.append(_SCOPES[0] if _SCOPES else _controller().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _LOCK:
            limit = _SCOPES.pop()
            if not _SCOPES:
                limit.restore_original_limits()


def threads_for(order: int) -> AbstractContextManager[None]:
    """Inside, LAPACK runs on one thread if the matrices are at most `SERIAL_UP_TO` wide, else as it is set up."""
    return serial_blas(when=order <= SERIAL_UP_TO)


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
