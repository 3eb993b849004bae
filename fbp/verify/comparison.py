"""The hand-written gradient of a network against autodiff of the same forward pass, and against float64, with costs."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.backprop import check_batch, value_and_grad
from fbp.cost import CostComparison, compare_cost, compiled
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params
from fbp.verify.hints import hint
from fbp.verify.judges import by_autodiff, point
from fbp.verify.measures import LeafDifference, difference, differences
from fbp.verify.networks import NetworkLoss
from fbp.verify.opinion import EXIT_STATUS, Verdict, worst
from fbp.verify.reference import Reference
from fbp.verify.result import Printable, without_nan
from fbp.verify.structure import by_path


@dataclass(frozen=True)
class LeafComparison:
    """One leaf of the hand-written gradient.

    Attributes:
        path: the leaf's path in the parameters.
        dtype: its dtype.
        against_autodiff: its difference from `jax.grad` in the same dtype.
        against_float64: its difference from `jax.grad` in float64.
        autodiff_error: how far `jax.grad` in the same dtype is from float64, ||g_ad - g_64||.
        explained: the norm of a difference from float64 that rounding explains.
        verdict: PASS, FAIL or INCONCLUSIVE.
        hint: what a leaf looks like that fails, or why it cannot be told.
    """

    path: str
    dtype: str
    against_autodiff: LeafDifference
    against_float64: LeafDifference
    autodiff_error: float
    explained: float
    verdict: Verdict
    hint: str

    @property
    def epsilons(self) -> float:
        """The relative error against float64 in units of the dtype's epsilon."""
        return self.against_float64.relative_error / float(jnp.finfo(self.dtype).eps)


@dataclass(frozen=True)
class Comparison(Printable):
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
        return worst(leaf.verdict for leaf in self.leaves)

    @property
    def exit_status(self) -> int:
        """0 where all pass, 1 where one fails, 3 where none fails and one is inconclusive."""
        return EXIT_STATUS[self.verdict]

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
                "explained_by_rounding": leaf.explained,
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
        return without_nan(found)

    def __rich__(self) -> Any:
        from fbp.verify.tables import comparison_table

        return comparison_table(self)


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

    A leaf passes where its relative norm error against `jax.grad` in its own dtype or in float64 is within the
    tolerance of the dtype, or is explained by rounding that is small beside the leaf. Where rounding may move a leaf as
    far as it is off, and the leaf is not much larger, it is INCONCLUSIVE. `fbp.verify.network` asks more judges.

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
    params, X, Y = jax.tree.map(jnp.asarray, (params, X, Y))
    check_batch(X, Y)
    args = (params, X, Y, weights, key)
    function = NetworkLoss(net, loss)
    of = point(function, args)
    ours = compiled(value_and_grad(net, loss), args)
    value, found = ours.call(*args)
    differences(found, params)
    leaves = tuple(_judged(path, np.asarray(g), of) for path, g in by_path(found).items())
    cost = None
    if cost_seconds > 0:
        cost = compare_cost(ours, compiled(jax.value_and_grad(function), args), args, cost_seconds)
    return Comparison(leaves, cost, float(value), jax.devices()[0].device_kind)


def _judged(path: str, g: np.ndarray, of: Reference) -> LeafComparison:
    assert of.own is not None
    assert of.exact is not None
    dtype, expected, exact = str(of.like[path].dtype), of.own.here[path], of.exact.here[path]
    own, in_float64 = (x.allowance(d, path, of.exact) for x, d in ((of.own, dtype), (of.exact, "float64")))
    auto, sharp = difference(path, g, expected), difference(path, g, exact)
    zero_beside = of.total if in_float64.is_zero(exact, of.total) else None
    opinion = by_autodiff(np.asarray(g, np.float64), exact, own, auto.relative_error, None, in_float64, zero_beside)
    text = opinion.reason
    if opinion.verdict == "FAIL":
        text = hint(path, np.asarray(g, np.float64), of.exact.here, own.explained, of.sizes)
    return LeafComparison(path, dtype, auto, sharp, own.autodiff_error, own.explained, opinion.verdict, text)
