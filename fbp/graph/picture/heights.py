"""Where the items of ordered columns stand: close to what they are joined to, and never on one another.

Column by column, each item wants to be level with its neighbours; the nearest positions that keep the order and the
distances are an isotonic regression, which pooling neighbours solves exactly (Best and Chakravarti 1990). The page does
the same in its own language, see templates/picture.js.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

APART = 14.0
SWEEPS = 40
"""The least distance between two items of a column, and how often all columns are settled."""


class Tie(NamedTuple):
    """Two items that want to be level.

    Attributes:
        left: one, in a column.
        right: the other, in the next.
        weight: how much.
        rise: by how much the right one should stand lower than the left one.
    """

    left: int
    right: int
    weight: float
    rise: float = 0.0


def find_heights(columns: Sequence[Sequence[int]], halves: Sequence[float], ties: Sequence[Tie]) -> list[float]:
    """The middle of every item.

    Args:
        columns: the items from top to bottom.
        halves: half the height of each.
        ties: between items of neighbouring columns.
    """
    y = [0.0] * len(halves)
    before: list[list[Tie]] = [[] for _ in halves]
    after: list[list[Tie]] = [[] for _ in halves]
    for tie in ties:
        before[tie.right].append(tie)
        after[tie.left].append(tie)
    for column in columns:
        least = [halves[a] + halves[b] + APART for a, b in pairwise(column)]
        for item, place in zip(column, spread([0.0] * len(column), [1.0] * len(column), least), strict=True):
            y[item] = place

    def settle(column: Sequence[int], looks_back: bool, looks_ahead: bool) -> None:
        wanted, weights = [], []
        for item in column:
            near = [(y[t.left] + t.rise, t.weight) for t in before[item]] if looks_back else []
            near += [(y[t.right] - t.rise, t.weight) for t in after[item]] if looks_ahead else []
            weight = sum(w for _, w in near)
            wanted.append(sum(place * w for place, w in near) / weight if near else y[item])
            weights.append(weight if near else 1e-3)
        least = [halves[a] + halves[b] + APART for a, b in pairwise(column)]
        for item, place in zip(column, spread(wanted, weights, least), strict=True):
            y[item] = place

    for sweep in range(SWEEPS):
        forward, both = sweep % 2 == 0, sweep >= SWEEPS // 2
        for column in columns if forward else reversed(columns):
            settle(column, forward or both, not forward or both)
    for chain in find_chains(before, after):
        straighten(chain, columns, halves, y)
    return y


def find_chains(before: Sequence[Sequence[Tie]], after: Sequence[Sequence[Tie]]) -> list[list[tuple[int, float]]]:
    """Lines without a fork, the longest first: their items, and how much lower than the first each should stand.

    Args:
        before: for each item the ties to the column before.
        after: those to the next one.
    """
    back, ahead = ([[tie for tie in ties if tie.weight >= 1] for ties in some] for some in (before, after))
    follows = [len(ties) == 1 and len(ahead[ties[0].left]) == 1 for ties in back]
    chains = []
    for first in range(len(before)):
        if not follows[first]:
            chain = [(first, 0.0)]
            while len(ahead[chain[-1][0]]) == 1 and follows[ahead[chain[-1][0]][0].right]:
                (tie,) = ahead[chain[-1][0]]
                chain.append((tie.right, chain[-1][1] + tie.rise))
            chains.append(chain)
    return sorted(chains, key=len, reverse=True)


def straighten(
    chain: Sequence[tuple[int, float]], columns: Sequence[Sequence[int]], halves: Sequence[float], y: list[float]
) -> None:
    """Move a line to one height, if what stands above and below leaves room for it.

    Args:
        chain: its items, and how much lower than the first each should stand.
        columns: the items from top to bottom.
        halves: half the height of each.
        y: the middle of each, changed in place.
    """
    rises = dict(chain)
    low, high = -math.inf, math.inf
    for column in columns:
        for above, below in pairwise(column):
            least = halves[above] + halves[below] + APART
            if below in rises:
                low = max(low, y[above] + least - rises[below])
            if above in rises:
                high = min(high, y[below] - least - rises[above])
    if low <= high:
        mean = sum(y[item] - rise for item, rise in chain) / len(chain)
        for item, rise in chain:
            y[item] = min(max(mean, low), high) + rise


def spread(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The positions nearest to the wanted ones, by weighted squares, with at least so much between neighbours.

    Args:
        wanted: one position for each item.
        weights: how much each matters.
        apart: the least distance between each item and the next.

    Example:
        >>> from fbp.graph.picture.heights import spread
        >>> spread([0.0, 0.0], [1.0, 1.0], [2.0])
        [-1.0, 1.0]
    """
    offsets = [0.0, *apart][: len(wanted)]
    for k in range(1, len(offsets)):
        offsets[k] += offsets[k - 1]
    # Blocks of items that touch: their mean, weight and number.
    blocks: list[tuple[float, float, int]] = []
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, size = want - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, w, k = blocks.pop()
            mean, total, size = (mean * total + other * w) / (total + w), total + w, size + k
        blocks.append((mean, total, size))
    shifts = [mean for mean, _, size in blocks for _ in range(size)]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]
