"""The two loops that all networks of several layers share: lines forward, and the same lines backward.

A line is a layer that reads the outputs of lines before it. Forward, each cache keeps no array that an earlier line can
give back. Backward, cotangents add where a value was read more than once.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators.base import named, naming
from fbp.cotangent import Cotangent
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe

T = TypeVar("T")
ByLine: TypeAlias = Mapping[Any, T] | Sequence[T]
"""Something for each line, found by its name, or by its number in a sequence."""


class Call(NamedTuple):
    """One step of a straight-line program.

    Attributes:
        name: of its output, and of its place in every tree.
        layer: what it computes.
        reads: the names of the values that it takes: one, a tuple or a dictionary of them.
    """

    name: Any
    layer: Layer
    reads: Any


@partial(jax.tree_util.register_dataclass, data_fields=["kept"], meta_fields=["treedef", "sources"])
@dataclass(frozen=True)
class _Shared:
    """A line's cache without the leaves that other lines give back.

    Attributes:
        kept: the other leaves.
        treedef: the structure of the whole cache.
        sources: for each of its leaves the line that gives it back, or None if it is kept.
    """

    kept: list[Array]
    treedef: Any
    sources: tuple[Hashable | None, ...]


def run_lines(
    lines: Sequence[Call],
    params: ByLine[Params],
    values: dict[Any, Activations],
    keys: ByLine[Key | None],
) -> dict[Any, Cache]:
    """Run the forward pass.

    Args:
        lines: in order.
        params: of each line.
        values: the inputs by name; the outputs of the lines are added to it.
        keys: randomness for each line.

    Returns:
        The cache of each line.
    """
    caches: dict[Any, Cache] = {}
    given_back: dict[int, Any] = {}
    for name, layer, reads in lines:
        with naming(name):
            out, own = layer.forward(params[name], read(values, reads), keys[name])
        leaves, treedef = jax.tree.flatten(own)
        # By identity: `values` holds every array that is asked for, so that no id is used twice.
        sources = tuple(given_back.get(id(leaf)) for leaf in leaves)
        if any(source is not None for source in sources):
            kept = [leaf for leaf, source in zip(leaves, sources, strict=True) if source is None]
            own = _Shared(kept, treedef, sources)
        caches[name], values[name] = own, out
        if layer.recomputes:
            given_back[id(out)] = name
    return caches


def sweep_lines(
    lines: Sequence[Call],
    params: ByLine[Params],
    caches: ByLine[Cache],
    cotangents: dict[Any, Cotangent],
    probe: Probe | None,
) -> tuple[dict[Any, Params], dict[Any, Any]]:
    """Run the reverse loop.

    Args:
        lines: in order.
        params: of each line.
        caches: what `run_lines` returned.
        cotangents: of the outputs by name. Those of the inputs stand in it at the end.
        probe: sees each layer.

    Returns:
        (d_params, readings), by line.
    """
    restore = restorer(lines, params, caches)
    d_params, readings = {}, {}
    for name, layer, reads in reversed(lines):
        dA_out = cotangents.pop(name)
        cache = restore(name, dA_out.value)
        with naming(name):
            d_params[name], dA_in, readings[name] = layer.sweep(params[name], cache, dA_out, named(probe, name))
        for source, value in _parts(reads, dA_in.value):
            add_cotangent(cotangents, source, Cotangent(value, dA_in.exponent))
    return d_params, readings


def add_cotangent(cotangents: dict[Any, Cotangent], name: Any, part: Cotangent) -> None:
    """Add to the cotangent of a value what one of its readers gives.

    Args:
        cotangents: by name; changed.
        name: of the value.
        part: the reader's.
    """
    cotangents[name] = cotangents[name] + part if name in cotangents else part


WAIT_FROM = 2**18
"""The entries from which an array that is recomputed waits for the cotangent outside of loops.

Small ones are quicker kept: at 2**16 a step took 1.2 times as long, at 2**18 0.65 to 0.9 (gelu, `gradient_step.py`).
"""
_SLICED: ContextVar[bool] = ContextVar("sliced", default=False)


@contextmanager
def taking_slices() -> Iterator[None]:
    """Say, while the body of a reverse loop is traced, that caches are slices of stacked arrays."""
    token = _SLICED.set(True)
    try:
        yield
    finally:
        _SLICED.reset(token)


def restorer(
    lines: Sequence[Call], params: ByLine[Params], caches: ByLine[Cache]
) -> Callable[[Any, Activations | None], Cache]:
    """The function that gives a line its whole cache, with the arrays that other lines recompute.

    It is called with the name of a line and the cotangent of its output, for which the recomputation then waits; with
    None it does not wait.

    Args:
        lines: in order.
        params: of each line.
        caches: what `run_lines` returned.
    """
    layers = {line.name: line.layer for line in lines}
    ready: dict[Any, Cache] = {}
    outputs: dict[Any, Array] = {}
    sliced = _SLICED.get()

    def recompute(name: Any, dA: Activations | None) -> Array:
        if name not in outputs:
            layer, cache = layers[name], restore(name, dA)
            outputs[name] = layer.recompute(params[name], cache)
            computed = all(outputs[name] is not leaf for leaf in jax.tree.leaves(cache))
            if computed and not sliced and outputs[name].size >= WAIT_FROM:
                # The layer's own backward rule gets the same arrays, so that it shares what both compute.
                ready[name] = wait_for(dA, cache)
                outputs[name] = layer.recompute(params[name], ready[name])
        return outputs[name]

    def restore(name: Any, dA: Activations | None) -> Cache:
        if name not in ready:
            own = caches[name]
            if isinstance(own, _Shared):
                kept = iter(own.kept)
                leaves = [next(kept) if source is None else recompute(source, dA) for source in own.sources]
                own = jax.tree.unflatten(own.treedef, leaves)
            # Slices of a loop's stacked arrays are copies, which then need not all be there from the start.
            ready[name] = wait_for(dA, own) if sliced else own
        return ready[name]

    return restore


def wait_for(dA: Activations | None, tree: Any) -> Any:
    """The same arrays, which the compiled program has no earlier than the cotangent.

    Without that, the compiler is free to recompute an array as soon as it was dropped, and to keep it: on CPUs XLA
    removes `jax.lax.optimization_barrier` before it orders the operations of a program.

    Args:
        dA: the cotangent, (m, ..., n); None, or several arrays, change nothing.
        tree: arrays; those that have the rows of dA wait.
    """
    if not isinstance(dA, jax.Array):
        return tree
    first = dA[..., :1]
    # A zero that no compiler can know to be one, because it is NaN for NaN.
    zero = jnp.where(first == first, jnp.zeros_like(first), first)

    def wait(leaf: Array) -> Array:
        has_rows = leaf.ndim == zero.ndim and leaf.shape[:-1] == zero.shape[:-1]
        if not (has_rows and jnp.issubdtype(leaf.dtype, jnp.floating)):
            return leaf
        return leaf + zero.astype(leaf.dtype)

    return jax.tree.map(wait, tree)


def read(values: Mapping[Any, Any], reads: Any) -> Any:
    """What a line takes: one value, or a tuple or dictionary of them.

    Args:
        values: by name.
        reads: the names.
    """
    if isinstance(reads, dict):
        return {entry: values[source] for entry, source in reads.items()}
    return tuple(values[source] for source in reads) if isinstance(reads, tuple) else values[reads]


def _parts(reads: Any, dA: Activations) -> list[tuple[Any, Activations]]:
    if isinstance(reads, dict):
        return [(source, dA[entry]) for entry, source in reads.items()]
    return list(zip(reads, dA, strict=True)) if isinstance(reads, tuple) else [(reads, dA)]
