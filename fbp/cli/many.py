"""`fbp train --seeds 8 --learning-rates 0.1,0.01`: many runs at once, with mean and spread."""

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbp.cli.rule import make_rule
from fbp.cli.subject import Subject
from fbp.config import Integer, NetworkConfig, TrainingConfig
from fbp.errors import SEEDS, FbpError, Status, check_count
from fbp.run_folder import CONFIG
from fbp.serialize import to_json_line
from fbp.streams import print_result

if TYPE_CHECKING:
    from fbp.training import FittedMany, Shown
    from fbp.typing import Params


@dataclass(frozen=True)
class ManyConfig:
    """Many runs at once, as the command line names them."""

    seeds: Integer | None = None
    """Train so many networks at once, from the seeds --seed, --seed + 1, ..., and give mean and spread."""
    learning_rates: str | None = None
    """Learning rates with commas between them, which are all trained at once, in place of --learning-rate."""

    @property
    def is_asked(self) -> bool:
        """Whether there are many runs."""
        return self.seeds is not None or self.learning_rates is not None

    @property
    def count(self) -> int:
        """How many runs there are."""
        return (self.seeds or 1) * len(self.rates() or [1])

    def rates(self) -> list[float] | None:
        """The learning rates; None without.

        Raises:
            FbpError: they are no numbers.
        """
        if self.learning_rates is None:
            return None
        try:
            return [float(word) for word in self.learning_rates.split(",")]
        except ValueError:
            raise FbpError(
                f"--learning-rates must be numbers with commas between them, got {self.learning_rates!r}; "
                "use 0.1,0.01,0.001"
            ) from None

    def check(self, training: TrainingConfig, seed: int, resume: Path | None) -> None:
        """Refuse what many runs cannot do.

        Args:
            training: how each is trained.
            seed: the first one.
            resume: the folder of a run to go on with.

        Raises:
            FbpError: something asks for it.
        """
        if not self.is_asked:
            return
        if self.seeds is not None:
            check_count("--seeds", self.seeds)
            if seed + self.seeds > SEEDS:
                raise FbpError(f"--seed and --seeds must stay below {SEEDS}, got {seed} and {self.seeds}; use fewer")
        self.rates()
        if resume is not None:
            raise FbpError(
                f"many runs must be trained in one go, got --resume {resume}; begin anew in another folder with "
                f"--config {resume / CONFIG}"
            )
        if training.gradient == "both":
            raise FbpError("--gradient must be manual or autodiff with many runs, got both; compare in a single run")
        for name in ("patience", "target_loss"):
            if getattr(training, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise FbpError(f"{option} must be left out with many runs, got it; they all take as many steps")


def train_many(
    many: ManyConfig,
    subject: Subject,
    mlp: NetworkConfig | None,
    seed: int,
    folder: Path,
    shown: "Shown",
) -> "FittedMany":
    """Train the runs and keep them in a folder.

    Args:
        many: which runs.
        subject: the network and the data.
        mlp: its options, where it is a multilayer perceptron.
        seed: the first one.
        folder: to keep them in.
        shown: how the training is shown.

    Raises:
        FbpError: something does not fit.
    """
    from fbp.training import fit_many

    seeds, rates = range(seed, seed + (many.seeds or 1)), many.rates()
    training = subject.training
    options = training.options()
    for name in ("patience", "target_loss"):
        del options[name]
    rule: Any = partial(make_rule, training, len(subject.Y))
    return fit_many(
        subject.net,
        subject.loss,
        _initialize(subject, mlp, seeds),
        (subject.X, subject.Y),
        optimizer=rule() if rates is None else rule,
        seeds=seeds,
        learning_rates=rates,
        validation=subject.validation,
        on_epoch=shown.on_epoch,
        on_steps=shown.on_steps,
        out=folder,
        **options,
    )


def warn_of_loss(folder: Path, is_quiet: bool) -> None:
    """Say, before many runs begin, when they are saved."""
    if not is_quiet:
        print(f"many runs are saved in {folder} at the end and at Ctrl-C, and cannot be resumed", file=sys.stderr)


def print_tests(fitted: "FittedMany", subject: Subject, folder: Path, as_json: bool) -> int:
    """Print the test figures of each run, their mean and their spread.

    Args:
        fitted: the runs.
        subject: with the test data.
        folder: where the runs are kept.
        as_json: print a line of JSON.

    Returns:
        An exit status: that of a training that diverged if every run did.
    """
    from fbp.training import evaluate, open_run

    tested = []
    for run in range(len(fitted)):
        saved = open_run(folder, run=run)
        tested.append(evaluate(saved.net, subject.loss, saved.params, subject.test_X, subject.test_Y))
    status = Status.DIVERGED if len(fitted.diverged) == len(fitted) else Status.DONE
    if as_json:
        runs = [label | one._asdict() for label, one in zip(fitted.labels, tested, strict=True)]
        print_result(to_json_line({"tests": runs, "diverged": fitted.diverged, "run": str(folder)}))
        return status
    seeds = len(fitted.seeds)
    for first in range(0, len(fitted), seeds):
        own = list(zip(fitted.labels, tested, strict=True))[first : first + seeds]
        rate = f"rate {own[0][0]['learning_rate']:g}  " if fitted.learning_rates is not None else ""
        for label, one in own:
            print_result(f"run {label['run']}  {rate}seed {label['seed']}  {_describe_test([one])}")
        print_result(f"{rate}all seeds  {_describe_test([one for _, one in own])}")
    lost = f"; {len(fitted.diverged)} of {len(fitted)} runs diverged" if fitted.diverged else ""
    print_result(f"saved in {folder}: fbp evaluate {folder} --run 0{lost}")
    return status


def _describe_test(tested: list[Any]) -> str:
    from fbp.training.fitted_many import format_spread

    tested = [one for one in tested if math.isfinite(one.loss)] or tested[:1]
    loss = f"test loss {format_spread([one.loss for one in tested], is_fraction=False)}"
    if tested[0].accuracy is None:
        return loss
    return f"{loss}  accuracy {format_spread([one.accuracy for one in tested], is_fraction=True)}"


def _initialize(subject: Subject, mlp: NetworkConfig | None, seeds: range) -> "Params":
    """Initial parameters: a function of the key, or where data decide them those of each seed."""
    import jax

    net: Any = subject.net
    if mlp is None or mlp.init != "lsuv":
        return lambda key: net.init(key)[0]
    from fbp.data import scale

    X = jax.numpy.asarray(scale(subject.data.train_X[:1000]))
    each = [replace(mlp, seed=seed).parameters(X) for seed in seeds]
    return jax.tree.map(lambda *x: jax.numpy.stack(x), each[0], *each[1:])
