"""Many copies of one block as a compiled loop, forward and backward, in segments where memory is short."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_layer
from fbp.combinators.wrappers import Checkpoint
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, check_count
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape


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
            segment, for one more forward pass; of the order of sqrt(depth) is best. None keeps every cache.
        unroll: how many blocks one turn of the compiled loop does.
    """

    block: Layer
    depth: int
    checkpoint: int | None = None
    unroll: int = 1

    def __post_init__(self) -> None:
        check_layer("Repeat", self.block)
        for name in ("depth", "unroll") if self.checkpoint is None else ("depth", "unroll", "checkpoint"):
            check_count(f"{name} of Repeat", getattr(self, name))

    @property
    def children(self) -> tuple[Layer, ...]:
        """The block."""
        return (self.block,)

    def with_children(self, children: Sequence[Layer]) -> "Repeat":
        """As many copies of another block."""
        return replace(self, block=children[0])

    @property
    def copies(self) -> int:
        """The depth."""
        return self.depth

    @property
    def is_chain(self) -> bool:
        """Always."""
        return True

    def without_checkpoint(self) -> "Repeat":
        """The same loop, not cut into segments."""
        return replace(self, checkpoint=None)

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
