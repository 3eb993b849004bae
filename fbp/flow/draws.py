"""Draws of variance one that all initializers of a grid share, made on the host: nothing to compile, any thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from fbp.flow.orthogonal import orthogonal
from fbp.initializers import Distribution, Initializer

THREADS = 2
_TRUNCATED_STDDEV = 0.87962566103423978


def gain(rule: Initializer, width: int) -> float:
    """The factor that turns a draw of `weights` into a square W of the initializer.

    Args:
        rule: the initializer.
        width: rows and columns of W.
    """
    if rule.distribution == "constant":
        return rule.scale
    fan = 1 if rule.distribution == "orthogonal" or rule.mode == "none" else width
    return (rule.scale / fan) ** 0.5


def weights(
    distribution: Distribution, seeds: Sequence[int], depth: int, width: int, seed: int
) -> Float[np.ndarray, "L seeds n n"]:
    """One draw of variance one (for orthogonal, an orthogonal matrix) for each layer of each network.

    Args:
        distribution: as in `fbp.initializers`.
        seeds: the numbers of the networks; a network's draws do not depend on which others are drawn.
        depth: L.
        width: n.
        seed: of the study.
    """
    W = np.empty((depth, len(seeds), width, width), np.float32)
    fill = _FILL[distribution]

    def one(place: int) -> None:
        random = generator(seed, seeds[place], 0)
        for l in range(depth):
            W[l, place] = fill(random, width)
        if distribution == "orthogonal":
            W[:, place] = orthogonal(W[:, place])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(len(seeds))))
    return W


def normals(kind: int, seeds: Sequence[int], shape: tuple[int, ...], seed: int) -> Float[np.ndarray, "seeds *shape"]:
    """Standard normal draws for each network.

    Args:
        kind: 1 for biases, 2 for cotangents: a stream of its own each.
        seeds: the numbers of the networks.
        shape: of the draws of one network.
        seed: of the study.
    """
    return np.stack([generator(seed, number, kind).standard_normal(shape, dtype=np.float32) for number in seeds])


def inputs(examples: int, width: int, seed: int) -> Float[np.ndarray, "m n"]:
    """Examples in random directions, each of mean square 1.

    Args:
        examples: m.
        width: n.
        seed: of the study.
    """
    X = generator(seed, 0, 3).standard_normal((examples, width))
    return (X / np.sqrt(np.mean(X**2, axis=1, keepdims=True))).astype(np.float32)


def generator(seed: int, number: int, kind: int) -> np.random.Generator:
    """A stream of its own for each network and each kind of draw."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, number, kind])))


def _normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.standard_normal((n, n), dtype=np.float32)


def _uniform(random: np.random.Generator, n: int) -> np.ndarray:
    return np.float32(12**0.5) * (random.random((n, n), dtype=np.float32) - np.float32(0.5))


def _truncated_normal(random: np.random.Generator, n: int) -> np.ndarray:
    draws = _normal(random, n)
    while (beyond := np.abs(draws) > 2).any():
        draws[beyond] = random.standard_normal(int(beyond.sum()), dtype=np.float32)
    return draws / np.float32(_TRUNCATED_STDDEV)


def _ones(random: np.random.Generator, n: int) -> np.ndarray:
    return np.ones((n, n), np.float32)


_FILL: dict[Distribution, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": _normal,
    "uniform": _uniform,
    "truncated_normal": _truncated_normal,
    "orthogonal": _normal,
    "constant": _ones,
}
