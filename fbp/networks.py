"""Builders of networks: multilayer perceptrons from their widths, transformers from theirs."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal, get_args

from fbp.activations import Nonlinearity
from fbp.combinators import Network, Repeat, Residual, Serial
from fbp.errors import FbpError, check_count, is_count, unknown_name
from fbp.initializers import Initializer, initializer
from fbp.layers import (
    Activation,
    Add,
    Attention,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Gated,
    LayerNorm,
    LearnedPositions,
    RMSNorm,
    Rotary,
    Unembedding,
)
from fbp.layers.attention import Rule
from fbp.registry import Registry
from fbp.typing import Layer

normalization: Registry[Layer | None] = Registry(
    "normalization", Layer, {"none": lambda: None, "batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm}
)
"""Normalization layers by name: `normalization("batch")`."""

REPEAT_FROM = 128
"""The number of equal blocks from which `mlp` runs them as one `Repeat`.

With fewer blocks, unrolled code compiles in a few seconds at most and runs faster, because independent products
overlap (`benchmarks/README.md`).
"""


def mlp(
    widths: Sequence[int],
    activation: str | Nonlinearity | Sequence[str | Nonlinearity] = "relu",
    init: str | Initializer = "he_normal",
    *,
    norm: str | Layer | None = None,
    residual: bool | float = False,
    dropout: float = 0.0,
    repeat: bool | None = None,
    checkpoint: int | None = None,
) -> Serial:
    """A multilayer perceptron that ends in its last pre-activation Z_L; the loss owns the output activation.

        Z_1 = X W_1 + b_1,    Z_{l+1} = g_l(norm(Z_l)) W_{l+1} + b_{l+1}

    A block is (norm, activation, dropout, dense). With `residual`, a block between equal widths is
    Z_{l+1} = Z_l + scale * (...), the pre-activation order of He et al. (2016b).

    Args:
        widths: n_0, ..., n_L, input first.
        activation: one for all hidden layers, or one for each of the layers 1 to L-1.
        init: the initializer of every dense layer.
        norm: "batch", "layer", "rms" or a layer, placed before each activation; None or "none" for none.
        residual: True, or the scale of the branches, puts a connection around each block that keeps the width.
        dropout: the rate after each activation.
        repeat: True runs neighbouring equal blocks as one `Repeat`, False never does; None does so from
            `REPEAT_FROM` blocks on, or if `checkpoint` is given.
        checkpoint: the segment length of these `Repeat`s.

    Returns:
        A `Serial` whose `init(key)` needs no shape.

    Raises:
        FbpError: a width, a name or the number of activations does not fit.

    Example:
        >>> net = fbp.mlp((784, 128, 64, 10), "relu", "he_normal", norm="layer")
        >>> params, shape = net.init(jax.random.key(0))
        >>> Z, _ = net.forward(params, jnp.ones((32, 784)))
        >>> Z.shape
        (32, 10)
    """
    widths = tuple(widths)
    if len(widths) < 2 or not all(is_count(n) for n in widths):
        raise FbpError(
            f"widths must be at least two positive integers, input first, got {widths}; use for example (784, 128, 10)"
        )
    hidden = len(widths) - 2
    if isinstance(activation, (str, Nonlinearity)):
        activation = [activation] * hidden
    if len(activation) != hidden:
        raise FbpError(
            f"activations must be one for all, or one for each of the {hidden} hidden layers, got {len(activation)}; "
            "the output activation belongs to the loss"
        )
    normalize = normalization(norm) if norm is not None else None

    def layers_of_block(l: int) -> tuple[Layer, ...]:
        before = (normalize,) if normalize is not None else ()
        after = (Dropout(dropout),) if dropout else ()
        return (*before, Activation(activation[l - 1]), *after, Dense(widths[l + 1], init))

    def keeps_width(l: int) -> bool:
        return widths[l] == widths[l + 1]

    layers: list[Layer] = [Dense(widths[1], init)]
    blocks = [(keeps_width(l), layers_of_block(l)) for l in range(1, hidden + 1)]
    for (same_width, block), run in groupby(blocks):
        count = len(list(run))
        connect = same_width and residual is not False
        as_loop = same_width and (count >= REPEAT_FROM or checkpoint is not None if repeat is None else repeat)
        unit: tuple[Layer, ...] = (Residual(Serial(*block), float(residual)),) if connect else block
        if as_loop:
            layers.append(Repeat(unit[0] if len(unit) == 1 else Serial(*unit), count, checkpoint=checkpoint))
        else:
            layers.extend(unit * count)
    return Serial(*layers, shape=widths[:1])


Style = Literal["gpt2", "modern"]
NormPosition = Literal["pre", "post"]


def gpt(
    vocabulary: int,
    length: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    *,
    style: Style = "gpt2",
    init: str | Initializer = "normal(0.02)",
    norm_position: NormPosition = "pre",
    key_value_heads: int | None = None,
    hidden: int | None = None,
    dropout: float = 0.0,
    scale_residual: bool = True,
    share_head: bool = True,
    attention: Rule = "auto",
    checkpoint: int | None = None,
) -> Network:
    """A decoder-only transformer for sequences of tokens: (m, T) integers, T <= length -> scores (m, T, vocabulary).

        mid = x + o(attention(q(norm1(x)), k(norm1(x)), v(norm1(x)))),    end = mid + down(g(up(norm2(mid))))

    "gpt2" has layer normalization, learned positions, GELU (tanh form) and biases, as GPT-2: with vocabulary 50257,
    length 1024, width 768, depth 12 and heads 12 it has 124,439,808 parameters. "modern" has root-mean-square
    normalization, rotary positions, SwiGLU and no biases. Radford et al. (2019); Touvron et al. (2023).

    The parameters have the names tokens.E, positions.P, blocks.q.W, ..., norm.gamma; those of the blocks have a leading
    axis of length `depth`.

    Args:
        vocabulary: the number of tokens.
        length: the longest sequence.
        width: n, of the residual stream.
        depth: the number of blocks.
        heads: of attention.
        style: "gpt2" or "modern".
        init: the initializer of every dense layer, and of the embedding as the head's matrix, n -> vocabulary; GPT-2's
            suits its width of 768 and more, "lecun_normal" any.
        norm_position: "pre" normalizes the input of each branch, and the stream at the end; "post" the stream after
            each branch, as in Vaswani et al. (2017).
        key_value_heads: fewer heads of keys and values, a divisor of `heads`; None for as many.
        hidden: the width inside of a block; by default 4 n, for "modern" 8 n / 3 rounded up to a multiple of 8.
        dropout: the rate after the embedding and at the end of each branch; active where a key is given.
        scale_residual: draw the last weights of each branch smaller by sqrt(2 depth), as GPT-2 does.
        share_head: the scores are made with the embedding's own vectors.
        attention: its rule, see `Attention`.
        checkpoint: recompute the blocks in segments of this many in the backward pass, see `Repeat`.

    Returns:
        A `Network` whose `init(key)` needs no shape.

    Raises:
        FbpError: a number does not fit.

    Example:
        >>> net = fbp.gpt(vocabulary=50, length=16, width=8, depth=2, heads=2)
        >>> params, shape = net.init(jax.random.key(0))
        >>> shape, params["blocks"]["q"]["W"].shape
        ((16, 50), (2, 8, 8))
        >>> tokens = jnp.arange(32).reshape(2, 16)
        >>> value, d_params = fbp.value_and_grad(net, fbp.SoftmaxCrossEntropy())(params, tokens[:, :-1], tokens[:, 1:])
        >>> abs(value - jnp.log(50)) < 0.1
        Array(True, dtype=bool)
    """
    sizes = {"vocabulary": vocabulary, "length": length, "width": width, "depth": depth, "heads": heads}
    for name, size in sizes.items():
        check_count(name, size)
    for name, received, known in (
        ("style", style, get_args(Style)),
        ("norm_position", norm_position, get_args(NormPosition)),
    ):
        if received not in known:
            raise unknown_name(name, received, known)
    if width % heads:
        raise FbpError(f"heads must divide the width {width}, got {heads}; use a divisor of it")

    modern = style == "modern"
    rule = initializer(init)
    # The rows of E are the columns of the head's matrix, whose fan-in is the width.
    of_rows = rule
    if rule.distribution not in ("orthogonal", "constant"):
        of_rows = replace(rule, mode="none", scale=rule.stddev(width, vocabulary) ** 2)
    block = _transformer_block(
        width,
        heads,
        key_value_heads=heads if key_value_heads is None else key_value_heads,
        hidden=hidden or (-(-8 * width // 24) * 8 if modern else 4 * width),
        modern=modern,
        norm_first=norm_position == "pre",
        init=rule,
        branches=2 * depth if scale_residual else 1,
        dropout=dropout,
        attention=attention,
    )
    lines: dict[str, Any] = {"tokens": Embedding(vocabulary, width, of_rows)}
    if not modern:
        lines["positions"] = LearnedPositions(length)
    if dropout:
        lines["dropout"] = Dropout(dropout)
    lines["blocks"] = Repeat(block, depth, checkpoint)
    if norm_position == "pre":
        lines["norm"] = RMSNorm() if modern else LayerNorm()
    head = Unembedding(vocabulary, of_rows)
    lines["head"] = head.sharing("tokens") if share_head else head
    return Network(shape=(length,), **lines)


def _transformer_block(
    width: int,
    heads: int,
    *,
    key_value_heads: int,
    hidden: int,
    modern: bool,
    norm_first: bool,
    init: Initializer,
    branches: int,
    dropout: float,
    attention: Rule,
) -> Network:
    """A block of `gpt`: attention and a two-layer network, each as a branch beside the residual stream."""

    def dense(n: int, own: Initializer = init) -> Dense:
        return Dense(n, own, bias=not modern)

    norm = RMSNorm() if modern else LayerNorm()
    last = replace(init, scale=init.scale / branches)
    lines: dict[str, Any] = {}

    def end_branch(name: str, stream: str) -> None:
        """Add the branch, which is the last line so far, to the stream."""
        branch = next(reversed(lines))
        if dropout:
            lines[branch := f"{branch}_dropout"] = Dropout(dropout)
        lines[name] = Add().of(stream, branch)

    stream = "input"
    if norm_first:
        lines["norm1"] = norm
    read = "norm1" if norm_first else stream
    key_width = width // heads * key_value_heads
    lines |= {"q": dense(width).of(read), "k": dense(key_width).of(read), "v": dense(key_width).of(read)}
    if modern:
        lines |= {"q_turned": Rotary(heads).of("q"), "k_turned": Rotary(key_value_heads).of("k")}
    q, k = ("q_turned", "k_turned") if modern else ("q", "k")
    lines["mix"] = Attention(heads, key_value_heads, rule=attention).of(q, k, "v")
    lines["o"] = dense(width, last)
    end_branch("middle", stream)
    stream = "middle"
    if not norm_first:
        stream = "norm1"
        lines["norm1"] = norm
    else:
        lines["norm2"] = norm
    read = "norm2" if norm_first else stream
    if modern:
        lines |= {
            "gate": dense(hidden).of(read),
            "up": dense(hidden).of(read),
            "hidden": Gated("silu").of("gate", "up"),
        }
    else:
        lines |= {"up": dense(hidden).of(read), "hidden": Activation("gelu_tanh")}
    lines["down"] = dense(width, last)
    end_branch("end", stream)
    if not norm_first:
        lines["norm2"] = norm
    return Network(**lines)
