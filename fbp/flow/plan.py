"""What a grid measures, and what is refused before anything runs."""

import os
from dataclasses import dataclass
from typing import NamedTuple

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError, check_count
from fbp.flow.draws import THREADS
from fbp.initializers import Initializer, initializer

CHUNK = 2**31
"""Bytes of weights that are held at once; more seeds than fit are measured in turn."""


class Group(NamedTuple):
    """One initializer and one activation at every depth, with the seeds that are measured at once."""

    init: str
    activation: str
    seeds: range


@dataclass(frozen=True)
class Plan:
    """A grid of networks of equal widths: inputs, hidden layers and outputs all have `width` units.

    Attributes:
        depths: numbers of dense layers.
        activations: names, as `fbp.activations` has them.
        initializers: names, as `fbp.initializers` has them.
        width: units a layer.
        seeds: networks of each kind.
        examples: inputs of mean square 1, in random directions, the same for all networks.
        seed: of all randomness.

    Raises:
        FbpError: a name is unknown, a number out of range, something stands twice, or the memory does not suffice.
    """

    depths: tuple[int, ...] = (10, 50, 200)
    activations: tuple[str, ...] = ("tanh", "relu", "gelu")
    initializers: tuple[str, ...] = ("he_normal", "glorot_normal", "orthogonal")
    width: int = 256
    seeds: int = 20
    examples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("depths", "activations", "initializers"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise FbpError(f"{name} of a grid are at least one, each once; received {list(values)}")
        for depth in self.depths:
            check_count("a depth of the grid", depth)
        for name in ("width", "seeds", "examples"):
            check_count(name, getattr(self, name))
        if self.seed < 0:
            raise FbpError(f"a seed is an integer of at least 0; received {self.seed}; use 0")
        for name in self.activations:
            if not activation(name).elementwise:
                raise FbpError(
                    "the activations of a grid act on each entry alone; received 'softmax'; it belongs to the loss"
                )
        for name in self.initializers:
            initializer(name)
        needed, there = self._bytes(self.chunk), _available()
        if there is not None and needed > there:
            raise FbpError(
                f"a grid holds the weights of its deepest networks; received depth {max(self.depths)} and width "
                f"{self.width}, which take {needed / 2**30:.3g} GiB where {there / 2**30:.3g} GiB are free; "
                "take a smaller width or depth"
            )

    @property
    def rows(self) -> tuple[Nonlinearity, ...]:
        """The activations."""
        return tuple(activation(name) for name in self.activations)

    @property
    def rules(self) -> tuple[Initializer, ...]:
        """The initializers."""
        return tuple(initializer(name) for name in self.initializers)

    @property
    def chunk(self) -> int:
        """How many seeds are measured at once: a number that does not depend on the machine."""
        most = max(1, CHUNK // (4 * max(self.depths) * self.width**2))
        turns = -(-self.seeds // most)
        return -(-self.seeds // turns)

    def groups(self) -> list["Group"]:
        """What is measured and written together, in order.

        Initializers of one distribution follow one another, as they share their draws.
        """
        chunks = [range(start, min(start + self.chunk, self.seeds)) for start in range(0, self.seeds, self.chunk)]
        distributions = dict.fromkeys(rule.distribution for rule in self.rules)
        return [
            Group(name, act, seeds)
            for distribution in distributions
            for seeds in chunks
            for name in self.initializers
            if initializer(name).distribution == distribution
            for act in self.activations
        ]

    def _bytes(self, seeds: int) -> int:
        # The draws on the host and as a JAX array, and what the loops of two threads keep: caches and readings.
        layer = 2 * self.width**2 + THREADS * (3 * self.examples * self.width + 16 * (len(self.depths) + 1))
        return 4 * max(self.depths) * seeds * layer


def _available() -> int | None:
    """Bytes of memory that are free or can be freed; all there are where only that is known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":") for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
