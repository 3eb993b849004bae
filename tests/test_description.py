"""Networks and losses as plain data and back."""

import copy
import doctest
import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fbp
from fbp import description
from fbp.cli.builtin import GALLERY, SEQUENCE_GALLERY, list_networks
from fbp.combinators import Combinator
from fbp.description import TYPES, construct, describe, list_differences
from fbp.errors import FbpError
from fbp.losses import Loss
from fbp.tree import instrument
from fbp.typing import Layer

INITIALIZERS = ("he_normal", "zeros", "normal(0.3)", "constant(-2)", "orthogonal(1.7)", "mean_field(1.3, 0.1)")

NETWORKS = {
    **{f"case {case}": case.net for case in CASES},
    **{f"builtin {row.name}": row.net for row in list_networks()},
    **{
        f"mlp {options}": fbp.mlp((4, 7, 7, 7, 3), **options)
        for options in (
            {"activation": ("relu", "elu(0.5)", "scaled_tanh(1.7, 0.6)")},
            {"norm": fbp.LayerNorm(1e-3), "dropout": 0.1, "residual": 0.3},
            {"norm": "batch", "residual": True, "repeat": True, "checkpoint": 2},
            *({"init": init} for init in INITIALIZERS),
            {"init": fbp.Initializer(0.7, "fan_out", "truncated_normal", 0.1)},
        )
    },
    **{
        f"gpt {options}": fbp.gpt(11, 6, 8, 3, 4, **options)
        for options in (
            {},
            {"style": "modern", "key_value_heads": 2, "hidden": 12},
            {"norm_position": "post", "scale_residual": False, "share_head": False},
            {"style": "modern", "norm_position": "post", "dropout": 0.1, "attention": "lean", "checkpoint": 2},
        )
    },
    "numpy's numbers": fbp.Serial(fbp.Residual(fbp.Dense(np.int64(4)), np.float32(0.5)), shape=(np.int32(4),)),
    "a scale": fbp.Attention(2, causal=False, scale=0.3),
}
LOSSES = [row.loss for row in list_networks()] + [case.loss for case in CASES]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_what_its_description_says(name):
    net = NETWORKS[name]
    saved = json.dumps(describe(net), allow_nan=False)
    made = construct(json.loads(saved))
    assert made == net
    assert hash(made) == hash(net)
    assert json.dumps(describe(made)) == saved
    assert list_differences(json.loads(saved), describe(net)) == []


def test_losses_are_what_their_descriptions_say():
    assert {type(loss).__name__ for loss in LOSSES} == {name for name, kind in TYPES.items() if issubclass(kind, Loss)}
    for loss in LOSSES:
        assert construct(json.loads(json.dumps(describe(loss)))) == loss
    assert describe(fbp.HalfSquaredError("sum", "leaky_relu(0.3)")) == {
        "type": "HalfSquaredError",
        "reduction": "sum",
        "activation": "leaky_relu(0.3)",
    }


def test_every_public_layer_is_described():
    public = {thing for thing in vars(fbp).values() if isinstance(thing, type) and issubclass(thing, Layer | Loss)}
    public |= {getattr(fbp, name) for name in fbp.__all__ if isinstance(getattr(fbp, name), type)}
    layers = {kind for kind in public if issubclass(kind, Layer | Loss)} - {Layer, Combinator, Loss}
    assert layers <= set(TYPES.values())
    seen = "".join(json.dumps(describe(net)) for net in NETWORKS.values())
    assert [name for name, kind in TYPES.items() if issubclass(kind, Layer) and f'"{name}"' not in seen] == []


def test_a_description_is_read_easily():
    net = fbp.mlp((784, 16, 10), "leaky_relu(0.2)", "normal(0.02)", norm="layer")
    assert describe(net) == {
        "type": "Serial",
        "layers": [
            {"type": "Dense", "width": 16, "initializer": "normal(0.02)"},
            {"type": "LayerNorm"},
            {"type": "Activation", "function": "leaky_relu(0.2)"},
            {"type": "Dense", "width": 10, "initializer": "normal(0.02)"},
        ],
        "shape": [784],
    }
    lines = describe(fbp.gpt(11, 6, 8, 3, 4))["lines"]
    assert lines[0] == [
        "tokens",
        {"type": "Line", "layer": {"type": "Embedding", "vocabulary": 11, "width": 8}, "reads": ["input"]},
    ]


def test_every_initializer_by_name_is_described_by_a_name():
    for spec in (*INITIALIZERS, *fbp.initializers.initializer):
        described = describe(fbp.Dense(3, spec)).get("initializer", "he_normal")
        assert isinstance(described, str)
        assert fbp.initializer(described) == fbp.initializer(spec)


@dataclass(frozen=True)
class Own(Layer):
    width: int = 3


@dataclass(frozen=True)
class Dense(fbp.Dense):
    """Of the name of a layer of fbp, but another one."""


@dataclass(frozen=True)
class OwnLoss(Loss):
    pass


RELU = fbp.Nonlinearity("relu", lambda Z: jnp.clip(Z, 0, 6), lambda A: A)
DEEP = fbp.Activation("tanh")
for _ in range(description.MOST_LEVELS):
    DEEP = fbp.Residual(DEEP)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (fbp.Serial(fbp.Dense(3), Own()), r"layers[1]: only fbp's own layers, activations and finite numbers must be"),
        (Dense(3), "got Dense(width=3"),
        (OwnLoss(), "got OwnLoss"),
        (fbp.Activation(RELU), "function: only fbp's own layers"),
        (fbp.Activation(fbp.Nonlinearity("relu", RELU.function, RELU.derivative, arguments=(1.0,))), "got relu(1)"),
        (fbp.Residual(fbp.Dense(3), float("inf")), "scale: only fbp's own layers, activations and finite numbers"),
        (fbp.Serial(fbp.Dense(3), shape=[4]), "shape: only fbp's own layers"),
        (instrument(fbp.Dense(3), lambda layer: Own()), "got Own"),
        (DEEP, "must be nested at most 200 levels deep"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_not_ours_is_refused(described, message):
    with pytest.raises(FbpError) as error:
        describe(described)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def nest(levels):
    saved = {"type": "Activation", "function": "tanh"}
    for _ in range(levels):
        saved = {"type": "Residual", "branch": saved}
    return saved


LINE = ["a", {"type": "Line", "layer": {"type": "Dense", "width": 3}, "reads": ["input"]}]


def network(*lines, **fields):
    return {"type": "Network", "lines": list(lines), "inputs": [], "output": "a", "shape": None} | fields


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "a description must be of a network or a loss, got None"),
        ([], "got []"),
        ("relu", "got 'relu'"),
        ({"type": "Initializer"}, "a description must be of a network or a loss, got Initializer()"),
        ({}, "unknown type in a description 'None'"),
        ({"type": ["Dense"]}, "unknown type in a description"),
        ({"type": "Dens", "width": 3}, "unknown type in a description 'Dens': did you mean 'Dense'"),
        ({"type": "os.system", "command": "true"}, "unknown type in a description 'os.system'"),
        ({"type": "Combinator"}, "unknown type in a description 'Combinator'"),
        ({"type": "Loss"}, "unknown type in a description 'Loss'"),
        ({"type": "Dense", "widht": 3}, "unknown field of Dense 'widht': did you mean 'width'"),
        ({"type": "Dense", "__class__": 3}, "unknown field of Dense '__class__'"),
        ({"type": "Serial", "layers": [], "is_chain": False}, "unknown field of Serial 'is_chain'"),
        ({"type": "Dense"}, "a description of Dense must have the field 'width', got none"),
        ({"type": "Dense", "width": "3"}, "width: width of Dense must be of the kind int, got '3'"),
        ({"type": "Dense", "width": True}, "must be of the kind int, got True"),
        ({"type": "Dense", "width": 3.0}, "must be of the kind int, got 3.0"),
        ({"type": "Dense", "width": 0}, "width of Dense must be a positive integer, got 0"),
        ({"type": "Dense", "width": 3, "bias": "no"}, "bias of Dense must be of the kind bool, got 'no'"),
        ({"type": "Dense", "width": 3, "initializer": "he"}, "unknown initializer 'he'"),
        ({"type": "Dense", "width": 3, "initializer": {"type": "Dense", "width": 3}}, "kind Initializer or str"),
        ({"type": "Activation", "function": "relu(__import__('os'))"}, "must be given as many numbers as it takes"),
        ({"type": "Residual", "branch": {"type": "Dense", "width": 3}, "scale": 10**400}, "must be of the kind float"),
        ({"type": "Residual", "branch": {"type": "Dense", "width": 3}, "scale": float("nan")}, "kind float, got nan"),
        (
            {"type": "Residual", "branch": {"type": "SoftmaxCrossEntropy"}},
            "branch of Residual must be of the kind Layer",
        ),
        ({"type": "Attention", "heads": 2, "rule": "fast"}, "rule of Attention must be of the kind Literal"),
        ({"type": "Serial", "layers": [{"type": "Dense", "width": 3}], "shape": [-1]}, "must be of the kind shape"),
        ({"type": "Serial", "layers": {"type": "Dense", "width": 3}}, "layers of Serial must be of the kind tuple"),
        ({"type": "SoftmaxCrossEntropy", "reduction": "max"}, "reduction of SoftmaxCrossEntropy must be of the kind"),
        (nest(300), "a description must be nested at most 200 levels deep"),
        (network(), "a Network must have at least one line"),
        (network(LINE, LINE), "the lines of a Network must have different names, got a, a"),
        (network(["self", LINE[1]], output="self"), "a description of Network must be complete and sound"),
        (network(["shape", LINE[1]], output="shape"), "a description of Network must be complete and sound"),
        (network(["a", LINE[1]["layer"]]), "lines of Network must be of the kind tuple"),
        (network(LINE, output="b"), "the output must name a line before it, got 'b'"),
        (network(["a", LINE[1] | {"entries": ["x", "y"]}]), "the entries of a line must be as many as the lines"),
        (network(["a", LINE[1] | {"reads": ["x"]}], inputs=["x"], shape=[3]), "a description of Network must be"),
    ],
    ids=lambda x: x[:60] if isinstance(x, str) else "",
)
def test_damaged_descriptions_are_refused(saved, message):
    with pytest.raises(FbpError) as error:
        construct(saved)
    assert message in str(error.value)


def test_differences_at_an_absurd_depth_are_refused():
    with pytest.raises(FbpError, match="nested at most 200 levels deep"):
        list_differences(nest(300), nest(300))


def test_an_error_says_where():
    saved = describe(fbp.mlp((4, 3, 2)))
    saved["layers"][2]["initializer"] = {"type": "Initializer", "mode": "fan_im"}
    with pytest.raises(FbpError, match=r"^layers\[2\]\.initializer\.mode: mode of Initializer must be of the kind"):
        construct(saved)


SAVED = [describe(GALLERY), describe(SEQUENCE_GALLERY), describe(fbp.gpt(11, 6, 8, 2, 2, style="modern"))]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from([*TYPES, "input", "relu", "normal(1e999)", "leaky_relu(nan)", "x", "blocks"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([{"type": name} for name in TYPES]),
    st.builds(lambda: {"type": "Dense", "width": 3}),
)


def places(saved, path=()):
    """The paths to every part of a description."""
    yield path
    if isinstance(saved, dict | list):
        for key, part in saved.items() if isinstance(saved, dict) else enumerate(saved):
            yield from places(part, (*path, key))


@st.composite
def damaged(draw):
    """A description in which up to three parts are replaced, removed, doubled or swapped."""
    saved = copy.deepcopy(draw(st.sampled_from(SAVED)))
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in places(saved) if path]
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        parent = saved
        for step in path[:-1]:
            parent = parent[step]
        how, value = draw(st.sampled_from(["replace", "remove", "add"])), copy.deepcopy(draw(ANYTHING))
        if how == "remove":
            del parent[path[-1]]
        elif how == "replace":
            parent[path[-1]] = value
        elif isinstance(parent, list):
            parent.insert(path[-1], draw(st.sampled_from([value, copy.deepcopy(parent[path[-1]])])))
        else:
            parent[draw(st.sampled_from(["width", "eps", "", "self", "layer", "shape"]))] = value
    return saved


@given(saved=damaged())
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_damage_is_an_error_or_another_sound_network(saved):
    try:
        made = construct(saved)
    except FbpError:
        return
    assert construct(describe(made)) == made
    hash(made)


@given(saved=damaged(), other=damaged())
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_two_descriptions_are_compared(saved, other):
    assert list_differences(saved, copy.deepcopy(saved)) == []
    found = list_differences(saved, other)
    assert not any("\n" in line for line in found)
    try:
        are_equal = construct(saved) == construct(other)
    except FbpError:
        return
    assert are_equal == (not found)


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        (fbp.mlp((4, 64, 3)), fbp.mlp((4, 128, 3)), ["layers[0].width: 64 in the file, 128 here"]),
        (
            fbp.mlp((4, 8, 3)),
            fbp.mlp((5, 8, 3), "tanh"),
            ["layers[1].function: 'relu' in the file, 'tanh' here", "shape: [4] in the file, [5] here"],
        ),
        (
            fbp.Dense(3),
            fbp.Dense(3, "zeros", bias=False),
            ["initializer: 'he_normal' in the file, 'zeros' here", "bias: True in the file, False here"],
        ),
        (
            fbp.mlp((4, 8, 3)),
            fbp.mlp((4, 8, 8, 3)),
            ["layers: 3 in the file, 5 here", "layers[2].width: 3 in the file, 8 here"],
        ),
        (fbp.Dense(3), fbp.Activation("relu"), ["Dense in the file, Activation here"]),
        (
            fbp.Serial(fbp.Dense(3)),
            fbp.Serial(fbp.LowRank(fbp.Dense(3), 2)),
            ["layers[0]: Dense in the file, LowRank here"],
        ),
        (
            fbp.gpt(11, 6, 8, 2, 2, scale_residual=False),
            fbp.gpt(11, 5, 8, 3, 2, scale_residual=False, share_head=False),
            [
                "lines.positions.layer.length: 6 in the file, 5 here",
                "lines.blocks.layer.depth: 2 in the file, 3 here",
                "lines.head.owner: 'tokens' in the file, None here",
                "shape: [6] in the file, [5] here",
            ],
        ),
        (
            fbp.Network(a=fbp.Dense(3), b=fbp.Activation("tanh"), c=fbp.Dense(3)),
            fbp.Network(a=fbp.Dense(3), c=fbp.Dense(3)),
            ["lines.b: only in the file", "lines.c.reads: ['b'] in the file, ['a'] here"],
        ),
        (
            fbp.Network(a=fbp.Dense(3).of("input"), b=fbp.Dense(3).of("input"), c=fbp.Add().of("a", "b")),
            fbp.Network(b=fbp.Dense(3).of("input"), a=fbp.Dense(3).of("input"), c=fbp.Add().of("a", "b")),
            ["lines: in the order a, b, c in the file, b, a, c here"],
        ),
        (
            fbp.Dense(3, fbp.Initializer(0.7, "fan_out")),
            fbp.Dense(3),
            ["initializer: Initializer(...) in the file, 'he_normal' here"],
        ),
    ],
)
def test_differences_are_named(saved, given, expected):
    assert list_differences(describe(saved), describe(given)) == expected
    assert list_differences(describe(saved), describe(saved)) == []


def test_the_examples_run():
    results = doctest.testmod(description, extraglobs={"fbp": fbp})
    assert results.attempted > 3
    assert not results.failed
