"""Canonical mistakes in a correct backward pass, one at a time: what a judge has to find.

A fault changes one rule of one layer, one combinator or the loss, and leaves the forward pass alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator, Repeat, Residual, Serial
from fbp.cotangent import Cotangent
from fbp.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
from fbp.layers.axes import per_unit
from fbp.losses import Loss, SoftmaxCrossEntropy
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Sweep, Wrapper

LayerGradients = tuple[Params, Array]
"""(d_params, dA_in)."""


class Backward(NamedTuple):
    """What a faulty rule may look at: the layer, its arguments, its input A, and the right result."""

    layer: Any
    params: Params
    cache: Cache
    A: Array
    dA: Array
    d: Any
    dA_in: Array


Rule = Callable[[Backward], LayerGradients]
Mutate = Callable[[Any], Any]


@dataclass(frozen=True)
class Mutant:
    """A network with one fault.

    Attributes:
        fault: the fault's name in `FAULTS`.
        place: where it is.
        net: the network.
        loss: the loss.
    """

    fault: str
    place: str
    net: Layer
    loss: Loss


def make_mutants(net: Layer, loss: Loss) -> Iterator[Mutant]:
    """Every fault at every place of a network where it applies.

    Args:
        net: a network.
        loss: its loss.
    """
    for fault, mutate in FAULTS.items():
        for path, part in _list_parts(net):
            if (faulty := mutate(part)) is not None:
                place = " > ".join([*map(str, path), type(part).__name__])
                yield Mutant(fault, place, _replace_part(net, path, faulty), loss)
        if (faulty := mutate(loss)) is not None:
            yield Mutant(fault, "loss", net, faulty)


def _list_parts(net: Layer, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Layer]]:
    yield path, net
    for i, child in enumerate(net.children if isinstance(net, Combinator) else ()):
        yield from _list_parts(child, (*path, i))


def _replace_part(net: Layer, path: tuple[int, ...], part: Layer) -> Layer:
    if not path:
        return part
    assert isinstance(net, Combinator)
    children = list(net.children)
    children[path[0]] = _replace_part(children[path[0]], path[1:], part)
    return net.with_children(children)


@dataclass(frozen=True)
class FaultyLayer(Wrapper):
    """A layer with another backward rule; it keeps its input beside its cache, for rules that go wrong by it."""

    rule: Rule

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        out, cache = self.layer.forward(params, A, key)
        return out, (cache, A)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        inner, A = cache
        d_params, dA_in = self.layer.backward(params, inner, dA_out)
        return self.rule(Backward(self.layer, params, inner, A, dA_out, d_params, dA_in))


@dataclass(frozen=True)
class _FaultyCombinator(Combinator):
    """A combinator whose reverse loop ends in a mistake: rule(d_params, dA_in, dA_out) -> (d_params, dA_in)."""

    inside: Combinator
    rule: Callable[[Params, Cotangent, Cotangent], tuple[Params, Cotangent]]

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return self.inside.forward(params, A, key)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        d_params, dA_in, readings = self.inside.sweep(params, cache, dA_out, probe)
        return (*self.rule(d_params, dA_in, dA_out), readings)


@dataclass(frozen=True)
class _FaultyLoss(Loss):
    """A loss with another dZ: rule(loss, Z, dZ)."""

    right: Loss = field(kw_only=True)
    rule: Callable[[Loss, Array, Array], Array] = field(kw_only=True)

    def value(self, Z: Activations, Y: Array, weights: Array | None = None) -> Array:
        return self.right.value(Z, Y, weights)

    def value_and_dZ(self, Z: Activations, Y: Array, weights: Array | None = None) -> tuple[Array, Activations]:
        value, dZ = self.right.value_and_dZ(Z, Y, weights)
        return value, self.rule(self.right, Z, dZ).astype(Z.dtype)

    def output(self, Z: Activations) -> Activations:
        return self.right.output(Z)


def _in_layer(kinds: type | tuple[type, ...], rule: Rule) -> Mutate:
    return lambda part: FaultyLayer(part, rule) if isinstance(part, kinds) else None


def _in_activation(applies: Callable[[Nonlinearity], bool], rule: Rule) -> Mutate:
    def mutate(part: Any) -> Any:
        return FaultyLayer(part, rule) if isinstance(part, Activation) and applies(activation(part.function)) else None

    return mutate


def _in_loss(kinds: type, rule: Callable[..., Array]) -> Mutate:
    return lambda part: _FaultyLoss(part.reduction, right=part, rule=rule) if isinstance(part, kinds) else None


def _in_combinator(kind: type, rule: Callable[..., Any]) -> Mutate:
    return lambda part: _FaultyCombinator(part, rule) if isinstance(part, kind) else None


def _change(name: str, rule: Callable[[Backward], Array]) -> Mutate:
    """Another gradient of one parameter of a dense layer."""
    return _in_layer(Dense, lambda b: (b.d | {name: rule(b)}, b.dA_in))


def _propagate(kinds: type | tuple[type, ...], rule: Callable[[Backward], Array]) -> Mutate:
    """Another dA_in of some kinds of layers."""
    return _in_layer(kinds, lambda b: (b.d, rule(b)))


def _missing_transpose(b: Backward) -> Array:
    W = b.params["W"]
    return b.dA @ W if W.shape[0] == W.shape[1] else b.dA_in


def _low_precision(b: Backward) -> Array:
    narrow = {"float64": jnp.float32, "float32": jnp.bfloat16}.get(str(b.A.dtype), jnp.float8_e4m3fn)
    return b.d["W"].astype(narrow).astype(b.d["W"].dtype)


def _one_wrong_element(b: Backward) -> Array:
    dW = b.d["W"]
    return dW.at[dW.shape[0] // 2, dW.shape[1] // 2].multiply(2)


def _stale_cache(b: Backward) -> LayerGradients:
    _, stale = b.layer.forward(b.params, jnp.roll(b.A, 1, axis=0))
    return b.layer.backward(b.params, stale, b.dA)


def _wrong_mask(b: Backward) -> LayerGradients:
    # The output of a relu is never negative: >= lets everything through.
    return (), jnp.where(b.layer.recompute(b.params, b.cache) >= 0, b.dA, b.dA_in)


def _derivative_elsewhere(b: Backward) -> LayerGradients:
    g = activation(b.layer.function)
    # A is Z here: what is saved of g(Z) and Z in this order is the other array.
    return (), g.pullback(g.save(g(b.A), b.A), b.dA)


def _normalize_back(
    b: Backward, *, mean: bool = True, variance: bool = True, over_examples: bool | None = None
) -> Array:
    """dA_in of a normalization, without one of its terms or along the other axis."""
    A, average, r = b.cache
    over_examples = isinstance(b.layer, BatchNorm) if over_examples is None else over_examples
    axes = tuple(range(A.ndim - 1)) if over_examples else (A.ndim - 1,)
    d_hat = b.dA.astype(r.dtype) * per_unit(b.params["gamma"].astype(r.dtype), b.dA)
    A_hat = (A.astype(r.dtype) - (0 if average is None else average)) * r
    dA_in = d_hat
    if variance:
        dA_in = dA_in - A_hat * jnp.mean(d_hat * A_hat, axis=axes, keepdims=True)
    if mean and average is not None:
        dA_in = dA_in - jnp.mean(d_hat, axis=axes, keepdims=True)
    return (r * dA_in).astype(b.dA.dtype)


def _forgotten_gamma(b: Backward) -> Array:
    ones = b.params | {"gamma": jnp.ones_like(b.params["gamma"])}
    return b.layer.backward(ones, b.cache, b.dA)[1]


def _exchange_layers(d: Params, order: Callable[[int, int], tuple[int, int]]) -> Params:
    """The gradients with those of the first two layers of one shape in another order."""
    kinds = [(jax.tree.structure(part), [leaf.shape for leaf in jax.tree.leaves(part)]) for part in d]
    for i, j in combinations(range(len(d)), 2):
        if kinds[i] == kinds[j] and jax.tree.leaves(d[i]):
            sources = dict(zip((i, j), order(i, j), strict=True))
            return tuple(d[sources.get(k, k)] for k in range(len(d)))
    return d


def _wrong_softmax_axis(loss: Loss, Z: Array, dZ: Array) -> Array:
    right, wrong = (jax.nn.softmax(Z, axis=axis) for axis in (-1, 0))
    return dZ + (wrong - right) * (1 / Z.shape[0] if loss.reduction == "mean" else 1.0)


_NORMALIZATIONS = (BatchNorm, LayerNorm, RMSNorm)
_CENTRED = (BatchNorm, LayerNorm)

FAULTS: dict[str, Mutate] = {
    # dW has the wrong sign.
    "sign": _change("W", lambda b: -b.d["W"]),
    # The loss's dZ is summed over examples, not averaged.
    "missing 1/m": _in_loss(Loss, lambda loss, Z, dZ: dZ * Z.shape[0] if loss.reduction == "mean" else dZ),
    # The loss's dZ is averaged twice.
    "1/m twice": _in_loss(Loss, lambda loss, Z, dZ: dZ / Z.shape[0]),
    # dW is averaged, though the loss owns the mean.
    "1/m in a layer": _change("W", lambda b: b.d["W"] / b.A.shape[0]),
    # dA = dZ W in a square layer.
    "missing transpose": _propagate(Dense, _missing_transpose),
    # The kink's mask lets zeros through, A >= 0 for A > 0.
    "wrong mask": _in_activation(lambda g: g.kinks == (0.0,) and g.saves == "output", _wrong_mask),
    # g' written for A is taken at Z, or the other way round.
    "derivative elsewhere": _in_activation(lambda g: g.elementwise and g.name != "linear", _derivative_elsewhere),
    # dZ = dA, without g'.
    "missing derivative": _in_activation(lambda g: g.name != "linear", lambda b: ((), b.dA)),
    # db is that of the first example.
    "dropped bias sum": _change("b", lambda b: b.dA.reshape(-1, b.dA.shape[-1])[0]),
    # db is zero.
    "forgotten bias": _change("b", lambda b: jnp.zeros_like(b.d["b"])),
    # A normalization's means run over the other axis.
    "wrong reduction axis": _propagate(
        _NORMALIZATIONS, lambda b: _normalize_back(b, over_examples=not isinstance(b.layer, BatchNorm))
    ),
    # The cache is that of other examples.
    "stale cache": _in_layer(Dense, _stale_cache),
    # A layer is given the gradient of the next one of its shape.
    "off-by-one layer": _in_combinator(
        Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, j)), dA_in)
    ),
    # Two layers of one shape have each other's gradients.
    "swapped layers": _in_combinator(
        Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, i)), dA_in)
    ),
    # A loop stacks its gradients in the wrong order.
    "reversed layers": _in_combinator(Repeat, lambda d, dA_in, dA_out: (jax.tree.map(lambda x: x[::-1], d), dA_in)),
    # A normalization forgets the path through the mean.
    "missing mean term": _propagate(_CENTRED, lambda b: _normalize_back(b, mean=False)),
    # A normalization forgets the path through the variance.
    "missing variance term": _propagate(_NORMALIZATIONS, lambda b: _normalize_back(b, variance=False)),
    # A normalization's dA lacks gamma.
    "forgotten gamma": _propagate(_NORMALIZATIONS, _forgotten_gamma),
    # d_gamma and d_beta are swapped.
    "swapped gradients": _in_layer(_CENTRED, lambda b: ({"gamma": b.d["beta"], "beta": b.d["gamma"]}, b.dA_in)),
    # A residual connection forgets the skip.
    "missing fan-out addition": _in_combinator(
        Residual, lambda d, dA_in, dA_out: (d, dA_in._replace(value=dA_in.value - dA_out.value))
    ),
    # A residual connection forgets the branch.
    "missing branch": _in_combinator(Residual, lambda d, dA_in, dA_out: (d, dA_out)),
    # Dropout's backward pass lacks 1/(1 - rate).
    "missing rescale": _propagate(Dropout, lambda b: b.dA_in if b.cache is None else b.dA_in * (1 - b.layer.rate)),
    # dW is accumulated in a narrower dtype.
    "low-precision accumulation": _change("W", _low_precision),
    # One entry of dW is doubled.
    "one wrong element": _change("W", _one_wrong_element),
    # The loss's softmax runs over examples.
    "wrong softmax axis": _in_loss(SoftmaxCrossEntropy, _wrong_softmax_axis),
}
"""By name: what gives a faulty version of a layer, a combinator or a loss, or None where it does not apply."""
