"""Where in the user's code an equation was written."""

import ast
import linecache
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any


@dataclass(frozen=True)
class Source:
    """A line of Python.

    Attributes:
        file: the path of the file; empty where it is not known.
        line: its number there, from 1.
        function: the function that it stands in.
    """

    file: str = ""
    line: int = 0
    function: str = ""

    @classmethod
    def of(cls, eqn: Any) -> "Source":
        """The line of the user's code, outside of JAX, that an equation comes from."""
        from jax.extend import source_info_util

        frame = source_info_util.user_frame(eqn.source_info.traceback)
        return cls() if frame is None else cls(frame.file_name, frame.start_line, frame.function_name)

    @property
    def text(self) -> str:
        """The line itself, without its indentation."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def assigned(self) -> str:
        """The variable that the statement of this line assigns, "" where it assigns none or several."""
        return _assignments(self.file).get(self.line, "")

    def __str__(self) -> str:
        return f"{FilePath(self.file).name}:{self.line}" if self.file else "an unknown line"


@lru_cache(maxsize=64)
def _assignments(file: str) -> dict[int, str]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if len(targets) == 1 and isinstance(targets[0], ast.Name):
            found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), targets[0].id))
    return found
