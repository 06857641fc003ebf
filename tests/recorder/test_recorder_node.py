"""A whole run of two ranks: what its node tells of itself, and what it attains of a matrix product's rate."""

import json
from pathlib import Path

import pytest
from run_dirs import validator
from study_command import QUICK, TESTS, Command

from launch.environment import SOURCE


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Command, Path]:
    command = Command(tmp_path_factory.mktemp("run"), {"PYTHONPATH": f"{SOURCE}:{TESTS}", "CUDA_VISIBLE_DEVICES": ""})
    done = command("run", "study=seen", "gpus_per_node=2", "record.telemetry_s=0.2", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    (point,) = command.points("seen").values()
    return command, point


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_rank_of_the_node_tells_of_it_from_start_to_end(ran):
    _, point = ran
    (file,) = (point / "attempts/0/nodes/000").iterdir()
    told = [record for record in lines(file) if record["kind"] == "telemetry"]
    for record in told:
        validator().validate(record)
    assert {record["host"] for record in told} == {file.stem}
    assert all(record["gpus"] == [] and record["warning"] is None for record in told)
    events = lines(point / "attempts/0/events.jsonl")
    steps = [record for record in events if record["kind"] == "step"]
    assert told[0]["time"] < steps[0]["start"]
    assert told[-1]["time"] > steps[-1]["start"] + steps[-1]["duration_s"]


def test_the_product_is_measured_before_the_model_is_built(ran):
    _, point = ran
    events = lines(point / "attempts/0/events.jsonl")
    phases = [record for record in events if record["kind"] == "phase"]
    assert [record["name"] for record in phases][:3] == ["rendezvous", "profiling", "model_build"]
    (start,) = [record for record in events if record["kind"] == "start"]
    validator().validate(start)
    assert start["matmul"]["type"] == "fp32"
    assert 0 < start["matmul"]["duration_s"] <= phases[1]["duration_s"] < 2


def test_the_report_has_what_was_attained_and_no_power_of_a_cpu(ran):
    command, _ = ran
    told = command("report", "seen", "--json")
    assert told.returncode == 0, told.stderr
    (row,) = json.loads(told.stdout)["points"]
    assert 0 < row["attained"] < 1
    assert row["mfu"] is None
    assert [row[name] for name in ("power_w_gpu", "energy_per_token_j", "clock_sm_mhz_p50", "throttled")] == [None] * 4
