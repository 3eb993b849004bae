"""What autodiff says of a loss at one point, in its own dtype and in float64, and what rounding does to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, describe_exception
from fbp.typing import Key
from fbp.verify import programs, slopes, traces
from fbp.verify.autodiff import Autodiff, Gradients, Leaves, ValueAndGradient
from fbp.verify.evaluation import (
    Argnums,
    InFloat64,
    Move,
    align,
    call_checked,
    check_argnums,
    choose_float64,
    lift_from,
    make_hashable,
    make_zeros,
    needs_x64,
    run,
    run_moved,
)
from fbp.verify.structure import by_path, is_inexact
from fbp.verify.tolerance import (
    as_real,
    distance,
    epsilon,
    floor_of,
    norm,
    norm_of,
    on_host,
    perturb,
    widest,
)

NoDerivative = (TypeError, NotImplementedError, ValueError, AssertionError, jax.errors.JAXTypeError)
"""What JAX raises where a function has no derivative of some kind."""
_OTHER_VALUE = 1e3
"""How many roundings of its terms a loss may differ from its value in float64, where it is the same function."""
SHIFTS = 2
"""At how many perturbed inputs a gradient function is called to see its own rounding."""


@dataclass(frozen=True)
class Reference:
    """A loss at one point, and its gradients by autodiff.

    Attributes:
        loss: called as loss(*args), gives a scalar.
        argnums: which arguments are differentiated.
        args: the arguments.
        inputs: the differentiated leaves by path, in their own dtypes; those that have no gradient are left out.
        float64: how the loss is evaluated in float64; None where it is not.
        why: why it is not.
        seed: of all that is drawn.
        x64: whether it computes with `jax.enable_x64` in its own dtypes.
        value: the loss.
        noise: how far it is from its value in float64.
        is_traced: whether it is compiled; not where it decides on values in Python.
        autodiff: its gradients; None where it has none, or where nothing is asked of them.
        silent: why there are none.
        caveat: why no gradient of this loss can be judged here; mostly empty.
    """

    loss: Callable[..., Any]
    argnums: Argnums
    args: tuple[Any, ...]
    inputs: dict[str, Any]
    float64: InFloat64 | None
    why: str
    seed: int
    x64: bool
    value: float
    autodiff: Autodiff | None
    noise: float = 0.0
    is_traced: bool = True
    silent: str = ""
    caveat: str = ""

    @property
    def wanted(self) -> Any:
        """The differentiated arguments."""
        return select_arguments(self.args, self.argnums)

    @cached_property
    def lengths(self) -> frozenset[int]:
        """Lengths of leading axes: what may be a number of examples."""
        return frozenset(np.shape(x)[0] for x in jax.tree.leaves(self.args) if np.ndim(x))

    def scale(self, path: str) -> float:
        """The size of a leaf's finite entries; where they are zero that of all leaves, or 1."""
        for paths in ((path,), tuple(self.inputs)):
            leaves = [as_real(self.inputs[p]) for p in paths]
            size = norm(np.array([norm_of(lambda x: np.where(np.isfinite(x), x, 0.0), x) for x in leaves]))
            if size:
                return size / sum(np.count_nonzero(np.isfinite(x)) for x in leaves) ** 0.5
        return 1.0

    def natural(self, path: str) -> float:
        """The size of a gradient by which the loss changes as a whole, or of the whole gradient if that is larger."""
        # Rounding tells how large the terms are that cancel in the loss.
        terms = max(abs(self.value), self.noise / self.finest)
        return max(
            terms / self.scale(path) if np.isfinite(terms) else 0.0, self.autodiff.total if self.autodiff else 0.0
        )

    def evaluate64(self, move: Move) -> tuple[float, Leaves]:
        """The loss and its gradient by autodiff in float64, at arguments that are moved."""
        assert self.float64 is not None
        with jax.enable_x64(True):
            function = self.float64.of(ValueAndGradient(self.loss, self.argnums))
            value, gradient = run_moved(function, on_host(self.args), move, self.is_traced)
            return float(value), _leaves(gradient, self.inputs)

    @cached_property
    def scale_of_terms(self) -> float:
        """What the loss changes by where every leaf changes as a whole: the size of what it is summed from."""
        if self.autodiff is None:
            return 0.0
        return sum(norm(g) * norm(as_real(self.inputs[path])) for path, g in self.autodiff.exact.here.items())

    def ways_to_lift(self) -> Iterator[tuple[InFloat64, Gradients]]:
        """How a gradient function may be lifted to float64, each with what it is compared with."""
        assert self.float64 is not None
        assert self.autodiff is not None
        is_lifted = self.float64.lifted_from is not None
        if is_lifted:
            yield self.float64, self.autodiff.exact
        if not (is_lifted and self.float64.wide == self.x64) and self.lifted:
            yield self.lifted

    @cached_property
    def lifted(self) -> tuple[InFloat64, Gradients] | None:
        """The gradients of the loss traced in its own dtypes and lifted to float64; None where it cannot be."""
        if self.autodiff is None or self.float64 is None:
            return None
        way = lift_from(self.loss, on_host(self.args), self.x64)
        try:
            return way, replace(self, float64=way)._measure64()[1]
        except Exception:
            # A program may hold operations that have no float64 form.
            return None

    def slope_by_differences(self, path: str, v: np.ndarray, steps: tuple[float, ...] = slopes.STEPS) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, from values of the loss; in float64 where there is a way."""
        eps = self.coarsest if self.float64 is None else epsilon(float)
        here = by_path(select_arguments(self._point, self.argnums))[path]
        there, v, values = self._take_scratch(here), _join_parts(v, here), [self._value]
        args = self._replace_leaf(self._point, path, there)
        for h in (side * h for h in steps for side in (1, -1)):
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(v, h, out=there, dtype=there.dtype)
                np.add(here, there, out=there)
            values.append(self._evaluate(args))
        return slopes.estimate_slope(np.asarray(values), steps, eps)

    def slope_forward(self, path: str, v: np.ndarray) -> slopes.Slope:
        """The derivative of the loss along v in one leaf, by forward-mode differentiation.

        Raises:
            TypeError: and the others of `NoDerivative`, where the loss has none.
        """
        if self.float64 is None:
            raise NotImplementedError(self.why)
        zeros = jax.tree.map(lambda x: make_zeros(x.shape, x.dtype) if is_inexact(x) else x, self._point)
        along = self._take_scratch(by_path(select_arguments(self._point, self.argnums))[path])
        along[...] = _join_parts(v, along)
        tangent = self._replace_leaf(zeros, path, along)
        with jax.enable_x64(True):
            push_forward = self.float64.of(slopes.PushForward(self.loss), times=2)
            value = float(self._run(push_forward, (*self._point, *tangent)))
        return slopes.Slope(value, 0.0, value, value)

    @cached_property
    def _point(self) -> tuple[Any, ...]:
        """The arguments where directions begin, in float64 where there is a way."""

        def convert(x: Any) -> Any:
            # In half precision a small step would be lost.
            wide = widest(x.dtype) if self.float64 else x.dtype if x.dtype.itemsize >= 4 else np.float32
            return align(x, wide)

        return jax.tree.map(lambda x: convert(x) if is_inexact(x) else x, on_host(self.args))

    @cached_property
    def _scratch(self) -> np.ndarray:
        return make_zeros((max(x.nbytes for x in jax.tree.leaves(self._point) if is_inexact(x)),), np.uint8)

    def _take_scratch(self, like: np.ndarray) -> np.ndarray:
        """Memory for one leaf, always the same: JAX keeps what it was given for a while."""
        return self._scratch[: like.nbytes].view(like.dtype).reshape(like.shape)

    @cached_property
    def _value(self) -> float:
        """The loss where directions begin."""
        return self._evaluate(self._point)

    def _evaluate(self, args: tuple[Any, ...]) -> float:
        """The loss along a direction; what is stopped in it stays what it is where directions begin."""
        loss = self.float64.of(self.loss) if self.float64 else self.loss
        with jax.enable_x64(self.float64 is not None or self.x64):
            if self.jumps[0]:
                return float(self._run(programs.KeepStopped(loss), (self._point, args)))
            return float(self._run(loss, args))

    def _replace_leaf(self, args: tuple[Any, ...], path: str, leaf: Any) -> tuple[Any, ...]:
        """Arguments with another leaf at the path of a differentiated one."""
        put = lambda place, x: leaf if jax.tree_util.keystr(place) == path else x
        changed = jax.tree.map_with_path(put, select_arguments(args, self.argnums))
        at = {self.argnums: changed} if isinstance(self.argnums, int) else dict(zip(self.argnums, changed, strict=True))
        return tuple(at.get(i, arg) for i, arg in enumerate(args))

    @cached_property
    def finest(self) -> float:
        """The smallest epsilon of the differentiated leaves."""
        return min(epsilon(x.dtype) for x in self.inputs.values())

    @cached_property
    def coarsest(self) -> float:
        """The largest epsilon of the dtypes that the loss computes in, and of its arguments."""
        dtypes = {x.dtype for x in jax.tree.leaves(self.args) if is_inexact(x)}
        if self._program is not None:
            dtypes |= programs.find_dtypes(self._program)
        return max(map(epsilon, dtypes))

    @cached_property
    def jumps(self) -> tuple[bool, str]:
        """Why values of the loss may change otherwise than its derivative says; see `find_jumps`."""
        return (False, "") if self._program is None else programs.find_jumps(self._program)

    @cached_property
    def _program(self) -> Any:
        """The loss traced in its own dtypes; None where it cannot be."""
        if not self.is_traced:
            return None
        with jax.enable_x64(self.x64):
            return programs.trace(self.loss, on_host(self.args)).jaxpr

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return run(function, args, self.is_traced)

    def _with_float64(self, own: Gradients) -> "Reference":
        """The reference with its gradients in float64 beside those in its own dtypes."""
        assert self.float64 is not None
        value, exact = self._measure64()
        noise = abs(value - self.value)
        whole = replace(self, autodiff=Autodiff(own, exact), noise=noise)
        is_other = noise > _OTHER_VALUE * self.finest * max(abs(self.value), whole.scale_of_terms)
        if is_other and self.float64.lifted_from is None and (other := whole.lifted):
            # In float64 it is another function, for a reason that its program does not show.
            return replace(self, float64=other[0])._with_float64(own)
        return whole

    def _measure64(self) -> tuple[float, Gradients]:
        assert self.float64 is not None
        arrays = on_host(self.args)
        value, here = self.evaluate64(Move.all_up(arrays, 0.0))
        at = lambda i: self.evaluate64(Move.draw(arrays, self.seed + i))[1]
        return value, Gradients.measure(here, at, self.float64.floor, SHIFTS)


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
        FbpError: the loss cannot be called with the arguments, or does not return a scalar; or no argument that is
            differentiated has a floating or complex leaf.
    """
    argnums, loss = check_argnums(argnums, len(args)), make_hashable(loss)
    x64 = needs_x64(args)
    with jax.enable_x64(x64):
        arrays = on_host(args)
        is_traced = _is_traceable(loss, arrays)
        called = partial(jax.eval_shape, loss) if is_traced else loss
        value = call_checked("the loss", called, arrays if is_traced else jax.tree.map(jnp.asarray, arrays))
        if not hasattr(value, "dtype") or jnp.shape(value) or not jnp.issubdtype(value.dtype, jnp.floating):
            received = jax.tree.map(lambda x: f"{x.dtype}{x.shape}" if hasattr(x, "dtype") else x, value)
            raise FbpError(
                f"the loss must return one floating-point number, got {received}; sum or average over the examples"
            )
        wanted = select_arguments(arrays, argnums)
        inputs = {path: x for path, x in by_path(wanted).items() if x is not None and is_inexact(x)}
        if not inputs:
            raise FbpError(
                "the differentiated arguments must have a floating or complex leaf, "
                f"got none in {jax.tree.structure(wanted)}; name others by argnums"
            )
        float64, why = choose_float64(loss, arrays, is_traced, x64)
        known = partial(Reference, loss, argnums, args, inputs, float64, why, seed, x64, is_traced=is_traced)
        compute = partial(run, ValueAndGradient(loss, argnums), is_traced=is_traced)
        try:
            value, gradient = compute(arrays)
            again, repeated = compute(arrays)
        except NoDerivative as error:
            why = f"the loss has no reverse-mode derivative: {describe_exception(error)}"
            value = run(loss, arrays, is_traced)
            caveat = _find_caveat(loss, arrays, (value,), (run(loss, arrays, is_traced),), is_traced)
            return known(float(value), None, silent=why, caveat=caveat)
        own = Gradients.measure(
            _leaves(gradient, inputs), lambda i: _leaves(compute(perturb(arrays, seed + i))[1], inputs)
        )
        again = (again, *_leaves(repeated, inputs).values())
        caveat = _find_caveat(loss, arrays, (value, *own.here.values()), again, is_traced)
    bare = known(float(value), None, caveat=caveat)
    if float64 is None:
        return replace(bare, autodiff=Autodiff(own, own, has_float64=False))
    try:
        return bare._with_float64(own)
    except Exception as error:
        # Lifted programs may hold operations that have no float64 form.
        reason = f"it cannot be evaluated in float64: {describe_exception(error)}"
        return replace(bare, float64=None, why=reason, autodiff=Autodiff(own, own, has_float64=False))


def _is_traceable(loss: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    try:
        jax.eval_shape(loss, *args)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        # It decides on values in Python, which `jax.grad` allows for what does not depend on what it differentiates.
        return False
    except Exception:
        # What is wrong with it shows where it is called.
        return True
    return True


def _find_caveat(loss: Callable[..., Any], args: tuple[Any, ...], first: Any, second: Any, is_traced: bool) -> str:
    if not np.isfinite(np.asarray(first[0], np.float64)):
        return f"the loss is {float(first[0])} at these arguments; choose others"
    differ = [distance(a, b) / (norm(as_real(a)) or 1.0) for a, b in zip(first, second, strict=True)]
    if is_traced and traces.draws_anew(loss, args):
        return "two calls of the loss with the same arguments differ; draw from a key that is an argument"
    if max(differ) > floor_of(np.float32):
        return f"two calls of the loss with the same arguments differ, by {max(differ):.1e}; draw from a key"
    return ""


def select_arguments(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """The differentiated arguments."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def make_seed(key: Key | None) -> int:
    """A seed for numpy from a key; a fixed one without.

    Raises:
        FbpError: it is no key.
    """
    try:
        return 0 if key is None else int(jax.random.bits(key))
    except (TypeError, ValueError) as error:
        raise FbpError(f"key must be a key of JAX, got {key!r}; use jax.random.key(0)") from error


def _leaves(tree: Any, wanted: dict[str, Any]) -> Leaves:
    leaves = by_path(tree)
    return {path: as_real(leaves[path]) for path in wanted}


def _join_parts(v: np.ndarray, like: Any) -> np.ndarray:
    """Real numbers in the form of a leaf, of a complex one the real and the imaginary parts; see `as_real`."""
    return v[..., 0] + 1j * v[..., 1] if jnp.iscomplexobj(like) else v
