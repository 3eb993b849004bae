"""What a report is: frozen data, with no opinion on how it is drawn or where it is written."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure as Drawing

from fbp.errors import FbpError

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Text:
    """Prose: paragraphs set apart by blank lines, with `code`, **bold** and $mathematics$ (see `fbp.report.inline`).

    Titles, findings, captions, column names, cells and the setting are written in the same way.
    """

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are aligned right, truth values and verdict words become badges.

    Raises:
        FbpError: a row has more or fewer cells than there are columns.

    Example:
        >>> table = fbp.report.Table("Errors.", ("leaf", "relative error"), (("$W_1$", 1e-7), ("$b_1$", 3e-8)))
        >>> len(table.rows)
        2
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise FbpError(
                    f"row {index} of the table {self.caption!r} must have one cell for each of its "
                    f"{len(self.columns)} columns, got {len(row)}; use None for an empty cell"
                )


@dataclass(frozen=True)
class Figure:
    """A drawing made when the report is written; the caption says what it shows.

    `draw` is called inside `fbp.report.style()`; `name` becomes the name of the figure's files.

    Raises:
        FbpError: the name is not a plain file name.

    Example:
        >>> line = fbp.report.Curve("loss", [1, 2, 3], [2.3, 0.9, 0.4])
        >>> draw = lambda: fbp.report.curves([line], "epoch", "loss (nats)", log_y=True)
        >>> fbp.report.Figure("loss", "The loss falls.", draw).name
        'loss'
    """

    name: str
    caption: str
    draw: Callable[[], Drawing]

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name):
            raise FbpError(
                f"a figure's name must be a plain file name, got {self.name!r}; "
                "use letters, digits, '-', '_' and '.', beginning with a letter or a digit"
            )


@dataclass(frozen=True)
class Listing:
    """Lines as they are, such as a program or a text that a network wrote: nothing in them is a mark.

    Control characters are shown by their pictures.

    Example:
        >>> fbp.report.Listing("What it wrote.", "to be, or\\nnot to be").text.count("\\n")
        1
    """

    caption: str
    text: str


Block = Text | Table | Figure | Listing


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
        results: the summary for `result.json`; what JSON cannot hold is written as its `str`.
        seed: the seed of every random number in the report.
        data: (name, sha256) of each data set that was read.
        timings: measured times, for `result.json`; unlike the results, a repetition need not reproduce them.

    Raises:
        FbpError: two figures share a name, or two lines of the setting share a label.

    Example:
        >>> report = fbp.report.Report(
        ...     title="Doubling",
        ...     question="How often must one be doubled to pass a thousand?",
        ...     findings=("**Ten** times: $2^{10}$ = 1024.",),
        ...     setting=(("start", 1),),
        ...     sections=(),
        ...     command="python doubling.py",
        ...     records=tuple({"n": n, "power": 2**n} for n in range(11)),
        ...     results={"times": 10},
        ...     seed=0,
        ... )
        >>> len(report.records)
        11
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
        _check_distinct("names of figures", [figure.name.lower() for figure in self.figures()])
        _check_distinct("labels of the setting", [label for label, _ in self.setting])

    def figures(self) -> tuple[Figure, ...]:
        """The figures of all sections, in the order of their numbers."""
        return tuple(b for section in self.sections for b in section.blocks if isinstance(b, Figure))


def _check_distinct(what: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise FbpError(f"the {what} of a report must be distinct, got {repeated[0]!r} more than once; rename one")
