"""Faults that engineers make in a rule of differentiation, put into a copy of a gradient program."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gradient_program import Program, Site, bind
from jax import lax
from operations.operation import is_inexact, stable_seed

Alter = Callable[[Site, list[Any], "Fault"], Sequence[Any]]
"""What an equation gives instead, from its inputs."""

TRIES = 3
"""At how many equations a fault is tried before the next kind."""


@dataclass(frozen=True)
class Fault:
    """One fault in one gradient program.

    Attributes:
        kind: a name of `IN_EQUATIONS` or `IN_RESULTS`.
        number: at which one of the places where there may be such a fault.
        places: how many there are; a program for other dtypes must have as many.
        choice: between variants.
        dtype: for which it was made.
    """

    kind: str
    number: int
    places: int
    choice: int
    dtype: str


def _shapes(site: Site) -> list[tuple[int, ...]]:
    return [getattr(atom.aval, "shape", ()) for atom in site.eqn.invars]


def _out(site: Site) -> Any:
    return site.eqn.outvars[0].aval


def _floats(site: Site) -> bool:
    return jnp.issubdtype(_out(site).dtype, jnp.inexact)


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val") and np.ndim(atom.val) == 0 and jnp.issubdtype(atom.aval.dtype, jnp.floating)


def _is_sum(site: Site) -> bool:
    """Two terms that both depend on the cotangent."""
    return site.primitive in ("add_any", "add", "sub") and all(site.is_backward)


def _is_product(site: Site) -> bool:
    """The cotangent times, or divided by, something else."""
    own = site.is_backward
    ordered = (site.primitive == "mul" and sum(own) == 1) or (site.primitive == "div" and own == (True, False))
    return ordered and _shapes(site)[own.index(True)] == _out(site).shape


def _factor(site: Site, inputs: list[Any]) -> tuple[Any, Any]:
    """The cotangent and the factor of a product."""
    own = site.is_backward.index(True)
    return inputs[own], inputs[1 - own]


def _backward(*primitives: str) -> Callable[[Site], bool]:
    return lambda site: site.primitive in primitives and any(site.is_backward)


def _equal_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The last two axes that have one length."""
    pairs = ((i, j) for j in reversed(range(len(shape))) for i in reversed(range(j)) if shape[i] == shape[j] > 1)
    return next(pairs, None)


def _has_equal_axes(site: Site) -> bool:
    return _equal_axes(_out(site).shape) is not None


def _transpose(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    axes = _equal_axes(_out(site).shape)
    return [jnp.swapaxes(bind(site.eqn, inputs)[0], *axes)] if axes else inputs


def _swapped_for_sum(site: Site) -> tuple[int, int] | None:
    """A summed axis and a kept one of its length."""
    shape, axes = _shapes(site)[0], site.eqn.params["axes"]
    pairs = ((i, j) for i in axes for j in range(len(shape)) if j not in axes and shape[i] == shape[j] > 1)
    return next(pairs, None)


def _sum_other_axis(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    return bind(site.eqn, [jnp.swapaxes(inputs[0], *_swapped_for_sum(site))])


def _forget_last(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    """A sum, or the inner dimension of a product, without its last entry."""
    axes = site.eqn.params["axes"] if site.primitive == "reduce_sum" else site.eqn.params["dimension_numbers"][0][0]
    axis = axes[fault.choice % len(axes)]
    n = inputs[0].shape[axis]
    kept = (jnp.arange(n) < n - 1).reshape(-1, *[1] * (inputs[0].ndim - axis - 1))
    return bind(site.eqn, [jnp.where(kept, inputs[0], jnp.zeros_like(inputs[0])), *inputs[1:]])


def _sums_several(site: Site) -> bool:
    if not _backward("reduce_sum", "dot_general")(site):
        return False
    axes = site.eqn.params["axes"] if site.primitive == "reduce_sum" else site.eqn.params["dimension_numbers"][0][0]
    return len(axes) > 0 and all(_shapes(site)[0][axis] > 1 for axis in axes)


def _drop_term(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    if fault.choice % 2:
        return [inputs[0]]
    return [-inputs[1] if site.primitive == "sub" else inputs[1]]


def _flip_sign(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    if site.primitive == "neg":
        return inputs
    return [inputs[0] + inputs[1] if site.primitive == "sub" else inputs[0] - inputs[1]]


def _square_factor(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    d, factor = _factor(site, inputs)
    return bind(site.eqn, [d * factor if own else factor for own in site.is_backward])


def _is_mask(site: Site) -> bool:
    return _backward("select_n")(site) and len(site.eqn.invars) == 3 and site.eqn.invars[0].aval.dtype == bool


def _drop_mask(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    return [inputs[1 + site.is_backward[1:].index(True)]]


def _shift_mask(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    return bind(site.eqn, [jnp.roll(inputs[0], 1, -1), *inputs[1:]])


def _shift(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    (out, *others), shape = bind(site.eqn, inputs), _out(site).shape
    long = [axis for axis, n in enumerate(shape) if n > 1]
    return [jnp.roll(out, 1 - 2 * (fault.choice % 2), long[fault.choice // 2 % len(long)]), *others]


def _lose_duplicates(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    names = ("indices_are_sorted", "unique_indices", "mode")
    options = {name: site.eqn.params[name] for name in names}
    return [lax.scatter(*inputs, site.eqn.params["dimension_numbers"], **options)]


def _keep_order(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    if site.primitive == "rev":
        return inputs
    return bind(site.eqn, inputs, reverse=not site.eqn.params["reverse"])


def _drop_step(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    """A loop that is one step shorter: what the last step would give is zero."""
    params = site.eqn.params
    fixed, last = params["num_consts"] + params["num_carry"], 0 if params["reverse"] else params["length"] - 1
    shorter = [np.s_[1:], np.s_[:-1]][last > 0]
    inputs = [x if i < fixed else x[shorter] for i, x in enumerate(inputs)]
    options = {"length": params["length"] - 1}
    if "_split_transpose" in params:
        options["_split_transpose"] = params["_split_transpose"]
    outputs = bind(site.eqn, inputs, **options)
    pad = lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x] if last == 0 else [x, jnp.zeros_like(x[:1])])
    return [x if i < params["num_carry"] else pad(x) for i, x in enumerate(outputs)]


_MOVES = (
    "slice", "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "scatter-add", "pad", "concatenate", "split",
    "select_and_scatter_add",
)  # fmt: skip
_BINARY = ("div", "dot_general", "triangular_solve", "pallas_call", "complex")
_CONTRACTIONS = ("sin", "cos", "tanh", "logistic", "exp", "erf", "erfc", "square", "sqrt", "rsqrt", "atan", "log1p")
_SMOOTH = {
    "sin": jnp.cos,
    "cos": jnp.sin,
    "tanh": jax.nn.sigmoid,
    "logistic": jnp.tanh,
    "exp": jnp.expm1,
    "expm1": jnp.exp,
    "exp2": jnp.exp,
    "log": jnp.log1p,
    "log1p": jnp.log,
    "rsqrt": jnp.sqrt,
    "sqrt": jnp.cbrt,
    "erf": jnp.tanh,
    "erfc": jax.nn.sigmoid,
    "sinh": jnp.cosh,
    "cosh": jnp.sinh,
    "atan": jnp.tanh,
    "square": jnp.abs,
    "lgamma": jax.scipy.special.digamma,
    "digamma": jnp.log,
    "abs": jnp.square,
    "sign": jnp.tanh,
    "bessel_i0e": jax.scipy.special.i1e,
    "bessel_i1e": jax.scipy.special.i0e,
    "integer_pow": jnp.square,
    "max": jnp.minimum,
    "min": jnp.maximum,
    "eq": jnp.not_equal,
    "ne": jnp.equal,
    "lt": jnp.greater,
    "gt": jnp.less,
    "le": jnp.greater,
    "ge": jnp.less,
}
"""A function that is taken for another one."""


def _is_residual(site: Site) -> bool:
    """A value from the forward pass."""
    return (
        not any(site.is_backward) and _out(site).shape != () and not any(a.aval.dtype == bool for a in site.eqn.invars)
    )


def _mistake_function(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    return [_SMOOTH[site.primitive](*inputs).astype(_out(site).dtype)]


def _move_point(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    """The derivative at the output instead of the input."""
    return bind(site.eqn, bind(site.eqn, inputs))


def _change_constant(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    at = next(i for i, atom in enumerate(site.eqn.invars) if _is_literal(atom))
    constant, other = inputs[at], inputs[1 - at]
    if site.primitive == "add" and 0 < abs(float(constant)) < 0.01:
        # The small number that belongs into the root, outside of it.
        return [jnp.square(jnp.sqrt(other) + constant)]
    changed = {2.0: 1.0, 0.5: 1.0}.get(float(constant), 1.01 * constant) if fault.choice % 2 else 1.01 * constant
    return bind(site.eqn, [jnp.asarray(changed, constant.dtype) if i == at else x for i, x in enumerate(inputs)])


def _has_constant(site: Site) -> bool:
    literals = [float(atom.val) for atom in site.eqn.invars if _is_literal(atom)]
    named = site.primitive in ("mul", "add", "sub", "div", "pow", "max")
    return named and len(site.eqn.invars) == 2 and len(literals) == 1 and 0 < abs(literals[0]) < 1e3


def _drop_conjugate(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    if site.primitive == "conj":
        return bind(site.eqn, [x.conj() for x in inputs])
    return bind(site.eqn, [x if own else x.conj() for x, own in zip(inputs, site.is_backward, strict=True)])


def _needs_conjugate(site: Site) -> bool:
    complex_inputs = all(jnp.issubdtype(a.aval.dtype, jnp.complexfloating) for a in site.eqn.invars)
    mixed = sum(site.is_backward) == 1 and site.primitive in ("mul", "div", "dot_general")
    return complex_inputs and (mixed or site.primitive == "conj")


def _compute_narrowly(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    narrow = lambda x: jnp.asarray(x).astype(_NARROWER[fault.dtype]).astype(x.dtype)
    return [narrow(x) for x in bind(site.eqn, [narrow(x) if is_inexact(x) else x for x in inputs])]


_NARROWER = {"float64": "float32", "float32": "bfloat16", "bfloat16": "float8_e4m3", "float16": "float8_e4m3"}
"""The dtype that somebody computes in by mistake; the same one where the gradient is asked for in float64."""
_COSTLY = ("mul", "div", "dot_general", "reduce_sum", "add_any", "sub", "conv_general_dilated", "exp", "tanh", "cumsum")


def _is_costly(site: Site) -> bool:
    return site.primitive in _COSTLY and jnp.issubdtype(_out(site).dtype, jnp.floating)


def _forget_tile(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    """A kernel that does not reach the last rows of the cotangent."""
    cut = lambda x: x.at[-1].set(0) if x.ndim else x
    return bind(site.eqn, [cut(x) if own else x for x, own in zip(inputs, site.is_backward, strict=True)])


def _swap_operands(site: Site, inputs: list[Any], fault: "Fault") -> Sequence[Any]:
    return bind(site.eqn, [inputs[1], inputs[0], *inputs[2:]])


IN_EQUATIONS: dict[str, tuple[Callable[[Site], bool], Alter]] = {
    "term dropped": (_is_sum, _drop_term),
    "sign of a term": (lambda site: _is_sum(site) or _backward("neg")(site), _flip_sign),
    "chain factor missing": (_is_product, lambda site, inputs, fault: [_factor(site, inputs)[0]]),
    "chain factor twice": (_is_product, _square_factor),
    "transposed": (lambda site: _backward("transpose", "dot_general")(site) and _has_equal_axes(site), _transpose),
    "wrong axis of a sum": (
        lambda site: _backward("reduce_sum")(site) and _swapped_for_sum(site) is not None,
        _sum_other_axis,
    ),
    "wrong axis of a broadcast": (
        lambda site: _backward("broadcast_in_dim")(site) and _has_equal_axes(site),
        _transpose,
    ),
    "mask inverted": (_is_mask, lambda site, inputs, fault: bind(site.eqn, [~inputs[0], *inputs[1:]])),
    "mask dropped": (_is_mask, _drop_mask),
    "mask shifted": (lambda site: _is_mask(site) and _shapes(site)[0] != (), _shift_mask),
    "off by one": (lambda site: _backward(*_MOVES)(site) and max(_out(site).shape, default=1) > 1, _shift),
    "duplicates lost": (_backward("scatter-add"), _lose_duplicates),
    "order forgotten": (_backward("rev", "cumsum", "cumlogsumexp", "cumprod", "scan"), _keep_order),
    "step of a loop dropped": (lambda site: _backward("scan")(site) and site.eqn.params["length"] > 1, _drop_step),
    "last entry of a sum forgotten": (_sums_several, _forget_last),
    "last tile forgotten": (_backward("pallas_call"), _forget_tile),
    "operands swapped": (lambda site: _backward(*_BINARY)(site) and len(set(_shapes(site)[:2])) == 1, _swap_operands),
    "derivative at the wrong point": (lambda site: _is_residual(site) and site.primitive in _CONTRACTIONS, _move_point),
    "another function": (lambda site: _is_residual(site) and site.primitive in _SMOOTH, _mistake_function),
    "constant changed": (_has_constant, _change_constant),
    "conjugate missing": (_needs_conjugate, _drop_conjugate),
    "narrower dtype": (_is_costly, _compute_narrowly),
}
"""Where there may be a fault of a kind, and how it is put there."""


Result = Callable[[Any, int], Any]
"""A leaf of the gradient with a fault, from the right one and a number that chooses between variants."""


def _change_entry(factor: float) -> Result:
    return lambda g, choice: g.ravel().at[choice % g.size].multiply(factor).reshape(g.shape)


def _offset(g: Any, choice: int) -> Any:
    size = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(g))))
    return g + jnp.where(size > 0, size, 1).astype(g.dtype) * jnp.asarray(0.2, g.dtype)


def _transpose_leaf(g: Any, choice: int) -> Any:
    axes = _equal_axes(g.shape)
    return jnp.swapaxes(g, *axes) if axes else g


def _offset_entry(g: Any, choice: int) -> Any:
    return g.ravel().at[choice % g.size].add(1).reshape(g.shape)


IN_RESULTS: dict[str, Result] = {
    "one entry doubled": _change_entry(2),
    "one entry zero": _change_entry(0),
    "one entry off": _offset_entry,
    "last slice zero": lambda g, choice: g.at[-1].set(0) if g.ndim else g,
    "result shifted": lambda g, choice: jnp.roll(g, 1, -1) if g.ndim else g,
    "result transposed": _transpose_leaf,
    "offset": _offset,
    "argument detached": lambda g, choice: jnp.zeros_like(g),
    "ones instead of zeros": lambda g, choice: jnp.where(g == 0, jnp.ones_like(g), g),
    "scaled": lambda g, choice: g * jnp.asarray((2, 0.5, -1, 1.02)[choice % 4], g.dtype),
}
"""Faults in one leaf of the gradient."""


@dataclass(frozen=True)
class Rule:
    """A gradient program as a gradient function, evaluated equation by equation.

    Attributes:
        program: the right one.
        fault: what is wrong; None for the right one.
        is_split: whether two gradients are added up, each for one half of the outputs.
    """

    program: Program
    fault: Fault | None = None
    is_split: bool = False

    def __call__(self, *args: Any) -> Any:
        return self._run(args, self.program.draw_cotangents(args))

    def pull_back(self, args: tuple[Any, ...], d: Any) -> tuple[Any, ...]:
        """The gradients for cotangents d of the outputs: the second function of a `jax.custom_vjp`."""
        gradients = self._run(args, jax.tree.leaves(d))
        return gradients if isinstance(self.program.argnums, tuple) else (gradients,)

    def _run(self, args: tuple[Any, ...], cotangents: list[Any]) -> Any:
        if self.is_split:
            odd = [jnp.arange(d.size).reshape(d.shape) % 2 == 1 for d in cotangents]
            parts = (
                [jnp.where(m == half, d, 0) for m, d in zip(odd, cotangents, strict=True)] for half in (True, False)
            )
            return jax.tree.map(jnp.add, *(self.program.run(args, part) for part in parts))
        fault = self.fault
        if fault is None:
            return self.program.run(args, cotangents)
        if fault.kind in IN_EQUATIONS:
            applies, alter = IN_EQUATIONS[fault.kind]
            sites = [site for site in self.program.trace(args).sites if applies(site)]
            if len(sites) != fault.places:
                raise Inapplicable(f"{len(sites)} places for {fault}")
            change = lambda site, inputs: alter(site, inputs, fault)
            return self.program.run(args, cotangents, sites[fault.number], change)
        leaves, treedef = jax.tree.flatten(self.program.run(args, cotangents))
        changed = IN_RESULTS[fault.kind](leaves[fault.number], fault.choice)
        return treedef.unflatten([changed if i == fault.number else g for i, g in enumerate(leaves)])


class Inapplicable(Exception):
    """A program for other dtypes has other equations, so that the fault cannot be put there."""


def propose_faults(program: Program, args: tuple[Any, ...], dtype: str) -> Iterator[list[Fault]]:
    """Faults in random order, those of one kind together: first kinds in the equations, then in the results."""
    draw = np.random.default_rng(stable_seed(program.operation.name, dtype))
    trace = program.trace(args)
    places = {kind: sum(map(applies, trace.sites)) for kind, (applies, _) in IN_EQUATIONS.items()}
    leaves = len(jax.tree.leaves(trace.out))
    for kinds, counts in ((IN_EQUATIONS, places), (IN_RESULTS, dict.fromkeys(IN_RESULTS, leaves))):
        for kind in draw.permutation(list(kinds)).tolist():
            numbers = draw.permutation(counts[kind])[:TRIES].tolist()
            yield [Fault(kind, n, counts[kind], int(draw.integers(1000)), dtype) for n in numbers]
