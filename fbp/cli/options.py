"""Options from files, as the words that stand for them: `fbp train --config run.toml`, and a run that goes on."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fbp.errors import FbpError
from fbp.run_folder import CONFIG

LARGEST = 2**20
"""Bytes of a file of options; a longer one is something else."""
CHANGEABLE = frozenset({"quiet", "json", "page", "cache", "epochs", "steps", "patience", "target-loss", "max-seconds"})
"""What may be said anew of a run that goes on."""


def expand(words: Sequence[str]) -> list[str]:
    """Put the options of a file in front of those that were typed, which come before them.

    Args:
        words: what was typed behind `fbp train`.

    Raises:
        FbpError: the file cannot be read, or an option must not be given with --resume.
    """
    config, rest = _take(list(words), "config")
    folder, rest = _take(rest, "resume")
    typed = {_name(word) for word in rest if word.startswith("--")}
    if folder is not None:
        if config is not None:
            raise FbpError(f"--config must not be given with --resume, got {config} and {folder}; leave it out")
        own = read_options(Path(folder) / CONFIG)
        changed = sorted(typed - CHANGEABLE)
        if changed:
            raise FbpError(
                f"a run must go on as it was begun, got --{changed[0]} with --resume; leave it out, or begin a new run"
            )
        if "epochs" in typed and own.get("schedule") != "constant":
            raise FbpError(
                f"--epochs must not change where the learning rate goes with them, got the schedule "
                f"{own.get('schedule')}; leave it out"
            )
        return [*_words(own, typed), *rest, "--resume", folder]
    if config is not None:
        return [*_words(read_options(Path(config)), typed), *rest]
    return list(words)


def read_options(path: Path) -> dict[str, Any]:
    """The options of a TOML file, from all its tables.

    Args:
        path: the file.

    Raises:
        FbpError: it is missing, too large, or not TOML of plain values.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise FbpError(f"a file of options must be small, got more than {LARGEST} bytes in {path}; name another")
        table = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise FbpError(
            f"a file of options must be readable, got {path} ({error.strerror or error}); check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FbpError(f"a file of options must be TOML, got {path} ({error}); mend it") from error
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= value if isinstance(value, dict) else {name: value}
    for name, value in found.items():
        if not isinstance(value, str | int | float):
            raise FbpError(
                f"options must be strings, numbers or true and false, got {name} = {value!r:.40} in {path}; mend it"
            )
    return found


def write_options(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write options as TOML, whole or not at all.

    Args:
        path: the file.
        tables: options by table; what is None is left out.

    Raises:
        OSError: the disk does not take it.
    """
    import tomli_w

    from fbp.data.files import replace_text

    kept = {
        table: {name.replace("_", "-"): value for name, value in options.items() if value is not None}
        for table, options in tables.items()
    }
    replace_text(path, f"# fbp train --config {path.name}\n\n{tomli_w.dumps(kept)}")


def options_of(config: Any, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The fields of a dataclass of options by name."""
    return {f.name: getattr(config, f.name) for f in fields(config) if only is None or f.name in only}


def _take(words: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the words without it."""
    for i, word in enumerate(words):
        if word == f"--{name}":
            if i + 1 == len(words):
                raise FbpError(f"--{name} must have a value, got none; give a path")
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2], words[:i] + words[i + 1 :]
    return None, words


def _name(word: str) -> str:
    return word[2:].partition("=")[0].removeprefix("no-").replace("_", "-")


def _words(options: Mapping[str, Any], typed: Iterable[str]) -> list[str]:
    words = []
    for name, value in options.items():
        name = name.replace("_", "-")
        if name in typed or value is False:
            continue
        words += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return words
