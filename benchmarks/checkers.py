"""Other people's gradient checkers, asked about a gradient that is there."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
from jax.test_util import check_grads

CHECKERS: dict[str, Callable[..., None]] = {
    "check_grads": partial(check_grads, order=1, modes=("rev",)),
    "chex": partial(chex.assert_numerical_grads, order=1, modes=("rev",)),
}
"""In reverse mode, with their default tolerances."""


def ask_checkers(value: Callable[..., Any], leaves: Sequence[Any], gradient: Sequence[Any]) -> dict[str, str]:
    """What each checker does with a gradient: "accepts", "rejects", or "breaks" where it raises anything else.

    Args:
        value: the loss of the leaves.
        leaves: the arrays at which it is differentiated.
        gradient: one array for each of them.
    """
    loss = jax.custom_vjp(value)
    loss.defvjp(lambda *leaves: (value(*leaves), None), lambda _, d: tuple((d * g).astype(g.dtype) for g in gradient))
    return {name: _ask(partial(check, loss, tuple(leaves))) for name, check in CHECKERS.items()}


def _ask(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError:
        return "rejects"
    except Exception:
        return "breaks"
    return "accepts"
