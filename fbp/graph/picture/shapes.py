"""How boxes and labels look: their size, and their SVG around a middle of (0, 0)."""

from html import escape
from typing import NamedTuple

from fbp.graph.picture.boxes import Box, Edge
from fbp.graph.picture.numbers import lines, norm
from fbp.graph.picture.symbols import caption, shown_name, sign
from fbp.report import number

LINE = 15.0
"""Between two lines of a label."""
_LONGEST = 28
_WIDE, _NARROW = "mwMW@%‖—×÷−+=<>≤≥", "iljtfrI.,:;|'()[] "


class Shape(NamedTuple):
    """A box or a label.

    Attributes:
        width: its width.
        height: its height.
        svg: its elements, around the middle.
    """

    width: float
    height: float
    svg: str


def draw_box(box: Box) -> Shape:
    """A closed box."""
    if box.kind == "port":
        return Shape(0.0, 2 * LINE, '<circle r="2.5"/>')
    title, below = _texts(box)
    title_size, below_size = 15.0, 11.0
    width = max(40.0, 1.14 * text_width(title, title_size) + 22, text_width(below, below_size) + 18)
    height = 42.0 if below or box.holds_nodes else 36.0
    if box.kind in ("input", "constant", "output", "inputs"):
        height = 30.0 if not below else 40.0
    if box.kind == "literal":
        width, height, title_size = max(24.0, text_width(title, 13) + 12), 24.0, 13.0
    radius = height / 2 if box.kind == "node" and not box.holds_nodes else 6.0
    parts = [_rect(width, height, radius)]
    if box.holds_nodes:
        # A second outline behind: there is more inside.
        parts.insert(0, _rect(width, height, radius, 3, "behind"))
    if below:
        parts += [_text(title, -2, "title"), _text(below, 13, "below")]
    else:
        parts.append(_text(title, 5, "title"))
    return Shape(width, height, "".join(parts))


def title_when_open(box: Box) -> str:
    """The name of an open box, of a loop with the number of its steps."""
    steps = box.nodes[0].steps if box.kind == "node" else None
    return shown_name(box.name) + (f", {steps} steps" if steps is not None else "")


def _texts(box: Box) -> tuple[str, str]:
    name = _clip(shown_name(box.name))
    if box.kind == "inputs":
        return name, f"{len(box.makes)} arrays"
    if box.kind == "group":
        return name, f"{len(box.nodes)} nodes"
    if box.kind != "node":
        return name, ""
    (node,) = box.nodes
    mark = " *" if node.by_autodiff else ""
    if box.holds_nodes:
        return name + mark, f"{node.steps} steps" if node.steps is not None else ""
    return _clip(sign(node, box.literals)) + mark, _clip(caption(node))


def draw_label(edge: Edge) -> Shape:
    """The numbers of an edge: what flows forward above, what comes back below."""
    if not edge.is_labelled:
        return Shape(0.0, 8.0, "")
    wire, *others = edge.wires
    value, gradient = lines(wire.value.value), lines(wire.gradient)
    if others:
        value = [f"{len(edge.wires)} arrays"]
        carried = [norm(wire.gradient) ** 2 for wire in edge.wires if wire.gradient is not None]
        gradient = [f"‖{number(sum(carried) ** 0.5, 3)}‖"] if carried else []
    widths = [max((text_width(text, 13) for text in texts), default=0.0) for texts in (value, gradient)]
    above = [
        _text(text, LINE * (k + 1 - len(value)) - 5, "value", _right(value, widths[0])) for k, text in enumerate(value)
    ]
    below = [_text(text, LINE * (k + 1), "gradient", _right(gradient, widths[1])) for k, text in enumerate(gradient)]
    return Shape(max(widths) + 6, 2 * LINE * max(len(value), len(gradient)) + 6, "".join(above + below))


def _right(texts: list[str], width: float) -> float:
    """Where the right end of lines is: rows of numbers stand below one another, a single line is in the middle."""
    return width / 2 if len(texts) > 1 else 0.0


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a usual sans serif font."""
    return size * sum(0.86 if c in _WIDE else 0.34 if c in _NARROW else 0.6 for c in text)


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _rect(width: float, height: float, radius: float, shift: float = 0.0, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    corner = f'x="{_n(shift - width / 2)}" y="{_n(shift - height / 2)}"'
    return f'<rect{named} {corner} width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"/>'


def _text(text: str, y: float, kind: str, right: float = 0.0) -> str:
    aligned = f' text-anchor="end" x="{_n(right)}"' if right else ""
    return f'<text class="{kind}"{aligned} y="{_n(y)}">{escape(text)}</text>' if text else ""


def _n(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")
