"""Activation functions: each one a function and its hand-written derivative, with the facts that other modules need.

The derivative is written in terms of the output A where that suffices (sigmoid, tanh, relu and their relatives),
otherwise in terms of the pre-activation Z (gelu, silu, erf). Only that one array is saved for the backward pass.

At kinks: relu'(0) = 0, leaky_relu'(0) = alpha, elu'(0) = alpha, selu'(0) = scale * alpha, hard_tanh'(+-1) = 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.errors import FbpError
from fbp.registry import Registry


@dataclass(frozen=True, repr=False)
class Nonlinearity:
    """An activation function A = g(Z) with the derivative that backpropagation needs.

    Attributes:
        name: the name in the table.
        function: g, called as function(Z, *arguments).
        derivative: g', called as derivative(saved, *arguments), elementwise.
        saves: the array that the derivative needs, the "output" A or the "input" Z.
        arguments: the constants of a family, e.g. the slope of a leaky relu.
        kinks: the pre-activations at which g' jumps; integrals over g are split there.
        homogeneous: whether g(c z) = c g(z) for every c > 0.
        elementwise: whether each output depends only on its own input.

    Example:
        An activation of one's own, relu6, works wherever a name does:

        >>> relu6 = fbp.Nonlinearity(
        ...     "relu6",
        ...     function=lambda Z: jnp.clip(Z, 0, 6),
        ...     derivative=lambda A: ((A > 0) & (A < 6)).astype(A.dtype),
        ...     kinks=(0.0, 6.0),
        ... )
        >>> relu6.slope(jnp.array([-1.0, 3.0, 7.0])).tolist()
        [0.0, 1.0, 0.0]
        >>> net = fbp.mlp((4, 8, 3), relu6)
    """

    name: str
    function: Callable[..., Array]
    derivative: Callable[..., Array]
    saves: Literal["output", "input"] = "output"
    arguments: tuple[float, ...] = ()
    kinks: tuple[float, ...] = ()
    homogeneous: bool = False
    elementwise: bool = True

    def __call__(self, Z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """A = g(Z)."""
        return self.function(Z, *self.arguments)

    def save(self, Z: Float[Array, "*shape"], A: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The array that the backward pass needs, A or Z."""
        return A if self.saves == "output" else Z

    def pullback(self, saved: Float[Array, "*shape"], dA: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """dZ = dA * g'(Z), from the saved array."""
        return dA * self.derivative(saved, *self.arguments)

    def slope(self, Z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """g'(Z), for elementwise functions."""
        return self.pullback(self.save(Z, self(Z)), jnp.ones_like(Z))

    def __repr__(self) -> str:
        return self.name + (f"({', '.join(f'{a:g}' for a in self.arguments)})" if self.arguments else "")


@dataclass(frozen=True, repr=False)
class _Softmax(Nonlinearity):
    """Softmax over the last axis. Its Jacobian is not diagonal, so it overrides the pullback."""

    def pullback(self, saved: Float[Array, "*shape"], dA: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """dZ = A * (dA - sum_k A_k dA_k)."""
        return saved * (dA - jnp.sum(dA * saved, axis=-1, keepdims=True))


def _linear(Z: Array) -> Array:
    return Z


def _d_linear(A: Array) -> Array:
    return jnp.ones_like(A)


def _sigmoid(Z: Array) -> Array:
    return jax.nn.sigmoid(Z)


def _d_sigmoid(A: Array) -> Array:
    return A * (1 - A)


def _tanh(Z: Array) -> Array:
    return jnp.tanh(Z)


def _d_tanh(A: Array) -> Array:
    # The product, not 1 - A**2: it keeps the digits near A = +-1.
    return (1 - A) * (1 + A)


def _scaled_tanh(Z: Array, amplitude: float, slope: float) -> Array:
    return amplitude * jnp.tanh(slope * Z)


def _d_scaled_tanh(A: Array, amplitude: float, slope: float) -> Array:
    return slope / amplitude * (amplitude - A) * (amplitude + A)


def _relu(Z: Array) -> Array:
    # Not maximum(Z, 0): autodiff of it gives 1/2 at the kink. Not where(Z > 0, Z, 0): that would hide a NaN.
    return jnp.where(Z <= 0, jnp.zeros_like(Z), Z)


def _d_relu(A: Array) -> Array:
    return (A > 0).astype(A.dtype)


def _leaky_relu(Z: Array, alpha: float) -> Array:
    return jnp.where(Z > 0, Z, alpha * Z)


def _d_leaky_relu(A: Array, alpha: float) -> Array:
    return jnp.where(A > 0, jnp.ones_like(A), jnp.full_like(A, alpha))


def _elu(Z: Array, alpha: float) -> Array:
    # The inner where keeps expm1 finite in the branch that is not taken; minimum would halve autodiff's slope at 0.
    return jnp.where(Z > 0, Z, alpha * jnp.expm1(jnp.where(Z > 0, jnp.zeros_like(Z), Z)))


def _d_elu(A: Array, alpha: float) -> Array:
    return jnp.where(A > 0, jnp.ones_like(A), A + alpha)


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def _selu(Z: Array) -> Array:
    return _SELU_SCALE * _elu(Z, _SELU_ALPHA)


def _d_selu(A: Array) -> Array:
    return jnp.where(A > 0, jnp.full_like(A, _SELU_SCALE), A + _SELU_SCALE * _SELU_ALPHA)


def _softplus(Z: Array) -> Array:
    return jnp.logaddexp(Z, jnp.zeros_like(Z))


def _d_softplus(A: Array) -> Array:
    return -jnp.expm1(-A)


def _normal_density(Z: Array) -> Array:
    return jnp.exp(-0.5 * jnp.square(Z)) / math.sqrt(2 * math.pi)


def _gelu(Z: Array) -> Array:
    return 0.5 * Z * jax.lax.erfc(-Z * math.sqrt(0.5))


def _d_gelu(Z: Array) -> Array:
    # Phi by erf, where the forward pass needs erfc for its tail: with no shared term, the compiler keeps only Z.
    cdf = 0.5 + 0.5 * jax.lax.erf(Z * math.sqrt(0.5))
    return cdf + Z * _normal_density(Z)


_GELU_CUBIC = 0.044715


def _gelu_tanh_inner(Z: Array) -> tuple[Array, Array]:
    # Beyond |Z| = 10 the tanh is +-1 in every dtype; clipping keeps the cube in float16's range.
    Z = jnp.clip(Z, -10, 10)
    slope = math.sqrt(2 / math.pi)
    return jnp.tanh(slope * (Z + _GELU_CUBIC * Z**3)), slope * (1 + 3 * _GELU_CUBIC * Z**2)


def _gelu_tanh(Z: Array) -> Array:
    return 0.5 * Z * (1 + _gelu_tanh_inner(Z)[0])


def _d_gelu_tanh(Z: Array) -> Array:
    T, d_inner = _gelu_tanh_inner(Z)
    return 0.5 * (1 + T) + 0.5 * Z * (1 - T) * (1 + T) * d_inner


def _silu(Z: Array) -> Array:
    return Z * jax.nn.sigmoid(Z)


def _d_silu(Z: Array) -> Array:
    # By exp(-|Z|), where the forward pass has the logistic function: with no shared term, the compiler keeps only Z.
    E = jnp.exp(-jnp.abs(Z))
    return (jnp.where(Z > 0, jnp.ones_like(Z), E) + Z * E / (1 + E)) / (1 + E)


def _erf(Z: Array) -> Array:
    return jax.lax.erf(Z)


def _d_erf(Z: Array) -> Array:
    return 2 / math.sqrt(math.pi) * jnp.exp(-jnp.square(Z))


def _hard_tanh(Z: Array) -> Array:
    # sign, not clip: the derivative at +-1 is then 0 in autodiff too, and a NaN passes through.
    return jnp.where(jnp.abs(Z) < 1, Z, jnp.sign(Z))


def _d_hard_tanh(A: Array) -> Array:
    return (jnp.abs(A) < 1).astype(A.dtype)


def _softmax(Z: Array) -> Array:
    return jax.nn.softmax(Z, axis=-1)


linear = Nonlinearity("linear", _linear, _d_linear, homogeneous=True)
sigmoid = Nonlinearity("sigmoid", _sigmoid, _d_sigmoid)
tanh = Nonlinearity("tanh", _tanh, _d_tanh)
relu = Nonlinearity("relu", _relu, _d_relu, kinks=(0.0,), homogeneous=True)
selu = Nonlinearity("selu", _selu, _d_selu, kinks=(0.0,))
"""Self-normalizing unit; Klambauer, Unterthiner, Mayr & Hochreiter (2017)."""
softplus = Nonlinearity("softplus", _softplus, _d_softplus)
gelu = Nonlinearity("gelu", _gelu, _d_gelu, saves="input")
"""Z Phi(Z) with the exact normal distribution function; Hendrycks & Gimpel (2016)."""
gelu_tanh = Nonlinearity("gelu_tanh", _gelu_tanh, _d_gelu_tanh, saves="input")
"""The tanh approximation of gelu; Hendrycks & Gimpel (2016)."""
silu = Nonlinearity("silu", _silu, _d_silu, saves="input")
"""Z sigmoid(Z), also called swish."""
erf = Nonlinearity("erf", _erf, _d_erf, saves="input")
hard_tanh = Nonlinearity("hard_tanh", _hard_tanh, _d_hard_tanh, kinks=(-1.0, 1.0))
softmax = _Softmax("softmax", _softmax, _d_sigmoid, elementwise=False)


def leaky_relu(alpha: float = 0.01) -> Nonlinearity:
    """Z for Z > 0, alpha Z otherwise; Maas, Hannun & Ng (2013).

    Raises:
        FbpError: alpha is negative, so that the output would not tell the sign of Z.
    """
    if not 0 <= alpha < math.inf:
        raise FbpError(f"alpha of leaky_relu must be finite and at least 0, got {alpha}; 0.01 is usual")
    return Nonlinearity(
        "leaky_relu",
        _leaky_relu,
        _d_leaky_relu,
        arguments=(alpha,),
        kinks=(0.0,) if alpha != 1 else (),
        homogeneous=True,
    )


def elu(alpha: float = 1.0) -> Nonlinearity:
    """Z for Z > 0, alpha (exp(Z) - 1) otherwise; Clevert, Unterthiner & Hochreiter (2016).

    Raises:
        FbpError: alpha is not positive, so that the output would not tell the sign of Z.
    """
    if not 0 < alpha < math.inf:
        raise FbpError(f"alpha of elu must be finite and positive, got {alpha}; 1 is usual")
    return Nonlinearity("elu", _elu, _d_elu, arguments=(alpha,), kinks=(0.0,) if alpha != 1 else ())


def scaled_tanh(amplitude: float = 1.7159, slope: float = 2 / 3) -> Nonlinearity:
    """amplitude tanh(slope Z); LeCun, Bottou, Orr & Mueller (1998).

    Raises:
        FbpError: a constant is not positive.
    """
    if not (0 < amplitude < math.inf and 0 < slope < math.inf):
        raise FbpError(
            f"amplitude and slope of scaled_tanh must be finite and positive, got {amplitude} and {slope}; "
            "1.7159 and 2/3 are usual"
        )
    return Nonlinearity("scaled_tanh", _scaled_tanh, _d_scaled_tanh, arguments=(amplitude, slope))


_FIXED = (linear, sigmoid, tanh, relu, selu, softplus, gelu, gelu_tanh, silu, erf, hard_tanh, softmax)


class Activations(Registry[Nonlinearity]):
    """Activations by name: `activation("relu")`, `activation("leaky_relu(0.2)")`.

    Example:
        >>> g = fbp.activation("leaky_relu(0.2)")
        >>> g(jnp.array([-5.0, 2.0])).tolist()
        [-1.0, 2.0]
        >>> g.kinks, g.homogeneous, g.saves
        ((0.0,), True, 'output')
    """


activation = Activations(
    "activation",
    Nonlinearity,
    {"leaky_relu": leaky_relu, "elu": elu, "scaled_tanh": scaled_tanh},
    {each.name: each for each in _FIXED},
)


def find_spec(function: Nonlinearity) -> str | None:
    """The name that `activation` reads as this function, "relu" or "elu(0.5)"; None for a function of one's own.

    Args:
        function: an activation function.
    """
    arguments = ", ".join(repr(float(a)) for a in function.arguments)
    spec = f"{function.name}({arguments})" if arguments else function.name
    try:
        return spec if activation(spec) == function else None
    except FbpError:
        return None
