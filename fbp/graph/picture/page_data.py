"""What a page needs to draw, fold, step and explain a picture, as plain data in which readers' numbers are texts."""

from typing import Any

import numpy as np

from fbp.graph.picture.boxes import Box, Level, Wire
from fbp.graph.picture.chain_rule import carry, derivative, write_out
from fbp.graph.picture.numbers import ALL, entry, find_statistics, plain, shape, short
from fbp.graph.picture.plan import Plan
from fbp.graph.picture.shapes import title_when_open
from fbp.graph.picture.symbols import shown_name
from fbp.report import number

_DIGITS = 6


def describe_plan(plan: Plan, result: str) -> dict[str, Any]:
    """A level and all that are inside.

    Args:
        plan: the level.
        result: the name of the result of the whole function.
    """
    place = {box.number: k for k, box in enumerate(plan.level.boxes)}
    inner = [_places(box.level) for box in plan.level.boxes]
    edges = []
    for edge in plan.level.edges:
        source, target = place[edge.source.number], place[edge.target.number]
        entry_port = inner[target][edge.entry.number] if edge.entry else -1
        edges.append([source, target, entry_port, [inner[source][port.number] for port in edge.exits]])
    return {
        "boxes": [
            {
                "number": box.number,
                "kind": box.kind,
                "name": shown_name(box.name),
                "title": title_when_open(box),
                "shape": [round(drawn.width, 1), drawn.height, drawn.svg],
                **({"level": describe_plan(inside, result)} if inside else {}),
                **({} if box.kind == "port" else {"about": describe_box(box, result)}),
            }
            for box, drawn, inside in zip(plan.level.boxes, plan.boxes, plan.inside, strict=True)
        ],
        "edges": edges,
        "labels": [[round(label.width, 1), label.height, label.svg] for label in plan.labels],
        "columns": plan.columns,
        "kinds": [[("vertex", "label", "bend").index(kind), of] for kind, of in plan.kinds],
        "joints": [list(joint) for joint in plan.joints],
        "routes": plan.routes,
    }


def _places(level: Level | None) -> dict[int, int]:
    return {box.number: k for k, box in enumerate(level.boxes)} if level else {}


def describe_box(box: Box, result: str) -> dict[str, Any]:
    """What the panel says about a box.

    Args:
        box: any but a port.
        result: the name of the result of the whole function.
    """
    found: dict[str, Any] = {"facts": _facts(box), "makes": [_view(wire, result) for wire in box.makes]}
    if box.kind in ("node", "group"):
        found["reads"] = [[shown_name(wire.name), short(wire.value.value), short(wire.gradient)] for wire in box.reads]
        found["forward"], found["backward"] = _steps(box, result)
    elif box.kind == "output":
        found["backward"] = [carry(shown_name(result), _shown(wire)) for wire in box.makes if wire.gradient is not None]
    return found


def _facts(box: Box) -> list[list[str]]:
    if box.kind == "group":
        return [["group", f"{len(box.nodes)} nodes"]]
    if box.kind != "node":
        return [["kind", {"inputs": "inputs", "output": "result"}.get(box.kind, box.kind)]]
    (node,) = box.nodes
    facts = [["name", node.key], ["operation", node.primitive]]
    if node.source.file:
        facts += [["source", str(node.source)], ["code", node.source.text]]
    if node.formula:
        facts.append(["local rule", node.formula])
    if node.steps is not None:
        facts.append(["steps", str(node.steps)])
    if node.by_autodiff:
        facts.append(["derivative", "by JAX, for want of a local rule (marked with *)"])
    return facts


def _steps(box: Box, result: str) -> tuple[str, list[str]]:
    """What is said when the node is computed, and when the gradient passes it."""
    if not box.holds_nodes and len(box.makes) == 1:
        (made,) = box.makes
        reads = [_shown(wire) for wire in box.reads]
        return write_out(box.nodes[0], reads, _shown(made), shown_name(result))
    made = ", ".join(f"{shown_name(wire.name)} = {short(wire.value.value)}" for wire in box.makes)
    carried = [carry(shown_name(result), _shown(wire)) for wire in box.reads if wire.gradient is not None]
    is_computed = any(wire.value.value is not None for wire in box.makes)
    return f"{shown_name(box.name)}: {made}" if is_computed else "", carried


def _shown(wire: Wire) -> Wire:
    return wire._replace(name=shown_name(wire.name))


def _view(wire: Wire, result: str) -> dict[str, Any]:
    value = wire.value
    found: dict[str, Any] = {
        "name": shown_name(wire.name),
        "type": " ".join(filter(None, (shape(value.shape), value.dtype))),
    }
    if value.value is not None:
        found["value"] = _array(value.value)
    if wire.gradient is not None:
        found["gradient"] = _array(wire.gradient)
        found["symbol"] = derivative(shown_name(result), shown_name(wire.name))
    return found


def _array(x: np.ndarray) -> Any:
    """A number as a text, a small array as rows of texts, a large one as statistics and the bars of a histogram."""
    if x.ndim == 0:
        return entry(plain(x)[()], _DIGITS)
    if x.ndim <= 2 and 0 < x.size <= ALL:
        return [[entry(v) for v in row] for row in plain(x).reshape(-1, x.shape[-1])]
    found = find_statistics(x) if x.size else {}
    histogram = found.pop("histogram", None)
    texts: dict[str, Any] = {name: number(float(v)) for name, v in found.items()}
    if histogram:
        texts["bars"] = [number(histogram["low"]), number(histogram["high"]), histogram["counts"]]
    return texts
