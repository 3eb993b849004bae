"""The pictures that studies share: images with what was read in them, confusion matrices, text with its losses."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.report.style import FONT, FRAME, INK, MUTED, WIDTH, WRONG, canvas, is_narrow, style

NUMBERED = 20
"""A confusion matrix of at most so many classes shows its numbers."""
_SHADES = LinearSegmentedColormap.from_list("errors", ("#ffffff", "#f3c9a5", "#d9803f", WRONG))
_RIGHT = "#e4e9ee"
_LINE = 64
_PICTURED = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})


def digits(images: ArrayLike, labels: ArrayLike, predictions: ArrayLike) -> Figure:
    """Images of digits with their label and what was read, the wrong ones framed and marked by a cross.

    Args:
        images: (k, 28, 28), the larger the darker.
        labels: (k,), the digits that they are.
        predictions: (k,), the digits that were read.

    Returns:
        The figure, as wide as the page, eight digits a row.

    Raises:
        FbpError: there is no image, or the shapes do not belong together.
    """
    pictures, truth, read = np.asarray(images), np.asarray(labels), np.asarray(predictions)
    if pictures.ndim != 3 or len(pictures) == 0 or not (pictures.shape[:1] == truth.shape == read.shape):
        raise FbpError(
            "images (k, 28, 28), labels and predictions must have the same first axis, k > 0, got the shapes "
            f"{pictures.shape}, {truth.shape} and {read.shape}; use one label and one prediction for each image"
        )
    return _draw_images(pictures, truth.tolist(), read.tolist(), ())


def images(pictures: ArrayLike, labels: Sequence[str], predictions: Sequence[str], notes: Sequence[str] = ()) -> Figure:
    """Images with their class and the one that was read, the wrong ones framed and marked by a cross.

    Args:
        pictures: (k, height, width), the larger the darker, or (k, height, width, 3) in RGB.
        labels: the names of the classes that they are.
        predictions: the names of those that were read.
        notes: a few characters to stand under each prediction, such as how sure it is.

    Returns:
        The figure, as wide as the page, eight images a row, or six where names are long.

    Raises:
        FbpError: there is no image, or the lengths differ.

    Example:
        >>> figure = fbp.report.images(np.zeros((2, 8, 8)), ["cat", "dog"], ["cat", "cat"], ["99%", "51%"])
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['read cat\\n99%', '✗ read cat\\n51%']
    """
    drawn = np.asarray(pictures)
    if len(drawn) == 0 or not len(drawn) == len(labels) == len(predictions) or len(notes) not in (0, len(drawn)):
        raise FbpError(
            "images, labels, predictions and notes must be equally many, at least one, got "
            f"{len(drawn)}, {len(labels)}, {len(predictions)} and {len(notes)}; give one of each for an image"
        )
    return _draw_images(drawn, labels, predictions, notes)


def _draw_images(
    pictures: np.ndarray, labels: Sequence[Any], predictions: Sequence[Any], notes: Sequence[str]
) -> Figure:
    longest = max(len(str(name)) for name in (*labels, *predictions))
    # Six a row leave room for long names, on two lines where that is not enough.
    across, wrap = (8, 40) if longest <= 5 else (6, 17)
    across = min(len(pictures), across // 2 if is_narrow() else across)
    lines = -(-(longest + 7) // wrap) - 1
    height = 1.32 * max(1.0, 8 / across / 2) + 0.28 * lines + (0.17 if notes else 0) + (0.25 if across == 6 else 0)
    down = -(-len(pictures) // across)
    shading: dict[str, Any] = {"cmap": "gray_r", "vmin": pictures.min(), "vmax": pictures.max()}
    with style():
        figure = canvas(WIDTH, height * down)
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(pictures) :]:
            axes.remove()
        for i, (picture, axes) in enumerate(zip(pictures, grid.flat, strict=False)):
            right = labels[i] == predictions[i]
            axes.imshow(picture, interpolation="none", **(shading if picture.ndim == 2 else {}))
            axes.set(xticks=[], yticks=[])
            mark, ink, weight = ("", INK, "normal") if right else ("✗ ", WRONG, "bold")
            label, said = (textwrap.fill(line, wrap) for line in (f"label {labels[i]}", f"{mark}read {predictions[i]}"))
            said += f"\n{notes[i]}" if notes else ""
            axes.set_title(label, fontsize=8, fontweight="normal", loc="center", pad=3)
            axes.set_xlabel(said, fontsize=8, color=ink, fontweight=weight, labelpad=3)
            frame, thickness = (FRAME, 0.8) if right else (WRONG, 2.2)
            for spine in axes.spines.values():
                spine.set(visible=True, color=frame, linewidth=thickness)
    return figure


def confusion(counts: ArrayLike, names: Sequence[str]) -> Figure:
    """A confusion matrix: the darker a field, the larger its share of the class; what is right is grey.

    Args:
        counts: (K, K), the examples of each class, in rows, by the class that was read.
        names: of the K classes.

    Returns:
        The figure, as wide as the page, with its numbers where there are at most 20 classes.

    Raises:
        FbpError: the matrix is not square, or has other classes.

    Example:
        >>> figure = fbp.report.confusion([[9, 1], [0, 10]], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['9', '1', '10']
    """
    table = np.asarray(counts)
    K = len(names)
    if table.shape != (K, K) or not K:
        raise FbpError(
            f"a confusion matrix must be square, with a name for each class, got the shape {table.shape} and {K} names"
            "; count each class against each"
        )
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, np.nan)
    largest = max(np.nan_to_num(share).max(), 1e-9)
    longest = max(map(len, names))
    with style():
        figure = canvas(WIDTH, 5.4 if K > NUMBERED else min(1.4 + 0.42 * K + 0.06 * longest, 6.4))
        axes = figure.subplots()
        shades = _SHADES.with_extremes(bad=_RIGHT)
        drawn = axes.imshow(share, cmap=shades, vmin=0, vmax=largest, interpolation="none")
        axes.grid(visible=False)
        axes.set(xlabel="read", ylabel="label")
        if K <= NUMBERED:
            ticks = range(K)
            for i, j in zip(*np.nonzero(table), strict=True):
                dark = i != j and share[i, j] > 0.6 * largest
                axes.text(
                    j, i, str(table[i, j]), ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
        else:
            ticks = range(0, K, -(-K // NUMBERED))
        turn: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
        axes.set_xticks(ticks, [names[i] for i in ticks], **turn)
        axes.set_yticks(ticks, [names[i] for i in ticks])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set(visible=True, color=FRAME)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=25, pad=0.02)
        marks = np.linspace(0, largest, 4)
        bar.set_ticks(marks, labels=[f"{100 * mark:.2g}%" for mark in marks])
        bar.set_label("of the label's examples", fontsize=FONT)
        bar.outline.set_visible(False)
    return figure


def shaded_text(lines: Sequence[tuple[str, str, ArrayLike]], label: str) -> Figure:
    """Text, character by character, each on the shade of its value.

    Args:
        lines: a heading, the characters, and a value for each of them, at least 0.
        label: what the values are, with their unit.

    Returns:
        The figure, as wide as the page, 64 characters a line.

    Raises:
        FbpError: there is no text, or not one value for each character.

    Example:
        >>> figure = fbp.report.shaded_text([("first", "to be", [0.1, 0.2, 2.0, 0.3, 0.1])], "loss (nats)")
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['first', 't', 'o']
    """
    if not lines or any(len(text) != len(np.asarray(values)) for _, text, values in lines):
        raise FbpError("shaded text must have a value for each character, got another number or no text; give both")
    largest = max(float(np.max(np.asarray(values))) for _, _, values in lines)
    known = FT2Font(font_manager.findfont("DejaVu Sans Mono")).get_charmap()
    line = _LINE // 2 if is_narrow() else _LINE
    rows = sum(1.6 - (-len(text) // line) for _, text, _ in lines)
    with style():
        figure = canvas(WIDTH, 0.2 * rows + 0.6)
        axes = figure.subplots()
        axes.set(xlim=(0, line), ylim=(rows, 0), xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        top = 0.0
        drawn: Any = None
        for heading, text, values in lines:
            axes.text(0, top + 0.9, heading, fontsize=8, color=MUTED, va="bottom", parse_math=False)
            top += 1.0
            shown = text.translate(_PICTURED)
            for start in range(0, len(text), line):
                own = np.asarray(values, float)[start : start + line]
                place = (0, len(own), top + 1, top)
                drawn = axes.imshow(
                    own[None], cmap=_SHADES, vmin=0, vmax=largest, extent=place, aspect="auto", interpolation="none"
                )
                for i, character in enumerate(shown[start : start + line]):
                    if character == " ":
                        continue
                    ink = "white" if own[i] > 0.75 * largest else "black"
                    mark = character if ord(character) in known else "□"
                    axes.text(
                        *(i + 0.5, top + 0.52), mark, family="DejaVu Sans Mono", fontsize=9, color=ink,
                        ha="center", va="center", parse_math=False,
                    )  # fmt: skip
                top += 1.0
            top += 0.6
        axes.set(xlim=(0, line), ylim=(rows, 0))
        bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.02)
        bar.set_label(label, fontsize=FONT)
        bar.outline.set_visible(False)
    return figure
