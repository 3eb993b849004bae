"""The page of a run: its numbers are those of the run, and every kind of run has a sound one."""

import csv
import json
import re
import warnings

import jax
import numpy as np
import optax
import pytest
from scipy.stats import binomtest

import fbp
from fbp.cli.training import arrange
from fbp.errors import FbpError
from fbp.report import Figure, Listing, Table, confusion, images, ranked_panels, shaded_text, side_by_side, write
from fbp.studies import run_report
from fbp.studies.runs.intervals import wilson
from fbp.training import evaluate, evaluate_items, open_run

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
X = (np.eye(3)[LABELS] @ RNG.normal(size=(3, 4)) + 0.6 * RNG.normal(size=(120, 4))).astype(np.float32)


def train(net, loss, X, Y, out, **options):
    params, _ = net.init(jax.random.key(0), X.shape[1:])
    options = {"optimizer": optax.adam(1e-2), "epochs": 3, **options}
    fbp.fit(net, loss, params, (X[:80], Y[:80]), out=out, **options)
    saved = open_run(out)
    return run_report(out, saved, X[80:], Y[80:]), saved


def classify(out, **options):
    return train(fbp.mlp((4, 8, 3)), fbp.SoftmaxCrossEntropy(), X, LABELS, out, **options)


def names(report):
    return [figure.name for figure in report.figures()]


def tables(report):
    return [block for section in report.sections for block in section.blocks if isinstance(block, Table)]


def find_table(report, column):
    return next(table for table in tables(report) if column in table.columns)


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (7, 7), (3, 50), (9773, 10_000)])
def test_the_interval_is_that_of_scipy(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_items_have_the_mean_and_the_accuracy_of_the_data_set():
    net, loss = fbp.mlp((4, 8, 3)), fbp.SoftmaxCrossEntropy()
    params, _ = net.init(jax.random.key(1))
    items = evaluate_items(net, loss, params, X, LABELS, batch_size=32)
    whole = evaluate(net, loss, params, X, LABELS)
    assert items.confidence is not None
    assert items.losses.shape == items.confidence.shape == (120,)
    assert items.losses.mean() == pytest.approx(whole.loss, rel=1e-6)
    assert (items.predicted == LABELS).mean() == pytest.approx(whole.accuracy, abs=1e-9)
    P = np.asarray(jax.nn.softmax(net.forward(params, X)[0], axis=-1))
    np.testing.assert_allclose(items.confidence, P.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(items.losses, -np.log(P[np.arange(120), LABELS]), rtol=1e-4, atol=1e-6)


def test_the_numbers_of_a_classifier_are_those_of_its_test(tmp_path):
    report, saved = classify(tmp_path, validation_split=0.25, monitor="full")
    own = saved.net, fbp.SoftmaxCrossEntropy(), saved.params, X[80:], LABELS[80:]
    tested = evaluate(*own)
    found = report.results["test"]
    assert (found["examples"], found["accuracy"]) == (40, pytest.approx(tested.accuracy))
    assert found["loss"] == pytest.approx(tested.loss, rel=1e-5)
    assert f"{tested.accuracy:.0%}" in report.findings[0]
    by_class = find_table(report, "errors")
    read = np.asarray(saved.net.forward(saved.params, X[80:])[0]).argmax(axis=1)
    for name, examples, errors, *_ in by_class.rows:
        of_class = LABELS[80:] == int(name)
        assert (examples, errors) == (of_class.sum(), (read[of_class] != int(name)).sum())
    listed = find_table(report, "read as")
    losses = evaluate_items(*own).losses
    assert [row[0] for row in listed.rows] == np.argsort(-losses, kind="stable")[:12].tolist()
    assert {"epochs", "gradient-norms", "update-ratios", "noise-scale"} <= set(names(report))


def test_every_epoch_and_reading_is_in_the_data(tmp_path):
    report, _ = classify(tmp_path / "run", validation_split=0.25, monitor="full")
    with open(write(report, tmp_path / "page") / "data.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    with open(tmp_path / "run" / "history.csv", newline="", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    for row, epoch in zip(rows, history, strict=True):
        assert {name: row[name] for name in epoch if name not in ("seconds", "examples_per_second")} == {
            name: value for name, value in epoch.items() if name not in ("seconds", "examples_per_second")
        }


def test_two_pages_of_two_equal_runs_have_the_same_bits(tmp_path):
    reports = [classify(tmp_path / name, monitor="full")[0] for name in "ab"]
    files = [write(report, tmp_path / f"page-{i}") for i, report in enumerate(reports)]
    results = [json.loads((folder / "result.json").read_text())["results"] for folder in files]
    assert results[0] == results[1]
    assert (files[0] / "data.csv").read_bytes() == (files[1] / "data.csv").read_bytes()


def test_a_patient_run_marks_its_best_epoch(tmp_path):
    report, _ = classify(tmp_path, validation_split=0.5, epochs=200, patience=3, optimizer=optax.adam(0.1))
    figure = next(figure for figure in report.figures() if figure.name == "epochs")
    best = report.results["epochs"]["best"]
    assert report.results["epochs"]["stopped"] == "patience"
    assert best == report.results["epochs"]["count"] - 3
    assert f"epoch {best}, whose parameters are the result" in figure.caption
    assert all(float(np.asarray(axes.lines[-1].get_xdata())[0]) == best for axes in figure.draw().axes)
    assert best in [row[0] for row in find_table(report, "training loss").rows]


def test_an_overfitting_run_is_called_so(tmp_path):
    noise = RNG.integers(0, 3, 120)
    report, _ = train(
        fbp.mlp((4, 64, 3)), fbp.SoftmaxCrossEntropy(), X, noise, tmp_path,
        epochs=150, validation_split=0.5, optimizer=optax.adam(0.03),
    )  # fmt: skip
    assert any("overfits" in finding for finding in report.findings)
    # As good as guessing, and far too sure.
    assert "Always naming the commonest class" in report.findings[0]
    assert any("too sure" in finding for finding in report.findings)


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"epochs": 1, "monitor": "full"}, {"epochs", "gradient-norms", "noise-scale"}),
        ({"monitor": "off"}, {"gradient-norms", "dead-units"}),
        ({"epochs": 500, "batch_size": 80}, set()),
        ({"epochs": None, "steps": 2, "batch_size": 8}, {"epochs", "gradient-norms"}),
    ],
    ids=["one epoch", "no monitor", "500 epochs", "less than an epoch"],
)
def test_every_length_of_a_run_has_a_page(tmp_path, options, absent):
    report, _ = classify(tmp_path / "run", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = (write(report, tmp_path / "page") / "report.html").read_text(encoding="utf-8")
    assert not absent & set(names(report))
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"base64,[^\"]*|<style>.*?</style>", "", text, flags=re.S))
    assert all(len(table.rows) <= 20 for table in tables(report))


def test_a_regression_is_measured_against_the_mean(tmp_path):
    Y = X @ RNG.normal(size=(4, 2)).astype(np.float32)
    report, saved = train(
        fbp.mlp((4, 2)), fbp.HalfSquaredError(), X, Y, tmp_path, epochs=300, optimizer=optax.adam(0.03)
    )
    rows = find_table(report, "$R^2$").rows
    A = np.asarray(saved.net.forward(saved.params, X[80:])[0])
    for output, error, _, explained in rows:
        assert error == pytest.approx(np.sqrt(np.mean((A - Y[80:])[:, output] ** 2)), rel=1e-4)
        assert explained > 0.9
    assert "confusion" not in names(report)


@pytest.mark.parametrize("loss", [fbp.HalfSquaredError(), fbp.SigmoidBinaryCrossEntropy()])
def test_rows_with_a_single_one_are_classes(tmp_path, loss):
    report, _ = train(fbp.mlp((4, 8, 3)), loss, X, np.eye(3, dtype=np.float32)[LABELS], tmp_path)
    read = "confidence" in report.results["test"]
    assert "confusion" in names(report)
    assert read == isinstance(loss, fbp.SigmoidBinaryCrossEntropy)


def test_one_sigmoid_reads_two_classes(tmp_path):
    Y = (LABELS == 1).astype(np.float32)[:, None]
    report, saved = train(fbp.mlp((4, 8, 1)), fbp.SigmoidBinaryCrossEntropy(), X, Y, tmp_path)
    Z = np.asarray(saved.net.forward(saved.params, X[80:])[0])
    assert report.results["test"]["accuracy"] == pytest.approx(((Z > 0) == (Y[80:] > 0)).mean())


def tokens(folder, characters, shape=()):
    """A small transformer that was trained on a sequence which repeats itself."""
    net = fbp.gpt(vocabulary=5, length=8, width=8, depth=2, heads=2)
    text = np.arange(9 * 120) % 5
    X, Y = (text[i : i + 960].reshape(120, 8) for i in (0, 1))
    params, _ = net.init(jax.random.key(0))
    fit = {"optimizer": optax.adam(1e-2), "epochs": 3, "monitor": "economy", "batch_size": 8}
    fbp.fit(net, fbp.SoftmaxCrossEntropy(), params, (X[:80], Y[:80]), out=folder, **fit)
    facts = {"name": "cycle", "class_names": characters, "shape": shape, "vocabulary": 5}
    (folder / "data.json").write_text(json.dumps(facts))
    saved = open_run(folder)
    return run_report(folder, saved, X[80:], Y[80:]), saved, (X[80:], Y[80:])


def test_a_text_is_measured_in_nats_and_goes_on(tmp_path):
    report, saved, (own_X, own_Y) = tokens(tmp_path / "run", ["a", "b", "<", "$", "\n"])
    loss = evaluate(saved.net, fbp.SoftmaxCrossEntropy(), saved.params, own_X, own_Y).loss
    assert report.results["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert report.results["test"]["perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
    # Five equally frequent characters.
    assert report.results["test"]["entropy_of_frequencies"] == pytest.approx(np.log(5), rel=1e-6)
    listing = next(block for s in report.sections for block in s.blocks if isinstance(block, Listing))
    assert listing.text.startswith("ab<$\nab<")
    assert set(listing.text) <= set("ab<$\n")
    page = write(report, tmp_path / "page")
    assert "ab&lt;$\nab&lt;" in (page / "report.html").read_text(encoding="utf-8")
    assert "```text\nab<$\nab<" in (page / "report.md").read_text(encoding="utf-8")
    assert isinstance(next(f for f in report.figures() if f.name == "worst"), Figure)


def test_many_matrices_have_a_panel_for_each_kind(tmp_path):
    report, _, _ = tokens(tmp_path, ["a", "b", "c", "d", "e"])
    drawn = next(figure for figure in report.figures() if figure.name == "gradient-norms").draw()
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert {"blocks.q.W", "blocks.down.W", "tokens.E"} <= set(titles)
    assert len(drawn.axes[titles.index("blocks.q.W")].lines) == 2
    # Embedding and head share a matrix, which is shown once.
    assert "head.E" not in titles


def test_sequences_of_one_length_are_measured_by_position(tmp_path):
    report, _, _ = tokens(tmp_path, ["0", "1", "2", "3", "="], shape=(8,))
    assert len(find_table(report, "position").rows) == 8
    assert "sample" not in report.results
    assert len(find_table(report, "to be followed by").rows[0][0].split()) == 8


def test_many_classes_stay_readable(tmp_path):
    Y = np.arange(120) % 30
    report, _ = train(fbp.mlp((4, 30)), fbp.SoftmaxCrossEntropy(), X, Y, tmp_path)
    figure = next(figure for figure in report.figures() if figure.name == "confusion").draw()
    assert not figure.axes[0].texts
    assert len(find_table(report, "times").rows) <= 12


def test_images_are_shown(tmp_path):
    digits = fbp.data.load()
    net = fbp.mlp((784, 10))
    params, _ = net.init(jax.random.key(0))
    data = digits.train_X[:200], digits.train_Y[:200]
    fbp.fit(net, fbp.SoftmaxCrossEntropy(), params, data, optimizer=optax.adam(1e-3), epochs=1, out=tmp_path)
    kinds = [f"the digit {i}" for i in range(10)]
    (tmp_path / "data.json").write_text(json.dumps({"name": "digits", "shape": [28, 28], "class_names": kinds}))
    report = run_report(tmp_path, open_run(tmp_path), digits.test_X[:100], digits.test_Y[:100])
    axes = next(figure for figure in report.figures() if figure.name == "worst").draw().axes
    assert len(axes) == 24
    said = [" ".join(panel.get_xlabel().split()) for panel in axes]
    assert all(re.fullmatch(r"(✗ )?read the digit \d \d+%", line) for line in said)


def test_a_run_of_the_command_line_has_a_page(tmp_path, capsys):
    from fbp.cli.app import app

    words = ["train", "--layers", "784,16,10", "--epochs", "2", "--out", str(tmp_path / "run"), "--quiet"]
    assert app(words, result_action="return_value") == 0
    page = tmp_path / "run" / "report"
    result = json.loads((page / "result.json").read_text())
    assert result["command"] == f"fbp train --config {tmp_path / 'run' / 'config.toml'}"
    said = re.search(r"accuracy (\d+\.\d+)%", capsys.readouterr().out)
    assert said is not None
    assert 100 * result["results"]["test"]["accuracy"] == pytest.approx(float(said[1]), abs=0.005)
    manifest = json.loads((page / "manifest.json").read_text())
    assert list(manifest["data"]) == ["digits"]
    assert app([*words[:-2], str(tmp_path / "other"), "--quiet", "--no-page"], result_action="return_value") == 0
    assert not (tmp_path / "other" / "report").exists()


def test_targets_of_the_command_line_fit_the_loss():
    digits = fbp.data.load()
    (_, Y), _ = arrange(digits, fbp.mlp((784, 12)), fbp.HalfSquaredError())
    assert Y.shape == (len(digits.train_Y), 12)


def test_a_loss_of_ones_own_must_be_given(tmp_path):
    _, saved = classify(tmp_path)
    with pytest.raises(FbpError, match="loss must be known"):
        run_report(tmp_path, saved._replace(loss=None), X[80:], LABELS[80:])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion([[1, 2]], ["a", "b"]),
        lambda: images(np.zeros((2, 4, 4)), ["a"], ["a"]),
        lambda: shaded_text([("h", "ab", [1.0])], "loss"),
        lambda: side_by_side([], "epoch"),
        lambda: ranked_panels([], [], "epoch", "norm", "depth"),
    ],
)
def test_pictures_refuse_what_does_not_fit(draw):
    with pytest.raises(FbpError):
        draw()
