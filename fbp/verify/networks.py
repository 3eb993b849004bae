"""A network of fbp: its gradient by the judges, and its backward pass equation by equation."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from fbp.backprop import check_batch, loss_value, value_and_grad
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params
from fbp.verify.equations import equations, faulty_combinators, points
from fbp.verify.judges import judge
from fbp.verify.result import Verification


@dataclass(frozen=True)
class NetworkLoss:
    """The loss of a network as a function of (params, X, Y, weights, key); equal networks compile once."""

    net: Layer
    loss: Loss

    def __call__(self, *args: Any) -> Float[Array, ""]:
        return loss_value(self.net, self.loss, *args)


@dataclass(frozen=True)
class ByHand:
    """The hand-written gradient as a function of the same."""

    net: Layer
    loss: Loss

    def __call__(self, *args: Any) -> Params:
        return _by_hand(self.net, self.loss, args)


@jax.jit(static_argnums=(0, 1))
def _by_hand(net: Layer, loss: Loss, args: tuple[Any, ...]) -> Params:
    return value_and_grad(net, loss)(*args)[1]


def network(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Num[Array, "..."],
    weights: Float[Array, " m"] | None = None,
    key: Key | None = None,
    directions: int = 2,
    seed: int = 0,
) -> Verification:
    """The hand-written backward pass of a network: its gradient by three judges, and every equation by itself.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters, in the dtype to judge.
        X: inputs, (m, n_0), in the same dtype.
        Y: targets.
        weights: one per example.
        key: randomness for dropout; without it dropout is the identity.
        directions: how many random directions in each leaf.
        seed: of the directions and of the movements by which rounding is measured.

    Raises:
        FbpError: the shapes do not fit.
    """
    params, X, Y = jax.tree.map(jnp.asarray, (params, X, Y))
    check_batch(X, Y)
    args = (params, X, Y, weights, key)
    leaves = judge(ByHand(net, loss), NetworkLoss(net, loss), args, directions=directions, seed=seed)
    cells = equations(net, loss, params, points(net, loss, *args), seed)
    wrong = any(leaf.verdict == "FAIL" for leaf in leaves)
    if wrong and all(cell.verdict != "FAIL" for cell in cells):
        # Every layer is right and the whole is not: the mistake is in how they are put together.
        where = ", ".join(faulty_combinators(net, params, X.shape[1:], X.shape[0], seed))
        if where:
            leaves = tuple(
                replace(leaf, note=f"every layer is right; wrong is {where}") if leaf.verdict == "FAIL" else leaf
                for leaf in leaves
            )
    return Verification(type(net).__name__, leaves, cells)
