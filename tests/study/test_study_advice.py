"""What would fit is said of a point that ran out of memory although its plan had thought that it fits."""

import json
from pathlib import Path
from typing import Any

import pytest
from plan_configs import config

from harness.config import Hardware
from harness.plan.memory import estimate
from harness.study.advice import advised
from harness.study.outcome import Outcome
from harness.study.planning import Planned, planned, target
from harness.study.point import Point
from launch.devices import Machine

GIB = 2**30
OUT = Outcome("oom", "rank 1: OutOfMemoryError: CUDA out of memory", 1, "here")


def machine() -> Machine:
    return Machine((), None, 8, 64 * GIB)


def point(**changes: Any) -> Planned:
    """1b where it is planned to fit into 80 GiB."""
    asked = {"hardware": Hardware("h100_sxm", 8), "seq_len": 4096, **changes}
    made = planned(Point(config("1b", "fsdp", "bf16", gpus_per_node=2, **asked)), machine(), 1)
    assert made.plan is not None, made.impossible
    return made


def held(folder: Path, peak: int) -> Path:
    """An attempt in which rank 1 had held so much, and asked for 2 GiB more."""
    (folder / "flight").mkdir()
    error = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79 GiB"
    told = {"rank": 1, "cause": "oom", "peak_memory_bytes": peak, "error": error}
    (folder / "flight" / "rank1.json").write_text(json.dumps(told))
    return folder


def test_changes_that_make_enough_room_are_named(tmp_path: Path) -> None:
    made = point(local_batch=4)
    said = advised(OUT, made, machine(), held(tmp_path, 79 * GIB)).reason
    assert said == f"{OUT.reason}; activation_checkpointing=full or local_batch=1 would fit"


def test_a_change_helps_only_if_it_makes_as_much_room_as_was_missing(tmp_path: Path) -> None:
    """Needing ten times what there is, a point has to become ten times smaller."""
    made = point(local_batch=2)
    _, limit = target(made.point.config, machine())
    assert limit is not None
    said = advised(OUT, made, machine(), held(tmp_path, 10 * limit)).reason
    assert said is not None and said.endswith("checkpointing, a shorter seq_len or a smaller model would help")
    smaller = config("1b", "fsdp", "bf16", gpus_per_node=2, seq_len=4096, activation_checkpointing="full")
    assert estimate(smaller).total > estimate(made.point.config).total / 10


@pytest.mark.parametrize("status", ["ok", "failed", "comm_error"])
def test_other_ends_are_left_alone(tmp_path: Path, status: str) -> None:
    assert advised(Outcome(status, "x"), point(), machine(), tmp_path) == Outcome(status, "x")
