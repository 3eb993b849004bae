"""What is public: the names that a package's `__init__` imports as themselves."""

import ast
import inspect
from pathlib import Path

import fbp


def exported(package) -> list[str]:
    """The public names of a package, sorted; none for a module that re-exports nothing."""
    file = Path(package.__file__)
    # The names of fbp itself stand in its stub, from which they are imported when they are first used.
    tree = ast.parse((file.with_suffix(".pyi") if package is fbp else file).read_text(encoding="utf-8"))
    aliases = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return sorted(alias.name for alias in aliases if alias.asname == alias.name)


def public():
    """(name, object) of every public name, the packages' own included."""
    for name in exported(fbp):
        thing = getattr(fbp, name)
        yield name, thing
        for inner in exported(thing) if inspect.ismodule(thing) else ():
            yield f"{name}.{inner}", getattr(thing, inner)
