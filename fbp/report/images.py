"""Digits as pictures, with what they are and what was read."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.report.look import INK, WIDTH, WRONG, canvas, style


def digits(images: ArrayLike, labels: ArrayLike, predictions: ArrayLike) -> Figure:
    """Digits with their label and what was read, the wrong ones framed and marked by a cross.

    Args:
        images: (k, 28, 28), the larger the darker.
        labels: (k,), the digits that they are.
        predictions: (k,), the digits that were read.

    Returns:
        The figure, 7 inches wide, eight digits a row.

    Raises:
        FbpError: there is no image, or the shapes do not belong together.
    """
    pictures, truth, read = np.asarray(images), np.asarray(labels), np.asarray(predictions)
    if pictures.ndim != 3 or len(pictures) == 0 or not (pictures.shape[:1] == truth.shape == read.shape):
        raise FbpError(
            "digits takes k > 0 images (k, 28, 28) with k labels and k predictions: received "
            f"{pictures.shape}, {truth.shape} and {read.shape}; pass arrays of the same first axis"
        )
    across = min(len(pictures), 8)
    down = -(-len(pictures) // across)
    with style():
        figure = canvas(WIDTH, 1.32 * down * max(1.0, 8 / across / 2))
        grid = figure.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(pictures):
                axes.remove()
                continue
            right = bool(truth[index] == read[index])
            axes.imshow(pictures[index], cmap="gray_r", vmin=pictures.min(), vmax=pictures.max(), interpolation="none")
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"label {truth[index]}", loc="center", fontsize=8, fontweight="normal", pad=3)
            axes.set_xlabel(
                f"read {read[index]}" if right else f"✗ read {read[index]}",
                fontsize=8,
                color=INK if right else WRONG,
                fontweight="normal" if right else "bold",
                labelpad=3,
            )
            for spine in axes.spines.values():
                spine.set(visible=True, color="#c3c9d0" if right else WRONG, linewidth=0.8 if right else 2.2)
    return figure
