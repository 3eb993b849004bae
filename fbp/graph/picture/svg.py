"""A picture as one SVG."""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from fbp.graph.picture.arrange import TITLE, Arranged, find_port
from fbp.graph.picture.boxes import Box
from fbp.graph.picture.content import SCHEMA
from fbp.graph.picture.shapes import title_when_open

_AROUND = 16.0


@cache
def read_template(name: str) -> str:
    """A file that belongs to pictures."""
    return (files("fbp.graph.picture") / "templates" / name).read_text(encoding="utf-8")


def render_svg(arranged: Arranged, title: str) -> str:
    """The picture.

    Args:
        arranged: where everything stands.
        title: what it is, for screen readers.
    """
    width, height = arranged.width + 2 * _AROUND, arranged.height + 2 * _AROUND
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" role="img" viewBox="0 0 {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}">\n<title>{escape(title)}</title>\n<metadata>{SCHEMA}</metadata>\n'
        f"<style>\n{_style()}</style>\n"
        f"{_group(arranged, _AROUND, _AROUND)}\n</svg>\n"
    )


@cache
def _style() -> str:
    """The style with its colors written out, since programs that print an SVG know no variables."""
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#\w+)", half)) for half in read_template("colors.css").split("@media", 1)
    )
    rules = read_template("picture.css")

    def paint(colors: dict[str, str]) -> str:
        return re.sub(r"var\((--[\w-]+)\)", lambda name: colors[name[1]], rules)

    colored = "".join(f"{rule}}}\n" for rule in paint(dark).split("}\n") if "#" in rule)
    return f"{paint(light)}@media screen and (prefers-color-scheme: dark) {{\n{colored}}}\n"


def _group(arranged: Arranged, x: float, y: float) -> str:
    plan = arranged.plan
    column = {item: c for c, items in enumerate(plan.columns) for item in items}
    parts = [f'<g transform="translate({_n(x)} {_n(y)})">']

    def middle(item: int) -> tuple[float, float]:
        c = column[item]
        return arranged.left[c] + arranged.widths[c] / 2, arranged.y[item]

    def ends(box: Box, ports: Sequence[Box], side: int) -> list[tuple[float, float]]:
        item = plan.level.boxes.index(box)
        x, y = middle(item)
        x += side * arranged.sizes[item][0] / 2
        inner = arranged.inside[item]
        return [(x, y + find_port(inner, [port])) for port in ports] if inner and ports else [(x, y)]

    for edge, route, label in zip(plan.level.edges, plan.routes, plan.labels, strict=True):
        starts = ends(edge.source, edge.exits, 1)
        (target,) = ends(edge.target, [edge.entry] if edge.entry else [], -1)
        columns = [column[plan.level.boxes.index(edge.source)], *(column[item] for item in route)]
        heights = [arranged.y[item] for item in route]
        for start in starts:
            points = [start]
            for c, to in zip(columns, [*heights, target[1]], strict=True):
                points += [(arranged.left[c] + arranged.widths[c], points[-1][1]), (arranged.left[c + 1], to)]
            parts.append(f'<path d="{trace_line([*points, target])}"/>')
        if edge.target.kind != "port":
            parts.append(f'<path class="tip" d="M{_n(target[0])} {_n(target[1])}l-7 -3.5v7z"/>')
        if label.svg:
            at = middle(route[-1])
            parts.append(f'<g class="label" transform="translate({_n(at[0])} {_n(at[1])})">{label.svg}</g>')
    for item, box in enumerate(plan.level.boxes):
        x, y = middle(item)
        inner = arranged.inside[item]
        if inner is None:
            parts.append(f'<g class="{box.kind}" transform="translate({_n(x)} {_n(y)})">{plan.boxes[item].svg}</g>')
        else:
            width, height = arranged.sizes[item]
            parts.append(
                f'<g class="open" transform="translate({_n(x - width / 2)} {_n(y - height / 2)})">'
                f'<rect width="{_n(width)}" height="{_n(height)}" rx="8"/>'
                f'<text class="title" x="10" y="16">{escape(title_when_open(box))}</text>'
                f"{_group(inner, 0, TITLE)}</g>"
            )
    return "\n".join([*parts, "</g>"])


def trace_line(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, level and smooth by turns."""
    (x, y), text = points[0], f"M{_n(points[0][0])} {_n(points[0][1])}"
    for to_x, to_y in points[1:]:
        if abs(to_y - y) < 0.05:
            text += f"H{_n(to_x)}"
        else:
            middle = (x + to_x) / 2
            text += f"C{_n(middle)} {_n(y)} {_n(middle)} {_n(to_y)} {_n(to_x)} {_n(to_y)}"
        x, y = to_x, to_y
    return text


def _n(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")
