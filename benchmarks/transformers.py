"""The gradient step of a GPT by fbp against `jax.grad` in plain JAX, Equinox and Flax, and what a sweep gives besides.

    python benchmarks/transformers.py --out benchmarks/results

The versions are in transformer_peers.py, the models of the libraries in models.py.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import TOLERANCE, quantiles, run
from results import Row, Task, start
from sections import Column, section, show
from transformer_peers import LOSS, Version, Work, autodiff, by_fbp, of_libraries

import fbp
from fbp import cost
from fbp.errors import FbpError
from fbp.partition import combine
from fbp.report import number

NOISE = 1e-7
"""A leaf below this part of the whole gradient is rounding: the exact gradient of a key's bias is zero."""
ROUNDS, MOST_ROUNDS, COMPILATIONS = 6, 60, 7
LONG = 512
"""The length from which attention rules."""
TIME, MEMORY, MEMORY_LONG = 0.6, 0.5, 0.3
"""The targets of a step that keeps everything, over the quickest and the leanest opponent that does."""
CHECKPOINT_TIME, CHECKPOINT_MEMORY = 0.8, 0.7
NORMS_MLP, NORMS_GPT, NORMS_MEMORY, ADAPTERS = 1.15, 1.5, 2.0, 0.9
"""The targets of norms and clipping, and of adapters, in gradient steps."""
RANK = 8
"""Of the adapters."""


def measure(
    versions: Sequence[Version], params: Any, batch: tuple[Any, ...], seconds: float, agree: bool = True
) -> Row:
    """What each version costs, and the ratios of the first one's times to the others'.

    Args:
        versions: fbp's first.
        params: in fbp's layout, NumPy arrays.
        batch: the arguments after them.
        seconds: how long to time.
        agree: whether all must have one result.

    Raises:
        FbpError: two versions have different gradients.
    """
    jax.clear_caches()
    arguments = [(jax.device_put(version.adapt(params)), *batch) for version in versions]
    programs = [cost.compile(version.step, own) for version, own in zip(versions, arguments, strict=True)]
    calls = [partial(run, program, own) for program, own in zip(programs, arguments, strict=True)]
    results = [call() for call in calls]
    error = None
    if agree:
        found = [v.restore(jax.device_get(result)) for v, result in zip(versions, results, strict=True)]
        error = _compare(versions, found)
    times = cost.interleave(calls, seconds, ROUNDS, MOST_ROUNDS)
    measured = {
        version.name: {
            "step_seconds": statistics.median(own),
            "temporary_bytes": program.temporary_bytes,
            "compile_seconds": program.compile_seconds,
            "ratio_of_first": quantiles(np.divide(times[0], own)),
        }
        for version, program, own in zip(versions, programs, times, strict=True)
    }
    return {"error": error, "rounds": len(times[0]), "versions": measured}


def _compare(versions: Sequence[Version], gradients: Sequence[Any]) -> float:
    reference = jax.tree.leaves_with_path(gradients[0])
    floor = NOISE * np.sqrt(sum(np.sum(np.square(leaf)) for _, leaf in reference))
    worst = 0.0
    for version, gradient in zip(versions[1:], gradients[1:], strict=True):
        for (path, ours), theirs in zip(reference, jax.tree.leaves(gradient), strict=True):
            if max(np.linalg.norm(ours), np.linalg.norm(theirs)) < floor:
                continue
            error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            if not (ours.shape == theirs.shape and error <= TOLERANCE):
                raise FbpError(
                    f"fbp and {version.name} must have one gradient up to {TOLERANCE:g}, got the relative error "
                    f"{error:.2g} in {jax.tree_util.keystr(path)}; mend the one that is wrong"
                )
            worst = max(worst, error)
    return worst


def _gradient_of(version: Version) -> Version:
    """The version that restores the gradient of (value, gradient)."""
    return replace(version, restore=lambda result: version.restore(result[1]))


def _parameters(net: fbp.Layer, *shape: Any) -> Any:
    return jax.device_get(net.init(jax.random.key(0), *shape)[0])


def step_row(work: Work, seconds: float) -> Row:
    """Keeping everything, against everything that keeps everything."""
    versions = [by_fbp(work), *autodiff(work, checkpoint=False), *of_libraries(work)]
    return measure([_gradient_of(v) for v in versions], _parameters(work.network()), work.batch_of_tokens(), seconds)


def checkpoint_row(work: Work, seconds: float) -> Row:
    """Blocks recomputed."""
    versions = [by_fbp(work, checkpoint=1), *autodiff(work, checkpoint=True)]
    return measure([_gradient_of(v) for v in versions], _parameters(work.network()), work.batch_of_tokens(), seconds)


def compile_row(work: Work, seconds: float) -> Row:
    """Compile time alone."""
    net = work.network()
    params = jax.eval_shape(lambda: net.init(jax.random.key(0))[0])
    versions = [by_fbp(work), *(v for v in autodiff(work, checkpoint=False) if v.name.startswith("scan"))]
    seconds_of: dict[str, list[float]] = {version.name: [] for version in versions}
    for _ in range(COMPILATIONS):
        for version in versions:
            jax.clear_caches()
            program = cost.compile(version.step, (params, *work.batch_of_tokens()))
            seconds_of[version.name].append(program.compile_seconds)
    found = {name: {"compile_seconds": statistics.median(own)} for name, own in seconds_of.items()}
    return {"versions": found}


def examples_row(work: Work | None, seconds: float) -> Row:
    """Norms of each example's gradient, and clipping, in gradient steps; beside `vmap(jax.grad)`."""
    if work is None:
        net, draw = fbp.mlp((784, 1024, 1024, 10)), np.random.default_rng(0)
        batch = draw.standard_normal((512, 784), np.float32), np.arange(512, dtype=np.int32) % 10
    else:
        net, batch = work.network(), work.batch_of_tokens()
    params = _parameters(net)

    def each(params: Any, X: Any, Y: Any) -> Any:
        loss = lambda p, x, y: fbp.loss_value(net, LOSS, p, x[None], y[None])
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, X, Y)
        return jnp.sqrt(sum(jnp.sum(jnp.square(g.reshape(len(X), -1)), axis=1) for g in jax.tree.leaves(gradients)))

    norms = fbp.per_example_norms(net, LOSS)
    ours, theirs = (np.asarray(jax.jit(f)(params, *batch)) for f in (norms, each))
    if not np.allclose(ours, theirs, rtol=TOLERANCE):
        raise FbpError(f"the norms must agree with vmap(jax.grad), got {ours} and {theirs}; mend the one that is wrong")
    versions = [
        Version("gradient step", fbp.value_and_grad(net, LOSS)),
        Version("norms", norms),
        Version("clipped", fbp.clipped_grad(net, LOSS, float(np.median(ours)))),
        Version("vmap(jax.grad)", each),
    ]
    return measure(versions, params, batch, seconds, agree=False)


def adapters_row(work: Work, seconds: float) -> Row:
    """The gradients of adapters alone, in gradient steps of the network without."""
    net, batch = work.network(), work.batch_of_tokens()
    adapted = fbp.tree.rebuild(net, lambda layer: fbp.LowRank(layer, RANK) if isinstance(layer, fbp.Dense) else layer)
    params, names = _parameters(adapted), ("*.D", "*.U")
    plain = _parameters(net)
    by_hand = fbp.value_and_grad(adapted, LOSS, only=names)

    def by_autodiff(params: Any, X: Any, Y: Any) -> Any:
        rest = fbp.select(params, lambda name: not name.endswith((".D", ".U")))
        loss = lambda own: fbp.loss_value(adapted, LOSS, combine(own, rest), X, Y)
        return jax.value_and_grad(loss)(fbp.select(params, names))

    ours, theirs = (jax.device_get(jax.jit(f)(params, *batch)) for f in (by_hand, by_autodiff))
    error = _compare([by_fbp(work), Version("jax.grad", by_autodiff)], [ours[1], theirs[1]])
    versions = [
        Version("gradient step", fbp.value_and_grad(net, LOSS), lambda _: plain),
        Version("adapters", by_hand),
        Version("adapters by jax.grad", by_autodiff),
    ]
    return measure(versions, params, batch, seconds, agree=False) | {"error": error}


LONG_WORK = Work(length=512, batch=2)
STEPS = (
    Work(),
    Work(depth=12),
    Work(width=256),
    Work(width=512, heads=8),
    Work(vocabulary=16384),
    Work(length=256, batch=4),
    Work(depth=6, width=256, heads=8, length=256, vocabulary=2048, batch=4),
    LONG_WORK,
    replace(LONG_WORK, depth=12),
    Work(width=512, heads=8, length=512, batch=1),
    Work(width=256, length=1024, batch=1),
)
MEASURES: dict[str, tuple[Callable[[Any, float], Row], Sequence[Any]]] = {
    "step": (step_row, STEPS),
    "checkpoint": (checkpoint_row, (Work(), Work(depth=12), LONG_WORK, replace(LONG_WORK, depth=12))),
    "compile": (compile_row, (Work(), Work(depth=12), Work(depth=48), LONG_WORK, Work(length=1024, batch=1))),
    "examples": (examples_row, (None, Work(), LONG_WORK)),
    "adapters": (adapters_row, (Work(), LONG_WORK, Work(width=256))),
}


def tasks(quick: bool) -> list[Task]:
    """The rows of each table."""
    seconds = 1.0 if quick else 6.0
    return [
        Task(
            table,
            {} if work is None else asdict(work),
            f"{table}, {work or _MLP}",
            partial(row, work, seconds),
        )
        for table, (row, works) in MEASURES.items()
        for work in (works[:1] if quick else works)
    ]


_MLP = "784-1024-1024-10, m = 512"


def markdown(rows: Sequence[Row]) -> str:
    """The tables."""
    return "\n\n".join(table(own) for name, table in TABLES.items() if (own := [r for r in rows if r["table"] == name]))


def _name(row: Row) -> str:
    return str(Work(**row["case"])) if row["case"] else _MLP


def _first(row: Row) -> Row:
    return next(iter(row["versions"].values()))


def _others(row: Row) -> dict[str, Row]:
    return dict(list(row["versions"].items())[1:])


def _quickest(row: Row) -> tuple[str, float]:
    """The opponent that is quickest beside the first version, and the ratio of the first one's time to its."""
    ratios = {name: own["ratio_of_first"]["median"] for name, own in _others(row).items()}
    name = max(ratios, key=lambda name: ratios[name])
    return name, ratios[name]


def _leanest(row: Row) -> tuple[str, float]:
    ratios = {name: _first(row)["temporary_bytes"] / own["temporary_bytes"] for name, own in _others(row).items()}
    name = max(ratios, key=lambda name: ratios[name])
    return name, ratios[name]


_UNITS = {"ms": ("step_seconds", 1e3), "MiB": ("temporary_bytes", 2**-20), "compile s": ("compile_seconds", 1)}


def _of(name: str, unit: str) -> Column:
    key, factor = _UNITS[unit]
    return lambda row: number(row["versions"][name][key] * factor, digits=3)


def _against(rows: Sequence[Row], title: str, time: float, memory: Callable[[Row], float]) -> str:
    columns: dict[str, Column] = {
        "network (width x depth)": _name,
        "ms": _of("fbp", "ms"),
        "quickest": lambda row: _quickest(row)[0],
        "time": lambda row: _quickest(row)[1],
        "MiB": _of("fbp", "MiB"),
        "leanest": lambda row: _leanest(row)[0],
        "memory": lambda row: _leanest(row)[1],
        "error": lambda row: f"{row['error']:.0e}",
    }
    times, memories = [_quickest(row)[1] for row in rows], [_leanest(row)[1] for row in rows]
    reached = sum(own <= memory(row) for own, row in zip(memories, rows, strict=True))
    verdicts = (
        f"time: median {statistics.median(times):.2f}, {min(times):.2f} to {max(times):.2f}; "
        f"at most {time} in {sum(own <= time for own in times)} of {len(rows)} rows",
        f"memory: median {statistics.median(memories):.2f}, {min(memories):.2f} to {max(memories):.2f}; "
        f"within its target in {reached} of {len(rows)} rows",
    )
    return section(title, columns, rows, verdicts)


def _step_table(rows: Sequence[Row]) -> str:
    title = "A gradient step of a GPT that keeps everything, over the quickest and the leanest opponent that does"
    return _against(rows, title, TIME, lambda row: MEMORY_LONG if row["case"]["length"] >= LONG else MEMORY)


def _all_table(rows: Sequence[Row]) -> str:
    """Every opponent: time and memory of fbp over its."""

    def ratios(name: str) -> Column:
        def show_both(row: Row) -> str:
            own = row["versions"][name]
            memory = _first(row)["temporary_bytes"] / own["temporary_bytes"]
            return f"{own['ratio_of_first']['median']:.2f}, {memory:.2f}"

        return show_both

    columns = {"network (width x depth)": _name, **{name: ratios(name) for name in _others(rows[0])}}
    return section("The same, over each of them: time, memory", columns, rows)


def _checkpoint_table(rows: Sequence[Row]) -> str:
    title = "With every block recomputed, over jax.grad with jax.checkpoint around each block"
    return _against(rows, title, CHECKPOINT_TIME, lambda row: CHECKPOINT_MEMORY)


def _compile_table(rows: Sequence[Row]) -> str:
    def ratio(row: Row) -> float:
        return _first(row)["compile_seconds"] / min(own["compile_seconds"] for own in _others(row).values())

    names = list(rows[0]["versions"])
    columns: dict[str, Column] = {
        "network (width x depth)": _name,
        **{f"{name}, s": _of(name, "compile s") for name in names},
        "ratio": ratio,
    }
    worst = max(map(ratio, rows))
    verdict = f"no longer than the quickest to compile: {show(worst <= 1)}, at most {worst:.2f} of it"
    return section("Compile time of the loops", columns, rows, (verdict,))


def _in_steps(rows: Sequence[Row], title: str, names: Sequence[str], verdicts: Sequence[str]) -> str:
    def time(name: str) -> Column:
        return lambda row: 1 / row["versions"][name]["ratio_of_first"]["median"]

    def memory(name: str) -> Column:
        return lambda row: row["versions"][name]["temporary_bytes"] / _first(row)["temporary_bytes"]

    columns: dict[str, Column] = {
        "network (width x depth)": _name,
        "step, ms": _of("gradient step", "ms"),
        **{f"{name}, steps": time(name) for name in names},
        **{f"{name}, memory": memory(name) for name in names},
    }
    return section(title, columns, rows, verdicts)


def _examples_table(rows: Sequence[Row]) -> str:
    def within(row: Row, name: str) -> bool:
        own, limit = row["versions"][name], NORMS_GPT if row["case"] else NORMS_MLP
        memory = own["temporary_bytes"] / _first(row)["temporary_bytes"]
        return 1 / own["ratio_of_first"]["median"] <= limit and memory <= NORMS_MEMORY

    reached = {name: sum(within(row, name) for row in rows) for name in ("norms", "clipped")}
    verdicts = [
        f"{name}: within {NORMS_MLP} steps (GPT {NORMS_GPT}) and {NORMS_MEMORY:g} times the memory in "
        f"{count} of {len(rows)} rows"
        for name, count in reached.items()
    ]
    title = "Norms of each example's own gradient, and the gradient clipped by them"
    return _in_steps(rows, title, ("norms", "clipped", "vmap(jax.grad)"), verdicts)


def _adapters_table(rows: Sequence[Row]) -> str:
    reached = sum(1 / row["versions"]["adapters"]["ratio_of_first"]["median"] <= ADAPTERS for row in rows)
    title = f"Gradients of adapters alone (rank {RANK} beside each of the six dense layers of a block)"
    verdict = f"at most {ADAPTERS} of a full step of the network without adapters: in {reached} of {len(rows)} rows"
    return _in_steps(rows, title, ("adapters", "adapters by jax.grad"), (verdict,))


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "step": lambda rows: f"{_step_table(rows)}\n\n{_all_table(rows)}",
    "checkpoint": _checkpoint_table,
    "compile": _compile_table,
    "examples": _examples_table,
    "adapters": _adapters_table,
}


if __name__ == "__main__":
    start("transformers", tasks, markdown)
