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
import secrets
import sys
import zlib
from pathlib import Path

import numpy as np

from fbp.errors import FbpError

StrPath = str | os.PathLike[str]

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
# Deflate spends at least 2 bits on a match, and a match is at most 258 bytes long.
_DEFLATE_RATIO = 1032
_NUMPY_DIMENSIONS = 64
_CHUNK = 1 << 20


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
    name = repr(os.fspath(path))
    if os.path.isdir(path):
        raise FbpError(f"an IDX file must be a file, got the directory {name}; name a file inside it")
    if not os.path.exists(path):
        raise FbpError(f"an IDX file must exist, got nothing at {name}; check the path")
    if not os.path.isfile(path):
        # A pipe or a device has no size, and opening one may wait forever.
        raise FbpError(f"an IDX file must be a regular file, got {name}; copy its content to a file")
    try:
        with open(path, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if raw.peek(2)[:2] != _GZIP_MAGIC:
                return _decode(raw, name, size)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _decode(unpacked, name, size * _DEFLATE_RATIO)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise FbpError(
            f"a gzipped IDX file must decompress to its end, got {name}, which is corrupt ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise FbpError(
            f"an IDX file must be readable, got {name} ({error.strerror or error}); check its permissions"
        ) from error


def _decode(stream: io.BufferedIOBase, name: str, limit: int) -> np.ndarray:
    """Read the array of a stream that can hold at most `limit` bytes."""
    dtype, shape = _read_header(stream, name)
    header_bytes = 4 + 4 * len(shape)
    data_bytes = math.prod(shape) * dtype.itemsize
    declared = f"{name}, which declares {dtype.name} {shape}, {data_bytes} bytes of data"
    # numpy ignores zeros when it checks that a shape can be addressed.
    addressed = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if header_bytes + data_bytes > limit or addressed > sys.maxsize:
        raise FbpError(
            f"an IDX file must hold the data that its header declares, got {declared}, "
            f"and cannot hold more than {max(limit - header_bytes, 0)}; fetch it again"
        )
    data = bytearray()
    while len(data) < data_bytes:
        chunk = stream.read(min(_CHUNK, data_bytes - len(data)))
        if not chunk:
            raise FbpError(
                f"an IDX file must hold the data that its header declares, got {declared}, "
                f"and holds {len(data)}; fetch it again"
            )
        data += chunk
    # For gzip, reading to the end also checks the CRC.
    if stream.read(1):
        raise FbpError(
            f"an IDX file must end after its data, got {declared}, with trailing bytes after them; "
            "fetch it again or cut them off"
        )
    array = np.ndarray(shape, dtype, buffer=data)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _read_header(stream: io.BufferedIOBase, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    if not magic:
        raise FbpError(f"an IDX file must start with a header, got {name}, which is empty; fetch it again")
    if any(magic[:2]):
        raise FbpError(
            f"an IDX file must start with two zero bytes, got 0x{magic[:2].hex()} in {name}; "
            "check that it is the right file"
        )
    if len(magic) < 4:
        raise FbpError(
            f"an IDX header must have at least 4 bytes, got {name}, truncated after {len(magic)}; fetch it again"
        )
    code, ndim = magic[2:]
    if code not in ELEMENT_TYPES:
        known = ", ".join(f"0x{known:02x}" for known in ELEMENT_TYPES)
        raise FbpError(
            f"the element type of an IDX file must be one of {known}, got 0x{code:02x} in {name}; "
            "check that it is the right file"
        )
    if ndim > _NUMPY_DIMENSIONS:
        raise FbpError(
            f"an IDX file must have at most {_NUMPY_DIMENSIONS} dimensions, got {ndim} in {name}; "
            "check that it is the right file"
        )
    dimensions = stream.read(4 * ndim)
    if len(dimensions) < 4 * ndim:
        raise FbpError(
            f"an IDX header of {ndim} dimensions must have {4 + 4 * ndim} bytes, "
            f"got {name}, truncated after {4 + len(dimensions)}; fetch it again"
        )
    return ELEMENT_TYPES[code], tuple(int(n) for n in np.frombuffer(dimensions, ">u4"))


def encode(array: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Encode an array in the IDX format.

    Args:
        array: any shape, in one of the six element types.

    Returns:
        The header, and the elements as a contiguous big-endian array.

    Raises:
        FbpError: the format cannot hold the array.
    """
    code = _CODES.get((array.dtype.kind, array.dtype.itemsize))
    if code is None:
        raise FbpError(f"an IDX array must be one of {_TYPE_NAMES}, got {array.dtype}; convert it with astype first")
    if max(array.shape, default=0) >= 1 << 32:
        raise FbpError(f"an IDX dimension must be below 2^32, got the shape {array.shape}; write it in parts")
    header = bytes((0, 0, code, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header, np.asarray(array, ELEMENT_TYPES[code], order="C")


def write_idx(path: StrPath, array: np.ndarray) -> None:
    """Write an array as an IDX file, completely or not at all; equal arrays give equal bytes.

    Args:
        path: the file, replaced if it exists; a name that ends in .gz is gzipped.
        array: any shape, in one of the six element types (uint8, int8, int16, int32, float32, float64).

    Raises:
        FbpError: the format cannot hold the array, or the file cannot be written.
    """
    header, elements = encode(np.asarray(array))
    target = Path(path)
    if not target.name or target.is_dir():
        raise FbpError(f"an IDX file must be a file, got the directory {str(target)!r}; name a file inside it")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as raw:
            if target.suffix == ".gz":
                # Without name and time in the gzip header, which would differ from run to run.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as packed:
                    packed.write(header)
                    packed.write(elements.data)
            else:
                raw.write(header)
                raw.write(elements.data)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FbpError(
            f"an IDX file must be writable, got {str(target)!r} ({error.strerror or error}); "
            "check the folder and its permissions"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
