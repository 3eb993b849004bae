"""What is drawn as one: edges between the same boxes, inputs that go to one box, numbers that stand twice."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from fbp.graph.picture.boxes import Box, Edge, Level

_TOGETHER = 3
"""So many inputs that go to one and the same box are drawn as one."""


def bundle(level: Level) -> None:
    """Join edges between the same boxes, where one of them holds nodes, and inputs that go to one box alone."""
    edges_out = Counter(id(edge.source) for edge in level.edges)
    alike: dict[tuple[int, str], list[Box]] = defaultdict(list)
    for edge in level.edges:
        source, target = edge.source, edge.target
        if source.kind == "input" and edges_out[id(source)] == 1 and target.holds_nodes and "[" in source.name:
            alike[target.number, source.name.partition("[")[0]].append(source)
    joined: dict[int, Box] = {}
    for boxes in alike.values():
        if len(boxes) >= _TOGETHER:
            first = boxes[0]
            first.kind, first.name = "inputs", _shared_name([box.name for box in boxes])
            first.makes = tuple(wire for box in boxes for wire in box.makes)
            joined.update((box.number, first) for box in boxes)
    level.boxes = [box for box in level.boxes if joined.get(box.number, box) is box]
    together: dict[tuple[int, ...], list[Edge]] = defaultdict(list)
    for k, edge in enumerate(level.edges):
        edge.source = joined.get(edge.source.number, edge.source)
        holds = edge.target.holds_nodes or edge.source.holds_nodes or edge.source.kind == "port"
        key = (edge.source.number, edge.target.number)
        together[key if holds or edge.target.kind == "port" else (*key, k)].append(edge)
    level.edges = [
        Edge(
            edges[0].source,
            edges[0].target,
            tuple(wire for edge in edges for wire in edge.wires),
            edges[0].is_labelled,
        )
        for edges in together.values()
    ]


def _shared_name(names: Sequence[str]) -> str:
    """params[0] of params[0]['W'] and params[0]['b']."""
    shortest = min(len(name) for name in names)
    same = next((k for k in range(shortest) if len({name[k] for name in names}) > 1), shortest)
    head = names[0][:same]
    return head[: head.rfind("[")] if "[" in head and not head.endswith("]") else head


def leave_out_repetitions(level: Level, repeats: bool) -> None:
    """An edge that alone goes on from a port shows what the edge outside shows."""
    edges_out = Counter(edge.source.number for edge in level.edges)
    for edge in level.edges:
        if repeats and edge.source.kind == "port" and edges_out[edge.source.number] == 1:
            edge.is_labelled = False
