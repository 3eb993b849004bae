"""Optimizers of optax by name, with clipping, weight decay and accumulation of gradients around them."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_origin

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from fbp.errors import FbpError, check_count, unknown_name
from fbp.precision import widen
from fbp.training.schedules import check_rate, is_number
from fbp.typing import Params

VECTORS = frozenset({"b", "bias", "gamma", "beta", "scale", "shift"})
"""Names of biases and gains; in a loop they have a second axis, so that their rank does not tell."""
TABLES = frozenset({"E", "P"})
"""Names of embeddings and positions."""


def find_decayed(params: Params) -> Any:
    """Which parameters decay: matrices, but neither biases and gains, nor embeddings and positions.

    The name decides, and for other names the rank: a parameter of a layer of one's own decays from two axes on.

    Args:
        params: parameters, or anything of their structure.

    Returns:
        A tree of booleans of the same structure.

    Example:
        >>> params, _ = fbp.gpt(50, 16, width=8, depth=2, heads=2).init(jax.random.key(0))
        >>> decays = fbp.training.find_decayed(params)
        >>> decays["tokens"], decays["blocks"]["q"], decays["blocks"]["norm1"]
        ({'E': False}, {'W': True, 'b': False}, {'beta': False, 'gamma': False})
    """

    def decays(path: Any, leaf: Any) -> bool:
        return jax.tree_util.keystr(path[-1:], simple=True) not in VECTORS | TABLES and jnp.ndim(leaf) >= 2

    return jax.tree.map_with_path(decays, params)


def optimizer(
    name: str,
    learning_rate: float | optax.Schedule,
    *,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    mask: Any = find_decayed,
    accumulate: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer of optax: `optimizer("sgd", 0.1, momentum=0.9)` is `optax.sgd(0.1, momentum=0.9)`.

    `fit` compiles once for each optimizer object: make one object for several runs.

    Args:
        name: the name of a function of optax that makes an optimizer, e.g. "adam".
        learning_rate: finite and at least 0; or a schedule, see `schedule`, which counts the steps of training.
        clip_norm: gradients whose norm over all parameters is larger are scaled to this norm; None for no clipping.
        weight_decay: the factor d of W <- W - learning rate d W beside each update. The decay is decoupled from the
            gradient (Loshchilov & Hutter 2019). An optimizer that has weight decay of its own, such as "adamw", "lion"
            or "lamb", applies it as it defines it; None is then its own default, and otherwise no decay.
        mask: which parameters decay: a function from parameters to booleans, or a tree of them.
        accumulate: the number of steps whose mean gradient makes one update. The parameters stay in the steps between;
            steps at the end of training that are too few for an update make none.
        options: the other arguments of the optax function.

    Returns:
        An optax gradient transformation, for `train_step` and `fit`.

    Raises:
        FbpError: the name is unknown, a number is out of range, or an option does not fit.

    Example:
        >>> rule = fbp.training.optimizer("sgd", 0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = rule.update({"w": jnp.array([1.0, 2.0])}, rule.init(params), params)
        >>> updates["w"].tolist()
        [-0.5, -1.0]
        >>> rate = fbp.training.schedule("cosine", 0.001, steps=10_000, warmup=500)
        >>> rule = fbp.training.optimizer("adamw", rate, weight_decay=0.1, clip_norm=1.0, b2=0.95)
    """
    if name not in constructors():
        raise unknown_name("optimizer", name, constructors())
    if not callable(learning_rate):
        check_rate(learning_rate)
    if clip_norm is not None and (not is_number(clip_norm) or clip_norm <= 0):
        raise FbpError(f"clip_norm must be finite and positive, got {clip_norm!r}; 1.0 is usual, None does not clip")
    if weight_decay is not None and (not is_number(weight_decay) or weight_decay < 0):
        raise FbpError(f"weight_decay must be finite and at least 0, got {weight_decay!r}; 0.1 is usual for adamw")
    check_count("accumulate", accumulate)
    rate = _per_update(learning_rate, int(accumulate))
    constructor = constructors()[name]
    own = inspect.signature(constructor).parameters
    kinds = [get_origin(kind) for kind in get_args(own["learning_rate"].annotation)]
    if callable(rate) and Callable not in kinds:
        raise FbpError(
            f"the learning rate of {name!r} must be a number, got a schedule; give a number, or use another optimizer"
        )
    known = [key for key in own if key != "learning_rate"]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of optimizer {name!r}", option, known)
    masks = {key: mask for key in ("mask", "weight_decay_mask") if key in own}
    decays_itself = bool(masks) and "weight_decay" in own
    if decays_itself and weight_decay is not None:
        options["weight_decay"] = float(weight_decay)
    try:
        parts = [constructor(learning_rate=rate, **(masks | options))]
    except (TypeError, ValueError) as error:
        raise FbpError(
            f"options of optimizer {name!r} must be valid for optax.{name}, got {options}; {error}"
        ) from error
    if clip_norm is not None:
        parts.insert(0, _clip_by_global_norm(float(clip_norm)))
    if weight_decay and not decays_itself:
        parts.append(optax.add_decayed_weights(_scale_rate(rate, -float(weight_decay)), mask))
    rule = parts[0] if len(parts) == 1 else optax.chain(*parts)
    if accumulate == 1:
        return rule
    # float64 is float32 unless JAX computes in float64: float32 would then lose half of the digits.
    wrapped = optax.MultiSteps(rule, int(accumulate), accumulator_dtype=jnp.float64)
    return wrapped.gradient_transformation()


def _clip_by_global_norm(clip_norm: float) -> optax.GradientTransformation:
    """That of optax in at least float32: in float16 the squares overflow, and the clipped gradient would be zero."""
    clip = optax.clip_by_global_norm(clip_norm)

    def update(updates: Params, state: optax.OptState, params: Params = None) -> tuple[Params, optax.OptState]:
        clipped, state = clip.update(jax.tree.map(widen, updates), state, params)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), clipped, updates), state

    return optax.GradientTransformation(clip.init, update)


def _per_update(rate: float | optax.Schedule, accumulate: int) -> float | optax.Schedule:
    """The learning rate by the number of the update, from that by the number of the step."""
    if not callable(rate):
        return rate if isinstance(rate, Tracer) else float(rate)
    return rate if accumulate == 1 else lambda count: rate(count * accumulate)


def _scale_rate(rate: float | optax.Schedule, factor: float) -> float | optax.Schedule:
    return (lambda count: factor * rate(count)) if callable(rate) else factor * rate


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
