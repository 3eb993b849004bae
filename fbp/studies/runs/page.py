"""The report of a run, from its folder and the test data."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fbp.environment import device
from fbp.errors import FbpError
from fbp.layers.axes import is_shape
from fbp.precision import cast
from fbp.report import Report, Table, number
from fbp.studies.frame import Draft
from fbp.studies.runs.classes import add_classes, read_classes
from fbp.studies.runs.epochs import add_epochs
from fbp.studies.runs.facts import Facts, read_facts
from fbp.studies.runs.outputs import add_outputs
from fbp.studies.runs.readings import add_readings
from fbp.studies.runs.sequences import add_sequences
from fbp.training import Saved, evaluate_items

_SETTING = (
    *("activation", "init", "norm", "residual", "dropout", "style", "depth", "width", "heads", "loss"),
    *("optimizer", "learning_rate", "schedule", "warmup", "batch_size", "epochs", "validation_split", "clip_norm"),
    *("clip_examples", "weight_decay", "accumulate", "compute", "trained", "gradient", "patience"),
)
"""Options that are shown, in this order."""
_ALWAYS = ("batch_size", "epochs")
_UNREMARKABLE = (False, 0, 0.0, 1, "none")
"""Values of options that say that something is not there."""
_REASONS = {
    "epochs": "all epochs were done",
    "steps": "all steps were taken",
    "target_loss": "the target loss was reached",
    "patience": "the loss had not fallen for so many epochs as patience allows",
    "max_seconds": "the time was up",
    "callback": "a callback stopped it",
}


def run_report(folder: str | os.PathLike[str], saved: Saved, X: ArrayLike, Y: ArrayLike) -> Report:
    """A page about a run: what it reached on test data, how training went, what it gets wrong, what it cost.

    Which parts there are follows from the network and what the folder holds: classes, numbers or tokens, with or
    without validation and readings of a monitor, after one epoch or many, finished or not.

    Args:
        folder: of `fbp.fit(..., out=folder)` or `fbp train`.
        saved: what `fbp.training.open_run(folder)` returned.
        X: test inputs, as for `evaluate`.
        Y: test targets.

    Returns:
        The report; `fbp.report.write` makes a page of it.

    Raises:
        FbpError: the run has no whole checkpoint, its loss is one's own, or the data do not fit the network.

    Example:
        >>> import optax, tempfile
        >>> net, loss = fbp.mlp((784, 16, 10)), fbp.SoftmaxCrossEntropy()
        >>> params, _ = net.init(jax.random.key(0))
        >>> digits = fbp.data.load()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = fbp.fit(net, loss, params, digits, optimizer=optax.adam(1e-3), epochs=2, out=folder)
        ...     saved = fbp.training.open_run(folder)
        ...     report = fbp.studies.run_report(folder, saved, digits.test_X, digits.test_Y)
        >>> report.title
        '784-16-10 on own data'
    """
    if saved.loss is None:
        raise FbpError(
            "a run's loss must be known for its page, got one of the user's own; give saved._replace(loss=...)"
        )
    facts = read_facts(Path(folder), saved)
    draft = Draft(
        f"{facts.network} on {facts.data_name}",
        "How good is the network on data that it has not seen, how did its training go, what does it still get wrong, "
        "and what did it cost?",
        seed=int(facts.training.get("seed") or 0),
    )
    items = evaluate_items(saved.net, saved.loss, saved.params, X, Y)
    draft.setting = _describe_setting(facts, len(items.losses))
    if facts.data.get("sha256"):
        draft.data[facts.data_name] = str(facts.data["sha256"])
    # The findings of the test come first on the page, its sections behind those of training.
    tested = Draft("", "")
    targets = np.asarray(Y)
    classes = read_classes(facts, targets, items)
    if classes is not None:
        add_classes(tested, facts, X, *classes, items.losses.reshape(len(targets), -1).mean(axis=1))
    elif items.predicted is not None and items.losses.ndim == 2:
        add_sequences(tested, facts, np.asarray(X), targets, items)
    else:
        add_outputs(tested, facts, targets, items)
    draft.findings += tested.findings
    draft.results |= tested.results
    add_epochs(draft, facts)
    draft.sections += tested.sections
    add_readings(draft, facts)
    draft.records += tested.records
    _add_cost(draft, facts)
    return draft.report(facts.command)


def _describe_setting(facts: Facts, tested: int) -> dict[str, Any]:
    training, options = facts.training, facts.options
    setting: dict[str, Any] = {
        "network": facts.network,
        "parameters": f"{facts.parameters:,}",
        "data": f"{facts.data_name}: {training.get('examples', 0):,} to train on, {tested:,} to test",
    }
    if facts.saved.net.takes_integers:
        setting["length of a sequence"] = facts.saved.shape[0]
    if facts.data.get("held_out"):
        setting["test data"] = "drawn from the data, which have no test part of their own"
    merged = {
        **{name: training.get(name) for name in ("batch_size", "gradient", "compute", "clip_examples")},
        **options,
    }
    for name in _SETTING:
        value = merged.get(name)
        if value is not None and (name in _ALWAYS or value not in _UNREMARKABLE):
            setting[name.replace("_", " ")] = value
    setting["ended because"] = _REASONS.get(facts.stopped or "", "it was interrupted")
    return setting | {"seed": training.get("seed")}


def _add_cost(draft: Draft, facts: Facts) -> None:
    history = facts.history
    steps = history[-1].step if history else 0
    kept = _activation_bytes(facts)
    of_params, of_optimizer = facts.state_bytes
    rows: list[tuple[str, Any, str]] = [("parameters", facts.parameters, "")]
    if history:
        rates = sorted(epoch.examples_per_second for epoch in history)
        rate = rates[len(rates) // 2]
        draft.timings = {"training_seconds": facts.seconds, "examples_per_second": rate}
        rows += [
            ("steps", steps, ""),
            ("time of training, without compilation and validation", float(facts.seconds), "s"),
            ("examples per second, median of the epochs", round(rate), "1/s"),
            ("time of a step", float(1e3 * sum(epoch.seconds for epoch in history) / max(steps, 1)), "ms"),
        ]
        draft.findings.append(
            f"Training took {number(facts.seconds, 3)} s for {steps:,} steps, {rate:,.0f} examples per second on "
            f"{device()}; {facts.parameters:,} parameters."
        )
    sizes = {
        "memory of the parameters": of_params,
        "of their gradient": of_params,
        "of the state of the optimizer": of_optimizer,
        "of what a forward pass of one batch keeps for the backward pass": kept,
    }
    rows += [(name, size / 2**20, "MiB") for name, size in sizes.items() if size is not None]
    draft.results["cost"] = {"parameters": facts.parameters, "steps": steps, "bytes": sizes}
    draft.section("What it cost", Table("Size, time and memory of a step.", ("", "value", "unit"), tuple(rows)))


def _activation_bytes(facts: Facts) -> int | None:
    """What the forward pass of one batch keeps, each array once; None where the shape of an example is not known."""
    saved, batch = facts.saved, facts.training.get("batch_size")
    if not batch:
        return None
    dtype = jnp.int32 if saved.net.takes_integers else jnp.float32
    X = jax.tree.map(lambda own: jax.ShapeDtypeStruct((batch, *own), dtype), saved.shape, is_leaf=is_shape)
    compute = facts.training.get("compute")
    total = 0

    def forward(params: Any, X: Any) -> Any:
        nonlocal total
        if compute is not None:
            params, X = cast((params, X), compute)
        own = {id(x) for x in jax.tree.leaves(params)}
        out, cache = saved.net.forward(params, X)
        distinct = {id(x): x for x in jax.tree.leaves(cache) if id(x) not in own}
        total = sum(x.size * x.dtype.itemsize for x in distinct.values())
        return out

    jax.eval_shape(forward, saved.params, X)
    return total
