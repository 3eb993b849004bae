"""Adapters: a dense layer with a product of two thin matrices beside its own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fbp.errors import FbpError, check_count
from fbp.layers.basic import Dense
from fbp.pairs import Outer, Pairs
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape

THIN = 16
"""A thin product runs at a fraction of the rate of a wide one: it is worth taking from this factor in operations on."""


@dataclass(frozen=True)
class LowRank(Layer):
    """Z = A V + b with V = W + (scale / rank) D U, D (n_in, rank) and U (rank, n_out). Hu et al. (2022).

        dU = s (A D)^T dZ,    dD = A^T (s dZ U^T),    dA = dZ V^T

    where s = scale / rank. V is small beside the activations, so that A and dZ pass through one product each. The
    gradients of D and U go through the thin side where that saves a factor of `THIN`, otherwise through that of V,
    dU = s D^T dV and dD = s dV U^T with dV = A^T dZ. The parameters of the dense layer keep their names, so that
    weights saved before still fit; "D" and "U" stand beside them. U begins at zero: the network is then what it was.

    Attributes:
        dense: the layer that is adapted.
        rank: of the product.
        scale: alpha, in units of the rank.

    Example:
        >>> layer = fbp.LowRank(fbp.Dense(8), rank=2)
        >>> params, shape = layer.init(jax.random.key(0), (4,))
        >>> sorted(params), params["D"].shape, params["U"].shape
        (['D', 'U', 'W', 'b'], (4, 2), (2, 8))
    """

    dense: Dense
    rank: int = 8
    scale: float = 16.0

    def __post_init__(self) -> None:
        if not isinstance(self.dense, Dense):
            raise FbpError(f"LowRank must adapt a Dense layer, got {self.dense!r}; write LowRank(Dense(10), rank=8)")
        check_count("rank of LowRank", self.rank)

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The dense layer's parameters, drawn as without the adapter, and "D" and "U"."""
        params, out_shape = self.dense.init(key, shape)
        D = jax.random.normal(jax.random.fold_in(key, 1), (shape[-1], self.rank)) / shape[-1] ** 0.5
        return params | {"D": D, "U": jnp.zeros((self.rank, self.dense.width))}, out_shape

    @property
    def _s(self) -> float:
        return self.scale / self.rank

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Z; caches A."""
        return self.dense.forward(self._merge(params), A)

    def _merge(self, params: Params) -> Params:
        """The parameters of the dense layer that computes the same."""
        return params | {"W": params["W"] + self._s * (params["D"] @ params["U"])}

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dW = dV and db as in `Dense`; dU, dD and dA as above."""
        A, dZ = cache, dA_out
        d_dense, dA = self.dense.backward(self._merge(params), A, dZ)
        D, U = params["D"], params["U"]
        n_in, n_out = params["W"].shape
        A, dZ = A.reshape(-1, n_in), dZ.reshape(-1, n_out)
        if n_in * n_out < THIN * self.rank * (n_in + n_out):
            # Not dW of Dense, which is formed for another layout: two thirds of the rate here.
            dV = A.T @ dZ
            return d_dense | {"D": self._s * (dV @ U.T), "U": self._s * (D.T @ dV)}, dA
        thin = self._s * (U @ dZ.T)
        return d_dense | {"D": (thin @ A).T, "U": self._s * ((D.T @ A.T) @ dZ)}, dA

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """The pairs of the dense layer, (A, s dZ U^T) for D and (s A D, dZ) for U."""
        A, AD = cache, cache @ params["D"]
        thin = self._s * (dA_out @ params["U"].T)
        return self.dense.linear(params, A, dA_out) | {"D": Outer(A, thin), "U": Outer(self._s * AD, dA_out)}

    @property
    def acts_on_rows(self) -> bool:
        """True."""
        return True
