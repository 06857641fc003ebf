"""The large studies of the bench in small: what they hold is what the harness writes, and reports read it."""

import json
from pathlib import Path

import pytest
from run_dirs import validator

from harness.bench.made import make_large, make_sweep
from harness.bench.report import measured
from harness.report import report


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("made"), points=6, steps=150)


def test_what_is_made_has_the_form_of_what_is_measured(sweep: Path) -> None:
    kinds = set()
    for path in sweep.rglob("*.json*"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            validator().validate(record)
            kinds.add(record["kind"])
    assert {"start", "step", "ranks", "collectives", "exposure", "sample", "telemetry", "end"} <= kinds


def test_a_report_reads_all_of_it(sweep: Path) -> None:
    document = report(sweep)
    assert document["warnings"] == []
    assert [row["gpus"] for row in document["points"]] == [1, 2, 4, 8, 16, 1]
    assert {row["status"] for row in document["points"]} == {"ok"}
    assert [row["warnings"] for row in document["points"]] == [None] * 6
    largest = document["points"][4]
    for column in ("tokens_per_s", "efficiency", "exposed_comm_s", "last_share", "power_w_gpu", "goodput_fraction"):
        assert largest[column] is not None, column


def test_a_large_point_has_a_file_a_node(tmp_path: Path) -> None:
    study = make_large(tmp_path, nodes=300, steps=12)
    assert len(list(study.glob("points/*/attempts/0/nodes/*/*.jsonl"))) == 300
    [row] = report(study)["points"]
    assert (row["gpus"], row["hosts"]) == (2400, 300)


def test_seconds_and_memory_are_those_of_the_report(sweep: Path) -> None:
    seconds, gigabytes = measured(sweep)
    assert 0.1 < seconds < 60
    assert 0.03 < gigabytes < 2
