"""What an operation of the benchmark is, and how its arguments are drawn."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[np.random.Generator], Any]
"""An argument from a generator: a pytree of numpy arrays in double precision, of other arrays and of constants."""

WIDE = ("float32", "float64")
ALL = (*WIDE, "bfloat16", "float16")
COMPLEX = ("complex64", "complex128")
_REAL = {"complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True)
class Operation:
    """A function of somebody else's with what it is differentiated at.

    Attributes:
        name: as users write it.
        function: called with the arguments; gives a pytree of arrays.
        draws: the arguments.
        argnums: which of them are differentiated; None for all that have a floating leaf.
        dtypes: in which it runs.
        reference: the same function in plain JAX, where the operation has a rule of its own to be judged by
            `fbp.verify.vjp`.
        grad: how its library differentiates a loss by the first argument; None for `jax.grad`.
    """

    name: str
    function: Callable[..., Any]
    draws: tuple[Draw, ...]
    argnums: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] = ALL
    reference: Callable[..., Any] | None = None
    grad: Callable[..., Any] | None = None

    def arguments(self, dtype: str, seed: int) -> tuple[Any, ...]:
        """The arguments at one point, with the floating leaves in the dtype."""
        draw = np.random.default_rng([seed, stable_seed(self.name)])
        return tuple(jax.tree.map(lambda leaf: _cast(leaf, dtype), make(draw)) for make in self.draws)

    def differentiated(self, args: tuple[Any, ...]) -> int | tuple[int, ...]:
        """The argnums for `jax.grad`: a single integer where one argument is differentiated."""
        argnums = self.argnums or tuple(i for i, arg in enumerate(args) if any(map(is_inexact, jax.tree.leaves(arg))))
        return argnums[0] if len(argnums) == 1 else argnums


def op(name: str, function: Callable[..., Any], *draws: Draw, **options: Any) -> Operation:
    """A row of a table: the function and its arguments."""
    return Operation(name, function, draws, **options)


def stable_seed(*names: str) -> int:
    """A seed from names, the same in every run."""
    return zlib.crc32("/".join(names).encode())


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array and no constant."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is an array of floating or complex numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _cast(leaf: Any, dtype: str) -> Any:
    if not is_inexact(leaf):
        return jnp.asarray(leaf, "int32") if isinstance(leaf, np.ndarray) and leaf.dtype == np.int64 else leaf
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return jnp.asarray(leaf, dtype if is_complex else _REAL.get(dtype, dtype))


def normal(*shape: int) -> Draw:
    return lambda draw: draw.standard_normal(shape)


def uniform(low: float, high: float, *shape: int) -> Draw:
    return lambda draw: draw.uniform(low, high, shape)


def positive(*shape: int) -> Draw:
    return uniform(0.5, 2.0, *shape)


def unit(*shape: int) -> Draw:
    """Inside of the unit interval, away from its ends."""
    return uniform(0.1, 0.9, *shape)


def probabilities(*shape: int) -> Draw:
    """Positive numbers that add up to 1 along the last axis."""
    return lambda draw: draw.dirichlet(np.full(shape[-1], 2.0), shape[:-1])


def ties(*shape: int) -> Draw:
    """Few different values, so that many entries are equal."""
    return lambda draw: draw.integers(-2, 3, shape) / 2


def spread(*shape: int) -> Draw:
    """Values that differ by a twentieth of their range at least, in random order."""
    size = int(np.prod(shape))
    return lambda draw: (draw.permutation(size) + draw.uniform(0.2, 0.8, size)).reshape(shape) * (4 / size) - 2


def complex_normal(*shape: int) -> Draw:
    return lambda draw: draw.standard_normal(shape) + 1j * draw.standard_normal(shape)


def integers(high: int, *shape: int) -> Draw:
    return lambda draw: draw.integers(0, high, shape)


def booleans(*shape: int) -> Draw:
    return lambda draw: draw.random(shape) < 0.6


def definite(n: int) -> Draw:
    """A symmetric positive definite matrix."""

    def make(draw: np.random.Generator) -> np.ndarray:
        A = draw.standard_normal((n, n))
        return A @ A.T / n + np.eye(n)

    return make


def regular(n: int) -> Draw:
    """A matrix far from a singular one."""
    return lambda draw: 0.4 * draw.standard_normal((n, n)) + 2 * np.eye(n)


def separated(n: int) -> Draw:
    """A symmetric matrix with eigenvalues far from each other."""

    def make(draw: np.random.Generator) -> np.ndarray:
        Q = np.linalg.qr(draw.standard_normal((n, n)))[0]
        return Q @ np.diag(np.arange(1.0, n + 1)) @ Q.T

    return make


def key(draw: np.random.Generator) -> jax.Array:
    """A key for jax.random."""
    return jax.random.key(int(draw.integers(2**31)))


def value(constant: Any) -> Draw:
    """The same argument at every point."""
    return lambda draw: constant


def tree(**draws: Draw) -> Draw:
    """A dictionary of arguments."""
    return lambda draw: {name: make(draw) for name, make in draws.items()}
