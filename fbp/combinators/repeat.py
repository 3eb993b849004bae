"""Many copies of one block as a compiled loop, forward and backward, optionally checkpointed in segments."""

from dataclasses import dataclass, replace
from functools import partial
from types import EllipsisType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_keeps_shape, check_layer, describe_entries, named, naming
from fbp.combinators.lines import taking_slices
from fbp.combinators.wrappers import Checkpoint
from fbp.cotangent import Cotangent, share_exponent
from fbp.errors import FbpError, check_count
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

    A block may take a dictionary of which some entries are passed to every copy as they are, such as a mask or the
    output of an encoder; their cotangents add. The other entry goes through, or the other entries as a dictionary.

    Attributes:
        block: a layer that keeps the shape of what goes through.
        depth: the number of copies.
        checkpoint: recompute the caches in segments of this many blocks: memory for depth/checkpoint inputs and one
            segment, at the price of one more forward pass, except for the last segment, which the reverse pass needs
            first; about sqrt(depth) is best. None keeps every cache.
        through: for a block that takes a dictionary, the entry that goes through, which the block gives back; or
            several such entries, which it gives back as a dictionary. The others reach every copy unchanged.

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
    through: str | tuple[str, ...] | None = None
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

    @property
    def steps(self) -> tuple[EllipsisType]:
        """Every copy."""
        return (...,)

    @property
    def acts_on_rows(self) -> bool:
        """True if the block does."""
        return self.block.acts_on_rows

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The block's parameters with a leading axis of length `depth`, each copy drawn independently."""
        out_shapes = []

        def init_one(block_key: Key) -> Params:
            with naming(...):
                params, out_shape = self.block.init(block_key, shape)
            out_shapes.append(out_shape)
            return params

        through, _ = self._divide(shape)
        params = jax.vmap(init_one)(jax.random.split(key, self.depth))
        check_keeps_shape("the block of Repeat", through, out_shapes[0])
        return params, through

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Run `depth` blocks; caches each block's cache, stacked (or, with `checkpoint`, each segment's input)."""
        keys = None if key is None else jax.random.split(key, self.depth)
        through, fixed = self._divide(A)
        if self._has_segments:
            through, caches = self._forward_segments((params, keys), through, fixed)
            return through, self._with_fixed((caches, keys), fixed)

        def step(through: Activations, block: tuple[Params, Key | None]) -> tuple[Activations, Cache]:
            with naming(...):
                out, cache = self.block.forward(block[0], self._combine(through, fixed), block[1])
            return out, _Once.pack(cache, fixed)

        through, caches = jax.lax.scan(step, through, (params, keys), length=self.depth)
        return through, self._with_fixed(caches, fixed)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop, compiled; what the probe returns is stacked."""
        caches, fixed = self._without_fixed(cache)
        if self._has_segments:
            caches, keys = caches
            return self._sweep_segments((params, keys), (caches, fixed), dA_out, probe)

        def step(carry: _Reverse, block: tuple[Params, Cache]) -> tuple[_Reverse, tuple[Params, Any]]:
            block_params, cache = block
            with naming(...), taking_slices():
                d_params, dA_in, reading = self.block.sweep(
                    block_params, _Once.unpack(cache, fixed), carry.dA, named(probe, ...)
                )
            return self._pass_on(carry, dA_in), (d_params, reading)

        start = _Reverse(dA_out, _no_cotangent(fixed, dA_out.exponent))
        end, (d_params, readings) = jax.lax.scan(step, start, (params, caches), length=self.depth, reverse=True)
        return d_params, self._gather(end), readings

    def split_cache(self, params: Params, cache: Cache) -> tuple[Cache]:
        """The block's cache with a leading axis of copies."""
        caches, fixed = self._without_fixed(cache)
        every_copy = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.depth, *x.shape)), fixed)
        return (_Once.unpack(caches, every_copy),)

    def _with_fixed(self, caches: Cache, fixed: dict[str, Any]) -> Cache:
        return caches if self.through is None else (caches, fixed)

    def _without_fixed(self, cache: Cache) -> tuple[Cache, dict[str, Any]]:
        return (cache, {}) if self.through is None else cache

    def _divide(self, A: Any) -> tuple[Any, dict[str, Any]]:
        """What goes through the blocks, and what each of them gets unchanged."""
        if self.through is None:
            return A, {}
        names = (self.through,) if isinstance(self.through, str) else self.through
        if not isinstance(A, dict) or not set(names) <= set(A):
            raise FbpError(
                f"the input of Repeat must be a dictionary with {', '.join(map(repr, names))}, to go through, got "
                f"{describe_entries(A)}; give each by its name, in a line as .of(x='norm', mask='mask')"
            )
        fixed = {name: part for name, part in A.items() if name not in names}
        return A[self.through] if isinstance(self.through, str) else {name: A[name] for name in names}, fixed

    def _combine(self, through: Any, fixed: dict[str, Any]) -> Any:
        if self.through is None:
            return through
        return ({self.through: through} if isinstance(self.through, str) else through) | fixed

    def _pass_on(self, carry: "_Reverse", dA_in: Cotangent) -> "_Reverse":
        through, fixed = self._divide(dA_in.value)
        return _Reverse(
            dA_in._replace(value=through), carry.d_fixed + dA_in._replace(value=fixed) if fixed else carry.d_fixed
        )

    def _gather(self, end: "_Reverse") -> Cotangent:
        if self.through is None:
            return end.dA
        through, fixed = share_exponent([end.dA, end.d_fixed])
        return Cotangent(self._combine(through.value, fixed.value), through.exponent)

    @property
    def _has_segments(self) -> bool:
        return self.checkpoint is not None and self.checkpoint < self.depth

    def _cuts(self) -> tuple["Repeat", "Repeat", Array]:
        """A segment, the last segment, and where each but the last begins."""
        length = self.checkpoint or self.depth
        rest = self.depth % length or length
        part = replace(self, block=_Keyed(self.block), checkpoint=None)
        starts = jnp.arange(0, self.depth - rest, length)
        return replace(part, depth=length), replace(part, depth=rest), starts

    def _forward_segments(self, tree: Any, through: Activations, fixed: dict[str, Any]) -> tuple[Activations, Cache]:
        segment, last, starts = self._cuts()

        def run(part: Repeat, recompute: bool, through: Activations, start: Array | int) -> tuple[Activations, Cache]:
            layer = Checkpoint(part) if recompute else part
            out, cache = layer.forward(_window(tree, start, part.depth), self._combine(through, fixed))
            return out, _Once.pack(cache, fixed)

        through, caches = jax.lax.scan(partial(run, segment, True), through, starts)
        through, last_cache = run(last, False, through, self.depth - last.depth)
        return through, (caches, last_cache)

    def _sweep_segments(self, tree: Any, cache: Cache, dA_out: Cotangent, probe: Probe | None) -> Sweep:
        (caches, last_cache), fixed = cache
        segment, last, starts = self._cuts()

        def run(
            part: Repeat, recompute: bool, carry: tuple[_Reverse, Params], at: tuple[Array | int, Cache]
        ) -> tuple[tuple[_Reverse, Params], Any]:
            (cotangents, d_params), (start, cache) = carry, at
            layer = Checkpoint(part) if recompute else part
            own = _Once.unpack(cache, fixed)
            (d_part, _), dA_in, reading = layer.sweep(_window(tree, start, part.depth), own, cotangents.dA, probe)
            return (self._pass_on(cotangents, dA_in), _with_window(d_params, start, d_part)), reading

        # One buffer for all gradients, written segment by segment: concatenating the parts would copy them all.
        carry = _Reverse(dA_out, _no_cotangent(fixed, dA_out.exponent)), jax.tree.map(jnp.zeros_like, tree[0])
        carry, last_readings = run(last, False, carry, (self.depth - last.depth, last_cache))
        carry, readings = jax.lax.scan(partial(run, segment, True), carry, (starts, caches), reverse=True)
        readings = jax.tree.map(
            lambda each, last: jnp.concatenate([each.reshape(-1, *each.shape[2:]), last]), readings, last_readings
        )
        return carry[1], self._gather(carry[0]), readings


class _Reverse(NamedTuple):
    """What the reverse loop carries: the cotangent of what goes through, and the sum for what every copy gets."""

    dA: Cotangent
    d_fixed: Cotangent


def _no_cotangent(fixed: Any, exponent: Array | None) -> Cotangent:
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else None, fixed)
    return Cotangent(zeros, exponent)


@partial(jax.tree_util.register_dataclass, data_fields=["kept"], meta_fields=["treedef", "places"])
@dataclass(frozen=True)
class _Once:
    """The cache of a block with each array once: a loop would stack an array for every mention of it.

    Attributes:
        kept: the arrays of this copy.
        treedef: the structure of the whole cache.
        places: for each of its leaves, its place among the arrays that every copy gets, followed by those kept.
    """

    kept: list[Array]
    treedef: Any
    places: tuple[int, ...]

    @classmethod
    def pack(cls, cache: Cache, fixed: Any) -> Cache:
        """The cache with each array once, or as it is if none repeats."""
        leaves, treedef = jax.tree.flatten(cache)
        shared = jax.tree.leaves(fixed)
        # By identity, which is that of one value in the traced program.
        place = {id(leaf): i for i, leaf in enumerate(shared)}
        kept: list[Array] = []
        for leaf in leaves:
            if id(leaf) not in place:
                place[id(leaf)] = len(shared) + len(kept)
                kept.append(leaf)
        if len(kept) == len(leaves):
            return cache
        return cls(kept, treedef, tuple(place[id(leaf)] for leaf in leaves))

    @classmethod
    def unpack(cls, cache: Cache, fixed: Any) -> Cache:
        """The inverse of `pack`."""
        if not isinstance(cache, cls):
            return cache
        arrays = [*jax.tree.leaves(fixed), *cache.kept]
        return jax.tree.unflatten(cache.treedef, [arrays[place] for place in cache.places])


def _window(tree: Any, start: Array | int, length: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), tree)


def _with_window(tree: Any, start: Array | int, part: Any) -> Any:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0), tree, part)
