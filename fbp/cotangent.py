"""The cotangent that the reverse loop carries, optionally with a power of two as its scale."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fbp.precision import widen


class Cotangent(NamedTuple):
    """dA = value * 2**exponent, the gradient of the loss with respect to an activation.

    With `exponent=None` the value is the gradient itself. With an integer exponent, exact powers of two keep the value
    near one, so that its norm is known even at depths where the gradient leaves the range of its dtype.
    """

    value: Float[Array, "*shape"]
    exponent: Int[Array, ""] | None = None

    def propagate(self, dA_in: Float[Array, "*shape_in"]) -> "Cotangent":
        """The cotangent one layer further back, given that layer's dA_in for `self.value`."""
        if self.exponent is None:
            return Cotangent(dA_in)
        return Cotangent(dA_in, self.exponent).normalize()

    def normalize(self) -> "Cotangent":
        """The same cotangent with its largest entry in [1/2, 1), the power of two moved into the exponent."""
        largest = jnp.max(jnp.abs(widen(self.value)), initial=0.0)
        usable = jnp.isfinite(largest) & (largest > 0)
        _, shift = jnp.frexp(jnp.where(usable, largest, jnp.ones_like(largest)))
        exponent = jnp.int32(0) if self.exponent is None else self.exponent
        return Cotangent(_times_power_of_two(self.value, -shift), exponent + shift)

    def __add__(self, other: "Cotangent") -> "Cotangent":  # type: ignore[override]
        """The sum: where a value is used twice, the cotangents of its uses add."""
        a, b = self.exponent, other.exponent
        if a is None or b is None:
            return Cotangent(self.value + other.value)
        # A zero has no scale: its exponent must not push the other term out of range.
        a, b = jnp.where(jnp.any(self.value != 0), a, b), jnp.where(jnp.any(other.value != 0), b, a)
        common = jnp.maximum(a, b)
        first, second = _times_power_of_two(self.value, a - common), _times_power_of_two(other.value, b - common)
        return Cotangent(first + second, common).normalize()


def _times_power_of_two(x: Array, power: Array) -> Array:
    # Two factors, because 2**power can overflow where x * 2**power does not; ldexp, because exp2 rounds.
    one = jnp.ones((), x.dtype)
    half = power // 2
    return x * jnp.ldexp(one, half) * jnp.ldexp(one, power - half)


def log10_norm(x: Float[Array, "*shape"], exponent: Int[Array, ""] | None = None) -> Float[Array, ""]:
    """log10 of the Euclidean norm of x * 2**exponent; minus infinity for zero.

    A power of two is factored out before squaring, so that no square over- or underflows.
    """
    scaled = Cotangent(widen(x), exponent).normalize()
    assert scaled.exponent is not None
    log10_scale = scaled.exponent.astype(scaled.value.dtype) * math.log10(2.0)
    return jnp.log10(jnp.linalg.norm(scaled.value.ravel())) + log10_scale
