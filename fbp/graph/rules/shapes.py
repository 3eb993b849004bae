"""Where entries stand, not what they are: each rule puts the gradient back where its value came from."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fbp.graph.rules.base import Applied, Cotangents, Rule, constant, fill_zeros, per_input, single


def _sum_broadcast(dy: Array, y: Array, x: Array, *_: Any, broadcast_dimensions: Sequence[int], **__: Any) -> Array:
    new = [i for i in range(dy.ndim) if i not in broadcast_dimensions]
    stretched = [i for k, i in enumerate(broadcast_dimensions) if x.shape[k] != dy.shape[i]]
    return jnp.sum(dy, (*new, *stretched), dtype=dy.dtype).reshape(x.shape)


def _concatenate(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    axis, dy = applied.params["dimension"], single(d)
    ends = np.cumsum([x.shape[axis] for x in applied.x])
    cut = lambda x, end: lax.slice_in_dim(dy, end - x.shape[axis], end, axis=axis)
    return [cut(x, int(end)) if want else None for x, end, want in zip(applied.x, ends, wanted, strict=True)]


def _split(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    return [lax.concatenate(fill_zeros(d, applied.y), applied.params["axis"])]


def _stack(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    axis, dy = applied.params["axis"], single(d)
    return [lax.index_in_dim(dy, i, axis, keepdims=False) if want else None for i, want in enumerate(wanted)]


def _unstack(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    return [jnp.stack(fill_zeros(d, applied.y), applied.params["axis"])]


def _pass_all(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    return list(d)


def _unpad(dy: Array, padding: Sequence[tuple[int, int, int]]) -> Array:
    inner = lax.pad(dy, np.zeros((), dy.dtype), [(-low, -high, 0) for low, high, _ in padding])
    return lax.slice(inner, (0,) * inner.ndim, inner.shape, [interior + 1 for _, _, interior in padding])


def _sum_tiles(dy: Array, y: Array, x: Array, *, reps: Sequence[int], **_: Any) -> Array:
    split = [n for pair in zip(reps, x.shape, strict=True) for n in pair]
    return jnp.sum(dy.reshape(split), tuple(range(0, len(split), 2)), dtype=dy.dtype)


def _convert(dy: Array, y: Array, x: Array, **_: Any) -> Array:
    real = jnp.iscomplexobj(dy) and not jnp.iscomplexobj(x)
    return lax.convert_element_type(lax.real(dy) if real else dy, x.dtype)


def _same(dy: Array, y: Array, x: Array, **_: Any) -> Array:
    return dy


RULES: tuple[Rule, ...] = (
    per_input("broadcast_in_dim", "y repeats x:  dx = sum of dy over the copies", _sum_broadcast),
    per_input("reshape", "dx = dy in the shape of x", lambda dy, y, x, *_, **__: dy.reshape(x.shape)),
    per_input("squeeze", "dx = dy in the shape of x", lambda dy, y, x, **_: dy.reshape(x.shape)),
    per_input("expand_dims", "dx = dy in the shape of x", lambda dy, y, x, **_: dy.reshape(x.shape)),
    per_input(
        "transpose",
        "axes permuted by p:  dx = dy permuted by p⁻¹",
        lambda dy, y, x, *, permutation: lax.transpose(dy, np.argsort(permutation)),
    ),
    per_input("rev", "dx = dy reversed", lambda dy, y, x, *, dimensions: lax.rev(dy, dimensions)),
    Rule("concatenate", "y = [x, z]:  dx, dz = the parts of dy", _concatenate),
    Rule("split", "x = [y, z]:  dx = [dy, dz]", _split),
    Rule("stack", "y = x, z as slices:  dx, dz = the slices of dy", _stack),
    Rule("unstack", "y, z the slices of x:  dx = dy, dz stacked", _unstack),
    per_input(
        "pad",
        "y = x with padding z:  dx = dy inside,  dz = sum of dy outside",
        lambda dy, y, x, z, *, padding_config: _unpad(dy, padding_config),
        lambda dy, y, x, z, *, padding_config: (
            jnp.sum(dy, dtype=dy.dtype) - jnp.sum(_unpad(dy, padding_config), dtype=dy.dtype)
        ),
    ),
    per_input("tile", "y = copies of x:  dx = sum of dy over the copies", _sum_tiles),
    per_input("convert_element_type", "y = x in another dtype:  dx = dy in the dtype of x", _convert),
    per_input(
        "reduce_precision",
        "y = x rounded:  dx = dy rounded",
        lambda dy, y, x, **params: lax.reduce_precision(dy, **params),
    ),
    per_input("conj", "y = conj x:  dx = conj dy", lambda dy, y, x, **_: _conj(dy, x)),
    *(
        per_input(name, "y = x:  dx = dy", _same)
        for name in ("copy", "copy_p", "name", "sharding_constraint", "layout_constraint", "pvary")
    ),
    *(Rule(name, "y = x:  dx = dy", _pass_all) for name in ("optimization_barrier", "device_put")),
    *constant("stop_gradient", formula="y = x, held constant:  dx = 0"),
    *constant("iota", "bitcast_convert_type", formula="no inputs to differentiate by:  dx = 0"),
    *constant(
        *("random_seed", "random_wrap", "random_unwrap", "random_split", "random_fold_in", "random_clone"),
        *("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"),
        formula="random bits:  dx = 0",
    ),
    *constant("debug_callback", "debug_print", "platform_index", "dce_sink", formula="no result:  dx = 0"),
)


def _conj(dy: Array, x: Array) -> Array:
    return lax.conj(dy) if jnp.iscomplexobj(x) else lax.real(dy)
