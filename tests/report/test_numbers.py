"""Numbers are written as people read them, with no more digits than they have."""

import numpy as np
import pytest

from widescape.core.evidence import EXACT, bound, estimate
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.report import numbers


class Ending(Status):
    """How it ended."""

    OK = "It ended well."


class Inner(Result):
    """A result within a result."""

    radius: float = quantity(EXACT, "radius of the ball", unit="m")


class Outer(Result):
    """One field of every sort."""

    gap: float = quantity(estimate("gap_stderr", "20 draws"), "the gap", unit="1/step")
    gap_stderr: float = quantity(EXACT, "its standard error")
    floor: float = quantity(bound("lower"), "a floor")
    grid: np.ndarray = quantity(EXACT, "values")
    ending: Ending = quantity(EXACT, "the end")
    inner: Inner = quantity(EXACT, "the ball")
    shape: tuple = quantity(EXACT, "the shape")
    dropped: tuple = quantity(EXACT, "what was left out")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12345.678, "12346"),
        (0.03, "0.03"),
        (-0.5, "\N{MINUS SIGN}0.5"),
        (64.0, "64"),
        (-0.0, "0"),
        (99999.96, "100000"),
        (9.99996, "10.00"),
        (1234567.8, "1.235\N{MULTIPLICATION SIGN}10⁶"),
        (0.00012345678, "1.235\N{MULTIPLICATION SIGN}10⁻⁴"),
        (-2.5e-10, "\N{MINUS SIGN}2.5\N{MULTIPLICATION SIGN}10⁻¹⁰"),
        (float("nan"), "not a number"),
        (float("-inf"), "\N{MINUS SIGN}∞"),
        (60000, "60000"),
        (np.int64(-7), "\N{MINUS SIGN}7"),
        (np.float32(0.25), "0.25"),
        (True, "yes"),
        (None, "\N{EN DASH}"),
        ("text", "text"),
    ],
)
def test_a_number_has_four_significant_digits_or_fewer(value, text):
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.12345, 0.0023, "0.1235 ± 0.0023"),
        (-0.5123, 0.021, "\N{MINUS SIGN}0.512 ± 0.021"),
        (1234.5, 20.0, "1234 ± 20"),
        (3.21e-7, 4.5e-9, "(3.210 ± 0.045)\N{MULTIPLICATION SIGN}10⁻⁷"),
        (0.5, 0.0, "0.5 ± 0"),
        (float("nan"), 1.0, "not a number ± 1"),
        (1.0, 1e-20, "1 ± 1\N{MULTIPLICATION SIGN}10⁻²⁰"),
        (0.0, 0.0996, "0.00 ± 0.10"),
    ],
)
def test_an_estimate_is_written_to_the_place_of_its_error(value, stderr, text):
    assert numbers.with_error(value, stderr) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"),
        (42.23, "42.2 s"),
        (59.97, "1 min"),
        (252.4, "4 min 12 s"),
        (3599.7, "1 h"),
        (3900.0, "1 h 5 min"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert numbers.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_column_is_numeric_if_all_that_is_there_is_a_number():
    assert numbers.is_numeric_column([1, None, 2.5, float("inf")])
    assert not numbers.is_numeric_column([1, "two"])
    assert not numbers.is_numeric_column([True])
    assert not numbers.is_numeric_column([None])


def test_rows_tell_every_field_with_its_evidence():
    result = Outer(
        gap=0.5,
        gap_stderr=0.01,
        floor=0.1,
        grid=np.array([[1.0, np.nan, 3.0]]),
        ending=Ending.OK,
        inner=Inner(radius=2.0),
        shape=(3, 4),
        dropped=(),
    )
    rows = {row.name: row for row in numbers.rows(result)}
    assert list(rows) == ["gap", "gap_stderr", "floor", "grid", "ending", "inner.radius", "shape", "dropped"]
    gap = rows["gap"]
    assert (gap.text, gap.unit, gap.stands, gap.note) == ("0.500 ± 0.010", "1/step", "estimate", "20 draws")
    assert (rows["floor"].kind, rows["floor"].stands) == ("bound", "lower bound")
    assert rows["grid"].text == "array of 1 \N{MULTIPLICATION SIGN} 3, from 1 to 3, 1 not finite, see survey.json"
    assert rows["ending"].text == "OK: It ended well."
    assert (rows["inner.radius"].text, rows["inner.radius"].meaning) == ("2", "radius of the ball")
    assert rows["shape"].text == "(3, 4)"
    assert rows["dropped"].text == "none"
    assert [row.name for row in rows.values() if row.numeric] == [
        "gap",
        "gap_stderr",
        "floor",
        "inner.radius",
    ]
