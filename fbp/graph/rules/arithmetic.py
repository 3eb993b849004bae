"""Arithmetic: sums, products, powers, the larger of two; and what has no derivative because it is a step."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from fbp.graph.rules.base import Applied, Cotangents, Rule, at_equal, constant, elementwise, single, sum_to


def _power_slope(dy: Array, x: Array, z: Any) -> Array:
    exponent = lax.convert_element_type(z, x.dtype)
    if jnp.issubdtype(jnp.result_type(z), jnp.integer):
        # x^0 is constant, also at x = 0, where x^-1 is not finite.
        safe = jnp.where(z == 0, jnp.ones_like(exponent), exponent - 1)
        return dy * jnp.where(z == 0, jnp.zeros_like(dy), exponent * lax.pow(x, safe))
    return dy * exponent * lax.pow(x, exponent - 1)


def _safe_log(x: Array) -> Array:
    return lax.log(jnp.where(x == 0, jnp.ones_like(x), x))


def _integer_power(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    n, (x,), dy = applied.params["y"], applied.x, single(d)
    return [jnp.zeros_like(dy) if n == 0 else dy * (n * lax.integer_pow(x, n - 1))]


def _select(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """Each case gets the gradient where it was chosen."""
    (which, *cases), dy = applied.x, single(d)
    zeros = jnp.zeros_like(dy)
    if which.dtype == jnp.bool_:
        chosen = [lambda: lax.select(which, zeros, dy), lambda: lax.select(which, dy, zeros)]
    else:
        mask = lambda k: lax.broadcast(which == k, dy.shape) if which.ndim < dy.ndim else which == k
        chosen = [lambda k=k: lax.select(mask(k), dy, zeros) for k in range(len(cases))]
    return [None, *(pick() if want else None for pick, want in zip(chosen, wanted[1:], strict=False))]


def _clamp(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (low, x, high), dy = applied.x, single(d)
    zeros = jnp.zeros_like(dy)
    keep = lambda where: jnp.where(where, dy, zeros)
    below, above = low > x, high < x
    pulls = (lambda: keep(below & (low < high)), lambda: keep(~below & ~above), lambda: keep(above))
    return [sum_to(pull(), v) if want else None for pull, v, want in zip(pulls, applied.x, wanted, strict=True)]


def _polynomial(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (x, *coefficients), dy = applied.x, single(d)
    slope = jnp.zeros_like(dy)
    for k in range(len(coefficients) - 1, 0, -1):
        slope = slope * x + k * coefficients[k]
    pulled: list[Any] = [sum_to(dy * slope, x) if wanted[0] else None]
    power = dy
    for c, want in zip(coefficients, wanted[1:], strict=True):
        pulled.append(sum_to(power, c) if want else None)
        power = power * x
    return pulled


RULES: tuple[Rule, ...] = (
    elementwise("neg", "y = -x:  dx = -dy", lambda dy, y, x: -dy),
    elementwise("add", "y = x + z:  dx = dy,  dz = dy", lambda dy, y, x, z: dy, lambda dy, y, x, z: dy),
    elementwise("add_any", "y = x + z:  dx = dy,  dz = dy", lambda dy, y, x, z: dy, lambda dy, y, x, z: dy),
    elementwise("sub", "y = x - z:  dx = dy,  dz = -dy", lambda dy, y, x, z: dy, lambda dy, y, x, z: -dy),
    elementwise("mul", "y = x z:  dx = dy z,  dz = dy x", lambda dy, y, x, z: dy * z, lambda dy, y, x, z: dy * x),
    elementwise(
        "div",
        "y = x / z:  dx = dy / z,  dz = -dy x / z²",
        lambda dy, y, x, z: dy / z,
        lambda dy, y, x, z: -(dy * lax.integer_pow(z, -2) * x),
    ),
    elementwise(
        "rem",
        "y = x - z trunc(x/z):  dx = dy,  dz = -dy trunc(x/z)",
        lambda dy, y, x, z: dy,
        lambda dy, y, x, z: -dy * lax.sign(x / z) * lax.floor(lax.abs(x / z)),
    ),
    elementwise(
        "max",
        "y = max(x, z):  dx = dy [x > z],  half where equal",
        lambda dy, y, x, z: dy * at_equal(x, z, y),
        lambda dy, y, x, z: dy * at_equal(z, x, y),
    ),
    elementwise(
        "min",
        "y = min(x, z):  dx = dy [x < z],  half where equal",
        lambda dy, y, x, z: dy * at_equal(x, z, y),
        lambda dy, y, x, z: dy * at_equal(z, x, y),
    ),
    elementwise(
        "pow",
        "y = xᶻ:  dx = dy z xᶻ⁻¹,  dz = dy y log x",
        lambda dy, y, x, z: _power_slope(dy, x, z),
        lambda dy, y, x, z: dy * (y * _safe_log(x)),
    ),
    Rule("integer_pow", "y = xⁿ:  dx = dy n xⁿ⁻¹", _integer_power),
    elementwise("square", "y = x²:  dx = dy 2x", lambda dy, y, x: dy * (2 * x)),
    elementwise("one_minus_square", "y = 1 - x²:  dx = -dy 2x", lambda dy, y, x: dy * (-2 * x)),
    Rule("polynomial", "y = Σ c_k xᵏ:  dx = dy Σ k c_k xᵏ⁻¹,  dc_k = dy xᵏ", _polynomial),
    elementwise("abs", "y = |x|:  dx = dy where x ≥ 0, else -dy", lambda dy, y, x: _unfold(dy, x, y)),
    Rule("select_n", "y = x_k, k the case:  dx_k = dy [k chosen]", _select),
    Rule("clamp", "y = min(max(x, l), h):  dx = dy [l ≤ x ≤ h],  dl = dy [x < l],  dh = dy [x > h]", _clamp),
    *constant("sign", "floor", "ceil", "round", "is_finite", formula="a step:  dx = 0"),
    *constant("eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to", formula="a comparison:  dx = 0"),
    *constant(
        *("and", "or", "xor", "not", "population_count", "clz", "mulhi", "nextafter"),
        *("shift_left", "shift_right_arithmetic", "shift_right_logical"),
        formula="bits:  dx = 0",
    ),
)


def _unfold(dy: Array, x: Array, y: Array) -> Array:
    if not jnp.iscomplexobj(x):
        return lax.select(x >= 0, dy, -dy)
    size = lax.convert_element_type(jnp.where(y == 0, jnp.ones_like(y), y), x.dtype)
    return lax.convert_element_type(dy, x.dtype) * lax.conj(x) / size
