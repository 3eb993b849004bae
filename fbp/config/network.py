"""A network, its loss and its initial parameters from the options of a command line.

The command line reads its options off this class before anything heavy is imported; hence the imports inside.
"""

import re
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from fbp.errors import FbpError, check_seed
from fbp.memory import check_memory

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Num
    from numpy.typing import ArrayLike

    from fbp.combinators import Network, Serial
    from fbp.losses import Loss
    from fbp.typing import Params


def _read_integer(_: type, tokens: Any) -> int:
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"it must be an integer, got {text!r}; leave the fraction out") from None


Integer = Annotated[int, Parameter(converter=_read_integer)]
"""An integer on the command line, which would by itself round 2.5 to 2."""


class Demand(NamedTuple):
    """What a command holds in memory at once, as measured with large networks (bytes).

    Attributes:
        parameter: for each parameter.
        activation: for each unit behind the inputs, for each example.
    """

    parameter: int
    activation: int


TRAINING = Demand(28, 12)
"""Parameters, those that the epoch began with, the caller's, gradients and the optimizer's moments, in float32."""
COMPARISON = Demand(120, 24)
"""Gradients by hand and by autodiff, and those of the judges in float64."""


@dataclass(frozen=True)
class NetworkConfig:
    """A network, its loss and its initialization, as the command line names them."""

    layers: str = "784,128,64,10"
    """Widths n_0,...,n_L, input first."""
    activation: str = "relu"
    """One for all hidden layers, or one each: relu, tanh, gelu, leaky_relu(0.2), ..."""
    init: str | None = None
    """Initializer: glorot_uniform, mean_field(1.3,0.2), ...; he_normal without it, in transformers normal(0.02)."""
    norm: str = "none"
    """Normalization before each activation: none, batch, layer or rms."""
    residual: bool = False
    """Put a residual connection around each block that keeps the width."""
    dropout: float = 0.0
    """Rate of dropout after each activation."""
    loss: str = "softmax_cross_entropy"
    """softmax_cross_entropy, sigmoid_binary_cross_entropy or half_squared_error."""
    seed: Integer = 0
    """Seed of all randomness, in 0..4294967295."""

    def network(self) -> "Serial":
        """The network.

        Raises:
            FbpError: a width, a name, a number of activations or the seed does not fit.
        """
        check_seed(self.seed)
        from fbp.networks import mlp

        activations = names(self.activation)
        return mlp(
            self._widths(),
            activations[0] if len(activations) == 1 else activations,
            # LSUV starts from orthonormal weights; `parameters` does the rest.
            "orthogonal" if self.init == "lsuv" else self.init or "he_normal",
            norm=self.norm,
            residual=self.residual,
            dropout=self.dropout,
        )

    def objective(self) -> "Loss":
        """The loss."""
        from fbp.losses import loss

        return loss(self.loss)

    def check(self, inputs: int, classes: int) -> None:
        """Refuse a network whose first or last width does not fit the data.

        Args:
            inputs: the number of entries of one example.
            classes: the number of labels.

        Raises:
            FbpError: a width does not fit.
        """
        widths = self._widths()
        if widths[0] != inputs or widths[-1] < classes:
            raise FbpError(
                f"layers must begin with the {inputs} inputs of the data and end with at least its {classes} classes, "
                f"got {self.layers}; use {inputs},128,64,{classes}"
            )

    def check_memory(self, demand: Demand, examples: int) -> None:
        """Refuse a network that does not fit the memory.

        Args:
            demand: what a command holds.
            examples: those of a batch.

        Raises:
            FbpError: it does not fit.
        """
        widths = [max(width, 0) for width in self._widths()]
        parameters = sum(n * m + m for n, m in pairwise(widths))
        arrays = 1 + (self.norm != "none") + (self.dropout > 0)
        check_memory(
            "a network and its gradients",
            f"layers {self.layers} in batches of {examples}",
            demand.parameter * parameters + demand.activation * arrays * sum(widths[1:]) * examples,
            "take smaller layers or a smaller batch",
        )

    def parameters(self, X: "Float[Array, 'm n_in']") -> "Params":
        """The initial parameters; LSUV scales them by a batch of inputs, X."""
        from fbp.calibration import lsuv

        net = self.network()
        params = draw_parameters(net, self.seed)
        return lsuv(net, params, X) if self.init == "lsuv" else params

    def targets(self, Y: "ArrayLike") -> "Num[Array, '...']":
        """Labels as the loss takes them: as they are, or one-hot."""
        import jax

        from fbp.losses import SoftmaxCrossEntropy

        labels = jax.numpy.asarray(Y)
        integer = isinstance(self.objective(), SoftmaxCrossEntropy)
        return labels if integer else jax.nn.one_hot(labels, self._widths()[-1])

    def _widths(self) -> tuple[int, ...]:
        return integers("layers", self.layers)


@dataclass(frozen=True)
class PictureConfig(NetworkConfig):
    """A network that is small enough for a picture, and a batch that is drawn for it."""

    layers: str = "2,3,2,1"
    """Widths n_0,...,n_L, input first."""
    activation: str = "sigmoid"
    """One for all hidden layers, or one each: relu, tanh, gelu, leaky_relu(0.2), ..."""
    loss: str = "half_squared_error"
    """softmax_cross_entropy, sigmoid_binary_cross_entropy or half_squared_error."""

    def batch(self, examples: int) -> "tuple[Float[Array, 'm n_in'], Num[Array, '...']]":
        """Inputs of one decimal, so that a reader can follow by hand, and targets: a class, or 0 and 1.

        Args:
            examples: m.
        """
        import jax

        from fbp.losses import SoftmaxCrossEntropy

        key_X, key_Y = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1))
        widths = self._widths()
        X = jax.numpy.round(jax.random.normal(key_X, (examples, widths[0])), 1)
        if isinstance(self.objective(), SoftmaxCrossEntropy):
            return X, jax.random.randint(key_Y, (examples,), 0, widths[-1])
        return X, jax.random.bernoulli(key_Y, shape=(examples, widths[-1])).astype(X.dtype)


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer and a batch of random tokens, as the command line names them."""

    style: Literal["gpt2", "modern"] = "gpt2"
    """gpt2: layer normalization, learned positions, GELU; modern: RMS normalization, rotary positions, SwiGLU."""
    width: Integer = 128
    """Entries of a token's vector."""
    depth: Integer = 4
    """Blocks."""
    heads: Integer = 4
    """Heads of attention, a divisor of the width."""
    length: Integer = 64
    """Tokens of a sequence."""
    vocabulary: Integer = 512
    """Different tokens."""

    def network(self, init: str | None = None, dropout: float = 0.0) -> "Network":
        """The network.

        Args:
            init: the initializer of dense layers; that of GPT-2 without it.
            dropout: the rate after the embedding and at the end of each branch.

        Raises:
            FbpError: a name or a number does not fit.
        """
        from fbp.networks import gpt

        sizes = self.vocabulary, self.length, self.width, self.depth, self.heads
        return gpt(*sizes, style=self.style, init=init or "normal(0.02)", dropout=dropout)

    def check_memory(self, demand: Demand, examples: int) -> None:
        """Refuse a network that does not fit the memory.

        Args:
            demand: what a command holds.
            examples: the sequences of a batch.

        Raises:
            FbpError: it does not fit.
        """
        n, T, V = self.width, self.length, self.vocabulary
        parameters, activations = count_transformer(n, self.depth, self.heads, T, V)
        check_memory(
            "a network and its gradients",
            f"width {n}, depth {self.depth}, length {T}, vocabulary {V} in batches of {examples}",
            demand.parameter * parameters + demand.activation * activations * examples,
            "take a smaller network or a smaller batch",
        )

    def batch(self, examples: int, seed: int) -> tuple["Int[Array, 'm T']", "Int[Array, 'm T']"]:
        """Random tokens, and as targets the tokens that follow each of them.

        Args:
            examples: m.
            seed: of the tokens.
        """
        import jax

        tokens = jax.random.randint(jax.random.key(seed), (examples, self.length + 1), 0, self.vocabulary)
        return tokens[:, :-1], tokens[:, 1:]


def count_transformer(width: int, depth: int, heads: int, length: int, vocabulary: int) -> tuple[int, int]:
    """About how many parameters a transformer has, and how many numbers its forward pass keeps of a sequence.

    Args:
        width: entries of a token's vector.
        depth: blocks.
        heads: of attention.
        length: tokens of a sequence.
        vocabulary: different tokens.
    """
    parameters = width * (vocabulary + length + 12 * width * depth)
    # Of each block, for a token: the stream, queries, keys, values, output, the inside, and the softmax.
    return parameters, length * (depth * (16 * width + heads * length) + 3 * vocabulary)


def draw_parameters(net: "Serial | Network", seed: int) -> "Params":
    """The initial parameters, by one compiled program: operation by operation it would be dozens.

    Args:
        net: a network that knows the shape of its inputs.
        seed: of the draw.
    """
    import jax

    # It runs once: what optimization would save is less than it takes.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda seed: net.init(jax.random.key(seed))[0], compiler_options=options)(jax.numpy.uint32(seed))


SHARED = ("init", "dropout", "seed")
"""Options of a multilayer perceptron that are those of a transformer as well."""


def check_unused(kind: str, options: Any, *, shared: tuple[str, ...] = ()) -> None:
    """Refuse options that belong to another kind of network.

    Args:
        kind: what is asked for.
        options: those of the other kind.
        shared: names of those that apply to both.

    Raises:
        FbpError: one of them is not at its default.
    """
    for field in fields(options):
        if field.name not in shared and getattr(options, field.name) != field.default:
            raise unused_option(field.name, kind, getattr(options, field.name))


def unused_option(name: str, kind: str, received: Any) -> FbpError:
    """The error about an option that belongs to another kind of network.

    Args:
        name: of the option.
        kind: of network that is asked for.
        received: what was given.
    """
    return FbpError(
        f"--{name} must not be given with --network {kind}, which has no such part, got {received}; leave it out"
    )


def integers(what: str, text: str) -> tuple[int, ...]:
    """Parse integers with commas between them.

    Args:
        what: the name of the option, for the message.
        text: as it was typed.

    Raises:
        FbpError: an item is not an integer.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise FbpError(f"{what} must be integers with commas between them, got {text!r}; use e.g. 10,50,200") from error


def names(text: str) -> list[str]:
    """Split names at their commas; a comma in brackets belongs to its name."""
    return re.split(r",(?![^(]*\))", text)
