"""What the verification benchmark judges: networks of every kind, and faults put into their gradients, as data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp.cli.builtin import draw_parameters
from fbp.precision import cast
from fbp.typing import Layer

INPUTS, CLASSES = 12, 6
DTYPES = ("float32", "bfloat16", "float16", "float64")
SCALES = (0.03, 0.03, 0.1, 0.1, 0.3, 0.3, 0.7, 0.7, 1.0, 1.0, 1.0, 1.0, 1.4, 1.4, 2.0, 2.0, 3.0, 3.0)
"""Factors on He's standard deviation, each with its own seed: 0.03 vanishes, 3 explodes."""


@dataclass(frozen=True)
class Architecture:
    """A perceptron with `depth` dense layers.

    Attributes:
        loss: a name of `LOSSES`.
    """

    depth: int
    width: int
    activation: str
    norm: str
    residual: float
    loss: str

    def __str__(self) -> str:
        extras = [f"{self.norm} norm"] * (self.norm != "none") + [f"residual {self.residual:g}"] * bool(self.residual)
        return ", ".join([f"{self.activation} {self.width} x {self.depth}", *extras, self.loss])

    def network(self) -> Layer:
        """The network; from 16 layers on a compiled loop."""
        widths = (INPUTS, *[self.width] * (self.depth - 1), CLASSES)
        return fbp.mlp(
            widths, self.activation, "he_normal", norm=self.norm, residual=self.residual, repeat=self.depth >= 16
        )

    @property
    def examples(self) -> int:
        """Few where the network is large."""
        return 8 if self.width * self.depth > 2000 else 16


LOSSES: dict[str, fbp.Loss] = {
    "cross-entropy": fbp.SoftmaxCrossEntropy(),
    "cross-entropy, soft labels": fbp.SoftmaxCrossEntropy("sum"),
    "binary cross-entropy": fbp.SigmoidBinaryCrossEntropy(),
    "half squared error": fbp.HalfSquaredError(),
    "half squared error, sigmoid": fbp.HalfSquaredError("sum", "sigmoid"),
}


def architectures(count: int, seed: int = 0) -> list[Architecture]:
    """Networks that go through depths, widths, activations, normalizations and losses in turn, shuffled."""
    draw = np.random.default_rng(seed)

    def turns(values: Any) -> Iterator[Any]:
        return cycle(draw.permutation(np.array(list(values), object)).tolist())

    activations, norms = turns(fbp.activations.activation), turns(["none", "none", "batch", "layer", "rms"])
    depths, widths = turns([1, 2, 3, 4, 8, 16, 64]), turns([1, 3, 16, 64, 128, 512])
    residuals, losses = turns([0.0, 0.0, 1.0, 0.5]), turns(LOSSES)
    networks = []
    for _ in range(count):
        depth, width = next(depths), next(widths)
        # 8 layers of 512 units take eight seconds a gradient, in float64 and along many directions.
        width = min(width, 128) if depth >= 8 else width
        networks.append(Architecture(depth, width, next(activations), next(norms), next(residuals), next(losses)))
    return networks


def arguments(architecture: Architecture, dtype: str, scale: float, seed: int) -> tuple[Any, ...]:
    """(params, X, Y, weights, key) with weights of `scale` times He's, in the dtype."""
    draw = np.random.default_rng(seed)

    m = architecture.examples
    X, labels = draw.standard_normal((m, INPUTS)), np.arange(m) % CLASSES
    Y = {
        "cross-entropy": lambda: labels.astype(np.int32),
        "cross-entropy, soft labels": lambda: draw.dirichlet(np.ones(CLASSES), m),
        "binary cross-entropy": lambda: draw.integers(0, 2, (m, CLASSES)).astype(float),
        "half squared error": lambda: draw.standard_normal((m, CLASSES)),
        "half squared error, sigmoid": lambda: draw.uniform(size=(m, CLASSES)),
    }[architecture.loss]()
    with jax.enable_x64(True):
        params = draw_parameters(architecture.network(), (INPUTS,), draw, scale * 2**0.5)
        values = cast(jax.tree.map(jnp.asarray, (params, X, Y)), dtype)
    return (*values, None, None)


Leaf = np.ndarray
Wrong = Callable[[Leaf, np.random.Generator], Leaf]


def _entry(factor: float) -> Wrong:
    def wrong(g: Leaf, draw: np.random.Generator) -> Leaf:
        g = g.copy()
        at = tuple(int(draw.integers(n)) for n in g.shape)
        g[at] = g[at] * factor
        return g

    return wrong


def _narrow(g: Leaf, draw: np.random.Generator) -> Leaf:
    narrow = {"float64": jnp.float32, "float32": jnp.bfloat16}.get(str(g.dtype), jnp.float8_e4m3fn)
    return g.astype(narrow).astype(g.dtype)


def _times(factor: float) -> Wrong:
    return lambda g, draw: (g * np.asarray(factor, g.dtype)).astype(g.dtype)


def _indices(g: Leaf) -> Leaf:
    """Each entry's index along the first axis."""
    return np.arange(len(g)).reshape(-1, *[1] * (g.ndim - 1))


FAULTS: dict[str, Wrong] = {
    "sign": _times(-1),
    "ratio m": _times(16),
    "ratio 1/m": _times(1 / 16),
    "doubled": _times(2),
    "halved": _times(0.5),
    "one percent too large": _times(1.01),
    "zero leaf": _times(0),
    "transposed": lambda g, draw: np.swapaxes(g, -1, -2) if g.ndim > 1 and g.shape[-1] == g.shape[-2] else g,
    "reversed": lambda g, draw: np.flip(g, 0),
    "off by one": lambda g, draw: np.roll(g, 1, 0),
    "one entry doubled": _entry(2),
    "one entry's sign": _entry(-1),
    "one entry zero": _entry(0),
    "one slice zero": lambda g, draw: np.where(_indices(g) == draw.integers(len(g)), np.zeros_like(g), g),
    "a tenth masked": lambda g, draw: np.where(draw.random(g.shape) < 0.1, np.zeros_like(g), g),
    "one percent noise": lambda g, draw: (g * (1 + 0.01 * draw.standard_normal(g.shape))).astype(g.dtype),
    "one NaN": _entry(float("nan")),
    "narrower dtype": _narrow,
}
"""Faults in one leaf of the gradient; those in the rules of the layers are in `fbp.verify.faults`."""
