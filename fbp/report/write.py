"""A report's folder: rendered whole in memory, built beside its place, and swapped in at once."""

import csv
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fbp.environment import device, versions
from fbp.errors import FbpError
from fbp.interrupts import postpone_interruptions
from fbp.report import format, inline
from fbp.report.document import Report
from fbp.report.render import render_pages
from fbp.report.style import render_figure
from fbp.serialize import to_json

SCHEMA, SCHEMA_VERSION = "fbp.report", 1
MANIFEST_SCHEMA, MANIFEST_VERSION = "fbp.manifest", 1
TABLE, MANIFEST = "data.csv", "manifest.json"
PAGE = "report"
"""The folder of the report in the folder of a training."""
_OURS = frozenset({"report.html", "report.md", "figures", TABLE, "result.json", MANIFEST})


def write(report: Report, folder: str | os.PathLike[str], table: Path | None = None) -> Path:
    """Write a report as a folder, all of it or nothing.

    The folder holds report.html (one file, opens offline), report.md, figures/<name>.svg and .png,
    data.csv, result.json and manifest.json. In result.json, NaN and infinities are the strings "NaN", "Infinity" and
    "-Infinity". A report that is there already is replaced; files beside it that are not a report's are
    kept. If anything fails, or the program is interrupted, the folder stays as it was.

    Args:
        report: what to write.
        folder: where; parents that do not exist are made.
        table: a CSV file that becomes data.csv as it is, where rows were streamed to it; otherwise the report's
            records are written.

    Returns:
        The folder.

    Raises:
        FbpError: the folder cannot be a report's (see `check_target`), or cannot be written.

    Example:
        >>> import tempfile
        >>> report = fbp.report.Report("T", "Why?", (), (), (), "python t.py", ({"x": 1},), {}, 0)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = fbp.report.write(report, f"{parent}/t")
        ...     print((folder / "data.csv").read_text().split())
        ['x', '1']
    """
    check_target(folder)
    files = _render_files(report, len(report.records) if table is None else _count_rows(table))
    with _explain_os_errors(folder), _swap_in(Path(folder).resolve()) as building:
        for name, content in files.items():
            path = building / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        data = building / TABLE
        if table is None:
            data.write_bytes(_csv(report).encode())
        else:
            shutil.copyfile(table, data)
        with data.open("rb") as file:
            hashes = {data.name: hashlib.file_digest(file, "sha256").hexdigest()}
        (building / MANIFEST).write_text(to_json(_manifest(report, hashes)) + "\n", encoding="utf-8")
    return Path(folder)


def check_target(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that a report cannot be written to, before a long run is spent on it.

    Args:
        folder: where the report is to be written.

    Raises:
        FbpError: it is a file or a link to nothing, holds files but no report, holds the working folder, or lies where
            nothing can be written.
    """
    with _explain_os_errors(folder):
        for path in (Path(folder), *Path(folder).parents):
            if path.is_symlink() and not path.exists():
                raise FbpError(
                    f"a report's folder must not lie behind a link to nothing, got {folder}, where {path} leads to "
                    f"{os.readlink(path)}; make that folder or remove the link"
                )
        target = Path(folder).resolve()
        if target.exists():
            if not target.is_dir():
                raise FbpError(f"a report's target must be a folder, got the file {folder}; use another name")
            if target == Path.cwd() or target in Path.cwd().parents:
                raise FbpError(
                    "a report's folder must not hold the working folder, because it is replaced as a whole, "
                    f"got {folder}; use a folder inside it"
                )
            if any(target.iterdir()) and not _is_report(target):
                raise FbpError(
                    "a report's folder must be new, empty or an older report, "
                    f"got {folder}, which holds other files; use another folder or empty this one"
                )
        # Permissions do not tell what a file system allows; a folder that is made and removed does.
        with suppress(_Rehearsed), _swap_in(target):
            raise _Rehearsed


def describe_target(folder: Path) -> Callable[[], str]:
    """What an interrupted command has left in its report's folder, to be called when it is interrupted.

    Args:
        folder: where the report is to be written.
    """
    before = read_stamp(folder / MANIFEST)

    def describe() -> str:
        if read_stamp(folder / MANIFEST) == before:
            return f"no report was written, {folder} is as it was before"
        return f"the report in {folder} is complete"

    return describe


def read_stamp(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one that takes its place; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class _Rehearsed(Exception):
    """A folder could be made, and is not needed yet."""


@contextmanager
def _explain_os_errors(folder: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FbpError(
            f"a report's folder must be writable, got {folder} ({error.strerror or error}); "
            "use another folder or free this one"
        ) from error


def _is_report(folder: Path) -> bool:
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(result, dict) and result.get("schema") == SCHEMA


@contextmanager
def _swap_in(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes its place if the body succeeds, and vanishes if not."""
    made = [path for path in target.parents if not path.exists()]
    mark = secrets.token_hex(4)
    building, old = (target.with_name(f".{target.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        yield building
        if target.exists():
            # A report replaces its own files and leaves what else is there.
            ours = lambda folder, _: _OURS if Path(folder) == target else ()
            shutil.copytree(target, building, symlinks=True, ignore=ours, dirs_exist_ok=True)
        with postpone_interruptions():
            if target.exists():
                os.replace(target, old)
            os.replace(building, target)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        with postpone_interruptions():
            if old.exists() and not target.exists():
                os.replace(old, target)
            shutil.rmtree(building, ignore_errors=True)
            for path in made:
                with suppress(OSError):
                    path.rmdir()
        raise


def _render_files(report: Report, rows: int) -> dict[str, bytes]:
    """All files but the table and the manifest, by their path in the folder."""
    pictures = {}
    for figure in report.figures():
        pictures[figure.name] = render_figure(figure.draw, inline.plain(figure.caption))
    made_with = {**versions(), "device": device(), "seed": str(report.seed)}
    html, markdown = render_pages(report, rows, pictures, made_with)
    texts = {"report.html": html, "report.md": markdown, "result.json": to_json(_result(report)) + "\n"}
    images = {f"figures/{name}.svg": picture.wide.svg for name, picture in pictures.items()}
    images |= {f"figures/{name}.png": picture.png for name, picture in pictures.items()}
    return {name: text.encode("utf-8") for name, text in texts.items()} | images


def _csv(report: Report) -> str:
    columns = list(dict.fromkeys(key for record in report.records for key in record))
    text = io.StringIO(newline="")
    if columns:
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows({key: format.field(item) for key, item in row.items()} for row in report.records)
    return text.getvalue()


def _count_rows(table: Path) -> int:
    with table.open(newline="", encoding="utf-8") as file:
        return max(sum(1 for _ in csv.reader(file)) - 1, 0)


def _provenance(report: Report) -> dict[str, Any]:
    return {"command": report.command, "seed": report.seed, "versions": versions(), "device": device()}


def _result(report: Report) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "question": report.question,
        "findings": report.findings,
        "setting": dict(report.setting),
        "results": report.results,
        "timings": report.timings,
        **_provenance(report),
    }


def _manifest(report: Report, sha256: Mapping[str, str]) -> dict[str, Any]:
    """What a run depended on, and the hashes of the files that a repetition should reproduce."""
    return {
        "schema": MANIFEST_SCHEMA,
        "schema_version": MANIFEST_VERSION,
        "configuration": dict(report.setting),
        "data": dict(report.data),
        **_provenance(report),
        "sha256": dict(sha256),
    }
