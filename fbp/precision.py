"""Dtypes: statistics in float32 at least, parameters in any dtype, float64 on request."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def widened(x: Array) -> Array:
    """x in float32 where its dtype is narrower: half types carry too few digits for a sum or a logarithm."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def cast(tree: Any, dtype: Any) -> Any:
    """The floating-point leaves of a pytree in another dtype; the others as they are.

    Args:
        tree: parameters, a batch, or any pytree of arrays.
        dtype: e.g. "bfloat16" or jnp.float64 (which needs `jax.enable_x64`).
    """
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
