"""What all rows of a conformance report use: the operation on flat dictionaries, its eager gradient, the judge."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fbp.errors import FbpError
from fbp.partition import combine
from fbp.verify.gradients import split_constants
from fbp.verify.tolerance import differences

Leaves = dict[str, Any]
"""Arrays by their path in the arguments or in the result, e.g. `args[0]['W']`."""

_FACTOR = 8.0
_PROBES = 3


class Differs(Exception):
    """A row fails; the message says why."""


class Unavailable(Exception):
    """A row cannot be computed; the message says why."""


class Eager(NamedTuple):
    """One `jax.vjp` outside of any transformation."""

    outputs: Leaves
    pullback: Callable[[Leaves], tuple[Leaves]]
    gradient: Leaves


class Case:
    """An operation with its arguments sorted by what differentiation does with them.

    Args:
        op: a function that JAX can differentiate in reverse mode.
        args: its arguments: pytrees.

    Attributes:
        active: the floating leaves, as strongly typed arrays.
        passive: the other arrays: integers, booleans, keys.

    Raises:
        FbpError: the arguments have no floating leaf.
    """

    def __init__(self, op: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.op = op
        arrays, self._constants = split_constants(args, op)
        paths, self._treedef = jax.tree_util.tree_flatten_with_path(arrays)
        leaves = {f"args{jax.tree_util.keystr(path)}": leaf for path, leaf in paths}
        self._paths = list(leaves)
        dtypes = {path: jax.dtypes.result_type(leaf) for path, leaf in leaves.items()}
        known = {path: jnp.asarray(leaf, dtypes[path]) for path, leaf in leaves.items()}
        self.active, self.passive = (
            {path: leaf for path, leaf in known.items() if jnp.issubdtype(dtypes[path], jnp.inexact) == floating}
            for floating in (True, False)
        )
        if not self.active:
            kinds = ", ".join(type(arg).__name__ for arg in args) or "none"
            raise FbpError(
                f"conformance must have floating arguments to differentiate by, got {kinds}; pass float arrays"
            )

    def call(self, active: Leaves, passive: Leaves | None = None) -> Leaves:
        """The operation's floating results."""
        known = (self.passive if passive is None else passive) | active
        arrays = self._treedef.unflatten([known[path] for path in self._paths])
        leaves = jax.tree_util.tree_leaves_with_path(self.op(*combine(arrays, self._constants)))
        named = {f"result{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
        return {path: leaf for path, leaf in named.items() if jnp.issubdtype(jax.typeof(leaf).dtype, jnp.inexact)}

    def gradient(self, active: Leaves, cotangent: Leaves) -> Leaves:
        """The gradient by the floating leaves, of the results' inner product with the cotangent."""
        return jax.vjp(self.call, active)[1](cotangent)[0]

    @cached_property
    def eager(self) -> Eager:
        """The gradient that the others are compared with."""
        outputs, pullback = jax.vjp(self.call, self.active)
        if not outputs:
            raise Differs("the operation gives no floating result; return one")
        return Eager(outputs, pullback, pullback(_random(outputs, 0))[0])

    @cached_property
    def base(self) -> Eager:
        """`eager`, for the rows that need it.

        Raises:
            Unavailable: it raises, or is not finite.
        """
        try:
            eager = self.eager
        except Exception as error:
            raise Unavailable("there is no eager gradient to compare with; see the row eager") from error
        if not_finite(eager.gradient):
            raise Unavailable("the eager gradient is not finite; see the row eager")
        return eager

    def cotangent(self, seed: int = 0) -> Leaves:
        """Standard normal entries in the results' shapes and dtypes; seed 0 is that of `eager`."""
        return _random(self.base.outputs, seed)

    @cached_property
    def members(self) -> tuple[Leaves, Leaves, Leaves]:
        """Three points for a batch or a loop: the arguments, others of the same kind, the arguments."""
        # Reversing keeps bounds, norms and positive definiteness, and 15/16 moves scalars too.
        other = {path: jnp.flip(leaf) * 0.9375 for path, leaf in self.active.items()}
        with contextlib.suppress(Exception):
            if not not_finite(self.gradient(other, self.cotangent(1))):
                return self.active, other, self.active
        return self.active, self.active, self.active

    @cached_property
    def eps(self) -> float:
        """The epsilon of the coarsest dtype in arguments, results and everything between."""
        dtypes = {leaf.dtype for leaf in (*self.active.values(), *self.base.outputs.values())}
        # Where it cannot be traced, the row jit says so.
        with contextlib.suppress(Exception):
            dtypes |= set(_dtypes(jax.make_jaxpr(self.gradient)(self.active, self.cotangent()).jaxpr))
        return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)

    @cached_property
    def tolerance(self) -> float:
        """The relative norm error that reordering a sum may cost.

        8 (eps + eps_sum sqrt(n)): one rounding of the result, and the random walk of n roundings in a sum over the
        largest argument or result. Half precision is summed in float32.
        """
        leaves = (*self.active.values(), *self.base.outputs.values())
        n = max(leaf.size for leaf in leaves)
        return _FACTOR * (self.eps + min(self.eps, float(jnp.finfo(jnp.float32).eps)) * n**0.5)

    @property
    def point(self) -> tuple[Leaves, Leaves]:
        """What `gradient` is called with to give the eager gradient."""
        return self.active, self.cotangent()

    def agree(
        self, what: str, gradient: Leaves, reference: Callable[..., Leaves] | None = None, *inputs: Leaves
    ) -> float:
        """Hold each leaf of a gradient against a reference.

        A leaf agrees where ||g - g_ref|| <= tolerance ||g_ref||, or where the reference itself moves that far when its
        inputs move by one rounding, as one that is zero up to rounding does.

        Args:
            what: what was computed, for the message.
            gradient: what was computed.
            reference: gives the gradient to compare with; without it, the eager one.
            *inputs: what the reference is called with.

        Returns:
            The largest relative norm error in units of `eps`.

        Raises:
            Differs: a leaf does not agree.
        """
        if reference is None:
            reference, inputs = self.gradient, self.point
        expected = reference(*inputs)
        rows = differences(_real(gradient), _real(expected))
        noise = None
        for path, row in zip(sorted(expected), rows, strict=True):
            if not (row.finite and row.finite_ref):
                raise Differs(f"{what}: NaN or infinity in {path}")
            if row.error <= self.tolerance * row.norm_ref:
                continue
            noise = noise or self._noise(reference, inputs, expected)
            if row.error > self.tolerance * row.norm_ref + _FACTOR * noise[path]:
                raise Differs(
                    f"{what}: {path} differs by {row.relative_error:.1e} of its norm, {self.tolerance:.1e} allowed; "
                    f"norm ratio {row.norm_ratio:.4g}, cosine {row.cosine:.4g}, worst at {row.worst}"
                )
        return max((row.relative_error for row in rows if row.norm_ref), default=0.0) / self.eps

    def perturb(self, tree: Any, seed: int) -> Any:
        """Arrays with every entry moved by one epsilon of itself, up or down."""
        rng = np.random.default_rng(seed)

        def perturb_leaf(leaf: Array) -> Array:
            return leaf * jnp.asarray(1 + self.eps * rng.choice([-1.0, 1.0], leaf.shape), leaf.dtype)

        return jax.tree.map(perturb_leaf, tree)

    def _noise(self, reference: Callable[..., Leaves], inputs: tuple[Leaves, ...], expected: Leaves) -> Leaves:
        noise = dict.fromkeys(expected, 0.0)
        for seed in range(_PROBES):
            # A point at the edge of the domain may leave it, and then measures nothing.
            with contextlib.suppress(Exception):
                rows = differences(_real(reference(*self.perturb(inputs, seed))), _real(expected))
                for path, row in zip(sorted(expected), rows, strict=True):
                    noise[path] = max(noise[path], row.error if row.finite else 0.0)
        return noise


def not_finite(leaves: Leaves) -> list[str]:
    """The paths of the leaves that have a NaN or an infinity."""
    return [path for path, leaf in _real(leaves).items() if not np.isfinite(leaf).all()]


def _random(like: Leaves, seed: int) -> Leaves:
    rng = np.random.default_rng(seed)
    values = {}
    for path, leaf in sorted(like.items()):
        real, imaginary = rng.standard_normal((2, *leaf.shape))
        is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        values[path] = jnp.asarray(real + 1j * imaginary if is_complex else real, leaf.dtype)
    return values


def _real(leaves: Leaves) -> Leaves:
    """On the host, in float64, a complex number as two real ones."""
    host = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    return {
        path: np.stack([np.real(leaf), np.imag(leaf)], -1) if np.iscomplexobj(leaf) else leaf.astype(np.float64)
        for path, leaf in host.items()
    }


def _dtypes(jaxpr: Any) -> Iterator[Any]:
    """The inexact dtypes of all that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            dtype = getattr(variable.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                yield dtype
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(parameter):
                yield from _dtypes(getattr(parameter, "jaxpr", parameter))


def _is_program(thing: Any) -> bool:
    return hasattr(thing, "eqns") or hasattr(getattr(thing, "jaxpr", None), "eqns")
