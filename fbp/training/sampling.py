"""New sequences from a network that predicts the next token."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from fbp.errors import FbpError, check_count
from fbp.typing import Key, Layer, Params


def sample(
    net: Layer, params: Params, prompt: ArrayLike, count: int, key: Key, *, length: int, temperature: float = 1.0
) -> Int[np.ndarray, " n"]:
    """Continue a sequence, token by token: each drawn from softmax(scores / temperature) behind those before.

    A network is causal, so that one compiled pass over a window of fixed length serves every token; behind a full
    window the oldest tokens are forgotten.

    Args:
        net: a network of tokens, (m, T) -> (m, T, vocabulary).
        params: its parameters.
        prompt: the tokens to go on from, at least one.
        count: how many tokens to draw.
        key: the randomness.
        length: T, of the window.
        temperature: 1 is the distribution that was learnt; 0 takes the likeliest token.

    Returns:
        The tokens that were drawn, (count,).

    Raises:
        FbpError: the prompt is empty, or a number is out of range.

    Example:
        >>> net = fbp.gpt(vocabulary=5, length=8, width=8, depth=1, heads=1)
        >>> params, _ = net.init(jax.random.key(0))
        >>> fbp.training.sample(net, params, [0, 1], 3, jax.random.key(1), length=8).shape
        (3,)
    """
    check_count("count", count)
    check_count("length", length)
    start = np.asarray(prompt, np.int32).reshape(-1)
    if not start.size:
        raise FbpError("a prompt must have at least one token, got none; give the first one")
    if not temperature >= 0:
        raise FbpError(f"temperature must be at least 0, got {temperature}; 1 is what was learnt")
    start = start[-length:]
    window = jnp.zeros(length, jnp.int32).at[: len(start)].set(start)
    args = params, window, len(start), jnp.float32(temperature), key
    return np.asarray(_draw(*args, net=net, count=int(count)))


@partial(jax.jit, static_argnames=("net", "count"))
def _draw(
    params: Params,
    window: Int[Array, " T"],
    filled: Int[Array, ""],
    temperature: Array,
    key: Key,
    *,
    net: Layer,
    count: int,
) -> Int[Array, " n"]:
    def step(carry: Any, i: Array) -> Any:
        window, filled = carry
        Z, _ = net.forward(params, window[None])
        scores = Z[0, filled - 1].astype(jnp.float32)
        drawn = jax.random.categorical(jax.random.fold_in(key, i), scores / jnp.maximum(temperature, 1e-6))
        token = jnp.where(temperature == 0, jnp.argmax(scores), drawn).astype(window.dtype)
        is_full = filled == len(window)
        window = jnp.where(is_full, jnp.roll(window, -1), window)
        place = jnp.where(is_full, len(window) - 1, filled)
        return (window.at[place].set(token), jnp.minimum(filled + 1, len(window))), token

    return jax.lax.scan(step, (window, jnp.int32(filled)), jnp.arange(count))[1]
