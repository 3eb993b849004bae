"""Grids of depths, activations, initializers and seeds by one compiled program, streamed to a table as they go."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbp.activations import activation
from fbp.backprop import GradientNorms
from fbp.errors import FbpError, check_count
from fbp.flow.prediction import PlainRun
from fbp.flow.prefixes import Networks, Readings, Setting, read
from fbp.flow.results import NORMS, OTHERS, Flow
from fbp.flow.sampling import THREADS, Draw, sample_inputs, sample_normals, sample_weights, unit_gain
from fbp.flow.stack import Stack, weight_sigma
from fbp.flow.table import ResumableTable, format_rows, parse_rows, quote_field
from fbp.initializers import Distribution, Initializer, initializer
from fbp.memory import check_memory
from fbp.theory.steps import Hidden

COLUMNS = (*(f"log10_norm_{name}" for name in NORMS), *OTHERS)
_DIGITS = np.array([7 if name in ("correlation", "cosine") else 5 for name in (*NORMS, *OTHERS)])
TABLE = "data.csv"
CHUNK = 2**31
"""Bytes of weights that are held at once; more seeds than fit are measured in turn."""


class Cell(NamedTuple):
    """One kind of network in a grid."""

    activation: str
    init: str
    depth: int


class Group(NamedTuple):
    """One initializer and one activation at every depth, with the seeds that are measured at once."""

    init: str
    activation: str
    seeds: range


@dataclass(frozen=True)
class Plan:
    """A grid of networks of equal widths: inputs, hidden layers and outputs all have `width` units.

    Attributes:
        depths: numbers of dense layers.
        activations: names, as `fbp.activations` has them.
        initializers: names, as `fbp.initializers` has them.
        width: units a layer.
        seeds: networks of each kind.
        examples: inputs of mean square 1, in random directions, the same for all networks.
        seed: of all randomness.
        bias: the standard deviation of all biases, in place of the initializers' own; None keeps those.

    Raises:
        FbpError: a name is unknown, a number out of range, something stands twice, or the memory does not suffice.
    """

    depths: tuple[int, ...] = (10, 50, 200)
    activations: tuple[str, ...] = ("tanh", "relu", "gelu")
    initializers: tuple[str, ...] = ("he_normal", "glorot_normal", "orthogonal")
    width: int = 256
    seeds: int = 20
    examples: int = 16
    seed: int = 0
    bias: float | None = None

    def __post_init__(self) -> None:
        for name in ("depths", "activations", "initializers"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise FbpError(
                    f"{name} of a grid must be at least one, each once, got {list(values)}; name each kind once"
                )
        for depth in self.depths:
            check_count("a depth of the grid", depth)
        if max(self.depths) < 2:
            raise FbpError(
                f"the deepest networks of a grid must have at least 2 layers, got depths {list(self.depths)}; a rate "
                "is between layers, so take e.g. 10,50"
            )
        for name in ("width", "seeds", "examples"):
            check_count(name, getattr(self, name))
        if self.seed < 0:
            raise FbpError(f"seed must be an integer of at least 0, got {self.seed}; use 0")
        if self.bias is not None and not 0 <= self.bias < math.inf:
            raise FbpError(f"bias must be a standard deviation of at least 0, got {self.bias}; use e.g. 0.2")
        for name in self.activations:
            if not activation(name).elementwise:
                raise FbpError(
                    f"the activations of a grid must act on each entry alone, got {name!r}; it belongs to the loss"
                )
        for name in self.initializers:
            initializer(name)
        check_memory(
            "the deepest networks of a grid, with its table,",
            f"depth {max(self.depths)}, width {self.width} and {self.seeds} seeds",
            self._bytes(self.chunk),
            "take a smaller width or depth, or fewer seeds",
        )

    def rule(self, name: str) -> Initializer:
        """An initializer with the biases of the plan.

        Args:
            name: of the initializer.
        """
        rule = initializer(name)
        return rule if self.bias is None else replace(rule, bias_stddev=self.bias)

    @property
    def chunk(self) -> int:
        """How many seeds are measured at once: a number that does not depend on the machine."""
        most = max(1, CHUNK // (4 * max(self.depths) * self.width**2))
        turns = -(-self.seeds // most)
        return -(-self.seeds // turns)

    def groups(self) -> list["Group"]:
        """What is measured and written together, in order.

        Initializers of one distribution follow one another, as they share their draws.
        """
        chunks = [range(start, min(start + self.chunk, self.seeds)) for start in range(0, self.seeds, self.chunk)]
        distributions = dict.fromkeys(initializer(name).distribution for name in self.initializers)
        return [
            Group(name, act, seeds)
            for distribution in distributions
            for seeds in chunks
            for name in self.initializers
            if initializer(name).distribution == distribution
            for act in self.activations
        ]

    def _bytes(self, seeds: int) -> int:
        # The draws on the host and as a JAX array, and what the loops of two threads keep: caches and readings.
        layer = 2 * self.width**2 + THREADS * (3 * self.examples * self.width + 16 * (len(self.depths) + 1))
        cells = len(self.activations) * len(self.initializers)
        # Each number of the table is held twice: by its group, and by the flow of its cell.
        table = 2 * 8 * len(COLUMNS) * sum(self.depths) * self.seeds * cells
        return 4 * max(self.depths) * seeds * layer + table


def grid(
    plan: Plan, folder: Path | None = None, resume: bool = False, progress: Callable[[str], None] = lambda _: None
) -> dict[Cell, Flow]:
    """Every network of a plan, measured.

    All activations, depths and initializers run in one compiled program (see `fbp.flow.prefixes`), two calls of it at
    a time. Inputs are `plan.examples` random directions
    of mean square 1, the cotangents of the outputs standard normal, independent between examples. Initializers that
    are the same for square layers (glorot_normal and lecun_normal) are measured once.

    Args:
        plan: what to measure.
        folder: where rows are appended to `data.csv`, a group at a time; None writes nothing.
        resume: go on from the rows that are there, made by the same plan.
        progress: called with a line about what happens next.

    Returns:
        A `Flow` for each cell, in the order activation, initializer, depth. Values are rounded to what the table holds,
        so that a resumed grid returns the same.

    Raises:
        FbpError: the table that is there is of another plan.

    Example:
        >>> plan = fbp.flow.Plan(depths=(3, 6), activations=("relu",), initializers=("he_normal",), width=8, seeds=4)
        >>> flows = fbp.flow.grid(plan)
        >>> flows["relu", "he_normal", 6].log10.dZ.shape
        (1, 4, 6)
    """
    groups = plan.groups()
    measured: dict[Group, np.ndarray] = {}
    table = None if folder is None else ResumableTable(folder / TABLE, COLUMNS)
    if table is not None and not resume:
        table.begin()
    elif table is not None:
        sizes = [sum(plan.depths) * len(group.seeds) for group in groups]
        for group, rows in zip(groups, table.read_groups(sizes), strict=False):
            first, last = next(iter(_labels(plan, group))), f"{plan.depths[-1]},{group.seeds[-1]},{plan.depths[-1]},"
            if not rows[0].startswith(f"{first},") or last not in rows[-1]:
                raise FbpError(
                    f"{table.path} must hold rows of the same plan to be resumed, got {rows[0].strip()!r} where rows "
                    f"of {group.activation}, {group.init} belong; give another folder, or run without resume"
                )
            measured[group] = parse_rows(rows, len(COLUMNS))
        progress(f"{len(measured)} of {len(groups)} groups are there")
    for number, (group, values) in enumerate(
        _measure(plan, groups[len(measured) :], progress), start=len(measured) + 1
    ):
        measured[group] = values
        if table is not None:
            table.append(format_rows(list(_labels(plan, group)), values))
        progress(
            f"{number} of {len(groups)}: {group.activation}, {group.init}, seeds {group.seeds[0]}-{group.seeds[-1]}"
        )
    return dict(_build_flows(plan, measured))


def _measure(plan: Plan, groups: list[Group], progress: Callable[[str], None]) -> Iterator[tuple[Group, np.ndarray]]:
    program, functions = None, tuple(activation(name) for name in plan.activations)
    X, depths = sample_inputs(plan.examples, (plan.width,), plan.seed), jnp.asarray(plan.depths, jnp.int32)
    distribution = lambda group: (initializer(group.init).distribution, group.seeds)
    pool = ThreadPoolExecutor(THREADS)
    try:
        for (kind, seeds), together in groupby(groups, distribution):
            progress(f"drawing {kind} weights of depth {max(plan.depths)} for seeds {seeds[0]}-{seeds[-1]}")
            # A last chunk of fewer seeds is filled up, so that one program serves all.
            drawn = range(seeds[0], seeds[0] + plan.chunk)
            networks = _sample(plan, kind, drawn)
            running: dict[tuple[int, float, float], Future[Readings]] = {}
            waiting: list[tuple[Group, Future[Readings]]] = []
            for group in together:
                setting = _setting(plan, group)
                if program is None:
                    progress("compiling")
                    program = read.lower(functions, networks, setting, X, depths).compile()
                key = (int(setting.activation), float(setting.gain), float(setting.bias_gain))
                if key not in running:
                    running[key] = pool.submit(_call, program, networks, setting, X, depths)
                waiting.append((group, running[key]))
            for group, future in waiting:
                yield group, _rows(plan, future.result(), len(group.seeds))
    finally:
        # Whoever interrupts does not wait for what runs.
        pool.shutdown(wait=False, cancel_futures=True)


def _sample(plan: Plan, kind: Distribution, seeds: range) -> Networks:
    W = jnp.asarray(sample_weights(kind, seeds, max(plan.depths), plan.width, plan.seed))
    b = sample_normals(Draw.BIASES, seeds, (max(plan.depths), plan.width), plan.seed)
    dZ = sample_normals(Draw.COTANGENTS, seeds, (plan.examples, plan.width), plan.seed)
    return Networks(W, jnp.asarray(b.swapaxes(0, 1)), jnp.asarray(dZ))


def _setting(plan: Plan, group: Group) -> Setting:
    rule = plan.rule(group.init)
    rescale = activation(group.activation).homogeneous and rule.bias_stddev == 0
    gain = unit_gain(rule, plan.width, plan.width)
    index = plan.activations.index(group.activation)
    return Setting(jnp.int32(index), jnp.float32(gain), jnp.float32(rule.bias_stddev), jnp.bool_(rescale))


def _call(
    program: Callable[..., Readings], networks: Networks, setting: Setting, X: np.ndarray, depths: jax.Array
) -> Readings:
    return jax.tree.map(np.asarray, program(networks, setting, X, depths))


def _rows(plan: Plan, readings: Readings, seeds: int) -> np.ndarray:
    """The measured columns of one group, by depth, seed and layer."""
    forward, units, backward = readings
    shared = (forward.log10_mean_square, forward.correlation, units.saturated, units.dead)
    parts = []
    for depth, *back in zip(plan.depths, *backward, strict=True):
        *norms, cosine, noise = back
        table = np.stack([x[:depth, :seeds].T for x in (*norms, *shared, cosine, noise)], axis=-1)
        # The last layer of each depth has no activation behind it.
        table[:, -1, [COLUMNS.index("saturated"), COLUMNS.index("dead")]] = np.nan
        parts.append(table.reshape(-1, len(COLUMNS)))
    power = 10.0**_DIGITS
    return np.rint(np.concatenate(parts).astype(np.float64) * power) / power


def _labels(plan: Plan, group: Group) -> Iterator[str]:
    start = f"{quote_field(group.activation)},{quote_field(group.init)}"
    for depth in plan.depths:
        for seed in group.seeds:
            for l in range(1, depth + 1):
                yield f"{start},{depth},{seed},{l}"


def _build_flows(plan: Plan, measured: dict[Group, np.ndarray]) -> Iterator[tuple[Cell, Flow]]:
    cuts = np.cumsum([0, *plan.depths])
    for name in plan.activations:
        for init in plan.initializers:
            chunks = [(group, values) for group, values in measured.items() if group[:2] == (init, name)]
            for depth, start in zip(plan.depths, cuts[:-1], strict=True):
                rows = [
                    values[start * len(g.seeds) : (start + depth) * len(g.seeds)].reshape(-1, depth, len(COLUMNS))
                    for g, values in chunks
                ]
                columns = np.moveaxis(np.concatenate(rows), -1, 0)[:, None]
                norms, others = columns[: len(NORMS)], dict(zip(OTHERS, columns[len(NORMS) :], strict=True))
                plain, stack = _describe(plan, name, init, depth)
                flow = Flow(GradientNorms(*norms), np.ones(1), **others, plain=plain, stack=stack)
                yield Cell(name, init, depth), flow


def _describe(plan: Plan, name: str, init: str, depth: int) -> tuple[PlainRun | str, Stack | str]:
    rule, n = plan.rule(init), plan.width
    sigma_w = weight_sigma(rule, n, n)
    if sigma_w is None:
        reason = f"no theory: {rule.distribution} weights"
        return reason, reason
    # Inputs have mean square 1.
    q = sigma_w**2 + rule.bias_stddev**2
    run = PlainRun(activation(name), sigma_w, rule.bias_stddev, 0, depth, q)
    step = Hidden(run.activation, sigma_w, run.sigma_b, width=n)
    return run, Stack(((step,),) * (depth - 1), (n,) * depth, q)
