"""A report's folder: rendered whole in memory, built beside its place, and swapped in at once."""

import csv
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fbp.errors import FbpError
from fbp.report import markup, values
from fbp.report.document import Report
from fbp.report.look import render, style
from fbp.report.manifest import device, manifest, versions
from fbp.report.render import pages
from fbp.serialize import to_json

_SCHEMA = "fbp.report"
_SCHEMA_VERSION = 1
_OURS = frozenset({"report.html", "report.md", "figures", "data.csv", "result.json", "manifest.json"})


def write(report: Report, folder: str | os.PathLike[str], overwrite: bool = True, table: Path | None = None) -> Path:
    """Writes a report as a folder, all of it or nothing.

    The folder holds report.html (one file, opens offline), report.md, figures/<name>.svg and .png,
    data.csv, result.json and manifest.json. In result.json, NaN and infinities are the strings "NaN", "Infinity" and
    "-Infinity". A report that is there already is replaced; files beside it that are not a report's are
    kept. If anything fails, or the program is interrupted, the folder stays as it was.

    Args:
        report: what to write.
        folder: where; parents that do not exist are made.
        overwrite: whether a report that is there may be replaced.
        table: a file that becomes data.csv as it is, where rows were streamed to it; else the report's records do.

    Returns:
        The folder.

    Raises:
        FbpError: the folder cannot be a report's (see `check_target`), or cannot be written.
    """
    check_target(folder, overwrite)
    files = _files(report)
    target = Path(folder).resolve()
    try:
        with _swapped_in(target) as building:
            for name, content in files.items():
                path = building / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            rows = building / "data.csv"
            if table is None:
                rows.write_text(_csv(report), encoding="utf-8", newline="")
            else:
                shutil.copyfile(table, rows)
            with rows.open("rb") as file:
                hashes = {rows.name: hashlib.file_digest(file, "sha256").hexdigest()}
            (building / "manifest.json").write_text(to_json(manifest(report, hashes)) + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return Path(folder)


def check_target(folder: str | os.PathLike[str], overwrite: bool = True) -> None:
    """Refuses a folder that a report cannot be written to, before a long run is spent on it.

    Args:
        folder: where the report is to be written.
        overwrite: whether a report that is there may be replaced.

    Raises:
        FbpError: it is a file, or holds something that is not a report, or a report that may not be
            replaced, or is the working folder, or lies where nothing can be written.
    """
    try:
        refusal = _refusal(Path(folder).resolve(), overwrite)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if refusal is not None:
        invariant, received, remedy = refusal
        raise FbpError(f"{invariant}: {folder} {received}; {remedy}")


def _refusal(target: Path, overwrite: bool) -> tuple[str, str, str] | None:
    if target.exists():
        if not target.is_dir():
            return "a report is a folder", "is a file", "give the name of a folder"
        if target == Path.cwd() or target in Path.cwd().parents:
            return "a report replaces its folder as a whole", "holds the working folder", "give one inside it"
        if any(target.iterdir()):
            if not _is_report(target):
                return (
                    "a report replaces only an empty folder or an older report",
                    "holds other files",
                    "give another folder or empty this one",
                )
            if not overwrite:
                return (
                    "a report is not replaced unless that is asked for",
                    "holds one",
                    "allow overwriting or give another folder",
                )
    above = next(path for path in target.parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return (
            "a report needs a place that can be written",
            f"cannot be made in {above}",
            "choose another folder",
        )
    return None


def _unwritable(folder: str | os.PathLike[str], error: OSError) -> FbpError:
    return FbpError(
        f"a report needs a place that can be written: {folder} is none ({error.strerror or error}); "
        "choose another folder or free this one"
    )


def _is_report(folder: Path) -> bool:
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(result, dict) and result.get("schema") == _SCHEMA


@contextmanager
def _swapped_in(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes its place if the body succeeds, and vanishes if not."""
    made = [path for path in target.parents if not path.exists()]
    mark = secrets.token_hex(4)
    building, old = (target.with_name(f".{target.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        yield building
        if target.exists():
            _keep_others(target, building)
            os.replace(target, old)
        os.replace(building, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(building, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _keep_others(source: Path, building: Path) -> None:
    shutil.copymode(source, building)
    for path in source.iterdir():
        if path.name in _OURS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, building / path.name, symlinks=True)
        else:
            shutil.copy2(path, building / path.name, follow_symlinks=False)


def _files(report: Report) -> dict[str, bytes]:
    """The files of the report but its table and the manifest, by their path in its folder."""
    pictures = {}
    for figure in report.figures():
        with style():
            drawing = figure.draw()
        pictures[figure.name] = render(drawing, markup.bare(figure.caption))
    made_with = {**versions(), "device": device(), "seed": str(report.seed)}
    html, markdown = pages(report, pictures, made_with)
    texts = {
        "report.html": html,
        "report.md": markdown,
        "result.json": _json(report),
    }
    images = {f"figures/{name}.svg": picture.svg for name, picture in pictures.items()}
    images |= {f"figures/{name}.png": picture.png for name, picture in pictures.items()}
    return {name: text.encode("utf-8") for name, text in texts.items()} | images


def _csv(report: Report) -> str:
    columns = list(dict.fromkeys(key for record in report.records for key in record))
    text = io.StringIO(newline="")
    if columns:
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows({key: values.field(item) for key, item in row.items()} for row in report.records)
    return text.getvalue()


def _json(report: Report) -> str:
    result: dict[str, Any] = {
        "schema": _SCHEMA,
        "schema_version": _SCHEMA_VERSION,
        "title": report.title,
        "question": report.question,
        "findings": report.findings,
        "setting": dict(report.setting),
        "results": report.results,
        "timings": report.timings,
        "command": report.command,
        "seed": report.seed,
        "versions": versions(),
        "device": device(),
    }
    return to_json(result) + "\n"
