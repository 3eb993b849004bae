"""A network as mean-field theory sees it: the steps of its stream, and what they do to lengths and gradients."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator, Residual, Serial
from fbp.errors import FbpError
from fbp.initializers import Initializer, initializer
from fbp.layers import Activation, Add, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
from fbp.theory.steps import (
    Branch,
    Gradient,
    Hidden,
    Normalize,
    Step,
    Value,
    list_dense,
    list_gradients,
    list_values,
    scale_weights,
)
from fbp.tree import list_layers, list_shared
from fbp.typing import Layer

ALIKE = 1e-6
"""1 - c of examples that are equal but for the rounding of float32."""
_LINEAR = activation("linear")
_BRANCHES = "branches other than residual blocks of one chain"
_NORMS = {BatchNorm: "batch", LayerNorm: "layer", RMSNorm: "rms"}


class Stack(NamedTuple):
    """The stream of a network from its first dense layer or residual block on.

    Attributes:
        steps: from each part of the stream to the next, (parts - 1,): each a dense layer or a residual block, with what
            stands before it.
        widths: of the parts, (parts,).
        q_first: the expected mean square of the first part; None where it is to be measured.
        begins_dense: whether the first part is a dense layer. Of the layers inside a first residual block nothing is
            said.
    """

    steps: tuple[tuple[Step, ...], ...]
    widths: tuple[int, ...]
    q_first: float | None = None
    begins_dense: bool = True

    @property
    def anchor(self) -> int:
        """The part from which a curve of gradients is followed: the last, or the one before a narrower last."""
        parts = len(self.widths)
        return parts - 2 if parts > 1 and self.widths[-1] < self.widths[-2] else parts - 1

    @property
    def mixes_examples(self) -> bool:
        """Whether there is batch normalization."""
        return any(_mixes_examples(step) for steps in self.steps for step in steps)


class Points(NamedTuple):
    """What theory says at some places of a network, each an array; correlations are NaN where they are not followed.

    Attributes:
        log10_mean_square: log10 E z^2.
        correlation: of two examples.
        log10_dZ: log10 of the root of E ||dZ||^2, relative to the network's output.
        dZ_cosine: E dZ_i . dZ_j / E ||dZ_i||^2 of two examples.
    """

    log10_mean_square: np.ndarray
    correlation: np.ndarray
    log10_dZ: np.ndarray
    dZ_cosine: np.ndarray


class StackPrediction(NamedTuple):
    """What theory says of a network.

    Attributes:
        parts: at the parts of its stream.
        layers: at the outputs of its dense layers, those of branches included, but for a first residual block.
    """

    parts: Points
    layers: Points


class _NoTheory(Exception):
    """Why no theory holds."""


def describe_stack(net: Layer, batch: int, positions: int = 1) -> Stack | str:
    """The stream of a plain, residual or normalized network of dense layers.

    Args:
        net: a network.
        batch: the examples that batch normalization sees.
        positions: the rows of an example, as of a sequence.

    Returns:
        The stack, or why no theory holds.
    """
    if list_shared(net):
        return "no theory: parameters that are used more than once"
    try:
        elements = list(_list_elements(net))
        start = next((i for i, layer in enumerate(elements) if isinstance(layer, (Dense, Residual))), 0)
        first = elements[start] if elements else net
        width = _width(first)
        steps, widths = _list_steps(elements[start + 1 :], width, batch)
    except _NoTheory as reason:
        return f"no theory: {reason}"
    stack = Stack(tuple(steps), (width, *widths), begins_dense=isinstance(first, Dense))
    if stack.mixes_examples and positions > 1:
        return "no theory: batch normalization over the positions of sequences"
    return stack


def _width(first: Layer) -> int:
    """Of the first part, which is measured: of a residual block the width of what is added."""
    if isinstance(first, Dense):
        _sigma(first, first.width)
        return first.width
    dense = [layer for layer in list_layers(first) if isinstance(layer, Dense)]
    if not isinstance(first, Residual) or not dense:
        raise _NoTheory("a stream that begins with neither a dense layer nor a residual block")
    return dense[-1].width


def _list_elements(net: Layer) -> Iterator[Layer]:
    """The layers and the residual blocks of a chain, in order."""
    if isinstance(net, Residual) or not isinstance(net, Combinator):
        if not isinstance(net, (Residual, Dense, Activation, Dropout, *_NORMS)):
            raise _NoTheory(f"{type(net).__name__} layers")
        yield net
        return
    children = net.children if len(net.stream) == len(net.children) else _list_sums(net)
    for _ in range(1 if net.copies is None else net.copies):
        for child in children:
            yield from _list_elements(child)


def _list_sums(net: Combinator) -> list[Layer]:
    """The layers of a stream; where one adds a chain of lines to the stream, a residual block."""
    for child in net.children:
        # A simple layer that theory does not know says more than the branches do.
        if not isinstance(child, Add):
            list(_list_elements(child))
    elements: list[Layer] = []
    before = -1
    for i in net.stream:
        layer, sources = net.children[i], net.sources[i]
        branches = [source for source in sources if source != before]
        if isinstance(layer, Add) and len(sources) == 2 and len(branches) == 1:
            elements.append(Residual(Serial(*_list_chain(net, before, branches[0]))))
        elif sources == (before,):
            elements.append(layer)
        else:
            raise _NoTheory(_BRANCHES)
        before = i
    if not net.stream:
        raise _NoTheory(_BRANCHES)
    return elements


def _list_chain(net: Combinator, start: int, end: int) -> list[Layer]:
    """The layers behind the line `start`, up to `end`."""
    chain: list[Layer] = []
    while end != start:
        if len(net.sources[end]) != 1:
            raise _NoTheory(_BRANCHES)
        chain.insert(0, net.children[end])
        (end,) = net.sources[end]
    return chain


def _list_steps(elements: Sequence[Layer], width: int, batch: int) -> tuple[list[tuple[Step, ...]], list[int]]:
    """The steps from part to part, and the width behind each."""
    steps: list[tuple[Step, ...]] = []
    widths: list[int] = []
    norm: Layer | None = None
    function: Nonlinearity | None = None
    for layer in elements:
        if isinstance(layer, Dropout):
            continue
        if isinstance(layer, Dense):
            steps.append((_hidden(layer, width, function or _LINEAR, norm, batch),))
            width, norm, function = layer.width, None, None
            widths.append(width)
        elif isinstance(layer, Residual):
            if function is not None or isinstance(norm, BatchNorm):
                raise _NoTheory("an activation or batch normalization in front of a residual block")
            before = () if norm is None else (Normalize(_eps(norm)),)
            steps.append((*before, Branch(_list_branch(layer, width, batch), layer.scale)))
            widths.append(width)
            norm = None
        elif function is not None or (norm is not None and not isinstance(layer, Activation)):
            raise _NoTheory(f"{type(layer).__name__} behind {type(norm).__name__ if norm else 'an activation'}")
        elif isinstance(layer, Activation):
            function = activation(layer.function)
            if not function.elementwise:
                raise _NoTheory(f"{function!r} between layers")
        else:
            norm = layer
    return steps, widths


def _list_branch(layer: Residual, width: int, batch: int) -> tuple[Step, ...]:
    elements = list(_list_elements(layer.branch))
    if not elements or not isinstance(elements[-1], Dense):
        raise _NoTheory("a branch that does not end with a dense layer")
    return tuple(step for steps in _list_steps(elements, width, batch)[0] for step in steps)


def _hidden(layer: Dense, width: int, function: Nonlinearity, norm: Layer | None, batch: int) -> Hidden:
    sigma_w = _sigma(layer, width)
    sigma_b = find_rule(layer).bias_stddev
    if norm is None:
        return Hidden(function, sigma_w, sigma_b, width=width)
    kind = _NORMS[type(norm)]
    if kind == "batch":
        return Hidden(function, sigma_w, sigma_b, kind, batch)
    return Hidden(function, sigma_w, sigma_b, kind, eps=_eps(norm))


def _eps(norm: Layer) -> float:
    assert isinstance(norm, (LayerNorm, RMSNorm))
    return norm.eps


def _sigma(layer: Dense, width: int) -> float:
    rule = initializer(layer.initializer)
    sigma_w = weight_sigma(rule, width, layer.width)
    if sigma_w is None:
        raise _NoTheory(f"{rule.distribution} weights")
    return sigma_w


def find_rule(layer: Dense) -> Initializer:
    """The initializer of a dense layer, without biases where it has none.

    Args:
        layer: a dense layer.
    """
    rule = initializer(layer.initializer)
    return rule if layer.bias else replace(rule, bias_stddev=0.0)


def weight_sigma(rule: Initializer, fan_in: int, fan_out: int) -> float | None:
    """sigma_w = sqrt(fan_in Var W); None for constant weights.

    Args:
        rule: the initializer.
        fan_in: rows of W.
        fan_out: its columns.
    """
    return None if rule.distribution == "constant" else math.sqrt(fan_in) * rule.stddev(fan_in, fan_out)


def _mixes_examples(step: Step) -> bool:
    if isinstance(step, Branch):
        return any(map(_mixes_examples, step.steps))
    return isinstance(step, Hidden) and step.norm == "batch"


def predict_stack(
    stack: Stack, scale: float, q: float, c: float | None = None, dZ_cosine: float | None = None
) -> StackPrediction | str:
    """What theory says of a network.

    Args:
        stack: the network.
        scale: the factor on the weights.
        q: the mean square of the first part.
        c: the correlation of two examples there; None does not follow it.
        dZ_cosine: that of the gradients of two examples at the output.

    Returns:
        The prediction, or why there is none where a number is out of its range, as in a batch of fewer than four
        examples.
    """
    if not 0 < q < math.inf:
        return f"no theory: the first part of the stream has the mean square {q:g}"
    if stack.mixes_examples and c is not None and 1 - c <= ALIKE:
        return f"no theory: batch normalization of examples with the correlation {c:g}"
    try:
        return _predict(stack, scale, q, math.nan if c is None else c, math.nan if dZ_cosine is None else dZ_cosine)
    except FbpError as error:
        return f"no theory: {error}"


@lru_cache(maxsize=64)
def _predict(stack: Stack, scale: float, q: float, c: float, dZ_cosine: float) -> StackPrediction:
    steps = [step for part in stack.steps for step in scale_weights(part, scale)]
    start, end = Value(q, 1 - c), Gradient(0.0, dZ_cosine)
    values = list_values(steps, start)
    gradients = list_gradients(steps, values, end)
    dense = list_dense(steps, values, gradients)
    ends = np.cumsum([0, *map(len, stack.steps)])
    parts = _points([values[i] for i in ends], [gradients[i] for i in ends])
    outputs, d_outputs = [each.output for each in dense], [each.gradient for each in dense]
    if stack.begins_dense:
        outputs, d_outputs = [start, *outputs], [gradients[0], *d_outputs]
    return StackPrediction(parts, _points(outputs, d_outputs))


def _points(values: Sequence[Value], gradients: Sequence[Gradient]) -> Points:
    q, distance = np.array(values).T
    log, correlation, _ = np.array(gradients).T
    with np.errstate(divide="ignore"):
        return Points(np.log10(q), 1 - distance, log / (2 * math.log(10)), correlation)
