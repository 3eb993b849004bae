"""Strict JAX for every test: eight CPU devices, no silent promotion of dtypes or ranks, warnings are errors."""

import os

import jaxlib

flags = ["--xla_force_host_platform_device_count=8"]
if jaxlib.__version__.startswith("0.10."):
    # Compile time dominates the suite: the first halves it, the second takes a sixth off, because small programs are
    # not worth splitting. XLA aborts on unknown flags, so versions of JAX that were not checked do without them.
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

import jax
import pytest

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Float64 within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """JAX's own defaults, which a user's code relies on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def optimized():
    """XLA as users run it: without this, programs compile fast and run slowly."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
