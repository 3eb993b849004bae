"""A report's folder: complete in itself, escaped, reproducible, and written whole or not at all."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fbp.errors import FbpError
from fbp.report import (
    Curve,
    Figure,
    Report,
    Section,
    Table,
    Text,
    check_target,
    curves,
    digits,
    format,
    inline,
    panels,
    rerun,
    write,
)
from fbp.report.lines import find_level
from fbp.report.maps import Tile, tiles
from fbp.report.style import INK, MUTED, curve_style, render_figure, style

ATTACK = "<script>alert(1)</script>"
DEPTH = np.arange(1, 9)


def draw_curves():
    y = np.exp(-0.5 * DEPTH)
    lines = [Curve("he", DEPTH, y, 0.5 * y, 2 * y), Curve("glorot", DEPTH, 4 * y)]
    return curves(lines, "layer l", "norm", log_y=True, reference=("kept", 1.0))


def draw_panels():
    line = [Curve("he", DEPTH, 1.0 / DEPTH)]
    return panels([("tanh", line), ("relu", line)], "layer l", "norm", reference=("kept", 1.0))


def draw_digits():
    images = np.linspace(0, 1, 3 * 28 * 28).reshape(3, 28, 28)
    return digits(images, [3, 1, 4], [3, 7, 4])


def fail():
    raise RuntimeError("no drawing")


SMALL = Report(
    title="Small",
    question="Is it small?",
    findings=(),
    setting=(),
    sections=(Section("Only", (Text("Words."),)),),
    command="fbp report",
    records=(),
    results={},
    seed=0,
)

FULL = Report(
    title=f"How far? {ATTACK}",
    question="Does `he` carry **far**?\n\nSecond paragraph.",
    findings=(f"It does: **41** layers, {ATTACK}.", "All agree."),
    setting=(("depth", 8), ("rate", 1e-4), ("activations", ("tanh", "relu")), ("skip", False), ("x", None)),
    sections=(
        Section(f"Prose {ATTACK}", (Text(f"One `a < b` and **bold**.\n\n{ATTACK} & *plain* | _words_"),)),
        Section("Lines", (Figure("norms", f"It falls {ATTACK}.", draw_curves),)),
        Section("Tables", (Table("Verdicts", ("net", "error", "kink", "verdict"), (
            (f"{ATTACK} | a_b", 1.23456e-7, True, "PASS"),
            ("sigmoid", 0.5, False, "vanishing"),
            ("deep", math.nan, None, "other"),
        )),)),
        Section("More", (
            Figure("small-multiples", "Both fall.", draw_panels),
            Table("Counts", ("layer", "units"), ((1, 10), (2, -3))),
            Figure("digits", "One of three is read wrong.", draw_digits),
        )),
    ),
    command="fbp report --depth 8 --out reports/far && echo 'done'",
    records=(
        {"layer": 1, "norm": 0.1, "note": 'a "quoted", note'},
        {"layer": 2, "norm": np.float32(0.1), "seed": 7},
        {"layer": 3, "norm": math.inf, "note": None},
    ),
    results={"crossing": np.int64(41), "lost": math.nan, "range": (-math.inf, np.arange(2.0))},
    seed=3,
)  # fmt: skip


class Page(HTMLParser):
    """What a page consists of: its tags with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(FULL, tmp_path_factory.mktemp("report") / "new" / "far")


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refuse_constant(name: str):
    raise AssertionError(f"{name} is not JSON")


def test_the_folder_holds_what_is_promised(folder):
    figures = {f"figures/{f.name}.{kind}" for f in FULL.figures() for kind in ("svg", "png")}
    assert set(tree(folder)) == {"report.html", "report.md", "data.csv", "result.json", "manifest.json"} | figures
    assert os.listdir(folder.parent) == ["far"]


def test_the_page_refers_to_nothing_outside_itself(folder, page):
    assert page.open == []
    assert not any(page.all(tag) for tag in ("script", "link", "iframe", "object", "embed", "base"))
    references = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert references
    assert all(reference.startswith(("data:image/svg+xml;base64,", "#")) for reference in references)
    style = re.search(r"<style>(.*?)</style>", (folder / "report.html").read_text(encoding="utf-8"), re.S)
    assert style is not None
    assert set(re.findall(r"url\(\W*(\w+:)", style[1])) == {"data:"}
    assert style[1].count("url(") == 1
    assert "@import" not in style[1]


def test_text_is_escaped(folder, page):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    # The title, a finding, a heading with its line in the contents, prose, a caption, a cell.
    assert "".join(page.words).count(ATTACK) == 7
    assert ATTACK not in (folder / "report.md").read_text(encoding="utf-8")


def test_blocks_are_numbered_captioned_and_described(page):
    text = "".join(page.words)
    for number, figure in enumerate(FULL.figures(), start=1):
        assert f"Figure {number}. {figure.caption}" in text
    for number, caption in enumerate(("Verdicts", "Counts"), start=1):
        assert f"Table {number}. {caption}" in text
    assert [image["alt"] for image in page.all("img")] == [figure.caption for figure in FULL.figures()]
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    named = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(named) <= set(identifiers)


def test_the_page_is_accessible_and_can_be_remade(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert not page.all("h3")
    links = [link["href"] for link in page.all("a")]
    assert links == [f"#section-{n}" for n in range(1, 5)]
    assert FULL.command in "".join(page.words)


def test_a_short_report_has_no_contents(tmp_path):
    page = Page((write(SMALL, tmp_path / "small") / "report.html").read_text(encoding="utf-8"))
    assert not page.all("nav")
    assert "What was found" not in "".join(page.words)
    assert (tmp_path / "small" / "data.csv").read_bytes() == b""


def test_markdown_links_resolve_and_tables_hold_together(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {f"figures/{f.name}.png" for f in FULL.figures()} < set(links)
    assert all((folder / link).is_file() for link in links)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 5}
    assert "| net | error | kink | verdict |\n| --- | ---: | --- | --- |\n" in text
    assert "One `a < b` and **bold**.\n\n" in text
    assert FULL.command in text


def test_data_csv_round_trips(folder):
    with open(folder / "data.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "norm", "note", "seed"]
    assert rows[0] == {"layer": "1", "norm": "0.1", "note": 'a "quoted", note', "seed": ""}
    assert [float(row["norm"]) for row in rows] == [0.1, float(np.float32(0.1)), math.inf]


def test_result_json_is_strict(folder):
    text = (folder / "result.json").read_text(encoding="utf-8")
    result = json.loads(text, parse_constant=refuse_constant)
    assert (result["schema"], result["schema_version"], result["seed"]) == ("fbp.report", 1, 3)
    assert result["results"] == {"crossing": 41, "lost": "NaN", "range": ["-Infinity", [0.0, 1.0]]}
    assert result["setting"]["activations"] == ["tanh", "relu"]
    assert set(result["versions"]) == {"python", "fbp", "jax", "jaxlib", "numpy"}
    assert result["device"]


def test_the_same_report_gives_the_same_files(folder, tmp_path):
    first, second = tree(folder), tree(write(FULL, tmp_path / "again"))
    dated = {"report.html", "report.md"}
    assert {k: v for k, v in first.items() if k not in dated} == {k: v for k, v in second.items() if k not in dated}


def test_a_report_is_replaced_and_other_files_are_kept(tmp_path):
    target = write(SMALL, tmp_path / "out")
    (target / "notes").mkdir()
    (target / "notes" / "mine.txt").write_text("kept")
    (target / "figures").mkdir()
    (target / "figures" / "stale.svg").write_text("stale")
    write(dataclasses.replace(SMALL, title="Second"), target)
    assert json.loads((target / "result.json").read_text())["title"] == "Second"
    assert (target / "notes" / "mine.txt").read_text() == "kept"
    assert not (target / "figures").exists()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_drawing_leaves_the_old_folder(tmp_path, error):
    def draw():
        raise error

    target = write(SMALL, tmp_path / "out")
    before = tree(target)
    broken = dataclasses.replace(SMALL, sections=(Section("Only", (Figure("f", "Fails.", draw),)),))
    with pytest.raises(error):
        write(broken, target)
    with pytest.raises(error):
        write(broken, tmp_path / "parent" / "fresh")
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("step", [0, 1])
def test_an_interrupted_swap_leaves_the_old_folder(tmp_path, monkeypatch, error, step):
    target = write(SMALL, tmp_path / "out")
    before = tree(target)
    replace, calls = os.replace, []

    def interrupted(source, destination):
        calls.append(source)
        if len(calls) == step + 1:
            raise error
        replace(source, destination)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(FbpError if error is OSError else error):
        write(dataclasses.replace(SMALL, title="Second"), target)
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_write_takes_its_new_parents_away(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FbpError, match="No space left"):
        write(SMALL, tmp_path / "a" / "b" / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("foreign", ['{"schema": "other"}', "not json", "[]"])
def test_a_foreign_folder_is_refused_and_untouched(tmp_path, foreign):
    target = tmp_path / "theirs"
    target.mkdir()
    (target / "result.json").write_text(foreign)
    before = tree(tmp_path)
    for call in (lambda: check_target(target), lambda: write(SMALL, target)):
        with pytest.raises(FbpError, match="older report"):
            call()
    assert tree(tmp_path) == before


def test_files_below_files_and_the_working_folder_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(FbpError, match="got the file"):
        check_target(tmp_path / "file")
    with pytest.raises(FbpError, match="must be writable"):
        write(SMALL, tmp_path / "file" / "below")
    with pytest.raises(FbpError, match="must be writable"):
        check_target(tmp_path / ("long" * 100))
    write(SMALL, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(FbpError, match="working folder"):
        check_target(".")
    check_target("inner/deeper")


def test_an_empty_folder_and_a_link_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty", target_is_directory=True)
    assert (write(SMALL, tmp_path / "link") / "report.md").is_file()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "report.html").is_file()


def test_mistaken_documents_are_refused():
    with pytest.raises(FbpError, match="one cell for each of its 2 columns"):
        Table("t", ("a", "b"), ((1,),))
    with pytest.raises(FbpError, match="file name"):
        Figure("../f", "c", fail)
    with pytest.raises(FbpError, match="must be distinct"):
        dataclasses.replace(SMALL, sections=(Section("s", (Figure("f", "", fail), Figure("F", "", fail))),))
    with pytest.raises(FbpError, match="must be distinct"):
        dataclasses.replace(SMALL, setting=(("a", 1), ("a", 2)))
    with pytest.raises(FbpError, match="same first axis"):
        digits(np.zeros((2, 28, 28)), [1], [1, 2])
    with pytest.raises(FbpError, match="at least one panel"):
        panels([], "x", "y")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1280000, "1280000"),
        (-3, "\N{MINUS SIGN}3"),
        (0.1, "0.1"),
        (0.0, "0"),
        (12.3456, "12.35"),
        (0.99999, "1"),
        (12345.6, "12346"),
        (123456.0, "1.235\N{MULTIPLICATION SIGN}10⁵"),
        (-1.5e-7, "\N{MINUS SIGN}1.5\N{MULTIPLICATION SIGN}10⁻⁷"),
        (0.00099999, "0.001"),
        (math.nan, "NaN"),
        (-math.inf, "\N{MINUS SIGN}∞"),
    ],
)
def test_numbers_for_readers(value, shown):
    assert format.number(value) == shown


def test_an_interval_stays_on_one_line():
    assert format.interval(-0.5, 1.25, 2) == "\N{MINUS SIGN}0.50 to 1.2".replace(" ", "\N{NO-BREAK SPACE}")
    ends = format.fixed(-0.004, 2), format.fixed(0.035, 2)
    assert format.interval(*ends) == "0.00 to 0.04".replace(" ", "\N{NO-BREAK SPACE}")


def test_a_column_of_measurements_lines_up():
    table = Table("t", ("x", "rate", "verdict"), ((0.12345, 0.1, "FAIL"), (0.5, 0.01, "fail"), (None, 0.001, True)))
    x, rate, verdict = format.columns(table)
    assert [cell.text for cell in x.cells] == ["0.1235", "0.5000", "\N{EN DASH}"]
    assert [cell.text for cell in rate.cells] == ["0.1", "0.01", "0.001"]
    assert [cell.tone for cell in verdict.cells] == ["bad", "", "yes"]
    assert (x.kind, verdict.kind) == ("number", "")
    (decades,) = format.columns(Table("t", ("decades",), ((format.fixed(-0.001, 2),), (format.fixed(-16.4712, 2),))))
    assert ([cell.text for cell in decades.cells], decades.kind) == (["0.00", "\N{MINUS SIGN}16.47"], "number")
    claim, short = format.columns(
        Table("t", ("claim", "short"), (("as long as a sentence that must be wrapped", "x" * 40),))
    )
    assert (claim.kind, short.kind) == ("long", "")
    name, again, gain = format.columns(
        Table("t", ("name", "again", "gain"), (("post-norm, $1/√(2L)$, warm-up", "one", format.significant(2.954e19)),))
    )
    assert (name.kind, again.kind, gain.cells[0].text) == ("name", "", "2.95\N{MULTIPLICATION SIGN}10¹⁹")


def test_inline():
    assert inline.html("a `b*` **c `d`** <") == ("a <code>b*</code> <strong>c <code>d</code></strong> &lt;")
    assert inline.markdown("1. a_b `c_d` **e_f** <x>") == r"1\. a\_b `c_d` **e\_f** \<x\>"
    assert inline.plain("a `b` **c**") == "a b c"
    for shown in (inline.html, inline.markdown, inline.plain, inline.mathtext):
        assert shown("95 % of **3\N{NO-BREAK SPACE}%**, in %").replace("strong", "b") in (
            "95% of 3%, in %", "95% of **3%**, in %", "95% of <b>3%</b>, in %",
        )  # fmt: skip
    assert inline.markdown("`95 %`") == "`95 %`"
    assert inline.paragraphs("\na\nb\n \n\nc\n") == ["a b", "c"]


@pytest.mark.parametrize(
    ("text", "shown", "marked", "label"),
    [
        ("$σ_w^2$", "σ_w²", "<i>σ</i><sub><i>w</i></sub><sup>2</sup>", "$σ_w^2$"),
        ("σ_w² = 2", "σ_w² = 2", "<i>σ</i><sub><i>w</i></sub>² = 2", "$σ_w$² = 2"),
        ("$10^{-39}$", "10⁻³⁹", "10<sup>−39</sup>", "$10^{-39}$"),
        ("$dZ_{l-1}$", "dZ_(l−1)", "<i>dZ</i><sub><i>l</i>−1</sub>", "$dZ_{l-1}$"),
        ("$W^T < 1$", "Wᵀ < 1", "<i>W</i><sup><i>T</i></sup>\xa0&lt;\xa01", "$W^T < 1$"),
        ("$log_{10} ‖dZ_1‖$", "log₁₀ ‖dZ₁‖", "log<sub>10</sub>\xa0‖<i>dZ</i><sub>1</sub>‖",
         r"$\mathrm{log}_{10}\ ‖dZ_1‖$"),
        ("$5 and $6, `$x$`", "$5 and $6, $x$", "$5 and $6, <code>$x$</code>", r"\$5 and \$6, \$x\$"),
    ],
)  # fmt: skip
def test_mathematics(text, shown, marked, label):
    assert inline.plain(text) == shown
    assert str(inline.html(text)) == marked
    assert inline.mathtext(text) == label
    figure = curves([Curve(text, [1, 2], [1, 2])], text, text)
    assert render_figure(lambda: figure, inline.plain(text)).wide.svg
    assert render_figure(lambda: panels([(text, [Curve(text, [1, 2], [1, 2])])], text, text), "").narrow.svg


def test_a_bar_in_code_does_not_end_a_cell():
    assert inline.markdown_cell("a|b `c|d`") == r"a\|b `c\|d`"


def test_a_streamed_table_is_counted(tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,"x\ny"\n2,z\n')
    target = write(SMALL, tmp_path / "out", table=tmp_path / "rows.csv")
    assert (target / "data.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    assert "data.csv</code> (2 rows)" in (target / "report.html").read_text()
    assert "(2 rows)" in (target / "report.md").read_text()


def test_styles_of_curves_differ():
    styles = [curve_style(rank) for rank in range(180)]
    assert len({(v.color, str(v.dash), v.marker) for v in styles}) == 180


@pytest.mark.parametrize("y", [[1.0, 0.0, np.inf], [0.0, -1.0, np.nan], [1.0, 1.0, 1.0], []])
def test_values_that_an_axis_cannot_show_leave_gaps(y):
    x = DEPTH[: len(y)]
    low = np.zeros(len(y))
    figure = curves([Curve("a", x, y, low, y), Curve("b", x, y)], "x", "y", log_x=True, log_y=True)
    assert render_figure(lambda: figure, "gaps").png


def test_names_stand_at_the_ends_where_they_fit_and_otherwise_in_a_legend():
    apart = curves([Curve("a", [1, 2], [0, 1]), Curve("b", [1, 2], [1, 0])], "x", "y")
    assert [text.get_text() for text in apart.axes[0].texts] == ["a", "b"]
    assert not apart.legends
    close = curves([Curve("a", [1, 2], [0, 1]), Curve("b", [1, 2], [1, 1])], "x", "y")
    assert not close.axes[0].texts
    assert [text.get_text() for text in close.legends[0].get_texts()] == ["a", "b"]


def test_theory_is_one_entry_of_the_legend():
    nowhere = np.full(2, np.nan)
    both = [Curve("a", [1, 2], [0, 1], expected=[0, 1]), Curve("b", [1, 2], [1, 0], expected=[1, 0])]
    for figure in (curves(both, "x", "y"), panels([("one", both), ("two", both)], "x", "y")):
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "theory"]
        assert all(len(axes.lines) == 4 for axes in figure.axes)
    assert not curves([Curve("a", [1, 2], [0, 1], expected=nowhere)], "x", "y").legends


STUDY = '''
"""T.

Q?
"""
import time
import numpy as np
from fbp.studies import study

@study
def three(draft):
    draw = np.random.default_rng({seed})
    draft.records += [{{"i": i, "x": float(draw.normal())}} for i in range(3)]
    draft.findings.append("found")
    draft.setting = {{"n": 3}}
    draft.results["sum"] = draft.records[0]["x"]
    draft.timings["now"] = time.time()

three.main()
'''


@pytest.fixture
def studied(tmp_path, monkeypatch):
    """A study's folder, and the script that wrote it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(STUDY.format(seed=0))
    subprocess.run([sys.executable, "study.py", "--quick", "--out", "first"], check=True, capture_output=True)
    return tmp_path / "first"


def test_rerun_gives_the_same_bits(studied):
    found = rerun(studied)
    assert found.agrees
    assert str(found) == "python study.py --quick --out first: the bits agree"


def test_rerun_says_what_differs(studied):
    (studied.parent / "study.py").write_text(STUDY.format(seed="None"))
    manifest = json.loads((studied / "manifest.json").read_text())
    manifest["versions"]["jax"] = "0.0.1"
    (studied / "manifest.json").write_text(json.dumps(manifest))
    found = rerun(studied)
    assert not found.agrees
    assert "data.csv: x differs in 3 of 3 rows" in found.differences
    assert found.differences[-1].startswith("result.json: results.sum: ")
    assert any(line.startswith("jax: 0.0.1 then") for line in found.changes)


def test_rerun_refuses_what_it_cannot_repeat(studied, tmp_path):
    with pytest.raises(FbpError, match=r"readable manifest\.json"):
        rerun(tmp_path)
    (tmp_path / "study.py").unlink()
    with pytest.raises(FbpError, match=r"no study\.py here"):
        rerun(studied)
    for command, said in (("rm -rf /", "must be fbp or a study"), ("fbp nothing", "ended with status 2")):
        manifest = json.loads((studied / "manifest.json").read_text()) | {"command": command}
        (studied / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(FbpError, match=said):
            rerun(studied)


def test_manifest_says_what_the_run_depended_on(studied):
    manifest = json.loads((studied / "manifest.json").read_text())
    assert manifest["configuration"] == {"n": 3}
    assert manifest["command"] == "python study.py --quick --out first"
    assert manifest["sha256"]["data.csv"] == hashlib.sha256((studied / "data.csv").read_bytes()).hexdigest()
    assert set(manifest["versions"]) == {"python", "fbp", "jax", "jaxlib", "numpy"}


def test_level_curves_beside_steep_ones_are_drawn_again():
    x = np.arange(1, 21)
    steep, flat, near = Curve("steep", x, -x), Curve("flat", x, 0.01 * x), Curve("near", x, 0.3 - 0.01 * x)
    assert find_level([steep, flat, near]) == pytest.approx((0.01 - 0.08 * 0.28, 0.29 + 0.08 * 0.28))
    assert find_level([flat, near]) is None
    assert find_level([steep, flat]) is None
    assert find_level([steep, Curve("flat", x, 0.01 * x, expected=0 * x)]) is not None
    # The line of the last panel shows no more where it is enlarged.
    level = Curve("level", x, 0.1 + 0 * x)
    figure = panels([("one", [steep, flat]), ("two", [steep, near]), ("three", [steep, level])], "x", "y")
    assert [axes.get_title("left") for axes in figure.axes] == ["one", "two", "three", "one, enlarged", "two, enlarged"]
    assert len(curves([steep, flat, near], "x", "y").axes) == 2


def test_coinciding_curves_are_drawn_once_and_said():
    x = np.arange(1, 21)
    lines = [Curve("he", x, -x), Curve("orthogonal", x, -x + 1e-3), Curve("glorot", x, -2.0 * x)]
    axes = curves(lines, "x", "y").axes[0]
    assert len(axes.lines) == 2
    assert "orthogonal: as he" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(("x", "log"), [([0.0, 1.0, 2.0, 3.0], False), ([16, 32, 64], True)])
def test_whole_numbers_have_whole_ticks(x, log):
    axes = curves([Curve("a", x, np.ones(len(x)))], "x", "y", log_x=log).axes[0]
    ticks = axes.get_xticks()
    assert (ticks == np.round(ticks)).all()
    assert not log or ticks.tolist() == x


def test_figures_have_a_form_for_phones_and_dark_pages(folder, page):
    sources = page.all("source")
    assert len(sources) == len(FULL.figures())
    assert all(int(source["width"]) < 420 and source["media"] == "(max-width: 36rem)" for source in sources)
    svg = (folder / "figures" / "norms.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in svg
    for color in (INK, MUTED, curve_style(0).color.lower()):
        assert f"stroke: {color}" in svg or f"fill: {color}" in svg
        assert f'[style*="fill: {color}"]' in svg


def test_nine_curves_have_nine_colors():
    assert len({curve_style(rank).color for rank in range(9)}) == 9


def test_a_map_fits_on_a_phone():
    label = "factor of $‖dZ‖^2$ a part of the stream towards the input"
    with style(narrow=True):
        figure = tiles([("relu", "he_normal")], ["depth 10"], [[Tile(1.0, "=")]], label)
    figure.draw_without_rendering()
    box = figure.axes[1].xaxis.label.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_a_tile_without_a_factor_has_no_color():
    figure = tiles([("", "a"), ("", "b")], ["c"], [[Tile(math.nan, "?", 1.0)], [Tile(1.0, "=")]], "factor")
    assert [text.get_text() for text in figure.axes[0].texts] == ["", "?", "theory 1.000", "= 1.000"]
    unknown, expected, one = figure.axes[0].patches
    assert unknown.get_facecolor() == expected.get_facecolor() == one.get_facecolor()
