"""A grid of gradient flow by fbp, and by the usual loop in PyTorch.

    python benchmarks/flow_grid.py --out benchmarks/results

The grid: 6 depths up to 200, 8 activations, 6 initializers, 20 seeds, width 128, 16 inputs. It is to take under 60
seconds on two cores; compilation, draws and the table of 508,800 rows are counted, imports are not. PyTorch is no
dependency of fbp: without it its rows are left out, with `pip install torch` they are there.
"""

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from results import Row, Task, start
from sections import section, show

import fbp
from fbp.errors import FbpError
from fbp.flow.grids import Plan
from fbp.flow.measurement import EXAMPLES

try:
    import flow_torch
    import torch
except ImportError:
    flow_torch = None

PLAN = Plan(
    depths=(10, 20, 50, 100, 150, 200),
    activations=("relu", "tanh", "gelu", "silu", "selu", "elu", "sigmoid", "softplus"),
    initializers=("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "orthogonal"),
    width=128,
    seeds=20,
)
QUICK = Plan(depths=(5, 10), activations=("relu", "tanh"), initializers=("he_normal",), width=64, seeds=4)
ROUNDS = 3
TARGET_SECONDS, TARGET_RATIO = 60.0, 30.0
READINGS = {"norms": "norms and mean squares", "everything": "all ten readings of fbp"}


def by_fbp(plan: Plan) -> Row:
    """Seconds for the whole grid, from nothing compiled, and what XLA compiled in more than half a second."""
    compiled: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > 0.5:
            compiled.append(duration_secs)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            fbp.flow.grid(plan, Path(folder))
            seconds = time.perf_counter() - start
            lines = Path(folder, "data.csv").read_bytes().count(b"\n") - 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return {"seconds": seconds, "lines": lines, "compilations": len(compiled), "compile_seconds": sum(compiled)}


def by_torch(plan: Plan, everything: bool) -> Row:
    """Seconds for one seed of every kind of network, drawn, run and read one after the other."""
    assert flow_torch is not None
    X, dZ = torch.randn(2, plan.examples, plan.width).unbind()
    start = time.perf_counter()
    for activation in plan.activations:
        for init in plan.initializers:
            for depth in plan.depths:
                flow_torch.measure(flow_torch.network(activation, init, depth, plan.width), X, dZ, everything)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "networks": len(plan.activations) * len(plan.initializers) * len(plan.depths)}


def agreement(activation: str, depth: int, width: int) -> dict[str, float]:
    """The largest difference of each reading between fbp and the loop, of one network with the same weights.

    Raises:
        FbpError: they do not measure the same.
    """
    assert flow_torch is not None
    torch.manual_seed(0)
    theirs = flow_torch.network(activation, "he_normal", depth, width)
    X, dZ = torch.randn(2, EXAMPLES, width).unbind()
    found = flow_torch.measure(theirs, X, dZ, everything=True)
    # PyTorch has W as (n_out, n_in).
    params = tuple(
        {"W": layer.weight.detach().numpy().T[None], "b": layer.bias.detach().numpy()[None]}
        if isinstance(layer, torch.nn.Linear)
        else ()
        for layer in theirs
    )
    net = fbp.mlp((width,) * (depth + 1), activation)
    flow = fbp.flow.read_networks(net, params, X.numpy()[None], dZ.numpy()[None])
    errors = {}
    for name, value in found.items():
        mine = flow.values(name)[0, 0]
        # The noise has no bound: a relative difference.
        scale = np.abs(value) if name == "noise" else 1.0
        missing = np.isnan(mine)
        differs = np.abs(mine - value)[~missing] / np.broadcast_to(scale, value.shape)[~missing]
        errors[name] = float(differs.max())
        # At the edge of saturation a unit may fall on either side.
        limit = 4 / X.numel() if name == "saturated" else 1 / width if name == "dead" else 1e-3
        if (missing != np.isnan(value)).any() or not errors[name] <= limit:
            raise FbpError(
                f"both sides must measure the same, got {name} of {activation}, depth {depth}, {errors[name]:.2g} "
                f"apart, more than {limit:.2g}, or missing on one side; mend flow_torch.py"
            )
    return errors


def agreements(plan: Plan) -> Row:
    """`agreement` of a network of each activation."""
    depth = min(10, max(plan.depths))
    errors = {name: agreement(name, depth, plan.width) for name in plan.activations}
    return {"errors": errors, "torch": torch.__version__}


def measure(plan: Plan, version: str) -> Row:
    """One version, once."""
    found = by_fbp(plan) if version == "fbp" else by_torch(plan, version == "everything")
    return {"scale": plan.seeds, **found}


def tasks(quick: bool) -> list[Task]:
    """Agreement first, then the versions in turn."""
    plan, rounds = (QUICK, 1) if quick else (PLAN, ROUNDS)
    versions, first = ["fbp"], []
    if flow_torch is None:
        print("PyTorch is not there: its rows are left out; pip install torch", file=sys.stderr)
    else:
        versions += READINGS
        first.append(Task("agreement", {}, "agreement", partial(agreements, plan)))
    return first + [
        Task(version, {"round": number}, f"round {number + 1} of {rounds}, {version}", partial(measure, plan, version))
        for number in range(rounds)
        for version in versions
    ]


def markdown(rows: list[Row]) -> str:
    """The table, and whether the targets are met."""
    by_version = {name: [row for row in rows if row["table"] == name] for name in ("fbp", *READINGS)}
    present = [name for name, own in by_version.items() if own]
    first = by_version["fbp"][0]
    seconds = {
        name: [row["seconds"] * (1 if name == "fbp" else row["scale"]) for row in by_version[name]] for name in present
    }
    ratios = {name: float(np.median(np.divide(seconds[name], seconds["fbp"]))) for name in present}
    one_seed = f"one seed of {first['scale']}"
    columns = {
        "version": lambda name: "fbp" if name == "fbp" else "PyTorch loop",
        "what is read off": lambda name: READINGS["everything" if name == "fbp" else name],
        "seconds for the grid": lambda name: _format_seconds(statistics.median(seconds[name])),
        "measured": lambda name: f"{len(seconds[name])} times, {'whole' if name == 'fbp' else one_seed}",
        "ratio to fbp": lambda name: "1" if name == "fbp" else f"{ratios[name]:.1f}",
    }
    verdicts = [
        f"{first['lines']:,} rows; {first['compilations']} compilations of over half a second, "
        f"{first['compile_seconds']:.1f} s together",
        f"under {TARGET_SECONDS:.0f} s: {show(statistics.median(seconds['fbp']) < TARGET_SECONDS)}",
    ]
    if "everything" in ratios:
        versions = next(row for row in rows if row["table"] == "agreement")
        by_name = list(versions["errors"].values())
        worst = {name: max(errors[name] for errors in by_name) for name in by_name[0]}
        verdicts += [
            f"at least {TARGET_RATIO:.0f} times faster than the loop that reads off the same: "
            f"{show(ratios['everything'] >= TARGET_RATIO)}",
            f"with the same weights both read off the same: fractions of units within {worst['saturated']:.0e}, the "
            f"rest within {max(x for name, x in worst.items() if name not in ('saturated', 'dead')):.0e} "
            f"(PyTorch {versions['torch']})",
        ]
    return section("", columns, present, verdicts, texts=2)


def _format_seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


if __name__ == "__main__":
    start("flow_grid", tasks, markdown)
