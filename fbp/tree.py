"""Networks as trees: rebuild a network, map over its layers, list them, and roll equal blocks into loops.

The trees that belong to a network (parameters, caches, gradients, readings) have the network's structure; see
`fbp.combinators`. These functions ask a combinator how it is built; they test for no particular type.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators import Combinator, Repeat, Serial
from fbp.layers import Activation, Dense
from fbp.pairs import find_weights
from fbp.paths import Path, format_path
from fbp.typing import Activations, Cache, Key, Layer, Params, Wrapper

ROLL_FROM = 2
"""The number of equal blocks from which `roll_blocks` makes a loop."""
LONGEST_BLOCK = 8
"""The largest number of layers in a block that `roll_blocks` finds."""


def rebuild(net: Layer, replace_layer: Callable[[Layer], Layer]) -> Layer:
    """Replace every simple layer of a network; the combinators stay.

    Args:
        net: a network.
        replace_layer: called with each layer that is not a combinator; returns the layer to put in its place.

    Returns:
        The new network.
    """
    if not isinstance(net, Combinator):
        return replace_layer(net)
    return net.with_children([rebuild(child, replace_layer) for child in net.children])


def instrument(net: Layer, wrap_layer: Callable[[Layer], Layer]) -> Layer:
    """`rebuild` without checkpoints: the caches of its forward pass have the network's structure, for `map_layers`.

    Args:
        net: a network.
        wrap_layer: returns, for each simple layer, one with the same output that records something in its cache.

    Returns:
        The instrumented network.
    """
    if not isinstance(net, Combinator):
        return wrap_layer(net)
    plain = net.without_checkpoint()
    if plain != net:
        return instrument(plain, wrap_layer)
    return net.with_children([instrument(child, wrap_layer) for child in net.children])


@dataclass(frozen=True)
class _Observed(Wrapper):
    observe: Callable[[Layer, Params, Activations], tuple[Activations, Any]]

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return self.observe(self.layer, params, A)


def observe_layers(
    net: Layer, observe: Callable[[Layer, Params, Activations], tuple[Activations, Any]], params: Params, A: Activations
) -> Any:
    """Run the forward pass with observe(layer, params, A) -> (output, observation) in place of every simple layer.

    Args:
        net: a network.
        observe: called with each layer that is not a combinator, its parameters and its input.
        params: the parameters of the network.
        A: its input, (m, ...).

    Returns:
        The observations, as a tree of the network's structure.
    """
    return run_instrumented(instrument(net, lambda layer: _Observed(layer, observe)), params, A)[1]


def run_instrumented(net: Layer, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Any]:
    """The output, and the caches of the simple layers as a tree of the network's structure.

    Args:
        net: what `instrument` returned.
        params: its parameters.
        A: its input, (m, ...).
        key: randomness for dropout.
    """
    out, cache = net.forward(params, A, key)
    return out, _collect(net, params, cache)


def _collect(net: Layer, params: Params, cache: Cache) -> Any:
    if not isinstance(net, Combinator):
        return cache
    parts = zip(net.children, net.split(params), net.split_cache(params, cache), strict=True)
    return net.join([_collect(child, *own) for child, *own in parts])


def map_layers(function: Callable[..., Any], net: Layer, *trees: Any) -> Any:
    """Call function(layer, *subtrees) at each simple layer of a network.

    Inside a loop the function is called once, with leaves that have a leading axis of copies.

    Args:
        function: called with each layer that is not a combinator and its part of each tree.
        net: a network.
        trees: trees of the network's structure, e.g. parameters and gradients.

    Returns:
        The results, as a tree of the network's structure.
    """
    if not isinstance(net, Combinator):
        return function(net, *trees)
    parts = zip(net.children, *map(net.split, trees), strict=True)
    return net.join([map_layers(function, child, *subtrees) for child, *subtrees in parts])


def map_params(function: Callable[..., Any], net: Layer, *trees: Any) -> Params:
    """`map_layers` for a function that returns parameters: those that two lines share are given once, by their owner.

    Args:
        function: called with each layer that is not a combinator and its part of each tree.
        net: a network.
        trees: trees of the network's structure, e.g. parameters.

    Returns:
        A tree of the structure of the network's parameters.
    """
    if not isinstance(net, Combinator):
        return function(net, *trees)
    parts = zip(net.children, *map(net.split, trees), strict=True)
    return net.own(net.join([map_params(function, child, *subtrees) for child, *subtrees in parts]))


def list_weights(layer: Layer, params: Params, cache: Cache, dA_out: Activations) -> tuple[str, ...]:
    """The names of a layer's weight matrices: its parameters whose gradients are products of activations.

    Args:
        layer: a layer.
        params: its parameters.
        cache: what its forward pass kept.
        dA_out: the cotangent of its output, or anything of the same shape, such as the output itself.
    """
    return find_weights(jax.eval_shape(lambda: layer.linear(params, cache, dA_out)))


def name_layers(net: Layer) -> list[str]:
    """The paths of the simple layers, in the order of `list_layers`: "blocks[3].q".

    Args:
        net: a network.

    Example:
        >>> block = fbp.Network(up=fbp.Dense(8), down=fbp.Dense(4))
        >>> fbp.tree.name_layers(fbp.Network(first=fbp.Dense(4), blocks=fbp.Repeat(block, 2)))
        ['first', 'blocks[0].up', 'blocks[0].down', 'blocks[1].up', 'blocks[1].down']
    """
    return [format_path(path) for path in _paths(net)]


def describe_layer(layer: Layer) -> str:
    """What a layer is, in a word: "Dense(8)", "Activation(relu)", "LayerNorm".

    Args:
        layer: a layer.
    """
    if isinstance(layer, Dense):
        return f"Dense({layer.width})"
    return f"Activation({layer.function})" if isinstance(layer, Activation) else type(layer).__name__


def list_shared(net: Layer) -> list[Path]:
    """The paths of the parts of a network whose parameters are used more than once, with `...` for copies in a loop.

    Args:
        net: a network.
    """
    if not isinstance(net, Combinator):
        return []
    owners = net.owner_of_child
    found: list[Path] = []
    for i, (child, step) in enumerate(zip(net.children, net.steps, strict=True)):
        own = () if step is None else (step,)
        if list(owners.values()).count(owners[i]) > 1:
            found.append(own)
        else:
            found += [(*own, *path) for path in list_shared(child)]
    return found


def _paths(net: Layer) -> Iterator[Path]:
    if not isinstance(net, Combinator):
        yield ()
        return
    for copy in range(1 if net.copies is None else net.copies):
        for child, step in zip(net.children, net.steps, strict=True):
            own = () if step is None else (copy if step is ... else step,)
            for path in _paths(child):
                yield (*own, *path)


def unstack(net: Layer, tree: Any) -> Iterator[tuple[Layer, Any]]:
    """Yield each simple layer with its part of a tree, in forward order, the copies in a loop one by one.

    Args:
        net: a network.
        tree: a tree of the network's structure; numpy leaves make this cheap at any depth.
    """
    if not isinstance(net, Combinator):
        yield net, tree
        return
    copies = [tree] if net.copies is None else (jax.tree.map(lambda x, i=i: x[i], tree) for i in range(net.copies))
    for copy in copies:
        for child, subtree in zip(net.children, net.split(copy), strict=True):
            yield from unstack(child, subtree)


def list_layers(net: Layer) -> list[Layer]:
    """List the simple layers in forward order, the copies in a loop one by one.

    Args:
        net: a network.
    """
    return [layer for layer, _ in unstack(net, map_layers(lambda layer: (), net))]


def stack(net: Layer, tree: Any) -> Any:
    """Join readings of equal shape into one tree with a leading axis of layers, in forward order.

    The compiled counterpart of `unstack`: its cost does not grow with the depth of a loop.

    Args:
        net: a network.
        tree: a tree of the network's structure with one reading, or None, at each simple layer.

    Returns:
        The readings that are not None, each leaf with a leading axis; None if there are none.
    """
    if not isinstance(net, Combinator):
        return jax.tree.map(lambda x: x[None], tree)
    if not jax.tree.leaves(tree):
        return None

    def stack_children(tree: Any) -> Any:
        parts = [stack(child, subtree) for child, subtree in zip(net.children, net.split(tree), strict=True)]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *(part for part in parts if part is not None))

    if net.copies is None:
        return stack_children(tree)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(stack_children)(tree))


def roll_blocks(net: Layer, params: Params, A: jax.ShapeDtypeStruct | Array, axis: int = 0) -> tuple[Layer, Params]:
    """Turn neighbouring equal blocks of every chain into a `Repeat`, so that compile time does not grow with depth.

    The function stays the same when called without a key.

    Args:
        net: a network.
        params: its parameters.
        A: the shape and dtype of its input, batch included: a block is repeated only if it keeps them.
        axis: where the axis of depth goes in the leaves of the parameters: after those of `vmap`.

    Returns:
        The network and its parameters, with the same simple layers in the same order.
    """
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axis:], x.dtype), params)
    keep_input = lambda layer, params, A: (layer.forward(params, A)[0], A)
    inputs = jax.eval_shape(partial(observe_layers, net, keep_input), one, A)
    return _roll(net, params, inputs, axis)


class _Part(NamedTuple):
    """A layer and its parameters; layers of equal `kind` have equal shapes of parameters and inputs, too."""

    layer: Layer
    params: Params
    kind: Any


def _roll(net: Layer, params: Params, inputs: Any, axis: int) -> tuple[Layer, Params]:
    if not isinstance(net, Combinator) or net.copies is not None or net.shares_params:
        return net, params
    parts = []
    for child, child_params, child_input in zip(net.children, net.split(params), net.split(inputs), strict=True):
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (child_params, child_input))
        kind = child, jax.tree.structure((child_params, child_input)), jax.tree.leaves(shapes)
        parts.append(_Part(*_roll(child, child_params, child_input, axis), kind))
    pairs = list(_make_loops(parts, axis)) if net.is_chain else [part[:2] for part in parts]
    rolled = net.with_children([layer for layer, _ in pairs])
    assert isinstance(rolled, Combinator)
    return rolled, rolled.join([child_params for _, child_params in pairs])


def _make_loops(parts: list[_Part], axis: int) -> Iterator[tuple[Layer, Params]]:
    kinds = [part.kind for part in parts]
    i = 0
    while i < len(parts):
        # A block whose first layer can recompute its output caches one array per layer, any other block two.
        sizes = range(1, LONGEST_BLOCK + 1) if parts[i].layer.recomputes else (1,)
        runs = [(size, copies) for size in sizes if (copies := _count_copies(kinds, i, size)) >= ROLL_FROM]
        if not runs:
            yield parts[i][:2]
            i += 1
            continue
        size, copies = max(runs, key=lambda run: run[0] * run[1])
        block = Serial(*(part.layer for part in parts[i : i + size]))
        columns = ([part.params for part in parts[j : i + size * copies : size]] for j in range(i, i + size))
        stacked = [jax.tree.map(lambda *xs: jnp.stack(xs, axis), *column) for column in columns]
        yield (Repeat(block, copies), tuple(stacked)) if size > 1 else (Repeat(block.layers[0], copies), stacked[0])
        i += size * copies


def _count_copies(kinds: list[Any], start: int, size: int) -> int:
    unit, copies = kinds[start : start + size], 1
    while len(unit) == size and kinds[start + copies * size : start + (copies + 1) * size] == unit:
        copies += 1
    return copies
