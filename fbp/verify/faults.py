"""Canonical mistakes in a correct backward pass, one at a time: what a judge has to find.

A fault changes one rule of one layer, one combinator or the loss, and leaves the forward pass alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.activations import activation
from fbp.combinators import Combinator, Repeat, Residual, Serial
from fbp.layers import BatchNorm, Dense, Dropout, LayerNorm, RMSNorm
from fbp.layers.axes import per_unit
from fbp.losses import Loss, SoftmaxCrossEntropy
from fbp.paths import Path, format_path
from fbp.typing import Layer, Params
from fbp.verify.faulty import (
    Backward,
    LayerGradients,
    Mutate,
    in_activation,
    in_combinator,
    in_layer,
    in_loss,
    propagate,
)
from fbp.verify.sequence_faults import SEQUENCE_FAULTS


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
        for path, steps, part in _list_parts(net):
            if (faulty := mutate(part)) is not None:
                place = f"{format_path(steps)} {type(part).__name__}".lstrip()
                yield Mutant(fault, place, _replace_part(net, path, faulty), loss)
        if (faulty := mutate(loss)) is not None:
            yield Mutant(fault, "loss", net, faulty)


def _list_parts(
    net: Layer, path: tuple[int, ...] = (), steps: Path = ()
) -> Iterator[tuple[tuple[int, ...], Path, Layer]]:
    yield path, steps, net
    if isinstance(net, Combinator):
        for i, (child, step) in enumerate(zip(net.children, net.steps, strict=True)):
            yield from _list_parts(child, (*path, i), steps if step is None else (*steps, step))


def _replace_part(net: Layer, path: tuple[int, ...], part: Layer) -> Layer:
    if not path:
        return part
    assert isinstance(net, Combinator)
    children = list(net.children)
    children[path[0]] = _replace_part(children[path[0]], path[1:], part)
    return net.with_children(children)


def _change(name: str, rule: Callable[[Backward], Array]) -> Mutate:
    """Another gradient of one parameter of a dense layer that has it."""
    mutate = in_layer(Dense, lambda b: (b.d | {name: rule(b)}, b.dA_in))
    return lambda part: None if name == "b" and isinstance(part, Dense) and not part.bias else mutate(part)


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
    return dZ + (wrong - right) * (1 / Z[..., 0].size if loss.reduction == "mean" else 1.0)


_NORMALIZATIONS = (BatchNorm, LayerNorm, RMSNorm)
_CENTRED = (BatchNorm, LayerNorm)

FAULTS: dict[str, Mutate] = {
    # dW has the wrong sign.
    "sign": _change("W", lambda b: -b.d["W"]),
    # The loss's dZ is summed over examples, not averaged.
    "missing 1/m": in_loss(Loss, lambda loss, Z, dZ: dZ * Z.shape[0] if loss.reduction == "mean" else dZ),
    # The loss's dZ is averaged twice.
    "1/m twice": in_loss(Loss, lambda loss, Z, dZ: dZ / Z.shape[0]),
    # dW is averaged, though the loss owns the mean.
    "1/m in a layer": _change("W", lambda b: b.d["W"] / b.A.shape[0]),
    # dA = dZ W in a square layer.
    "missing transpose": propagate(Dense, _missing_transpose),
    # The kink's mask lets zeros through, A >= 0 for A > 0.
    "wrong mask": in_activation(lambda g: g.kinks == (0.0,) and g.saves == "output", _wrong_mask),
    # g' written for A is taken at Z, or the other way round.
    "derivative elsewhere": in_activation(lambda g: g.elementwise and g.name != "linear", _derivative_elsewhere),
    # dZ = dA, without g'.
    "missing derivative": in_activation(lambda g: g.name != "linear", lambda b: ((), b.dA)),
    # db is that of the first example.
    "dropped bias sum": _change("b", lambda b: b.dA.reshape(-1, b.dA.shape[-1])[0]),
    # db is zero.
    "forgotten bias": _change("b", lambda b: jnp.zeros_like(b.d["b"])),
    # A normalization's means run over the other axis.
    "wrong reduction axis": propagate(
        _NORMALIZATIONS, lambda b: _normalize_back(b, over_examples=not isinstance(b.layer, BatchNorm))
    ),
    # The cache is that of other examples.
    "stale cache": in_layer(Dense, _stale_cache),
    # A layer is given the gradient of the next one of its shape.
    "off-by-one layer": in_combinator(
        Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, j)), dA_in)
    ),
    # Two layers of one shape have each other's gradients.
    "swapped layers": in_combinator(Serial, lambda d, dA_in, dA_out: (_exchange_layers(d, lambda i, j: (j, i)), dA_in)),
    # A loop stacks its gradients in the wrong order.
    "reversed layers": in_combinator(Repeat, lambda d, dA_in, dA_out: (jax.tree.map(lambda x: x[::-1], d), dA_in)),
    # A normalization forgets the path through the mean.
    "missing mean term": propagate(_CENTRED, lambda b: _normalize_back(b, mean=False)),
    # A normalization forgets the path through the variance.
    "missing variance term": propagate(_NORMALIZATIONS, lambda b: _normalize_back(b, variance=False)),
    # A normalization's dA lacks gamma.
    "forgotten gamma": propagate(_NORMALIZATIONS, _forgotten_gamma),
    # d_gamma and d_beta are swapped.
    "swapped gradients": in_layer(_CENTRED, lambda b: ({"gamma": b.d["beta"], "beta": b.d["gamma"]}, b.dA_in)),
    # A residual connection forgets the skip.
    "missing fan-out addition": in_combinator(
        Residual, lambda d, dA_in, dA_out: (d, dA_in._replace(value=dA_in.value - dA_out.value))
    ),
    # A residual connection forgets the branch.
    "missing branch": in_combinator(Residual, lambda d, dA_in, dA_out: (d, dA_out)),
    # Dropout's backward pass lacks 1/(1 - rate).
    "missing rescale": propagate(Dropout, lambda b: b.dA_in if b.cache is None else b.dA_in * (1 - b.layer.rate)),
    # dW is accumulated in a narrower dtype.
    "low-precision accumulation": _change("W", _low_precision),
    # One entry of dW is doubled.
    "one wrong element": _change("W", _one_wrong_element),
    # The loss's softmax runs over examples.
    "wrong softmax axis": in_loss(SoftmaxCrossEntropy, _wrong_softmax_axis),
    **SEQUENCE_FAULTS,
}
"""By name: what gives a faulty version of a layer, a combinator or a loss, or None where it does not apply."""
