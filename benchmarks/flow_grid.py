"""A grid of gradient flow by fbp, and by the usual loop in PyTorch.

    python benchmarks/flow_grid.py --out benchmarks/results

The grid: 6 depths up to 200, 8 activations, 6 initializers, 20 seeds, width 128, 16 inputs. It is to take under 60
seconds on two cores; compilation, draws and the table of 508,800 rows are counted, imports are not. PyTorch is no
dependency of fbp: without it its rows are left out, with `pip install torch` they are there.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from results import Record, Row, start
from rich.console import Console

import fbp
from fbp.errors import FbpError
from fbp.flow.grids import Plan
from fbp.flow.measurement import standard_inputs
from fbp.flow.sampling import Draw, sample_normals

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

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 0.5:
            compiled.append(seconds)

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
    net = fbp.mlp((width,) * (depth + 1), activation, "he_normal")
    X = standard_inputs(net, 0)
    params = fbp.flow.sample_parameters(net, X.shape[1:], networks=1)
    dZ = sample_normals(Draw.COTANGENTS, range(1), X.shape, 0)
    flow = fbp.flow.read_networks(net, params, X[None], dZ)
    theirs = flow_torch.network(activation, "he_normal", depth, width)
    dense = [layer for layer in theirs if isinstance(layer, torch.nn.Linear)]
    ours = [p for p in params if p]
    with torch.no_grad():
        for layer, p in zip(dense, ours, strict=True):
            layer.weight.copy_(torch.tensor(p["W"][0].T))
            layer.bias.copy_(torch.tensor(p["b"][0]))
    found = flow_torch.measure(theirs, torch.tensor(X), torch.tensor(dZ[0]), everything=True)
    errors = {}
    for name, value in found._asdict().items():
        mine = flow.values(name)[0, 0]
        # The noise has no bound: a relative difference.
        scale = np.abs(value) if name == "noise" else 1.0
        missing = np.isnan(mine)
        differs = np.abs(mine - value)[~missing] / np.broadcast_to(scale, value.shape)[~missing]
        errors[name] = float(differs.max())
        # At the edge of saturation a unit may fall on either side.
        limit = 4 / (len(X) * width) if name == "saturated" else 1 / width if name == "dead" else 1e-3
        if (missing != np.isnan(value)).any() or not errors[name] <= limit:
            raise FbpError(
                f"both sides must measure the same, got {name} of {activation}, depth {depth}, {errors[name]:.2g} "
                f"apart, more than {limit:.2g}, or missing on one side; mend flow_torch.py"
            )
    return errors


def run(plan: Plan, rounds: int, record: Record, console: Console) -> None:
    """Agreement first, then the versions in turn."""
    if flow_torch is None:
        console.print("PyTorch is not there: its rows are left out; pip install torch")
    elif ("agreement", {}) not in record:
        console.print("agreement")
        errors = {name: agreement(name, min(10, max(plan.depths)), plan.width) for name in plan.activations}
        record.add({"table": "agreement", "case": {}, "errors": errors, "torch": torch.__version__})
    for number in range(rounds):
        for name in ("fbp", *(READINGS if flow_torch else ())):
            case: dict[str, Any] = {"round": number}
            if (name, case) in record:
                continue
            console.print(f"round {number + 1} of {rounds}: {name}")
            found = by_fbp(plan) if name == "fbp" else by_torch(plan, name == "everything")
            record.add({"table": name, "case": case, "scale": plan.seeds, **found})


def markdown(rows: list[Row]) -> str:
    """The table, and whether the targets are met."""
    seconds = {
        name: [row["seconds"] * (1 if name == "fbp" else row["scale"]) for row in rows if row["table"] == name]
        for name in ("fbp", *READINGS)
    }
    ours = seconds["fbp"]
    compiled = next(row for row in rows if row["table"] == "fbp")
    lines = [
        "| version | what is read off | seconds for the grid | measured | ratio to fbp |",
        "| :--- | :--- | ---: | ---: | ---: |",
        f"| fbp | {READINGS['everything']} | {_seconds(ours)} | {len(ours)} times, whole | 1 |",
    ]
    ratios = {}
    for name, what in READINGS.items():
        if theirs := seconds[name]:
            ratios[name] = float(np.median(np.divide(theirs, ours)))
            lines.append(
                f"| PyTorch loop | {what} | {_seconds(theirs)} | {len(theirs)} times, one seed of "
                f"{rows[-1]['scale']} | {ratios[name]:.1f} |"
            )
    lines += [
        "",
        f"- {compiled['lines']:,} rows; {compiled['compilations']} compilations of over half a second, "
        f"{compiled['compile_seconds']:.1f} s together",
        f"- under {TARGET_SECONDS:.0f} s: {_word(np.median(ours) < TARGET_SECONDS)}",
    ]
    if ratios:
        versions = next(row for row in rows if row["table"] == "agreement")
        by_name = list(versions["errors"].values())
        worst = {name: max(errors[name] for errors in by_name) for name in by_name[0]}
        lines += [
            f"- at least {TARGET_RATIO:.0f} times faster than the loop that reads off the same: "
            f"{_word(ratios['everything'] >= TARGET_RATIO)}",
            f"- with the same weights both read off the same: fractions of units within {worst['saturated']:.0e}, the "
            f"rest within {max(x for name, x in worst.items() if name not in ('saturated', 'dead')):.0e} "
            f"(PyTorch {versions['torch']})",
        ]
    return "\n".join(lines)


def _seconds(found: list[float]) -> str:
    median = float(np.median(found))
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def _word(yes: object) -> str:
    return "reached" if yes else "**not reached**"


def main(*, out: Path | None = None, quick: bool = False, resume: bool = False) -> int:
    """Time a grid of gradient flow.

    Args:
        out: folder for flow_grid.json; the table of a README.md beside that folder is regenerated.
        quick: a small grid, once.
        resume: continue the unfinished run in `out`.
    """
    record = Record("flow_grid", markdown, out, quick, resume)
    return record.complete(lambda: run(QUICK if quick else PLAN, 1 if quick else ROUNDS, record, Console(stderr=True)))


if __name__ == "__main__":
    start("flow_grid", main)
