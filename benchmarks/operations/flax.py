"""Layers of Flax with their parameters as arguments: linen and nnx."""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from operations.operation import WIDE, Draw, Operation, integers, is_inexact, key, normal, op


def draw_like(draw: np.random.Generator, shapes: Any) -> Any:
    """Parameters near those of an initialization, none of them zero: a bias at zero hides faults."""
    return jax.tree.map(lambda x: draw.normal(0.1, 0.5, x.shape), shapes)


def linen(name: str, layer: nn.Module, *inputs: Draw, **options: Any) -> Operation:
    """A layer of linen: its variables are the first argument, those that are no parameters are constants of it."""

    @cache
    def shapes() -> Any:
        args = [make(np.random.default_rng(0)) for make in inputs]
        return jax.eval_shape(layer.init, jax.random.key(0), *args)["params"]

    def apply(params: Any, *args: Any) -> Any:
        return layer.apply({"params": params}, *args)

    return op(f"linen.{name}", apply, lambda draw: draw_like(draw, shapes()), *inputs, **options)


def recurrent(name: str, layer: nn.RNN, inputs: Draw, carry: Draw) -> Operation:
    """A recurrent layer of linen from a state that is an argument: its own one is in float32 whatever the inputs."""
    shapes = jax.eval_shape(layer.init, jax.random.key(0), inputs(np.random.default_rng(0)))["params"]
    apply = lambda params, x, carry: layer.apply({"params": params}, x, initial_carry=carry)
    return op(f"linen.{name}", apply, lambda draw: draw_like(draw, shapes), inputs, carry)


def linen_batch_norm(params: Any, x: Any) -> Any:
    layer = nn.BatchNorm(use_running_average=False)
    stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
    return layer.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])[0]


def linen_dropout(x: Any, key: Any) -> Any:
    return nn.Dropout(0.3, deterministic=False).apply({}, x, rngs={"dropout": key})


class Block(nn.Module):
    """A block of a transformer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))


def of_nnx(name: str, make: Callable[[nnx.Rngs], Any], *inputs: Draw, **options: Any) -> Operation:
    """A layer of nnx: its state of parameters is the first argument."""

    @cache
    def parts() -> tuple[Any, Any, Any]:
        return nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params: Any, *args: Any) -> Any:
        graph, _, rest = parts()
        # Variables of its own in every trace, in the dtype of the parameters: statistics are written.
        dtype = jax.tree.leaves(params)[0].dtype
        rest = jax.tree.map(lambda x: x.astype(dtype) if is_inexact(x) else x, rest)
        return nnx.merge(graph, params, rest)(*args)

    return op(f"nnx.{name}", apply, lambda draw: draw_like(draw, parts()[1]), *inputs, **options)


X = normal(4, 6)
SEQUENCE = normal(2, 4, 4)
STATE = normal(2, 4)
IMAGE = normal(1, 5, 5, 2)

TABLE: dict[str, tuple[Operation, ...]] = {
    "flax": (
        linen("Dense", nn.Dense(3), X),
        linen("DenseGeneral", nn.DenseGeneral((2, 3)), X),
        linen("Einsum", nn.Einsum((6, 3), "bi,io->bo"), X),
        linen("Embed", nn.Embed(7, 3), integers(7, 5)),
        linen("Conv", nn.Conv(3, (3, 3), strides=2), IMAGE),
        linen("Conv, groups", nn.Conv(4, (2, 2), feature_group_count=2), IMAGE),
        linen("ConvTranspose", nn.ConvTranspose(3, (2, 2), strides=(2, 2)), IMAGE),
        linen("LayerNorm", nn.LayerNorm(), X),
        linen("RMSNorm", nn.RMSNorm(), X),
        linen("GroupNorm", nn.GroupNorm(2), X),
        linen("InstanceNorm", nn.InstanceNorm(), IMAGE),
        op(
            "linen.BatchNorm",
            linen_batch_norm,
            lambda draw: {"scale": draw.uniform(0.5, 2, 6), "bias": draw.normal(size=6)},
            X,
        ),
        op("linen.Dropout", linen_dropout, X, key),
        linen("PReLU", nn.PReLU(), X),
        linen("MultiHeadDotProductAttention", nn.MultiHeadDotProductAttention(2), SEQUENCE),
        recurrent("RNN of SimpleCell", nn.RNN(nn.SimpleCell(4)), SEQUENCE, STATE),
        recurrent("RNN of LSTMCell", nn.RNN(nn.LSTMCell(4)), SEQUENCE, lambda draw: (STATE(draw), STATE(draw))),
        recurrent("RNN of GRUCell", nn.RNN(nn.GRUCell(4), reverse=True, keep_order=True), SEQUENCE, STATE),
        linen("Sequential", nn.Sequential([nn.Dense(5), nn.silu, nn.Dense(3)]), X),
        linen("transformer block", Block(), SEQUENCE),
        op("linen.max_pool", lambda x: nn.max_pool(x, (2, 2), strides=(1, 1)), IMAGE),
        op("linen.avg_pool", lambda x: nn.avg_pool(x, (2, 2), padding="SAME"), IMAGE),
        of_nnx("Linear", lambda rngs: nnx.Linear(6, 3, rngs=rngs), X),
        of_nnx("LinearGeneral", lambda rngs: nnx.LinearGeneral(6, (2, 3), rngs=rngs), X),
        of_nnx("Embed", lambda rngs: nnx.Embed(7, 3, rngs=rngs), integers(7, 5)),
        of_nnx("Conv", lambda rngs: nnx.Conv(2, 3, (3, 3), rngs=rngs), IMAGE),
        of_nnx("LayerNorm", lambda rngs: nnx.LayerNorm(6, rngs=rngs), X),
        of_nnx("RMSNorm", lambda rngs: nnx.RMSNorm(6, rngs=rngs), X),
        of_nnx("GroupNorm", lambda rngs: nnx.GroupNorm(6, 3, rngs=rngs), X),
        of_nnx("BatchNorm", lambda rngs: nnx.BatchNorm(6, rngs=rngs), X, dtypes=WIDE),
        of_nnx(
            "MultiHeadAttention",
            lambda rngs: nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs),
            SEQUENCE,
            dtypes=WIDE,
        ),
        of_nnx("GRUCell", lambda rngs: nnx.GRUCell(4, 4, rngs=rngs), STATE, normal(2, 4)),
    )
}
