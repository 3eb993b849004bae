"""Layers one after the other, each array kept once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_layer
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape


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
            check_layer("Serial", layer)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shape", shape)

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers."""
        return self.layers

    def with_children(self, children: Sequence[Layer]) -> "Serial":
        """`Serial` of other layers, for the same input."""
        return Serial(*children, shape=self.shape)

    @property
    def is_chain(self) -> bool:
        """Always."""
        return True

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
