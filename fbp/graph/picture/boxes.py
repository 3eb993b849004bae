"""What a picture shows: boxes that hold boxes, and the edges between the boxes of one level."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from fbp.graph.picture.folding import MOST

Kind: TypeAlias = Literal["input", "inputs", "constant", "literal", "output", "node", "group", "port"]
"""A group is a run of nodes under one name, "inputs" are several of them in one box, and a port is where an edge passes
the border of an open box."""


class Wire(NamedTuple):
    """One value on an edge.

    Attributes:
        value: what flows forward, a `fbp.graph.Value`.
        gradient: what the target adds to its gradient.
        place: which value of its program it is.
        name: what it is called there.
        slot: which input of the target, where that is a node.
    """

    value: Any
    gradient: Any
    place: int
    name: str = ""
    slot: int = 0


@dataclass(eq=False)
class Box:
    """One box.

    Attributes:
        number: its place among all boxes of the picture.
        kind: what it is.
        name: what it is called.
        nodes: the node itself, or those of the group.
        makes: what it brings in or makes, each with its whole gradient: of a group what is read outside.
        reads: what it reads, each with what it adds to the gradient.
        literals: of a node the numbers among its two inputs, which are written into it, by their slot.
        level: what is inside; None where it does not open.
    """

    number: int
    kind: Kind
    name: str
    nodes: tuple[Any, ...] = ()
    makes: tuple[Wire, ...] = ()
    reads: tuple[Wire, ...] = ()
    literals: dict[int, str] = field(default_factory=dict)
    level: "Level | None" = None

    @property
    def holds_nodes(self) -> bool:
        """Whether it stands for nodes that are not drawn while it is closed."""
        return self.kind == "group" or (self.kind == "node" and bool(self.nodes[0].parts))

    @property
    def says_more_inside(self) -> bool:
        """Whether it is opened at first: not so a function of JAX, whose steps have the line of its call."""
        if self.level is None or self.kind == "group":
            return self.level is not None
        (node,) = self.nodes
        inner = [n.source for box in self.level.walk() for n in box.nodes]
        return any(source.file and source != node.source for source in inner)


@dataclass(eq=False)
class Edge:
    """What flows from one box to another.

    Attributes:
        source: where from.
        target: where to.
        wires: what; several where one of the boxes holds nodes.
        is_labelled: whether it shows its numbers; not where it goes on from an edge that does.
        entry: the port in the target.
        exits: the ports in the source.
    """

    source: Box
    target: Box
    wires: tuple[Wire, ...]
    is_labelled: bool = True
    entry: Box | None = None
    exits: list[Box] = field(default_factory=list)


@dataclass(eq=False)
class Level:
    """Boxes side by side, in the order of the computation, and the edges between them."""

    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def walk(self) -> Iterator[Box]:
        """Every box, and all that are inside of it."""
        for box in self.boxes:
            yield box
            if box.level is not None:
                yield from box.level.walk()


def open_at_first(level: Level, depth: int | None = None) -> set[int]:
    """The numbers of the boxes that are open at first.

    Args:
        level: the outermost one.
        depth: how many levels are opened; None for as many as a reader takes in.
    """
    opened: set[int] = set()
    shown = [box for box in level.boxes if box.kind != "port"]
    while depth is None or depth > 0:
        some = [
            box for box in shown if box.number not in opened and (box.says_more_inside if depth is None else box.level)
        ]
        inner = [box for outer in some if outer.level for box in outer.level.boxes if box.kind != "port"]
        if not some or (depth is None and len(shown) + len(inner) > MOST):
            break
        opened.update(box.number for box in some)
        shown += inner
        depth = None if depth is None else depth - 1
    return opened
