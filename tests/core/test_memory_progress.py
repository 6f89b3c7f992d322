"""Memory is counted and named; loops show how far they are on standard error only."""

import os
from collections.abc import Sized

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widescape.core import memory
from widescape.core.memory import GIB, available_bytes, human_bytes
from widescape.core.progress import track


def test_the_free_memory_is_positive_and_no_more_than_there_is():
    assert 0 < available_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_limits_the_free_memory(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("5000000\n")
    (tmp_path / "current").write_text("2000000\n")
    monkeypatch.setattr(memory, "_CGROUP", ((tmp_path / "max", tmp_path / "current"),))
    assert available_bytes() == 3_000_000
    (tmp_path / "current").write_text("6000000\n")
    assert available_bytes() == 0


def test_a_container_without_a_limit_limits_nothing(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "current").write_text("2000000\n")
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 7)
    monkeypatch.setattr(
        memory, "_CGROUP", ((tmp_path / "max", tmp_path / "current"), (tmp_path / "no", tmp_path / "no"))
    )
    assert available_bytes() == 7


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (3 * GIB, "3.0 GiB")],
)
def test_amounts_of_memory_in_words(count, words):
    assert human_bytes(count) == words


@given(st.integers(0, 2**45))
@settings(deadline=None, max_examples=50)
def test_the_words_are_right_to_their_last_digit(count):
    number, unit = human_bytes(count).split()
    size = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}[unit]
    assert abs(float(number) * size - count) <= 0.05 * size * 1.0001


class Once:
    """Items without a length, to be looped over once."""

    def __iter__(self):
        return iter("abc")


@pytest.mark.parametrize("show", [None, False, True])
@pytest.mark.parametrize("items", [[1, 2, 3], (), range(2), Once()], ids=["list", "empty", "range", "no length"])
def test_a_tracked_loop_sees_every_item_once_in_order(items, show, capsys):
    assert isinstance(items, Sized) or list(items) == ["a", "b", "c"]
    assert list(track(items, "counting", show=show)) == list(items)
    assert capsys.readouterr().out == ""


def test_off_a_terminal_nothing_is_shown_unless_asked(capsys):
    list(track([1], "counting"))
    list(track([1], "counting", show=False))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_bar_is_shown_unless_refused(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    list(track([1], "counting", show=False))
    assert capsys.readouterr().err == ""
    list(track([1], "counting"))
    assert "counting" in capsys.readouterr().err


def test_off_a_terminal_the_bar_is_shown_when_asked(capsys):
    list(track([1], "counting", show=True))
    assert "counting" in capsys.readouterr().err


def test_a_loop_that_is_left_early_leaves_the_rest():
    items = iter(range(5))
    for item in track(items, "counting", show=True):
        if item == 2:
            break
    assert list(items) == [3, 4]


def test_an_error_in_the_loop_is_the_callers():
    def items():
        yield 1
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        list(track(items(), "counting", show=True))
