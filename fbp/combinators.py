"""Combinators: layers in, a layer out. They own the forward loop and the reverse loop.

A tree that belongs to a network (parameters, caches, gradients, readings) has the network's shape: a tuple for
`Serial`, the child's own tree for `Residual` and `Checkpoint`, the child's tree with a leading axis for `Repeat`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape


class Combinator(Layer):
    """A layer made of layers."""

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers it is made of, in forward order."""
        raise NotImplementedError

    def with_children(self, children: Sequence[Layer]) -> Layer:
        """The same combinator of other layers."""
        raise NotImplementedError

    def split(self, tree: Any) -> tuple[Any, ...]:
        """A tree that belongs to this combinator, as one tree per child."""
        return (tree,)

    def join(self, trees: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        return trees[0]

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The reverse loop without a probe."""
        d_params, dA_in, _ = self.sweep(params, cache, Cotangent(dA_out))
        return d_params, dA_in.value


@partial(jax.tree_util.register_dataclass, data_fields=["kept"], meta_fields=["treedef", "dropped", "giver"])
@dataclass(frozen=True)
class _Shared:
    """A layer's cache without the leaves that are its input, which layer `giver` can recompute."""

    kept: list[Array]
    treedef: Any
    dropped: tuple[int, ...]
    giver: int

    @staticmethod
    def without(cache: Cache, A: Activations, giver: int) -> Cache:
        leaves, treedef = jax.tree.flatten(cache)
        dropped = tuple(i for i, leaf in enumerate(leaves) if leaf is A)
        if not dropped:
            return cache
        return _Shared([leaf for leaf in leaves if leaf is not A], treedef, dropped, giver)

    def restored(self, A: Activations) -> Cache:
        leaves = list(self.kept)
        for i in self.dropped:
            leaves.insert(i, A)
        return jax.tree.unflatten(self.treedef, leaves)


@dataclass(frozen=True)
class Serial(Combinator):
    """Layers one after the other.

    Attributes:
        layers: the layers, first to last.
        shape: the shape of one example of the input, for `init`; None where `init` is told.
    """

    layers: tuple[Layer, ...]
    shape: Shape | None = None

    def __init__(self, *layers: Layer, shape: Shape | None = None):
        for layer in layers:
            if not isinstance(layer, Layer):
                raise FbpError(f"Serial takes layers, Serial(Dense(10), ...); received {layer!r}")
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shape", shape)

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers."""
        return self.layers

    def with_children(self, children: Sequence[Layer]) -> "Serial":
        """`Serial` of other layers, for the same input."""
        return Serial(*children, shape=self.shape)

    def split(self, tree: Any) -> tuple[Any, ...]:
        """The tuple itself."""
        return tree

    def join(self, trees: Sequence[Any]) -> Any:
        """A tuple."""
        return tuple(trees)

    def init(self, key: Key, shape: Shape | None = None) -> tuple[Params, Shape]:
        """One entry a layer; `shape` may be left out where the network says it (as those of `fbp.mlp` do)."""
        if shape is None:
            shape = self.shape
        if shape is None:
            raise FbpError("this network does not say the shape of its input; give it, init(key, (784,))")
        if self.shape is not None and tuple(shape) != self.shape:
            raise FbpError(f"this network takes examples of shape {self.shape}; received {tuple(shape)}")
        params = []
        for layer, layer_key in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            layer_params, shape = layer.init(layer_key, shape)
            params.append(layer_params)
        return tuple(params), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The composition; each array is kept once, where one layer's output is the next one's input."""
        caches = []
        giver = None
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        for i, (layer, layer_params, layer_key) in enumerate(zip(self.layers, params, keys, strict=True)):
            A_out, cache = layer.forward(layer_params, A, layer_key)
            caches.append(cache if giver is None else _Shared.without(cache, A, giver))
            if layer.recomputes:
                giver = i
            elif A_out is not A:
                giver = None
            A = A_out
        return A, tuple(caches)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """The reverse loop: each layer's dA_in is the dA_out of the layer before."""
        dA, d_params, readings = dA_out, [], []
        for i in reversed(range(len(self.layers))):
            layer_cache = self._restored(params, cache, i)
            d_layer, dA, reading = self.layers[i].sweep(params[i], layer_cache, dA, probe)
            d_params.append(d_layer)
            readings.append(reading)
        return tuple(reversed(d_params)), dA, tuple(reversed(readings))

    @property
    def recomputes(self) -> bool:
        """Where the last layer does."""
        return bool(self.layers) and self.layers[-1].recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The last layer's output, from its cache."""
        return self.layers[-1].recompute(params[-1], self._restored(params, cache, len(self.layers) - 1))

    def _restored(self, params: Params, caches: Cache, i: int) -> Cache:
        cache = caches[i]
        if not isinstance(cache, _Shared):
            return cache
        giver = cache.giver
        return cache.restored(self.layers[giver].recompute(params[giver], self._restored(params, caches, giver)))


@dataclass(frozen=True)
class Residual(Combinator):
    """A + scale * branch(A). Backward, the fan-out: dA_in = dA_out + the branch's dA_in, cotangents add.

    He, Zhang, Ren & Sun (2016).

    Attributes:
        branch: a layer that keeps the shape.
        scale: the constant factor of the branch, e.g. 1/sqrt(L).
    """

    branch: Layer
    scale: float = 1.0

    @property
    def children(self) -> tuple[Layer, ...]:
        """The branch."""
        return (self.branch,)

    def with_children(self, children: Sequence[Layer]) -> "Residual":
        """The same connection around another branch."""
        return replace(self, branch=children[0])

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The branch's parameters."""
        params, out_shape = self.branch.init(key, shape)
        if out_shape != shape:
            raise FbpError(f"the branch of Residual keeps the shape; received {shape} -> {out_shape}")
        return params, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A + scale * branch(A); keeps what the branch keeps."""
        out, cache = self.branch.forward(params, A, key)
        return A + self._scaled(out), cache

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """The branch's loop, and the sum where it began."""
        d_branch = dA_out._replace(value=self._scaled(dA_out.value))
        d_params, dA_branch, reading = self.branch.sweep(params, cache, d_branch, probe)
        return d_params, dA_out + dA_branch, reading

    def _scaled(self, A: Array) -> Array:
        return A if self.scale == 1 else self.scale * A


@dataclass(frozen=True)
class Checkpoint(Combinator):
    """The same function, with the inside's cache recomputed from its input in the backward pass.

    Griewank & Walther (2000); Chen, Xu, Zhang & Guestrin (2016).
    """

    inside: Layer

    @property
    def children(self) -> tuple[Layer, ...]:
        """The inside."""
        return (self.inside,)

    def with_children(self, children: Sequence[Layer]) -> "Checkpoint":
        """A checkpoint around another layer."""
        return Checkpoint(children[0])

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The inside's parameters."""
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The inside's output; keeps the input (and the key, so that the same masks are drawn again)."""
        return self.inside.forward(params, A, key)[0], (A, key)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """Forward once more, then the inside's loop."""
        # The barrier keeps the compiler from merging the second forward pass with the first, which would keep
        # everything that this class exists to drop. The cotangent is in it so that the second pass waits for it.
        (A, key), dA_out = jax.lax.optimization_barrier((cache, dA_out))
        _, inner = self.inside.forward(params, A, key)
        return self.inside.sweep(params, inner, dA_out, probe)


@dataclass(frozen=True)
class _Keyed(Layer):
    """A layer that finds its key among its parameters: cutting a `Repeat` into segments then changes no draw."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        layer_params, own_key = params
        return self.layer.forward(layer_params, A, own_key)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        d_params, dA_in, reading = self.layer.sweep(params[0], cache, dA_out, probe)
        return (d_params, None), dA_in, reading


@dataclass(frozen=True)
class Repeat(Combinator):
    """The same block `depth` times with its own parameters each time, as one compiled loop.

    Parameters, gradients and readings carry a leading axis of length `depth`. Compile time does not grow with depth.
    Order a block (activation, dense): it then keeps one array a layer.

    Attributes:
        block: a layer that keeps the shape.
        depth: the number of copies.
        checkpoint: recompute the caches in segments of this many blocks: memory for depth/checkpoint inputs and one
            segment, for one more forward pass; sqrt(depth) is the smallest. None keeps every cache.
        unroll: how many blocks one turn of the compiled loop does.
    """

    block: Layer
    depth: int
    checkpoint: int | None = None
    unroll: int = 1

    def __post_init__(self) -> None:
        for name in ("depth", "unroll") if self.checkpoint is None else ("depth", "unroll", "checkpoint"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise FbpError(f"{name} of Repeat is an integer of at least 1; received {value!r}")

    @property
    def children(self) -> tuple[Layer, ...]:
        """The block."""
        return (self.block,)

    def with_children(self, children: Sequence[Layer]) -> "Repeat":
        """As many copies of another block."""
        return replace(self, block=children[0])

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The block's parameters with a leading axis of length `depth`, each copy drawn by itself."""
        out_shapes = []

        def init_one(block_key: Key) -> Params:
            params, out_shape = self.block.init(block_key, shape)
            out_shapes.append(out_shape)
            return params

        params = jax.vmap(init_one)(jax.random.split(key, self.depth))
        if out_shapes[0] != shape:
            raise FbpError(f"the block of Repeat keeps the shape; received {shape} -> {out_shapes[0]}")
        return params, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """`depth` blocks; keeps each block's cache, stacked (or, with `checkpoint`, each segment's input)."""
        keys = None if key is None else jax.random.split(key, self.depth)
        if self.checkpoint is not None:
            A, caches = self._forward_segments((params, keys), A)
            return A, (caches, keys)

        def step(A: Activations, now: tuple[Params, Key | None]) -> tuple[Activations, Cache]:
            return self.block.forward(now[0], A, now[1])

        return jax.lax.scan(step, A, (params, keys), length=self.depth, unroll=self.unroll)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """The reverse loop as a compiled loop; what the probe returns is stacked."""
        if self.checkpoint is not None:
            caches, keys = cache
            return self._sweep_segments((params, keys), caches, dA_out, probe)

        def step(dA: Cotangent, now: tuple[Params, Cache]) -> tuple[Cotangent, tuple[Params, Any]]:
            d_params, dA_in, reading = self.block.sweep(now[0], now[1], dA, probe)
            return dA_in, (d_params, reading)

        dA_in, (d_params, readings) = jax.lax.scan(
            step, dA_out, (params, cache), length=self.depth, reverse=True, unroll=self.unroll
        )
        return d_params, dA_in, readings

    def _segment(self, length: int) -> Layer:
        return Checkpoint(replace(self, block=_Keyed(self.block), depth=length, checkpoint=None))

    def _cuts(self) -> tuple[int, int, Array]:
        """The length of the segments, how many blocks are left over behind them, and where each segment begins."""
        length = min(self.checkpoint or self.depth, self.depth)
        rest = self.depth % length
        return length, rest, jnp.arange(0, self.depth - rest, length)

    def _forward_segments(self, tree: Any, A: Activations) -> tuple[Activations, Cache]:
        length, rest, starts = self._cuts()

        def step(A: Activations, start: Array) -> tuple[Activations, Cache]:
            return self._segment(length).forward(_window(tree, start, length), A)

        A, caches = jax.lax.scan(step, A, starts)
        if not rest:
            return A, (caches, None)
        A, last = self._segment(rest).forward(_window(tree, self.depth - rest, rest), A)
        return A, (caches, last)

    def _sweep_segments(
        self, tree: Any, caches: Cache, dA: Cotangent, probe: Probe | None
    ) -> tuple[Params, Cotangent, Any]:
        length, rest, starts = self._cuts()
        # One buffer for all gradients, written segment by segment: joining parts would copy them all.
        d_params = jax.tree.map(jnp.zeros_like, tree[0])
        last = None
        if rest:
            start = self.depth - rest
            (d_rest, _), dA, last = self._segment(rest).sweep(_window(tree, start, rest), caches[1], dA, probe)
            d_params = _with_window(d_params, start, d_rest)

        def step(carry: tuple[Cotangent, Params], now: tuple[Array, Cache]) -> tuple[tuple[Cotangent, Params], Any]:
            (dA, d_params), (start, cache) = carry, now
            (d_segment, _), dA, reading = self._segment(length).sweep(_window(tree, start, length), cache, dA, probe)
            return (dA, _with_window(d_params, start, d_segment)), reading

        (dA, d_params), readings = jax.lax.scan(step, (dA, d_params), (starts, caches[0]), reverse=True)
        readings = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), readings)
        if rest:
            readings = jax.tree.map(lambda *parts: jnp.concatenate(parts), readings, last)
        return d_params, dA, readings


def _window(tree: Any, start: Array | int, length: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), tree)


def _with_window(tree: Any, start: Array | int, part: Any) -> Any:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, part)
