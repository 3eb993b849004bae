"""Which nodes fold into one box: those of one scope, of one function, and where these are too many, neighbours."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

MOST = 40
"""The boxes that a reader takes in at once: so many are open at first, and no level holds many more."""
_BRANCHING = 30


class Run(NamedTuple):
    """Consecutive nodes of a program. They are in the order of the computation, so that no way leads out and back in.

    Attributes:
        name: of the scope or function; "" for one node.
        start: the first.
        stop: behind the last.
        depth: how many names of the nodes' scopes are named.
    """

    name: str
    start: int
    stop: int
    depth: int = 0

    @property
    def size(self) -> int:
        """The number of nodes."""
        return self.stop - self.start


def split_run(nodes: Sequence[Any], run: Run) -> list[Run]:
    """What a run falls into: single nodes, and runs of several that fold.

    Args:
        nodes: of the program.
        run: some of them.
    """
    parts = _join(nodes, run, lambda node: _scope(node, run.depth))
    if len(parts) > MOST:
        parts = _join_functions(nodes, run, parts)
    if len(parts) > MOST:
        layers = math.ceil(math.log(len(parts), _BRANCHING))
        size = math.ceil(len(parts) / math.ceil(len(parts) ** (1 / layers)))
        parts = [_chunk(parts[k : k + size], k, run.depth) for k in range(0, len(parts), size)]
    return parts


def _chunk(parts: Sequence[Run], before: int, depth: int) -> Run:
    """Neighbours as one run: block 1–8 of blocks, else steps 1–8."""
    if len(parts) == 1:
        return parts[0]
    names = {part.name for part in parts}
    start, stop = parts[0].start, parts[-1].stop
    name = names.pop() if len(names) == 1 else ""
    span = f"{name} {before + 1}–{before + len(parts)}" if name else f"steps {start + 1}–{stop}"
    return Run(span, start, stop, depth)


def _scope(node: Any, depth: int) -> str:
    names = node.scope.split("/")
    return names[depth] if depth < len(names) else ""


def _join(nodes: Sequence[Any], run: Run, name_of: Callable[[Any], str]) -> list[Run]:
    """Runs of equal names; a name that begins again from its first expression is another run."""
    found = []
    start = run.start
    for name, same in groupby(nodes[run.start : run.stop], name_of):
        members = list(same)
        if not name:
            found += [Run("", start + k, start + k + 1, run.depth) for k in range(len(members))]
        else:
            for first, last in _repetitions(members):
                found.append(_named(nodes, Run(name, start + first, start + last, run.depth + 1)))
        start += len(members)
    return found


def _repetitions(members: Sequence[Any]) -> list[tuple[int, int]]:
    begin = (members[0].source, members[0].primitive)
    cuts = [0]
    for k in range(1, len(members)):
        again = (members[k].source, members[k].primitive) == begin
        if again and any(node.source != members[0].source for node in members[cuts[-1] : k]):
            cuts.append(k)
    return list(zip(cuts, [*cuts[1:], len(members)], strict=True))


def _named(nodes: Sequence[Any], run: Run) -> Run:
    """The run with all names that its nodes share; a single node is itself."""
    if run.size == 1:
        return Run("", run.start, run.stop, run.depth)
    name, depth = run.name, run.depth
    while (deeper := {_scope(node, depth) for node in nodes[run.start : run.stop]}) != {""} and len(deeper) == 1:
        name, depth = f"{name}/{deeper.pop()}", depth + 1
    return Run(name, run.start, run.stop, depth)


def _join_functions(nodes: Sequence[Any], run: Run, parts: Sequence[Run]) -> list[Run]:
    """Single nodes joined by the function that they stand in, where they stand in several."""
    single = [nodes[part.start].source.function for part in parts if part.size == 1]
    if len(set(single)) < 2:
        return list(parts)

    def function(part: Run) -> str:
        name = nodes[part.start].source.function.rpartition(".")[2] if part.size == 1 else ""
        return "" if name == run.name else name

    found: list[Run] = []
    for name, same in groupby(parts, function):
        some = list(same)
        if not name:
            found += some
            continue
        members = [nodes[part.start] for part in some]
        for first, last in _repetitions(members):
            own = Run(name, some[first].start, some[last - 1].stop, run.depth)
            found.append(own if own.size > 1 else some[first])
    return found
