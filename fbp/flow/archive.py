"""A measured flow in a file, so that a grid of many networks goes on where it was stopped."""

import zipfile
from pathlib import Path

import numpy as np

from fbp.backprop import GradientNorms
from fbp.data.files import replacing
from fbp.flow.measurement import EXAMPLES
from fbp.flow.prediction import find_plain_run
from fbp.flow.results import NORMS, OTHERS, STREAM, Flow, Stream
from fbp.flow.stack import describe_stack
from fbp.typing import Layer

_READ = (*NORMS, *OTHERS, "dZ_cosine", *STREAM)


def save_flow(flow: Flow, path: Path) -> None:
    """Write what `measure` has read of a network without a batch or a spectrum, whole or not at all.

    Args:
        flow: what was measured.
        path: the file, .npz.
    """
    columns = {name: flow.values(name) for name in _READ}
    columns |= {name: np.asarray(getattr(flow, name)) for name in ("scales", "log10_dX", "layers", "parts", "branches")}
    with replacing(path) as new, new.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)


def load_flow(net: Layer, path: Path) -> Flow | None:
    """Read what `save_flow` has written.

    Args:
        net: the network that was measured.
        path: the file.

    Returns:
        The flow; None where the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = dict(file)
        return Flow(
            GradientNorms(*(columns[name] for name in NORMS)),
            **{name: columns[name] for name in ("scales", *OTHERS, "dZ_cosine", "log10_dX")},
            stream=Stream(*(columns[name] for name in STREAM)),
            plain=find_plain_run(net),
            stack=describe_stack(net, EXAMPLES),
            layers=tuple(columns["layers"].tolist()),
            parts=tuple(columns["parts"].tolist()),
            branches=bool(columns["branches"]),
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
