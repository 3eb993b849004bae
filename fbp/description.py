"""Networks and losses as plain data and back, so that what was saved is loaded without the code that made it.

A layer, loss or initializer is {"type": its public name, field: value, ...}, without the fields that are at their
defaults; activations and named initializers are their names, "relu", "normal(0.02)"; tuples are lists. What is read is
not trusted: types are looked up among those of fbp, fields are checked against their annotations, nothing is evaluated.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from fbp import activations, combinators, initializers, layers, losses
from fbp.activations import Nonlinearity
from fbp.combinators import Combinator, Network, Serial
from fbp.combinators.base import naming
from fbp.errors import FbpError, unknown_name
from fbp.initializers import Initializer, initializer
from fbp.losses import Loss
from fbp.paths import Path, format_path
from fbp.typing import Layer, Line

MOST_LEVELS = 200
"""The deepest nesting of a description: more would exhaust the stack of the interpreter."""

TYPES: dict[str, type] = {
    name: kind
    for package in (layers, combinators, losses)
    for name, kind in vars(package).items()
    if isinstance(kind, type) and issubclass(kind, Layer | Loss) and is_dataclass(kind)
    if kind not in (Combinator, Loss)
} | {"Line": Line, "Initializer": Initializer}
"""What may be described, by its public name."""


def describe(described: Layer | Loss) -> dict[str, Any]:
    """A network or a loss as plain data, for JSON.

    Args:
        described: a network of fbp's layers, or one of its losses.

    Returns:
        Dictionaries, lists, strings and numbers, from which `construct` makes an equal object.

    Raises:
        FbpError: a layer or function is not one of fbp, or a number is not finite.

    Example:
        >>> fbp.description.describe(fbp.Serial(fbp.Dense(8), fbp.Activation("relu")))
        {'type': 'Serial', 'layers': [{'type': 'Dense', 'width': 8}, {'type': 'Activation', 'function': 'relu'}]}
    """
    return _describe(described, 0)


def construct(description: Any) -> Any:
    """The network or the loss that a description is of.

    Args:
        description: what `describe` returned, or what was read from a file.

    Returns:
        An object equal to the one described.

    Raises:
        FbpError: a type or field is unknown, a value is of the wrong kind or out of range, or the nesting is too deep.

    Example:
        >>> net = fbp.mlp((784, 32, 10), "gelu", norm="layer")
        >>> fbp.description.construct(fbp.description.describe(net)) == net
        True
    """
    made = _construct(description, 0)
    if not isinstance(made, Layer | Loss):
        raise FbpError(f"a description must be of a network or a loss, got {_show(description)}; is the file damaged?")
    return made


def list_differences(saved: Any, given: Any) -> list[str]:
    """Where two descriptions differ, one line for each place.

    Args:
        saved: the description in a file.
        given: the one to compare it with.

    Returns:
        The lines; none if the descriptions are of equal objects.

    Example:
        >>> saved, given = (fbp.description.describe(fbp.mlp((4, n, 3))) for n in (64, 128))
        >>> fbp.description.list_differences(saved, given)
        ['layers[0].width: 64 in the file, 128 here']
    """
    return list(_compare(saved, given, ()))


def _describe(value: Any, level: int) -> Any:
    _check_level(level)
    if isinstance(value, Nonlinearity) and (spec := activations.find_spec(value)) is not None:
        return spec
    if type(value) is Initializer and (spec := initializers.find_spec(value)) is not None:
        return spec
    kind = type(value)
    if TYPES.get(kind.__name__) is kind:
        described: dict[str, Any] = {"type": kind.__name__}
        for field in fields(kind):
            with naming(field.name):
                own = _describe(getattr(value, field.name), level + 1)
                if field.default is MISSING or own != _describe_default(field):
                    described[field.name] = own
        return described
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, tuple):
        described_items = []
        for i, item in enumerate(value):
            with naming(i):
                described_items.append(_describe(item, level + 1))
        return described_items
    raise FbpError(
        f"only fbp's own layers, activations and finite numbers must be in what is described, got {value!r}; "
        "without a description the network has to be given, fbp.load(folder, net=net)"
    )


def _describe_default(field: "Field[Any]") -> Any:
    kinds = get_args(field.type)
    if isinstance(field.default, str) and Initializer in kinds:
        return _describe(initializer(field.default), 0)
    return _describe(field.default, 0)


def _construct(description: Any, level: int) -> Any:
    _check_level(level)
    if isinstance(description, list):
        items = []
        for i, item in enumerate(description):
            with naming(i):
                items.append(_construct(item, level + 1))
        return tuple(items)
    if not isinstance(description, dict):
        return description
    name = description.get("type")
    if not isinstance(name, str) or name not in TYPES:
        raise unknown_name("type in a description", str(name), TYPES)
    kind = TYPES[name]
    known = {field.name: field for field in fields(kind)}
    given = {}
    for key, value in description.items():
        if key == "type":
            continue
        if key not in known:
            raise unknown_name(f"field of {name}", str(key), known)
        with naming(key):
            given[key] = _construct(value, level + 1)
            if not _fits(given[key], known[key].type):
                raise FbpError(
                    f"{key} of {name} must be of the kind {_name_kind(known[key].type)}, got {_show(value)}; "
                    "is the file damaged?"
                )
    missing = [key for key, field in known.items() if field.default is MISSING and key not in given]
    if missing:
        raise FbpError(f"a description of {name} must have the field {missing[0]!r}, got none; is the file damaged?")
    try:
        return MAKERS.get(kind, kind)(**given)
    except FbpError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise FbpError(
            f"a description of {name} must be complete and sound, got one that fails: {error}; is the file damaged?"
        ) from error


def _make_serial(layers: tuple[Layer, ...], **options: Any) -> Serial:
    return Serial(*layers, **options)


def _make_network(
    lines: tuple[tuple[str, Line], ...], inputs: tuple[str, ...], output: Any, shape: Any = None
) -> Network:
    names = [name for name, _ in lines]
    if len(set(names)) < len(names):
        raise FbpError(f"the lines of a Network must have different names, got {', '.join(names)}; rename one")
    outputs = output if isinstance(output, str) else dict(output)
    return Network(*inputs, output=outputs, shape=dict(shape) if inputs and shape else shape, **dict(lines))


def _make_line(reads: tuple[str, ...] = (), entries: tuple[str, ...] = (), **options: Any) -> Line:
    if entries and len(entries) != len(reads):
        raise FbpError(
            f"the entries of a line must be as many as the lines that it reads, got {len(entries)} and {len(reads)}; "
            "is the file damaged?"
        )
    return Line(reads=reads, entries=entries, **options)


MAKERS: dict[type, Callable[..., Any]] = {Serial: _make_serial, Network: _make_network, Line: _make_line}
"""What makes an object of its fields, where that is not the type itself."""


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind that an annotation says."""
    if kind is Any:
        return _is_shape(value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (...,):
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_shape(value: Any) -> bool:
    """The one annotation that says nothing: of shapes, which are None, sizes, or tuples and named pairs of shapes."""
    if isinstance(value, tuple):
        return all(isinstance(item, str) or _is_shape(item) for item in value)
    return value is None or (_fits(value, int) and value >= 0)


def _name_kind(kind: Any) -> str:
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    names = {Any: "shape", NoneType: "None"}
    return " or ".join(names[part] if part in names else getattr(part, "__name__", str(part)) for part in parts)


def _check_level(level: int) -> None:
    if level > MOST_LEVELS:
        raise FbpError(
            f"a description must be nested at most {MOST_LEVELS} levels deep, got more; "
            "use Repeat, or Serial with all layers side by side"
        )


def _compare(saved: Any, given: Any, path: Path) -> Iterator[str]:
    _check_level(len(path))
    where = format_path(path)
    at = f"{where}: " if where else ""
    if isinstance(saved, dict) and isinstance(given, dict):
        if saved.get("type") != given.get("type"):
            yield f"{at}{saved.get('type')} in the file, {given.get('type')} here"
            return
        defaults = _defaults(saved.get("type"))
        for key in dict.fromkeys((*saved, *given)):
            one, other = (described.get(key, defaults.get(key, ...)) for described in (saved, given))
            yield from _compare(one, other, (*path, key))
    elif isinstance(saved, list) and isinstance(given, list) and _are_named(saved) and _are_named(given):
        ours, theirs = dict(saved), dict(given)
        for name in dict.fromkeys((*ours, *theirs)):
            if name in ours and name in theirs:
                yield from _compare(ours[name], theirs[name], (*path, name))
            else:
                yield f"{format_path((*path, name))}: only {'in the file' if name in ours else 'here'}"
        if list(ours) != list(theirs) and set(ours) == set(theirs):
            yield f"{at}in the order {', '.join(ours)} in the file, {', '.join(theirs)} here"
    elif isinstance(saved, list) and isinstance(given, list) and any(isinstance(x, dict) for x in (*saved, *given)):
        if len(saved) != len(given):
            yield f"{at}{len(saved)} in the file, {len(given)} here"
        for i, (one, other) in enumerate(zip(saved, given, strict=False)):
            yield from _compare(one, other, (*path, i))
    elif saved != given:
        yield f"{at}{_show(saved)} in the file, {_show(given)} here"


def _defaults(name: Any) -> Mapping[str, Any]:
    if not isinstance(name, str) or name not in TYPES:
        return {}
    return {field.name: _describe_default(field) for field in fields(TYPES[name]) if field.default is not MISSING}


def _are_named(items: list[Any]) -> bool:
    """Whether a list holds pairs of a name and something, each name once."""
    pairs = [item for item in items if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)]
    return 0 < len(items) == len(pairs) == len({name for name, _ in pairs})


def _show(value: Any) -> str:
    """A part of a description, on one line that is not long."""
    if isinstance(value, dict):
        return f"{value.get('type')}(...)" if len(value) > 1 else f"{value.get('type')}()"
    text = "nothing" if value is ... else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
