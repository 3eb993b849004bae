"""Tables of numbers with a label, as CSV: read in blocks, so that a long file takes little more than its arrays.

Memory takes at most 16 bytes for a byte of the file, and 64 MiB: an array in float32 of values that take two characters
at least, its parts, and both again while a part is held out.
"""

import codecs
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from fbp.data.datasets import Dataset, Part, assemble
from fbp.data.files import check_file, reject, unreadable
from fbp.errors import FbpError

_KIND = "a CSV file"
_LABELS = ("label", "labels", "target", "class", "y")
_DELIMITERS = ",;\t"
_BLOCK = 4 << 20
_LONGEST_LINE = 1 << 20
_MOST_CLASSES = 1 << 16
_LARGEST_LABEL = (1 << 31) - 2


class _Layout(NamedTuple):
    """How the lines of a table are read: what separates columns, how many there are, and which is what."""

    delimiter: str
    columns: int
    has_header: bool
    label: int
    features: list[int]
    names: bool
    """Whether labels are names."""


class _Names(dict[str, int]):
    """The number of each name, in the order in which names first come."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def load_csv(path: Path) -> Dataset:
    """Load a table with one example a line; features are taken as they are, without standardizing.

    Labels are in the column named label, target, class or y, otherwise in the last one: names, or whole numbers. Whole
    numbers from 0 without a gap are class numbers; others, such as -1 and 1, are names of classes in ascending order.
    A first column without a name, an index as pandas writes it, is left out.

    Args:
        path: with or without a header; comma, semicolon or tabulator between columns.

    Raises:
        FbpError: the file is missing, unreadable or too short, or a value is not a number; with its line.
    """
    name = check_file(_KIND, path)
    names = _Names()
    parts, labels = [], []
    try:
        for values in _read_blocks(path, name, names):
            parts.append(values[0])
            labels.append(values[1])
    except OSError as error:
        raise unreadable(_KIND, name, error) from error
    if not parts:
        raise reject(_KIND, "hold lines of data", f"none in {name}", "add examples")
    Y, class_names = _number_classes(np.concatenate(labels), names)
    return assemble(path.name, Part(np.concatenate(parts), Y, name), class_names=class_names)


def _read_blocks(path: Path, name: str, names: _Names) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with open(path, "rb") as file:
        layout = _detect(file, name)
        file.seek(0)
        line = 1
        for text in _read_lines(file, name):
            first, line = line, line + text.count("\n")
            if first == 1 and layout.has_header:
                first, text = 2, text.partition("\n")[2]
            if text.strip():
                yield _parse(text, layout, names, name, first)


def _read_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Blocks of whole lines, each of which ends in a newline."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    while True:
        chunk = file.read(_BLOCK)
        try:
            text = rest + decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            where = f"{error.reason} in {name}"
            raise reject(_KIND, "be in UTF-8", where, "convert it, e.g. with iconv -t UTF-8") from error
        lines, newline, rest = text.replace("\r\n", "\n").rpartition("\n")
        if len(rest) > _LONGEST_LINE:
            raise _too_long(name)
        if newline:
            yield lines + newline
        if not chunk:
            if rest:
                yield rest + "\n"
            return


def _read_line(file: IO[bytes], name: str) -> str:
    line = file.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise _too_long(name)
    # Wrong bytes are found where everything is read.
    return line.decode("utf-8-sig", "replace")


def _too_long(name: str) -> FbpError:
    return reject(_KIND, f"have lines of at most {_LONGEST_LINE} characters", f"a longer one in {name}", "split it")


def _detect(file: IO[bytes], name: str) -> _Layout:
    """The layout of a table, from its first lines."""
    first, second = _read_line(file, name).strip("\r\n"), "\n"
    while second and not second.strip():
        second = _read_line(file, name)
    delimiter = max(_DELIMITERS, key=first.count)
    fields = _fields(first, delimiter)
    words = [field.strip().lower() for field in fields]
    label = next((words.index(known) for known in _LABELS if known in words), len(fields) - 1)
    has_header = words[label] in _LABELS or not all(map(_is_number, fields[:-1]))
    features = [i for i in range(len(fields)) if i != label and not (has_header and i == 0 and not words[0])]
    if not features:
        received = f"{len(fields)} columns in line 1 of {name}"
        raise reject(_KIND, "have columns of features and one of labels", received, "check what separates columns")
    example = fields if not has_header else _fields(second.strip("\r\n"), delimiter)
    names = len(example) > label and not _is_number(example[label])
    return _Layout(delimiter, len(fields), has_header, label, features, names)


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), []) or [""]
    except csv.Error:
        return line.split(delimiter)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _parse(text: str, layout: _Layout, names: _Names, name: str, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (m, n) float32 and labels (m,) of whole lines, the first of which has a number for messages."""
    converters: dict[Any, Any] = {layout.label: lambda label: names[label.strip()]} if layout.names else {}
    try:
        values = np.loadtxt(
            io.StringIO(text),
            delimiter=layout.delimiter,
            comments=None,
            quotechar='"',
            converters=converters or None,
            ndmin=2,
            encoding=None,
        )
    except ValueError as error:
        raise _explain(text, layout, name, line) from error
    if values.shape[1] != layout.columns or len(names) > _MOST_CLASSES or "" in names or not np.isfinite(values).all():
        raise _explain(text, layout, name, line)
    labels = values[:, layout.label]
    if (labels != np.floor(labels)).any() or np.abs(labels).max() > _LARGEST_LABEL:
        raise _explain(text, layout, name, line)
    with np.errstate(over="ignore"):
        # What overflows is infinite, and refused with the whole array.
        return values[:, layout.features].astype(np.float32), labels.astype(np.int64)


def _explain(text: str, layout: _Layout, name: str, line: int) -> FbpError:
    """The error for the first line of a block that is not as it must be."""
    rows = csv.reader(text.split("\n"), delimiter=layout.delimiter)
    try:
        for fields in rows:
            found = _find_fault(fields, layout) if fields else None
            if found:
                rule, received = found
                where = f"{received} in line {line + rows.line_num - 1} of {name}"
                return reject(_KIND, rule, where, "correct or drop that line")
    except csv.Error:
        pass
    if layout.names:
        rule, received = f"have labels of at most {_MOST_CLASSES} classes", "more names"
        return reject(_KIND, rule, f"{received} in {name}", "check which column holds the labels")
    return reject(_KIND, "be lines of numbers", f"others after line {line} of {name}", "check its quotation marks")


def _find_fault(fields: list[str], layout: _Layout) -> tuple[str, str] | None:
    if len(fields) != layout.columns:
        return f"have {layout.columns} columns in each line", str(len(fields))
    for column, field in enumerate(fields):
        if column == layout.label and layout.names:
            if not field.strip():
                return "have a label in each line", f"none in column {column + 1}"
            continue
        if not _is_number(field) or not math.isfinite(float(field)):
            return "hold finite numbers", f"{field[:40]!r} in column {column + 1}"
        if column == layout.label and (not float(field).is_integer() or abs(float(field)) > _LARGEST_LABEL):
            return "have names or whole numbers as labels", f"{field[:40]!r} in column {column + 1}"
    return None


def _number_classes(labels: np.ndarray, names: _Names) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Class numbers, and the names that they stand for where they are no numbers from 0 without a gap."""
    if names:
        rank = {name: number for number, name in enumerate(sorted(names))}
        return np.array([rank[name] for name in names])[labels], tuple(rank)
    distinct, numbers = np.unique(labels, return_inverse=True)
    if np.array_equal(distinct, np.arange(len(distinct))):
        return labels, None
    return numbers, tuple(map(str, distinct.tolist()))
