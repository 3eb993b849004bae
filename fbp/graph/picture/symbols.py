"""What is written into a node: the sign of its operation, and the name of its result."""

from typing import Any

_SIGNS = {
    "add": "+",
    "add_any": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "neg": "−",
    "dot_general": "@",
    "reduce_sum": "Σ",
    "reduce_prod": "Π",
    "reduce_max": "max",
    "reduce_min": "min",
    "logistic": "σ",
    "square": "x²",
    "pow": "xᶻ",
    "sqrt": "√",
    "rsqrt": "1/√",
    "transpose": "xᵀ",
    "eq": "=",
    "ne": "≠",
    "lt": "<",
    "le": "≤",
    "gt": ">",
    "ge": "≥",
    "abs": "|x|",
    "convert_element_type": "convert",
    "broadcast_in_dim": "broadcast",
    "select_n": "select",
    "conv_general_dilated": "conv",
}

_LONGEST = 24


def sign(node: Any, literals: dict[int, str]) -> str:
    """The operation of a node, with a number that it takes: ×, σ, 1 −, ÷ 2.

    Args:
        node: a `fbp.graph.Node` without a graph inside.
        literals: numbers among its two inputs, by their place there.
    """
    text = _SIGNS.get(node.primitive, node.primitive.replace("_", " "))
    if node.primitive == "integer_pow":
        text = node.formula.partition(":")[0].removeprefix("y = ")
    numbers = {slot: digits.replace("-", "−").replace("inf", "∞") for slot, digits in literals.items()}
    return " ".join(filter(None, (numbers.get(0, ""), text, numbers.get(1, ""))))


def caption(node: Any) -> str:
    """The name of a node's result, where it has one of its own."""
    return "" if node.name == node.primitive else node.name


def name_values(graph: Any) -> list[str]:
    """What the values of a graph are called: a variable, or the expression in the code, as long as it is short.

    Args:
        graph: a `fbp.graph.Graph`.
    """
    names = [value.name.rpartition("/")[2] if value.kind == "node" else value.name for value in graph.values]
    for k, node in enumerate(graph.nodes):
        # Of the steps of one expression the last one is its value.
        is_last = k + 1 == len(graph.nodes) or graph.nodes[k + 1].source != node.source
        if len(node.outputs) == 1 and node.name == node.primitive and is_last:
            expression = node.source.expression
            if 0 < len(expression) <= _LONGEST:
                names[node.outputs[0]] = expression
    return names


def shown_name(name: str) -> str:
    """params[0].W for params[0]['W']."""
    return name.replace("['", ".").replace("']", "")
