"""Gradient norms over layers, in panels of curves: how they are measured, and their section of a report."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from fbp.data import Dataset
from fbp.flow import Flow, measure, verdict
from fbp.losses import SoftmaxCrossEntropy
from fbp.networks import mlp
from fbp.report import Block, Curve, Figure, Table, Text, fixed, interval, panels, plain, significant
from fbp.report.lines import has_theory
from fbp.studies.frame import Draft

Flows = Mapping[str, Mapping[str, Flow]]
"""For each panel's title, a flow for each curve's label."""
_READING = (
    "The verdict is the word for the factor and its interval: stable where 1 lies in it, or where 100 layers would "
    "change the norm less than tenfold. Theory predicts the mean of $‖dZ‖^2$; the factor is that of a typical network "
    "of finite width."
)


def measure_perceptrons(draft: Draft, width: int, seeds: int, data: Dataset | None = None) -> Callable[..., Flow]:
    """Prepare to measure gradient flow in multilayer perceptrons on a batch of 64 digits.

    Args:
        draft: the report in the making, for which they are measured.
        width: units of each hidden layer.
        seeds: networks of each kind.
        data: the digits; the bundled ones without it.

    Returns:
        A function (activation, init, depth, **options) -> Flow; what was measured before is not measured again. Options
        are those of `fbp.flow.measure`.
    """
    X, Y = draft.digits(64, data)

    @cache
    def measure_one(activation: str, init: str, depth: int, **options: Any) -> Flow:
        draft.progress(f"measuring gradient norms: {activation}, {init}, depth {depth}")
        net = mlp((784,) + (width,) * depth + (10,), activation, init, repeat=True)
        options = {"seeds": seeds, "seed": draft.seed} | options
        return measure(net, SoftmaxCrossEntropy(), X, Y, **options)

    return measure_one


def add_flows(
    draft: Draft,
    title: str,
    flows: Flows,
    *,
    name: str,
    caption: str,
    table: str,
    columns: tuple[str, str],
    text: str = "",
    **labels: Any,
) -> None:
    """Add flows to a report: a section with their figure and their verdicts, the records and the results.

    Args:
        draft: the report in the making.
        title: of the section.
        flows: by panel and curve.
        name: of the figure's files.
        caption: what the figure shows.
        table: what the table shows.
        columns: what the panels and the curves stand for.
        text: what is to be said first.
        labels: further columns of the records, the same in every row.
    """
    said: tuple[Block, ...] = (Text(text),) if text else ()
    draft.section(
        title, *said, flow_figure(name, caption, flows), _verdict_table(f"{table} {_READING}", flows, columns)
    )
    draft.records += flow_records(flows, **labels)
    draft.results.setdefault("verdicts", []).extend(
        {**labels, "panel": plain(panel), "curve": plain(label), **dataclasses.asdict(flow.verdict())}
        for panel, each in flows.items()
        for label, flow in each.items()
    )


def flow_figure(name: str, caption: str, flows: Flows) -> Figure:
    """Small multiples of log_10 ‖dZ_l‖ over layers: medians, bands from 10 % to 90 % of the seeds, and theory.

    Mean-field theory is drawn where it holds, from the last of the layers of equal width on.

    Args:
        name: of the figure's files.
        caption: what it shows; how lines and bands are read is added.
        flows: by panel and curve.
    """
    drawn = [(title, [_curve(label, flow) for label, flow in each.items()]) for title, each in flows.items()]
    every = [flow for each in flows.values() for flow in each.values()]
    place = "part of the stream" if all(flow.branches for flow in every) else "layer $l$"
    draw = partial(panels, drawn, f"{place} (input on the left)", "$log_{10} ‖dZ_l‖$")
    several = min(flow.log10.dZ.shape[1] for flow in every) > 1
    reading = "Lines are medians over networks, bands go from 10 % to 90 %" if several else "Each line is one network"
    if has_theory(curve for _, part in drawn for curve in part):
        reading += ", thin lines are mean-field theory"
    return Figure(name, f"{caption} {reading}.", draw)


def _curve(label: str, flow: Flow) -> Curve:
    if flow.branches and flow.stream is not None:
        along = np.stack(flow.quantiles("stream_log10_dZ"))
        expected = flow.expected(0, "stream_log10_dZ")[:-1]
    else:
        along, expected = np.stack(flow.quantiles("dZ")), flow.expected()[:-1]
    # A norm that is zero has no logarithm; the curve has a gap there.
    low, median, high = np.where(np.isfinite(along), along, np.nan)[:, :-1]
    return Curve(label, np.arange(1, len(median) + 1), median, low, high, expected)


def flow_records(flows: Flows, **labels: Any) -> Iterator[dict[str, Any]]:
    """Tidy rows of every network of every curve.

    Args:
        flows: by panel and curve.
        labels: further columns, the same in every row.
    """
    for title, each in flows.items():
        for label, flow in each.items():
            yield from flow.records(**labels, panel=plain(title), curve=plain(label))


def theory_rate(flow: Flow, scale: int = 0) -> float | None:
    """The factor of ‖dZ‖ a layer that mean-field theory predicts, read as a verdict reads it off the curves.

    Args:
        flow: what was measured.
        scale: which of its scales.

    Returns:
        The factor, 0 where theory lets no gradient pass, or None where no theory holds.
    """
    line = flow.expected(scale)
    known = line[~np.isnan(line)]
    return verdict(known[None]).rate if len(known) > 1 else None


def _verdict_table(caption: str, flows: Flows, columns: tuple[str, str]) -> Table:
    rows = []
    for title, each in flows.items():
        for label, flow in each.items():
            v = flow.verdict()
            names = (text.replace(" ", "\N{NO-BREAK SPACE}") for text in (title, label))
            rate, theory = v.rate, theory_rate(flow)
            ends = interval(v.low, v.high, 3) if v.networks > 1 else None
            theory = None if theory is None else significant(theory)
            rows.append((*names, v.kind, significant(rate), ends, theory, fixed(v.decades, 2)))
    heads = (*columns, "verdict", "factor a layer", "95\N{NO-BREAK SPACE}% interval", "theory", "decades")
    return Table(caption, heads, tuple(rows))
