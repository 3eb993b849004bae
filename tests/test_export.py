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


def test_gpt2_small_lowers_for_every_platform():
    net = fbp.gpt(vocabulary=50257, length=1024, width=768, depth=12, heads=12)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0))[0])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 124_439_808
    tokens = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    step = jax.jit(fbp.value_and_grad(net, fbp.SoftmaxCrossEntropy()))
    exported = jax.export.export(step, platforms=("cpu", "cuda", "rocm", "tpu"))(params, tokens, tokens)
    assert [g.shape for g in exported.out_avals[1:]] == [leaf.shape for leaf in jax.tree.leaves(params)]
