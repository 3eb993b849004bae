"""Sections that reports share: a comparison of gradients, and gradient norms over layers."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from fbp.flow import Flow, Verdict, verdict
from fbp.report.document import Figure, Table
from fbp.report.figures import Curve, panels
from fbp.verify import Verification


def comparison_tables(comparison: Verification) -> tuple[Table, ...]:
    """The leaves of a comparison, and what both gradients cost.

    Args:
        comparison: what `fbp.compare` found.
    """
    columns = ("path", "verdict", "relative_error_autodiff", "relative_error", "epsilons", "cosine", "norm_ratio")
    leaves = Table(
        "Each leaf of the hand-written gradient against jax.grad of the same forward pass in the same precision, and "
        "against jax.grad in float64. Errors are relative, in the Euclidean norm; eps is the rounding unit; cosine and "
        "norm ratio are against float64.",
        ("leaf", "verdict", "relative error", "against float64", "in eps", "cosine", "norm ratio"),
        tuple(tuple(leaf[name] for name in columns) for leaf in comparison.to_dict()["leaves"]),
    )
    cost = comparison.cost
    if cost is None:
        return (leaves,)
    a, b = cost.manual, cost.autodiff
    rows = (
        ("compile time (s)", a.compile_seconds, b.compile_seconds, cost.compile_ratio),
        ("step time (ms)", 1e3 * a.step_seconds, 1e3 * b.step_seconds, cost.step_ratio),
        ("floating-point operations (millions)", a.flops / 1e6, b.flops / 1e6, cost.flops_ratio),
        ("temporary memory (KiB)", a.temporary_bytes / 2**10, b.temporary_bytes / 2**10, cost.memory_ratio),
    )
    caption = "What one value and gradient costs, both measured in turn in one process; the ratio is ours over theirs."
    return leaves, Table(caption, ("", "hand-written", "jax.grad", "ratio"), rows)


def hidden_verdict(flow: Flow) -> Verdict:
    """The verdict on dZ over the hidden layers: the last layer has another width."""
    return verdict(flow.log10.dZ[0][:, :-1])


def theory_rate(flow: Flow, scale: int = 0) -> float | None:
    """The factor of ||dZ|| a layer that mean-field theory predicts, read as a verdict reads it off the curves.

    Args:
        flow: what was measured.
        scale: which of its scales.

    Returns:
        The factor, 0 where theory lets no gradient pass, or None where no theory holds.
    """
    line = flow.expected(scale)
    known = line[~np.isnan(line)]
    return verdict(known[None]).rate if len(known) > 1 else None


def flow_figure(name: str, caption: str, flows: Mapping[str, Mapping[str, Flow]], quantity: str = "dZ") -> Figure:
    """Small multiples of log10 gradient norms over layers: medians, and bands from 10 % to 90 % of the seeds.

    Beside dZ stands mean-field theory where it holds, from the last of the layers of equal width on.

    Args:
        name: of the figure's files.
        caption: what is to be seen.
        flows: for each panel's title, a flow for each curve's label.
        quantity: "dZ", "dA", "dW" or "db".
    """

    def curve(label: str, flow: Flow) -> Curve:
        # A norm that is zero has no logarithm; the curve has a gap there.
        low, median, high = (np.where(np.isfinite(x), x, np.nan)[:-1] for x in flow.quantiles(quantity))
        expected = flow.expected()[:-1] if quantity == "dZ" else None
        return Curve(label, np.arange(1, len(median) + 1), median, low, high, expected)

    drawn = [(title, [curve(label, flow) for label, flow in each.items()]) for title, each in flows.items()]
    return Figure(
        name, caption, partial(panels, drawn, "layer l (input on the left)", f"log10 of the norm of {quantity}")
    )


def flow_table(caption: str, flows: Mapping[str, Mapping[str, Flow]], columns: tuple[str, str]) -> Table:
    """A verdict for each curve, and the factor of ||dZ|| that mean-field theory predicts.

    Args:
        caption: what is to be seen.
        flows: as for `flow_figure`.
        columns: what the panels and the curves stand for.
    """
    rows: list[tuple[Any, ...]] = []
    for title, each in flows.items():
        for label, flow in each.items():
            v = hidden_verdict(flow)
            rows.append(
                (
                    _unbroken(title),
                    _unbroken(label),
                    v.kind,
                    v.rate,
                    _unbroken(f"{v.low:.3f} to {v.high:.3f}"),
                    theory_rate(flow),
                    round(v.decades, 2),
                )
            )
    heading = (*columns, "verdict", "factor a layer", _unbroken("95 % interval"), "theory", "decades")
    return Table(caption, heading, tuple(rows))


def flow_records(flows: Mapping[str, Mapping[str, Flow]], **labels: Any) -> Iterator[dict[str, Any]]:
    """Tidy rows of every network of every curve.

    Args:
        flows: as for `flow_figure`.
        labels: further columns, the same in every row.
    """
    for title, each in flows.items():
        for label, flow in each.items():
            yield from flow.records(**labels, panel=title, curve=label)


def flow_verdicts(flows: Mapping[str, Mapping[str, Flow]], **labels: Any) -> list[dict[str, Any]]:
    """The verdict on every curve, for `result.json`.

    Args:
        flows: as for `flow_figure`.
        labels: further entries, the same in every row.
    """
    return [
        {**labels, "panel": title, "curve": label, **dataclasses.asdict(hidden_verdict(flow))}
        for title, each in flows.items()
        for label, flow in each.items()
    ]


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")
