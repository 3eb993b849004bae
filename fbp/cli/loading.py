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
        raise FbpError(f"a function must be named package.module:name, got {spec!r}; e.g. my_rules:my_grad")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:
        raise FbpError(
            f"{module_name} must be a module that can be imported, got {describe_exception(error)}; "
            f"try python -c 'import {module_name}'"
        ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            public = [each for each in vars(value) if not each.startswith("_")]
            raise unknown_name(f"name in {module_name}", part, public)
        value = getattr(value, part)
    return value


def load_arguments(spec: str) -> tuple[Any, ...]:
    """The arguments that `package.module:make_args` names: a tuple, or a function without arguments that gives one.

    Args:
        spec: as in `load`.

    Raises:
        FbpError: it is neither.
    """
    value = load(spec)
    if callable(value):
        try:
            value = value()
        except Exception as error:
            raise FbpError(
                f"{spec} must give the arguments when it is called without any, got {describe_exception(error)}; "
                "return a tuple, e.g. (x,)"
            ) from error
    if not isinstance(value, tuple):
        raise FbpError(f"{spec} must give a tuple of arguments, got {type(value).__name__}; return e.g. (x,)")
    return value
