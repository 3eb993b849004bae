"""Whether a gradient rule obeys what JAX's transformations ask of it: one row per property, each with its evidence."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
from rich.console import Group

from fbp.errors import describe_exception, unknown_name
from fbp.verify.conform.case import Case, Differs, Unavailable
from fbp.verify.conform.rows import ROWS
from fbp.verify.table import Printable, make_table, paint

Verdict = Literal["PASS", "FAIL", "NOTE", "SKIP"]

_REMEDIES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ),
        "decide on values by jnp.where or lax.cond, not in Python or NumPy; what must be known is in nondiff_argnums",
    ),
    ((jax.errors.UnexpectedTracerError,), "return residuals from the forward rule, keep nothing in Python"),
)
"""What to do about errors that say more than the row where they occur."""


@dataclass(frozen=True)
class Row:
    """One property of a gradient rule.

    Attributes:
        name: the property; a key of `fbp.verify.conform.rows.ROWS`.
        verdict: PASS, FAIL, NOTE (a measurement that nothing is asked of) or SKIP.
        detail: what was measured; what failed, and the remedy; why it was skipped.
    """

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Conformance(Printable):
    """The rows of a conformance report. It prints as a table; `to_json` gives the rows.

    Attributes:
        op: the operation's name.
        rows: one entry per property.
        device: where it ran.
    """

    op: str
    rows: tuple[Row, ...]
    device: str

    @property
    def verdict(self) -> Literal["PASS", "FAIL"]:
        """FAIL where one row fails, else PASS."""
        return "FAIL" if any(row.verdict == "FAIL" for row in self.rows) else "PASS"

    @property
    def exit_status(self) -> int:
        """0 for PASS, 1 for FAIL, as a process reports it."""
        return int(self.verdict == "FAIL")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "verdict": self.verdict,
            "op": self.op,
            "device": self.device,
            "rows": [asdict(row) for row in self.rows],
        }

    def __rich__(self) -> Any:
        table = make_table(
            f"conformance of {self.op}",
            ("row", "verdict", "detail"),
            ((row.name, paint(row.verdict, row.verdict), row.detail) for row in self.rows),
            folds={"detail": 20},
        )
        counts = Counter(row.verdict for row in self.rows)
        summary = ", ".join(
            f"{counts[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "NOTE", "SKIP") if counts[verdict]
        )
        return Group(table, paint(f"{self.verdict}: {summary}, on {self.device}", self.verdict))


def conformance(op: Callable[..., Any], *args: Any) -> Conformance:
    """Whether the gradient of an operation survives JAX's transformations, and what it costs in memory.

    With c a fixed random cotangent of the results, each row computes g = J(args)^T c in another way and holds it
    against the eager g: leaf by leaf, ||g - g_eager|| <= 8 (eps + eps_sum sqrt(n)) ||g_eager||, with eps of the
    coarsest dtype inside, eps_sum that of float32 or finer and n the size of the largest array; what one rounding of
    the inputs moves is allowed besides. It does not say whether g is right: `fbp.verify.vjp` does.

    Args:
        op: a `jax.custom_vjp` function, or any function that JAX differentiates.
        *args: where: pytrees of arrays. Floating leaves are differentiated; other arrays are passed beside them;
            Python integers, strings and the like, and what `op.nondiff_argnums` names, are constants.

    Returns:
        One row per property, in the order of `fbp.verify.conform.rows.ROWS`.

    Raises:
        FbpError: there is no floating argument.

    Example:
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, d: (jnp.clip(2 * x * d, -1, 1),))
        >>> [row.name for row in fbp.verify.conformance(square, jnp.arange(4.0)).rows if row.verdict == "FAIL"]
        ['reuse']
    """
    case = Case(op, args)
    rows = tuple(_run(name, case) for name in ROWS)
    return Conformance(getattr(op, "__name__", type(op).__name__), rows, jax.devices()[0].device_kind)


def conformance_row(name: str, op: Callable[..., Any], *args: Any) -> Row:
    """One row of `conformance`, and no other.

    Args:
        name: which; a key of `fbp.verify.conform.rows.ROWS`.
        op: as in `conformance`.
        *args: as in `conformance`.

    Raises:
        FbpError: there is no such row, or no floating argument.
    """
    if name not in ROWS:
        raise unknown_name("row of a conformance report", name, ROWS)
    return _run(name, Case(op, args))


def _run(name: str, case: Case) -> Row:
    measure, remedy = ROWS[name]
    try:
        # Float32 products on a GPU differ by their batching in the default precision, which is no fault of a rule.
        with jax.default_matmul_precision("highest"):
            return Row(name, *measure(case))
    except Unavailable as reason:
        return Row(name, "SKIP", str(reason))
    except Differs as difference:
        return Row(name, "FAIL", str(difference))
    except Exception as error:
        remedy = next((better for kinds, better in _REMEDIES if isinstance(error, kinds)), remedy)
        return Row(name, "FAIL", f"{describe_exception(error)} ({remedy})")
