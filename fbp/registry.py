"""Things that have names: looked up in one table, with arguments, and with the nearest name on a slip."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fbp.errors import FbpError, unknown_name

T = TypeVar("T")

_CALL = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*")


@dataclass(frozen=True)
class _Fixed(Generic[T]):
    thing: T

    def __call__(self) -> T:
        return self.thing


class Registry(Generic[T]):
    """Constructors by name: `registry("leaky_relu(0.2)")` calls `leaky_relu` with 0.2.

    Args:
        kind: what the table holds, for messages, e.g. "activation".
        of: the type of the things.
        constructors: a mapping from names to callables that take numbers and return the thing.
        fixed: a mapping from names to things that take none.
    """

    def __init__(
        self, kind: str, of: type[T], constructors: Mapping[str, Callable[..., T]], fixed: Mapping[str, T] | None = None
    ):
        self.kind = kind
        self._type = of
        self._constructors = dict(constructors)
        for name, thing in (fixed or {}).items():
            self._constructors[name] = _Fixed(thing)

    def __iter__(self) -> Iterator[str]:
        return iter(self._constructors)

    def __call__(self, spec: str | T) -> T:
        """The thing that `spec` names; a thing of the table's type is returned as it is.

        Args:
            spec: a name, or a name with numbers in brackets: "elu", "elu(0.5)".

        Raises:
            FbpError: the name is unknown, its arguments do not fit, or it is neither a name nor a thing.
        """
        if not isinstance(spec, str):
            if not isinstance(spec, self._type):
                raise FbpError(
                    f"{self.kind} is a name, or of the type {self._type.__name__}; "
                    f"received {spec!r}; e.g. {next(iter(self))!r}"
                )
            return spec
        match = _CALL.fullmatch(spec)
        if match is None or match[1] not in self._constructors:
            raise unknown_name(self.kind, spec if match is None else match[1], self)
        name, inside = match[1], match[2]
        arguments = [text.strip() for text in inside.split(",")] if inside else []
        try:
            numbers: list[Any] = [float(text) for text in arguments]
            return self._constructors[name](*numbers)
        except FbpError:
            raise
        except (TypeError, ValueError) as error:
            raise FbpError(
                f"the arguments of {self.kind} {name!r} are numbers that fit it; received {spec!r}; "
                f"write {name!r} alone for the usual values"
            ) from error
