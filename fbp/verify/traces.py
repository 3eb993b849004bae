"""Two traces of a function compared: whether it is the same program in float64, and with the same constants."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fbp.verify.programs import find_dtypes, takes_key, trace, walk_equations
from fbp.verify.structure import is_inexact

_SILENT = ("convert_element_type", "copy", "copy_p")
LITERALS = 4
"""By how many roundings of their dtype the constants of a program that is lifted to float64 may be off."""


def is_same_program(own: ClosedJaxpr, wide: ClosedJaxpr) -> bool:
    """Whether two programs compute the same, but for the dtypes: random draws and constants may depend on these.

    Args:
        own: a function traced in its own dtype.
        wide: the same function traced in float64.
    """
    tolerance = LITERALS * max((float(jnp.finfo(dtype).eps) for dtype in find_dtypes(own.jaxpr)), default=0.0)
    some, others = ([*_describe_equations(closed)] for closed in (own, wide))
    if len(some) != len(others) or len(own.consts) != len(wide.consts):
        return False
    constants = zip(own.consts, wide.consts, strict=True)
    return all(a == b and _are_close(x, y, tolerance) for (a, x), (b, y) in zip(some, others, strict=True)) and all(
        _are_close([a], [b], tolerance) for a, b in constants if a is not b
    )


def find_rounded_constants(closed: ClosedJaxpr) -> set[bytes]:
    """The constants of a program that are numbers of float32 or less, and no short ones such as 3 or 0.25."""
    values = [v.val for eqn in walk_equations(closed.jaxpr) for v in eqn.invars if isinstance(v, Literal)]
    found = set()
    for value in (*values, *closed.consts):
        if not is_inexact(value) or np.iscomplexobj(value):
            continue
        exact = np.asarray(value, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = exact.astype(np.float32)
            # A fraction of twelve binary digits, or an integer, is what it says.
            digits = np.frexp(exact)[0] * 2.0**12
            long = np.isfinite(exact) & (digits != np.round(digits)) & (exact != np.round(exact))
        if np.any(long) and np.array_equal(narrow.astype(np.float64), exact, equal_nan=True):
            found.add(narrow.tobytes())
    return found


def draws_anew(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether two traces of a function differ: it reads numbers that are no arguments and change from call to call."""
    # Traces are cached by the function: the second one is of another.
    first, second = trace(function, args), trace(lambda *args: function(*args), args)
    some, others = ([*_describe_equations(closed)] for closed in (first, second))
    same = len(some) == len(others) and all(
        a == b and _are_close(x, y, 0.0) for (a, x), (b, y) in zip(some, others, strict=True)
    )
    return not same or not _are_close(list(first.consts), list(second.consts), 0.0)


def _describe_equations(closed: ClosedJaxpr) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    for eqn in walk_equations(closed.jaxpr):
        if eqn.primitive.name not in _SILENT:
            shapes = tuple(getattr(v.aval, "shape", ()) for v in eqn.outvars)
            # What is drawn from a key depends on the dtype.
            drawn = tuple(str(v.aval.dtype) for v in eqn.outvars) if takes_key(eqn) else ()
            literals = [v.val for v in eqn.invars if isinstance(v, Literal)]
            yield (eqn.primitive.name, shapes, eqn.params.get("bit_width"), drawn), literals


def _are_close(some: list[Any], others: list[Any], tolerance: float) -> bool:
    if len(some) != len(others):
        return False
    for a, b in zip(some, others, strict=True):
        if not (is_inexact(a) or jnp.issubdtype(jnp.result_type(a), jnp.integer)):
            continue
        x, y = (np.asarray(v, np.complex128 if np.iscomplexobj(v) else np.float64) for v in (a, b))
        if x.shape != y.shape or not np.allclose(x, y, rtol=tolerance, atol=0.0, equal_nan=True):
            return False
    return True
