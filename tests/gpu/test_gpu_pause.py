"""On a GPU: a pause between two steps is told by the device's clock, and progress by what the device has finished."""

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from ranks import run_ranks
from recorded_training import STEPS, recorded, records

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PAUSES = {3: 0.2, 5: 0.3, 9: 0.2, STEPS: 0.3}


def test_pauses_are_phases_between_steps_and_all_tiles(tmp_path):
    run_ranks(1, partial(recorded, "ddp", str(tmp_path), pauses=PAUSES), backend="nccl")
    phases = [record for record in records(tmp_path, "phase") if record["name"] == "checkpoint_stall"]
    # what the device still had to do when the pause began is a step's
    assert [record["duration_s"] for record in phases] == pytest.approx(list(PAUSES.values()), abs=0.1)
    stamped = sorted(records(tmp_path, "step") + records(tmp_path, "phase"), key=lambda record: record["start"])
    for before, after in pairwise(stamped):
        assert after["start"] == pytest.approx(before["start"] + before["duration_s"], abs=1e-4)
    steps = {record["step"]: record for record in records(tmp_path, "step")}
    assert all(steps[step + 1]["duration_s"] < 0.2 for step in PAUSES if step < STEPS)
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["phase"], told["step"], told["finished"]) == ("shutdown", STEPS, STEPS)
