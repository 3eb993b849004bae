"""Many random networks of equal blocks, forward and backward through the layers of fbp.

Weights are drawn by numpy, which is quicker than a compiled generator on a processor; one draw serves all settings
(sigma_w, sigma_b) of a claim, and one compiled program all claims of one shape.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import fbp
from fbp.initializers import Initializer, initializer
from fbp.tree import map_layers

UNIT = "mean_field(1, 1)"
"""Var W = 1 / fan_in and Var b = 1, for settings to scale."""
_MOST_WEIGHTS = 24_000_000
"""Weights that are drawn at a time: 100 MB."""


class Setting(NamedTuple):
    """What is scaled and where a network starts.

    Attributes:
        sigma_w: a factor on W.
        sigma_b: a factor on b.
        q: the mean square of the Gaussian Z_0.
        c: the correlation of any two examples of it.
    """

    sigma_w: float = 1.0
    sigma_b: float = 0.0
    q: float = 1.0
    c: float = 0.0


class Flow(NamedTuple):
    """What passed the blocks of many networks; Z_l is what enters block l + 1.

    Attributes:
        log_dZ: ln ||dZ_l||^2 over the batch, l = 0, ..., L, (networks, L + 1).
        q: the mean square of Z_l, (networks, L + 1).
        distance: 1 - c of two examples' Z_l, c their cosine, the mean over pairs, (networks, L + 1).
        log_dW: ln ||dW||^2 of each block's dense layer, (networks, L).
    """

    log_dZ: np.ndarray
    q: np.ndarray
    distance: np.ndarray
    log_dW: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """||dZ_l||^2 / ||dZ_{l+1}||^2, (networks, L)."""
        return np.exp(self.log_dZ[:, :-1] - self.log_dZ[:, 1:])

    @property
    def gains(self) -> np.ndarray:
        """||dZ_0||^2 / ||dZ_L||^2, (networks,)."""
        return np.exp(self.log_dZ[:, 0] - self.log_dZ[:, -1])


def plain(activation: str, width: int, init: str | Initializer = UNIT) -> fbp.Layer:
    """The block (activation, dense)."""
    return fbp.Serial(fbp.Activation(activation), fbp.Dense(width, init))


def measure(
    block: fbp.Layer,
    width: int,
    depth: int,
    networks: int,
    settings: Sequence[Setting] = (Setting(),),
    examples: int = 8,
    seed: int = 0,
    weights: bool = False,
) -> list[Flow]:
    """One `Flow` a setting, of networks of `depth` equal blocks that all settings share.

    Z_0 is Gaussian, the cotangent of Z_L standard normal, both of their own for each example.

    Args:
        block: keeps the width.
        width: n.
        depth: L.
        networks: how many.
        settings: the scales of the weights, and where the networks start.
        examples: the batch.
        seed: of everything.
        weights: whether `log_dW` is wanted.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, min(networks, _MOST_WEIGHTS // (depth * width * width)))
    parts: list[list[Flow]] = [[] for _ in settings]
    for start in range(0, networks, at_once):
        # All chunks have one shape, so that one program serves them; what is over is cut off.
        params = draw(block, (width,), (at_once, depth), rng)
        common, own, dZ = (normal(rng, (at_once, k, width)) for k in (1, examples, examples))
        for part, s in zip(parts, settings, strict=True):
            X = np.float32(s.q**0.5) * (np.float32(s.c**0.5) * common + np.float32((1 - s.c) ** 0.5) * own)
            flow = passes(block, weights, params, s.sigma_w, s.sigma_b, X, dZ)
            part.append(Flow(*(np.asarray(x, np.float64)[: networks - start] for x in flow)))
    return [Flow(*map(np.concatenate, zip(*part, strict=True))) for part in parts]


@partial(jax.jit, static_argnums=(0, 1))
def passes(
    block: fbp.Layer, weights: bool, params: Any, sigma_w: Any, sigma_b: Any, X: Any, dZ: Any
) -> tuple[Array, ...]:
    """The fields of a `Flow` of given networks: params (networks, L, ...), X and dZ (networks, examples, n)."""

    def one(params: Any, X: Array, dZ: Array) -> tuple[Array, ...]:
        scaled = _scaled(block, params, sigma_w, sigma_b)

        def forward(Z: Array, p: Any) -> tuple[Array, Any]:
            out, cache = block.forward(p, Z)
            return out, (cache, _lengths(out))

        def backward(d: Array, now: Any) -> tuple[Array, Any]:
            d_params, d_in = block.backward(now[0], now[1], d)
            factor = jnp.sum(jnp.square(d_in))
            square_dW = jnp.sum(jnp.square(_last_dW(block, d_params))) if weights else factor
            # The next block is given a cotangent of norm 1, so that none leaves the range of float32.
            return d_in * jax.lax.rsqrt(factor), (jnp.log(factor), jnp.log(square_dW))

        _, (caches, lengths) = jax.lax.scan(forward, X, scaled)
        start = jnp.sum(jnp.square(dZ))
        _, (log_factors, log_dW) = jax.lax.scan(backward, dZ * jax.lax.rsqrt(start), (scaled, caches), reverse=True)
        log_dZ = jax.lax.cumsum(jnp.append(log_factors, jnp.log(start)), reverse=True)
        q, distance = (jnp.concatenate([a[None], b]) for a, b in zip(_lengths(X), lengths, strict=True))
        return log_dZ, q, distance, log_dW + log_dZ[1:]

    # One network after the other: on a processor quicker than a batch of them, and in less memory.
    return jax.lax.map(lambda network: one(*network), (params, X, dZ))


@partial(jax.jit, static_argnums=0)
def jacobian_moments(block: fbp.Layer, params: Any, sigma_w: Any, sigma_b: Any, X: Any) -> Float[Array, "k 2"]:
    """Mean and mean square of the n squared singular values of dZ_L / dZ_0 at one example of each network."""

    def one(params: Any, x: Array) -> Array:
        J = _jacobian(block, _scaled(block, params, sigma_w, sigma_b), x)
        gram = J @ J.T
        return jnp.stack([jnp.trace(gram), jnp.sum(jnp.square(gram))]) / len(x)

    return jax.vmap(one)(params, X)


@partial(jax.jit, static_argnums=0)
def singular_values(block: fbp.Layer, params: Any, X: Any) -> Float[Array, "k n"]:
    """All singular values of dZ_L / dZ_0 at one example of each network."""
    return jax.vmap(lambda p, x: jnp.linalg.svd(_jacobian(block, p, x), compute_uv=False))(params, X)


def _jacobian(block: fbp.Layer, params: Any, x: Array) -> Array:
    _, caches = jax.lax.scan(lambda Z, p: block.forward(p, Z), x[None], params)

    def backward(d: Array, now: Any) -> tuple[Array, None]:
        return jax.vmap(lambda row: block.backward(now[0], now[1], row)[1])(d), None

    d, _ = jax.lax.scan(backward, jnp.eye(len(x))[:, None], (params, caches), reverse=True)
    return d[:, 0]


def draw(layer: fbp.Layer, shape: tuple[int, ...], lead: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Parameters as the layer's initializers describe them, with leading axes of copies."""
    shapes = jax.eval_shape(lambda key: layer.init(key, shape)[0], jax.random.key(0))

    def fill(layer: fbp.Layer, shapes: Any) -> Any:
        if isinstance(layer, fbp.Dense):
            rule = initializer(layer.initializer)
            bias = np.float32(rule.bias_stddev) * normal(rng, (*lead, layer.width))
            return {"W": _weights(rule, (*lead, *shapes["W"].shape), rng), "b": bias}
        ones = {"gamma": 1.0, "beta": 0.0}
        return {k: np.full((*lead, *s.shape), ones[k], np.float32) for k, s in shapes.items()} if shapes else shapes

    return map_layers(fill, layer, shapes)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers in float32."""
    return rng.standard_normal(shape, np.float32)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Square orthogonal matrices, uniformly distributed; (..., n, n)."""
    out = np.empty(shape, np.float32)
    for index in np.ndindex(*shape[:-2]):
        Q, R = np.linalg.qr(normal(rng, shape[-2:]))
        out[index] = Q * np.sign(np.diagonal(R))
    return out


def _weights(rule: Initializer, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if rule.distribution == "orthogonal":
        return np.float32(rule.scale**0.5) * orthogonal(rng, shape)
    if rule.distribution == "constant":
        return np.full(shape, rule.scale, np.float32)
    fan = {"fan_in": shape[-2], "fan_out": shape[-1], "fan_avg": sum(shape[-2:]) / 2, "none": 1}[rule.mode]
    stddev = np.float32((rule.scale / fan) ** 0.5)
    if rule.distribution == "uniform":
        return stddev * np.float32(12**0.5) * (rng.random(shape, np.float32) - np.float32(0.5))
    if rule.distribution == "normal":
        return stddev * normal(rng, shape)
    raise ValueError(f"no draw is written here for {rule.distribution!r}")


def _scaled(block: fbp.Layer, params: Any, sigma_w: Array, sigma_b: Array) -> Any:
    def scale(layer: fbp.Layer, p: Any) -> Any:
        return {"W": sigma_w * p["W"], "b": sigma_b * p["b"]} if isinstance(layer, fbp.Dense) else p

    return map_layers(scale, block, params)


def _lengths(Z: Array) -> tuple[Array, Array]:
    squares = jnp.sum(jnp.square(Z), axis=1, keepdims=True)
    if len(Z) == 1:
        return jnp.mean(jnp.square(Z)), jnp.zeros((), Z.dtype)
    # Of unit vectors the mean of 1 - c over pairs is the variance, over which nothing cancels as c goes to 1.
    directions = Z * jax.lax.rsqrt(squares)
    return jnp.mean(squares) / Z.shape[1], jnp.sum(jnp.var(directions, axis=0, ddof=1))


def _last_dW(block: fbp.Layer, d_params: Any) -> Array:
    found: list[Array] = []
    map_layers(lambda layer, d: found.append(d["W"]) if isinstance(layer, fbp.Dense) else None, block, d_params)
    return found[-1]
