"""The layout of every level up to sizes: columns and the order in them, which stay as they are when a box opens."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from fbp.graph.picture.boxes import Box, Level
from fbp.graph.picture.ordering import Columns, Item, Link, order_columns
from fbp.graph.picture.shapes import Shape, draw_box, draw_label

_ASIDE, _STRAIGHT = 1e-4, 4.0


class Joint(NamedTuple):
    """Two items of neighbouring columns that an edge joins: their places, how straight it should be, and which edge."""

    left: int
    right: int
    weight: float
    edge: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A level in columns.

    Attributes:
        level: its boxes and edges.
        boxes: the shape of each box, closed.
        labels: the shape of each edge's label.
        columns: the items of each, from top to bottom: boxes have the numbers 0, 1, ... as in the level.
        kinds: of each item whether it is a vertex, a label or a bend, and of which box or edge.
        joints: between items.
        routes: the items that each edge passes.
        inside: the plan of each box that opens; None for the others.
    """

    level: Level
    boxes: list[Shape]
    labels: list[Shape]
    columns: list[list[int]]
    kinds: list[tuple[str, int]]
    joints: list[Joint]
    routes: list[list[int]]
    inside: "list[Plan | None]"


def make_plan(level: Level) -> Plan:
    """Lay out a level and all that are inside.

    Args:
        level: its boxes and edges.
    """
    ordered = _order(level)
    for box in level.boxes:
        if box.level is not None:
            _order_ports(level, box, box.level, ordered)
    items = sorted(
        (item for column in ordered.columns for item in column), key=lambda item: (item.kind != "vertex", item.of)
    )
    number = {item: k for k, item in enumerate(items)}
    return Plan(
        level,
        [draw_box(box) for box in level.boxes],
        [draw_label(edge) for edge in level.edges],
        [[number[item] for item in column] for column in ordered.columns],
        [(item.kind, item.of) for item in items],
        _joints(level, ordered, number),
        [[number[item] for item in route] for route in ordered.routes],
        [None if box.level is None else make_plan(box.level) for box in level.boxes],
    )


def _order(level: Level) -> Columns:
    place = {box.number: k for k, box in enumerate(level.boxes)}
    carried: dict[tuple[int, ...], int] = {}
    links = [
        Link(
            place[edge.source.number],
            place[edge.target.number],
            edge.is_labelled,
            carried.setdefault(tuple(wire.place for wire in edge.wires), len(carried)),
        )
        for edge in level.edges
    ]
    begin = _count_entries(level)
    ends = [k for k, box in enumerate(level.boxes) if box.kind == "output" or (box.kind == "port" and k >= begin)]
    return order_columns(len(level.boxes), links, range(begin), ends)


def _order_ports(level: Level, box: Box, inner: Level, ordered: Columns) -> None:
    """Ports in the order in which the edges outside arrive and leave."""
    height = {item: k for column in ordered.columns for k, item in enumerate(column)}
    vertices = {item.of: item for column in ordered.columns for item in column if item.kind == "vertex"}
    place = {other.number: k for k, other in enumerate(level.boxes)}
    keys: dict[int, int] = {}
    for edge, route in zip(level.edges, ordered.routes, strict=True):
        if edge.target is box and edge.entry:
            keys[edge.entry.number] = height[route[-1] if route else vertices[place[edge.source.number]]]
        elif edge.source is box:
            first = route[0] if route else vertices[place[edge.target.number]]
            keys.update((port.number, height[first]) for port in edge.exits)
    ports = [k for k, other in enumerate(inner.boxes) if other.kind == "port"]
    begin = _count_entries(inner)
    for some in ([k for k in ports if k < begin], [k for k in ports if k >= begin]):
        arranged = sorted((inner.boxes[k] for k in some), key=lambda port: keys.get(port.number, 0))
        for k, port in zip(some, arranged, strict=True):
            inner.boxes[k] = port


def _count_entries(level: Level) -> int:
    """The number of ports where edges come in: those before the first box of another kind."""
    return next((k for k, box in enumerate(level.boxes) if box.kind != "port"), len(level.boxes))


def _joints(level: Level, ordered: Columns, number: dict[Item, int]) -> list[Joint]:
    """The main line is straight: what is given aside, a weight or a constant, follows the node that reads it."""
    is_aside = [
        box.kind in ("input", "inputs", "constant", "literal") and sum(edge.source is box for edge in level.edges) == 1
        for box in level.boxes
    ]
    found: dict[tuple[int, int], Joint] = {}
    vertices = {item.of: item for column in ordered.columns for item in column if item.kind == "vertex"}
    place = {box.number: k for k, box in enumerate(level.boxes)}
    for e, (edge, route) in enumerate(zip(level.edges, ordered.routes, strict=True)):
        ends = place[edge.source.number], place[edge.target.number]
        way = [vertices[ends[0]], *route, vertices[ends[1]]]
        for left, right in pairwise(way):
            straight = left.kind != "vertex" and right.kind != "vertex"
            weight = _ASIDE if is_aside[ends[0]] else _STRAIGHT if straight else 1.0
            key = number[left], number[right]
            found.setdefault(key, Joint(*key, weight, e))
    return list(found.values())
