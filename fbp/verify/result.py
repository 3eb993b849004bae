"""What a verification found, as data that prints itself: terminal, notebook, JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.measures import LeafDifference
from fbp.verify.opinion import EXIT_STATUS, ZERO, Opinion, Verdict, together, worst


class Printable:
    """A result that rich, `str` and notebooks show as a table, and `to_json` gives as numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON: no NaN and no infinity, null in their place."""
        raise NotImplementedError

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __rich__(self) -> Any:
        raise NotImplementedError

    def __str__(self) -> str:
        from fbp.verify.tables import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from fbp.verify.tables import as_html

        return as_html(self)


@dataclass(frozen=True)
class LeafVerdict:
    """One leaf of a gradient.

    Attributes:
        path: its path in the differentiated arguments.
        dtype: the dtype that it should have.
        shape: its shape.
        difference: from `jax.grad` in float64; None where there is nothing to compare.
        explained: the relative difference that rounding in its dtype explains.
        opinions: what each judge says.
        hint: what a wrong leaf looks like.
        note: what is unusual, but not wrong.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    difference: LeafDifference | None
    explained: float
    opinions: tuple[Opinion, ...]
    hint: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """FAIL where one judge says so, PASS where one can speak and none objects."""
        return together(self.opinions)

    @property
    def reason(self) -> str:
        """Why it did not pass: the first reason of the judges with the worst to say; where it passed, nothing."""
        if self.verdict == "PASS":
            return ""
        reasons = (opinion for opinion in self.opinions if opinion.verdict == self.verdict)
        return next((f"{opinion.judge}: {opinion.reason}" for opinion in reasons if opinion.reason), "")

    @property
    def epsilons(self) -> float:
        """The relative error in units of the dtype's epsilon."""
        if self.difference is None:
            return float("nan")
        return self.difference.relative_error / float(jnp.finfo(self.dtype).eps)

    @property
    def is_zero(self) -> bool:
        """Whether its gradient is zero up to rounding, so that a relative error says nothing."""
        return any(opinion.reason == ZERO for opinion in self.opinions)

    def said_by(self, judge: str) -> Opinion | None:
        """The opinion of one judge; None where it was not asked."""
        return next((opinion for opinion in self.opinions if opinion.judge == judge), None)

    def to_dict(self) -> dict[str, Any]:
        """The leaf as plain data."""
        found = {
            "path": self.path,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "verdict": self.verdict,
            "hint": self.hint,
            "reason": self.reason,
            "note": self.note,
            "explained_by_rounding": self.explained,
            "epsilons": self.epsilons,
            "judges": {opinion.judge: [opinion.verdict, opinion.reason] for opinion in self.opinions},
        }
        d = self.difference
        if d is not None:
            found |= {
                "relative_error": d.relative_error,
                "cosine": d.cosine,
                "norm_ratio": d.norm_ratio,
                "norm": d.norm,
                "worst_index": list(d.worst),
            }
        return found


@dataclass(frozen=True)
class EquationVerdict:
    """One equation of one layer, with its incoming cotangent taken from the reference.

    Attributes:
        layer: the layer, by its place and what it is.
        quantity: what the equation gives: dW_2, db_2, dA_1, dZ_1, d_gamma, ...
        leaf: the array beside the reference, with what the judge says.
    """

    layer: str
    quantity: str
    leaf: LeafVerdict

    @property
    def verdict(self) -> Verdict:
        """Of its array."""
        return self.leaf.verdict


@dataclass(frozen=True)
class Verification(Printable):
    """What the judges say about a gradient. Prints as a table; `to_json` gives the numbers.

    Attributes:
        subject: what was verified.
        leaves: one entry a leaf.
        equations: of a network of fbp, one entry an equation.
        device: where it ran.
    """

    subject: str
    leaves: tuple[LeafVerdict, ...]
    equations: tuple[EquationVerdict, ...] = ()
    device: str = field(default_factory=lambda: jax.devices()[0].device_kind)

    @property
    def verdict(self) -> Verdict:
        """FAIL where a leaf or an equation fails, else INCONCLUSIVE where a leaf is, else PASS."""
        return (
            "FAIL"
            if any(each.verdict == "FAIL" for each in self.equations)
            else worst(leaf.verdict for leaf in self.leaves)
        )

    @property
    def exit_status(self) -> int:
        """0 where all pass, 1 where one fails, 3 where none fails and one is inconclusive."""
        return EXIT_STATUS[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON: no NaN and no infinity, null in their place."""
        equations = [{"layer": each.layer, "quantity": each.quantity, **each.leaf.to_dict()} for each in self.equations]
        found = {"subject": self.subject, "verdict": self.verdict, "device": self.device}
        return without_nan(found | {"leaves": [leaf.to_dict() for leaf in self.leaves], "equations": equations})

    def __rich__(self) -> Any:
        from fbp.verify.tables import verification_table

        return verification_table(self)


def without_nan(data: Any) -> Any:
    """Plain data with None for NaN and infinity, which JSON does not have."""
    if isinstance(data, dict):
        return {name: without_nan(value) for name, value in data.items()}
    if isinstance(data, list):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data
