"""The cotangent that the reverse loop carries, optionally with a power of two as its scale."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fbp.precision import widen


class Cotangent(NamedTuple):
    """dA = value * 2**exponent, the gradient of the loss with respect to an activation.

    With `exponent=None` the value is the gradient itself. With an integer exponent, exact powers of two keep the value
    near one, so that its norm is known even at depths where the gradient leaves the range of its dtype.

    Attributes:
        value: a pytree of the activation's structure, with None in place of integers, which have no cotangent.
        exponent: one for the whole tree.
    """

    value: Any
    exponent: Int[Array, ""] | None = None

    def propagate(self, dA_in: Any) -> "Cotangent":
        """The cotangent one layer further back, given that layer's dA_in for `self.value`."""
        if self.exponent is None:
            return Cotangent(dA_in)
        return Cotangent(dA_in, self.exponent).normalize()

    def normalize(self) -> "Cotangent":
        """The same cotangent with its largest entry in [1/2, 1), the power of two moved into the exponent."""
        exponent = jnp.int32(0) if self.exponent is None else self.exponent
        leaves = [jnp.max(jnp.abs(widen(leaf)), initial=0.0) for leaf in jax.tree.leaves(self.value)]
        if not leaves:
            return Cotangent(self.value, exponent)
        largest = reduce(jnp.maximum, leaves)
        usable = jnp.isfinite(largest) & (largest > 0)
        _, shift = jnp.frexp(jnp.where(usable, largest, jnp.ones_like(largest)))
        return Cotangent(_shift(self.value, -shift), exponent + shift)

    def __add__(self, other: "Cotangent") -> "Cotangent":  # type: ignore[override]
        """The sum: where a value is used twice, the cotangents of its uses add."""
        if self.exponent is None:
            return Cotangent(jax.tree.map(jnp.add, self.value, other.value))
        first, second = share_exponent([self, other])
        return Cotangent(jax.tree.map(jnp.add, first.value, second.value), first.exponent).normalize()


def share_exponent(cotangents: Sequence[Cotangent]) -> list[Cotangent]:
    """The same cotangents with one exponent for all, the largest; None stays None.

    Args:
        cotangents: at least one; all have an exponent, or none has.
    """
    given = [each.exponent for each in cotangents if each.exponent is not None]
    if len(given) < len(cotangents):
        return list(cotangents)
    # A zero has no scale: its exponent must not push the other terms out of range.
    lowest = jnp.iinfo(jnp.int32).min
    exponents = [jnp.where(_is_zero(each.value), lowest, own) for each, own in zip(cotangents, given, strict=True)]
    largest = reduce(jnp.maximum, exponents)
    common = jnp.where(largest == lowest, 0, largest)
    return [
        Cotangent(_shift(each.value, jnp.where(own == lowest, 0, own - common)), common)
        for each, own in zip(cotangents, exponents, strict=True)
    ]


def _is_zero(tree: Any) -> Array:
    return reduce(jnp.logical_and, (jnp.all(leaf == 0) for leaf in jax.tree.leaves(tree)), jnp.array(True))


def _shift(tree: Any, power: Array) -> Any:
    return jax.tree.map(lambda x: _times_power_of_two(x, power), tree)


def _times_power_of_two(x: Array, power: Array) -> Array:
    # Two factors, because 2**power can overflow where x * 2**power does not.
    half = power // 2
    return x * _power_of_two(half, x.dtype) * _power_of_two(power - half, x.dtype)


def _power_of_two(power: Array, dtype: Any) -> Array:
    # Its bits: exp2 rounds, and ldexp is a long program, of which a network would hold dozens.
    info = jnp.finfo(dtype)
    # An exponent of 0 in the bits is the number 0.
    bits = jnp.clip(power - info.minexp + 1, 0, info.maxexp - info.minexp)
    integer = jnp.dtype(f"int{info.bits}")
    return jax.lax.bitcast_convert_type(bits.astype(integer) << info.nmant, dtype)


def log10_norm(x: Float[Array, "*shape"], exponent: Int[Array, ""] | None = None) -> Float[Array, ""]:
    """log10 of the Euclidean norm of x * 2**exponent; minus infinity for zero.

    A power of two is factored out before squaring, so that no square over- or underflows.
    """
    scaled = Cotangent(widen(x), exponent).normalize()
    assert scaled.exponent is not None
    log10_scale = scaled.exponent.astype(scaled.value.dtype) * math.log10(2.0)
    return jnp.log10(jnp.linalg.norm(scaled.value.ravel())) + log10_scale
