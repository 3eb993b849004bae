"""Canonical mistakes in the rules of transformers: attention, embeddings, joined and shared lines, adapters."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fbp.activations import activation
from fbp.combinators import Network, Repeat
from fbp.combinators.lines import sweep_lines
from fbp.cotangent import Cotangent
from fbp.layers import Add, Attention, Concatenate, Embedding, Gated, LearnedPositions, LowRank, Multiply, Rotary
from fbp.typing import Params, Probe, Sweep
from fbp.verify.faulty import AroundCombinator, Backward, FaultyCombinator, LayerGradients, Mutate, in_layer, propagate


def _missing_scale(b: Backward) -> Any:
    dq, dk, *rest = b.dA_in
    factor = (dq.shape[-1] // b.layer.heads) ** 0.5
    return factor * dq, factor * dk, *rest


def _missing_row_sums(b: Backward) -> Any:
    # The lean rule takes D from its output.
    lean = replace(b.layer, rule="lean")
    _, (A, out, L) = lean.forward((), b.A)
    return lean.backward((), (A, jnp.zeros_like(out), L), b.dA)[1]


def _forgotten_mask(b: Backward) -> Any:
    q, k, v, *mask = b.A
    unmasked = replace(b.layer, causal=False)
    _, cache = unmasked.forward((), (q, k, v))
    return *unmasked.backward((), cache, b.dA)[1], *(None for _ in mask)


def _swapped_keys_and_values(b: Backward) -> Any:
    dq, dk, dv, *rest = b.dA_in
    return dq, dv, dk, *rest


def _heads_not_summed(b: Backward) -> Any:
    group = b.layer.heads // (b.layer.key_value_heads or b.layer.heads)
    by_head = b.dA.reshape(*b.dA.shape[:-1], -1, group, b.dA.shape[-1] // b.layer.heads)
    first = jnp.zeros_like(by_head).at[..., :1, :].set(by_head[..., :1, :]).reshape(b.dA.shape)
    return b.dA_in[0], *b.layer.backward((), b.cache, first)[1][1:]


def _assigned(b: Backward) -> LayerGradients:
    return {"E": jnp.zeros_like(b.d["E"]).at[b.A].set(b.dA)}, None


def _first_input_only(b: Backward) -> Any:
    return b.dA_in[0], *(jnp.zeros_like(d) for d in b.dA_in[1:])


def _gate_not_differentiated(b: Backward) -> Any:
    return b.dA * b.A[1], b.dA_in[1]


def _gate_not_applied(b: Backward) -> Any:
    return b.dA_in[0], b.dA * b.A[0]


def _forgotten_scale(b: Backward) -> LayerGradients:
    return replace(b.layer, scale=b.layer.rank).backward(b.params, b.cache, b.dA)


def _forgotten_adapter(b: Backward) -> Array:
    return b.dA @ b.params["W"].T


@dataclass(frozen=True)
class _FaultyNetwork(AroundCombinator):
    """A network of one output that forgets to add: cotangents where a value is read twice, or gradients of two uses."""

    overwrites: bool = False

    def sweep(self, params: Params, cache: Any, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        net = self.inside
        assert isinstance(net, Network)
        cotangents = (_Overwritten if self.overwrites else dict)({net.output: dA_out})
        uses, readings = sweep_lines(net._lines, net.join(net.split(params)), cache, cotangents, probe)
        d_params = net.add_uses(uses) if self.overwrites else net.own(uses)
        dA_in = {name: cotangents[name].value for name in net.inputs} if net.inputs else cotangents["input"].value
        return d_params, Cotangent(dA_in, dA_out.exponent), {name: readings[name] for name in net.steps}


class _Overwritten(dict[Any, Cotangent]):
    """Holds no value that could be added to."""

    def __contains__(self, key: object) -> bool:
        return False


def _overwrite(part: Any) -> Any:
    if not isinstance(part, Network) or not isinstance(part.output, str):
        return None
    reads = [name for _, line in part.lines for name in line.reads]
    return _FaultyNetwork(part, overwrites=True) if len(set(reads)) < len(reads) else None


def _lose_a_use(part: Any) -> Any:
    has_one_output = isinstance(part, Network) and isinstance(part.output, str)
    return _FaultyNetwork(part) if has_one_output and part.shares_params else None


def _lose_unchanging(part: Any) -> Any:
    if not isinstance(part, Repeat) or part.through is None:
        return None
    return FaultyCombinator(part, partial(_without_unchanging, part.through))


def _without_unchanging(
    through: str | tuple[str, ...], d_params: Params, dA_in: Cotangent, dA_out: Cotangent
) -> tuple[Params, Cotangent]:
    kept = (through,) if isinstance(through, str) else through
    zeros = {name: d if name in kept else jax.tree.map(jnp.zeros_like, d) for name, d in dA_in.value.items()}
    return d_params, dA_in._replace(value=zeros)


def _in_gate(mutate: Mutate) -> Mutate:
    return lambda part: mutate(part) if isinstance(part, Gated) and activation(part.function).name != "linear" else None


SEQUENCE_FAULTS: dict[str, Mutate] = {
    # dQ and dK of attention lack 1/sqrt(d).
    "missing scale": propagate(Attention, _missing_scale),
    # dS = P * dP, without the row sums D.
    "missing row sums": propagate(Attention, _missing_row_sums),
    # The weights of the backward pass are those of all keys.
    "forgotten mask": propagate(Attention, _forgotten_mask),
    # dK and dV have each other's place.
    "swapped keys and values": propagate(Attention, _swapped_keys_and_values),
    # Heads of queries that share keys: only the first one's part arrives.
    "heads not summed": propagate(Attention, _heads_not_summed),
    # Positions are not undone in the backward pass.
    "not rotated back": propagate(Rotary, lambda b: b.dA),
    # A rotation is applied twice and not undone.
    "rotated forward": propagate(Rotary, lambda b: b.layer.forward((), b.dA)[0]),
    # Of a token that occurs twice only one gradient remains.
    "assigned, not added": in_layer(Embedding, _assigned),
    # The gradient of each position goes to the next one.
    "off-by-one position": in_layer(LearnedPositions, lambda b: ({"P": jnp.roll(b.d["P"], 1, axis=0)}, b.dA_in)),
    # A sum or a concatenation hands its cotangent to the first input only.
    "one input only": propagate((Add, Concatenate), _first_input_only),
    # Each factor is multiplied by itself.
    "swapped factors": propagate(Multiply, lambda b: tuple(reversed(b.dA_in))),
    # dU = dA * V, without g'.
    "gate not differentiated": _in_gate(propagate(Gated, _gate_not_differentiated)),
    # dV = dA * U, without g.
    "gate not applied": _in_gate(propagate(Gated, _gate_not_applied)),
    # An adapter's gradients lack its scale.
    "forgotten scale": in_layer(LowRank, _forgotten_scale),
    # dA of an adapted layer is that of the layer alone.
    "forgotten adapter": propagate(LowRank, _forgotten_adapter),
    # Where a value is read twice, the cotangent of one reader remains.
    "cotangents overwritten": _overwrite,
    # A parameter with two uses gets the gradient of its owner only.
    "one use lost": _lose_a_use,
    # What every block of a loop is given gets no cotangent.
    "unchanging cotangent lost": _lose_unchanging,
}
"""By name, as `fbp.verify.faults.FAULTS`."""
