"""What a report is: frozen data, with no opinion on how it is drawn or where it is written."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure as Drawing

from fbp.errors import FbpError

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Text:
    """Prose: paragraphs set apart by blank lines, with `code` in backticks and **bold**, nothing else."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are aligned right, truth values and verdict words become badges.

    Raises:
        FbpError: a row has not one cell for each column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise FbpError(
                    f"a table's row has one cell for each column: row {index} of {self.caption!r} has "
                    f"{len(row)} cells for {len(self.columns)} columns; give None for an empty cell"
                )


@dataclass(frozen=True)
class Figure:
    """A drawing made when the report is written; the caption states what is to be seen in it.

    `draw` is called inside `fbp.report.style()`; `name` becomes the name of the figure's files.

    Raises:
        FbpError: the name is not a plain file name.
    """

    name: str
    caption: str
    draw: Callable[[], Drawing]

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name):
            raise FbpError(
                f"a figure's name becomes a file name: received {self.name!r}; "
                "use letters, digits, '-', '_' and '.', beginning with a letter or a digit"
            )


Block = Text | Table | Figure


@dataclass(frozen=True)
class Section:
    """A title and the blocks under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """One question, what was found, how it was found, and how to find it again.

    Attributes:
        title: the headline.
        question: what was asked, in prose.
        findings: the answers, one statement each, the most important first.
        setting: the configuration, as (label, value).
        sections: the body.
        command: what to type to remake the report.
        records: tidy rows, one observation each, for `data.csv`.
        results: the summary for `result.json`; whatever JSON cannot hold is written by its `str`.
        seed: the seed of every random number in the report.
        data: (name, sha256) of each data set that was read.
        timings: what depends on the clock, for `result.json`; a repetition is not expected to give it again.

    Raises:
        FbpError: two figures share a name, or two lines of the setting share a label.
    """

    title: str
    question: str
    findings: tuple[str, ...]
    setting: tuple[tuple[str, Any], ...]
    sections: tuple[Section, ...]
    command: str
    records: tuple[dict[str, Any], ...]
    results: dict[str, Any]
    seed: int
    data: tuple[tuple[str, str], ...] = ()
    timings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # On a file system that ignores case, names that differ in case alone would share a file.
        _distinct("figure names", (figure.name.lower() for figure in self.figures()))
        _distinct("labels of the setting", (label for label, _ in self.setting))

    def figures(self) -> tuple[Figure, ...]:
        """The figures of all sections, in the order of their numbers."""
        return tuple(b for section in self.sections for b in section.blocks if isinstance(b, Figure))


def _distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FbpError(f"{what} are distinct within a report: received {name!r} twice; rename one")
        seen.add(name)
