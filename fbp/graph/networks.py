"""The computation graph of a network of fbp: its layers are scopes, with the names that the textbooks use inside."""

from dataclasses import dataclass
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from fbp.backprop import check_arguments
from fbp.combinators import Combinator
from fbp.graph.graph import Graph
from fbp.graph.tracing import trace
from fbp.layers import Activation
from fbp.losses import Loss
from fbp.paths import Step, format_path
from fbp.tree import describe_layer, list_weights
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Weights


def network(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Weights = None,
    key: Key | None = None,
    *,
    fallback: bool = False,
) -> Graph:
    """The computation graph of a network and its loss, folded by layer.

    Each layer is a scope named as in `fbp.verify.network`, "[2] Dense(10)" or "q Dense(8)"; combinators are scopes
    around them. In a layer with a weight matrix the output is called Z, in an activation A: the gradient of
    "[2] Dense(10)/Z" is the delta of that layer.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
        key: randomness for dropout.
        fallback: as in `fbp.graph.trace`.

    Returns:
        The graph of (params, X, Y, weights) -> the loss; `Graph.backward` fills in the gradients.

    Raises:
        FbpError: X, Y or params do not fit.

    Example:
        >>> net, loss = fbp.mlp((2, 3, 1), "sigmoid"), fbp.HalfSquaredError()
        >>> params, _ = net.init(jax.random.key(0))
        >>> g = fbp.graph.network(net, loss, params, jnp.ones((1, 2)), jnp.ones((1, 1))).backward()
        >>> [g[name].gradient.shape for name in ("[0] Dense(3)/Z", "[1] Activation(sigmoid)/A", "[2] Dense(1)/Z")]
        [(1, 3), (1, 3), (1, 1)]
    """
    X, Y = jax.tree.map(jax.numpy.asarray, (X, Y))
    check_arguments(net, params, X, Y)
    scoped = _name_inside(net)

    def value(params: Params, X: Activations, Y: Targets, weights: Weights) -> Any:
        Z, _ = scoped.forward(params, X, key)
        with jax.named_scope("loss"):
            return loss.value(Z, Y, weights)

    value.__name__ = type(loss).__name__
    return trace(value, params, X, Y, weights, fallback=fallback)


@dataclass(frozen=True)
class _Scoped(Layer):
    """A layer whose operations are in a scope; for its forward pass alone."""

    layer: Layer
    scope: str

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        with jax.named_scope(self.scope):
            out, cache = self.layer.forward(params, A, key)
            name = self._name_output(params, cache, out)
            return checkpoint_name(out, name) if name else out, cache

    def _name_output(self, params: Params, cache: Cache, out: Activations) -> str:
        if isinstance(self.layer, Combinator):
            return ""
        if isinstance(self.layer, Activation):
            return "A"
        return "Z" if list_weights(self.layer, params, cache, out) else ""


def _name_inside(net: Layer) -> Layer:
    """The network with a scope around each layer."""
    if not isinstance(net, Combinator):
        return _Scoped(net, describe_layer(net))
    return net.with_children([_name_child(child, step) for child, step in zip(net.children, net.steps, strict=True)])


def _name_child(child: Layer, step: Step | None) -> Layer:
    inside = _name_inside(child) if isinstance(child, Combinator) else child
    if step is ...:
        # The loop is a box by itself.
        return inside if isinstance(child, Combinator) else _Scoped(child, describe_layer(child))
    where = "" if step is None else format_path((step,))
    return _Scoped(inside, f"{where} {describe_layer(child)}".lstrip())
