"""The results of a run: rows that survive an interruption, one JSON file when complete, and tables in the README."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cyclopts
import jax
from rich.console import Console
from rich.markdown import Markdown

from fbp.data.files import replace_text
from fbp.environment import versions
from fbp.errors import FbpError
from fbp.terminal import Progress, explain_interruption, show_progress
from fbp.terminal import start as start_program

Row = dict[str, Any]


class Task(NamedTuple):
    """One row to measure.

    Attributes:
        table: the kind of row.
        case: what is measured, as plain data; with `table` it tells a row from the others.
        label: the same in words.
        measure: the rest of the row.
    """

    table: str
    case: Row
    label: str
    measure: Callable[[], Row]


def environment(quick: bool) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    device = jax.devices()[0]
    return {
        "quick": quick,
        "device": device.device_kind,
        "platform": device.platform,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        **versions(),
    }


class Record:
    """The rows of one run; with a folder, they are written after each row, and as a whole at the end.

    `NAME.partial.json` holds an unfinished run; `NAME.json` is always a complete one.

    Args:
        name: the name of the files, and of the markers around the README's tables.
        markdown: makes the tables from all rows.
        folder: where to write, or None.
        quick: whether only a subset is measured.
        resume: whether to continue the unfinished run in the folder.

    Raises:
        FbpError: an unfinished run exists and `resume` is False, or it was made under other conditions.
    """

    def __init__(self, name: str, markdown: Callable[[list[Row]], str], folder: Path | None, quick: bool, resume: bool):
        if resume and folder is None:
            raise FbpError("--resume must have a folder, got none; give that of the run, --out benchmarks/results")
        self.name, self.tables = name, markdown
        self.folder, self.environment = folder, environment(quick)
        self.date = datetime.now(UTC).isoformat(timespec="seconds")
        self.rows: list[Row] = []
        if folder is None:
            return
        if self._partial.exists():
            if not resume:
                raise FbpError(
                    f"a new run must not overwrite an unfinished one, got {self._partial}; "
                    "continue it with --resume, or delete it"
                )
            self._read()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FbpError(
                f"--out must be a folder to write to, got {folder} ({error.strerror}); give another folder"
            ) from error

    def measure(self, tasks: list[Task], progress: Progress) -> None:
        """Measure the rows that are missing; each is saved at once if there is a folder."""
        there = [(row["table"], row["case"]) for row in self.rows]
        for number, task in enumerate(tasks, start=1):
            if (task.table, task.case) in there:
                continue
            progress(f"{number} of {len(tasks)}: {task.label}")
            self.rows.append({"table": task.table, "case": task.case, **task.measure()})
            if self.folder is not None:
                replace_text(self._partial, self._text())

    def finish(self) -> list[Path]:
        """Write the whole run, regenerate the tables of the README beside the folder, and return the changed files."""
        if self.folder is None:
            return []
        whole, readme = self.folder / f"{self.name}.json", self.folder.resolve().parent / "README.md"
        replace_text(whole, self._text())
        self._partial.unlink(missing_ok=True)
        if not readme.exists() or f"<!-- {self.name}:begin -->" not in readme.read_text():
            return [whole]
        replace_text(readme, with_tables(self.name, readme.read_text(), self.markdown()))
        return [whole, readme]

    def markdown(self) -> str:
        """Where and when the run was made, then every table."""
        e = self.environment
        where = (
            f"Measured on {self.date[:10]}: {e['device']} ({e['platform']}, {e['machine']}), "
            f"{e['cpu_count']} CPU cores, Python {e['python']}, jax {e['jax']}, jaxlib {e['jaxlib']}, fbp {e['fbp']}"
            f"{'; the subset of --quick' if e['quick'] else ''}."
        )
        return f"{where}\n\n{self.tables(self.rows)}"

    @property
    def _partial(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}.partial.json"

    def _text(self) -> str:
        whole = {"date": self.date, "environment": self.environment, "rows": self.rows}
        return json.dumps(whole, indent=1, allow_nan=False) + "\n"

    def _read(self) -> None:
        try:
            run = json.loads(self._partial.read_text())
            self.rows, then, self.date = run["rows"], run["environment"], run["date"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise FbpError(f"{self._partial} must be an unfinished run, got {error!r}; delete it") from error
        if changed := [name for name, value in self.environment.items() if then.get(name) != value]:
            differs = ", ".join(f"{name} {then.get(name)} then, {self.environment[name]} now" for name in changed)
            raise FbpError(f"a run must be continued where it began, got {differs}; delete {self._partial} to restart")


def start(name: str, tasks: Callable[[bool], list[Task]], markdown: Callable[[list[Row]], str]) -> NoReturn:
    """Run a benchmark as a command.

    Args:
        name: of the command, and of its files.
        tasks: what is to be measured, all or a quick subset.
        markdown: makes the tables from all rows.
    """

    def main(*, out: Path | None = None, quick: bool = False, resume: bool = False) -> None:
        """Measure, print the tables, and write them where there is a folder.

        Args:
            out: the folder for the results; the tables of a README.md beside that folder are regenerated.
            quick: a small subset, for a first look.
            resume: continue the unfinished run in `out`.
        """
        record = Record(name, markdown, out, quick, resume)
        with show_progress() as progress:
            record.measure(tasks(quick), progress)
        found = markdown(record.rows)
        if sys.stdout.isatty():
            Console().print(Markdown(found))
        else:
            print(found)
        for path in record.finish():
            print(f"wrote {path}")

    app = cyclopts.App(name=name, default_command=main, result_action="return_value", suppress_keyboard_interrupt=False)

    def command(words: list[str]) -> object:
        with explain_interruption(lambda: "with --out, finished rows are kept and --resume goes on"):
            return app(words, exit_on_error=False, print_error=False)

    start_program(name, command)


def with_tables(name: str, text: str, generated: str) -> str:
    """Replace the part of a README between the markers.

    Raises:
        FbpError: the markers do not occur once each, in order.
    """
    begin, end = markers = [f"<!-- {name}:begin -->", f"<!-- {name}:end -->"]
    found = re.findall("|".join(markers), text)
    if found != markers:
        raise FbpError(
            f"the README must have {begin} and {end} once each, in this order, got {found}; "
            "put them where the tables belong"
        )
    before, _, after = re.split("|".join(markers), text)
    return f"{before}{begin}\n\n{generated}\n\n{end}{after}"
