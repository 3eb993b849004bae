"""`fbp graph`: what it prints, what it writes, and that a mistake is one line that leaves nothing behind."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import cli
from fbp.graph import Graph

WARDROBE = """
import jax.numpy as jnp
import numpy as np


def shop(coat, trousers, number, discount):
    total = coat + trousers * number
    pay = total * discount
    return pay


def decide(x):
    if x > 0:
        return x
    return -x


def keep(x):
    return x


def convert(x):
    return np.asarray(x).sum()


def solve(x):
    from jax import lax

    zeros = jnp.zeros_like(x)
    return jnp.sum(lax.linalg.tridiagonal_solve(zeros, zeros + 2.0, zeros, x[:, None]))


squares = lambda x: jnp.sum(x**2)
size = lambda z: jnp.abs(z) ** 2
many = (jnp.arange(3.0), jnp.arange(3))
pick = lambda table, at: jnp.sum(table[at])
number = 3
"""


@pytest.fixture(autouse=True)
def wardrobe(monkeypatch, tmp_path):
    """A working folder with a module of functions."""
    (tmp_path / "wardrobe.py").write_text(WARDROBE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "wardrobe", raising=False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def run(monkeypatch, capsys):
    """(status, stdout, stderr) of the command line, in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["fbp", "graph", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return call


def table(out):
    """The rows of the table that was printed, by their first cell."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if row[0]}


SHOP = ("wardrobe:shop", "--args", "400.0,300.0,2,0.7")


def test_the_shop(run, tmp_path):
    status, out, err = run(*SHOP, "--out", "pay.html")
    assert status == 0
    rows = table(out)
    assert rows["coat"] == ["400", "0.7"]
    assert rows["trousers"] == ["300", "1.4"]
    assert rows["number"] == ["2", "210"]
    assert rows["discount"] == ["0.7", "1000"]
    assert out.startswith("shop = 700")
    assert "3 nodes; written to pay.html" in out
    assert "700" in (tmp_path / "pay.html").read_text()
    assert "tracing wardrobe:shop" in err
    assert max(map(len, out.splitlines())) <= 80


def test_a_network_is_folded_by_layer(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(Graph, "draw", lambda self, path: drawn.append(self))
    words = ("--layers", "2,3,2,1", "--activation", "sigmoid", "--seed", 5)
    status, out, _ = run(*words)
    assert status == 0
    assert out.startswith("HalfSquaredError = ")
    assert max(map(len, out.splitlines())) <= 80
    scopes = list(dict.fromkeys(node.scope for node in drawn[0].nodes))
    sigmoid = "Activation(sigmoid)"
    layers = ["[0] Dense(3)", f"[1] {sigmoid}", "[2] Dense(2)", f"[3] {sigmoid}", "[4] Dense(1)"]
    assert scopes == [*layers, "loss"]
    assert run(*words, "--batch-size", 1)[1] == out
    assert run(*words[:-1], 6)[1] != out


@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (("--layers", "3,4,4,2", "--residual", "--norm", "layer", "--loss", "softmax_cross_entropy"), 3),
        (("--layers", "3,4,1", "--dropout", "0.5", "--loss", "sigmoid_binary_cross_entropy", "--batch-size", "4"), 3),
        (("--layers", "3,4,1", "--init", "lsuv", "--batch-size", "4"), 3),
    ],
    ids=["residual", "dropout", "lsuv"],
)
def test_networks_of_every_kind(run, monkeypatch, words, inputs):
    drawn = []
    monkeypatch.setattr(Graph, "draw", lambda self, path: drawn.append(self))
    status, _, err = run(*words)
    assert (status, err.count("\n")) == (0, inputs)
    drawing = {"random_split", "slice", "squeeze", "unstack"}
    assert {node.primitive for node in drawn[0].nodes if not node.scope} <= drawing


def test_lists_are_arrays_and_whole_numbers_stay_where_they_must(run, monkeypatch):
    monkeypatch.setattr(Graph, "draw", lambda self, path: None)
    assert table(run("wardrobe:squares", "--args", "[3,4]")[1])["x"] == ["(2,)", "norm 5", "norm 10"]
    assert table(run("wardrobe:squares", "--args", "-3")[1])["x"] == ["-3", "-6"]
    rows = table(run("wardrobe:pick", "--args", "[5.0,6.0],1")[1])
    assert (rows["table"], rows["at"]) == (["(2,)", "norm 7.81025", "norm 1"], ["1", "none"])


def test_arguments_by_name(run, monkeypatch):
    monkeypatch.setattr(Graph, "draw", lambda self, path: None)
    rows = table(run("wardrobe:pick", "--args", "wardrobe:many")[1])
    assert rows["table"][-1] == f"norm {np.sqrt(3):.6g}"
    assert rows["at"][-1] == "none"


def test_argnums(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(Graph, "draw", lambda self, path: drawn.append(self))
    assert run(*SHOP, "--argnums", "0", "--argnums", "3")[0] == 0
    gradients = [drawn[0][name].gradient for name in ("coat", "trousers", "number", "discount")]
    assert [g is None for g in gradients] == [False, True, True, False]


def test_fallback_is_marked(run, monkeypatch):
    monkeypatch.setattr(Graph, "draw", lambda self, path: None)
    status, _, err = run("wardrobe:solve", "--args", "[1.0,2.0]")
    assert status == 2
    assert "primitive 'tridiagonal_solve' must have a local rule, got none at wardrobe.py:30" in err
    status, out, _ = run("wardrobe:solve", "--args", "[1.0,2.0]", "--fallback")
    assert status == 0
    assert "by JAX, for want of a local rule: tridiagonal_solve" in out


MISTAKES = [
    (("wardrobe:decide", "--args", "1.0"), r"decide must be a function that JAX can trace .* at wardrobe.py:13;"),
    (("wardrobe:convert", "--args", "[1.0]"), r"convert must be .*TracerArrayConversionError.* at wardrobe.py:23;"),
    (
        ("wardrobe:shop", "--args", "1.0,2.0,3"),
        r"arguments must fit shop\(coat, trousers, number, discount\), got 3, missing a required argument: 'discount'",
    ),
    (("wardrobe:shop",), "got 0, missing a required argument: 'coat'"),
    (("wardrobe:shop", "--args", "1,2,3,4,5"), "got 5, too many positional arguments"),
    (("wardrobe:size", "--args", "3+4j"), "must be real floating point, got complex64 in z"),
    (("wardrobe:size", "--args", "3+4j", "--argnums", "0"), "must be real floating point, got complex64"),
    (("wardrobe:pick", "--args", "wardrobe:many", "--argnums", "1"), "must be real floating point, got int32"),
    (("wardrobe:shop", "--args", "1,2,3,4", "--argnums", "4"), "argnums must name one of the 4 positional arguments"),
    (("wardrobe:keep", "--args", "[1.0,2.0]"), r"keep must return one real number .* got float32 of shape \(2,\)"),
    (("wardrobe:keep", "--args", "1.0,2.0 +"), "--args must be literals with commas between them or package.module"),
    (("wardrobe:keep", "--args", "[[1,2],[3]]"), "a list in --args must hold numbers, and rows of one length"),
    (("wardrobe:keep", "--args", "wardrobe:number"), "wardrobe:number must give a tuple of arguments, got int"),
    (("wardrobe:number", "--args", "1.0"), "wardrobe:number must be a function, got int"),
    (("wardrobe:shopp", "--args", "1.0"), "unknown name in wardrobe 'shopp': did you mean 'shop'"),
    (("closet:shop", "--args", "1.0"), "closet must be a module that can be imported, got ModuleNotFoundError"),
    (("shop", "--args", "1.0"), "a function must be named package.module:name, got 'shop'"),
    ((*SHOP, "--layers", "2,3"), "--layers must not be given with a target, got 2,3"),
    ((*SHOP, "--batch-size", "2"), "--batch-size must not be given with a target, got 2"),
    (("--args", "1.0"), "--args must come with a target, got none"),
    (("--argnums", "1"), "--argnums must come with a target, got none"),
    (("--batch-size", "0"), "--batch-size must be a positive integer, got 0"),
    (("--layers", "2,x"), "layers must be integers"),
    (("--layers", "2,9000000,9000000"), "a network and its gradients must fit"),
    ((*SHOP, "--out", "pay.png"), r"--out must end in .html, .svg or .json, got 'pay.png'; use e.g. pay.html"),
    ((*SHOP, "--out", "pay"), "--out must end in .html, .svg or .json, got 'pay'"),
    (
        (*SHOP, "--out", "wardrobe.py/pay.html"),
        "--out must be in a folder that can be written, got wardrobe.py/pay.html",
    ),
    ((*SHOP, "--out", "/proc/pay.html"), "--out must be in a folder that can be written, got /proc/pay.html"),
    ((*SHOP, "--out", "notes.html"), "--out must be new or an older picture, got notes.html, which is another file"),
    ((*SHOP, "--out", "folder.html"), "--out must be a file, got the folder folder.html"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(run, tmp_path, words, message):
    (tmp_path / "notes.html").write_text("<p>mine")
    (tmp_path / "folder.html").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("fbp: ")
    assert re.search(message, last)
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == before
    assert (tmp_path / "notes.html").read_text() == "<p>mine"


@pytest.mark.parametrize("ending", ["html", "svg", "json", "SVG"])
def test_an_older_picture_is_replaced(run, tmp_path, ending):
    for _ in range(2):
        assert run(*SHOP, "--out", f"new/folder/pay.{ending}")[0] == 0
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [f"pay.{ending}"]


def test_an_interruption_is_status_130(run, monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fbp.graph.trace", stopped)
    assert run(*SHOP)[::2] == (130, "tracing wardrobe:shop\nfbp: interrupted; nothing was written\n")
    assert not list(tmp_path.glob("graph.html"))


def test_every_delta_has_a_name():
    """As in `fbp.trace`: the gradient of a layer's Z is its delta."""
    net, loss = fbp.mlp((2, 3, 2, 1), "sigmoid"), fbp.HalfSquaredError(activation="sigmoid")
    params, _ = net.init(jax.random.key(0))
    X, Y = jnp.array([[0.3, -1.0], [0.1, 0.7]]), jnp.array([[1.0], [0.0]])
    g, traced = fbp.graph.network(net, loss, params, X, Y).backward(), fbp.trace(net, loss, params, X, Y)
    for l, name in enumerate(("[0] Dense(3)/Z", "[2] Dense(2)/Z", "[4] Dense(1)/Z"), start=1):
        assert np.allclose(g[name].value, traced.Z[l], rtol=1e-6)
        assert np.allclose(g[name].gradient, traced.dZ[l], rtol=1e-5)
    for l, name in enumerate(("[1] Activation(sigmoid)/A", "[3] Activation(sigmoid)/A"), start=1):
        assert np.allclose(g[name].value, traced.A[l], rtol=1e-6)
        assert np.allclose(g[name].gradient, traced.dA[l], rtol=1e-5)


def test_layers_in_a_loop_and_in_lines():
    net = fbp.gpt(11, 6, 8, 3, 2)
    params, _ = net.init(jax.random.key(0))
    X = jax.random.randint(jax.random.key(1), (2, 6), 0, 11)
    g = fbp.graph.network(net, fbp.SoftmaxCrossEntropy(), params, X, X).backward()
    traced = fbp.trace(net, fbp.SoftmaxCrossEntropy(), params, X, X)
    delta = g["blocks Repeat/scan/up Dense(32)/Z"].gradient
    for k in range(3):
        assert np.allclose(delta[k], traced[f"blocks[{k}].up"].dA_out, rtol=1e-4, atol=1e-7)
    assert "head Unembedding" in {node.scope for node in g.nodes}


def test_names_cost_nothing_where_no_graph_is_made():
    """The scopes are around a copy of the network; what `jax.grad` compiles is the same program as before."""
    net, loss = fbp.mlp((2, 3, 1), "tanh"), fbp.HalfSquaredError()
    params, _ = net.init(jax.random.key(0))
    X, Y = jnp.ones((1, 2)), jnp.ones((1, 1))
    lower = lambda: jax.jit(lambda p: fbp.value_and_grad(net, loss)(p, X, Y)).lower(params).as_text()
    before = lower()
    fbp.graph.network(net, loss, params, X, Y)
    assert lower() == before
    assert "Dense(3)" not in before
