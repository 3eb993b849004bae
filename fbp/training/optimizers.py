"""Optimizers of optax by name."""

import inspect
import math
from collections.abc import Callable
from functools import cache
from numbers import Real
from typing import Any

import optax

from fbp.errors import FbpError, unknown_name


def optimizer(
    name: str, learning_rate: float, *, decay_steps: int | None = None, **options: Any
) -> optax.GradientTransformation:
    """An optimizer of optax: `optimizer("sgd", 0.1, momentum=0.9)` is `optax.sgd(0.1, momentum=0.9)`.

    `fit` compiles once for each optimizer object: make one object for several runs.

    Args:
        name: the name of a function of optax that makes an optimizer, e.g. "adam".
        learning_rate: finite and at least 0.
        decay_steps: the number of steps in which the learning rate falls to 0, along half a cosine (Loshchilov &
            Hutter 2017); None keeps it constant.
        options: the other arguments of the optax function.

    Returns:
        An optax gradient transformation, for `train_step` and `fit`.

    Raises:
        FbpError: the name is unknown, the learning rate is out of range, or an option does not fit.

    Example:
        >>> rule = fbp.training.optimizer("sgd", 0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = rule.update({"w": jnp.array([1.0, 2.0])}, rule.init(params), params)
        >>> updates["w"].tolist()
        [-0.5, -1.0]
    """
    if name not in constructors():
        raise unknown_name("optimizer", name, constructors())
    if not isinstance(learning_rate, Real) or not math.isfinite(learning_rate) or learning_rate < 0:
        raise FbpError(
            f"the learning rate must be finite and at least 0, got {learning_rate!r}; 0.001 is usual for adam"
        )
    if decay_steps is not None and not 1 <= decay_steps < 2**31:
        raise FbpError(f"a learning rate must decay in 1..{2**31 - 1} steps, got {decay_steps}; use fewer epochs")
    constructor = constructors()[name]
    rate = float(learning_rate) if decay_steps is None else optax.cosine_decay_schedule(learning_rate, decay_steps)
    known = [key for key in inspect.signature(constructor).parameters if key != "learning_rate"]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of optimizer {name!r}", option, known)
    try:
        return constructor(learning_rate=rate, **options)
    except (TypeError, ValueError) as error:
        raise FbpError(
            f"options of optimizer {name!r} must be valid for optax.{name}, got {options}; {error}"
        ) from error


@cache
def constructors() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The functions of optax that make an optimizer, by name."""
    return {name: value for name, value in sorted(vars(optax).items()) if _is_optimizer(name, value)}


def _is_optimizer(name: str, value: Any) -> bool:
    # The functions scale_by_... are parts of optimizers.
    if name.startswith(("_", "scale_by_")) or not inspect.isfunction(value):
        return False
    signature = inspect.signature(value)
    returns = signature.return_annotation
    # A line search evaluates the loss again inside the update; a step here computes one gradient.
    return (
        "learning_rate" in signature.parameters
        and "linesearch" not in signature.parameters
        and inspect.isclass(returns)
        and issubclass(returns, optax.GradientTransformation)
    )
