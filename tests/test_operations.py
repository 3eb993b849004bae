"""A quick selection of the benchmark on operations of other libraries: right rules pass, rules with a fault fail."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
OPERATIONS = (
    ("jax.numpy", "jnp.tanh", "float32"),
    ("jax.numpy", "jnp.power", "float64"),
    ("jax.numpy", "jnp.std", "bfloat16"),
    ("jax.numpy", "jnp.cumprod", "float32"),
    ("jax.numpy", "jnp.linalg.solve", "float32"),
    ("jax.numpy", "jnp.linalg.cholesky", "float64"),
    ("jax.numpy", "x.at[2].set", "float16"),
    ("jax.lax", "lax.scan", "float32"),
    ("jax.lax", "lax.conv", "float32"),
    ("jax.lax", "jax.checkpoint", "bfloat16"),
    ("jax.lax", "jax.custom_vjp", "float64"),
    ("jax.nn", "jax.nn.softmax", "float32"),
    ("jax.nn", "jax.nn.gelu", "bfloat16"),
    ("jax.nn", "attention, causal", "float32"),
    ("jax.scipy", "special.gammaln", "float32"),
    ("jax.scipy", "stats.norm.logpdf", "float64"),
    ("jax.scipy", "linalg.cho_solve", "float32"),
    ("optax", "huber_loss", "float32"),
    ("optax", "sigmoid_focal_loss", "float64"),
    ("optax", "adam, a step", "float32"),
    ("flax", "linen.LayerNorm", "float32"),
    ("flax", "nnx.Conv", "bfloat16"),
    ("equinox", "eqx.nn.MLP", "float32"),
    ("equinox", "eqx.nn.GRUCell under scan", "float64"),
    ("pallas", "softmax", "float32"),
)
FAULTS = 2


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("case", OPERATIONS, ids=" ".join)
def test_right_passes_and_wrong_fails(case, monkeypatch):
    library, name, dtype = case
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("verify_operations")
    if library not in benchmark.load_operations():
        pytest.skip(f"{library} is not installed")
    with benchmark.precision_of(dtype):
        prepared = benchmark.prepare(library, name)
        assert benchmark.Case(prepared, dtype, seed=0).judge(prepared.gradient) == ("PASS", [])
        for fault, case, _, _ in benchmark.choose_faults(prepared, dtype, FAULTS):
            verdict, reasons = case.judge(benchmark.Rule(case.program, fault))
            assert verdict == "FAIL", f"{fault}: {reasons}"
