"""A network of fbp: its gradient by autodiff alone with costs, or by every judge and equation by equation."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp import cost
from fbp.backprop import check_batch, loss_value, value_and_grad
from fbp.errors import FbpError
from fbp.graph import value_and_grad as by_local_rules
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params, Targets, Weights
from fbp.verify.candidate import ComputedGradient
from fbp.verify.equations import compute_layer_inputs, find_faulty_combinators, judge_equations
from fbp.verify.judges import Request, judge, judge_gradient
from fbp.verify.reference import compute_reference, make_seed
from fbp.verify.result import LeafResult, Verification
from fbp.verify.structure import check_structure
from fbp.verify.tolerance import difference


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

    @partial(jax.jit, static_argnums=0)
    def __call__(self, *args: Any) -> Params:
        return value_and_grad(self.net, self.loss)(*args)[1]


def compare(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Weights = None,
    key: Key | None = None,
    *,
    cost_seconds: float = 1.0,
    graph: bool = True,
) -> Verification:
    """The hand-written gradient of a network, leaf by leaf, against `jax.grad` of the same forward pass.

    A leaf passes where its relative norm error against `jax.grad` in float64 is within 16 epsilons of its dtype (4 in
    half precision), or is explained by rounding that is small beside the leaf. It is INCONCLUSIVE where rounding may
    move a leaf that is not much larger as far as it is off, and up to 32 times what rounding explains.
    `fbp.verify.network` asks more judges.

    Beside it stands the gradient by the table of local rules (`fbp.graph.value_and_grad`), a third one that shares
    nothing with the others; it does not decide on the verdict.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets.
        weights: one per example, (m,).
        key: randomness for dropout; without it dropout is the identity.
        cost_seconds: how long to time the gradients (s); 0 measures no cost.
        graph: whether the gradient by local rules is computed, too, which takes one more compilation.

    Returns:
        A `Verification` with the loss and the costs; it prints as a table.

    Raises:
        FbpError: the shapes do not fit.

    Example:
        >>> net, loss = fbp.mlp((4, 8, 3), "tanh"), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jnp.linspace(-1.0, 1.0, 20).reshape(5, 4), jnp.array([0, 2, 1, 1, 0])
        >>> comparison = fbp.compare(net, loss, params, X, Y, cost_seconds=0)
        >>> comparison.verdict, max(leaf.epsilons for leaf in comparison.leaves) < 10
        ('PASS', True)
    """
    args = prepare_arguments(net, params, X, Y, weights, key)
    function = NetworkLoss(net, loss)
    reference = compute_reference(function, args)
    manual = cost.compile(value_and_grad(net, loss), args)
    value, gradient = manual.call(*args)
    structure = check_structure(gradient, args[0])
    leaves = judge_gradient(reference, ComputedGradient(structure), Request(directions=None))
    by_rules, without_graph = None, ""
    if graph:
        try:
            by_rules = cost.compile(by_local_rules(function), args)
        except FbpError as error:
            # What the message advises is for a call of one's own.
            without_graph = str(error).partition("; ")[0]
        else:
            third = check_structure(by_rules.call(*args)[1], args[0])
            leaves = tuple(_stand_beside(leaf, structure.leaves, third.leaves) for leaf in leaves)
    costs = None
    if cost_seconds > 0:
        autodiff = cost.compile(jax.value_and_grad(function), args)
        costs = cost.compare(manual, autodiff, args, cost_seconds, by_rules)
    subject = _describe_subject(net)
    return Verification(subject, leaves, cost=costs, value=float(value), without_graph=without_graph)


def _stand_beside(leaf: LeafResult, gradient: dict[str, Any], by_rules: dict[str, Any]) -> LeafResult:
    """The leaf with its difference from the gradient by local rules."""
    if leaf.difference is None:
        return leaf
    off = difference(leaf.path, gradient[leaf.path], by_rules[leaf.path])
    # Both may be off from float64 by what rounding explains.
    apart = leaf.verdict == "PASS" and not leaf.is_zero and not off.relative_error <= 2 * leaf.explained
    doubt = "fbp.graph gives another gradient, and this one is right; please report it as an issue" if apart else ""
    note = "; ".join(filter(None, (leaf.note, doubt)))
    return replace(leaf, against_graph=off, note=note)


def network(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Weights = None,
    key: Key | None = None,
    *,
    directions: int = 2,
) -> Verification:
    """The hand-written backward pass of a network: its gradient by three judges, and every equation by itself.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters, in the dtype to judge.
        X: inputs, (m, n_0), in the same dtype.
        Y: targets.
        weights: one per example, (m,).
        key: randomness for dropout and for the judges; without it dropout is the identity, and the judges draw from a
            fixed key.
        directions: how many random directions in each leaf.

    Returns:
        A `Verification` with its equations.

    Raises:
        FbpError: the shapes do not fit.

    Example:
        >>> net, loss = fbp.Serial(fbp.Dense(3), fbp.Activation("tanh"), fbp.Dense(2)), fbp.HalfSquaredError()
        >>> params, _ = net.init(jax.random.key(0), (4,))
        >>> found = fbp.verify.network(net, loss, params, jnp.eye(4), jnp.ones((4, 2)))
        >>> found.verdict, [equation.quantity for equation in found.equations if equation.layer == "[2] Dense(2)"]
        ('PASS', ['dW_2', 'db_2', 'dA_1', 'pair of dW_2', 'pair of db_2'])
    """
    args, seed = prepare_arguments(net, params, X, Y, weights, key), make_seed(key)
    reference = compute_reference(NetworkLoss(net, loss), args, seed=seed)
    leaves = judge(reference, ByHand(net, loss), Request(directions=directions))
    equations = judge_equations(net, loss, args[0], compute_layer_inputs(net, loss, *args), seed)
    wrong = any(leaf.verdict == "FAIL" for leaf in leaves)
    if wrong and all(each.verdict != "FAIL" for each in equations):
        # Every layer is right and the whole is not: the mistake is in how they are put together.
        where = ", ".join(find_faulty_combinators(net, args[0], args[1], seed))
        note = f"every layer is right; wrong is {where}" if where else ""
        leaves = tuple(replace(leaf, note=note) if leaf.verdict == "FAIL" else leaf for leaf in leaves)
    return Verification(_describe_subject(net), leaves, equations)


def prepare_arguments(
    net: Layer, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key | None
) -> tuple[Any, ...]:
    """(params, X, Y, weights, key), with arrays of JAX in the first three.

    Raises:
        FbpError: the shapes do not fit.
    """
    params, X, Y = jax.tree.map(jnp.asarray, (params, X, Y))
    check_batch(net, X, Y)
    return params, X, Y, weights, key


def _describe_subject(net: Layer) -> str:
    return f"hand-written gradient of {type(net).__name__}"
