"""The notation and the one contract that everything else is written against.

Rows are examples: m examples, L layers, n_l units in layer l.

    A_0 = X                      (m, n_0)          input
    W_l, b_l                     (n_{l-1}, n_l), (n_l,)
    Z_l = A_{l-1} W_l + b_l      (m, n_l)          pre-activation
    A_l = g_l(Z_l)               (m, n_l)          activation
    dV                           shape of V        gradient of the loss with respect to V
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from fbp.cotangent import Cotangent

Activations: TypeAlias = Float[Array, "..."]
Params: TypeAlias = Any
"""A pytree of arrays: `{"W": ..., "b": ...}` for a dense layer, a tuple of these for `Serial`."""
Cache: TypeAlias = Any
"""A pytree of what `backward` needs from `forward`."""
Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the axis of examples."""
Key: TypeAlias = PRNGKeyArray | UInt32[Array, "2"]


class Layer:
    """Immutable, hashable data (widths, names, no arrays) with three pure methods.

    A subclass is a frozen dataclass that gives `init`, `forward` and `backward`.
    """

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """Parameters for inputs of the given shape, and the shape of the output.

        Args:
            key: the source of randomness.
            shape: the shape of one example, e.g. (784,).

        Returns:
            The parameters (an empty tuple where there are none) and the shape of one example of the output.
        """
        raise NotImplementedError

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The output and what `backward` needs.

        Args:
            params: what `init` made.
            A: the input, rows are examples: (m, *shape).
            key: randomness for layers that draw, such as dropout; without it they are deterministic.
        """
        raise NotImplementedError

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The vector-Jacobian product: (d_params, dA_in) for the cotangent dA_out of the output."""
        raise NotImplementedError

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: "Probe | None" = None
    ) -> tuple[Params, Cotangent, Any]:
        """`backward` with a probe: (d_params, dA_in, what the probe returned)."""
        d_params, dA_in = self.backward(params, cache, dA_out.value)
        reading = None
        if probe is not None:
            reading = probe(Visit(self, params, cache, dA_out.value, d_params, dA_in, dA_out.exponent))
        return d_params, dA_out.propagate(dA_in), reading

    @property
    def mixes_examples(self) -> bool:
        """Whether one example's output depends on the others of its batch."""
        return False

    @property
    def homogeneous(self) -> bool:
        """Whether f(c A) = c f(A) for every c > 0 with freshly initialized parameters."""
        return False

    @property
    def recomputes(self) -> bool:
        """Whether `recompute` gives the output from the cache at elementwise cost.

        Where it does, the next layer of a `Serial` does not keep its input.
        """
        return False

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The output of `forward`, from the parameters and the cache alone."""
        raise NotImplementedError


@dataclass(frozen=True)
class Visit:
    """What a probe sees as the reverse loop passes a layer.

    With `exponent` not None, dA_out, d_params and dA_in stand in units of 2**exponent.
    """

    layer: Layer
    params: Params
    cache: Cache
    dA_out: Activations
    d_params: Params
    dA_in: Activations
    exponent: Int[Array, ""] | None


Probe: TypeAlias = Callable[[Visit], Any]
"""A pure function of a `Visit`; what it returns is stacked by layer, also through `Repeat`."""
