"""Functions named on the command line: package.module:name."""

import ast
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


def parse_arguments(text: str) -> tuple[Any, ...]:
    """Arguments as they were typed: literals of Python with commas between them, or what `load_arguments` takes.

    Args:
        text: "400.0,300.0,2,0.7", or "package.module:make_args". A list of numbers is an array.

    Raises:
        FbpError: it is neither.
    """
    try:
        values = ast.literal_eval(f"({text},)" if text.strip() else "()")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        if ":" in text and not set(text) & set("[]{}(), "):
            return load_arguments(text)
        raise FbpError(
            "--args must be literals with commas between them or package.module:name of a tuple, "
            f"got {text!r:.60}; e.g. --args 400.0,300.0,2"
        ) from error
    return tuple(map(_make_array, values))


def _make_array(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    import numpy as np

    try:
        return np.asarray(value, np.result_type(*np.asarray(value).ravel(), np.float32))
    except (TypeError, ValueError) as error:
        raise FbpError(
            f"a list in --args must hold numbers, and rows of one length, got {value!r:.60}; mend it"
        ) from error
