"""The layers of a multilayer perceptron: dense, activation, affine, dropout, flatten."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError, check_count
from fbp.initializers import Initializer, initializer
from fbp.layers.axes import Sizes, example_axes, is_shape, per_unit
from fbp.pairs import Each, Outer, Pairs, sum_positions
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape


@dataclass(frozen=True)
class Dense(Layer):
    """Z = A W + b, over the last axis of A.

    Attributes:
        width: n_l, the number of units.
        initializer: of W and b, by name or as an `Initializer`.
        bias: whether there is a b.

    Raises:
        FbpError: the width is not a positive integer, or the initializer is unknown.

    Example:
        >>> dense = fbp.Dense(3, "glorot_normal")
        >>> params, shape = dense.init(jax.random.key(0), (5,))
        >>> params["W"].shape, params["b"].shape, shape
        ((5, 3), (3,), (3,))
        >>> A = jnp.ones((2, 5))
        >>> Z, cache = dense.forward(params, A)
        >>> d_params, dA = dense.backward(params, cache, jnp.ones_like(Z))
        >>> bool((d_params["W"] == A.T @ jnp.ones_like(Z)).all())
        True
    """

    width: int
    initializer: Initializer | str = "he_normal"
    bias: bool = True

    def __post_init__(self) -> None:
        check_count("width of Dense", self.width)
        object.__setattr__(self, "initializer", initializer(self.initializer))

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """{"W": (n_in, n_out), "b": (n_out,)} for inputs whose last axis has n_in entries; without "b" if so asked."""
        if not is_shape(shape) or not shape or shape[-1] < 1:
            raise FbpError(
                f"examples of Dense must have at least one entry on their last axis, got the shape {shape}; "
                "give for example (784,)"
            )
        rule = initializer(self.initializer)
        key_W, key_b = jax.random.split(key)
        params = {"W": rule.weight(key_W, (shape[-1], self.width))}
        if self.bias:
            params["b"] = rule.bias(key_b, self.width)
        return params, (*shape[:-1], self.width)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Z = A W + b; caches A, for dW."""
        W = params["W"]
        if not jnp.issubdtype(A.dtype, jnp.inexact):
            raise FbpError(f"inputs of Dense({self.width}) must be floating point, got {A.dtype}; convert them")
        if A.ndim < 1 or A.shape[-1] != W.shape[0]:
            raise FbpError(
                f"inputs of Dense({self.width}) must have the shape (..., {W.shape[0]}), because W is {W.shape}, "
                f"got {A.shape}; reshape the input, or initialize for this shape"
            )
        AW = A @ W
        return AW + per_unit(params["b"], AW) if self.bias else AW, A

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dW = A^T dZ, db = sum of dZ over examples, dA = dZ W^T."""
        A, dZ = cache, dA_out
        examples = example_axes(A)
        # As (dZ^T A)^T: the compiler forms it at least as quickly, also where W is the transpose of what is stored.
        d_params = {"W": jnp.tensordot(dZ, A, axes=(examples, examples)).T}
        if self.bias:
            d_params["b"] = jnp.sum(dZ, axis=examples)
        return d_params, dZ @ params["W"].T

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """dW of the pair (A, dZ), and of each example the sum of dZ over its positions."""
        pairs: Pairs = {"W": Outer(cache, dA_out)}
        if self.bias:
            pairs["b"] = Each(sum_positions(dA_out))
        return pairs

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True

    @property
    def homogeneous(self) -> bool:
        """True if it has no biases, or they are initialized to zero."""
        return not self.bias or initializer(self.initializer).bias_stddev == 0


@dataclass(frozen=True)
class Activation(Layer):
    """A = g(Z).

    Attributes:
        function: the activation function, by name or as a `Nonlinearity`.

    Example:
        >>> layer = fbp.Activation("relu")
        >>> A, cache = layer.forward((), jnp.array([[-1.0, 2.0]]))
        >>> layer.backward((), cache, jnp.ones((1, 2)))[1].tolist()
        [[0.0, 1.0]]
    """

    function: Nonlinearity | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", activation(self.function))

    @property
    def _g(self) -> Nonlinearity:
        return activation(self.function)

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters, and the same shape."""
        return (), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """g(Z); caches the one array that g' needs, A or Z."""
        Z, A_out = A, self._g(A)
        return A_out, self._g.save(Z, A_out)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dZ = dA * g'(Z)."""
        return (), self._g.pullback(cache, dA_out)

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True

    @property
    def recomputes(self) -> bool:
        """True: the cache is the output, or the output is one elementwise function of it."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """A, from the cache."""
        return cache if self._g.saves == "output" else self._g(cache)

    @property
    def homogeneous(self) -> bool:
        """True if its function is."""
        return self._g.homogeneous


@dataclass(frozen=True)
class Affine(Layer):
    """A * scale + shift, for each entry of the last axis: what batch normalization becomes for inference."""

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """{"scale": ones (n,), "shift": zeros (n,)}."""
        return {"scale": jnp.ones(shape[-1]), "shift": jnp.zeros(shape[-1])}, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A * scale + shift; caches A, for d_scale."""
        return A * per_unit(params["scale"], A) + per_unit(params["shift"], A), A

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """d_scale = sum of dA A over examples, d_shift = sum of dA, dA_in = dA * scale."""
        examples = example_axes(dA_out)
        d_params = {"scale": jnp.sum(dA_out * cache, axis=examples), "shift": jnp.sum(dA_out, axis=examples)}
        return d_params, dA_out * per_unit(params["scale"], dA_out)

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """Of each example the sums over its positions."""
        return {"scale": Each(sum_positions(dA_out * cache)), "shift": Each(sum_positions(dA_out))}

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True

    @property
    def recomputes(self) -> bool:
        """True, by the forward pass itself."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """A * scale + shift."""
        return self.forward(params, cache)[0]


@dataclass(frozen=True)
class Dropout(Layer):
    """Each entry is zero with probability `rate`, and divided by 1 - rate otherwise.

    Without a key it is the identity: for inference, call the same network without a key.
    Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014).

    Attributes:
        rate: the probability of a zero, in [0, 1).
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise FbpError(f"rate of Dropout must be in [0, 1), got {self.rate}; 0.5 drops half of the entries")

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters, and the same shape."""
        return (), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A * mask / (1 - rate); caches the mask, one byte per entry, because drawing it again costs more."""
        if key is None:
            return A, None
        # Always drawn in float32: the float64 reference of a float32 network must see the same mask.
        mask = jax.random.uniform(key, A.shape, jnp.float32) >= self.rate
        return self._drop(A, mask), mask

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_in = dA * mask / (1 - rate), with the same mask."""
        return (), dA_out if cache is None else self._drop(dA_out, cache)

    @property
    def homogeneous(self) -> bool:
        """True: it multiplies each entry by a constant."""
        return True

    def _drop(self, A: Array, mask: Array) -> Array:
        return jnp.where(mask, A / (1 - self.rate), jnp.zeros_like(A))


@dataclass(frozen=True)
class Flatten(Layer):
    """Each example as one vector: (m, ...) -> (m, product of the rest)."""

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters; the shape becomes (product,)."""
        return (), (math.prod(shape),)

    def forward(
        self, params: Params, A: Float[Array, "m *shape"], key: Key | None = None
    ) -> tuple[Float[Array, "m n"], Cache]:
        """The same entries in the same order; caches only the shape."""
        return A.reshape(A.shape[0], -1), Sizes(A.shape[1:])

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The cotangent in the shape of the input."""
        return (), dA_out.reshape(dA_out.shape[0], *cache.sizes)

    @property
    def homogeneous(self) -> bool:
        """True: it only reorders entries."""
        return True
