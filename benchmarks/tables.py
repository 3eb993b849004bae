"""Rows as tables and verdicts, for the terminal and for Markdown. Every verdict is computed from the rows."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from results import Row
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

MEMORY_TARGETS = {"tanh": 0.55, "sigmoid": 0.55, "gelu": 0.30, "silu": 0.30}
"""Temporary memory over that of `jax.grad`, at depth 128 and more; other activations have no target."""
CHECKPOINT_MEMORY = 0.10
CHECKPOINT_TIME = 1.35
FLAT = 1.5
"""Compile time is flat if the deepest network takes at most this many times as long as the shallowest one."""

_SCAN, _AUTODIFF = ("scan",), ("scan", "unrolled")
_NETWORK = "network (width x depth, batch)"
_MIB = 2**20


@dataclass(frozen=True)
class Table:
    """A title, cells as text, and the conclusions.

    Attributes:
        title: one line.
        headings: one per column.
        cells: one tuple per row.
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
            table.add_column(heading, justify="left" if heading == _NETWORK else "right")
        for cells in self.cells:
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """A heading, the table and the verdicts as a list."""
        lines = [_line(self.headings), _line([":---", *["---:"] * (len(self.headings) - 1)]), *map(_line, self.cells)]
        verdicts = [f"- {verdict}" for verdict in self.verdicts]
        return "\n".join([f"### {self.title}", "", *lines, *(["", *verdicts] if verdicts else [])])


def tables(rows: Iterable[Row]) -> list[Table]:
    """The tables of each kind of row that is present, in the order of `MAKERS`."""
    rows = list(rows)
    by_kind = {kind: [row for row in rows if row["table"] == kind] for kind in MAKERS}
    return [make(own) for kind, own in by_kind.items() if own for make in MAKERS[kind]]


def _table(title: str, rows: Sequence[Row], columns: dict[str, Callable[[Row], str]], *verdicts: str) -> Table:
    columns = {_NETWORK: _network, **columns}
    return Table(title, tuple(columns), tuple(tuple(cell(row) for cell in columns.values()) for row in rows), verdicts)


def _step_time(rows: Sequence[Row]) -> Table:
    best = [_times(row) for row in rows]
    columns = {
        **{f"{name} ms": _count(name, "step_seconds", 1e3) for name in ("fbp", *_AUTODIFF)},
        "quickest jax.grad": lambda row: _times(row).opponent,
        "ratio": lambda row: f"{_times(row).ratio:.2f}",
        "25 - 75 %": lambda row: _times(row).interval,
        "error": lambda row: f"{row['error']:.0e}",
    }
    return _table(
        "Time of one gradient step",
        rows,
        columns,
        f"median ratio {statistics.median(b.ratio for b in best):.2f} over {len(rows)} rows, "
        f"from {min(b.ratio for b in best):.2f} to {max(b.ratio for b in best):.2f}",
        f"fbp quicker (the interval below 1) in {sum(b.high < 1 for b in best)} of {len(rows)} rows, "
        f"slower (above 1) in {sum(b.low > 1 for b in best)}, level in the rest",
    )


def _step_memory(rows: Sequence[Row]) -> Table:
    def operations(row: Row) -> str:
        ours, theirs = (row["versions"].get(name, {}).get("flops") for name in ("fbp", "unrolled"))
        return f"{ours / theirs:.2f}" if ours and theirs else ""

    ratios = [_memory(row).ratio for row in rows]
    columns = {
        **_MEMORY_COLUMNS,
        "ratio to leanest": lambda row: f"{_memory(row).ratio:.2f}",
        **{f"{name} compile s": _count(name, "compile_seconds") for name in ("fbp", *_AUTODIFF)},
        "operations to unrolled": operations,
    }
    return _table(
        "Temporary memory, compile time and operations of the same steps",
        rows,
        columns,
        f"memory: median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}; "
        f"fbp needs more in {sum(ratio > 1 for ratio in ratios)} of {len(rows)} rows",
    )


def _memory_table(rows: Sequence[Row]) -> Table:
    def target(row: Row) -> float | None:
        return MEMORY_TARGETS.get(row["case"]["activation"])

    def reached(against: Sequence[str]) -> Callable[[Row], str]:
        return lambda row: "" if (goal := target(row)) is None else _reached(_memory(row, against).ratio <= goal)

    def verdict(activation: str, goal: float) -> str:
        own = [row for row in rows if row["case"]["activation"] == activation]
        scan, best = (max(_memory(row, against).ratio for row in own) for against in (_SCAN, _AUTODIFF))
        return (
            f"{activation}, target {goal:.2f}: largest ratio to scan {scan:.2f}, {_reached(scan <= goal)}; "
            f"to the leaner of scan and unrolled {best:.2f}, {_reached(best <= goal)}"
        )

    present = {row["case"]["activation"] for row in rows}
    columns = {
        **_MEMORY_COLUMNS,
        "to scan": lambda row: f"{_memory(row, _SCAN).ratio:.2f}",
        "to leanest": lambda row: f"{_memory(row).ratio:.2f}",
        "target": lambda row: "" if (goal := target(row)) is None else f"{goal:.2f}",
        "against scan": reached(_SCAN),
        "against leanest": reached(_AUTODIFF),
    }
    verdicts = (verdict(a, goal) for a, goal in MEMORY_TARGETS.items() if a in present)
    return _table("Temporary memory of deep networks", rows, columns, *verdicts)


def _checkpoint(rows: Sequence[Row]) -> Table:
    remat = ("jax.checkpoint",)

    def memory(row: Row) -> float:
        return _memory(row, _SCAN).ratio

    def time(row: Row) -> float:
        return _times(row, _SCAN).ratio

    def to_remat(ratio: Callable[..., _Ratio]) -> Callable[[Row], str]:
        return lambda row: f"{ratio(row, remat).ratio:.2f}" if remat[0] in row["versions"] else ""

    def verdict(key: tuple[str, int], own: list[Row]) -> str:
        lean = [row for row in own if memory(row) <= CHECKPOINT_MEMORY]
        # The quickest of those that are lean enough; if none is, the leanest.
        best = min(lean, key=time) if lean else min(own, key=memory)
        return (
            f"{key[0]}, depth {key[1]}: best segment {best['case']['segment']}; "
            f"memory {memory(best):.3f}, target {CHECKPOINT_MEMORY:.2f}, {_reached(bool(lean))}; "
            f"time {time(best):.2f}, target {CHECKPOINT_TIME:.2f}, {_reached(time(best) <= CHECKPOINT_TIME)}"
        )

    columns = {
        "segment": lambda row: str(row["case"]["segment"]),
        "fbp MiB": _MEMORY_COLUMNS["fbp MiB"],
        "jax.grad MiB": _MEMORY_COLUMNS["scan MiB"],
        "memory ratio": lambda row: f"{memory(row):.3f}",
        "time ratio": lambda row: f"{time(row):.2f}",
        "25 - 75 %": lambda row: _times(row, _SCAN).interval,
        "time to jax.checkpoint": to_remat(_times),
        "memory to jax.checkpoint": to_remat(_memory),
        "both targets": lambda row: _reached(memory(row) <= CHECKPOINT_MEMORY and time(row) <= CHECKPOINT_TIME),
    }
    groups = _group(rows, "activation", "depth")
    return _table(
        "Checkpointed against jax.grad that keeps everything", rows, columns, *(verdict(*group) for group in groups)
    )


def _compile(rows: Sequence[Row]) -> Table:
    def seconds(name: str, row: Row) -> float:
        return row["versions"][name]["compile_seconds"]

    def verdict(name: str, label: str) -> str:
        ratio = seconds(name, rows[-1]) / seconds(name, rows[0])
        first, last = (row["case"]["depth"] for row in (rows[0], rows[-1]))
        reached = _reached(ratio <= FLAT)
        return f"{label}: depth {last} takes {ratio:.2f} times depth {first}, target {FLAT:.2f}, {reached}"

    columns = {
        "fbp s": lambda row: f"{seconds('fbp', row):.2f}",
        "jax.grad and scan s": lambda row: f"{seconds('scan', row):.2f}",
        "ratio": lambda row: f"{seconds('fbp', row) / seconds('scan', row):.2f}",
    }
    return _table("Compile time over depth", rows, columns, verdict("fbp", "fbp"), verdict("scan", "jax.grad and scan"))


def _modes(rows: Sequence[Row]) -> Table:
    loop, unrolled = "fbp loop", "fbp unrolled"

    def blocks(row: Row) -> int:
        return row["case"]["depth"] - 2

    def verdict(kind: tuple[str, int], own: list[Row]) -> str:
        slower = _blocks([blocks(row) for row in own if row["time_ratios"][unrolled]["low"] > 1])
        seconds = lambda row, name: row["versions"][name]["compile_seconds"]
        sooner = _blocks([blocks(row) for row in own if seconds(row, loop) < seconds(row, unrolled)])
        return f"{kind[0]}, width {kind[1]}: the loop's step is slower at {slower}; it compiles sooner at {sooner}"

    columns = {
        "equal blocks": lambda row: str(blocks(row)),
        "loop ms": _count(loop, "step_seconds", 1e3),
        "unrolled ms": _count(unrolled, "step_seconds", 1e3),
        "time ratio": lambda row: f"{_times(row, (unrolled,)).ratio:.2f}",
        "25 - 75 %": lambda row: _times(row, (unrolled,)).interval,
        "memory ratio": lambda row: f"{_memory(row, (unrolled,), loop).ratio:.2f}",
        "loop compile s": lambda row: f"{row['versions'][loop]['compile_seconds']:.2f}",
        "unrolled compile s": lambda row: f"{row['versions'][unrolled]['compile_seconds']:.2f}",
    }
    groups = _group(rows, "activation", "width")
    return _table(
        "fbp's two modes: one compiled loop, or unrolled", rows, columns, *(verdict(*group) for group in groups)
    )


MAKERS: dict[str, tuple[Callable[[Sequence[Row]], Table], ...]] = {
    "step": (_step_time, _step_memory),
    "memory": (_memory_table,),
    "checkpoint": (_checkpoint,),
    "compile": (_compile,),
    "modes": (_modes,),
}


@dataclass(frozen=True)
class _Ratio:
    opponent: str
    ratio: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def interval(self) -> str:
        return f"{self.low:.2f} - {self.high:.2f}"


def _times(row: Row, against: Sequence[str] = _AUTODIFF) -> _Ratio:
    """The ratio to the quickest of the named versions."""
    ratios = row["time_ratios"]
    opponent = min((n for n in against if n in ratios), key=lambda n: row["versions"][n]["step_seconds"])
    return _Ratio(opponent, ratios[opponent]["median"], ratios[opponent]["low"], ratios[opponent]["high"])


def _memory(row: Row, against: Sequence[str] = _AUTODIFF, ours: str = "fbp") -> _Ratio:
    """The ratio to the leanest of the named versions."""
    bytes_ = {name: version["temporary_bytes"] for name, version in row["versions"].items()}
    opponent = min((n for n in against if n in bytes_), key=bytes_.__getitem__)
    if bytes_[ours] == bytes_[opponent]:
        return _Ratio(opponent, 1.0)
    return _Ratio(opponent, bytes_[ours] / bytes_[opponent] if bytes_[opponent] else float("inf"))


def _group(rows: Sequence[Row], *names: str) -> list[tuple[Any, list[Row]]]:
    key = lambda row: tuple(row["case"][name] for name in names)
    return [(values, list(own)) for values, own in groupby(sorted(rows, key=key), key)]


def _network(row: Row) -> str:
    return "{activation} {width} x {depth}, {batch}".format_map(row["case"])


def _count(version: str, count: str, scale: float = 1.0) -> Callable[[Row], str]:
    """A column of numbers of a version; empty in rows without the version."""
    return lambda row: _number(row["versions"][version][count] * scale) if version in row["versions"] else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


_MEMORY_COLUMNS = {f"{name} MiB": _count(name, "temporary_bytes", 1 / _MIB) for name in ("fbp", *_AUTODIFF)}


def _blocks(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} blocks" if counts else "no depth"


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(rows: list[Row]) -> str:
    """Every table as Markdown."""
    return "\n\n".join(table.markdown() for table in tables(rows))
