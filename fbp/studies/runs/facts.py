"""What a run's folder says of itself."""

import json
import shlex
import tomllib
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.combinators import Serial
from fbp.errors import FbpError
from fbp.layers import Dense
from fbp.losses import SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from fbp.run_folder import CHECKPOINTS, CONFIG, DATA, MANIFEST
from fbp.studies.frame import typed_command
from fbp.training import History, Saved
from fbp.training.checkpoints import history_of, read_newest
from fbp.tree import name_layers, unstack


class Facts(NamedTuple):
    """What is known of a run, beside its network.

    Attributes:
        folder: where it lies.
        saved: the network, its parameters, its loss and the shape of an example.
        history: of all epochs.
        training: what it was begun with, and must go on with.
        options: of the command that trained it; empty for a run of `fbp.fit`.
        data: the data set's name, shape and names of classes, likewise.
        stopped: why it ended; None while it has not.
        seconds: of training.
        keeps_best: whether the parameters are those of the best epoch.
        state_bytes: of the parameters and of what else the optimizer keeps.
    """

    folder: Path
    saved: Saved
    history: History
    training: dict[str, Any]
    options: dict[str, Any]
    data: dict[str, Any]
    stopped: str | None
    seconds: float
    keeps_best: bool
    state_bytes: tuple[int, int]

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(x.size for x in jax.tree.leaves(self.saved.params))

    @property
    def network(self) -> str:
        """The network in a few words."""
        net = self.saved.net
        options = self.options
        if options.get("network") == "gpt":
            return f"Transformer of {options.get('depth')} blocks, width {options.get('width')}"
        widths = [layer.width for layer in net.layers if isinstance(layer, Dense)] if isinstance(net, Serial) else []
        if widths and len(self.saved.shape) == 1:
            runs = [(width, len(list(same))) for width, same in groupby((self.saved.shape[0], *widths))]
            return "-".join(
                f"{width}\N{MULTIPLICATION SIGN}{n}" if n > 2 else "-".join([str(width)] * n) for width, n in runs
            )
        return f"A network of {self.parameters:,} parameters"

    @property
    def data_name(self) -> str:
        """Of the data set."""
        return str(self.data.get("name") or "own data")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the classes or tokens, where they have any."""
        names = self.data.get("class_names")
        return tuple(map(str, names)) if names else None

    @property
    def has_probabilities(self) -> bool:
        """Whether outputs are probabilities, and losses in nats."""
        return isinstance(self.saved.loss, SoftmaxCrossEntropy | SigmoidBinaryCrossEntropy)

    @property
    def loss_label(self) -> str:
        """The axis of the loss, with its unit where it has one."""
        return "loss (nats)" if self.has_probabilities else "loss"

    @property
    def command(self) -> str:
        """What to type to repeat the training."""
        config = self.folder / CONFIG
        return f"fbp train --config {shlex.quote(str(config))}" if config.exists() else typed_command()

    def name_matrices(self) -> list[str]:
        """The names of the weight matrices, as in the history: "blocks[3].q.W"; of a shared one that of its owner."""
        net = self.saved.net
        hollow = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), self.saved.params)
        found: dict[int, tuple[str, Any]] = {}
        for path, (_, own) in zip(name_layers(net), unstack(net, hollow), strict=True):
            for name, x in own.items() if isinstance(own, dict) else ():
                if x.ndim > 1:
                    found.setdefault(id(x), (f"{path}.{name}", x))
        return [name for name, _ in found.values()]


def read_facts(folder: Path, saved: Saved) -> Facts:
    """Read a run's folder.

    Args:
        folder: of the run.
        saved: what `open_run` returned.

    Raises:
        FbpError: it holds no whole checkpoint.
    """
    newest = read_newest(folder / CHECKPOINTS)
    if newest is None:
        raise FbpError(f"a run must have a checkpoint, got none in {folder}; check the path")
    sizes = {name: array.nbytes for name, array in newest.arrays.items() if name.startswith("state.")}
    of_params = sum(size for name, size in sizes.items() if name.startswith("state.params"))
    tables = _read(folder / CONFIG, tomllib.loads)
    options = {
        name.replace("-", "_"): v for table in tables.values() if isinstance(table, dict) for name, v in table.items()
    }
    progress = newest.facts["progress"]
    return Facts(
        folder=folder,
        saved=saved,
        history=history_of(newest),
        training=dict(newest.facts["training"]),
        options=options,
        data=_read(folder / DATA, json.loads),
        stopped=_read(folder / MANIFEST, json.loads).get("stopped", progress["stopped"]),
        seconds=float(progress["total_seconds"]),
        keeps_best=any(name.startswith("best") for name in newest.arrays),
        state_bytes=(of_params, sum(sizes.values()) - of_params),
    )


def _read(path: Path, parse: Any) -> dict[str, Any]:
    """The table in a file; empty where there is none: a run of `fbp.fit` has fewer files than one of `fbp train`."""
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
