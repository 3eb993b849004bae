"""Look-up of named objects: one table each, with optional arguments and a suggestion after a typo."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from fbp.errors import FbpError, unknown_name

T = TypeVar("T")

_CALL = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*")


class Registry(Generic[T]):
    """Constructors by name: `registry("leaky_relu(0.2)")` calls `leaky_relu` with 0.2.

    Args:
        kind: what the table holds, for messages, e.g. "activation".
        of: the type of the objects.
        constructors: a mapping from names to callables that take numbers and return an object.
        fixed: a mapping from names to objects without arguments.
    """

    def __init__(
        self,
        kind: str,
        of: type[T],
        constructors: Mapping[str, Callable[..., T]],
        fixed: Mapping[str, T] | None = None,
    ):
        self.kind = kind
        self._type = of
        self._constructors = dict(constructors)
        self._constructors.update((name, partial(_return, value)) for name, value in (fixed or {}).items())

    def __iter__(self) -> Iterator[str]:
        return iter(self._constructors)

    def __call__(self, spec: str | T) -> T:
        """The object that `spec` names; an object of the table's type is returned unchanged.

        Args:
            spec: a name, or a name with numbers in brackets: "elu", "elu(0.5)".

        Raises:
            FbpError: the name is unknown, its arguments do not fit, or `spec` has another type.
        """
        if not isinstance(spec, str):
            if not isinstance(spec, self._type):
                raise FbpError(
                    f"{self.kind} must be a name or of type {self._type.__name__}, got {spec!r}; "
                    f"use for example {next(iter(self))!r}"
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
                f"{self.kind} {name!r} must be given as many numbers as it takes, got {spec!r}; "
                f"write {name!r} alone for the usual values"
            ) from error


def _return(value: T) -> T:
    return value
