"""A row: versions of one network compiled, compared, and timed in turn."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from grid import Network
from peers import Version, batch, parameters, shapes
from results import Row

from fbp import cost
from fbp.errors import FbpError

TOLERANCE = 1e-4
"""Relative norm error of a leaf in float32 up to which two gradients are the same."""
ROUNDS, MOST_ROUNDS = 4, 200
"""The least number of timed rounds, even, so that each order is used equally often, and the largest."""


def measure(
    network: Network, versions: Sequence[Version], seconds: float = 0.0, compiles: int = 1, agree: bool = True
) -> Row:
    """What each version costs, and the ratio of the first one's time to each other's.

    Args:
        network: what all of them compute.
        versions: fbp's first.
        seconds: the least time for which steps are timed; 0 for not at all.
        compiles: how often each version is compiled; compile_seconds is the median.
        agree: whether each version runs, for their gradients to be compared; without, no array is made, and any
            depth fits.

    Returns:
        error: the largest relative error of a leaf between the first version and another.
        versions: by name, what the compiler says, and step_seconds, the median.
        time_ratios: by name of the others, median, low and high: quantiles of the ratios of one round's times.

    Raises:
        FbpError: two versions have different gradients, so that comparing their cost means nothing.
    """
    # Otherwise, compiled programs of hundreds of layers would stay in memory for the whole run.
    jax.clear_caches()
    abstract = [(version.layout(shapes(network)), *batch(network)) for version in versions]
    steps = [(version.step, arguments) for version, arguments in zip(versions, abstract, strict=True)]
    runs = [[cost.compile(*step) for step in steps] for _ in range(compiles)]
    counts = [_count(version, own) for version, own in zip(versions, zip(*runs, strict=True), strict=True)]
    row: Row = {"versions": {version.name: own for version, own in zip(versions, counts, strict=True)}}
    if not agree:
        return row
    layers, data = parameters(network), jax.device_put(batch(network))
    calls = [
        partial(run, program, (jax.device_put(version.layout(layers)), *data))
        for version, program in zip(versions, runs[0], strict=True)
    ]
    row = {"error": agreement(network, versions, [call() for call in calls]), **row}
    if not seconds:
        return row
    times = cost.interleave(calls, seconds, ROUNDS, MOST_ROUNDS)
    for own, step_seconds in zip(counts, times, strict=True):
        own["step_seconds"] = statistics.median(step_seconds)
    others = zip(versions[1:], times[1:], strict=True)
    ratios = {version.name: quantiles(np.divide(times[0], own)) for version, own in others}
    return {**row, "rounds": len(times[0]), "time_ratios": ratios}


def agreement(network: Network, versions: Sequence[Version], results: Sequence[Any]) -> float:
    """The largest relative norm error of a leaf, value included, between the first version and another.

    Raises:
        FbpError: it is above `TOLERANCE`, or a leaf of the reference is zero or not finite.
    """
    in_common_layout = [
        (value, version.layers(gradient))
        for version, (value, gradient) in zip(versions, jax.device_get(results), strict=True)
    ]
    worst = 0.0
    for version, theirs in zip(versions[1:], in_common_layout[1:], strict=True):
        references = jax.tree_util.tree_leaves_with_path(theirs)
        for g, (path, g_ref) in zip(jax.tree.leaves(in_common_layout[0]), references, strict=True):
            # Not `fbp.verify.differences`: its float64 and its cosines take longer than all that is timed here.
            norm_ref = np.linalg.norm(g_ref)
            error = np.linalg.norm(g - g_ref) / norm_ref if norm_ref > 0 else np.inf
            # Written so that NaN does not pass.
            if not (g.shape == g_ref.shape and error <= TOLERANCE):
                raise FbpError(
                    f"{versions[0].name} and {version.name} must have one gradient of {network} up to {TOLERANCE:g}, "
                    f"got the relative error {error:.2g} in leaf {jax.tree_util.keystr(path)}, whose norm is "
                    f"{norm_ref:.2g}; mend the one that is wrong"
                )
            worst = max(worst, float(error))
    return worst


def run(program: cost.Program, arguments: tuple[Any, ...]) -> Any:
    """Call a program, and wait for it."""
    return jax.block_until_ready(program.call(*arguments))


def _count(version: Version, programs: Sequence[cost.Program]) -> Row:
    """What the compiler says; flops is None where a loop's body would be counted once."""
    return {
        "compile_seconds": statistics.median(program.compile_seconds for program in programs),
        "temporary_bytes": programs[0].temporary_bytes,
        "flops": None if version.loop else programs[0].flops,
    }


def quantiles(ratios: np.ndarray) -> dict[str, float]:
    """The median of ratios, and their quartiles."""
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}
