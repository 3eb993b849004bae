"""Rows as Markdown: tables, and the verdicts below them, all computed from the rows."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Column = Callable[[Any], object]
"""The value of a row in a column, as `show` takes it."""


def section(
    title: str,
    columns: Mapping[str, Column],
    rows: Iterable[Any],
    verdicts: Iterable[str] = (),
    texts: int = 1,
) -> str:
    """A heading, a table, and a list of what follows from it.

    Args:
        title: one line; "" for no heading.
        columns: by heading.
        rows: of any type.
        verdicts: sentences, each a target beside what was measured.
        texts: how many columns hold text, from the left; the others are aligned as numbers.
    """
    lines = [list(columns), [":---"] * texts + ["---:"] * (len(columns) - texts)]
    lines += [[show(value(row)) for value in columns.values()] for row in rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    parts = (f"### {title}" if title else "", table, "\n".join(f"- {verdict}" for verdict in verdicts))
    return "\n\n".join(part for part in parts if part)


def show(value: object) -> str:
    """Two decimals of a float, whether a target is reached for a truth value, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "reached" if value else "not reached"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def group(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Rows by key, in the order in which the keys come first."""
    groups: dict[K, list[T]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups
