"""A report repeated from its manifest, and whether the bits agree."""

import csv
import io
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbp.environment import device, versions
from fbp.errors import FbpError
from fbp.report.write import MANIFEST, MANIFEST_SCHEMA, MANIFEST_VERSION, PAGE, TABLE

_RESULT = "result.json"


@dataclass(frozen=True)
class Repetition:
    """How a repetition compares with the first run.

    Attributes:
        command: what was run.
        differences: the results that differ, one line each; empty where the bits agree.
        changes: what has changed in the environment, one line each.
    """

    command: str
    differences: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every bit of the data and every result is the same."""
        return not self.differences

    def __str__(self) -> str:
        lines = [f"{self.command}: the bits {'agree' if self.agrees else 'differ'}"]
        return "\n".join(lines + [f"  {line}" for line in (*self.differences, *self.changes)])


def rerun(folder: Path) -> Repetition:
    """Repeat the run that wrote a folder, and compare `data.csv` and the results in `result.json`.

    Args:
        folder: a report's folder, with its manifest.

    Raises:
        FbpError: there is no manifest, its command is not one of fbp's, or the command fails.
    """
    then, results, table = read_manifest(folder), _read_results(folder), _read(folder, TABLE)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "again"
        again = [*_arguments(then["command"]), "--out", str(out)]
        # In a session of its own, Ctrl-C reaches it by way of this program alone, which ends it and says so.
        done = subprocess.run(again, check=False, stdout=subprocess.PIPE, start_new_session=True)
        # A training keeps its page inside its own folder.
        out = out / PAGE if (out / PAGE).is_dir() else out
        if done.returncode or not (out / _RESULT).exists():
            raise FbpError(
                f"a manifest's command must succeed in the working folder, got {then['command']!r}, which ended with "
                f"status {done.returncode}; run it by hand from the folder that holds its script"
            )
        differences = (
            *_table_differences(table, _read(out, TABLE)),
            *(f"{_RESULT}: {path}" for path in _paths(results, _read_results(out), "results")[:10]),
        )
    now = {"device": device(), **versions()}
    was = {"device": then["device"], **then["versions"]}
    changes = tuple(
        f"{name}: {was.get(name)} then, {value} now" for name, value in now.items() if was.get(name) != value
    )
    return Repetition(then["command"], differences, changes)


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        remedy = "run its command by hand"
        raise FbpError(f"a report's folder must hold a readable {name}, got {folder} without one; {remedy}") from error


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    text = _read(folder, name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FbpError(f"{folder / name} must be a JSON object, got {text[:40]!r}; run the report's command by hand")
    return value


def _read_results(folder: Path) -> Any:
    return _read_json(folder, _RESULT).get("results")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished report.

    Args:
        folder: a report's folder.

    Raises:
        FbpError: there is none, or it is damaged.
    """
    manifest = _read_json(folder, MANIFEST)
    received = [manifest.get(key) for key in ("schema", "schema_version")]
    if received != [MANIFEST_SCHEMA, MANIFEST_VERSION]:
        raise FbpError(
            f"a manifest must have the schema {MANIFEST_SCHEMA} {MANIFEST_VERSION}, got {received!r} in {folder}; "
            "run its command by hand"
        )
    for key, kind in (("command", str), ("device", str), ("versions", dict)):
        if not isinstance(manifest.get(key), kind):
            raise FbpError(
                f"a manifest must say its {key}, got {manifest.get(key)!r} in {folder}; run its command by hand"
            )
    return manifest


def _arguments(command: str) -> list[str]:
    """The command for this interpreter, without the folder it wrote to."""
    try:
        words = shlex.split(command)
    except ValueError:
        # A quotation mark has no partner: no shell has run that.
        words = []
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    words = [word for word in words if not word.startswith("--out=")]
    program = Path(words[0]).name if words else ""
    if program.startswith("python") and len(words) > 1:
        if not Path(words[1]).exists():
            raise FbpError(
                f"a study must be repeated from the folder that holds it, got no {words[1]} here; change to that folder"
            )
        return [sys.executable, *words[1:]]
    if program == "fbp":
        return [sys.executable, "-m", "fbp", *words[1:]]
    raise FbpError(f"a manifest's command must be fbp or a study, got {command!r}; run it by hand")


def _table_differences(a: str, b: str) -> list[str]:
    if a == b:
        return []
    first, second = (list(csv.DictReader(io.StringIO(text))) for text in (a, b))
    if len(first) != len(second) or (first and list(first[0]) != list(second[0])):
        return [f"{TABLE}: {len(first)} rows then, {len(second)} now, or other columns"]
    pairs = list(zip(first, second, strict=True))
    counts = {name: sum(x[name] != y[name] for x, y in pairs) for name in (first[0] if first else ())}
    return [f"{TABLE}: {name} differs in {n} of {len(pairs)} rows" for name, n in counts.items() if n]


def _paths(a: Any, b: Any, at: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [path for key in a for path in _paths(a[key], b[key], f"{at}.{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [path for i, pair in enumerate(zip(a, b, strict=True)) for path in _paths(*pair, f"{at}[{i}]")]
    return [] if a == b else [f"{at}: {a} then, {b} now"]
