"""What many runs begin with: seeds, learning rates, states with an axis of runs, and the batches of each."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fbp.data.arrays import split_rows
from fbp.errors import FbpError, check_count, check_seed
from fbp.training.feed import RESIDENT_BYTES, Resident, Together
from fbp.training.inputs import HeldOut, arrays_of, prepare_data
from fbp.training.schedules import check_rate
from fbp.training.step import Method, State, initial_state
from fbp.typing import Key, Params

ByRate: TypeAlias = Callable[[Any], optax.GradientTransformation]
"""An optimizer for each learning rate."""


class Rated(NamedTuple):
    """The state of an optimizer that reads its learning rate from there.

    Attributes:
        rate: the learning rate.
        inner: the state of the optimizer itself.
    """

    rate: Float[Array, "..."]
    inner: optax.OptState


@cache
def carry_rate(make: ByRate) -> optax.GradientTransformation:
    """One optimizer for all learning rates, which keeps the rate in its state: an axis of it may be mapped.

    Args:
        make: the optimizer of a learning rate, which may be traced.
    """

    def update(updates: Params, state: optax.OptState, params: Params = None) -> tuple[Params, optax.OptState]:
        assert isinstance(state, Rated)
        updates, inner = make(state.rate).update(updates, state.inner, params)
        return updates, Rated(state.rate, inner)

    return optax.GradientTransformation(lambda params: Rated(jnp.zeros(()), make(0.0).init(params)), update)


def read_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds of the runs.

    Args:
        seeds: the seeds, or how many.

    Raises:
        FbpError: they are no seeds, or not different.
    """
    if not isinstance(seeds, Sequence):
        check_count("seeds", seeds)
        return tuple(range(int(seeds)))
    for seed in seeds:
        check_seed(seed)
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise FbpError(f"seeds must be different and at least one, got {list(seeds)}; use seeds=8 for 0, ..., 7")
    return tuple(int(seed) for seed in seeds)


def read_rates(rates: Sequence[float], optimizer: Any) -> tuple[float, ...]:
    """The learning rates.

    Args:
        rates: to try.
        optimizer: a function of the rate.

    Raises:
        FbpError: it is none, or they are no rates.
    """
    if not callable(optimizer):
        raise FbpError(
            f"the optimizer must be a function of the learning rate with learning_rates, got a "
            f"{type(optimizer).__name__}; give lambda rate: optax.adam(rate)"
        )
    for rate in rates:
        check_rate(rate)
    if len(rates) == 0:
        raise FbpError("learning_rates must be at least one, got none; leave them out for the optimizer's own")
    return tuple(float(rate) for rate in rates)


def stack_params(params: Any, seeds: tuple[int, ...]) -> Params:
    """Parameters with a leading axis of seeds.

    Args:
        params: these, or a function of a key.
        seeds: of the runs.

    Raises:
        FbpError: they have no such axis.
    """
    if callable(params):
        # One after the other: the mapped program would compile for longer than all of them take.
        initialize = jax.jit(params)
        first, *others = (initialize(jax.random.key(seed)) for seed in seeds)
        return jax.tree.map(lambda *x: jnp.stack(x), first, *others)
    stacked = jax.tree.map(jnp.asarray, params)
    for leaf in jax.tree.leaves(stacked):
        if leaf.shape[:1] != (len(seeds),):
            raise FbpError(
                f"params must have a leading axis of {len(seeds)} seeds, got an array {leaf.shape}; give "
                "lambda key: net.init(key)[0]"
            )
    return stacked


def _stack_keys(seeds: tuple[int, ...]) -> Key:
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def initial_states(method: Method, stacked: Params, seeds: tuple[int, ...], rates: tuple[float, ...] | None) -> State:
    """The states of all runs before the first step, by rate and then by seed.

    Args:
        method: how a step computes.
        stacked: the parameters, with an axis of seeds.
        seeds: of the runs.
        rates: the learning rates, where the optimizer keeps one in its state.
    """
    start = stacked, _stack_keys(seeds)
    if rates is not None:
        start = jax.tree.map(lambda x: jnp.concatenate([x] * len(rates)), start)
    make = lambda params, key: initial_state(params, method.optimizer, key, method.trained)
    state = jax.jit(jax.vmap(make))(*start)
    if rates is None:
        return state
    each = jnp.repeat(jnp.asarray(rates, float), len(seeds))
    return state._replace(opt_state=state.opt_state._replace(rate=each))


def prepare_feeds(
    method: Method, params: Params, data: Any, validation_split: float, batch_size: int, seeds: tuple[int, ...]
) -> tuple[Together, HeldOut | None]:
    """The batches of each seed, and what is held out of the data for its validation.

    Args:
        method: how a step computes.
        params: of one run.
        data: arrays or a data set.
        validation_split: the fraction to hold out.
        batch_size: examples a step.
        seeds: of the orders and the splits.

    Raises:
        FbpError: the data do not fit the network, the loss or the device.
    """
    check_count("batch_size", batch_size)
    if callable(data):
        raise FbpError("data must be arrays for many runs, got a function of batches; give (X, Y), or use fit")
    X, Y = arrays_of(data)
    if isinstance(X, np.ndarray) and X.nbytes > RESIDENT_BYTES:
        raise FbpError(
            f"data must be at most {RESIDENT_BYTES} bytes for many runs, which share them on the device, got "
            f"{X.nbytes}; use fit for one run after the other"
        )
    X, Y = prepare_data(method.net, method.loss, params, X, Y)
    parts = [split_rows(len(Y), fraction=validation_split, seed=seed) for seed in seeds] if validation_split else None
    kept = [None] * len(seeds) if parts is None else [rows for rows, _ in parts]
    m = len(Y) if parts is None else len(parts[0][0])
    size = min(int(batch_size), m)
    feeds = tuple(Resident(X, Y, size, seed, rows) for seed, rows in zip(seeds, kept, strict=True))
    if parts is None:
        return Together(feeds), None
    return Together(feeds), HeldOut(X, Y, np.stack([rows for _, rows in parts]).astype(np.int32))
