"""A network equation by equation: each layer's dZ, dW, db and dA, with the incoming cotangent from the reference.

A layer's backward pass is linear in its cotangent, so that each equation can be judged alone: the layer at the input
that it has in this network, given the cotangent that autodiff says it should be given, in units of its largest entry. A
mistake in one equation then marks one cell, however deep the network, and vanishing gradients hide nothing. What a
layer declares in `linear` is one more equation for each parameter: its sum over examples is the gradient.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from fbp.combinators import Combinator
from fbp.layers import Activation
from fbp.losses import Loss
from fbp.pairs import find_weights
from fbp.paths import Path, format_path
from fbp.tree import describe_layer, instrument, map_layers, name_layers, run_instrumented, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Weights, Wrapper
from fbp.verify.autodiff import Autodiff, Gradients
from fbp.verify.candidate import measure_jitter
from fbp.verify.faulty import FaultyLayer
from fbp.verify.leaf import LeafByAutodiff
from fbp.verify.result import EquationResult, JudgeResult, LeafResult
from fbp.verify.structure import by_path, is_floating
from fbp.verify.tolerance import DRAWS, floor_of, in_float64, on_host, perturb


class LayerInputs(NamedTuple):
    """Where one layer is judged: its parameters, input and key, and the cotangent of its output."""

    params: Params
    A: Activations
    key: Key | None
    dA_out: Activations


class NetworkInputs(NamedTuple):
    """Where the equations of a network are judged: the inputs of each layer, in forward order, and of the loss."""

    layers: tuple[LayerInputs, ...]
    Z: Any
    Y: Any
    weights: Any


@dataclass(frozen=True)
class _Recorder(Wrapper):
    """A layer whose output is shifted by delta, and whose cache is its input, its key and its output."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        layer_params, delta = params
        out, _ = self.layer.forward(layer_params, A, key)
        shifted = jax.tree.map(lambda d, x: x if d is None else x + d, delta, out, is_leaf=_is_none)
        return shifted, (A, key, out)


def _is_none(x: Any) -> bool:
    return x is None


def compute_layer_inputs(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
) -> NetworkInputs:
    """The inputs of every layer: forward in the dtype of X, and the cotangent of its output by autodiff in float64.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, ...).
        Y: targets.
        weights: one per example.
        key: randomness for dropout.
    """
    params, X, Y, weights = on_host((params, X, Y, weights))
    with jax.enable_x64(True):
        Z, recorded = _record(net, params, X, key)
        # d loss / d delta is the cotangent of the layer's output.
        zeros = lambda x: np.zeros(x.shape) if is_floating(x) else None
        deltas = map_layers(lambda layer, r: jax.tree.map(zeros, r[2]), net, recorded)
        cotangents = _differentiate_by_deltas(net, loss, deltas, *in_float64((params, X, Y, weights)), key)
    Z, recorded, cotangents = on_host((Z, recorded, cotangents))
    by_layer = unstack(net, map_layers(lambda layer, *parts: parts, net, params, recorded, cotangents))
    layers = tuple(LayerInputs(p, A, layer_key, _normalize(dA, out)) for _, (p, (A, layer_key, out), dA) in by_layer)
    return NetworkInputs(layers, Z, Y, weights)


@partial(jax.jit, static_argnums=0)
def _record(net: Layer, params: Params, X: Activations, key: Key | None) -> tuple[Activations, Any]:
    without_deltas = map_layers(lambda layer, p: (p, None), net, params)
    return run_instrumented(instrument(net, _Recorder), without_deltas, X, key)


@partial(jax.jit, static_argnums=(0, 1))
def _differentiate_by_deltas(
    net: Layer, loss: Loss, deltas: Any, params: Params, X: Activations, Y: Array, weights: Weights, key: Key | None
) -> Any:
    def value(deltas: Any) -> Array:
        joined = map_layers(lambda layer, p, delta: (p, delta), net, params, deltas)
        return loss.value(instrument(net, _Recorder).forward(joined, X, key)[0], Y, weights)

    return jax.grad(value)(deltas)


def _normalize(dA: Any, out: Any) -> Any:
    """The cotangent in units of its largest entry; random signs where it is zero or not finite."""
    largest = max((np.max(np.abs(x), initial=0.0) for x in jax.tree.leaves(dA)), default=0.0)
    if 0 < largest < np.inf:
        scale = 2.0 ** np.frexp(largest)[1]
        rescale = lambda d, x: None if d is None else (d / scale).astype(x.dtype)
    else:
        draw = np.random.default_rng(0)
        rescale = lambda d, x: None if d is None else (draw.integers(0, 2, d.shape) * 2 - 1).astype(x.dtype)
    return jax.tree.map(rescale, dA, out, is_leaf=_is_none)


def judge_equations(
    net: Layer, loss: Loss, params: Params, inputs: NetworkInputs, seed: int = 0
) -> tuple[EquationResult, ...]:
    """Every equation of a network's backward pass, judged by itself.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        inputs: from `compute_layer_inputs` for it, or for a network that differs in its backward pass only.
        seed: of the perturbations by which rounding is measured.
    """
    results = []
    l = 0
    layers = (layer for layer, _ in unstack(net, on_host(params)))
    for name, layer, at in zip(name_layers(net), layers, inputs.layers, strict=True):
        has_weight = _has_weight(layer, at)
        l += has_weight
        results += [
            EquationResult(
                f"{name} {describe_layer(_unwrap(layer))}".lstrip(),
                _quantity(layer, leaf.path, l if has_weight else 0, l),
                leaf,
            )
            for leaf in _judge(_pull_back, layer, at, seed)
        ]
    last = _judge(_differentiate_loss, loss, (inputs.Z, inputs.Y, inputs.weights), seed)
    return (*results, *(EquationResult("loss", f"dZ_{l}", leaf) for leaf in last))


def _has_weight(layer: Layer, at: LayerInputs) -> bool:
    """Whether a parameter's gradient is a product of activations."""

    def pairs(at: LayerInputs) -> Any:
        return layer.linear(at.params, layer.forward(at.params, at.A, at.key)[1], at.dA_out)

    if not jax.tree.leaves(at.params):
        return False
    return bool(find_weights(jax.eval_shape(pairs, at)))


@partial(jax.jit, static_argnums=0)
def _pull_back(layer: Layer, at: LayerInputs) -> tuple[Any, Any]:
    """(d_params, dA_in, sums of the pairs) by hand, and by `jax.vjp` of the forward pass."""
    _, cache = layer.forward(at.params, at.A, at.key)
    out, pullback = jax.vjp(lambda p, A: layer.forward(p, A, at.key)[0], at.params, at.A)
    no_cotangent = lambda d, x: np.zeros(x.shape, jax.dtypes.float0) if d is None else d
    d_params, dA_in = pullback(jax.tree.map(no_cotangent, at.dA_out, out, is_leaf=_is_none))
    sums = {name: pair.sum() for name, pair in layer.linear(at.params, cache, at.dA_out).items()}
    by_hand = (*layer.backward(at.params, cache, at.dA_out), sums)
    return by_hand, (d_params, dA_in, {name: d_params[name] for name in sums})


@partial(jax.jit, static_argnums=0)
def _differentiate_loss(loss: Loss, at: tuple[Any, ...]) -> tuple[Array, Array]:
    """dZ_L by hand, and by `jax.grad` of the value."""
    return loss.value_and_dZ(*at)[1], jax.grad(loss.value)(*at)


def _judge(differentiate: Callable[..., Any], part: Any, at: Any, seed: int) -> Iterator[LeafResult]:
    """The leaves by hand beside those of autodiff, both given by differentiate(part, at)."""
    with jax.enable_x64(True):
        at64 = in_float64(at)
        (manual, own), (manual64, exact) = ([by_path(tree) for tree in differentiate(part, x)] for x in (at, at64))
        around, around64 = (
            [[by_path(tree) for tree in differentiate(part, perturb(x, seed + i))] for i in range(DRAWS)]
            for x in (at, at64)
        )
    paths = [path for path, x in exact.items() if is_floating(x)]
    wide = lambda leaves: {path: np.asarray(leaves[path], np.float64) for path in paths}
    autodiff = Autodiff(
        Gradients.measure(wide(own), lambda i: wide(around[i][1])),
        Gradients.measure(wide(exact), lambda i: wide(around64[i][1]), floor_of(np.float64), DRAWS),
    )
    here, here64, perturbed = wide(manual), wide(manual64), [wide(by_hand) for by_hand, _ in around64]
    for path in paths:
        shifts = autodiff.exact.shifts
        jitter = max(measure_jitter(here64[path], g[path], s[path]) for g, s in zip(perturbed, shifts, strict=True))
        leaf = LeafByAutodiff(path, str(manual[path].dtype), here[path], here64[path], jitter, autodiff)
        yield leaf.describe((JudgeResult("equations", *leaf.assess()),), here[path].shape[:1])


def _unwrap(layer: Layer) -> Layer:
    """The layer itself, where a fault was put around it."""
    return layer.layer if isinstance(layer, FaultyLayer) else layer


def _quantity(layer: Layer, path: str, own: int, l: int) -> str:
    """The equation that gives the array at a path of (d_params, dA_in, sums of pairs).

    Args:
        layer: the layer.
        path: of the array.
        own: its number among the layers with a weight matrix; 0 if it has none.
        l: the number of the last layer with one.
    """
    name = path[3:].strip("[']")
    if path.startswith("[1]"):
        inside = path[3:]
        if inside:
            return f"dA_in{inside}"
        return f"dA_{own - 1}" if own else f"dZ_{l}" if isinstance(_unwrap(layer), Activation) else "dA_in"
    parameter = f"d{name}_{own}" if own else f"d_{name}"
    return f"pair of {parameter}" if path.startswith("[2]") else parameter


def find_faulty_combinators(net: Layer, params: Params, X: Activations, seed: int = 0) -> list[str]:
    """The combinators whose own backward pass is wrong while those of their children are right, innermost first.

    Each is judged in float64, at the input that it has in this network and for a random cotangent.

    Args:
        net: a network.
        params: its parameters.
        X: inputs, (m, ...).
        seed: of the cotangents.
    """
    with jax.enable_x64(True):
        wide, A = in_float64(on_host((params, X)))
        return _find_faulty(net, wide, A, seed, ())[1]


def _find_faulty(net: Layer, params: Params, A: Any, seed: int, path: Path) -> tuple[bool, list[str]]:
    """Whether a part is wrong, and the combinators in it that are to blame."""
    out = jax.eval_shape(lambda p, A: net.forward(p, A)[0], params, A)
    draw = np.random.default_rng(seed)
    dA_out = jax.tree.map(lambda x: draw.standard_normal(x.shape) if is_floating(x) else None, out)
    at = LayerInputs(params, A, None, dA_out)
    wrong = any(leaf.verdict == "FAIL" for leaf in _judge(_pull_back, net, at, seed))
    if not wrong or not isinstance(net, Combinator):
        return wrong, []
    plain = net.without_checkpoint()
    if plain != net:
        parts = [(plain, params, A, path)]
    else:
        # What each child is given is for the combinator to say, so its children are replaced by recorders.
        recorder = net.with_children([_Recorder(child) for child in net.children])
        assert isinstance(recorder, Combinator)
        joined = net.join([(part, None) for part in net.split(params)])
        given = recorder.split_cache(joined, recorder.forward(joined, A)[1])
        own = net.split(params)
        if net.copies is not None:
            own, given = jax.tree.map(lambda x: x[0], (own, given))
        steps = (() if step is None else (step,) for step in net.steps)
        parts = [
            (child, part, recorded[0], (*path, *step))
            for child, part, recorded, step in zip(net.children, own, on_host(given), steps, strict=True)
        ]
    inside = [_find_faulty(*part[:3], seed, part[3]) for part in parts]
    blamed = [combinator for _, combinators in inside for combinator in combinators]
    where = f"{format_path(path)} {describe_layer(_unwrap(net))}".lstrip()
    return True, blamed or ([] if any(bad for bad, _ in inside) else [where])
