"""Sums, products and extremes along axes, and their running forms."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fbp.graph.rules.base import Rule, at_equal, constant, per_input


def _spread(v: Array, x: Array, axes: Sequence[int]) -> Array:
    """v, reduced along axes, once for each entry of x."""
    kept = [i for i in range(x.ndim) if i not in axes]
    return lax.broadcast_in_dim(v, x.shape, kept)


def _extreme(dy: Array, y: Array, x: Array, *, axes: Sequence[int], **_: Any) -> Array:
    chosen = lax.convert_element_type(x == _spread(y, x, axes), x.dtype)
    count = jnp.sum(chosen, tuple(axes), dtype=x.dtype)
    return _spread(dy / count, x, axes) * chosen


def _product_of_others(x: Array, axis: int) -> Array:
    """The product of all other entries along an axis, right where entries are zero."""
    one = np.ones((), x.dtype)
    shift = lambda v, low: lax.pad(v, one, [(low, -low, 0) if i == axis else (0, 0, 0) for i in range(v.ndim)])
    return shift(lax.cumprod(x, axis), 1) * shift(lax.cumprod(x, axis, reverse=True), -1)


def _product(dy: Array, y: Array, x: Array, *, axes: Sequence[int], **_: Any) -> Array:
    kept = [i for i in range(x.ndim) if i not in axes]
    order = (*kept, *axes)
    rows = lax.transpose(x, order).reshape((*(x.shape[i] for i in kept), -1))
    others = _product_of_others(rows, rows.ndim - 1).reshape([x.shape[i] for i in order])
    return _spread(dy, x, axes) * lax.transpose(others, np.argsort(order))


Steps = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(y before, x, y) -> the slopes of y in x and in the y before it, at one step of a running reduction."""


def _running(steps: Steps, first: Callable[[Any], Any]) -> Callable[..., Array]:
    """y_k = f(y_{k-1}, x_k):  s_k = dy_k + s_{k+1} ∂y_{k+1}/∂y_k,  dx_k = s_k ∂y_k/∂x_k."""

    def pull(dy: Array, y: Array, x: Array, *, axis: int, reverse: bool, **_: Any) -> Array:
        if x.shape[axis] == 0:
            return dy
        low = 0 if reverse else 1
        side = [(low, 1 - low, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        back = [(-low, low - 1, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        before = lax.pad(lax.pad(y, np.asarray(first(x.dtype), x.dtype), side), np.zeros((), y.dtype), _flip(back))
        in_x, in_before = steps(before, x, y)
        # The slope that carries s_{k+1} to step k stands at step k + 1.
        carry = lax.pad(lax.pad(in_before, np.zeros((), y.dtype), _flip(side)), np.zeros((), y.dtype), back)

        def combine(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
            return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

        _, s = lax.associative_scan(combine, (carry, dy), reverse=not reverse, axis=axis)
        return s * in_x

    return pull


def _flip(padding: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(high, low, interior) for low, high, interior in padding]


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min


def _highest(dtype: Any) -> Any:
    return np.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).max


def _log_sum_steps(before: Array, x: Array, y: Array) -> tuple[Array, Array]:
    finite = lambda v: jnp.where(jnp.isneginf(y), jnp.zeros_like(y), lax.exp(v - y))
    return finite(x), finite(before)


RULES: tuple[Rule, ...] = (
    per_input("reduce_sum", "y = Σx:  dx = dy for every x", lambda dy, y, x, *, axes, **_: _spread(dy, x, axes)),
    per_input("reduce_prod", "y = Πx:  dx = dy times the product of the others", _product),
    per_input("reduce_max", "y = max x:  dx = dy where x = y, shared among equals", _extreme),
    per_input("reduce_min", "y = min x:  dx = dy where x = y, shared among equals", _extreme),
    per_input(
        "cumsum",
        "y_k = Σ_{j≤k} x_j:  dx_j = Σ_{k≥j} dy_k",
        lambda dy, y, x, *, axis, reverse: lax.cumsum(dy, axis, reverse=not reverse),
    ),
    per_input(
        "cumprod",
        "y_k = y_{k-1} x_k:  dx_k = s_k y_{k-1},  s_k = dy_k + s_{k+1} x_{k+1}",
        _running(lambda before, x, y: (before, x), lambda dtype: 1),
    ),
    per_input(
        "cummax",
        "y_k = max(y_{k-1}, x_k):  dx_k = s_k [x_k new],  s_k = dy_k + s_{k+1} [y_k kept]",
        _running(lambda before, x, y: (at_equal(x, before, y), at_equal(before, x, y)), _lowest),
    ),
    per_input(
        "cummin",
        "y_k = min(y_{k-1}, x_k):  dx_k = s_k [x_k new],  s_k = dy_k + s_{k+1} [y_k kept]",
        _running(lambda before, x, y: (at_equal(x, before, y), at_equal(before, x, y)), _highest),
    ),
    per_input(
        "cumlogsumexp",
        "y_k = log(exp y_{k-1} + exp x_k):  dx_k = s_k exp(x_k - y_k),  s_k = dy_k + s_{k+1} exp(y_k - y_{k+1})",
        _running(_log_sum_steps, _lowest),
    ),
    *constant("argmax", "argmin", "reduce_and", "reduce_or", "reduce_xor", formula="an index or a bit:  dx = 0"),
)
