"""Random networks drawn on the host: nothing to compile, any number of threads, the same bits for the same seed.

Each network has a stream of its own, so that its numbers do not depend on which others are drawn with it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fbp.initializers import TRUNCATED_STDDEV, Distribution, Initializer, initializer, zeros
from fbp.layers import Dense, Embedding, LearnedPositions, Unembedding
from fbp.layers.axes import is_shape
from fbp.tree import map_params, rebuild
from fbp.typing import Layer, Params, Shape

THREADS = 2
_DRAWN = (Dense, Embedding, LearnedPositions, Unembedding)
_BLOCK = 64
"""Square matrices that are made orthogonal at a time."""


class Draw(IntEnum):
    """What a stream of random numbers is for."""

    WEIGHTS = 0
    BIASES = 1
    COTANGENTS = 2
    INPUTS = 3


def sample_parameters(net: Layer, shape: Shape, networks: int | range, seed: int = 0) -> Params:
    """Parameters of many networks, each leaf with an axis of networks in front.

    Dense layers, embeddings, unembeddings and learned positions are drawn by numpy as their initializers describe,
    because a compiled generator is slower on a processor and has to be compiled for every shape; other layers
    initialize themselves.

    Args:
        net: a network.
        shape: the shape of one example of its input.
        networks: how many, or which ones: the numbers of their streams.
        seed: of all of them.

    Returns:
        Parameters as numpy arrays, in the structure of `net.init`.

    Example:
        >>> net = fbp.mlp((4, 8, 2), "tanh", "lecun_normal")
        >>> params = fbp.flow.sample_parameters(net, (4,), networks=3)
        >>> params[0]["W"].shape
        (3, 4, 8)
    """
    numbers = range(networks) if isinstance(networks, int) else networks
    shapes = jax.eval_shape(lambda key: net.init(key, shape)[0], jax.random.key(0))
    own = map_params(lambda layer, p: None if isinstance(layer, _DRAWN) else p, net, shapes)
    if jax.tree.leaves(own):
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.asarray(numbers))
        leaves, treedef = jax.tree.flatten(shape, is_leaf=is_shape)
        own = jax.device_get(_initialize_others(without_initializers(net), treedef, tuple(leaves), keys))
    drawn: list[tuple[Initializer, dict[str, np.ndarray]]] = []

    def allocate(layer: Layer, shapes: Params, own: Params) -> Params:
        if not isinstance(layer, _DRAWN):
            return own
        arrays = {name: np.zeros((len(numbers), *leaf.shape), np.float32) for name, leaf in shapes.items()}
        drawn.append((initializer(layer.initializer), arrays))
        return arrays

    params = map_params(allocate, net, shapes, own)

    def fill(place: int) -> None:
        weights, biases = (generator(seed, numbers[place], kind) for kind in (Draw.WEIGHTS, Draw.BIASES))
        for rule, arrays in drawn:
            for name, x in arrays.items():
                if name != "b":
                    x[place] = unit_gain(rule, *x.shape[-2:]) * draw_units(rule.distribution, weights, x.shape[1:])
                elif rule.bias_stddev:
                    x[place] = np.float32(rule.bias_stddev) * biases.standard_normal(x.shape[1:], np.float32)

    _in_threads(fill, len(numbers))
    return params


@jax.jit(static_argnums=(0, 1, 2))
def _initialize_others(net: Layer, treedef: Any, shapes: tuple[Shape, ...], keys: Array) -> Params:
    params = jax.vmap(lambda key: net.init(key, treedef.unflatten(shapes))[0])(keys)
    return map_params(lambda layer, p: None if isinstance(layer, _DRAWN) else p, net, params)


def without_initializers(net: Layer) -> Layer:
    """The network with the initializer "zeros" in every layer that `sample_parameters` draws.

    Args:
        net: a network.
    """
    return rebuild(net, lambda layer: replace(layer, initializer=zeros) if isinstance(layer, _DRAWN) else layer)


def sample_weights(
    distribution: Distribution, networks: Sequence[int], depth: int, width: int, seed: int
) -> Float[np.ndarray, "L networks n n"]:
    """One draw of variance one (for orthogonal, an orthogonal matrix) for each layer of each network.

    Args:
        distribution: as in `fbp.initializers`.
        networks: the numbers of the networks.
        depth: L.
        width: n.
        seed: of the study.
    """
    W = np.empty((depth, len(networks), width, width), np.float32)

    def fill(place: int) -> None:
        W[:, place] = draw_units(distribution, generator(seed, networks[place], Draw.WEIGHTS), (depth, width, width))

    _in_threads(fill, len(networks))
    return W


def sample_normals(
    kind: Draw, networks: Sequence[int], shape: tuple[int, ...], seed: int
) -> Float[np.ndarray, "networks *shape"]:
    """Standard normal draws for each network.

    Args:
        kind: what they are for.
        networks: the numbers of the networks.
        shape: of the draws of one network.
        seed: of the study.
    """
    return np.stack([generator(seed, number, kind).standard_normal(shape, np.float32) for number in networks])


def sample_tokens(examples: int, shape: Shape, vocabulary: int, seed: int) -> Int[np.ndarray, "m *shape"]:
    """Examples of tokens, all equally likely.

    Args:
        examples: m.
        shape: of one example.
        vocabulary: how many tokens there are.
        seed: of the study.
    """
    return generator(seed, 0, Draw.INPUTS).integers(0, vocabulary, (examples, *shape), np.int32)


def sample_inputs(examples: int, shape: Shape, seed: int) -> Float[np.ndarray, "m *shape"]:
    """Examples in random directions, each of mean square 1.

    Args:
        examples: m.
        shape: of one example.
        seed: of the study.
    """
    X = generator(seed, 0, Draw.INPUTS).standard_normal((examples, *shape))
    axes = tuple(range(1, X.ndim))
    return (X / np.sqrt(np.mean(X**2, axis=axes, keepdims=True))).astype(np.float32)


def generator(seed: int, number: int, kind: Draw) -> np.random.Generator:
    """A stream of its own for each network and each kind of draw."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, number, kind])))


def unit_gain(rule: Initializer, fan_in: int, fan_out: int) -> np.float32:
    """The factor that turns a draw of `draw_units` into a weight matrix of the initializer.

    Args:
        rule: the initializer.
        fan_in: rows of W.
        fan_out: columns of W.
    """
    if rule.distribution == "constant":
        return np.float32(rule.scale)
    return np.float32(rule.scale**0.5 if rule.distribution == "orthogonal" else rule.stddev(fan_in, fan_out))


def draw_units(distribution: Distribution, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices (..., n_in, n_out) of variance one, orthogonal ones, or ones.

    Args:
        distribution: as in `fbp.initializers`.
        random: the stream to draw from.
        shape: of all of them.
    """
    return _DRAW[distribution](random, shape)


def _draw_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape, np.float32)


def _draw_uniform(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.float32(12**0.5) * (random.random(shape, np.float32) - np.float32(0.5))


def _draw_truncated(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    draws = _draw_normal(random, shape)
    while (beyond := np.abs(draws) > 2).any():
        draws[beyond] = random.standard_normal(int(beyond.sum()), np.float32)
    return draws / np.float32(TRUNCATED_STDDEV)


def _draw_orthogonal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    *lead, rows, columns = shape
    if rows == columns:
        return _orthogonalize(_draw_normal(random, (int(np.prod(lead)), rows, rows))).reshape(shape)
    Q, R = np.linalg.qr(_draw_normal(random, (*lead, max(rows, columns), min(rows, columns))))
    Q = Q * np.sign(np.diagonal(R, axis1=-2, axis2=-1))[..., None, :]
    return Q if rows > columns else np.swapaxes(Q, -1, -2)


_DRAW: dict[Distribution, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": _draw_normal,
    "uniform": _draw_uniform,
    "truncated_normal": _draw_truncated,
    "orthogonal": _draw_orthogonal,
    "constant": lambda random, shape: np.ones(shape, np.float32),
}


def _in_threads(fill: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(count)))


def _orthogonalize(G: Float[np.ndarray, "k n n"]) -> Float[np.ndarray, "k n n"]:
    """Uniform draws from the orthogonal group, from standard normal ones, by matrix products alone.

    Q = H_1 ... H_n D is a product of Householder reflections, H_k = I - 2 v_k v_k^T / v_k^T v_k that takes a normal
    vector x_k of n - k + 1 entries to its first axis, and signs D; Stewart (1980), Mezzadri (2007). Their product is
    I - V T V^T with T^-1 = striu(V^T V) + diag(V^T V) / 2; Joffrain, Low, Quintana-Orti et al. (2006). LAPACK's QR
    takes matrices one by one, and its threads wait for one another where the machine has other work.

    Args:
        G: standard normal draws, of which the lower triangles are used.
    """
    block = min(_BLOCK, len(G))
    # The last block overlaps the one before it, so that one compiled program serves all.
    starts = [*range(0, len(G) - block, block), len(G) - block]
    Q = np.empty_like(G)
    for start in starts:
        Q[start : start + block] = _reflect(jnp.asarray(G[start : start + block]))
    return Q


@jax.jit
def _reflect(G: Float[Array, "k n n"]) -> Float[Array, "k n n"]:
    X = jnp.tril(G)
    eye = jnp.eye(G.shape[-1], dtype=G.dtype)
    sign = jnp.where(jnp.diagonal(X, axis1=1, axis2=2) < 0, -1, 1).astype(G.dtype)
    length = jnp.sqrt(jnp.sum(X * X, axis=1))
    V = X + (sign * length)[:, None, :] * eye[None]
    Vt = jnp.swapaxes(V, 1, 2)
    products = Vt @ V
    T = _invert_upper(jnp.triu(products) - 0.5 * products * eye[None])
    return (eye[None] - V @ (T @ Vt)) * -sign[:, None, :]


def _invert_upper(U: Float[Array, "k n n"]) -> Float[Array, "k n n"]:
    """By halves: the inverse of [[A, B], [0, C]] is [[A^-1, -A^-1 B C^-1], [0, C^-1]]."""
    k, n = U.shape[:2]
    size = 1 << (n - 1).bit_length()
    beyond = jnp.diag((jnp.arange(size) >= n).astype(U.dtype))
    U = jnp.pad(U, ((0, 0), (0, size - n), (0, size - n))) + beyond[None]
    inverses = (1 / jnp.diagonal(U, axis1=1, axis2=2))[:, :, None, None]
    half = 1
    while half < size:
        blocks = U.reshape(k, size // (2 * half), 2 * half, size // (2 * half), 2 * half)
        B = jnp.diagonal(blocks, axis1=1, axis2=3)[:, :half, half:]
        A, C = inverses[:, 0::2], inverses[:, 1::2]
        corner = -A @ jnp.moveaxis(B, -1, 1) @ C
        top, bottom = jnp.concatenate([A, corner], -1), jnp.concatenate([jnp.zeros_like(A), C], -1)
        inverses = jnp.concatenate([top, bottom], -2)
        half *= 2
    return inverses[:, 0, :n, :n]
