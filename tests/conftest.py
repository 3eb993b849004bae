"""Strict JAX for every test: eight CPU devices, no silent promotion of dtypes or ranks, warnings are errors."""

import os

import jaxlib

flags = ["--xla_force_host_platform_device_count=8"]
if jaxlib.__version__.startswith("0.10."):
    # Halves the compile time, which is what the suite waits for. XLA aborts on a flag that it does not know, so that
    # a JAX whose flags were not looked at goes without.
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

import jax
import pytest

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Float64 inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """XLA as users run it: without this, programs compile fast and run slowly."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
