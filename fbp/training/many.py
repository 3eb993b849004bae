"""Many runs in one program: seeds and learning rates side by side, in the compiled loop that trains a single one."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from os import PathLike
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp.backprop import Only
from fbp.calibration import freeze_statistics
from fbp.errors import FbpError
from fbp.interrupts import postpone_interruptions
from fbp.losses import Loss
from fbp.training.checkpoints import Progress
from fbp.training.counting import average_steps, close_epoch
from fbp.training.evaluation import Evaluation, evaluate_batches
from fbp.training.feed import Block, Together
from fbp.training.fit import Limits, Training, check_length
from fbp.training.fitted_many import EpochOfRuns, FittedMany
from fbp.training.history import History
from fbp.training.inputs import Data, Held, HeldOut, check_statistics, for_use, prepare_validation
from fbp.training.loop import Taken
from fbp.training.many_inputs import (
    ByRate,
    carry_rate,
    initial_states,
    prepare_feeds,
    read_rates,
    read_seeds,
    stack_params,
)
from fbp.training.monitor import Detail, Monitor
from fbp.training.results import Moment
from fbp.training.run import Run
from fbp.training.step import Gradient, Method, Rule, State
from fbp.typing import Key, Layer, Params

OnEpoch: TypeAlias = Callable[[EpochOfRuns, State], object]
"""Called after every epoch; training stops if it returns True."""


def fit_many(
    net: Layer,
    loss: Loss,
    params: Callable[[Key], Params] | Params,
    data: Data,
    *,
    optimizer: optax.GradientTransformation | ByRate,
    seeds: int | Sequence[int],
    learning_rates: Sequence[float] | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    validation: Held | None = None,
    validation_split: float = 0.0,
    on_epoch: OnEpoch | None = None,
    on_steps: Callable[[Moment], object] | None = None,
    out: str | PathLike[str] | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    gradient: Gradient | Rule = "manual",
    trained: Only = None,
    compute: str | None = None,
    clip_examples: float | None = None,
    monitor: Detail = "off",
) -> FittedMany:
    """Train a network from many seeds, and at many learning rates, all at once by `jax.vmap`.

    Each run is that of `fit` with its seed: the same initial parameters, split, orders and dropout. Batches of products
    of matrices are rounded in another way than single products, so that its figures are the same to rounding, not bit
    for bit. A run that diverges goes on with infinities and NaN and disturbs no other: its history says so.

    Args:
        net: a network.
        loss: a loss of its output.
        params: where training starts: a function of a key, called with `jax.random.key(seed)` under `jit`, such as
            `lambda key: net.init(key)[0]`; or parameters with a leading axis of seeds.
        data: (X, Y) or a `fbp.data.Dataset`, as for `fit`; the arrays must fit on the device, where all runs read them.
        optimizer: an optax gradient transformation, which keeps a state for each run; with `learning_rates` a function
            of the rate, e.g. `optax.adam` or `lambda rate: fbp.training.optimizer("adam", rate, clip_norm=1.0)`.
        seeds: of the runs; n stands for 0, ..., n - 1.
        learning_rates: each is trained from every seed; None where the optimizer has its own.
        epochs: passes over the data.
        batch_size: the number of examples per step of each run.
        validation: (X, Y) to evaluate after every epoch.
        validation_split: in place of it, the fraction of the data to hold out, which are others for each seed.
        on_epoch: called as on_epoch(records, state) after every epoch, with an `EpochOfRuns`, the record of each run,
            and the state of all; training stops if it returns True.
        on_steps: called after every chunk of steps, with means over the runs that are finite.
        out: a folder for the weights and histories of all runs, written at the end and at Ctrl-C (see `fbp.load`). It
            holds no checkpoints: many runs cannot be resumed.
        steps: the number of steps in all, as another end than epochs.
        max_seconds: stop after so much training time.
        gradient: as for `fit`, without "both".
        trained: as for `fit`.
        compute: as for `fit`.
        clip_examples: as for `fit`.
        monitor: as for `fit`.

    Returns:
        A `FittedMany`.

    Raises:
        FbpError: an argument does not fit the others, a value is not finite, or a label is out of range.

    Example:
        >>> import optax
        >>> net = fbp.mlp((784, 32, 10))
        >>> digits = fbp.data.load()
        >>> part = digits.train_X[:1000], digits.train_Y[:1000]
        >>> many = fbp.training.fit_many(
        ...     net, fbp.SoftmaxCrossEntropy(), lambda key: net.init(key)[0], part,
        ...     optimizer=optax.adam, seeds=3, learning_rates=(0.003, 0.0003), epochs=2,
        ... )
        >>> many.values("loss").shape, many.mean("loss").shape  # (rates, seeds, epochs), (rates, epochs)
        ((2, 3, 2), (2, 2))
        >>> bool(many.mean("loss")[0, -1] < many.mean("loss")[1, -1])
        True
    """
    limits = Limits(epochs, steps, None, None, max_seconds)
    own_seeds = read_seeds(seeds)
    rates = None if learning_rates is None else read_rates(learning_rates, optimizer)
    if gradient == "both":
        raise FbpError(
            "gradient must be 'manual', 'autodiff' or a rule for many runs, got 'both'; compare one with fit"
        )
    if callable(optimizer):
        if rates is None:
            raise FbpError("a function of the learning rate must come with learning_rates, got none; give some")
        optimizer = carry_rate(optimizer)
    method = Method(net, loss, optimizer, gradient, trained, compute, clip_examples)
    watched = Monitor.named(monitor)
    stacked = stack_params(params, own_seeds)
    one = jax.tree.map(lambda x: x[0], stacked)
    feed, held_out = prepare_feeds(method, one, data, validation_split, batch_size, own_seeds)
    check_length(epochs, feed)
    held = prepare_validation(method, one, validation, held_out)
    if held is not None or out is not None:
        check_statistics(method, one, feed)
    copies = 1 if rates is None else len(rates)
    state = initial_states(method, stacked, own_seeds, rates)
    with nullcontext() if out is None else Run.open(out, method, feed, own_seeds, resume=False) as run:
        together = Together(feed.feeds * copies)
        held = None if held is None else held.repeat(copies)
        training = _Many(method, watched, together, held, limits, on_epoch, on_steps, state, own_seeds, rates)
        return training.finish_all(run)


class _Many(Training):
    """A training of several runs under way: the first one's progress is the clock of all."""

    def __init__(
        self,
        method: Method,
        monitor: Monitor | None,
        feed: Together,
        held: HeldOut | None,
        limits: Limits,
        on_epoch: OnEpoch | None,
        on_steps: Callable[[Moment], object] | None,
        state: State,
        seeds: tuple[int, ...],
        rates: tuple[float, ...] | None,
    ):
        super().__init__(method, monitor, feed, held, limits, (), on_steps, None, state)
        self.feeds, self.on_epoch, self.seeds, self.rates = feed.feeds, on_epoch, seeds, rates
        self.each = [self.progress, *(Progress() for _ in feed.feeds[1:])]

    def finish_all(self, run: Run | None) -> FittedMany:
        """Train to the end, and keep the results; what Ctrl-C leaves, too."""
        try:
            stopped = self.train()
        except KeyboardInterrupt as error:
            if run is None:
                raise
            with postpone_interruptions():
                run.finish_many(*self._all_for_use(), self._result("interrupted"))
            where = f"epoch {self.progress.epoch}"
            raise KeyboardInterrupt(f"saved as they were in {where}; many runs do not go on") from error
        fitted = self._result(stopped)
        if run is not None:
            with postpone_interruptions():
                run.finish_many(*self._all_for_use(), fitted)
        return fitted

    def _result(self, stopped: str) -> FittedMany:
        histories = tuple(History(tuple(own.history)) for own in self.each)
        return FittedMany(self.state.params, histories, self.state, stopped, self.seeds, self.rates)

    def _ask_callbacks(self) -> bool:
        records = EpochOfRuns(tuple(own.history[-1] for own in self.each), self.rates)
        return self.on_epoch is not None and self.on_epoch(records, self.state) is True

    def _check(self, block: Block, first: int, taken: Taken) -> None:
        """Infinities and NaN are for the histories to tell."""

    def _divide(self, taken: Taken) -> list[tuple[Progress, Taken]]:
        measured = taken.metrics, taken.readings
        each = []
        for run, own in enumerate(self.each):
            metrics, readings = jax.tree.map(partial(np.take, indices=run, axis=1), measured)
            each.append((own, Taken(metrics, readings, taken.finite[run])))
        return each

    def _means(self) -> tuple[float, float | None]:
        found = [average_steps(own, self.method.loss) for own in self.each]
        finite = [pair for pair in found if np.isfinite(pair[0])] or found
        losses, accuracies = zip(*finite, strict=True)
        return float(np.mean(losses)), None if None in accuracies else float(np.mean(accuracies))

    def _end_epoch(self) -> None:
        for own, held in zip(self.each, self._evaluate(), strict=True):
            close_epoch(own, self.method.loss, self.feed, held)

    def _evaluate(self) -> list[Evaluation | None]:
        if self.held_out is None:
            return [None] * len(self.each)
        net, params = self._all_for_use()
        return list(evaluate_batches(net, self.method.loss, params, self.held_out, several=True))

    def _all_for_use(self) -> tuple[Layer, Params]:
        """The network without batches in its statistics, and the parameters of all runs for it."""
        if freeze_statistics(self.method.net) == self.method.net:
            return self.method.net, self.state.params
        nets, params = zip(*(self._one_for_use(run) for run in range(len(self.each))), strict=True)
        return nets[0], jax.tree.map(lambda *x: jnp.stack(x), *params)

    def _one_for_use(self, run: int) -> tuple[Layer, Params]:
        feed, net = self.feeds[run], self.method.net
        params = jax.tree.map(lambda x: x[run], self.state.params)
        return for_use(net, params, feed.inputs, feed.batch_size)
