"""A comparison for people: the terminal's table, plain text, and a notebook's HTML, all from one definition."""

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fbp.verify.comparison import Comparison
    from fbp.verify.cost import CostComparison

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


def as_text(comparison: "Comparison") -> str:
    """The table without colours, 96 characters wide."""
    console = Console(file=io.StringIO(), width=96, color_system=None)
    console.print(comparison)
    return console.file.getvalue()  # type: ignore[attr-defined]


def as_html(comparison: "Comparison") -> str:
    """The table for a notebook."""
    console = Console(file=io.StringIO(), width=96, record=True, force_jupyter=False)
    console.print(comparison)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")
