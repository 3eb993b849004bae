"""How functions of some arguments are evaluated: compiled where they can be, and in float64 where there is a way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, describe_exception
from fbp.verify import programs, traces
from fbp.verify.programs import Lifted, NotLiftable
from fbp.verify.structure import is_inexact
from fbp.verify.tolerance import epsilon, floor_of, in_float64, is_double, step_of, widest

Argnums: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class InFloat64:
    """How functions of some arguments are evaluated in float64.

    Attributes:
        lifted_from: the arguments in the dtypes where a function is traced to be lifted; None where it computes in
            float64 by itself when it is given float64.
        wide: whether it is traced with `jax.enable_x64`.
        floor: the relative error that two right programs may have to each other.
    """

    lifted_from: tuple[Any, ...] | None = field(default=None, repr=False)
    wide: bool = True
    floor: float = floor_of(np.float64)

    def of(
        self, function: Callable[..., Any], times: int = 1, kept: frozenset[str] = frozenset()
    ) -> Callable[..., Any]:
        """The function in float64.

        Args:
            function: of the arguments.
            times: 2 for a function of the arguments and of tangents of them.
            kept: the dtypes whose rounding stays in a program that is lifted.
        """
        if self.lifted_from is None:
            return function
        with jax.enable_x64(self.wide):
            return Lifted.at(function, self.lifted_from * times, kept, self.wide)


def choose_float64(
    loss: Callable[..., Any], args: tuple[Any, ...], is_traced: bool, x64: bool
) -> tuple[InFloat64 | None, str]:
    """How a loss is evaluated in float64, or why it is not."""
    if not is_traced:
        with jax.enable_x64(True):
            computed = run(loss, in_float64(args), is_traced=False).dtype == np.float64
        return (InFloat64(), "") if computed else (None, "it decides on values in Python, and computes in fewer digits")
    own, args64 = programs.trace(loss, args), see_in_float64(args)
    wide = trace_wide(loss, args64)
    if wide is not None and traces.is_same_program(own, wide):
        if all(map(is_double, programs.find_dtypes(wide.jaxpr))):
            return InFloat64(), ""
        way = lift_from(loss, args64, wide=True)
    else:
        way = lift_from(loss, args, x64)
    try:
        with jax.enable_x64(True):
            shape = jax.eval_shape(way.of(loss), *args64)
        if shape.dtype == np.float64:
            return way, ""
    except NotLiftable as error:
        return None, str(error)
    except Exception as error:
        return None, f"no float64 path: {describe_exception(error)}"
    return None, "no float64 path"


def lift_from(loss: Callable[..., Any], args: tuple[Any, ...], wide: bool) -> InFloat64:
    """The way to lift functions from these arguments."""
    with jax.enable_x64(wide):
        dtypes = programs.find_dtypes(programs.trace(loss, args).jaxpr)
    coarsest = max((epsilon(dtype) for dtype in dtypes), default=epsilon(np.float64))
    return InFloat64(args, wide, max(traces.LITERALS * coarsest, floor_of(np.float64)))


def see_in_float64(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a function is traced with in float64: shapes and dtypes where arguments are floating or complex."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, widest(x.dtype)) if is_inexact(x) else x, args)


def trace_wide(function: Callable[..., Any], args64: tuple[Any, ...]) -> Any:
    """The program of a function that is given float64; None where it refuses it, with whatever exception."""
    with jax.enable_x64(True):
        try:
            return programs.trace(function, args64)
        except Exception:
            return None


def run(function: Callable[..., Any], args: tuple[Any, ...], is_traced: bool = True) -> Any:
    """function(*args), compiled if it can be traced."""
    return call(function, args) if is_traced else function(*jax.tree.map(jnp.asarray, args))


@partial(jax.jit, static_argnums=0)
def call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """function(*args), compiled once for each function and each set of shapes."""
    return function(*args)


class Move(NamedTuple):
    """By how much arguments move: every floating or complex entry by the part `step` of itself.

    Attributes:
        up: for each leaf which entries move up, the others move down; False for leaves that stay.
        step: the part.
    """

    up: Any
    step: float

    @classmethod
    def draw(cls, args: tuple[Any, ...], seed: int) -> "Move":
        """Some roundings of float64, up or down at random: what `perturb` does."""
        signs = np.random.default_rng(seed)
        draw = lambda x: signs.integers(0, 2, x.shape, np.bool_) if is_inexact(x) else False
        return cls(jax.tree.map(draw, args), step_of(np.float64) * epsilon(np.float64))

    @classmethod
    def all_up(cls, args: tuple[Any, ...], step: float) -> "Move":
        """Every entry by the same part; by zero for arguments that stay where they are."""
        return cls(jax.tree.map(lambda x: np.ones(x.shape, np.bool_) if is_inexact(x) else False, args), step)

    def apply(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, arrays of NumPy or JAX, in float64 and moved."""
        move = lambda x, up: x * (1 - self.step + 2 * self.step * up.astype(x.dtype)) if is_inexact(x) else x
        return jax.tree.map(move, in_float64(args), self.up)


def run_moved(function: Callable[..., Any], args: tuple[Any, ...], move: Move, is_traced: bool = True) -> Any:
    """function(*args) with the arguments in float64 and moved; in memory they are not if it can be traced."""
    if is_traced:
        return _call_moved(function, args, move)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = move.apply(args)
    return run(function, moved, is_traced)


@partial(jax.jit, static_argnums=0)
def _call_moved(function: Callable[..., Any], args: tuple[Any, ...], move: Move) -> Any:
    return function(*move.apply(args))


def align(x: Any, dtype: Any) -> np.ndarray:
    """An array in another dtype, in memory that JAX reads where it is: a multiple of 64 bytes from zero on."""
    aligned = make_zeros(x.shape, dtype)
    aligned[...] = x
    return aligned


def make_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that JAX reads where they are. They take no memory until they are written to."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    memory = np.zeros(size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size].view(dtype).reshape(shape)


def make_hashable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or one that calls it where it has no hash, as modules with arrays in them."""
    try:
        hash(function)
    except TypeError:
        return lambda *args: function(*args)
    return function


def call_checked(what: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """function(*args), with whatever it raises as a mistake of the caller's.

    Raises:
        FbpError: naming what was called, and what it raised.
    """
    try:
        return function(*args)
    except FbpError:
        raise
    except Exception as error:
        raise FbpError(
            f"{what} must accept the given arguments, got {describe_exception(error)}; call it by hand to see where"
        ) from error


def needs_x64(args: tuple[Any, ...]) -> bool:
    """Whether one of the arguments has the digits of float64, or the user has enabled them."""
    arrays = (x for x in jax.tree.leaves(args) if hasattr(x, "dtype") and is_inexact(x))
    return any(is_double(x.dtype) for x in arrays) or bool(jax.config.read("jax_enable_x64"))


def check_argnums(argnums: Any, count: int) -> Argnums:
    """argnums counted from the front.

    Raises:
        FbpError: one is no position of an argument, or occurs twice.
    """
    single = not isinstance(argnums, (tuple, list))
    places = []
    for n in [argnums] if single else argnums:
        if isinstance(n, bool) or not hasattr(n, "__index__") or not -count <= int(n) < count:
            raise FbpError(f"argnums must name arguments, 0 to {count - 1}, got {n!r}; the first argument is 0")
        places.append(int(n) % count)
    if len(set(places)) < len(places) or not places:
        raise FbpError(f"argnums must name each argument once, got {argnums}; leave out the repetitions")
    return places[0] if single else tuple(places)
