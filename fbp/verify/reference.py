"""What autodiff says of a loss at one point, in its own dtype and in float64, and what rounding does to it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, describe_exception
from fbp.typing import Key
from fbp.verify import slopes
from fbp.verify.structure import by_path, is_floating
from fbp.verify.tolerance import DRAWS, Allowance, in_float64, norm, on_host, perturb

Argnums: TypeAlias = int | tuple[int, ...]
Leaves: TypeAlias = dict[str, np.ndarray]
"""Arrays in float64 by path."""
NoDerivative = (TypeError, NotImplementedError, ValueError, jax.errors.JAXTypeError)
"""What JAX raises where a function has no derivative of some kind."""


@dataclass(frozen=True)
class Gradients:
    """`jax.grad` at a point, and at points that are some roundings away."""

    here: Leaves
    perturbed: tuple[Leaves, ...]

    def allow(self, path: str, dtype: str, exact: np.ndarray, jitter: float = 0.0) -> Allowance:
        """What rounding in a dtype explains of one leaf; see `Allowance.measure`."""
        return Allowance.measure(dtype, self.here[path], [leaves[path] for leaves in self.perturbed], exact, jitter)


@dataclass(frozen=True)
class Autodiff:
    """The gradients of a loss by `jax.grad`.

    Attributes:
        own: in the arguments' own dtypes.
        exact: in float64; the same ones where the loss does not compute in float64.
        has_float64: whether it does.
    """

    own: Gradients
    exact: Gradients
    has_float64: bool = True

    @cached_property
    def total(self) -> float:
        """The norm of the whole gradient."""
        return norm(np.asarray([norm(x) for x in self.exact.here.values()]))


@dataclass(frozen=True)
class Reference:
    """A loss at one point, and its gradients by autodiff.

    Attributes:
        loss: called as loss(*args), gives a scalar.
        argnums: which arguments are differentiated.
        args: the arguments.
        args64: the same on the host, in float64.
        inputs: the differentiated leaves by path, in their own dtypes; those that are not floating are left out.
        has_float64: whether the loss computes in float64 when it is given float64.
        seed: of all that is drawn.
        autodiff: its gradients; None where it has none.
        silent: why there are none.
    """

    loss: Callable[..., Any]
    argnums: Argnums
    args: tuple[Any, ...]
    args64: tuple[Any, ...]
    inputs: dict[str, Any]
    has_float64: bool
    seed: int
    autodiff: Autodiff | None
    silent: str = ""

    @cached_property
    def lengths(self) -> frozenset[int]:
        """Lengths of leading axes: what may be a number of examples."""
        return frozenset(np.shape(x)[0] for x in jax.tree.leaves(self.args64) if np.ndim(x))

    def scale(self, path: str) -> float:
        """The size of a leaf's entries; where they are zero that of all leaves, or 1."""
        for paths in ((path,), tuple(self.inputs)):
            entries = np.concatenate([np.asarray(self.inputs[p], np.float64).ravel() for p in paths])
            if size := norm(entries) / max(entries.size, 1) ** 0.5:
                return size
        return 1.0

    def gradient64(self, args: tuple[Any, ...]) -> Leaves:
        """The gradient by autodiff at other float64 arguments."""
        with jax.enable_x64(True):
            return _leaves(differentiate(self.loss, self.argnums, args), self.inputs)

    def slope_by_differences(self, path: str, v: np.ndarray) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, from values of the loss."""
        with jax.enable_x64(True):
            steps = np.concatenate([[0.0], *([h, -h] for h in slopes.STEPS)])
            values = slopes.evaluate_along(self.loss, self.args64, self._tangent(path, v), steps)
        return slopes.estimate_slope(np.asarray(values, np.float64))

    def slope_forward(self, path: str, v: np.ndarray) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, by forward-mode differentiation.

        Raises:
            TypeError: and the others of `NoDerivative`, where the loss has none.
        """
        with jax.enable_x64(True):
            value = float(slopes.push_forward(self.loss, self.args64, self._tangent(path, v)))
        return slopes.Slope(value, 0.0, value, value)

    def _tangent(self, path: str, v: np.ndarray) -> tuple[Any, ...]:
        def leaf(place: Any, x: Any) -> Any:
            return v if jax.tree_util.keystr(place) == path else zero(x)

        zero = lambda x: np.zeros_like(x) if is_floating(x) else x
        along = jax.tree.map_with_path(leaf, select_arguments(self.args64, self.argnums))
        places = {self.argnums: along} if isinstance(self.argnums, int) else dict(zip(self.argnums, along, strict=True))
        return tuple(places.get(i, jax.tree.map(zero, arg)) for i, arg in enumerate(self.args64))


def compute_reference(
    loss: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums = 0, seed: int = 0
) -> Reference:
    """Autodiff of a loss at one point, which several gradient functions may be judged by.

    Args:
        loss: gives a scalar, called as loss(*args).
        args: pytrees of arrays.
        argnums: which of them are differentiated.
        seed: of all that the judges draw: directions, and the perturbations by which rounding is measured.

    Raises:
        FbpError: the loss cannot be called with the arguments, or does not return a scalar.
    """
    with precision_of(args):
        arrays = on_host(args)
        shape = call_checked("the loss", partial(jax.eval_shape, loss), arrays)
        if not hasattr(shape, "shape") or shape.shape != () or not jnp.issubdtype(shape.dtype, jnp.floating):
            raise FbpError(
                f"the loss must return one floating-point number, got {shape}; sum or average over the examples"
            )
        wanted = select_arguments(arrays, argnums)
        inputs = {path: x for path, x in by_path(wanted).items() if x is not None and is_floating(x)}

        def compute_gradients(args: tuple[Any, ...]) -> Gradients:
            compute = lambda args: _leaves(differentiate(loss, argnums, args), inputs)
            return Gradients(compute(args), tuple(compute(perturb(args, seed + i)) for i in range(DRAWS)))

        with jax.enable_x64(True):
            args64 = in_float64(arrays)
            has_float64 = _computes_in_float64(loss, args64)
        known = partial(Reference, loss, argnums, args, args64, inputs, has_float64, seed)
        try:
            own = compute_gradients(arrays)
            with jax.enable_x64(True):
                return known(Autodiff(own, compute_gradients(args64) if has_float64 else own, has_float64))
        except NoDerivative as error:
            return known(None, f"the loss has no reverse-mode derivative: {describe_exception(error)}")


@partial(jax.jit, static_argnums=(0, 1))
def differentiate(loss: Callable[..., Any], argnums: Argnums, args: tuple[Any, ...]) -> Any:
    """`jax.grad`, compiled once for each loss and each set of shapes."""
    return jax.grad(loss, argnums, allow_int=True)(*args)


def select_arguments(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """The differentiated arguments."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


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


def precision_of(args: tuple[Any, ...]) -> Any:
    """A context with float64 where one of the arguments is in float64; else as the user has it."""
    floating = (x for x in jax.tree.leaves(args) if hasattr(x, "dtype") and is_floating(x))
    wide = any(x.dtype == np.float64 for x in floating)
    return jax.enable_x64(wide or bool(jax.config.read("jax_enable_x64")))


def make_seed(key: Key | None) -> int:
    """A seed for numpy from a key; a fixed one without."""
    return 0 if key is None else int(jax.random.bits(key))


def _computes_in_float64(loss: Callable[..., Any], args64: tuple[Any, ...]) -> bool:
    try:
        return jax.eval_shape(loss, *args64).dtype == np.float64
    except Exception:
        # A kernel for float32 alone may refuse float64 with any exception.
        return False


def _leaves(tree: Any, wanted: dict[str, Any]) -> Leaves:
    leaves = by_path(tree)
    return {path: np.asarray(leaves[path], np.float64) for path in wanted}
