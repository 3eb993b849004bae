"""The tables in the README of the benchmarks are those that their committed results give."""

import importlib
import json
from pathlib import Path

import pytest

from fbp.errors import FbpError

FOLDER = Path(__file__).parents[1] / "benchmarks"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("results")


@pytest.mark.parametrize(
    "name", ["gradient_step", "transformers", "swap", "verify_gradients", "verify_operations", "flow_grid", "fuzz"]
)
def test_tables_come_from_the_results(results, name):
    if name in ("swap", "transformers"):
        for peer in ("equinox", "flax"):
            pytest.importorskip(peer, reason=f"{peer} of the extra 'peers' is not installed")
    benchmark = importlib.import_module(name)
    run = json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))
    record = results.Record(name, benchmark.markdown, None, quick=False, resume=False)
    record.date, record.environment, record.rows = run["date"], run["environment"], run["rows"]
    assert results.with_tables(name, README, record.markdown()) == README


def test_a_benchmark_is_a_command(results, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path), "--quick"])
    tasks = lambda quick: [results.Task("t", {"quick": quick}, "one", lambda: {"seconds": 1.0})]
    with pytest.raises(SystemExit) as end:
        results.start("x", tasks, lambda rows: f"{len(rows)} row")
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[0] == "1 row"
    assert (tmp_path / "x.json").exists()


def test_an_interrupted_run_goes_on(results, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    def start(resume):
        return results.Record("x", lambda rows: str(len(rows)), tmp_path, quick=True, resume=resume)

    first = results.Task("t", {"n": 1}, "one", lambda: {"seconds": 1.0})
    with pytest.raises(KeyboardInterrupt):
        start(False).measure([first, results.Task("t", {"n": 2}, "two", interrupt)], print)
    with pytest.raises(FbpError, match="continue it with --resume"):
        start(False)
    record = start(True)
    record.measure([first._replace(measure=interrupt), results.Task("t", {"n": 2}, "two", dict)], print)
    assert [path.name for path in record.finish()] == ["x.json"]
    assert [row["case"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == [{"n": 1}, {"n": 2}]
    assert not (tmp_path / "x.partial.json").exists()


def test_the_markers_stand_once_each_in_order(results):
    with pytest.raises(FbpError, match="once each, in this order"):
        results.with_tables("x", "<!-- x:end --> <!-- x:begin -->", "")
