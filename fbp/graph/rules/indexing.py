"""Parts read and written: slices, gather and scatter, sorting. A read pulls back as a write, a write as a read."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fbp.errors import FbpError
from fbp.graph.rules.base import Applied, Cotangents, Rule, per_input, single


def _unslice(dy: Array, y: Array, x: Array, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any) -> Array:
    steps = strides or (1,) * x.ndim
    last = [a + (n - 1) * s + 1 if n else a for a, n, s in zip(start_indices, dy.shape, steps, strict=True)]
    back = [(a, n - b, s - 1) for a, b, n, s in zip(start_indices, last, x.shape, steps, strict=True)]
    return lax.pad(dy, np.zeros((), dy.dtype), back)


def _dynamic_slice(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    x, *starts = applied.x
    return [lax.dynamic_update_slice(jnp.zeros_like(x), single(d), starts), *[None] * len(starts)]


def _dynamic_update_slice(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (_, update, *starts), dy = applied.x, single(d)
    dx = lax.dynamic_update_slice(dy, jnp.zeros_like(update), starts) if wanted[0] else None
    return [dx, lax.dynamic_slice(dy, starts, update.shape) if wanted[1] else None, *[None] * len(starts)]


def _scatter_numbers(n: lax.GatherDimensionNumbers) -> lax.ScatterDimensionNumbers:
    return lax.ScatterDimensionNumbers(
        update_window_dims=n.offset_dims,
        inserted_window_dims=n.collapsed_slice_dims,
        scatter_dims_to_operand_dims=n.start_index_map,
        operand_batching_dims=n.operand_batching_dims,
        scatter_indices_batching_dims=n.start_indices_batching_dims,
    )


def _gather(dy: Array, y: Array, x: Array, indices: Array, *, dimension_numbers: Any, **p: Any) -> Array:
    return lax.scatter_add(
        jnp.zeros_like(x),
        indices,
        dy,
        _scatter_numbers(dimension_numbers),
        indices_are_sorted=p["indices_are_sorted"],
        unique_indices=p["unique_indices"],
        mode=p["mode"],
    )


def _read(applied: Applied, source: Array) -> Array:
    """What stands where the updates of a scatter were written; zeros for those that fell outside."""
    _, indices, updates = applied.x
    n = applied.params["dimension_numbers"]
    windows = iter(n.update_window_dims)
    alone = (*n.inserted_window_dims, *n.operand_batching_dims)
    sizes = [1 if i in alone else updates.shape[next(windows)] for i in range(source.ndim)]
    return lax.gather(
        source,
        indices,
        lax.GatherDimensionNumbers(
            offset_dims=n.update_window_dims,
            collapsed_slice_dims=n.inserted_window_dims,
            start_index_map=n.scatter_dims_to_operand_dims,
            operand_batching_dims=n.operand_batching_dims,
            start_indices_batching_dims=n.scatter_indices_batching_dims,
        ),
        sizes,
        mode=applied.params["mode"],
        fill_value=0,
    )


def _write(applied: Applied, scatter: Any, onto: Array, updates: Array) -> Array:
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    return scatter(onto, applied.x[1], updates, **{name: applied.params[name] for name in names})


def _scatter_add(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    dy = single(d)
    return [dy, None, _read(applied, dy) if wanted[2] else None]


def _scatter_sub(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    dy = single(d)
    return [dy, None, -_read(applied, dy) if wanted[2] else None]


def _scatter(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (x, _, updates), dy = applied.x, single(d)
    dx = _write(applied, lax.scatter, dy, jnp.zeros_like(updates)) if wanted[0] else None
    if not wanted[2]:
        return [dx, None, None]
    d_updates = _read(applied, dy)
    if not applied.params["unique_indices"]:
        # Of updates to one place only the one that stayed there counts: the one whose number is found there.
        numbers = lax.iota(np.int32, updates.size).reshape(updates.shape) + 1
        stayed = _read(applied, _write(applied, lax.scatter, jnp.zeros(x.shape, np.int32), numbers)) == numbers
        d_updates = jnp.where(stayed, d_updates, jnp.zeros_like(d_updates))
    return [dx, None, d_updates]


def _scatter_mul(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (x, _, updates), dy = applied.x, single(d)
    if wanted[2] and not applied.params["unique_indices"]:
        raise FbpError(
            "indices of scatter-mul must be unique where the factors get a gradient, got indices that may repeat; "
            "pass unique_indices=True"
        )
    dx = _write(applied, lax.scatter_mul, dy, updates) if wanted[0] else None
    return [dx, None, _read(applied, dy * x) if wanted[2] else None]


def _scatter_extreme(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """Operand and updates that equal the result share its gradient."""
    (x, _, updates), (y,), dy = applied.x, applied.y, single(d)
    kept = lax.convert_element_type(x == y, y.dtype)
    found = lax.convert_element_type(updates == _read(applied, y), y.dtype)
    share = dy / jnp.maximum(_write(applied, lax.scatter_add, kept, found), jnp.ones_like(y))
    return [share * kept if wanted[0] else None, None, _read(applied, share) * found if wanted[2] else None]


def _sort(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    p, axis = applied.params, applied.params["dimension"]
    places = lax.broadcasted_iota(np.int32, applied.x[0].shape, axis)
    *_, order = lax.sort((*applied.x, places), axis, is_stable=p["is_stable"], num_keys=p["num_keys"])
    return [
        None if dy is None or not want else jnp.put_along_axis(jnp.zeros_like(dy), order, dy, axis, inplace=False)
        for dy, want in zip(d, wanted, strict=True)
    ]


def _top_k(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (x,), (_, places), dy = applied.x, applied.y, single(d)
    axis = next(applied.params[name] for name in ("axis", "reduction_dimension") if name in applied.params)
    return [jnp.put_along_axis(jnp.zeros_like(x), places, dy, axis, inplace=False)]


RULES: tuple[Rule, ...] = (
    per_input("slice", "y = x[a:b:s]:  dx = dy at a:b:s, else 0", _unslice),
    Rule("dynamic_slice", "y = x[i:i+n]:  dx = dy at i:i+n, else 0", _dynamic_slice),
    Rule("dynamic_update_slice", "y = x with z at i:  dx = dy with 0 at i,  dz = dy[i:i+n]", _dynamic_update_slice),
    per_input("gather", "y = x[i]:  dx = dy added at i", _gather, None),
    Rule("scatter-add", "y = x with z added at i:  dx = dy,  dz = dy[i]", _scatter_add),
    Rule("scatter-sub", "y = x with z taken off at i:  dx = dy,  dz = -dy[i]", _scatter_sub),
    Rule("scatter", "y = x with z put at i:  dx = dy with 0 at i,  dz = dy[i], of equal i the last", _scatter),
    Rule("scatter-mul", "y = x times z at i:  dx = dy times z at i,  dz = (dy x)[i]", _scatter_mul),
    Rule("scatter-max", "y = x or z, the larger, at i:  dx, dz = dy, shared among equals", _scatter_extreme),
    Rule("scatter-min", "y = x or z, the smaller, at i:  dx, dz = dy, shared among equals", _scatter_extreme),
    Rule("sort", "y = x[p]:  dx[p] = dy", _sort),
    *(Rule(name, "y = x[p], the k largest:  dx[p] = dy, else 0", _top_k) for name in ("top_k", "approx_top_k")),
)
