"""The gradient checker judged on operations that are not ours, each as it is and with faults in a copy of its rule.

    python benchmarks/verify_operations.py --out benchmarks/results

The operations stand in operations/, the faults in rule_faults.py. `jax.test_util.check_grads` and
`chex.assert_numerical_grads` look at the same gradients, with their default tolerances.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from checkers import CHECKERS, ask_checkers
from gradient_program import Program, Projected, replace, select
from operations import load_operations
from operations.operation import Operation, is_array, is_inexact, stable_seed
from results import Row, Task, start
from rule_faults import Fault, Inapplicable, Rule, propose_faults
from sections import Column, group, section, show

import fbp
from fbp.partition import combine, partition
from fbp.verify.reference import compute_reference
from fbp.verify.tolerance import difference, norm

Gradient = Callable[..., Any]

RIGHT: dict[str, Callable[["Prepared"], Gradient]] = {
    "as its library differentiates": lambda prepared: prepared.gradient,
    "equation by equation": lambda prepared: Rule(prepared.program),
    "summed over halves of the outputs": lambda prepared: Rule(prepared.program, is_split=True),
}
"""Ways to compute the right gradient, which round differently; each is judged at a point of its own."""
FAULTS = 3
"""Effective faults of each operation in each dtype."""
EFFECTIVE = 10
"""By how many times autodiff's own error in the dtype a fault changes a leaf, at least."""
WIDEST = ("float64", "complex128")
HALF = ("bfloat16", "float16")
EFFECTIVE_IN_FLOAT64 = 1e-12
"""The same in the widest dtypes, where autodiff is exact unless the operation computes in fewer digits inside."""
NEGLIGIBLE = 1e-9
"""A leaf this much smaller than the whole gradient is zero up to rounding."""
PROPORTIONAL = 1e-3
"""A fault is a mere scaling where a common factor of all leaves explains all but this part of the change."""
SCALINGS, CAUGHT, DOUBTFUL = 0.2, 0.999, 0.02
"""Targets: the part of the faults that are mere scalings, that of those caught, and that of right ones left open."""
QUICK = 20
"""Every which operation is judged in a quick run."""


class Prepared(NamedTuple):
    """What is compiled once for an operation.

    Attributes:
        program: its gradient program.
        loss: the loss that is differentiated.
        gradient: the right gradient, as users of the operation's library compute it.
        value: the loss of the arrays among the arguments.
    """

    program: Program
    loss: Projected
    gradient: Gradient
    value: Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """An operation in a dtype at one point."""

    prepared: Prepared
    dtype: str
    seed: int

    @property
    def program(self) -> Program:
        return self.prepared.program

    @property
    def operation(self) -> Operation:
        return self.program.operation

    @cached_property
    def args(self) -> tuple[Any, ...]:
        return self.operation.arguments(self.dtype, self.seed)

    def judge(self, gradient: Gradient) -> tuple[str, list[list[str]]]:
        """The verdict on a gradient function, and what is said of each leaf that did not pass.

        An exception of the checker is a verdict of its own.
        """
        operation, prepared = self.operation, self.prepared
        try:
            if operation.reference is not None:
                rule = operation.function if gradient is prepared.gradient else self._with_rule(gradient)
                found = fbp.verify.vjp(rule, *self.args, reference=operation.reference)
            else:
                found = fbp.verify.gradient(gradient, prepared.loss, *self.args, argnums=self.program.argnums)
        except Exception as error:
            return "ERROR", [["", "ERROR", f"{type(error).__name__}: {error}".split("\n")[0][:200]]]
        doubts = [leaf for leaf in found.leaves if leaf.verdict != "PASS"]
        return found.verdict, [[leaf.path, leaf.verdict, leaf.reason or leaf.hint] for leaf in doubts]

    def _with_rule(self, gradient: Rule) -> Callable[..., Any]:
        """The operation with another rule: the cotangents that it is called with replace those of the loss."""
        function = jax.custom_vjp(self.operation.function)
        function.defvjp(lambda *args: (self.operation.function(*args), args), gradient.pull_back)
        return function

    def in_float64(self, gradient: Gradient) -> Any:
        """A gradient function in float64, at the same point."""
        widest = lambda x: np.asarray(x).astype(np.complex128 if jnp.iscomplexobj(x) else np.float64)
        with jax.enable_x64(True):
            args = jax.tree.map(lambda x: jnp.asarray(widest(x)) if is_inexact(x) else x, self.args)
            return gradient(*args)

    @cached_property
    def right(self) -> list[np.ndarray]:
        """The leaves of the right gradient."""
        return _host(Rule(self.program)(*self.args))

    @cached_property
    def errors(self) -> list[float]:
        """For each leaf the relative change that is effective: what autodiff is off in the dtype, ten times."""
        if self.dtype in WIDEST:
            return [max(EFFECTIVE_IN_FLOAT64, EFFECTIVE * error) for error in self._errors_in_float64]
        eps = float(jnp.finfo(self.dtype).eps)
        # Other random numbers are drawn in float64, so that nothing is known of autodiff's error.
        draws = any(
            jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(self.args) if hasattr(x, "dtype")
        )
        exact = self.right if draws else _host(self.in_float64(Rule(self.program)))
        off = [
            norm(np.abs(g - g64)) / norm(np.abs(g64)) if g64.any() else 0.0
            for g, g64 in zip(self.right, exact, strict=True)
        ]
        return [EFFECTIVE * max(error, eps) for error in off]

    @property
    def _errors_in_float64(self) -> list[float]:
        """What autodiff is off in float64, where the operation computes in fewer digits inside."""
        arrays, constants = partition(self.args, is_array)
        loss = lambda *arrays: self.prepared.loss(*combine(arrays, constants))
        autodiff = compute_reference(loss, arrays, self.program.argnums).autodiff
        if autodiff is None:
            return [0.0] * len(self.right)
        return [
            difference(path, autodiff.own.here[path], exact).relative_error
            for path, exact in autodiff.exact.here.items()
        ]

    def ask_others(self, gradient: Any) -> dict[str, str]:
        """What the other checkers do with a gradient."""
        chosen = select(self.args, self.program.argnums)
        floating, fixed = partition(chosen, is_inexact)
        leaves, treedef = jax.tree.flatten(floating)
        given = [g for g in jax.tree.leaves(gradient) if is_inexact(g)]

        def value(*leaves: Any) -> Any:
            args = replace(self.args, self.program.argnums, combine(treedef.unflatten(leaves), fixed))
            return self.prepared.value(partition(args, is_array)[0])

        return ask_checkers(value, leaves, given)


@lru_cache(maxsize=1)
def prepare(library: str, name: str) -> Prepared:
    """An operation; compiled programs of the operation before are dropped."""
    jax.clear_caches()
    operation = next(each for each in load_operations()[library] if each.name == name)
    args = operation.arguments(operation.dtypes[0], 0)
    argnums, loss, constants = operation.differentiated(args), Projected(operation), partition(args, is_array)[1]
    make = operation.grad or (lambda loss: jax.jit(jax.grad(loss, argnums, allow_int=True)))
    value = jax.jit(lambda arrays: loss(*combine(arrays, constants)))
    return Prepared(Program(operation, argnums), loss, make(loss), value)


def right_row(library: str, name: str, dtype: str) -> Row:
    """The right gradient in several ways, each at a point of its own."""
    judged = []
    for seed, (way, make) in enumerate(RIGHT.items()):
        case = Case(prepare(library, name), dtype, seed)
        gradient = make(case.prepared)
        verdict, doubts = case.judge(gradient)
        answers = case.ask_others(gradient(*case.args))
        rejected_by = [checker for checker, answer in answers.items() if answer != "accepts"]
        judged.append({"way": way, "seed": seed, "verdict": verdict, "doubts": doubts, "rejected_by": rejected_by})
    return {"gradients": judged}


def wrong_row(library: str, name: str, dtype: str) -> Row:
    """Faults of different kinds, each at a point of its own."""
    judged = []
    for fault, case, wrong, change in choose_faults(prepare(library, name), dtype, FAULTS):
        verdict, reasons = case.judge(Rule(case.program, fault))
        answers = case.ask_others(wrong)
        judged.append(
            {
                **asdict(fault),
                "seed": case.seed,
                "change": change.size,
                "scaling": change.is_scaling,
                "verdict": verdict,
                "reason": "" if verdict == "FAIL" else "; ".join(": ".join(each) for each in reasons),
                "rejected_by": [checker for checker, answer in answers.items() if answer == "rejects"],
            }
        )
    return {"faults": judged}


def choose_faults(prepared: Prepared, dtype: str, count: int) -> Iterator[tuple[Fault, Case, Any, "GradientChange"]]:
    """Effective faults, each with its case, the wrong gradient and how it differs: chosen before any verdict."""
    program, name = prepared.program, prepared.program.operation.name
    # In every other row one fault may be a mere scaling: at most a sixth of all.
    scalings, found = stable_seed("scalings", name, dtype) % 2, 0
    for faults in propose_faults(program, program.operation.arguments(dtype, 0), dtype):
        case = Case(prepared, dtype, found)
        for fault in faults:
            try:
                wrong, wrong64 = Rule(program, fault)(*case.args), case.in_float64(Rule(program, fault))
            except Inapplicable:
                continue
            change = GradientChange(case, wrong)
            finite = all(np.isfinite(leaf).all() for leaf in (*_host(wrong), *_host(wrong64)))
            if not finite or not change.is_effective or change.is_scaling > scalings:
                continue
            scalings -= change.is_scaling
            found += 1
            yield fault, case, wrong, change
            break
        if found == count:
            return


def _host(tree: Any) -> list[np.ndarray]:
    """The inexact leaves in double precision."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree) if is_inexact(x)]
    return [x.astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in leaves]


@dataclass(frozen=True)
class GradientChange:
    """What a fault does to the gradient in its own dtype."""

    case: Case
    wrong: Any

    @cached_property
    def _leaves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(zip(_host(self.wrong), self.case.right, strict=True))

    @cached_property
    def size(self) -> float:
        """The largest relative change of a leaf, in units of what makes a fault effective there.

        Leaves that are zero up to rounding do not count; where the right one is exactly zero, the change is relative
        to the whole gradient.
        """
        case, sizes = self.case, [0.0]
        total = norm(np.asarray([norm(np.abs(g)) for g in case.right])) or 1.0
        for (wrong, right), error in zip(self._leaves, case.errors, strict=True):
            size = norm(np.abs(right))
            if size > NEGLIGIBLE * total or size == 0:
                sizes.append(norm(np.abs(wrong - right)) / (size or total) / error)
        return max(sizes)

    @property
    def is_effective(self) -> bool:
        return self.size > 1

    @cached_property
    def is_scaling(self) -> bool:
        """Whether one factor on all leaves explains it."""
        wrong, right = (np.concatenate([x.ravel() for x in xs]) for xs in zip(*self._leaves, strict=True))
        if not (square := np.vdot(right, right).real):
            return False
        factor = np.vdot(right, wrong) / square
        return norm(np.abs(wrong - factor * right)) <= PROPORTIONAL * norm(np.abs(wrong - right))


MEASURES: dict[str, Callable[[str, str, str], Row]] = {"right": right_row, "wrong": wrong_row}


def choose_dtypes(operation: Operation) -> list[str]:
    """One of the two half precisions where an operation runs in both: all together would take too long."""
    left_out = HALF[stable_seed(operation.name) % 2] if set(operation.dtypes) >= set(HALF) else ""
    return [dtype for dtype in operation.dtypes if dtype != left_out]


def tasks(quick: bool) -> list[Task]:
    """What is judged, one operation after the other, whatever the table, so that its programs are compiled once."""
    return [
        Task(
            table,
            {"library": library, "operation": operation.name, "dtype": dtype},
            f"{table}, {library} {operation.name}, {dtype}",
            partial(measure, table, library, operation.name, dtype),
        )
        for library, operations in load_operations().items()
        for operation in (operations[::QUICK] if quick else operations)
        for dtype in choose_dtypes(operation)
        for table in MEASURES
    ]


def precision_of(dtype: str) -> Any:
    """A context in which there are numbers of a dtype."""
    return jax.enable_x64(dtype in WIDEST)


def measure(table: str, library: str, name: str, dtype: str) -> Row:
    """One row, and how long it took."""
    begin = time.perf_counter()
    with precision_of(dtype):
        row = MEASURES[table](library, name, dtype)
    return {**row, "seconds": time.perf_counter() - begin}


def markdown(rows: list[Row]) -> str:
    """The tables."""
    right, wrong = (
        [{**row["case"], **each} for row in rows if row["table"] == table for each in row[key]]
        for table, key in (("right", "gradients"), ("wrong", "faults"))
    )
    parts = lambda entries, name: {**group(entries, lambda entry: entry[name]), "all": entries}.items()
    share = lambda entries, holds: sum(map(holds, entries)) / max(len(entries), 1)
    false = sum(each["verdict"] in ("FAIL", "ERROR") for each in right)
    doubtful = share(right, lambda each: each["verdict"] == "INCONCLUSIVE")
    scalings, caught = share(wrong, lambda each: each["scaling"]), share(wrong, lambda each: each["verdict"] == "FAIL")
    least = min((len(row["faults"]) for row in rows if row["table"] == "wrong"), default=0)
    about_right = (
        f"false FAIL and ERROR: {false}, target 0, {show(false == 0)}",
        f"INCONCLUSIVE: {doubtful:.1%}, target at most {DOUBTFUL:.0%}, {show(doubtful <= DOUBTFUL)}",
    )
    about_wrong = (
        f"at least {least} effective faults in each operation and dtype",
        f"mere scalings: {scalings:.1%}, target at most {SCALINGS:.0%}, {show(scalings <= SCALINGS)}",
        f"caught: {caught:.2%}, target {CAUGHT:.1%}, {show(caught >= CAUGHT)}",
    )
    doubts = [each for each in right if each["verdict"] != "PASS"]
    escapes = [each for each in wrong if each["verdict"] != "FAIL"]
    by_kind = sorted(parts(wrong, "kind"), key=lambda part: (part[0] == "all", part[0]))
    return "\n\n".join(
        [
            section(
                "Right gradients by library",
                {"library": _part, "operations": _operations} | PASSING,
                parts(right, "library"),
            ),
            section("Right gradients by dtype", {"dtype": _part} | PASSING, parts(right, "dtype")),
            section("Right gradients by way", {"computed": _part} | PASSING, parts(right, "way"), about_right),
            section("Wrong gradients by kind of fault", {"fault": _part} | CATCHING, by_kind, about_wrong),
            _list("Right gradients that did not pass", doubts, _describe_doubts),
            _list("Wrong gradients that were not caught", escapes, _describe_escape),
        ]
    )


Part = tuple[str, list[Row]]
"""A part of a table: its name, and the gradients in it."""


def _part(part: Part) -> str:
    return part[0]


def _size(part: Part) -> int:
    return len(part[1])


def _operations(part: Part) -> int:
    return len({(each["library"], each["operation"]) for each in part[1]})


def _tally(verdict: str) -> Column:
    return lambda part: sum(each["verdict"] == verdict for each in part[1])


def _rejected_by(checker: str) -> Column:
    return lambda part: sum(checker in each["rejected_by"] for each in part[1])


PASSING: dict[str, Column] = {
    "gradients": _size,
    **{verdict: _tally(verdict) for verdict in ("PASS", "INCONCLUSIVE")},
    "false FAIL": _tally("FAIL"),
    "ERROR": _tally("ERROR"),
    **{f"rejected by {checker}": _rejected_by(checker) for checker in CHECKERS},
}
CATCHING: dict[str, Column] = {
    "effective": _size,
    "caught": _tally("FAIL"),
    **{verdict: _tally(verdict) for verdict in ("INCONCLUSIVE", "PASS", "ERROR")},
    **{f"caught by {checker}": _rejected_by(checker) for checker in CHECKERS},
}


def _describe_doubts(gradient: Row) -> str:
    reasons = "; ".join(f"{path or 'the argument'} {verdict}, {reason}" for path, verdict, reason in gradient["doubts"])
    return f"{gradient['way']}: {reasons}"


def _describe_escape(fault: Row) -> str:
    size = f"{fault['change']:.2g} times what is effective"
    return f"{fault['kind']}, {size}: {fault['verdict']}, {fault['reason']}"


def _list(title: str, entries: list[Row], describe: Callable[[Row], str]) -> str:
    lines = [f"- {each['library']} {each['operation']}, {each['dtype']}, {describe(each)}" for each in entries]
    return "\n".join([f"{title}: {len(lines)}.", *[""] * bool(lines), *lines])


if __name__ == "__main__":
    start("verify_operations", tasks, markdown)
