"""The same network several times: by fbp, and in plain JAX as a good user of `jax.grad` writes it.

Every version has its own layout of the parameters. The common one, in which gradients are compared, is a list of
layers {"W": (n_{l-1}, n_l), "b": (n_l,)}, first to last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from grid import CLASSES, INIT_SCALE, UNROLLED_UP_TO, Checkpointed, Network

import fbp

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
}


@dataclass(frozen=True)
class Version:
    """One way to compute the loss and its gradient.

    Attributes:
        name: as the tables call it.
        step: (params, X, Y) -> (value, d_params).
        layout: params from the list of layers.
        layers: the list of layers from params or d_params.
        loop: whether it has a compiled loop, whose body the compiler counts only once.
    """

    name: str
    step: Callable[..., Any]
    layout: Callable[[list[Any]], Any]
    layers: Callable[[Any], list[Any]]
    loop: bool


def by_fbp(network: Network, repeat: bool | None = None, name: str = "fbp") -> Version:
    """`fbp.mlp` with its defaults; `repeat` as there, and the segment where the network has one."""
    widths = (*[network.width] * network.depth, CLASSES)
    checkpoint = network.segment if isinstance(network, Checkpointed) else None
    net = fbp.mlp(widths, network.activation, repeat=repeat, checkpoint=checkpoint)
    return Version(
        name,
        fbp.value_and_grad(net, fbp.SoftmaxCrossEntropy()),
        layout=lambda layers: _fill(net, iter(layers)),
        layers=lambda tree: [part for layer, part in fbp.tree.unstack(net, tree) if isinstance(layer, fbp.Dense)],
        loop=any(isinstance(layer, fbp.Combinator) and layer.copies is not None for layer in net.layers),
    )


def by_scan(network: Network, segment: int | None = None) -> Version:
    """`lax.scan` over stacked parameters; with `segment`, an outer scan over rematerialized ones.

    The body is (activation, dense). The order (dense, activation) keeps half as much again for tanh, and never less.
    """
    g = ACTIVATIONS[network.activation]

    def block(Z, layer):
        return g(Z) @ layer["W"] + layer["b"], None

    def segment_of_blocks(Z, layers):
        return jax.lax.scan(block, Z, layers)

    def loss(params, X, Y):
        first, hidden, last = params
        Z = X @ first["W"] + first["b"]
        if segment is None:
            Z, _ = jax.lax.scan(block, Z, hidden)
        else:
            segments = jax.tree.map(lambda x: x.reshape(-1, segment, *x.shape[1:]), hidden)
            Z, _ = jax.lax.scan(jax.checkpoint(segment_of_blocks), Z, segments)
        return _cross_entropy(g(Z) @ last["W"] + last["b"], Y)

    return Version(
        "scan" if segment is None else "jax.checkpoint",
        jax.value_and_grad(loss),
        layout=lambda layers: (layers[0], _stack(layers[1:-1]), layers[-1]),
        layers=lambda tree: [
            tree[0],
            *(jax.tree.map(lambda x, l=l: x[l], tree[1]) for l in range(network.blocks)),
            tree[2],
        ],
        loop=True,
    )


def by_unrolled(network: Network) -> Version:
    """A Python loop over a list of layers: indexing one stacked array would make its gradient quadratic in depth."""
    g = ACTIVATIONS[network.activation]

    def loss(params, X, Y):
        *hidden, last = params
        A = X
        for layer in hidden:
            A = g(A @ layer["W"] + layer["b"])
        return _cross_entropy(A @ last["W"] + last["b"], Y)

    return Version("unrolled", jax.value_and_grad(loss), layout=list, layers=list, loop=False)


def autodiff(network: Network) -> list[Version]:
    """The versions of `jax.grad` that apply to a network."""
    scan = [by_scan(network)] if network.blocks >= 1 else []
    unrolled = [by_unrolled(network)] if network.depth <= UNROLLED_UP_TO else []
    return [*scan, *unrolled]


def batch(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """X (m, n_0) of unit variance, and labels Y (m,)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((network.batch, network.width), np.float32)
    return X, rng.integers(0, CLASSES, network.batch, np.int32)


def parameters(network: Network) -> list[dict[str, np.ndarray]]:
    """Random layers in the common layout, with biases that are not zero."""
    rng = np.random.default_rng(1)
    scale = np.float32((INIT_SCALE[network.activation] / network.width) ** 0.5)

    def draw(shape: jax.ShapeDtypeStruct, scale: np.float32) -> np.ndarray:
        return scale * rng.standard_normal(shape.shape, np.float32)

    return [{"W": draw(l["W"], scale), "b": draw(l["b"], np.float32(0.01))} for l in shapes(network)]


def shapes(network: Network) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """The shapes of the layers, for what is compiled but not run."""
    n = network.width
    outputs = [n] * (network.depth - 1) + [CLASSES]
    of = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    return [{"W": of((n, n_out)), "b": of((n_out,))} for n_out in outputs]


def _cross_entropy(Z, Y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(Z), Y[:, None], axis=1))


def _fill(net: fbp.Serial, layers: Iterator[Any]) -> Any:
    """The parameters of an fbp network from the list of layers; a block has one dense layer."""

    def take(layer: fbp.Layer, initial: Any) -> Any:
        if not isinstance(layer, fbp.Dense):
            return ()
        *copies, _, _ = initial["W"].shape
        return _stack([next(layers) for _ in range(copies[0])]) if copies else next(layers)

    return fbp.tree.map_layers(take, net, jax.eval_shape(lambda: net.init(jax.random.key(0), net.shape)[0]))


def _stack(trees: list[Any]) -> Any:
    def stack(*leaves):
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
        return np.stack(leaves)

    return jax.tree.map(stack, *trees)
