"""Values and gradients of chosen intermediates of a function that was not written for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from fbp.errors import FbpError
from fbp.graph.gradients import Staged, check_call, check_scalar, split_arguments
from fbp.graph.record import Record
from fbp.graph.reverse import Reverse
from fbp.graph.structure import Part, Select, Step, select_steps
from fbp.graph.versions import is_inexact


class Tap(NamedTuple):
    """An intermediate.

    Attributes:
        value: what it is; in a loop of all steps, along a new first axis; zeros in a branch that was not taken.
        gradient: of the result of the function with respect to it, of the same shape; None for integers, and inside
            of functions that bring a derivative of their own (`jax.custom_jvp`, `jax.custom_vjp`).
    """

    value: Array
    gradient: Array | None


def taps(f: Callable[..., Any], select: Select, fallback: bool = False) -> Callable[..., dict[str, Tap]]:
    """Values and gradients of chosen intermediates of a function.

    Args:
        f: any JAX function whose result is one real number.
        select: which steps, by patterns or by a function of the step (`fbp.graph.Step`). A pattern is compared with a
            step's key ("block/attention/scores": the scopes and functions around it, and its name), its name (the
            variable that it is assigned to, what `jax.ad_checkpoint.checkpoint_name` calls it, the function that is
            called), its primitive ("dot_general") and its line ("model.py:12"); "*" stands for anything.
        fallback: whether a primitive without a rule is differentiated by JAX instead of refused.

    Returns:
        A pure function of the arguments of f -> a `Tap` for each chosen step, by its key. It may be compiled with
        `jax.jit`, which leaves out what the taps do not need. It raises an FbpError where no step is chosen.

    Example:
        >>> def loss(W, x):
        ...     hidden = jnp.tanh(W @ x)
        ...     return jnp.sum(hidden**2)
        >>> found = fbp.graph.taps(loss, "tanh")(jnp.eye(2), jnp.ones(2))
        >>> [(key, tap.gradient.shape) for key, tap in found.items()]
        [('hidden', (2,))]
    """

    def compute(*args: Any, **kwargs: Any) -> dict[str, Tap]:
        check_call(f, args, kwargs)
        leaves, call = split_arguments(f, args, kwargs)
        staged = Staged.of(call, leaves)
        check_scalar(staged)
        part = Part.of(staged.program)
        chosen = select_steps(part, select)
        _refuse_uncounted(part, chosen)
        record = record_of(chosen)
        wanted = [False] * len(leaves)
        outputs, pullback = Reverse(fallback, record=record).run(staged.program, leaves, wanted, [True], ())
        pullback([jnp.ones_like(outputs[0])])
        return {key: tap for step in chosen for key, tap in _read(step, record)}

    return compute


def record_of(steps: list[Step]) -> Record:
    """A record of these steps."""
    paths = {step.path for step in steps}
    around = {path[:n] for path in paths for n in range(1, len(path))}
    return Record(paths.__contains__, around.__contains__, paths.__contains__)


def _refuse_uncounted(part: Part, chosen: list[Step]) -> None:
    loops = [step.path for step in part.walk() if step.primitive == "while"]
    for step in chosen:
        if any(len(path) < len(step.path) and step.path[: len(path)] == path for path in loops):
            raise FbpError(
                f"a tapped step must not be inside of a loop that ends on a condition, got {step.key!r}; tap its "
                "result, or see the steps with fbp.graph.trace"
            )


def _read(step: Step, record: Record) -> list[tuple[str, Tap]]:
    # In a branch that was not compiled nothing was kept.
    values = record.values.get(step.path, [])
    d_outputs = record.gradients.get(step.path, ([None] * len(values), []))[0]
    found = []
    for k, (value, d, v) in enumerate(zip(values, d_outputs, step.eqn.outvars, strict=False)):
        has_gradient = is_inexact(v) and not step.inside_rule
        gradient = (jnp.zeros_like(value) if d is None else d) if has_gradient else None
        found.append((f"{step.key}.{k}" if len(values) > 1 else step.key, Tap(value, gradient)))
    return found
