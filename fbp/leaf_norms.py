"""Gradient norms of any JAX loss, leaf by leaf: Flax, Equinox, plain functions. Autodiff computes these gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.cotangent import log10_norm
from fbp.errors import FbpError, unknown_name
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
                _power(leaf.log10_norm),
                _power(leaf.log10_parameter),
                f"{leaf.relative:.2e}",
                f"{leaf.zeros:.1%}",
                "" if leaf.finite else "not finite",
            )
            for leaf in self.leaves
        ]
        total = ("all", "", _power(self.log10_norm), "", "", "", f"loss {self.value:.6g}")
        table = [head, *rows, total]
        width = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(f"{cell:{'<' if i < 2 else '>'}{width[i]}}" for i, cell in enumerate(row)) for row in table]
        return "\n".join(line.rstrip() for line in lines)


def gradient_norms(loss_fn: Callable[..., Any], params: Any, *data: Any, has_aux: bool = False) -> LeafNorms:
    """The norm of the gradient at every leaf of the parameters, also relative to the parameter.

    A function that is given again is not compiled again.

    Args:
        loss_fn: any function (params, *data) -> loss that JAX can differentiate, a scalar.
        params: a pytree; leaves that are no floating-point arrays (functions, integers) are left as they are, so that
            an Equinox model or a Flax state may stand here whole.
        data: what the loss takes beside them.
        has_aux: whether the loss returns (loss, something).

    Returns:
        A `LeafNorms`.

    Raises:
        FbpError: the loss is no scalar, or there is no floating-point array among the parameters.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    differentiable = tuple(_is_float(leaf) for _, leaf in with_paths)
    arrays = [jnp.asarray(leaf) for (_, leaf), mine in zip(with_paths, differentiable, strict=True) if mine]
    if not arrays:
        raise FbpError("the gradient is that of floating-point arrays; received parameters without one; give a pytree")
    rest = [leaf for (_, leaf), mine in zip(with_paths, differentiable, strict=True) if not mine]
    traced = [leaf for leaf in rest if isinstance(leaf, jax.Array)]
    fixed = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in rest)
    try:
        hash((loss_fn, fixed))
        run = _leaf_norms_compiled
    except TypeError:
        run = _leaf_norms
    value, readings = run(loss_fn, treedef, differentiable, fixed, has_aux, arrays, traced, data)
    paths = [path for (path, _), mine in zip(with_paths, differentiable, strict=True) if mine]
    leaves = [
        Leaf(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            array.shape,
            float(reading[0]),
            float(reading[1]),
            float(reading[2]),
            bool(reading[3]),
        )
        for path, array, reading in zip(paths, arrays, readings, strict=True)
    ]
    return LeafNorms(float(value), tuple(leaves))


def _leaf_norms(
    loss_fn: Callable[..., Any],
    treedef: Any,
    differentiable: tuple[bool, ...],
    fixed: tuple[Any, ...],
    has_aux: bool,
    arrays: Sequence[Array],
    traced: Sequence[Array],
    data: tuple[Any, ...],
) -> tuple[Array, list[tuple[Array, ...]]]:
    def loss(arrays: Sequence[Array]) -> Array:
        mine, others, kept = iter(arrays), iter(traced), iter(fixed)
        leaves = []
        for is_mine in differentiable:
            leaf = next(mine) if is_mine else next(kept)
            leaves.append(next(others) if not is_mine and leaf is None else leaf)
        out = loss_fn(jax.tree_util.tree_unflatten(treedef, leaves), *data)
        out = jnp.asarray(out[0] if has_aux else out)
        if out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
            raise FbpError(
                f"a loss is one real number; received {out.dtype} of shape {out.shape}; take the mean over examples, "
                "or has_aux=True where the function returns (loss, aux)"
            )
        return out

    value, gradients = jax.value_and_grad(loss)(list(arrays))
    readings = [
        (log10_norm(g), log10_norm(p), jnp.mean(g == 0, dtype=jnp.float32), jnp.all(jnp.isfinite(widen(g))))
        for p, g in zip(arrays, gradients, strict=True)
    ]
    return value, readings


_leaf_norms_compiled = jax.jit(_leaf_norms, static_argnums=(0, 1, 2, 3, 4))


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _power(log10: float) -> str:
    if not math.isfinite(log10):
        return "0" if log10 < 0 else "not finite"
    exponent = math.floor(log10)
    return f"{10 ** (log10 - exponent):.2f}e{exponent:+03d}"
