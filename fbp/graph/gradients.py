"""The value and the gradient of any JAX function by the table of local rules: `jax.value_and_grad`, by hand."""

import functools
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fbp.errors import FbpError, describe_exception
from fbp.graph.reverse import Reverse
from fbp.graph.versions import Program

Argnums: TypeAlias = int | Sequence[int]


class Staged(NamedTuple):
    """A function of some arguments as a program.

    Attributes:
        program: leaves of the arguments -> leaves of the results.
        tree: the structure of the results.
    """

    program: Program
    tree: Any

    @classmethod
    def of(cls, f: Callable[..., Any], leaves: Sequence[Any]) -> "Staged":
        """Trace a function of leaves.

        Raises:
            FbpError: it cannot be traced.
        """
        try:
            closed, shape = jax.make_jaxpr(f, return_shape=True)(*leaves)
        except FbpError:
            raise
        except Exception as error:
            raise FbpError(
                f"{name_function(f)} must be a function that JAX can trace at its arguments, got "
                f"{describe_exception(error)}{_find_line(error)}; "
                "decide on values with jax.lax.cond or jnp.where, and compute with jax.numpy"
            ) from error
        return cls(Program.of(closed), jax.tree.structure(shape))


def value_and_grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, fallback: bool = False
) -> Callable[..., Any]:
    """The counterpart of `jax.value_and_grad` by the table of local rules (`fbp.graph.RULES`).

    Args:
        f: any JAX function whose result, or the first of two with `has_aux`, is one real number.
        argnums: the arguments to differentiate by, pytrees of floating-point arrays.
        has_aux: whether f returns (value, something).
        fallback: whether a primitive without a rule is differentiated by JAX instead of refused.

    Returns:
        A pure function of the arguments of f -> (value, gradient), or ((value, aux), gradient): what
        `jax.value_and_grad` gives, leaf by leaf. Compile it with `jax.jit`.

    Raises:
        FbpError: f cannot be traced, its result is not one real number, an argument to differentiate by is missing or
            not floating point, or a primitive has no rule.

    Example:
        >>> value, slope = jax.jit(fbp.graph.value_and_grad(lambda x: jnp.sin(x) * x))(2.0)
        >>> bool(jnp.allclose(slope, jnp.sin(2.0) + 2.0 * jnp.cos(2.0)))
        True
    """

    def compute(*args: Any, **kwargs: Any) -> Any:
        check_call(f, args, kwargs)
        numbers = count_from_front(argnums, len(args))
        leaves, tree = jax.tree.flatten([args[n] for n in numbers])
        check_real(leaves)
        leaves = [jnp.asarray(x) for x in leaves]

        def of_leaves(*some: Any) -> Any:
            given = list(args)
            for n, value in zip(numbers, tree.unflatten(some), strict=True):
                given[n] = value
            return f(*given, **kwargs)

        of_leaves.__name__ = name_function(f)
        staged = Staged.of(of_leaves, leaves)
        n_out = len(staged.program.jaxpr.outvars)
        check_scalar(staged, has_aux)
        engine = Reverse(fallback)
        flags = [True, *[False] * (n_out - 1)]
        outputs, pullback = engine.run(staged.program, leaves, [True] * len(leaves), flags, ())
        d_value = jnp.ones_like(outputs[0])
        d_leaves = pullback([d_value, *[None] * (n_out - 1)])
        gradient = tree.unflatten(
            [jnp.zeros_like(x) if g is None else g for g, x in zip(d_leaves, leaves, strict=True)]
        )
        value = staged.tree.unflatten(outputs)
        return value, gradient[0] if isinstance(argnums, int) else tuple(gradient)

    return compute


def split_arguments(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], Callable[..., Any]]:
    """The arrays among the arguments, and the function of them; what is no array stays as it is."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    is_array = [isinstance(x, (int, float, complex)) or hasattr(x, "dtype") for x in leaves]
    is_array = [yes and not isinstance(x, bool) for yes, x in zip(is_array, leaves, strict=True)]

    @functools.wraps(f, updated=())
    def call(*some: Any) -> Any:
        given = iter(some)
        args, kwargs = tree.unflatten([next(given) if yes else x for yes, x in zip(is_array, leaves, strict=True)])
        return f(*args, **kwargs)

    return [jnp.asarray(x) for yes, x in zip(is_array, leaves, strict=True) if yes], call


def name_function(f: Callable[..., Any]) -> str:
    """The name of a function; "f" where it has none."""
    return getattr(f, "__name__", "f")


def check_call(f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise an error unless a function takes these arguments."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        raise FbpError(
            f"arguments must fit {name_function(f)}{inspect.Signature(bare)}, got {len(args) + len(kwargs)}, {error}; "
            "give each of them once"
        ) from error


def count_from_front(argnums: Argnums, count: int) -> list[int]:
    """argnums as places among so many arguments.

    Raises:
        FbpError: there is none at one of them.
    """
    numbers = [
        n % count if -count <= n < 0 else n for n in ((argnums,) if isinstance(argnums, int) else tuple(argnums))
    ]
    for n in numbers:
        if not 0 <= n < count:
            raise FbpError(
                f"argnums must name one of the {count} positional arguments, got {n}; give the argument by position"
            )
    return numbers


def _find_line(error: Exception) -> str:
    """The last line of the user's code that an exception came through."""
    skipped = str(Path(jax.__file__).parent), str(Path(__file__).parents[1])
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(skipped)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def check_real(leaves: Sequence[Any]) -> None:
    """Raise an error unless all leaves are real floating-point numbers or arrays."""
    for x in leaves:
        dtype = jnp.result_type(x) if isinstance(x, (bool, int, float, complex)) or hasattr(x, "dtype") else type(x)
        if not (isinstance(dtype, jnp.dtype) and jnp.issubdtype(dtype, jnp.floating)):
            name = getattr(dtype, "name", getattr(dtype, "__name__", str(dtype)))
            raise FbpError(
                f"an argument to differentiate by must be real floating point, got {name}; convert it, or leave it out "
                "of argnums"
            )


def check_scalar(staged: Staged, has_aux: bool = False) -> None:
    """Raise an error unless the first result is one real number, and the only one."""
    outvars, tree = staged.program.jaxpr.outvars, staged.tree
    parts = tree.children() if has_aux else [tree]
    if len(parts) != 1 + has_aux or not jax.tree_util.treedef_is_leaf(parts[0]):
        wanted = "(one real number, aux)" if has_aux else "one real number"
        raise FbpError(f"f must return {wanted}, got {tree}; take its sum or mean, or pass has_aux")
    aval = outvars[0].aval
    if aval.shape != () or not jnp.issubdtype(aval.dtype, jnp.floating):
        raise FbpError(f"f must return one real number, got {aval.dtype} of shape {aval.shape}; take its sum or mean")
