"""Check the arguments of `fit` and `evaluate` before anything is compiled, and put the data on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from fbp.backprop import check_batch, check_params, loss_value
from fbp.data import validate
from fbp.data.arrays import check_labels
from fbp.losses import Loss
from fbp.training.step import are_labels
from fbp.typing import Activations, Layer, Params, Targets


def prepare_data(net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike) -> tuple[Activations, Targets]:
    """Check the data and put them on the device: X in the dtype of the parameters, integer labels as int32.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: (m, n_0), any float dtype.
        Y: targets, as the loss takes them, one row per example.

    Returns:
        X and Y as JAX arrays.

    Raises:
        FbpError: X is not floating point, a value is not finite, a label is not one of the network's classes, or a
            shape does not fit the network or the loss.
    """
    validate(X, Y)
    X_device, Y_device = jnp.asarray(X), jnp.asarray(Y)
    check_batch(net, X_device, Y_device)
    if jnp.issubdtype(X_device.dtype, jnp.floating):
        X_device = X_device.astype(_dtype(params, X_device))
    check_params(net, params, X_device)
    Z = jax.eval_shape(lambda params, X: net.forward(params, X)[0], params, X_device)
    if are_labels(Y_device) and len(Z.shape) == 2:
        check_labels(np.asarray(Y), Z.shape[-1], "Y")
        Y_device = Y_device.astype(jnp.int32)
    jax.eval_shape(lambda params, X, Y: loss_value(net, loss, params, X, Y), params, X_device, Y_device)
    return X_device, Y_device


def _dtype(params: Params, X: Array) -> Any:
    dtypes = [x.dtype for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.result_type(*dtypes) if dtypes else X.dtype
