"""What a local rule is: one primitive, its formula, and the function that pulls a cotangent back through it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from fbp.errors import FbpError

Cotangents: TypeAlias = Sequence[Array | None]
"""One for each array, None where it is zero."""


@dataclass(frozen=True)
class Applied:
    """One application of a primitive.

    Attributes:
        name: of the primitive.
        x: its inputs.
        y: its outputs.
        params: what else it was given.
    """

    name: str
    x: tuple[Any, ...]
    y: tuple[Any, ...]
    params: dict[str, Any]


Pull: TypeAlias = Callable[[Applied, Cotangents, Sequence[bool]], Cotangents]
"""(application, cotangents of its outputs, which inputs need one) -> cotangents of its inputs."""


@dataclass(frozen=True)
class Rule:
    """The local derivative of one primitive.

    Attributes:
        primitive: its name in JAX.
        formula: what the rule computes, with y the output, x (and z, w) the inputs, dv the gradient with respect to v.
        pull: the function that computes it; None where the derivative is zero wherever it exists.
    """

    primitive: str
    formula: str
    pull: Pull | None


def constant(*names: str, formula: str = "dx = 0") -> tuple[Rule, ...]:
    """Rules of primitives through which no gradient flows."""
    return tuple(Rule(name, formula, None) for name in names)


def elementwise(name: str, formula: str, *factors: Callable[..., Array] | None) -> Rule:
    """The rule of a primitive that computes entry by entry.

    Args:
        name: of the primitive.
        formula: for readers.
        factors: for each input the function (dy, y, *inputs) -> its cotangent, of the shape of y; None where JAX has
            no derivative.
    """

    def pull(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
        return [
            sum_to(_known(applied, i, factor)(d[0], applied.y[0], *applied.x), x) if want else None
            for i, (factor, x, want) in enumerate(zip(factors, applied.x, wanted, strict=True))
        ]

    return Rule(name, formula, pull)


def per_input(name: str, formula: str, *pulls: Callable[..., Any] | None) -> Rule:
    """The rule of a primitive with one output and parameters.

    Args:
        name: of the primitive.
        formula: for readers.
        pulls: for each input the function (dy, y, *inputs, **params) -> its cotangent; None for indices and the like.
    """

    def pull(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
        inputs = zip(pulls, wanted, strict=True)
        return [
            _known(applied, i, own)(d[0], applied.y[0], *applied.x, **applied.params) if want else None
            for i, (own, want) in enumerate(inputs)
        ]

    return Rule(name, formula, pull)


def _known(applied: Applied, position: int, pull: Callable[..., Any] | None) -> Callable[..., Any]:
    if pull is None:
        raise FbpError(
            f"input {position} of {applied.name} must have a local derivative, got a gradient asked for there; "
            "hold it constant, jax.lax.stop_gradient(...)"
        )
    return pull


def sum_to(d: Array, x: Any) -> Array:
    """A cotangent summed over the axes along which x was broadcast."""
    shape = jnp.shape(x)
    if jnp.shape(d) == shape:
        return d
    if not shape:
        return jnp.sum(d, dtype=d.dtype)
    axes = tuple(i for i, (n, m) in enumerate(zip(shape, d.shape, strict=True)) if n != m)
    return jnp.sum(d, axes, keepdims=True, dtype=d.dtype)


def single(d: Cotangents) -> Array:
    """The cotangent of the first output, where only that one can have any."""
    assert d[0] is not None
    return d[0]


def fill_zeros(d: Cotangents, like: Sequence[Any]) -> list[Array]:
    """The cotangents with zeros in place of None."""
    return [jnp.zeros_like(x) if dx is None else dx for dx, x in zip(d, like, strict=True)]


def fill_where(flags: Sequence[bool], d: Cotangents, like: Sequence[Any]) -> list[Any]:
    """The cotangents that are marked, zeros in place of None; None for the others."""
    filled = zip(flags, d, like, strict=True)
    return [(jnp.zeros_like(x) if dx is None else dx) if yes else None for yes, dx, x in filled]


def pick(flags: Sequence[bool], some: Sequence[Any]) -> list[Any]:
    """Those that are marked, None for the others."""
    return [x if yes else None for yes, x in zip(flags, some, strict=True)]


def at_equal(x: Array, z: Array, y: Array) -> Array:
    """1 where y is x, 0 where it is z, 1/2 where both are equal: the share of x in a maximum or minimum y."""
    return lax.convert_element_type(x == y, y.dtype) / (1 + lax.convert_element_type(x == z, y.dtype))
