"""What autodiff says of a loss at one point, in its own dtype and in float64, and what rounding does to it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, describe_exception
from fbp.verify import slopes
from fbp.verify.rounding import DRAWS, Allowance, in_float64, moved, norm
from fbp.verify.structure import by_path, is_floating

Argnums: TypeAlias = int | tuple[int, ...]
Leaves: TypeAlias = dict[str, np.ndarray]
"""Arrays in float64 by path."""
NoDerivative = (TypeError, NotImplementedError, ValueError, jax.errors.JAXTypeError)
"""What JAX raises where a function has no derivative of some kind."""


@dataclass(frozen=True)
class Gradients:
    """`jax.grad` at a point, and at points that are some roundings away."""

    here: Leaves
    moved: tuple[Leaves, ...]

    def allowance(self, dtype: str, path: str, exact: "Gradients") -> Allowance:
        """What rounding explains of one leaf."""
        return Allowance.measured(dtype, self.here[path], [m[path] for m in self.moved], exact.here[path])


@dataclass(frozen=True)
class Reference:
    """A loss at one point, and its gradients by autodiff.

    Attributes:
        loss: called as loss(*args), gives a scalar.
        argnums: which arguments are differentiated.
        args64: the arguments, in float64.
        like: the differentiated leaves by path, in their own dtypes; those that are not floating are left out.
        own: the gradients in the arguments' own dtypes.
        exact: those in float64; the same ones where there is no float64 path.
        has_float64: whether the loss computes in float64 when it is given float64.
        seed: of the movements by which rounding is measured.
        silent: why there are no gradients, where there are none.
    """

    loss: Callable[..., Any]
    argnums: Argnums
    args64: tuple[Any, ...]
    like: dict[str, Any]
    own: Gradients | None
    exact: Gradients | None
    has_float64: bool
    seed: int = 0
    silent: str = ""

    @cached_property
    def total(self) -> float:
        """The norm of the whole gradient."""
        return 0.0 if self.exact is None else norm(np.asarray([norm(x) for x in self.exact.here.values()]))

    @cached_property
    def sizes(self) -> frozenset[int]:
        """Lengths of leading axes: what may be a number of examples."""
        return frozenset(np.shape(x)[0] for x in jax.tree.leaves(self.args64) if np.ndim(x))

    def size(self, path: str) -> float:
        """The size of a leaf's entries; where they are zero that of all leaves, or 1."""
        for leaves in ((path,), tuple(self.like)):
            entries = np.concatenate([np.asarray(self.like[p], np.float64).ravel() for p in leaves])
            if size := norm(entries) / max(entries.size, 1) ** 0.5:
                return size
        return 1.0

    def gradient64(self, args: tuple[Any, ...]) -> Leaves:
        """The gradient by autodiff at other float64 arguments."""
        with jax.enable_x64(True):
            return _leaves(autodiff(self.loss, self.argnums, args), self.like)

    def slope_by_differences(self, path: str, v: np.ndarray) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, from values of the loss."""
        with jax.enable_x64(True):
            steps = np.concatenate([[0.0], *([h, -h] for h in slopes.STEPS)])
            values = slopes.losses_along(self.loss, self.args64, self._tangent(path, v), steps)
        return slopes.slope_by_differences(np.asarray(values, np.float64))

    def slope_forward(self, path: str, v: np.ndarray) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, by forward-mode differentiation.

        Raises:
            TypeError: and the others of `NoDerivative`, where the loss has none.
        """
        with jax.enable_x64(True):
            value = float(slopes.slope_forward(self.loss, self.args64, self._tangent(path, v)))
        return slopes.Slope(value, 0.0, value, value)

    def _tangent(self, path: str, v: np.ndarray) -> tuple[Any, ...]:
        def leaf(at: Any, x: Any) -> Any:
            return v if jax.tree_util.keystr(at) == path else zero(x)

        zero = lambda x: np.zeros_like(x) if is_floating(x) else x
        along = jax.tree.map_with_path(leaf, chosen(self.args64, self.argnums))
        places = {self.argnums: along} if isinstance(self.argnums, int) else dict(zip(self.argnums, along, strict=True))
        return tuple(places.get(i, jax.tree.map(zero, arg)) for i, arg in enumerate(self.args64))


def reference(loss: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums, seed: int = 0) -> Reference:
    """Autodiff of a loss at one point.

    Args:
        loss: gives a scalar, called as loss(*args).
        args: pytrees of numpy arrays.
        argnums: which of them are differentiated.
        seed: of the movements by which rounding is measured.

    Raises:
        FbpError: the loss cannot be called with the arguments, or gives no scalar.
    """
    shape = called("the loss", partial(jax.eval_shape, loss), args)
    if not hasattr(shape, "shape") or shape.shape != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise FbpError(f"a loss gives one floating-point number; received {shape}; sum or average over examples")
    like = {p: x for p, x in by_path(chosen(args, argnums)).items() if x is not None and is_floating(x)}

    def gradients(args: tuple[Any, ...]) -> Gradients:
        at = lambda args: _leaves(autodiff(loss, argnums, args), like)
        return Gradients(at(args), tuple(at(moved(args, seed + i)) for i in range(DRAWS)))

    with jax.enable_x64(True):
        args64 = in_float64(args)
        has_float64 = _computes_in_float64(loss, args64)
    known = partial(Reference, loss, argnums, args64, like)
    try:
        own = gradients(args)
        if not has_float64:
            return known(own, own, False, seed)
        with jax.enable_x64(True):
            return known(own, gradients(args64), True, seed)
    except NoDerivative as error:
        reason = f"the loss has no reverse-mode derivative: {describe_exception(error)}"
        return known(None, None, has_float64, seed, reason)


@partial(jax.jit, static_argnums=(0, 1))
def autodiff(loss: Callable[..., Any], argnums: Argnums, args: tuple[Any, ...]) -> Any:
    """`jax.grad`, compiled once for each loss and each set of shapes."""
    return jax.grad(loss, argnums, allow_int=True)(*args)


def chosen(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """The differentiated arguments."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def called(what: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """function(*args), with whatever it raises as a mistake of the caller's.

    Raises:
        FbpError: naming what was called, and what it raised.
    """
    try:
        return function(*args)
    except FbpError:
        raise
    except Exception as error:
        raised = describe_exception(error)
        raise FbpError(f"{what} can be called with the given arguments; it raised {raised}") from error


def _computes_in_float64(loss: Callable[..., Any], args64: tuple[Any, ...]) -> bool:
    try:
        return jax.eval_shape(loss, *args64).dtype == np.float64
    except Exception:
        # A kernel that takes float32 alone says so in whatever way it likes.
        return False


def _leaves(tree: Any, like: dict[str, Any]) -> Leaves:
    by = by_path(tree)
    return {path: np.asarray(by[path], np.float64) for path in like}
