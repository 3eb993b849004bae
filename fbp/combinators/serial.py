"""Layers in sequence, each array cached once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_layer
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Sweep


@partial(jax.tree_util.register_dataclass, data_fields=["kept"], meta_fields=["treedef", "dropped", "source"])
@dataclass(frozen=True)
class _Shared:
    """A layer's cache without the leaves that equal its input, which layer `source` can recompute."""

    kept: list[Array]
    treedef: Any
    dropped: tuple[int, ...]
    source: int

    @staticmethod
    def drop_input(cache: Cache, A: Activations, source: int) -> Cache:
        leaves, treedef = jax.tree.flatten(cache)
        dropped = tuple(i for i, leaf in enumerate(leaves) if leaf is A)
        if not dropped:
            return cache
        return _Shared([leaf for leaf in leaves if leaf is not A], treedef, dropped, source)

    def restore(self, A: Activations) -> Cache:
        leaves = list(self.kept)
        for i in self.dropped:
            leaves.insert(i, A)
        return jax.tree.unflatten(self.treedef, leaves)


@dataclass(frozen=True)
class Serial(Combinator):
    """Layers in sequence: each one's output is the next one's input.

    Attributes:
        layers: the layers, first to last.
        shape: the shape of one example of the input, so that `init` needs none; or None.

    Raises:
        FbpError: an argument is not a layer.

    Example:
        >>> net = fbp.Serial(fbp.Dense(8), fbp.Activation("tanh"), fbp.Dense(3), shape=(4,))
        >>> params, shape = net.init(jax.random.key(0))
        >>> Z, cache = net.forward(params, jnp.ones((2, 4)))
        >>> d_params, dA = net.backward(params, cache, jnp.ones_like(Z))
        >>> dA.shape
        (2, 4)
    """

    layers: tuple[Layer, ...]
    shape: Shape | None = None
    is_chain = True

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
        """A `Serial` of other layers, for the same input."""
        return Serial(*children, shape=self.shape)

    def split(self, tree: Any) -> tuple[Any, ...]:
        """The tuple itself."""
        return tree

    def join(self, trees: Sequence[Any]) -> Any:
        """A tuple."""
        return tuple(trees)

    def init(self, key: Key, shape: Shape | None = None) -> tuple[Params, Shape]:
        """One entry per layer; `shape` may be omitted if the network knows it (as those of `fbp.mlp` do)."""
        if shape is None:
            shape = self.shape
        if shape is None:
            raise FbpError("the shape of one example must be known, got None; give it, init(key, (784,))")
        if self.shape is not None and tuple(shape) != self.shape:
            raise FbpError(
                f"examples of this network must have the shape {self.shape}, got {tuple(shape)}; omit the argument"
            )
        params = []
        for layer, layer_key in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            layer_params, shape = layer.init(layer_key, shape)
            params.append(layer_params)
        return tuple(params), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The composition; where one layer's output is the next one's input, the array is cached once."""
        caches = []
        source = None
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        for i, (layer, layer_params, layer_key) in enumerate(zip(self.layers, params, keys, strict=True)):
            A_out, cache = layer.forward(layer_params, A, layer_key)
            caches.append(cache if source is None else _Shared.drop_input(cache, A, source))
            if layer.recomputes:
                source = i
            elif A_out is not A:
                source = None
            A = A_out
        return A, tuple(caches)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop: each layer's dA_in is the dA_out of the layer before."""
        dA, d_params, readings = dA_out, [], []
        for i in reversed(range(len(self.layers))):
            layer_cache = self._restore(params, cache, i)
            d_layer, dA, reading = self.layers[i].sweep(params[i], layer_cache, dA, probe)
            d_params.append(d_layer)
            readings.append(reading)
        return tuple(reversed(d_params)), dA, tuple(reversed(readings))

    @property
    def recomputes(self) -> bool:
        """True if the last layer recomputes its output."""
        return bool(self.layers) and self.layers[-1].recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The last layer's output, from its cache."""
        return self.layers[-1].recompute(params[-1], self._restore(params, cache, len(self.layers) - 1))

    def _restore(self, params: Params, caches: Cache, i: int) -> Cache:
        cache = caches[i]
        if not isinstance(cache, _Shared):
            return cache
        source = cache.source
        return cache.restore(self.layers[source].recompute(params[source], self._restore(params, caches, source)))
