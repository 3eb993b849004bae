"""Pictures of computation graphs with all of their numbers: the README's, and those of docs/graph.md.

python docs/pictures/graphs.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import fbp


def shop(coat, trousers, number, discount):
    """What there is to pay."""
    total = coat + trousers * number
    pay = total * discount
    return pay  # noqa: RET504 - the picture shows the name


def network(x, y, W1, b1, W2, b2, W3, b3):
    """A network of 2, 3, 2 and 1 units, layer by layer."""
    with jax.named_scope("layer 1"):
        a1 = jax.nn.sigmoid(x @ W1 + b1)
    with jax.named_scope("layer 2"):
        a2 = jax.nn.sigmoid(a1 @ W2 + b2)
    with jax.named_scope("layer 3"):
        a3 = jax.nn.sigmoid(a2 @ W3 + b3)
    with jax.named_scope("half squared error"):
        loss = 0.5 * jnp.sum((a3 - y) ** 2)
    return loss  # noqa: RET504 - the picture shows the name


NETWORK = (
    jnp.array([1.0, -2.0]),
    jnp.array([1.0]),
    jnp.array([[0.5, -1.0, 1.0], [-0.5, 0.5, 0.5]]),
    jnp.array([0.0, 1.0, -0.5]),
    jnp.array([[1.0, -2.0], [2.0, 1.0], [-1.0, 1.5]]),
    jnp.array([-1.0, 0.5]),
    jnp.array([[2.0], [-1.0]]),
    jnp.array([-0.5]),
)
"""The input, what should come out, and a weight matrix and bias for each layer."""


def draw(folder: Path) -> list[Path]:
    """Write all pictures.

    Args:
        folder: where.
    """
    price = fbp.graph.trace(shop, 400.0, 300.0, 2, 0.7).backward()
    error = fbp.graph.trace(network, *NETWORK).backward()
    return [
        price.draw(folder / "graph_shop.svg"),
        error.draw(folder / "graph_layers.svg", depth=0),
        error.draw(folder / "graph_network.svg"),
    ]


if __name__ == "__main__":
    draw(Path(__file__).parent)
