"""Canonical mistakes in a correct backward pass, one at a time: what a judge has to find.

A fault changes one rule of one layer, one combinator or the loss, and leaves the forward pass alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape

Gradients = tuple[Params, Array]
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


Rule = Callable[[Backward], Gradients]


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


@dataclass(frozen=True)
class Fault:
    """One canonical mistake.

    Attributes:
        name: what it is called.
        description: what is wrong.
        mutate: gives a faulty version of a layer, a combinator or a loss, or None where it does not apply.
    """

    name: str
    description: str
    mutate: Callable[[Any], Any]


def mutants(net: Layer, loss: Loss) -> Iterator[Mutant]:
    """Every fault at every place of a network where it applies.

    Args:
        net: a network.
        loss: its loss.
    """
    for fault in FAULTS.values():
        for path, part in _list_parts(net):
            faulty = fault.mutate(part)
            if faulty is not None:
                place = " > ".join([*map(str, path), type(part).__name__])
                yield Mutant(fault.name, place, _replace_part(net, path, faulty), loss)
        faulty = fault.mutate(loss)
        if faulty is not None:
            yield Mutant(fault.name, "loss", net, faulty)


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
class FaultyLayer(Layer):
    """A layer with another backward rule; it keeps its input beside its cache, for rules that go wrong by it."""

    layer: Layer
    rule: Rule

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        return self.layer.init(key, shape)

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

    @property
    def children(self) -> tuple[Layer, ...]:
        return (self.inside,)

    def with_children(self, children: Sequence[Layer]) -> Layer:
        return replace(self, inside=children[0])

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return self.inside.forward(params, A, key)

    def sweep(
        self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None
    ) -> tuple[Params, Cotangent, Any]:
        d_params, dA_in, readings = self.inside.sweep(params, cache, dA_out, probe)
        return (*self.rule(d_params, dA_in, dA_out), readings)


@dataclass(frozen=True)
class _FaultyLoss(Loss):
    """A loss with another dZ: rule(loss, Z, Y, weights, dZ)."""

    of: Loss | None = None
    rule: Callable[..., Array] | None = None

    def value(self, Z: Activations, Y: Array, weights: Array | None = None) -> Array:
        return self._right.value(Z, Y, weights)

    def value_and_dZ(self, Z: Activations, Y: Array, weights: Array | None = None) -> tuple[Array, Activations]:
        value, dZ = self._right.value_and_dZ(Z, Y, weights)
        assert self.rule is not None
        return value, self.rule(self.of, Z, Y, weights, dZ).astype(Z.dtype)

    def output(self, Z: Activations) -> Activations:
        return self._right.output(Z)

    @property
    def _right(self) -> Loss:
        assert self.of is not None
        return self.of


def _in_layer(kinds: type | tuple[type, ...], rule: Rule) -> Callable[[Any], Any]:
    return lambda part: FaultyLayer(part, rule) if isinstance(part, kinds) else None


def _in_activation(applies: Callable[[Nonlinearity], bool], rule: Rule) -> Callable[[Any], Any]:
    def mutate(part: Any) -> Any:
        return FaultyLayer(part, rule) if isinstance(part, Activation) and applies(activation(part.function)) else None

    return mutate


def _in_loss(kinds: type, rule: Callable[..., Array]) -> Callable[[Any], Any]:
    return lambda part: _FaultyLoss(part.reduction, part, rule) if isinstance(part, kinds) else None


def _in_combinator(kind: type, rule: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda part: _FaultyCombinator(part, rule) if isinstance(part, kind) else None


def _change(name: str, rule: Callable[[Backward], Array]) -> Callable[[Any], Any]:
    """Another gradient of one parameter of a dense layer."""
    return _in_layer(Dense, lambda b: (b.d | {name: rule(b)}, b.dA_in))


def _propagate(kinds: type | tuple[type, ...], rule: Callable[[Backward], Array]) -> Callable[[Any], Any]:
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


def _stale_cache(b: Backward) -> Gradients:
    _, stale = b.layer.forward(b.params, jnp.roll(b.A, 1, axis=0))
    return b.layer.backward(b.params, stale, b.dA)


def _wrong_mask(b: Backward) -> Gradients:
    # The output of a relu is never negative: >= lets everything through.
    return (), jnp.where(b.layer.recompute(b.params, b.cache) >= 0, b.dA, b.dA_in)


def _derivative_elsewhere(b: Backward) -> Gradients:
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


def _equal_pairs(d: Sequence[Params]) -> list[tuple[int, int]]:
    shapes = [tuple(sorted((k, v.shape) for k, v in p.items())) if isinstance(p, dict) else () for p in d]
    return [(i, j) for i in range(len(d)) for j in range(i + 1, len(d)) if shapes[i] and shapes[i] == shapes[j]]


def _exchange_layers(d: Params, order: Callable[[int, int], tuple[int, int]]) -> Params:
    """The gradients with those of the first two layers of one shape in another order."""
    d = list(d)
    for pair in _equal_pairs(d)[:1]:
        d[pair[0]], d[pair[1]] = (d[i] for i in order(*pair))
    return tuple(d)


def _missing_mean(loss: Loss, Z: Array, Y: Array, weights: Array | None, dZ: Array) -> Array:
    return dZ * Z.shape[0] if loss.reduction == "mean" else dZ


def _mean_twice(loss: Loss, Z: Array, Y: Array, weights: Array | None, dZ: Array) -> Array:
    return dZ / Z.shape[0]


def _wrong_softmax_axis(loss: Loss, Z: Array, Y: Array, weights: Array | None, dZ: Array) -> Array:
    right, wrong = (jax.nn.softmax(Z, axis=axis) for axis in (-1, 0))
    return dZ + (wrong - right) * (1 / Z.shape[0] if loss.reduction == "mean" else 1.0)


_NORMALIZATIONS = (BatchNorm, LayerNorm, RMSNorm)
_CENTRED = (BatchNorm, LayerNorm)

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("sign", "dW has the wrong sign", _change("W", lambda b: -b.d["W"])),
        Fault("missing 1/m", "the loss's dZ is summed over examples, not averaged", _in_loss(Loss, _missing_mean)),
        Fault("1/m twice", "the loss's dZ is averaged twice", _in_loss(Loss, _mean_twice)),
        Fault(
            "1/m in a layer",
            "dW is averaged, though the loss owns the mean",
            _change("W", lambda b: b.d["W"] / b.A.shape[0]),
        ),
        Fault("missing transpose", "dA = dZ W in a square layer", _propagate(Dense, _missing_transpose)),
        Fault(
            "wrong mask",
            "the kink's mask lets zeros through, A >= 0 for A > 0",
            _in_activation(lambda g: g.kinks == (0.0,) and g.saves == "output", _wrong_mask),
        ),
        Fault(
            "derivative elsewhere",
            "g' written for A is taken at Z, or the other way round",
            _in_activation(lambda g: g.elementwise and g.name != "linear", _derivative_elsewhere),
        ),
        Fault(
            "missing derivative",
            "dZ = dA, without g'",
            _in_activation(lambda g: g.name != "linear", lambda b: ((), b.dA)),
        ),
        Fault(
            "dropped bias sum",
            "db is that of the first example",
            _change("b", lambda b: b.dA.reshape(-1, b.dA.shape[-1])[0]),
        ),
        Fault("forgotten bias", "db is zero", _change("b", lambda b: jnp.zeros_like(b.d["b"]))),
        Fault(
            "wrong reduction axis",
            "a normalization's means run over the other axis",
            _propagate(_NORMALIZATIONS, lambda b: _normalize_back(b, over_examples=not isinstance(b.layer, BatchNorm))),
        ),
        Fault("stale cache", "the cache is that of other examples", _in_layer(Dense, _stale_cache)),
        Fault(
            "off-by-one layer",
            "a layer is given the gradient of the next one of its shape",
            _in_combinator(Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, j)), dA_in)),
        ),
        Fault(
            "swapped layers",
            "two layers of one shape have each other's gradients",
            _in_combinator(Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, i)), dA_in)),
        ),
        Fault(
            "reversed layers",
            "a loop stacks its gradients in the wrong order",
            _in_combinator(Repeat, lambda d, dA_in, dA_out: (jax.tree.map(lambda x: x[::-1], d), dA_in)),
        ),
        Fault(
            "missing mean term",
            "a normalization forgets the path through the mean",
            _propagate(_CENTRED, lambda b: _normalize_back(b, mean=False)),
        ),
        Fault(
            "missing variance term",
            "a normalization forgets the path through the variance",
            _propagate(_NORMALIZATIONS, lambda b: _normalize_back(b, variance=False)),
        ),
        Fault("forgotten gamma", "a normalization's dA lacks gamma", _propagate(_NORMALIZATIONS, _forgotten_gamma)),
        Fault(
            "swapped gradients",
            "d_gamma and d_beta are swapped",
            _in_layer(_CENTRED, lambda b: ({"gamma": b.d["beta"], "beta": b.d["gamma"]}, b.dA_in)),
        ),
        Fault(
            "missing fan-out addition",
            "a residual connection forgets the skip",
            _in_combinator(Residual, lambda d, dA_in, dA_out: (d, dA_in._replace(value=dA_in.value - dA_out.value))),
        ),
        Fault(
            "missing branch",
            "a residual connection forgets the branch",
            _in_combinator(Residual, lambda d, dA_in, dA_out: (d, dA_out)),
        ),
        Fault(
            "missing rescale",
            "dropout's backward pass lacks 1/(1 - rate)",
            _propagate(Dropout, lambda b: b.dA_in if b.cache is None else b.dA_in * (1 - b.layer.rate)),
        ),
        Fault("low-precision accumulation", "dW is accumulated in a narrower dtype", _change("W", _low_precision)),
        Fault("one wrong element", "one entry of dW is doubled", _change("W", _one_wrong_element)),
        Fault(
            "wrong softmax axis",
            "the loss's softmax runs over examples",
            _in_loss(SoftmaxCrossEntropy, _wrong_softmax_axis),
        ),
    )
}
"""The faults by name."""
