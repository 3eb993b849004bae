"""A network of tokens on its test data: nats, perplexity, a text of its own, and what surprised it most."""

from functools import partial
from typing import Any

import jax
import numpy as np

from fbp.data import decode
from fbp.report import Figure, Listing, Table, interval, number, shaded_text
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts
from fbp.studies.runs.intervals import Z95, percent_interval
from fbp.training import Items, sample

DRAWN, LEAST = 400, 100
"""Tokens of the sample, where they are cheap and where they are not."""
OPERATIONS = 4e10
"""For the sample, about a second."""
PROMPT = 32
WINDOWS, CHARACTERS = 4, 512
"""Of the worst windows that are shown."""
LISTED = 12


def add_sequences(draft: Draft, facts: Facts, X: np.ndarray, Y: np.ndarray, items: Items) -> None:
    """Add how well the next tokens are predicted.

    Args:
        draft: the page.
        facts: of the run.
        X: the tokens, (m, T).
        Y: the tokens that follow each of them, (m, T).
        items: what the network makes of them.
    """
    is_text = not facts.data.get("shape") and facts.class_names is not None
    token = "character" if is_text else "token"
    losses = items.losses.astype(float)
    right = items.predicted == Y
    mean, of_windows = float(losses.mean()), losses.mean(axis=1)
    half = Z95 * float(of_windows.std(ddof=1)) / len(Y) ** 0.5 if len(Y) > 1 else float("nan")
    by_frequency = _entropy(Y)
    low, high = np.exp(mean - half), np.exp(mean + half)
    draft.results["test"] = {
        "examples": len(Y), "loss": mean, "half_interval": half, "perplexity": float(np.exp(mean)),
        "accuracy": float(right.mean()), "entropy_of_frequencies": by_frequency,
    }  # fmt: skip
    units = "windows" if is_text else "sequences"
    perplexity = f"{number(float(np.exp(mean)), 3, True)} ({interval(float(low), float(high), 3)})"
    draft.findings.append(
        f"It predicts the next {token} of {Y.size:,} in the test data at **{number(mean, 3, True)} nats**, "
        f"± {number(half, 2)} (95 % interval over {len(Y):,} {units}), a perplexity of {perplexity}: it is as unsure "
        f"as among so many equally likely {token}s. The likeliest {token} is the right one in {right.mean():.1%}."
    )
    if by_frequency > 0:
        difference = f"{number(abs(1 - mean / by_frequency) * 100, 2)}% {'less' if mean < by_frequency else 'more'}"
        draft.findings.append(
            f"That is {difference} than the {number(by_frequency, 3, True)} nats of guessing by the frequencies of the "
            f"{token}s alone."
        )
    summary = Table(
        f"The loss of a {token}.",
        ("", "nats", "bits", "perplexity"),
        tuple(
            (name, value, value / np.log(2), float(np.exp(value)))
            for name, value in (
                ("network", mean),
                ("guessing by frequency", by_frequency),
                ("guessing blindly", np.log(_size(facts, Y))),
            )
        ),
    )
    blocks: list[Any] = [summary]
    if not is_text and Y.shape[1] <= LISTED:
        blocks.append(_position_table(losses, right))
    draft.section("Right and wrong", *blocks)
    if is_text:
        draft.section("A text of its own", _draw(draft, facts, X))
    draft.section("The worst windows" if is_text else "The worst sequences", _worst(facts, X, Y, items, is_text))


def _size(facts: Facts, Y: np.ndarray) -> int:
    return int(facts.data.get("vocabulary") or Y.max() + 1)


def _entropy(Y: np.ndarray) -> float:
    """Of the frequencies of tokens, in nats."""
    p = np.bincount(Y.reshape(-1)) / Y.size
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])))


def _position_table(losses: np.ndarray, right: np.ndarray) -> Table:
    m, T = losses.shape
    return Table(
        "The positions of a sequence, with 95 % intervals (Wilson) of the share that is predicted right.",
        ("position", "loss (nats)", "right", "of", "95 % interval"),
        tuple(
            (t + 1, float(losses[:, t].mean()), int(right[:, t].sum()), m, percent_interval(int(right[:, t].sum()), m))
            for t in range(T)
        ),
    )


def _draw(draft: Draft, facts: Facts, X: np.ndarray) -> Listing:
    names = facts.class_names or ()
    length = X.shape[1]
    prompt = X[0, : min(PROMPT, length)]
    affordable = int(OPERATIONS / max(2 * facts.parameters * length, 1))
    count = min(DRAWN, max(LEAST, affordable))
    net, params = facts.saved.net, facts.saved.params
    drawn = sample(net, params, prompt, count, jax.random.key(0), length=length)
    text = decode(drawn, names)
    draft.results["sample"] = {"prompt": decode(prompt, names), "text": text}
    caption = (
        f"The first {len(prompt)} characters are those of the test text, the {count} behind them are the network's, "
        "each drawn from its distribution (temperature 1)."
    )
    return Listing(caption, decode(prompt, names) + text)


def _worst(facts: Facts, X: np.ndarray, Y: np.ndarray, items: Items, is_text: bool) -> Figure | Table:
    m, T = Y.shape
    of_windows = items.losses.mean(axis=1)
    order = np.argsort(-of_windows, kind="stable")
    if is_text:
        order = order[: max(1, min(WINDOWS, CHARACTERS // T))]
        names = facts.class_names or ()
        lines = [
            (
                f"window {i + 1:,}: {number(float(of_windows[i]), 3)} nats a character",
                decode(Y[i, :CHARACTERS], names),
                items.losses[i, :CHARACTERS],
            )
            for i in order
        ]
        caption = (
            f"The {len(order)} of {m:,} windows of the test text with the largest losses; the darker a character, the "
            "more it surprised the network."
        )
        return Figure("worst", caption, partial(shaded_text, lines, "loss (nats)"))
    names = facts.class_names or tuple(map(str, range(int(max(X.max(), Y.max())) + 1)))
    shown = lambda tokens: " ".join(names[t] for t in tokens[:LISTED])
    predicted = np.asarray(items.predicted)
    rows = tuple((shown(X[i]), shown(Y[i]), shown(predicted[i]), float(of_windows[i])) for i in order[:LISTED])
    return Table(
        f"The {len(rows)} of {m:,} test sequences with the largest losses.",
        ("tokens", "to be followed by", "predicted", "loss (nats)"),
        rows,
    )
