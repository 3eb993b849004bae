"""IDX files, data sets and the bundled digits: what is good is read exactly, what is bad is named."""

import ast
import gzip
import hashlib
import os
import re
import runpy
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fbp.data import Dataset, load, read_idx, split, validate, write_idx
from fbp.data import idx as idx_module
from fbp.errors import FbpError

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fbp" / "data"
DIGITS = PACKAGE / "digits"
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DTYPES = ["u1", "i1", "<i2", ">i2", "<i4", ">i4", "<f4", ">f4", "<f8", ">f8"]
TERABYTES = bytes((0, 0, 0x08, 3)) + np.array([1 << 20, 1 << 10, 1 << 10], ">u4").tobytes()


def one_line(error: pytest.ExceptionInfo[FbpError]) -> bool:
    message = str(error.value)
    return (
        "\n" not in message and not message.endswith(".") and all(part in message for part in (" must ", "got ", "; "))
    )


def idx_bytes(array: np.ndarray) -> bytes:
    """The format written a second time, from its description."""
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    head = bytes([0, 0, codes[kind], array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(f">{kind}").tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid data set of 6 + 4 images of 3 x 2 pixels in 3 classes."""
    rng = np.random.default_rng(0)
    path = tmp_path / "small"
    path.mkdir()
    for (images, labels), m in ((NAMES[:2], 6), (NAMES[2:], 4)):
        write_idx(path / images, rng.integers(0, 256, (m, 3, 2)).astype("u1"))
        write_idx(path / labels, (np.arange(m) % 3).astype("u1"))
    return path


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(DTYPES), gz=st.booleans())
def test_round_trip_keeps_every_bit(tmp_path: Path, data: st.DataObject, dtype: str, gz: bool) -> None:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array = data.draw(hnp.arrays(dtype, shapes))
    path = tmp_path / ("array.gz" if gz else "array")
    write_idx(path, array)
    stored = path.read_bytes()
    assert (gzip.decompress(stored) if gz else stored) == idx_bytes(array)
    back = read_idx(path)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert back.flags.writeable


def test_strided_arrays_are_written_in_row_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-3].T
    write_idx(tmp_path / "a", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_content_decides_about_gzip_not_the_name(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    (tmp_path / "raw.gz").write_bytes(idx_bytes(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "raw.gz"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed"), array)


def test_a_gzip_file_of_several_members_is_one_array(tmp_path: Path) -> None:
    raw = idx_bytes(np.arange(5, dtype=np.uint8))
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw[:7]) + gzip.compress(raw[7:]))
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), np.arange(5))


def test_written_bytes_do_not_depend_on_time_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(100, dtype=np.uint8)
    write_idx(tmp_path / "a.gz", array)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_idx(tmp_path / "b.gz", array)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))
PACKED = gzip.compress(GOOD, mtime=0)
BAD_FILES = {
    "empty": (b"", "is empty"),
    "empty inside gzip": (gzip.compress(b""), "is empty"),
    "text": (b"label,pixel0\n", "start with two zero bytes, got 0x6c61"),
    "text inside gzip": (gzip.compress(b"label"), "start with two zero bytes, got 0x6c61"),
    "one letter": (b"P", "start with two zero bytes, got 0x50"),
    "magic cut": (GOOD[:3], "at least 4 bytes.*truncated after 3"),
    "dimensions cut": (GOOD[:9], "header of 12 bytes for 2 dimensions.*truncated after 9"),
    "unknown type": (b"\0\0\x0a\1" + GOOD[4:], "must have one of the element types 0x08.*got 0x0a"),
    "too many dimensions": (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"x", "at most 64 dimensions, got 65"),
    "data cut": (GOOD[:-1], r"declares uint8 \(3, 4\), 12 bytes.*cannot hold more than 11"),
    "data cut inside gzip": (gzip.compress(GOOD[:-1]), r"declares uint8 \(3, 4\), 12 bytes.*and holds 11;"),
    "trailing byte": (GOOD + b"x", "must end after its data.*trailing bytes"),
    "trailing byte inside gzip": (gzip.compress(GOOD + b"x"), "must end after its data.*trailing bytes"),
    "gzip cut": (PACKED[:-9], "decompress to its end.*is corrupt.*ended before"),
    "gzip CRC": (PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:], "is corrupt.*CRC check failed"),
    "gzip length": (PACKED[:-1] + b"\1", "is corrupt.*Incorrect length"),
    "gzip stream": (PACKED[:10] + b"\xff" * 20 + PACKED[30:], "is corrupt.*invalid block type"),
    "garbage after gzip": (PACKED + b"garbage", "is corrupt.*Not a gzipped file"),
    "terabytes": (TERABYTES + b"x" * 8, r"1099511627776 bytes of data, and cannot hold more than 8;"),
    "terabytes inside gzip": (gzip.compress(TERABYTES), r"1099511627776 bytes of data, and cannot hold more"),
    "unaddressable": (b"\0\0\x0c\3" + b"\0\0\0\0" + b"\xff" * 8, "0 bytes of data, and cannot hold more"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(FbpError, match=message) as error:
        read_idx(path)
    assert repr(str(path)) in str(error.value)
    assert one_line(error)


@pytest.mark.parametrize("stored", [GOOD, PACKED], ids=["raw", "gz"])
def test_every_cut_is_refused_and_no_flipped_bit_changes_the_data(tmp_path: Path, stored: bytes) -> None:
    """Some bits of gzip mean nothing: its time stamp, the padding after the last block."""
    path = tmp_path / "a"
    for length in range(len(stored)):
        path.write_bytes(stored[:length])
        with pytest.raises(FbpError):
            read_idx(path)
    if stored is PACKED:
        for bit in range(8 * len(stored)):
            flipped = bytearray(stored)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                array = read_idx(path)
            except FbpError:
                continue
            assert idx_bytes(array) == GOOD


@pytest.mark.parametrize("gz", [False, True], ids=["raw", "gz"])
def test_a_header_for_terabytes_is_refused_without_allocating(tmp_path: Path, gz: bool) -> None:
    path = tmp_path / "huge"
    # Megabytes behind the header, so that reading or decompressing it first would show as well.
    content = TERABYTES + bytes(8 << 20)
    path.write_bytes(gzip.compress(content) if gz else content)
    assert peak_memory(path, "1099511627776 bytes") < 1_000_000


def test_memory_follows_the_data_that_is_there_not_the_header(tmp_path: Path) -> None:
    """The header's 100 MB are within deflate's ratio for a file of this size, but only 1 MB is there."""
    noise = np.random.default_rng(0).bytes(1 << 20)
    path = tmp_path / "liar.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\1" + (100_000_000).to_bytes(4, "big") + noise))
    assert peak_memory(path, "and holds 1048576;") < 5_000_000


def test_what_does_not_fit_the_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros pack well: what a file really holds may be more than there is."""
    write_idx(folder / f"{NAMES[0]}.gz", np.zeros((6000, 100, 100), np.uint8))
    (folder / NAMES[0]).unlink()
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: 10 << 20)
    assert peak_memory(folder / f"{NAMES[0]}.gz", r"must fit the .* got uint8 \(6000, 100, 100\)") < 1_000_000
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: 100)
    with pytest.raises(FbpError, match=r"the array of .* must fit"):
        load(folder)


def test_a_gzip_bomb_behind_a_small_array_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(30_000_000)))
    assert peak_memory(path, "trailing bytes") < 1_000_000


def peak_memory(path: Path, message: str) -> int:
    """The bytes allocated at most while a file is refused with a message."""
    tracemalloc.start()
    try:
        with pytest.raises(FbpError, match=message):
            read_idx(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_path_that_is_no_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, message in (
        (tmp_path / "none", "must exist, got nothing at .*none"),
        (tmp_path / "nul\0byte", "must exist, got nothing at "),
        (tmp_path, "must be a file, got the directory "),
    ):
        with pytest.raises(FbpError, match=message) as error:
            read_idx(path)
        assert one_line(error)

    # Refused by open itself: permission bits do not stop a test that runs as root.
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").write_bytes(GOOD)
    monkeypatch.setattr(idx_module, "open", refuse, raising=False)
    with pytest.raises(FbpError, match=r"must be readable, got .*secret' \(Permission denied\)") as error:
        read_idx(tmp_path / "secret")
    assert one_line(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FbpError, match=r"must be a regular file, got .*pipe"):
        read_idx(tmp_path / "pipe")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path, array, message in (
        (tmp_path / "a", np.arange(3), "must be one of uint8, .* got int64; convert"),
        (tmp_path / "a", np.array(["x"]), "got <U1; convert"),
        (tmp_path / "a", np.empty((1 << 32, 0), "u1"), r"below 2\^32, got the shape \(4294967296, 0\)"),
        (tmp_path, np.zeros(3, "u1"), "got the directory"),
        (tmp_path / "none" / "a", np.zeros(3, "u1"), r"must be writable, got .* \(No such file"),
    ):
        with pytest.raises(FbpError, match=message) as error:
            write_idx(path, array)
        assert one_line(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.gz"
    write_idx(path, np.arange(4, dtype=np.uint8))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(FbpError, match=r"must be writable, got .*a.gz' \(No space left on device\)"):
        write_idx(path, np.zeros(9, np.uint8))
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_idx(path), np.arange(4))


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_idx(tmp_path / "a", np.zeros(3, "u1"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_load_scales_and_flattens(folder: Path) -> None:
    data = load(folder)
    images = read_idx(folder / NAMES[0])
    assert (data.name, data.classes) == ("small", 3)
    assert data.train_X.dtype == data.test_X.dtype == np.float32
    assert data.train_Y.dtype == data.test_Y.dtype == np.int32
    np.testing.assert_array_equal(data.train_X, images.reshape(6, 6).astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(data.train_Y, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(data.test_Y, [0, 1, 2, 0])
    with pytest.raises(ValueError, match="read-only"):
        data.train_X[0, 0] = 2


def test_the_hash_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    raw = hashlib.sha256(b"".join((folder / name).read_bytes() for name in NAMES)).hexdigest()
    assert load(folder).sha256 == raw
    other = tmp_path / "other"
    other.mkdir()
    for name, ending in zip(NAMES, (".gz", "", ".gz", ".gz"), strict=True):
        write_idx(other / (name.replace("-idx", ".idx") + ending), read_idx(folder / name))
    assert load(other).sha256 == raw
    images = read_idx(folder / NAMES[2])
    images[3, 2, 1] ^= 1
    write_idx(folder / NAMES[2], images)
    assert load(folder).sha256 != raw


BAD_FOLDERS = {
    "counts differ": ({1: np.zeros(5, "u1")}, "got 6 images in .* and 5 labels in .*labels-idx1-ubyte'"),
    "shapes differ": ({2: np.zeros((4, 2, 3), "u1")}, r"must have one shape, got \(3, 2\) and \(2, 3\) in"),
    "no images": ({0: np.zeros((0, 3, 2), "u1")}, r"must not be empty, got shape \(0, 3, 2\) in .*train-images"),
    "no pixels": ({2: np.zeros((4, 0, 2), "u1")}, r"must not be empty, got shape \(4, 0, 2\) in .*t10k-images"),
    "no labels": (
        {3: np.zeros(0, "u1")},
        r"labels in .*t10k-labels.* must not be empty, got shape \(0,\)",
    ),
    "float labels": ({1: np.zeros(6, "f4")}, r"train-labels.* must be integers .*got float32 \(6,\)"),
    "label negative": ({1: np.array([0, 1, -3, -1, 0, 0], "i4")}, "must be at least 0, got -3 at row 2 "),
    "label rank": ({3: np.zeros((4, 3), "u1")}, r"t10k-labels.* must be integers .*got uint8 \(4, 3\)"),
    "image rank": ({0: np.zeros((6, 6), "u1")}, r"got uint8 \(6, 6\) in .*train-images"),
    "image type": ({0: np.zeros((6, 3, 2), "f4")}, r"got float32 \(6, 3, 2\) in .*train-images"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_files_that_do_not_fit_are_named(folder: Path, case: str) -> None:
    files, message = BAD_FOLDERS[case]
    for index, array in files.items():
        write_idx(folder / NAMES[index], array)
    with pytest.raises(FbpError, match=message) as error:
        load(folder)
    assert one_line(error)


def test_missing_files_are_listed_with_the_names_looked_for(folder: Path) -> None:
    (folder / NAMES[0]).unlink()
    (folder / NAMES[3]).rename(folder / "labels")
    with pytest.raises(FbpError, match=r"lacks 2: train-images-idx3-ubyte .*t10k-labels-idx1-ubyte ") as error:
        load(folder)
    assert one_line(error)
    assert all(f"t10k-labels{joint}idx1-ubyte.gz" in str(error.value) for joint in "-.")
    assert "train-labels" not in str(error.value)


def test_a_missing_folder_is_named(folder: Path) -> None:
    with pytest.raises(FbpError, match=re.escape(f"got nothing at '{folder / 'none'}'")) as error:
        load(folder / "none")
    assert one_line(error)


X = np.arange(12.0).reshape(4, 3)


def with_value(array: np.ndarray, values: dict) -> np.ndarray:
    array = array.copy()
    for index, value in values.items():
        array[index] = value
    return array


BAD_ARRAYS = {
    "empty": ((np.empty((0, 3)),), r"X must not be empty, got shape \(0, 3\)"),
    "no features": ((np.empty((3, 0)),), r"X must not be empty, got shape \(3, 0\)"),
    "vector": ((X[0],), r"rows of features, shape \(m, n_0\), got shape \(3,\)"),
    "text": ((np.array([["a"]]),), "X must be one array of real numbers, got <U1"),
    "ragged": (([[1.0], [1.0, 2.0]],), "X must be one array of real numbers, got list"),
    "complex": ((X * 1j,), "X must be one array of real numbers, got complex128"),
    "dates": ((X.astype("M8[s]"),), "X must be one array of real numbers, got datetime64"),
    "not finite": (
        (with_value(X, {(2, 1): np.nan, (3, 0): np.inf, (3, 2): np.nan}),),
        "X must be finite, got 2 NaN and 1 infinite values, the first at row 2, column 1;",
    ),
    "image not finite": (
        (with_value(np.ones((2, 3, 3)), {(1, 2, 0): -np.inf}),),
        r"got 0 NaN and 1 infinite values, the first at row 1, column \[2, 0\];",
    ),
    "target not finite": ((X, np.array([0, 1, np.nan, 3])), "Y must be finite, .* the first at row 2;"),
    "empty Y": ((X, np.empty((0, 1))), r"Y must not be empty, got shape \(0, 1\)"),
    "rows": ((X, np.zeros(5)), r"one row per example each, got shapes \(4, 3\) and \(5,\)"),
    "scalar Y": ((X, 1.0), r"one row per example each, got shapes \(4, 3\) and \(\)"),
    "label too large": ((X, np.array([0, 1, 3, 4]), 3), r"Y must be in 0\.\.2, got 3 at row 2 \(2 such"),
    "label negative": ((X, np.array([0, -1, 0, 5]), 3), r"Y must be in 0\.\.2, got -1 at row 1 "),
    "float labels": ((X, np.zeros(4), 3), r"Y must be integers .*got float64 \(4,\)"),
    "one-hot labels": ((X, np.eye(4, dtype=int), 4), r"Y must be integers .*got int64 \(4, 4\)"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_named(case: str) -> None:
    arguments, message = BAD_ARRAYS[case]
    with pytest.raises(FbpError, match=message) as error:
        validate(*arguments[:2], classes=arguments[2] if len(arguments) > 2 else None)
    assert one_line(error)


def test_good_arrays_pass() -> None:
    validate(X)
    validate(X.astype(np.uint8), np.array([0, 2, 1, 0], np.uint8), classes=3)
    validate(X, X[:, :2])
    validate(X.tolist(), [0, 1, 2, 2], classes=3)
    validate(X.astype(ml_dtypes.bfloat16))
    with pytest.raises(FbpError, match="got 1 NaN"):
        validate(with_value(X, {(0, 0): np.nan}).astype(ml_dtypes.bfloat16))


@settings(deadline=None, max_examples=50)
@given(m=st.integers(4, 60), fraction=st.floats(0.2, 0.8), seed=st.integers(0, 2**64))
def test_a_split_parts_the_rows_and_keeps_the_pairs(m: int, fraction: float, seed: int) -> None:
    rows = np.arange(m)
    train_X, train_Y, val_X, val_Y = split(np.stack([rows, -rows], 1), 10 * rows, fraction=fraction, seed=seed)
    assert len(val_X) == round(fraction * m)
    assert sorted([*train_X[:, 0], *val_X[:, 0]]) == rows.tolist()
    np.testing.assert_array_equal(train_Y, 10 * train_X[:, 0])
    np.testing.assert_array_equal(val_Y, -10 * val_X[:, 1])


def test_the_seed_decides_the_split() -> None:
    rows = np.arange(100)
    first, again, other = (split(rows, rows, fraction=0.3, seed=seed)[2] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert sorted(first) != first.tolist()


def test_the_fraction_zero_holds_nothing_out() -> None:
    train_X, train_Y, val_X, val_Y = split(X, np.arange(4), fraction=0, seed=0)
    assert (train_X.shape, train_Y.shape, val_X.shape, val_Y.shape) == ((4, 3), (4,), (0, 3), (0,))


@pytest.mark.parametrize(
    ("fraction", "seed", "rows", "message"),
    [
        (1.0, 0, 4, r"must be in \[0, 1\), got 1.0;"),
        (-0.1, 0, 4, r"must be in \[0, 1\), got -0.1;"),
        (float("nan"), 0, 4, r"must be in \[0, 1\), got nan;"),
        (0.1, 0, 4, "got 0 of 4 rows for the fraction 0.1;"),
        (0.9, 0, 4, "got 4 of 4 rows for the fraction 0.9;"),
        (0.5, -1, 4, "of at least 0, got -1;"),
        (0.5, 1.5, 4, "of at least 0, got 1.5;"),
        (0.5, 0, 3, r"got shapes \(4, 3\) and \(3,\);"),
    ],
)
def test_a_bad_split_is_refused(fraction: float, seed: int, rows: int, message: str) -> None:
    with pytest.raises(FbpError, match=message) as error:
        split(X, np.arange(rows), fraction=fraction, seed=seed)
    assert one_line(error)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load()


def test_the_bundled_digits_are_what_their_readme_says(digits: Dataset) -> None:
    assert (digits.name, digits.classes) == ("digits", 10)
    assert digits.train_X.shape == (5000, 784)
    assert digits.test_X.shape == (1000, 784)
    assert np.bincount(digits.train_Y).tolist() == [500] * 10
    assert np.bincount(digits.test_Y).tolist() == [100] * 10
    for part in (digits.train_X, digits.test_X):
        assert (part.min(), part.max()) == (0, 1)
        assert 0.1 < part.mean() < 0.16
    validate(digits.train_X, digits.train_Y, classes=digits.classes)
    readme = (DIGITS / "README.md").read_text(encoding="utf-8")
    files = sorted(DIGITS.glob("*.gz"))
    assert len(files) == 4
    assert sum(file.stat().st_size for file in files) <= 1_500_000
    for file in files:
        assert f"| `{file.name}` | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |" in readme
    assert digits.sha256 in readme


def test_the_bundled_digits_are_shuffled_and_differ(digits: Dataset) -> None:
    """Any thousand rows hold every class, and no image is in twice, in one part or in both."""
    for start in range(0, 5000, 1000):
        assert np.bincount(digits.train_Y[start : start + 1000], minlength=10).min() > 60
    images = np.concatenate([digits.train_X, digits.test_X])
    assert len({row.tobytes() for row in images}) == 6000


def test_importing_the_package_needs_numpy_only() -> None:
    """What reads images and downloads is imported when it is used."""
    for file in PACKAGE.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                top = module.split(".")[0]
                own = module in ("fbp.errors", "fbp.memory") or module.startswith("fbp.data.")
                assert own or top == "numpy" or top in sys.stdlib_module_names, f"{file.name}: {module}"


@pytest.fixture(scope="module")
def mnist() -> Path:
    named = os.environ.get("FBP_MNIST")
    if named:
        return Path(named)
    folder = ROOT.parent / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip("the full MNIST is not here: set FBP_MNIST to its folder")
    return folder


def test_the_full_mnist_loads(mnist: Path) -> None:
    data = load(mnist)
    assert (data.train_X.shape, data.test_X.shape, data.classes) == ((60000, 784), (10000, 784), 10)
    # The known counts of MNIST's classes, 0 to 9.
    assert np.bincount(data.train_Y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test_Y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # Its known mean and standard deviation, as many tutorials normalize by them.
    assert round(float(data.train_X.mean(dtype=np.float64)), 4) == 0.1307
    assert round(float(data.train_X.std(dtype=np.float64)), 4) == 0.3081
    assert data.sha256 == runpy.run_path(str(DIGITS / "make.py"))["MNIST_SHA256"]


def test_make_remakes_the_bundled_files(mnist: Path, tmp_path: Path) -> None:
    make(mnist, tmp_path).check_returncode()
    assert load(tmp_path).sha256 == load().sha256
    for file in sorted(DIGITS.glob("*.gz")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_make_refuses_what_is_not_the_full_mnist(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = make(folder, out)
    assert done.returncode == 1
    assert done.stderr.startswith("the source must be the full MNIST, sha256 ")
    assert len(done.stderr.splitlines()) == 1
    assert list(out.iterdir()) == []


def make(mnist: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DIGITS / "make.py"), str(mnist), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
