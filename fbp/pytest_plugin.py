"""Pytest: each row of a conformance report is one test. Loading the plugin imports neither JAX nor NumPy.

@pytest.mark.conformance(op, make_args)
def test_my_op(conformance):
    conformance.check()
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fbp.verify.conform.report import Row

_USAGE = "@pytest.mark.conformance(op, make_args), make_args a tuple or a function that gives one"


@dataclass(frozen=True)
class RowCheck:
    """What the fixture `conformance` gives: one row, not yet computed.

    Attributes:
        name: the row's name.
        op: the operation.
        make_args: its arguments, or a function that gives them.
    """

    name: str
    op: Callable[..., Any]
    make_args: tuple[Any, ...] | Callable[[], tuple[Any, ...]]

    def check(self) -> "Row":
        """Compute the row. The test fails with its detail where it is FAIL, and is skipped where it is SKIP.

        Raises:
            pytest.UsageError: `make_args` gives no tuple.
        """
        from fbp.verify.conform.report import conformance_row

        args = self.make_args() if callable(self.make_args) else self.make_args
        if not isinstance(args, tuple):
            raise pytest.UsageError(f"the arguments of an operation must be a tuple, got {args!r}; write {_USAGE}")
        row = conformance_row(self.name, self.op, *args)
        if row.verdict == "FAIL":
            pytest.fail(f"{row.name}: {row.detail}", pytrace=False)
        if row.verdict == "SKIP":
            pytest.skip(row.detail)
        return row


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    line = "conformance(op, make_args): one test per property that JAX's transformations ask of the gradient of op"
    config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the fixture `conformance` over the rows of the report."""
    takes_fixture = "conformance" in metafunc.fixturenames
    if not takes_fixture and any(marker.name == "conformance" for marker in metafunc.definition.own_markers):
        name = metafunc.definition.name
        raise pytest.UsageError(f"{name} has the mark conformance but checks nothing; write def {name}(conformance)")
    if takes_fixture and metafunc.definition.get_closest_marker("conformance"):
        from fbp.verify.conform.rows import ROWS

        metafunc.parametrize("conformance", list(ROWS), indirect=True)


@pytest.fixture
def conformance(request: pytest.FixtureRequest) -> RowCheck:
    """One row of the conformance report of the operation that the test is marked with."""
    marker = request.node.get_closest_marker("conformance")
    if marker is None:
        raise pytest.UsageError(
            f"{request.node.name} takes conformance and has no operation to check; mark it {_USAGE}"
        )
    if len(marker.args) != 2 or marker.kwargs or not callable(marker.args[0]):
        received = ", ".join([*map(repr, marker.args), *(f"{name}=..." for name in marker.kwargs)])
        raise pytest.UsageError(f"{request.node.name} must be marked {_USAGE}, got conformance({received})")
    return RowCheck(request.param, *marker.args)
