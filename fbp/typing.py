"""The notation, and the one contract that all layers obey.

Rows are examples: m examples, L layers, n_l units in layer l.

    A_0 = X                      (m, n_0)          input
    W_l, b_l                     (n_{l-1}, n_l), (n_l,)
    Z_l = A_{l-1} W_l + b_l      (m, n_l)          pre-activation
    A_l = g_l(Z_l)               (m, n_l)          activation
    dV                           shape of V        gradient of the loss with respect to V
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt32

from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.pairs import Pairs
from fbp.paths import Path

Activations: TypeAlias = Any
"""An array (m, ...), rows are examples; or a tuple or dictionary of them for layers that take or give several."""
Targets: TypeAlias = Num[Array, "..."]
"""What a loss compares the output with: labels (m,) or (m, T), or an array (m, n_L)."""
Weights: TypeAlias = Float[Array, " m"] | Float[Array, "m T"] | None
"""The weights of the examples, or of their items, in the loss; None for equal weights."""
Params: TypeAlias = Any
"""A pytree of arrays: `{"W": ..., "b": ...}` for a dense layer, a tuple of these for `Serial`, a dictionary of them for
`Network`."""
Cache: TypeAlias = Any
"""A pytree: what `backward` needs from `forward`."""
Sweep: TypeAlias = tuple[Params, Cotangent, Any]
"""What a reverse sweep returns: (d_params, dA_in, readings of the probe)."""
Shape: TypeAlias = Any
"""The shape of one example, without the batch axis, e.g. (784,); a tuple or dictionary of shapes for several arrays."""
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

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """The gradient of each parameter before its sum over examples; the sums are what `backward` returns.

        It is declared so that others can ask for more than the gradient: norms of each example's own gradient,
        clipping, curvature.

        Args:
            params: the parameters given to `forward`.
            cache: the cache that `forward` returned.
            dA_out: the gradient of the loss with respect to the output.

        Returns:
            For each parameter by its name an `Outer` (dW = A^T dZ is the sum of outer products) or an `Each` (a
            gradient of every example); empty where a layer does not say, or has no parameters.
        """
        return {}

    def of(self, *lines: str, **inputs: str) -> "Line":
        """Say which lines of a `Network` this layer reads.

        Args:
            lines: the name of one line, whose output it takes; or several, of which it takes a tuple.
            inputs: for a layer that takes a dictionary: its entries, and the lines that they come from.

        Returns:
            A line to give to `Network`.
        """
        return Line(self).of(*lines, **inputs)

    def sharing(self, line: str) -> "Line":
        """Say whose parameters this layer uses in a `Network`, in place of its own: the gradients of both uses add.

        Args:
            line: the name of the line that owns them.

        Returns:
            A line to give to `Network`.
        """
        return Line(self).sharing(line)

    @property
    def mixes_examples(self) -> bool:
        """Whether one example's output depends on the others of its batch."""
        return False

    @property
    def takes_integers(self) -> bool:
        """Whether its input are integers, such as tokens."""
        return False

    @property
    def acts_on_rows(self) -> bool:
        """Whether each row (all axes but the last) is treated by itself and alike, so that rows may come in chunks."""
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
class Wrapper(Layer):
    """A layer around another one that keeps something beside its cache: a subclass gives `forward`, with (cache, more).

    Attributes:
        layer: the layer inside.
    """

    layer: Layer

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """That of the layer inside."""
        return self.layer.init(key, shape)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """That of the layer inside."""
        return self.layer.backward(params, cache[0], dA_out)

    def linear(self, params: Params, cache: Cache, dA_out: Activations) -> Pairs:
        """That of the layer inside."""
        return self.layer.linear(params, cache[0], dA_out)

    @property
    def takes_integers(self) -> bool:
        """Whether the layer inside does."""
        return self.layer.takes_integers

    @property
    def mixes_examples(self) -> bool:
        """Whether the layer inside does."""
        return self.layer.mixes_examples


@dataclass(frozen=True)
class Line:
    """A layer with its place in a `Network`: what it reads, and whose parameters it uses.

    Attributes:
        layer: the layer.
        reads: the names of the lines whose outputs it takes; empty for the line before.
        entries: if it takes a dictionary, the entries that these lines fill; otherwise empty.
        owner: the line whose parameters it uses; None for its own.
    """

    layer: Layer
    reads: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    owner: str | None = None

    def of(self, *lines: str, **inputs: str) -> "Line":
        """The same line, reading these lines; see `Layer.of`."""
        if bool(lines) == bool(inputs):
            raise FbpError(
                f"`of` must name lines, or say for each input its line, got {lines or 'nothing'} and "
                f"{inputs or 'nothing'}; write .of('norm') or .of(x='norm', mask='mask')"
            )
        return replace(self, reads=lines or tuple(inputs.values()), entries=tuple(inputs))

    def sharing(self, line: str) -> "Line":
        """The same line, using the parameters of another; see `Layer.sharing`."""
        return replace(self, owner=line)


@dataclass(frozen=True)
class Visit:
    """What a probe sees when the reverse loop passes a layer.

    If `exponent` is not None, dA_out, d_params and dA_in are in units of 2**exponent.

    Attributes:
        layer: the layer.
        params: its parameters.
        cache: what its forward pass kept.
        dA_out: the gradient of the loss with respect to its output.
        d_params: with respect to its parameters.
        dA_in: with respect to its input.
        exponent: the power of two that scales the three, or None.
        path: where the layer stands in the network; in a loop, which has one visit for all copies, with `...` for their
            number.
    """

    layer: Layer
    params: Params
    cache: Cache
    dA_out: Activations
    d_params: Params
    dA_in: Activations
    exponent: Int[Array, ""] | None
    path: Path = ()


class Probe(Protocol):
    """A pure function of a `Visit`, called at each layer; its results are stacked by layer, also through `Repeat`."""

    def __call__(self, visit: Visit, /) -> Any: ...
