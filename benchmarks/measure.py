"""A row: versions of one network compiled, compared, and timed in turn."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from grid import Network
from peers import Version, batch, parameters, shapes

from fbp import cost

TOLERANCE = 1e-4
"""Relative norm error of a leaf in float32 up to which two gradients are the same."""
MOST_ROUNDS = 200


class Disagreement(Exception):
    """Two versions of one network have different gradients, so that comparing their cost means nothing."""


@dataclass(frozen=True)
class Candidate:
    """A version, compiled, with its arguments."""

    version: Version
    program: cost.Program
    arguments: tuple[Any, ...]

    @staticmethod
    def of(version: Version, arguments: tuple[Any, ...]) -> "Candidate":
        """Compile a version for arguments, or for their shapes alone."""
        return Candidate(version, cost.compile(version.step, arguments), arguments)

    def __call__(self) -> Any:
        """One step, to its end."""
        return jax.block_until_ready(self.program.call(*self.arguments))

    @property
    def counts(self) -> dict[str, Any]:
        """What the compiler says; flops is None where a loop's body would be counted once."""
        return {
            "compile_seconds": self.program.compile_seconds,
            "temporary_bytes": self.program.temporary_bytes,
            "flops": None if self.version.loop else self.program.flops,
        }


def timed(network: Network, versions: Sequence[Version], rounds: int, seconds: float) -> dict[str, Any]:
    """What each version costs, and the ratio of the first one's time to each other's.

    Returns:
        error: the largest relative error of a leaf between the first version and another.
        versions: by name, the counts of `counted` and step_seconds, the median.
        time_ratios: by name of the others, median, low and high: quantiles of the ratios of one round's times.
    """
    candidates = _candidates(network, versions)
    error = agreement(candidates)
    times = cost.interleave([candidate.__call__ for candidate in candidates], seconds, rounds, MOST_ROUNDS)
    return {
        "error": error,
        "versions": {
            candidate.version.name: candidate.counts | {"step_seconds": statistics.median(own)}
            for candidate, own in zip(candidates, times, strict=True)
        },
        "rounds": len(times[0]),
        "time_ratios": {
            version.name: _quantiles(np.divide(times[0], own))
            for version, own in zip(versions[1:], times[1:], strict=True)
        },
    }


def counted(network: Network, versions: Sequence[Version], compiles: int = 1, agree: bool = False) -> dict[str, Any]:
    """What the compiler says about each version; compile_seconds is the median of `compiles`.

    With `agree` each one also runs, once; without, no array is made, and any depth fits.
    """
    if agree:
        candidates = _candidates(network, versions)
        counts = {candidate.version.name: candidate.counts for candidate in candidates}
        return {"error": agreement(candidates), "versions": counts}
    arguments = [(version.layout(shapes(network)), *batch(network)) for version in versions]
    runs = [[Candidate.of(*pair).counts for pair in zip(versions, arguments, strict=True)] for _ in range(compiles)]
    seconds = [statistics.median(counts["compile_seconds"] for counts in own) for own in zip(*runs, strict=True)]
    medians = [counts | {"compile_seconds": median} for counts, median in zip(runs[0], seconds, strict=True)]
    return {"versions": {version.name: counts for version, counts in zip(versions, medians, strict=True)}}


def agreement(candidates: Sequence[Candidate]) -> float:
    """The largest relative norm error of a leaf, value included, between the first candidate and another.

    Raises:
        Disagreement: it is above `TOLERANCE`, or a leaf of the reference is zero or not finite.
    """
    first, *others = candidates
    ours = _in_common_layout(first)
    worst = 0.0
    for other in others:
        theirs = jax.tree_util.tree_leaves_with_path(_in_common_layout(other))
        for g, (path, g_ref) in zip(jax.tree.leaves(ours), theirs, strict=True):
            # Not `fbp.verify.differences`: its float64 and its cosines take longer than all that is timed here.
            norm_ref = np.linalg.norm(g_ref)
            error = np.linalg.norm(g - g_ref) / norm_ref if norm_ref > 0 else np.inf
            # Written so that NaN does not pass.
            if not (g.shape == g_ref.shape and error <= TOLERANCE):
                raise Disagreement(
                    f"{first.version.name} and {other.version.name} must have one gradient up to {TOLERANCE:g}; leaf "
                    f"{jax.tree_util.keystr(path)} has relative error {error:.2g}, its norm is {norm_ref:.2g}"
                )
            worst = max(worst, float(error))
    return worst


def _candidates(network: Network, versions: Sequence[Version]) -> list[Candidate]:
    layers, data = parameters(network), jax.device_put(batch(network))
    return [Candidate.of(version, (jax.device_put(version.layout(layers)), *data)) for version in versions]


def _in_common_layout(candidate: Candidate) -> tuple[Any, list[Any]]:
    value, gradient = jax.device_get(candidate())
    return value, candidate.version.layers(gradient)


def _quantiles(ratios: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}
