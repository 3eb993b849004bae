"""What is read off one random network as it is passed forward and backward: sizes, angles, saturation, noise.

Rows are the layers with a weight matrix, which are those that declare an `Outer` (`Layer.linear`): dense layers,
embeddings, unembeddings. Beside them stands the stream, the values that everything passes on its way to the output.

Layers are wrapped so that their caches keep what the forward pass reads; a probe in the reverse loop reads the rest.
Squares are taken after a power of two has been taken out, so that no reading under- or overflows where its logarithm
or its ratio is a plain number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator, Serial
from fbp.cotangent import Cotangent, log10_norm
from fbp.errors import FbpError
from fbp.layers import Activation
from fbp.pairs import Outer
from fbp.precision import widen
from fbp.tree import list_weights, map_layers, stack
from fbp.typing import Activations, Cache, Key, Layer, Params, Visit, Wrapper

SATURATED = 0.1
"""An entry is saturated where |g'(z)| is below this part of the largest |g'|."""

LOG10_2 = math.log10(2.0)


class Forward(NamedTuple):
    """Of the output Z of one layer.

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
    """Of the gradients at one layer with a weight matrix; the four norms are log10 of Euclidean norms over the batch.

    Attributes:
        dZ: of the gradient with respect to its output.
        dA: of the gradient with respect to its input; minus infinity where that are tokens.
        dW: of the gradient with respect to W (or E), in units of the input's scale (see `normalize_scale`).
        db: of the gradient with respect to b; minus infinity where there is none.
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
class _ProbedLayer(_Probed):
    """A layer whose output is read if it has a weight matrix, or if it joins several values in the stream.

    With a weight matrix, the output may stand in units of a power of two (see `normalize_scale`).
    """

    rescale: bool
    in_stream: bool

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        Z, cache = self.layer.forward(params, A, key)
        shift = jnp.int32(0)
        if list_weights(self.layer, params, cache, Z):
            Z, shift = normalize_scale(Z) if self.rescale else (Z, shift)
        elif not self.in_stream or not isinstance(A, (tuple, dict)):
            return Z, (cache, None)
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
class Tap(Layer):
    """The identity, with a reading of what passes, if it is one array."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return A, None if isinstance(A, (tuple, dict)) else read_output(A, jnp.int32(0))

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        return (), dA_out


def add_probes(net: Layer, params: Params, rescale: bool, in_stream: bool = True) -> tuple[Layer, Params]:
    """The same function for `read_network` (up to powers of two, where it is rescaled), and its parameters.

    Args:
        net: a network.
        params: its parameters.
        rescale: whether layers with a weight matrix take the power of two out of their output.
        in_stream: whether everything passes the network's output. Behind a part of the stream that has none of its
            own, such as a residual block, stands a tap.
    """
    if not isinstance(net, Combinator):
        if isinstance(net, Activation) and activation(net.function).elementwise:
            return _ProbedActivation(net, activation(net.function)), params
        return _ProbedLayer(net, rescale, in_stream), params
    owners, stream = list(net.owner_of_child.values()), net.stream if in_stream else ()
    # A tap changes the structure of the parameters, which two lines that share them need in common.
    taps = [not isinstance(child, Combinator) or owners.count(owners[i]) == 1 for i, child in enumerate(net.children)]
    pairs = [
        add_probes(child, part, rescale, taps[i] and i in stream)
        for i, (child, part) in enumerate(zip(net.children, net.split(params), strict=True))
    ]
    probed, params = net.with_children([child for child, _ in pairs]), net.join([part for _, part in pairs])
    return (Serial(probed, Tap()), (params, ())) if in_stream and not stream else (probed, params)


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
        The fields of `Forward` and `Backward` of the layers with a weight matrix, (L,), and of `Units` of the
        activation layers, if there are any; "dZ_cosine", the cosine of two examples' dZ, the mean over pairs, (L,);
        "stream_" and a field of `Forward`, or "stream_log10_dZ" and "stream_dZ_cosine", log10 of the norm of the
        gradient with respect to the output, and its cosine, for the parts of the stream: of the layers that everything
        passes, those with a weight matrix and those that join several values, and what has no stream itself, as a
        residual block; "log10_dX", log10 of the norm of the gradient with respect to the input, NaN where that are
        tokens; "marks", what each layer has readings of (see `fbp.flow.parts`).

    Raises:
        FbpError: the network has no layer with a weight matrix.
    """
    Z, cache = net.forward(params, X)
    # Read in the reverse loop, not off the caches: a checkpoint has none.
    _, dX, visited = net.sweep(params, cache, Cotangent(cotangent(Z), jnp.int32(0)).normalize(), _read_visit)

    def pick(name: str) -> Any:
        return stack(net, map_layers(lambda layer, reading: (reading or {}).get(name), net, visited))

    dense = pick("dense")
    if dense is None:
        raise FbpError("a network must have a dense layer to have a gradient flow, got one without; add a Dense")
    forward, backward, cosine = dense
    units, stream = pick("units"), pick("stream")
    return {
        **restore_lengths(forward)._asdict(),
        "dZ_cosine": cosine,
        **restore_dW(forward, backward)._asdict(),
        **({} if units is None else units._asdict()),
        **({} if stream is None else _name_stream(*stream)),
        "log10_dX": _norm_of_tree(dX),
        "marks": map_layers(lambda layer, reading: dict.fromkeys(reading or (), ()), net, visited),
    }


def _name_stream(forward: Forward, dZ: Array, cosine: Array) -> dict[str, Array]:
    readings = restore_lengths(forward)._asdict() | {"log10_dZ": dZ, "dZ_cosine": cosine}
    return {f"stream_{name}": reading for name, reading in readings.items()}


def _norm_of_tree(dX: Cotangent) -> Array:
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(dX.value)]
    return log10_norm(jnp.concatenate(leaves), dX.exponent) if leaves else jnp.full((), jnp.nan)


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
    if isinstance(layer, Tap):
        forward, in_stream, dense = visit.cache, True, {}
    elif not isinstance(layer, _ProbedLayer):
        return None
    else:
        forward, in_stream = visit.cache[1], layer.in_stream
        has_weight = list_weights(layer, visit.params, visit.cache, visit.dA_out)
        dense = {"dense": (forward, read_gradients(visit), _read_cosine(visit))} if has_weight else {}
    if not in_stream or forward is None:
        return dense
    return dense | {"stream": (forward, log10_norm(visit.dA_out, visit.exponent), _read_cosine(visit))}


def _read_cosine(visit: Visit) -> Array:
    value, _ = normalize_scale(visit.dA_out)
    return _mean_cosine(_inner_products(value.reshape(value.shape[0], -1)))


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


def read_gradients(visit: Visit, by_examples: bool = False) -> Backward:
    """What the reverse loop says as it passes a layer with a weight matrix.

    With g_i = A_i^T dZ_i the gradient of W by example i alone, everything about the g_i is in their inner products
    <g_i, g_j> = (A_i . A_j)(dZ_i . dZ_j), which two small matrix products give.

    Args:
        visit: of the layer.
        by_examples: take the norm of dW from the inner products too: cheaper than dW where m < n/2, but it loses
            digits where the g_i cancel in their sum, which those of independent cotangents do not.
    """
    e = visit.exponent
    assert e is not None, "the reverse loop carries a power of two, so that dZ is in range"
    pairs = visit.layer.linear(visit.params, visit.cache, visit.dA_out)
    W, pair = next((name, pair) for name, pair in pairs.items() if isinstance(pair, Outer))
    inner, exponent = _inner_products_of_gradients(pair)
    m, total, trace = len(inner), jnp.maximum(jnp.sum(inner), 0), jnp.trace(inner)
    norm = lambda x: log10_norm(jnp.zeros((), inner.dtype) if x is None else x, e)
    dZ, dA, db = norm(visit.dA_out), norm(visit.dA_in), norm(visit.d_params.get("b"))
    if by_examples:
        dW = 0.5 * jnp.log10(total) + LOG10_2 * (exponent + e).astype(total.dtype)
    else:
        dW = norm(visit.d_params[W])
    noise = (trace - total / m) * m**2 / ((m - 1) * total) if m > 1 else jnp.full_like(total, jnp.nan)
    return Backward(dZ, dA, dW, db, _mean_cosine(inner), noise)


def steepest_slope(function: Nonlinearity) -> Float[Array, ""]:
    """The largest |g'(z)| for |z| <= 12."""
    return jnp.max(jnp.abs(function.slope(jnp.linspace(-12, 12, 4801))))


def _inner_products_of_gradients(pair: Outer) -> tuple[Float[Array, "m m"], Int[Array, ""]]:
    """<g_i, g_j> of the examples' gradients in units of 4**exponent, and the exponent."""
    A, dZ = Cotangent(pair.A, jnp.int32(0)), Cotangent(pair.dZ, jnp.int32(0)).normalize()
    A = A if jnp.issubdtype(pair.A.dtype, jnp.integer) else A.normalize()
    assert A.exponent is not None
    assert dZ.exponent is not None
    return replace(pair, A=A.value, dZ=dZ.value).products(), A.exponent + dZ.exponent


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
