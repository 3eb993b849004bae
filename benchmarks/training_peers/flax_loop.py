"""The reference task as Flax's documentation writes a loop, with Optax: python flax_loop.py FOLDER_OF_IDX_FILES."""

import gzip
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx


class Net(nnx.Module):
    """784-128-64-10."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second = nnx.Linear(784, 128, rngs=rngs), nnx.Linear(128, 64, rngs=rngs)
        self.last = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.last(nnx.relu(self.second(nnx.relu(self.first(X)))))


def loss_fn(net: Net, X: jax.Array, Y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean cross-entropy, and the scores."""
    Z = net(X)
    return optax.softmax_cross_entropy_with_integer_labels(Z, Y).mean(), Z


@nnx.jit
def train_step(net: Net, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, X: jax.Array, Y: jax.Array) -> None:
    """One step."""
    (loss, Z), gradient = nnx.value_and_grad(loss_fn, has_aux=True)(net, X, Y)
    metrics.update(loss=loss, logits=Z, labels=Y)
    optimizer.update(net, gradient)


@nnx.jit
def eval_step(net: Net, metrics: nnx.MultiMetric, X: jax.Array, Y: jax.Array) -> None:
    """Figures of one batch."""
    loss, Z = loss_fn(net, X, Y)
    metrics.update(loss=loss, logits=Z, labels=Y)


def read(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def evaluate(net: Net, metrics: nnx.MultiMetric, X: np.ndarray, Y: np.ndarray) -> float:
    """The accuracy, in batches of 1000."""
    metrics.reset()
    for start in range(0, len(X), 1000):
        eval_step(net, metrics, X[start : start + 1000], Y[start : start + 1000])
    return float(metrics.compute()["accuracy"])


def main() -> None:
    """Train, validate after every epoch, and print the accuracy on the test digits."""
    folder = Path(sys.argv[1])
    X, test_X = (
        read(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 784).astype(np.float32) / 255
        for part in ("train", "t10k")
    )
    Y, test_Y = (read(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int32) for part in ("train", "t10k"))
    draw = np.random.default_rng(0)
    order, held = draw.permutation(len(X)), len(X) // 5
    val_X, val_Y, X, Y = X[order[:held]], Y[order[:held]], X[order[held:]], Y[order[held:]]
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    for _ in range(10):
        metrics.reset()
        order = draw.permutation(len(X))
        for start in range(0, len(X), 32):
            rows = order[start : start + 32]
            train_step(net, optimizer, metrics, X[rows], Y[rows])
        evaluate(net, metrics, val_X, val_Y)
    print(json.dumps({"accuracy": evaluate(net, metrics, test_X, test_Y)}), flush=True)


main()
