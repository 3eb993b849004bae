"""Some hundred damaged files of every format: each loads or is refused in one line, within the stated memory."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    *("idx", "idx.gz", "idx in gz", "idx folder", "npz", "npy in npz", "npy folder", "csv", "txt"),
    *("png", "png, CRC mended", "jpeg", "gif", "bmp", "ppm", "webp"),
    *("safetensors", "safetensors, JSON", "checkpoint, JSON", "toml", "json", "image folder"),
)


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("resource", reason="the system cannot limit a process's memory")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fuzz")


def test_every_format_is_here(fuzz: ModuleType) -> None:
    assert tuple(format.name for format in fuzz.FORMATS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_damaged_files_are_loaded_or_refused(fuzz: ModuleType, name: str) -> None:
    format = next(format for format in fuzz.FORMATS if format.name == name)
    counts, failures = fuzz.fuzz(format, seed=1, first=0, count=300)
    assert not failures
    assert sum(counts.values()) == counts["loaded"] + counts["refused"] == 300


@pytest.mark.parametrize("name", NAMES)
def test_most_files_are_valid_before_they_are_damaged(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A damaged file is of no use where the whole one is refused, too."""
    format = next(format for format in fuzz.FORMATS if format.name == name)
    monkeypatch.setattr(fuzz, "mutate", lambda data, rng: data)
    outcomes = []
    fuzz.run(format, 0, 0, 20, lambda number, outcome, error: outcomes.append(outcome))
    assert outcomes.count("loaded") >= 18


def test_what_goes_wrong_is_found(fuzz: ModuleType, tmp_path: Path) -> None:
    from fbp.errors import FbpError

    def raises(error: BaseException, cause: BaseException | None = None) -> str:
        def load(path: Path) -> None:
            raise error from cause

        return fuzz.judge(load, tmp_path)[0]

    assert raises(ValueError("x")) == "crashed"
    assert raises(MemoryError()) == "memory"
    good = "x must be y, got z; do w"
    assert raises(FbpError(good)) == "refused"
    assert raises(FbpError(good), MemoryError()) == "memory"
    assert raises(FbpError(f"{good}\n")) == raises(FbpError("no")) == "message"
    assert fuzz.judge(lambda path: None, tmp_path) == ("loaded", "")
