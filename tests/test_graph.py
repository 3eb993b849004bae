"""Graphs of functions: values and gradients on every edge, what is inside of a node, taps, and clear refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import fbp
from fbp.errors import FbpError

trace, taps, value_and_grad = fbp.graph.trace, fbp.graph.taps, fbp.graph.value_and_grad
pytestmark = pytest.mark.usefixtures("standard_promotion")


def shop(coat, trousers, number, discount):
    total = coat + trousers * number
    pay = total * discount
    return pay  # noqa: RET504 - the picture shows the name


def test_shop(x64):
    g = trace(shop, 400.0, 300.0, 2, 0.7).backward()
    shown = {v.name: (float(v.value), round(float(v.gradient), 12)) for v in g.values}
    assert shown == {
        "coat": (400.0, 0.7),
        "trousers": (300.0, 1.4),
        "number": (2.0, 210.0),
        "discount": (0.7, 1000.0),
        "mul": (600.0, 0.7),
        "total": (1000.0, 0.7),
        "pay": (700.0, 1.0),
    }
    product, total, pay = g.nodes
    assert [g.values[i].name for i in product.inputs] == ["trousers", "number"]
    assert [round(float(d), 12) for d in product.d_inputs] == [1.4, 210.0]
    assert (pay.primitive, pay.source.text, pay.source.function) == ("mul", "pay = total * discount", "shop")
    assert total.formula == "y = x + z:  dx = dy,  dz = dy"


def test_a_network_layer_by_layer(x64):
    """The 2-3-2-1 network: the graph's deltas are those of the layers' own backward passes."""
    net, loss = fbp.mlp((2, 3, 2, 1), activation="sigmoid"), fbp.HalfSquaredError(activation="sigmoid")
    params = fbp.cast(net.init(jax.random.key(0))[0], jnp.float64)
    X, Y = jnp.array([[0.3, -1.0]]), jnp.array([[1.0]])
    g = trace(lambda params: fbp.loss_value(net, loss, params, X, Y), params).backward()
    deltas = [node for graph in g.walk() for node in graph.nodes if node.primitive == "dot_general"]
    assert len(deltas) == 3
    _, d_params = fbp.value_and_grad(net, loss)(params, X, Y)
    inputs = [g.values[i] for i in g.inputs if g.values[i].kind == "input"]
    for value, expected in zip(inputs, jax.tree.leaves(d_params), strict=True):
        assert np.allclose(value.gradient, expected, rtol=1e-12, atol=0), value.name
    assert [value.name for value in inputs[:2]] == ["params[0]['W']", "params[0]['b']"]


def test_gradients_of_the_edges_add_up_to_that_of_the_value(x64):
    def f(x):
        y = jnp.sin(x)
        return jnp.sum(y * y + jnp.exp(y) * x)

    g = trace(f, np.linspace(0.0, 1.0, 4)).backward()
    for k, value in enumerate(g.values):
        edges = [d for node in g.nodes for i, d in zip(node.inputs, node.d_inputs, strict=True) if i == k]
        if edges:
            assert np.allclose(sum(edges), value.gradient, rtol=1e-14), value.name
    assert np.allclose(g["x"].gradient, jax.grad(f)(np.linspace(0.0, 1.0, 4)), rtol=1e-14)


def test_no_gradients_before_backward():
    g = trace(shop, 400.0, 300.0, 2, 0.7)
    assert all(v.value is not None and v.gradient is None for v in g.values)
    assert g.backward() is g
    assert g["pay"].gradient == 1


def recur(W, x):
    hidden = jnp.tanh(W @ x)

    def step(h, _):
        z = W @ h
        h = checkpoint_name(jax.nn.relu(z), "rectified")
        return h, h

    h, _ = lax.scan(step, hidden, None, length=3)
    h = lax.cond(jnp.sum(h) > 0, jnp.sin, jnp.cos, h)
    return jnp.sum(jax.checkpoint(lambda h: jnp.exp(jnp.sin(h)))(h))


W, x = np.array([[0.5, 0.2], [0.1, 0.7]]), np.array([1.0, 2.0])


def test_graphs_inside_of_nodes(x64):
    g = trace(recur, W, x).backward()
    loop = next(node for node in g.nodes if node.primitive == "scan")
    (step,) = loop.parts
    z = step["z"]
    assert (loop.steps, z.value.shape, z.gradient.shape, z.shape) == (3, (3, 2), (3, 2), (2,))
    hidden, states = g["hidden"].value, [g["hidden"].value]
    for _ in range(3):
        states.append(np.maximum(np.asarray(W) @ states[-1], 0))
    assert np.allclose(step["rectified"].value, states[1:])
    assert np.allclose(hidden, np.tanh(np.asarray(W) @ np.asarray(x)))
    choice = next(node for node in g.nodes if node.primitive == "cond")
    taken, other = choice.parts[1], choice.parts[0]
    assert taken.nodes[0].primitive == "sin"
    assert taken.values[taken.nodes[0].outputs[0]].gradient is not None
    assert other.values[other.nodes[0].outputs[0]].value is None
    again = next(node for node in g.nodes if node.primitive == "remat2").parts[0]
    assert all(value.gradient is not None for value in again.values)
    relu = next(node for node in step.nodes if node.primitive == "custom_jvp_call")
    assert relu.name == "rectified"
    assert all(node.d_inputs == (None,) * len(node.inputs) for part in relu.parts for node in part.nodes)
    assert np.allclose(g["W"].gradient, jax.grad(recur)(W, x))


def test_a_loop_of_unknown_length_is_counted(x64):
    def root(a):
        return lax.while_loop(lambda s: jnp.abs(s * s - a) > 1e-12, lambda s: 0.5 * (s + a / s), a)

    g = trace(root, 2.0).backward()
    (loop,) = g.nodes
    assert loop.steps == 5
    assert np.isclose(g["a"].gradient, 0.5 / np.sqrt(2), rtol=1e-9)
    with pytest.raises(FbpError, match="while loop must have a fixed number of steps"):
        value_and_grad(root)(2.0)


def test_constants_have_gradients_too():
    scale = np.arange(3.0, dtype=np.float32)
    g = trace(lambda x: jnp.sum(x * scale), np.ones(3, np.float32)).backward()
    assert np.array_equal(g["constant"].gradient, np.ones(3))


def test_seed():
    g = trace(lambda x: (jnp.sin(x), x**2), 2.0)
    with pytest.raises(FbpError, match="must return one real number for backward"):
        g.backward()
    assert np.isclose(g.backward((1.0, 10.0))["x"].gradient, np.cos(2) + 40)
    with pytest.raises(FbpError, match="seed must have the shapes"):
        g.backward(1.0)


# Taps


def test_taps_of_a_function_that_was_not_written_for_it(x64):
    found = jax.jit(taps(recur, ["hidden", "rectified", "exp"]))(W, x)
    assert sorted(found) == ["hidden", "lambda/exp", "scan/rectified"]

    def with_offsets(d_hidden, d_rectified):
        hidden = jnp.tanh(W @ x) + d_hidden

        def step(h, d):
            h = jax.nn.relu(W @ h) + d
            return h, h

        h, seen = lax.scan(step, hidden, d_rectified)
        h = lax.cond(jnp.sum(h) > 0, jnp.sin, jnp.cos, h)
        return jnp.sum(jnp.exp(jnp.sin(h))), (hidden, seen)

    by_hand = jax.grad(with_offsets, (0, 1), has_aux=True)
    gradients, values = by_hand(jnp.zeros(2), jnp.zeros((3, 2)))
    for key, value, gradient in zip(("hidden", "scan/rectified"), values, gradients, strict=True):
        assert np.allclose(found[key].value, value, rtol=1e-14)
        assert np.allclose(found[key].gradient, gradient, rtol=1e-14)


def test_taps_by_primitive_line_scope_and_function():
    def f(x):
        with jax.named_scope("first"):
            y = jnp.sin(x)
        with jax.named_scope("second"):
            return jnp.sin(y) * 2.0

    line = f.__code__.co_firstlineno + 2
    value = np.float32(0.3)
    assert list(taps(f, "sin")(value)) == ["first/y", "second/sin"]
    assert list(taps(f, "second/*")(value)) == ["second/sin", "second/mul"]
    assert list(taps(f, f"test_graph.py:{line}")(value)) == ["first/y"]
    assert list(taps(f, lambda step: step.source.function.endswith("f") and step.primitive == "mul")(value)) == [
        "second/mul"
    ]


def test_taps_see_what_does_not_depend_on_the_arguments():
    def f(x):
        fixed = jnp.exp(jnp.arange(3.0))
        return jnp.sum(fixed) * x

    assert np.array_equal(taps(f, "fixed")(2.0)["fixed"].gradient, [2, 2, 2])


def test_no_gradient_is_made_up_inside_of_a_rule():
    found = taps(lambda x: jnp.sum(jax.nn.relu(x)), "*max")(jnp.ones(2))
    (tap,) = found.values()
    assert tap.gradient is None
    assert np.array_equal(tap.value, [1, 1])


def test_taps_cost_no_more_than_the_gradient(optimized):

    def loss(W, x):
        def step(h, W):
            z = h @ W
            return jnp.tanh(z), None

        return jnp.sum(lax.scan(step, x, W)[0])

    shapes = jax.ShapeDtypeStruct((20, 16, 16), "float32"), jax.ShapeDtypeStruct((8, 16), "float32")
    tapped = fbp.cost.compile(taps(loss, "z"), shapes)
    gradient = fbp.cost.compile(jax.grad(loss), shapes)
    assert tapped.temporary_bytes <= gradient.temporary_bytes


# value_and_grad


def test_arguments_and_structures_as_in_jax(x64):
    def f(params, n, *, scale):
        return scale * jnp.sum(params["a"] ** n) + params["b"][0], {"n": n, "a": params["a"]}

    params = {"a": jnp.arange(3.0), "b": [jnp.array(2.0), jnp.array(1.0)]}
    for argnums in (0, (0,), -2):
        ours = value_and_grad(f, argnums, has_aux=True)(params, 3, scale=2.0)
        theirs = jax.value_and_grad(f, argnums, has_aux=True)(params, 3, scale=2.0)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))


def test_under_other_transformations(x64):
    f = lambda x: jnp.sum(lax.scan(lambda s, v: (jnp.tanh(s * v), s), x[0], x)[1] ** 2)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    gradient = lambda differentiate: lambda x: differentiate(f)(x)[1]
    ours, theirs = gradient(value_and_grad), gradient(jax.value_and_grad)
    for transform in (jax.vmap, lambda g: jax.vmap(jax.jit(g)), lambda g: jax.vmap(jax.jacfwd(jax.jacrev(g)))):
        assert np.allclose(transform(ours)(xs), transform(theirs)(xs), rtol=1e-12, atol=1e-14)
    twice = value_and_grad(lambda x: jnp.sum(value_and_grad(f)(x)[1] ** 2))
    assert np.allclose(twice(xs[0])[1], jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))(xs[0]), rtol=1e-12)


def test_a_step_has_no_derivative_and_a_kink_that_of_jax(x64):
    for f in (jnp.abs, jax.nn.relu, lambda x: jnp.maximum(x, 0.0), jnp.sign, jax.nn.leaky_relu, jax.nn.relu6):
        assert value_and_grad(f)(0.0)[1] == jax.grad(f)(0.0)


def test_scalars_broadcast(x64):
    f = lambda low, x, high: jnp.sum(lax.clamp(low, x, high) * jnp.arange(3.0))
    gradients = value_and_grad(f, (0, 1, 2))(-1.0, jnp.array([-2.0, 0.5, 3.0]), 1.0)[1]
    assert [np.asarray(g).tolist() for g in gradients] == [0.0, [0.0, 1.0, 0.0], 2.0]


def unknown(x):
    low, middle, high = jnp.zeros_like(x), jnp.full_like(x, 2), jnp.zeros_like(x)
    return jnp.sum(lax.linalg.tridiagonal_solve(low, middle, high, x[:, None]))


def test_an_array_that_an_inner_function_holds():
    held = jnp.arange(3.0)
    g = trace(lambda x: jnp.sum(jax.jit(lambda x: x * held)(x)), jnp.ones(3)).backward()
    (inside,) = next(node for node in g.nodes if node.primitive == "jit").parts
    assert np.array_equal(g["x"].gradient, held)
    assert np.array_equal(inside["constant"].value, held)


def test_a_branch_that_is_known_while_something_is_traced():
    for known in (np.bool_(True), jnp.asarray(True)):
        f = lambda x, known=known: lax.cond(known, jnp.sin, jnp.cos, x)
        assert np.allclose(jax.jit(value_and_grad(f))(2.0)[1], np.cos(2.0))


def test_a_rule_that_calls_its_own_function_on_tangents():
    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvp(lambda primals, tangents: (double(*primals), double(*tangents)))
    assert value_and_grad(double)(3.0)[1] == 2


def test_a_name_beside_another_use_is_a_node():
    def f(x):
        y = jnp.sin(x)
        return checkpoint_name(y, "wave") * y

    g = trace(f, 1.0).backward()
    assert [node.name for node in g.nodes] == ["y", "wave", "mul"]
    assert np.allclose(g["wave"].gradient, np.sin(1.0))
    assert np.allclose(g["y"].gradient, 2 * np.sin(1.0))


def test_a_name_that_nothing_else_uses_is_that_of_the_node():
    def f(x):
        return jnp.exp(checkpoint_name(jnp.sin(x), "wave"))

    g = trace(f, 1.0).backward()
    assert [(node.name, node.primitive) for node in g.nodes] == [("wave", "sin"), ("exp", "exp")]
    assert np.allclose(taps(f, "wave")(1.0)["wave"].gradient, g["wave"].gradient)
    assert np.allclose(g["wave"].gradient, np.exp(np.sin(1.0)))


def test_gradients_of_chosen_arguments():
    g = trace(shop, 400.0, 300.0, 2, 0.7, argnums=(0, -1)).backward()
    gradients = [g[name].gradient for name in ("coat", "trousers", "number", "discount")]
    assert [None if x is None else round(float(x), 3) for x in gradients] == [0.7, None, None, 1000.0]


def test_a_primitive_without_a_rule():
    x = jnp.arange(1.0, 4.0)
    with pytest.raises(FbpError, match=r"primitive 'tridiagonal_solve' must have a local rule, got none at test_graph"):
        value_and_grad(unknown)(x)
    assert np.allclose(value_and_grad(unknown, fallback=True)(x)[1], 0.5)
    g = trace(unknown, x, fallback=True).backward()
    assert [node.primitive for node in g.nodes if node.by_autodiff] == ["tridiagonal_solve"]
    assert np.allclose(g["x"].gradient, 0.5)


REFUSED = [
    (
        lambda: value_and_grad(lambda x: x if x > 0 else -x)(1.0),
        "must be a function that JAX can trace at its arguments, got TracerBoolConversionError.* at test_graph.py:",
    ),
    (
        lambda: value_and_grad(shop)(1.0),
        r"arguments must fit shop\(coat, trousers, number, discount\), got 1, missing a required argument: 'trousers'",
    ),
    (lambda: trace(shop, 1.0), "missing a required argument: 'trousers'"),
    (lambda: taps(shop, "pay")(1.0, 2.0, 3.0, 4.0, 5.0), "got 5, too many positional arguments"),
    (lambda: trace(shop, 1.0, 2.0, 3, 4.0, argnums=4), "argnums must name one of the 4 positional arguments, got 4"),
    (lambda: trace(jnp.sin, 1j, argnums=0), "must be real floating point, got complex"),
    (lambda: value_and_grad(jnp.sin, 1)(1.0), "argnums must name one of the 1 positional arguments, got 1"),
    (lambda: value_and_grad(jnp.sin)(1), "must be real floating point, got int32"),
    (lambda: value_and_grad(jnp.sin)(1j), "must be real floating point, got complex64"),
    (lambda: value_and_grad(jnp.sin)("a"), "must be real floating point, got str"),
    (lambda: value_and_grad(jnp.sin)(jnp.ones(2)), r"f must return one real number, got float32 of shape \(2,\)"),
    (lambda: value_and_grad(lambda x: (x, x))(1.0), "f must return one real number, got PyTreeDef"),
    (lambda: value_and_grad(lambda x: x + 1j)(1.0), "f must return one real number, got complex64"),
    (lambda: taps(jnp.sin, "cosine")(1.0), "unknown step 'cosine': did you mean"),
    (lambda: taps(jnp.sin, lambda step: False)(1.0), "unknown step"),
    (
        lambda: taps(lambda x: lax.while_loop(lambda s: s < 9, lambda s: s * 2, x), "*/mul")(1.0),
        "must not be inside of a loop that ends on a condition, got 'while/mul'",
    ),
    (lambda: value_and_grad(lambda k: 1.0)(jax.random.key(0)), "must be real floating point, got key<fry>"),
    (lambda: trace(jnp.sin, 1.0)["y"], "unknown value 'y'"),
    (lambda: trace(recur, W, x).nodes[2].parts[0].backward(), "must be called on the graph of the whole function"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_mistake_is_one_clear_line(call, message):
    with pytest.raises(FbpError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_constants_of_a_program_inside_are_values_of_its_graph():
    g = trace(jax.scipy.special.expi, 1.5).backward()
    held = [value for graph in g.walk() for value in graph.values if value.kind == "constant"]
    assert held
    assert all(value.value is not None for value in held)
