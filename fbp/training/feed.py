"""Where the batches of an epoch come from: arrays on the device, arrays on the disk, or a function that makes them.

All give blocks of steps, and the compiled loop is the same for all: rows to gather from arrays on the device.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Int

from fbp.errors import FbpError
from fbp.typing import Activations, Targets

LONGEST = 4096
"""The most steps in a block."""
BLOCK_BYTES = 2**26
"""About the size of a block that is read from the disk; two are in memory at a time."""
RESIDENT_BYTES = 2**31
"""The size of data from which they stay where they are, and are read block by block."""


class Block(NamedTuple):
    """Some steps of an epoch.

    Attributes:
        X: inputs on the device, which the steps gather rows from.
        Y: targets.
        rows: the rows of each step, (steps, batch), or (steps, runs, batch) with an order for each run.
        counts: how many rows of each step count; the others fill up the last batch with real examples.
    """

    X: Activations
    Y: Targets
    rows: Int[np.ndarray, "steps ..."]
    counts: Int[np.ndarray, " steps"]


class Feed(Protocol):
    """Batches for training."""

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        ...

    @property
    def examples(self) -> int:
        """The number of examples in an epoch."""
        ...

    @property
    def block_steps(self) -> int:
        """The length of every block; the last one is filled up with steps that are not taken."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        ...

    @property
    def shape(self) -> Any:
        """Of one example, or a tree of shapes."""
        ...

    def blocks(self, epoch: int, first: int) -> Iterator[Block]:
        """The blocks of an epoch, from the step `first` of it on."""
        ...

    def inputs(self) -> Activations:
        """Inputs for population statistics: all that are trained on, or where they are not on the device some."""
        ...

    def fingerprint(self) -> str | None:
        """What tells these data from others; None where that is not known."""
        ...


def draw_order(m: int, seed: int, epoch: int) -> Int[np.ndarray, " m"]:
    """The order of the examples in an epoch: a function of the seed and the epoch alone, on every device.

    Args:
        m: the number of examples.
        seed: of the run.
        epoch: its number, from 1.
    """
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(m).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Resident:
    """Arrays that lie on the device as a whole.

    Attributes:
        X: inputs, (m, ...).
        Y: targets.
        batch_size: examples a step.
        seed: of the order of the examples.
        index: the rows that are used; None for all.
    """

    X: Activations
    Y: Targets
    batch_size: int
    seed: int
    index: np.ndarray | None = None

    @property
    def examples(self) -> int:
        """m."""
        return self.Y.shape[0] if self.index is None else len(self.index)

    @property
    def steps(self) -> int:
        """m over the batch size, rounded up."""
        return -(-self.examples // self.batch_size)

    @property
    def block_steps(self) -> int:
        """The whole epoch, up to `LONGEST`."""
        return min(self.steps, LONGEST)

    @property
    def shape(self) -> Any:
        """That of a row."""
        return _row_shapes(self.X)

    def blocks(self, epoch: int, first: int) -> Iterator[Block]:
        """Rows of all data."""
        order = draw_order(self.examples, self.seed, epoch)
        rows = _batches(order if self.index is None else self.index[order].astype(np.int32), self.batch_size)
        for start in range(first, self.steps, self.block_steps):
            counts = _counts(self, start)
            yield Block(self.X, self.Y, _fill_up(rows[start : start + len(counts)], self.block_steps), counts)

    def inputs(self) -> Activations:
        """All."""
        return self.X if self.index is None else jax.tree.map(lambda x: x[self.index], self.X)

    def fingerprint(self) -> str | None:
        """Of some rows."""
        return _fingerprint(self.X, self.Y)


@dataclass(frozen=True, eq=False)
class Together:
    """The same arrays for several runs, each with rows and an order of its own, step by step together.

    Attributes:
        feeds: of the runs, all as long.
    """

    feeds: tuple[Resident, ...]

    @property
    def steps(self) -> int:
        """Those of each run."""
        return self.feeds[0].steps

    @property
    def examples(self) -> int:
        """Those of each run."""
        return self.feeds[0].examples

    @property
    def block_steps(self) -> int:
        """That of each run."""
        return self.feeds[0].block_steps

    @property
    def batch_size(self) -> int:
        """That of each run."""
        return self.feeds[0].batch_size

    @property
    def shape(self) -> Any:
        """That of a row."""
        return self.feeds[0].shape

    def blocks(self, epoch: int, first: int) -> Iterator[Block]:
        """Rows of all data, (steps, runs, batch)."""
        for each in zip(*(feed.blocks(epoch, first) for feed in self.feeds), strict=True):
            yield each[0]._replace(rows=np.stack([block.rows for block in each], 1))

    def inputs(self) -> Activations:
        """Those of the first run."""
        return self.feeds[0].inputs()

    def fingerprint(self) -> str | None:
        """Of some rows."""
        return self.feeds[0].fingerprint()


@dataclass(frozen=True, eq=False)
class Streamed:
    """Arrays that are read as they are needed, such as memory-mapped files, one block ahead of the device.

    Attributes:
        X: inputs, (m, ...), not on the device.
        Y: targets.
        index: the rows that are used.
        batch_size: examples a step.
        seed: of the order of the examples.
        convert: called with the rows of a block.
    """

    X: Any
    Y: Any
    index: np.ndarray
    batch_size: int
    seed: int
    convert: Callable[[Any, Any], tuple[Activations, Targets]]

    @property
    def examples(self) -> int:
        """m."""
        return len(self.index)

    @property
    def steps(self) -> int:
        """m over the batch size, rounded up."""
        return -(-self.examples // self.batch_size)

    @property
    def block_steps(self) -> int:
        """As many as fit `BLOCK_BYTES`."""
        row = (self.X.nbytes + self.Y.nbytes) / len(self.Y)
        return max(1, min(self.steps, LONGEST, int(BLOCK_BYTES / (row * self.batch_size))))

    @property
    def shape(self) -> Any:
        """That of a row."""
        return _row_shapes(self.X)

    def blocks(self, epoch: int, first: int) -> Iterator[Block]:
        """Rows of the block alone."""
        rows = _batches(self.index[draw_order(self.examples, self.seed, epoch)], self.batch_size)
        size = self.block_steps
        places = np.arange(size * self.batch_size, dtype=np.int32).reshape(size, self.batch_size)

        def read(start: int) -> Block:
            own = _fill_up(rows[start : start + size], size).reshape(-1)
            # In the order of the file: rows that lie together are read together.
            order = np.argsort(own, kind="stable")
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            X, Y = (np.asarray(values[own[order]])[back] for values in (self.X, self.Y))
            return Block(*self.convert(X, Y), places, _counts(self, start))

        yield from _ahead(read, range(first, self.steps, size))

    def inputs(self) -> Activations:
        """Those of the first block."""
        return next(self.blocks(1, 0)).X

    def fingerprint(self) -> str | None:
        """Of some rows."""
        return _fingerprint(self.X, self.Y)


@dataclass(frozen=True, eq=False)
class Made:
    """Batches that a function makes, such as augmented or endless data.

    Attributes:
        make: called with the epoch, from 1; returns an iterable of batches (X, Y), all of one shape.
        steps: the number of batches that are taken in an epoch.
        batch_size: examples a step.
        shape: of one example.
        convert: called with each batch.
    """

    make: Callable[[int], Any]
    steps: int
    batch_size: int
    shape: Any
    convert: Callable[[Any, Any], tuple[Activations, Targets]]

    @property
    def examples(self) -> int:
        """Those of all batches."""
        return self.steps * self.batch_size

    @property
    def block_steps(self) -> int:
        """One batch a block."""
        return 1

    def blocks(self, epoch: int, first: int) -> Iterator[Block]:
        """One batch each; those before `first` are made and dropped."""
        batches = iter(self.make(epoch))
        for _ in range(first):
            self._next(batches, epoch)
        rows = np.arange(self.batch_size, dtype=np.int32)[None]
        counts = np.array([self.batch_size], np.int32)
        for _ in range(first, self.steps):
            X, Y = self.convert(*self._next(batches, epoch))
            if Y.shape[0] != self.batch_size:
                raise FbpError(
                    f"batches must have one size, got {Y.shape[0]} examples after {self.batch_size}; drop the rest"
                )
            yield Block(X, Y, rows, counts)

    def inputs(self) -> Activations:
        """Those of the first block."""
        return next(self.blocks(1, 0)).X

    def fingerprint(self) -> str | None:
        """None."""
        return None

    def _next(self, batches: Iterator[Any], epoch: int) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise FbpError(
                f"data must give {self.steps} batches in every epoch, got fewer in epoch {epoch}; give as many"
            ) from None


def _row_shapes(X: Any) -> Any:
    return jax.tree.map(lambda x: x.shape[1:], X)


def _fingerprint(*trees: Any) -> str:
    """A digest of shapes, dtypes and up to 1,000 rows from beginning to end."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        sha256.update(f"{leaf.dtype} {leaf.shape}".encode())
        rows = np.unique(np.linspace(0, len(leaf) - 1, 1000).astype(int))
        # Where the device is the host, its memory is read as it is.
        own = np.asarray(leaf) if jax.default_backend() == "cpu" else leaf
        sha256.update(np.ascontiguousarray(own[rows]).view(np.uint8).data)
    return sha256.hexdigest()


def _batches(order: np.ndarray, batch_size: int) -> np.ndarray:
    count = -(-len(order) // batch_size)
    # The last batch is filled up with examples from the start of the order, which do not count: real examples, so that
    # batch statistics remain those of the data.
    return np.resize(order, count * batch_size).reshape(count, batch_size)


def _counts(feed: Feed, start: int) -> np.ndarray:
    steps = np.arange(start, min(start + feed.block_steps, feed.steps))
    return np.minimum(feed.batch_size, feed.examples - steps * feed.batch_size).astype(np.int32)


def _fill_up(rows: np.ndarray, size: int) -> np.ndarray:
    return rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[:1], size - len(rows), 0)])


def _ahead(read: Callable[[int], Block], starts: range) -> Iterator[Block]:
    """read(start) for each, in a thread that is one block ahead."""
    ready: queue.Queue[Any] = queue.Queue(1)
    stopped = threading.Event()

    def work() -> None:
        for start in (*starts, None):
            try:
                item = None if start is None else read(start)
            except BaseException as error:
                item = error
            while not stopped.is_set():
                with suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    break
            if stopped.is_set() or isinstance(item, BaseException):
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
