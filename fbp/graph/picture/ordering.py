"""A level in columns: longest paths give the ranks, sweeps of means and single moves an order with few crossings.

Sugiyama, Tagawa and Toda (1981); Gansner, Koutsofios, North and Vo (1993), "A technique for drawing directed graphs".
"""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple, TypeAlias

_SWEEPS = 16


class Link(NamedTuple):
    """An edge between vertices: where from, where to, whether it needs room for a label, and what it carries.

    Edges from one vertex that carry the same go together until they part.
    """

    source: int
    target: int
    is_labelled: bool = False
    carries: int = 0


Kind: TypeAlias = Literal["vertex", "label", "bend"]


@dataclass(eq=False)
class Item:
    """What stands in a column: a vertex, the label of an edge, or a bend of a long one.

    Attributes:
        kind: which.
        of: the vertex, or an edge that passes.
        column: where.
        before: the items in the column before that it is joined to.
        after: those in the next.
    """

    kind: Kind
    of: int
    column: int
    before: list["Item"] = field(default_factory=list)
    after: list["Item"] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """A level in columns: vertices in those with even numbers, labels in those with odd ones.

    Attributes:
        columns: their items from top to bottom.
        routes: of each edge what it passes between its vertices.
    """

    columns: list[list[Item]]
    routes: list[list[Item]]


def order_columns(n: int, links: Sequence[Link], first: Sequence[int] = (), last: Sequence[int] = ()) -> Columns:
    """Give every vertex of an acyclic graph a column, and every column an order.

    Args:
        n: the number of vertices, each before those that it leads to.
        links: the edges.
        first: vertices that belong into the first column.
        last: vertices that belong into the last one.
    """
    ranks = find_ranks(n, links, first, last)
    columns: list[list[Item]] = [[] for _ in range(2 * max(ranks, default=0) + 1)]

    def put(kind: Kind, of: int, column: int) -> Item:
        columns[column].append(Item(kind, of, column))
        return columns[column][-1]

    def join(one: Item, other: Item) -> None:
        if other not in one.after:
            one.after.append(other)
            other.before.append(one)

    vertices = [put("vertex", v, 2 * rank) for v, rank in enumerate(ranks)]
    trunks: dict[tuple[int, int, int], Item] = {}
    routes = []
    for e, link in enumerate(links):
        route, here = [], vertices[link.source]
        end = 2 * ranks[link.target] - 1
        for column in range(2 * ranks[link.source] + 1, end + 1):
            if column == end and link.is_labelled:
                there = put("label", e, column)
            else:
                key = (link.source, link.carries, column)
                there = trunks.get(key) or put("bend", e, column)
                trunks[key] = there
            join(here, there)
            route.append(there)
            here = there
        join(here, vertices[link.target])
        routes.append(route)
    _reduce_crossings(columns)
    _balance(columns)
    return Columns(columns, routes)


def find_ranks(n: int, links: Sequence[Link], first: Sequence[int] = (), last: Sequence[int] = ()) -> list[int]:
    """The longest way to each vertex; then those with more edges out than in move towards where these lead."""
    ranks = [0] * n
    out, into = defaultdict(list), defaultdict(list)
    for link in links:
        out[link.source].append(link.target)
        into[link.target].append(link.source)
    fixed = set(first)
    for v in range(n):
        if v not in fixed:
            ranks[v] = max((ranks[u] + 1 for u in into[v]), default=1 if fixed else 0)
    end = max((ranks[v] for v in range(n)), default=0)
    for v in last:
        ranks[v] = end
    for v in reversed(range(n)):
        if v not in fixed and out[v] and len(out[v]) > len(into[v]):
            ranks[v] = max(ranks[v], min(ranks[w] for w in out[v]) - 1)
    return ranks


def count_crossings(columns: Sequence[Sequence[Item]]) -> int:
    """How often two edges cross."""
    return sum(_crossings_between(left, right) for left, right in pairwise(columns))


def _crossings_between(left: Sequence[Item], right: Sequence[Item]) -> int:
    place = {item: k for k, item in enumerate(right)}
    seen: list[int] = []
    found = 0
    for item in left:
        ends = sorted(place[other] for other in item.after)
        found += sum(len(seen) - bisect_right(seen, end) for end in ends)
        for end in ends:
            insort(seen, end)
    return found


def _reduce_crossings(columns: list[list[Item]]) -> None:
    best, fewest = [list(column) for column in columns], count_crossings(columns)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for c in order:
            _sort_by_neighbours(columns[c], columns[c - 1 if forward else c + 1], forward, sweep % 4 < 2)
        for c in range(len(columns)):
            _sift(columns, c)
        crossings = count_crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best


def _sort_by_neighbours(column: list[Item], fixed: list[Item], forward: bool, keeps_ties: bool) -> None:
    """Sort by the mean place of the neighbours; of equal ones the order is kept, or turned to get out of a dead end."""
    place = {item: k for k, item in enumerate(fixed)}
    # One without neighbours stays about where it is.
    scale = max(len(fixed) - 1, 1) / max(len(column) - 1, 1)

    def key(own: int, item: Item) -> tuple[float, int]:
        ends = [place[other] for other in (item.before if forward else item.after)]
        return (sum(ends) / len(ends) if ends else own * scale), (own if keeps_ties else -own)

    keys = {item: key(own, item) for own, item in enumerate(column)}
    column.sort(key=lambda item: keys[item])


def _sift(columns: list[list[Item]], c: int) -> None:
    """Move each item of a column to where its edges cross least (Matuszewski, Schönfeld and Molitor 1999)."""
    before = {item: k for k, item in enumerate(columns[c - 1])} if c else {}
    after = {item: k for k, item in enumerate(columns[c + 1])} if c + 1 < len(columns) else {}
    column = columns[c]
    for item in list(column):
        own = column.index(item)
        others = column[:own] + column[own + 1 :]
        # Below each of the others rather than above it: how many crossings more.
        steps = [
            _inversions(other.before, item.before, before) + _inversions(other.after, item.after, after)
            for other in others
        ]
        costs = [0, *accumulate(steps)]
        least = min(costs)
        if costs[own] > least:
            column[:] = [*others]
            column.insert(costs.index(least), item)


def _balance(columns: list[list[Item]]) -> None:
    """Let a weight and a bias, read beside a main line, come in from both sides of it, if nothing crosses for that."""
    crossings = count_crossings(columns)
    for c in range(1, len(columns)):
        for vertex in columns[c]:
            near = [item for item in vertex.before if item.after == [vertex]]
            aside = [item for item in near if _is_aside(item)]
            main = [item for item in near if item not in aside]
            if len(aside) < 2 or not main:
                continue
            half = len(aside) // 2
            wanted = [*aside[:half], *main, *aside[half:]]
            kept = columns[c - 1], columns[c - 2]
            columns[c - 1] = _place(kept[0], wanted)
            if c > 1:
                columns[c - 2] = _place(kept[1], [w for item in wanted for w in item.before if w.after == [item]])
            if count_crossings(columns) > crossings:
                columns[c - 1], columns[c - 2] = kept


def _is_aside(item: Item) -> bool:
    return all(not other.before and other.after == [item] for other in item.before)


def _place(column: list[Item], wanted: list[Item]) -> list[Item]:
    """The column with these items in this order, in the places that they have."""
    some = iter(wanted)
    return [next(some) if item in wanted else item for item in column]


def _inversions(upper: list[Item], lower: list[Item], place: dict[Item, int]) -> int:
    """How many crossings more two items have in this order than in the other."""
    return sum((place[one] > place[other]) - (place[one] < place[other]) for one in upper for other in lower)
