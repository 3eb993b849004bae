"""How a number, a truth value or a verdict is shown to readers, and what a field of a CSV file gets of it."""

import json
import math
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from fbp.report.document import Table
from fbp.report.inline import plain as strip_marks
from fbp.report.inline import superscript
from fbp.serialize import plain, strict

_DIGITS = 4
_LARGE = 1e6
"""What is shown with so many significant digits needs a power of ten from here on."""
_LONG = 40
"""Characters of a cell that is wrapped."""
_NAME = 28
"""Characters of the name of a row, up to which it stays on one line."""
_MISSING, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_TONES = {
    "PASS": "good",
    "FAIL": "bad",
    "INCONCLUSIVE": "doubtful",
    "vanishing": "low",
    "stable": "good",
    "exploding": "bad",
}


class Cell(NamedTuple):
    """A table's cell: its text, and the tone of its badge ("" where it has none)."""

    text: str
    tone: str = ""


class Column(NamedTuple):
    """A table's column.

    Attributes:
        name: its head.
        kind: "number" where it is aligned as numbers, "long" where its texts need room, "name" where the first one's
            are short, "" elsewhere.
        cells: below the head.
    """

    name: str
    kind: Literal["number", "long", "name", ""]
    cells: tuple[Cell, ...]


def field(value: Any) -> Any:
    """The value for a CSV field: numbers with all their digits, None as nothing, containers as JSON."""
    value = plain(value)
    return json.dumps(strict(value), ensure_ascii=False) if isinstance(value, dict | list) else value


def fixed(value: float, places: int) -> Decimal | float:
    """A value for a table's cell that is shown with so many decimal places, rather than significant digits.

    Args:
        value: the number.
        places: digits behind the point.
    """
    return Decimal(f"{value:z.{places}f}") if math.isfinite(value) else value


def significant(value: float, digits: int = 3) -> Decimal | float:
    """A value for a table's cell that is shown with so many significant digits, without powers of ten up to a million.

    Args:
        value: the number.
        digits: how many of its digits mean something.

    Example:
        >>> fbp.report.number(fbp.report.significant(77201.3)), fbp.report.number(fbp.report.significant(0.99961))
        ('77200', '1.00')
        >>> fbp.report.number(fbp.report.significant(2.95e19))
        '2.95×10¹⁹'
    """
    if not math.isfinite(value) or not value:
        return value
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) >= _LARGE:
        return Decimal(f"{value:.{digits - 1}e}")
    return Decimal(f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}")


def number(value: int | float | Decimal, digits: int = _DIGITS, keep_zeros: bool = False) -> str:
    """A number for a reader: integers and decimals whole, floats rounded.

    Args:
        value: the number.
        digits: significant digits of a float.
        keep_zeros: whether trailing zeros stay, so that a column of measurements lines up.

    Returns:
        The text, with a true minus sign, and powers of ten below 1e-3 and where the last digit is not significant.

    Example:
        >>> fbp.report.number(1.274e-6, digits=2)
        '1.3×10⁻⁶'
    """
    if isinstance(value, int | Decimal):
        mantissa, _, power = str(value).partition("E")
        return mantissa.replace("-", _MINUS) + (f"\N{MULTIPLICATION SIGN}10{superscript(int(power))}" if power else "")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    # One digit more than is significant may stand: 12346 is easier to read than 1.235×10⁴.
    fixed = -3 <= exponent <= digits
    text = f"{value:.{max(0, digits - 1 - exponent)}f}" if fixed else mantissa
    if not keep_zeros and "." in text:
        text = text.rstrip("0").rstrip(".")
    text = text.replace("-", _MINUS)
    return text if fixed else f"{text}\N{MULTIPLICATION SIGN}10{superscript(exponent)}"


def interval(low: float | Decimal, high: float | Decimal, digits: int = _DIGITS) -> str:
    """The ends of an interval for a reader, on one line.

    Args:
        low: the lower end.
        high: the upper end.
        digits: significant digits of each; a `Decimal` has its own.
    """
    return f"{number(low, digits, True)} to {number(high, digits, True)}".replace(" ", "\N{NO-BREAK SPACE}")


def describe(value: Any) -> str:
    """A value of the setting for a reader, on one line."""
    value = plain(value)
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {describe(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(describe(item) for item in value)
    return str(value)


def columns(table: Table) -> tuple[Column, ...]:
    """The columns of a table, ready for a page."""
    cells = [[x if isinstance(x, Decimal) else plain(x) for x in row] for row in table.rows]
    return tuple(_column(name, [row[index] for row in cells], index == 0) for index, name in enumerate(table.columns))


def _column(name: str, values: list[Any], first: bool) -> Column:
    floats = [value for value in values if isinstance(value, float)]
    # Settings such as 0.1 and 0.01 read best as they were typed; measurements keep their zeros.
    measured = any(math.isfinite(value) and float(f"{value:.{_DIGITS - 2}e}") != value for value in floats)
    numeric = any(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)
    cells = tuple(_cell(value, measured) for value in values)
    longest = max((len(strip_marks(cell.text)) for cell in cells), default=0)
    is_name = first and longest <= _NAME
    return Column(name, "number" if numeric else "long" if longest > _LONG else "name" if is_name else "", cells)


def _cell(value: Any, measured: bool) -> Cell:
    if isinstance(value, bool):
        return Cell("yes", "yes") if value else Cell("no", "no")
    if isinstance(value, float | Decimal):
        return Cell(number(value, keep_zeros=measured))
    text = describe(value)
    return Cell(text, _TONES.get(text, ""))
