"""Where in the user's code an equation was written, and what it is called there."""

import ast
import linecache
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from fbp.graph.versions import user_frame

Span: TypeAlias = tuple[int, int, int, int]
"""First line and column, last line and column of an expression."""


@dataclass(frozen=True)
class Source:
    """An expression in Python.

    Attributes:
        file: the path of the file; empty where it is not known.
        span: where it stands there.
        function: the function that it stands in.
    """

    file: str = ""
    span: Span = (0, 0, 0, 0)
    function: str = ""

    @classmethod
    def of(cls, eqn: Any) -> "Source":
        """The expression of the user's code, outside of JAX, that an equation comes from."""
        frame = user_frame(eqn)
        if frame is None:
            return cls()
        span = frame.start_line, frame.start_column, frame.end_line, frame.end_column
        return cls(frame.file_name, span, frame.function_name)

    @property
    def line(self) -> int:
        """The first line, from 1."""
        return self.span[0]

    @property
    def text(self) -> str:
        """The first line itself, without its indentation."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def expression(self) -> str:
        """The expression itself; "" where it is longer than a line."""
        first, start, last, end = self.span
        return linecache.getline(self.file, first).encode()[start:end].decode() if first == last else ""

    @property
    def variable(self) -> str:
        """The variable that this expression is assigned to as a whole; "" where it is part of another one."""
        return _assignments(self.file).get(self.span, "") if self.file else ""

    def __str__(self) -> str:
        return f"{FilePath(self.file).name}:{self.line}" if self.file else "an unknown line"


@lru_cache(maxsize=64)
def _assignments(file: str) -> dict[Span, str]:
    lines = [line.encode() for line in linecache.getlines(file)]
    try:
        tree = ast.parse(b"".join(lines))
    except SyntaxError:
        return {}
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        targets, value = (node.targets if isinstance(node, ast.Assign) else [node.target]), node.value
        if len(targets) == 1 and isinstance(targets[0], ast.Name):
            span = value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0
            found[span] = targets[0].id
    return found
