"""Data sets that are downloaded once, from the first good mirror: four IDX files each, checked by their MD5."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from fbp.data.datasets import Dataset
from fbp.data.idx_folder import load_idx_folder
from fbp.errors import FbpError

FILES = tuple(
    f"{stem}-ubyte.gz" for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
TIMEOUT = 30
"""Seconds for which a mirror may be silent."""


class Remote(NamedTuple):
    """A data set on the web.

    Attributes:
        mirrors: folders of the four files, tried in this order.
        md5: of the files, in the order of FILES, as torchvision publishes them.
        class_names: of the classes, or None for digits.
    """

    mirrors: tuple[str, ...]
    md5: tuple[str, str, str, str]
    class_names: tuple[str, ...] | None = None


REMOTES = {
    "mnist": Remote(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": Remote(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "kmnist": Remote(
        (
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


def load_remote(name: str) -> Dataset:
    """Load a data set, from the cache or else from its mirrors.

    The cache is the folder FBP_CACHE, by default the user's own (`pooch.os_cache("fbp")`).

    Args:
        name: one of REMOTES.

    Raises:
        FbpError: pooch is not installed, or no mirror gives a good file.
    """
    try:
        import pooch
    except ImportError as error:
        raise FbpError(
            f"the download of {name} must have pooch, got none; pip install 'fbp[data]', or give a folder of its four "
            "IDX files"
        ) from error
    remote = REMOTES[name]
    folder = Path(os.environ.get("FBP_CACHE") or pooch.os_cache("fbp")) / name
    for file, md5 in zip(FILES, remote.md5, strict=True):
        _fetch(name, file, md5, remote.mirrors, folder)
    return load_idx_folder(folder, remote.class_names)


def _fetch(name: str, file: str, md5: str, mirrors: tuple[str, ...], folder: Path) -> None:
    """Put a file into a folder, unless it is there; what arrives incomplete or altered is thrown away."""
    import pooch

    failures = []
    for mirror in mirrors:
        try:
            downloader: Any = pooch.HTTPDownloader(timeout=TIMEOUT)
            pooch.retrieve(mirror + file, f"md5:{md5}", file, folder, downloader=downloader)
            return
        # Errors of requests are OSErrors; a wrong hash is a ValueError.
        except (OSError, ValueError) as error:
            reason = "its content is another" if isinstance(error, ValueError) else _reason(error)
            failures.append(f"{mirror} ({reason})")
    raise FbpError(
        f"the download of {name} must give {file} with the MD5 {md5}, got {'; '.join(failures)}; "
        "check the connection, or give a folder of its four IDX files"
    )


def _reason(error: OSError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
