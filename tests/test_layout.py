"""The shape of the package: which way imports point, who may differentiate, what is public and documented."""

import ast
import graphlib
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from surface import exported, public

import fbp

ROOT = Path(fbp.__file__).parent
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path for path in ROOT.rglob("*.py")
}

ORDER = (
    {"paths"},
    {"errors"},
    {"interrupts", "streams", "memory", "run_folder"},
    {"registry", "precision", "partition", "data", "terminal", "script", "cost", "serialize", "environment"},
    {"report", "tensors"},
    {"cotangent", "pairs"},
    {"typing"},
    {"activations", "initializers"},
    {"losses", "theory"},
    {"layers"},
    {"combinators"},
    {"tree", "networks", "description"},
    {"chunks"},
    {"backprop", "calibration", "leaf_norms"},
    {"functional"},
    {"tracing", "config", "quantities", "graph"},
    {"verify"},
    {"flow", "training"},
    {"studies"},
    {"cli", "pytest_plugin"},
    {"__main__"},
)
"""Each imports from the sets before its own, and from itself."""
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

AUTODIFF = {
    *("grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose"),
    *("jacobian", "jacfwd", "jacrev", "hessian"),
}
MAY_DIFFERENTIATE = {
    "verify": "the judge",
    "training/step": 'the mode gradient="autodiff"',
    "leaf_norms": "it measures losses that are not ours",
    "graph/fallback": "a primitive without a local rule, where the caller asks for it",
}

each_module = pytest.mark.parametrize("name", [name for name in sorted(MODULES) if name != "__init__"])


def tree_of(name) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(tree, package):
    """The modules of fbp that a module imports, anywhere in it, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fbp")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{package}: imports are absolute, line {node.lineno}"
            if node.module and node.module.split(".")[0] == "fbp":
                yield from ([node.module] if node.module != "fbp" else [f"fbp.{alias.name}" for alias in node.names])


@each_module
def test_imports_point_one_way(name):
    top = name.split("/")[0]
    assert top in RANK, f"say in ORDER where {top} stands"
    for target in imported(tree_of(name), name):
        other = target.split(".")[1] if "." in target else "fbp"
        assert other == top or RANK.get(other, len(ORDER)) < RANK[top], f"{name} imports {target}"


def test_data_depends_on_errors_and_memory_only():
    for name in MODULES:
        if name.split("/")[0] == "data":
            assert {target.split(".")[1] for target in imported(tree_of(name), name)} <= {"data", "errors", "memory"}


@each_module
def test_nobody_but_the_judges_differentiates(name):
    uses = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Attribute) and node.attr in AUTODIFF:
            uses.add(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            uses |= {alias.name for alias in node.names} & AUTODIFF
    assert not uses or any(name == place or name.startswith(f"{place}/") for place in MAY_DIFFERENTIATE), uses


def imported_modules(name):
    """The modules that a module imports, by their names in MODULES; a package only for names of its own."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fbp."):
            package = node.module.removeprefix("fbp.").replace(".", "/")
            inner = (f"{package}/{alias.name}" for alias in node.names)
            yield from (module if module in MODULES else package for module in inner)


def test_no_module_imports_itself_in_a_circle():
    """Nor inside functions, nor behind TYPE_CHECKING."""
    assert list(graphlib.TopologicalSorter({name: set(imported_modules(name)) for name in MODULES}).static_order())


@each_module
def test_an_error_says_what_must_hold_what_was_received_and_what_to_do(name):
    for node in ast.walk(tree_of(name)):
        is_error = isinstance(node, ast.Call) and ast.unparse(node.func) in ("FbpError", "Diverged")
        if is_error and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            constants = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            message = "".join(part for part in constants if isinstance(part, str))
            if not message.startswith("unknown "):
                assert all(part in message for part in (" must ", "got ", "; ")), f"line {node.lineno}: {message}"


@each_module
def test_module_is_documented_and_short(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def is_documented(thing) -> bool:
    doc = inspect.getdoc(thing)
    # A dataclass without a docstring is given its signature.
    return bool(doc) and not doc.startswith(f"{getattr(thing, '__name__', '')}(")


def test_every_public_name_is_documented():
    things = [(n, thing) for n, thing in public() if inspect.ismodule(thing) or callable(thing)]
    missing = [name for name, thing in things if not is_documented(thing)]
    for name, thing in things:
        if inspect.isclass(thing):
            # A field whose default is a function is documented among the attributes of its class.
            fields = getattr(thing, "__annotations__", ())
            members = [m for m in vars(thing) if m[0] != "_" and m not in fields and callable(getattr(thing, m))]
            missing += [f"{name}.{m}" for m in members if not is_documented(getattr(thing, m))]
    assert len(things) > 50
    assert not missing


def test_the_stub_says_what_is_public():
    """The stub imports each name as itself, which re-exports it for type checkers, too."""
    stub = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    aliases = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases)
    assert {alias.name for alias in aliases} == set(fbp.__all__)
    assert importlib.metadata.version("fbp") == fbp.__version__


@pytest.mark.parametrize(
    "name",
    [
        "layers",
        "functional",
        "training",
        "verify",
        "flow",
        "report",
        "studies",
        "data",
        "combinators",
        "theory",
        "graph",
    ],
)
def test_packages_say_what_they_give(name):
    package = importlib.import_module(f"fbp.{name}")
    public_names = {n for n, thing in vars(package).items() if n[0] != "_" and not inspect.ismodule(thing)}
    assert exported(package)
    assert public_names == set(exported(package))


@pytest.mark.parametrize("module", ["fbp", "fbp.cli"])
def test_importing_does_not_import_jax(module):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'matplotlib', 'optax')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
