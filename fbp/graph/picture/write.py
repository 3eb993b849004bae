"""A picture as a file, or in a notebook."""

import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from fbp.data.files import replace_text
from fbp.errors import FbpError
from fbp.graph.picture.arrange import arrange
from fbp.graph.picture.boxes import open_at_first
from fbp.graph.picture.content import describe
from fbp.graph.picture.levels import find_boxes
from fbp.graph.picture.page import render_page
from fbp.graph.picture.plan import make_plan
from fbp.graph.picture.svg import render_svg
from fbp.serialize import to_json

_NOTEBOOK_HEIGHT = 520


def write(graph: Any, path: str | os.PathLike[str], depth: int | None) -> Path:
    """Write a picture, whole or not at all; see `fbp.graph.Graph.draw`."""
    target = Path(path)
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise FbpError(f"depth must be a number of levels, got {depth!r}; use 0 for closed boxes")
    if target.suffix.lower() not in ENDINGS:
        raise FbpError(
            f"a picture must end in .svg, .html or .json, got {target.name!r}; a browser turns .svg into other formats"
        )
    text = _RENDERERS[target.suffix.lower()](graph, depth)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_text(target, text)
    except OSError as error:
        raise FbpError(
            f"a picture must be written where files can be, got {target} ({error.strerror or error}); use another path"
        ) from error
    return target


def svg(graph: Any, depth: int | None = None) -> str:
    """The picture as SVG."""
    level = find_boxes(graph)
    return render_svg(arrange(make_plan(level), open_at_first(level, depth)), f"Computation graph of {graph.name}")


def page(graph: Any, depth: int | None = None) -> str:
    """The picture as a page that needs nothing else."""
    level = find_boxes(graph)
    return render_page(make_plan(level), open_at_first(level, depth), graph.name)


def notebook(graph: Any) -> str:
    """The page in a frame of its own, so that several in one notebook do not disturb each other."""
    return (
        f'<iframe srcdoc="{escape(page(graph))}" sandbox="allow-scripts" title="Computation graph of '
        f'{escape(graph.name)}" style="width:100%;height:{_NOTEBOOK_HEIGHT}px;border:1px solid #8a929b"></iframe>'
    )


_RENDERERS: dict[str, Callable[[Any, int | None], str]] = {
    ".html": page,
    ".svg": svg,
    ".json": lambda graph, _: to_json(describe(graph)) + "\n",
}
ENDINGS = tuple(_RENDERERS)
