"""Whole networks: the loss and its gradients, the network as a JAX function, gradient norms at any depth."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.chunks import chunk_head
from fbp.cotangent import Cotangent, log10_norm
from fbp.errors import FbpError, unknown_name
from fbp.layers.axes import is_shape
from fbp.losses import Loss
from fbp.tree import list_weights, map_params, stack
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


Only: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None
"""Which parameters: patterns of their names, a function of the name, or None for all."""


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
def value_and_grad(net: Layer, loss: Loss, *, probe: None = None, only: Only = None) -> ValueAndGrad: ...
@overload
def value_and_grad(net: Layer, loss: Loss, *, probe: Probe, only: Only = None) -> ProbedValueAndGrad: ...
def value_and_grad(
    net: Layer, loss: Loss, *, probe: Probe | None = None, only: Only = None
) -> ValueAndGrad | ProbedValueAndGrad:
    """The hand-written counterpart of `jax.value_and_grad`.

    Where the last layer makes many outputs for each row, as the head of a language model does, it and the loss run in
    chunks of rows (see `fbp.chunks`), unless there is a probe.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        probe: a pure function of each layer's `Visit` in the reverse loop.
        only: the parameters whose gradients are asked for, by patterns of their names such as "blocks.*.D", or a
            function of the name; None for all. The products of the others vanish from the compiled program.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> (value, d_params), where d_params has the structure,
        shapes and dtypes of params, with None for gradients that are not asked for. With a probe,
        ((value, readings), d_params), where readings has the network's structure (see `fbp.tree`). X is (m, ...), Y
        what the loss takes, weights (m,) or one for each item, key the randomness of dropout. It raises an FbpError if
        X, Y or params do not fit.

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
        if probe is None:
            value, _, d_params = differentiate(net, loss, params, X, Y, weights, key)
            return value, select(d_params, only)
        _, cache, value, dZ = forward_to_loss(net, loss, params, X, Y, weights, key)
        d_params, _, readings = net.sweep(params, cache, Cotangent(dZ), probe)
        return (value, readings), select(d_params, only)

    return compute


def differentiate(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key | None
) -> tuple[Float[Array, ""], Activations | None, Params]:
    """Check the arguments, then (value, Z, d_params); Z is None where it was made in chunks, never there as a whole."""
    check_arguments(net, params, X, Y)
    chunked = chunk_head(net, loss, _output_shape(net, X), Y)
    if chunked is not None:
        value, d_params = chunked(params, X, Y, weights, key)
        return value, None, d_params
    Z, cache = net.forward(params, X, key)
    value, dZ = loss.value_and_dZ(Z, Y, weights)
    return value, Z, net.backward(params, cache, dZ)[0]


def select(tree: Params, only: Only) -> Params:
    """The tree with None in place of the leaves that are not asked for.

    Args:
        tree: parameters or gradients.
        only: patterns of names ("blocks.*.W"), a function of the name, or None for all.

    Raises:
        FbpError: a pattern fits no name.

    Example:
        >>> fbp.select({"q": {"W": 1, "b": 2}}, "*.b")
        {'q': {'W': None, 'b': 2}}
    """
    if only is None:
        return tree
    names = [name_of(path) for path, _ in jax.tree.leaves_with_path(tree)]
    patterns = () if callable(only) else (only,) if isinstance(only, str) else tuple(only)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name("parameter", pattern, names)
    wanted = only if callable(only) else lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
    return jax.tree.map_with_path(lambda path, leaf: leaf if wanted(name_of(path)) else None, tree)


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter, from its path in the tree: "blocks.q.W"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


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

    apply = attach_rule(net)

    def function(params: Params, A: Activations, key: Key | None = None) -> Activations:
        check_params(net, params, A)
        return apply(params, A, key)

    return function


def attach_rule(net: Layer) -> Callable[[Params, Activations, Key | None], Activations]:
    """`as_function` without its check of the parameters: (params, A, key) -> output."""

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
    return apply


class GradientNorms(NamedTuple):
    """log10 of Euclidean norms, one per layer with a weight matrix, in forward order: arrays of shape (L,).

    These are the layers that declare an `Outer` (`Layer.linear`): dense layers, embeddings, unembeddings.

    Attributes:
        dZ: of the gradient with respect to the layer's output Z_l, over the whole batch.
        dA: of the gradient with respect to its input A_{l-1}; minus infinity where that are tokens.
        dW: of the gradient with respect to W_l (or E).
        db: of the gradient with respect to b_l; minus infinity where there is no bias.
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
    weights = list_weights(visit.layer, visit.params, visit.cache, visit.dA_out)
    if not weights:
        return None
    none = jnp.zeros((), visit.dA_out.dtype)
    dA = none if visit.dA_in is None else visit.dA_in
    dW, db = visit.d_params[weights[0]], visit.d_params.get("b", none)
    return GradientNorms(*(log10_norm(x, visit.exponent) for x in (visit.dA_out, dA, dW, db)))


def forward_to_loss(
    net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key | None
) -> tuple[Activations, Cache, Float[Array, ""], Activations]:
    """Check the arguments, then run the forward pass up to the loss: (Z, cache, value, dZ)."""
    check_arguments(net, params, X, Y)
    Z, cache = net.forward(params, X, key)
    return Z, cache, *loss.value_and_dZ(Z, Y, weights)


def check_arguments(net: Layer, params: Params, X: Activations, Y: Targets) -> None:
    """Raise an error unless a batch and the parameters fit the network.

    Raises:
        FbpError: see `check_batch` and `check_params`.
    """
    check_batch(net, X, Y)
    check_params(net, params, X)


def check_batch(net: Layer, X: Activations, Y: Targets) -> None:
    """Raise an error unless X is a batch that the network takes, and Y has one target per example.

    Raises:
        FbpError: X is not floating point where the network takes no integers, has no batch axis, or differs from Y in
            the number of examples.
    """
    if hasattr(X, "dtype") and not jnp.issubdtype(X.dtype, jnp.floating) and not net.takes_integers:
        raise FbpError(f"X must be floating point, got {X.dtype}; convert it, X.astype('float32')")
    fits = Y.ndim > 0 and has_examples(net, X) and all(x.shape[0] == Y.shape[0] for x in jax.tree.leaves(X))
    if not fits:
        raise FbpError(
            f"X and Y must have one row per example, and at least one, got X {describe_shapes(X)} and Y {Y.shape}; "
            "reshape a single example to (1, n_0)"
        )


def has_examples(net: Layer, X: Activations) -> bool:
    """Whether every input has an axis of examples, and at least one of them."""
    arrays = jax.tree.leaves(X)
    # One number an example is enough where it is a token, or stands beside others.
    least = 1 if net.takes_integers or len(arrays) > 1 else 2
    return all(x.ndim >= least and x.shape[0] > 0 for x in arrays)


def describe_shapes(X: Activations) -> str:
    """The shapes of the inputs, for a message."""
    return " and ".join(str(x.shape) for x in jax.tree.leaves(X))


def check_params(net: Layer, params: Params, X: Activations) -> None:
    """Raise an error unless the parameters have the structure and the shapes that the network makes for such inputs.

    Raises:
        FbpError: a leaf is missing or unexpected, a container has another type, or a shape differs.
    """
    try:
        expected, _ = _initial_shapes(net, *_shapes_of_examples(X))
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
    layers = jax.tree.leaves(map_params(lambda layer, own: jax.tree.map(lambda _: layer, own), net, expected))
    for (path, shape), layer in zip(wanted.items(), layers, strict=True):
        if received[path] != shape:
            raise FbpError(
                f"params{path} must have the shape {shape} in {type(layer).__name__} for examples of shape "
                f"{_describe_examples(X)}, got {received[path]}; make params with net.init, or reshape the examples"
            )


def _shapes_of_examples(X: Activations) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """The structure of X, and the shapes of one example in it."""
    leaves, treedef = jax.tree.flatten(X)
    return treedef, tuple(x.shape[1:] for x in leaves)


def _describe_examples(X: Activations) -> str:
    return ", ".join(str(x.shape[1:]) for x in jax.tree.leaves(X))


def _output_shape(net: Layer, X: Activations) -> Any:
    """The shape of the output, batch included; None for several arrays, or where the network cannot be initialized."""
    try:
        _, shape = _initial_shapes(net, *_shapes_of_examples(X))
    except Exception:
        # The forward pass says better what is wrong.
        return None
    return (jax.tree.leaves(X)[0].shape[0], *shape) if is_shape(shape) else None


@lru_cache(maxsize=128)
def _initial_shapes(net: Layer, treedef: Any, shapes: tuple[tuple[int, ...], ...]) -> tuple[Params, Shape]:
    """The shapes of the parameters, and that of one example of the output."""
    out_shapes = []

    def init() -> Params:
        params, out_shape = net.init(jax.random.key(0), jax.tree.unflatten(treedef, shapes))
        out_shapes.append(out_shape)
        return params

    return jax.eval_shape(init), out_shapes[0]
