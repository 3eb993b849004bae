"""The computation graph of a function at a point: what each node computes, with the numbers on every edge."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, unknown_name
from fbp.graph.record import Record
from fbp.graph.source import Source
from fbp.graph.structure import Part, Step
from fbp.graph.versions import is_var, read

Kind: TypeAlias = Literal["input", "constant", "literal", "node"]


@dataclass(frozen=True)
class Value:
    """What an edge carries.

    Attributes:
        name: of an input its name, of a literal its digits, else the key of the node that makes it.
        kind: where it comes from: an input of the graph, a constant that the function holds, a number written in it,
            or a node.
        node: the place of that node among `Graph.nodes`; None for the others.
        shape: of one step, where it is inside of a loop.
        dtype: its name.
        value: the numbers; inside of a loop those of all steps, along a first axis; None where nothing was computed.
        gradient: of the result of the whole function with respect to it, of the same shape; None before `backward`,
            and where none arrives: it is what the edges out of it carry back, added up.
    """

    name: str
    kind: Kind
    node: int | None
    shape: tuple[int, ...]
    dtype: str
    value: np.ndarray | None = field(default=None, repr=False)
    gradient: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        key: its name, with those of the functions and scopes around it; no other node has it.
        name: the variable that it is assigned to, or the function that it calls, or its primitive.
        scope: the `jax.named_scope`s around it, "block/attention"; "" for none: nodes of one scope belong together.
        primitive: what JAX calls it.
        source: the expression in the user's code.
        formula: its local rule; "" where it has none.
        inputs: what it reads, as places among `Graph.values`.
        outputs: what it makes.
        d_inputs: what it adds to the gradient of each input: the number on the edge back. None before `backward` and
            where no gradient flows.
        by_autodiff: whether its derivative is that of JAX, for want of a local rule.
        parts: the graphs inside: of a call its function, of a loop its step, of a choice all branches.
        steps: how often a loop ran; None for other nodes.
    """

    key: str
    name: str
    scope: str
    primitive: str
    source: Source
    formula: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    d_inputs: tuple[np.ndarray | None, ...] = field(repr=False)
    by_autodiff: bool = False
    parts: tuple["Graph", ...] = ()
    steps: int | None = None


@dataclass
class Graph:
    """Nodes that compute and values that flow between them, in the order of the computation.

    Nodes and values are immutable; `backward` puts others, with gradients, in their place.

    Attributes:
        name: of the function.
        values: all that flows.
        nodes: all that computes.
        inputs: the inputs of the function, as places among values; constants first.
        outputs: its results.
    """

    name: str
    values: tuple[Value, ...] = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    _pull_back: Callable[[Any], "Graph"] | None = field(default=None, repr=False, compare=False)

    def backward(self, seed: Any = None) -> "Graph":
        """Run reverse mode and fill in all gradients.

        Args:
            seed: the gradient with respect to the result, of its shape; None for 1, where the result is one number.

        Returns:
            The graph itself.

        Raises:
            FbpError: the result is not one real number and no seed is given, or a node on the way has no local rule.
        """
        if self._pull_back is None:
            raise FbpError(
                f"backward must be called on the graph of the whole function, got {self.name}, a part of it; keep what "
                "trace returns"
            )
        filled = self._pull_back(seed)
        self.values, self.nodes = filled.values, filled.nodes
        return self

    def draw(self, path: str | os.PathLike[str], depth: int | None = None) -> Path:
        """Write a picture of the graph, whole or not at all.

        Args:
            path: a file that ends in .svg (for print), .html (a page that opens offline, folds, zooms and steps through
                both passes) or .json (all of it for programs; arrays of more than 64 entries as statistics).
            depth: how many levels of boxes are open at first; None for as many as are taken in at a glance.

        Returns:
            The path.

        Raises:
            FbpError: the path ends in something else or cannot be written.

        Example:
            >>> import tempfile
            >>> g = fbp.graph.trace(lambda x: jnp.sin(x) * x, 2.0).backward()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     g.draw(f"{folder}/picture.svg").name
            'picture.svg'
        """
        # Drawing needs what differentiating does not.
        from fbp.graph.picture.write import write

        return write(self, path, depth)

    def _repr_html_(self) -> str:
        from fbp.graph.picture.write import notebook

        return notebook(self)

    def __getitem__(self, name: str) -> Value:
        """The value of a name: an input, or the (first) result of a node by its key or name.

        Raises:
            FbpError: there is none.
        """
        for value in self.values:
            if value.name == name and value.kind != "literal":
                return value
        for graph in self.walk():
            for node in graph.nodes:
                if name in (node.key, node.name):
                    return graph.values[node.outputs[0]]
        known = [value.name for graph in self.walk() for value in graph.values if value.kind != "literal"]
        raise unknown_name("value", name, known)

    def walk(self) -> Iterator["Graph"]:
        """This graph, and all that are inside of its nodes."""
        yield self
        for node in self.nodes:
            for part in node.parts:
                yield from part.walk()


def build(part: Part, record: Record, name: str, input_names: Sequence[str], constants: Sequence[Any] = ()) -> Graph:
    """A graph from the steps of a program and what was recorded of them.

    Args:
        part: the program.
        record: values, and gradients where there are any.
        name: of the function.
        input_names: one for each input, those of constants left out.
        constants: the values of the constants, its first inputs.
    """
    jaxpr = part.program.jaxpr
    values: list[Value] = []
    places: dict[Any, int] = {}

    def add(var: Any, name: str, kind: Kind, node: int | None, value: Any, gradient: Any) -> int:
        aval = var.aval
        dtype = str(getattr(aval, "dtype", ""))
        values.append(Value(name, kind, node, tuple(aval.shape), dtype, _on_host(value), _on_host(gradient)))
        return len(values) - 1

    given = record.values.get(part.path, [None] * len(jaxpr.invars))
    d_given = record.gradients.get(part.path, [None] * len(jaxpr.invars))
    names = [*(f"constant {k}" if len(constants) > 1 else "constant" for k in range(len(constants))), *input_names]
    for k, (var, own, value, d) in enumerate(zip(jaxpr.invars, names, given, d_given, strict=True)):
        places[var] = add(var, own, "constant" if k < len(constants) else "input", None, value, d)

    for var, value in zip(jaxpr.constvars, part.program.consts, strict=True):
        if var not in places:
            places[var] = add(var, "constant", "constant", None, value, None)

    def place(atom: Any) -> int:
        if is_var(atom):
            return places[atom]
        value = np.asarray(read(atom, {}))
        digits = f"{value[()]:g}" if value.dtype.kind in "fiu" and not value.ndim else str(value)
        return add(atom, digits, "literal", None, value, None)

    nodes = []
    for i, step in enumerate(part.steps):
        inputs = tuple(place(atom) for atom in step.eqn.invars)
        n_out = len(step.eqn.outvars)
        made = record.values.get(step.path, [None] * n_out)
        d_made, d_inputs = record.gradients.get(step.path, ([None] * n_out, [None] * len(inputs)))
        outputs = []
        for k, (var, value, d) in enumerate(zip(step.eqn.outvars, made, d_made, strict=True)):
            key = f"{step.key}.{k}" if n_out > 1 else step.key
            places[var] = add(var, key, "node", i, value, d)
            outputs.append(places[var])
        if step.alias is not None:
            places[step.alias] = outputs[0]
        nodes.append(_node(step, inputs, tuple(outputs), d_inputs, record))
    # A number that is returned as it is written is a value more.
    results = tuple(place(atom) for atom in jaxpr.outvars)
    return Graph(name, tuple(values), tuple(nodes), tuple(places[v] for v in jaxpr.invars), results)


def _node(
    step: Step, inputs: tuple[int, ...], outputs: tuple[int, ...], d_inputs: Sequence[Any], record: Record
) -> Node:
    parts = tuple(
        build(
            inner,
            record,
            f"{step.name} {k}" if len(step.parts) > 1 else step.name,
            [f"input {j}" for j in range(len(inner.program.jaxpr.invars))],
        )
        for k, inner in enumerate(step.parts)
    )
    is_loop = step.primitive in ("scan", "while")
    within = [x for part in step.parts for x in record.values.get(part.path, [])] if is_loop else []
    steps = len(within[0]) if within else None
    by_autodiff = not step.has_rule and any(d is not None for d in d_inputs)
    host = tuple(_on_host(d) for d in d_inputs)
    return Node(
        step.key,
        step.name,
        step.scope,
        step.primitive,
        step.source,
        step.formula,
        inputs,
        outputs,
        host,
        by_autodiff,
        parts,
        steps,
    )


def _on_host(x: Any) -> np.ndarray | None:
    if x is None:
        return None
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(x))
    return np.asarray(x)
