"""The step lowers for every platform, on a machine that has none of them."""

import jax
import jax.export
import jax.numpy as jnp
import pytest
from cases import CASES

import fbp

EXPORTED = ("repeat, keeps input", "batch norm in repeat", "checkpoint and dropout", "gpt2", "gpt modern, lean")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EXPORTED)
def test_value_and_gradient_lower_for_every_platform(name, dtype):
    case = next(case for case in CASES if case.name == name)
    params, X, Y, key = case.batch(dtype)
    step = jax.jit(lambda *batch: fbp.value_and_grad(case.net, case.loss)(*batch, key=key))
    exported = jax.export.export(step, platforms=("cpu", "cuda", "rocm", "tpu"))(params, X, Y)
    value, *gradient = exported.out_avals
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    assert value.dtype == jnp.float32
    assert [(g.shape, g.dtype) for g in gradient] == [(p.shape, jnp.dtype(dtype)) for p in jax.tree.leaves(params)]
