"""Functions named on the command line: package.module:name."""

import importlib
import sys
from pathlib import Path
from typing import Any

from fbp.errors import FbpError, describe_exception, unknown_name


def load(spec: str) -> Any:
    """What `package.module:name` names; modules of the current folder are found too.

    Args:
        spec: a module's dotted name, a colon, and a name in it (with dots for an attribute of a class).

    Raises:
        FbpError: the spec has another form, the module cannot be imported, or has no such name.
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise FbpError(f"a function is named package.module:name; received {spec!r}; e.g. my_rules:my_grad")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise FbpError(
            f"{module_name} is a module that can be imported; importing it raised {describe_exception(error)}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = [each for each in vars(found) if not each.startswith("_")]
            raise unknown_name(f"name in {module_name}", part, public)
        found = getattr(found, part)
    return found


def arguments(spec: str) -> tuple[Any, ...]:
    """The arguments that `package.module:make_args` names: a tuple, or a function without arguments that gives one.

    Args:
        spec: as in `load`.

    Raises:
        FbpError: it is neither.
    """
    found = load(spec)
    if callable(found):
        try:
            found = found()
        except Exception as error:
            raised = describe_exception(error)
            raise FbpError(f"{spec} gives the arguments when it is called; it raised {raised}") from error
    if not isinstance(found, tuple):
        raise FbpError(f"{spec} gives a tuple, the arguments in order; received {type(found).__name__}; return (x,)")
    return found
