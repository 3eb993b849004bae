"""Whole networks: the loss and its gradients, the network as a JAX function, gradient norms at any depth."""

from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.cotangent import Cotangent, log10_norm
from fbp.errors import FbpError
from fbp.layers import Dense
from fbp.losses import Loss
from fbp.tree import map_layers, stack
from fbp.typing import Activations, Cache, Key, Layer, Params, Probe, Shape, Targets, Visit, Weights

Result = TypeVar("Result", covariant=True)


class BatchFunction(Protocol[Result]):
    """A pure function (params, X, Y, weights=None, key=None) -> result.

    X is (m, n_0), Y what the loss takes, weights (m,), key the randomness of dropout.
    """

    def __call__(
        self, params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
    ) -> Result: ...


ValueAndGrad: TypeAlias = BatchFunction[tuple[Float[Array, ""], Params]]
ProbedValueAndGrad: TypeAlias = BatchFunction[tuple[tuple[Float[Array, ""], Any], Params]]


class NetworkFunction(Protocol):
    """(params, A, key=None) -> the output of a network; see `as_function`."""

    def __call__(self, params: Params, A: Activations, key: Key | None = None) -> Activations: ...


def loss_value(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
) -> Float[Array, ""]:
    """The loss of a network, by the forward pass alone; `jax.grad` of it is the reference of every comparison.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: inputs, (m, n_0).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
        key: randomness for dropout.

    Returns:
        A scalar.

    Raises:
        FbpError: the parameters do not fit.
    """
    check_params(net, params, X)
    return loss.value(net.forward(params, X, key)[0], Y, weights)


@overload
def value_and_grad(net: Layer, loss: Loss, *, probe: None = None) -> ValueAndGrad: ...
@overload
def value_and_grad(net: Layer, loss: Loss, *, probe: Probe) -> ProbedValueAndGrad: ...
def value_and_grad(net: Layer, loss: Loss, *, probe: Probe | None = None) -> ValueAndGrad | ProbedValueAndGrad:
    """The hand-written counterpart of `jax.value_and_grad`.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        probe: a pure function of each layer's `Visit` in the reverse loop.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> (value, d_params), where d_params has the structure,
        shapes and dtypes of params. With a probe, ((value, readings), d_params), where readings has the network's
        structure (see `fbp.tree`). X is (m, n_0), Y what the loss takes, weights (m,), key the randomness of dropout.
        It raises an FbpError if X, Y or params do not fit.

    Example:
        >>> net, loss = fbp.mlp((4, 8, 3)), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> X, Y = jax.random.normal(jax.random.key(1), (16, 4)), jnp.arange(16) % 3
        >>> value, d_params = jax.jit(fbp.value_and_grad(net, loss))(params, X, Y)
        >>> reference = jax.grad(lambda p: fbp.loss_value(net, loss, p, X, Y))(params)
        >>> bool(jnp.allclose(d_params[0]["W"], reference[0]["W"], atol=1e-6))
        True
    """

    def compute(
        params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
    ) -> tuple[Any, Params]:
        _, cache, value, dZ = forward_to_loss(net, loss, params, X, Y, weights, key)
        d_params, _, readings = net.sweep(params, cache, Cotangent(dZ), probe)
        return (value, d_params) if probe is None else ((value, readings), d_params)

    return compute


def as_function(net: Layer) -> NetworkFunction:
    """The network as an ordinary JAX function f(params, A, key=None) whose derivative is the hand-written one.

    It can be used in any JAX code (Flax, Equinox, plain functions), and under jit, vmap, scan, remat and sharding.
    Forward-mode differentiation is not defined, as for every `jax.custom_vjp`.

    Args:
        net: a network or a single layer.

    Returns:
        A pure function (params, A, key=None) -> output, with A of shape (m, ...).

    Example:
        >>> net = fbp.mlp((4, 8, 3), "gelu")
        >>> f = fbp.as_function(net)
        >>> params, _ = net.init(jax.random.key(0))
        >>> gradient = jax.grad(lambda p: f(p, jnp.ones((2, 4))).sum())(params)  # runs the hand-written backward
        >>> gradient[0]["W"].shape
        (4, 8)
    """

    @jax.custom_vjp
    def apply(params: Params, A: Activations, key: Key | None) -> Activations:
        return net.forward(params, A, key)[0]

    def forward(params: Params, A: Activations, key: Key | None) -> tuple[Activations, Any]:
        out, cache = net.forward(params, A, key)
        return out, (params, cache)

    def backward(residuals: Any, dA_out: Activations) -> tuple[Params, Activations, None]:
        params, cache = residuals
        return (*net.backward(params, cache, dA_out), None)

    apply.defvjp(forward, backward)

    def function(params: Params, A: Activations, key: Key | None = None) -> Activations:
        check_params(net, params, A)
        return apply(params, A, key)

    return function


class GradientNorms(NamedTuple):
    """log10 of Euclidean norms, one per dense layer in forward order: arrays of shape (L,).

    Attributes:
        dZ: of the gradient with respect to the dense layer's output Z_l, over the whole batch.
        dA: of the gradient with respect to its input A_{l-1}.
        dW: of the gradient with respect to W_l.
        db: of the gradient with respect to b_l.
    """

    dZ: Float[Array, " L"]
    dA: Float[Array, " L"]
    dW: Float[Array, " L"]
    db: Float[Array, " L"]


def log10_gradient_norms(net: Layer, loss: Loss) -> BatchFunction[GradientNorms]:
    """Gradient norms by layer, exact at depths where the gradients themselves under- or overflow.

    The reverse loop carries the cotangent with a power of two beside it. The forward pass is the network's own: where
    an activation underflows to zero, dW is zero and its logarithm is minus infinity.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> `GradientNorms`.

    Example:
        >>> net, loss = fbp.mlp((8,) * 201, "sigmoid", "lecun_normal", repeat=True), fbp.HalfSquaredError()
        >>> params, _ = net.init(jax.random.key(0))
        >>> norms = fbp.log10_gradient_norms(net, loss)(params, jnp.ones((2, 8)), jnp.zeros((2, 8)))
        >>> norms.dW.shape, bool(norms.dW[0] < -100)  # float32 itself ends near 1e-45
        ((200,), True)
    """

    def compute(
        params: Params, X: Activations, Y: Targets, weights: Weights = None, key: Key | None = None
    ) -> GradientNorms:
        _, cache, _, dZ = forward_to_loss(net, loss, params, X, Y, weights, key)
        return sweep_norms(net, params, cache, dZ)

    return compute


def sweep_norms(net: Layer, params: Params, cache: Cache, dZ: Activations) -> GradientNorms:
    """`GradientNorms` for any cotangent dZ of the network's output, from the cache of its forward pass."""
    _, _, readings = net.sweep(params, cache, Cotangent(dZ).normalize(), _read_norms)
    norms = stack(net, readings)
    if norms is None:
        raise FbpError("the network must have a dense layer, got one without; gradient norms are those of dense layers")
    return norms


def _read_norms(visit: Visit) -> GradientNorms | None:
    if not isinstance(visit.layer, Dense):
        return None
    d = visit.d_params
    return GradientNorms(*(log10_norm(x, visit.exponent) for x in (visit.dA_out, visit.dA_in, d["W"], d["b"])))


def forward_to_loss(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key | None
) -> tuple[Activations, Cache, Float[Array, ""], Activations]:
    """Check the arguments, then run the forward pass up to the loss: (Z, cache, value, dZ)."""
    check_batch(X, Y)
    check_params(net, params, X)
    Z, cache = net.forward(params, X, key)
    return Z, cache, *loss.value_and_dZ(Z, Y, weights)


def check_batch(X: Activations, Y: Targets) -> None:
    """Raise an error unless X is a batch of floats and Y has one target per example.

    Raises:
        FbpError: X is not floating point, has no batch axis, or differs from Y in the number of examples.
    """
    if not jnp.issubdtype(X.dtype, jnp.floating):
        raise FbpError(f"X must be floating point, got {X.dtype}; convert it, X.astype('float32')")
    if X.ndim < 2 or Y.ndim < 1 or X.shape[0] != Y.shape[0] or X.shape[0] == 0:
        raise FbpError(
            f"X and Y must have one row per example, and at least one, got X {X.shape} and Y {Y.shape}; "
            "reshape a single example to (1, n_0)"
        )


def check_params(net: Layer, params: Params, X: Activations) -> None:
    """Raise an error unless the parameters have the structure and the shapes that the network makes for such inputs.

    Raises:
        FbpError: a leaf is missing or unexpected, a container has another type, or a shape differs.
    """
    try:
        expected = _initial_shapes(net, X.shape[1:])
    except Exception:
        # The network cannot be initialized for this input; the forward pass says so better.
        return
    wanted, received = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (expected, params)
    )
    if jax.tree.structure(expected) != jax.tree.structure(params):
        missing, unexpected = (sorted(a.keys() - b.keys()) for a, b in ((wanted, received), (received, wanted)))
        difference = [f"no params{path}" for path in missing] + [f"an unexpected params{path}" for path in unexpected]
        raise FbpError(
            "params must have the structure that net.init returns, got "
            f"{', '.join(difference[:4]) or 'other containers, such as a list for a tuple'}; "
            "make them with params, _ = net.init(key)"
        )
    if wanted == received:
        return
    layers = jax.tree.leaves(map_layers(lambda layer, own: jax.tree.map(lambda _: layer, own), net, expected))
    for (path, shape), layer in zip(wanted.items(), layers, strict=True):
        if received[path] != shape:
            raise FbpError(
                f"params{path} must have the shape {shape} in {type(layer).__name__} for examples of shape "
                f"{X.shape[1:]}, got {received[path]}; make params with net.init, or reshape the examples"
            )


@lru_cache(maxsize=128)
def _initial_shapes(net: Layer, shape: Shape) -> Params:
    return jax.eval_shape(lambda: net.init(jax.random.key(0), shape)[0])
