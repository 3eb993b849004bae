"""Gradient norms by layer over many random networks, as one compiled program."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.backprop import GradientNorms, check_batch, sweep_norms
from fbp.errors import FbpError
from fbp.initializers import zeros
from fbp.layers import Dense
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params
from fbp.walk import map_layers, rebuild


@dataclass(frozen=True, eq=False)
class Flow:
    """Gradient norms of random networks of one architecture.

    Attributes:
        log10: log10 norms, `GradientNorms` of numpy arrays (scales, seeds, L) for the dense layers 1..L.
        scales: the factors on the weights, (scales,).
    """

    log10: GradientNorms
    scales: np.ndarray

    def quantiles(self, quantity: str = "dZ", scale: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The 10 %, 50 % and 90 % quantiles over seeds of log10 norms, each (L,).

        Args:
            quantity: "dZ", "dA", "dW" or "db".
            scale: which of `scales`.
        """
        norms = getattr(self.log10, quantity)[scale]
        # No interpolation: between minus infinity, a norm of zero, and a number there is nothing.
        low, median, high = np.quantile(norms, [0.1, 0.5, 0.9], axis=0, method="inverted_cdf")
        return low, median, high

    def records(self, **labels: Any) -> Iterable[dict[str, Any]]:
        """Tidy rows: one for each scale, seed and layer, with the given labels in front."""
        scales, seeds, layers = self.log10.dZ.shape
        for s, seed, l in np.ndindex(scales, seeds, layers):
            norms = {f"log10_norm_{name}": float(x[s, seed, l]) for name, x in self.log10._asdict().items()}
            yield {**labels, "scale": float(self.scales[s]), "seed": seed, "layer": l + 1, **norms}


def measure(
    net: Layer,
    inputs: Float[Array, "m *shape"],
    targets: Num[Array, "..."] | None = None,
    loss: Loss | None = None,
    seeds: int = 20,
    scales: Iterable[float] = (1.0,),
    seed: int = 0,
) -> Flow:
    """Gradient norms by layer, for `seeds` draws of the parameters and each factor on the weights.

    Networks of equal shape that differ in their initializers share one compiled program; seeds and scales are axes of
    it. The norms are exact where gradients leave the range of float32.

    Args:
        net: a network.
        inputs: one batch, (m, *shape).
        targets: what the loss takes.
        loss: a loss of the last pre-activation; without one the cotangent of the output is standard normal.
        seeds: the number of draws.
        scales: factors on every W.
        seed: the first of the draws.

    Raises:
        FbpError: a number is out of range, or a loss comes without targets.
    """
    if seeds < 1:
        raise FbpError(f"seeds is a number of networks, at least 1; received {seeds}")
    scales = np.asarray(tuple(scales), np.float32)
    if scales.size == 0 or not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FbpError(f"scales are finite factors of at least 0, and at least one; received {scales.tolist()}")
    if loss is not None:
        if targets is None:
            raise FbpError("a loss takes targets; received a loss and no targets; give both or neither")
        check_batch(inputs, targets)
    keys = jax.random.split(jax.random.key(seed), seeds)
    # Not compiled as one program: draws of equal shape are then compiled once for all networks of a study.
    params = jax.vmap(lambda key: net.init(key, inputs.shape[1:])[0])(keys)
    # The initializer has done its work; without it, networks of one shape share the compiled program below.
    shape_only = rebuild(net, lambda layer: replace(layer, initializer=zeros) if isinstance(layer, Dense) else layer)
    log10 = _norms(shape_only, loss, params, keys, jnp.asarray(scales), inputs, targets)
    return Flow(jax.tree.map(np.asarray, log10), scales)


@jax.jit(static_argnums=(0, 1))
def _norms(
    net: Layer, loss: Loss | None, params: Params, keys: Key, scales: Array, X: Activations, Y: Array | None
) -> GradientNorms:
    def one(scale: Array, params: Params, key: Key) -> GradientNorms:
        scaled = map_layers(lambda layer, p: p | {"W": scale * p["W"]} if isinstance(layer, Dense) else p, net, params)
        Z, cache = net.forward(scaled, X)
        if loss is None or Y is None:
            dZ = jax.random.normal(key, Z.shape, Z.dtype)
        else:
            dZ = loss.value_and_dZ(Z, Y)[1]
        return sweep_norms(net, scaled, cache, dZ)

    # Scales one after the other: a batch of them would multiply the memory, not the speed.
    return jax.lax.map(lambda scale: jax.vmap(lambda p, key: one(scale, p, key))(params, keys), scales)
