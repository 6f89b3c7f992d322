"""Downloads come from the first mirror that gives the right bytes, appear only when whole, and happen once."""

import dataclasses
import gzip
import hashlib
import http.server
import socket
import struct
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from widescape import data
from widescape.core.errors import DataError
from widescape.data import catalog
from widescape.data.fetch import RemoteFile, fetch

GOOD = np.random.default_rng(0).bytes(50_000)


class Server:
    """A server on this machine. `/good/x` sends `blobs["x"]`; the other first folders misbehave in their way."""

    def __init__(self):
        self.blobs = {"file.bin": GOOD}
        self.requests = Counter()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests[self.path] += 1
                outer.answer(self, *self.path.strip("/").split("/"))

            def log_message(self, *args):
                """Keep quiet."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def answer(self, handler, manner, name):
        blob = self.blobs[name]
        status = {"missing": 404, "broken": 500, "forbidden": 403}.get(manner, 200)
        sent = {
            "wrong": bytes(len(blob)),
            "longer": blob + b"\0",
            "flipped": blob[:-1] + bytes([blob[-1] ^ 1]),
            "page": b"<html>please log in</html>",
            "empty": b"",
            "truncated": blob[: len(blob) // 2],
        }.get(manner, blob if status == 200 else b"no")
        promised = len(blob) if manner == "truncated" else len(sent)
        if manner == "hangup":
            handler.close_connection = True
            return
        handler.send_response(status)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        handler.wfile.write(sent)

    def url(self, manner, name="file.bin"):
        return f"http://127.0.0.1:{self.http.server_port}/{manner}/{name}"

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


BAD = ("missing", "broken", "forbidden", "wrong", "longer", "flipped", "page", "empty", "truncated", "hangup")


@pytest.fixture
def server():
    own = Server()
    yield own
    own.close()


def closed_url():
    """An address where nobody listens."""
    own = Server()
    url = own.url("good")
    own.close()
    return url


def remote(server, *manners, name="file.bin", algorithm="md5"):
    blob = server.blobs[name]
    digits = hashlib.new(algorithm, blob).hexdigest()
    urls = tuple(server.url(manner, name) for manner in manners)
    return RemoteFile(name, urls, f"{algorithm}:{digits}", len(blob))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_good_file_arrives_whole_in_a_folder_that_is_made(algorithm, server, tmp_path):
    folder = tmp_path / "new" / "folder"
    fetch((remote(server, "good", "missing", algorithm=algorithm),), folder)
    assert contents(folder) == {"file.bin": GOOD}
    assert server.requests == {"/good/file.bin": 1}


@pytest.mark.parametrize("bad", BAD)
def test_after_a_bad_mirror_the_next_one_is_asked(bad, server, tmp_path, capsys):
    fetch((remote(server, bad, "good"),), tmp_path)
    assert contents(tmp_path) == {"file.bin": GOOD}
    assert server.requests[f"/{bad}/file.bin"] == server.requests["/good/file.bin"] == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "fetching file.bin" in said.err


def test_after_all_bad_mirrors_and_a_closed_one_the_good_one_wins(server, tmp_path):
    file = remote(server, *BAD, "good", "good2")
    file = dataclasses.replace(file, urls=(closed_url(), *file.urls))
    fetch((file,), tmp_path)
    assert contents(tmp_path) == {"file.bin": GOOD}
    assert list(server.requests) == [*(f"/{bad}/file.bin" for bad in BAD), "/good/file.bin"]


def test_when_all_mirrors_are_bad_each_is_named_and_nothing_is_left(server, tmp_path):
    file = remote(server, *BAD)
    file = dataclasses.replace(file, urls=(*file.urls, closed_url()))
    with pytest.raises(DataError, match=r"file\.bin could not be fetched") as caught:
        fetch((file,), tmp_path)
    for url in file.urls:
        assert url in str(caught.value)
    assert "404" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "WIDESCAPE_DATA" in str(caught.value)
    assert contents(tmp_path) == {}


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path, capsys):
    file = remote(server, "good")
    for i in range(3):
        fetch((file,), tmp_path)
        assert ("fetching" in capsys.readouterr().err) == (i == 0)
    assert sum(server.requests.values()) == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file.bin").write_bytes(GOOD)  # put there by hand
    fetch((file,), tmp_path / "b")
    assert sum(server.requests.values()) == 1


@pytest.mark.parametrize("damage", [GOOD[:-1], b"", GOOD + b"x", bytes(len(GOOD))], ids=["cut", "empty", "longer", "0"])
def test_a_damaged_file_is_fetched_again(damage, server, tmp_path):
    (tmp_path / "file.bin").write_bytes(damage)
    fetch((remote(server, "truncated", "good"),), tmp_path)
    assert contents(tmp_path) == {"file.bin": GOOD}
    (tmp_path / "file.bin").write_bytes(damage)
    with pytest.raises(DataError):
        fetch((remote(server, "wrong"),), tmp_path)
    assert contents(tmp_path) in ({"file.bin": damage}, {})


def test_of_several_files_only_those_that_are_absent_are_fetched(server, tmp_path):
    server.blobs |= {"a.bin": b"a" * 10, "b.bin": b"b" * 10}
    files = tuple(remote(server, "good", name=name) for name in ("a.bin", "b.bin", "file.bin"))
    (tmp_path / "b.bin").write_bytes(b"b" * 10)
    fetch(files, tmp_path)
    assert server.requests == {"/good/a.bin": 1, "/good/file.bin": 1}
    assert contents(tmp_path) == server.blobs


def test_a_folder_that_cannot_be_made_or_a_folder_under_the_name_of_a_file_is_refused(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=str(tmp_path / "file")):
        fetch((remote(server, "good"),), tmp_path / "file")
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(DataError, match=r"file\.bin"):
        fetch((remote(server, "good"),), tmp_path)


class Terminal:
    """Looks like one."""

    def __init__(self, stream):
        self.stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self.stream, name)


def test_on_a_terminal_a_bar_ends_at_the_size_of_the_file(server, tmp_path, monkeypatch):
    import sys

    import rich.progress

    bars = []

    class Seen(rich.progress.Progress):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            bars.append(self)

    monkeypatch.setattr(rich.progress, "Progress", Seen)
    monkeypatch.setattr(sys, "stderr", Terminal(sys.stderr))
    fetch((remote(server, "good"),), tmp_path)
    assert contents(tmp_path) == {"file.bin": GOOD}
    (task,) = bars[0].tasks
    assert (task.completed, task.total) == (len(GOOD), len(GOOD))


# End to end.


def idx(array):
    array = np.asarray(array, np.uint8)
    return gzip.compress(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def mnist_server(server, monkeypatch):
    """A server with a small MNIST, and `load` told to ask it."""
    rng = np.random.default_rng(1)
    files = []
    for known in catalog._ENTRIES["mnist"].files:
        n = 6 if known.name.startswith("train") else 4
        images = "images" in known.name
        server.blobs[known.name] = idx(rng.integers(0, 256, (n, 28, 28)) if images else np.arange(n))
        files.append(remote(server, "missing", "good", name=known.name))
    entry = dataclasses.replace(catalog._ENTRIES["mnist"], files=tuple(files))
    monkeypatch.setitem(catalog._ENTRIES, "mnist", entry)
    monkeypatch.delenv("WIDESCAPE_DATA", raising=False)
    return server


def test_mnist_is_downloaded_once_and_then_read_from_the_cache(mnist_server, cache):
    part = data.load("mnist")
    assert part.x_train.shape == (6, 28, 28, 1)
    raw = gzip.decompress(mnist_server.blobs["t10k-images-idx3-ubyte.gz"])[16:]
    assert np.array_equal(np.rint(part.x_test.ravel() * 255), np.frombuffer(raw, np.uint8))
    assert part.y_train.tolist() == [0, 1, 2, 3, 4, 5]
    assert mnist_server.requests.total() == 8
    assert set(contents(cache / "mnist")) == {file.name for file in data.entry("mnist").files}
    for download in (True, False):
        assert data.load("mnist", download=download).fingerprint == part.fingerprint
    assert data.fetched("mnist") == cache / "mnist"
    assert mnist_server.requests.total() == 8


def test_a_damaged_file_in_the_cache_is_mended_by_load(mnist_server, cache):
    first = data.load("mnist")
    path = cache / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="train-images"):
        data.load("mnist", download=False)
    assert data.load("mnist").fingerprint == first.fingerprint
    assert mnist_server.requests["/good/train-images-idx3-ubyte.gz"] == 2
    assert mnist_server.requests["/good/train-labels-idx1-ubyte.gz"] == 1


def test_without_leave_to_download_nothing_is_asked_for_and_the_way_to_get_it_is_said(mnist_server, cache):
    with pytest.raises(DataError, match=r"not on this machine.*widescape data fetch mnist"):
        data.load("mnist", download=False)
    assert mnist_server.requests.total() == 0
    assert contents(cache) == {}
    data.load("mnist")
    (cache / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    before = mnist_server.requests.total()
    with pytest.raises(DataError, match="not on this machine"):
        data.load("mnist", download=False)
    assert mnist_server.requests.total() == before


def test_the_folder_that_the_variable_names_comes_before_the_cache_and_is_not_written_to(
    mnist_server, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("WIDESCAPE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for name, blob in mnist_server.blobs.items():
        (tmp_path / "mnist" / name).write_bytes(blob)
    before = contents(tmp_path)
    assert len(data.load("mnist").x_train) == 6
    assert mnist_server.requests.total() == 0
    assert contents(tmp_path) == before
    assert contents(cache) == {}
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels"):  # what a person put there is not mixed with downloads
        data.load("mnist")
    assert mnist_server.requests.total() == 0


def test_a_variable_that_names_no_folder_is_refused_and_nothing_is_downloaded(mnist_server, tmp_path, monkeypatch):
    monkeypatch.setenv("WIDESCAPE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"WIDESCAPE_DATA is {tmp_path}/nowhere, which is no folder"):
        data.load("mnist")
    assert mnist_server.requests.total() == 0


def test_what_is_not_downloaded_has_no_folder():
    with pytest.raises(DataError, match="'digits' needs no download; choose one of mnist, fashion_mnist, cifar10"):
        data.fetched("digits")
    with pytest.raises(DataError, match="no data set 'nothing'"):
        data.fetched("nothing")


def test_every_download_has_mirrors_a_checksum_and_a_size():
    for name in data.names():
        for file in data.entry(name).files:
            algorithm, _, digits = file.checksum.partition(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size
            assert file.num_bytes > 0
            assert len(file.urls) >= 2
            assert all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)
    downloads = [name for name in data.names() if data.entry(name).kind == "download"]
    assert downloads == ["mnist", "fashion_mnist", "cifar10", "cifar100"]
    assert all(data.entry(name).files for name in downloads)


def test_these_tests_reach_neither_the_network_nor_the_cache_of_the_user(cache):
    with pytest.raises(AssertionError, match="looks up"):
        urllib.request.urlopen("http://example.com")
    with socket.socket() as own, pytest.raises(AssertionError, match="connects to"):
        own.connect(("192.0.2.1", 80))
    assert catalog.cache_folder() == cache
    assert Path.home() not in cache.parents
