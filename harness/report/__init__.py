"""Numbers in, pages out: tables, figures, one HTML page."""

from harness.report.tables import table
from harness.report.write import report

__all__ = ["report", "table"]
