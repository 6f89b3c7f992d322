"""Numbers and durations as people read them, and the rows that tell what stands behind a number."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from widescape.core.result import Result
from widescape.core.status import Status

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
DIGITS = 4
"""Significant digits of a number."""

FULL = (1e-3, 1e6)
"""Between these a number is written out, outside with a power of ten."""

MAX_PLACES = 9
"""Decimals up to which an estimate is written to the place of its standard error."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Row:
    """One field of a result, in words.

    Attributes:
        name: the field, with its owner in front if it belongs to a nested result.
        text: the value, with its standard error if it has one.
        numeric: whether the value is one number, not a text, an array or a sentence.
        unit: its unit.
        kind: what stands behind it, one of the kinds of evidence.
        stands: the same for people: a bound says on which side.
        meaning: the quantity in a few words.
        note: the theorem, the margin, the sampling scheme.
    """

    name: str
    text: str
    numeric: bool
    unit: str
    kind: str
    stands: str
    meaning: str
    note: str


def number(value: Any) -> str:
    """A cell of a table: text and integers in full, other numbers with four significant digits.

    Fewer digits where these are the whole number: 0.03 does not pretend to be 0.03000.
    """
    value = _python(value)
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    if isinstance(value, float):
        return _float(value)
    return str(value)


def unbroken(text: str) -> str:
    """`text` with estimates and their standard errors kept on one line."""
    return text.replace(" ± ", f"{SPACE}±{SPACE}")


def is_number(value: Any) -> bool:
    """Whether `value` stands to the right in a table."""
    value = _python(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_numeric_column(cells: list[Any]) -> bool:
    """Whether a column of a table holds numbers, some of them perhaps missing."""
    present = [cell for cell in cells if cell is not None]
    return bool(present) and all(map(is_number, present))


def with_error(value: float, stderr: float) -> str:
    """An estimate and its standard error, the latter with two digits, both to the same place.

    Example:
        >>> with_error(0.12345, 0.0023)
        '0.1235 ± 0.0023'
    """
    if not (math.isfinite(value) and math.isfinite(stderr) and stderr > 0):
        return f"{number(value)} ± {number(stderr)}"
    top = max(abs(value), stderr)
    shift = 0 if FULL[0] <= top < FULL[1] else _exponent(top)
    value, stderr = value / 10.0**shift, stderr / 10.0**shift
    places = max(0, 1 - _exponent(stderr, 2))
    if places > MAX_PLACES:
        return f"{number(value)} ± {number(stderr)}"
    text = f"{value:.{places}f} ± {stderr:.{places}f}".replace("-", MINUS)
    return text if shift == 0 else f"({text}){_power(shift)}"


def duration(seconds: float) -> str:
    """A time span with the two largest of its units, which a line break does not part.

    Example:
        >>> duration(252.4).split()
        ['4', 'min', '12', 's']
    """
    if seconds < 59.95:
        text = f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    elif seconds < 3599.5:
        text = _two_units(round(seconds), "min", "s")
    else:
        text = _two_units(round(seconds / 60), "h", "min")
    return text.replace(" ", SPACE)


def _two_units(count: int, large: str, small: str) -> str:
    """Sixty of the small unit are one of the large."""
    many, few = divmod(count, 60)
    return f"{many} {large} {few} {small}" if few else f"{many} {large}"


def rows(result: Result, owner: str = "") -> Iterator[Row]:
    """Every field of `result`, nested results included, arrays by shape and range."""
    for field in result.table():
        name, value = field["name"], _python(field["value"])
        if isinstance(value, Result):
            yield from rows(value, f"{owner}{name}.")
            continue
        evidence = result.evidence(name)
        stderr = None if evidence.stderr is None else _python(getattr(result, evidence.stderr))
        yield Row(
            name=owner + name,
            text=_value(value, stderr, evidence.stderr),
            numeric=is_number(value),
            unit=field["unit"],
            kind=evidence.kind,
            stands=str(evidence),
            meaning=field["meaning"],
            note=evidence.note,
        )


def _value(value: Any, stderr: Any, stderr_name: str | None) -> str:
    if is_number(value) and is_number(stderr):
        return with_error(float(value), float(stderr))
    suffix = f"; standard errors in {stderr_name}" if isinstance(stderr, np.ndarray) else ""
    if isinstance(value, np.ndarray):
        return _array(value) + suffix
    if isinstance(value, Status):
        return f"{value.name}: {value.value}"
    if isinstance(value, (tuple, list, dict)) and not value:
        return "none"
    if isinstance(value, (tuple, list)) and len(value) <= DIGITS and all(map(_is_brief, value)):
        return "(" + ", ".join(number(v) for v in value) + ")"
    if isinstance(value, (tuple, list, dict)):
        return f"{len(value)} entries, see survey.json"
    return number(value)


def _is_brief(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, np.generic))


def _array(value: np.ndarray) -> str:
    shape = f" {TIMES} ".join(str(n) for n in value.shape)
    text = f"array of {shape}"
    if value.size and value.dtype.kind in "iuf":
        finite = value[np.isfinite(value)]
        if finite.size:
            text += f", from {number(finite.min())} to {number(finite.max())}"
        if finite.size < value.size:
            text += f", {value.size - finite.size} not finite"
    return f"{text}, see survey.json"


def _python(value: Any) -> Any:
    """NumPy scalars and arrays without dimensions as Python values."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _float(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value.is_integer() and abs(value) < FULL[1]:
        return f"{value:.0f}".replace("-0", "0").replace("-", MINUS)
    digits = next((d for d in range(1, DIGITS) if float(f"{value:.{d - 1}e}") == value), DIGITS)
    exponent = _exponent(value, digits)
    if FULL[0] <= abs(value) < FULL[1]:
        return f"{value:.{max(0, digits - 1 - exponent)}f}".replace("-", MINUS)
    mantissa = f"{value:.{digits - 1}e}".partition("e")[0]
    return mantissa.replace("-", MINUS) + _power(exponent)


def _exponent(value: float, digits: int = 17) -> int:
    """The power of ten of `value` once it is rounded to `digits`."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _power(exponent: int) -> str:
    return f"{TIMES}10" + str(exponent).translate(RAISED)
