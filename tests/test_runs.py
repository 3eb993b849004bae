"""Runs on the command line: kept, resumed, evaluated, asked; options from files; caches."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fbp
from fbp import cli
from fbp.cli.cache import _prune, cache_folder
from fbp.cli.options import expand, read_options
from fbp.data import write_idx
from fbp.errors import FbpError


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FBP_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["fbp", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of 80 + 20 easy digits: class k is a bright row k."""
    folder = tmp_path_factory.mktemp("tiny")
    for part, m in (("train", 80), ("t10k", 20)):
        labels = (np.arange(m) % 10).astype(np.uint8)
        images = np.zeros((m, 12, 12), np.uint8)
        images[np.arange(m), labels] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


SMALL = ("--layers", "144,16,10", "--learning-rate", "0.03", "--no-page", "--no-cache")


def without_times(text):
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "examples_per_second", "run")}
        for line in text.splitlines()
    ]


def test_a_run_is_kept_evaluated_and_summed_up(run, tiny):
    status, out, _ = run("train", *SMALL, "--data", tiny, "--epochs", "12", "--out", "mine")
    assert status == 0
    assert out == "test loss 0.0" + out[len("test loss 0.0") :]
    assert "accuracy 100.00%; saved in mine" in out
    kept = {path.name for path in Path("mine").iterdir()}
    assert kept >= {"config.toml", "data.json", "weights.safetensors", "history.csv", "manifest.json", "checkpoints"}
    assert run("evaluate", "mine")[:2] == (0, out.replace("; saved in mine", ""))
    status, out, _ = run("summary", "mine")
    assert status == 0
    assert "144" in out or "16" in out
    assert "2,490" in out.splitlines()[4]
    net, params = fbp.load("mine")
    assert net == fbp.mlp((144, 16, 10))
    assert params[0]["W"].shape == (144, 16)


def test_a_run_goes_on_from_its_folder(run, tiny):
    words = ["train", *SMALL, "--data", tiny, "--schedule", "constant", "--json"]
    whole = run(*words, "--epochs", "6", "--out", "whole")[1]
    begun = run(*words, "--epochs", "2", "--out", "part")[1]
    status, rest, _ = run("train", "--resume", "part", "--epochs", "6", "--json", "--no-page", "--no-cache")
    assert status == 0
    assert [*without_times(begun)[:-1], *without_times(rest)] == without_times(whole)
    assert Path("part/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resume", "part", "--layers", "144,10"), "a run must go on as it was begun, got --layers with --resume"),
        (("--resume", "part", "--epochs", "9"), "--epochs must not change where the learning rate goes with them"),
        (("--resume", "nothing"), "a file of options must be readable, got nothing/config.toml"),
        (("--resume",), "--resume must have a value"),
        (("--resume", "part", "--config", "a.toml"), "--config must not be given with --resume"),
        (("--config", "nothing.toml"), "a file of options must be readable"),
        (("--config", "broken.toml"), "a file of options must be TOML"),
        (("--config", "unknown.toml"), "Unknown option: --lerning-rate. Did you mean --learning-rate?"),
        (("--config", "list.toml"), "options must be strings, numbers or true and false"),
        (("--out", "part"), "a new run must have a new folder, got part, which holds one"),
        (("--network", "gpt"), "--data must be tokens with --network gpt"),
        (("--network", "gpt", "--layers", "1,2"), "--layers must not be given with --network gpt"),
        (("--schedule", "step"), "every must be given with the schedule 'step'"),
        (("--monitor", "much"), "monitor"),
        (("--steps", "0"), "--steps must be a positive integer"),
        (("--trained", "nothing.*"), "unknown parameter 'nothing.*'"),
        (("--clip-examples", "1", "--gradient", "autodiff"), "clip_examples must come with the manual gradient"),
    ],
)
def test_mistakes_are_one_line(run, tiny, words, message):
    Path("broken.toml").write_text("a = ")
    Path("unknown.toml").write_text("lerning-rate = 0.1")
    Path("list.toml").write_text("epochs = [1]")
    assert run("train", *SMALL, "--data", tiny, "--epochs", "1", "--out", "part")[0] == 0
    data = () if "--resume" in words else ("--data", tiny)
    status, out, err = run("train", *(SMALL if data and "gpt" not in words else ()), *data, *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_a_file_of_options_stands_behind_those_that_are_typed(run, tiny):
    Path("run.toml").write_text('[network]\nlayers = "144,16,10"\n[training]\nepochs = 3\nlearning_rate = 0.5\n')
    words = expand(["--config", "run.toml", "--learning-rate=0.01", "--data", str(tiny)])
    assert words == ["--layers=144,16,10", "--epochs=3", "--learning-rate=0.01", "--data", str(tiny)]
    assert run("train", *words, "--out", "mine", "--no-page", "--no-cache")[0] == 0
    kept = read_options(Path("mine/config.toml"))
    assert (kept["epochs"], kept["learning-rate"], kept["data"]) == (3, 0.01, str(tiny))
    again = run("train", "--config", "mine/config.toml", "--out", "again", "--no-page", "--no-cache")
    assert again[0] == 0
    assert Path("again/weights.safetensors").read_bytes() == Path("mine/weights.safetensors").read_bytes()


def test_images_are_read_by_a_run(run, tiny):
    from PIL import Image

    run("train", *SMALL, "--data", tiny, "--epochs", "12", "--out", "mine")
    pixels = np.zeros((12, 12), np.uint8)
    pixels[7] = 255
    Image.fromarray(pixels).save("seven.png")
    Path("broken.png").write_bytes(Path("seven.png").read_bytes()[:40])
    status, out, _ = run("predict", "mine", "seven.png")
    assert status == 0
    assert out.startswith("seven.png: 7   (7 ")
    (found,) = json.loads(run("predict", "mine", "seven.png", "--json")[1])
    assert found["class"] == "7"
    assert abs(sum(found["probabilities"].values()) - 1) < 1e-5
    for words, message in (
        (("predict", "mine"), "must be given images"),
        (("predict", "mine", "broken.png"), "broken.png"),
        (("predict", "nothing", "seven.png"), "must have weights or a checkpoint"),
        (("sample", "mine"), "must have a network of characters"),
        (("evaluate", "mine", "--data", "modular(5)"), "must be features for this network"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert message in err


def test_a_transformer_learns_a_text_and_goes_on_with_it(run):
    Path("text.txt").write_text("the cat sat on the mats. " * 60)
    words = ("--network", "gpt", "--width", "16", "--depth", "1", "--heads", "2", "--length", "12")
    options = ("--learning-rate", "0.01", "--epochs", "50", "--batch-size", "8", "--no-page", "--no-cache")
    status, out, _ = run("train", *words, *options, "--data", "text.txt", "--out", "mine")
    assert status == 0
    assert "accuracy" in out
    status, out, _ = run("sample", "mine", "--prompt", "the cat", "--length", "40", "--temperature", "0")
    assert status == 0
    assert out.startswith("the cat sat on the mats. the")
    assert "must be of the" in run("sample", "mine", "--prompt", "THE")[2]
    assert "64x16" not in run("summary", "mine")[1]


def test_programs_are_kept_within_bounds(tmp_path, monkeypatch):
    folder = cache_folder() / "programs"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}").write_bytes(bytes(100))
        import os

        os.utime(folder / f"{i}", (i, i))
    monkeypatch.setattr("fbp.cli.cache.MOST_BYTES", 250)
    _prune(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]


def test_options_too_large_are_refused(tmp_path):
    (tmp_path / "large.toml").write_text("a = 1\n" * 300_000)
    with pytest.raises(FbpError, match="must be small"):
        read_options(tmp_path / "large.toml")
