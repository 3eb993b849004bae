"""One backward pass with everything in it: the A, Z, dA, dZ, dW and db of every layer, by name."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from fbp.backprop import check_params, forward_to_loss
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, unknown_name
from fbp.layers import Dense
from fbp.losses import Loss
from fbp.tree import instrument, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Visit, Weights


class LayerTrace(NamedTuple):
    """What one layer received and returned, forward and backward.

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
    its output, A[l - 1] its input, so A[0] is X; dA[l - 1] and dZ[l] are the gradients with respect to them.
    `trace["dW_2"]` is the same as `trace.dW[2]`. The last activation is in `output`; its gradient is fused into dZ[L].

    Attributes:
        value: the loss.
        output: A_L, the prediction.
        d_params: the gradient, in the structure of the parameters.
        readings: the layers' traces in the network's structure.
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
        readings = unstack(self.net, jax.device_get(self.readings))
        return tuple(LayerTrace(layer, **reading) for layer, reading in readings)

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
        """The quantity with a name such as "dZ_3".

        Raises:
            FbpError: there is no such quantity.
        """
        symbol, _, index = name.partition("_")
        if symbol not in _SYMBOLS:
            raise unknown_name("quantity of a trace", name, [f"{s}_1" for s in _SYMBOLS])
        arrays = getattr(self, symbol)
        if not index.isdigit() or int(index) not in arrays:
            indices = f"in {min(arrays)}..{max(arrays)}" if arrays else "of a dense layer, and this network has none"
            raise FbpError(f"the index of {symbol} must be {indices}, got {name!r}; write for example dW_1")
        return arrays[int(index)]


_SYMBOLS = ("A", "Z", "dA", "dZ", "W", "b", "dW", "db")


@dataclass(frozen=True)
class _Recorded(Layer):
    """A layer with its input and its output beside its cache."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        A_out, cache = self.layer.forward(params, A, key)
        return A_out, (cache, A, A_out)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        return self.layer.backward(params, cache[0], dA_out)


def _read_everything(visit: Visit) -> dict[str, Any]:
    _, A_in, A_out = visit.cache
    gradients = {name: getattr(visit, name) for name in ("dA_in", "dA_out", "params", "d_params")}
    return {"A_in": A_in, "A_out": A_out, **gradients}


def trace(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
) -> Trace:
    """One forward and backward pass with every intermediate quantity kept.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
        key: randomness for dropout.

    Returns:
        A `Trace`, which is a pytree: it may be returned from jit and vmap.

    Raises:
        FbpError: X, Y or params do not fit.

    Example:
        >>> net = fbp.mlp((4, 8, 3), "tanh")
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jnp.ones((2, 4)), jnp.array([0, 2])
        >>> trace = fbp.trace(net, fbp.SoftmaxCrossEntropy(), params, X, Y)
        >>> bool(jnp.allclose(trace.dW[2], trace.A[1].T @ trace.dZ[2], atol=1e-6))
        True
    """
    return _trace(net, loss, (params, X, Y, weights, key))


@jax.jit(static_argnums=(0, 1))
def _trace(net: Layer, loss: Loss, args: tuple[Any, ...]) -> Trace:
    params, X, *_ = args
    check_params(net, params, X)
    recorded = instrument(net, _Recorded)
    Z, cache, value, dZ = forward_to_loss(recorded, loss, *args)
    d_params, _, readings = recorded.sweep(params, cache, Cotangent(dZ), _read_everything)
    return Trace(value, loss.output(Z), d_params, readings, net)
