"""Images: a folder with one subfolder a class, and one image for a prediction. Pillow reads them.

An image has at most 2^26 pixels, which its header says before anything is decoded.
"""

import io
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fbp.data.datasets import SEED, Dataset, Part, assemble, scale
from fbp.data.files import StrPath, check_file, reject, unreadable
from fbp.errors import FbpError, describe_exception
from fbp.memory import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
"""Only these decoders look at a file: others of Pillow call programs, or read vector graphics."""
_KIND = "an image"
_MOST_PIXELS = 1 << 26
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def load_image_folder(folder: Path) -> Dataset:
    """Load images that are sorted into one subfolder for each class.

    The first image by its name decides whether all are grey or RGB, and which size the others are resized to.

    Args:
        folder: holds one folder for each class, or train/ and test/ with such folders; or train/ alone.

    Raises:
        FbpError: there are no images, one is damaged, or the test part has a class that the training part has not.
    """
    parted = (folder / "train").is_dir()
    roots = [folder / part for part in ("train", "test") if (folder / part).is_dir()] if parted else [folder]
    classes = _list_classes(roots[0])
    if extra := sorted(set(_list_classes(roots[-1])) - set(classes)):
        received = ", ".join(extra)
        raise FbpError(f"classes of test images must be among those of training, got {received}; add images of them")
    files = [_list_files(root, classes) for root in roots]
    if not all(files):
        raise FbpError(
            f"a folder of images must hold one folder for each class, got none with images in {str(roots[-1])!r}; "
            f"known are {', '.join(SUFFIXES)}"
        )
    shape = _shape(min(files[0])[0])
    count = sum(map(len, files))
    received, remedy = f"{count} of shape {shape}", "make the images smaller"
    check_memory(f"the images in {str(folder)!r}", received, math.prod(shape) * count, remedy)
    parts = [_read_part(each, shape, repr(str(root))) for each, root in zip(files, roots, strict=True)]
    return assemble(folder.resolve().name or str(folder), *parts, class_names=tuple(classes))


def has_images(folder: Path) -> bool:
    """Whether a folder, or train/ in it, holds a folder with an image."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    return bool(_list_classes(root))


def _list_classes(folder: Path) -> list[str]:
    folders = (name for name in os.listdir(folder) if not name.startswith(".") and (folder / name).is_dir())
    return sorted(name for name in folders if any(map(_is_image, os.listdir(folder / name))))


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _list_files(root: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Files and their labels, shuffled: rows next to each other shall not be of one class."""
    files = [
        (root / name / file, label)
        for label, name in enumerate(classes)
        if (root / name).is_dir()
        for file in sorted(filter(_is_image, os.listdir(root / name)))
    ]
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(files))
    return [files[i] for i in order]


def _shape(path: Path) -> tuple[int, ...]:
    image = _open(path)
    return (image.height, image.width) if image.mode in _GREY else (image.height, image.width, 3)


def _read_part(files: list[tuple[Path, int]], shape: tuple[int, ...], what: str) -> Part:
    X = np.empty((len(files), *shape), np.uint8)
    for row, (path, _) in zip(X, files, strict=True):
        row[...] = _pixels(_open(path), shape)
    return Part(X, np.array([label for _, label in files], np.int32), what)


def read_image(path: StrPath, shape: tuple[int, ...], invert: bool | None = None) -> np.ndarray:
    """Read one image as an example for a network that was trained on images.

    Args:
        path: of the image, of any size and with any colours; what is transparent counts as white.
        shape: of one example, as `Dataset.shape`: (rows, columns) for grey, (rows, columns, 3) for RGB. The image is
            resized to it.
        invert: exchange light and dark. By default a grey image is inverted if its border is rather light than dark,
            because handwriting is mostly dark on light, and in MNIST light on dark.

    Returns:
        The pixels in [0, 1], (n_0,) float32.

    Raises:
        FbpError: the file is missing or not an image, or the shape is not that of an image.
    """
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or min(shape) < 1:
        raise FbpError(
            f"an example must be an image of shape (rows, columns) or (rows, columns, 3), got {shape}; "
            "images are for networks that were trained on images"
        )
    pixels = scale(_pixels(_open(path), shape))
    if invert is None and len(shape) == 2:
        border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
        invert = bool(border.mean() > 0.5)
    return (1 - pixels if invert else pixels).reshape(-1)


def _open(path: StrPath) -> "Image":
    """A decoded image, upright."""
    from PIL import Image, ImageOps

    name = check_file(_KIND, path)
    try:
        # From memory, where a length that the file only declares allocates nothing.
        content = io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise unreadable(_KIND, name, error) from error
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata, which do not matter here.
            warnings.simplefilter("ignore")
            with Image.open(content, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    received = f"{image.width} x {image.height} in {name}"
                    raise reject(_KIND, f"have at most {_MOST_PIXELS} pixels", received, "make it smaller")
                image.load()
                return ImageOps.exif_transpose(image)
    except FbpError:
        raise
    # What Pillow's decoders raise on damaged files is a matter of luck: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        rule = f"be readable as {', '.join(_FORMATS)}"
        raise reject(_KIND, rule, f"{name} ({describe_exception(error)})", "save it anew as PNG") from error


def _pixels(image: "Image", shape: tuple[int, ...]) -> np.ndarray:
    """The pixels of an image in another size, uint8 of the shape."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Sixteen bits a pixel, of which Pillow would cut the upper ones off.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if len(shape) == 2 else "RGB")
    if image.size != (shape[1], shape[0]):
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)
