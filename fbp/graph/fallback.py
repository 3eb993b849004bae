"""A primitive without a local rule, differentiated by JAX: only where the caller asks for it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.graph.rules.base import Cotangents
from fbp.graph.rules.engine import Flags, Pullback
from fbp.graph.versions import bind


def run_by_autodiff(eqn: Any, inputs: Sequence[Any], wanted: Flags) -> tuple[list[Any], Pullback]:
    """The outputs of one equation, and `jax.vjp` of it.

    Args:
        eqn: the equation.
        inputs: its inputs.
        wanted: which of them need a cotangent.
    """
    moving = [i for i, want in enumerate(wanted) if want]

    def compute(*some: Any) -> list[Any]:
        given = dict(zip(moving, some, strict=True))
        return bind(eqn, [given.get(i, x) for i, x in enumerate(inputs)])

    outputs, back = jax.vjp(compute, *(inputs[i] for i in moving))

    def zeros(y: Any) -> Any:
        inexact = jnp.issubdtype(y.dtype, jnp.inexact)
        return jnp.zeros_like(y) if inexact else np.zeros(y.shape, jax.dtypes.float0)

    def pullback(d: Cotangents, /) -> Cotangents:
        found = iter(back([zeros(y) if g is None else g for g, y in zip(d, outputs, strict=True)]))
        return [next(found) if want else None for want in wanted]

    return outputs, pullback
