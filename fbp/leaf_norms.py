"""Gradient norms of any JAX loss, leaf by leaf: Flax, Equinox, plain functions. Autodiff computes these gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fbp.cotangent import log10_norm
from fbp.errors import FbpError, unknown_name
from fbp.partition import combine, partition
from fbp.precision import widen


@dataclass(frozen=True)
class Leaf:
    """One array of the parameters.

    Attributes:
        path: where it lies in the pytree, e.g. "Dense_0/kernel".
        shape: its shape.
        log10_norm: log10 of the Euclidean norm of its gradient; minus infinity where it is zero.
        log10_parameter: log10 of the norm of the parameter itself.
        zeros: the fraction of entries whose gradient is exactly zero.
        finite: whether all entries of the gradient are.
    """

    path: str
    shape: tuple[int, ...]
    log10_norm: float
    log10_parameter: float
    zeros: float
    finite: bool

    @property
    def relative(self) -> float:
        """||gradient|| / ||parameter||; infinite for a parameter of zeros, NaN where both are zero."""
        if math.isinf(self.log10_parameter) and self.log10_parameter < 0:
            return math.nan if math.isinf(self.log10_norm) else math.inf
        power = self.log10_norm - self.log10_parameter
        return math.inf if power > 308 else 10.0**power


@dataclass(frozen=True)
class LeafNorms:
    """The gradient norms of one loss at one batch; a table by `str`.

    Attributes:
        value: the loss.
        leaves: in the order of the pytree.
    """

    value: float
    leaves: tuple[Leaf, ...]

    def __getitem__(self, path: str) -> Leaf:
        """The leaf at a path.

        Raises:
            FbpError: there is none.
        """
        for leaf in self.leaves:
            if leaf.path == path:
                return leaf
        raise unknown_name("leaf", path, [leaf.path for leaf in self.leaves])

    @property
    def log10_norm(self) -> float:
        """log10 of the norm of the whole gradient."""
        top = max(leaf.log10_norm for leaf in self.leaves)
        if not math.isfinite(top):
            return top
        return top + 0.5 * math.log10(sum(10.0 ** (2 * (leaf.log10_norm - top)) for leaf in self.leaves))

    def __str__(self) -> str:
        head = ("leaf", "shape", "||gradient||", "||parameter||", "relative", "zeros", "")
        rows = [
            (
                leaf.path,
                "x".join(map(str, leaf.shape)) or "scalar",
                _format_power(leaf.log10_norm),
                _format_power(leaf.log10_parameter),
                f"{leaf.relative:.2e}",
                f"{leaf.zeros:.1%}",
                "" if leaf.finite else "not finite",
            )
            for leaf in self.leaves
        ]
        total = ("all", "", _format_power(self.log10_norm), "", "", "", f"loss {self.value:.6g}")
        table = [head, *rows, total]
        width = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(f"{cell:{'<' if i < 2 else '>'}{width[i]}}" for i, cell in enumerate(row)) for row in table]
        return "\n".join(line.rstrip() for line in lines)


def gradient_norms(loss_fn: Callable[..., Any], params: Any, *data: Any, has_aux: bool = False) -> LeafNorms:
    """The norm of the gradient at every leaf of the parameters, also relative to the parameter.

    A function that is given again is not compiled again.

    Args:
        loss_fn: any function (params, *data) -> loss that JAX can differentiate, a scalar.
        params: a pytree; leaves that are not floating-point arrays (functions, integers) are left as they are, so that
            a whole Equinox model or Flax state may be given.
        data: what the loss takes beside them.
        has_aux: whether the loss returns (loss, something).

    Returns:
        A `LeafNorms`: it prints as a table, and its leaves are found by path.

    Raises:
        FbpError: the loss is not a scalar, or there is no floating-point array among the parameters.

    Example:
        >>> def loss(params, X, Y):
        ...     return jnp.mean((X @ params["W"] - Y) ** 2)
        >>> norms = fbp.gradient_norms(loss, {"W": jnp.ones((3, 1))}, jnp.eye(3), jnp.zeros((3, 1)))
        >>> round(norms["W"].relative, 4)  # ||2/3 W|| / ||W||
        0.6667
    """
    floating, rest = partition(params, _is_floating_array)
    if not jax.tree.leaves(floating):
        raise FbpError(
            "params must have a floating-point array to differentiate by, got a pytree without one; "
            "give the parameters, e.g. {'W': W, 'b': b}"
        )
    traced, constant = partition(rest, lambda leaf: isinstance(leaf, jax.Array))
    leaves, treedef = jax.tree.flatten(constant)
    static = loss_fn, has_aux, treedef, tuple(leaves)
    try:
        hash(static)
        run = _leaf_norms_compiled
    except TypeError:
        run = _leaf_norms
    value, readings = run(*static, jax.tree.map(jnp.asarray, floating), traced, data)
    shapes = jax.tree_util.tree_leaves_with_path(floating)
    return LeafNorms(
        float(value),
        tuple(
            Leaf(
                jax.tree_util.keystr(path, simple=True, separator="/"),
                np.shape(leaf),
                *(float(x) for x in reading[:3]),
                finite=bool(reading[3]),
            )
            for (path, leaf), reading in zip(shapes, readings, strict=True)
        ),
    )


def _leaf_norms(
    loss_fn: Callable[..., Any],
    has_aux: bool,
    treedef: Any,
    leaves: tuple[Any, ...],
    floating: Any,
    traced: Any,
    data: tuple[Any, ...],
) -> tuple[Array, list[tuple[Array, ...]]]:
    constant = treedef.unflatten(leaves)

    def loss(floating: Any) -> Array:
        out = loss_fn(combine(floating, combine(traced, constant)), *data)
        out = jnp.asarray(out[0] if has_aux else out)
        if out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
            raise FbpError(
                f"loss_fn must return one floating-point number, got {out.dtype} of shape {out.shape}; take the mean "
                "over examples, or pass has_aux=True where it returns (loss, aux)"
            )
        return out

    value, gradient = jax.value_and_grad(loss)(floating)
    readings = [
        (log10_norm(g), log10_norm(p), jnp.mean(g == 0, dtype=jnp.float32), jnp.all(jnp.isfinite(widen(g))))
        for p, g in zip(jax.tree.leaves(floating), jax.tree.leaves(gradient), strict=True)
    ]
    return value, readings


_leaf_norms_compiled = jax.jit(_leaf_norms, static_argnums=(0, 1, 2, 3))


def _is_floating_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _format_power(log10: float) -> str:
    if not math.isfinite(log10):
        return "0" if log10 < 0 else "not finite"
    exponent = math.floor(log10)
    return f"{10 ** (log10 - exponent):.2f}e{exponent:+03d}"
