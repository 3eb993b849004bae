"""Many random networks of equal blocks: one draw serves all settings of a claim, `fbp.flow` measures them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import fbp
from fbp import theory
from fbp.initializers import Initializer
from papers_rows.row import Measured, jackknife

HE = math.sqrt(2)
SIGMA_B = math.sqrt(0.05)
CRITICAL = theory.mean_field("tanh", float(theory.edge_of_chaos("tanh", SIGMA_B)), SIGMA_B)
"""tanh on the edge of chaos, with these biases."""
FACTOR = "‖dZ‖² factor a layer"
"""What `Passage.rate` is called in a row."""

UNIT = "mean_field(1, 1)"
"""Var W = 1 / fan_in and Var b = 1, for settings to scale."""
_MOST_WEIGHTS = 24_000_000
"""Weights that are drawn at a time: 100 MB."""
_READ = ("stream_log10_dZ", "stream_log10_mean_square", "stream_correlation", "log10_dX")


class Setting(NamedTuple):
    """What is scaled and where a network starts.

    Attributes:
        sigma_w: a factor on W.
        sigma_b: a factor on b.
        q: the mean square of the Gaussian Z_0.
        c: the correlation of any two examples of it.
    """

    sigma_w: float = 1.0
    sigma_b: float = 0.0
    q: float = 1.0
    c: float = 0.0

    @classmethod
    def at(cls, field: theory.MeanField) -> "Setting":
        """The weights that theory describes, from the length that they come to."""
        return cls(field.sigma_w, field.sigma_b, field.q_star)


class Passage(NamedTuple):
    """What passed the blocks of many networks; Z_l is what enters block l + 1.

    Attributes:
        log_dZ: ln ||dZ_l||^2 over the batch, l = 0, ..., L, (networks, L + 1).
        q: the mean square of Z_l, (networks, L + 1).
        correlation: the cosine of two examples' Z_l, the mean over pairs, l = 1, ..., L, (networks, L).
        log_dW: ln ||dW||^2 of the dense layers, (networks, dense layers).
    """

    log_dZ: np.ndarray
    q: np.ndarray
    correlation: np.ndarray
    log_dW: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """||dZ_l||^2 / ||dZ_{l+1}||^2, (networks, L)."""
        return np.exp(self.log_dZ[:, :-1] - self.log_dZ[:, 1:])

    @property
    def rate(self) -> Measured:
        """The mean of the factors over layers, with its interval over networks."""
        return jackknife(self.factors.mean(axis=1))

    @property
    def gains(self) -> np.ndarray:
        """||dZ_0||^2 / ||dZ_L||^2, (networks,)."""
        return np.exp(self.log_dZ[:, 0] - self.log_dZ[:, -1])


def plain(activation: str, width: int, init: str | Initializer = UNIT) -> fbp.Layer:
    """The block (activation, dense)."""
    return fbp.Serial(fbp.Activation(activation), fbp.Dense(width, init))


def measure(
    block: fbp.Layer,
    width: int,
    depth: int,
    networks: int,
    settings: Sequence[Setting] = (Setting(),),
    examples: int = 8,
    seed: int = 0,
    weights: bool = False,
) -> list[Passage]:
    """One `Passage` a setting, of networks of `depth` equal blocks that all settings share.

    Z_0 is Gaussian, the cotangent of Z_L standard normal, both of their own for each example.

    Args:
        block: keeps the width.
        width: n.
        depth: L.
        networks: how many.
        settings: the scales of the weights, and where the networks start.
        examples: the batch.
        seed: of everything.
        weights: whether `log_dW` is wanted.
    """
    rng, net = np.random.default_rng(seed), fbp.Repeat(block, depth)
    at_once = max(1, min(networks, _MOST_WEIGHTS // (depth * width * width)))
    parts: list[list[Passage]] = [[] for _ in settings]
    for start in range(0, networks, at_once):
        # All chunks have one shape, so that one program serves them; what is over is cut off.
        params = fbp.flow.sample_parameters(net, (width,), range(start, start + at_once), seed)
        common, own, dZ = (draw_normal(rng, (at_once, k, width)) for k in (1, examples, examples))
        for part, s in zip(parts, settings, strict=True):
            X = np.float32(s.q**0.5) * (np.float32(s.c**0.5) * common + np.float32((1 - s.c) ** 0.5) * own)
            passage = run_through(net, params, X, dZ, s.sigma_w, s.sigma_b, weights)
            part.append(Passage(*(x[: networks - start] for x in passage)))
    return [Passage(*map(np.concatenate, zip(*part, strict=True))) for part in parts]


def run_through(
    net: fbp.Layer,
    params: Any,
    X: np.ndarray,
    dZ: np.ndarray,
    sigma_w: float = 1.0,
    sigma_b: float = 0.0,
    weights: bool = False,
) -> Passage:
    """The `Passage` of given networks: params, X and dZ have an axis of networks in front."""
    quantities = (*_READ, "dW") if weights else _READ
    flow = fbp.flow.read_networks(net, params, X, dZ, scales=(sigma_w,), bias_scale=sigma_b, quantities=quantities)
    assert flow.stream is not None
    assert flow.log10_dX is not None
    dX, stream, q_0 = flow.log10_dX[0], [x[0].astype(np.float64) for x in flow.stream], np.mean(X**2, axis=(1, 2))
    log_dZ = 2 * np.log(10) * np.column_stack([dX, stream[0]])
    q = np.column_stack([q_0, 10 ** stream[1]])
    return Passage(log_dZ, q, stream[2], 2 * np.log(10) * np.asarray(flow.log10.dW[0], np.float64))


def jacobian_moments(net: fbp.Layer, params: Any, X: np.ndarray, sigma_w: float = 1.0, sigma_b: float = 0.0):
    """Mean and mean square of the squared singular values of dZ_L / dZ_0 at one example of each network, (k, 2)."""
    J, exponent = fbp.flow.read_jacobians(net, params, X[:, None], sigma_w, sigma_b)
    J = J * np.exp2(exponent)[:, None, None]
    gram = J @ np.swapaxes(J, 1, 2)
    return np.stack([np.trace(gram, axis1=1, axis2=2), np.sum(gram**2, axis=(1, 2))], axis=1) / J.shape[1]


def draw_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers in float32."""
    return rng.standard_normal(shape, np.float32)
