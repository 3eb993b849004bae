"""What is read off one random network as it is passed forward and backward: sizes, angles, saturation, noise.

Layers are wrapped so that their caches keep what the forward pass reads; a probe in the reverse loop reads the rest.
Squares are taken after a power of two has been taken out, so that no reading under- or overflows where its logarithm
or its ratio is a plain number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator, Serial
from fbp.cotangent import Cotangent, log10_norm
from fbp.errors import FbpError
from fbp.layers import Activation, Dense
from fbp.precision import widen
from fbp.tree import map_layers, stack
from fbp.typing import Activations, Cache, Key, Layer, Params, Visit, Wrapper

SATURATED = 0.1
"""An entry is saturated where |g'(z)| is below this part of the largest |g'|."""

LOG10_2 = math.log10(2.0)


class Forward(NamedTuple):
    """Of the output Z of one dense layer.

    Attributes:
        log10_mean_square: log10 of the mean over examples and units of z^2.
        correlation: the cosine of the pre-activations of two examples, the mean over pairs; NaN for one example.
        shift: the power of two that `normalize_scale` took out of Z.
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
        dW: of the gradient with respect to W, in units of the input's scale (see `normalize_scale`).
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


@dataclass(frozen=True)
class _Probed(Wrapper):
    """The same layer, with a reading of its output beside its cache."""

    @property
    def recomputes(self) -> bool:
        return self.layer.recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        return self.layer.recompute(params, cache[0])


@dataclass(frozen=True)
class _ProbedDense(_Probed):
    """A dense layer whose output may stand in units of a power of two (see `normalize_scale`)."""

    rescale: bool
    in_stream: bool

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        Z, cache = self.layer.forward(params, A, key)
        Z, shift = normalize_scale(Z, self.rescale)
        return Z, (cache, read_output(Z, shift))


@dataclass(frozen=True)
class _ProbedActivation(_Probed):
    """An activation that acts on each entry alone."""

    function: Nonlinearity

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        out, cache = self.layer.forward(params, A, key)
        slope = self.function.pullback(cache, jnp.ones_like(cache))
        return out, (cache, read_units(slope, steepest_slope(self.function)))


@dataclass(frozen=True)
class _Tap(Layer):
    """The identity, with a reading of what passes."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return A, read_output(A, jnp.int32(0))

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        return (), dA_out


def add_probes(net: Layer, params: Params, rescale: bool, in_stream: bool = True) -> tuple[Layer, Params]:
    """The same function for `read_network` (up to powers of two, where it is rescaled), and its parameters.

    Args:
        net: a network.
        params: its parameters.
        rescale: whether dense layers take the power of two out of their output.
        in_stream: whether the network's output is that of a part of a chain: behind a part that is not a chain itself,
            such as a residual block, stands a tap.
    """
    if not isinstance(net, Combinator):
        if isinstance(net, Dense):
            return _ProbedDense(net, rescale, in_stream), params
        if isinstance(net, Activation) and activation(net.function).elementwise:
            return _ProbedActivation(net, activation(net.function)), params
        return net, params
    pairs = [
        add_probes(child, part, rescale, in_stream and net.is_chain)
        for child, part in zip(net.children, net.split(params), strict=True)
    ]
    probed, params = net.with_children([child for child, _ in pairs]), net.join([part for _, part in pairs])
    return (Serial(probed, _Tap()), (params, ())) if in_stream and not net.is_chain else (probed, params)


def read_network(
    net: Layer, params: Params, X: Activations, cotangent: Callable[[Activations], Activations]
) -> dict[str, Array]:
    """One forward and one backward pass of a network, read at every layer; compiled by the caller.

    Args:
        net: as `add_probes` gives it.
        params: the parameters that it gives.
        X: a batch, (m, ...).
        cotangent: gives dZ for the output Z.

    Returns:
        The fields of `Forward` and `Backward` of the dense layers, (L,), and of `Units` of the activation layers, if
        there are any; "stream_" and a field of `Forward`, or "stream_log10_dZ", log10 of the norm of the gradient with
        respect to the output, for the parts of the chain: dense layers, and what is not a chain itself, as a residual
        block; "log10_dX", log10 of the norm of the gradient with respect to the input.

    Raises:
        FbpError: the network has no dense layer.
    """
    Z, cache = net.forward(params, X)
    # Read in the reverse loop, not off the caches: a checkpoint has none.
    _, dX, visited = net.sweep(params, cache, Cotangent(cotangent(Z), jnp.int32(0)).normalize(), _read_visit)

    def pick(name: str) -> Any:
        return stack(net, map_layers(lambda layer, reading: (reading or {}).get(name), net, visited))

    dense = pick("dense")
    if dense is None:
        raise FbpError("a network must have a dense layer to have a gradient flow, got one without; add a Dense")
    stream, stream_dZ = pick("stream")
    forward, backward = dense
    units = pick("units")
    return {
        **restore_lengths(forward)._asdict(),
        **restore_dW(forward, backward)._asdict(),
        **({} if units is None else units._asdict()),
        **{f"stream_{name}": reading for name, reading in restore_lengths(stream)._asdict().items()},
        "stream_log10_dZ": stream_dZ,
        "log10_dX": log10_norm(dX.value, dX.exponent),
    }


def restore_lengths(forward: Forward) -> Forward:
    """The readings with the powers of two given back that `normalize_scale` took out of the layers so far.

    Args:
        forward: of all layers, (L, ...).
    """
    after = jnp.cumsum(forward.shift, axis=0).astype(forward.log10_mean_square.dtype)
    return forward._replace(log10_mean_square=forward.log10_mean_square + 2 * LOG10_2 * after)


def restore_dW(forward: Forward, backward: Backward) -> Backward:
    """The same for the gradients of the weights, which have the scale of the layer's input.

    Args:
        forward: of all layers, (L, ...), the powers not yet given back.
        backward: of the same.
    """
    before = jnp.cumsum(forward.shift, axis=0) - forward.shift
    return backward._replace(dW=backward.dW + LOG10_2 * before.astype(backward.dW.dtype))


def _read_visit(visit: Visit) -> dict[str, Any] | None:
    layer = visit.layer
    if isinstance(layer, _ProbedActivation):
        return {"units": visit.cache[1]}
    if isinstance(layer, _Tap):
        return {"stream": (visit.cache, log10_norm(visit.dA_out, visit.exponent))}
    if not isinstance(layer, _ProbedDense):
        return None
    forward, backward = visit.cache[1], read_gradients(visit, visit.cache[0])
    dense = {"dense": (forward, backward)}
    return dense | {"stream": (forward, backward.dZ)} if layer.in_stream else dense


def normalize_scale(Z: Activations, wanted: Bool[Array, ""] | bool = True) -> tuple[Activations, Int[Array, ""]]:
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


def read_output(Z: Activations, shift: Int[Array, ""]) -> Forward:
    """What the output of a layer says.

    Args:
        Z: (m, ...), in units of 2**shift.
        shift: the power of two that was taken out of it.
    """
    # Already in range where the network is rescaled; the second time costs nothing there.
    value, exponent = normalize_scale(Z)
    products = _inner_products(value.reshape(Z.shape[0], -1))
    square = jnp.log10(jnp.trace(products)) + 2 * LOG10_2 * exponent.astype(products.dtype) - math.log10(Z.size)
    return Forward(square, _mean_cosine(products), shift)


def read_units(slope: Activations, steepest: float | Float[Array, ""]) -> Units:
    """What the derivatives of an activation layer say.

    Args:
        slope: g'(Z), (m, ...).
        steepest: the largest |g'|.
    """
    flat = jnp.abs(slope) < SATURATED * steepest
    return Units(jnp.mean(flat, dtype=jnp.float32), jnp.mean(jnp.all(flat, axis=0), dtype=jnp.float32))


def read_gradients(visit: Visit, A: Activations, by_examples: bool = False) -> Backward:
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
    value, exponent = normalize_scale(A.reshape(-1, n_in))
    deltas = _inner_products(visit.dA_out.reshape(-1, n_out))
    inner = _inner_products(value) * deltas
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


def steepest_slope(function: Nonlinearity) -> Float[Array, ""]:
    """The largest |g'(z)| for |z| <= 12."""
    return jnp.max(jnp.abs(function.slope(jnp.linspace(-12, 12, 4801))))


def _inner_products(rows: Float[Array, "m n"]) -> Float[Array, "m m"]:
    wide = widen(rows)
    return wide @ wide.T


def _mean_cosine(gram: Float[Array, "m m"]) -> Float[Array, ""]:
    m = gram.shape[0]
    if m == 1:
        return jnp.full((), jnp.nan, gram.dtype)
    one_over = jax.lax.rsqrt(jnp.diagonal(gram))
    cosines = gram * one_over[:, None] * one_over[None, :]
    return (jnp.sum(cosines) - m) / (m * (m - 1))
