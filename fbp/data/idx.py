"""The IDX format of MNIST: one big-endian array in one file, gzipped or not.

byte 0-1   0x00 0x00
byte 2     element type (see ELEMENT_TYPES)
byte 3     number of dimensions d
4d bytes   the dimensions, unsigned 32-bit
rest       the elements, last dimension fastest
"""

import gzip
import io
import math
import os
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from fbp.data.files import CHUNK, DEFLATE_RATIO, StrPath, check_file, reject, replacing, unreadable
from fbp.errors import FbpError
from fbp.memory import check_memory

ELEMENT_TYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in ELEMENT_TYPES.items()}
_TYPE_NAMES = ", ".join(dtype.name for dtype in ELEMENT_TYPES.values())

_GZIP_MAGIC = b"\x1f\x8b"
_NUMPY_DIMENSIONS = 64
_KIND = "an IDX file"
_reject = partial(reject, _KIND)
_OTHER_FILE = "check that it is the right file"


def read_idx(path: StrPath) -> np.ndarray:
    """Read the array of an IDX file, gzipped or not (the content decides, not the name).

    Memory grows with the data that the file really holds, never with what its header declares.

    Args:
        path: the file.

    Returns:
        The array, writable, with the file's shape and element type, in the machine's byte order.

    Raises:
        FbpError: the file is missing, unreadable, damaged, or not IDX.
    """
    name = check_file(_KIND, path)
    try:
        with open(path, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if raw.peek(2)[:2] != _GZIP_MAGIC:
                return _decode(raw, name, size)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _decode(unpacked, name, size * DEFLATE_RATIO)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _reject("decompress to its end where it is gzipped", f"{name}, which is corrupt ({error})") from error
    except OSError as error:
        raise unreadable(_KIND, name, error) from error


def _decode(stream: io.BufferedIOBase, name: str, limit: int) -> np.ndarray:
    """Read the array of a stream that can hold at most `limit` bytes."""
    dtype, shape = _read_header(stream, name)
    header_bytes = 4 + 4 * len(shape)
    data_bytes = math.prod(shape) * dtype.itemsize
    declared = f"{name}, which declares {dtype.name} {shape}, {data_bytes} bytes of data"
    # numpy ignores zeros when it checks that a shape can be addressed.
    addressed = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if header_bytes + data_bytes > limit or addressed > sys.maxsize:
        most = max(limit - header_bytes, 0)
        raise _reject("hold the data that its header declares", f"{declared}, and cannot hold more than {most}")
    check_memory(f"the array of {name}", f"{dtype.name} {shape}", data_bytes, "give a part of it")
    data = bytearray()
    while len(data) < data_bytes:
        chunk = stream.read(min(CHUNK, data_bytes - len(data)))
        if not chunk:
            raise _reject("hold the data that its header declares", f"{declared}, and holds {len(data)}")
        data += chunk
    # For gzip, reading to the end also checks the CRC.
    if stream.read(1):
        remedy = "fetch it again or cut them off"
        raise _reject("end after its data", f"{declared}, with trailing bytes after them", remedy)
    array = np.ndarray(shape, dtype, buffer=data)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _read_header(stream: io.BufferedIOBase, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    if not magic:
        raise _reject("start with a header", f"{name}, which is empty")
    if any(magic[:2]):
        raise _reject("start with two zero bytes", f"0x{magic[:2].hex()} in {name}", _OTHER_FILE)
    if len(magic) < 4:
        raise _reject("have a header of at least 4 bytes", f"{name}, truncated after {len(magic)}")
    code, ndim = magic[2:]
    if code not in ELEMENT_TYPES:
        known = ", ".join(f"0x{known:02x}" for known in ELEMENT_TYPES)
        raise _reject(f"have one of the element types {known}", f"0x{code:02x} in {name}", _OTHER_FILE)
    if ndim > _NUMPY_DIMENSIONS:
        raise _reject(f"have at most {_NUMPY_DIMENSIONS} dimensions", f"{ndim} in {name}", _OTHER_FILE)
    dimensions = stream.read(4 * ndim)
    if len(dimensions) < 4 * ndim:
        rule = f"have a header of {4 + 4 * ndim} bytes for {ndim} dimensions"
        raise _reject(rule, f"{name}, truncated after {4 + len(dimensions)}")
    return ELEMENT_TYPES[code], tuple(int(n) for n in np.frombuffer(dimensions, ">u4"))


def encode_header(array: np.ndarray) -> tuple[bytes, np.dtype]:
    """Encode the header of an array in the IDX format.

    Args:
        array: any shape, in one of the six element types.

    Returns:
        The header, and the big-endian element type of what follows it.

    Raises:
        FbpError: the format cannot hold the array.
    """
    code = _CODES.get((array.dtype.kind, array.dtype.itemsize))
    if code is None:
        raise FbpError(f"an IDX array must be one of {_TYPE_NAMES}, got {array.dtype}; convert it with astype first")
    if max(array.shape, default=0) >= 1 << 32:
        raise FbpError(f"an IDX dimension must be below 2^32, got the shape {array.shape}; write it in parts")
    header = bytes((0, 0, code, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header, ELEMENT_TYPES[code]


def write_idx(path: StrPath, array: np.ndarray) -> None:
    """Write an array as an IDX file, completely or not at all; equal arrays give equal bytes.

    Args:
        path: the file, replaced if it exists; a name that ends in .gz is gzipped.
        array: any shape, in one of the six element types (uint8, int8, int16, int32, float32, float64).

    Raises:
        FbpError: the format cannot hold the array, or the file cannot be written.
    """
    header, dtype = encode_header(np.asarray(array))
    elements = np.asarray(array, dtype, order="C")
    target = Path(path)
    if not target.name or target.is_dir():
        raise _reject("be a file", f"the directory {str(target)!r}", "name a file inside it")
    try:
        with replacing(target) as new, open(new, "xb") as raw:
            if target.suffix == ".gz":
                # Without name and time in the gzip header, which would differ from run to run.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as packed:
                    packed.write(header)
                    packed.write(elements.data)
            else:
                raw.write(header)
                raw.write(elements.data)
    except OSError as error:
        received = f"{str(target)!r} ({error.strerror or error})"
        raise _reject("be writable", received, "check the folder and its permissions") from error
