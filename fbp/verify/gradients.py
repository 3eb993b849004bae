"""Any gradient function against its loss, and any rule of differentiation against autodiff of its primal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, check_count
from fbp.partition import combine, partition
from fbp.precision import widen
from fbp.typing import Key
from fbp.verify.evaluation import Argnums, call_checked, make_hashable
from fbp.verify.judges import Request, judge, judge_value
from fbp.verify.programs import has_rule, without_rules
from fbp.verify.reference import compute_reference, make_seed
from fbp.verify.result import Verification
from fbp.verify.structure import has_foreign_node, is_inexact

Progress = Callable[[str], None]
_ARRAYS = (jax.Array, np.ndarray, np.generic)


def gradient(
    my_grad: Callable[..., Any],
    loss: Callable[..., Any],
    *args: Any,
    argnums: Argnums = 0,
    has_value: bool = False,
    directions: int = 2,
    tolerance: float | Mapping[str, float] = 0.0,
    nondeterminism: float = 0.0,
    batched: bool = False,
    time_limit: float | None = None,
    key: Key | None = None,
    progress: Progress = lambda line: None,
) -> Verification:
    """A gradient function against the scalar loss that it is the gradient of.

    Three judges look at each leaf. Autodiff: `jax.grad` of the loss in float64, with the difference that rounding
    explains in the gradient's dtype; a gradient function that computes in float64 when it is given float64 is judged
    there too, and sharply. Differences: finite differences of the loss in float64 along directions in the leaf.
    Adjoint: its forward-mode derivative along the same. A leaf passes where one judge passes it and none fails it.

    A loss that does not compute in float64 by itself (it casts to float32 inside, or draws other random numbers in
    float64) is evaluated in float64 operation by operation. Where that is not possible either, the gradient is compared
    in its own dtype: a difference of up to 32 times what rounding explains is INCONCLUSIVE, and a larger one FAILs.

    The gradient by a complex leaf z = x + iy is dL/dx - i dL/dy, as `jax.grad` gives it.

    Args:
        my_grad: called as my_grad(*args), gives the gradient: a pytree in the structure of the differentiated argument.
        loss: called as loss(*args), gives a scalar; written in JAX.
        args: what both are called with: pytrees of arrays; Python integers, strings and the like are constants.
        argnums: which of the arguments is differentiated; a tuple where `my_grad` gives a tuple of gradients.
        has_value: whether `my_grad` gives (value, gradient), as `jax.value_and_grad` does; the value is judged, too.
        directions: how many random directions in each leaf.
        tolerance: a relative norm error that is allowed besides rounding, for all leaves or by the leaf's path.
        nondeterminism: the relative difference of two calls that is allowed; more than rounding FAILs without it.
        batched: whether `my_grad` must give the same under `jax.vmap`.
        time_limit: after how many seconds the leaves that are left are INCONCLUSIVE.
        key: randomness of the directions and of the perturbations by which rounding is measured; None is a fixed key.
        progress: called with a line for each leaf.

    Returns:
        A `Verification`: it prints as a table, and knows its verdict, hints and exit status.

    Raises:
        FbpError: a function cannot be called with these arguments, the loss does not return a scalar, or there is
            nothing to differentiate by.

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
    check_count("directions", directions)
    request = Request(
        directions=directions,
        tolerance=tolerance,
        nondeterminism=nondeterminism,
        batched=batched,
        time_limit=time_limit,
        progress=progress,
    )
    arrays, constants = split_constants(args)
    arrays = _make_arrays(arrays)
    candidate, judged = _bind(my_grad, constants), []
    reference = compute_reference(_bind(loss, constants), arrays, argnums, make_seed(key))
    if has_value:
        with jax.enable_x64(reference.x64):
            judged.append(
                judge_value(reference, _split_pair(call_checked("the gradient function", candidate, arrays))[0])
            )
        candidate = _without_value(candidate)
    return Verification(_name(my_grad), (*judged, *judge(reference, candidate, request)))


def assert_gradient(my_grad: Callable[..., Any], loss: Callable[..., Any], *args: Any, **options: Any) -> None:
    """`gradient` for tests: fails with the table as its message.

    Args:
        my_grad: as in `gradient`.
        loss: as in `gradient`.
        args: as in `gradient`.
        options: those of `gradient`.

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
    tolerance: float | Mapping[str, float] = 0.0,
    nondeterminism: float = 0.0,
    forward: bool = False,
    batched: bool = False,
    time_limit: float | None = None,
    key: Key | None = None,
    progress: Progress = lambda line: None,
) -> Verification:
    """The vector-Jacobian product of an operation against autodiff, for a random cotangent v.

    With L(args) = Re <op(args), v>, the gradient of L by the operation's own rule beside that of the reference; a leaf
    `(value)` is added where the values of L differ. An operation without a `jax.custom_vjp` in it and without a
    reference is judged by differences and the adjoint identity alone: autodiff, also by a `jax.custom_jvp`, is then
    what is judged.

    Args:
        op: a differentiable function of pytrees of arrays, e.g. a `jax.custom_vjp`.
        args: what it is called with; the floating and complex leaves are differentiated. Python integers, strings and
            the like, and what `op.nondiff_argnums` names, are constants.
        reference: the same function in plain JAX; without it the operation's own primal, with every `custom_vjp` rule
            in it taken away.
        directions: how many random directions in each leaf.
        tolerance: a relative norm error that is allowed besides rounding, for all leaves or by the leaf's path.
        nondeterminism: the relative difference of two calls that is allowed.
        forward: whether the operation's forward mode (`jax.jvp`) is judged, too.
        batched: whether the gradient must be the same under `jax.vmap`.
        time_limit: after how many seconds the leaves that are left are INCONCLUSIVE.
        key: randomness of the cotangent and the directions; None is a fixed key.
        progress: called with a line for each leaf.

    Returns:
        A `Verification`, with a leaf for each floating or complex array among the arguments.

    Raises:
        FbpError: the operation cannot be called with the arguments, there is nothing to differentiate by, or the
            reference's output differs in shape or dtype.

    Example:
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, d: (x * d,))  # 2 is missing
        >>> fbp.verify.vjp(square, jnp.array([0.5, 2.0, 1.5])).leaves[0].hint
        'ratio 1/2: is one of two paths missing, or a factor 2 (an average of sides at a kink)?'
    """
    check_count("directions", directions)
    arrays, constants = split_constants(args, op)
    rule, arrays = _bind(op, constants), _make_arrays(arrays)
    if not any(is_inexact(x) for x in jax.tree.leaves(arrays)):
        kinds = ", ".join(type(arg).__name__ for arg in args) or "none"
        raise FbpError(f"an operation must have floating arguments to differentiate by, got {kinds}; pass float arrays")
    primal = without_rules(rule) if reference is None else _bind(reference, constants)
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
    paired = Paired(make_hashable(rule), seed)
    request = Request(
        directions=directions,
        tolerance=tolerance,
        nondeterminism=nondeterminism,
        batched=batched,
        time_limit=time_limit,
        progress=progress,
        autodiff_judges=reference is not None or has_rule(rule, arrays),
        forward=paired if forward else None,
    )
    known = compute_reference(Paired(make_hashable(primal), seed), arrays, argnums, seed)
    leaves = judge(known, jax.grad(paired, argnums, allow_int=True), request)
    with jax.enable_x64(known.x64):
        # By the rule: its forward pass may be another function than the operation.
        value = judge_value(known, call_checked("the rule", lambda *args: jax.vjp(paired, *args)[0], arrays))
    return Verification(_name(op), leaves if value.verdict == "PASS" else (*leaves, value))


def _make_arrays(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Python numbers as arrays; NumPy arrays as they are, because JAX may have no float64."""
    return jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), args)


def has_own_rule(op: Callable[..., Any], *args: Any) -> bool:
    """Whether an operation has a rule of its own: it is a `jax.custom_jvp`, or there is a `jax.custom_vjp` in it.

    Args:
        op: the operation.
        args: what it is called with.

    Raises:
        FbpError: the operation cannot be called with the arguments.
    """
    arrays, constants = split_constants(args, op)
    return isinstance(op, jax.custom_jvp) or call_checked(
        "the operation", partial(has_rule, _bind(op, constants)), (arrays,)
    )


def split_constants(
    args: tuple[Any, ...], op: Callable[..., Any] | None = None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arrays among the arguments, and the constants: Python integers, strings and the like stay what they are.

    Args:
        args: pytrees of arrays, Python floats and constants; Python floats in a module are constants.
        op: an operation whose `nondiff_argnums` are constants, too.

    Returns:
        (arrays, constants), each with None where the other has a leaf.
    """
    # One that was left out, and has its default, is at no place here.
    static = {n + len(args) if n < 0 else n for n in getattr(op, "nondiff_argnums", ())}
    parts = []
    for i, arg in enumerate(args):
        # Numbers of Python in a module are its settings; in a dictionary or a tuple they are parameters.
        kinds = _ARRAYS if has_foreign_node(arg) else (*_ARRAYS, float, complex)
        parts.append(partition(arg, lambda leaf, i=i, kinds=kinds: i not in static and isinstance(leaf, kinds)))
    return tuple(arrays for arrays, _ in parts), tuple(constants for _, constants in parts)


def _bind(function: Callable[..., Any], constants: tuple[Any, ...]) -> Callable[..., Any]:
    """A function of arrays alone: the constants are put back before the call."""
    return (lambda *args: function(*combine(args, constants))) if jax.tree.leaves(constants) else function


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _without_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient function without the value that it returns beside the gradient."""
    return lambda *args: _split_pair(function(*args))[1]


def _split_pair(pair: Any) -> tuple[Any, Any]:
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise FbpError(
            f"with has_value=True a gradient function must return (value, gradient), got {type(pair).__name__}; "
            "leave has_value out where it returns the gradient alone"
        )
    return pair


@dataclass(frozen=True)
class Paired:
    """L(args) = Re <op(args), v> with a random v, in float32 at least."""

    op: Callable[..., Any]
    seed: int

    def __call__(self, *args: Any) -> Any:
        draw = np.random.default_rng(self.seed)
        outputs = [jnp.asarray(x) for x in jax.tree.leaves(self.op(*args)) if is_inexact(x)]
        if not outputs:
            raise FbpError("an operation must return floating arrays, got none; return one")
        parts = [part for x in outputs for part in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
        cotangents = (jnp.asarray(_draw_cotangent(draw, x.shape), x.dtype) for x in parts)
        return reduce(jnp.add, [jnp.sum(widen(x) * widen(v)) for x, v in zip(parts, cotangents, strict=True)])


def _draw_cotangent(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Two digits, exact in every dtype, so that one cotangent serves all of them; none is zero and hides an entry."""
    normal = draw.standard_normal(shape)
    return np.copysign(np.round(4 * np.abs(normal)) + 1, normal) / 4
