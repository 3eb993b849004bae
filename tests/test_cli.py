"""The command line: what it prints, its exit status, and that a mistake is one line and leaves nothing behind."""

import csv
import gzip
import json
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fbp import cli
from fbp.data import write_idx

SMALL = ["--layers", "784,16,10"]


def fbp(monkeypatch, capsys, *words):
    """(status, stdout, stderr) of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["fbp", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path_factory):
    """A working folder of its own, below which runs are kept."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *words: fbp(monkeypatch, capsys, *words)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of 80 + 20 easy digits: class k is a bright row k."""
    folder = tmp_path_factory.mktemp("tiny")
    for part, m in (("train", 80), ("t10k", 20)):
        labels = (np.arange(m) % 10).astype(np.uint8)
        images = np.zeros((m, 28, 28), np.uint8)
        images[np.arange(m), labels] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def test_compare_prints_a_table_and_passes(run):
    status, out, _ = run("compare", *SMALL, "--batch-size", "8")
    assert status == 0
    assert "[2]['W']" in out
    assert "PASS: 4 of 4 leaves pass" in out


def test_the_readme_shows_what_compare_prints(run):
    def words(text):
        # Numbers depend on the machine; paths, headings, rules and verdicts do not.
        return [re.findall(r"\[\d\]\S*|[^\W\d_]{2,}|─+", line) for line in text.splitlines() if line.strip()]

    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    assert words(run("compare")[1]) == words(shown)


SMALL_GPT = ("--network", "gpt", "--width", "8", "--depth", "1", "--heads", "2", "--length", "6", "--vocabulary", "12")


@pytest.mark.parametrize("style", ["gpt2", "modern"])
def test_compare_takes_a_transformer(run, style):
    status, out, _ = run("compare", *SMALL_GPT, "--style", style, "--batch-size", "2", "--dropout", "0.1", "--json")
    found = json.loads(out)
    assert (status, found["verdict"]) == (0, "PASS")
    assert "['blocks']['q']['W']" in [leaf["path"] for leaf in found["leaves"]]


def test_compare_as_json(run):
    status, out, _ = run("compare", *SMALL, "--norm", "layer", "--dtype", "float64", "--batch-size", "8", "--json")
    found = json.loads(out)
    assert status == 0
    assert max(leaf["relative_error"] for leaf in found["leaves"]) < 1e-12
    assert found["cost"]["memory_ratio"] > 0


def test_compare_fails_with_status_1_for_a_wrong_gradient(run, monkeypatch):
    from fbp.layers import Dense

    right = Dense.backward
    wrong = lambda self, params, cache, dA: (lambda d, dA_in: (d | {"b": 2 * d["b"]}, dA_in))(
        *right(self, params, cache, dA)
    )
    monkeypatch.setattr(Dense, "backward", wrong)
    status, out, _ = run("compare", *SMALL, "--batch-size", "7")
    assert status == 1
    assert "FAIL: 2 of 4 leaves pass" in out
    assert "ratio 2: is a factor 1/2 missing" in out


def test_train_learns_and_reports(run, tiny):
    status, out, err = run("train", *SMALL, "--data", tiny, "--epochs", "12", "--learning-rate", "0.03", "--json")
    *history, result = map(json.loads, out.splitlines())
    assert (status, err) == (0, "")
    assert result["test"]["accuracy"] == 1.0
    assert [epoch["epoch"] for epoch in history] == list(range(1, 13))


@pytest.mark.parametrize(
    "options",
    [
        ("--norm", "batch", "--dropout", "0.2", "--activation", "gelu"),
        ("--loss", "half_squared_error", "--init", "lsuv", "--optimizer", "sgd"),
        ("--loss", "sigmoid_binary_cross_entropy", "--gradient", "autodiff", "--validation-split", "0"),
    ],
    ids=lambda options: options[1],
)
def test_train_takes_every_kind_of_network(run, tiny, options):
    status, out, _ = run("train", *SMALL, "--data", tiny, "--epochs", "2", *options)
    assert status == 0
    assert "test loss" in out


def test_many_runs_are_those_of_their_seeds(run, tiny):
    words = ("train", *SMALL, "--data", tiny, "--epochs", "3", "--seed", "4", "--json")
    status, out, err = run(*words, "--seeds", "2", "--learning-rates", "0.03,0.01", "--out", "many")
    *history, result = map(json.loads, out.splitlines())
    assert (status, err) == (0, "")
    assert [len(epoch["runs"]) for epoch in history] == [4, 4, 4]
    labels = [(one["run"], one["seed"], one["learning_rate"]) for one in result["tests"]]
    assert labels == [(0, 4, 0.03), (1, 5, 0.03), (2, 4, 0.01), (3, 5, 0.01)]
    for number, seed, rate in labels:
        own = ("train", *SMALL, "--data", tiny, "--epochs", "3", "--seed", seed, "--learning-rate", rate, "--json")
        *epochs, single = map(json.loads, run(*map(str, own))[1].splitlines())
        assert single["test"]["loss"] == pytest.approx(result["tests"][number]["loss"], rel=1e-4)
        assert epochs[-1]["validation_loss"] == pytest.approx(history[-1]["runs"][number]["validation_loss"], rel=1e-4)
    evaluated = json.loads(run("evaluate", "many", "--run", "2", "--json")[1])
    assert evaluated["test"]["loss"] == result["tests"][2]["loss"]
    assert run("summary", "many", "--run", "1")[0] == 0
    with open("many/history.csv", encoding="utf-8") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [str(number) for number in range(4) for _ in range(3)]
    for words, said in (
        (("evaluate", "many"), "one of the 4 runs in many must be chosen, got None"),
        (("train", "--resume", "many"), "many runs must be trained in one go, got --resume many"),
    ):
        status, _, err = run(*words)
        assert status == 2
        assert said in err


def test_many_runs_say_what_they_lose_mean_and_spread(run, tiny):
    words = ("train", "--layers", "784,8,10", "--data", tiny, "--epochs", "2", "--optimizer", "sgd", "--init", "lsuv")
    status, out, err = run(*words, "--learning-rates", "0.1,1e30", "--seeds", "2", "--out", "many")
    assert status == 0
    assert err.startswith(
        "many runs are saved in many at the end and at Ctrl-C, and cannot be resumed\nepoch 1  rate 0.1"
    )
    assert "2 of 2 diverged" in err
    assert re.search(r"rate 0.1  all seeds  test loss [\d.]+±[\d.]+  accuracy [\d.]+±[\d.]+%", out)
    assert out.splitlines()[-1].endswith("2 of 4 runs diverged")
    status, _, _ = run(*words, "--learning-rates", "1e30", "--out", "lost")
    assert status == 4


def test_many_transformers(run):
    words = ("train", "--network", "gpt", "--data", "modular(5)", "--width", "8", "--depth", "1", "--heads", "2")
    status, out, _ = run(*words, "--epochs", "1", "--seeds", "2", "--init", "lecun_normal", "--out", "many")
    assert status == 0
    assert "run 1  seed 1  test loss" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "0"), "--seeds must be a positive integer"),
        (("--seeds", "2", "--seed", "4294967295"), "--seed and --seeds must stay below"),
        (("--learning-rates", "0.1,x"), "--learning-rates must be numbers with commas between them, got '0.1,x'"),
        (("--learning-rates", "0.1,-1"), "the learning rate must be finite and at least 0, got -1.0"),
        (("--seeds", "2", "--gradient", "both"), "--gradient must be manual or autodiff with many runs"),
        (("--seeds", "2", "--patience", "3"), "--patience must be left out with many runs"),
        (("--seeds", "100000000"), "a network and its gradients must fit"),
    ],
)
def test_many_runs_refuse(run, tiny, words, said):
    status, _, err = run("train", *SMALL, "--data", tiny, *words)
    assert status == 2
    assert said in err


def test_train_takes_tables_and_arrays_on_disk(run, tmp_path):
    rng = np.random.default_rng(0)
    X, names = rng.normal(size=(60, 3)), ["cat", "dog"]
    Y = (X[:, 0] > 0).astype(int)
    lines = [",".join([*map(str, x), names[y]]) for x, y in zip(X.round(3).tolist(), Y, strict=True)]
    (tmp_path / "pets.csv").write_text("\n".join(["a,b,c,label", *lines]))
    for name, array in (("train_X", X[:50] > 0), ("train_Y", Y[:50]), ("test_X", X[50:] > 0), ("test_Y", Y[50:])):
        np.save(tmp_path / f"{name}.npy", (255 * array if name.endswith("X") else array).astype("u1"))
    options = ("--layers", "3,8,2", "--epochs", "20", "--learning-rate", "0.03", "--json")
    for source in (tmp_path / "pets.csv", tmp_path):
        status, out, _ = run("train", "--data", source, *options)
        assert status == 0
        assert json.loads(out.splitlines()[-1])["test"]["accuracy"] > 0.8
    assert run("compare", "--data", tmp_path, "--layers", "3,8,2")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--data", "modular"), "got the tokens of modular(97)"),
        (("compare", "--data", "mnits"), "did you mean 'mnist'"),
        (("train", "--activation", "rellu"), "did you mean 'relu'"),
        (("train", "--init", "he_norml"), "did you mean 'he_normal'"),
        (("train", "--loss", "cross"), "unknown loss 'cross'"),
        (("train", "--optimizer", "adm"), "did you mean 'adam'"),
        (("train", "--norm", "bach"), "did you mean 'batch'"),
        (("train", "--layers", "784,x,10"), "integers with commas"),
        (("train", "--layers", "100,10"), "784 inputs"),
        (("train", "--layers", "784,5"), "10 classes"),
        (("train", "--layers", "784,0,10"), "positive integers"),
        (("train", "--activation", "relu,tanh,relu"), "2 hidden layers"),
        (("train", "--activation", "leaky_relu(-1)"), "at least 0"),
        (("train", "--epochs", "0"), "epochs"),
        (("train", "--batch-size", "0"), "batch"),
        (("train", "--validation-split", "1"), "--validation-split must be in [0, 1), got 1.0"),
        (("train", "--learning-rate", "nan"), "learning rate"),
        (("train", "--dropout", "1"), "rate of Dropout"),
        (("train", "--data", "/nonexistent"), "/nonexistent"),
        (("train", "--gradient", "magic"), "gradient"),
        (("train", "--seed", "-1"), "seed"),
        (("compare", "--batch-size", "0"), "--batch-size must be a positive integer"),
        (("compare", "--dtype", "int8"), "dtype"),
        (("compare", "--network", "gpt", "--layers", "4,2"), "--layers must not be given with --network gpt"),
        (("compare", "--network", "gpt", "--data", "."), "--data must not be given with --network gpt"),
        (("compare", "--heads", "2"), "--heads must not be given with --network mlp"),
        (("compare", "--network", "gpt", "--init", "lsuv"), "unknown initializer 'lsuv'"),
        (("compare", "--network", "gpt", "--heads", "3"), "heads must divide the width 128, got 3"),
        (("compare", "--network", "gpt", "--width", "100000"), "a network and its gradients must fit"),
        (("report", "--out", __file__), "test_cli.py"),
        (("train", "--epochs", "many"), "epochs"),
        (("train", "--batch-size", "2.5"), "--batch-size: it must be an integer, got '2.5'"),
        (("compare", "--batch-size", "2.5"), "--batch-size: it must be an integer, got '2.5'"),
        (("flow", "--width", "2.5"), "--width: it must be an integer, got '2.5'"),
        (("train", "--epochs", "9" * 20), "steps of a schedule must be at most 2147483647"),
        (("train", "--epochs", "9" * 20, "--schedule", "constant"), "steps of a schedule must be at most 2147483647"),
        (("train", "--optimizer", "sm3"), "the learning rate of 'sm3' must be a number, got a schedule"),
        (("flow", "--depth", "1"), "at least 2 layers, got depths [1]"),
        (("flow", "--depth", "0,5"), "positive integer"),
        (("flow", "--norm", "bach"), "did you mean 'batch'"),
        (("flow", "--bias", "-1"), "bias must be a standard deviation of at least 0, got -1.0"),
        (("flow", "--heads", "2"), "--heads must not be given with --network mlp"),
        (("flow", "--network", "gpt", "--norm", "layer"), "--norm must not be given with --network gpt"),
        (("flow", "--network", "gpt", "--residual"), "--residual must not be given with --network gpt"),
        (("flow", "--network", "gpt", "--init", "zeros"), "--init must not be given with --network gpt"),
        (("flow", "--network", "gpt", "--heads", "3"), "heads must divide the width 64, got 3"),
        (("flow", "--network", "gpt", "--style", "gpt3"), "did you mean 'gpt2'"),
        (("flow", "--network", "gpt", "--depth", "2,2"), "depths of a grid must be at least one, each once"),
        (("flow", "--network", "gpt", "--width", "100000"), "the deepest networks of a grid must fit"),
        (("flow", "--norm", "layer", "--seeds", "9" * 12), "must fit"),
        (("flow", "--residual-scale", "0.1"), "--residual-scale must come with --residual, got 0.1 alone"),
        (("flow", "--residual", "--residual-scale", "1/L"), "--residual-scale must be a number or 1/sqrt(depth)"),
        (("flow", "--residual", "--residual-scale", "nan"), "residual_scale must be a finite number"),
        (
            ("flow", "--network", "gpt", "--residual-scale", "1"),
            "residual-scale must not be given with --network gpt",
        ),
        (("tarin",), "train"),
        (("compare", "--no-such-option"), "no-such-option"),
    ],
    ids=lambda x: " ".join(map(str, x))[-40:] if isinstance(x, tuple) else "",
)
def test_a_mistake_is_one_line_and_status_2(run, words, message):
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("seed", ["-1", str(2**32), "9" * 30])
@pytest.mark.parametrize("command", ["compare", "train", "flow", "report", "verify"])
def test_every_command_takes_the_same_seeds(run, command, seed):
    status, out, err = run(command, "--seed", seed)
    assert (status, out) == (2, "")
    assert err == f"fbp: seed must be an integer in 0..4294967295, got {seed}; use 0\n"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--layers", "784,100000,100000,10"),
        ("compare", "--layers", "784,1000000,1000000,10"),
        ("compare", "--layers", f"784,{'9' * 400},10"),
        ("flow", "--width", "100000"),
        ("flow", "--seeds", "9" * 12),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_what_does_not_fit_the_memory_is_refused_at_once(run, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: 2**34)
    begin = time.monotonic()
    status, out, err = run(*words)
    assert time.monotonic() - begin < 5
    assert (status, out) == (2, "")
    assert "must fit the 16 GiB that are free, got " in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_batch_counts_for_the_memory(run, tiny, monkeypatch):
    fits = ["--data", tiny, "--layers", "784,16,10", "--epochs", "1"]
    free = 28 * (784 * 16 + 16 + 16 * 10 + 10) + 12 * 26 * 40
    monkeypatch.setattr("fbp.memory.available_bytes", lambda: free)
    assert run("train", *fits, "--batch-size", "40")[0] == 0
    status, _, err = run("train", *fits, "--batch-size", "41")
    assert status == 2
    assert "in batches of 41" in err


def test_a_container_has_its_own_memory(monkeypatch, tmp_path):
    from fbp import memory

    for name, text in (("max", "1000\n"), ("current", "900\n"), ("stat", "anon 5\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "Path", lambda _, name: tmp_path / name)
    assert memory.available_bytes() == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 2**20


def test_a_training_that_diverges_says_where(run, tiny, tmp_path):
    words = ["train", *SMALL, "--data", tiny, "--optimizer", "sgd", "--learning-rate", "1e30", "--epochs", "3"]
    status, out, err = run(*words, "--out", tmp_path / "diverged")
    assert (status, out) == (4, "")
    assert re.search(r"training must stay finite, got the output of \[\d\] \(Dense\) .* in step 2", err)
    (replay,) = (tmp_path / "diverged").glob("replay-*.safetensors")
    assert replay.name in err


def test_a_large_loss_has_few_digits(run, tiny):
    words = ["train", *SMALL, "--data", tiny, "--optimizer", "sgd", "--learning-rate", "1e5", "--epochs", "1"]
    status, out, _ = run(*words, "--validation-split", "0")
    assert status == 0
    assert len(re.search(r"test loss (\S+),", out)[1]) < 12


def test_an_error_of_our_own_is_status_70(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("fbp.verify.compare", broken)
    status, out, err = run("compare", *SMALL)
    assert (status, out) == (70, "")
    assert err.startswith("fbp: internal error, ZeroDivisionError: division by zero; please report it as an issue")
    assert err.count("\n") == 1
    for words in (("compare", *SMALL, "--debug"), ("--debug", "compare", *SMALL)):
        status, _, err = run(*words)
        assert status == 70
        assert err.startswith("Traceback")


@pytest.mark.parametrize("command", [("report",), ("flow",)], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("/proc/x", "must be writable, got /proc/x"),
        ("nothing", "must not lie behind a link to nothing, got nothing, where nothing leads to nowhere"),
        ("nothing/inside", "must not lie behind a link to nothing"),
        ("circle", "must not lie behind a link to nothing"),
        ("file", "must be a folder, got the file file"),
        ("file/inside", "must be writable, got file/inside"),
        ("n" * 250, "File name too long"),
        ("foreign", "which holds other files"),
        (".", "must not hold the working folder"),
        ("/", "must not hold the working folder"),
    ],
    ids=lambda text: text[:20],
)
def test_a_folder_that_cannot_be_written_is_refused_at_once(run, monkeypatch, tmp_path, command, out, said):
    for place in ("fbp.studies.overview.overview", "fbp.studies.flow_grid.grid"):
        monkeypatch.setattr(place, lambda *_: pytest.fail("it was computed"))
    monkeypatch.chdir(tmp_path)
    Path("nothing").symlink_to("nowhere")
    Path("circle").symlink_to("circle")
    Path("file").touch()
    Path("foreign").mkdir()
    Path("foreign", "thesis.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(*command, "--out", out)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_may_be_a_link(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    status, _, err = run(*GRID, "--depth", "3", "--out", tmp_path / "link")
    assert status == 0, err
    assert (tmp_path / "real" / "report.html").exists()
    assert (tmp_path / "link").is_symlink()


GRID = ["flow", "--activation", "relu", "--init", "he_normal", "--width", "6", "--seeds", "3"]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ((), ((10, 50, 200), 256, 20)),
        (("--quick",), ((5, 10), 64, 8)),
        (("--quick", "--depth", "4"), ((4,), 64, 8)),
        (("--quick", "--depth", "10,50,200", "--width", "256", "--seeds", "20"), ((10, 50, 200), 256, 20)),
        (("--seeds", "3", "--quick"), ((5, 10), 64, 3)),
        (("--network", "gpt"), ((2, 6, 12), 64, 20)),
        (("--network", "gpt", "--quick", "--width", "8"), ((2, 4), 8, 8)),
        (("--norm", "layer", "--quick", "--depth", "4"), ((4,), 64, 8)),
    ],
    ids=lambda x: " ".join(x) if x and isinstance(x[0], str) else "",
)
def test_quick_leaves_what_was_typed(run, monkeypatch, words, sizes):
    seen = []

    def note(plan, *_):
        sizes = getattr(plan, "plain", plan)
        seen.append((sizes.depths, sizes.width, sizes.seeds))
        raise KeyboardInterrupt

    monkeypatch.setattr("fbp.studies.flow_grid.run_flow", note)
    assert run("flow", *words)[0] == 130
    assert seen == [sizes]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--bias", "0.2"), {"bias": 0.2}),
        (("--norm", "rms", "--residual"), {"norm": "rms", "residual": True, "residual_scale": 1.0}),
        (("--residual", "--residual-scale", "1/sqrt(depth)"), {"norm": "none", "residual_scale": "1/sqrt(depth)"}),
        (("--residual", "--residual-scale", "0.5", "--activation", "relu,elu"), {"residual_scale": 0.5}),
        (("--network", "gpt", "--style", "gpt2,modern", "--heads", "2"), {"styles": ("gpt2", "modern"), "heads": 2}),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_options_reach_the_plan(run, monkeypatch, words, options):
    from fbp.studies.flow_networks import list_options

    seen = []

    def note(plan, *_):
        seen.append(list_options(plan))
        raise KeyboardInterrupt

    monkeypatch.setattr("fbp.studies.flow_grid.run_flow", note)
    assert run("flow", *words)[0] == 130
    assert options.items() <= seen[0].items()


def test_a_quick_grid_is_repeated_as_it_was_typed(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent.parent))
    status, _, err = run(*GRID, "--quick", "--depth", "4")
    assert status == 0, err
    manifest = json.loads(Path("flow", "manifest.json").read_text())
    assert manifest["configuration"]["depths"] == [4]
    assert manifest["command"] == " ".join(["fbp", *GRID, "--quick", "--depth", "4"])
    _, out, err = run("rerun", "flow")
    # Tests compile with fewer optimizations than the program that repeats, which may move bits.
    assert "the bits" in out, err
    assert "rows then" not in out


@pytest.mark.parametrize("missing", ["manifest.json", "result.json", "data.csv"])
@pytest.mark.parametrize("content", [None, "{}", "[", '"x"', "\udcff"], ids=["none", "empty", "cut", "text", "bytes"])
def test_rerun_refuses_a_damaged_report(run, monkeypatch, tmp_path, missing, content):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was computed"))
    manifest = {"schema": "fbp.manifest", "schema_version": 1, "command": "ls 'x", "device": "", "versions": {}}
    for name, text in (("manifest.json", json.dumps(manifest)), ("result.json", "{}"), ("data.csv", "x\n1\n")):
        text = content if name == missing else text
        if text is not None:
            (tmp_path / name).write_text(text, errors="surrogateescape")
    status, out, err = run("rerun", tmp_path)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1


def test_completion_is_installed(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("BASH_VERSION", "5")
    status, _, err = run("--install-completion", "--shell", "bash")
    assert status == 0, err
    (script,) = (path for path in tmp_path.rglob("fbp") if path.is_file())
    assert "--batch-size" in script.read_text()


def test_an_interrupted_grid_that_has_not_begun_left_nothing(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fbp.studies.flow_grid.check_target", stopped)
    assert run("flow") == (130, "", "fbp: interrupted; no report was written, flow is as it was before\n")
    assert not list(tmp_path.iterdir())


def test_an_interruption_behind_the_report_says_that_it_is_complete(run, monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fbp.studies.frame.announce", stopped)
    status, _, err = run(*GRID, "--depth", "3")
    assert status == 130
    assert err.splitlines()[-1] == "fbp: interrupted; the report in flow is complete"


def test_a_header_that_asks_for_terabytes_is_refused_at_once(run, tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    header = struct.pack(">HBBIII", 0, 8, 3, 2**31 - 1, 2**12, 2**12)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(gzip.compress(header + bytes(100)))
    status, _, err = run("train", "--data", tmp_path)
    assert status == 2
    assert "train-images-idx3-ubyte" in err


def test_the_report_refuses_a_folder_that_is_not_its_own(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    status, _, err = run("report", "--out", tmp_path)
    assert status == 2
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    assert "other files" in err


def test_help_answers_without_jax():
    heavy = ("jax", "numpy", "matplotlib", "optax", "rich.progress")
    code = "import sys; from fbp.cli import call; call(['--help']); "
    code += f"print('imported', [name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Commands" in shown
    assert shown.splitlines()[-1] == "imported []"


RULES = """
import jax
import jax.numpy as jnp

def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w) ** 2)

def right(w, x):
    return jax.grad(loss)(w, x)

def wrong(w, x):
    return -jax.grad(loss)(w, x)

def nearly(w, x):
    return 1.001 * jax.grad(loss)(w, x)

def args():
    return jnp.array([0.5, -0.3]), jnp.array([[1.0, 2.0], [0.3, -0.7], [0.4, 0.1]])

def kink(x):
    return jnp.sum(jnp.maximum(x, 0))

def kink_grad(x):
    return (x > 0).astype(x.dtype)

zero = (jnp.zeros(2),)

@jax.custom_vjp
def square(x):
    return x * x

def product(x):
    return jnp.prod(jnp.stack([x, x]), 0)

square.defvjp(lambda x: (x * x, x), lambda x, d: (2 * x * d,))
one = (jnp.array([0.5, 2.0]),)
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A module of gradient rules in the current folder."""
    (tmp_path / "my_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_rules", None)


def gradient_of(name, loss="loss", args="args"):
    return ["verify", f"my_rules:{name}", "--loss", f"my_rules:{loss}", "--args", f"my_rules:{args}"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (gradient_of("right"), 0, "PASS: 1 of 1 leaves pass"),
        (gradient_of("wrong"), 1, "the sign: equal to minus the gradient"),
        (gradient_of("kink_grad", "kink", "zero"), 3, "a kink at this point"),
        (["verify", "my_rules:square", "--args", "my_rules:one"], 0, "conformance of square"),
        (
            ["verify", "my_rules:square", "--args", "my_rules:one", "--reference", "my_rules:product", "--batched"],
            0,
            "conformance of square",
        ),
        (gradient_of("nearly"), 1, "a constant factor 1.001"),
        ([*gradient_of("nearly"), "--tolerance", "1e-2", "--directions", "1"], 0, "PASS: 1 of 1 leaves pass"),
        ([*gradient_of("nearly"), "--tolerance", "(argument)=1e-2"], 0, "PASS: 1 of 1 leaves pass"),
        ([*gradient_of("right"), "--time-limit", "1e-9"], 3, "the time limit is over"),
    ],
    ids=["right", "wrong", "kink", "operation", "reference", "nearly", "tolerance", "tolerance by path", "time limit"],
)
def test_verify_a_target(rules, run, words, status, said):
    found, out, _ = run(*words)
    assert found == status, out
    assert said in out


def test_verify_a_target_as_json(rules, run):
    status, out, _ = run(*gradient_of("wrong"), "--json")
    assert status == 1
    assert json.loads(out)["leaves"][0]["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "my_rules:right"], "--args must name the arguments"),
        (["verify", "my_rules", "--args", "my_rules:args"], "must be named package.module:name"),
        (["verify", "no_such_module:f", "--args", "my_rules:args"], "ModuleNotFoundError"),
        (gradient_of("rigth"), "did you mean 'right'"),
        (gradient_of("right", args="loss"), "must give the arguments when it is called"),
        (gradient_of("right", loss="right"), "the loss must return one floating-point number"),
        (["verify", "my_rules:zero", "--args", "my_rules:args"], "must be a function, got tuple"),
        (["verify", "--loss", "my_rules:loss"], "--loss must come with a target"),
        (["verify", "my_rules:right", "--mutate"], "leave it out"),
        ([*gradient_of("right"), "--reference", "my_rules:loss"], "got both"),
        # A gradient function alone would be compared with itself.
        (["verify", "my_rules:wrong", "--args", "my_rules:args"], "name its loss by --loss package.module:loss"),
        (["verify", "my_rules:square", "--args", "my_rules:one", "--has-value"], "must come with --loss"),
        ([*gradient_of("right"), "--argnums", "5"], "argnums must name arguments, 0 to 1, got 5"),
        ([*gradient_of("right"), "--tolerance", "some"], "--tolerance must be a number"),
        ([*gradient_of("right"), "--tolerance", "W=1"], "known are (argument)"),
        ([*gradient_of("right"), "--directions", "0"], "directions must be a positive integer"),
        ([*gradient_of("right"), "--forward"], "--forward must come with an operation"),
    ],
)
def test_verify_misused_is_one_line(rules, run, words, said):
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_verify_the_builtin_networks(run, monkeypatch):
    import fbp.cli.verify as command

    some = [each for each in command.list_networks() if each.name.startswith(("relu", "all layers, bfloat16"))]
    monkeypatch.setattr(command, "list_networks", lambda: some)
    status, out, _ = run("verify")
    assert status == 0
    assert "PASS: 2 of 2 networks pass" in out
    status, out, _ = run("verify", "--json")
    assert set(json.loads(out)["networks"]) == {each.name for each in some}


def test_verify_mutants(run, monkeypatch):
    import fbp.verify.mutation as mutation

    every = mutation.make_mutants
    monkeypatch.setattr(mutation, "make_mutants", lambda *net: [m for m in every(*net) if m.fault == "reversed layers"])
    status, out, _ = run("verify", "--mutate")
    assert status == 0
    assert "2 of 2 effective faults killed" in out
    assert "[8][1]['W']: equal after rev" in out


def test_an_interruption_is_one_line_and_status_130(run, monkeypatch, tmp_path):
    from fbp.studies import flow_grid

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow_grid, "grid", stopped)
    status, out, err = run("flow", "--quick", "--out", tmp_path / "flow")
    assert (status, out) == (130, "")
    left = f"what is measured is kept in {tmp_path / 'flow'}, and the same command with --resume goes on"
    assert err == f"fbp: interrupted; {left}\n"


@pytest.mark.parametrize(
    ("words", "place", "left"),
    [
        (
            ("report", "--out", "mine"),
            "fbp.studies.overview.overview",
            "no report was written, mine is as it was before",
        ),
        (("compare",), "fbp.verify.compare", "nothing was written"),
    ],
    ids=["report", "compare"],
)
def test_an_interruption_says_what_it_leaves(run, monkeypatch, tmp_path, words, place, left):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, stopped)
    assert run(*words) == (130, "", f"fbp: interrupted; {left}\n")
    assert not list(tmp_path.iterdir())


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere(monkeypatch, capsys):
    from fbp.terminal import show_progress

    with show_progress() as progress:
        progress("1 of 2: half")
    assert capsys.readouterr().err == "1 of 2: half\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress() as progress:
        progress("1 of 2: [red]half")
    shown = capsys.readouterr().err
    assert "1 of 2: [red]half" in shown
    assert "━" in shown
