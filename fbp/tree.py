"""A network's tree: rebuild a network, map over its layers, list them, and roll equal blocks into loops.

A tree that belongs to a network (parameters, caches, gradients, readings) has the network's shape; see
`fbp.combinators`. These functions ask a combinator how it is built and test for no particular one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators import Combinator, Repeat, Serial
from fbp.typing import Activations, Cache, Key, Layer, Params

ROLL_FROM = 2
"""The number of equal blocks from which `roll_blocks` makes a loop of them."""
LONGEST_BLOCK = 8
"""The most layers in a block that `roll_blocks` finds."""


def rebuild(net: Layer, replace_layer: Callable[[Layer], Layer]) -> Layer:
    """The same network with every simple layer replaced; the combinators stay.

    Args:
        net: a network.
        replace_layer: called with each layer that is not a combinator.
    """
    if not isinstance(net, Combinator):
        return replace_layer(net)
    return net.with_children([rebuild(child, replace_layer) for child in net.children])


def instrument(net: Layer, wrap_layer: Callable[[Layer], Layer]) -> Layer:
    """`rebuild` without checkpoints: the caches of its forward pass have the network's shape, for `map_layers`.

    Args:
        net: a network.
        wrap_layer: gives, for each simple layer, one with the same output that leaves an observation in its cache.
    """
    if not isinstance(net, Combinator):
        return wrap_layer(net)
    plain = net.without_checkpoint()
    if plain != net:
        return instrument(plain, wrap_layer)
    return net.with_children([instrument(child, wrap_layer) for child in net.children])


def map_layers(function: Callable[..., Any], net: Layer, *trees: Any) -> Any:
    """A tree of the network's shape from function(layer, *subtrees) at each simple layer.

    Inside a loop the function is called once, with leaves that have the axis of copies in front.

    Args:
        function: called with each layer that is not a combinator and its part of each tree.
        net: a network.
        trees: trees of the network's shape, e.g. parameters and gradients.
    """
    if not isinstance(net, Combinator):
        return function(net, *trees)
    parts = zip(net.children, *map(net.split, trees), strict=True)
    return net.join([map_layers(function, child, *subtrees) for child, *subtrees in parts])


def unstack(net: Layer, tree: Any) -> Iterator[tuple[Layer, Any]]:
    """Each simple layer with its part of the tree, in forward order, the copies in a loop one by one.

    Args:
        net: a network.
        tree: a tree of the network's shape; numpy leaves make this cheap at any depth.
    """
    if not isinstance(net, Combinator):
        yield net, tree
        return
    for copy in _each_copy(net, tree):
        for child, subtree in zip(net.children, net.split(copy), strict=True):
            yield from unstack(child, subtree)


def list_layers(net: Layer) -> list[Layer]:
    """The simple layers in forward order, the copies in a loop one by one.

    Args:
        net: a network.
    """
    return [layer for layer, _ in unstack(net, map_layers(lambda layer: (), net))]


def stack(net: Layer, tree: Any) -> Any:
    """Readings of equal shape as one tree with an axis of layers in front, in forward order.

    The compiled counterpart of `unstack`: its cost does not grow with the depth of a loop.

    Args:
        net: a network.
        tree: a tree of the network's shape whose simple layers hold one reading each, or None.

    Returns:
        The readings that are not None, each leaf with a leading axis; None where there are none.
    """
    if not isinstance(net, Combinator):
        return jax.tree.map(lambda x: x[None], tree)
    if not jax.tree.leaves(tree):
        return None
    if net.copies is not None:
        by_copy = jax.vmap(lambda one: _stack_children(net, one))(tree)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_copy)
    return _stack_children(net, tree)


def roll_blocks(net: Layer, params: Params, A: jax.ShapeDtypeStruct | Array, axis: int = 0) -> tuple[Layer, Params]:
    """The same function, as it runs without a key, with neighbouring equal blocks of every sequence as `Repeat`.

    Compile time then does not grow with depth.

    Args:
        net: a network.
        params: its parameters.
        A: the shape and the dtype of its input, batch included: a block is repeated where it keeps them.
        axis: where the axis of depth goes in the leaves of the parameters: behind those of `vmap`.

    Returns:
        The network and its parameters, with the same simple layers in the same order.
    """
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axis:], x.dtype), params)
    recorder = instrument(net, _Recorder)
    inputs = jax.eval_shape(lambda p, A: recorder.forward(p, A)[1], one, A)
    return _roll(net, params, inputs, axis)


@dataclass(frozen=True)
class _Recorder(Layer):
    """The same layer with its input as the cache."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return self.layer.forward(params, A, key)[0], A


class _Placed(NamedTuple):
    """A layer and its parameters; `kind` is equal where the layer and the shapes of parameters and inputs are."""

    layer: Layer
    params: Params
    kind: Any


def _roll(net: Layer, params: Params, inputs: Any, axis: int) -> tuple[Layer, Params]:
    if not isinstance(net, Combinator) or net.copies is not None:
        return net, params
    placed = []
    for child, part, met in zip(net.children, net.split(params), net.split(inputs), strict=True):
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (part, met))
        kind = child, jax.tree.structure((part, met)), jax.tree.leaves(shapes)
        placed.append(_Placed(*_roll(child, part, met, axis), kind))
    if isinstance(net, Serial):
        pairs = list(_with_loops(placed, axis))
    else:
        pairs = [(each.layer, each.params) for each in placed]
    rolled = net.with_children([layer for layer, _ in pairs])
    assert isinstance(rolled, Combinator)
    return rolled, rolled.join([part for _, part in pairs])


def _with_loops(placed: list[_Placed], axis: int) -> Iterator[tuple[Layer, Params]]:
    kinds = [each.kind for each in placed]
    i = 0
    while i < len(placed):
        # A block whose first layer can give its output back keeps one array a layer, any other block two.
        sizes = range(1, LONGEST_BLOCK + 1) if placed[i].layer.recomputes else (1,)
        runs = [(size, copies) for size in sizes if (copies := _count_copies(kinds, i, size)) >= ROLL_FROM]
        if not runs:
            yield placed[i].layer, placed[i].params
            i += 1
            continue
        size, copies = max(runs, key=lambda run: run[0] * run[1])
        unit = placed[i : i + size]
        parts = [
            jax.tree.map(
                lambda *xs: jnp.stack(xs, axis), *(each.params for each in placed[j : i + size * copies : size])
            )
            for j in range(i, i + size)
        ]
        block = unit[0].layer if size == 1 else Serial(*(each.layer for each in unit))
        yield Repeat(block, copies), parts[0] if size == 1 else tuple(parts)
        i += size * copies


def _count_copies(kinds: list[Any], start: int, size: int) -> int:
    unit, copies = kinds[start : start + size], 1
    while len(unit) == size and kinds[start + copies * size : start + (copies + 1) * size] == unit:
        copies += 1
    return copies


def _each_copy(net: Combinator, tree: Any) -> Iterator[Any]:
    if net.copies is None:
        yield tree
        return
    for i in range(net.copies):
        yield jax.tree.map(lambda x, i=i: x[i], tree)


def _stack_children(net: Combinator, tree: Any) -> Any:
    parts = [stack(child, sub) for child, sub in zip(net.children, net.split(tree), strict=True)]
    parts = [part for part in parts if part is not None]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts) if parts else None
