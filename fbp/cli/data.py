"""The data that a command line names, for networks of examples."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fbp.config import Demand, NetworkConfig
from fbp.errors import FbpError, check_count

if TYPE_CHECKING:
    from fbp.data import Dataset


def load_examples(source: str | None, scaled: bool = True) -> "Dataset":
    """Load examples of features for a multilayer perceptron.

    Args:
        source: a name, a file or a folder, as for `fbp.data.load`.
        scaled: as for `fbp.data.load`.

    Raises:
        FbpError: it cannot be loaded, or holds tokens.
    """
    from fbp.data import load

    data = load(source, scaled=scaled)
    if data.vocabulary is not None:
        raise FbpError(f"--data must hold examples of features here, got the tokens of {data.name}; use e.g. digits")
    return data


@contextmanager
def reading(read: Callable[..., "Dataset"], *args: Any) -> Iterator[Callable[[], "Dataset"]]:
    """Read data in a thread while the body does something else, such as importing JAX.

    Args:
        read: called with the arguments.
        args: for it.

    Yields:
        A function that waits for the data, and raises what reading them raised.
    """
    # Imported here first: two threads must not import one module.
    import fbp.data  # noqa: F401

    pool = ThreadPoolExecutor(1)
    try:
        yield pool.submit(read, *args).result
    finally:
        # What fails meanwhile is told at once.
        pool.shutdown(wait=False, cancel_futures=True)


def load_fitting(
    source: str | None,
    network: NetworkConfig,
    demand: Demand,
    batch_size: int,
    scaled: bool = True,
    meanwhile: Callable[[], object] = lambda: None,
) -> "Dataset":
    """Load examples once the network is known to be sound: a slip in its words is told before anything is read.

    Args:
        source: a name, a file or a folder, as for `fbp.data.load`.
        network: what the examples are for.
        demand: what the command holds in memory.
        batch_size: the examples of a batch.
        scaled: as for `fbp.data.load`.
        meanwhile: is called while the data are read, once the network is known to be sound.

    Raises:
        FbpError: the network is not sound, the data cannot be loaded, or they do not fit each other or the memory.
    """
    check_count("--batch-size", batch_size)
    # Before JAX is imported, which takes longer than all the rest.
    network.check_memory(demand, 1)
    with reading(load_examples, source, scaled) as data_of:
        network.network()
        network.objective()
        meanwhile()
        data = data_of()
    network.check(data.train_X.shape[1], data.classes)
    network.check_memory(demand, min(batch_size, len(data.train_X)))
    return data
