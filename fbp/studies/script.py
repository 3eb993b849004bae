"""What the studies in `experiments/` share: their options, their progress, their folder."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from fbp.report.document import Report
from fbp.report.markup import bare
from fbp.report.write import check_target, write
from fbp.terminal import run, show_progress

Build = Callable[[bool, Callable[[str], None]], Report]


def script(build: Build) -> None:
    """Run a study as a script: `python experiments/NAME.py [--quick] [--out DIR]`.

    Args:
        build: makes the report from (quick, progress); `progress` takes a line about what happens next.
    """
    from cyclopts import App, Parameter

    name = Path(sys.argv[0]).stem
    app = App(
        name=f"python experiments/{name}.py",
        help=sys.modules["__main__"].__doc__,
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )

    @app.default
    def study(*, quick: bool = False, out: Path = Path("results") / name) -> None:
        """Run the study and write its report.

        Parameters
        ----------
        quick
            A smaller grid, for a first look.
        out
            The folder to write; an older report in it is replaced.
        """
        check_target(out)
        with show_progress() as progress:
            report = build(quick, progress)
            folder = write(report, out)
        announce(report, folder)

    sys.exit(run(name, lambda: app(sys.argv[1:], exit_on_error=False, print_error=False)))


def announce(report: Report, folder: Path) -> None:
    """Print the findings, and where the report lies.

    Args:
        report: what was found.
        folder: where it was written.
    """
    for finding in report.findings:
        print("-", bare(finding))
    print(f"report: {folder / 'report.html'}")


def typed() -> str:
    """The command as it was typed, for a report to say how it is remade."""
    program = Path(sys.argv[0])
    start = ["python", f"experiments/{program.name}"] if program.suffix == ".py" else [program.name]
    return shlex.join([*start, *sys.argv[1:]])
