"""The hand-written gradient of a network against autodiff of the same forward pass, and against float64."""

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.backprop import check_batch, loss_value, value_and_grad
from fbp.losses import Loss
from fbp.precision import cast
from fbp.typing import Activations, Key, Layer, Params
from fbp.verify.cost import CostComparison, compare_cost, compiled
from fbp.verify.measures import LeafDifference, differences

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative norm error up to which a leaf passes: some tens of epsilons, thousands in float64."""

_NOISE_FACTOR = 8.0


@dataclass(frozen=True)
class LeafComparison:
    """One leaf of the hand-written gradient.

    Attributes:
        path: the leaf's path in the parameters.
        dtype: its dtype.
        against_autodiff: its difference from `jax.grad` in the same dtype.
        against_float64: its difference from `jax.grad` in float64.
        autodiff_error: how far `jax.grad` in the same dtype is from float64, ||g_ad - g_64||.
        noise: how far `jax.grad` itself moves when every parameter moves by one rounding, as a norm.
        verdict: PASS, FAIL or INCONCLUSIVE.
        hint: why it did not pass.
    """

    path: str
    dtype: str
    against_autodiff: LeafDifference
    against_float64: LeafDifference
    autodiff_error: float
    noise: float
    verdict: Verdict
    hint: str

    @property
    def epsilons(self) -> float:
        """The relative error against float64 in units of the dtype's epsilon."""
        return self.against_float64.relative_error / float(jnp.finfo(self.dtype).eps)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Prints as a table; `to_json` gives the numbers.

    Attributes:
        leaves: one entry per leaf of the parameters.
        cost: what both gradients cost; None where it was not measured.
        value: the loss.
        device: where it ran.
    """

    leaves: tuple[LeafComparison, ...]
    cost: CostComparison | None
    value: float
    device: str

    @property
    def verdict(self) -> Verdict:
        """FAIL where one leaf fails, else INCONCLUSIVE where one is, else PASS."""
        found = {leaf.verdict for leaf in self.leaves}
        return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON: no NaN and no infinity, null in their place."""
        leaves = [
            {
                "path": leaf.path,
                "dtype": leaf.dtype,
                "verdict": leaf.verdict,
                "hint": leaf.hint,
                "relative_error": leaf.against_autodiff.relative_error,
                "relative_error_float64": leaf.against_float64.relative_error,
                "epsilons_float64": leaf.epsilons,
                "cosine": leaf.against_autodiff.cosine,
                "norm_ratio": leaf.against_autodiff.norm_ratio,
                "norm": leaf.against_autodiff.norm,
                "noise": leaf.noise,
                "worst_index": list(leaf.against_autodiff.worst),
            }
            for leaf in self.leaves
        ]
        cost = None
        if self.cost is not None:
            cost = dataclasses.asdict(self.cost) | {
                name: getattr(self.cost, name) for name in ("compile_ratio", "flops_ratio", "memory_ratio")
            }
        found = {"verdict": self.verdict, "loss": self.value, "device": self.device, "leaves": leaves, "cost": cost}
        return _without_nan(found)

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __rich__(self) -> Any:
        from fbp.verify.tables import comparison_table

        return comparison_table(self)

    def __str__(self) -> str:
        from fbp.verify.tables import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from fbp.verify.tables import as_html

        return as_html(self)


def compare(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Num[Array, "..."],
    weights: Float[Array, " m"] | None = None,
    key: Key | None = None,
    cost_seconds: float = 1.0,
) -> Comparison:
    """The hand-written gradient of a network, leaf by leaf, against `jax.grad` of the same forward pass.

    A leaf passes where its relative norm error against `jax.grad` in its own dtype is within `TOLERANCE`, or where
    float64 shows that it is within it, or no further off than `jax.grad`. Where rounding the parameters once moves
    the reference as far as the leaf is off, it is INCONCLUSIVE, or, where the whole leaf is that small, zero up to
    rounding, and passes.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets.
        weights: one per example.
        key: randomness for dropout; without it dropout is the identity.
        cost_seconds: how long to time both gradients; 0 measures no cost.

    Raises:
        FbpError: the shapes do not fit.
    """
    check_batch(X, Y)
    autodiff = jax.value_and_grad(partial(loss_value, net, loss))
    batch = (X, Y, weights, key)
    ours, theirs = (compiled(function, (params, *batch)) for function in (value_and_grad(net, loss), autodiff))
    value, found = ours.call(params, *batch)
    expected = theirs.call(params, *batch)[1]
    moved = theirs.call(_rounded_once(params), *batch)[1]
    with jax.enable_x64(True):
        exact = jax.jit(autodiff)(*cast((params, *batch), jnp.float64))[1]
        exact = jax.device_get(exact)
    rows = zip(
        jax.tree.leaves(params),
        differences(found, expected),
        differences(found, exact),
        differences(expected, exact),
        differences(moved, expected),
        strict=True,
    )
    leaves = tuple(_judge(str(p.dtype), auto, exact_, auto64, moved_) for p, auto, exact_, auto64, moved_ in rows)
    cost = compare_cost(ours, theirs, (params, *batch), cost_seconds) if cost_seconds > 0 else None
    return Comparison(leaves, cost, float(value), jax.devices()[0].device_kind)


def _rounded_once(params: Params) -> Params:
    """The parameters, every entry moved by half an epsilon of itself, up or down."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), max(len(leaves), 1))

    def moved(leaf: Array, key: Key) -> Array:
        signs = jax.random.rademacher(key, leaf.shape, leaf.dtype)
        return leaf * (1 + signs * float(jnp.finfo(leaf.dtype).eps))

    return jax.tree.unflatten(treedef, [moved(leaf, key) for leaf, key in zip(leaves, keys, strict=False)])


def _judge(
    dtype: str,
    against_autodiff: LeafDifference,
    against_float64: LeafDifference,
    autodiff: LeafDifference,
    moved: LeafDifference,
) -> LeafComparison:
    noise = moved.error if math.isfinite(moved.error) else 0.0
    verdict, hint = _verdict(TOLERANCE[dtype], against_autodiff, against_float64, autodiff.error, noise)
    path = against_autodiff.path
    return LeafComparison(path, dtype, against_autodiff, against_float64, autodiff.error, noise, verdict, hint)


def _verdict(
    tolerance: float, auto: LeafDifference, exact: LeafDifference, autodiff_error: float, noise: float
) -> tuple[Verdict, str]:
    if not auto.finite and auto.finite_ref:
        return "FAIL", "NaN or infinity where autodiff is finite"
    if not (auto.finite_ref and exact.finite_ref):
        return "INCONCLUSIVE", "the reference is NaN or infinite: smaller inputs or parameters"
    if max(auto.error, exact.error, exact.norm_ref) <= _NOISE_FACTOR * noise:
        return "PASS", "zero up to rounding"
    if min(auto.relative_error, exact.relative_error) <= tolerance or exact.error <= autodiff_error:
        return "PASS", ""
    if exact.error <= _NOISE_FACTOR * noise:
        return "INCONCLUSIVE", f"rounding the parameters once moves this leaf by {noise:.1e}"
    return "FAIL", f"norm ratio {auto.norm_ratio:.4g}, cosine {auto.cosine:.4g}, worst at {auto.worst}"


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_nan(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data
