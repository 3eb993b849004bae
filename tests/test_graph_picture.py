"""Pictures of graphs: what folds, that nothing overlaps, few crossings, and numbers that are those of the graph."""

import importlib.util
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from test_graph import W, recur, shop, unknown, x

import fbp
from fbp.errors import FbpError
from fbp.graph.picture.arrange import TITLE, arrange
from fbp.graph.picture.boxes import open_at_first
from fbp.graph.picture.chain_rule import write_out
from fbp.graph.picture.heights import spread
from fbp.graph.picture.levels import find_boxes
from fbp.graph.picture.numbers import lines, short, summarize
from fbp.graph.picture.ordering import Link, count_crossings, order_columns
from fbp.graph.picture.plan import make_plan

trace = fbp.graph.trace
pytestmark = pytest.mark.usefixtures("standard_promotion")
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def load_pictures():
    """The script that draws the pictures of the docs."""
    spec = importlib.util.spec_from_file_location("graphs", PICTURES / "graphs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block(p, x):
    with jax.named_scope("block"):
        with jax.named_scope("attention"):
            scores = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
            x = x + scores @ (x @ p["v"])
        with jax.named_scope("mlp"):
            x = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
    return x


def transformer(params, x):
    for p in params:
        x = block(p, x)
    return jnp.mean(x**2)


def transformer_arguments(depth):
    rng = np.random.default_rng(0)
    shapes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "up": (4, 12), "down": (12, 4)}
    draw = lambda shape: 0.1 * rng.normal(size=shape).astype(np.float32)
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(depth)], draw((3, 4))


def flat(x):
    for _ in range(700):
        x = jnp.sin(x) * 1.01
    return x


def attend(x):
    """Several values between the same boxes, a value that is read often, and calls in calls."""
    both = jax.jit(lambda a, b: (a * b, jax.nn.relu(a + b), b))
    a, b, c = both(x, jnp.sin(x))
    d, e, _ = both(a + x, b * x)
    return jnp.sum(a * b * c * d * e + x)


GRAPHS = {
    "shop": (shop, (400.0, 300.0, 2, 0.7)),
    "recur": (recur, (W, x)),
    "transformer": (transformer, transformer_arguments(3)),
    "attend": (attend, (np.arange(1.0, 3.0),)),
    "flat": (flat, (0.5,)),
    "expi": (jax.scipy.special.expi, (1.5,)),
    "hessian": (lambda x: jnp.sum(jax.hessian(lambda x: jnp.sum(jnp.sin(x) * x[::-1]))(x)), (np.ones(3, np.float32),)),
    "identity": (lambda x: x, (1.0,)),
    "constant": (lambda x: 2.0, (1.0,)),
    "choice of while": (
        lambda x: jax.lax.while_loop(lambda s: s < 5, lambda s: jax.lax.cond(s > 1, jnp.exp, jnp.sin, s) + x, x),
        (1.5,),
    ),
}


@pytest.fixture(scope="module")
def graphs():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {name: trace(f, *args).backward() for name, (f, args) in GRAPHS.items()}


def all_numbers(level):
    return {box.number for box in level.walk() if box.level is not None}


# Folding


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_is_in_one_box_of_its_program(graphs, name):
    level = find_boxes(graphs[name])
    drawn = [id(box.nodes[0]) for box in level.walk() if box.kind == "node"]
    assert sorted(drawn) == sorted(id(node) for graph in graphs[name].walk() for node in graph.nodes)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_first_view_is_taken_in_at_a_glance(graphs, name):
    level = find_boxes(graphs[name])
    opened = open_at_first(level)

    def count(level):
        return sum(count(box.level) + 1 if box.number in opened else 1 for box in level.boxes if box.kind != "port")

    assert count(level) <= 40
    assert all(len(box.level.boxes) <= 80 for box in level.walk() if box.level is not None)


def test_scopes_fold_and_repeated_ones_are_told_apart(graphs):
    level = find_boxes(graphs["transformer"])
    assert [box.name for box in level.boxes if box.kind == "group"] == ["block"] * 3
    first = next(box for box in level.boxes if box.kind == "group").level
    assert [box.name for box in first.boxes if box.kind == "group"] == ["attention", "mlp"]
    # The weights are drawn where they are read.
    weights = [box.name for box in first.walk() if box.kind == "input"]
    assert sorted(weights) == [f"params[0]['{name}']" for name in ("down", "k", "q", "up", "v")]
    assert [box.name for box in level.boxes if box.kind == "input"] == ["x"]


def test_functions_of_jax_stay_closed_at_first():
    g = trace(lambda x: jnp.sum(jax.nn.relu(x) + jax.jit(lambda y: y * 2, inline=False)(x)), np.ones(2, np.float32))
    level = find_boxes(g)
    relu = next(box for box in level.boxes if box.name == "relu")
    assert relu.level is not None
    assert relu.number not in open_at_first(level)
    assert relu.number in open_at_first(level, depth=1)


def test_parameters_of_a_call_are_one_box():
    params = {name: np.float32(k) for k, name in enumerate("abcd")}
    layer = jax.jit(lambda p, x: p["a"] * x + p["b"] * p["c"] - p["d"])
    level = find_boxes(trace(lambda params, x: layer(params, x), params, 2.0).backward())
    merged = next(box for box in level.boxes if box.kind == "inputs")
    assert (merged.name, len(merged.makes)) == ("params", 4)
    (edge,) = [edge for edge in level.edges if edge.source is merged]
    assert [float(wire.gradient) for wire in edge.wires] == [2, 2, 1, -1]


def test_what_a_group_reads_carries_the_gradient_of_all_readers_in_it(x64):
    def f(x):
        with jax.named_scope("inside"):
            y = x * x * jnp.sin(x)
        return y + x

    level = find_boxes(trace(f, 1.5).backward())
    (edge,) = [e for e in level.edges if e.target.kind == "group"]
    assert np.isclose(edge.wires[0].gradient, jax.grad(lambda x: x * x * jnp.sin(x))(1.5), rtol=1e-12)


# Layout


def rectangles(arranged, left=0.0, top=0.0):
    """Of every level that is seen its boxes and labels: left, top, width, height."""
    column = {item: c for c, items in enumerate(arranged.plan.columns) for item in items}
    own = {}
    for item, (width, height) in enumerate(arranged.sizes):
        c = column[item]
        middle = left + arranged.left[c] + arranged.widths[c] / 2
        own[item] = (middle - width / 2, top + arranged.y[item] - height / 2, width, height)
    yield arranged, own
    for item, inner in enumerate(arranged.inside):
        if inner is not None:
            yield from rectangles(inner, own[item][0], own[item][1] + TITLE)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("state", ["closed", "first", "open"])
def test_nothing_overlaps_and_edges_go_forward(graphs, name, state):
    level = find_boxes(graphs[name])
    opened = {"closed": set(), "first": open_at_first(level), "open": all_numbers(level)}[state]
    for arranged, own in rectangles(arrange(make_plan(level), opened)):
        for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(own.values(), 2):
            apart = ax + aw <= bx + 1e-6 or bx + bw <= ax + 1e-6 or ay + ah <= by + 1e-6 or by + bh <= ay + 1e-6
            assert apart or not (aw and bw)
        place = {box.number: k for k, box in enumerate(arranged.plan.level.boxes)}
        for edge in arranged.plan.level.edges:
            source, target = own[place[edge.source.number]], own[place[edge.target.number]]
            assert source[0] + source[2] < target[0]


def crossings(level):
    def count(plan):
        items = order_of(plan)
        return items + sum(count(inner) for inner in plan.inside if inner is not None)

    def order_of(plan):
        # Pairs of joints between the same columns whose ends are in opposite orders.
        height = {item: k for column in plan.columns for k, item in enumerate(column)}
        column = {item: c for c, items in enumerate(plan.columns) for item in items}
        pairs = itertools.combinations(plan.joints, 2)
        return sum(
            column[a.left] == column[b.left]
            and (height[a.left] - height[b.left]) * (height[a.right] - height[b.right]) < 0
            for a, b in pairs
        )

    return count(make_plan(level))


@pytest.mark.parametrize(("name", "most"), [("shop", 0), ("transformer", 6), ("flat", 0), ("recur", 1)])
def test_edges_of_known_graphs_hardly_cross(graphs, name, most):
    assert crossings(find_boxes(graphs[name])) <= most


def test_the_network_of_the_docs_is_drawn_without_a_crossing():
    docs = load_pictures()
    assert crossings(find_boxes(trace(docs.network, *docs.NETWORK))) == 0


def fewest_crossings(left, right, links):
    def cross(upper, lower):
        return sum(
            (upper[a] - upper[c]) * (lower[b] - lower[d]) < 0 for (a, b), (c, d) in itertools.combinations(links, 2)
        )

    orders = [dict(enumerate(order)) for order in itertools.permutations(range(left))]
    others = [
        dict(zip(range(left, left + right), order, strict=True)) for order in itertools.permutations(range(right))
    ]
    return min(cross(upper, lower) for upper in orders for lower in others)


def test_crossings_are_near_the_fewest_possible():
    rng = np.random.default_rng(0)
    found = best = 0
    for _ in range(12):
        links = sorted({(int(a), 4 + int(b)) for a, b in rng.integers(0, 4, size=(8, 2))})
        ends = [v for v in range(4, 8) if any(b == v for _, b in links)]
        columns = order_columns(8, [Link(a, b) for a, b in links], first=range(4), last=ends).columns
        found += count_crossings(columns)
        best += fewest_crossings(4, 4, links)
    assert best <= found <= 1.1 * best


def test_complete_and_planar_layers():
    complete = [Link(a, 3 + b) for a in range(3) for b in range(3)]
    assert count_crossings(order_columns(6, complete).columns) == 9
    shuffled = [Link(k, 2 * k + j) for k in range(1, 8) for j in (1, 0)]
    assert count_crossings(order_columns(16, shuffled).columns) == 0


def test_edges_that_carry_the_same_go_together():
    columns = order_columns(5, [Link(0, k, True) for k in range(1, 5)] + [Link(k, k + 1) for k in range(1, 4)])
    first = [route[0] for route in columns.routes[1:4]]
    assert all(item is first[0] for item in first)


def test_spread_is_isotonic_regression():
    rng = np.random.default_rng(1)
    wanted, weights, apart = rng.normal(size=30), rng.uniform(0.1, 3, 30), rng.uniform(0, 0.3, 29)
    offsets = np.concatenate([[0], np.cumsum(apart)])
    expected = isotonic_regression(wanted - offsets, weights=weights).x + offsets
    assert np.allclose(spread(wanted.tolist(), weights.tolist(), apart.tolist()), expected)


# Numbers


def test_numbers_for_readers():
    assert [short(np.float32(v)) for v in (0.7, 1000.0, -210.0, 1e-9)] == ["0.7", "1000", "−210", "1×10⁻⁹"]
    assert lines(np.array([0.5, -1.25])) == ["\N{FIGURE SPACE}0.50", "−1.25"]
    assert lines(np.array([[1e-4, -2e-4]])) == ["\N{FIGURE SPACE}1\N{FIGURE SPACE}\N{FIGURE SPACE}−2", "×10⁻⁴"]
    assert lines(np.array([1.0, 1e-5])) == ["1".rjust(6, "\N{FIGURE SPACE}"), "1×10⁻⁵"]
    assert lines(np.ones((10, 20))) == ["10×20  ‖14.1‖"]
    assert lines(np.array(True)) == ["true"]
    assert lines(np.array(1 - 2j)) == ["1 − 2i"]
    assert lines(np.array(np.nan)) == ["NaN"]
    assert lines(np.zeros((0, 3))) == ["0×3"]


def test_large_arrays_are_statistics():
    y = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    found = summarize(y)["statistics"]
    assert np.isclose(found["norm"], np.linalg.norm(y), rtol=1e-6)
    assert np.isclose(found["mean"], y.mean(), atol=1e-6)
    counts, edges = np.histogram(y, 24)
    assert found["histogram"] == {"low": edges[0], "high": edges[-1], "counts": counts.tolist()}
    broken = summarize(np.where(np.arange(100) == 3, np.inf, np.arange(100.0)))["statistics"]
    assert broken["max"] == np.inf
    assert sum(broken["histogram"]["counts"]) == 99
    assert "histogram" not in summarize(np.zeros(100))["statistics"]


def chain_rule(f, *args):
    level = find_boxes(trace(f, *args).backward())
    box = next(box for box in level.boxes if box.kind == "node")
    return write_out(box.nodes[0], box.reads, box.makes[0], "f")


def test_the_chain_rule_is_written_out(graphs):
    level = find_boxes(graphs["shop"])
    pay = next(box for box in level.boxes if box.kind == "node" and box.name == "pay")
    assert write_out(pay.nodes[0], pay.reads, pay.makes[0], "pay") == (
        "pay = total · discount = 1000 × 0.7 = 700",
        [
            "d pay/d total = d pay/d pay · discount = 1 × 0.7 = 0.7",
            "d pay/d discount = d pay/d pay · total = 1 × 1000 = 1000",
        ],
    )
    total = next(box for box in level.boxes if box.name == "total")
    assert write_out(total.nodes[0], total.reads, total.makes[0], "pay")[0] == (
        "total = coat + (trousers * number) = 400 + 600 = 1000"
    )


SCALARS = {
    "sin": (jnp.sin, 0.3),
    "cos": (jnp.cos, -0.7),
    "tanh": (jnp.tanh, 0.4),
    "exp": (jnp.exp, -1.5),
    "log": (jnp.log, 2.5),
    "sqrt": (jnp.sqrt, 2.0),
    "square": (jnp.square, -3.0),
    "logistic": (jax.lax.logistic, 0.9),
    "cube": (lambda x: x**3, -2.0),
    "pow": (lambda x, z: x**z, 2.0, -1.5),
    "mul": (lambda x, z: x * z, 2.0, -3.0),
    "div": (lambda x, z: x / z, 2.0, -3.0),
    "sub": (lambda x, z: x - z, 2.0, -3.0),
    "atan2": (jnp.arctan2, 0.5, -2.0),
    "max": (lambda x, z: jnp.maximum(x, z), 2.0, -3.0),
}


def calculate(text):
    """A formula of numbers as the page writes it."""
    text = re.sub(r"log ([\d.]+)", r"log(\1)", text.translate(str.maketrans("×−^", "*-@")).replace("@", "**"))
    text = re.sub(r"(sin|cos) (\(?[-\d.]+\)?)", r"\1(\2)", text)
    text = text.replace("[", "(").replace("]", ")").replace("²", "**2").replace("³", "**3").replace("√", "sqrt")
    return eval(text, vars(math).copy())


@pytest.mark.parametrize("name", SCALARS)
def test_numbers_that_are_written_out_give_the_result(name, x64):
    f, *args = SCALARS[name]
    _, backward = chain_rule(f, *args)
    assert len(backward) == len(args)
    for line, expected in zip(backward, jax.grad(f, tuple(range(len(args))))(*args), strict=True):
        *sides, result = line.split(" = ")
        assert calculate(result) == pytest.approx(float(expected), rel=1e-3, abs=1e-12)
        if len(sides) > 2:
            assert calculate(sides[-1]) == pytest.approx(float(expected), rel=3e-3, abs=1e-12)


def test_a_part_of_a_gradient_is_no_equation(x64):
    (_, backward) = chain_rule(lambda x: x * x, 3.0)
    assert backward == ["d f/d x += d f/d (x * x) · x = 1 × 3 = 3"] * 2


# Files


def test_svg_shows_the_numbers(graphs, tmp_path):
    path = graphs["shop"].draw(tmp_path / "new" / "shop.svg")
    texts = [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.7", "210", "1000", "1.4", "400", "700", "×", "+", "total", "discount"} <= set(texts)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_three_files_are_well_formed(graphs, name, tmp_path):
    svg, html, data = (graphs[name].draw(tmp_path / f"a.{ending}") for ending in ("svg", "html", "json"))
    ElementTree.parse(svg)
    page = html.read_text()
    assert "http:" not in page
    assert "https:" not in page
    json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    content = json.loads(data.read_text())
    assert (content["schema"], content["schema_version"], content["name"]) == ("fbp.graph", 1, graphs[name].name)


def test_json_holds_all_of_the_graph(graphs, tmp_path):
    def check(content, graph):
        assert content["inputs"] == list(graph.inputs)
        assert content["outputs"] == list(graph.outputs)
        for found, value in zip(content["values"], graph.values, strict=True):
            assert (found["name"], found["kind"], found["node"]) == (value.name, value.kind, value.node)
            for key in ("value", "gradient"):
                array = getattr(value, key)
                if array is None:
                    assert found[key] is None
                else:
                    assert np.array_equal(np.array(found[key]["values"], array.dtype), array)
        for found, node in zip(content["nodes"], graph.nodes, strict=True):
            assert (found["key"], found["primitive"], found["formula"]) == (node.key, node.primitive, node.formula)
            assert found["inputs"] == list(node.inputs)
            assert (found["source"]["line"], found["steps"]) == (node.source.line, node.steps)
            assert [d is None for d in found["d_inputs"]] == [d is None for d in node.d_inputs]
            for inner, part in zip(found["parts"], node.parts, strict=True):
                check(inner, part)

    check(json.loads(graphs["recur"].draw(tmp_path / "a.json").read_text()), graphs["recur"])


def test_a_derivative_of_autodiff_is_marked(tmp_path):
    g = trace(unknown, jnp.arange(1.0, 4.0), fallback=True).backward()
    assert "tridiagonal solve *" in g.draw(tmp_path / "a.svg").read_text()


def test_before_backward_there_are_values_alone(tmp_path):
    text = trace(shop, 400.0, 300.0, 2, 0.7).draw(tmp_path / "a.svg").read_text()
    assert ">1000<" in text
    assert 'class="gradient"' not in text


def test_names_are_written_as_text(tmp_path):
    def f(x):
        with jax.named_scope("</script><b>&"):
            return jnp.sin(x) * 2

    g = trace(f, 1.0)
    ElementTree.parse(g.draw(tmp_path / "a.svg"))
    page = g.draw(tmp_path / "a.html").read_text()
    assert page.count("</script>") == 2
    assert "<b>&" not in page.partition('id="data">')[0]


def test_the_pictures_of_the_docs_are_those_of_their_script(tmp_path):
    drawn = load_pictures().draw(tmp_path)
    assert len(drawn) == 3
    for path in drawn:
        assert path.read_text() == (PICTURES / path.name).read_text(), "run docs/pictures/graphs.py"


REFUSED = [
    (lambda g, folder: g.draw(folder / "a.png"), r"a picture must end in .svg, .html or .json, got 'a.png'; "),
    (lambda g, folder: g.draw(folder / "a"), "a picture must end in .svg, .html or .json, got 'a'; "),
    (lambda g, folder: g.draw(folder / "file" / "a.svg"), "a picture must be written where files can be, got .*; use"),
    (lambda g, folder: g.draw(folder / "a.svg", depth=-1), "depth must be a number of levels, got -1; "),
    (lambda g, folder: g.draw(folder / "a.svg", depth=True), "depth must be a number of levels, got True; "),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_mistake_is_one_clear_line(graphs, call, message, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FbpError, match=message) as caught:
        call(graphs["shop"], tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_file_is_written_whole_or_not_at_all(graphs, tmp_path, monkeypatch):
    path = graphs["shop"].draw(tmp_path / "a.html")
    before = path.read_text()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(FbpError, match="No space left on device"):
        graphs["recur"].draw(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
