"""Convolutions and reductions in windows: y[p] sees x[p s + k r - low], s the stride, r the dilation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives
from jaxtyping import Array

from fbp.graph.rules.base import Rule, per_input


def _dilate(n: int, by: int) -> int:
    return 0 if n == 0 else (n - 1) * by + 1


def _move_groups(x: Array, source: int, target: int, groups: int) -> Array:
    """The groups of one axis become the leading part of another."""
    shape = list(x.shape)
    shape[source] //= groups
    split = x.reshape((*x.shape[:source], groups, shape[source], *x.shape[source + 1 :]))
    shape[target] *= groups
    return jnp.moveaxis(split, source, target).reshape(shape)


def _conv_left(dy: Array, y: Array, x: Array, w: Array, *, dimension_numbers: Any, **p: Any) -> Array:
    """dx = dy convolved with w turned round: strides of y become dilation of dy, dilation of x becomes a stride."""
    lhs, rhs, out = dimension_numbers.lhs_spec, dimension_numbers.rhs_spec, dimension_numbers.out_spec
    groups, batches = p["feature_group_count"], p["batch_group_count"]
    together = max(groups, batches)
    if together > 1:
        w = _move_groups(w, rhs[0], rhs[1], together)
    padding = []
    for i, (low, _) in enumerate(p["padding"]):
        k, s, r = w.shape[rhs[i + 2]], p["window_strides"][i], p["rhs_dilation"][i]
        reach = _dilate(k, r) - 1
        needed = _dilate(x.shape[lhs[i + 2]], p["lhs_dilation"][i]) + reach
        padding.append((reach - low, needed - (reach - low) - _dilate(dy.shape[out[i + 2]], s)))
    dx = lax.conv_general_dilated(
        dy,
        lax.convert_element_type(lax.rev(w, rhs[2:]), dy.dtype),
        window_strides=p["lhs_dilation"],
        padding=padding,
        lhs_dilation=p["window_strides"],
        rhs_dilation=p["rhs_dilation"],
        dimension_numbers=lax.ConvDimensionNumbers(out, (rhs[1], rhs[0], *rhs[2:]), lhs),
        feature_group_count=together,
        precision=p["precision"],
        preferred_element_type=p["preferred_element_type"],
    )
    if batches > 1:
        dx = _move_groups(dx, lhs[1], lhs[0], batches)
    return lax.convert_element_type(dx, x.dtype)


def _conv_right(dy: Array, y: Array, x: Array, w: Array, *, dimension_numbers: Any, **p: Any) -> Array:
    """dw = x convolved with dy: the batch is contracted, strides of y become dilation of dy."""
    lhs, rhs, out = dimension_numbers.lhs_spec, dimension_numbers.rhs_spec, dimension_numbers.out_spec
    padding = []
    for i, (low, _) in enumerate(p["padding"]):
        k, s, r = w.shape[rhs[i + 2]], p["window_strides"][i], p["rhs_dilation"][i]
        seen = _dilate(k, r) + _dilate(dy.shape[out[i + 2]], s) - 1
        padding.append((low, seen - low - _dilate(x.shape[lhs[i + 2]], p["lhs_dilation"][i])))
    dw = lax.conv_general_dilated(
        lax.convert_element_type(x, dy.dtype),
        dy,
        window_strides=p["rhs_dilation"],
        padding=padding,
        lhs_dilation=p["lhs_dilation"],
        rhs_dilation=p["window_strides"],
        dimension_numbers=lax.ConvDimensionNumbers(
            (lhs[1], lhs[0], *lhs[2:]), (out[1], out[0], *out[2:]), (rhs[1], rhs[0], *rhs[2:])
        ),
        # Groups of features stand where the batch was, and the other way round.
        feature_group_count=p["batch_group_count"],
        batch_group_count=p["feature_group_count"],
        precision=p["precision"],
        preferred_element_type=p["preferred_element_type"],
    )
    return lax.convert_element_type(dw, w.dtype)


def _window_sum(dy: Array, y: Array, x: Array, **p: Any) -> Array:
    """dx[q] = sum of dy over the windows that see q."""
    lows, highs = [], []
    for i, (low, _) in enumerate(p["padding"]):
        k, s, r = p["window_dimensions"][i], p["window_strides"][i], p["window_dilation"][i]
        reach = _dilate(k, r) - 1
        needed = _dilate(x.shape[i], p["base_dilation"][i]) + reach
        lows.append(reach - low)
        highs.append(needed - (reach - low) - _dilate(dy.shape[i], s))
    spread = lax.pad(
        dy, np.zeros((), dy.dtype), [(a, b, s - 1) for a, b, s in zip(lows, highs, p["window_strides"], strict=True)]
    )
    return lax.reduce_window(
        spread,
        np.zeros((), dy.dtype),
        lax.add,
        p["window_dimensions"],
        p["base_dilation"],
        [(0, 0)] * dy.ndim,
        window_dilation=p["window_dilation"],
    )


def _pool(primitive: Any) -> Any:
    def pull(dy: Array, y: Array, x: Array, *, base_dilation: Any, window_dilation: Any, **p: Any) -> Array:
        if any(d != 1 for d in (*base_dilation, *window_dilation)):
            return _pool_dilated(primitive, dy, x, base_dilation, window_dilation, **p)
        return primitives.select_and_scatter_add_p.bind(dy, x, select_prim=primitive, **p)

    return pull


def _pool_dilated(
    primitive: Any,
    dy: Array,
    x: Array,
    base_dilation: Any,
    window_dilation: Any,
    *,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
) -> Array:
    """dx[q] = sum of dy over the windows whose extreme is at q, place by place in the window."""
    is_better = lax.gt if primitive is primitives.ge_p else lax.lt
    worst = np.asarray(-np.inf if primitive is primitives.ge_p else np.inf, x.dtype)
    spread = [(low, high, by - 1) for (low, high), by in zip(padding, base_dilation, strict=True)]
    around = lax.pad(x, worst, spread)

    def starts(place: tuple[int, ...]) -> list[int]:
        return [k * r for k, r in zip(place, window_dilation, strict=True)]

    def see(place: tuple[int, ...]) -> Array:
        first = starts(place)
        last = [a + (n - 1) * s + 1 for a, n, s in zip(first, dy.shape, window_strides, strict=True)]
        return lax.slice(around, first, last, window_strides)

    places = list(np.ndindex(*window_dimensions))
    best, where = see(places[0]), jnp.zeros(dy.shape, np.int32)
    for k, place in enumerate(places[1:], start=1):
        here = see(place)
        better = is_better(here, best)
        best, where = jnp.where(better, here, best), jnp.where(better, np.int32(k), where)
    total = jnp.zeros(around.shape, dy.dtype)
    for k, place in enumerate(places):
        own = jnp.where(where == k, dy, np.zeros((), dy.dtype))
        pads = [
            (a, whole - a - _dilate(n, s), s - 1)
            for a, whole, n, s in zip(starts(place), around.shape, dy.shape, window_strides, strict=True)
        ]
        total = total + lax.pad(own, np.zeros((), dy.dtype), pads)
    cropped = lax.pad(total, np.zeros((), dy.dtype), [(-low, -high, 0) for low, high in padding])
    return lax.slice(cropped, [0] * x.ndim, cropped.shape, base_dilation)


def _pool_again(dy: Array, y: Array, source: Array, x: Array, *, select_prim: Any, **p: Any) -> Array:
    ones = (1,) * x.ndim
    return primitives.select_and_gather_add_p.bind(
        dy, x, select_prim=select_prim, base_dilation=ones, window_dilation=ones, **p
    )


RULES: tuple[Rule, ...] = (
    per_input("conv_general_dilated", "y = x * w:  dx = dy * w turned round,  dw = x * dy", _conv_left, _conv_right),
    per_input("reduce_window_sum", "y[p] = Σ x in window p:  dx[q] = Σ dy of the windows that see q", _window_sum),
    per_input(
        "reduce_window_max",
        "y[p] = max x in window p:  dx = dy at the first largest of each window",
        _pool(primitives.ge_p),
    ),
    per_input(
        "reduce_window_min",
        "y[p] = min x in window p:  dx = dy at the first smallest of each window",
        _pool(primitives.le_p),
    ),
    per_input(
        "select_and_scatter_add",
        "y = z at the extreme of each window of x:  dz = dy there,  dx = 0",
        _pool_again,
        lambda dy, y, source, x, **_: jnp.zeros_like(x),
    ),
    per_input(
        "select_and_gather_add",
        "y[p] = z at the extreme of x in window p:  dz = dy there,  dx = 0",
        lambda dy, y, source, x, *, select_prim, **p: _pool(select_prim)(dy, y, x, **p),
        lambda dy, y, source, x, **_: jnp.zeros_like(x),
    ),
)
