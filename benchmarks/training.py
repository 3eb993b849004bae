"""Training from process start to the test figure, beside PyTorch, Keras and Flax; a GPT on characters; what limits it.

    python benchmarks/training.py --out benchmarks/results

FBP_BENCH_PYTHON names a Python that has torch and keras, where this one has not; FBP_BENCH_MNIST the folder of the four
gzipped IDX files. The opponents are in training_peers/.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import quantiles
from models import Work, make_step, plain_functions
from results import Row, Task, start
from sections import section, show

import fbp
from fbp import cost
from fbp.errors import FbpError
from fbp.report import number
from fbp.training.feed import Block, Resident
from fbp.training.loop import run_steps
from fbp.training.monitor import Monitor
from fbp.training.step import Method, State, initial_state

HERE = Path(__file__).parent
PEERS = HERE / "training_peers"
MNIST = Path(os.environ.get("FBP_BENCH_MNIST", "mnist"))
OTHER = os.environ.get("FBP_BENCH_PYTHON", sys.executable)
LAYERS, BATCH, EXAMPLES = (784, 128, 64, 10), 32, 48_000
ACCURACY = 0.97
"""What every contestant must reach, and in how much two of them may differ."""
APART = 0.01
MOST_EPOCHS = 20
"""After which a GPT that has not reached its loss is given up."""
COLD, AGAIN, KERAS, LIMIT, GPT, ECONOMY = 1 / 3, 1 / 4, 1 / 10, 1.5, 1 / 1.5, 1.05
"""The targets: of PyTorch's time the first and the second time, of Keras', over the machine's limit, of the loops."""


def run_reference(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from the start of a process to its last line, and the accuracy in it."""
    begin, seconds, last = time.perf_counter(), 0.0, ""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            seconds, last = time.perf_counter() - begin, line
        if process.wait():
            errors.seek(0)
            raise FbpError(f"a contestant must succeed, got {' '.join(command)}: {errors.read()[-500:]}; mend it")
    found = json.loads(last)
    return seconds, found["test"]["accuracy"] if "test" in found else found["accuracy"]


def reference_row(rounds: int) -> Row:
    """The reference task: 784-128-64-10 on all of MNIST, Adam, batches of 32, a fifth held out, 10 epochs."""
    peers = {
        "PyTorch, plain loop": [OTHER, str(PEERS / "torch_loop.py"), str(MNIST)],
        "Keras on TensorFlow": [OTHER, str(PEERS / "keras_fit.py"), str(MNIST)],
        "Flax and Optax loop": [sys.executable, str(PEERS / "flax_loop.py"), str(MNIST)],
    }
    times: dict[str, list[float]] = {}
    accuracies: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(rounds):
            words = ["--data", str(MNIST), "--epochs", "10", "--batch-size", "32", "--validation-split", "0.2"]
            options = ["--schedule", "constant", "--no-page", "--json", "--monitor", "off"]
            ours = [sys.executable, "-m", "fbp", "train", *words, *options, "--seed", str(i), "--out"]
            cache = {"FBP_CACHE": f"{scratch}/cache-{i}"}
            calls = {
                "fbp, first time": ([*ours, f"{scratch}/first-{i}"], cache),
                "fbp, second time": ([*ours, f"{scratch}/second-{i}"], cache),
                **{name: (command, {}) for name, command in peers.items()},
            }
            for name, (command, environment) in calls.items():
                seconds, accuracy = run_reference(command, environment)
                times.setdefault(name, []).append(seconds)
                accuracies.setdefault(name, []).append(accuracy)
    means = {name: statistics.mean(own) for name, own in accuracies.items()}
    if min(means.values()) < ACCURACY or max(means.values()) - min(means.values()) > APART:
        raise FbpError(f"all must learn the same, got accuracies {means}; mend the one that does not")
    return {
        "rounds": rounds,
        "contestants": {
            name: {
                "seconds": statistics.median(own),
                "ratio_to_torch": quantiles(np.divide(own, times["PyTorch, plain loop"])),
                "ratio_to_keras": quantiles(np.divide(own, times["Keras on TensorFlow"])),
                "accuracy": [min(accuracies[name]), means[name], max(accuracies[name])],
            }
            for name, own in times.items()
        },
    }


def prepare_epoch() -> tuple[Method, State, Block]:
    """The reference task's network with an epoch of random pixels."""
    net, rule = fbp.mlp(LAYERS), optax.adam(1e-3)
    params, _ = net.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    X = jax.device_put(draw.integers(0, 256, (EXAMPLES, LAYERS[0]), np.uint8))
    Y = jax.device_put(draw.integers(0, LAYERS[-1], EXAMPLES).astype(np.int32))
    block = next(iter(Resident(X, Y, BATCH, 0).blocks(1, 0)))
    return Method(net, fbp.SoftmaxCrossEntropy(), rule), initial_state(params, rule), block


def limit_row(seconds: float) -> Row:
    """An epoch of the reference task beside its matrix products alone, and beside what Adam must move."""
    method, state, block = prepare_epoch()
    steps = len(block.counts)
    params = state.params
    weights = [layer["W"] for layer in params if layer]
    inputs = jnp.ones((BATCH, LAYERS[0]))

    @jax.jit
    def products(weights: Any, A: Any) -> Any:
        """Z = A W, dW = A^T dZ and dA = dZ W^T of every layer, each depending on the step before."""

        def step(_: Any, carry: Any) -> Any:
            weights, A = carry
            cache = [A]
            for W in weights:
                cache.append(cache[-1] @ W)
            dZ, changed = cache[-1], []
            for l in reversed(range(len(weights))):
                changed.insert(0, cache[l].T @ dZ)
                if l:
                    dZ = dZ @ weights[l].T
            return changed, A

        return jax.lax.fori_loop(0, steps, step, (weights, A))[0]

    flat = jnp.ones(sum(x.size for x in jax.tree.leaves(params)))

    @jax.jit
    def moves(p: Any, m: Any, v: Any, g: Any) -> Any:
        """Four arrays read and three written, as Adam does, with one operation each."""
        return jax.lax.fori_loop(0, steps, lambda _, c: (c[0] + c[3], c[1] + c[3], c[2] + c[3], c[3]), (p, m, v, g))

    calls = [
        lambda: run_steps(method, None, state, block, 0, steps),
        lambda: jax.block_until_ready(products(weights, inputs)),
        lambda: jax.block_until_ready(moves(flat, flat, flat, flat)),
    ]
    for call in calls:
        call()
    epoch, alone, moved = (statistics.median(own) for own in cost.interleave(calls, seconds, 5, 40))
    return {"epoch_seconds": epoch, "products_seconds": alone, "adam_seconds": moved, "ratio": epoch / (alone + moved)}


def monitor_row(seconds: float) -> Row:
    """An epoch with each monitor."""
    method, state, block = prepare_epoch()
    details = ("off", "economy", "full")
    calls = [
        partial(run_steps, method, Monitor.named(detail), state, block, 0, len(block.counts)) for detail in details
    ]
    for call in calls:
        call()
    times = cost.interleave(calls, seconds, 6, 40)
    return {detail: quantiles(np.divide(own, times[0])) for detail, own in zip(details, times, strict=True)}


def corpus() -> np.ndarray:
    """The characters of this project's own pages as tokens."""
    root = HERE.parent
    text = "".join(
        path.read_text(encoding="utf-8") for path in sorted([root / "README.md", *root.glob("docs/**/*.md")])
    )
    return np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)[1].astype(np.int32)


def gpt_row(library: str, length: int, batch: int, target: float) -> Row:
    """A small GPT on characters until an epoch's mean loss is below a target, timed together with compilation."""
    tokens = corpus()
    X, Y = fbp.data.windows(tokens, length)
    count = len(X) // batch
    X, Y = X[: count * batch], Y[: count * batch]
    work = Work(library, length, batch, approximate=True, vocabulary=int(tokens.max()) + 1)

    def by_library() -> tuple[float, list[float]]:
        begin = time.perf_counter()
        step, params = make_step(work, plain_functions(work))
        rule = optax.adam(1e-3)

        @jax.jit
        def update(params: Any, state: Any, X: Any, Y: Any) -> Any:
            value, gradient = step(params, X, Y)
            changes, state = rule.update(gradient, state, params)
            return optax.apply_updates(params, changes), state, value

        state, draw = rule.init(params), np.random.default_rng(0)
        losses: list[float] = []
        while not losses or (losses[-1] > target and len(losses) < MOST_EPOCHS):
            own = []
            for rows in draw.permutation(len(X)).reshape(count, batch):
                params, state, value = update(params, state, X[rows], Y[rows])
                own.append(value)
            losses.append(float(np.mean(jax.device_get(own))))
        return time.perf_counter() - begin, losses

    def by_fbp() -> tuple[float, list[float]]:
        begin = time.perf_counter()
        net = fbp.gpt(work.vocabulary, length, work.width, work.depth, work.heads, init="lecun_normal")
        params = jax.jit(lambda key: net.init(key)[0])(jax.random.key(0))
        options = {"epochs": MOST_EPOCHS, "target_loss": target, "batch_size": batch}
        fitted = fbp.fit(net, fbp.SoftmaxCrossEntropy(), params, (X, Y), optimizer=optax.adam(1e-3), **options)
        return time.perf_counter() - begin, [epoch.loss for epoch in fitted.history]

    jax.clear_caches()
    (theirs, their_losses), (ours, our_losses) = by_library(), by_fbp()
    if max(their_losses[-1], our_losses[-1]) > target:
        raise FbpError(f"both must learn to {target}, got {their_losses} and {our_losses}; mend the one that does not")
    return {
        "target": target,
        "steps": count * len(our_losses),
        "their_steps": count * len(their_losses),
        "seconds": ours,
        "their_seconds": theirs,
        "losses": our_losses,
        "their_losses": their_losses,
    }


def tasks(quick: bool) -> list[Task]:
    """The rows of each table."""
    rows: list[Task] = []
    if MNIST.is_dir():
        rows.append(Task("reference", {}, "the reference task", partial(reference_row, 1 if quick else 5)))
    rows += [
        Task("limit", {}, "the limit of the machine", partial(limit_row, 2.0 if quick else 10.0)),
        Task("monitor", {}, "monitors", partial(monitor_row, 2.0 if quick else 10.0)),
    ]
    shapes = [(64, 16)] if quick else [(64, 16), (256, 4)]
    for library in ("equinox", "flax"):
        for length, batch in shapes:
            case = {"library": library, "length": length, "batch": batch}
            measured = partial(gpt_row, target=3.3 if quick else 2.6, **case)
            rows.append(Task("gpt", case, f"a GPT beside {library}, T = {length}", measured))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The tables."""
    return "\n\n".join(
        make([row for row in rows if row["table"] == name])
        for name, make in TABLES.items()
        if any(row["table"] == name for row in rows)
    )


def _reference_table(rows: Sequence[Row]) -> str:
    (row,) = rows
    columns = {
        "": lambda each: each[0],
        "seconds": lambda each: number(each[1]["seconds"], digits=3),
        "over PyTorch": lambda each: each[1]["ratio_to_torch"]["median"],
        "over Keras": lambda each: each[1]["ratio_to_keras"]["median"],
        "test accuracy": lambda each: " ".join(f"{value:.2%}" for value in each[1]["accuracy"]),
    }
    own = row["contestants"]
    first, second = own["fbp, first time"], own["fbp, second time"]
    flax = own["Flax and Optax loop"]["seconds"]
    verdicts = (
        f"first time at most a third of PyTorch's: {show(first['ratio_to_torch']['median'] <= COLD)}",
        f"second time at most a quarter: {show(second['ratio_to_torch']['median'] <= AGAIN)}",
        f"a tenth of Keras': {show(first['ratio_to_keras']['median'] <= KERAS)}",
        f"quicker than the Flax loop: {show(first['seconds'] <= flax)}",
    )
    title = f"From process start to the test figure, median of {row['rounds']} interleaved rounds"
    return section(title, columns, own.items(), verdicts)


def _limit_table(rows: Sequence[Row]) -> str:
    milli: Callable[[str], Callable[[Row], str]] = lambda key: lambda row: number(1e3 * row[key], digits=3)
    columns = {
        "": lambda row: "784-128-64-10, batches of 32, 1500 steps",
        "epoch, ms": milli("epoch_seconds"),
        "products alone, ms": milli("products_seconds"),
        "what Adam moves, ms": milli("adam_seconds"),
        "ratio": lambda row: row["ratio"],
    }
    verdict = f"at most {LIMIT} times the limit: {show(rows[0]['ratio'] <= LIMIT)}"
    return section("An epoch beside the limit of the machine", columns, rows, (verdict,))


def _monitor_table(rows: Sequence[Row]) -> str:
    columns = {
        "": lambda row: "784-128-64-10, batches of 32",
        **{name: lambda row, name=name: row[name]["median"] for name in ("off", "economy", "full")},
    }
    verdict = f"economy at most {ECONOMY} of the time without: {show(rows[0]['economy']['median'] <= ECONOMY)}"
    return section("An epoch with each monitor, over one without", columns, rows, (verdict,))


def _gpt_table(rows: Sequence[Row]) -> str:
    columns = {
        "a GPT (4 blocks, width 128) on characters": lambda row: (
            f"{row['case']['library']}, T = {row['case']['length']}"
        ),
        "loss": lambda row: row["target"],
        "steps": lambda row: row["steps"],
        "its steps": lambda row: row["their_steps"],
        "fbp, s": lambda row: number(row["seconds"], digits=3),
        "loop, s": lambda row: number(row["their_seconds"], digits=3),
        "time": lambda row: row["seconds"] / row["their_seconds"],
    }
    reached = sum(row["seconds"] / row["their_seconds"] <= GPT for row in rows)
    verdict = f"1.5 times as quick as the loop of the library: in {reached} of {len(rows)} rows"
    return section("A GPT beside the loop that users of the library write, with compilation", columns, rows, (verdict,))


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "reference": _reference_table,
    "limit": _limit_table,
    "monitor": _monitor_table,
    "gpt": _gpt_table,
}


if __name__ == "__main__":
    start("training", tasks, markdown)
