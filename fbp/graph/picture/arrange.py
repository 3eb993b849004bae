"""Where everything stands when some boxes are open. The page does the same in its own language, see picture.js."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from fbp.graph.picture.boxes import Box
from fbp.graph.picture.heights import Tie, find_heights
from fbp.graph.picture.plan import Plan

GAP, MARGIN, TITLE = 14.0, 12.0, 24.0
"""Between columns; below what is inside of an open box; above it, for its name."""


@dataclass(frozen=True, eq=False)
class Arranged:
    """A level with some boxes open.

    Attributes:
        plan: the level.
        inside: of each box the level inside, where it is open.
        sizes: of each item its width and height.
        left: of each column its left side.
        widths: of each column its width.
        y: of each item its middle.
        width: of all.
        height: of all.
    """

    plan: Plan
    inside: "list[Arranged | None]"
    sizes: list[tuple[float, float]]
    left: list[float]
    widths: list[float]
    y: list[float]
    width: float
    height: float

    def port(self, box: Box) -> float:
        """The middle of a port."""
        return self.y[self.plan.level.boxes.index(box)]


def arrange(plan: Plan, opened: Set[int]) -> Arranged:
    """Find the place of everything.

    Args:
        plan: the outermost level.
        opened: the numbers of the open boxes.
    """
    inside = [
        arrange(inner, opened) if inner is not None and box.number in opened else None
        for box, inner in zip(plan.level.boxes, plan.inside, strict=True)
    ]
    sizes = []
    for kind, of in plan.kinds:
        inner = inside[of] if kind == "vertex" else None
        if inner is not None:
            sizes.append((inner.width, inner.height + TITLE + MARGIN))
        elif kind == "bend":
            sizes.append((0.0, 4.0))
        else:
            shape = (plan.boxes if kind == "vertex" else plan.labels)[of]
            sizes.append((shape.width, shape.height))
    ties = []
    boxes = {box.number: k for k, box in enumerate(plan.level.boxes)}
    for left, right, weight, e in plan.joints:
        edge = plan.level.edges[e]
        rise = 0.0
        if left == boxes[edge.source.number]:
            rise += find_port(inside[left], edge.exits)
        if right == boxes[edge.target.number]:
            rise -= find_port(inside[right], [edge.entry] if edge.entry else [])
        ties.append(Tie(left, right, weight, rise))
    y = find_heights(plan.columns, [height / 2 for _, height in sizes], ties)
    widths = [max((sizes[k][0] for k in column), default=0.0) for column in plan.columns]
    left, x = [], 0.0
    for width in widths:
        left.append(x)
        x += width + GAP
    top = min((y[k] - height / 2 for k, (_, height) in enumerate(sizes)), default=0.0)
    bottom = max((y[k] + height / 2 for k, (_, height) in enumerate(sizes)), default=0.0)
    return Arranged(plan, inside, sizes, left, widths, [v - top for v in y], x - GAP, bottom - top)


def find_port(inner: Arranged | None, ports: Sequence[Box]) -> float:
    """How far below the middle of a box its ports are; 0 where it is closed."""
    if inner is None or not ports:
        return 0.0
    return TITLE + sum(inner.port(port) for port in ports) / len(ports) - (inner.height + TITLE + MARGIN) / 2
