"""Layers without parameters that join the outputs of several lines: sum, product, gate, concatenation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError
from fbp.layers.axes import Sizes, is_shape
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape


@dataclass(frozen=True)
class _Joining(Layer):
    """What they share: a tuple of arrays in, one array out, each row by itself."""

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters, and the shape that the inputs share."""
        self._check_inputs(shape)
        if len(set(shape)) != 1:
            raise FbpError(
                f"inputs of {type(self).__name__} must have one shape, got {', '.join(map(str, shape))}; "
                "end the lines that it reads in the same width"
            )
        return (), shape[0]

    def _check_inputs(self, shape: Any) -> None:
        if is_shape(shape) or not isinstance(shape, tuple) or len(shape) < 2:
            raise FbpError(
                f"{type(self).__name__} must read at least two lines, got one input of shape {shape}; "
                f"write for example {type(self).__name__}(...).of('input', 'branch')"
            )

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class Add(_Joining):
    """A + B + ...; the cotangent goes to each: dA = dB = dA_out. What makes a skip connection.

    Example:
        >>> branch = fbp.Network(hidden=fbp.Dense(4), end=fbp.Add().of("input", "hidden"))
        >>> branch.init(jax.random.key(0), (4,))[1]
        (4,)
    """

    def forward(self, params: Params, A: Sequence[Array], key: Key | None = None) -> tuple[Activations, Cache]:
        """The sum; caches only how many there are."""
        return reduce(jnp.add, A), Sizes((len(A),))

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_out for each."""
        return (), (dA_out,) * cache.sizes[0]


@dataclass(frozen=True)
class Multiply(_Joining):
    """A * B * ..., entry by entry: dA = dA_out * B * ..."""

    def forward(self, params: Params, A: Sequence[Array], key: Key | None = None) -> tuple[Activations, Cache]:
        """The product; caches the factors."""
        return reduce(jnp.multiply, A), tuple(A)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_out times the other factors."""
        return (), tuple(reduce(jnp.multiply, cache[:i] + cache[i + 1 :], dA_out) for i in range(len(cache)))

    @property
    def recomputes(self) -> bool:
        """True: one elementwise product of what is kept."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The product."""
        return reduce(jnp.multiply, cache)


@dataclass(frozen=True)
class Gated(_Joining):
    """g(U) * V of two lines (U, V): with silu the middle of a SwiGLU block. Shazeer (2020).

        dU = dA * V * g'(U),    dV = dA * g(U)

    It keeps U and V, and makes its output and g(U) again.

    Attributes:
        function: g, by name or as a `Nonlinearity`.

    Example:
        >>> net = fbp.Network(
        ...     gate=fbp.Dense(8).of("input"), value=fbp.Dense(8).of("input"), hidden=fbp.Gated().of("gate", "value")
        ... )
        >>> net.init(jax.random.key(0), (4,))[1]
        (8,)
    """

    function: Nonlinearity | str = "silu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", activation(self.function))

    @property
    def _g(self) -> Nonlinearity:
        return activation(self.function)

    def _check_inputs(self, shape: Any) -> None:
        super()._check_inputs(shape)
        if len(shape) != 2:
            raise FbpError(f"Gated must read two lines, got {len(shape)}; write Gated().of('gate', 'value')")

    def forward(self, params: Params, A: Sequence[Array], key: Key | None = None) -> tuple[Activations, Cache]:
        """g(U) * V; caches U (or g(U), if g' is a function of it) and V."""
        U, V = A
        gate = self._g(U)
        return gate * V, (self._g.save(U, gate), V)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dU = dA * V * g'(U), dV = dA * g(U)."""
        saved, V = cache
        return (), (self._g.pullback(saved, dA_out * V), dA_out * self._gate(saved))

    def _gate(self, saved: Array) -> Array:
        return saved if self._g.saves == "output" else self._g(saved)

    @property
    def recomputes(self) -> bool:
        """True: elementwise functions of what is kept."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """g(U) * V."""
        saved, V = cache
        return self._gate(saved) * V


@dataclass(frozen=True)
class Concatenate(_Joining):
    """[A, B, ...] along the last axis; each gets its part of the cotangent."""

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters; the last axes add up."""
        self._check_inputs(shape)
        if len({each[:-1] for each in shape}) != 1 or not all(shape):
            raise FbpError(
                f"inputs of Concatenate must agree in all axes but the last, got {', '.join(map(str, shape))}; "
                "reshape the lines that it reads"
            )
        return (), (*shape[0][:-1], sum(each[-1] for each in shape))

    def forward(self, params: Params, A: Sequence[Array], key: Key | None = None) -> tuple[Activations, Cache]:
        """The arrays side by side; caches only their widths."""
        return jnp.concatenate(A, axis=-1), Sizes(tuple(each.shape[-1] for each in A))

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_out, cut where the arrays meet."""
        cuts = [sum(cache.sizes[:i]) for i in range(1, len(cache.sizes))]
        return (), tuple(jnp.split(dA_out, cuts, axis=-1))
