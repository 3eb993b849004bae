"""The gradient checker: right gradients pass, wrong ones are named, and what cannot be told is said so."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from faulty import FlippedSign

import fbp
from fbp import Activation, Checkpoint, Dense, Residual, Serial, verify
from fbp.cli.builtin import GALLERIES, GALLERY, Builtin, draw_parameters, list_transformers
from fbp.combinators import Combinator
from fbp.partition import combine, partition
from fbp.precision import cast
from fbp.verify import mutation, slopes
from fbp.verify.faults import FAULTS, make_mutants
from fbp.verify.programs import without_rules
from fbp.verify.sequence_faults import SEQUENCE_FAULTS

X = jnp.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.5], [-0.8, 0.9, 0.2], [0.1, -0.6, 1.3]])
W = jnp.array([[0.5, -0.3, 0.8], [0.2, 0.9, -0.7], [-0.4, 0.6, 0.1]])
M = len(X)


def loss(params, X):
    """The mean over examples of a small network with a square W, a bias and a second W."""
    hidden = jnp.tanh(X @ params["W"] + params["b"][None])
    return jnp.mean(jnp.sum((hidden @ params["V"]) ** 2, axis=1))


PARAMS = {"W": W, "b": jnp.array([0.1, -0.2, 0.3]), "V": W.T @ W + 0.3}
right = jax.grad(loss)


def changed(path, change):
    def wrong(params, X):
        return right(params, X) | {path: change(right(params, X)[path])}

    return wrong


def of(found, path):
    return next(leaf for leaf in found.leaves if leaf.path == f"['{path}']")


SOME = ["activation relu", "activation softmax", "batch norm in repeat", "residual scaled, layer norm"]
SOME += ["repeat, checkpoint 2 of 5", "checkpoint and dropout", "half squared error, summed, sigmoid"]
SOME += ["two inputs, two outputs", "cross attention"]


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SOME], ids=str)
def test_a_right_network_passes(case):
    params, inputs, Y, key = case.batch()
    found = verify.network(case.net, case.loss, params, inputs, Y, key=key)
    assert found.verdict == "PASS", str(found)
    assert found.exit_status == 0
    assert {each.verdict for each in found.equations} == {"PASS"}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_every_layer_passes_in_every_dtype(dtype):
    each = Builtin("every kind of layer", GALLERY, dtype=dtype, keyed=True)
    found = verify.network(each.net, each.loss, *each.arguments())
    assert found.verdict == "PASS", str(found)
    assert {leaf.dtype for leaf in found.leaves} == {dtype}


def test_a_transformer_in_half_precision_passes():
    each = next(each for each in list_transformers() if each.dtype == "bfloat16")
    found = verify.network(each.net, each.loss, *each.arguments())
    assert found.verdict == "PASS", str(found)
    assert {leaf.dtype for leaf in found.leaves} == {"bfloat16"}


def test_gradients_below_the_range_of_the_dtype_are_judged_in_float64():
    net = fbp.mlp((3, *[4] * 7, 2), "sigmoid", "normal(0.01)")
    params, _ = net.init(jax.random.key(0))
    args = *cast((params, X), jnp.float16), jnp.array([0, 1, 0, 1])
    found = verify.network(net, fbp.SoftmaxCrossEntropy(), *args)
    first = found.leaves[0]
    assert (
        float(
            jnp.max(
                jnp.abs(
                    jax.grad(lambda p: fbp.loss_value(net, fbp.SoftmaxCrossEntropy(), p, *args[1:]))(args[0])[0]["W"]
                )
            )
        )
        == 0
    )
    assert found.verdict == "PASS", str(found)
    assert "judged in float64" in first.judge("autodiff").reason


def narrow(gradient):
    """A gradient function that computes in float32 whatever it is given."""

    def pinned(*args):
        return jax.tree.map(lambda g, p: g.astype(p.dtype), gradient(*cast(args, jnp.float32)), args[0])

    return pinned


def test_without_a_float64_path_a_gradient_is_judged_in_its_own_dtype():
    assert verify.gradient(narrow(right), loss, PARAMS, X).verdict == "PASS"
    assert verify.gradient(narrow(changed("W", lambda g: 1.001 * g)), loss, PARAMS, X).verdict == "FAIL"


def test_what_rounding_may_explain_is_inconclusive():
    # The sum of 256 entries less 256 times the first: nearly nothing is left, and bfloat16 does not know how much.
    def cancelling(x):
        return jnp.square(jnp.sum(x) - 256 * x[0])

    x = jnp.full(256, 1.37, jnp.bfloat16) + jnp.linspace(0, 0.02, 256).astype(jnp.bfloat16)
    # NumPy inside: the gradient function cannot be evaluated in float64.
    found = verify.gradient(narrow(lambda x: 1.2 * np.asarray(jax.grad(cancelling)(x))), cancelling, x)
    assert found.verdict == "INCONCLUSIVE", str(found)
    assert found.exit_status == 3
    assert "rounding in bfloat16 alone may move this leaf" in found.leaves[0].reason


HINTS = {
    "sign": ("W", lambda g: -g, "the sign"),
    "mean": ("W", lambda g: g * M, f"ratio {M} = m"),
    "mean twice": ("b", lambda g: g / M, f"ratio 1/{M} = 1/m"),
    "half": ("W", lambda g: g / 2, "ratio 1/2"),
    "constant": ("W", lambda g: 1.37 * g, "a constant factor 1.37"),
    "transposed": ("W", lambda g: g.T, "equal after transposing"),
    "reversed": ("V", lambda g: g[::-1], "equal after reversing axis 0"),
    "zero": ("b", lambda g: 0 * g, "a zero leaf"),
    "one entry": ("V", lambda g: g.at[1, 2].multiply(3), r"one entry, at \(1, 2\): 3 of"),
    "slice": ("V", lambda g: g.at[1].multiply(jnp.array([2.0, 3.0, 4.0])), "one slice, index 1 of axis 0"),
    "mask": ("W", lambda g: g * (jnp.arange(9.0).reshape(3, 3) % 2), "equal up to a mask: 5 entries"),
    "factor per unit": ("W", lambda g: g * jnp.array([[1.2, 0.7, 2.0]]), "one factor per unit, 0.7 to 2"),
    "factor per input": ("W", lambda g: g * jnp.array([[1.2], [0.7], [2.0]]), "one factor per input, 0.7 to 2"),
    "precision": ("V", lambda g: g.astype(jnp.bfloat16).astype(g.dtype), "a rounding of bfloat16 in each entry"),
    "NaN": ("V", lambda g: g.at[2, 1].set(jnp.nan), r"NaN or infinity, first at \(2, 1\)"),
    "decay": ("W", lambda g: g + 1e-4 * W, "off by a multiple of the parameter itself, added: weight decay"),
    "term": ("W", lambda g: g + W.T, "a missing term or chain factor"),
}


@pytest.mark.parametrize(("path", "change", "said"), HINTS.values(), ids=HINTS)
def test_a_wrong_leaf_fails_with_its_hint(path, change, said):
    found = verify.gradient(changed(path, change), loss, PARAMS, X)
    assert [leaf.path for leaf in found.leaves if leaf.verdict == "FAIL"] == [f"['{path}']"]
    assert re.search(said, of(found, path).hint), of(found, path).hint
    assert found.exit_status == 1


def test_swapped_leaves_name_each_other():
    found = verify.gradient(lambda p, X: (g := right(p, X)) | {"W": g["V"], "V": g["W"]}, loss, PARAMS, X)
    assert "equal to the gradient of ['V']" in of(found, "W").hint
    assert "equal to the gradient of ['W']" in of(found, "V").hint


@pytest.mark.parametrize("judge", ["autodiff", "differences", "adjoint"])
def test_every_judge_finds_a_fault_by_itself(judge):
    found = verify.gradient(changed("W", lambda g: g.at[0, 0].multiply(1.5)), loss, PARAMS, X)
    assert of(found, "W").judge(judge).verdict == "FAIL"
    assert of(found, "V").judge(judge).verdict == "PASS"


STRUCTURE = {
    "missing": (lambda p, X: {k: v for k, v in right(p, X).items() if k != "b"}, "['b']", "missing in the gradient"),
    "extra": (lambda p, X: right(p, X) | {"c": X}, "['c']", "no such leaf"),
    "None": (lambda p, X: right(p, X) | {"b": None}, "['b']", "None where an array float32 (3,)"),
    "float0": (lambda p, X: right(p, X) | {"b": np.zeros(3, jax.dtypes.float0)}, "['b']", "float0"),
    "shape": (lambda p, X: right(p, X) | {"b": jnp.ones(4)}, "['b']", "shape (4,) for (3,)"),
    "dtype": (lambda p, X: cast(right(p, X), jnp.bfloat16), "['W']", "dtype bfloat16 for float32"),
    "value": (jax.value_and_grad(loss), "['W']", "pass has_value=True"),
}


@pytest.mark.parametrize(("wrong", "path", "said"), STRUCTURE.values(), ids=STRUCTURE)
def test_structure_comes_first(wrong, path, said):
    found = verify.gradient(wrong, loss, PARAMS, X)
    leaf = next(leaf for leaf in found.leaves if leaf.path == path)
    assert leaf.verdict == "FAIL"
    assert said in leaf.reason


def test_containers_are_part_of_the_structure():
    found = verify.gradient(lambda x: tuple(2 * y for y in x), lambda x: sum(jnp.sum(y**2) for y in x), [W, W])
    assert found.verdict == "FAIL"
    assert "containers differ" in found.leaves[-1].reason


def test_a_weak_type_is_noted_and_passes():
    found = verify.gradient(lambda x: 2.0 * jnp.asarray(3.0) + 0 * float(x), lambda x: 6 * x, jnp.float32(1.0))
    assert found.verdict == "PASS"
    assert "weakly typed" in found.leaves[0].note


def test_integer_arguments_have_no_gradient():
    def picked(p):
        return jnp.sum(p["W"][p["i"]] ** 2)

    def by_hand(p):
        return {"W": jnp.zeros_like(p["W"]).at[p["i"]].set(2 * p["W"][p["i"]]), "i": None}

    params = {"W": W, "i": jnp.array([0, 2])}
    assert verify.gradient(by_hand, picked, params).verdict == "PASS"
    found = verify.gradient(lambda p: by_hand(p) | {"i": jnp.ones(2)}, picked, params)
    assert "must be None or of dtype float0" in next(leaf for leaf in found.leaves if leaf.path == "['i']").reason


def at_zero(slope):
    return lambda x: jnp.where(x > 0, 1.0, jnp.where(x == 0, slope, 0.0)).astype(x.dtype)


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.5, "PASS"), (0.0, "INCONCLUSIVE"), (1.0, "INCONCLUSIVE"), (3.0, "FAIL")]
)
def test_at_a_kink_what_lies_between_the_sides_is_not_called_wrong(slope, verdict):
    found = verify.gradient(at_zero(slope), lambda x: jnp.sum(jnp.maximum(x, 0)), jnp.array([0.0, 1.0, -1.0, 2.0]))
    assert found.verdict == verdict, str(found)
    if verdict == "INCONCLUSIVE":
        assert "a kink at this point" in found.leaves[0].reason


def test_a_kink_does_not_hide_another_mistake():
    found = verify.gradient(
        lambda x: 1.1 * at_zero(0.0)(x), lambda x: jnp.sum(jnp.maximum(x, 0)), jnp.array([0.0, 1.0])
    )
    assert found.verdict == "FAIL"


def test_differences_know_their_uncertainty():
    steps = np.concatenate([[0.0], *([h, -h] for h in slopes.STEPS)])
    smooth = slopes.estimate_slope(np.exp(steps))
    assert abs(smooth.value - 1) <= smooth.uncertainty < 1e-7
    flat = slopes.estimate_slope(1e9 + np.exp(steps))
    assert abs(flat.value - 1) <= flat.uncertainty
    assert flat.uncertainty > 1e-3 * smooth.uncertainty
    kink = slopes.estimate_slope(np.maximum(steps, 0) + steps**2)
    assert (kink.low, kink.high) == pytest.approx((0, 1), abs=1e-5)


@jax.custom_vjp
def cubed(x, factor):
    return factor * x**3


cubed.defvjp(lambda x, factor: (factor * x**3, (x, factor)), lambda kept, d: (3 * kept[1] * kept[0] ** 2 * d, None))


@jax.custom_vjp
def wrongly_cubed(x, factor):
    return factor * x**3


wrongly_cubed.defvjp(
    lambda x, factor: (factor * x**3, (x, factor)), lambda kept, d: (2 * kept[1] * kept[0] ** 2 * d, None)
)


def inside(op):
    def nested(x):
        y, _ = jax.lax.scan(lambda carry, _: (op(carry, 1), None), x, length=2)
        z = jax.jit(jax.checkpoint(lambda y: op(y, 1)))(0.3 * y)
        return {"out": jax.lax.cond(z[0] > 100, lambda z: z, lambda z: op(z, 2), z)}

    return nested


def test_a_right_rule_passes_and_a_wrong_one_fails():
    x = jnp.linspace(0.5, 1.5, 5)
    assert verify.vjp(cubed, x, 2).verdict == "PASS"
    found = verify.vjp(wrongly_cubed, x, 2)
    assert found.verdict == "FAIL"
    assert "a constant factor 0.666667" in found.leaves[0].hint


def test_rules_inside_of_transformations_are_taken_away():
    x = jnp.linspace(0.5, 0.9, 5)
    np.testing.assert_allclose(without_rules(inside(wrongly_cubed))(x)["out"], inside(cubed)(x)["out"], rtol=1e-6)
    assert verify.vjp(inside(cubed), x).verdict == "PASS"
    assert verify.vjp(inside(wrongly_cubed), x).verdict == "FAIL"


def test_a_reference_stands_in_for_the_primal():
    x = jnp.linspace(0.5, 1.5, 5)
    assert verify.vjp(cubed, x, 2, reference=lambda x, f: f * x * x * x).verdict == "PASS"
    assert verify.vjp(cubed, x, 2, reference=lambda x, f: f * x * x).verdict == "FAIL"
    with pytest.raises(fbp.FbpError, match="the reference must return what the operation returns"):
        verify.vjp(cubed, x, 2, reference=lambda x, f: jnp.sum(x))


def test_what_a_rule_is_not_differentiated_by_is_a_constant():
    """Strings, functions and numbers in `nondiff_argnums`, and models with functions among their leaves."""

    def apply(x, function, factor, name):
        return function(x) * factor

    def backward(function, factor, name, x, d):
        return (d * {"right": 1.0, "wrong": -1.0}[name] * factor * jnp.cos(x),)

    op = jax.custom_vjp(apply, nondiff_argnums=(1, 2, 3))
    op.defvjp(lambda *args: (apply(*args), args[0]), backward)
    x = jnp.linspace(0.5, 1.5, 5)
    assert verify.vjp(op, x, jnp.sin, 2.0, "right").verdict == "PASS"
    assert "the sign" in verify.vjp(op, x, jnp.sin, 2.0, "wrong").leaves[0].hint
    model = {"x": x, "activation": jnp.sin, "steps": 3}
    assert verify.vjp(lambda model: model["activation"](model["x"]) * model["steps"], model).verdict == "PASS"


def test_partition_and_combine_are_inverse():
    tree = {"W": 1.5, "none": None, "pair": (2, [0.5, "name"])}
    floats, rest = partition(tree, lambda leaf: isinstance(leaf, float))
    assert floats == {"W": 1.5, "none": None, "pair": (None, [0.5, None])}
    assert rest == {"W": None, "none": None, "pair": (2, [None, "name"])}
    assert combine(floats, rest) == combine(rest, floats) == tree


def test_where_reverse_mode_has_no_derivative_the_other_judges_speak():
    def powers(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, jnp.ones_like(x)))[1]

    @jax.custom_vjp
    def op(x):
        return powers(x)

    op.defvjp(lambda x: (powers(x), x), lambda x, d: (3 * x**2 * d,))
    found = verify.vjp(op, jnp.linspace(0.5, 1.5, 5))
    assert found.verdict == "PASS", str(found)
    assert found.leaves[0].judge("autodiff").verdict == "INCONCLUSIVE"
    assert "no reverse-mode derivative" in found.leaves[0].judge("autodiff").reason


def test_where_forward_mode_has_no_derivative_it_says_so():
    found = verify.gradient(jax.grad(lambda x: jnp.sum(cubed(x, 1))), lambda x: jnp.sum(cubed(x, 1)), X)
    assert found.verdict == "PASS"
    assert "no forward-mode derivative" in found.leaves[0].judge("adjoint").reason


def test_a_wrong_rule_inside_of_the_loss_is_found_by_differences():
    wrong = lambda x: jnp.sum(wrongly_cubed(x, 1))
    found = verify.gradient(jax.grad(wrong), wrong, X)
    assert found.leaves[0].judge("autodiff").verdict == "PASS"
    assert found.leaves[0].judge("differences").verdict == "FAIL"


@dataclass(frozen=True)
class MissingDerivative(Activation):
    def backward(self, params, cache, dA_out):
        return (), dA_out


@dataclass(frozen=True)
class WrongPair(Dense):
    def linear(self, params, cache, dA_out):
        return super().linear(params, cache, 2 * dA_out)


@dataclass(frozen=True)
class ForgetsSkip(Residual):
    def sweep(self, params, cache, dA_out, probe=None):
        return self.branch.sweep(params, cache, dA_out, probe)


LABELS = jnp.array([0, 1, 2, 1])
TOKENS = jnp.array([[1, 4, 1], [0, 2, 2], [6, 5, 6], [3, 1, 1]])


def located(*layers):
    net = Serial(Dense(5), *layers, Dense(3))
    params, _ = net.init(jax.random.key(1), (3,))
    return verify.network(net, fbp.SoftmaxCrossEntropy(), params, X, LABELS)


@pytest.mark.parametrize(
    ("layer", "cell"),
    [
        (FlippedSign(5), ("[1] Dense(5)", "dW_2")),
        (MissingDerivative("tanh"), ("[1] Activation(tanh)", "dZ_1")),
    ],
    ids=["dW", "dZ"],
)
def test_one_mistake_marks_one_equation(layer, cell):
    found = located(layer, Activation("relu"))
    assert [(each.layer, each.quantity) for each in found.equations if each.verdict == "FAIL"] == [cell]
    assert found.verdict == "FAIL"


def test_a_wrong_pair_is_an_equation_of_its_own():
    found = located(WrongPair(5), Activation("relu"))
    failed = [(each.layer, each.quantity) for each in found.equations if each.verdict == "FAIL"]
    assert failed == [("[1] Dense(5)", "pair of dW_2"), ("[1] Dense(5)", "pair of db_2")]
    assert {leaf.verdict for leaf in found.leaves} == {"PASS"}


def test_layers_in_a_network_are_named_by_their_lines():
    block = fbp.Network(flip=FlippedSign(4), end=fbp.Add().of("input", "flip"))
    net = fbp.Network(tokens=fbp.Embedding(7, 4), blocks=fbp.Repeat(block, 2), head=Dense(7))
    params, _ = net.init(jax.random.key(0), (3,))
    found = verify.network(net, fbp.SoftmaxCrossEntropy(), params, TOKENS, TOKENS)
    cells = [(each.layer, each.quantity) for each in found.equations]
    assert cells[:2] == [("tokens Embedding", "dE_1"), ("tokens Embedding", "pair of dE_1")]
    assert ("blocks[1].end Add", "dA_in[1]") in cells
    failed = [(each.layer, each.quantity) for each in found.equations if each.verdict == "FAIL"]
    assert failed == [("blocks[0].flip Dense(4)", "dW_2"), ("blocks[1].flip Dense(4)", "dW_3")]


def test_a_mistake_in_how_layers_are_put_together_is_located_too():
    found = located(ForgetsSkip(Serial(Dense(5), Activation("tanh"))))
    assert {each.verdict for each in found.equations} == {"PASS"}
    assert "wrong is [1] ForgetsSkip" in found.leaves[0].note


@dataclass(frozen=True)
class Sum(Combinator):
    """Children side by side: the sum of their outputs for one input."""

    branches: tuple

    @property
    def children(self):
        return self.branches

    def with_children(self, children):
        return type(self)(tuple(children))

    def split(self, tree):
        return tree

    def join(self, trees):
        return tuple(trees)

    def init(self, key, shape):
        params, shapes = zip(*(branch.init(key, shape) for branch in self.branches), strict=True)
        return params, shapes[0]

    def forward(self, params, A, key=None):
        outs, caches = zip(*(b.forward(p, A, key) for b, p in zip(self.branches, params, strict=True)), strict=True)
        return sum(outs[1:], outs[0]), caches

    def sweep(self, params, cache, dA_out, probe=None):
        parts = [b.sweep(p, c, dA_out, probe) for b, p, c in zip(self.branches, params, cache, strict=True)]
        d_params, dA_in, readings = zip(*parts, strict=True)
        return d_params, self.add(dA_in), readings

    def add(self, cotangents):
        return sum(cotangents[1:], cotangents[0])


class ForgetsBranch(Sum):
    def add(self, cotangents):
        return cotangents[0]


@dataclass(frozen=True)
class ForgetsToRecompute(Checkpoint):
    """The second forward pass is that of another input."""

    def sweep(self, params, cache, dA_out, probe=None):
        (A, key) = cache
        return super().sweep(params, (0.5 * A, key), dA_out, probe)


NARROW = Serial(Dense(2), Activation("tanh"), Dense(5))
SIDE_BY_SIDE = {
    "fan-out": (ForgetsBranch((NARROW, Dense(5))), "[1] ForgetsBranch"),
    "inside": (Sum((NARROW, ForgetsSkip(NARROW))), "[1][1] ForgetsSkip"),
    "in a loop": (fbp.Repeat(Sum((Dense(5), ForgetsSkip(NARROW))), 2), "[1][*][1] ForgetsSkip"),
    "checkpoint": (ForgetsToRecompute(NARROW), "[1] ForgetsToRecompute"),
    "in a checkpoint": (Checkpoint(ForgetsSkip(NARROW)), "[1] ForgetsSkip"),
    "in a line": (fbp.Network(a=Dense(5), b=ForgetsSkip(NARROW)), "[1].b ForgetsSkip"),
}


@pytest.mark.parametrize(("part", "place"), SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)
def test_a_combinator_of_ones_own_is_located_by_what_its_children_are_given(part, place):
    found = located(part)
    assert {each.verdict for each in found.equations} == {"PASS"}
    failed = [leaf for leaf in found.leaves if leaf.verdict == "FAIL"]
    assert failed
    assert all(leaf.note.endswith(f"wrong is {place}") for leaf in failed), failed[0].note


def test_combinators_of_ones_own_pass_where_they_are_right():
    assert located(Sum((NARROW, Dense(5)))).verdict == "PASS"


def test_a_bias_before_batch_norm_is_zero_up_to_rounding():
    found = located(fbp.BatchNorm(), Activation("tanh"))
    assert found.verdict == "PASS", str(found)
    assert next(leaf for leaf in found.leaves if leaf.path == "[0]['b']").is_zero


def test_every_effective_mutant_is_killed_and_the_others_are_recognised():
    net = Serial(Dense(3), fbp.LayerNorm(), Activation("relu"), Residual(Dense(3)), Activation("leaky_relu"), Dense(3))
    params, _ = net.init(jax.random.key(0), (3,))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    mutated = verify.mutate(net, fbp.SoftmaxCrossEntropy(), params, X, LABELS)
    assert not mutated.survivors
    assert mutated.exit_status == 0
    killed = {each.fault for each in mutated.mutants if each.state == "killed"}
    assert len(killed) >= 15
    assert all(each.judges["equations"] == "FAIL" for each in mutated.mutants if each.fault == "sign")
    equivalent = {(each.fault, each.place) for each in mutated.mutants if each.state == "equivalent"}
    assert ("wrong mask", "[4] Activation") in equivalent
    assert ("missing transpose", "[0] Dense") in equivalent
    assert json.loads(mutated.to_json())["survived"] == 0
    assert "equivalent" in str(mutated)


def in_a_gpt():
    net = fbp.gpt(7, 3, 4, 1, 2, style="modern", key_value_heads=1, hidden=3)
    return net, TOKENS


def in_other_lines():
    block = fbp.Network("x", "memory", end=fbp.Multiply().of("x", "memory"))
    net = fbp.Network(
        tokens=fbp.Embedding(7, 3),
        positions=fbp.LearnedPositions(4),
        memory=fbp.LowRank(Dense(3), 2),
        blocks=fbp.Repeat(block, 2, through="x").of(x="positions", memory="memory"),
        end=fbp.Concatenate().of("blocks", "tokens"),
        head=Dense(7),
    )
    return net, TOKENS


@pytest.mark.parametrize("make", [in_a_gpt, in_other_lines])
def test_every_effective_fault_of_sequences_is_killed(make, monkeypatch):
    every = mutation.make_mutants
    # One mutant a fault, of those that apply here.
    some = lambda *n: list({m.fault: m for m in every(*n) if m.fault in SEQUENCE_FAULTS}.values())
    monkeypatch.setattr(mutation, "make_mutants", some)
    net, tokens = make()
    params = draw_parameters(net, (3,), np.random.default_rng(0))
    report = verify.mutate(net, fbp.SoftmaxCrossEntropy(), cast(params, jnp.float32), tokens, tokens)
    assert not report.survivors
    assert {each.state for each in report.mutants} == {"killed"}
    assert len(report.mutants) > 5


def test_every_fault_applies_somewhere():
    assert {mutant.fault for each in GALLERIES for mutant in make_mutants(each.net, each.loss)} == set(FAULTS)
    assert len(FAULTS) >= 15


def test_results_print_and_are_json():
    found = verify.gradient(changed("W", lambda g: -g), loss, PARAMS, X)
    data = json.loads(found.to_json())
    assert data["verdict"] == "FAIL"
    assert [leaf["path"] for leaf in data["leaves"]] == ["['V']", "['W']", "['b']"]
    assert data["leaves"][1]["judges"]["autodiff"][0] == "FAIL"
    assert "the sign: equal to minus the gradient" in str(found)
    assert "equal to minus the gradient" in found._repr_html_()


def test_the_table_fits_80_columns():
    from rich.console import Console

    wrong = changed("W", lambda g: -1e-9 * g)
    wide = verify.gradient(
        lambda p, X: {"parameters": wrong(p["parameters"], X)},
        lambda p, X: loss(p["parameters"], X),
        {"parameters": PARAMS},
        X,
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(wide)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if "-1.0000" in line)
    assert row.split()[1:] == ["FAIL", "1.0e+00", "1.0e+00", "8.4e+06", "-1.0000", "1e-09", "FAIL", "FAIL"]


def test_one_key_one_result():
    wrong = changed("W", lambda g: g + 1e-7)
    first, again, other = (verify.gradient(wrong, loss, PARAMS, X, key=jax.random.key(i)) for i in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()


def test_the_guide_shows_what_its_example_prints(capsys):
    page = (Path(__file__).parent.parent / "docs" / "verification.md").read_text()
    example, shown = re.search(r"^```python\n(.*?)^```\n\n(.*?)^\|", page, re.MULTILINE | re.DOTALL).groups()
    exec(compile(example, "verification.md", "exec"), {})
    lines = lambda text: [line.strip() for line in text.splitlines() if line.strip()]
    assert lines(capsys.readouterr().out) == lines(shown)


def test_assert_gradient_fails_with_the_table():
    verify.assert_gradient(right, loss, PARAMS, X)
    with pytest.raises(AssertionError, match="equal after transposing"):
        verify.assert_gradient(changed("W", lambda g: g.T), loss, PARAMS, X)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: verify.gradient(right, lambda p, X: X, PARAMS, X), "the loss must return one floating-point number"),
        (
            lambda: verify.gradient(lambda p, X: 1 / 0, loss, PARAMS, X),
            "must accept the given arguments, got ZeroDivisionError",
        ),
        (lambda: verify.gradient(right, loss, PARAMS, X, has_value=True), "must return (value, gradient), got dict"),
        (lambda: verify.vjp(cubed, X), "the operation must accept the given arguments"),
        (
            lambda: verify.vjp(lambda i: i, jnp.arange(3)),
            "must have floating arguments to differentiate by, got ArrayImpl",
        ),
    ],
)
def test_misuse_is_one_line(call, said):
    with pytest.raises(fbp.FbpError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
