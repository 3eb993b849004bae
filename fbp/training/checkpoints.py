"""The whole state of a training in one file, so that it goes on with the same bits as if it had never stopped."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fbp.errors import FbpError
from fbp.run_folder import list_checkpoints
from fbp.tensors import Tensors, check_schema, load_tensors, name_leaves, restore_leaves, save_tensors, understand
from fbp.training.history import COLUMNS, Epoch, History
from fbp.training.step import State
from fbp.typing import Params

SCHEMA, VERSION = "fbp.checkpoint", 1
KEPT = 2
"""How many checkpoints stay: where the newest is damaged, the one before serves."""


@dataclass
class Progress:
    """Where a training stands, beside its state: all that the loop on the host remembers.

    Attributes:
        epoch: the epoch that runs, from 1.
        taken: the number of its steps that were taken.
        losses: of each of these steps.
        examples: the sum of the weights of each.
        correct: likewise of the correctly classified; empty where nothing is classified.
        readings: what the monitor measured in them, by name.
        seconds: spent on them.
        history: of the epochs before.
        best: the smallest watched loss so far.
        best_params: the parameters that had it; None where they are not kept.
        waited: the epochs since then.
        total_seconds: spent on the whole training.
        stopped: why it ended; None while it has not.
    """

    epoch: int = 1
    taken: int = 0
    losses: list[float] = field(default_factory=list)
    examples: list[float] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)
    readings: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: float = float("inf")
    best_params: Params | None = None
    waited: int = 0
    total_seconds: float = 0.0
    stopped: str | None = None


_LISTS = ("losses", "examples", "correct")
_NUMBERS = ("epoch", "taken", "seconds", "best", "waited", "total_seconds", "stopped")


def save_checkpoint(folder: Path, state: State, progress: Progress, facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint, and remove those that are older than the one before.

    Args:
        folder: where checkpoints lie; made if it is missing.
        state: after the steps that were taken.
        progress: where the training stands.
        facts: what a training must have in common with this one to go on from here.

    Returns:
        The file.

    Raises:
        OSError: the disk does not take it; the checkpoints before are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = name_leaves(state._asdict(), "state")
    arrays |= {f"epoch.{name}": np.array(getattr(progress, name), np.float64) for name in _LISTS}
    arrays |= {f"readings.{name}": np.array(values, np.float64) for name, values in progress.readings.items()}
    if progress.best_params is not None:
        arrays |= name_leaves(progress.best_params, "best")
    told = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "training": dict(facts),
        "progress": {name: getattr(progress, name) for name in _NUMBERS},
        "history": [epoch._asdict() for epoch in progress.history],
        "readings": list(progress.readings),
    }
    path = folder / f"step-{int(state.step):012d}.safetensors"
    save_tensors(path, arrays, told)
    for old in list_checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def restore_checkpoint(found: Tensors, like: State) -> tuple[State, Progress]:
    """The state and the progress in a checkpoint.

    Args:
        found: what `read_newest` returned.
        like: a state of the structure that is wanted.

    Raises:
        FbpError: the arrays are of another network or optimizer.
    """
    with understand(Path("its checkpoint")):
        state = State(**restore_leaves(like._asdict(), found.arrays, "state"))
        told = found.facts["progress"]
        progress = Progress(**{name: told[name] for name in _NUMBERS})
        progress.best = float(told["best"])
        # Whether it has ended is for the limits of now to say.
        progress.stopped = None
        progress.history = list(read_epochs(found.facts["history"]))
        for name in _LISTS:
            setattr(progress, name, found.arrays[f"epoch.{name}"].tolist())
        progress.readings = {name: found.arrays[f"readings.{name}"].tolist() for name in found.facts["readings"]}
        if any(name.startswith("best.") for name in found.arrays):
            progress.best_params = restore_leaves(like.params, found.arrays, "best")
    return state, progress


def read_newest(folder: Path) -> Tensors | None:
    """The newest checkpoint that is whole, with a warning where a newer one is not; None where there is none.

    Raises:
        FbpError: none is whole, or it was written by another version.
    """
    broken: list[str] = []
    for path in list_checkpoints(folder):
        try:
            found = load_tensors(path)
        except FbpError as error:
            broken.append(str(error))
            continue
        check_schema(found, SCHEMA, VERSION, "a checkpoint", path, "go on with the version of fbp that wrote it")
        if not isinstance(found.facts.get("training"), dict):
            raise FbpError(f"a checkpoint must say what it is of, got no training in {path}; use another one")
        if broken:
            warnings.warn(f"{broken[0]}: going on from {path.name}, the one before", stacklevel=2)
        return found
    if broken:
        raise FbpError(f"one of the checkpoints must be whole, got {len(broken)} damaged; {broken[0]}")
    return None


def history_of(found: Tensors) -> History:
    """The history in a checkpoint."""
    with understand(Path("its checkpoint")):
        return History(tuple(read_epochs(found.facts["history"])))


def read_epochs(rows: list[dict[str, Any]]) -> list[Epoch]:
    """Records of epochs from JSON, where infinities and NaN are words."""

    def number(value: Any) -> Any:
        # JSON has no NaN; see `fbp.serialize`.
        return float(value) if isinstance(value, str) else value

    epochs = []
    for row in rows:
        readings = {name: number(value) for name, value in row["readings"].items()}
        epochs.append(Epoch(*(number(row[name]) for name in COLUMNS), readings=readings))
    return epochs
