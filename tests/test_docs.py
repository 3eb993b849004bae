"""The documentation: every rule has its derivation, every link leads somewhere, every example runs."""

import re
from pathlib import Path

import pytest

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
    *fbp.layers.__all__,
    *public_subclasses(fbp.losses, fbp.losses.Loss),
    *public_subclasses(fbp.combinators, fbp.combinators.Combinator),
    *activation,
]


def anchors(page):
    """The fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} leads out of the project"
        assert not fragment or found.suffix != ".md" or fragment in anchors(found), f"{target} names no heading"


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda page: page.name)
def test_paths_of_the_code_exist(page):
    named = re.findall(r"`((?:fbp|tests)/[\w./]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "page", [page for page in DERIVATIONS if "```python" in page.read_text()], ids=lambda p: p.name
)
def test_examples_run(page):
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(example, page.name, "exec"), {})
