"""The tables of the docs say what the studies beside them say, and those what their records say."""

import csv
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.plan.collectives import traffic

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"
STUDIES = sorted(path.parent for path in MEASUREMENTS.glob("*/study.json"))


def script() -> ModuleType:
    """What writes the tables; docs/ is no package."""
    spec = importlib.util.spec_from_file_location("tables", MEASUREMENTS / "tables.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


tables = script()


def test_tables_are_made_from_the_studies_points():
    page = (MEASUREMENTS / "README.md").read_text()
    assert set(re.findall(r"<!-- (?:table|repeats|strategies|collectives): (\S+) -->", page)) == {
        study.name for study in STUDIES
    }
    assert tables.filled(page) == page, "run: python docs/measurements/tables.py"


def planned(gpus: str, folder: Path, script: str = "strategies.sh", *more: str) -> set[str]:
    """Names of the points that a script would run."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GPUS": gpus}
    command = ["bash", str(MEASUREMENTS / script), "launcher=dry", "hardware=h200", *more]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^  \[\d+/\d+\] (\S+): (.*)", done.stdout, re.MULTILINE)
    return {slug for slug, expected in told if "invalid" not in expected}


def recorded(study: str) -> list[dict[str, str]]:
    with (MEASUREMENTS / study / "points.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_strategies_can_be_measured_again(tmp_path):
    assert planned("2", tmp_path) == {row["slug"] for row in recorded("h200x2-strategies")}


@pytest.mark.slow
def test_the_strategies_of_four_gpus_can_be_measured_again(tmp_path):
    again = planned("4", tmp_path)
    assert again >= {row["slug"] for row in recorded("h200x4-strategies")}
    assert sum("1b-fsdp_pp-" in slug for slug in again) == 4, "one for each schedule"


def test_the_scaling_study_can_be_measured_on_one_gpu(tmp_path):
    assert len(planned("1", tmp_path, "scaling.sh")) == 9


def test_the_scaling_study_can_be_measured_again_on_two_gpus(tmp_path):
    again = planned("1,2", tmp_path, "scaling.sh")
    assert len(again) == 9 + 36
    kept = {row["slug"] for row in recorded("h200x2-scaling") if row["status"] == "ok"}
    assert kept == {slug for slug in again if "-default-" in slug}


def test_the_scaling_study_can_be_measured_again(tmp_path):
    again = planned("1,2,4", tmp_path, "scaling.sh", "steps=20")
    assert len(again) == 81
    assert again == {row["slug"] for row in recorded("h200x4-scaling") if row["status"] == "ok"}


@pytest.mark.parametrize(
    "row", [*recorded("h200x2-strategies"), *recorded("h200x4-strategies")], ids=lambda row: row["slug"]
)
def test_memory_is_near_the_plan(row):
    planned = tables.planned_memory(row)
    assert float(row["peak_memory_bytes"]) == pytest.approx(planned, rel=0.1)


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
        if not steps:  # collectives alone
            continue
        (end,) = [record for record in records if record["kind"] == "end"]
        pauses = [record for record in records if record["kind"] == "phase" and record["name"] == "profiling"]
        # a matrix product is timed before the first step
        pauses = [record for record in pauses if record["start"] >= steps[0]["start"]]
        told = sum(record["duration_s"] for record in steps + pauses)
        assert told == pytest.approx(end["time"] - steps[0]["start"], rel=0.01)


@pytest.mark.parametrize("point", sorted(MEASUREMENTS.glob("*-strategies/points/*")), ids=lambda path: path.name)
def test_the_bytes_that_nccl_moved_are_those_of_the_plan(point):
    wanted = {(told.group, told.op): (told.bytes, told.count) for told in traffic(tables.configured(point))}
    lines = (point / "attempts" / "0" / "events.jsonl").read_text().splitlines()
    samples = [record for record in map(json.loads, lines) if record["kind"] == "collectives"]
    assert samples
    for sample in samples:
        assert (sample["source"], sample["partial"]) == ("flight_recorder", False)
        moved = {
            (group, op): (entry["bytes"], entry["count"])
            for group, operations in sample["groups"].items()
            for op, entry in operations.items()
            if entry["bytes"]
        }
        assert {key: size for key, (size, _) in moved.items()} == {key: size for key, (size, _) in wanted.items()}
