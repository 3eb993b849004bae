"""Grids of depths, activations, initializers and seeds by one compiled program, streamed to a table as they go."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbp.activations import activation
from fbp.backprop import GradientNorms
from fbp.errors import FbpError
from fbp.flow import draws
from fbp.flow.curves import NORMS, OTHERS, Flow
from fbp.flow.plan import Group, Plan
from fbp.flow.prediction import Plain, weight_sigma
from fbp.flow.prefixes import Networks, Readings, Setting, read
from fbp.flow.stream import Stream, field, lines, numbers
from fbp.initializers import initializer

COLUMNS = (*(f"log10_norm_{name}" for name in NORMS), *OTHERS)
_DIGITS = np.array([7 if name in ("correlation", "cosine") else 5 for name in (*NORMS, *OTHERS)])
TABLE = "data.csv"


class Cell(NamedTuple):
    """One kind of network in a grid."""

    activation: str
    init: str
    depth: int


def grid(
    plan: Plan, folder: Path | None = None, resume: bool = False, progress: Callable[[str], None] = lambda _: None
) -> dict[Cell, Flow]:
    """Every network of a plan, measured.

    All activations, depths and initializers run in one compiled program (see `fbp.flow.prefixes`), two calls of it at
    a time; a second seed of the same kind is a row of the same matrices. Inputs are `plan.examples` random directions
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
    """
    groups = plan.groups()
    found: dict[Group, np.ndarray] = {}
    stream = None if folder is None else Stream(folder / TABLE, COLUMNS)
    if stream is not None and not resume:
        stream.begin()
    elif stream is not None:
        sizes = [sum(plan.depths) * len(group.seeds) for group in groups]
        for group, rows in zip(groups, stream.groups(sizes), strict=False):
            first, last = next(iter(_labels(plan, group))), f"{plan.depths[-1]},{group.seeds[-1]},{plan.depths[-1]},"
            if not rows[0].startswith(f"{first},") or last not in rows[-1]:
                raise FbpError(
                    f"a grid resumes from rows of the same plan; received {rows[0].strip()!r} in {stream.path}, where "
                    f"rows of {group.activation}, {group.init} belong; give another folder, or run without resume"
                )
            found[group] = numbers(rows, len(COLUMNS))
        progress(f"{len(found)} of {len(groups)} groups are there")
    for number, (group, values) in enumerate(_measured(plan, groups[len(found) :], progress), start=len(found) + 1):
        found[group] = values
        if stream is not None:
            stream.append(lines(list(_labels(plan, group)), values))
        progress(
            f"{number} of {len(groups)}: {group.activation}, {group.init}, seeds {group.seeds[0]}-{group.seeds[-1]}"
        )
    return dict(_flows(plan, found))


def _measured(plan: Plan, groups: list[Group], progress: Callable[[str], None]) -> Iterator[tuple[Group, np.ndarray]]:
    program = None
    X, depths = draws.inputs(plan.examples, plan.width, plan.seed), jnp.asarray(plan.depths, jnp.int32)
    distribution = lambda group: (initializer(group.init).distribution, group.seeds)
    pool = ThreadPoolExecutor(draws.THREADS)
    try:
        for (kind, seeds), together in groupby(groups, distribution):
            progress(f"drawing {kind} weights of depth {max(plan.depths)} for seeds {seeds[0]}-{seeds[-1]}")
            # A last chunk of fewer seeds is filled up, so that one program serves all.
            drawn = range(seeds[0], seeds[0] + plan.chunk)
            networks = _networks(plan, kind, drawn)
            running: dict[tuple[int, float, float], Future[Readings]] = {}
            waiting: list[tuple[Group, Future[Readings]]] = []
            for group in together:
                setting = _setting(plan, group)
                if program is None:
                    progress("compiling")
                    program = read.lower(plan.rows, networks, setting, X, depths).compile()
                key = (int(setting.row), float(setting.gain), float(setting.bias_gain))
                if key not in running:
                    running[key] = pool.submit(_call, program, networks, setting, X, depths)
                waiting.append((group, running[key]))
            for group, future in waiting:
                yield group, _rows(plan, future.result(), len(group.seeds))
    finally:
        pool.shutdown(cancel_futures=True)


def _networks(plan: Plan, kind: draws.Distribution, seeds: range) -> Networks:
    W = jnp.asarray(draws.weights(kind, seeds, max(plan.depths), plan.width, plan.seed))
    b = draws.normals(1, seeds, (max(plan.depths), plan.width), plan.seed)
    dZ = draws.normals(2, seeds, (plan.examples, plan.width), plan.seed)
    return Networks(W, jnp.asarray(b.swapaxes(0, 1)), jnp.asarray(dZ))


def _setting(plan: Plan, group: Group) -> Setting:
    rule, row = initializer(group.init), activation(group.activation)
    rescale = row.homogeneous and rule.bias_stddev == 0
    gain = draws.gain(rule, plan.width)
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
    start = f"{field(group.activation)},{field(group.init)}"
    for depth in plan.depths:
        for seed in group.seeds:
            for l in range(1, depth + 1):
                yield f"{start},{depth},{seed},{l}"


def _flows(plan: Plan, found: dict[Group, np.ndarray]) -> Iterator[tuple[Cell, Flow]]:
    cuts = np.cumsum([0, *plan.depths])
    for name in plan.activations:
        for init in plan.initializers:
            chunks = [(group, values) for group, values in found.items() if group[:2] == (init, name)]
            for depth, start in zip(plan.depths, cuts[:-1], strict=True):
                rows = [
                    values[start * len(g.seeds) : (start + depth) * len(g.seeds)].reshape(-1, depth, len(COLUMNS))
                    for g, values in chunks
                ]
                columns = np.moveaxis(np.concatenate(rows), -1, 0)[:, None]
                norms, others = columns[: len(NORMS)], dict(zip(OTHERS, columns[len(NORMS) :], strict=True))
                described = _plain(plan, name, init, depth)
                yield Cell(name, init, depth), Flow(GradientNorms(*norms), np.ones(1), **others, plain=described)


def _plain(plan: Plan, name: str, init: str, depth: int) -> Plain | str:
    rule = initializer(init)
    sigma_w = weight_sigma(rule, plan.width)
    if sigma_w is None:
        return f"no theory: {rule.distribution} weights"
    # Inputs have mean square 1.
    return Plain(activation(name), sigma_w, rule.bias_stddev, 0, depth, sigma_w**2 + rule.bias_stddev**2)
