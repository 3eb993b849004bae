"""Every depth of one architecture in one compiled program: a network of depth L is the beginning of a deeper one.

The forward pass of the deepest network serves all depths. Each depth has its own backward pass, from a cotangent at
its own output; it is one loop whose first layer is data, as are the activation and the scale of the weights, so that a
whole grid needs one compilation.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fbp.activations import Nonlinearity
from fbp.combinators import Serial
from fbp.cotangent import Cotangent
from fbp.flow.probe import (
    Backward,
    Forward,
    Units,
    normalize_scale,
    read_gradients,
    read_output,
    read_units,
    restore_dW,
    restore_lengths,
    steepest_slope,
)
from fbp.layers import Dense
from fbp.typing import Activations, Cache, Key, Layer, Params, Visit


@dataclass(frozen=True)
class Choice(Layer):
    """A = g_i(Z) with the number i among the parameters: one program for all activations.

    Attributes:
        functions: the activations to choose from.
    """

    functions: tuple[Nonlinearity, ...]

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """g_i(Z); keeps Z, which suffices for every activation."""
        return jax.lax.switch(params["index"], self.functions, A), A

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dZ = dA * g_i'(Z)."""

        def pullback(g: Nonlinearity) -> Any:
            return lambda Z, dA: g.pullback(g.save(Z, g(Z)), dA)

        return (), jax.lax.switch(params["index"], [pullback(g) for g in self.functions], cache, dA_out)

    @property
    def recomputes(self) -> bool:
        """Always: from Z."""
        return True

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """A, from Z."""
        return self.forward(params, cache)[0]


class Networks(NamedTuple):
    """Parameters of the deepest networks, one for each seed, all of one width n.

    Attributes:
        W: draws of variance one, (L, seeds, n, n); the weights are `gain` times these.
        b: draws of variance one, (L, seeds, n); the biases are `bias_gain` times these.
        dZ: the cotangents of the outputs, (seeds, m, n), the same at every depth.
    """

    W: Float[Array, "L seeds n n"]
    b: Float[Array, "L seeds n"]
    dZ: Float[Array, "seeds m n"]


class Setting(NamedTuple):
    """One architecture of the grid, as data.

    Attributes:
        activation: which one.
        gain: the standard deviation of the weights (for orthogonal ones the gain).
        bias_gain: the standard deviation of the biases.
        rescale: whether the forward pass is run without its powers of two (see `normalize_scale`).
    """

    activation: Int[Array, ""]
    gain: Float[Array, ""]
    bias_gain: Float[Array, ""]
    rescale: Bool[Array, ""]


class Readings(NamedTuple):
    """Of all depths.

    Attributes:
        forward: of every dense layer, (L, seeds).
        units: of the activation behind every dense layer, (L, seeds); the deepest network's last has none: NaN.
        backward: by depth and layer, (depths, L, seeds); NaN from the depth on.
    """

    forward: Forward
    units: Units
    backward: Backward


@jax.jit(static_argnums=0)
def read(
    functions: tuple[Nonlinearity, ...],
    networks: Networks,
    setting: Setting,
    X: Float[Array, "m n"],
    depths: Int[Array, " depths"],
) -> Readings:
    """The readings of networks of several depths.

    Args:
        functions: the activations that `setting.activation` counts.
        networks: the parameters of the deepest ones.
        setting: the architecture.
        X: the inputs, of the hidden layers' width.
        depths: at most L each.
    """
    L, seeds, n = networks.b.shape
    block = Serial(Choice(functions), Dense(n))
    steepest = jnp.stack([steepest_slope(g) for g in functions])

    def dense(l: Array | int) -> Params:
        return {"W": setting.gain * networks.W[l], "b": setting.bias_gain * networks.b[l]}

    def begin(params: Params) -> tuple[Activations, Forward]:
        Z, shift = normalize_scale(Dense(n).forward(params, X)[0], setting.rescale)
        return Z, read_output(Z, shift)

    def one_forward(params: Params, Z: Activations) -> tuple[Activations, tuple[Cache, Forward, Units]]:
        _, slope = block.layers[0].backward(params[0], Z, jnp.ones_like(Z))
        units = read_units(slope, steepest[setting.activation])
        Z, cache = block.forward(params, Z)
        Z, shift = normalize_scale(Z, setting.rescale)
        return Z, (cache, read_output(Z, shift), units)

    choice = {"index": setting.activation}
    over_seeds = ({"index": None}, 0)

    def step(Z: Activations, l: Array) -> tuple[Activations, Any]:
        return jax.vmap(one_forward, in_axes=(over_seeds, 0))((choice, dense(l)), Z)

    Z, first = jax.vmap(begin)(dense(0))
    _, (caches, forward, units) = jax.lax.scan(step, Z, jnp.arange(1, L))
    forward = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, forward)
    units = jax.tree.map(lambda xs: jnp.concatenate([xs, jnp.full_like(xs[:1], jnp.nan)]), units)
    nothing = Backward(*[jnp.full((L, seeds), jnp.nan)] * len(Backward._fields))

    def one_backward(params: Params, cache: Cache, dZ: Cotangent) -> tuple[Cotangent, Backward]:
        _, dZ, readings = block.sweep(params, cache, dZ, _read_dense)
        return dZ, readings[1]

    def begin_backward(params: Params, dZ: Cotangent) -> Backward:
        return Dense(n).sweep(params, X, dZ, _read_dense)[2]

    def of_depth(depth: Array) -> Backward:
        def turn(i: Array, carry: tuple[Cotangent, Backward]) -> tuple[Cotangent, Backward]:
            dZ, readings = carry
            l = depth - 1 - i
            cache = jax.tree.map(lambda x: x[l - 1], caches)
            dZ, now = jax.vmap(one_backward, in_axes=(over_seeds, 0, 0))((choice, dense(l)), cache, dZ)
            return dZ, _set_layer(readings, l, now)

        start = jax.vmap(lambda dZ: Cotangent(dZ, jnp.int32(0)).normalize())(networks.dZ)
        dZ, readings = jax.lax.fori_loop(0, depth - 1, turn, (start, nothing))
        return _set_layer(readings, 0, jax.vmap(begin_backward)(dense(0), dZ))

    backward = jax.vmap(restore_dW, in_axes=(None, 0))(forward, jax.lax.map(of_depth, depths))
    return Readings(restore_lengths(forward), units, backward)


def _read_dense(visit: Visit) -> Backward | None:
    return read_gradients(visit, by_examples=True) if isinstance(visit.layer, Dense) else None


def _set_layer(readings: Backward, l: Array | int, now: Backward) -> Backward:
    return jax.tree.map(lambda xs, x: xs.at[l].set(x), readings, now)
