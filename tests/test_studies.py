"""Every study of `experiments/`, small: it runs, its figures can be drawn, and its report is whole."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

from fbp.errors import FbpError
from fbp.report import write

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
STUDIES = sorted(path.stem for path in EXPERIMENTS.glob("[!_]*.py"))
SMALLER = {
    "activation": {"WIDTH": 24, "FAMILIES": {"bounded": ("tanh",), "rectified": ("relu",)}},
    "complexity": {"BATCHES": (64,)},
    "depth": {"WIDTH": 24, "NETWORKS": (("tanh", "glorot_normal"),)},
    "grokking": {"MODULUS": 11, "WIDTH": 16, "HEADS": 2, "BATCH": 16},
    "initialization": {"WIDTH": 24, "INITIALIZERS": ("lecun_normal", "he_normal")},
    "normalization": {"WIDTH": 24},
    "phase_diagram": {"WIDTH": 24},
    "remedies": {"DEPTH": 6, "WIDTH": 16, "BATCH": 100},
    "residual": {"WIDTH": 24},
    "transformer": {"WIDTH": 16, "LENGTH": 8, "RATES": (1e-3,)},
}


@pytest.fixture
def as_users():
    """JAX's own rules of promotion."""
    before = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before[0])
    jax.config.update("jax_numpy_rank_promotion", before[1])


def test_all_studies_are_run_together():
    runner = runpy.run_path(str(EXPERIMENTS / "__main__.py"))
    assert sorted(runner["list_studies"]()) == STUDIES


SCRIPTS = {
    "one": """
import json, pathlib, shlex, sys
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True)
manifest = {"schema": "fbp.manifest", "schema_version": 1, "device": "cpu", "versions": {}}
(folder / "manifest.json").write_text(json.dumps(manifest | {"command": shlex.join(["python", *sys.argv])}))
print("report: there")
""",
    "two": "import sys; sys.exit('two: it is broken')",
    "three": "import time; time.sleep(600)",
}


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The names of `python experiments` with scripts of our own."""
    (tmp_path / "scripts").mkdir()
    for name, text in SCRIPTS.items():
        (tmp_path / "scripts" / f"{name}.py").write_text(text)
    found = runpy.run_path(str(EXPERIMENTS / "__main__.py"))
    monkeypatch.setitem(found["script"].__globals__, "HERE", tmp_path / "scripts")
    monkeypatch.setitem(found["script"].__globals__, "list_studies", lambda: ["one", "two"])
    return found


def test_a_study_that_fails_is_told_and_the_others_go_on(runner, tmp_path, capsys):
    assert runner["script"](out=tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert re.search(r"one +0 s  report: there\n", out)
    assert re.search(r"two +0 s  two: it is broken\n1 of 2 failed; 0 s in all", out)
    assert "0 of 2: one, two" in err
    # The finished one stays, unless another command made it.
    assert runner["script"](out=tmp_path / "out", resume=True) == 1
    assert "1 of 1 failed" in capsys.readouterr().out
    assert not runner["is_there"](tmp_path / "out", "one", quick=True)
    with pytest.raises(FbpError, match="must be a folder, got the file"):
        runner["script"](out=tmp_path / "scripts" / "one.py")
    (tmp_path / "out" / "one" / "manifest.json").write_text("{")
    assert not runner["is_there"](tmp_path / "out", "one", quick=False)


def test_an_interruption_ends_the_studies_that_run(runner, tmp_path):
    running = runner["run_studies"](["one", "three", "two"], tmp_path / "out", False, lambda _: None)
    assert next(running)[0] == "one"
    process, _ = running.gi_frame.f_locals["running"]["three"]
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert process.returncode


@pytest.mark.slow
@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", [name for name in STUDIES if name != "papers"])
def test_a_study(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    for constant, value in SMALLER.get(name, {}).items():
        monkeypatch.setattr(module, constant, value)
    monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py", "--quick"])
    progress = []
    study = getattr(module, name)
    report = study.report(quick=True, progress=progress.append)
    assert progress
    assert study.title
    assert study.question.endswith("?")
    folder = write(report, tmp_path / "report")
    assert report.command == f"python experiments/{name}.py --quick"
    assert all(figure.caption.endswith(".") for figure in report.figures())
    assert report.findings
    for finding in report.findings:
        assert not re.search(r"\b(nan|inf|None)\b|: \.|: ;", finding), finding
    rows = (folder / "data.csv").read_text().splitlines()
    assert len(rows) == len(report.records) + 1 > 2
    assert json.loads((folder / "result.json").read_text())["results"]
    assert {path.stem for path in (folder / "figures").iterdir()} == {figure.name for figure in report.figures()}
