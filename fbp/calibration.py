"""Parameters that come from data: LSUV initialization, and population statistics for batch normalization."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fbp.combinators import Combinator
from fbp.errors import FbpError
from fbp.layers import Affine, BatchNorm
from fbp.layers.axes import example_axes
from fbp.precision import widen
from fbp.tree import list_layers, list_weights, map_params, observe_layers, rebuild
from fbp.typing import Activations, Cache, Key, Layer, Params, Wrapper


def _scale_to_unit_variance(layer: Layer, params: Params, A: Activations) -> tuple[Activations, Params]:
    out, cache = layer.forward(params, A)
    weights = () if isinstance(layer, _Borrower) else list_weights(layer, params, cache, out)
    if len(weights) != 1:
        return out, params
    W = params[weights[0]]
    params = params | ({"b": jnp.zeros_like(params["b"])} if "b" in params else {})
    stddev = jnp.std(widen(layer.forward(params, A)[0])).astype(W.dtype)
    scaled = params | {weights[0]: W / jnp.where(stddev > 0, stddev, jnp.ones_like(stddev))}
    return layer.forward(scaled, A)[0], scaled


class _Borrower(Wrapper):
    """A layer that uses the parameters of another, which scales them."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        out, cache = self.layer.forward(params, A, key)
        return out, (cache, None)


def _mark_borrowers(net: Layer) -> Layer:
    if not isinstance(net, Combinator):
        return net
    owners = net.owner_of_child
    return net.with_children(
        [
            _mark_borrowers(child) if owners[i] == i else rebuild(child, _Borrower)
            for i, child in enumerate(net.children)
        ]
    )


def _batch_statistics(layer: Layer, params: Params, A: Activations) -> tuple[Activations, Any]:
    out, _ = layer.forward(params, A)
    if not isinstance(layer, BatchNorm):
        return out, None
    examples, wide = example_axes(A), widen(A)
    return out, {"mean": jnp.mean(wide, examples), "var": jnp.var(wide, examples, ddof=1)}


def lsuv(net: Layer, params: Params, X: Activations) -> Params:
    """Layer-sequential unit-variance parameters: W_l / std(A_{l-1} W_l), b_l = 0, from the first layer to the last.

    Mishkin & Matas (2016), who start from orthonormal weights (`init="orthogonal"`). Layers are those with one weight
    matrix: dense layers, embeddings, unembeddings. Where two lines share parameters, the owner's output decides.

    Args:
        net: a network.
        params: its parameters.
        X: a batch of inputs, (m, n_0).

    Returns:
        Parameters with which the output of every such layer has variance 1 over this batch. A layer whose output is
        constant is left as it is.

    Example:
        >>> net = fbp.mlp((4, 8, 8, 3), "tanh", "orthogonal")
        >>> params, _ = net.init(jax.random.key(0))
        >>> X = jax.random.normal(jax.random.key(1), (32, 4))
        >>> Z, _ = net.forward(fbp.lsuv(net, params, X), X)
        >>> round(float(Z.var()), 3)
        1.0
    """
    marked = _mark_borrowers(net)
    scale = jax.jit(partial(observe_layers, marked, _scale_to_unit_variance))
    # What a borrower hands on has the owner's new scale only in the next pass.
    for _ in range(1 + sum(isinstance(layer, _Borrower) for layer in list_layers(marked))):
        params = map_params(lambda layer, own: own, net, scale(params, X))
    return params


def freeze_statistics(net: Layer) -> Layer:
    """The network for inference: each `BatchNorm` becomes the `Affine` map that its population statistics fill.

    Args:
        net: a network.
    """
    return rebuild(net, lambda layer: Affine() if isinstance(layer, BatchNorm) else layer)


def with_population_statistics(
    net: Layer, params: Params, X: Activations, *, batch_size: int = 256
) -> tuple[Layer, Params]:
    """The network for inference: each batch normalization becomes a fixed affine map.

        y = gamma / sqrt(Var + eps) * x + (beta - gamma E / sqrt(Var + eps))

    with E and Var the averages, over the batches of X, of the batch mean and the unbiased batch variance.
    Ioffe & Szegedy (2015), Algorithm 2.

    Args:
        net: a network.
        params: its parameters.
        X: training inputs, (m, n_0); examples beyond the last full batch are left out.
        batch_size: examples per batch, as in training.

    Returns:
        (net, params) with every `BatchNorm` replaced by `Affine`; unchanged if there is none.

    Raises:
        FbpError: a batch has fewer than two examples.

    Example:
        >>> net = fbp.mlp((4, 8, 3), norm="batch")
        >>> params, _ = net.init(jax.random.key(0))
        >>> X = jax.random.normal(jax.random.key(1), (64, 4))
        >>> inference_net, inference_params = fbp.with_population_statistics(net, params, X, batch_size=16)
        >>> inference_net.layers[1]
        Affine()
    """
    frozen = freeze_statistics(net)
    if frozen == net:
        return net, params
    m = jax.tree.leaves(X)[0].shape[0]
    batch_size = min(batch_size, m)
    if batch_size < 2:
        raise FbpError(
            f"batches must have at least two examples for a variance, got {m} examples in batches of {batch_size}; "
            "give more of them"
        )
    count = m // batch_size
    batches = jax.tree.map(lambda x: x[: count * batch_size].reshape(count, batch_size, *x.shape[1:]), X)
    statistics = _population_statistics(net, params, batches)

    def fold(layer: Layer, layer_params: Params, statistics: Any) -> Params:
        if not isinstance(layer, BatchNorm):
            return layer_params
        gamma, beta = layer_params["gamma"], layer_params["beta"]
        mean, var = statistics["mean"], statistics["var"]
        scale = gamma.astype(var.dtype) * jax.lax.rsqrt(var + layer.eps)
        shift = beta.astype(scale.dtype) - scale * mean
        return {"scale": scale.astype(gamma.dtype), "shift": shift.astype(gamma.dtype)}

    return frozen, map_params(fold, net, params, statistics)


@jax.jit(static_argnums=0)
def _population_statistics(net: Layer, params: Params, batches: Activations) -> Any:
    statistics = jax.lax.map(partial(observe_layers, net, _batch_statistics, params), batches)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), statistics)
