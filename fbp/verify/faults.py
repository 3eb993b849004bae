"""Canonical mistakes in a correct backward pass, one at a time: what a judge has to find.

A fault changes one rule of one layer, one combinator or the loss, and leaves the forward pass alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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

Rule = Callable[[Any, Params, Cache, Array, Array], tuple[Params, Array]]
"""(layer, params, cache, A_in, dA_out) -> (d_params, dA_in)."""


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
        for path, part in _parts(net):
            faulty = fault.mutate(part)
            if faulty is not None:
                place = " > ".join([*map(str, path), type(part).__name__])
                yield Mutant(fault.name, place, _replaced(net, path, faulty), loss)
        faulty = fault.mutate(loss)
        if faulty is not None:
            yield Mutant(fault.name, "loss", net, faulty)


def _parts(net: Layer, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Layer]]:
    yield path, net
    for i, child in enumerate(net.children if isinstance(net, Combinator) else ()):
        yield from _parts(child, (*path, i))


def _replaced(net: Layer, path: tuple[int, ...], part: Layer) -> Layer:
    if not path:
        return part
    assert isinstance(net, Combinator)
    children = list(net.children)
    children[path[0]] = _replaced(children[path[0]], path[1:], part)
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
        return self.rule(self.layer, params, cache[0], cache[1], dA_out)


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


def _sign(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return d | {"W": -d["W"]}, dA_in


def _missing_transpose(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    W = params["W"]
    return d, dA @ W if W.shape[0] == W.shape[1] else dA_in


def _dropped_bias_sum(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return d | {"b": dA.reshape(-1, dA.shape[-1])[0]}, dA_in


def _mean_over_examples(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return d | {"W": d["W"] / A.shape[0]}, dA_in


def _stale_cache(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    _, stale = layer.forward(params, jnp.roll(A, 1, axis=0))
    return layer.backward(params, stale, dA)


def _low_precision(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    narrow = {"float64": jnp.float32, "float32": jnp.bfloat16}.get(str(A.dtype), jnp.float8_e4m3fn)
    return d | {"W": d["W"].astype(narrow).astype(d["W"].dtype)}, dA_in


def _one_wrong_element(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    dW = d["W"]
    return d | {"W": dW.at[dW.shape[0] // 2, dW.shape[1] // 2].multiply(2)}, dA_in


def _forgotten(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return d | {"b": jnp.zeros_like(d["b"])}, dA_in


def _wrong_mask(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    out = layer.recompute(params, cache)
    # The output of a relu is never negative: >= lets everything through.
    return (), jnp.where(out >= 0, dA, layer.backward(params, cache, dA)[1])


def _derivative_elsewhere(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    g = activation(layer.function)
    # A_in is Z: what is saved of g(Z) and Z in this order is the other array.
    return (), g.pullback(g.save(g(A), A), dA)


def _missing_derivative(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    return (), dA


def _normalization_backward(layer: Any, cache: Cache, params: Params, dA: Array, mean: bool, variance: bool) -> Array:
    A, average, r = cache
    axes = tuple(range(A.ndim - 1)) if isinstance(layer, BatchNorm) else (A.ndim - 1,)
    d_hat = dA.astype(r.dtype) * per_unit(params["gamma"].astype(r.dtype), dA)
    A_hat = (A.astype(r.dtype) - (0 if average is None else average)) * r
    dA_in = d_hat
    if variance:
        dA_in = dA_in - A_hat * jnp.mean(d_hat * A_hat, axis=axes, keepdims=True)
    if mean and average is not None:
        dA_in = dA_in - jnp.mean(d_hat, axis=axes, keepdims=True)
    return (r * dA_in).astype(dA.dtype)


def _missing_mean_term(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    return layer.backward(params, cache, dA)[0], _normalization_backward(layer, cache, params, dA, False, True)


def _missing_variance_term(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    return layer.backward(params, cache, dA)[0], _normalization_backward(layer, cache, params, dA, True, False)


def _wrong_axis(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    other = LayerNorm() if isinstance(layer, BatchNorm) else BatchNorm()
    return layer.backward(params, cache, dA)[0], _normalization_backward(other, cache, params, dA, True, True)


def _forgotten_gamma(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    ones = params | {"gamma": jnp.ones_like(params["gamma"])}
    return layer.backward(params, cache, dA)[0], layer.backward(ones, cache, dA)[1]


def _swapped(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return {"gamma": d["beta"], "beta": d["gamma"]}, dA_in


def _missing_rescale(layer: Any, params: Params, cache: Cache, A: Array, dA: Array) -> tuple[Params, Array]:
    d, dA_in = layer.backward(params, cache, dA)
    return d, dA_in if cache is None else dA_in * (1 - layer.rate)


def _no_skip(d: Params, dA_in: Cotangent, dA_out: Cotangent) -> tuple[Params, Cotangent]:
    return d, dA_in._replace(value=dA_in.value - dA_out.value)


def _no_branch(d: Params, dA_in: Cotangent, dA_out: Cotangent) -> tuple[Params, Cotangent]:
    return d, dA_out


def _equal_pairs(d: Sequence[Params]) -> list[tuple[int, int]]:
    shapes = [tuple(sorted((k, v.shape) for k, v in p.items())) if isinstance(p, dict) else () for p in d]
    return [(i, j) for i in range(len(d)) for j in range(i + 1, len(d)) if shapes[i] and shapes[i] == shapes[j]]


def _off_by_one_layer(d: Params, dA_in: Cotangent, dA_out: Cotangent) -> tuple[Params, Cotangent]:
    d = list(d)
    for i, j in _equal_pairs(d)[:1]:
        d[i] = d[j]
    return tuple(d), dA_in


def _swapped_layers(d: Params, dA_in: Cotangent, dA_out: Cotangent) -> tuple[Params, Cotangent]:
    d = list(d)
    for i, j in _equal_pairs(d)[:1]:
        d[i], d[j] = d[j], d[i]
    return tuple(d), dA_in


def _reversed_layers(d: Params, dA_in: Cotangent, dA_out: Cotangent) -> tuple[Params, Cotangent]:
    return jax.tree.map(lambda x: x[::-1], d), dA_in


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
        Fault("sign", "dW has the wrong sign", _in_layer(Dense, _sign)),
        Fault("missing 1/m", "the loss's dZ is summed over examples, not averaged", _in_loss(Loss, _missing_mean)),
        Fault("1/m twice", "the loss's dZ is averaged twice", _in_loss(Loss, _mean_twice)),
        Fault("1/m in a layer", "dW is averaged, though the loss owns the mean", _in_layer(Dense, _mean_over_examples)),
        Fault("missing transpose", "dA = dZ W in a square layer", _in_layer(Dense, _missing_transpose)),
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
            _in_activation(lambda g: g.name != "linear", _missing_derivative),
        ),
        Fault("dropped bias sum", "db is that of the first example", _in_layer(Dense, _dropped_bias_sum)),
        Fault("forgotten bias", "db is zero", _in_layer(Dense, _forgotten)),
        Fault(
            "wrong reduction axis",
            "a normalization's means run over the other axis",
            _in_layer(_NORMALIZATIONS, _wrong_axis),
        ),
        Fault("stale cache", "the cache is that of other examples", _in_layer(Dense, _stale_cache)),
        Fault(
            "off-by-one layer",
            "a layer is given the gradient of the next one of its shape",
            _in_combinator(Serial, _off_by_one_layer),
        ),
        Fault(
            "swapped layers",
            "two layers of one shape have each other's gradients",
            _in_combinator(Serial, _swapped_layers),
        ),
        Fault(
            "reversed layers",
            "a loop stacks its gradients in the wrong order",
            _in_combinator(Repeat, _reversed_layers),
        ),
        Fault(
            "missing mean term",
            "a normalization forgets the path through the mean",
            _in_layer(_CENTRED, _missing_mean_term),
        ),
        Fault(
            "missing variance term",
            "a normalization forgets the path through the variance",
            _in_layer(_NORMALIZATIONS, _missing_variance_term),
        ),
        Fault("forgotten gamma", "a normalization's dA lacks gamma", _in_layer(_NORMALIZATIONS, _forgotten_gamma)),
        Fault("swapped gradients", "d_gamma and d_beta are swapped", _in_layer(_CENTRED, _swapped)),
        Fault("missing fan-out addition", "a residual connection forgets the skip", _in_combinator(Residual, _no_skip)),
        Fault("missing branch", "a residual connection forgets the branch", _in_combinator(Residual, _no_branch)),
        Fault("missing rescale", "dropout's backward pass lacks 1/(1 - rate)", _in_layer(Dropout, _missing_rescale)),
        Fault("low-precision accumulation", "dW is accumulated in a narrower dtype", _in_layer(Dense, _low_precision)),
        Fault("one wrong element", "one entry of dW is doubled", _in_layer(Dense, _one_wrong_element)),
        Fault(
            "wrong softmax axis",
            "the loss's softmax runs over examples",
            _in_loss(SoftmaxCrossEntropy, _wrong_softmax_axis),
        ),
    )
}
"""The faults by name."""
