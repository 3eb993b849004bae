"""The frame of every study: it asks, measures and finds; the report, its command and its data come from here."""

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fbp.data import Dataset, load
from fbp.report import Block, Report, Section, check_target, describe_target, plain, write
from fbp.terminal import Progress, explain_interruption, make_parser, no_progress, show_progress, start


@dataclass
class Draft:
    """A report in the making, which a study fills.

    Attributes:
        title: the headline.
        question: what is asked, in prose.
        quick: whether a small run for a first look is wanted.
        progress: called with a line about what happens next.
        seed: of all randomness.
        setting: the configuration, by label.
        findings: the answers, one statement each, the most important first.
        records: tidy rows, one observation each, for `data.csv`.
        results: the summary for `result.json`.
        timings: measured times, which a repetition need not reproduce.
        sections: the body.
        data: the sha256 of each data set that was read, by name.

    Example:
        >>> draft = fbp.studies.Draft("Doubling", "How often must one be doubled to pass a thousand?")
        >>> draft.records += [{"n": n, "power": 2**n} for n in range(11)]
        >>> draft.findings.append("**Ten** times: $2^{10}$ = 1024.")
        >>> len(draft.report().records)
        11
    """

    title: str
    question: str
    quick: bool = False
    progress: Progress = no_progress
    seed: int = 0
    setting: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)

    def digits(self, examples: int, data: Dataset | None = None) -> tuple[Float[Array, "m 784"], Int[Array, " m"]]:
        """The first training digits and their labels; the report names their data set and its hash.

        Args:
            examples: how many.
            data: the data set; the bundled one without it.
        """
        data = data or load()
        self.data[data.name] = data.sha256
        return jnp.asarray(data.train_X[:examples]), jnp.asarray(data.train_Y[:examples])

    def section(self, title: str, *blocks: Block) -> None:
        """Add a section.

        Args:
            title: its heading.
            blocks: texts, tables and figures.
        """
        self.sections.append(Section(title, blocks))

    def report(self, command: str | None = None) -> Report:
        """The report.

        Args:
            command: what remakes it; without it the command that was typed.
        """
        return Report(
            title=self.title,
            question=self.question,
            findings=tuple(self.findings),
            setting=tuple(self.setting.items()),
            sections=tuple(self.sections),
            command=command or typed_command(),
            records=tuple(self.records),
            results=self.results,
            seed=self.seed,
            data=tuple(self.data.items()),
            timings=self.timings,
        )


@dataclass(frozen=True)
class Study:
    """A question and what answers it; made by `study`.

    Attributes:
        title: the headline.
        question: what is asked.
        fill: measures, and fills a `Draft`.

    Example:
        >>> sums = fbp.studies.Study("Sums", "What is two and two?", lambda draft: draft.findings.append("Four."))
        >>> sums.report().findings
        ('Four.',)
    """

    title: str
    question: str
    fill: Callable[[Draft], None]

    def report(self, quick: bool = False, progress: Progress = no_progress) -> Report:
        """Run the study.

        Args:
            quick: whether a small run for a first look is wanted.
            progress: called with a line about what happens next.
        """
        draft = Draft(self.title, self.question, quick, progress)
        self.fill(draft)
        return draft.report()

    def main(self) -> None:
        """Run the study as a script: `python experiments/NAME.py [--quick] [--out DIR]`."""
        name = Path(sys.argv[0]).stem
        app = make_parser(f"python experiments/{name}.py", plain(f"{self.title}\n\n{self.question}"))

        @app.default
        def script(*, quick: bool = False, out: Path = Path("results") / name) -> None:
            """Run the study and write its report.

            Parameters
            ----------
            quick
                A smaller grid, for a first look.
            out
                The folder to write; an older report in it is replaced.
            """
            check_target(out)
            with explain_interruption(describe_target(out)):
                with show_progress() as progress:
                    report = self.report(quick, progress)
                    write(report, out)
                announce(report, out)

        start(name, lambda words: app(words, exit_on_error=False, print_error=False))


def study(fill: Callable[[Draft], None]) -> Study:
    """Make a study of a function; the docstring of its module gives the title, its first line, and the question.

    Args:
        fill: measures, and fills a `Draft`.
    """
    title, _, question = inspect.cleandoc(fill.__globals__["__doc__"]).partition("\n")
    return Study(title.rstrip("."), " ".join(question.split()), fill)


def announce(report: Report, folder: Path) -> None:
    """Print the findings, and where the report lies.

    Args:
        report: what was found.
        folder: where it was written.
    """
    for finding in report.findings:
        print("-", plain(finding))
    print(f"report: {folder / 'report.html'}")


def typed_command() -> str:
    """The command as it was typed, for a report to say how it is remade."""
    program = Path(sys.argv[0])
    # `python -m fbp` is `fbp`.
    is_script = program.suffix == ".py" and program.name != "__main__.py"
    return shlex.join([*(["python", sys.argv[0]] if is_script else ["fbp"]), *sys.argv[1:]])
