"""Check the arguments of `fit` and `evaluate` before anything is compiled, and put the data where they are read."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from fbp.backprop import check_batch, check_params, loss_value
from fbp.calibration import freeze_statistics, with_population_statistics
from fbp.data import Dataset, validate
from fbp.data.arrays import check_labels, split_rows
from fbp.errors import FbpError, check_count, describe_exception
from fbp.losses import Loss
from fbp.training.feed import RESIDENT_BYTES, Feed, Made, Resident, Streamed
from fbp.training.step import Method, are_labels
from fbp.typing import Activations, Layer, Params, Targets

Held: TypeAlias = tuple[Any, Any]
"""(X, Y), arrays or what NumPy makes into some; X may be a tree of them."""
Data: TypeAlias = "Held | Dataset | Callable[[int], Iterable[Held]]"
"""What `fit` trains on."""


class HeldOut(NamedTuple):
    """Data for validation, on the device.

    Attributes:
        X: inputs.
        Y: targets.
        rows: those that are used, (m,), or for several runs (runs, m); None for all.
    """

    X: Activations
    Y: Targets
    rows: Int[np.ndarray, "..."] | None = None

    @property
    def size(self) -> int:
        """m, of each run."""
        return len(self.Y) if self.rows is None else self.rows.shape[-1]

    def take(self, place: Int[np.ndarray, " b"]) -> tuple[Activations, Targets]:
        """Some of the examples, where runs have rows of their own with a leading axis of runs.

        Args:
            place: which, counted from 0.
        """
        rows = place if self.rows is None else self.rows[..., place]
        return jax.tree.map(lambda x: _take(x, rows), (self.X, self.Y))

    def repeat(self, copies: int) -> "HeldOut":
        """The same for each of so many learning rates, where several runs have rows of their own."""
        return self if self.rows is None else self._replace(rows=np.tile(self.rows, (copies, 1)))


def prepare_feed(
    method: Method,
    params: Params,
    data: Data,
    validation_split: float,
    *,
    batch_size: int,
    seed: int,
    steps_per_epoch: int | None,
) -> tuple[Feed, HeldOut | None]:
    """The source of batches, and what is held out of the data for validation.

    Args:
        method: how a step computes.
        params: the parameters.
        data: as for `fit`.
        validation_split: the fraction to hold out.
        batch_size: examples a step.
        seed: of the orders and the split.
        steps_per_epoch: for a function of batches.

    Raises:
        FbpError: the data do not fit the network or the loss.
    """
    check_count("batch_size", batch_size)
    if callable(data):
        return _prepare_made(method, params, data, validation_split, steps_per_epoch), None
    if steps_per_epoch is not None:
        raise FbpError(
            f"steps_per_epoch must come with a function of batches, got {steps_per_epoch} with arrays; leave it out"
        )
    X, Y = arrays_of(data)
    rows = held = None
    if validation_split:
        rows, held = split_rows(len(Y), fraction=validation_split, seed=seed)
    if isinstance(X, np.ndarray) and X.nbytes > RESIDENT_BYTES:
        # A look at the first rows tells what does not fit; the others are checked as they are read.
        prepare_data(method.net, method.loss, params, X[:batch_size], Y[:batch_size])
        rows = np.arange(len(Y)) if rows is None else rows
        convert = lambda X, Y: _convert(method.net, params, X, Y)
        feed = Streamed(X, Y, rows, min(int(batch_size), len(rows)), seed, convert)
        return feed, None if held is None else HeldOut(*prepare_data(method.net, method.loss, params, X[held], Y[held]))
    X, Y = prepare_data(method.net, method.loss, params, X, Y)
    size = min(int(batch_size), Y.shape[0] if rows is None else len(rows))
    # Both parts are rows of the same arrays: copies would cost their memory and some time.
    held_out = None if held is None else HeldOut(X, Y, held.astype(np.int32))
    return Resident(X, Y, size, seed, rows), held_out


def arrays_of(data: Any) -> Held:
    """The arrays that are trained on.

    Raises:
        FbpError: there are none.
    """
    return (data.train_X, data.train_Y) if isinstance(data, Dataset) else _pair(data)


def _prepare_made(
    method: Method, params: Params, make: Callable[[int], Iterable[Held]], validation_split: float, steps: int | None
) -> Feed:
    if validation_split:
        raise FbpError(
            f"validation_split must come with arrays, got {validation_split} with a function of batches; "
            "give validation=(X, Y)"
        )
    if steps is None:
        raise FbpError("steps_per_epoch must come with a function of batches, got none; say how many are an epoch")
    check_count("steps_per_epoch", steps)
    try:
        X, Y = next(iter(make(1)))
    except (TypeError, ValueError, StopIteration) as error:
        raise FbpError(
            f"a function of batches must return an iterable of pairs (X, Y), got {describe_exception(error)}; "
            "e.g. lambda epoch: my_batches(epoch)"
        ) from error
    X, _ = prepare_data(method.net, method.loss, params, X, Y)
    shape = jax.tree.map(lambda x: x.shape[1:], X)
    return Made(make, steps, len(Y), shape, lambda X, Y: _convert(method.net, params, X, Y))


def prepare_validation(
    method: Method, params: Params, validation: Held | None, held_out: HeldOut | None
) -> HeldOut | None:
    """The data for validation on the device; None without.

    Args:
        method: how a step computes.
        params: the parameters.
        validation: given by the user.
        held_out: of the training data.

    Raises:
        FbpError: both are given, or the data do not fit the network.
    """
    if validation is None:
        return held_out
    if held_out is not None:
        raise FbpError("validation and validation_split must not be given both, got both; leave one of them out")
    return HeldOut(*prepare_data(method.net, method.loss, params, *_pair(validation)))


def check_statistics(method: Method, params: Params, feed: Feed) -> None:
    """Refuse before the first epoch, not after it, what taking population statistics would refuse."""
    jax.eval_shape(lambda params: for_use(method.net, params, feed.inputs, feed.batch_size)[1], params)


def prepare_data(net: Layer, loss: Loss, params: Params, X: Any, Y: ArrayLike) -> tuple[Activations, Targets]:
    """Check the data and put them on the device: X in the dtype of the parameters, integer labels as int32.

    Args:
        net: a network.
        loss: a loss of its output.
        params: its parameters.
        X: (m, ...), any float dtype, or uint8 pixels, which stay as they are (see `to_floats`); or a tree of inputs.
        Y: targets, as the loss takes them, one row per example.

    Returns:
        X and Y as JAX arrays.

    Raises:
        FbpError: X is not floating point, a value is not finite, a label is not one of the network's classes, or a
            shape does not fit the network or the loss.
    """
    X_device, Y_device = _convert(net, params, X, Y)
    floats = jax.eval_shape(lambda X: to_floats(net, params, X), X_device)
    check_batch(net, floats, Y_device)
    check_params(net, params, floats)
    Z = jax.eval_shape(lambda params, X: net.forward(params, X)[0], params, floats)
    if are_labels(Y_device, Z):
        check_labels(np.asarray(Y).reshape(-1), Z.shape[-1], "Y")
    jax.eval_shape(lambda params, X, Y: loss_value(net, loss, params, X, Y), params, floats, Y_device)
    return X_device, Y_device


def for_use(net: Layer, params: Params, inputs: Callable[[], Activations], batch_size: int) -> tuple[Layer, Params]:
    """The network for inference, with population statistics where it normalizes by its batch.

    Args:
        net: a network.
        params: its parameters.
        inputs: gives the training inputs, which are asked for only where they are needed.
        batch_size: examples per batch, as in training.
    """
    if freeze_statistics(net) == net:
        return net, params
    return with_population_statistics(net, params, to_floats(net, params, inputs()), batch_size=batch_size)


def to_floats(net: Layer, params: Params, X: Activations) -> Activations:
    """Pixels in [0, 1]: arrays of uint8 divided by 255, unless the network takes integers.

    Args:
        net: a network.
        params: its parameters, whose dtype is that of the result.
        X: inputs.
    """
    if net.takes_integers:
        return X
    dtype = _dtype(params)
    return jax.tree.map(lambda x: x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x, X)


def _convert(net: Layer, params: Params, X: Any, Y: ArrayLike) -> tuple[Activations, Targets]:
    """Arrays on the device, in the dtypes that the network works in."""
    if isinstance(X, dict | tuple):
        for each in jax.tree.leaves(X):
            validate(np.asarray(each).reshape(len(each), -1), Y)
    else:
        validate(np.asarray(X).reshape(len(np.asarray(X)), -1) if net.takes_integers else X, Y)

    def convert(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return put(x, _dtype(params, x.dtype))
        return put(x, jnp.int32 if net.takes_integers else x.dtype)

    def put(x: Any, dtype: Any) -> Any:
        # Converted where it is: on the device each shape would be a program to compile.
        return jax.device_put(x.astype(dtype) if x.dtype != dtype else x)

    targets = as_array(Y)
    labels = jnp.int32 if jnp.issubdtype(targets.dtype, jnp.integer) else targets.dtype
    inputs = jax.tree.map(lambda x: convert(as_array(x)), X) if isinstance(X, dict | tuple) else convert(as_array(X))
    return inputs, put(targets, labels)


def as_array(x: Any) -> Any:
    """An array of JAX as it is, anything else as one of NumPy."""
    return x if isinstance(x, jax.Array) else np.asarray(x)


def _take(x: Any, rows: np.ndarray) -> Any:
    """Rows of an array, without a program for it where its device is the host's."""
    is_near = all(device.platform == "cpu" for device in x.devices())
    return np.asarray(x)[rows] if is_near else _take_there(x, rows)


@jax.jit
def _take_there(x: Array, rows: Array) -> Array:
    return x[rows]


def _pair(data: Any) -> Held:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise FbpError(
            f"data must be a pair (X, Y), a Dataset or a function of the epoch, got {type(data).__name__}; "
            "give fit(net, loss, params, (X, Y), ...)"
        )
    X, Y = data
    return (jax.tree.map(as_array, X) if isinstance(X, dict | tuple) else as_array(X)), as_array(Y)


def _dtype(params: Params, default: Any = jnp.float32) -> Any:
    dtypes = [x.dtype for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.result_type(*dtypes) if dtypes else default
