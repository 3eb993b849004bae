"""The networks that `fbp verify` checks by itself: small ones in which every layer, loss and dtype occurs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.activations import activation
from fbp.combinators import Checkpoint, Network, Repeat, Residual, Serial
from fbp.layers import (
    Activation,
    Add,
    Affine,
    Attention,
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Gated,
    LayerNorm,
    LearnedPositions,
    LowRank,
    Multiply,
    RMSNorm,
    Rotary,
    SinusoidalPositions,
    Unembedding,
)
from fbp.layers.axes import is_shape
from fbp.losses import HalfSquaredError, Loss, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from fbp.networks import gpt, mlp
from fbp.precision import cast
from fbp.typing import Layer, Params, Shape

INPUTS, WIDTH, CLASSES, EXAMPLES = 6, 8, 5, 8
VOCABULARY, LENGTH = 7, 5


@dataclass(frozen=True)
class Builtin:
    """A network with its loss, and the dtype that it is verified in.

    Attributes:
        name: what is in it.
        net: the network.
        loss: its loss.
        dtype: of parameters and inputs.
        keyed: whether it draws.
        shape: of one example, or the shapes of several inputs by name as pairs: "tokens" are integers, a "mask" is
            boolean.
    """

    name: str
    net: Layer
    loss: Loss = SoftmaxCrossEntropy()  # noqa: RUF009 - immutable
    dtype: str = "float32"
    keyed: bool = False
    shape: tuple[Any, ...] = (INPUTS,)

    def arguments(self, seed: int = 0) -> tuple[Any, ...]:
        """(params, X, Y, weights, key): seeded numbers, biases that are not zero."""
        draw = np.random.default_rng(seed)
        shape = dict(self.shape) if self._is_named else self.shape
        params = draw_parameters(self.net, shape, draw)
        if self._is_named:
            X = {name: self._draw(name, of_one, draw) for name, of_one in self.shape}
        else:
            X = self._draw("tokens" if self.net.takes_integers else "", self.shape, draw)
        outputs = jax.eval_shape(lambda params, X: self.net.forward(params, X)[0], params, X).shape
        if isinstance(self.loss, SoftmaxCrossEntropy):
            Y = (np.arange(np.prod(outputs[:-1])) % outputs[-1]).astype(np.int32).reshape(outputs[:-1])
        elif isinstance(self.loss, SigmoidBinaryCrossEntropy):
            Y = draw.integers(0, 2, outputs).astype(np.float32)
        else:
            Y = draw.standard_normal(outputs).astype(np.float32)
        with jax.enable_x64(self.dtype == "float64"):
            values = cast(jax.tree.map(jnp.asarray, (params, X, Y)), self.dtype)
        return (*values, None, jax.random.key(seed) if self.keyed else None)

    @property
    def _is_named(self) -> bool:
        return not is_shape(self.shape)

    @staticmethod
    def _draw(name: str, shape: Shape, draw: np.random.Generator) -> np.ndarray:
        if name == "tokens":
            return draw.integers(0, VOCABULARY, (EXAMPLES, *shape), np.int32)
        if name == "mask":
            # Every example has another length, at least one.
            return np.arange(shape[0])[None] <= np.arange(EXAMPLES)[:, None] % shape[0]
        return draw.standard_normal((EXAMPLES, *shape)).astype(np.float32)


def draw_parameters(net: Layer, shape: Shape, draw: np.random.Generator, gain: float = 1.0) -> Params:
    """Parameters in float64, none of which is zero: weights of deviation gain / sqrt(fan_in), all others off by 0.1.

    Args:
        net: a network.
        shape: of one example.
        draw: the source of randomness.
        gain: the factor on the weights.
    """

    def initial(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        fan_in = leaf.shape[-1 if name == "E" else -2] if name in ("W", "E", "D", "U") else None
        scale = 0.1 if fan_in is None else gain * fan_in**-0.5
        return (name in ("gamma", "scale")) + scale * draw.standard_normal(leaf.shape)

    is_named = isinstance(shape, dict)
    return jax.tree.map_with_path(initial, _shapes(net, tuple(shape.items() if is_named else shape), is_named))


@cache
def _shapes(net: Layer, shape: tuple[Any, ...], is_named: bool) -> Params:
    return jax.eval_shape(lambda key: net.init(key, dict(shape) if is_named else shape)[0], jax.random.key(0))


def _around(*layers: Layer) -> Serial:
    return Serial(Dense(WIDTH), *layers, Dense(CLASSES))


def _deep(*hidden: str, **options: Any) -> Serial:
    return mlp((INPUTS, *[WIDTH] * len(hidden), CLASSES), hidden, **options)


_BRANCH = Serial(RMSNorm(), Dense(WIDTH), Activation("gelu"), Dense(WIDTH))

GALLERY = Serial(
    Dense(WIDTH),
    BatchNorm(),
    Activation("tanh"),
    Dense(WIDTH),
    LayerNorm(),
    Activation("relu"),
    Residual(_BRANCH, 0.5),
    Dropout(0.3),
    Repeat(Serial(Activation("silu"), Dense(WIDTH)), 3),
    Activation("leaky_relu"),
    Dense(WIDTH),
    Activation("sigmoid"),
    Dense(CLASSES),
)
"""One network with every kind of layer of a multilayer perceptron."""

_DECODER = Network(
    "x",
    "memory",
    "mask",
    norm=RMSNorm().of("x"),
    q=Dense(WIDTH, bias=False),
    k=Dense(4, bias=False).of("norm"),
    v=Dense(4, bias=False).of("norm"),
    q_turned=Rotary(4).of("q"),
    k_turned=Rotary(2).of("k"),
    mix=Attention(4, 2).of("q_turned", "k_turned", "v"),
    middle=Add().of("x", "mix"),
    look=Attention(2, causal=False, rule="lean").of("middle", "memory", "memory", "mask"),
    end=Add().of("middle", "look"),
)

SEQUENCE_GALLERY = Network(
    "tokens",
    "memory",
    "mask",
    encoder=Dense(WIDTH).of("memory"),
    embedding=Embedding(VOCABULARY, WIDTH).of("tokens"),
    positions=LearnedPositions(LENGTH),
    waves=SinusoidalPositions(),
    blocks=Repeat(_DECODER, 2, through="x").of(x="waves", memory="encoder", mask="mask"),
    gate=Dense(WIDTH),
    value=LowRank(Dense(WIDTH), 2).of("blocks"),
    gated=Gated().of("gate", "value"),
    product=Multiply().of("gated", "value"),
    sides=Concatenate().of("product", "blocks"),
    narrow=Dense(WIDTH),
    head=Unembedding(VOCABULARY).sharing("embedding"),
)
"""One network with every kind of layer that transformers are made of, three inputs, shared parameters and a loop."""
_SEQUENCES = (("tokens", (4,)), ("memory", (3, INPUTS)), ("mask", (3,)))

GALLERIES = (
    Builtin("every kind of layer", GALLERY, keyed=True),
    Builtin("every kind of layer for sequences", SEQUENCE_GALLERY, SoftmaxCrossEntropy(), shape=_SEQUENCES),
)
"""What faults are injected into."""


def _gpt(**options: Any) -> Network:
    return gpt(VOCABULARY, LENGTH, WIDTH, 2, 2, hidden=WIDTH, **options)


def list_networks() -> Iterator[Builtin]:
    """The networks, one row of the table each."""
    for name in activation:
        yield Builtin(name, _deep(name, name))
    for norm in ("batch", "layer", "rms"):
        yield Builtin(f"{norm} norm", _deep("tanh", "relu", norm=norm))
    yield Builtin("residual, layer norm", _deep("gelu", "gelu", "gelu", norm="layer", residual=0.5))
    yield Builtin("dropout", _deep("relu", "relu", dropout=0.3), keyed=True)
    yield Builtin("affine, checkpoint", _around(Affine(), Checkpoint(Serial(Activation("tanh"), Dense(WIDTH)))))
    yield Builtin("32 layers as a loop", _around(Repeat(Serial(Activation("tanh"), Dense(WIDTH)), 32)))
    yield Builtin("32 layers in segments", _around(Repeat(Serial(Activation("tanh"), Dense(WIDTH)), 32, checkpoint=6)))
    yield Builtin("summed cross-entropy", _deep("tanh"), SoftmaxCrossEntropy("sum"))
    yield Builtin("binary cross-entropy", _deep("tanh"), SigmoidBinaryCrossEntropy())
    yield Builtin("half squared error", _deep("tanh"), HalfSquaredError())
    yield Builtin("half squared error, sigmoid", _deep("tanh"), HalfSquaredError("sum", "sigmoid"))
    yield Builtin("label smoothing", _deep("tanh"), SoftmaxCrossEntropy(label_smoothing=0.1))
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        yield Builtin(f"all layers, {dtype}", GALLERY, dtype=dtype, keyed=True)
    yield from list_transformers()


def list_transformers() -> Iterator[Builtin]:
    """Those among the networks: both styles, both rules of attention, three dtypes."""
    lean = _gpt(attention="lean", norm_position="post", checkpoint=1)
    modern = _gpt(style="modern", key_value_heads=1, attention="lean", dropout=0.2, share_head=False)
    yield Builtin("gpt2, float32", _gpt(attention="plain"), shape=(4,))
    yield Builtin("lean gpt2, bfloat16", lean, dtype="bfloat16", shape=(4,))
    yield Builtin("modern gpt, float64", modern, dtype="float64", keyed=True, shape=(4,))
    yield Builtin("all joined, float32", SEQUENCE_GALLERY, shape=_SEQUENCES)
