"""Downloads: from the first mirror that answers, checked, and never half there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widescape.core.errors import DataError
from widescape.core.memory import human_bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: under which it is kept.
        urls: mirrors, tried in turn.
        checksum: ``md5:`` or ``sha256:`` and the digits.
        num_bytes: its size.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    num_bytes: int


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache folder of this platform."""
    import pooch

    return Path(pooch.os_cache("widescape"))


def fetch(files: tuple[RemoteFile, ...], folder: Path) -> None:
    """Bring `files` into `folder`; those that lie there already with the right checksum are kept.

    A file appears under its name only when it is whole and its checksum is right.

    Raises:
        DataError: no mirror gave a file, or `folder` cannot be made; names each mirror and what happened there.
    """
    import pooch

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {folder} for downloads cannot be made: {error}.") from error
    for file in files:
        path = folder / file.name
        if path.is_file() and pooch.file_hash(str(path), alg=file.checksum.partition(":")[0]) == _digits(file):
            continue
        failures = []
        for url in file.urls:
            failure = _attempt(file, url, folder)
            if failure is None:
                break
            failures.append(f"{url}: {failure}")
        else:
            raise DataError(
                f"{file.name} could not be fetched. " + "; ".join(failures) + f". Put the file into {folder} by hand, "
                "or set WIDESCAPE_DATA to a folder that has the data."
            )


def _digits(file: RemoteFile) -> str:
    return file.checksum.partition(":")[2]


def _attempt(file: RemoteFile, url: str, folder: Path) -> str | None:
    """Why one mirror failed; None if the file is there."""
    import pooch
    import requests

    print(f"fetching {file.name} ({human_bytes(file.num_bytes)}) from {url.split('/')[2]}", file=sys.stderr)
    with _quiet(), _progress(file) as bar:
        try:
            pooch.retrieve(
                url,
                known_hash=file.checksum,
                fname=file.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=bar, timeout=30),
            )
        except (requests.RequestException, OSError, ValueError) as error:
            return " ".join(str(error).split())[:300]
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own log lines add nothing to ours."""
    import pooch

    log = pooch.get_logger()
    level = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(level)


class _Bar:
    """What a downloader reports to."""

    def __init__(self, progress: Any, task: Any) -> None:
        self.total = 0
        self._progress, self._task = progress, task

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total)

    def reset(self) -> None:
        """A downloader calls this at the end, before it reports the whole size once more."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Nothing is left open."""


@contextmanager
def _progress(file: RemoteFile) -> Iterator[_Bar | bool]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield False
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        yield _Bar(bars, bars.add_task(file.name, total=file.num_bytes))
