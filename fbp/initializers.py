"""Initializers: one general variance-scaling rule and its named special cases."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.errors import FbpError, unknown_name
from fbp.registry import Registry
from fbp.typing import Key

Mode = Literal["fan_in", "fan_out", "fan_avg", "none"]
Distribution = Literal["normal", "uniform", "truncated_normal", "orthogonal", "constant"]


@dataclass(frozen=True)
class Initializer:
    """Random W with mean 0 and Var W = scale / fan; b ~ N(0, bias_stddev**2).

    Attributes:
        scale: the numerator of the variance. For "orthogonal", W^T W (or W W^T) = scale I; for "constant", every
            weight equals `scale`.
        mode: what `fan` is: "fan_in" the rows of W, "fan_out" its columns, "fan_avg" their mean, "none" 1.
        distribution: the shape of the distribution.
        bias_stddev: the standard deviation of the biases.

    Raises:
        FbpError: a name is unknown, or a number is negative or not finite.

    Example:
        >>> rule = fbp.Initializer(scale=2.0, mode="fan_in", distribution="normal")
        >>> rule == fbp.initializer("he_normal")
        True
        >>> rule.weight(jax.random.key(0), (784, 128)).shape
        (784, 128)
        >>> rule.stddev(200, 100)
        0.1
    """

    scale: float = 1.0
    mode: Mode = "fan_in"
    distribution: Distribution = "normal"
    bias_stddev: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("distribution", get_args(Distribution))):
            if getattr(self, name) not in known:
                raise unknown_name(f"{name} of an initializer", getattr(self, name), known)
        positive = self.scale >= 0 or self.distribution == "constant"
        if not (positive and math.isfinite(self.scale) and 0 <= self.bias_stddev < math.inf):
            raise FbpError(
                "scale and bias_stddev of an initializer must be finite and at least 0, "
                f"got scale={self.scale:g} and bias_stddev={self.bias_stddev:g}; give a variance and a deviation"
            )

    def stddev(self, fan_in: int, fan_out: int) -> float:
        """The standard deviation of one weight of a (fan_in, fan_out) matrix; 0 for "constant"."""
        if self.distribution == "constant":
            return 0.0
        if self.distribution == "orthogonal":
            return (self.scale / max(fan_in, fan_out)) ** 0.5
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2, "none": 1}
        return (self.scale / fans[self.mode]) ** 0.5

    def weight(self, key: Key, shape: tuple[int, int]) -> Float[Array, "n_in n_out"]:
        """Draw a weight matrix of shape (n_{l-1}, n_l) in the default float dtype."""
        if self.distribution == "constant":
            return jnp.full(shape, self.scale)
        if self.distribution == "orthogonal":
            return jax.nn.initializers.orthogonal(self.scale**0.5)(key, shape)
        stddev = self.stddev(*shape)
        if self.distribution == "uniform":
            return stddev * jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5)
        if self.distribution == "truncated_normal":
            return jax.nn.initializers.truncated_normal(stddev / TRUNCATED_STDDEV)(key, shape)
        return stddev * jax.random.normal(key, shape)

    def bias(self, key: Key, width: int) -> Float[Array, "n_out"]:
        """Draw a bias vector of shape (n_l,)."""
        return self.bias_stddev * jax.random.normal(key, (width,)) if self.bias_stddev else jnp.zeros(width)


TRUNCATED_STDDEV = 0.87962566103423978
"""The standard deviation of a standard normal cut at +-2."""

he_normal = Initializer(2.0, "fan_in", "normal")
"""Var W = 2 / fan_in; He, Zhang, Ren & Sun (2015)."""
he_uniform = replace(he_normal, distribution="uniform")
glorot_normal = Initializer(1.0, "fan_avg", "normal")
"""Var W = 2 / (fan_in + fan_out); Glorot & Bengio (2010)."""
glorot_uniform = replace(glorot_normal, distribution="uniform")
lecun_normal = Initializer(1.0, "fan_in", "normal")
"""Var W = 1 / fan_in, standard deviation n^-1/2; LeCun, Bottou, Orr & Mueller (1998)."""
lecun_uniform = replace(lecun_normal, distribution="uniform")
inverse_sqrt_uniform = Initializer(1 / 3, "fan_in", "uniform")
"""W ~ U[-n^-1/2, n^-1/2], the usual heuristic before Glorot & Bengio (2010)."""
zeros = Initializer(0.0, distribution="constant")


def normal(stddev: float = 0.01) -> Initializer:
    """W ~ N(0, stddev**2), independent of the fan; textbooks often use 0.01."""
    return Initializer(_check_deviation("stddev", stddev) ** 2, "none", "normal")


def constant(value: float = 0.0) -> Initializer:
    """Every weight equals `value`."""
    return Initializer(value, distribution="constant")


def orthogonal(gain: float = 1.0) -> Initializer:
    """W = gain Q with orthonormal columns or rows; Saxe, McClelland & Ganguli (2013)."""
    return Initializer(_check_deviation("gain", gain) ** 2, distribution="orthogonal")


def mean_field(sigma_w: float = 1.0, sigma_b: float = 0.0) -> Initializer:
    """Var W = sigma_w**2 / fan_in, Var b = sigma_b**2; Poole et al. (2016), Schoenholz et al. (2017).

    Raises:
        FbpError: a standard deviation is negative or not finite.
    """
    variance = _check_deviation("sigma_w", sigma_w) ** 2
    return Initializer(variance, "fan_in", "normal", _check_deviation("sigma_b", sigma_b))


def _check_deviation(name: str, deviation: float) -> float:
    if not 0 <= deviation < math.inf:
        raise FbpError(f"{name} must be finite and at least 0, got {deviation:g}; give its absolute value")
    return deviation


_FIXED = {
    "zeros": zeros,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "inverse_sqrt_normal": lecun_normal,
    "inverse_sqrt_uniform": inverse_sqrt_uniform,
}


class Initializers(Registry[Initializer]):
    """Initializers by name: `initializer("he_normal")`, `initializer("mean_field(1.3, 0.2)")`.

    Example:
        >>> fbp.initializer("mean_field(1.5, 0.5)").bias_stddev
        0.5
    """


initializer = Initializers(
    "initializer",
    Initializer,
    {"normal": normal, "constant": constant, "orthogonal": orthogonal, "mean_field": mean_field},
    _FIXED,
)


def find_spec(rule: Initializer) -> str | None:
    """The name that `initializer` reads as this rule, "he_normal" or "normal(0.02)"; None if there is none.

    Args:
        rule: an initializer.
    """
    scale, root = float(rule.scale), math.sqrt(abs(rule.scale))
    families = (
        f"normal({root!r})",
        f"constant({scale!r})",
        f"orthogonal({root!r})",
        f"mean_field({root!r}, {float(rule.bias_stddev)!r})",
    )
    return next((spec for spec in (*_FIXED, *families) if initializer(spec) == rule), None)
