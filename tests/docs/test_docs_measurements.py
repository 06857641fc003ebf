"""The tables of the docs say what the studies beside them say, and those what their records say."""

import csv
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest

from harness.analysis.points import points
from harness.analysis.read import read_study

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"
STUDIES = sorted(path.parent for path in MEASUREMENTS.glob("*/study.json"))


def test_tables_are_made_from_the_studies_points():
    spec = importlib.util.spec_from_file_location("tables", MEASUREMENTS / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (MEASUREMENTS / "README.md").read_text()
    assert set(re.findall(r"<!-- (?:table|strategies): (\S+) -->", page)) == {study.name for study in STUDIES}
    assert tables.filled(page) == page, "run: python docs/measurements/tables.py"


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_points_are_made_from_the_records(study):
    made = list(csv.DictReader(io.StringIO(points(read_study(study)).write_csv())))
    kept = list(csv.DictReader((study / "points.csv").open()))
    assert [row["slug"] for row in made] == [row["slug"] for row in kept]
    for again, row in zip(made, kept, strict=True):
        for name, value in row.items():
            try:
                assert float(again[name]) == pytest.approx(float(value), rel=1e-9), name
            except ValueError:
                assert again[name] == value, name


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_device_times_tile_the_synchronised_window(study):
    for path in study.glob("points/*/attempts/0/events.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [record for record in records if record["kind"] == "step"]
        (end,) = [record for record in records if record["kind"] == "end"]
        pauses = [record for record in records if record["kind"] == "phase" and record["name"] == "profiling"]
        told = sum(record["duration_s"] for record in steps + pauses)
        assert told == pytest.approx(end["time"] - steps[0]["start"], rel=0.01)
