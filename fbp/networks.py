"""Builders of networks: multilayer perceptrons from their widths."""

from collections.abc import Sequence
from itertools import groupby

from fbp.activations import Nonlinearity
from fbp.combinators import Repeat, Residual, Serial
from fbp.errors import FbpError, is_count
from fbp.initializers import Initializer
from fbp.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
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
