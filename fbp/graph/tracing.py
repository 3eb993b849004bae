"""From a function and its arguments to its graph."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError
from fbp.graph.gradients import (
    Argnums,
    Staged,
    check_call,
    check_real,
    count_from_front,
    name_function,
    split_arguments,
)
from fbp.graph.graph import Graph, build
from fbp.graph.record import Record
from fbp.graph.reverse import Reverse
from fbp.graph.structure import Part
from fbp.graph.versions import is_inexact, open_constants


def trace(f: Callable[..., Any], *args: Any, argnums: Argnums | None = None, fallback: bool = False) -> Graph:
    """The computation graph of any JAX function, with the value of every node.

    Calls, loops and branches are nodes with graphs inside. A loop whose length depends on values is counted by running
    it, so that the graph has a gradient where JAX has none. A function that brings a derivative of its own has a graph
    inside too, without gradients.

    Args:
        f: any JAX function.
        args: what it takes, pytrees of arrays and numbers. A number of Python is a real one, also where it is written
            without a point, so that it has a gradient; where f takes whole numbers alone it stays what it is.
        argnums: the arguments that get a gradient; None for all that are floating point.
        fallback: whether a primitive without a local rule is differentiated by JAX, and marked so, instead of refused.

    Returns:
        The graph; `Graph.backward` fills in the gradients.

    Raises:
        FbpError: f does not take these arguments or cannot be traced at them, or an argument of argnums is not real
            floating point.

    Example:
        >>> def shop(coat, trousers, number, discount):
        ...     total = coat + trousers * number
        ...     pay = total * discount
        ...     return pay
        >>> g = fbp.graph.trace(shop, 400.0, 300.0, 2, 0.7).backward()
        >>> [round(float(g[name].gradient), 4) for name in ("total", "coat", "number", "discount")]
        [0.7, 0.7, 210.0, 1000.0]
    """
    check_call(f, args, {})
    real = jax.tree.map(lambda x: float(x) if isinstance(x, int) and not isinstance(x, bool) else x, args)
    try:
        leaves, call = split_arguments(f, real, {})
        staged = Staged.of(call, leaves)
    except FbpError:
        leaves, call = split_arguments(f, args, {})
        staged, real = Staged.of(call, leaves), args
    program, constants = open_constants(staged.program)
    part = Part.of(program)
    everything = lambda path: True
    record = Record(everything, everything)
    inputs = [*constants, *leaves]
    n_out = len(program.jaxpr.outvars)
    floating = [is_inexact(v) for v in program.jaxpr.outvars]
    names = _name_leaves(f, real)
    wanted = [is_inexact(v) for v in program.jaxpr.invars]
    if argnums is not None:
        numbers = count_from_front(argnums, len(args))
        check_real([x for n in numbers for x in jax.tree.leaves(real[n])])
        wanted = [*[False] * len(constants), *(n in numbers for n, _ in names)]
    engine = Reverse(fallback, concrete=True, record=record)
    outputs, pullback = engine.run(program, inputs, wanted, floating, ())
    name, input_names = name_function(f), [name for _, name in names]
    graph = build(part, record, name, input_names, constants)

    def pull_back(seed: Any) -> Graph:
        if seed is None:
            if n_out != 1 or np.shape(outputs[0]) or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
                shown = ", ".join(f"{y.dtype} of shape {np.shape(y)}" for y in outputs)
                raise FbpError(
                    f"{name} must return one real number for backward, got {shown or 'nothing'}; "
                    "take its sum or mean, or give backward a seed"
                )
            seed = jnp.ones_like(outputs[0])
        d = jax.tree.leaves(seed)
        if [np.shape(g) for g in d] != [np.shape(y) for y in outputs]:
            raise FbpError(
                f"seed must have the shapes of the result, got {[np.shape(g) for g in d]} for "
                f"{[np.shape(y) for y in outputs]}; give one for each array"
            )
        record.gradients.clear()
        pullback([jnp.asarray(g, y.dtype) if yes else None for g, y, yes in zip(d, outputs, floating, strict=True)])
        return build(part, record, name, input_names, constants)

    graph._pull_back = pull_back
    return graph


def _name_leaves(f: Callable[..., Any], args: Sequence[Any]) -> list[tuple[int, str]]:
    """The argument that each leaf belongs to, and its name: coat, params['W'], ..., the way to the leaf."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = []
    for k, arg in enumerate(args):
        own = k < len(parameters) and parameters[k].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        name = parameters[k].name if own else f"argument {k}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
            is_number = isinstance(leaf, (int, float, complex)) and not isinstance(leaf, bool)
            if is_number or hasattr(leaf, "dtype"):
                names.append((k, name + jax.tree_util.keystr(path)))
    return names
