"""The conformance kit: right rules pass every row, and each row fails for a rule that breaks it and no other."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback
from jax.sharding import SingleDeviceSharding

import fbp
from fbp.verify.conform.case import Case, Differs
from fbp.verify.conform.report import conformance, conformance_row
from fbp.verify.conform.rows import ROWS

pytest_plugins = ["pytester"]

DRAW = np.random.default_rng(0)
X = np.linspace(0.5, 2, 8, dtype=np.float32)
SCALAR = np.float32(2)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(DRAW.standard_normal(shape), dtype)


def rule(backward, op=jnp.square, forward=None, **options):
    function = jax.custom_vjp(lambda *args: op(*args))
    function.defvjp(forward or (lambda x: (op(x), x)), backward, **options)
    return function


def two_results(x, y):
    return {"product": x * y, "sum": [x + y]}


def d_two_results(residuals, d):
    x, y = residuals
    return y * d["product"] + d["sum"][0], x * d["product"] + d["sum"][0]


def kept(x, y):
    return two_results(x, y), (x, y)


def tree_op(tree):
    return {"z": tree["W"] @ tree["x"], "n": tree["n"] + 1, "norm": jnp.sum(jnp.square(tree["W"]))}


def noisy_gather(x, index, mask, key):
    return jnp.where(mask, x[index], 0) * jax.random.normal(key, index.shape)


def power(x, n):
    return x**n


static_power = jax.custom_vjp(power, nondiff_argnums=(1,))
static_power.defvjp(lambda x, n: (x**n, x), lambda n, x, d: (n * x ** (n - 1) * d,))


def attention(q, k, v):
    return jax.nn.softmax(q @ k.mT) @ v


NET = fbp.mlp((5, 6, 4), "tanh", dropout=0.3)

RIGHT = {
    "custom_vjp": (rule(lambda x, d: (2 * x * d,)), X),
    "python float": (rule(lambda x, d: (2 * x * d,)), 2.0),
    "scalar": (jnp.sin, SCALAR),
    "two results": (rule(d_two_results, two_results, kept), X, X + 1),
    "pytree": (tree_op, {"W": normal(8, 3), "x": normal(3), "n": np.arange(3), "name": "a tree", "none": None}),
    "integers": (noisy_gather, X, np.array([1, 3, 3]), np.array([True, False, True]), jax.random.key(0)),
    "nondiff_argnums": (static_power, X, 3),
    "nondiff_argnums with its default": (jax.scipy.special.log_ndtr, X),
    "static axis": (jnp.cumsum, normal(4, 3), 1),
    "network": (fbp.as_function(NET), NET.init(jax.random.key(0))[0], normal(8, 5), jax.random.key(1)),
    "edge of the domain": (jnp.arccosh, np.float32(1.01)),
    "zero up to rounding": (lambda x, b: (x + b[None]) - jnp.mean(x + b[None], 0, keepdims=True), normal(8, 4), X[:4]),
    "complex": (jnp.fft.fft, jax.lax.complex(normal(8), normal(8))),
    "float16 inside": (lambda x: jnp.tanh(x.astype(jnp.float16) * 3).astype(x.dtype), X),
    "bfloat16 attention": (attention, *(normal(2, 8, 4, dtype=jnp.bfloat16) for _ in range(3))),
    **{
        f"matmul {dtype}": (jnp.matmul, normal(3, 16, 64, dtype=dtype), normal(3, 64, 8, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    },
}


def failing(report):
    return {row.name for row in report.rows if row.verdict == "FAIL"}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_fails_no_row(name):
    op, *args = RIGHT[name]
    report = conformance(op, *args)
    assert [row for row in report.rows if row.verdict == "FAIL"] == []
    assert report.verdict == "PASS"
    assert report.exit_status == 0
    assert [row.name for row in report.rows] == list(ROWS)
    assert all(row.detail for row in report.rows)


def only_under_jit():
    """The residual is the very tracer of the forward pass under jit; scan, remat and vmap hand over another."""
    state = SimpleNamespace(last=None)

    def forward(x):
        state.last = x
        return x * x, x

    def backward(x, d):
        return (2 * x * d * (3 if x is state.last and isinstance(x, jax.core.Tracer) else 1),)

    return rule(backward, forward=forward), SCALAR


def unbatchable():
    def backward(x, d):
        return (jax.pure_callback(lambda x, d: 2 * np.asarray(x) * np.asarray(d), d, x, d),)

    return rule(backward), X


def badly_batched():
    @custom_vmap
    def double(d):
        return 2 * d

    double.def_vmap(lambda size, batched, d: (3 * d, True))
    return rule(lambda x, d: (x * double(d),)), X


def counts_open_calls():
    """A Python loop opens three calls before it closes one, a scan traces one."""
    state = SimpleNamespace(open=0)

    def forward(x):
        state.open += 1
        return x * x, x

    def backward(x, d):
        factor = max(state.open, 1)
        state.open = max(state.open - 1, 0)
        return (2 * x * d * factor,)

    return rule(backward, forward=forward), X


def has_an_effect():
    def square(x):
        io_callback(lambda: None, None)
        return x * x

    return rule(lambda x, d: (2 * x * d,), square), X


def names_a_device():
    one = SingleDeviceSharding(jax.devices()[0])
    return rule(lambda x, d: (jax.lax.with_sharding_constraint(2 * x * d, one),)), X


def drifts():
    state = SimpleNamespace(calls=0)

    def forward(x):
        state.calls += 1
        return x * x, 2 * x * (1 + 4e-7 * state.calls)

    return rule(lambda r, d: (r * d,), forward=forward), X


def remembers_residuals():
    seen = []

    def backward(r, d):
        again = any(r is other for other in seen)
        seen.append(r)
        return (r * d * (1 + 1e-6 * again),)

    return rule(backward, forward=lambda x: (x * x, 2 * x)), X


def clips():
    return rule(lambda x, d: (jnp.clip(2 * x * d, -1, 1),)), X


def divides_by_a_cotangent():
    def backward(residuals, d):
        d_x, d_y = d_two_results(residuals, d)
        return d_x * (d["sum"][0] / d["sum"][0]), d_y

    return rule(backward, two_results, kept), X, X + 1


def takes_no_symbolic_zero():
    def forward(x, y):
        return kept(x.value, y.value)

    return rule(d_two_results, two_results, forward, symbolic_zeros=True), X, X + 1


def ignores_an_unperturbed_argument():
    """With y constant, the gradient by x is left out as well."""

    def forward(x, y):
        return x.value * y.value, (x.value, y.value, jnp.float32(x.perturbed and y.perturbed))

    return rule(lambda r, d: (r[1] * d * r[2], r[0] * d * r[2]), jnp.multiply, forward, symbolic_zeros=True), X, X + 1


def integers_in_numpy():
    return (lambda x, n: x * np.asarray(n).astype(np.float32)), X, np.arange(8)


def weak_zeros():
    return rule(lambda x, d: (jnp.full(x.shape, 0.0),), jnp.sign), X


def wrong_transpose():
    def op(x):
        return jax.lax.custom_linear_solve(lambda v: 2 * v, x, lambda mv, b: b / 2, lambda mv, b: b / 3)

    return op, X


BROKEN = [
    ("eager", lambda: (rule(lambda x, d: (2 * x * d * jnp.inf,)), X), "NaN or infinity in args[0]"),
    ("eager", lambda: (rule(lambda x, d: (1 / 0,)), X), "ZeroDivisionError: division by zero"),
    ("jit", only_under_jit, "norm ratio 3, cosine 1"),
    ("vmap", unbatchable, "NotImplementedError: vmap is only supported"),
    ("vmap", badly_batched, "gradient of jax.vmap(op): args[0] differs by 5.0e-01 of its norm"),
    ("scan", counts_open_calls, "in lax.scan: args[0]"),
    ("remat", has_an_effect, "Effects not supported"),
    ("sharded", names_a_device, "incompatible devices"),
    ("repeated", drifts, "has other bits in a second call"),
    ("reuse", remembers_residuals, "other bits when the residuals are used again"),
    ("reuse", clips, "not linear in the cotangent"),
    ("zeros", divides_by_a_cotangent, "cotangent of result['product'] only: NaN or infinity in args[0]"),
    ("zeros", takes_no_symbolic_zero, "SymbolicZero"),
    ("zeros", ignores_an_unperturbed_argument, "gradient by args[0] only: args[0] differs by 1.0e+00"),
    ("integers", integers_in_numpy, "TracerArrayConversionError"),
    ("dtypes", weak_zeros, "weakly typed"),
    ("forward", wrong_transpose, "by jax.jvp"),
]


@pytest.mark.parametrize(("name", "make", "says"), BROKEN, ids=[f"{n}-{make.__name__}" for n, make, _ in BROKEN])
def test_a_broken_rule_fails_its_row_alone(name, make, says):
    op, *args = make()
    report = conformance(op, *args)
    assert failing(report) == {name}
    (row,) = (row for row in report.rows if row.name == name)
    assert says in row.detail
    assert "\n" not in row.detail
    assert report.verdict == "FAIL"
    assert report.exit_status == 1
    op, *args = make()
    assert conformance_row(name, op, *args).verdict == "FAIL"


def test_every_row_can_fail():
    assert {name for name, _, _ in BROKEN} == set(ROWS) - {"residuals"}, "the row residuals only measures"


def test_a_concrete_decision_fails_every_tracing_row_with_one_remedy():
    report = conformance(rule(lambda x, d: (2 * x * d if x.sum() > 0 else d,)), X)
    assert failing(report) == {"jit", "vmap", "scan", "remat", "sharded"}
    assert all(
        "TracerBoolConversionError" in r.detail and "jnp.where" in r.detail for r in report.rows if r.verdict == "FAIL"
    )


def test_a_cotangent_of_another_dtype_is_found():
    """JAX lets it pass, except where a scan adds up cotangents."""
    report = conformance(rule(lambda x, d: ((2 * x * d).astype(jnp.float16),)), X)
    assert failing(report) == {"scan", "dtypes"}
    (row,) = (row for row in report.rows if row.name == "dtypes")
    assert "args[0] is float32, its cotangent float16" in row.detail


def test_without_an_eager_gradient_the_others_are_skipped_with_the_reason():
    report = conformance(rule(lambda x, d: (1 / 0,)), X)
    assert {row.verdict for row in report.rows[1:]} == {"SKIP"}
    assert all("see the row eager" in row.detail for row in report.rows[1:])


def row(name, op, *args):
    found = conformance_row(name, op, *args)
    return found.verdict, found.detail


def test_residuals_are_counted():
    keeps = rule(lambda r, d: (r[0] * d,), forward=lambda x: (x * x, (2 * x, x)))
    assert row("residuals", keeps, X) == ("NOTE", "32 bytes kept beside the arguments; arguments are 32, results 32")
    keeps = rule(lambda y, d: (y * d,), jnp.exp, lambda x: 2 * (jnp.exp(x),))
    expected = "32 bytes kept beside the arguments (32 of them results); arguments are 32, results 32"
    assert row("residuals", keeps, X) == ("NOTE", expected)


def test_forward_mode_is_judged_where_it_exists():
    assert row("forward", rule(lambda x, d: (2 * x * d,)), X)[0] == "NOTE"
    verdict, detail = row("forward", jnp.sin, X)
    assert verdict == "PASS"
    assert detail.startswith("<c, J t> = <J^T c, t> within")


def test_an_error_in_forward_mode_is_no_note():
    @jax.custom_jvp
    def op(x):
        return x * x

    @op.defjvp
    def _(primals, tangents):
        if not isinstance(tangents[0], jax.core.Tracer):
            raise TypeError("tangents are traced")
        return op(*primals), 2 * primals[0] * tangents[0]

    assert row("forward", op, X) == ("FAIL", f"TypeError: tangents are traced ({ROWS['forward'][1]})")


def test_sharding_takes_the_devices_that_divide():
    assert row("sharded", jnp.sin, X[:6])[1].startswith("on 6 devices")
    assert row("sharded", jnp.add, X[:3], X[:3])[1].startswith("on 3 devices")
    assert row("sharded", jnp.sin, SCALAR) == (
        "SKIP",
        "no leading axis divides over 2 to 8 devices; give longer arguments",
    )


def test_one_device_says_how_to_have_eight(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    verdict, detail = row("sharded", jnp.sin, X)
    assert verdict == "SKIP"
    assert "--xla_force_host_platform_device_count=8" in detail


def test_integers_are_skipped_where_there_are_none():
    assert row("integers", jnp.sin, X) == ("SKIP", "no array of integers, booleans or keys among the arguments")
    assert row("zeros", jnp.sin, X)[0] == "SKIP"


def test_no_floating_result():
    assert row("eager", jnp.argmax, X) == ("FAIL", "the operation gives no floating result; return one")


def test_no_floating_argument():
    with pytest.raises(fbp.FbpError, match="got int, ndarray"):
        conformance(jnp.add, 1, np.arange(3))


def test_an_unknown_row():
    with pytest.raises(fbp.FbpError, match="did you mean 'remat'"):
        conformance_row("rematt", jnp.sin, X)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("factor", [1.5, -1.0, 0.0])
def test_the_judge_finds_a_wrong_factor(dtype, factor):
    """No dtype is so coarse that half of a gradient too much would pass."""
    case = Case(jnp.matmul, (normal(16, 64, dtype=dtype), normal(64, 8, dtype=dtype)))
    assert case.tolerance < 0.1
    scaled = {path: leaf * factor for path, leaf in case.base.gradient.items()}
    with pytest.raises(Differs, match="of its norm"):
        case.agree("scaled", scaled)


def test_the_judge_finds_one_wrong_row_in_float32():
    case = Case(jnp.matmul, (normal(16, 64), normal(64, 8)))
    wrong = {path: leaf.at[-1].multiply(1.01) for path, leaf in case.base.gradient.items()}
    with pytest.raises(Differs, match="args"):
        case.agree("wrong", wrong)


def test_epsilon_is_that_of_the_coarsest_dtype_inside():
    inner = jax.jit(lambda x: x.astype(jnp.bfloat16).astype(x.dtype))
    assert Case(inner, (X,)).eps == float(jnp.finfo(jnp.bfloat16).eps)
    assert Case(jnp.sin, (X,)).eps == float(jnp.finfo(jnp.float32).eps)


def test_float64(x64):
    assert Case(jnp.sin, (X.astype(np.float64),)).eps == np.finfo(np.float64).eps
    for name in ("jit", "vmap", "forward"):
        assert row(name, jnp.square, X.astype(np.float64))[0] in {"PASS", "NOTE"}


def test_a_report_prints_and_is_json():
    report = conformance(clips()[0], X)
    assert json.loads(report.to_json()) == report.to_dict()
    assert report.to_dict()["verdict"] == "FAIL"
    assert [row["name"] for row in report.to_dict()["rows"]] == list(ROWS)
    for printed in (str(report), report._repr_html_()):
        assert all(name in printed for name in ROWS)
        assert "FAIL: 8 PASS, 1 FAIL, 2 NOTE, 2 SKIP" in printed
    assert "<span" in report._repr_html_()
    assert conformance(partial(jnp.sin), X).op == "partial"


def test_the_plugin_loads_without_jax():
    code = "import sys, fbp.pytest_plugin; sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.conformance(lambda x, y, index: x[index] * y[index], lambda: (X, X + 1, np.array([0, 2])))
def test_the_fixture_in_this_suite(conformance):
    assert conformance.check().verdict in {"PASS", "NOTE"}


def run(pytester, text, *arguments):
    pytester.makepyfile("import jax, jax.numpy as jnp, numpy as np, pytest\nX = np.ones(8, np.float32)\n" + text)
    return pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider", *arguments)


def test_one_test_per_row(pytester):
    text = """
@jax.custom_vjp
def op(x):
    return x * x

op.defvjp(lambda x: (x * x, x), lambda x, d: (jnp.clip(2 * x * d, -1, 1),))

@pytest.mark.conformance(op, lambda: (X,))
def test_op(conformance):
    conformance.check()
"""
    found = run(pytester, text, "-v", "-rfs")
    found.assert_outcomes(passed=10, failed=1, skipped=2)
    found.stdout.fnmatch_lines_random(
        [
            "*::test_op[[]vmap] PASSED*",
            "*::test_op[[]reuse] FAILED*",
            "reuse: the pullback is not linear in the cotangent*",
            "*SKIPPED*no array of integers, booleans or keys among the arguments",
        ]
    )
    assert "Traceback" not in found.stdout.str()


def test_misuse_is_a_usage_error(pytester):
    text = """
def test_unmarked(conformance):
    conformance.check()

@pytest.mark.conformance(jnp.sin, (X,), "eager")
def test_three(conformance):
    conformance.check()

@pytest.mark.conformance(jnp.sin, X)
def test_no_tuple(conformance):
    conformance.check()
"""
    found = run(pytester, text, "-k", "unmarked or eager")
    found.assert_outcomes(errors=2, failed=1)
    found.stdout.fnmatch_lines(
        [
            "*UsageError: test_unmarked takes conformance and has no operation to check; mark it @pytest.mark.conf*",
            "*UsageError: test_three*must be marked @pytest.mark.conformance(op, make_args)*got conformance(*",
            "*UsageError: the arguments of an operation must be a tuple, got array*",
        ]
    )


def test_a_marked_test_that_checks_nothing(pytester):
    found = run(pytester, "@pytest.mark.conformance(jnp.sin, (X,))\ndef test_op():\n    pass\n")
    assert found.ret != 0
    output = found.stdout.str() + found.stderr.str()
    assert "test_op has the mark conformance but checks nothing; write def test_op(conformance)" in output
