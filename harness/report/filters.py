"""What the page's table of points is filtered by: any text, and what points differ in."""

from collections.abc import Sequence
from html import escape

from harness.analysis.summary import Row

FILTERED = {"status": "status", "parallel": "strategy", "nccl": "NCCL"}


def filters(rows: Sequence[Row]) -> str:
    """A field for text, a list for each thing that the points differ in, and how many points are shown."""
    lists = []
    for key, title in FILTERED.items():
        values = sorted({str(row[key]) for row in rows if row[key] is not None})
        if len(values) > 1:
            options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
            lists.append(
                f'<label>{title} <select data-key="{key}"><option value="">all</option>{options}</select></label>'
            )
    text = '<label>text <input type="search" autocomplete="off" spellcheck="false"></label>'
    return (
        f'<div class="filters" role="search" aria-label="Points">{text}{"".join(lists)}'
        '<output aria-live="polite"></output></div>'
    )
