"""Training: compiled chunks of steps, epochs, validation, and an end that loses nothing."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from os import PathLike
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from fbp.backprop import Only
from fbp.errors import FbpError, check_count, check_seed
from fbp.interrupts import postpone_interruptions
from fbp.losses import Loss
from fbp.training.checkpoints import Progress
from fbp.training.counting import average_steps, close_epoch, count_steps
from fbp.training.evaluation import Evaluation, evaluate_batches
from fbp.training.failure import Diverged, check_steps
from fbp.training.feed import Block, Feed
from fbp.training.history import Epoch, History
from fbp.training.inputs import (
    Data,
    Held,
    HeldOut,
    as_array,
    check_statistics,
    for_use,
    prepare_feed,
    prepare_validation,
)
from fbp.training.loop import Taken, run_steps
from fbp.training.monitor import Detail, Monitor
from fbp.training.results import Fitted, Moment
from fbp.training.run import Run
from fbp.training.step import Gradient, Method, Rule, State, initial_state
from fbp.typing import Layer, Params

CHUNK_SECONDS = 0.3
"""About the time of one compiled call, after which Ctrl-C, time limits and checkpoints are seen to."""
MOST_STEPS = 2**31 - 1
"""They are counted in int32."""

Callback: TypeAlias = Callable[[Epoch, State], object]
"""Called after every epoch; training stops if it returns True."""


@dataclass(frozen=True)
class Limits:
    """When training ends: at whichever comes first.

    Attributes:
        epochs: passes over the data.
        steps: steps in all.
        target_loss: after the first epoch whose validation loss (or, without validation, training loss) is this small.
        patience: after so many epochs without a smaller one; the parameters of the best epoch are then the result.
        max_seconds: after the step that begins before so much training time.

    Raises:
        FbpError: a limit is not a number of its kind, or there is none.
    """

    epochs: int | None = None
    steps: int | None = None
    target_loss: float | None = None
    patience: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("target_loss", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise FbpError(f"{name} must be a positive number, got {value!r}; leave it out for no such limit")
        if self.epochs is None and self.steps is None and self.max_seconds is None:
            raise FbpError("training must have an end, got no epochs, no steps and no max_seconds; give epochs=10")


def fit(
    net: Layer,
    loss: Loss,
    params: Params,
    data: Data,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    validation: Held | None = None,
    validation_split: float = 0.0,
    callbacks: Sequence[Callback] = (),
    on_steps: Callable[[Moment], object] | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    steps: int | None = None,
    target_loss: float | None = None,
    patience: int | None = None,
    max_seconds: float | None = None,
    gradient: Gradient | Rule = "manual",
    trained: Only = None,
    compute: str | None = None,
    clip_examples: float | None = None,
    monitor: Detail = "off",
    steps_per_epoch: int | None = None,
) -> Fitted:
    """Train a network: every epoch uses all examples once, in a new order.

    Steps run in compiled chunks of about a third of a second on data that stay on the device, or, where data are large,
    are read from the disk one block ahead. Where a chunk ends changes no bit of the result. The last batch of an epoch
    is filled up with examples of weight 0. Validation uses the population statistics of batch normalization, and no
    dropout. Ctrl-C ends the running chunk, saves it where `out` is given, and is raised.

    Args:
        net: a network.
        loss: a loss of its output.
        params: where training starts; they are not changed.
        data: (X, Y), with X (m, ...) in any float dtype, or uint8 pixels, which are divided by 255; a
            `fbp.data.Dataset`, of which the training part is used; or a function of the epoch that returns an iterable
            of batches (X, Y), with `steps_per_epoch`.
        optimizer: an optax gradient transformation, e.g. `optax.adam(1e-3)` or `fbp.training.optimizer(...)`.
        epochs: passes over the data.
        batch_size: the number of examples per step, at least 1; at most m are used.
        seed: fixes the orders, the split and dropout: the same seed gives the same result, bit for bit on one machine.
        validation: (X, Y) to evaluate after every epoch.
        validation_split: in place of it, the fraction of the data to hold out, in [0, 1).
        callbacks: each called as callback(epoch, state) after every epoch; training stops if one returns True.
        on_steps: called after every chunk of steps, e.g. for a progress bar.
        out: a folder for checkpoints, weights and history (see `fbp.load`); None keeps nothing on the disk.
        resume: go on with the run in `out`, with the bits of a run that was never stopped; begin it if there is none.
        steps: the number of steps in all, as another end than epochs.
        target_loss: stop after the first epoch whose validation loss (or, without validation, loss) is this small.
        patience: stop after so many epochs without a smaller one, and return the parameters of the best epoch.
        max_seconds: stop after so much training time.
        gradient: "manual" for the hand-written backward pass, "autodiff", or "both", which compares them in every step
            and stops where they disagree; or a rule of your own, a function (net, loss, params, X, Y, weights, key) ->
            (value, Z, d_params), as in `Method`.
        trained: the parameters that are trained, by patterns of their names such as "blocks.*", or a function of the
            name; None for all.
        compute: the dtype of the forward and backward pass, e.g. "bfloat16", for parameters that stay in theirs.
        clip_examples: the largest norm of each example's own gradient.
        monitor: "off"; "economy", gradient norms and update ratios; "full", dead units and the gradient noise scale,
            too. It changes no bit of the result.
        steps_per_epoch: for a function of batches, how many of them are an epoch.

    Returns:
        A `Fitted`.

    Raises:
        FbpError: an argument does not fit the others, a value is not finite, or a label is out of range.
        Diverged: the loss or a parameter became infinite or NaN; it says in which step and layer, and carries the last
            finite parameters.
        Disagreed: the two gradients of gradient="both" are not the same.

    Example:
        >>> import optax
        >>> net = fbp.mlp((784, 32, 10))
        >>> params, _ = net.init(jax.random.key(0))
        >>> digits = fbp.data.load()
        >>> part = digits.train_X[:1000], digits.train_Y[:1000]
        >>> fitted = fbp.fit(net, fbp.SoftmaxCrossEntropy(), params, part, optimizer=optax.adam(0.003), epochs=3)
        >>> fitted.history[-1].accuracy > 0.85
        True
    """
    limits = Limits(epochs, steps, target_loss, patience, max_seconds)
    check_seed(seed)
    method = Method(net, loss, optimizer, gradient, trained, compute, clip_examples)
    watched = Monitor.named(monitor)
    params = jax.tree.map(lambda x: jax.device_put(as_array(x)), params)
    feed, held_out = prepare_feed(
        method, params, data, validation_split, batch_size=batch_size, seed=seed, steps_per_epoch=steps_per_epoch
    )
    check_length(epochs, feed)
    held_out = prepare_validation(method, params, validation, held_out)
    if held_out is not None or out is not None:
        check_statistics(method, params, feed)
    # One compiled program: operation by operation it would be dozens.
    begin = jax.jit(lambda params, seed: initial_state(params, optimizer, jax.random.key(seed), method.trained))
    state = begin(params, jnp.uint32(seed))
    with nullcontext() if out is None else Run.open(out, method, feed, seed, resume) as run:
        return Training(method, watched, feed, held_out, limits, tuple(callbacks), on_steps, run, state).finish()


def check_length(epochs: int | None, feed: Feed) -> None:
    """Refuse more steps than can be counted.

    Raises:
        FbpError: there are.
    """
    if epochs is not None and epochs * feed.steps >= MOST_STEPS:
        raise FbpError(f"epochs must be of fewer than {MOST_STEPS} steps in all, got {epochs * feed.steps}; use fewer")


class Training:
    """A training under way: what `fit` changes while it runs."""

    def __init__(
        self,
        method: Method,
        monitor: Monitor | None,
        feed: Feed,
        held_out: HeldOut | None,
        limits: Limits,
        callbacks: tuple[Callback, ...],
        on_steps: Callable[[Moment], object] | None,
        run: Run | None,
        state: State,
    ):
        self.method, self.monitor, self.feed, self.held_out = method, monitor, feed, held_out
        self.limits, self.callbacks, self.on_steps, self.run = limits, callbacks, on_steps, run
        self.state, self.progress = state, Progress()
        self.chunk, self.is_compiled = 1, False
        if run is not None and (found := run.load(state)) is not None:
            self.state, self.progress = found

    def train(self) -> str:
        """Train to the end, and say why it ended."""
        try:
            while (stopped := self._reason()) is None:
                self._run_epoch()
            self.progress.stopped = stopped
        except BaseException as error:
            self._save_after(error)
            raise
        return stopped

    def finish(self) -> Fitted:
        """Train to the end, and keep the result."""
        stopped = self.train()
        progress = self.progress
        best = progress.best_params if self.limits.patience is not None else None
        fitted = Fitted(
            self.state.params if best is None else best, History(tuple(progress.history)), self.state, stopped
        )
        if self.run is not None:
            with postpone_interruptions():
                self.run.save(self.state, progress)
                self.run.finish(*self._for_use(fitted.params), fitted.history, stopped)
        return fitted

    def _save_after(self, error: BaseException) -> None:
        """Keep what was trained before something ended it."""
        if isinstance(error, Diverged):
            history = History(tuple(self.progress.history))
            error.fitted = Fitted(error.state.params, history, error.state, "diverged")
        if self.run is None:
            return
        with postpone_interruptions(), suppress(FbpError):
            self.run.save(self.state, self.progress)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(self.run.describe(self.progress)) from error

    def _reason(self) -> str | None:
        """Why training ends before the next step; None if it does not."""
        progress, limits = self.progress, self.limits
        last = progress.history[-1] if progress.history else None
        is_between = progress.taken == 0
        if limits.epochs is not None and progress.epoch > limits.epochs:
            return "epochs"
        if limits.steps is not None and self.steps_taken >= limits.steps:
            return "steps"
        if limits.max_seconds is not None and progress.total_seconds >= limits.max_seconds:
            return "max_seconds"
        if last is None or not is_between:
            return None
        if limits.target_loss is not None and last.watched_loss <= limits.target_loss:
            return "target_loss"
        if limits.patience is not None and progress.waited >= limits.patience:
            return "patience"
        return progress.stopped

    @property
    def steps_taken(self) -> int:
        """In all epochs."""
        return (self.progress.epoch - 1) * self.feed.steps + self.progress.taken

    def _run_epoch(self) -> None:
        progress, feed = self.progress, self.feed
        start = progress.taken
        for block in feed.blocks(progress.epoch, start):
            if not self.is_compiled:
                # No step at all compiles the program, so that the time of the first epoch is comparable to the others.
                run_steps(self.method, self.monitor, self.state, block, 0, 0)
                self.is_compiled = True
            first, length = 0, len(block.counts)
            while first < length:
                if self._reason() is not None:
                    return
                first += self._run_chunk(block, first, min(length - first, self._room()))
        with postpone_interruptions():
            self._end_epoch()
        if self._ask_callbacks():
            progress.stopped = "callback"
        if self.run is not None:
            self.run.save_if_due(self.state, progress)

    def _ask_callbacks(self) -> bool:
        """Whether one of them stops the training."""
        answers = [callback(self.progress.history[-1], self.state) for callback in self.callbacks]
        return any(answer is True for answer in answers)

    def _room(self) -> int:
        """The number of steps for the next chunk."""
        left = self.chunk
        return left if self.limits.steps is None else min(left, self.limits.steps - self.steps_taken)

    def _run_chunk(self, block: Block, first: int, count: int) -> int:
        progress = self.progress
        with postpone_interruptions():
            start = time.perf_counter()
            state, taken = run_steps(self.method, self.monitor, self.state, block, first, count)
            seconds = time.perf_counter() - start
            self._check(block, first, taken)
            self.state = state
            for own, part in self._divide(taken):
                count_steps(own, self.method.net, part, seconds)
            # A chunk grows slowly: the first ones are too short for their time to mean much.
            self.chunk = max(1, min(4 * count, int(CHUNK_SECONDS / max(seconds / count, 1e-9))))
            if self.run is not None:
                self.run.save_if_due(self.state, progress)
        if self.on_steps is not None:
            rate = math.fsum(progress.examples) / max(progress.seconds, 1e-9)
            self.on_steps(Moment(progress.epoch, progress.taken, self.feed.steps, *self._means(), rate))
        return count

    def _check(self, block: Block, first: int, taken: Taken) -> None:
        """Refuse steps that went wrong."""
        count = len(taken.metrics.loss)
        check_steps(self.method, self.state, block, first, count, taken, self.steps_taken, self.run)

    def _divide(self, taken: Taken) -> list[tuple[Progress, Taken]]:
        """What was measured, and where it is counted."""
        return [(self.progress, taken)]

    def _means(self) -> tuple[float, float | None]:
        """The loss and the accuracy so far in the running epoch."""
        return average_steps(self.progress, self.method.loss)

    def _end_epoch(self) -> None:
        progress = self.progress
        close_epoch(progress, self.method.loss, self.feed, self._validate())
        if self.limits.patience is not None and progress.waited == 0:
            progress.best_params = self.state.params

    def _validate(self) -> Evaluation | None:
        if self.held_out is None:
            return None
        net, params = self._for_use(self.state.params)
        [found] = evaluate_batches(net, self.method.loss, params, self.held_out)
        return found

    def _for_use(self, params: Params) -> tuple[Layer, Params]:
        """The network without batches in its statistics."""
        return for_use(self.method.net, params, self.feed.inputs, self.feed.batch_size)
