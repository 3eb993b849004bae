"""One backward pass laid open: every layer's A, Z, dA, dZ, dW and db, by name."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.backprop import check_batch
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, unknown_name
from fbp.layers import Dense
from fbp.losses import Loss
from fbp.tree import instrument, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params, Visit


class LayerTrace(NamedTuple):
    """What passed one layer, forward and backward.

    Attributes:
        layer: the layer.
        A_in, A_out: its input and output, (m, ...).
        dA_in, dA_out: the gradient of the loss with respect to them.
        params, d_params: its parameters and their gradient.
    """

    layer: Layer
    A_in: np.ndarray
    A_out: np.ndarray
    dA_in: np.ndarray
    dA_out: np.ndarray
    params: Any
    d_params: Any


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "output", "d_params", "readings"],
    meta_fields=["net"],
)
@dataclass(frozen=True)
class Trace:
    """Every quantity of one forward and backward pass.

    `A`, `Z`, `dA`, `dZ`, `W`, `b`, `dW` and `db` are dictionaries keyed by l, the number of the dense layer: Z[l] is
    its output, A[l - 1] its input, so A[0] is X; dA[l - 1] and dZ[l] are the gradients with respect to these.
    `trace["dW_2"]` is the same as `trace.dW[2]`. The last activation is in `output`; its gradient is fused into dZ[L].

    Attributes:
        value: the loss.
        output: A_L, the prediction.
        d_params: the gradient, in the structure of the parameters.
        readings: the layers' traces in the network's shape.
        net: the network.
    """

    value: Float[Array, ""]
    output: Activations
    d_params: Params
    readings: Any
    net: Layer

    @cached_property
    def layers(self) -> tuple[LayerTrace, ...]:
        """All layers in forward order, the copies of `Repeat` one by one, as numpy arrays."""
        found = unstack(self.net, jax.device_get(self.readings))
        return tuple(LayerTrace(layer, **reading) for layer, reading in found)

    @cached_property
    def _dense(self) -> dict[int, LayerTrace]:
        return dict(enumerate((each for each in self.layers if isinstance(each.layer, Dense)), start=1))

    @property
    def A(self) -> dict[int, np.ndarray]:
        """A[l], l = 0..L-1: the input of dense layer l + 1."""
        return {l - 1: each.A_in for l, each in self._dense.items()}

    @property
    def Z(self) -> dict[int, np.ndarray]:
        """Z[l], l = 1..L: A[l-1] W_l + b_l."""
        return {l: each.A_out for l, each in self._dense.items()}

    @property
    def dA(self) -> dict[int, np.ndarray]:
        """dA[l], l = 0..L-1."""
        return {l - 1: each.dA_in for l, each in self._dense.items()}

    @property
    def dZ(self) -> dict[int, np.ndarray]:
        """dZ[l], l = 1..L."""
        return {l: each.dA_out for l, each in self._dense.items()}

    @property
    def W(self) -> dict[int, np.ndarray]:
        """W[l], l = 1..L."""
        return {l: each.params["W"] for l, each in self._dense.items()}

    @property
    def b(self) -> dict[int, np.ndarray]:
        """b[l], l = 1..L."""
        return {l: each.params["b"] for l, each in self._dense.items()}

    @property
    def dW(self) -> dict[int, np.ndarray]:
        """dW[l], l = 1..L: A[l-1]^T dZ[l]."""
        return {l: each.d_params["W"] for l, each in self._dense.items()}

    @property
    def db(self) -> dict[int, np.ndarray]:
        """db[l], l = 1..L: the sum of dZ[l] over examples."""
        return {l: each.d_params["b"] for l, each in self._dense.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """The quantity called, for example, "dZ_3".

        Raises:
            FbpError: there is none of that name.
        """
        symbol, _, index = name.partition("_")
        if symbol not in _SYMBOLS:
            raise unknown_name("quantity of a trace", name, [f"{s}_1" for s in _SYMBOLS])
        found = getattr(self, symbol)
        if not index.isdigit() or int(index) not in found:
            indices = f"the indices {min(found)} to {max(found)}" if found else "no entry: there is no dense layer"
            raise FbpError(f"{symbol} has {indices}; received {name!r}")
        return found[int(index)]


_SYMBOLS = ("A", "Z", "dA", "dZ", "W", "b", "dW", "db")


@dataclass(frozen=True)
class _Recorded(Layer):
    """A layer that keeps its input and its output beside its cache."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        A_out, cache = self.layer.forward(params, A, key)
        return A_out, (cache, A, A_out)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        return self.layer.backward(params, cache[0], dA_out)


def _everything(visit: Visit) -> dict[str, Any]:
    _, A_in, A_out = visit.cache
    return {
        "A_in": A_in,
        "A_out": A_out,
        "dA_in": visit.dA_in,
        "dA_out": visit.dA_out,
        "params": visit.params,
        "d_params": visit.d_params,
    }


def trace(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Num[Array, "..."],
    weights: Float[Array, " m"] | None = None,
    key: Key | None = None,
) -> Trace:
    """One backward pass with every intermediate quantity kept.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets.
        weights: one per example.
        key: randomness for dropout.

    Returns:
        A `Trace`, itself a pytree: it may be returned from jit and vmap.
    """
    return _trace(net, loss, params, X, Y, weights, key)


@jax.jit(static_argnums=(0, 1))
def _trace(net: Layer, loss: Loss, params: Params, X: Array, Y: Array, weights: Array | None, key: Key | None) -> Trace:
    recorded = instrument(net, _Recorded)
    check_batch(X, Y)
    Z, cache = recorded.forward(params, X, key)
    value, dZ = loss.value_and_dZ(Z, Y, weights)
    d_params, _, readings = recorded.sweep(params, cache, Cotangent(dZ), _everything)
    return Trace(value, loss.output(Z), d_params, readings, net)
