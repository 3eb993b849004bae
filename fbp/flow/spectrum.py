"""The singular values of the input-output Jacobian, by as many backward passes as there are outputs, at any depth."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.layers import Dense
from fbp.tree import map_layers
from fbp.typing import Activations, Layer, Params

MOST = 4096


def log10_singular_values(
    net: Layer, params: Params, scales: np.ndarray, x: Activations
) -> Float[np.ndarray, "scales seeds k"]:
    """log10 of the singular values of J = dZ_L / dA_0 at one example, falling.

    The backward pass of the n_L unit vectors at once, with one power of two beside them, is J; no autodiff is asked.
    Values below 1e-7 of the largest are rounding. Saxe et al. (2013); Pennington, Schoenholz & Ganguli (2017).

    Args:
        net: a network whose examples do not see one another.
        params: its parameters, with an axis of seeds in front.
        scales: factors on every W.
        x: the example, (1, *shape).

    Returns:
        (scales, seeds, min(n_0, n_L)); minus infinity for zero.

    Raises:
        FbpError: examples see one another, or the Jacobian is too large.
    """
    if net.mixes_examples:
        raise FbpError(
            "a Jacobian of one example needs examples that do not see one another; received a network with batch "
            "normalization; take with_population_statistics(net, ...) first, or spectrum=False"
        )
    one = jax.tree.map(lambda p: p[0], params)
    outputs = math.prod(jax.eval_shape(lambda: net.forward(one, x)[0]).shape)
    if max(outputs, x.size) > MOST:
        raise FbpError(
            f"a Jacobian has at most {MOST} rows and columns here; received {outputs} x {x.size}; take a narrower net"
        )
    J, exponent = jax.tree.map(np.asarray, _jacobians(net, params, jnp.asarray(scales), x, outputs))
    with np.errstate(divide="ignore"):
        values = np.log10(np.linalg.svd(J.astype(np.float64), compute_uv=False))
    return values + exponent[..., None] * math.log10(2)


@jax.jit(static_argnums=(0, 4))
def _jacobians(net: Layer, params: Params, scales: Array, x: Activations, outputs: int) -> tuple[Array, Array]:
    X = jnp.broadcast_to(x, (outputs, *x.shape[1:]))

    def one(scale: Array, params: Params) -> tuple[Array, Array]:
        by = lambda layer, p: p | {"W": scale * p["W"]} if isinstance(layer, Dense) else p
        params = map_layers(by, net, params)
        Z, cache = net.forward(params, X)
        unit = jnp.eye(outputs, dtype=Z.dtype).reshape(Z.shape)
        _, dX, _ = net.sweep(params, cache, Cotangent(unit, jnp.int32(0)).normalize())
        assert dX.exponent is not None
        return dX.value.reshape(outputs, -1), dX.exponent

    return jax.lax.map(lambda scale: jax.lax.map(lambda p: one(scale, p), params), scales)
