"""The gradient of each example's own loss: its norm, and the mean of all of them clipped, without ever forming one.

A parameter's gradient is a sum over examples of the pairs that its layer declares (`Layer.linear`). For a dense layer
||A_i^T dZ_i||**2 = ||A_i||**2 ||dZ_i||**2 when an example is one row; Goodfellow (2015). Where a parameter is used
twice, ||g + h||**2 = <g, g> + 2 <g, h> + <h, h>. Clipping is a second sum of the same pairs with other coefficients,
for which the cotangents are kept; Bu, Mao & Xu (2023).
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.backprop import BatchFunction, check_arguments
from fbp.combinators import Combinator
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.losses import Loss
from fbp.pairs import Outer, Pairs
from fbp.paths import Path
from fbp.tree import instrument, list_shared
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Visit, Weights


def per_example_norms(net: Layer, loss: Loss) -> BatchFunction[Float[Array, " m"]]:
    """The Euclidean norm of the gradient of each example's own loss, by one backward pass.

    An example's own loss is that of a batch of it alone: neither its weight nor 1/m is in it. Where the items of the
    loss are positions, it is their mean (or sum, as the loss says) in this example; weights (m, T) say which count.

    Args:
        net: a network that does not mix examples; layers may share parameters.
        loss: a loss of its output.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> norms (m,).

    Raises:
        FbpError: a layer mixes examples, or does not declare the pairs of its parameters.

    Example:
        >>> net, loss = fbp.mlp((4, 8, 3), "tanh"), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jnp.linspace(-1.0, 1.0, 20).reshape(5, 4), jnp.array([0, 2, 1, 1, 0])
        >>> norms = fbp.per_example_norms(net, loss)(params, X, Y)
        >>> alone = fbp.value_and_grad(net, loss)(params, X[:1], Y[:1])[1]
        >>> squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(alone))
        >>> bool(jnp.isclose(norms[0], squares**0.5, rtol=1e-5))
        True
    """
    shared = list_shared(net)

    def read(visit: Visit) -> _Reading:
        return _square_pairs(shared, visit.path, _pairs(visit))

    def compute(
        params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
    ) -> Float[Array, " m"]:
        check_arguments(net, params, X, Y)
        Z, cache = net.forward(params, X, key)
        dZ = loss.combine(Z, Y, _own_coefficients(loss, Z, Y, weights))[1]
        _, _, readings = net.sweep(params, cache, Cotangent(dZ), read)
        return jnp.sqrt(_square(net, [readings], jnp.zeros(Y.shape[0], dZ.dtype)))

    return compute


def clipped_grad(net: Layer, loss: Loss, max_norm: float) -> BatchFunction[Params]:
    """The gradient with each example's own gradient clipped to a norm of at most `max_norm` first.

        sum_i c_i g_i min(1, max_norm / ||g_i||)

    with the g_i of `per_example_norms`, and the coefficients of the examples from the loss: 1/m for the mean,
    w_i / sum w with weights (m,), 1 or w_i for the sum. It is what differentially private training adds noise to;
    Abadi et al. (2016).

    Args:
        net: a network that does not mix examples; layers may share parameters.
        loss: a loss of its output.
        max_norm: the largest norm, positive.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> d_params.

    Raises:
        FbpError: max_norm is not positive, a layer mixes examples, or does not declare the pairs of its parameters.

    Example:
        >>> net, loss = fbp.mlp((4, 8, 3), "tanh"), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jnp.linspace(-1.0, 1.0, 20).reshape(5, 4), jnp.array([0, 2, 1, 1, 0])
        >>> clipped = fbp.clipped_grad(net, loss, 1e9)(params, X, Y)  # as good as not at all
        >>> gradient = fbp.value_and_grad(net, loss)(params, X, Y)[1]
        >>> bool(jnp.allclose(clipped[0]["W"], gradient[0]["W"], atol=1e-6))
        True
    """
    if not max_norm > 0:
        raise FbpError(f"max_norm must be positive, got {max_norm}; 1.0 is usual")
    # The sums are taken from the caches, which must then have the network's structure.
    net = instrument(net, lambda layer: layer)
    shared = list_shared(net)

    def read(visit: Visit) -> _Reading:
        pairs = _pairs(visit)
        reading = _square_pairs(shared, visit.path, pairs)
        if any(isinstance(pair, Outer) for pair in pairs.values()):
            return reading._replace(dA_out=visit.dA_out)
        return reading._replace(each=pairs)

    def compute(params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None) -> Params:
        check_arguments(net, params, X, Y)
        Z, cache = net.forward(params, X, key)
        own = _own_coefficients(loss, Z, Y, weights)
        dZ = loss.combine(Z, Y, own)[1]
        _, _, readings = net.sweep(params, cache, Cotangent(dZ), read)
        norms = jnp.sqrt(_square(net, [readings], jnp.zeros(Y.shape[0], dZ.dtype)))
        c = loss.coefficients(norms, _weights_of_examples(loss, weights))
        c = c * jnp.minimum(1, max_norm / jnp.where(norms == 0, jnp.ones_like(norms), norms))
        return _sum(net, params, cache, readings, c)

    return compute


def _own_coefficients(loss: Loss, Z: Activations, Y: Targets, weights: Weights) -> Float[Array, "m ..."]:
    """The coefficients of the items in the loss of each example alone."""
    losses = jax.eval_shape(loss.per_example, Z, Y)
    one = jax.ShapeDtypeStruct(losses.shape[1:], losses.dtype)
    if weights is None or weights.ndim < max(2, len(losses.shape)):
        return jnp.broadcast_to(loss.coefficients(one, None), losses.shape)
    return jax.vmap(lambda own: loss.coefficients(one, own))(weights)


def _weights_of_examples(loss: Loss, weights: Weights) -> Weights:
    """(m,): those given; of items their sums, so that each counts as in the mean over all, or none for a sum."""
    if weights is None or weights.ndim == 1:
        return weights
    return jnp.sum(weights, axis=tuple(range(1, weights.ndim))) if loss.reduction == "mean" else None


class _Reading(NamedTuple):
    """What is kept of a layer with parameters.

    Attributes:
        squares: ||g_i||**2, if its parameters are used once.
        pairs: of parameters that are used more than once.
        dA_out: for the second sum, where the pairs hold what its cache holds, too.
        each: the pairs for the second sum, where they are small.
    """

    squares: Float[Array, " m"] | None = None
    pairs: Pairs | None = None
    dA_out: Activations = None
    each: Pairs | None = None


def _square_pairs(shared: Sequence[Path], path: Path, pairs: Pairs) -> _Reading:
    if not pairs:
        return _Reading()
    if any(path[: len(prefix)] == prefix for prefix in shared):
        return _Reading(pairs=pairs)
    return _Reading(squares=reduce(jnp.add, (pair.squared_norms() for pair in pairs.values())))


def _pairs(visit: Visit) -> Pairs:
    layer, params = visit.layer, visit.params
    if layer.mixes_examples:
        raise FbpError(
            f"layers must not mix examples, or none has a gradient of its own, got {type(layer).__name__}; "
            "use LayerNorm or RMSNorm in place of BatchNorm"
        )
    if not jax.tree.leaves(params):
        return {}
    pairs = layer.linear(params, visit.cache, visit.dA_out)
    missing = set(params if isinstance(params, dict) else ["its parameters"]) - set(pairs)
    if missing:
        raise FbpError(
            f"layers must declare the pair of each parameter, got none for {', '.join(sorted(missing))} of "
            f"{type(layer).__name__}; write its method `linear`"
        )
    return pairs


def _square(net: Layer, uses: Sequence[Any], nothing: Array) -> Float[Array, " m"]:
    """||g_i||**2 of the parameters of a network, from the readings of each of its uses."""
    if not isinstance(net, Combinator):
        if uses[0].pairs is None:
            return nothing if uses[0].squares is None else uses[0].squares
        pairs = [use.pairs for use in uses]
        return sum((a[name].inner(b[name]) for name in pairs[0] for a in pairs for b in pairs), nothing)

    def add_children(uses: Sequence[Any]) -> Float[Array, " m"]:
        split, owners = [net.split(use) for use in uses], net.owner_of_child
        total = nothing
        for i, child in enumerate(net.children):
            if owners[i] == i:
                own = [use[j] for j, owner in owners.items() if owner == i for use in split]
                total = total + _square(child, own, nothing)
        return total

    if net.copies is None:
        return add_children(uses)
    return jnp.sum(jax.lax.map(add_children, list(uses)), axis=0)


def _sum(net: Layer, params: Params, cache: Cache, readings: Any, c: Float[Array, " m"]) -> Params:
    """The gradient: the pairs of each layer, summed with the coefficients of the examples."""
    if not isinstance(net, Combinator):
        pairs = readings.each if readings.dA_out is None else net.linear(params, cache, readings.dA_out)
        return {name: pair.sum(c).astype(params[name].dtype) for name, pair in pairs.items()} if pairs else params

    def add_children(parts: tuple[Params, tuple[Cache, ...], Any]) -> Params:
        params, caches, readings = parts
        children = zip(net.children, net.split(params), caches, net.split(readings), strict=True)
        return net.add_uses(net.join([_sum(*child, c) for child in children]))

    parts = params, net.split_cache(params, cache), readings
    # One copy after the other: a product of stacked matrices is slower than as many products.
    return add_children(parts) if net.copies is None else jax.lax.map(add_children, parts)
