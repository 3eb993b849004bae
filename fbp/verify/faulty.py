"""Layers, combinators and losses with another backward rule than their own, for faults to be made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Array

from fbp.activations import Nonlinearity, activation
from fbp.combinators import Combinator
from fbp.cotangent import Cotangent
from fbp.layers import Activation
from fbp.losses import Loss
from fbp.typing import Activations, Cache, Key, Params, Probe, Shape, Sweep, Wrapper

LayerGradients = tuple[Params, Any]
"""(d_params, dA_in)."""


class Backward(NamedTuple):
    """What a faulty rule may look at: the layer, its arguments, its input A, and the right result."""

    layer: Any
    params: Params
    cache: Cache
    A: Any
    dA: Array
    d: Any
    dA_in: Any


Rule = Callable[[Backward], LayerGradients]
Mutate = Callable[[Any], Any]


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
class AroundCombinator(Combinator):
    """A combinator in place of another one, with the same forward pass; a subclass gives the reverse loop."""

    inside: Combinator

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        return self.inside.init(key, shape)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        return self.inside.forward(params, A, key)


@dataclass(frozen=True)
class FaultyCombinator(AroundCombinator):
    """A combinator whose reverse loop ends in a mistake: rule(d_params, dA_in, dA_out) -> (d_params, dA_in)."""

    rule: Callable[[Params, Cotangent, Cotangent], tuple[Params, Cotangent]]

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        d_params, dA_in, readings = self.inside.sweep(params, cache, dA_out, probe)
        return (*self.rule(d_params, dA_in, dA_out), readings)


@dataclass(frozen=True)
class FaultyLoss(Loss):
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


def in_layer(kinds: type | tuple[type, ...], rule: Rule) -> Mutate:
    """Another backward rule of some kinds of layers."""
    return lambda part: FaultyLayer(part, rule) if isinstance(part, kinds) else None


def in_activation(applies: Callable[[Nonlinearity], bool], rule: Rule) -> Mutate:
    """Another backward rule of the activations to which it applies."""

    def mutate(part: Any) -> Any:
        return FaultyLayer(part, rule) if isinstance(part, Activation) and applies(activation(part.function)) else None

    return mutate


def in_loss(kinds: type, rule: Callable[..., Array]) -> Mutate:
    """Another dZ of a kind of loss."""
    return lambda part: FaultyLoss(part.reduction, right=part, rule=rule) if isinstance(part, kinds) else None


def in_combinator(kind: type, rule: Callable[..., Any]) -> Mutate:
    """Another end of the reverse loop of a kind of combinator."""
    return lambda part: FaultyCombinator(part, rule) if isinstance(part, kind) else None


def propagate(kinds: type | tuple[type, ...], rule: Callable[[Backward], Activations]) -> Mutate:
    """Another dA_in of some kinds of layers."""
    return in_layer(kinds, lambda b: (b.d, rule(b)))
