"""The reference task in Keras on TensorFlow: python keras_fit.py FOLDER_OF_IDX_FILES."""

import gzip
import json
import sys
from pathlib import Path

import keras
import numpy as np


def read(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def main() -> None:
    """Train, validate after every epoch, and print the accuracy on the test digits."""
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    X, test_X = (
        read(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 784).astype("float32") / 255
        for part in ("train", "t10k")
    )
    Y, test_Y = (read(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    net = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("adam", loss, metrics=["accuracy"])
    net.fit(X, Y, batch_size=32, epochs=10, validation_split=0.2, verbose=0)
    print(json.dumps({"accuracy": net.evaluate(test_X, test_Y, verbose=0)[1]}), flush=True)


main()
