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

from fbp.backprop import GradientNorms, check_batch, describe_shapes, has_examples
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, check_count
from fbp.flow.parts import find_units, list_marks, name_parts
from fbp.flow.prediction import find_plain_run
from fbp.flow.probe import Units, add_probes, read_network
from fbp.flow.results import NORMS, OTHERS, READINGS, Flow, Stream
from fbp.flow.sampling import (
    Draw,
    sample_inputs,
    sample_normals,
    sample_parameters,
    sample_tokens,
    without_initializers,
)
from fbp.flow.stack import describe_stack
from fbp.layers import Dense
from fbp.layers.axes import is_shape
from fbp.losses import Loss
from fbp.tree import list_layers, map_params, roll_blocks
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
    common_cotangent: bool = False,
) -> Flow:
    """Curves over the layers of a network, for `seeds` draws of its parameters and each factor on the weights.

    The layers are those with a weight matrix: dense layers, embeddings, unembeddings, named by their paths. Norms of
    dZ, dA, dW and db, mean square and correlation of the outputs, dead and saturated units, the cosine and the noise of
    the examples' gradients. Networks of equal shape that differ in their initializers share one compiled program. Norms
    are exact in their logarithm where gradients leave the range of float32. The forward pass is the network's own,
    except that a positively homogeneous one without biases (relu, leaky relu, linear) is run without its powers of two,
    so that no depth under- or overflows; elsewhere an activation that underflows to zero has the logarithm minus
    infinity.

    Args:
        net: a network.
        loss: a loss of the last pre-activation; without one the cotangent of the output is standard normal.
        X: one batch, (m, *shape); None takes 16 examples of mean square 1, or of tokens that are all equally likely,
            where the network knows its shape.
        Y: targets, as the loss takes them.
        seeds: the number of random networks.
        scales: factors on every W of a dense layer.
        seed: of all randomness.
        spectrum: whether the singular values of the input-output Jacobian are wanted, at the first example.
        common_cotangent: whether all examples of a network have the same cotangent, so that `dZ_cosine` shows how alike
            their gradients stay on the way to the input.

    Returns:
        A `Flow`.

    Raises:
        FbpError: a number is out of range, X is not finite, a loss comes without targets, or with a common cotangent.

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
    batch: Any = jax.tree.map(jnp.asarray, standard_inputs(net, seed) if X is None else X)
    if loss is not None:
        if common_cotangent:
            raise FbpError("a common cotangent must stand for the loss, got both; leave one out")
        if Y is None:
            raise FbpError("a loss must come with targets, got a loss without; give Y too, or neither")
        check_batch(net, batch, Y)
    else:
        _check_examples(net, batch)
    if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(batch)):
        raise FbpError("X must be finite, got infinite or NaN values; leave those examples out")
    params = sample_parameters(net, jax.tree.map(lambda x: x.shape[1:], batch), seeds, seed)
    rolled, params = roll_blocks(net, params, batch, axis=1)
    dZ = None
    if loss is None:
        out = jax.eval_shape(lambda p: rolled.forward(p, batch)[0], jax.tree.map(lambda p: p[0], params))
        leaves, treedef = jax.tree.flatten(out)
        examples = lambda leaf: (1, *leaf.shape[1:]) if common_cotangent else leaf.shape
        drawn = [sample_normals(Draw.COTANGENTS, range(seeds), examples(leaf), seed) for leaf in leaves]
        dZ = treedef.unflatten(
            [np.broadcast_to(x, (seeds, *leaf.shape)) for x, leaf in zip(drawn, leaves, strict=True)]
        )
    inputs, targets = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *jnp.shape(x))), (batch, Y))
    flow = read_networks(rolled, params, inputs, dZ, loss=loss, Y=targets, scales=factors, described=net)
    if spectrum:
        first = jax.tree.map(lambda x: x[:, :1], inputs)
        singular = [log10_singular_values(rolled, params, first, factor) for factor in factors]
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
    described: Layer | None = None,
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
        described: the network whose paths name the layers, where `net` is a form of it with the same layers in order,
            as `fbp.tree.roll_blocks` makes it.

    Returns:
        A `Flow`.

    Raises:
        FbpError: the network has no layer with a weight matrix.
    """
    # Without their initializers, which have done their work, networks of one shape share a compiled program.
    read = partial(_read, without_initializers(net), loss, net.homogeneous, tuple(quantities), params, X, dZ, Y)
    # Scales one after the other: a batch of them would multiply the memory, not the speed.
    by_scale = [jax.device_get(read(jnp.float32(scale), jnp.float32(bias_scale))) for scale in scales]
    marks = by_scale[0].pop("marks")
    columns = {name: np.stack([each[name] for each in by_scale]) for name in by_scale[0]}
    probed, _ = add_probes(net, params, net.homogeneous)
    batch = jax.tree.leaves(X)[0].shape[1:]
    factors = np.asarray(scales, np.float32)
    return _build_flow(described or net, probed, list_marks(probed, marks), columns, factors, batch)


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
) -> dict[str, Any]:
    def read_one(network: tuple[Any, ...]) -> dict[str, Any]:
        params, X, dZ, Y = network
        scaled = _scale_dense(net, params, scale, bias_scale)

        def cotangent(Z: Activations) -> Activations:
            if loss is None:
                return dZ
            # The output of a rescaled network is not its own.
            return loss.value_and_dZ(net.forward(scaled, X)[0] if rescale else Z, Y)[1]

        columns = read_network(*add_probes(net, scaled, rescale), X, cotangent)
        return {name: columns[name] for name in (*quantities, "marks") if name in columns}

    networks = (params, X, dZ, Y)
    # One network after the other: on a processor quicker than a batch of them, and in less memory.
    return jax.lax.map(read_one, networks) if jax.default_backend() == "cpu" else jax.vmap(read_one)(networks)


def _build_flow(
    net: Layer,
    probed: Layer,
    marks: list[dict[str, Any]],
    columns: dict[str, Any],
    scales: np.ndarray,
    batch: Sequence[int],
) -> Flow:
    layers, parts = name_parts(net, marks)
    networks = next(iter(columns.values())).shape[:2]
    empty, no_part = (np.full((*networks, len(names)), np.nan, np.float32) for names in (layers, parts))
    get = lambda name: columns.get(name, empty)
    places, units = find_units(probed, marks)
    for name in columns.keys() & Units._fields:
        by_unit, columns[name] = columns[name], empty.copy()
        columns[name][..., places] = by_unit[..., units]
    return Flow(
        GradientNorms(*map(get, NORMS)),
        scales,
        **{name: get(name) for name in OTHERS},
        stream=Stream(*(columns.get(f"stream_{name}", no_part) for name in Stream._fields)),
        log10_dX=columns.get("log10_dX", empty[..., 0]),
        dZ_cosine=get("dZ_cosine"),
        plain=find_plain_run(net),
        stack=describe_stack(net, batch[0], math.prod(batch[1:-1])),
        layers=layers,
        parts=parts,
        branches=len(parts) > 1 and parts != layers,
    )


def standard_inputs(net: Layer, seed: int) -> Num[np.ndarray, "m *shape"]:
    """16 examples in random directions, each of mean square 1; or of random tokens.

    Args:
        net: a network that knows the shape of its input, as those of `fbp.mlp` do.
        seed: of the directions, or of the tokens.

    Raises:
        FbpError: it does not, or takes integers of an unknown range or several arrays.
    """
    shape = getattr(net, "shape", None)
    vocabulary = next((getattr(layer, "vocabulary", None) for layer in list_layers(net) if layer.takes_integers), None)
    if not is_shape(shape) or (net.takes_integers and vocabulary is None):
        raise FbpError("the network must know the shape of its input, got one that does not; give a batch, X=...")
    if vocabulary is not None:
        return sample_tokens(EXAMPLES, shape, vocabulary, seed)
    return sample_inputs(EXAMPLES, shape, seed)


def _check_examples(net: Layer, X: Activations) -> None:
    if not has_examples(net, X):
        raise FbpError(
            f"X must be a batch (m, *shape) of at least one example, got the shape {describe_shapes(X)}; add an axis"
        )


def _scale_dense(net: Layer, params: Params, scale: Array, bias_scale: Array) -> Params:
    factors = {"W": scale, "b": bias_scale}

    def scale_layer(layer: Layer, p: Params) -> Params:
        return {name: factors[name] * own for name, own in p.items()} if isinstance(layer, Dense) else p

    return map_params(scale_layer, net, params)


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
        FbpError: examples see one another, the input are integers or several arrays, or the Jacobian is too large.
    """
    if net.takes_integers or len(jax.tree.leaves(x)) > 1:
        raise FbpError(
            "a Jacobian must be that of one array by one array of real numbers, got tokens or several inputs; "
            "take the part of the network behind its embedding"
        )
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
