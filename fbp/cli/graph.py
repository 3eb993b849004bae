"""What `fbp graph` does: a function by its name, or a network of ours, as a picture with every value and gradient."""

import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from fbp import graph
from fbp.cli.loading import load, parse_arguments
from fbp.config import COMPARISON, PictureConfig
from fbp.errors import FbpError, check_count, check_seed
from fbp.graph.picture.content import SCHEMA
from fbp.graph.picture.write import ENDINGS
from fbp.terminal import Progress
from fbp.verify.table import make_table

MARK = SCHEMA.encode()
"""What stands at the beginning of every picture that this program has written."""
_BEGINNING = 4096


def check_picture(out: Path) -> None:
    """Refuse a file that no picture can be written to, before anything is computed.

    Args:
        out: the file.

    Raises:
        FbpError: it has another ending, is not a picture of this program, or its folder cannot be written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise FbpError(
            f"--out must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, got {str(out)!r}; use e.g. {out.stem}.html"
        )
    try:
        if out.is_dir():
            raise FbpError(f"--out must be a file, got the folder {out}; use e.g. {out / 'graph.html'}")
        if out.exists() and MARK not in _read_beginning(out):
            raise FbpError(f"--out must be new or an older picture, got {out}, which is another file; use another name")
        # Permissions do not tell what a file system allows; a file that is made does.
        with tempfile.TemporaryFile(dir=next(folder for folder in out.absolute().parents if folder.exists())):
            pass
    except OSError as error:
        raise FbpError(
            f"--out must be in a folder that can be written, got {out} ({error.strerror or error}); use another folder"
        ) from error


def check_no_network(config: PictureConfig, examples: int) -> None:
    """Refuse options of the network beside a function of the user's.

    Args:
        config: the network.
        examples: those of its batch.

    Raises:
        FbpError: one of them is not at its default.
    """
    given = [each.name for each in fields(config) if getattr(config, each.name) != each.default]
    if given or examples != 1:
        name = given[0] if given else "batch_size"
        raise FbpError(
            f"--{name.replace('_', '-')} must not be given with a target, got {getattr(config, name, examples)}; "
            "leave it out"
        )


def trace_function(
    target: str, args: str | None, argnums: Sequence[int] | None, fallback: bool, progress: Progress
) -> graph.Graph:
    """The graph of a function, with its gradients.

    Args:
        target: package.module:name.
        args: literals, or package.module:name of a tuple; None for no arguments.
        argnums: the arguments that get a gradient; None for all.
        fallback: as in `fbp.graph.trace`.
        progress: called with a line about what happens next.

    Raises:
        FbpError: it cannot be imported, called with these arguments, traced or differentiated.
    """
    function, values = load(target), () if args is None else parse_arguments(args)
    if not callable(function):
        raise FbpError(f"{target} must be a function, got {type(function).__name__}; name a function of the module")
    progress(f"tracing {target}")
    found = graph.trace(function, *values, argnums=argnums, fallback=fallback)
    for value in _inputs(found):
        if argnums is None and value.dtype.startswith("complex"):
            raise FbpError(
                f"an argument to differentiate by must be real floating point, got {value.dtype} in {value.name}; "
                "name the others with --argnums"
            )
    progress("running backward")
    return found.backward()


def trace_network(config: PictureConfig, examples: int, fallback: bool, progress: Progress) -> graph.Graph:
    """The graph of a network at a batch that is drawn, with its gradients.

    Args:
        config: the network and its loss.
        examples: those of the batch.
        fallback: as in `fbp.graph.trace`.
        progress: called with a line about what happens next.

    Raises:
        FbpError: an option does not fit, or the network does not fit the memory.
    """
    check_count("--batch-size", examples)
    check_seed(config.seed)
    net, loss = config.network(), config.objective()
    config.check_memory(COMPARISON, examples)
    X, Y = config.batch(examples)
    params, key = config.parameters(X), jax.random.key(config.seed) if config.dropout else None
    progress(f"tracing {config.layers}")
    found = graph.network(net, loss, params, X, Y, key=key, fallback=fallback)
    progress("running backward")
    return found.backward()


def show_graph(found: graph.Graph, out: Path) -> None:
    """Print what a graph says in short: the result, the gradient of each input, the number of nodes."""
    headings = ("input", "shape", "value", "gradient")
    rows = ((value.name, str(value.shape or ""), *_numbers(value)) for value in _inputs(found))
    title = f"{found.name} = {_show(found.values[found.outputs[0]].value)}"
    table = make_table(title, headings, rows, numbers=("value", "gradient"), folds={"input": 8})
    nodes = [node for part in found.walk() for node in part.nodes]
    inside = len(nodes) - len(found.nodes)
    counted = f"{len(nodes)} nodes" + (f", {inside} of them inside of others" if inside else "")
    fallen = sorted({node.primitive for node in nodes if node.by_autodiff})
    lines = [Text(f"by JAX, for want of a local rule: {', '.join(fallen)}")] if fallen else []
    Console().print(table, *lines, Text(f"{counted}; written to {out}"))


def _inputs(found: graph.Graph) -> list[graph.Value]:
    return [found.values[i] for i in found.inputs if found.values[i].kind == "input"]


def _numbers(value: graph.Value) -> tuple[str, str]:
    is_real = np.issubdtype(np.asarray(value.value).dtype, np.floating)
    return _show(value.value), "none" if value.gradient is None and not is_real else _show(value.gradient)


def _show(x: np.ndarray | None) -> str:
    """A number, or the norm of an array."""
    if x is None:
        return "0"
    return f"{x.item():.6g}" if x.size == 1 else f"norm {np.linalg.norm(x.astype(np.float64)):.6g}"


def _read_beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BEGINNING)
