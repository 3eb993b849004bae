"""What two compiled functions cost, measured side by side."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Cost:
    """The cost of one compiled function.

    Attributes:
        compile_seconds: tracing, lowering and compiling, once.
        step_seconds: one call, the median.
        flops: floating-point operations as the compiler counts them (a loop's body may be counted once).
        temporary_bytes: memory for intermediates, beside arguments and results.
    """

    compile_seconds: float
    step_seconds: float
    flops: float
    temporary_bytes: int


@dataclass(frozen=True)
class CostComparison:
    """Two costs and their ratios, first over second.

    Attributes:
        manual: of the first function, the hand-written gradient.
        autodiff: of the second function.
        step_ratio: the median of the ratios of neighbouring calls, which drift of the machine's speed leaves alone.
    """

    manual: Cost
    autodiff: Cost
    step_ratio: float

    @property
    def compile_ratio(self) -> float:
        """Compile time, first over second."""
        return self.manual.compile_seconds / self.autodiff.compile_seconds

    @property
    def flops_ratio(self) -> float:
        """Floating-point operations, first over second."""
        return _ratio(self.manual.flops, self.autodiff.flops)

    @property
    def memory_ratio(self) -> float:
        """Temporary memory, first over second."""
        return _ratio(self.manual.temporary_bytes, self.autodiff.temporary_bytes)


@dataclass(frozen=True)
class Timed:
    """A compiled function, how long it took to trace, lower and compile it, and what the compiler counts."""

    call: Any
    compile_seconds: float

    @property
    def flops(self) -> float:
        """Floating-point operations (a loop's body may be counted once); NaN where the compiler does not count."""
        analysis = self.call.cost_analysis()
        return float(analysis.get("flops", float("nan"))) if analysis else float("nan")

    @property
    def temporary_bytes(self) -> int:
        """Memory for intermediates, beside arguments and results."""
        return int(self.call.memory_analysis().temp_size_in_bytes)


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Timed:
    """Compile a function for the shapes of the arguments.

    Args:
        function: a pure function of arrays.
        arguments: what it is to be called with; shapes alone will do.
    """
    begin = time.perf_counter()
    # A new function object: one that was compiled before would be found in the cache and seem free.
    call = jax.jit(lambda *args: function(*args)).lower(*arguments).compile()
    return Timed(call, time.perf_counter() - begin)


def compare_cost(manual: Timed, autodiff: Timed, arguments: tuple[Any, ...], seconds: float = 1.0) -> CostComparison:
    """The cost of two compiled functions, timed in turn.

    Args:
        manual: the first function.
        autodiff: the second function.
        arguments: what both are called with.
        seconds: how long to time; at least five pairs of calls are made.
    """
    pair = (manual, autodiff)
    for each in pair:
        jax.block_until_ready(each.call(*arguments))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        # The order alternates, so that neither always runs on the caches the other has warmed.
        for i in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            begin = time.perf_counter()
            jax.block_until_ready(pair[i].call(*arguments))
            times[i].append(time.perf_counter() - begin)
    costs = [
        Cost(each.compile_seconds, statistics.median(taken), each.flops, each.temporary_bytes)
        for each, taken in zip(pair, times, strict=True)
    ]
    step_ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return CostComparison(costs[0], costs[1], step_ratio)


def _ratio(numerator: float, denominator: float) -> float:
    if numerator == denominator:
        return 1.0
    return numerator / denominator if denominator else float("inf")
