"""What compiled functions cost: compile time, operations, memory, and time a call, measured side by side."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
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
    """Two costs and their ratios, first over second; and a third one beside them.

    Attributes:
        manual: of the first function, the hand-written gradient.
        autodiff: of the second function.
        step_ratio: the median of the ratios of neighbouring calls, which drift of the machine's speed leaves alone.
        graph: of a third function, the gradient by the table of local rules; None where there is none.
        graph_step_ratio: as `step_ratio`, the third function over the second.
    """

    manual: Cost
    autodiff: Cost
    step_ratio: float
    graph: Cost | None = None
    graph_step_ratio: float | None = None

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

    def to_dict(self) -> dict[str, Any]:
        """Both costs and all ratios as plain data."""
        ratios = {name: getattr(self, name) for name in ("compile_ratio", "flops_ratio", "memory_ratio")}
        return dataclasses.asdict(self) | ratios


@dataclass(frozen=True)
class Program:
    """A compiled function, and what compiling it took.

    Attributes:
        call: called with arguments of the shapes that it was compiled for.
        compile_seconds: tracing, lowering and compiling.
    """

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


def compile(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Program:
    """Compile a function for the shapes of its arguments.

    Args:
        function: a pure function of arrays.
        arguments: what it is to be called with; `jax.ShapeDtypeStruct`s in place of arrays will do.

    Returns:
        The program, with its compile time (s), operations and temporary memory (bytes).

    Example:
        >>> program = fbp.cost.compile(lambda A, W: A @ W, (jnp.ones((8, 16)), jnp.ones((16, 4))))
        >>> program.flops  # 2 * 8 * 16 * 4: a multiplication and an addition for each product
        1024.0
    """
    begin = time.perf_counter()
    # A new function object: one that was compiled before would be found in the cache and seem free.
    call = jax.jit(lambda *args: function(*args)).lower(*arguments).compile()
    return Program(call, time.perf_counter() - begin)


def compare(
    manual: Program,
    autodiff: Program,
    arguments: tuple[Any, ...],
    seconds: float = 1.0,
    graph: Program | None = None,
) -> CostComparison:
    """The cost of two compiled functions, or three, timed in turn.

    Args:
        manual: the first function.
        autodiff: the second function.
        arguments: what they are called with.
        seconds: how long to time; at least six calls of each are made.
        graph: a third function.

    Returns:
        Their costs and the ratios of their times.

    Example:
        >>> X = jnp.ones((8, 16))
        >>> once, twice = (fbp.cost.compile(f, (X,)) for f in (lambda X: jnp.sum(X), lambda X: jnp.sum(X + X)))
        >>> fbp.cost.compare(once, twice, (X,), seconds=0.01).flops_ratio < 1
        True
    """
    programs = [manual, autodiff, *([] if graph is None else [graph])]
    calls = [lambda program=program: jax.block_until_ready(program.call(*arguments)) for program in programs]
    for call in calls:
        call()
    times = interleave(calls, seconds)
    costs = [
        Cost(program.compile_seconds, statistics.median(own), program.flops, program.temporary_bytes)
        for program, own in zip(programs, times, strict=True)
    ]
    ratios = [statistics.median(a / b for a, b in zip(own, times[1], strict=True)) for own in times]
    third, third_ratio = (None, None) if graph is None else (costs[2], ratios[2])
    return CostComparison(costs[0], costs[1], ratios[0], third, third_ratio)


def interleave(
    calls: Sequence[Callable[[], Any]], seconds: float, rounds: int = 5, most: int | None = None
) -> list[list[float]]:
    """Seconds of each call, a list for each, called in turn and in alternating order: a b c, c b a, ...

    What drifts slowly (clock rate, temperature, other users) then meets all of them alike, and none always runs on
    the caches that the same other one has left.

    Args:
        calls: functions without arguments that return when their work is done; each has run once before.
        seconds: how long to go on.
        rounds: how many rounds to make at least; their number is even.
        most: how many rounds to make at most; None for no limit.
    """
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds or done % 2 or (time.perf_counter() < end and (most is None or done < most)):
        for i in order:
            begin = time.perf_counter()
            calls[i]()
            times[i].append(time.perf_counter() - begin)
        order.reverse()
        done += 1
    return times


def _ratio(numerator: float, denominator: float) -> float:
    if numerator == denominator:
        return 1.0
    return numerator / denominator if denominator else float("inf")
