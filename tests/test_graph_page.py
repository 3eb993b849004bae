"""The page of a graph in a real browser: fold, step, read numbers, keyboard, print, several in one notebook.

It needs `pip install playwright` and a browser: Chromium or Chrome on the PATH, or `playwright install chromium`.
"""

import re
import shutil
import time

import jax
import numpy as np
import pytest
from test_graph_picture import GRAPHS, all_numbers, load_pictures, rectangles, trace

from fbp.graph.picture.arrange import arrange
from fbp.graph.picture.boxes import open_at_first
from fbp.graph.picture.levels import find_boxes
from fbp.graph.picture.plan import make_plan

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = [pytest.mark.usefixtures("standard_promotion")]
WIDE, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        try:
            opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A page of every graph."""
    folder = tmp_path_factory.mktemp("pages")
    docs = load_pictures()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        graphs = {name: trace(f, *args).backward() for name, (f, args) in GRAPHS.items()}
        graphs["network"] = trace(docs.network, *docs.NETWORK).backward()
        for name, graph in graphs.items():
            graph.draw(folder / f"{name}.html")
        graphs["network"].draw(folder / "closed.html", depth=0)
    return folder, graphs


@pytest.fixture
def visit(browser, files):
    """Open a page; it asks for nothing else and raises no error."""
    pages, errors, asked = [], [], []

    def visit(name, viewport=WIDE, **options):
        page = browser.new_page(viewport=viewport, **options)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((files[0] / f"{name}.html").as_uri())
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert errors == []
    assert len(asked) == len(pages)


def box(page, name):
    return page.locator(f'[data-number][aria-label*="{name}"]').first


def seen(page, kind):
    """The numbers on the edges that are not hidden."""
    labels = page.locator(f".label .{kind}").all()
    return sorted(label.text_content() for label in labels if label.is_visible())


def test_a_click_shows_the_numbers_of_a_node(visit):
    page = visit("shop")
    assert not page.locator("#panel").is_visible()
    box(page, "mul node; pay").click()
    text = page.locator("#panel").inner_text()
    assert "d pay/d discount = d pay/d pay · total = 1 × 1000 = 1000" in text
    assert "pay = total * discount" in text
    assert "y = x z: dx = dy z, dz = dy x" in text
    assert page.locator("#panel .value .number").inner_text() == "700"
    box(page, "input; discount").click()
    assert page.locator("#panel .value .number").inner_text() == "0.7"
    assert page.locator("#panel .gradient .number").inner_text() == "1000"


def test_steps_forward_and_back(visit):
    page = visit("shop")
    assert seen(page, "value") == ["0.7", "1000", "2", "300", "400", "600", "700"]
    caption = page.locator("#caption")
    page.get_by_role("button", name="Step").click()
    assert caption.inner_text() == "Forward 1 of 3: trousers * number = 300 × 2 = 600"
    assert seen(page, "value") == ["0.7", "2", "300", "400", "600"]
    assert seen(page, "gradient") == []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert caption.inner_text() == "Backward 1 of 4: d pay/d pay = 1"
    assert seen(page, "gradient") == ["1"]
    page.keyboard.press("ArrowRight")
    assert "d pay/d total = d pay/d pay · discount = 1 × 0.7 = 0.7" in caption.inner_text()
    assert seen(page, "gradient") == ["0.7", "1", "1000"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert seen(page, "gradient") == ["0.7", "0.7", "0.7", "1", "1.4", "1000", "210"]
    assert page.get_by_role("button", name="Step").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert "210" not in seen(page, "gradient")
    page.keyboard.press("Escape")
    assert "210" in seen(page, "gradient")
    assert page.get_by_role("button", name="Back").is_disabled()


def test_play_runs_to_the_end(visit):
    page = visit("shop")
    page.clock.install()
    page.keyboard.press("p")
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "true"
    page.clock.run_for(20_000)
    assert page.locator("#caption").inner_text().startswith("Backward 4 of 4")
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"


def test_boxes_open_and_close(visit):
    page = visit("closed")
    count = lambda: page.locator("[data-number]").count()
    closed = count()
    layer = box(page, "layer 2")
    assert layer.get_attribute("aria-expanded") == "false"
    layer.click()
    assert layer.get_attribute("aria-expanded") == "true"
    assert count() == closed + 3
    page.locator(".open > .title").click()
    assert count() == closed
    layer.focus()
    page.keyboard.press("Enter")
    assert count() == closed + 3
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("3 nodes; layer 2")
    page.locator("#panel").get_by_role("button", name="Close").click()
    assert count() == closed
    page.get_by_role("button", name="Open all").click()
    assert count() == closed + 13
    page.get_by_role("button", name="Close all").click()
    assert count() == closed


def test_steps_pass_through_open_and_closed_boxes(visit):
    page = visit("closed")
    page.keyboard.press("ArrowRight")
    assert page.locator("#caption").inner_text().startswith("Forward 1 of 4: layer 1: a1 = ")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Open all").click()
    for _ in range(13):
        page.keyboard.press("ArrowRight")
    assert page.locator("#caption").inner_text().startswith("Forward 13 of 13: loss = 0.5 · ")
    assert len(seen(page, "gradient")) == 0
    for _ in range(14):
        page.keyboard.press("ArrowRight")
    hidden = page.locator(".no-value, .no-gradient").count()
    assert hidden == 0


@pytest.mark.parametrize("state", ["closed", "first", "open"])
@pytest.mark.parametrize("name", ["shop", "network", "recur", "attend", "transformer", "choice of while"])
def test_the_page_lays_out_as_the_package_does(visit, files, name, state):
    page = visit(name)
    if state != "first":
        page.get_by_role("button", name="Open all" if state == "open" else "Close all").click()
    level = find_boxes(files[1][name])
    opened = {"closed": set(), "first": open_at_first(level), "open": all_numbers(level)}[state]
    expected = {}
    for arranged, own in rectangles(arrange(make_plan(level), opened)):
        for item, shown in enumerate(arranged.plan.level.boxes):
            if shown.kind != "port":
                left, top, width, height = own[item]
                expected[str(shown.number)] = (left + width / 2, top + height / 2)
    # The outline of a box in the units of the picture.
    found = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('[data-number]')].map(group => {
            const rect = group.querySelector(':scope > rect:not(.behind)').getBBox();
            const own = group.getScreenCTM(), all = document.getElementById('moved').getScreenCTM().inverse();
            const point = new DOMPoint(rect.x + rect.width / 2, rect.y + rect.height / 2);
            const there = point.matrixTransform(own).matrixTransform(all);
            return [group.dataset.number, [there.x, there.y]];
        }))"""
    )
    assert set(found) == set(expected)
    for number, place in expected.items():
        assert found[number] == pytest.approx(place, abs=0.5)


def test_the_keyboard_reaches_everything(visit):
    page = visit("shop")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        )
    assert {"Step", "Play", "Smaller", "Larger", "Fit"} <= set(reached)
    assert any(label.startswith("add node; total; total 1000, gradient 0.7") for label in reached)
    box(page, "add node; total").focus()
    page.keyboard.press("Enter")
    assert page.locator("#panel h2").inner_text() == "total"


def test_zoom_and_pan(visit):
    page = visit("shop")
    view = lambda: [float(v) for v in re.findall(r"[-\d.]+", page.locator("#moved").get_attribute("transform"))]
    before = view()
    page.keyboard.press("+")
    assert view()[2] == pytest.approx(before[2] * 1.25)
    page.keyboard.press("0")
    assert view() == pytest.approx(before)
    page.mouse.move(300, 600)
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        f"!document.getElementById('moved').getAttribute('transform').includes('scale({before[2]})')"
    )
    assert view()[2] > before[2]
    page.get_by_role("button", name="Fit").click()
    page.mouse.move(100, 120)
    page.mouse.down()
    page.mouse.move(160, 150, steps=3)
    page.mouse.up()
    assert view()[:2] == pytest.approx([before[0] + 60, before[1] + 30])


def test_large_arrays_have_a_histogram(visit):
    page = visit("flat")
    assert page.locator("[data-number]").count() <= 40
    page = visit("transformer")
    page.get_by_role("button", name="Open all").click()
    box(page, "input; params[0].up").focus()
    page.keyboard.press("Enter")
    assert page.locator("#panel .value td").count() == 4 * 12


def test_dark_and_phone_and_print(visit):
    colour = "getComputedStyle(document.body).backgroundColor"
    assert visit("shop").evaluate(colour) == "rgb(255, 255, 255)"
    assert visit("shop", color_scheme="dark").evaluate(colour) == "rgb(20, 23, 27)"
    page = visit("shop", PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box(page, "add node; total").click()
    picture, panel = (page.locator(place).bounding_box() for place in ("#graph", "#panel"))
    assert panel["y"] > picture["y"] + picture["height"] - 1
    text = page.locator(".label .value").first.bounding_box()
    assert text["height"] >= 9
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#panel").is_visible()
    assert page.locator("#graph").get_attribute("viewBox")


def test_several_in_one_notebook(browser, files):
    frames = files[1]["shop"]._repr_html_() + files[1]["network"]._repr_html_()
    page = browser.new_page(viewport=WIDE)
    page.set_content(f"<body>{frames}</body>")
    first, second = (page.frame_locator("iframe").nth(k) for k in range(2))
    first.get_by_role("button", name="Step").click()
    assert first.locator("#caption").inner_text().startswith("Forward 1 of 3")
    assert second.locator("#caption").inner_text().startswith("Values run forward")
    page.close()


def test_two_thousand_nodes_open_folded_in_two_seconds(browser, tmp_path):
    def deep(params, x):
        for p in params:
            with jax.named_scope("layer"):
                x = jax.nn.gelu(x @ p["W"] + p["b"]) + x
        return (x**2).sum()

    rng = np.random.default_rng(0)
    params = [{"W": rng.normal(size=(8, 8)).astype("f"), "b": rng.normal(size=8).astype("f")} for _ in range(170)]
    g = trace(deep, params, np.ones((2, 8), "f")).backward()
    assert sum(len(graph.nodes) for graph in g.walk()) >= 2000
    path = g.draw(tmp_path / "deep.html")
    assert path.stat().st_size < 6e6
    page = browser.new_page(viewport=WIDE)
    begin = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("#moved [data-number]")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert time.perf_counter() - begin < 2
    assert page.locator("[data-number]").count() <= 40
    page.close()
