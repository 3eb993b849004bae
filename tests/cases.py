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
VOCABULARY = 7
"""Tokens are integers below it."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network with a loss and what it takes.

    Attributes:
        name: of the test.
        net: the network, for inputs (M, *shape).
        loss: a loss of its output.
        target: "labels", "one_hot", "soft", "binary" or "real", one for each row of the output.
        shape: of one example; a dictionary of shapes for several inputs, of which "tokens" are tokens and "mask" is
            boolean, with at least one true entry an example.
        tokens: whether the input itself are tokens.
        weights: one for each of the "examples", or of the "items" of the loss.
        keyed: whether forward takes a key.
        mixes_examples: whether one example's output depends on the others.
    """

    name: str
    net: Layer
    loss: fbp.Loss = field(default_factory=fbp.SoftmaxCrossEntropy)
    target: str = "labels"
    shape: Any = (N_IN,)
    tokens: bool = False
    weights: str = "examples"
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
            if name in ("W", "D", "U", "E"):
                return normal(*leaf.shape) / np.float32(leaf.shape[-1 if name == "E" else -2]) ** 0.5
            return (1 if name in ("gamma", "scale") else 0) + np.float32(0.1) * normal(*leaf.shape)

        def inputs(name: str, shape: tuple[int, ...]) -> np.ndarray:
            if name == "tokens":
                return draw.integers(0, VOCABULARY, (M, *shape), np.int32)
            if name == "mask":
                # Examples of different lengths, the shortest of one entry.
                return np.arange(shape[0])[None] <= np.arange(M)[:, None] * shape[0] // M
            return normal(M, *shape)

        shapes, out = self.shapes
        params = jax.tree.map_with_path(initial, shapes)
        if isinstance(self.shape, dict):
            X = {name: inputs(name, shape) for name, shape in self.shape.items()}
        else:
            X = inputs("tokens" if self.tokens else "", self.shape)
        labels = (np.arange(np.prod(out[:-1], dtype=int)) % out[-1]).reshape(out[:-1])
        Y = {
            "labels": lambda: labels,
            "one_hot": lambda: np.eye(out[-1], dtype=np.float32)[labels],
            "soft": lambda: 1.3 * draw.dirichlet(np.ones(out[-1]), out[:-1]).astype(np.float32),
            "binary": lambda: draw.integers(0, 2, out).astype(np.float32),
            "real": lambda: normal(*out),
        }[self.target]()

        def exported(x: np.ndarray) -> jax.Array:
            return jnp.asarray(x.astype(jnp.dtype(dtype)) if np.issubdtype(x.dtype, np.floating) else x)

        return (*jax.tree.map(exported, (params, X, Y)), key if self.keyed else None)

    @property
    def shapes(self) -> tuple[Any, tuple[int, ...]]:
        """Those of the parameters, and that of the output for M examples."""
        out_shapes = []

        def init(key: Any) -> Any:
            params, out_shape = self.net.init(key, self.shape)
            out_shapes.append(out_shape)
            return params

        params = jax.eval_shape(init, jax.random.key(0))
        return params, (M, *out_shapes[0])

    @property
    def item_weights(self) -> np.ndarray:
        """Weights from 0 to 2."""
        shape = (M,) if self.weights == "examples" else self.shapes[1][:-1]
        return np.linspace(0.0, 2.0, int(np.prod(shape))).reshape(shape)


def _mlp(*hidden: int, **options: Any) -> fbp.Serial:
    return fbp.mlp((N_IN, *hidden, N_OUT), **options)


def _around(*layers: Layer) -> fbp.Serial:
    """Layers that keep a width of 7, between two dense layers."""
    return fbp.Serial(fbp.Dense(7), *layers, fbp.Dense(N_OUT))


def _self_attention(heads: int = 2, keys: int = 2, *, mask: bool = False, **options: Any) -> fbp.Network:
    """Attention over vectors of 4, with heads of width 2, between dense lines."""
    dense = lambda n: fbp.Dense(n).of("x")
    reads = ("q", "k", "v", "mask") if mask else ("q", "k", "v")
    width = 2 * heads
    return fbp.Network(
        *(("x", "mask") if mask else ("x",)),
        q=dense(width),
        k=dense(2 * keys),
        v=dense(2 * keys),
        mix=fbp.Attention(heads, keys, **options).of(*reads),
        end=fbp.Dense(N_OUT),
    )


def _cross_attention(**options: Any) -> fbp.Network:
    """Queries of one line; keys and values of another, of which a mask says which count."""
    return fbp.Network(
        "x",
        "memory",
        "mask",
        q=fbp.Dense(4).of("x"),
        k=fbp.Dense(4).of("memory"),
        v=fbp.Dense(4).of("memory"),
        mix=fbp.Attention(2, causal=False, **options).of("q", "k", "v", "mask"),
        end=fbp.Dense(N_OUT),
    )


def _gpt(depth: int = 2, **options: Any) -> fbp.Network:
    return fbp.gpt(VOCABULARY, 5, 8, depth, 2, hidden=6, **options)


def _decoder(checkpoint: int | None = None) -> fbp.Network:
    """A loop whose blocks all see the output of an encoder, and its mask."""
    block = fbp.Network(
        "x",
        "memory",
        "mask",
        q=fbp.Dense(4).of("x"),
        k=fbp.Dense(4, bias=False).of("memory"),
        mix=fbp.Attention(2, causal=False).of("q", "k", "memory", "mask"),
        end=fbp.Add().of("x", "mix"),
    )
    return fbp.Network(
        "x",
        "memory",
        "mask",
        encoder=fbp.Dense(4).of("memory"),
        blocks=fbp.Repeat(block, 3, checkpoint, through="x").of(x="x", memory="encoder", mask="mask"),
        end=fbp.Dense(N_OUT),
    )


_TWO_BY_TWO = fbp.Network(
    "x",
    "y",
    output={"sum": "sum", "product": "product"},
    a=fbp.Dense(3).of("x"),
    b=fbp.Dense(3).of("y"),
    sum=fbp.Add().of("a", "b", "a"),
    product=fbp.Multiply().of("a", "b", "sum"),
)
"""Two inputs, two outputs, one of which the other reads."""
_THROUGH_TWO = fbp.Network(
    "x", "y", "z", output={"x": "b", "y": "a"}, a=fbp.Dense(3).of("x"), b=fbp.Multiply().of("a", "y", "z")
)

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
    Case("dense without a bias", fbp.Serial(fbp.Dense(7, bias=False), fbp.Activation("tanh"), fbp.Dense(N_OUT))),
    Case("low rank", fbp.Serial(fbp.LowRank(fbp.Dense(7), 2), fbp.LowRank(fbp.Dense(N_OUT, bias=False), 1))),
    Case("low rank, items", fbp.LowRank(fbp.Dense(N_OUT), 2), shape=(3, 5), weights="items"),
    Case("label smoothing", _mlp(7), fbp.SoftmaxCrossEntropy(label_smoothing=0.2)),
    Case("label smoothing, soft labels", _mlp(7), fbp.SoftmaxCrossEntropy("sum", label_smoothing=0.2), "soft"),
    Case("labels of items, weights of examples", fbp.Dense(N_OUT), shape=(3, 5)),
    Case("soft labels of items", fbp.Dense(N_OUT), target="soft", shape=(3, 5), weights="items"),
    Case("half squared error of sequences", fbp.Dense(N_OUT), fbp.HalfSquaredError(), "real", shape=(3, 5)),
    Case("token of an example", fbp.Serial(fbp.Embedding(VOCABULARY, 5), fbp.Dense(N_OUT)), shape=(), tokens=True),
    Case(
        "positions",
        fbp.Serial(
            fbp.Embedding(VOCABULARY, 5), fbp.LearnedPositions(4), fbp.SinusoidalPositions(), fbp.Unembedding(N_OUT)
        ),
        shape=(3,),
        tokens=True,
        weights="items",
    ),
    Case(
        "shared embedding",
        fbp.Network(
            tokens=fbp.Embedding(VOCABULARY, 4),
            hidden=fbp.Activation("tanh"),
            head=fbp.Unembedding(VOCABULARY).sharing("tokens"),
        ),
        shape=(3,),
        tokens=True,
    ),
    Case(
        "shared dense, read twice",
        fbp.Network(
            a=fbp.Dense(N_IN),
            b=fbp.Activation("tanh"),
            c=fbp.Dense(N_IN).of("b").sharing("a"),
            d=fbp.Dense(N_IN).of("b").sharing("a"),
            e=fbp.Concatenate().of("c", "input", "d", "b"),
            f=fbp.Dense(N_OUT),
        ),
    ),
    Case(
        "gates",
        fbp.Network(
            a=fbp.Dense(3),
            b=fbp.Dense(3).of("input"),
            c=fbp.Gated("silu").of("a", "b"),
            d=fbp.Gated("sigmoid").of("b", "c"),
            e=fbp.Multiply().of("c", "d"),
            f=fbp.Dense(N_OUT),
        ),
    ),
    Case(
        "two inputs, two outputs",
        fbp.Network(
            "x",
            "y",
            both=_TWO_BY_TWO.of(x="y", y="x"),
            end=fbp.Network("sum", "product", add=fbp.Add().of("sum", "product"), end=fbp.Dense(N_OUT)).of("both"),
        ),
        shape={"x": (N_IN,), "y": (2,)},
    ),
    Case("rotary", fbp.Serial(fbp.Dense(4), fbp.Rotary(2), fbp.Dense(N_OUT)), shape=(3, 5)),
    Case("attention", _self_attention(rule="plain"), shape={"x": (3, 4)}),
    Case("attention, one key", _self_attention(rule="plain"), shape={"x": (1, 4)}),
    Case(
        "attention, grouped, masked",
        _self_attention(4, 2, causal=False, rule="plain", mask=True),
        shape={"x": (3, 4), "mask": (3,)},
        weights="items",
    ),
    Case("attention, lean, grouped", _self_attention(2, 1, rule="lean"), shape={"x": (3, 4)}),
    Case("attention, lean, blocks", _self_attention(rule="lean"), shape={"x": (67, 4)}),
    Case(
        "attention, lean, causal, masked",
        _self_attention(2, 1, rule="lean", mask=True),
        shape={"x": (3, 4), "mask": (3,)},
    ),
    Case("cross attention", _cross_attention(), shape={"x": (2, 3), "memory": (3, 5), "mask": (3,)}),
    Case(
        "cross attention, lean, blocks",
        _cross_attention(rule="lean"),
        shape={"x": (2, 3), "memory": (67, 5), "mask": (67,)},
    ),
    Case("repeat with a memory", _decoder(), shape={"x": (2, 4), "memory": (3, 5), "mask": (3,)}),
    Case("repeat with a memory, checkpoint", _decoder(2), shape={"x": (2, 4), "memory": (3, 5), "mask": (3,)}),
    Case(
        "repeat, two through",
        fbp.Network(
            "x",
            "y",
            "z",
            blocks=fbp.Repeat(_THROUGH_TWO, 3, through=("x", "y")).of(x="x", y="y", z="z"),
            end=fbp.Network("x", "y", add=fbp.Concatenate().of("x", "y"), end=fbp.Dense(N_OUT)).of("blocks"),
        ),
        shape={"x": (3,), "y": (3,), "z": (3,)},
    ),
    Case("gpt2", _gpt(), shape=(4,), tokens=True, weights="items"),
    Case("gpt2, one token", _gpt(1), shape=(1,), tokens=True),
    Case(
        "gpt2, post-norm, dropout, checkpoint",
        _gpt(norm_position="post", dropout=0.3, checkpoint=2),
        shape=(3,),
        tokens=True,
        keyed=True,
    ),
    Case(
        "gpt modern, lean",
        _gpt(style="modern", key_value_heads=1, attention="lean", share_head=False),
        shape=(5,),
        tokens=True,
    ),
]
