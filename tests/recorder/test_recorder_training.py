"""The recorder attached to real training on gloo ranks: valid records, exact bytes, time that tiles."""

import json
from pathlib import Path

import jsonschema
import pytest
import tiny_training as tiny
from ranks import run_ranks
from recorded_training import EVERY, STEPS, WARMUP, recorded, records

import harness
from harness.recorder.recorder import Diverged, role


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (wall, gradient_bytes), _ = run_ranks(2, recorded, request.param, str(folder))
    return request.param, folder, wall, gradient_bytes


def test_records_follow_the_published_schema(run):
    schema = json.loads((Path(harness.__file__).parent / "records.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for record in records(run[1]):
        validator.validate(record)


def test_every_step_is_there_once_with_its_role(run):
    steps = records(run[1], "step")
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    assert [record["role"] for record in steps] == [role(step, WARMUP, EVERY) for step in range(1, STEPS + 1)]
    assert [record["step"] for record in steps if record["role"] == "sampled"] == [9, 19]
    (end,) = records(run[1], "end")
    assert end["tokens"] == STEPS * tiny.SEQUENCES * tiny.SEQ


def test_steps_and_pauses_tile_the_loop(run):
    _, folder, wall, _ = run
    told = sum(record["duration_s"] for record in records(folder, "step") + records(folder, "phase"))
    assert told <= wall
    assert told == pytest.approx(wall, abs=0.25)


def test_the_slowest_rank_is_never_faster_than_rank_0(run):
    slowest = [value for record in records(run[1], "ranks") for value in record["duration_max_s"]]
    fastest = [value for record in records(run[1], "ranks") for value in record["duration_min_s"]]
    own = [record["duration_s"] for record in records(run[1], "step")]
    assert all(lo - 1e-9 <= value <= hi + 1e-9 for lo, value, hi in zip(fastest, own, slowest, strict=True))


def test_collectives_carry_exactly_the_gradients(run):
    kind, folder, _, gradient_bytes = run
    samples = records(folder, "collectives")
    assert [record["step"] for record in samples] == [9, 19]
    for record in samples:
        assert not record["partial"]
        moved: dict[str, int] = {}
        for operation in record["operations"]:
            if operation["bytes"] * operation["count"] > 1000:
                moved[operation["op"]] = moved.get(operation["op"], 0) + operation["bytes"] * operation["count"]
        if kind == "ddp":
            assert moved == {"all_reduce": gradient_bytes}
            assert record["seconds"]["all_reduce"] > 0
            assert record["seconds"]["all_gather"] is None
        else:
            # every parameter is gathered in forward and again in backward, save the norm and output kept between
            kept = (64 + 256 * 64) * 4
            assert moved == {"reduce_scatter": gradient_bytes, "all_gather": 2 * gradient_bytes - kept}
            assert record["seconds"]["reduce_scatter"] > 0


def test_waiting_for_data_is_told_apart(tmp_path):
    run_ranks(1, recorded, "ddp", str(tmp_path), 0.02)
    for record in records(tmp_path, "step"):
        assert 0.02 <= record["data_s"] < record["duration_s"]


def fails(folder: str) -> str:
    try:
        recorded("ddp", folder, lr=float("inf"))
    except Diverged as error:
        return str(error)
    return "went on"


def test_a_loss_that_is_no_number_ends_training_with_its_step(tmp_path):
    assert "at step 2" in run_ranks(1, fails, str(tmp_path))[0]
    assert records(tmp_path, "step")[-1]["loss"] is None
