"""One step of a training in a file, so that it can be looked at again."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from fbp.description import construct
from fbp.errors import FbpError
from fbp.losses import Loss
from fbp.tensors import Tensors, check_schema, load_tensors, name_leaves, restore_leaves, save_tensors, understand
from fbp.typing import Activations, Key, Layer, Params, Targets, Weights

SCHEMA, VERSION = "fbp.replay", 1


class Problem(NamedTuple):
    """A loss at a batch: what a gradient is taken of.

    Attributes:
        net: a network.
        loss: a loss of its output.
        params: its parameters.
        X: inputs, (m, ...).
        Y: targets.
        weights: one per example, (m,).
        key: randomness for dropout.
    """

    net: Layer
    loss: Loss
    params: Params
    X: Activations
    Y: Targets
    weights: Weights
    key: Key


class Replay(NamedTuple):
    """A step that went wrong.

    Attributes:
        problem: the loss at the batch of the step, with the parameters before it.
        step: its number in the training, from 1.
        reason: what went wrong.
    """

    problem: Problem
    step: int
    reason: str


def save_replay(path: Path, replay: Replay, described: dict[str, Any]) -> None:
    """Write a step to a file.

    Args:
        path: the file.
        replay: the step.
        described: the network and the loss as plain data, None where they are of the user's own.

    Raises:
        OSError: the disk does not take it.
    """
    problem = replay.problem
    arrays = name_leaves({name: getattr(problem, name) for name in ("params", "X", "Y", "weights", "key")})
    facts = {"schema": SCHEMA, "schema_version": VERSION, "step": replay.step, "reason": replay.reason, **described}
    save_tensors(path, arrays, facts)


def load_replay(path: str | Path, net: Layer | None = None, loss: Loss | None = None) -> Replay:
    """Read a step that went wrong, as `fbp verify FILE` does.

    Args:
        path: the file that a training has left.
        net: the network, where it has layers of your own.
        loss: the loss, where it is your own.

    Raises:
        FbpError: the file is damaged or not a replay, or a part of your own is missing.
    """
    found = load_tensors(Path(path))
    check_schema(found, SCHEMA, VERSION, "a replay", path, "use another file")
    with understand(Path(path)):
        own_net: Layer = _own("net", "network", net, found, path)
        own_loss: Loss = _own("loss", "loss", loss, found, path)
        X = jax.tree.map(jax.device_put, _as_tree({k: x for k, x in found.arrays.items() if k.split(".")[0] == "X"}))
        shape = jax.tree.map(lambda x: x.shape[1:], X)
        like = jax.eval_shape(lambda: own_net.init(jax.random.key(0), shape)[0])
        saved = {name: array for name, array in found.arrays.items() if name.startswith("params.")}
        params = restore_leaves(like, saved, "params", any_dtype=True)
        Y, weights, key = (jax.device_put(found.arrays[name]) for name in ("Y", "weights", "key"))
        problem = Problem(own_net, own_loss, params, X, Y, weights, jax.random.wrap_key_data(key))
        return Replay(problem, int(found.facts["step"]), str(found.facts["reason"]))


def _own(name: str, kind: str, given: Any, found: Tensors, path: str | Path) -> Any:
    if given is not None:
        return given
    if found.facts.get(kind) is None:
        raise FbpError(
            f"a {kind} of your own must be given, got none for {path}; "
            f"write fbp.training.load_replay(path, {name}={name})"
        )
    return construct(found.facts[kind])


def _as_tree(arrays: dict[str, Any]) -> Any:
    if set(arrays) == {"X"}:
        return arrays["X"]
    return {name.removeprefix("X."): array for name, array in arrays.items()}
