"""Combinators of a single layer: the residual connection and the checkpoint."""

from dataclasses import dataclass

import jax
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_keeps_shape, check_layer
from fbp.cotangent import Cotangent
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Sweep


@dataclass(frozen=True)
class Residual(Combinator):
    """A + scale * branch(A). Backward: dA_in = dA_out + the branch's dA_in, because cotangents add at a fan-out.

    He, Zhang, Ren & Sun (2016).

    Attributes:
        branch: a layer that keeps the shape.
        scale: the constant factor of the branch, e.g. 1/sqrt(L).

    Example:
        >>> block = fbp.Residual(fbp.Serial(fbp.Activation("tanh"), fbp.Dense(8)), scale=0.5)
        >>> net = fbp.Serial(fbp.Dense(8), block, block, fbp.Dense(3), shape=(4,))
        >>> params, shape = net.init(jax.random.key(0))
        >>> shape
        (3,)
    """

    branch: Layer
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_layer("Residual", self.branch)

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The branch's parameters."""
        params, out_shape = self.branch.init(key, shape)
        check_keeps_shape("the branch of Residual", shape, out_shape)
        return params, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A + scale * branch(A); the cache is that of the branch."""
        out, cache = self.branch.forward(params, A, key)
        return A + self._scale(out), cache

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The branch's reverse loop, and the sum of the two cotangents at its input."""
        d_branch = dA_out._replace(value=self._scale(dA_out.value))
        d_params, dA_branch, reading = self.branch.sweep(params, cache, d_branch, probe)
        return d_params, dA_out + dA_branch, reading

    def _scale(self, A: Array) -> Array:
        return A if self.scale == 1 else self.scale * A


@dataclass(frozen=True)
class Checkpoint(Combinator):
    """The same function, whose cache is recomputed from its input in the backward pass: less memory, more time.

    Griewank & Walther (2000); Chen, Xu, Zhang & Guestrin (2016).

    Attributes:
        inside: any layer.

    Example:
        >>> block = fbp.Serial(fbp.Activation("gelu"), fbp.Dense(8))
        >>> net = fbp.Serial(fbp.Dense(8), fbp.Checkpoint(block), fbp.Dense(3), shape=(4,))
        >>> params, _ = net.init(jax.random.key(0))
    """

    inside: Layer
    is_chain = True

    def __post_init__(self) -> None:
        check_layer("Checkpoint", self.inside)

    def without_checkpoint(self) -> Layer:
        """The layer inside."""
        return self.inside

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The parameters of the layer inside."""
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The output of the layer inside; caches the input, and the key, so that the same masks are drawn again."""
        return self.inside.forward(params, A, key)[0], (A, key)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """A second forward pass, then the reverse loop of the layer inside."""
        # The barrier keeps the compiler from merging the second forward pass with the first, which would keep
        # every array that this class drops. The cotangent is in it so that the second pass waits for it.
        (A, key), dA_out = jax.lax.optimization_barrier((cache, dA_out))
        _, inner = self.inside.forward(params, A, key)
        return self.inside.sweep(params, inner, dA_out, probe)
