"""The main report: are the gradients right, do they train, and how do they change over depth."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fbp.config import NetworkConfig
from fbp.data import Dataset
from fbp.flow import Flow, measure
from fbp.networks import mlp
from fbp.report.document import Figure, Report, Section, Table, Text
from fbp.report.figures import Curve, curves
from fbp.report.images import digits
from fbp.studies.flows import (
    comparison_tables,
    flow_figure,
    flow_records,
    flow_table,
    flow_verdicts,
    hidden_verdict,
)
from fbp.training import Fitted, evaluate, fit, optimizer
from fbp.verify import Verification, compare

DEPTH = 32
WIDTH = 128
SEEDS = 16
EPOCHS = 15
BATCH = 32
_BY_INITIALIZATION = ("normal(0.01)", "lecun_normal", "glorot_normal", "he_normal", "orthogonal")
_BY_ACTIVATION = (
    ("sigmoid", "glorot_normal"),
    ("tanh", "glorot_normal"),
    ("relu", "he_normal"),
    ("gelu", "he_normal"),
    ("selu", "lecun_normal"),
)
_DEPTHS = (8, 16, DEPTH)


class _Training(NamedTuple):
    manual: Fitted
    autodiff: Fitted
    accuracy: float
    loss: float
    apart: float
    predictions: np.ndarray


class _Flows(NamedTuple):
    depth: dict[str, dict[str, Flow]]
    initialization: dict[str, dict[str, Flow]]
    activation: dict[str, dict[str, Flow]]


def overview(
    data: Dataset, seed: int = 0, command: str = "fbp report", progress: Callable[[str], None] = lambda _: None
) -> Report:
    """Compare, train and measure, and say what was found.

    Args:
        data: digits with 784 inputs and at least 10 classes.
        seed: of all randomness.
        command: what remakes the report.
        progress: called with a line about what happens next.
    """
    recipe = NetworkConfig(seed=seed)
    progress("comparing the hand-written gradient with jax.grad")
    comparison = _compared(recipe, data)
    progress(f"training 784-128-64-10 on {len(data.train_X):,} digits, once with each gradient")
    training = _trained(recipe, data)
    flows = _flows(data, seed, progress)
    progress("drawing")
    sections = (
        _comparison_section(comparison),
        _training_section(training, data),
        *_flow_sections(flows),
    )
    return Report(
        title="Backpropagation by hand, measured",
        question="Does a backward pass written by hand give the gradient that automatic differentiation gives, at what "
        "cost? Does a network trained with it read digits? And how do depth, initialization and activation change "
        "the gradients that reach the first layer?",
        findings=_findings(comparison, training, flows),
        setting=(
            ("data", f"{data.name}: {len(data.train_X):,} training and {len(data.test_X):,} test digits"),
            ("data hash (sha256)", data.sha256[:16]),
            ("network", "784-128-64-10, relu, He initialization, softmax cross-entropy"),
            ("training", f"Adam, learning rate 0.001, batch {BATCH}, {EPOCHS} epochs"),
            ("gradient norms", f"width {WIDTH}, {SEEDS} networks a curve, a batch of 64 digits, at initialization"),
            ("precision", "float32, judged by float64"),
            ("seed", seed),
        ),
        sections=sections,
        command=command,
        records=tuple(_records(training, flows)),
        results=_results(comparison, training, flows),
        seed=seed,
        data=((data.name, data.sha256),),
        timings={"comparison": comparison.to_dict()["cost"]},
    )


def _compared(recipe: NetworkConfig, data: Dataset) -> Verification:
    X, Y = jnp.asarray(data.train_X[:128]), jnp.asarray(data.train_Y[:128])
    return compare(recipe.network(), recipe.objective(), recipe.parameters(X), X, Y)


def _trained(recipe: NetworkConfig, data: Dataset) -> _Training:
    net, loss = recipe.network(), recipe.objective()
    params = recipe.parameters(jnp.asarray(data.train_X[:256]))
    run = partial(
        fit,
        net,
        loss,
        params,
        data.train_X,
        data.train_Y,
        optimizer=optimizer("adam", 1e-3),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    manual, autodiff = (run(seed=recipe.seed, gradient=gradient) for gradient in ("manual", "autodiff"))
    tested = evaluate(net, loss, manual.params, data.test_X, data.test_Y)
    logits, _ = net.forward(manual.params, jnp.asarray(data.test_X))
    apart = max(abs(a.loss - b.loss) / b.loss for a, b in zip(manual.history, autodiff.history, strict=True))
    accuracy = float(tested.accuracy) if tested.accuracy is not None else float("nan")
    return _Training(manual, autodiff, accuracy, float(tested.loss), apart, np.asarray(logits).argmax(axis=-1))


def _flows(data: Dataset, seed: int, progress: Callable[[str], None]) -> _Flows:
    X, Y = jnp.asarray(data.train_X[:64]), jnp.asarray(data.train_Y[:64])
    found: dict[tuple[str, str, int], Flow] = {}

    def flow(activation: str, init: str, depth: int) -> Flow:
        if (activation, init, depth) not in found:
            progress(f"measuring gradient norms: {activation}, {init}, depth {depth}")
            net = mlp((784,) + (WIDTH,) * depth + (10,), activation, init, repeat=True)
            found[activation, init, depth] = measure(net, NetworkConfig().objective(), X, Y, seeds=SEEDS, seed=seed)
        return found[activation, init, depth]

    pairs = (("sigmoid", "glorot_normal"), ("tanh", "glorot_normal"), ("relu", "he_normal"))
    return _Flows(
        {f"{a}, {i}": {f"depth {d}": flow(a, i, d) for d in _DEPTHS} for a, i in pairs},
        {a: {i: flow(a, i, DEPTH) for i in _BY_INITIALIZATION} for a in ("relu", "tanh")},
        {f"depth {DEPTH}": {f"{a}, {i}": flow(a, i, DEPTH) for a, i in _BY_ACTIVATION}},
    )


def _findings(comparison: Verification, training: _Training, flows: _Flows) -> tuple[str, ...]:
    worst = max(leaf["relative_error_autodiff"] for leaf in comparison.to_dict()["leaves"])
    cost = comparison.cost
    ratio = f", in {cost.step_ratio:.2f} of the time and {cost.memory_ratio:.2f} of the memory" if cost else ""
    kinds = {label: hidden_verdict(flow) for label, flow in next(iter(flows.activation.values())).items()}
    sigmoid, relu = kinds["sigmoid, glorot_normal"], kinds["relu, he_normal"]
    lecun = hidden_verdict(flows.initialization["relu"]["lecun_normal"])
    return (
        f"The hand-written gradient agrees with jax.grad: **{comparison.verdict}** on {len(comparison.leaves)} leaves, "
        f"largest relative difference {worst:.1e}{ratio}.",
        f"Trained with the hand-written gradient, 784-128-64-10 reads **{training.accuracy:.1%}** of the test digits; "
        f"with jax.grad from the same seed the loss curve differs by at most {training.apart:.1e}, relatively.",
        f"At depth {DEPTH} a sigmoid network multiplies the gradient by {sigmoid.rate:.3f} a layer on its way to the "
        f"input, {sigmoid.decades:.0f} decades in all: **{sigmoid.kind}**. relu with He initialization keeps it, "
        f"{relu.rate:.3f} a layer: **{relu.kind}**.",
        f"The factor 2 in He's variance matters: relu with variance 1/n instead of 2/n loses a factor "
        f"{lecun.rate:.3f} a layer, close to the square root of one half, 0.707.",
    )


def _comparison_section(comparison: Verification) -> Section:
    note = Text(
        "A leaf passes where it is within 1e-5 of jax.grad, or where float64 shows that it is no further from the "
        "truth than jax.grad. A step is one loss value with all gradients, on one batch of 128 digits."
    )
    return Section("Hand-written against automatic", (note, *comparison_tables(comparison)))


def _training_section(training: _Training, data: Dataset) -> Section:
    def losses() -> Any:
        drawn = [
            Curve(label, [e.epoch for e in each.history], [e.loss for e in each.history])
            for label, each in (("hand-written gradient", training.manual), ("jax.grad", training.autodiff))
        ]
        return curves(drawn, "epoch", "training loss (nats per digit)", log_y=True)

    last = training.manual.history[-1]
    wrong = np.flatnonzero(training.predictions != data.test_Y)
    right = np.flatnonzero(training.predictions == data.test_Y)
    shown = np.concatenate([right[:8], wrong[:16]])
    pictures = partial(digits, data.test_X[shown].reshape(-1, 28, 28), data.test_Y[shown], training.predictions[shown])
    table = Table(
        "The trained network. The training figures are means over the last epoch, while the parameters still moved.",
        ("", "loss (nats)", "accuracy", "digits"),
        (
            ("training", last.loss, last.accuracy, len(data.train_X)),
            ("test", training.loss, training.accuracy, len(data.test_X)),
        ),
    )
    caption = f"Both gradients give the same curve: the losses differ by at most {training.apart:.1e}, relatively."
    second = f"The network reads {training.accuracy:.1%} of the test digits: eight of them, and some it misreads."
    blocks = (Figure("training", caption, losses), table, Figure("digits", second, pictures))
    return Section("A digit recogniser", blocks)


def _flow_sections(flows: _Flows) -> tuple[Section, ...]:
    note = Text(
        "For each curve, many networks are drawn and one batch of digits is sent forward and backward. Lines are "
        "medians over networks, bands go from 10 % to 90 %, thin black lines are mean-field theory of infinite width. "
        "The norm is that of dZ over the batch. The verdict is **vanishing** or **exploding** where the norm at the "
        "first layer is a tenth or ten times that at the last hidden one; the factor is that of one layer, towards the "
        "input."
    )
    depth = (
        flow_figure(
            "depth",
            "A sigmoid network's gradient falls by the same factor at every layer, whatever the depth; relu with He "
            "initialization carries it through.",
            flows.depth,
        ),
        flow_table("Depth: the factor a layer hardly depends on it.", flows.depth, ("network", "depth")),
    )
    initialization = (
        flow_figure(
            "initialization",
            "Under relu only the variance 2/n keeps the gradient's size; under tanh the variance 1/n nearly does. "
            "Weights of 0.01 lose it within a few layers.",
            flows.initialization,
        ),
        flow_table(f"Initialization, at depth {DEPTH}.", flows.initialization, ("activation", "initialization")),
    )
    activation = (
        flow_figure(
            "activation",
            "Each activation with the initialization that is usual for it: sigmoid alone vanishes quickly.",
            flows.activation,
        ),
        flow_table("Activations.", flows.activation, ("", "activation, initialization")),
    )
    return (
        Section("Gradients over depth", (note, *depth)),
        Section("Gradients and initialization", initialization),
        Section("Gradients and activation", activation),
    )


def _records(training: _Training, flows: _Flows) -> Iterator[dict[str, Any]]:
    for gradient, fitted in (("manual", training.manual), ("autodiff", training.autodiff)):
        for epoch in fitted.history:
            measured = {"epoch": epoch.epoch, "loss": epoch.loss, "accuracy": epoch.accuracy}
            yield {"study": "training", "curve": gradient, **measured}
    for study, groups in flows._asdict().items():
        yield from flow_records(groups, study=study)


def _results(comparison: Verification, training: _Training, flows: _Flows) -> dict[str, Any]:
    return {
        "comparison": {name: found for name, found in comparison.to_dict().items() if name != "cost"},
        "training": {
            "test_accuracy": training.accuracy,
            "test_loss": training.loss,
            "curves_apart": training.apart,
        },
        "verdicts": [row for study, groups in flows._asdict().items() for row in flow_verdicts(groups, study=study)],
    }
