"""What mean-field theory predicts for a network: its sigmas, and the factor of the gradient layer by layer."""

import math
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator
from fbp.errors import FbpError
from fbp.flow.stack import find_rule, weight_sigma
from fbp.layers import Activation, Add, BatchNorm, Dense, LayerNorm, RMSNorm
from fbp.theory import MeanField, mean_field
from fbp.tree import list_layers, list_shared
from fbp.typing import Layer

FOLLOWED = 256
"""Layers that the recursion is followed for; beyond, its limit stands."""


class PlainRun(NamedTuple):
    """A run of equal dense layers with one activation between them.

    Attributes:
        activation: the activation.
        sigma_w: Var W = sigma_w^2 / fan_in.
        sigma_b: Var b = sigma_b^2.
        start: the first dense layer of the run, from 0.
        stop: the one behind the last.
        q_first: the expected mean square of its first pre-activations; None where it is to be measured.
    """

    activation: Nonlinearity
    sigma_w: float
    sigma_b: float
    start: int
    stop: int
    q_first: float | None = None


class Prediction(NamedTuple):
    """The factor of E ||dZ||^2 a layer towards the input.

    Attributes:
        field: the mean-field description.
        factors: of each of these layers but the last, (layers - 1,).
    """

    field: MeanField
    factors: np.ndarray

    @property
    def rate(self) -> float:
        """The mean of the factors."""
        return float(self.factors.mean())


def find_plain_run(net: Layer) -> PlainRun | str:
    """The longest run of equal dense layers of a plain network.

    Args:
        net: a network.

    Returns:
        The run, or why no theory holds.
    """
    layers = list_layers(net)
    for layer in layers:
        if not isinstance(layer, (Dense, Activation, BatchNorm, LayerNorm, RMSNorm, Add)):
            return f"no theory: {type(layer).__name__} layers"
    if list_shared(net):
        return "no theory: parameters that are used more than once"
    if not _is_all_chain(net):
        return "no phase: residual connections or branches"
    for layer in layers:
        if not isinstance(layer, (Dense, Activation)):
            return f"no phase: {type(layer).__name__} layers"
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    alternate = all(isinstance(layer, Dense) == (i % 2 == 0) for i, layer in enumerate(layers))
    if not alternate or len(layers) % 2 == 0:
        return "no theory: dense and activation layers do not alternate"
    between = [activation(layer.function) for layer in layers if isinstance(layer, Activation)]
    links = [
        (function, find_rule(after), before.width == after.width)
        for function, (before, after) in zip(between, pairwise(dense), strict=True)
    ]
    runs = [[l for l, _ in run] for link, run in groupby(enumerate(links), lambda each: each[1]) if link[2]]
    longest = max(runs, key=len, default=[])
    if len(longest) < 2:
        return "no theory: fewer than three layers of equal width, activation and initializer"
    start, stop = longest[0], longest[-1] + 2
    function, rule, _ = links[start]
    sigma_w = weight_sigma(rule, dense[start].width, dense[start].width)
    if sigma_w is None or not function.elementwise:
        return f"no theory: {function!r} with {rule.distribution} weights"
    return PlainRun(function, sigma_w, rule.bias_stddev, start, stop)


def predict(run: PlainRun, scale: float, q_first: float, layers: int) -> tuple[Prediction | None, str]:
    """What theory predicts for a run of layers: chi_l = sigma_w^2 E g'(sqrt(q_l) x)^2.

    Args:
        run: the layers.
        scale: the factor on the weights.
        q_first: the measured mean square of the first of their pre-activations.
        layers: how many.

    Returns:
        The prediction, or None and why there is none.
    """
    sigma_w = run.sigma_w * scale
    # Three digits, so that networks that differ by their sampled inputs share one description.
    q = float(f"{q_first if run.q_first is None else run.q_first:.2e}")
    if not 0 < q < math.inf:
        return None, f"no theory: the first pre-activations have the mean square {q_first:g}"
    try:
        field, factors = _field(run.activation, sigma_w, run.sigma_b, q)
    except FbpError as error:
        return None, f"no theory: {error}"
    followed = factors[: layers - 1]
    return Prediction(field, np.append(followed, np.full(layers - 1 - len(followed), field.chi_1))), ""


@lru_cache(maxsize=256)
def _field(function: Nonlinearity, sigma_w: float, sigma_b: float, q: float) -> tuple[MeanField, np.ndarray]:
    field = mean_field(function, sigma_w, sigma_b, q)
    return field, field.gradients(FOLLOWED, q)


def _is_all_chain(net: Layer) -> bool:
    if not isinstance(net, Combinator):
        return True
    return len(net.stream) == len(net.children) and all(map(_is_all_chain, net.children))
