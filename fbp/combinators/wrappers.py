"""One layer with something around it: a residual connection, a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array

from fbp.combinators.base import Combinator, check_layer
from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape


@dataclass(frozen=True)
class Residual(Combinator):
    """A + scale * branch(A). Backward, the fan-out: dA_in = dA_out + the branch's dA_in, cotangents add.

    He, Zhang, Ren & Sun (2016).

    Attributes:
        branch: a layer that keeps the shape.
        scale: the constant factor of the branch, e.g. 1/sqrt(L).
    """

    branch: Layer
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_layer("Residual", self.branch)

    @property
    def children(self) -> tuple[Layer, ...]:
        """The branch."""
        return (self.branch,)

    def with_children(self, children: Sequence[Layer]) -> "Residual":
        """The same connection around another branch."""
        return replace(self, branch=children[0])

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The branch's parameters."""
        params, out_shape = self.branch.init(key, shape)
        if out_shape != shape:
            raise FbpError(f"the branch of Residual keeps the shape; received {shape} -> {out_shape}")
        return params, shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A + scale * branch(A); keeps what the branch keeps."""
        out, cache = self.branch.forward(params, A, key)
        return A + self._scaled(out), cache

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """The branch's loop, and the sum where it began."""
        d_branch = dA_out._replace(value=self._scaled(dA_out.value))
        d_params, dA_branch, reading = self.branch.sweep(params, cache, d_branch, probe)
        return d_params, dA_out + dA_branch, reading

    def _scaled(self, A: Array) -> Array:
        return A if self.scale == 1 else self.scale * A


@dataclass(frozen=True)
class Checkpoint(Combinator):
    """The same function, with the inside's cache recomputed from its input in the backward pass.

    Griewank & Walther (2000); Chen, Xu, Zhang & Guestrin (2016).
    """

    inside: Layer

    def __post_init__(self) -> None:
        check_layer("Checkpoint", self.inside)

    @property
    def children(self) -> tuple[Layer, ...]:
        """The inside."""
        return (self.inside,)

    def with_children(self, children: Sequence[Layer]) -> "Checkpoint":
        """A checkpoint around another layer."""
        return Checkpoint(children[0])

    @property
    def is_chain(self) -> bool:
        """Always: it is the inside."""
        return True

    def without_checkpoint(self) -> Layer:
        """The inside."""
        return self.inside

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """The inside's parameters."""
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The inside's output; keeps the input (and the key, so that the same masks are drawn again)."""
        return self.inside.forward(params, A, key)[0], (A, key)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        """Forward once more, then the inside's loop."""
        # The barrier keeps the compiler from merging the second forward pass with the first, which would keep
        # everything that this class exists to drop. The cotangent is in it so that the second pass waits for it.
        (A, key), dA_out = jax.lax.optimization_barrier((cache, dA_out))
        _, inner = self.inside.forward(params, A, key)
        return self.inside.sweep(params, inner, dA_out, probe)
