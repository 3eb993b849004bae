"""A run's folder: checkpoints, weights and history, written whole or not at all, by one program at a time.

runs/mnist/
  checkpoints/step-000000001500.safetensors    the whole state, to go on from; the last two
  weights.safetensors                          parameters by name, and the network as plain data
  history.csv
  manifest.json                                versions, device, data, why it ended
  config.toml                                  what `fbp train` was told
  report/                                      the page
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from fbp.data.files import remove_leftovers, replace_text
from fbp.description import describe, list_differences
from fbp.environment import device, versions
from fbp.errors import FbpError
from fbp.losses import Loss
from fbp.run_folder import CHECKPOINTS, HISTORY, MANIFEST, WEIGHTS, check_new
from fbp.serialize import plain, to_json
from fbp.tensors import name_leaves, save_tensors
from fbp.training.checkpoints import Progress, read_newest, restore_checkpoint, save_checkpoint
from fbp.training.feed import Feed
from fbp.training.fitted_many import FittedMany
from fbp.training.history import History
from fbp.training.replay import Problem, Replay, save_replay
from fbp.training.step import Method, State
from fbp.typing import Layer, Params

SAVE_SECONDS = 10.0
"""A crash loses no more than so much training."""
SCHEMA, WEIGHTS_SCHEMA, VERSION = "fbp.run", "fbp.weights", 1
_LOCK = ".lock"
Seeds: TypeAlias = int | tuple[int, ...]


class Run:
    """The folder of a training under way."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]):
        self.folder, self.facts = folder, facts
        self._saved = time.monotonic()

    @classmethod
    @contextmanager
    def open(
        cls, out: str | os.PathLike[str], method: Method, feed: Feed, seed: Seeds, resume: bool
    ) -> "Iterator[Run]":
        """Take a folder for a training, for as long as the body runs.

        Args:
            out: the folder; made if it is missing.
            method: how a step computes.
            feed: the data.
            seed: of the training, or those of many runs.
            resume: whether to go on with what lies there.

        Raises:
            FbpError: the folder holds a run that is not to be resumed, is in use, or cannot be written.
        """
        folder = Path(out)
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_lock(folder))
            except OSError as error:
                raise FbpError(
                    f"a run's folder must be writable, got {folder} ({error.strerror or error}); use another folder"
                ) from error
            if not resume:
                check_new(folder)
            remove_leftovers(folder)
            yield cls(folder, _facts(method, feed, seed))

    def load(self, like: State) -> tuple[State, Progress] | None:
        """What the newest checkpoint that is whole holds; None where there is none.

        Raises:
            FbpError: it belongs to another training.
        """
        found = read_newest(self.folder / CHECKPOINTS)
        if found is None:
            return None
        different = _compare(found.facts["training"], self.facts)
        if different:
            raise FbpError(
                f"a run must be resumed as it was begun, got {'; '.join(different[:4])} in {self.folder}; give the "
                "same arguments, or begin anew in another folder"
            )
        return restore_checkpoint(found, like)

    def save_if_due(self, state: State, progress: Progress) -> None:
        """Write a checkpoint if the last one is some time ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save(state, progress)

    def save(self, state: State, progress: Progress) -> None:
        """Write a checkpoint and the history.

        Raises:
            FbpError: the disk does not take it; what was there stays.
        """
        with self._explain():
            save_checkpoint(self.folder / CHECKPOINTS, state, progress, self.facts)
            replace_text(self.folder / HISTORY, History(tuple(progress.history)).to_csv())
        self._saved = time.monotonic()

    def finish(self, net: Layer, params: Params, history: History, stopped: str) -> None:
        """Write what is left when training is over.

        Args:
            net: the network for use, with population statistics.
            params: its parameters.
            history: of all epochs.
            stopped: why it ended.

        Raises:
            FbpError: the disk does not take it.
        """
        last = history[-1]._asdict() if history else None
        self._write_result(net, params, {}, {"stopped": stopped, "epochs": len(history), "last": last})

    def finish_many(self, net: Layer, params: Params, fitted: FittedMany) -> None:
        """Write what many runs leave: the history has a column `run`, the weights have a leading axis of runs.

        Args:
            net: the network for use, with population statistics.
            params: its parameters, with the axis of runs.
            fitted: what was trained.

        Raises:
            FbpError: the disk does not take it.
        """
        with self._explain():
            replace_text(self.folder / HISTORY, fitted.to_csv())
        histories = fitted.histories
        last = [history[-1]._asdict() if history else None for history in histories]
        facts = {"stopped": fitted.stopped, "epochs": len(histories[0]), "last": last}
        self._write_result(net, params, {"runs": fitted.labels}, facts)

    def _write_result(self, net: Layer, params: Params, runs: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
        network = {"network": _describe(net), "loss": self.facts["loss"], "shape": self.facts["shape"]}
        with self._explain():
            facts = {"schema": WEIGHTS_SCHEMA, "schema_version": VERSION, **network, **runs}
            save_tensors(self.folder / WEIGHTS, name_leaves(params), facts)
            manifest = {
                "schema": SCHEMA,
                "schema_version": VERSION,
                "training": self.facts,
                **runs,
                **ended,
                "device": device(),
                "versions": versions(),
            }
            replace_text(self.folder / MANIFEST, to_json(manifest) + "\n")

    def keep(self, problem: Problem, step: int, reason: str) -> Path | None:
        """Write a step that went wrong to a file that `fbp verify` opens; None where the disk does not take it.

        Args:
            problem: the loss at the batch of the step, with the parameters before it.
            step: its number.
            reason: what went wrong.
        """
        path = self.folder / f"replay-{step:012d}.safetensors"
        described = {name: self.facts[name] for name in ("network", "loss")}
        try:
            save_replay(path, Replay(problem, step, reason), described)
        except OSError:
            # The failure itself is the news.
            return None
        return path

    def describe(self, progress: Progress) -> str:
        """What an interruption has left, and how to go on."""
        if progress.taken:
            return f"saved in epoch {progress.epoch}, step {progress.taken}"
        return f"saved at the beginning of epoch {progress.epoch}"

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FbpError(
                f"a run must be kept on a disk that takes it, got {error.strerror or error} in {self.folder}; free "
                "space and go on with the run, which is whole up to its last checkpoint"
            ) from error


def _facts(method: Method, feed: Feed, seed: Seeds) -> dict[str, Any]:
    """What a training must have in common with another to go on from it."""
    trained = method.trained
    return {
        "network": _describe(method.net),
        "loss": _describe(method.loss),
        "gradient": "a function" if callable(method.gradient) else method.gradient,
        "trained": "a function" if callable(trained) else plain(trained),
        "compute": method.compute,
        "clip_examples": method.clip_examples,
        "seed": list(seed) if isinstance(seed, tuple) else int(seed),
        "batch_size": feed.batch_size,
        "examples": feed.examples,
        "shape": plain(feed.shape),
        "data": feed.fingerprint(),
    }


def _compare(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in here.items():
        other = there.get(name)
        if name in ("network", "loss") and value is not None and other is not None:
            found += list_differences(other, value)
        elif other != value:
            found.append(f"{name} {other!r} there and {value!r} here")
    return found


def _describe(part: Layer | Loss) -> Any:
    """Plain data, or None for a part of the user's own."""
    try:
        return describe(part)
    except FbpError:
        return None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep other programs out of a folder while the body runs; the lock ends with the program, however that ends."""
    try:
        import fcntl
    except ImportError:
        # Windows has none; there two programs in one folder are the user's to avoid.
        yield
        return
    with open(folder / _LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FbpError(
                f"a run's folder must be used by one program at a time, got {folder}, where another one trains; wait "
                "for it or use another folder"
            ) from None
        yield
