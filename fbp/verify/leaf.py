"""The first judge: a leaf of a gradient against autodiff, in its own dtype and in float64."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fbp.verify.autodiff import Autodiff, Gradients
from fbp.verify.hints import OWN_RULE, Place, make_hint
from fbp.verify.reference import Reference
from fbp.verify.result import JudgeResult, LeafResult
from fbp.verify.tolerance import (
    ALLOWED,
    EXCESS,
    Allowance,
    Verdict,
    as_real,
    close_of,
    difference,
    distance,
    epsilon,
    floor_of,
    is_double,
    norm,
)


@dataclass(frozen=True)
class LeafByAutodiff:
    """Judge 1: one leaf against autodiff in float64, with what rounding explains.

    Where there is such a path, the leaf is judged in float64 arithmetic, too.

    Attributes:
        path: the leaf's path.
        dtype: its dtype.
        g: the leaf, computed in its own dtype.
        in_float64: the leaf computed in float64; None where its function does not.
        jitter: the rounding of its function in float64, as in `Allowance.measure`; None likewise.
        autodiff: the reference.
        compared: the gradients in float64 that `in_float64` is compared with; None for those of `autodiff`.
        tolerance: the relative norm error that the user allows.
        reference: the loss, for the size of what is zero up to rounding; None takes the whole gradient's.
    """

    path: str
    dtype: str
    g: np.ndarray
    in_float64: np.ndarray | None
    jitter: float | None
    autodiff: Autodiff
    compared: Gradients | None = None
    tolerance: float = 0.0
    reference: Reference | None = None

    @property
    def exact(self) -> np.ndarray:
        """`jax.grad` in float64 (in its own dtype where the loss has no float64 path)."""
        return self.autodiff.exact.here[self.path]

    @property
    def exact_for_float64(self) -> Gradients:
        """What the leaf in float64 is compared with."""
        return self.compared or self.autodiff.exact

    @property
    def without_float64(self) -> str:
        """What is said where the loss has no float64 path."""
        why = self.reference.why if self.reference else ""
        return "" if self.autodiff.has_float64 else f"compared with autodiff in its dtype: {why or 'no float64 path'}"

    @cached_property
    def sharp(self) -> Allowance | None:
        """What rounding explains in float64; None where the loss has no float64 path."""
        if not self.autodiff.has_float64:
            return None
        exact = self.exact_for_float64
        here = exact.here[self.path]
        return exact.allow(self.path, "float64", here, self.jitter or 0.0, tolerance=self.tolerance)

    @cached_property
    def own(self) -> Allowance:
        """What rounding explains in the leaf's own dtype."""
        if is_double(self.dtype) and self.sharp is not None:
            return self.sharp
        # Where float64 cannot tell, a tenth of a gradient in half precision is no rounding.
        floor = close_of(self.dtype) if self.in_float64 is None else floor_of(self.dtype)
        return self.autodiff.own.allow(self.path, self.dtype, self.exact, floor=floor, tolerance=self.tolerance)

    @property
    def explained(self) -> float:
        """The norm of a difference that rounding explains, in float64 where the leaf was computed in it."""
        sharp = self.own if self.in_float64 is None else self.sharp
        return (sharp or self.own).explained

    @property
    def steady(self) -> float:
        """The norm of a difference that rounding explains where it crosses no kink."""
        size, is_sharp = norm(self.exact), self.in_float64 is not None
        floor = self.exact_for_float64.floor if is_sharp else floor_of(self.dtype)
        off = 0.0 if is_sharp else distance(self.autodiff.own.here[self.path], self.exact)
        return max(ALLOWED / 2 * off, floor * size, self.tolerance * size)

    @property
    def excused(self) -> float:
        """The norm of a difference that is not called wrong: more than is explained where float64 does not tell."""
        is_sharp = self.in_float64 is not None or is_double(self.dtype)
        size = norm(self.exact)
        return max(self.explained if is_sharp else self.own.bound(size), self.tolerance * size)

    @cached_property
    def is_zero(self) -> bool:
        """Whether the exact leaf is zero up to rounding, so that a relative error says nothing."""
        own = 0.0 if is_double(self.dtype) else norm(self.autodiff.own.here[self.path])
        return self.sharp is not None and self.sharp.is_zero(norm(self.exact), self._natural, own)

    @property
    def _natural(self) -> float:
        return self.reference.natural(self.path) if self.reference else self.autodiff.total

    def _zero_level(self, dtype: str) -> float | None:
        """What rounding may give to a zero in a dtype; None where the leaf is no zero."""
        if not self.is_zero:
            return None
        own = self.autodiff.own if dtype == self.dtype else self.exact_for_float64
        return 4 * ALLOWED * epsilon(dtype) * self._natural + ALLOWED * norm(own.here[self.path])

    def assess(self) -> tuple[Verdict, str]:
        """What autodiff says, and why."""
        against_autodiff = difference(self.path, self.g, self.autodiff.own.here[self.path]).relative_error
        off = difference(self.path, self.g, self.exact)
        verdict, reason = self.own.assess(off, against_autodiff, self._zero_level(self.dtype))
        if self.sharp is None or self.in_float64 is None or is_double(self.dtype):
            return verdict, reason
        off = difference(self.path, self.in_float64, self.exact_for_float64.here[self.path])
        in_float64, _ = self.sharp.assess(off, off.relative_error, self._zero_level("float64"))
        if in_float64 == "FAIL":
            return "FAIL", f"off in float64 arithmetic too, by {off.relative_error:.1e}"
        if in_float64 == "PASS" and verdict == "FAIL":
            return "FAIL", f"right in float64 and wrong in {self.dtype}: is a sum or product computed in less?"
        if in_float64 == "PASS" and verdict == "INCONCLUSIVE" and not reason.startswith(EXCESS):
            return "PASS", f"{reason}; judged in float64"
        return verdict, reason

    def describe(self, judges: tuple[JudgeResult, ...], lengths: Collection[int], note: str = "") -> LeafResult:
        """The leaf with its differences from autodiff, and a hint where a judge fails it.

        Args:
            judges: what they say.
            lengths: what may be a number of examples.
            note: what is unusual.
        """
        text, size = "", norm(self.exact)
        verdicts = {each.judge: each.verdict for each in judges}
        if "FAIL" in verdicts.values():
            best = self.g if self.in_float64 is None else self.in_float64
            if verdicts.get("autodiff") == "PASS" and verdicts.get("differences") == "FAIL":
                text = OWN_RULE
            elif self.is_zero:
                text = f"the gradient must be zero here, got norm {norm(best):.3g}"
            else:
                at = Place(self.path, self.dtype, self.point, lengths)
                text = make_hint(at, best, self.exact_for_float64.here, self.explained)
        against = difference(self.path, self.g, self.autodiff.own.here[self.path])
        explained = self.own.explained / size if size else 0.0
        off = difference(self.path, self.g, self.exact)
        shape = self.g.shape[:-1] if self.dtype.startswith("complex") else self.g.shape
        return LeafResult(self.path, self.dtype, shape, off, against, explained, judges, text, note)

    @property
    def point(self) -> np.ndarray | None:
        """The value of the leaf that is differentiated by."""
        return None if self.reference is None else as_real(self.reference.inputs[self.path])
