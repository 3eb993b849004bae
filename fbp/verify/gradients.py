"""Any gradient function against its loss, and any rule of differentiation against autodiff of its primal."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError
from fbp.partition import combine, partition
from fbp.precision import widen
from fbp.typing import Key
from fbp.verify.judges import judge
from fbp.verify.primal import without_rules
from fbp.verify.reference import Argnums, call_checked, compute_reference, make_seed
from fbp.verify.result import Verification
from fbp.verify.structure import is_floating


def gradient(
    my_grad: Callable[..., Any],
    loss: Callable[..., Any],
    *args: Any,
    argnums: Argnums = 0,
    has_value: bool = False,
    directions: int = 2,
    key: Key | None = None,
) -> Verification:
    """A gradient function against the scalar loss that it is the gradient of.

    Three judges look at each leaf. Autodiff: `jax.grad` of the loss in float64, with the difference that rounding
    explains in the gradient's dtype; a gradient function that computes in float64 when it is given float64 is judged
    there too, and sharply. Differences: finite differences of the loss in float64 along directions in the leaf.
    Adjoint: its forward-mode derivative along the same. A leaf passes where one judge passes it and none fails it.

    Args:
        my_grad: called as my_grad(*args), gives the gradient: a pytree in the structure of the differentiated argument.
        loss: called as loss(*args), gives a scalar; written in JAX.
        args: what both are called with: pytrees of arrays; Python integers, strings and the like are constants.
        argnums: which of the arguments is differentiated; a tuple where `my_grad` gives a tuple of gradients.
        has_value: whether `my_grad` gives (value, gradient), as `jax.value_and_grad` does.
        directions: how many random directions in each leaf.
        key: randomness of the directions and of the perturbations by which rounding is measured; None is a fixed key.

    Returns:
        A `Verification`: it prints as a table, and knows its verdict, hints and exit status.

    Raises:
        FbpError: a function cannot be called with these arguments, or the loss does not return a scalar.

    Example:
        >>> def loss(w, x):
        ...     return jnp.mean(jnp.tanh(x @ w) ** 2)
        >>> def my_grad(w, x):  # 1/m is missing
        ...     A = jnp.tanh(x @ w)
        ...     return x.T @ (2 * A * (1 - A**2))
        >>> found = fbp.verify.gradient(my_grad, loss, jnp.array([0.5, -0.3]), jnp.array([[1.0, 2.0], [0.3, -0.7]]))
        >>> found.verdict, found.leaves[0].hint
        ('FAIL', 'ratio 2 = m: is 1/m, the mean over examples, missing?')
    """
    name = getattr(my_grad, "__name__", type(my_grad).__name__)
    arrays, constants = split_constants(args)
    candidate = _bind(_without_value(my_grad) if has_value else my_grad, constants)
    reference = compute_reference(_bind(loss, constants), arrays, argnums, make_seed(key))
    return Verification(name, judge(reference, candidate, directions=directions))


def assert_gradient(my_grad: Callable[..., Any], loss: Callable[..., Any], *args: Any, **options: Any) -> None:
    """`gradient` for tests: fails with the table as its message.

    Args:
        my_grad: as in `gradient`.
        loss: as in `gradient`.
        args: as in `gradient`.
        options: `argnums`, `has_value`, `directions`, `key`.

    Raises:
        AssertionError: the verdict is not PASS.

    Example:
        >>> fbp.verify.assert_gradient(lambda x: 2 * x, lambda x: jnp.sum(x**2), jnp.array([1.0, -0.5]))
    """
    __tracebackhide__ = True
    verification = gradient(my_grad, loss, *args, **options)
    if verification.verdict != "PASS":
        raise AssertionError(f"\n{verification}")


def vjp(
    op: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    directions: int = 2,
    key: Key | None = None,
) -> Verification:
    """The vector-Jacobian product of an operation against autodiff, for a random cotangent v.

    With L(args) = <op(args), v>, the gradient of L by the operation's own rule beside that of the reference.

    Args:
        op: a differentiable function of pytrees of arrays, e.g. a `jax.custom_vjp`.
        args: what it is called with; the floating leaves are differentiated. Python integers, strings and the like, and
            what `op.nondiff_argnums` names, are constants.
        reference: the same function in plain JAX; without it the operation's own primal, with every `custom_vjp` rule
            in it taken away.
        directions: how many random directions in each leaf.
        key: randomness of the cotangent and the directions; None is a fixed key.

    Returns:
        A `Verification`, with a leaf for each floating array among the arguments.

    Raises:
        FbpError: the operation cannot be called with the arguments, none is floating, or the reference's output
            differs in shape or dtype.

    Example:
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, d: (x * d,))  # 2 is missing
        >>> fbp.verify.vjp(square, jnp.array([0.5, 2.0, 1.5])).leaves[0].hint
        'ratio 1/2: is one of two paths missing, or a factor 2 (an average of sides at a kink)?'
    """
    arrays, constants = split_constants(args, op)
    rule = _bind(op, constants)
    primal = without_rules(rule) if reference is None else _bind(reference, constants)
    arrays = jax.tree.map(jnp.asarray, arrays)
    if not any(is_floating(x) for x in jax.tree.leaves(arrays)):
        kinds = ", ".join(type(arg).__name__ for arg in args) or "none"
        raise FbpError(f"an operation must have floating arguments to differentiate by, got {kinds}; pass float arrays")
    outputs, expected = (
        jax.tree.map(lambda x: (x.shape, str(x.dtype)), call_checked(what, partial(jax.eval_shape, function), arrays))
        for what, function in (("the operation", rule), ("the reference", primal))
    )
    if outputs != expected:
        raise FbpError(
            f"the reference must return what the operation returns, {outputs}, got {expected}; "
            "return the same shapes and dtypes"
        )
    argnums, seed = tuple(range(len(args))), make_seed(key)
    by_rule = jax.grad(_Paired(rule, seed), argnums, allow_int=True)
    leaves = judge(compute_reference(_Paired(primal, seed), arrays, argnums, seed), by_rule, directions=directions)
    return Verification(getattr(op, "__name__", type(op).__name__), leaves)


def split_constants(
    args: tuple[Any, ...], op: Callable[..., Any] | None = None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arrays among the arguments, and the constants: Python integers, strings and the like stay what they are.

    Args:
        args: pytrees of arrays, Python floats and constants.
        op: an operation whose `nondiff_argnums` are constants, too.

    Returns:
        (arrays, constants), each with None where the other has a leaf.
    """
    # One that was left out, and has its default, is at no place here.
    static = {n + len(args) if n < 0 else n for n in getattr(op, "nondiff_argnums", ())}
    parts = [partition(arg, lambda leaf, i=i: i not in static and _is_array(leaf)) for i, arg in enumerate(args)]
    return tuple(arrays for arrays, _ in parts), tuple(constants for _, constants in parts)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex))


def _bind(function: Callable[..., Any], constants: tuple[Any, ...]) -> Callable[..., Any]:
    """A function of arrays alone: the constants are put back before the call."""
    return (lambda *args: function(*combine(args, constants))) if jax.tree.leaves(constants) else function


def _without_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient function without the value that it returns beside the gradient."""

    def compute(*args: Any) -> Any:
        pair = function(*args)
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise FbpError(
                f"with has_value=True a gradient function must return (value, gradient), got {type(pair).__name__}; "
                "leave has_value out where it returns the gradient alone"
            )
        return pair[1]

    return compute


@dataclass(frozen=True)
class _Paired:
    """L(args) = <op(args), v> with a random v, in float32 at least."""

    op: Callable[..., Any]
    seed: int

    def __call__(self, *args: Any) -> Any:
        draw = np.random.default_rng(self.seed)
        outputs = [x for x in jax.tree.leaves(self.op(*args)) if is_floating(x)]
        if not outputs:
            raise FbpError("an operation must return floating arrays, got none; return one")
        # Two digits: exact in every dtype, so that one cotangent serves all of them.
        cotangents = (jnp.asarray(np.round(4 * draw.standard_normal(x.shape)) / 4, x.dtype) for x in outputs)
        return reduce(jnp.add, [jnp.sum(widen(x) * widen(v)) for x, v in zip(outputs, cotangents, strict=True)])
