"""A classifier on its test data: the confusion matrix, the errors of each class, the worst examples."""

import math
from functools import partial
from typing import Any

import numpy as np

from fbp.report import Figure, Section, Table, confusion, fixed, images, number
from fbp.report.pictures import NUMBERED
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts
from fbp.studies.runs.intervals import Z95, percent, percent_interval, wilson
from fbp.training import Items

SHOWN = 24
"""Images with the largest losses."""
LISTED = 12
"""Rows of examples that are no images."""
PICTURED = 200
"""Classes that a confusion matrix can show as a picture."""


def read_classes(facts: Facts, Y: np.ndarray, items: Items) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """The labels of the examples, those that were read, and how sure the network is; None where there are no classes.

    Classes are integer labels, rows with a single 1, and for a sigmoid a single 0 or 1.

    Args:
        facts: of the run.
        Y: the targets.
        items: what the network makes of them.
    """
    if items.predicted is not None:
        return (Y, items.predicted, items.confidence) if Y.ndim == 1 else None
    A = items.outputs
    if A is None or Y.ndim != 2 or A.shape != Y.shape or not np.isin(Y, (0, 1)).all():
        return None
    if Y.shape[1] == 1 and facts.has_probabilities:
        return Y[:, 0].astype(int), (A[:, 0] > 0.5).astype(int), np.maximum(A[:, 0], 1 - A[:, 0])
    if Y.shape[1] > 1 and (Y.sum(axis=1) == 1).all():
        return Y.argmax(axis=1), A.argmax(axis=1), A.max(axis=1) if facts.has_probabilities else None
    return None


def add_classes(
    draft: Draft,
    facts: Facts,
    X: Any,
    labels: np.ndarray,
    read: np.ndarray,
    sure: np.ndarray | None,
    losses: np.ndarray,
) -> None:
    """Add what a classifier got right and wrong.

    Args:
        draft: the page.
        facts: of the run.
        X: the test inputs.
        labels: the class of each, (m,).
        read: the one that the network reads.
        sure: how probable it says that is; None where it does not say.
        losses: of each.
    """
    m = len(labels)
    K = int(max(labels.max(), read.max())) + 1
    names = facts.class_names or tuple(map(str, range(K)))
    names = (*names, *map(str, range(len(names), K)))
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, read), 1)
    errors = int(m - np.trace(counts))
    _add_findings(draft, facts, names, counts, float(losses.mean()))
    if sure is not None:
        _add_confidence(draft, sure, labels == read)
    draft.records += [
        {"kind": "class", "name": name, "examples": int(row.sum()), "errors": int(row.sum() - row[i])}
        for i, (name, row) in enumerate(zip(names, counts, strict=True))
    ]
    blocks: list[Any] = []
    if len(names) <= PICTURED and errors:
        blocks.append(Figure("confusion", _describe_confusion(names, counts), partial(confusion, counts, names)))
    blocks.append(_class_table(names, counts))
    if len(names) > NUMBERED and errors:
        blocks.append(_pair_table(names, counts))
    draft.section("Right and wrong", *blocks)
    draft.sections.append(_worst(facts, X, names, labels, read, sure, losses))


def _add_findings(draft: Draft, facts: Facts, names: tuple[str, ...], counts: np.ndarray, loss: float) -> None:
    m, right = int(counts.sum()), int(np.trace(counts))
    accuracy, (low, high) = right / m, wilson(right, m)
    commonest = int(counts.sum(axis=1).max())
    unit = " nats" if facts.has_probabilities else ""
    draft.results["test"] = {"examples": m, "accuracy": accuracy, "low": low, "high": high, "loss": loss}
    finding = (
        f"It reads **{percent(accuracy, m)}** of the {m:,} test examples correctly, 95 % interval "
        f"{percent_interval(right, m)}, with a mean loss of {number(loss, 3, True)}{unit}."
    )
    if low <= commonest / m:
        finding += f" Always naming the commonest class would give {percent(commonest / m, m)}."
    draft.findings.append(finding)
    if right < m:
        draft.findings.append(_describe_errors(names, counts))


def _describe_errors(names: tuple[str, ...], counts: np.ndarray) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    errors, totals = int(wrong.sum()), counts.sum(axis=1)
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    hardest = int((wrong.sum(axis=1) / np.maximum(totals, 1)).argmax())
    often = int(wrong[i, j])
    text = f"Of {errors:,} errors the commonest is {names[i]} read as {names[j]}, {often} times"
    if often == 1:
        text = f"No confusion occurs more than once among {errors:,} errors" if errors > 1 else "There is one error"
    share = f"{int(wrong[hardest].sum())} of {int(totals[hardest]):,}"
    return f"{text}; {names[hardest]} has the largest share of errors, {share}."


def _add_confidence(draft: Draft, sure: np.ndarray, right: np.ndarray) -> None:
    m = len(sure)
    mean, accuracy = float(sure.mean()), float(right.mean())
    draft.results["test"]["confidence"] = mean
    finding = f"The class that it reads has a probability of {percent(mean, m)} on average, and {percent(accuracy, m)}"
    apart = sure.astype(float) - right
    half = Z95 * float(apart.std(ddof=1)) / m**0.5 if m > 1 else float("inf")
    if abs(mean - accuracy) > half:
        points = f"{number(100 * abs(mean - accuracy), 2)} ± {number(100 * half, 2)}".replace(" ", "\N{NO-BREAK SPACE}")
        finding += f" are right: it is too {'sure' if mean > accuracy else 'unsure'} of itself, by {points} points."
    else:
        finding += " are right: no difference beyond chance."
    draft.findings.append(finding)


def _describe_confusion(names: tuple[str, ...], counts: np.ndarray) -> str:
    wrong = int(counts.sum() - np.trace(counts))
    return (
        f"The {int(counts.sum()):,} test examples by label and by what was read. Off the grey diagonal "
        f"{'lies the one error' if wrong == 1 else f'lie the {wrong:,} errors'}; the darker a field, the larger its "
        "share of the label's examples."
    )


def _class_table(names: tuple[str, ...], counts: np.ndarray) -> Table:
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total, wrong = int(row.sum()), int(row.sum() - row[i])
        if not total:
            continue
        others = row.copy()
        others[i] = 0
        place = 2 if total >= 500 else 1
        most = names[int(others.argmax())] if wrong else None
        rows.append(
            (name, total, wrong, fixed(100 * wrong / total, place), percent_interval(wrong, total), most)
        )  # fmt: skip
    caption = "Errors of each class, with 95 % intervals (Wilson) of their share."
    if len(rows) > NUMBERED:
        rows = sorted(rows, key=lambda row: -row[2] / row[1])[:NUMBERED]
        caption = f"The {NUMBERED} classes with the largest shares of errors, with 95 % intervals (Wilson)."
    return Table(caption, ("class", "examples", "errors", "in %", "95 % interval", "most often read as"), tuple(rows))


def _pair_table(names: tuple[str, ...], counts: np.ndarray) -> Table:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = [at for at in np.argsort(-wrong, axis=None, kind="stable")[:LISTED] if wrong.flat[at]]
    pairs = [np.unravel_index(at, wrong.shape) for at in order]
    rows = tuple((names[i], names[j], int(wrong[i, j]), int(counts[i].sum())) for i, j in pairs)
    return Table("The commonest confusions.", ("class", "read as", "times", "of"), rows)


def _worst(
    facts: Facts,
    X: Any,
    names: tuple[str, ...],
    labels: np.ndarray,
    read: np.ndarray,
    sure: np.ndarray | None,
    losses: np.ndarray,
) -> Section:
    """The examples with the largest losses."""
    side = _image_shape(facts, X)
    order = np.argsort(-losses, kind="stable")[: LISTED if side is None else SHOWN]
    wrong = int((labels[order] != read[order]).sum())
    among = "all of them errors" if wrong == len(order) else f"{wrong} of them errors"
    what = f"The {len(order)} of {len(labels):,} test examples with the largest losses, {among}"
    notes = ["" if sure is None else f"{sure[i]:.0%}" for i in order]
    if side is not None:
        pictures = X[order].reshape(-1, *side)
        said = [names[i] for i in labels[order]], [names[i] for i in read[order]]
        behind = notes if sure is not None else ()
        caption = f"{what}, the worst first" + (
            "." if sure is None else "; below, the probability of the class that was read."
        )
        return Section("The worst examples", (Figure("worst", caption, partial(images, pictures, *said, behind)),))
    columns = ("row", "label", "read as", "probability of it", "loss")
    rows = tuple(
        (int(i), names[labels[i]], names[read[i]], None if sure is None else float(sure[i]), float(losses[i]))
        for i in order
    )
    if sure is None:
        columns, rows = columns[:3] + columns[4:], tuple(row[:3] + row[4:] for row in rows)
    return Section("The worst examples", (Table(f"{what}; rows count from 0.", columns, rows),))


def _image_shape(facts: Facts, X: Any) -> tuple[int, ...] | None:
    """(height, width) or (height, width, 3) where the examples are images; otherwise None."""
    shape = tuple(facts.data.get("shape") or ())
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not is_image or not isinstance(X, np.ndarray) or math.prod(shape) != X[0].size:
        return None
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape
