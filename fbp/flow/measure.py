"""Curves over the layers of many random networks, as one compiled program."""

from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.backprop import GradientNorms, check_batch
from fbp.combinators import Serial
from fbp.errors import FbpError, check_count
from fbp.flow.curves import Flow
from fbp.flow.prediction import plain
from fbp.flow.spectrum import log10_singular_values
from fbp.flow.watched import Seen, see, watched
from fbp.initializers import initializer, zeros
from fbp.layers import Activation, Dense
from fbp.losses import Loss
from fbp.tree import list_layers, map_layers, rebuild, roll_blocks
from fbp.typing import Activations, Key, Layer, Params

EXAMPLES = 16


def measure(
    net: Layer,
    loss: Loss | None = None,
    X: Float[Array, "m *shape"] | None = None,
    Y: Num[Array, "..."] | None = None,
    *,
    seeds: int = 20,
    scales: Iterable[float] = (1.0,),
    seed: int = 0,
    spectrum: bool = False,
) -> Flow:
    """Curves over the dense layers of a network, for `seeds` draws of its parameters and each factor on the weights.

    Norms of dZ, dA, dW and db, mean square and correlation of the pre-activations, dead and saturated units, the
    cosine and the noise of the examples' gradients. Networks of equal shape that differ in their initializers share
    one compiled program; seeds and scales are axes of it. Norms are exact in their logarithm where gradients leave the
    range of float32. The forward pass is the network's own, save that a positively homogeneous one without biases
    (relu, leaky relu, linear) is run without its powers of two, so that no depth under- or overflows; elsewhere an
    activation that underflows to zero has the logarithm minus infinity.

    Args:
        net: a network of ours.
        loss: a loss of the last pre-activation; without one the cotangent of the output is standard normal.
        X: one batch, (m, *shape); None takes 16 examples of mean square 1, where the network knows its shape.
        Y: targets, as the loss takes them.
        seeds: the number of draws.
        scales: factors on every W.
        seed: the first of the draws.
        spectrum: whether the singular values of the input-output Jacobian are wanted, at the first example.

    Returns:
        A `Flow`.

    Raises:
        FbpError: a number is out of range, or a loss comes without targets.
    """
    check_count("seeds", seeds)
    scales = np.asarray(tuple(scales), np.float32)
    if scales.size == 0 or not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FbpError(f"scales are finite factors of at least 0, and at least one; received {scales.tolist()}")
    if X is None:
        X = standard_inputs(net, seed)
    if loss is not None:
        if Y is None:
            raise FbpError("a loss takes targets; received a loss and no targets; give both or neither")
        check_batch(X, Y)
    elif X.ndim < 2 or X.shape[0] == 0:
        raise FbpError(f"inputs are a batch, (m, *shape), of at least one example; received the shape {X.shape}")
    keys = jax.random.split(jax.random.key(seed), seeds)
    # Not compiled as one program: draws of equal shape are then compiled once for all networks of a study.
    params = jax.vmap(lambda key: net.init(key, X.shape[1:])[0])(keys)
    # The initializer has done its work; without it, networks of one shape share the compiled program below.
    biased = any(isinstance(x, Dense) and initializer(x.initializer).bias_stddev > 0 for x in list_layers(net))
    rule = replace(zeros, bias_stddev=1.0) if biased else zeros
    shape_only = rebuild(net, lambda layer: replace(layer, initializer=rule) if isinstance(layer, Dense) else layer)
    shape_only, params = roll_blocks(shape_only, params, X, axis=1)
    seen = _seen(shape_only, loss, params, keys, jnp.asarray(scales), X, Y)
    singular = log10_singular_values(shape_only, params, scales, X[:1]) if spectrum else None
    return _flow(net, seen, scales, singular)


def standard_inputs(net: Layer, seed: int) -> Float[Array, "m n_0"]:
    """16 examples in random directions, each of mean square 1.

    Args:
        net: a network that knows the shape of its input, as those of `fbp.mlp` do.
        seed: of the directions.

    Raises:
        FbpError: it does not.
    """
    if not isinstance(net, Serial) or net.shape is None:
        raise FbpError("this network does not say the shape of its input; give a batch, X=X with X (m, *shape)")
    draws = np.random.default_rng(seed).standard_normal((EXAMPLES, int(np.prod(net.shape))))
    draws /= np.sqrt(np.mean(draws**2, axis=1, keepdims=True))
    return jnp.asarray(draws.reshape(EXAMPLES, *net.shape), jnp.float32)


@jax.jit(static_argnums=(0, 1))
def _seen(
    net: Layer, loss: Loss | None, params: Params, keys: Key, scales: Array, X: Activations, Y: Array | None
) -> Seen:
    def one(scale: Array, params: Params, key: Key) -> Seen:
        scaled = scaled_weights(net, params, scale)
        if loss is None or Y is None:
            shape = jax.eval_shape(lambda: net.forward(scaled, X)[0])
            dZ = jax.random.normal(key, shape.shape, shape.dtype)
        else:
            dZ = loss.value_and_dZ(net.forward(scaled, X)[0], Y)[1]
        return see(watched(net), scaled, X, dZ)

    # Scales one after the other: a batch of them would multiply the memory, not the speed.
    return jax.lax.map(lambda scale: jax.vmap(lambda p, key: one(scale, p, key))(params, keys), scales)


def scaled_weights(net: Layer, params: Params, scale: Float[Array, ""]) -> Params:
    """The parameters with every W of a dense layer multiplied.

    Args:
        net: the network.
        params: its parameters.
        scale: the factor.
    """
    return map_layers(lambda layer, p: p | {"W": scale * p["W"]} if isinstance(layer, Dense) else p, net, params)


def _flow(net: Layer, seen: Seen, scales: np.ndarray, singular: np.ndarray | None) -> Flow:
    forward, backward, units = jax.tree.map(np.asarray, seen)
    nothing = np.full(backward.dZ.shape, np.nan, np.float32)
    saturated, dead = nothing, nothing.copy()
    if units is not None:
        # The first activation behind each dense layer, if one is there before the next.
        ours, number, l, saturated = [], -1, -1, nothing.copy()
        for layer in list_layers(net):
            l += isinstance(layer, Dense)
            if watched(layer) is not layer and isinstance(layer, Activation):
                number += 1
                if l >= 0 and (not ours or ours[-1][0] != l):
                    ours.append((l, number))
        if ours:
            dense, places = map(list, zip(*ours, strict=True))
            saturated[..., dense] = units.saturated[..., places]
            dead[..., dense] = units.dead[..., places]
    return Flow(
        GradientNorms(backward.dZ, backward.dA, backward.dW, backward.db),
        scales,
        np.asarray(forward.log10_mean_square),
        np.asarray(forward.correlation),
        saturated,
        dead,
        np.asarray(backward.cosine),
        np.asarray(backward.noise),
        singular,
        plain(net),
    )
