"""A network of numbers on its test data: the error of each output, and the worst examples."""

import numpy as np

from fbp.report import Table, number
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts
from fbp.studies.runs.intervals import Z95
from fbp.training import Items

LISTED = 12
"""Outputs and examples that are listed at most."""


def add_outputs(draft: Draft, facts: Facts, Y: np.ndarray, items: Items) -> None:
    """Add how far the outputs are from their targets.

    Args:
        draft: the page.
        facts: of the run.
        Y: the targets.
        items: what the network makes of the test data.
    """
    m, losses = len(Y), items.losses.reshape(len(Y), -1).mean(axis=1)
    mean = float(losses.mean())
    half = Z95 * float(losses.std(ddof=1)) / m**0.5 if m > 1 else float("nan")
    draft.results["test"] = {"examples": m, "loss": mean, "half_interval": half}
    draft.findings.append(
        f"The mean loss of the {m:,} test examples is **{number(mean, 3)}**, ± {number(half, 2)} (95 % interval)."
    )
    worst = np.argsort(-losses, kind="stable")[:LISTED]
    listed = Table(
        f"The {len(worst)} of {m:,} test examples with the largest losses; rows count from 0. The largest is "
        f"{number(float(losses[worst[0]] / mean), 2) if mean else 1} times the mean.",
        ("row", "loss"),
        tuple((int(i), float(losses[i])) for i in worst),
    )
    A = items.outputs
    if A is None or A.shape != Y.shape:
        draft.section("Right and wrong", listed)
        return
    target, said = (x.reshape(m, -1).astype(float) for x in (Y, A))
    error = np.sqrt(np.mean(np.square(said - target), axis=0))
    spread = target.std(axis=0)
    explained = 1 - np.square(error) / np.where(spread > 0, np.square(spread), np.nan)
    order = np.argsort(-error, kind="stable")[:LISTED] if len(error) > LISTED else np.arange(len(error))
    which = f"The {LISTED} of {len(error)} outputs with the largest errors." if len(error) > LISTED else "Each output."
    draft.results["test"]["r2"] = explained
    if len(error) == 1 and np.isfinite(explained[0]):
        draft.findings.append(
            f"It explains {explained[0]:.1%} of the variance of the targets ($R^2$); a root mean square error of "
            f"{number(float(error[0]), 3)} against a standard deviation of {number(float(spread[0]), 3)}."
        )
    table = Table(
        f"{which} $R^2$ is the part of the targets' variance that the network explains; 0 is no better than "
        "always naming their mean.",
        ("output", "root mean square error", "standard deviation of the targets", "$R^2$"),
        tuple((int(i), float(error[i]), float(spread[i]), float(explained[i])) for i in order),
    )
    draft.section("Right and wrong", table, listed)
