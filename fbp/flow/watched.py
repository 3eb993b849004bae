"""A network whose layers leave, beside their caches, what was seen as the forward pass went by."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from fbp.activations import activation
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.flow.readings import (
    LOG10_2,
    Backward,
    Forward,
    Units,
    gauged,
    see_gradients,
    see_output,
    see_units,
    steepest,
)
from fbp.layers import Activation, Dense
from fbp.tree import map_layers, rebuild, stack
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape, Visit


@dataclass(frozen=True)
class _Watched(Layer):
    """The same layer, with the reading of its output beside its cache."""

    layer: Layer

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        return self.layer.init(key, shape)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        return self.layer.backward(params, cache[0], dA_out)

    @property
    def recomputes(self) -> bool:
        return self.layer.recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        return self.layer.recompute(params, cache[0])


@dataclass(frozen=True)
class _WatchedDense(_Watched):
    """A dense layer whose output may stand in units of a power of two (see `gauged`)."""

    rescale: bool = False

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        Z, cache = self.layer.forward(params, A, key)
        Z, shift = gauged(Z, self.rescale)
        return Z, (cache, see_output(Z, shift))


@dataclass(frozen=True)
class _WatchedActivation(_Watched):
    """An activation that acts on each entry alone."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        assert isinstance(self.layer, Activation)
        row = activation(self.layer.function)
        out, cache = self.layer.forward(params, A, key)
        return out, (cache, see_units(row.pullback(cache, jnp.ones_like(cache)), steepest(row)))


class Seen(NamedTuple):
    """The readings of one network in forward order.

    Attributes:
        forward: of the dense layers, (L,).
        backward: of the dense layers, (L,).
        units: of the activation layers, (activations,); None where there are none.
    """

    forward: Forward
    backward: Backward
    units: Units | None


def watched(net: Layer) -> Layer:
    """The same function (up to powers of two, where the network is positively homogeneous) for `see`.

    Args:
        net: a network.
    """
    rescale = net.homogeneous

    def observer(layer: Layer) -> Layer:
        if isinstance(layer, Dense):
            return _WatchedDense(layer, rescale)
        if isinstance(layer, Activation) and activation(layer.function).elementwise:
            return _WatchedActivation(layer)
        return layer

    return rebuild(net, observer)


def see(net: Layer, params: Params, X: Activations, dZ: Activations) -> Seen:
    """One forward and one backward pass of a network, read at every layer; compiled by the caller.

    Args:
        net: what `watched` gave.
        params: the parameters.
        X: a batch, (m, ...).
        dZ: the cotangent of the output of the network that is watched.

    Raises:
        FbpError: the network has no dense layer.
    """
    _, cache = net.forward(params, X)
    _, _, readings = net.sweep(params, cache, Cotangent(dZ, jnp.int32(0)).normalize(), _probe)
    # Read in the reverse loop, not off the caches: a checkpoint has none.
    both = _stacked_of(_WatchedDense, net, readings)
    if both is None:
        raise FbpError("gradient flow is that of dense layers; received a network without one; give it a Dense")
    forward, backward = both
    after = jnp.cumsum(forward.shift)
    before = after - forward.shift
    square = forward.log10_mean_square + 2 * LOG10_2 * after.astype(forward.log10_mean_square.dtype)
    dW = backward.dW + LOG10_2 * before.astype(backward.dW.dtype)
    units = _stacked_of(_WatchedActivation, net, readings)
    return Seen(forward._replace(log10_mean_square=square), backward._replace(dW=dW), units)


def _probe(visit: Visit) -> Any:
    if isinstance(visit.layer, _WatchedDense):
        return visit.cache[1], see_gradients(visit, visit.cache[0])
    return visit.cache[1] if isinstance(visit.layer, _WatchedActivation) else None


def _stacked_of(kind: type, net: Layer, readings: Any) -> Any:
    return stack(net, map_layers(lambda layer, r: r if isinstance(layer, kind) else None, net, readings))
