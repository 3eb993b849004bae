"""Whether a gradient rule obeys what JAX's transformations ask of it."""

from fbp.verify.conform.report import Conformance as Conformance
from fbp.verify.conform.report import Row as Row
from fbp.verify.conform.report import conformance as conformance
from fbp.verify.conform.report import conformance_row as conformance_row
from fbp.verify.conform.rows import ROWS as ROWS
