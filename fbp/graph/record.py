"""What is kept of a run: values and gradients of chosen steps, found by their path."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Path: TypeAlias = tuple[int, ...]
"""An equation: its place in the program. In a program inside: the path of the equation that holds it, which of its
programs, the place there. An odd number of steps is an equation, an even number a program."""


def _nothing(path: Path) -> bool:
    return False


@dataclass
class Record:
    """Values and gradients by path.

    Attributes:
        keeps: whether the equation or program at a path is kept.
        looks_inside: whether anything inside of the equation at a path is.
        is_source: whether the outputs of an equation get a gradient though no input that wants one leads to them.
        values: outputs of equations, inputs of programs.
        gradients: for an equation those of its outputs and what it adds to those of its inputs, for a program those
            of its inputs.
    """

    keeps: Callable[[Path], bool] = _nothing
    looks_inside: Callable[[Path], bool] = _nothing
    is_source: Callable[[Path], bool] = _nothing
    values: dict[Path, list[Any]] = field(default_factory=dict)
    gradients: dict[Path, Any] = field(default_factory=dict)

    def inner(self) -> "Record":
        """An empty record of the same choice, for a program that is compiled by itself."""
        return Record(self.keeps, self.looks_inside, self.is_source)

    def keep_values(self, path: Path, values: Any) -> None:
        """Keep values, if they are asked for."""
        if self.keeps(path):
            self.values[path] = list(values)

    def keep_gradients(self, path: Path, gradients: Any) -> None:
        """Keep gradients, if they are asked for."""
        if self.keeps(path):
            self.gradients[path] = gradients
