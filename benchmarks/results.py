"""The results of a run: rows that survive an interruption, one JSON file when complete, and tables in the README."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import cyclopts
import jax

from fbp.errors import FbpError
from fbp.terminal import run as run_command

Row = dict[str, Any]


def environment(quick: bool) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    device = jax.devices()[0]
    return {
        "quick": quick,
        "device": device.device_kind,
        "platform": device.platform,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("fbp", "jax", "jaxlib", "numpy")},
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

    def __contains__(self, key: tuple[str, dict[str, Any]]) -> bool:
        return any((row["table"], row["case"]) == key for row in self.rows)

    def add(self, row: Row) -> None:
        """Add one row, and save it if there is a folder."""
        self.rows.append(row)
        if self.folder is not None:
            _write(self._partial, self._text())

    def finish(self) -> list[Path]:
        """Write the whole run, regenerate the tables of the README beside the folder, and return the changed files."""
        if self.folder is None:
            return []
        whole, readme = self.folder / f"{self.name}.json", self.folder.resolve().parent / "README.md"
        _write(whole, self._text())
        self._partial.unlink(missing_ok=True)
        if not readme.exists() or _markers(self.name)[0] not in readme.read_text():
            return [whole]
        _write(readme, with_tables(self.name, readme.read_text(), self.markdown()))
        return [whole, readme]

    def complete(self, measure: Callable[[], None], show: bool = True) -> int:
        """Measure what is missing, print the tables and write them.

        Args:
            measure: adds the missing rows; after an interruption, those measured so far remain.
            show: whether to print the tables; False if `measure` does so.

        Returns:
            The exit status.
        """
        try:
            measure()
        except KeyboardInterrupt:
            remedy = "continue with --resume" if self.folder is not None else "without --out they are not kept"
            print(f"interrupted after {len(self.rows)} rows; {remedy}", file=sys.stderr)
            return 130
        if show:
            print(self.tables(self.rows))
        for path in self.finish():
            print(f"wrote {path}")
        return 0

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


def start(name: str, main: Callable[..., int]) -> NoReturn:
    """Run a benchmark as a command of that name, its options those of `main`."""
    app = cyclopts.App(name=name, default_command=main, result_action="return_value", suppress_keyboard_interrupt=False)
    left = "with --out, finished rows are kept and --resume goes on"
    sys.exit(run_command(name, lambda: app(exit_on_error=False, print_error=False), left))


def with_tables(name: str, text: str, generated: str) -> str:
    """Replace the part of a README between the markers.

    Raises:
        FbpError: the markers do not occur once each, in order.
    """
    begin, end = _markers(name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
        raise FbpError(
            f"the README must have {begin} and {end} once each, in this order, got {text.count(begin)} and "
            f"{text.count(end)}; put them where the tables belong"
        )
    return f"{before}{begin}\n\n{generated}\n\n{end}{after}"


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _write(path: Path, text: str) -> None:
    # A reader never sees half a file.
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text)
    os.replace(beside, path)
