"""What is measured: the networks and the rows of each table, as data."""

from dataclasses import dataclass
from itertools import product

CLASSES = 10
UNROLLED_UP_TO = 128
"""The depth up to which unrolled code is compiled: its compile time grows with depth."""
AGREE_UP_TO = 128
"""The depth up to which rows that only count memory also run once, to assert agreement."""
REMAT_SEGMENT = 32
"""The segment at which `jax.checkpoint` is timed too, the square root of the number of equal blocks."""

INIT_SCALE = {"relu": 2.0, "tanh": 1.0, "gelu": 2.1, "gelu_tanh": 2.1, "silu": 2.5, "sigmoid": 80.0}
"""The scale in Var W = scale / n, where signals about keep their size: zero gradients would agree trivially."""


@dataclass(frozen=True)
class Network:
    """A perceptron of `depth` dense layers, width to width and the last one to `CLASSES`, on `batch` examples.

    The first and the last dense layer stand outside the loop: there are depth - 2 equal blocks (activation, dense).
    """

    activation: str
    width: int
    depth: int
    batch: int

    def __str__(self) -> str:
        return f"{self.activation} {self.width} x {self.depth}, {self.batch}"

    @property
    def blocks(self) -> int:
        """The number of equal blocks."""
        return self.depth - 2


@dataclass(frozen=True)
class Checkpointed(Network):
    """A network whose equal blocks are recomputed in segments of `segment` in the backward pass."""

    segment: int

    def __str__(self) -> str:
        return f"{super().__str__()} in segments of {self.segment}"


Plan = dict[str, tuple[Network, ...]]
"""The networks of each table.

- step: time, memory and compile time against the best version of `jax.grad`.
- memory: temporary memory alone.
- checkpoint: recomputed segments against `jax.grad` without any.
- compile: compile time over depth.
- modes: fbp's loop against fbp unrolled.
"""


def _networks(activations: tuple[str, ...], *shapes: tuple[int, int, int]) -> tuple[Network, ...]:
    return tuple(Network(activation, *shape) for shape, activation in product(shapes, activations))


def _segments(activations: tuple[str, ...], depth: int, *segments: int) -> tuple[Checkpointed, ...]:
    return tuple(Checkpointed(a, 256, depth, 256, k) for a, k in product(activations, segments))


_TIMED = ("relu", "tanh", "gelu")
_COUNTED = ("tanh", "sigmoid", "relu", "gelu", "gelu_tanh", "silu")

# Shapes are (width, depth, batch).
FULL: Plan = {
    "step": (
        *_networks(_TIMED, *((256, depth, 256) for depth in (2, 8, 32, 128, 1024))),
        *_networks(_TIMED, (64, 32, 256), (64, 128, 256)),
        *_networks(("relu", "gelu"), (1024, 32, 256)),
        *_networks(("relu",), (2048, 8, 256)),
        *_networks(_TIMED, (256, 32, 32), (256, 32, 1024)),
        *_networks(("relu",), (256, 128, 32), (256, 128, 1024)),
        *_networks(_TIMED, (64, 2, 32), (2048, 2, 32)),
        *_networks(("relu",), (2048, 2, 1024), (64, 1024, 32)),
    ),
    "memory": (
        *_networks(_COUNTED, (256, 128, 256)),
        *_networks(_TIMED, (256, 128, 1024)),
        *_networks(_COUNTED, (256, 1024, 256)),
    ),
    "checkpoint": (
        # 1026 layers have 1024 equal blocks, a multiple of 8, 16 and 32; 1024 layers have 1022, with some left over.
        *_segments(("tanh",), 1026, 8, 16, 32),
        *_segments(("relu",), 1026, 16, 20),
        *_segments(("tanh",), 1024, 16),
    ),
    "compile": _networks(("tanh",), *((256, depth, 256) for depth in (32, 128, 1024, 10000))),
    "modes": _networks(("tanh",), *((width, depth, 256) for width in (64, 256) for depth in (34, 128))),
}

QUICK: Plan = {
    "step": _networks(("relu", "gelu"), (64, 2, 32), (64, 32, 32), (256, 32, 256)),
    "memory": _networks(("tanh", "silu"), (64, 128, 128)),
    "checkpoint": tuple(Checkpointed("tanh", 64, 258, 256, k) for k in (8, 32)),
    "compile": _networks(("tanh",), (64, 32, 64), (64, 1024, 64)),
    "modes": _networks(("tanh",), (64, 10, 64), (64, 34, 64)),
}
