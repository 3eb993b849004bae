"""What is measured during training, by probes in one reverse sweep: measuring changes no bit of the training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fbp.activations import activation
from fbp.backprop import forward_to_loss, name_of, select
from fbp.combinators import Combinator
from fbp.cotangent import Cotangent
from fbp.errors import unknown_name
from fbp.layers import Activation
from fbp.precision import cast, widen
from fbp.quantities import per_example_norms
from fbp.training.step import Method, State, update
from fbp.tree import list_layers, name_layers, unstack
from fbp.typing import Activations, Layer, Params, Targets, Visit, Weights

Detail = Literal["off", "economy", "full"]
NOISE = ("noise_trace", "noise_square")
EVERY = {"economy": 64, "full": 10}
"""A measurement costs about as much as a step or two: one in so many keeps training within some percent."""


@dataclass(frozen=True)
class Monitor:
    """What is measured, and how often.

    Attributes:
        detail: "economy", gradient norms and update ratios; "full", dead units and the gradient noise scale as well.
        every: at every so many steps, by their number in the run.
    """

    detail: Detail
    every: int

    @classmethod
    def named(cls, detail: Detail) -> "Monitor | None":
        """The monitor of a name; None for "off".

        Raises:
            FbpError: the name is unknown.
        """
        if detail == "off":
            return None
        if detail not in EVERY:
            raise unknown_name("monitor", detail, ("off", *EVERY))
        return cls(detail, EVERY[detail])


class Readings(NamedTuple):
    """One measurement, with the parameters before a step.

    Attributes:
        gradient_norm: of each parameter, in the structure of the parameters; in a loop one for each copy.
        update_ratio: the norm of the optimizer's step over that of the parameter.
        dead: of each activation, the fraction of its units whose derivative is zero for every example of the batch;
            None unless asked for.
        noise: estimates of tr(Sigma) and |G|^2, whose means have the gradient noise scale as their ratio; None unless
            asked for, or where examples have no gradients of their own.
    """

    gradient_norm: Any
    update_ratio: Any
    dead: Any = None
    noise: tuple[Float[Array, ""], Float[Array, ""]] | None = None


def measure(method: Method, monitor: Monitor, state: State, X: Activations, Y: Targets, weights: Weights) -> Readings:
    """One measurement, by one forward pass and one reverse sweep; the noise takes one of each more.

    Args:
        method: how a step computes; the gradient is the hand-written one.
        monitor: what to measure.
        state: before the step.
        X: inputs, (m, ...).
        Y: targets.
        weights: one per example, (m,).
    """
    net, loss, params = method.net, method.loss, state.params
    key = jax.random.fold_in(state.key, state.step)
    if method.compute is not None:
        params, X = cast((params, X), method.compute)
    _, cache, _, dZ = forward_to_loss(net, loss, params, X, Y, weights, key)
    is_full = monitor.detail == "full"
    d_params, _, dead = net.sweep(params, cache, Cotangent(dZ), partial(_read_dead, weights) if is_full else None)
    own = select(state.params, method.trained)
    d_params = jax.tree.map(lambda d, p: d.astype(p.dtype), select(d_params, method.trained), own)
    after = select(update(method, state, d_params).params, method.trained)
    # A parameter of zeros has no ratio.
    change = lambda new, old: jnp.where(_norm(old) > 0, _norm(new - old) / _norm(old), jnp.nan)
    noise = None
    if is_full and not any(layer.mixes_examples for layer in list_layers(net)):
        norms = per_example_norms(net, loss)(params, X, Y, None, key)
        noise = _estimate_noise(d_params, norms, weights)
    return Readings(_each_copy(_norm, net, d_params), _each_copy(change, net, after, own), dead, noise)


def name_readings(net: Layer, readings: Readings) -> dict[str, np.ndarray]:
    """Readings by name, "gradient_norm/blocks[3].q.W", each with its axis of measurements.

    Args:
        net: the network.
        readings: NumPy arrays with a leading axis of measurements.
    """
    found: dict[str, np.ndarray] = {}
    if readings.noise is not None:
        found |= dict(zip(NOISE, map(np.asarray, readings.noise), strict=True))
    for kind in ("gradient_norm", "update_ratio", "dead"):
        # Copies in a loop are then axis 0, which `unstack` takes apart.
        turned = jax.tree.map(lambda x: np.moveaxis(x, 0, -1), getattr(readings, kind))
        if turned is None:
            continue
        for path, (_, own) in zip(name_layers(net), unstack(net, turned), strict=True):
            for at, values in jax.tree.leaves_with_path(own):
                found[f"{kind}/{path}{'.' if at else ''}{name_of(at)}"] = values
    return found


def average_readings(measured: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The means of an epoch, without what is not finite; of the noise the ratio of both means, in examples.

    Args:
        measured: the values of each name.
    """
    means = {}
    for name, values in measured.items():
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            means[name] = math.fsum(finite) / len(finite)
    trace, square = (means.pop(name, None) for name in NOISE)
    if trace is not None and square:
        means["noise_scale"] = trace / square
    return means


def _norm(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(jnp.square(widen(x))))


def _each_copy(function: Any, net: Layer, *trees: Any) -> Any:
    """function(*leaves) at each parameter, and in a loop for each copy."""
    if not isinstance(net, Combinator):
        return jax.tree.map(function, *trees)

    def over_children(*trees: Any) -> Any:
        parts = zip(net.children, *map(net.split, trees), strict=True)
        return net.own(net.join([_each_copy(function, child, *own) for child, *own in parts]))

    return over_children(*trees) if net.copies is None else jax.vmap(over_children)(*trees)


def _read_dead(weights: Weights, visit: Visit) -> Array | None:
    layer = visit.layer
    if not isinstance(layer, Activation) or not activation(layer.function).elementwise:
        return None
    slope = layer.backward((), visit.cache, jnp.ones_like(visit.dA_out))[1]
    idle = slope == 0
    if weights is not None:
        idle = idle | jnp.expand_dims(weights == 0, tuple(range(1, idle.ndim)))
    return jnp.mean(jnp.all(idle, axis=tuple(range(idle.ndim - 1))).astype(jnp.float32))


def _estimate_noise(
    d_params: Params, norms: Float[Array, " m"], weights: Weights
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """tr(Sigma) and |G|^2 without bias, of m examples whose mean gradient is d_params; McCandlish et al. (2018)."""
    w = jnp.ones_like(norms) if weights is None else weights.astype(norms.dtype)
    m = jnp.sum(w)
    of_mean = sum((jnp.sum(jnp.square(widen(d))) for d in jax.tree.leaves(d_params)), jnp.zeros((), norms.dtype))
    mean_of = jnp.sum(w * jnp.square(norms)) / m
    trace = (mean_of - of_mean) * m / (m - 1)
    return trace, of_mean - trace / m
