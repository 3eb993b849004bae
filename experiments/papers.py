"""Published numbers on gradient flow.

Which published numbers on gradient flow do sampled networks reproduce, and which sayings do not hold as stated?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script  # noqa: F401

# isort: split
import os

# LAPACK's threads and those of JAX get in one another's way: a QR factorization takes ten times as long with both.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from papers_rows import GROUPS, HOLDS, INSIDE, Row, agreement, edge_of_chaos, gradients

from fbp.report import Figure, Table, Text, interval, number
from fbp.studies import Draft, study

COLUMNS = ("claim", "stated", "theory", "measured", "95 % interval", "verdict")


@study
def papers(draft: Draft) -> None:
    """Every row of the table of published numbers, measured on random networks."""
    groups: dict[str, tuple[Row, ...]] = {}
    for title, rows in GROUPS.items():
        draft.progress(title)
        groups[title] = tuple(rows(draft.quick))
    rows = [row for group in groups.values() for row in group]
    draft.setting = {
        "rows": len(rows),
        "interval": "95 %, Student's t by the jackknife over networks",
        "within tolerance": "off by at most the tolerance of the row, which is smaller than the effect it is about",
        "within the interval only": "inside the interval, which is too wide or too far off to say more",
        "does not hold": "outside the interval and off by more than five tolerances",
        "cotangent": "standard normal, several a network, where a row names no other",
        "start": "at $q^*$, where a row names no other",
    }
    failing = [row for row in rows if not row.holds]
    exact = [row for row in rows if row.verdict == HOLDS]
    inside = [row for row in rows if row.verdict.startswith(INSIDE)]
    known = [row for row in rows if row.theory is not None]
    draft.findings = [
        f"Of {len(rows)} statements **{len(exact)} hold within their tolerance** and **{len(inside)} within the "
        f"interval only**; {len(rows) - len(exact) - len(inside) - len(failing)} are off by a few tolerances, and "
        f"{len(failing)} do not hold as stated.",
        f"Theory lies inside the 95 % interval in {len(known) - len(outside(known))} of {len(known)} rows; "
        f"{sum(row.stated is None for row in rows)} rows are derivations, in which theory is what is judged.",
        *map(describe, by_id(failing).values()),
    ]
    add_overview(draft, groups)
    for title, group in groups.items():
        draft.section(title, table(title, group), *remarks(group))
    draft.records += [row.record() for row in rows]
    draft.results = {"rows": [row.record() for row in rows], "not_holding": [row.id for row in failing]}


def add_overview(draft: Draft, groups: dict[str, tuple[Row, ...]]) -> None:
    """How to read the tables, and all of them at a glance, in two figures that fit on printed pages."""
    rows = [row for group in groups.values() for row in group]
    lengths = [len(group) for group in groups.values()]
    half = min((sum(lengths[:i]) for i in range(1, len(lengths))), key=lambda n: abs(n - len(rows) / 2))
    draft.section(
        "At a glance",
        Text(
            "$‖dZ‖^2$ is the squared norm of the gradient with respect to a pre-activation. A factor a layer is the "
            "mean over networks and layers of the ratio of $‖dZ‖^2$ before a layer to that behind it, which is what "
            "mean-field theory predicts; a mean of logarithms is lower, and said to be one. **Stated** is the "
            "published figure, what a published formula gives for the setting, or a common saying, on which the "
            "verdict is, and empty in a derivation; **theory** is what `fbp.theory` computes for the very setting, at "
            "finite depth, and at finite width where that is known. Some rows go beyond it by recursions beside them: "
            "kappa and relu's finite-moment, attention with equal weights, and rnn-radius by the sampled radii."
        ),
        Figure(
            "agreement",
            "Measured against theory: dots are measurements with their 95 % intervals, as deviations from theory "
            "in per cent, rings what is stated; arrows point to what is off the axis. Theory lies outside "
            f"{len(outside(rows))} intervals of this figure and the next, {_farthest(outside(rows)):.1%} off at most; "
            "one in twenty would by chance, and widths are finite.",
            lambda: agreement(rows[:half]),
        ),
        Figure("agreement-2", "The other rows, in the same way.", lambda: agreement(rows[half:])),
        Figure(
            "gradients",
            "tanh with $σ_b^2 = 0.05$: gradients vanish in the ordered phase and explode in the chaotic one, at the "
            "rate of theory (thin lines) in every layer. Medians over networks, bands from 10 % to 90 %.",
            lambda: gradients(draft.quick),
        ),
        Figure(
            "edge",
            "The edge of chaos: variances at which measured gradients keep their size (dots, 95 % intervals), on "
            "the line that theory draws between order, where they vanish, and chaos, where they explode.",
            lambda: edge_of_chaos(rows),
        ),
    )


def by_id(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each claim."""
    return {id: [row for row in rows if row.id == id] for id in dict.fromkeys(row.id for row in rows)}


def describe(rows: list[Row]) -> str:
    """What is the case where the statements of one claim are not."""
    numbers = "; ".join(f"stated {number(row.claim)}, measured {number(row.measured.value)}" for row in rows)
    return f"**{rows[0].id}**: {rows[0].finding or 'outside the interval.'} ({numbers[0].upper()}{numbers[1:]}.)"


def outside(rows: list[Row]) -> list[Row]:
    """The rows in which theory lies outside the interval."""
    return [row for row in rows if row.theory is not None and not row.measured.low <= row.theory <= row.measured.high]


def _farthest(rows: list[Row]) -> float:
    """How far theory is off at most, relative to it; absolute where it is 0."""
    known = [(row.measured.value, row.theory) for row in rows if row.theory is not None]
    return max((abs(value - theory) / (abs(theory) or 1.0) for value, theory in known), default=0.0)


def table(title: str, rows: tuple[Row, ...]) -> Table:
    """The rows of one section."""
    cells = tuple(
        (
            f"**{row.id}** ({row.source}): {row.quantity}; {row.setting}; {row.measured.networks} networks",
            row.stated,
            row.theory,
            row.measured.value,
            interval(row.measured.low, row.measured.high),
            row.verdict,
        )
        for row in rows
    )
    return Table(f"{title}: what is stated, what theory says, and what networks show.", COLUMNS, cells)


def remarks(rows: tuple[Row, ...]) -> tuple[Text, ...]:
    """A sentence for each claim that does not hold in full, where there is more to say than its number."""
    said = [f"**{row.id}**: {row.finding}" for row in rows if row.verdict != HOLDS and row.finding]
    return (Text("\n\n".join(dict.fromkeys(said))),) if said else ()


if __name__ == "__main__":
    papers.main()
