"""Layers in sequence, each array cached once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from fbp.combinators.base import Combinator, check_layer, naming
from fbp.combinators.lines import Call, restorer, run_lines, sweep_lines
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Sweep


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
        for i, (layer, layer_key) in enumerate(zip(self.layers, jax.random.split(key, len(self.layers)), strict=True)):
            with naming(i):
                layer_params, shape = layer.init(layer_key, shape)
            params.append(layer_params)
        return tuple(params), shape

    @property
    def steps(self) -> tuple[int, ...]:
        """The places in the sequence."""
        return tuple(range(len(self.layers)))

    @property
    def _lines(self) -> list[Call]:
        return [Call(i, layer, i - 1) for i, layer in enumerate(self.layers)]

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The composition; where one layer's output is the next one's input, the array is cached once."""
        count = len(self.layers)
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        values = {_INPUT: A}
        caches = run_lines(self._lines, params, values, keys)
        return values[count - 1], tuple(caches.values())

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop: each layer's dA_in is the dA_out of the layer before."""
        cotangents = {len(self.layers) - 1: dA_out}
        d_params, readings = sweep_lines(self._lines, params, cache, cotangents, probe)
        return self._in_order(d_params), cotangents[_INPUT], self._in_order(readings)

    def _in_order(self, by_line: dict[int, Any]) -> tuple[Any, ...]:
        return tuple(by_line[i] for i in self.steps)

    @property
    def recomputes(self) -> bool:
        """True if the last layer recomputes its output."""
        return bool(self.layers) and self.layers[-1].recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The last layer's output, from its cache."""
        return self.layers[-1].recompute(params[-1], self.split_cache(params, cache)[-1])

    def split_cache(self, params: Params, cache: Cache) -> tuple[Cache, ...]:
        """Each layer's cache, with the arrays that the layers before give back."""
        restore = restorer(self._lines, params, cache)
        return tuple(restore(i, None) for i in self.steps)

    @property
    def acts_on_rows(self) -> bool:
        """True if each of its layers does."""
        return all(layer.acts_on_rows for layer in self.layers)


_INPUT = -1
"""The line that the first layer reads."""
