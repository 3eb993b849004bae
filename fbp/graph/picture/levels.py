"""From a graph to its boxes: level by level, from the whole function into scopes, calls, loops and branches."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from fbp.graph.picture.boxes import Box, Edge, Kind, Level, Wire
from fbp.graph.picture.bundles import bundle, leave_out_repetitions
from fbp.graph.picture.folding import Run, split_run
from fbp.graph.picture.symbols import name_values


class Entry(NamedTuple):
    """An edge into the box around a level, and the values of the level's program that it brings."""

    edge: Edge
    places: Sequence[int]


class Exit(NamedTuple):
    """Edges out of the box around a level, and the values of the level's program that they take."""

    edges: Sequence[Edge]
    places: Sequence[int]


def find_boxes(graph: Any) -> Level:
    """All boxes of a picture.

    Args:
        graph: a `fbp.graph.Graph`.
    """
    program = _Program(graph, count())
    return program.level(program.whole, owned=frozenset(graph.inputs))


class _Program:
    """The boxes of one program. Those of the programs inside are numbered on."""

    def __init__(self, graph: Any, numbers: "count[int]", names: Sequence[str] | None = None):
        self.graph, self.numbers = graph, numbers
        self.names = name_values(graph)
        for place, name in zip(graph.inputs, names or (), strict=names is not None):
            self.names[place] = name
        self.whole = Run(graph.name, 0, len(graph.nodes))
        # Constants of a program inside: no edge brings them.
        self.held = {k for k, value in enumerate(graph.values) if value.kind == "constant"}.difference(graph.inputs)
        self.readers: dict[int, list[tuple[int, Wire]]] = defaultdict(list)
        self.reads: list[list[Wire]] = []
        for i, node in enumerate(graph.nodes):
            wires = [
                Wire(graph.values[place], d, place, self.names[place], slot)
                for slot, (place, d) in enumerate(zip(node.inputs, node.d_inputs, strict=True))
            ]
            self.reads.append(wires)
            for wire in wires:
                self.readers[wire.place].append((i, wire))

    def box(self, kind: Kind, name: str, places: Sequence[int], **fields: Any) -> Box:
        return Box(next(self.numbers), kind, name, makes=tuple(self.wire(p) for p in places), **fields)

    def wire(self, place: int) -> Wire:
        """A value with all of its gradient."""
        value = self.graph.values[place]
        return Wire(value, value.gradient, place, self.names[place])

    def level(
        self,
        run: Run,
        entries: Sequence[Entry] = (),
        exits: Sequence[Exit] | None = None,
        owned: frozenset[int] = frozenset(),
        repeats: bool = True,
    ) -> Level:
        """The boxes of a run of nodes.

        Args:
            run: the nodes.
            entries: what comes in.
            exits: what goes out; None for the outputs of the whole function.
            owned: inputs of the program that no other level reads.
            repeats: whether the numbers at the border are those of the edges outside: not so for a loop.
        """
        values, level = self.graph.values, Level()
        source: dict[int, Box] = {}
        runs = split_run(self.graph.nodes, run)
        within = {part: self._own_leaves(part, owned) for part in runs if part.size > 1}
        for entry in entries:
            entry.edge.entry = port = self.box("port", "", entry.places)
            source.update(dict.fromkeys(entry.places, port))
        for place in sorted(owned.difference(*within.values())):
            if self.readers[place] or values[place].kind == "input":
                source[place] = self.box(values[place].kind, self.names[place], [place])
        level.boxes += dict.fromkeys(source.values())
        children: list[tuple[Box, Run]] = []
        for part in runs:
            child = self._child(part)
            child.reads = tuple(self._inputs_of(part, within.get(part, frozenset())))
            for wire in child.reads:
                if wire.value.kind == "literal" or (wire.place in self.held and wire.place not in source):
                    if (
                        wire.value.kind == "literal"
                        and len(child.reads) == 2
                        and not child.holds_nodes
                        and wire.value.shape == ()
                    ):
                        child.literals[wire.slot] = wire.value.name
                        continue
                    source[wire.place] = self.box(wire.value.kind, wire.name, [wire.place])
                    level.boxes.append(source[wire.place])
                level.edges.append(Edge(source[wire.place], child, (wire,), wire.value.kind != "literal"))
            level.boxes.append(child)
            source.update((p, child) for node in child.nodes for p in node.outputs)
            children.append((child, part))
        if exits is None:
            self._add_outputs(level, source)
        for edges, places in exits or ():
            port = self.box("port", "", places)
            level.boxes.append(port)
            for edge in edges:
                edge.exits.append(port)
            level.edges += [Edge(source[p], port, (self.wire(p),), not repeats) for p in places if p in source]
        bundle(level)
        leave_out_repetitions(level, repeats)
        for child, part in children:
            if part.size > 1:
                child.level = self.level(part, _entries(level, child), _exits(level, child), within[part])
            elif child.nodes[0].parts:
                child.level = self._inside(level, child)
        return level

    def _own_leaves(self, run: Run, owned: frozenset[int]) -> frozenset[int]:
        """Leaves of arguments, and constants, that are read in this run alone: they are drawn inside of its box."""
        found = set()
        for place in owned:
            value, readers = self.graph.values[place], self.readers[place]
            is_leaf = value.kind == "constant" or "[" in value.name or "." in value.name
            if is_leaf and readers and all(run.start <= i < run.stop for i, _ in readers):
                found.add(place)
        return frozenset(found.difference(self.graph.outputs))

    def _child(self, run: Run) -> Box:
        nodes = tuple(self.graph.nodes[run.start : run.stop])
        if run.size == 1:
            return self.box("node", nodes[0].name, nodes[0].outputs, nodes=nodes)
        made = [p for node in nodes for p in node.outputs]
        leaving = [
            p for p in made if p in self.graph.outputs or any(not run.start <= i < run.stop for i, _ in self.readers[p])
        ]
        return self.box("group", run.name, leaving, nodes=nodes)

    def _inputs_of(self, run: Run, within: frozenset[int]) -> list[Wire]:
        if run.size == 1:
            return self.reads[run.start]
        made = {p for node in self.graph.nodes[run.start : run.stop] for p in node.outputs} | within
        found: dict[int, Wire] = {}
        for wire in (wire for i in range(run.start, run.stop) for wire in self.reads[i]):
            if wire.place in made or wire.value.kind == "literal" or wire.place in self.held:
                continue
            before = found.get(wire.place)
            parts = [w.gradient for w in (before, wire) if w is not None and w.gradient is not None]
            found[wire.place] = Wire(wire.value, sum(parts[1:], parts[0]) if parts else None, wire.place, wire.name)
        return list(found.values())

    def _add_outputs(self, level: Level, source: dict[int, Box]) -> None:
        graph = self.graph
        for k, place in enumerate(graph.outputs):
            value = graph.values[place]
            name = graph.name if len(graph.outputs) == 1 else f"{graph.name}[{k}]"
            if value.kind == "node" and graph.nodes[value.node].source.variable:
                name = graph.nodes[value.node].source.variable
            if place not in source:
                source[place] = self.box(value.kind, self.names[place], [place])
                level.boxes.append(source[place])
            seed = value.gradient
            for _, wire in self.readers[place]:
                seed = seed if seed is None or wire.gradient is None else seed - wire.gradient
            level.boxes.append(self.box("output", name, [place]))
            level.edges.append(Edge(source[place], level.boxes[-1], (Wire(value, seed, place, self.names[place]),)))

    def _program(self, part: Any, node: Any) -> "_Program":
        """A program inside of a node; its inputs are called as outside."""
        outer = [self.names[place] for place in node.inputs]
        return _Program(part, self.numbers, outer[len(outer) - len(part.inputs) :])

    def _inside(self, level: Level, child: Box) -> Level:
        """The level inside of a node: of a call or a loop its program, of a choice the branches side by side."""
        (node,) = child.nodes
        outward = _exits(level, child)
        slots = [[wire.slot for wire in entry.edge.wires] for entry in _entries(level, child)]
        numbers = [[node.outputs.index(p) for p in places] for _, places in outward]
        incoming = [edge for edge in level.edges if edge.target is child]

        def places_in(part: Any, some: Sequence[int]) -> list[int]:
            # A choice has its index first, and a loop with a condition what the condition reads.
            shift = len(node.inputs) - len(part.inputs)
            return [part.inputs[slot - shift] for slot in some if slot >= shift]

        if len(node.parts) == 1:
            (part,) = node.parts
            entries = [Entry(edge, places_in(part, some)) for edge, some in zip(incoming, slots, strict=True)]
            exits = [
                Exit(edges, [part.outputs[k] for k in some]) for (edges, _), some in zip(outward, numbers, strict=True)
            ]
            program = self._program(part, node)
            return program.level(program.whole, entries, exits, repeats=node.steps is None)
        inner = Level()
        for edge in incoming:
            edge.entry = self.box("port", "", [wire.place for wire in edge.wires])
            inner.boxes.append(edge.entry)
        ports = []
        for edges, places in outward:
            ports.append(self.box("port", "", places))
            for edge in edges:
                edge.exits.append(ports[-1])
        for part in node.parts:
            program = self._program(part, node)
            box = program.box("group", part.name, part.outputs, nodes=part.nodes)
            inner.boxes.append(box)
            entries, exits = [], []
            for edge, some in zip(incoming, slots, strict=True):
                if edge.entry and (places := places_in(part, some)):
                    inner.edges.append(Edge(edge.entry, box, edge.wires, is_labelled=False))
                    entries.append(Entry(inner.edges[-1], places))
            for port, (_, places), some in zip(ports, outward, numbers, strict=True):
                own = [part.outputs[k] for k in some]
                wires = tuple(Wire(part.values[q], None, p, self.names[p]) for p, q in zip(places, own, strict=True))
                inner.edges.append(Edge(box, port, wires, is_labelled=False))
                exits.append(Exit([inner.edges[-1]], own))
            box.level = program.level(program.whole, entries, exits)
        inner.boxes += ports
        return inner


def _entries(level: Level, box: Box) -> list[Entry]:
    return [Entry(edge, [wire.place for wire in edge.wires]) for edge in level.edges if edge.target is box]


def _exits(level: Level, box: Box) -> list[Exit]:
    """What leaves a box, values together that leave by the same edges."""
    leaving: dict[int, list[Edge]] = defaultdict(list)
    for edge in level.edges:
        if edge.source is box:
            for wire in edge.wires:
                leaving[wire.place].append(edge)
    found: dict[tuple[int, ...], Exit] = {}
    for place, edges in leaving.items():
        key = tuple(id(edge) for edge in edges)
        found[key] = Exit(edges, [*found[key].places, place]) if key in found else Exit(edges, [place])
    return list(found.values())
