"""Whether a gradient rule obeys what JAX's transformations ask of it."""

from fbp.verify.conform.report import Conformance, Row, conformance, conformance_row
from fbp.verify.conform.rows import ROWS

__all__ = ["ROWS", "Conformance", "Row", "conformance", "conformance_row"]
