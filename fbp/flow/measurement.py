"""Curves over the layers of many random networks, as one compiled program."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from fbp.activations import activation
from fbp.backprop import GradientNorms, check_batch
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, check_count
from fbp.flow.prediction import find_plain_run
from fbp.flow.probe import Units, add_probes, read_network
from fbp.flow.results import NORMS, OTHERS, READINGS, Flow, Stream
from fbp.flow.sampling import Draw, sample_inputs, sample_normals, sample_parameters
from fbp.initializers import zeros
from fbp.layers import Activation, Dense
from fbp.losses import Loss
from fbp.tree import list_layers, map_layers, rebuild, roll_blocks
from fbp.typing import Activations, Layer, Params

Samples = Array | np.ndarray

EXAMPLES = 16
LARGEST_JACOBIAN = 4096


def measure(
    net: Layer,
    loss: Loss | None = None,
    X: Float[Array, "m *shape"] | None = None,
    Y: Num[Array, "..."] | None = None,
    *,
    seeds: int = 20,
    scales: Iterable[float] = (1.0,),
    seed: int = 0,
    spectrum: bool = False,
) -> Flow:
    """Curves over the dense layers of a network, for `seeds` draws of its parameters and each factor on the weights.

    Norms of dZ, dA, dW and db, mean square and correlation of the pre-activations, dead and saturated units, the
    cosine and the noise of the examples' gradients. Networks of equal shape that differ in their initializers share
    one compiled program. Norms are exact in their logarithm where gradients leave the range of float32. The forward
    pass is the network's own, except that a positively homogeneous one without biases (relu, leaky relu, linear) is
    run without its powers of two, so that no depth under- or overflows; elsewhere an activation that underflows to
    zero has the logarithm minus infinity.

    Args:
        net: a network.
        loss: a loss of the last pre-activation; without one the cotangent of the output is standard normal.
        X: one batch, (m, *shape); None takes 16 examples of mean square 1, where the network knows its shape.
        Y: targets, as the loss takes them.
        seeds: the number of random networks.
        scales: factors on every W.
        seed: of all randomness.
        spectrum: whether the singular values of the input-output Jacobian are wanted, at the first example.

    Returns:
        A `Flow`.

    Raises:
        FbpError: a number is out of range, or a loss comes without targets.

    Example:
        >>> flow = fbp.flow.measure(fbp.mlp((16,) * 9, "relu", "lecun_normal"), seeds=5)
        >>> flow.log10.dZ.shape  # (scales, seeds, layers)
        (1, 5, 8)
        >>> flow.verdict().rate < 0.9  # a variance of 1/n is too small for relu
        True
    """
    check_count("seeds", seeds)
    factors = [float(scale) for scale in scales]
    if not factors or not all(0 <= factor < math.inf for factor in factors):
        raise FbpError(f"scales must be finite factors of at least 0, at least one of them, got {factors}; use (1.0,)")
    X = jnp.asarray(standard_inputs(net, seed) if X is None else X)
    if loss is not None:
        if Y is None:
            raise FbpError("a loss must come with targets, got a loss without; give Y too, or neither")
        check_batch(net, X, Y)
    elif X.ndim < 2 or X.shape[0] == 0:
        raise FbpError(f"X must be a batch (m, *shape) of at least one example, got the shape {X.shape}; add an axis")
    params = sample_parameters(net, X.shape[1:], seeds, seed)
    rolled, params = roll_blocks(net, params, X, axis=1)
    dZ = None
    if loss is None:
        out = jax.eval_shape(lambda p: rolled.forward(p, X)[0], jax.tree.map(lambda p: p[0], params))
        dZ = sample_normals(Draw.COTANGENTS, range(seeds), out.shape, seed)
    inputs = jnp.broadcast_to(X, (seeds, *X.shape))
    targets = None if Y is None else jnp.broadcast_to(Y, (seeds, *jnp.shape(Y)))
    flow = read_networks(rolled, params, inputs, dZ, loss=loss, Y=targets, scales=factors)
    if spectrum:
        singular = [log10_singular_values(rolled, params, inputs[:, :1], factor) for factor in factors]
        flow = replace(flow, log10_singular=np.stack(singular))
    return flow


def read_networks(
    net: Layer,
    params: Params,
    X: Float[Samples, "networks m *shape"],
    dZ: Float[Samples, "networks m *out"] | None = None,
    *,
    loss: Loss | None = None,
    Y: Num[Array, "networks ..."] | None = None,
    scales: Sequence[float] = (1.0,),
    bias_scale: float = 1.0,
    quantities: Sequence[str] = READINGS,
) -> Flow:
    """The engine of `measure`: given networks, each with its own parameters, inputs and cotangent, are passed once.

    Args:
        net: the architecture.
        params: parameters with an axis of networks in front, as `sample_parameters` gives them.
        X: inputs.
        dZ: cotangents of the outputs; None where a loss gives them.
        loss: a loss of the last pre-activation.
        Y: its targets.
        scales: factors on every W of a dense layer; each is one entry of the first axis of the result.
        bias_scale: a factor on every b of a dense layer.
        quantities: what is read, of `fbp.flow.results.READINGS`; the rest is not computed, and NaN.

    Returns:
        A `Flow`.

    Raises:
        FbpError: the network has no dense layer.
    """
    # Without their initializers, which have done their work, networks of one shape share a compiled program.
    bare = rebuild(net, lambda layer: replace(layer, initializer=zeros) if isinstance(layer, Dense) else layer)
    read = partial(_read, bare, loss, net.homogeneous, tuple(quantities), params, X, dZ, Y)
    # Scales one after the other: a batch of them would multiply the memory, not the speed.
    by_scale = [jax.device_get(read(jnp.float32(scale), jnp.float32(bias_scale))) for scale in scales]
    columns = {name: np.stack([each[name] for each in by_scale]) for name in by_scale[0]}
    return _build_flow(net, columns, np.asarray(scales, np.float32))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _read(
    net: Layer,
    loss: Loss | None,
    rescale: bool,
    quantities: tuple[str, ...],
    params: Params,
    X: Activations,
    dZ: Activations | None,
    Y: Array | None,
    scale: Array,
    bias_scale: Array,
) -> dict[str, Array]:
    def read_one(network: tuple[Any, ...]) -> dict[str, Array]:
        params, X, dZ, Y = network
        scaled = _scale_dense(net, params, scale, bias_scale)

        def cotangent(Z: Activations) -> Activations:
            if loss is None:
                return dZ
            # The output of a rescaled network is not its own.
            return loss.value_and_dZ(net.forward(scaled, X)[0] if rescale else Z, Y)[1]

        columns = read_network(*add_probes(net, scaled, rescale), X, cotangent)
        return {name: columns[name] for name in quantities if name in columns}

    networks = (params, X, dZ, Y)
    # One network after the other: on a processor quicker than a batch of them, and in less memory.
    return jax.lax.map(read_one, networks) if jax.default_backend() == "cpu" else jax.vmap(read_one)(networks)


def _build_flow(net: Layer, columns: dict[str, Any], scales: np.ndarray) -> Flow:
    layers = list_layers(net)
    dense = sum(isinstance(layer, Dense) for layer in layers)
    empty: Any = np.full((*next(iter(columns.values())).shape[:2], dense), np.nan, np.float32)
    get = lambda name: columns.get(name, empty)
    places, units = _find_units(layers)
    for name in columns.keys() & Units._fields:
        by_unit, columns[name] = columns[name], empty.copy()
        columns[name][..., places] = by_unit[..., units]
    return Flow(
        GradientNorms(*map(get, NORMS)),
        scales,
        **{name: get(name) for name in OTHERS},
        stream=Stream(*(get(f"stream_{name}") for name in Stream._fields)),
        log10_dX=columns.get("log10_dX", empty[..., 0]),
        plain=find_plain_run(net),
    )


def _find_units(layers: list[Layer]) -> tuple[list[int], list[int]]:
    """Dense layers followed by an activation that is read, before the next dense layer, and the numbers of both."""
    pairs: dict[int, int] = {}
    l = number = -1
    for layer in layers:
        l += isinstance(layer, Dense)
        if isinstance(layer, Activation) and activation(layer.function).elementwise:
            number += 1
            if l >= 0:
                pairs.setdefault(l, number)
    return list(pairs), list(pairs.values())


def standard_inputs(net: Layer, seed: int) -> Float[np.ndarray, "m *shape"]:
    """16 examples in random directions, each of mean square 1.

    Args:
        net: a network that knows the shape of its input, as those of `fbp.mlp` do.
        seed: of the directions.

    Raises:
        FbpError: it does not.
    """
    shape = getattr(net, "shape", None)
    if shape is None:
        raise FbpError("the network must know the shape of its input, got one that does not; give a batch, X=...")
    return sample_inputs(EXAMPLES, shape, seed)


def _scale_dense(net: Layer, params: Params, scale: Array, bias_scale: Array) -> Params:
    def scale_layer(layer: Layer, p: Params) -> Params:
        return {"W": scale * p["W"], "b": bias_scale * p["b"]} if isinstance(layer, Dense) else p

    return map_layers(scale_layer, net, params)


def log10_singular_values(
    net: Layer, params: Params, x: Float[Samples, "networks 1 *shape"], scale: float = 1.0, bias_scale: float = 1.0
) -> Float[np.ndarray, "networks k"]:
    """log10 of the singular values of J = dZ_L / dA_0 at one example of each network, falling.

    Values below 1e-7 of the largest are rounding. Saxe et al. (2013); Pennington, Schoenholz & Ganguli (2017).

    Args:
        net: a network whose examples do not see one another.
        params: its parameters, with an axis of networks in front.
        x: the examples.
        scale: a factor on every W.
        bias_scale: a factor on every b.

    Returns:
        (networks, min(n_0, n_L)); minus infinity for zero.

    Raises:
        FbpError: examples see one another, or the Jacobian is too large.
    """
    J, exponent = read_jacobians(net, params, x, scale, bias_scale)
    with np.errstate(divide="ignore"):
        values = np.log10(np.linalg.svd(J, compute_uv=False))
    return values + exponent[:, None] * math.log10(2)


def read_jacobians(
    net: Layer, params: Params, x: Float[Samples, "networks 1 *shape"], scale: float = 1.0, bias_scale: float = 1.0
) -> tuple[Float[np.ndarray, "networks n_L n_0"], np.ndarray]:
    """The input-output Jacobian J = dZ_L / dA_0 of each network, in units of a power of two of its own.

    One row is the backward pass of a unit vector, with its power of two beside it: any depth fits.

    Args:
        net: a network whose examples do not see one another.
        params: its parameters, with an axis of networks in front.
        x: one example of each network.
        scale: a factor on every W.
        bias_scale: a factor on every b.

    Returns:
        J / 2**exponent in float64, and the exponents, (networks,).

    Raises:
        FbpError: examples see one another, or the Jacobian is too large.
    """
    if net.mixes_examples:
        raise FbpError(
            "the examples of a network must not see one another to have Jacobians, got one with batch normalization; "
            "take fbp.with_population_statistics(net, ...) first"
        )
    out = jax.eval_shape(lambda p, x: net.forward(p, x)[0], *jax.tree.map(lambda p: p[0], (params, x))).shape
    rows, columns = math.prod(out), math.prod(x.shape[1:])
    if max(rows, columns) > LARGEST_JACOBIAN:
        raise FbpError(
            f"a Jacobian must have at most {LARGEST_JACOBIAN} rows and columns, got {rows} x {columns}; "
            "take a narrower network"
        )
    J, exponents = jax.device_get(_jacobians(net, params, x, jnp.float32(scale), jnp.float32(bias_scale)))
    largest = exponents.max(axis=1)
    return J.astype(np.float64) * np.exp2(exponents - largest[:, None])[..., None], largest


@partial(jax.jit, static_argnums=0)
def _jacobians(net: Layer, params: Params, x: Array, scale: Array, bias_scale: Array) -> tuple[Array, Array]:
    def one(network: tuple[Params, Array]) -> tuple[Array, Array]:
        params, x = network
        scaled = _scale_dense(net, params, scale, bias_scale)
        Z, cache = net.forward(scaled, x)

        def row(unit: Array) -> tuple[Array, Array]:
            start = Cotangent(unit.reshape(Z.shape), jnp.int32(0)).normalize()
            _, dX, _ = net.sweep(scaled, cache, start)
            assert dX.exponent is not None
            return dX.value.ravel(), dX.exponent

        return jax.vmap(row)(jnp.eye(Z.size, dtype=Z.dtype))

    return jax.lax.map(one, (params, x))
