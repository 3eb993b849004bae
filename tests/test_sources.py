"""`fbp.data.load` of every kind of source: files that NumPy, Pillow and plain text make are read as they were meant."""

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import optax
import pytest
from PIL import Image

import fbp
from fbp.data import Dataset, csv_file, decode, encode, load, read_image, scale, windows, write_idx
from fbp.errors import FbpError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 4, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


def refused(source: object, *parts: str) -> str:
    """The message of a source that is refused, in one line with these parts."""
    with pytest.raises(FbpError) as error:
        load(source)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in (" must ", "got ", "; ", *parts)), message
    return message


def pairs(data: Dataset) -> set[tuple[bytes, int]]:
    """All examples with their labels, whichever part they are in."""
    parts = ((data.train_X, data.train_Y), (data.test_X, data.test_Y))
    return {(x.tobytes(), int(y)) for X, Y in parts for x, y in zip(X, Y, strict=True)}


def expected(X: np.ndarray, Y: np.ndarray) -> set[tuple[bytes, int]]:
    return {(x.tobytes(), int(y)) for x, y in zip(X.reshape(len(X), -1), Y, strict=True)}


SCALED = IMAGES.astype(np.float32) / np.float32(255)


def test_digits_are_the_default() -> None:
    data, named = load(), load("digits")
    assert (data.source, data.shape, data.held_out, data.vocabulary) == ("digits", (28, 28), False, None)
    assert data.sha256 == named.sha256


def test_an_unknown_name_is_told_its_neighbour() -> None:
    with pytest.raises(FbpError, match="did you mean 'fashion-mnist'"):
        load("fashion-mnits")


def test_a_path_with_the_name_of_a_data_set_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    refused("./digits", "'digits' with none of them")
    assert load("digits").classes == 10


def test_modular_addition() -> None:
    data = load("modular(7)")
    assert (data.name, data.vocabulary, data.classes, data.shape) == ("modular(7)", 8, 8, (3,))
    assert data.class_names == ("0", "1", "2", "3", "4", "5", "6", "=")
    X, Y = np.concatenate([data.train_X, data.test_X]), np.concatenate([data.train_Y, data.test_Y])
    assert X.shape == Y.shape == (49, 3)
    assert len({tuple(row) for row in X.tolist()}) == 49
    np.testing.assert_array_equal(Y[:, 2], (X[:, 0] + X[:, 1]) % 7)
    assert (X[:, 2] == 7).all()
    np.testing.assert_array_equal(Y[:, :2], X[:, 1:])
    assert len(data.train_X) == 24
    assert load("modular").vocabulary == 98
    assert load("modular(97)").sha256 == load("modular").sha256


@pytest.mark.parametrize("name", ["modular(1)", "modular(0)", "modular(-3)", "modular(1001)", "modular(99999999)"])
def test_a_modulus_out_of_range_is_refused(name: str) -> None:
    refused(name, "modulus must be in 2..1000")


@pytest.mark.slow
def test_a_transformer_learns_modular_addition() -> None:
    import jax

    data = load("modular(7)")
    net = fbp.gpt(data.vocabulary, 3, width=32, depth=1, heads=2)
    params, _ = net.init(jax.random.key(0))
    options = {"optimizer": optax.adam(3e-3), "epochs": 300, "batch_size": 8, "seed": 0}
    fitted = fbp.training.fit(net, fbp.SoftmaxCrossEntropy(), params, data, **options)
    scores = net.forward(fitted.params, jax.numpy.asarray(data.train_X))[0]
    assert (np.asarray(scores[:, -1]).argmax(-1) == data.train_Y[:, -1]).mean() > 0.9


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("X", "Y"), ("x", "y"), ("train_X", "train_Y"), ("x_train", "y_train")])
def test_one_part_is_divided(tmp_path: Path, save: object, names: tuple[str, str]) -> None:
    save(tmp_path / "a.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
    data = load(tmp_path / "a.npz")
    assert (data.train_X.shape, data.test_X.shape) == ((27, 12), (3, 12))
    assert (data.held_out, data.shape, data.classes, data.name) == (True, (4, 3), 3, "a.npz")
    assert data.train_X.dtype == np.float32
    assert pairs(data) == expected(SCALED, LABELS)
    assert data.source == str(tmp_path / "a.npz")


@pytest.mark.parametrize("names", [("train_{}", "test_{}"), ("{}_train", "{}_test")])
def test_two_parts_are_kept(tmp_path: Path, names: tuple[str, str]) -> None:
    train, test = names
    # Labels as Keras has them for CIFAR: a column.
    arrays = {train.format("x"): IMAGES, train.format("y"): LABELS[:, None]}
    np.savez(tmp_path / "a.npz", **arrays, **{test.format("x"): IMAGES[:4], test.format("y"): LABELS[:4]})
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.train_X, SCALED.reshape(30, 12))
    np.testing.assert_array_equal(data.train_Y, LABELS)
    np.testing.assert_array_equal(data.test_Y, LABELS[:4])
    assert not data.held_out


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "i8", ">i4", "u2", "?"])
def test_numbers_are_taken_as_they_are(tmp_path: Path, dtype: str) -> None:
    X = np.asfortranarray((RNG.normal(size=(12, 5)) * 4).astype(dtype))
    np.savez(tmp_path / "a.npz", X=X, Y=np.arange(12))
    data = load(tmp_path / "a.npz")
    assert pairs(data) == expected(np.ascontiguousarray(X, np.float32), np.arange(12))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"a": IMAGES}, "got ['a'] in"),
        ({"X": IMAGES}, "arrays train_X and train_Y, or X and Y"),
        ({"X": np.array([{}, 1], object), "Y": LABELS[:2]}, "elements '|O'"),
        ({"X": np.zeros(3, [("a", "f4")]), "Y": LABELS[:3]}, "hold numbers"),
        ({"X": np.zeros((3, 2), "c8"), "Y": LABELS[:3]}, "elements '<c8'"),
        ({"X": IMAGES, "Y": LABELS[:9]}, "got 30 examples and 9 labels"),
        ({"X": IMAGES, "Y": LABELS - 1}, "got -1 at row 0"),
        ({"X": IMAGES, "Y": LABELS + 2**31}, "got 2147483648"),
        ({"X": IMAGES, "Y": LABELS / 2}, "must be integers"),
        ({"X": np.full((3, 2), np.nan), "Y": LABELS[:3]}, "must be finite, got 6 NaN"),
        ({"X": np.full((3, 2), 1e300), "Y": LABELS[:3]}, "6 infinite"),
        ({"X": LABELS, "Y": LABELS}, "rows of features"),
        ({"X": IMAGES[:0], "Y": LABELS[:0]}, "rows of features"),
        ({"X": IMAGES[:1], "Y": LABELS[:1]}, "at least 2 examples"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS}, "must have one shape"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_an_archive_of_other_arrays_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], part: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", part, "a.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    np.savez(tmp_path / "a.npz", X=np.array([Bomb()], object), Y=LABELS[:1])
    refused(tmp_path / "a.npz", "hold numbers")
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((40_000, 1000), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", zeros.getvalue())
        archive.writestr("Y.npy", b"")
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: 20 << 20)
    assert peak(lambda: refused(tmp_path / "a.npz", "must fit", "40000128 bytes")) < 1 << 20


def test_sizes_that_the_directory_only_declares_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", X=IMAGES, Y=LABELS)
    stored = bytearray((tmp_path / "a.npz").read_bytes())
    at = stored.index(b"PK\1\2")
    stored[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "a.npz").write_bytes(stored)
    assert peak(lambda: refused(tmp_path / "a.npz", "of 4294967294 bytes", "cannot hold more than")) < 1 << 20


def peak(call: object) -> int:
    """The bytes allocated at most while something is called."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_npy(folder: Path, **changed: np.ndarray) -> Path:
    arrays = {"train_X": IMAGES, "train_Y": LABELS, "test_X": IMAGES[:6], "test_Y": LABELS[:6]} | changed
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_examples_stay_on_disk(tmp_path: Path) -> None:
    data = load(write_npy(tmp_path / "big"))
    assert isinstance(data.train_X, np.memmap)
    assert (data.name, data.shape, data.train_X.shape, data.train_X.dtype) == ("big", (4, 3), (30, 12), np.uint8)
    np.testing.assert_array_equal(scale(data.train_X[:2]), SCALED[:2].reshape(2, 12))
    assert type(data.train_Y) is np.ndarray
    assert not data.held_out


def test_what_is_read_does_not_grow_with_the_file(tmp_path: Path) -> None:
    X = np.lib.format.open_memmap(tmp_path / "train_X.npy", "w+", np.float32, (20_000, 1000))
    X[::7] = 1
    X.flush()
    del X
    np.save(tmp_path / "train_Y.npy", np.zeros(20_000, "u1"))
    np.save(tmp_path / "test_X.npy", np.ones((2, 1000), "f4"))
    np.save(tmp_path / "test_Y.npy", np.zeros(2, "u1"))
    assert peak(lambda: load(tmp_path)) < 48 << 20


@pytest.mark.parametrize("name", ["train_X", "test_Y"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_npy(tmp_path) / f"{name}.npy").unlink()
    refused(tmp_path, f"without {name}.npy")


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"train_X": IMAGES.astype(">f4")}, "byte order of the machine"),
        ({"train_X": np.asfortranarray(IMAGES)}, "in C order"),
        ({"train_X": IMAGES.astype("f2")}, "got float16"),
        ({"train_X": IMAGES[:0]}, "hold numbers, got the shape (0, 4, 3)"),
        ({"test_X": np.full((6, 4, 3), np.inf, "f4")}, "must be finite"),
        ({"test_X": IMAGES[:6, :2]}, "must have one shape"),
        ({"test_Y": LABELS[:5]}, "got 6 examples and 5 labels"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_folder_of_other_arrays_is_refused(tmp_path: Path, changed: dict[str, np.ndarray], part: str) -> None:
    refused(write_npy(tmp_path, **changed), part)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }", "declares float32"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 3000 + b",), }", "at most 64 sizes"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", "at most 64 sizes"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 70 + b"), }", "at most 64 sizes"),
        (b"(" * 9000, "have a header"),
        (b"__import__('os')", "have a header"),
    ],
)
def test_a_bad_header_is_refused(tmp_path: Path, header: bytes, part: str) -> None:
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64)
    (write_npy(tmp_path) / "train_X.npy").write_bytes(content)
    assert peak(lambda: refused(tmp_path, part, "train_X.npy")) < 4 << 20


TABLE = [(1.5, -2.0, 0), (0.25, 4.0, 1), (3.0, 0.5, 2), (7.0, 1e-3, 1)]


def write_csv(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


@pytest.mark.parametrize("header", [["a,b,label"], ["x1,x2,Class"], ["1,2,y"], []], ids=str)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "dos"])
def test_with_and_without_header(tmp_path: Path, header: list[str], end: str) -> None:
    data = load(write_csv(tmp_path / "t.csv", *header, *(f"{a},{b},{y}" for a, b, y in TABLE), end=end))
    X, Y = np.array(TABLE, np.float32)[:, :2], np.array(TABLE)[:, 2]
    assert pairs(data) == expected(X, Y)
    assert (data.classes, data.class_names, data.shape, data.held_out) == (3, None, (2,), True)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_label_may_stand_anywhere(tmp_path: Path, delimiter: str) -> None:
    rows = [("a", "target", "b"), *((a, y, b) for a, b, y in TABLE)]
    data = load(write_csv(tmp_path / "t.csv", *(delimiter.join(map(str, row)) for row in rows)))
    assert pairs(data) == expected(np.array(TABLE, np.float32)[:, :2], np.array(TABLE)[:, 2])


def test_names_are_numbered_and_kept(tmp_path: Path) -> None:
    names = ("virginica", "Iris, wild", "setosa")
    lines = (f'{a},{b},"{names[y]}"' for a, b, y in TABLE)
    data = load(write_csv(tmp_path / "t.csv", "a,b,species", *lines))
    assert data.class_names == ("Iris, wild", "setosa", "virginica")
    Y = [data.class_names.index(names[y]) for _, _, y in TABLE]
    assert pairs(data) == expected(np.array(TABLE, np.float32)[:, :2], np.array(Y))


def test_names_without_header(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "t.csv", "5.1,3.5,setosa", "4.9,3,virginica"))
    assert data.class_names == ("setosa", "virginica")
    assert len(data.train_X) + len(data.test_X) == 2


def test_numbers_with_a_gap_are_names(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "t.csv", "1,2,-1", "3,4,1", "5,6,-1"))
    assert data.class_names == ("-1", "1")
    assert pairs(data) == expected(np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([0, 1, 0]))


def test_the_index_that_pandas_writes_is_left_out(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "t.csv", ",a,b,label", *(f"{i},{a},{b},{y}" for i, (a, b, y) in enumerate(TABLE))))
    assert pairs(data) == expected(np.array(TABLE, np.float32)[:, :2], np.array(TABLE)[:, 2])


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (("a,b,label", "1,2,0", "1,x,0"), "got 'x' in column 2 in line 3"),
        (("a,b,label", "", "1,2,0", "1,,0"), "got '' in column 2 in line 4"),
        (("1,2,0", "1,nan,0"), "hold finite numbers, got 'nan' in column 2 in line 2"),
        (("1,2,0", "1,1e999,0"), "got '1e999' in column 2 in line 2"),
        (("1,2,0", "1,1e39,0"), "must be finite, got 0 NaN and 1 infinite"),
        (("1,2,0", "1,2"), "have 3 columns in each line, got 2 in line 2"),
        (("1,2,0", "1,2,3,4"), "have 3 columns in each line, got 4 in line 2"),
        (("1,2,0", "1,2,0.5"), "whole numbers as labels, got '0.5' in column 3 in line 2"),
        (("1,2,0", "1,2,99999999999"), "whole numbers as labels"),
        (("1,2,a", "1,2,"), "have a label in each line, got none in column 3 in line 2"),
        (("1,2,0", '1,"2,0', "3,4,0"), "a CSV file must"),
        (("1", "2"), "columns of features and one of labels"),
        (("a,b,label",), "hold lines of data"),
        (("",), "columns of features"),
        (("1,2,0",), "at least 2 examples"),
        (("1,2," + "x" * (2 << 20),), "lines of at most 1048576 characters"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_bad_line_is_named(tmp_path: Path, lines: tuple[str, ...], part: str) -> None:
    refused(write_csv(tmp_path / "t.csv", *lines), part)


def test_a_column_of_text_is_not_a_label(tmp_path: Path) -> None:
    lines = (f"1,2,name{i}" for i in range((1 << 16) + 1))
    refused(write_csv(tmp_path / "t.csv", "a,b,id", *lines), "at most 65536 classes")


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("1,2,käse\n3,4,brot\n".encode("latin1"))
    refused(tmp_path / "t.csv", "be in UTF-8")
    (tmp_path / "t.csv").write_bytes("1,2,käse\n3,4,brot\n".encode("utf-8-sig"))
    assert load(tmp_path / "t.csv").class_names == ("brot", "käse")


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows = [
        (round(float(a), 3), round(float(b), 3), "äöü"[k % 3]) for k, (a, b) in enumerate(RNG.normal(size=(200, 2)))
    ]
    path = write_csv(tmp_path / "t.csv", "a,b,label", *(",".join(map(str, row)) for row in rows), end="\r\n")
    whole = load(path)
    monkeypatch.setattr(csv_file, "_BLOCK", block)
    assert load(path).sha256 == whole.sha256
    path.write_text(path.read_text().replace(f"{rows[150][0]},", "oops,"))
    refused(path, "got 'oops' in column 1 in line 152")


def test_memory_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "_BLOCK", 1 << 16)
    # The worst case: most numbers for a byte.
    path = write_csv(tmp_path / "t.csv", *["1,2,3,4,5,6,7,8,0"] * 50_000)
    assert peak(lambda: load(path)) < 16 * path.stat().st_size


def test_characters_are_tokens(tmp_path: Path) -> None:
    text = "Ein süßer Brei 🙂\r\n" * 20
    (tmp_path / "t.txt").write_bytes(text.encode())
    data = load(tmp_path / "t.txt")
    assert data.class_names == tuple(sorted(set(text)))
    assert data.vocabulary == data.classes == len(data.class_names)
    cut = len(text) * 9 // 10
    assert decode(data.train_X, data.class_names) == text[: cut - 1]
    assert decode(data.train_Y, data.class_names) == text[1:cut]
    assert decode(data.test_X, data.class_names) == text[cut:-1]
    assert (data.train_X.dtype, data.held_out, data.shape) == (np.int32, True, ())
    np.testing.assert_array_equal(encode(text[1:cut], data.class_names), data.train_Y)


def test_memory_follows_the_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcdefghij" * 500_000)
    assert peak(lambda: load(tmp_path / "t.txt")) < 8 * 5_000_000 + (32 << 20)


def test_letters_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("aä🙂" * 10, encoding="utf-8")
    whole = load(tmp_path / "t.txt")
    monkeypatch.setattr("fbp.data.text.CHUNK", 3)
    assert load(tmp_path / "t.txt").sha256 == whole.sha256


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "got 0 in"), (b"a" * 19, "got 19 in"), (b"a" * 30 + b"\xff", "near byte 30 of")]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    refused(tmp_path / "t.txt", part)


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (3, None), (3, 1), (4, 9), (19, None)])
def test_windows(length: int, stride: int | None) -> None:
    tokens = RNG.integers(0, 50, 20)
    X, Y = windows(tokens, length, stride)
    starts = range(0, 20 - length, stride or length)
    assert X.tolist() == [tokens[s : s + length].tolist() for s in starts]
    assert Y.tolist() == [tokens[s + 1 : s + 1 + length].tolist() for s in starts]
    assert np.shares_memory(X, tokens)
    assert len(X) == (20 - length - 1) // (stride or length) + 1


@pytest.mark.parametrize("arguments", [(np.arange(3), 3), (np.arange(3), 0), (np.arange(3), 1, 0), (np.ones(9), 2)])
def test_bad_windows_are_refused(arguments: tuple) -> None:
    with pytest.raises(FbpError, match=r" must .*got .*; "):
        windows(*arguments)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(FbpError, match="got 'c'"):
        encode("abc", "ab")
    for tokens in ([2], [-1], [0.5], [[0]], 0):
        with pytest.raises(FbpError, match="tokens must be "):
            decode(tokens, "ab")
    assert decode([], "ab") == ""


def write_images(root: Path, shape: tuple[int, ...], count: int = 4, end: str = "png") -> dict[str, list[np.ndarray]]:
    """Folders cat and dog with images; what they show."""
    shown: dict[str, list[np.ndarray]] = {}
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        shown[name] = [RNG.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]
        for number, pixels in enumerate(shown[name]):
            Image.fromarray(pixels).save(root / name / f"{number}.{end}")
    return shown


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)], ids=["grey", "RGB"])
def test_a_folder_for_each_class(tmp_path: Path, shape: tuple[int, ...]) -> None:
    shown = write_images(tmp_path, shape)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    data = load(tmp_path)
    assert (data.shape, data.class_names, data.classes, data.held_out) == (shape, ("cat", "dog"), 2, True)
    X = np.stack(shown["cat"] + shown["dog"]).astype(np.float32) / np.float32(255)
    assert pairs(data) == expected(X, np.repeat([0, 1], 4))


def test_train_and_test(tmp_path: Path) -> None:
    shown = write_images(tmp_path / "train", (3, 3)), write_images(tmp_path / "test", (3, 3), count=2)
    data = load(tmp_path)
    assert (data.train_X.shape, data.test_X.shape, data.held_out) == ((8, 9), (4, 9), False)
    X = np.stack(shown[1]["cat"] + shown[1]["dog"]).astype(np.float32) / np.float32(255)
    assert expected(X, np.repeat([0, 1], 2)) <= pairs(data)
    (tmp_path / "test" / "emu").mkdir()
    assert load(tmp_path).classes == 2
    Image.new("L", (3, 3)).save(tmp_path / "test" / "emu" / "0.png")
    refused(tmp_path, "got emu")


def test_other_sizes_and_modes_follow_the_first(tmp_path: Path) -> None:
    write_images(tmp_path, (4, 4), end="bmp")
    first = load(tmp_path).shape
    Image.new("RGBA", (9, 2), "red").save(tmp_path / "dog" / "z.png")
    data = load(tmp_path)
    assert data.shape == first == (4, 4)
    assert data.train_X.shape[1] == 16
    Image.new("RGBA", (9, 2), "red").save(tmp_path / "cat" / "-.png")
    data = load(tmp_path)
    assert data.shape == (2, 9, 3)
    assert pairs(data) >= expected(np.full((1, 2, 9, 3), [1, 0, 0], np.float32), np.array([0]))


def test_neighbouring_rows_are_of_several_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train", (2, 2), count=30)
    assert np.bincount(load(tmp_path / "train").train_Y[:20], minlength=2).min() > 3


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, (5, 7))
    path = tmp_path / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])
    refused(tmp_path, "2.png", "be readable as PNG")


def test_empty_folders(tmp_path: Path) -> None:
    refused(tmp_path, "with none of them")
    write_images(tmp_path / "train", (2, 2))
    (tmp_path / "test").mkdir()
    refused(tmp_path, "got none with images")


def test_what_does_not_fit_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, (30, 30))
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: 1000)
    refused(tmp_path, "must fit", "make the images smaller")


def digit(background: int, ink: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """A vertical stroke."""
    pixels = np.full(size, background, np.uint8)
    pixels[size[0] // 4 : -size[0] // 4, size[1] // 2 - 4 : size[1] // 2 + 4] = ink
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("background", "ink"), [(255, 0), (0, 255), (200, 20), (30, 250)])
def test_ink_is_light_on_dark(tmp_path: Path, background: int, ink: int) -> None:
    digit(background, ink).save(tmp_path / "7.png")
    x = read_image(tmp_path / "7.png", (28, 28))
    assert (x.shape, x.dtype) == ((784,), np.float32)
    image = x.reshape(28, 28)
    assert image[14, 14] > 0.7
    assert image[0].max() < 0.3
    raw = read_image(tmp_path / "7.png", (28, 28), invert=False)
    np.testing.assert_allclose(raw, 1 - read_image(tmp_path / "7.png", (28, 28), invert=True), atol=1e-6)
    assert abs(float(raw[0]) - background / 255) < 1e-6


def test_the_same_pixels_come_back(tmp_path: Path) -> None:
    write_images(tmp_path, (6, 4, 3))
    pixels = np.asarray(Image.open(tmp_path / "cat" / "0.png")).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(read_image(tmp_path / "cat" / "0.png", (6, 4, 3)), pixels.reshape(-1))


def test_transparency_is_white_and_sixteen_bits_are_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", (3, 3), invert=False) == 1).all()
    Image.fromarray(np.full((3, 3), 0x8000, np.uint16)).save(tmp_path / "b.png")
    assert np.allclose(read_image(tmp_path / "b.png", (3, 3), invert=False), 128 / 255)


def test_photographs_are_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", (8, 4), invert=False).reshape(8, 4)
    assert turned[:4].all()
    assert not turned[4:].any()


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(side * (side + 1) // 90)))
    (tmp_path / "a.png").write_bytes(bomb + chunk(b"IEND", b""))

    def read() -> None:
        with pytest.raises(FbpError, match=r"at most 67108864 pixels, got 9000 x 9000|DecompressionBombError"):
            read_image(tmp_path / "a.png", (28, 28))

    assert peak(read) < 4 << 20


@pytest.mark.parametrize("shape", [(784,), (28, 28, 4), (28, 0), (2, 2, 3, 3), ()])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    digit(255, 0).save(tmp_path / "7.png")
    with pytest.raises(FbpError, match="image of shape"):
        read_image(tmp_path / "7.png", shape)


def test_no_other_program_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(FbpError, match="readable as PNG"):
        read_image(tmp_path / "a.png", (28, 28))


def test_other_files_are_told_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    refused(tmp_path / "a.xlsx", ".npz, .csv, .tsv, .txt")


def test_the_hash_is_of_the_content_whatever_the_format(tmp_path: Path) -> None:
    X, Y = IMAGES, LABELS.astype("u1")
    for stem in ("train", "t10k"):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", X)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", Y)
    np.savez(tmp_path / "a.npz", train_X=X, train_Y=Y, test_X=X, test_Y=Y)
    on_disk = write_npy(tmp_path / "npy", train_X=X, train_Y=Y, test_X=X, test_Y=Y)
    assert load(tmp_path).sha256 == load(tmp_path / "a.npz").sha256 == load(on_disk).sha256


def test_an_idx_folder_comes_before_all_else(tmp_path: Path) -> None:
    for stem, m in (("train", 6), ("t10k", 3)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", IMAGES[:m])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", LABELS[:m].astype("u1"))
    write_npy(tmp_path)
    assert load(tmp_path).train_X.shape == (6, 12)
