"""Normalization layers: batch, layer and root-mean-square normalization.

All three compute A_hat = (A - mean) * r with r = (var + eps)^(-1/2), then gamma A_hat + beta; they differ in the axes
of the statistics and in whether they have mean and beta. The statistics are computed in at least float32.

Derivation of the shared backward pass. With d_hat = dA_out * gamma and <.> the mean over the axes of the statistics,

    dA_in = r * (d_hat - <d_hat> - A_hat * <d_hat * A_hat>)

where <d_hat> is the path through the mean and A_hat <d_hat A_hat> the path through the variance.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.errors import FbpError
from fbp.layers.axes import example_axes, per_unit
from fbp.pairs import Each, Pairs, sum_positions
from fbp.precision import widen
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape


@dataclass(frozen=True)
class _Normalization(Layer):
    """What the three share. A subclass gives the axes and says whether the mean is subtracted."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.eps < math.inf:
            raise FbpError(f"eps of {type(self).__name__} must be finite and at least 0, got {self.eps}; 1e-5 is usual")

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """gamma = 1 and, if the mean is subtracted, beta = 0, each (n,) for the last axis."""
        if not shape:
            raise FbpError(
                f"examples of {type(self).__name__} must have at least one axis, got the shape {shape}; "
                "give for example (128,)"
            )
        params = {"gamma": jnp.ones(shape[-1])}
        if self._subtracts_mean:
            params["beta"] = jnp.zeros(shape[-1])
        return params, shape

    @property
    def _subtracts_mean(self) -> bool:
        return True

    def _axes(self, ndim: int) -> tuple[int, ...]:
        raise NotImplementedError

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """gamma A_hat + beta.

        Caches the input and the statistics rather than A_hat: the input is often in the cache of the layer before,
        which can then give it back, and the statistics are small.
        """
        axes = self._axes(A.ndim)
        wide = widen(A)
        mean = jnp.mean(wide, axis=axes, keepdims=True) if self._subtracts_mean else None
        centred = wide if mean is None else wide - mean
        r = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + self.eps)
        cache = (A, mean, r)
        return self.recompute(params, cache), cache

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """d_gamma = sum of dA A_hat over examples, d_beta = sum of dA; dA_in as derived above."""
        _, _, r = cache
        axes = self._axes(dA_out.ndim)
        A_hat, d_out = self._normalize(cache), dA_out.astype(r.dtype)
        gamma = params["gamma"]
        d_hat = d_out * per_unit(gamma.astype(r.dtype), d_out)
        through_variance = A_hat * jnp.mean(d_hat * A_hat, axis=axes, keepdims=True)
        dA_in = d_hat - through_variance
        if self._subtracts_mean:
            through_mean = jnp.mean(d_hat, axis=axes, keepdims=True)
            dA_in = dA_in - through_mean
        examples = example_axes(dA_out)
        d_params: dict[str, Any] = {"gamma": jnp.sum(d_out * A_hat, axis=examples).astype(gamma.dtype)}
        if self._subtracts_mean:
            d_params["beta"] = jnp.sum(d_out, axis=examples).astype(gamma.dtype)
        return d_params, (r * dA_in).astype(dA_out.dtype)

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """Of each example the sums over its positions, of dA A_hat and of dA."""
        dtype = params["gamma"].dtype
        d_out, A_hat = dA_out.astype(cache[2].dtype), self._normalize(cache)
        pairs: Pairs = {"gamma": Each(sum_positions(d_out * A_hat).astype(dtype))}
        if self._subtracts_mean:
            pairs["beta"] = Each(sum_positions(d_out).astype(dtype))
        return pairs

    @property
    def recomputes(self) -> bool:
        """True: the output is an elementwise function of the input and the statistics."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """gamma A_hat + beta, from the input and the statistics."""
        A = cache[0]
        out = self._normalize(cache).astype(A.dtype) * per_unit(params["gamma"], A)
        return out + per_unit(params["beta"], A) if self._subtracts_mean else out

    @staticmethod
    def _normalize(cache: Cache) -> Array:
        A, mean, r = cache
        wide = A.astype(r.dtype)
        return (wide if mean is None else wide - mean) * r


@dataclass(frozen=True)
class BatchNorm(_Normalization):
    """Statistics over the examples, for each entry of the last axis.

    `forward` always uses the statistics of its batch; for inference, `fbp.with_population_statistics` replaces the
    layer by an `Affine` one. Ioffe & Szegedy (2015), Algorithms 1 and 2.

    Attributes:
        eps: added to the variance.

    Example:
        >>> layer = fbp.BatchNorm()
        >>> params, _ = layer.init(jax.random.key(0), (3,))
        >>> A, _ = layer.forward(params, jax.random.normal(jax.random.key(1), (32, 3)) + 5)
        >>> bool(jnp.allclose(A.mean(axis=0), 0, atol=1e-5) & jnp.allclose(A.std(axis=0), 1, atol=1e-3))
        True
    """

    @property
    def mixes_examples(self) -> bool:
        """True: through the statistics of the batch."""
        return True

    def _axes(self, ndim: int) -> tuple[int, ...]:
        return tuple(range(ndim - 1))


@dataclass(frozen=True)
class LayerNorm(_Normalization):
    """Statistics over the last axis, for each example. Ba, Kiros & Hinton (2016).

    Attributes:
        eps: added to the variance.

    Example:
        >>> layer = fbp.LayerNorm()
        >>> params, _ = layer.init(jax.random.key(0), (3,))
        >>> A, _ = layer.forward(params, jnp.array([[1.0, 2.0, 3.0]]))
        >>> A.round(2).tolist()[0][1]
        0.0
    """

    def _axes(self, ndim: int) -> tuple[int, ...]:
        return (ndim - 1,)


@dataclass(frozen=True)
class RMSNorm(_Normalization):
    """A / sqrt(mean square + eps) over the last axis, without mean and shift. Zhang & Sennrich (2019).

    Attributes:
        eps: added to the mean square.
    """

    @property
    def _subtracts_mean(self) -> bool:
        return False

    def _axes(self, ndim: int) -> tuple[int, ...]:
        return (ndim - 1,)
