"""What a command trains or tests: a network and the arrays of a data set, as its kind of network takes them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fbp.cli.data import load_fitting
from fbp.config import (
    SHARED,
    TRAINING,
    Demand,
    NetworkConfig,
    TrainingConfig,
    TransformerConfig,
    check_unused,
    draw_parameters,
)
from fbp.errors import FbpError, check_seed

if TYPE_CHECKING:
    from fbp.data import Dataset
    from fbp.losses import Loss
    from fbp.typing import Layer, Params

OVERLAP = 4
"""Windows of a text to train on begin so many times within one: a token is then seen at as many places."""


class Subject(NamedTuple):
    """A network and its data.

    Attributes:
        net: the network.
        loss: its loss.
        params: where training starts.
        X, Y: the training part.
        test_X, test_Y: the test part.
        data: what they were made of.
        training: how it is trained; what was held out here for validation is not asked for again.
        validation: (X, Y) held out here; None where the training holds a part of (X, Y) out.
    """

    net: "Layer"
    loss: "Loss"
    params: "Params"
    X: Any
    Y: Any
    test_X: Any
    test_Y: Any
    data: "Dataset"
    training: TrainingConfig
    validation: Any = None


def make_subject(
    kind: str,
    source: str,
    mlp: NetworkConfig,
    transformer: TransformerConfig,
    training: TrainingConfig,
    runs: int = 1,
) -> Subject:
    """Load the data and make the network.

    Args:
        kind: "mlp" or "gpt".
        source: the data.
        mlp: options of a multilayer perceptron, and those that all networks share.
        transformer: of a transformer.
        training: how it is trained.
        runs: how many networks are trained at once.

    Raises:
        FbpError: options do not fit each other, the data or the memory.
    """
    make = _make_mlp if kind == "mlp" else _make_gpt
    return make(source, mlp, transformer, training, Demand(*(runs * bytes for bytes in TRAINING)))


def arrange(data: "Dataset", net: "Layer", loss: "Loss") -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The training and the test part of a data set as (X, Y), as a network and its loss take them.

    Args:
        data: the data set.
        net: a network; one of tokens knows the length of a sequence.
        loss: its loss.

    Raises:
        FbpError: the data are of another kind.
    """
    if net.takes_integers != (data.vocabulary is not None):
        takes, holds = ("tokens", "features") if net.takes_integers else ("features", "tokens")
        raise FbpError(f"--data must be {takes} for this network, got the {holds} of {data.name}; use other data")
    parts = (data.train_X, data.train_Y), (data.test_X, data.test_Y)
    if net.takes_integers:
        train, test = (_cut(*part, net, stride) for part, stride in zip(parts, (OVERLAP, 1), strict=True))
        return train, test
    from fbp.losses import SoftmaxCrossEntropy

    if isinstance(loss, SoftmaxCrossEntropy):
        return parts
    import jax

    one = jax.ShapeDtypeStruct((1, *data.train_X.shape[1:]), "float32")
    Z = jax.eval_shape(lambda X: net.forward(net.init(jax.random.key(0), X.shape[1:])[0], X)[0], one)
    train, test = ((X, jax.nn.one_hot(Y, Z.shape[-1])) for X, Y in parts)
    return train, test


def _cut(X: Any, Y: Any, net: "Layer", overlap: int) -> tuple[Any, Any]:
    """Windows of a text, as long as the network takes them, each token in so many of them; sequences as they are."""
    if X.ndim > 1:
        return X, Y
    import numpy as np

    from fbp.combinators import Network
    from fbp.data import windows

    if not isinstance(net, Network) or net.shape is None:
        raise FbpError(f"a network for text must know the length of its sequences, got {net!r}; give it a shape")
    # Y holds the tokens of X, one place further on.
    length = net.shape[0]
    return windows(np.concatenate([X, Y[-1:]]), length, max(1, length // overlap))


def _make_mlp(
    source: str, mlp: NetworkConfig, transformer: TransformerConfig, training: TrainingConfig, demand: Demand
) -> Subject:
    check_unused("mlp", transformer)
    drawn: list[Params] = []

    def draw() -> None:
        if mlp.init != "lsuv":
            drawn.append(draw_parameters(mlp.network(), mlp.seed))

    data = load_fitting(source, mlp, demand, training.batch_size, scaled=False, meanwhile=draw)
    import jax

    from fbp.data import scale

    net, loss = mlp.network(), mlp.objective()
    train, test = arrange(data, net, loss)
    params = drawn[0] if drawn else mlp.parameters(jax.numpy.asarray(scale(data.train_X[:1000])))
    return Subject(net, loss, params, *train, *test, data, training)


def _make_gpt(
    source: str, mlp: NetworkConfig, transformer: TransformerConfig, training: TrainingConfig, demand: Demand
) -> Subject:
    check_unused("gpt", mlp, shared=SHARED)
    check_seed(mlp.seed)
    transformer.network(mlp.init, mlp.dropout)
    from fbp.data import load

    data = load(source)
    if data.vocabulary is None:
        raise FbpError(f"--data must be tokens with --network gpt, got the features of {data.name}; use a text file")
    sizes: dict[str, Any] = {"vocabulary": data.vocabulary}
    if data.train_X.ndim > 1:
        sizes["length"] = data.train_X.shape[1]
    for name, size in sizes.items():
        typed = getattr(transformer, name)
        if typed not in (getattr(TransformerConfig, name), size):
            raise FbpError(f"--{name} must be that of the data, {size}, got {typed}; leave it out")
    transformer = replace(transformer, **sizes)
    transformer.check_memory(demand, training.batch_size)
    from fbp.losses import SoftmaxCrossEntropy

    net, loss = transformer.network(mlp.init, mlp.dropout), SoftmaxCrossEntropy()
    validation = None
    held = round(training.validation_split * len(data.train_X)) if data.train_X.ndim == 1 else 0
    if held:
        # Windows overlap, so that those held out must be of another part of the text.
        validation = _cut(data.train_X[-held:], data.train_Y[-held:], net, 1)
        data = replace(data, train_X=data.train_X[:-held], train_Y=data.train_Y[:-held])
        training = replace(training, validation_split=0.0)
    train, test = arrange(data, net, loss)
    params = draw_parameters(net, mlp.seed)
    return Subject(net, loss, params, *train, *test, data, training, validation)
