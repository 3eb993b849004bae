"""Learning rates that change with the step, by name: warm-up in front, one of five shapes behind it."""

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from fbp.errors import FbpError, check_count, unknown_name

MOST_STEPS = 2**31 - 1
"""Steps are counted in int32."""
START_OF_CYCLE = 1 / 25
"""What "one_cycle" begins with, in units of the largest learning rate."""


def schedule(name: str, learning_rate: float, steps: int, *, warmup: int = 0, **options: Any) -> optax.Schedule:
    """A learning rate by the step, for `optimizer` or any optimizer of optax.

    "constant" stays; "linear" falls to `end` in a line; "cosine" along half a cosine (Loshchilov & Hutter 2017);
    "one_cycle" rises from 1/25 to the whole and falls to `end`, each along half a cosine (Smith & Topin 2018); "step"
    is multiplied by `factor` after every `every` steps.

    In front of any of them the rate rises in a line to where the shape begins (Goyal et al. 2017). The first step has
    the rate 1/(warmup + 1) of that, not 0, which would be a step in vain.

    Args:
        name: "constant", "linear", "cosine", "one_cycle" or "step".
        learning_rate: the largest one, finite and at least 0.
        steps: the steps of the whole training, warm-up included; afterwards the rate stays at its end.
        warmup: the steps of the warm-up, fewer than `steps`.
        options: of the shape: `end`, the last learning rate (of "step" the least), by default 0; of "one_cycle" `rise`,
            the part of the steps in which it rises, by default 0.3; of "step" `every`, and `factor`, by default 0.1.

    Returns:
        A function from the number of the step, from 0, to the learning rate.

    Raises:
        FbpError: the name or an option is unknown, or a number is out of range.

    Example:
        >>> rate = fbp.training.schedule("cosine", 0.5, steps=6, warmup=2)
        >>> [round(float(rate(step)), 3) for step in range(7)]
        [0.167, 0.333, 0.5, 0.427, 0.25, 0.073, 0.0]
    """
    if name not in SHAPES:
        raise unknown_name("schedule", name, SHAPES)
    check_rate(learning_rate)
    check_count("steps of a schedule", steps)
    if steps > MOST_STEPS:
        raise FbpError(f"steps of a schedule must be at most {MOST_STEPS}, got {steps}; train for fewer epochs")
    if warmup != 0:
        check_count("warmup", warmup)
        if warmup >= steps:
            raise FbpError(f"warmup must be of fewer than the {steps} steps of training, got {warmup}; use a tenth")
    shape = SHAPES[name]
    known = list(inspect.signature(shape).parameters)[2:]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of schedule {name!r}", option, known)
    if name == "step" and "every" not in options:
        raise FbpError("every must be given with the schedule 'step', got none; give the steps between two drops")
    behind = shape(float(learning_rate), int(steps) - int(warmup), **options)
    if not warmup:
        return behind
    start = learning_rate * (START_OF_CYCLE if name == "one_cycle" else 1)
    return optax.join_schedules(
        [optax.linear_schedule(start / (warmup + 1), start, int(warmup)), behind], [int(warmup)]
    )


def check_rate(learning_rate: Any) -> None:
    """Raise an error unless the value is a learning rate.

    Args:
        learning_rate: the value that was given; one that is traced is not known, and taken as it is.

    Raises:
        FbpError: the value is no number, not finite or negative.
    """
    if isinstance(learning_rate, Tracer):
        return
    if not is_number(learning_rate) or learning_rate < 0:
        raise FbpError(
            f"the learning rate must be finite and at least 0, got {learning_rate!r}; 0.001 is usual for adam"
        )


def is_number(received: Any) -> bool:
    """Whether the value is a finite number; booleans are not numbers here."""
    return isinstance(received, Real) and not isinstance(received, bool) and math.isfinite(received)


def _constant(peak: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(peak: float, steps: int, end: float = 0.0) -> optax.Schedule:
    _check_end(end, peak)
    return optax.linear_schedule(peak, float(end), steps)


def _cosine(peak: float, steps: int, end: float = 0.0) -> optax.Schedule:
    _check_end(end, peak)
    return _half_cosine(peak, end, steps)


def _one_cycle(peak: float, steps: int, end: float = 0.0, rise: float = 0.3) -> optax.Schedule:
    _check_end(end, peak)
    if not is_number(rise) or not 0 < rise < 1:
        raise FbpError(f"rise of the schedule 'one_cycle' must be between 0 and 1, got {rise!r}; 0.3 is usual")
    up = max(1, int(rise * steps))
    return optax.join_schedules(
        [_half_cosine(START_OF_CYCLE * peak, peak, up), _half_cosine(peak, end, max(1, steps - up))], [up]
    )


def _step(peak: float, steps: int, every: int, factor: float = 0.1, end: float = 0.0) -> optax.Schedule:
    _check_end(end, peak)
    check_count("every of the schedule 'step'", every)
    if not is_number(factor) or not 0 < factor < 1:
        raise FbpError(f"factor of the schedule 'step' must be between 0 and 1, got {factor!r}; 0.1 is usual")

    def rate(step: Any) -> Float[Array, ""]:
        # A quotient of integers: that of floats, which optax takes, may be rounded to below a whole number.
        drops = jnp.asarray(step // int(every), float)
        return jnp.maximum(peak * float(factor) ** drops, float(end))

    return rate


SHAPES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "step": _step,
}
"""What follows the warm-up, by name: functions of the largest rate, the number of steps and options."""


def _half_cosine(start: float, end: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(start, steps, alpha=end / start if start else 0.0)


def _check_end(end: float, peak: float) -> None:
    if not is_number(end) or not 0 <= end <= peak:
        raise FbpError(f"end of a schedule must be from 0 to the learning rate {peak:g}, got {end!r}; 0 is usual")
