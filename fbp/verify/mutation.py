"""Judges judged: every canonical fault in a correct backward pass, and which judge finds it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
from rich.console import Group

from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params, Targets, Weights
from fbp.verify.equations import compute_layer_inputs, judge_equations
from fbp.verify.faults import Mutant, make_mutants
from fbp.verify.judges import judge
from fbp.verify.networks import ByHand, NetworkLoss, prepare_arguments
from fbp.verify.reference import compute_reference, make_seed
from fbp.verify.result import JUDGES, EquationResult, LeafResult, worst
from fbp.verify.table import Printable, make_table, paint
from fbp.verify.tolerance import Verdict, differences, in_float64, on_host

_NO_CHANGE = 1e-14
"""Relative change of every leaf in float64 up to which a mutant's gradient is the right one."""
_STATES = ("killed", "survived", "equivalent")
_LETTERS = dict(zip((*JUDGES, "equations"), "ADJE", strict=True))


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    Attributes:
        fault: what is wrong with it.
        place: where.
        state: "killed", "survived", or "equivalent" where the fault does not change the gradient.
        judges: the verdict of each judge.
        evidence: what the equations or the hints say.
    """

    fault: str
    place: str
    state: Literal["killed", "survived", "equivalent"]
    judges: dict[str, Verdict]
    evidence: str


@dataclass(frozen=True)
class MutationReport(Printable):
    """Which judge kills which mutant. It prints as a table.

    Attributes:
        mutants: one entry per fault and place.
    """

    mutants: tuple[MutantResult, ...]

    @property
    def survivors(self) -> tuple[MutantResult, ...]:
        """Mutants with a wrong gradient that no judge found."""
        return tuple(each for each in self.mutants if each.state == "survived")

    @property
    def exit_status(self) -> int:
        """0 where every effective mutant is killed, else 1."""
        return int(bool(self.survivors))

    def counts(self) -> dict[str, int]:
        """How many mutants there are in each state."""
        return {state: sum(each.state == state for each in self.mutants) for state in _STATES}

    def to_dict(self) -> dict[str, Any]:
        """The mutants as plain data."""
        return {**self.counts(), "mutants": [asdict(each) for each in self.mutants]}

    def __rich__(self) -> Any:
        legend = ", ".join(f"{letter} {judge}" for judge, letter in _LETTERS.items())
        table = make_table(
            f"faults injected, killed by {legend}",
            ("fault", "place", "state", "by", "evidence"),
            (
                (each.fault, each.place, paint(each.state, each.state), _killers(each), each.evidence)
                for each in self.mutants
            ),
            folds={"fault": 12, "place": 9, "state": 10, "by": 7},
        )
        kills = ", ".join(
            f"{judge} {sum(each.judges.get(judge) == 'FAIL' for each in self.mutants)}" for judge in _LETTERS
        )
        killed, survived, equivalent = self.counts().values()
        summary = f"{killed} of {killed + survived} effective faults killed ({kills}); {equivalent} equivalent"
        return Group(table, paint(summary, "survived" if survived else "killed"))


def _killers(mutant: MutantResult) -> str:
    if not mutant.judges:
        return ""
    return " ".join(letter if mutant.judges[judge] == "FAIL" else "." for judge, letter in _LETTERS.items())


def mutate(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Weights = None,
    key: Key | None = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> MutationReport:
    """Inject every fault of `fbp.verify.faults` into a network's backward pass, one at a time, and judge each.

    Args:
        net: a network whose backward pass is right.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets.
        weights: one per example, (m,).
        key: randomness for dropout and for the judges; without it dropout is the identity, and the judges draw from a
            fixed key.
        progress: called with a line for each mutant.

    Returns:
        A `MutationReport`: it prints as a table, and names the survivors.

    Raises:
        FbpError: the shapes do not fit.

    Example:
        >>> params, _ = fbp.Dense(2).init(jax.random.key(0), (3,))
        >>> X, Y = jnp.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.5]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> report = fbp.verify.mutate(fbp.Dense(2), fbp.HalfSquaredError(), params, X, Y)
        >>> report.survivors
        ()
    """
    args, seed = prepare_arguments(net, params, X, Y, weights, key), make_seed(key)
    reference = compute_reference(NetworkLoss(net, loss), args, seed=seed)
    inputs = compute_layer_inputs(net, loss, *args)
    args64 = in_float64(on_host(args))
    with jax.enable_x64(True):
        right = jax.device_get(ByHand(net, loss)(*args64))
    results = []
    for mutant in make_mutants(net, loss):
        progress(f"{mutant.fault} in {mutant.place}")
        candidate = ByHand(mutant.net, mutant.loss)
        with jax.enable_x64(True):
            wrong = candidate(*args64)
        if all(leaf.relative_error <= _NO_CHANGE for leaf in differences(wrong, right)):
            results.append(MutantResult(mutant.fault, mutant.place, "equivalent", {}, "the gradient is the right one"))
            continue
        equations = judge_equations(mutant.net, mutant.loss, args[0], inputs, seed)
        results.append(_summarize(mutant, judge(reference, candidate), equations))
    return MutationReport(tuple(results))


def _summarize(mutant: Mutant, leaves: tuple[LeafResult, ...], equations: tuple[EquationResult, ...]) -> MutantResult:
    judges: dict[str, Verdict] = {
        name: worst(each.verdict for leaf in leaves if (each := leaf.judge(name)) is not None) for name in JUDGES
    }
    judges["equations"] = worst(each.verdict for each in equations)
    marked = [f"{each.layer}: {each.quantity} ({each.leaf.hint})" for each in equations if each.verdict == "FAIL"]
    hints = [f"{leaf.path}: {leaf.hint}" for leaf in leaves if leaf.hint]
    state = "killed" if "FAIL" in judges.values() else "survived"
    return MutantResult(mutant.fault, mutant.place, state, judges, next(iter(marked + hints), ""))
