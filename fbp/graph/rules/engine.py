"""What the rules of calls, loops and branches ask of the engine that applies them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from fbp.graph.record import Path, Record
from fbp.graph.rules.base import Cotangents
from fbp.graph.versions import Program

Flags: TypeAlias = Sequence[bool]
Pullback: TypeAlias = Callable[[Cotangents], Cotangents]
"""The cotangents of outputs -> those of inputs; None for zero, or where none is wanted."""


class Engine(Protocol):
    """Runs programs and pulls cotangents back through them.

    Attributes:
        record: what is kept on the way.
        concrete: whether loops of unknown length may be counted by running them.
        linear: whether the program is a map of tangents: it is linear, and no rule inside is asked for a derivative.
    """

    @property
    def record(self) -> Record: ...
    @property
    def concrete(self) -> bool: ...
    @property
    def linear(self) -> bool: ...

    def inner(self, silent: bool = False, linear: bool = False) -> "Engine":
        """The same with an empty record, for a program that is compiled by itself; a silent one keeps nothing."""
        ...

    def active(self, program: Program, inputs: Flags, path: Path) -> list[bool]:
        """Which outputs depend differentiably on the inputs that are marked."""
        ...

    def reached(self, program: Program, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """Which of the inputs that are marked get a cotangent from the outputs that are."""
        ...

    def run(
        self, program: Program, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """The outputs of a program, and how cotangents come back."""
        ...


class Structure(Protocol):
    """How cotangents pass through an equation that holds programs."""

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Engine.active`, for an equation."""
        ...

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Engine.reached`, for an equation."""
        ...

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Engine.run`, for an equation."""
        ...
