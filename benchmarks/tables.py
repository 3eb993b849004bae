"""Rows as tables and verdicts, for the terminal and for Markdown. Every verdict is computed from the rows."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

Row = dict[str, Any]

MEMORY_TARGETS = {"tanh": 0.55, "sigmoid": 0.55, "gelu": 0.30, "silu": 0.30}
"""Temporary memory over that of `jax.grad`, at depth 128 and more; activations that are not here have no target."""
CHECKPOINT_MEMORY = 0.10
CHECKPOINT_TIME = 1.35
FLAT = 1.5
"""Compile time is flat where the slowest depth takes at most this many times the quickest one."""

_MIB = 2**20


@dataclass(frozen=True)
class Table:
    """A title, cells as text, and what follows from them.

    Attributes:
        title: one line.
        headings: one a column.
        cells: one tuple a row.
        verdicts: sentences, each a target beside what was measured.
    """

    title: str
    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    verdicts: tuple[str, ...]

    def __rich__(self) -> RichTable:
        table = RichTable(
            title=self.title,
            caption="\n".join(self.verdicts),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title_justify="left",
        )
        table.caption_justify = "left"
        for heading in self.headings:
            table.add_column(heading, justify="right")
        for cells in self.cells:
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """A heading, the table and the verdicts as a list."""
        lines = [_line(self.headings), _line(["---:"] * len(self.headings)), *map(_line, self.cells)]
        verdicts = [f"- {verdict}" for verdict in self.verdicts]
        return "\n".join([f"### {self.title}", "", *lines, *(["", *verdicts] if verdicts else [])])


def tables(rows: Iterable[Row]) -> list[Table]:
    """One table for each kind of row that is there, in the order of `MAKERS`."""
    rows = list(rows)
    found = {name: [row for row in rows if row["table"] == name] for name in MAKERS}
    return [MAKERS[name](of_table) for name, of_table in found.items() if of_table]


def _step(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        ours, times, memory = row["versions"]["fbp"], _times(row), _memory(row)
        opponent = row["versions"][times.opponent]
        operations = [ours["flops"], opponent["flops"]]
        return (
            *_shape(row),
            f"{1e3 * ours['step_seconds']:.3g}",
            times.opponent,
            f"{1e3 * opponent['step_seconds']:.3g}",
            f"{times.ratio:.2f}",
            f"{times.low:.2f} - {times.high:.2f}",
            _mebibytes(ours),
            memory.opponent,
            f"{memory.ratio:.2f}",
            f"{ours['compile_seconds'] / opponent['compile_seconds']:.2f}",
            "" if None in operations else f"{operations[0] / operations[1]:.2f}",
            f"{row['error']:.0e}",
        )

    times, memory = [_times(row) for row in rows], [_memory(row) for row in rows]
    return Table(
        "Time, memory and compile time of one gradient step",
        (
            *("activation", "width", "depth", "batch", "fbp ms", "best jax.grad", "ms", "time ratio", "25 - 75 %"),
            *("fbp MiB", "leanest jax.grad", "memory ratio", "compile ratio", "operations", "error"),
        ),
        tuple(map(cells, rows)),
        (
            f"time: median ratio {statistics.median(t.ratio for t in times):.2f} over {len(rows)} rows, "
            f"from {min(t.ratio for t in times):.2f} to {max(t.ratio for t in times):.2f}; "
            f"fbp quicker (the interval below 1) in {sum(t.high < 1 for t in times)}, "
            f"slower (above 1) in {sum(t.low > 1 for t in times)}",
            f"memory: median ratio {statistics.median(m.ratio for m in memory):.2f}, "
            f"from {min(m.ratio for m in memory):.2f} to {max(m.ratio for m in memory):.2f}; "
            f"fbp needs more in {sum(m.ratio > 1 for m in memory)} of {len(rows)} rows",
        ),
    )


def _memory_table(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        v, best = row["versions"], _memory(row)
        target = MEMORY_TARGETS.get(row["case"]["activation"])
        over_scan = _memory(row, against=("scan",)).ratio
        return (
            *_shape(row),
            _mebibytes(v["fbp"]),
            _mebibytes(v["scan"]),
            _mebibytes(v["unrolled"]) if "unrolled" in v else "",
            f"{over_scan:.2f}",
            f"{best.ratio:.2f}",
            "" if target is None else f"{target:.2f}",
            *("" if target is None else _reached(ratio <= target) for ratio in (over_scan, best.ratio)),
        )

    def verdict(activation: str, target: float) -> str:
        own = [row for row in rows if row["case"]["activation"] == activation]
        scan = max(_memory(row, against=("scan",)).ratio for row in own)
        best = max(_memory(row).ratio for row in own)
        return (
            f"{activation}, target {target:.2f}: largest ratio to scan {scan:.2f}, {_reached(scan <= target)}; "
            f"to the leaner of scan and unrolled {best:.2f}, {_reached(best <= target)}"
        )

    there = {row["case"]["activation"] for row in rows}
    return Table(
        "Temporary memory of deep networks",
        (
            *("activation", "width", "depth", "batch", "fbp MiB", "scan MiB", "unrolled MiB", "to scan", "to leanest"),
            *("target", "against scan", "against leanest"),
        ),
        tuple(map(cells, rows)),
        tuple(verdict(a, target) for a, target in MEMORY_TARGETS.items() if a in there),
    )


def _checkpoint(rows: Sequence[Row]) -> Table:
    def reached(row: Row) -> bool:
        return _memory(row, ("scan",)).ratio <= CHECKPOINT_MEMORY and _times(row, ("scan",)).ratio <= CHECKPOINT_TIME

    def cells(row: Row) -> tuple[str, ...]:
        v, case = row["versions"], row["case"]
        times, remat = _times(row, ("scan",)), "jax.checkpoint"
        to_remat = (
            [f"{_times(row, (remat,)).ratio:.2f}", f"{_memory(row, (remat,)).ratio:.2f}"] if remat in v else ["", ""]
        )
        return (
            *_shape(row),
            str(case["segment"]),
            _mebibytes(v["fbp"]),
            _mebibytes(v["scan"]),
            f"{_memory(row, ('scan',)).ratio:.3f}",
            f"{times.ratio:.2f}",
            f"{times.low:.2f} - {times.high:.2f}",
            *to_remat,
            _reached(reached(row)),
        )

    def verdict(key: tuple[str, int], own: list[Row]) -> str:
        lean = [row for row in own if _memory(row, ("scan",)).ratio <= CHECKPOINT_MEMORY]
        # Among those that are lean enough the quickest; where none is, the leanest.
        best = (
            min(lean, key=lambda row: _times(row, ("scan",)).ratio)
            if lean
            else min(own, key=lambda row: _memory(row, ("scan",)).ratio)
        )
        memory, times = _memory(best, ("scan",)).ratio, _times(best, ("scan",)).ratio
        return (
            f"{key[0]}, depth {key[1]}: best segment {best['case']['segment']}; "
            f"memory {memory:.3f}, target {CHECKPOINT_MEMORY:.2f}, {_reached(memory <= CHECKPOINT_MEMORY)}; "
            f"time {times:.2f}, target {CHECKPOINT_TIME:.2f}, {_reached(times <= CHECKPOINT_TIME)}"
        )

    return Table(
        "Checkpointed against jax.grad that keeps everything",
        (
            *("activation", "width", "depth", "batch", "segment", "fbp MiB", "jax.grad MiB", "memory ratio"),
            *("time ratio", "25 - 75 %", "time to jax.checkpoint", "memory to jax.checkpoint", "both targets"),
        ),
        tuple(map(cells, rows)),
        tuple(
            verdict(key, own)
            for key, own in _grouped(rows, lambda row: (row["case"]["activation"], row["case"]["depth"]))
        ),
    )


def _compile(rows: Sequence[Row]) -> Table:
    def seconds(name: str) -> list[float]:
        return [row["versions"][name]["compile_seconds"] for row in rows]

    def verdict(name: str, label: str) -> str:
        ratio = max(seconds(name)) / min(seconds(name))
        reached = _reached(ratio <= FLAT)
        return f"{label}: the slowest depth takes {ratio:.2f} times the quickest, target {FLAT:.2f}, {reached}"

    return Table(
        "Compile time over depth",
        ("activation", "width", "depth", "batch", "fbp s", "jax.grad and scan s", "ratio"),
        tuple(
            (*_shape(row), f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")
            for row, ours, theirs in zip(rows, seconds("fbp"), seconds("scan"), strict=True)
        ),
        (verdict("fbp", "fbp"), verdict("scan", "jax.grad and scan")),
    )


def _modes(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        loop, unrolled = row["versions"]["fbp loop"], row["versions"]["fbp unrolled"]
        times = row["time_ratios"]["fbp unrolled"]
        return (
            *_shape(row),
            str(row["case"]["depth"] - 2),
            f"{1e3 * loop['step_seconds']:.3g}",
            f"{1e3 * unrolled['step_seconds']:.3g}",
            f"{times['median']:.2f}",
            f"{times['low']:.2f} - {times['high']:.2f}",
            f"{_memory(row, ('fbp unrolled',), 'fbp loop').ratio:.2f}",
            f"{loop['compile_seconds']:.2f}",
            f"{unrolled['compile_seconds']:.2f}",
        )

    def verdict(width: int, own: list[Row]) -> str:
        slower = [row["case"]["depth"] - 2 for row in own if row["time_ratios"]["fbp unrolled"]["low"] > 1]
        sooner = [
            row["case"]["depth"] - 2
            for row in own
            if row["versions"]["fbp loop"]["compile_seconds"] < row["versions"]["fbp unrolled"]["compile_seconds"]
        ]
        return f"width {width}: the loop's step is slower at {_blocks(slower)}; it compiles sooner at {_blocks(sooner)}"

    return Table(
        "fbp's two modes: one compiled loop, or unrolled",
        (
            *("activation", "width", "depth", "batch", "equal blocks", "loop ms", "unrolled ms", "time ratio"),
            *("25 - 75 %", "memory ratio", "loop compile s", "unrolled compile s"),
        ),
        tuple(map(cells, rows)),
        tuple(verdict(width, own) for width, own in _grouped(rows, lambda row: row["case"]["width"])),
    )


MAKERS: dict[str, Callable[[Sequence[Row]], Table]] = {
    "step": _step,
    "memory": _memory_table,
    "checkpoint": _checkpoint,
    "compile": _compile,
    "modes": _modes,
}


@dataclass(frozen=True)
class _Ratio:
    opponent: str
    ratio: float
    low: float = float("nan")
    high: float = float("nan")


def _times(row: Row, against: Sequence[str] = ("scan", "unrolled")) -> _Ratio:
    """Against the quickest of the named ones."""
    ratios = row["time_ratios"]
    opponent = min((n for n in against if n in ratios), key=lambda n: row["versions"][n]["step_seconds"])
    return _Ratio(opponent, ratios[opponent]["median"], ratios[opponent]["low"], ratios[opponent]["high"])


def _memory(row: Row, against: Sequence[str] = ("scan", "unrolled"), ours: str = "fbp") -> _Ratio:
    """Against the leanest of the named ones."""
    bytes_ = {name: version["temporary_bytes"] for name, version in row["versions"].items()}
    opponent = min((n for n in against if n in bytes_), key=bytes_.__getitem__)
    if bytes_[ours] == bytes_[opponent]:
        return _Ratio(opponent, 1.0)
    return _Ratio(opponent, bytes_[ours] / bytes_[opponent] if bytes_[opponent] else float("inf"))


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    return [(name, list(own)) for name, own in groupby(sorted(rows, key=key), key)]


def _shape(row: Row) -> tuple[str, ...]:
    return tuple(str(row["case"][name]) for name in ("activation", "width", "depth", "batch"))


def _mebibytes(version: dict[str, Any]) -> str:
    return f"{version['temporary_bytes'] / _MIB:.3g}"


def _blocks(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} blocks" if counts else "no depth"


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
