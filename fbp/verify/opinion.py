"""What a judge says about one array: PASS, FAIL or INCONCLUSIVE, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

EXIT_STATUS: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
"""Exit status of a command by its verdict; 2 is a mistake of the user's."""

DIRECTIONAL = ("differences", "adjoint")
"""The judges that look along directions in a leaf."""
JUDGES = ("autodiff", *DIRECTIONAL)
"""Of a leaf; the equations of a network have their own."""
ZERO = "zero up to rounding"
"""What a judge says of a gradient that is nothing but rounding."""


@dataclass(frozen=True)
class Opinion:
    """What one judge says.

    Attributes:
        judge: "structure", "autodiff", "differences", "adjoint" or "equations".
        verdict: PASS, FAIL, or INCONCLUSIVE where this judge cannot speak.
        reason: why; may be empty where it passes.
    """

    judge: str
    verdict: Verdict
    reason: str = ""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL where one of them is, else INCONCLUSIVE where one is, else PASS."""
    found = set(verdicts)
    return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


def together(opinions: Iterable[Opinion]) -> Verdict:
    """The verdict of independent judges: FAIL where one says so, PASS where one can speak and none objects."""
    found = {opinion.verdict for opinion in opinions}
    return "FAIL" if "FAIL" in found else "PASS" if "PASS" in found else "INCONCLUSIVE"
