"""The table of networks that every property is tested on. A new layer is one row here."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp.typing import Layer

M, N_IN, N_OUT = 6, 5, 4
"""Examples, inputs and outputs of every case."""


@dataclass(frozen=True)
class Case:
    """A network with a loss and what it takes.

    Attributes:
        name: of the test.
        net: the network, for inputs (M, *shape).
        loss: a loss of its output.
        target: "labels", "one_hot", "soft", "binary" or "real".
        shape: of one example.
        keyed: whether forward takes a key.
        mixes_examples: whether one example's output depends on the others.
    """

    name: str
    net: Layer
    loss: fbp.Loss = field(default_factory=fbp.SoftmaxCrossEntropy)
    target: str = "labels"
    shape: tuple[int, ...] = (N_IN,)
    keyed: bool = False
    mixes_examples: bool = False

    def __str__(self) -> str:
        return self.name

    @cache  # noqa: B019 - the table lives as long as the process
    def batch(self, dtype: Any = jnp.float32, seed: int = 0) -> tuple[Any, jax.Array, jax.Array, Any]:
        """(params, X, Y, key), with biases that are not zero; the same numbers, those of float32, in a wider dtype.

        The numbers are numpy's, because every eager operation of JAX is compiled for every new shape.
        """
        draw = np.random.default_rng(seed)
        key = jax.random.key(seed)

        def normal(*shape: int) -> np.ndarray:
            return draw.standard_normal(shape, np.float32)

        def initial(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            name = path[-1].key
            if name == "W":
                return normal(*leaf.shape) / np.float32(leaf.shape[-2]) ** 0.5
            return (1 if name in ("gamma", "scale") else 0) + np.float32(0.1) * normal(*leaf.shape)

        shapes = jax.eval_shape(lambda key: self.net.init(key, self.shape)[0], key)
        params = jax.tree.map_with_path(initial, shapes)
        X = normal(M, *self.shape)
        Y = {
            "labels": lambda: np.arange(M) % N_OUT,
            "one_hot": lambda: np.eye(N_OUT, dtype=np.float32)[np.arange(M) % N_OUT],
            "soft": lambda: 1.3 * draw.dirichlet(np.ones(N_OUT), M).astype(np.float32),
            "binary": lambda: draw.integers(0, 2, (M, N_OUT)).astype(np.float32),
            "real": lambda: normal(M, N_OUT),
        }[self.target]()

        def exported(x: np.ndarray) -> jax.Array:
            return jnp.asarray(x if np.issubdtype(x.dtype, np.integer) else x.astype(jnp.dtype(dtype)))

        return (*jax.tree.map(exported, (params, X, Y)), key if self.keyed else None)


def _mlp(*hidden: int, **options: Any) -> fbp.Serial:
    return fbp.mlp((N_IN, *hidden, N_OUT), **options)


def _around(*layers: Layer) -> fbp.Serial:
    """Layers that keep a width of 7, between two dense layers."""
    return fbp.Serial(fbp.Dense(7), *layers, fbp.Dense(N_OUT))


_BLOCK = fbp.Serial(fbp.Activation("tanh"), fbp.Dense(7))

CASES = [
    *(Case(f"activation {name}", _mlp(7, activation=name)) for name in fbp.activations.activation),
    Case("leaky relu 0.3", _mlp(7, activation="leaky_relu(0.3)")),
    Case("elu 0.5", _mlp(7, activation="elu(0.5)")),
    Case("one activation a layer", _mlp(7, 6, 7, activation=("tanh", "relu", "gelu"))),
    Case("dense alone", fbp.Dense(N_OUT)),
    Case("dense after dense", fbp.Serial(fbp.Dense(7), fbp.Dense(N_OUT))),
    Case("no layers", fbp.Serial(), shape=(N_OUT,)),
    Case("affine", _around(fbp.Affine(), fbp.Activation("gelu"))),
    Case("flatten", fbp.Serial(fbp.Flatten(), fbp.Dense(N_OUT)), shape=(2, 3, 2)),
    Case(
        "dense on two axes",
        fbp.Serial(fbp.Dense(3), fbp.Activation("tanh"), fbp.Flatten(), fbp.Dense(N_OUT)),
        shape=(3, 2),
    ),
    Case("layer norm on two axes", fbp.Serial(fbp.LayerNorm(), fbp.Flatten(), fbp.Dense(N_OUT)), shape=(3, 5)),
    Case(
        "batch norm on two axes",
        fbp.Serial(fbp.BatchNorm(), fbp.Flatten(), fbp.Dense(N_OUT)),
        shape=(3, 5),
        mixes_examples=True,
    ),
    Case("dropout", _mlp(7, activation="gelu", dropout=0.4), keyed=True),
    Case("dropout in repeat", _mlp(7, 7, 7, activation="relu", dropout=0.4, repeat=True), keyed=True),
    Case("dropout without a key", _mlp(7, dropout=0.4)),
    Case("batch norm", _mlp(7, activation="relu", norm="batch"), mixes_examples=True),
    Case("batch norm in repeat", _mlp(7, 7, 7, activation="gelu", norm="batch", repeat=True), mixes_examples=True),
    Case("layer norm", _mlp(7, activation="silu", norm="layer")),
    Case("rms norm", _mlp(7, activation="tanh", norm="rms")),
    Case("rms norm first", fbp.Serial(fbp.RMSNorm(), fbp.Dense(N_OUT))),
    Case("norms in a row", _around(fbp.LayerNorm(), fbp.RMSNorm(), fbp.Affine(), fbp.Activation("tanh"))),
    Case("residual", _mlp(7, 7, 7, activation="tanh", residual=True)),
    Case("residual scaled, layer norm", _mlp(7, 7, activation="gelu", residual=0.5, norm="layer")),
    Case("residual of residual", _around(fbp.Residual(fbp.Serial(fbp.Residual(_BLOCK, 0.3), fbp.Activation("elu"))))),
    Case("residual of nothing", _around(fbp.Residual(fbp.Serial()))),
    Case("repeat", _mlp(7, 7, 7, 7, activation="tanh", repeat=True)),
    Case("repeat, keeps input", _mlp(7, 7, 7, 7, activation="gelu", repeat=True)),
    Case("repeat once", _around(fbp.Repeat(_BLOCK, 1))),
    Case("repeat, dense first", _around(fbp.Repeat(fbp.Serial(fbp.Dense(7), fbp.Activation("relu")), 3))),
    Case("repeat of repeat", _around(fbp.Repeat(fbp.Repeat(_BLOCK, 2), 3))),
    Case("repeat of residual, rms norm", _mlp(7, 7, 7, 7, activation="silu", residual=True, norm="rms", repeat=True)),
    Case("repeat, checkpoint 2 of 5", _around(fbp.Repeat(_BLOCK, 5, checkpoint=2))),
    Case("repeat, checkpoint 2 of 4", _around(fbp.Repeat(_BLOCK, 4, checkpoint=2))),
    Case("repeat, checkpoint 9 of 4", _around(fbp.Repeat(_BLOCK, 4, checkpoint=9))),
    Case(
        "checkpoint and dropout", _mlp(*(7,) * 5, activation="gelu", dropout=0.3, repeat=True, checkpoint=2), keyed=True
    ),
    Case("checkpoint alone", _around(fbp.Checkpoint(fbp.Serial(_BLOCK, fbp.Dropout(0.3)))), keyed=True),
    Case("serial in serial", _around(fbp.Serial(fbp.Dense(7), fbp.Activation("gelu")), fbp.Serial(fbp.Dense(7)))),
    Case("one-hot labels", _mlp(7), target="one_hot"),
    Case("soft labels", _mlp(7), target="soft"),
    Case("summed cross-entropy", _mlp(7), fbp.SoftmaxCrossEntropy("sum")),
    Case("binary cross-entropy", _mlp(7), fbp.SigmoidBinaryCrossEntropy(), "binary"),
    Case("half squared error", _mlp(7), fbp.HalfSquaredError(), "real"),
    Case("half squared error, summed, sigmoid", _mlp(7), fbp.HalfSquaredError("sum", "sigmoid"), "real"),
    Case("half squared error, gelu", _mlp(7), fbp.HalfSquaredError(activation="gelu"), "real"),
    Case("half squared error, softmax", _mlp(7), fbp.HalfSquaredError(activation="softmax"), "real"),
]
