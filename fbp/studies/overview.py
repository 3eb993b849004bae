"""The main report: are the gradients right, do they train, and how do they change over depth."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp.config import NetworkConfig
from fbp.cost import CostComparison
from fbp.data import Dataset, scale
from fbp.report import Curve, Figure, Report, Table, Text, curves, digits, number
from fbp.studies.flows import Flows, add_flows, measure_perceptrons
from fbp.studies.frame import Draft
from fbp.terminal import Progress, no_progress
from fbp.training import evaluate, fit, optimizer
from fbp.verify import compare

DEPTH = 32
WIDTH = 128
SEEDS = 16
EPOCHS = 15
BATCH = 32
_DEPTHS = (8, 16, DEPTH)
_BY_DEPTH = (("sigmoid", "glorot_normal"), ("tanh", "glorot_normal"), ("relu", "he_normal"))
_BY_INITIALIZATION = ("normal(0.01)", "lecun_normal", "glorot_normal", "he_normal", "orthogonal")
_BY_ACTIVATION = (*_BY_DEPTH, ("gelu", "he_normal"), ("selu", "lecun_normal"))


def overview(data: Dataset, seed: int = 0, progress: Progress = no_progress) -> Report:
    """Compare, train and measure, and say what was found.

    Args:
        data: digits with 784 inputs and at least 10 classes.
        seed: of all randomness.
        progress: called with a line about what happens next.
    """
    draft = Draft(
        "Backpropagation by hand, measured",
        "Does a backward pass written by hand give the gradient that automatic differentiation gives, at what cost? "
        "Does a network trained with it read digits? And how do depth, initialization and activation change the "
        "gradients that reach the first layer?",
        progress=progress,
        seed=seed,
    )
    draft.setting = {
        "data": f"{data.name}: {len(data.train_X):,} training and {len(data.test_X):,} test digits",
        "data hash (sha256)": data.sha256[:16],
        "network": "784-128-64-10, relu, He initialization, softmax cross-entropy",
        "training": f"Adam, learning rate 0.001, batch {BATCH}, {EPOCHS} epochs",
        "gradient norms": f"width {WIDTH}, {SEEDS} networks a curve, a batch of 64 digits, at initialization",
        "precision": "float32, judged by float64",
        "seed": seed,
    }
    # Pixels of memory-mapped arrays are bytes.
    data = replace(data, train_X=scale(data.train_X), test_X=scale(data.test_X))
    config = NetworkConfig(seed=seed)
    progress("comparing the hand-written gradient with jax.grad")
    _compare(draft, config, data)
    progress(f"training 784-128-64-10 on {len(data.train_X):,} digits, once with each gradient")
    _train(draft, config, data)
    _measure(draft, data)
    progress("drawing")
    return draft.report()


def _compare(draft: Draft, config: NetworkConfig, data: Dataset) -> None:
    X, Y = draft.digits(128, data)
    comparison = compare(config.network(), config.objective(), config.parameters(X), X, Y, graph=False)
    result, cost = comparison.to_dict(), comparison.cost
    draft.timings["comparison"] = result.pop("cost")
    draft.results["comparison"] = result
    worst = max(leaf["relative_error_autodiff"] for leaf in result["leaves"])
    ratio = f", in {cost.step_ratio:.2f} of the time and {cost.memory_ratio:.2f} of the memory" if cost else ""
    draft.findings.append(
        f"The hand-written gradient agrees with `jax.grad`: **{comparison.verdict}** on {len(comparison.leaves)} "
        f"leaves, largest relative difference {number(worst, 2)}{ratio}."
    )
    note = Text(
        "A leaf passes where it is as near to `jax.grad` in float64 as rounding in float32 explains: 16 eps, or what "
        "rounding does to `jax.grad` itself, if that is more. A step is one loss value with all gradients, on one "
        "batch of 128 digits."
    )
    columns = ("path", "verdict", "relative_error_autodiff", "relative_error", "epsilons", "cosine", "norm_ratio")
    leaves = Table(
        "Each leaf of the hand-written gradient against `jax.grad` of the same forward pass in the same precision, and "
        "against `jax.grad` in float64. Errors are relative, in the Euclidean norm; eps is the rounding unit; cosine "
        "and norm ratio are against float64.",
        ("leaf", "verdict", "relative error", "against float64", "in eps", "cosine", "norm ratio"),
        tuple(tuple(leaf[name] for name in columns) for leaf in result["leaves"]),
    )
    draft.section("Hand-written against automatic", note, leaves, *([_cost_table(cost)] if cost else []))


def _cost_table(cost: CostComparison) -> Table:
    a, b = cost.manual, cost.autodiff
    return Table(
        "The cost of one value with its gradient, timed alternately in one process; ratios are over `jax.grad`.",
        ("", "hand-written", "jax.grad", "ratio"),
        (
            ("compile time (s)", a.compile_seconds, b.compile_seconds, cost.compile_ratio),
            ("step time (ms)", 1e3 * a.step_seconds, 1e3 * b.step_seconds, cost.step_ratio),
            ("floating-point operations (millions)", a.flops / 1e6, b.flops / 1e6, cost.flops_ratio),
            ("temporary memory (KiB)", a.temporary_bytes / 2**10, b.temporary_bytes / 2**10, cost.memory_ratio),
        ),
    )


def _train(draft: Draft, config: NetworkConfig, data: Dataset) -> None:
    net, loss = config.network(), config.objective()
    params = config.parameters(jnp.asarray(data.train_X[:256]))
    options: Any = {"optimizer": optimizer("adam", 1e-3), "epochs": EPOCHS, "batch_size": BATCH, "seed": config.seed}
    fitted = {
        gradient: fit(net, loss, params, data, gradient=gradient, **options) for gradient in ("manual", "autodiff")
    }
    manual, autodiff = fitted.values()
    apart = max(abs(a.loss - b.loss) / b.loss for a, b in zip(manual.history, autodiff.history, strict=True))
    test = evaluate(net, loss, manual.params, data.test_X, data.test_Y)
    read = np.asarray(net.forward(manual.params, jnp.asarray(data.test_X))[0]).argmax(axis=-1)
    right = read == data.test_Y
    accuracy, difference = f"{right.mean():.1%}", f"by at most {number(apart, 2)}, relatively"
    draft.results["training"] = {"test_accuracy": test.accuracy, "test_loss": test.loss, "curves_apart": apart}
    draft.records += [
        {"study": "training", "curve": gradient, "epoch": epoch.epoch, "loss": epoch.loss, "accuracy": epoch.accuracy}
        for gradient, each in fitted.items()
        for epoch in each.history
    ]
    draft.findings.append(
        f"Trained with the hand-written gradient, 784-128-64-10 reads **{accuracy}** of the test digits; with "
        f"`jax.grad` from the same seed the loss curve differs {difference}."
    )

    drawn = [
        Curve(label, [e.epoch for e in each.history], [e.loss for e in each.history])
        for label, each in (("hand-written gradient", manual), ("jax.grad", autodiff))
    ]
    last = manual.history[-1]
    shown = np.concatenate([np.flatnonzero(right)[:8], np.flatnonzero(~right)[:16]])
    pictures = partial(digits, data.test_X[shown].reshape(-1, 28, 28), data.test_Y[shown], read[shown])
    draft.section(
        "A digit recogniser",
        Figure(
            "training",
            f"Both gradients give the same curve: the losses differ {difference}.",
            partial(curves, drawn, "epoch", "training loss (nats per digit)", log_y=True),
        ),
        Table(
            "The trained network. The training figures are means over the last epoch, while the parameters still "
            "moved.",
            ("", "loss (nats)", "accuracy", "digits"),
            (
                ("training", last.loss, last.accuracy, len(data.train_X)),
                ("test", test.loss, test.accuracy, len(data.test_X)),
            ),
        ),
        Figure("digits", f"The network reads {accuracy} of the test digits: eight of them, and some errors.", pictures),
    )


def _measure(draft: Draft, data: Dataset) -> None:
    flow = measure_perceptrons(draft, WIDTH, SEEDS, data)
    by_depth: Flows = {f"{a}, {i}": {f"depth {d}": flow(a, i, d) for d in _DEPTHS} for a, i in _BY_DEPTH}
    by_init: Flows = {a: {i: flow(a, i, DEPTH) for i in _BY_INITIALIZATION} for a in ("relu", "tanh")}
    by_activation: Flows = {f"depth {DEPTH}": {f"{a}, {i}": flow(a, i, DEPTH) for a, i in _BY_ACTIVATION}}
    sigmoid = flow("sigmoid", "glorot_normal", DEPTH).verdict()
    relu = flow("relu", "he_normal", DEPTH).verdict()
    lecun = flow("relu", "lecun_normal", DEPTH).verdict()
    draft.findings += [
        f"At depth {DEPTH} a sigmoid network multiplies the gradient by {sigmoid.rate:.3f} a layer on its way to the "
        f"input, {number(sigmoid.decades, 2)} decades in all: **{sigmoid.kind}**. relu with He initialization "
        f"multiplies it by {relu.rate:.3f} a layer: **{relu.kind}**.",
        f"The factor 2 in He's variance matters: relu with variance $1/n$ in place of $2/n$ multiplies the gradient by "
        f"{lecun.rate:.3f} a layer; He et al. (2015) predict $√(1/2)$ = 0.707.",
    ]
    add_flows(
        draft,
        "Gradients over depth",
        by_depth,
        name="depth",
        text="For each curve, many networks are drawn and one batch of digits is sent forward and backward. The "
        "norm is that of $dZ_l$ over the batch.",
        caption="Gradient norms over layers, for networks of several depths.",
        table="Depth, and the factor a layer.",
        columns=("network", "depth"),
        study="depth",
    )
    add_flows(
        draft,
        "Gradients and initialization",
        by_init,
        name="initialization",
        caption="Gradient norms over layers, for several initializations of relu and tanh networks.",
        table=f"Initialization, at depth {DEPTH}.",
        columns=("activation", "initialization"),
        study="initialization",
    )
    add_flows(
        draft,
        "Gradients and activation",
        by_activation,
        name="activation",
        caption="Each activation with its usual initialization.",
        table="Activations.",
        columns=("", "activation, initialization"),
        study="activation",
    )
