"""Forward and backward variance, block by block, of plain, residual and normalized networks of large width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fbp.activations import Nonlinearity
from fbp.errors import FbpError, unknown_name
from fbp.theory.batch_norm import batch_norm_moments
from fbp.theory.maps import check_correlation, check_lengths, check_sigmas
from fbp.theory.quadrature import Floats, elementwise
from fbp.theory.steps import (
    Branch,
    Dense,
    Gradient,
    Hidden,
    Normalize,
    Step,
    Value,
    list_dense,
    list_gradients,
    list_values,
)

NORMS = ("none", "batch", "layer", "rms")


@dataclass(frozen=True, eq=False)
class Propagation:
    """Mean squares through the blocks of one network: expectations over its random parameters.

    Block l takes Z_l to Z_{l+1}, l = 0, ..., depth - 1; q_l = E z^2 of an entry of Z_l.

    Attributes:
        q: q_l, (depth + 1,).
        log10_dZ: log10 of E ||dZ_l||^2 / E ||dZ_depth||^2, (depth + 1,), the last of them 0.
        weight: E ||dW||^2 / (n E ||dZ_{l+1}||^2) of the last dense layer of block l, n its fan-in, (depth,).
        correlation: of Z_l at two examples, (depth + 1,); NaN where it was not asked for.
        dZ_correlation: of dZ_l at two examples, E dZ_i . dZ_j / E ||dZ_i||^2, (depth + 1,); likewise.
    """

    q: Floats
    log10_dZ: Floats
    weight: Floats
    correlation: Floats
    dZ_correlation: Floats

    @property
    def forward(self) -> Floats:
        """q_{l+1} / q_l, (depth,); NaN where q_l is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.q[:-1] > 0, self.q[1:] / self.q[:-1], math.nan)

    @property
    def backward(self) -> Floats:
        """E ||dZ_l||^2 / E ||dZ_{l+1}||^2, (depth,); 0 from where no gradient is left."""
        logs = self.log10_dZ
        alive = np.isfinite(logs[:-1])
        return np.where(alive, 10 ** np.where(alive, logs[:-1] - np.where(alive, logs[1:], 0), 0), 0)

    @property
    def log10_dW(self) -> Floats:
        """log10 of E ||dW||^2 of each block over that of the last, for blocks of equal width, (depth,)."""
        with np.errstate(divide="ignore"):
            logs = np.log10(self.weight) + self.log10_dZ[1:]
        return logs - logs[-1]


def propagation(
    activation: str | Nonlinearity,
    sigma_w: float,
    sigma_b: float = 0.0,
    *,
    depth: int = 1,
    norm: str = "none",
    residual: bool | float = False,
    post_norm: bool = False,
    branch_depth: int = 1,
    batch: int | None = None,
    width: int | None = None,
    q_0: float = 1.0,
    c_0: float | None = None,
    dZ_correlation: float | None = None,
) -> Propagation:
    """Lengths, correlations and gradients through equal blocks (norm, activation, dense), as `fbp.mlp` stacks them.

    With F(q) = sigma_w^2 E g(sqrt(q) x)^2 + sigma_b^2, D(q) = sigma_w^2 E g'(sqrt(q) x)^2 and alpha the scale of the
    branch, Z_{l+1} as below gives q_{l+1} and the factor of E ||dZ||^2:

        plain                  branch(Z)                      F(q)               D(q)
        layer or RMS norm      branch(norm Z)                 F(1)               D(1) / q
        residual               Z + alpha branch(Z)            q + alpha^2 F(q)   1 + alpha^2 D(q)
        residual, pre-norm     Z + alpha branch(norm Z)       q + alpha^2 F(1)   1 + alpha^2 D(1) / q
        residual, post-norm    norm(Z + alpha branch(Z))      1                  (1 + alpha^2 D(q)) / (q + alpha^2 F(q))
        batch norm             the first of its rows          F                  see `fbp.theory.batch_norm`

    Correlations of examples and of their gradients follow the same rows, with E g(z_i) g(z_j) and E g'(z_i) g'(z_j) in
    the place of the squares: with a common cotangent gradients of different examples begin alike, and those of plain
    relu networks shatter, losing half of their correlation a layer (`slope_correlation`), those of residual ones
    slower; Balduzzi et al. (2017).

    Entries of Z have mean 0, so that layer and RMS norm are the same, and what their statistics take from a gradient is
    one part in the width. Fluctuations of residual networks do not average out over depth: only width and seeds help.
    De & Smith (2020); Zhang, Dauphin & Ma (2019); Doshi, He & Gromov (2023); Xiong et al. (2020); Yang et al. (2019).

    Args:
        activation: a name or a `Nonlinearity`.
        sigma_w: Var W = sigma_w^2 / fan_in.
        sigma_b: Var b = sigma_b^2.
        depth: the number of blocks, at least 1.
        norm: "none", "batch", "layer" or "rms", with eps = 0.
        residual: True, or alpha.
        post_norm: whether the norm stands after the sum of a residual block, not at the head of the branch.
        branch_depth: pairs (activation, dense) in a branch.
        batch: the examples of batch normalization; None for the limit of many.
        width: n, for what the gradient along Z adds in plain networks; None for the limit of large widths, where it
            adds nothing. It decides deep networks of activations with a positive mean, as softplus.
        q_0: the mean square of Z_0.
        c_0: the correlation of two examples of Z_0; None does not follow correlations, except with batch normalization,
            where it takes examples as different as they become behind a block, or in residual blocks uncorrelated ones.
        dZ_correlation: that of the gradients of two examples at the output: 1 for a common cotangent, 0 for independent
            ones; None for 1, or with batch normalization what its gradients have behind a block (0 in residual ones).

    Returns:
        A `Propagation`.

    Raises:
        FbpError: a name or a number is out of range, or no theory is known for the combination.

    Example:
        >>> fbp.theory.propagation("relu", 2**0.5, depth=3, residual=True).backward.round(6)  # doubles a block
        array([2., 2., 2.])
        >>> plain = fbp.theory.propagation("relu", 2**0.5, depth=4, c_0=0.0)
        >>> plain.dZ_correlation.round(4)  # four layers, towards the input; Balduzzi et al. say 1/2 a layer
        array([0.1416, 0.2832, 0.4695, 0.7068, 1.    ])
    """
    found = elementwise(activation)
    check_sigmas(sigma_w, sigma_b)
    _check(depth, norm, residual, post_norm, branch_depth, batch, width)
    q = float(check_lengths(q_0, "q_0"))
    if norm in ("layer", "rms") and q == 0:
        raise FbpError(f"q_0 must be positive to be normalized, got {q_0}; use 1")
    for c in (c_0, dZ_correlation):
        check_correlation(0.0 if c is None else c)
    inner = "none" if post_norm else norm
    links = [Hidden(found, sigma_w, sigma_b, norm=inner, batch=batch, width=width)]
    links += [Hidden(found, sigma_w, sigma_b, width=width)] * (branch_depth - 1)
    block: tuple[Step, ...] = tuple(links)
    if residual is not False:
        block = (Branch(block, float(residual)), *((Normalize(),) if post_norm else ()))
    start = Value(q, math.nan if c_0 is None else 1 - c_0)
    end = 1.0 if dZ_correlation is None else dZ_correlation
    if norm == "batch":
        moments = batch_norm_moments(found, batch)
        settled = sigma_w**2 * moments.spread / q if residual is False and q else 1.0
        start = Value(q, settled) if c_0 is None else start
        between = moments.correlation if residual is False else 0.0
        end = between if dZ_correlation is None else end
    return _follow([block] * depth, start, Gradient(0.0, end))


def _follow(blocks: Sequence[tuple[Step, ...]], start: Value, end: Gradient) -> Propagation:
    steps = [step for block in blocks for step in block]
    values = list_values(steps, start)
    gradients = list_gradients(steps, values, end)
    ends = np.cumsum([0, *map(len, blocks)])
    dense = list_dense(steps, values, gradients)
    each = len(dense) // len(blocks)
    weight = [_weight(dense[each * (l + 1) - 1], gradients[i]) for l, i in enumerate(ends[1:])]
    q, distance = np.array([values[i] for i in ends]).T
    log, correlation, _ = np.array([gradients[i] for i in ends]).T
    return Propagation(
        q, log / math.log(10), np.array(weight), 1 - distance, np.where(np.isnan(distance), math.nan, correlation)
    )


def _weight(dense: Dense, block: Gradient) -> float:
    return dense.second * math.exp(dense.gradient.log - block.log) if block.log > -math.inf else math.nan


def _check(
    depth: int,
    norm: str,
    residual: bool | float,
    post_norm: bool,
    branch_depth: int,
    batch: int | None,
    width: int | None,
):
    if norm not in NORMS:
        raise unknown_name("normalization", norm, NORMS)
    if depth < 1 or branch_depth < 1:
        raise FbpError(
            f"depth and branch_depth must be at least 1, got {depth} and {branch_depth}; count blocks and layers from 1"
        )
    if not math.isfinite(float(residual)):
        raise FbpError(f"residual must be True, False or a finite scale of branches, got {residual}; use 1/sqrt(depth)")
    if post_norm and (norm not in ("layer", "rms") or residual is False):
        raise FbpError(
            "post_norm must go with the layer or RMS norm of a residual block, "
            f"got norm={norm!r}, residual={residual}; leave it out"
        )
    if batch is not None and norm != "batch":
        raise FbpError(f"batch must go with norm='batch', got norm={norm!r}; leave it out")
    if width is not None and width < 1:
        raise FbpError(f"width must be a number of units, at least 1, got {width}; or leave it out for large widths")
