"""The tables of the gradient step. Every verdict is computed from the rows."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from results import Row
from sections import Column, group, section, show

from fbp.report import number

MEMORY_TARGETS = {"tanh": 0.55, "sigmoid": 0.55, "gelu": 0.30, "silu": 0.30}
"""Temporary memory over that of `jax.grad`, at depth 128 and more; other activations have no target."""
CHECKPOINT_MEMORY = 0.10
CHECKPOINT_TIME = 1.35
FLAT = 1.5
"""Compile time is flat if the deepest network takes at most this many times as long as the shallowest one."""

_SCAN, _AUTODIFF = ("scan",), ("scan", "unrolled")
_UNITS = {"ms": ("step_seconds", 1e3), "MiB": ("temporary_bytes", 2**-20), "compile s": ("compile_seconds", 1)}
_NETWORK = {
    "network (width x depth, batch)": lambda row: "{activation} {width} x {depth}, {batch}".format_map(row["case"])
}

Parts = tuple[str, Mapping[str, Column], Sequence[str]]
"""A title, the columns after that of the network, and the verdicts."""


def markdown(rows: Sequence[Row]) -> str:
    """The tables of each kind of row that is present, in the order of `MAKERS`."""
    sections = []
    for kind, makers in MAKERS.items():
        if own := [row for row in rows if row["table"] == kind]:
            for title, columns, verdicts in (make(own) for make in makers):
                sections.append(section(title, {**_NETWORK, **columns}, own, verdicts))
    return "\n\n".join(sections)


def _step_time(rows: Sequence[Row]) -> Parts:
    best = [_times(row) for row in rows]
    ratios = [each.median for each in best]
    columns = {
        **_versions("ms"),
        "quickest jax.grad": lambda row: _times(row).opponent,
        "ratio": lambda row: _times(row).median,
        "25 - 75 %": lambda row: _times(row).interval,
        "error": lambda row: f"{row['error']:.0e}",
    }
    verdicts = (
        f"median ratio {statistics.median(ratios):.2f} over {len(rows)} rows, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}",
        f"fbp quicker (the interval below 1) in {sum(b.high < 1 for b in best)} of {len(rows)} rows, "
        f"slower (above 1) in {sum(b.low > 1 for b in best)}, level in the rest",
    )
    return "Time of one gradient step", columns, verdicts


def _step_memory(rows: Sequence[Row]) -> Parts:
    def operations(row: Row) -> float | None:
        ours, theirs = (_count(row, name, "flops") for name in ("fbp", "unrolled"))
        return ours / theirs if ours and theirs else None

    ratios = [_memory(row) for row in rows]
    columns = {
        **_versions("MiB"),
        "ratio to leanest": _memory,
        **_versions("compile s"),
        "operations to unrolled": operations,
    }
    verdict = (
        f"memory: median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}; "
        f"fbp needs more in {sum(ratio > 1 for ratio in ratios)} of {len(rows)} rows"
    )
    return "Temporary memory, compile time and operations of the same steps", columns, (verdict,)


def _memory_table(rows: Sequence[Row]) -> Parts:
    def target(row: Row) -> float | None:
        return MEMORY_TARGETS.get(row["case"]["activation"])

    def reached(against: Sequence[str]) -> Column:
        return lambda row: None if (goal := target(row)) is None else _memory(row, against) <= goal

    def verdict(activation: str, goal: float) -> str:
        own = [row for row in rows if row["case"]["activation"] == activation]
        scan, best = (max(_memory(row, against) for row in own) for against in (_SCAN, _AUTODIFF))
        return (
            f"{activation}, target {goal:.2f}: largest ratio to scan {scan:.2f}, {show(scan <= goal)}; "
            f"to the leaner of scan and unrolled {best:.2f}, {show(best <= goal)}"
        )

    columns = {
        **_versions("MiB"),
        "to scan": lambda row: _memory(row, _SCAN),
        "to leanest": _memory,
        "target": target,
        "against scan": reached(_SCAN),
        "against leanest": reached(_AUTODIFF),
    }
    present = {row["case"]["activation"] for row in rows}
    verdicts = [verdict(name, goal) for name, goal in MEMORY_TARGETS.items() if name in present]
    return "Temporary memory of deep networks", columns, verdicts


def _checkpoint(rows: Sequence[Row]) -> Parts:
    def memory(row: Row) -> float:
        return _memory(row, _SCAN)

    def time(row: Row) -> float:
        return _times(row, _SCAN).median

    def to_remat(ratio: Callable[[Row, Sequence[str]], object]) -> Column:
        return lambda row: ratio(row, ("jax.checkpoint",)) if "jax.checkpoint" in row["versions"] else None

    def verdict(network: tuple[str, int], own: list[Row]) -> str:
        activation, depth = network
        lean = [row for row in own if memory(row) <= CHECKPOINT_MEMORY]
        # The quickest of those that are lean enough; if none is, the leanest.
        best = min(lean, key=time) if lean else min(own, key=memory)
        return (
            f"{activation}, depth {depth}: best segment {best['case']['segment']}; "
            f"memory {memory(best):.3f}, target {CHECKPOINT_MEMORY:.2f}, {show(bool(lean))}; "
            f"time {time(best):.2f}, target {CHECKPOINT_TIME:.2f}, {show(time(best) <= CHECKPOINT_TIME)}"
        )

    columns = {
        "segment": lambda row: row["case"]["segment"],
        "fbp MiB": _measured("fbp", "MiB"),
        "jax.grad MiB": _measured("scan", "MiB"),
        "memory ratio": lambda row: f"{memory(row):.3f}",
        "time ratio": time,
        "25 - 75 %": lambda row: _times(row, _SCAN).interval,
        "time to jax.checkpoint": to_remat(lambda row, against: _times(row, against).median),
        "memory to jax.checkpoint": to_remat(_memory),
        "both targets": lambda row: memory(row) <= CHECKPOINT_MEMORY and time(row) <= CHECKPOINT_TIME,
    }
    verdicts = [verdict(*part) for part in _group(rows, "activation", "depth")]
    return "Checkpointed against jax.grad that keeps everything", columns, verdicts


def _compile(rows: Sequence[Row]) -> Parts:
    def verdict(version: str, label: str) -> str:
        first, last = rows[0], rows[-1]
        ratio = _compile_seconds(last, version) / _compile_seconds(first, version)
        return (
            f"{label}: depth {last['case']['depth']} takes {ratio:.2f} times depth {first['case']['depth']}, "
            f"target {FLAT:.2f}, {show(ratio <= FLAT)}"
        )

    columns = {
        "fbp s": lambda row: _compile_seconds(row, "fbp"),
        "jax.grad and scan s": lambda row: _compile_seconds(row, "scan"),
        "ratio": lambda row: _compile_seconds(row, "fbp") / _compile_seconds(row, "scan"),
    }
    return "Compile time over depth", columns, (verdict("fbp", "fbp"), verdict("scan", "jax.grad and scan"))


def _modes(rows: Sequence[Row]) -> Parts:
    loop, unrolled = "fbp loop", "fbp unrolled"

    def blocks(row: Row) -> int:
        return row["case"]["depth"] - 2

    def where(own: list[Row], holds: Callable[[Row], bool]) -> str:
        counts = [str(blocks(row)) for row in own if holds(row)]
        return f"{', '.join(counts)} blocks" if counts else "no depth"

    def verdict(network: tuple[str, int], own: list[Row]) -> str:
        activation, width = network
        slower = where(own, lambda row: _times(row, (unrolled,)).low > 1)
        sooner = where(own, lambda row: _compile_seconds(row, loop) < _compile_seconds(row, unrolled))
        return f"{activation}, width {width}: the loop's step is slower at {slower}; it compiles sooner at {sooner}"

    columns = {
        "equal blocks": blocks,
        "loop ms": _measured(loop, "ms"),
        "unrolled ms": _measured(unrolled, "ms"),
        "time ratio": lambda row: _times(row, (unrolled,)).median,
        "25 - 75 %": lambda row: _times(row, (unrolled,)).interval,
        "memory ratio": lambda row: _memory(row, (unrolled,), loop),
        "loop compile s": lambda row: _compile_seconds(row, loop),
        "unrolled compile s": lambda row: _compile_seconds(row, unrolled),
    }
    verdicts = [verdict(*part) for part in _group(rows, "activation", "width")]
    return "fbp's two modes: one compiled loop, or unrolled", columns, verdicts


MAKERS: dict[str, tuple[Callable[[Sequence[Row]], Parts], ...]] = {
    "step": (_step_time, _step_memory),
    "memory": (_memory_table,),
    "checkpoint": (_checkpoint,),
    "compile": (_compile,),
    "modes": (_modes,),
}


class _Times(NamedTuple):
    """The ratio of a step's time to that of an opponent: the median and quantiles."""

    opponent: str
    median: float
    low: float
    high: float

    @property
    def interval(self) -> str:
        return f"{self.low:.2f} - {self.high:.2f}"


def _times(row: Row, against: Sequence[str] = _AUTODIFF) -> _Times:
    """The ratio to the quickest of the named versions."""
    present = [name for name in against if name in row["time_ratios"]]
    opponent = min(present, key=lambda name: row["versions"][name]["step_seconds"])
    return _Times(opponent, **row["time_ratios"][opponent])


def _memory(row: Row, against: Sequence[str] = _AUTODIFF, ours: str = "fbp") -> float:
    """The ratio to the leanest of the named versions."""
    own = row["versions"][ours]["temporary_bytes"]
    leanest = min(row["versions"][name]["temporary_bytes"] for name in against if name in row["versions"])
    if own == leanest:
        return 1.0
    return own / leanest if leanest else float("inf")


def _compile_seconds(row: Row, version: str) -> float:
    return row["versions"][version]["compile_seconds"]


def _count(row: Row, version: str, count: str) -> float | None:
    return row["versions"].get(version, {}).get(count)


def _measured(version: str, unit: str) -> Column:
    """A column of numbers of a version; empty in rows without the version."""
    count, scale = _UNITS[unit]
    return lambda row: None if (value := _count(row, version, count)) is None else number(value * scale, digits=3)


def _versions(unit: str) -> dict[str, Column]:
    return {f"{version} {unit}": _measured(version, unit) for version in ("fbp", *_AUTODIFF)}


def _group(rows: Sequence[Row], *names: str) -> list[tuple[Any, list[Row]]]:
    return sorted(group(rows, lambda row: tuple(row["case"][name] for name in names)).items())
