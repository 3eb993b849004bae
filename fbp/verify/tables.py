"""Results for people: the terminal's table, plain text, and a notebook's HTML, all from one definition."""

import io
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fbp.verify.opinion import JUDGES, worst

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fbp.cost import CostComparison
    from fbp.verify.comparison import Comparison
    from fbp.verify.conform.report import Conformance
    from fbp.verify.mutations import MutationReport
    from fbp.verify.result import EquationVerdict, LeafVerdict, Verification

_STYLE = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}


def comparison_table(comparison: "Comparison") -> Group:
    """The leaves, the costs and the verdict, as something that rich prints."""
    leaves = Table(
        title="hand-written gradient against jax.grad", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    leaves.add_column("leaf", no_wrap=True)
    leaves.add_column("verdict", no_wrap=True)
    for heading in ("rel. error", "float64", "eps", "cosine", "ratio"):
        leaves.add_column(heading, justify="right", no_wrap=True)
    for leaf in comparison.leaves:
        auto, exact = leaf.against_autodiff, leaf.against_float64
        leaves.add_row(
            Text(leaf.path),
            Text(leaf.verdict, style=_STYLE[leaf.verdict]),
            f"{auto.relative_error:.1e}",
            f"{exact.relative_error:.1e}",
            f"{leaf.epsilons:.2g}",
            f"{auto.cosine:.6f}",
            f"{auto.norm_ratio:.6f}",
        )
    hints = [Text(f"{leaf.path}: {leaf.hint}", style=_STYLE[leaf.verdict]) for leaf in comparison.leaves if leaf.hint]
    parts: list[Table | Text] = [leaves, *hints]
    if comparison.cost is not None:
        parts.append(_cost_table(comparison.cost))
    passed = sum(leaf.verdict == "PASS" for leaf in comparison.leaves)
    summary = f"{comparison.verdict}: {passed} of {len(comparison.leaves)} leaves pass, on {comparison.device}"
    parts.append(Text(summary, style=_STYLE[comparison.verdict]))
    return Group(*parts)


def _cost_table(cost: "CostComparison") -> Table:
    table = Table(title="cost of one value and gradient", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("hand-written", "jax.grad", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    a, b = cost.manual, cost.autodiff
    rows = (
        ("compile", f"{a.compile_seconds:.2f} s", f"{b.compile_seconds:.2f} s", cost.compile_ratio),
        ("step", f"{1e3 * a.step_seconds:.3f} ms", f"{1e3 * b.step_seconds:.3f} ms", cost.step_ratio),
        ("operations", f"{a.flops:.3g}", f"{b.flops:.3g}", cost.flops_ratio),
        (
            "temporary memory",
            f"{a.temporary_bytes / 2**20:.3f} MiB",
            f"{b.temporary_bytes / 2**20:.3f} MiB",
            cost.memory_ratio,
        ),
    )
    for name, first, second, ratio in rows:
        table.add_row(name, first, second, f"{ratio:.2f}")
    return table


_LAYERS_SHOWN = 16
_WHOLE = "(argument)"


def verification_table(found: "Verification") -> Group:
    """The leaves with what each judge says, the equations, and the verdict."""
    # Narrow enough for a terminal of 80 columns.
    narrow = (0, 1, 0, 0)
    table = Table(title=found.subject, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=narrow)
    table.add_column("leaf", overflow="fold", min_width=8)
    table.add_column("verdict", no_wrap=True)
    for heading in ("error", "eps", "cosine", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for judge in JUDGES:
        table.add_column(_SHORT_NAMES.get(judge, judge), no_wrap=True)
    for leaf in found.leaves:
        said = (leaf.said_by(judge) for judge in JUDGES)
        opinions = (Text(_SHORT[o.verdict], style=_STYLE[o.verdict]) if o else Text("") for o in said)
        table.add_row(
            Text(leaf.path or _WHOLE), Text(leaf.verdict, style=_STYLE[leaf.verdict]), *_numbers(leaf), *opinions
        )
    lines = [line for leaf in found.leaves for line in _remarks(leaf.path or _WHOLE, leaf)]
    failed = [each for each in found.equations if each.verdict == "FAIL"]
    lines += [line for each in failed for line in _remarks(f"{each.layer}: {each.quantity}", each.leaf)]
    parts: list[Table | Text] = [table, *lines]
    if found.equations and len({each.layer for each in found.equations}) <= _LAYERS_SHOWN:
        parts.append(_equations_table(found.equations))
    passed = sum(leaf.verdict == "PASS" for leaf in found.leaves)
    summary = f"{found.verdict}: {passed} of {len(found.leaves)} leaves pass"
    if found.equations:
        right = sum(each.verdict == "PASS" for each in found.equations)
        summary += f", {right} of {len(found.equations)} equations"
    parts.append(Text(f"{summary}, on {found.device}", style=_STYLE[found.verdict]))
    return Group(*parts)


_SHORT_NAMES = {"differences": "differ."}
_SHORT = {"PASS": "pass", "FAIL": "FAIL", "INCONCLUSIVE": "silent"}


def _numbers(leaf: "LeafVerdict") -> tuple[str, ...]:
    d = leaf.difference
    if d is None:
        return ("", "", "", "")
    return f"{d.relative_error:.1e}", f"{leaf.epsilons:.2g}", f"{d.cosine:.4f}", f"{d.norm_ratio:.4g}"


def _remarks(name: str, leaf: "LeafVerdict") -> list[Text]:
    texts = [text for text in (leaf.hint, leaf.reason, leaf.note) if text]
    return [Text(f"{name}: {'; '.join(texts)}", style=_STYLE[leaf.verdict])] if texts else []


def _equations_table(equations: "tuple[EquationVerdict, ...]") -> Table:
    table = Table(title="equation by equation", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    by_layer: dict[str, list[Text]] = {}
    for each in equations:
        d = each.leaf.difference
        error = "" if d is None else f" {d.relative_error:.0e}"
        mark = "" if each.verdict == "PASS" else f" {each.verdict}"
        by_layer.setdefault(each.layer, []).append(Text(f"{each.quantity}{error}{mark}", style=_STYLE[each.verdict]))
    width = max(map(len, by_layer.values()))
    for _ in range(width):
        table.add_column("", no_wrap=True)
    for layer, cells in by_layer.items():
        table.add_row(Text(layer), *cells, *[""] * (width - len(cells)))
    return table


def mutation_table(found: "MutationReport") -> Group:
    """The mutants with what each judge said."""
    legend = ", ".join(f"{letter} {judge}" for judge, letter in _LETTERS.items())
    table = Table(
        title=f"faults injected, killed by {legend}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading, narrowest in (("fault", 12), ("place", 9), ("state", 10), ("by", 7)):
        table.add_column(heading, min_width=narrowest, overflow="fold")
    table.add_column("found", no_wrap=True, overflow="ellipsis")
    for each in found.mutants:
        kills = " ".join(letter if each.judges.get(judge) == "FAIL" else "." for judge, letter in _LETTERS.items())
        state = Text(each.state, style=_STATE_STYLE[each.state])
        table.add_row(each.fault, each.place, state, kills if each.judges else "", Text(each.found))
    counts = {state: sum(each.state == state for each in found.mutants) for state in _STATE_STYLE}
    kills = ", ".join(
        f"{judge} {sum(each.judges.get(judge) == 'FAIL' for each in found.mutants)}" for judge in _LETTERS
    )
    effective = counts["killed"] + counts["survived"]
    summary = f"{counts['killed']} of {effective} effective faults killed ({kills}); {counts['equivalent']} equivalent"
    return Group(table, Text(summary, style="green" if not counts["survived"] else "bold red"))


_LETTERS = dict(zip((*JUDGES, "equations"), "ADJE", strict=True))
_STATE_STYLE = {"killed": "green", "survived": "bold red", "equivalent": "dim"}


def conformance_table(found: "Conformance") -> Group:
    """The rows of a conformance report, and how many there are of each verdict."""
    table = Table(title=f"conformance of {found.op}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("detail")
    for row in found.rows:
        table.add_row(row.name, Text(row.verdict, style=_ROW_STYLE[row.verdict]), Text(row.detail))
    counts = {verdict: sum(row.verdict == verdict for row in found.rows) for verdict in _ROW_STYLE}
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    return Group(table, Text(f"{found.verdict}: {told}, on {found.device}", style=_ROW_STYLE[found.verdict]))


_ROW_STYLE = {"PASS": "green", "FAIL": "bold red", "NOTE": "cyan", "SKIP": "yellow"}


def builtin_table(found: "Mapping[str, Verification]") -> Group:
    """One row a network, those in full that do not pass, and the verdict."""
    table = Table(title="built-in networks", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for heading in ("leaves", "equations", "rel. error", "in eps"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name, one in found.items():
        leaves = [leaf for leaf in one.leaves if leaf.difference is not None and not leaf.is_zero]
        cells = sum(each.verdict == "PASS" for each in one.equations)
        table.add_row(
            name,
            f"{sum(leaf.verdict == 'PASS' for leaf in one.leaves)}/{len(one.leaves)}",
            f"{cells}/{len(one.equations)}",
            f"{max(leaf.difference.relative_error for leaf in leaves if leaf.difference):.1e}",
            f"{max(leaf.epsilons for leaf in leaves):.2g}",
            Text(one.verdict, style=_STYLE[one.verdict]),
        )
    verdict = worst(one.verdict for one in found.values())
    failed = [part for name, one in found.items() if one.verdict != "PASS" for part in (Text(f"\n{name}"), one)]
    passed = sum(one.verdict == "PASS" for one in found.values())
    summary = Text(f"{verdict}: {passed} of {len(found)} networks pass", style=_STYLE[verdict])
    return Group(table, *failed, summary)


def as_text(found: Any) -> str:
    """What rich prints, without colours, 110 characters wide."""
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(found)
    return console.file.getvalue()  # type: ignore[attr-defined]


def as_html(found: Any) -> str:
    """What rich prints, for a notebook."""
    console = Console(file=io.StringIO(), width=110, record=True, force_jupyter=False)
    console.print(found)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
