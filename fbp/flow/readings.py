"""What is read off one layer, forward and backward: sizes, angles, saturation, noise.

Squares are taken after a power of two has been taken out, so that no reading under- or overflows where its logarithm
or its ratio is a plain number.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fbp.activations import Nonlinearity
from fbp.cotangent import Cotangent, log10_norm
from fbp.precision import widen
from fbp.typing import Activations, Visit

SATURATED = 0.1
"""An entry is saturated where |g'(z)| is below this part of the largest |g'|."""

LOG10_2 = math.log10(2.0)


class Forward(NamedTuple):
    """Of the output Z of one dense layer.

    Attributes:
        log10_mean_square: log10 of the mean over examples and units of z^2.
        correlation: the cosine of the pre-activations of two examples, the mean over pairs; NaN for one example.
        shift: the power of two that `gauged` took out of Z.
    """

    log10_mean_square: Float[Array, ""]
    correlation: Float[Array, ""]
    shift: Int[Array, ""]


class Units(NamedTuple):
    """Of one activation layer.

    Attributes:
        saturated: the fraction of entries with |g'(z)| < 0.1 sup |g'|; for relu those with z <= 0.
        dead: the fraction of units that are so at every example of the batch.
    """

    saturated: Float[Array, ""]
    dead: Float[Array, ""]


class Backward(NamedTuple):
    """Of the gradients at one dense layer; the four norms are log10 of Euclidean norms over the batch.

    Attributes:
        dZ: of the gradient with respect to its output.
        dA: of the gradient with respect to its input.
        dW: of the gradient with respect to W, in units of the input's scale (see `gauged`).
        db: of the gradient with respect to b.
        cosine: the cosine of the gradients dW of two examples, the mean over pairs; NaN for one example.
        noise: tr Cov(g) / |mean g|^2 of the examples' gradients g of W, McCandlish et al. (2018): the batch at which
            noise and signal are equal; NaN for one example.
    """

    dZ: Float[Array, ""]
    dA: Float[Array, ""]
    dW: Float[Array, ""]
    db: Float[Array, ""]
    cosine: Float[Array, ""]
    noise: Float[Array, ""]


def gauged(Z: Activations, wanted: Bool[Array, ""] | bool = True) -> tuple[Activations, Int[Array, ""]]:
    """Z without its power of two, and the power: Z = value * 2**shift.

    A positively homogeneous network without biases, g(cz) = c g(z), may be run with every Z rescaled: g' does not
    change, hence no dZ does, and A and dW are the true ones up to the powers taken out before them.

    Args:
        Z: pre-activations, (m, ...).
        wanted: where False, Z as it is and 0.
    """
    scaled = Cotangent(Z, jnp.int32(0)).normalize()
    assert scaled.exponent is not None
    return jnp.where(wanted, scaled.value, Z), jnp.where(wanted, scaled.exponent, 0)


def see_output(Z: Activations, shift: Int[Array, ""]) -> Forward:
    """What a dense layer's output says.

    Args:
        Z: (m, ...), in units of 2**shift.
        shift: the power of two that was taken out of it.
    """
    # Already in range where the network is rescaled; the second time costs nothing there.
    value, exponent = gauged(Z)
    products = _products(value.reshape(Z.shape[0], -1))
    square = jnp.log10(jnp.trace(products)) + 2 * LOG10_2 * exponent.astype(products.dtype) - math.log10(Z.size)
    return Forward(square, _mean_cosine(products), shift)


def see_units(slope: Activations, steepest: float | Float[Array, ""]) -> Units:
    """What the derivatives of an activation layer say.

    Args:
        slope: g'(Z), (m, ...).
        steepest: the largest |g'|.
    """
    flat = jnp.abs(slope) < SATURATED * steepest
    return Units(jnp.mean(flat, dtype=jnp.float32), jnp.mean(jnp.all(flat, axis=0), dtype=jnp.float32))


def see_gradients(visit: Visit, A: Activations, by_examples: bool = False) -> Backward:
    """What the reverse loop says as it passes a dense layer.

    With g_i = A_i^T dZ_i the gradient of W by example i alone, everything about the g_i is in their inner products
    <g_i, g_j> = (A_i . A_j)(dZ_i . dZ_j), which two small matrix products give.

    Args:
        visit: of the dense layer.
        A: its input, (m, ..., n_in).
        by_examples: take the norm of dW from the inner products too: cheaper than dW where m < n/2, but it loses
            digits where the g_i cancel in their sum, which those of independent cotangents do not.
    """
    d, e = visit.d_params, visit.exponent
    assert e is not None, "the reverse loop carries a power of two, so that dZ is in range"
    m, n_in, n_out = A.shape[0], A.shape[-1], visit.dA_out.shape[-1]
    value, exponent = gauged(A.reshape(-1, n_in))
    deltas = _products(visit.dA_out.reshape(-1, n_out))
    inner = _products(value) * deltas
    inner = inner.reshape(m, -1, m, inner.shape[0] // m).sum(axis=(1, 3))
    total, trace = jnp.maximum(jnp.sum(inner), 0), jnp.trace(inner)
    dZ = 0.5 * jnp.log10(jnp.trace(deltas)) + LOG10_2 * e.astype(deltas.dtype)
    dA, db = log10_norm(visit.dA_in, e), log10_norm(d["b"], e)
    if by_examples:
        dW = 0.5 * jnp.log10(total) + LOG10_2 * (exponent + e).astype(total.dtype)
    else:
        dW = log10_norm(d["W"], e)
    noise = (trace - total / m) * m**2 / ((m - 1) * total) if m > 1 else jnp.full_like(total, jnp.nan)
    return Backward(dZ, dA, dW, db, _mean_cosine(inner), noise)


def _products(rows: Float[Array, "m n"]) -> Float[Array, "m m"]:
    wide = widen(rows)
    return wide @ wide.T


def _mean_cosine(gram: Float[Array, "m m"]) -> Float[Array, ""]:
    m = gram.shape[0]
    if m == 1:
        return jnp.full((), jnp.nan, gram.dtype)
    one_over = jax.lax.rsqrt(jnp.diagonal(gram))
    cosines = gram * one_over[:, None] * one_over[None, :]
    return (jnp.sum(cosines) - m) / (m * (m - 1))


def steepest(row: Nonlinearity) -> Float[Array, ""]:
    """The largest |g'(z)| for |z| <= 12."""
    Z = jnp.linspace(-12, 12, 4801)
    return jnp.max(jnp.abs(row.slope(Z)))
