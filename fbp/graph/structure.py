"""What a program is made of, before any value is known: its steps, named so that a reader finds them again."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from fbp.errors import unknown_name
from fbp.graph.record import Path
from fbp.graph.rules import RULES, STRUCTURES, formula
from fbp.graph.source import Source
from fbp.graph.versions import CUSTOM, Program, is_var, name_of, programs_in


@dataclass(frozen=True)
class Step:
    """One equation of a program.

    Attributes:
        path: where it stands, see `fbp.graph.record.Path`.
        key: its name with those of the steps and scopes around it, `"block/attention/scores"`; no other step has it.
        name: the variable that its result is assigned to in the user's code, or what `checkpoint_name` says, or the
            function that is called, or its primitive.
        scope: the `jax.named_scope`s around it, "block/attention"; "" for none.
        primitive: what JAX calls it.
        source: the expression that it comes from.
        formula: its local rule; "" where there is none.
        eqn: the equation itself.
        parts: the programs inside.
        inside_rule: whether it is part of a function that brings a derivative of its own, so that no gradient is
            computed for it.
        alias: the variable of the `checkpoint_name` that names its result, which is no step of its own; None for none.
    """

    path: Path
    key: str
    name: str
    scope: str
    primitive: str
    source: Source
    formula: str
    eqn: Any = field(repr=False, compare=False)
    parts: tuple["Part", ...] = ()
    inside_rule: bool = False
    alias: Any = field(default=None, repr=False, compare=False)

    @property
    def has_rule(self) -> bool:
        """Whether this package differentiates it."""
        return self.primitive in RULES or self.primitive in STRUCTURES


@dataclass(frozen=True)
class Part:
    """A program and its steps.

    Attributes:
        path: of the program.
        program: its equations.
        steps: one for each of them, but for those that name the result of another.
    """

    path: Path
    program: Program = field(repr=False, compare=False)
    steps: tuple[Step, ...]

    @classmethod
    def of(
        cls,
        program: Program,
        path: Path = (),
        around: str = "",
        taken: Counter[str] | None = None,
        inside_rule: bool = False,
    ) -> "Part":
        """Name all steps of a program.

        Args:
            program: the program.
            path: of the program.
            around: the key of the step around it.
            taken: how often each key was given.
            inside_rule: as that of its steps.
        """
        taken = Counter() if taken is None else taken
        sources = [Source.of(eqn) for eqn in program.jaxpr.eqns]
        namings = _find_namings(program)
        steps = []
        for i, (eqn, source) in enumerate(zip(program.jaxpr.eqns, sources, strict=True)):
            if i in namings.values():
                continue
            naming = program.jaxpr.eqns[namings[i]] if i in namings else None
            # An expression in several equations has its name from the last one.
            last = i + 1 == len(sources) or sources[i + 1] != source
            name = (source.variable if last and eqn.primitive.name != "name" else "") or name_of(eqn)
            name = name if naming is None else name_of(naming)
            named = str(eqn.source_info.name_stack)
            key = "/".join(filter(None, (around, named, name)))
            taken[key] += 1
            if taken[key] > 1:
                key = f"{key}_{taken[key] - 1}"
            here = (*path, i)
            inner = programs_in(eqn)
            primitive = eqn.primitive.name
            own = inside_rule or primitive in CUSTOM
            parts = [
                cls.of(p, (*here, k), f"{key}/{k}" if len(inner) > 1 else key, taken, own) for k, p in enumerate(inner)
            ]
            rule = formula(primitive, eqn.params)
            alias = None if naming is None else naming.outvars[0]
            steps.append(Step(here, key, name, named, primitive, source, rule, eqn, tuple(parts), inside_rule, alias))
        return cls(path, program, tuple(steps))

    def walk(self) -> Iterator[Step]:
        """Every step, those inside of a step after it."""
        for step in self.steps:
            yield step
            for part in step.parts:
                yield from part.walk()


def _find_namings(program: Program) -> dict[int, int]:
    """The equations whose only result is read by a `checkpoint_name` and by nothing else, and the place of that one."""
    eqns = program.jaxpr.eqns
    readers = Counter(v for v in (*(v for eqn in eqns for v in eqn.invars), *program.jaxpr.outvars) if is_var(v))
    maker = {v: i for i, eqn in enumerate(eqns) if eqn.primitive.name != "name" for v in eqn.outvars}
    found = {}
    for i, eqn in enumerate(eqns):
        if eqn.primitive.name != "name" or not is_var(eqn.invars[0]):
            continue
        made = maker.get(eqn.invars[0])
        if made is not None and readers[eqn.invars[0]] == 1 and len(eqns[made].outvars) == 1:
            found[made] = i
    return found


Select: TypeAlias = str | Sequence[str] | Callable[[Step], bool]
"""Which steps: patterns of a key, a name, a primitive or a source line "file.py:12", or a function of the step."""


def select_steps(part: Part, select: Select) -> list[Step]:
    """The steps that are chosen, in order.

    Raises:
        FbpError: there are none.
    """
    steps = list(part.walk())
    if callable(select):
        chosen = [step for step in steps if select(step)]
        wanted = getattr(select, "__name__", "select")
    else:
        patterns = [select] if isinstance(select, str) else list(select)
        for pattern in patterns:
            if not any(_fits(step, pattern) for step in steps):
                raise unknown_name("step", pattern, [step.key for step in steps])
        chosen = [step for step in steps if any(_fits(step, pattern) for pattern in patterns)]
        wanted = ", ".join(patterns)
    if not chosen:
        raise unknown_name("step", wanted, [step.key for step in steps])
    return chosen


def _fits(step: Step, pattern: str) -> bool:
    return any(fnmatchcase(text, pattern) for text in (step.key, step.name, step.primitive, str(step.source)))
