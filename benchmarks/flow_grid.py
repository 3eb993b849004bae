"""The grid that is to take under 60 seconds: 6 depths up to 200, 8 activations, 6 initializers, 20 seeds, width 128.

    python benchmarks/flow_grid.py

Compilation, draws and the table of 508,800 rows are counted; imports are not.
"""

import sys
import tempfile
import time
from pathlib import Path

import jax

import fbp
from fbp.flow.plan import Plan

PLAN = Plan(
    depths=(10, 20, 50, 100, 150, 200),
    activations=("relu", "tanh", "gelu", "silu", "selu", "elu", "sigmoid", "softplus"),
    initializers=("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "orthogonal"),
    width=128,
    seeds=20,
)


def main() -> None:
    """Run the grid, and print the seconds and how often XLA compiled a program of its own."""
    compiled: list[str] = []

    def listen(event: str, seconds: float, **details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 0.5:
            compiled.append(f"{details.get('fun_name', 'program')} {seconds:.1f} s")

    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()

        def tell(line: str) -> None:
            if "-v" in sys.argv:
                print(f"{time.perf_counter() - start:6.1f} s  {line}", flush=True)

        flows = fbp.flow.grid(PLAN, Path(folder), tell=tell)
        seconds = time.perf_counter() - start
        table = Path(folder, "data.csv")
        rows = sum(1 for _ in table.open()) - 1
        print(
            f"{seconds:.1f} s for {len(flows)} cells of {PLAN.seeds} networks, {rows:,} rows in "
            f"{table.stat().st_size / 2**20:.0f} MiB; {PLAN.examples} inputs each"
        )
    print(f"compilations over half a second: {len(compiled)} ({', '.join(compiled)})")


if __name__ == "__main__":
    main()
