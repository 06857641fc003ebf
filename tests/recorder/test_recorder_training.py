"""The recorder attached to real training on gloo ranks: valid records, exact bytes, time that tiles."""

import itertools
import json
import math
from pathlib import Path

import jsonschema
import pytest
import tiny_training as tiny
import torch
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
    assert (end["graph_breaks"], end["compiled_graphs"]) == (None, None), "nothing was compiled"


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


def traffic(folder: Path, ranks: int, kind: str, accumulation: int, **how) -> list[dict]:
    """The sampled steps' records of a strategy; whole ones, of ranks that all saw the same."""
    run_ranks(ranks, recorded, kind, str(folder), 0.0, 1e-3, accumulation, how)
    samples = records(folder, "collectives")
    assert [(record["step"], record["ranks"], record["partial"]) for record in samples] == [
        (9, ranks, False),
        (19, ranks, False),
    ]
    return samples


def moved(record: dict, group: str, op: str) -> int:
    told = record["groups"][group][op]
    return told["bytes"] + told["small_bytes"]


MICROBATCH = 2 * tiny.SEQ * 64 * 4
"""Bytes of the stream of two sequences."""


def test_ranks_that_share_layers_and_ranks_that_share_parameters_are_told_apart(tmp_path):
    for record in traffic(tmp_path, 4, "fsdp", 2, degrees={"tp": 2}):
        gradients, norms = 205_376 * 4, 9 * 64 * 4
        assert moved(record, "dp", "reduce_scatter") == (gradients - norms) / 2 + norms
        # for each microbatch two layers of four blocks, forward and backward, the embedding and the output
        assert moved(record, "tp", "all_gather") == 2 * (4 * 4 + 2) * MICROBATCH
        assert moved(record, "tp", "reduce_scatter") == 2 * (4 * 4 + 2) * MICROBATCH
        assert record["seconds"]["reduce_scatter"] > 0


def test_a_pipelines_stages_send_each_microbatch_on(tmp_path):
    for record in traffic(tmp_path, 2, "ddp", 4, degrees={"pp": 2}):
        assert moved(record, "pp", "send_recv") == 4 * MICROBATCH
        sends = [o for o in record["operations"] if o["op"] == "send_recv"]
        assert [(o["bytes"], o["count"], o["duration_s"]) for o in sends] == [(MICROBATCH, 4, None)]


def test_tokens_on_their_way_to_experts_are_one_class_however_uneven(tmp_path):
    for record in traffic(tmp_path, 4, "fsdp", 1, degrees={"ep": 2}, shape="moe"):
        # there and back, forward and backward, in four layers; two of its 4 experts for each of a rank's tokens
        even = 2 * tiny.SEQUENCES // 4 * tiny.SEQ * 64 * 4
        (told,) = [o for o in record["operations"] if o["op"] == "all_to_all" and not o["small"]]
        assert (told["group"], told["group_size"], told["count"]) == ("ep", 2, 16)
        assert told["bytes"] == even, "over all ranks, what comes is what went"


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


def spoils_gradients(trained) -> None:
    """The gradients of the fourth step are infinite on the last rank, and the loss of that step is not."""
    backwards = itertools.count(1)
    parameter = next(trained.model.parameters())
    if torch.distributed.get_rank() == 1:
        parameter.register_hook(lambda gradient: gradient + math.inf if next(backwards) == 4 else gradient)


def diverges(kind: str, folder: str) -> str:
    try:
        recorded(kind, folder, spoil=spoils_gradients)
    except Diverged as error:
        return str(error)
    return "went on"


@pytest.mark.parametrize("kind", ["ddp", "zero1"])
def test_a_gradient_norm_that_is_no_number_ends_all_ranks_with_its_step(tmp_path, kind):
    said = run_ranks(2, diverges, kind, str(tmp_path))
    assert all(line.startswith("the gradient norm is ") and " at step 4; " in line for line in said), said
    last = records(tmp_path, "step")[-1]
    assert last["step"] == 4
    assert last["loss"] is not None and last["grad_norm"] is None
