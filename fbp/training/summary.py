"""A run at a glance: the network layer by layer, the data, how it was trained and what it reached."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, describe_exception
from fbp.layers.axes import is_shape
from fbp.run_folder import CHECKPOINTS, MANIFEST
from fbp.training.checkpoints import history_of, read_epochs, read_newest
from fbp.training.history import History
from fbp.training.saved import open_run
from fbp.tree import list_layers, name_layers, observe_layers, unstack
from fbp.typing import Layer, Params


@dataclass(frozen=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: its path.
        kind: its type.
        output: the shape of one example of its output.
        parameters: how many it has.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class RunSummary:
    """A run; a table by `str`.

    Attributes:
        folder: where it lies.
        layers: of the network; one that uses the parameters of another counts them, too.
        parameters: in all, each once.
        training: what the run was begun with.
        history: of all epochs.
    """

    folder: str
    layers: tuple[LayerSummary, ...]
    parameters: int
    training: dict[str, Any]
    history: History

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "history": [epoch._asdict() for epoch in self.history]}

    def __str__(self) -> str:
        head = ("layer", "", "output", "parameters")
        rows = [
            (layer.name, layer.kind, "x".join(map(str, layer.output)), f"{layer.parameters:,}") for layer in self.layers
        ]
        table = [head, *rows, ("all", "", "", f"{self.parameters:,}")]
        width = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(f"{cell:{'>' if i == 3 else '<'}{width[i]}}" for i, cell in enumerate(row)) for row in table]
        shown = ("gradient", "batch_size", "examples", "seed", "compute", "clip_examples", "trained")
        facts = ", ".join(
            f"{name.replace('_', ' ')} {self.training[name]}" for name in shown if self.training.get(name) is not None
        )
        reached = [str(self.history[-1])] if self.history else ["not one epoch is done"]
        if len(self.history) > 1 and self.history.best is not self.history[-1]:
            reached.append(f"best: {self.history.best}")
        return "\n".join([*(line.rstrip() for line in lines), "", facts, *reached])


def describe_run(folder: str | os.PathLike[str], net: Layer | None = None, run: int | None = None) -> RunSummary:
    """Sum up a run.

    Args:
        folder: of the run.
        net: the network, where it has layers of your own.
        run: its number, in a folder of many runs.

    Raises:
        FbpError: there is no run, or it is damaged.
    """
    saved = open_run(folder, net, run)
    training, history = _read_manifest(Path(folder), run) if run is not None else _read_checkpoint(Path(folder))
    layers = tuple(list_layer_summaries(saved.net, saved.params, saved.shape))
    return RunSummary(str(folder), layers, _count(saved.params), training, history)


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], History]:
    """What a run was begun with, and its epochs."""
    newest = read_newest(folder / CHECKPOINTS)
    return ({}, History()) if newest is None else (dict(newest.facts["training"]), history_of(newest))


def _read_manifest(folder: Path, run: int) -> tuple[dict[str, Any], History]:
    """What one of many runs was begun with, and its last epoch."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        label, last = found["runs"][run], found["last"][run]
        history = History(tuple(read_epochs([last]))) if last else History()
        return {**found["training"], "seed": label["seed"]}, history
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise FbpError(
            f"a run must have a manifest that is whole, got {describe_exception(error)} in {folder / MANIFEST}; "
            "take it from a copy"
        ) from error


def list_layer_summaries(net: Layer, params: Params, shape: Any) -> list[LayerSummary]:
    """The layers of a network, the copies in a loop one by one.

    Args:
        net: a network.
        params: its parameters.
        shape: of one example, or a tree of shapes.
    """
    dtype = jnp.int32 if net.takes_integers else jnp.float32
    one = jax.tree.map(lambda own: jax.ShapeDtypeStruct((1, *own), dtype), shape, is_leaf=is_shape)
    outputs = jax.eval_shape(lambda params, A: observe_layers(net, _keep_output, params, A), params, one)
    # Arrays that take no memory, to be taken apart like any others.
    hollow = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), (outputs, params))
    (_, each_output), (_, each_params) = (zip(*unstack(net, tree), strict=True) for tree in hollow)
    return [
        LayerSummary(name, type(layer).__name__, jax.tree.leaves(out)[0].shape[1:], _count(own))
        for name, layer, out, own in zip(name_layers(net), list_layers(net), each_output, each_params, strict=True)
    ]


def _keep_output(layer: Layer, params: Params, A: Any) -> tuple[Any, Any]:
    out, _ = layer.forward(params, A)
    return out, out


def _count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
