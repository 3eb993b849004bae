"""A network equation by equation: each layer's dZ, dW, db and dA, with the incoming cotangent from the reference.

A layer's backward pass is linear in its cotangent, so that each equation can be judged alone: the layer at the input
that it really met, given the cotangent that autodiff says it should have met, in units of its largest entry. A mistake
in one equation then marks one cell, however deep the network, and vanishing gradients hide nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from fbp.combinators import Combinator, Repeat
from fbp.layers import Activation, Dense
from fbp.losses import Loss
from fbp.tree import instrument, map_layers, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params
from fbp.verify.faults import FaultyLayer
from fbp.verify.hints import hint
from fbp.verify.judges import by_autodiff
from fbp.verify.measures import difference
from fbp.verify.opinion import Opinion
from fbp.verify.result import EquationVerdict, LeafVerdict
from fbp.verify.rounding import DRAWS, Allowance, distance, in_float64, moved, norm, on_host
from fbp.verify.structure import by_path, is_floating


@dataclass(frozen=True)
class _Met(Layer):
    """A layer whose output is shifted by delta, and which keeps what it met: its input, its key and its output."""

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        layer_params, delta = params
        out, _ = self.layer.forward(layer_params, A, key)
        return (out if delta is None else out + delta), (A, key, out)


class Point(NamedTuple):
    """Where one layer is judged: its parameters, input and key, and the cotangent of its output."""

    params: Params
    A: Any
    key: Key | None
    dA_out: Any


@dataclass(frozen=True)
class Points:
    """Where the equations of a network are judged: one point a layer, in forward order, and the end of the network."""

    layers: tuple[Point, ...]
    Z: Any
    Y: Any
    weights: Any


def points(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Array,
    weights: Array | None = None,
    key: Key | None = None,
) -> Points:
    """What each layer meets: forward in the dtype of X, and the cotangent of its output by autodiff in float64.

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
    Z, met, cotangents = on_host(_met(net, loss, params, X, Y, weights, key))
    found = unstack(net, map_layers(lambda layer, p, m, d: (p, m, d), net, params, met, cotangents))
    layers = tuple(Point(p, A, layer_key, _in_range(dA, A.dtype)) for _, (p, (A, layer_key, _), dA) in found)
    return Points(layers, Z, Y, weights)


def equations(net: Layer, loss: Loss, params: Params, at: Points, seed: int = 0) -> tuple[EquationVerdict, ...]:
    """Every equation of a network's backward pass, judged by itself.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        at: what `points` gives for it, or for a network that differs in its backward pass only.
        seed: of the movements by which rounding is measured.
    """
    found = []
    l = 0
    for i, ((layer, _), point) in enumerate(zip(unstack(net, on_host(params)), at.layers, strict=True)):
        l += isinstance(_bare(layer), Dense)
        found += [
            EquationVerdict(f"{i} {_name(layer)}", _quantity(layer, path, l), leaf)
            for path, leaf in judged_layer(layer, point, seed)
        ]
    last = _judged(_loss_gradients, loss, (at.Z, at.Y, at.weights), seed)
    return (*found, *(EquationVerdict("loss", f"dZ_{l}", leaf) for _, leaf in last))


@partial(jax.jit, static_argnums=(0, 1))
def _met_in_float64(
    net: Layer, loss: Loss, params: Params, deltas: Any, X: Array, Y: Array, weights: Array | None, key: Key | None
) -> Any:
    def value(deltas: Any) -> Array:
        joined = map_layers(lambda layer, p, d: (p, d), net, params, deltas)
        return loss.value(instrument(net, _Met).forward(joined, X, key)[0], Y, weights)

    return jax.grad(value)(deltas)


@partial(jax.jit, static_argnums=0)
def _forward(net: Layer, params: Params, X: Array, key: Key | None) -> tuple[Array, Any]:
    without = map_layers(lambda layer, p: (p, None), net, params)
    return instrument(net, _Met).forward(without, X, key)


def _met(
    net: Layer, loss: Loss, params: Params, X: Array, Y: Array, weights: Array | None, key: Key | None
) -> tuple[Array, Any, Any]:
    """Z_L, and in the network's shape what each layer met forward, in the dtype of X, and backward, in float64."""
    with jax.enable_x64(True):
        Z, met = _forward(net, params, X, key)
        deltas = map_layers(lambda layer, m: np.zeros(m[2].shape), net, met)
        wide = in_float64((params, X, Y, weights))
        return Z, met, _met_in_float64(net, loss, wide[0], deltas, wide[1], wide[2], wide[3], key)


def _in_range(dA: np.ndarray, dtype: Any) -> np.ndarray:
    """The cotangent in units of its largest entry; random signs where it is zero or not finite."""
    largest = np.max(np.abs(dA), initial=0.0)
    if not 0 < largest < np.inf:
        return (np.random.default_rng(0).integers(0, 2, dA.shape) * 2 - 1).astype(dtype)
    return (dA / 2.0 ** np.frexp(largest)[1]).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _pullbacks(layer: Layer, point: Point) -> tuple[Any, Any]:
    """(d_params, dA_in) by hand, and by `jax.vjp` of the forward pass."""
    _, cache = layer.forward(point.params, point.A, point.key)
    _, pull = jax.vjp(lambda p, A: layer.forward(p, A, point.key)[0], point.params, point.A)
    return layer.backward(point.params, cache, point.dA_out), pull(point.dA_out)


def judged_layer(layer: Layer, point: Point, seed: int = 0) -> Iterator[tuple[str, LeafVerdict]]:
    """Each array that a layer's `backward` gives, beside `jax.vjp` of its `forward`.

    Args:
        layer: a layer or a network.
        point: where.
        seed: of the movements by which rounding is measured.

    Yields:
        The path of the array in (d_params, dA_in), and its verdict.
    """
    yield from _judged(_pullbacks, layer, point, seed)


@partial(jax.jit, static_argnums=0)
def _loss_gradients(loss: Loss, at: tuple[Any, ...]) -> tuple[Array, Array]:
    """dZ_L by hand, and by `jax.grad` of the value."""
    return loss.value_and_dZ(*at)[1], jax.grad(loss.value)(*at)


def _judged(both: Callable[..., Any], what: Any, at: Any, seed: int) -> Iterator[tuple[str, LeafVerdict]]:
    """Arrays by hand beside those of autodiff, both given by both(what, at)."""
    with jax.enable_x64(True):
        at64 = in_float64(at)
        (found, expected), (sharp, exact) = ([by_path(tree) for tree in both(what, x)] for x in (at, at64))
        around, around64 = ([both(what, moved(x, seed + i)) for i in range(DRAWS)] for x in (at, at64))
        moves, moves64 = ([by_path(theirs) for _, theirs in pairs] for pairs in (around, around64))
        follows = [by_path(ours) for ours, _ in around64]
    total = norm(np.asarray([norm(np.asarray(x, np.float64)) for x in exact.values() if is_floating(x)]))
    for path in exact:
        if not is_floating(exact[path]):
            continue
        own = Allowance.measured(str(found[path].dtype), *_wide(expected[path], [m[path] for m in moves], exact[path]))
        sharply = Allowance.measured("float64", *_wide(exact[path], [m[path] for m in moves64], exact[path]))
        g, best, right = (np.asarray(x[path], np.float64) for x in (found, sharp, exact))
        sharply = sharply.with_jitter(
            max(
                distance(np.asarray(x[path]) - best, np.asarray(m[path]) - right)
                for x, m in zip(follows, moves64, strict=True)
            )
        )
        own = sharply if own.dtype == "float64" else own
        against = difference(path, g, np.asarray(expected[path], np.float64)).relative_error
        zero_beside = total if sharply.is_zero(right, total) else None
        opinion = by_autodiff(g, right, own, against, best, sharply, zero_beside)
        text = ""
        if opinion.verdict == "FAIL":
            references = {p: np.asarray(x, np.float64) for p, x in exact.items() if is_floating(x)}
            text = hint(path, best, references, sharply.explained, {g.shape[0]} if g.ndim else ())
        opinion = Opinion("equations", opinion.verdict, opinion.reason)
        explained = own.explained / size if (size := norm(right)) else 0.0
        yield path, LeafVerdict(path, own.dtype, g.shape, difference(path, g, right), explained, (opinion,), text)


def _wide(here: Array, movements: list[Array], exact: Array) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    wide = lambda x: np.asarray(x, np.float64)
    return wide(here), [wide(m) for m in movements], wide(exact)


def _name(layer: Layer) -> str:
    layer = _bare(layer)
    if isinstance(layer, Dense):
        return f"Dense({layer.width})"
    return f"Activation({layer.function})" if isinstance(layer, Activation) else type(layer).__name__


def _bare(layer: Layer) -> Layer:
    """The layer itself, where a fault was put around it."""
    return layer.layer if isinstance(layer, FaultyLayer) else layer


def _quantity(layer: Layer, path: str, l: int) -> str:
    """The equation that gives the array at a path of (d_params, dA_in)."""
    layer = _bare(layer)
    if path.startswith("[0]"):
        name = path[3:].strip("[']")
        return f"d{name}_{l}" if isinstance(layer, Dense) else f"d_{name}"
    if isinstance(layer, Dense):
        return f"dA_{l - 1}"
    return f"dZ_{l}" if isinstance(layer, Activation) else "dA_in"


def faulty_combinators(net: Layer, params: Params, shape: tuple[int, ...], m: int, seed: int = 0) -> Iterator[str]:
    """The combinators whose own backward pass is wrong while those of their children are right, innermost first.

    A backward pass is right for every input and cotangent or it is wrong: random ones do. In float64.

    Args:
        net: a network.
        params: its parameters.
        shape: of one example.
        m: the number of examples.
        seed: of the inputs and cotangents.
    """
    yield from _faulty(net, params, (m, *shape), seed, type(net).__name__)[1]


def _faulty(net: Layer, params: Params, shape: tuple[int, ...], seed: int, name: str) -> tuple[bool, list[str]]:
    """Whether a part is wrong, and the combinators in it that are to blame."""
    draw = np.random.default_rng(seed)
    A = draw.standard_normal(shape)
    with jax.enable_x64(True):
        wide = in_float64(on_host(params))
        out = _shape(net, wide, A)
        wrong = any(
            leaf.verdict == "FAIL"
            for _, leaf in judged_layer(net, Point(wide, A, None, draw.standard_normal(out)), seed)
        )
    if not wrong or not isinstance(net, Combinator):
        return wrong, []
    inner, named = False, []
    one = jax.tree.map(lambda x: x[0], params) if isinstance(net, Repeat) else params
    for i, (child, part) in enumerate(zip(net.children, net.split(one), strict=True)):
        bad, inside = _faulty(child, part, shape, seed, f"{name} > {i} {_name(child)}")
        inner |= bad
        named += inside
        shape = _shape(child, part, np.zeros(shape))
    return True, named or ([] if inner else [name])


def _shape(net: Layer, params: Params, A: np.ndarray) -> tuple[int, ...]:
    return jax.eval_shape(lambda p, A: net.forward(p, A)[0], params, A).shape
