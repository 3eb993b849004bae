"""Judges judged: every canonical fault in a correct backward pass, and which judge finds it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params
from fbp.verify.equations import equations, points
from fbp.verify.faults import Mutant, mutants
from fbp.verify.judges import judge_against, point
from fbp.verify.measures import differences
from fbp.verify.networks import ByHand, NetworkLoss
from fbp.verify.opinion import JUDGES, Verdict, worst
from fbp.verify.result import LeafVerdict, Printable
from fbp.verify.rounding import in_float64, on_host

_NO_CHANGE = 1e-14
"""Relative change of every leaf in float64 up to which a mutant's gradient is the right one."""


@dataclass(frozen=True)
class MutantVerdict:
    """What became of one mutant.

    Attributes:
        fault: what is wrong with it.
        place: where.
        state: "killed", "survived", or "equivalent" where the fault does not change the gradient.
        judges: the verdict of each judge.
        found: what the equations or the hints say.
    """

    fault: str
    place: str
    state: Literal["killed", "survived", "equivalent"]
    judges: dict[str, Verdict]
    found: str


@dataclass(frozen=True)
class MutationReport(Printable):
    """Which judge kills which mutant. Prints as a table."""

    mutants: tuple[MutantVerdict, ...]

    @property
    def survivors(self) -> tuple[MutantVerdict, ...]:
        """Mutants with a wrong gradient that no judge found."""
        return tuple(each for each in self.mutants if each.state == "survived")

    @property
    def exit_status(self) -> int:
        """0 where every effective mutant is killed, else 1."""
        return int(bool(self.survivors))

    def to_dict(self) -> dict[str, Any]:
        """The mutants as plain data."""
        counts = {state: sum(each.state == state for each in self.mutants) for state in _STATES}
        return {**counts, "mutants": [asdict(each) for each in self.mutants]}

    def __rich__(self) -> Any:
        from fbp.verify.tables import mutation_table

        return mutation_table(self)


_STATES = ("killed", "survived", "equivalent")


def mutate(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Num[Array, "..."],
    weights: Float[Array, " m"] | None = None,
    key: Key | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> MutationReport:
    """Inject every fault of `fbp.verify.faults` into a network's backward pass, one at a time, and judge each.

    Args:
        net: a network whose backward pass is right.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs.
        Y: targets.
        weights: one per example.
        key: randomness for dropout.
        seed: of the judges.
        progress: called with a line for each mutant.
    """
    params, X, Y = jax.tree.map(jnp.asarray, (params, X, Y))
    args = (params, X, Y, weights, key)
    of = point(NetworkLoss(net, loss), args, seed=seed)
    at = points(net, loss, *args)
    args64 = in_float64(on_host(args))
    with jax.enable_x64(True):
        right = jax.device_get(ByHand(net, loss)(*args64))
    found = []
    for mutant in mutants(net, loss):
        progress(f"{mutant.fault} in {mutant.place}")
        candidate = ByHand(mutant.net, mutant.loss)
        with jax.enable_x64(True):
            wrong = candidate(*args64)
        if all(leaf.relative_error <= _NO_CHANGE for leaf in differences(wrong, right)):
            found.append(MutantVerdict(mutant.fault, mutant.place, "equivalent", {}, "the gradient is the right one"))
            continue
        leaves = judge_against(of, candidate, args, seed=seed)
        found.append(_verdict(mutant, leaves, equations(mutant.net, mutant.loss, params, at, seed)))
    return MutationReport(tuple(found))


def _verdict(mutant: Mutant, leaves: tuple[LeafVerdict, ...], cells: Any) -> MutantVerdict:
    judges: dict[str, Verdict] = {}
    for judge in JUDGES:
        judges[judge] = worst(o.verdict for leaf in leaves if (o := leaf.said_by(judge)) is not None)
    judges["equations"] = worst(cell.verdict for cell in cells)
    marked = [f"{cell.layer}: {cell.quantity} ({cell.leaf.hint})" for cell in cells if cell.verdict == "FAIL"]
    hints = [f"{leaf.path}: {leaf.hint}" for leaf in leaves if leaf.hint]
    state = "killed" if "FAIL" in judges.values() else "survived"
    return MutantVerdict(mutant.fault, mutant.place, state, judges, next(iter(marked + hints), ""))
