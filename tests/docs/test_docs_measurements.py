"""The tables of the docs say what the studies beside them say."""

import importlib.util
from pathlib import Path

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"


def test_tables_are_made_from_the_studies_points():
    spec = importlib.util.spec_from_file_location("tables", MEASUREMENTS / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (MEASUREMENTS / "README.md").read_text()
    assert tables.MARK.search(page)
    assert tables.filled(page) == page, "run: python docs/measurements/tables.py"
