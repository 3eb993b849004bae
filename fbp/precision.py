"""Dtypes: statistics in at least float32, parameters in any dtype, float64 on request."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def widen(x: Array) -> Array:
    """x in float32 if its dtype is narrower: half precision has too few digits for a sum or a logarithm."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def cast(tree: Any, dtype: Any) -> Any:
    """Convert the floating-point leaves of a pytree to another dtype; other leaves stay as they are.

    Args:
        tree: parameters, a batch, or any pytree of arrays.
        dtype: e.g. "bfloat16" or jnp.float64 (which needs `jax.enable_x64`).

    Returns:
        The tree with converted leaves.

    Example:
        >>> params, _ = fbp.mlp((4, 3)).init(jax.random.key(0))
        >>> fbp.cast(params, "bfloat16")[0]["W"].dtype
        dtype(bfloat16)
    """
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
