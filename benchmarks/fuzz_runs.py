"""Files of runs for fuzz.py: weights, checkpoints, options, and what a run says of its data."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
CHECKPOINT = "checkpoints/step-000000000004.safetensors"


@cache
def _run() -> dict[str, bytes]:
    """The files of a small run, by their path in its folder."""
    import jax
    import optax

    import fbp

    net = fbp.mlp((4, 3, 2), "leaky_relu(0.2)", norm="layer", dropout=0.1)
    params, _ = net.init(jax.random.key(0))
    X, Y = np.eye(4, dtype=np.float32), np.array([0, 1, 1, 0])
    with tempfile.TemporaryDirectory() as folder:
        fbp.fit(
            net,
            fbp.SoftmaxCrossEntropy(),
            params,
            (X, Y),
            optimizer=optax.adam(0.1),
            epochs=2,
            batch_size=2,
            out=folder,
        )
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def weights(rng: Rng | None = None) -> bytes:
    """The weights of a run."""
    return _run()["weights.safetensors"]


def _checkpoint() -> bytes:
    return max((name, content) for name, content in _run().items() if name.startswith("checkpoints"))[1]


def facts_of(content: Callable[[], bytes]) -> Callable[[Rng], bytes]:
    """Makes the JSON inside of a file."""

    def make(rng: Rng) -> bytes:
        header = json.loads(content()[8 : 8 + int.from_bytes(content()[:8], "little")])
        return header["__metadata__"]["fbp"].partition(" ")[2].encode()

    return make


def sealed(content: Callable[[], bytes]) -> Callable[[bytes], bytes]:
    """Puts other JSON into a file, with a digest that fits: the readers behind the digest see it."""

    def pack(facts: bytes) -> bytes:
        from safetensors.numpy import load, save

        from fbp.tensors import digest

        arrays, text = load(content()), facts.decode("utf-8", "replace")
        return save(arrays, {"fbp": f"{digest(arrays, text)} {text}"})

    return pack


weights_facts, checkpoint_facts = facts_of(weights), facts_of(_checkpoint)
sealed_weights, sealed_checkpoint = sealed(weights), sealed(_checkpoint)


def load_run(levels: int) -> Callable[[Path], Any]:
    """Loads and sums up the run of a file that lies so many folders deep."""

    def load(path: Path) -> Any:
        from fbp.training import describe_run

        found = describe_run(path.parents[levels])
        if not str(found) or found.parameters <= 0:
            raise ValueError(f"unsound: {found}")

    return load


def options(rng: Rng) -> bytes:
    """Options as TOML."""
    rate, epochs = float(rng.random()), int(rng.integers(1, 100))
    return f'[network]\nlayers = "784,{epochs},10"\n[training]\nlearning-rate = {rate}\nepochs = {epochs}\n'.encode()


def read_options(path: Path) -> Any:
    """As `fbp train --config`."""
    from fbp.cli.options import expand

    return expand(["--config", str(path)])


def data_facts(rng: Rng) -> bytes:
    """What a run says of its data."""
    names = [chr(97 + i) for i in range(int(rng.integers(2, 9)))]
    return json.dumps(
        {"name": "x", "sha256": hashlib.sha256(b"x").hexdigest(), "shape": [4, 4], "class_names": names}
    ).encode()


def read_data_facts(path: Path) -> Any:
    """As `fbp predict`."""
    from fbp.cli.training import read_data_facts

    return read_data_facts(path.parent)
