"""What `jax.grad` gives at a point, and how far rounding moves it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import jax
import numpy as np

from fbp.verify.evaluation import Argnums
from fbp.verify.tolerance import DRAWS, Allowance, distance, largest_of, norm

Leaves: TypeAlias = dict[str, np.ndarray]
"""Arrays by path; a complex one as two real ones, see `as_real`."""
Shift: TypeAlias = tuple[float, np.ndarray]
"""A small difference, as a factor and its multiples in float16: three digits of it suffice."""


@dataclass(frozen=True)
class Gradients:
    """`jax.grad` at a point, and how it moves when its inputs do.

    Attributes:
        here: the gradient.
        moves: for each leaf how far it moves, for each draw of inputs that are some roundings away.
        shifts: by how much, for the first draws; empty where nobody asks.
        floor: the relative difference that no gradient function is blamed for.
    """

    here: Leaves
    moves: dict[str, list[float]]
    shifts: tuple[dict[str, Shift], ...] = ()
    floor: float = 0.0

    @classmethod
    def measure(
        cls, here: Leaves, at_perturbed: Callable[[int], Leaves], floor: float = 0.0, shifts: int = 0
    ) -> "Gradients":
        """From the gradient, and what gives it at the inputs of each draw."""
        moves: dict[str, list[float]] = {path: [] for path in here}
        kept = []
        for i in range(DRAWS):
            there = at_perturbed(i)
            for path, g in here.items():
                moves[path].append(distance(there[path], g))
            if i < shifts:
                with np.errstate(invalid="ignore"):
                    kept.append({path: _compress(there[path] - g) for path, g in here.items()})
        return cls(here, moves, tuple(kept), floor)

    def allow(
        self,
        path: str,
        dtype: str,
        exact: np.ndarray,
        jitter: float = 0.0,
        floor: float = 0.0,
        tolerance: float = 0.0,
    ) -> Allowance:
        """What rounding in a dtype explains of one leaf; see `Allowance.measure`.

        Args:
            path: the leaf's path.
            dtype: of the arithmetic.
            exact: the leaf in float64.
            jitter: the rounding of the gradient function itself.
            floor: the relative difference that is rounding in any case.
            tolerance: the relative difference that the user allows.
        """
        off, size = distance(self.here[path], exact), norm(exact)
        measured = Allowance.measure(dtype, size, off, self.moves[path], jitter, max(self.floor, floor))
        return replace(measured, allowed=tolerance * size)


@dataclass(frozen=True)
class Autodiff:
    """The gradients of a loss by `jax.grad`.

    Attributes:
        own: in the arguments' own dtypes.
        exact: in float64; the same ones where the loss is not evaluated in float64.
        has_float64: whether it is.
    """

    own: Gradients
    exact: Gradients
    has_float64: bool = True

    @cached_property
    def total(self) -> float:
        """The norm of the whole gradient."""
        return norm(np.asarray([norm(x) for x in self.exact.here.values()]))


@dataclass(frozen=True)
class ValueAndGradient:
    """`jax.value_and_grad` of a loss; equal ones compile once."""

    loss: Callable[..., Any]
    argnums: Argnums

    def __call__(self, *args: Any) -> Any:
        return jax.value_and_grad(self.loss, self.argnums, allow_int=True)(*args)


def _compress(shift: np.ndarray) -> Shift:
    largest = largest_of(shift)
    if 0 < largest < np.inf:
        # In place: it may be as large as the gradient.
        shift /= largest
    return largest, shift.astype(np.float16)
