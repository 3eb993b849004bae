"""The notation, and the one contract that all layers obey.

Rows are examples: m examples, L layers, n_l units in layer l.

    A_0 = X                      (m, n_0)          input
    W_l, b_l                     (n_{l-1}, n_l), (n_l,)
    Z_l = A_{l-1} W_l + b_l      (m, n_l)          pre-activation
    A_l = g_l(Z_l)               (m, n_l)          activation
    dV                           shape of V        gradient of the loss with respect to V
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt32

from fbp.cotangent import Cotangent

Activations: TypeAlias = Float[Array, "..."]
Targets: TypeAlias = Num[Array, "..."]
"""What a loss compares the output with: labels (m,), or an array (m, n_L)."""
Weights: TypeAlias = Float[Array, " m"] | None
"""The weights of the examples in the loss; None for equal weights."""
Params: TypeAlias = Any
"""A pytree of arrays: `{"W": ..., "b": ...}` for a dense layer, a tuple of these for `Serial`."""
Cache: TypeAlias = Any
"""A pytree: what `backward` needs from `forward`."""
Sweep: TypeAlias = tuple[Params, Cotangent, Any]
"""What a reverse sweep returns: (d_params, dA_in, readings of the probe)."""
Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch axis."""
Key: TypeAlias = PRNGKeyArray | UInt32[Array, "2"]


class Layer:
    """Immutable, hashable data (widths, names, no arrays) with three pure methods.

    A layer of one's own is a frozen dataclass with `init`, `forward` and `backward`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Scale(fbp.Layer):
        ...     def init(self, key, shape):
        ...         return {"s": jnp.ones(())}, shape
        ...
        ...     def forward(self, params, A, key=None):
        ...         return params["s"] * A, A  # the output, and what backward needs
        ...
        ...     def backward(self, params, cache, dA_out):
        ...         return {"s": jnp.sum(dA_out * cache)}, params["s"] * dA_out  # d_params, dA_in
        >>> net = fbp.Serial(fbp.Dense(8), Scale(), fbp.Dense(3), shape=(4,))
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jnp.ones((2, 4)), jnp.array([0, 2])
        >>> value, d_params = fbp.value_and_grad(net, fbp.SoftmaxCrossEntropy())(params, X, Y)
        >>> d_params[1]["s"].shape
        ()
    """

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """Draw parameters for inputs of the given shape.

        Args:
            key: the source of randomness.
            shape: the shape of one example, e.g. (784,).

        Returns:
            The parameters (an empty tuple if there are none) and the shape of one example of the output.
        """
        raise NotImplementedError

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """The output and what `backward` needs.

        Args:
            params: what `init` made.
            A: the input, (m, *shape); rows are examples.
            key: randomness for layers that draw, such as dropout; without it they are deterministic.

        Returns:
            The output, (m, *out_shape), and the cache.
        """
        raise NotImplementedError

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The vector-Jacobian product of the layer.

        Args:
            params: the parameters given to `forward`.
            cache: the cache that `forward` returned.
            dA_out: the gradient of the loss with respect to the output, in its shape.

        Returns:
            (d_params, dA_in): the gradients with respect to the parameters, in their structure, and to the input.
        """
        raise NotImplementedError

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: "Probe | None" = None) -> Sweep:
        """`backward` with a probe: (d_params, dA_in, the probe's reading)."""
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

        If it does, the next layer of a `Serial` does not cache its input.
        """
        return False

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The output of `forward`, from the parameters and the cache alone."""
        raise NotImplementedError


@dataclass(frozen=True)
class Visit:
    """What a probe sees when the reverse loop passes a layer.

    If `exponent` is not None, dA_out, d_params and dA_in are in units of 2**exponent.
    """

    layer: Layer
    params: Params
    cache: Cache
    dA_out: Activations
    d_params: Params
    dA_in: Activations
    exponent: Int[Array, ""] | None


class Probe(Protocol):
    """A pure function of a `Visit`, called at each layer; its results are stacked by layer, also through `Repeat`."""

    def __call__(self, visit: Visit, /) -> Any: ...
