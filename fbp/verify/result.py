"""What the judges say of a gradient, as data that prints itself: in the terminal, in a notebook, as JSON."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fbp.cost import CostComparison
from fbp.errors import Status
from fbp.verify.table import Printable, make_table, paint
from fbp.verify.tolerance import ZERO, LeafDifference, Verdict

EXIT_STATUS: dict[Verdict, int] = {
    "PASS": Status.DONE,
    "FAIL": Status.FAILED,
    "INCONCLUSIVE": Status.INCONCLUSIVE,
}
"""Exit status of a command by its verdict."""
SCHEMA_VERSION = 1
"""Version of the JSON that a `Verification` gives."""

DIRECTIONAL = ("differences", "adjoint")
"""The judges that look along directions in a leaf."""
JUDGES = ("autodiff", *DIRECTIONAL)
"""The judges of a leaf; the equations of a network have their own."""

_CONDITIONS = ("structure", "repetition", "batched", "forward", "loss", "time")
_LONG_PATH = 25
"""The characters from which a path is shortened in a table."""
_LAYERS_SHOWN = 16
WHOLE = "(argument)"
"""What a leaf is called that is the whole argument."""
_GRAPH = "fbp.graph"
_HEADINGS = {"differences": "diff.", "adjoint": "adj.", _GRAPH: "graph"}
_MARKS = {"PASS": "pass", "FAIL": "FAIL", "INCONCLUSIVE": "?"}
_NUMBERS = ("jax.grad", "float64", "in eps", "cosine", "ratio")


@dataclass(frozen=True)
class JudgeResult:
    """What one judge says of one array.

    Attributes:
        judge: "autodiff", "differences", "adjoint", "equations", "value"; or what must hold besides: "structure",
            "repetition", "batched", "forward"; or why nothing is judged: "loss", "time".
        verdict: PASS, FAIL, or INCONCLUSIVE where this judge cannot tell.
        reason: why; may be empty where it passes.
    """

    judge: str
    verdict: Verdict
    reason: str = ""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL where one of them is, else INCONCLUSIVE where one is, else PASS."""
    given = set(verdicts)
    return "FAIL" if "FAIL" in given else "INCONCLUSIVE" if "INCONCLUSIVE" in given else "PASS"


def combine(results: Iterable[JudgeResult]) -> Verdict:
    """The verdict of independent judges: FAIL where one fails it, PASS where one passes it and none fails it.

    That two calls agree, or a call under `jax.vmap`, shows no gradient to be right.
    """
    given = {(result.verdict, result.judge in _CONDITIONS) for result in results}
    if ("FAIL", True) in given or ("FAIL", False) in given:
        return "FAIL"
    return "PASS" if ("PASS", False) in given else "INCONCLUSIVE"


@dataclass(frozen=True)
class LeafResult:
    """One leaf of a gradient.

    Attributes:
        path: its path in the differentiated arguments.
        dtype: the dtype that it should have; empty where it should not be there.
        shape: its shape.
        difference: from `jax.grad` in float64; None where there is nothing to compare.
        against_autodiff: the difference from `jax.grad` in the same dtype; None likewise.
        explained: the relative difference from float64 that rounding in its dtype explains.
        judges: what each judge says.
        hint: what a wrong leaf looks like.
        note: what is unusual, but not wrong.
        against_graph: the difference from `fbp.graph.value_and_grad` in the same dtype; None where that was not asked.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    difference: LeafDifference | None
    against_autodiff: LeafDifference | None
    explained: float
    judges: tuple[JudgeResult, ...]
    hint: str = ""
    note: str = ""
    against_graph: LeafDifference | None = None

    @property
    def verdict(self) -> Verdict:
        """FAIL where one judge fails it, PASS where one passes it and none fails it."""
        return combine(self.judges)

    @property
    def reason(self) -> str:
        """Why it did not pass: the first reason of a judge with the leaf's verdict; empty where it passed."""
        if self.verdict == "PASS":
            return ""
        decisive = (each for each in self.judges if each.verdict == self.verdict and each.reason)
        return next((f"{each.judge}: {each.reason}" for each in decisive), "")

    @property
    def epsilons(self) -> float:
        """The relative error against float64 in units of the dtype's epsilon; NaN where it is not known."""
        if self.difference is None:
            return float("nan")
        return self.difference.relative_error / float(jnp.finfo(self.dtype).eps)

    @property
    def is_zero(self) -> bool:
        """Whether its gradient is zero up to rounding, so that a relative error says nothing."""
        return any(each.reason == ZERO for each in self.judges)

    def judge(self, name: str) -> JudgeResult | None:
        """What one judge says; None where it was not asked.

        Args:
            name: a judge's name, see `JudgeResult`.
        """
        return next((each for each in self.judges if each.judge == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The leaf as plain data; None for what is not known."""
        d, against = self.difference, self.against_autodiff
        return {
            "path": self.path,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "verdict": self.verdict,
            "hint": self.hint,
            "reason": self.reason,
            "note": self.note,
            "relative_error": d and d.relative_error,
            "relative_error_autodiff": against and against.relative_error,
            "relative_error_graph": self.against_graph and self.against_graph.relative_error,
            "epsilons": d and self.epsilons,
            "cosine": d and d.cosine,
            "norm_ratio": d and d.norm_ratio,
            "norm": d and d.norm,
            "worst_index": d and list(d.worst),
            "explained_by_rounding": self.explained,
            "judges": {each.judge: [each.verdict, each.reason] for each in self.judges},
        }

    def remark(self, name: str) -> list[Text]:
        """One line with its hint, reason and note; none where there is nothing to say.

        Args:
            name: what the line begins with.
        """
        texts = [text for text in (self.hint, self.reason, self.note) if text]
        return [paint(f"{name}: {'; '.join(texts)}", self.verdict)] if texts else []

    def cells(self) -> tuple[str, ...]:
        """Its numbers for the table, as text."""
        d, against = self.difference, self.against_autodiff
        if d is None:
            return ("",) * len(_NUMBERS)
        if self.is_zero:
            return ("zero", "zero", "", "", "")
        error = "" if against is None else f"{against.relative_error:.1e}"
        return error, f"{d.relative_error:.1e}", f"{self.epsilons:.2g}", f"{d.cosine:.4f}", f"{d.norm_ratio:.4g}"

    def graph_cell(self) -> str:
        """Its difference from `fbp.graph`, as text."""
        if self.against_graph is None:
            return "none"
        return "zero" if self.is_zero else f"{self.against_graph.relative_error:.1e}"


@dataclass(frozen=True)
class EquationResult:
    """One equation of one layer, with its incoming cotangent taken from the reference.

    Attributes:
        layer: the layer, by its path and what it is: "blocks[3].q Dense(8)".
        quantity: what the equation gives: dW_2, db_2, dA_1, dZ_1, d_gamma, ..., and "pair of dW_2" where it is the sum
            of what the layer declares in `linear`. Layers with a weight matrix are numbered as in `fbp.trace`.
        leaf: the array beside the reference, with what the judge says.
    """

    layer: str
    quantity: str
    leaf: LeafResult

    @property
    def verdict(self) -> Verdict:
        """The verdict on its array."""
        return self.leaf.verdict


@dataclass(frozen=True)
class Verification(Printable):
    """What the judges say of a gradient. It prints as a table; `to_json` gives the numbers.

    Attributes:
        subject: what was verified.
        leaves: one entry per leaf.
        equations: of a network of fbp, one entry per equation; empty where they were not asked for.
        cost: what the gradient costs beside `jax.grad`; None where it was not measured.
        value: the loss; None where it was not computed.
        without_graph: why `fbp.graph` gives no third gradient; empty where it gives one or was not asked.
        device: where it ran.
    """

    subject: str
    leaves: tuple[LeafResult, ...]
    equations: tuple[EquationResult, ...] = ()
    cost: CostComparison | None = None
    value: float | None = None
    without_graph: str = ""
    device: str = field(default_factory=lambda: jax.devices()[0].device_kind)

    @property
    def verdict(self) -> Verdict:
        """FAIL where a leaf or an equation fails, else INCONCLUSIVE where a leaf is, else PASS."""
        if any(each.verdict == "FAIL" for each in self.equations):
            return "FAIL"
        return worst(leaf.verdict for leaf in self.leaves)

    @property
    def exit_status(self) -> int:
        """0 where all pass, 1 where one fails, 3 where none fails and one is inconclusive."""
        return EXIT_STATUS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, by a versioned schema."""
        return {
            "schema": "fbp.verification",
            "schema_version": SCHEMA_VERSION,
            "subject": self.subject,
            "verdict": self.verdict,
            "device": self.device,
            "loss": self.value,
            "leaves": [leaf.to_dict() for leaf in self.leaves],
            "equations": [
                {"layer": each.layer, "quantity": each.quantity, **each.leaf.to_dict()} for each in self.equations
            ],
            "cost": self.cost and self.cost.to_dict(),
            "without_graph": self.without_graph,
        }

    def __rich__(self) -> Any:
        asked = [name for name in DIRECTIONAL if any(leaf.judge(name) for leaf in self.leaves)]
        third = bool(self.without_graph) or any(leaf.against_graph for leaf in self.leaves)
        numbers = (*_NUMBERS[:1], *[_HEADINGS[_GRAPH]] * third, *_NUMBERS[1:])

        def cells(leaf: LeafResult) -> tuple[str, ...]:
            own = leaf.cells()
            return (*own[:1], *[leaf.graph_cell()] * third, *own[1:])

        table = make_table(
            f"{self.subject} against jax.grad" + (f" and {_GRAPH}" if third else ""),
            ("leaf", "verdict", *numbers, *(_HEADINGS[name] for name in asked)),
            (
                (name, paint(leaf.verdict, leaf.verdict), *cells(leaf), *_marks(leaf, asked))
                for name, leaf in zip(_name_leaves([leaf.path for leaf in self.leaves]), self.leaves, strict=True)
            ),
            numbers=numbers,
            folds={"leaf": 8},
        )
        remarks = [line for leaf in self.leaves for line in leaf.remark(leaf.path or WHOLE)]
        remarks += [Text(f"{_GRAPH}: {self.without_graph}")] if self.without_graph else []
        failed = [each for each in self.equations if each.verdict == "FAIL"]
        remarks += [line for each in failed for line in each.leaf.remark(f"{each.layer}: {each.quantity}")]
        parts: list[Table | Text] = [table, *remarks]
        if self.equations and len({each.layer for each in self.equations}) <= _LAYERS_SHOWN:
            parts.append(_equations_table(self.equations))
        if self.cost is not None:
            parts.append(_cost_table(self.cost))
        summary = f"{self.verdict}: {_count_passed(self.leaves)} leaves pass"
        if self.equations:
            summary += f", {_count_passed(self.equations)} equations"
        return Group(*parts, paint(f"{summary}, on {self.device}", self.verdict))


def _count_passed(results: tuple[Any, ...]) -> str:
    return f"{sum(each.verdict == 'PASS' for each in results)} of {len(results)}"


def _marks(leaf: LeafResult, asked: list[str]) -> list[Text]:
    results = [leaf.judge(name) for name in asked]
    return [paint(_MARKS[each.verdict], each.verdict) if each else Text("") for each in results]


def _name_leaves(paths: Sequence[str]) -> list[str]:
    """Paths that fit their column: "blocks.q.W" for "['blocks']['q']['W']", all of them where one is long."""
    if max(map(len, paths), default=0) >= _LONG_PATH:
        paths = [re.sub(r"\['(\w+)'\]", r".\1", path).removeprefix(".") for path in paths]
    return [path or WHOLE for path in paths]


def _equations_table(equations: tuple[EquationResult, ...]) -> Table:
    by_layer: dict[str, list[Text]] = {}
    for each in equations:
        d, mark = each.leaf.difference, "" if each.verdict == "PASS" else f" {each.verdict}"
        error = "" if d is None else " zero" if each.leaf.is_zero else f" {d.relative_error:.0e}"
        by_layer.setdefault(each.layer, []).append(paint(f"{each.quantity}{error}{mark}", each.verdict))
    width = max(map(len, by_layer.values()))
    rows = ((layer, *cells, *[""] * (width - len(cells))) for layer, cells in by_layer.items())
    return make_table("equation by equation", ("layer", *[""] * width), rows)


def _cost_table(cost: CostComparison) -> Table:
    rows = (
        ("compile", lambda c: f"{c.compile_seconds:.2f} s", cost.compile_ratio),
        ("step", lambda c: f"{1e3 * c.step_seconds:.3f} ms", cost.step_ratio),
        ("operations", lambda c: f"{c.flops:.3g}", cost.flops_ratio),
        ("temporary memory", lambda c: f"{c.temporary_bytes / 2**20:.3f} MiB", cost.memory_ratio),
    )
    third = [cost.graph] if cost.graph else []
    headings = ("hand-written", "jax.grad", "ratio", *[_GRAPH for _ in third])
    cells = (
        (name, show(cost.manual), show(cost.autodiff), f"{ratio:.2f}", *map(show, third)) for name, show, ratio in rows
    )
    return make_table("cost of one value and gradient", ("", *headings), cells, numbers=headings)
