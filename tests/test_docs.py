"""The documentation: every rule has its derivation, every link leads somewhere, every example runs."""

import doctest
import inspect
import pydoc
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surface import exported, public

import fbp
import fbp.combinators
import fbp.layers
import fbp.losses
from fbp.activations import activation

ROOT = Path(__file__).parent.parent
DERIVATIONS = sorted((ROOT / "docs" / "derivations").glob("*.md"))
PAGES = sorted({*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README.md")})
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def public_subclasses(module, base):
    classes = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, base) and x is not base]
    return [cls.__name__ for cls in classes if not cls.__name__.startswith("_")]


RULES = [
    *exported(fbp.layers),
    *public_subclasses(fbp.losses, fbp.losses.Loss),
    *public_subclasses(fbp.combinators, fbp.combinators.Combinator),
    *activation,
]


def anchors(page):
    """The fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_page(page):
    return page.relative_to(ROOT).as_posix()


def test_the_rules_that_need_a_derivation_are_found():
    assert {"Dense", "BatchNorm", "SoftmaxCrossEntropy", "Repeat", "relu", "softmax"} <= set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_derived(name):
    # As code, with or without arguments: `Dense`, `leaky_relu(alpha)`. The index page does not count.
    mention = re.compile(rf"`{name}[`(]")
    assert any(mention.search(page.read_text()) for page in DERIVATIONS if page.name != "README.md")


def test_the_index_leads_to_every_derivation():
    index = (ROOT / "docs" / "derivations" / "README.md").read_text()
    assert [page.name for page in DERIVATIONS if page.name != "README.md" and f"]({page.name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_relative_links_resolve(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the project"
        assert not fragment or linked.suffix != ".md" or fragment in anchors(linked), f"{target} names no heading"


def test_cited_names_exist():
    pages = [*PAGES, *sorted((ROOT / "fbp").rglob("*.py"))]
    cited = {name for page in pages for name in re.findall(r"`(fbp(?:\.\w+)+)", page.read_text(encoding="utf-8"))}
    assert len(cited) > 20
    assert sorted(name for name in cited if pydoc.locate(name) is None) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_page)
def test_paths_of_the_code_exist(page):
    named = re.findall(r"`((?:fbp|tests|docs|experiments)/[\w./]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=name_page)
def test_examples_of_a_page_run_in_order(page, standard_promotion):
    namespace = {"__name__": page.name}
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(example, page.name, "exec"), namespace)


DOCSTRINGS = {name: inspect.getdoc(thing) or "" for name, thing in public()}
FIRST_CALLS = {
    *("mlp", "Serial", "Dense", "Activation", "LayerNorm", "BatchNorm", "Residual", "Repeat", "Checkpoint"),
    *("Layer", "Combinator", "Loss", "SoftmaxCrossEntropy", "Nonlinearity", "activation", "Initializer", "initializer"),
    *("value_and_grad", "as_function", "log10_gradient_norms", "trace", "lsuv", "with_population_statistics", "cast"),
    *("data.load", "training.fit", "training.evaluate", "training.optimizer", "training.schedule"),
    *("compare", "gradient_norms", "verify.gradient", "verify.vjp", "verify.network", "verify.conformance"),
    *("flow.measure", "flow.grid", "theory.mean_field", "theory.propagation"),
    *("graph.trace", "graph.value_and_grad", "graph.taps"),
}
"""What a user calls first; each shows a runnable example."""


def test_what_is_called_first_has_an_example():
    assert sorted(name for name in FIRST_CALLS if ">>>" not in DOCSTRINGS[name]) == []


@pytest.mark.parametrize("name", [name for name, doc in DOCSTRINGS.items() if ">>>" in doc])
def test_the_example_of_a_docstring_runs(name):
    namespace = {"fbp": fbp, "jax": jax, "jnp": jnp, "np": np, "__name__": name}
    example = doctest.DocTestParser().get_doctest(DOCSTRINGS[name], namespace, name, None, None)
    report = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert not report, "".join(report)
