"""The networks that `fbp verify` checks by itself: small ones in which every layer, loss and dtype occurs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.activations import activation
from fbp.combinators import Checkpoint, Repeat, Residual, Serial
from fbp.layers import Activation, Affine, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
from fbp.losses import HalfSquaredError, Loss, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from fbp.networks import mlp
from fbp.precision import cast
from fbp.typing import Layer, Params, Shape

INPUTS, WIDTH, CLASSES, EXAMPLES = 6, 8, 5, 8


@dataclass(frozen=True)
class Builtin:
    """A network with its loss, and the dtype that it is verified in.

    Attributes:
        name: what is in it.
        net: the network.
        loss: its loss.
        dtype: of parameters and inputs.
        keyed: whether it draws.
    """

    name: str
    net: Layer
    loss: Loss = SoftmaxCrossEntropy()  # noqa: RUF009 - immutable
    dtype: str = "float32"
    keyed: bool = False

    def arguments(self, seed: int = 0) -> tuple[Any, ...]:
        """(params, X, Y, weights, key): seeded numbers, biases that are not zero."""
        draw = np.random.default_rng(seed)
        params = draw_parameters(self.net, (INPUTS,), draw)
        X = draw.standard_normal((EXAMPLES, INPUTS)).astype(np.float32)
        if isinstance(self.loss, SoftmaxCrossEntropy):
            Y = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
        elif isinstance(self.loss, SigmoidBinaryCrossEntropy):
            Y = draw.integers(0, 2, (EXAMPLES, CLASSES)).astype(np.float32)
        else:
            Y = draw.standard_normal((EXAMPLES, CLASSES)).astype(np.float32)
        with jax.enable_x64(self.dtype == "float64"):
            values = cast(jax.tree.map(jnp.asarray, (params, X, Y)), self.dtype)
        return (*values, None, jax.random.key(seed) if self.keyed else None)


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
        scale = gain * leaf.shape[-2] ** -0.5 if name == "W" else 0.1
        return (name in ("gamma", "scale")) + scale * draw.standard_normal(leaf.shape)

    return jax.tree.map_with_path(initial, _shapes(net, shape))


@cache
def _shapes(net: Layer, shape: Shape) -> Params:
    return jax.eval_shape(lambda key: net.init(key, shape)[0], jax.random.key(0))


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
"""One network with every kind of layer: what faults are injected into."""


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
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        yield Builtin(f"all layers, {dtype}", GALLERY, dtype=dtype, keyed=True)
