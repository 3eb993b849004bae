"""Tokens to vectors and back: embedding, unembedding, and what says at which position a token stands."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from fbp.errors import FbpError, check_count
from fbp.initializers import Initializer, initializer
from fbp.layers.axes import example_axes, is_shape
from fbp.pairs import Each, Outer, Pairs
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape


@dataclass(frozen=True)
class Embedding(Layer):
    """A = E[tokens]: row t of E for each token t.

        dE = sum over tokens of onehot(token)^T dA

    so that each row of dA is added to the row of dE that it came from. Tokens have no cotangent.

    Attributes:
        vocabulary: the number of tokens; tokens are integers in 0..vocabulary-1. A token out of range is an error where
            its value is known, and NaN where the program is compiled.
        width: n, the entries of a vector.
        initializer: of E, by name or as an `Initializer`.

    Example:
        >>> layer = fbp.Embedding(vocabulary=50, width=4)
        >>> params, shape = layer.init(jax.random.key(0), (3,))
        >>> params["E"].shape, shape
        ((50, 4), (3, 4))
        >>> layer.forward(params, jnp.array([[7, 7, 0]]))[0].shape
        (1, 3, 4)
    """

    vocabulary: int
    width: int
    initializer: Initializer | str = "normal(0.02)"

    def __post_init__(self) -> None:
        check_count("vocabulary of Embedding", self.vocabulary)
        check_count("width of Embedding", self.width)
        object.__setattr__(self, "initializer", initializer(self.initializer))

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """{"E": (vocabulary, n)}; an axis of n entries is added to the shape."""
        E = initializer(self.initializer).weight(key, (self.vocabulary, self.width))
        return {"E": E}, (*shape, self.width)

    def forward(
        self, params: Params, A: Int[Array, "m *T"], key: Key | None = None
    ) -> tuple[Float[Array, "m *T n"], Cache]:
        """E[tokens]; caches the tokens."""
        if not jnp.issubdtype(A.dtype, jnp.integer):
            raise FbpError(f"inputs of Embedding must be integers, the numbers of tokens, got {A.dtype}; convert them")
        self._check_range(A)
        # A negative index would count from the end; one past the end is filled with NaN.
        tokens = jnp.where(A < 0, self.vocabulary, A)
        return params["E"].at[tokens].get(mode="fill", fill_value=jnp.nan), A

    def _check_range(self, tokens: Array) -> None:
        if isinstance(tokens, Tracer) or not tokens.size:
            return
        values = np.asarray(tokens)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.vocabulary:
            raise FbpError(
                f"tokens must be in 0..{self.vocabulary - 1}, got {low if low < 0 else high}; "
                "enlarge the vocabulary, or map unknown tokens to one of its own"
            )

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, None]:
        """dE: each row of dA added where it came from."""
        dE = jnp.zeros_like(params["E"]).at[cache].add(dA_out.astype(params["E"].dtype), mode="drop")
        return {"E": dE}, None

    @property
    def takes_integers(self) -> bool:
        """True: tokens."""
        return True

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """dE of the pair (onehot(tokens), dA)."""
        return {"E": Outer(cache, dA_out, self.vocabulary)}


@dataclass(frozen=True)
class Unembedding(Layer):
    """Z = A E^T: the score of each token. It usually shares the E of an `Embedding`, `.sharing("tokens")`.

        dE = dZ^T A,    dA = dZ E

    Press & Wolf (2017).

    Attributes:
        vocabulary: the number of tokens.
        initializer: of an E of its own.

    Example:
        >>> net = fbp.Network(tokens=fbp.Embedding(50, 4), head=fbp.Unembedding(50).sharing("tokens"))
        >>> params, shape = net.init(jax.random.key(0), (3,))
        >>> list(params), shape
        (['tokens'], (3, 50))
    """

    vocabulary: int
    initializer: Initializer | str = "normal(0.02)"

    def __post_init__(self) -> None:
        check_count("vocabulary of Unembedding", self.vocabulary)
        object.__setattr__(self, "initializer", initializer(self.initializer))

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """{"E": (vocabulary, n)} for inputs whose last axis has n entries."""
        E = initializer(self.initializer).weight(key, (self.vocabulary, shape[-1]))
        return {"E": E}, (*shape[:-1], self.vocabulary)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Z = A E^T; caches A, for dE."""
        return A @ params["E"].T, A

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dE = dZ^T A, dA = dZ E."""
        A, dZ = cache, dA_out
        rows = example_axes(A)
        return {"E": jnp.tensordot(dZ, A, axes=(rows, rows))}, dZ @ params["E"]

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """dE of the pair (dZ, A)."""
        return {"E": Outer(dA_out, cache)}

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class LearnedPositions(Layer):
    """A + P[:T]: a learned vector for each position. dP = sum over examples of dA.

    Attributes:
        length: the largest number of positions.
        initializer: of P.

    Example:
        >>> layer = fbp.LearnedPositions(16)
        >>> params, shape = layer.init(jax.random.key(0), (5, 4))
        >>> params["P"].shape, shape
        ((16, 4), (5, 4))
    """

    length: int
    initializer: Initializer | str = "normal(0.02)"

    def __post_init__(self) -> None:
        check_count("length of LearnedPositions", self.length)
        object.__setattr__(self, "initializer", initializer(self.initializer))

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """{"P": (length, n)} for inputs (T, n), T <= length."""
        _check_sequence(self, shape)
        self._check_length(shape[0])
        return {"P": initializer(self.initializer).weight(key, (self.length, shape[-1]))}, shape

    def _check_length(self, T: int) -> None:
        if self.length < T:
            raise FbpError(
                f"sequences must have at most {self.length} positions, as many as were learned, got {T}; "
                "cut them, or make the network with a larger length"
            )

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A + P[:T]; keeps nothing."""
        _check_sequence(self, A.shape[1:])
        self._check_length(A.shape[1])
        return A + params["P"][None, : A.shape[1]], None

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dP = sum over examples of dA, zero beyond T; dA_in = dA."""
        return {"P": jnp.sum(self._padded(dA_out), axis=0)}, dA_out

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """Each example's dA."""
        return {"P": Each(self._padded(dA_out))}

    def _padded(self, dA: Array) -> Array:
        return jnp.pad(dA, ((0, 0), (0, self.length - dA.shape[1]), (0, 0)))


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """A + P with P_(t, 2i) = sin(t base^(-2i/n)), P_(t, 2i+1) = cos of the same. Vaswani et al. (2017).

    Attributes:
        base: of the geometric sequence of wavelengths.
    """

    base: float = 10000.0

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters, and the same shape (T, n)."""
        _check_sequence(self, shape)
        return (), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A + P; keeps nothing."""
        _check_sequence(self, A.shape[1:])
        T, n = A.shape[1:]
        angle = np.arange(T)[:, None] * self.base ** (-2 * np.arange(math.ceil(n / 2)) / n)
        P = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(T, -1)[:, :n]
        return A + jnp.asarray(P, A.dtype)[None], None

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_in = dA."""
        return (), dA_out


def _check_sequence(layer: Layer, shape: Shape) -> None:
    if not is_shape(shape) or len(shape) != 2:
        raise FbpError(
            f"examples of {type(layer).__name__} must be sequences of vectors, (T, n), got the shape {shape}; "
            "put it behind an Embedding"
        )
