"""The compiled loop: any number of steps of a block in one call, with the same bits however they are cut."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fbp.training.feed import Block
from fbp.training.inputs import to_floats
from fbp.training.monitor import Monitor, measure
from fbp.training.step import Method, Metrics, State, take_step
from fbp.typing import Activations, Targets


class Taken(NamedTuple):
    """What a call of `run_steps` measured.

    Attributes:
        metrics: of each step, with a leading axis of steps.
        readings: what the monitor measured, with a leading axis of measurements; None without one.
        finite: whether all parameters are finite after the last step.
    """

    metrics: Metrics
    readings: Any
    finite: Bool[Array, "..."]


def run_steps(method: Method, monitor: Monitor | None, state: State, block: Block, first: int, count: int) -> Any:
    """Take steps of a block.

    The state that is given stays valid, so that the steps can be taken again up to one that failed.

    Args:
        method: how a step computes.
        monitor: what is measured besides, and how often; None for nothing.
        state: the state before; with a leading axis of runs if the block has an order for each.
        block: the data.
        first: the first step, counted from the start of the block.
        count: how many.

    Returns:
        The state after the last step, and a `Taken` of NumPy arrays.
    """
    state, taken, slots = _run(state, *block, np.int32(first), np.int32(first + count), method=method, monitor=monitor)
    metrics, readings, finite, slots = jax.device_get((taken.metrics, taken.readings, taken.finite, slots))
    cut = lambda tree, start, length: jax.tree.map(lambda x: np.asarray(x)[start : start + length], tree)
    return state, Taken(cut(metrics, first, count), cut(readings, 0, int(np.max(slots))), finite)


@partial(jax.jit, static_argnames=("method", "monitor"))
def _run(
    state: State,
    X: Activations,
    Y: Targets,
    rows: Int[Array, "steps ..."],
    counts: Int[Array, " steps"],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    *,
    method: Method,
    monitor: Monitor | None,
) -> tuple[State, Taken, Int[Array, ""]]:
    several = rows.ndim == 3

    def batch_of(i: Array, state: State) -> tuple[Activations, Targets, Float[Array, " b"]]:
        own_X, own_Y = jax.tree.map(lambda x: x[rows[i]], (X, Y))
        floats = to_floats(method.net, state.params, own_X)
        return floats, own_Y, (jnp.arange(rows.shape[-1], dtype=counts.dtype) < counts[i]).astype(jnp.float32)

    over_runs = partial(jax.vmap, in_axes=(0, 0, 0, None)) if several else lambda function: function

    def take(i: Array, carry: Any) -> Any:
        state, metrics = carry
        state, found = over_runs(partial(take_step, method))(state, *batch_of(i, state))
        return state, jax.tree.map(lambda all, x: all.at[i].set(x), metrics, found)

    def room(function: Any, length: int) -> Any:
        shapes = jax.eval_shape(over_runs(function), state, *batch_of(start, state))
        return jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes)

    metrics = room(lambda *args: take_step(method, *args)[1], len(rows))
    if monitor is None:
        state, metrics = jax.lax.fori_loop(start, stop, take, (state, metrics))
        return state, Taken(metrics, None, _all_finite(state.params, several)), jnp.int32(0)
    look, every = over_runs(partial(measure, method, monitor)), monitor.every

    def run_stretch(carry: Any) -> Any:
        """Measure if it is due, and take the steps up to the next measurement: a branch in every step would copy."""
        i, state, metrics, readings, slot = carry
        since = (state.step[0] if several else state.step) % every
        write = lambda: jax.tree.map(lambda all, x: all.at[slot].set(x), readings, look(state, *batch_of(i, state)))
        readings = jax.lax.cond(since == 0, write, lambda: readings)
        end = jnp.minimum(stop, i + every - since)
        state, metrics = jax.lax.fori_loop(i, end, take, (state, metrics))
        return end, state, metrics, readings, slot + (since == 0).astype(slot.dtype)

    readings = room(partial(measure, method, monitor), -(-len(rows) // every) + 1)
    carry = start, state, metrics, readings, jnp.int32(0)
    _, state, metrics, readings, slot = jax.lax.while_loop(lambda carry: carry[0] < stop, run_stretch, carry)
    return state, Taken(metrics, readings, _all_finite(state.params, several)), slot


def _all_finite(params: Any, several: bool) -> Bool[Array, "..."]:
    axes = lambda x: tuple(range(1, x.ndim)) if several else None
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x), axes(x)) for x in jax.tree.leaves(params)]), axis=0)
