"""Many copies of one block as a compiled loop, forward and backward, optionally checkpointed in segments."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_keeps_shape, check_layer
from fbp.combinators.wrappers import Checkpoint
from fbp.cotangent import Cotangent
from fbp.errors import check_count
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Sweep


@dataclass(frozen=True)
class _Keyed(Layer):
    """A layer with its key among its parameters, so that splitting a `Repeat` into segments changes no draw."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        layer_params, own_key = params
        return self.layer.forward(layer_params, A, own_key)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        d_params, dA_in, reading = self.layer.sweep(params[0], cache, dA_out, probe)
        return (d_params, None), dA_in, reading


@dataclass(frozen=True)
class Repeat(Combinator):
    """The same block `depth` times, with its own parameters each time, as one compiled loop.

    Parameters, gradients and readings have a leading axis of length `depth`. Compile time does not grow with depth.
    Order a block (activation, dense): it then caches one array per layer.

    Attributes:
        block: a layer that keeps the shape.
        depth: the number of copies.
        checkpoint: recompute the caches in segments of this many blocks: memory for depth/checkpoint inputs and one
            segment, at the price of one more forward pass; about sqrt(depth) is best. None keeps every cache.

    Raises:
        FbpError: the block is not a layer, or a number is not a positive integer.

    Example:
        >>> block = fbp.Serial(fbp.Activation("tanh"), fbp.Dense(8))
        >>> net = fbp.Serial(fbp.Dense(8), fbp.Repeat(block, 100), fbp.Dense(3), shape=(4,))
        >>> params, _ = net.init(jax.random.key(0))
        >>> params[1][1]["W"].shape
        (100, 8, 8)
    """

    block: Layer
    depth: int
    checkpoint: int | None = None
    is_chain = True

    def __post_init__(self) -> None:
        check_layer("Repeat", self.block)
        check_count("depth of Repeat", self.depth)
        if self.checkpoint is not None:
            check_count("checkpoint of Repeat", self.checkpoint)

    @property
    def copies(self) -> int:
        """The depth."""
        return self.depth

    def without_checkpoint(self) -> "Repeat":
        """The same loop, not split into segments."""
        return replace(self, checkpoint=None)

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The block's parameters with a leading axis of length `depth`, each copy drawn independently."""
        out_shapes = []

        def init_one(block_key: Key) -> Params:
            params, out_shape = self.block.init(block_key, shape)
            out_shapes.append(out_shape)
            return params

        params = jax.vmap(init_one)(jax.random.split(key, self.depth))
        check_keeps_shape("the block of Repeat", shape, out_shapes[0])
        return params, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Run `depth` blocks; caches each block's cache, stacked (or, with `checkpoint`, each segment's input)."""
        keys = None if key is None else jax.random.split(key, self.depth)
        if self.checkpoint is not None:
            A, caches = self._forward_segments((params, keys), A)
            return A, (caches, keys)

        def step(A: Activations, block: tuple[Params, Key | None]) -> tuple[Activations, Cache]:
            return self.block.forward(block[0], A, block[1])

        return jax.lax.scan(step, A, (params, keys), length=self.depth)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop, compiled; what the probe returns is stacked."""
        if self.checkpoint is not None:
            caches, keys = cache
            return self._sweep_segments((params, keys), caches, dA_out, probe)

        def step(dA: Cotangent, block: tuple[Params, Cache]) -> tuple[Cotangent, tuple[Params, Any]]:
            d_params, dA_in, reading = self.block.sweep(*block, dA, probe)
            return dA_in, (d_params, reading)

        dA_in, (d_params, readings) = jax.lax.scan(step, dA_out, (params, cache), length=self.depth, reverse=True)
        return d_params, dA_in, readings

    def _segment(self, length: int) -> Layer:
        return Checkpoint(replace(self, block=_Keyed(self.block), depth=length, checkpoint=None))

    def _cuts(self) -> tuple[int, int, Array]:
        """The length of a segment, the number of blocks left over after the last one, and where each segment begins."""
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

    def _sweep_segments(self, tree: Any, caches: Cache, dA: Cotangent, probe: Probe | None) -> Sweep:
        length, rest, starts = self._cuts()
        # One buffer for all gradients, written segment by segment: concatenating the parts would copy them all.
        d_params = jax.tree.map(jnp.zeros_like, tree[0])
        last = None
        if rest:
            start = self.depth - rest
            (d_rest, _), dA, last = self._segment(rest).sweep(_window(tree, start, rest), caches[1], dA, probe)
            d_params = _with_window(d_params, start, d_rest)

        def step(carry: tuple[Cotangent, Params], at: tuple[Array, Cache]) -> tuple[tuple[Cotangent, Params], Any]:
            (dA, d_params), (start, cache) = carry, at
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
