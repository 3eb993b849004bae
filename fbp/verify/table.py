"""Results as tables: in the terminal, as plain text, and as a notebook's HTML, all from one definition."""

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fbp.serialize import to_json

STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "yellow",
    "NOTE": "cyan",
    "SKIP": "yellow",
    "killed": "green",
    "survived": "bold red",
    "equivalent": "dim",
}
"""The colour of each verdict."""
_WIDTH = 110


class Printable:
    """A result that rich, `str` and notebooks show as a table, and `to_json` gives as numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        raise NotImplementedError

    def to_json(self) -> str:
        """`to_dict` as strict JSON: NaN and infinities are the strings "NaN", "Infinity" and "-Infinity"."""
        return to_json(self.to_dict())

    def __rich__(self) -> Any:
        raise NotImplementedError

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip("\n")

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH, record=True, force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")


def make_table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    numbers: Collection[str] = (),
    folds: Mapping[str, int] | None = None,
) -> Table:
    """A table for the terminal.

    Args:
        title: one line above it.
        headings: one per column.
        rows: the cells of each row.
        numbers: the headings of columns of numbers, which are aligned to the right.
        folds: how narrow a column may become, in characters, by its heading, before others are cut; its text is folded.
    """
    folds = folds or {}
    # Narrow enough for a terminal of 80 columns.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            no_wrap=heading not in folds,
            overflow="fold" if heading in folds else "ellipsis",
            min_width=folds.get(heading),
        )
    for row in rows:
        # As `Text`, so that the brackets of a path are not read as markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def paint(text: str, verdict: str) -> Text:
    """A text in the colour of a verdict."""
    return Text(text, style=STYLES[verdict])
