"""Forward and backward variance, block by block, of plain, residual and normalized networks of infinite width."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fbp.activations import Nonlinearity
from fbp.errors import FbpError, unknown_name
from fbp.theory.batch_norm import batch_norm_moments
from fbp.theory.maps import check_lengths, check_sigmas, second_moment, slope_moment
from fbp.theory.quadrature import Floats, elementwise

NORMS = ("none", "batch", "layer", "rms")


@dataclass(frozen=True, eq=False)
class Propagation:
    """Mean squares through the blocks of one network: expectations over its random parameters.

    Block l takes Z_l to Z_{l+1}, l = 0, ..., depth - 1; q_l = E z^2 of an entry of Z_l.

    Attributes:
        q: q_l, (depth + 1,).
        backward: E ||dZ_l||^2 / E ||dZ_{l+1}||^2, (depth,).
        weight: E ||dW||^2 / (n E ||dZ_{l+1}||^2) of the last dense layer of block l, n its fan-in, (depth,).
    """

    q: Floats
    backward: Floats
    weight: Floats

    @property
    def forward(self) -> Floats:
        """q_{l+1} / q_l, (depth,); NaN where q_l is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.q[:-1] > 0, self.q[1:] / self.q[:-1], math.nan)

    @property
    def log10_dZ(self) -> Floats:
        """log10 of E ||dZ_l||^2 / E ||dZ_depth||^2, (depth + 1,), the last of them 0."""
        with np.errstate(divide="ignore"):
            logs = np.log10(self.backward)
        return np.concatenate([np.cumsum(logs[::-1])[::-1], [0.0]])

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
    q_0: float = 1.0,
) -> Propagation:
    """Lengths and gradients through equal blocks (norm, activation, dense), as `fbp.mlp` stacks them.

    With F(q) = sigma_w^2 E g(sqrt(q) x)^2 + sigma_b^2, D(q) = sigma_w^2 E g'(sqrt(q) x)^2 and alpha the scale of the
    branch, Z_{l+1} as below gives q_{l+1} and the factor of E ||dZ||^2:

        plain                  branch(Z)                      F(q)               D(q)
        layer or RMS norm      branch(norm Z)                 F(1)               D(1) / q
        residual               Z + alpha branch(Z)            q + alpha^2 F(q)   1 + alpha^2 D(q)
        residual, pre-norm     Z + alpha branch(norm Z)       q + alpha^2 F(1)   1 + alpha^2 D(1) / q
        residual, post-norm    norm(Z + alpha branch(Z))      1                  (1 + alpha^2 D(q)) / (q + alpha^2 F(q))
        batch norm             branch(batch_norm Z)           F                  see `fbp.theory.batch_norm`

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
        q_0: the mean square of Z_0.

    Returns:
        A `Propagation`.

    Raises:
        FbpError: a name or a number is out of range, or no theory is known for the combination.

    Example:
        >>> fbp.theory.propagation("relu", 2**0.5, depth=3, residual=True).backward.round(6)  # doubles a block
        array([2., 2., 2.])
    """
    found = elementwise(activation)
    check_sigmas(sigma_w, sigma_b)
    _check(depth, norm, residual, post_norm, branch_depth, batch)
    q = float(check_lengths(q_0, "q_0"))
    if norm in ("layer", "rms") and q == 0:
        raise FbpError(f"q_0 must be positive to be normalized, got {q_0}; use 1")
    alpha = float(residual) if residual is not False else None
    if norm == "batch":
        second, backward = batch_norm_moments(found, batch)
        lengths = [q] + [sigma_w**2 * second + sigma_b**2] * depth
        # The lengths are at their fixed point after one block, examples of a batch alike after a few.
        return Propagation(np.array(lengths), np.full(depth, backward), np.full(depth, second))
    block = _Block(found, sigma_w, sigma_b, branch_depth)
    rows: list[tuple[float, float, float]] = []
    for _ in range(depth):
        rows.append(block.step(q, norm != "none", alpha, post_norm))
        q = rows[-1][0]
    following, backward, weight = np.array(rows).T
    return Propagation(np.concatenate([[q_0], following]), backward, weight)


def _check(depth: int, norm: str, residual: bool | float, post_norm: bool, branch_depth: int, batch: int | None):
    if norm not in NORMS:
        raise unknown_name("normalization", norm, NORMS)
    if depth < 1 or branch_depth < 1:
        raise FbpError(
            f"depth and branch_depth must be at least 1, got {depth} and {branch_depth}; count blocks and layers from 1"
        )
    if not math.isfinite(float(residual)):
        raise FbpError(f"residual must be True, False or a finite scale of branches, got {residual}; use 1/sqrt(depth)")
    if norm == "batch" and (residual is not False or branch_depth > 1):
        raise FbpError(
            "batch normalization must stand in plain blocks of one layer: no theory is known here where the examples "
            f"of a batch are not alike, got residual={residual}, branch_depth={branch_depth}; measure it with fbp.flow"
        )
    if post_norm and (norm not in ("layer", "rms") or residual is False):
        raise FbpError(
            "post_norm must go with the layer or RMS norm of a residual block, "
            f"got norm={norm!r}, residual={residual}; leave it out"
        )
    if batch is not None and norm != "batch":
        raise FbpError(f"batch must go with norm='batch', got norm={norm!r}; leave it out")


@dataclass(frozen=True)
class _Block:
    activation: Nonlinearity
    sigma_w: float
    sigma_b: float
    branch_depth: int

    def step(self, q: float, norm: bool, alpha: float | None, post: bool) -> tuple[float, float, float]:
        """q_{l+1}, the factor of gradients, E ||dW||^2 per gradient of the output."""
        pre = norm and not post
        output, factor, second = _branch(self, 1.0 if pre else q)
        factor = factor / q if pre else factor
        if alpha is None:
            return output, factor, second
        total, factor, second = q + alpha**2 * output, 1 + alpha**2 * factor, alpha**2 * second
        return (1.0, factor / total, second / total) if post else (total, factor, second)


@lru_cache(maxsize=4096)
def _branch(block: _Block, q: float) -> tuple[float, float, float]:
    """Of pre-activations of mean square q: that of the output, the factor of gradients, E h^2 at the last layer."""
    factor = second = 1.0
    for _ in range(block.branch_depth):
        second = float(second_moment(block.activation, q))
        factor *= block.sigma_w**2 * float(slope_moment(block.activation, q))
        q = block.sigma_w**2 * second + block.sigma_b**2
    return q, factor, second
