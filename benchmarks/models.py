"""A GPT as users of Equinox and of Flax write it, with the functions that it calls as an argument.

Nothing else changes between two versions of a model: `Functions` says what is called where. Pre-norm blocks, learned
positions, a head that shares the embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fbp import functional as F


@dataclass(frozen=True)
class Work:
    """A gradient step of a GPT.

    Attributes:
        library: "equinox" or "flax".
        length: T, the tokens of a sequence.
        batch: m, the sequences.
        approximate: whether GELU is its tanh form, the default of `jax.nn.gelu`, or exact, that of PyTorch.
        depth: the number of blocks.
        width: n.
        heads: of attention.
        vocabulary: the number of tokens.
    """

    library: str
    length: int
    batch: int
    approximate: bool
    depth: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = 512

    def __str__(self) -> str:
        form = "tanh" if self.approximate else "exact"
        return f"{self.library.capitalize()}, T = {self.length}, m = {self.batch}, {form} GELU"


class Functions(NamedTuple):
    """What a model calls. `norm` and `linear` are given a module of the library and its input.

    Attributes:
        norm: (module, x).
        linear: (module, x).
        gelu: (x).
        attention: (q, k, v), each (..., T, heads, width of a head), causal.
        loss: (x, E, labels): the mean over tokens, of the output x and the embedding E of the head.
        feed_forward: (norm, up, down, x) in place of four calls; None for these.
        whole_batch: whether an Equinox model is called on the batch, and not on examples under `jax.vmap`.
    """

    norm: Callable[..., Any]
    linear: Callable[..., Any]
    gelu: Callable[..., Any]
    attention: Callable[..., Any]
    loss: Callable[..., Any]
    feed_forward: Callable[..., Any] | None = None
    whole_batch: bool = False


def run_block(block: Any, use: Functions, x: Any, heads: int) -> Any:
    """A pre-norm block: attention and a two-layer network, each beside the residual stream."""
    split = lambda y: y.reshape(*y.shape[:-1], heads, -1)
    q, k, v = map(split, jnp.split(use.linear(block.qkv, use.norm(block.norm1, x)), 3, -1))
    x = x + use.linear(block.out, use.attention(q, k, v).reshape(x.shape))
    if use.feed_forward is not None:
        return x + use.feed_forward(block.norm2, block.up, block.down, x)
    return x + use.linear(block.down, use.gelu(use.linear(block.up, use.norm(block.norm2, x))))


class EquinoxBlock(eqx.Module):
    """The modules of a block."""

    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, n: int, key: Any):
        keys = jax.random.split(key, 4)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(n), eqx.nn.LayerNorm(n)
        self.qkv, self.out = eqx.nn.Linear(n, 3 * n, key=keys[0]), eqx.nn.Linear(n, n, key=keys[1])
        self.up, self.down = eqx.nn.Linear(n, 4 * n, key=keys[2]), eqx.nn.Linear(4 * n, n, key=keys[3])


class EquinoxGPT(eqx.Module):
    """From tokens (T,) to the normalized stream (T, n); with functions that take leading axes also of a batch."""

    tokens: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[EquinoxBlock]
    norm: eqx.nn.LayerNorm
    heads: int = eqx.field(static=True)

    def __init__(self, work: Work, key: Any):
        keys = jax.random.split(key, work.depth + 2)
        self.tokens = eqx.nn.Embedding(weight=0.02 * jax.random.normal(keys[0], (work.vocabulary, work.width)))
        self.positions = 0.02 * jax.random.normal(keys[1], (work.length, work.width))
        self.blocks = [EquinoxBlock(work.width, each) for each in keys[2:]]
        self.norm, self.heads = eqx.nn.LayerNorm(work.width), work.heads

    def __call__(self, tokens: Any, use: Functions) -> Any:
        x = self.tokens.weight[tokens] + self.positions
        for block in self.blocks:
            x = run_block(block, use, x, self.heads)
        return use.norm(self.norm, x)


class FlaxBlock(nnx.Module):
    """The modules of a block."""

    def __init__(self, n: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(n, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.qkv, self.out = nnx.Linear(n, 3 * n, rngs=rngs), nnx.Linear(n, n, rngs=rngs)
        self.up, self.down = nnx.Linear(n, 4 * n, rngs=rngs), nnx.Linear(4 * n, n, rngs=rngs)


class FlaxGPT(nnx.Module):
    """From tokens (m, T) to the normalized stream (m, T, n)."""

    def __init__(self, work: Work, rngs: nnx.Rngs):
        n = work.width
        self.tokens = nnx.Embed(work.vocabulary, n, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (work.length, n)))
        self.blocks = nnx.List([FlaxBlock(n, rngs) for _ in range(work.depth)])
        self.norm, self.heads = nnx.LayerNorm(n, epsilon=1e-5, rngs=rngs), work.heads

    def __call__(self, tokens: Any, use: Functions) -> Any:
        x = self.tokens(tokens) + self.positions[...]
        for block in self.blocks:
            x = run_block(block, use, x, self.heads)
        return use.norm(self.norm, x)


def equinox_weights(linear: eqx.nn.Linear) -> tuple[Any, Any]:
    return linear.weight.T, linear.bias


def flax_weights(linear: nnx.Linear) -> tuple[Any, Any]:
    return linear.kernel[...], linear.bias[...]


def equinox_norm(norm: eqx.nn.LayerNorm) -> tuple[Any, Any]:
    return norm.weight, norm.bias


def flax_norm(norm: nnx.LayerNorm) -> tuple[Any, Any]:
    return norm.scale[...], norm.bias[...]


def plain_functions(work: Work) -> Functions:
    """Those that users call: of the library, of JAX and of Optax."""
    call = (lambda module, x: jax.vmap(module)(x)) if work.library == "equinox" else (lambda module, x: module(x))
    return Functions(
        norm=call,
        linear=call,
        gelu=partial(jax.nn.gelu, approximate=work.approximate),
        attention=partial(jax.nn.dot_product_attention, is_causal=True),
        loss=lambda x, E, Y: optax.softmax_cross_entropy_with_integer_labels(x @ E.T, Y).mean(),
    )


def versions(work: Work) -> dict[str, Functions]:
    """The model with functions of ours, one after the other and all together, by name; first the user's own."""
    weights = equinox_weights if work.library == "equinox" else flax_weights
    vectors = equinox_norm if work.library == "equinox" else flax_norm
    plain = plain_functions(work)
    ours = Functions(
        norm=lambda module, x: F.layer_norm(x, *vectors(module)),
        linear=lambda module, x: F.dense(x, *weights(module)),
        gelu=partial(F.gelu, approximate=work.approximate),
        attention=partial(F.dot_product_attention, is_causal=True),
        loss=lambda x, E, Y: F.linear_cross_entropy(x, E.T, Y),
        feed_forward=lambda norm, up, down, x: F.feed_forward(
            x, *weights(up), *weights(down), "gelu_tanh" if work.approximate else "gelu", norm=vectors(norm)
        ),
        whole_batch=True,
    )
    loss = lambda x, E, Y: F.softmax_cross_entropy_with_integer_labels(x @ E.T, Y).mean()
    singles = {name: plain._replace(**{name: getattr(ours, name)}) for name in ("norm", "gelu", "attention", "linear")}
    return {
        "the model as it is": plain,
        "layer_norm": singles["norm"],
        "gelu": singles["gelu"],
        "dot_product_attention": singles["attention"],
        "dense": singles["linear"],
        "softmax_cross_entropy": plain._replace(loss=loss),
        "linear_cross_entropy": plain._replace(loss=ours.loss),
        "all but feed_forward": ours._replace(feed_forward=None),
        "all": ours,
    }


def products_alone(work: Work) -> Functions:
    """Another function: the model's matrix products and sums with nothing between them, a bound on what is possible."""
    return plain_functions(work)._replace(
        norm=lambda module, x: x,
        gelu=lambda x: x,
        attention=lambda q, k, v: q + k + v,
        loss=lambda x, E, Y: jnp.mean(x @ E.T),
    )


def make_step(work: Work, use: Functions) -> tuple[Callable[..., Any], Any]:
    """((params, X, Y) -> (value, gradient), params)."""
    if work.library == "equinox":
        params, static = eqx.partition(EquinoxGPT(work, jax.random.key(0)), eqx.is_array)

        def equinox_loss(params: Any, X: Any, Y: Any) -> Any:
            model = eqx.combine(params, static)
            x = model(X, use) if use.whole_batch else jax.vmap(lambda tokens: model(tokens, use))(X)
            return use.loss(x, model.tokens.weight, Y)

        return jax.value_and_grad(equinox_loss), params
    graph, state = nnx.split(FlaxGPT(work, nnx.Rngs(0)))

    def flax_loss(state: Any, X: Any, Y: Any) -> Any:
        model = nnx.merge(graph, state)
        return use.loss(model(X, use), model.tokens.embedding[...], Y)

    return jax.value_and_grad(flax_loss), state


def make_batch(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens and labels, (m, T) each."""
    draw = np.random.default_rng(0)
    return tuple(draw.integers(0, work.vocabulary, (2, work.batch, work.length), np.int32))
