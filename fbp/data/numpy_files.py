"""NumPy's files: .npz archives, and folders of .npy files that stay on disk. Nothing in them is ever executed.

An archive takes at most the memory that its members really unpack to, which deflate bounds by 1032 times the size of
the file, and it is refused before where that is more than is free.
"""

import ast
import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Literal

import numpy as np

from fbp.data.datasets import Dataset, Part, assemble
from fbp.data.files import CHUNK, DEFLATE_RATIO, StrPath, check_file, reject, unreadable
from fbp.errors import FbpError, describe_exception
from fbp.memory import check_memory

_LAYOUTS = (("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test"), ("x", "y"))
_FILES = ("train_X.npy", "train_Y.npy", "test_X.npy", "test_Y.npy")
_Order = Literal["C", "F"]
_NUMBER = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_LONGEST_HEADER = 10_000
_NUMPY_DIMENSIONS = 64
_ARCHIVE, _ARRAY = "an NPZ file", "an NPY file"


def load_npz(path: Path) -> Dataset:
    """Load an archive of arrays.

    Args:
        path: an archive with train_X, train_Y, test_X, test_Y, or x_train, y_train, x_test, y_test as Keras has
            them, or X, Y, in large or small letters. The test arrays may be missing.

    Raises:
        FbpError: the file is missing or damaged, has no such arrays, or they do not fit each other.
    """
    name = check_file(_ARCHIVE, path)
    try:
        size = os.path.getsize(path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy").lower(): info for info in archive.infolist()}
            layout = next((names for names in _LAYOUTS if members.keys() >= set(names[:2])), None)
            if layout is None:
                received = f"{list(members)[:8]} in {name}"
                raise reject(_ARCHIVE, "have the arrays train_X and train_Y, or X and Y", received, "rename them")
            names = [each for each in layout if each in members]
            _check_sizes([members[each] for each in names], size, name)
            arrays = [_read_member(archive, members[each], name) for each in names]
    except FbpError:
        raise
    except OSError as error:
        raise unreadable(_ARCHIVE, name, error) from error
    # What zipfile raises on damaged archives is a matter of luck: struct.error, KeyError, NotImplementedError, ...
    except Exception as error:
        raise reject(
            _ARCHIVE, "be a whole zip archive", f"{name}, which is damaged ({describe_exception(error)})"
        ) from error
    parts = [Part(X, Y, name) for X, Y in zip(arrays[::2], arrays[1::2], strict=False)]
    return assemble(path.name, *parts)


def _check_sizes(members: list[zipfile.ZipInfo], size: int, name: str) -> None:
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            received = f"{info.filename!r} of another kind in {name}"
            raise reject(_ARCHIVE, "have members that are stored or deflated", received, "save it anew")
        most = min(info.compress_size, size) * (1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO)
        if info.file_size > most:
            received = f"{info.filename!r} of {info.file_size} bytes in {name}, which cannot hold more than {most}"
            raise reject(_ARCHIVE, "hold what it declares", received)
    total = sum(info.file_size for info in members)
    check_memory(f"the arrays of {name}", f"{total} bytes", total, "save them as a folder of .npy files")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    what = f"{info.filename!r} in {name}"
    with archive.open(info) as stream:
        dtype, shape, order, offset = _read_header(stream, info.file_size, what)
        data = bytearray()
        while len(data) < info.file_size - offset:
            chunk = stream.read(min(CHUNK, info.file_size - offset - len(data)))
            if not chunk:
                break
            data += chunk
        # Reading to the end also checks the CRC.
        if len(data) < info.file_size - offset or stream.read(1):
            raise reject(_ARRAY, "hold the data that its header declares", what)
    return np.ndarray(shape, dtype, data, order=order).astype(dtype.newbyteorder("="), order="C", copy=False)


def load_npy_folder(folder: Path) -> Dataset:
    """Load a folder of arrays larger than memory: examples stay on disk, as they are, and are read where they are used.

    Args:
        folder: holds train_X.npy, train_Y.npy, test_X.npy and test_Y.npy.

    Raises:
        FbpError: a file is missing or damaged, or the arrays do not fit each other.
    """
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise reject("a folder of arrays", f"hold {', '.join(_FILES)}", f"{str(folder)!r} without {', '.join(missing)}")
    train_X, train_Y, test_X, test_Y = (_map_array(folder / file) for file in _FILES)
    train, test = (Part(X, Y, repr(str(folder))) for X, Y in ((train_X, train_Y), (test_X, test_Y)))
    return assemble(folder.resolve().name or str(folder), train, test)


def has_npy(folder: Path) -> bool:
    """Whether a folder holds one of the four files at least."""
    return any((folder / file).is_file() for file in _FILES)


def _map_array(path: StrPath) -> np.ndarray:
    name = check_file(_ARRAY, path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            dtype, shape, order, offset = _read_header(file, size, name)
        if not math.prod(shape):
            raise reject(_ARRAY, "hold numbers", f"the shape {shape} in {name}", "add examples")
        if not dtype.isnative or (order == "F" and len(shape) > 1):
            received = f"{dtype.str} in order {order} in {name}"
            raise reject(_ARRAY, "be in the byte order of the machine and in C order", received, "save it anew")
        return np.memmap(path, dtype, "r", offset, shape)
    except OSError as error:
        raise unreadable(_ARRAY, name, error) from error


def _read_header(stream: IO[bytes], size: int, name: str) -> tuple[np.dtype, tuple[int, ...], _Order, int]:
    """Element type, shape, order, and where the data begin; they fill the rest of the `size` bytes."""
    magic = stream.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise reject(_ARRAY, "begin with NumPy's magic bytes", f"{magic[:8]!r} in {name}", "save it with numpy.save")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _LONGEST_HEADER:
        raise reject(_ARRAY, f"have a header of at most {_LONGEST_HEADER} bytes", f"{length} in {name}")
    text = stream.read(length)
    offset = 8 + width + length
    dtype, shape, order = _parse_header(text, name)
    declared = math.prod(shape) * dtype.itemsize
    # numpy ignores zeros when it checks that a shape can be addressed.
    addressed = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if declared != size - offset or addressed >= 1 << 62:
        received = f"{name}, which declares {dtype.name} {shape}, {declared} bytes, and holds {max(size - offset, 0)}"
        raise reject(_ARRAY, "hold the data that its header declares", received)
    return dtype, shape, order, offset


def _parse_header(text: bytes, name: str) -> tuple[np.dtype, tuple[int, ...], _Order]:
    try:
        header = ast.literal_eval(text.decode("latin1").strip())
        descr, fortran, shape = (header[key] for key in ("descr", "fortran_order", "shape"))
    # The parser fails in its own ways on damaged text: SyntaxError, ValueError, MemoryError, RecursionError, ...
    except Exception as error:
        raise reject(_ARRAY, "have a header", f"{text[:40]!r} in {name}", "save it with numpy.save") from error
    if not isinstance(descr, str) or not _NUMBER.fullmatch(descr):
        raise reject(_ARRAY, "hold numbers", f"elements {str(descr)[:40]!r} in {name}", "convert it to float32")
    whole = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
    if not whole or len(shape) > _NUMPY_DIMENSIONS:
        raise reject(_ARRAY, f"have at most {_NUMPY_DIMENSIONS} sizes", f"the shape {str(shape)[:40]} in {name}")
    return np.dtype(descr), shape, "F" if fortran else "C"
