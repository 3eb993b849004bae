"""The judge judged: wrong backward passes fail and are named, right ones pass, what cannot be told is said so."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faulty import FlippedSign

import fbp
from fbp import Activation, BatchNorm, Dense, Dropout, Serial
from fbp.serialize import strict
from fbp.verify import differences

M, WIDTH = 6, 5
LOSS = fbp.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class MissingTranspose(Dense):
    """dA = dZ W: the shapes fit where W is square."""

    def backward(self, params, cache, dA_out):
        return super().backward(params, cache, dA_out)[0], dA_out @ params["W"]


@dataclass(frozen=True)
class MeanBias(Dense):
    def backward(self, params, cache, dA_out):
        d_params, dA_in = super().backward(params, cache, dA_out)
        return d_params | {"b": d_params["b"] / M}, dA_in


@dataclass(frozen=True)
class NotFinite(Dense):
    def backward(self, params, cache, dA_out):
        d_params, dA_in = super().backward(params, cache, dA_out)
        return d_params | {"W": d_params["W"] * jnp.nan}, dA_in


def compared(dense, *, options=(), key=None, factor=1.0):
    """Three layers of equal width, the second of them as given."""
    net = Serial(Dense(WIDTH), Activation("tanh"), dense(WIDTH), *options, Activation("tanh"), Dense(WIDTH))
    params, _ = net.init(jax.random.key(0), (WIDTH,))
    X = factor * np.random.default_rng(0).normal(size=(M, WIDTH)).astype(np.float32)
    return fbp.compare(net, LOSS, params, X, jnp.arange(M) % WIDTH, key=key, cost_seconds=0)


FAULTS = {
    "sign": (FlippedSign, ["[2]['W']"], "the sign"),
    "transpose": (MissingTranspose, ["[0]['W']", "[0]['b']"], "norm ratio"),
    "mean": (MeanBias, ["[2]['b']"], "ratio 1/6 = 1/m"),
    "NaN": (NotFinite, ["[2]['W']"], "NaN or infinity, first at"),
}


@pytest.mark.parametrize(("fault", "wrong", "hint"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_backward_fails_and_is_named(fault, wrong, hint):
    comparison = compared(fault)
    failed = [leaf for leaf in comparison.leaves if leaf.verdict == "FAIL"]
    assert comparison.verdict == "FAIL"
    assert [leaf.path for leaf in failed] == wrong
    assert all(hint in leaf.hint for leaf in failed)


def test_a_wrong_backward_fails_under_dropout_too():
    comparison = compared(FlippedSign, options=(Dropout(0.5),), key=jax.random.key(0))
    assert [leaf.path for leaf in comparison.leaves if leaf.verdict == "FAIL"] == ["[2]['W']"]


@pytest.fixture(scope="module")
def passing():
    return compared(Dense, options=(BatchNorm(),))


@pytest.fixture(scope="module")
def failing():
    return compared(FlippedSign)


@pytest.fixture(scope="module")
def undecided():
    return compared(Dense, factor=np.float32(np.nan))


def test_a_leaf_that_is_zero_passes(passing):
    """A bias before batch normalization has no effect: its gradient is rounding, on both sides."""
    bias = next(leaf for leaf in passing.leaves if leaf.path == "[2]['b']")
    assert bias.difference.norm_ref < 1e-12
    assert bias.is_zero
    assert bias.verdict == "PASS"
    assert passing.verdict == "PASS"


def test_a_reference_that_is_not_finite_decides_nothing(undecided):
    assert undecided.verdict == "INCONCLUSIVE"
    assert all("the loss is nan at these arguments" in leaf.reason for leaf in undecided.leaves)


@pytest.mark.parametrize("name", ["passing", "failing", "undecided"])
def test_json_is_strict(name, request):
    comparison = request.getfixturevalue(name)
    refuse = lambda constant: pytest.fail(f"{constant} is not JSON")
    data = json.loads(comparison.to_json(), parse_constant=refuse)
    assert data["verdict"] == comparison.verdict
    assert [leaf["path"] for leaf in data["leaves"]] == [leaf.path for leaf in comparison.leaves]
    assert data == strict(comparison.to_dict())
    assert (data["schema"], data["schema_version"]) == ("fbp.verification", 1)


@pytest.mark.parametrize("name", ["passing", "failing", "undecided"])
def test_text_and_html_say_the_same(name, request):
    comparison = request.getfixturevalue(name)
    text, html = str(comparison), comparison._repr_html_()
    passed = sum(leaf.verdict == "PASS" for leaf in comparison.leaves)
    assert f"{comparison.verdict}: {passed} of {len(comparison.leaves)} leaves pass, on cpu" in text
    for leaf in comparison.leaves:
        assert f"{leaf.path} " in text
        assert leaf.hint in text
        assert leaf.reason in text
        assert leaf.path.replace("'", "&#x27;") in html or leaf.path in html
    assert html.startswith("<pre")
    assert max(map(len, text.splitlines())) <= 96


def test_rich_shows_colours(failing):
    from rich.console import Console

    console = Console(force_terminal=True, color_system="standard", width=100)
    with console.capture() as capture:
        console.print(failing)
    assert "\x1b[1;31mFAIL" in capture.get()


def test_cost_is_measured_side_by_side():
    net = Dense(3)
    params, _ = net.init(jax.random.key(0), (4,))
    comparison = fbp.compare(net, LOSS, params, np.ones((2, 4), np.float32), np.zeros(2, int), cost_seconds=0.01)
    cost = comparison.to_dict()["cost"]
    assert cost["step_ratio"] > 0
    assert cost["manual"]["compile_seconds"] > 0
    assert "cost of one value and gradient" in str(comparison)


def test_a_batch_that_does_not_fit_is_refused():
    with pytest.raises(fbp.FbpError, match="one row per example"):
        fbp.compare(Dense(3), LOSS, {}, np.ones((2, 4), np.float32), np.zeros(3, int))


TREE = {"W": np.ones((2, 3)), "b": np.zeros(3)}


@pytest.mark.parametrize(
    ("gradient", "said"),
    [
        ({"W": TREE["W"]}, "got one without the leaf ['b']"),
        (TREE | {"c": np.zeros(1)}, "got one with the additional leaf ['c']"),
        (TREE | {"W": np.ones((3, 2))}, "leaf ['W'] of a gradient must have the parameter's shape (2, 3), got (3, 2)"),
        (TREE | {"b": None}, "got one without the leaf ['b']"),
        (TREE | {"c": ()}, "structure of the parameters"),
    ],
)
def test_structure_comes_before_values(gradient, said):
    with pytest.raises(fbp.FbpError) as error:
        differences(gradient, TREE)
    assert said in str(error.value)


def test_difference_of_a_leaf():
    reference = np.array([[3.0, 0.0], [0.0, 4.0]])
    found = reference + np.array([[0.0, 0.0], [0.5, 0.0]])
    (leaf,) = differences({"W": found}, {"W": reference})
    assert leaf.path == "['W']"
    assert leaf.worst == (1, 0)
    np.testing.assert_allclose([leaf.error, leaf.norm_ref, leaf.relative_error], [0.5, 5.0, 0.1])
    np.testing.assert_allclose([leaf.norm_ratio, leaf.cosine], [25.25**0.5 / 5, 5 / 25.25**0.5])


@pytest.mark.parametrize("size", [1e-200, 1e-300, 1e200])
def test_differences_of_any_size(size):
    (leaf,) = differences([np.array([size, size])], [np.array([size, -size])])
    np.testing.assert_allclose([leaf.relative_error, leaf.norm_ratio, leaf.cosine], [2**0.5, 1, 0], atol=1e-12)


def test_zero_against_zero_and_against_something():
    same, lost = (differences([np.zeros(2)], [np.full(2, x)])[0] for x in (0.0, 1.0))
    assert (same.relative_error, same.norm_ratio) == (0, 1)
    assert (lost.relative_error, lost.norm_ratio) == (1, 0)


def test_the_gradient_by_local_rules_stands_beside(passing):
    assert passing.without_graph == ""
    for leaf in passing.leaves:
        assert leaf.is_zero or leaf.against_graph.relative_error < 1e-6
        assert leaf.to_dict()["relative_error_graph"] == leaf.against_graph.relative_error
    assert "against jax.grad and fbp.graph" in str(passing)


def test_a_wrong_local_rule_is_said_and_decides_nothing(monkeypatch):
    right = fbp.graph.RULES["tanh"]
    pull = lambda *args: [2 * dx for dx in right.pull(*args)]
    monkeypatch.setitem(fbp.graph.RULES, "tanh", replace(right, pull=pull))
    comparison = compared(Dense)
    assert comparison.verdict == "PASS"
    doubted = [leaf.path for leaf in comparison.leaves if "fbp.graph gives another gradient" in leaf.note]
    assert doubted == ["[0]['W']", "[0]['b']", "[2]['W']", "[2]['b']"]
    assert "please report it as an issue" in str(comparison)


@dataclass(frozen=True)
class Solve(fbp.Layer):
    """2 Z = A, by an operation that has no local rule."""

    def init(self, key, shape):
        return (), shape

    def forward(self, params, A, key=None):
        zeros = jnp.zeros_like(A[0])
        return jax.lax.linalg.tridiagonal_solve(zeros, zeros + 2, zeros, A.T).T, ()

    def backward(self, params, cache, dA_out):
        return (), dA_out / 2


def test_a_network_that_the_table_cannot_differentiate_says_so():
    comparison = compared(Dense, options=(Solve(),))
    assert comparison.verdict == "PASS"
    assert comparison.without_graph.startswith(
        "primitive 'tridiagonal_solve' must have a local rule, got none at test_"
    )
    assert all(leaf.against_graph is None for leaf in comparison.leaves)
    text = str(comparison)
    assert f"fbp.graph: {comparison.without_graph}"[:60] in text
    assert text.count(" none  ") == len(comparison.leaves)
    assert comparison.to_dict()["without_graph"] == comparison.without_graph


def test_the_third_gradient_is_left_out_on_request():
    net = Dense(3)
    params, _ = net.init(jax.random.key(0), (4,))
    X, Y = np.ones((2, 4), np.float32), np.zeros(2, int)
    comparison = fbp.compare(net, LOSS, params, X, Y, cost_seconds=0.01, graph=False)
    assert comparison.cost.graph is None
    assert "fbp.graph" not in str(comparison)
    beside = fbp.compare(net, LOSS, params, X, Y, cost_seconds=0.01)
    assert beside.cost.graph.flops == beside.cost.autodiff.flops
    assert beside.to_dict()["cost"]["graph_step_ratio"] > 0
