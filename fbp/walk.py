"""Readers of a network's tree: whoever needs every layer walks here, and knows no combinator by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators import Checkpoint, Combinator, Repeat, Residual, Serial
from fbp.layers import Dense
from fbp.typing import Layer, Params

ROLLED_FROM = 2
"""Equal blocks from which `rolled` makes a loop of them."""
LONGEST_BLOCK = 8
"""Layers of a block that `rolled` finds."""


def rebuild(net: Layer, replacement: Callable[[Layer], Layer]) -> Layer:
    """The same network with every simple layer replaced; the combinators stay.

    Args:
        net: a network.
        replacement: called with each layer that is not a combinator.
    """
    if not isinstance(net, Combinator):
        return replacement(net)
    return net.with_children([rebuild(child, replacement) for child in net.children])


def rolled(net: Layer, params: Params, A: jax.ShapeDtypeStruct | Array, axis: int = 0) -> tuple[Layer, Params]:
    """The same function, as it runs without a key, with neighbouring equal blocks as `Repeat`.

    Compile time then does not grow with depth.

    Args:
        net: a network.
        params: its parameters.
        A: the shape and the dtype of its input, batch included: a block is repeated where it keeps them.
        axis: where the axis of depth goes in the leaves of the parameters: behind those of `vmap`.

    Returns:
        The network and its parameters, with the same simple layers in the same order.
    """
    if isinstance(net, (Residual, Checkpoint)):
        (child,), (part,) = net.children, net.split(params)
        inside, part = rolled(child, part, A, axis)
        return net.with_children([inside]), net.join([part])
    if not isinstance(net, Serial):
        return net, params
    found: list[_Placed] = []
    for layer, part in zip(net.layers, params, strict=True):
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axis:], x.dtype), part)
        found.append(
            _Placed(
                *rolled(layer, part, A, axis), (layer, jax.tree.structure(one), jax.tree.leaves(one), A.shape, A.dtype)
            )
        )
        A = jax.eval_shape(lambda p, A, layer=layer: layer.forward(p, A)[0], one, A)
    pairs = list(_with_loops(found, axis))
    return net.with_children([layer for layer, _ in pairs]), tuple(part for _, part in pairs)


class _Placed(NamedTuple):
    """A layer and its parameters; `kind` is equal where the layer, the shapes of its parameters and its input are."""

    layer: Layer
    params: Params
    kind: Any


def _with_loops(found: list[_Placed], axis: int) -> Iterator[tuple[Layer, Params]]:
    kinds = [each.kind for each in found]
    i = 0
    while i < len(found):
        # A block keeps one array where it ends in its dense layer, two where it begins with it.
        sizes = (1,) if isinstance(found[i].layer, Dense) else range(1, LONGEST_BLOCK + 1)
        runs = [(size, copies) for size in sizes if (copies := _copies(kinds, i, size)) >= ROLLED_FROM]
        if not runs:
            yield found[i].layer, found[i].params
            i += 1
            continue
        size, copies = max(runs, key=lambda run: run[0] * run[1])
        unit = found[i : i + size]
        parts = [
            jax.tree.map(
                lambda *xs: jnp.stack(xs, axis), *(each.params for each in found[j : i + size * copies : size])
            )
            for j in range(i, i + size)
        ]
        block = unit[0].layer if size == 1 else Serial(*(each.layer for each in unit))
        yield Repeat(block, copies), parts[0] if size == 1 else tuple(parts)
        i += size * copies


def _copies(kinds: list[Any], start: int, size: int) -> int:
    unit, copies = kinds[start : start + size], 1
    while len(unit) == size and kinds[start + copies * size : start + (copies + 1) * size] == unit:
        copies += 1
    return copies


def observed(net: Layer, observer: Callable[[Layer], Layer]) -> Layer:
    """`rebuild` without checkpoints: the caches of its forward pass have the network's shape, for `map_layers`.

    Args:
        net: a network.
        observer: gives, for each simple layer, one with the same output that leaves its observation in the cache.
    """
    if isinstance(net, Checkpoint):
        return observed(net.inside, observer)
    if isinstance(net, Repeat):
        net = replace(net, checkpoint=None)
    if not isinstance(net, Combinator):
        return observer(net)
    return net.with_children([observed(child, observer) for child in net.children])


def map_layers(function: Callable[..., Any], net: Layer, *trees: Any) -> Any:
    """A tree of the network's shape from function(layer, *subtrees) at each simple layer.

    Inside `Repeat` the function is called once, with leaves that have the axis of depth in front.

    Args:
        function: called with each layer that is not a combinator and its part of each tree.
        net: a network.
        trees: trees of the network's shape, e.g. parameters and gradients.
    """
    if not isinstance(net, Combinator):
        return function(net, *trees)
    parts = zip(net.children, *map(net.split, trees), strict=True)
    return net.join([map_layers(function, child, *subtrees) for child, *subtrees in parts])


def unstacked(net: Layer, tree: Any) -> Iterator[tuple[Layer, Any]]:
    """Each simple layer with its part of the tree, in forward order, the copies of `Repeat` one by one.

    Args:
        net: a network.
        tree: a tree of the network's shape; numpy leaves make this cheap at any depth.
    """
    if not isinstance(net, Combinator):
        yield net, tree
        return
    copies = net.depth if isinstance(net, Repeat) else 1
    for i in range(copies):
        now = jax.tree.map(lambda x, i=i: x[i], tree) if isinstance(net, Repeat) else tree
        for child, subtree in zip(net.children, net.split(now), strict=True):
            yield from unstacked(child, subtree)


def stacked(net: Layer, tree: Any) -> Any:
    """Readings of equal shape as one tree with an axis of layers in front, in forward order.

    The compiled counterpart of `unstacked`: its cost does not grow with the depth of `Repeat`.

    Args:
        net: a network.
        tree: a tree of the network's shape whose simple layers hold one reading each, or None.

    Returns:
        The readings that are not None, each leaf with a leading axis; None where there are none.
    """
    if not isinstance(net, Combinator):
        return jax.tree.map(lambda x: x[None], tree)
    if isinstance(net, Repeat):
        if not jax.tree.leaves(tree):
            return None
        by_copy = jax.vmap(lambda one: stacked(net.block, one))(tree)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_copy)
    parts = [stacked(child, sub) for child, sub in zip(net.children, net.split(tree), strict=True)]
    parts = [part for part in parts if part is not None]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts) if parts else None
