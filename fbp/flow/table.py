"""A CSV file that grows group by group: what it holds is complete, and a later run goes on from there."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fbp.errors import FbpError

LABELS = ("activation", "init", "depth", "seed", "layer")


class ResumableTable:
    """A CSV file whose rows come in groups, each appended by one write.

    Args:
        path: the file; it may exist.
        columns: the names of the measured columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        self.header = ",".join((*LABELS, *columns)) + "\n"

    def begin(self) -> None:
        """An empty table, in place of what was there."""
        self.path.write_text(self.header, encoding="utf-8")

    def append(self, rows: Iterator[str]) -> None:
        """One group of rows, all of it or, if the write is cut off, a part that `read_groups` removes.

        Args:
            rows: lines, each with its end.
        """
        with self.path.open("ab", buffering=0) as file:
            file.write("".join(rows).encode())
            os.fsync(file.fileno())

    def read_groups(self, sizes: Sequence[int]) -> Iterator[list[str]]:
        """The complete groups that are there, as lines; what lies behind them is cut off at the end.

        Args:
            sizes: how many rows each group has.

        Raises:
            FbpError: the file is of another grid.
        """
        if not self.path.exists():
            self.begin()
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            if file.readline() != self.header:
                raise FbpError(
                    f"{self.path} must be the table that this grid began, got one with other columns; "
                    "give another folder, or run without resume"
                )
            kept = len(self.header)
            for size in sizes:
                lines = [file.readline() for _ in range(size)]
                if not lines[-1].endswith("\n"):
                    break
                yield lines
                kept += sum(len(line.encode()) for line in lines)
        os.truncate(self.path, kept)


def format_rows(labels: Sequence[str], values: np.ndarray) -> Iterator[str]:
    """Rows of the table.

    Args:
        labels: each row's first fields, joined.
        values: (rows, columns), rounded: written with every digit.
    """
    for label, row in zip(labels, values.tolist(), strict=True):
        yield f"{label},{','.join(map(repr, row))}\n"


def parse_rows(rows: Sequence[str], columns: int) -> np.ndarray:
    """The measured columns of such rows, (rows, columns).

    Args:
        rows: lines.
        columns: how many; they stand at the end.
    """
    return np.array([row.rstrip("\n").rsplit(",", columns)[1:] for row in rows], np.float64)


def quote_field(name: str) -> str:
    """A label as a field: in quotation marks where it holds a comma.

    Args:
        name: the label.
    """
    return f'"{name}"' if "," in name else name
