"""Layers of Equinox: the whole module is the argument, differentiated by `eqx.filter_grad`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import numpy as np

from operations.operation import Draw, Operation, integers, key, normal, op

KEY = jax.random.key(0)


def differentiate(loss: Callable[..., Any]) -> Callable[..., Any]:
    return eqx.filter_jit(eqx.filter_grad(loss))


def module(name: str, make: Callable[[], Any], *inputs: Draw, batched: bool = True, **options: Any) -> Operation:
    """A module and the inputs of a batch."""
    prototype = cache(make)

    def draw_module(draw: np.random.Generator) -> Any:
        redraw = lambda leaf: draw.normal(0.1, 0.5, leaf.shape) if eqx.is_inexact_array(leaf) else leaf
        return jax.tree.map(redraw, prototype())

    def apply(layer: Any, *args: Any) -> Any:
        return jax.vmap(layer)(*args) if batched else layer(*args)

    return op(f"eqx.nn.{name}", apply, draw_module, *inputs, argnums=(0,), grad=differentiate, **options)


class Attention(eqx.Module):
    """Self-attention, whose three inputs are one."""

    inner: eqx.nn.MultiheadAttention

    def __call__(self, x: Any) -> Any:
        return self.inner(x, x, x)


class Recurrence(eqx.Module):
    """A cell under scan."""

    cell: Any
    size: int = eqx.field(static=True)

    def __call__(self, xs: Any) -> Any:
        start = jax.numpy.zeros(self.size, xs.dtype)
        state = (start, start) if isinstance(self.cell, eqx.nn.LSTMCell) else start
        return jax.lax.scan(lambda h, x: (self.cell(x, h), None), state, xs)[0]


class Residual(eqx.Module):
    """A normalized residual branch with an activation that is a leaf."""

    norm: eqx.nn.LayerNorm
    branch: eqx.nn.MLP
    scale: jax.Array

    def __call__(self, x: Any) -> Any:
        return x + self.scale * self.branch(self.norm(x))


def residual() -> Residual:
    return Residual(eqx.nn.LayerNorm(4), eqx.nn.MLP(4, 4, 5, 1, jax.nn.silu, key=KEY), jax.numpy.ones(4))


X = normal(3, 4)
SEQUENCE = normal(2, 4, 4)
IMAGE = normal(2, 2, 5, 5)

TABLE: dict[str, tuple[Operation, ...]] = {
    "equinox": (
        module("Linear", lambda: eqx.nn.Linear(4, 3, key=KEY), X),
        module("Linear, no bias", lambda: eqx.nn.Linear(4, 4, use_bias=False, key=KEY), X),
        module("MLP", lambda: eqx.nn.MLP(4, 3, 5, 2, jax.nn.gelu, key=KEY), X),
        module("Embedding", lambda: eqx.nn.Embedding(7, 3, key=KEY), integers(7, 5)),
        module("Conv1d", lambda: eqx.nn.Conv1d(4, 3, 2, key=KEY), SEQUENCE),
        module("Conv2d", lambda: eqx.nn.Conv2d(2, 3, 3, stride=2, padding=1, key=KEY), IMAGE),
        module("ConvTranspose2d", lambda: eqx.nn.ConvTranspose2d(2, 3, 2, stride=2, key=KEY), IMAGE),
        module("LayerNorm", lambda: eqx.nn.LayerNorm(4), X),
        module("RMSNorm", lambda: eqx.nn.RMSNorm(4), X),
        module("GroupNorm", lambda: eqx.nn.GroupNorm(2, 4), SEQUENCE),
        module("PReLU", lambda: eqx.nn.PReLU(jax.numpy.full(4, 0.2)), X),
        module("MultiheadAttention", lambda: Attention(eqx.nn.MultiheadAttention(2, 4, key=KEY)), SEQUENCE),
        module("GRUCell under scan", lambda: Recurrence(eqx.nn.GRUCell(4, 3, key=KEY), 3), SEQUENCE),
        module("LSTMCell under scan", lambda: Recurrence(eqx.nn.LSTMCell(4, 3, key=KEY), 3), SEQUENCE),
        module("residual block", residual, X),
        module(
            "Sequential",
            lambda: eqx.nn.Sequential(
                [eqx.nn.Linear(4, 5, key=KEY), eqx.nn.Lambda(jax.nn.tanh), eqx.nn.Linear(5, 2, key=KEY)]
            ),
            X,
        ),
        module(
            "Linear and MaxPool1d",
            lambda: eqx.nn.Sequential([eqx.nn.Conv1d(4, 3, 2, key=KEY), eqx.nn.MaxPool1d(2, 1)]),
            SEQUENCE,
        ),
        module(
            "Linear and AvgPool1d",
            lambda: eqx.nn.Sequential([eqx.nn.Conv1d(4, 3, 2, key=KEY), eqx.nn.AvgPool1d(2, 1)]),
            SEQUENCE,
        ),
        op("eqx.nn.Dropout", lambda x, key: eqx.nn.Dropout(0.3)(x, key=key), X, key),
        op("eqx.nn.RotaryPositionalEmbedding", eqx.nn.RotaryPositionalEmbedding(4), X),
    )
}
