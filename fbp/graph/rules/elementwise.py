"""Functions of one entry: exponentials, trigonometry, the error function, gamma and Bessel functions, complex parts."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import betaln, digamma, polygamma
from jaxtyping import Array

from fbp.graph.rules.base import Rule, elementwise, per_input


def _beta_density(a: Array, b: Array, x: Array) -> Array:
    return lax.exp((b - 1) * lax.log1p(-x) + (a - 1) * lax.log(x) - betaln(a, b))


def _gamma_density(a: Array, x: Array) -> Array:
    return lax.exp((a - 1) * lax.log(x) - x - lax.lgamma(a))


def _bell(x: Array) -> Array:
    # Written as -(x x), the compiler shares it with the erfc of the forward pass, and keeps one array more.
    return lax.exp(x * -x)


def _sample_slope(dy: Array, y: Array, key: Array, a: Array, *, log_space: bool) -> Array:
    # Its dtype is filled in by a decorator.
    slope: Any = lax.random_gamma_grad
    if not log_space:
        return dy * slope(a, y)
    sample = jnp.maximum(lax.exp(y), jnp.finfo(y.dtype).tiny)
    return dy * (slope(a, sample) / sample)


def _atan2_factor(v: Array, x: Array, z: Array) -> Array:
    return v / (x * x + z * z)


def _i1e_slope(x: Array, y: Array) -> Array:
    # At x = 0 the formula divides by zero; the derivative is 1/2 there.
    small = lax.abs(x) < jnp.finfo(x.dtype).eps
    safe = jnp.where(small, jnp.ones_like(x), x)
    return jnp.where(small, jnp.full_like(x, 0.5), lax.bessel_i0e(safe) - y * (lax.sign(safe) + 1 / safe))


RULES: tuple[Rule, ...] = (
    elementwise("exp", "y = eˣ:  dx = dy y", lambda dy, y, x: dy * y),
    elementwise("exp2", "y = 2ˣ:  dx = dy y log 2", lambda dy, y, x: dy * (math.log(2) * y)),
    elementwise("expm1", "y = eˣ - 1:  dx = dy eˣ", lambda dy, y, x: dy * lax.exp(x)),
    elementwise("log", "y = log x:  dx = dy / x", lambda dy, y, x: dy / x),
    elementwise("log2", "y = log₂ x:  dx = dy / (x log 2)", lambda dy, y, x: dy / (math.log(2) * x)),
    elementwise("log1p", "y = log(1 + x):  dx = dy / (1 + x)", lambda dy, y, x: dy / (1 + x)),
    elementwise("sqrt", "y = √x:  dx = dy / (2y)", lambda dy, y, x: dy * (0.5 / y)),
    elementwise("rsqrt", "y = 1/√x:  dx = -dy y / (2x)", lambda dy, y, x: dy * (-0.5 * (y / x))),
    elementwise("cbrt", "y = ∛x:  dx = dy y / (3x)", lambda dy, y, x: dy * ((1 / 3) * (y / x))),
    elementwise("logistic", "y = σ(x):  dx = dy y (1 - y)", lambda dy, y, x: dy * (y * (1 - y))),
    elementwise("sin", "y = sin x:  dx = dy cos x", lambda dy, y, x: dy * lax.cos(x)),
    elementwise("cos", "y = cos x:  dx = -dy sin x", lambda dy, y, x: -(dy * lax.sin(x))),
    elementwise("tan", "y = tan x:  dx = dy (1 + y²)", lambda dy, y, x: dy * (1 + y * y)),
    elementwise("asin", "y = arcsin x:  dx = dy / √(1 - x²)", lambda dy, y, x: dy * lax.rsqrt(1 - x * x)),
    elementwise("acos", "y = arccos x:  dx = -dy / √(1 - x²)", lambda dy, y, x: -(dy * lax.rsqrt(1 - x * x))),
    elementwise("atan", "y = arctan x:  dx = dy / (1 + x²)", lambda dy, y, x: dy / (1 + x * x)),
    elementwise(
        "atan2",
        "y = angle of (z, x):  dx = dy z / (x² + z²),  dz = -dy x / (x² + z²)",
        lambda dy, y, x, z: dy * _atan2_factor(z, x, z),
        lambda dy, y, x, z: -(dy * _atan2_factor(x, x, z)),
    ),
    elementwise("sinh", "y = sinh x:  dx = dy cosh x", lambda dy, y, x: dy * lax.cosh(x)),
    elementwise("cosh", "y = cosh x:  dx = dy sinh x", lambda dy, y, x: dy * lax.sinh(x)),
    elementwise("tanh", "y = tanh x:  dx = dy (1 - y²)", lambda dy, y, x: dy * ((1 + y) * (1 - y))),
    elementwise("asinh", "y = arsinh x:  dx = dy / √(x² + 1)", lambda dy, y, x: dy * lax.rsqrt(x * x + 1)),
    elementwise("acosh", "y = arcosh x:  dx = dy / √(x² - 1)", lambda dy, y, x: dy * lax.rsqrt((x - 1) * (x + 1))),
    elementwise("atanh", "y = artanh x:  dx = dy / (1 - x²)", lambda dy, y, x: dy / ((1 + x) * (1 - x))),
    elementwise(
        "erf",
        "y = erf x:  dx = dy 2/√π exp(-x²)",
        lambda dy, y, x: dy * (2 / math.sqrt(math.pi) * _bell(x)),
    ),
    elementwise(
        "erfc",
        "y = 1 - erf x:  dx = -dy 2/√π exp(-x²)",
        lambda dy, y, x: dy * (-2 / math.sqrt(math.pi) * _bell(x)),
    ),
    elementwise(
        "erf_inv",
        "x = erf y:  dx = dy √π/2 exp(y²)",
        lambda dy, y, x: dy * (math.sqrt(math.pi) / 2 * lax.exp(y * y)),
    ),
    elementwise("lgamma", "y = log Γ(x):  dx = dy ψ(x)", lambda dy, y, x: dy * digamma(x)),
    elementwise("digamma", "y = ψ(x):  dx = dy ψ′(x)", lambda dy, y, x: dy * polygamma(1, x)),
    elementwise("polygamma", "y = ψ⁽ᵐ⁾(x):  dx = dy ψ⁽ᵐ⁺¹⁾(x)", None, lambda dy, y, m, x: dy * lax.polygamma(m + 1, x)),
    elementwise(
        "igamma",
        "y = P(a, x):  dx = dy xᵃ⁻¹ e⁻ˣ / Γ(a),  da = dy ∂P/∂a",
        lambda dy, y, a, x: dy * lax.igamma_grad_a(a, x),
        lambda dy, y, a, x: dy * _gamma_density(a, x),
    ),
    elementwise(
        "igammac",
        "y = 1 - P(a, x):  dx = -dy xᵃ⁻¹ e⁻ˣ / Γ(a),  da = -dy ∂P/∂a",
        lambda dy, y, a, x: -(dy * lax.igamma_grad_a(a, x)),
        lambda dy, y, a, x: -(dy * _gamma_density(a, x)),
    ),
    per_input("random_gamma", "F_a(y) = u, u drawn:  da = -dy ∂F/∂a / (∂F/∂y)", None, _sample_slope),
    elementwise(
        "regularized_incomplete_beta",
        "y = I_x(a, b):  dx = dy xᵃ⁻¹ (1 - x)ᵇ⁻¹ / B(a, b)",
        None,
        None,
        lambda dy, y, a, b, x: dy * _beta_density(a, b, x),
    ),
    elementwise(
        "bessel_i0e",
        "y = e⁻|ˣ| I₀(x):  dx = dy (I₁e - y sign x)",
        lambda dy, y, x: dy * (lax.bessel_i1e(x) - lax.sign(x) * y),
    ),
    elementwise(
        "bessel_i1e", "y = e⁻|ˣ| I₁(x):  dx = dy (I₀e - y (sign x + 1/x))", lambda dy, y, x: dy * _i1e_slope(x, y)
    ),
    # JAX's convention: cotangents of holomorphic functions are not conjugated.
    elementwise("real", "y = Re x:  dx = dy", lambda dy, y, x: lax.complex(dy, jnp.zeros_like(dy))),
    elementwise("imag", "y = Im x:  dx = -i dy", lambda dy, y, x: lax.complex(jnp.zeros_like(dy), -dy)),
    elementwise(
        "complex",
        "y = x + i z:  dx = Re dy,  dz = -Im dy",
        lambda dy, y, x, z: lax.real(dy),
        lambda dy, y, x, z: -lax.imag(dy),
    ),
)
