"""What the readings of a network belong to: its layers with a weight matrix, the parts of its stream, its activations.

Which layers have readings is known when a network has been passed; `read_network` marks them.
"""

from typing import Any

from fbp.combinators import Combinator
from fbp.flow.probe import Tap, add_probes
from fbp.tree import list_layers, map_layers, name_layers, unstack
from fbp.typing import Layer


def list_marks(net: Layer, marks: Any) -> list[dict[str, Any]]:
    """What was read of each simple layer, in forward order, the copies in a loop one by one.

    Args:
        net: as `add_probes` gives it.
        marks: the entry "marks" of what `read_network` returned: for each layer a dictionary with the names as keys.
    """
    return [mark for _, mark in unstack(net, marks)]


def name_parts(net: Layer, marks: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of the layers with a weight matrix, and those of the parts of the stream.

    Args:
        net: a network, with or without its loops.
        marks: as `list_marks` gives them.
    """
    probed, _ = add_probes(net, map_layers(lambda layer: (), net), False)
    names = iter(name_layers(net))
    dense, stream = [], []
    for layer, path, mark in zip(list_layers(probed), name_layers(probed), marks, strict=True):
        # A tap is the second layer of a sequence in the place of what it reads.
        name = path.removesuffix("[1]") if isinstance(layer, Tap) else next(names)
        dense += [name] if "dense" in mark else []
        stream += [name] if "stream" in mark else []
    return tuple(dense), tuple(stream)


def find_units(net: Layer, marks: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Layers with a weight matrix whose output an activation takes, by number, and the number of that activation.

    Args:
        net: as `add_probes` gives it.
        marks: as `list_marks` gives them.
    """
    left, pairs, counts = iter(marks), {}, {"dense": 0, "units": 0}

    def walk(net: Layer, origin: int | None) -> int | None:
        """The number of the layer that a value comes from, given that of the input; None where several join."""
        if not isinstance(net, Combinator):
            for name in next(left).keys() & counts.keys():
                counts[name] += 1
                if name == "dense":
                    origin = counts[name] - 1
                elif origin is not None:
                    pairs.setdefault(origin, counts[name] - 1)
            return origin
        for _ in range(1 if net.copies is None else net.copies):
            origins = {-1: origin}
            for i, (child, sources) in enumerate(zip(net.children, net.sources, strict=True)):
                origins[i] = walk(child, origins[sources[0]] if len(sources) == 1 else None)
            origin = origins[len(net.children) - 1]
        return origin

    walk(net, None)
    return list(pairs), list(pairs.values())
