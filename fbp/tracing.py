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
from fbp.losses import Loss
from fbp.tree import instrument, list_weights, name_layers, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Visit, Weights, Wrapper


class LayerTrace(NamedTuple):
    """What one layer received and returned, forward and backward.

    Attributes:
        name: its path in the network, "blocks[3].q".
        layer: the layer.
        A_in, A_out: its input and output, (m, ...).
        dA_in, dA_out: the gradient of the loss with respect to them.
        params, d_params: its parameters and their gradient.
        weights: the names of the parameters whose gradients are products of activations (`Layer.linear`).
    """

    name: str
    layer: Layer
    A_in: np.ndarray
    A_out: np.ndarray
    dA_in: np.ndarray
    dA_out: np.ndarray
    params: Any
    d_params: Any
    weights: tuple[str, ...]

    @property
    def weight(self) -> str:
        """The name of its weight matrix."""
        return self.weights[0]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "output", "d_params", "readings"],
    meta_fields=["net"],
)
@dataclass(frozen=True)
class Trace:
    """Every quantity of one forward and backward pass.

    `A`, `Z`, `dA`, `dZ`, `W`, `b`, `dW` and `db` are dictionaries keyed by l, the number of the layer among those with
    a weight matrix (dense layers, embeddings): Z[l] is its output, A[l - 1] its input, so that in a sequence A[0] is X;
    dA[l - 1] and dZ[l] are the gradients with respect to them. `trace["dW_2"]` is the same as `trace.dW[2]`, and
    `trace["blocks[3].q"]` all that the layer of that name received and returned. The last activation is in `output`;
    its gradient is fused into dZ[L].

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
        readings = zip(name_layers(self.net), unstack(self.net, jax.device_get(self.readings)), strict=True)
        return tuple(
            LayerTrace(name, layer, **reading | {"weights": tuple(reading["weights"])})
            for name, (layer, reading) in readings
        )

    @cached_property
    def _dense(self) -> dict[int, LayerTrace]:
        return dict(enumerate((each for each in self.layers if each.weights), start=1))

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
        return {l: each.params[each.weight] for l, each in self._dense.items()}

    @property
    def b(self) -> dict[int, np.ndarray]:
        """b[l], l = 1..L, for layers with a bias."""
        return {l: each.params["b"] for l, each in self._dense.items() if "b" in each.params}

    @property
    def dW(self) -> dict[int, np.ndarray]:
        """dW[l], l = 1..L: A[l-1]^T dZ[l]."""
        return {l: each.d_params[each.weight] for l, each in self._dense.items()}

    @property
    def db(self) -> dict[int, np.ndarray]:
        """db[l], l = 1..L: the sum of dZ[l] over examples, for layers with a bias."""
        return {l: each.d_params["b"] for l, each in self._dense.items() if "b" in each.params}

    def __getitem__(self, name: str) -> Any:
        """The quantity with a name such as "dZ_3", or the layer with a name such as "blocks[3].q".

        Raises:
            FbpError: there is no such quantity or layer.
        """
        named = {each.name: each for each in self.layers}
        if name in named:
            return named[name]
        symbol, _, index = name.partition("_")
        if symbol not in _SYMBOLS:
            raise unknown_name("quantity of a trace", name, [*(f"{s}_1" for s in _SYMBOLS), *filter(None, named)])
        arrays = getattr(self, symbol)
        if not index.isdigit() or int(index) not in arrays:
            indices = f"in {min(arrays)}..{max(arrays)}" if arrays else "of a dense layer, and this network has none"
            raise FbpError(f"the index of {symbol} must be {indices}, got {name!r}; write for example dW_1")
        return arrays[int(index)]


_SYMBOLS = ("A", "Z", "dA", "dZ", "W", "b", "dW", "db")


@dataclass(frozen=True)
class _Recorded(Wrapper):
    """A layer with its input and its output beside its cache."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        A_out, cache = self.layer.forward(params, A, key)
        return A_out, (cache, A, A_out)


def _read_everything(visit: Visit) -> dict[str, Any]:
    _, A_in, A_out = visit.cache
    gradients = {name: getattr(visit, name) for name in ("dA_in", "dA_out", "params", "d_params")}
    # The names are part of the structure, which needs no array.
    weights = dict.fromkeys(list_weights(visit.layer, visit.params, visit.cache, visit.dA_out), ())
    return {"A_in": A_in, "A_out": A_out, "weights": weights, **gradients}


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
