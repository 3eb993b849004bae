"""Every study of `experiments/`, small: it runs, its figures can be drawn, and its report is whole."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

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


def test_all_studies_are_run_together(tmp_path):
    """Without an interpreter's start: a study is a program that is given its folder."""
    runner = runpy.run_path(str(EXPERIMENTS / "__main__.py"))
    assert sorted(runner["list_studies"]()) == STUDIES
    fine, broken = ("one", 0, 1.0, "fine"), ("two", 1, 2.0, "")
    for done, status in (([fine, broken], 1), ([fine], 0)):
        runner["script"].__globals__["run_studies"] = lambda out, quick, done=done: iter(done)
        assert runner["script"](out=tmp_path) == status


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
