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
"""Temporary memory over that of `jax.grad`, at depth 128 and more; activations that are not here have no target."""
CHECKPOINT_MEMORY = 0.10
CHECKPOINT_TIME = 1.35
FLAT = 1.5
"""Compile time is flat where the deepest network takes at most this many times the shallowest one."""

_AUTODIFF = ("scan", "unrolled")
_NETWORK = "network (width x depth, batch)"
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
    """The tables of each kind of row that is there, in the order of `MAKERS`."""
    rows = list(rows)
    found = {kind: [row for row in rows if row["table"] == kind] for kind in MAKERS}
    return [make(own) for kind, own in found.items() if own for make in MAKERS[kind]]


def _step_time(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        best = _times(row)
        return (
            _network(row),
            *(_of(row, name, "step_seconds", 1e3) for name in ("fbp", *_AUTODIFF)),
            best.opponent,
            f"{best.ratio:.2f}",
            f"{best.low:.2f} - {best.high:.2f}",
            f"{row['error']:.0e}",
        )

    best = [_times(row) for row in rows]
    return Table(
        "Time of one gradient step",
        (_NETWORK, "fbp ms", "scan ms", "unrolled ms", "quickest jax.grad", "ratio", "25 - 75 %", "error"),
        tuple(map(cells, rows)),
        (
            f"median ratio {statistics.median(b.ratio for b in best):.2f} over {len(rows)} rows, "
            f"from {min(b.ratio for b in best):.2f} to {max(b.ratio for b in best):.2f}",
            f"fbp quicker (the interval below 1) in {sum(b.high < 1 for b in best)} of {len(rows)} rows, "
            f"slower (above 1) in {sum(b.low > 1 for b in best)}, level in the rest",
        ),
    )


def _step_memory(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        best = _memory(row)
        ours, theirs = (row["versions"].get(name, {}).get("flops") for name in ("fbp", "unrolled"))
        return (
            _network(row),
            *(_of(row, name, "temporary_bytes", 1 / _MIB) for name in ("fbp", *_AUTODIFF)),
            f"{best.ratio:.2f}",
            *(_of(row, name, "compile_seconds") for name in ("fbp", *_AUTODIFF)),
            f"{ours / theirs:.2f}" if ours and theirs else "",
        )

    ratios = [_memory(row).ratio for row in rows]
    return Table(
        "Temporary memory, compile time and operations of the same steps",
        (
            *(_NETWORK, "fbp MiB", "scan MiB", "unrolled MiB", "ratio to leanest"),
            *("fbp compile s", "scan compile s", "unrolled compile s", "operations to unrolled"),
        ),
        tuple(map(cells, rows)),
        (
            f"memory: median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}; "
            f"fbp needs more in {sum(ratio > 1 for ratio in ratios)} of {len(rows)} rows",
        ),
    )


def _memory_table(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        best = _memory(row)
        target = MEMORY_TARGETS.get(row["case"]["activation"])
        over_scan = _memory(row, against=("scan",)).ratio
        return (
            _network(row),
            _of(row, "fbp", "temporary_bytes", 1 / _MIB),
            _of(row, "scan", "temporary_bytes", 1 / _MIB),
            _of(row, "unrolled", "temporary_bytes", 1 / _MIB),
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
            *(_NETWORK, "fbp MiB", "scan MiB", "unrolled MiB", "to scan", "to leanest"),
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
            _network(row),
            str(case["segment"]),
            _of(row, "fbp", "temporary_bytes", 1 / _MIB),
            _of(row, "scan", "temporary_bytes", 1 / _MIB),
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
            *(_NETWORK, "segment", "fbp MiB", "jax.grad MiB", "memory ratio"),
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
        ratio, depths = seconds(name)[-1] / seconds(name)[0], [row["case"]["depth"] for row in (rows[0], rows[-1])]
        reached = _reached(ratio <= FLAT)
        return f"{label}: depth {depths[1]} takes {ratio:.2f} times depth {depths[0]}, target {FLAT:.2f}, {reached}"

    return Table(
        "Compile time over depth",
        (_NETWORK, "fbp s", "jax.grad and scan s", "ratio"),
        tuple(
            (_network(row), f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")
            for row, ours, theirs in zip(rows, seconds("fbp"), seconds("scan"), strict=True)
        ),
        (verdict("fbp", "fbp"), verdict("scan", "jax.grad and scan")),
    )


def _modes(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        loop, unrolled = row["versions"]["fbp loop"], row["versions"]["fbp unrolled"]
        times = row["time_ratios"]["fbp unrolled"]
        return (
            _network(row),
            str(row["case"]["depth"] - 2),
            _number(1e3 * loop["step_seconds"]),
            _number(1e3 * unrolled["step_seconds"]),
            f"{times['median']:.2f}",
            f"{times['low']:.2f} - {times['high']:.2f}",
            f"{_memory(row, ('fbp unrolled',), 'fbp loop').ratio:.2f}",
            f"{loop['compile_seconds']:.2f}",
            f"{unrolled['compile_seconds']:.2f}",
        )

    def verdict(kind: tuple[str, int], own: list[Row]) -> str:
        slower = [row["case"]["depth"] - 2 for row in own if row["time_ratios"]["fbp unrolled"]["low"] > 1]
        sooner = [
            row["case"]["depth"] - 2
            for row in own
            if row["versions"]["fbp loop"]["compile_seconds"] < row["versions"]["fbp unrolled"]["compile_seconds"]
        ]
        slower_at, sooner_at = _blocks(slower), _blocks(sooner)
        return (
            f"{kind[0]}, width {kind[1]}: the loop's step is slower at {slower_at}; it compiles sooner at {sooner_at}"
        )

    return Table(
        "fbp's two modes: one compiled loop, or unrolled",
        (
            *(_NETWORK, "equal blocks", "loop ms", "unrolled ms", "time ratio"),
            *("25 - 75 %", "memory ratio", "loop compile s", "unrolled compile s"),
        ),
        tuple(map(cells, rows)),
        tuple(
            verdict(kind, own)
            for kind, own in _grouped(rows, lambda row: (row["case"]["activation"], row["case"]["width"]))
        ),
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


def _times(row: Row, against: Sequence[str] = _AUTODIFF) -> _Ratio:
    """Against the quickest of the named ones."""
    ratios = row["time_ratios"]
    opponent = min((n for n in against if n in ratios), key=lambda n: row["versions"][n]["step_seconds"])
    return _Ratio(opponent, ratios[opponent]["median"], ratios[opponent]["low"], ratios[opponent]["high"])


def _memory(row: Row, against: Sequence[str] = _AUTODIFF, ours: str = "fbp") -> _Ratio:
    """Against the leanest of the named ones."""
    bytes_ = {name: version["temporary_bytes"] for name, version in row["versions"].items()}
    opponent = min((n for n in against if n in bytes_), key=bytes_.__getitem__)
    if bytes_[ours] == bytes_[opponent]:
        return _Ratio(opponent, 1.0)
    return _Ratio(opponent, bytes_[ours] / bytes_[opponent] if bytes_[opponent] else float("inf"))


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    return [(name, list(own)) for name, own in groupby(sorted(rows, key=key), key)]


def _network(row: Row) -> str:
    return "{activation} {width} x {depth}, {batch}".format_map(row["case"])


def _of(row: Row, version: str, count: str, scale: float = 1.0) -> str:
    """A number of a version; empty where the row does not have the version."""
    return _number(row["versions"][version][count] * scale) if version in row["versions"] else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _blocks(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} blocks" if counts else "no depth"


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(rows: list[Row]) -> str:
    """Every table as Markdown."""
    return "\n\n".join(table.markdown() for table in tables(rows))
