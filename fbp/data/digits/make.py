"""Select the bundled digits from the full MNIST: python fbp/data/digits/make.py path/to/mnist."""

import sys
from pathlib import Path

import cyclopts
import numpy as np

from fbp.data.datasets import content_hash
from fbp.data.idx import write_idx
from fbp.data.idx_folder import STEMS, read_folder
from fbp.errors import FbpError

SEED = 2024
TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100
MNIST_SHA256 = "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"
HERE = Path(__file__).parent


def draw_stratified(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Draw equally many rows of every class, without replacement, in shuffled order.

    Args:
        labels: (m,) integers.
        per_class: rows to draw of each class.
        rng: the source of randomness.

    Returns:
        The drawn row indices, (classes * per_class,).
    """
    drawn = [rng.choice(np.flatnonzero(labels == label), per_class, replace=False) for label in np.unique(labels)]
    return rng.permutation(np.concatenate(drawn))


def main(mnist: Path, out: Path = HERE) -> None:
    """Write the four gzipped IDX files of the selection.

    Args:
        mnist: the folder of the full MNIST, as four IDX files.
        out: the folder to write to.

    Raises:
        FbpError: the folder does not hold the full MNIST, or a file cannot be read or written.
    """
    arrays = read_folder(mnist)
    received = content_hash(*arrays)
    # Another source would silently replace the bundled digits, and every number measured on them.
    if received != MNIST_SHA256:
        raise FbpError(
            f"the source must be the full MNIST, sha256 {MNIST_SHA256[:12]}..., got {received[:12]}... "
            f"in {str(mnist)!r}; give the folder of the four original files"
        )
    rng = np.random.Generator(np.random.PCG64(SEED))
    train = draw_stratified(arrays[1], TRAIN_PER_CLASS, rng)
    test = draw_stratified(arrays[3], TEST_PER_CLASS, rng)
    for (stem, kind), array, rows in zip(STEMS, arrays, (train, train, test, test), strict=True):
        write_idx(out / f"{stem}-{kind}.gz", array[rows])


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except FbpError as error:
        sys.exit(str(error))
