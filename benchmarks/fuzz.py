"""Damaged files of every format that fbp reads: each must load or be refused in one line, quickly and within a bound.

    python benchmarks/fuzz.py --inputs 100000 --out benchmarks/results

A file that is valid is damaged (mutations.py) and loaded, in a process whose address space may grow by 1 GiB. What is
packed is also damaged before it is packed, because a checksum would keep damage from the reader behind it. An input is
made from the seed, the format and its number alone: `--only png --first 1234 --inputs 1` repeats one.
"""

import gzip
import io
import multiprocessing
import resource
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cyclopts
import fuzz_runs as runs
import numpy as np
from mutations import Rng, mutate
from PIL import Image

import fbp.data
from fbp.errors import FbpError, describe_exception, unknown_name

LIMIT = 1 << 30
"""Bytes by which the address space of a reader may grow; the bound that docs/data.md states for small files."""
SLOW = 10
"""Seconds; a file of some kilobytes that takes longer counts as a hang."""
OUTCOMES = ("loaded", "refused", "crashed", "memory", "slow", "died", "message")
"""Of a file: it is loaded, or refused; an error is not ours, memory runs out, it takes long, the process ends, or the
refusal is not one line that says what must hold, what was received and what to do."""
GOOD = OUTCOMES[:2]
FORMS = (" must ", "got ", "; "), ("unknown ", "known are ")
"""Of a refusal: what must hold, what was received, what to do; or a name that is unknown, and those that are known."""


class Format(NamedTuple):
    """A format to damage.

    Attributes:
        name: of the row.
        file: where the damaged file stands in a folder of its own.
        make: a valid file, or what is inside of it.
        load: reads the file, or the folder that it belongs to.
        pack: wraps the damaged content in a valid container.
        companions: writes the other files of its folder.
    """

    name: str
    file: str
    make: Callable[[Rng], bytes]
    load: Callable[[Path], Any] = fbp.data.load
    pack: Callable[[bytes], bytes] = bytes
    companions: Callable[[Path], None] = lambda folder: None


def idx(rng: Rng, shape: tuple[int, ...] | None = None) -> bytes:
    """Images as IDX."""
    sizes = np.array(shape or rng.integers(1, 8, 3), ">u4")
    return bytes((0, 0, 8, 3)) + sizes.tobytes() + rng.bytes(int(sizes.prod()))


def npy(rng: Rng, dtypes: tuple[str, ...] = ("u1", "<f4", ">f4", "<f8", "<i8", "?", "<f2")) -> bytes:
    """Five examples as NPY, in one of many element types."""
    return saved((rng.random((5, 5)) * 100).astype(dtypes[int(rng.integers(len(dtypes)))]))


def saved(array: np.ndarray) -> bytes:
    """An array as NPY."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(rng: Rng) -> bytes:
    """An archive of examples and labels."""
    file, m = io.BytesIO(), int(rng.integers(2, 20))
    save = np.savez_compressed if rng.random() < 0.5 else np.savez
    save(file, X=rng.random((m, 4)).astype("f4"), Y=rng.integers(0, 3, m))
    return file.getvalue()


def in_archive(member: bytes) -> bytes:
    """An archive whose X is the given NPY file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("X.npy", member)
        archive.writestr("Y.npy", saved(np.arange(5)))
    return file.getvalue()


def table(rng: Rng) -> bytes:
    """A table as CSV, with or without header and names."""
    rows = np.round(rng.normal(size=(int(rng.integers(2, 30)), 4)), 3)
    names = ("a", "b") if rng.random() < 0.5 else ("0", "1")
    lines = [",".join([*map(str, row), names[int(rng.integers(2))]]) for row in rows.tolist()]
    return "\n".join((["u,v,w,x,label"] if rng.random() < 0.5 else []) + lines).encode()


def text(rng: Rng) -> bytes:
    """A text with letters of several lengths in UTF-8."""
    letters = np.array(list("abc \nαβ汉字🙂"))
    return "".join(rng.choice(letters, int(rng.integers(20, 200)))).encode()


def image(kind: str) -> Callable[[Rng], bytes]:
    """Images of a kind, in one of the modes that it has."""

    def make(rng: Rng) -> bytes:
        file, (rows, columns) = io.BytesIO(), rng.integers(1, 16, 2)
        mode = ("L", "RGB", "RGBA", "P", "1")[int(rng.integers(5 if kind == "PNG" else 2))]
        pixels = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)).convert(mode)
        pixels.save(file, kind)
        return file.getvalue()

    return make


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the CRCs of what they hold, so that damage reaches the decoder."""
    at, mended = 8, bytearray(png)
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        end = at + 8 + size
        if end + 4 > len(png):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(png[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def _of_folder(path: Path) -> Any:
    return fbp.data.load(path.parent)


def _of_class_folder(path: Path) -> Any:
    return fbp.data.load(path.parent.parent)


def _as_example(path: Path) -> Any:
    x = fbp.data.read_image(path, (28, 28))
    if x.shape != (784,) or not 0 <= x.min() <= x.max() <= 1:
        raise ValueError(f"unsound: {x}")
    return x


def _other_idx(folder: Path) -> None:
    fbp.data.write_idx(folder / "train-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    fbp.data.write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((5, 4, 4), np.uint8))
    fbp.data.write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))


def _other_npy(folder: Path) -> None:
    for name, array in (("train_Y", np.arange(5)), ("test_X", np.ones((5, 5), "f4")), ("test_Y", np.arange(5))):
        (folder / f"{name}.npy").write_bytes(saved(array))


def _other_image(folder: Path) -> None:
    (folder / "b").mkdir(parents=True)
    Image.new("L", (5, 6)).save(folder / "b" / "0.png")


FORMATS = (
    Format("idx", "x", idx, fbp.data.read_idx),
    Format("idx.gz", "x", lambda rng: gzip.compress(idx(rng), 6, mtime=0), fbp.data.read_idx),
    Format("idx in gz", "x", idx, fbp.data.read_idx, gzip.compress),
    Format("idx folder", "train-images-idx3-ubyte", lambda rng: idx(rng, (5, 4, 4)), _of_folder, companions=_other_idx),
    Format("npz", "x.npz", npz),
    Format("npy in npz", "x.npz", npy, pack=in_archive),
    Format("npy folder", "train_X.npy", lambda rng: npy(rng, ("u1", "<f4", "<f8")), _of_folder, companions=_other_npy),
    Format("csv", "x.csv", table),
    Format("txt", "x.txt", text),
    Format("png", "x.png", image("PNG"), _as_example),
    Format("png, CRC mended", "x.png", image("PNG"), _as_example, with_checksums),
    Format("jpeg", "x.jpg", image("JPEG"), _as_example),
    Format("gif", "x.gif", image("GIF"), _as_example),
    Format("bmp", "x.bmp", image("BMP"), _as_example),
    Format("ppm", "x.ppm", image("PPM"), _as_example),
    Format("webp", "x.webp", image("WEBP"), _as_example),
    Format("safetensors", "weights.safetensors", runs.weights, runs.load_run(0)),
    Format("safetensors, JSON", "weights.safetensors", runs.weights_facts, runs.load_run(0), runs.sealed_weights),
    Format("checkpoint, JSON", runs.CHECKPOINT, runs.checkpoint_facts, runs.load_run(1), runs.sealed_checkpoint),
    Format("toml", "run.toml", runs.options, runs.read_options),
    Format("json", "data.json", runs.data_facts, runs.read_data_facts),
    Format("image folder", "a/0.png", image("PNG"), _of_class_folder, companions=_other_image),
)


def damaged(format: Format, seed: int, number: int) -> bytes:
    """The damaged file of a number."""
    rng = np.random.default_rng([seed, FORMATS.index(format), number])
    return format.pack(mutate(format.make(rng), rng))


def check_sound(found: Any) -> None:
    """Check that a data set has finite numbers, one label for each example, and no label that is not a class.

    Raises:
        ValueError: it has not.
    """
    if isinstance(found, fbp.data.Dataset):
        for X, Y in ((found.train_X, found.train_Y), (found.test_X, found.test_Y)):
            sound = len(X) == len(Y) > 0 and Y.dtype == np.int32 and 0 <= Y.min() <= Y.max() < found.classes
            if found.vocabulary is None:
                sound = sound and X.shape == (len(X), np.prod(found.shape)) and np.isfinite(X).all()
            if not sound:
                raise ValueError(f"unsound: {found}, {X.dtype} {X.shape}, {Y.dtype} {Y.shape}")


def judge(load: Callable[[Path], Any], path: Path) -> tuple[str, str]:
    """What becomes of a file, and the error where it is neither loaded nor refused."""
    begin = time.monotonic()
    try:
        check_sound(load(path))
        outcome, error = "loaded", ""
    except FbpError as refusal:
        outcome, error = "refused", str(refusal)
        causes = [refusal.__cause__, refusal.__context__]
        if any(isinstance(cause, MemoryError) for cause in causes):
            outcome = "memory"
        elif "\n" in error or not any(all(part in error for part in form) for form in FORMS):
            outcome = "message"
    except MemoryError as failure:
        outcome, error = "memory", describe_exception(failure)
    except Exception as failure:
        outcome, error = "crashed", describe_exception(failure)
    if time.monotonic() - begin > SLOW:
        outcome = "slow"
    return outcome, "" if outcome in GOOD else error


def run(format: Format, seed: int, first: int, count: int, report: Callable[[int, str, str], None]) -> None:
    """Load damaged files, and report the number and outcome of each."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "in" / format.file
        path.parent.mkdir(parents=True)
        format.companions(Path(scratch) / "in")
        for number in range(first, first + count):
            path.write_bytes(damaged(format, seed, number))
            report(number, *judge(format.load, path))


def _run_limited(position: int, seed: int, first: int, count: int, outcomes: Any) -> None:
    # A warning on the way is a line that the user did not ask for.
    warnings.simplefilter("error")
    # The first use of a library maps it.
    run(FORMATS[position], seed, 0, 20, lambda *_: None)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
    run(FORMATS[position], seed, first, count, lambda *found: outcomes.send(found))
    outcomes.close()


def fuzz(format: Format, seed: int, first: int, count: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Load damaged files in a process of their own, and in another one where that dies.

    Args:
        format: which files.
        seed: of all randomness.
        first: the number of the first input.
        count: how many.

    Returns:
        How many inputs ended how, and those that did not end well.
    """
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    number, end = first, first + count
    while number < end:
        receiver, sender = context.Pipe(duplex=False)
        arguments = (FORMATS.index(format), seed, number, end - number, sender)
        process = context.Process(target=_run_limited, args=arguments)
        process.start()
        sender.close()
        outcome, error = "", ""
        while number < end:
            try:
                waiting = receiver.poll(30 * SLOW)
                number, outcome, error = receiver.recv() if waiting else (number, "slow", "no answer")
            except EOFError:
                waiting, outcome, error = False, "died", "the process ended"
            counts[outcome] += 1
            if outcome not in GOOD:
                failures.append({"format": format.name, "number": number, "outcome": outcome, "error": error})
            number += 1
            if not waiting:
                break
        process.kill()
        process.join()
    return counts, failures


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a format, and their sum."""
    columns = ("inputs", *OUTCOMES)
    counts = {row["case"]["format"]: [row[name] for name in columns] for row in rows}
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    lines = [f"| format | {' | '.join(columns)} |", f"| :--- |{' ---: |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{n:,}' for n in numbers)} |" for name, numbers in counts.items()]
    made = f"Seed {rows[0]['case']['seed']}, numpy {rows[0]['numpy']}, Pillow {rows[0]['pillow']}."
    return "\n".join([made, "", *lines])


def measure(format: Format, seed: int, first: int, count: int) -> dict[str, Any]:
    """The row of a format."""
    counts, failures = fuzz(format, seed, first, count)
    versions = {"numpy": np.__version__, "pillow": Image.__version__}
    return {"inputs": count, **{name: counts[name] for name in OUTCOMES}, **versions, "failures": failures}


def main(
    *, inputs: int = 100_000, out: Path | None = None, seed: int = 0, only: str | None = None, first: int = 0
) -> int:
    """Damage files, load them, and count how that ends.

    Args:
        inputs: how many files, in equal parts of each format.
        out: the folder for the results; the table of a README.md beside that folder is regenerated.
        seed: of all randomness.
        only: the name of one format.
        first: the number of the first input of each format.
    """
    # The readers' processes import this module, and shall not import JAX.
    from results import Record, Task

    from fbp.terminal import show_progress

    chosen = [format for format in FORMATS if only in (None, format.name)]
    if not chosen:
        raise unknown_name("format", str(only), [format.name for format in FORMATS])
    tasks = []
    for position, format in enumerate(chosen):
        count = inputs // len(chosen) + (position < inputs % len(chosen))
        case = {"format": format.name, "seed": seed, "first": first}
        tasks.append(Task("fuzz", case, format.name, partial(measure, format, seed, first, count)))
    record = Record("fuzz", markdown, out, quick=False, resume=False)
    with show_progress() as progress:
        record.measure(tasks, progress)
    print(markdown(record.rows))
    failures = [failure for row in record.rows for failure in row["failures"]]
    for failure in failures:
        print(failure)
    for path in record.finish():
        print(f"wrote {path}")
    return 1 if failures else 0


def command() -> NoReturn:
    """Run as a program."""
    from fbp.terminal import start

    app = cyclopts.App(name="fuzz", default_command=main, result_action="return_value")
    start("fuzz", lambda words: app(words, exit_on_error=False, print_error=False))


if __name__ == "__main__":
    command()
