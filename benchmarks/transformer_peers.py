"""The same GPT by fbp, in plain JAX, in Equinox and in Flax, all from one set of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
from flax import nnx

import fbp

LOSS = fbp.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Work:
    """A gradient step of a GPT with a shared head, in float32.

    Attributes:
        depth: the number of blocks.
        width: n.
        heads: of attention.
        length: T, the tokens of a sequence.
        vocabulary: the number of tokens.
        batch: m, the sequences.
    """

    depth: int = 4
    width: int = 128
    heads: int = 4
    length: int = 64
    vocabulary: int = 512
    batch: int = 8

    def __str__(self) -> str:
        return f"{self.width} x {self.depth}, T = {self.length}, m = {self.batch}, V = {self.vocabulary}"

    def network(self, **options: Any) -> fbp.Network:
        """The network by fbp."""
        return fbp.gpt(self.vocabulary, self.length, self.width, self.depth, self.heads, **options)

    def batch_of_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Random tokens and labels, (m, T) each."""
        draw = np.random.default_rng(0)
        X, Y = draw.integers(0, self.vocabulary, (2, self.batch, self.length), np.int32)
        return X, Y


@dataclass(frozen=True)
class Version:
    """One way to compute the value and the gradient.

    Attributes:
        name: in the table.
        step: (params, X, Y) -> (value, gradient).
        adapt: fbp's parameters (or gradient) in the layout of this version.
        restore: the inverse.
    """

    name: str
    step: Callable[..., Any]
    adapt: Callable[[Any], Any] = lambda params: params
    restore: Callable[[Any], Any] = lambda gradient: gradient


def by_fbp(work: Work, name: str = "fbp", **options: Any) -> Version:
    """The hand-written backward pass."""
    return Version(name, fbp.value_and_grad(work.network(**options), LOSS))


def autodiff(work: Work, checkpoint: bool) -> list[Version]:
    """`jax.grad` of the forward pass in plain JAX, by scan and unrolled, with two forms of attention."""
    attentions = {"": _attend_by_jax, ", softmax by hand": _attend_by_softmax}
    end = ", jax.checkpoint" if checkpoint else ""
    versions = []
    for form, attend in attentions.items():
        block = partial(_run_block, partial(attend, work.heads))
        block = jax.checkpoint(block) if checkpoint else block
        scan = jax.value_and_grad(partial(_loss_by_scan, block))
        unrolled = jax.value_and_grad(partial(_loss_unrolled, block))
        versions.append(Version(f"scan{form}{end}", scan))
        versions.append(Version(f"unrolled{form}{end}", unrolled, partial(_to_list, work.depth), _from_list))
    return versions


def of_libraries(work: Work) -> list[Version]:
    """The models of Equinox and Flax, as their users write them."""
    versions = []
    for library, adapt, restore in (("equinox", _to_equinox, _from_equinox), ("flax", _to_flax, _from_flax)):
        theirs = models.Work(
            library, work.length, work.batch, True, work.depth, work.width, work.heads, work.vocabulary
        )
        step, template = models.make_step(theirs, models.plain_functions(theirs))
        versions.append(
            Version(library.capitalize(), step, partial(adapt, template, work.depth), partial(restore, work.depth))
        )
    return versions


def _normalize(p: Any, x: Any) -> Any:
    mean, var = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["gamma"] + p["beta"]


def _dense(p: Any, x: Any) -> Any:
    return x @ p["W"] + p["b"]


def _attend_by_jax(heads: int, q: Any, k: Any, v: Any) -> Any:
    split = lambda y: y.reshape(*y.shape[:-1], heads, -1)
    return jax.nn.dot_product_attention(split(q), split(k), split(v), is_causal=True).reshape(q.shape)


def _attend_by_softmax(heads: int, q: Any, k: Any, v: Any) -> Any:
    Q, K, V = (jnp.swapaxes(y.reshape(*y.shape[:-1], heads, -1), 1, 2) for y in (q, k, v))
    S = jnp.einsum("bhtd,bhsd->bhts", Q, K) / np.float32(Q.shape[-1] ** 0.5)
    S = jnp.where(jnp.tril(jnp.ones(S.shape[-2:], bool)), S, -jnp.inf)
    return jnp.swapaxes(jax.nn.softmax(S, axis=-1) @ V, 1, 2).reshape(q.shape)


def _run_block(attend: Callable[..., Any], p: Any, x: Any) -> Any:
    y = _normalize(p["norm1"], x)
    x = x + _dense(p["o"], attend(_dense(p["q"], y), _dense(p["k"], y), _dense(p["v"], y)))
    return x + _dense(p["down"], jax.nn.gelu(_dense(p["up"], _normalize(p["norm2"], x))))


def _embed(params: Any, X: Any) -> Any:
    return params["tokens"]["E"][X] + params["positions"]["P"][: X.shape[1]]


def _cross_entropy(params: Any, x: Any, Y: Any) -> Any:
    scores = _normalize(params["norm"], x) @ params["tokens"]["E"].T
    # Optax's, because the gradient of log_softmax and take_along_axis took 1.4 times the whole step.
    return optax.softmax_cross_entropy_with_integer_labels(scores, Y).mean()


def _loss_by_scan(block: Callable[..., Any], params: Any, X: Any, Y: Any) -> Any:
    x, _ = jax.lax.scan(lambda x, p: (block(p, x), None), _embed(params, X), params["blocks"])
    return _cross_entropy(params, x, Y)


def _loss_unrolled(block: Callable[..., Any], params: Any, X: Any, Y: Any) -> Any:
    x = _embed(params, X)
    for p in params["blocks"]:
        x = block(p, x)
    return _cross_entropy(params, x, Y)


def _to_list(depth: int, params: Any) -> Any:
    """The blocks as a list: indexing one stacked array would make its gradient quadratic in depth."""
    return params | {"blocks": [jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(depth)]}


def _from_list(gradient: Any) -> Any:
    return gradient | {"blocks": jax.tree.map(lambda *xs: np.stack(xs), *gradient["blocks"])}


def _to_equinox(template: Any, depth: int, params: Any) -> Any:
    linear = lambda own, p: eqx.tree_at(lambda x: (x.weight, x.bias), own, (p["W"].T, p["b"]))
    norm = lambda own, p: eqx.tree_at(lambda x: (x.weight, x.bias), own, (p["gamma"], p["beta"]))
    blocks = []
    for own, p in zip(template.blocks, _to_list(depth, params)["blocks"], strict=True):
        changed = [linear(own.qkv, _join_qkv(p)), linear(own.out, p["o"]), linear(own.up, p["up"])]
        changed += [linear(own.down, p["down"]), norm(own.norm1, p["norm1"]), norm(own.norm2, p["norm2"])]
        blocks.append(eqx.tree_at(lambda x: (x.qkv, x.out, x.up, x.down, x.norm1, x.norm2), own, changed))
    places = lambda x: (x.tokens.weight, x.positions, x.blocks, x.norm)
    return eqx.tree_at(
        places, template, (params["tokens"]["E"], params["positions"]["P"], blocks, norm(template.norm, params["norm"]))
    )


def _from_equinox(depth: int, g: Any) -> Any:
    linear = lambda own: {"W": own.weight.T, "b": own.bias}
    norm = lambda own: {"gamma": own.weight, "beta": own.bias}
    return _from_modules(g.blocks, linear, norm) | {
        "tokens": {"E": g.tokens.weight},
        "positions": {"P": g.positions},
        "norm": norm(g.norm),
    }


def _to_flax(template: Any, depth: int, params: Any) -> Any:
    linear = lambda p: {"kernel": p["W"], "bias": p["b"]}
    norm = lambda p: {"scale": p["gamma"], "bias": p["beta"]}
    blocks = {
        i: {
            "qkv": linear(_join_qkv(p)),
            "out": linear(p["o"]),
            "up": linear(p["up"]),
            "down": linear(p["down"]),
            "norm1": norm(p["norm1"]),
            "norm2": norm(p["norm2"]),
        }
        for i, p in enumerate(_to_list(depth, params)["blocks"])
    }
    pure = {
        "tokens": {"embedding": params["tokens"]["E"]},
        "positions": params["positions"]["P"],
        "blocks": blocks,
        "norm": norm(params["norm"]),
    }
    state = jax.tree.map(lambda x: x, template)
    nnx.replace_by_pure_dict(state, pure)
    return state


def _from_flax(depth: int, g: Any) -> Any:
    pure = nnx.to_pure_dict(g)
    linear = lambda own: {"W": own["kernel"], "b": own["bias"]}
    norm = lambda own: {"gamma": own["scale"], "beta": own["bias"]}
    blocks = [_Names(pure["blocks"][i]) for i in range(depth)]
    return _from_modules(blocks, linear, norm) | {
        "tokens": {"E": pure["tokens"]["embedding"]},
        "positions": {"P": pure["positions"]},
        "norm": norm(pure["norm"]),
    }


class _Names(dict):
    """A dictionary whose entries are attributes, as those of a module."""

    __getattr__ = dict.__getitem__


def _join_qkv(p: Any) -> Any:
    return {name: np.concatenate([p[part][name] for part in ("q", "k", "v")], axis=-1) for name in ("W", "b")}


def _from_modules(blocks: Any, linear: Callable[[Any], Any], norm: Callable[[Any], Any]) -> Any:
    def one(own: Any) -> Any:
        qkv = {name: np.split(x, 3, axis=-1) for name, x in linear(own.qkv).items()}
        parts = {part: {name: xs[i] for name, xs in qkv.items()} for i, part in enumerate(("q", "k", "v"))}
        rest = {"o": linear(own.out), "up": linear(own.up), "down": linear(own.down)}
        return parts | rest | {"norm1": norm(own.norm1), "norm2": norm(own.norm2)}

    return {"blocks": jax.tree.map(lambda *xs: np.stack(xs), *map(one, blocks))}
