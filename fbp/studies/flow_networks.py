"""Grids of networks that share no program: normalized and residual perceptrons, transformers."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fbp.config import count_transformer
from fbp.errors import FbpError, check_count
from fbp.flow import Cell, Flow, Plan, measure
from fbp.flow.archive import load_flow, save_flow
from fbp.memory import check_memory
from fbp.networks import gpt, mlp, normalization
from fbp.terminal import Progress
from fbp.typing import Layer

POSITIONS = ("pre", "post")
BY_DEPTH: Literal["1/sqrt(depth)"] = "1/sqrt(depth)"
"""The scale of branches with which their sum stays as large at every depth."""


class TransformerCell(NamedTuple):
    """One kind of transformer in a grid: `depth` blocks with the norm before ("pre") or behind ("post") each branch."""

    style: str
    norm: str
    depth: int


AnyCell = Cell | TransformerCell


@dataclass(frozen=True)
class PerceptronPlan:
    """Perceptrons of a plan with normalization or residual connections.

    Attributes:
        plain: depths, activations, initializers, width, seeds.
        norm: "none", "batch", "layer" or "rms", before each activation.
        residual: whether each layer but the first has a residual connection around it.
        residual_scale: the factor on what is added to the stream, a number or "1/sqrt(depth)".

    Raises:
        FbpError: there is no such norm or scale.
    """

    plain: Plan
    norm: str = "none"
    residual: bool = False
    residual_scale: float | Literal["1/sqrt(depth)"] = 1.0

    def __post_init__(self) -> None:
        normalization(self.norm)
        if self.residual_scale != BY_DEPTH and not math.isfinite(self.residual_scale):
            raise FbpError(
                f"residual_scale must be a finite number or {BY_DEPTH}, got {self.residual_scale}; use e.g. 0.1"
            )
        plan = self.plain
        _check_memory(plan, max(plan.depths) * plan.width**2, 3 * plan.examples * plan.width * max(plan.depths))

    @property
    def seeds(self) -> int:
        """Networks of each kind."""
        return self.plain.seeds

    @property
    def seed(self) -> int:
        """Of all randomness."""
        return self.plain.seed

    def networks(self) -> Iterator[tuple[Cell, Layer]]:
        """Every kind, in order."""
        plan = self.plain
        for activation in plan.activations:
            for init in plan.initializers:
                for depth in plan.depths:
                    widths, rule = (plan.width,) * (depth + 1), plan.rule(init)
                    scale = depth**-0.5 if self.residual_scale == BY_DEPTH else float(self.residual_scale)
                    residual = scale if self.residual else False
                    net = mlp(widths, activation, rule, norm=self.norm, residual=residual)
                    yield Cell(activation, init, depth), net

    def describe(self) -> str:
        """How it was measured."""
        parts = [] if self.norm == "none" else [f"{self.norm} normalization before each activation"]
        if self.residual:
            scale = "" if self.residual_scale == 1 else f", with branches scaled by {self.residual_scale}"
            parts.append(f"residual connections around all layers but the first{scale}")
        read = " They are read along the residual stream: the first layer, and the sum behind each other one."
        return f"{describe_plan(self.plain)} The networks have {' and '.join(parts)}.{read if self.residual else ''}"


@dataclass(frozen=True)
class TransformerPlan:
    """Transformers of several depths, with the norm before and behind their branches.

    Attributes:
        depths: numbers of blocks.
        styles: "gpt2", "modern".
        width: entries of a token's vector.
        heads: of attention.
        length: tokens of a sequence.
        vocabulary: different tokens.
        seeds: networks of each kind.
        seed: of all randomness.

    Raises:
        FbpError: a number or a style does not fit.
    """

    depths: tuple[int, ...] = (2, 6, 12)
    styles: tuple[str, ...] = ("gpt2",)
    width: int = 64
    heads: int = 4
    length: int = 32
    vocabulary: int = 256
    seeds: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)
        for name in ("depths", "styles"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise FbpError(f"{name} of a grid must be at least one, each once, got {list(values)}; name each once")
        for _ in self.networks():
            pass
        sizes = self.width, max(self.depths), self.heads, self.length, self.vocabulary
        parameters, activations = count_transformer(*sizes)
        _check_memory(self, parameters, 16 * activations)

    def networks(self) -> Iterator[tuple[TransformerCell, Layer]]:
        """Every kind, in order."""
        sizes: dict[str, Any] = {"width": self.width, "heads": self.heads}
        for style in self.styles:
            for position in POSITIONS:
                for depth in self.depths:
                    options: dict[str, Any] = {"depth": depth, "style": style, "norm_position": position}
                    net = gpt(self.vocabulary, self.length, **sizes, **options)
                    yield TransformerCell(style, f"{position}-norm", depth), net

    def describe(self) -> str:
        """How it was measured."""
        return (
            f"Transformers of width {self.width} with {self.heads} heads read 16 sequences of {self.length} random "
            f"tokens of {self.vocabulary}; depth is the number of blocks. A standard normal cotangent of the scores "
            f"comes back through {self.seeds} random networks of each kind, initialized as GPT-2 is. Norms are over "
            "the batch. **Rates** are those of $‖dZ‖^2$ from one part of the residual stream to the one before "
            "(embedding, the two sums of each block), the mean over parts and networks, with 95 % intervals over "
            "networks."
        )


def _check_memory(plan: "Plan | TransformerPlan", parameters: int, activations: int) -> None:
    check_memory(
        "the deepest networks of a grid",
        f"depth {max(plan.depths)}, width {plan.width} and {plan.seeds} seeds",
        # Parameters of all networks on the host and as JAX arrays; what the loops of one of them keep.
        4 * (2 * parameters * plan.seeds + 3 * activations),
        "take a smaller width or depth, or fewer seeds",
    )


AnyPlan = Plan | PerceptronPlan | TransformerPlan


def describe_plan(plan: Plan) -> str:
    """How a grid of plain networks was measured, as far as that holds for others, too.

    Args:
        plan: the grid.
    """
    return (
        f"Every network has {plan.width} inputs, {plan.width} units a layer and {plan.width} outputs. {plan.examples} "
        f"inputs of mean square 1 in random directions go forward through {plan.seeds} random networks of each kind, "
        "and a standard normal cotangent of the output comes back, independent between examples. Norms are over the "
        "batch and carried with their power of two. **Rates** are those of $‖dZ‖^2$ from one layer to the one before, "
        "the mean over layers and networks, with 95 % intervals over networks; theory is mean-field theory of the mean "
        "of $‖dZ‖^2$, which in plain networks counts one effect of the width: the gradient along $Z$."
    )


def list_options(plan: AnyPlan) -> dict[str, Any]:
    """The options of a plan by name.

    Args:
        plan: the grid.
    """
    options = asdict(plan)
    return options.pop("plain", {}) | options


def measure_networks(plan: PerceptronPlan | TransformerPlan, folder: Path, progress: Progress) -> dict[AnyCell, Flow]:
    """Measure one kind after the other, each by a program of its own.

    Args:
        plan: what to measure.
        folder: where each kind is kept once it is measured; what the same plan has left there is not measured again.
        progress: called with a line about what happens next.
    """
    folder.mkdir(exist_ok=True)
    flows: dict[AnyCell, Flow] = {}
    networks = list(plan.networks())
    for number, (cell, net) in enumerate(networks, start=1):
        path = folder / f"{number}.npz"
        there = load_flow(net, path)
        if there is None:
            progress(f"{number} of {len(networks)}: {cell[0]}, {cell[1]}, depth {cell.depth}")
            there = measure(net, seeds=plan.seeds, seed=plan.seed)
            save_flow(there, path)
        flows[cell] = there
    return flows
