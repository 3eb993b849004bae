"""A graph as plain data, for programs."""

from pathlib import Path
from typing import Any

from fbp.graph.picture.numbers import summarize

SCHEMA, SCHEMA_VERSION = "fbp.graph", 1


def describe(graph: Any) -> dict[str, Any]:
    """All of a graph as JSON can hold it: small arrays in full, large ones as summaries.

    Args:
        graph: a `fbp.graph.Graph`.
    """
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **_graph(graph)}


def _graph(graph: Any) -> dict[str, Any]:
    return {
        "name": graph.name,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "values": [
            {
                "name": value.name,
                "kind": value.kind,
                "node": value.node,
                "shape": value.shape,
                "dtype": value.dtype,
                "value": summarize(value.value),
                "gradient": summarize(value.gradient),
            }
            for value in graph.values
        ],
        "nodes": [_node(node) for node in graph.nodes],
    }


def _node(node: Any) -> dict[str, Any]:
    return {
        "key": node.key,
        "name": node.name,
        "scope": node.scope,
        "primitive": node.primitive,
        "formula": node.formula,
        "source": {
            "file": Path(node.source.file).name,
            "line": node.source.line,
            "text": node.source.text,
            "function": node.source.function,
        },
        "inputs": node.inputs,
        "outputs": node.outputs,
        "d_inputs": [summarize(d) for d in node.d_inputs],
        "by_autodiff": node.by_autodiff,
        "steps": node.steps,
        "parts": [_graph(part) for part in node.parts],
    }
