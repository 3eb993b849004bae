"""A run read back: the network, its parameters, what it was trained with."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fbp.calibration import freeze_statistics
from fbp.description import construct, describe, list_differences
from fbp.errors import FbpError
from fbp.losses import Loss
from fbp.run_folder import CHECKPOINTS, WEIGHTS
from fbp.tensors import check_schema, load_tensors, restore_leaves, understand
from fbp.training.checkpoints import read_newest
from fbp.training.run import VERSION, WEIGHTS_SCHEMA
from fbp.typing import Layer, Params


class Saved(NamedTuple):
    """What a run's folder holds for use.

    Attributes:
        net: the network, with population statistics in place of batch normalization.
        params: its parameters.
        loss: the loss that it was trained with; None where that is of the user's own.
        shape: of one example, or a tree of shapes.
    """

    net: Layer
    params: Params
    loss: Loss | None
    shape: Any


def load(folder: str | os.PathLike[str], net: Layer | None = None, run: int | None = None) -> tuple[Layer, Params]:
    """The network and the parameters that a training has left in a folder.

    Networks of fbp's own layers are made again from what the folder says of them. With batch normalization the result
    is the network for use, with population statistics (`with_population_statistics`). Of a run that was stopped, the
    parameters are those of its last checkpoint.

    Args:
        folder: of `fbp.fit(..., out=folder)` or `fbp train`.
        net: the network, where it has layers of your own.
        run: its number, in a folder of many runs (`fbp.training.fit_many`, `fbp train --seeds`).

    Returns:
        (net, params).

    Raises:
        FbpError: there is no run, it is damaged, or it belongs to another network.

    Example:
        >>> import optax, tempfile
        >>> net, loss = fbp.mlp((4, 8, 3)), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> data = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fitted = fbp.fit(net, loss, params, data, optimizer=optax.adam(1e-2), epochs=2, out=folder)
        ...     again, loaded = fbp.load(folder)
        >>> again == net, bool(jnp.array_equal(loaded[0]["W"], fitted.params[0]["W"]))
        (True, True)
    """
    return open_run(folder, net, run)[:2]


def open_run(folder: str | os.PathLike[str], net: Layer | None = None, run: int | None = None) -> Saved:
    """`load`, with what else there is to know.

    Args:
        folder: of the run.
        net: the network, where it has layers of your own.
        run: its number, in a folder of many runs.

    Raises:
        FbpError: as `load`.
    """
    path = Path(folder)
    if (path / WEIGHTS).exists():
        found = load_tensors(path / WEIGHTS)
        remedy = "load them with the version of fbp that wrote them"
        check_schema(found, WEIGHTS_SCHEMA, VERSION, "weights", path / WEIGHTS, remedy)
        facts, arrays, prefix, is_final = found.facts, found.arrays, "", True
    else:
        newest = read_newest(path / CHECKPOINTS)
        if newest is None:
            raise FbpError(f"a run must have weights or a checkpoint, got none in {path}; check the path")
        facts, arrays, prefix, is_final = newest.facts["training"], newest.arrays, "state.params", False
        arrays = {name: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}
    with understand(path):
        arrays = _choose(arrays, facts.get("runs"), run, path)
        own = _network(facts.get("network"), net, path)
        if not is_final and own != freeze_statistics(own):
            raise FbpError(
                f"batch normalization must have its population statistics for use, got a run in {path} that is not "
                f"finished; finish it with fbp train --resume {path}"
            )
        shape = _as_shape(facts.get("shape"))
        like = jax.eval_shape(lambda: own.init(jax.random.key(0), shape)[0])
        params = restore_leaves(like, arrays, prefix, any_dtype=True)
        loss = None if facts.get("loss") is None else construct(facts["loss"])
        if not isinstance(loss, Loss | None):
            raise FbpError(f"a run must hold a loss, got a {type(loss).__name__} in {path}; use another folder")
    return Saved(own, params, loss, shape)


def _choose(arrays: dict[str, Any], runs: Any, run: int | None, path: Path) -> dict[str, Any]:
    """The arrays of one run, where there is an axis of runs."""
    if runs is None:
        if run is not None:
            raise FbpError(f"run must be left out for the folder of a single run, got {run!r} for {path}; leave it out")
        return arrays
    if not isinstance(run, int) or not 0 <= run < len(runs):
        raise FbpError(
            f"one of the {len(runs)} runs in {path} must be chosen, got {run!r}; give run=0 to run={len(runs) - 1}, on "
            "the command line --run"
        )
    return {name: array[run] for name, array in arrays.items()}


def _network(description: Any, given: Layer | None, path: Path) -> Layer:
    if given is None:
        if description is None:
            raise FbpError(
                f"a network with layers of your own must be given, got none for {path}; write fbp.load(folder, net=net)"
            )
        net = construct(description)
        if not isinstance(net, Layer):
            raise FbpError(f"a run must hold a network, got a {type(net).__name__} in {path}; use another folder")
        return net
    own = freeze_statistics(given)
    if description is not None:
        different = list_differences(description, describe(own))
        if different and list_differences(description, describe(given)):
            raise FbpError(
                f"a run must be loaded with its own network, got {'; '.join(different[:4])} in {path}; leave net out"
            )
    return own


def _as_shape(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _as_shape(each) for name, each in shape.items()}
    return tuple(_as_shape(each) if isinstance(each, list | dict) else each for each in shape)
